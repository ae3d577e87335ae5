//! `watch`: every change of some keys, printed or handed to a command.
//!
//! - Nothing is left out and nothing told twice; what can't be told ends the watch with a sentence.
//! - Where another watch goes on is known at each moment: behind the last event whose lines have been written, or whose command has
//!   ended well. Whoever ends the watch is told so.
//! - Lines are written together while there are more at hand, and at once when there are none.

mod each;
mod lines;

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use kvbroker::client::{Changes, Client, ClientError, Watch, WatchEvent, WatchFrom, WatchOptions};
use kvbroker::exit::Exit;
use kvbroker_protocol::Predicate;
use serde_json::json;

use crate::args::Global;
use crate::interrupt::{self, Held, InHand};
use crate::output::{Output, is_unread, printable};
use crate::values::bytes;
use crate::watch_args::{Place, WatchArgs};
use crate::{Trouble, remark};
use each::Each;
pub(crate) use each::find as find_program;
use lines::Told;

/// How often it is looked whether stdout still has a reader, while there is nothing to write.
const LOOK: Duration = Duration::from_millis(500);

/// Where another watch goes on, for whoever ends the program meanwhile.
static PLACE: Mutex<Option<Place>> = Mutex::new(None);

/// A watch whose arguments were read and checked.
#[derive(Debug)]
pub(crate) struct Wanted {
    options: WatchOptions,
    /// Where it goes on from.
    place: Option<Place>,
    limit: u64,
    once: bool,
    each: Option<Each>,
}

impl Wanted {
    /// # Errors
    /// The arguments make no sense together, or there is no such program.
    pub(crate) fn new(args: WatchArgs, target: &str) -> Result<Wanted, Trouble> {
        let WatchArgs { prefix, exact, from, snapshot, with_old, filter, limit, once, on_failure, command } = args;
        if exact && prefix.is_empty() {
            return Err(Trouble::misuse("--exact needs a key: kvclient PROJECT watch KEY --exact"));
        }
        let each = Each::new(command, on_failure, target)?;
        let place = from;
        let from = match from {
            Some(Place { revision, epoch }) => WatchFrom::After { revision, epoch },
            None if snapshot => WatchFrom::Snapshot,
            None => WatchFrom::Now,
        };
        let prefix = bytes(&prefix);
        let options = if exact { WatchOptions::key(prefix) } else { WatchOptions::prefix(prefix) };
        let options = filtered(options.from(from).resync(snapshot).detail(with_old), filter);
        Ok(Wanted { options, place, limit: limit.unwrap_or(u64::MAX), once, each })
    }
}

pub(crate) fn filtered(options: WatchOptions, filter: Option<Predicate>) -> WatchOptions {
    match filter {
        Some(filter) => options.filter(filter),
        None => options,
    }
}

pub(crate) fn run(global: &Global, client: &Client, wanted: Wanted, out: &mut Output) -> Result<Exit, Trouble> {
    let Wanted { options, place, limit, once, each } = wanted;
    *PLACE.lock().unwrap_or_else(PoisonError::into_inner) = place;
    let watch = client.watch_with(options)?;
    let is_quiet = global.quiet;
    interrupt::on_end(move || (!is_quiet).then(|| format!("interrupted; {}", where_to_go_on())));
    let mut teller = Teller { global, watch, out, each, left: limit, in_snapshot: false, held: None };
    let ended = teller.tell(once, client);
    if !matches!(ended, Err(Trouble::Command(_))) {
        // What was told before an error was told.
        teller.settle()?;
    }
    if let Err(Trouble::Client(error)) = &ended
        && !matches!(error, ClientError::Broken(_))
        && let Some(place) = where_it_is()
    {
        // Behind what is broken there is no going on.
        remark(global, &place);
    }
    ended?;
    teller.end()?;
    let has_failed = teller.each.as_ref().is_some_and(Each::has_failed);
    Ok(if has_failed { Exit::NotFound } else { Exit::Ok })
}

fn where_to_go_on() -> String {
    where_it_is().unwrap_or_else(|| "nothing was told that could be gone on from".to_owned())
}

fn where_it_is() -> Option<String> {
    let place = *PLACE.lock().unwrap_or_else(PoisonError::into_inner);
    place.map(|place| format!("everything up to revision {} was told; what comes behind it: --from {place}", place.revision))
}

/// Passes on what a watch tells.
struct Teller<'a> {
    global: &'a Global,
    watch: Watch,
    out: &'a mut Output,
    each: Option<Each>,
    /// Changes, before it is enough.
    left: u64,
    /// What is there is being told: there is no place in the midst of that.
    in_snapshot: bool,
    /// Lines are being written.
    held: Option<Held>,
}

impl Teller<'_> {
    /// Until it is enough, or for ever.
    fn tell(&mut self, once: bool, client: &Client) -> Result<(), Trouble> {
        loop {
            // What is at hand goes together; before it is waited, everything is written.
            let event = match self.watch.next(Some(Instant::now()))? {
                Some(event) => event,
                None => {
                    self.settle()?;
                    let patience = self.global.timeout().filter(|_| once);
                    match self.wait(patience.and_then(|patience| Instant::now().checked_add(patience)))? {
                        Some(event) => event,
                        None if once => return Err(silent(client, patience.unwrap_or_default()).into()),
                        None => continue,
                    }
                }
            };
            let is_caught_up = matches!(event, WatchEvent::CaughtUp { .. });
            self.event(event)?;
            if self.left == 0 || (once && is_caught_up) {
                return Ok(());
            }
            if self.each.is_some() || interrupt::is_raised() {
                self.settle()?;
            }
        }
    }

    /// The next event, if one comes until then. Where nobody reads stdout any more nothing is waited for: what is written shows that, but
    /// there may be nothing to write for days.
    fn wait(&mut self, until: Option<Instant>) -> Result<Option<WatchEvent>, Trouble> {
        loop {
            let look = Instant::now() + LOOK;
            if let Some(event) = self.watch.next(Some(until.map_or(look, |until| until.min(look))))? {
                return Ok(Some(event));
            }
            if until.is_some_and(|until| until <= Instant::now()) {
                return Ok(None);
            }
            if self.each.is_none() && is_unread() {
                return Err(io::Error::from(io::ErrorKind::BrokenPipe).into());
            }
        }
    }

    fn event(&mut self, event: WatchEvent) -> Result<(), Trouble> {
        match event {
            WatchEvent::SnapshotBegin { revision, why } => {
                self.in_snapshot = true;
                self.tell_one(&Told::Begin { revision, why })
            }
            WatchEvent::SnapshotRow(row) => self.tell_one(&Told::Row(&row)),
            WatchEvent::SnapshotEnd { revision } => {
                self.tell_one(&Told::End { revision })?;
                self.in_snapshot = false;
                Ok(())
            }
            WatchEvent::Changes(changes) => self.changes(&changes),
            WatchEvent::CaughtUp { revision } => {
                let epoch = self.watch.epoch().map(|epoch| format!("{epoch:016x}"));
                let said = json!({"event": "caught_up", "rev": revision, "epoch": epoch});
                self.aside(said, &format!("everything up to revision {revision} was told; now what changes"))
            }
            WatchEvent::Disconnected { why } => {
                let sentence = format!("{}; what changes meanwhile is told later", printable(&why));
                self.aside(json!({"event": "disconnected", "why": why}), &sentence)
            }
        }
    }

    fn changes(&mut self, changes: &Changes) -> Result<(), Trouble> {
        let revision = &changes.to_events();
        for (index, change) in revision.changes.iter().enumerate() {
            self.tell_one(&Told::Change { revision, change, index })?;
            // Nevertheless the revision is told to its end.
            self.left = self.left.saturating_sub(1);
        }
        Ok(())
    }

    fn tell_one(&mut self, told: &Told<'_>) -> Result<(), Trouble> {
        if let Some(each) = &mut self.each {
            // Until the event is known to be dealt with.
            let held = self.held.get_or_insert_with(|| interrupt::hold(InHand::File));
            let ended = each.run(told, self.watch.epoch(), self.global, held);
            return ended.map_err(|stopped| Trouble::Command(format!("{stopped}; {}", where_to_go_on())));
        }
        // People are told of snapshots on stderr.
        if let (Told::Begin { .. } | Told::End { .. }, false) = (told, self.out.is_json()) {
            return self.aside(serde_json::Value::Null, &snapshot_sentence(told));
        }
        self.held.get_or_insert_with(|| interrupt::hold(InHand::Lines));
        Ok(self.out.item(told)?)
    }

    /// What is about the watch and not about the table: among the lines for programs, beside them for people.
    fn aside(&mut self, said: serde_json::Value, sentence: &str) -> Result<(), Trouble> {
        if self.out.is_json() && self.each.is_none() {
            self.held.get_or_insert_with(|| interrupt::hold(InHand::Lines));
            return Ok(self.out.line(&said.to_string())?);
        }
        self.settle()?;
        remark(self.global, sentence);
        Ok(())
    }

    /// Everything that was told is written, and known to be.
    fn settle(&mut self) -> io::Result<()> {
        self.out.flush()?;
        self.note_place();
        self.held = None;
        Ok(())
    }

    fn note_place(&self) {
        let place = self.watch.revision().map(|revision| Place { revision, epoch: self.watch.epoch() });
        // Before it has begun, the place that was given stays.
        if place.is_some() || self.in_snapshot {
            *PLACE.lock().unwrap_or_else(PoisonError::into_inner) = place.filter(|_| !self.in_snapshot);
        }
    }

    fn end(&mut self) -> Result<(), Trouble> {
        if self.out.is_json() && self.each.is_none() {
            let epoch = self.watch.epoch().map(|epoch| format!("{epoch:016x}"));
            self.out.line(&json!({"event": "end", "rev": self.watch.revision(), "epoch": epoch}).to_string())?;
            return Ok(self.out.flush()?);
        }
        remark(self.global, &where_to_go_on());
        Ok(())
    }
}

fn snapshot_sentence(told: &Told<'_>) -> String {
    let revision = told.revision();
    match told {
        Told::Begin { why, .. } => {
            let why = match why {
                kvbroker::client::WhySnapshot::Asked => "",
                kvbroker::client::WhySnapshot::Compacted => ", because the changes before are not all known any more",
                kvbroker::client::WhySnapshot::OtherHistory => ", because the table has another history now",
                kvbroker::client::WhySnapshot::RolledBack => ", because the last changes were undone",
            };
            format!("what is there at revision {revision} follows{why}; it replaces everything told before")
        }
        _ => format!("that was all that is there at revision {revision}"),
    }
}

/// Nothing was heard of the broker for so long.
pub(crate) fn silent(client: &Client, patience: Duration) -> ClientError {
    let waited = format!("{} s", patience.as_secs_f64());
    ClientError::TimedOut { project: client.project().to_owned(), waited, trouble: None }
}

//! A program of the tests: watches prefixes and writes down what it is told, until it has heard the end of each (see `WatcherTask`).
//!
//! - Lines on stdout say which watches have begun and ended. What was told is whole when the program ends with 0.
//! - Whatever a watch can't go on after ends it with 1 and a word.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::process::ExitCode;
use std::sync::Mutex;

use kvbroker::catalog::CatalogList;
use kvbroker::client::{Client, ConnectOptions, WatchEvent, WatchFrom, WatchOptions, WatchStats};
use kvbroker_tests::watching::{Ending, From, Heard, WatcherTask, Writers};

type Failed = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    let result = match std::env::args().nth(1) {
        Some(file) => task(&file).and_then(|task| run(&task)),
        None => Err("usage: watcher FILE".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("watcher: {error}");
            ExitCode::FAILURE
        }
    }
}

fn task(file: &str) -> Result<WatcherTask, Failed> {
    Ok(serde_json::from_slice(&std::fs::read(file)?)?)
}

fn run(task: &WatcherTask) -> Result<(), Failed> {
    let options = ConnectOptions::new().wait_for_broker(true).catalogs(CatalogList::from_env(Some("none"))?);
    let client = Client::connect_with(&task.target, options)?;
    let book = Book { task, out: Mutex::new(BufWriter::new(File::create(&task.heard)?)) };
    if task.is_hub {
        one_socket(&client, &book)?
    } else {
        a_socket_each(&client, &book)?
    }
    book.out.into_inner()?.flush()?;
    Ok(())
}

/// What is written down.
struct Book<'a> {
    task: &'a WatcherTask,
    out: Mutex<BufWriter<File>>,
}

impl Book<'_> {
    fn options(&self, watch: usize) -> WatchOptions {
        let (prefix, from) = &self.task.watches[watch];
        let from = match from {
            From::Now => WatchFrom::Now,
            From::After(revision) => WatchFrom::after(*revision),
            From::Snapshot => WatchFrom::Snapshot,
        };
        WatchOptions::prefix(prefix).from(from).resync(self.task.resync)
    }

    /// Takes an event; true if it was the watch's last one.
    fn note(&self, watch: usize, has_begun: &mut bool, event: &WatchEvent, stats: WatchStats) -> Result<bool, Failed> {
        let heard = Heard::new(event);
        let mut out = self.out.lock().map_err(|_| "another watch panicked")?;
        serde_json::to_writer(&mut *out, &(watch, &heard))?;
        out.write_all(b"\n")?;
        drop(out);
        if matches!(heard, Heard::CaughtUp(_)) && !std::mem::replace(has_begun, true) {
            say(&Ending::Begun(watch, stats.into()))?;
        }
        Ok(heard.names(&Writers::end_key(&self.task.watches[watch].0)))
    }
}

/// In one go: other threads write lines, too.
fn say(line: &Ending) -> Result<(), Failed> {
    let mut line = serde_json::to_string(line)?;
    line.push('\n');
    std::io::stdout().lock().write_all(line.as_bytes())?;
    Ok(())
}

fn a_socket_each(client: &Client, book: &Book<'_>) -> Result<(), Failed> {
    let work = &|number: usize| -> Result<(), Failed> {
        let mut watch = client.watch_with(book.options(number))?;
        let mut has_begun = false;
        // A snapshot goes on to its end: half a one says nothing.
        let (mut is_over, mut is_in_snapshot) = (false, false);
        while !is_over || is_in_snapshot {
            let Some(event) = watch.next(None)? else { continue };
            is_in_snapshot = match event {
                WatchEvent::SnapshotBegin { .. } | WatchEvent::SnapshotRow(_) => true,
                WatchEvent::SnapshotEnd { .. } => false,
                _ => is_in_snapshot,
            };
            is_over |= book.note(number, &mut has_begun, &event, watch.stats())?;
        }
        say(&Ending::Ended(number, watch.stats().into()))
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..book.task.watches.len()).map(|number| scope.spawn(move || work(number))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| Err("a watch panicked".into())))
    })
}

fn one_socket(client: &Client, book: &Book<'_>) -> Result<(), Failed> {
    struct One {
        has_begun: bool,
        is_over: bool,
        is_in_snapshot: bool,
    }
    let mut hub = client.hub()?;
    let mut ids = std::collections::BTreeMap::new();
    for number in 0..book.task.watches.len() {
        let id = hub.watch_with(book.options(number));
        ids.insert(id, (number, One { has_begun: false, is_over: false, is_in_snapshot: false }));
    }
    while !ids.is_empty() {
        let Some((id, event)) = hub.next(None) else { continue };
        let Some((number, one)) = ids.get_mut(&id) else { continue };
        let event = event?;
        let stats = hub.stats(id).unwrap_or_default();
        one.is_in_snapshot = match event {
            WatchEvent::SnapshotBegin { .. } | WatchEvent::SnapshotRow(_) => true,
            WatchEvent::SnapshotEnd { .. } => false,
            _ => one.is_in_snapshot,
        };
        one.is_over |= book.note(*number, &mut one.has_begun, &event, stats)?;
        if one.is_over && !one.is_in_snapshot {
            say(&Ending::Ended(*number, stats.into()))?;
            hub.unwatch(id);
            ids.remove(&id);
        }
    }
    Ok(())
}

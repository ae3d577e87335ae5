//! `events` from the log: the passes of the log's reader over what calls that are far behind ask for.
//!
//! - All calls that wait are served together, the one that begins first in the log first. Whoever begins on the way joins in.
//! - Between two pieces of the log it looks whether the broker stops.
//! - Where the last pages ended is remembered: a follower's next page begins there, and each part of the log is read about once for it.
//! - Damage fails those pages alone that have come to it and have nothing to tell; one that has is answered, and ends before it.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use kvbroker_log::{LogError, LogReader, Persisted, ReadEnd};
use kvbroker_protocol::{Answer, ErrorCode, Failure};

use crate::answer::not_admitted;
use crate::asker::{Asks, Proved};
use crate::events::{compacted, stopping};
use crate::historian::{Historian, unreadable};
use crate::histories::EventsCall;
use crate::log_events::{Follow, LogGroup};

/// How much is read between two looks at the rest of the world, bytes.
const PIECE_BYTES: u64 = 1 << 20;

/// Pages that are being filled.
struct Pass {
    /// Those that begin further on, the first of them last.
    waiting: Vec<Follow>,
    /// Those that the reading has come to.
    active: Vec<Follow>,
    /// Covers what all of them ask for.
    proof: Persisted,
}

impl Pass {
    /// Takes in a group; gives the pages that are ready with it.
    fn take(&mut self, group: &LogGroup<'_>) -> Vec<Follow> {
        while let Some(next) = self.waiting.pop_if(|next| next.after() < group.revision()) {
            self.active.push(next);
        }
        self.active.extract_if(.., |follow| follow.take(group)).collect()
    }
}

impl Historian {
    /// Answers these calls.
    pub(crate) fn serve(&self, calls: Vec<Proved<EventsCall>>) {
        let Some(proof) = calls.iter().map(|call| call.proof).max_by_key(Persisted::revision) else { return };
        let mut pass = Pass { waiting: Vec::new(), active: Vec::new(), proof };
        pass.waiting.extend(calls.into_iter().filter_map(|call| self.begin(call)));
        pass.waiting.sort_by_key(|follow| std::cmp::Reverse(follow.after()));
        while let Some(next) = pass.waiting.last() {
            if self.calls.is_closed() {
                return pass.waiting.drain(..).for_each(|follow| self.fail(follow.call, stopping()));
            }
            let from = next.after();
            let result = match self.enter(from) {
                Ok(Some(mut reader)) => self.read(&mut reader, &mut pass),
                Ok(None) => Ok(ReadEnd::Gone),
                Err(error) => Err(error),
            };
            // The first one has come on, or never will.
            if pass.active.is_empty()
                && let Some(first) = pass.waiting.pop_if(|next| next.after() == from)
            {
                pass.active.push(first);
            }
            self.settle(&mut pass, result);
        }
    }

    /// Begins a call's page, if its user may ask at all and anybody waits for it.
    fn begin(&self, call: Proved<EventsCall>) -> Option<Follow> {
        let access = self.speaker.begin().of(call.call.asker().user());
        let begun = match access.filter(|_| !call.call.asker().is_gone()) {
            Some(access) => Follow::begin(call, access),
            None => Err((Box::new(call), not_admitted())),
        };
        begun.map_err(|(call, failure)| self.fail(*call, failure)).ok()
    }

    /// A reader of what is behind a revision; None if the log does not go back so far any more.
    fn enter(&self, after: u64) -> Result<Option<LogReader>, LogError> {
        if let Some(place) = self.calls.places().before(after)
            && let Some(reader) = LogReader::at(Arc::clone(&self.storage), &place, after)?
        {
            return Ok(Some(reader));
        }
        LogReader::after(Arc::clone(&self.storage), after)
    }

    /// Reads on while there is somebody to read for.
    fn read(&self, reader: &mut LogReader, pass: &mut Pass) -> Result<ReadEnd, LogError> {
        let proof = pass.proof;
        loop {
            let mut damage = None;
            let before = reader.read_bytes();
            let end = reader.read_some(&proof, PIECE_BYTES, &mut |group| {
                let Some(group) = LogGroup::of(group) else {
                    damage = Some(group.revision);
                    return ControlFlow::Break(());
                };
                let ready = pass.take(&group);
                let is_idle = !ready.is_empty() && pass.active.is_empty();
                ready.into_iter().for_each(|follow| self.answer_page(follow));
                if is_idle { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?;
            if let Some(revision) = damage {
                return Err(reader.damaged(format!("revision {revision} has a record that is none of a table")));
            }
            self.calls.places().note(reader.place());
            let bytes = reader.read_bytes() - before;
            self.calls.events_read_bytes.fetch_add(bytes, Ordering::Relaxed);
            for follow in pass.active.extract_if(.., |follow| follow.has_read(bytes)) {
                self.answer_page(follow);
            }
            // Whoever comes next may begin much further on.
            if end != ReadEnd::Paused || self.calls.is_closed() {
                return Ok(end);
            }
        }
    }

    /// Answers those for whom the reading has ended.
    fn settle(&self, pass: &mut Pass, result: Result<ReadEnd, LogError>) {
        let failure = match &result {
            Ok(_) if self.calls.is_closed() => Some(stopping()),
            Ok(_) => None,
            Err(error) => Some(unreadable("events", error)),
        };
        // Only where somebody asks: it is a look at the disk.
        let mut oldest = None;
        for follow in pass.active.drain(..) {
            match &failure {
                Some(failure) if failure.code == ErrorCode::ShuttingDown || !follow.has_come_on() => {
                    self.fail(follow.call, failure.clone());
                }
                _ if follow.has_come_on() => self.answer_page(follow),
                _ => {
                    let oldest = *oldest.get_or_insert_with(|| self.oldest());
                    let EventsCall { after, memory_oldest, .. } = follow.call.call;
                    self.calls.events_compacted.fetch_add(1, Ordering::Relaxed);
                    let failure = compacted(after, oldest.map_or(memory_oldest, |oldest| oldest.min(memory_oldest)));
                    self.fail(follow.call, failure);
                }
            }
        }
    }

    /// The oldest revision that the log has now.
    fn oldest(&self) -> Option<u64> {
        LogReader::starts(&*self.storage).ok()?.first().map(|start| start + 1)
    }

    fn answer_page(&self, follow: Follow) {
        let Follow { call, access, events, through, too_much, .. } = follow;
        if let Some(revision) = too_much {
            return self.fail(call, crate::events::too_much(revision));
        }
        let EventsCall { asked, epoch, mark, .. } = &call.call;
        // Where nothing was found it goes on at once as well, until it has seen all there is and can wait in the worker.
        let more = through < call.call.asker().revision() || (events.is_empty() && asked.wait_ms > 0);
        let answer = Answer::Events { events, through, more, epoch: *epoch };
        // Until the reply is handed over: whoever is taken out of the book waits for that.
        let speaking = self.speaker.begin();
        match speaking.of(call.call.asker().user()) {
            Some(now) if now == access => {
                mark.set(through);
                self.calls.events_pages.fetch_add(1, Ordering::Relaxed);
                self.hand_over(call, Ok(answer));
            }
            // To be looked at anew, with the keys that it has now.
            Some(_) => self.calls.put_back_events(call),
            None => self.hand_over(call, Err(not_admitted())),
        }
    }

    fn fail(&self, call: Proved<EventsCall>, failure: Failure) {
        let speaking = self.speaker.begin();
        let failure = if speaking.of(call.call.asker().user()).is_some() { failure } else { not_admitted() };
        self.hand_over(call, Err(failure));
    }
}

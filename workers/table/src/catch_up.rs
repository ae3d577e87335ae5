//! `events` from the log: the passes of the log's reader over what calls that are far behind ask for.
//!
//! - Readings are begun by turns of users, however many calls each has, at the call of a user that begins first in the log. Whoever else
//!   begins on the way joins in, as long as the reading is not longer than a page may make it.
//! - Between two pieces of the log it looks whether the broker stops.
//! - Where the last pages ended is remembered: a follower's next page begins there, and each part of the log is read about once for it.
//! - Damage fails those pages alone that have come to it and have nothing to tell; one that has is answered, and ends before it.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use kvbroker_log::{LogError, LogReader, Persisted, ReadEnd};
use kvbroker_protocol::{Answer, ErrorCode, Failure, limits};

use crate::answer::not_admitted;
use crate::asker::{Asks, Proved};
use crate::events::{compacted, stopping};
use crate::historian::{Historian, unreadable};
use crate::histories::EventsCall;
use crate::log_events::{Follow, LogGroup};

/// How much is read between two looks at the rest of the world, bytes.
const PIECE_BYTES: u64 = 1 << 20;

/// Calls that are served together, and their pages that are being filled.
struct Pass {
    /// Those whose page is not begun, the one that begins first in the log last.
    waiting: Vec<Proved<EventsCall>>,
    /// Those that the reading has come to.
    active: Vec<Follow>,
    /// Covers what all of them ask for.
    proof: Persisted,
    /// Where this reading has begun.
    from: u64,
}

impl Pass {
    /// Of calls that wait. None: there are none.
    fn of(mut waiting: Vec<Proved<EventsCall>>) -> Option<Pass> {
        let proof = waiting.iter().map(|call| call.proof).max_by_key(Persisted::revision)?;
        waiting.sort_by_key(|call| std::cmp::Reverse(call.call.after));
        Some(Pass { waiting, active: Vec::new(), proof, from: 0 })
    }

    /// Whose calls wait, each user once; who begins first in the log comes first.
    fn users(&self) -> Vec<Arc<str>> {
        let mut users: Vec<Arc<str>> = Vec::new();
        for call in self.waiting.iter().rev() {
            let user = call.call.asker().user();
            if !users.contains(user) {
                users.push(Arc::clone(user));
            }
        }
        users
    }

    /// Which call of a user is next.
    fn next_of(&self, user: &str) -> Option<usize> {
        self.waiting.iter().rposition(|call| **call.call.asker().user() == *user)
    }

    /// Takes out those that begin in this reading before a revision.
    fn begin_before(&mut self, revision: u64) -> Vec<Proved<EventsCall>> {
        let behind = self.waiting.partition_point(|call| call.call.after >= self.from);
        let first = self.waiting[..behind].partition_point(|call| call.call.after >= revision);
        self.waiting.drain(first..behind).rev().collect()
    }

    /// Takes in a group; gives the pages that are ready with it.
    fn take(&mut self, group: &LogGroup<'_>) -> Vec<Follow> {
        self.active.extract_if(.., |follow| follow.take(group)).collect()
    }
}

impl Historian {
    /// Answers calls: for each user one reading, which serves whoever begins where it comes by. What is left waits for the next round, behind
    /// whoever has come meanwhile.
    pub(crate) fn serve(&self, calls: Vec<Proved<EventsCall>>) {
        let Some(mut pass) = Pass::of(calls) else { return };
        for user in pass.users() {
            if self.calls.is_closed() {
                break;
            }
            // It may have been served on the way.
            let Some(next) = pass.next_of(&user) else { continue };
            let from = pass.waiting[next].call.after;
            pass.from = from;
            let result = match self.enter(from) {
                Ok(Some(mut reader)) => self.read(&mut reader, &mut pass),
                Ok(None) => Ok(ReadEnd::Gone),
                Err(error) => Err(error),
            };
            // The first one has come on, or never will.
            if pass.active.is_empty()
                && let Some(next) = pass.next_of(&user).filter(|next| pass.waiting[*next].call.after == from)
            {
                let call = pass.waiting.remove(next);
                pass.active.extend(self.begin(call));
            }
            self.settle(&mut pass, result);
        }
        // Those that wait longest first, also in the queue.
        for call in pass.waiting {
            if self.calls.is_closed() { self.fail(call, stopping()) } else { self.calls.put_back_events(call) }
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
        let (proof, begun) = (pass.proof, reader.read_bytes());
        loop {
            let mut damage = None;
            let before = reader.read_bytes();
            // Beyond that it would be a reading for those who join it, and others wait for theirs.
            let may_join = before - begun < limits::EVENTS_LOG_READ_BYTES_MAX;
            let end = reader.read_some(&proof, PIECE_BYTES, &mut |group| {
                let Some(group) = LogGroup::of(group) else {
                    damage = Some(group.revision);
                    return ControlFlow::Break(());
                };
                if may_join {
                    let joining = pass.begin_before(group.revision());
                    pass.active.extend(joining.into_iter().filter_map(|call| self.begin(call)));
                }
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

//! The log's reader: answers `history` from the log, on a thread of its own; and `events`, see `catch_up.rs`.
//!
//! - The worker only fixes how far it reads. However much log there is, no other request waits for it.
//! - Between the segments of a pass for histories the calls for changes have their turn: those take a piece of the log, a history may
//!   take all of it.
//! - The log is read segment by segment, the newest first, each forward. Who has what was asked for is answered at once; so the
//!   history of a key that changes often costs one segment and not the whole log.
//! - The calls that wait share one pass. What a pass collects is bounded in bytes: over it the calls that came last are put back for
//!   the next pass; the one that came first always gets its answer.
//! - A reply leaves as [`Released`](crate::Released), built from the proof for the revision that its call saw.
//! - Whether the user may still read the key is asked when the answer is there: a pass can take long.
//! - When the queue is closed the pass ends where it is, and its calls are answered `shutting_down`.
//!
//! Caveat: what can't be read back fails the calls of the pass and is logged as an error, and the broker goes on: the table is in
//! memory and does not depend on it. The next start will judge the same bytes.

use std::collections::{HashMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;

use kvbroker_core::{Space, split_table_record};
use kvbroker_log::{Cause, GroupRef, LogError, LogReader, Persisted, ReadEnd, RecordRef, Storage};
use kvbroker_protocol::{Answer, ErrorCode, Failure, Stored, Version, VersionKind, limits};

use crate::access_book::Speaker;
use crate::asker::{Asks, Proved};
use crate::events::stopping;
use crate::histories::{Histories, HistoryCall, Taken};
use crate::outbox::Outbox;
use crate::released::ReplyOut;
use crate::sizes::{reply_bytes, version_bytes};

/// The log's reader.
pub struct Historian {
    /// Where the log is.
    pub storage: Arc<dyn Storage>,
    /// Where calls come from.
    pub calls: Arc<Histories>,
    /// Where replies go.
    pub replies: Arc<Outbox<Vec<ReplyOut>>>,
    /// Its place in the access book.
    pub speaker: Speaker,
}

/// One call, and what was found for it so far.
struct Search {
    call: Proved<HistoryCall>,
    /// Of the segments that were read to their end, the newest first.
    found: Vec<Version>,
    /// Of the segment that is being read, the oldest first.
    part: VecDeque<Version>,
    /// Of both.
    bytes: usize,
    /// There are older versions than those that fit.
    more: bool,
}

impl Search {
    fn new(call: Proved<HistoryCall>) -> Search {
        Search { call, found: Vec::new(), part: VecDeque::new(), bytes: 0, more: false }
    }

    fn through(&self) -> u64 {
        self.call.call.through
    }

    /// Takes a version that is newer than all of this segment so far, and drops the oldest that do not fit any more.
    fn take(&mut self, version: Version) {
        self.bytes += version_bytes(&version);
        self.part.push_back(version);
        while self.has_too_much() {
            let Some(oldest) = self.part.pop_front() else { break };
            self.bytes -= version_bytes(&oldest);
            self.more = true;
        }
    }

    /// One version always fits.
    fn has_too_much(&self) -> bool {
        let count = self.found.len() + self.part.len();
        count > self.call.call.limit || (count > 1 && self.bytes > limits::PAGE_BYTES_MAX)
    }

    fn end_segment(&mut self) {
        self.found.extend(self.part.drain(..).rev());
    }

    fn forget(&mut self) {
        self.found = Vec::new();
        self.part = VecDeque::new();
        self.bytes = 0;
    }
}

/// Why a pass ended early.
enum Ended {
    Stopping,
    Failed(LogError),
}

impl Historian {
    /// Answers calls until the queue is closed.
    pub fn run(self) {
        while self.step() {}
    }

    /// Waits for calls and answers them with one pass; false once the queue is closed. A simulation takes these steps itself, while
    /// there are calls.
    pub fn step(&self) -> bool {
        let Taken { histories, events, is_open } = self.calls.collect();
        // Once the queue is closed this only says so.
        self.serve(events);
        if is_open {
            self.pass(histories);
        } else {
            histories.into_iter().for_each(|call| self.answer(call, Err(stopping())));
        }
        is_open
    }

    /// Reads the log once for these calls.
    fn pass(&self, calls: Vec<Proved<HistoryCall>>) {
        if calls.is_empty() {
            return;
        }
        let mut searches: Vec<Search> = calls.into_iter().map(Search::new).collect();
        let failure = match self.search(&mut searches) {
            Ok(()) => return,
            Err(Ended::Stopping) => stopping(),
            Err(Ended::Failed(error)) => unreadable("a history", &error),
        };
        for search in searches {
            self.answer(search.call, Err(failure.clone()));
        }
    }

    /// Answers searches and takes them out of the list; after an error those that are left in it have no answer yet.
    fn search(&self, searches: &mut Vec<Search>) -> Result<(), Ended> {
        let starts = LogReader::starts(&*self.storage).map_err(Ended::Failed)?;
        // Before the first batch there is no segment.
        let mut oldest = starts.first().map_or(1, |start| start + 1);
        let mut end = u64::MAX;
        for start in starts.into_iter().rev() {
            if !self.segment(start, end, searches).map_err(Ended::Failed)? {
                // It was deleted meanwhile, and with it all before it.
                oldest = end.saturating_add(1);
                break;
            }
            if self.calls.is_closed() {
                return Err(Ended::Stopping);
            }
            searches.iter_mut().for_each(Search::end_segment);
            for search in searches.extract_if(.., |search| search.more) {
                self.answer_found(search, oldest);
            }
            end = start;
            self.serve(self.calls.take_events());
        }
        for search in searches.drain(..) {
            self.answer_found(search, oldest);
        }
        Ok(())
    }

    /// Reads the revisions behind `start` up to `end`, as far as anybody asks for them; false if they are in the log no more.
    fn segment(&self, start: u64, end: u64, searches: &mut Vec<Search>) -> Result<bool, LogError> {
        let end = end.min(searches.iter().map(Search::through).max().unwrap_or_default());
        let Some(proof) = searches.iter().map(|search| search.call.proof).max_by_key(Persisted::revision) else {
            return Ok(true);
        };
        if end <= start {
            return Ok(true);
        }
        let Some(mut reader) = LogReader::after(Arc::clone(&self.storage), start)? else { return Ok(false) };
        let mut by_key: HashMap<Vec<u8>, Vec<usize>> = HashMap::new();
        for (at, search) in searches.iter().enumerate() {
            by_key.entry(search.call.call.key.clone()).or_default().push(at);
        }
        let mut deferred: Vec<usize> = Vec::new();
        let mut bytes: usize = searches.iter().map(|search| search.bytes).sum();
        let read = reader.read(&proof, &mut |group| {
            for (key, value) in table_records(&group) {
                for &at in by_key.get(key).into_iter().flatten() {
                    let search = &mut searches[at];
                    if group.revision > search.through() || deferred.contains(&at) {
                        continue;
                    }
                    let Some(version) = version_of(&group, value) else { continue };
                    bytes -= search.bytes;
                    search.take(version);
                    bytes += search.bytes;
                    while bytes > limits::HISTORY_PASS_BYTES_MAX
                        && let Some(last) = last_that_holds(searches)
                    {
                        bytes -= searches[last].bytes;
                        searches[last].forget();
                        deferred.push(last);
                    }
                }
            }
            if group.revision >= end || self.calls.is_closed() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        deferred.sort_unstable();
        for at in deferred.into_iter().rev() {
            self.calls.put_back(searches.remove(at).call);
        }
        Ok(read != ReadEnd::Gone)
    }

    fn answer_found(&self, search: Search, oldest: u64) {
        let answer = Answer::History { versions: search.found, more: search.more, oldest };
        self.answer(search.call, Ok(answer));
    }

    fn answer(&self, call: Proved<HistoryCall>, result: Result<Answer, Failure>) {
        // Until the reply is handed over: whoever is taken out of the book waits for that.
        let speaking = self.speaker.begin();
        let result = call.call.permitted(speaking.of(call.call.asker().user())).and(result);
        self.hand_over(call, result);
    }

    /// Hands a reply over. What it says is what the user may hear in this turn of the speaker.
    pub(crate) fn hand_over<C: Asks>(&self, call: Proved<C>, result: Result<Answer, Failure>) {
        let user = Arc::clone(call.call.asker().user());
        let (replies, _) = call.released(result).into_parts();
        let bytes = replies.iter().map(reply_bytes).sum();
        self.replies.push(replies, bytes);
        self.calls.answered(&user);
    }
}

/// Says in the log what could not be read, and to the client that it could not.
pub(crate) fn unreadable(what: &str, error: &LogError) -> Failure {
    let why = error.fact();
    tracing::error!("the log could not be read back for {what}: {why} (The broker goes on: the table is in memory.)");
    let message = "the broker could not read its log back; its own messages say what is wrong with it";
    Failure::new(ErrorCode::Internal, message)
}

/// Of the searches behind the first, the last that holds anything: the first always gets its answer, however much others ask for.
fn last_that_holds(searches: &[Search]) -> Option<usize> {
    searches.iter().rposition(|search| search.bytes > 0).filter(|at| *at > 0)
}

/// Keys of the table that a group changed, with their new records.
fn table_records<'a>(group: &GroupRef<'a>) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + use<'a> {
    let records = group.records().map(|record| match record {
        RecordRef::Put { key, value } => (key, Some(value)),
        RecordRef::Delete { key } => (key, None),
    });
    records.filter_map(|(key, value)| Some((key.strip_prefix(&[Space::Table as u8])?, value)))
}

/// None only for what is no record of a table, which recovery refuses and the worker does not write.
fn version_of(group: &GroupRef<'_>, record: Option<&[u8]>) -> Option<Version> {
    let kind = match record {
        Some(record) => VersionKind::Put(Stored::from_bytes(split_table_record(record)?.stored.to_vec())?),
        None if group.cause == Cause::Expiry => VersionKind::Expire,
        None => VersionKind::Remove,
    };
    Some(Version { revision: group.revision, time_ms: group.stamp_ms, kind })
}

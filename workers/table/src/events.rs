//! `events`: answered from memory, or parked until there is something to say, or left to the log's reader.
//!
//! - What begins before the changes in memory goes to the log's reader with all of the call. One that has waited begins where it was woken,
//!   and is answered here.
//! - What a user may hear is looked up when the call is decided, each time anew: a call that was parked is decided again when it is woken.
//! - An answer is about revisions that the turn's proof covers, like that to any other read.
//! - A call for no changes at all only says where its client is. It is not looked for anything, and never waits.
//! - A wait ends in one of: changes, an empty answer when its time is up, `refused` when the user may not ask any more, `shutting_down`.

use std::sync::atomic::Ordering;
use std::time::Duration;

use kvbroker_core::{EventsFor, EventsWanted};
use kvbroker_log::Log;
use kvbroker_protocol::{Access, Answer, ErrorCode, Events, Failure, Outcome, Outcomes, Reply, limits};

use crate::agenda::Agenda;
use crate::answer::not_admitted;
use crate::call::Call;
use crate::credit::Charge;
use crate::followers::{FollowerNews, Mark};
use crate::histories::EventsCall;
use crate::parked::asked;
use crate::released::ReplyOut;
use crate::trace::Trace;
use crate::work;
use crate::worker::{Saying, Worker};

/// What a small reply has beside keys and values.
const SMALL_REPLY_REST_BYTES: usize = 1 << 10;
const _: () = assert!(SMALL_REPLY_REST_BYTES < limits::SMALL_REPLY_BYTES);
/// Bytes of keys and values in a small page.
pub(crate) const SMALL_PAGE_BYTES: usize = limits::SMALL_REPLY_BYTES - SMALL_REPLY_REST_BYTES;

/// True if this is a call for changes.
pub(crate) fn is_one(call: &Call) -> bool {
    asked(call).is_some()
}

/// True of a call that asks for no changes at all: whoever sends it hears of them by a stream.
fn says_where_it_is(limit: Option<usize>) -> bool {
    limit == Some(0)
}

/// What a call for changes comes to.
enum Heard {
    /// It is answered.
    Answer(Result<Answer, Failure>),
    /// It has seen all up to this revision, and may wait.
    NothingYet(Access, u64),
    /// What is behind this revision is not in memory any more, but in the log.
    FarBehind(u64),
    /// It hears of changes by a stream, and has all of them up to this revision.
    HearsStream(u64),
}

impl<L: Log> Worker<L> {
    /// Answers a call for changes that the user may ask for, or parks it.
    pub(crate) fn hear(&mut self, call: Call, agenda: &mut Agenda, saying: &mut Saying) {
        let trace = tracing::enabled!(tracing::Level::TRACE)
            .then(|| call.request.operations.as_slice().first().map(|operation| Trace::start(call.client, None, operation)))
            .flatten();
        let (heard, spent) = self.look_for_events(&call);
        let mark = self.note_follower(&call, &heard);
        let (call, result) = match heard {
            Heard::Answer(result) => (call, result),
            Heard::FarBehind(after) => {
                self.counters.operations.fetch_add(1, Ordering::Relaxed);
                agenda.spend(work::around(&[], 0));
                let memory_oldest = self.history.oldest_revision(&self.state);
                let call = EventsCall::of(call, self.state.revision(), after, memory_oldest, self.facts.epoch, mark);
                return saying.far_behind.extend(call);
            }
            Heard::HearsStream(through) => {
                let more = through < self.state.revision();
                (call, Ok(Answer::Events { events: Vec::new(), through, more, epoch: self.facts.epoch }))
            }
            Heard::NothingYet(access, through) => match self.park(call, access, through) {
                Ok(superseded) => {
                    agenda.spend(spent + work::around(&[], 0));
                    return saying.replies.extend(superseded);
                }
                Err((call, failure)) => (*call, Err(failure)),
            },
        };
        self.counters.operations.fetch_add(1, Ordering::Relaxed);
        let outcome = Outcome { revision: Some(self.state.revision()), result };
        if let Some(trace) = trace {
            trace.finish(&outcome);
        }
        let Call { client, account, envelope, request, bytes, .. } = call;
        let reply = Reply { id: request.header.id, form: request.form, retry_safe: None, outcomes: Outcomes::One(outcome) };
        let mut out = ReplyOut {
            client,
            envelope,
            reply,
            request_bytes: bytes,
            account,
            charge: None,
            is_behind_all: false,
            is_superseded: false,
        };
        out.charge(false);
        let reply_bytes = out.charge.as_ref().map_or(0, Charge::bytes);
        agenda.spend(spent + work::around(out.reply.outcomes.as_slice(), reply_bytes));
        saying.reply_bytes += reply_bytes;
        saying.replies.push(out);
    }

    /// Looks into the table's latest changes; and what that has cost.
    fn look_for_events(&self, call: &Call) -> (Heard, usize) {
        let refused = |failure| (Heard::Answer(Err(failure)), 0);
        let Some(access) = self.access.of(&call.user) else { return refused(not_admitted()) };
        let Some(Events { prefix, after, limit, wait_ms, epoch, detail, where_, lost: _ }) = asked(call) else {
            return refused(Failure::new(ErrorCode::Internal, "this operation is answered elsewhere"));
        };
        if epoch.is_some_and(|epoch| epoch != self.facts.epoch) {
            return refused(of_another_epoch(self.oldest_known()));
        }
        let (after, revision) = (after.unwrap_or(self.state.revision()), self.state.revision());
        if says_where_it_is(*limit) && after <= revision {
            return (Heard::HearsStream(after), 0);
        }
        if after.saturating_add(1) < self.history.oldest_revision(&self.state) {
            if after.saturating_add(1) >= self.log.oldest_revision() {
                return (Heard::FarBehind(after), 0);
            }
            return refused(compacted(after, self.oldest_known()));
        }
        let is_tight = call.account.is_tight();
        let (matcher, compiling) = match where_.as_ref().map(|filter| (filter.matcher(), filter.compile_work())) {
            None => (None, 0),
            Some((Some(matcher), work)) => (Some(matcher), work),
            Some((None, work)) => return (Heard::Answer(Err(no_matcher())), work),
        };
        // Session ids tell who else is there.
        let told_to = if access.scope.is_all() { EventsFor::Everything } else { EventsFor::User(call.user.as_bytes()) };
        let wanted = EventsWanted {
            prefix,
            scope: &access.scope,
            after,
            revisions_max: limit.unwrap_or(usize::MAX),
            bytes_max: if is_tight { SMALL_PAGE_BYTES } else { limits::PAGE_BYTES_MAX },
            detail: detail.then_some(told_to),
            matcher: matcher.as_ref(),
        };
        let page = match self.history.events(&self.state, &wanted) {
            Ok(page) => page,
            Err(failure) => return (Heard::Answer(Err(failure)), compiling),
        };
        let spent = work::examined(page.examined) + page.work + compiling;
        if let Some(revision) = page.too_much {
            return (Heard::Answer(Err(too_much(revision))), spent);
        }
        let more = page.has_more(&self.state);
        if page.events.is_empty() && !more && *wait_ms > 0 {
            return (Heard::NothingYet(access, page.through), spent);
        }
        (Heard::Answer(Ok(Answer::Events { events: page.events, through: page.through, more, epoch: self.facts.epoch })), spent)
    }

    /// The oldest revision of which the broker still knows what it changed, in memory or in the log.
    fn oldest_known(&self) -> u64 {
        self.history.oldest_revision(&self.state).min(self.log.oldest_revision())
    }

    /// For `stats`.
    fn note_follower(&mut self, call: &Call, heard: &Heard) -> Mark {
        let Some(Events { prefix, after, lost, .. }) = asked(call) else { return Mark::default() };
        let news = match heard {
            Heard::Answer(Ok(Answer::Events { events, through, .. })) if events.is_empty() => {
                FollowerNews::Nothing { through: *through, waits: false }
            }
            Heard::Answer(Ok(Answer::Events { through, .. })) => FollowerNews::Memory { through: *through },
            Heard::NothingYet(_, through) => FollowerNews::Nothing { through: *through, waits: true },
            Heard::FarBehind(after) => FollowerNews::Log { after: *after },
            Heard::Answer(Err(failure)) if failure.code == ErrorCode::Compacted => {
                FollowerNews::Compacted { after: after.unwrap_or_default() }
            }
            Heard::HearsStream(through) => FollowerNews::Hears { through: *through },
            Heard::Answer(_) => return Mark::default(),
        };
        self.followers.note(call, prefix, *lost, news, self.state.revision(), self.clock.now().boot_us)
    }

    /// Parks a call; gives what is to be said instead of the one whose place it takes.
    pub(crate) fn park(&mut self, call: Call, access: Access, through: u64) -> Result<Option<ReplyOut>, (Box<Call>, Failure)> {
        let now_us = self.clock.now().boot_us;
        Ok(self.parked.park(call, access, through, now_us)?.map(ReplyOut::superseded))
    }

    /// Puts parked calls back into the agenda: those for which something has changed, or whose time is up.
    pub(crate) fn tend_parked(&mut self, agenda: &mut Agenda) {
        if self.parked.is_empty() {
            return;
        }
        let now_us = self.clock.now().boot_us;
        let state = &self.state;
        self.parked.serve(|queue| state.ready_items(queue));
        self.parked.look_at(&self.access);
        self.parked.time_is(now_us, self.state.revision());
        self.parked.woken(now_us).for_each(|call| agenda.readmit(call));
    }

    /// How long to wait for requests: `longest`, or less if the time of a parked one is up before.
    pub(crate) fn wait_beside_parked(&self, longest: Duration) -> Duration {
        match self.parked.next_us() {
            None => longest,
            Some(until_us) => longest.min(Duration::from_micros(until_us.saturating_sub(self.clock.now().boot_us))),
        }
    }
}

/// What is answered where the changes behind a revision are not known any more.
pub(crate) fn compacted(after: u64, oldest: u64) -> Failure {
    let message = format!(
        "the changes behind revision {after} are not all known to the broker any more, which knows those from revision {oldest} on: \
         read the keys as they are, and go on behind the revision of that"
    );
    Failure::compacted(message, oldest)
}

/// What is answered to whoever counted its revisions in another epoch: they say nothing of this table's.
fn of_another_epoch(oldest: u64) -> Failure {
    let message = "this `after` was counted in another `epoch`, of which this table knows nothing: read the keys as they are, and go on \
         behind the revision of that, in the epoch that hello tells";
    Failure::compacted(message, oldest)
}

pub(crate) fn no_matcher() -> Failure {
    Failure::new(ErrorCode::Internal, "a regex compiled when the request was read, and now it does not")
}

/// What is answered where a predicate can't get past a revision. Not its fault alone, and the way on is that of `compacted`.
pub(crate) fn too_much(revision: u64) -> Failure {
    let message = format!(
        "revision {revision} changed so much that trying this `where` on all of it is more work than one request may make: read the keys \
         as they are, and go on behind the revision of that; or ask without `where`"
    );
    Failure::compacted(message, revision.saturating_add(1))
}

/// What a parked call is told when the broker stops.
pub(crate) fn stopping() -> Failure {
    Failure::new(ErrorCode::ShuttingDown, "the broker is stopping; ask again when it has been started again")
}

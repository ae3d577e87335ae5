//! `events`: answered from memory, or parked until there is something to say.
//!
//! - What a user may hear is looked up when the call is decided, each time anew: a call that was parked is decided again when it is woken.
//! - An answer is about revisions that the turn's proof covers, like that to any other read.
//! - A wait ends in one of: changes, an empty answer when its time is up, `refused` when the user may not ask any more, `shutting_down`.

use std::sync::atomic::Ordering;
use std::time::Duration;

use kvbroker_core::EventsWanted;
use kvbroker_log::Log;
use kvbroker_protocol::{Access, Answer, ErrorCode, Events, Failure, Outcome, Outcomes, Reply, limits};

use crate::agenda::Agenda;
use crate::answer::not_admitted;
use crate::call::Call;
use crate::credit::Charge;
use crate::parked::asked;
use crate::released::ReplyOut;
use crate::trace::Trace;
use crate::work;
use crate::worker::{Saying, Worker};

/// What a small reply has beside keys and values.
const SMALL_REPLY_REST_BYTES: usize = 1 << 10;
const _: () = assert!(SMALL_REPLY_REST_BYTES < limits::SMALL_REPLY_BYTES);

/// True if this is a call for changes.
pub(crate) fn is_one(call: &Call) -> bool {
    asked(call).is_some()
}

/// What a call for changes comes to.
enum Heard {
    /// It is answered.
    Answer(Result<Answer, Failure>),
    /// It has seen all up to this revision, and may wait.
    NothingYet(Access, u64),
}

impl<L: Log> Worker<L> {
    /// Answers a call for changes that the user may ask for, or parks it.
    pub(crate) fn hear(&mut self, call: Call, agenda: &mut Agenda, saying: &mut Saying) {
        let trace = tracing::enabled!(tracing::Level::TRACE)
            .then(|| call.request.operations.as_slice().first().map(|operation| Trace::start(call.client, None, operation)))
            .flatten();
        let (heard, examined) = self.look_for_events(&call);
        let (call, result) = match heard {
            Heard::Answer(result) => (call, result),
            Heard::NothingYet(access, through) => match self.park(call, access, through) {
                Ok(superseded) => {
                    agenda.spend(work::examined(examined) + work::around(&[], 0));
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
        let mut out = ReplyOut { client, envelope, reply, request_bytes: bytes, account, charge: None, is_superseded: false };
        out.charge(false);
        let reply_bytes = out.charge.as_ref().map_or(0, Charge::bytes);
        agenda.spend(work::examined(examined) + work::around(out.reply.outcomes.as_slice(), reply_bytes));
        saying.reply_bytes += reply_bytes;
        saying.replies.push(out);
    }

    /// Looks into the table's latest changes; and how many of them.
    fn look_for_events(&self, call: &Call) -> (Heard, usize) {
        let refused = |failure| (Heard::Answer(Err(failure)), 0);
        let Some(access) = self.access.of(&call.user) else { return refused(not_admitted()) };
        let Some(Events { prefix, after, limit, wait_ms, epoch, detail, where_ }) = asked(call) else {
            return refused(Failure::new(ErrorCode::Internal, "this operation is answered elsewhere"));
        };
        if *detail || where_.is_some() {
            return refused(Failure::invalid("this broker does not take `detail` and `where` of `events` yet"));
        }
        if epoch.is_some_and(|epoch| epoch != self.facts.epoch) {
            return refused(self.history.of_another_epoch(&self.state));
        }
        let is_tight = call.account.is_tight();
        let wanted = EventsWanted {
            prefix,
            scope: &access.scope,
            after: after.unwrap_or(self.state.revision()),
            revisions_max: limit.unwrap_or(usize::MAX),
            bytes_max: if is_tight { limits::SMALL_REPLY_BYTES - SMALL_REPLY_REST_BYTES } else { limits::PAGE_BYTES_MAX },
        };
        let page = match self.history.events(&self.state, &wanted) {
            Ok(page) => page,
            Err(failure) => return refused(failure),
        };
        let more = page.has_more(&self.state);
        if page.events.is_empty() && !more && *wait_ms > 0 {
            return (Heard::NothingYet(access, page.through), page.examined);
        }
        (
            Heard::Answer(Ok(Answer::Events { events: page.events, through: page.through, more, epoch: self.facts.epoch })),
            page.examined,
        )
    }

    /// Parks a call; gives what is to be said instead of the one whose place it takes.
    fn park(&mut self, call: Call, access: Access, through: u64) -> Result<Option<ReplyOut>, (Box<Call>, Failure)> {
        let now_us = self.clock.now().boot_us;
        Ok(self.parked.park(call, access, through, now_us)?.map(ReplyOut::superseded))
    }

    /// Puts parked calls back into the agenda: those for which something has changed, or whose time is up.
    pub(crate) fn tend_parked(&mut self, agenda: &mut Agenda) {
        if self.parked.is_empty() {
            return;
        }
        let now_us = self.clock.now().boot_us;
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

/// What a parked call is told when the broker stops.
pub(crate) fn stopping() -> Failure {
    Failure::new(ErrorCode::ShuttingDown, "the broker is stopping; ask again when it has been started again")
}

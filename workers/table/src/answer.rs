//! What one call is answered: its operations decided in order, applied, and put into the batch.
//!
//! - A mutation with a number goes through its session; one without is done each time it arrives.
//! - What the user may do is looked up when its call is decided, and each operation checked against it before anything else.
//! - Sessions and the broker itself are asked here; everything else is the table's.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kvbroker_core::{
    Change, Decision, Numbered, Reader, SessionBounds, Space, Stamp, Turn, decide, decide_numbered, end_session, result_of,
    split_table_record,
};
use kvbroker_log::{BatchBuilder, Cause, Log, SessionRef};
use kvbroker_protocol::{
    Access, Answer, ErrorCode, Failure, Header, Operation, Operations, Outcome, Outcomes, QueueAnswer, QueueInfo, QueueOperation,
    Reply, SessionId, StatValue, Stored, VersionKind, limits, request_hash,
};

use crate::access_book::OWNER;
use crate::call::{Call, ClientId};
use crate::released::{Event, ReplyOut, no_room_for_replies};
use crate::replay::origin;
use crate::trace::Trace;
use crate::worker::{Saying, Worker};

/// What the operations of one message have in common.
struct Asking {
    client: ClientId,
    user: Arc<str>,
    /// What the user may do.
    access: Access,
    session: Option<SessionId>,
    /// The number of the next mutation; reads have none.
    next_seq: Option<u64>,
    ack: u64,
    time_ms: u64,
    turn: Turn,
    /// That turn before anything was done.
    given: Turn,
    /// What mutations are refused with, if they are.
    refusal: Option<Failure>,
    /// Only small replies are made now.
    is_tight: bool,
}

/// Of an array the keys of so many operations are looked for together.
const WARMED: usize = 32;

impl Asking {
    fn new(
        client: ClientId,
        user: Arc<str>,
        access: Access,
        header: &Header,
        operations: &Operations,
        has_company: bool,
        time_ms: u64,
    ) -> Asking {
        let is_page =
            |operation: &Operation| matches!(operation, Operation::Scan(_) | Operation::Query { .. } | Operation::List(_));
        let turn = match operations {
            // Their pages end anywhere and go on from there; another message would be cut short.
            Operations::One(Operation::Converted(converted)) if has_company && is_page(&converted.operation) => {
                Turn::one().in_company()
            }
            Operations::One(operation) if has_company && is_page(operation) => Turn::one().in_company(),
            Operations::One(_) => Turn::one(),
            Operations::Many(_) => Turn::many(),
        };
        let ack = header.ack.unwrap_or_default();
        Asking {
            client,
            user,
            access,
            session: header.session,
            next_seq: header.seq,
            ack,
            time_ms,
            given: turn.clone(),
            turn,
            refusal: None,
            is_tight: false,
        }
    }

    /// The name of a mutation in its session, and the next one's number.
    fn take_number(&mut self, operation: &Operation) -> Option<SessionRef> {
        if !operation.is_mutation() {
            return None;
        }
        let sequence = self.next_seq?;
        self.next_seq = sequence.checked_add(1);
        Some(SessionRef { id: self.session?.0, sequence })
    }
}

/// Reads here and there what these operations bring: another thread has written it, and so it takes less time than one by one.
fn touch_values(operations: &[Operation]) {
    const CACHE_LINE_BYTES: usize = 64;
    const LINES: usize = 4;
    let lines = operations.iter().flat_map(|operation| match operation {
        Operation::Put { value, .. } => value.as_bytes().chunks(CACHE_LINE_BYTES).take(LINES),
        _ => [].chunks(CACHE_LINE_BYTES).take(LINES),
    });
    std::hint::black_box(lines.fold(0, |mixed, line| mixed ^ line[0]));
}

/// Whoever was authenticated when it came in, and is not in the access book now.
pub(crate) fn not_admitted() -> Failure {
    let message = "this client's key may do nothing here, or not any more; an admin of the broker can let it in with `authorize`";
    Failure::new(ErrorCode::Refused, message)
}

/// A header that numbers mutations names their session; the other way round a session without a number would be done twice.
fn check_header(header: &Header, mutations: usize) -> Result<(), Failure> {
    match (header.session, header.seq) {
        (Some(_), Some(seq)) if seq.checked_add(mutations as u64).is_none() => {
            Err(Failure::invalid("the numbers of a session end at 2^64-1"))
        }
        (None, Some(_)) => Err(Failure::invalid("`seq` is a number in a `session`, which is missing; get one from hello")),
        (Some(_), None) if mutations > 0 => {
            Err(Failure::invalid("a mutation in a `session` has a number, in `seq`; it is missing"))
        }
        _ => Ok(()),
    }
}

/// True for a mutation whose answer can have values in it.
fn answers_values(operation: &Operation) -> bool {
    match operation {
        Operation::Del { return_old, .. } => *return_old,
        Operation::Txn(txn) => txn.operations().any(|inner| answers_values(inner) || !inner.is_mutation()),
        _ => false,
    }
}

/// Asking alone, as `reply_full` suggests, would not help: it is not this array that has no room.
fn say_why_no_room(outcome: &mut Outcome) {
    if outcome.result.as_ref().is_err_and(|failure| failure.code == ErrorCode::ReplyFull) {
        outcome.result = Err(no_room_for_replies());
    }
}

impl<L: Log> Worker<L> {
    /// True if the user may have all of the call done. What it may not is refused by [`Worker::answer`].
    pub(crate) fn permits(&self, call: &Call) -> bool {
        let operations = call.request.operations.as_slice();
        self.access.of(&call.user).is_some_and(|access| operations.iter().all(|operation| access.check(operation).is_ok()))
    }

    /// Decides a call's operations and gives its reply, to be released when the batch is durable.
    pub(crate) fn answer(&mut self, call: Call, time_ms: u64, batch: &mut BatchBuilder, saying: &mut Saying) -> ReplyOut {
        let Call { client, account, user, envelope, request, bytes } = call;
        let header = request.header;
        let mutations = request.operations.as_slice().iter().filter(|operation| operation.is_mutation()).count();
        // Thousands of scans may be left by a client that read none of them and went.
        let is_for_nobody = account.is_gone() && mutations == 0;
        let access = if is_for_nobody { None } else { self.access.of(&user) };
        let Some(access) = access else {
            saying.count(&Turn::one(), &Turn::one());
            let reply = Reply {
                id: header.id,
                form: request.form,
                retry_safe: None,
                outcomes: Self::all_not_admitted(&request.operations),
            };
            return ReplyOut {
                client,
                envelope,
                reply,
                request_bytes: bytes,
                account,
                charge: None,
                is_behind_all: false,
                is_superseded: false,
            };
        };
        let mut asking = Asking::new(client, user, access, &header, &request.operations, saying.has_company, time_ms);
        asking.refusal.clone_from(&saying.refusal);
        let is_tight = account.is_tight();
        if is_tight {
            // Before anything is changed for a reply that could not be kept.
            asking.is_tight = true;
            asking.turn.reply_bytes_left = Some(limits::SMALL_REPLY_BYTES);
        }
        let mut outcomes = if let Err(failure) = check_header(&header, mutations) {
            Outcomes::One(self.observed(Err(failure)))
        } else {
            self.counters.operations.fetch_add(request.operations.as_slice().len() as u64, Ordering::Relaxed);
            match request.operations {
                Operations::One(operation) => Outcomes::One(self.operation(operation, &mut asking, batch, saying)),
                Operations::Many(operations) => {
                    let mut outcomes = Vec::with_capacity(operations.len());
                    let mut operations = operations.into_iter();
                    while !operations.as_slice().is_empty() {
                        let soon = operations.as_slice();
                        let soon = &soon[..soon.len().min(WARMED)];
                        self.state.warm(soon.iter().filter_map(Operation::first_key).map(Vec::as_slice));
                        touch_values(soon);
                        let run = |operation| self.operation(operation, &mut asking, batch, saying);
                        outcomes.extend(operations.by_ref().take(WARMED).map(run));
                    }
                    Outcomes::Many(outcomes)
                }
            }
        };
        if is_tight {
            outcomes.as_mut_slice().iter_mut().for_each(say_why_no_room);
        }
        saying.count(&asking.given, &asking.turn);
        let retry_safe = (mutations > 0).then_some(header.seq.is_some() && header.session.is_some());
        let reply = Reply { id: header.id, form: request.form, retry_safe, outcomes };
        ReplyOut {
            client,
            envelope,
            reply,
            request_bytes: bytes,
            account,
            charge: None,
            is_behind_all: false,
            is_superseded: false,
        }
    }

    fn all_not_admitted(operations: &Operations) -> Outcomes {
        // Not even the revision: it is none of this client's business.
        let outcome = || Outcome { revision: None, result: Err(not_admitted()) };
        match operations {
            Operations::One(_) => Outcomes::One(outcome()),
            Operations::Many(many) => Outcomes::Many(many.iter().map(|_| outcome()).collect()),
        }
    }

    fn operation(&mut self, operation: Operation, asking: &mut Asking, batch: &mut BatchBuilder, saying: &mut Saying) -> Outcome {
        let name = asking.take_number(&operation);
        let trace = tracing::enabled!(tracing::Level::TRACE).then(|| Trace::start(asking.client, name, &operation));
        let stamp = Stamp { revision: self.state.revision() + 1, time_ms: asking.time_ms };
        // What ends a session, or settles a number, makes room.
        let adds = operation.is_mutation() || matches!(operation, Operation::Queue(_) | Operation::Converted(_));
        let decision = match asking.access.check(&operation) {
            Ok(()) => self.permitted(operation, name, asking, stamp),
            // It takes no number, as it was not decided.
            Err(failure) => Decision::refused(&self.state, failure),
        };
        let decision = if adds { self.refused_if_busy(decision, asking) } else { decision };
        let cause = if decision.takes_revision { Cause::Request } else { Cause::Bookkeeping };
        self.take_in(decision.changes, cause, name, batch, &mut saying.events);
        self.state.note_ends(decision.ended);
        if !decision.messages.is_empty() {
            saying.publish(stamp.revision, decision.messages, self.events.interest().has_listeners());
        }
        if let Some(trace) = trace {
            trace.finish(&decision.outcome);
        }
        decision.outcome
    }

    /// An operation that the user may have done.
    fn permitted(&mut self, operation: Operation, name: Option<SessionRef>, asking: &mut Asking, stamp: Stamp) -> Decision {
        let owner = asking.user.as_bytes();
        match operation {
            Operation::Hello { project } => {
                let session = SessionId::new(asking.time_ms, (self.entropy)());
                self.only_said(self.observed(self.facts.hello(project, session, &asking.user, &asking.access)))
            }
            Operation::Stats => self.only_said(self.observed(Ok(self.stats(&asking.user, &asking.access)))),
            Operation::Result { session, seq, settle } => {
                let bounds = settle.then_some(&self.session_bounds);
                result_of(&self.state, owner, session, seq, stamp, bounds)
            }
            Operation::Queue(queue) if matches!(*queue, QueueOperation::Extend { .. }) => self.extend(*queue, asking.time_ms),
            Operation::End => match asking.session {
                Some(session) => end_session(&self.state, owner, session, asking.ack, stamp),
                None => {
                    Decision::refused(&self.state, Failure::invalid("`end` ends the `session` of the header, which is missing"))
                }
            },
            // Its failure for want of room would be remembered as its outcome.
            operation if asking.is_tight && name.is_some() && answers_values(&operation) => {
                Decision::refused(&self.state, no_room_for_replies())
            }
            operation => {
                let mut decision = self.decide(operation, name, asking, stamp);
                if let Ok(Answer::Queue(QueueAnswer::Queues { queues, .. })) = &mut decision.outcome.result {
                    queues.iter_mut().for_each(|info| self.tell_who_waits(info));
                }
                decision
            }
        }
    }

    /// Who waits for a queue's items is known here alone.
    fn tell_who_waits(&self, info: &mut QueueInfo) {
        info.facts.push(("waiting".to_owned(), StatValue::Number(self.parked.pulls_of(&info.queue) as u64)));
    }

    /// Nothing is logged: a lease that was renewed is a promise of this run.
    fn extend(&mut self, operation: QueueOperation, time_ms: u64) -> Decision {
        let result = match operation {
            QueueOperation::Extend { queue, receipt, lease_ms } => self.state.extend_lease(&queue, receipt, lease_ms, time_ms),
            _ => Err(Failure::new(ErrorCode::Internal, "this operation is answered elsewhere")),
        };
        self.only_said(self.observed(result))
    }

    /// The bounds of a user's sessions: only the owner may fill the room for remembered replies alone.
    fn bounds_of(&self, user: &str) -> SessionBounds {
        if user == OWNER {
            return self.session_bounds;
        }
        SessionBounds { per_owner_reply_bytes_max: limits::SESSIONS_REPLY_BYTES_PER_USER_MAX, ..self.session_bounds }
    }

    fn only_said(&self, outcome: Outcome) -> Decision {
        Decision { outcome, changes: Vec::new(), takes_revision: false, ended: Vec::new(), messages: Vec::new() }
    }

    fn observed(&self, result: Result<Answer, Failure>) -> Outcome {
        Outcome { revision: Some(self.state.revision()), result }
    }

    /// A panic while deciding has changed nothing: it is answered and counted, and the broker goes on.
    fn decide(&mut self, operation: Operation, name: Option<SessionRef>, asking: &mut Asking, stamp: Stamp) -> Decision {
        let Asking { user, access, ack, turn, .. } = asking;
        let Access { scope, .. } = access;
        let hash = name.map(|_| request_hash(&operation, &mut self.scratch)).unwrap_or_default();
        let decided = catch_unwind(AssertUnwindSafe(|| match name {
            None if operation.snapshot().is_some() => {
                let reader = Reader { user, is_owner: **user == *OWNER, scope };
                self.snapshots.read(&self.state, reader, &operation, stamp, turn)
            }
            None => decide(&self.state, scope, operation, stamp, turn),
            Some(SessionRef { id, sequence }) => {
                let numbered = Numbered { owner: user.as_bytes(), session: SessionId(id), seq: sequence, ack: *ack, hash };
                decide_numbered(&self.state, scope, operation, &numbered, stamp, turn, &self.bounds_of(user))
            }
        }));
        decided.unwrap_or_else(|_| {
            self.counters.internal_errors.fetch_add(1, Ordering::Relaxed);
            tracing::error!("an operation made the table worker panic; it was answered `internal` and changed nothing");
            let failure = Failure::new(ErrorCode::Internal, "the broker has a fault in this operation; nothing was changed");
            Decision::refused(&self.state, failure)
        })
    }

    /// While the log is too long nothing is added to it, and no number taken. It is decided all the same: a mutation that was done
    /// before has its reply, which must not become a "failed"; and one that changes nothing has its own answer.
    fn refused_if_busy(&self, decision: Decision, asking: &Asking) -> Decision {
        match &asking.refusal {
            Some(failure) if !decision.changes.is_empty() => {
                self.counters.throttled.fetch_add(1, Ordering::Relaxed);
                Decision::refused(&self.state, failure.clone())
            }
            _ => decision,
        }
    }

    /// Puts changes that belong together into the batch, as one group, and into the state.
    pub(crate) fn take_in(
        &mut self,
        changes: Vec<Change>,
        cause: Cause,
        name: Option<SessionRef>,
        batch: &mut BatchBuilder,
        events: &mut Option<Vec<Event>>,
    ) {
        if changes.is_empty() {
            return;
        }
        let revision = self.state.revision() + u64::from(cause.takes_revision());
        batch.group(revision, cause, name);
        self.history.begin_group(&self.state, revision, origin(cause, batch.stamp_ms(), name));
        for change in changes {
            // As `Change::write_record_key` has it.
            let space = [change.space as u8];
            match self.state.logged_value(&change) {
                Some(value) => batch.put_in(&space, &change.key, value),
                None => batch.delete_in(&space, &change.key),
            }
            if !self.parked.is_empty() {
                if change.space == Space::Table {
                    self.parked.changed(&change.key, revision);
                } else if let Some(queue) = self.state.queue_of(&change) {
                    self.parked.touch(queue);
                    kvbroker_core::State::item_of(&change).into_iter().for_each(|item| self.parked.item_changed(item));
                }
            }
            match events {
                // The table copies what is small in any case: its memory goes on with the event.
                Some(events) if change.space == Space::Table => {
                    self.history.apply_lent(&mut self.state, &mut self.snapshots, &change, revision);
                    events.extend(event_of(change, cause, revision));
                }
                _ => self.history.apply(&mut self.state, &mut self.snapshots, change, revision),
            }
        }
    }

    fn stats(&self, user: &str, access: &Access) -> Answer {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = [
            ("operations", load(&self.counters.operations)),
            ("expired", load(&self.counters.expired)),
            ("batches", load(&self.counters.batches)),
            ("small_turns", load(&self.counters.small_turns)),
            ("internal_errors", load(&self.counters.internal_errors)),
            ("throttled", load(&self.counters.throttled)),
            ("intake_calls", self.intake.len() as u64),
            ("unread_reply_bytes", self.intake.credit().used() as u64),
            ("held_clients", self.intake.held() as u64),
            ("events_dropped", load(&self.events_dropped)),
            ("history_calls", self.histories.len() as u64),
            ("events_waiting", self.parked.len() as u64),
            ("events_from_memory", self.followers.answers_from_memory()),
            ("events_from_log", load(&self.histories.events_pages)),
            ("events_lost", self.followers.drops()),
            ("events_compacted", self.followers.compacted() + load(&self.histories.events_compacted)),
            ("events_log_read_bytes", load(&self.histories.events_read_bytes)),
            ("history_bytes", self.history.bytes() as u64),
            ("history_oldest", self.history.oldest_revision(&self.state)),
            ("queues", self.state.queues() as u64),
            ("queue_items", self.state.queue_items() as u64),
            ("bindings", self.state.bindings() as u64),
            ("messages_published", self.state.messages().0),
            ("messages_unroutable", self.state.messages().1),
            ("rules", self.state.rules() as u64),
            ("snapshots", self.snapshots.open() as u64),
            ("snapshot_bytes", self.snapshots.bytes() as u64),
        ];
        let followers = self.followers.describe(user, access, self.state.revision(), self.clock.now().boot_us);
        self.facts.stats(&self.state, &counters, &followers, self.log.stats())
    }
}

/// Room behind a value that is not worth giving back.
const SPARE_BYTES: usize = 1 << 10;

fn event_of(change: Change, cause: Cause, revision: u64) -> Option<Event> {
    let kind = match (change.space, change.value) {
        (Space::Table, Some(mut record)) => {
            record.truncate(split_table_record(&record)?.stored.len());
            if record.capacity() - record.len() > SPARE_BYTES {
                record.shrink_to_fit();
            }
            VersionKind::Put(Stored::from_bytes(record)?)
        }
        (Space::Table, None) if cause == Cause::Expiry => VersionKind::Expire,
        (Space::Table, None) => VersionKind::Remove,
        // Everything else is no key's.
        _ => return None,
    };
    Some(Event { revision, key: change.key, kind })
}

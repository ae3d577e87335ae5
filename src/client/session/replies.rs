//! What answers mean: which end a call, which let it be sent again, and which end the session.

use std::collections::VecDeque;
use std::time::Instant;

use kvbroker_protocol::{ErrorCode, Failure, Outcome, Outcomes, decode_reply_to, reply_id};

use super::Session;
use super::call::Call;

/// Times in a row that the lowest open number may be `out_of_order` before the session is given up. Once proves
/// it, as everything below was answered; twice costs nothing and survives a broker that counts wrongly once.
const HOLES_BELOW_MAX: u32 = 2;

/// What becomes of an operation that was answered with a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It was decided: that is its outcome, and its number is used up.
    Decided,
    /// It was refused for good, and took no number.
    Refused,
    /// The broker has a fault in it. It took no number; but codes that are newer than this client come as this one, too.
    Broken,
    /// A bound; later.
    Later,
    /// Numbers before it are missing.
    Hole,
    /// The session is gone.
    Expired,
    /// At another broker, or at this one when it runs again.
    Elsewhere,
    /// It may have been done: asking again tells.
    Doubtful,
}

fn verdict(code: ErrorCode) -> Verdict {
    match code {
        ErrorCode::Internal => Verdict::Broken,
        ErrorCode::Busy => Verdict::Later,
        ErrorCode::OutOfOrder => Verdict::Hole,
        ErrorCode::SessionExpired => Verdict::Expired,
        ErrorCode::ShuttingDown | ErrorCode::WrongBroker => Verdict::Elsewhere,
        ErrorCode::UnknownOutcome => Verdict::Doubtful,
        ErrorCode::Invalid | ErrorCode::UnsupportedVersion | ErrorCode::Limit | ErrorCode::WrongProject | ErrorCode::Refused => {
            Verdict::Refused
        }
        _ => Verdict::Decided,
    }
}

/// What a reply as a whole asks for.
#[derive(Default)]
struct Aftermath {
    /// The link is of no use any more.
    leaves: Option<String>,
    /// Something may work later.
    pauses: Option<Option<u64>>,
    /// Something was decided.
    progress: bool,
    /// A mutation was refused for want of room.
    lacks_room: bool,
}

impl<T> Session<T> {
    /// A message came from the broker. A reply to an earlier connection's attempt is passed over.
    pub fn handle_reply(&mut self, now: Instant, body: &[u8]) {
        let Ok(Some(id)) = reply_id(body) else {
            // Whom it answers can't be said: what is outstanding runs into its own end.
            self.trouble = Some("the broker sent a reply without an id".into());
            return;
        };
        let Some(mut flight) = self.take_flight(id) else { return };
        self.losses = 0;
        self.got = self.got.max(Some(id));
        let reply = decode_reply_to(body, flight.calls.iter().map(|call| &call.asked.expect));
        let several = flight.calls.len() > 1;
        let mut after = Aftermath::default();
        let outcomes = match reply {
            Ok(reply) => {
                let numbered = flight.calls.iter().any(|call| call.seq.is_some());
                self.remembers &= !(numbered && reply.retry_safe == Some(false));
                reply.outcomes
            }
            Err(error) => return flight.into_calls().into_iter().for_each(|call| self.unreadable(call, &error)),
        };
        let is_plain = self.came_back.is_none() && outcomes.as_slice().iter().all(|outcome| outcome.result.is_ok());
        match outcomes {
            // All of it was done, and so nothing comes back.
            Outcomes::Many(outcomes) if is_plain => {
                for (call, outcome) in flight.calls.iter_mut().zip(outcomes) {
                    self.done(call, outcome);
                }
                after.progress = true;
            }
            Outcomes::One(outcome) if is_plain && !several => {
                if let Some(call) = flight.calls.front_mut() {
                    self.done(call, outcome);
                }
                after.progress = true;
            }
            outcomes => {
                flight.part();
                self.judge_all(&mut flight.calls, outcomes, several, &mut after);
            }
        }
        self.keep_spare(flight.calls);
        if after.progress {
            self.busy_row = 0;
        }
        if after.lacks_room {
            self.numbers.release_held();
        }
        if let Some(retry_after_ms) = after.pauses {
            self.pause(now, retry_after_ms);
        }
        if let Some(why) = after.leaves {
            // It needs a moment to stop, or to be found.
            self.losses = self.losses.max(1);
            self.link_lost(now, why);
        }
    }

    fn judge_all(&mut self, calls: &mut VecDeque<Call<T>>, outcomes: Outcomes, several: bool, after: &mut Aftermath) {
        match outcomes {
            Outcomes::Many(outcomes) => {
                for (call, outcome) in calls.drain(..).zip(outcomes) {
                    self.judge(call, outcome, several, after);
                }
            }
            // An array that is answered by one failure was refused as a whole.
            Outcomes::One(outcome) => {
                for call in calls.drain(..) {
                    self.judge(call, outcome.clone(), several, after);
                }
            }
        }
    }

    fn judge(&mut self, mut call: Call<T>, outcome: Outcome, several: bool, after: &mut Aftermath) {
        let failure = match &outcome.result {
            Ok(_) => return self.decided(call, outcome, after),
            Err(failure) => failure,
        };
        match verdict(failure.code) {
            Verdict::Decided if several && failure.code == ErrorCode::ReplyFull && !call.asked.mutation => {
                call.alone = true;
                self.come_back(call);
            }
            Verdict::Decided => self.decided(call, outcome, after),
            // Which of them is at fault shows when each goes by itself.
            Verdict::Refused if several => {
                call.alone = true;
                self.come_back(call);
            }
            Verdict::Refused => self.refused(call, outcome),
            // A pause would be one for all the others.
            Verdict::Later if call.asked.waits() => self.decided(call, outcome, after),
            Verdict::Broken if call.asked.mutation => self.broken(call, outcome),
            Verdict::Broken => self.decided(call, outcome, after),
            Verdict::Later => {
                let wait = after.pauses.flatten().max(failure.retry_after_ms);
                after.pauses = Some(wait);
                // Perhaps for what it remembers: then only a higher `ack` ends it.
                after.lacks_room |= call.seq.is_some();
                call.refusal = Some(Box::new(outcome));
                self.come_back(call);
            }
            // Without a number it is what the operation found in another session: that has to do something first.
            Verdict::Hole if call.seq.is_none() => self.decided(call, outcome, after),
            Verdict::Hole => self.hole_before(call, outcome),
            Verdict::Expired if call.asked.mutation => {
                self.is_over = true;
                self.come_back(call);
            }
            Verdict::Elsewhere => {
                after.leaves = Some(failure.message.clone());
                call.refusal = Some(Box::new(outcome));
                self.come_back(call);
            }
            Verdict::Doubtful if call.asked.mutation && self.remembers => {
                after.pauses = Some(after.pauses.flatten());
                call.may_have_run = true;
                self.come_back(call);
            }
            Verdict::Doubtful if call.asked.mutation => {
                let why = failure.message.clone();
                self.unknown(call, &why);
            }
            Verdict::Expired | Verdict::Doubtful => self.decided(call, outcome, after),
        }
    }

    fn decided(&mut self, mut call: Call<T>, outcome: Outcome, after: &mut Aftermath) {
        if !call.asked.mutation && self.came_back.is_some_and(|first| first < call.order) {
            // A mutation that was begun before it is done later than it was answered.
            return self.come_back(call);
        }
        after.progress = true;
        self.done(&mut call, outcome);
    }

    fn done(&mut self, call: &mut Call<T>, outcome: Outcome) {
        self.holes_below = 0;
        if let Some(seq) = call.seq {
            // A filler that was done took the place of what was in doubt.
            if call.token.is_none() && outcome.result.is_ok() && call.is_filler {
                self.numbers.settle_for_good(seq);
            } else {
                self.numbers.settle(seq);
            }
        }
        if let Some(token) = call.token.take() {
            self.finish(token, Ok(outcome));
        }
    }

    /// Refused for good: the number is free, unless an earlier attempt may have used it.
    fn refused(&mut self, mut call: Call<T>, outcome: Outcome) {
        if call.is_filler {
            // A number that can't be filled is in the way for ever.
            self.is_over = true;
            return;
        }
        if call.may_have_run {
            let why = format!("an attempt was refused after another one had been lost: {}", message_of(&outcome));
            return self.unknown(call, &why);
        }
        if let Some(token) = call.token.take() {
            self.finish(token, Ok(outcome));
        }
        if call.asked.mutation {
            self.come_back(call);
        }
    }

    /// The caller is told; whether the number was taken, a noop finds out.
    fn broken(&mut self, mut call: Call<T>, outcome: Outcome) {
        let is_certain = !call.may_have_run;
        if let Some(token) = call.token.take_if(|_| is_certain) {
            self.finish(token, Ok(outcome));
            call.may_have_run = true;
            self.come_back(call);
        } else {
            self.refused(call, outcome);
        }
    }

    fn hole_before(&mut self, mut call: Call<T>, outcome: Outcome) {
        let lowest = self.numbers.lowest_open();
        if call.seq == lowest {
            self.holes_below += 1;
            // All that was before it was answered, and the broker does not know of it: it has lost a part of its log.
            self.is_over |= self.holes_below >= HOLES_BELOW_MAX;
        }
        call.refusal = Some(Box::new(outcome));
        self.come_back(call);
    }

    fn unreadable(&mut self, mut call: Call<T>, error: &kvbroker_protocol::ReplyError) {
        if call.asked.mutation {
            self.unknown(call, &error.to_string());
        } else if let Some(token) = call.token.take() {
            self.finish(token, Err(error.clone().into()));
        }
    }

    /// The call ends in doubt; its number will be filled.
    fn unknown(&mut self, mut call: Call<T>, why: &str) {
        call.may_have_run = true;
        if let Some(token) = call.token.take() {
            self.end_unknown(token, call.seq, why);
        }
        self.come_back(call);
    }
}

fn message_of(outcome: &Outcome) -> &str {
    outcome.result.as_ref().err().map_or("", |failure: &Failure| failure.message.as_str())
}

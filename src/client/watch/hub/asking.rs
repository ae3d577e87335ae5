//! The questions of a hub's watches: which are asked next, and who gets the answers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kvbroker_protocol::{Answer, ErrorCode, Events, Operation, Outcome, Scan};

use super::joint::{beginning, common_prefix, deal_out};
use super::{CROWDED, Hub, READY_BYTES, WatchId};
use crate::client::error::ClientError;
use crate::client::slot::{Ended, Slot};
use crate::client::table::unexpected;
use crate::client::watch::merge::{Answered, Ask};
use crate::client::watch::options::{WatchOptions, Watched};

/// Most questions that are outstanding and answered at once. An answer has some MiB at most.
const ASKED_MAX: usize = 32;

/// Most questions that wait at the broker for a change. It takes twice as many of one client.
const PARKED_MAX: usize = 128;

/// How long a question waits at the broker for a change.
const WAIT: Duration = Duration::from_secs(30);

/// How long an answer may take, beyond that.
const ANSWER: Duration = Duration::from_secs(15);

/// So many watches that have missed something are helped by one question.
const JOINT_MIN: usize = 128;

/// How long each asks for itself after that did not work.
const APART: Duration = Duration::from_secs(1);

/// Whom an answer is for.
enum Whose {
    One(WatchId),
    /// Watches without details or a filter, by what they watch.
    Many(Vec<WatchId>),
}

/// A question that is outstanding.
pub(super) struct Flight {
    whose: Whose,
    slot: Arc<Slot>,
    timeout: Duration,
    parks: bool,
}

impl Hub {
    /// Takes the answers that have come.
    pub(super) fn collect(&mut self, now: Instant) {
        let mut at = 0;
        while self.ready_bytes < READY_BYTES
            && let Some(flight) = self.flights.get(at)
        {
            if !flight.slot.is_complete() {
                at += 1;
                continue;
            }
            let Flight { whose, slot, timeout, .. } = self.flights.swap_remove(at);
            let end = slot.wait().pop().unwrap_or(Ended::Closed);
            let answered = answered(self.client.outcome(end, Some(timeout)));
            match whose {
                Whose::One(id) => self.update(now, id, |merge| merge.answered(now, answered)),
                Whose::Many(ids) => self.deal_out(now, ids, answered),
            }
        }
    }

    /// Gives each watch its part of an answer.
    fn deal_out(&mut self, now: Instant, ids: Vec<WatchId>, answered: Answered) {
        let Answered::Events { events, through, more, epoch } = answered else {
            // What is wrong for the one that is furthest behind need not be for the others.
            let is_of_one = matches!(&answered, Answered::Failed(failure, _) if failure.code != ErrorCode::Refused);
            if is_of_one {
                self.joint_at = now + APART;
            }
            for id in ids {
                self.update(now, id, |merge| {
                    if is_of_one { merge.not_asked(now + CROWDED) } else { merge.answered(now, answered.clone()) }
                });
            }
            return;
        };
        let prefix_of = |id: &WatchId| self.entries.get(id).map(|entry| entry.options.watched.prefix().to_vec());
        let ids: Vec<_> = ids.into_iter().filter_map(|id| Some((id, prefix_of(&id)?))).collect();
        let dealt = deal_out(&events, ids.iter().map(|(_, prefix)| prefix.as_slice()));
        for (id, prefix) in &ids {
            let events = dealt.get(prefix.as_slice()).cloned().unwrap_or_default();
            self.update(now, *id, |merge| merge.answered(now, Answered::Events { events, through, more, epoch }));
        }
    }

    /// Asks once for all that have missed something, if there are many. False: so many wait that another such question comes next.
    fn ask_jointly(&mut self, now: Instant) -> bool {
        if self.askers.len() < JOINT_MIN || self.joint_at > now {
            return true;
        }
        if self.flights.iter().any(|flight| matches!(flight.whose, Whose::Many(_))) {
            return false;
        }
        let missing = |id: &WatchId| {
            let entry = self.entries.get(id).filter(|entry| entry.topic.is_some())?;
            entry.merge.is_missing(now).map(|(after, epoch)| (*id, after, epoch))
        };
        let all: Vec<_> = self.askers.iter().filter_map(missing).collect();
        let Some((_, _, epoch)) = all.first().copied() else { return true };
        let mut positions: Vec<_> = all.iter().filter(|(_, _, of)| *of == epoch).map(|(_, after, _)| *after).collect();
        let Some(after) = beginning(&mut positions) else { return true };
        let is_of_them = |(_, own, of): &&(_, u64, u64)| *of == epoch && *own >= after;
        let ids: Vec<_> = all.iter().filter(is_of_them).map(|(id, ..)| *id).collect();
        if ids.len() < JOINT_MIN {
            return true;
        }
        let prefixes = ids.iter().filter_map(|id| self.entries.get(id)).map(|entry| entry.options.watched.prefix());
        let options = WatchOptions::prefix(common_prefix(prefixes));
        let mut ask = operation(&options, Ask::Events { after, epoch: Some(epoch), wait: false });
        if let Operation::Events(events) = &mut ask {
            for id in &ids {
                events.lost += self.entries.get_mut(id).map_or(0, |entry| entry.merge.take_lost());
            }
            self.word.is_due(now);
        }
        let Some(slot) = self.client.submit_ringing(&ask, ANSWER, &self.bell) else { return true };
        for id in &ids {
            if let Some(entry) = self.entries.get_mut(id) {
                entry.waits_to_ask = false;
                entry.merge.asked_jointly(now);
                self.schedule(now, *id);
            }
        }
        self.askers.retain(|id| self.entries.get(id).is_some_and(|entry| entry.waits_to_ask));
        self.flights.push(Flight { whose: Whose::Many(ids), slot, timeout: ANSWER, parks: false });
        true
    }

    /// Asks what there is to ask, as far as there is room.
    pub(super) fn ask(&mut self, now: Instant) {
        if !self.ask_jointly(now) {
            return;
        }
        let parked = self.flights.iter().filter(|flight| flight.parks).count();
        let (mut may_park, mut may_ask) = (PARKED_MAX - parked, ASKED_MAX.saturating_sub(self.flights.len() - parked));
        while may_ask > 0 {
            let Some(id) = self.askers.pop_front() else { return };
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            entry.waits_to_ask = false;
            let Some(ask) = entry.merge.ask(now, may_park > 0) else { continue };
            let parks = matches!(ask, Ask::Events { wait: true, .. });
            let timeout = if parks { WAIT + ANSWER } else { ANSWER };
            let mut ask = operation(&entry.options, ask);
            if let Operation::Events(events) = &mut ask {
                events.lost = entry.merge.take_lost();
                self.word.is_due(now);
            }
            match self.client.submit_ringing(&ask, timeout, &self.bell) {
                Some(slot) => self.flights.push(Flight { whose: Whose::One(id), slot, timeout, parks }),
                None => entry.merge.not_asked(now + CROWDED),
            }
            if parks {
                may_park -= 1;
            } else {
                may_ask -= 1;
            }
            self.schedule(now, id);
        }
    }
}

fn operation(options: &WatchOptions, ask: Ask) -> Operation {
    let prefix = options.watched.prefix().to_vec();
    match ask {
        Ask::Now => Operation::Events(Events { prefix, limit: Some(1), ..Events::default() }),
        Ask::Events { after, epoch, wait } => {
            let wait_ms = if wait { u64::try_from(WAIT.as_millis()).unwrap_or(u64::MAX) } else { 0 };
            let where_ = options.filter.clone();
            let detail = options.detail;
            Operation::Events(Events { prefix, after: Some(after), limit: None, wait_ms, epoch, detail, where_, lost: 0 })
        }
        Ask::Rows { cursor, snapshot } => {
            // No key comes between a key and the same with a zero behind it.
            let key = |key: &[u8]| (Some(key.to_vec()), Some([key, &[0]].concat()));
            let (from, to) = match &options.watched {
                Watched::Prefix(_) => (None, None),
                Watched::Key(only) => key(only),
            };
            let filter = options.filter.clone();
            Operation::Scan(Scan { prefix, from, to, filter, cursor, snapshot: Some(snapshot), ..Scan::default() })
        }
    }
}

fn answered(outcome: Result<Outcome, ClientError>) -> Answered {
    match outcome {
        Ok(Outcome { revision, result }) => match result {
            Ok(Answer::Events { events, through, more, epoch }) => Answered::Events { events, through, more, epoch },
            Ok(Answer::Rows { rows, cursor, snapshot }) => {
                Answered::Rows { rows, cursor, snapshot: snapshot.or(revision).unwrap_or_default() }
            }
            Ok(_) => answered(Err(unexpected())),
            Err(failure) => Answered::Failed(failure, revision),
        },
        Err(ClientError::Failed(failure)) => Answered::Failed(failure, None),
        Err(ClientError::Protocol(error)) => Answered::Unreadable(error),
        Err(ClientError::Closed) => Answered::Closed,
        Err(error) => Answered::Unanswered(error.to_string()),
    }
}

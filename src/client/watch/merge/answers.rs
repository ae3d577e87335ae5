//! What answers mean for a watch.

use std::sync::Arc;
use std::time::Instant;

use kvbroker_protocol::{ErrorCode, Failure, Key, RevisionEvents, Row};

use super::{Answered, Asked, Merge, PAUSE, POLL_PAUSE, POLL_PAUSE_MAX, Phase};
use crate::client::watch::changes::Together;
use crate::client::watch::event::{WatchBroken, WatchEnd, WatchEvent, WhySnapshot};

impl Merge {
    /// The question that was handed out last came to this.
    pub fn answered(&mut self, now: Instant, answered: Answered) {
        let Some(asked) = self.asked.take() else { return };
        if self.end.is_some() {
            return;
        }
        match answered {
            Answered::Events { events, through, more, epoch } => self.events(now, asked, events, (through, more), epoch),
            Answered::Rows { rows, cursor, snapshot } => self.rows(rows, cursor, snapshot),
            Answered::Failed(failure, revision) => self.failed(now, asked, failure, revision),
            Answered::Unanswered(why) => {
                self.doubt = true;
                self.disturbed(&why);
                self.pause(now, None);
            }
            Answered::Unreadable(error) => self.ends(WatchEnd::Unreadable(error)),
            Answered::Closed => self.ends(WatchEnd::Closed),
        }
    }

    fn events(&mut self, now: Instant, asked: Asked, events: Vec<RevisionEvents>, to: (u64, bool), epoch: u64) {
        let (through, more) = to;
        self.resume();
        match self.phase.clone() {
            Phase::Begin => {
                (self.epoch, self.verified) = (Some(epoch), through);
                self.phase = Phase::Follow;
                self.go_on();
            }
            Phase::Assess { suspicion, after, oldest } => self.assess(suspicion, after, oldest, through, epoch),
            // What was asked belongs to a snapshot that is begun again.
            Phase::Rows { .. } => {}
            Phase::Confirm | Phase::Follow => {
                let is_other = self.epoch.is_some_and(|before| before != epoch);
                let is_short = asked.after.is_some_and(|after| through < after);
                let may_be_short = asked.is_joint && more;
                if is_other || (is_short && !may_be_short) {
                    let suspicion = if is_other { WhySnapshot::OtherHistory } else { WhySnapshot::RolledBack };
                    return self.suspect(suspicion, None);
                }
                self.epoch = Some(epoch);
                if self.phase == Phase::Confirm {
                    self.phase = Phase::Follow;
                    self.tell(WatchEvent::SnapshotEnd { revision: self.verified });
                }
                let is_empty = events.is_empty();
                self.advance(through, Together::Events(Arc::new(events)));
                self.drain_ahead();
                // A stream that speaks says itself what comes next.
                self.doubt |= more && (is_short || !(self.has_streamed() && self.heard > 0));
                self.pace(now, asked, is_empty && !more);
                self.settle();
            }
        }
    }

    /// From here on the stream's messages that came meanwhile fit, or show what to ask for.
    fn go_on(&mut self) {
        if let Some(epoch) = self.epoch {
            let bytes: usize = self.ahead.iter().filter(|message| message.epoch != epoch).map(|message| message.bytes).sum();
            self.ahead.retain(|message| message.epoch == epoch);
            self.ahead_bytes -= bytes;
            if bytes > 0 {
                // It was the other history's.
                self.heard = self.ahead.iter().map(|message| message.revision).max().unwrap_or(0);
                self.doubt = true;
            }
        }
        self.advance(self.verified, Together::Events(Arc::default()));
        self.drain_ahead();
        self.settle();
    }

    /// A broker that does not wait must not be asked all the time, nor one that does not know of what its own stream has told.
    fn pace(&mut self, now: Instant, asked: Asked, is_empty: bool) {
        let pause = match asked.poll {
            Some(pause) if is_empty || pause == POLL_PAUSE_MAX => pause,
            None if is_empty && self.is_behind() => POLL_PAUSE,
            _ => return,
        };
        self.not_before = Some(asked.at + pause).filter(|not_before| *not_before > now);
    }

    fn assess(&mut self, suspicion: WhySnapshot, after: Option<u64>, oldest: Option<u64>, through: u64, epoch: u64) {
        let other = self.epoch.filter(|before| *before != epoch);
        let why = match other {
            Some(_) => WhySnapshot::OtherHistory,
            None if suspicion == WhySnapshot::Compacted && after.is_some_and(|after| through < after) => WhySnapshot::RolledBack,
            None => suspicion,
        };
        if let Some(after) = after.filter(|_| !self.resync) {
            let broken = match (why, other) {
                (WhySnapshot::OtherHistory, Some(before)) => WatchBroken::OtherHistory { after, before, now: epoch },
                (WhySnapshot::RolledBack, _) => WatchBroken::RolledBack { after, revision: through },
                _ => WatchBroken::Compacted { after, oldest },
            };
            return self.ends(WatchEnd::Broken(broken));
        }
        self.epoch = Some(epoch);
        self.heard = 0;
        self.forget_ahead();
        self.phase = Phase::Rows { why, cursor: None, snapshot: 0 };
    }

    fn rows(&mut self, rows: Vec<Row>, next: Option<Key>, shown: u64) {
        self.resume();
        let Phase::Rows { why, cursor, snapshot } = &mut self.phase else { return };
        let why = *why;
        let is_first = *snapshot == 0;
        // A cursor that doesn't move would go on for ever.
        let is_last = next.is_none() || next == *cursor;
        (*cursor, *snapshot) = (next, shown);
        if is_first {
            self.caught_up = false;
            self.stats.snapshots += 1;
            self.tell(WatchEvent::SnapshotBegin { revision: shown, why });
        }
        for row in rows {
            if self.watched.has(&row.key) {
                self.tell(WatchEvent::SnapshotRow(row));
            }
        }
        if is_last {
            self.verified = shown;
            self.phase = Phase::Confirm;
        }
    }

    fn failed(&mut self, now: Instant, asked: Asked, failure: Failure, revision: Option<u64>) {
        match failure.code {
            // While it was asked the stream has told on: what is gone is nothing that is still wanted.
            ErrorCode::Compacted if self.phase == Phase::Follow && asked.after.is_some_and(|after| after < self.verified) => {
                self.resume();
                self.doubt = true;
            }
            ErrorCode::Compacted if asked.after.is_some() => self.suspect(WhySnapshot::Compacted, failure.oldest),
            // The log has them and can't be read there: for whoever may begin anew that is as if they were gone.
            ErrorCode::Internal if self.resync && self.phase == Phase::Follow && asked.after.is_some() => {
                self.pause(now, failure.retry_after_ms);
                self.suspect(WhySnapshot::Compacted, None);
            }
            ErrorCode::Invalid if asked.after.is_some_and(|after| revision.is_some_and(|revision| revision < after)) => {
                self.suspect(WhySnapshot::RolledBack, None);
            }
            ErrorCode::SnapshotGone => {
                self.pause(now, failure.retry_after_ms);
                self.begin_snapshot_again();
            }
            ErrorCode::ShuttingDown | ErrorCode::WrongBroker => {
                self.doubt = true;
                self.disturbed(&failure.message);
                self.pause(now, failure.retry_after_ms);
            }
            ErrorCode::Busy | ErrorCode::OutOfOrder | ErrorCode::SessionExpired | ErrorCode::UnknownOutcome => {
                self.is_crowded = asked.poll.is_some();
                self.doubt |= asked.poll.is_none();
                self.pause(now, failure.retry_after_ms);
            }
            _ => self.ends(WatchEnd::Failed(failure)),
        }
    }

    /// What was told can't be gone on from, as it seems.
    fn suspect(&mut self, suspicion: WhySnapshot, oldest: Option<u64>) {
        let after = (self.phase == Phase::Follow).then_some(self.verified);
        self.phase = Phase::Assess { suspicion, after, oldest };
    }

    /// The rows that were told have come to nothing, and so has no promise been broken.
    fn begin_snapshot_again(&mut self) {
        if let Phase::Rows { why, .. } = self.phase {
            self.phase = Phase::Assess { suspicion: why, after: None, oldest: None };
        }
    }

    fn resume(&mut self) {
        self.failures = 0;
        self.is_crowded = false;
        self.not_before = None;
    }

    fn pause(&mut self, now: Instant, at_least_ms: Option<u64>) {
        let (first, longest) = PAUSE;
        let pause = first.saturating_mul(1 << self.failures.min(16)).min(longest);
        let at_least = std::time::Duration::from_millis(at_least_ms.unwrap_or(0)).min(longest);
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(now + pause.max(at_least));
    }
}

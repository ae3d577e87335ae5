//! When a watch asks, and what.

use std::time::Instant;

use super::{Ask, Asked, Link, Merge, PATIENCE, POLL_PAUSE, POLL_PAUSE_MAX, Phase, RESUBSCRIBE_MAX, SILENCE_MAX};
use crate::client::watch::event::WhySnapshot;

impl Merge {
    /// Whether the stream is to be subscribed to again: it says nothing.
    pub fn resubscribes(&mut self, now: Instant) -> bool {
        let Link::Up { heard_at, resubscribe_at, resubscribe_after } = &mut self.link else { return false };
        let is_silent = heard_at.is_none_or(|heard_at| heard_at + SILENCE_MAX <= now);
        if !is_silent || *resubscribe_at > now {
            return false;
        }
        if heard_at.take().is_some() {
            self.doubt = true;
            self.quiet_since = now;
            *resubscribe_after = PATIENCE;
        }
        *resubscribe_after = (*resubscribe_after * 2).min(RESUBSCRIBE_MAX);
        *resubscribe_at = now + *resubscribe_after;
        true
    }

    /// Whether there is a question.
    #[must_use]
    pub fn wants_to_ask(&self, now: Instant) -> bool {
        self.question(now, true).is_some()
    }

    /// The next question, which counts as asked. `may_wait`: one that waits at the broker may be among them.
    pub fn ask(&mut self, now: Instant, may_wait: bool) -> Option<Ask> {
        let may_wait = may_wait && !self.is_crowded;
        let ask = self.question(now, may_wait)?;
        let after = match &ask {
            Ask::Events { after, .. } => Some(*after),
            Ask::Now | Ask::Rows { .. } => None,
        };
        let is_poll = self.phase == Phase::Follow && !self.is_behind() && self.caught_up;
        let poll = is_poll.then_some(if may_wait { POLL_PAUSE } else { POLL_PAUSE_MAX });
        if poll.is_some() {
            self.stats.polls += 1;
        } else if self.phase == Phase::Follow {
            self.stats.refills += 1;
        }
        let doubt = std::mem::take(&mut self.doubt);
        self.asked = Some(Asked { at: now, after, doubt, poll, is_joint: false });
        Some(ask)
    }

    /// What is missing begins behind this revision of this epoch: for a question that is asked for several watches at once.
    #[must_use]
    pub fn is_missing(&self, now: Instant) -> Option<(u64, u64)> {
        match self.question(now, false)? {
            Ask::Events { after, epoch: Some(epoch), .. } if self.phase == Phase::Follow && self.is_behind() => {
                Some((after, epoch))
            }
            _ => None,
        }
    }

    /// That was asked, together with others who are as far behind or further. A page of the answer may end before what is missing here
    /// begins; then it is asked for again.
    pub fn asked_jointly(&mut self, now: Instant) {
        self.stats.refills += 1;
        let doubt = std::mem::take(&mut self.doubt);
        self.asked = Some(Asked { at: now, after: Some(self.verified), doubt, poll: None, is_joint: true });
    }

    /// The question that was handed out last could not be asked; not before then.
    pub fn not_asked(&mut self, not_before: Instant) {
        if let Some(asked) = self.asked.take() {
            self.doubt |= asked.poll.is_none();
            self.not_before = Some(not_before);
        }
    }

    fn question(&self, now: Instant, may_wait: bool) -> Option<Ask> {
        if self.end.is_some() || self.asked.is_some() || self.not_before.is_some_and(|not_before| not_before > now) {
            return None;
        }
        let events = |wait| Some(Ask::Events { after: self.verified, epoch: self.epoch, wait });
        match &self.phase {
            Phase::Begin => (self.eager || self.is_on_its_own(now)).then_some(Ask::Now),
            Phase::Assess { suspicion: WhySnapshot::Asked, .. } if !self.has_streamed() && !self.is_on_its_own(now) => None,
            Phase::Assess { .. } => Some(Ask::Now),
            Phase::Rows { cursor, snapshot, .. } => Some(Ask::Rows { cursor: cursor.clone(), snapshot: *snapshot }),
            Phase::Confirm => events(false),
            Phase::Follow if self.is_behind() => events(false),
            Phase::Follow if self.is_on_its_own(now) => events(self.caught_up && may_wait),
            Phase::Follow => None,
        }
    }

    /// When to look again although nothing has come; None: never.
    #[must_use]
    pub fn due(&self, now: Instant) -> Option<Instant> {
        if self.end.is_some() {
            return None;
        }
        let resubscribe = match self.link {
            Link::Up { heard_at, resubscribe_at, .. } => {
                Some(heard_at.map_or(resubscribe_at, |heard_at| (heard_at + SILENCE_MAX).max(resubscribe_at)))
            }
            Link::Never | Link::Down => None,
        };
        let patience_ends = (!self.has_streamed()).then(|| self.quiet_since + PATIENCE);
        let ask = [self.not_before, patience_ends].into_iter().filter(|_| self.asked.is_none());
        // What is past was seen when it came.
        ask.chain([resubscribe]).flatten().filter(|at| *at > now).min()
    }

    /// Something was missed, or may have been.
    pub(super) fn is_behind(&self) -> bool {
        self.heard > self.verified || self.doubt
    }

    /// Everything that is known of was told, or waits to be taken, and nothing odd was heard that is not cleared up.
    #[must_use]
    pub fn is_current(&self) -> bool {
        let is_doubtful = self.asked.is_some_and(|asked| asked.doubt);
        self.phase == Phase::Follow && self.caught_up && !self.is_behind() && !is_doubtful && self.end.is_none()
    }

    /// The stream has spoken since it was subscribed to.
    #[must_use]
    pub fn has_streamed(&self) -> bool {
        matches!(self.link, Link::Up { heard_at: Some(_), .. })
    }

    /// No stream speaks, and none is waited for any more.
    fn is_on_its_own(&self, now: Instant) -> bool {
        match self.link {
            Link::Never => true,
            Link::Up { heard_at: Some(_), .. } => false,
            Link::Down | Link::Up { heard_at: None, .. } => self.quiet_since + PATIENCE <= now,
        }
    }
}

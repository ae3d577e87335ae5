//! One subscription without sockets: what the chain of a stream tells, and what is missing in it.
//!
//! - A message of the stream is complete from one revision to another. What begins at or before the position and ends behind it is told, as
//!   far as it is new, and the position moves to its end.
//! - What begins behind the position shows a gap. Nobody keeps messages, so that it can only be told.
//! - Another epoch, or an end behind which the position was already, is another history: what is told goes on there.
//! - Where it begins nothing is missing: what was published before was not subscribed to.

use std::collections::VecDeque;

use kvbroker_protocol::{PublishedMessages, SubjectMessage};

use super::{Message, Told};

/// What was told, and what waits to be told.
#[derive(Debug, Default)]
pub(super) struct Chain {
    /// The epoch, and the revision up to which everything was told; None: it has not begun.
    position: Option<(u64, u64)>,
    out: VecDeque<Told>,
}

impl Chain {
    pub(super) fn has_begun(&self) -> bool {
        self.position.is_some()
    }

    /// The revision up to which all was told that is not in a gap, once everything was taken.
    pub(super) fn revision(&self) -> Option<u64> {
        self.position.map(|(_, revision)| revision)
    }

    pub(super) fn take(&mut self) -> Option<Told> {
        self.out.pop_front()
    }

    /// A message of the stream has come.
    pub(super) fn heard(&mut self, message: PublishedMessages) {
        let PublishedMessages { epoch, prev, revision, revisions } = message;
        let mut from = prev;
        match self.position {
            Some((known, told)) if known != epoch || revision < told => {
                self.out.push_back(Told::OtherHistory { revision: prev });
            }
            Some((_, told)) if prev > told => self.gap(told, prev),
            Some((_, told)) => from = told,
            None => {}
        }
        self.position = Some((epoch, revision));
        for of in revisions.into_iter().filter(|of| of.revision > from) {
            let (revision, time_ms) = (of.revision, of.time_ms);
            let told = |SubjectMessage { subject, value }| Told::Message(Message { revision, time_ms, subject, value });
            self.out.extend(of.messages.into_iter().map(told));
        }
    }

    /// One that goes on where the one before it ended is the same gap.
    fn gap(&mut self, after: u64, up_to: u64) {
        match self.out.back_mut() {
            Some(Told::Gap { up_to: end, .. }) if *end == after => *end = up_to,
            _ => self.out.push_back(Told::Gap { after, up_to }),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use kvbroker_protocol::{RevisionMessages, Stored};

    use super::*;

    /// A message that tells of one publication in each of these revisions.
    fn message(epoch: u64, prev: u64, revision: u64, published: &[u64]) -> PublishedMessages {
        let about = |revision: &u64| RevisionMessages {
            revision: *revision,
            time_ms: 7,
            messages: vec![SubjectMessage { subject: b"s".to_vec(), value: Stored::integer(1) }],
        };
        PublishedMessages { epoch, prev, revision, revisions: published.iter().map(about).collect() }
    }

    fn told(chain: &mut Chain) -> Vec<String> {
        let text = |told: Told| match told {
            Told::Message(message) => message.revision.to_string(),
            Told::Gap { after, up_to } => format!("gap {after}-{up_to}"),
            Told::OtherHistory { revision } => format!("other {revision}"),
        };
        std::iter::from_fn(|| chain.take()).map(text).collect()
    }

    #[test]
    fn it_tells_each_message_once_and_what_is_missing() {
        let mut chain = Chain::default();
        assert!(!chain.has_begun());
        chain.heard(message(1, 10, 10, &[]));
        assert!(chain.has_begun());
        assert_eq!(told(&mut chain), [""; 0], "what was before is not missing");
        chain.heard(message(1, 10, 14, &[11, 14]));
        chain.heard(message(1, 12, 16, &[13, 14, 16]));
        assert_eq!(told(&mut chain), ["11", "14", "16"], "what came again is told once");
        chain.heard(message(1, 16, 16, &[]));
        chain.heard(message(1, 18, 20, &[20]));
        assert_eq!(told(&mut chain), ["gap 16-18", "20"]);
        chain.heard(message(1, 25, 26, &[]));
        chain.heard(message(1, 27, 28, &[]));
        assert_eq!(told(&mut chain), ["gap 20-25", "gap 26-27"]);
        assert_eq!(chain.revision(), Some(28));
    }

    #[test]
    fn gaps_that_touch_are_one() {
        let mut chain = Chain::default();
        chain.heard(message(1, 3, 3, &[]));
        chain.heard(message(1, 5, 5, &[]));
        chain.heard(message(1, 9, 9, &[]));
        chain.heard(message(1, 10, 11, &[11]));
        assert_eq!(told(&mut chain), ["gap 3-10", "11"]);
    }

    #[test]
    fn another_history_is_told_and_gone_on_in() {
        let mut chain = Chain::default();
        chain.heard(message(1, 8, 8, &[]));
        chain.heard(message(2, 5, 9, &[6, 9]));
        assert_eq!(told(&mut chain), ["other 5", "6", "9"]);
        // The same one, set back.
        chain.heard(message(2, 4, 4, &[]));
        chain.heard(message(2, 4, 5, &[5]));
        assert_eq!(told(&mut chain), ["other 4", "5"]);
    }
}

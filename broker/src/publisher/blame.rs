//! Which subscribers do not read, where libzmq holds much that somebody has not read.
//!
//! libzmq does not tell whose queue is how long. But it hands a connection to the kernel as much as that takes, so one with a queue takes
//! nothing more most of the time, and one whose program does not read takes nothing at any time.
//!
//! - Nobody is suspected while little is unread. Whoever was found to take something once is free.
//! - Whoever has taken nothing for [`PATIENCE`], at each of many looks, is to blame.
//!
//! Caveat: who reads, but always less than is published, can be taken for one who does not. It is what holds the memory just as well.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How long a subscriber may take nothing,
pub(super) const PATIENCE: Duration = Duration::from_secs(1);
/// and how often it is looked at meanwhile.
pub(super) const LOOK: Duration = Duration::from_millis(25);
/// Fewer looks than this say nothing: this thread itself may have had no time.
const LOOKS_MIN: u32 = 20;

/// Those who are suspected.
#[derive(Debug, Default)]
pub(super) struct Blame {
    suspects: HashMap<u32, Suspect>,
    next_look: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Suspect {
    since: Instant,
    looks: u32,
}

impl Blame {
    /// Nothing is unread that would be worth a look.
    pub(super) fn forget(&mut self) {
        *self = Blame::default();
    }

    /// When to look again.
    pub(super) fn next_look(&self) -> Option<Instant> {
        self.next_look
    }

    /// Looks at the connections, if it is time for that: `is_stuck` says of one whether it takes nothing now. Gives those that are to
    /// blame, once.
    pub(super) fn look(
        &mut self,
        now: Instant,
        connections: impl Iterator<Item = u32>,
        is_stuck: impl Fn(u32) -> bool,
    ) -> Vec<u32> {
        if self.next_look.is_some_and(|next| now < next) {
            return Vec::new();
        }
        self.next_look = Some(now + LOOK);
        let before = std::mem::take(&mut self.suspects);
        let mut to_blame = Vec::new();
        for connection in connections.filter(|connection| is_stuck(*connection)) {
            let Suspect { since, looks } = before.get(&connection).copied().unwrap_or(Suspect { since: now, looks: 0 });
            let suspect = Suspect { since, looks: looks + 1 };
            if suspect.looks >= LOOKS_MIN && now.saturating_duration_since(since) >= PATIENCE {
                to_blame.push(connection);
            } else {
                self.suspects.insert(connection, suspect);
            }
        }
        to_blame
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks for so long; says who was blamed and when.
    fn looks(blame: &mut Blame, from: Instant, time: Duration, is_stuck: impl Fn(u32, Duration) -> bool) -> Vec<(u32, Duration)> {
        let mut found = Vec::new();
        let mut passed = Duration::ZERO;
        while passed < time {
            let blamed = blame.look(from + passed, [1, 2, 3].into_iter(), |connection| is_stuck(connection, passed));
            found.extend(blamed.into_iter().map(|connection| (connection, passed)));
            // More often than it looks.
            passed += LOOK / 2;
        }
        found
    }

    #[test]
    fn who_never_takes_anything_is_to_blame_and_who_does_once_is_not() {
        let (mut blame, now) = (Blame::default(), Instant::now());
        // The second one takes something from time to time.
        let is_stuck = |connection, passed: Duration| match connection {
            1 => true,
            2 => passed.as_millis() % 700 > 50,
            _ => false,
        };
        let found = looks(&mut blame, now, 3 * PATIENCE / 2, is_stuck);
        assert_eq!(found, [(1, PATIENCE)]);
    }

    #[test]
    fn looks_that_this_thread_had_no_time_for_do_not_count() {
        let (mut blame, now) = (Blame::default(), Instant::now());
        assert!(blame.look(now, [1].into_iter(), |_| true).is_empty());
        assert!(blame.look(now + 3 * PATIENCE, [1].into_iter(), |_| true).is_empty());
        // Nor do those from before everything was read.
        looks(&mut blame, now + 3 * PATIENCE, PATIENCE / 2, |_, _| true);
        blame.forget();
        assert!(blame.next_look().is_none());
        assert!(blame.look(now + 9 * PATIENCE, [1].into_iter(), |_| true).is_empty());
    }
}

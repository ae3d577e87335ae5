//! Users who may not subscribe for a while, because they subscribed to too much.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kvbroker::zap::Policy;

/// Shared by the publisher, which shuts out, and its door, which asks.
#[derive(Debug, Default)]
pub(crate) struct ShutOut {
    until: Mutex<HashMap<Box<str>, Instant>>,
}

/// Users whose time is over are forgotten when there are more than this.
const FORGET_ABOVE: usize = 64;

impl ShutOut {
    /// Keeps a user out for `time` from `now` on.
    pub(crate) fn add(&self, user: &str, now: Instant, time: Duration) {
        let mut until = self.lock();
        if until.len() > FORGET_ABOVE {
            until.retain(|_, end| *end > now);
        }
        until.insert(user.into(), now + time);
    }

    /// Whether this user may subscribe.
    pub(crate) fn admits(&self, user: &str, now: Instant) -> bool {
        self.lock().get(user).is_none_or(|end| *end <= now)
    }

    /// The policy of a door that keeps these users out as well.
    pub(crate) fn guard(self: &Arc<Self>, policy: Policy) -> Policy {
        let shut_out = Arc::clone(self);
        Policy { users: Arc::new(move |user| shut_out.admits(user, Instant::now())), ..policy }
    }

    /// A panic can't leave the map half changed: poison means nothing here.
    fn lock(&self) -> MutexGuard<'_, HashMap<Box<str>, Instant>> {
        self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_by_itself() {
        let (shut_out, now, minute) = (ShutOut::default(), Instant::now(), Duration::from_secs(60));
        shut_out.add("kvpub1a", now, minute);
        assert!(!shut_out.admits("kvpub1a", now));
        assert!(shut_out.admits("kvpub1b", now));
        assert!(shut_out.admits("kvpub1a", now + minute));
    }

    #[test]
    fn who_may_come_back_is_forgotten() {
        let (shut_out, now, minute) = (ShutOut::default(), Instant::now(), Duration::from_secs(60));
        for user in 0..1_000_u32 {
            shut_out.add(&user.to_string(), now + minute * user, minute);
        }
        assert!(shut_out.lock().len() <= FORGET_ABOVE + 1);
    }
}

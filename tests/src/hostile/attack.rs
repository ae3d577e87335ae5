//! The attacks by name, and what runs one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use super::{Target, strangers, users};

/// A way to do harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attack {
    /// A thousand TCP connections that never say anything, made again when they are ended.
    Silent,
    /// A hundred handshakes that go on by a byte every now and then.
    SlowHandshakes,
    /// Fifty connections of programs of the owner's, each with a message of 16 MB that comes byte by byte.
    Dribble,
    /// Connections that send random bytes, half of them behind a good greeting.
    RandomBytes,
    /// Messages of thousands of frames, 32 MB each, from a user who is let in.
    HugeMultiparts,
    /// Scans whose pages of megabytes nobody reads, over dozens of connections of a restricted user.
    UnreadScans,
    /// Subscriptions without end of a user who may read everything.
    Subscriptions,
    /// The same with topics of a kilobyte over a hundred connections at once.
    LargeSubscriptions,
    /// The same of a restricted user, whom the publisher doesn't let in.
    RefusedSubscriptions,
    /// Sessions opened for ever by a restricted user.
    Sessions,
    /// Long polls parked by a restricted user, thousands of them.
    ParkedEvents,
}

impl Attack {
    /// Every one.
    pub const ALL: [Attack; 11] = [
        Attack::Silent,
        Attack::SlowHandshakes,
        Attack::Dribble,
        Attack::RandomBytes,
        Attack::HugeMultiparts,
        Attack::UnreadScans,
        Attack::Subscriptions,
        Attack::LargeSubscriptions,
        Attack::RefusedSubscriptions,
        Attack::Sessions,
        Attack::ParkedEvents,
    ];

    /// Its name in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Attack::Silent => "1,000 silent connections",
            Attack::SlowHandshakes => "100 slow handshakes",
            Attack::Dribble => "50 messages byte by byte",
            Attack::RandomBytes => "random bytes",
            Attack::HugeMultiparts => "multipart messages of 32 MB",
            Attack::UnreadScans => "restricted key: unread scans",
            Attack::Subscriptions => "reading key: endless subscriptions",
            Attack::LargeSubscriptions => "reading key: topics of 1 KB, 100 connections",
            Attack::RefusedSubscriptions => "restricted key: endless subscriptions",
            Attack::Sessions => "restricted key: endless sessions",
            Attack::ParkedEvents => "restricted key: long polls",
        }
    }

    /// What its [`Attacker::done`] counts.
    #[must_use]
    pub fn unit(self) -> &'static str {
        match self {
            Attack::Silent | Attack::RandomBytes | Attack::RefusedSubscriptions => "connections",
            Attack::SlowHandshakes | Attack::Dribble => "bytes",
            Attack::HugeMultiparts => "messages",
            Attack::UnreadScans => "scans",
            Attack::Subscriptions | Attack::LargeSubscriptions => "topics",
            Attack::Sessions => "hellos",
            Attack::ParkedEvents => "polls",
        }
    }

    /// So much of it must have been done for it to count as an attack.
    #[must_use]
    pub fn least(self) -> u64 {
        match self {
            Attack::Silent => 1_000,
            Attack::SlowHandshakes | Attack::Dribble => 2_000,
            Attack::RandomBytes => 200,
            Attack::HugeMultiparts => 8,
            Attack::UnreadScans => 500,
            Attack::Subscriptions | Attack::LargeSubscriptions => 100_000,
            Attack::RefusedSubscriptions => 20,
            Attack::Sessions => 5_000,
            Attack::ParkedEvents => 5_000,
        }
    }

    /// Begins it.
    ///
    /// # Panics
    /// Without threads.
    #[must_use]
    pub fn start(self, target: &Target) -> Attacker {
        let shared = Progress::default();
        let run: fn(&Target, &Progress) = match self {
            Attack::Silent => strangers::silent,
            Attack::SlowHandshakes => strangers::slow_handshakes,
            Attack::Dribble => strangers::dribble,
            Attack::RandomBytes => strangers::random_bytes,
            Attack::HugeMultiparts => users::huge_multiparts,
            Attack::UnreadScans => users::unread_scans,
            Attack::Subscriptions => users::subscriptions,
            Attack::LargeSubscriptions => users::large_subscriptions,
            Attack::RefusedSubscriptions => users::refused_subscriptions,
            Attack::Sessions => users::sessions,
            Attack::ParkedEvents => users::parked_events,
        };
        let (target, progress) = (target.clone(), shared.clone());
        let thread = std::thread::spawn(move || run(&target, &progress));
        Attacker { progress: shared, thread: Some(thread) }
    }
}

/// What an attack and its owner share.
#[derive(Clone, Default)]
pub(super) struct Progress {
    done: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Progress {
    pub(super) fn add(&self, units: u64) {
        self.done.fetch_add(units, Ordering::Relaxed);
    }

    pub(super) fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// A running attack; it ends when this is dropped.
pub struct Attacker {
    progress: Progress,
    thread: Option<JoinHandle<()>>,
}

impl Attacker {
    /// How much it has done, in its [`Attack::unit`].
    #[must_use]
    pub fn done(&self) -> u64 {
        self.progress.done.load(Ordering::Relaxed)
    }

    /// Ends it.
    ///
    /// # Panics
    /// If it had failed.
    pub fn stop(mut self) {
        self.progress.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the attack went wrong by itself");
        }
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        self.progress.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Its panic has been printed.
            let _ = thread.join();
        }
    }
}

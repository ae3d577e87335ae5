//! Where time comes from: a real clock and its simulated twin.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// One reading of both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// Microseconds since some fixed point; runs on while the machine sleeps, never jumps (CLOCK_BOOTTIME).
    pub boot_us: u64,
    /// Microseconds since 1970-01-01 UTC as the machine believes; may jump.
    pub wall_us: u64,
}

/// A source of time.
pub trait Clock: Send {
    /// Reads both clocks.
    fn now(&self) -> Times;
}

/// The machine's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Times {
        let boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let boot_us = u64::try_from(boot.tv_sec).unwrap_or(0) * 1_000_000 + u64::try_from(boot.tv_nsec).unwrap_or(0) / 1_000;
        // A wall clock before 1970 reads as 0; the stamp then follows the log and the boot clock.
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Times { boot_us, wall_us: u64::try_from(wall.as_micros()).unwrap_or(u64::MAX) }
    }
}

/// A clock that a test sets.
#[derive(Debug, Default)]
pub struct SimClock {
    boot_us: AtomicU64,
    wall_us: AtomicU64,
}

impl SimClock {
    /// A clock whose wall reads `wall_us`.
    pub fn new(wall_us: u64) -> SimClock {
        SimClock { boot_us: AtomicU64::new(0), wall_us: AtomicU64::new(wall_us) }
    }

    /// Both clocks go on.
    pub fn advance(&self, us: u64) {
        self.boot_us.fetch_add(us, Ordering::Relaxed);
        self.wall_us.fetch_add(us, Ordering::Relaxed);
    }

    /// The wall clock jumps.
    pub fn set_wall(&self, wall_us: u64) {
        self.wall_us.store(wall_us, Ordering::Relaxed);
    }
}

impl Clock for std::sync::Arc<SimClock> {
    fn now(&self) -> Times {
        Times { boot_us: self.boot_us.load(Ordering::Relaxed), wall_us: self.wall_us.load(Ordering::Relaxed) }
    }
}

//! How fast a checkpoint may read and write: a token bucket whose rate follows the log.
//!
//! - While the log is short, [`RATE_MIN`]: the disk and the cores belong to the requests.
//! - The rate rises with the log behind the checkpoint and has no limit from three quarters of the bound on, at which mutations are
//!   refused: whoever writes faster than the checkpoint is made is slowed by it only after it has all it can get.
//! - The bucket is pure. It is told the time and what was spent, and never waits itself.

use std::time::Duration;

/// Bytes of input and output in a second while the log is short.
pub(crate) const RATE_MIN: u64 = 32 << 20;
/// The rate just before there is no limit any more.
const RATE_MAX: u64 = 512 << 20;
/// Most bytes of one step: between two steps a stop is noticed and the rate looked at.
pub(crate) const STEP_MAX: u64 = 1 << 20;
/// Smaller steps are not worth a wait.
const STEP_MIN: u64 = 256 << 10;

const _: () = assert!(STEP_MIN <= STEP_MAX && STEP_MAX <= RATE_MIN && RATE_MIN < RATE_MAX);

/// How long the log behind the checkpoint is, and what that means. All in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Behind {
    /// Log behind the checkpoint.
    pub bytes: u64,
    /// The part of it that is in sealed segments: what a checkpoint can take in.
    pub sealed_bytes: u64,
    /// A checkpoint is made once there is more than this.
    pub due_bytes: u64,
    /// Mutations are refused while there is more than this.
    pub bytes_max: u64,
}

impl Behind {
    /// Bytes of input and output in a second; None: as many as can be.
    pub(crate) fn rate(self) -> Option<u64> {
        let free = self.bytes_max / 4 * 3;
        if self.bytes >= free {
            return None;
        }
        let Some(above) = self.bytes.checked_sub(self.due_bytes) else { return Some(RATE_MIN) };
        // Both are below `free`, so there is a range.
        let range = u128::from(free - self.due_bytes.min(free - 1));
        let more = u128::from(RATE_MAX - RATE_MIN) * u128::from(above) / range;
        Some(RATE_MIN + u64::try_from(more).unwrap_or(RATE_MAX - RATE_MIN))
    }

    /// True while mutations are refused.
    pub(crate) fn is_too_long(self) -> bool {
        self.bytes > self.bytes_max
    }
}

/// The bucket: what may be spent now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    at_us: u64,
    /// Below zero when a step took more than it was allowed.
    bytes: i128,
}

impl Bucket {
    /// A bucket with one step in it.
    pub(crate) fn new(now_us: u64) -> Bucket {
        Bucket { at_us: now_us, bytes: i128::from(STEP_MAX) }
    }

    /// How many bytes the next step may take, or how long to wait before asking again.
    pub(crate) fn allow(&mut self, now_us: u64, rate: Option<u64>) -> Result<u64, Duration> {
        let passed_us = now_us.saturating_sub(self.at_us);
        self.at_us = self.at_us.max(now_us);
        let Some(rate) = rate else {
            // What was owed is forgiven: it was owed to requests that are refused now.
            self.bytes = i128::from(STEP_MAX);
            return Ok(STEP_MAX);
        };
        let earned = i128::from(rate) * i128::from(passed_us) / 1_000_000;
        self.bytes = (self.bytes + earned).min(i128::from(STEP_MAX));
        let missing = i128::from(STEP_MIN) - self.bytes;
        if missing <= 0 {
            return Ok(u64::try_from(self.bytes).unwrap_or(STEP_MAX));
        }
        let wait_us = (missing * 1_000_000).div_euclid(i128::from(rate.max(1))) + 1;
        Err(Duration::from_micros(u64::try_from(wait_us).unwrap_or(u64::MAX)))
    }

    /// A step took so many.
    pub(crate) fn spend(&mut self, bytes: u64) {
        self.bytes -= i128::from(bytes);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const MIB: u64 = 1 << 20;

    fn behind(bytes: u64) -> Behind {
        Behind { bytes, sealed_bytes: bytes, due_bytes: 64 * MIB, bytes_max: 256 * MIB }
    }

    #[test]
    fn the_rate_rises_with_the_log_and_ends_before_mutations_are_refused() {
        assert_eq!(behind(0).rate(), Some(RATE_MIN));
        assert_eq!(behind(64 * MIB).rate(), Some(RATE_MIN));
        assert_eq!(behind(128 * MIB).rate(), Some((RATE_MIN + RATE_MAX) / 2));
        assert!(behind(192 * MIB - 1).rate().unwrap() > RATE_MAX - MIB);
        assert_eq!(behind(192 * MIB).rate(), None);
        assert_eq!(behind(u64::MAX).rate(), None);
        assert!(!behind(256 * MIB).is_too_long() && behind(256 * MIB + 1).is_too_long());
        let rates: Vec<u64> = (0..192).map(|mib| behind(mib * MIB).rate().unwrap()).collect();
        assert!(rates.is_sorted());
        // Bounds that leave no range are no division by zero.
        for due_bytes in [0, 1, 3, 4, 5] {
            let rate = Behind { bytes: 2, sealed_bytes: 2, due_bytes, bytes_max: 4 }.rate();
            assert!(rate.is_none_or(|rate| (RATE_MIN..=RATE_MAX).contains(&rate)), "{due_bytes}: {rate:?}");
        }
        assert_eq!(Behind::default().rate(), None);
    }

    /// Works as fast as the bucket lets it, for ten seconds; each step takes `over` bytes more than allowed. Gives what it took.
    fn ten_seconds(rate: Option<u64>, over: u64, step_us: u64) -> u64 {
        let (mut now_us, mut taken) = (5_000_000, 0);
        let mut bucket = Bucket::new(now_us);
        while now_us < 15_000_000 {
            match bucket.allow(now_us, rate) {
                Ok(bytes) => {
                    assert!((STEP_MIN..=STEP_MAX).contains(&bytes), "{bytes}");
                    bucket.spend(bytes + over);
                    taken += bytes + over;
                    now_us += step_us;
                }
                Err(wait) => {
                    assert!(!wait.is_zero());
                    now_us += u64::try_from(wait.as_micros()).unwrap();
                }
            }
        }
        taken
    }

    #[test]
    fn what_is_taken_follows_the_rate_whatever_the_steps_are() {
        for (over, step_us) in [(0, 10), (0, 5_000), (3 * MIB, 100), (1, 1)] {
            let taken = ten_seconds(Some(RATE_MIN), over, step_us);
            let most = 10 * RATE_MIN + 2 * STEP_MAX + over;
            assert!(taken <= most && taken >= 10 * RATE_MIN * 99 / 100, "{over} {step_us}: {taken}");
        }
        assert_eq!(ten_seconds(None, 0, 1_000), 10_000 * STEP_MAX, "without a limit there is no wait");
    }

    #[test]
    fn a_long_pause_saves_up_one_step_only() {
        let mut bucket = Bucket::new(0);
        assert_eq!(bucket.allow(3_600_000_000, Some(RATE_MIN)), Ok(STEP_MAX));
        bucket.spend(STEP_MAX);
        assert!(bucket.allow(3_600_000_000, Some(RATE_MIN)).is_err());
        // A clock that goes back gives nothing and breaks nothing.
        assert!(bucket.allow(0, Some(RATE_MIN)).is_err());
        bucket.spend(100 * MIB);
        assert_eq!(bucket.allow(3_600_000_000, None), Ok(STEP_MAX), "debts end where there is no limit");
    }
}

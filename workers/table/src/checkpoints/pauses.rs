//! How long to wait after a checkpoint that failed: longer each time, and not for ever.

const FIRST_US: u64 = 1_000_000;
const LONGEST_US: u64 = 60_000_000;

/// Pauses between attempts, each twice as long as the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pauses {
    failures: u32,
    until_us: u64,
}

impl Pauses {
    /// An attempt failed; gives how many have failed in a row.
    pub(crate) fn failed(&mut self, now_us: u64) -> u32 {
        let pause_us = FIRST_US.saturating_mul(1 << self.failures.min(20)).min(LONGEST_US);
        self.failures = self.failures.saturating_add(1);
        self.until_us = now_us.saturating_add(pause_us);
        self.failures
    }

    /// An attempt succeeded.
    pub(crate) fn succeeded(&mut self) {
        *self = Pauses::default();
    }

    /// How long it is until the next attempt, microseconds; 0: now.
    pub(crate) fn left_us(&self, now_us: u64) -> u64 {
        self.until_us.saturating_sub(now_us)
    }

    /// True after a failure.
    pub(crate) fn is_failing(&self) -> bool {
        self.failures > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_minute_and_start_over() {
        let mut pauses = Pauses::default();
        assert_eq!(pauses.left_us(7), 0);
        let seconds = (1..=8).map(|count| {
            assert_eq!(pauses.failed(1_000), count);
            assert_eq!(pauses.left_us(u64::MAX), 0);
            pauses.left_us(1_000) / 1_000_000
        });
        assert_eq!(seconds.collect::<Vec<_>>(), [1, 2, 4, 8, 16, 32, 60, 60]);
        assert!(pauses.is_failing());
        pauses.succeeded();
        assert_eq!((pauses.left_us(1_000), pauses.is_failing()), (0, false));
        assert_eq!(pauses.failed(0), 1);
        assert_eq!(pauses.left_us(0), FIRST_US);
    }
}

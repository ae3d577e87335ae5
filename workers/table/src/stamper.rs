//! The stamp: time that never goes back.
//!
//! It follows the boot clock and is drawn towards the wall clock by at most 1 % of the time that passes, so that a jump of the
//! wall clock moves no deadline by more than that. At start it is the larger of the last logged stamp and the wall clock.

use crate::clock::Times;

/// What is worth saying about the machine's clock at start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockVerdict {
    /// Nothing: time has gone on since the last stamp.
    Normal,
    /// The wall clock is behind the last stamp by this many milliseconds.
    Behind(u64),
    /// The wall clock is ahead of the last stamp by more than a year: this many milliseconds.
    FarAhead(u64),
    /// The wall clock is ahead by more than ten years: not believed without being told to.
    Absurd(u64),
}

const YEAR_MS: u64 = 365 * 24 * 3_600 * 1_000;

/// Makes stamps from clock readings; pure.
#[derive(Clone, Debug)]
pub struct Stamper {
    stamp_us: u64,
    boot_us: u64,
    /// Hundredths of a microsecond of pull that were too few to move the stamp.
    pull_rest: u64,
}

impl Stamper {
    /// Starts behind the last logged stamp (0: nothing was ever logged).
    pub fn start(last_logged_ms: u64, now: Times) -> (Stamper, ClockVerdict) {
        let wall_ms = now.wall_us / 1_000;
        let verdict = match wall_ms.checked_sub(last_logged_ms) {
            None => ClockVerdict::Behind(last_logged_ms - wall_ms),
            Some(_) if last_logged_ms == 0 => ClockVerdict::Normal,
            Some(ahead) if ahead > 10 * YEAR_MS => ClockVerdict::Absurd(ahead),
            Some(ahead) if ahead > YEAR_MS => ClockVerdict::FarAhead(ahead),
            Some(_) => ClockVerdict::Normal,
        };
        let stamp_us = now.wall_us.max(last_logged_ms.saturating_mul(1_000));
        (Stamper { stamp_us, boot_us: now.boot_us, pull_rest: 0 }, verdict)
    }

    /// The stamp for this reading of the clocks, milliseconds.
    pub fn stamp_ms(&mut self, now: Times) -> u64 {
        let passed_us = now.boot_us.saturating_sub(self.boot_us);
        self.boot_us = self.boot_us.max(now.boot_us);
        let even = self.stamp_us.saturating_add(passed_us);
        // Under load the readings are less than 100 µs apart: what is rounded off must not be lost each time.
        let pull = passed_us.saturating_add(self.pull_rest);
        let pull_us = pull / 100;
        self.pull_rest = pull % 100;
        self.stamp_us =
            if even < now.wall_us { even + pull_us.min(now.wall_us - even) } else { even - pull_us.min(even - now.wall_us) };
        self.stamp_us / 1_000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(boot_s: u64, wall_s: u64) -> Times {
        Times { boot_us: boot_s * 1_000_000, wall_us: wall_s * 1_000_000 }
    }

    #[test]
    fn jumps_of_the_wall_clock_are_followed_by_one_percent() {
        let (mut stamper, verdict) = Stamper::start(0, at(0, 1_000_000));
        assert_eq!(verdict, ClockVerdict::Normal);
        assert_eq!(stamper.stamp_ms(at(10, 1_000_010)), 1_000_010_000);
        // An hour ahead: ten seconds later the stamp has gained a tenth of a second.
        assert_eq!(stamper.stamp_ms(at(20, 1_003_620)), 1_000_020_100);
        // An hour behind: the stamp goes on, a little slower, and never back.
        assert_eq!(stamper.stamp_ms(at(30, 996_420)), 1_000_030_000);
        assert_eq!(stamper.stamp_ms(at(30, 0)), 1_000_030_000);
    }

    #[test]
    fn readings_close_together_are_drawn_to_the_wall_clock_too() {
        let (mut stamper, _) = Stamper::start(0, at(0, 1_000));
        let ahead_us = 1_060_000_000;
        for step in 1..=200_000 {
            // 50 µs apart, with the wall a minute ahead: 1 % of ten seconds is gained.
            stamper.stamp_ms(Times { boot_us: step * 50, wall_us: ahead_us + step * 50 });
        }
        assert_eq!(stamper.stamp_ms(Times { boot_us: 10_000_000, wall_us: ahead_us + 10_000_000 }), 1_010_100);
    }

    #[test]
    fn the_start_is_behind_neither_log_nor_wall() {
        let (mut stamper, verdict) = Stamper::start(5_000, at(0, 2));
        assert_eq!(verdict, ClockVerdict::Behind(3_000));
        assert_eq!(stamper.stamp_ms(at(0, 2)), 5_000);
        assert_eq!(Stamper::start(1, at(0, 400 * 24 * 3_600)).1, ClockVerdict::FarAhead(400 * 24 * 3_600_000 - 1));
        assert!(matches!(Stamper::start(1, at(0, 11 * 365 * 24 * 3_600)).1, ClockVerdict::Absurd(_)));
    }
}

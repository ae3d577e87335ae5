//! Warnings that would repeat: the first at once, the others counted.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Between two reports of a count.
const PAUSE: Duration = Duration::from_secs(60);

/// Counts one kind of warning; meant to be a `static` beside it.
///
/// ```
/// use kvbroker::logging::Repeated;
/// static REFUSED: Repeated = Repeated::new();
/// if let Some(silenced) = REFUSED.hit() {
///     tracing::warn!(silenced, "a peer was refused");
/// }
/// ```
#[derive(Debug, Default)]
pub struct Repeated {
    silenced: AtomicU64,
    /// Milliseconds since the first use of any of these, plus one; 0: never reported.
    reported_ms: AtomicU64,
}

impl Repeated {
    /// A counter at zero.
    #[must_use]
    pub const fn new() -> Self {
        Self { silenced: AtomicU64::new(0), reported_ms: AtomicU64::new(0) }
    }

    /// Call when the warning is due. `Some(n)`: print it, `n` were silenced since
    /// the last time; `None`: it was counted instead. The first is always printed,
    /// then at most one a minute.
    #[must_use]
    pub fn hit(&self) -> Option<u64> {
        static START: OnceLock<Instant> = OnceLock::new();
        self.hit_at(START.get_or_init(Instant::now).elapsed())
    }

    fn hit_at(&self, now: Duration) -> Option<u64> {
        let now_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX - 1).saturating_add(1);
        let reported_ms = self.reported_ms.load(Ordering::Acquire);
        let is_due = reported_ms == 0 || u128::from(now_ms.saturating_sub(reported_ms)) >= PAUSE.as_millis();
        let is_ours =
            is_due && self.reported_ms.compare_exchange(reported_ms, now_ms, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if is_ours {
            return Some(self.silenced.swap(0, Ordering::AcqRel));
        }
        self.silenced.fetch_add(1, Ordering::AcqRel);
        None
    }

    /// What was silenced and not reported yet, taken: for a last line at the end.
    pub fn take_silenced(&self) -> u64 {
        self.silenced.swap(0, Ordering::AcqRel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_printed_and_the_others_are_counted() {
        let warning = Repeated::new();
        let at = |seconds| warning.hit_at(Duration::from_secs(seconds));
        assert_eq!(at(5), Some(0));
        assert_eq!([at(5), at(6), at(64)], [None; 3]);
        assert_eq!(at(65), Some(3));
        assert_eq!(at(66), None);
        assert_eq!(warning.take_silenced(), 1);
        assert_eq!(warning.take_silenced(), 0);
        assert_eq!(at(200), Some(0));
    }
}

//! What a client notes while it measures: as little work for each operation as can be.

use crate::measure::{Latencies, Measured};
use crate::mixes::Act;
use crate::timeline::{Slice, Slicer};

/// So many of the fastest and of the slowest operations are told.
pub(crate) const OUTLIERS: usize = 10;

/// One operation that ended, or several of one request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    /// Its kind, where kinds are told apart.
    pub(crate) act: Option<Act>,
    /// From when its latency counts.
    pub(crate) since_ns: u64,
    /// When its reply was read.
    pub(crate) now_ns: u64,
    pub(crate) operations: u64,
    pub(crate) rows: u64,
}

/// The figures of a stage while they grow.
pub(crate) struct Recorder {
    measured: Measured,
    slicer: Slicer,
    wants_outliers: bool,
    tell: fn(Slice),
}

impl Recorder {
    /// A stage that began at `began_ns` for all. Each slice of it is told.
    pub(crate) fn new(began_ns: u64, started_ns: u64, slice_ns: u64, wants_outliers: bool, tell: fn(Slice)) -> Recorder {
        Recorder { measured: Measured::begun(started_ns), slicer: Slicer::new(began_ns, slice_ns), wants_outliers, tell }
    }

    pub(crate) fn record(&mut self, ended: Ended) {
        let Ended { act, since_ns, now_ns, operations, rows } = ended;
        let latency_ns = now_ns.saturating_sub(since_ns);
        let measured = &mut self.measured;
        measured.latencies.record(latency_ns, operations);
        measured.operations += operations;
        measured.rows += rows;
        measured.ended_ns = measured.ended_ns.max(now_ns);
        if let Some(act) = act {
            self.kind(act).record(latency_ns, operations);
        }
        if self.wants_outliers {
            let Measured { fastest, slowest, .. } = &mut self.measured;
            keep(fastest, (latency_ns, now_ns), |new, old| new < old);
            keep(slowest, (latency_ns, now_ns), |new, old| new > old);
        }
        if let Some(slice) = self.slicer.record(now_ns, latency_ns, operations) {
            (self.tell)(slice);
        }
    }

    fn kind(&mut self, act: Act) -> &mut Latencies {
        let kinds = &mut self.measured.kinds;
        let place = kinds.iter().position(|(other, _)| *other == act).unwrap_or_else(|| {
            kinds.push((act, Latencies::new()));
            kinds.len() - 1
        });
        &mut kinds[place].1
    }

    /// The stage is over.
    pub(crate) fn finish(mut self, cpu_ns: u64) -> Measured {
        if let Some(slice) = self.slicer.take() {
            (self.tell)(slice);
        }
        self.measured.cpu_ns = cpu_ns;
        self.measured
    }
}

/// Keeps the first ones in an order.
fn keep(kept: &mut Vec<(u64, u64)>, new: (u64, u64), is_before: fn(u64, u64) -> bool) {
    if kept.len() == OUTLIERS && kept.last().is_some_and(|last| !is_before(new.0, last.0)) {
        return;
    }
    let place = kept.iter().position(|old| is_before(new.0, old.0)).unwrap_or(kept.len());
    kept.insert(place, new);
    kept.truncate(OUTLIERS);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fastest_and_the_slowest_are_kept_in_their_order() {
        let mut recorder = Recorder::new(0, 0, 1_000, true, |_| {});
        for number in 0..1_000_u64 {
            let latency_ns = (number * 7_919) % 1_000 + 1;
            let act = Some(if number % 2 == 0 { Act::Read } else { Act::Update });
            recorder.record(Ended {
                act,
                since_ns: 10_000 + number,
                now_ns: 10_000 + number + latency_ns,
                operations: 1,
                rows: 2,
            });
        }
        let measured = recorder.finish(5);
        let latencies = |kept: &[(u64, u64)]| kept.iter().map(|(latency_ns, _)| *latency_ns).collect::<Vec<_>>();
        assert_eq!(latencies(&measured.fastest), (1..=10).collect::<Vec<_>>());
        assert_eq!(latencies(&measured.slowest), (991..=1_000).rev().collect::<Vec<_>>());
        assert_eq!((measured.operations, measured.rows, measured.cpu_ns), (1_000, 2_000, 5));
        assert_eq!(
            measured.kinds.iter().map(|(act, kind)| (*act, kind.count())).collect::<Vec<_>>(),
            [(Act::Read, 500), (Act::Update, 500)]
        );
    }
}

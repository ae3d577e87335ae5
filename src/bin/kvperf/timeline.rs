//! How a stage went, moment by moment.
//!
//! - A client tells what ended in each slice of the stage's time: latencies to two digits, and the largest as it was.
//! - Slices are counted from the stage's beginning, which is the same for all clients. One in which nothing ended is not told.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::result::Moment;

/// Bits of a latency that are kept: more than two decimal digits.
const BITS: u32 = 7;

/// What ended in one slice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Slice {
    /// Which, from the stage's beginning.
    pub(crate) index: u64,
    /// Latencies in nanoseconds, rounded up, and how many operations had them.
    pub(crate) counts: Vec<(u64, u64)>,
    pub(crate) max_ns: u64,
}

/// Gathers one slice after the other, in the client.
#[derive(Debug)]
pub(crate) struct Slicer {
    began_ns: u64,
    slice_ns: u64,
    index: u64,
    counts: BTreeMap<u64, u64>,
    max_ns: u64,
}

impl Slicer {
    pub(crate) fn new(began_ns: u64, slice_ns: u64) -> Slicer {
        Slicer { began_ns, slice_ns: slice_ns.max(1), index: 0, counts: BTreeMap::new(), max_ns: 0 }
    }

    /// Notes operations that ended now. Gives the slice that is over, if one is.
    pub(crate) fn record(&mut self, now_ns: u64, latency_ns: u64, operations: u64) -> Option<Slice> {
        let index = now_ns.saturating_sub(self.began_ns) / self.slice_ns;
        let over = if index > self.index { self.take() } else { None };
        self.index = self.index.max(index);
        *self.counts.entry(rounded(latency_ns)).or_default() += operations;
        self.max_ns = self.max_ns.max(latency_ns);
        over
    }

    /// What is gathered so far. None: nothing.
    pub(crate) fn take(&mut self) -> Option<Slice> {
        let counts: Vec<(u64, u64)> = std::mem::take(&mut self.counts).into_iter().collect();
        let max_ns = std::mem::take(&mut self.max_ns);
        (!counts.is_empty()).then_some(Slice { index: self.index, counts, max_ns })
    }
}

/// The largest latency with the same leading bits.
fn rounded(latency_ns: u64) -> u64 {
    let dropped = (u64::BITS - latency_ns.leading_zeros()).saturating_sub(BITS);
    latency_ns | ((1 << dropped) - 1)
}

/// Slices of all clients.
#[derive(Debug)]
pub(crate) struct Timeline {
    pub(crate) slice_ns: u64,
    slices: BTreeMap<u64, Vec<Slice>>,
}

impl Timeline {
    pub(crate) fn new(slice_ns: u64) -> Timeline {
        Timeline { slice_ns: slice_ns.max(1), slices: BTreeMap::new() }
    }

    pub(crate) fn add(&mut self, slice: Slice) {
        self.slices.entry(slice.index).or_default().push(slice);
    }

    /// All slices of all clients, in the order of time.
    pub(crate) fn slices(&self) -> impl Iterator<Item = &Slice> {
        self.slices.values().flatten()
    }

    /// The timeline in moments of so many slices.
    pub(crate) fn moments(&self, slices: u64) -> Vec<Moment> {
        let slices = slices.max(1);
        let mut moments: Vec<Moment> = Vec::new();
        let mut from = 0;
        while let Some((index, _)) = self.slices.range(from..).next() {
            let begin = index / slices * slices;
            from = begin + slices;
            moments.extend(self.moment(begin, from));
        }
        moments
    }

    /// The slices from one on to before another one, together. None: nothing ended in them.
    pub(crate) fn moment(&self, begin: u64, end: u64) -> Option<Moment> {
        let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
        let (mut operations, mut max_ns) = (0, 0);
        for slice in self.slices.range(begin..end).flat_map(|(_, slices)| slices) {
            for (latency_ns, count) in &slice.counts {
                *counts.entry(*latency_ns).or_default() += count;
                operations += count;
            }
            max_ns = max_ns.max(slice.max_ns);
        }
        let quantile_us = |quantile: f64| {
            let mut wanted = ((operations as f64 * quantile).ceil() as u64).max(1);
            let found = counts.iter().find(|(_, count)| {
                let is_it = wanted <= **count;
                wanted = wanted.saturating_sub(**count);
                is_it
            });
            found.map_or(0, |(latency_ns, _)| (*latency_ns).min(max_ns)) as f64 / 1e3
        };
        (operations > 0).then(|| Moment {
            t_ms: begin as f64 * self.slice_ns as f64 / 1e6,
            operations,
            p50_us: quantile_us(0.5),
            p99_us: quantile_us(0.99),
            max_us: max_ns as f64 / 1e3,
        })
    }

    /// Behind the last slice that was told.
    pub(crate) fn end(&self) -> u64 {
        self.slices.last_key_value().map_or(0, |(index, _)| index + 1)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn latencies_keep_two_digits() {
        for latency_ns in [0, 1, 99, 127, 128, 1_000, 123_456, 7_654_321_000, u64::MAX] {
            let rounded = rounded(latency_ns);
            assert!(rounded >= latency_ns && rounded - latency_ns <= latency_ns / 64, "{latency_ns} {rounded}");
        }
    }

    #[test]
    fn a_slice_is_told_when_the_next_one_begins() {
        let mut slicer = Slicer::new(50 * MS, 10 * MS);
        assert_eq!(slicer.take(), None);
        assert_eq!(slicer.record(51 * MS, 100, 2), None);
        assert_eq!(slicer.record(59 * MS, 200_003, 1), None);
        let first = slicer.record(85 * MS, 7, 1).unwrap();
        assert_eq!((first.index, first.counts.len(), first.max_ns), (0, 2, 200_003));
        // One that is told late, as when two threads look at the clock, does not go back.
        assert_eq!(slicer.record(72 * MS, 7, 1), None);
        assert_eq!(slicer.take(), Some(Slice { index: 3, counts: vec![(7, 2)], max_ns: 7 }));
    }

    #[test]
    fn moments_hold_all_clients_and_have_gaps_where_nothing_ended() {
        let mut timeline = Timeline::new(10 * MS);
        let slice = |index, counts: &[(u64, u64)], max_ns| Slice { index, counts: counts.to_vec(), max_ns };
        timeline.add(slice(0, &[(1_023, 98)], 1_000));
        timeline.add(slice(1, &[(1_023, 1), (8_191_999, 1)], 8_000_000));
        timeline.add(slice(5, &[(2_047, 4)], 2_000));
        let moments = timeline.moments(2);
        assert_eq!(moments.iter().map(|moment| (moment.t_ms, moment.operations)).collect::<Vec<_>>(), [(0.0, 100), (40.0, 4)]);
        assert_eq!((moments[0].p50_us, moments[0].p99_us, moments[0].max_us), (1.023, 1.023, 8_000.0));
        assert_eq!((moments[1].p50_us, moments[1].max_us), (2.0, 2.0), "never more than the largest");
        assert_eq!((timeline.end(), timeline.slices().count(), timeline.moment(2, 5)), (6, 3, None));
    }
}

//! The fastest and the slowest operations, and what checkpoints have to do with them.

use crate::measure::{Latencies, Measured};
use crate::recorder::OUTLIERS;
use crate::result::{Checkpoint, Outlier, Outliers, Summary};
use crate::timeline::Timeline;

/// Puts together what all clients noted in a stage that began at `began_ns` and took so long.
pub(crate) fn outliers(
    measured: &[Measured],
    timeline: &Timeline,
    checkpoints: &[Checkpoint],
    began_ns: u64,
    elapsed_ms: f64,
) -> Outliers {
    let overlaps = |from_ms: f64, to_ms: f64| {
        checkpoints.iter().any(|it| it.begin_ms <= to_ms && it.end_ms.is_none_or(|end_ms| end_ms >= from_ms))
    };
    let gather = |some: fn(&Measured) -> &[(u64, u64)]| -> Vec<Outlier> {
        let clients = measured.iter().enumerate();
        let one = |client: usize, (latency_ns, ended_ns): (u64, u64)| {
            let (us, t_ms) = (latency_ns as f64 / 1e3, (ended_ns as f64 - began_ns as f64) / 1e6);
            Outlier { client: client + 1, t_ms, us, in_checkpoint: overlaps(t_ms - us / 1e3, t_ms) }
        };
        clients.flat_map(|(client, measured)| some(measured).iter().map(move |noted| one(client, *noted))).collect()
    };
    let mut fastest = gather(|measured| &measured.fastest);
    fastest.sort_by(|a, b| a.us.total_cmp(&b.us));
    fastest.truncate(OUTLIERS);
    let mut slowest = gather(|measured| &measured.slowest);
    slowest.sort_by(|a, b| b.us.total_cmp(&a.us));
    slowest.truncate(OUTLIERS);

    let (mut within, mut outside) = (Latencies::new(), Latencies::new());
    let slice_ms = timeline.slice_ns as f64 / 1e6;
    for slice in timeline.slices() {
        let begin_ms = slice.index as f64 * slice_ms;
        for (latency_ns, count) in &slice.counts {
            let latency_ns = (*latency_ns).min(slice.max_ns);
            let is_within = overlaps(begin_ms - latency_ns as f64 / 1e6, begin_ms + slice_ms);
            if is_within { &mut within } else { &mut outside }.record(latency_ns, *count);
        }
    }
    let covered_ms = covered_ms(checkpoints, elapsed_ms);
    let summary = |latencies: &Latencies, ms: f64| {
        (latencies.count() > 0).then(|| Summary::new(latencies.count(), 0, (ms.max(0.0) * 1e6) as u64, 0, latencies))
    };
    let (within, outside) = (summary(&within, covered_ms), summary(&outside, elapsed_ms - covered_ms));
    Outliers { fastest, slowest, within, outside }
}

/// How much of the time checkpoints were made. One begins when the one before has ended.
fn covered_ms(checkpoints: &[Checkpoint], elapsed_ms: f64) -> f64 {
    checkpoints.iter().map(|it| (it.end_ms.unwrap_or(elapsed_ms).min(elapsed_ms) - it.begin_ms.max(0.0)).max(0.0)).sum()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::timeline::Slice;

    const MS: u64 = 1_000_000;

    #[test]
    fn operations_are_within_a_checkpoint_or_outside_of_all() {
        let mut timeline = Timeline::new(10 * MS);
        for index in 0..100 {
            let slow = (40..50).contains(&index) || index == 51;
            let latency_ns = if slow { 20 * MS } else { MS };
            timeline.add(Slice { index, counts: vec![(latency_ns, 10)], max_ns: latency_ns });
        }
        let noted = |client: u64| Measured {
            fastest: vec![(MS / 2 + client, 1_000 * MS + 900 * MS)],
            slowest: vec![(20 * MS + client, 1_000 * MS + 515 * MS), (15 * MS, 1_000 * MS + 100 * MS)],
            ..Measured::begun(1_000 * MS)
        };
        let checkpoints = [Checkpoint { begin_ms: 400.0, end_ms: Some(500.0) }];
        let found = outliers(&[noted(0), noted(1)], &timeline, &checkpoints, 1_000 * MS, 1_000.0);
        assert_eq!(
            found.slowest.iter().map(|it| (it.client, it.in_checkpoint)).collect::<Vec<_>>()[..3],
            [(2, true), (1, true), (1, false)]
        );
        assert_eq!((found.slowest[0].t_ms, found.fastest[0].client, found.fastest[0].in_checkpoint), (515.0, 1, false));
        let (within, outside) = (found.within.unwrap(), found.outside.unwrap());
        // Ten slices in it, the ones that touch it at both ends, and the one whose operations began in it.
        assert_eq!((within.operations, outside.operations), (130, 870));
        assert_eq!((within.max_us, outside.max_us, within.seconds), (20_000.0, 1_000.0, 0.1));
        let quiet = outliers(&[], &timeline, &[], 1_000 * MS, 1_000.0);
        assert!(quiet.within.is_none() && quiet.outside.unwrap().operations == 1_000);
    }
}

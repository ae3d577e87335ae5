//! Figures: latencies, what one client did in one stage, and what follows from all of them.
//!
//! - A latency is from just before a request is made to just after its reply was read, in nanoseconds, to three digits. The
//!   operations of one request all have the request's latency: none is done for its client before the reply is there.
//! - A client's rate is its operations by its own time. The sum's rate is all operations by the time from the first client's
//!   start to the last one's end: it is at most the rates' sum, and less where some end earlier.
//! - In an open loop a latency is from when the operation was due, so that operations that had to wait for others are not told
//!   better than they were (coordinated omission); from when it was sent, beside it.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::mixes::Act;
use crate::result::Summary;

/// Longest latency that is told from longer ones: an hour.
const LATENCY_NS_MAX: u64 = 3_600 * 1_000_000_000;
/// Digits of a latency that are kept.
const DIGITS: u8 = 3;
/// Points of a distribution in each half of the way that is left to the slowest one.
const TICKS: u32 = 5;
/// More clients have levelled out where they bring less than this on top.
const GROWTH_MIN: f64 = 1.10;

/// Latencies of many operations.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(into = "Counts", from = "Counts")]
pub(crate) struct Latencies {
    histogram: Histogram<u64>,
    sum_ns: u64,
    /// `u64::MAX`: there is none.
    min_ns: u64,
    max_ns: u64,
}

impl Latencies {
    pub(crate) fn new() -> Latencies {
        let histogram =
            Histogram::new_with_bounds(1, LATENCY_NS_MAX, DIGITS).expect("1 < an hour, and 3 digits are within 0 to 5");
        Latencies { histogram, sum_ns: 0, min_ns: u64::MAX, max_ns: 0 }
    }

    /// Notes that `operations` took this long, each.
    pub(crate) fn record(&mut self, latency_ns: u64, operations: u64) {
        self.histogram.saturating_record_n(latency_ns, operations);
        self.sum_ns = self.sum_ns.saturating_add(latency_ns.saturating_mul(operations));
        self.min_ns = self.min_ns.min(latency_ns);
        self.max_ns = self.max_ns.max(latency_ns);
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u64 {
        self.histogram.len()
    }

    pub(crate) fn add(&mut self, other: &Latencies) {
        for step in other.histogram.iter_recorded() {
            self.histogram.saturating_record_n(step.value_iterated_to(), step.count_at_value());
        }
        self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
        self.min_ns = self.min_ns.min(other.min_ns);
        self.max_ns = self.max_ns.max(other.max_ns);
    }

    /// So many in a hundred of the operations took at most so many microseconds.
    fn percentiles(&self) -> Vec<(f64, f64)> {
        if self.histogram.is_empty() {
            return Vec::new();
        }
        let step_us = |step_ns: u64| step_ns.clamp(self.min_ns, self.max_ns) as f64 / 1e3;
        let steps = self.histogram.iter_quantiles(TICKS);
        let points = steps.map(|step| (step.quantile_iterated_to() * 100.0, step_us(step.value_iterated_to())));
        [(0.0, self.min_ns as f64 / 1e3)].into_iter().chain(points.filter(|(percent, _)| *percent > 0.0)).collect()
    }
}

/// The form in which they go from process to process.
#[derive(Serialize, Deserialize)]
struct Counts {
    sum_ns: u64,
    min_ns: u64,
    max_ns: u64,
    /// Latency and count.
    counts: Vec<(u64, u64)>,
}

impl From<Latencies> for Counts {
    fn from(latencies: Latencies) -> Counts {
        let Latencies { histogram, sum_ns, min_ns, max_ns } = latencies;
        let counts = histogram.iter_recorded().map(|step| (step.value_iterated_to(), step.count_at_value())).collect();
        Counts { sum_ns, min_ns, max_ns, counts }
    }
}

impl From<Counts> for Latencies {
    fn from(sent: Counts) -> Latencies {
        let Counts { sum_ns, min_ns, max_ns, counts } = sent;
        let Latencies { mut histogram, .. } = Latencies::new();
        counts.into_iter().for_each(|(latency_ns, count)| histogram.saturating_record_n(latency_ns, count));
        Latencies { histogram, sum_ns, min_ns, max_ns }
    }
}

/// What one client did in one stage. Times are of the monotonic clock, which all processes of a machine share.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) operations: u64,
    pub(crate) rows: u64,
    pub(crate) started_ns: u64,
    pub(crate) ended_ns: u64,
    /// Processor time of the client's process meanwhile.
    pub(crate) cpu_ns: u64,
    pub(crate) latencies: Latencies,
    /// The kinds of operations of a mix.
    pub(crate) kinds: Vec<(Act, Latencies)>,
    /// Of an open loop.
    pub(crate) kept: Option<Kept>,
    /// The fastest operations, and the slowest ones, in this order: latency, and when the reply came. Empty unless wanted.
    pub(crate) fastest: Vec<(u64, u64)>,
    pub(crate) slowest: Vec<(u64, u64)>,
}

/// How a client of an open loop kept its schedule.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Kept {
    /// Operations that were due.
    pub(crate) due: u64,
    /// Those that were sent too late, or never.
    pub(crate) late: u64,
    /// Those that were never sent.
    pub(crate) unsent: u64,
    /// Latencies from when they were sent.
    pub(crate) from_sent: Latencies,
}

impl Measured {
    /// Nothing yet.
    pub(crate) fn begun(started_ns: u64) -> Measured {
        Measured {
            operations: 0,
            rows: 0,
            started_ns,
            ended_ns: started_ns,
            cpu_ns: 0,
            latencies: Latencies::new(),
            kinds: Vec::new(),
            kept: None,
            fastest: Vec::new(),
            slowest: Vec::new(),
        }
    }
}

impl Summary {
    pub(crate) fn new(operations: u64, rows: u64, elapsed_ns: u64, cpu_ns: u64, latencies: &Latencies) -> Summary {
        let seconds = elapsed_ns as f64 / 1e9;
        let per = |amount: u64, by: f64| if by > 0.0 { amount as f64 / by } else { 0.0 };
        // A bucket's upper end is at most the true maximum's bucket, never beyond the maximum itself.
        let quantile_us = |quantile| latencies.histogram.value_at_quantile(quantile).min(latencies.max_ns) as f64 / 1e3;
        Summary {
            operations,
            rows,
            seconds,
            ops_per_s: per(operations, seconds),
            mean_us: per(latencies.sum_ns, latencies.histogram.len() as f64) / 1e3,
            min_us: latencies.min_ns.min(latencies.max_ns) as f64 / 1e3,
            p50_us: quantile_us(0.5),
            p90_us: quantile_us(0.9),
            p99_us: quantile_us(0.99),
            p999_us: quantile_us(0.999),
            max_us: latencies.max_ns as f64 / 1e3,
            client_cpu_us_per_op: per(cpu_ns, operations as f64) / 1e3,
            percentiles: latencies.percentiles(),
        }
    }

    /// One client's.
    pub(crate) fn of(measured: &Measured) -> Summary {
        Summary::of_all(std::slice::from_ref(measured))
    }

    /// All clients' together.
    pub(crate) fn of_all(all: &[Measured]) -> Summary {
        let mut latencies = Latencies::new();
        all.iter().for_each(|measured| latencies.add(&measured.latencies));
        let total = |count: fn(&Measured) -> u64| all.iter().map(count).sum();
        let (operations, rows) = (total(|measured| measured.operations), total(|measured| measured.rows));
        let cpu_ns = total(|measured| measured.cpu_ns);
        Summary::new(operations, rows, elapsed_ns(all), cpu_ns, &latencies)
    }

    /// Some of all clients' latencies, over the same time.
    pub(crate) fn of_some<'a>(all: &'a [Measured], some: impl Fn(&'a Measured) -> Option<&'a Latencies>) -> Summary {
        let mut latencies = Latencies::new();
        all.iter().filter_map(some).for_each(|some| latencies.add(some));
        Summary::new(latencies.count(), 0, elapsed_ns(all), 0, &latencies)
    }
}

/// From the first client's start to the last one's end.
fn elapsed_ns(all: &[Measured]) -> u64 {
    let started_ns = all.iter().map(|measured| measured.started_ns).min().unwrap_or_default();
    let ended_ns = all.iter().map(|measured| measured.ended_ns).max().unwrap_or_default();
    ended_ns.saturating_sub(started_ns)
}

/// The number of clients at which the sum levels out: the smallest one that no larger one exceeds by a tenth. None where that
/// is the largest one (more clients might bring more), or where there is nothing to compare.
pub(crate) fn levels_out_at(rates: &[(usize, f64)]) -> Option<usize> {
    let mut rates = rates.to_vec();
    rates.sort_by_key(|(clients, _)| *clients);
    let (largest, _) = *rates.last()?;
    let level = |(clients, rate): &(usize, f64)| rates.iter().all(|(more, other)| more <= clients || *other < rate * GROWTH_MIN);
    rates.iter().find(|rate| level(rate)).map(|(clients, _)| *clients).filter(|clients| *clients < largest)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn measured(started_ns: u64, ended_ns: u64, latencies_us: &[u64]) -> Measured {
        let mut latencies = Latencies::new();
        latencies_us.iter().for_each(|us| latencies.record(us * 1_000, 1));
        let operations = latencies_us.len() as u64;
        Measured { operations, ended_ns, cpu_ns: 1_000_000, latencies, ..Measured::begun(started_ns) }
    }

    fn near(found: f64, wanted: f64) -> bool {
        (found - wanted).abs() <= wanted * 0.001
    }

    #[test]
    fn a_summary_says_what_was_recorded() {
        let hundred: Vec<u64> = (1..=100).collect();
        let summary = Summary::of(&measured(5_000_000_000, 7_000_000_000, &hundred));
        assert_eq!((summary.operations, summary.seconds, summary.ops_per_s), (100, 2.0, 50.0));
        assert!(near(summary.mean_us, 50.5) && near(summary.p50_us, 50.0) && near(summary.p99_us, 99.0), "{summary:?}");
        assert_eq!((summary.min_us, summary.max_us), (1.0, 100.0), "the smallest and the largest are exact");
        assert_eq!(summary.client_cpu_us_per_op, 10.0);
        let nothing = Summary::of(&measured(1, 1, &[]));
        assert_eq!((nothing.ops_per_s, nothing.mean_us, nothing.max_us), (0.0, 0.0, 0.0));
    }

    #[test]
    fn operations_of_one_request_share_its_latency() {
        let mut latencies = Latencies::new();
        latencies.record(1_000_000, 256);
        latencies.record(3_000_000, 256);
        let summary = Summary::new(512, 0, 4_000_000, 0, &latencies);
        assert!(near(summary.mean_us, 2_000.0) && near(summary.p99_us, 3_000.0) && near(summary.ops_per_s, 128_000.0));
    }

    #[test]
    fn the_sum_runs_from_the_first_start_to_the_last_end() {
        let all = [measured(0, 1_000_000_000, &[10; 100]), measured(0, 2_000_000_000, &[30; 100])];
        let sum = Summary::of_all(&all);
        assert_eq!((sum.operations, sum.ops_per_s), (200, 100.0));
        assert!(near(sum.mean_us, 20.0) && near(sum.max_us, 30.0) && near(sum.p50_us, 10.0));
    }

    #[test]
    fn a_distribution_rises_from_the_fastest_to_the_slowest() {
        let thousand: Vec<u64> = (1..=1_000).collect();
        let points = Summary::of(&measured(0, 1, &thousand)).percentiles;
        assert_eq!((points[0], points[points.len() - 1]), ((0.0, 1.0), (100.0, 1_000.0)));
        assert!(points.windows(2).all(|pair| pair[0].0 <= pair[1].0 && pair[0].1 <= pair[1].1), "{points:?}");
        assert!(
            points.iter().all(|(percent, us)| near(us.max(1.0), (percent * 10.0).max(1.0)) || (us - percent * 10.0).abs() < 1.5)
        );
        assert!((20..200).contains(&points.len()), "{}", points.len());
        assert_eq!(Summary::of(&measured(0, 1, &[])).percentiles, []);
    }

    #[test]
    fn nothing_is_lost_between_processes() {
        let before = measured(3, 9, &[1, 2, 3, 70_000, 70_001, 1_234_567]);
        let text = serde_json::to_string(&before).unwrap();
        let after: Measured = serde_json::from_str(&text).unwrap();
        assert_eq!(Summary::of(&before), Summary::of(&after));
    }

    #[test]
    fn a_level_is_where_more_clients_bring_less_than_a_tenth() {
        assert_eq!(levels_out_at(&[(1, 100.0), (2, 190.0), (4, 200.0), (8, 198.0)]), Some(2));
        assert_eq!(levels_out_at(&[(1, 100.0), (2, 105.0), (4, 112.0)]), Some(2));
        assert_eq!(levels_out_at(&[(1, 100.0), (2, 200.0), (4, 400.0)]), None);
        assert_eq!(levels_out_at(&[(8, 90.0), (1, 100.0)]), Some(1));
        assert_eq!(levels_out_at(&[(1, 100.0)]), None);
        assert_eq!(levels_out_at(&[]), None);
    }
}

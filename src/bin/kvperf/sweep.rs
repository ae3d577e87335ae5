//! More and more clients, until the sum levels out.

use crate::result::Run;
use crate::stages::Stage;

/// More clients have to bring this on top of the best sum so far, in one stage at least.
const GROWTH_MIN: f64 = 1.03;
/// So many steps in a row that bring less end it.
const STEPS_WITHOUT: usize = 2;
/// Where it ends at the latest.
const CLIENTS_END: usize = 64;

/// The next number of clients after those that were measured. None: the sum of no stage grows any more.
pub(crate) fn next(runs: &[Run], stages: &[Stage]) -> Option<usize> {
    let Some(last) = runs.iter().map(|run| run.clients).max() else { return Some(1) };
    let is_level = stages.iter().all(|stage| {
        let of_stage = runs.iter().filter(|run| run.stage == *stage && run.beside.is_none());
        let rates: Vec<f64> = of_stage.map(|run| run.sum.ops_per_s).collect();
        let (before, latest) = rates.split_at(rates.len().saturating_sub(STEPS_WITHOUT));
        let best = before.iter().copied().fold(0.0, f64::max);
        !before.is_empty() && latest.iter().all(|rate| *rate < best * GROWTH_MIN)
    });
    let next = last + (last / 4).max(1);
    (!is_level && next <= CLIENTS_END).then_some(next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::Summary;

    /// The numbers of clients that a sweep goes through where the sums are so.
    fn swept(sums: fn(usize) -> [f64; 2]) -> Vec<usize> {
        let stages = [Stage::Insert, Stage::Lookup];
        let (mut runs, mut numbers) = (Vec::new(), Vec::new());
        while let Some(clients) = next(&runs, &stages) {
            numbers.push(clients);
            for (stage, ops_per_s) in stages.into_iter().zip(sums(clients)) {
                runs.push(Run { clients, sum: Summary { ops_per_s, ..Summary::default() }, ..Run::of(stage, 1) });
            }
        }
        numbers
    }

    #[test]
    fn it_ends_two_steps_after_the_last_one_that_brought_something() {
        assert_eq!(swept(|clients| [100.0 * clients.min(3) as f64, 50.0]), [1, 2, 3, 4, 5]);
        assert_eq!(swept(|clients| [10.0, 100.0 * clients.min(5) as f64]), [1, 2, 3, 4, 5, 6, 7], "each stage counts");
        assert_eq!(swept(|_| [10.0, 10.0]), [1, 2, 3]);
        assert_eq!(swept(|clients| [if clients == 3 { 5.0 } else { clients.min(4) as f64 * 10.0 }, 1.0]), [1, 2, 3, 4, 5, 6]);
        let without_end = swept(|clients| [clients as f64, clients as f64]);
        assert_eq!(without_end, [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 18, 22, 27, 33, 41, 51, 63]);
    }
}

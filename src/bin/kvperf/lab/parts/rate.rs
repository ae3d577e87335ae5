//! An open loop at half of what the broker can, over several checkpoints; and one client that waits for each answer, over several as well.
//!
//! - An open loop sends when operations are due, whatever the replies do: a stall shows in every operation that was due in it.

use crate::lab::bench::{Bench, Plan, Setting};
use crate::lab::kept::Kept;
use crate::lab::page::Page;
use crate::lab::tables::{ratio, table};
use crate::lab::trouble::LabError;
use crate::plots::{self, Distribution, Moment};
use crate::report::grouped;
use crate::result::{Outlier, Run, Summary};

/// Checkpoints that are wanted in a run.
const CHECKPOINTS: f64 = 6.0;
/// About what an update takes in the log, bytes; only to choose how often a checkpoint is made.
const UPDATE_BYTES: f64 = 115.0;
/// The flag's smallest value.
const AFTER_MIN: f64 = 65_536.0;
/// Outliers that are shown.
const SHOWN: usize = 5;

const CAPACITY: &str = "what it can";
const OPEN: &str = "open loop";
const CLOSED: &str = "one client";

fn seconds(plan: &Plan) -> [f64; 3] {
    [plan.seconds * 2.0, plan.seconds * 30.0, plan.seconds * 12.0].map(|seconds| seconds.max(0.3) / plan.pick(1.0, 3.0))
}

fn load(plan: &Plan) -> String {
    // One client: each keeps time at the cost of much of a processor, and on few of them several would measure each other.
    format!("--workload a --clients 1 --keys {}", plan.pick(100_000, 1_000))
}

fn capacity(plan: &Plan) -> Setting {
    let [seconds, _, _] = seconds(plan);
    Setting::new(CAPACITY, "--sync always", &format!("{} --pipeline 64 --seconds {seconds}", load(plan)), 1, 1, seconds)
}

/// A broker whose checkpoints are due as often as we want them.
fn broker(updates_per_s: f64, seconds: f64) -> String {
    let after = (updates_per_s * UPDATE_BYTES * seconds / CHECKPOINTS).max(AFTER_MIN);
    format!("--sync always --checkpoint-after {}KiB", (after / 1024.0).round())
}

fn open(plan: &Plan, can: f64) -> Setting {
    let [_, seconds, _] = seconds(plan);
    let rate = (can / 2.0).max(1.0).round();
    Setting::new(
        OPEN,
        &broker(rate / 2.0, seconds),
        &format!("{} --rate {rate} --outliers --seconds {seconds}", load(plan)),
        1,
        1,
        seconds,
    )
}

fn closed(plan: &Plan, per_s: f64) -> Setting {
    let [_, _, seconds] = seconds(plan);
    let keys = plan.pick(5_000, 500);
    let words = format!("--workload a --clients 1 --keys {keys} --outliers --seconds {seconds}");
    Setting::new(CLOSED, &broker(per_s / 2.0, seconds), &words, 1, 1, seconds)
}

pub(super) fn estimate_s(plan: &Plan) -> f64 {
    [capacity(plan), open(plan, 1.0), closed(plan, 1.0)].iter().map(|setting| setting.expected_s).sum()
}

pub(super) fn measure(bench: &mut Bench, kept: &mut Kept) -> Result<(), LabError> {
    kept.rounds = 1;
    let mut run = |bench: &mut Bench, setting: &Setting| -> Result<f64, LabError> {
        bench.progress.step(&format!("rate: {}", setting.name), setting.expected_s);
        let mut series = setting.series();
        series.rounds.push(bench.once(setting)?);
        let rate = series.run().map_or(0.0, |run| run.sum.ops_per_s);
        kept.series.push(series);
        Ok(rate)
    };
    let plan = bench.plan;
    let can = run(bench, &capacity(&plan))?;
    run(bench, &open(&plan, can))?;
    // About what one client that waits for each answer does on any machine that has a disk: only how often checkpoints come hangs on it.
    const ONE_PER_S: f64 = 4_000.0;
    run(bench, &closed(&plan, ONE_PER_S))?;
    Ok(())
}

pub(super) fn text(kept: &Kept, page: &mut Page) -> Result<String, LabError> {
    let can = kept.series(CAPACITY).and_then(|series| series.run()).map_or(0.0, |run| run.sum.ops_per_s);
    let mut text = String::new();
    if let Some((series, run)) = kept.series(OPEN).and_then(|series| Some((series, series.run()?))) {
        let made = checkpoints_text(run);
        text.push_str(&format!(
            "Closed loop, 64 requests outstanding at each client: {} operations/s. Half of that, on schedule, for {:.1} s \
             (`kvbroker lab {}`, `kvperf lab {}`), {made}:\n\n",
            grouped(can),
            run.sum.seconds,
            series.broker,
            series.words,
        ));
        let plot = plots::timeline("Half of what it can: rate and latency of every moment", &moments(run), &checkpoints(run))?;
        text.push_str(&page.image("timeline", "Operations per second and latencies over time, checkpoints shaded", plot));
        if let Some(schedule) = &run.schedule {
            text.push_str(&format!(
                "\n{} operations were due; {} of them were sent more than a millisecond late, {} never.\n\n",
                grouped(schedule.due as f64),
                grouped(schedule.late as f64),
                grouped(schedule.unsent as f64),
            ));
        }
        text.push_str(&latencies(run));
        let plot = plots::distribution("Half of what it can: latency from when an operation was due", &distributions(run))?;
        text.push_str(&format!("\n{}", page.image("checkpoints", "Latency with and without a checkpoint being made", plot)));
    }
    if let Some((series, run)) = kept.series(CLOSED).and_then(|series| Some((series, series.run()?))) {
        text.push_str(&format!(
            "\n### The fastest and the slowest\n\nOne client, one operation at a time, reads and updates in equal parts, {} in {:.1} s (`kvbroker lab {}`, \
             `kvperf lab {}`):\n\n{}\n{}",
            checkpoints_text(run),
            run.sum.seconds,
            series.broker,
            series.words,
            latencies(run),
            outliers(run),
        ));
    }
    Ok(text)
}

fn latencies(run: &Run) -> String {
    let row = |name: &str, sum: &Summary| {
        let figures = [sum.p50_us, sum.p99_us, sum.p999_us, sum.max_us].map(grouped);
        [name.to_owned(), grouped(sum.operations as f64)].into_iter().chain(figures).collect::<Vec<_>>()
    };
    let mut rows = vec![row("all", &run.sum)];
    let (within, outside) =
        run.outliers.as_ref().map_or((None, None), |outliers| (outliers.within.as_ref(), outliers.outside.as_ref()));
    rows.extend(outside.map(|sum| row("while no checkpoint was made", sum)));
    rows.extend(within.map(|sum| row("while one was made", sum)));
    if let (Some(within), Some(outside)) = (within, outside) {
        let figures = [
            (within.p50_us, outside.p50_us),
            (within.p99_us, outside.p99_us),
            (within.p999_us, outside.p999_us),
            (within.max_us, outside.max_us),
        ];
        let figures = figures.map(|(within, outside)| ratio(within, outside));
        rows.push(["with, by without".to_owned(), String::new()].into_iter().chain(figures).collect());
    }
    rows.extend(run.schedule.as_ref().map(|schedule| row("all, from when they were sent", &schedule.from_sent)));
    table(&["latency, µs", "operations", "p50", "p99", "p99.9", "longest"], &rows)
}

fn outliers(run: &Run) -> String {
    let Some(outliers) = &run.outliers else { return String::new() };
    let row = |kind: &str, outlier: &Outlier| {
        let when = if outlier.in_checkpoint { "yes" } else { "no" };
        vec![kind.to_owned(), grouped(outlier.us), format!("{:.2}", outlier.t_ms / 1e3), when.to_owned()]
    };
    let rows: Vec<Vec<String>> = outliers
        .fastest
        .iter()
        .take(SHOWN)
        .map(|outlier| row("fastest", outlier))
        .chain(outliers.slowest.iter().take(SHOWN).map(|outlier| row("slowest", outlier)))
        .collect();
    table(&["operation", "µs", "at second", "during a checkpoint"], &rows)
}

fn checkpoints_text(run: &Run) -> String {
    match run.checkpoints.len() {
        1 => "1 checkpoint".to_owned(),
        several => format!("{several} checkpoints"),
    }
}

fn moments(run: &Run) -> Vec<Moment> {
    let width_s = run.moment_ms / 1e3;
    let moment = |moment: &crate::result::Moment| Moment {
        s: moment.t_ms / 1e3,
        ops_per_s: moment.operations as f64 / width_s,
        p50_us: moment.p50_us,
        p99_us: moment.p99_us,
        max_us: moment.max_us,
    };
    // The last one may be shorter, and would look like a fall.
    let whole = |moment: &&crate::result::Moment| moment.t_ms + run.moment_ms <= run.sum.seconds * 1e3 + 1.0;
    run.timeline.iter().filter(whole).map(moment).collect()
}

fn checkpoints(run: &Run) -> Vec<(f64, f64)> {
    let end = run.sum.seconds * 1e3;
    let one = |checkpoint: &crate::result::Checkpoint| {
        (checkpoint.begin_ms.max(0.0) / 1e3, checkpoint.end_ms.unwrap_or(end).min(end) / 1e3)
    };
    run.checkpoints.iter().map(one).collect()
}

fn distributions(run: &Run) -> Vec<Distribution> {
    let line = |name: &str, sum: &Summary| Distribution {
        name: name.to_owned(),
        quantiles: sum.percentiles.iter().map(|(percent, us)| (percent / 100.0, *us)).collect(),
    };
    let outliers = run.outliers.as_ref();
    let outside = outliers.and_then(|outliers| outliers.outside.as_ref()).map(|sum| line("without a checkpoint", sum));
    let within = outliers.and_then(|outliers| outliers.within.as_ref()).map(|sum| line("during a checkpoint", sum));
    let sent = run.schedule.as_ref().map(|schedule| line("all, from when sent", &schedule.from_sent));
    let lines: Vec<Distribution> = [outside, within, sent].into_iter().flatten().collect();
    // Nobody may have said which is which.
    if lines.is_empty() { vec![line("all", &run.sum)] } else { lines }
}

//! What others wait for while a client works hard.

use crate::lab::bench::{Plan, Setting};
use crate::lab::kept::Kept;
use crate::lab::tables::table;
use crate::report::grouped;

/// Stages that are measured, and how often: alone and beside four kinds of work.
const STAGES: usize = 2;
const KINDS: usize = 5;

pub(super) fn settings(plan: &Plan) -> Vec<Setting> {
    let keys = plan.pick(1_000_000, 3_000);
    let words = format!("--beside scan,query,regex,delete --beside-keys {keys} --seconds {}", plan.seconds);
    let load_s = f64::from(keys) / 250_000.0;
    let mut setting = Setting::new("beside", "--sync always", &words, STAGES * KINDS, 1, plan.seconds);
    setting.expected_s += load_s;
    vec![setting]
}

pub(super) fn text(kept: &Kept) -> String {
    let Some(document) = kept.series("beside").and_then(|series| series.rounds.first()) else { return String::new() };
    let mut rows = Vec::new();
    for stage in &document.settings.stages {
        for run in document.runs.iter().filter(|run| run.stage == *stage) {
            let sum = &run.sum;
            let mut row =
                vec![stage.name().to_owned(), run.beside.as_ref().map_or("nothing", |beside| beside.dear.name()).to_owned()];
            row.extend([sum.ops_per_s, sum.p50_us, sum.p99_us, sum.max_us].map(grouped));
            match &run.beside {
                Some(beside) => row.extend([beside.sum.ops_per_s, beside.sum.p50_us].map(grouped)),
                None => row.extend([String::new(), String::new()]),
            }
            rows.push(row);
        }
    }
    let head = ["measured", "beside", "ops/s", "p50 µs", "p99 µs", "longest µs", "others' requests/s", "their p50 µs"];
    format!(
        "One measured client with one request outstanding, `--sync always`, and others' work over {} keys:\n\n{}",
        grouped(document.settings.beside.keys as f64 * document.settings.beside.clients as f64),
        table(&head, &rows)
    )
}

//! Several requests of one operation outstanding at a client.

use crate::lab::bench::{Plan, Setting};
use crate::lab::kept::Kept;
use crate::lab::tables::{spread, table};
use crate::report::grouped;
use crate::stages::Stage;

const STAGES: [Stage; 2] = [Stage::Insert, Stage::Lookup];
const SYNCS: [&str; 2] = ["always", "never"];

fn depths(plan: &Plan) -> &'static [usize] {
    plan.pick(&[1, 8, 64, 512], &[16])
}

fn counts(plan: &Plan) -> &'static [usize] {
    plan.pick(&[1, 8], &[2])
}

pub(super) fn settings(plan: &Plan) -> Vec<Setting> {
    let clients: Vec<String> = counts(plan).iter().map(usize::to_string).collect();
    let one = |(sync, depth): (&str, usize)| {
        let words =
            format!("--clients {} --stages insert,lookup --pipeline {depth} --seconds {}", clients.join(","), plan.seconds);
        let name = format!("--sync {sync}, {depth} outstanding");
        Setting::new(name, &format!("--sync {sync}"), &words, STAGES.len(), clients.len(), plan.seconds)
    };
    SYNCS.iter().flat_map(|sync| depths(plan).iter().map(|depth| (*sync, *depth))).map(one).collect()
}

pub(super) fn text(kept: &Kept) -> String {
    let mut rows = Vec::new();
    for series in &kept.series {
        let depth = series.rounds.first().map_or(0, |document| document.settings.pipeline);
        for clients in series.counts() {
            let mut row = vec![format!("`{}`", series.broker), clients.to_string(), depth.to_string()];
            for stage in STAGES {
                let Some(middle) = series.middle(clients, stage) else { continue };
                let sum = &middle.run.sum;
                row.push(spread(sum.ops_per_s, middle.low, middle.high));
                row.push(format!("{} / {}", grouped(sum.p50_us), grouped(sum.p99_us)));
            }
            rows.push(row);
        }
    }
    let head = ["broker", "clients", "outstanding each", "inserts/s", "p50 / p99 µs", "lookups/s", "p50 / p99 µs"];
    format!("Operations per second of all clients (lowest–highest round), and the latency of one:\n\n{}", table(&head, &rows))
}

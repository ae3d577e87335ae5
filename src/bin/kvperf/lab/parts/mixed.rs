//! The core workloads of YCSB, A to F.

use crate::lab::bench::{Plan, Setting};
use crate::lab::kept::Kept;
use crate::lab::tables::table;
use crate::report::grouped;

/// Their letters, and what they are.
const WORKLOADS: [(&str, &str); 6] = [
    ("a", "half reads, half updates"),
    ("b", "95 % reads, 5 % updates"),
    ("c", "reads"),
    ("d", "95 % reads of what was inserted last, 5 % inserts"),
    ("e", "95 % short scans, 5 % inserts"),
    ("f", "half reads, half read-modify-writes"),
];

pub(super) fn settings(plan: &Plan) -> Vec<Setting> {
    let (clients, keys) = plan.pick((4, 25_000), (2, 500));
    let seconds = plan.seconds * 2.0;
    let one = |(letter, _): (&str, &str)| {
        let words = format!("--workload {letter} --clients {clients} --keys {keys} --seconds {seconds}");
        Setting::new(letter, "--sync always", &words, 1, 1, seconds)
    };
    WORKLOADS.map(one).to_vec()
}

pub(super) fn text(kept: &Kept) -> String {
    let mut rows = Vec::new();
    let mut what = String::new();
    for (letter, is) in WORKLOADS {
        let Some((document, run)) = kept.series(letter).and_then(|series| Some((series.rounds.first()?, series.run()?))) else {
            continue;
        };
        let settings = &document.settings;
        what = format!(
            "{} processes with one request outstanding each, {} keys of each loaded before, `--sync always`.",
            run.clients,
            grouped(settings.loaded as f64),
        );
        let each = |(kind, sum): (&str, &crate::result::Summary)| {
            vec![
                String::new(),
                kind.to_owned(),
                grouped(sum.ops_per_s),
                grouped(sum.p50_us),
                grouped(sum.p99_us),
                grouped(sum.max_us),
            ]
        };
        let mut all = each((is, &run.sum));
        all[0] = format!("**{}** ({})", letter.to_uppercase(), settings.distribution);
        all[2] = format!("**{}**", all[2]);
        rows.push(all);
        if run.kinds.len() > 1 {
            rows.extend(run.kinds.iter().map(|kind| each((kind.kind.name(), &kind.sum))));
        }
    }
    let head = ["workload", "operation", "operations/s", "p50 µs", "p99 µs", "longest µs"];
    format!("{what}\n\n{}", table(&head, &rows))
}

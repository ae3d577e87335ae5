//! What group commit does: durable inserts of more and more clients that each wait for their own.

use crate::lab::bench::{Bench, Plan, Setting};
use crate::lab::kept::Kept;
use crate::lab::page::Page;
use crate::lab::parts::{Part, machine};
use crate::lab::tables::{clients_text, median, table};
use crate::lab::trouble::LabError;
use crate::plots::{self, Growth};
use crate::report::grouped;
use crate::stages::Stage;

pub(super) fn settings(plan: &Plan) -> Vec<Setting> {
    let counts: &[usize] = plan.pick(&[1, 2, 4, 8, 16, 32, 64], &[1, 4]);
    let clients: Vec<String> = counts.iter().map(usize::to_string).collect();
    let words = format!("--clients {} --stages insert --seconds {}", clients.join(","), plan.seconds);
    vec![Setting::new("insert", "--sync always", &words, 1, counts.len(), plan.seconds)]
}

pub(super) fn measure(bench: &mut Bench, kept: &mut Kept) -> Result<(), LabError> {
    kept.values.insert("write_us".to_owned(), machine::synced_writes_us(bench.work())?);
    let settings = settings(&bench.plan);
    kept.series = bench.rounds(Part::Sharing.name(), &settings)?;
    Ok(())
}

pub(super) fn text(kept: &Kept, page: &mut Page) -> Result<String, LabError> {
    let Some(series) = kept.series("insert") else { return Ok(String::new()) };
    let runs: Vec<_> = series.counts().into_iter().filter_map(|clients| series.middle(clients, Stage::Insert)).collect();
    let syncs_per_s = |run: &crate::result::Run| run.syncs.map(|syncs| syncs as f64 / run.sum.seconds.max(f64::MIN_POSITIVE));
    let shared =
        |run: &crate::result::Run| run.syncs.filter(|syncs| *syncs > 0).map(|syncs| run.sum.operations as f64 / syncs as f64);
    let show = |value: Option<f64>| value.map_or("–".to_owned(), grouped);
    let rows: Vec<Vec<String>> = runs
        .iter()
        .map(|middle| {
            let (run, sum) = (middle.run, &middle.run.sum);
            let writes = shared(run).map_or("–".to_owned(), |shared| format!("{shared:.1}"));
            let cells = [grouped(sum.ops_per_s), show(syncs_per_s(run)), writes, grouped(sum.p50_us), grouped(sum.p99_us)];
            [run.clients.to_string()].into_iter().chain(cells).collect()
        })
        .collect();
    let lines = [
        Growth { name: "durable inserts".to_owned(), rates: series.growth(Stage::Insert) },
        Growth {
            name: "syncs".to_owned(),
            rates: runs.iter().filter_map(|middle| Some((middle.run.clients, syncs_per_s(middle.run)?))).collect(),
        },
    ];
    let plot = plots::growth("Group commit: durable inserts and syncs of the log, one insert per request", &lines)?;
    let image = page.image("sharing", "Durable inserts and syncs per second against clients", plot);
    let head = ["clients", "inserts/s", "syncs/s", "inserts per sync", "p50 µs", "p99 µs"];
    let grows = match (runs.first(), runs.last()) {
        (Some(one), Some(many)) => match (shared(one.run), shared(many.run)) {
            (Some(alone), Some(together)) => format!(
                "With {} each sync makes {alone:.1} inserts durable, with {} it makes {together:.1}; the rate is {:.1} times as high. ",
                clients_text(one.run.clients),
                clients_text(many.run.clients),
                many.run.sum.ops_per_s / one.run.sum.ops_per_s,
            ),
            _ => String::new(),
        },
        _ => String::new(),
    };
    let disk = grouped(median(kept.values("write_us")));
    Ok(format!(
        "{image}\n{}\n{grows}A write and fdatasync of the same size without a broker takes {disk} µs in the median.",
        table(&head, &rows)
    ))
}

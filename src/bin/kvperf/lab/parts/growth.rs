//! The sum of more and more clients: each kind of operation, durable or not, one by one or many in a request.

use crate::lab::bench::{Plan, Setting};
use crate::lab::kept::{Kept, Series};
use crate::lab::page::Page;
use crate::lab::tables::{clients_text, details, latency, spread, table};
use crate::lab::trouble::LabError;
use crate::measure::levels_out_at;
use crate::plots::{self, Distribution, Growth};
use crate::report::grouped;
use crate::stages::Stage;

/// Operations of a large request.
const BATCH: usize = 256;
/// The stages, as they are run.
const STAGES: [Stage; 5] = [Stage::Insert, Stage::Lookup, Stage::Scan, Stage::Query, Stage::Remove];

fn name_of(sync: &str, batch: usize) -> String {
    if batch == 1 {
        format!("--sync {sync}, one operation per request")
    } else {
        format!("--sync {sync}, {batch} operations per request")
    }
}

/// Sync modes and sizes of requests, in the order of the report.
const SHAPES: [(&str, usize); 4] = [("always", 1), ("never", 1), ("always", BATCH), ("never", BATCH)];

pub(super) fn settings(plan: &Plan) -> Vec<Setting> {
    let setting = |(sync, batch): (&str, usize)| {
        let counts: &[usize] = match batch {
            1 => plan.pick(&[1, 2, 4, 8, 16, 32], &[1, 2]),
            _ => plan.pick(&[1, 2, 4, 8], &[1, 2]),
        };
        let clients: Vec<String> = counts.iter().map(usize::to_string).collect();
        let words = format!("--clients {} --seconds {} --batch {batch}", clients.join(","), plan.seconds);
        Setting::new(name_of(sync, batch), &format!("--sync {sync}"), &words, STAGES.len(), counts.len(), plan.seconds)
    };
    SHAPES.map(setting).to_vec()
}

pub(super) fn text(kept: &Kept, page: &mut Page) -> Result<String, LabError> {
    let mut text = format!("{}\n", in_short(kept));
    for (sync, batch) in SHAPES {
        let Some(series) = kept.series(&name_of(sync, batch)) else { continue };
        text.push_str(&format!("\n### `--sync {sync}`, {}\n\n", series.name.split_once(", ").map_or("", |(_, shape)| shape)));
        let lines: Vec<Growth> =
            STAGES.map(|stage| Growth { name: stage.name().to_owned(), rates: series.growth(stage) }).into_iter().collect();
        let plot = plots::growth(&format!("Throughput against clients: {}", series.name), &lines)?;
        text.push_str(&page.image(
            &format!("growth-{sync}-{batch}"),
            &format!("Operations per second against clients, {}", series.name),
            plot,
        ));
        text.push_str(&tables(series, batch));
    }
    if let Some(series) = kept.series(&name_of("always", 1)) {
        let plot = plots::distribution("Latency of one operation at a time, --sync always", &distributions(series))?;
        text.push_str("\n### Latencies, `--sync always`, one operation per request\n\n");
        text.push_str(&page.image("latency", "Latency against the part of all operations, --sync always", plot));
    }
    Ok(text)
}

fn in_short(kept: &Kept) -> String {
    let row = |(sync, batch): (&str, usize)| {
        let series = kept.series(&name_of(sync, batch))?;
        let cells = STAGES.map(|stage| {
            let rates = series.growth(stage);
            let best = rates.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1));
            match (rates.first(), best) {
                (Some((_, one)), Some((clients, rate))) => format!("{}, **{}** @{clients}", grouped(*one), grouped(rate)),
                _ => String::new(),
            }
        });
        Some([format!("`--sync {sync}`, {batch} per request")].into_iter().chain(cells).collect())
    };
    let rows: Vec<Vec<String>> = SHAPES.into_iter().filter_map(row).collect();
    let head: Vec<&str> = [""].into_iter().chain(STAGES.map(Stage::name)).collect();
    format!(
        "Operations per second of one client, and of as many as bring the most (their number behind the @):\n\n{}",
        table(&head, &rows)
    )
}

fn tables(series: &Series, batch: usize) -> String {
    let counts = series.counts();
    let head: Vec<&str> = ["clients"].into_iter().chain(STAGES.map(Stage::name)).collect();
    let cells = |cell: &dyn Fn(usize, Stage) -> Option<String>| -> Vec<Vec<String>> {
        let row = |clients: &usize| {
            let cells = STAGES.map(|stage| cell(*clients, stage).unwrap_or_default());
            [clients.to_string()].into_iter().chain(cells).collect()
        };
        counts.iter().map(row).collect()
    };
    let sums = cells(&|clients, stage| {
        series.middle(clients, stage).map(|middle| spread(middle.run.sum.ops_per_s, middle.low, middle.high))
    });
    let latencies = cells(&|clients, stage| series.middle(clients, stage).map(|middle| latency(&middle.run.sum)));
    let mut text = fewer(series, batch);
    text.push_str(&format!(
        "\nSum of all clients, operations per second (lowest–highest round):\n\n{}\n{}\n",
        table(&head, &sums),
        levels(series)
    ));
    text.push_str(&format!(
        "\nLatency of an operation, µs: mean / p50 / p99 / p99.9 / longest:\n\n{}\n",
        table(&head, &latencies)
    ));
    text.push_str(&details("Each client, operations per second", &each(series, &head)));
    text
}

/// What a request holds where it can't hold as many as were asked for.
fn fewer(series: &Series, batch: usize) -> String {
    let size = |stage: Stage| series.middle(*series.counts().first()?, stage).map(|middle| middle.run.batch);
    let fewer: Vec<String> = STAGES
        .iter()
        .filter_map(|stage| size(*stage).filter(|size| *size != batch).map(|size| format!("{size} {} operations", stage.name())))
        .collect();
    if fewer.is_empty() {
        String::new()
    } else {
        format!("\n(One request holds at most {}: what it may examine is bounded.)\n", fewer.join(" or "))
    }
}

/// Where more clients bring less than a tenth on top.
fn levels(series: &Series) -> String {
    let most = series.counts().last().copied().unwrap_or_default();
    let level = |stage: Stage| match levels_out_at(&series.growth(stage)) {
        Some(clients) => format!("{} at {clients}", stage.name()),
        None => format!("{} not up to {most}", stage.name()),
    };
    format!("The sum levels out (more clients bring less than a tenth): {}.", STAGES.map(level).join(", "))
}

fn each(series: &Series, head: &[&str]) -> String {
    let mut rows = Vec::new();
    for clients in series.counts() {
        let runs = STAGES.map(|stage| series.middle(clients, stage).map(|middle| middle.run));
        for client in 0..clients {
            let rate = |run: &Option<&crate::result::Run>| {
                run.and_then(|run| run.each.get(client)).map_or(String::new(), |summary| grouped(summary.ops_per_s))
            };
            rows.push([format!("{} of {clients}", client + 1)].into_iter().chain(runs.iter().map(rate)).collect());
        }
        let sum =
            |run: &Option<&crate::result::Run>| run.map_or(String::new(), |run| format!("**{}**", grouped(run.sum.ops_per_s)));
        rows.push([format!("**sum of {clients}**")].into_iter().chain(runs.iter().map(sum)).collect());
    }
    table(head, &rows)
}

/// Of one client and of the most that others would call many.
fn distributions(series: &Series) -> Vec<Distribution> {
    const MANY: usize = 8;
    let counts = series.counts();
    let many = counts.iter().copied().filter(|clients| *clients <= MANY).max();
    let mut lines = Vec::new();
    for stage in [Stage::Lookup, Stage::Scan, Stage::Insert] {
        for clients in counts.first().copied().into_iter().chain(many.filter(|many| Some(many) != counts.first())) {
            let Some(middle) = series.middle(clients, stage) else { continue };
            let quantiles = middle.run.sum.percentiles.iter().map(|(percent, us)| (percent / 100.0, *us)).collect();
            lines.push(Distribution { name: format!("{}, {}", stage.name(), clients_text(clients)), quantiles });
        }
    }
    lines
}

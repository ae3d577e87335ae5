//! Results as people and programs read them: tables, JSON, CSV.
//!
//! - A block of text is one string, so that two runs at once don't mix their lines.
//! - Names in JSON and CSV are stable.

use std::fmt::Write;

use crate::args::{Amount, Besides, Config};
use crate::facts::Facts;
use crate::measure::levels_out_at;
use crate::result::{Beside, Document, FORMAT, Level, Run, Settings, Summary};
use crate::stages::Stage;

/// The settings and facts as lines of text.
pub(crate) fn head(config: &Config, facts: &Facts) -> String {
    let shape = &config.shape;
    let amount = match config.amount {
        Amount::Operations(operations) => format!("{} operations a stage and client", grouped(operations as f64)),
        Amount::Time(time) => format!("{} s a stage", time.as_secs_f64()),
    };
    let operations = if shape.batch == 1 { "1 operation".to_owned() } else { format!("{} operations", shape.batch) };
    let clients: Vec<String> = config.clients.iter().map(usize::to_string).collect();
    let lines = [
        ("broker", format!("{} {}, --sync {}", facts.project, facts.broker_version, facts.sync)),
        ("endpoint", facts.endpoint.clone()),
        ("kvperf", format!("{} (git {}), libzmq {}", facts.kvperf_version, facts.kvperf_commit, facts.libzmq)),
        ("machine", format!("{} processors, {}", facts.processors, facts.system)),
        ("keys", format!("{} bytes, values {} bytes", shape.key_bytes, shape.value_bytes)),
        ("requests", format!("{operations} each, one outstanding; pages of {} keys", shape.page_rows())),
        ("clients", format!("{}; {amount}", clients.join(", "))),
    ];
    let mut text = String::new();
    for (name, value) in lines {
        // What a broker says is printed without its control characters.
        let value: String = value.chars().filter(|c| !c.is_control()).collect();
        let _ = writeln!(text, "{name:<10}{value}"); // a string takes everything
    }
    if facts.is_debug_build {
        text.push_str("          kvperf is a debug build: these are no measurements\n");
    }
    text
}

/// The table of one number of clients.
pub(crate) fn table(runs: &[Run]) -> String {
    let Some(first) = runs.first() else { return String::new() };
    let noun = if first.clients == 1 { "client" } else { "clients" };
    let mut text = format!("\n{} {noun}\n", first.clients);
    let columns = ["ops", "ops/s", "mean µs", "p50 µs", "p99 µs", "max µs"];
    let _ = write!(text, "{:<8}{:>6}", "stage", "client");
    cells(&mut text, columns.map(str::to_owned));
    text.push_str("    rows/s  ops/sync\n");
    for run in runs.iter().filter(|run| run.beside.is_none()) {
        for (number, summary) in run.each.iter().enumerate() {
            let is_all = run.each.len() == 1;
            line(&mut text, run, &(number + 1).to_string(), summary, is_all);
        }
        if run.each.len() > 1 {
            line(&mut text, run, "sum", &run.sum, true);
        }
    }
    text
}

fn line(text: &mut String, run: &Run, client: &str, summary: &Summary, is_all: bool) {
    let Summary { operations, rows, seconds, ops_per_s, mean_us, p50_us, p99_us, max_us, .. } = *summary;
    let _ = write!(text, "{:<8}{client:>6}{:>12}", run.stage, grouped(operations as f64));
    cells(text, [ops_per_s, mean_us, p50_us, p99_us, max_us].map(grouped));
    let rows_per_s = if rows > 0 && seconds > 0.0 { grouped(rows as f64 / seconds) } else { String::new() };
    // Reads are not synced: what is, is others' or a sign of life of the log.
    let syncs = run.syncs.filter(|syncs| is_all && run.stage.is_mutation() && *syncs > 0);
    let ops_per_sync = syncs.map_or(String::new(), |syncs| grouped(operations as f64 / syncs as f64));
    let cells = format!("{rows_per_s:>10}{ops_per_sync:>10}");
    let _ = writeln!(text, "{}", cells.trim_end());
}

/// The stages alone and beside others' work, side by side. Nothing where there is no such work.
pub(crate) fn beside(config: &Config, runs: &[Run]) -> String {
    let Some(clients) = runs.iter().find(|run| run.beside.is_some()).map(|run| run.clients) else { return String::new() };
    let Besides { clients: others, keys, .. } = config.besides;
    let keys = grouped(others as f64 * keys as f64);
    let mut text = format!("\n{clients} measured, beside {others} with dear requests in a loop over {keys} keys\n");
    let _ = write!(text, "{:<8}{:<8}", "stage", "beside");
    let columns = ["ops/s", "mean µs", "p50 µs", "p99 µs", "max µs", "requests/s", "their mean", "their max"];
    cells(&mut text, columns.map(str::to_owned));
    text.push('\n');
    for stage in &config.stages {
        for run in runs.iter().filter(|run| run.stage == *stage) {
            let Summary { ops_per_s, mean_us, p50_us, p99_us, max_us, .. } = run.sum;
            let _ = write!(text, "{stage:<8}{:<8}", run.beside.as_ref().map_or("nothing", |beside| beside.dear.name()));
            cells(&mut text, [ops_per_s, mean_us, p50_us, p99_us, max_us].map(grouped));
            if let Some(Beside { sum, .. }) = &run.beside {
                cells(&mut text, [sum.ops_per_s, sum.mean_us, sum.max_us].map(grouped));
            }
            text.push('\n');
        }
    }
    text
}

/// Appends cells of one width.
fn cells(text: &mut String, cells: impl IntoIterator<Item = String>) {
    cells.into_iter().for_each(|cell| text.push_str(&format!("{cell:>12}")));
}

/// The sums side by side, and where they level out. Nothing where there is only one number of clients.
pub(crate) fn growth(config: &Config, runs: &[Run]) -> String {
    if config.clients.len() < 2 {
        return String::new();
    }
    let mut text = format!("\nSum of all clients, operations per second\n{:<8}", "clients");
    cells(&mut text, config.stages.iter().map(|stage| stage.name().to_owned()));
    text.push('\n');
    for clients in &config.clients {
        let _ = write!(text, "{clients:<8}");
        cells(
            &mut text,
            config.stages.iter().map(|stage| {
                let is_it = |run: &&Run| run.clients == *clients && run.stage == *stage && run.beside.is_none();
                let run = runs.iter().find(is_it);
                run.map_or("-".to_owned(), |run| grouped(run.sum.ops_per_s))
            }),
        );
        text.push('\n');
    }
    let largest = config.clients.iter().max().copied().unwrap_or_default();
    for Level { stage, clients } in levels(config, runs) {
        let _ = match clients {
            Some(clients) => writeln!(text, "{stage:<8}levels out at {clients}: more clients bring less than a tenth"),
            None => writeln!(text, "{stage:<8}has not levelled out at {largest}"),
        };
    }
    text
}

fn levels(config: &Config, runs: &[Run]) -> Vec<Level> {
    let level = |stage: &Stage| {
        let of_stage = runs.iter().filter(|run| run.stage == *stage && run.beside.is_none());
        let rates: Vec<(usize, f64)> = of_stage.map(|run| (run.clients, run.sum.ops_per_s)).collect();
        Level { stage: *stage, clients: levels_out_at(&rates) }
    };
    config.stages.iter().map(level).collect()
}

/// Everything as one document. `began_unix_ms`: when it began, by the wall clock.
pub(crate) fn document(config: &Config, facts: &Facts, began_unix_ms: u64, runs: Vec<Run>) -> Document {
    let settings = Settings {
        clients: config.clients.clone(),
        sweep: false,
        stages: config.stages.clone(),
        amount: config.amount,
        shape: config.shape.clone(),
        pipeline: 1,
        rate: None,
        distribution: "uniform".to_owned(),
        workload: None,
        loaded: config.loaded(),
        beside: config.besides.clone(),
    };
    let levels_out = levels(config, &runs);
    Document { format: FORMAT, began_unix_ms, facts: facts.clone(), settings, runs, levels_out, verified: Vec::new() }
}

/// The first line of CSV.
pub(crate) const CSV_HEAD: &str =
    "clients,stage,batch,client,operations,rows,seconds,ops_per_s,mean_us,p50_us,p99_us,max_us,syncs,beside\n";

/// The lines of some runs; the sum's client is `sum`, and only it has syncs.
pub(crate) fn csv(runs: &[Run]) -> String {
    let mut text = String::new();
    for run in runs {
        let numbers = (1..=run.each.len()).map(|number| number.to_string()).chain(["sum".to_owned()]);
        for (client, summary) in numbers.zip(run.each.iter().chain([&run.sum])) {
            let Summary { operations, rows, seconds, ops_per_s, mean_us, p50_us, p99_us, max_us, .. } = *summary;
            let Run { clients, stage, batch, .. } = run;
            let beside = run.beside.as_ref().map_or("", |beside| beside.dear.name());
            let syncs = run.syncs.filter(|_| client == "sum").map_or(String::new(), |syncs| syncs.to_string());
            let _ = writeln!(
                text,
                "{clients},{stage},{batch},{client},{operations},{rows},{seconds:.6},{ops_per_s:.1},{mean_us:.1},{p50_us:.1},{p99_us:.1},{max_us:.1},{syncs},{beside}"
            );
        }
    }
    text
}

/// A number with commas between thousands; one decimal below a hundred.
pub(crate) fn grouped(value: f64) -> String {
    if value < 99.95 && value.fract() != 0.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::Parser;

    use super::*;
    use crate::args::Words;
    use crate::beside::Dear;

    fn config(words: &[&str]) -> Config {
        Words::try_parse_from(["kvperf", "lab", "--catalog", "none"].iter().chain(words)).unwrap().check().unwrap()
    }

    fn summary(operations: u64, ops_per_s: f64) -> Summary {
        let summary = Summary { operations, seconds: 2.0, ops_per_s, ..Summary::default() };
        Summary { mean_us: 1_234.56, p50_us: 9.95, p99_us: 3.0, max_us: 5_000.0, ..summary }
    }

    fn run(clients: usize, rate: f64) -> Run {
        let each = vec![summary(10, rate / clients as f64); clients];
        Run { clients, syncs: Some(4), sum: summary(10 * clients as u64, rate), each, ..Run::of(Stage::Insert, 1) }
    }

    #[test]
    fn numbers_are_readable() {
        let shown: Vec<String> = [0.0, 7.0, 7.25, 99.9, 99.96, 999.4, 1_000.0, 1_234_567.8].into_iter().map(grouped).collect();
        assert_eq!(shown, ["0", "7", "7.2", "99.9", "100", "999", "1,000", "1,234,568"]);
    }

    #[test]
    fn each_client_has_a_line_and_so_has_the_sum() {
        let text = table(&[run(2, 5_000.0)]);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["2", "clients"]);
        assert_eq!(lines[3][..4], ["insert", "1", "10", "2,500"]);
        assert_eq!(lines[5][..5], ["insert", "sum", "20", "5,000", "1,235"]);
        assert_eq!((lines[4].len(), lines[5].last()), (8, Some(&"5")), "operations per sync are of all clients together");
        assert_eq!(table(&[run(1, 5_000.0)]).lines().count(), 4, "one client is its own sum");
    }

    #[test]
    fn growth_says_where_it_ends() {
        let config = config(&["--clients", "1,2,4", "--stages", "insert"]);
        let text = growth(&config, &[run(1, 100.0), run(2, 190.0), run(4, 191.0)]);
        assert!(text.contains("insert  levels out at 2"), "{text}");
        let text = growth(&config, &[run(1, 100.0), run(2, 190.0), run(4, 380.0)]);
        assert!(text.contains("insert  has not levelled out at 4"), "{text}");
    }

    #[test]
    fn what_others_did_stands_beside_the_stage_alone() {
        let config = config(&["--beside", "scan", "--stages", "insert", "--beside-keys", "2000", "--beside-clients", "2"]);
        let beside = Some(Beside { dear: Dear::Scan, sum: summary(7, 42.0) });
        let runs = [run(1, 5_000.0), Run { beside, ..run(1, 2_500.0) }];
        let text = super::beside(&config, &runs);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert!(text.contains("over 2,000 keys"), "{text}");
        assert_eq!(lines[3][..3], ["insert", "nothing", "5,000"]);
        assert_eq!((&lines[4][..3], lines[4][7]), (&["insert", "scan", "2,500"][..], "42"));
        assert_eq!(table(&runs).lines().count(), 4, "the table of the stages has them alone");
        assert_eq!(super::beside(&config, &runs[..1]), "");
        assert!(csv(&runs).lines().last().unwrap().ends_with(",scan"));
    }

    #[test]
    fn csv_has_as_many_fields_as_its_head() {
        let text = csv(&[run(2, 5_000.0)]);
        let fields = |line: &str| line.split(',').count();
        assert_eq!(text.lines().count(), 3);
        assert!(text.lines().all(|line| fields(line) == fields(CSV_HEAD.trim_end())), "{text}");
        assert!(text.lines().last().unwrap().starts_with("2,insert,1,sum,20,0,2.000000,5000.0,"), "{text}");
    }
}

//! Results as people and programs read them: tables, JSON, CSV.
//!
//! - A block of text is one string, so that two runs at once don't mix their lines.
//! - Names in JSON and CSV are stable.

use std::fmt::Write;

use crate::args::{Amount, Besides, Config};
use crate::distribution::Distribution;
use crate::facts::Facts;
use crate::measure::levels_out_at;
use crate::mixes::Act;
use crate::result::{Beside, Document, FORMAT, Level, Outliers, Run, Schedule, Settings, Summary, Verified};
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
    let clients = if config.sweep { "1, 2, 3… until the sum levels out".to_owned() } else { clients.join(", ") };
    let requests = match (config.rate, config.pipeline) {
        (Some(rate), _) => format!("{} operations per second of all clients on schedule", grouped(rate)),
        (None, 1) => format!("{operations} each, one outstanding"),
        (None, depth) => format!("{depth} operations outstanding, put into requests by the library"),
    };
    let values = match (shape.value_bytes, shape.value_bytes_max) {
        (least, most) if least == most => least.to_string(),
        (least, most) => format!("{least} to {most}"),
    };
    let chosen = match config.distribution {
        Distribution::Uniform => String::new(),
        other => format!(", {other}"),
    };
    let mix = if config.stages.contains(&Stage::Mixed) { format!("; mixed is workload {}", config.mix) } else { String::new() };
    let loaded = match config.loaded() {
        0 => String::new(),
        keys => format!("; {} there before", grouped(keys as f64)),
    };
    let lines = [
        ("broker", format!("{} {}, --sync {}", facts.project, facts.broker_version, facts.sync)),
        ("endpoint", facts.endpoint.clone()),
        ("kvperf", format!("{} (git {}), libzmq {}", facts.kvperf_version, facts.kvperf_commit, facts.libzmq)),
        ("machine", format!("{} processors, {}", facts.processors, facts.system)),
        ("keys", format!("{} bytes, values {values} bytes{loaded}{chosen}", shape.key_bytes)),
        ("requests", format!("{requests}; pages of {} keys{mix}", shape.page_rows())),
        ("clients", format!("{clients}; {amount}")),
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

/// Everything about one number of clients.
pub(crate) fn text(config: &Config, runs: &[Run], verified: Option<&Verified>) -> String {
    [table(runs), schedules(runs), outliers(runs), beside(config, runs), verified.map_or(String::new(), compared)].concat()
}

/// The table of one number of clients.
fn table(runs: &[Run]) -> String {
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
        for kind in &run.kinds {
            let Summary { operations, ops_per_s, mean_us, p50_us, p99_us, max_us, .. } = kind.sum;
            // As wide as stage and client.
            let name = if kind.kind == Act::ReadModifyWrite { "read+write" } else { kind.kind.name() };
            let _ = write!(text, "  {name:<12}{:>12}", grouped(operations as f64));
            cells(&mut text, [ops_per_s, mean_us, p50_us, p99_us, max_us].map(grouped));
            text.push('\n');
        }
    }
    text
}

/// How well schedules were kept. Nothing where there was none.
fn schedules(runs: &[Run]) -> String {
    let Some(first) = runs.iter().find_map(|run| run.schedule.as_ref()) else { return String::new() };
    let mut text =
        format!("\non schedule, {} operations per second; microseconds from when they were\n", grouped(first.ops_per_s));
    let _ = write!(text, "{:<14}", "");
    let columns = ["", "", "", "due", "due", "due", "due", "sent", "sent"];
    cells(&mut text, columns.map(str::to_owned));
    let _ = write!(text, "\n{:<14}", "stage");
    let columns = ["due", "sent late", "never sent", "p50", "p99", "p99.9", "max", "p99", "max"];
    cells(&mut text, columns.map(str::to_owned));
    text.push('\n');
    for run in runs {
        let Some(Schedule { due, late, unsent, from_sent, .. }) = &run.schedule else { continue };
        let _ = write!(text, "{:<14}", run.stage);
        cells(&mut text, [*due, *late, *unsent].map(|count| grouped(count as f64)));
        let Summary { p50_us, p99_us, p999_us, max_us, .. } = run.sum;
        cells(&mut text, [p50_us, p99_us, p999_us, max_us, from_sent.p99_us, from_sent.max_us].map(grouped));
        text.push('\n');
    }
    let overdue = runs.iter().filter_map(|run| run.schedule.as_ref()).any(|schedule| schedule.unsent > 0);
    if overdue {
        text.push_str("operations that were never sent are in no latency: so much per second is more than is done here\n");
    }
    text
}

/// The fastest and slowest operations. Nothing where they were not looked for.
fn outliers(runs: &[Run]) -> String {
    const SHOWN: usize = 5;
    let mut text = String::new();
    for run in runs {
        let Some(Outliers { fastest, slowest, within, outside }) = &run.outliers else { continue };
        let made = run.checkpoints.len();
        let noun = if made == 1 { "checkpoint" } else { "checkpoints" };
        let _ = writeln!(text, "\noutliers of {}, {made} {noun} meanwhile", run.stage);
        let _ = writeln!(text, "{:<10}{:>6}{:>12}{:>12}", "", "client", "at ms", "µs");
        for (what, some) in [("fastest", fastest), ("slowest", slowest)] {
            for outlier in some.iter().take(SHOWN) {
                let during = if outlier.in_checkpoint { "   during a checkpoint" } else { "" };
                let (at, us) = (grouped(outlier.t_ms), grouped(outlier.us));
                let _ = writeln!(text, "{what:<10}{:>6}{at:>12}{us:>12}{during}", outlier.client);
            }
        }
        if made == 0 {
            text.push_str("no checkpoint: measure for longer, or start the broker with a smaller --checkpoint-after\n");
            continue;
        }
        let _ = write!(text, "{:<22}", "checkpoints");
        cells(&mut text, ["ops", "ops/s", "min µs", "p50 µs", "p99 µs", "p99.9 µs", "max µs"].map(str::to_owned));
        text.push('\n');
        for (what, summary) in [("during them", within), ("otherwise", outside)] {
            let Some(Summary { operations, ops_per_s, min_us, p50_us, p99_us, p999_us, max_us, .. }) = summary else { continue };
            let _ = write!(text, "{what:<22}{:>12}", grouped(*operations as f64));
            cells(&mut text, [ops_per_s, min_us, p50_us, p99_us, p999_us, max_us].map(|value| grouped(*value)));
            text.push('\n');
        }
    }
    text
}

/// What the look at every acknowledged write found.
fn compared(verified: &Verified) -> String {
    let Verified { acknowledged, unknown, keys, restarts, .. } = *verified;
    let [acknowledged, unknown, keys] = [acknowledged, unknown, keys].map(|count| grouped(count as f64));
    let noun = if restarts == 1 { "restart" } else { "restarts" };
    format!(
        "\nverified: {acknowledged} acknowledged writes, none lost; {unknown} writes without an answer; {keys} keys compared; \
         {restarts} {noun} of the broker\n"
    )
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
fn beside(config: &Config, runs: &[Run]) -> String {
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
pub(crate) fn growth(document: &Document) -> String {
    let Document { runs, settings, levels_out, .. } = document;
    let (clients, stages) = (&settings.clients, &settings.stages);
    if clients.len() < 2 {
        return String::new();
    }
    let mut text = format!("\nSum of all clients, operations per second\n{:<8}", "clients");
    cells(&mut text, stages.iter().map(|stage| stage.name().to_owned()));
    text.push('\n');
    for clients in clients {
        let _ = write!(text, "{clients:<8}");
        cells(
            &mut text,
            stages.iter().map(|stage| {
                let is_it = |run: &&Run| run.clients == *clients && run.stage == *stage && run.beside.is_none();
                let run = runs.iter().find(is_it);
                run.map_or("-".to_owned(), |run| grouped(run.sum.ops_per_s))
            }),
        );
        text.push('\n');
    }
    let largest = clients.iter().max().copied().unwrap_or_default();
    for Level { stage, clients } in levels_out {
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
pub(crate) fn document(config: &Config, facts: &Facts, began_unix_ms: u64, runs: Vec<Run>, verified: Vec<Verified>) -> Document {
    let mut clients = config.clients.clone();
    if config.sweep {
        clients = runs.iter().map(|run| run.clients).collect();
        clients.dedup();
    }
    let settings = Settings {
        clients,
        sweep: config.sweep,
        stages: config.stages.clone(),
        amount: config.amount,
        shape: config.shape.clone(),
        pipeline: config.pipeline,
        rate: config.rate,
        distribution: config.distribution,
        workload: config.stages.contains(&Stage::Mixed).then_some(config.mix),
        loaded: config.loaded(),
        beside: config.besides.clone(),
    };
    let levels_out = levels(config, &runs);
    Document { format: FORMAT, began_unix_ms, facts: facts.clone(), settings, runs, levels_out, verified }
}

/// The first line of CSV.
pub(crate) const CSV_HEAD: &str = "clients,stage,batch,client,operations,rows,seconds,ops_per_s,mean_us,p50_us,p99_us,max_us,syncs,beside,min_us,p90_us,p999_us,client_cpu_us_per_op,kind,due,late,unsent\n";

/// The lines of some runs; the sum's client is `sum`, and only it has syncs and a schedule. The kinds of operations of a mix have
/// lines of their own, whose client is `kind`.
pub(crate) fn csv(runs: &[Run]) -> String {
    let mut text = String::new();
    for run in runs {
        let numbers = (1..=run.each.len()).map(|number| number.to_string()).chain(["sum".to_owned()]);
        let lines = numbers.zip(run.each.iter().chain([&run.sum])).map(|(client, summary)| (client, summary, ""));
        let kinds = run.kinds.iter().map(|kind| ("kind".to_owned(), &kind.sum, kind.kind.name()));
        for (client, summary, kind) in lines.chain(kinds) {
            let Summary { operations, rows, seconds, ops_per_s, mean_us, min_us, p50_us, p90_us, p99_us, .. } = *summary;
            let Summary { p999_us, max_us, client_cpu_us_per_op, .. } = *summary;
            let Run { clients, stage, batch, .. } = run;
            let beside = run.beside.as_ref().map_or("", |beside| beside.dear.name());
            let is_sum = client == "sum";
            let syncs = run.syncs.filter(|_| is_sum).map_or(String::new(), |syncs| syncs.to_string());
            let schedule = run.schedule.as_ref().filter(|_| is_sum);
            let schedule = schedule.map_or(",,".to_owned(), |it| format!("{},{},{}", it.due, it.late, it.unsent));
            let _ = writeln!(
                text,
                "{clients},{stage},{batch},{client},{operations},{rows},{seconds:.6},{ops_per_s:.1},{mean_us:.1},{p50_us:.1},{p99_us:.1},{max_us:.1},{syncs},{beside},{min_us:.1},{p90_us:.1},{p999_us:.1},{client_cpu_us_per_op:.2},{kind},{schedule}"
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
    use crate::result::{Checkpoint, Kind, Outlier};

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
        let growth = |runs: [Run; 3]| growth(&document(&config, &Facts::sample(), 0, runs.to_vec(), Vec::new()));
        let text = growth([run(1, 100.0), run(2, 190.0), run(4, 191.0)]);
        assert!(text.contains("insert  levels out at 2"), "{text}");
        let text = growth([run(1, 100.0), run(2, 190.0), run(4, 380.0)]);
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
        assert!(csv(&runs).lines().last().unwrap().contains(",scan,"));
    }

    #[test]
    fn a_sweep_names_the_numbers_of_clients_that_it_went_through() {
        let config = config(&["--sweep", "--stages", "insert"]);
        let found = document(&config, &Facts::sample(), 0, vec![run(1, 100.0), run(2, 100.0), run(3, 100.0)], Vec::new());
        assert_eq!(found.settings.clients, [1, 2, 3]);
        let text = growth(&found);
        assert!(text.contains("\n3 ") && text.contains("insert  levels out at 1"), "{text}");
    }

    #[test]
    fn a_mix_has_a_line_for_each_kind() {
        let kinds = [Act::Read, Act::ReadModifyWrite].map(|kind| Kind { kind, sum: summary(7, 42.0) }).to_vec();
        let mixed = Run { stage: Stage::Mixed, kinds, ..run(2, 5_000.0) };
        let text = table(std::slice::from_ref(&mixed));
        assert!(text.contains("\n  read                   7") && text.contains("\n  read+write             7"), "{text}");
        let lines = csv(&[mixed]);
        assert!(
            lines.lines().nth(3).is_some_and(|line| line.starts_with("2,mixed,1,kind,7,") && line.contains(",read,")),
            "{lines}"
        );
    }

    #[test]
    fn what_a_schedule_could_not_keep_is_said() {
        let schedule = |unsent| Some(Schedule { ops_per_s: 1e4, due: 20, late: 5, unsent, from_sent: summary(20, 1.0) });
        let kept = Run { schedule: schedule(0), ..run(1, 5_000.0) };
        let text = schedules(std::slice::from_ref(&kept));
        assert!(text.contains("10,000 operations per second") && !text.contains("never sent are"), "{text}");
        let text = schedules(&[kept, Run { schedule: schedule(4), ..run(1, 5_000.0) }]);
        assert!(text.contains("so much per second is more than is done here"), "{text}");
        assert_eq!(schedules(&[run(1, 5_000.0)]), "");
    }

    #[test]
    fn outliers_stand_with_their_checkpoints() {
        let outlier = |us, in_checkpoint| Outlier { client: 2, t_ms: 1_500.0, us, in_checkpoint };
        let found = Outliers {
            fastest: vec![outlier(5.0, false); 9],
            slowest: vec![outlier(9_000.0, true)],
            within: Some(summary(3, 30.0)),
            outside: None,
        };
        let without = Run { outliers: Some(found), ..run(2, 5_000.0) };
        let text = outliers(std::slice::from_ref(&without));
        assert!(text.contains("0 checkpoints meanwhile") && text.contains("smaller --checkpoint-after"), "{text}");
        assert_eq!(text.matches("fastest").count(), 5);
        let text = outliers(&[Run { checkpoints: vec![Checkpoint { begin_ms: 1.0, end_ms: None }], ..without }]);
        assert!(
            text.contains("9,000   during a checkpoint") && text.contains("during them") && !text.contains("otherwise"),
            "{text}"
        );
        assert_eq!(outliers(&[run(1, 5.0)]), "");
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

//! The tables.

use std::fmt::Write;

use crate::flight::Measured;
use crate::{Args, Kind, Row};

/// Load average of the last minute.
pub(crate) fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(f64::NAN)
}

fn median(mut numbers: Vec<f64>) -> (f64, f64, f64) {
    numbers.sort_by(f64::total_cmp);
    let (low, high) = (numbers.first().copied().unwrap_or(f64::NAN), numbers.last().copied().unwrap_or(f64::NAN));
    (numbers.get(numbers.len() / 2).copied().unwrap_or(f64::NAN), low, high)
}

/// Thousands apart.
fn number(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn of(row: &Row, side: usize, figure: impl Fn(&Measured) -> f64) -> (f64, f64, f64) {
    median(row.rounds.iter().map(|round| figure(&round[side])).collect())
}

fn spread((middle, low, high): (f64, f64, f64)) -> String {
    format!("**{}** ({}–{})", number(middle), number(low), number(high))
}

fn percentile(at: f64) -> impl Fn(&Measured) -> f64 {
    move |measured| measured.delays.value_at_quantile(at) as f64
}

/// Microseconds of the server's processor time for each event.
fn cpu_us(measured: &Measured) -> f64 {
    measured.server_cpu_s * 1e6 / measured.events as f64
}

pub(crate) fn text(args: &Args, names: &[String; 2], rows: &[Row], load_before: f64) -> String {
    let mut out = String::new();
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    let flags =
        if args.flags.is_empty() { "defaults (`--sync always`)".to_owned() } else { format!("`{}`", args.flags.join(" ")) };
    let remark =
        if load_before > 0.5 { " (**the machine was busy with other work: only the comparison means something**)" } else { "" };
    let _ = writeln!(
        out,
        "{} with {flags}; {} with defaults, no snapshots. {processors} processors, shared by server, writer and watchers; unix sockets; values of {} bytes; \
         at most {} events on their way to the slowest watcher; {} rounds in turn. Load average before: {load_before:.2}{remark}.",
        names[0], names[1], args.value_bytes, args.window, args.rounds,
    );
    let _ = writeln!(
        out,
        "\nAs fast as it goes, events × watchers per second (lowest–highest round), and the server's processor time per event:\n"
    );
    let _ = writeln!(out, "| watchers | {0} | {1} | ratio (lowest–highest) | µs of processor, {0} | {1} |", names[0], names[1]);
    out.push_str("|---:|---:|---:|---:|---:|---:|\n");
    for row in rows.iter().filter(|row| row.kind == Kind::Full) {
        let (ratio, low, high) =
            median(row.rounds.iter().map(|[ours, theirs]| ours.delivered_per_s / theirs.delivered_per_s).collect());
        let _ = writeln!(
            out,
            "| {} | {} | {} | **{ratio:.2}** ({low:.2}–{high:.2}) | {:.1} | {:.1} |",
            row.watchers,
            spread(of(row, 0, |measured| measured.delivered_per_s)),
            spread(of(row, 1, |measured| measured.delivered_per_s)),
            of(row, 0, cpu_us).0,
            of(row, 1, cpu_us).0,
        );
    }
    let _ = writeln!(
        out,
        "\nAt {} events a second, µs from when an event was due until a watcher had it (medians over rounds):\n",
        args.rate
    );
    let _ = writeln!(out, "| watchers | p50, {0} | {1} | p99, {0} | {1} |", names[0], names[1]);
    out.push_str("|---:|---:|---:|---:|---:|\n");
    for row in rows.iter().filter(|row| row.kind == Kind::Paced) {
        let figures = [(0, 0.5), (1, 0.5), (0, 0.99), (1, 0.99)].map(|(side, at)| number(of(row, side, percentile(at)).0));
        let _ = writeln!(out, "| {} | {} |", row.watchers, figures.join(" | "));
    }
    out
}

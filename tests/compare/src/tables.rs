//! The tables in Markdown.

use std::fmt::Write;

use crate::facts::Facts;
use crate::fields::{FieldResult, Product};
use crate::options::Options;
use crate::results::RowResult;
use crate::rows::Target;
use crate::stats::{Spread, figure};

/// All of them.
pub fn text(options: &Options, facts: &Facts, rows: &[RowResult], fields: &[FieldResult]) -> String {
    let mut out = head(options, facts);
    if !rows.is_empty() {
        out.push_str("\n### Targets\n\n");
        out.push_str(&targets(rows));
        out.push_str(&processor_time(rows));
        out.push_str(&settings(rows));
    }
    if !fields.is_empty() {
        out.push_str("\n### Side by side\n");
        fields.iter().for_each(|result| out.push_str(&field(result)));
    }
    out
}

/// A table of products: operations a second, and what ours is to each.
fn field(result: &FieldResult) -> String {
    let names: Vec<&str> = result.products.iter().map(|product| product.side.name.as_str()).collect();
    let mut out = format!(
        "\n**{}.** {} a second, and what kvbroker's are to them:\n\n| | {} |\n|---|",
        result.title,
        result.counted.name(),
        names.join(" | ")
    );
    out.push_str(&"---:|".repeat(names.len()));
    out.push('\n');
    for (load, name) in result.loads.iter().enumerate() {
        let cells = result.products.iter().enumerate().map(|(at, product)| {
            let Some(per_s) = result.per_s(at, load) else {
                return if product.failed.is_some() { "**failed**".to_owned() } else { "–".to_owned() };
            };
            let mut cell = spread(Some(per_s));
            if let Some(ratio) = result.ratio(at, load).filter(|_| at > 0) {
                let _ = write!(cell, "<br>**× {:.2}** ({:.2}–{:.2})", ratio.median, ratio.low, ratio.high);
            }
            let times = ["p50_us", "p99_us"].map(|name| result.detail(at, load, name));
            if let [Some(half), Some(most)] = times {
                let _ = write!(cell, "<br>p50 {} µs, p99 {} µs", figure(half.median), figure(most.median));
            }
            if let Some(cpu) = result.detail(at, load, "server_cpu_us") {
                let _ = write!(cell, "<br>{} µs of processor", figure(cpu.median));
            }
            cell
        });
        let cells: Vec<String> = cells.collect();
        let _ = writeln!(out, "| {name} | {} |", cells.join(" | "));
    }
    if let Some(target) = result.target {
        let told = result.loads.iter().enumerate().filter_map(|(load, name)| {
            let (best, ratio) = result.best_other(load)?;
            let verdict = if ratio >= target { "met" } else { "**missed**" };
            Some(format!("{name}: × {ratio:.2} of {best}, {verdict}"))
        });
        let _ = writeln!(out, "\nTarget, at least × {target:.2} of the best other. {}.", told.collect::<Vec<_>>().join("; "));
    }
    out.push('\n');
    for Product { side, failed, .. } in &result.products {
        let failed = failed.as_ref().map_or(String::new(), |why| format!("; **failed**: {}", why.replace('\n', " ")));
        let _ = writeln!(out, "- {}: {}{failed}", side.name, side.settings);
    }
    out
}

fn head(options: &Options, facts: &Facts) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "{}, {} processors shared by servers and generators, {:.0} GiB; {}; files on {}; libzmq {}; commit {}. {} rounds, {} s each side's turn; \
         keys of 15 bytes, values of 64, {} keys. Load average before: {:.2}.",
        facts.processor,
        facts.processors,
        facts.memory_bytes as f64 / f64::from(1 << 30),
        facts.system,
        facts.file_system,
        facts.libzmq,
        facts.commit,
        options.rounds,
        options.seconds.as_secs_f64(),
        figure(f64::from(options.keys)),
        facts.load_before,
    );
    if facts.is_debug_build {
        out.push_str("\n**A debug build: no figure means anything.**\n");
    }
    if facts.file_system == "tmpfs" {
        out.push_str("\n**The files are in memory: what is said to be durable is not.**\n");
    }
    out.push('\n');
    out
}

/// Median, lowest and highest.
fn spread(spread: Option<Spread>) -> String {
    spread.map_or_else(
        || "–".to_owned(),
        |Spread { median, low, high }| format!("{} ({}–{})", figure(median), figure(low), figure(high)),
    )
}

fn target(target: Option<Target>) -> String {
    let Some(Target { is_least, must, stretch }) = target else { return "–".to_owned() };
    let sign = if is_least { '≥' } else { '≤' };
    let stretch = stretch.map_or(String::new(), |stretch| format!(" ({stretch:.2})"));
    format!("{sign} {must:.2}{stretch}")
}

fn targets(rows: &[RowResult]) -> String {
    let mut out =
        "| row | what | target (fine) | kvbroker | peer | ratio | lowest–highest | |\n|---|---|---:|---:|---:|---:|---:|---|\n"
            .to_owned();
    for row in rows {
        let what = format!("`{}` | {}", row.name, row.what);
        if let Some(why) = &row.failed {
            let _ = writeln!(
                out,
                "| {what} | {} | | | | | **failed**: {} |",
                target(row.target),
                why.replace('|', "\\|").replace('\n', " ")
            );
            continue;
        }
        let (Some(ratio), [ours, theirs]) = (row.ratio(), [0, 1].map(|side| row.figure(side))) else { continue };
        let verdict = row.target.map_or("", |target| if target.is_met(ratio.median) { "met" } else { "**missed**" });
        let _ = writeln!(
            out,
            "| {what} | {} | {} {unit} | {} {unit} | **{:.2}** | {:.2}–{:.2} | {verdict} |",
            target(row.target),
            spread(ours),
            spread(theirs),
            ratio.median,
            ratio.low,
            ratio.high,
            unit = row.unit,
        );
    }
    out
}

fn processor_time(rows: &[RowResult]) -> String {
    let mut out = String::new();
    for row in rows {
        let [ours, theirs] = [0, 1].map(|side| ["server_cpu_us", "generator_cpu_us"].map(|name| row.detail(side, name)));
        if ours[0].is_none() {
            continue;
        }
        if out.is_empty() {
            out.push_str(
                "\nProcessor time for one operation, µs:\n\n| row | kvbroker | its generator | peer | its generator |\n|---|---:|---:|---:|---:|\n",
            );
        }
        let cells = [ours[0], ours[1], theirs[0], theirs[1]]
            .map(|cell| cell.map_or("–".to_owned(), |cell| format!("{:.2}", cell.median)));
        let _ = writeln!(out, "| `{}` | {} |", row.name, cells.join(" | "));
    }
    out
}

fn settings(rows: &[RowResult]) -> String {
    let mut out = "\n| row | kvbroker | peer |\n|---|---|---|\n".to_owned();
    for row in rows {
        let Some([ours, theirs]) = &row.sides else { continue };
        let [ours, theirs] = [ours, theirs].map(|side| format!("{}: {}", side.name, side.settings));
        let _ = writeln!(out, "| `{}` | {ours} | {theirs} |", row.name);
    }
    out
}

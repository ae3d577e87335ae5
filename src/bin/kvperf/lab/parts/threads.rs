//! Which threads of the broker have the processors, and how much of them is left: what a sum that grows no further waits for.
//!
//! - What the kernel says of each thread is read again and again; of that counts what lies within the measured stage.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::lab::bench::{Bench, Place, Plan, Setting};
use crate::lab::broker::{Broker, Start};
use crate::lab::kept::Kept;
use crate::lab::tables::table;
use crate::lab::trouble::LabError;
use crate::report::grouped;
use crate::result::Document;

/// Pause between two looks, milliseconds.
const LOOK_MS: u128 = 40;
/// Names of the broker's threads as they are shown, by how the kernel's names begin.
const GROUPS: [(&str, &str); 4] =
    [("front end", "front end"), ("worker", "worker"), ("ZMQ", "libzmq's I/O"), ("publisher", "publisher")];
const OTHERS: &str = "others";
const MACHINE: &str = "machine";

/// Name, flag of the broker, words of kvperf.
const SETTINGS: [(&str, &str); 6] = [
    ("inserts, 1 client", "--stages insert --clients 1"),
    ("inserts, 8 clients", "--stages insert --clients 8"),
    ("lookups, 8 clients", "--stages lookup --clients 8"),
    ("scans, 8 clients", "--stages scan --clients 8"),
    ("lookups, 4 clients × 64 outstanding", "--stages lookup --clients 4 --pipeline 64"),
    ("inserts, 4 clients, 256 per request", "--stages insert --clients 4 --batch 256"),
];

pub(super) fn settings(plan: &Plan) -> Vec<Setting> {
    let seconds = (plan.seconds * 2.0).max(0.3);
    let one =
        |(name, words): (&str, &str)| Setting::new(name, "--sync always", &format!("{words} --seconds {seconds}"), 1, 1, seconds);
    SETTINGS[..plan.pick(SETTINGS.len(), 2)].iter().copied().map(one).collect()
}

/// Processor time until a moment, nanoseconds.
#[derive(Clone, Debug)]
struct Look {
    unix_ms: f64,
    /// Of each group of threads, and of the whole machine.
    used_ns: BTreeMap<&'static str, u64>,
}

pub(super) fn measure(bench: &mut Bench, kept: &mut Kept) -> Result<(), LabError> {
    kept.rounds = 1;
    for setting in settings(&bench.plan) {
        bench.progress.step(&format!("threads: {}", setting.name), setting.expected_s);
        let broker = Broker::start(bench, &Start::with(&["--sync", "always"]))?;
        let mut looks: Vec<Look> = Vec::new();
        let mut last = Instant::now();
        let document = bench.perf(&Place::beside(&broker), &setting.words, |_| {
            if looks.is_empty() || last.elapsed().as_millis() >= LOOK_MS {
                last = Instant::now();
                looks.extend(look(broker.id()));
            }
            Ok(())
        })?;
        if looks.is_empty() {
            kept.left_out = Some("the kernel does not tell threads' processor time (/proc/PID/task/TID/schedstat)".to_owned());
            return Ok(());
        }
        for (group, processors) in shares(&looks, &document) {
            kept.values.insert(format!("{}: {group}", setting.name), vec![processors]);
        }
        let mut series = setting.series();
        series.rounds.push(document);
        kept.series.push(series);
    }
    Ok(())
}

/// None where the kernel does not tell.
fn look(broker: u32) -> Option<Look> {
    let mut used_ns: BTreeMap<&'static str, u64> = BTreeMap::new();
    for task in fs::read_dir(format!("/proc/{broker}/task")).ok()?.flatten() {
        // A thread may have ended since it was listed.
        let Some((name, ns)) = thread(&task.path()) else { continue };
        let group = GROUPS.iter().find(|(begin, _)| name.starts_with(begin)).map_or(OTHERS, |(_, group)| group);
        *used_ns.entry(group).or_default() += ns;
    }
    if used_ns.is_empty() {
        return None;
    }
    used_ns.insert(MACHINE, machine_ns()?);
    let unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs_f64() * 1e3;
    Some(Look { unix_ms, used_ns })
}

fn thread(task: &Path) -> Option<(String, u64)> {
    let name = fs::read_to_string(task.join("comm")).ok()?.trim().to_owned();
    let times = fs::read_to_string(task.join("schedstat")).ok()?;
    Some((name, times.split_whitespace().next()?.parse().ok()?))
}

/// What all processors have done, waiting for nothing.
fn machine_ns() -> Option<u64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let fields: Vec<u64> = text.lines().next()?.split_whitespace().skip(1).map_while(|field| field.parse().ok()).collect();
    // user, nice, system, and behind idle and iowait: irq and softirq. In hundredths of a second.
    let ticks = [0, 1, 2, 5, 6].iter().filter_map(|index| fields.get(*index)).sum::<u64>();
    Some(ticks * 10_000_000)
}

/// How many processors each group had in the measured stage.
fn shares(looks: &[Look], document: &Document) -> BTreeMap<&'static str, f64> {
    let Some(run) = document.runs.first() else { return BTreeMap::new() };
    let begin = document.began_unix_ms as f64 + run.began_ms;
    let end = begin + run.sum.seconds * 1e3;
    let within: Vec<&Look> = looks.iter().filter(|look| (begin..=end).contains(&look.unix_ms)).collect();
    let (Some(first), Some(last)) = (within.first(), within.last()) else { return BTreeMap::new() };
    let ns = (last.unix_ms - first.unix_ms) * 1e6;
    let share = |(group, used): (&&'static str, &u64)| {
        let before = first.used_ns.get(group).copied().unwrap_or_default();
        (ns > 0.0).then(|| (*group, used.saturating_sub(before) as f64 / ns))
    };
    last.used_ns.iter().filter_map(share).collect()
}

pub(super) fn text(kept: &Kept) -> String {
    let groups: Vec<&str> = GROUPS.iter().map(|(_, group)| *group).chain([OTHERS]).collect();
    let row = |series: &crate::lab::kept::Series| {
        let sum = &series.run()?.sum;
        let processors = |group: &str| kept.values(&format!("{}: {group}", series.name)).first().copied().unwrap_or(0.0);
        let broker: f64 = groups.iter().map(|group| processors(group)).sum();
        let per_operation = broker * 1e6 / sum.ops_per_s.max(f64::MIN_POSITIVE);
        let mut row = vec![series.name.clone(), grouped(sum.ops_per_s), format!("{:.2}", processors(MACHINE))];
        row.extend(groups.iter().map(|group| format!("{:.2}", processors(group))));
        row.extend([format!("{per_operation:.1}"), format!("{:.1}", sum.client_cpu_us_per_op)]);
        Some(row)
    };
    let rows: Vec<Vec<String>> = kept.series.iter().filter_map(row).collect();
    let mut head = vec!["`--sync always`", "ops/s", "all busy"];
    head.extend(&groups);
    head.extend(["broker, µs/op", "clients, µs/op"]);
    format!(
        "Processors in use: of the whole machine, and by the broker's threads; and processor time for one operation:\n\n{}",
        table(&head, &rows)
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_look_at_this_process_sees_its_threads_work() {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let Some(before) = look(std::process::id()) else { return };
            let begun = Instant::now();
            while begun.elapsed().as_millis() < 20 {
                std::hint::black_box(begun.elapsed());
            }
            let after = look(std::process::id()).unwrap();
            assert!(after.used_ns[MACHINE] >= before.used_ns[MACHINE] && after.unix_ms > before.unix_ms);
            // The threads of other tests take their time along when they end, so one look may show less than the one before.
            if after.used_ns[OTHERS] > before.used_ns[OTHERS] {
                return;
            }
            assert!(Instant::now() < deadline, "{before:?} {after:?}");
        }
    }
}

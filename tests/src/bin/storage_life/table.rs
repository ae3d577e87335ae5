//! The figures as a Markdown table.

use std::fmt;
use std::time::Duration;

use kvbroker_tests::Broker;

use crate::load::Load;
use crate::probe::Latencies;
use crate::{Args, Stats, find};

/// Rows of what was measured and how much it was.
#[derive(Debug)]
pub(crate) struct Table {
    heading: String,
    rows: Vec<(String, String)>,
}

fn mib(bytes: u64) -> String {
    format!("{:.0} MiB", bytes as f64 / f64::from(1 << 20))
}

impl Table {
    pub(crate) fn new(args: &Args, broker: &Broker) -> Table {
        let version = broker.stdout().lines().find_map(|line| line.trim().strip_prefix("durability").map(str::to_owned));
        let heading = format!(
            "{} keys of 15 bytes, values of {}; sync {}; broker flags: {}",
            args.keys,
            args.value_bytes,
            version.unwrap_or_default().trim(),
            if args.flags.is_empty() { "none".to_owned() } else { args.flags.join(" ") }
        );
        Table { heading, rows: Vec::new() }
    }

    fn row(&mut self, what: impl Into<String>, figure: impl Into<String>) {
        let (what, figure) = (what.into(), figure.into());
        eprintln!("  {what}: {figure}");
        self.rows.push((what, figure));
    }

    pub(crate) fn loaded(&mut self, load: &Load, seconds: f64, broker: &Broker) {
        let rate = load.keys as f64 / seconds;
        self.row("load, durable", format!("{seconds:.1} s, {rate:.0} keys/s, {} clients", load.threads));
        let memory = broker.memory();
        self.row("memory after the load (peak)", format!("{} ({})", mib(memory.now), mib(memory.peak)));
        self.row("bytes of memory per key", format!("{:.0}", memory.now as f64 / load.keys as f64));
    }

    pub(crate) fn settled(&mut self, waited: Duration, stats: &Stats, broker: &Broker) {
        self.row("checkpoints during the load", find(stats, "checkpoints").to_string());
        self.row("the last of them was done after the load", format!("{:.1} s", waited.as_secs_f64()));
        self.row("puts refused as busy meanwhile", find(stats, "throttled").to_string());
        let memory = broker.memory();
        self.row("memory then (peak)", format!("{} ({})", mib(memory.now), mib(memory.peak)));
    }

    pub(crate) fn checkpoint(&mut self, stats: &Stats) {
        self.row(
            "checkpoint",
            format!("{}, {} records", mib(find(stats, "checkpoint_bytes")), find(stats, "checkpoint_records")),
        );
        self.row("time that it took", format!("{:.1} s", find(stats, "checkpoint_ms") as f64 / 1_000.0));
    }

    pub(crate) fn memory(&mut self, when: &str, broker: &Broker) {
        self.row(format!("peak memory, {when}"), mib(broker.memory().peak));
    }

    pub(crate) fn latencies(&mut self, calm: &Latencies, busy: &Latencies) {
        let calm_us = &calm.us;
        let busy_us = &busy.us;
        for (name, quantile) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)] {
            let (without, with) = (calm_us.value_at_quantile(quantile), busy_us.value_at_quantile(quantile));
            let ratio = with as f64 / without as f64;
            self.row(
                format!("durable put, {name}, without / with a checkpoint"),
                format!("{:.2} / {:.2} ms, ratio {ratio:.2}", without as f64 / 1e3, with as f64 / 1e3),
            );
        }
        self.row(
            "puts counted, without / with",
            format!("{} in {:.0} s / {} in {:.0} s", calm_us.len(), calm.seconds, busy_us.len(), busy.seconds),
        );
    }

    pub(crate) fn restarted(&mut self, how: &str, took: Duration, stats: &Stats, broker: &Broker) {
        let keys = find(stats, "keys");
        let seconds = took.as_secs_f64();
        self.row(format!("restart {how}"), format!("{seconds:.1} s, {keys} keys, {:.2} M keys/s", keys as f64 / seconds / 1e6));
        let memory = broker.memory();
        self.row("memory then (peak)", format!("{} ({})", mib(memory.now), mib(memory.peak)));
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n\n| what | measured |\n|:---|---:|", self.heading)?;
        self.rows.iter().try_for_each(|(what, figure)| writeln!(f, "| {what} | {figure} |"))
    }
}

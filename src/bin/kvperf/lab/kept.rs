//! What a part has measured, as it is kept: `PART.json` in the working directory.
//!
//! - A part's text is made from this alone.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kvbroker::version;
use serde::{Deserialize, Serialize};

use super::bench::{Bench, Plan, Setting};
use super::parts::Part;
use super::trouble::LabError;
use crate::args::Amount;
use crate::result::{Document, FORMAT, Run};
use crate::stages::Stage;

/// Everything that one part found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Kept {
    /// The format of the documents inside.
    format: u32,
    /// When it was begun, milliseconds since 1970 (UTC).
    began_unix_ms: u64,
    pub(super) rounds: u32,
    is_quick: bool,
    /// What measured: version and commit of this program.
    kvperf: String,
    is_debug_build: bool,
    /// How many processes wanted to run before it began, over a minute; null if the system does not tell.
    load: Option<f64>,
    pub(super) series: Vec<Series>,
    /// Single values by name.
    #[serde(default)]
    pub(super) values: BTreeMap<String, Vec<f64>>,
    /// Facts by name.
    #[serde(default)]
    pub(super) texts: BTreeMap<String, String>,
    /// Why it was not measured.
    #[serde(default)]
    pub(super) left_out: Option<String>,
}

/// One setting, and what each round found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Series {
    pub(super) name: String,
    /// The broker's flags.
    pub(super) broker: String,
    /// The words of kvperf.
    pub(super) words: String,
    pub(super) rounds: Vec<Document>,
}

/// The middle of some rounds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Middle<'a> {
    /// The run whose sum is the median one.
    pub(super) run: &'a Run,
    /// Lowest and highest rate of the sum.
    pub(super) low: f64,
    pub(super) high: f64,
}

impl Kept {
    /// Nothing yet.
    pub(super) fn begin(plan: &Plan) -> Kept {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let load = fs::read_to_string("/proc/loadavg").ok();
        Kept {
            format: FORMAT,
            began_unix_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
            rounds: plan.rounds,
            is_quick: plan.is_quick,
            kvperf: format!("{} (git {})", version::VERSION, version::COMMIT),
            is_debug_build: cfg!(debug_assertions),
            load: load.and_then(|text| text.split_whitespace().next()?.parse().ok()),
            series: Vec::new(),
            values: BTreeMap::new(),
            texts: BTreeMap::new(),
            left_out: None,
        }
    }

    /// # Errors
    /// It is not there, or of another version.
    pub(super) fn read(work: &Path, part: Part) -> Result<Kept, LabError> {
        let path = path_of(work, part);
        let text = fs::read_to_string(&path).map_err(|source| LabError::file(&path, source))?;
        let kept: Kept =
            serde_json::from_str(&text).map_err(|error| LabError::Kept { path: path.clone(), why: error.to_string() })?;
        if kept.format != FORMAT {
            return Err(LabError::Kept { path, why: format!("it has format {}, and this program reads {FORMAT}", kept.format) });
        }
        Ok(kept)
    }

    /// # Errors
    /// The system refuses.
    pub(super) fn write(&self, work: &Path, part: Part) -> Result<(), LabError> {
        let path = path_of(work, part);
        let text = serde_json::to_string(self).map_err(|error| LabError::Kept { path: path.clone(), why: error.to_string() })?;
        fs::write(&path, text).map_err(|source| LabError::file(&path, source))
    }

    /// Measures settings that are not compared with each other, once.
    ///
    /// # Errors
    /// As [`Bench::once`].
    pub(super) fn once(&mut self, bench: &mut Bench, part: Part, settings: &[Setting]) -> Result<(), LabError> {
        self.rounds = 1;
        for setting in settings {
            bench.progress.step(&format!("{}: {}", part.name(), setting.name), setting.expected_s);
            let mut series = setting.series();
            series.rounds.push(bench.once(setting)?);
            self.series.push(series);
        }
        Ok(())
    }

    /// The series of this name.
    pub(super) fn series(&self, name: &str) -> Option<&Series> {
        self.series.iter().find(|series| series.name == name)
    }

    /// The values of this name; none if there are none.
    pub(super) fn values(&self, name: &str) -> &[f64] {
        self.values.get(name).map_or(&[], Vec::as_slice)
    }

    /// When, with what, and how much, in a sentence.
    pub(super) fn origin(&self) -> String {
        let when = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(self.began_unix_ms)).to_string();
        let debug = if self.is_debug_build { ", **a debug build: these are no measurements**" } else { "" };
        let rounds = if self.rounds > 1 { format!(", {} rounds", self.rounds) } else { String::new() };
        let seconds = self.stage_s().map_or(String::new(), |seconds| format!(", {seconds} s a stage"));
        let look = if self.is_quick { " **A quick look only.**" } else { "" };
        let load = self.load.map_or(String::new(), |load| {
            let processors = std::thread::available_parallelism().map_or(1.0, |processors| processors.get() as f64);
            let busy = if load > processors * BUSY_PART { ": **the machine was busy with other work**" } else { "" };
            format!("; load average before: {load:.2}{busy}")
        });
        let (when, with) = (when.get(..10).unwrap_or(&when), &self.kvperf);
        format!("<sub>Measured {when} with kvperf {with}{debug}{rounds}{seconds}{load}.{look}</sub>")
    }

    /// How long every stage lasted; None where they differ.
    fn stage_s(&self) -> Option<f64> {
        let documents = self.series.iter().flat_map(|series| &series.rounds);
        let mut times = documents.map(|document| match document.settings.amount {
            Amount::Time(time) => Some(time.as_secs_f64()),
            Amount::Operations(_) => None,
        });
        let first = times.next()??;
        times.all(|time| time == Some(first)).then_some(first)
    }
}

/// A load beyond this part of the processors is said.
const BUSY_PART: f64 = 0.4;

impl Series {
    /// Numbers of clients that were measured, rising.
    pub(super) fn counts(&self) -> Vec<usize> {
        let runs = self.rounds.iter().flat_map(|document| &document.runs);
        let mut counts: Vec<usize> = runs.map(|run| run.clients).collect();
        counts.sort_unstable();
        counts.dedup();
        counts
    }

    /// The round with the median sum.
    pub(super) fn middle(&self, clients: usize, stage: Stage) -> Option<Middle<'_>> {
        let runs = self.rounds.iter().flat_map(|document| &document.runs);
        let mut found: Vec<&Run> =
            runs.filter(|run| run.clients == clients && run.stage == stage && run.beside.is_none()).collect();
        found.sort_by(|a, b| a.sum.ops_per_s.total_cmp(&b.sum.ops_per_s));
        let (low, high) = (found.first()?.sum.ops_per_s, found.last()?.sum.ops_per_s);
        Some(Middle { run: found.get(found.len() / 2)?, low, high })
    }

    /// How the median sum grows.
    pub(super) fn growth(&self, stage: Stage) -> Vec<(usize, f64)> {
        let rate = |clients: usize| Some((clients, self.middle(clients, stage)?.run.sum.ops_per_s));
        self.counts().into_iter().filter_map(rate).collect()
    }

    /// The only run, where there is one.
    pub(super) fn run(&self) -> Option<&Run> {
        self.rounds.first()?.runs.first()
    }
}

fn path_of(work: &Path, part: Part) -> PathBuf {
    work.join(format!("{}.json", part.name()))
}

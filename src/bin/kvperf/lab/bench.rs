//! What all parts measure with: the programs, a place for files, and how much of everything there is to be.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use super::broker::{Broker, PROJECT, Start};
use super::kept::Series;
use super::process::{Process, command};
use super::progress::Progress;
use super::trouble::LabError;
use crate::result::Document;

/// Programs beside this one.
const PROGRAMS: [&str; 3] = ["kvbroker", "kvclient", "kvcatalog"];

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Plan {
    /// Rounds through the settings of what is compared.
    pub(super) rounds: u32,
    /// Length of a stage.
    pub(super) seconds: f64,
    /// Only a look.
    pub(super) is_quick: bool,
}

impl Plan {
    /// The one for a report, or the one for a look.
    pub(super) fn pick<T>(&self, full: T, quick: T) -> T {
        if self.is_quick { quick } else { full }
    }
}

/// The bench.
#[derive(Debug)]
pub(super) struct Bench {
    pub(super) plan: Plan,
    pub(super) progress: Progress,
    bin: PathBuf,
    work: PathBuf,
}

/// Where a program runs that is measured.
#[derive(Clone, Debug, Default)]
pub(super) struct Place {
    /// Words that enter a network namespace; empty: here.
    pub(super) enter: Vec<OsString>,
    /// `KVBROKER_HOME`.
    pub(super) home: PathBuf,
    /// How the broker is found.
    pub(super) finding: Vec<OsString>,
}

impl Place {
    /// Beside the broker, over its unix socket.
    pub(super) fn beside(broker: &Broker) -> Place {
        Place { enter: Vec::new(), home: broker.home().to_owned(), finding: vec!["--catalog".into(), "none".into()] }
    }
}

impl Bench {
    /// # Errors
    /// A program is missing, or there is no place for files.
    pub(super) fn new(plan: Plan, bin: Option<&Path>, work: &Path, quiet: bool) -> Result<Bench, LabError> {
        let bin = match bin {
            Some(bin) => bin.to_owned(),
            None => std::env::current_exe()
                .ok()
                .and_then(|path| path.parent().map(Path::to_owned))
                .ok_or_else(|| LabError::Usage("where the programs are can't be told; say it with --bin DIR".to_owned()))?,
        };
        fs::create_dir_all(work).map_err(|source| LabError::file(work, source))?;
        let work = work.canonicalize().map_err(|source| LabError::file(work, source))?;
        let bench = Bench { plan, progress: Progress::new(quiet), bin, work };
        PROGRAMS.iter().try_for_each(|name| bench.program(name).map(drop))?;
        Ok(bench)
    }

    /// Where files may be put.
    pub(super) fn work(&self) -> &Path {
        &self.work
    }

    /// The path of a program.
    ///
    /// # Errors
    /// It is not there.
    pub(super) fn program(&self, name: &'static str) -> Result<PathBuf, LabError> {
        let path = self.bin.join(name);
        if path.is_file() { Ok(path) } else { Err(LabError::NoProgram { name, directory: self.bin.clone() }) }
    }

    /// Runs this program with some words against a broker and reads what it printed; calls `meanwhile` again and again.
    ///
    /// # Errors
    /// It fails, its result can't be read, or an interrupt.
    pub(super) fn perf(
        &self,
        place: &Place,
        words: &[String],
        meanwhile: impl FnMut(u32) -> Result<(), LabError>,
    ) -> Result<Document, LabError> {
        let this = std::env::current_exe()
            .map_err(|source| LabError::System { what: "the kernel does not know this program's file".to_owned(), source })?;
        let mut command = command(&place.enter, this.as_os_str())?;
        command.arg(PROJECT).args(&place.finding).args(words).args(["--json", "--quiet"]).env("KVBROKER_HOME", &place.home);
        let printed = place.home.join("printed");
        let stdout = File::create(&printed).map_err(|source| LabError::file(&printed, source))?;
        let name = format!("kvperf {PROJECT} {}", words.join(" "));
        let process = Process::start(command, &name, place.home.join("perf-said"), Stdio::from(stdout))?;
        process.finish(meanwhile)?;
        let text = fs::read_to_string(&printed).map_err(|source| LabError::file(&printed, source))?;
        Document::from_json(&text).map_err(|source| LabError::Document { what: format!("the result of {name}"), source })
    }

    /// Goes through all series once in each round, each time with a broker and a data directory of its own.
    ///
    /// # Errors
    /// As [`Bench::perf`].
    pub(super) fn rounds(&mut self, part: &str, settings: &[Setting]) -> Result<Vec<Series>, LabError> {
        let mut all: Vec<Series> = settings.iter().map(Setting::series).collect();
        for round in 1..=self.plan.rounds {
            for (setting, series) in settings.iter().zip(&mut all) {
                let of = if self.plan.rounds > 1 { format!(", round {round} of {}", self.plan.rounds) } else { String::new() };
                self.progress.step(&format!("{part}: {}{of}", setting.name), setting.expected_s);
                series.rounds.push(self.once(setting)?);
            }
        }
        Ok(all)
    }

    /// One of them, once.
    ///
    /// # Errors
    /// As [`Bench::perf`].
    pub(super) fn once(&self, setting: &Setting) -> Result<Document, LabError> {
        let flags: Vec<&str> = setting.broker.iter().map(String::as_str).collect();
        let broker = Broker::start(self, &Start::with(&flags))?;
        self.perf(&Place::beside(&broker), &setting.words, |_| Ok(()))
    }
}

/// What is measured with one broker.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    /// For tables and lines of progress.
    pub(super) name: String,
    /// Flags of the broker.
    pub(super) broker: Vec<String>,
    /// Words of kvperf.
    pub(super) words: Vec<String>,
    /// About how long it takes.
    pub(super) expected_s: f64,
}

/// What a start, a stop and the removal of keys take beside the stages, seconds; and each number of clients.
const START_S: f64 = 0.8;
const COUNT_S: f64 = 0.35;

impl Setting {
    /// The broker's flags and the words of kvperf, as one would type them; stages, numbers of clients and their length tell how long it
    /// takes.
    pub(super) fn new(name: impl Into<String>, broker: &str, words: &str, stages: usize, counts: usize, seconds: f64) -> Setting {
        let split = |text: &str| text.split_whitespace().map(str::to_owned).collect();
        Setting {
            name: name.into(),
            broker: split(broker),
            words: split(words),
            expected_s: START_S + counts as f64 * (COUNT_S + stages as f64 * seconds),
        }
    }

    /// Without results.
    pub(super) fn series(&self) -> Series {
        Series { name: self.name.clone(), broker: self.broker.join(" "), words: self.words.join(" "), rounds: Vec::new() }
    }
}

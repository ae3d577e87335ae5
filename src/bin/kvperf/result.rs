//! The result document: what `--json` prints, and what `kvperf report` reads back.
//!
//! - Names are stable. A field may be added, with a default for documents that lack it; where one goes or changes its meaning,
//!   [`FORMAT`] goes up, and a document of another format is refused.
//! - A name says its unit. Times of a run (`…_ms`) count from the moment at which its stage began for all clients.
//! - Only right answers are counted: a run that met a wrong one has no document.

use std::io;

use serde::{Deserialize, Serialize};
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

use crate::args::{Amount, Besides};
use crate::beside::Dear;
use crate::distribution::Distribution;
use crate::facts::Facts;
use crate::mixes::{Act, Mix};
use crate::stages::{Shape, Stage};

/// The format that this program writes and reads.
pub(crate) const FORMAT: u32 = 1;

/// Everything that one call of kvperf measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Document {
    /// [`FORMAT`].
    pub(crate) format: u32,
    /// When it began, milliseconds since 1970 (UTC).
    pub(crate) began_unix_ms: u64,
    pub(crate) facts: Facts,
    pub(crate) settings: Settings,
    /// In the order in which they were measured.
    pub(crate) runs: Vec<Run>,
    /// One for each stage.
    pub(crate) levels_out: Vec<Level>,
    /// What the looks at every acknowledged write found, one for each number of clients; empty without `--verify`.
    #[serde(default)]
    pub(crate) verified: Vec<Verified>,
}

/// What the command line said, defaults filled in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Settings {
    /// Numbers of clients, in the order in which they were measured.
    pub(crate) clients: Vec<usize>,
    /// The numbers were found while measuring: more and more clients, until the sum levelled out.
    #[serde(default)]
    pub(crate) sweep: bool,
    pub(crate) stages: Vec<Stage>,
    pub(crate) amount: Amount,
    pub(crate) shape: Shape,
    /// Requests that a client has outstanding at most; more than 1: through the library's pipeline.
    #[serde(default = "one")]
    pub(crate) pipeline: usize,
    /// Operations per second of all clients together, sent on schedule; null: as fast as replies come.
    #[serde(default)]
    pub(crate) rate: Option<f64>,
    /// Which keys are chosen where any will do: `uniform`, `zipfian:0.99`, `latest`.
    #[serde(default = "uniform")]
    pub(crate) distribution: Distribution,
    /// The mix of the stage `mixed`: `a` to `f`; null: there is no such stage.
    #[serde(default)]
    pub(crate) workload: Option<Mix>,
    /// Keys that each client inserts before the first stage.
    #[serde(default)]
    pub(crate) loaded: u64,
    pub(crate) beside: Besides,
}

/// One stage with one number of clients.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) clients: usize,
    pub(crate) stage: Stage,
    /// Operations of one request.
    pub(crate) batch: usize,
    /// Syncs of the broker's log meanwhile, whoever wrote; null if it doesn't tell.
    pub(crate) syncs: Option<u64>,
    /// All clients together.
    pub(crate) sum: Summary,
    /// Each client.
    pub(crate) each: Vec<Summary>,
    /// The kinds of operations of the stage `mixed`, all clients together; empty for others.
    #[serde(default)]
    pub(crate) kinds: Vec<Kind>,
    /// What others did meanwhile; null: nothing.
    pub(crate) beside: Option<Beside>,
    /// How well the schedule of an open loop was kept; null: there was none.
    #[serde(default)]
    pub(crate) schedule: Option<Schedule>,
    /// When the stage began, since the document's beginning.
    #[serde(default)]
    pub(crate) began_ms: f64,
    /// How long each moment of the timeline lasts, and the moments, all clients together, from the stage's beginning on. An
    /// operation belongs to the moment in which its reply came. One in which none came has no entry.
    #[serde(default)]
    pub(crate) moment_ms: f64,
    #[serde(default)]
    pub(crate) timeline: Vec<Moment>,
    /// Checkpoints that the broker made meanwhile, on the timeline's clock: one that was begun before begins below 0, one that
    /// was not finished at the stage's end has no end.
    #[serde(default)]
    pub(crate) checkpoints: Vec<Checkpoint>,
    /// The fastest and slowest operations; null without `--outliers`.
    #[serde(default)]
    pub(crate) outliers: Option<Outliers>,
}

impl Run {
    /// A run of this stage in which nothing was done.
    pub(crate) fn of(stage: Stage, batch: usize) -> Run {
        Run {
            clients: 0,
            stage,
            batch,
            syncs: None,
            sum: Summary::default(),
            each: Vec::new(),
            kinds: Vec::new(),
            beside: None,
            schedule: None,
            began_ms: 0.0,
            moment_ms: 0.0,
            timeline: Vec::new(),
            checkpoints: Vec::new(),
            outliers: None,
        }
    }
}

/// Figures of one client, or of all together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Summary {
    /// Operations done, each with a right answer.
    pub(crate) operations: u64,
    /// Rows that scans and queries brought.
    pub(crate) rows: u64,
    /// From start to end.
    pub(crate) seconds: f64,
    pub(crate) ops_per_s: f64,
    pub(crate) mean_us: f64,
    #[serde(default)]
    pub(crate) min_us: f64,
    pub(crate) p50_us: f64,
    #[serde(default)]
    pub(crate) p90_us: f64,
    pub(crate) p99_us: f64,
    /// 99.9 in a hundred.
    #[serde(default)]
    pub(crate) p999_us: f64,
    pub(crate) max_us: f64,
    /// Processor time of the clients' processes, user and system, for each operation.
    #[serde(default)]
    pub(crate) client_cpu_us_per_op: f64,
    /// The distribution, rising: so many percent of the operations took at most so many microseconds. From 0 (the fastest) to
    /// 100 (the slowest), closer and closer towards it.
    #[serde(default)]
    pub(crate) percentiles: Vec<(f64, f64)>,
}

/// One kind of operation among others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Kind {
    pub(crate) kind: Act,
    /// A read-modify-write is one operation, from before the read to after the write's reply.
    pub(crate) sum: Summary,
}

/// What others did while a stage was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Beside {
    pub(crate) dear: Dear,
    /// Their requests, all of them together.
    pub(crate) sum: Summary,
}

/// An open loop: operations are due at times that no reply changes, and latencies count from then.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Schedule {
    /// Operations per second that were wanted.
    pub(crate) ops_per_s: f64,
    /// Operations that were due in the stage's time.
    pub(crate) due: u64,
    /// Those of them that were sent more than a millisecond late, or never.
    pub(crate) late: u64,
    /// Those that were never sent: the stage was over before.
    pub(crate) unsent: u64,
    /// Latencies from when the operations were sent instead of due: what a closed loop would have said.
    pub(crate) from_sent: Summary,
}

/// A part of a stage's time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Moment {
    /// Its beginning.
    pub(crate) t_ms: f64,
    pub(crate) operations: u64,
    /// Of operations that ended in it; to two digits, the maximum exact.
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) max_us: f64,
}

/// A checkpoint of the broker.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    pub(crate) begin_ms: f64,
    pub(crate) end_ms: Option<f64>,
}

/// Operations that took the shortest and the longest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Outliers {
    /// The fastest first.
    pub(crate) fastest: Vec<Outlier>,
    /// The slowest first.
    pub(crate) slowest: Vec<Outlier>,
    /// Operations that were under way while a checkpoint was made; null: there was no checkpoint.
    pub(crate) within: Option<Summary>,
    /// All others; null: there were none.
    pub(crate) outside: Option<Summary>,
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Outlier {
    /// Of which client, from 1.
    pub(crate) client: usize,
    /// When its reply came.
    pub(crate) t_ms: f64,
    pub(crate) us: f64,
    /// A checkpoint was being made while it was under way.
    pub(crate) in_checkpoint: bool,
}

/// What a look at every acknowledged write found. All were right: a wrong one ends the run with exit code 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Verified {
    pub(crate) clients: usize,
    /// Writes that were acknowledged.
    pub(crate) acknowledged: u64,
    /// Writes whose outcome no reply told; the table was right with them either done or not.
    pub(crate) unknown: u64,
    /// Keys that were read back and compared, removed ones included.
    pub(crate) keys: u64,
    /// Restarts of the broker that were seen meanwhile.
    pub(crate) restarts: u64,
}

/// Where one stage levels out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Level {
    pub(crate) stage: Stage,
    /// Null: not up to the largest number of clients.
    pub(crate) clients: Option<usize>,
}

/// Why a text is no document.
#[derive(Debug, thiserror::Error)]
#[allow(dead_code, reason = "only the report reads documents")]
pub(crate) enum DocumentError {
    /// No JSON, or without what every document has.
    #[error("this is no result of kvperf --json: {0}")]
    Unreadable(#[from] serde_json::Error),
    /// From another version.
    #[error(
        "this result has format {found}, and this kvperf reads format {FORMAT}: measure again, or use the version that wrote it"
    )]
    OtherFormat {
        /// What it says.
        found: u32,
    },
}

impl Document {
    /// Reads what [`Document::to_json`] made.
    ///
    /// # Errors
    /// It is something else, or of another format.
    #[allow(dead_code, reason = "only the report reads documents")]
    pub(crate) fn from_json(text: &str) -> Result<Document, DocumentError> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let Version { format: found } = serde_json::from_str(text)?;
        if found != FORMAT {
            return Err(DocumentError::OtherFormat { found });
        }
        Ok(serde_json::from_str(text)?)
    }

    /// The text that `--json` prints, with a newline behind it: readable, and each list on one line as far as it has no objects.
    pub(crate) fn to_json(&self) -> String {
        let mut bytes = Vec::new();
        let mut serializer = Serializer::with_formatter(&mut bytes, Lines::default());
        self.serialize(&mut serializer).expect("its maps have texts as names, and memory takes every byte");
        bytes.push(b'\n');
        String::from_utf8(bytes).expect("serde_json writes UTF-8")
    }
}

fn one() -> usize {
    1
}

fn uniform() -> Distribution {
    Distribution::Uniform
}

/// Objects over several lines, lists of numbers on one: a distribution has hundreds.
#[derive(Default)]
struct Lines(PrettyFormatter<'static>);

impl Formatter for Lines {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object(writer)
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object(writer)
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_object_key(writer, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object_value(writer)
    }

    fn end_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object_value(writer)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    pub(crate) fn document() -> Document {
        let summary =
            Summary { operations: 3, ops_per_s: 1.5, percentiles: vec![(0.0, 1.5), (100.0, 72.25)], ..Summary::default() };
        let mut run = Run { clients: 2, sum: summary.clone(), each: vec![summary.clone(); 2], ..Run::of(Stage::Scan, 16) };
        run.beside = Some(Beside { dear: Dear::Regex, sum: summary.clone() });
        run.schedule = Some(Schedule { ops_per_s: 1e3, due: 9, late: 2, unsent: 1, from_sent: summary.clone() });
        run.timeline.push(Moment { t_ms: 100.0, operations: 3, p50_us: 1.5, p99_us: 2.5, max_us: 3.5 });
        run.checkpoints.push(Checkpoint { begin_ms: -4.5, end_ms: None });
        let outlier = Outlier { client: 1, t_ms: 12.0, us: 7.5, in_checkpoint: true };
        run.outliers =
            Some(Outliers { fastest: vec![outlier], slowest: Vec::new(), within: Some(summary.clone()), outside: None });
        run.kinds.push(Kind { kind: Act::ReadModifyWrite, sum: summary });
        Document {
            format: FORMAT,
            began_unix_ms: 1_700_000_000_000,
            facts: Facts::sample(),
            settings: Settings {
                clients: vec![1, 2],
                sweep: true,
                stages: Stage::USUAL.to_vec(),
                amount: Amount::Time(std::time::Duration::from_millis(1_500)),
                shape: Shape { key_bytes: 15, value_bytes: 64, value_bytes_max: 64, batch: 16, page_rows: 100 },
                pipeline: 64,
                rate: Some(1e3),
                distribution: Distribution::ZIPFIAN,
                workload: Some(Mix::F),
                loaded: 10_000,
                beside: Besides { dear: vec![Dear::Regex], clients: 1, keys: 5 },
            },
            runs: vec![run],
            levels_out: vec![Level { stage: Stage::Scan, clients: None }],
            verified: vec![Verified { clients: 2, acknowledged: 5, unknown: 1, keys: 4, restarts: 1 }],
        }
    }

    #[test]
    fn a_document_is_read_as_it_was_written() {
        let text = document().to_json();
        assert_eq!(Document::from_json(&text).unwrap(), document());
        assert!(text.contains("\"percentiles\": [[0.0, 1.5], [100.0, 72.25]]"), "lists of numbers on a line:\n{text}");
        assert!(text.ends_with("}\n") && text.lines().count() > 50, "{text}");
    }

    #[test]
    fn what_may_be_left_out_has_a_meaning() {
        let mut value: serde_json::Value = serde_json::from_str(&document().to_json()).unwrap();
        value.as_object_mut().unwrap().remove("verified");
        for name in ["sweep", "pipeline", "rate", "distribution", "workload", "loaded"] {
            value["settings"].as_object_mut().unwrap().remove(name).unwrap();
        }
        let read = Document::from_json(&value.to_string()).unwrap();
        assert_eq!((read.settings.pipeline, read.settings.distribution, read.verified.len()), (1, Distribution::Uniform, 0));
    }

    #[test]
    fn another_format_is_refused_and_so_is_anything_else() {
        let other = document().to_json().replacen("\"format\": 1", "\"format\": 2", 1);
        let said = Document::from_json(&other).unwrap_err().to_string();
        assert!(said.contains("format 2") && said.contains("reads format 1"), "{said}");
        for text in ["", "{}", "{\"format\": 1}", "[1]"] {
            assert!(matches!(Document::from_json(text), Err(DocumentError::Unreadable(_))), "{text}");
        }
    }
}

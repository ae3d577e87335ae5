//! The command line: words in, a checked [`Config`] out.
//!
//! What is wrong with it is said before anything is contacted; exit code 2.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use kvbroker::catalog::CatalogList;
use kvbroker::client::{ConnectOptions, NewKeys};
use kvbroker::lookup::Target;
use kvbroker_protocol::BrokerId;
use kvbroker_protocol::limits::{
    ARRAY_OPERATIONS_MAX, KEY_BYTES_MAX, MESSAGE_BYTES_MAX, PAGE_ROWS_MAX, SESSION_WINDOW, VALUE_BYTES_MAX,
};
use serde::{Deserialize, Serialize};

use crate::beside::Dear;
use crate::distribution::Distribution;
use crate::keyspace::{CLIENTS_MAX, KEY_BYTES_MIN, KEYS_MAX, RunPrefix, VALUE_BYTES_MIN};
use crate::lab;
use crate::mixes::Mix;
use crate::stages::{Shape, Stage};

/// Most numbers of clients that one run goes through.
const COUNTS_MAX: usize = 32;
/// How long a stage lasts unless told otherwise.
const STAGE_DEFAULT: Duration = Duration::from_secs(2);
/// Shortest and longest stage.
const STAGE_RANGE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(3_600));
/// Keys of each client where a stage lasts a time and none are inserted.
const LOADED_DEFAULT: u64 = 10_000;
/// Most clients that are not measured.
const BESIDE_CLIENTS_MAX: usize = 64;
/// What an operation takes in a request beside its key and value, at most.
const OPERATION_BYTES: usize = 32;

/// Most operations per second that a schedule has.
const RATE_MAX: f64 = 1e8;
/// Length of the parts of a stage that are told apart: a stage has this many where they are not too short or too long.
const SLICES: u32 = 50;
const SLICE_RANGE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// The same where outliers are looked for.
const SLICE_OUTLIERS: Duration = Duration::from_millis(10);

const EXAMPLES: &str =
    "PROJECT is the name that the broker was started with, or its address; one that is called report: kvperf -- report

Each client is a process of its own with one request outstanding. All start a stage at the same moment. Stages run
in this order: insert (new keys), lookup (keys at random), scan (pages of neighbouring keys), query (one group of a
page's dictionaries), mixed (operations of several kinds; only where it is named, or by --workload), remove.
Every answer is compared with what it must be: a wrong or missing one ends the run.
A latency is from before a request is made to after its reply was read; operations of one request share it.

Workloads are those of YCSB: a half reads, half updates; b 95% reads, 5% updates; c reads; d 95% reads of what was
inserted last, 5% inserts; e 95% scans of up to --page-rows keys, 5% inserts; f half reads, half
read-modify-writes. All choose zipfian keys but d, which chooses the latest ones.

Examples:
  kvperf NETID-a5                                one client, 2 seconds a stage
  kvperf NETID-a5 --sweep                        1, 2, 3… clients, until the sum levels out
  kvperf NETID-a5 --clients 1,2,4,8              only these numbers of clients
  kvperf NETID-a5 --batch 256                    256 operations in each request
  kvperf NETID-a5 --pipeline 512                 512 operations outstanding, put into requests by the library
  kvperf NETID-a5 --rate 5000 --clients 4 --stages lookup
                                                 5,000 lookups per second on schedule: how long do they take?
  kvperf NETID-a5 --workload a --keys 100000     YCSB's update-heavy mix
  kvperf NETID-a5 --outliers --stages insert --seconds 60
                                                 the slowest inserts: what have checkpoints to do with them?
  kvperf NETID-a5 --verify                       is every acknowledged write there, also if the broker restarts?
  kvperf NETID-a5 --ops 10000 --stages insert    how long do 10,000 inserts take?
  kvperf NETID-a5 & kvperf NETID-a5 & wait       two runs at once: each has keys of its own
  kvperf NETID-a5 --beside scan,query,regex,delete
                                                 what do others wait for while a client works on a million keys?
  kvperf NETID-a5 --csv > figures.csv            a line per client and stage
  kvperf NETID-a5 --info                         only what would be measured, and on what

A run writes only keys that start with a prefix of its own (kp…/) and removes them at its end, also after Ctrl-C.
Exit codes: 0 ok, 1 an answer was wrong or missing, or an acknowledged write was lost, 2 wrong usage, 4 a write's
outcome is unknown, 5 no broker found or no answer, 6 refused, 7 busy or over a limit, 8 several brokers,
130 interrupted.";

/// How the broker is found; all processes of a run get the same.
#[derive(Clone, Debug, Args, Serialize, Deserialize)]
#[command(next_help_heading = "Finding the broker")]
pub(crate) struct Finding {
    /// Catalogs to ask, as host or host:port with commas between, or `none` (without it: $CATALOG_HOST, else catalog.cse.nd.edu:9097)
    #[arg(long, value_name = "LIST", env = "KVBROKER_CATALOG", hide_env = true)]
    catalog: Option<String>,
    /// Only a broker of this owner
    #[arg(long, value_name = "NAME", env = "KVBROKER_OWNER", hide_env = true)]
    owner: Option<String>,
    /// Only the broker with this uuid
    #[arg(long, value_name = "UUID", env = "KVBROKER_BROKER", hide_env = true)]
    pub(crate) broker: Option<String>,
    /// Where the broker is: kv://HOST:PORT/PROJECT?key=kvpub1…; nothing is searched
    #[arg(long, value_name = "ADDRESS", env = "KVBROKER_ENDPOINT", hide_env = true)]
    endpoint: Option<String>,
    /// The secret key to be on the network [default: `id` in the configuration directory]
    #[arg(long = "key", value_name = "FILE", env = "KVBROKER_KEY", hide_env = true)]
    secret_file: Option<PathBuf>,
    /// Accept the key of somebody else's broker that was never used before, unseen; from then on only that key
    #[arg(long)]
    accept_new_key: bool,
    /// Also use a broker without encryption: everybody on the way can read and change everything
    #[arg(long)]
    insecure: bool,
    /// How long to wait for an answer, such as 500ms, 10s or 2m; 0: for ever
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration, env = "KVBROKER_TIMEOUT", hide_env = true)]
    timeout: Duration,
}

impl Finding {
    /// None: for ever.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        (!self.timeout.is_zero()).then_some(self.timeout)
    }

    /// What the client library takes.
    pub(crate) fn options(&self) -> Result<ConnectOptions, String> {
        let catalogs = CatalogList::from_env(self.catalog.as_deref()).map_err(|error| error.to_string())?;
        let mut options = ConnectOptions::new().timeout(self.timeout()).catalogs(catalogs).insecure(self.insecure);
        if self.accept_new_key {
            options = options.new_keys(NewKeys::Accept);
        }
        if let Some(key) = self.secret_file.as_ref().filter(|key| !key.as_os_str().is_empty()) {
            options = options.key_file(key);
        }
        if let Some(owner) = &self.owner {
            options = options.owner(owner);
        }
        if let Some(broker) = &self.broker {
            options = options.broker(broker.parse::<BrokerId>().map_err(|error| format!("--broker {broker}: {error}"))?);
        }
        if let Some(endpoint) = self.endpoint.as_ref().filter(|endpoint| !endpoint.is_empty()) {
            options = options.endpoint(endpoint);
        }
        Ok(options)
    }
}

/// Measures a kvbroker: operations per second and latencies of insert, lookup, scan, query and remove.
#[derive(Debug, Parser)]
#[command(
    name = "kvperf",
    override_usage = "kvperf PROJECT [OPTIONS]\n       kvperf report [OPTIONS]",
    disable_version_flag = true,
    disable_help_subcommand = true,
    args_conflicts_with_subcommands = true,
    max_term_width = 116,
    after_help = EXAMPLES
)]
pub(crate) struct Words {
    #[command(subcommand)]
    pub(crate) apart: Option<Apart>,
    /// The project's name or address
    pub(crate) project: Option<String>,
    /// Numbers of client processes; the stages run for one after the other
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1", value_parser = clap::value_parser!(u64).range(1..=CLIENTS_MAX as u64))]
    clients: Vec<u64>,
    /// 1, 2, 3… client processes, later in larger steps, until the sum of no stage grows any more
    #[arg(long, conflicts_with = "clients")]
    sweep: bool,
    /// How long each stage lasts [default: 2]
    #[arg(long, value_name = "S", conflicts_with = "ops")]
    seconds: Option<f64>,
    /// How many operations each client does in each stage
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=KEYS_MAX))]
    ops: Option<u64>,
    /// Only these stages of insert,lookup,scan,query,mixed,remove; keys that they need are inserted before, without being measured
    #[arg(long, value_name = "STAGE,…", value_delimiter = ',', value_enum, hide_possible_values = true)]
    stages: Vec<Stage>,
    /// What the stage mixed does, and that only it runs if --stages does not say otherwise: a, b, c, d, e or f of YCSB
    #[arg(long, value_name = "MIX", value_enum, hide_possible_values = true, ignore_case = true)]
    workload: Option<Mix>,
    /// Which keys are chosen: uniform, zipfian, zipfian:THETA or latest [default: uniform; that of the --workload]
    #[arg(long, value_name = "HOW")]
    distribution: Option<Distribution>,
    /// Keys that each client inserts before it is measured [default: as many as the stages need, 10000 for those that last a time]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=KEYS_MAX))]
    keys: Option<u64>,
    /// Operations that each client has outstanding, sent through the library's pipeline
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u64).range(1..=SESSION_WINDOW as u64))]
    pipeline: u64,
    /// Operations per second of all clients together, sent on schedule whatever replies do; latencies count from when they were due
    #[arg(long, value_name = "R", conflicts_with = "pipeline")]
    rate: Option<f64>,
    /// Operations of one request; fewer for scans and queries, which are bounded in a request
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u64).range(1..=ARRAY_OPERATIONS_MAX as u64))]
    batch: u64,
    /// Bytes of a key
    #[arg(long, value_name = "N", default_value = "15", value_parser = clap::value_parser!(u64).range(KEY_BYTES_MIN as u64..=KEY_BYTES_MAX as u64))]
    key_bytes: u64,
    /// Bytes of a value, or a range from which each is drawn: 64, or 64-1024
    #[arg(long, value_name = "N", default_value = "64", value_parser = value_sizes)]
    value_bytes: (usize, usize),
    /// Keys that a scan returns, and that a query looks at to return a tenth of them
    #[arg(long, value_name = "N", default_value = "100", value_parser = clap::value_parser!(u64).range(1..=PAGE_ROWS_MAX as u64 / 2))]
    page_rows: u64,
    /// Measure each stage alone and then beside other clients that make dear requests in a loop: scan,query,regex,delete
    #[arg(long, value_name = "WHAT,…", value_delimiter = ',', value_enum, hide_possible_values = true)]
    beside: Vec<Dear>,
    /// How many others there are
    #[arg(long, value_name = "N", default_value = "1", requires = "beside", value_parser = clap::value_parser!(u64).range(1..=BESIDE_CLIENTS_MAX as u64))]
    beside_clients: u64,
    /// Keys of the others together, inserted before
    #[arg(long, value_name = "N", default_value = "1000000", requires = "beside", value_parser = clap::value_parser!(u64).range(1_000..=KEYS_MAX))]
    beside_keys: u64,
    /// Tell the fastest and slowest operations of each stage, within and outside of the broker's checkpoints
    #[arg(long)]
    outliers: bool,
    /// Compare every acknowledged write with what is there after each stage that writes. Restarts of the broker are tolerated, and
    /// counted; a write that is lost is told with exit code 1
    #[arg(long)]
    verify: bool,
    /// Write plots into this directory: throughput against clients, latencies, and how each stage went, checkpoints marked
    #[arg(long, value_name = "DIR")]
    svg: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Print CSV: a line per client and stage, and one for the sum
    #[arg(long)]
    csv: bool,
    /// Print what would be measured and on what, and measure nothing
    #[arg(long, conflicts_with = "csv")]
    info: bool,
    /// Remove the keys that a run could not remove, by the prefix that it named
    #[arg(long, value_name = "PREFIX", conflicts_with_all = ["info", "csv", "json"])]
    clean: Option<RunPrefix>,
    /// Say nothing on stderr but errors
    #[arg(short, long)]
    quiet: bool,
    /// Print version, protocol and libzmq
    #[arg(short = 'V', long)]
    pub(crate) version: bool,
    /// One client process of a run: what to do comes through stdin
    #[arg(long, hide = true)]
    pub(crate) as_client: bool,
    #[command(flatten)]
    finding: Finding,
}

/// What is done instead of measuring one broker.
#[derive(Debug, Subcommand)]
pub(crate) enum Apart {
    /// Measures brokers of its own and writes the measured parts of the report
    Report(lab::Words),
}

/// Clients that make dear requests while others are measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Besides {
    /// What they do, one after the other, in the order in which it runs; empty: nothing.
    pub(crate) dear: Vec<Dear>,
    /// How many they are.
    pub(crate) clients: usize,
    /// Keys of each.
    pub(crate) keys: u64,
}

/// How much each client does in a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Amount {
    /// So many operations.
    Operations(u64),
    /// As many as are begun in this time.
    Time(Duration),
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Tables for people.
    Text,
    /// One document.
    Json,
    /// A line per client and stage.
    Csv,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Aim {
    /// Measure.
    Measure,
    /// Say what would be measured.
    Info,
    /// Remove what a run left.
    Clean(RunPrefix),
}

/// A checked command line.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) target: String,
    pub(crate) aim: Aim,
    /// In the order in which they were named.
    pub(crate) clients: Vec<usize>,
    /// They are found while measuring; the list has only the first one.
    pub(crate) sweep: bool,
    /// In the order in which they run; never empty.
    pub(crate) stages: Vec<Stage>,
    pub(crate) amount: Amount,
    pub(crate) shape: Shape,
    pub(crate) distribution: Distribution,
    pub(crate) mix: Mix,
    /// Keys that each client is told to insert before.
    pub(crate) keys: Option<u64>,
    pub(crate) pipeline: usize,
    pub(crate) rate: Option<f64>,
    pub(crate) outliers: bool,
    pub(crate) verify: bool,
    /// Where plots go.
    pub(crate) svg: Option<PathBuf>,
    pub(crate) besides: Besides,
    pub(crate) format: Format,
    pub(crate) quiet: bool,
    pub(crate) finding: Finding,
}

impl Config {
    /// Keys that each client inserts before the first stage: none where inserting is a stage.
    pub(crate) fn loaded(&self) -> u64 {
        match self.amount {
            _ if self.keys.is_some() => self.keys.unwrap_or_default(),
            _ if self.stages.contains(&Stage::Insert) => 0,
            Amount::Operations(operations) if !self.stages.contains(&Stage::Mixed) => operations,
            _ => LOADED_DEFAULT,
        }
    }

    /// Length of the parts of a stage that are told apart.
    pub(crate) fn slice(&self) -> Duration {
        let (shortest, longest) = SLICE_RANGE;
        match self.amount {
            _ if self.outliers => SLICE_OUTLIERS,
            Amount::Operations(_) => shortest,
            // A whole number of the shortest ones.
            Amount::Time(time) => Duration::from_millis((time / SLICES).as_millis() as u64 / 100 * 100).clamp(shortest, longest),
        }
    }

    /// How many of them are a moment of the timeline.
    pub(crate) fn slices_per_moment(&self) -> u64 {
        if self.outliers { 10 } else { 1 }
    }
}

impl Words {
    /// Checks what clap can't.
    ///
    /// # Errors
    /// A sentence for the user.
    pub(crate) fn check(self) -> Result<Config, String> {
        let target = self.project.ok_or("which project? For example: kvperf NETID-a5")?;
        target.parse::<Target>().map_err(|error| error.to_string())?;
        self.finding.options()?;
        if self.clients.len() > COUNTS_MAX {
            return Err(format!("--clients takes at most {COUNTS_MAX} numbers"));
        }
        if let Some(twice) =
            self.clients.iter().enumerate().find_map(|(at, count)| self.clients[..at].contains(count).then_some(count))
        {
            return Err(format!("--clients has {twice} twice; for several rounds run kvperf again"));
        }
        let amount = match (self.ops, self.seconds) {
            (Some(operations), _) => Amount::Operations(operations),
            (None, None) => Amount::Time(STAGE_DEFAULT),
            (None, Some(seconds)) => {
                let (shortest, longest) = STAGE_RANGE;
                let time = Duration::try_from_secs_f64(seconds).ok().filter(|time| (shortest..=longest).contains(time));
                Amount::Time(time.ok_or("--seconds takes 0.05 to 3600")?)
            }
        };
        let mut stages = match (self.stages.is_empty(), self.beside.is_empty()) {
            (false, _) => self.stages,
            (true, _) if self.workload.is_some() => vec![Stage::Mixed],
            (true, true) => Stage::USUAL.to_vec(),
            (true, false) => Stage::BESIDE.to_vec(),
        };
        stages.sort_unstable();
        stages.dedup();
        // Their bounds were checked by clap and fit into every usize.
        let size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let shape = Shape {
            key_bytes: size(self.key_bytes),
            value_bytes: self.value_bytes.0,
            value_bytes_max: self.value_bytes.1,
            batch: size(self.batch),
            page_rows: size(self.page_rows),
        };
        let request_bytes = shape.batch * (shape.key_bytes + shape.value_bytes_max + OPERATION_BYTES);
        if request_bytes > MESSAGE_BYTES_MAX {
            return Err(format!(
                "a request of {} operations has {request_bytes} bytes and at most {MESSAGE_BYTES_MAX} are taken; choose a smaller \
                 --batch or --value-bytes",
                shape.batch
            ));
        }
        let is_mixed = stages.contains(&Stage::Mixed);
        if self.workload.is_some() && !is_mixed {
            return Err("--workload says what the stage mixed does, and --stages leaves that out".to_owned());
        }
        let mix = self.workload.unwrap_or(Mix::A);
        if shape.batch > 1 && (self.pipeline > 1 || self.rate.is_some()) {
            return Err(
                "--batch is for requests one after the other; with --pipeline and --rate the library makes requests".to_owned()
            );
        }
        if shape.batch > 1 && is_mixed && !mix.takes_arrays() {
            return Err(format!("operations of workload {mix} can't share a request: leave out --batch"));
        }
        if self.rate.is_some_and(|rate| !(rate > 0.0 && rate <= RATE_MAX)) {
            return Err(format!("--rate takes operations per second, above 0 and up to {RATE_MAX}"));
        }
        if self.verify && !stages.iter().any(|stage| stage.is_mutation()) {
            return Err("--verify looks at what was written, and no stage writes".to_owned());
        }
        if !self.beside.is_empty() && stages.contains(&Stage::Remove) {
            return Err("--beside runs each stage several times, and keys are removed only once: leave out remove".to_owned());
        }
        let mut dear = self.beside;
        dear.sort_unstable();
        dear.dedup();
        let besides = Besides { dear, clients: size(self.beside_clients), keys: (self.beside_keys / self.beside_clients).max(1) };
        let aim = match (self.clean, self.info) {
            (Some(prefix), _) => Aim::Clean(prefix),
            (None, true) => Aim::Info,
            (None, false) => Aim::Measure,
        };
        let format = match (self.json, self.csv) {
            (true, _) => Format::Json,
            (_, true) => Format::Csv,
            _ => Format::Text,
        };
        let of_mix = if is_mixed { mix.distribution() } else { Distribution::Uniform };
        Ok(Config {
            target,
            aim,
            clients: self.clients.into_iter().map(size).collect(),
            sweep: self.sweep,
            stages,
            amount,
            shape,
            distribution: self.distribution.unwrap_or(of_mix),
            mix,
            keys: self.keys,
            pipeline: size(self.pipeline),
            rate: self.rate,
            outliers: self.outliers,
            verify: self.verify,
            svg: self.svg,
            besides,
            format,
            quiet: self.quiet,
            finding: self.finding,
        })
    }
}

/// `N` or `LEAST-MOST`.
fn value_sizes(text: &str) -> Result<(usize, usize), String> {
    let size = |text: &str| {
        let sizes = VALUE_BYTES_MIN..=VALUE_BYTES_MAX;
        let found = text.parse().ok().filter(|size| sizes.contains(size));
        found.ok_or_else(|| format!("a value has {VALUE_BYTES_MIN} to {VALUE_BYTES_MAX} bytes, and {text:?} is not that"))
    };
    let (least, most) = text.split_once('-').unwrap_or((text, text));
    let (least, most) = (size(least)?, size(most)?);
    if least > most { Err(format!("{least} is more than {most}")) } else { Ok((least, most)) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn check(words: &[&str]) -> Result<Config, String> {
        let words = ["kvperf", "--catalog", "none"].iter().chain(words);
        Words::try_parse_from(words).map_err(|error| error.to_string())?.check()
    }

    #[test]
    fn what_is_not_said_has_a_default() {
        let config = check(&["lab"]).unwrap();
        assert_eq!((config.clients.as_slice(), config.stages.as_slice()), (&[1][..], &Stage::USUAL[..]));
        assert_eq!(config.shape, Shape { key_bytes: 15, value_bytes: 64, value_bytes_max: 64, batch: 1, page_rows: 100 });
        assert_eq!((config.amount, config.format, config.aim), (Amount::Time(STAGE_DEFAULT), Format::Text, Aim::Measure));
        assert_eq!(config.finding.timeout(), Some(Duration::from_secs(10)));
    }

    #[test]
    fn a_number_of_clients_is_measured_once() {
        assert!(check(&["lab", "--clients", "1,2,1"]).unwrap_err().contains("1 twice"));
    }

    #[test]
    fn stages_come_in_the_order_in_which_they_run() {
        let config = check(&["lab", "--stages", "remove,lookup,remove", "--clients", "4,1", "--seconds", "0.5"]).unwrap();
        assert_eq!(config.stages, [Stage::Lookup, Stage::Remove]);
        assert_eq!(config.clients, [4, 1]);
        assert_eq!(config.amount, Amount::Time(Duration::from_millis(500)));
        assert_eq!(config.loaded(), LOADED_DEFAULT);
        assert_eq!(check(&["lab", "--stages", "lookup", "--ops", "7"]).unwrap().loaded(), 7);
        assert_eq!(check(&["lab", "--ops", "7"]).unwrap().loaded(), 0);
    }

    #[test]
    fn a_workload_is_a_stage_with_keys_and_a_distribution() {
        let config = check(&["lab", "--workload", "D", "--ops", "5"]).unwrap();
        assert_eq!((config.stages.as_slice(), config.mix), (&[Stage::Mixed][..], Mix::D));
        assert_eq!((config.distribution, config.loaded()), (Distribution::Latest, LOADED_DEFAULT));
        let config = check(&["lab", "--stages", "mixed,remove", "--keys", "77", "--distribution", "uniform"]).unwrap();
        assert_eq!((config.mix, config.distribution, config.loaded()), (Mix::A, Distribution::Uniform, 77));
        assert_eq!(check(&["lab"]).unwrap().distribution, Distribution::Uniform);
        let shape = check(&["lab", "--value-bytes", "100-200"]).unwrap().shape;
        assert_eq!((shape.value_bytes, shape.value_bytes_max), (100, 200));
    }

    #[test]
    fn a_stage_is_told_in_parts_of_a_bearable_number() {
        let slice_ms = |words: &[&str]| check(words).unwrap().slice().as_millis();
        assert_eq!(slice_ms(&["lab"]), 100);
        assert_eq!(slice_ms(&["lab", "--seconds", "16"]), 300);
        assert_eq!(slice_ms(&["lab", "--seconds", "3600"]), 1_000);
        assert_eq!(slice_ms(&["lab", "--outliers"]), 10);
        assert_eq!(slice_ms(&["lab", "--ops", "5"]), 100);
    }

    #[test]
    fn others_share_their_keys_and_delete_them_last() {
        let config = check(&["lab", "--beside", "delete,scan", "--beside-clients", "4"]).unwrap();
        assert_eq!(config.besides, Besides { dear: vec![Dear::Scan, Dear::Delete], clients: 4, keys: 250_000 });
        assert_eq!(config.stages, Stage::BESIDE);
        assert_eq!(check(&["lab"]).unwrap().besides.dear, []);
    }

    #[test]
    fn what_cannot_be_is_said_before_anything_happens() {
        for (words, part) in [
            (&[][..], "which project"),
            (&["a/b"], "'/'"),
            (&["p", "--clients", "0"], "1..=256"),
            (&["p", "--clients", "1,x"], "x"),
            (&["p", "--seconds", "0"], "0.05"),
            (&["p", "--seconds", "NaN"], "0.05"),
            (&["p", "--seconds", "1", "--ops", "1"], "cannot be used with"),
            (&["p", "--stages", "mixture"], "mixture"),
            (&["p", "--sweep", "--clients", "2"], "cannot be used with"),
            (&["p", "--workload", "g"], "'g'"),
            (&["p", "--workload", "a", "--stages", "lookup"], "leaves that out"),
            (&["p", "--workload", "f", "--batch", "2"], "workload f"),
            (&["p", "--pipeline", "8", "--batch", "2"], "--pipeline"),
            (&["p", "--pipeline", "5000"], "4096"),
            (&["p", "--pipeline", "8", "--rate", "5"], "cannot be used with"),
            (&["p", "--rate", "0"], "above 0"),
            (&["p", "--rate", "NaN"], "above 0"),
            (&["p", "--distribution", "zipfian:0"], "above 0"),
            (&["p", "--value-bytes", "64-32"], "more than"),
            (&["p", "--value-bytes", "1-64"], "\"1\""),
            (&["p", "--verify", "--stages", "lookup"], "no stage writes"),
            (&["p", "--keys", "0"], "--keys"),
            (&["p", "--batch", "4097"], "4097"),
            (&["p", "--batch", "4096", "--value-bytes", "5000"], "smaller"),
            (&["p", "--key-bytes", "14"], "15"),
            (&["p", "--json", "--csv"], "cannot be used with"),
            (&["p", "--clean", "user/"], "kp4f09z/"),
            (&["p", "--beside", "scan", "--stages", "insert,remove"], "leave out remove"),
            (&["p", "--beside", "fly"], "fly"),
            (&["p", "--beside-keys", "5000"], "--beside"),
            (&["p", "--broker", "7"], "--broker 7"),
        ] {
            let error = check(words).unwrap_err();
            assert!(error.contains(part), "{words:?}: {error}");
        }
    }

    #[test]
    fn report_is_a_word_of_its_own_and_can_be_a_project() {
        let words = |words: &[&str]| Words::try_parse_from(["kvperf"].iter().chain(words));
        assert!(matches!(words(&["report"]).unwrap().apart, Some(Apart::Report(_))));
        assert!(words(&["lab", "report"]).is_err() && words(&["report", "--clients", "2"]).is_err());
        let named = words(&["--catalog", "none", "--", "report"]).unwrap();
        assert!(named.apart.is_none());
        assert_eq!(named.check().unwrap().target, "report");
    }

    #[test]
    fn clap_is_satisfied() {
        use clap::CommandFactory;
        Words::command().debug_assert();
    }
}

//! A whole run: for each number of clients the stages, the result, and the keys removed.
//!
//! - Keys are removed after each number of clients, whether its stages ended well, badly or were interrupted. Where that fails,
//!   what is left is named together with the command that removes it.
//! - Text and CSV appear as soon as a number of clients is through; JSON and plots at the end.

use std::io::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kvbroker::client::Client;
use kvbroker::exit::Exit;
use kvbroker_protocol::StatValue;

use crate::args::{Aim, Besides, Config, Format};
use crate::clean::{draw_prefix, remove_keys};
use crate::drawings::{self, DrawingError};
use crate::facts::Facts;
use crate::fleet::{Compared, Fleet, Stint};
use crate::interrupt;
use crate::keyspace::RunPrefix;
use crate::measure::Measured;
use crate::observer::{Observer, Seen};
use crate::orders::{Task, now_ns};
use crate::outliers::outliers;
use crate::progress::Progress;
use crate::report;
use crate::result::{Beside, Kind, Run, Schedule, Summary, Verified};
use crate::say;
use crate::stages::Stage;
use crate::sweep;
use crate::trouble::Trouble;

/// How often the broker is asked what it does; more often where outliers are to be told by it.
const LOOK: Duration = Duration::from_millis(100);
const LOOK_CLOSELY: Duration = Duration::from_millis(20);

/// Why a run ends early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    /// The broker, a client or the user.
    #[error(transparent)]
    Trouble(#[from] Trouble),
    /// Stdout.
    #[error("cannot write the result: {0}")]
    Output(#[from] io::Error),
    /// Plots.
    #[error(transparent)]
    Drawing(#[from] DrawingError),
}

/// Does what the command line says.
///
/// # Errors
/// As [`RunError`] says; the keys are removed, or named on stderr.
pub(crate) fn run(config: &Config) -> Result<(), RunError> {
    interrupt::install()?;
    let quiet = config.quiet;
    let options = config.finding.options().map_err(|error| Trouble::new(Exit::Usage, error))?;
    let options = options.notices(move |doing| {
        if !quiet {
            say(&format!("kvperf: {doing}\n"));
        }
    });
    let client = Client::connect_with(&config.target, options).map_err(Trouble::from)?;
    let facts = Facts::of(&client);
    match &config.aim {
        Aim::Measure => measure(config, &client, &facts),
        Aim::Info if config.format == Format::Json => {
            Ok(print(&report::document(config, &facts, unix_ms(), Vec::new(), Vec::new()).to_json())?)
        }
        Aim::Info => Ok(print(&report::head(config, &facts))?),
        Aim::Clean(prefix) => {
            let removed = remove_keys(&client, prefix.as_bytes()).map_err(Trouble::from)?;
            Ok(print(&format!("{removed} keys removed\n"))?)
        }
    }
}

fn measure(config: &Config, client: &Client, facts: &Facts) -> Result<(), RunError> {
    if let Some(directory) = &config.svg {
        drawings::prepare(directory)?;
    }
    let prefix = draw_prefix(client)?;
    let mut progress = Progress::new(config.quiet);
    let mut course = Course { config, client, facts, prefix, began_ns: now_ns(), progress: &mut progress };
    let began_unix_ms = unix_ms();
    let head = report::head(config, facts);
    match config.format {
        Format::Text => print(&head)?,
        Format::Csv => print(report::CSV_HEAD)?,
        Format::Json => {}
    }
    if config.format != Format::Text && !config.quiet {
        say(&head);
    }
    let (mut all, mut verified) = (Vec::new(), Vec::new());
    let mut named = config.clients.iter().copied();
    while let Some(clients) = if config.sweep { sweep::next(&all, &config.stages) } else { named.next() } {
        let (runs, compared) = course.measure_and_clean(clients)?;
        match config.format {
            Format::Text => print(&report::text(config, &runs, compared.as_ref()))?,
            Format::Csv => print(&report::csv(&runs))?,
            Format::Json => {}
        }
        all.extend(runs);
        verified.extend(compared);
    }
    let document = report::document(config, facts, began_unix_ms, all, verified);
    match config.format {
        Format::Text => print(&report::growth(&document))?,
        Format::Json => print(&document.to_json())?,
        Format::Csv => {}
    }
    if let Some(directory) = &config.svg {
        let files = drawings::draw(&document, directory)?;
        if !config.quiet {
            say(&format!("kvperf: {} plots in {}\n", files.len(), directory.display()));
        }
    }
    Ok(())
}

/// What all parts of a measurement need.
struct Course<'a> {
    config: &'a Config,
    client: &'a Client,
    facts: &'a Facts,
    prefix: RunPrefix,
    /// By the monotonic clock.
    began_ns: u64,
    progress: &'a mut Progress,
}

/// What one number of clients gave.
type Gained = (Vec<Run>, Option<Verified>);

impl Course<'_> {
    fn measure_and_clean(&mut self, clients: usize) -> Result<Gained, Trouble> {
        let Course { config, client, facts, .. } = *self;
        let prefix = self.prefix.clone();
        let project = &facts.project;
        let left = format!("keys that start with {prefix} may be left in {project}");
        let hint = format!("kvperf {} --clean {prefix}", config.target);
        interrupt::set_left(Some(format!("{left}; remove them with: {hint}")));
        // The clients have ended when this returns, so nothing is written any more.
        let measured = self.stages(clients);
        if measured.is_ok() {
            self.progress.cleaning();
        }
        let cleaned = remove_keys(client, prefix.as_bytes());
        self.progress.clear();
        match (measured, cleaned) {
            (measured, Ok(removed)) => {
                interrupt::set_left(None);
                let interrupted = interrupt::is_asked();
                if interrupted && !config.quiet {
                    say(&format!("kvperf: {removed} keys removed\n"));
                }
                if interrupted { Err(Trouble::interrupted()) } else { measured }
            }
            (measured, Err(error)) => {
                let cleaning = Trouble::from(error);
                let why = format!("{left}: {cleaning}");
                let hint = Some(format!("once the broker answers again: {hint}"));
                match measured {
                    Ok(_) => Err(Trouble { sentence: why, hint, ..cleaning }),
                    Err(trouble) => {
                        // Why it ended comes first, what it left behind after it.
                        let first =
                            trouble.hint.map_or(trouble.sentence.clone(), |hint| format!("{} ({hint})", trouble.sentence));
                        Err(Trouble { code: trouble.code, sentence: format!("{first}\nkvperf: {why}"), hint })
                    }
                }
            }
        }
    }

    fn stages(&mut self, clients: usize) -> Result<Gained, Trouble> {
        let Course { config, facts, .. } = *self;
        let mut finding = config.finding.clone();
        // All clients measure the broker that this process has met.
        finding.broker = Some(facts.broker.clone());
        let task = Task {
            target: config.target.clone(),
            finding,
            run: self.prefix.to_string(),
            client: 0,
            clients,
            shape: config.shape.clone(),
            amount: config.amount,
            load: config.loaded(),
            distribution: config.distribution,
            mix: config.mix,
            pipeline: config.pipeline,
            rate: config.rate,
            slice_ns: u64::try_from(config.slice().as_nanos()).unwrap_or(u64::MAX),
            outliers: config.outliers,
            verify: config.verify,
        };
        let observer = Observer::start(self.client, if config.outliers { LOOK_CLOSELY } else { LOOK })?;
        let mut fleet = Fleet::start(clients, &task, self.progress)?;
        let (mut runs, mut compared) = (Vec::new(), None);
        for stage in &config.stages {
            runs.push(self.stage_run(&mut fleet, *stage, &observer)?);
            if config.verify && stage.is_mutation() {
                compared = Some(fleet.verify(self.progress)?);
            }
        }
        if !config.besides.dear.is_empty() {
            self.beside(clients, task, &mut fleet, &observer, &mut runs)?;
        }
        let verified = compared.map(|Compared { acknowledged, unknown, keys }| Verified {
            clients,
            acknowledged,
            unknown,
            keys,
            restarts: observer.seen().restarts,
        });
        Ok((runs, verified))
    }

    /// The stages again, beside others' work.
    fn beside(
        &mut self,
        clients: usize,
        task: Task,
        fleet: &mut Fleet,
        observer: &Observer,
        runs: &mut Vec<Run>,
    ) -> Result<(), Trouble> {
        let config = self.config;
        let Besides { clients: others, keys, .. } = config.besides;
        let mut others = Fleet::start(others, &Task { client: clients, load: keys, ..task }, self.progress)?;
        for dear in &config.besides.dear {
            for stage in &config.stages {
                others.begin(*dear)?;
                let run = self.stage_run(fleet, *stage, observer)?;
                let beside = Some(Beside { dear: *dear, sum: Summary::of_all(&others.cease()?) });
                // Syncs are everybody's.
                runs.push(Run { beside, syncs: None, ..run });
            }
        }
        Ok(())
    }

    fn stage_run(&mut self, fleet: &mut Fleet, stage: Stage, observer: &Observer) -> Result<Run, Trouble> {
        let (before, syncs_before) = (observer.seen(), syncs(self.client)?);
        let stint = fleet.run(stage, self.progress)?;
        let (after, syncs_after) = (observer.seen(), syncs(self.client)?);
        // A broker that was started again counts anew.
        let syncs = syncs_after.zip(syncs_before).filter(|_| before.restarts == after.restarts);
        let syncs = syncs.map(|(after, before)| after.saturating_sub(before));
        Ok(Run { syncs, ..self.run_of(stage, &stint, &after) })
    }

    fn run_of(&self, stage: Stage, stint: &Stint, seen: &Seen) -> Run {
        let config = self.config;
        let Stint { at_ns, measured, timeline } = stint;
        let ended_ns = measured.iter().map(|measured| measured.ended_ns).max().unwrap_or(*at_ns);
        let checkpoints = seen.checkpoints(*at_ns, ended_ns);
        let elapsed_ms = ended_ns.saturating_sub(*at_ns) as f64 / 1e6;
        let wanted = config.outliers.then(|| outliers(measured, timeline, &checkpoints, *at_ns, elapsed_ms));
        Run {
            clients: measured.len(),
            sum: Summary::of_all(measured),
            each: measured.iter().map(Summary::of).collect(),
            kinds: kinds(measured),
            schedule: config.rate.and_then(|ops_per_s| schedule(ops_per_s, measured)),
            began_ms: at_ns.saturating_sub(self.began_ns) as f64 / 1e6,
            moment_ms: config.slice().as_secs_f64() * 1e3 * config.slices_per_moment() as f64,
            timeline: timeline.moments(config.slices_per_moment()),
            checkpoints,
            outliers: wanted,
            ..Run::of(stage, config.shape.batch_of(stage))
        }
    }
}

/// The kinds of operations of a mix, in one order.
fn kinds(measured: &[Measured]) -> Vec<Kind> {
    let mut acts: Vec<_> = measured.iter().flat_map(|measured| measured.kinds.iter().map(|(act, _)| *act)).collect();
    acts.sort_unstable();
    acts.dedup();
    let kind = |act| Kind {
        kind: act,
        sum: Summary::of_some(measured, |measured| measured.kinds.iter().find(|(other, _)| *other == act).map(|(_, some)| some)),
    };
    acts.into_iter().map(kind).collect()
}

/// How well all clients kept their schedules.
fn schedule(ops_per_s: f64, measured: &[Measured]) -> Option<Schedule> {
    let kept = || measured.iter().filter_map(|measured| measured.kept.as_ref());
    kept().next()?;
    Some(Schedule {
        ops_per_s,
        due: kept().map(|kept| kept.due).sum(),
        late: kept().map(|kept| kept.late).sum(),
        unsent: kept().map(|kept| kept.unsent).sum(),
        from_sent: Summary::of_some(measured, |measured| measured.kept.as_ref().map(|kept| &kept.from_sent)),
    })
}

/// Syncs of the log since the broker's start.
fn syncs(client: &Client) -> Result<Option<u64>, Trouble> {
    let stats = client.stats()?;
    Ok(stats.into_iter().find_map(|stat| match stat {
        (name, StatValue::Number(syncs)) if name == "log_syncs" => Some(syncs),
        _ => None,
    }))
}

/// Now, by the wall clock: milliseconds since 1970.
fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

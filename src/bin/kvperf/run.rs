//! A whole run: for each number of clients the stages, the result, and the keys removed.
//!
//! - Keys are removed after each number of clients, whether its stages ended well, badly or were interrupted. Where that fails,
//!   what is left is named together with the command that removes it.
//! - Text and CSV appear as soon as a number of clients is through; JSON at the end.

use std::io::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use kvbroker::client::Client;
use kvbroker::exit::Exit;
use kvbroker_protocol::StatValue;

use crate::args::{Aim, Besides, Config, Format};
use crate::clean::{draw_prefix, remove_keys};
use crate::facts::Facts;
use crate::fleet::Fleet;
use crate::interrupt;
use crate::keyspace::RunPrefix;
use crate::orders::Task;
use crate::progress::Progress;
use crate::report;
use crate::result::{Beside, Run, Summary};
use crate::say;
use crate::stages::Stage;
use crate::trouble::Trouble;

/// Why a run ends early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    /// The broker, a client or the user.
    #[error(transparent)]
    Trouble(#[from] Trouble),
    /// Stdout.
    #[error("cannot write the result: {0}")]
    Output(#[from] io::Error),
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
            Ok(print(&report::document(config, &facts, unix_ms(), Vec::new()).to_json())?)
        }
        Aim::Info => Ok(print(&report::head(config, &facts))?),
        Aim::Clean(prefix) => {
            let removed = remove_keys(&client, prefix.as_bytes()).map_err(Trouble::from)?;
            Ok(print(&format!("{removed} keys removed\n"))?)
        }
    }
}

fn measure(config: &Config, client: &Client, facts: &Facts) -> Result<(), RunError> {
    let began_unix_ms = unix_ms();
    let prefix = draw_prefix(client)?;
    let mut progress = Progress::new(config.quiet);
    let head = report::head(config, facts);
    match config.format {
        Format::Text => print(&head)?,
        Format::Csv => print(report::CSV_HEAD)?,
        Format::Json => {}
    }
    if config.format != Format::Text && !config.quiet {
        say(&head);
    }
    let mut all = Vec::new();
    for clients in &config.clients {
        let runs = measure_and_clean(config, client, facts, &prefix, *clients, &mut progress)?;
        match config.format {
            Format::Text => print(&[report::table(&runs), report::beside(config, &runs)].concat())?,
            Format::Csv => print(&report::csv(&runs))?,
            Format::Json => {}
        }
        all.extend(runs);
    }
    match config.format {
        Format::Text => print(&report::growth(config, &all))?,
        Format::Json => print(&report::document(config, facts, began_unix_ms, all).to_json())?,
        Format::Csv => {}
    }
    Ok(())
}

fn measure_and_clean(
    config: &Config,
    client: &Client,
    facts: &Facts,
    prefix: &RunPrefix,
    clients: usize,
    progress: &mut Progress,
) -> Result<Vec<Run>, Trouble> {
    let project = &facts.project;
    let left = format!("keys that start with {prefix} may be left in {project}");
    let hint = format!("kvperf {} --clean {prefix}", config.target);
    interrupt::set_left(Some(format!("{left}; remove them with: {hint}")));
    // The clients have ended when this returns, so nothing is written any more.
    let measured = stages(config, client, facts, prefix, clients, progress);
    if measured.is_ok() {
        progress.cleaning();
    }
    let cleaned = remove_keys(client, prefix.as_bytes());
    progress.clear();
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
                    let first = trouble.hint.map_or(trouble.sentence.clone(), |hint| format!("{} ({hint})", trouble.sentence));
                    Err(Trouble { code: trouble.code, sentence: format!("{first}\nkvperf: {why}"), hint })
                }
            }
        }
    }
}

fn stages(
    config: &Config,
    client: &Client,
    facts: &Facts,
    prefix: &RunPrefix,
    clients: usize,
    progress: &mut Progress,
) -> Result<Vec<Run>, Trouble> {
    let mut finding = config.finding.clone();
    // All clients measure the broker that this process has met.
    finding.broker = Some(facts.broker.clone());
    let task = Task {
        target: config.target.clone(),
        finding,
        run: prefix.to_string(),
        client: 0,
        shape: config.shape.clone(),
        amount: config.amount,
        load: config.loaded(),
        progress: progress.is_shown(),
    };
    let mut fleet = Fleet::start(clients, &task, progress)?;
    let mut runs = Vec::new();
    for stage in &config.stages {
        runs.push(stage_run(config, client, &mut fleet, *stage, progress)?);
    }
    if config.besides.dear.is_empty() {
        return Ok(runs);
    }
    let Besides { clients: others, keys, .. } = config.besides;
    let mut others = Fleet::start(others, &Task { client: clients, load: keys, progress: false, ..task }, progress)?;
    for dear in &config.besides.dear {
        for stage in &config.stages {
            others.begin(*dear)?;
            let run = stage_run(config, client, &mut fleet, *stage, progress)?;
            let beside = Some(Beside { dear: *dear, sum: Summary::of_all(&others.cease()?) });
            // Syncs are everybody's.
            runs.push(Run { beside, syncs: None, ..run });
        }
    }
    Ok(runs)
}

fn stage_run(config: &Config, client: &Client, fleet: &mut Fleet, stage: Stage, progress: &mut Progress) -> Result<Run, Trouble> {
    let syncs_before = syncs(client)?;
    let measured = fleet.run(stage, progress)?;
    let syncs = syncs(client)?.zip(syncs_before).map(|(after, before)| after.saturating_sub(before));
    let each: Vec<Summary> = measured.iter().map(Summary::of).collect();
    let batch = config.shape.batch_of(stage);
    Ok(Run { clients: each.len(), syncs, sum: Summary::of_all(&measured), each, ..Run::of(stage, batch) })
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

//! The command line: raw flags, then a checked [`Config`].

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Parser};
use kvbroker::catalog::CatalogList;
use kvbroker::logging::LogFormat;
use kvbroker::project::ProjectName;
use kvbroker_core::SessionBounds;
use kvbroker_log::{CheckpointPolicy, SyncMode};
use kvbroker_protocol::limits;

use crate::listening::{self, Advertised, Network};
use crate::size::{self, Size};
use crate::tools::Verb;

/// Smaller files and checkpoints cost more than they could ever save.
const SMALL: Size = Size(64 << 10);

/// Starts a durable key-value broker, found by name.
#[derive(Debug, Parser)]
#[command(
    name = "kvbroker",
    disable_version_flag = true,
    disable_help_subcommand = true,
    override_usage = "kvbroker [OPTIONS] PROJECT\n       kvbroker [--data DIR] PROJECT VERB [OPTIONS OF THE VERB]",
    max_term_width = 100,
    after_help = "Examples:
  kvbroker NETID-a5                      start (or restart) the broker of project NETID-a5
  kvclient NETID-a5 put greeting hello   use it from another terminal
  kvbroker NETID-a5 --sync 100           sync every 100 ms: faster, a power failure loses that much
  kvbroker NETID-a5 --catalog none       tell no catalog
  kvbroker NETID-a5 --listen 127.0.0.1   let nobody in from other machines
  kvbroker NETID-a5 --port 0             take new ports instead of the remembered ones
  kvbroker NETID-a5 link                 print the address of the running broker, for kvclient or a script
  kvbroker NETID-a5 paths                print where its data, keys and sockets are
  kvbroker NETID-a5 stats                print what is in its data directory
  kvbroker NETID-a5 check                read and judge all of it
  kvbroker NETID-a5 dump --key greeting  print every change of a key that its log still has
  kvbroker NETID-a5 backup DIR           copy its data, while it runs or not; `restore` is the way back

It stops cleanly at Ctrl-C or SIGTERM; a second one ends it at once.
Exit codes: 0 stopped cleanly, 2 wrong usage, 4 stopped with requests unfinished, 5 no port or
socket, 10 another broker has the data, 11 log damaged, 12 disk full or sync failed, 13 data newer
than this program."
)]
pub(crate) struct Args {
    /// Name of the project: 1 to 48 of A-Z a-z 0-9 . _ -
    pub(crate) project: Option<String>,
    /// Instead of starting: link, paths, dump, check, stats, … (`kvbroker PROJECT help` tells them all)
    #[arg(value_name = "VERB", trailing_var_arg = true)]
    words: Vec<OsString>,
    /// `--` stands before the project: it is one even if it looks like a verb.
    #[arg(skip)]
    pub(crate) is_surely_project: bool,
    /// Where the log is kept [default: $XDG_DATA_HOME/kvbroker/PROJECT]
    #[arg(long, value_name = "DIR", env = "KVBROKER_DATA")]
    data: Option<PathBuf>,
    /// Address of this machine that TCP listens on; give it again for another one [default: all addresses]
    #[arg(long, value_name = "ADDR", value_delimiter = ',', value_parser = listening::parse_listen, env = "KVBROKER_LISTEN")]
    listen: Vec<IpAddr>,
    /// Address by which others reach this broker, told to catalogs and `link`; give it again for another one
    #[arg(long, value_name = "HOST[:PORT]", value_delimiter = ',', env = "KVBROKER_ADVERTISE")]
    advertise: Vec<Advertised>,
    /// TCP port for requests; 0 takes a new free one [default: the one used last time, else a free one]
    #[arg(long, value_name = "N", env = "KVBROKER_PORT")]
    port: Option<u16>,
    /// TCP port for notifications; 0 takes a new free one [default: the one used last time, else a free one]
    #[arg(long, value_name = "N", env = "KVBROKER_PUB_PORT")]
    pub_port: Option<u16>,
    /// Catalogs to announce to, as host[:port],… or `none` [default: $CATALOG_HOST, else catalog.cse.nd.edu:9097]
    #[arg(long, value_name = "LIST", env = "KVBROKER_CATALOG")]
    catalog: Option<String>,
    /// File with the owner's secret key, where the broker runs under another account [default: `id` in the directory of keys]
    #[arg(long, value_name = "FILE", env = "KVBROKER_KEY")]
    key: Option<PathBuf>,
    /// TCP without encryption and keys, on this machine only: every program here may read and write everything
    #[arg(long)]
    insecure: bool,
    /// With --insecure: everybody who can reach this machine may, too
    #[arg(long)]
    insecure_beyond_this_machine: bool,
    /// Owner shown in the catalog [default: the login name]
    #[arg(long, value_name = "NAME", env = "KVBROKER_OWNER")]
    owner: Option<String>,
    /// When writes are on disk: `always` before they are acknowledged, every so many milliseconds, or `never`
    #[arg(long, value_name = "always|MS|never", default_value = "always", value_parser = parse_sync, env = "KVBROKER_SYNC")]
    sync: SyncMode,
    /// How long a change can at least be read back with `history`, unless --history-size or a nearly full disk ends that earlier
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = humantime::parse_duration, env = "KVBROKER_HISTORY_AGE")]
    history_age: Duration,
    /// Most room for the part of the log that is kept for `history` alone
    #[arg(long, value_name = "SIZE", default_value = "4GiB", env = "KVBROKER_HISTORY_SIZE")]
    history_size: Size,
    /// A checkpoint is made once the log behind the last one is larger than this, and than half of that one
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = size::between(SMALL, Size(1 << 40)), env = "KVBROKER_CHECKPOINT_AFTER")]
    checkpoint_after: Size,
    /// A file of the log ends at this size, or at that of --checkpoint-after
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = size::between(SMALL, Size(4 << 30)), env = "KVBROKER_SEGMENT_SIZE")]
    segment_size: Size,
    /// Write the endpoints to this file (JSON) once the broker is ready
    #[arg(long, value_name = "FILE", env = "KVBROKER_READY_FILE")]
    ready_file: Option<PathBuf>,
    /// How long a stop waits for requests already taken
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration, env = "KVBROKER_GRACE")]
    grace: Duration,
    /// Most sessions of clients that are remembered for their retries; ended and then long unused ones make room
    #[arg(long, value_name = "N", default_value_t = limits::SESSIONS_MAX as u64, value_parser = clap::value_parser!(u64).range(1..=1_000_000), env = "KVBROKER_MAX_SESSIONS")]
    max_sessions: u64,
    /// A session used within this time is never forgotten: at the bound a new one is told busy instead
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = humantime::parse_duration, env = "KVBROKER_SESSION_KEEP")]
    session_keep: Duration,
    /// Take over a data directory that a process on another host has locked: only when that process is gone
    #[arg(long)]
    take_over: bool,
    /// Believe a clock that is more than ten years ahead of the last write
    #[arg(long)]
    accept_clock: bool,
    /// Keep the data on a file system in memory, such as tmpfs: gone when the machine restarts
    #[arg(long, env = "KVBROKER_ACCEPT_FILESYSTEM", value_parser = clap::builder::FalseyValueParser::new())]
    accept_filesystem: bool,
    /// Log a line per connection and batch (-v), or per request (-vv)
    #[arg(short, long, action = ArgAction::Count)]
    verbose: u8,
    /// Log errors only, and print no ready block
    #[arg(short, long, conflicts_with = "verbose")]
    quiet: bool,
    /// Log lines as text or json
    #[arg(long, value_name = "text|json", default_value_t, env = "KVBROKER_LOG_FORMAT")]
    log_format: LogFormat,
    /// Print version, protocol, data format and libzmq
    #[arg(short = 'V', long)]
    pub(crate) version: bool,
}

/// A checked command line.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) project: ProjectName,
    /// The verb and what belongs to it; empty: run the broker.
    pub(crate) words: Vec<OsString>,
    pub(crate) data: Option<PathBuf>,
    pub(crate) network: Network,
    /// None: the remembered one, else a free one.
    pub(crate) port: Option<u16>,
    pub(crate) pub_port: Option<u16>,
    pub(crate) catalogs: CatalogList,
    /// None: the one in the directory of keys.
    pub(crate) key: Option<PathBuf>,
    pub(crate) owner: String,
    pub(crate) sync: SyncMode,
    /// Segments end at this size, bytes.
    pub(crate) segment_bytes: u64,
    pub(crate) checkpoints: CheckpointPolicy,
    pub(crate) ready_file: Option<PathBuf>,
    pub(crate) grace: Duration,
    pub(crate) session_bounds: SessionBounds,
    pub(crate) take_over: bool,
    pub(crate) accept_clock: bool,
    pub(crate) accept_filesystem: bool,
    pub(crate) verbose: u8,
    pub(crate) quiet: bool,
    pub(crate) log_format: LogFormat,
}

impl Args {
    /// Checks what clap can't.
    ///
    /// # Errors
    /// A sentence for the user; exit code 2.
    pub(crate) fn check(self) -> Result<Config, String> {
        let project = self.project.ok_or("which project? For example: kvbroker NETID-a5")?;
        let project: ProjectName = project.parse().map_err(|error| format!("{error}"))?;
        if self.words.is_empty() && !self.is_surely_project && Verb::is_name(project.as_str()) {
            return Err(format!(
                "{project} is a verb, and the project stands before it: kvbroker PROJECT {project}. \
                 (To start a broker for a project of that name: kvbroker -- {project})"
            ));
        }
        let network = Network::of_flags(&self.listen, self.advertise, self.insecure, self.insecure_beyond_this_machine)?;
        if self.port.is_some_and(|port| port != 0) && self.port == self.pub_port {
            return Err("--port and --pub-port must differ".to_owned());
        }
        let owner = self.owner.unwrap_or_else(kvbroker::paths::login_name);
        if !kvbroker::catalog::is_plain_text(&owner, kvbroker::catalog::TEXT_BYTES_MAX) || owner.is_empty() {
            return Err("--owner must be a short name without control characters".to_owned());
        }
        let catalogs = CatalogList::from_env(self.catalog.as_deref()).map_err(|error| error.to_string())?;
        // Only what is sealed can be taken into a checkpoint.
        let segment_bytes = self.segment_size.0.min(self.checkpoint_after.0);
        let defaults = CheckpointPolicy::default();
        Ok(Config {
            project,
            words: self.words,
            data: self.data,
            network,
            port: self.port,
            pub_port: self.pub_port,
            catalogs,
            key: self.key,
            owner,
            sync: self.sync,
            segment_bytes,
            checkpoints: CheckpointPolicy {
                floor_bytes: self.checkpoint_after.0,
                history_ms: u64::try_from(self.history_age.as_millis()).unwrap_or(u64::MAX),
                history_bytes: self.history_size.0,
                // The room is looked at whenever a segment is sealed.
                reserve_bytes: defaults.reserve_bytes.max(segment_bytes),
                ..defaults
            },
            ready_file: self.ready_file,
            grace: self.grace,
            session_bounds: SessionBounds {
                sessions_max: self.max_sessions as usize,
                per_owner_max: limits::SESSIONS_PER_OWNER_MAX.min(self.max_sessions as usize),
                reply_bytes_max: limits::SESSIONS_REPLY_BYTES_MAX,
                per_owner_reply_bytes_max: limits::SESSIONS_REPLY_BYTES_MAX,
                keep_ms: u64::try_from(self.session_keep.as_millis()).unwrap_or(u64::MAX),
            },
            take_over: self.take_over,
            accept_clock: self.accept_clock,
            accept_filesystem: self.accept_filesystem,
            verbose: self.verbose,
            quiet: self.quiet,
            log_format: self.log_format,
        })
    }
}

fn parse_sync(text: &str) -> Result<SyncMode, String> {
    match text {
        "always" => return Ok(SyncMode::Always),
        "never" => return Ok(SyncMode::Never),
        _ => {}
    }
    let interval = text.parse().map(Duration::from_millis).ok().or_else(|| humantime::parse_duration(text).ok());
    match interval {
        Some(interval) if (Duration::from_millis(1)..=Duration::from_secs(3_600)).contains(&interval) => {
            Ok(SyncMode::Every(interval))
        }
        Some(_) => Err("the interval is 1 ms to 1 hour".to_owned()),
        None => Err("`always`, `never`, or an interval such as 100 (milliseconds) or 2s".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn check(words: &[&str]) -> Result<Config, String> {
        let args = ["kvbroker", "--catalog", "none"].iter().chain(words);
        Args::try_parse_from(args).map_err(|error| error.to_string())?.check()
    }

    #[test]
    fn flags_become_a_config_or_a_sentence() {
        let config = check(&["NETID-a5", "--sync", "250", "--port", "0"]).unwrap();
        assert_eq!((config.sync, config.port), (SyncMode::Every(Duration::from_millis(250)), Some(0)));
        assert_eq!(check(&["p"]).unwrap().sync, SyncMode::Always);
        assert_eq!(check(&["p", "--sync", "2s"]).unwrap().sync, SyncMode::Every(Duration::from_secs(2)));
        let config = check(&["p"]).unwrap();
        assert_eq!((config.segment_bytes, config.checkpoints), (64 << 20, CheckpointPolicy::default()));
        let config = check(&["p", "--listen", "127.0.0.1", "--listen", "::1,10.0.0.1", "--advertise", "gate:7"]).unwrap();
        assert_eq!((config.network.listen.len(), config.network.advertise.len()), (3, 1));
        let config = check(&["p", "--checkpoint-after", "128KiB", "--history-size", "0", "--history-age", "90s"]).unwrap();
        let policy = config.checkpoints;
        assert_eq!((policy.floor_bytes, policy.history_bytes, policy.history_ms), (128 << 10, 0, 90_000));
        assert_eq!(config.segment_bytes, 128 << 10, "what is not sealed is in no checkpoint");
        for (words, part) in [
            (&[][..], "which project"),
            (&["a/b"], "'/'"),
            (&["p", "--listen", "localhost"], "127.0.0.1 or ::1"),
            (&["p", "--listen", "127.0.0.1:99"], "--port"),
            (&["p", "--insecure", "--listen", "0.0.0.0"], "--insecure-beyond-this-machine"),
            (&["p", "--insecure-beyond-this-machine"], "--insecure only"),
            (&["p", "--advertise", "a:0"], "HOST:PORT"),
            (&["p", "--sync", "often"], "always"),
            (&["p", "--sync", "0"], "1 ms"),
            (&["p", "--port", "70000"], "70000"),
            (&["p", "--port", "7000", "--pub-port", "7000"], "differ"),
            (&["p", "--owner", "a\nb"], "--owner"),
            (&["paths"], "kvbroker PROJECT paths"),
            (&["p", "--bogus"], "--bogus"),
            (&["p", "--segment-size", "1KiB"], "64KiB to 4GiB"),
            (&["p", "--checkpoint-after", "64MB"], "MiB"),
            (&["p", "--history-age", "long"], "long"),
        ] {
            let error = check(words).unwrap_err();
            assert!(error.contains(part), "{words:?}: {error}");
        }
    }

    #[test]
    fn words_behind_the_verb_are_the_verbs_own() {
        let config = check(&["p", "--data", "/d", "stats", "--json", "--data", "/e", "--help"]).unwrap();
        assert_eq!((config.data, config.words.len()), (Some(PathBuf::from("/d")), 5));
        let mut args = Args::try_parse_from(["kvbroker", "--catalog", "none", "--", "paths"]).unwrap();
        args.is_surely_project = true;
        assert_eq!(args.check().unwrap().project.as_str(), "paths");
    }

    #[test]
    fn clap_is_satisfied() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }
}

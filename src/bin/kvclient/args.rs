//! The command line: words in, a checked [`Invocation`] out.
//!
//! - The first word is the project (or its address), the second the verb. A few first words
//!   stand alone and can't name projects.
//! - Options may stand before, between and behind these words.
//! - What is wrong with the command line is said before anything is contacted; exit code 2.

// The comments on fields are what `--help` prints: brackets there mean optional parts, not links.
#![allow(rustdoc::broken_intra_doc_links)]

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use kvbroker::catalog::CatalogList;
use kvbroker::client::ConnectOptions;
use kvbroker::logging::LogFormat;
use kvbroker::lookup::Target;
use kvbroker::project::RESERVED_WORDS;
use kvbroker_protocol::{BrokerId, Pattern};

const ABOUT: &str = "Uses the table of a kvbroker, found by name";

const USAGE: &str = "kvclient PROJECT VERB [ARGUMENTS] [OPTIONS]
       kvclient list | help [VERB] | version";

const EXAMPLES: &str = r#"PROJECT is the name that the broker was started with, or its address as `kvbroker PROJECT link` prints it.

Examples:
  kvclient NETID-a5 put greeting hello                    store a text
  kvclient NETID-a5 get greeting                          read it
  kvclient NETID-a5 put zebra '{"weight":100}' --json     store a document
  kvclient NETID-a5 query weight 100                      find documents by a field
  kvclient NETID-a5 scan user/                            list keys that start with user/
  kvclient NETID-a5 watch user/                           print changes as they happen
  tar c src | kvclient NETID-a5 put backup -              store what comes from a pipe
  kvclient list                                           what is there, here and in the catalogs
  kvclient help put                                       all about one verb

Exit codes: 0 ok, 1 not found, 2 wrong usage or invalid, 3 conflict, 4 unknown outcome (the request's id
is printed), 5 no broker found or no answer, 6 refused, 7 busy or over a limit, 8 several brokers."#;

/// Options that every verb takes.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Options for every verb")]
pub(crate) struct Global {
    /// Catalogs to ask, as `host[:port],…` or `none` [default: $CATALOG_HOST, else catalog.cse.nd.edu:9097]
    #[arg(long, global = true, value_name = "LIST", env = "KVBROKER_CATALOG", hide_env = true)]
    catalog: Option<String>,
    /// Only a broker of this owner
    #[arg(long, global = true, value_name = "NAME", env = "KVBROKER_OWNER", hide_env = true)]
    owner: Option<String>,
    /// Only the broker with this uuid
    #[arg(long, global = true, value_name = "UUID", env = "KVBROKER_BROKER", hide_env = true)]
    broker: Option<BrokerId>,
    /// Where the broker is: kv://HOST:PORT/PROJECT?key=kvpub1…; nothing is searched
    #[arg(long, global = true, value_name = "ADDRESS", env = "KVBROKER_ENDPOINT", hide_env = true)]
    endpoint: Option<String>,
    /// How long to wait, such as 500ms, 10s or 2m; 0: for ever
    #[arg(long, global = true, value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration, env = "KVBROKER_TIMEOUT", hide_env = true)]
    timeout: Duration,
    /// Print results as JSON with stable names
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Show on stderr how the broker was found
    #[arg(long, global = true)]
    pub(crate) explain: bool,
    /// Say more on stderr; -vv: a line per request
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Say nothing on stderr but errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Log lines (with -v) as text or json
    #[arg(long, global = true, value_name = "text|json", default_value_t, env = "KVBROKER_LOG_FORMAT", hide_env = true)]
    pub(crate) log_format: LogFormat,
}

impl Global {
    /// None: for ever.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        (!self.timeout.is_zero()).then_some(self.timeout)
    }

    pub(crate) fn catalogs(&self) -> Result<CatalogList, String> {
        CatalogList::from_env(self.catalog.as_deref()).map_err(|error| error.to_string())
    }

    pub(crate) fn connect_options(&self) -> Result<ConnectOptions, String> {
        let mut options = ConnectOptions::new().timeout(self.timeout()).catalogs(self.catalogs()?);
        if let Some(owner) = &self.owner {
            options = options.owner(owner);
        }
        if let Some(broker) = self.broker {
            options = options.broker(broker);
        }
        if let Some(endpoint) = self.endpoint.as_ref().filter(|endpoint| !endpoint.is_empty()) {
            options = options.endpoint(endpoint);
        }
        Ok(options)
    }
}

/// `kvclient PROJECT …`, without PROJECT.
#[derive(Debug, Parser)]
#[command(
    name = "kvclient PROJECT",
    bin_name = "kvclient PROJECT",
    about = ABOUT,
    override_usage = USAGE,
    after_help = EXAMPLES,
    max_term_width = 110,
    subcommand_required = true,
    disable_help_subcommand = true,
    disable_version_flag = true,
    subcommand_value_name = "VERB",
    subcommand_help_heading = "Verbs",
)]
struct WithProject {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

/// `kvclient list`.
#[derive(Debug, Parser)]
#[command(
    name = "kvclient list",
    about = "Lists the brokers of this user on this machine, and those in the catalogs",
    disable_version_flag = true,
    max_term_width = 110,
    after_help = "What a catalog lists is what senders claim; only connecting verifies it.

Examples:
  kvclient list                       here and in the usual catalogs
  kvclient list --catalog none        only here
  kvclient list --json                for programs: {\"brokers\":[…],\"trouble\":[…]}"
)]
struct ListWord {
    #[command(flatten)]
    global: Global,
}

/// What is asked of the table.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Verb {
    /// Store a value under a key, replacing what was there
    #[command(
        visible_alias = "insert",
        after_help = "The value is text as it is written (bytes where it isn't UTF-8). Nothing is printed.

Examples:
  kvclient NETID-a5 put greeting hello
  kvclient NETID-a5 put zebra '{\"weight\":100}' --json      parsed: a document; prints {\"status\":\"ok\",\"rev\":…}
  kvclient NETID-a5 put photo --file photo.jpg             the bytes of a file
  date | kvclient NETID-a5 put now -                       what comes from the pipe, line feed included
  kvclient NETID-a5 put -- -odd -value                     words that look like options"
    )]
    Put {
        /// The key
        key: OsString,
        /// The value; `-`: from stdin
        #[arg(required_unless_present = "file", conflicts_with = "file", allow_negative_numbers = true)]
        value: Option<OsString>,
        /// Store the bytes of this file
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Print a key's value; exit code 1 if there is no such key
    #[command(
        visible_alias = "lookup",
        after_help = "A text is printed as it is with a line feed, bytes as they are without one, everything else as JSON.

Examples:
  kvclient NETID-a5 get greeting
  kvclient NETID-a5 get photo > photo.jpg
  kvclient NETID-a5 get zebra --json                       {\"status\":\"ok\",\"rev\":…,\"value\":{…},\"modified\":…,\"created\":…}
  kvclient NETID-a5 get lock || echo nobody has it"
    )]
    Get {
        /// The key
        key: OsString,
    },
    /// Remove a key; exit code 1 if there is no such key
    #[command(
        visible_alias = "remove",
        after_help = "Examples:
  kvclient NETID-a5 del greeting
  kvclient NETID-a5 del greeting --return                  print the value that it had"
    )]
    Del {
        /// The key
        key: OsString,
        /// Print the value that it had, as `get` does
        #[arg(long = "return")]
        return_old: bool,
    },
    /// Print the number of keys
    #[command(after_help = "Example:
  kvclient NETID-a5 size")]
    Size,
    /// List keys and values in key order
    #[command(after_help = "One line a key: the key, a tab, the value as JSON. All pages are fetched; each page is of one
revision, all together are not a snapshot.

Examples:
  kvclient NETID-a5 scan                                   everything
  kvclient NETID-a5 scan user/                             keys that start with user/
  kvclient NETID-a5 scan --regex '[0-9]{3}$' --limit 10    the first ten keys that end in three digits
  kvclient NETID-a5 scan --json                            a JSON object a line: {\"key\":…,\"value\":…,\"modified\":…}
  kvclient NETID-a5 scan | cut -f1                         only the keys")]
    Scan {
        /// Only keys that start with this
        #[arg(default_value = "")]
        prefix: OsString,
        #[command(flatten)]
        pages: PageArgs,
    },
    /// List the documents in which a field equals a value
    #[command(after_help = "SUBVALUE is JSON where it parses as a JSON atom (100, true, null, \"text\"), otherwise text. Numbers
compare by value (100 equals 100.0) and never equal texts. Output as for `scan`.

Examples:
  kvclient NETID-a5 query weight 100
  kvclient NETID-a5 query name zebra
  kvclient NETID-a5 query zip '\"00100\"'                    the text, not the number
  kvclient NETID-a5 query weight 100 --prefix zoo/")]
    Query {
        /// The name of the field
        subkey: String,
        /// What it must equal
        #[arg(allow_negative_numbers = true)]
        subvalue: String,
        /// Only keys that start with this
        #[arg(long, value_name = "PREFIX", default_value = "")]
        prefix: OsString,
        #[command(flatten)]
        pages: PageArgs,
    },
    /// Run operations from stdin, many in one message
    #[command(after_help = "Reads one JSON operation a line, or one JSON array of operations, and prints one JSON result a line,
in order. Operations are as in docs/protocol.md. The exit code is that of the first failure.

Examples:
  printf '%s\\n' '{\"op\":\"put\",\"key\":\"a\",\"value\":1}' '{\"op\":\"get\",\"key\":\"a\"}' | kvclient NETID-a5 batch
  kvclient NETID-a5 batch < operations.jsonl > results.jsonl")]
    Batch,
    /// Print who the broker is
    #[command(after_help = "Example:
  kvclient NETID-a5 hello")]
    Hello,
    /// Ask for a sign of life and print the table's revision and the time it took
    #[command(after_help = "Example:
  kvclient NETID-a5 ping --timeout 1s && echo it is there")]
    Ping,
    /// Print the broker's counters and settings
    #[command(after_help = "Examples:
  kvclient NETID-a5 stats
  kvclient NETID-a5 stats --json")]
    Stats,
    /// Print changes as they happen; best effort in this version
    #[command(
        after_help = "One line a change, tabs between: put, the revision, the key, the value as JSON; or remove, the revision,
the key. Changes may be missed while the connection is lost (said on stderr) or when output is read too slowly
(not said).

Examples:
  kvclient NETID-a5 watch user/
  kvclient NETID-a5 watch '' --limit 1                     wait for the next change of anything
  kvclient NETID-a5 watch '' --json                        a JSON object a line"
    )]
    Watch {
        /// Only keys that start with this; '' for all
        prefix: OsString,
        /// End after this many changes
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        limit: Option<u64>,
    },
    /// Print how the broker is found: each candidate and what became of it
    #[command(after_help = "Examples:
  kvclient NETID-a5 explain
  kvclient NETID-a5 get greeting --explain                 the same on stderr, beside another verb")]
    Explain,
}

/// How rows are fetched.
#[derive(Clone, Debug, Args)]
pub(crate) struct PageArgs {
    /// Only keys in which this is found (syntax of Rust's regex crate, not anchored)
    #[arg(long, value_name = "REGEX", value_parser = |text: &str| Pattern::new(text).map_err(|failure| failure.message))]
    pub(crate) regex: Option<Pattern>,
    /// Most rows altogether
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) limit: Option<u64>,
    /// Most rows of one page
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) page_size: Option<u64>,
}

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Invocation {
    /// Something with a project.
    Use {
        /// The project or address, checked.
        target: String,
        /// What.
        verb: Verb,
        /// How.
        global: Global,
    },
    /// `kvclient list`.
    List(Global),
    /// Words to print on stdout: help, version.
    Print(String),
}

/// A command line that means nothing: a sentence and a hint.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Misuse {
    pub(crate) sentence: String,
    pub(crate) hint: Option<String>,
}

impl Misuse {
    fn new(sentence: impl Into<String>, hint: impl Into<String>) -> Self {
        Misuse { sentence: sentence.into(), hint: Some(hint.into()) }
    }
}

const TRY_HELP: &str = "kvclient help shows all verbs, with examples";

/// Reads the command line; `words[0]` is the program.
pub(crate) fn parse(words: Vec<OsString>) -> Result<Invocation, Misuse> {
    let mut words: Vec<OsString> = words.into_iter().skip(1).collect();
    let Some(at) = first_word(&words) else {
        return without_project(&words);
    };
    let first = words.remove(at);
    if at > 0 && words.get(at - 1).is_some_and(|word| word == "--") {
        words.remove(at - 1);
    }
    let Some(first) = first.to_str().map(ToOwned::to_owned) else {
        return Err(Misuse::new("the project's name is not UTF-8", TRY_HELP));
    };
    match first.as_str() {
        "help" => help(words),
        "version" => Ok(Invocation::Print(version())),
        "list" => list(words),
        word if RESERVED_WORDS.contains(&word) => {
            Err(Misuse::new(format!("`kvclient {word}` comes with a later version"), TRY_HELP))
        }
        _ => with_project(first, words),
    }
}

fn version() -> String {
    format!("{}\n", kvbroker::version::text_for("kvclient", None))
}

/// The index of the first word that is neither an option nor an option's value.
fn first_word(words: &[OsString]) -> Option<usize> {
    let command = WithProject::command();
    let takes_value = |name: &str| {
        let takes = |arg: &&clap::Arg| arg.get_action().takes_values();
        command.get_arguments().filter(takes).any(|arg| arg.get_long() == Some(name))
    };
    let mut at = 0;
    while let Some(word) = words.get(at) {
        let text = word.to_string_lossy();
        if text == "--" {
            return (at + 1 < words.len()).then_some(at + 1);
        }
        match text.strip_prefix("--") {
            Some(long) => at += if takes_value(long) { 2 } else { 1 },
            None if text.starts_with('-') && text.len() > 1 => at += 1,
            None => return Some(at),
        }
    }
    None
}

fn without_project(words: &[OsString]) -> Result<Invocation, Misuse> {
    let given = |names: [&str; 2]| words.iter().any(|word| names.iter().any(|name| word == OsStr::new(name)));
    if given(["--help", "-h"]) {
        return Ok(Invocation::Print(top_help()));
    }
    if given(["--version", "-V"]) {
        return Ok(Invocation::Print(version()));
    }
    Err(Misuse::new("which project? Its name comes first: kvclient PROJECT VERB …", TRY_HELP))
}

fn command() -> clap::Command {
    WithProject::command().color(clap::ColorChoice::Never)
}

fn top_help() -> String {
    command().name("kvclient").bin_name("kvclient").render_help().to_string()
}

fn help(words: Vec<OsString>) -> Result<Invocation, Misuse> {
    let Some(word) = words.first().and_then(|word| word.to_str()) else {
        return Ok(Invocation::Print(top_help()));
    };
    if word == "list" {
        return list(vec!["--help".into()]);
    }
    if command().find_subcommand(word).is_none() {
        return Err(Misuse::new(format!("there is no verb {word:?}"), TRY_HELP));
    }
    read::<WithProject>(command(), vec![word.into(), "--help".into()]).map(|_| Invocation::Print(String::new())).or_else(printed)
}

fn list(words: Vec<OsString>) -> Result<Invocation, Misuse> {
    match read::<ListWord>(ListWord::command().color(clap::ColorChoice::Never), words) {
        Ok(ListWord { global }) => Ok(Invocation::List(global)),
        Err(error) => printed(error),
    }
}

fn with_project(target: String, words: Vec<OsString>) -> Result<Invocation, Misuse> {
    if words.first().is_some_and(|word| word == "help") {
        return help(words.into_iter().skip(1).collect());
    }
    let asks_for_help = words.iter().any(|word| word == "--help" || word == "-h");
    if !asks_for_help {
        check_target(&target)?;
    }
    match read::<WithProject>(command(), words) {
        Ok(WithProject { global, verb }) => Ok(Invocation::Use { target, verb, global }),
        Err(error) if error.kind() == ErrorKind::InvalidSubcommand && is_verb(&target) => {
            Err(Misuse::new(format!("the project's name comes before the verb: kvclient PROJECT {target} …"), TRY_HELP))
        }
        Err(error) if is_missing_verb(&error) => {
            if is_verb(&target) {
                return Err(Misuse::new(
                    format!("the project's name comes before the verb: kvclient PROJECT {target} …"),
                    TRY_HELP,
                ));
            }
            Err(Misuse::new(format!("what about {target}? A verb comes next: kvclient {target} VERB …"), TRY_HELP))
        }
        Err(error) => printed(error),
    }
}

fn is_missing_verb(error: &clap::Error) -> bool {
    matches!(error.kind(), ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand)
}

fn is_verb(word: &str) -> bool {
    command().find_subcommand(word).is_some()
}

fn check_target(target: &str) -> Result<(), Misuse> {
    let checked: Result<Target, _> = target.parse();
    checked.map(|_| ()).map_err(|error| Misuse::new(error.to_string(), TRY_HELP))
}

fn read<T: FromArgMatches>(command: clap::Command, words: Vec<OsString>) -> Result<T, clap::Error> {
    let program = OsString::from(command.get_bin_name().unwrap_or("kvclient").to_owned());
    let matches = command.try_get_matches_from(std::iter::once(program).chain(words))?;
    T::from_arg_matches(&matches)
}

/// Help asked for is a result; everything else that clap says is a misuse, in its own words.
fn printed(error: clap::Error) -> Result<Invocation, Misuse> {
    let text = error.render().to_string();
    if !error.use_stderr() {
        return Ok(Invocation::Print(text));
    }
    let text = text.strip_prefix("error: ").unwrap_or(&text).trim_end();
    Err(Misuse { sentence: text.to_owned(), hint: None })
}

#[cfg(test)]
#[path = "args_tests.rs"]
mod tests;

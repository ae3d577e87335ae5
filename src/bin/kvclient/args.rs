//! The command line: words in, a checked [`Invocation`] out.
//!
//! - The first word is the project (or its address), the second the verb. A few first words
//!   stand alone and can't name projects.
//! - Options may stand before, between and behind these words.
//! - What is wrong with the command line is said before anything is contacted; exit code 2.

// The comments on fields are what `--help` prints: brackets there mean optional parts, not links.
#![allow(rustdoc::broken_intra_doc_links)]

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser};
use kvbroker::catalog::CatalogList;
use kvbroker::client::{ConnectOptions, NewKeys};
use kvbroker::logging::LogFormat;
use kvbroker::lookup::Target;
use kvbroker::project::RESERVED_WORDS;
use kvbroker_protocol::BrokerId;

use crate::ask;
use crate::verb_args::Verb;

const ABOUT: &str = "Uses the table of a kvbroker, found by name";

const USAGE: &str = "kvclient PROJECT VERB [ARGUMENTS] [OPTIONS]
       kvclient list | id | help [VERB] | version";

const EXAMPLES: &str = r#"PROJECT is the name that the broker was started with, or its address as `kvbroker PROJECT link` prints it.

Examples:
  kvclient NETID-a5 put greeting hello                    store a text
  kvclient NETID-a5 get greeting                          read it
  kvclient NETID-a5 put zebra '{"weight":100}' --json     store a document
  kvclient NETID-a5 query weight 100                      find documents by a field
  kvclient NETID-a5 scan user/                            list keys that start with user/
  kvclient NETID-a5 incr visits                           count something
  kvclient NETID-a5 put leader ann --if-absent            store only what is not there
  kvclient NETID-a5 watch user/                           print changes as they happen
  kvclient NETID-a5 wait result --timeout 5m              wait until a key is there
  tar c src | kvclient NETID-a5 put backup -              store what comes from a pipe
  kvclient NETID-a5 authorize kvpub1… read                let a colleague in, by the key that their `kvclient id` prints
  kvclient list                                           what is there, here and in the catalogs
  kvclient id                                             your public key, for others to let you in
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
    /// The secret key to be on the network [default: `id` in the configuration directory]
    // Not named `key`: that is what the verbs call their arguments.
    #[arg(long = "key", global = true, value_name = "FILE", env = "KVBROKER_KEY", hide_env = true)]
    secret_file: Option<PathBuf>,
    /// Accept the key of somebody else's broker that was never used before, unseen; from then on only that key
    #[arg(long, global = true)]
    accept_new_key: bool,
    /// Also use a broker without encryption: everybody on the way can read and change everything
    #[arg(long, global = true)]
    insecure: bool,
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

    /// The secret key to be, where it is not the configuration directory's.
    pub(crate) fn key_file(&self) -> Option<&Path> {
        self.secret_file.as_deref().filter(|key| !key.as_os_str().is_empty())
    }

    pub(crate) fn connect_options(&self) -> Result<ConnectOptions, String> {
        let new_keys = if self.accept_new_key { NewKeys::Accept } else { ask::on_terminal() };
        let mut options = ConnectOptions::new().timeout(self.timeout()).catalogs(self.catalogs()?).insecure(self.insecure);
        options = options.new_keys(new_keys);
        if let Some(key) = self.key_file() {
            options = options.key_file(key);
        }
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
    bin_name = "kvclient list",
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

/// `kvclient id`.
#[derive(Debug, Parser)]
#[command(
    name = "kvclient id",
    bin_name = "kvclient id",
    about = "Prints your public key: what others let you in by",
    disable_version_flag = true,
    max_term_width = 110,
    after_help = "The key pair is made if you have none. The secret key stays in its file, which only you may read, and is never printed.

Examples:
  kvclient id                         give this to whoever is to let you in
  kvclient id --json                  for programs: {\"key\":…,\"file\":…,\"new\":…}"
)]
struct IdWord {
    #[command(flatten)]
    global: Global,
}

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Invocation {
    /// Something with a project.
    Use {
        /// The project or address, checked.
        target: String,
        /// What.
        verb: Box<Verb>,
        /// How.
        global: Global,
    },
    /// `kvclient list`.
    List(Global),
    /// `kvclient id`.
    Id(Global),
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
        "id" => id(words),
        word if RESERVED_WORDS.contains(&word) => {
            Err(Misuse::new(format!("`kvclient {word}` comes with a later version"), TRY_HELP))
        }
        _ => with_project(first, words),
    }
}

fn version() -> String {
    format!("{}\n", kvbroker::version::text_for("kvclient"))
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
    match word {
        "list" => return list(vec!["--help".into()]),
        "id" => return id(vec!["--help".into()]),
        _ => {}
    }
    let Some(verb) = command().find_subcommand(word).cloned() else {
        return Err(Misuse::new(format!("there is no verb {word:?}"), TRY_HELP));
    };
    let mut words = words;
    // Those of `queue` and `convert` have help of their own.
    words.truncate(if verb.has_subcommands() { 2 } else { 1 });
    words.push("--help".into());
    read::<WithProject>(command(), words).map(|_| Invocation::Print(String::new())).or_else(printed)
}

fn list(words: Vec<OsString>) -> Result<Invocation, Misuse> {
    match read::<ListWord>(ListWord::command().color(clap::ColorChoice::Never), words) {
        Ok(ListWord { global }) => Ok(Invocation::List(global)),
        Err(error) => printed(error),
    }
}

fn id(words: Vec<OsString>) -> Result<Invocation, Misuse> {
    match read::<IdWord>(IdWord::command().color(clap::ColorChoice::Never), words) {
        Ok(IdWord { global }) => Ok(Invocation::Id(global)),
        Err(error) => printed(error),
    }
}

fn with_project(target: String, words: Vec<OsString>) -> Result<Invocation, Misuse> {
    if words.first().is_some_and(|word| word == "help") {
        return help(words.into_iter().skip(1).collect());
    }
    // Behind `--` are words for another program.
    let asks_for_help = words.iter().take_while(|word| *word != "--").any(|word| word == "--help" || word == "-h");
    if !asks_for_help {
        check_target(&target)?;
    }
    match read::<WithProject>(command(), words) {
        Ok(WithProject { global, verb }) => Ok(Invocation::Use { target, verb: Box::new(verb), global }),
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

//! `convert …`, `--as` and `--consumer` on the command line: names, arguments and help. What they do is in `convert` and `convert_run`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use kvbroker_protocol::{ContentType, Wanted};

use crate::verb_parts::Ttl;

pub(crate) const CONVERT_HELP: &str =
    "What is stored stays as it was written. Whoever reads with `--as TYPE` or `--consumer NAME` gets a copy, as the rules say that hold for
the key or the queue (the longest prefix first), else for the subject (the most particular pattern first), then the first name.
Types: msgpack, json, text, csv, bytes.

Examples:
  kvclient NETID-a5 get cars/1 --as csv                      no rule is needed for that
  kvclient NETID-a5 convert declare bill --prefix cars/ --consumer billing --as csv --pick name,price
  kvclient NETID-a5 scan cars/ --consumer billing
  kvclient NETID-a5 convert declare thumbs --queue photos --into thumbnails --time-limit 30s
  kvclient NETID-a5 convert run thumbs -- convert - -resize 64 -";

fn content_type(text: &str) -> Result<ContentType, String> {
    ContentType::from_name(text).ok_or_else(|| ContentType::ALL.map(ContentType::name).join(", "))
}

/// As what values are wanted.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct AsArgs {
    /// Convert values: msgpack, json, text, csv or bytes
    #[arg(id = "as_type", long = "as", value_name = "TYPE", value_parser = content_type)]
    pub(crate) to: Option<ContentType>,
    /// Convert values as a rule says for this consumer
    #[arg(long, value_name = "NAME")]
    pub(crate) consumer: Option<String>,
}

impl AsArgs {
    pub(crate) fn wanted(self) -> Wanted {
        Wanted { to: self.to, consumer: self.consumer }
    }
}

/// What is asked of rules.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum ConvertVerb {
    /// Make a rule, or another one of that name
    #[command(
        after_help = "A rule has one source: --prefix, --queue or --subject; and a target: --as, --consumer, or --into for a program. Places of fields
are paths such as price.net. The order is: pick, drop, rename, default.

Examples:
  kvclient NETID-a5 convert declare bill --prefix cars/ --consumer billing --as csv --pick name,price.net --rename price.net=amount
  kvclient NETID-a5 convert declare plain --prefix people/ --as json --drop password
  kvclient NETID-a5 convert declare eur --queue orders --consumer shop --default currency='\"EUR\"'
  kvclient NETID-a5 convert declare totals --subject 'orders.#' --consumer billing --as csv --pick total
  kvclient NETID-a5 convert declare thumbs --queue photos --into thumbnails --as bytes --time-limit 30s"
    )]
    Declare(Box<RuleArgs>),
    /// List the rules
    #[command(after_help = "Example:
  kvclient NETID-a5 convert list --json                      a JSON object a line, with all fields")]
    List {
        /// Only rules whose names start with this
        #[arg(default_value = "")]
        prefix: OsString,
    },
    /// Print a rule as JSON; exit code 1 if there is no such rule
    #[command(after_help = "Example:
  kvclient NETID-a5 convert show bill")]
    Show {
        /// The rule
        rule: OsString,
    },
    /// Remove a rule
    #[command(after_help = "Example:
  kvclient NETID-a5 convert drop bill")]
    Drop {
        /// The rule
        rule: OsString,
    },
    /// Print what a rule makes of a value; nothing is stored
    #[command(after_help = "The value is JSON with --json, text otherwise. Exit code 2: it can't become that.

Examples:
  kvclient NETID-a5 convert test bill --json '{\"name\":\"Ford\",\"price\":{\"net\":100}}'
  kvclient NETID-a5 convert test bill --json --file car.json")]
    Test {
        /// The rule
        rule: OsString,
        /// The value; `-`: from stdin
        #[arg(required_unless_present = "file", conflicts_with = "file", allow_negative_numbers = true)]
        value: Option<OsString>,
        /// The value is this file's
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Run a program for each item of a rule's queue; what it prints goes into the next queue
    #[command(
        after_help = "The item is on the program's stdin: text and bytes as they are, anything else as JSON. If it succeeds within the rule's time limit, what it
has printed is pushed and the item acknowledged, both or neither. If not, the item comes back with the reason, later each time; after
its queue's --max-deliveries it is dead. Several may run at once; one that is killed loses nothing. Ctrl-C lets the program come to its
end; a second one tells it to end, and its item comes back as if it had not been delivered.

Examples:
  kvclient NETID-a5 convert run thumbs -- convert - -resize 64 -
  kvclient NETID-a5 convert run thumbs --wait 0s -n 100 -- ./thumbnail.sh    at most a hundred, and only what is there"
    )]
    Run {
        /// The rule
        rule: OsString,
        /// Most items
        #[arg(short = 'n', long, value_name = "N")]
        limit: Option<usize>,
        /// How long to wait for the next item before it ends; without it for ever
        #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
        wait: Option<Duration>,
        /// The program and its arguments
        #[arg(last = true, required = true, value_name = "CMD")]
        command: Vec<OsString>,
    },
}

/// A rule.
#[derive(Clone, Debug, Args)]
pub(crate) struct RuleArgs {
    /// Its name
    pub(crate) rule: OsString,
    /// It holds for keys that start with this
    #[arg(long, value_name = "PREFIX", group = "source")]
    pub(crate) prefix: Option<OsString>,
    /// It holds for items of this queue
    #[arg(long, value_name = "QUEUE", group = "source")]
    pub(crate) queue: Option<OsString>,
    /// It holds for copies of messages about these subjects, such as orders.* or orders.#, and for retained values
    #[arg(long, value_name = "PATTERN", group = "source")]
    pub(crate) subject: Option<String>,
    /// What texts and bytes hold: msgpack, json, text, csv or bytes
    #[arg(id = "from_type", long = "from", value_name = "TYPE", value_parser = content_type)]
    pub(crate) from: Option<ContentType>,
    #[command(flatten)]
    pub(crate) target: AsArgs,
    /// Only these fields stay, in this order; commas between
    #[arg(long, value_name = "PATHS", value_delimiter = ',')]
    pub(crate) pick: Vec<String>,
    /// These fields go
    #[arg(long, value_name = "PATHS", value_delimiter = ',')]
    pub(crate) drop: Vec<String>,
    /// A field gets another place
    #[arg(long, value_name = "FROM=TO", value_delimiter = ',')]
    pub(crate) rename: Vec<String>,
    /// A field that is not there gets this value, which is JSON; to be given once for each
    #[arg(long, value_name = "PATH=JSON")]
    pub(crate) default: Vec<String>,
    /// A program makes an item of another, for this queue
    #[arg(long, value_name = "QUEUE")]
    pub(crate) into: Option<OsString>,
    /// How long the program may take for one item; a minute if it is not given
    #[arg(long, value_name = "DURATION", requires = "into")]
    pub(crate) time_limit: Option<Ttl>,
}

//! `queue …` on the command line: names, arguments and help. What they do is in `queue`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use kvbroker_protocol::{ItemId, ItemState, Overflow, Receipt, Until};

use crate::convert_args::AsArgs;
use crate::queue_track::Far;
use crate::verb_parts::Ttl;

pub(crate) const QUEUE_HELP: &str =
    "An item is handed to one consumer at a time, for as long as its lease runs: whoever pulls it says `ack` when it is done, or
`nack` when it is not. Otherwise it comes back when the lease ends. What was delivered too often is dead, and waits for `kick`.

Examples:
  kvclient NETID-a5 queue push jobs 'thumbnail cat.jpg'     prints the item's id
  kvclient NETID-a5 queue pull jobs --wait 30s              prints RECEIPT, a tab, the value
  kvclient NETID-a5 queue ack jobs 12:14                    the receipt that pull has printed
  kvclient NETID-a5 queue stats jobs";

fn state(text: &str) -> Result<ItemState, String> {
    ItemState::from_name(text).ok_or_else(|| "ready, delayed, leased or dead".to_owned())
}

pub(crate) fn far(text: &str) -> Result<Far, String> {
    Far::from_name(text).ok_or_else(|| "submitted, delivered or done".to_owned())
}

fn until(text: &str) -> Result<Until, String> {
    Until::from_name(text).ok_or_else(|| "delivered or done".to_owned())
}

/// How many at once.
fn some(text: &str) -> Result<usize, String> {
    let most = kvbroker_protocol::limits::QUEUE_ITEMS_MAX;
    text.parse().ok().filter(|number| (1..=most).contains(number)).ok_or_else(|| format!("1 to {most}"))
}

fn overflow(text: &str) -> Result<Overflow, String> {
    Overflow::from_name(text).ok_or_else(|| "reject or drop-oldest".to_owned())
}

/// What is asked of a queue.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum QueueVerb {
    /// Append an item and print its id; the queue comes into being with its first one
    #[command(
        after_help = "The value is text as it is written, or what comes from stdin or a file; with --json it is parsed. Exit code 7: the queue is full.

Examples:
  kvclient NETID-a5 queue push jobs 'thumbnail cat.jpg'
  kvclient NETID-a5 queue push jobs --priority 5 --delay 10s urgent
  kvclient NETID-a5 queue push photos --file cat.jpg --type image/jpeg --ttl 1h
  kvclient NETID-a5 queue push jobs 'thumbnail cat.jpg' --wait done --within 10m
                                                            exit code 0 once it is done, 1 if not"
    )]
    Push {
        /// The queue
        queue: OsString,
        /// The value; `-`: from stdin
        #[arg(required_unless_present = "file", conflicts_with = "file", allow_negative_numbers = true)]
        value: Option<OsString>,
        /// Push the bytes of this file
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// Higher ones are handed out first: -128 to 127
        #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
        priority: i8,
        /// Not handed out for so long, such as 10s
        #[arg(long, value_name = "DURATION")]
        delay: Option<Ttl>,
        /// Gone if nobody has taken it so long after the push, such as 1h
        #[arg(long, value_name = "DURATION")]
        ttl: Option<Ttl>,
        /// What the value is, such as text/plain
        #[arg(long = "type", value_name = "TYPE")]
        content_type: Option<String>,
        /// How far to wait: submitted (it is in the log), delivered (a consumer has it) or done
        #[arg(long, value_name = "STEP", default_value = "submitted", value_parser = far)]
        wait: Far,
        /// With --wait delivered or done: how long
        #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, default_value = "30s")]
        within: Duration,
    },
    /// Take items if there are some; exit code 1 if not
    #[command(after_help = "One line an item: RECEIPT, a tab, the value as JSON. Nothing is waited for.

Examples:
  kvclient NETID-a5 queue poll jobs
  kvclient NETID-a5 queue poll jobs -n 10 --lease 5m")]
    Poll {
        #[command(flatten)]
        take: TakeArgs,
    },
    /// Take an item, and wait for one if there is none; exit code 1 if none came
    #[command(
        after_help = "One line an item: RECEIPT, a tab, the value as JSON. An item whose printing was interrupted comes back when its lease ends.
What stands behind --exec is the command and its arguments, to the end of the line. Exit code 1 with --exec: no item came, or the command has
failed for one.

Examples:
  kvclient NETID-a5 queue pull jobs
  kvclient NETID-a5 queue pull jobs --wait 1h --lease 2m
  kvclient NETID-a5 queue pull jobs --json                  a JSON object an item: {\"item\":…,\"token\":…,\"value\":…}
  kvclient NETID-a5 queue pull jobs --wait 1h --exec ./thumbnail.sh
                                                            a job runner: the item on its stdin, one at a time
  kvclient NETID-a5 queue pull jobs -n 5 --wait 1m --exec ./thumbnail.sh --small
                                                            the same for five of them"
    )]
    Pull {
        #[command(flatten)]
        take: TakeArgs,
        /// How long to wait for an item
        #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, default_value = "30s")]
        wait: Duration,
        /// Run this command for each item, until none comes: acknowledged if it succeeds, given back if not
        #[arg(long, value_name = "CMD", num_args = 1.., allow_hyphen_values = true)]
        exec: Vec<OsString>,
        /// With --exec: how long an item rests whose command has failed; twice as long each further time, up to 60s
        #[arg(long, requires = "exec", value_name = "DURATION", value_parser = humantime::parse_duration, default_value = "1s")]
        retry_delay: Duration,
    },
    /// Run a command for each item as it comes, several at a time, until Ctrl-C
    #[command(
        after_help = "The item is on the command's stdin. It is acknowledged if the command ends with 0, and given back if not; its lease is extended meanwhile.
Ctrl-C lets the commands that run come to their end, and gives back what was not begun; a second one tells them to end. Without a broker for
longer than --timeout it ends with exit code 5; --timeout 0: never.

Example:
  kvclient NETID-a5 queue notify jobs --credit 8 -- ./thumbnail.sh"
    )]
    Notify {
        #[command(flatten)]
        take: TakeArgs,
        /// So many at a time
        #[arg(long, value_name = "N", default_value = "1", value_parser = some)]
        credit: usize,
        /// How long an item rests whose command has failed; twice as long each further time, up to 60s
        #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, default_value = "1s")]
        retry_delay: Duration,
        /// The command and its arguments
        #[arg(last = true, required = true, value_name = "CMD")]
        command: Vec<OsString>,
    },
    /// Print how far an item has come: ready, delayed, leased, done, dead, expired, removed or gone
    #[command(
        after_help = "Exit code 0: the item is so far, and well. 1: it is not, or has ended in another way than done. 4: it has ended, and nobody knows how:
the broker remembers the last 65536 ends, and none over a restart.

Examples:
  kvclient NETID-a5 queue track jobs 12
  kvclient NETID-a5 queue track jobs 12 --until delivered --wait 10m"
    )]
    Track {
        /// The queue
        queue: OsString,
        /// What push has printed
        item: ItemId,
        /// delivered or done
        #[arg(long, value_name = "STEP", default_value = "done", value_parser = until)]
        until: Until,
        /// How long to wait for that
        #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, default_value = "0s")]
        wait: Duration,
    },
    /// Say that an item is done
    #[command(after_help = "Exit code 3: the lease has ended, and somebody else may have the item.

Example:
  kvclient NETID-a5 queue ack jobs 12:14")]
    Ack {
        /// The queue
        queue: OsString,
        /// What pull has printed, ITEM:TOKEN
        receipt: Receipt,
    },
    /// Give an item back
    #[command(after_help = "Exit code 3: the lease has ended, and somebody else may have the item.

Examples:
  kvclient NETID-a5 queue nack jobs 12:14
  kvclient NETID-a5 queue nack jobs 12:14 --delay 5s --reason 'no disk'")]
    Nack {
        /// The queue
        queue: OsString,
        /// What pull has printed, ITEM:TOKEN
        receipt: Receipt,
        /// It rests for so long
        #[arg(long, value_name = "DURATION")]
        delay: Option<Ttl>,
        /// Why, for people
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
        /// Nobody has begun it: this was no delivery
        #[arg(long)]
        unused: bool,
    },
    /// Keep an item for longer
    #[command(after_help = "Exit code 3: the lease has ended, and somebody else may have the item.

Example:
  kvclient NETID-a5 queue extend jobs 12:14 --lease 5m      five minutes from now on")]
    Extend {
        /// The queue
        queue: OsString,
        /// What pull has printed, ITEM:TOKEN
        receipt: Receipt,
        /// For so long from now on; without it the period of the pull
        #[arg(long, value_name = "DURATION")]
        lease: Option<Ttl>,
    },
    /// Set an item aside, with the reason
    #[command(
        after_help = "An item that a consumer has is named by the receipt, another one by its id. Exit code 3: a consumer has it, and not by this receipt.

Examples:
  kvclient NETID-a5 queue bury jobs 12:14 --reason 'not a picture'
  kvclient NETID-a5 queue bury jobs 12"
    )]
    Bury {
        /// The queue
        queue: OsString,
        /// The item's id, or the receipt
        item: String,
        /// Why, for people
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
    },
    /// Make dead items ready again and print how many
    #[command(after_help = "Examples:
  kvclient NETID-a5 queue kick jobs                         all of them
  kvclient NETID-a5 queue kick jobs 12                      this one")]
    Kick {
        /// The queue
        queue: OsString,
        /// This item alone
        item: Option<ItemId>,
        /// Most items
        #[arg(short = 'n', long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Show items and leave them where they are
    #[command(
        after_help = "One line an item, tabs between: id, state, how often it was delivered, the value as JSON, and a reason if there is one.

Examples:
  kvclient NETID-a5 queue peek jobs
  kvclient NETID-a5 queue peek jobs --state dead -n 100"
    )]
    Peek {
        /// The queue
        queue: OsString,
        /// ready, delayed, leased or dead
        #[arg(long, value_name = "STATE", default_value = "ready", value_parser = state)]
        state: ItemState,
        /// Most items
        #[arg(short = 'n', long, value_name = "N", default_value_t = 10)]
        limit: usize,
        #[command(flatten)]
        target: AsArgs,
    },
    /// Print a queue's figures and settings; exit code 1 if there is no such queue
    #[command(after_help = "Times are milliseconds. What begins with total_ is counted since the broker started.

Example:
  kvclient NETID-a5 queue stats jobs --json")]
    Stats {
        /// The queue
        queue: OsString,
    },
    /// List the queues
    #[command(after_help = "Example:
  kvclient NETID-a5 queue list team/                        those whose names start with team/")]
    List {
        /// Only queues whose names start with this
        #[arg(default_value = "")]
        prefix: OsString,
    },
    /// Remove the items that nobody has, and print how many
    #[command(after_help = "Example:
  kvclient NETID-a5 queue purge jobs --state dead")]
    Purge {
        /// The queue
        queue: OsString,
        /// Only those: ready, delayed or dead
        #[arg(long, value_name = "STATE", value_parser = state)]
        state: Option<ItemState>,
    },
    /// Hand out nothing until `resume`; exit code 1 if there is no such queue
    #[command(after_help = "Example:
  kvclient NETID-a5 queue pause jobs")]
    Pause {
        /// The queue
        queue: OsString,
    },
    /// Hand out items again; exit code 1 if there is no such queue
    #[command(after_help = "Example:
  kvclient NETID-a5 queue resume jobs")]
    Resume {
        /// The queue
        queue: OsString,
    },
    /// Make a queue, or change its settings; those that are not given stay
    #[command(after_help = "0 takes a number away, an empty name the queue for what is dead.

Example:
  kvclient NETID-a5 queue declare jobs --lease 1m --max-deliveries 5 --dead-queue jobs.dead --max-items 100000")]
    Declare {
        /// The queue
        queue: OsString,
        #[command(flatten)]
        options: DeclareArgs,
    },
    /// Remove a queue and its bindings; exit code 3 if it has items, 1 if there is no such queue
    #[command(after_help = "Example:
  kvclient NETID-a5 queue drop jobs")]
    Drop {
        /// The queue
        queue: OsString,
    },
}

/// What is taken, and for how long.
#[derive(Clone, Debug, Args)]
pub(crate) struct TakeArgs {
    /// The queue
    pub(crate) queue: OsString,
    /// Most items; without it 1, and for a command no end of them
    #[arg(short = 'n', long, value_name = "N", value_parser = some)]
    pub(crate) limit: Option<usize>,
    /// For how long; without it as the queue is declared
    #[arg(long, value_name = "DURATION")]
    pub(crate) lease: Option<Ttl>,
    /// Remove them as they are handed out: they are lost if the answer is, or a command fails
    #[arg(long)]
    pub(crate) no_ack: bool,
    #[command(flatten)]
    pub(crate) target: AsArgs,
}

/// A queue's settings.
#[derive(Clone, Debug, Args)]
pub(crate) struct DeclareArgs {
    /// How long a consumer has an item
    #[arg(long, value_name = "DURATION")]
    pub(crate) lease: Option<Ttl>,
    /// How often an item is delivered before it is dead
    #[arg(long, value_name = "N")]
    pub(crate) max_deliveries: Option<u32>,
    /// How long an item rests when it comes back
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(crate) retry: Option<Duration>,
    /// How long an item may wait
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(crate) ttl: Option<Duration>,
    /// Most items
    #[arg(long, value_name = "N")]
    pub(crate) max_items: Option<u64>,
    /// Most bytes of values
    #[arg(long, value_name = "BYTES")]
    pub(crate) max_bytes: Option<u64>,
    /// What becomes of a push that does not fit: reject or drop-oldest
    #[arg(long, value_name = "WHAT", value_parser = overflow)]
    pub(crate) overflow: Option<Overflow>,
    /// The queue that gets what is dead
    #[arg(long, value_name = "QUEUE")]
    pub(crate) dead_queue: Option<OsString>,
    /// Items live in memory alone, and are gone after a restart of the broker; `--transient=false` takes it back
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) transient: Option<bool>,
}

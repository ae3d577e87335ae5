//! The verbs on the command line: names, arguments and help. What they do is in `verbs`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Subcommand;
use kvbroker::client::RequestId;
use kvbroker_protocol::Predicate;

use crate::convert_args::{self, AsArgs, ConvertVerb};
use crate::queue_args::{self, QueueVerb};
use crate::routing_args::{self, BindArgs, PublishArgs};
use crate::subscribe_args::{self, SubscribeArgs};
use crate::verb_parts::{DelConditions, GrantArgs, PageArgs, PutConditions, Ttl};
use crate::watch_args::{self, MirrorArgs, WaitArgs, WatchArgs};

/// What is asked of the table.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Verb {
    /// Store a value under a key, replacing what was there
    #[command(
        visible_alias = "insert",
        after_help = "The value is text as it is written (bytes where it isn't UTF-8); so is V of --if-value, and with --json both
are JSON. A condition that does not hold stores nothing and ends with exit code 3. Nothing is printed.

Examples:
  kvclient NETID-a5 put greeting hello
  kvclient NETID-a5 put zebra '{\"weight\":100}' --json      parsed: a document; prints {\"status\":\"ok\",\"rev\":…}
  kvclient NETID-a5 put photo --file photo.jpg             the bytes of a file
  date | kvclient NETID-a5 put now -                       what comes from the pipe, line feed included
  kvclient NETID-a5 put leader ann --if-absent             of several who try, one wins
  kvclient NETID-a5 put leader bob --if-rev 7              only over the change that `get --json` showed as modified
  kvclient NETID-a5 put light green --if-value red         only in place of this value
  kvclient NETID-a5 put session/7 ann --ttl 90s            gone after 90 seconds; put again to keep it longer
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
        /// Remove the key after this time, such as 90s or 2h; without it the key stays
        #[arg(long, value_name = "DURATION")]
        ttl: Option<Ttl>,
        #[command(flatten)]
        only: PutConditions,
    },
    /// Print a key's value; exit code 1 if there is no such key
    #[command(
        visible_alias = "lookup",
        after_help = "A text is printed as it is with a line feed, bytes as they are without one, everything else as JSON.

Examples:
  kvclient NETID-a5 get greeting
  kvclient NETID-a5 get photo > photo.jpg
  kvclient NETID-a5 get zebra --json                       {\"status\":\"ok\",\"rev\":…,\"value\":{…},\"modified\":…,\"created\":…}
  kvclient NETID-a5 get zebra --as csv                     converted, see `convert --help`
  kvclient NETID-a5 get lock || echo nobody has it"
    )]
    Get {
        /// The key
        key: OsString,
        #[command(flatten)]
        target: AsArgs,
    },
    /// Print the values of several keys, all of one revision
    #[command(
        after_help = "One line a key that is there, in the order asked: the key, a tab, the value as JSON. The others are named on
stderr, and the exit code is 1 if there is one.

Examples:
  kvclient NETID-a5 mget lion zebra
  kvclient NETID-a5 mget lion zebra --json                 {\"status\":\"ok\",\"rev\":…,\"values\":[[VALUE,MODIFIED,CREATED],null]}"
    )]
    Mget {
        /// The keys
        #[arg(required = true, value_name = "KEY")]
        keys: Vec<OsString>,
        #[command(flatten)]
        target: AsArgs,
    },
    /// Tell what became of a command that ended with exit code 4, by the request id that it printed
    #[command(
        after_help = "What has not arrived is settled by asking: it was not done, and never will be. Exit code 0: it was done (what it
answered is printed below). 1: not done, and it never will be. 4: nothing is known of it any more. Else the exit code that
the command itself would have ended with.

Examples:
  kvclient NETID-a5 result 0000019a…:1
  kvclient NETID-a5 result 0000019a…:1 --look              only look: it may still arrive (exit code 4)
  kvclient NETID-a5 result 0000019a…:1 --json              {\"status\":\"ok\",\"rev\":…,\"state\":\"decided\",\"outcome\":{…}}"
    )]
    Result {
        /// The request id, SESSION:NUMBER
        #[arg(value_name = "ID")]
        id: RequestId,
        /// Don't settle what has not arrived
        #[arg(long)]
        look: bool,
    },
    /// Tell by the exit code whether a key is there: 0 or 1
    #[command(after_help = "Nothing is printed but with --json.

Examples:
  kvclient NETID-a5 exists lock || echo nobody has it
  kvclient NETID-a5 exists lock --json                     {\"status\":\"ok\",\"rev\":…,\"exists\":true}")]
    Exists {
        /// The key
        key: OsString,
    },
    /// Add to an integer and print what is there then; a key that is not there counts as 0
    #[command(
        after_help = "Only integers can be added to: `put n 5` stores the text \"5\", `put n 5 --json` the number. What would leave the
integers from -2^63 to 2^64-1 is refused and changes nothing.

Examples:
  kvclient NETID-a5 incr visits
  kvclient NETID-a5 incr stock -3
  ticket=$(kvclient NETID-a5 incr tickets)                 a number that nobody else gets"
    )]
    Incr {
        /// The key
        key: OsString,
        /// What to add
        #[arg(default_value_t = 1, allow_negative_numbers = true)]
        by: i64,
    },
    /// Do several operations at one revision, or none; exit code 1 if `else` was done
    #[command(
        after_help = "TXN is a JSON object, or `-` for one on stdin: `if` compares keys (if_rev, if_value, if_absent, if_exists), `then` is done
if everything holds, otherwise `else`. Each operation sees those before it. If one fails, nothing is done.
The result is printed as JSON.

Examples:
  kvclient NETID-a5 txn '{\"then\":[{\"op\":\"incr\",\"key\":\"stock\",\"by\":-1},{\"op\":\"incr\",\"key\":\"sold\"}]}'
  kvclient NETID-a5 txn '{\"if\":[{\"key\":\"job\",\"if_value\":\"free\"}],\"then\":[{\"op\":\"put\",\"key\":\"job\",\"value\":\"ann\"}],
                         \"else\":[{\"op\":\"get\",\"key\":\"job\"}]}'
  kvclient NETID-a5 txn - < transfer.json"
    )]
    Txn {
        /// The transaction as JSON, or `-`
        txn: OsString,
    },
    /// Remove a key; exit code 1 if there is no such key. Or all keys with a prefix
    #[command(
        visible_alias = "remove",
        after_help = "V of --if-value is text as it is written, JSON with --json. A condition that does not hold removes nothing and
ends with exit code 3.

With --prefix or --all keys are removed part by part, so that nobody waits for it, and their number is printed.
Ended in the middle, it says how many are gone; the same command goes on with the rest.

Examples:
  kvclient NETID-a5 del greeting
  kvclient NETID-a5 del greeting --return                  print the value that it had
  kvclient NETID-a5 del lock --if-value ann                only ann's own lock
  kvclient NETID-a5 del lock --if-rev 7                    only as it was last changed at revision 7
  kvclient NETID-a5 del --prefix tmp/                      all keys that start with tmp/
  kvclient NETID-a5 del --all                              every key of the table"
    )]
    Del {
        /// The key
        #[arg(required_unless_present_any = ["prefix", "all"], conflicts_with_all = ["prefix", "all"])]
        key: Option<OsString>,
        /// Remove all keys that start with this
        #[arg(long, value_name = "PREFIX", conflicts_with_all = ["all", "return_old", "DelConditions"])]
        prefix: Option<OsString>,
        /// Remove every key
        #[arg(long, conflicts_with_all = ["return_old", "DelConditions"])]
        all: bool,
        /// Print the value that it had, as `get` does
        #[arg(long = "return")]
        return_old: bool,
        #[command(flatten)]
        only: DelConditions,
    },
    /// Let a key expire: it is removed after this time
    #[command(
        after_help = "The key keeps its value; a deadline that it had is replaced. Nothing is printed; exit code 1 if there is no such
key.

Examples:
  kvclient NETID-a5 expire session/7 90s
  kvclient NETID-a5 expire report '2days 12h'              units as in 100ms, 5s, 10m, 2h, 30days"
    )]
    Expire {
        /// The key
        key: OsString,
        /// How long from now
        #[arg(value_name = "DURATION")]
        ttl: Ttl,
    },
    /// Let a key stay: its deadline is taken away
    #[command(after_help = "A key without a deadline stays as it is. Exit code 1 if there is no such key.

Example:
  kvclient NETID-a5 persist session/7")]
    Persist {
        /// The key
        key: OsString,
    },
    /// Print how long a key has: a duration, or `none` if it stays; exit code 1 if there is no such key
    #[command(
        after_help = "0s: it is due and about to be removed. With --json the milliseconds and the deadline, both null if it stays.

Examples:
  kvclient NETID-a5 ttl session/7                          1m 12s 340ms
  kvclient NETID-a5 ttl session/7 --json                   {\"status\":\"ok\",\"rev\":…,\"ttl\":72340,\"expires\":1795257197000}"
    )]
    Ttl {
        /// The key
        key: OsString,
    },
    /// Print the number of keys
    #[command(after_help = "Example:
  kvclient NETID-a5 size")]
    Size,
    /// List keys and values in key order
    #[command(after_help = "One line a key: the key, a tab, the value as JSON. All pages are fetched; each page is of one
revision, all together only with --snapshot. A snapshot that is read too slowly, or while too much is written, is given up by
the broker: the listing then ends in the middle, with a sentence and exit code 7.

Examples:
  kvclient NETID-a5 scan                                   everything
  kvclient NETID-a5 scan user/                             keys that start with user/
  kvclient NETID-a5 scan --regex '[0-9]{3}$' --limit 10    the first ten keys that end in three digits
  kvclient NETID-a5 scan --from 2026-05 --to 2026-06       from this key on, up to before that one
  kvclient NETID-a5 scan log/ --reverse --limit 1          the last key that starts with log/
  kvclient NETID-a5 scan --where 'age >= 18 and has mail'  those of whose value this holds (see `query --help`)
  kvclient NETID-a5 scan --keys-only                       only the keys, one a line
  kvclient NETID-a5 scan --snapshot --json > copy.jsonl    the table as it is at one moment
  kvclient NETID-a5 scan --json                            a JSON object a line: {\"key\":…,\"value\":…,\"modified\":…}")]
    Scan {
        /// Only keys that start with this
        #[arg(default_value = "")]
        prefix: OsString,
        /// The same, as for `query`
        #[arg(long = "prefix", value_name = "PREFIX", conflicts_with = "prefix")]
        prefix_option: Option<OsString>,
        #[command(flatten)]
        pages: PageArgs,
    },
    /// List the documents of which a predicate holds, or in which a field equals a value
    #[command(
        after_help = "A predicate compares fields (a.b, a[0], 'odd name'), the value itself (@value), the key (@key) and its revisions
(@modified, @created) by = != < <= > >=, by beginning (^=) and by regex (~), joined by and, or, not and parentheses;
`has a.b` asks whether a field is there. Texts may stand in either kind of quotes. What is missing or of another type makes
a comparison false, and != is the opposite of =. docs/protocol.md describes it all.

SUBVALUE is JSON where it parses as a JSON atom (100, true, null, \"text\"), otherwise text. Numbers
compare by value (100 equals 100.0) and never equal texts. Output as for `scan`.

Examples:
  kvclient NETID-a5 query --where 'weight > 100 and name ^= Z'
  kvclient NETID-a5 query --where 'food[0].kind = hay or not stripes = true' --keys-only
  kvclient NETID-a5 query --where '@key ^= \"zoo/\" and @value ~ \"^[0-9]+$\"'
  kvclient NETID-a5 query weight 100
  kvclient NETID-a5 query name zebra
  kvclient NETID-a5 query zip '\"00100\"'                    the text, not the number
  kvclient NETID-a5 query weight 100 --prefix zoo/
  kvclient NETID-a5 query weight 100 --keys-only           only their keys"
    )]
    Query {
        /// The name of the field
        #[arg(requires = "subvalue")]
        subkey: Option<String>,
        /// What it must equal
        #[arg(allow_negative_numbers = true)]
        subvalue: Option<String>,
        /// Only keys that start with this
        #[arg(long, value_name = "PREFIX", default_value = "")]
        prefix: OsString,
        #[command(flatten)]
        pages: PageArgs,
    },
    /// List names under a prefix, grouped at `/` like files in directories
    #[command(
        after_help = "One name a line: a key, or, where `/` comes behind the prefix in it, the part of the key up to there, once for all
keys that begin with it. A group is passed over at once, however many keys it has. Names are whole, prefix included.

Examples:
  kvclient NETID-a5 ls                                     the top
  kvclient NETID-a5 ls user/                               what is under user/
  kvclient NETID-a5 ls --delimiter :                       grouped at colons instead
  kvclient NETID-a5 ls --json                              a JSON object a line: {\"name\":…,\"group\":true}"
    )]
    Ls {
        /// Only names that start with this
        #[arg(default_value = "")]
        prefix: OsString,
        /// What ends the name of a group
        #[arg(long, value_name = "TEXT", default_value = "/")]
        delimiter: OsString,
        /// Most names altogether
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        limit: Option<u64>,
    },
    /// Print what a key was before: its versions, newest first; exit code 1 if there are none
    #[command(
        after_help = "One line a version, tabs between: the revision, the time, put and the value as JSON; or remove; or expire, where its
deadline had come. The broker reads them from its log, which can take a while where that is large.

Examples:
  kvclient NETID-a5 history greeting
  kvclient NETID-a5 history greeting --limit 1             the last change, also of a key that is gone
  kvclient NETID-a5 history greeting --json                a JSON object a line: {\"rev\":…,\"time\":…,\"event\":\"put\",\"value\":…}"
    )]
    History {
        /// The key
        key: OsString,
        /// Most versions
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        limit: Option<u64>,
    },
    /// Print what has changed behind a revision, or wait for the next change; exit code 1 if none came
    #[command(
        after_help = "One line a change of a key, tabs between: the revision, the time, put, the key and the value as JSON; or remove and the
key; or expire and the key, where its deadline had come. What a revision changed stands together. Nothing is left out: what the
broker does not know any more ends with exit code 1 and where its memory begins. Only the first change is waited for.
With --with-old `was` and the value before stand at the end of a line: JSON, absent, or unknown where the broker does not know it any
more; with --json as old and old_rev (0: there was no such key; null: unknown), and then the cause and who asked for it: request,
session and seq; expiry; internal. With --where a key whose new value does not fit is told as leave, unless it did not fit before.

Examples:
  kvclient NETID-a5 events --after 41                      all changes behind revision 41
  kvclient NETID-a5 events lamp/ --after 41 --where '@value = on'
                                                           only lamps that are on; leave where one is not any more
  kvclient NETID-a5 events lamp/ --wait 30s                the next change of a key that starts with lamp/
  kvclient NETID-a5 events lamp/ --after 41 --wait 30s     those since, and if there are none the next one
  kvclient NETID-a5 events --after 41 --json               a JSON object a line: {\"rev\":…,\"time\":…,\"event\":\"put\",\"key\":…,\"value\":…},
                                                           and at the end {\"through\":REV}, for the next --after"
    )]
    Events {
        /// Only keys that start with this
        #[arg(default_value = "")]
        prefix: OsString,
        /// Only changes behind this revision; without it those from now on
        #[arg(long, value_name = "REV")]
        after: Option<u64>,
        /// Most revisions
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        limit: Option<u64>,
        /// If there is no change yet, wait for one so long, such as 30s or 2h
        #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
        wait: Option<std::time::Duration>,
        /// Also what each key was before, as far as the broker knows
        #[arg(long)]
        with_old: bool,
        /// Only changes that concern the keys and values of which this holds (see `query --help`)
        #[arg(id = "filter", long = "where", value_name = "PREDICATE", value_parser = |text: &str| Predicate::new(text).map_err(|failure| failure.message))]
        filter: Option<Predicate>,
    },
    /// Let somebody use the table, by the key that `kvclient id` prints for them; or change what they may
    #[command(
        after_help = "ROLE is read, write (read and change) or admin (also authorize, revoke and who). It replaces what the key had before;
without --comment the old comment stays. The broker writes it into its file authorized_clients (`kvbroker PROJECT paths` tells
where), which can be edited as well; at the end of this command it is in force, without a restart.

Examples:
  kvclient NETID-a5 authorize kvpub1… read --comment 'Ada, laptop'
  kvclient NETID-a5 authorize kvpub1… write --prefix ada/ --prefix shared/    only keys that start with one of these
  kvclient NETID-a5 authorize kvpub1… admin"
    )]
    Authorize {
        /// Their public key: kvpub1 and 64 hexadecimal digits
        key: OsString,
        #[command(flatten)]
        grant: GrantArgs,
    },
    /// Let somebody use the table no more; exit code 1 if they could not
    #[command(
        after_help = "When this command has ended, nothing reaches them any more: not by the connections that they have, either.

Example:
  kvclient NETID-a5 revoke kvpub1…"
    )]
    Revoke {
        /// Their public key
        key: OsString,
    },
    /// Print who may use the table: keys, roles, key prefixes, comments
    #[command(after_help = "Examples:
  kvclient NETID-a5 who
  kvclient NETID-a5 who --json                             {\"status\":\"ok\",\"rev\":…,\"users\":[{\"key\":…,\"role\":…}]}")]
    Who,
    /// Work queues: push, pull, acknowledge and look after items
    #[command(after_help = queue_args::QUEUE_HELP)]
    Queue {
        #[command(subcommand)]
        verb: QueueVerb,
    },
    /// Have a queue get a copy of each message about some subjects
    #[command(after_help = routing_args::BIND_HELP)]
    Bind {
        #[command(flatten)]
        bind: BindArgs,
    },
    /// Have it get no more
    #[command(after_help = routing_args::UNBIND_HELP)]
    Unbind {
        /// The queue
        queue: OsString,
        /// The pattern as it was bound
        pattern: OsString,
    },
    /// Print which queues are bound to what
    #[command(after_help = routing_args::BINDINGS_HELP)]
    Bindings {
        /// This queue alone
        queue: Option<OsString>,
    },
    /// Publish a message: a copy for each queue that wants it
    #[command(after_help = routing_args::PUBLISH_HELP)]
    Publish {
        #[command(flatten)]
        publish: PublishArgs,
    },
    /// Conversion: rules, and programs that convert
    #[command(after_help = convert_args::CONVERT_HELP)]
    Convert {
        #[command(subcommand)]
        verb: ConvertVerb,
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
    /// Print every change as it happens, or run a command for each
    #[command(after_help = watch_args::WATCH_HELP)]
    Watch(WatchArgs),
    /// Print every message as it is published about subjects of a pattern
    #[command(after_help = subscribe_args::SUBSCRIBE_HELP)]
    Subscribe(SubscribeArgs),
    /// Keep the keys with a prefix in a file, as JSON
    #[command(after_help = watch_args::MIRROR_HELP)]
    Mirror(MirrorArgs),
    /// Wait until a key is there, has a value, or is gone; exit code 1 if that takes too long
    #[command(after_help = watch_args::WAIT_HELP)]
    Wait(WaitArgs),
    /// Print how the broker is found: each candidate and what became of it
    #[command(after_help = "Examples:
  kvclient NETID-a5 explain
  kvclient NETID-a5 get greeting --explain                 the same on stderr, beside another verb")]
    Explain,
}

//! `bind`, `unbind`, `bindings` and `publish` on the command line: names, arguments and help. What they do is in `routing`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use kvbroker_protocol::Predicate;

use crate::queue_args::far;
use crate::queue_track::Far;
use crate::verb_parts::Ttl;

pub(crate) const BIND_HELP: &str =
    "A subject is words with dots between them. In a pattern `*` is any one word, `#` any number of them, none included. The queue is made if
it is not there. A message is copied once into each queue that is bound to a pattern with its subject, into all of them or none.
Nothing is printed.

Examples:
  kvclient NETID-a5 bind mail 'orders.*'
  kvclient NETID-a5 bind audit 'orders.#' --where 'total > 100'   only messages with such values (see `query --help`)
  kvclient NETID-a5 queue pull mail";

pub(crate) const UNBIND_HELP: &str = "The queue keeps what it has. Exit code 1: it is not bound to this pattern.

Example:
  kvclient NETID-a5 unbind mail 'orders.*'";

pub(crate) const BINDINGS_HELP: &str =
    "One line a binding: the queue, a tab, the pattern; and a tab and the predicate, if it has one.

Examples:
  kvclient NETID-a5 bindings
  kvclient NETID-a5 bindings mail --json                   {\"queue\":…,\"pattern\":…,\"where\":…}";

pub(crate) const PUBLISH_HELP: &str =
    "Prints how many queues have a copy now. The value is text as it is written, or what comes from stdin or a file; with --json it is
parsed. A message that no queue wants is counted, and kept nowhere unless it is retained; with --must-route it is refused
instead, with exit code 1. Exit code 7: a queue that wants it is full, and so no queue has got it.

With --wait delivered or done it waits until each copy is so far, and prints a line for each: the queue, the item and how far it is, with
tabs between. Exit code 0: all are so far. 1: one is not, or has ended otherwise; or no queue wants the message. 4: all that can be followed
are, and there are others: beyond the first hundred, in queues that one may not use, or of which nobody knows any more how they ended.

Examples:
  kvclient NETID-a5 publish orders.new 'number 7'
  kvclient NETID-a5 publish orders.new '{\"total\":120}' --json --must-route
                                                           {\"status\":\"ok\",\"rev\":…,\"routed\":1,\"copies\":[[\"mail\",\"9\"]]}
  kvclient NETID-a5 publish weather.berlin 21 --retain     the last value is kept: get retained/weather.berlin
  kvclient NETID-a5 publish orders.new 'number 7' --wait done --within 10m";

/// Which queue, and what it is bound to.
#[derive(Clone, Debug, Args)]
pub(crate) struct BindArgs {
    /// The queue
    pub(crate) queue: OsString,
    /// The subjects, such as orders.* or orders.#
    pub(crate) pattern: OsString,
    /// Only messages of which this predicate holds (see `query --help`)
    #[arg(id = "filter", long = "where", value_name = "PREDICATE", value_parser = |text: &str| Predicate::new(text).map_err(|failure| failure.message))]
    pub(crate) filter: Option<Predicate>,
}

/// A message.
#[derive(Clone, Debug, Args)]
pub(crate) struct PublishArgs {
    /// What it is about
    pub(crate) subject: OsString,
    /// The value; `-`: from stdin
    #[arg(required_unless_present = "file", conflicts_with = "file", allow_negative_numbers = true)]
    pub(crate) value: Option<OsString>,
    /// Publish the bytes of this file
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// The priority of its copies: -128 to 127
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    pub(crate) priority: i8,
    /// Copies that nobody has taken by then are gone, and so is the retained value, such as 1h
    #[arg(long, value_name = "DURATION")]
    pub(crate) ttl: Option<Ttl>,
    /// What the value is, such as text/plain
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) content_type: Option<String>,
    /// Keep it as the subject's last value, under the key retained/SUBJECT
    #[arg(long)]
    pub(crate) retain: bool,
    /// Refuse it if no queue wants it
    #[arg(long)]
    pub(crate) must_route: bool,
    /// How far to wait: submitted (it is in the log), delivered (a consumer has each copy) or done
    #[arg(long, value_name = "STEP", default_value = "submitted", value_parser = far)]
    pub(crate) wait: Far,
    /// With --wait delivered or done: how long, for all copies together
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, default_value = "30s")]
    pub(crate) within: Duration,
}

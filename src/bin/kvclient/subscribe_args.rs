//! `subscribe` on the command line: names, arguments and help. What it does is in `subscribe`.

use std::ffi::OsString;

use clap::Args;

pub(crate) const SUBSCRIBE_HELP: &str =
    "One line a message, tabs between: the revision, the time, the subject and the value as JSON; with --json an object a line. It is told
live: the broker keeps no message for those who listen. What is published while nobody listens, while the broker is away, or faster
than this is read is gone, and that it may be is said on stderr, with --json as {\"event\":\"gap\",\"after\":…,\"up_to\":…}. Whoever must have
every message binds a queue (see `bind --help`). A user of some prefixes can't subscribe, and binds a queue, too. --timeout is for
finding the broker, not for messages. Ctrl-C ends it (exit code 130).

Examples:
  kvclient NETID-a5 subscribe 'orders.*'                   orders.new, but not orders.new.eu
  kvclient NETID-a5 subscribe 'orders.#' --count 1         the next message, and that is all
  kvclient NETID-a5 subscribe '#' --json                   {\"event\":\"listening\",\"rev\":…}, then {\"rev\":…,\"time\":…,\"subject\":…,\"value\":…}";

/// What to listen to.
#[derive(Clone, Debug, Args)]
pub(crate) struct SubscribeArgs {
    /// The subjects, such as orders.* or orders.#
    pub(crate) pattern: OsString,
    /// End after so many messages
    #[arg(long, value_name = "N", visible_alias = "limit", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
}

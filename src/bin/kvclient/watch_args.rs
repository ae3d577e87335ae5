//! `watch`, `mirror` and `wait` on the command line. What they do is in the rooms of these names.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use kvbroker_protocol::Predicate;

pub(crate) const WATCH_HELP: &str = "One line a change of a key, as `events` prints them: the revision, the time, put, the key and the value as JSON; or remove and
the key; or expire and the key. Every change comes once and in order, over restarts of the broker and losses on the way; what a
revision changed stands together. On stderr it is said when everything so far was told, and at the end where to go on: --from. What
the broker does not know any more can't be told: exit code 1, or with --snapshot the keys as they are. --timeout is for finding
the broker, not for changes; with --once for each sign of life.

With -- CMD, a command is run for each event, one at a time. Its stdin is the key's value as `get` prints it (a text and a line
feed, bytes as they are, anything else as JSON), nothing where there is none; with --json it is the event as a line of JSON. What
happened stands in its environment: KVBROKER_EVENT_KIND (put, remove, expire, leave; with --snapshot also snapshot_begin, row and
snapshot_end), _KEY (not set if it contains a NUL: see --json), _REVISION, _TIME, _EPOCH, _INDEX and _COUNT (the change is the 2nd
of the 3 of its revision), _PLACE (for --from, once this event is dealt with; only with the last change of a revision and with
snapshot_end), _WHY (of snapshot_begin: asked, compacted, other_history or rolled_back) and _PROJECT.
If it fails, the watch stops (exit code 1) and says where to go on, unless --on-failure says otherwise. Whoever goes on hears
of the whole revision again: a command is run at least once for each event. Ctrl-C ends the command, too.

Examples:
  kvclient NETID-a5 watch user/                            changes of keys that start with user/
  kvclient NETID-a5 watch --limit 1                        the next change of anything
  kvclient NETID-a5 watch --from 41                        also what has happened behind revision 41
  kvclient NETID-a5 watch user/ --from 41 --once           only that
  kvclient NETID-a5 watch user/ --snapshot --json          what is there, then the changes, as JSON: first
                                                           {\"event\":\"snapshot_begin\",\"rev\":…,\"why\":…}, {\"rev\":…,\"event\":\"row\",\"key\":…,\"value\":…},
                                                           {\"event\":\"snapshot_end\",\"rev\":…}, {\"event\":\"caught_up\",\"rev\":…,\"epoch\":…}
  kvclient NETID-a5 watch lamp/ --where '@value = \"on\"'    only lamps that are on; `leave` where one is not any more
  kvclient NETID-a5 watch conf/ -- sh -c 'echo \"$KVBROKER_EVENT_KIND $KVBROKER_EVENT_KEY\"; cat > last-value'";

pub(crate) const MIRROR_HELP: &str = "FILE is one JSON object: every key that starts with PREFIX with its value, one key a line, as of one revision. It is replaced
as a whole: written beside its place, synced, renamed, with the mode that it had. Who reads it sees the old one or the new one. (A key
that is not UTF-8 makes it {\"$map\":[[KEY,VALUE],…]}, as docs/protocol.md describes.) It goes on over restarts of the broker. If FILE
can't be written, as on a full disk, that is said and tried again; at the start, and with --once, it ends with exit code 2.
With --json each replacement is told on stdout: {\"event\":\"written\",\"rev\":…,\"keys\":…,\"bytes\":…}.

Examples:
  kvclient NETID-a5 mirror conf/ conf.json                 until Ctrl-C
  kvclient NETID-a5 mirror conf/ conf.json --once          once, as of now
  kvclient NETID-a5 mirror '' all.json --interval 10s      everything, at most every ten seconds";

pub(crate) const WAIT_HELP: &str =
    "V is a text, with --json JSON, as `put` reads them. The value is printed as `get` does. If the key is as wanted already, nothing is waited for; and what is so only for a moment
counts, too. After --timeout (10 s unless told otherwise; 0: for ever) it ends with exit code 1.

Examples:
  kvclient NETID-a5 wait result/7 --timeout 5m             until the key is there
  kvclient NETID-a5 wait state --value ready               until it has this value
  kvclient NETID-a5 wait lock --gone --timeout 0           until there is no such key
  kvclient NETID-a5 wait result/7 --json                   {\"status\":\"ok\",\"rev\":…,\"value\":…,\"modified\":…}";

/// What to watch and what to do with it.
#[derive(Clone, Debug, Args)]
pub(crate) struct WatchArgs {
    /// Only keys that start with this
    #[arg(default_value = "")]
    pub(crate) prefix: OsString,
    /// Only the key PREFIX itself
    // Not `--key`: that is whom the program is.
    #[arg(long)]
    pub(crate) exact: bool,
    /// Go on behind this revision, as the end of a watch has told it
    #[arg(long, value_name = "REV[@EPOCH]")]
    pub(crate) from: Option<Place>,
    /// First what is there; with --from only if it can't be gone on from there
    #[arg(long)]
    pub(crate) snapshot: bool,
    /// Tell with each change what the key was before, as far as the broker knows
    #[arg(long)]
    pub(crate) with_old: bool,
    /// Only keys and values of which this predicate holds, and those that fit no more: leave
    #[arg(id = "filter", long = "where", value_name = "PREDICATE", value_parser = |text: &str| Predicate::new(text).map_err(|failure| failure.message))]
    pub(crate) filter: Option<Predicate>,
    /// End after this many changes, and with the revision of the last one
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) limit: Option<u64>,
    /// End when everything up to now was told
    #[arg(long)]
    pub(crate) once: bool,
    /// What to do when CMD fails: stop, continue (exit code 1 at the end), or retry after a pause until it does not [default: stop]
    #[arg(long, value_name = "stop|continue|retry", requires = "command", hide_possible_values = true)]
    pub(crate) on_failure: Option<OnFailure>,
    /// Run this for each event
    #[arg(last = true, value_name = "CMD")]
    pub(crate) command: Vec<OsString>,
}

/// What to do when a command fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnFailure {
    /// End the watch.
    #[default]
    Stop,
    /// Go on with the next event.
    Continue,
    /// The same event again, after a pause.
    Retry,
}

/// A revision, and the epoch in which it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) revision: u64,
    pub(crate) epoch: Option<u64>,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.revision)?;
        self.epoch.map_or(Ok(()), |epoch| write!(f, "@{epoch:016x}"))
    }
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Place, String> {
        let (revision, epoch) = text.split_once('@').map_or((text, None), |(revision, epoch)| (revision, Some(epoch)));
        let wrong = || format!("{text:?} is not a revision, such as 41 or 41@00c0ffee00c0ffee");
        let is_epoch = |text: &&str| text.len() == 16 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
        let epoch = match epoch {
            None => None,
            Some(text) => {
                Some(Some(text).filter(is_epoch).and_then(|text| u64::from_str_radix(text, 16).ok()).ok_or_else(wrong)?)
            }
        };
        Ok(Place { revision: revision.parse().map_err(|_| wrong())?, epoch })
    }
}

/// What to keep in which file.
#[derive(Clone, Debug, Args)]
pub(crate) struct MirrorArgs {
    /// Keys that start with this; '' for all
    pub(crate) prefix: OsString,
    /// Where to
    pub(crate) file: PathBuf,
    /// Only keys and values of which this predicate holds
    #[arg(id = "filter", long = "where", value_name = "PREDICATE", value_parser = |text: &str| Predicate::new(text).map_err(|failure| failure.message))]
    pub(crate) filter: Option<Predicate>,
    /// Replace the file at most so often
    #[arg(long, value_name = "DURATION", default_value = "200ms", value_parser = humantime::parse_duration)]
    pub(crate) interval: Duration,
    /// End when the file is there, as of now
    #[arg(long)]
    pub(crate) once: bool,
}

/// What to wait for.
#[derive(Clone, Debug, Args)]
pub(crate) struct WaitArgs {
    /// The key
    pub(crate) key: OsString,
    /// Until it has this value
    #[arg(long, value_name = "V", allow_negative_numbers = true, conflicts_with = "gone")]
    pub(crate) value: Option<OsString>,
    /// Until there is no such key
    #[arg(long)]
    pub(crate) gone: bool,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_place_is_a_revision_and_perhaps_an_epoch() {
        let read = |text: &str| text.parse::<Place>();
        assert_eq!(read("41"), Ok(Place { revision: 41, epoch: None }));
        let whole = Place { revision: 41, epoch: Some(0xc0ffee) };
        assert_eq!((whole.to_string().as_str(), read("41@0000000000c0ffee")), ("41@0000000000c0ffee", Ok(whole)));
        for wrong in ["", "-1", "41@", "41@c0ffee", "41@+000000000c0ffee", "@0000000000c0ffee", "x", "41@0000000000c0ffee0"] {
            assert!(read(wrong).unwrap_err().contains("not a revision"), "{wrong}");
        }
    }
}

//! Who follows the table with `events`, for `stats`: the clients that asked last, how far each has come, where its answers came from and
//! what it says to have lost.
//!
//! - Bounded in clients and in what is kept of each; who asked longest ago is forgotten first, and who is gone before all others. Nothing
//!   that is answered depends on it.
//! - A client is one connection. One that follows several prefixes is told of with the last one that it asked for.
//! - Who waits is not behind, however long ago it asked: nothing has changed for it.
//! - Who hears a stream asks nothing while it misses nothing. It says from time to time how far it is instead, and how far it is behind is
//!   what it was *then*; unless it has fallen silent: then it is as far behind as the table has gone on since.
//! - What the log's reader answers is noted by the reader, in the [`Mark`] that goes with the call.
//!
//! Caveat: where a client is and what it has lost is what it says itself; a connection whose end the front end has not noticed is told of
//! as one that has not asked for long.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kvbroker_protocol::{Access, Role, limits};

use crate::call::{Call, ClientId};
use crate::credit::Account;

/// Bytes of a prefix, and characters of a user's name, that are kept.
const PREFIX_BYTES: usize = 32;
const USER_CHARS: usize = 22;
/// Who hears a stream and has said nothing for longer than this does not hear it any more.
const SILENT_US: u64 = 2 * 1_000 * limits::FOLLOWER_WORD_MS;

/// What a call for changes came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FollowerNews {
    /// It was told changes from memory, and has them all up to here.
    Memory { through: u64 },
    /// The log's reader answers it, from behind this revision.
    Log { after: u64 },
    /// There was nothing to tell up to here; `waits` for it.
    Nothing { through: u64, waits: bool },
    /// It hears a stream, and has everything up to here.
    Hears { through: u64 },
    /// What it asks for is not known any more.
    Compacted { after: u64 },
}

/// How far a client has come; shared with whoever answers it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mark(Arc<AtomicU64>);

impl Mark {
    /// It has seen all up to here.
    pub(crate) fn set(&self, through: u64) {
        self.0.store(through, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What it does since it asked last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    Nothing,
    Waits,
    /// It hears a stream, and was so many revisions behind when it said so.
    Hears {
        behind: u64,
    },
}

#[derive(Debug)]
struct Follower {
    client: ClientId,
    account: Account,
    user: Arc<str>,
    prefix: Box<[u8]>,
    is_cut: bool,
    /// It has seen all up to here, as far as is known.
    through: Mark,
    doing: Doing,
    /// Holes that it has found in its streams.
    drops: u64,
    from_memory: u64,
    from_log: u64,
    compacted: u64,
    /// When, by the boot clock, microseconds; and the number of the asking, for who asked last.
    asked_us: u64,
    asked: u64,
}

/// The latest clients that asked for changes; of one worker.
#[derive(Debug, Default)]
pub struct Followers {
    list: Vec<Follower>,
    asked: u64,
    /// Of all clients since the start.
    drops: u64,
    from_memory: u64,
    compacted: u64,
}

impl Followers {
    /// Notes what a call came to, with what its client has lost, while the table is at this revision. Whoever answers it later says in the
    /// mark how far that goes.
    pub(crate) fn note(&mut self, call: &Call, prefix: &[u8], lost: u64, news: FollowerNews, revision: u64, now_us: u64) -> Mark {
        let at = self.list.iter().position(|follower| follower.client == call.client).unwrap_or_else(|| self.make_room(call));
        self.asked += 1;
        self.drops = self.drops.saturating_add(lost);
        let follower = &mut self.list[at];
        follower.drops = follower.drops.saturating_add(lost);
        follower.asked_us = now_us;
        follower.asked = self.asked;
        if *follower.prefix != *prefix || follower.is_cut {
            let kept = prefix.get(..PREFIX_BYTES).unwrap_or(prefix);
            follower.prefix = kept.into();
            follower.is_cut = kept.len() < prefix.len();
        }
        let (through, doing) = match news {
            FollowerNews::Memory { through } | FollowerNews::Nothing { through, waits: false } => (through, Doing::Nothing),
            FollowerNews::Log { after } | FollowerNews::Compacted { after } => (after, Doing::Nothing),
            FollowerNews::Nothing { through, waits: true } => (through, Doing::Waits),
            FollowerNews::Hears { through } => (through, Doing::Hears { behind: revision.saturating_sub(through) }),
        };
        // A mark that an earlier call still has is not this one's any more.
        (follower.through, follower.doing) = (Mark::default(), doing);
        follower.through.set(through);
        match news {
            FollowerNews::Memory { .. } => {
                follower.from_memory += 1;
                self.from_memory += 1;
            }
            FollowerNews::Log { .. } => follower.from_log += 1,
            FollowerNews::Compacted { .. } => {
                follower.compacted += 1;
                self.compacted += 1;
            }
            FollowerNews::Nothing { .. } | FollowerNews::Hears { .. } => {}
        }
        follower.through.clone()
    }

    /// The place of a new one; that of one who is gone, or else of the one who asked longest ago, if there is no other.
    fn make_room(&mut self, call: &Call) -> usize {
        let follower = Follower {
            client: call.client,
            account: call.account.clone(),
            user: Arc::clone(&call.user),
            prefix: Box::default(),
            is_cut: false,
            through: Mark::default(),
            doing: Doing::Nothing,
            drops: 0,
            from_memory: 0,
            from_log: 0,
            compacted: 0,
            asked_us: 0,
            asked: 0,
        };
        if self.list.len() < limits::FOLLOWERS_MAX {
            self.list.push(follower);
            return self.list.len() - 1;
        }
        let rank = |follower: &Follower| (!follower.account.is_gone(), follower.asked);
        let last = self.list.iter().enumerate().min_by_key(|(_, follower)| rank(follower)).map_or(0, |(at, _)| at);
        self.list[last] = follower;
        last
    }

    /// Answers from memory that had something to tell, to all clients since the start.
    pub(crate) fn answers_from_memory(&self) -> u64 {
        self.from_memory
    }

    /// Calls that the worker told that what they ask for is not known any more.
    pub(crate) fn compacted(&self) -> u64 {
        self.compacted
    }

    /// Holes that clients have found in their streams.
    pub(crate) fn drops(&self) -> u64 {
        self.drops
    }

    /// Those that a user may know of, a line for each: all for an admin, otherwise its own. Who asked last comes first; only so many as
    /// there is room for. Of those who are gone nobody is told.
    pub(crate) fn describe(&self, user: &str, access: &Access, revision: u64, now_us: u64) -> String {
        let may_see = |follower: &&Follower| access.role == Role::Admin || *follower.user == *user;
        let mut shown: Vec<&Follower> = self.list.iter().filter(may_see).filter(|follower| !follower.account.is_gone()).collect();
        shown.sort_by_key(|follower| std::cmp::Reverse(follower.asked));
        let mut lines = String::new();
        for follower in shown {
            let begin = lines.len();
            let between = if begin > 0 { "\n" } else { "" };
            // Writing to a text does not fail.
            let _ = write!(lines, "{between}{}", follower.words(revision, now_us));
            if lines.len() > limits::FOLLOWERS_TEXT_BYTES_MAX {
                lines.truncate(begin);
                break;
            }
        }
        lines
    }
}

impl Follower {
    fn words(&self, revision: u64, now_us: u64) -> String {
        let Follower { prefix, drops, from_memory, from_log, compacted, .. } = self;
        let user: String = self.user.chars().take(USER_CHARS).collect();
        let cut = if self.is_cut { "…" } else { "" };
        let prefix = String::from_utf8_lossy(prefix);
        let (through, silent_us) = (self.through.get(), now_us.saturating_sub(self.asked_us));
        let seconds = silent_us / 1_000_000;
        let so_far = revision.saturating_sub(through);
        let (behind, state) = match self.doing {
            Doing::Waits => (0, "waits".to_owned()),
            Doing::Hears { behind } if silent_us <= SILENT_US => (behind, format!("hears_s={seconds}")),
            Doing::Hears { .. } => (so_far, format!("hears_s={seconds}")),
            Doing::Nothing => (so_far, format!("asked_s={seconds}")),
        };
        format!(
            "user={user} prefix={prefix:?}{cut} through={through} behind={behind} drops={drops} from_memory={from_memory} from_log={from_log} compacted={compacted} {state}"
        )
    }
}

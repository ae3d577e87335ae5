//! Who follows the table with `events`, for `stats`: the clients that asked last, how far each has come and where its answers came from.
//!
//! - Bounded in clients and in what is kept of each; who asked longest ago is forgotten first. Nothing that is answered depends on it.
//! - A client is one connection. One that follows several prefixes is told of with the last one that it asked for.
//! - Who waits is not behind, however long ago it asked: nothing has changed for it.
//!
//! Caveat: nobody tells of a connection that has ended. It stays until others have taken its place; how long ago it asked says so.

use std::fmt::Write;
use std::sync::Arc;

use kvbroker_protocol::{Access, Role, limits};

use crate::call::{Call, ClientId};

/// Bytes of a prefix, and characters of a user's name, that are kept.
const PREFIX_BYTES: usize = 32;
const USER_CHARS: usize = 22;

/// What a call for changes came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FollowerNews {
    /// It was told changes from memory, and has them all up to here.
    Memory { through: u64 },
    /// The log's reader answers it, from behind this revision.
    Log { after: u64 },
    /// There was nothing to tell up to here; `waits` for it.
    Nothing { through: u64, waits: bool },
    /// What it asks for is not known any more.
    Compacted { after: u64 },
}

#[derive(Debug)]
struct Follower {
    client: ClientId,
    user: Arc<str>,
    prefix: Box<[u8]>,
    is_cut: bool,
    /// It has seen all up to here, as far as is known.
    through: u64,
    waits: bool,
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
    from_memory: u64,
    compacted: u64,
}

impl Followers {
    /// Notes what a call came to.
    pub(crate) fn note(&mut self, call: &Call, prefix: &[u8], news: FollowerNews, now_us: u64) {
        let at = self.list.iter().position(|follower| follower.client == call.client).unwrap_or_else(|| self.make_room(call));
        self.asked += 1;
        let follower = &mut self.list[at];
        follower.asked_us = now_us;
        follower.asked = self.asked;
        follower.waits = matches!(news, FollowerNews::Nothing { waits: true, .. });
        if *follower.prefix != *prefix || follower.is_cut {
            let kept = prefix.get(..PREFIX_BYTES).unwrap_or(prefix);
            follower.prefix = kept.into();
            follower.is_cut = kept.len() < prefix.len();
        }
        follower.through = match news {
            FollowerNews::Memory { through } | FollowerNews::Nothing { through, .. } => through,
            FollowerNews::Log { after } | FollowerNews::Compacted { after } => after,
        };
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
            FollowerNews::Nothing { .. } => {}
        }
    }

    /// The place of a new one; that of the one who asked longest ago if there is no other.
    fn make_room(&mut self, call: &Call) -> usize {
        let follower = Follower {
            client: call.client,
            user: Arc::clone(&call.user),
            prefix: Box::default(),
            is_cut: false,
            through: 0,
            waits: false,
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
        let oldest = self.list.iter().enumerate().min_by_key(|(_, follower)| follower.asked).map_or(0, |(at, _)| at);
        self.list[oldest] = follower;
        oldest
    }

    /// Answers from memory that had something to tell, to all clients since the start.
    pub(crate) fn answers_from_memory(&self) -> u64 {
        self.from_memory
    }

    /// Calls that the worker told that what they ask for is not known any more.
    pub(crate) fn compacted(&self) -> u64 {
        self.compacted
    }

    /// Those that a user may know of, a line for each: all for an admin, otherwise its own. Who asked last comes first; only so many as
    /// there is room for.
    pub(crate) fn describe(&self, user: &str, access: &Access, revision: u64, now_us: u64) -> String {
        let may_see = |follower: &&Follower| access.role == Role::Admin || *follower.user == *user;
        let mut shown: Vec<&Follower> = self.list.iter().filter(may_see).collect();
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
        let Follower { prefix, through, from_memory, from_log, compacted, .. } = self;
        let user: String = self.user.chars().take(USER_CHARS).collect();
        let cut = if self.is_cut { "…" } else { "" };
        let prefix = String::from_utf8_lossy(prefix);
        let behind = if self.waits { 0 } else { revision.saturating_sub(*through) };
        let state =
            if self.waits { "waits".to_owned() } else { format!("asked_s={}", now_us.saturating_sub(self.asked_us) / 1_000_000) };
        format!(
            "user={user} prefix={prefix:?}{cut} through={through} behind={behind} from_memory={from_memory} from_log={from_log} compacted={compacted} {state}"
        )
    }
}

//! Snapshots: scans and queries whose pages are all as of one revision, while writes go on.
//!
//! - A snapshot is the revision at which it was opened. Of what the table replaces or removes later, and the snapshot still needs, a
//!   copy is kept here: the entry itself goes to the [`History`](crate::History). While no snapshot is open, writes pay nothing.
//! - An old entry is kept once, however many snapshots need it: with the newest that does. That one holds for each key that was
//!   changed since the entry as it was at its revision. When it is closed, entries that an older snapshot needs as well are passed
//!   on to that one; the others are dropped. Both happen a slice at a time ([`Snapshots::tend`]), so that no turn is long.
//! - So the entry of a key at revision R, if it is not the table's, stands with exactly one snapshot of revision R or later. A key
//!   that came into being behind R has none: there the snapshot sees nothing.
//! - Old entries are bounded in bytes. Over the bound the oldest snapshot is given up, never the writer: nothing is waited for,
//!   and dropping what is then free costs a write no more than what it adds.
//! - Whoever opened a snapshot reads it, and nobody else. What each user may have open is bounded, and a part is left for the owner.
//! - This is soft state, beside [`State`] and no part of it: it is not logged, and a restart forgets it. Whoever asks for a
//!   snapshot that is gone is told so, and why.
//!
//! Caveat: several clients of a user may share a revision. When as many last pages were read as snapshots opened there, it is only
//! kept for [`SnapshotBounds::linger_ms`] after its last page; a client whose last page was asked for twice can bring that about
//! early for another one of its user that reads very slowly.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::iter::Peekable;

use kvbroker_protocol::{Answer, ErrorCode, Failure, Operation, Scope, limits};

use crate::conversions::convert_page;
use crate::decide::{Decision, Stamp, Turn};
use crate::overlay::Seen;
use crate::scan::{Entries, pages};
use crate::state::State;
use crate::table::{Entry, EntryRef, KeyRange};

/// What snapshots may hold, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotBounds {
    /// Most that are open.
    pub open_max: usize,
    /// Most that one user has open; and so many of all are left for the owner, whom this does not bound.
    pub per_user_max: usize,
    /// Most bytes of old entries, all snapshots together.
    pub bytes_max: usize,
    /// One that nobody reads is given up after this time, milliseconds of the stamp.
    pub idle_ms: u64,
    /// One that was read to its end is kept this long, for a last page that is asked for again; milliseconds of the stamp.
    pub linger_ms: u64,
}

impl Default for SnapshotBounds {
    fn default() -> SnapshotBounds {
        SnapshotBounds {
            open_max: limits::SNAPSHOTS_MAX,
            per_user_max: limits::SNAPSHOTS_PER_USER_MAX,
            bytes_max: limits::SNAPSHOT_BYTES_MAX,
            idle_ms: limits::SNAPSHOT_IDLE_MS,
            linger_ms: limits::SNAPSHOT_LINGER_MS,
        }
    }
}

/// All snapshots of one table.
#[derive(Debug, Default)]
pub struct Snapshots {
    bounds: SnapshotBounds,
    /// The open ones, and closed ones whose entries have not all been dropped or passed on.
    by_revision: BTreeMap<u64, Snapshot>,
    /// Revision of the newest that is open.
    newest: Option<u64>,
    open: usize,
    bytes: usize,
    /// The last ones that were closed, the latest at the end.
    gone: VecDeque<(u64, Gone)>,
}

/// Who reads a snapshot.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    /// The authenticated user.
    pub user: &'a str,
    /// True for the broker's owner.
    pub is_owner: bool,
    /// Which keys it may read.
    pub scope: &'a Scope,
}

#[derive(Debug)]
struct Snapshot {
    is_open: bool,
    /// Stamp of the last page that was asked of it.
    used_ms: u64,
    /// Whoever opened it; nobody once it is closed.
    users: Vec<User>,
    /// Entries at this revision of keys that were changed since, as far as no newer snapshot needs them.
    kept: EntryMap,
    bytes: usize,
}

/// One of those who opened a snapshot.
#[derive(Debug)]
struct User {
    name: Box<str>,
    /// How often it was opened, and how often its last page was read.
    opened: u32,
    ended: u32,
}

/// Why a snapshot is not open any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gone {
    Idle,
    Bytes,
    Ended,
}

/// Entries by key.
type EntryMap = BTreeMap<Box<[u8]>, Entry>;

/// Bytes that an entry takes beside its key and record, as far as they are the same for all.
const ENTRY_BYTES: usize = 96;
/// How many entries are dropped or passed on in one go.
const SLICE: usize = 4_096;
/// How many closed snapshots are remembered with their reason.
const GONE_MAX: usize = 256;

fn bytes_of(key: &[u8], entry: &Entry) -> usize {
    key.len() + entry.record.len() + ENTRY_BYTES
}

impl Snapshots {
    /// None yet, with other bounds than the usual ones.
    pub fn with_bounds(bounds: SnapshotBounds) -> Snapshots {
        Snapshots { bounds, ..Snapshots::default() }
    }

    /// Number of open snapshots.
    pub fn open(&self) -> usize {
        self.open
    }

    /// Bytes of old entries, those of closed snapshots included until they are dropped.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// True if none is open and nothing waits to be dropped.
    pub fn is_empty(&self) -> bool {
        self.by_revision.is_empty()
    }

    /// True while entries of closed snapshots wait to be dropped: [`Snapshots::tend`] should be called again soon.
    pub fn is_clearing(&self) -> bool {
        self.by_revision.len() > self.open
    }

    /// An entry of the table was replaced or removed: keeps a copy of it if a snapshot needs it.
    pub(crate) fn keep_replaced(&mut self, key: &[u8], old: EntryRef<'_>) {
        if let Some(newest) = self.newest.filter(|newest| old.modified <= *newest) {
            self.keep(newest, key.into(), Entry { modified: old.modified, record: old.record.into() });
        }
    }

    /// Decides a scan or query that names a snapshot; 0 opens one at the present revision, unless its page is all there is. Fails
    /// with `snapshot_gone` and the reason, with `busy` where no further one can be opened, and as a scan does.
    pub fn read(&mut self, state: &State, reader: Reader<'_>, operation: &Operation, stamp: Stamp, turn: &mut Turn) -> Decision {
        Decision::read(state, self.page(state, reader, operation, stamp.time_ms, turn))
    }

    fn page(
        &mut self,
        state: &State,
        reader: Reader<'_>,
        operation: &Operation,
        time_ms: u64,
        turn: &mut Turn,
    ) -> Result<Answer, Failure> {
        let internal = || Failure::new(ErrorCode::Internal, "this operation reads no snapshot");
        let asked = operation.snapshot().ok_or_else(internal)?;
        let revision = if asked == 0 { state.revision() } else { self.touch(asked, reader.user, time_ms)? };
        let (page, wanted) = match operation {
            Operation::Converted(converted) => (&converted.operation, Some(&converted.wanted)),
            page => (page, None),
        };
        let mut answer = pages(&self.as_of(state, reader.scope, revision), page, turn)?;
        if let Some(wanted) = wanted {
            answer = convert_page(&state.rules, wanted, answer, turn)?;
        }
        let (Answer::Rows { cursor, snapshot, .. } | Answer::Keys { cursor, snapshot, .. }) = &mut answer else {
            return Err(internal());
        };
        *snapshot = Some(revision);
        match (asked, cursor.is_some()) {
            (0, true) => self.open_at(revision, reader, time_ms)?,
            // All on one page: there is nothing to come back for.
            (0, false) | (_, true) => {}
            (_, false) => {
                if let Some(user) = self.by_revision.get_mut(&revision).and_then(|snapshot| snapshot.user(reader.user)) {
                    user.ended = user.ended.saturating_add(1);
                }
            }
        }
        Ok(answer)
    }

    /// Gives up what nobody has read for too long, and drops a slice of what nobody needs. To be called with every batch, and once
    /// in a while without one.
    pub fn tend(&mut self, time_ms: u64) {
        if self.by_revision.is_empty() {
            return;
        }
        let SnapshotBounds { idle_ms, linger_ms, .. } = self.bounds;
        let over: Vec<(u64, Gone)> = self
            .by_revision
            .iter()
            .filter(|(_, snapshot)| snapshot.is_open)
            .filter_map(|(at, snapshot)| {
                let (patience_ms, why) = if snapshot.has_ended() { (linger_ms, Gone::Ended) } else { (idle_ms, Gone::Idle) };
                (snapshot.used_ms.saturating_add(patience_ms) < time_ms).then_some((*at, why))
            })
            .collect();
        for (revision, why) in over {
            self.close(revision, why);
        }
        for _ in 0..SLICE {
            if !self.drop_one() && !self.pass_on_one() {
                break;
            }
        }
    }

    fn as_of<'a>(&'a self, state: &'a State, scope: &'a Scope, revision: u64) -> AsOf<'a> {
        AsOf { state, scope, revision, kept: self.by_revision.range(revision..).map(|(_, snapshot)| &snapshot.kept).collect() }
    }

    /// Another user's is none: who may not read it must not keep it alive or have it closed either.
    fn touch(&mut self, revision: u64, user: &str, time_ms: u64) -> Result<u64, Failure> {
        match self.by_revision.get_mut(&revision) {
            Some(snapshot) if snapshot.is_open_to(user) => {
                snapshot.used_ms = time_ms;
                Ok(revision)
            }
            _ => Err(self.gone(revision)),
        }
    }

    fn gone(&self, revision: u64) -> Failure {
        let why = self.gone.iter().rev().find(|(gone, _)| *gone == revision).map(|(_, why)| *why);
        let message = match why {
            Some(why) => {
                format!("the snapshot at revision {revision} is gone: {}; begin again with `snapshot` 0", why.told(&self.bounds))
            }
            None => format!(
                "there is no snapshot at revision {revision}: the broker was started again since, or it was given up long ago; \
                 begin again with `snapshot` 0"
            ),
        };
        Failure::new(ErrorCode::SnapshotGone, message)
    }

    fn open_at(&mut self, revision: u64, reader: Reader<'_>, time_ms: u64) -> Result<(), Failure> {
        let is_its_own = self.by_revision.get(&revision).is_some_and(|snapshot| snapshot.is_open_to(reader.user));
        if !is_its_own && !reader.is_owner {
            self.make_place_of(reader.user)?;
        }
        if !self.by_revision.contains_key(&revision) {
            let kept_free = if reader.is_owner { 0 } else { self.bounds.per_user_max };
            self.make_place(self.bounds.open_max.saturating_sub(kept_free))?;
            self.open += 1;
            self.newest = Some(revision);
        }
        // A closed one of this revision can't be there: nothing was changed since, so it held nothing and was removed.
        let new = Snapshot { is_open: true, used_ms: time_ms, users: Vec::new(), kept: EntryMap::new(), bytes: 0 };
        let snapshot = self.by_revision.entry(revision).or_insert(new);
        snapshot.used_ms = time_ms;
        match snapshot.user(reader.user) {
            Some(user) => user.opened = user.opened.saturating_add(1),
            None => snapshot.users.push(User { name: reader.user.into(), opened: 1, ended: 0 }),
        }
        Ok(())
    }

    /// Sees to it that the user may have one more; of those that it has read to their end the one that was not read for longest goes.
    fn make_place_of(&mut self, name: &str) -> Result<(), Failure> {
        let own = self.by_revision.iter().filter_map(|(revision, snapshot)| {
            let user = snapshot.users.iter().find(|user| *user.name == *name)?;
            Some((snapshot.used_ms, *revision, user.has_ended()))
        });
        let own: Vec<_> = own.collect();
        if own.len() < self.bounds.per_user_max {
            return Ok(());
        }
        let Some((_, revision, _)) = own.iter().filter(|(_, _, has_ended)| *has_ended).min().copied() else {
            let message =
                format!("this client's user has {} snapshots open, and no more are kept for it; read them first", own.len());
            return Err(Failure::busy(message, limits::RETRY_AFTER_MS));
        };
        if let Some(snapshot) = self.by_revision.get_mut(&revision) {
            snapshot.users.retain(|user| *user.name != *name);
            if snapshot.users.is_empty() {
                self.close(revision, Gone::Ended);
            }
        }
        Ok(())
    }

    /// Sees to it that one more may be open; of those that were read to their end the one that was not read for longest goes.
    fn make_place(&mut self, open_max: usize) -> Result<(), Failure> {
        if self.open < open_max {
            return Ok(());
        }
        let ended = self.by_revision.iter().filter(|(_, snapshot)| snapshot.is_open && snapshot.has_ended());
        match ended.min_by_key(|(_, snapshot)| snapshot.used_ms).map(|(revision, _)| *revision) {
            Some(revision) => {
                self.close(revision, Gone::Ended);
                Ok(())
            }
            None => {
                let message = format!("{} snapshots are open, and more are not kept; try again when one was read", self.open);
                Err(Failure::busy(message, limits::RETRY_AFTER_MS))
            }
        }
    }

    fn keep(&mut self, revision: u64, key: Box<[u8]>, entry: Entry) {
        let bytes = bytes_of(&key, &entry);
        let Some(snapshot) = self.by_revision.get_mut(&revision) else { return };
        snapshot.bytes += bytes;
        self.bytes += bytes;
        snapshot.kept.insert(key, entry);
        // What a closed one held is free only when it is dropped: as much of that as came in.
        while self.bytes > self.bounds.bytes_max && (self.drop_one() || self.give_up_oldest()) {}
    }

    fn give_up_oldest(&mut self) -> bool {
        let oldest = self.by_revision.iter().find(|(_, snapshot)| snapshot.is_open).map(|(revision, _)| *revision);
        if let Some(revision) = oldest {
            self.close(revision, Gone::Bytes);
        }
        oldest.is_some()
    }

    fn close(&mut self, revision: u64, why: Gone) {
        let Some(snapshot) = self.by_revision.get_mut(&revision).filter(|snapshot| snapshot.is_open) else { return };
        snapshot.is_open = false;
        snapshot.users = Vec::new();
        self.open -= 1;
        if snapshot.kept.is_empty() {
            self.by_revision.remove(&revision);
        }
        self.newest = self.by_revision.iter().rev().find(|(_, snapshot)| snapshot.is_open).map(|(revision, _)| *revision);
        if self.gone.len() == GONE_MAX {
            self.gone.pop_front();
        }
        self.gone.push_back((revision, why));
    }

    /// Drops one entry that nobody needs: of a closed snapshot that has no open one before it. False if there is none.
    fn drop_one(&mut self) -> bool {
        match self.by_revision.first_key_value() {
            Some((revision, snapshot)) if !snapshot.is_open => {
                let revision = *revision;
                self.take_one(revision);
                true
            }
            _ => false,
        }
    }

    /// Hands one entry of a closed snapshot to the newest open one before it, or drops it if that one does not need it. False if
    /// there is none. Only after [`Snapshots::drop_one`] has found nothing.
    fn pass_on_one(&mut self) -> bool {
        let Some((&from, _)) = self.by_revision.iter().find(|(_, snapshot)| !snapshot.is_open) else { return false };
        let Some((key, entry)) = self.take_one(from) else { return true };
        let older = self.by_revision.range_mut(..from).rev().find(|(_, snapshot)| snapshot.is_open);
        if let Some((revision, snapshot)) = older
            && entry.modified <= *revision
        {
            let bytes = bytes_of(&key, &entry);
            snapshot.bytes += bytes;
            self.bytes += bytes;
            snapshot.kept.insert(key, entry);
        }
        true
    }

    /// Takes the first entry out of a closed snapshot, and the snapshot away with its last one.
    fn take_one(&mut self, revision: u64) -> Option<(Box<[u8]>, Entry)> {
        let snapshot = self.by_revision.get_mut(&revision)?;
        let taken = snapshot.kept.pop_first();
        if let Some((key, entry)) = &taken {
            snapshot.bytes -= bytes_of(key, entry);
            self.bytes -= bytes_of(key, entry);
        }
        if snapshot.kept.is_empty() {
            self.by_revision.remove(&revision);
        }
        taken
    }
}

impl Snapshot {
    fn is_open_to(&self, name: &str) -> bool {
        self.users.iter().any(|user| *user.name == *name)
    }

    /// The user, if it has this one open.
    fn user(&mut self, name: &str) -> Option<&mut User> {
        self.users.iter_mut().find(|user| *user.name == *name)
    }

    /// True if everybody who opened it has read the last page.
    fn has_ended(&self) -> bool {
        self.users.iter().all(User::has_ended)
    }
}

impl User {
    fn has_ended(&self) -> bool {
        self.ended >= self.opened
    }
}

impl Gone {
    fn told(self, bounds: &SnapshotBounds) -> impl fmt::Display {
        match self {
            Gone::Idle => format!("nobody read it for {} s", bounds.idle_ms / 1_000),
            Gone::Bytes => format!(
                "what was changed under the open snapshots passed {} bytes, and the oldest goes first; read faster, or less",
                bounds.bytes_max
            ),
            Gone::Ended => "it was read to its end".to_owned(),
        }
    }
}

/// The table as of a revision: what it still has of it, and what was kept.
struct AsOf<'a> {
    state: &'a State,
    /// Of the table this is all there is.
    scope: &'a Scope,
    revision: u64,
    /// With snapshots of this revision or later.
    kept: Vec<&'a EntryMap>,
}

type EntriesInOrder<'s> = Box<dyn Iterator<Item = (&'s [u8], EntryRef<'s>)> + 's>;

impl Entries for AsOf<'_> {
    fn scope(&self) -> &Scope {
        self.scope
    }

    fn maps(&self) -> usize {
        1 + self.kept.len()
    }

    fn range<'s>(&'s self, range: &KeyRange, reverse: bool) -> Box<dyn Iterator<Item = (&'s [u8], Option<Seen<'s>>)> + 's> {
        range.within(self.scope, reverse, move |range| self.part(range, reverse))
    }
}

impl AsOf<'_> {
    fn part<'s>(&'s self, range: &KeyRange, reverse: bool) -> Box<dyn Iterator<Item = (&'s [u8], Option<Seen<'s>>)> + 's> {
        fn in_order<'s>(
            entries: impl DoubleEndedIterator<Item = (&'s [u8], EntryRef<'s>)> + 's,
            reverse: bool,
        ) -> EntriesInOrder<'s> {
            if reverse { Box::new(entries.rev()) } else { Box::new(entries) }
        }
        let kept = self.kept.iter().map(|kept| in_order(range.of_map(kept).map(|(key, entry)| (key, entry.as_ref())), reverse));
        let sources = std::iter::once(in_order(self.state.table.range(range), reverse)).chain(kept).map(Iterator::peekable);
        let sources = sources.filter_map(|mut entries| entries.peek().is_some().then_some(entries)).collect();
        Box::new(Merged { sources, revision: self.revision, reverse })
    }
}

/// Several sorted sequences of entries as one. Each key comes once, with the entry that was there at the revision.
struct Merged<'s> {
    sources: Vec<Peekable<EntriesInOrder<'s>>>,
    revision: u64,
    reverse: bool,
}

impl<'s> Iterator for Merged<'s> {
    type Item = (&'s [u8], Option<Seen<'s>>);

    fn next(&mut self) -> Option<Self::Item> {
        let keys = self.sources.iter_mut().filter_map(|source| source.peek().map(|(key, _)| *key));
        let key = if self.reverse { keys.max() } else { keys.min() }?;
        let mut seen = None;
        for source in &mut self.sources {
            if let Some((_, entry)) = source.next_if(|(at, _)| *at == key)
                && entry.modified <= self.revision
            {
                debug_assert!(seen.is_none(), "a key has one entry at a revision");
                seen = Seen::of(entry.record, entry.modified);
            }
        }
        Some((key, seen))
    }
}

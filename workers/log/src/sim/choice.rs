//! Which pending operations a power failure keeps.
//!
//! - Single choices are enumerated: all, none, a prefix, one kept, one lost, one torn, one file (or all names) kept or lost, a file's
//!   length with and without its bytes. Other combinations come from a seed.
//! - Nothing is ordered on its way to the disk but by syncs: a name may be there before the bytes of its file and the other way
//!   round, which is more than most file systems do.

use super::Pending;
use crate::entropy::SeededEntropy;

const SECTOR: usize = 512;
/// How many bytes of a write, from each end, are torn one by one.
const EVERY_BYTE: usize = 1024;

/// What a power failure keeps of the pending operations, numbered in the order in which they were issued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CrashChoice {
    /// Nothing.
    DropAll,
    /// Everything.
    KeepAll,
    /// The first so many.
    KeepFirst(usize),
    /// Only this one.
    KeepOnly(usize),
    /// All but this one.
    LoseOnly(usize),
    /// All before this one, and this one torn.
    Torn(usize, Tear),
    /// Only this one, torn.
    OnlyTorn(usize, Tear),
    /// Only the operations on the file of this one; or all changes of names, if it is one.
    FileOf(usize),
    /// All but the operations on the file of this one; or all but the changes of names.
    AllButFileOf(usize),
    /// Everything, but of the file of this one only the length: what was written is zeros.
    LengthOf(usize),
    /// Everything, but the file of this one has not grown: its bytes are there as far as its old length reaches.
    OldLengthOf(usize),
    /// Each kept, lost or torn as the seed says.
    Random(u64),
}

/// How one write, one change of length or one rename is torn. Positions are bytes from the start of the write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tear {
    /// Only the bytes before this position.
    Prefix(usize),
    /// Only the bytes from this position on.
    Suffix(usize),
    /// All but the bytes between.
    Hole(usize, usize),
    /// The new length of the file, not the bytes.
    LengthOnly,
    /// A rename of which the file has both names.
    BothNames,
}

/// How finely writes are torn by [`SimStorage::crash_choices`](super::SimStorage::crash_choices).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TearDetail {
    /// At every sector boundary.
    Sectors,
    /// At every sector boundary; the last write also at every so-many-th byte of its first and last 1,024.
    LastWriteEvery(usize),
}

impl CrashChoice {
    /// What is kept of operation `index` of all that are `pending`; `None` if nothing is.
    pub(super) fn kept(&self, index: usize, pending: &[Pending]) -> Option<Vec<Pending>> {
        let operation = pending.get(index)?;
        let whole = || Some(vec![operation.clone()]);
        let is_with = |other: usize| pending.get(other).is_some_and(|other| other.inode() == operation.inode());
        match *self {
            Self::DropAll => None,
            Self::KeepAll => whole(),
            Self::KeepFirst(count) => (index < count).then(whole)?,
            Self::KeepOnly(only) => (index == only).then(whole)?,
            Self::LoseOnly(lost) => (index != lost).then(whole)?,
            Self::Torn(torn, _) if index < torn => whole(),
            Self::Torn(torn, tear) | Self::OnlyTorn(torn, tear) => (index == torn).then(|| tear.apply(operation)),
            Self::FileOf(other) => is_with(other).then(whole)?,
            Self::AllButFileOf(other) => (!is_with(other)).then(whole)?,
            Self::LengthOf(other) if is_with(other) => Some(operation.length().into_iter().collect()),
            Self::OldLengthOf(other) if is_with(other) => Some(operation.inside().into_iter().collect()),
            Self::LengthOf(_) | Self::OldLengthOf(_) => whole(),
            Self::Random(seed) => {
                let mut dice = SeededEntropy::new(seed ^ (index as u64).wrapping_mul(0xd6e8_feb8_6659_fd93));
                match dice.next_u64() % 4 {
                    0 => None,
                    1 => Some(Tear::random(&mut dice, operation).apply(operation)),
                    _ => whole(),
                }
            }
        }
    }
}

impl Tear {
    fn apply(self, operation: &Pending) -> Vec<Pending> {
        match operation {
            Pending::Write { inode, offset, bytes, extends } => {
                let part = |start: usize, end: usize| {
                    let (start, end) = (start.min(bytes.len()), end.min(bytes.len()));
                    Pending::Write { inode: *inode, offset: offset + start, bytes: bytes[start..end].to_vec(), extends: *extends }
                };
                match self {
                    Self::Prefix(end) => vec![part(0, end)],
                    Self::Suffix(start) => vec![part(start, bytes.len())],
                    Self::Hole(start, end) => vec![part(0, start), part(end, bytes.len())],
                    Self::LengthOnly if *extends => {
                        vec![Pending::Length { inode: *inode, from: 0, to: offset + bytes.len() }]
                    }
                    Self::LengthOnly | Self::BothNames => vec![],
                }
            }
            Pending::Length { inode, from, to } => match self {
                // A length is torn only while it grows: some of the new room is there.
                Self::Prefix(bytes) if from < to => {
                    vec![Pending::Length { inode: *inode, from: *from, to: (from + bytes).min(*to) }]
                }
                _ => vec![],
            },
            // Where the two halves of a rename are not atomic, the new name comes first: no file system loses the file.
            Pending::Rename { to, inode, .. } if self == Self::BothNames => {
                vec![Pending::Link { name: to.clone(), inode: *inode }]
            }
            // What is left by a choice of another file's length.
            Pending::Inside { .. } => vec![operation.clone()],
            Pending::Link { .. } | Pending::Rename { .. } | Pending::Unlink { .. } => vec![],
        }
    }

    fn random(dice: &mut SeededEntropy, operation: &Pending) -> Self {
        let length = match operation {
            Pending::Write { bytes, .. } | Pending::Inside { bytes, .. } => bytes.len(),
            Pending::Length { from, to, .. } => to.saturating_sub(*from),
            Pending::Rename { .. } => return Self::BothNames,
            Pending::Link { .. } | Pending::Unlink { .. } => 0,
        };
        let mut position = || usize::try_from(dice.next_u64() % (length as u64 + 1)).unwrap_or(0);
        let (one, other) = (position(), position());
        match dice.next_u64() % 4 {
            0 => Self::Prefix(one),
            1 => Self::Suffix(one),
            2 => Self::Hole(one.min(other), one.max(other)),
            _ => Self::LengthOnly,
        }
    }
}

pub(super) fn enumerate(pending: &[Pending], detail: TearDetail) -> Vec<CrashChoice> {
    let mut choices = vec![CrashChoice::DropAll];
    if pending.is_empty() {
        return choices;
    }
    choices.push(CrashChoice::KeepAll);
    choices.extend((1..pending.len()).map(CrashChoice::KeepFirst));
    if pending.len() > 1 {
        choices.extend((0..pending.len()).map(CrashChoice::KeepOnly));
        choices.extend((0..pending.len()).map(CrashChoice::LoseOnly));
    }
    choices.extend(by_file(pending));
    let last_write = pending.iter().rposition(|operation| matches!(operation, Pending::Write { .. }));
    for (index, operation) in pending.iter().enumerate() {
        let step = match detail {
            TearDetail::LastWriteEvery(step) if last_write == Some(index) => Some(step),
            TearDetail::LastWriteEvery(_) | TearDetail::Sectors => None,
        };
        choices.extend(tears(operation, step).into_iter().map(|tear| CrashChoice::Torn(index, tear)));
        if index > 0 {
            choices.extend(tears(operation, None).into_iter().map(|tear| CrashChoice::OnlyTorn(index, tear)));
        }
    }
    choices
}

/// Choices about all that is pending of one file, or of all names, each named by its first operation.
fn by_file(pending: &[Pending]) -> Vec<CrashChoice> {
    let mut choices = Vec::new();
    let first_of = |index: usize| (0..index).all(|before| pending[before].inode() != pending[index].inode());
    let firsts: Vec<usize> = (0..pending.len()).filter(|&index| first_of(index)).collect();
    for &first in &firsts {
        let of_file: Vec<&Pending> = pending.iter().filter(|other| other.inode() == pending[first].inode()).collect();
        // A file with one operation is covered by keeping or losing that one.
        if firsts.len() > 1 && of_file.len() > 1 {
            choices.extend([CrashChoice::FileOf(first), CrashChoice::AllButFileOf(first)]);
        }
        if of_file.iter().any(|operation| operation.grows()) {
            choices.extend([CrashChoice::LengthOf(first), CrashChoice::OldLengthOf(first)]);
        }
    }
    choices
}

fn tears(operation: &Pending, step: Option<usize>) -> Vec<Tear> {
    let mut tears = Vec::new();
    match operation {
        Pending::Write { offset, bytes, extends, .. } => {
            let boundaries: Vec<usize> = (1..bytes.len()).filter(|at| (offset + at).is_multiple_of(SECTOR)).collect();
            let positions: Vec<usize> = match step {
                None => boundaries.clone(),
                Some(step) => (1..bytes.len())
                    .filter(|at| *at <= EVERY_BYTE || bytes.len() - at <= EVERY_BYTE)
                    .filter(|at| at.is_multiple_of(step) || boundaries.contains(at))
                    .collect(),
            };
            for &at in &positions {
                tears.push(Tear::Prefix(at));
                tears.push(Tear::Suffix(at));
            }
            for pair in boundaries.windows(2) {
                tears.push(Tear::Hole(pair[0], pair[1]));
            }
            if *extends {
                tears.push(Tear::LengthOnly);
            }
        }
        Pending::Length { from, to, .. } if from < to => {
            tears
                .extend((from + 1..*to).filter(|length| length.is_multiple_of(SECTOR)).map(|length| Tear::Prefix(length - from)));
        }
        Pending::Rename { .. } => tears.push(Tear::BothNames),
        Pending::Length { .. } | Pending::Inside { .. } | Pending::Link { .. } | Pending::Unlink { .. } => {}
    }
    tears
}

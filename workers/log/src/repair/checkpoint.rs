//! What is left of a damaged checkpoint.

use std::sync::Arc;

use super::Damage;
use crate::checkpoint::{CHECKPOINT_FILE, CheckpointReader, CheckpointWriter, Covers};
use crate::error::LogError;
use crate::replay::CheckpointRecord;
use crate::storage::Storage;

/// Gaps that are told one by one; more are only counted.
const GAPS_TOLD: usize = 64;
/// The new checkpoint is synced each so many bytes.
const SYNC_BYTES: u64 = 4 << 20;

/// Blocks in a row that can't be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Where the first of them starts, bytes from the start of the file.
    pub offset: u64,
    /// How many bytes can't be read.
    pub bytes: u64,
    /// Key of the last record before; `None`: there is none.
    pub after: Option<Vec<u8>>,
    /// Key of the first record behind; `None`: there is none.
    pub before: Option<Vec<u8>>,
}

/// A checkpoint as far as it can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remains {
    /// Records that can be read.
    pub records: u64,
    /// How many gaps there are.
    pub gaps: u64,
    /// The first of them.
    pub told: Vec<Gap>,
}

/// What a checkpoint turned out to be.
pub(super) enum Found {
    Absent,
    Whole(Covers),
    /// With what is left of it, if its header or its end block can be read.
    Damaged(Damage, Option<Left>),
}

/// What is left of a damaged checkpoint.
pub(super) struct Left {
    /// What it holds.
    pub covers: Covers,
    pub remains: Remains,
    /// Nothing but the header is damaged: all blocks and totals are what was written.
    pub is_only_header: bool,
}

/// What a checkpoint can be read by.
enum Opened {
    Absent,
    /// Its header, or if that is damaged its end block, which says the same.
    Readable(Option<Damage>, Box<CheckpointReader>),
    Unreadable(Damage),
}

fn open(storage: &dyn Storage) -> Result<Opened, LogError> {
    let damage = match CheckpointReader::open_if_there(storage, CHECKPOINT_FILE) {
        Ok(None) => return Ok(Opened::Absent),
        Ok(Some(reader)) => return Ok(Opened::Readable(None, Box::new(reader))),
        Err(LogError::Damaged { offset, what, .. }) => damage(offset, what),
        Err(error) => return Err(error),
    };
    Ok(match CheckpointReader::open_without_header(storage, CHECKPOINT_FILE)? {
        Some(reader) => Opened::Readable(Some(damage), Box::new(reader)),
        None => Opened::Unreadable(damage),
    })
}

/// The checkpoint that a plan was made for, by whatever it can be read.
fn open_again(storage: &dyn Storage) -> Result<Box<CheckpointReader>, LogError> {
    let damaged = |offset, what| LogError::Damaged { file: storage.path(CHECKPOINT_FILE), offset, what };
    match open(storage)? {
        Opened::Readable(_, reader) => Ok(reader),
        Opened::Unreadable(Damage { offset, what, .. }) => Err(damaged(offset, what)),
        Opened::Absent => Err(damaged(0, "it was there a moment ago".to_owned())),
    }
}

/// Reads the whole checkpoint.
pub(super) fn find(storage: &dyn Storage) -> Result<Found, LogError> {
    let (at_header, mut reader) = match open(storage)? {
        Opened::Absent => return Ok(Found::Absent),
        Opened::Unreadable(damage) => return Ok(Found::Damaged(damage, None)),
        Opened::Readable(at_header, reader) => (at_header, reader),
    };
    let covers = *reader.covers();
    let mut in_blocks = None;
    let remains = read(storage, &mut reader, &mut in_blocks, &mut |_, _, _| Ok(()))?;
    let is_only_header = in_blocks.is_none();
    Ok(match at_header.or(in_blocks) {
        None => Found::Whole(covers),
        Some(damage) => Found::Damaged(damage, Some(Left { covers, remains, is_only_header })),
    })
}

/// Makes the checkpoint anew under a header that says what its end block says. Every record is read strictly once more: nothing is
/// put in the place of the damaged file that isn't all of it.
pub(super) fn rebuild(storage: &Arc<dyn Storage>, salt: u64) -> Result<(), LogError> {
    let mut reader = open_again(&**storage)?;
    let covers = *reader.covers();
    let mut writer = CheckpointWriter::create(Arc::clone(storage), salt, SYNC_BYTES)?;
    while let Some(block) = reader.next_block()? {
        for record in block.records() {
            writer.put(record)?;
        }
    }
    writer.finish(covers).run().map(|_| ())
}

/// What becomes of the records of a checkpoint of which some are lost. The log doesn't know what they mean; who does, says it here.
pub trait SalvageRules {
    /// True for a record that is right also where others are missing.
    fn keeps(&self, record_key: &[u8]) -> bool;

    /// What the new checkpoint holds besides, given the highest stamp of the log, milliseconds.
    fn additions(&self, last_stamp_ms: u64) -> Additions;
}

/// What a salvaged checkpoint holds beside the records that are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Additions {
    /// Record keys and values, in ascending order; one takes the place of a kept record of the same key.
    pub records: Vec<(Vec<u8>, Vec<u8>)>,
    /// The log's time goes on at this stamp or later, milliseconds.
    pub stamp_ms: u64,
}

/// Makes a checkpoint of the records that can be read and may be kept, and puts it in the place of the damaged one.
pub(super) fn salvage(
    storage: &Arc<dyn Storage>,
    salt: u64,
    last_stamp_ms: u64,
    rules: &dyn SalvageRules,
) -> Result<(), LogError> {
    let mut reader = open_again(&**storage)?;
    let mut covers = *reader.covers();
    let mut writer = CheckpointWriter::create(Arc::clone(storage), salt, SYNC_BYTES)?;
    let Additions { records, stamp_ms } = rules.additions(last_stamp_ms);
    let mut added = records.iter().peekable();
    let mut put = |key: &[u8], value: &[u8], revision| writer.put(CheckpointRecord { key, value, revision });
    read(&**storage, &mut reader, &mut None, &mut |key, value, revision| {
        while let Some((key, value)) = added.next_if(|(added, _)| added.as_slice() < key) {
            put(key, value, covers.revision)?;
        }
        let is_replaced = added.peek().is_some_and(|(added, _)| added == key);
        if is_replaced || !rules.keeps(key) { Ok(()) } else { put(key, value, revision) }
    })?;
    for (key, value) in added {
        put(key, value, covers.revision)?;
    }
    covers.stamp_ms = covers.stamp_ms.max(stamp_ms);
    writer.finish(covers).run().map(|_| ())
}

fn damage(offset: u64, what: String) -> Damage {
    Damage { name: CHECKPOINT_FILE.to_owned(), offset, what }
}

type Take<'t> = dyn FnMut(&[u8], &[u8], u64) -> Result<(), LogError> + 't;

fn read(
    storage: &dyn Storage,
    reader: &mut CheckpointReader,
    first: &mut Option<Damage>,
    take: &mut Take<'_>,
) -> Result<Remains, LogError> {
    let mut remains = Remains { records: 0, gaps: 0, told: Vec::new() };
    let mut last_key: Option<Vec<u8>> = None;
    let mut open: Option<Gap> = None;
    loop {
        match reader.next_block() {
            Ok(Some(block)) => {
                for record in block.records() {
                    if let Some(gap) = open.take() {
                        remains.close(Gap { before: Some(record.key.to_vec()), ..gap });
                    }
                    take(record.key, record.value, record.revision)?;
                    remains.records += 1;
                    last_key = Some(record.key.to_vec());
                }
            }
            Ok(None) => break,
            Err(LogError::Damaged { offset, what, .. }) => {
                first.get_or_insert_with(|| damage(offset, what));
                let skipped = reader.skip_damage()?;
                let gap = open.get_or_insert_with(|| Gap { offset, bytes: 0, after: last_key.clone(), before: None });
                let Some(skipped) = skipped else {
                    let failed = |source| LogError::io("read", storage.path(CHECKPOINT_FILE), source);
                    let length = storage.open(CHECKPOINT_FILE).and_then(|file| file.length()).map_err(failed)?;
                    gap.bytes += length.saturating_sub(offset);
                    break;
                };
                gap.bytes += skipped;
            }
            Err(error) => return Err(error),
        }
    }
    if let Some(gap) = open.take() {
        remains.close(gap);
    }
    Ok(remains)
}

impl Remains {
    fn close(&mut self, gap: Gap) {
        self.gaps += 1;
        if self.told.len() < GAPS_TOLD {
            self.told.push(gap);
        }
    }
}

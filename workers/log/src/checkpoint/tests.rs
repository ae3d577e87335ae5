//! Checkpoints written, read, damaged and interrupted.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;

use uuid::Uuid;

use super::format::{
    BLOCK_CRC_AT, BLOCK_HEADER_BYTES, BLOCK_PAYLOAD_BYTES_AT, BLOCK_PAYLOAD_CRC_AT, BLOCK_PREVIOUS_CRC_AT,
    CHECKPOINT_HEADER_BYTES, CHECKPOINT_NEXT_SEGMENT_AT, CHECKPOINT_NEXT_SEQUENCE_AT, CHECKPOINT_PREVIOUS_CRC_AT,
    CHECKPOINT_REVISION_AT, CHECKPOINT_STAMP_AT, CHECKPOINT_UUID_AT, CHECKPOINT_VERSION_AT, END_NEXT_SEGMENT_AT,
    END_NEXT_SEQUENCE_AT, END_PAYLOAD_BYTES, END_PREVIOUS_CRC_AT, END_REVISION_AT, END_STAMP_AT, END_UUID_AT,
};
use super::*;
use crate::disk::DiskStorage;
use crate::entropy::SeededEntropy;
use crate::format::{put_at, u32_at};
use crate::sim::{Fault, SimStorage, TearDetail};

type Records = BTreeMap<Vec<u8>, (Vec<u8>, u64)>;

fn covers(revision: u64) -> Covers {
    Covers {
        uuid: Uuid::from_bytes([1; 16]),
        next_segment: 3,
        next_sequence: 20,
        revision,
        stamp_ms: 1000,
        previous_crc: 0x7766_5544,
    }
}

fn begin(storage: &Arc<dyn Storage>, records: &Records) -> Result<CheckpointWriter, LogError> {
    let mut writer = CheckpointWriter::create(storage.clone(), 42, 1024)?;
    for (key, (value, revision)) in records {
        writer.put(CheckpointRecord { key, value, revision: *revision })?;
    }
    Ok(writer)
}

fn write(storage: &Arc<dyn Storage>, records: &Records, revision: u64) -> Result<CheckpointSummary, LogError> {
    begin(storage, records)?.finish(covers(revision)).run()
}

/// All records, and the whole in figures.
fn read(storage: &dyn Storage) -> Result<(Records, CheckpointSummary), LogError> {
    let mut reader = CheckpointReader::open(storage, CHECKPOINT_FILE)?;
    let mut records = Records::new();
    while let Some(block) = reader.next_block()? {
        assert_eq!(block.records().count(), block.records as usize);
        for record in block.records() {
            records.insert(record.key.to_vec(), (record.value.to_vec(), record.revision));
        }
    }
    assert!(reader.next_block().unwrap().is_none(), "the end stays the end");
    Ok((records, reader.summary().unwrap()))
}

fn some_records(seed: u64, count: u64, largest: u64) -> Records {
    let mut dice = SeededEntropy::new(seed);
    (0..count)
        .map(|_| {
            let key = format!("t{:x}", dice.next_u64() >> (dice.next_u64() % 60)).into_bytes();
            let length = (dice.next_u64() % largest.max(1)) >> (dice.next_u64() % 12);
            (key, (vec![dice.next_u64() as u8; length as usize], dice.next_u64() % 1000))
        })
        .collect()
}

#[test]
fn what_was_written_is_read_back_whatever_the_sizes() {
    let directory = tempfile::tempdir().unwrap();
    let disks: [Arc<dyn Storage>; 2] = [Arc::new(SimStorage::new()), Arc::new(DiskStorage::open(directory.path()).unwrap())];
    for storage in &disks {
        for (seed, count, largest) in [(1, 0, 0), (2, 1, 10), (3, 1, 300_000), (4, 5000, 100), (5, 300, 500_000)] {
            let records = some_records(seed, count, largest);
            let written = write(storage, &records, seed).unwrap();
            let (found, summary) = read(&**storage).unwrap();
            assert_eq!(found, records);
            assert_eq!(summary, written);
            assert_eq!(summary.records, records.len() as u64);
            assert_eq!(summary.header.covers, covers(seed));
            assert!(!storage.list().unwrap().contains(&CHECKPOINT_TEMPORARY.to_owned()));
        }
    }
    // The empty key and an empty value too.
    let records = Records::from([(vec![], (vec![], 0)), (vec![0], (vec![], u64::MAX))]);
    write(&disks[0], &records, 1).unwrap();
    assert_eq!(read(&*disks[0]).unwrap().0, records);
}

#[test]
fn a_block_holds_about_64_kib_and_a_larger_record_stands_alone() {
    let storage: Arc<dyn Storage> = Arc::new(SimStorage::new());
    let mut records: Records = (0..3000).map(|number| (format!("k{number:05}").into_bytes(), (vec![1; 80], number))).collect();
    records.insert(b"k01000x".to_vec(), (vec![2; 70_000], 5));
    write(&storage, &records, 1).unwrap();
    let mut reader = CheckpointReader::open(&*storage, CHECKPOINT_FILE).unwrap();
    let mut sizes = Vec::new();
    while let Some(block) = reader.next_block().unwrap() {
        sizes.push((block.records, block.payload().len()));
    }
    assert_eq!(sizes.len(), 7);
    assert_eq!(sizes[2], (1, 70_000 + 16 + 7));
    assert!(sizes.iter().filter(|(records, _)| *records > 1).all(|(_, bytes)| *bytes <= 65_536));
}

#[test]
fn records_out_of_order_are_refused() {
    let storage: Arc<dyn Storage> = Arc::new(SimStorage::new());
    let record = |key| CheckpointRecord { key, value: b"", revision: 1 };
    for second in [&b"a"[..], b"b", b""] {
        let mut writer = CheckpointWriter::create(storage.clone(), 1, 1024).unwrap();
        writer.put(record(b"b")).unwrap();
        let error = writer.put(record(second)).unwrap_err();
        assert!(matches!(error, LogError::BadRecord(_)), "{error}");
    }
}

#[test]
fn every_byte_of_a_checkpoint_is_vouched_for() {
    let small = some_records(7, 12, 60);
    damage_everywhere(&small, |_| true);
    // Three blocks, so that the chain between them counts as well; the inside of the large value is like its neighbours.
    let mut large = small;
    large.insert(b"u".to_vec(), (vec![9; 66_000], 3));
    large.insert(b"v".to_vec(), (vec![8; 70], 4));
    damage_everywhere(&large, |at| !(5500..70_500).contains(&at) && at > 4090 || at % 4999 == 0);
    damage_everywhere(&Records::new(), |at| at > 4000);
}

/// Damages a checkpoint with these records in every way at each of the places.
fn damage_everywhere(records: &Records, is_place: impl Fn(usize) -> bool) {
    let disk = SimStorage::new();
    let storage: Arc<dyn Storage> = Arc::new(disk.clone());
    write(&storage, records, 9).unwrap();
    let good = disk.contents(CHECKPOINT_FILE).unwrap();
    let mut counts: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    let mut check = |damage: &'static str, at: usize, bytes: Vec<u8>| {
        if bytes == good {
            return;
        }
        disk.overwrite(CHECKPOINT_FILE, Some(bytes));
        let verdict = match read(&*storage) {
            Err(LogError::Damaged { file, offset, .. }) => {
                assert_eq!(file, storage.path(CHECKPOINT_FILE));
                assert!(offset <= at as u64 || damage == "bytes appended", "{damage} at {at}: blamed on {offset}");
                "refused"
            }
            Err(error) => panic!("{damage} at {at}: {error}"),
            Ok(_) => "silent",
        };
        *counts.entry((damage, verdict)).or_default() += 1;
    };
    for at in (0..good.len()).filter(|&at| is_place(at)) {
        for mask in [0x01u8, 0x80, 0xff] {
            let mut bytes = good.clone();
            bytes[at] ^= mask;
            check("flipped", at, bytes);
        }
        check("truncated", at, good[..at].to_vec());
        let mut bytes = good.clone();
        bytes[at..].fill(0);
        check("zeroed from", at, bytes);
        let mut bytes = good.clone();
        bytes.remove(at);
        check("one byte removed", at, bytes);
        let mut bytes = good.clone();
        bytes.insert(at, 0);
        check("one byte inserted", at, bytes);
    }
    for extra in [1, 43, 44, 4096] {
        check("bytes appended", good.len(), [good.clone(), vec![0; extra]].concat());
    }
    check("itself appended", good.len(), [good.clone(), good.clone()].concat());
    println!("a checkpoint of {} bytes: {counts:?}", good.len());
    assert!(counts.keys().all(|(_, verdict)| *verdict == "refused"), "{counts:?}");
    assert!(counts.values().sum::<u64>() > 1000);
}

/// Gives a changed checkpoint new checksums everywhere, so that only its contents are wrong.
fn seal_again(bytes: &mut [u8]) {
    let crc = crc32c::crc32c(&bytes[..4092]);
    put_at(bytes, 4092, &crc.to_le_bytes());
    let (mut at, mut previous) = (CHECKPOINT_HEADER_BYTES, 0);
    while at + BLOCK_HEADER_BYTES <= bytes.len() {
        let end = at + BLOCK_HEADER_BYTES + u32_at(bytes, at + BLOCK_PAYLOAD_BYTES_AT) as usize;
        let Some(payload) = bytes.get(at + BLOCK_HEADER_BYTES..end) else { return };
        let payload_crc = crc32c::crc32c(payload);
        put_at(bytes, at + BLOCK_PAYLOAD_CRC_AT, &payload_crc.to_le_bytes());
        put_at(bytes, at + BLOCK_PREVIOUS_CRC_AT, &u32::to_le_bytes(previous));
        previous = crc32c::crc32c(&bytes[at..at + BLOCK_CRC_AT]);
        put_at(bytes, at + BLOCK_CRC_AT, &previous.to_le_bytes());
        at = end;
    }
}

#[test]
fn contents_that_no_writer_makes_are_refused_although_every_checksum_is_right() {
    let disk = SimStorage::new();
    let storage: Arc<dyn Storage> = Arc::new(disk.clone());
    let mut records = some_records(7, 12, 60);
    records.insert(b"u".to_vec(), (vec![9; 66_000], 3));
    write(&storage, &records, 9).unwrap();
    let good = disk.contents(CHECKPOINT_FILE).unwrap();
    let mut sealed = good.clone();
    seal_again(&mut sealed);
    assert_eq!(sealed, good);
    let mut refused: BTreeMap<&str, u64> = BTreeMap::new();
    for at in (CHECKPOINT_HEADER_BYTES..good.len()).filter(|&at| !(5500..70_000).contains(&at)) {
        for value in [good[at] ^ 1, good[at] ^ 0x80, 0, 0xff] {
            let mut bytes = good.clone();
            bytes[at] = value;
            seal_again(&mut bytes);
            if bytes == good {
                continue;
            }
            disk.overwrite(CHECKPOINT_FILE, Some(bytes));
            // Never a panic, and never another table: the digest is over every record.
            let what = match read(&*storage) {
                Err(LogError::Damaged { .. }) => "damaged",
                Err(LogError::NewerFormat { .. }) => "newer",
                other => panic!("byte {at} as {value}: {other:?}"),
            };
            *refused.entry(what).or_default() += 1;
            // The rest of it can be looked through all the same.
            let mut reader = CheckpointReader::open(&*storage, CHECKPOINT_FILE).unwrap();
            let mut steps = 0;
            loop {
                steps += 1;
                assert!(steps < 20, "it comes to an end");
                let is_end = reader.next_block().map(|block| block.map(|block| block.records().count()).is_none());
                if is_end.unwrap_or_else(|_| reader.skip_damage().unwrap().is_none()) {
                    break;
                }
            }
        }
    }
    println!("{refused:?}");
    assert!(refused["damaged"] > 1000 && refused["newer"] > 10);
}

#[test]
fn a_newer_checkpoint_and_one_of_another_log_are_told_apart_from_damage() {
    let disk = SimStorage::new();
    let storage: Arc<dyn Storage> = Arc::new(disk.clone());
    assert!(CheckpointReader::open_if_there(&*storage, CHECKPOINT_FILE).unwrap().is_none());
    write(&storage, &some_records(1, 10, 10), 1).unwrap();
    let reader = CheckpointReader::open_if_there(&*storage, CHECKPOINT_FILE).unwrap().unwrap();
    reader.expect_uuid(Uuid::from_bytes([1; 16])).unwrap();
    assert!(matches!(reader.expect_uuid(Uuid::from_bytes([2; 16])), Err(LogError::Foreign { .. })));
    let mut bytes = disk.contents(CHECKPOINT_FILE).unwrap();
    put_at(&mut bytes, CHECKPOINT_VERSION_AT, &9u32.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..4092]);
    put_at(&mut bytes, 4092, &crc.to_le_bytes());
    disk.overwrite(CHECKPOINT_FILE, Some(bytes));
    let error = CheckpointReader::open(&*storage, CHECKPOINT_FILE).err().unwrap();
    assert!(error.to_string().contains("format version 9") && error.to_string().contains("format version 2"), "{error}");
    assert_eq!(error.exit_code(), 13);
}

#[test]
fn a_header_and_an_end_that_say_different_things_are_refused() {
    let disk = SimStorage::new();
    let storage: Arc<dyn Storage> = Arc::new(disk.clone());
    write(&storage, &some_records(1, 10, 10), 1).unwrap();
    let good = disk.contents(CHECKPOINT_FILE).unwrap();
    let end = good.len() - END_PAYLOAD_BYTES;
    let fields = [
        (CHECKPOINT_UUID_AT, END_UUID_AT),
        (CHECKPOINT_NEXT_SEGMENT_AT, END_NEXT_SEGMENT_AT),
        (CHECKPOINT_NEXT_SEQUENCE_AT, END_NEXT_SEQUENCE_AT),
        (CHECKPOINT_REVISION_AT, END_REVISION_AT),
        (CHECKPOINT_STAMP_AT, END_STAMP_AT),
        (CHECKPOINT_PREVIOUS_CRC_AT, END_PREVIOUS_CRC_AT),
    ];
    for (in_header, in_end) in fields {
        for (changed, is_refused) in [(vec![in_header], true), (vec![end + in_end], true), (vec![in_header, end + in_end], false)]
        {
            let mut bytes = good.clone();
            changed.iter().for_each(|&at| bytes[at] ^= 0x40);
            seal_again(&mut bytes);
            disk.overwrite(CHECKPOINT_FILE, Some(bytes));
            match read(&*storage) {
                Err(LogError::Damaged { offset, what, .. }) if is_refused => {
                    assert_eq!(offset as usize, end - BLOCK_HEADER_BYTES, "{what}");
                    assert!(what.contains("as the header"), "{what}");
                }
                Ok(_) if !is_refused => {}
                other => panic!("{changed:?}: {other:?}"),
            }
        }
    }
}

#[test]
fn behind_damage_the_rest_can_still_be_read() {
    let disk = SimStorage::new();
    let storage: Arc<dyn Storage> = Arc::new(disk.clone());
    let records: Records = (0..5000).map(|number| (format!("k{number:05}").into_bytes(), (vec![1; 80], number))).collect();
    write(&storage, &records, 1).unwrap();
    let good = disk.contents(CHECKPOINT_FILE).unwrap();
    let mut reader = CheckpointReader::open(&*storage, CHECKPOINT_FILE).unwrap();
    let mut blocks = Vec::new();
    while let Some(block) = reader.next_block().unwrap() {
        blocks.push((block.offset as usize, block.records));
    }
    // In its header, in its payload, and a header and what is behind it.
    for (bad, at) in [(1, blocks[1].0 + 3), (2, blocks[2].0 + 500), (0, CHECKPOINT_HEADER_BYTES)] {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        disk.overwrite(CHECKPOINT_FILE, Some(bytes));
        let mut reader = CheckpointReader::open(&*storage, CHECKPOINT_FILE).unwrap();
        let (mut found, mut lost) = (0, 0);
        loop {
            match reader.next_block() {
                Ok(None) => break,
                Ok(Some(block)) => found += block.records().count() as u64,
                Err(LogError::Damaged { offset, .. }) => {
                    assert_eq!(offset as usize, blocks[bad].0);
                    lost += reader.skip_damage().unwrap().unwrap();
                }
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(found, 5000 - u64::from(blocks[bad].1));
        assert_eq!(lost as usize, blocks[bad + 1].0 - blocks[bad].0);
    }
    // Nothing follows: the file is cut inside a block.
    disk.overwrite(CHECKPOINT_FILE, Some(good[..blocks[3].0 + BLOCK_HEADER_BYTES + 9].to_vec()));
    let mut reader = CheckpointReader::open(&*storage, CHECKPOINT_FILE).unwrap();
    (0..3).for_each(|_| assert!(reader.next_block().unwrap().is_some()));
    assert!(reader.next_block().is_err());
    assert_eq!(reader.skip_damage().unwrap(), None);
    assert!(reader.next_block().is_err() && reader.summary().is_none());
}

#[test]
fn whenever_the_power_fails_the_old_checkpoint_or_the_new_one_is_there_whole() {
    let (old, new) = (some_records(1, 20, 50), some_records(2, 60, 200));
    let first = SimStorage::new();
    let storage: Arc<dyn Storage> = Arc::new(first.clone());
    write(&storage, &old, 1).unwrap();
    let (mut states, mut fresh) = (0u64, 0u64);
    for stop in 0.. {
        let disk = first.after_kill();
        disk.stop_at(stop);
        let storage: Arc<dyn Storage> = Arc::new(disk.clone());
        let done = write(&storage, &new, 2);
        assert!(done.is_ok() || disk.is_stopped(), "{done:?}");
        for choice in disk.crash_choices(TearDetail::Sectors) {
            let left = disk.after_power_failure(&choice);
            let (found, summary) = read(&left).unwrap();
            let is_new = summary.header.covers.revision == 2;
            assert!(is_new || done.is_err(), "it was done and is gone: {choice:?}");
            assert_eq!(found, if is_new { new.clone() } else { old.clone() });
            states += 1;
            fresh += u64::from(is_new);
        }
        if done.is_ok() && !disk.is_stopped() {
            break;
        }
    }
    println!("{states} states, {fresh} with the new checkpoint");
    assert!(fresh > 1 && states - fresh > 100);
}

#[test]
fn a_checkpoint_that_the_disk_does_not_have_never_gets_its_name() {
    let disk = SimStorage::new();
    let storage: Arc<dyn Storage> = Arc::new(disk.clone());
    let records = some_records(1, 50, 100);
    // What was synced is not what comes back: the cache shows it, the medium does not.
    let mut finishing = begin(&storage, &records).unwrap().finish(covers(1));
    while finishing.step() != FinishStep::Verify {
        finishing.advance(1).unwrap();
    }
    let mut bytes = disk.contents(CHECKPOINT_TEMPORARY).unwrap();
    bytes[5000] ^= 1;
    disk.overwrite(CHECKPOINT_TEMPORARY, Some(bytes));
    let error = loop {
        match finishing.advance(1) {
            Ok(_) => assert_ne!(finishing.step(), FinishStep::Rename),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, LogError::Damaged { .. }), "{error}");
    // Another valid checkpoint in its place is noticed as well.
    let other = SimStorage::new();
    let other_storage: Arc<dyn Storage> = Arc::new(other.clone());
    write(&other_storage, &some_records(2, 50, 100), 1).unwrap();
    let mut finishing = begin(&storage, &records).unwrap().finish(covers(1));
    while finishing.step() != FinishStep::Verify {
        finishing.advance(1).unwrap();
    }
    disk.overwrite(CHECKPOINT_TEMPORARY, other.contents(CHECKPOINT_FILE));
    assert!(matches!(finishing.advance(u64::MAX), Err(LogError::Damaged { .. })));
    // A failed sync says so at once.
    disk.inject(0, Fault::SyncFails);
    assert!(matches!(write(&storage, &records, 1), Err(LogError::SyncFailed { .. })));
    // So does a full disk.
    disk.inject(0, Fault::Full);
    assert!(matches!(write(&storage, &records, 1), Err(LogError::Full { .. })));
    remove_checkpoint_temporaries(&disk).unwrap();
    assert!(disk.list().unwrap().is_empty());
}

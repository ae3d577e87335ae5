//! The log on a real directory: append, restart, seal, marks, refusal after an error.
#![allow(clippy::unwrap_used)]

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kvbroker_log::{
    BatchBuilder, Cause, DiskStorage, EpochReason, FileLog, GroupRef, Log, LogError, LogOptions, LogReader, PersistLevel,
    ReadEnd, RecordRef, RecoveryReport, SessionRef, Storage, SyncMode,
};

/// A group as the visitor saw it: revision, cause, session, stamp, records (a delete has no value).
type Seen = (u64, Cause, Option<SessionRef>, u64, Vec<(Vec<u8>, Option<Vec<u8>>)>);

fn open_with(directory: &Path, options: LogOptions) -> Result<(FileLog, RecoveryReport, Vec<Seen>), LogError> {
    let mut seen = Vec::new();
    let (log, report) = FileLog::open(Arc::new(DiskStorage::open(directory).unwrap()), options, &mut |group: GroupRef<'_>| {
        let records = group.records().map(|record| match record {
            RecordRef::Put { key, value } => (key.to_vec(), Some(value.to_vec())),
            RecordRef::Delete { key } => (key.to_vec(), None),
        });
        seen.push((group.revision, group.cause, group.session, group.stamp_ms, records.collect()));
        Ok(())
    })?;
    Ok((log, report, seen))
}

fn open(directory: &Path, mode: SyncMode) -> (FileLog, RecoveryReport, Vec<Seen>) {
    open_with(directory, LogOptions::new(mode)).unwrap()
}

fn put(log: &mut FileLog, revision: u64, value: &[u8]) -> Result<(), LogError> {
    let mut batch = BatchBuilder::new();
    batch.begin(revision * 10);
    batch.group(revision, Cause::Request, None);
    batch.put(format!("key{revision}").as_bytes(), value);
    let proof = log.append(&mut batch)?;
    assert_eq!(proof.revision(), revision);
    Ok(())
}

#[test]
fn what_was_appended_comes_back_in_order_with_everything_that_belongs_to_it() {
    let directory = tempfile::tempdir().unwrap();
    let (mut log, report, seen) = open(directory.path(), SyncMode::Always);
    assert!(seen.is_empty() && report.clean_stop && report.new_epoch == Some(EpochReason::NewLog));
    let session = SessionRef { id: [7; 16], sequence: 41 };
    let mut batch = BatchBuilder::new();
    batch.begin(1000);
    batch.group(0, Cause::Bookkeeping, None);
    batch.put(b"meta", b"");
    batch.group(1, Cause::Request, Some(session));
    batch.put(b"a", b"1");
    batch.delete(b"");
    batch.group(1, Cause::Bookkeeping, Some(session));
    batch.group(2, Cause::Expiry, None);
    batch.delete(b"b");
    assert!(!batch.is_empty());
    assert_eq!(batch.last_revision(), Some(2));
    let proof = log.append(&mut batch).unwrap();
    assert_eq!((proof.level(), proof.revision()), (PersistLevel::Synced, 2));
    assert!(log.needs_marker());
    log.mark(1001).unwrap();
    assert!(!log.needs_marker());
    put(&mut log, 3, &[9; 100_000]).unwrap_err();
    // A stamp that goes back is refused, and the log stays out of service.
    assert!(matches!(put(&mut log, 300, b""), Err(LogError::OutOfService(_))));
    drop(log);

    let (mut log, again, seen) = open(directory.path(), SyncMode::Always);
    assert_eq!((again.uuid, again.epoch, again.new_epoch), (report.uuid, report.epoch, None));
    assert_eq!((again.last_revision, again.last_stamp_ms, again.groups, again.clean_stop), (2, 1001, 4, false));
    let expected: Vec<Seen> = vec![
        (0, Cause::Bookkeeping, None, 1000, vec![(b"meta".to_vec(), Some(vec![]))]),
        (1, Cause::Request, Some(session), 1000, vec![(b"a".to_vec(), Some(b"1".to_vec())), (vec![], None)]),
        (1, Cause::Bookkeeping, Some(session), 1000, vec![]),
        (2, Cause::Expiry, None, 1000, vec![(b"b".to_vec(), None)]),
    ];
    assert_eq!(seen, expected);
    log.close(1002).unwrap();
    assert!(matches!(log.mark(1003), Err(LogError::OutOfService(_))));
    drop(log);
    let (_, closed, _) = open(directory.path(), SyncMode::Always);
    assert!(closed.clean_stop && closed.cut.is_none() && closed.rewritten_bytes > 0);
}

#[test]
fn segments_are_sealed_by_size_and_read_in_turn() {
    let directory = tempfile::tempdir().unwrap();
    let small = || {
        let mut options = LogOptions::new(SyncMode::Always);
        options.segment_bytes = 64 << 10;
        options.allocate_bytes = 16 << 10;
        options
    };
    let (mut log, ..) = open_with(directory.path(), small()).unwrap();
    for revision in 1..=100 {
        put(&mut log, revision, &[7; 5000]).unwrap();
    }
    // One larger than a segment gets one of its own.
    put(&mut log, 101, &[8; 200_000]).unwrap();
    put(&mut log, 102, b"x").unwrap();
    let segments = log.stats().segments;
    assert!(segments > 8, "{segments}");
    drop(log);
    let (log, report, seen) = open_with(directory.path(), small()).unwrap();
    assert_eq!((seen.len(), report.segments, log.stats().segments), (102, segments, segments));
    assert_eq!((report.cut, report.clean_stop, report.last_revision), (None, false, 102));
}

#[test]
fn a_weaker_mode_that_stops_uncleanly_gets_a_new_epoch_and_a_clean_one_does_not() {
    let directory = tempfile::tempdir().unwrap();
    let (mut log, first, _) = open(directory.path(), SyncMode::Every(Duration::from_millis(50)));
    put(&mut log, 1, b"x").unwrap();
    assert_eq!(log.persisted().level(), PersistLevel::Written);
    assert!(!log.needs_marker());
    assert_eq!(log.tick(1000).unwrap().level(), PersistLevel::Synced);
    put(&mut log, 2, b"x").unwrap();
    assert_eq!(log.tick(1049).unwrap().level(), PersistLevel::Written);
    assert_eq!(log.tick(1050).unwrap().level(), PersistLevel::Synced);
    log.close(20).unwrap();
    drop(log);
    let (mut log, second, _) = open(directory.path(), SyncMode::Never);
    assert_eq!((second.epoch, second.new_epoch), (first.epoch, None));
    put(&mut log, 3, b"x").unwrap();
    drop(log);
    let (log, third, seen) = open(directory.path(), SyncMode::Always);
    assert_eq!(third.new_epoch, Some(EpochReason::UncleanStop { never_synced: true }));
    assert_ne!(third.epoch, first.epoch);
    assert_eq!((seen.len(), log.persisted().level()), (3, PersistLevel::Synced));
    drop(log);
    let (_, fourth, _) = open(directory.path(), SyncMode::Always);
    assert_eq!((fourth.epoch, fourth.new_epoch), (third.epoch, None));
}

#[test]
fn files_that_do_not_belong_here_are_refused_in_clear_words() {
    let directory = tempfile::tempdir().unwrap();
    drop(open(directory.path(), SyncMode::Always));
    let segment = directory.path().join("table.txn.00000001");
    let stranger = directory.path().join("table.txn.1");
    std::fs::copy(&segment, &stranger).unwrap();
    let refusal = |directory: &Path| open_with(directory, LogOptions::new(SyncMode::Always)).unwrap_err();
    assert!(matches!(refusal(directory.path()), LogError::Foreign { path, .. } if path == stranger));
    std::fs::rename(&stranger, directory.path().join("table.txn.00000003")).unwrap();
    assert!(refusal(directory.path()).to_string().contains("is missing"));
    std::fs::rename(directory.path().join("table.txn.00000003"), directory.path().join("table.txn.00000002")).unwrap();
    assert!(refusal(directory.path()).to_string().contains("under the name of segment 2"));
    std::fs::remove_file(directory.path().join("table.txn.00000002")).unwrap();
    let other = tempfile::tempdir().unwrap();
    drop(open(other.path(), SyncMode::Always));
    std::fs::copy(other.path().join("table.mark"), directory.path().join("table.mark")).unwrap();
    assert!(matches!(refusal(directory.path()), LogError::Foreign { .. }));
    std::fs::remove_file(directory.path().join("table.mark")).unwrap();
    drop(open(directory.path(), SyncMode::Always));
    // The whole log gone, the mark still there.
    std::fs::remove_file(&segment).unwrap();
    assert!(matches!(refusal(directory.path()), LogError::Damaged { .. }));
}

#[test]
fn a_reader_follows_the_log_in_service_and_stops_at_the_proof() {
    let directory = tempfile::tempdir().unwrap();
    let mut options = LogOptions::new(SyncMode::Always);
    options.segment_bytes = 8 << 10;
    let (mut log, ..) = open_with(directory.path(), options).unwrap();
    let storage = || Arc::new(DiskStorage::open(directory.path()).unwrap());
    let mut behind = LogReader::after(storage(), 0).unwrap().unwrap();
    for revision in 1..=60 {
        put(&mut log, revision, &[1; 500]).unwrap();
    }
    let early = log.persisted();
    put(&mut log, 61, b"later").unwrap();
    assert!(log.stats().segments > 5);
    let mut seen = Vec::new();
    behind
        .read(&early, &mut |group| {
            seen.push(group.revision);
            if group.revision == 7 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
    assert_eq!((seen.len(), behind.revision()), (7, 7));
    behind
        .read(&early, &mut |group| {
            seen.push(group.revision);
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(seen, (1..=60).collect::<Vec<_>>());
    let mut middle = LogReader::after(storage(), 44).unwrap().unwrap();
    let mut seen = Vec::new();
    middle
        .read(&log.persisted(), &mut |group| {
            seen.push((group.revision, group.records().len()));
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(seen, (45..=61).map(|revision| (revision, 1)).collect::<Vec<_>>());
    // A batch that went bad under the reader is said, not skipped.
    let segment = directory.path().join("table.txn.00000002");
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[4500] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let mut again = LogReader::after(storage(), 0).unwrap().unwrap();
    let error = again.read(&log.persisted(), &mut |_| ControlFlow::Continue(())).unwrap_err();
    assert!(matches!(error, LogError::Damaged { .. }), "{error}");
}

#[test]
fn a_reader_pauses_and_goes_on_from_a_place_that_was_kept() {
    let directory = tempfile::tempdir().unwrap();
    let mut options = LogOptions::new(SyncMode::Always);
    options.segment_bytes = 8 << 10;
    let (mut log, ..) = open_with(directory.path(), options).unwrap();
    for revision in 1..=60 {
        put(&mut log, revision, &[1; 500]).unwrap();
    }
    let storage = || Arc::new(DiskStorage::open(directory.path()).unwrap());
    let mut reader = LogReader::after(storage(), 0).unwrap().unwrap();
    let (mut seen, mut places, mut read) = (Vec::new(), vec![reader.place()], 0);
    loop {
        // Each time a new one: nothing but the place is kept.
        let place = *places.last().unwrap();
        reader = LogReader::at(storage(), &place, seen.last().copied().unwrap_or(0)).unwrap().unwrap();
        let end = reader.read_some(&log.persisted(), 2_000, &mut |group| {
            seen.push(group.revision);
            ControlFlow::Continue(())
        });
        read += reader.read_bytes();
        places.push(reader.place());
        match end.unwrap() {
            ReadEnd::Paused => assert_eq!(reader.place().revision(), *seen.last().unwrap()),
            ReadEnd::Through => break,
            other => panic!("{other:?}"),
        }
        // The end of a segment is of no use to who reads behind it; the next one's start is.
        if LogReader::at(storage(), &reader.place(), reader.revision()).unwrap().is_none() {
            let next = LogReader::after(storage(), reader.revision()).unwrap().unwrap();
            assert_eq!(next.place().revision(), reader.revision());
            *places.last_mut().unwrap() = next.place();
        }
    }
    assert_eq!(seen, (1..=60).collect::<Vec<_>>());
    assert!(places.len() > 10 && read < 60 * 700, "{} pieces, {read} bytes", places.len());
    // In the middle of a piece: from the batch on.
    let mut middle = LogReader::at(storage(), &places[2], places[2].revision() + 1).unwrap().unwrap();
    let end = middle.read(&log.persisted(), &mut |group| {
        assert_eq!(group.revision, places[2].revision() + 2);
        ControlFlow::Break(())
    });
    assert_eq!(end.unwrap(), ReadEnd::Broken);
    // Not before it, not where a later segment is nearer, and not once the segment is gone.
    assert!(LogReader::at(storage(), &places[2], places[2].revision() - 1).unwrap().is_none());
    assert!(LogReader::at(storage(), &places[2], 59).unwrap().is_none());
    std::fs::remove_file(directory.path().join("table.txn.00000001")).unwrap();
    assert!(LogReader::at(storage(), &places[1], places[1].revision()).unwrap().is_none());
}

#[test]
fn a_disk_tells_how_much_room_it_has() {
    let directory = tempfile::tempdir().unwrap();
    let storage = DiskStorage::open(directory.path()).unwrap();
    assert!(storage.free_bytes().unwrap().is_some_and(|bytes| bytes > 0));
    std::fs::remove_dir(directory.path()).unwrap();
    assert!(storage.free_bytes().is_err());
}

#[test]
fn a_long_segment_is_read_beside_its_replay_and_judged_alike() {
    let directory = tempfile::tempdir().unwrap();
    let (mut log, ..) = open(directory.path(), SyncMode::Never);
    // Batches of all sizes, some longer than what is handed over at once.
    let value = |revision: u64| vec![revision as u8; [10, 9_000, 400_000][revision as usize % 3]];
    (1..=30).for_each(|revision| put(&mut log, revision, &value(revision)).unwrap());
    drop(log);
    let file = directory.path().join("table.txn.00000001");
    let bytes = std::fs::read(&file).unwrap();
    assert!(bytes.len() > 4 << 20);
    let copy = || {
        let other = tempfile::tempdir().unwrap();
        std::fs::write(other.path().join("table.txn.00000001"), &bytes).unwrap();
        other
    };

    let (_, report, seen) = open(copy().path(), SyncMode::Never);
    assert_eq!((report.groups, report.last_revision, seen.len()), (30, 30, 30));
    let is_whole = |(revision, .., records): &Seen| records[0].1.as_deref() == Some(&*value(*revision));
    assert!(seen.iter().zip(1..).all(|(group, revision)| group.0 == revision && is_whole(group)));

    for refused in [1, 17, 30] {
        let other = copy();
        let storage = Arc::new(DiskStorage::open(other.path()).unwrap());
        let mut given = 0;
        let result = FileLog::open(storage, LogOptions::new(SyncMode::Never), &mut |group: GroupRef<'_>| {
            given = group.revision;
            if group.revision == refused { Err("not understood".into()) } else { Ok(()) }
        });
        assert!(matches!(result.map(drop), Err(LogError::Refused { .. })));
        assert_eq!(given, refused, "nothing behind what was refused");
    }

    // Nothing vouches for batches of this mode: what follows a bad one is cut.
    let other = copy();
    let mut damaged = bytes.clone();
    let at = damaged.windows(5).position(|window| window == b"key20").unwrap();
    damaged[at] ^= 1;
    std::fs::write(other.path().join("table.txn.00000001"), &damaged).unwrap();
    let (_, report, seen) = open(other.path(), SyncMode::Never);
    assert_eq!((report.last_revision, seen.len()), (19, 19));
    assert!(report.cut.is_some());
}

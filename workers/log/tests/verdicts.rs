//! Every byte of a small log, with and without a checkpoint, flipped, the files cut and zeroed at every byte, removed and swapped:
//! refused, reported, or harmless.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;

use kvbroker_log::{
    BatchBuilder, Cause, CheckpointPolicy, CheckpointRecord, Checkpointer, FileLog, GroupRef, Log, LogError, LogOptions,
    MergeState, RecordRef, RecoveryReport, Replay, SeededEntropy, SimStorage, Storage, SyncMode, VisitError,
};

const MARK: &str = "table.mark";
const CHECKPOINT: &str = "table.ckpt";
/// Covered by the checkpoint, and kept.
const HISTORY: [&str; 2] = ["table.txn.00000002", "table.txn.00000003"];
/// Behind the checkpoint; where the log was closed another one follows.
const BEHIND: &str = "table.txn.00000004";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    /// The open failed: damaged, foreign or newer, with file and offset.
    Refused,
    /// A cut was reported; what is left is a prefix.
    Cut,
    /// Everything is there; that something of the history can't be read was reported.
    Noted,
    /// Everything is there.
    Intact,
    /// Something is missing and nothing says so.
    SilentLoss,
}

fn options(seed: u64) -> LogOptions {
    let mut options = LogOptions::new(SyncMode::Always);
    options.segment_bytes = 5200;
    options.allocate_bytes = 512;
    options.entropy = Box::new(SeededEntropy::new(seed));
    options
}

/// Record key to value and revision.
type Table = BTreeMap<Vec<u8>, (Vec<u8>, u64)>;

/// What a start gives.
#[derive(Default)]
struct Given(Table);

impl Replay for Given {
    fn record(&mut self, record: CheckpointRecord<'_>) -> Result<(), VisitError> {
        self.0.insert(record.key.to_vec(), (record.value.to_vec(), record.revision));
        Ok(())
    }

    fn checkpoint_read(&mut self, _revision: u64) -> Result<(), VisitError> {
        Ok(())
    }

    fn group(&mut self, group: GroupRef<'_>) -> Result<(), VisitError> {
        for record in group.records() {
            match record {
                RecordRef::Put { key, value } => drop(self.0.insert(key.to_vec(), (value.to_vec(), group.revision))),
                RecordRef::Delete { key } => drop(self.0.remove(key)),
            }
        }
        Ok(())
    }
}

fn open(disk: &SimStorage) -> Result<(FileLog, Table, RecoveryReport), LogError> {
    let mut given = Given::default();
    let (log, report) = FileLog::open(Arc::new(disk.clone()), options(2), &mut given)?;
    if let Some(cut) = &report.cut {
        assert!(cut.bytes > 0 && cut.offset >= 4096 && cut.file.to_string_lossy().contains("table.txn."));
    }
    Ok((log, given.0, report))
}

/// What the log says at each revision, from 0 on.
fn states(disk: &SimStorage) -> Vec<Table> {
    let mut given = Given::default();
    let mut states = vec![Table::new()];
    let keep = &mut |group: GroupRef<'_>| {
        given.group(group)?;
        states.push(given.0.clone());
        Ok(())
    };
    FileLog::open(Arc::new(disk.after_kill()), options(2), keep).unwrap();
    states
}

/// Three segments, thirteen groups. The stamps stand still, so that no mark is written beside those of open, seal and close.
fn small_log() -> (SimStorage, FileLog) {
    let disk = SimStorage::new();
    let (mut log, _) = FileLog::open(Arc::new(disk.clone()), options(1), &mut |_: GroupRef<'_>| Ok(())).unwrap();
    let mut batch = BatchBuilder::new();
    for revision in 1..=13u64 {
        batch.begin(500);
        batch.group(revision, Cause::Request, None);
        batch.put(format!("key{revision}").as_bytes(), &[0xA5; 90]);
        batch.delete(b"gone");
        log.append(&mut batch).unwrap();
    }
    assert_eq!(log.stats().segments, 3);
    (disk, log)
}

/// Four segments, of which the checkpoint covers three: the first is gone, two are history. Every record of it was put or deleted before and
/// may be again behind it. With what the log says at each revision.
fn small_log_with_checkpoint() -> (SimStorage, FileLog, Vec<Table>) {
    let disk = SimStorage::new();
    let (mut log, _) = FileLog::open(Arc::new(disk.clone()), options(1), &mut |_: GroupRef<'_>| Ok(())).unwrap();
    let mut all = Vec::new();
    let mut batch = BatchBuilder::new();
    for revision in 1..=16u64 {
        batch.begin(500 + revision);
        batch.group(revision, Cause::Request, None);
        batch.put(format!("key{}", revision % 5).as_bytes(), &[revision as u8; 90]);
        if revision % 3 == 0 {
            batch.delete(format!("key{}", (revision + 2) % 5).as_bytes());
        }
        log.append(&mut batch).unwrap();
        if revision == 11 {
            log.seal().unwrap();
            all = states(&disk);
            let policy = CheckpointPolicy { history_ms: 5, ..CheckpointPolicy::default() };
            let entropy = Box::new(SeededEntropy::new(3));
            let mut maker = Checkpointer::new(Arc::new(disk.clone()), log.segments(), policy, entropy);
            let mut merging = maker.begin().unwrap();
            while maker.advance(&mut merging, 1 << 20).unwrap().state != MergeState::Done {}
            assert_eq!(maker.trim(511).unwrap(), 1);
        }
    }
    // The rest as the groups behind the checkpoint say.
    let mut given = Given(all.last().unwrap().clone());
    struct Behind<'a>(&'a mut Given, &'a mut Vec<Table>);
    impl Replay for Behind<'_> {
        fn record(&mut self, _record: CheckpointRecord<'_>) -> Result<(), VisitError> {
            Ok(())
        }
        fn checkpoint_read(&mut self, _revision: u64) -> Result<(), VisitError> {
            Ok(())
        }
        fn group(&mut self, group: GroupRef<'_>) -> Result<(), VisitError> {
            self.0.group(group)?;
            self.1.push(self.0.0.clone());
            Ok(())
        }
    }
    FileLog::open(Arc::new(disk.after_kill()), options(2), &mut Behind(&mut given, &mut all)).unwrap();
    assert_eq!(disk.list().unwrap(), [CHECKPOINT, MARK, HISTORY[0], HISTORY[1], BEHIND]);
    assert_eq!((all.len(), log.stats().segments), (17, 3));
    (disk, log, all)
}

/// Damages a copy of each file in every way. `states` is what the log says at each revision.
fn table(disk: &SimStorage, states: &[Table], what: &str) -> BTreeMap<(String, &'static str, Verdict), Vec<usize>> {
    let mut table = BTreeMap::new();
    for name in disk.list().unwrap() {
        let good = disk.contents(&name).unwrap();
        for at in 0..good.len() {
            let mut cases: Vec<(&str, Vec<u8>)> = vec![("truncated", good[..at].to_vec())];
            for mask in [0x01u8, 0x80, 0xff] {
                let mut bytes = good.clone();
                bytes[at] ^= mask;
                cases.push(("flipped", bytes));
            }
            let mut bytes = good.clone();
            bytes[at..].fill(0);
            cases.push(("zeroed from", bytes));
            let mut bytes = good.clone();
            bytes.remove(at);
            cases.push(("one byte removed", bytes));
            for (damage, bytes) in cases {
                let copy = disk.after_kill();
                copy.overwrite(&name, Some(bytes.clone()));
                let verdict = match open(&copy) {
                    Err(LogError::Damaged { .. } | LogError::Foreign { .. } | LogError::NewerFormat { .. }) => {
                        // A refusal changes nothing.
                        assert!(disk.list().unwrap().iter().all(|other| {
                            copy.contents(other) == if *other == name { Some(bytes.clone()) } else { disk.contents(other) }
                        }));
                        Verdict::Refused
                    }
                    Err(error) => panic!("{name} {damage} at {at}: {error}"),
                    Ok((_, found, report)) => {
                        let revision = report.last_revision as usize;
                        assert_eq!(found, states[revision], "{name} {damage} at {at}");
                        match (revision + 1 == states.len(), report.cut.is_some()) {
                            (_, true) => Verdict::Cut,
                            (true, false) if !report.history.unreadable.is_empty() => Verdict::Noted,
                            (true, false) => Verdict::Intact,
                            (false, false) => Verdict::SilentLoss,
                        }
                    }
                };
                table.entry((name.clone(), damage, verdict)).or_insert_with(Vec::new).push(at);
            }
        }
    }
    let total =
        |verdict| table.iter().filter(|((_, _, each), _)| *each == verdict).map(|(_, places)| places.len()).sum::<usize>();
    println!(
        "{what}: {} refused, {} cut and reported, {} noted, {} harmless, {} unnoticed (the residue)",
        total(Verdict::Refused),
        total(Verdict::Cut),
        total(Verdict::Noted),
        total(Verdict::Intact),
        total(Verdict::SilentLoss)
    );
    for ((name, damage, verdict), places) in &table {
        println!(
            "  {name:20} {damage:17} {verdict:?}: {} (first {}, last {})",
            places.len(),
            places[0],
            places[places.len() - 1]
        );
    }
    table
}

#[test]
fn damage_to_a_log_that_was_closed_is_always_refused_or_harmless() {
    let (disk, mut log) = small_log();
    log.close(500).unwrap();
    drop(log);
    let end = disk.contents("table.txn.00000003").unwrap().iter().rposition(|&byte| byte != 0).unwrap();
    for ((name, damage, verdict), places) in table(&disk, &states(&disk), "closed cleanly") {
        match verdict {
            Verdict::Refused => assert_ne!(name, MARK),
            Verdict::SilentLoss => panic!("{name} {damage}: {places:?}"),
            // Only the room behind the log, reported although nothing was there.
            Verdict::Cut => {
                assert!(name == "table.txn.00000003" && places.iter().all(|&at| at > end), "{name} {damage}: {places:?}")
            }
            // The mark proves nothing then; the room behind the log may go; so may a removed byte or zeros among zeros.
            Verdict::Intact => assert!(
                name == MARK || name == "table.txn.00000003" && places.iter().all(|&at| at > end),
                "{name} {damage}: {places:?}"
            ),
            Verdict::Noted => panic!("there is no history"),
        }
    }
}

/// What damage to a log with a checkpoint may come to, wherever it is; `residue` says what is forgiven in the last segment.
fn judge(disk: &SimStorage, states: &[Table], what: &str, residue: impl Fn(&str, Verdict, &[usize]) -> bool) {
    for ((name, damage, verdict), places) in table(disk, states, what) {
        let right = match name.as_str() {
            // Each byte of a checkpoint is vouched for, and so is each of a segment that another one follows.
            CHECKPOINT => verdict == Verdict::Refused,
            BEHIND if disk.list().unwrap().last().is_some_and(|last| last != BEHIND) => verdict == Verdict::Refused,
            // The start needs nothing of it: its header is looked at, its batches by whoever asks for history.
            name if HISTORY.contains(&name) => match verdict {
                Verdict::Noted => places.iter().all(|&at| at < 4096),
                Verdict::Intact => places.iter().all(|&at| at >= 4096),
                _ => false,
            },
            MARK => verdict == Verdict::Intact,
            _ => match verdict {
                Verdict::Refused => true,
                verdict => residue(damage, verdict, &places),
            },
        };
        assert!(right, "{name} {damage}: {verdict:?} at {places:?}");
    }
}

#[test]
fn damage_to_a_log_with_a_checkpoint_that_was_closed_is_always_refused_or_harmless() {
    let (disk, mut log, states) = small_log_with_checkpoint();
    log.close(600).unwrap();
    drop(log);
    let end = disk.contents("table.txn.00000005").unwrap().iter().rposition(|&byte| byte != 0).unwrap();
    judge(&disk, &states, "with a checkpoint, closed cleanly", |_, verdict, places| {
        verdict != Verdict::SilentLoss && places.iter().all(|&at| at > end)
    });
}

#[test]
fn damage_to_a_log_with_a_checkpoint_that_was_not_closed_is_refused_or_reported_but_for_the_residue() {
    let (disk, log, states) = small_log_with_checkpoint();
    drop(log);
    judge(&disk, &states, "with a checkpoint, not closed", |damage, verdict, places| match verdict {
        Verdict::Cut | Verdict::Intact => places.iter().all(|&at| at >= 4096),
        // Where a batch that nothing vouches for began, nothing is left that could tell.
        Verdict::SilentLoss => matches!(damage, "truncated" | "zeroed from"),
        Verdict::Refused | Verdict::Noted => false,
    });
}

#[test]
fn a_log_without_its_checkpoint_or_with_an_older_one_is_refused() {
    let (disk, log, _) = small_log_with_checkpoint();
    drop(log);
    let copy = disk.after_kill();
    copy.overwrite(CHECKPOINT, None);
    assert!(matches!(open(&copy), Err(LogError::Damaged { .. })));
    // Nothing is needed of the history.
    let copy = disk.after_kill();
    copy.overwrite(HISTORY[1], None);
    open(&copy).unwrap();
    copy.overwrite(HISTORY[0], None);
    open(&copy).unwrap();
    copy.overwrite(BEHIND, None);
    assert!(matches!(open(&copy), Err(LogError::Damaged { .. })));
    // An older checkpoint, whose log is not there any more in whole.
    let (mut log, _, _) = open(&disk).unwrap();
    let older = disk.contents(CHECKPOINT);
    log.seal().unwrap();
    let policy = CheckpointPolicy { history_ms: 0, ..CheckpointPolicy::default() };
    let mut maker = Checkpointer::new(Arc::new(disk.clone()), log.segments(), policy, Box::new(SeededEntropy::new(4)));
    let mut merging = maker.begin().unwrap();
    while maker.advance(&mut merging, 1 << 20).unwrap().state != MergeState::Done {}
    assert!(maker.trim(1000).unwrap() > 0);
    drop(log);
    disk.overwrite(CHECKPOINT, older);
    assert!(matches!(open(&disk), Err(LogError::Damaged { .. })));
}

#[test]
fn damage_to_the_batch_that_nothing_vouches_for_is_cut_and_reported() {
    let (disk, log) = small_log();
    drop(log);
    let end = disk.contents("table.txn.00000003").unwrap().iter().rposition(|&byte| byte != 0).unwrap() + 1;
    // One batch: header, group header, put, delete.
    let last_batch = end - (84 + 20 + (9 + 5 + 90) + (5 + 4));
    for ((name, damage, verdict), places) in table(&disk, &states(&disk), "not closed") {
        match verdict {
            Verdict::Cut => assert!(name == "table.txn.00000003" && places.iter().all(|&at| at >= 4096), "{name} {damage}"),
            Verdict::SilentLoss => {
                // The residue: the log ends exactly where a batch ended, less than a second before. Nothing is left that could tell.
                assert!(
                    matches!(damage, "truncated" | "zeroed from") && name == "table.txn.00000003",
                    "{name} {damage}: {places:?}"
                );
            }
            Verdict::Noted => panic!("there is no history"),
            Verdict::Refused | Verdict::Intact => {}
        }
        if damage == "flipped" && name == "table.txn.00000003" && verdict == Verdict::Cut {
            assert!(places.iter().all(|&at| at >= last_batch), "a flip before the last batch is damage: {places:?}");
            assert!((last_batch..end).all(|at| places.contains(&at)));
        }
    }
}

#[test]
fn a_missing_or_exchanged_file_is_refused() {
    let (disk, mut log) = small_log();
    log.close(500).unwrap();
    drop(log);
    for name in ["table.txn.00000001", "table.txn.00000002", "table.txn.00000003"] {
        let copy = disk.after_kill();
        copy.overwrite(name, None);
        assert!(matches!(open(&copy), Err(LogError::Damaged { .. })), "without {name}");
    }
    // The same segment of another log, of the same age.
    let other = SimStorage::new();
    let (log, _) = FileLog::open(Arc::new(other.clone()), options(7), &mut |_: GroupRef<'_>| Ok(())).unwrap();
    drop(log);
    let copy = disk.after_kill();
    copy.overwrite("table.txn.00000001", other.contents("table.txn.00000001"));
    assert!(matches!(open(&copy), Err(LogError::Foreign { .. })));
    // An older state of the last segment: the mark knows better.
    let (young, log) = small_log();
    drop(log);
    let copy = disk.after_kill();
    copy.overwrite("table.txn.00000003", young.contents("table.txn.00000003"));
    assert!(matches!(open(&copy), Err(LogError::Damaged { .. })));
}

#[test]
fn a_newer_format_is_refused_with_both_versions_and_left_alone() {
    let (disk, log) = small_log();
    drop(log);
    let mut bytes = disk.contents("table.txn.00000001").unwrap();
    relabel(&mut bytes, 9, 1);
    disk.overwrite("table.txn.00000001", Some(bytes));
    let error = open(&disk).unwrap_err();
    assert_eq!(error.exit_code(), 13);
    let text = error.to_string();
    assert!(text.contains("format version 9") && text.contains("format versions 1 to 2"), "{text}");
}

#[test]
fn a_group_that_the_visitor_refuses_stops_the_start() {
    let (disk, log) = small_log();
    drop(log);
    let before = disk.contents("table.txn.00000003");
    let error = FileLog::open(Arc::new(disk.clone()), options(3), &mut |group: GroupRef<'_>| {
        if group.revision == 13 { Err("unknown record space 0x7f".into()) } else { Ok(()) }
    })
    .unwrap_err();
    assert!(error.to_string().contains("unknown record space 0x7f"), "{error}");
    assert_eq!(disk.contents("table.txn.00000003"), before);
}

/// Gives a segment's header another version and mode, and the checksum that belongs to them.
fn relabel(bytes: &mut [u8], version: u8, mode: u8) {
    (bytes[8], bytes[85]) = (version, mode);
    let crc = crc32c::crc32c(&bytes[..4092]);
    bytes[4092..4096].copy_from_slice(&crc.to_le_bytes());
}

/// FNV-1a of each file. No CRC: over bytes that end with their own CRC, it is the same whatever they say.
fn sums(disk: &SimStorage) -> Vec<(u64, String)> {
    let sum = |bytes: Vec<u8>| {
        bytes.into_iter().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
    };
    disk.list().unwrap().into_iter().map(|name| (sum(disk.contents(&name).unwrap()), name)).collect()
}

#[test]
fn the_bytes_of_a_log_have_not_changed_by_accident() {
    let (disk, mut log) = small_log();
    log.close(500).unwrap();
    drop(log);
    let expected = [
        (8_951_756_664_632_253_462, MARK),
        (15_443_213_460_421_585_027, "table.txn.00000001"),
        (1_802_156_533_999_061_148, "table.txn.00000002"),
        (14_368_124_627_524_499_300, "table.txn.00000003"),
    ];
    // Other sums mean another format: raise FORMAT_VERSION and keep reading the old one.
    assert_eq!(kvbroker_log::FORMAT_VERSION, 2);
    assert_eq!(sums(&disk), expected.map(|(sum, name)| (sum, name.to_owned())));
}

#[test]
fn a_log_of_version_1_is_read_and_goes_on() {
    let (disk, mut log) = small_log();
    log.close(500).unwrap();
    drop(log);
    for number in 1..=3 {
        let name = format!("table.txn.0000000{number}");
        let mut bytes = disk.contents(&name).unwrap();
        relabel(&mut bytes, 1, 0);
        disk.overwrite(&name, Some(bytes));
    }
    // These are the bytes that the first version wrote.
    let expected = [
        (8_951_756_664_632_253_462, MARK),
        (7_539_584_781_351_139_361, "table.txn.00000001"),
        (7_531_277_330_828_745_214, "table.txn.00000002"),
        (11_803_376_305_695_372_098, "table.txn.00000003"),
    ];
    assert_eq!(sums(&disk), expected.map(|(sum, name)| (sum, name.to_owned())));
    let (mut log, groups, _) = open(&disk).unwrap();
    assert_eq!(groups.len(), 13);
    log.seal().unwrap();
    log.seal().unwrap();
    assert_eq!(log.stats().segments, 4, "an empty segment is not ended");
    let fourth = disk.contents("table.txn.00000004").unwrap();
    assert_eq!((disk.contents("table.txn.00000003").unwrap()[8], fourth[8], fourth[85]), (1, 2, 1));
    drop(log);
    assert_eq!(open(&disk).unwrap().1.len(), 13);
}

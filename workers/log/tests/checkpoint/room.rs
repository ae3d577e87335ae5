//! A disk with little room: history gives way, checkpoints leave the log its room, and nothing that was acknowledged is lost.

use std::sync::Arc;

use kvbroker_log::{
    BatchBuilder, Cause, CheckpointError, CheckpointPolicy, Checkpointer, CrashChoice, FileLog, Log, LogError, SeededEntropy,
    SimStorage, Storage,
};

use crate::bench::{Model, open};

/// What the log of a test may take at once: its segments are at most so long.
const SEGMENT: u64 = 16 << 10;
const RESERVE: u64 = 60 << 10;

fn maker(disk: &SimStorage, log: &FileLog, reserve_bytes: u64) -> Checkpointer {
    maker_with(disk, log, u64::MAX, reserve_bytes)
}

fn maker_with(disk: &SimStorage, log: &FileLog, history_bytes: u64, reserve_bytes: u64) -> Checkpointer {
    let policy = CheckpointPolicy {
        floor_bytes: 1 << 30,
        memory_bytes: 8 << 10,
        piece_bytes: 4000,
        history_ms: u64::MAX,
        history_bytes,
        reserve_bytes,
    };
    let entropy = Box::new(SeededEntropy::new(disk.operations() ^ 0x55));
    Checkpointer::new(Arc::new(disk.clone()), log.segments(), policy, entropy)
}

fn make(maker: &mut Checkpointer) -> Result<(), CheckpointError> {
    let mut merging = maker.begin()?;
    while maker.advance(&mut merging, 700)?.percent < 100 {}
    Ok(())
}

/// The disk has so much room from now on, what is on it not counted.
fn leave(disk: &SimStorage, bytes: u64) {
    let names = disk.list().unwrap();
    let used: usize = names.iter().map(|name| disk.contents(name).unwrap().len()).sum();
    disk.set_capacity(used as u64 + bytes);
    assert_eq!(disk.free_bytes().unwrap(), Some(bytes));
}

fn free(disk: &SimStorage) -> u64 {
    disk.free_bytes().unwrap().unwrap()
}

fn append_sealed(log: &mut FileLog, model: &mut Model, segments: u64) {
    for _ in 0..segments {
        model.append_many(log, 10);
        log.seal().unwrap();
    }
}

#[test]
fn history_gives_way_as_far_as_room_is_needed_and_no_further_than_the_checkpoint() {
    let disk = SimStorage::new();
    let (mut log, ..) = open(&disk);
    let mut model = Model::default();
    let mut maker = maker(&disk, &log, RESERVE);
    append_sealed(&mut log, &mut model, 6);
    make(&mut maker).unwrap();
    append_sealed(&mut log, &mut model, 2);
    let segments = log.segments();
    let list = segments.list();
    // Not known how much there is; and just enough.
    assert!(!maker.is_low());
    assert_eq!(maker.trim(0).unwrap(), 0);
    leave(&disk, RESERVE);
    assert!(!maker.is_low());
    assert_eq!(maker.trim(0).unwrap(), 0);
    // A byte more than the first one gives.
    leave(&disk, RESERVE - list[0].bytes - 1);
    assert!(maker.is_low());
    assert_eq!(maker.trim(0).unwrap(), 2);
    assert!(!maker.is_low());
    let given_up = segments.given_up();
    assert_eq!((given_up.segments, given_up.bytes), (2, list[0].bytes + list[1].bytes));
    assert_eq!(segments.list()[0].number, 3);
    // No room at all: everything that is covered goes, nothing else.
    disk.set_capacity(0);
    assert_eq!(maker.trim(0).unwrap(), 4);
    assert_eq!((maker.trim(0).unwrap(), maker.is_low()), (0, true));
    assert_eq!(segments.list()[0].number, 7);
    assert_eq!((segments.history_bytes(), segments.given_up().segments), (0, 6));
    disk.set_capacity(u64::MAX);
    let (_log, _, taken) = open(&disk.after_power_failure(&CrashChoice::DropAll));
    assert_eq!(taken.table, model.table);
}

#[test]
fn what_goes_in_its_time_is_not_given_up() {
    let disk = SimStorage::new();
    let (mut log, ..) = open(&disk);
    let mut model = Model::default();
    let mut maker = maker_with(&disk, &log, 0, RESERVE);
    append_sealed(&mut log, &mut model, 3);
    make(&mut maker).unwrap();
    leave(&disk, 0);
    assert_eq!(maker.trim(0).unwrap(), 3);
    assert_eq!(log.segments().given_up().segments, 0);
}

/// Writes ten times of what the disk holds; gives how far it came.
fn write_on_a_small_disk(reserve_bytes: u64) -> Result<Model, String> {
    let capacity = RESERVE + 60 * 1024;
    let disk = SimStorage::new();
    disk.set_capacity(capacity);
    let (mut log, ..) = open(&disk);
    let mut model = Model::default();
    let mut maker = maker(&disk, &log, reserve_bytes);
    let mut written = 0;
    while written < 10 * capacity {
        let mut batch = BatchBuilder::new();
        model.revision += 1;
        let (key, value) = (vec![b't', (model.revision % 9) as u8], vec![model.revision as u8; 800]);
        batch.begin(model.revision);
        batch.group(model.revision, Cause::Request, None);
        batch.put(&key, &value);
        log.append(&mut batch).map_err(|error| error.to_string())?;
        written += value.len() as u64;
        model.table.insert(key, (value, model.revision));
        if model.revision.is_multiple_of(12) {
            log.seal().map_err(|error| error.to_string())?;
            make(&mut maker).map_err(|error| error.to_string())?;
            maker.trim(0).map_err(|error| error.to_string())?;
        }
    }
    assert!(log.segments().given_up().bytes > 8 * capacity);
    assert!(log.segments().history_bytes() > 0, "what there is room for is kept");
    assert_eq!(open(&disk.after_power_failure(&CrashChoice::DropAll)).2.table, model.table);
    Ok(model)
}

#[test]
fn a_small_disk_holds_a_small_table_however_much_is_written() {
    write_on_a_small_disk(RESERVE).unwrap();
    let error = write_on_a_small_disk(0).unwrap_err();
    assert!(error.contains("no space left"), "the history would have filled it: {error}");
}

#[test]
fn history_goes_while_a_checkpoint_is_being_made() {
    let disk = SimStorage::new();
    let (mut log, ..) = open(&disk);
    let mut model = Model::default();
    let mut maker = maker(&disk, &log, RESERVE);
    append_sealed(&mut log, &mut model, 4);
    make(&mut maker).unwrap();
    append_sealed(&mut log, &mut model, 4);
    // Less than a segment more than what is the log's: not enough for this checkpoint.
    leave(&disk, SEGMENT + 4000);
    let failed = make(&mut maker).unwrap_err();
    assert!(matches!(failed, CheckpointError::Later(LogError::Full { .. })), "{failed}");
    let mut merging = maker.begin().unwrap();
    let mut trimmed = 0;
    loop {
        trimmed += maker.trim(0).unwrap();
        if maker.advance(&mut merging, 100).unwrap().percent == 100 {
            break;
        }
    }
    assert_eq!((trimmed, log.segments().list()[0].number), (4, 5));
    assert_eq!(open(&disk.after_power_failure(&CrashChoice::DropAll)).2.table, model.table);
}

#[test]
fn a_checkpoint_ends_before_it_takes_the_last_room_of_the_log() {
    let disk = SimStorage::new();
    let (mut log, ..) = open(&disk);
    let mut model = Model::default();
    let mut maker = maker(&disk, &log, 0);
    append_sealed(&mut log, &mut model, 12);
    // Enough for half of what it writes.
    leave(&disk, SEGMENT + 8000);
    let mut merging = maker.begin().unwrap();
    let mut least = u64::MAX;
    let failed = loop {
        match maker.advance(&mut merging, 100) {
            Ok(progress) => assert!(progress.percent < 100),
            Err(error) => break error,
        }
        least = least.min(free(&disk));
    };
    assert!(matches!(failed, CheckpointError::Later(LogError::Full { .. })), "{failed}");
    // One step writes at most a run, 8 KiB, or a block.
    assert!((SEGMENT - (9 << 10)..SEGMENT).contains(&least), "{least}");
    assert_eq!(free(&disk), SEGMENT + 8000, "its files are gone");
    let said = failed.to_string();
    assert!(said.ends_with("no space left for /simulated/table.ckpt.tmp") && !said.contains("start again"), "{said}");
    model.append(&mut log);
    // The log may use what was left to it.
    leave(&disk, SEGMENT - 1);
    append_sealed(&mut log, &mut model, 1);
    leave(&disk, 1 << 20);
    make(&mut maker).unwrap();
    assert_eq!(open(&disk.after_power_failure(&CrashChoice::DropAll)).2.table, model.table);
}

#[test]
fn after_a_restart_on_a_disk_nearly_full_a_checkpoint_is_made_so_that_history_may_go() {
    let disk = SimStorage::new();
    let (mut log, ..) = open(&disk);
    let mut model = Model::default();
    {
        let mut maker = maker(&disk, &log, RESERVE);
        append_sealed(&mut log, &mut model, 6);
        make(&mut maker).unwrap();
    }
    model.append(&mut log);
    drop(log);
    let (log, ..) = open(&disk);
    let mut again = maker(&disk, &log, RESERVE);
    let segments = log.segments();
    let checkpoint = segments.checkpoint().unwrap();
    assert_eq!(segments.sealed_bytes(), 0, "nothing to take in");
    // How much room there is: not known; enough; too little for a checkpoint beside the log.
    assert!(!again.is_due());
    for (room, is_due) in [
        (RESERVE, false),
        (RESERVE - 1, true),
        (SEGMENT + checkpoint.bytes, true),
        (SEGMENT + checkpoint.bytes - 1, false),
        (0, false),
    ] {
        leave(&disk, room);
        assert_eq!((again.is_due(), again.trim(0).unwrap()), (is_due, 0), "{room}");
    }
    leave(&disk, SEGMENT + checkpoint.bytes);
    make(&mut again).unwrap();
    let published = segments.checkpoint().unwrap();
    assert_eq!((published.next_segment, published.revision), (checkpoint.next_segment, checkpoint.revision));
    assert!(again.trim(0).unwrap() > 0);
    assert!(!again.is_due(), "once is enough");
    assert_eq!(open(&disk.after_power_failure(&CrashChoice::DropAll)).2.table, model.table);
    // Without history there is nothing to gain.
    leave(&disk, 0);
    again.trim(0).unwrap();
    drop(log);
    disk.set_capacity(u64::MAX);
    let (log, ..) = open(&disk);
    leave(&disk, RESERVE - 1);
    assert_eq!((log.segments().history_bytes(), maker(&disk, &log, RESERVE).is_due()), (0, false));
}

#[test]
fn advice_for_a_start_is_not_given_while_serving() {
    let damaged = || LogError::Damaged { file: "table.ckpt".into(), offset: 9, what: "wrong".to_owned() };
    assert_eq!(damaged().fact(), "table.ckpt is damaged at byte 9: wrong");
    assert!(damaged().to_string().contains("`kvbroker PROJECT restore` takes a backup"));
    let said = CheckpointError::Damaged(damaged()).to_string();
    assert_eq!(said, "a checkpoint can't be made from the files: table.ckpt is damaged at byte 9: wrong");
}

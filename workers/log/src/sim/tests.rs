//! The simulated disk itself: what a crash, a kill and a failed sync leave.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use super::*;

fn write(disk: &SimStorage, name: &str, bytes: &[u8]) {
    let file = disk.open(name).or_else(|_| disk.create(name)).unwrap();
    file.write_at(bytes, 0).unwrap();
}

#[test]
fn only_what_was_synced_survives_and_a_name_needs_the_directory() {
    let disk = SimStorage::new();
    write(&disk, "a", b"one");
    disk.open("a").unwrap().sync().unwrap();
    assert_eq!(disk.after_power_failure(&CrashChoice::DropAll).contents("a"), None);
    disk.sync_directory().unwrap();
    write(&disk, "a", b"two");
    let lost = disk.after_power_failure(&CrashChoice::DropAll);
    assert_eq!(lost.contents("a").unwrap(), b"one");
    assert_eq!(disk.after_power_failure(&CrashChoice::KeepAll).contents("a").unwrap(), b"two");
    assert_eq!(disk.after_power_failure(&CrashChoice::Torn(0, Tear::Prefix(1))).contents("a").unwrap(), b"tne");
    assert_eq!(disk.after_power_failure(&CrashChoice::Torn(0, Tear::Suffix(2))).contents("a").unwrap(), b"ono");
    assert_eq!(disk.after_kill().contents("a").unwrap(), b"two");
    assert_eq!(disk.after_kill().after_power_failure(&CrashChoice::DropAll).contents("a").unwrap(), b"one");
}

#[test]
fn after_a_failed_sync_the_page_is_readable_and_clean_and_a_crash_drops_it() {
    let disk = SimStorage::new();
    write(&disk, "a", b"one");
    disk.sync_directory().unwrap();
    disk.inject(0, Fault::SyncFails);
    let file = disk.open("a").unwrap();
    file.sync().unwrap_err();
    file.sync().unwrap();
    assert_eq!(disk.contents("a").unwrap(), b"one");
    assert_eq!(disk.after_power_failure(&CrashChoice::KeepAll).contents("a").unwrap(), b"");
    file.write_at(b"one", 0).unwrap();
    file.sync().unwrap();
    assert_eq!(disk.after_power_failure(&CrashChoice::DropAll).contents("a").unwrap(), b"one");
}

#[test]
fn a_stop_leaves_the_operation_pending_and_refuses_the_rest() {
    let disk = SimStorage::new();
    write(&disk, "a", b"one");
    disk.sync_directory().unwrap();
    let file = disk.open("a").unwrap();
    file.sync().unwrap();
    disk.stop_at(disk.operations());
    file.write_at(b"two", 0).unwrap_err();
    file.read_at(&mut [0; 3], 0).unwrap_err();
    disk.list().unwrap_err();
    assert!(disk.is_stopped());
    assert_eq!(disk.after_power_failure(&CrashChoice::KeepAll).contents("a").unwrap(), b"two");
    assert_eq!(disk.after_kill().open("a").unwrap().length().unwrap(), 3);
}

#[test]
fn renames_are_kept_or_lost_whole_and_lengths_may_come_without_bytes() {
    let disk = SimStorage::new();
    write(&disk, "tmp", b"header");
    disk.rename("tmp", "name").unwrap();
    // Pending: link, write, rename.
    let renamed_early = disk.after_power_failure(&CrashChoice::KeepOnly(2));
    assert_eq!((renamed_early.contents("tmp"), renamed_early.contents("name").unwrap()), (None, vec![]));
    let without = disk.after_power_failure(&CrashChoice::LoseOnly(2));
    assert_eq!((without.contents("tmp").unwrap(), without.contents("name")), (b"header".to_vec(), None));
    let lengths = disk.after_power_failure(&CrashChoice::Torn(1, Tear::LengthOnly));
    assert_eq!(lengths.contents("tmp").unwrap(), [0; 6]);
    disk.open("name").unwrap().sync().unwrap();
    disk.sync_directory().unwrap();
    disk.remove("name").unwrap();
    assert_eq!(disk.after_power_failure(&CrashChoice::DropAll).contents("name").unwrap(), b"header");
    assert_eq!(disk.crash_choices(TearDetail::Sectors), [CrashChoice::DropAll, CrashChoice::KeepAll]);
}

#[test]
fn a_full_disk_takes_half_and_says_so() {
    let disk = SimStorage::new();
    write(&disk, "a", b"");
    disk.inject(disk.operations(), Fault::Full);
    let file = disk.open("a").unwrap();
    let error = file.write_at(b"12345678", 0).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert!(!disk.fault_is_waiting());
    assert_eq!(disk.contents("a").unwrap(), b"1234");
}

#[test]
fn every_byte_and_every_sector_of_a_write_can_be_torn() {
    let disk = SimStorage::new();
    write(&disk, "a", &[7; 1100]);
    disk.sync_directory().unwrap();
    // Sectors end at 512 and 1024: two prefixes, two suffixes, one lost sector, the length alone; and all or nothing; and the
    // lengths of the file, new and old.
    assert_eq!(disk.crash_choices(TearDetail::Sectors).len(), 2 + 4 + 1 + 1 + 2);
    assert_eq!(disk.crash_choices(TearDetail::LastWriteEvery(1)).len(), 2 + 2 * 1099 + 1 + 1 + 2);
}

/// What a process finds after a power failure: names and contents.
type Image = BTreeMap<String, Vec<u8>>;

fn image(disk: &SimStorage) -> Image {
    disk.list().unwrap().into_iter().map(|name| (name.clone(), disk.contents(&name).unwrap())).collect()
}

/// All that power failures leave of `disk`, each once.
fn images(disk: &SimStorage) -> BTreeSet<Image> {
    disk.crash_choices(TearDetail::Sectors).iter().map(|choice| image(&disk.after_power_failure(choice))).collect()
}

fn files<const N: usize>(files: [(&str, Vec<u8>); N]) -> Image {
    files.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect()
}

#[test]
fn of_several_files_everything_the_issue_lists_is_left_by_some_crash() {
    let disk = SimStorage::new();
    write(&disk, "log", &[1; 100]);
    write(&disk, "old", b"old");
    disk.open("log").unwrap().sync().unwrap();
    disk.open("old").unwrap().sync().unwrap();
    disk.sync_directory().unwrap();
    // Pending, over three files and their names: two writes to the log, of which one makes it longer; a temporary with its
    // name; an unlink.
    let log = disk.open("log").unwrap();
    log.write_at(&[2; 10], 0).unwrap();
    log.write_at(&[3; 600], 100).unwrap();
    write(&disk, "tmp", &[4; 20]);
    disk.remove("old").unwrap();

    let old = || ("old", b"old".to_vec());
    let first = |rest: &[u8]| [vec![2; 10], vec![1; 90], rest.to_vec()].concat();
    let second = |rest: &[u8]| [vec![1; 100], rest.to_vec()].concat();
    let written = || ("log", first(&[3; 600]));
    let tmp = || ("tmp", vec![4; 20]);
    let expected = [
        ("all pending dropped", files([("log", vec![1; 100]), old()])),
        ("all kept", files([written(), tmp()])),
        ("a prefix: one write", files([("log", first(&[])), old()])),
        ("a prefix: both writes", files([written(), old()])),
        ("a prefix: the name of the temporary without its bytes", files([written(), old(), ("tmp", vec![])])),
        ("a prefix: all but the unlink", files([written(), old(), tmp()])),
        ("only the second write", files([("log", second(&[3; 600])), old()])),
        ("only the temporary's name", files([("log", vec![1; 100]), old(), ("tmp", vec![])])),
        ("only the unlink", files([("log", vec![1; 100])])),
        ("all but the first write", files([("log", second(&[3; 600])), tmp()])),
        ("all but the second write", files([("log", first(&[])), tmp()])),
        ("all but the temporary's name", files([written()])),
        ("all but the temporary's bytes", files([written(), ("tmp", vec![])])),
        ("torn at the sector: its start", files([("log", first(&[3; 412])), old()])),
        ("torn at the sector: its end", files([("log", first(&[vec![0; 412], vec![3; 188]].concat())), old()])),
        ("the log's length without its bytes", files([("log", second(&[0; 600])), tmp()])),
        ("the log's bytes without its length", files([("log", first(&[])), tmp()])),
        ("the temporary's length without its bytes", files([written(), ("tmp", vec![0; 20])])),
        ("all of the log, no names", files([written(), old()])),
        ("all names, no bytes", files([("log", vec![1; 100]), ("tmp", vec![])])),
        ("all bytes, no names", files([written(), old()])),
        ("all but the log", files([("log", vec![1; 100]), tmp()])),
    ];
    let found = images(&disk);
    for (what, image) in expected {
        assert!(found.contains(&image), "no crash leaves this: {what}");
    }
}

#[test]
fn each_of_several_sectors_can_be_the_one_that_is_missing() {
    let disk = SimStorage::new();
    write(&disk, "a", &[1; 2048]);
    disk.open("a").unwrap().sync().unwrap();
    disk.sync_directory().unwrap();
    disk.open("a").unwrap().write_at(&[2; 2048], 0).unwrap();
    let found = images(&disk);
    // As a picture, a digit a sector.
    let pictures: BTreeSet<String> = found
        .iter()
        .map(|image| {
            image["a"]
                .chunks(512)
                .map(|sector| {
                    assert!(sector.iter().all(|byte| *byte == sector[0]), "sectors are written whole");
                    char::from(b'0' + sector[0])
                })
                .collect()
        })
        .collect();
    let expected = ["1111", "2222", "2111", "2211", "2221", "1222", "1122", "1112", "2122", "2212"];
    assert_eq!(pictures, expected.map(str::to_owned).into());
}

#[test]
fn a_rename_is_lost_kept_or_half_done_until_the_directory_is_synced() {
    let disk = SimStorage::new();
    write(&disk, "tmp", b"new");
    write(&disk, "name", b"old");
    disk.open("tmp").unwrap().sync().unwrap();
    disk.open("name").unwrap().sync().unwrap();
    disk.sync_directory().unwrap();
    disk.rename("tmp", "name").unwrap();
    let (new, old) = (|| b"new".to_vec(), || b"old".to_vec());
    let lost = files([("name", old()), ("tmp", new())]);
    let both = files([("name", new()), ("tmp", new())]);
    let kept = files([("name", new())]);
    assert_eq!(images(&disk), [lost, both.clone(), kept.clone()].into());
    disk.sync_directory().unwrap();
    assert_eq!(images(&disk), [kept.clone()].into());

    // A name that was free: the old name stays, or both are there.
    disk.rename("name", "other").unwrap();
    let moved = files([("other", new())]);
    assert_eq!(images(&disk), [kept, files([("name", new()), ("other", new())]), moved].into());
}

#[test]
fn a_file_with_both_names_of_a_rename_is_one_file() {
    let disk = SimStorage::new();
    write(&disk, "tmp", b"new");
    disk.open("tmp").unwrap().sync().unwrap();
    disk.sync_directory().unwrap();
    disk.rename("tmp", "name").unwrap();
    let disk = disk.after_power_failure(&CrashChoice::Torn(0, Tear::BothNames));
    write(&disk, "tmp", b"NEW");
    assert_eq!(disk.contents("name").unwrap(), b"NEW");
    // Emptying one empties both; removing one leaves the other.
    disk.create("tmp").unwrap();
    assert_eq!(disk.contents("name").unwrap(), b"");
    disk.remove("tmp").unwrap();
    disk.create("tmp").unwrap().write_at(b"else", 0).unwrap();
    assert_eq!(disk.contents("name").unwrap(), b"");
}

#[test]
fn lengths_that_were_lost_leave_what_the_file_had_room_for() {
    let disk = SimStorage::new();
    write(&disk, "a", b"12345678");
    let file = disk.open("a").unwrap();
    file.sync().unwrap();
    disk.sync_directory().unwrap();
    file.extend(8, 12).unwrap();
    file.write_at(b"abcdef", 6).unwrap();
    let contents = |choice| disk.after_power_failure(&choice).contents("a").unwrap();
    assert_eq!(contents(CrashChoice::OldLengthOf(0)), b"123456ab");
    assert_eq!(contents(CrashChoice::LengthOf(0)), b"12345678\0\0\0\0");
    assert_eq!(contents(CrashChoice::KeepOnly(1)), b"123456abcdef");
    // A file that was emptied and written again: what is longer of both.
    file.set_length(0).unwrap();
    file.write_at(b"xy", 0).unwrap();
    assert_eq!(contents(CrashChoice::KeepOnly(3)), b"xy345678");
    assert_eq!(contents(CrashChoice::LoseOnly(2)), b"xy3456abcdef");
}

#[test]
fn reading_past_the_cache_shows_what_the_disk_has() {
    let disk = SimStorage::new();
    let file = disk.create("a").unwrap();
    file.write_at(b"synced", 0).unwrap();
    file.sync().unwrap();
    file.write_at(b"SYN", 0).unwrap();
    let past = disk.open_past_cache("a").unwrap();
    let read = |file: &dyn StorageFile| {
        let mut bytes = [0; 10];
        let count = file.read_at(&mut bytes, 0).unwrap();
        bytes[..count].to_vec()
    };
    assert_eq!(read(&*past), b"synced");
    assert_eq!(read(&*disk.open("a").unwrap()), b"SYNced");
    // A failed sync leaves the cache ahead of the disk for good.
    disk.inject(0, Fault::SyncFails);
    assert!(file.sync().is_err() && file.sync().is_ok());
    assert_eq!(read(&*past), b"synced");
    assert_eq!(past.write_at(b"x", 0).unwrap_err().kind(), io::ErrorKind::Unsupported);
    assert_eq!(past.length().unwrap(), 6);
}

#[test]
fn a_disk_that_lies_loses_one_write_and_the_cache_does_not_show_it() {
    let disk = SimStorage::new();
    let file = disk.create("a").unwrap();
    disk.sync_directory().unwrap();
    disk.lose_a_write_of("a");
    disk.create("b").unwrap().sync().unwrap();
    assert!(disk.lie_is_waiting(), "it is about another file");
    file.write_at(b"one", 0).unwrap();
    file.write_at(b"two", 3).unwrap();
    file.sync().unwrap();
    assert!(!disk.lie_is_waiting());
    assert_eq!(disk.contents("a").unwrap(), b"onetwo");
    let mut bytes = [9; 6];
    assert_eq!(disk.open_past_cache("a").unwrap().read_at(&mut bytes, 0).unwrap(), 6);
    assert_eq!(&bytes, b"\0\0\0two");
    assert_eq!(disk.after_power_failure(&CrashChoice::KeepAll).contents("a").unwrap(), b"\0\0\0two");
}

#[test]
fn damage_is_seen_by_everybody() {
    let disk = SimStorage::new();
    write(&disk, "a", b"abc");
    disk.open("a").unwrap().sync().unwrap();
    assert!(disk.damage("a", 1, 0xff) && !disk.damage("a", 3, 1) && !disk.damage("b", 0, 1));
    assert_eq!(disk.contents("a").unwrap(), [b'a', !b'b', b'c']);
    disk.sync_directory().unwrap();
    assert_eq!(disk.after_power_failure(&CrashChoice::DropAll).contents("a").unwrap(), [b'a', !b'b', b'c']);
}

#[test]
fn a_disk_with_a_bound_gets_full_and_a_removed_file_makes_room() {
    let disk = SimStorage::new();
    assert_eq!(disk.free_bytes().unwrap(), None);
    disk.set_capacity(10);
    write(&disk, "a", b"seven b");
    assert_eq!(disk.free_bytes().unwrap(), Some(3));
    let file = disk.create("b").unwrap();
    assert_eq!(file.write_at(b"four", 0).unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert_eq!(file.extend(0, 4).unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert_eq!(disk.contents("b").unwrap(), b"");
    write(&disk, "a", b"SEVEN B");
    disk.remove("a").unwrap();
    assert_eq!(disk.free_bytes().unwrap(), Some(10));
    file.extend(0, 10).unwrap();
    assert_eq!(disk.after_kill().free_bytes().unwrap(), Some(0));
    assert_eq!(disk.after_power_failure(&CrashChoice::DropAll).free_bytes().unwrap(), Some(10));
}

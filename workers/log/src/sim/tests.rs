//! The simulated disk itself: what a crash, a kill and a failed sync leave.
#![allow(clippy::unwrap_used)]

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
    // Sectors end at 512 and 1024: two prefixes, two suffixes, one lost sector, the length alone; and all or nothing.
    assert_eq!(disk.crash_choices(TearDetail::Sectors).len(), 2 + 4 + 1 + 1);
    assert_eq!(disk.crash_choices(TearDetail::LastWriteEvery(1)).len(), 2 + 2 * 1099 + 1 + 1);
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

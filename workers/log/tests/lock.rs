//! The data directory's lock: one holder, stale locks taken by exactly one, other hosts respected. Real processes where it matters.
#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::thread;

use kvbroker_log::{DirLock, LockError, LockHolder, LockOutcome};
use uuid::Uuid;

/// Set for the process that plays the holder in `a_lock_left_by_kill_is_taken`.
const CHILD: &str = "KVBROKER_LOG_TEST_LOCK_CHILD";

fn holder() -> LockHolder {
    LockHolder::this_process(Uuid::new_v4()).unwrap()
}

fn lock_text(host: &str, boot: &str) -> String {
    format!("kvbroker lock 1\nhost {host}\nboot {boot}\npid 1\nuuid {}\n", Uuid::nil())
}

#[test]
fn a_second_holder_is_refused_by_name_until_the_first_lets_go() {
    let directory = tempfile::tempdir().unwrap();
    let me = holder();
    let (lock, outcome) = DirLock::acquire(directory.path(), me.clone(), false).unwrap();
    assert_eq!(outcome, LockOutcome::Free);
    lock.verify().unwrap();
    let text = fs::read_to_string(directory.path().join("lock")).unwrap();
    for part in [&me.host, &me.boot_id, &me.pid.to_string(), &me.uuid.to_string()] {
        assert!(text.contains(part.as_str()), "{text}");
    }
    // Not even with a take-over: the flock says that the holder lives.
    for take_over in [false, true] {
        match DirLock::acquire(directory.path(), holder(), take_over) {
            Err(LockError::Held { holder, .. }) => assert_eq!(holder, me),
            other => panic!("{other:?}"),
        }
    }
    drop(lock);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "nothing is left behind");
    let (_, outcome) = DirLock::acquire(directory.path(), holder(), false).unwrap();
    assert_eq!(outcome, LockOutcome::Free);
}

#[test]
fn the_lock_of_another_host_needs_a_take_over() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lock");
    fs::write(&path, lock_text("elsewhere", "another-boot")).unwrap();
    let error = DirLock::acquire(directory.path(), holder(), false).unwrap_err();
    assert!(matches!(&error, LockError::OtherHost { holder, .. } if holder.host == "elsewhere"));
    assert!(error.to_string().contains("--take-over"));
    let (lock, outcome) = DirLock::acquire(directory.path(), holder(), true).unwrap();
    assert!(matches!(outcome, LockOutcome::TakenOver(Some(old)) if old.host == "elsewhere"));
    // And the other way round: a holder that was taken over can notice, and leaves the new lock alone.
    fs::remove_file(&path).unwrap();
    fs::write(&path, lock_text("elsewhere", "another-boot")).unwrap();
    assert!(matches!(lock.verify(), Err(LockError::Lost { .. })));
    drop(lock);
    assert!(path.exists());
}

#[test]
fn a_reboot_makes_a_lock_stale_and_a_strange_file_is_not_removed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lock");
    fs::write(&path, lock_text(&holder().host, "the-boot-before")).unwrap();
    let (lock, outcome) = DirLock::acquire(directory.path(), holder(), false).unwrap();
    assert!(matches!(outcome, LockOutcome::Stale(old) if old.boot_id == "the-boot-before"));
    drop(lock);
    for text in ["", "dear diary", "kvbroker lock 2\nhost x\n", &"x".repeat(10_000)] {
        fs::write(&path, text).unwrap();
        assert!(matches!(DirLock::acquire(directory.path(), holder(), false), Err(LockError::Unreadable { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
    let (_, outcome) = DirLock::acquire(directory.path(), holder(), true).unwrap();
    assert_eq!(outcome, LockOutcome::TakenOver(None));
}

#[test]
fn of_many_that_find_a_stale_lock_exactly_one_gets_it() {
    let directory = tempfile::tempdir().unwrap();
    for round in 0..20 {
        if round % 2 == 0 {
            fs::write(directory.path().join("lock"), lock_text(&holder().host, "the-boot-before")).unwrap();
        }
        let start = Barrier::new(6);
        let done = Barrier::new(6);
        let winners: Vec<bool> = thread::scope(|scope| {
            let racers: Vec<_> = (0..6)
                .map(|_| {
                    scope.spawn(|| {
                        start.wait();
                        let lock = DirLock::acquire(directory.path(), holder(), false);
                        // Held until all have tried.
                        done.wait();
                        lock.is_ok()
                    })
                })
                .collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).collect()
        });
        assert_eq!(winners.iter().filter(|&&won| won).count(), 1, "round {round}");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "round {round}");
    }
}

#[test]
fn a_lock_left_by_kill_is_taken() {
    if let Some(directory) = std::env::var_os(CHILD) {
        let _lock = DirLock::acquire(Path::new(&directory), holder(), false).unwrap();
        println!("locked");
        std::io::stdout().flush().unwrap();
        // Until the parent kills this process, or dies itself.
        let _ = std::io::stdin().read_line(&mut String::new());
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_lock_left_by_kill_is_taken", "--nocapture"])
        .env(CHILD, directory.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    while !lines.next().expect("the child locks before it ends").unwrap().contains("locked") {}
    let held = DirLock::acquire(directory.path(), holder(), false).unwrap_err();
    assert!(matches!(&held, LockError::Held { holder, .. } if holder.pid == child.id()), "{held}");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(File::open(directory.path().join("lock")).is_ok(), "kill leaves the lock file");
    let (_, outcome) = DirLock::acquire(directory.path(), holder(), false).unwrap();
    assert!(matches!(outcome, LockOutcome::Stale(old) if old.pid == child.id()));
}

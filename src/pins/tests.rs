//! The file of accepted keys: what is kept, what is refused, and two programs at once.

#![allow(clippy::unwrap_used)]

use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

const ONE: PublicKey = PublicKey::from_bytes([1; 32]);
const TWO: PublicKey = PublicKey::from_bytes([2; 32]);

fn project(name: &str) -> ProjectName {
    name.parse().unwrap()
}

fn file(dir: &Path) -> PathBuf {
    dir.join(KNOWN_BROKERS_FILE)
}

fn write(dir: &Path, text: &str) {
    fs::write(file(dir), text).unwrap();
    fs::set_permissions(file(dir), fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn what_is_remembered_is_there_the_next_time_and_nobody_elses() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("config");
    assert_eq!(Pins::load(&dir).unwrap(), Pins::default());
    assert!(!dir.exists(), "looking makes nothing");
    remember(&dir, "ann", &project("lab"), &ONE).unwrap();
    remember(&dir, "ann", &project("lab"), &ONE).unwrap();
    remember(&dir, "Bob \"B\" # C", &project("lab"), &TWO).unwrap();
    remember(&dir, "ann", &project("other"), &TWO).unwrap();
    let pins = Pins::load(&dir).unwrap();
    let key = |owner, name| pins.of(owner, &project(name)).map(|pin| pin.key);
    assert_eq!(pins.all().len(), 3);
    assert_eq!((key("ann", "lab"), key("ann", "other")), (Some(ONE), Some(TWO)));
    assert_eq!((key("Bob \"B\" # C", "lab"), key("bob", "lab")), (Some(TWO), None));
    assert_eq!(fs::metadata(file(&dir)).unwrap().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(&dir).unwrap().mode() & 0o777, 0o700);
    let left_over: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left_over, [KNOWN_BROKERS_FILE], "nothing temporary stays");
}

#[test]
fn another_key_never_replaces_one() {
    let dir = tempfile::tempdir().unwrap();
    remember(dir.path(), "ann", &project("lab"), &ONE).unwrap();
    let before = fs::read_to_string(file(dir.path())).unwrap();
    let error = remember(dir.path(), "ann", &project("lab"), &TWO).unwrap_err();
    assert!(matches!(error, PinError::Taken { line: 3, .. }), "{error}");
    assert_eq!(fs::read_to_string(file(dir.path())).unwrap(), before);
}

#[test]
fn comments_and_a_missing_last_line_feed_survive() {
    let dir = tempfile::tempdir().unwrap();
    let text = format!("# mine\n\n  ann lab {ONE}   # since school");
    write(dir.path(), &text);
    remember(dir.path(), "bob", &project("lab"), &TWO).unwrap();
    let after = fs::read_to_string(file(dir.path())).unwrap();
    assert!(after.starts_with(&format!("{text}\nbob lab {TWO} # 20")), "{after}");
}

#[test]
fn a_file_that_cannot_be_understood_is_an_error_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let secret = format!("kvsec1{}", "5e".repeat(32));
    let cases = [
        (format!("ann lab {ONE}\nbob\n"), "line 2: it has one word only"),
        ("ann lab\n".to_owned(), "line 1: it has no key"),
        (format!("ann ../lab {ONE}\n"), "line 1: "),
        (format!("ann lab {}\n", &ONE.to_string()[..60]), "line 1: kvpub1 must be followed by exactly 64 hex digits"),
        (format!("ann lab {secret}\n"), "line 1: it is a secret key"),
        (format!("ann lab {ONE} more\n"), "line 1: it goes on after the key"),
        (format!("\"ann lab {ONE}\n"), "line 1: its owner is no JSON string"),
        (format!("ann\u{7} lab {ONE}\n"), "line 1: its owner is not printable ASCII"),
        (format!("ann lab {ONE}\n#\nann lab {TWO}\n"), "line 3: ann's lab has another key in line 1 already"),
    ];
    for (text, part) in cases {
        write(dir.path(), &text);
        let error = Pins::load(dir.path()).unwrap_err().to_string();
        assert!(error.contains(part), "{text:?}: {error}");
        assert!(!error.contains("5e5e"), "a secret is never repeated: {error}");
        assert!(remember(dir.path(), "eve", &project("lab"), &ONE).is_err());
        assert_eq!(fs::read_to_string(file(dir.path())).unwrap(), text);
    }
    write(dir.path(), &format!("ann lab {ONE}\nann lab {ONE}\n"));
    assert_eq!(Pins::load(dir.path()).unwrap().all().len(), 1);
    fs::write(file(dir.path()), b"ann \xff").unwrap();
    assert!(Pins::load(dir.path()).unwrap_err().to_string().contains("it is not text"));
    write(dir.path(), &"#\n".repeat(1 << 19));
    assert!(Pins::load(dir.path()).is_ok());
    write(dir.path(), &"#\n".repeat((1 << 19) + 1));
    assert!(Pins::load(dir.path()).unwrap_err().to_string().contains("more than 1048576 bytes"));
}

#[test]
fn a_file_that_others_can_write_proves_nothing() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("config");
    remember(&dir, "ann", &project("lab"), &ONE).unwrap();
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    mode(&file(&dir), 0o644);
    assert!(Pins::load(&dir).is_ok(), "these are public keys");
    mode(&file(&dir), 0o620);
    let error = Pins::load(&dir).unwrap_err();
    assert!(error.to_string().contains("chmod go-w"), "{error}");
    mode(&file(&dir), 0o600);
    mode(&dir, 0o770);
    assert!(matches!(Pins::load(&dir), Err(PinError::Directory(_))));
    mode(&dir, 0o700);
    let away = home.path().join("away");
    fs::rename(file(&dir), &away).unwrap();
    symlink(&away, file(&dir)).unwrap();
    assert!(matches!(Pins::load(&dir), Err(PinError::NotAFile { .. })));
    fs::remove_file(file(&dir)).unwrap();
    fs::create_dir(file(&dir)).unwrap();
    assert!(matches!(Pins::load(&dir), Err(PinError::NotAFile { .. })));
}

#[test]
fn programs_that_accept_keys_at_once_lose_none() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("config");
    let start = std::sync::Barrier::new(8);
    std::thread::scope(|scope| {
        for n in 0..8_u8 {
            let (dir, start) = (&dir, &start);
            scope.spawn(move || {
                start.wait();
                for m in 0..10_u8 {
                    let name = format!("p{n}-{m}");
                    remember(dir, "ann", &project(&name), &PublicKey::from_bytes([n; 32])).unwrap();
                }
            });
        }
    });
    assert_eq!(Pins::load(&dir).unwrap().all().len(), 80);
}

#[test]
fn of_two_first_acceptances_with_different_keys_one_wins() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("config");
    let start = std::sync::Barrier::new(2);
    let outcomes: Vec<bool> = std::thread::scope(|scope| {
        let run = |key: &'static PublicKey| {
            let (dir, start) = (&dir, &start);
            scope.spawn(move || {
                start.wait();
                remember(dir, "ann", &project("lab"), key).is_ok()
            })
        };
        [run(&ONE), run(&TWO)].map(|thread| thread.join().unwrap()).to_vec()
    });
    assert_eq!(outcomes.iter().filter(|won| **won).count(), 1);
    let kept = Pins::load(&dir).unwrap().of("ann", &project("lab")).unwrap().key;
    assert_eq!(kept, if outcomes[0] { ONE } else { TWO });
}

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Barrier;

use super::*;

fn counting_secret() -> SecretKey {
    SecretKey::from_bytes(std::array::from_fn(|i| u8::try_from(i).unwrap()))
}

fn project(name: &str) -> ProjectName {
    name.parse().unwrap()
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// The expected values come from Python, which shares no code with this program:
///
/// ```python
/// import hashlib
/// key = bytes(range(32))
/// text = b"kvbroker project key 1\0" + b"NETID-a5"
/// hashlib.blake2b(text, key=key, digest_size=32).hexdigest()
/// ```
///
/// and, for the public keys, from a Montgomery ladder written after RFC 7748.
#[test]
fn derived_keys_are_what_another_language_computes() {
    let cases = [
        (
            "NETID-a5",
            "0c4e519bada759b879980ef53998c0c3a1e6df51c8206b9311665ed97cdf0c25",
            "ed69edd5662b4224668503b2a8d47ddb53f4d93c7d8815aaa472de1694635a03",
        ),
        (
            "x",
            "772453f4184a1b05d440320a8f3d4d818bbc74a6a5dd8a796594c782900c8f34",
            "2c7fcac4c136b0d5f903393d15896d8011399b03e21c31bd0ca9243a3be48b77",
        ),
    ];
    let owner = KeyPair::from_secret(counting_secret()).unwrap();
    assert_eq!(owner.public().to_hex(), "8f40c5adb68f25624ae5b214ea767a6ec94d829d3d7b5e1ad1ba6f3e2138285f");
    for (name, secret, public) in cases {
        let derived = owner.project(&project(name)).unwrap();
        assert_eq!(hex(derived.secret().expose_bytes()), secret);
        assert_eq!(derived.public().to_hex(), public);
    }
}

#[test]
fn text_forms_come_back_and_anything_else_is_refused() {
    let pair = KeyPair::generate().unwrap();
    let public = pair.public().to_string();
    assert_eq!(public.parse::<PublicKey>().unwrap(), *pair.public());
    assert_eq!(public.to_uppercase().replace("KVPUB", "kvpub").parse::<PublicKey>().unwrap(), *pair.public());
    let secret = pair.secret().expose_text();
    assert!(SecretKey::from_text(&secret).unwrap() == *pair.secret());

    let expected = PUBLIC_KEY_PREFIX;
    let short = public.get(..public.len() - 1).unwrap().to_owned();
    let cases = [
        (String::new(), KeyTextError::Prefix { expected }),
        (secret.to_string(), KeyTextError::Secret),
        (short.clone(), KeyTextError::Digits { expected }),
        (format!("{public}0"), KeyTextError::Digits { expected }),
        (format!("{short}g"), KeyTextError::Digits { expected }),
        (format!("{} ", short), KeyTextError::Digits { expected }),
        (format!("kvpub1{}", "é".repeat(32)), KeyTextError::Digits { expected }),
    ];
    for (text, error) in cases {
        assert_eq!(text.parse::<PublicKey>(), Err(error), "{text}");
    }
}

#[test]
fn secrets_are_never_shown() {
    let pair = KeyPair::generate().unwrap();
    let digits = hex(pair.secret().expose_bytes());
    let shown = format!("{pair:?} {:?}", pair.secret());
    assert!(!shown.contains(&digits), "{shown}");
    // A damaged secret must not be repeated in a complaint.
    let error = SecretKey::from_text(&format!("kvsec1{digits}77")).unwrap_err();
    assert!(!error.to_string().contains(&digits) && !format!("{error:?}").contains(&digits));
}

#[test]
fn the_first_use_makes_a_private_file_and_the_next_reads_it() {
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("a/b");
    let made = load_or_create_owner_key(&directory).unwrap();
    let file = directory.join(OWNER_KEY_FILE);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
    // Nothing is left beside it.
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains(&made.public().to_string()));

    let again = load_or_create_owner_key(&directory).unwrap();
    assert_eq!(again.public(), made.public());
}

#[test]
fn of_many_first_uses_one_wins_and_all_agree() {
    const THREADS: usize = 8;
    let home = tempfile::tempdir().unwrap();
    let barrier = Barrier::new(THREADS);
    let keys: Vec<PublicKey> = std::thread::scope(|scope| {
        let use_it = || {
            barrier.wait();
            *load_or_create_owner_key(home.path()).unwrap().public()
        };
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(use_it)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(keys.iter().all(|key| *key == keys[0]));
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
}

#[test]
fn loose_modes_are_refused_with_the_command_to_type() {
    let home = tempfile::tempdir().unwrap();
    load_or_create_owner_key(home.path()).unwrap();
    let file = home.path().join(OWNER_KEY_FILE);
    for mode in [0o640, 0o604, 0o620, 0o601] {
        set_mode(&file, mode);
        let error = load_or_create_owner_key(home.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("chmod 600 '{}'", file.display())), "{error}");
    }
    set_mode(&file, 0o400);
    load_or_create_owner_key(home.path()).unwrap();

    set_mode(home.path(), 0o770);
    let error = load_or_create_owner_key(home.path()).unwrap_err().to_string();
    assert!(error.contains("chmod go-w"), "{error}");
    set_mode(home.path(), 0o755);
    load_or_create_owner_key(home.path()).unwrap();
}

#[test]
fn key_files_may_have_comments_and_nothing_else() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("project.key");
    let secret = counting_secret();
    let line = secret.expose_text();
    let write = |text: &[u8]| {
        fs::write(&file, text).unwrap();
        set_mode(&file, 0o600);
        load_key_file(&file)
    };
    for text in [line.to_string(), format!("# why\r\n\r\n  {}  \r\n# more", *line)] {
        assert!(*write(text.as_bytes()).unwrap().secret() == secret, "{text:?}");
    }
    let public = KeyPair::from_secret(secret.clone()).unwrap().public().to_string();
    let twice = format!("{}\n{}", *line, *line);
    let hostile: [(&[u8], &str); 6] = [
        (b"", "it has no such line"),
        (public.as_bytes(), "starts with kvsec1"),
        (twice.as_bytes(), "more than one line"),
        (b"kvsec1\xff", "it is not text"),
        (&vec![b'#'; 5_000], "it has 5000 bytes"),
        (&line.as_bytes()[..40], "64 hex digits"),
    ];
    for (text, expected) in hostile {
        let error = write(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert!(!error.contains("000102"), "{error}");
    }
}

#[test]
fn other_kinds_of_files_are_refused_at_once() {
    let home = tempfile::tempdir().unwrap();
    let fifo = home.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR, 0)
        .unwrap();
    assert!(matches!(load_key_file(&fifo), Err(KeyFileError::NotAFile { .. })));
    assert!(matches!(load_key_file(home.path()), Err(KeyFileError::NotAFile { .. })));
    assert!(matches!(load_key_file(&home.path().join("none")), Err(KeyFileError::Io { .. })));

    // A symlink to a private file of one's own is fine: dotfiles are often kept so.
    load_or_create_owner_key(home.path()).unwrap();
    let link = home.path().join("link");
    symlink(home.path().join(OWNER_KEY_FILE), &link).unwrap();
    load_key_file(&link).unwrap();
}

#[test]
fn the_memory_of_this_process_stays_out_of_core_files() {
    keep_secrets_out_of_core_files().unwrap();
    let behavior = rustix::process::dumpable_behavior().unwrap();
    assert_eq!(behavior, rustix::process::DumpableBehavior::NotDumpable);
}

#[test]
fn a_public_key_has_one_text_on_the_wire_and_here() {
    let public = *KeyPair::from_secret(counting_secret()).unwrap().public();
    let user = UserKey::from(public);
    assert_eq!(user.to_string(), public.to_string());
    assert_eq!(user.to_string().parse(), Ok(user));
    assert_eq!(PublicKey::from(user), public);
}

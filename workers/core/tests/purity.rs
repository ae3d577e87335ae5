//! The core and the protocol have no way to reach the world, and nothing in them depends on chance.
//!
//! - Every package they are built from stands on a list; a new one is a decision, not an accident.
//! - Their sources name no file, socket, thread, clock, environment or random number, and no map with a random order.
//!
//! Caveat: the scan reads words, not meaning. It catches what slips in; it does not stop someone who hides.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;

/// What core and protocol may be built from, each with what it does. None of them opens a file or a socket, reads a clock or
/// starts a thread when it is used as it is here.
const PURE_PACKAGES: &[&str] = &[
    "kvbroker-core",
    "kvbroker-protocol",
    // Texts and numbers: base64, float and integer formatting, MessagePack markers, JSON.
    "base64",
    "itoa",
    "zmij",
    "num-traits",
    "rmp",
    "serde",
    "serde_core",
    "serde_json",
    // The hash of a request.
    "twox-hash",
    // Regular expressions.
    "regex",
    "regex-automata",
    "regex-syntax",
    "aho-corasick",
    "memchr",
    // A hash of bytes.
    "twox-hash",
    // Error types.
    "thiserror",
    // Run at build time only: derive macros and what they are made of.
    "serde_derive",
    "thiserror-impl",
    "proc-macro2",
    "quote",
    "syn",
    "unicode-ident",
];

/// What the sources must not say. `std::io` stands here although a `Write` into memory would be harmless: none is needed.
const FORBIDDEN: &[&str] = &[
    "std::fs",
    "std::net",
    "std::os",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "Instant::",
    "SystemTime",
    "std::env",
    "std::process",
    "std::io",
    "HashMap",
    "HashSet",
    "RandomState",
    "rand::",
    "getrandom",
    "thread_rng",
    "println!",
    "print!",
    "eprintln!",
    "eprint!",
    "dbg!",
    "static mut",
    "thread_local!",
    "unsafe",
    "extern \"C\"",
    "include_str!",
    "include_bytes!",
];

/// Paths inside braces, as in `use std::{fs, time::Instant}`.
const FORBIDDEN_IN_STD_BRACES: &[&str] =
    &["fs", "net", "os", "thread", "env", "process", "io", "Instant", "SystemTime", "HashMap", "HashSet"];

/// The lines of a source that break the rules, with the word that does. Comments count for nothing.
fn offences(source: &str) -> Vec<(usize, &'static str)> {
    let code: Vec<&str> = source.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
    let mut found = Vec::new();
    for (at, line) in code.iter().enumerate() {
        found.extend(FORBIDDEN.iter().filter(|word| says(line, word)).map(|word| (at + 1, *word)));
        // A `use` with braces goes on over lines, up to its semicolon.
        if let Some((_, rest)) = line.split_once("std::").filter(|(_, rest)| rest.contains('{')) {
            let statement = [&[rest], &code[at + 1..]].concat().join(" ");
            let statement = statement.split(';').next().unwrap_or_default();
            let words = statement.split(|c: char| !c.is_alphanumeric() && c != '_');
            let named = FORBIDDEN_IN_STD_BRACES.iter().filter(|word| words.clone().any(|said| said == **word));
            found.extend(named.map(|word| (at + 1, *word)));
        }
    }
    found
}

/// True if `code` has `word` not as the end of a longer name (`println!` is not also `print!`-something, `brand::` is not `rand::`).
fn says(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
}

fn package_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

#[test]
fn every_package_behind_the_core_is_a_pure_one() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let tree = Command::new(cargo)
        .args(["tree", "-p", "kvbroker-core", "-e", "normal", "--offline", "--prefix", "none"])
        .current_dir(package_dir())
        .output()
        .unwrap();
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let tree = String::from_utf8(tree.stdout).unwrap();
    let mut packages: Vec<&str> = tree.lines().filter_map(|line| line.split_whitespace().next()).collect();
    packages.sort_unstable();
    packages.dedup();
    let strangers: Vec<&&str> = packages.iter().filter(|name| !PURE_PACKAGES.contains(name)).collect();
    assert!(strangers.is_empty(), "these packages are new behind the core; are they pure? {strangers:?}");
    // A list that names more than there is hides what was allowed once.
    let gone: Vec<&&str> = PURE_PACKAGES.iter().filter(|name| !packages.contains(name)).collect();
    assert!(gone.is_empty(), "these packages are on the list and not behind the core: {gone:?}");
}

#[test]
fn no_source_of_core_or_protocol_reaches_the_world() {
    let files = [sources(&package_dir().join("src")), sources(&package_dir().join("../../protocol/src"))].concat();
    assert!(files.len() > 20, "the sources moved: only {} were found", files.len());
    let mut all = Vec::new();
    for file in files {
        let source = std::fs::read_to_string(&file).unwrap();
        all.extend(offences(&source).into_iter().map(|(line, word)| format!("{}:{line} says {word}", file.display())));
    }
    assert!(all.is_empty(), "{}", all.join("\n"));
}

#[test]
fn the_scan_catches_what_is_planted() {
    let clean = "use std::collections::BTreeMap;\nlet brand::x = my_println!(); // std::fs is only talked about\n";
    assert_eq!(offences(clean), []);
    for (planted, word) in [
        ("use std::fs::File;", "std::fs"),
        ("    let now = std::time::Instant::now();", "std::time::Instant"),
        ("use std::{collections::BTreeMap, fs};", "fs"),
        ("use std::{\n    collections::BTreeMap,\n    thread,\n};", "thread"),
        ("use std::time::{Duration, SystemTime};", "SystemTime"),
        ("let map: HashMap<u8, u8> = HashMap::new();", "HashMap"),
        ("let seed = rand::random::<u64>();", "rand::"),
        ("println!(\"{x}\"); // for now", "println!"),
        ("eprintln!();", "eprintln!"),
        ("unsafe { *p }", "unsafe"),
        ("std::thread::sleep(d);", "std::thread"),
        ("let home = std::env::var(\"HOME\");", "std::env"),
        ("std::process::exit(1);", "std::process"),
        ("std::net::TcpStream::connect(a)", "std::net"),
        ("use std::io::Write as _;", "std::io"),
    ] {
        let source = format!("{clean}fn f() {{\n{planted}\n}}\n");
        let found = offences(&source);
        assert!(found.contains(&(4, word)), "{planted}: {found:?}");
    }
}

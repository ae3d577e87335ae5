//! What the documents say about the programs, compared with the programs; and whether the documents hang together.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use kvbroker::exit::Exit;
use kvbroker_protocol::limits;
use kvbroker_tests::{Broker, left_out, program};
use regex::Regex;
use serde_json::json;

const README: &str = include_str!("../../README.md");
const OPERATIONS: &str = include_str!("../../docs/operations.md");

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// The text below a heading, up to the next one that is not deeper.
fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let start = text.find(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("there is a heading {heading:?}")) + 1;
    let body = &text[start + heading.len()..];
    let depth = heading.bytes().take_while(|byte| *byte == b'#').count();
    let end = Regex::new(&format!("(?m)^#{{1,{depth}}} ")).unwrap().find(body).map_or(body.len(), |found| found.start());
    &body[..end]
}

/// Rows of all tables in a text, heads left out.
fn rows(text: &str) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for line in text.lines().filter(|line| line.starts_with('|')) {
        if line.starts_with("|---") {
            rows.pop();
            continue;
        }
        let cells = line.trim_matches('|').replace("\\|", "\u{0}");
        rows.push(cells.split('|').map(|cell| cell.trim().replace('\u{0}', "|")).collect());
    }
    rows
}

fn help(name: &str) -> String {
    help_of(name, &[])
}

fn help_of(name: &str, words: &[&str]) -> String {
    let output = Command::new(program(name)).args(words).arg("--help").stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_flag_is_documented_and_nothing_else() {
    let flag = Regex::new(r"(?m)^ +(?:-\w, )?(--[a-z-]+)").unwrap();
    let shown = Regex::new("(--[a-z-]+)").unwrap();
    let variable = Regex::new(r"\[env: (\w+)=").unwrap();
    let found = |pattern: &Regex, text: &str| -> BTreeSet<String> {
        pattern.captures_iter(text).map(|found| found[1].to_owned()).collect()
    };
    for name in ["kvbroker", "kvclient", "kvcatalog"] {
        let help = help(name);
        let documented = section(OPERATIONS, &format!("### {name}"));
        let table: String = rows(documented).iter().map(|row| format!("{}\n", row[0])).collect();
        let in_table = found(&shown, &table);
        assert_eq!(found(&flag, &help), in_table, "flags of {name}");
        for variable in found(&variable, &help) {
            assert!(documented.contains(&format!("`{variable}`")), "{name}'s {variable} is documented");
        }
    }
}

#[test]
fn every_verb_of_the_broker_is_documented_with_its_flags() {
    let flag = Regex::new(r"(?m)^ +(?:-\w, )?(--[a-z-]+)").unwrap();
    let verb = Regex::new(r"(?m)^  ([a-z]+)  ").unwrap();
    let shown = Regex::new("(--[a-z-]+)").unwrap();
    let found = |pattern: &Regex, text: &str| -> BTreeSet<String> {
        pattern.captures_iter(text).map(|found| found[1].to_owned()).collect()
    };
    let documented = section(OPERATIONS, "## Verbs");
    let output = Command::new(program("kvbroker")).args(["p", "help"]).stdin(Stdio::null()).output().unwrap();
    let list = String::from_utf8(output.stdout).unwrap();
    let verbs = found(&verb, &list);
    assert!(verbs.contains("stats"), "{list}");
    for verb in verbs.iter().filter(|verb| *verb != "help") {
        let table: String = rows(section(documented, &format!("### {verb}"))).iter().map(|row| format!("{}\n", row[0])).collect();
        let in_table: BTreeSet<String> = found(&shown, &table);
        assert_eq!(found(&flag, &help_of("kvbroker", &["p", verb])), in_table, "flags of {verb}");
    }
}

#[test]
fn every_counter_of_stats_is_documented_and_nothing_else() {
    let broker = Broker::plain();
    let reply = broker.dealer().ask_json(&json!({"op": "stats"}));
    let real: BTreeSet<String> = reply["stats"].as_object().unwrap().keys().cloned().collect();
    let documented: BTreeSet<String> =
        rows(section(OPERATIONS, "## Stats")).iter().map(|row| row[0].trim_matches('`').to_owned()).collect();
    assert_eq!(documented, real);
}

#[test]
fn exit_codes_are_the_programs() {
    let real: BTreeMap<String, String> =
        Exit::ALL.into_iter().map(|exit| (exit.code().to_string(), exit.meaning().to_owned())).collect();
    for text in [README, OPERATIONS] {
        let documented: BTreeMap<String, String> =
            rows(section(text, "## Exit codes")).into_iter().map(|row| (row[0].clone(), row[1].clone())).collect();
        assert_eq!(documented, real);
    }
}

#[test]
fn bounds_of_memory_are_the_programs() {
    let real = [
        ("INTAKE_BYTES_MAX", limits::INTAKE_BYTES_MAX),
        ("BATCH_BYTES_MAX", limits::BATCH_BYTES_MAX),
        ("RELEASE_BYTES_MAX", limits::RELEASE_BYTES_MAX),
        ("REPLIES_BYTES_MAX", limits::REPLIES_BYTES_MAX),
        ("PUBLISH_BYTES_MAX", limits::PUBLISH_BYTES_MAX),
        ("PUBLISHED_UNREAD_BYTES_MAX", limits::PUBLISHED_UNREAD_BYTES_MAX),
        ("SESSIONS_REPLY_BYTES_MAX", limits::SESSIONS_REPLY_BYTES_MAX),
        ("SNAPSHOT_BYTES_MAX", limits::SNAPSHOT_BYTES_MAX),
        ("HISTORY_PASS_BYTES_MAX", limits::HISTORY_PASS_BYTES_MAX),
    ];
    let memory = section(OPERATIONS, "## Memory");
    for (name, bytes) in real {
        let row = rows(memory).into_iter().find(|row| row.get(1).is_some_and(|cell| *cell == format!("`{name}`")));
        assert_eq!(row.unwrap_or_else(|| panic!("{name} is in the table"))[2], bytes.to_string(), "{name}");
    }
    let sum: usize = real.iter().map(|(_, bytes)| bytes).sum();
    assert!(memory.contains(&format!("Together {} MiB", sum >> 20)));
    let most = limits::CONNECTIONS_MAX;
    let told = format!("at most {},{:03} each", most / 1_000, most % 1_000);
    assert!(section(OPERATIONS, "## Connections and open files").contains(&told), "{told}");
}

#[test]
fn programs_shown_in_the_readme_are_the_files() {
    for name in ["kv_json.py", "kv_msgpack.py"] {
        let text = fs::read_to_string(root().join("tests/interop").join(name)).unwrap();
        assert!(README.contains(&format!("```python\n{text}```\n")), "README shows {name} as it is");
    }
}

/// All Markdown files of the repository.
fn documents() -> Vec<PathBuf> {
    fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
            let (path, name) = (entry.path(), entry.file_name());
            let hidden = name.to_string_lossy().starts_with('.');
            if entry.file_type().unwrap().is_dir() {
                if !hidden && name != "target" {
                    walk(&path, found);
                }
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root(), &mut found);
    found
}

/// The anchors that a Markdown file's headings get.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut in_code = false;
    let mut anchors = BTreeSet::new();
    for line in text.lines() {
        in_code ^= line.starts_with("```");
        if let Some(heading) = line.strip_prefix('#').filter(|_| !in_code) {
            let heading = heading.trim_start_matches('#').trim().to_lowercase();
            let kept = heading.chars().filter(|letter| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_'));
            anchors.insert(kept.map(|letter| if letter == ' ' { '-' } else { letter }).collect());
        }
    }
    anchors
}

#[test]
fn links_between_documents_lead_somewhere() {
    let link = Regex::new(r"\]\(([^()\s]+)\)").unwrap();
    let mut broken = Vec::new();
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for found in link.captures_iter(&text) {
            let target = &found[1];
            if target.contains("://") {
                continue;
            }
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let file = if path.is_empty() { document.clone() } else { document.with_file_name("").join(path) };
            let leads = file.exists()
                && (anchor.is_empty() || fs::read_to_string(&file).is_ok_and(|text| anchors(&text).contains(anchor)));
            if !leads {
                broken.push(format!("{}: {target}", document.strip_prefix(root()).unwrap().display()));
            }
        }
    }
    assert!(broken.is_empty(), "links that lead nowhere:\n{}", broken.join("\n"));
}

#[test]
fn every_decision_is_in_the_list() {
    let directory = root().join("docs/decisions");
    let list = fs::read_to_string(directory.join("README.md")).unwrap();
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let (name, path) = (entry.file_name().into_string().unwrap(), entry.path());
        if name == "README.md" {
            continue;
        }
        let number = &name[..4];
        let title = fs::read_to_string(path).unwrap().lines().next().unwrap().to_owned();
        let title = title.strip_prefix(&format!("# {number}: ")).unwrap_or_else(|| panic!("{name} starts with its number"));
        assert!(list.contains(&format!("| [{number}]({name}) | {title} |")), "{name} is listed with its title");
    }
}

#[test]
fn tests_named_in_the_table_of_bugs_exist() {
    let testing = fs::read_to_string(root().join("docs/testing.md")).unwrap();
    let mut sources = String::new();
    fn walk(directory: &Path, sources: &mut String) {
        for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, sources);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                sources.push_str(&fs::read_to_string(path).unwrap());
            }
        }
    }
    for directory in ["src", "broker", "protocol", "workers", "tests/src", "tests/tests"] {
        walk(&root().join(directory), &mut sources);
    }
    let name = Regex::new("`([a-z0-9]+(?:_[a-z0-9]+){3,})`").unwrap();
    for found in name.captures_iter(section(&testing, "## Bugs found so far")) {
        assert!(sources.contains(&format!("fn {}(", &found[1])), "there is a test {}", &found[1]);
    }
}

#[test]
fn the_list_of_other_peoples_work_is_complete() {
    let Ok(output) = Command::new("python3").arg(root().join("tests/licences")).arg("--check").stdin(Stdio::null()).output()
    else {
        return left_out("there is no python3 here; install it");
    };
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
}

//! What was committed.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader};

use serde::{Deserialize, Serialize};

use crate::{Home, verb_command};

/// What became of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Kind {
    /// It has a value, of which this is the [`digest`].
    Put(u64),
    /// It was removed.
    Remove,
    /// Its time was over.
    Expire,
}

/// One change of a key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Change {
    /// The key.
    pub key: String,
    /// What became of it.
    pub kind: Kind,
}

/// What stands for a value that is a text: the same in every process of these tests.
pub fn digest(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// One revision's changes, in the order of keys.
pub type Told = (u64, Vec<Change>);

/// Everything that was committed, by revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Truth {
    revisions: BTreeMap<u64, Vec<Change>>,
}

/// A line of `dump --json`, as far as it matters here.
#[derive(Deserialize)]
struct Line {
    r#type: String,
    #[serde(default)]
    revision: u64,
    #[serde(default)]
    base_revision: u64,
    #[serde(default)]
    cause: String,
    #[serde(default)]
    space: String,
    #[serde(default)]
    op: String,
    #[serde(default)]
    key: serde_json::Value,
    #[serde(default)]
    value: serde_json::Value,
}

impl Truth {
    /// What the log of the project `test` in a home tells of the keys with a prefix. Values must be texts.
    ///
    /// # Panics
    /// If the log can't be read as a whole, from its first revision on.
    pub fn of_log(home: &Home, prefix: &str) -> Truth {
        let mut child = verb_command(home, &["test", "dump", "--json", "--log", "--prefix", prefix]);
        let mut child = child.spawn().expect("the program can be started");
        let mut truth = Truth::default();
        let mut cause = String::new();
        let mut is_from_the_beginning = None;
        let stdout = child.stdout.take().expect("its output is a pipe");
        for line in BufReader::with_capacity(1 << 20, stdout).lines() {
            let line = line.expect("a dump is text");
            let line: Line = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
            match (line.r#type.as_str(), line.space.as_str()) {
                ("segment", _) => {
                    is_from_the_beginning.get_or_insert(line.base_revision == 0);
                }
                ("group", _) => cause = line.cause,
                ("record", "table") => {
                    let key = line.key.as_str().expect("the tests' keys are texts").to_owned();
                    let kind = match (line.op.as_str(), cause.as_str()) {
                        ("put", _) => Kind::Put(digest(line.value.as_str().expect("the tests' values are texts"))),
                        (_, "expiry") => Kind::Expire,
                        _ => Kind::Remove,
                    };
                    truth.add(line.revision, Change { key, kind });
                }
                ("damage" | "unreadable", _) => panic!("the log can't be read"),
                _ => {}
            }
        }
        assert!(child.wait().expect("its own child can be waited for").success(), "dump failed");
        assert_eq!(is_from_the_beginning, Some(true), "the log is not kept from its beginning on");
        truth
    }

    /// Adds a change.
    ///
    /// # Panics
    /// If the revision has changed this key already.
    pub fn add(&mut self, revision: u64, change: Change) {
        let changes = self.revisions.entry(revision).or_default();
        let place = changes.binary_search_by(|known| known.key.cmp(&change.key));
        let Err(place) = place else { panic!("revision {revision} changes {} twice", change.key) };
        changes.insert(place, change);
    }

    /// What happened to the keys with a prefix, in order.
    pub fn under(&self, prefix: &str) -> Vec<Told> {
        let under = |changes: &[Change]| changes.iter().filter(|change| change.key.starts_with(prefix)).cloned().collect();
        let all = self.revisions.iter().map(|(revision, changes)| (*revision, under(changes)));
        all.filter(|(_, changes): &Told| !changes.is_empty()).collect()
    }

    /// The last revision that changed a key.
    ///
    /// # Panics
    /// If none has.
    pub fn last_of(&self, key: &str) -> u64 {
        let mut revisions = self.revisions.iter().rev();
        let found = revisions.find(|(_, changes)| changes.iter().any(|change| change.key == key));
        *found.unwrap_or_else(|| panic!("nothing has changed {key}")).0
    }

    /// The last revision that changed something.
    pub fn last_revision(&self) -> u64 {
        self.revisions.last_key_value().map_or(0, |(revision, _)| *revision)
    }

    /// How many revisions changed something.
    pub fn len(&self) -> usize {
        self.revisions.len()
    }

    /// True if nothing happened.
    pub fn is_empty(&self) -> bool {
        self.revisions.is_empty()
    }
}

impl FromIterator<Told> for Truth {
    fn from_iter<T: IntoIterator<Item = Told>>(revisions: T) -> Truth {
        let mut truth = Truth::default();
        for (revision, changes) in revisions {
            changes.into_iter().for_each(|change| truth.add(revision, change));
        }
        truth
    }
}

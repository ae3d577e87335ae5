//! Project names: the one word by which people and programs name a broker.
//!
//! A name becomes a directory name, part of an ipc path, a field of a catalog
//! record and an input of the key derivation, so it is checked once, here, and
//! carried as a type from then on.
//!
//! - A `ProjectName` is 1–48 bytes of `A–Za–z0–9._-` and does not start with
//!   `.` or `-`: it can't be hidden, can't climb out of a directory and can't
//!   be taken for a flag.
//! - It is none of the words that stand alone on the command line.
//! - Names are compared byte for byte; no case folding.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest project name in bytes: an ipc path has 107 bytes in all, and the
/// runtime directory in front of the name needs the rest.
pub const MAX_PROJECT_NAME_BYTES: usize = 48;

/// Words that stand alone on the command line and so can't name a project.
pub const RESERVED_WORDS: [&str; 6] = ["id", "list", "completions", "help", "version", "doctor"];

/// A checked project name.
///
/// ```
/// use kvbroker::project::ProjectName;
/// let name: ProjectName = "NETID-a5".parse()?;
/// assert_eq!(name.as_str(), "NETID-a5");
/// assert!("../etc".parse::<ProjectName>().is_err());
/// # Ok::<(), kvbroker::project::ProjectNameError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ProjectName(String);

/// Why a word can't name a project. Each sentence says what would be allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProjectNameError {
    /// The empty string.
    #[error("the project name is empty; give 1 to {MAX_PROJECT_NAME_BYTES} of A-Z a-z 0-9 . _ -")]
    Empty,
    /// More bytes than fit into an ipc path.
    #[error(
        "the project name has {bytes} bytes; {MAX_PROJECT_NAME_BYTES} are the most, \
         because it becomes part of a socket path"
    )]
    TooLong {
        /// Its length in bytes.
        bytes: usize,
    },
    /// `.` or `-` in front.
    #[error(
        "the project name starts with '{first}', which would hide its directory or look like a \
         flag; start with a letter, a digit or _"
    )]
    BadStart {
        /// The offending first character.
        first: char,
    },
    /// A character outside the alphabet.
    #[error("the project name contains {character:?}; only A-Z a-z 0-9 . _ - can be used")]
    BadCharacter {
        /// The first character outside the alphabet.
        character: char,
    },
    /// One of [`RESERVED_WORDS`].
    #[error("'{word}' is a command of its own and can't name a project; choose another name")]
    Reserved {
        /// The word.
        word: &'static str,
    },
}

impl ProjectName {
    /// Checks `name`.
    ///
    /// # Errors
    /// The first rule that it breaks, as a sentence for the user.
    pub fn new(name: &str) -> Result<Self, ProjectNameError> {
        let Some(first) = name.chars().next() else {
            return Err(ProjectNameError::Empty);
        };
        if let Some(character) = name.chars().find(|c| !is_allowed(*c)) {
            return Err(ProjectNameError::BadCharacter { character });
        }
        if name.len() > MAX_PROJECT_NAME_BYTES {
            return Err(ProjectNameError::TooLong { bytes: name.len() });
        }
        if matches!(first, '.' | '-') {
            return Err(ProjectNameError::BadStart { first });
        }
        if let Some(word) = RESERVED_WORDS.into_iter().find(|word| *word == name) {
            return Err(ProjectNameError::Reserved { word });
        }
        Ok(Self(name.to_owned()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_allowed(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '.' | '_' | '-')
}

impl FromStr for ProjectName {
    type Err = ProjectNameError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::new(name)
    }
}

impl TryFrom<String> for ProjectName {
    type Error = ProjectNameError;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        Self::new(&name)
    }
}

impl From<ProjectName> for String {
    fn from(name: ProjectName) -> Self {
        name.0
    }
}

impl AsRef<str> for ProjectName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ProjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for ProjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProjectName({})", self.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ordinary_names_are_taken_as_they_are() {
        let longest = "x".repeat(MAX_PROJECT_NAME_BYTES);
        for name in ["a", "NETID-a5", "_x", "0", "a.b_c-d", "lists", &longest] {
            assert_eq!(ProjectName::new(name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn each_broken_rule_has_its_own_sentence() {
        let too_long = "x".repeat(MAX_PROJECT_NAME_BYTES + 1);
        let cases = [
            ("", "is empty"),
            (too_long.as_str(), "has 49 bytes"),
            (".hidden", "starts with '.'"),
            ("-v", "starts with '-'"),
            ("..", "starts with '.'"),
            ("a/b", "contains '/'"),
            ("a b", "contains ' '"),
            ("a\0", r"contains '\0'"),
            ("a\n", r"contains '\n'"),
            ("größe", "contains 'ö'"),
            ("list", "'list' is a command"),
            ("doctor", "'doctor' is a command"),
        ];
        for (name, expected) in cases {
            let sentence = ProjectName::new(name).unwrap_err().to_string();
            assert!(sentence.contains(expected), "{name:?}: {sentence}");
        }
    }

    #[test]
    fn reading_it_from_json_checks_it_too() {
        let good: ProjectName = serde_json::from_str("\"lab-3\"").unwrap();
        assert_eq!(serde_json::to_string(&good).unwrap(), "\"lab-3\"");
        assert!(serde_json::from_str::<ProjectName>("\"../lab\"").is_err());
    }
}

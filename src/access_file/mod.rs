//! `authorized_clients`: who may come in beside the owner, as a text file that people and the broker both edit.
//!
//! A line that is neither empty nor begins with `#` is a grant:
//!
//! ```text
//! KEY ROLE [prefix=P]... [# comment]
//! ```
//!
//! - [`AccessFile::parse`] is pure: bytes in, grants or the first thing that is wrong, with its line and what to do about it. All of
//!   the file counts or none of it: half a list could let in more than was meant, or lock somebody out.
//! - What can be read as two different things is refused: a key twice, an admin with prefixes, an empty prefix, words nobody knows.
//! - Comments, empty lines and the order survive edits byte for byte; an edit changes the line of its key and no other.
//! - No error repeats a text that may be a secret key.
//! - How the file is kept on a disk, and who else may write it, is [`store`]'s business.
//!
//! Caveat: a file that is written in place can be read when half of it is there. A last line without a line feed may be such a half
//! (`prefix=team/` cut to nothing is every key), so [`AccessFile::is_whole`] tells; whoever reads looks again before believing it.

use kvbroker_protocol::limits::{GRANTS_BYTES_MAX, GRANTS_MAX};
use kvbroker_protocol::{GrantInfo, UserKey};

mod line;
pub mod store;
#[cfg(test)]
mod tests;

pub use line::LineProblem;

/// What is wrong with the content.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessFileError {
    /// It is too large.
    #[error("it has {bytes} bytes, and at most {GRANTS_BYTES_MAX} are read; remove what is not needed any more")]
    TooLong {
        /// Its bytes.
        bytes: usize,
    },
    /// It lets in too many.
    #[error("it has more than {GRANTS_MAX} keys; remove those that are not needed any more")]
    TooManyKeys,
    /// A line is no grant.
    #[error("line {line}: {problem}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        problem: LineProblem,
    },
}

/// What an edit of one grant found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edited {
    /// The key has its first line.
    Added,
    /// The key had another line.
    Replaced,
    /// It had exactly this line.
    Unchanged,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    /// Without its line feed.
    text: Vec<u8>,
    grant: Option<GrantInfo>,
}

/// The file's lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessFile {
    lines: Vec<Line>,
    is_whole: bool,
}

impl AccessFile {
    /// A new file: a comment that explains the format, and nobody.
    #[must_use]
    pub fn explained(project: &str) -> AccessFile {
        let text = format!(
            "# Who may use the project {project} beside its owner, one key a line:\n\
             #\n\
             #   KEY ROLE [prefix=P]... [# comment]\n\
             #\n\
             # KEY is what `kvclient id` prints (kvpub1...), ROLE is read, write or admin. With prefixes only the keys that start\n\
             # with one of them may be used. The broker reads this file each second.\n"
        );
        let lines = text.lines().map(|line| Line { text: line.into(), grant: None }).collect();
        AccessFile { lines, is_whole: true }
    }

    /// Reads the content.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn parse(content: &[u8]) -> Result<AccessFile, AccessFileError> {
        if content.len() > GRANTS_BYTES_MAX {
            return Err(AccessFileError::TooLong { bytes: content.len() });
        }
        let mut seen = std::collections::HashMap::new();
        let mut lines = Vec::new();
        for (at, text) in content.split_inclusive(|byte| *byte == b'\n').enumerate() {
            let text = text.strip_suffix(b"\n").unwrap_or(text);
            let line = at + 1;
            let wrong = |problem| AccessFileError::Line { line, problem };
            let grant = line::parse(text).map_err(wrong)?;
            if let Some(grant) = &grant {
                if let Some(first) = seen.insert(grant.key, line) {
                    return Err(wrong(LineProblem::Twice { first }));
                }
                if seen.len() > GRANTS_MAX {
                    return Err(AccessFileError::TooManyKeys);
                }
            }
            lines.push(Line { text: text.to_vec(), grant });
        }
        Ok(AccessFile { lines, is_whole: content.last().is_none_or(|last| *last == b'\n') })
    }

    /// False when the last line has no line feed: it may be the beginning of a longer one.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// The grants, in the order of their lines.
    pub fn grants(&self) -> impl Iterator<Item = &GrantInfo> {
        self.lines.iter().filter_map(|line| line.grant.as_ref())
    }

    /// Gives a key its line: in the place of the one that it has, else at the end. Without a comment it keeps the one that it had.
    ///
    /// # Errors
    /// The line can't be written, or the file would be over its bounds; nothing is changed then.
    pub fn authorize(&mut self, grant: &GrantInfo) -> Result<Edited, AccessFileError> {
        let at = self.line_of(&grant.key);
        let old = at.and_then(|at| self.lines[at].grant.as_ref());
        let mut grant = grant.clone();
        if let Some(old) = old.filter(|_| grant.comment.is_empty()) {
            grant.comment.clone_from(&old.comment);
        }
        let line = at.unwrap_or(self.lines.len()) + 1;
        let text = line::show(&grant).into_bytes();
        // What is written is what will be read: of this line nothing else is known to be good.
        let grant = line::parse(&text).map_err(|problem| AccessFileError::Line { line, problem })?;
        let edited = match old {
            None => Edited::Added,
            Some(old) if grant.as_ref() == Some(old) => return Ok(Edited::Unchanged),
            Some(_) => Edited::Replaced,
        };
        let replaced = at.map_or(0, |at| self.lines[at].text.len());
        let bytes = self.bytes() - replaced + text.len() + usize::from(at.is_none());
        if bytes > GRANTS_BYTES_MAX {
            return Err(AccessFileError::TooLong { bytes });
        }
        if at.is_none() && self.grants().count() >= GRANTS_MAX {
            return Err(AccessFileError::TooManyKeys);
        }
        let line = Line { text, grant };
        match at {
            Some(at) => self.lines[at] = line,
            None => self.lines.push(line),
        }
        Ok(edited)
    }

    /// Takes a key's line out; false if it had none.
    pub fn revoke(&mut self, key: &UserKey) -> bool {
        let at = self.line_of(key);
        if let Some(at) = at {
            self.lines.remove(at);
        }
        at.is_some()
    }

    /// The content, each line with its line feed.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.bytes());
        for line in &self.lines {
            bytes.extend_from_slice(&line.text);
            bytes.push(b'\n');
        }
        bytes
    }

    fn bytes(&self) -> usize {
        self.lines.iter().map(|line| line.text.len() + 1).sum()
    }

    fn line_of(&self, key: &UserKey) -> Option<usize> {
        self.lines.iter().position(|line| line.grant.as_ref().is_some_and(|grant| grant.key == *key))
    }
}

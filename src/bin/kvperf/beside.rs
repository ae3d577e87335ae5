//! Dear requests that other clients make in a loop while some are measured: what one client's work costs the others.
//!
//! - The others have keys of their own, in the same run: many small ones, and for regular expressions some long ones.
//! - Every answer is looked at: pages follow one another without a gap, nothing is found that is not there.
//! - Nothing here knows sockets, clocks or processes.

use std::fmt;

use clap::ValueEnum;
use kvbroker_protocol::{Answer, Failure, Key, Operation, Operations, Outcome, Pattern, Scalar, Scan, Stored};
use serde::{Deserialize, Serialize};

use crate::keyspace::{Dice, GROUP_FIELD, GROUPS, Keyspace};

/// What the others do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Dear {
    /// Pages of all their keys and values, one after the other, as large as the broker makes them.
    Scan,
    /// Dictionaries with a value that none has: looks at as many as the broker does for one page.
    Query,
    /// A regular expression that matches nothing and is slow, over long keys made for it.
    Regex,
    /// All keys removed by their prefix, as many with each request as the broker does, and put again in large arrays.
    Delete,
}

impl Dear {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Dear::Scan => "scan",
            Dear::Query => "query",
            Dear::Regex => "regex",
            Dear::Delete => "delete",
        }
    }
}

impl fmt::Display for Dear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Long keys for the regular expression: so many, of so many digits 0 and 1.
const LONG_KEYS: u64 = 2_000;
const LONG_DIGITS: usize = 500;
/// For each `1`, it is to be remembered for fifty digits that there was one: no table of states is large enough for that.
const PATTERN: &str = "[01]*1[01]{50}x";
/// Long keys, and small ones, put with one request.
const LONG_AT_ONCE: u64 = 256;
const PUT_AT_ONCE: u64 = 1_024;

/// What one of the others asks next, and what the answers must be.
#[derive(Debug)]
pub(crate) struct Others {
    keys: Keyspace,
    count: u64,
    dear: Dear,
    /// Keys of [`Keyspace`] that are there: numbers below.
    present: u64,
    /// Long keys that are there.
    long: u64,
    /// Removing goes on until nothing is left.
    removes: bool,
    /// The page that is asked for next: behind this key, which begins with the key of this number.
    cursor: Option<Key>,
    next: u64,
}

impl Others {
    /// For a client whose first `count` keys are there.
    pub(crate) fn new(keys: Keyspace, count: u64) -> Others {
        let (dear, long) = (Dear::Scan, 0);
        Others { keys, count, dear, present: count, long, removes: count > 0, cursor: None, next: 0 }
    }

    /// Does this from now on.
    pub(crate) fn turn_to(&mut self, dear: Dear) {
        if self.dear != dear {
            (self.dear, self.cursor, self.next) = (dear, None, 0);
        }
    }

    /// True once the keys that are needed are there. What is asked before belongs to the preparation.
    pub(crate) fn is_ready(&self) -> bool {
        self.dear != Dear::Regex || self.long == LONG_KEYS
    }

    /// The next request.
    ///
    /// # Errors
    /// A value or pattern that the broker would not take, either.
    pub(crate) fn ask(&mut self) -> Result<Operations, Failure> {
        let page =
            |cursor: &Option<Key>, prefix: &[u8]| Scan { prefix: prefix.to_vec(), cursor: cursor.clone(), ..Scan::default() };
        Ok(match self.dear {
            Dear::Scan => Operations::One(Operation::Scan(page(&self.cursor, self.keys.prefix()))),
            Dear::Query => Operations::One(Operation::Query {
                subkey: GROUP_FIELD.to_owned(),
                subvalue: Scalar::Int(i128::from(GROUPS)),
                scan: page(&self.cursor, self.keys.prefix()),
            }),
            Dear::Regex if self.long < LONG_KEYS => {
                let numbers = self.long..LONG_KEYS.min(self.long + LONG_AT_ONCE);
                Operations::Many(numbers.map(|number| put(self.long_key(number), Stored::integer(1))).collect())
            }
            Dear::Regex => {
                let pattern = Some(Pattern::new(PATTERN)?);
                Operations::One(Operation::Scan(Scan { pattern, keys_only: true, ..page(&self.cursor, &self.keys.aside()) }))
            }
            Dear::Delete if self.removes => {
                Operations::One(Operation::DelPrefix { prefix: self.keys.prefix().to_vec(), limit: None })
            }
            Dear::Delete => {
                let numbers = self.present..self.count.min(self.present + PUT_AT_ONCE);
                let puts = numbers.map(|number| Ok(put(self.keys.key(number), self.keys.value(number, 0)?)));
                Operations::Many(puts.collect::<Result<_, Failure>>()?)
            }
        })
    }

    /// Looks at the answers and notes what they changed.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub(crate) fn check(&mut self, outcomes: &[Outcome]) -> Result<(), String> {
        for outcome in outcomes {
            match &outcome.result {
                Ok(answer) => self.check_answer(answer).map_err(|what| format!("wrong answer to {}: {what}", self.dear))?,
                Err(failure) => return Err(format!("{}: {failure}", self.dear)),
            }
        }
        // Whatever was removed is put again, and what is there altogether is removed.
        if self.dear == Dear::Delete {
            self.removes = if self.removes { self.present > 0 } else { self.present == self.count };
        }
        Ok(())
    }

    fn check_answer(&mut self, answer: &Answer) -> Result<(), String> {
        match (self.dear, answer) {
            (Dear::Scan, Answer::Rows { rows, cursor, .. }) => {
                let end = self.next + rows.len() as u64;
                for (row, number) in [(rows.first(), self.next), (rows.last(), end.saturating_sub(1))] {
                    let row = row.ok_or("a page without rows")?;
                    if row.key != self.keys.key(number) || !self.keys.is_value(number, 0, &row.value) {
                        return Err(format!("{:?} is not the row of number {number}", String::from_utf8_lossy(&row.key)));
                    }
                }
                self.go_on(cursor, end);
                if cursor.is_none() && end != self.present {
                    return Err(format!("{end} rows of {}", self.present));
                }
                Ok(())
            }
            (Dear::Query, Answer::Rows { rows, cursor, .. }) if rows.is_empty() => {
                self.go_on(cursor, 0);
                Ok(())
            }
            (Dear::Regex, Answer::Keys { keys, cursor, .. }) if keys.is_empty() => {
                self.go_on(cursor, 0);
                Ok(())
            }
            (Dear::Regex, Answer::Done) if self.long < LONG_KEYS => {
                self.long += 1;
                Ok(())
            }
            (Dear::Delete, Answer::Done) if !self.removes => {
                self.present += 1;
                Ok(())
            }
            (Dear::Delete, Answer::Deleted { removed, more }) if self.removes => {
                // They are removed in the order of their numbers; only how many are left matters.
                self.present =
                    self.present.checked_sub(*removed).ok_or_else(|| format!("{removed} removed of {}", self.present))?;
                if *more == (self.present > 0) { Ok(()) } else { Err(format!("{} left, more: {more}", self.present)) }
            }
            _ => Err("an answer of another kind, or with something that is not there".to_owned()),
        }
    }

    /// Behind the page that came; after the last one from the beginning.
    fn go_on(&mut self, cursor: &Option<Key>, next: u64) {
        self.next = if cursor.is_some() { next } else { 0 };
        self.cursor.clone_from(cursor);
    }

    fn long_key(&self, number: u64) -> Vec<u8> {
        let mut dice = Dice::new(number);
        let digits = (0..LONG_DIGITS).map(|_| if dice.below(2) == 0 { b'0' } else { b'1' });
        self.keys.aside().into_iter().chain(digits).collect()
    }
}

fn put(key: Key, value: Stored) -> Operation {
    Operation::Put { key, value, condition: None, ttl_ms: None }
}

#[cfg(test)]
#[path = "beside_tests.rs"]
mod tests;

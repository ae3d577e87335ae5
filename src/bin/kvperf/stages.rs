//! The stages: what each asks of the table, and what the answers must be.
//!
//! - Stages run in one order, insert to remove, whatever order they are named in: each needs what the one before left.
//! - Every answer is compared with what it must be. An answer that is wrong or missing is a [`Wrong`] and ends the run.
//! - Nothing here knows sockets, clocks or processes.

use std::fmt;

use clap::ValueEnum;
use kvbroker_protocol::limits::EXAMINED_KEYS_MAX;
use kvbroker_protocol::{Answer, Failure, Operation, Outcome, Row, Scalar, Scan};
use serde::{Deserialize, Serialize};

use crate::keyspace::{Dice, GROUP_FIELD, GROUPS, Keyspace};

/// Most bytes of keys and values that all pages of one request hold: well below what a reply may have.
const PAGES_BYTES_MAX: usize = 2 << 20;

/// A part of the measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Stage {
    /// New keys, one after the other.
    Insert,
    /// Keys that are there, at random.
    Lookup,
    /// Pages of neighbouring keys, from random places.
    Scan,
    /// The dictionaries of one group, from random places.
    Query,
    /// The keys that are there, one after the other.
    Remove,
}

impl Stage {
    /// In the order in which they run.
    pub(crate) const ALL: [Stage; 5] = [Stage::Insert, Stage::Lookup, Stage::Scan, Stage::Query, Stage::Remove];

    /// Those that are measured beside others' work: one durable write, one read.
    pub(crate) const BESIDE: [Stage; 2] = [Stage::Insert, Stage::Lookup];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Stage::Insert => "insert",
            Stage::Lookup => "lookup",
            Stage::Scan => "scan",
            Stage::Query => "query",
            Stage::Remove => "remove",
        }
    }

    /// True for stages that change the table.
    pub(crate) const fn is_mutation(self) -> bool {
        matches!(self, Stage::Insert | Stage::Remove)
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Sizes that all clients of a run have in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Shape {
    /// Bytes of a key.
    pub(crate) key_bytes: usize,
    /// Bytes of a value's document.
    pub(crate) value_bytes: usize,
    /// Operations of one request.
    pub(crate) batch: usize,
    /// Keys that a scan returns and a query looks at.
    pub(crate) page_rows: usize,
}

impl Shape {
    /// Operations of one request of a stage. Scans and queries of one request may only examine so many keys and answer with so
    /// many bytes altogether, so there are fewer of them.
    pub(crate) fn batch_of(&self, stage: Stage) -> usize {
        let row_bytes = self.key_bytes + self.value_bytes;
        let pages = |keys: usize, rows: usize| {
            let examined = EXAMINED_KEYS_MAX / (keys + 1);
            examined.min(PAGES_BYTES_MAX / (rows * row_bytes).max(1))
        };
        let most = match stage {
            Stage::Scan => pages(self.page_rows(), self.page_rows()),
            Stage::Query => pages(self.page_rows(), self.query_rows()),
            Stage::Insert | Stage::Lookup | Stage::Remove => self.batch,
        };
        self.batch.min(most).max(1)
    }

    /// Rows of a page: those wanted, as long as a page holds them.
    pub(crate) fn page_rows(&self) -> usize {
        self.page_rows.min(PAGES_BYTES_MAX / (self.key_bytes + self.value_bytes)).max(1)
    }

    /// Rows of a query's answer: one group of a page.
    pub(crate) fn query_rows(&self) -> usize {
        (self.page_rows() / GROUPS as usize).max(1)
    }
}

/// One operation that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// Put the key of a number.
    Put(u64),
    /// Get the key of a number.
    Get(u64),
    /// Scan from the key of a number on.
    Scan(u64),
    /// Query the group of a number from its key on.
    Query(u64),
    /// Remove the key of a number.
    Del(u64),
}

/// An answer that is not what it must be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Wrong {
    /// The broker refused.
    #[error("{stage} of {key:?}: {failure}")]
    Refused {
        /// The operation.
        stage: Stage,
        /// Its key.
        key: String,
        /// The broker's words.
        failure: Failure,
    },
    /// The broker answered something that can't be.
    #[error("wrong answer to {stage} of {key:?}: {what}")]
    Answer {
        /// The operation.
        stage: Stage,
        /// Its key.
        key: String,
        /// What is wrong.
        what: String,
    },
}

/// One client's keys while the stages change them.
#[derive(Debug)]
pub(crate) struct Workload {
    keys: Keyspace,
    shape: Shape,
    dice: Dice,
    /// Keys with these numbers are there: from the first to before the second.
    there: (u64, u64),
}

impl Workload {
    pub(crate) fn new(keys: Keyspace, shape: Shape, seed: u64) -> Workload {
        Workload { keys, shape, dice: Dice::new(seed), there: (0, 0) }
    }

    pub(crate) fn keyspace(&self) -> &Keyspace {
        &self.keys
    }

    /// Keys that are there.
    pub(crate) fn present(&self) -> u64 {
        self.there.1 - self.there.0
    }

    /// The next operations of a stage: at most `most`, fewer or none where removing finds no more keys, or reading none.
    pub(crate) fn ask(&mut self, stage: Stage, most: usize) -> Vec<Ask> {
        let (first, end) = self.there;
        let present = self.present();
        let most = most as u64;
        match stage {
            Stage::Insert => (end..end + most).map(Ask::Put).collect(),
            Stage::Remove => (first..end.min(first + most)).map(Ask::Del).collect(),
            _ if present == 0 => Vec::new(),
            Stage::Lookup => (0..most).map(|_| Ask::Get(first + self.dice.below(present))).collect(),
            Stage::Scan | Stage::Query => {
                // Places from which a whole page follows, so that all operations do the same work.
                let places = present.saturating_sub(self.shape.page_rows() as u64) + 1;
                let ask = if stage == Stage::Scan { Ask::Scan } else { Ask::Query };
                (0..most).map(|_| ask(first + self.dice.below(places))).collect()
            }
        }
    }

    /// What is sent for an operation.
    ///
    /// # Errors
    /// The value is larger than values may be.
    pub(crate) fn operation(&self, ask: Ask) -> Result<Operation, Failure> {
        Ok(match ask {
            Ask::Put(number) => {
                Operation::Put { key: self.keys.key(number), value: self.keys.value(number)?, condition: None, ttl_ms: None }
            }
            Ask::Get(number) => Operation::Get { key: self.keys.key(number) },
            Ask::Del(number) => Operation::Del { key: self.keys.key(number), return_old: false, condition: None },
            Ask::Scan(number) => Operation::Scan(self.page_from(number, self.shape.page_rows())),
            Ask::Query(number) => Operation::Query {
                subkey: GROUP_FIELD.to_owned(),
                subvalue: Scalar::Int(i128::from(Keyspace::group(number))),
                scan: self.page_from(number, self.shape.query_rows()),
            },
        })
    }

    fn page_from(&self, number: u64, rows: usize) -> Scan {
        // A cursor is the key behind which a page begins.
        let cursor = number.checked_sub(1).map(|before| self.keys.key(before));
        Scan { prefix: self.keys.prefix().to_vec(), cursor, limit: Some(rows), ..Scan::default() }
    }

    /// Compares an outcome with what it must be, and notes what it changed. Gives the rows that it brought.
    ///
    /// # Errors
    /// It is something else.
    pub(crate) fn check(&mut self, ask: Ask, outcome: &Outcome) -> Result<u64, Wrong> {
        let answer = match &outcome.result {
            Ok(answer) => answer,
            Err(failure) => return Err(Wrong::Refused { stage: ask.stage(), key: self.name(ask), failure: failure.clone() }),
        };
        match (ask, answer) {
            (Ask::Put(number), Answer::Done) => {
                self.there.1 = self.there.1.max(number + 1);
                Ok(0)
            }
            (Ask::Del(number), Answer::Done) => {
                self.there.0 = self.there.0.max(number + 1);
                Ok(0)
            }
            (Ask::Get(number), Answer::Value { value, .. }) if self.keys.is_value(number, value) => Ok(0),
            (Ask::Get(_), Answer::Value { .. }) => Err(self.wrong(ask, "it is not the value that was stored")),
            (Ask::Scan(number), Answer::Rows { rows, .. }) => self.check_rows(ask, rows, number, 1, self.shape.page_rows()),
            (Ask::Query(number), Answer::Rows { rows, .. }) => {
                self.check_rows(ask, rows, number, GROUPS, self.shape.query_rows())
            }
            _ => Err(self.wrong(ask, "an answer of another kind")),
        }
    }

    fn check_rows(&self, ask: Ask, rows: &[Row], first: u64, step: u64, limit: usize) -> Result<u64, Wrong> {
        let mut expected = (first..self.there.1).step_by(step as usize).take(limit);
        for row in rows {
            let Some(number) = expected.next() else {
                return Err(self.wrong(ask, format!("{} rows are too many", rows.len())));
            };
            if row.key != self.keys.key(number) {
                let found = String::from_utf8_lossy(&row.key).into_owned();
                return Err(self.wrong(ask, format!("the row {found:?} stands in another one's place")));
            }
            if !self.keys.is_value(number, &row.value) {
                return Err(self.wrong(ask, format!("a row's value is not the one that was stored (row {number})")));
            }
        }
        match expected.next() {
            Some(_) => Err(self.wrong(ask, format!("{} rows are too few", rows.len()))),
            None => Ok(rows.len() as u64),
        }
    }

    fn wrong(&self, ask: Ask, what: impl Into<String>) -> Wrong {
        Wrong::Answer { stage: ask.stage(), key: self.name(ask), what: what.into() }
    }

    fn name(&self, ask: Ask) -> String {
        String::from_utf8_lossy(&self.keys.key(ask.number())).into_owned()
    }
}

impl Ask {
    const fn stage(self) -> Stage {
        match self {
            Ask::Put(_) => Stage::Insert,
            Ask::Get(_) => Stage::Lookup,
            Ask::Scan(_) => Stage::Scan,
            Ask::Query(_) => Stage::Query,
            Ask::Del(_) => Stage::Remove,
        }
    }

    const fn number(self) -> u64 {
        match self {
            Ask::Put(number) | Ask::Get(number) | Ask::Scan(number) | Ask::Query(number) | Ask::Del(number) => number,
        }
    }
}

#[cfg(test)]
#[path = "stages_tests.rs"]
mod tests;

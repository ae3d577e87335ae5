//! The stages: what each asks of the table, and what the answers must be.
//!
//! - Stages run in one order, insert to remove, whatever order they are named in: each needs what the one before left.
//! - Every answer is compared with what it must be. An answer that is wrong or missing is a [`Wrong`] and ends the run.
//! - What is asked is done in the order in which it is asked: an answer is compared with what was there when it was asked for. A
//!   request that a client sent again after it lost its connection may see later writes, too, and they are right as well.
//! - Nothing here knows sockets, clocks or processes.
//!
//! What the table must hold is remembered in `memory`.

use std::fmt;

use clap::ValueEnum;
use kvbroker_protocol::limits::EXAMINED_KEYS_MAX;
use kvbroker_protocol::{Answer, ErrorCode, Failure, Operation, Outcome, Row, Scalar, Scan};
use serde::{Deserialize, Serialize};

use crate::distribution::{Chooser, Distribution};
use crate::keyspace::{Dice, GROUP_FIELD, GROUPS, Keyspace};
use crate::memory::Memory;
use crate::mixes::{Act, Mix};

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
    /// Operations of several kinds, in the shares of a [`Mix`].
    Mixed,
    /// The keys that are there, one after the other.
    Remove,
}

impl Stage {
    /// Those that run unless told otherwise, in their order.
    pub(crate) const USUAL: [Stage; 5] = [Stage::Insert, Stage::Lookup, Stage::Scan, Stage::Query, Stage::Remove];

    /// Those that are measured beside others' work: one durable write, one read.
    pub(crate) const BESIDE: [Stage; 2] = [Stage::Insert, Stage::Lookup];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Stage::Insert => "insert",
            Stage::Lookup => "lookup",
            Stage::Scan => "scan",
            Stage::Query => "query",
            Stage::Mixed => "mixed",
            Stage::Remove => "remove",
        }
    }

    /// True for stages that change the table.
    pub(crate) const fn is_mutation(self) -> bool {
        matches!(self, Stage::Insert | Stage::Mixed | Stage::Remove)
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
    /// Bytes of a value's document, at least and at most.
    pub(crate) value_bytes: usize,
    pub(crate) value_bytes_max: usize,
    /// Operations of one request.
    pub(crate) batch: usize,
    /// Keys that a scan returns and a query looks at.
    pub(crate) page_rows: usize,
}

impl Shape {
    /// Operations of one request of a stage. Scans and queries of one request may only examine so many keys and answer with so
    /// many bytes altogether, so there are fewer of them.
    pub(crate) fn batch_of(&self, stage: Stage) -> usize {
        let row_bytes = self.key_bytes + self.value_bytes_max;
        let pages = |keys: usize, rows: usize| {
            let examined = EXAMINED_KEYS_MAX / (keys + 1);
            examined.min(PAGES_BYTES_MAX / (rows * row_bytes).max(1))
        };
        let most = match stage {
            Stage::Scan => pages(self.page_rows(), self.page_rows()),
            Stage::Query => pages(self.page_rows(), self.query_rows()),
            Stage::Insert | Stage::Lookup | Stage::Mixed | Stage::Remove => self.batch,
        };
        self.batch.min(most).max(1)
    }

    /// Rows of a page: those wanted, as long as a page holds them.
    pub(crate) fn page_rows(&self) -> usize {
        self.page_rows.min(PAGES_BYTES_MAX / (self.key_bytes + self.value_bytes_max)).max(1)
    }

    /// Rows of a query's answer: one group of a page.
    pub(crate) fn query_rows(&self) -> usize {
        (self.page_rows() / GROUPS as usize).max(1)
    }
}

/// One operation that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// Put this version of the key of a number: 0 is new.
    Put { number: u64, version: u32 },
    /// Get the key of a number, which has this version.
    Get { number: u64, version: u32 },
    /// The same, to put the next version when the answer has come.
    Modify { number: u64, version: u32 },
    /// Scan so many rows from the key of a number on; keys below `end` are there.
    Scan { number: u64, rows: usize, end: u64 },
    /// Query the group of a number from its key on; keys below `end` are there.
    Query { number: u64, end: u64 },
    /// Remove the key of a number.
    Del { number: u64 },
}

/// An answer that is not what it must be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Wrong {
    /// The broker refused.
    #[error("{ask} of {key:?}: {failure}")]
    Refused {
        /// The operation.
        ask: &'static str,
        /// Its key.
        key: String,
        /// The broker's words.
        failure: Failure,
    },
    /// The broker answered something that can't be.
    #[error("wrong answer to {ask} of {key:?}: {what}")]
    Answer {
        /// The operation.
        ask: &'static str,
        /// Its key.
        key: String,
        /// What is wrong.
        what: String,
    },
    /// A look at everything that was acknowledged found something else.
    #[error("an acknowledged write is lost: {key:?} {what}")]
    Lost {
        /// The key.
        key: String,
        /// What was found.
        what: &'static str,
    },
}

/// One client's keys while the stages change them.
#[derive(Debug)]
pub(crate) struct Workload {
    keys: Keyspace,
    shape: Shape,
    dice: Dice,
    chooser: Chooser,
    mix: Mix,
    memory: Memory,
}

impl Workload {
    pub(crate) fn new(keys: Keyspace, shape: Shape, distribution: Distribution, mix: Mix, seed: u64) -> Workload {
        let chooser = Chooser::new(distribution);
        Workload { keys, shape, dice: Dice::new(seed), chooser, mix, memory: Memory::default() }
    }

    pub(crate) fn keyspace(&self) -> &Keyspace {
        &self.keys
    }

    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Keys that are there.
    pub(crate) fn present(&self) -> u64 {
        self.memory.present()
    }

    /// A stage begins: the keys that are there now are those that may be popular.
    pub(crate) fn begin(&mut self) {
        self.chooser.scatter(self.present());
    }

    /// Appends the next operations of a stage: at most `most`, fewer or none where removing finds no more keys, or reading none.
    /// From now on the table is as if they had been done.
    pub(crate) fn ask(&mut self, stage: Stage, most: usize, asks: &mut Vec<Ask>) {
        for _ in 0..most {
            match self.next(stage) {
                Some(ask) => asks.push(ask),
                None => return,
            }
        }
    }

    /// The next operation of a stage. None: there is nothing left to do it with.
    pub(crate) fn next(&mut self, stage: Stage) -> Option<Ask> {
        let act = match stage {
            Stage::Insert => Act::Insert,
            Stage::Remove => return self.memory.remove().map(|number| Ask::Del { number }),
            Stage::Lookup => Act::Read,
            Stage::Scan => return self.page(self.shape.page_rows()).map(|(number, rows, end)| Ask::Scan { number, rows, end }),
            Stage::Query => return self.page(self.shape.page_rows()).map(|(number, _, end)| Ask::Query { number, end }),
            Stage::Mixed => self.mix.draw(&mut self.dice),
        };
        if act == Act::Insert {
            return self.memory.insert().map(|number| Ask::Put { number, version: 0 });
        }
        if act == Act::Scan {
            let rows = 1 + self.dice.below(self.shape.page_rows() as u64) as usize;
            return self.page(rows).map(|(number, rows, end)| Ask::Scan { number, rows, end });
        }
        let number = self.choose(self.present())?;
        match act {
            Act::Update => Some(Ask::Put { number, version: self.memory.update(number) }),
            Act::ReadModifyWrite => Some(Ask::Modify { number, version: self.memory.newest(number) }),
            Act::Read | Act::Insert | Act::Scan => Some(Ask::Get { number, version: self.memory.newest(number) }),
        }
    }

    /// What has to be done to finish an operation whose answer has come.
    pub(crate) fn follow_up(&mut self, ask: Ask) -> Option<Ask> {
        match ask {
            Ask::Modify { number, .. } => Some(Ask::Put { number, version: self.memory.update(number) }),
            _ => None,
        }
    }

    /// Some key that is there; of the first `places` ones.
    fn choose(&mut self, places: u64) -> Option<u64> {
        let Self { chooser, dice, memory, .. } = self;
        (memory.present() > 0).then(|| memory.first() + chooser.choose(places, dice))
    }

    /// A place from which a whole page of so many rows follows, so that all operations do the same work.
    fn page(&mut self, rows: usize) -> Option<(u64, usize, u64)> {
        let places = self.present().saturating_sub(rows as u64) + 1;
        Some((self.choose(places)?, rows, self.memory.end()))
    }

    /// What is sent for an operation.
    ///
    /// # Errors
    /// The value is larger than values may be.
    pub(crate) fn operation(&self, ask: Ask) -> Result<Operation, Failure> {
        let key = || self.keys.key(ask.number());
        Ok(match ask {
            Ask::Put { number, version } => {
                Operation::Put { key: key(), value: self.keys.value(number, version)?, condition: None, ttl_ms: None }
            }
            Ask::Get { .. } | Ask::Modify { .. } => Operation::Get { key: key() },
            Ask::Del { .. } => Operation::Del { key: key(), return_old: false, condition: None },
            Ask::Scan { number, rows, .. } => Operation::Scan(self.page_from(number, rows)),
            Ask::Query { number, .. } => Operation::Query {
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

    /// Compares an outcome with what it must be, and notes what it settles. Gives the rows that it brought.
    ///
    /// # Errors
    /// It is something else.
    pub(crate) fn check(&mut self, ask: Ask, outcome: &Outcome) -> Result<u64, Wrong> {
        let answer = match &outcome.result {
            Ok(answer) => answer,
            Err(failure) if failure.code == ErrorCode::NotFound && self.may_miss(ask) => {
                self.memory.acknowledge(ask.number(), matches!(ask, Ask::Del { .. }));
                return Ok(0);
            }
            Err(failure) => return Err(Wrong::Refused { ask: ask.name(), key: self.name(ask), failure: failure.clone() }),
        };
        match (ask, answer) {
            (Ask::Put { number, .. } | Ask::Del { number }, Answer::Done) => {
                self.memory.acknowledge(number, true);
                Ok(0)
            }
            (Ask::Get { number, version } | Ask::Modify { number, version }, Answer::Value { value, .. }) => {
                let right = self.memory.versions(number, version).any(|version| self.keys.is_value(number, version, value));
                if right { Ok(0) } else { Err(self.wrong(ask, "it is not the value that was stored")) }
            }
            (Ask::Scan { number, rows: limit, end }, Answer::Rows { rows, .. }) => {
                self.check_rows(ask, rows, number, 1, limit, end)
            }
            (Ask::Query { number, end }, Answer::Rows { rows, .. }) => {
                self.check_rows(ask, rows, number, GROUPS, self.shape.query_rows(), end)
            }
            _ => Err(self.wrong(ask, "an answer of another kind")),
        }
    }

    /// True if nobody knows whether the key is there.
    fn may_miss(&self, ask: Ask) -> bool {
        matches!(ask, Ask::Get { .. } | Ask::Modify { .. } | Ask::Del { .. }) && self.memory.may_be_absent(ask.number())
    }

    /// No answer tells whether it was done.
    pub(crate) fn unanswered(&mut self, ask: Ask) {
        match ask {
            Ask::Put { number, version } => self.memory.doubt_put(number, version),
            Ask::Del { number } => self.memory.doubt_del(number),
            Ask::Get { .. } | Ask::Modify { .. } | Ask::Scan { .. } | Ask::Query { .. } => {}
        }
    }

    fn check_rows(&self, ask: Ask, rows: &[Row], first: u64, step: u64, limit: usize, end: u64) -> Result<u64, Wrong> {
        let mut expected = first;
        for row in rows {
            let number = self.keys.number(&row.key).filter(|number| *number >= expected && number % step == first % step);
            let gap = |to: u64| (expected..to).step_by(step as usize).any(|number| !self.memory.may_be_absent(number));
            let Some(number) = number.filter(|number| *number < self.memory.end() && !gap(*number)) else {
                let found = String::from_utf8_lossy(&row.key).into_owned();
                return Err(self.wrong(ask, format!("the row {found:?} stands in another one's place")));
            };
            let newest = self.memory.newest(number);
            if !self.memory.versions(number, newest).any(|version| self.keys.is_value(number, version, &row.value)) {
                return Err(self.wrong(ask, format!("a row's value is not the one that was stored (row {number})")));
            }
            expected = number + step;
        }
        if rows.len() > limit {
            return Err(self.wrong(ask, format!("{} rows are too many", rows.len())));
        }
        let is_missing = |number: u64| !self.memory.may_be_absent(number);
        if rows.len() < limit && (expected..end).step_by(step as usize).any(is_missing) {
            return Err(self.wrong(ask, format!("{} rows are too few", rows.len())));
        }
        Ok(rows.len() as u64)
    }

    fn wrong(&self, ask: Ask, what: impl Into<String>) -> Wrong {
        Wrong::Answer { ask: ask.name(), key: self.name(ask), what: what.into() }
    }

    fn name(&self, ask: Ask) -> String {
        String::from_utf8_lossy(&self.keys.key(ask.number())).into_owned()
    }
}

impl Ask {
    const fn name(self) -> &'static str {
        match self {
            Ask::Put { version: 0, .. } => "insert",
            Ask::Put { .. } => "update",
            Ask::Get { .. } | Ask::Modify { .. } => "lookup",
            Ask::Scan { .. } => "scan",
            Ask::Query { .. } => "query",
            Ask::Del { .. } => "remove",
        }
    }

    /// What it is among the operations of a mix.
    pub(crate) const fn act(self) -> Act {
        match self {
            Ask::Put { version: 0, .. } => Act::Insert,
            Ask::Put { .. } | Ask::Del { .. } => Act::Update,
            Ask::Get { .. } => Act::Read,
            Ask::Modify { .. } => Act::ReadModifyWrite,
            Ask::Scan { .. } | Ask::Query { .. } => Act::Scan,
        }
    }

    const fn number(self) -> u64 {
        match self {
            Ask::Put { number, .. }
            | Ask::Get { number, .. }
            | Ask::Modify { number, .. }
            | Ask::Scan { number, .. }
            | Ask::Query { number, .. }
            | Ask::Del { number } => number,
        }
    }
}

#[cfg(test)]
#[path = "stages_tests.rs"]
mod tests;

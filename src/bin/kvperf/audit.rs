//! A look at everything that one client wrote: each acknowledged write is there, and nothing else.
//!
//! Pages of all of the client's keys are compared with what it remembers. It is asked for when no write is under way.

use kvbroker_protocol::{Key, Row, Scan};

use crate::stages::{Workload, Wrong};

/// Keys of one page.
const PAGE_ROWS: usize = 1_000;

/// How far the look is.
#[derive(Debug)]
pub(crate) struct Audit<'a> {
    workload: &'a Workload,
    cursor: Option<Key>,
    /// Every key below this number has been looked at.
    next: u64,
    keys: u64,
}

impl<'a> Audit<'a> {
    pub(crate) fn new(workload: &'a Workload) -> Audit<'a> {
        Audit { workload, cursor: None, next: 0, keys: 0 }
    }

    /// The next page to ask for.
    pub(crate) fn page(&self) -> Scan {
        let prefix = self.workload.keyspace().prefix().to_vec();
        Scan { prefix, cursor: self.cursor.clone(), limit: Some(PAGE_ROWS), ..Scan::default() }
    }

    /// Compares a page. Gives the number of all keys that were compared, once there is no further one.
    ///
    /// # Errors
    /// An acknowledged write is lost, or something is there that was not written.
    pub(crate) fn check(&mut self, rows: &[Row], cursor: Option<Key>) -> Result<Option<u64>, Wrong> {
        let (keys, memory) = (self.workload.keyspace(), self.workload.memory());
        for row in rows {
            let stray = |what| Wrong::Lost { key: String::from_utf8_lossy(&row.key).into_owned(), what };
            let number = keys.number(&row.key).filter(|number| *number >= self.next);
            let number = number.ok_or_else(|| stray("is a key that nobody wrote, or out of order"))?;
            self.pass(number)?;
            if !memory.may_be_there(number) {
                return Err(stray("is there, and its removal was acknowledged"));
            }
            let newest = memory.newest(number);
            if !memory.versions(number, newest).any(|version| keys.is_value(number, version, &row.value)) {
                return Err(stray("has another value than the one that was acknowledged last"));
            }
            (self.next, self.keys) = (number + 1, self.keys + 1);
        }
        self.cursor = cursor;
        if self.cursor.is_some() {
            return Ok(None);
        }
        self.pass(memory.end())?;
        // Those that were removed were found missing, as they must be.
        Ok(Some(self.keys + memory.first()))
    }

    /// No key is there from the next number on to this one.
    fn pass(&self, number: u64) -> Result<(), Wrong> {
        let memory = self.workload.memory();
        let missing = (self.next.max(memory.first())..number.min(memory.end())).find(|number| !memory.may_be_absent(*number));
        let Some(missing) = missing else { return Ok(()) };
        let key = String::from_utf8_lossy(&self.workload.keyspace().key(missing)).into_owned();
        Err(Wrong::Lost { key, what: "is not there, and its write was acknowledged" })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use kvbroker_protocol::{Answer, Outcome};

    use super::*;
    use crate::distribution::Distribution;
    use crate::keyspace::Keyspace;
    use crate::mixes::Mix;
    use crate::stages::{Ask, Shape, Stage};

    /// Twenty keys inserted, the first five removed, the seventh updated.
    fn workload() -> Workload {
        let shape = Shape { key_bytes: 15, value_bytes: 40, value_bytes_max: 40, batch: 1, page_rows: 10 };
        let keys = Keyspace::new(&"kp00000/".parse().unwrap(), 0, 15, 40..=40);
        let mut workload = Workload::new(keys, shape, Distribution::Uniform, Mix::A, 1);
        let mut asks = Vec::new();
        workload.ask(Stage::Insert, 20, &mut asks);
        workload.ask(Stage::Remove, 5, &mut asks);
        let read = Ask::Modify { number: 7, version: 0 };
        asks.extend(workload.follow_up(read));
        let done = Outcome { revision: Some(1), result: Ok(Answer::Done) };
        asks.into_iter().for_each(|ask| {
            workload.check(ask, &done).unwrap();
        });
        workload
    }

    fn row(workload: &Workload, number: u64, version: u32) -> Row {
        let keys = workload.keyspace();
        Row { key: keys.key(number), value: keys.value(number, version).unwrap(), modified: 1 }
    }

    fn right(workload: &Workload) -> Vec<Row> {
        (5..20).map(|number| row(workload, number, u32::from(number == 7))).collect()
    }

    fn found(workload: &Workload, rows: &[Row]) -> Result<u64, String> {
        let mut audit = Audit::new(workload);
        let (first, second) = rows.split_at(rows.len() / 2);
        assert_eq!(audit.page().cursor, None);
        let cursor = first.last().map(|row| row.key.clone());
        assert_eq!(audit.check(first, cursor.clone()).map_err(|wrong| wrong.to_string())?, None);
        assert_eq!(audit.page().cursor, cursor);
        Ok(audit.check(second, None).map_err(|wrong| wrong.to_string())?.unwrap())
    }

    #[test]
    fn what_was_acknowledged_is_all_that_may_be_there() {
        let workload = workload();
        assert_eq!(found(&workload, &right(&workload)), Ok(20));
        let changed = |change: fn(&Workload, &mut Vec<Row>)| {
            let mut rows = right(&workload);
            change(&workload, &mut rows);
            found(&workload, &rows).unwrap_err()
        };
        assert!(changed(|_, rows| drop(rows.remove(3))).contains("is not there"));
        assert!(changed(|_, rows| drop(rows.pop())).contains("is not there"));
        assert!(changed(|_, rows| drop(rows.remove(0))).contains("is not there"));
        assert!(changed(|workload, rows| rows.insert(0, row(workload, 4, 0))).contains("its removal was acknowledged"));
        assert!(changed(|workload, rows| rows.push(row(workload, 20, 0))).contains("is there"));
        assert!(changed(|workload, rows| rows[2] = row(workload, 7, 0)).contains("another value"), "the update is lost");
        assert!(changed(|workload, rows| rows[3].value = row(workload, 9, 0).value).contains("another value"));
        assert!(changed(|_, rows| rows[3].key.push(b'0')).contains("nobody wrote"));
    }

    #[test]
    fn what_is_in_doubt_may_be_either() {
        let mut workload = workload();
        let mut asks = Vec::new();
        workload.ask(Stage::Insert, 1, &mut asks);
        workload.ask(Stage::Remove, 1, &mut asks);
        asks.into_iter().for_each(|ask| workload.unanswered(ask));
        for (has_new, has_old) in [(false, false), (false, true), (true, false), (true, true)] {
            let mut rows = right(&workload);
            if has_new {
                rows.push(row(&workload, 20, 0));
            }
            if !has_old {
                rows.remove(0);
            }
            assert!(found(&workload, &rows).is_ok());
        }
        assert_eq!(workload.memory().unknown(), 2);
    }
}

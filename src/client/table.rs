//! The operations of a table, one method each.

use std::collections::VecDeque;
use std::time::Duration;

use kvbroker_protocol::{
    Answer, ErrorCode, Failure, HelloAnswer, Key, Operation, Operations, Outcome, Reply, Row, Scalar, Scan, StatValue, Stored,
};

use super::driver::Client;
use super::error::ClientError;

/// A key's value and its history in two numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The value as it was written.
    pub value: Stored,
    /// The revision of its last change.
    pub modified: u64,
    /// The revision at which the key came into being.
    pub created: u64,
    /// The revision of the table at which it was read.
    pub revision: u64,
}

/// One page of a scan or query: all of it at one revision.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// The rows, in key order.
    pub rows: Vec<Row>,
    /// Where the next page begins; None at the end.
    pub cursor: Option<Key>,
    /// The revision of the table at which it was read.
    pub revision: u64,
}

impl Client {
    /// Stores a value under a key, replacing what was there. Gives the revision.
    ///
    /// # Errors
    /// See [`ClientError`]; [`ClientError::Unknown`] if it may have been done.
    pub fn put(&self, key: impl AsRef<[u8]>, value: Stored) -> Result<u64, ClientError> {
        let (_, revision) = self.one(Operation::Put { key: key.as_ref().to_vec(), value, condition: None })?;
        Ok(revision)
    }

    /// Stores a text.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub fn put_text(&self, key: impl AsRef<[u8]>, text: &str) -> Result<u64, ClientError> {
        self.put(key, Stored::text(text).map_err(ClientError::Failed)?)
    }

    /// Stores bytes.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub fn put_bytes(&self, key: impl AsRef<[u8]>, bytes: &[u8]) -> Result<u64, ClientError> {
        self.put(key, Stored::bytes(bytes).map_err(ClientError::Failed)?)
    }

    /// Stores a JSON document as it is written.
    ///
    /// # Errors
    /// As [`Client::put`]; `invalid` when it is no JSON.
    pub fn put_json(&self, key: impl AsRef<[u8]>, json: &str) -> Result<u64, ClientError> {
        self.put(key, Stored::from_json(json.as_bytes()).map_err(ClientError::Failed)?)
    }

    /// Reads a key's value; None: there is no such key.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Entry>, ClientError> {
        match self.one(Operation::Get { key: key.as_ref().to_vec() }) {
            Ok((Answer::Value { value, modified, created }, revision)) => Ok(Some(Entry { value, modified, created, revision })),
            Ok(_) => Err(unexpected()),
            Err(error) if error.code() == Some(ErrorCode::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes a key. False: there was none.
    ///
    /// # Errors
    /// See [`ClientError`]; [`ClientError::Unknown`] if it may have been done.
    pub fn del(&self, key: impl AsRef<[u8]>) -> Result<bool, ClientError> {
        match self.one(Operation::Del { key: key.as_ref().to_vec(), return_old: false, condition: None }) {
            Ok(_) => Ok(true),
            Err(error) if error.code() == Some(ErrorCode::NotFound) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes a key and gives the value that it had; None: there was none.
    ///
    /// # Errors
    /// As [`Client::del`].
    pub fn take(&self, key: impl AsRef<[u8]>) -> Result<Option<Stored>, ClientError> {
        match self.one(Operation::Del { key: key.as_ref().to_vec(), return_old: true, condition: None }) {
            Ok((Answer::Removed(value), _)) => Ok(Some(value)),
            Ok(_) => Err(unexpected()),
            Err(error) if error.code() == Some(ErrorCode::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Counts the keys.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn size(&self) -> Result<u64, ClientError> {
        match self.one(Operation::Size)?.0 {
            Answer::Size(size) => Ok(size),
            _ => Err(unexpected()),
        }
    }

    /// One page of keys and values, in key order.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn scan_page(&self, scan: Scan) -> Result<Page, ClientError> {
        page(self.one(Operation::Scan(scan))?)
    }

    /// All rows of a scan, fetched page by page while they are read. Each page is of one
    /// revision; all pages together are not. `scan.limit` is the size of a page here.
    pub fn scan(&self, scan: Scan) -> Pages<'_> {
        Pages::new(self, None, scan)
    }

    /// One page of the dictionaries whose field `subkey` equals `subvalue`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn query_page(&self, subkey: &str, subvalue: Scalar, scan: Scan) -> Result<Page, ClientError> {
        page(self.one(Operation::Query { subkey: subkey.to_owned(), subvalue, scan })?)
    }

    /// All dictionaries whose field `subkey` equals `subvalue`; as [`Client::scan`].
    pub fn query(&self, subkey: &str, subvalue: Scalar, scan: Scan) -> Pages<'_> {
        Pages::new(self, Some((subkey.to_owned(), subvalue)), scan)
    }

    /// Asks for a sign of life; gives the table's revision.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn ping(&self) -> Result<u64, ClientError> {
        Ok(self.one(Operation::Ping)?.1)
    }

    /// The broker's counters and settings, in its order.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn stats(&self) -> Result<Vec<(String, StatValue)>, ClientError> {
        match self.one(Operation::Stats)?.0 {
            Answer::Stats(stats) => Ok(stats),
            _ => Err(unexpected()),
        }
    }

    /// What the broker says about itself now.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn hello(&self) -> Result<HelloAnswer, ClientError> {
        self.hello_within(self.timeout())
    }

    pub(super) fn hello_within(&self, timeout: Option<Duration>) -> Result<HelloAnswer, ClientError> {
        let hello = Operation::Hello { project: Some(self.project().to_owned()) };
        match first(self.call_within(Operations::One(hello), timeout)?)?.0 {
            Answer::Hello(hello) => Ok(*hello),
            _ => Err(unexpected()),
        }
    }

    /// An array of operations: each has its own outcome, in order.
    ///
    /// # Errors
    /// See [`ClientError`]; a refusal of the whole array is [`ClientError::Failed`].
    pub fn batch(&self, operations: Vec<Operation>) -> Result<Vec<Outcome>, ClientError> {
        use kvbroker_protocol::Outcomes;
        if operations.is_empty() {
            return Ok(Vec::new());
        }
        match self.call(Operations::Many(operations))?.outcomes {
            Outcomes::Many(outcomes) => Ok(outcomes),
            Outcomes::One(Outcome { result: Err(failure), .. }) => Err(ClientError::Failed(failure)),
            Outcomes::One(_) => Err(unexpected()),
        }
    }

    fn one(&self, operation: Operation) -> Result<(Answer, u64), ClientError> {
        first(self.call(Operations::One(operation))?)
    }
}

fn first(reply: Reply) -> Result<(Answer, u64), ClientError> {
    use kvbroker_protocol::Outcomes;
    let Outcomes::One(outcome) = reply.outcomes else { return Err(unexpected()) };
    let answer = outcome.result.map_err(ClientError::Failed)?;
    Ok((answer, outcome.revision.unwrap_or_default()))
}

fn page((answer, revision): (Answer, u64)) -> Result<Page, ClientError> {
    match answer {
        Answer::Rows { rows, cursor } => Ok(Page { rows, cursor, revision }),
        _ => Err(unexpected()),
    }
}

/// An answer of another kind than its operation's. The decoder refuses those already.
fn unexpected() -> ClientError {
    ClientError::Failed(Failure::new(ErrorCode::Internal, "the broker answered with another kind of answer"))
}

/// The rows of a scan or query over all its pages.
#[derive(Debug)]
pub struct Pages<'a> {
    client: &'a Client,
    query: Option<(String, Scalar)>,
    scan: Scan,
    rows: VecDeque<Row>,
    more: bool,
}

impl<'a> Pages<'a> {
    fn new(client: &'a Client, query: Option<(String, Scalar)>, scan: Scan) -> Self {
        Pages { client, query, scan, rows: VecDeque::new(), more: true }
    }

    /// The next page; None after the last one.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn next_page(&mut self) -> Option<Result<Page, ClientError>> {
        if !self.more {
            return None;
        }
        let scan = self.scan.clone();
        let page = match &self.query {
            None => self.client.scan_page(scan),
            Some((subkey, subvalue)) => self.client.query_page(subkey, subvalue.clone(), scan),
        };
        self.more = match &page {
            // A cursor that doesn't move would go on for ever.
            Ok(page) => page.cursor.is_some() && page.cursor != self.scan.cursor,
            Err(_) => false,
        };
        if let Ok(page) = &page {
            self.scan.cursor.clone_from(&page.cursor);
        }
        Some(page)
    }
}

impl Iterator for Pages<'_> {
    type Item = Result<Row, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(row) = self.rows.pop_front() {
                return Some(Ok(row));
            }
            // A page may be empty and not the last: the broker examines only so many keys in one turn.
            match self.next_page()? {
                Ok(page) => self.rows = page.rows.into(),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

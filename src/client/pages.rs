//! Pages of a scan or query, and what lies behind them: all rows, or all keys, fetched while they are read.
//!
//! - Each page is true at one revision; several pages together are not a snapshot, unless `Scan::snapshot` is `Some(0)`: then all
//!   of them are as of the first one's. The broker keeps no snapshot for ever, and forgets all of them when it is started again:
//!   `snapshot_gone` ends the rows, and whether to begin again from the first is the caller's choice.
//! - A page may be empty and not the last: the broker examines only so many keys in one turn.
//! - Rows or keys alone is decided by the type asked for, so `Scan::keys_only` need not be set.

use std::collections::VecDeque;

use kvbroker_protocol::{self as protocol, Answer, Key, Operation, Row, Scalar, Scan};

use super::convert::converted;
use super::error::ClientError;
use super::handle::Client;
use super::table::unexpected;

/// One page of a scan or query: all of it at one revision.
#[derive(Clone, Debug, PartialEq)]
pub struct Page<T = Row> {
    /// The rows in the order asked for; keys alone in a page of keys.
    pub rows: Vec<T>,
    /// Where the next page begins; None at the end.
    pub cursor: Option<Key>,
    /// The revision of the table at which it was read.
    pub revision: u64,
    /// With `Scan::snapshot`: the revision that it shows, and the `snapshot` to ask for the next page with.
    pub snapshot: Option<u64>,
}

/// What a page is made of: [`Row`] or [`Key`].
pub trait Item: sealed::Sealed + Sized {}

impl Item for Row {}
impl Item for Key {}

mod sealed {
    use super::{Answer, Key, Row};

    /// Nobody else has pages, so nobody else may implement this.
    pub trait Sealed: Sized {
        const KEYS_ONLY: bool;
        /// The items, the cursor and the snapshot, if the answer has them.
        fn from_answer(answer: Answer) -> Option<(Vec<Self>, Option<Key>, Option<u64>)>;
    }

    impl Sealed for Row {
        const KEYS_ONLY: bool = false;

        fn from_answer(answer: Answer) -> Option<(Vec<Self>, Option<Key>, Option<u64>)> {
            match answer {
                Answer::Rows { rows, cursor, snapshot } => Some((rows, cursor, snapshot)),
                _ => None,
            }
        }
    }

    impl Sealed for Key {
        const KEYS_ONLY: bool = true;

        fn from_answer(answer: Answer) -> Option<(Vec<Self>, Option<Key>, Option<u64>)> {
            match answer {
                Answer::Keys { keys, cursor, snapshot } => Some((keys, cursor, snapshot)),
                _ => None,
            }
        }
    }
}

/// The field's name and the value that a query asks for.
type Wanted = (String, Scalar);

impl Client {
    /// One page of keys and values in key order; from the last to the first with `scan.reverse`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn scan_page(&self, scan: Scan) -> Result<Page, ClientError> {
        self.page(None, scan)
    }

    /// One page of keys without their values.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn scan_keys_page(&self, scan: Scan) -> Result<Page<Key>, ClientError> {
        self.page(None, scan)
    }

    /// All rows of a scan, fetched page by page while they are read. Each page is of one
    /// revision; all pages together are not. `scan.limit` is the size of a page here, and
    /// `scan.keys_only` is not looked at: [`Client::scan_keys`] leaves the values out.
    ///
    /// ```
    /// # let broker = kvbroker_practice::Broker::start()?;
    /// # let lab = broker.client()?;
    /// use kvbroker_protocol::Scan;
    ///
    /// # for day in ["2026-04-30", "2026-05-01", "2026-05-31", "2026-06-01"] {
    /// #     lab.put_json(day, "7")?;
    /// # }
    /// // Measurements of May, the newest first: `from` belongs to the range, `to` does not.
    /// let may = Scan { from: Some(b"2026-05".into()), to: Some(b"2026-06".into()), reverse: true, ..Scan::default() };
    /// for row in lab.scan(may).take(10) {
    ///     println!("{}", String::from_utf8_lossy(&row?.key));
    /// }
    /// // The whole table as it is at one moment, however long the reading takes.
    /// let copy: Vec<_> = lab.scan(Scan { snapshot: Some(0), ..Scan::default() }).collect::<Result<_, _>>()?;
    /// println!("{} keys", copy.len());
    /// # assert_eq!(copy.len(), 4);
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    pub fn scan(&self, scan: Scan) -> Pages<'_> {
        Pages::new(self, None, scan)
    }

    /// All keys of a scan without their values; as [`Client::scan`].
    ///
    /// ```
    /// # let broker = kvbroker_practice::Broker::start()?;
    /// # let lab = broker.client()?;
    /// use kvbroker_protocol::Scan;
    ///
    /// let users: Result<Vec<_>, _> = lab.scan_keys(Scan { prefix: b"user/".into(), ..Scan::default() }).collect();
    /// println!("{} users", users?.len());
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    pub fn scan_keys(&self, scan: Scan) -> Pages<'_, Key> {
        Pages::new(self, None, scan)
    }

    /// One page of the dictionaries whose field `subkey` equals `subvalue`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn query_page(&self, subkey: &str, subvalue: Scalar, scan: Scan) -> Result<Page, ClientError> {
        self.page(Some((subkey.to_owned(), subvalue)), scan)
    }

    /// One page of the keys of these dictionaries, without their values.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn query_keys_page(&self, subkey: &str, subvalue: Scalar, scan: Scan) -> Result<Page<Key>, ClientError> {
        self.page(Some((subkey.to_owned(), subvalue)), scan)
    }

    /// All dictionaries whose field `subkey` equals `subvalue`; as [`Client::scan`].
    pub fn query(&self, subkey: &str, subvalue: Scalar, scan: Scan) -> Pages<'_> {
        Pages::new(self, Some((subkey.to_owned(), subvalue)), scan)
    }

    /// The keys of all dictionaries whose field `subkey` equals `subvalue`; as [`Client::scan_keys`].
    ///
    /// ```
    /// # let broker = kvbroker_practice::Broker::start()?;
    /// # let zoo = broker.client()?;
    /// use kvbroker_protocol::{Scalar, Scan};
    ///
    /// zoo.put_json("zebra", r#"{"weight":100}"#)?;
    /// # let mut found = 0;
    /// for key in zoo.query_keys("weight", Scalar::Int(100), Scan::default()) {
    ///     println!("{} weighs 100", String::from_utf8_lossy(&key?));
    /// #   found += 1;
    /// }
    /// # assert_eq!(found, 1);
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    pub fn query_keys(&self, subkey: &str, subvalue: Scalar, scan: Scan) -> Pages<'_, Key> {
        Pages::new(self, Some((subkey.to_owned(), subvalue)), scan)
    }

    fn page<T: Item>(&self, wanted: Option<Wanted>, scan: Scan) -> Result<Page<T>, ClientError> {
        self.page_as(wanted, scan, &protocol::Wanted::default())
    }

    fn page_as<T: Item>(
        &self,
        wanted: Option<Wanted>,
        mut scan: Scan,
        as_what: &protocol::Wanted,
    ) -> Result<Page<T>, ClientError> {
        scan.keys_only = T::KEYS_ONLY;
        let operation = match wanted {
            None => Operation::Scan(scan),
            Some((subkey, subvalue)) => Operation::Query { subkey, subvalue, scan },
        };
        let (answer, revision) = self.one(converted(operation, as_what))?;
        let (rows, cursor, snapshot) = T::from_answer(answer).ok_or_else(unexpected)?;
        Ok(Page { rows, cursor, revision, snapshot })
    }
}

/// The rows (or keys) of a scan or query over all its pages.
#[derive(Debug)]
pub struct Pages<'a, T = Row> {
    client: &'a Client,
    wanted: Option<Wanted>,
    scan: Scan,
    rows: VecDeque<T>,
    more: bool,
    converted: protocol::Wanted,
}

impl<'a, T: Item> Pages<'a, T> {
    fn new(client: &'a Client, wanted: Option<Wanted>, scan: Scan) -> Self {
        Pages { client, wanted, scan, rows: VecDeque::new(), more: true, converted: protocol::Wanted::default() }
    }

    pub(super) fn converted(self, converted: protocol::Wanted) -> Self {
        Pages { converted, ..self }
    }

    /// The next page; None after the last one.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn next_page(&mut self) -> Option<Result<Page<T>, ClientError>> {
        if !self.more {
            return None;
        }
        let page = self.client.page_as(self.wanted.clone(), self.scan.clone(), &self.converted);
        self.more = match &page {
            // A cursor that doesn't move would go on for ever.
            Ok(page) => page.cursor.is_some() && page.cursor != self.scan.cursor,
            Err(_) => false,
        };
        if let Ok(page) = &page {
            self.scan.cursor.clone_from(&page.cursor);
            self.scan.snapshot = page.snapshot;
        }
        Some(page)
    }
}

impl<T: Item> Iterator for Pages<'_, T> {
    type Item = Result<T, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(row) = self.rows.pop_front() {
                return Some(Ok(row));
            }
            match self.next_page()? {
                Ok(page) => self.rows = page.rows.into(),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

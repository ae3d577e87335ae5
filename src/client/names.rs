//! Keys as names of a tree, and keys as groups to remove.

use std::collections::VecDeque;

use kvbroker_protocol::{Answer, Key, LIST_DELIMITER, List, Operation};

use super::error::ClientError;
use super::handle::Client;
use super::pages::Page;
use super::table::unexpected;

impl Client {
    /// The names below a prefix, fetched page by page while they are read: keys up to the next `/` behind the prefix. A name
    /// that ends with `/` stands for all keys that begin with it.
    ///
    /// ```
    /// # let broker = kvbroker_practice::Broker::start()?;
    /// # let lab = broker.client()?;
    /// # lab.put_text("user/ann/mail", "ann@example.org")?;
    /// # lab.put_text("user/bob", "left")?;
    /// # let mut names = Vec::new();
    /// for name in lab.list("user/") {
    /// #   let name = name.inspect(|name| names.push(name.clone()));
    ///     println!("{}", String::from_utf8_lossy(&name?));
    /// }
    /// # assert_eq!(names, [&b"user/ann/"[..], b"user/bob"]);
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    pub fn list(&self, prefix: impl AsRef<[u8]>) -> Names<'_> {
        let (prefix, delimiter) = (prefix.as_ref().to_vec(), LIST_DELIMITER.to_vec());
        Names { client: self, list: List { prefix, delimiter, cursor: None, limit: None }, names: VecDeque::new(), more: true }
    }

    /// One page of names, with a delimiter and a length of one's own.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn list_page(&self, list: List) -> Result<Page<Key>, ClientError> {
        match self.one(Operation::List(list))? {
            (Answer::Keys { keys, cursor, snapshot }, revision) => Ok(Page { rows: keys, cursor, revision, snapshot }),
            _ => Err(unexpected()),
        }
    }

    /// Removes all keys with a prefix (empty: every key), a part at a time so that nobody else has to wait; gives their number.
    ///
    /// # Errors
    /// As [`Client::del`]. What was removed before the error stays removed.
    pub fn del_prefix(&self, prefix: impl AsRef<[u8]>) -> Result<u64, ClientError> {
        self.del_prefix_with(prefix, |_| {})
    }

    /// As [`Client::del_prefix`]; `progress` hears after each part how many keys have been removed so far.
    ///
    /// # Errors
    /// As there.
    pub fn del_prefix_with(&self, prefix: impl AsRef<[u8]>, mut progress: impl FnMut(u64)) -> Result<u64, ClientError> {
        let mut total = 0;
        loop {
            let operation = Operation::DelPrefix { prefix: prefix.as_ref().to_vec(), limit: None };
            let (Answer::Deleted { removed, more }, _) = self.one(operation)? else { return Err(unexpected()) };
            total += removed;
            progress(total);
            if !more {
                return Ok(total);
            }
        }
    }
}

/// The names of [`Client::list`].
#[derive(Debug)]
pub struct Names<'a> {
    client: &'a Client,
    list: List,
    names: VecDeque<Key>,
    more: bool,
}

impl Iterator for Names<'_> {
    type Item = Result<Key, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(name) = self.names.pop_front() {
                return Some(Ok(name));
            }
            if !self.more {
                return None;
            }
            match self.client.list_page(self.list.clone()) {
                Ok(page) => {
                    // A cursor that doesn't move would go on for ever.
                    self.more = page.cursor.is_some() && page.cursor != self.list.cursor;
                    self.list.cursor = page.cursor;
                    self.names = page.rows.into();
                }
                Err(error) => {
                    self.more = false;
                    return Some(Err(error));
                }
            }
        }
    }
}

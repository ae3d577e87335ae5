//! What to watch, and from where on.

use kvbroker_protocol::{Key, Predicate};

/// Where a watch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchFrom {
    /// With the changes from now on.
    Now,
    /// With the changes behind a revision.
    After {
        /// The revision.
        revision: u64,
        /// The log's epoch in which it was counted, if that is known: in another one it means nothing.
        epoch: Option<u64>,
    },
    /// With what is there, and the changes behind that.
    Snapshot,
}

impl WatchFrom {
    /// Behind a revision of the present log.
    #[must_use]
    pub fn after(revision: u64) -> Self {
        WatchFrom::After { revision, epoch: None }
    }
}

/// Which keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Watched {
    Prefix(Vec<u8>),
    Key(Key),
}

impl Watched {
    /// What is asked for; a key is also the prefix of others.
    pub(super) fn prefix(&self) -> &[u8] {
        match self {
            Watched::Prefix(prefix) | Watched::Key(prefix) => prefix,
        }
    }

    pub(super) fn has(&self, key: &[u8]) -> bool {
        match self {
            Watched::Prefix(prefix) => key.starts_with(prefix),
            Watched::Key(own) => own == key,
        }
    }
}

/// What to watch. See [`Client::watch_with`](crate::client::Client::watch_with).
#[derive(Clone, Debug, PartialEq)]
pub struct WatchOptions {
    pub(super) watched: Watched,
    pub(super) from: WatchFrom,
    pub(super) resync: Option<bool>,
    pub(super) detail: bool,
    pub(super) filter: Option<Predicate>,
}

impl WatchOptions {
    /// All keys that start with these bytes, from now on.
    #[must_use]
    pub fn prefix(prefix: impl AsRef<[u8]>) -> Self {
        Self::new(Watched::Prefix(prefix.as_ref().to_vec()))
    }

    /// One key, from now on.
    #[must_use]
    pub fn key(key: impl AsRef<[u8]>) -> Self {
        Self::new(Watched::Key(key.as_ref().to_vec()))
    }

    fn new(watched: Watched) -> Self {
        WatchOptions { watched, from: WatchFrom::Now, resync: None, detail: false, filter: None }
    }

    /// Where to begin.
    #[must_use]
    pub fn from(mut self, from: WatchFrom) -> Self {
        self.from = from;
        self
    }

    /// What to do where the changes can't all be told: true: begin anew with a snapshot that says why; false: end with
    /// [`ClientError::Broken`](crate::client::ClientError::Broken). Unless told otherwise, a watch that began with a snapshot begins anew.
    #[must_use]
    pub fn resync(mut self, resync: bool) -> Self {
        self.resync = Some(resync);
        self
    }

    /// Tell with each change what the key was before, as far as the broker still knows, and with each revision who made it. The broker
    /// is asked for these: the stream does not carry them.
    #[must_use]
    pub fn detail(mut self, detail: bool) -> Self {
        self.detail = detail;
        self
    }

    /// Only keys and values of which this holds, and which leave that set. The broker is asked for these, too.
    #[must_use]
    pub fn filter(mut self, filter: Predicate) -> Self {
        self.filter = Some(filter);
        self
    }

    pub(super) fn resyncs(&self) -> bool {
        self.resync.unwrap_or(self.from == WatchFrom::Snapshot)
    }

    /// The stream has every change as it is, and nothing else.
    pub(super) fn may_stream(&self) -> bool {
        !self.detail && self.filter.is_none()
    }
}

//! What has changed since a revision, asked of the broker itself: nothing is missed between one page and the next.

use std::time::Duration;

use kvbroker_protocol::limits::EVENTS_WAIT_MS_MAX;
use kvbroker_protocol::{Answer, Events, Operation, Operations, RevisionEvents};

use super::error::ClientError;
use super::handle::Client;
use super::table::{first, unexpected};

/// The changes behind a revision, or some of them.
#[derive(Clone, Debug, PartialEq)]
pub struct EventsPage {
    /// The revisions that changed something, in order, each whole; empty if there was none.
    pub events: Vec<RevisionEvents>,
    /// All changes up to this revision have been told: the `after` of the next page.
    pub through: u64,
    /// There may be more already. (Otherwise the next page waits for them, if it may.)
    pub more: bool,
    /// The revision of the table at which it was asked.
    pub revision: u64,
    /// The log's epoch; compared for equality only. `through` counts in it.
    pub epoch: u64,
}

impl Client {
    /// What happened to the keys with a prefix behind the revision `after` (None: from now on), at most `limit` revisions of it. If
    /// nothing has, the broker waits up to `wait` for the first change, and answers with an empty page if none comes; it waits a minute
    /// at most. The call may take so much longer than others.
    ///
    /// Keys that this client may not read are passed over, as if they were not there.
    ///
    /// ```no_run
    /// use std::time::Duration;
    ///
    /// use kvbroker::client::Client;
    ///
    /// let lab = Client::connect("NETID-a5")?;
    /// let mut after = lab.ping()?;
    /// loop {
    ///     let page = lab.events("lamp/", Some(after), None, Duration::from_secs(30))?;
    ///     for change in page.events.iter().flat_map(|revision| &revision.changes) {
    ///         println!("{}: {:?}", String::from_utf8_lossy(&change.key), change.kind);
    ///     }
    ///     after = page.through;
    /// }
    /// # #[allow(unreachable_code)]
    /// # Ok::<(), kvbroker::client::ClientError>(())
    /// ```
    ///
    /// # Errors
    /// See [`ClientError`]; `compacted` if the broker doesn't know all these changes any more (read the keys, and go on behind the
    /// revision of that), `busy` if too many wait already, `invalid` if the table has not come so far: it is another one.
    pub fn events(
        &self,
        prefix: impl AsRef<[u8]>,
        after: Option<u64>,
        limit: Option<usize>,
        wait: Duration,
    ) -> Result<EventsPage, ClientError> {
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).min(EVENTS_WAIT_MS_MAX);
        let asked = Operation::Events(Events { prefix: prefix.as_ref().to_vec(), after, limit, wait_ms, ..Events::default() });
        let timeout = self.timeout().map(|timeout| timeout.saturating_add(Duration::from_millis(wait_ms)));
        match first(self.call_within(Operations::One(asked), timeout)?)? {
            (Answer::Events { events, through, more, epoch }, revision) => {
                Ok(EventsPage { events, through, more, revision, epoch })
            }
            _ => Err(unexpected()),
        }
    }
}

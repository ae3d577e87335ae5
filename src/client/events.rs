//! What has changed since a revision, asked of the broker itself: nothing is missed between one page and the next.

use std::time::Duration;

use kvbroker_protocol::limits::EVENTS_WAIT_MS_MAX;
use kvbroker_protocol::{Answer, Events, Operation, Operations, Predicate, RevisionEvents};

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

/// What else is asked of [`Client::events_with`]. Without any of it: all changes from now on that are there already, which is none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EventsOptions {
    asked: Events,
}

impl EventsOptions {
    /// Nothing else.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Only revisions behind this one; otherwise those from now on.
    #[must_use]
    pub fn after(mut self, revision: u64) -> Self {
        self.asked.after = Some(revision);
        self
    }

    /// The epoch in which that revision was counted, such as [`EventsPage::epoch`]: if the log's is another one, the call fails with
    /// `compacted`, instead of telling changes behind a revision of another history.
    #[must_use]
    pub fn epoch(mut self, epoch: u64) -> Self {
        self.asked.epoch = Some(epoch);
        self
    }

    /// At most so many revisions.
    #[must_use]
    pub fn limit(mut self, revisions: usize) -> Self {
        self.asked.limit = Some(revisions);
        self
    }

    /// If nothing has changed, wait so long for the first change; a minute at most.
    #[must_use]
    pub fn wait(mut self, wait: Duration) -> Self {
        self.asked.wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).min(EVENTS_WAIT_MS_MAX);
        self
    }

    /// With what each key was before, and where each revision comes from.
    #[must_use]
    pub fn detail(mut self, detail: bool) -> Self {
        self.asked.detail = detail;
        self
    }

    /// Only what whoever keeps the keys and values that fit must hear of: a key whose new value does not fit (any more) is told as
    /// [`Leave`](kvbroker_protocol::ChangeKind::Leave).
    #[must_use]
    pub fn filter(mut self, filter: Predicate) -> Self {
        self.asked.where_ = Some(filter);
        self
    }
}

impl Client {
    /// What happened to the keys with a prefix behind the revision `after` (None: from now on), at most `limit` revisions of it. If
    /// nothing has, the broker waits up to `wait` for the first change, and answers with an empty page if none comes; it waits a minute
    /// at most. The call may take so much longer than others.
    ///
    /// Keys that this client may not read are passed over, as if they were not there.
    ///
    /// ```
    /// # let broker = kvbroker_practice::Broker::start()?;
    /// # let lab = broker.client()?;
    /// use std::time::Duration;
    ///
    /// let mut after = lab.ping()?;
    /// # lab.put_text("lamp/1", "on")?;
    /// loop {
    ///     let page = lab.events("lamp/", Some(after), None, Duration::from_secs(30))?;
    ///     for change in page.events.iter().flat_map(|revision| &revision.changes) {
    ///         println!("{}: {:?}", String::from_utf8_lossy(&change.key), change.kind);
    ///     }
    ///     after = page.through;
    /// #   if after == 1 { break; }
    /// }
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
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
        let mut options = EventsOptions::new().wait(wait);
        (options.asked.after, options.asked.limit) = (after, limit);
        self.events_with(prefix, options)
    }

    /// As [`Client::events`], with all that can be asked for.
    ///
    /// ```
    /// # let broker = kvbroker_practice::Broker::start()?;
    /// # let lab = broker.client()?;
    /// use std::time::Duration;
    ///
    /// use kvbroker::client::EventsOptions;
    /// use kvbroker_protocol::Predicate;
    ///
    /// let bright = Predicate::new("watts > 40")?;
    /// let before = lab.ping()?;
    /// # lab.put_json("lamp/1", r#"{"watts":25}"#)?;
    /// # lab.put_json("lamp/1", r#"{"watts":60}"#)?;
    /// let options = EventsOptions::new().after(before).wait(Duration::from_secs(30)).detail(true).filter(bright);
    /// let page = lab.events_with("lamp/", options)?;
    /// for change in page.events.iter().flat_map(|revision| &revision.changes) {
    ///     println!("{}: {:?}, before: {:?}", String::from_utf8_lossy(&change.key), change.kind, change.before);
    /// }
    /// # assert_eq!(page.events.len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Client::events`]; `compacted` also in another epoch, and where the filter can't be tried on all that a revision changed.
    pub fn events_with(&self, prefix: impl AsRef<[u8]>, options: EventsOptions) -> Result<EventsPage, ClientError> {
        let asked = Events { prefix: prefix.as_ref().to_vec(), ..options.asked };
        let timeout = self.timeout().map(|timeout| timeout.saturating_add(Duration::from_millis(asked.wait_ms)));
        match first(self.call_within(Operations::One(Operation::Events(asked)), timeout)?)? {
            (Answer::Events { events, through, more, epoch }, revision) => {
                Ok(EventsPage { events, through, more, revision, epoch })
            }
            _ => Err(unexpected()),
        }
    }
}

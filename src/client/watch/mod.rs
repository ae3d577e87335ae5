//! Changes as they happen: every one, once, in order and each revision whole, also over restarts of the broker and of the program.
//!
//! - The broker's publisher sends each prefix's changes as a chain: a message says behind which revision it is complete. What is
//!   missing in the chain is asked for (`events`), and told before anything behind it.
//! - Where there is no stream (the user has only some keys, the network has no way to the publisher, a filter or details are wanted),
//!   the broker is asked all the time, and answers when there is something: the same guarantees, a little later.
//! - A watch ends by an error only where waiting would not help. A broker that is away is waited for.
//! - What is not taken is not lost: whoever reads too slowly gets what he missed from the broker, as long as that knows it.
//!
//! The rooms: `event`, `changes` and `options` what is told and asked for, `merge` one watch without sockets, `hub` the sockets and questions of
//! many, `link` the connection to the publisher.

mod changes;
mod event;
mod hub;
mod link;
#[doc(hidden)]
pub mod merge;
mod options;

use std::fmt;
use std::time::Instant;

pub use changes::{Changes, ChangesIter};
pub use event::{WatchBroken, WatchEnd, WatchEvent, WatchStats, WhySnapshot};
pub use hub::{Hub, WatchId};
pub(super) use hub::{subscribe, unsubscribe};
pub(super) use link::{Came, Link};
pub use options::{WatchFrom, WatchOptions};

use super::error::ClientError;
use super::handle::Client;
use hub::Ended;
use merge::Position;

const _: fn() = || {
    fn may_move_to_another_thread<T: Send>() {}
    may_move_to_another_thread::<(Watch, Hub)>();
};

/// A running watch. It goes on for ever, so that only an error or dropping it ends it.
pub struct Watch {
    hub: Hub,
    id: WatchId,
    ended: Option<Box<Ended>>,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("position", &self.position())
            .field("end", &self.ended.as_ref().map(|ended| &ended.end))
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Watches all keys with a prefix.
    ///
    /// ```
    /// # let broker = kvbroker_practice::Broker::start()?;
    /// # let lab = broker.client()?;
    /// use kvbroker::client::{WatchEvent, WatchFrom};
    ///
    /// let mut watch = lab.watch("lamp/", WatchFrom::Now)?;
    /// lab.put_text("lamp/1", "on")?;
    /// lab.del("lamp/1")?;
    /// # let mut seen = 0;
    /// for event in watch {
    ///     if let WatchEvent::Changes(changes) = event? {
    ///         for change in &changes {
    ///             println!("revision {}: {:?} of {}", changes.revision(), change.kind, String::from_utf8_lossy(change.key));
    ///         }
    /// #       seen += 1;
    /// #       if seen == 2 { break; }
    ///     }
    /// }
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    ///
    /// To go on where another run of the program has stopped, keep what [`Watch::resume`] gives; to have a copy of what is there,
    /// begin with [`WatchFrom::Snapshot`]:
    ///
    /// ```
    /// # let broker = kvbroker_practice::Broker::start()?;
    /// # let lab = broker.client()?;
    /// use kvbroker::client::{WatchEvent, WatchFrom};
    ///
    /// lab.put_text("lamp/1", "on")?;
    /// let mut lamps = 0;
    /// let mut watch = lab.watch("lamp/", WatchFrom::Snapshot)?;
    /// while let Some(event) = watch.next(None)? {
    ///     match event {
    ///         WatchEvent::SnapshotBegin { .. } => lamps = 0,
    ///         WatchEvent::SnapshotRow(_) => lamps += 1,
    ///         WatchEvent::CaughtUp { revision } => {
    ///             println!("{lamps} lamps at revision {revision}; from now on only what changes");
    ///             break;
    ///         }
    ///         _ => {}
    ///     }
    /// }
    /// assert_eq!((lamps, watch.revision()), (1, Some(1)));
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Client::watch_with`].
    pub fn watch(&self, prefix: impl AsRef<[u8]>, from: WatchFrom) -> Result<Watch, ClientError> {
        self.watch_with(WatchOptions::prefix(prefix).from(from))
    }

    /// Watches what the options say. With [`WatchFrom::Now`], everything is told that happens after this returns.
    ///
    /// # Errors
    /// No more file descriptors; with [`WatchFrom::Now`] also as [`Client::call`]. All else the watch says itself.
    pub fn watch_with(&self, options: WatchOptions) -> Result<Watch, ClientError> {
        let is_now = options.from == WatchFrom::Now;
        let mut hub = self.hub()?;
        let id = hub.begin(options, true);
        if is_now {
            let timeout = self.timeout();
            let until = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
            if !hub.begins(id, until) {
                return Err(ClientError::TimedOut {
                    project: self.project().to_owned(),
                    waited: super::handle::timeout_text(timeout),
                    trouble: None,
                });
            }
        }
        Ok(Watch { hub, id, ended: None })
    }
}

impl Watch {
    /// The next event, if one comes until `until` (None: for ever).
    ///
    /// # Errors
    /// The watch can't go on, and has ended: [`ClientError::Broken`] where it may not begin anew; `refused` and the like where the broker
    /// will not answer; [`ClientError::Closed`]. It gives the same error from then on.
    pub fn next(&mut self, until: Option<Instant>) -> Result<Option<WatchEvent>, ClientError> {
        if let Some(ended) = &self.ended {
            return Err(ended.end.clone().into());
        }
        match self.hub.next_or_end(until) {
            None => Ok(None),
            Some((_, Ok(event))) => Ok(Some(event)),
            Some((_, Err(ended))) => {
                let ended = self.ended.insert(ended);
                Err(ended.end.clone().into())
            }
        }
    }

    /// The revision up to which everything was told; None: it has not begun, or is in a snapshot. Together with
    /// [`Watch::epoch`] it is what to keep if another watch is to go on later: see [`Watch::resume`].
    #[must_use]
    pub fn revision(&self) -> Option<u64> {
        self.position().map(|position| position.revision)
    }

    /// The log's epoch in which [`Watch::revision`] counts, once it is known.
    #[must_use]
    pub fn epoch(&self) -> Option<u64> {
        self.position()?.epoch
    }

    /// Where another watch would go on: behind everything that this one has told.
    #[must_use]
    pub fn resume(&self) -> Option<WatchFrom> {
        self.position().map(|Position { revision, epoch }| WatchFrom::After { revision, epoch })
    }

    /// True while nothing is known to be missing of what it has told and has ready to be told: the broker is heard, and nothing odd is
    /// being cleared up. A look is taken while the next event is waited for.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.ended.is_none() && self.hub.is_current(self.id)
    }

    /// What it has done so far.
    #[must_use]
    pub fn stats(&self) -> WatchStats {
        self.ended.as_ref().map_or_else(|| self.hub.stats(self.id).unwrap_or_default(), |ended| ended.stats)
    }

    fn position(&self) -> Option<Position> {
        self.ended.as_ref().map_or_else(|| self.hub.position(self.id), |ended| ended.position)
    }
}

impl Iterator for Watch {
    type Item = Result<WatchEvent, ClientError>;

    /// Waits for the next event; None: it has ended with an error, which was given before.
    fn next(&mut self) -> Option<Self::Item> {
        if self.ended.is_some() {
            return None;
        }
        Watch::next(self, None).transpose()
    }
}

//! What a key was before: its versions, as far back as the broker knows.

use kvbroker_protocol::{Answer, Operation, Version};

use super::error::ClientError;
use super::handle::Client;
use super::table::unexpected;

/// Versions of a key, as far back as was asked and as the log goes.
#[derive(Clone, Debug, PartialEq)]
pub struct History {
    /// The versions, newest first; empty if the broker knows of none.
    pub versions: Vec<Version>,
    /// There are older ones: ask again for those before the last one's revision.
    pub more: bool,
    /// The oldest revision of which the broker still knows: above 1, there may have been versions before it.
    pub oldest: u64,
    /// The revision of the table at which it was asked.
    pub revision: u64,
}

impl Client {
    /// Reads the newest versions of a key: what it was, when, and when it was removed. At most `limit` of them (None: as many as
    /// the broker gives by itself), and only those before the revision `before`, where that is given.
    ///
    /// The broker has the latest ones in memory and reads others from its log, beside its other work: that may take long where the
    /// log is large and the key changes rarely.
    ///
    /// ```
    /// # let broker = kvbroker_practice::Broker::start()?;
    /// # let lab = broker.client()?;
    /// lab.put_json("setpoint", "19.5")?;
    /// lab.put_json("setpoint", "21")?;
    /// let history = lab.history("setpoint", Some(10), None)?;
    /// for version in &history.versions {
    ///     println!("revision {}: {:?}", version.revision, version.kind);
    /// }
    /// assert_eq!(history.versions.len(), 2);
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    ///
    /// # Errors
    /// See [`ClientError`]; `busy` if too many ask for a history at once.
    pub fn history(&self, key: impl AsRef<[u8]>, limit: Option<usize>, before: Option<u64>) -> Result<History, ClientError> {
        match self.one(Operation::History { key: key.as_ref().to_vec(), limit, before })? {
            (Answer::History { versions, more, oldest }, revision) => Ok(History { versions, more, oldest, revision }),
            _ => Err(unexpected()),
        }
    }
}

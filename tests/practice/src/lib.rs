//! A broker to practise with: the real one, inside the program, with an empty table in a temporary directory.
//!
//! The examples of the client library's documentation run against it:
//!
//! ```
//! let broker = kvbroker_practice::Broker::start()?;
//! let lab = broker.client()?;
//! lab.put_text("greeting", "hello")?;
//! assert_eq!(lab.get("greeting")?.and_then(|entry| entry.value.as_text()).as_deref(), Some("hello"));
//! # Ok::<(), kvbroker_practice::Problem>(())
//! ```
//!
//! Caveat: the library's own unit tests are compiled with a second copy of its types. They make their clients themselves, for the broker
//! of [`PROJECT`] below [`Broker::home`].

use std::path::Path;

use kvbroker::catalog::CatalogList;
use kvbroker::client::{Client, ClientError, ConnectOptions};
use kvbroker::paths::Dirs;
use kvbroker_daemon::Embedded;
use tempfile::TempDir;

/// Whatever an example may fail with.
pub type Problem = Box<dyn std::error::Error + Send + Sync>;

/// The project that it serves.
pub const PROJECT: &str = "practice";

/// Runs until it is dropped, and then its data is gone.
#[derive(Debug)]
pub struct Broker {
    /// Before its directory, for the order in which they are dropped.
    _daemon: Embedded,
    dirs: Dirs,
    home: TempDir,
}

impl Broker {
    /// Starts one with an empty table, and returns when it serves.
    ///
    /// # Errors
    /// No room for temporary files, no sockets, or no threads.
    pub fn start() -> Result<Broker, Problem> {
        // Short, since paths of unix sockets are.
        let home = tempfile::Builder::new().prefix("kvp-").tempdir()?;
        let dirs = Dirs::under(home.path())?;
        let daemon = Embedded::start(dirs.clone(), PROJECT.parse()?)?;
        Ok(Broker { _daemon: daemon, dirs, home })
    }

    /// A client of it.
    ///
    /// # Errors
    /// As [`Client::connect_with`].
    pub fn client(&self) -> Result<Client, ClientError> {
        Client::connect_with(PROJECT, ConnectOptions::new().dirs(self.dirs.clone()).catalogs(CatalogList::none()))
    }

    /// The directory that everything of it is below, as `KVBROKER_HOME` would name it.
    #[must_use]
    pub fn home(&self) -> &Path {
        self.home.path()
    }
}

//! How to connect.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kvbroker_protocol::BrokerId;

use super::inbox::Inbox;
use super::progress::Notices;
use crate::catalog::CatalogList;
use crate::lookup::{Address, Lookup, LookupError, NewKeys, Target, TrustOptions, Wanted};
use crate::paths::{Dirs, login_name};

/// How long a call of the library may take unless told otherwise.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);

/// How to find a broker and how long to wait for it.
///
/// What is not set comes from the environment: `KVBROKER_HOME` and the XDG directories,
/// `CATALOG_HOST` and `CATALOG_PORT`, `KVBROKER_ENDPOINT`, `KVBROKER_KEY`.
#[derive(Clone)]
pub struct ConnectOptions {
    pub(super) timeout: Option<Duration>,
    pub(super) wait_for_broker: bool,
    pub(super) notices: Option<Notices>,
    wanted: Wanted,
    trust: TrustOptions,
    endpoint: Option<String>,
    catalogs: Option<CatalogList>,
    dirs: Option<Dirs>,
    /// Nobody but callers drives the client, and they are expected to wait.
    #[cfg(test)]
    is_alone: bool,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for ConnectOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectOptions")
            .field("timeout", &self.timeout)
            .field("wait_for_broker", &self.wait_for_broker)
            .field("wanted", &self.wanted)
            .field("trust", &self.trust)
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

impl ConnectOptions {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        ConnectOptions {
            timeout: Some(TIMEOUT_DEFAULT),
            wait_for_broker: false,
            notices: None,
            wanted: Wanted::default(),
            trust: TrustOptions::default(),
            endpoint: None,
            catalogs: None,
            dirs: None,
            #[cfg(test)]
            is_alone: false,
        }
    }

    /// Without a thread of the client's own, so that a test sees what callers do by themselves.
    #[cfg(test)]
    pub(super) fn alone(mut self) -> Self {
        self.is_alone = true;
        self
    }

    #[cfg(test)]
    pub(super) fn has_thread(&self) -> bool {
        !self.is_alone
    }

    #[cfg(not(test))]
    pub(super) fn has_thread(&self) -> bool {
        true
    }

    /// # Errors
    /// No more file descriptors.
    pub(super) fn inbox(&self) -> std::io::Result<Inbox> {
        #[cfg(test)]
        if self.is_alone {
            return Inbox::patient();
        }
        Inbox::new()
    }

    /// How long connecting and each call may take. None: for ever.
    #[must_use]
    pub fn timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.timeout = timeout.into();
        self
    }

    /// Look again until the timeout where no broker is found, instead of failing at once: for
    /// programs that are started together with their broker.
    #[must_use]
    pub fn wait_for_broker(mut self, wait: bool) -> Self {
        self.wait_for_broker = wait;
        self
    }

    /// Only a broker of this owner.
    #[must_use]
    pub fn owner(mut self, owner: impl Into<String>) -> Self {
        self.wanted.owner = Some(owner.into());
        self
    }

    /// Only the broker with this uuid.
    #[must_use]
    pub fn broker(mut self, broker: BrokerId) -> Self {
        self.wanted.broker = Some(broker);
        self
    }

    /// The broker's address (`kv://HOST:PORT/PROJECT?key=kvpub1…`): nothing is searched.
    #[must_use]
    pub fn endpoint(mut self, address: impl Into<String>) -> Self {
        self.endpoint = Some(address.into());
        self
    }

    /// The secret key to be on the network, instead of `id` in the configuration directory. What one's own brokers
    /// prove follows from it, too. It is never made here.
    #[must_use]
    pub fn key_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.trust.key_file = Some(file.into());
        self
    }

    /// Who decides about brokers of other people that were never used before. Unless told otherwise they are refused: a library asks nobody.
    #[must_use]
    pub fn new_keys(mut self, new_keys: NewKeys) -> Self {
        self.trust.new_keys = new_keys;
        self
    }

    /// True: brokers without encryption may be used, over plain TCP. Everybody on the way can then read and change
    /// everything, and pose as the broker. No variable of the environment does this, and nothing in a catalog.
    #[must_use]
    pub fn insecure(mut self, insecure: bool) -> Self {
        self.trust.insecure = insecure;
        self
    }

    /// The catalogs to ask.
    #[must_use]
    pub fn catalogs(mut self, catalogs: CatalogList) -> Self {
        self.catalogs = Some(catalogs);
        self
    }

    /// The directories to use.
    #[must_use]
    pub fn dirs(mut self, dirs: Dirs) -> Self {
        self.dirs = Some(dirs);
        self
    }

    /// Who hears of what takes long; called on the thread that waits.
    #[must_use]
    pub fn notices(mut self, notices: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.notices = Some(Arc::new(notices));
        self
    }

    /// The lookup that these options mean for `target`, a project's name or a `kv://` address.
    ///
    /// # Errors
    /// The name, an address or the list of catalogs can't be one; no home directory.
    pub fn lookup(&self, target: &str) -> Result<Lookup, LookupError> {
        let mut target: Target = target.parse()?;
        if target.address.is_none() {
            let from_environment = || std::env::var("KVBROKER_ENDPOINT").ok().filter(|text| !text.is_empty());
            let address = self.endpoint.clone().or_else(from_environment);
            let address: Option<Address> = address.map(|text| text.parse()).transpose()?;
            target = Target::new(target.project, address)?;
        }
        let dirs = match &self.dirs {
            Some(dirs) => dirs.clone(),
            None => Dirs::from_environment()?,
        };
        let catalogs = match &self.catalogs {
            Some(catalogs) => catalogs.clone(),
            None => CatalogList::from_env(None)?,
        };
        let mut trust = self.trust.clone();
        let from_environment = || std::env::var_os("KVBROKER_KEY").filter(|file| !file.is_empty()).map(PathBuf::from);
        trust.key_file = trust.key_file.or_else(from_environment);
        Ok(Lookup::new(target, self.wanted.clone(), dirs, catalogs, login_name()).trusting(trust))
    }
}

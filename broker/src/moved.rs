//! The publisher has another TCP port: everybody who tells where it is must tell the new one.

use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Weak};

use kvbroker::catalog::CatalogRecord;
use kvbroker::endpoint::Endpoint;
use kvbroker::paths::RuntimeDir;
use kvbroker_discovery::Announcer;

/// Those who tell: Hello, the endpoint file and the catalogs. The ports to try first at the next start stay as they are.
pub(crate) struct PubPortTellers {
    /// What Hello says.
    pub(crate) hello: Arc<AtomicU16>,
    pub(crate) endpoint: Endpoint,
    pub(crate) runtime: Arc<RuntimeDir>,
    pub(crate) record: CatalogRecord,
    /// It may end before the publisher does.
    pub(crate) announcer: Weak<Announcer>,
}

impl PubPortTellers {
    /// Has them tell this port from now on.
    pub(crate) fn tell(&self, port: u16) {
        self.hello.store(port, Ordering::Relaxed);
        let mut endpoint = self.endpoint.clone();
        if let Some(tcp) = &mut endpoint.tcp {
            tcp.pub_port = port;
        }
        if let Err(error) = endpoint.write(&self.runtime) {
            tracing::warn!("the endpoint file still names the publisher's former port: {error}");
        }
        let record = CatalogRecord { pub_port: Some(port), ..self.record.clone() };
        if let Some(announcer) = self.announcer.upgrade()
            && let Err(error) = announcer.update(record)
        {
            tracing::warn!("the catalogs still name the publisher's former port: {error}");
        }
    }
}

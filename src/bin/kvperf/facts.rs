//! What a measurement depends on: the broker, the way to it, the machine, the programs.

use kvbroker::client::{Client, Route};
use kvbroker::version;
use serde::{Deserialize, Serialize};

/// All that is needed to repeat a measurement, beside the command line. Names are stable: programs read them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Facts {
    pub(crate) project: String,
    /// `ipc` or `tcp` (with CURVE).
    pub(crate) transport: String,
    pub(crate) endpoint: String,
    /// The broker's uuid.
    pub(crate) broker: String,
    pub(crate) broker_version: String,
    /// What an acknowledgement means there: `always`, `every N ms` or `never`.
    pub(crate) sync: String,
    pub(crate) kvperf_version: String,
    pub(crate) kvperf_commit: String,
    /// A debug build measures itself.
    pub(crate) is_debug_build: bool,
    pub(crate) libzmq: String,
    /// Processors that this process may use.
    pub(crate) processors: usize,
    /// The operating system's name and release, and the processor's architecture.
    pub(crate) system: String,
}

impl Facts {
    pub(crate) fn of(client: &Client) -> Facts {
        let hello = client.broker();
        let (transport, endpoint) = match client.route() {
            Some(route @ Route::Local { .. }) => ("ipc", route.to_string()),
            Some(route @ Route::Network { .. }) => ("tcp", route.to_string()),
            Some(route @ Route::Unprotected { .. }) => ("plain tcp", route.to_string()),
            None => ("none", "the connection has ended".to_owned()),
        };
        let uname = rustix::system::uname();
        let system =
            [uname.sysname(), uname.release(), uname.machine()].map(|part| part.to_string_lossy().into_owned()).join(" ");
        Facts {
            project: client.project().to_owned(),
            transport: transport.to_owned(),
            endpoint,
            broker: hello.broker.to_string(),
            broker_version: hello.version.clone(),
            sync: hello.durability.clone(),
            kvperf_version: version::VERSION.to_owned(),
            kvperf_commit: version::COMMIT.to_owned(),
            is_debug_build: cfg!(debug_assertions),
            libzmq: kvbroker::transport::libzmq_version().to_string(),
            processors: std::thread::available_parallelism().map_or(0, usize::from),
            system,
        }
    }

    /// Some, for tests.
    #[cfg(test)]
    pub(crate) fn sample() -> Facts {
        let text = str::to_owned;
        Facts {
            project: text("lab"),
            transport: text("ipc"),
            endpoint: text("ipc:///run/lab"),
            broker: text("0"),
            broker_version: text("0.1.0"),
            sync: text("always"),
            kvperf_version: text("0.1.0"),
            kvperf_commit: text("0"),
            is_debug_build: true,
            libzmq: text("4.3.5"),
            processors: 2,
            system: text("Linux"),
        }
    }
}

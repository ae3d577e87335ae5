//! A catalog on loopback, in the test's own process.

use std::io;
use std::net::Ipv4Addr;
use std::thread::JoinHandle;

use kvbroker_discovery::{CatalogConfig, CatalogServer, StopHandle};

use crate::{Broker, BrokerOptions, Cli, Home, PATIENCE, wait_until};

/// A running `kvcatalog` without its process; ended when dropped.
#[derive(Debug)]
pub struct LoopbackCatalog {
    address: String,
    stop: StopHandle,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl LoopbackCatalog {
    /// Starts one on free ports.
    ///
    /// # Panics
    /// If there are none.
    pub fn start() -> LoopbackCatalog {
        let config = CatalogConfig { listen: Ipv4Addr::LOCALHOST.into(), port: 0, lifetime_s: 1_800 };
        let server = CatalogServer::bind(&config).expect("there are free ports");
        let (address, stop) = (server.addr().to_string(), server.stop_handle());
        LoopbackCatalog { address, stop, thread: Some(std::thread::spawn(move || server.run())) }
    }

    /// For `--catalog`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// A broker with defaults that is told to it.
    ///
    /// # Panics
    /// As [`Broker::start`].
    pub fn broker(&self, home: &Home) -> Broker {
        self.broker_with(BrokerOptions::default().home(home))
    }

    /// A broker that is told to it.
    ///
    /// # Panics
    /// As [`Broker::start`].
    pub fn broker_with(&self, options: BrokerOptions) -> Broker {
        Broker::start(BrokerOptions { catalog: self.address.clone(), ..options })
    }

    /// Waits until it lists so many brokers.
    ///
    /// # Panics
    /// If that takes too long.
    pub fn wait_for(&self, count: usize) {
        let cli = Cli::new(&Home::new()).catalog(&self.address);
        wait_until(PATIENCE, "the catalog lists the brokers", || {
            let listed = cli.ok(&["list", "--json"]).json();
            (listed["brokers"].as_array().map(Vec::len) == Some(count)).then_some(())
        });
    }
}

impl Drop for LoopbackCatalog {
    fn drop(&mut self) {
        self.stop.stop();
        // What the test found matters more than how the catalog ended.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

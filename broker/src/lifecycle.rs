//! A broker's life, from the command line to the exit code. The threads are `running`'s.
//!
//! Order of the start: runtime lock and data lock (before any bind: a second bind on a unix socket silently steals it), recovery,
//! doors (ZAP) before sockets, threads, endpoint file, ready block. Order of the stop: refuse new requests, let the worker finish
//! what was taken and close the log, send the last replies, end.

use std::io::Write;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kvbroker::access_file::store::AccessStore;
use kvbroker::catalog::{CatalogList, CatalogRecord, RECORD_LIFETIME_S};
use kvbroker::endpoint::Endpoint;
use kvbroker::exit::Exit;
use kvbroker::keys::{self, KeyPair};
use kvbroker::paths::{Dirs, PathError, RuntimeDir, RuntimeLock};
use kvbroker::transport::{self, TransportError};
use kvbroker::zap::Policy;
use kvbroker_discovery::{Announcer, AnnouncerConfig, Reach};
use kvbroker_log::{RecoveryReport, SyncMode};
use kvbroker_protocol::UserKey;
use kvbroker_table::AccessBook;

use crate::access::{AccessStatus, Gatekeeper, OwnKeys, publisher_policy, router_policy};
use crate::args::Config;
use crate::connections::ConnectionBounds;
use crate::failure::Failure;
use crate::listening::{Network, Reachable};
use crate::loading::Took;
use crate::moved::PubPortTellers;
use crate::open::{Opened, open};
use crate::ports::Ports;
use crate::publisher::ShutOut;
use crate::ready::{Ready, kvclient_command};
use crate::running::{Notice, Running, Sockets};
use crate::sockets::{self, Listener, PortWish, Protection};

/// How long the ready block waits for the catalogs' word.
const CATALOG_WAIT: Duration = Duration::from_millis(500);

/// Runs the broker until it is told to stop.
///
/// # Errors
/// [`Failure`] with the exit code.
pub(crate) fn run(config: &Config) -> Result<(), Failure> {
    let (sender, notices) = channel();
    let asked = Arc::new(AtomicBool::new(false));
    crate::signals::install(sender.clone(), Arc::clone(&asked)).map_err(Failure::with(Exit::Unreachable))?;
    crate::process::prepare();
    if let Some(path) = &config.ready_file {
        // Better said now than by a broker that has clients already.
        ready_file_beside(path).map_err(|error| no_ready_file(path, &error))?;
    }
    let dirs = Dirs::from_environment().map_err(Failure::with(Exit::Refused))?;
    match Broker::start(config, dirs, sender, notices, &asked)? {
        Some(broker) => broker.wait(),
        None => {
            tracing::info!("stopped while reading the log, as asked");
            Ok(())
        }
    }
}

/// A broker that serves, and what has to be taken back when it ends.
pub(crate) struct Broker {
    running: Running,
    notices: Receiver<Notice>,
    grace: Duration,
    home: Home,
    announcer: Arc<Announcer>,
}

impl Broker {
    /// Starts one with these directories and returns when it serves; None if a stop was asked for while it read its log.
    ///
    /// # Errors
    /// [`Failure`] with the exit code.
    pub(crate) fn start(
        config: &Config,
        dirs: Dirs,
        sender: Sender<Notice>,
        notices: Receiver<Notice>,
        asked: &AtomicBool,
    ) -> Result<Option<Broker>, Failure> {
        let home = Home::enter(config, dirs)?;
        let instance = uuid::Uuid::new_v4();
        let directory = config.data.clone().unwrap_or_else(|| home.dirs.data_dir(&config.project));
        let Some(opened) = open(config, directory, instance, asked)? else { return Ok(None) };
        let keeper = home.gatekeeper(config);
        let bound = bind(config, &home, keeper.book(), &opened.directory)?;
        let reachable = Reachable::of(&config.network, &bound.router.listener, &bound.publisher.listener);
        let endpoint = endpoint(config, &home, &opened.report, reachable.as_ref(), instance);
        let announcer = Announcer::start(AnnouncerConfig {
            // Without TCP there is nothing to tell.
            catalogs: if reachable.is_some() { config.catalogs.clone() } else { CatalogList::none() },
            reach: reachable.as_ref().map_or(Reach::LoopbackOnly, Reachable::reach),
            record: record(config, &endpoint, reachable.as_ref()),
        });
        let announcer = Arc::new(announcer);
        let directory = opened.directory.clone();
        let tellers = PubPortTellers {
            hello: Arc::new(endpoint.tcp.as_ref().map_or(0, |tcp| tcp.pub_port).into()),
            endpoint: endpoint.clone(),
            runtime: home.runtime.clone(),
            record: record(config, &endpoint, reachable.as_ref()),
            announcer: Arc::downgrade(&announcer),
        };
        let ready = ReadyParts::of(&opened, reachable, &keeper.status());
        let running = Running::start(config, opened, keeper, bound, tellers, Arc::clone(&announcer), sender)?;
        let broker = Broker { running, notices, grace: config.grace, home, announcer };
        match tell_ready(config, &broker.home, &endpoint, &broker.announcer, &ready, &directory) {
            Ok(()) => Ok(Some(broker)),
            // It serves already: whoever was answered must find the log closed cleanly.
            Err(failure) => broker.stop().and(Err(failure)),
        }
    }

    /// Serves until its end.
    pub(crate) fn wait(self) -> Result<(), Failure> {
        let result = self.running.wait(self.grace, &self.notices);
        take_back(self.home, self.announcer);
        result
    }

    /// Stops cleanly.
    pub(crate) fn stop(self) -> Result<(), Failure> {
        let result = self.running.stop(self.grace, &self.notices);
        take_back(self.home, self.announcer);
        result
    }
}

/// Takes back what told others of a broker that has ended.
fn take_back(home: Home, announcer: Arc<Announcer>) {
    home.leave();
    if let Some(announcer) = Arc::into_inner(announcer) {
        announcer.stop();
    }
}

/// The directories of this broker, held.
struct Home {
    dirs: Dirs,
    runtime: Arc<RuntimeDir>,
    _runtime_lock: RuntimeLock,
    owner: KeyPair,
    project: KeyPair,
}

impl Home {
    fn enter(config: &Config, dirs: Dirs) -> Result<Home, Failure> {
        fn refused(error: impl std::fmt::Display) -> Failure {
            Failure::new(Exit::Refused, error)
        }
        let runtime = dirs.create_runtime(&config.project).map_err(refused)?;
        let runtime_lock = runtime.lock().map_err(|error| {
            let exit = if matches!(error, PathError::AlreadyRunning { .. }) { Exit::DataLocked } else { Exit::Refused };
            Failure::new(exit, error)
        })?;
        let owner = match &config.key {
            Some(file) => keys::load_key_file(file).map_err(refused)?,
            None => keys::load_or_create_owner_key(dirs.config_dir()).map_err(refused)?,
        };
        let project = owner.project(&config.project).map_err(refused)?;
        Ok(Home { dirs, runtime: Arc::new(runtime), _runtime_lock: runtime_lock, owner, project })
    }

    /// Reads who may come in; before any door opens.
    fn gatekeeper(&self, config: &Config) -> Gatekeeper {
        let [owner, project] = [&self.owner, &self.project].map(|pair| UserKey::from_bytes(*pair.public().as_bytes()));
        let store = AccessStore::new(&self.dirs, &config.project);
        let book = if config.network.is_insecure { AccessBook::with_anyone() } else { AccessBook::new() };
        Gatekeeper::new(store, config.project.to_string(), OwnKeys { owner, project }, Arc::new(book))
    }

    /// Removes what told others that a broker is here. Only ours to remove while the runtime lock is held.
    fn leave(&self) {
        if let Err(error) = Endpoint::remove(&self.runtime) {
            tracing::warn!("{error}");
        }
        for socket in [self.runtime.router_socket(), self.runtime.pub_socket()] {
            // libzmq leaves them; a dead one is no harm.
            let _ = std::fs::remove_file(socket);
        }
    }
}

fn bind(config: &Config, home: &Home, access: &Arc<AccessBook>, data: &Path) -> Result<Sockets, Failure> {
    let remembered = Ports::remembered(data);
    let (owner, plain_tcp) = (*home.owner.public(), config.network.is_insecure);
    let router_policy = Policy { plain_tcp, ..router_policy(access.clone(), owner) };
    let publisher_policy = Policy { plain_tcp, ..publisher_policy(access.clone(), owner) };
    let (protection, listen) = protection(&config.network, transport::has_curve(), &home.project)?;
    let router = Listener::new(&home.runtime.router_socket(), listen, protection.clone());
    let publisher = Listener::new(&home.runtime.pub_socket(), listen, protection);
    let router_port = PortWish { asked: config.port, remembered: remembered.map(|ports| ports.router), flag: "--port" };
    let pub_port = PortWish { asked: config.pub_port, remembered: remembered.map(|ports| ports.publisher), flag: "--pub-port" };
    let shut_out = Arc::new(ShutOut::default());
    let pub_policy = shut_out.guard(publisher_policy);
    let sockets = Sockets {
        router: sockets::router(router_policy, router, &router_port)?,
        publisher: sockets::publisher(pub_policy.clone(), publisher, &pub_port)?,
        pub_policy,
        shut_out,
        connections: ConnectionBounds::of_process()?,
    };
    let ports = Ports { router: sockets.router.listener.port(), publisher: sockets.publisher.listener.port() };
    if remembered != Some(ports)
        && ports.router != 0
        && let Err(error) = ports.remember(data)
    {
        tracing::warn!("the ports cannot be remembered for the next start: {error}");
    }
    Ok(sockets)
}

/// How TCP is protected, and on which addresses it may be: none where nothing can be encrypted.
fn protection<'a>(network: &'a Network, has_curve: bool, project: &KeyPair) -> Result<(Protection, &'a [IpAddr]), Failure> {
    if network.is_insecure {
        tracing::warn!(
            "--insecure: on TCP nothing is encrypted and nobody is asked for a key; whoever can connect may read and change everything"
        );
        return Ok((Protection::Plain, &network.listen));
    }
    let protection = Protection::Curve(project.clone());
    if has_curve {
        return Ok((protection, &network.listen));
    }
    if network.is_chosen || !network.advertise.is_empty() {
        return Err(Failure::new(Exit::Unreachable, TransportError::NoCurve));
    }
    tracing::warn!("{}; only programs of your own on this machine can connect", TransportError::NoCurve);
    Ok((protection, &[]))
}

fn endpoint(
    config: &Config,
    home: &Home,
    report: &RecoveryReport,
    reachable: Option<&Reachable>,
    instance: uuid::Uuid,
) -> Endpoint {
    Endpoint {
        project: config.project.clone(),
        owner: config.owner.clone(),
        uuid: report.uuid,
        instance,
        epoch: report.epoch,
        pid: std::process::id(),
        starttime_s: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        router_socket: home.runtime.router_socket(),
        pub_socket: home.runtime.pub_socket(),
        tcp: reachable.map(Reachable::endpoint),
        // Whoever comes without encryption would be shown a key that nothing proves.
        public_key: (!config.network.is_insecure).then(|| *home.project.public()),
    }
}

/// What an acknowledgement means, in a word for the catalog and Hello.
pub(crate) fn durability(sync: SyncMode) -> String {
    match sync {
        SyncMode::Always => "always".to_owned(),
        SyncMode::Every(interval) => format!("every {} ms", interval.as_millis()),
        SyncMode::Never => "never".to_owned(),
    }
}

fn record(config: &Config, endpoint: &Endpoint, reachable: Option<&Reachable>) -> CatalogRecord {
    let tcp = endpoint.tcp.as_ref();
    CatalogRecord {
        project: endpoint.project.clone(),
        owner: endpoint.owner.clone(),
        port: tcp.map_or(0, |tcp| tcp.port),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uuid: endpoint.uuid,
        instance: endpoint.instance,
        epoch: endpoint.epoch,
        starttime: endpoint.starttime_s,
        lifetime_s: RECORD_LIFETIME_S,
        pub_port: tcp.map(|tcp| tcp.pub_port),
        public_key: endpoint.public_key.map(|key| key.to_string()),
        shard: 0,
        durability: durability(config.sync),
        endpoints: reachable.map_or_else(Vec::new, Reachable::endpoints),
    }
}

/// What the ready block tells of the opened data, kept when the data itself has gone to the worker.
struct ReadyParts {
    report: RecoveryReport,
    took: Took,
    keys: usize,
    reachable: Option<Reachable>,
    authorized_keys: u64,
    authorized_complaint: String,
    clock_remark: Option<String>,
    ground_remark: Option<String>,
}

impl ReadyParts {
    fn of(opened: &Opened, reachable: Option<Reachable>, access: &AccessStatus) -> ReadyParts {
        ReadyParts {
            report: opened.report.clone(),
            took: opened.took,
            keys: opened.state.keys(),
            reachable,
            authorized_keys: access.keys(),
            authorized_complaint: access.complaint(),
            clock_remark: opened.clock_remark.clone(),
            ground_remark: opened.ground.remark.clone(),
        }
    }
}

/// Writes the endpoint file, prints the ready block, writes the ready file: in this order, since each is a promise of the former.
fn tell_ready(
    config: &Config,
    home: &Home,
    endpoint: &Endpoint,
    announcer: &Announcer,
    parts: &ReadyParts,
    data: &Path,
) -> Result<(), Failure> {
    endpoint.write(&home.runtime).map_err(Failure::with(Exit::Unreachable))?;
    if !config.quiet {
        let ready = Ready {
            endpoint,
            catalogs: &announcer.wait_settled(CATALOG_WAIT),
            data,
            report: &parts.report,
            took: parts.took,
            keys: parts.keys,
            reachable: parts.reachable.as_ref(),
            is_insecure: config.network.is_insecure,
            authorized_keys: parts.authorized_keys,
            authorized_complaint: &parts.authorized_complaint,
            sync: config.sync,
            clock_remark: parts.clock_remark.as_deref(),
            ground_remark: parts.ground_remark.as_deref(),
            kvclient: &kvclient_command(),
        };
        // Whoever closed stdout does not want to read it; the broker runs all the same.
        let _ = std::io::stdout().write_all(ready.text().as_bytes());
    }
    if let Some(path) = &config.ready_file {
        write_ready_file(path, &home.runtime.endpoint_file()).map_err(|error| no_ready_file(path, &error))?;
    }
    Ok(())
}

/// The ready file is a copy of the endpoint file; it appears whole.
fn write_ready_file(path: &Path, endpoint_file: &Path) -> std::io::Result<()> {
    let mut file = ready_file_beside(path)?;
    file.write_all(&std::fs::read(endpoint_file)?)?;
    file.persist(path)?;
    Ok(())
}

fn ready_file_beside(path: &Path) -> std::io::Result<tempfile::NamedTempFile> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    tempfile::NamedTempFile::new_in(directory)
}

fn no_ready_file(path: &Path, error: &std::io::Error) -> Failure {
    // Its kind alone: the error names the temporary file beside the one that was asked for.
    Failure::new(Exit::Usage, format!("cannot write the ready file {}: {}", path.display(), error.kind()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn network(listen: &[&str], advertise: &[&str], insecure: bool) -> Network {
        let listen: Vec<IpAddr> = listen.iter().map(|address| address.parse().unwrap()).collect();
        let advertise = advertise.iter().map(|address| address.parse().unwrap()).collect();
        Network::of_flags(&listen, advertise, insecure, false).unwrap()
    }

    #[test]
    fn what_cannot_be_encrypted_is_not_offered() {
        let keys = KeyPair::from_secret(keys::SecretKey::generate().unwrap()).unwrap();
        let everywhere = network(&[], &[], false);
        let (with_curve, listen) = protection(&everywhere, true, &keys).unwrap();
        assert!(matches!(with_curve, Protection::Curve(_)) && listen == everywhere.listen);

        let (without, listen) = protection(&everywhere, false, &keys).unwrap();
        assert!(matches!(without, Protection::Curve(_)) && listen.is_empty(), "no TCP rather than a plain one");
        for asked in [network(&["127.0.0.1"], &[], false), network(&[], &["gate"], false)] {
            let failure = protection(&asked, false, &keys).unwrap_err();
            assert!(
                failure.exit.code() == Exit::Unreachable.code() && failure.sentence.contains("CURVE"),
                "{}",
                failure.sentence
            );
        }
        let plain = network(&[], &[], true);
        let (protection, listen) = protection(&plain, false, &keys).unwrap();
        assert!(matches!(protection, Protection::Plain) && listen.iter().all(IpAddr::is_loopback));
    }
}

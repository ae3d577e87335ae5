//! Starting and stopping: the one place that knows all threads.
//!
//! Order of the start: runtime lock and data lock (before any bind: a second bind on a unix socket silently steals it), recovery,
//! doors (ZAP) before sockets, threads, endpoint file, ready block. Order of the stop: refuse new requests, let the worker finish
//! what was taken and close the log, send the last replies, end.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kvbroker::catalog::CatalogRecord;
use kvbroker::critical::{self, LoopEnd};
use kvbroker::endpoint::{Endpoint, TcpEndpoint};
use kvbroker::exit::Exit;
use kvbroker::keys::{self, KeyPair};
use kvbroker::paths::{Dirs, PathError, RuntimeDir, RuntimeLock};
use kvbroker::zap::{Policy, SecuredContext};
use kvbroker_discovery::{Announcer, AnnouncerConfig, Reach};
use kvbroker_log::{RecoveryReport, SyncMode};
use kvbroker_protocol::{BrokerId, StatValue, limits};
use kvbroker_table::{Doorbell, EventFd, Facts, Intake, Outbox, Stopped, SystemClock, Worker, WorkerCounters};

use kvbroker::catalog::RECORD_LIFETIME_S;

use crate::args::Config;
use crate::failure::Failure;
use crate::front_end::{FrontEnd, FrontEndCounters, Phase};
use crate::open::{Opened, open};
use crate::ports::Ports;
use crate::publisher::{Publisher, PublisherCounters};
use crate::ready::{Ready, kvclient_command};
use crate::sockets::{self, Bound, Place};

/// What the main thread waits for.
#[derive(Debug)]
pub(crate) enum Notice {
    /// A signal asked for a clean stop.
    Stop,
    /// The worker has ended.
    WorkerEnded(Result<(), Stopped>),
}

/// How long the ready block waits for the catalogs' word.
const CATALOG_WAIT: Duration = Duration::from_millis(500);
/// How long the front end may need to hand the last replies to libzmq.
const FLUSH: Duration = Duration::from_secs(1);

/// Runs the broker until it is told to stop.
///
/// # Errors
/// [`Failure`] with the exit code.
pub(crate) fn run(config: &Config) -> Result<(), Failure> {
    let (sender, notices) = channel();
    crate::signals::install(sender.clone()).map_err(Failure::with(Exit::Unreachable))?;
    if let Err(error) = keys::keep_secrets_out_of_core_files() {
        tracing::warn!("core files cannot be switched off: {error}");
    }
    prepare_process();
    let home = Home::enter(config)?;
    let instance = uuid::Uuid::new_v4();
    let directory = config.data.clone().unwrap_or_else(|| home.dirs.data_dir(&config.project));
    let opened = open(config, directory, instance)?;
    let bound = bind(config, &home, &opened.directory)?;
    let endpoint = endpoint(config, &home, &opened.report, &bound, instance);
    let announcer = Announcer::start(AnnouncerConfig {
        catalogs: config.catalogs.clone(),
        // TCP is on loopback: others could not use the record.
        reach: Reach::LoopbackOnly,
        record: record(config, &endpoint),
    });
    let announcer = Arc::new(announcer);
    let directory = opened.directory.clone();
    let ready = ReadyParts::of(&opened);
    let broker = Running::start(config, &endpoint, opened, bound, Arc::clone(&announcer), sender)?;
    let result =
        tell_ready(config, &home, &endpoint, &announcer, &ready, &directory).and_then(|()| broker.wait(config.grace, &notices));
    home.leave();
    if let Some(announcer) = Arc::into_inner(announcer) {
        announcer.stop();
    }
    result
}

/// The directories of this broker, held.
struct Home {
    dirs: Dirs,
    runtime: RuntimeDir,
    _runtime_lock: RuntimeLock,
    owner: KeyPair,
    project: KeyPair,
}

impl Home {
    fn enter(config: &Config) -> Result<Home, Failure> {
        fn refused(error: impl std::fmt::Display) -> Failure {
            Failure::new(Exit::Refused, error)
        }
        let dirs = Dirs::from_environment().map_err(refused)?;
        let runtime = dirs.create_runtime(&config.project).map_err(refused)?;
        let runtime_lock = runtime.lock().map_err(|error| {
            let exit = if matches!(error, PathError::AlreadyRunning { .. }) { Exit::DataLocked } else { Exit::Refused };
            Failure::new(exit, error)
        })?;
        let owner = keys::load_or_create_owner_key(dirs.config_dir()).map_err(refused)?;
        let project = owner.project(&config.project).map_err(refused)?;
        Ok(Home { dirs, runtime, _runtime_lock: runtime_lock, owner, project })
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

/// What the process itself needs: descriptors for many clients.
fn prepare_process() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let files = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: files.maximum, maximum: files.maximum };
    if files.current != files.maximum && setrlimit(Resource::Nofile, wanted).is_err() {
        tracing::debug!("the limit of open files stays as it was");
    }
    /// Each connection takes a descriptor; some are for files and sockets of our own.
    const ENOUGH: u64 = limits::CONNECTIONS_MAX as u64 + 100;
    if let Some(most) = getrlimit(Resource::Nofile).current.filter(|most| *most < ENOUGH) {
        tracing::warn!(
            "only {most} files may be open: that many clients minus some dozens can connect (raise it with ulimit -n)"
        );
    }
}

/// Both sockets, bound.
struct Sockets {
    router: Bound,
    publisher: Bound,
}

fn bind(config: &Config, home: &Home, data: &Path) -> Result<Sockets, Failure> {
    let remembered = Ports::remembered(data);
    let policy = Policy::owner_only(*home.owner.public());
    let (router_socket, pub_socket) = (home.runtime.router_socket(), home.runtime.pub_socket());
    let router = Place {
        ipc: &router_socket,
        listen: config.listen,
        port: config.port,
        remembered: remembered.map(|ports| ports.router),
        flag: "--port",
    };
    let publisher = Place {
        ipc: &pub_socket,
        port: config.pub_port,
        remembered: remembered.map(|ports| ports.publisher),
        flag: "--pub-port",
        ..router
    };
    let sockets = Sockets {
        router: sockets::router(policy.clone(), &home.project, &router)?,
        publisher: sockets::publisher(policy, &home.project, &publisher)?,
    };
    let ports = Ports { router: sockets.router.tcp.port(), publisher: sockets.publisher.tcp.port() };
    if remembered != Some(ports)
        && let Err(error) = ports.remember(data)
    {
        tracing::warn!("the ports cannot be remembered for the next start: {error}");
    }
    Ok(sockets)
}

fn endpoint(config: &Config, home: &Home, report: &RecoveryReport, sockets: &Sockets, instance: uuid::Uuid) -> Endpoint {
    let (router, publisher): (SocketAddr, SocketAddr) = (sockets.router.tcp, sockets.publisher.tcp);
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
        tcp: Some(TcpEndpoint { hosts: vec![router.ip()], port: router.port(), pub_port: publisher.port() }),
        public_key: *home.project.public(),
    }
}

/// What an acknowledgement means, in a word for the catalog and Hello.
fn durability(sync: SyncMode) -> String {
    match sync {
        SyncMode::Always => "always".to_owned(),
        SyncMode::Every(interval) => format!("every {} ms", interval.as_millis()),
        SyncMode::Never => "never".to_owned(),
    }
}

fn record(config: &Config, endpoint: &Endpoint) -> CatalogRecord {
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
        public_key: Some(endpoint.public_key.to_string()),
        shard: 0,
        durability: durability(config.sync),
        endpoints: Vec::new(),
    }
}

/// What the ready block tells of the opened data, kept when the data itself has gone to the worker.
struct ReadyParts {
    report: RecoveryReport,
    keys: usize,
    clock_remark: Option<String>,
}

impl ReadyParts {
    fn of(opened: &Opened) -> ReadyParts {
        ReadyParts { report: opened.report.clone(), keys: opened.state.keys(), clock_remark: opened.clock_remark.clone() }
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
            keys: parts.keys,
            sync: config.sync,
            clock_remark: parts.clock_remark.as_deref(),
            kvclient: &kvclient_command(),
        };
        // Whoever closed stdout does not want to read it; the broker runs all the same.
        let _ = std::io::stdout().write_all(ready.text().as_bytes());
    }
    if let Some(path) = &config.ready_file {
        write_ready_file(path, &home.runtime.endpoint_file())
            .map_err(|error| Failure::new(Exit::Usage, format!("cannot write the ready file {}: {error}", path.display())))?;
    }
    Ok(())
}

/// The ready file is a copy of the endpoint file; it appears whole.
fn write_ready_file(path: &Path, endpoint_file: &Path) -> std::io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(&std::fs::read(endpoint_file)?)?;
    file.persist(path)?;
    Ok(())
}

/// The running threads and the ways to stop them.
struct Running {
    intake: Arc<Intake>,
    phase: Arc<Phase>,
    router_bell: Arc<EventFd>,
    publisher_stop: Arc<AtomicBool>,
    publisher_bell: Arc<EventFd>,
    front_end: JoinHandle<()>,
    publisher: JoinHandle<()>,
    /// Dropped after the sockets, which live in the threads.
    contexts: [SecuredContext; 2],
    /// Held until everything has ended.
    _data_lock: kvbroker_log::DirLock,
}

impl Running {
    fn start(
        config: &Config,
        endpoint: &Endpoint,
        opened: Opened,
        sockets: Sockets,
        announcer: Arc<Announcer>,
        notices: Sender<Notice>,
    ) -> Result<Running, Failure> {
        let no_thread = Failure::with(Exit::Unreachable);
        let router_bell = Arc::new(EventFd::new().map_err(&no_thread)?);
        let publisher_bell = Arc::new(EventFd::new().map_err(&no_thread)?);
        let intake = Arc::new(Intake::new());
        let replies = Arc::new(Outbox::new(limits::RELEASE_BYTES_MAX, router_bell.clone()));
        let events = Arc::new(Outbox::new(limits::PUBLISH_BYTES_MAX, publisher_bell.clone()));
        let events_wanted = Arc::new(AtomicBool::new(false));
        let publisher_stop = Arc::new(AtomicBool::new(false));
        let phase = Arc::new(Phase::default());
        let counters = Counters::default();
        let broker = BrokerId(*endpoint.uuid.as_bytes());

        let publisher = Publisher {
            xpub: sockets.publisher.socket,
            epoch: endpoint.epoch,
            revision: opened.report.last_revision,
            events: events.clone(),
            doorbell: publisher_bell.clone(),
            wanted: events_wanted.clone(),
            stop: publisher_stop.clone(),
            counters: counters.publisher.clone(),
        };
        let front_end = FrontEnd {
            router: sockets.router.socket,
            broker,
            intake: intake.clone(),
            replies: replies.clone(),
            doorbell: router_bell.clone(),
            phase: phase.clone(),
            counters: counters.front_end.clone(),
        };
        let worker = Worker {
            state: opened.state,
            log: opened.log,
            clock: Box::new(SystemClock),
            stamper: opened.stamper,
            intake: intake.clone(),
            replies,
            events,
            events_wanted,
            events_dropped: Arc::new(AtomicU64::new(0)),
            counters: Arc::new(WorkerCounters::default()),
            facts: Facts {
                project: endpoint.project.to_string(),
                owner: endpoint.owner.clone(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                broker,
                epoch: endpoint.epoch,
                instance: BrokerId(*endpoint.instance.as_bytes()),
                pub_port: endpoint.tcp.as_ref().map_or(0, |tcp| tcp.pub_port),
                durability: durability(config.sync),
                stats: counters.source(announcer, Instant::now()),
            },
            sync_interval: match config.sync {
                SyncMode::Every(interval) => Some(interval),
                SyncMode::Always | SyncMode::Never => None,
            },
            entropy: Box::new(random_u64),
        };
        spawn_critical("worker", move || {
            // The main thread decides how the process ends; it may have ended waiting already.
            let _ = notices.send(Notice::WorkerEnded(worker.run()));
            LoopEnd::Asked
        })?;
        Ok(Running {
            publisher: spawn_critical("publisher", move || loop_end(publisher.run()))?,
            front_end: spawn_critical("front end", move || loop_end(front_end.run()))?,
            intake,
            phase,
            router_bell,
            publisher_stop,
            publisher_bell,
            contexts: [sockets.router.context, sockets.publisher.context],
            _data_lock: opened.lock,
        })
    }

    /// Waits for the end and brings it about.
    fn wait(self, grace: Duration, notices: &Receiver<Notice>) -> Result<(), Failure> {
        // The senders live as long as the threads: an error would mean that all of them are gone.
        let first = notices.recv().unwrap_or(Notice::Stop);
        let ended = match first {
            Notice::WorkerEnded(result) => result,
            Notice::Stop => {
                tracing::info!("stopping: requests taken so far are finished (again to end at once)");
                self.phase.stop_taking();
                self.router_bell.ring();
                self.intake.close();
                match worker_end(notices, grace) {
                    Some(result) => result,
                    None => {
                        let sentence = format!(
                            "stopped after {} with requests unfinished; their outcome is unknown to their clients",
                            humantime::format_duration(grace)
                        );
                        return Err(Failure::new(Exit::UnknownOutcome, sentence));
                    }
                }
            }
        };
        if let Err(Stopped::Log(error)) = ended {
            // Nothing more may leave: not even what waits in the front end's queue is touched.
            return Err(Failure::of_log(&error));
        }
        self.finish();
        Ok(())
    }

    /// Sends the last replies and ends the other threads.
    fn finish(self) {
        self.phase.finish();
        self.router_bell.ring();
        self.publisher_stop.store(true, Ordering::Release);
        self.publisher_bell.ring();
        let deadline = Instant::now() + FLUSH;
        for thread in [self.front_end, self.publisher] {
            while !thread.is_finished() && Instant::now() < deadline {
                std::thread::park_timeout(Duration::from_millis(1));
            }
        }
        // Their sockets linger at most a second for replies that libzmq still holds.
        drop(self.contexts);
    }
}

fn worker_end(notices: &Receiver<Notice>, grace: Duration) -> Option<Result<(), Stopped>> {
    let deadline = Instant::now() + grace;
    loop {
        match notices.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(Notice::WorkerEnded(result)) => return Some(result),
            Ok(Notice::Stop) => {}
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return None,
        }
    }
}

fn spawn_critical(name: &str, body: impl FnOnce() -> LoopEnd + Send + 'static) -> Result<JoinHandle<()>, Failure> {
    critical::spawn(name, critical::abort_process(), body).map_err(Failure::with(Exit::Unreachable))
}

fn loop_end(result: Result<(), kvbroker::transport::TransportError>) -> LoopEnd {
    match result {
        Ok(()) => LoopEnd::Asked,
        Err(error) => LoopEnd::Failed(error.to_string()),
    }
}

/// Random bits for session ids. Without randomness ids could be guessed, so the process ends instead.
fn random_u64() -> u64 {
    getrandom::u64().expect("the operating system has random numbers once it has given us keys")
}

/// Counters of the threads, for `stats`.
#[derive(Default)]
struct Counters {
    front_end: Arc<FrontEndCounters>,
    publisher: Arc<PublisherCounters>,
}

impl Counters {
    fn source(&self, announcer: Arc<Announcer>, started: Instant) -> kvbroker_table::StatSource {
        let (front_end, publisher) = (self.front_end.clone(), self.publisher.clone());
        Arc::new(move |stats| {
            let counters = [
                ("messages", &front_end.messages),
                ("refused", &front_end.refused),
                ("replies", &front_end.replies),
                ("replies_dropped", &front_end.replies_dropped),
                ("clients", &front_end.clients),
                ("connections", &front_end.connections),
                ("published", &publisher.published),
                ("topics", &publisher.topics),
            ];
            stats.extend(counters.map(|(name, counter)| (name.to_owned(), StatValue::Number(counter.load(Ordering::Relaxed)))));
            stats.push(("uptime_s".to_owned(), StatValue::Number(started.elapsed().as_secs())));
            let catalogs: Vec<String> = announcer.status().iter().map(ToString::to_string).collect();
            stats.push(("catalogs".to_owned(), StatValue::Text(catalogs.join("; "))));
        })
    }
}

//! The broker's threads: what connects them, and how they are stopped.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kvbroker::critical::{self, LoopEnd};
use kvbroker::exit::Exit;
use kvbroker::zap::{Policy, SecuredContext};
use kvbroker_core::Snapshots;
use kvbroker_discovery::Announcer;
use kvbroker_log::{DirLock, LockError, LogError, SyncMode};
use kvbroker_protocol::{BrokerId, StatValue, limits};
use kvbroker_table::{
    AccessCalls, CheckpointThread, Checkpoints, Clock, Doorbell, EventFd, EventQueue, Facts, Followers, Historian, Histories,
    Intake, Outbox, Parked, Seat, Stopped, SystemClock, Worker, WorkerCounters,
};

use crate::access::{AccessStatus, Gatekeeper, Subscribers, Surroundings};
use crate::args::Config;
use crate::connections::{ConnectionBounds, ConnectionCounters, Connections};
use crate::failure::Failure;
use crate::front_end::{FrontEnd, FrontEndCounters, Phase};
use crate::lifecycle::durability;
use crate::moved::PubPortTellers;
use crate::open::{Opened, cannot_lock};
use crate::publisher::{Outlet, Publisher, PublisherControl, PublisherCounters, ShutOut};
use crate::sockets::Bound;

/// What the main thread waits for.
#[derive(Debug)]
pub(crate) enum Notice {
    /// A signal asked for a clean stop.
    Stop,
    /// The worker has ended.
    WorkerEnded(Result<(), Stopped>),
    /// The disk failed under a checkpoint in a way that leaves nothing to rely on.
    CheckpointFailed(LogError),
}

/// A worker with nothing to do closes its log in less, whatever patience was asked for.
const CLOSING: Duration = Duration::from_millis(500);
/// How often the data directory's lock is looked at: a broker on another machine may have been told to take it over.
const LOOK_AT_LOCK: Duration = Duration::from_secs(1);
/// How long the front end may need to hand the last replies to libzmq.
const FLUSH: Duration = Duration::from_secs(1);

/// Both sockets, bound.
pub(crate) struct Sockets {
    pub(crate) router: Bound,
    pub(crate) publisher: Bound,
    /// Who may subscribe: the policy of the publisher's door, now and when its socket is replaced.
    pub(crate) pub_policy: Policy,
    /// Whom that policy keeps out for a while.
    pub(crate) shut_out: Arc<ShutOut>,
    /// How many connections each of the two may have.
    pub(crate) connections: ConnectionBounds,
}

/// The running threads and the ways to stop them.
pub(crate) struct Running {
    intake: Arc<Intake>,
    phase: Arc<Phase>,
    router_bell: Arc<EventFd>,
    publisher_stop: Arc<AtomicBool>,
    publisher_bell: Arc<EventFd>,
    checkpoints: Arc<Checkpoints>,
    checkpointer: JoinHandle<()>,
    historian: JoinHandle<()>,
    gatekeeper: JoinHandle<()>,
    front_end: JoinHandle<()>,
    publisher: JoinHandle<()>,
    /// The front end's, dropped after the socket, which lives in the thread. The publisher has its own.
    context: SecuredContext,
    /// Held until everything has ended.
    data_lock: DirLock,
}

impl Running {
    /// Starts all threads; `notices` hears of the worker's end.
    pub(crate) fn start(
        config: &Config,
        opened: Opened,
        keeper: Gatekeeper,
        sockets: Sockets,
        tellers: PubPortTellers,
        announcer: Arc<Announcer>,
        notices: Sender<Notice>,
    ) -> Result<Running, Failure> {
        let endpoint = tellers.endpoint.clone();
        let no_thread = Failure::with(Exit::Unreachable);
        let router_bell = Arc::new(EventFd::new().map_err(&no_thread)?);
        let publisher_bell = Arc::new(EventFd::new().map_err(&no_thread)?);
        let intake = Arc::new(Intake::new());
        let replies = Arc::new(Outbox::new(limits::RELEASE_BYTES_MAX, router_bell.clone()));
        let events = Arc::new(EventQueue::new(limits::PUBLISH_BYTES_MAX, publisher_bell.clone()));
        let events_wanted = Arc::new(AtomicBool::new(false));
        let publisher_stop = Arc::new(AtomicBool::new(false));
        let phase = Arc::new(Phase::default());
        let counters = Counters::default();
        let broker = BrokerId(*endpoint.uuid.as_bytes());

        let control = PublisherControl::new(publisher_bell.clone());
        let pub_port = tellers.hello.clone();
        let bounds = sockets.connections;
        let publisher = Publisher {
            outlet: Outlet::new(
                sockets.publisher,
                sockets.pub_policy,
                Connections::new(bounds, counters.pub_connections.clone()),
                counters.publisher.unread_bytes.clone(),
            ),
            control: control.clone(),
            shut_out: sockets.shut_out,
            on_port: Box::new(move |port| tellers.tell(port)),
            epoch: endpoint.epoch,
            revision: opened.report.last_revision,
            events: events.clone(),
            doorbell: publisher_bell.clone(),
            wanted: events_wanted.clone(),
            stop: publisher_stop.clone(),
            counters: counters.publisher.clone(),
        };
        let segments = opened.log.segments();
        let checkpoints = Arc::new(Checkpoints::new(intake.clone(), segments.clone(), config.checkpoints));
        let checkpointer = CheckpointThread::new(
            opened.storage.clone(),
            segments,
            config.checkpoints,
            checkpoints.clone(),
            Box::new(SystemClock),
            opened.stamper.clone(),
        );
        let access_calls = Arc::new(AccessCalls::new());
        let around = Surroundings {
            calls: access_calls.clone(),
            replies: replies.clone(),
            intake: intake.clone(),
            subscribers: Box::new(control.clone()),
        };
        let histories = Arc::new(Histories::new());
        let historian = Historian {
            storage: opened.storage,
            calls: histories.clone(),
            replies: replies.clone(),
            speaker: keeper.book().speaker(),
        };
        let worker = Worker {
            state: opened.state,
            history: opened.history,
            parked: Parked::default(),
            followers: Followers::default(),
            snapshots: Snapshots::default(),
            histories: histories.clone(),
            checkpoints: checkpoints.clone(),
            log: opened.log,
            clock: Box::new(SystemClock),
            stamper: opened.stamper,
            access: keeper.book().clone(),
            access_calls: access_calls.clone(),
            intake: intake.clone(),
            replies: replies.clone(),
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
                pub_port,
                durability: durability(config.sync),
                stats: counters.source(
                    keeper.status(),
                    announcer,
                    checkpoints.clone(),
                    opened.ground.file_system,
                    Instant::now(),
                ),
            },
            sync_interval: match config.sync {
                SyncMode::Every(interval) => Some(interval),
                SyncMode::Always | SyncMode::Never => None,
            },
            entropy: Box::new(session_entropy()),
            session_bounds: config.session_bounds,
            scratch: Vec::new(),
        };
        let seat = Arc::new(Seat::helped(worker, config.sync == SyncMode::Always));
        let front_end = FrontEnd {
            router: sockets.router.socket,
            connections: Connections::new(bounds, counters.connections.clone()),
            broker,
            worker: seat.clone(),
            credit: intake.credit().clone(),
            replies: replies.clone(),
            doorbell: router_bell.clone(),
            phase: phase.clone(),
            counters: counters.front_end.clone(),
        };
        let worker_notices = notices.clone();
        spawn_critical("worker", move || {
            // The main thread decides how the process ends; it may have ended waiting already.
            let _ = worker_notices.send(Notice::WorkerEnded(seat.run()));
            LoopEnd::Asked
        })?;
        Ok(Running {
            publisher: spawn_critical("publisher", move || loop_end(publisher.run()))?,
            historian: spawn_critical("log reader", move || {
                historian.run();
                LoopEnd::Asked
            })?,
            gatekeeper: spawn_critical("gatekeeper", move || {
                keeper.run(&around);
                LoopEnd::Asked
            })?,
            checkpointer: spawn_critical("checkpointer", move || {
                if let Err(error) = checkpointer.run() {
                    let _ = notices.send(Notice::CheckpointFailed(error));
                }
                LoopEnd::Asked
            })?,
            front_end: spawn_critical("front end", move || loop_end(front_end.run()))?,
            intake,
            checkpoints,
            phase,
            router_bell,
            publisher_stop,
            publisher_bell,
            context: sockets.router.context,
            data_lock: opened.lock,
        })
    }

    /// Waits for the end and brings it about.
    pub(crate) fn wait(self, grace: Duration, notices: &Receiver<Notice>) -> Result<(), Failure> {
        let notice = loop {
            match notices.recv_timeout(LOOK_AT_LOCK) {
                Ok(notice) => break notice,
                // The senders live as long as the threads: all of them are gone.
                Err(RecvTimeoutError::Disconnected) => break Notice::Stop,
                // At once, and without a clean stop's batch: the log is another broker's.
                Err(RecvTimeoutError::Timeout) if self.data_lock.was_taken_over() => {
                    return Err(cannot_lock(&LockError::Lost { directory: self.data_lock.directory().to_owned() }));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        };
        match notice {
            Notice::WorkerEnded(result) => self.ended(result),
            Notice::CheckpointFailed(error) => Err(Failure::of_log(&error)),
            Notice::Stop => {
                tracing::info!("stopping: requests taken so far are finished (again to end at once)");
                self.stop(grace, notices)
            }
        }
    }

    /// Stops cleanly: what was taken is finished, the log closed, the last replies sent.
    pub(crate) fn stop(self, grace: Duration, notices: &Receiver<Notice>) -> Result<(), Failure> {
        self.phase.stop_taking();
        self.router_bell.ring();
        self.checkpoints.stop();
        self.intake.close();
        match worker_end(notices, grace.max(CLOSING)) {
            Some(result) => self.ended(result),
            None => {
                let sentence = format!(
                    "stopped after {} with requests unfinished; their outcome is unknown to their clients",
                    humantime::format_duration(grace)
                );
                Err(Failure::new(Exit::UnknownOutcome, sentence))
            }
        }
    }

    fn ended(self, worker: Result<(), Stopped>) -> Result<(), Failure> {
        if let Err(Stopped::Log(error)) = worker {
            // Nothing more may leave: not even what waits in the front end's queue is touched.
            return Err(Failure::of_log(&error));
        }
        self.finish();
        Ok(())
    }

    /// Sends the last replies and ends the other threads.
    fn finish(self) {
        // The worker has closed its queue; what is in it is answered now.
        await_end(&self.historian, Instant::now() + FLUSH);
        await_end(&self.gatekeeper, Instant::now() + FLUSH);
        // It removes what it has begun.
        await_end(&self.checkpointer, Instant::now() + FLUSH);
        self.phase.finish();
        self.router_bell.ring();
        self.publisher_stop.store(true, Ordering::Release);
        self.publisher_bell.ring();
        let deadline = Instant::now() + FLUSH;
        for thread in [&self.front_end, &self.publisher] {
            await_end(thread, deadline);
        }
        // Their sockets linger at most a second for replies that libzmq still holds.
        drop(self.context);
    }
}

impl Subscribers for Arc<PublisherControl> {
    fn cut_off(&self, why: &str) {
        self.reopen(why);
    }

    fn wait_cut_off(&self, timeout: Duration) -> bool {
        self.wait_closed(timeout)
    }
}

fn await_end(thread: &JoinHandle<()>, deadline: Instant) {
    while !thread.is_finished() && Instant::now() < deadline {
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

fn worker_end(notices: &Receiver<Notice>, grace: Duration) -> Option<Result<(), Stopped>> {
    let deadline = Instant::now() + grace;
    loop {
        match notices.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(Notice::WorkerEnded(result)) => return Some(result),
            Ok(Notice::CheckpointFailed(error)) => return Some(Err(Stopped::Log(error))),
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

/// Random bits for session ids, drawn for many at a time: whoever opens sessions without end must not cost a system call for each.
/// Without randomness ids could be guessed, so the process ends instead.
fn session_entropy() -> impl Fn() -> u64 + Send {
    const AT_ONCE: usize = 64;
    let drawn = RefCell::new(Vec::with_capacity(AT_ONCE));
    move || {
        let mut drawn = drawn.borrow_mut();
        if drawn.is_empty() {
            let mut bytes = [[0; size_of::<u64>()]; AT_ONCE];
            let filled = getrandom::fill(bytes.as_flattened_mut());
            filled.expect("the operating system has random numbers once it has given us keys");
            drawn.extend(bytes.map(u64::from_ne_bytes));
        }
        drawn.pop().expect("they have just been drawn")
    }
}

/// Counters of the threads, for `stats`.
#[derive(Default)]
struct Counters {
    front_end: Arc<FrontEndCounters>,
    publisher: Arc<PublisherCounters>,
    connections: Arc<ConnectionCounters>,
    pub_connections: Arc<ConnectionCounters>,
}

impl Counters {
    fn source(
        &self,
        access: Arc<AccessStatus>,
        announcer: Arc<Announcer>,
        checkpoints: Arc<Checkpoints>,
        file_system: String,
        started: Instant,
    ) -> kvbroker_table::StatSource {
        let (front_end, publisher) = (self.front_end.clone(), self.publisher.clone());
        let (connections, pub_connections) = (self.connections.clone(), self.pub_connections.clone());
        Arc::new(move |stats| {
            checkpoints.stats(SystemClock.now().wall_us / 1_000, stats);
            let counters = [
                ("messages", &front_end.messages),
                ("refused", &front_end.refused),
                ("replies", &front_end.replies),
                ("replies_dropped", &front_end.replies_dropped),
                ("clients", &front_end.clients),
                ("connections", &front_end.connections),
                ("connections_open", &connections.open),
                ("connections_cut", &connections.cut),
                ("published", &publisher.published),
                ("stream_messages", &publisher.stream_messages),
                ("streams", &publisher.streams),
                ("streams_refused", &publisher.streams_refused),
                ("published_unread_bytes", &*publisher.unread_bytes),
                ("pub_unread_blamed", &publisher.unread_blamed),
                ("pub_unread_cut", &publisher.unread_cut),
                ("topics", &publisher.topics),
                ("topic_bytes", &publisher.topic_bytes),
                ("pub_connections_open", &pub_connections.open),
                ("pub_connections_cut", &pub_connections.cut),
                ("pub_reopened", &publisher.reopened),
                ("pub_shut_out", &publisher.shut_out),
            ];
            stats.extend(counters.map(|(name, counter)| (name.to_owned(), StatValue::Number(counter.load(Ordering::Relaxed)))));
            access.stats(stats);
            stats.push(("uptime_s".to_owned(), StatValue::Number(started.elapsed().as_secs())));
            stats.push(("filesystem".to_owned(), StatValue::Text(file_system.clone())));
            let catalogs: Vec<String> = announcer.status().iter().map(ToString::to_string).collect();
            stats.push(("catalogs".to_owned(), StatValue::Text(catalogs.join("; "))));
        })
    }
}

//! One run of the broker: the real worker over the real log on the simulated disk, the log's reader, the maker of checkpoints, and the
//! publisher's streams; without a socket, a thread or a clock of its own.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kvbroker_core::{History, Loader, SessionBounds, Snapshots, State};
use kvbroker_log::{
    BatchBuilder, CheckpointError, CheckpointPolicy, CheckpointRecord, Checkpointer, FileLog, GroupRef, Log, LogError,
    LogOptions, MergeState, Merging, Replay, SeededEntropy, SimStorage, Storage, SyncMode, VisitError,
};
use kvbroker_protocol::{BrokerId, Form, Header, Operations, Outcome, Request, StreamKind, StreamMessage};
use kvbroker_table::{
    AccessBook, Account, Behind, Call, Checkpoints, Clock, Course, Envelope, Event, EventBatch, EventQueue, Facts, Followers,
    Historian, Histories, Intake, NoDoorbell, OWNER, Outbox, Parked, ReplyOut, SimClock, Stamper, Stopped, Streams, Worker,
    WorkerCounters, replay_into,
};

use super::bugs::PlantedBug;
use super::truth::{Committed, What};
use super::witness::{Notes, Passed, WitnessLog, notes};

/// Names a connection of a subscriber.
pub type LinkId = u64;
/// Names a question.
pub type Token = u64;

/// How a broker is started.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// When the log is synced.
    pub mode: SyncMode,
    /// Of the history in memory.
    pub history_bytes: usize,
    /// Of segments that a checkpoint covers.
    pub log_history_bytes: u64,
    /// Of a segment.
    pub segment_bytes: u64,
    /// Of the queue between worker and publisher.
    pub queue_bytes: usize,
    /// What goes wrong.
    pub bug: Option<PlantedBug>,
    /// Spoils what the log is given.
    pub spoil: Option<fn(&mut BatchBuilder)>,
}

/// Takes what a start reads.
struct Loading {
    loader: Option<Loader>,
    state: State,
    history: History,
}

impl Replay for Loading {
    fn record(&mut self, record: CheckpointRecord<'_>) -> Result<(), VisitError> {
        Ok(self.loader.get_or_insert_default().record(record.key, record.value, record.revision)?)
    }

    fn checkpoint_read(&mut self, revision: u64) -> Result<(), VisitError> {
        self.state = self.loader.take().unwrap_or_default().finish(revision)?;
        Ok(())
    }

    fn group(&mut self, group: GroupRef<'_>) -> Result<(), VisitError> {
        Ok(replay_into(&mut self.state, &mut self.history, &group)?)
    }
}

/// What a start has found.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// The log's epoch.
    pub epoch: u64,
    /// Its last revision.
    pub revision: u64,
}

/// Who subscribes to what, and the streams.
struct Publisher {
    streams: Streams,
    /// How often each link has subscribed to a prefix.
    subscribers: BTreeMap<Vec<u8>, BTreeMap<LinkId, usize>>,
}

/// A broker that runs.
pub struct Process {
    worker: Worker<WitnessLog>,
    course: Course,
    historian: Historian,
    maker: Checkpointer,
    merging: Option<Merging>,
    publisher: Publisher,
    intake: Arc<Intake>,
    replies: Arc<Outbox<Vec<ReplyOut>>>,
    events: Arc<EventQueue>,
    events_wanted: Arc<AtomicBool>,
    histories: Arc<Histories>,
    notes: Notes,
    bug: Option<PlantedBug>,
    /// The log's epoch, as everybody is told.
    pub epoch: u64,
}

impl Process {
    /// Starts a broker on a disk.
    ///
    /// # Errors
    /// The log's, for example since the disk stops.
    pub fn start(
        disk: &SimStorage,
        settings: &Settings,
        clock: &Arc<SimClock>,
        seed: u64,
        epoch_before: u64,
    ) -> Result<(Process, Found), LogError> {
        let storage: Arc<dyn Storage> = Arc::new(disk.clone());
        let mut options = LogOptions::new(settings.mode);
        options.segment_bytes = settings.segment_bytes;
        options.allocate_bytes = 1_024;
        options.entropy = Box::new(SeededEntropy::new(seed));
        let mut loading = Loading { loader: None, state: State::new(), history: History::with_bytes_max(settings.history_bytes) };
        let (log, report) = FileLog::open(Arc::clone(&storage), options, &mut loading)?;
        let found = Found { epoch: report.epoch, revision: report.last_revision };
        let epoch = match settings.bug {
            Some(PlantedBug::EpochKept) if epoch_before != 0 => epoch_before,
            _ => report.epoch,
        };
        let policy = CheckpointPolicy {
            floor_bytes: 0,
            memory_bytes: 4_096,
            piece_bytes: 1_024,
            history_ms: u64::MAX,
            history_bytes: settings.log_history_bytes,
            reserve_bytes: 0,
        };
        let maker = Checkpointer::new(Arc::clone(&storage), log.segments(), policy, Box::new(SeededEntropy::new(!seed)));
        let intake: Arc<Intake> = Arc::default();
        let replies = Arc::new(Outbox::new(usize::MAX, Arc::new(NoDoorbell)));
        let events = Arc::new(EventQueue::new(settings.queue_bytes, Arc::new(NoDoorbell)));
        let (events_wanted, histories) = (Arc::new(AtomicBool::new(false)), Arc::new(Histories::new()));
        let access: Arc<AccessBook> = Arc::default();
        let notes = Notes::default();
        let before = (settings.bug == Some(PlantedBug::PublishedBeforeLogged)).then(|| {
            let queue = Arc::clone(&events);
            Box::new(move |batch: &[Committed]| publish_early(&queue, batch)) as Box<dyn Fn(&[Committed]) + Send>
        });
        let (stamper, _) = Stamper::start(report.last_stamp_ms, clock.now());
        let sync_interval = match settings.mode {
            SyncMode::Every(interval) => Some(interval),
            SyncMode::Always | SyncMode::Never => None,
        };
        let mut worker = Worker {
            state: loading.state,
            history: loading.history,
            snapshots: Snapshots::default(),
            parked: Parked::default(),
            followers: Followers::default(),
            histories: Arc::clone(&histories),
            checkpoints: Arc::new(Checkpoints::none(Arc::clone(&intake), Behind::default)),
            log: WitnessLog { log, notes: Arc::clone(&notes), before, spoil: settings.spoil },
            clock: Box::new(Arc::clone(clock)),
            stamper,
            access: Arc::clone(&access),
            access_calls: Arc::default(),
            intake: Arc::clone(&intake),
            replies: Arc::clone(&replies),
            events: Arc::clone(&events),
            events_wanted: Arc::clone(&events_wanted),
            events_dropped: Arc::default(),
            counters: Arc::new(WorkerCounters::default()),
            facts: facts(epoch),
            sync_interval,
            entropy: Box::new(|| 7),
            session_bounds: SessionBounds::default(),
            scratch: Vec::new(),
        };
        let course = worker.begin();
        let historian =
            Historian { storage, calls: Arc::clone(&histories), replies: Arc::clone(&replies), speaker: access.speaker() };
        let publisher = Publisher { streams: Streams::new(epoch, found.revision), subscribers: BTreeMap::new() };
        let process = Process {
            worker,
            course,
            historian,
            maker,
            merging: None,
            publisher,
            intake,
            replies,
            events,
            events_wanted,
            histories,
            notes,
            bug: settings.bug,
            epoch,
        };
        Ok((process, found))
    }

    /// A request arrives.
    pub fn ask(&self, client: u64, token: Token, operations: Operations) {
        let call = Call {
            client,
            account: Account::alone(client),
            user: OWNER.into(),
            envelope: Envelope { routing_id: token.to_be_bytes()[..].into(), frames: Vec::new() },
            request: Request { header: Header { id: Some(token), ..Header::default() }, form: Form::Compact, operations },
            bytes: 100,
        };
        // There are never so many that there is no room.
        let _ = self.intake.push(&mut VecDeque::from([call]));
    }

    /// A turn of the worker, and one of the log's reader if anybody waits for it.
    ///
    /// # Errors
    /// The log's.
    pub fn step(&mut self, with_reader: bool) -> Result<(), LogError> {
        let Stopped::Log(error) = match self.worker.step(&mut self.course, Duration::ZERO) {
            Ok(_) => {
                if with_reader && !self.histories.is_empty() {
                    self.historian.step();
                }
                return Ok(());
            }
            Err(stopped) => stopped,
        };
        Err(error)
    }

    /// A clean stop: the last answers, and whether the log could be closed.
    pub fn stop(mut self) -> (Vec<(Token, Outcome)>, Result<(), LogError>) {
        if let Err(error) = self.give_up_checkpoint() {
            return (self.answers(), Err(error));
        }
        let Self { mut worker, course, replies, .. } = self;
        let stopped = worker.finish(course).map_err(|Stopped::Log(error)| error);
        (answers(&replies), stopped)
    }

    /// What the log was given since the last time.
    pub fn passed(&self) -> Passed {
        std::mem::take(&mut *notes(&self.notes))
    }

    /// The answers that have left since the last time.
    pub fn answers(&self) -> Vec<(Token, Outcome)> {
        answers(&self.replies)
    }

    /// All that it knows.
    pub fn state(&self) -> &State {
        &self.worker.state
    }

    /// The table's revision.
    pub fn revision(&self) -> u64 {
        self.worker.state.revision()
    }

    /// Everything behind this revision is in memory or in the log.
    pub fn complete_after(&self) -> u64 {
        let in_memory = self.worker.history.oldest_revision(&self.worker.state);
        in_memory.min(self.worker.log.oldest_revision()).saturating_sub(1)
    }

    /// Writes the mark that a second without batches brings.
    ///
    /// # Errors
    /// The log's.
    pub fn mark(&mut self, now_ms: u64) -> Result<(), LogError> {
        let log = &mut self.worker.log.log;
        if log.needs_marker() { log.mark(now_ms) } else { Ok(()) }
    }

    /// Somebody subscribes.
    pub fn subscribe(&mut self, link: LinkId, prefix: &[u8], now: Instant) {
        let Publisher { streams, subscribers } = &mut self.publisher;
        if streams.begin(StreamKind::Changes, prefix, now) {
            *subscribers.entry(prefix.to_vec()).or_default().entry(link).or_default() += 1;
        }
        self.events_wanted.store(!streams.is_empty(), Ordering::Release);
    }

    /// Somebody subscribes no more.
    pub fn unsubscribe(&mut self, link: LinkId, prefix: &[u8]) {
        let Some(links) = self.publisher.subscribers.get_mut(prefix) else { return };
        if let Some(times) = links.get_mut(&link) {
            *times -= 1;
            if *times == 0 {
                links.remove(&link);
            }
        }
        self.end_unwanted();
    }

    /// A connection has ended.
    pub fn unlink(&mut self, link: LinkId) {
        for links in self.publisher.subscribers.values_mut() {
            links.remove(&link);
        }
        self.end_unwanted();
    }

    fn end_unwanted(&mut self) {
        let Publisher { streams, subscribers } = &mut self.publisher;
        subscribers.retain(|prefix, links| {
            if links.is_empty() {
                streams.end(StreamKind::Changes, prefix);
            }
            !links.is_empty()
        });
        self.events_wanted.store(!streams.is_empty(), Ordering::Release);
    }

    /// The publisher takes up to so many batches and says what is due. Gives each message with the links that it goes to.
    pub fn publish(&mut self, batches: usize, now: Instant) -> Vec<(Vec<LinkId>, Vec<u8>, Vec<u8>)> {
        let mut said: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        let mut sink = |topic: &[u8], body: Vec<u8>| said.push((topic.to_vec(), body));
        let streams = &mut self.publisher.streams;
        for _ in 0..batches {
            let Some(mut batch) = self.events.pop() else { break };
            if self.bug == Some(PlantedBug::FloorForgotten) {
                batch.events.get_or_insert_default();
                batch.base = streams.revision();
            }
            streams.publish(&batch, now, &mut sink);
        }
        streams.flush(now, &mut sink);
        streams.due(now, &mut sink);
        // In which order streams speak depends on no seed; each for itself keeps its order.
        said.sort_by(|one, other| one.0.cmp(&other.0));
        let mut out = Vec::new();
        for (topic, body) in said {
            let Some(prefix) = kvbroker_protocol::prefix_of_stream_topic(&topic) else { continue };
            let Some(links) = self.publisher.subscribers.get(prefix) else { continue };
            let links: Vec<LinkId> = links.keys().copied().collect();
            for body in self.spoil(&topic, body) {
                out.push((links.clone(), topic.clone(), body));
            }
        }
        out
    }

    /// Does to a message what is planted.
    fn spoil(&self, topic: &[u8], body: Vec<u8>) -> Vec<Vec<u8>> {
        let Some(bug) = self.bug else { return vec![body] };
        let Ok(Some((_, mut message))) = StreamMessage::decode(topic, &body) else { return vec![body] };
        let mut messages = Vec::new();
        match bug {
            PlantedBug::PrevOffByOne => message.prev = message.prev.saturating_sub(1),
            PlantedBug::BookmarkTooNew if message.is_bookmark() => message.revision = message.revision.max(self.revision()),
            PlantedBug::StreamFromZero if message.is_bookmark() && message.prev == message.revision => message.prev = 0,
            PlantedBug::MessageSplitsRevision => {
                if let Some(last) = message.events.last_mut().filter(|last| last.changes.len() > 1) {
                    let half = last.changes.split_off(last.changes.len() / 2);
                    let rest = kvbroker_protocol::RevisionEvents { changes: half, ..*last };
                    let (prev, revision) = (last.revision - 1, message.revision);
                    message.revision = last.revision;
                    messages.push(StreamMessage { prev, revision, events: vec![rest], epoch: message.epoch });
                }
            }
            _ => return vec![body],
        }
        messages.insert(0, message);
        let encoded = |message: StreamMessage| {
            let mut body = Vec::new();
            message.encode(&mut body);
            body
        };
        messages.into_iter().map(encoded).collect()
    }

    /// Ends the segment that is written.
    ///
    /// # Errors
    /// The log's.
    pub fn seal(&mut self) -> Result<(), LogError> {
        self.worker.log.seal()
    }

    /// Goes on with a checkpoint, or begins one.
    ///
    /// # Errors
    /// The log's.
    pub fn advance_checkpoint(&mut self, bytes: u64) -> Result<(), LogError> {
        let result = match &mut self.merging {
            None => self.maker.begin().map(|merging| self.merging = Some(merging)),
            Some(merging) => self.maker.advance(merging, bytes).map(|progress| {
                if progress.state == MergeState::Done {
                    self.merging = None;
                }
            }),
        };
        result.map_err(|error| {
            self.merging = None;
            error.into_source()
        })
    }

    /// Drops the checkpoint that is being made.
    ///
    /// # Errors
    /// The log's.
    pub fn give_up_checkpoint(&mut self) -> Result<(), LogError> {
        let Some(merging) = self.merging.take() else { return Ok(()) };
        self.maker.give_up(merging).map_err(CheckpointError::into_source)
    }

    /// Removes what is neither needed nor history.
    ///
    /// # Errors
    /// The log's.
    pub fn trim(&mut self, now_ms: u64) -> Result<(), LogError> {
        self.maker.trim(now_ms).map(drop).map_err(CheckpointError::into_source)
    }
}

fn answers(replies: &Outbox<Vec<ReplyOut>>) -> Vec<(Token, Outcome)> {
    let mut answers = Vec::new();
    while let Some(batch) = replies.pop() {
        for out in batch {
            let Ok(token) = <[u8; 8]>::try_from(&*out.envelope.routing_id) else { continue };
            let outcome = out.reply.outcomes.as_slice().first().cloned();
            if let Some(outcome) = outcome.filter(|_| !out.is_superseded) {
                answers.push((Token::from_be_bytes(token), outcome));
            }
        }
    }
    answers
}

fn publish_early(queue: &EventQueue, batch: &[Committed]) {
    let (Some(first), Some(last)) = (batch.first(), batch.last()) else { return };
    let event = |revision: u64, (key, what): &(Vec<u8>, What)| {
        use kvbroker_protocol::VersionKind;
        let kind = match what {
            What::Put(value) => VersionKind::Put(value.clone()),
            What::Remove | What::Leave => VersionKind::Remove,
            What::Expire => VersionKind::Expire,
        };
        Event { revision, key: key.clone(), kind }
    };
    let events = batch.iter().flat_map(|one| one.changes.iter().map(|change| event(one.revision, change))).collect();
    let (base, revision) = (first.revision - 1, last.revision);
    queue.push(EventBatch { base, revision, time_ms: last.time_ms, events: Some(events), messages: Some(Vec::new()) });
}

fn facts(epoch: u64) -> Facts {
    Facts {
        project: "simulated".into(),
        owner: "nobody".into(),
        version: "0.0.0".into(),
        broker: BrokerId([1; 16]),
        epoch,
        instance: BrokerId([2; 16]),
        pub_port: Arc::new(4_711.into()),
        durability: "simulated".into(),
        stats: Arc::new(|_| {}),
    }
}

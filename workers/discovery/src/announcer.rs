//! The announcer: tells catalogs about this broker for as long as it runs.
//!
//! - No caller ever waits for a catalog: [`Announcer::start`], [`Announcer::update`]
//!   and [`Announcer::status`] only touch memory under a lock that nobody holds
//!   while doing I/O.
//! - One thread decides (with one [`Schedule`] per catalog) and one thread per
//!   catalog blocks, so a catalog that hangs delays nobody else, and at most
//!   [`kvbroker::catalog::CATALOGS_MAX`] + 1 threads exist.
//! - [`Announcer::stop`] is prompt: it waits at most [`FAREWELL_WAIT`]. A thread that
//!   hangs in a catalog or in the resolver is left behind; it holds nothing of the
//!   broker's and ends by its own timeouts.
//!
//! At a clean stop the record is sent once more with a lifetime of one second, as
//! CCTools has no message for removal. Readers take that as "has left"; a catalog
//! forgets it at its next cleaning. See docs/discovery.md for what each server does.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use kvbroker::catalog::{CatalogAddr, CatalogList, CatalogRecord, FAREWELL_LIFETIME_S};
use kvbroker::critical::{self, LoopEnd, OnDeath};

use crate::schedule::{Came, Schedule, Step};
use crate::send::{Reach, perform};
use crate::status::{CatalogState, CatalogStatus};

/// What a stop waits for farewells at most.
pub const FAREWELL_WAIT: Duration = Duration::from_millis(200);

/// What to announce, and to whom.
#[derive(Debug, Clone)]
pub struct AnnouncerConfig {
    /// The catalogs; may be empty.
    pub catalogs: CatalogList,
    /// Whether catalogs beyond the loopback interface are told.
    pub reach: Reach,
    /// The record.
    pub record: CatalogRecord,
}

/// The running announcer. Dropping it stops it.
#[derive(Debug)]
pub struct Announcer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Something in the state has changed: for the deciding thread and for
    /// [`Announcer::wait_settled`].
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    stop: bool,
    record: Arc<CatalogRecord>,
    /// Counts updates, so that the deciding thread sees that there was one.
    record_no: u64,
    /// What came of steps. At most one per catalog: one step is under way at a time.
    came: Vec<(usize, Came)>,
    statuses: Vec<CatalogStatus>,
}

struct Job {
    step: Step,
    record: Arc<CatalogRecord>,
}

impl Shared {
    /// The lock is only held for moves in memory, so a panic can't leave the state
    /// half changed: poison means nothing here.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing is announced any more; says so in every status and in the log.
    fn give_up(&self, as_what: CatalogState, why: &str) {
        tracing::warn!("nothing is announced: {why}");
        let mut state = self.lock();
        for status in &mut state.statuses {
            *status = CatalogStatus {
                catalog: status.catalog.clone(),
                state: as_what,
                via: None,
                lastheardfrom: None,
                why: Some(why.to_owned()),
            };
        }
        self.changed.notify_all();
    }
}

impl Announcer {
    /// Starts announcing and returns at once. It never fails: what stands in the
    /// way of an announcement (a record that no reader would take, no more
    /// threads) is said in [`Announcer::status`] and in the log.
    pub fn start(config: AnnouncerConfig) -> Announcer {
        let catalogs = config.catalogs.catalogs().to_vec();
        let statuses = catalogs.iter().map(|c| CatalogStatus::new(&c.to_string(), &crate::schedule::Standing::Trying)).collect();
        let refusal = config.record.check().err();
        let shared = Arc::new(Shared {
            state: Mutex::new(State { stop: false, record: Arc::new(config.record), record_no: 0, came: Vec::new(), statuses }),
            changed: Condvar::new(),
        });
        let mut announcer = Announcer { shared: Arc::clone(&shared), thread: None };
        if let Some(error) = refusal {
            announcer.shared.give_up(CatalogState::Skipped, &format!("no reader would take the record: {error}"));
            return announcer;
        }
        if catalogs.is_empty() {
            return announcer;
        }
        let reach = config.reach;
        // A broker without an announcer still serves everybody who has its address:
        // its death is said, and the process goes on.
        let mourner = Arc::clone(&shared);
        let on_death: OnDeath = Arc::new(move |sentence: &str| mourner.give_up(CatalogState::Silent, sentence));
        let decide = move || {
            Decider::new(shared, catalogs, reach).run();
            LoopEnd::Asked
        };
        match critical::spawn("announcer", on_death, decide) {
            Ok(thread) => announcer.thread = Some(thread),
            Err(error) => announcer.shared.give_up(CatalogState::Skipped, &format!("no thread could be started: {error}")),
        }
        announcer
    }

    /// What each catalog knows of this broker, in the order of the list.
    pub fn status(&self) -> Vec<CatalogStatus> {
        self.shared.lock().statuses.clone()
    }

    /// Waits until there is a verdict on every catalog, but at most `wait`; returns
    /// the status then. For the ready block: a healthy catalog on this machine
    /// answers within some 30 ms.
    pub fn wait_settled(&self, wait: Duration) -> Vec<CatalogStatus> {
        let unsettled = |state: &mut State| !state.statuses.iter().all(CatalogStatus::is_settled);
        let (state, _) =
            self.shared.changed.wait_timeout_while(self.shared.lock(), wait, unsettled).unwrap_or_else(PoisonError::into_inner);
        state.statuses.clone()
    }

    /// Announces another record from now on, at once; returns at once.
    ///
    /// # Errors
    /// When no reader would take the record; the old one stays.
    pub fn update(&self, record: CatalogRecord) -> Result<(), kvbroker::catalog::RecordError> {
        record.check()?;
        let mut state = self.shared.lock();
        state.record = Arc::new(record);
        state.record_no += 1;
        self.shared.changed.notify_all();
        Ok(())
    }

    /// Says farewell and stops; takes at most [`FAREWELL_WAIT`] and a moment, also
    /// while a catalog hangs.
    pub fn stop(mut self) {
        self.stop_now();
    }

    fn stop_now(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic was caught and told when it happened.
            let _ = thread.join();
        }
    }
}

impl Drop for Announcer {
    fn drop(&mut self) {
        self.stop_now();
    }
}

/// The deciding thread.
struct Decider {
    shared: Arc<Shared>,
    started: Instant,
    record: Arc<CatalogRecord>,
    record_no: u64,
    catalogs: Vec<Told>,
}

/// One catalog as the deciding thread sees it.
struct Told {
    name: String,
    schedule: Schedule,
    jobs: SyncSender<Job>,
    last_logged: CatalogState,
}

impl Decider {
    fn new(shared: Arc<Shared>, catalogs: Vec<CatalogAddr>, reach: Reach) -> Self {
        let (record, record_no) = {
            let state = shared.lock();
            (Arc::clone(&state.record), state.record_no)
        };
        let mut told = Vec::new();
        for (i, catalog) in catalogs.into_iter().enumerate() {
            // One job at a time, so one place; the deciding thread never blocks on it.
            let (jobs, inbox) = sync_channel(1);
            let name = catalog.to_string();
            let mut schedule = Schedule::new(0);
            let for_thread = Arc::clone(&shared);
            let spawned = thread::Builder::new()
                .name(format!("announcer-{i}"))
                .spawn(move || serve_catalog(i, &catalog, reach, &inbox, &for_thread));
            if let Err(error) = spawned {
                schedule.came(0, Came::Forbidden(format!("no thread could be started: {error}")));
            }
            told.push(Told { name, schedule, jobs, last_logged: CatalogState::Trying });
        }
        Decider { shared, started: Instant::now(), record, record_no, catalogs: told }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn run(mut self) {
        loop {
            let (came, stop) = self.wait();
            if stop {
                break;
            }
            let now_ms = self.now_ms();
            for (i, came) in came {
                if let Some(told) = self.catalogs.get_mut(i) {
                    told.schedule.came(now_ms, came);
                }
            }
            for told in &mut self.catalogs {
                told.hand_out(now_ms, &self.record);
            }
            self.publish();
        }
        self.say_farewell();
    }

    /// Waits for the next thing to do: an outcome, a new record, a due step, the stop.
    fn wait(&mut self) -> (Vec<(usize, Came)>, bool) {
        let due_ms = self.catalogs.iter().filter_map(|told| told.schedule.due_ms()).min();
        let shared = Arc::clone(&self.shared);
        let mut state = shared.lock();
        loop {
            let now_ms = self.now_ms();
            if state.record_no != self.record_no {
                self.record_no = state.record_no;
                self.record = Arc::clone(&state.record);
                for told in &mut self.catalogs {
                    told.schedule.changed(now_ms);
                }
                return (std::mem::take(&mut state.came), state.stop);
            }
            let is_due = due_ms.is_some_and(|due| due <= now_ms);
            if state.stop || !state.came.is_empty() || is_due {
                return (std::mem::take(&mut state.came), state.stop);
            }
            // Without anything due only a message can wake it; an hour is "for ever".
            let pause_ms = due_ms.map_or(3_600_000, |due| due.saturating_sub(now_ms));
            let waited = shared.changed.wait_timeout(state, Duration::from_millis(pause_ms));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn publish(&mut self) {
        let statuses: Vec<CatalogStatus> =
            self.catalogs.iter().map(|told| CatalogStatus::new(&told.name, told.schedule.standing())).collect();
        {
            let mut state = self.shared.lock();
            if state.statuses == statuses {
                return;
            }
            state.statuses.clone_from(&statuses);
            self.shared.changed.notify_all();
        }
        // Outside of the lock: a full stderr must not make `status` wait.
        for (told, status) in self.catalogs.iter_mut().zip(&statuses) {
            if told.last_logged != status.state {
                told.last_logged = status.state;
                match status.state {
                    CatalogState::Listed | CatalogState::Skipped | CatalogState::Trying => {
                        tracing::info!("catalog {status}");
                    }
                    CatalogState::Unlisted | CatalogState::Silent => {
                        tracing::warn!("catalog {status}");
                    }
                }
            }
        }
    }

    /// Tells the catalogs that list this broker that it has left, as far as they
    /// can be told quickly.
    fn say_farewell(mut self) {
        let mut last = (*self.record).clone();
        last.lifetime_s = FAREWELL_LIFETIME_S;
        let record = Arc::new(last);
        let mut waiting_for = 0;
        for told in &self.catalogs {
            let listed = told.last_logged == CatalogState::Listed && !told.schedule.is_under_way();
            let job = Job { step: Step::Send(told.schedule.via()), record: Arc::clone(&record) };
            if listed && told.jobs.try_send(job).is_ok() {
                waiting_for += 1;
            }
        }
        // No more jobs: idle threads end, busy ones after what they are doing.
        self.catalogs.clear();
        let not_all = |state: &mut State| state.came.len() < waiting_for;
        let _ = self.shared.changed.wait_timeout_while(self.shared.lock(), FAREWELL_WAIT, not_all);
    }
}

impl Told {
    fn hand_out(&mut self, now_ms: u64, record: &Arc<CatalogRecord>) {
        let Some(step) = self.schedule.poll(now_ms) else {
            return;
        };
        let job = Job { step, record: Arc::clone(record) };
        if self.jobs.try_send(job).is_err() {
            // Its thread takes a job before it reports the one before, so this place
            // is only full or gone when the thread is gone.
            self.schedule.came(now_ms, Came::Forbidden("its thread has ended".to_owned()));
        }
    }
}

/// One catalog's thread: does what it is handed and reports, until there is no more.
fn serve_catalog(i: usize, catalog: &CatalogAddr, reach: Reach, inbox: &Receiver<Job>, shared: &Shared) {
    while let Ok(job) = inbox.recv() {
        // A panic must not leave a step without its report: the catalog would never be
        // told again. `perform` keeps nothing, so there is nothing half done.
        let attempt = AssertUnwindSafe(|| perform(job.step, catalog, reach, &job.record));
        let came = catch_unwind(attempt).unwrap_or_else(|panic| {
            let why = format!("internal error: {}", critical::panic_text(panic.as_ref()));
            match job.step {
                Step::Send(_) => Came::NotSent(why),
                Step::Look => Came::NoAnswer(why),
            }
        });
        tracing::debug!(%catalog, step = ?job.step, ?came, "told or asked a catalog");
        shared.lock().came.push((i, came));
        shared.changed.notify_all();
    }
}

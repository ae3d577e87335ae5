//! The worker's seat: whose thread does the worker's next turn.
//!
//! - There is one worker and one turn at a time: whoever does it holds the lock. It is the same turn on either thread. Calls come through
//!   the [`Intake`] and the agenda, with their bounds and shares, and what is said leaves as [`Released`](crate::Released) through the outbox.
//! - The worker's own thread waits for calls without the lock, and does whatever comes.
//! - The thread that brings calls does the turn itself if the worker's sleeps, nothing else waits, and all of them are
//!   [small](Call::small): that takes less than to wake another thread and to be woken by it. It never waits for the lock.
//! - Where batches are synced, it does a change only if that is the one call that was brought, or came with a pull of the same client: nobody
//!   else is there who would gather meanwhile. When a sync has taken longer than [`SYNC_PATIENCE`], syncs are the worker's again for
//!   [`SYNC_PAUSE`] times as long.
//! - What such a turn leaves over or brings about (a deadline, a call that waited for a change) is the worker's: its thread is woken.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kvbroker_log::Log;

use crate::call::{Call, Small};
use crate::intake::{Intake, Offered, Refusal};
use crate::worker::{Course, Stopped, Worker};

/// Most calls of a turn that is done in the worker's place. A change costs more than its hand-over: many of them keep two threads busy.
const READS_MAX: usize = 1_024;
const CHANGES_MAX: usize = 4;

/// A sync for one call may keep the thread that brought it for so long,
const SYNC_PATIENCE: Duration = Duration::from_millis(5);
/// or the next ones are left to the worker's thread, for so many times as long: however slow the disk is, this thread waits for it a
/// twentieth of the time at most. A disk that is slow once (room is made in the log once in a few thousand batches) is asked soon again.
const SYNC_PAUSE: u32 = 20;

/// Takes calls for the worker.
pub trait TakesCalls: Send + Sync {
    /// Takes calls in order; what is not taken stays in `calls`.
    ///
    /// # Errors
    /// [`Refusal`] if not all were taken.
    fn take(&self, calls: &mut VecDeque<Call>) -> Result<(), Refusal>;
}

/// The worker, and who may do its turns.
pub struct Seat<L> {
    intake: Arc<Intake>,
    /// None once it has ended.
    place: Mutex<Option<Place<L>>>,
    /// What may be done on the thread that brings it.
    helps: Helps,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Helps {
    Never,
    /// Each batch is synced.
    Syncing,
    All,
}

struct Place<L> {
    worker: Worker<L>,
    course: Course,
    /// When the worker's thread wakes by itself.
    wakes_at: Option<Instant>,
    /// The log has failed under a turn that was done in the worker's place.
    failed: Option<Stopped>,
    /// Until then syncs are left to the worker's thread.
    no_syncs_until: Option<Instant>,
}

/// A turn that may be done in the worker's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Reads,
    Changes,
    /// One change, and its sync.
    Synced,
}

impl<L: Log> Seat<L> {
    /// A worker whose turns are all done by the thread that runs it.
    pub fn alone(worker: Worker<L>) -> Seat<L> {
        Seat::new(worker, Helps::Never)
    }

    /// A worker whose small turns may be done by the thread that brings the calls. If the log syncs each batch, these are reads, and changes
    /// that come alone.
    pub fn helped(worker: Worker<L>, syncs_batches: bool) -> Seat<L> {
        Seat::new(worker, if syncs_batches { Helps::Syncing } else { Helps::All })
    }

    fn new(mut worker: Worker<L>, helps: Helps) -> Seat<L> {
        let course = worker.begin();
        let intake = Arc::clone(&worker.intake);
        Seat {
            intake,
            place: Mutex::new(Some(Place { worker, course, wakes_at: None, failed: None, no_syncs_until: None })),
            helps,
        }
    }

    /// A thread that panics with it ends the process; until then the place is whole.
    fn lock(&self) -> MutexGuard<'_, Option<Place<L>>> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The worker's thread: runs until the intake is closed and empty; then the log is closed cleanly.
    ///
    /// # Errors
    /// [`Stopped`] if the log failed. Nothing of the failed batch was released.
    pub fn run(&self) -> Result<(), Stopped> {
        loop {
            let wait = self.lock().as_mut().map_or(Duration::ZERO, Place::prepare);
            self.intake.wait(wait);
            let mut guard = self.lock();
            let Some(place) = guard.as_mut() else { return Ok(()) };
            let ended = match place.go_on() {
                Ok(true) => continue,
                Ok(false) => Ok(()),
                Err(stopped) => Err(stopped),
            };
            let Some(Place { mut worker, course, .. }) = guard.take() else { return ended };
            let ended = ended.and_then(|()| worker.finish(course));
            // The process ends with the worker. Giving millions of keys back one by one would take seconds, in which a stop seems to hang
            // and may be taken for one that did not get ready in time.
            std::mem::forget((worker.state, worker.history, worker.snapshots));
            return ended;
        }
    }

    /// Does a turn in the worker's place. False if its thread has to be woken.
    fn help(&self, turn: Turn) -> bool {
        let Ok(mut guard) = self.place.try_lock() else { return false };
        guard.as_mut().is_some_and(|place| place.help(turn))
    }

    /// The turn that these calls would be, if it may be done in the worker's place.
    fn turn_of(&self, calls: &VecDeque<Call>) -> Option<Turn> {
        match (self.helps, small_turn(calls)?) {
            (Helps::Never, _) => None,
            (_, Turn::Reads) => Some(Turn::Reads),
            (Helps::All, _) => Some(Turn::Changes),
            (Helps::Syncing, _) => is_alone(calls).then_some(Turn::Synced),
        }
    }
}

impl<L: Log> Place<L> {
    fn prepare(&mut self) -> Duration {
        if self.failed.is_some() {
            return Duration::ZERO;
        }
        let wait = self.worker.prepare(&mut self.course);
        self.wakes_at = Instant::now().checked_add(wait);
        wait
    }

    fn go_on(&mut self) -> Result<bool, Stopped> {
        match self.failed.take() {
            Some(stopped) => Err(stopped),
            None => self.worker.go_on(&mut self.course),
        }
    }

    fn help(&mut self, turn: Turn) -> bool {
        let with_changes = turn != Turn::Reads;
        if self.failed.is_some() || !self.worker.has_nothing_else(&self.course, with_changes) {
            return false;
        }
        let began = (turn == Turn::Synced).then(Instant::now);
        if began.is_some_and(|now| self.no_syncs_until.is_some_and(|until| now < until)) {
            return false;
        }
        if let Err(stopped) = self.worker.small_turn(&mut self.course) {
            self.failed = Some(stopped);
            return false;
        }
        let took = began.map(|began| began.elapsed()).unwrap_or_default();
        if took > SYNC_PATIENCE {
            self.no_syncs_until = Instant::now().checked_add(took.saturating_mul(SYNC_PAUSE));
        }
        if !with_changes {
            return self.course.agenda.is_empty();
        }
        let wait = self.worker.prepare(&mut self.course);
        let is_later = wait >= self.course.wait || Instant::now().checked_add(wait) >= self.wakes_at;
        self.course.agenda.is_empty() && is_later
    }
}

impl<L: Log + Send> TakesCalls for Seat<L> {
    fn take(&self, calls: &mut VecDeque<Call>) -> Result<(), Refusal> {
        let turn = self.turn_of(calls);
        let Offered { refusal, wakes, are_all } = self.intake.offer(calls);
        if wakes {
            match turn.filter(|_| are_all) {
                None => self.intake.wake(),
                Some(turn) if !self.help(turn) => self.intake.nudge(),
                Some(_) => {}
            }
        }
        refusal
    }
}

/// The turn of these calls, if they are small.
fn small_turn(calls: &VecDeque<Call>) -> Option<Turn> {
    let mut changes = 0;
    for call in calls {
        changes += usize::from(call.small()? != Small::Read);
    }
    match changes {
        0 if calls.len() <= READS_MAX => Some(Turn::Reads),
        1..=CHANGES_MAX if calls.len() <= CHANGES_MAX => Some(Turn::Changes),
        _ => None,
    }
}

/// True if nobody but one client is here, who wants one thing done; a consumer asks for the next item when it says that one is done.
fn is_alone(calls: &VecDeque<Call>) -> bool {
    let (Some(first), second) = (calls.front(), calls.get(1)) else { return false };
    let goes_on = second.is_none_or(|second| second.client == first.client && second.small() == Some(Small::Pull));
    goes_on && calls.len() <= 2
}

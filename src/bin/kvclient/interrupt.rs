//! Ctrl-C, SIGTERM and SIGHUP: what is in hand is brought to an end, then the program ends with 130 and says what it was at.
//!
//! - In hand are lines on stdout, a file that is being replaced, or a command that runs for an event. A command is asked to end (SIGTERM,
//!   with all that it has started), and killed if it does not.
//! - A second signal ends everything at once. Signals that come together count as one: `timeout` sends them to the process and to its
//!   group.
//! - A verb that [drains] is told of signals, and ends by itself what it has in hand.
//! - Whoever is in the midst of something when the program ends does not come back from [`Held`]: nothing more is begun.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::{CLIENT, complain, del_prefix};

/// What the shell shows for a program that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

/// How long a command, or a file, may take to come to an end.
const GRACE: Duration = Duration::from_secs(5);

/// The same for lines, whose reader may have stopped reading.
const LINES_GRACE: Duration = Duration::from_millis(500);

/// How long the kernel may take to end what was killed.
const KILLED_GRACE: Duration = Duration::from_secs(1);

/// Signals within this time are one.
const TOGETHER: Duration = Duration::from_millis(200);

type Farewell = Box<dyn Fn() -> Option<String> + Send>;

/// What must not be left in the middle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InHand {
    /// Lines on stdout.
    Lines,
    /// A file that is being replaced, or a command that is being started or taken note of.
    File,
    /// A command that runs, and the group of processes that it leads.
    Command(Pid),
}

type Told = Box<dyn Fn(u32) + Send>;

/// A verb that comes to its end by itself when it is told.
struct Draining {
    told: Told,
    signals: u32,
    last_at: Instant,
}

struct State {
    in_hand: Option<InHand>,
    first_at: Option<Instant>,
    farewell: Option<Farewell>,
    draining: Option<Draining>,
}

static STATE: Mutex<State> = Mutex::new(State { in_hand: None, first_at: None, farewell: None, draining: None });
static LET_GO: Condvar = Condvar::new();

fn lock() -> MutexGuard<'static, State> {
    // Nothing in there is left half done by a panic.
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What there is to say of a verb that is interrupted.
pub(crate) fn on_end(farewell: impl Fn() -> Option<String> + Send + 'static) {
    lock().farewell = Some(Box::new(farewell));
}

/// From now on a signal is told, with its number, and nothing else is done: until [`drained`]. The third one ends the program all the same.
pub(crate) fn drains(told: impl Fn(u32) + Send + 'static) {
    let mut state = lock();
    let signals = u32::from(state.first_at.is_some());
    if signals > 0 {
        told(signals);
    }
    state.draining = Some(Draining { told: Box::new(told), signals, last_at: Instant::now() });
}

/// What was to come to its end has. Does not return if that was for a signal.
pub(crate) fn drained() {
    let mut state = lock();
    state.draining = None;
    if state.first_at.is_some() {
        end(state);
    }
}

/// The program is about to end.
pub(crate) fn is_raised() -> bool {
    lock().first_at.is_some()
}

/// Something is in hand until this is dropped.
pub(crate) struct Held(());

/// Takes something in hand. Does not return if the program is about to end.
pub(crate) fn hold(in_hand: InHand) -> Held {
    let mut state = lock();
    if state.first_at.is_some() {
        drop(state);
        end_is_near();
    }
    state.in_hand = Some(in_hand);
    Held(())
}

impl Held {
    /// Something else is in hand now. A command that is begun when the program is about to end is told so.
    pub(crate) fn becomes(&self, in_hand: InHand) {
        let mut state = lock();
        state.in_hand = Some(in_hand);
        if let (InHand::Command(group), Some(_)) = (in_hand, state.first_at) {
            signal(group, Signal::TERM);
        }
    }

    /// Nothing is in hand until it is said what is. Does not return if the program is about to end.
    pub(crate) fn rests(&self) {
        let mut state = lock();
        state.in_hand = None;
        let is_raised = state.first_at.is_some();
        drop(state);
        LET_GO.notify_all();
        if is_raised {
            end_is_near();
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.rests();
    }
}

/// The thread that took the signal ends the program, within the time that it grants at most.
fn end_is_near() -> ! {
    loop {
        std::thread::park();
    }
}

/// The handler of signals; on a thread of its own.
pub(crate) fn arrived() {
    let mut state = lock();
    let now = Instant::now();
    if let Some(draining) = &mut state.draining {
        if draining.signals > 0 && now.duration_since(draining.last_at) < TOGETHER {
            return;
        }
        draining.signals += 1;
        draining.last_at = now;
        (draining.told)(draining.signals);
        let is_enough = draining.signals > 2;
        state.first_at.get_or_insert(now);
        if is_enough {
            end(state);
        }
        return;
    }
    match state.first_at {
        Some(first_at) if now.duration_since(first_at) < TOGETHER => {}
        Some(_) => {
            if let Some(InHand::Command(group)) = state.in_hand {
                signal(group, Signal::KILL);
            }
            end(state);
        }
        None => {
            state.first_at = Some(now);
            if state.in_hand.is_none() {
                end(state);
            }
            drop(state);
            // On another thread, so that a second signal is heard.
            if std::thread::Builder::new().name("kv-end".into()).spawn(finish).is_err() {
                finish();
            }
        }
    }
}

fn finish() {
    let mut state = lock();
    if let Some(InHand::Command(group)) = state.in_hand {
        signal(group, Signal::TERM);
    }
    let grace = if state.in_hand == Some(InHand::Lines) { LINES_GRACE } else { GRACE };
    state = let_go(state, grace);
    if let Some(InHand::Command(group)) = state.in_hand {
        signal(group, Signal::KILL);
        state = let_go(state, KILLED_GRACE);
    }
    end(state)
}

fn let_go(state: MutexGuard<'static, State>, grace: Duration) -> MutexGuard<'static, State> {
    let is_held = |state: &mut State| state.in_hand.is_some();
    LET_GO.wait_timeout_while(state, grace, is_held).unwrap_or_else(PoisonError::into_inner).0
}

/// With the state locked, so that nothing is taken in hand any more.
fn end(state: MutexGuard<'static, State>) -> ! {
    if let Some(request) = CLIENT.get().and_then(|client| client.in_doubt()) {
        complain(&format!("interrupted; the outcome of request {request} is unknown, it may have been done"), None);
    }
    del_prefix::say_how_far();
    if let Some(sentence) = state.farewell.as_ref().and_then(|farewell| farewell()) {
        complain(&sentence, None);
    }
    std::process::exit(INTERRUPTED)
}

/// All that a command has started, too. What is gone needs no signal.
fn signal(group: Pid, signal: Signal) {
    let _ = kill_process_group(group, signal);
}

//! Calls on their way from the callers' threads to the driver's.
//!
//! - The inbox and everything behind it hold a bounded number of calls and bytes; a caller waits for room, up to its deadline.
//! - One thread drives at a time, and it is settled here which. A caller who waits and finds nobody driving does it itself, which
//!   saves two changes of threads. One who finds somebody driving is an heir: whoever leaves hands on to an heir whose calls have not
//!   ended.
//! - Who submits without waiting drives for one turn, which sends what lies here and takes what has come. In the middle of a pipeline
//!   whose tickets are waited for it does not: there the wait, or a pile, sends off what was submitted since the last one, in one array.
//! - The client's own thread drives where nobody waits: at once for calls that ring a bell and for callers without room, and after
//!   some milliseconds for what is left lying or unread. A pipeline at work so hardly meets that thread.
//! - Whoever drives sleeps in one wait for the socket and an eventfd; a caller writes to that only if the driver sleeps.

use std::os::fd::BorrowedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use kvbroker_protocol::limits::{IN_FLIGHT_BYTES_MAX, MESSAGE_BYTES_MAX};

use super::bell::Bell;
use super::session::{Asked, GaveUp};
use super::slot::{Slot, Token};

/// Most calls of one client that have not ended.
pub(super) const CALLS_MAX: usize = 16_384;

/// Most bytes of the same.
const BYTES_MAX: usize = IN_FLIGHT_BYTES_MAX;

const _: () = assert!(BYTES_MAX >= MESSAGE_BYTES_MAX, "the largest call has room");

/// How long calls that nobody waits for lie at least, and at most twice that, until the client's thread drives.
const LEFT_FOR: Duration = Duration::from_millis(1);

/// The same for a pipeline at work, whose thread has come each time until now: looking after it costs something, too.
const LEFT_FOR_MAX: Duration = Duration::from_millis(8);

/// So often the thread looks after a pipeline in vain until it has to be called again.
const LOOKS_IN_VAIN: u32 = 8;

/// So many calls are not left lying: whoever hands in the last of them sends them off.
const PILE: usize = 512;

/// Memory for so many calls is kept when it is empty.
pub(super) const KEPT_CALLS: usize = 4 * PILE;

/// The same for their bytes.
const KEPT_BYTES: usize = 1 << 20;

/// So long after a wait has fetched what lay here it is expected that the next one will, too.
const ATTENDED_FOR: Duration = LEFT_FOR_MAX;

/// Who submits takes no turn if one was that short ago, but for a few times after a break: what comes faster is packed.
const TURN_EVERY: Duration = Duration::from_micros(200);

/// So many times.
const QUICK_TURNS_MAX: u32 = 3;

/// Who looks at a ticket, with everything sent, takes no turn if one was that short ago.
const LOOK_EVERY: Duration = Duration::from_micros(50);

/// Who drives when a call was handed in and nobody does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Urgency {
    /// The caller, who will wait for the end next.
    Waits,
    /// The caller: at once or, in the middle of a pipeline, when it waits. The client's thread, if it does not do so soon.
    Soon,
    /// The client's thread, and at once.
    Rings,
}

/// What becomes of a caller who would drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lead {
    /// It drives.
    Yours,
    /// Somebody else does: to be asked again when the slot was nudged.
    Others,
    /// Nobody does any more.
    Closed,
}

/// How whoever drove leaves things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Left {
    pub(super) at: Instant,
    /// No call has to end.
    pub(super) is_idle: bool,
    /// Everything is sent, and so is at once what is handed in next.
    pub(super) has_room: bool,
}

/// A call that was handed in.
#[derive(Debug)]
pub(super) struct Submission {
    pub(super) asked: Asked,
    pub(super) deadline: Option<Instant>,
    pub(super) token: Token,
}

/// What the driver finds when it looks.
#[derive(Debug, Default)]
pub(super) struct Mail {
    pub(super) submissions: Vec<Submission>,
    /// The bytes of those that have none of their own, in their order.
    pub(super) bodies: Vec<u8>,
    pub(super) is_closed: bool,
}

impl Mail {
    /// Nothing is in it any more. Its memory is used again, if it is not unusually much.
    pub(super) fn clear(&mut self) {
        self.submissions.clear();
        self.bodies.clear();
        if self.submissions.capacity() > KEPT_CALLS {
            self.submissions = Vec::new();
        }
        if self.bodies.capacity() > KEPT_BYTES {
            self.bodies = Vec::new();
        }
    }
}

#[derive(Debug, Default)]
struct State {
    submissions: Vec<Submission>,
    bodies: Vec<u8>,
    /// How many of them nobody waits for yet.
    lying: usize,
    /// Who drives has found some lying, and waits.
    attends: bool,
    /// When a waiter who had found some left.
    attended_at: Option<Instant>,
    /// How the last one who drove left things.
    turned: Option<Left>,
    /// How many turns of submitters came right after another one since there was a break.
    quick_turns: u32,
    calls: usize,
    bytes: usize,
    /// Callers that wait for room.
    crowd: usize,
    /// Somebody drives, or the client's thread was told to.
    is_driven: bool,
    /// The caller who drives.
    leader: Option<ThreadId>,
    /// Callers who wait while somebody else drives.
    heirs: Vec<Arc<Slot>>,
    thread_is_wanted: bool,
    /// The client's thread must drive until nothing is left, whoever else would.
    is_bound: bool,
    /// Something was left lying, with nobody driving.
    is_left: bool,
    /// Counts how often it was, so that the client's thread sees whether anybody was there meanwhile.
    left: u64,
    /// The client's thread looks from time to time.
    thread_watches: bool,
    driver_sleeps: bool,
    is_closed: bool,
}

impl State {
    fn want_thread(&mut self, thread: &Condvar) {
        self.is_driven = true;
        self.is_bound = true;
        self.thread_is_wanted = true;
        thread.notify_one();
    }

    fn has_heir(&self) -> bool {
        !self.is_bound && self.crowd == 0 && self.heirs.iter().any(|heir| !heir.is_complete())
    }

    /// True if what nobody waits for yet is to be sent by who hands it in. The next wait is expected to fetch it where the last one did,
    /// unless that was long ago.
    fn is_due(&mut self, now: Instant, attended_for: Duration) -> bool {
        let is_attended = self.attended_at.is_some_and(|at| now.saturating_duration_since(at) < attended_for);
        self.submissions.len() >= PILE || (!is_attended && self.may_turn(now))
    }

    /// True if who submits may take a turn now: after some time, and some times right after each other for a few operations that come
    /// together. Many that do are packed.
    fn may_turn(&mut self, now: Instant) -> bool {
        let Some(turned) = self.turned else { return true };
        if has_passed(LEFT_FOR, turned.at, now) {
            self.quick_turns = 0;
        }
        if has_passed(TURN_EVERY, turned.at, now) {
            return true;
        }
        let may_turn = turned.has_room && self.quick_turns < QUICK_TURNS_MAX;
        self.quick_turns += u32::from(may_turn);
        may_turn
    }

    fn begin_to_lead(&mut self) {
        self.is_driven = true;
        self.is_left = false;
        self.leader = Some(std::thread::current().id());
    }

    /// Nobody drives, and there is something to do.
    fn leave(&mut self, thread: &Condvar) {
        self.is_left = true;
        self.left += 1;
        if !self.thread_watches {
            self.thread_watches = true;
            thread.notify_one();
        }
    }
}

fn has_passed(time: Duration, since: Instant, now: Instant) -> bool {
    now.saturating_duration_since(since) >= time
}

#[derive(Debug)]
pub(super) struct Inbox {
    state: Mutex<State>,
    attended_for: Duration,
    room: Condvar,
    /// The client's thread waits here while it is not wanted.
    thread: Condvar,
    bell: Bell,
}

impl Inbox {
    /// # Errors
    /// No more file descriptors.
    pub(super) fn new() -> std::io::Result<Inbox> {
        let attended_for = ATTENDED_FOR;
        Ok(Inbox { state: Mutex::default(), attended_for, room: Condvar::new(), thread: Condvar::new(), bell: Bell::new()? })
    }

    /// One that expects a wait as soon as there was one, however long ago, and whatever the client's thread has done.
    #[cfg(test)]
    pub(super) fn patient() -> std::io::Result<Inbox> {
        Ok(Inbox { attended_for: Duration::MAX, ..Inbox::new()? })
    }

    /// Hands a call in, once there is room. After a close the call's token says so. True if the caller is to send off what lies there
    /// ([`Inbox::lead_if_needed`]). `lying`: its bytes, if it has none of its own.
    pub(super) fn submit(&self, submission: Submission, lying: &[u8], urgency: Urgency, now: Instant) -> bool {
        let bytes = submission.token.bytes;
        let mut state = self.lock();
        while !state.is_closed && state.calls > 0 && (state.calls >= CALLS_MAX || state.bytes + bytes > BYTES_MAX) {
            let left = submission.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                drop(state);
                let trouble = Some(format!("{CALLS_MAX} calls or {BYTES_MAX} bytes were outstanding all the time"));
                submission.token.complete(Err(GaveUp::TimedOut { trouble }));
                return false;
            }
            if !state.is_driven {
                state.want_thread(&self.thread);
            }
            state.crowd += 1;
            state = match left {
                Some(left) => self.room.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
                None => self.room.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
            state.crowd -= 1;
        }
        if state.is_closed {
            drop(state);
            drop(submission);
            return false;
        }
        state.calls += 1;
        state.bytes += bytes;
        if submission.asked.lies() {
            state.bodies.extend_from_slice(lying);
        }
        state.submissions.push(submission);
        let mut is_due = false;
        match urgency {
            Urgency::Rings if state.is_driven => state.is_bound = true,
            Urgency::Rings => state.want_thread(&self.thread),
            Urgency::Soon if !state.is_driven => {
                state.lying += 1;
                is_due = state.is_due(now, self.attended_for);
                // Only the first one: what lies there does not lie longer because more comes.
                if !is_due && !state.is_left {
                    state.leave(&self.thread);
                }
            }
            Urgency::Soon | Urgency::Waits => {}
        }
        self.wake(state);
        is_due
    }

    /// Makes the caller, who waits for this slot, the driver, or an heir.
    pub(super) fn lead(&self, slot: &Arc<Slot>) -> Lead {
        let mut state = self.lock();
        if state.is_closed {
            return Lead::Closed;
        }
        if !state.is_driven {
            state.begin_to_lead();
            state.attends = state.lying > 0;
            return Lead::Yours;
        }
        state.heirs.push(Arc::clone(slot));
        if state.leader.is_none() && !state.is_bound {
            // The client's thread drives for nobody, and makes room for who waits.
            self.wake(state);
        }
        Lead::Others
    }

    /// The caller has waited while somebody else drove.
    pub(super) fn disclaim(&self, slot: &Arc<Slot>) {
        self.lock().heirs.retain(|heir| !Arc::ptr_eq(heir, slot));
    }

    /// Makes the caller the driver if something lies here and nobody drives.
    pub(super) fn lead_if_needed(&self) -> bool {
        let mut state = self.lock();
        let is_needed = !state.is_driven && !state.is_closed && !state.submissions.is_empty();
        if is_needed {
            state.begin_to_lead();
        }
        is_needed
    }

    /// Makes the caller, who looks whether a call has ended, the driver for a turn: if there is something to drive, nobody does, and the
    /// last turn was not just now.
    pub(super) fn lead_to_look(&self, now: Instant) -> bool {
        let mut state = self.lock();
        let pause = if state.lying > 0 { TURN_EVERY } else { LOOK_EVERY };
        let may_have_news = state.turned.is_none_or(|turned| has_passed(pause, turned.at, now));
        let leads = !state.is_driven && !state.is_closed && state.calls > 0 && may_have_news;
        if leads {
            state.begin_to_lead();
        }
        leads
    }

    /// For the client's thread: true if somebody waits who would drive, and may.
    pub(super) fn has_heir(&self) -> bool {
        self.lock().has_heir()
    }

    /// True on the thread of a caller who drives.
    pub(super) fn is_led_here(&self) -> bool {
        self.lock().leader == Some(std::thread::current().id())
    }

    /// Who drove does so no longer. An heir goes on; without one, what is left lies there, or is the client's thread's if it is bound
    /// to it.
    pub(super) fn hand_over(&self, left: Left) {
        let mut state = self.lock();
        state.leader = None;
        state.driver_sleeps = false;
        state.turned = Some(left);
        if std::mem::take(&mut state.attends) {
            state.attended_at = Some(left.at);
        }
        if state.is_closed {
            return state.want_thread(&self.thread);
        }
        if left.is_idle && state.submissions.is_empty() {
            state.is_driven = false;
            state.is_bound = false;
            return;
        }
        if state.is_bound || state.crowd > 0 {
            return state.want_thread(&self.thread);
        }
        state.is_driven = false;
        // Also with an heir, in case it is late.
        state.leave(&self.thread);
        let heir = loop {
            match state.heirs.pop() {
                Some(heir) if heir.is_complete() => {}
                heir => break heir,
            }
        };
        drop(state);
        if let Some(heir) = heir {
            heir.nudge();
        }
    }

    /// For the client's thread, with nothing left to do: true if it may stop driving.
    pub(super) fn may_rest(&self) -> bool {
        let state = self.lock();
        state.submissions.is_empty() && !state.is_closed
    }

    /// The client's thread waits here until it is to drive, or to end.
    pub(super) fn until_wanted(&self) {
        let mut state = self.lock();
        let (mut seen, mut pause, mut looks_in_vain) = (None, LEFT_FOR, 0);
        while !state.thread_is_wanted && (state.is_driven || !state.is_closed) {
            if !state.thread_watches {
                (seen, pause, looks_in_vain) = (None, LEFT_FOR, 0);
                state = self.thread.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let (woken, waited) = self.thread.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner);
            state = woken;
            if !waited.timed_out() {
                continue;
            }
            if seen == Some(state.left) {
                if state.is_left && !state.is_driven {
                    break;
                }
                // Somebody drives for long, or all is done. To be called again costs as much as some looks.
                looks_in_vain += 1;
                state.thread_watches = looks_in_vain < LOOKS_IN_VAIN;
            } else {
                looks_in_vain = 0;
            }
            if seen.is_some() {
                pause = (pause * 2).min(LEFT_FOR_MAX);
            }
            seen = Some(state.left);
        }
        if state.lying > 0 && !state.is_driven {
            // No wait has come for it.
            state.attended_at = None;
        }
        state.thread_is_wanted = false;
        state.is_driven = true;
        state.is_left = false;
        state.thread_watches = false;
    }

    /// Half of what it takes is taken: who can wait leaves the rest to others.
    pub(super) fn is_crowded(&self) -> bool {
        let state = self.lock();
        state.calls >= CALLS_MAX / 2 || state.bytes >= BYTES_MAX / 2
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().is_closed
    }

    /// How many calls have not ended.
    pub(super) fn outstanding(&self) -> usize {
        self.lock().calls
    }

    /// So many calls have ended.
    pub(super) fn ended(&self, calls: usize, bytes: usize) {
        let mut state = self.lock();
        state.calls -= calls;
        state.bytes -= bytes;
        if state.crowd > 0 {
            self.room.notify_all();
        }
    }

    /// Nothing more is taken, and the driver ends.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        self.room.notify_all();
        self.thread.notify_all();
        self.wake(state);
    }

    /// Wakes the driver, or keeps it from falling asleep: for news that are not in the inbox.
    pub(super) fn ring(&self) {
        self.bell.ring();
    }

    /// Fills empty mail with everything that was handed in since the last look.
    pub(super) fn take(&self, mail: &mut Mail) {
        mail.clear();
        let mut state = self.lock();
        state.driver_sleeps = false;
        state.lying = 0;
        mail.is_closed = state.is_closed;
        std::mem::swap(&mut mail.submissions, &mut state.submissions);
        std::mem::swap(&mut mail.bodies, &mut state.bodies);
    }

    /// Announces that the driver will sleep; false: there is mail, or somebody who would rather drive.
    pub(super) fn may_sleep(&self) -> bool {
        let mut state = self.lock();
        let makes_room = state.leader.is_none() && state.has_heir();
        state.driver_sleeps = state.submissions.is_empty() && !state.is_closed && !makes_room;
        state.driver_sleeps
    }

    /// For the driver's wait: readable when somebody wants it awake.
    pub(super) fn signal(&self) -> BorrowedFd<'_> {
        self.bell.signal()
    }

    /// Makes the bell silent again.
    pub(super) fn hush(&self) {
        self.bell.hush();
    }

    fn wake(&self, mut state: MutexGuard<'_, State>) {
        let sleeps = std::mem::replace(&mut state.driver_sleeps, false);
        drop(state);
        if sleeps {
            self.ring();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::session::Asked;
    use super::*;
    use kvbroker_protocol::Operation;

    fn submit(inbox: &Inbox, slot: &Arc<Slot>, urgency: Urgency) -> bool {
        submit_at(inbox, slot, urgency, Instant::now())
    }

    fn submit_at(inbox: &Inbox, slot: &Arc<Slot>, urgency: Urgency, now: Instant) -> bool {
        let asked = Asked::new(&Operation::Size).expect("it is short");
        inbox.submit(Submission { asked, deadline: None, token: Token::new(slot, 0, 1) }, &[], urgency, now)
    }

    fn left(is_idle: bool) -> Left {
        Left { at: Instant::now(), is_idle, has_room: true }
    }

    #[test]
    fn who_found_somebody_driving_is_nudged_when_that_one_leaves() {
        let inbox = Inbox::new().expect("an eventfd");
        let [first, second, third] = [0; 3].map(|_| Slot::new(1));
        assert_eq!(inbox.lead(&first), Lead::Yours);
        assert_eq!(inbox.lead(&second), Lead::Others);
        assert_eq!(inbox.lead(&third), Lead::Others);
        assert!(!inbox.lead_if_needed());
        Token::new(&third, 0, 1).complete(Err(GaveUp::TimedOut { trouble: None }));
        inbox.hand_over(left(false));
        // Nobody else would end this wait.
        assert!(!second.until_complete_or_nudged(None), "it was not its end that came");
        assert_eq!(inbox.lead(&second), Lead::Yours);
        inbox.hand_over(left(true));
        assert_eq!(inbox.lead(&first), Lead::Yours);
    }

    #[test]
    fn what_nobody_waits_for_is_the_threads_until_somebody_does() {
        let inbox = Inbox::new().expect("an eventfd");
        let slot = Slot::new(1);
        assert!(submit(&inbox, &slot, Urgency::Soon), "who submits it sends it");
        assert!(inbox.lead_if_needed());
        inbox.hand_over(left(false));
        // Nobody calls it, and so it looks by itself.
        inbox.until_wanted();
        assert!(!inbox.has_heir());
        assert_eq!(inbox.lead(&slot), Lead::Others);
        assert!(inbox.has_heir());
        inbox.hand_over(left(false));
        assert!(!slot.until_complete_or_nudged(None));
        assert_eq!(inbox.lead(&slot), Lead::Yours);
        // Who rings does not wait for others to drive.
        submit(&inbox, &slot, Urgency::Rings);
        inbox.hand_over(left(false));
        inbox.until_wanted();
        assert_eq!(inbox.lead(&slot), Lead::Others);
        assert!(!inbox.has_heir(), "the thread stays");
    }

    /// A wait that fetches what lies there.
    fn wait_for(inbox: &Inbox, slot: &Arc<Slot>) {
        submit(inbox, slot, Urgency::Soon);
        assert_eq!(inbox.lead(slot), Lead::Yours);
        inbox.take(&mut Mail::default());
        inbox.hand_over(left(true));
    }

    #[test]
    fn who_submits_leaves_it_to_a_wait_only_where_waits_come() {
        let inbox = Inbox::new().expect("an eventfd");
        let slot = Slot::new(9);
        let now = Instant::now();
        assert!(submit_at(&inbox, &slot, Urgency::Soon, now), "nothing is known of waits");
        assert_eq!(inbox.lead(&slot), Lead::Yours);
        inbox.take(&mut Mail::default());
        inbox.hand_over(Left { at: now, is_idle: false, has_room: true });
        assert!(!submit_at(&inbox, &slot, Urgency::Soon, now), "a wait has just fetched the last one");
        assert!(submit_at(&inbox, &slot, Urgency::Soon, now + ATTENDED_FOR), "that was long ago");
        // Whoever turns without waiting is no wait.
        assert!(inbox.lead_if_needed());
        inbox.take(&mut Mail::default());
        let later = now + 2 * ATTENDED_FOR;
        inbox.hand_over(Left { at: later, is_idle: false, has_room: false });
        assert!(!submit_at(&inbox, &slot, Urgency::Soon, later), "it could not leave anyway");
        assert!(!inbox.lead_to_look(later));
        assert!(submit_at(&inbox, &slot, Urgency::Soon, later + TURN_EVERY), "but perhaps by now");
        assert!(inbox.lead_to_look(later + TURN_EVERY));
        inbox.hand_over(left(true));
    }

    #[test]
    fn waits_that_stay_away_are_not_expected_again() {
        let inbox = Inbox::new().expect("an eventfd");
        let slot = Slot::new(9);
        submit(&inbox, &slot, Urgency::Soon);
        assert_eq!(inbox.lead(&slot), Lead::Yours);
        inbox.take(&mut Mail::default());
        let now = Instant::now();
        inbox.hand_over(Left { at: now, is_idle: false, has_room: true });
        assert!(!submit_at(&inbox, &slot, Urgency::Soon, now));
        inbox.until_wanted();
        inbox.take(&mut Mail::default());
        inbox.hand_over(Left { at: now, is_idle: false, has_room: true });
        assert!(submit_at(&inbox, &slot, Urgency::Soon, now), "the thread had to come");
    }

    #[test]
    fn a_pile_is_to_be_sent_off_by_who_makes_it() {
        let inbox = Inbox::patient().expect("an eventfd");
        let slot = Slot::new(PILE + 1);
        wait_for(&inbox, &slot);
        let is_pile: Vec<bool> = (0..PILE).map(|_| submit(&inbox, &slot, Urgency::Soon)).collect();
        assert_eq!(is_pile.iter().position(|is_pile| *is_pile), Some(PILE - 1));
        assert!(inbox.lead_if_needed());
        let mut mail = Mail::default();
        inbox.take(&mut mail);
        assert_eq!(mail.submissions.len(), PILE);
        inbox.hand_over(left(true));
        assert!(!inbox.lead_if_needed(), "nothing lies there");
    }
}

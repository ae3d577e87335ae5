//! A program that watches: the client library's own [`Merge`]s, with what its hub does about sockets and questions reduced to queues.
//!
//! - A link is a SUB socket's connection: what is on it arrives in order, or not at all.
//! - Questions are asked again on the next connection until their time is up, as the library's driver does it.
//! - A program may take what it was told slowly, and be ended in between: what it kept by then is where it goes on.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use kvbroker::client::watch::WatchEnd;
use kvbroker::client::watch::merge::{Answered, Heard, Merge, Position};
use kvbroker::client::{WatchFrom, WatchOptions};
use kvbroker_protocol::{Operation, Outcome, StreamMessage, prefix_of_stream_topic};

use super::asks::{answered, fitting_predicate, operation, spoiled};
use super::bugs::PlantedBug;
use super::happened::Seen;
use super::judge::{Judge, Known};
use super::link::{Down, Link, Up};
use super::process::{LinkId, Token};
use super::subject::Subject;
use super::truth::Truth;
use super::violation::Violation;
use crate::Dice;

/// Without a heartbeat for so long the connection is given up.
const SILENCE: Duration = Duration::from_secs(3);
/// How long a question may take, beyond what it waits at the broker.
const ANSWER: Duration = Duration::from_secs(15);

/// A question that was asked.
#[derive(Debug)]
struct Flight {
    token: Token,
    watcher: u64,
    operation: Operation,
    deadline: Instant,
    is_sent: bool,
}

/// One watch.
#[derive(Debug)]
pub struct Watcher {
    id: u64,
    merge: Merge,
    /// What it was told.
    pub judge: Judge,
    position: Option<Position>,
    may_resync: bool,
    has_stream: bool,
}

/// What a program that has ended left for its next run.
#[derive(Clone, Debug)]
pub struct Kept {
    position: Position,
    /// What it was really told.
    pub judge: Judge,
}

impl Kept {
    /// Whether it is of a history that was set back behind it.
    pub fn is_behind(&self, epoch: u64, revision: u64) -> bool {
        self.position.epoch == Some(epoch) && self.position.revision > revision
    }
}

/// How a watch begins.
#[derive(Clone, Debug)]
pub enum Beginning {
    /// From now on.
    Now,
    /// With a snapshot.
    Snapshot,
    /// Behind a revision of the present log.
    After(u64),
    /// Where an earlier run has ended.
    Resumed(Box<Kept>),
}

/// What the world knows when a program acts.
#[derive(Clone, Copy)]
pub struct Around<'a> {
    /// What was committed.
    pub truth: &'a Truth,
    /// What the broker knows.
    pub known: Known,
    /// The time.
    pub now: Instant,
    /// What goes wrong.
    pub bug: Option<PlantedBug>,
}

/// A program.
#[derive(Debug)]
pub struct Program {
    /// Its name.
    pub id: u64,
    /// To the publisher.
    pub link: Option<Link>,
    /// Its watches.
    pub watchers: Vec<Watcher>,
    /// Questions on their way to the broker.
    pub questions: VecDeque<(Token, Operation)>,
    /// Answers on their way back.
    pub answers: VecDeque<(Token, Outcome)>,
    /// It takes what it is told a little at a time.
    pub is_slow: bool,
    /// It does nothing until then.
    pub asleep_until: Option<Instant>,
    flights: Vec<Flight>,
    heard_at: Instant,
    next_watcher: u64,
    /// What its watches of the past have seen.
    pub seen: Seen,
}

impl Program {
    /// One without watches.
    pub fn new(id: u64, now: Instant, is_slow: bool) -> Program {
        Program {
            id,
            link: None,
            watchers: Vec::new(),
            questions: VecDeque::new(),
            answers: VecDeque::new(),
            is_slow,
            asleep_until: None,
            flights: Vec::new(),
            heard_at: now,
            next_watcher: 0,
            seen: Seen::default(),
        }
    }

    /// Begins a watch.
    pub fn watch(&mut self, around: Around<'_>, subject: Subject, beginning: Beginning, dice: &mut Dice) {
        let (from, judge) = match beginning {
            Beginning::Now => (WatchFrom::Now, Judge::new(subject, None, false, around.bug)),
            Beginning::Snapshot => (WatchFrom::Snapshot, Judge::new(subject, None, true, around.bug)),
            Beginning::After(revision) => {
                let position = Position { revision, epoch: Some(around.truth.epoch()) };
                let from = WatchFrom::After { revision, epoch: position.epoch };
                (from, Judge::new(subject, Some(position), false, around.bug))
            }
            Beginning::Resumed(kept) => {
                let Kept { position: Position { revision, epoch }, judge } = *kept;
                (WatchFrom::After { revision, epoch }, judge)
            }
        };
        let Subject { prefix, only, fitting, detail } = judge.subject.clone();
        let may_resync = from == WatchFrom::Snapshot || dice.below(3) > 0;
        let mut options = match &only {
            Some(key) => WatchOptions::key(key),
            None => WatchOptions::prefix(&prefix),
        };
        options = options.from(from).resync(may_resync).detail(detail);
        if fitting.is_some() {
            options = options.filter(fitting_predicate());
        }
        let mut merge = Merge::new(around.now, &options, dice.below(2) == 0);
        let has_stream = fitting.is_none() && !detail && dice.below(12) > 0;
        if !has_stream {
            merge.never_linked();
        } else if let Some(link) = &mut self.link {
            link.up.push_back(Up::Subscribe(prefix));
            merge.linked(around.now);
        }
        self.next_watcher += 1;
        let id = self.next_watcher;
        self.watchers.push(Watcher { id, merge, judge, position: None, may_resync, has_stream });
    }

    /// Ends a watch; what it leaves for the next run, if it has come so far.
    pub fn leave(&mut self, at: usize, bug: Option<PlantedBug>) -> Option<Kept> {
        let watcher = self.watchers.remove(at);
        self.flights.retain(|flight| flight.watcher != watcher.id);
        if let Some(link) = self.link.as_mut().filter(|_| watcher.has_stream) {
            link.up.push_back(Up::Unsubscribe(watcher.judge.subject.prefix.clone()));
        }
        self.note(&watcher);
        let mut position = watcher.position?;
        if bug == Some(PlantedBug::KeptTooEarly) {
            position.revision = watcher.merge.verified().unwrap_or(position.revision);
        }
        let mut judge = watcher.judge;
        // They were counted.
        (judge.revisions, judge.gone) = (0, 0);
        judge.snapshots.clear();
        Some(Kept { position, judge })
    }

    fn note(&mut self, watcher: &Watcher) {
        let stats = watcher.merge.stats();
        let Judge { revisions, gone, ref snapshots, .. } = watcher.judge;
        let snapshots = snapshots.clone();
        self.seen.add(&Seen { revisions, snapshots, gone, broken: 0, refills: stats.refills, messages: stats.messages });
    }

    /// Ends all watches.
    pub fn end(&mut self) {
        while let Some(watcher) = self.watchers.pop() {
            self.note(&watcher);
        }
    }

    /// A new connection. `quietly`: libzmq makes it by itself, and the program is told nothing.
    pub fn connect(&mut self, now: Instant, id: LinkId, quietly: bool) {
        let mut up = VecDeque::new();
        for watcher in self.watchers.iter_mut().filter(|watcher| watcher.has_stream) {
            up.push_back(Up::Subscribe(watcher.judge.subject.prefix.clone()));
            if !quietly {
                watcher.merge.unlinked(now, "the connection ended");
                watcher.merge.linked(now);
            }
        }
        let mut down = VecDeque::new();
        if let Some(before) = self.link.take().filter(|_| quietly) {
            // What had arrived is in the socket's queue.
            down = before.down;
        }
        if !quietly {
            self.heard_at = now;
        }
        self.link = Some(Link { id, up, down, is_open: true });
    }

    /// The connection for questions has ended; they are asked again on the next one.
    pub fn lose_answers(&mut self) {
        self.questions.clear();
        self.answers.clear();
        self.flights.iter_mut().for_each(|flight| flight.is_sent = false);
    }

    /// The broker is gone: what is not answered is asked again.
    pub fn lose_unanswered(&mut self) {
        let answers = &self.answers;
        let is_answered = |token| answers.iter().any(|(answered, _)| *answered == token);
        self.flights.iter_mut().for_each(|flight| flight.is_sent = is_answered(flight.token));
    }

    /// An epoch's history was set back. Nothing of what was is on its way any more: nobody could tell it from what is.
    pub fn set_back(&mut self, epoch: u64, revision: u64, now: Instant) {
        self.lose_answers();
        if self.link.take().is_some() {
            for watcher in self.watchers.iter_mut().filter(|watcher| watcher.has_stream) {
                watcher.merge.unlinked(now, "the connection ended");
            }
        }
        for at in (0..self.watchers.len()).rev() {
            let watcher = &mut self.watchers[at];
            if watcher.merge.ahead_bytes() > 0 || watcher.merge.stats().lag > 0 {
                self.leave(at, None);
            } else {
                watcher.judge.set_back(epoch, revision);
            }
        }
    }

    /// Ends watches that nobody could tell any more what was undone: as much as that was committed again.
    pub fn leave_blind(&mut self, now: u64) {
        for at in (0..self.watchers.len()).rev() {
            let judge = &self.watchers[at].judge;
            if judge.is_undone() && judge.told().is_some_and(|told| told <= now) {
                self.leave(at, None);
            }
        }
    }

    /// Whether it has asked this.
    pub fn has_asked(&self, token: Token) -> bool {
        self.flights.iter().any(|flight| flight.token == token && flight.is_sent)
    }

    /// Does what there is to do.
    ///
    /// # Errors
    /// A watch was told what is not so.
    pub fn act(
        &mut self,
        around: Around<'_>,
        broker_is_up: bool,
        next_token: &mut Token,
        dice: &mut Dice,
    ) -> Result<(), Violation> {
        let now = around.now;
        if broker_is_up {
            for flight in self.flights.iter_mut().filter(|flight| !flight.is_sent) {
                flight.is_sent = true;
                self.questions.push_back((flight.token, flight.operation.clone()));
            }
        }
        if self.heard_at + SILENCE <= now && self.link.take().is_some() {
            for watcher in self.watchers.iter_mut().filter(|watcher| watcher.has_stream) {
                watcher.merge.unlinked(now, "no heartbeat");
            }
        }
        let late: Vec<Flight> = self.flights.extract_if(.., |flight| flight.deadline <= now).collect();
        for flight in late {
            self.answered(around, &flight, Answered::Unanswered("no answer in time".to_owned()))?;
        }
        for at in 0..self.watchers.len() {
            let watcher = &mut self.watchers[at];
            if watcher.merge.resubscribes(now)
                && let Some(link) = &mut self.link
            {
                link.up.push_back(Up::Unsubscribe(watcher.judge.subject.prefix.clone()));
                link.up.push_back(Up::Subscribe(watcher.judge.subject.prefix.clone()));
            }
            if watcher.merge.wants_to_ask(now)
                && let Some(ask) = watcher.merge.ask(now, dice.below(4) > 0)
            {
                *next_token += 1;
                let (operation, waits) = operation(&watcher.judge.subject, watcher.merge.stats().lag, ask, around.bug, dice);
                let deadline = now + ANSWER + Duration::from_millis(waits);
                self.flights.push(Flight { token: *next_token, watcher: watcher.id, operation, deadline, is_sent: false });
            }
        }
        let most = if self.is_slow { dice.below(4) } else { usize::MAX };
        self.take(around, most)
    }

    /// Takes what the publisher sent.
    pub fn receive(&mut self, around: Around<'_>, down: Down) {
        let (topic, body) = match down {
            Down::Heartbeat => return self.heard_at = around.now,
            Down::Message(topic, body) => (topic, body),
        };
        let Some(prefix) = prefix_of_stream_topic(&topic) else { return };
        for watcher in self.watchers.iter_mut().filter(|watcher| watcher.has_stream && watcher.judge.subject.prefix == prefix) {
            let message = if around.bug == Some(PlantedBug::EpochIgnored) {
                let Ok(Some((_, mut message))) = StreamMessage::decode(&topic, &body) else { continue };
                message.epoch = watcher.judge.epoch().unwrap_or(message.epoch);
                Heard::of(message, body.len())
            } else {
                let Ok(Some(message)) = Heard::read(&topic, &body) else { continue };
                message
            };
            watcher.merge.heard(around.now, message);
        }
    }

    /// Takes an answer.
    ///
    /// # Errors
    /// A watch was told what is not so.
    pub fn hear(&mut self, around: Around<'_>, token: Token, outcome: Outcome) -> Result<(), Violation> {
        let Some(at) = self.flights.iter().position(|flight| flight.token == token) else { return Ok(()) };
        let flight = self.flights.swap_remove(at);
        let answered = spoiled(answered(outcome), &flight.operation, around.bug);
        self.answered(around, &flight, answered)
    }

    fn answered(&mut self, around: Around<'_>, flight: &Flight, mut answered: Answered) -> Result<(), Violation> {
        let Some(watcher) = self.watchers.iter_mut().find(|watcher| watcher.id == flight.watcher) else { return Ok(()) };
        if around.bug == Some(PlantedBug::EpochIgnored)
            && let Answered::Events { epoch, .. } = &mut answered
        {
            *epoch = watcher.judge.epoch().unwrap_or(*epoch);
        }
        watcher.merge.answered(around.now, answered);
        self.take(around, if self.is_slow { 1 } else { usize::MAX })
    }

    /// Takes up to so many events of each watch.
    ///
    /// # Errors
    /// A watch was told what is not so.
    pub fn take(&mut self, around: Around<'_>, most: usize) -> Result<(), Violation> {
        let mut ended = Vec::new();
        for (at, watcher) in self.watchers.iter_mut().enumerate() {
            for _ in 0..most {
                let Some(told) = watcher.merge.take() else { break };
                watcher.judge.take(around.truth, around.known, &told)?;
                watcher.position = told.position;
            }
            match watcher.merge.end() {
                None => {}
                Some(WatchEnd::Broken(broken)) if !watcher.may_resync => {
                    watcher.judge.broken(around.truth, around.known, broken)?;
                    ended.push(at);
                }
                Some(end) => return Err(Violation::Broker(format!("a watch ended: {end:?}"))),
            }
        }
        for at in ended.into_iter().rev() {
            self.leave(at, None);
            self.seen.broken += 1;
        }
        Ok(())
    }

    /// The first watch that has not told everything; all is quiet.
    pub fn behind(&self, truth: &Truth) -> Option<&Watcher> {
        let is_there = |watcher: &&Watcher| {
            let told = watcher.judge.told();
            let nothing_more = |told| watcher.judge.subject.first_of(truth, truth.epoch(), (told, truth.now())).is_none();
            watcher.judge.epoch() == Some(truth.epoch()) && !watcher.judge.is_undone() && told.is_some_and(nothing_more)
        };
        self.watchers.iter().find(|watcher| !is_there(watcher))
    }
}

impl Watcher {
    /// For a report.
    pub fn name(&self) -> String {
        format!("the watch of {:?} ({:?})", self.judge.subject, self.merge)
    }
}

//! A client, a lossy network and a broker that refuses, restarts and forgets, all of it from a seed: nothing is done twice,
//! nothing that was promised is missing, and every call ends.
//!
//! `KVBROKER_TEST_SEED` repeats one walk, `KVBROKER_TEST_STEPS` makes it longer.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use super::broker::Model;
use super::*;

/// xorshift64*: reproducible, and nobody's security hangs on it.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound
    }

    fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

/// What a call asked for, to judge its end by.
#[derive(Clone, Debug)]
enum Wanted {
    Incr { counter: u8, by: i64 },
    Failing,
    Put { key: Vec<u8> },
    Exists { key: Vec<u8>, must: bool },
    Sees { key: Vec<u8> },
}

#[derive(Default)]
struct Tally {
    done: u64,
    unknown: u64,
    timed_out: u64,
    refused: u64,
    renewed: u64,
}

struct Walk {
    dice: Dice,
    model: Model,
    session: Session<u64>,
    now: Instant,
    /// On its way to the broker, and back. Both are lost with the connection, but what the broker has taken in may still run.
    there: VecDeque<Vec<u8>>,
    back: VecDeque<Vec<u8>>,
    /// Taken in from a connection that has ended, and not run yet.
    strays: Vec<Vec<u8>>,
    up: bool,
    opening: bool,
    calls: BTreeMap<u64, (Wanted, Operation, Option<Instant>)>,
    next: u64,
    /// What every counter is at least, and at most.
    certain: HashMap<u8, i128>,
    possible: HashMap<u8, i128>,
    /// The last put that was answered.
    last_put: Option<Vec<u8>>,
    doubtful_puts: Vec<Vec<u8>>,
    answered_puts: Vec<Vec<u8>>,
    certain_not: Vec<Vec<u8>>,
    /// What callers were told the names of, because nobody knew its outcome.
    named: Vec<(RequestId, Operation)>,
    /// The last put that was begun, and those that reads begun after them did not see.
    begun_put: Option<Vec<u8>>,
    unseen: BTreeSet<Vec<u8>>,
    /// Replies get lost one by one, too. Then a read can overtake a mutation: nobody knows yet that it was refused.
    loses_replies: bool,
    tally: Tally,
    calm: bool,
}

impl Walk {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed.wrapping_mul(2).wrapping_add(1));
        let replies_max = [3, 20, usize::MAX][dice.below(3) as usize];
        let model = Model::new([1, 2, 5, 40, 4_096][dice.below(5) as usize], replies_max);
        Walk {
            dice,
            model,
            session: Session::new(),
            now: Instant::now(),
            there: VecDeque::new(),
            back: VecDeque::new(),
            strays: Vec::new(),
            up: false,
            opening: false,
            calls: BTreeMap::new(),
            next: 1,
            certain: HashMap::new(),
            possible: HashMap::new(),
            last_put: None,
            doubtful_puts: Vec::new(),
            answered_puts: Vec::new(),
            certain_not: Vec::new(),
            named: Vec::new(),
            begun_put: None,
            unseen: BTreeSet::new(),
            loses_replies: seed.is_multiple_of(3),
            tally: Tally::default(),
            calm: false,
        }
    }

    fn step(&mut self) {
        match self.dice.below(100) {
            0..30 => self.begin(),
            30..55 => self.serve(),
            55..75 => self.deliver(),
            75..90 => {
                let ms = [0, 1, 1, 3, 20, 150][self.dice.below(6) as usize];
                self.now += Duration::from_millis(ms);
            }
            90 if self.dice.one_in(12) => self.now += Duration::from_secs(self.dice.below(8)),
            91 if self.dice.one_in(4) => self.cut(),
            92 if self.dice.one_in(60) => {
                if let Some((_, session)) = self.session.identity() {
                    self.model.evict(session);
                    self.tally.renewed += 1;
                }
            }
            _ => {}
        }
        self.drive();
    }

    fn begin(&mut self) {
        if self.session.outstanding() > 300 {
            return;
        }
        let token = self.next;
        self.next += 1;
        let (wanted, operation) = match self.dice.below(10) {
            0..5 => {
                let (counter, by) = (self.dice.below(3) as u8, self.dice.below(5) as i64 + 1);
                (Wanted::Incr { counter, by }, Operation::Incr { key: vec![counter], by })
            }
            5 => (Wanted::Failing, Operation::Incr { key: b"failing".to_vec(), by: 1 }),
            6..8 => {
                let key = token.to_string().into_bytes();
                self.begun_put = Some(key.clone());
                (Wanted::Put { key: key.clone() }, put(&token.to_string()))
            }
            8 if self.begun_put.is_some() => {
                let key = self.begun_put.clone().unwrap();
                (Wanted::Sees { key: key.clone() }, Operation::Exists { key })
            }
            _ => {
                // What this client was told is done must be seen, and what it was told is not must not.
                let not = self.certain_not.last().filter(|_| self.dice.one_in(2)).cloned();
                let Some((key, must)) = not.map(|key| (key, false)).or(self.last_put.clone().map(|key| (key, true))) else {
                    return;
                };
                (Wanted::Exists { key: key.clone(), must }, Operation::Exists { key })
            }
        };
        let deadline = [None, Some(60_000), Some(60_000), Some(2_000), Some(40)][self.dice.below(5) as usize];
        let deadline = deadline.map(|ms| self.now + Duration::from_millis(ms));
        self.session.begin(self.now, Asked::new(&operation).unwrap(), deadline, token);
        self.calls.insert(token, (wanted, operation, deadline));
    }

    /// The broker runs a message.
    fn serve(&mut self) {
        let stray = !self.strays.is_empty() && self.dice.one_in(3);
        let body = if stray {
            let index = self.dice.below(self.strays.len() as u64) as usize;
            Some(self.strays.swap_remove(index))
        } else {
            self.there.pop_front()
        };
        let Some(body) = body else { return };
        let (dice, calm) = (&mut self.dice, self.calm);
        let mut trouble = |operation: Option<&Operation>| {
            if calm {
                return None;
            }
            match operation {
                None if dice.one_in(25) => Some(match dice.below(5) {
                    0 => Failure::new(ErrorCode::ShuttingDown, "stopping"),
                    1 => Failure::new(ErrorCode::Limit, "too much"),
                    2 => Failure::new(ErrorCode::UnknownOutcome, "who knows"),
                    _ => Failure::busy("busy", 5),
                }),
                Some(operation) if dice.one_in(60) => Some(match dice.below(4) {
                    0 if *operation != Operation::Noop => Failure::new(ErrorCode::Refused, "not you"),
                    1 if *operation != Operation::Noop => Failure::new(ErrorCode::Internal, "a fault"),
                    _ => Failure::busy("busy", 5),
                }),
                _ => None,
            }
        };
        let reply = self.model.run(&body, &mut trouble);
        if !stray {
            self.back.extend(reply);
        }
    }

    fn deliver(&mut self) {
        if self.loses_replies && self.dice.one_in(300) && !self.calm {
            self.back.pop_front(); // Lost alone: it did not fit into a buffer.
        } else if let Some(body) = self.back.pop_front() {
            self.session.handle_reply(self.now, &body);
        }
    }

    /// The connection ends; the broker may have taken in a part of what was on its way.
    fn cut(&mut self) {
        if self.up && !self.calm {
            self.lose();
            self.session.link_lost(self.now, "cut");
        }
    }

    fn lose(&mut self) {
        self.up = false;
        self.back.clear();
        let taken = self.dice.below(self.there.len() as u64 + 1) as usize;
        self.there.truncate(taken);
        self.strays.extend(self.there.drain(..));
    }

    fn drive(&mut self) {
        loop {
            match self.session.poll(self.now) {
                Action::Wait { until } => {
                    assert!(until.is_none_or(|until| until > self.now), "it waits for the past");
                    break;
                }
                Action::Send { body, .. } => {
                    assert!(self.up);
                    if self.dice.one_in(400) && !self.calm {
                        let id = decode_request(&body).unwrap().header.id.unwrap();
                        self.session.not_sent(id);
                        self.lose();
                        self.session.link_lost(self.now, "not sent");
                    } else {
                        self.there.push_back(body);
                    }
                }
                Action::Drop => self.lose(),
                Action::Open { .. } => {
                    if self.up {
                        self.lose();
                    }
                    self.opening = true;
                }
                Action::Finished { token, result } => self.finished(token, result),
            }
        }
        if self.opening && (self.calm || self.dice.one_in(3)) {
            self.opening = false;
            if self.calm || !self.dice.one_in(4) {
                self.up = true;
                self.session.link_up(self.model.hello());
            } else {
                self.session.link_lost(self.now, "connection refused");
            }
        }
        assert_eq!(self.session.outstanding() + self.session.finished.len(), self.calls.len());
    }

    fn finished(&mut self, token: u64, result: Result<Outcome, GaveUp>) {
        let (wanted, operation, deadline) = self.calls.remove(&token).expect("each call ends once");
        if let Err(GaveUp::Unknown { request, .. }) = &result {
            self.named.push((*request, operation));
        }
        let definite_failure = |tally: &mut Tally| match &result {
            Ok(Outcome { result: Err(failure), .. }) => {
                assert!(failure.code.is_definite(), "{failure:?}");
                tally.refused += 1;
                true
            }
            Err(GaveUp::TimedOut { .. }) => {
                tally.timed_out += 1;
                true
            }
            _ => false,
        };
        match wanted {
            Wanted::Incr { counter, by } => match &result {
                Ok(Outcome { result: Ok(_), .. }) => {
                    self.tally.done += 1;
                    *self.certain.entry(counter).or_default() += i128::from(by);
                    *self.possible.entry(counter).or_default() += i128::from(by);
                }
                Err(GaveUp::Unknown { .. }) => {
                    self.tally.unknown += 1;
                    *self.possible.entry(counter).or_default() += i128::from(by);
                }
                _ => assert!(definite_failure(&mut self.tally), "{result:?}"),
            },
            Wanted::Failing => match &result {
                Err(GaveUp::Unknown { .. }) => self.tally.unknown += 1,
                _ => assert!(definite_failure(&mut self.tally), "{result:?}"),
            },
            Wanted::Put { key } => match &result {
                Ok(Outcome { result: Ok(_), .. }) => {
                    assert_eq!(self.model.done.get(&key), Some(&1), "answered, so it was done, once");
                    self.last_put = Some(key.clone());
                    self.answered_puts.push(key);
                }
                Err(GaveUp::Unknown { .. }) => self.doubtful_puts.push(key),
                _ => {
                    assert!(definite_failure(&mut self.tally), "{result:?}");
                    assert_eq!(self.model.done.get(&key), None, "definite, so it was not done: {result:?}");
                    self.certain_not.push(key);
                }
            },
            Wanted::Sees { key } => {
                if matches!(&result, Ok(Outcome { result: Ok(Answer::Exists(false)), .. })) {
                    self.unseen.insert(key);
                }
            }
            Wanted::Exists { key, must } => match &result {
                Ok(Outcome { result: Ok(Answer::Exists(is)), .. }) => {
                    assert_eq!(*is, must, "{:?}", String::from_utf8_lossy(&key));
                }
                Ok(Outcome { result: Err(failure), .. }) => assert!(failure.code != ErrorCode::OutOfOrder, "{failure:?}"),
                Err(GaveUp::TimedOut { .. }) => {}
                other => panic!("{other:?}"),
            },
        }
        if matches!(result, Err(GaveUp::TimedOut { .. } | GaveUp::Unknown { .. })) && deadline.is_some_and(|at| at > self.now) {
            // Before its deadline only a lost session may end a call.
            assert!(matches!(result, Err(GaveUp::Unknown { .. })), "{result:?} before its time");
        }
    }

    /// Nothing goes wrong any more: every call ends.
    fn settle(&mut self) {
        self.calm = true;
        for round in 0.. {
            self.drive();
            let quiet = self.there.is_empty() && self.back.is_empty() && self.strays.is_empty();
            if self.calls.is_empty() && quiet && self.session.flights.is_empty() {
                break;
            }
            assert!(round < 20_000, "{} calls do not end: {:?}", self.calls.len(), self.session);
            self.serve();
            self.deliver();
            if self.there.is_empty() && self.back.is_empty() {
                self.now += Duration::from_millis(50);
            }
        }
    }

    fn judge(&mut self) {
        for counter in 0..3 {
            let stored = self.model.counters.get(&vec![counter]).copied().unwrap_or_default();
            let certain = self.certain.get(&counter).copied().unwrap_or_default();
            let possible = self.possible.get(&counter).copied().unwrap_or_default();
            assert!((certain..=possible).contains(&stored), "{stored} is not in {certain}..={possible}");
        }
        for key in &self.answered_puts {
            let was_overtaken = self.unseen.contains(key) && !self.loses_replies;
            assert!(!was_overtaken, "a read overtook the put of {:?}", String::from_utf8_lossy(key));
            assert_eq!(self.model.done.get(key), Some(&1), "{:?}", String::from_utf8_lossy(key));
        }
        for key in &self.doubtful_puts {
            assert!(self.model.done.get(key).is_none_or(|times| *times == 1), "{:?}", String::from_utf8_lossy(key));
        }
        for (RequestId { session, seq }, operation) in &self.named {
            let decided = self.model.decided.get(&(*session, *seq));
            let is_its_own = decided.is_none_or(|decided| decided == operation || *decided == Operation::Noop);
            assert!(is_its_own, "{session}:{seq} was told to be the name of {operation:?}, and names {decided:?}");
        }
        for key in &self.certain_not {
            assert_eq!(self.model.done.get(key), None, "{:?}", String::from_utf8_lossy(key));
        }
        if let Some(farewell) = self.session.farewell() {
            assert_eq!(self.model.run(&farewell, &mut |_| None), None);
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn through_every_trouble_each_call_is_done_once_and_ends() {
    let seeds: Vec<u64> = match number("KVBROKER_TEST_SEED") {
        Some(seed) => vec![seed],
        None => {
            let entropy =
                u64::from(std::process::id()) << 20 | u64::from(std::time::UNIX_EPOCH.elapsed().unwrap().subsec_micros());
            (1..=40).chain((0..40).map(|index| entropy + index)).collect()
        }
    };
    let steps = number("KVBROKER_TEST_STEPS").unwrap_or(8_000);
    let mut tally = Tally::default();
    for seed in seeds {
        println!("KVBROKER_TEST_SEED={seed}");
        let mut walk = Walk::new(seed);
        for _ in 0..steps {
            walk.step();
        }
        walk.settle();
        walk.judge();
        let Tally { done, unknown, timed_out, refused, renewed } = walk.tally;
        tally.done += done;
        tally.unknown += unknown;
        tally.timed_out += timed_out;
        tally.refused += refused;
        tally.renewed += renewed;
    }
    let Tally { done, unknown, timed_out, refused, renewed } = tally;
    println!("{done} done, {unknown} unknown, {timed_out} timed out, {refused} refused, {renewed} sessions forgotten");
    assert!(
        [done, unknown, timed_out, refused, renewed].iter().all(|count| *count > 0),
        "a walk that meets no trouble shows nothing"
    );
}

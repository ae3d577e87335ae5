//! What a recorded client asks: random, but so that much of it succeeds and much of it meets other clients.
//!
//! - Most keys are shared by all clients, some of them more than others: increments, replacements and removals cross there.
//! - A few keys belong to the client alone. On these it makes chains: a replacement on the condition of the value before, asked while
//!   that one is still in flight, and removals of the value just put. Each link works only if all before it were done, in order, once.
//! - A few keys are only ever added to, or something is moved from one of them to another: what is there at the end is the sum of all that
//!   was acknowledged ([`sums`]), without any model.
//! - What a client puts nobody else ever puts, so that a value tells where it comes from.

use std::collections::{BTreeMap, HashMap};

use super::history::{Ask, End, Found, Only, Recorded, Told, Transaction};
use crate::Dice;

/// Keys that all use: the first few much more than the others.
const SHARED_KEYS: usize = 2_000;
const HOT_KEYS: usize = 24;
/// Keys of sums, behind the shared ones.
const SUMS: std::ops::Range<u32> = 10_000..10_008;
/// Chains of each client, and how many keys of its own it can use up for them. Those of the first client are behind the shared keys.
const CHAINS: usize = 4;
const OWN_KEYS: u32 = 1 << 20;
const OWN_KEYS_FROM: u32 = 1 << 20;

/// True for a link of a chain, on a key of which its client knows all.
pub fn is_own_key(ask: &Ask) -> bool {
    match ask {
        Ask::Put { key, .. } | Ask::Del { key, .. } | Ask::Incr { key, .. } | Ask::Get { key } => *key >= OWN_KEYS_FROM,
        Ask::Mget { .. } | Ask::Exists { .. } | Ask::Txn(_) | Ask::Size => false,
    }
}

/// What the keys of sums have to hold when all of these were done once.
pub fn sums<'a>(done: impl IntoIterator<Item = &'a Recorded>) -> BTreeMap<u32, i64> {
    let mut sums = BTreeMap::new();
    let mut add = |ask: &Ask| {
        if let Ask::Incr { key, by } = ask
            && SUMS.contains(key)
        {
            *sums.entry(*key).or_default() += by;
        }
    };
    for Recorded { ask, end, .. } in done {
        match (ask, end.as_ref().map(|end| &end.told)) {
            (Ask::Txn(txn), Some(Told::Txn { succeeded, .. })) => txn.list(*succeeded).iter().for_each(&mut add),
            (ask, Some(Told::Sum(_))) => add(ask),
            _ => {}
        }
    }
    sums
}

/// One client's questions.
#[derive(Debug)]
pub struct Plan {
    client: u32,
    dice: Dice,
    /// What the client saw last of shared keys.
    seen: HashMap<u32, Found>,
    chains: [Chain; CHAINS],
}

/// A key of a client's own.
#[derive(Clone, Copy, Debug)]
struct Chain {
    key: u32,
    /// What is there when all that was asked is done.
    value: Option<i64>,
}

impl Plan {
    /// The plan of a client.
    pub fn new(client: u32, dice: Dice) -> Plan {
        let first = OWN_KEYS_FROM + client * OWN_KEYS;
        let chains = std::array::from_fn(|place| Chain { key: first + place as u32, value: None });
        Plan { client, dice, seen: HashMap::new(), chains }
    }

    /// The client's next question; `number` counts them.
    pub fn next(&mut self, number: u32) -> Ask {
        match self.dice.below(8) {
            0 | 1 => self.link(number),
            2 => Ask::Incr { key: self.sum_key(), by: self.dice.below(1_000) as i64 },
            _ => self.any(number, true),
        }
    }

    /// Takes note of a reply, for conditions that have a chance; None: the outcome is unknown.
    pub fn learn(&mut self, ask: &Ask, end: Option<&End>) {
        let Some(End { revision, told, .. }) = end else { return self.give_up(ask) };
        match (ask, told) {
            (Ask::Get { key }, Told::Found(found)) => drop(self.seen.insert(*key, *found)),
            (Ask::Mget { keys }, Told::Many(many)) => {
                let found = keys.iter().zip(many).filter_map(|(key, found)| Some((*key, (*found)?)));
                self.seen.extend(found);
            }
            (Ask::Put { key, value, .. }, Told::Done) | (Ask::Incr { key, .. }, Told::Sum(value)) => {
                self.seen.insert(*key, Found { value: *value, modified: *revision, created: 0 });
            }
            (Ask::Del { key, .. } | Ask::Get { key }, _) => drop(self.seen.remove(key)),
            _ => {}
        }
    }

    /// Nobody knows what is under a key of its own now: that chain is left, and another one begun.
    fn give_up(&mut self, ask: &Ask) {
        let (Ask::Put { key, .. } | Ask::Del { key, .. } | Ask::Incr { key, .. }) = ask else { return };
        for chain in &mut self.chains {
            if chain.key == *key {
                *chain = Chain { key: chain.key + CHAINS as u32, value: None };
            }
        }
    }

    fn value(&self, number: u32) -> i64 {
        (i64::from(self.client) + 1) << 32 | i64::from(number)
    }

    fn sum_key(&mut self) -> u32 {
        SUMS.start + self.dice.below(SUMS.len()) as u32
    }

    fn shared_key(&mut self) -> u32 {
        let keys = if self.dice.below(2) == 0 { HOT_KEYS } else { SHARED_KEYS };
        self.dice.below(keys) as u32
    }

    /// One more link of a chain on a key of its own. It has to succeed whatever happens to the broker.
    fn link(&mut self, number: u32) -> Ask {
        let value = self.value(number);
        let chain = &mut self.chains[self.dice.below(CHAINS)];
        let key = chain.key;
        let (ask, now) = match (chain.value, self.dice.below(5)) {
            (None, 0) => (Ask::Get { key }, None),
            (None, _) => (Ask::Put { key, value, only: Some(Only::Absent) }, Some(value)),
            (Some(before), 0) => (Ask::Del { key, give_back: true, only: Some(Only::Value(before)) }, None),
            (Some(before), 1) => (Ask::Incr { key, by: 1 }, Some(before + 1)),
            (Some(before), _) => (Ask::Put { key, value, only: Some(Only::Value(before)) }, Some(value)),
        };
        chain.value = now;
        ask
    }

    /// Anything on shared keys.
    fn any(&mut self, number: u32, whole: bool) -> Ask {
        let key = self.shared_key();
        let value = self.value(number);
        match self.dice.below(if whole { 20 } else { 9 }) {
            0 | 1 => Ask::Get { key },
            2..=5 => Ask::Incr { key, by: self.dice.below(9) as i64 + 1 },
            6 => Ask::Put { key, value, only: None },
            7 => Ask::Exists { key },
            8 => Ask::Mget { keys: (0..self.dice.below(5) + 1).map(|_| self.shared_key()).collect() },
            9..=11 => Ask::Put { key, value, only: Some(self.condition(key)) },
            12 => Ask::Del { key, give_back: self.dice.below(2) == 0, only: None },
            13 => {
                // The two conditions that a removal can have.
                let found = self.seen.get(&key).copied().unwrap_or(Found { value, modified: 1, created: 1 });
                let only = if self.dice.below(2) == 0 { Only::Value(found.value) } else { Only::Revision(found.modified) };
                Ask::Del { key, give_back: true, only: Some(only) }
            }
            14 if self.dice.below(4) == 0 => Ask::Size,
            14..=16 => self.transaction(number),
            _ => Ask::Get { key },
        }
    }

    /// One that holds unless somebody was faster, or another one.
    fn condition(&mut self, key: u32) -> Only {
        match (self.seen.get(&key), self.dice.below(4)) {
            (_, 0) | (None, 1) => Only::Exists,
            (Some(found), 1) => Only::Revision(found.modified),
            (Some(found), _) => Only::Value(found.value),
            (None, _) => Only::Absent,
        }
    }

    /// A few operations together; some of them move something from one sum to another.
    fn transaction(&mut self, number: u32) -> Ask {
        let compares = (0..self.dice.below(3)).map(|_| {
            let key = self.shared_key();
            (key, self.condition(key))
        });
        let compares = compares.collect();
        let then = if self.dice.below(2) == 0 {
            let by = self.dice.below(100) as i64;
            vec![Ask::Incr { key: self.sum_key(), by: -by }, Ask::Incr { key: self.sum_key(), by }]
        } else {
            (0..self.dice.below(4) + 1).map(|_| self.any(number, false)).collect()
        };
        let otherwise = (0..self.dice.below(3)).map(|_| self.any(number, false)).collect();
        Ask::Txn(Box::new(Transaction { compares, then, otherwise }))
    }
}

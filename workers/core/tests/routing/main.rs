//! Bindings and messages, step by step at random beside a model that has them as plain lists and compares each pattern by itself.
//!
//! - After each publish every queue has what the model says, and those who listen are told what it says.
//! - Every so often the state is made again: from its own records, slice by slice, and from all changes since the beginning.
//!
//! `KVBROKER_ROUTING_STEPS` and `KVBROKER_ROUTING_SEED` choose another walk.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use kvbroker_core::{Change, Loader, Stamp, State, Turn, decide};
use kvbroker_protocol::{
    Answer, Binding, Key, Operation, Outcome, Publish, QueueOperation, RoutingAnswer, RoutingOperation, Scope, Stored, Txn,
};

/// Numbers without a pattern, the same each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).unwrap()
    }

    fn of<T: Copy>(&mut self, several: &[T]) -> T {
        several[self.below(several.len())]
    }

    fn tokens(&mut self, of: &[&str]) -> Key {
        let tokens: Vec<&str> = (0..=self.below(4)).map(|_| self.of(of)).collect();
        tokens.join(".").into_bytes()
    }
}

/// Whether a pattern fits, said another way than in the protocol: token by token, trying all that a `#` may stand for.
fn fits(pattern: &[&[u8]], subject: &[&[u8]]) -> bool {
    match pattern.split_first() {
        None => subject.is_empty(),
        Some((&b"#", rest)) => (0..=subject.len()).any(|taken| fits(rest, &subject[taken..])),
        Some((token, rest)) => {
            subject.split_first().is_some_and(|(first, others)| (*token == b"*" || token == first) && fits(rest, others))
        }
    }
}

fn split(text: &[u8]) -> Vec<&[u8]> {
    text.split(|byte| *byte == b'.').collect()
}

/// A number that values are made of: the predicates here ask whether it is above another one.
#[derive(Default)]
struct Model {
    /// By queue and pattern; the number that a value has to be above.
    bindings: BTreeMap<(Key, Key), Option<u64>>,
    /// What is in each queue: subject and number.
    queues: BTreeMap<Key, Vec<(Key, u64)>>,
    retained: BTreeMap<Key, u64>,
    published: u64,
    unroutable: u64,
}

impl Model {
    fn wanted_by(&self, subject: &[u8], number: u64) -> BTreeSet<Key> {
        let fitting = self
            .bindings
            .iter()
            .filter(|((_, pattern), above)| fits(&split(pattern), &split(subject)) && above.is_none_or(|above| number > above));
        fitting.map(|((queue, _), _)| queue.clone()).collect()
    }

    /// False: it is refused.
    fn operate(&mut self, operation: &RoutingOperation) -> bool {
        match operation {
            RoutingOperation::Bind { queue, pattern, where_ } => {
                let above = where_.as_ref().map(|filter| filter.as_str().strip_prefix("n > ").unwrap().parse().unwrap());
                self.bindings.insert((queue.clone(), pattern.clone()), above);
                self.queues.entry(queue.clone()).or_default();
                true
            }
            RoutingOperation::Unbind { queue, pattern } => self.bindings.remove(&(queue.clone(), pattern.clone())).is_some(),
            RoutingOperation::Publish(publish) => {
                let number = number_of(&publish.value);
                let queues = self.wanted_by(&publish.subject, number);
                if queues.is_empty() && publish.must_route {
                    return false;
                }
                self.published += 1;
                self.unroutable += u64::from(queues.is_empty());
                for queue in queues {
                    self.queues.get_mut(&queue).unwrap().push((publish.subject.clone(), number));
                }
                if publish.retain {
                    self.retained.insert(publish.subject.clone(), number);
                }
                true
            }
            RoutingOperation::Bindings { .. } => true,
        }
    }
}

fn value_of(number: u64) -> Stored {
    Stored::from_json(format!("{{\"n\":{number}}}").as_bytes()).unwrap()
}

fn number_of(value: &Stored) -> u64 {
    let text = std::str::from_utf8(value.document()).unwrap();
    text.trim_start_matches("{\"n\":").trim_end_matches('}').parse().unwrap()
}

struct Walk {
    dice: Dice,
    state: State,
    model: Model,
    changes: Vec<(u64, Change)>,
    routed: u64,
}

impl Walk {
    fn operation(&mut self) -> RoutingOperation {
        let queue = self.dice.of(&[&b"q1"[..], b"q2", b"q3", b"q4"]).to_vec();
        let pattern = self.dice.tokens(&["a", "b", "*", "#"]);
        match self.dice.below(10) {
            0 | 1 => {
                let above = self.dice.below(10);
                let where_ =
                    (self.dice.below(2) == 0).then(|| kvbroker_protocol::Predicate::new(&format!("n > {above}")).unwrap());
                RoutingOperation::Bind { queue, pattern, where_ }
            }
            2 | 3 => {
                let known = self.model.bindings.keys().nth(self.dice.below(self.model.bindings.len() + 1)).cloned();
                let (queue, pattern) = known.unwrap_or((queue, pattern));
                RoutingOperation::Unbind { queue, pattern }
            }
            _ => RoutingOperation::Publish(Publish {
                subject: self.dice.tokens(&["a", "b", "c"]),
                value: value_of(self.dice.below(12) as u64),
                priority: 0,
                ttl_ms: None,
                content_type: None,
                retain: self.dice.below(5) == 0,
                must_route: self.dice.below(5) == 0,
            }),
        }
    }

    fn decide(&mut self, operation: Operation) -> (Outcome, Vec<(Key, u64)>) {
        let stamp = Stamp { revision: self.state.revision() + 1, time_ms: 1_000 };
        let decision = decide(&self.state, &Scope::all(), operation, stamp, &mut Turn::one());
        for change in decision.changes {
            self.changes.push((stamp.revision, change.clone()));
            self.state.apply(change, stamp.revision);
        }
        let messages = decision.messages.into_iter().map(|message| (message.subject, number_of(&message.value)));
        (decision.outcome, messages.collect())
    }

    fn note(&mut self, operation: &RoutingOperation, answer: &Answer) {
        if let (RoutingOperation::Publish(publish), Answer::Routing(RoutingAnswer::Published { routed, copies })) =
            (operation, answer)
        {
            let wanted = self.model.wanted_by(&publish.subject, number_of(&publish.value));
            let told: BTreeSet<Key> = copies.iter().map(|copy| copy.queue.clone()).collect();
            assert_eq!((told, *routed), (wanted.clone(), wanted.len() as u64));
            self.routed += routed;
        }
    }

    fn one(&mut self) {
        let operation = self.operation();
        let (outcome, messages) = self.decide(Operation::Routing(Box::new(operation.clone())));
        if let Ok(answer) = &outcome.result {
            self.note(&operation, answer);
        }
        assert_eq!(outcome.result.is_ok(), self.model.operate(&operation), "{operation:?}: {outcome:?}");
        let told = match &operation {
            RoutingOperation::Publish(publish) if outcome.result.is_ok() => {
                vec![(publish.subject.clone(), number_of(&publish.value))]
            }
            _ => vec![],
        };
        assert_eq!(messages, told);
    }

    /// Several in a transaction: each sees those before it, and if one fails none is done.
    fn txn(&mut self) {
        let operations: Vec<RoutingOperation> = (0..2 + self.dice.below(4)).map(|_| self.operation()).collect();
        let then = operations.iter().map(|operation| Operation::Routing(Box::new(operation.clone()))).collect();
        let before = self.state.clone();
        let (outcome, messages) = self.decide(Operation::Txn(Box::new(Txn { compares: vec![], then, otherwise: vec![] })));
        let Ok(Answer::Txn { results, .. }) = &outcome.result else {
            assert_eq!(self.state, before);
            assert!(messages.is_empty());
            let mut tried =
                Model { bindings: self.model.bindings.clone(), queues: self.model.queues.clone(), ..Model::default() };
            assert!(!operations.iter().all(|operation| tried.operate(operation)), "{operations:?}: {outcome:?}");
            return;
        };
        let mut told = Vec::new();
        for (operation, result) in operations.iter().zip(results) {
            self.note(operation, result.result.as_ref().unwrap());
            assert!(self.model.operate(operation), "{operation:?}");
            if let RoutingOperation::Publish(publish) = operation {
                told.push((publish.subject.clone(), number_of(&publish.value)));
            }
        }
        assert_eq!(messages, told);
    }

    /// A queue is emptied and dropped: its bindings go with it.
    fn drop_queue(&mut self) {
        let Some(queue) = self.model.queues.keys().nth(self.dice.below(5)).cloned() else { return };
        let purge = QueueOperation::Purge { queue: queue.clone(), state: None, limit: None };
        let mut more = true;
        while more {
            let (outcome, _) = self.decide(Operation::Queue(Box::new(purge.clone())));
            more = matches!(outcome.result, Ok(Answer::Deleted { more: true, .. }));
            assert!(outcome.result.is_ok(), "{outcome:?}");
        }
        let (outcome, _) = self.decide(Operation::Queue(Box::new(QueueOperation::Drop { queue: queue.clone() })));
        assert!(outcome.result.is_ok(), "{outcome:?}");
        self.model.queues.remove(&queue);
        self.model.bindings.retain(|(bound, _), _| *bound != queue);
    }

    fn check(&mut self) {
        let (mut bindings, mut cursor) = (Vec::new(), None);
        loop {
            let limit = Some(1 + self.dice.below(5));
            let page = RoutingOperation::Bindings { queue: None, cursor, limit };
            let (outcome, _) = self.decide(Operation::Routing(Box::new(page)));
            let Ok(Answer::Routing(RoutingAnswer::Bindings { bindings: found, cursor: next })) = outcome.result else {
                panic!("{outcome:?}")
            };
            bindings.extend(found);
            cursor = next;
            if cursor.is_none() {
                break;
            }
        }
        let expected: Vec<Binding> = self
            .model
            .bindings
            .iter()
            .map(|((queue, pattern), above)| Binding {
                queue: queue.clone(),
                pattern: pattern.clone(),
                where_: above.map(|above| format!("n > {above}")),
            })
            .collect();
        assert_eq!(bindings, expected);
        assert_eq!((self.state.bindings(), self.state.queues()), (self.model.bindings.len(), self.model.queues.len()));
        assert_eq!(self.state.messages(), (self.model.published, self.model.unroutable));
        assert_eq!(self.state.keys(), self.model.retained.len());
        for (subject, number) in self.model.retained.clone() {
            let (outcome, _) = self.decide(Operation::Get { key: kvbroker_protocol::retained_key(&subject) });
            assert!(matches!(outcome.result, Ok(Answer::Value { value, .. }) if number_of(&value) == number));
        }
        for (queue, expected) in &self.model.queues {
            let peek = QueueOperation::Peek {
                queue: queue.clone(),
                state: kvbroker_protocol::ItemState::Ready,
                limit: None,
                cursor: None,
            };
            let stamp = Stamp { revision: self.state.revision() + 1, time_ms: 1_000 };
            let operation = Operation::Queue(Box::new(peek));
            let outcome = decide(&self.state, &Scope::all(), operation, stamp, &mut Turn::one()).outcome;
            let Ok(Answer::Queue(kvbroker_protocol::QueueAnswer::Peeked { items, .. })) = outcome.result else { panic!() };
            let found: Vec<(Key, u64)> = items.into_iter().map(|item| (item.subject.unwrap(), number_of(&item.value))).collect();
            assert_eq!(found, expected[..expected.len().min(1_000)]);
        }
    }

    fn make_again(&self) {
        let mut replayed = State::new();
        for (revision, change) in &self.changes {
            replayed.apply(change.clone(), *revision);
        }
        assert_eq!(replayed, self.state);
        let (mut loader, mut after): (Loader, Option<Vec<u8>>) = (Loader::new(), None);
        loop {
            let slice = self.state.records_after(after.as_deref(), 700);
            for record in &slice.records {
                loader.record(&record.key, &record.value, record.revision).unwrap();
            }
            if slice.is_end {
                break;
            }
            after = slice.records.last().map(|record| record.key.clone());
        }
        assert_eq!(loader.finish(self.state.revision()).unwrap(), self.state);
    }
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().map_or(default, |text| text.parse().unwrap())
}

#[test]
fn routing_does_what_the_model_does() {
    let steps = number("KVBROKER_ROUTING_STEPS", 60_000);
    let seed = number("KVBROKER_ROUTING_SEED", 0x9e37_79b9_7f4a_7c15);
    let mut walk = Walk { dice: Dice(seed), state: State::new(), model: Model::default(), changes: Vec::new(), routed: 0 };
    for step in 0..steps {
        match walk.dice.below(100) {
            0 => walk.drop_queue(),
            1..15 => walk.txn(),
            _ => walk.one(),
        }
        if step % 500 == 0 {
            walk.check();
        }
        if step % 20_000 == 0 {
            walk.make_again();
        }
    }
    walk.check();
    walk.make_again();
    assert!(walk.routed > steps / 4 && walk.model.unroutable > 0, "{} copies of {} messages", walk.routed, walk.model.published);
}

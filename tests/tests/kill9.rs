//! `kill -9` in the middle of writing, again and again on the same data: nothing that was acknowledged may be missing.
//!
//! - Four writers with sockets of their own: JSON and compact MessagePack, one at a time, pipelined and in arrays. Each has its own keys.
//! - A writer knows what each of its operations must do, in order. After the restart its keys must be what they are after *some* number of its
//!   operations, not fewer than were acknowledged: so nothing acknowledged is lost, nothing is applied out of order, half or twice.
//! - A revision that was acknowledged is never given out again, and the restarted broker's is not lower.
//! - These writers don't number what they ask, so the outcome of what was under way is unknown to them; those that do are in `exactly_once.rs`.
//! - The process dies, the machine does not: what the system has in memory survives. That is what this can show; the crash sweep of the
//!   log on a simulated disk shows the rest.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kvbroker_tests::{Broker, Dice, PATIENCE, RawClient, json, pack, unpack, wait_until};
use serde_json::{Value, json};

const ROUNDS: usize = 20;
/// In so many of them something must have been in flight, or the test has shown little.
const ROUNDS_IN_FLIGHT_MIN: usize = 15;
/// A round ends after a random number of acknowledgements below this.
const ACKNOWLEDGED_MAX: usize = 1_500;
const KEYS: usize = 40;

/// How a writer sends.
#[derive(Clone, Copy, Debug)]
struct Manner {
    compact: bool,
    req: bool,
    /// Messages in flight.
    depth: usize,
    /// Operations of one message; 1 is sent without an array.
    operations: usize,
}

const WRITERS: [Manner; 4] = [
    Manner { compact: false, req: true, depth: 1, operations: 1 },
    Manner { compact: false, req: false, depth: 16, operations: 1 },
    Manner { compact: true, req: false, depth: 64, operations: 1 },
    Manner { compact: true, req: false, depth: 4, operations: 50 },
];

/// What is under a key: the value's number and the revision of the change, where it is known.
type Model = BTreeMap<String, (u64, Option<u64>)>;

#[derive(Clone, Debug)]
struct Operation {
    key: String,
    /// None: a removal.
    number: Option<u64>,
}

impl Operation {
    /// The effect on the model; true if the operation must succeed.
    fn apply(&self, model: &mut Model, revision: Option<u64>) -> bool {
        match self.number {
            Some(number) => {
                model.insert(self.key.clone(), (number, revision));
                true
            }
            None => model.remove(&self.key).is_some(),
        }
    }

    fn request(&self, compact: bool) -> Value {
        let value = self.number.map(|number| json!({"n": number, "pad": "x".repeat(number as usize % 200)}));
        match (value, compact) {
            (Some(value), true) => json!(["put", self.key, value]),
            (None, true) => json!(["del", self.key]),
            (Some(value), false) => json!({"op": "put", "key": self.key, "value": value}),
            (None, false) => json!({"op": "del", "key": self.key}),
        }
    }
}

/// A writer's life over all rounds.
struct Writer {
    name: String,
    manner: Manner,
    dice: Dice,
    last_number: u64,
    /// All acknowledged operations applied.
    acknowledged: Model,
    /// Sent and not acknowledged, in order.
    in_flight: VecDeque<Vec<Operation>>,
}

/// What the writers share.
#[derive(Default)]
struct Shared {
    /// The broker was killed in this round.
    killed: AtomicBool,
    /// Writers that have had a reply in this round: a connection that never was does not tell its end.
    served: AtomicUsize,
    /// Successful writes of all rounds.
    acknowledged: AtomicU64,
    /// Their revisions.
    revisions: Mutex<HashSet<u64>>,
}

impl Writer {
    fn next_message(&mut self) -> Vec<Operation> {
        (0..self.manner.operations)
            .map(|_| {
                self.last_number += 1;
                let key = format!("{}/{}", self.name, self.dice.below(KEYS));
                let removal = self.dice.below(5) == 0;
                Operation { key, number: (!removal).then_some(self.last_number) }
            })
            .collect()
    }

    fn send(&mut self, client: &RawClient) {
        let operations = self.next_message();
        let compact = self.manner.compact;
        let mut requests: Vec<Value> = operations.iter().map(|operation| operation.request(compact)).collect();
        let body = if self.manner.operations == 1 { requests.remove(0) } else { Value::Array(requests) };
        let body =
            if compact { pack(&json!([1, null, null, null, null, null, null, body])) } else { body.to_string().into_bytes() };
        client.send(&[body]);
        self.in_flight.push_back(operations);
    }

    /// Notes a reply: it belongs to the oldest message in flight, and says what the model says.
    fn take_reply(&mut self, body: &[u8], shared: &Shared) {
        let operations = self.in_flight.pop_front().expect("a reply to something");
        // Both encodings as (succeeded, code, revision).
        let results: Vec<(bool, String, u64)> = if self.manner.compact {
            let reply = unpack(body);
            let results = if self.manner.operations == 1 { vec![reply[3].clone()] } else { reply[3].as_array().unwrap().clone() };
            let read =
                |result: &Value| (result[0] == 0, result[2].as_str().unwrap_or_default().to_owned(), result[1].as_u64().unwrap());
            results.iter().map(read).collect()
        } else {
            let reply = json(body);
            let code = reply["error"]["code"].as_str().unwrap_or_default().to_owned();
            vec![(reply["status"] == "ok", code, reply["rev"].as_u64().unwrap_or_else(|| panic!("{reply}")))]
        };
        assert_eq!(results.len(), operations.len());
        for (operation, (succeeded, code, revision)) in operations.iter().zip(results) {
            let must_succeed = operation.apply(&mut self.acknowledged, Some(revision));
            assert_eq!(succeeded, must_succeed, "{operation:?} was answered {code:?}");
            if succeeded {
                assert!(shared.revisions.lock().unwrap().insert(revision), "revision {revision} was given out twice");
                shared.acknowledged.fetch_add(1, Ordering::Relaxed);
            } else {
                assert_eq!(code, "not_found", "{operation:?}");
            }
        }
    }

    /// Writes until the broker is gone and its last reply is read.
    fn write(&mut self, broker_socket: &std::path::Path, shared: &Shared) {
        let client = if self.manner.req { RawClient::req(broker_socket) } else { RawClient::dealer(broker_socket) };
        let monitor = client.watch_for_the_end();
        let mut served = false;
        while !shared.killed.load(Ordering::Acquire) {
            while self.in_flight.len() < self.manner.depth {
                self.send(&client);
            }
            if let Some(frames) = client.try_receive(Duration::from_millis(5)) {
                self.take_reply(&frames[0], shared);
                if !std::mem::replace(&mut served, true) {
                    shared.served.fetch_add(1, Ordering::Release);
                }
            }
        }
        // What the broker had sent is in the kernel; the connection's end comes behind it.
        let gone = monitor.poll(zmq::POLLIN, i64::try_from(PATIENCE.as_millis()).unwrap()).unwrap();
        assert_eq!(gone, 1, "the connection to a killed broker ends");
        while let Some(frames) = client.try_receive(Duration::ZERO) {
            self.take_reply(&frames[0], shared);
        }
    }

    /// Finds how many of the operations in flight were done, and believes it from now on.
    fn judge(&mut self, client: &RawClient, round: usize) -> (usize, usize) {
        let found = self.read_all(client);
        let in_flight: Vec<Operation> = self.in_flight.drain(..).flatten().collect();
        let mut model = self.acknowledged.clone();
        let mut done = 0;
        // A model's unknown revision fits every one that was found.
        let fits = |model: &Model| {
            let same = |(key, (number, revision)): (&String, &(u64, Option<u64>))| {
                found.get(key).is_some_and(|found| found.0 == *number && revision.is_none_or(|revision| revision == found.1))
            };
            model.len() == found.len() && model.iter().all(same)
        };
        while !fits(&model) {
            let Some(operation) = in_flight.get(done) else {
                panic!(
                    "round {round}, writer {}: what is there is what no number of operations leads to.\nacknowledged: {:?}\nin flight: {in_flight:?}\nfound: {found:?}",
                    self.name, self.acknowledged
                );
            };
            operation.apply(&mut model, None);
            done += 1;
        }
        self.acknowledged = found.into_iter().map(|(key, (number, revision))| (key, (number, Some(revision)))).collect();
        (in_flight.len(), done)
    }

    fn read_all(&self, client: &RawClient) -> BTreeMap<String, (u64, u64)> {
        let reply = client.ask_json(&json!({"op": "scan", "prefix": format!("{}/", self.name)}));
        assert_eq!((&reply["status"], &reply["cursor"]), (&json!("ok"), &Value::Null));
        let row = |row: &Value| {
            let number = row[1]["n"].as_u64().unwrap();
            assert_eq!(row[1]["pad"].as_str().unwrap().len(), number as usize % 200, "a value is whole");
            (row[0].as_str().unwrap().to_owned(), (number, row[2].as_u64().unwrap()))
        };
        reply["rows"].as_array().unwrap().iter().map(row).collect()
    }
}

#[test]
fn nothing_acknowledged_is_lost_in_twenty_kills() {
    let mut dice = Dice::of_this_run("kill9");
    let mut broker = Broker::plain();
    let mut writers: Vec<Writer> = WRITERS
        .iter()
        .enumerate()
        .map(|(number, &manner)| Writer {
            name: format!("w{number}"),
            manner,
            dice: Dice::new(dice.number()),
            last_number: 0,
            acknowledged: Model::new(),
            in_flight: VecDeque::new(),
        })
        .collect();
    let shared = Shared::default();
    let (mut rounds_in_flight, mut lost, mut survived, mut cuts, mut highest) = (0, 0, 0, 0, 0);
    for number in 0..ROUNDS {
        shared.killed.store(false, Ordering::Release);
        shared.served.store(0, Ordering::Release);
        let before = shared.acknowledged.load(Ordering::Relaxed);
        let enough = before + dice.below(ACKNOWLEDGED_MAX) as u64;
        let spin = Duration::from_micros(dice.below(3_000) as u64);
        let socket = broker.router_socket();
        std::thread::scope(|scope| {
            for writer in &mut writers {
                let (socket, shared) = (&socket, &shared);
                scope.spawn(move || writer.write(socket, shared));
            }
            wait_until(PATIENCE, "enough is acknowledged", || {
                let all_served = shared.served.load(Ordering::Acquire) == WRITERS.len();
                (all_served && shared.acknowledged.load(Ordering::Relaxed) >= enough).then_some(())
            });
            let moment = Instant::now() + spin;
            while Instant::now() < moment {
                std::hint::spin_loop();
            }
            broker.kill9();
            shared.killed.store(true, Ordering::Release);
        });
        highest = shared.revisions.lock().unwrap().iter().copied().max().unwrap_or(0).max(highest);
        broker.restart();
        cuts += usize::from(broker.stdout().contains("torn tail"));
        let client = broker.dealer();
        let revision = client.ask_json(&json!({"op": "ping"}))["rev"].as_u64().unwrap();
        assert!(revision >= highest, "round {number}: the revision went back from {highest} to {revision}");
        let mut any_in_flight = false;
        for writer in &mut writers {
            let (in_flight, done) = writer.judge(&client, number);
            any_in_flight |= in_flight > 0;
            survived += done;
            lost += in_flight - done;
        }
        rounds_in_flight += usize::from(any_in_flight);
        highest = highest.max(revision);
    }
    let acknowledged = shared.acknowledged.load(Ordering::Relaxed);
    println!(
        "{ROUNDS} kills, in {rounds_in_flight} of them with operations in flight: {acknowledged} acknowledged writes, all there; \
         of those in flight {survived} were done and {lost} not; {cuts} torn tails were cut"
    );
    assert!(rounds_in_flight >= ROUNDS_IN_FLIGHT_MIN, "only in {rounds_in_flight} rounds anything was in flight");
    assert!(acknowledged > 0);
    broker.stop();
}

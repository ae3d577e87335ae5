//! Writers that keep a tree of nested prefixes changing.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use kvbroker::catalog::CatalogList;
use kvbroker::client::{Client, ConnectOptions, Ticket};
use kvbroker::paths::Dirs;
use kvbroker_protocol::{Answer, Operation, Stored, Txn, limits};

use super::truth::{Change, Kind, Told, Truth, digest};
use crate::{Broker, Dice};

/// What writers do.
#[derive(Clone, Debug)]
pub struct WriterOptions {
    /// All of their keys are below this.
    pub root: String,
    /// Each prefix has so many below it,
    pub fanout: usize,
    /// for so many levels.
    pub levels: usize,
    /// So many threads write.
    pub threads: usize,
    /// Most operations in flight, of each.
    pub depth: usize,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// They also do what only the log knows the effects of: keys whose time ends, and all keys of a prefix removed at once.
    pub with_unknown: bool,
}

impl Default for WriterOptions {
    fn default() -> Self {
        WriterOptions { root: "w/".to_owned(), fanout: 3, levels: 3, threads: 2, depth: 32, value_bytes: 20, with_unknown: true }
    }
}

/// The time of a call, which is longer than all restarts of a test together.
const TIMEOUT: Duration = Duration::from_secs(120);

/// A client of a broker that outlives its restarts.
///
/// # Panics
/// If there is none.
pub fn connect(broker: &Broker) -> Client {
    let dirs = Dirs::under(broker.home().path()).expect("a home has a path");
    let options = ConnectOptions::new().dirs(dirs).catalogs(CatalogList::none());
    Client::connect_with("test", options.timeout(TIMEOUT).wait_for_broker(true)).expect("the broker is there, or comes")
}

/// The prefixes of a tree, each before those below it.
pub fn prefixes(root: &str, fanout: usize, levels: usize) -> Vec<String> {
    let mut all = vec![root.to_owned()];
    let mut level = all.clone();
    for _ in 0..levels {
        level = level.iter().flat_map(|prefix| (0..fanout).map(move |number| format!("{prefix}{number}/"))).collect();
        all.extend_from_slice(&level);
    }
    all
}

/// Running writers.
pub struct Writers {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Vec<Told>>>,
}

impl Writers {
    /// Starts them; each thread has a client of its own.
    ///
    /// # Panics
    /// The threads panic if anything that they ask for fails, which is told by [`Writers::stop`].
    pub fn start(options: &WriterOptions, dice: &mut Dice, connect: impl Fn() -> Client) -> Writers {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let threads = (0..options.threads).map(|number| {
            let writer = Writer {
                nodes: prefixes(&options.root, options.fanout, options.levels),
                options: options.clone(),
                number,
                dice: Dice::new(dice.number()),
                there: BTreeSet::new(),
                written: 0,
                under_way: VecDeque::new(),
                told: Vec::new(),
            };
            let (client, stop, done) = (connect(), stop.clone(), done.clone());
            std::thread::spawn(move || writer.run(&client, &stop, &done))
        });
        let threads = threads.collect();
        Writers { stop, done, threads }
    }

    /// Operations that were acknowledged so far.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Ends them when everything is acknowledged, and gives what they were told: all that was committed, unless they did what only the log
    /// knows.
    ///
    /// # Panics
    /// If a writer has.
    pub fn stop(mut self) -> Truth {
        self.stop.store(true, Ordering::Relaxed);
        let threads = std::mem::take(&mut self.threads);
        let told = threads.into_iter().flat_map(|thread| thread.join().expect("writers get everything done"));
        told.collect()
    }

    /// Puts the key that ends a watch below each of these prefixes, as few revisions as possible. Gives what it has done.
    ///
    /// # Panics
    /// If that fails.
    pub fn end<P: AsRef<str>>(client: &Client, prefixes: &[P]) -> Vec<Told> {
        let ends = prefixes.chunks(limits::TXN_OPERATIONS_MAX).map(|prefixes| {
            let keys = prefixes.iter().map(|prefix| Writers::end_key(prefix.as_ref()));
            let changes: Vec<Change> = keys.map(|key| Change { key, kind: Kind::Put(digest("end")) }).collect();
            let then = changes.iter().map(|change| put(&change.key, "end", None)).collect();
            let done = client.txn(Txn { compares: Vec::new(), then, otherwise: Vec::new() }).expect("it is only a put");
            (done.revision, changes)
        });
        ends.collect()
    }

    /// The key that ends a watch of a prefix.
    pub fn end_key(prefix: &str) -> String {
        format!("{prefix}~end")
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

struct Writer {
    options: WriterOptions,
    nodes: Vec<String>,
    number: usize,
    dice: Dice,
    /// Keys of this writer's that are there when all is done that it has asked for.
    there: BTreeSet<String>,
    written: u64,
    under_way: VecDeque<(Ticket, Vec<Change>)>,
    told: Vec<Told>,
}

fn put(key: &str, value: &str, ttl_ms: Option<u64>) -> Operation {
    let value = Stored::text(value).expect("a short text is a value");
    Operation::Put { key: key.as_bytes().to_vec(), value, condition: None, ttl_ms }
}

impl Writer {
    fn run(mut self, client: &Client, stop: &AtomicBool, done: &AtomicU64) -> Vec<Told> {
        let mut pipeline = client.pipeline();
        let (mut depth, mut spell) = (1, 0);
        while !stop.load(Ordering::Relaxed) {
            if spell == 0 {
                // As often few as many.
                depth = 1 << self.dice.below(self.options.depth.max(1).ilog2() as usize + 1);
                spell = 1 + self.dice.below(4 * depth);
            }
            spell -= 1;
            while self.under_way.len() >= depth {
                self.take_reply();
                done.fetch_add(1, Ordering::Relaxed);
            }
            let (operation, changes) = self.next();
            self.under_way.push_back((pipeline.submit(operation), changes));
        }
        while !self.under_way.is_empty() {
            self.take_reply();
            done.fetch_add(1, Ordering::Relaxed);
        }
        self.told
    }

    fn take_reply(&mut self) {
        let Some((ticket, changes)) = self.under_way.pop_front() else { return };
        let (answer, revision) = ticket.wait().unwrap_or_else(|error| panic!("{changes:?}: {error}"));
        assert!(!matches!(answer, Answer::Txn { succeeded: false, .. }), "it compares nothing");
        if !changes.is_empty() {
            self.told.push((revision, changes));
        }
    }

    fn node(&mut self) -> String {
        // Leaves are most of the tree; what is above them shall change as well.
        let end = if self.dice.below(3) == 0 { 1 + self.options.fanout } else { self.nodes.len() };
        let place = self.dice.below(end.min(self.nodes.len()));
        self.nodes[place].clone()
    }

    /// A change of one of this writer's own keys.
    fn change(&mut self) -> (Operation, Change) {
        let key = format!("{}k{}.{}", self.node(), self.dice.below(4), self.number);
        if self.dice.below(4) == 0 && self.there.remove(&key) {
            let operation = Operation::Del { key: key.clone().into_bytes(), return_old: false, condition: None };
            return (operation, Change { key, kind: Kind::Remove });
        }
        self.there.insert(key.clone());
        let value = self.value();
        (put(&key, &value, None), Change { key, kind: Kind::Put(digest(&value)) })
    }

    fn value(&mut self) -> String {
        self.written += 1;
        let mut value = format!("{}.{} ", self.number, self.written);
        while value.len() < self.options.value_bytes {
            value.push_str("value ");
        }
        value
    }

    fn next(&mut self) -> (Operation, Vec<Change>) {
        match self.dice.below(20) {
            0 if self.options.with_unknown => {
                let prefix = format!("{}d{}/", self.node(), self.number);
                (Operation::DelPrefix { prefix: prefix.into_bytes(), limit: None }, Vec::new())
            }
            1..=2 if self.options.with_unknown => {
                let key = format!("{}d{}/{}", self.node(), self.number, self.dice.below(4));
                let value = self.value();
                (put(&key, &value, None), Vec::new())
            }
            3..=4 if self.options.with_unknown => {
                let key = format!("{}t{}.{}", self.node(), self.dice.below(4), self.number);
                let value = self.value();
                let ttl_ms = 1 + self.dice.below(600) as u64;
                (put(&key, &value, Some(ttl_ms)), Vec::new())
            }
            // Several prefixes at one revision.
            5..=10 => {
                let mut changes: Vec<Change> = Vec::new();
                let mut then = Vec::new();
                for _ in 0..2 + self.dice.below(5) {
                    let there = self.there.clone();
                    let (operation, change) = self.change();
                    if changes.iter().any(|other| other.key == change.key) {
                        self.there = there;
                    } else {
                        changes.push(change);
                        then.push(operation);
                    }
                }
                (Operation::Txn(Box::new(Txn { compares: Vec::new(), then, otherwise: Vec::new() })), changes)
            }
            _ => {
                let (operation, change) = self.change();
                (operation, vec![change])
            }
        }
    }
}

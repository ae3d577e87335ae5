//! The publisher gets hardly any time, and the queue before it overflows: every chain breaks there, and watches are told everything.
//!
//! The publisher's thread is put on a processor that others keep busy, at the lowest priority: any user may do that to their own
//! processes. The test fails if the broker dropped nothing.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kvbroker_protocol::{Operation, Stored};
use kvbroker_tests::watching::{Change, From, Kind, Start, Truth, Watcher, WatcherTask, Writers, check, connect, digest};
use kvbroker_tests::{Broker, PATIENCE};
use rustix::process::{Pid, setpriority_process};
use rustix::thread::{CpuSet, sched_setaffinity};

/// A thread of a process by its name.
fn thread_of(pid: u32, name: &str) -> Pid {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(Result::unwrap);
    let named = |thread: &fs::DirEntry| fs::read_to_string(thread.path().join("comm")).unwrap().trim() == name;
    let mut found: Vec<_> = threads.filter(named).collect();
    assert_eq!(found.len(), 1, "threads called {name}");
    Pid::from_raw(found.remove(0).file_name().to_str().unwrap().parse().unwrap()).unwrap()
}

/// Threads that keep a processor busy until dropped.
struct Hogs {
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Hogs {
    fn on(cpu: &CpuSet) -> Hogs {
        let stop = Arc::new(AtomicBool::new(false));
        let hog = |cpu: CpuSet| {
            let stop = stop.clone();
            std::thread::spawn(move || {
                sched_setaffinity(None, &cpu).unwrap();
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })
        };
        let threads = (0..2).map(|_| hog(*cpu)).collect();
        Hogs { stop, threads }
    }
}

impl Drop for Hogs {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|hog| drop(hog.join()));
    }
}

#[test]
fn what_the_publishers_queue_has_no_room_for_is_told_all_the_same() {
    const VALUE_BYTES: usize = 64 << 10;
    /// Several times what the queue holds.
    const VALUES_MAX: u64 = (400 << 20) / VALUE_BYTES as u64;
    let mut broker = Broker::plain();
    let client = connect(&broker);
    let before = client.ping().unwrap();
    let prefixes = ["x/", "x/y/", "", "quiet/"];
    let watches = prefixes.iter().map(|prefix| ((*prefix).to_owned(), From::Now)).collect();
    let task = WatcherTask { target: "test".to_owned(), watches, is_hub: true, resync: false, heard: Default::default() };
    let mut watcher = Watcher::start(broker.home(), "hub", task);
    watcher.wait_begun(PATIENCE);
    let after = client.ping().unwrap();

    let publisher = thread_of(broker.pid(), "publisher");
    let everywhere = rustix::thread::sched_getaffinity(Some(publisher)).unwrap();
    let mut one = CpuSet::new();
    one.set((0..CpuSet::MAX_CPU).find(|cpu| everywhere.is_set(*cpu)).unwrap());
    sched_setaffinity(Some(publisher), &one).unwrap();
    setpriority_process(Some(publisher), 19).unwrap();
    let hogs = Hogs::on(&one);

    let mut pipeline = client.pipeline().depth(256);
    let (mut told, mut under_way) = (Truth::default(), std::collections::VecDeque::new());
    let pad = "x".repeat(VALUE_BYTES);
    let mut take = |under_way: &mut std::collections::VecDeque<(kvbroker::client::Ticket, Change)>| {
        let Some((ticket, change)) = under_way.pop_front() else { return };
        told.add(ticket.wait().unwrap().1, change);
    };
    let mut put = |number: u64, pad: &str, under_way: &mut std::collections::VecDeque<_>| {
        let (key, value) = (format!("x/{}{}", ["", "y/"][number as usize % 2], number % 100), format!("{number} {pad}"));
        let change = Change { key: key.clone(), kind: Kind::Put(digest(&value)) };
        let value = Stored::text(&value).unwrap();
        let operation = Operation::Put { key: key.into_bytes(), value, condition: None, ttl_ms: None };
        under_way.push_back((pipeline.submit(operation), change));
    };
    let mut written = 0;
    while written % 64 != 0 || broker.stat("events_dropped") == 0 {
        assert!(written < VALUES_MAX, "nothing was dropped: this test shows nothing");
        put(written, &pad, &mut under_way);
        written += 1;
        if under_way.len() >= 256 {
            take(&mut under_way);
        }
    }
    // It recovers while small ones follow.
    drop(hogs);
    sched_setaffinity(Some(publisher), &everywhere).unwrap();
    for number in 0..2_000 {
        put(number, "small", &mut under_way);
        if under_way.len() >= 16 {
            take(&mut under_way);
        }
    }
    while !under_way.is_empty() {
        take(&mut under_way);
    }
    let dropped = broker.stat("events_dropped");
    for (revision, changes) in Writers::end(&client, &prefixes) {
        changes.into_iter().for_each(|change| told.add(revision, change));
    }
    let heard = watcher.finish(2 * PATIENCE);
    broker.stop();
    let truth = Truth::of_log(broker.home(), "");
    assert_eq!(truth, told, "the log has what was acknowledged");
    let mut refills = 0;
    for (prefix, (heard, figures)) in prefixes.iter().zip(heard) {
        let under = truth.under(prefix);
        let done = check(&heard, &under, Start::Now(before, after), truth.last_revision());
        let done = done.unwrap_or_else(|wrong| panic!("{prefix:?}, {figures:?}: {wrong}"));
        println!("{prefix:?}: {} revisions, {figures:?}", done.revisions);
        assert!(figures.messages > 0, "it only polled");
        refills += figures.refills;
    }
    println!("{dropped} batches of {written} large values were dropped before the publisher");
    assert!(refills > 0, "nothing was lost");
}

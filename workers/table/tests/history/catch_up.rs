//! `events` of whoever is further behind than memory goes back: the log has them, and what it tells is what memory would have told.

use std::io;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use kvbroker_log::{Storage, StorageFile};
use kvbroker_protocol::{ChangeKind, EventBefore, Events, KeyEvent, Predicate, RevisionEvents, Scan, StatValue};

use super::*;

fn events(prefix: &str, after: u64, limit: Option<usize>) -> Operation {
    Operation::Events(Events { prefix: prefix.into(), after: Some(after), limit, ..Events::default() })
}

#[derive(Debug, PartialEq)]
struct Page {
    events: Vec<RevisionEvents>,
    through: u64,
    more: bool,
}

fn page_of(outcome: Outcome) -> Page {
    match outcome.result {
        Ok(Answer::Events { events, through, more, epoch: 1 }) => Page { events, through, more },
        other => panic!("{other:?}"),
    }
}

fn revisions(page: &Page) -> Vec<u64> {
    page.events.iter().map(|event| event.revision).collect()
}

fn stat(life: &mut Life, name: &str) -> u64 {
    let user = std::mem::replace(&mut life.user, "owner");
    let outcome = life.done(Operation::Stats);
    life.user = user;
    let Ok(Answer::Stats(stats)) = outcome.result else { panic!() };
    let found = stats.into_iter().find(|(found, _)| found == name);
    let Some((_, StatValue::Number(number))) = found else { panic!("{name}: {found:?}") };
    number
}

fn followers(life: &mut Life) -> String {
    let Ok(Answer::Stats(stats)) = life.done(Operation::Stats).result else { panic!() };
    let Some((_, StatValue::Text(text))) = stats.into_iter().find(|(found, _)| found == "followers") else { panic!() };
    text
}

/// All changes behind a revision, page after page, and how many pages that took.
fn follow(life: &mut Life, prefix: &str, mut after: u64, limit: Option<usize>) -> (Vec<RevisionEvents>, u64, usize) {
    let (mut all, mut pages) = (Vec::new(), 0);
    loop {
        let page = page_of(life.done(events(prefix, after, limit)));
        assert!(page.through > after || !page.more, "it comes on");
        assert!(page.events.len() <= limit.unwrap_or(usize::MAX));
        assert!(page.events.iter().all(|event| event.revision > after && event.revision <= page.through));
        all.extend(page.events);
        (after, pages) = (page.through, pages + 1);
        if !page.more {
            return (all, after, pages);
        }
    }
}

#[test]
fn memory_and_log_tell_the_same() {
    for seed in 3..=4 {
        let (disk, mut dice) = (SimStorage::new(), Dice(seed));
        let mut last = 0;
        for _ in 0..3 {
            let mut life = Life::begin(&disk, 100_000, limits::HISTORY_MEMORY_BYTES_MAX);
            for _ in 0..200 {
                life.clock.advance(dice.below(2_000_000));
                last = life.done(change(&mut dice)).revision.unwrap();
            }
            life.end_with(None);
        }
        let told = |history_bytes_max, reads: bool| {
            let mut life = Life::begin(&disk, 100_000, history_bytes_max);
            let reader = reads.then(|| life.reader());
            let mut told = Vec::new();
            for prefix in ["", "k", "k1", "large", "none"] {
                for after in [0, 1, last / 3, last / 2, last - 1, last] {
                    for limit in [None, Some(1), Some(7)] {
                        let (all, through, _) = follow(&mut life, prefix, after, limit);
                        assert_eq!(through, last);
                        told.push(all);
                    }
                }
            }
            let from = ["events_from_log", "events_from_memory"].map(|name| stat(&mut life, name));
            life.end_with(reader);
            (told, from)
        };
        let (from_log, [log, memory]) = told(NO_MEMORY, true);
        assert!(log > 500 && memory == 0, "{log} {memory}");
        let kinds: Vec<&str> = from_log[0].iter().flat_map(|event| &event.changes).map(|change| change.kind.name()).collect();
        assert!(["put", "remove", "expire"].iter().all(|kind| kinds.iter().filter(|seen| *seen == kind).count() > 20));
        assert!(from_log[0].iter().any(|event| event.changes.len() > 1), "a revision of several keys");
        let (from_memory, [log, _]) = told(limits::HISTORY_MEMORY_BYTES_MAX, false);
        assert_eq!(log, 0);
        assert!(from_log == from_memory, "seed {seed}: from memory alone");
        let (from_either, [log, memory]) = told(400_000, true);
        assert!(log > 100 && memory > 20, "{log} {memory}");
        assert!(from_log == from_either, "seed {seed}: from either");
    }
}

#[test]
fn who_follows_while_others_write_misses_nothing_where_log_and_memory_meet() {
    let mut life = Life::begin(&SimStorage::new(), 6_000, 30_000);
    let reader = life.reader();
    let (mut asked, mut after, mut seen) = (0, 0, Vec::new());
    let mut dice = Dice(9);
    loop {
        let mut last = 0;
        for _ in 0..dice.below(300).min(3_000 - asked) {
            asked += 1;
            last = life.ask(put(&format!("k{asked}"), "value", None));
        }
        if last > 0 {
            life.outcome(last);
        }
        let page = page_of(life.done(events("k", after, Some(1 + dice.below(100) as usize))));
        after = page.through;
        seen.extend(page.events);
        if asked == 3_000 && !page.more {
            break;
        }
    }
    let keys: Vec<(u64, Vec<u8>)> = seen.iter().map(|event| (event.revision, event.changes[0].key.clone())).collect();
    let expected: Vec<(u64, Vec<u8>)> = (1..=3_000u64).map(|at| (at, format!("k{at}").into())).collect();
    assert!(keys == expected);
    let from = ["events_from_log", "events_from_memory"].map(|name| stat(&mut life, name));
    assert!(from[0] > 5 && from[1] > 0, "{from:?}");
    life.end(reader);
}

/// The keys that fit, kept by what is told of changes alone.
fn keep(kept: &mut BTreeMap<Vec<u8>, Stored>, event: &RevisionEvents) {
    for KeyEvent { key, kind, .. } in &event.changes {
        match kind {
            ChangeKind::Put(value) => {
                kept.insert(key.clone(), value.clone());
            }
            ChangeKind::Remove | ChangeKind::Expire | ChangeKind::Leave => {
                kept.remove(key);
            }
        }
    }
}

#[test]
fn who_keeps_what_fits_keeps_just_that_by_what_log_and_memory_tell() {
    let disk = SimStorage::new();
    let mut dice = Dice(5);
    let mut life = Life::begin(&disk, 20_000, 60_000);
    let reader = life.reader();
    for _ in 0..600 {
        life.clock.advance(dice.below(2_000_000));
        let key = format!("k{}", dice.below(20));
        let number = dice.below(10);
        let operation = match dice.below(6) {
            0 => del(&key),
            1 => put(&key, "a text", Some(1 + dice.below(3_000))),
            _ => Operation::Put { key: key.into(), value: Stored::integer(i128::from(number)), condition: None, ttl_ms: None },
        };
        life.done(operation);
    }
    let filter = || Some(Predicate::new("@value < 5").unwrap());
    let wanted = |after, detail| Events { after: Some(after), detail, where_: filter(), limit: Some(40), ..Events::default() };
    let (mut kept, mut after, mut kinds) = (BTreeMap::new(), 0, BTreeMap::<&str, usize>::new());
    let (mut unknown, mut known) = (0, 0);
    loop {
        let memory_oldest = stat(&mut life, "history_oldest");
        let page = page_of(life.done(Operation::Events(wanted(after, true))));
        for event in &page.events {
            keep(&mut kept, event);
            assert!(event.origin.is_some());
            for change in &event.changes {
                *kinds.entry(change.kind.name()).or_default() += 1;
                if event.revision < memory_oldest {
                    assert_eq!(change.before, Some(EventBefore::Unknown), "{event:?}");
                    unknown += 1;
                } else {
                    assert!(change.before.as_ref().is_some_and(|before| *before != EventBefore::Unknown), "{event:?}");
                    known += 1;
                }
            }
        }
        assert!(after + 1 >= memory_oldest || page.through < memory_oldest, "what memory knows is told by memory");
        after = page.through;
        if !page.more {
            break;
        }
    }
    assert!(unknown > 100 && known > 20 && kinds["leave"] > 50 && kinds["expire"] > 10, "{unknown} {known} {kinds:?}");
    let scan = Operation::Scan(Scan { filter: filter(), ..Scan::default() });
    let Ok(Answer::Rows { rows, .. }) = life.done(scan).result else { panic!() };
    let expected: BTreeMap<Vec<u8>, Stored> = rows.into_iter().map(|row| (row.key, row.value)).collect();
    assert!(kept == expected && !kept.is_empty(), "{kept:?} {expected:?}");
    // Without these two nothing else is told of a revision.
    let plain = page_of(life.done(events("", 0, Some(1))));
    assert!(plain.events[0].origin.is_none() && plain.events[0].changes[0].before.is_none());
    life.end(reader);
}

/// Writes in small batches; gives the bytes of the log.
fn write(life: &mut Life, count: u64) -> u64 {
    for at in 1..=count {
        let id = life.ask(put(&format!("k{at}"), "value", None));
        if at % 10 == 0 {
            life.outcome(id);
        }
    }
    stat(life, "log_bytes")
}

#[test]
fn of_keys_that_can_never_fit_nothing_is_told() {
    let mut life = Life::begin(&SimStorage::new(), 100_000, NO_MEMORY);
    let reader = life.reader();
    write(&mut life, 300);
    life.done(del("k8"));
    life.done(del("k7"));
    let filter = |text| Events { after: Some(0), where_: Some(Predicate::new(text).unwrap()), ..Events::default() };
    let one = page_of(life.done(Operation::Events(filter("@key = 'k7'"))));
    assert_eq!((revisions(&one), one.through), (vec![7, 302], 302));
    // What the value decides is told whatever it was before.
    let unknown = page_of(life.done(Operation::Events(filter("@key = 'k7' or @value = 1"))));
    assert_eq!(unknown.events.len(), 302);
    life.end(reader);
}

#[test]
fn who_reads_page_by_page_reads_the_log_about_once() {
    let mut life = Life::begin(&SimStorage::new(), 100_000, NO_MEMORY);
    let reader = life.reader();
    let log_bytes = write(&mut life, 5_000);
    let (all, _, pages) = follow(&mut life, "", 0, Some(50));
    assert_eq!((all.len(), pages), (5_000, 100));
    let read = stat(&mut life, "events_log_read_bytes");
    assert!(read < 2 * log_bytes, "{read} bytes were read of {log_bytes}");
    assert_eq!(stat(&mut life, "events_from_log"), 100);
    // Up to where it was told, and not from where it asked.
    let told = followers(&mut life);
    assert!(told.contains(" through=5000 behind=0 drops=0 from_memory=0 from_log=100 "), "{told}");
    let page = page_of(life.done(events("k", 7, Some(50))));
    let told = followers(&mut life);
    assert!(told.contains(&format!(" through={} behind={} ", page.through, 5_000 - page.through)), "{told}");
    life.end(reader);
}

#[test]
fn all_who_wait_share_one_reading() {
    let mut life = Life::begin(&SimStorage::new(), 100_000, NO_MEMORY);
    let log_bytes = write(&mut life, 5_000);
    let waiting: Vec<(u64, u64)> = (0..60).map(|at| (at * 40, life.ask(events("", at * 40, Some(2_500))))).collect();
    life.until("all wait", |life| life.histories.len() == 60);
    let reader = life.reader();
    for (after, id) in waiting {
        let page = page_of(life.outcome(id));
        assert_eq!(revisions(&page), (after + 1..=after + 2_500).collect::<Vec<_>>());
        assert_eq!((page.through, page.more), (after + 2_500, true));
    }
    let read = stat(&mut life, "events_log_read_bytes");
    assert!(read < 2 * log_bytes, "{read} bytes were read of {log_bytes}");
    life.end(reader);
}

#[test]
fn one_users_many_calls_do_not_hold_up_another_ones() {
    const CALLS: u64 = 60;
    let mut life = Life::begin(&SimStorage::new(), 100_000, NO_MEMORY);
    life.access.replace([("ann".into(), Access::new(Role::Read, vec![]).unwrap())].into());
    write(&mut life, 1_000);
    // Each ends at once, and so each has to be read for by itself.
    life.user = "ann";
    let anns: Vec<u64> = (0..CALLS).map(|at| life.ask(events("", 10 * at, Some(1)))).collect();
    life.user = "owner";
    let owners = life.ask(events("", 900, Some(1)));
    life.until("all of them wait for the reader", |life| life.histories.len() as u64 == CALLS + 1);
    let speaker = life.access.speaker();
    let (calls, replies) = (life.histories.clone(), life.replies.clone());
    let historian = Historian { storage: Arc::new(life.disk.clone()), calls, replies, speaker };
    assert!(historian.step());
    life.collect();
    let is_answered = |life: &Life, id: &u64| life.outcomes.contains_key(id);
    assert!(is_answered(&life, &owners), "it waits for the others");
    assert_eq!(anns.iter().filter(|id| is_answered(&life, id)).count(), 1);
    // The rest has its turns as well.
    for _ in 1..CALLS {
        assert!(historian.step());
    }
    life.collect();
    assert!(anns.iter().all(|id| is_answered(&life, id)));
    assert!(life.histories.is_empty());
    life.end_with(None);
}

#[test]
fn a_page_is_bounded_in_what_it_tells_and_in_what_is_read_for_it() {
    let mut life = Life::begin(&SimStorage::new(), 16 << 20, NO_MEMORY);
    let large = "v".repeat(200_000);
    for at in 0..5 {
        life.done(put("a", &format!("{at}{large}"), None));
    }
    let huge = life.done(put("huge", &"v".repeat(limits::VALUE_BYTES_MAX - 100), None));
    assert_eq!(huge.revision, Some(6));
    for _ in 0..3 {
        life.done(put("other", &"v".repeat(limits::VALUE_BYTES_MAX - 100), None));
    }
    life.done(put("a", "last", None));
    let reader = life.reader();
    let mut next = |prefix: &str, after| {
        let page = page_of(life.done(events(prefix, after, None)));
        (revisions(&page), page.through, page.more)
    };
    assert_eq!(next("", 0), (vec![1, 2], 2, true), "half a MiB");
    assert_eq!(next("", 2), (vec![3, 4], 4, true));
    assert_eq!(next("", 4), (vec![5], 5, true));
    assert_eq!(next("", 5), (vec![6], 6, true), "one revision always fits");
    // Nothing for it in so much of the log: it says how far it came.
    let (told, through, more) = next("a", 5);
    assert_eq!((told, more), (vec![], true));
    assert!((7..10).contains(&through), "{through}");
    let (all, last, pages) = follow(&mut life, "a", through, None);
    assert_eq!((all[0].revision, last), (10, 10));
    assert!((1..=2).contains(&pages), "{pages}");
    life.end(reader);
}

#[test]
fn who_waits_for_what_is_not_in_the_log_is_sent_on_to_wait_in_the_worker() {
    let mut life = Life::begin(&SimStorage::new(), 6_000, NO_MEMORY);
    let reader = life.reader();
    write(&mut life, 100);
    let wait = |after| Operation::Events(Events { prefix: "a".into(), after: Some(after), wait_ms: 60_000, ..Events::default() });
    let page = page_of(life.done(wait(0)));
    assert_eq!(page, Page { events: vec![], through: 100, more: true });
    let waits = life.ask(wait(100));
    life.until("it waits", |life| stat(life, "events_waiting") == 1);
    life.done(put("a", "1", None));
    assert_eq!(revisions(&page_of(life.outcome(waits))), [101]);
    life.end(reader);
}

#[test]
fn history_and_events_share_the_queue_and_each_user_has_its_part() {
    let mut life = Life::begin(&SimStorage::new(), 64 << 20, NO_MEMORY);
    life.done(put("k", "v", None));
    life.access.replace([("ann".into(), Access::new(Role::Read, vec![]).unwrap())].into());
    life.user = "ann";
    let of_user = limits::HISTORY_CALLS_PER_USER_MAX;
    let ask =
        |life: &mut Life, at: usize| life.ask(if at.is_multiple_of(2) { history("k", None, None) } else { events("", 0, None) });
    let mut waiting: Vec<u64> = (0..of_user).map(|at| ask(&mut life, at)).collect();
    assert_eq!(code(&life.done(events("", 0, None))), ErrorCode::Busy);
    assert_eq!(code(&life.done(history("k", None, None))), ErrorCode::Busy);
    life.user = "owner";
    waiting.extend((of_user..limits::HISTORY_CALLS_MAX).map(|at| ask(&mut life, at)));
    let refused = life.done(events("", 0, None));
    assert_eq!((code(&refused), refused.result.unwrap_err().retry_after_ms), (ErrorCode::Busy, Some(limits::RETRY_AFTER_MS)));
    assert_eq!(life.done(put("k", "w", None)).revision, Some(2));
    let reader = life.reader();
    for id in waiting {
        match life.outcome(id).result.unwrap() {
            Answer::History { versions, .. } => assert_eq!(versions.len(), 1),
            Answer::Events { events, through: 1, more: false, .. } => assert_eq!(events.len(), 1),
            other => panic!("{other:?}"),
        }
    }
    life.user = "ann";
    assert_eq!(follow(&mut life, "", 0, None).0.len(), 2, "what was answered leaves room again");
    life.end(reader);
}

#[test]
fn what_was_trimmed_is_said_to_be_gone_with_the_oldest_that_the_log_has() {
    let disk = SimStorage::new();
    let mut life = Life::begin(&disk, 6_000, 3_000);
    let reader = life.reader();
    write(&mut life, 500);
    let (all, ..) = follow(&mut life, "", 0, None);
    assert_eq!(all.len(), 500, "memory alone does not have them");
    let memory_oldest = stat(&mut life, "history_oldest");
    assert!(memory_oldest > 400);
    for number in 1..=2 {
        disk.overwrite(&format!("table.txn.{number:08}"), None);
    }
    let refused = life.done(events("", 0, None));
    assert_eq!(code(&refused), ErrorCode::Compacted);
    let oldest = refused.result.unwrap_err().oldest.unwrap();
    assert!(oldest > 2 && oldest < memory_oldest, "{oldest}");
    assert_eq!(code(&life.done(events("", oldest - 2, None))), ErrorCode::Compacted);
    let (all, ..) = follow(&mut life, "", oldest - 1, None);
    assert_eq!(all.iter().map(|event| event.revision).collect::<Vec<_>>(), (oldest..=500).collect::<Vec<_>>());
    life.end(reader);
}

#[test]
fn damage_ends_the_pages_before_it_and_fails_those_that_begin_there() {
    let disk = SimStorage::new();
    let mut life = Life::begin(&disk, 6_000, NO_MEMORY);
    let reader = life.reader();
    write(&mut life, 500);
    let name = "table.txn.00000002";
    let whole = disk.contents(name).unwrap();
    let mut damaged = whole.clone();
    damaged[4_500] ^= 1;
    disk.overwrite(name, Some(damaged));
    let page = page_of(life.done(events("", 0, None)));
    assert!(page.more && !page.events.is_empty() && page.through < 500, "{}", page.through);
    assert_eq!(revisions(&page), (1..=page.through).collect::<Vec<_>>());
    // Those who are beyond it do not suffer.
    let waiting = [page.through, 300].map(|after| life.ask(events("", after, None)));
    assert_eq!(code(&life.outcome(waiting[0])), ErrorCode::Internal);
    assert_eq!(page_of(life.outcome(waiting[1])).through, 500);
    disk.overwrite(name, Some(whole));
    assert_eq!(follow(&mut life, "", 0, None).0.len(), 500);
    life.end(reader);
}

#[test]
fn who_waits_for_the_log_at_a_stop_is_told_so() {
    let mut life = Life::begin(&SimStorage::new(), 64 << 20, NO_MEMORY);
    life.done(put("k", "v", None));
    let waiting = [life.ask(events("", 0, None)), life.ask(history("k", None, None)), life.ask(events("k", 0, None))];
    life.intake.close();
    life.until("the worker has ended", |life| life.worker.is_finished());
    let reader = life.reader();
    for id in waiting {
        assert_eq!(code(&life.outcome(id)), ErrorCode::ShuttingDown);
    }
    life.end(reader);
}

/// A disk that does something once, when a file of this name is opened for so manyth time.
struct Meddling {
    disk: SimStorage,
    name: String,
    opens_left: AtomicUsize,
    act: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Storage for Meddling {
    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        if name == self.name
            && self.opens_left.fetch_sub(1, Ordering::SeqCst) == 1
            && let Some(act) = self.act.lock().unwrap().take()
        {
            act();
        }
        self.disk.open(name)
    }

    fn open_past_cache(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        self.disk.open_past_cache(name)
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        self.disk.create(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.disk.sync_directory()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.disk.path(name)
    }
}

impl Life {
    /// The log's reader, over a disk that does something when it opens a file.
    fn meddled_reader(&self, name: &str, opens: usize, act: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
        let (calls, replies, speaker) = (self.histories.clone(), self.replies.clone(), self.access.speaker());
        let act: Box<dyn FnOnce() + Send> = Box::new(act);
        let storage = Arc::new(Meddling {
            disk: self.disk.clone(),
            name: name.to_owned(),
            opens_left: AtomicUsize::new(opens),
            act: Mutex::new(Some(act)),
        });
        let historian = Historian { storage, calls, replies, speaker };
        std::thread::spawn(move || historian.run())
    }
}

#[test]
fn what_a_user_may_hear_is_asked_again_when_the_answer_is_there() {
    let mut life = Life::begin(&SimStorage::new(), 64 << 20, NO_MEMORY);
    for key in ["a", "b", "a", "c"] {
        life.done(put(key, "v", None));
    }
    let reads = |prefix: &str| Access::new(Role::Read, vec![prefix.into()]).unwrap();
    let of = |list: &[(&str, &str)]| list.iter().map(|(user, prefix)| ((*user).into(), reads(prefix))).collect();
    life.access.replace(of(&[("ann", "a"), ("bob", "a"), ("eve", "a")]));
    let waiting = ["ann", "bob", "eve", "owner"].map(|user| {
        life.user = user;
        life.ask(events("", 0, None))
    });
    life.until("all wait", |life| life.histories.len() == 4);
    // While the log is read.
    let (access, then) = (life.access.clone(), of(&[("bob", "b"), ("eve", "a")]));
    let reader = life.meddled_reader("table.txn.00000001", 1, move || access.replace(then));
    let [ann, bob, eve, owner] = waiting.map(|id| life.outcome(id));
    assert_eq!(code(&ann), ErrorCode::Refused);
    assert_eq!(revisions(&page_of(bob)), [2], "by what it may hear now");
    assert_eq!(revisions(&page_of(eve)), [1, 3]);
    assert_eq!(revisions(&page_of(owner)), [1, 2, 3, 4]);
    life.end(reader);
}

#[test]
fn what_is_trimmed_while_it_is_read_ends_the_page_and_the_next_one_is_told() {
    let disk = SimStorage::new();
    let mut life = Life::begin(&disk, 6_000, NO_MEMORY);
    write(&mut life, 500);
    let removes = disk.clone();
    let numbers: Vec<u64> = (1..).take_while(|number| disk.contents(&format!("table.txn.{number:08}")).is_some()).collect();
    assert!(numbers.len() > 4);
    // Once to find where to begin, then when the reading comes to it.
    let reader = life.meddled_reader("table.txn.00000004", 2, move || {
        for number in 1..=4 {
            removes.overwrite(&format!("table.txn.{number:08}"), None);
        }
    });
    let page = page_of(life.done(events("", 0, None)));
    assert_eq!(revisions(&page), (1..=page.through).collect::<Vec<_>>());
    assert!(page.more && page.through > 0 && page.through < 500, "{}", page.through);
    let refused = life.done(events("", page.through, None));
    assert_eq!(code(&refused), ErrorCode::Compacted);
    let oldest = refused.result.unwrap_err().oldest.unwrap();
    assert!(oldest > page.through + 1);
    assert_eq!(follow(&mut life, "", oldest - 1, None).0.len() as u64, 501 - oldest);
    life.end(reader);
}

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use kvbroker_core::{Change, Loader, Space};
use kvbroker_log::{BatchBuilder, LogStats, Persisted};

use super::*;
use crate::checkpoints::Behind;

/// A log that counts its seals and knows nothing else.
#[derive(Default)]
struct Seals {
    segment: u64,
    fails: bool,
    /// Done in the middle of the next seal.
    meanwhile: Option<Box<dyn FnOnce() + Send>>,
}

impl Log for Seals {
    fn seal(&mut self) -> Result<(), LogError> {
        self.segment += 1;
        if let Some(meanwhile) = self.meanwhile.take() {
            meanwhile();
        }
        if self.fails { Err(LogError::OutOfService("test".into())) } else { Ok(()) }
    }

    fn append(&mut self, _: &mut BatchBuilder) -> Result<Persisted, LogError> {
        unreachable!()
    }

    fn persisted(&self) -> Persisted {
        unreachable!()
    }

    fn needs_marker(&self) -> bool {
        false
    }

    fn mark(&mut self, _: u64) -> Result<(), LogError> {
        Ok(())
    }

    fn tick(&mut self, _: u64) -> Result<Persisted, LogError> {
        unreachable!()
    }

    fn close(&mut self, _: u64) -> Result<(), LogError> {
        Ok(())
    }

    fn oldest_revision(&self) -> u64 {
        1
    }

    fn stats(&self) -> LogStats {
        LogStats::default()
    }
}

fn shared() -> Arc<Checkpoints> {
    Arc::new(Checkpoints::none(Arc::new(Intake::new()), Behind::default))
}

fn put(key: u64, value: u64) -> Change {
    let mut record = vec![1];
    record.extend(value.to_be_bytes().repeat(20));
    record.push(0);
    Change { space: Space::Table, key: format!("key {key:06}").into_bytes(), value: Some(record) }
}

/// What the checkpointer would do with the slices: lay over them what was logged since the first seal.
fn laid_over(slices: Vec<StateRecord>, logged: &BTreeMap<Vec<u8>, Option<(Vec<u8>, u64)>>) -> BTreeMap<Vec<u8>, (Vec<u8>, u64)> {
    assert!(slices.is_sorted_by(|one, next| one.key < next.key), "in order, each once");
    let mut records: BTreeMap<_, _> = slices.into_iter().map(|record| (record.key, (record.value, record.revision))).collect();
    for (key, value) in logged {
        match value {
            Some(value) => records.insert(key.clone(), value.clone()),
            None => records.remove(key),
        };
    }
    records
}

#[test]
fn slices_of_a_table_that_changes_and_the_log_since_the_first_seal_are_the_table() {
    slices_and_log_are_the_table(true);
}

#[test]
fn slices_and_all_of_the_segment_that_was_being_written_at_the_first_are_the_table() {
    slices_and_log_are_the_table(false);
}

/// Without a seal before the first slice there are changes in the log already that all slices have seen.
fn slices_and_log_are_the_table(seals: bool) {
    const KEYS: u64 = 20_000;
    let shared = shared();
    let mut state = State::new();
    for at in 0..KEYS {
        state.apply(put(at, at), at + 1);
    }
    let mut logged = BTreeMap::new();
    let mut revision = KEYS;
    let change_some = |state: &mut State, logged: &mut BTreeMap<_, _>, revision: &mut u64| {
        for _ in 0..50 {
            *revision += 1;
            let mut change = put(*revision * 7_919 % (KEYS + 500), *revision);
            if revision.is_multiple_of(3) {
                change.value = None;
            }
            let mut record_key = Vec::new();
            change.write_record_key(&mut record_key);
            logged.insert(record_key, change.value.clone().map(|value| (value, *revision)));
            state.apply(change, *revision);
        }
    };
    if !seals {
        (0..20).for_each(|_| change_some(&mut state, &mut logged, &mut revision));
    }
    let asker = std::thread::spawn({
        let shared = shared.clone();
        move || {
            let mut base = MemoryBase::begin(shared.clone(), seals).unwrap();
            let mut records = Vec::new();
            loop {
                match base.advance() {
                    BaseStep::Record => records.push(base.current.clone()),
                    BaseStep::Pending => assert!(shared.slices.wait(PATIENCE)),
                    BaseStep::End => return (base.first_segment(), records),
                }
            }
        }
    });
    // The worker: a slice, then changes all over the table, and so on.
    let mut log = Seals { segment: 7, ..Seals::default() };
    let (last, mut slices) = (if seals { 9 } else { 8 }, 0);
    while !asker.is_finished() {
        let segment = log.segment;
        let was_asked = shared.slices.is_asked.load(Ordering::Acquire);
        shared.slices.serve(&state, &mut log, || segment + 1).unwrap();
        if !was_asked {
            std::thread::yield_now();
            continue;
        }
        slices += 1;
        if log.segment == last {
            break;
        }
        change_some(&mut state, &mut logged, &mut revision);
    }
    let (first_segment, records) = asker.join().unwrap();
    assert_eq!((first_segment, log.segment), (8, last), "sealed before the first slice, if at all, and behind the last");
    assert!(!shared.slices.are_under_way());
    assert!(slices > 10 && logged.len() > 500, "{slices} slices, {} changes", logged.len());
    let mut loader = Loader::new();
    for (key, (value, revision)) in laid_over(records, &logged) {
        loader.record(&key, &value, revision).unwrap();
    }
    assert!(loader.finish(revision).unwrap() == state, "another table than the worker's");
}

fn until_asked(shared: &Checkpoints) {
    while !shared.slices.is_asked.load(Ordering::Acquire) {
        std::thread::yield_now();
    }
}

#[test]
fn an_answer_to_an_attempt_that_was_given_up_is_not_taken_for_the_first_slice() {
    let shared = shared();
    let mut state = State::new();
    for at in 0..10 {
        state.apply(put(at, at), at + 1);
    }
    // The call of an attempt that fails while the worker seals the log behind the last slice; another attempt begins.
    shared.slices.ask(Some(b"tkey 000007".to_vec()), false);
    let again = shared.clone();
    let mut log = Seals { meanwhile: Some(Box::new(move || again.slices.ask(None, true))), ..Seals::default() };
    shared.slices.serve(&state, &mut log, || 1).unwrap();
    assert!(log.meanwhile.is_none(), "the log was not sealed");
    assert_eq!(shared.slices.take(), None, "who asks for the first slice gets the last one");
    shared.slices.serve(&state, &mut log, || 1).unwrap();
    assert_eq!(shared.slices.take().unwrap().slice.records.len(), 10);
}

#[test]
fn who_waits_for_a_slice_goes_on_when_there_will_be_none() {
    let shared = shared();
    let asker = std::thread::spawn({
        let shared = shared.clone();
        move || MemoryBase::begin(shared, true).is_none()
    });
    until_asked(&shared);
    shared.stop();
    assert!(asker.join().unwrap());
    assert!(MemoryBase::begin(shared.clone(), true).is_none());
    assert!(shared.is_stopping() && !shared.slices.wait(PATIENCE));
}

#[test]
fn a_seal_that_fails_ends_the_worker() {
    let shared = shared();
    let mut log = Seals { fails: true, ..Seals::default() };
    let state = State::new();
    assert!(shared.serve(&state, &mut log).is_ok(), "nobody asked");
    std::thread::scope(|scope| {
        let asker = scope.spawn(|| MemoryBase::begin(shared.clone(), true).is_none());
        until_asked(&shared);
        assert!(matches!(shared.serve(&state, &mut log), Err(LogError::OutOfService(_))));
        shared.stop();
        assert!(asker.join().unwrap());
    });
}

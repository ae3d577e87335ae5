#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;
use std::io;
use std::sync::{Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Instant;

use kvbroker_core::State;
use kvbroker_log::{BaseRecords, BaseStep, FileLog, GroupRef, LogOptions, Progress, SeededEntropy, SimStorage, SyncMode};

use super::super::pace::{Behind, STEP_MAX};
use super::*;
use crate::clock::SimClock;
use crate::intake::Intake;

/// What a step of the fake comes to.
enum Next {
    /// Half of it is done, with so many bytes.
    Half(u64),
    /// It is published.
    End,
    Fails(CheckpointError),
}

/// What the fake is told to do, and what it was asked for.
#[derive(Default)]
struct Script {
    is_due: bool,
    is_low: bool,
    steps: VecDeque<Next>,
    trim: Option<CheckpointError>,
    /// "begin", "memory", "step", "give up"; no trims.
    asked: Vec<&'static str>,
    allowed: u64,
    trims: u64,
}

#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Script>>);

impl Fake {
    fn script(&self) -> MutexGuard<'_, Script> {
        self.0.lock().unwrap()
    }
}

impl Maker for Fake {
    type Merging = ();

    fn is_due(&self) -> bool {
        self.script().is_due
    }

    fn begin(&mut self) -> Result<(), CheckpointError> {
        self.script().asked.push("begin");
        Ok(())
    }

    fn begin_from_memory(&mut self, mut base: MemoryBase) -> Result<(), CheckpointError> {
        while base.advance() == BaseStep::Record {}
        self.script().asked.push("memory");
        Ok(())
    }

    fn advance(&mut self, (): &mut (), bytes: u64) -> Result<Progress, CheckpointError> {
        let mut script = self.script();
        script.asked.push("step");
        script.allowed += bytes;
        match script.steps.pop_front().unwrap_or(Next::Half(bytes)) {
            Next::Half(spent) => Ok(Progress { bytes: spent, percent: 50, state: MergeState::Working }),
            Next::End => {
                script.is_due = false;
                Ok(Progress { bytes: 0, percent: 100, state: MergeState::Done })
            }
            Next::Fails(error) => Err(error),
        }
    }

    fn give_up(&mut self, (): ()) -> Result<(), CheckpointError> {
        self.script().asked.push("give up");
        Ok(())
    }

    fn is_low(&self) -> bool {
        self.script().is_low
    }

    fn trim(&mut self, _: u64) -> Result<u64, CheckpointError> {
        let mut script = self.script();
        script.trims += 1;
        script.trim.take().map_or(Ok(0), Err)
    }
}

/// A checkpointer on a thread, and the worker that it may ask.
struct Bench {
    fake: Fake,
    shared: Arc<Checkpoints>,
    segments: Arc<Segments>,
    clock: Arc<SimClock>,
    thread: JoinHandle<Result<(), LogError>>,
    log: FileLog,
}

impl Bench {
    fn start(steps: impl IntoIterator<Item = Next>) -> Bench {
        Bench::with_sealed(steps, 0)
    }

    /// With so much of the log sealed.
    fn with_sealed(steps: impl IntoIterator<Item = Next>, sealed_bytes: u64) -> Bench {
        let mut options = LogOptions::new(SyncMode::Always);
        options.entropy = Box::new(SeededEntropy::new(1));
        let (mut log, _) = FileLog::open(Arc::new(SimStorage::new()), options, &mut |_: GroupRef<'_>| Ok(())).unwrap();
        let (fake, segments, clock) = (Fake::default(), log.segments(), Arc::new(SimClock::new(1)));
        *fake.script() = Script { is_due: true, steps: steps.into_iter().collect(), ..Script::default() };
        let behind = move || Behind { bytes: sealed_bytes, sealed_bytes, due_bytes: 1, bytes_max: 4 };
        let shared = Arc::new(Checkpoints::over(Arc::new(Intake::new()), Some(segments.clone()), behind));
        // The worker says how large the table is.
        shared.serve(&State::new(), &mut log).unwrap();
        let (stamper, _) = Stamper::start(0, clock.now());
        let checkpointing = Checkpointing::new(fake.clone(), shared.clone(), segments.clone(), Box::new(clock.clone()), stamper);
        let thread = std::thread::spawn(move || checkpointing.run());
        Bench { fake, shared, segments, clock, thread, log }
    }

    /// Waits, and answers for the worker meanwhile.
    fn until(&mut self, what: &str, is_so: impl Fn(&Bench) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !is_so(self) {
            assert!(Instant::now() < deadline, "{what} within 30 s: {:?}", self.fake.script().asked);
            self.shared.serve(&State::new(), &mut self.log).unwrap();
            std::thread::yield_now();
        }
    }

    /// Time goes on, and the thread looks at it.
    fn advance(&self, us: u64) {
        self.clock.advance(us);
        self.segments.wake();
    }

    fn stop(self) -> Vec<&'static str> {
        self.shared.stop();
        self.thread.join().unwrap().unwrap();
        std::mem::take(&mut self.fake.script().asked)
    }
}

fn full() -> Next {
    let full = LogError::Full { path: "table.ckpt.tmp".into(), source: io::ErrorKind::StorageFull.into() };
    Next::Fails(CheckpointError::Later(full))
}

fn damaged() -> Next {
    let damaged = LogError::Damaged { file: "table.txn.00000001".into(), offset: 4_096, what: "test".into() };
    Next::Fails(CheckpointError::Damaged(damaged))
}

#[test]
fn what_is_due_is_made_and_the_history_trimmed() {
    let mut bench = Bench::start([Next::Half(10), Next::End]);
    bench.until("it is made", |bench| bench.shared.standing().made == 1 && bench.fake.script().trims == 1);
    assert_eq!(bench.shared.standing().doing, Doing::Nothing);
    bench.advance(TRIM_EVERY_US);
    bench.until("the age is looked at from time to time", |bench| bench.fake.script().trims == 2);
    assert_eq!(bench.stop(), ["begin", "step", "step"]);
}

#[test]
fn a_full_disk_is_tried_again_after_growing_pauses_and_counted() {
    let mut bench = Bench::start([full(), full(), Next::End]);
    for (failures, pause_us) in [(1, 1_000_000), (2, 2_000_000)] {
        bench.until("it fails", |bench| bench.shared.standing().failures == failures);
        assert!(matches!(&bench.shared.standing().doing, Doing::Failing(why) if why.contains("no space left")));
        let refusal = bench.shared.busy(Behind::default());
        assert!(refusal.message.contains("no checkpoint could be made (no space left for table.ckpt.tmp"), "{refusal}");
        bench.advance(pause_us - 1);
        assert_eq!(bench.shared.standing().failures, failures, "not before the pause is over");
        bench.advance(1);
    }
    bench.until("it is made", |bench| bench.shared.standing().made == 1);
    assert_eq!(bench.shared.standing().damage, None);
    assert_eq!(bench.stop(), ["begin", "step", "begin", "step", "begin", "step"]);
}

#[test]
fn after_damage_the_next_one_is_made_from_memory_at_once() {
    let mut bench = Bench::start([Next::Half(1), damaged(), full(), Next::End]);
    bench.until("no room for the one from memory", |bench| bench.shared.standing().failures == 2);
    bench.advance(1_000_000);
    bench.until("it is made", |bench| bench.shared.standing().made == 1);
    assert!(bench.shared.standing().damage.as_ref().is_some_and(|damage| damage.contains("table.txn.00000001")));
    bench.fake.script().is_due = true;
    bench.fake.script().steps.push_back(Next::End);
    bench.segments.wake();
    bench.until("another one", |bench| bench.shared.standing().made == 2);
    assert_eq!(bench.stop(), ["begin", "step", "step", "memory", "step", "memory", "step", "begin", "step"]);
}

#[test]
fn a_table_that_is_small_beside_the_log_is_written_down_from_memory() {
    let mut bench = Bench::with_sealed([Next::End], 1_000_000);
    bench.until("it is made", |bench| bench.shared.standing().made == 1);
    assert_eq!(bench.shared.standing().damage, None);
    assert_eq!(bench.stop(), ["memory", "step"]);
}

#[test]
fn a_failed_sync_ends_the_thread_with_its_error() {
    let sync_failed =
        || CheckpointError::Fatal(LogError::SyncFailed { path: "table.ckpt.tmp".into(), source: io::ErrorKind::Other.into() });
    let bench = Bench::start([Next::Fails(sync_failed())]);
    let error = bench.thread.join().unwrap().unwrap_err();
    assert!(matches!(error, LogError::SyncFailed { .. }) && error.exit_code() == 12, "{error}");

    let mut bench = Bench::start([Next::End]);
    bench.until("it is made", |bench| bench.fake.script().trims == 1);
    bench.fake.script().trim = Some(sync_failed());
    bench.advance(TRIM_EVERY_US);
    assert!(bench.thread.join().unwrap().is_err(), "trimming syncs the directory");
}

#[test]
fn the_pace_is_kept_and_a_stop_drops_what_is_being_made() {
    let mut bench = Bench::start([]);
    // The clock stands still: what the bucket had is used up, and nothing more comes.
    bench.until("the bucket is empty", |bench| bench.fake.script().allowed >= STEP_MAX);
    bench.segments.wake();
    assert!(bench.fake.script().allowed <= STEP_MAX);
    assert_eq!(bench.shared.standing().doing, Doing::Merging);
    bench.advance(1_000_000);
    bench.until("it goes on", |bench| bench.fake.script().allowed > STEP_MAX);
    let asked = bench.stop();
    assert_eq!((asked.first(), asked.last()), (Some(&"begin"), Some(&"give up")));
}

#[test]
fn a_stop_ends_the_wait_for_the_worker() {
    let bench = Bench::start([damaged()]);
    // Nobody answers for the worker.
    let deadline = Instant::now() + Duration::from_secs(30);
    while bench.shared.standing().doing != Doing::FromMemory {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
    assert_eq!(bench.stop(), ["begin", "step"]);
}

#[test]
fn with_little_room_history_is_looked_at_whenever_something_happens_and_the_pace_is_not_kept() {
    let mut bench = Bench::start([Next::End]);
    bench.until("it is made", |bench| bench.fake.script().trims == 1);
    bench.fake.script().is_low = true;
    bench.segments.wake();
    // The clock stands still.
    bench.until("without waiting for its time", |bench| bench.fake.script().trims >= 2);
    let steps = 3 * STEP_MAX / 100_000;
    bench.fake.script().steps.extend((0..steps).map(|_| Next::Half(100_000)).chain([Next::End]));
    bench.fake.script().is_due = true;
    bench.segments.wake();
    bench.until("it is made without a pause", |bench| bench.shared.standing().made == 2);
    assert!(bench.fake.script().trims > steps, "and history is looked at meanwhile");
    bench.stop();
}

use kvbroker_protocol::{ChangeKind, KeyEvent, Stored};

use super::*;
use crate::client::watch::event::{WatchBroken, WatchEvent};

mod walk;

const EPOCH: u64 = 5;

fn change(revision: u64, key: &str) -> RevisionEvents {
    let kind = ChangeKind::Put(Stored::integer(revision.into()));
    RevisionEvents { revision, time_ms: 1, changes: vec![KeyEvent { key: key.into(), kind, before: None }], origin: None }
}

fn message(prev: u64, revision: u64, changed: &[u64]) -> StreamMessage {
    let events = changed.iter().map(|revision| change(*revision, "p/k")).collect();
    StreamMessage { epoch: EPOCH, prev, revision, events }
}

fn page(changed: &[u64], through: u64, more: bool) -> Answered {
    Answered::Events { events: changed.iter().map(|revision| change(*revision, "p/k")).collect(), through, more, epoch: EPOCH }
}

/// As it comes in a body; where no broker would send that, as if it had.
fn read(message: &StreamMessage, bytes: usize) -> Heard {
    let mut body = Vec::new();
    message.encode(&mut body);
    let read = Heard::read(&kvbroker_protocol::stream_topic(b"p/"), &body).ok().flatten();
    Heard { bytes, ..read.unwrap_or_else(|| Heard::of(message.clone(), bytes)) }
}

/// A merge with a clock and what it told, in short.
struct Bench {
    merge: Merge,
    now: Instant,
}

impl Bench {
    fn new(options: WatchOptions, eager: bool) -> Self {
        let now = Instant::now();
        Bench { merge: Merge::new(now, &options, eager), now }
    }

    /// One that follows its stream, with everything up to 10 told.
    fn following(resync: bool) -> Self {
        let from = WatchFrom::After { revision: 10, epoch: Some(EPOCH) };
        let mut bench = Bench::new(WatchOptions::prefix("p/").from(from).resync(resync), false);
        bench.merge.linked(bench.now);
        bench.hear(message(4, 10, &[]));
        assert_eq!(bench.told(), ["caught up 10"]);
        bench
    }

    fn hear(&mut self, message: StreamMessage) {
        self.merge.heard(self.now, read(&message, 100));
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    fn ask(&mut self) -> Option<Ask> {
        assert_eq!(self.merge.wants_to_ask(self.now), self.merge.clone().ask(self.now, true).is_some());
        self.merge.ask(self.now, true)
    }

    fn answer(&mut self, answered: Answered) {
        self.merge.answered(self.now, answered);
    }

    fn told(&mut self) -> Vec<String> {
        let short = |event| match event {
            WatchEvent::SnapshotBegin { revision, why } => format!("begin {revision} {}", why.name()),
            WatchEvent::SnapshotRow(row) => format!("row {}", String::from_utf8_lossy(&row.key)),
            WatchEvent::SnapshotEnd { revision } => format!("end {revision}"),
            WatchEvent::Changes(changes) => changes.revision().to_string(),
            WatchEvent::CaughtUp { revision } => format!("caught up {revision}"),
            WatchEvent::Disconnected { why } => format!("disconnected: {why}"),
        };
        std::iter::from_fn(|| self.merge.take()).filter_map(|told| told.event).map(short).collect()
    }
}

fn events(after: u64, wait: bool) -> Option<Ask> {
    Some(Ask::Events { after, epoch: Some(EPOCH), wait })
}

fn failed(code: kvbroker_protocol::ErrorCode, revision: u64) -> Answered {
    Answered::Failed(Failure::new(code, "no"), Some(revision))
}

#[test]
fn a_chain_is_told_and_what_came_before_is_not_told_again() {
    let mut bench = Bench::following(false);
    bench.hear(message(10, 13, &[11, 13]));
    bench.hear(message(10, 13, &[11, 13]));
    bench.hear(message(11, 15, &[13, 15]));
    bench.hear(message(15, 20, &[]));
    assert_eq!(bench.told(), ["11", "13", "15"]);
    assert_eq!((bench.merge.verified(), bench.ask()), (Some(20), None));
    let stats = bench.merge.stats();
    assert_eq!((stats.messages, stats.revisions, stats.duplicates, stats.refills), (5, 3, 3, 0));
}

#[test]
fn a_doubt_is_not_current_until_it_is_cleared_up() {
    let mut bench = Bench::following(false);
    assert!(bench.merge.is_current());
    bench.merge.garbled();
    assert!(!bench.merge.is_current());
    assert_eq!(bench.ask(), events(10, false));
    bench.hear(message(10, 11, &[11]));
    assert!(!bench.merge.is_current(), "it is not answered yet");
    bench.answer(page(&[], 10, true));
    assert_eq!((bench.merge.is_current(), bench.told()), (true, vec!["11".to_owned()]));
    bench.hear(message(12, 13, &[13]));
    assert!(!bench.merge.is_current(), "12 is missing");
    assert_eq!(bench.ask(), events(11, false));
    bench.answer(page(&[12], 12, false));
    assert!(bench.merge.is_current());
}

#[test]
fn a_break_in_the_chain_of_one_connection_is_a_loss() {
    let mut bench = Bench::following(false);
    bench.hear(message(12, 14, &[14]));
    bench.hear(message(14, 15, &[15]));
    assert_eq!((bench.merge.stats().lost, bench.merge.take_lost(), bench.merge.take_lost()), (1, 1, 0));
    assert_eq!(bench.merge.complete_to(EPOCH, 20), Some(10), "it misses something");
    assert_eq!(bench.ask(), events(10, false));
    bench.answer(page(&[12], 15, false));
    assert_eq!(bench.merge.complete_to(EPOCH, 20), Some(20));
    assert_eq!(bench.merge.complete_to(EPOCH, 3), Some(15), "a heartbeat from before");
    assert_eq!(bench.merge.complete_to(EPOCH + 1, 20), None);
    // What is missing on another connection was not lost: nobody was connected.
    bench.merge.unlinked(bench.now, "gone");
    assert_eq!(bench.merge.complete_to(EPOCH, 20), None);
    bench.merge.linked(bench.now);
    bench.hear(message(30, 31, &[31]));
    assert_eq!((bench.merge.stats().lost, bench.merge.take_lost()), (1, 0));
}

#[test]
fn a_damaged_place_of_the_log_ends_only_who_must_not_begin_anew() {
    let internal = || failed(kvbroker_protocol::ErrorCode::Internal, 15);
    let missing = |resync| {
        let mut bench = Bench::following(resync);
        bench.hear(message(12, 14, &[14]));
        assert_eq!(bench.ask(), events(10, false));
        bench.answer(internal());
        bench
    };
    assert!(matches!(missing(false).merge.end(), Some(WatchEnd::Failed(_))));
    let mut bench = missing(true);
    assert_eq!((bench.ask(), bench.merge.end()), (None, None), "not again at once");
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.ask(), Some(Ask::Now));
    bench.answer(page(&[], 15, false));
    assert_eq!(bench.ask(), Some(Ask::Rows { cursor: None, snapshot: 0 }));
    bench.answer(Answered::Rows { rows: Vec::new(), cursor: None, snapshot: 15 });
    assert_eq!(bench.told(), ["begin 15 compacted"]);
}

#[test]
fn a_late_compacted_about_what_the_stream_has_told_meanwhile_ends_nothing() {
    let mut bench = Bench::following(false);
    bench.hear(message(12, 14, &[14]));
    assert_eq!(bench.ask(), events(10, false));
    bench.hear(message(10, 13, &[11, 13]));
    assert_eq!(bench.told(), ["11", "13", "14", "caught up 14"]);
    bench.answer(failed(kvbroker_protocol::ErrorCode::Compacted, 14));
    assert!(bench.merge.end().is_none());
    assert_eq!(bench.ask(), events(14, false));
    bench.answer(page(&[], 14, false));
    assert_eq!((bench.told(), bench.ask()), (vec![], None));
}

#[test]
fn a_stream_that_goes_on_does_not_end_a_doubt_before_it_is_answered() {
    let mut bench = Bench::following(true);
    bench.merge.unlinked(bench.now, "gone");
    bench.merge.linked(bench.now);
    // The table was set back, which the stream's second word does not show.
    bench.hear(message(7, 7, &[]));
    assert_eq!(bench.ask(), events(10, false));
    bench.hear(message(7, 8, &[8]));
    assert_eq!((bench.told(), bench.ask()), (vec!["disconnected: gone".into()], None));
    bench.answer(failed(kvbroker_protocol::ErrorCode::Invalid, 8));
    assert_eq!((bench.told(), bench.ask()), (vec![], Some(Ask::Now)));

    // It was not.
    let mut bench = Bench::following(true);
    bench.merge.unlinked(bench.now, "gone");
    bench.merge.linked(bench.now);
    bench.hear(message(7, 7, &[]));
    assert_eq!(bench.ask(), events(10, false));
    bench.hear(message(10, 12, &[12]));
    assert_eq!(bench.told(), ["disconnected: gone", "12"]);
    bench.answer(page(&[12], 12, false));
    assert_eq!((bench.told(), bench.ask()), (vec!["caught up 12".into()], None));
}

#[test]
fn what_is_behind_a_hole_waits_for_the_refill() {
    let mut bench = Bench::following(false);
    bench.hear(message(12, 14, &[14]));
    assert_eq!(bench.ask(), events(10, false));
    assert_eq!(bench.ask(), None);
    bench.hear(message(14, 15, &[15]));
    assert!(bench.told().is_empty());
    bench.answer(page(&[11], 11, true));
    assert_eq!(bench.told(), ["11"]);
    assert_eq!(bench.ask(), events(11, false));
    bench.answer(page(&[12], 13, false));
    assert_eq!(bench.told(), ["12", "14", "15", "caught up 15"]);
    assert_eq!((bench.ask(), bench.merge.ahead_bytes()), (None, 0));
}

#[test]
fn a_refill_may_overtake_the_stream_and_the_stream_a_refill() {
    let mut bench = Bench::following(false);
    bench.hear(message(12, 14, &[14]));
    bench.ask().unwrap();
    bench.answer(page(&[11, 14, 16], 17, false));
    bench.hear(message(14, 16, &[16]));
    bench.hear(message(16, 18, &[18]));
    assert_eq!(bench.told(), ["11", "14", "16", "caught up 17", "18"]);
    // A poll that began before the stream was there.
    bench.merge.unlinked(bench.now, "x");
    bench.pass(PATIENCE);
    assert_eq!(bench.ask(), events(18, false));
    bench.answer(page(&[], 18, false));
    assert_eq!(bench.ask(), events(18, true));
    bench.merge.linked(bench.now);
    bench.hear(message(18, 18, &[]));
    bench.hear(message(18, 21, &[20, 21]));
    bench.answer(page(&[20], 20, false));
    assert_eq!(bench.told(), ["disconnected: x", "caught up 18", "20", "21"]);
    assert_eq!((bench.ask(), bench.merge.verified()), (None, Some(21)));
}

#[test]
fn what_finds_no_room_is_asked_for() {
    let mut bench = Bench::following(false);
    let last = 20 + AHEAD_MESSAGES_MAX as u64;
    for revision in 12..=last {
        bench.hear(message(revision - 1, revision, &[revision]));
    }
    assert_eq!(bench.merge.stats().dropped, 9);
    assert_eq!(bench.merge.stats().lag, last - 10);
    bench.ask().unwrap();
    bench.answer(page(&[11, 12], 12, false));
    assert_eq!(bench.told(), ["11", "12"]);
    assert_eq!(bench.ask(), events(12, false), "what was dropped is known to be missing");
    bench.merge.heard(bench.now, read(&message(last, last + 1, &[last + 1]), AHEAD_BYTES_MAX + 1));
    bench.answer(page(&[13], 25, false));
    assert_eq!((bench.told().len(), bench.ask()), (1, events(25, false)));
}

#[test]
fn beginning_now_is_where_the_stream_or_the_broker_says() {
    let mut streamed = Bench::new(WatchOptions::prefix("p/"), false);
    streamed.merge.linked(streamed.now);
    assert_eq!((streamed.ask(), streamed.merge.verified()), (None, None));
    streamed.hear(message(7, 9, &[]));
    assert_eq!((streamed.told(), streamed.merge.verified()), (vec!["caught up 9".to_owned()], Some(9)));

    let mut asked = Bench::new(WatchOptions::prefix("p/"), true);
    asked.merge.linked(asked.now);
    // Older than the question.
    asked.hear(message(5, 8, &[6, 8]));
    assert_eq!(asked.ask(), Some(Ask::Now));
    asked.hear(message(8, 9, &[9]));
    asked.hear(message(9, 12, &[11, 12]));
    asked.answer(page(&[], 9, false));
    assert_eq!(asked.told(), ["11", "12", "caught up 12"]);

    let mut alone = Bench::new(WatchOptions::prefix("p/"), false);
    alone.merge.never_linked();
    assert_eq!(alone.ask(), Some(Ask::Now));
    alone.answer(page(&[], 3, false));
    assert_eq!((alone.told(), alone.ask()), (vec!["caught up 3".to_owned()], events(3, true)));
}

#[test]
fn without_a_stream_the_broker_is_asked_and_a_silent_stream_is_subscribed_to_again() {
    let mut bench = Bench::new(WatchOptions::prefix("p/").from(WatchFrom::after(3)), false);
    bench.merge.linked(bench.now);
    assert_eq!((bench.ask(), bench.merge.due(bench.now)), (None, Some(bench.now + PATIENCE)));
    bench.pass(PATIENCE);
    assert!(bench.merge.resubscribes(bench.now) && !bench.merge.resubscribes(bench.now));
    assert_eq!(bench.ask(), Some(Ask::Events { after: 3, epoch: None, wait: false }));
    bench.answer(page(&[4], 6, false));
    assert_eq!(bench.told(), ["4", "caught up 6"]);
    assert_eq!(bench.ask(), events(6, true));
    bench.answer(page(&[], 6, false));
    // It did not wait, so it is not asked at once.
    assert_eq!(bench.ask(), None);
    bench.pass(POLL_PAUSE);
    assert_eq!(bench.ask(), events(6, true));
    bench.answer(failed(kvbroker_protocol::ErrorCode::Busy, 6));
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.ask(), events(6, false), "there is no room to wait at the broker");
    bench.answer(page(&[7], 7, false));
    assert_eq!(bench.told(), ["7"]);

    let mut bench = Bench::following(false);
    bench.pass(SILENCE_MAX);
    assert!(bench.merge.resubscribes(bench.now));
    assert_eq!(bench.ask(), events(10, false));
    bench.answer(page(&[12], 12, false));
    bench.hear(message(12, 12, &[]));
    assert_eq!((bench.told(), bench.ask()), (vec!["12".to_owned()], None));
}

#[test]
fn who_joins_a_stream_that_has_said_nothing_does_not_rely_on_it() {
    for is_heard in [true, false] {
        let mut bench = Bench::new(WatchOptions::prefix("p/").from(WatchFrom::after(3)), false);
        bench.merge.joined(bench.now, is_heard);
        assert_eq!(bench.ask().is_some(), is_heard, "it will not say on its own where it is");
        if is_heard {
            bench.answer(page(&[], 6, false));
        }
        bench.pass(PATIENCE);
        assert_eq!(bench.merge.resubscribes(bench.now), !is_heard);
        assert_eq!(bench.ask().is_some(), !is_heard, "the broker keeps no stream for it, perhaps");
    }
}

#[test]
fn a_lost_connection_is_told_once_and_its_return_too() {
    let mut bench = Bench::following(false);
    bench.merge.unlinked(bench.now, "gone");
    bench.merge.unlinked(bench.now, "gone");
    bench.merge.linked(bench.now);
    bench.merge.unlinked(bench.now, "turned away");
    bench.pass(PATIENCE);
    assert_eq!(bench.ask(), events(10, false));
    bench.answer(Answered::Unanswered("late".into()));
    assert_eq!(bench.ask(), None);
    assert_eq!(bench.told(), ["disconnected: gone"]);
    bench.merge.linked(bench.now);
    bench.hear(message(10, 11, &[11]));
    // The question that was not answered may be asked again, but nothing depends on it.
    bench.pass(Duration::from_secs(10));
    assert_eq!(bench.ask(), events(11, false));
    bench.answer(page(&[], 11, false));
    assert_eq!(bench.told(), ["11", "caught up 11"]);
}

#[test]
fn a_snapshot_is_followed_by_what_came_behind_it() {
    let mut bench = Bench::new(WatchOptions::prefix("p/").from(WatchFrom::Snapshot), false);
    bench.merge.linked(bench.now);
    assert_eq!(bench.ask(), None, "the stream first, so that it has what comes behind");
    bench.hear(message(20, 20, &[]));
    assert_eq!(bench.ask(), Some(Ask::Now));
    bench.answer(page(&[], 20, false));
    assert_eq!(bench.ask(), Some(Ask::Rows { cursor: None, snapshot: 0 }));
    let row = |key: &str| Row { key: key.into(), value: Stored::integer(1), modified: 3 };
    bench.hear(message(20, 23, &[21, 23]));
    bench.answer(Answered::Rows { rows: vec![row("p/a")], cursor: Some(b"p/a".to_vec()), snapshot: 22 });
    let first = bench.merge.take().unwrap();
    assert_eq!((first.event, first.position), (Some(WatchEvent::SnapshotBegin { revision: 22, why: WhySnapshot::Asked }), None));
    assert_eq!(bench.ask(), Some(Ask::Rows { cursor: Some(b"p/a".to_vec()), snapshot: 22 }));
    bench.answer(Answered::Rows { rows: vec![row("p/b")], cursor: None, snapshot: 22 });
    assert_eq!(bench.ask(), events(22, false), "whether the epoch is the same");
    assert_eq!((bench.told(), bench.merge.verified()), (vec!["row p/a".to_owned(), "row p/b".to_owned()], None));
    bench.answer(page(&[], 22, false));
    assert_eq!(bench.told(), ["end 22", "23", "caught up 23"]);

    // Gone in the midst: again, and from the first row.
    let mut bench = Bench::new(WatchOptions::prefix("").from(WatchFrom::Snapshot), false);
    bench.merge.never_linked();
    bench.ask().unwrap();
    bench.answer(page(&[], 20, false));
    bench.ask().unwrap();
    bench.answer(Answered::Rows { rows: vec![row("a")], cursor: Some(b"a".to_vec()), snapshot: 20 });
    bench.ask().unwrap();
    bench.answer(failed(kvbroker_protocol::ErrorCode::SnapshotGone, 25));
    assert_eq!(bench.ask(), None);
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.ask(), Some(Ask::Now));
    bench.answer(page(&[], 25, false));
    bench.ask().unwrap();
    bench.answer(Answered::Rows { rows: vec![], cursor: None, snapshot: 25 });
    bench.ask().unwrap();
    bench.answer(page(&[], 25, false));
    assert_eq!(bench.told(), ["begin 20 asked", "row a", "begin 25 asked", "end 25", "caught up 25"]);
}

/// What a broken promise leads to: with and without leave to begin anew.
fn broken(lead: impl Fn(&mut Bench), at: Answered, why: WhySnapshot, broken: WatchBroken) {
    for resync in [true, false] {
        let mut bench = Bench::following(resync);
        lead(&mut bench);
        assert_eq!(bench.ask(), Some(Ask::Now));
        bench.answer(at.clone());
        if resync {
            bench.ask().unwrap();
            bench.answer(Answered::Rows { rows: vec![], cursor: None, snapshot: 30 });
            assert_eq!(bench.told(), [format!("begin 30 {}", why.name())]);
            assert_eq!(bench.merge.end(), None);
        } else {
            assert!(bench.told().is_empty());
            assert_eq!(bench.merge.end(), Some(&WatchEnd::Broken(broken.clone())));
            assert_eq!(bench.ask(), None);
        }
    }
}

#[test]
fn compaction_another_history_and_a_rollback_are_told_apart() {
    use kvbroker_protocol::ErrorCode;
    let compacted = |bench: &mut Bench| {
        bench.hear(message(12, 14, &[14]));
        bench.ask().unwrap();
        bench.answer(Answered::Failed(Failure::compacted("gone", 12), Some(14)));
    };
    broken(compacted, page(&[], 14, false), WhySnapshot::Compacted, WatchBroken::Compacted { after: 10, oldest: Some(12) });

    let other = Answered::Events { events: vec![], through: 40, more: false, epoch: EPOCH + 1 };
    let restarted = |bench: &mut Bench| {
        bench.merge.unlinked(bench.now, "x");
        bench.told();
        bench.merge.linked(bench.now);
        bench.hear(StreamMessage { epoch: EPOCH + 1, prev: 40, revision: 40, events: vec![] });
        assert_eq!(bench.ask(), events(10, false), "the stream alone proves nothing");
        bench.answer(failed(ErrorCode::Compacted, 40));
    };
    let is_other = WatchBroken::OtherHistory { after: 10, before: EPOCH, now: EPOCH + 1 };
    broken(restarted, other.clone(), WhySnapshot::OtherHistory, is_other);

    let rolled_back = |bench: &mut Bench| {
        bench.merge.unlinked(bench.now, "x");
        bench.told();
        bench.merge.linked(bench.now);
        bench.hear(message(8, 8, &[]));
        assert_eq!(bench.ask(), events(10, false), "another connection's first word is a step back");
        bench.answer(failed(ErrorCode::Invalid, 8));
    };
    let undone = WatchBroken::RolledBack { after: 10, revision: 8 };
    broken(rolled_back, page(&[], 8, false), WhySnapshot::RolledBack, undone);
}

#[test]
fn an_answer_for_many_that_ends_before_what_is_missing_here_settles_nothing() {
    let mut bench = Bench::following(true);
    bench.merge.unlinked(bench.now, "x");
    bench.merge.linked(bench.now);
    // A step back, on another connection: it may have been undone, what was told.
    bench.hear(message(8, 8, &[]));
    bench.told();
    for through in [4, 6] {
        assert_eq!(bench.merge.is_missing(bench.now), Some((10, EPOCH)));
        bench.merge.asked_jointly(bench.now);
        bench.answer(page(&[through], through, true));
        assert!(bench.told().is_empty(), "nothing is known of what is missing here");
    }
    bench.merge.asked_jointly(bench.now);
    bench.answer(page(&[8], 8, false));
    assert_eq!(bench.ask(), Some(Ask::Now), "that was all there is");
    bench.answer(page(&[], 8, false));
    bench.ask().unwrap();
    bench.answer(Answered::Rows { rows: vec![], cursor: None, snapshot: 8 });
    assert_eq!(bench.told(), ["begin 8 rolled_back"]);
}

#[test]
fn a_message_of_a_connection_that_is_gone_does_not_change_the_history() {
    let mut bench = Bench::following(true);
    bench.hear(StreamMessage { epoch: 99, prev: 10, revision: 12, events: vec![change(12, "p/k")] });
    assert_eq!(bench.ask(), events(10, false));
    bench.answer(page(&[], 10, false));
    bench.merge.garbled();
    assert_eq!(bench.ask(), events(10, false));
    bench.answer(page(&[], 10, false));
    assert_eq!((bench.told(), bench.ask()), (vec![], None));
}

#[test]
fn a_key_is_not_the_others_that_begin_with_it() {
    let mut bench = Bench::new(WatchOptions::key("p/k").from(WatchFrom::after(1)), false);
    bench.merge.linked(bench.now);
    let events = vec![change(2, "p/k"), change(3, "p/kk"), change(4, "p/k")];
    bench.hear(StreamMessage { epoch: EPOCH, prev: 1, revision: 5, events });
    assert_eq!((bench.told(), bench.merge.verified()), (vec!["2".to_owned(), "4".into(), "caught up 5".into()], Some(5)));
}

#[test]
fn what_will_never_work_ends_the_watch() {
    use kvbroker_protocol::ErrorCode;
    for (answered, ends) in [
        (failed(ErrorCode::Refused, 1), true),
        (failed(ErrorCode::WrongProject, 1), true),
        (Answered::Closed, true),
        (failed(ErrorCode::ShuttingDown, 1), false),
        (failed(ErrorCode::Busy, 1), false),
        (Answered::Unanswered("x".into()), false),
    ] {
        let mut bench = Bench::following(false);
        bench.hear(message(12, 14, &[14]));
        bench.ask().unwrap();
        bench.answer(answered);
        bench.told();
        assert_eq!(bench.merge.end().is_some(), ends);
        assert_eq!(bench.ask(), None);
        bench.pass(Duration::from_secs(10));
        assert_eq!(bench.ask().is_some(), !ends);
    }
}

#![allow(clippy::unwrap_used)]
use std::collections::BTreeMap;

use kvbroker_protocol::{RevisionEvents, Stored, StreamMessage, VersionKind, stream_topic};

use super::*;

const EPOCH: u64 = 0xabcd;
const MS: Duration = Duration::from_millis(1);

/// A message: its prefix, its span, and the revisions that it tells with the number of their changes.
type Said = (String, u64, u64, Vec<(u64, usize)>);

/// Streams and what they have sent.
struct Bench {
    streams: Streams,
    now: Instant,
    sent: Vec<(Vec<u8>, StreamMessage)>,
}

impl Bench {
    fn at(revision: u64) -> Bench {
        Bench { streams: Streams::new(EPOCH, revision), now: Instant::now(), sent: Vec::new() }
    }

    fn with<T>(&mut self, act: impl FnOnce(&mut Streams, Instant, &mut StreamSink<'_>) -> T) -> T {
        let sent = &mut self.sent;
        let mut sink = |topic: &[u8], body: Vec<u8>| sent.push(StreamMessage::decode(topic, &body).unwrap().unwrap());
        act(&mut self.streams, self.now, &mut sink)
    }

    fn begin(&mut self, prefix: &[u8]) {
        assert!(self.streams.begin(StreamKind::Changes, prefix, self.now));
    }

    /// A batch of one revision for each of these lists of keys.
    fn publish(&mut self, revisions: &[&[&[u8]]]) {
        let base = self.streams.revision();
        let events =
            revisions.iter().zip(base + 1..).flat_map(|(keys, revision)| keys.iter().map(move |key| put(revision, key, 1)));
        let batch = EventBatch {
            base,
            revision: base + revisions.len() as u64,
            time_ms: 7,
            events: Some(events.collect()),
            messages: Some(vec![]),
        };
        self.with(|streams, now, sink| streams.publish(&batch, now, sink));
    }

    fn lose(&mut self, count: u64) {
        let base = self.streams.revision();
        let batch = EventBatch { base, revision: base + count, time_ms: 7, events: None, messages: Some(vec![]) };
        self.with(|streams, now, sink| streams.publish(&batch, now, sink));
    }

    fn flush(&mut self) {
        self.with(|streams, now, sink| streams.flush(now, sink));
    }

    fn after(&mut self, pause: Duration) {
        self.now += pause;
        self.with(|streams, now, sink| streams.due(now, sink));
    }

    /// What was sent since the last call, by prefix.
    fn said(&mut self) -> Vec<Said> {
        let mut said: Vec<_> =
            std::mem::take(&mut self.sent).into_iter().map(|(prefix, message)| told(&prefix, &message)).collect();
        said.sort();
        said
    }
}

fn told(prefix: &[u8], message: &StreamMessage) -> Said {
    assert_eq!(message.epoch, EPOCH);
    let events = message.events.iter().map(|events| (events.revision, events.changes.len())).collect();
    (String::from_utf8(prefix.to_vec()).unwrap(), message.prev, message.revision, events)
}

fn put(revision: u64, key: &[u8], bytes: usize) -> Event {
    Event { revision, key: key.to_vec(), kind: VersionKind::Put(Stored::text(&"v".repeat(bytes)).unwrap()) }
}

fn bookmark(prefix: &str, prev: u64, revision: u64) -> Said {
    (prefix.to_owned(), prev, revision, vec![])
}

#[test]
fn whoever_joins_gets_one_bookmark_and_then_the_chain() {
    let mut bench = Bench::at(10);
    for prefix in [b"a/".as_slice(), b"", b"a/b", b"z", b"a/"] {
        bench.begin(prefix);
    }
    assert_eq!(bench.streams.next_due(), Some(bench.now));
    bench.after(Duration::ZERO);
    assert_eq!(bench.said(), ["", "a/", "a/b", "z"].map(|prefix| bookmark(prefix, 10, 10)), "one for each prefix");
    // One transaction over several of them, another revision, one that nobody but the root has, and one more batch.
    bench.publish(&[&[b"a/a", b"a/b", b"a/b/1", b"b"], &[b"a/bc"], &[b"q"]]);
    bench.publish(&[&[b"a/b"]]);
    assert_eq!(bench.said(), [], "gathered");
    bench.flush();
    let expected = [
        (String::new(), 10, 14, vec![(11, 4), (12, 1), (13, 1), (14, 1)]),
        ("a/".to_owned(), 10, 14, vec![(11, 3), (12, 1), (14, 1)]),
        ("a/b".to_owned(), 10, 14, vec![(11, 2), (12, 1), (14, 1)]),
    ];
    assert_eq!(bench.said(), expected);
    bench.publish(&[&[b"z"]]);
    bench.flush();
    let expected = [(String::new(), 14, 15, vec![(15, 1)]), ("z".to_owned(), 10, 15, vec![(15, 1)])];
    assert_eq!(bench.said(), expected, "each goes on where it ended");
    bench.flush();
    assert_eq!(bench.said(), []);
}

#[test]
fn a_message_has_times_and_changes_as_they_were() {
    let mut bench = Bench::at(0);
    bench.begin(b"k");
    let kinds = [VersionKind::Put(Stored::from_json(b"[1]").unwrap()), VersionKind::Remove, VersionKind::Expire];
    let events = kinds.into_iter().zip(b'1'..).map(|(kind, name)| Event { revision: 1, key: vec![b'k', name], kind });
    let batch = EventBatch { base: 0, revision: 1, time_ms: 1_234, events: Some(events.collect()), messages: Some(vec![]) };
    bench.with(|streams, now, sink| streams.publish(&batch, now, sink));
    bench.flush();
    let (_, message) = bench.sent.pop().unwrap();
    let [RevisionEvents { revision: 1, time_ms: 1_234, ref changes, .. }] = message.events[..] else { panic!("{message:?}") };
    let told: Vec<_> = changes.iter().map(|change| (change.key.as_slice(), change.kind.name())).collect();
    assert_eq!(told, [(b"k1".as_slice(), "put"), (b"k2", "remove"), (b"k3", "expire")]);
}

#[test]
fn what_was_lost_breaks_every_chain_and_every_stream_is_told() {
    let mut bench = Bench::at(10);
    [b"a".as_slice(), b"b", b"c"].into_iter().for_each(|prefix| bench.begin(prefix));
    bench.after(Duration::ZERO);
    bench.said();
    bench.publish(&[&[b"a"]]);
    bench.lose(2);
    assert_eq!(bench.said(), [("a".to_owned(), 10, 11, vec![(11, 1)])], "what was gathered before is told whole");
    bench.publish(&[&[b"b"]]);
    bench.flush();
    assert_eq!(bench.said(), [("b".to_owned(), 13, 14, vec![(14, 1)])], "its chain has a hole");
    assert!(bench.streams.next_due() <= Some(bench.now), "the others are told at once");
    bench.after(Duration::ZERO);
    assert_eq!(bench.said(), [bookmark("a", 13, 14), bookmark("c", 13, 14)]);
    // The next tour is a second away, and then comes.
    bench.lose(1);
    bench.after(SWEEP_PAUSE - MS);
    assert_eq!(bench.said(), []);
    assert_eq!(bench.streams.next_due(), Some(bench.now + MS));
    bench.after(MS);
    assert_eq!(bench.said(), ["a", "b", "c"].map(|prefix| bookmark(prefix, 15, 15)));
    // A batch that does not go on where the one before ended is a hole, and one that was known is none.
    let batch = |base, revision| EventBatch {
        base,
        revision,
        time_ms: 0,
        events: Some(vec![put(revision, b"a", 1)]),
        messages: Some(vec![]),
    };
    bench.with(|streams, now, sink| streams.publish(&batch(16, 17), now, sink));
    bench.with(|streams, now, sink| streams.publish(&batch(14, 15), now, sink));
    bench.publish(&[&[b"a"]]);
    bench.flush();
    assert_eq!(bench.said(), [("a".to_owned(), 17, 18, vec![(18, 1)])]);
}

#[test]
fn a_tour_of_many_streams_ends_and_leaves_room_for_others() {
    let mut bench = Bench::at(0);
    let prefix = |number: usize| format!("{number:05}").into_bytes();
    let many = 3 * BOOKMARKS_AT_ONCE;
    (0..many).for_each(|number| bench.begin(&prefix(number)));
    for _ in 0..3 {
        assert!(bench.streams.next_due() <= Some(bench.now));
        bench.after(Duration::ZERO);
        assert_eq!(bench.said().len(), BOOKMARKS_AT_ONCE);
        bench.after(ROUND_PAUSE / 2);
        assert_eq!(bench.said(), []);
        bench.now += ROUND_PAUSE / 2;
    }
    bench.lose(5);
    bench.publish(&[&[&prefix(7)]]);
    bench.flush();
    assert_eq!(bench.said().len(), 1);
    let (mut told, mut rounds) = (0, 0);
    while told < many - 1 {
        assert!(bench.streams.next_due() <= Some(bench.now) && rounds < 4);
        bench.after(Duration::ZERO);
        (told, rounds) = (told + bench.said().len(), rounds + 1);
        bench.now += ROUND_PAUSE;
    }
    assert_eq!((told, rounds), (many - 1, 3));
}

#[test]
fn a_large_revision_is_a_hole_and_a_long_message_is_cut_between_revisions() {
    let mut bench = Bench::at(0);
    bench.begin(b"a/");
    bench.begin(b"a/small");
    bench.after(Duration::ZERO);
    bench.said();
    let whole = limits::STREAM_REVISION_BYTES_MAX;
    let batch = |base: u64, sizes: &[usize]| EventBatch {
        base,
        revision: base + sizes.len() as u64,
        time_ms: 7,
        events: Some(sizes.iter().zip(base + 1..).map(|(bytes, revision)| put(revision, b"a/big", *bytes)).collect()),
        messages: Some(vec![]),
    };
    // The second and third together are too long, the fourth by itself as well, and the sixth is not sent at all.
    let sizes = [10, 40_000, 40_000, whole / 2, 10, whole, 10];
    bench.with(|streams, now, sink| streams.publish(&batch(0, &sizes), now, sink));
    let mut both = batch(7, &[whole]);
    both.events.as_mut().unwrap().push(put(8, b"a/small", 1));
    bench.with(|streams, now, sink| streams.publish(&both, now, sink));
    bench.flush();
    let expected = [
        ("a/".to_owned(), 0, 2, vec![(1, 1), (2, 1)]),
        ("a/".to_owned(), 2, 3, vec![(3, 1)]),
        ("a/".to_owned(), 3, 4, vec![(4, 1)]),
        ("a/".to_owned(), 4, 5, vec![(5, 1)]),
        bookmark("a/", 6, 6),
        ("a/".to_owned(), 6, 7, vec![(7, 1)]),
        bookmark("a/", 8, 8),
        ("a/small".to_owned(), 0, 8, vec![(8, 1)]),
    ];
    assert_eq!(bench.said(), expected, "the small change of the last one is told to whom it concerns");
    bench.publish(&[&[b"a/b"]]);
    bench.flush();
    assert_eq!(bench.said(), [("a/".to_owned(), 8, 9, vec![(9, 1)])]);
}

#[test]
fn what_is_gathered_is_bounded() {
    let mut bench = Bench::at(0);
    (0..1_000_usize).for_each(|depth| bench.begin(&vec![b'x'; depth]));
    let long = vec![b'x'; 1_000];
    for _ in 0..20 {
        let base = bench.streams.revision();
        let events = Some(vec![put(base + 1, &long, 10_000)]);
        let batch = EventBatch { base, revision: base + 1, time_ms: 7, events, messages: Some(vec![]) };
        bench.with(|streams, now, sink| streams.publish(&batch, now, sink));
        let most = limits::STREAMS_GATHERED_BYTES_MAX;
        assert!(bench.streams.gathered_bytes <= most, "{} bytes", bench.streams.gathered_bytes);
    }
    bench.flush();
    assert_eq!(bench.streams.gathered_bytes, 0);
    assert_eq!(bench.said().iter().flat_map(|(_, _, _, events)| events).count(), 20 * 1_000);
}

#[test]
fn a_large_revision_of_many_streams_is_not_gathered_for_all_of_them() {
    const VALUE_BYTES: usize = 900_000;
    let mut bench = Bench::at(0);
    (0..100_usize).for_each(|depth| bench.begin(&vec![b'x'; depth]));
    let events = Some(vec![put(1, &[b'x'; 100], VALUE_BYTES)]);
    let batch = EventBatch { base: 0, revision: 1, time_ms: 7, events, messages: Some(vec![]) };
    let mut depths = Vec::new();
    let mut sink = |topic: &[u8], body: Vec<u8>| {
        assert!(body.len() > VALUE_BYTES);
        depths.push(topic.len() - stream_topic(b"").len());
    };
    bench.streams.publish(&batch, bench.now, &mut sink);
    bench.streams.flush(bench.now, &mut sink);
    assert_eq!(depths.first(), Some(&(limits::STREAMS_GATHERED_BYTES_MAX / VALUE_BYTES)), "the first with which it is too much");
    depths.sort_unstable();
    assert_eq!(depths, (0..100).collect::<Vec<_>>(), "each once");
}

#[test]
fn silence_is_told_with_longer_and_longer_pauses() {
    let mut bench = Bench::at(5);
    bench.begin(b"a");
    bench.after(Duration::ZERO);
    bench.said();
    let begin = bench.now;
    let mut pauses = Vec::new();
    let mut last = begin;
    while bench.now < begin + 130 * BOOKMARK_FIRST {
        let next = bench.streams.next_due().unwrap();
        let until = next - bench.now;
        bench.after(until);
        if bench.said() == [bookmark("a", 5, 5)] {
            pauses.push((bench.now - last).as_secs_f64().round() as u64);
            last = bench.now;
        }
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30, 30, 30]);
    // A message begins it anew; while there are messages, nothing else is sent.
    for _ in 0..10 {
        bench.publish(&[&[b"a"]]);
        bench.flush();
        assert_eq!(bench.said().len(), 1);
        bench.after(BOOKMARK_FIRST / 2);
        assert_eq!(bench.said(), []);
    }
    let rest = BOOKMARK_FIRST / 2;
    bench.after(rest);
    assert_eq!(bench.said(), [bookmark("a", 15, 15)]);
    bench.after(BOOKMARK_FIRST);
    assert_eq!(bench.said(), []);
    bench.after(BOOKMARK_FIRST);
    assert_eq!(bench.said(), [bookmark("a", 15, 15)]);
}

#[test]
fn streams_that_began_together_do_not_speak_together_for_long() {
    let mut bench = Bench::at(0);
    let many: u64 = 4 * u64::from(SPREAD_STEPS);
    (0..many).for_each(|number| bench.begin(&number.to_be_bytes()));
    let begin = bench.now;
    let mut most_at_once = 0;
    while bench.now < begin + 200 * BOOKMARK_FIRST {
        let until = bench.streams.next_due().unwrap().saturating_duration_since(bench.now).max(50 * MS);
        bench.after(until);
        let said = std::mem::take(&mut bench.sent).len();
        if bench.now > begin + 90 * BOOKMARK_FIRST {
            most_at_once = most_at_once.max(said);
        }
    }
    assert!(most_at_once < many as usize / 8, "{most_at_once} at once");
}

#[test]
fn many_who_join_what_others_watch_share_their_bookmarks() {
    let mut bench = Bench::at(5);
    bench.begin(b"a");
    bench.after(Duration::ZERO);
    bench.publish(&[&[b"b"]]);
    bench.said();
    (0..1_000).for_each(|_| bench.begin(b"a"));
    assert_eq!(bench.streams.next_due(), Some(bench.now + JOIN_PAUSE));
    bench.after(JOIN_PAUSE);
    assert_eq!(bench.said(), [bookmark("a", 5, 6)]);
    bench.after(JOIN_PAUSE);
    assert_eq!(bench.said(), []);
    // A message that comes in between is as good as a bookmark.
    bench.begin(b"a");
    bench.publish(&[&[b"a"]]);
    bench.flush();
    assert_eq!(bench.said().len(), 1);
    bench.after(JOIN_PAUSE);
    assert_eq!(bench.said(), []);
}

#[test]
fn what_nobody_watches_any_more_costs_nothing_and_begins_anew() {
    let mut bench = Bench::at(5);
    bench.begin(b"a");
    bench.begin(b"b");
    bench.after(Duration::ZERO);
    bench.publish(&[&[b"a"]]);
    bench.streams.end(StreamKind::Changes, b"a");
    bench.streams.end(StreamKind::Changes, b"never");
    bench.said();
    bench.flush();
    assert_eq!(bench.said(), []);
    bench.publish(&[&[b"a"]]);
    bench.flush();
    assert_eq!(bench.said(), []);
    bench.begin(b"a");
    bench.after(Duration::ZERO);
    assert_eq!(bench.said(), [bookmark("a", 7, 7)], "whoever has less asks for what was in between");
    bench.publish(&[&[b"b"]]);
    bench.streams.end_all();
    bench.flush();
    assert_eq!((bench.said(), bench.streams.next_due(), bench.streams.is_empty()), (vec![], None, true));
    assert_eq!((bench.streams.revision(), bench.streams.gathered_bytes), (8, 0));
    bench.begin(b"b");
    bench.after(Duration::ZERO);
    assert_eq!(bench.said(), [bookmark("b", 8, 8)]);
}

#[test]
fn there_are_only_so_many_streams() {
    let mut bench = Bench::at(0);
    (0..limits::STREAMS_MAX).for_each(|number| bench.begin(&number.to_be_bytes()));
    assert!(!bench.streams.begin(StreamKind::Changes, b"one more", bench.now));
    assert!(bench.streams.begin(StreamKind::Changes, &0_usize.to_be_bytes(), bench.now), "whoever joins one of them is welcome");
    bench.streams.end(StreamKind::Changes, &0_usize.to_be_bytes());
    assert!(bench.streams.begin(StreamKind::Changes, b"one more", bench.now));
}

/// A reader with the one rule of the protocol, and a refill that always knows everything.
#[derive(Default)]
struct Reader {
    verified: u64,
    has: BTreeMap<u64, usize>,
    refills: usize,
    ignored: usize,
}

impl Reader {
    fn read(&mut self, message: &StreamMessage, truth: &BTreeMap<u64, usize>) {
        if message.revision <= self.verified {
            self.ignored += 1;
            return;
        }
        if message.prev > self.verified {
            self.refills += 1;
            let missed = truth.range(self.verified + 1..=message.prev);
            self.has.extend(missed.map(|(revision, changes)| (*revision, *changes)));
            self.verified = message.prev;
        }
        for events in &message.events {
            if events.revision > self.verified {
                assert_eq!(self.has.insert(events.revision, events.changes.len()), None, "told twice");
            }
        }
        self.verified = message.revision;
    }
}

/// However messages, batches and streams come and go: who follows the rule has everything, each once and whole.
#[test]
fn whoever_follows_the_rule_misses_nothing() {
    let (mut refills, mut ignored) = (0, 0);
    for seed in 1..60_u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut roll = move |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) % below
        };
        let is_lossy = seed % 3 > 0;
        let prefixes: [&[u8]; 6] = [b"", b"a", b"a/", b"a/b", b"b", b"never"];
        let mut truth: Vec<BTreeMap<u64, usize>> = vec![BTreeMap::new(); prefixes.len()];
        let mut readers: Vec<Reader> = prefixes.iter().map(|_| Reader::default()).collect();
        let mut bench = Bench::at(0);
        prefixes.iter().for_each(|prefix| bench.begin(prefix));
        for _ in 0..400 {
            let lost = is_lossy && roll(20) == 0;
            let base = bench.streams.revision();
            let revisions = roll(5);
            let mut events = Vec::new();
            for revision in base + 1..=base + revisions {
                let mut keys: Vec<Vec<u8>> =
                    (0..roll(4)).map(|_| (0..roll(5)).map(|_| b"ab/"[roll(3) as usize]).collect()).collect();
                keys.sort();
                keys.dedup();
                for (prefix, truth) in prefixes.iter().zip(&mut truth) {
                    let changes = keys.iter().filter(|key| key.starts_with(prefix)).count();
                    truth.extend((changes > 0).then_some((revision, changes)));
                }
                let bytes = if roll(30) == 0 { 70_000 } else { 1 };
                events.extend(keys.iter().map(|key| put(revision, key, bytes)));
            }
            let batch = EventBatch {
                base,
                revision: base + revisions,
                time_ms: 7,
                events: (!lost).then_some(events),
                messages: Some(vec![]),
            };
            bench.with(|streams, now, sink| streams.publish(&batch, now, sink));
            match roll(6) {
                0 => bench.after(Duration::from_millis(roll(1_500))),
                1 if is_lossy => {
                    let prefix = prefixes[roll(6) as usize];
                    bench.streams.end(StreamKind::Changes, prefix);
                    bench.begin(prefix);
                }
                _ => bench.flush(),
            }
            for (prefix, message) in std::mem::take(&mut bench.sent) {
                let at = prefixes.iter().position(|one| *one == prefix).unwrap();
                if !(is_lossy && roll(10) == 0) {
                    readers[at].read(&message, &truth[at]);
                }
            }
        }
        // The last words, which are not lost.
        bench.after(2 * BOOKMARK_LAST);
        let revision = bench.streams.revision();
        for (prefix, message) in std::mem::take(&mut bench.sent) {
            let at = prefixes.iter().position(|one| *one == prefix).unwrap();
            readers[at].read(&message, &truth[at]);
        }
        for (reader, truth) in readers.iter().zip(&truth) {
            assert_eq!((reader.verified, &reader.has), (revision, truth), "seed {seed}");
            assert!(is_lossy || reader.refills == 0, "nothing was lost, so nothing had to be asked for");
            refills += reader.refills;
            ignored += reader.ignored;
        }
    }
    assert!(refills > 100 && ignored > 100, "{refills} holes, {ignored} messages that said nothing new");
}

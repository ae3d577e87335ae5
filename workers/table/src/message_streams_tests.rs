#![allow(clippy::unwrap_used)]
use kvbroker_core::Message;
use kvbroker_protocol::{PublishedMessages, Stored, StreamMessage, VersionKind};

use super::*;

/// A message of a stream: its pattern, its span, and what it tells: revision and subject.
type Said = (String, u64, u64, Vec<(u64, String)>);

/// Streams of messages, and of changes beside them, and what they have sent.
struct Bench {
    streams: Streams,
    now: Instant,
    said: Vec<Said>,
    /// Streams of changes: prefix, span, and how many revisions.
    changes: Vec<(String, u64, u64, usize)>,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

impl Bench {
    fn at(revision: u64) -> Bench {
        Bench { streams: Streams::new(7, revision), now: Instant::now(), said: vec![], changes: vec![] }
    }

    fn with(&mut self, act: impl FnOnce(&mut Streams, Instant, &mut StreamSink<'_>)) {
        let Bench { streams, now, said, changes } = self;
        let mut sink = |topic: &[u8], body: Vec<u8>| {
            if let Some((prefix, message)) = StreamMessage::decode(topic, &body).unwrap() {
                return changes.push((text(&prefix), message.prev, message.revision, message.events.len()));
            }
            let (pattern, message) = PublishedMessages::decode(topic, &body).unwrap().unwrap();
            let told = message.revisions.iter().flat_map(|of| {
                assert_eq!(of.time_ms, 7);
                of.messages.iter().map(|one| (of.revision, text(&one.subject)))
            });
            said.push((text(&pattern), message.prev, message.revision, told.collect()));
        };
        act(streams, *now, &mut sink);
    }

    fn listen(&mut self, patterns: &[&str]) {
        for pattern in patterns {
            assert!(self.streams.begin(StreamKind::Messages, pattern.as_bytes(), self.now));
        }
        self.due();
    }

    fn due(&mut self) {
        self.with(|streams, now, sink| streams.due(now, sink));
    }

    /// A batch of so many revisions, with messages about these subjects in some of them.
    fn publish(&mut self, revisions: u64, messages: &[(u64, &str)]) {
        let base = self.streams.revision();
        let messages = messages.iter().map(|(revision, subject)| publication(*revision, subject, 1)).collect();
        self.batch(base, revisions, Some(messages));
    }

    fn batch(&mut self, base: u64, revisions: u64, messages: Option<Vec<Publication>>) {
        let batch = EventBatch { base, revision: base + revisions, time_ms: 7, events: None, messages };
        self.with(|streams, now, sink| streams.publish(&batch, now, sink));
    }

    fn flush(&mut self) -> Vec<Said> {
        self.with(|streams, now, sink| streams.flush(now, sink));
        let mut said = std::mem::take(&mut self.said);
        said.sort();
        said
    }
}

fn publication(revision: u64, subject: &str, bytes: usize) -> Publication {
    let value = Stored::text(&"v".repeat(bytes)).unwrap();
    Publication { revision, message: Message { subject: subject.into(), value } }
}

fn said(pattern: &str, prev: u64, revision: u64, told: &[(u64, &str)]) -> Said {
    (pattern.to_owned(), prev, revision, told.iter().map(|(revision, subject)| (*revision, (*subject).to_owned())).collect())
}

#[test]
fn each_pattern_has_its_messages_in_order_and_its_own_chain() {
    let mut bench = Bench::at(10);
    bench.listen(&["a.*", "#", "a.b", "never", "a.*"]);
    let bookmarks = ["#", "a.*", "a.b", "never"].map(|pattern| said(pattern, 10, 10, &[]));
    assert_eq!(bench.flush(), bookmarks, "one for each pattern, however many listen");
    // Puts take revisions, too. The messages of revision 12 lie apart for `a.*`.
    bench.publish(4, &[(12, "a.b"), (12, "b"), (12, "a.c"), (14, "b")]);
    bench.publish(1, &[(15, "a.b")]);
    assert_eq!(bench.said, [], "gathered");
    let expected = [
        said("#", 10, 15, &[(12, "a.b"), (12, "b"), (12, "a.c"), (14, "b"), (15, "a.b")]),
        said("a.*", 10, 15, &[(12, "a.b"), (12, "a.c"), (15, "a.b")]),
        said("a.b", 10, 15, &[(12, "a.b"), (15, "a.b")]),
    ];
    assert_eq!(bench.flush(), expected);
    // Who joins in the middle begins there, and the others hear no more than that.
    bench.publish(1, &[]);
    bench.now += JOIN_PAUSE;
    bench.listen(&["b", "a.b"]);
    assert_eq!(bench.flush(), [said("a.b", 15, 16, &[]), said("b", 16, 16, &[])]);
    bench.publish(2, &[(17, "b")]);
    assert_eq!(bench.flush(), [said("#", 15, 18, &[(17, "b")]), said("b", 16, 18, &[(17, "b")])]);
    bench.streams.end(StreamKind::Messages, b"b");
    bench.publish(1, &[(19, "b")]);
    assert_eq!(bench.flush(), [said("#", 18, 19, &[(19, "b")])]);
}

#[test]
fn what_was_lost_is_a_hole_in_every_chain_and_all_are_told_of_it() {
    let mut bench = Bench::at(0);
    bench.listen(&["a", "b"]);
    bench.flush();
    bench.publish(1, &[(1, "a")]);
    bench.batch(1, 3, None);
    bench.publish(1, &[(5, "a")]);
    assert_eq!(bench.flush(), [said("a", 0, 1, &[(1, "a")]), said("a", 4, 5, &[(5, "a")])]);
    bench.due();
    assert_eq!(bench.flush(), [said("b", 4, 5, &[])]);
    // So is what the queue has not given at all.
    bench.batch(8, 1, Some(vec![publication(9, "a", 1)]));
    bench.now += SWEEP_PAUSE;
    bench.due();
    assert_eq!(bench.flush(), [said("a", 9, 9, &[]), said("b", 9, 9, &[])]);
}

#[test]
fn changes_and_messages_are_lost_each_for_itself() {
    let mut bench = Bench::at(0);
    bench.listen(&["#"]);
    assert!(!bench.streams.has_watchers());
    assert!(bench.streams.begin(StreamKind::Changes, b"", bench.now));
    assert!(bench.streams.has_watchers());
    bench.due();
    bench.flush();
    bench.changes.clear();
    // Changes that nobody was told of, in between messages that were.
    bench.publish(2, &[(1, "x"), (2, "y")]);
    assert_eq!(bench.flush(), [said("#", 0, 2, &[(1, "x"), (2, "y")])]);
    bench.due();
    assert_eq!(bench.changes, [(String::new(), 2, 2, 0)]);
    bench.changes.clear();
    // And the other way round: revision 3 has a change, 4 has both, and the messages are lost.
    let event = |revision| Event { revision, key: b"k".to_vec(), kind: VersionKind::Remove };
    let batch = EventBatch { base: 2, revision: 4, time_ms: 7, events: Some(vec![event(3), event(4)]), messages: None };
    bench.with(|streams, now, sink| streams.publish(&batch, now, sink));
    assert_eq!(bench.flush(), []);
    assert_eq!(bench.changes, [(String::new(), 2, 4, 2)]);
    bench.now += SWEEP_PAUSE;
    bench.due();
    assert_eq!(bench.flush(), [said("#", 4, 4, &[])]);
}

/// What is gathered leaves in the midst of a batch when it is much, and is complete up to there on every stream.
#[test]
fn changes_and_messages_of_a_batch_are_taken_revision_by_revision() {
    const REVISIONS: u64 = 40;
    let mut bench = Bench::at(0);
    bench.listen(&["#", "m"]);
    assert!(bench.streams.begin(StreamKind::Changes, b"", bench.now));
    bench.due();
    bench.flush();
    bench.changes.clear();
    let value = || Stored::text(&"v".repeat(900_000)).unwrap();
    let event = |revision| Event { revision, key: b"k".to_vec(), kind: VersionKind::Put(value()) };
    let events = Some((1..=REVISIONS).map(event).collect());
    let messages = Some((1..=REVISIONS).map(|revision| publication(revision, "m", 1_000)).collect());
    let batch = EventBatch { base: 0, revision: REVISIONS, time_ms: 7, events, messages };
    bench.with(|streams, now, sink| streams.publish(&batch, now, sink));
    for pattern in ["#", "m"] {
        bench.with(|streams, now, sink| streams.flush(now, sink));
        let (mut last, mut told) = (0, vec![]);
        for (_, prev, revision, messages) in bench.said.iter().filter(|said| said.0 == pattern) {
            assert_eq!(*prev, last);
            last = *revision;
            told.extend(messages.iter().map(|(revision, _)| *revision));
        }
        assert_eq!((last, told), (REVISIONS, (1..=REVISIONS).collect()));
    }
    assert!(bench.changes.windows(2).all(|pair| pair[0].2 == pair[1].1));
}

#[test]
fn a_message_that_is_too_large_is_a_hole_and_the_next_one_comes() {
    let mut bench = Bench::at(0);
    bench.listen(&["#"]);
    bench.flush();
    let large = limits::STREAM_REVISION_BYTES_MAX + 1;
    let messages = vec![publication(1, "a", 1), publication(2, "large", large), publication(3, "b", 1)];
    bench.batch(0, 3, Some(messages));
    let expected = [said("#", 0, 1, &[(1, "a")]), said("#", 2, 2, &[]), said("#", 2, 3, &[(3, "b")])];
    assert_eq!(bench.flush(), expected);
}

#[test]
fn a_subject_for_which_there_are_too_many_patterns_is_a_hole_for_all() {
    let mut bench = Bench::at(0);
    let deep = ["a"; 32].join(".");
    bench.listen(&["b"]);
    let mut number = 0;
    while bench.streams.patterns.find(deep.as_bytes(), limits::ROUTE_STEPS_MAX).is_some() {
        // Each has places of its own for any number of tokens.
        let tokens: Vec<&str> = (0..30).map(|at| if at % 2 == 0 { "#" } else { ["a", "*"][number >> (at / 2) & 1] }).collect();
        assert!(bench.streams.begin(StreamKind::Messages, tokens.join(".").as_bytes(), bench.now));
        number += 1;
        assert!(number < 5_000, "so many patterns are no trouble");
    }
    bench.due();
    bench.said.clear();
    bench.publish(1, &[(1, "b")]);
    bench.publish(3, &[(2, "b"), (3, &deep), (3, "b"), (4, "b")]);
    let of_b: Vec<Said> = bench.flush().into_iter().filter(|said| said.0 == "b").collect();
    assert_eq!(of_b, [said("b", 0, 2, &[(1, "b"), (2, "b")]), said("b", 3, 4, &[(4, "b")])]);
}

#[test]
fn whoever_publishes_is_told_whether_anybody_listens() {
    let interest = Arc::new(Interest::default());
    let mut streams = Streams::new(7, 0).noted_in(Arc::clone(&interest));
    let now = Instant::now();
    assert!(streams.begin(StreamKind::Changes, b"", now) && !interest.has_listeners());
    assert!(streams.begin(StreamKind::Messages, b"a", now) && streams.begin(StreamKind::Messages, b"b", now));
    streams.end(StreamKind::Messages, b"a");
    assert!(interest.has_listeners());
    streams.end(StreamKind::Messages, b"b");
    assert!(!interest.has_listeners());
    assert!(streams.begin(StreamKind::Messages, b"b", now) && interest.has_listeners());
    streams.end_all();
    assert!(!interest.has_listeners() && streams.is_empty());
}

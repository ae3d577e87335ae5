//! Who subscribes to what: counted for each connection and each user.
//!
//! libzmq keeps a topic as a chain of nodes, some fifty bytes for each of its bytes, and asks nobody whether it should.
//!
//! - A topic counts once for each connection that subscribes to it. What counts for a user is the sum over its connections.
//! - Only messages with an authenticated sender count, and only for the connection that they came by: nobody can end what another has
//!   subscribed to. A connection that ends takes its topics along.
//! - The topics of streams are counted over all connections as well: [`Subscriptions::take_changes`] says which of them somebody has
//!   joined, and which nobody reads any more.
//! - Beyond its budget a user is named by [`Subscriptions::excess`]; beyond what all may have together, the user with most bytes is.
//!
//! Caveat: a connection is known by its descriptor, which the next one may get. Events are therefore read between a
//! message's arrival and its counting; a late message of a connection that has just ended may still be counted for its successor, until that one ends.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use kvbroker::transport::{MonitorEvent, MonitorEventKind};
use kvbroker_protocol::{FEED_CHANGE_TOPIC, StreamKind, limits};

/// A message of the XPUB: the beginning or the end of a subscription.
#[derive(Debug)]
pub(super) struct Notice {
    /// The descriptor of the connection that it came by.
    pub(super) connection: u32,
    /// Who sent it.
    pub(super) user: Arc<str>,
    pub(super) is_begin: bool,
    pub(super) topic: Box<[u8]>,
}

/// What happened to the stream with this topic.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum StreamChange {
    /// Somebody subscribes to it, be it the first or one more.
    Joined(Box<[u8]>),
    /// Nobody does any more.
    Left(Box<[u8]>),
}

/// What is subscribed to.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    /// The open connections, by descriptor.
    connections: HashMap<u32, Connection>,
    users: HashMap<Arc<str>, Usage>,
    all: Usage,
    /// Subscriptions that lead to the feed.
    feeds: usize,
    /// How many connections read each stream, by topic.
    streams: HashMap<Box<[u8]>, usize>,
    changes: Vec<StreamChange>,
}

#[derive(Debug, Default)]
struct Connection {
    /// None until its first subscription.
    user: Option<Arc<str>>,
    topics: HashSet<Box<[u8]>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Usage {
    topics: usize,
    bytes: usize,
}

impl Usage {
    fn add(&mut self, topic: &[u8]) {
        self.topics += 1;
        self.bytes += topic.len();
    }

    fn take(&mut self, topic: &[u8]) {
        self.topics -= 1;
        self.bytes -= topic.len();
    }
}

impl Subscriptions {
    /// Notes an event of the XPUB's connections.
    pub(super) fn connection(&mut self, event: &MonitorEvent) {
        match event.kind {
            MonitorEventKind::Accepted => {
                self.end(event.value);
                self.connections.insert(event.value, Connection::default());
            }
            MonitorEventKind::Disconnected => self.end(event.value),
            _ => {}
        }
    }

    /// Counts a message. Of a connection that has ended it counts nothing.
    pub(super) fn note(&mut self, notice: Notice) {
        let Notice { connection: number, user, is_begin, topic } = notice;
        let Some(connection) = self.connections.get(&number) else { return };
        if connection.user.as_ref().is_some_and(|known| *known != user) {
            // What was counted came from the descriptor's former owner.
            self.end(number);
            self.connections.insert(number, Connection::default());
        }
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let user = connection.user.get_or_insert(user);
        let is_feed = leads_to_feed(&topic);
        if is_begin {
            let is_stream = StreamKind::of_topic(&topic).is_some();
            // Also for one that comes once more, in hope of a bookmark.
            self.changes.extend(is_stream.then(|| StreamChange::Joined(topic.clone())));
            if connection.topics.contains(&topic) {
                return;
            }
            if is_stream {
                *self.streams.entry(topic.clone()).or_default() += 1;
            }
            self.users.entry(user.clone()).or_default().add(&topic);
            self.all.add(&topic);
            self.feeds += usize::from(is_feed);
            connection.topics.insert(topic);
        } else if connection.topics.remove(&topic) {
            release(&mut self.users, user, [&*topic]);
            self.all.take(&topic);
            self.feeds -= usize::from(is_feed);
            leave(&mut self.streams, &mut self.changes, &topic);
        }
    }

    fn end(&mut self, number: u32) {
        let Some(Connection { user: Some(user), topics }) = self.connections.remove(&number) else { return };
        for topic in &topics {
            self.all.take(topic);
            self.feeds -= usize::from(leads_to_feed(topic));
            leave(&mut self.streams, &mut self.changes, topic);
        }
        release(&mut self.users, &user, topics.iter().map(|topic| &**topic));
    }

    /// A user who has more than it may, or, if all have more together than they may, the one with most.
    pub(super) fn excess(&self) -> Option<Arc<str>> {
        let is_over = |usage: &Usage| {
            usage.topics > limits::SUBSCRIPTIONS_PER_USER_MAX || usage.bytes > limits::SUBSCRIPTION_BYTES_PER_USER_MAX
        };
        let too_many = self.all.topics > limits::SUBSCRIPTIONS_MAX || self.all.bytes > limits::SUBSCRIPTION_BYTES_MAX;
        let largest = self.users.iter().max_by_key(|(_, usage)| usage.bytes + usage.topics * limits::SUBSCRIPTION_BASE_BYTES)?;
        (too_many || is_over(largest.1))
            .then_some(largest.0)
            .or_else(|| self.users.iter().find(|(_, usage)| is_over(usage)).map(|(user, _)| user))
            .cloned()
    }

    /// What has happened to the streams since the last call, in order.
    pub(super) fn take_changes(&mut self) -> Vec<StreamChange> {
        std::mem::take(&mut self.changes)
    }

    /// The connections that subscribe to anything, by descriptor.
    pub(super) fn subscribed(&self) -> impl Iterator<Item = u32> {
        self.connections.iter().filter(|(_, connection)| !connection.topics.is_empty()).map(|(number, _)| *number)
    }

    /// Whose a connection is.
    pub(super) fn user_of(&self, connection: u32) -> Option<&Arc<str>> {
        self.connections.get(&connection)?.user.as_ref()
    }

    /// Whether somebody reads the plain feed.
    pub(super) fn feed_wanted(&self) -> bool {
        self.feeds > 0
    }

    /// Subscriptions of all connections, and the bytes of their topics.
    pub(super) fn totals(&self) -> (u64, u64) {
        (self.all.topics as u64, self.all.bytes as u64)
    }
}

fn leads_to_feed(topic: &[u8]) -> bool {
    topic.first().is_none_or(|kind| *kind == FEED_CHANGE_TOPIC)
}

/// One connection less reads the stream with this topic, if it is one.
fn leave(streams: &mut HashMap<Box<[u8]>, usize>, changes: &mut Vec<StreamChange>, topic: &[u8]) {
    let Some(reading) = streams.get_mut(topic) else { return };
    *reading -= 1;
    if *reading == 0 {
        streams.remove(topic);
        changes.push(StreamChange::Left(topic.into()));
    }
}

fn release<'a>(users: &mut HashMap<Arc<str>, Usage>, user: &Arc<str>, topics: impl IntoIterator<Item = &'a [u8]>) {
    let Some(usage) = users.get_mut(user) else { return };
    for topic in topics {
        usage.take(topic);
    }
    if usage.topics == 0 {
        users.remove(user);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: MonitorEventKind, value: u32) -> MonitorEvent {
        MonitorEvent { kind, value, endpoint: String::new() }
    }

    fn connected(numbers: &[u32]) -> Subscriptions {
        let mut subscriptions = Subscriptions::default();
        for number in numbers {
            subscriptions.connection(&event(MonitorEventKind::Accepted, *number));
        }
        subscriptions
    }

    fn note(subscriptions: &mut Subscriptions, connection: u32, user: &str, is_begin: bool, topic: &[u8]) {
        subscriptions.note(Notice { connection, user: user.into(), is_begin, topic: topic.into() });
    }

    #[test]
    fn the_feed_is_wanted_while_somebody_subscribes_to_it() {
        let mut all = connected(&[1, 2]);
        note(&mut all, 1, "a", true, b"h");
        assert!(!all.feed_wanted());
        note(&mut all, 1, "a", true, b"kuser/");
        note(&mut all, 1, "a", true, b"kuser/");
        note(&mut all, 2, "b", true, b"kuser/");
        note(&mut all, 1, "a", false, b"kuser/");
        assert!(all.feed_wanted(), "the other one reads on");
        note(&mut all, 1, "a", false, b"kuser/");
        assert!(all.feed_wanted(), "nobody ends what another has begun");
        all.connection(&event(MonitorEventKind::Disconnected, 2));
        assert!(!all.feed_wanted());
        note(&mut all, 1, "a", true, b"");
        assert!(all.feed_wanted(), "every topic is the feed's as well");
    }

    #[test]
    fn a_stream_is_watched_until_its_last_connection_leaves_it() {
        use StreamChange::{Joined, Left};
        // Changes of a prefix and messages of a pattern that look the same.
        let topic = |name: &[u8]| if name == b"a" { StreamKind::Changes.topic(b"a") } else { StreamKind::Messages.topic(b"a") };
        let (a, b) = (|| topic(b"a").into(), || topic(b"b").into());
        let mut all = connected(&[1, 2, 3]);
        for (connection, name) in [(1, b"a"), (2, b"a"), (1, b"b"), (1, b"b")] {
            note(&mut all, connection, "u", true, &topic(name));
        }
        // None of them is the topic of a stream.
        for topic in [b"s".as_slice(), b"s\0\x02a", b"m", b"m\0\x02a", b"m\0\x02a*"] {
            note(&mut all, 3, "u", true, topic);
        }
        assert_eq!(all.take_changes(), [Joined(a()), Joined(a()), Joined(b()), Joined(b())]);
        assert!(!all.feed_wanted());
        note(&mut all, 1, "u", false, &topic(b"a"));
        note(&mut all, 1, "u", false, &topic(b"a"));
        assert_eq!(all.take_changes(), [], "the other one watches on");
        note(&mut all, 1, "u", false, &topic(b"b"));
        all.connection(&event(MonitorEventKind::Disconnected, 2));
        assert_eq!(all.take_changes(), [Left(b()), Left(a())]);
        all.connection(&event(MonitorEventKind::Disconnected, 1));
        all.connection(&event(MonitorEventKind::Disconnected, 3));
        assert_eq!((all.take_changes(), all.streams.len()), (vec![], 0));
    }

    #[test]
    fn a_connection_takes_its_topics_along() {
        let mut all = connected(&[7, 8]);
        note(&mut all, 7, "a", true, b"k1");
        note(&mut all, 7, "a", true, b"k23");
        note(&mut all, 8, "a", true, b"k1");
        assert_eq!(all.totals(), (3, 7));
        all.connection(&event(MonitorEventKind::Disconnected, 7));
        assert_eq!(all.totals(), (1, 2));
        note(&mut all, 7, "a", true, b"late");
        assert_eq!(all.totals(), (1, 2), "it has ended");
        all.connection(&event(MonitorEventKind::Disconnected, 8));
        assert_eq!(all.totals(), (0, 0));
        assert!(all.users.is_empty());
    }

    #[test]
    fn a_descriptor_that_went_to_another_user_counts_for_that_one() {
        let mut all = connected(&[7]);
        note(&mut all, 7, "a", true, b"late of a");
        note(&mut all, 7, "b", true, b"k");
        assert_eq!(all.totals(), (1, 1));
        assert_eq!(all.users.keys().map(|user| &**user).collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn who_has_too_many_topics_or_bytes_is_named() {
        let mut all = connected(&[1, 2, 3]);
        note(&mut all, 3, "modest", true, b"k");
        for topic in 0..limits::SUBSCRIPTIONS_PER_USER_MAX as u32 {
            // Spread over two connections: the user counts.
            note(&mut all, 1 + topic % 2, "greedy", true, &topic.to_be_bytes());
        }
        assert_eq!(all.excess(), None);
        note(&mut all, 1, "greedy", true, b"one more");
        assert_eq!(all.excess().as_deref(), Some("greedy"));

        let mut all = connected(&[1, 2]);
        note(&mut all, 2, "modest", true, b"k");
        let mut topic = vec![b'k'; limits::KEY_BYTES_MAX];
        let mut bytes = 0;
        for number in 0_u8.. {
            topic[1] = number;
            if bytes + topic.len() > limits::SUBSCRIPTION_BYTES_PER_USER_MAX {
                break;
            }
            note(&mut all, 1, "greedy", true, &topic);
            bytes += topic.len();
        }
        assert_eq!(all.excess(), None);
        note(&mut all, 1, "greedy", true, &vec![b'x'; limits::KEY_BYTES_MAX]);
        assert_eq!(all.excess().as_deref(), Some("greedy"));
    }

    #[test]
    fn when_all_have_too_much_together_the_largest_is_named() {
        let mut all = connected(&[0, 1, 2, 3, 4, 5]);
        'all: for connection in 0.. {
            all.connection(&event(MonitorEventKind::Accepted, connection));
            let user = format!("user{connection}");
            let most = limits::SUBSCRIPTIONS_PER_USER_MAX - if connection == 2 { 0 } else { 10 };
            for topic in 0..most as u32 {
                note(&mut all, connection, &user, true, &topic.to_be_bytes());
                if all.totals().0 > limits::SUBSCRIPTIONS_MAX as u64 {
                    break 'all;
                }
                assert_eq!(all.excess(), None);
            }
        }
        assert_eq!(all.excess().as_deref(), Some("user2"));
    }
}

//! What the publisher sends, and who hears it.

use std::time::Instant;

use super::word::Word;
use super::{Hub, READY_BYTES, WatchId};
use crate::client::watch::link::Came;
use crate::client::watch::merge::{Heard, Merge};
use crate::transport::ClientSocket;

impl Hub {
    /// Lets a watch hear its stream as soon as that can be heard.
    pub(super) fn listen(&mut self, now: Instant, id: WatchId, topic: Vec<u8>, merge: &mut Merge) {
        self.link.turn_on(now);
        let others = self.streams.entry(topic).or_insert_with_key(|topic| {
            if let Some(socket) = self.link.socket() {
                subscribe(socket, topic);
            }
            Vec::new()
        });
        if self.link.socket().is_some() {
            let hears = |other: &WatchId| self.entries.get(other).is_some_and(|entry| entry.merge.has_streamed());
            merge.joined(now, others.iter().any(hears));
        }
        others.push(id);
    }

    /// Takes what the publisher has sent, and what became of the connection to it.
    pub(super) fn hear(&mut self, now: Instant) {
        while self.ready_bytes < READY_BYTES
            && let Some(came) = self.link.next(now, &self.bell)
        {
            match came {
                Came::Message { topic, body } => self.message(now, &topic, &body),
                Came::Heartbeat { epoch, revision } => self.told_up_to(now, epoch, revision),
                Came::Up => {
                    self.is_unheard = false;
                    self.word = Word::new(now);
                    if let Some(socket) = self.link.socket() {
                        self.streams.keys().for_each(|topic| subscribe(socket, topic));
                    }
                    self.update_hearers(now, |merge| {
                        merge.may_be_linked();
                        merge.linked(now);
                    });
                }
                Came::Lost(why) => self.update_hearers(now, |merge| merge.unlinked(now, &why)),
                Came::Nothing { .. } => {
                    self.is_unheard = true;
                    self.update_hearers(now, Merge::never_linked);
                }
                Came::Refused(failure) => self.update_hearers(now, |merge| merge.refused(failure.clone())),
            }
        }
    }

    fn message(&mut self, now: Instant, topic: &[u8], body: &[u8]) {
        // What is not wanted any more may still come.
        let Some(hearers) = self.streams.get(topic) else { return };
        let (only, hearers) = match hearers.as_slice() {
            [only] => (Some(*only), Vec::new()),
            many => (None, many.to_vec()),
        };
        let message = match Heard::read(topic, body) {
            Ok(Some(message)) => message,
            Ok(None) => return,
            Err(failure) => {
                tracing::warn!(target: "kvbroker::watch", "{failure}");
                return only.into_iter().chain(hearers).for_each(|id| self.update(now, id, Merge::garbled));
            }
        };
        if let Some(only) = only {
            return self.update(now, only, |merge| merge.heard(now, message));
        }
        for id in hearers {
            self.update(now, id, |merge| merge.heard(now, message.clone()));
        }
    }

    fn update_hearers(&mut self, now: Instant, update: impl Fn(&mut Merge)) {
        let hearers: Vec<WatchId> = self.streams.values().flatten().copied().collect();
        hearers.into_iter().for_each(|id| self.update(now, id, &update));
    }
}

pub(in crate::client) fn subscribe(socket: &ClientSocket, topic: &[u8]) {
    if let Err(error) = socket.subscribe(topic) {
        // The watch goes on without its stream.
        tracing::warn!(target: "kvbroker::watch", %error, "a stream can't be subscribed to");
    }
}

pub(in crate::client) fn unsubscribe(socket: &ClientSocket, topic: &[u8]) {
    if let Err(error) = socket.unsubscribe(topic) {
        tracing::warn!(target: "kvbroker::watch", %error, "a subscription can't be taken back");
    }
}

//! What goes into the next message, and when.
//!
//! - Calls keep their order: what can't go into this message ends it.
//! - The mutations of a message have numbers without a gap.
//! - What an array shares (its reply's room, its share of a turn) is not spent by one call on the cost of another: calls with
//!   large answers go first or by themselves.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use kvbroker_protocol::limits::{
    ARRAY_OPERATIONS_MAX, ARRAY_REGEXES_MAX, IN_FLIGHT_BYTES_MAX, MESSAGE_BYTES_MAX, PARKED_PER_CLIENT_MAX, RETRY_AFTER_MS,
};
use kvbroker_protocol::{Failure, Header, Outcome, encode_message_head};

use super::bodies::Bodies;
use super::call::{Call, Company, HEADER_BYTES};
use super::{Flight, Session};

/// With fewer messages in flight than this, a call is sent at once.
pub const EAGER_MESSAGES: usize = 4;

/// Beyond them, a call waits so long for company before it is sent.
pub const COLLECT_FOR: Duration = Duration::from_millis(1);

/// Most messages in flight.
const MESSAGES_MAX: usize = 16;

/// Operations of an array that is full: the broker takes more, but a quarter of the window leaves it something to do while
/// replies travel.
const FULL_OPERATIONS: usize = 1_024;

/// Bytes of an array that is full. A larger operation goes by itself.
const FULL_BYTES: usize = 1 << 20;

/// Most bytes in flight: half of what the broker takes from one client.
const FLIGHT_BYTES_MAX: usize = IN_FLIGHT_BYTES_MAX / 2;

const _: () = {
    assert!(FULL_OPERATIONS <= ARRAY_OPERATIONS_MAX && FULL_BYTES + HEADER_BYTES <= MESSAGE_BYTES_MAX);
    assert!(FLIGHT_BYTES_MAX >= MESSAGE_BYTES_MAX, "the largest message can be sent");
};

pub(super) enum Packed {
    Message {
        id: u64,
        body: Vec<u8>,
    },
    /// What is due is collected until then.
    NotBefore(Instant),
    /// The next one waits for changes, and so many do already that the broker takes no more.
    TooMany,
    /// Nothing is due, or it waits for a reply.
    Nothing,
}

/// What is in a message so far.
#[derive(Default)]
struct Load {
    calls: usize,
    bytes: usize,
    weight: usize,
    regexes: usize,
    has_reads: bool,
    is_closed: bool,
    /// The number that the next mutation must have.
    next_seq: Option<u64>,
}

impl Load {
    /// True if the call fits in. `next_number` is what a mutation gets that has no number yet.
    fn takes<T>(&self, call: &Call<T>, next_number: u64) -> bool {
        if self.calls == 0 {
            return true;
        }
        let company_fits = match call.company() {
            Company::Any | Company::Reads => true,
            Company::First => !self.has_reads,
            Company::None => false,
        };
        let seq = call.seq.unwrap_or(next_number);
        let gap = call.asked.mutation && self.next_seq.is_some_and(|next| next != seq);
        !self.is_closed
            && company_fits
            && !gap
            && self.bytes + call.asked.bytes() <= FULL_BYTES
            && self.weight + call.asked.weight <= FULL_OPERATIONS
            && self.regexes + call.asked.regexes <= ARRAY_REGEXES_MAX
    }

    fn add<T>(&mut self, call: &Call<T>) {
        self.calls += 1;
        self.bytes += call.asked.bytes();
        self.weight += call.asked.weight;
        self.regexes += call.asked.regexes;
        self.has_reads |= matches!(call.company(), Company::Reads | Company::First);
        self.is_closed = call.company() == Company::None;
        self.next_seq = call.seq.map(|seq| seq + 1).or(self.next_seq);
    }
}

impl<T> Session<T> {
    /// The next message, if it is time for one.
    pub(super) fn pack(&mut self, now: Instant) -> Packed {
        let Some(first) = self.again.front().or(self.queue.front()) else { return Packed::Nothing };
        if first.asked.waits() && self.waiting >= PARKED_PER_CLIENT_MAX {
            return Packed::TooMany;
        }
        let in_flight = self.flights.len() - self.waiting;
        if in_flight >= MESSAGES_MAX || self.flight_bytes + first.asked.bytes() > FLIGHT_BYTES_MAX {
            return Packed::Nothing;
        }
        if self.again.is_empty() {
            if first.asked.mutation && !self.numbers.has_room() {
                return Packed::Nothing;
            }
            let is_full = self.queue_weight >= FULL_OPERATIONS || self.queue_bytes >= FULL_BYTES;
            let send_at = first.begun_at + COLLECT_FOR;
            if in_flight >= EAGER_MESSAGES && !is_full && now < send_at {
                return Packed::NotBefore(send_at);
            }
        }
        let (mut load, mut calls) = (Load::default(), self.spare.pop().unwrap_or_default());
        while let Some(call) = pop_if(&mut self.again, |call| load.takes(call, self.numbers.next())) {
            load.add(&call);
            calls.push_back(call);
        }
        let (mut fit, mut lying_bytes) = (0, 0);
        let due = if self.again.is_empty() { self.queue.len() } else { 0 };
        for call in self.queue.iter_mut().take(due) {
            // The first call has a number, as was seen above; another one waits for its turn.
            let has_number = !call.asked.mutation || self.numbers.has_room();
            if !has_number || !load.takes(call, self.numbers.next()) {
                break;
            }
            if call.asked.mutation {
                call.seq = self.numbers.take();
            }
            self.queue_bytes -= call.asked.bytes();
            self.queue_weight -= call.asked.weight;
            if call.asked.lies() {
                lying_bytes += call.asked.bytes();
            }
            load.add(call);
            fit += 1;
        }
        if fit == self.queue.len() && calls.is_empty() {
            // Mostly all of them fit, and none has to be moved.
            std::mem::swap(&mut self.queue, &mut calls);
        } else {
            calls.extend(self.queue.drain(..fit));
        }
        let mut bodies = Bodies::default();
        bodies.push(self.queue_bodies.take(lying_bytes));
        if calls.is_empty() { Packed::Nothing } else { self.message(now, calls, bodies, load.bytes) }
    }

    /// The next call waits for changes, as do so many others that the broker would refuse it.
    pub(super) fn end_one_too_many(&mut self) {
        let call = match self.again.pop_front() {
            Some(call) => Some(call),
            None => self.queue.pop_front().inspect(|call| {
                self.queue_bytes -= call.asked.bytes();
                self.queue_weight -= call.asked.weight;
                if call.asked.lies() {
                    self.queue_bodies.take(call.asked.bytes());
                }
            }),
        };
        if let Some(token) = call.and_then(|call| call.token) {
            let message = format!("{PARKED_PER_CLIENT_MAX} calls of this client wait for changes, which is the most");
            self.finish(token, Ok(Outcome { revision: None, result: Err(Failure::busy(message, RETRY_AFTER_MS)) }));
        }
    }

    fn message(&mut self, now: Instant, calls: VecDeque<Call<T>>, bodies: Bodies, bytes: usize) -> Packed {
        let id = self.next_id;
        self.next_id += 1;
        let (broker, session) = self.identity.unzip();
        let seq = calls.iter().find_map(|call| call.seq);
        let header = Header { id: Some(id), broker, session, seq, ack: Some(self.numbers.ack()), got: self.got };
        let mut body = Vec::with_capacity(HEADER_BYTES + bytes);
        encode_message_head(&header, calls.len(), &mut body);
        let mut lying = bodies.rest();
        if lying.len() == bytes {
            body.extend_from_slice(lying);
        } else {
            for call in &calls {
                let own =
                    if call.asked.lies() { lying.split_off(..call.asked.bytes()).unwrap_or_default() } else { &call.asked.body };
                body.extend_from_slice(own);
            }
        }
        self.flight_bytes += bytes;
        let flight = Flight { calls, bodies, sent_at: now, bytes };
        self.waiting += usize::from(flight.waits());
        self.flights.insert(id, flight);
        Packed::Message { id, body }
    }
}

impl<T> Session<T> {
    /// Keeps an ended flight's list for another one.
    pub(super) fn keep_spare(&mut self, mut calls: VecDeque<Call<T>>) {
        calls.clear();
        if self.spare.len() < EAGER_MESSAGES && calls.capacity() <= 2 * FULL_OPERATIONS {
            self.spare.push(calls);
        }
    }
}

fn pop_if<T>(calls: &mut VecDeque<Call<T>>, wanted: impl FnOnce(&Call<T>) -> bool) -> Option<Call<T>> {
    calls.front().is_some_and(wanted).then(|| calls.pop_front())?
}

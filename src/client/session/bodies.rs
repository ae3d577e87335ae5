//! The bytes of short operations, one after the other, so that none of them needs memory of its own and an array is filled in one go.
//!
//! - They lie in the order of their calls. A call that leaves the order takes its bytes along first ([`part`]).

use super::call::Call;

/// Memory for more than so many bytes is not kept when it is empty.
const KEPT_BYTES: usize = 1 << 20;

/// The bytes of a queue's calls.
#[derive(Debug, Default)]
pub(super) struct Bodies {
    bytes: Vec<u8>,
    /// Those before were taken.
    from: usize,
}

impl Bodies {
    pub(super) fn push(&mut self, body: &[u8]) {
        if self.from > 0 && self.from >= self.bytes.len() / 2 {
            self.bytes.drain(..self.from);
            self.from = 0;
            if self.bytes.is_empty() && self.bytes.capacity() > KEPT_BYTES {
                self.bytes = Vec::new();
            }
        }
        self.bytes.extend_from_slice(body);
    }

    /// What is here.
    pub(super) fn rest(&self) -> &[u8] {
        &self.bytes[self.from..]
    }

    /// The first so many bytes, which are not here afterwards.
    pub(super) fn take(&mut self, length: usize) -> &[u8] {
        let to = (self.from + length).min(self.bytes.len());
        &self.bytes[std::mem::replace(&mut self.from, to)..to]
    }
}

/// Gives each of these calls the bytes of its own that lie at the beginning of `bodies`.
pub(super) fn part<'a, T: 'a>(calls: impl Iterator<Item = &'a mut Call<T>>, bodies: &mut Bodies) {
    for call in calls.filter(|call| call.asked.lies()) {
        call.asked.body = bodies.take(call.asked.bytes()).to_vec();
    }
}

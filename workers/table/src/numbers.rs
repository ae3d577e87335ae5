//! Maps by the numbers of clients and users, and by routing ids.
//!
//! - For keys that nobody outside can choose: clients and users are numbered here in the order in which they come, and libzmq gives each connection
//!   its routing id. What others choose (keys of the table, names of users, ids of requests) belongs into a map of the standard library,
//!   whose places can't be guessed.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map whose keys are counted here, or given by libzmq.
pub type NumberMap<K, V> = HashMap<K, V, BuildHasherDefault<NumberHasher>>;

/// Spreads numbers that follow each other.
#[derive(Clone, Copy, Debug, Default)]
pub struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(size_of::<u64>()) {
            let mut word = [0; size_of::<u64>()];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, number: u64) {
        // Both halves of the product: the map takes its places from the lowest bits and tells them apart by the highest.
        let product = u128::from(self.0 ^ number ^ 0x9e37_79b9_7f4a_7c15) * 0xa076_1d64_78bd_642f;
        self.0 = (product as u64) ^ ((product >> 64) as u64);
    }

    fn write_usize(&mut self, number: usize) {
        self.write_u64(number as u64);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::HashSet;
    use std::hash::{BuildHasher, Hash};

    use super::*;

    /// How many of 128 places, and of 128 marks beside them, these keys have.
    fn spread<K: Hash>(keys: impl Iterator<Item = K>) -> (usize, usize) {
        let hasher = BuildHasherDefault::<NumberHasher>::default();
        let hashes: Vec<u64> = keys.map(|key| hasher.hash_one(key)).collect();
        let different = |part: fn(&u64) -> u64| hashes.iter().map(part).collect::<HashSet<u64>>().len();
        (different(|hash| hash & 127), different(|hash| hash >> 57))
    }

    #[test]
    fn numbers_and_routing_ids_that_follow_each_other_are_spread() {
        for (places, marks) in [
            spread(0..1_000_u64),
            spread((0..1_000_u64).map(|number| number << 32)),
            spread((0x0123_4567..0x0123_4567 + 1_000_u32).map(|number| [&[0][..], &number.to_be_bytes()].concat())),
        ] {
            assert!(places > 120 && marks > 120, "{places} and {marks} of 128");
        }
    }

    #[test]
    fn every_byte_of_a_routing_id_counts() {
        let mut map = NumberMap::default();
        for length in 0..40 {
            assert_eq!(map.insert(vec![0_u8; length], length), None);
        }
        assert_eq!(map.len(), 40);
        assert!((0..40).all(|length| map[&vec![0_u8; length]] == length));
    }
}

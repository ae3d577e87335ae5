//! The keys and values that every generator sends, the same bytes to each product.
//!
//! - A key has 15 bytes and a value 64. A value begins with its key, so that every answer to a get can be checked, whoever wrote last.

/// Bytes of a key.
pub const KEY_BYTES: usize = 15;
/// Bytes of a value.
pub const VALUE_BYTES: usize = 64;

const PREFIX: &[u8; 6] = b"bench/";
const HEX: &[u8; 16] = b"0123456789abcdef";

/// The key of this number: `bench/000000042`.
pub fn key(number: u32) -> [u8; KEY_BYTES] {
    let mut key = [b'0'; KEY_BYTES];
    key[..PREFIX.len()].copy_from_slice(PREFIX);
    let mut rest = number;
    for place in key[PREFIX.len()..].iter_mut().rev() {
        *place = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    key
}

/// A value for the key of this number; `stamp` makes it differ from the ones before it.
pub fn value(number: u32, stamp: u64) -> [u8; VALUE_BYTES] {
    let mut value = [b'.'; VALUE_BYTES];
    value[..KEY_BYTES].copy_from_slice(&key(number));
    for (at, place) in value[KEY_BYTES + 1..KEY_BYTES + 17].iter_mut().enumerate() {
        *place = HEX[(stamp >> (60 - 4 * at)) as usize & 15];
    }
    value
}

/// True if this can be what was stored under the key of this number.
pub fn is_value_of(number: u32, bytes: &[u8]) -> bool {
    bytes.len() == VALUE_BYTES && bytes.starts_with(&key(number))
}

/// The prefix that one in a hundred of so many keys has (of a power of ten): what a watcher beside the load watches.
pub fn prefix_of_a_hundredth(keys: u32) -> Vec<u8> {
    let digits = keys.checked_ilog10().unwrap_or(0).saturating_sub(2) as usize;
    key(0)[..KEY_BYTES - digits].to_vec()
}

/// Numbers from 0 to below `keys`, evenly spread; cheap, and the same for every product.
#[derive(Clone, Debug)]
pub struct Draw {
    state: u64,
    keys: u32,
}

impl Draw {
    /// `lane` makes the lanes of one run differ.
    pub fn new(keys: u32, lane: usize) -> Draw {
        Draw { state: (lane as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15), keys: keys.max(1) }
    }

    /// The next one (xorshift64*).
    pub fn next(&mut self) -> u32 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        let drawn = self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        ((drawn * u64::from(self.keys)) >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_belong_to_their_keys() {
        assert_eq!(&key(42), b"bench/000000042");
        assert_eq!(&value(7, 0xab)[..32], b"bench/000000007.00000000000000ab");
        assert!(is_value_of(7, &value(7, 1)));
        assert!(!is_value_of(8, &value(7, 1)));
        assert!(!is_value_of(7, &value(7, 1)[..63]));
        let prefix = prefix_of_a_hundredth(100_000);
        assert!(key(999).starts_with(&prefix) && !key(1_000).starts_with(&prefix));
        assert_eq!(prefix_of_a_hundredth(5), key(0));
    }

    #[test]
    fn draws_stay_below_and_reach_everything() {
        let mut draw = Draw::new(10, 3);
        let mut seen = [false; 10];
        (0..1_000).for_each(|_| seen[draw.next() as usize] = true);
        assert_eq!(seen, [true; 10]);
    }
}

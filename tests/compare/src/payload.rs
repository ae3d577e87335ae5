//! The keys and values that every generator sends, the same bytes to each product.
//!
//! - A key has 15 bytes and a value 64. A value begins with its key, so that every answer to a get can be checked, whoever wrote last.
//! - A queue's item has 64 bytes as well, and says who pushed it, its number, and when.

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

/// An item of a queue: whose, its number among theirs, and when it was pushed, nanoseconds since the run began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// Who pushed it.
    pub producer: u64,
    /// Its number among theirs.
    pub number: u64,
    /// When.
    pub pushed_ns: u64,
}

impl Item {
    /// Its bytes: three numbers as 16 hexadecimal digits each, a dot behind each, dots up to the end.
    pub fn bytes(self) -> [u8; VALUE_BYTES] {
        let mut bytes = [b'.'; VALUE_BYTES];
        for (place, number) in bytes.chunks_exact_mut(17).zip([self.producer, self.number, self.pushed_ns]) {
            for (at, digit) in place[..16].iter_mut().enumerate() {
                *digit = HEX[(number >> (60 - 4 * at)) as usize & 15];
            }
        }
        bytes
    }

    /// Reads it back; None: these bytes are no item.
    pub fn read(bytes: &[u8]) -> Option<Item> {
        if bytes.len() != VALUE_BYTES {
            return None;
        }
        let mut numbers = bytes.chunks_exact(17).map(|place| match place {
            [digits @ .., b'.'] => digits.iter().try_fold(0, |number: u64, digit| {
                let value = char::from(*digit).to_digit(16)?;
                Some(number << 4 | u64::from(value))
            }),
            _ => None,
        });
        Some(Item { producer: numbers.next()??, number: numbers.next()??, pushed_ns: numbers.next()?? })
    }
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
    fn items_are_read_back() {
        let item = Item { producer: 7, number: 0xabc, pushed_ns: 1 << 40 };
        assert_eq!(&item.bytes()[..35], b"0000000000000007.0000000000000abc.0");
        assert_eq!(Item::read(&item.bytes()), Some(item));
        let mut other = item.bytes();
        other[3] = b'x';
        assert_eq!((Item::read(&other), Item::read(&item.bytes()[1..])), (None, None));
    }

    #[test]
    fn draws_stay_below_and_reach_everything() {
        let mut draw = Draw::new(10, 3);
        let mut seen = [false; 10];
        (0..1_000).for_each(|_| seen[draw.next() as usize] = true);
        assert_eq!(seen, [true; 10]);
    }
}

//! The keys and values of one run: every key says whose it is, every value can be computed again.
//!
//! - All keys of a run start with its [`RunPrefix`], drawn at random, so that runs don't meet and what one leaves behind can be
//!   found. All keys of one client process start with the run's prefix and the client's number.
//! - Keys of one client are ordered as their numbers are: a scan's answer is known beforehand.
//! - A value depends on its key and on how often that was written, so a wrong one is recognised without remembering any.
//! - A value is a dictionary with a field `group`, for queries, and filling.

use std::cell::RefCell;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use kvbroker_protocol::{Failure, Stored};

/// Length of a run's prefix: `kp`, [`RANDOM_DIGITS`], `/`.
const PREFIX_BYTES: usize = 2 + RANDOM_DIGITS + 1;
const RANDOM_DIGITS: usize = 5;
/// Digits of a client's number.
const CLIENT_DIGITS: usize = 2;
/// Fewest digits of a key's number: 36^5 are 60 million.
const NUMBER_DIGITS_MIN: usize = 5;

/// Shortest keys.
pub(crate) const KEY_BYTES_MIN: usize = PREFIX_BYTES + CLIENT_DIGITS + NUMBER_DIGITS_MIN;
/// Smallest values: room for the fields' names and some filling.
pub(crate) const VALUE_BYTES_MIN: usize = 24;
/// Most keys of one client; they fit into [`NUMBER_DIGITS_MIN`] digits.
pub(crate) const KEYS_MAX: u64 = 10_000_000;
/// Most clients of one run; they fit into [`CLIENT_DIGITS`] digits.
pub(crate) const CLIENTS_MAX: usize = 256;
/// Groups that values fall into, in turn.
pub(crate) const GROUPS: u64 = 10;
/// The field that queries compare.
pub(crate) const GROUP_FIELD: &str = "group";

const _: () = {
    assert!(36_u64.pow(NUMBER_DIGITS_MIN as u32) > KEYS_MAX, "every key has its number");
    assert!(36_usize.pow(CLIENT_DIGITS as u32) > CLIENTS_MAX, "every client has its number");
    assert!(GROUPS <= 0x80, "a group is one byte of MessagePack");
};

/// What all keys of one run start with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RunPrefix(String);

impl RunPrefix {
    /// One that no other run has, as far as chance goes.
    pub(crate) fn random() -> Result<RunPrefix, getrandom::Error> {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes)?;
        let mut digits = Vec::new();
        push_base36(&mut digits, u64::from_le_bytes(bytes) % 36_u64.pow(RANDOM_DIGITS as u32), RANDOM_DIGITS);
        Ok(RunPrefix(format!("kp{}/", String::from_utf8_lossy(&digits))))
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Display for RunPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for RunPrefix {
    type Err = String;

    fn from_str(text: &str) -> Result<RunPrefix, String> {
        let random = text.strip_prefix("kp").and_then(|rest| rest.strip_suffix('/')).unwrap_or_default();
        if random.len() == RANDOM_DIGITS && random.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase()) {
            return Ok(RunPrefix(text.to_owned()));
        }
        Err("a run's prefix looks like kp4f09z/: what an interrupted run named".to_owned())
    }
}

/// The keys and values of one client process.
#[derive(Clone, Debug)]
pub(crate) struct Keyspace {
    prefix: String,
    digits: usize,
    value_bytes: (usize, usize),
    seed: u64,
    /// Where values are made, and made again to be compared: no allocation for each.
    document: RefCell<Vec<u8>>,
}

impl Keyspace {
    /// The `client`-th client's part (from 0) of a run. The sizes were checked with the command line.
    pub(crate) fn new(run: &RunPrefix, client: usize, key_bytes: usize, value_bytes: RangeInclusive<usize>) -> Keyspace {
        let mut digits = Vec::new();
        push_base36(&mut digits, client as u64, CLIENT_DIGITS);
        let prefix = format!("{run}{}", String::from_utf8_lossy(&digits));
        let digits = key_bytes.saturating_sub(prefix.len()).max(NUMBER_DIGITS_MIN);
        // FNV-1a: any function of the prefix will do.
        let seed =
            prefix.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        let (least, most) = value_bytes.into_inner();
        let least = least.max(VALUE_BYTES_MIN);
        Keyspace { prefix, digits, value_bytes: (least, most.max(least)), seed, document: RefCell::default() }
    }

    /// What all of its keys start with.
    pub(crate) fn prefix(&self) -> &[u8] {
        self.prefix.as_bytes()
    }

    /// What its keys start with that have no number: none of those with one does.
    pub(crate) fn aside(&self) -> Vec<u8> {
        let (run, client) = self.prefix.split_at(self.prefix.len() - CLIENT_DIGITS);
        format!("{run}~{client}").into_bytes()
    }

    /// The key of a number.
    pub(crate) fn key(&self, number: u64) -> Vec<u8> {
        let mut key = Vec::with_capacity(self.prefix.len() + self.digits);
        key.extend_from_slice(self.prefix.as_bytes());
        push_base36(&mut key, number, self.digits);
        key
    }

    /// The number of one of its keys; None: it is none.
    pub(crate) fn number(&self, key: &[u8]) -> Option<u64> {
        let digits = key.strip_prefix(self.prefix.as_bytes()).filter(|digits| digits.len() == self.digits)?;
        digits.iter().try_fold(0_u64, |number, digit| {
            let digit = match digit {
                b'0'..=b'9' => digit - b'0',
                b'a'..=b'z' => digit - b'a' + 10,
                _ => return None,
            };
            number.checked_mul(36)?.checked_add(u64::from(digit))
        })
    }

    /// The group that a number's value is in.
    pub(crate) fn group(number: u64) -> u64 {
        number % GROUPS
    }

    /// Makes the document that belongs to a number and a version: MessagePack of one of the wanted sizes.
    fn write(&self, number: u64, version: u32, document: &mut Vec<u8>) {
        let mixed = number.wrapping_mul(0xff51_afd7_ed55_8ccd) ^ u64::from(version).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        let mut dice = Dice::new(self.seed ^ mixed);
        let (least, most) = self.value_bytes;
        let bytes = if least == most { least } else { least + dice.below((most - least + 1) as u64) as usize };
        document.clear();
        document.push(0x82); // a map of two
        push_name(document, GROUP_FIELD);
        document.push(Self::group(number) as u8); // below 0x80: the number itself
        push_name(document, "data");
        let rest = bytes - document.len();
        // A binary of as many bytes as are left. A length that just fits two ways is written the longer way.
        if let Ok(length) = u8::try_from(rest - 2) {
            document.extend([0xc4, length]);
        } else if let Ok(length) = u16::try_from(rest - 3) {
            document.push(0xc5);
            document.extend(length.to_be_bytes());
        } else {
            document.push(0xc6);
            // A value has at most 8 MiB.
            document.extend(((rest - 5) as u32).to_be_bytes());
        }
        while document.len() < bytes {
            let left = bytes - document.len();
            document.extend_from_slice(&dice.number().to_le_bytes()[..left.min(8)]);
        }
    }

    /// The value that belongs to a number and a version: 0 was inserted, each update is one more.
    ///
    /// # Errors
    /// It is larger than values may be.
    pub(crate) fn value(&self, number: u64, version: u32) -> Result<Stored, Failure> {
        let mut document = self.document.borrow_mut();
        self.write(number, version, &mut document);
        Stored::from_msgpack(&document)
    }

    /// True if that is the number's value in this version.
    pub(crate) fn is_value(&self, number: u64, version: u32, found: &Stored) -> bool {
        let mut document = self.document.borrow_mut();
        self.write(number, version, &mut document);
        found.document() == document.as_slice()
    }
}

fn push_name(document: &mut Vec<u8>, name: &str) {
    document.push(0xa0 | name.len() as u8); // a text of fewer than 32 bytes
    document.extend(name.bytes());
}

/// Appends a number with leading zeros; digits in the order of bytes.
fn push_base36(text: &mut Vec<u8>, mut number: u64, digits: usize) {
    let mut reversed = [b'0'; 13]; // 36^13 > 2^64
    for digit in &mut reversed {
        *digit = b"0123456789abcdefghijklmnopqrstuvwxyz"[(number % 36) as usize];
        number /= 36;
    }
    text.extend(std::iter::repeat_n(b'0', digits.saturating_sub(reversed.len())));
    text.extend(reversed[..digits.min(reversed.len())].iter().rev());
}

/// Pseudo-random numbers (SplitMix64; Steele, Lea and Flood, OOPSLA 2014).
#[derive(Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to below 1.
    pub(crate) fn fraction(&mut self) -> f64 {
        (self.number() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A number below `end`; 0 if that is 0.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        // The high half of the product: no division, and no bias that a measurement could see.
        ((u128::from(self.number()) * u128::from(end)) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use kvbroker_protocol::{Scalar, field_equals};

    use super::*;

    fn keyspace(key_bytes: usize, value_bytes: usize) -> Keyspace {
        Keyspace::new(&"kp01abz/".parse().unwrap(), 37, key_bytes, value_bytes..=value_bytes)
    }

    #[test]
    fn keys_have_the_wanted_length_and_the_order_of_their_numbers() {
        for key_bytes in [KEY_BYTES_MIN, 16, 40] {
            let keys = keyspace(key_bytes, 64);
            let numbers = [0, 1, 35, 36, 1_295, 1_296, KEYS_MAX - 1];
            let made: Vec<Vec<u8>> = numbers.iter().map(|number| keys.key(*number)).collect();
            assert!(made.iter().all(|key| key.len() == key_bytes && key.starts_with(b"kp01abz/11")));
            assert!(made.windows(2).all(|pair| pair[0] < pair[1]), "{made:?}");
            assert!(numbers.iter().zip(&made).all(|(number, key)| keys.number(key) == Some(*number)));
            for other in ["kp01abz/11", "kp01abz/1200001", "kp01abz/1100A01", "kp01abz/110000100000000000000000000000000000000"] {
                assert_eq!(keys.number(other.as_bytes()), None, "{other}");
            }
        }
        assert_eq!(KEY_BYTES_MIN, 15);
        assert_eq!(keyspace(15, 64).key(37), b"kp01abz/1100011");
    }

    #[test]
    fn values_have_the_wanted_size_and_a_group_that_a_query_finds() {
        for value_bytes in [VALUE_BYTES_MIN, 64, 268, 269, 270, 271, 272, 65_550, 65_551, 65_552, 100_000] {
            let keys = keyspace(15, value_bytes);
            let value = keys.value(123, 0).unwrap();
            assert_eq!(value.document().len(), value_bytes);
            assert!(field_equals(value.as_bytes(), GROUP_FIELD, &Scalar::Int(3)));
            assert!(keys.is_value(123, 0, &value));
            assert!(!keys.is_value(133, 0, &value) && !keys.is_value(123, 1, &value));
        }
    }

    #[test]
    fn values_of_several_sizes_have_all_of_them() {
        let keys = Keyspace::new(&"kp01abz/".parse().unwrap(), 0, 15, 30..=33);
        let mut sizes: Vec<usize> = (0..200).map(|number| keys.value(number, 2).unwrap().document().len()).collect();
        sizes.sort_unstable();
        sizes.dedup();
        assert_eq!(sizes, [30, 31, 32, 33]);
    }

    #[test]
    fn a_prefix_is_recognised_and_nothing_else_is() {
        let drawn = RunPrefix::random().unwrap();
        assert_eq!(drawn.to_string().parse::<RunPrefix>().unwrap(), drawn);
        assert_eq!(drawn.as_bytes().len(), PREFIX_BYTES);
        for text in ["", "kp/", "kp1234/", "kp12345", "kp123456/", "kp1234A/", "user/", "kpäbc/"] {
            assert!(text.parse::<RunPrefix>().is_err(), "{text}");
        }
    }

    #[test]
    fn dice_stay_below_their_end() {
        let mut dice = Dice::new(7);
        assert!((0..1_000).all(|_| dice.below(3) < 3));
        assert_eq!(dice.below(0), 0);
    }
}

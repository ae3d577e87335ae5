//! Dice from a printed seed (SplitMix64; Steele, Lea and Flood, OOPSLA 2014).

use std::time::{SystemTime, UNIX_EPOCH};

/// Names the seed of a run that shall be repeated.
const SEED_VARIABLE: &str = "KVBROKER_TEST_SEED";

/// Pseudo-random numbers, the same for the same seed.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Dice of a new seed, which is printed, or of the one that `KVBROKER_TEST_SEED` names.
    ///
    /// # Panics
    /// If the variable is no number.
    pub fn of_this_run(test: &str) -> Dice {
        let seed = match std::env::var(SEED_VARIABLE) {
            Ok(text) => text.parse().unwrap_or_else(|_| panic!("{SEED_VARIABLE}={text} is no number")),
            Err(_) => SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |time| time.as_nanos() as u64),
        };
        println!("{test}: repeat this run with {SEED_VARIABLE}={seed}");
        Dice(seed)
    }

    /// Dice of a known seed.
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end` (0 if that is 0).
    pub fn below(&mut self, end: usize) -> usize {
        if end == 0 { 0 } else { (self.number() % end as u64) as usize }
    }

    /// Bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.number() as u8).collect()
    }
}

//! Fuzzing with a fixed seed for ordinary tests: mutations of seeds, less clever than a fuzzer's that sees what it reaches, but the
//! same each time and with nothing to install.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Splitmix64.
pub struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// Tries so many mutations of `seeds` and counts what became of them. `flags` are values for the first byte, which asks for
/// mending where the target has such a byte; empty where it has none.
///
/// # Panics
/// If the target does; the input is kept then, and its place is said.
pub fn slice<Became: Eq + Hash + Debug>(
    name: &str,
    inputs: u64,
    seeds: &[Vec<u8>],
    flags: &[u8],
    target: impl Fn(&[u8]) -> Became,
) -> HashMap<Became, u64> {
    let seed = number("KVBROKER_TEST_SEED", 1);
    let inputs = number("KVBROKER_FUZZ_INPUTS", inputs);
    println!("{name}: seed {seed}, {} seeds", seeds.len());
    let mut counts = HashMap::new();
    for index in 0..inputs {
        // Each input has dice of its own, so that one that fails can be tried alone.
        let mut dice = Dice(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ index);
        let pick = |dice: &mut Dice| &seeds[below(dice, seeds.len())];
        let mut input = pick(&mut dice).clone();
        let other = pick(&mut dice);
        mutate(&mut dice, &mut input, other);
        if let (Some(first), false) = (input.first_mut(), flags.is_empty()) {
            *first = flags[below(&mut dice, flags.len())];
        }
        let became = catch_unwind(AssertUnwindSafe(|| target(&input))).unwrap_or_else(|panic| {
            let file = std::env::temp_dir().join(format!("kvbroker-fuzz-{name}-{index}"));
            let kept = std::fs::write(&file, &input).map_or_else(|error| error.to_string(), |()| file.display().to_string());
            eprintln!("{name}: input {index} of seed {seed} broke a rule; it is kept: {kept}");
            resume_unwind(panic)
        });
        *counts.entry(became).or_insert(0) += 1;
    }
    println!("{name}: {counts:?}");
    counts
}

/// Changes `input` in one to eight places. `other` is an input to take pieces from.
pub fn mutate(dice: &mut Dice, input: &mut Vec<u8>, other: &[u8]) {
    for _ in 0..1 << below(dice, 4) {
        if input.is_empty() {
            input.extend_from_slice(other);
        }
        once(dice, input, other);
    }
}

fn below(dice: &mut Dice, bound: usize) -> usize {
    (dice.next() % (bound.max(1) as u64)) as usize
}

fn once(dice: &mut Dice, input: &mut Vec<u8>, other: &[u8]) {
    const INTERESTING: [u64; 12] = [0, 1, 2, 4, 83, 84, 255, 4095, 4096, u32::MAX as u64, i64::MAX as u64, u64::MAX];
    let at = place(dice, input);
    let magnitude = below(dice, if input.len() < 500 { 4 } else { 9 });
    let length = 1 + below(dice, 1 << magnitude);
    let end = (at + length).min(input.len());
    match dice.next() % 16 {
        0..=4 => input[at] ^= 1 << (dice.next() % 8),
        5 | 6 => input[at] = dice.next() as u8,
        7 | 8 => {
            let value = INTERESTING[below(dice, INTERESTING.len())].to_le_bytes();
            let bytes = (1 << below(dice, 4)).min(input.len() - at);
            input[at..at + bytes].copy_from_slice(&value[..bytes]);
        }
        9 | 10 => {
            // A number that is a little off.
            let by = (dice.next() % 17) as u8;
            input[at] = input[at].wrapping_add(by).wrapping_sub(8);
        }
        11 => drop(input.drain(at..end)),
        12 => {
            let piece = input[at..end].to_vec();
            let to = below(dice, input.len());
            input.splice(to..to, piece);
        }
        13 => {
            let from = below(dice, other.len());
            let piece = &other[from..(from + length).min(other.len())];
            let end = (at + piece.len()).min(input.len());
            input.splice(at..end, piece.iter().copied());
        }
        14 => input[at..end].fill(0),
        _ => input.truncate(at),
    }
}

/// Half of the places are near a header, where a byte means most.
fn place(dice: &mut Dice, input: &[u8]) -> usize {
    if dice.next().is_multiple_of(2) {
        let magics: Vec<usize> =
            (0..input.len().saturating_sub(3)).filter(|&at| matches!(&input[at..at + 3], b"kvB" | b"kvC" | b"KVB")).collect();
        if !magics.is_empty() {
            return (magics[below(dice, magics.len())] + below(dice, 128)).min(input.len() - 1);
        }
    }
    below(dice, input.len())
}

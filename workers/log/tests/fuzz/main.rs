//! A slice of fuzzing with a fixed seed: the functions that `fuzz/` gives to libFuzzer, with mutations of our own.
//!
//! `fuzz/run log` is the long run. `KVBROKER_FUZZ_INPUTS=1000000` makes this one longer, `KVBROKER_TEST_SEED` another.
#![allow(clippy::unwrap_used)]

#[path = "../../../../fuzz/targets/checkpoint.rs"]
mod checkpoint;
#[path = "../../../../fuzz/targets/log.rs"]
mod log;
#[path = "../../../../fuzz/targets/mend.rs"]
mod mend;
mod seeds;
#[path = "../../../../fuzz/slice.rs"]
mod slice;

use std::path::Path;

use log::Became;
use slice::slice;

/// Mostly mended: without, nearly all end at the first checksum.
const FLAGS: [u8; 8] = [0, 1, 3, 7, 7, 15, 15, 15];

#[test]
fn no_data_directory_breaks_a_start() {
    let seeds = seeds::directories();
    for seed in &seeds {
        assert_eq!(log::log(seed), Became::Opened, "a seed is whole");
    }
    let counts = slice("log", 8_000, &seeds, &FLAGS, log::log);
    // The slice gets behind the checksums, and does not only get refused.
    for became in [Became::Refused, Became::Opened, Became::Cut] {
        assert!(counts[&became] > 100, "{became:?}: {counts:?}");
    }
}

#[test]
fn no_checkpoint_breaks_its_reader() {
    let seeds = seeds::checkpoints();
    for seed in &seeds {
        assert_eq!(checkpoint::checkpoint(seed), checkpoint::Became::Whole, "a seed is whole");
    }
    let counts = slice("checkpoint", 8_000, &seeds, &FLAGS, checkpoint::checkpoint);
    for became in [checkpoint::Became::Refused, checkpoint::Became::Damaged, checkpoint::Became::Whole] {
        assert!(counts[&became] > 100, "{became:?}: {counts:?}");
    }
}

/// For `fuzz/run`, which names the directory.
#[test]
#[ignore = "writes the seeds for libFuzzer into KVBROKER_FUZZ_SEEDS; fuzz/run calls it"]
fn write_the_seeds() {
    let directory = std::env::var_os("KVBROKER_FUZZ_SEEDS").expect("KVBROKER_FUZZ_SEEDS names a directory");
    for (name, seeds) in [("log", seeds::directories()), ("checkpoint", seeds::checkpoints())] {
        let directory = Path::new(&directory).join(name);
        std::fs::create_dir_all(&directory).unwrap();
        for (index, mut seed) in seeds.into_iter().enumerate() {
            for flags in [0, 7] {
                seed[0] = flags;
                std::fs::write(directory.join(format!("seed-{index}-{flags}")), &seed).unwrap();
            }
        }
    }
}

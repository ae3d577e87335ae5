//! Runs the simulation of watches and prints its counts.
//!
//! `cargo run -p kvbroker-tests --bin watch_simulation -- --steps 5000000 [--seed N] [--acts N] [--bugs]`, or one life:
//! `--life SEED --acts N`

use std::process::ExitCode;
use std::time::Instant;

use kvbroker_tests::watch_sim::{Config, PlantedBug, World, simulate};

fn main() -> ExitCode {
    let mut config = Config { seed: 1, steps: 1_000_000, acts_max: 2_000, bug: None };
    let (mut bugs, mut life) = (false, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--bugs" {
            bugs = true;
            continue;
        }
        let value: Option<u64> = arguments.next().and_then(|value| value.parse().ok());
        match (argument.as_str(), value) {
            ("--steps", Some(value)) => config.steps = value,
            ("--seed", Some(value)) => config.seed = value,
            ("--acts", Some(value)) => config.acts_max = usize::try_from(value).unwrap_or(usize::MAX).max(1),
            ("--life", Some(value)) => life = Some(value),
            _ => {
                eprintln!("usage: watch_simulation [--steps N] [--seed N] [--acts N] [--bugs] | --life SEED --acts N");
                return ExitCode::from(2);
            }
        }
    }
    if let Some(seed) = life {
        let mut world = World::new(seed, config.bug);
        let result = world.live(config.acts_max as u64);
        println!("{:#?}\n{result:?}", world.happened);
        return if result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    println!("seed {}", config.seed);
    let mut good = run("as it is", &config);
    if bugs {
        for bug in PlantedBug::ALL {
            let was_noticed = !run(&format!("planted: {bug:?}"), &Config { bug: Some(bug), ..config });
            good &= was_noticed;
        }
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// True if no rule was broken.
fn run(what: &str, config: &Config) -> bool {
    let started = Instant::now();
    let report = simulate(config);
    println!("{what}: {} lives in {:.1} s: {:?}", report.lives, started.elapsed().as_secs_f64(), report.happened);
    if let Some((seed, acts, violation)) = &report.violation {
        println!("  life {seed} of {acts} acts: {violation}");
    }
    report.violation.is_none()
}

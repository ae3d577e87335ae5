//! Runs the crash sweep and prints its counts.
//!
//! `cargo run -p kvbroker-log --release --example crash_sweep -- --states 1500000 [--seed N] [--lives N] [--step BYTES] [--choices N] [--bugs]`

use std::process::ExitCode;
use std::time::Instant;

use kvbroker_log::sweep::{PlantedBug, SweepConfig, SweepReport, sweep};

fn main() -> ExitCode {
    let mut config = SweepConfig::default();
    let mut bugs = false;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--bugs" {
            bugs = true;
            continue;
        }
        let value = arguments.next().and_then(|value| value.parse().ok());
        match (argument.as_str(), value) {
            ("--states", Some(value)) => config.states = value,
            ("--seed", Some(value)) => config.seed = value,
            ("--lives", Some(value)) => config.random_lives = value,
            ("--step", Some(value)) => config.tear_step = value.max(1) as usize,
            ("--choices", Some(value)) => config.choices_max = value as usize,
            _ => {
                eprintln!("usage: crash_sweep [--states N] [--seed N] [--lives N] [--step BYTES] [--choices N] [--bugs]");
                return ExitCode::from(2);
            }
        }
    }
    println!("seed {}", config.seed);
    let report = run("as it is", &config, 10);
    let mut good = report.violations == 0;
    if bugs {
        for bug in PlantedBug::ALL {
            let config = SweepConfig { bug: Some(bug), states: 0, violations_max: 3, ..config.clone() };
            let report = run(&format!("planted: {bug:?}"), &config, 1);
            good &= report.violations > 0;
        }
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run(what: &str, config: &SweepConfig, examples: usize) -> SweepReport {
    let started = Instant::now();
    let report = sweep(config);
    println!(
        "{what}: {} states ({} of them first crashes) of {} lives with {} operations in {:.1} s; {} cuts; \
         {} with a checkpoint; {} refused for damage that was done; \
         silent losses {}; broken rules {}",
        report.states,
        report.outer_states,
        report.lives,
        report.operations,
        started.elapsed().as_secs_f64(),
        report.cuts,
        report.checkpoints,
        report.refusals,
        report.silent_losses,
        report.violations
    );
    for example in report.examples.iter().take(examples) {
        println!("  {example}");
    }
    report
}

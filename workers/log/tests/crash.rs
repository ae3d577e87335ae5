//! A fixed slice of the crash sweep, and proof that the sweep can fail.
#![allow(clippy::unwrap_used)]

use kvbroker_log::sweep::{PlantedBug, SweepConfig, sweep};

/// Small enough for every run; `examples/crash_sweep` does as many states as one likes.
fn slice() -> SweepConfig {
    SweepConfig { tear_step: 64, random_lives: 3, ..SweepConfig::default() }
}

#[test]
fn no_crash_loses_what_was_acknowledged() {
    let report = sweep(&SweepConfig { states: 60_000, ..slice() });
    println!("{report:?}");
    assert!(report.states >= 40_000 && report.outer_states < report.states, "{report:?}");
    assert!(report.cuts > 1000, "the sweep hardly tears anything: {report:?}");
    assert_eq!((report.silent_losses, report.violations), (0, 0), "{:#?}", report.examples);
}

#[test]
fn a_planted_error_is_noticed() {
    for bug in PlantedBug::ALL {
        let report = sweep(&SweepConfig { states: 0, bug: Some(bug), random_lives: 0, ..slice() });
        assert!(report.violations > 0, "{bug:?} went unnoticed in {} states", report.states);
        println!("{bug:?}: {} of {} states; {}", report.violations, report.states, report.examples[0]);
    }
}

//! A fixed slice of the crash sweep, and proof that the sweep can fail.
#![allow(clippy::unwrap_used)]

use kvbroker_log::sweep::{PlantedBug, SweepConfig, sweep};

/// Small enough for every run; `examples/crash_sweep` does as many states as one likes.
fn slice() -> SweepConfig {
    SweepConfig { tear_step: 64, random_lives: 3, choices_max: 8, ..SweepConfig::default() }
}

#[test]
fn no_crash_loses_what_was_acknowledged() {
    let report = sweep(&SweepConfig { states: 40_000, ..slice() });
    println!("{report:?}");
    assert!(report.states >= 30_000 && report.outer_states < report.states, "{report:?}");
    assert!(report.cuts > 1000, "the sweep hardly tears anything: {report:?}");
    assert!(report.checkpoints > 5000, "there are hardly any checkpoints: {report:?}");
    assert!(report.refusals > 100, "the damage that is done is hardly met: {report:?}");
    assert_eq!((report.silent_losses, report.violations), (0, 0), "{:#?}", report.examples);
}

#[test]
fn a_planted_error_is_noticed() {
    for bug in PlantedBug::ALL {
        // The first broken rules are enough.
        let config = SweepConfig { states: 0, bug: Some(bug), random_lives: 0, choices_max: 16, violations_max: 3, ..slice() };
        let report = sweep(&config);
        assert!(report.violations > 0, "{bug:?} went unnoticed in {} states", report.states);
        println!("{bug:?}: {} of {} states; {}", report.violations, report.states, report.examples[0]);
    }
}

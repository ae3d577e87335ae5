//! A fixed slice of the crash sweep of queues, and proof that it can fail. `KVBROKER_QUEUE_SWEEP_LIVES=200` takes as many lives.

use kvbroker_tests::queue_sweep::{Config, PlantedBug, sweep};

fn config() -> Config {
    Config { seed: 1, lives: 6, turns: 40, choices_max: 5, violations_max: 0, bug: None }
}

#[test]
fn whatever_crashes_queues_are_as_they_were_committed() {
    let lives = std::env::var("KVBROKER_QUEUE_SWEEP_LIVES").ok().and_then(|lives| lives.parse().ok()).unwrap_or(config().lives);
    let report = sweep(&Config { lives, ..config() });
    println!("{report:?}");
    assert_eq!(report.violations, 0, "{:#?}", report.examples);
    assert!(report.states > 1_000 && report.ahead > 50, "hardly anything is stopped: {report:?}");
    assert!(report.with_leases > 300 && report.with_dead > 50 && report.with_checkpoint > 100, "{report:?}");
    assert!(report.with_transient > 300 && report.mixed > 5, "hardly anything in memory alone is lost: {report:?}");
    let (pushes, deliveries, transactions) = report.told;
    assert!(pushes > 50 && deliveries > 50 && transactions > 5 && report.expired > 10, "{report:?}");
}

#[test]
fn a_planted_error_is_noticed() {
    for bug in PlantedBug::ALL {
        let report = sweep(&Config { lives: 9, violations_max: 2, bug: Some(bug), ..config() });
        assert!(report.violations > 0, "{bug:?} went unnoticed in {} states", report.states);
        println!("{bug:?}: after {} states: {}", report.states, report.examples[0]);
    }
}

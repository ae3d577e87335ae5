//! A fixed slice of the simulation of watches, and proof that it can fail.
//!
//! `cargo run -p kvbroker-tests --bin watch_simulation` does as many steps as one likes.

use kvbroker_tests::watch_sim::{Config, PlantedBug, simulate};

#[test]
fn no_watch_misses_anything() {
    let report = simulate(&Config { seed: 1, steps: 60_000, acts_max: 2_000, bug: None });
    println!("{report:?}");
    assert_eq!(report.violation, None);
    let happened = &report.happened;
    assert!(happened.lost > 300 && happened.cuts > 600, "the network hardly loses anything: {happened:?}");
    assert!(happened.power_failures > 100 && happened.kills > 50 && happened.stops > 10, "hardly any ends: {happened:?}");
    assert!(happened.losses > 5 && happened.set_back > 3 && happened.resumed > 50, "hardly anything is undone: {happened:?}");
    let seen = &happened.seen;
    assert!(seen.revisions > 3_000 && seen.refills > 500 && seen.messages > 1_500, "the watches hardly see anything: {seen:?}");
    assert!(seen.gone > 2 && seen.broken > 10, "hardly any removal is forgotten: {seen:?}");
    for why in ["asked", "compacted", "other_history", "rolled_back"] {
        assert!(seen.snapshots.get(why).is_some_and(|count| *count > 3), "hardly any snapshot because of {why}: {seen:?}");
    }
}

#[test]
fn a_planted_error_is_noticed() {
    for bug in PlantedBug::ALL {
        let report = simulate(&Config { seed: 2, steps: 1_000_000, acts_max: 2_000, bug: Some(bug) });
        let Some((_, _, violation)) = report.violation else { panic!("{bug:?} went unnoticed: {:?}", report.happened) };
        println!("{bug:?}: after {} steps: {violation}", report.happened.steps);
    }
}

#[test]
fn a_seed_tells_the_whole_story() {
    let report = || simulate(&Config { seed: 7, steps: 5_000, acts_max: 2_000, bug: None });
    let (one, other) = (report(), report());
    assert_eq!((one.lives, one.happened), (other.lives, other.happened));
}

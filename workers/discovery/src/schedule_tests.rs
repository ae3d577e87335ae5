//! The schedule against a catalog that is three booleans, on a clock that is a number.
#![allow(clippy::unwrap_used)]

use super::*;

/// A catalog as the schedule sees it.
struct Fake {
    up: bool,
    takes_udp: bool,
    takes_tcp: bool,
    /// A refused UDP port is told by the host; a firewall drops without a word.
    udp_refused: bool,
    heard_s: Option<u64>,
}

impl Fake {
    fn healthy() -> Self {
        Fake { up: true, takes_udp: true, takes_tcp: true, udp_refused: false, heard_s: None }
    }

    fn down() -> Self {
        Fake { up: false, ..Fake::healthy() }
    }

    fn does(&mut self, step: Step, now_ms: u64) -> Came {
        match step {
            Step::Send(Via::Udp) if self.udp_refused => Came::NotSent("refused".into()),
            Step::Send(Via::Tcp) if !self.up => Came::NotSent("refused".into()),
            Step::Send(via) => {
                let arrives = self.up && if via == Via::Udp { self.takes_udp } else { self.takes_tcp };
                if arrives {
                    self.heard_s = Some(now_ms / 1000);
                }
                Came::Sent
            }
            Step::Look if !self.up => Came::NoAnswer("refused".into()),
            Step::Look => self.heard_s.map_or(Came::NotListed, Came::Listed),
        }
    }
}

/// Runs until `end_ms`; returns what was done and when.
fn run(schedule: &mut Schedule, fake: &mut Fake, now_ms: &mut u64, end_ms: u64) -> Vec<(u64, Step)> {
    let mut done = Vec::new();
    while *now_ms <= end_ms {
        while let Some(step) = schedule.poll(*now_ms) {
            assert_eq!(schedule.poll(*now_ms), None, "one step at a time");
            assert_eq!(schedule.due_ms(), None, "nothing is due while a step is under way");
            done.push((*now_ms, step));
            let came = fake.does(step, *now_ms);
            schedule.came(*now_ms, came);
            assert!(done.len() < 10_000, "it never rests");
        }
        match schedule.due_ms() {
            Some(due) => {
                assert!(due > *now_ms, "due in the past but not done");
                *now_ms = due;
            }
            None => break,
        }
    }
    *now_ms = end_ms;
    done
}

fn sends(done: &[(u64, Step)], wanted: Via) -> Vec<u64> {
    done.iter().filter(|(_, step)| *step == Step::Send(wanted)).map(|(at, _)| *at).collect()
}

fn looks(done: &[(u64, Step)]) -> usize {
    done.iter().filter(|(_, step)| *step == Step::Look).count()
}

#[test]
fn a_healthy_catalog_is_told_every_minute_and_checked_every_fifth() {
    let (mut schedule, mut fake, mut now) = (Schedule::new(0), Fake::healthy(), 0);
    let done = run(&mut schedule, &mut fake, &mut now, 1_000);
    assert_eq!(done, [(0, Step::Send(Via::Udp)), (LOOK_FIRST_MS, Step::Look)]);
    assert_eq!(schedule.standing(), &Standing::Listed { via: Via::Udp, lastheardfrom: 0 });

    let done = run(&mut schedule, &mut fake, &mut now, 601_000);
    assert_eq!(sends(&done, Via::Udp), (1..=10).map(|i| i * REFRESH_MS).collect::<Vec<_>>());
    assert!(sends(&done, Via::Tcp).is_empty());
    assert_eq!(looks(&done), 2);
}

#[test]
fn udp_that_vanishes_gets_tcp_after_ten_seconds_and_ever_after() {
    let (mut schedule, mut now) = (Schedule::new(0), 0);
    let mut fake = Fake { takes_udp: false, ..Fake::healthy() };
    let done = run(&mut schedule, &mut fake, &mut now, 12_000);
    assert_eq!(sends(&done, Via::Udp), [0]);
    assert_eq!(sends(&done, Via::Tcp), [CHECK_MS]);
    assert!(looks(&done) <= 15);
    assert!(matches!(schedule.standing(), Standing::Listed { via: Via::Tcp, .. }));

    let done = run(&mut schedule, &mut fake, &mut now, 301_000);
    assert!(sends(&done, Via::Udp).is_empty());
    assert_eq!(sends(&done, Via::Tcp).len(), 5);
}

#[test]
fn udp_that_stops_working_later_is_noticed_at_the_next_check() {
    let (mut schedule, mut fake, mut now) = (Schedule::new(0), Fake::healthy(), 0);
    run(&mut schedule, &mut fake, &mut now, 1_000);
    fake.takes_udp = false;
    // The old listing is still there: it must not pass for the new one.
    let done = run(&mut schedule, &mut fake, &mut now, 5 * REFRESH_MS + CHECK_MS + 1_000);
    assert_eq!(sends(&done, Via::Tcp), [5 * REFRESH_MS + CHECK_MS]);
    assert!(matches!(schedule.standing(), Standing::Listed { via: Via::Tcp, .. }));
}

#[test]
fn a_refused_udp_port_is_not_waited_for() {
    let (mut schedule, mut now) = (Schedule::new(0), 0);
    let mut fake = Fake { udp_refused: true, ..Fake::healthy() };
    let done = run(&mut schedule, &mut fake, &mut now, 1_000);
    assert_eq!(sends(&done, Via::Tcp), [0]);
    assert!(matches!(schedule.standing(), Standing::Listed { via: Via::Tcp, .. }));
}

#[test]
fn a_catalog_that_takes_nothing_is_unlisted_and_not_pestered() {
    let (mut schedule, mut now) = (Schedule::new(0), 0);
    let mut fake = Fake { takes_udp: false, takes_tcp: false, ..Fake::healthy() };
    run(&mut schedule, &mut fake, &mut now, 2 * CHECK_MS + 1_000);
    assert!(matches!(schedule.standing(), Standing::Unlisted(_)));
    let done = run(&mut schedule, &mut fake, &mut now, 300_000);
    assert!(looks(&done) <= 1, "{done:?}");
    fake.takes_tcp = true;
    run(&mut schedule, &mut fake, &mut now, 700_000);
    assert!(matches!(schedule.standing(), Standing::Listed { .. }));
}

#[test]
fn a_catalog_that_is_down_is_silent_and_its_return_is_noticed_within_seconds() {
    for udp_refused in [true, false] {
        let (mut schedule, mut now) = (Schedule::new(0), 0);
        let mut fake = Fake { udp_refused, ..Fake::down() };
        let done = run(&mut schedule, &mut fake, &mut now, 600_000);
        assert!(matches!(schedule.standing(), Standing::Silent(_)));
        assert!(done.len() < 150, "{}: {done:?}", done.len());
        fake = Fake::healthy();
        run(&mut schedule, &mut fake, &mut now, 600_000 + PROBE_MS_MAX + CHECK_MS + 1_000);
        assert!(matches!(schedule.standing(), Standing::Listed { .. }), "{schedule:?}");
    }
}

#[test]
fn a_listed_catalog_that_restarts_empty_is_told_within_a_minute() {
    let (mut schedule, mut fake, mut now) = (Schedule::new(0), Fake::healthy(), 0);
    run(&mut schedule, &mut fake, &mut now, 5_000);
    fake.heard_s = None;
    run(&mut schedule, &mut fake, &mut now, REFRESH_MS + 1_000);
    assert!(fake.heard_s.is_some());
}

#[test]
fn a_change_is_sent_at_once_and_checked() {
    let (mut schedule, mut fake, mut now) = (Schedule::new(0), Fake::healthy(), 0);
    run(&mut schedule, &mut fake, &mut now, 5_000);
    schedule.changed(5_000);
    let done = run(&mut schedule, &mut fake, &mut now, 6_000);
    assert_eq!(done, [(5_000, Step::Send(Via::Udp)), (5_000 + LOOK_FIRST_MS, Step::Look)]);
}

#[test]
fn what_came_of_the_old_record_is_forgotten_after_a_change() {
    let mut schedule = Schedule::new(0);
    assert_eq!(schedule.poll(0), Some(Step::Send(Via::Udp)));
    schedule.changed(1);
    assert_eq!(schedule.poll(1), None, "the old step is still under way");
    schedule.came(2, Came::Sent);
    assert_eq!(schedule.poll(2), Some(Step::Send(Via::Udp)));
}

#[test]
fn a_forbidden_catalog_is_never_told_again() {
    let mut schedule = Schedule::new(0);
    assert_eq!(schedule.poll(0), Some(Step::Send(Via::Udp)));
    schedule.came(0, Came::Forbidden("loopback only".into()));
    assert_eq!(schedule.standing(), &Standing::Skipped("loopback only".into()));
    assert_eq!((schedule.poll(1_000_000), schedule.due_ms()), (None, None));
    schedule.changed(2_000_000);
    assert_eq!(schedule.poll(2_000_000), None);
}

#[test]
fn a_record_too_big_for_a_datagram_goes_by_tcp() {
    let mut schedule = Schedule::new(0);
    assert_eq!(schedule.poll(0), Some(Step::Send(Via::Udp)));
    schedule.came(0, Came::TooBigForUdp);
    assert_eq!(schedule.poll(0), Some(Step::Send(Via::Tcp)));
    schedule.came(0, Came::Sent);
    assert_eq!(schedule.poll(100), Some(Step::Look));
    schedule.came(100, Came::Listed(1));
    assert_eq!(schedule.poll(REFRESH_MS), Some(Step::Send(Via::Tcp)));
}

#[test]
fn no_order_of_reports_confuses_it() {
    // Every report in every phase, asked for or not: it must stay alive and keep
    // having something due.
    let reports =
        [Came::Sent, Came::NotSent("x".into()), Came::TooBigForUdp, Came::Listed(7), Came::NotListed, Came::NoAnswer("x".into())];
    let mut seed = 1_u64;
    let mut schedule = Schedule::new(0);
    let mut now = 0;
    for _ in 0..100_000 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let dice = usize::try_from(seed >> 60).unwrap();
        now += u64::try_from(dice).unwrap() * 300;
        if dice == 15 {
            schedule.changed(now);
        }
        if schedule.poll(now).is_some() || dice == 14 {
            schedule.came(now, reports[dice % reports.len()].clone());
        }
        assert!(schedule.due_ms().is_some());
    }
}

#[test]
fn a_catalog_that_answers_but_can_not_be_told_is_tried_again_with_growing_pauses() {
    let (mut schedule, mut now) = (Schedule::new(0), 0);
    let mut done = 0;
    for _ in 0..600 {
        if let Some(step) = schedule.poll(now) {
            done += 1;
            schedule.came(now, if step == Step::Look { Came::NotListed } else { Came::NotSent("refused".into()) });
        }
        now = schedule.due_ms().unwrap().max(now);
        if now > 600_000 {
            break;
        }
    }
    assert!(matches!(schedule.standing(), Standing::Unlisted(_)));
    assert!(done < 60, "{done}");
}

//! A crash in the middle: the broker is killed and started again while clients write, and every acknowledged write is looked at.

use std::time::{Duration, Instant};

use crate::lab::bench::{Bench, Place, Plan, Setting};
use crate::lab::broker::{Broker, Start};
use crate::lab::kept::Kept;
use crate::lab::trouble::LabError;
use crate::report::grouped;

/// Shortest run in which there is a middle.
const SECONDS_MIN: f64 = 2.0;
/// What it may take until clients are at work, and what reading everything back takes.
const BEGIN_S: f64 = 0.5;
const LOOK_S: f64 = 3.0;

fn seconds(plan: &Plan) -> f64 {
    (plan.seconds * 5.0).max(SECONDS_MIN)
}

fn setting(plan: &Plan) -> Setting {
    let words = format!("--verify --stages insert --clients {} --seconds {}", plan.pick(8, 2), seconds(plan));
    Setting::new("kill -9 in the middle", "--sync always", &words, 1, 1, seconds(plan))
}

pub(super) fn estimate_s(plan: &Plan) -> f64 {
    setting(plan).expected_s + LOOK_S
}

pub(super) fn measure(bench: &mut Bench, kept: &mut Kept) -> Result<(), LabError> {
    let setting = setting(&bench.plan);
    bench.progress.step(&format!("verify: {}", setting.name), estimate_s(&bench.plan));
    let mut broker = Broker::start(bench, &Start::with(&["--sync", "always"]))?;
    let place = Place::beside(&broker);
    let kill_at = Instant::now() + Duration::from_secs_f64(BEGIN_S + seconds(&bench.plan) / 2.0);
    let mut down_ms = None;
    let document = bench.perf(&place, &setting.words, |_| {
        if down_ms.is_none() && Instant::now() >= kill_at {
            let begun = Instant::now();
            broker.crash_and_restart(bench)?;
            down_ms = Some(begun.elapsed().as_secs_f64() * 1e3);
        }
        Ok(())
    })?;
    // Without this the part would say something of a crash that nobody saw.
    if !document.verified.iter().any(|verified| verified.restarts > 0) {
        return Err(LabError::Missed("the broker's crash did not fall into the run: try longer --seconds".to_owned()));
    }
    kept.values.insert("down_ms".to_owned(), down_ms.into_iter().collect());
    let mut series = setting.series();
    series.rounds.push(document);
    kept.series.push(series);
    Ok(())
}

pub(super) fn text(kept: &Kept) -> String {
    let document = kept.series.first().and_then(|series| series.rounds.first());
    let Some((run, verified)) = document.and_then(|document| Some((document.runs.first()?, document.verified.first()?))) else {
        return String::new();
    };
    let down = kept
        .values("down_ms")
        .first()
        .map_or(String::new(), |ms| format!(", which took {} ms until it served again", grouped(*ms)));
    format!(
        "{} clients inserted for {:.1} s, `--sync always`; in the middle the broker got `kill -9` and was started again{down}. {} writes were \
         acknowledged; of {} writes no reply told the outcome. Afterwards {} keys were read back: **no acknowledged write was lost.** \
         The longest that a client waited for an answer was {} ms.",
        run.clients,
        run.sum.seconds,
        grouped(verified.acknowledged as f64),
        grouped(verified.unknown as f64),
        grouped(verified.keys as f64),
        grouped(run.sum.max_us / 1e3),
    )
}

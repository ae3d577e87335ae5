//! Clients added one by one until the sum levels out, as `kvperf --sweep` does it.

use crate::lab::bench::{Plan, Setting};
use crate::lab::kept::Kept;
use crate::lab::tables::{clients_text, table};
use crate::report::grouped;
use crate::stages::Stage;

const STAGES: [Stage; 2] = [Stage::Insert, Stage::Lookup];
/// About how many numbers of clients it takes.
const COUNTS: usize = 12;

pub(super) fn settings(plan: &Plan) -> Vec<Setting> {
    let seconds = plan.seconds / 2.0;
    let one = |stage: Stage| {
        let name = stage.name();
        let words = format!("--sweep --stages {name} --seconds {}", seconds.max(0.05));
        Setting::new(name, "--sync always", &words, 1, COUNTS, seconds)
    };
    STAGES.map(one).to_vec()
}

pub(super) fn text(kept: &Kept) -> String {
    let mut text = String::new();
    for (series, stage) in kept.series.iter().zip(STAGES) {
        let rates = series.growth(stage);
        let level = series.rounds.first().and_then(|document| document.levels_out.first()).and_then(|level| level.clients);
        let said = match (level, rates.last()) {
            (Some(clients), _) => format!("the sum levels out at {}", clients_text(clients)),
            (None, Some((most, _))) => format!("the sum has not levelled out at {}", clients_text(*most)),
            (None, None) => "nothing was measured".to_owned(),
        };
        text.push_str(&format!("`{} {}`: {said}.\n\n", stage.name(), series.broker));
        let head: Vec<String> =
            ["clients".to_owned()].into_iter().chain(rates.iter().map(|(clients, _)| clients.to_string())).collect();
        let row: Vec<String> =
            ["operations/s".to_owned()].into_iter().chain(rates.iter().map(|(_, rate)| grouped(*rate))).collect();
        text.push_str(&table(&head.iter().map(String::as_str).collect::<Vec<_>>(), &[row]));
        text.push('\n');
    }
    text
}

//! What `stats` says about checkpoints and the history.

use kvbroker_log::CheckpointInfo;
use kvbroker_protocol::StatValue;

use super::pace::Behind;
use super::shared::{Checkpoints, Doing, Standing};

impl Checkpoints {
    /// Adds what `stats` says; `now_ms` is the wall clock.
    pub fn stats(&self, now_ms: u64, stats: &mut Vec<(String, StatValue)>) {
        let Behind { bytes, bytes_max, .. } = self.behind();
        let checkpoint = self.segments().and_then(|segments| segments.checkpoint());
        let CheckpointInfo { revision, stamp_ms, records, bytes: checkpoint_bytes, next_segment } =
            checkpoint.unwrap_or(CheckpointInfo { next_segment: 0, revision: 0, stamp_ms: now_ms, records: 0, bytes: 0 });
        let list = self.segments().map(|segments| segments.list()).unwrap_or_default();
        let kept = list.iter().filter(|segment| segment.number < next_segment).count();
        let leftovers = self.segments().map_or(0, |segments| segments.leftovers().len());
        let Standing { doing, percent, made, failures, last_ms, damage } = self.standing().clone();
        let numbers = [
            ("checkpoints", made),
            ("checkpoint_revision", revision),
            ("checkpoint_records", records),
            ("checkpoint_bytes", checkpoint_bytes),
            ("checkpoint_age_s", now_ms.saturating_sub(stamp_ms) / 1_000),
            ("checkpoint_ms", last_ms),
            ("checkpoint_percent", if matches!(doing, Doing::Merging | Doing::FromMemory) { percent } else { 0 }),
            ("checkpoint_failures", failures),
            ("behind_bytes", bytes),
            ("behind_bytes_max", bytes_max),
            ("history_log_oldest", list.first().map_or(0, |segment| segment.base_revision + 1)),
            ("history_log_bytes", self.segments().map_or(0, |segments| segments.history_bytes())),
            ("history_log_segments", (kept + leftovers) as u64),
            ("history_log_given_up_bytes", self.segments().map_or(0, |segments| segments.given_up().bytes)),
        ];
        let doing = match doing {
            Doing::Nothing => "idle".to_owned(),
            Doing::Merging => "merging".to_owned(),
            Doing::FromMemory => "from memory".to_owned(),
            Doing::Failing(why) => format!("failed, tried again: {why}"),
        };
        let texts = [("checkpoint_state", doing), ("checkpoint_damage", damage.unwrap_or_else(|| "none".to_owned()))];
        stats.extend(numbers.map(|(name, value)| (name.to_owned(), StatValue::Number(value))));
        stats.extend(texts.map(|(name, text)| (name.to_owned(), StatValue::Text(text))));
    }
}

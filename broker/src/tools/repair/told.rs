//! What a repair found, would do and would cost, for people and as JSON.

use std::collections::HashSet;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::Path;

use kvbroker_log::{CHECKPOINT_FILE, Gap, GroupRef, RecordRef, Remedy, RepairPlan};
use serde_json::{Value, json};

use crate::tools::Place;
use crate::tools::out::rfc3339;

/// Keys that are told apart at most; each takes some bytes here.
const KEYS_MAX: usize = 1_000_000;
/// Keys that are shown.
const KEYS_SHOWN: usize = 5;
/// First byte of the record of a key of the table (docs/storage.md).
const TABLE_SPACE: u8 = b't';

/// Keys in what would be lost.
#[derive(Default)]
pub(super) struct Keys {
    seen: HashSet<u64>,
    is_more: bool,
    shown: Vec<String>,
}

impl Keys {
    pub(super) fn take(&mut self, group: &GroupRef<'_>) {
        for record in group.records() {
            let (RecordRef::Put { key, .. } | RecordRef::Delete { key }) = record;
            let Some((&TABLE_SPACE, key)) = key.split_first() else { continue };
            if self.seen.len() == KEYS_MAX {
                self.is_more = true;
                return;
            }
            let mut hasher = DefaultHasher::new();
            key.hash(&mut hasher);
            if self.seen.insert(hasher.finish()) && self.shown.len() < KEYS_SHOWN {
                self.shown.push(key.escape_ascii().to_string());
            }
        }
    }

    fn sentence(&self) -> String {
        let count = format!("{}{}", if self.is_more { "more than " } else { "" }, self.seen.len());
        let more = if self.seen.len() > self.shown.len() { ", …" } else { "" };
        match self.shown.as_slice() {
            [] => "no keys".to_owned(),
            shown => format!("{count} keys ({}{more})", shown.join(", ")),
        }
    }
}

/// The plan in lines.
pub(super) fn report(place: &Place, plan: &RepairPlan, keys: &Keys) -> Vec<String> {
    let line = |name: &str, text: String| format!("{name:<10}{text}");
    let damage = &plan.damage;
    let path = place.directory.join(&damage.name);
    let mut lines = vec![line("damaged", format!("{} at byte {}: {}", path.display(), damage.offset, damage.what))];
    let done = match plan.remedy {
        Remedy::EndLog => "the log is ended there, and a new epoch begins",
        Remedy::NewHeader if damage.name == CHECKPOINT_FILE => {
            "the checkpoint's header is made anew from its end block, which says the same"
        }
        Remedy::NewHeader => "the segment's header is made anew from the batches behind it",
        Remedy::RemoveCheckpoint => "the checkpoint is removed: the log is there from its beginning, and says the same",
        Remedy::SalvageCheckpoint => "the records that can be read make a new checkpoint, and a new epoch begins",
    };
    lines.push(line("remedy", done.to_owned()));
    let loss = &plan.loss;
    match (plan.remedy, &plan.checkpoint) {
        (Remedy::EndLog, _) => {
            let stamp = if plan.kept_revision > 0 { format!(", of {}", rfc3339(plan.kept_stamp_ms)) } else { String::new() };
            lines.push(line("kept", format!("everything up to revision {}{stamp}", plan.kept_revision)));
            match loss.batches {
                None => lines.push(line("lost", "nothing is known to have followed".to_owned())),
                Some((first, last)) => {
                    let count = last - first + 1;
                    lines.push(line("lost", format!("{count} batches: {first} to {last}, as far as is known")));
                    let readable = loss.readable_batches;
                    lines.push(line(
                        "",
                        format!("{readable} of them could still be read: {} records, {}", loss.records, keys.sentence()),
                    ));
                }
            }
            if let Some((first, last)) = loss.revisions {
                lines.push(line("", format!("revisions {first} to {last}, as far as they can be read")));
            }
            if let Some((first, last)) = loss.stamps_ms {
                lines.push(line("", format!("written {} to {}", rfc3339(first), rfc3339(last))));
            }
        }
        (_, Some(remains)) => {
            lines.push(line(
                "kept",
                format!(
                    "of {} readable records of the checkpoint all but sessions, and the log behind it up to revision {}",
                    remains.records, plan.kept_revision
                ),
            ));
            for gap in &remains.told {
                lines.push(line("lost", sentence_of(gap)));
            }
            let more = remains.gaps - remains.told.len() as u64;
            if more > 0 {
                lines.push(line("", format!("and {more} more gaps")));
            }
            // Which replies are among the lost records, nobody knows: a retry could be done twice.
            let forgotten = "the checkpoint's sessions: their clients are told that what was under way may have been done";
            lines.push(line("", forgotten.to_owned()));
        }
        _ => lines.push(line("lost", "nothing".to_owned())),
    }
    lines
}

fn sentence_of(gap: &Gap) -> String {
    let key = |key: &Option<Vec<u8>>, none: &str| match key.as_deref().and_then(<[u8]>::split_first) {
        None => none.to_owned(),
        Some((&TABLE_SPACE, key)) => format!("{:?}", key.escape_ascii().to_string()),
        // Sessions and what is remembered for them stand before and behind the keys.
        Some((&space, _)) => format!("a record of space {:?}", char::from(space)),
    };
    let (after, before) = (key(&gap.after, "the beginning"), key(&gap.before, "the end"));
    format!("what stood between {after} and {before}: {} bytes at byte {}", gap.bytes, gap.offset)
}

/// The plan as an object; `copy` is where the directory was copied to, if the plan was carried out.
pub(super) fn json_of(place: &Place, plan: &RepairPlan, keys: &Keys, copy: Option<&Path>) -> Value {
    let pair = |pair: Option<(u64, u64)>| pair.map(|(first, last)| json!([first, last]));
    let gaps = plan.checkpoint.as_ref().map(|remains| remains.told.iter().map(sentence_of).collect::<Vec<_>>());
    json!({
        "data": place.directory,
        "damaged": true,
        "file": plan.damage.name,
        "offset": plan.damage.offset,
        "what": plan.damage.what,
        "remedy": match plan.remedy {
            Remedy::EndLog => "end_log",
            Remedy::NewHeader => "new_header",
            Remedy::RemoveCheckpoint => "remove_checkpoint",
            Remedy::SalvageCheckpoint => "salvage_checkpoint",
        },
        "kept_revision": plan.kept_revision,
        "lost_batches": pair(plan.loss.batches),
        "lost_revisions": pair(plan.loss.revisions),
        "lost_stamps_ms": pair(plan.loss.stamps_ms),
        "readable_batches": plan.loss.readable_batches,
        "readable_records": plan.loss.records,
        "readable_keys": keys.seen.len(),
        "gaps": gaps,
        "repaired": copy.is_some(),
        "copy": copy,
    })
}

//! Errors in what is logged of queues: planted between the worker and the log, so that what a start reads is not what was served.

use kvbroker_log::{BatchBuilder, RecordRef};

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlantedBug {
    /// An acknowledgement deletes the item's state, and not the item.
    AckLeavesItem,
    /// That an item was handed out is not logged.
    GrantNotLogged,
    /// That an item came back is not logged.
    ReturnNotLogged,
    /// An item's state stands before the item in its group.
    StateBeforeItem,
    /// What moves to the queue for dead items is removed here, and not put there.
    MoveLosesItem,
    /// A queue's settings are logged for its first declaration alone.
    SettingsNotLogged,
    /// Items of a transient queue are logged as those of others are.
    TransientLogged,
    /// Of a transaction that pushes into a transient queue, too, what it pushes elsewhere is not logged.
    MixedPushNotLogged,
    /// The epoch is kept although a start has lost what was told: tokens come a second time.
    EpochKept,
}

/// Spaces of records: the first byte of a key.
const QUEUE: u8 = b'q';
const ITEM: u8 = b'x';
const STATE: u8 = b'y';
/// The first byte of a state's value.
const WAITING: u8 = 1;
const LEASED: u8 = 2;
/// Of an item's key: the space and the queue's id. The item's id comes behind it, a revision and a place of so many bits.
const QUEUE_KEY_BYTES: usize = 9;
const PLACE_BITS: u32 = 10;
/// An item's value that can be read: the JSON text "b", pushed at no time, without any flag.
const SOME_ITEM: [u8; 13] = [2, b'"', b'b', b'"', 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// In the last byte of an item's value: it was dead elsewhere before.
const HAS_ORIGIN: u8 = 16;

impl PlantedBug {
    /// All of them.
    pub const ALL: [PlantedBug; 9] = [
        PlantedBug::AckLeavesItem,
        PlantedBug::GrantNotLogged,
        PlantedBug::ReturnNotLogged,
        PlantedBug::StateBeforeItem,
        PlantedBug::MoveLosesItem,
        PlantedBug::SettingsNotLogged,
        PlantedBug::TransientLogged,
        PlantedBug::MixedPushNotLogged,
        PlantedBug::EpochKept,
    ];

    /// What it does to a batch on its way to the log.
    pub(super) fn spoiler(self) -> Option<fn(&mut BatchBuilder)> {
        Some(match self {
            PlantedBug::AckLeavesItem => |batch| leave_out(batch, |key, value| key == ITEM && value.is_none()),
            PlantedBug::GrantNotLogged => |batch| leave_out(batch, |key, value| key == STATE && starts_with(value, LEASED)),
            PlantedBug::ReturnNotLogged => |batch| leave_out(batch, |key, value| key == STATE && starts_with(value, WAITING)),
            PlantedBug::MoveLosesItem => |batch| leave_out(batch, |key, value| key == ITEM && was_elsewhere(value)),
            PlantedBug::SettingsNotLogged => |batch| {
                // The first declaration is the first revision of all.
                if batch.last_revision().is_some_and(|last| last > 4) {
                    leave_out(batch, |key, _| key == QUEUE);
                }
            },
            PlantedBug::TransientLogged => |batch| {
                rewrite(batch, |revision, records| {
                    for record in records {
                        if let Some(key) = pushed_in_memory(revision, record) {
                            *record = RecordRef::Put { key, value: &SOME_ITEM };
                        }
                    }
                });
            },
            PlantedBug::MixedPushNotLogged => |batch| {
                rewrite(batch, |revision, records| {
                    if records.iter().any(|record| pushed_in_memory(revision, record).is_some()) {
                        records.retain(|record| !matches!(split(record), (ITEM, Some(_))));
                    }
                });
            },
            PlantedBug::StateBeforeItem => |batch| {
                rewrite(batch, |_, records| records.sort_by_key(|record| std::cmp::Reverse(split(record).0)));
            },
            PlantedBug::EpochKept => return None,
        })
    }
}

fn starts_with(value: Option<&[u8]>, stage: u8) -> bool {
    value.and_then(<[u8]>::first) == Some(&stage)
}

fn was_elsewhere(value: Option<&[u8]>) -> bool {
    value.and_then(<[u8]>::last).is_some_and(|flags| flags & HAS_ORIGIN != 0)
}

/// The key of an item that is pushed into a transient queue: logged as the deletion of one that is named for the revision itself.
fn pushed_in_memory<'a>(revision: u64, record: &RecordRef<'a>) -> Option<&'a [u8]> {
    let RecordRef::Delete { key } = record else { return None };
    let (head, item) = key.split_first_chunk::<QUEUE_KEY_BYTES>()?;
    let item = u64::from_be_bytes(item.try_into().ok()?);
    (head[0] == ITEM && item >> PLACE_BITS == revision).then_some(key)
}

/// Space, and the value of a put.
fn split<'a>(record: &RecordRef<'a>) -> (u8, Option<&'a [u8]>) {
    let (key, value) = match record {
        RecordRef::Put { key, value } => (key, Some(*value)),
        RecordRef::Delete { key } => (key, None),
    };
    (key.first().copied().unwrap_or_default(), value)
}

fn leave_out(batch: &mut BatchBuilder, what: impl Fn(u8, Option<&[u8]>) -> bool) {
    rewrite(batch, |_, records| {
        records.retain(|record| {
            let (space, value) = split(record);
            !what(space, value)
        });
    });
}

/// Changes the records of each group, whose revision is told.
fn rewrite(batch: &mut BatchBuilder, change: impl Fn(u64, &mut Vec<RecordRef<'_>>)) {
    let mut spoiled = BatchBuilder::new();
    spoiled.begin(batch.stamp_ms());
    let visited = batch.visit(&mut |group| {
        spoiled.group(group.revision, group.cause, group.session);
        let mut records: Vec<RecordRef<'_>> = group.records().collect();
        change(group.revision, &mut records);
        for record in records {
            match record {
                RecordRef::Put { key, value } => spoiled.put(key, value),
                RecordRef::Delete { key } => spoiled.delete(key),
            }
        }
    });
    if visited.is_ok() {
        *batch = spoiled;
    }
}

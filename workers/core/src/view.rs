//! Records as people read them: for the tools that show a log or a checkpoint.

use kvbroker_protocol::{ItemId, Outcome, SessionId};

use crate::change::{Change, ChangeError, Space};
use crate::queues::{ItemRecord, Stage, read_life, read_queue, split_item_key};
use crate::record::{TableRecord, split_table_record};
use crate::routing::{read_binding, read_counts, split_binding_key};
use crate::sessions::{SessionRecord, WindowRecord, session_of, window_session_of};

/// What the key of a record names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordName<'a> {
    /// A key of the table.
    Key(&'a [u8]),
    /// A session.
    Session(SessionId),
    /// A place in a session's window of remembered replies.
    Reply(SessionId, u16),
    /// The queue with this id, and a pattern that it is bound to.
    Binding(ItemId, &'a [u8]),
    /// The messages that were published.
    Messages,
    /// A queue.
    Queue(&'a [u8]),
    /// An item of the queue with this id.
    Item(ItemId, ItemId),
    /// What has become of an item of the queue with this id.
    ItemState(ItemId, ItemId),
    /// A rule by which values are converted.
    Rule(&'a [u8]),
    /// The user whose forgotten sessions the floor speaks of; empty for all users.
    Floor(&'a [u8]),
}

/// What the value of a record says.
#[derive(Clone, Debug, PartialEq)]
pub enum RecordView<'a> {
    /// A key's value.
    Table(TableRecord<'a>),
    /// A session.
    Session {
        /// True once it was ended.
        ended: bool,
        /// When it was used last, milliseconds of the stamp.
        used_ms: u64,
        /// The highest number decided.
        highest: u64,
        /// The authenticated user.
        owner: &'a [u8],
    },
    /// What a mutation was answered.
    Reply {
        /// Its number in the session.
        number: u64,
        /// Hash of the operation.
        hash: u64,
        /// The highest number that the client had acknowledged by then.
        acknowledged: u64,
        /// When, milliseconds of the stamp.
        used_ms: u64,
        /// The answer.
        outcome: Outcome,
    },
    /// Which values the queue gets: the text of a predicate; empty: all.
    Binding(&'a str),
    /// How many messages were published.
    Messages {
        /// All of them.
        published: u64,
        /// Those that no queue wanted.
        unroutable: u64,
    },
    /// A queue's settings.
    Queue {
        /// The queue's id.
        id: ItemId,
        /// Nothing is handed out.
        paused: bool,
    },
    /// An item as it was pushed.
    Item {
        /// Type byte and document.
        stored: &'a [u8],
        /// Its priority.
        priority: i8,
        /// When it was pushed, milliseconds of the stamp.
        pushed_ms: u64,
    },
    /// What has become of an item.
    ItemState {
        /// The name of its stage.
        stage: &'static str,
        /// How often it was handed out.
        deliveries: u32,
        /// The token of its delivery, if a consumer has it.
        token: Option<u64>,
    },
    /// A rule: its fields as a MessagePack map.
    Rule(&'a [u8]),
    /// Sessions of the user that were born then or before are forgotten; milliseconds of the stamp.
    Floor(u64),
}

/// Reads a record's key, and its value where it has one; `revision` is its group's.
///
/// # Errors
/// [`ChangeError`] for what this version does not know.
pub fn view_record<'a>(
    record_key: &'a [u8],
    value: Option<&'a [u8]>,
    revision: u64,
) -> Result<(RecordName<'a>, Option<RecordView<'a>>), ChangeError> {
    let (space, key) = Change::check_record(record_key, value)?;
    let foreign = || ChangeError::NotOfItsSpace(space);
    let name = match space {
        Space::Table => RecordName::Key(key),
        Space::Floor => RecordName::Floor(key),
        Space::Session => RecordName::Session(session_of(key).ok_or_else(foreign)?),
        Space::Binding => {
            let (queue, pattern) = split_binding_key(key).ok_or_else(foreign)?;
            RecordName::Binding(queue, pattern)
        }
        Space::Messages => RecordName::Messages,
        Space::Rule => RecordName::Rule(key),
        Space::Queue => RecordName::Queue(key),
        Space::Item | Space::ItemState => {
            let (queue, item) = split_item_key(key).ok_or_else(foreign)?;
            if space == Space::Item { RecordName::Item(queue, item) } else { RecordName::ItemState(queue, item) }
        }
        Space::Window => {
            let place = key.last_chunk().map(|place| u16::from_be_bytes(*place));
            let (session, place) = window_session_of(key).zip(place).ok_or_else(foreign)?;
            RecordName::Reply(session, place)
        }
    };
    let Some(value) = value else { return Ok((name, None)) };
    let view = match space {
        Space::Table => split_table_record(value).map(RecordView::Table),
        Space::Session => SessionRecord::read(value).map(|record| RecordView::Session {
            ended: record.ended,
            used_ms: record.used_ms,
            highest: record.highest,
            owner: record.owner,
        }),
        Space::Window => WindowRecord::read(value).map(|record| RecordView::Reply {
            number: record.seq,
            hash: record.hash,
            acknowledged: record.acked,
            used_ms: record.used_ms,
            outcome: record.reply.outcome(revision),
        }),
        Space::Binding => read_binding(value).map(RecordView::Binding),
        Space::Messages => {
            read_counts(value).map(|counts| RecordView::Messages { published: counts.published, unroutable: counts.unroutable })
        }
        Space::Rule => Some(RecordView::Rule(value)),
        Space::Queue => read_queue(value).map(|(id, options)| RecordView::Queue { id, paused: options.paused }),
        Space::Item => ItemRecord::read(value).map(|record| RecordView::Item {
            stored: record.stored,
            priority: record.priority,
            pushed_ms: record.pushed_ms,
        }),
        Space::ItemState => read_life(value).map(|life| {
            let (stage, token) = match life.stage {
                Stage::Waiting { .. } => ("waiting", None),
                Stage::Leased { token, .. } => ("leased", Some(token)),
                Stage::Dead { .. } => ("dead", None),
            };
            RecordView::ItemState { stage, deliveries: life.deliveries, token }
        }),
        Space::Floor => value.first_chunk().map(|born_ms| RecordView::Floor(u64::from_le_bytes(*born_ms))),
    };
    Ok((name, Some(view.ok_or_else(foreign)?)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use kvbroker_protocol::Answer;

    use super::*;

    #[test]
    fn every_space_can_be_read() {
        let (name, view) = view_record(b"tk", Some(b"\x027\0"), 3).unwrap();
        assert!(matches!(view, Some(RecordView::Table(record)) if record.stored == b"\x027"));
        assert_eq!(name, RecordName::Key(b"k"));
        assert_eq!(view_record(b"fann", Some(&7u64.to_le_bytes()), 3).unwrap().1, Some(RecordView::Floor(7)));
        let id = SessionId([9; 16]);
        let key = [&b"s"[..], &id.0].concat();
        let value = [&[2][..], &5u64.to_le_bytes(), &8u64.to_le_bytes(), b"ann"].concat();
        let ended = RecordView::Session { ended: true, used_ms: 5, highest: 8, owner: b"ann" };
        assert_eq!(view_record(&key, Some(&value), 3).unwrap(), (RecordName::Session(id), Some(ended)));
        let key = [&b"w"[..], &id.0, &8u16.to_be_bytes()].concat();
        let value = [&8u64.to_le_bytes()[..], &1u64.to_le_bytes(), &2u16.to_le_bytes(), &6u64.to_le_bytes(), &[0]].concat();
        let outcome = Outcome { revision: Some(3), result: Ok(Answer::Done) };
        let reply = RecordView::Reply { number: 8, hash: 1, acknowledged: 6, used_ms: 6, outcome };
        assert_eq!(view_record(&key, Some(&value), 3).unwrap(), (RecordName::Reply(id, 8), Some(reply)));
        assert_eq!(view_record(&key, None, 3).unwrap(), (RecordName::Reply(id, 8), None));
        for (key, value) in [(&b""[..], None), (b"x", None), (b"tk", Some(&b""[..])), (b"sk", None), (b"w", None)] {
            assert!(view_record(key, value, 1).is_err(), "{key:?}");
        }
    }
}

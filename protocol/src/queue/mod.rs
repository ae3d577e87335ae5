//! Work queues as they are asked for and answered: operations, options, items and their states.
//!
//! - A queue is named by bytes, as a key is; an item by an [`ItemId`], a delivery by its item and a token.
//! - What stands here has no order, no time and no lease of its own: that is the core's.

mod answers;
mod request;
mod track;
mod verbs;

use std::fmt;
use std::str::FromStr;

use crate::error::Failure;
use crate::limits;
use crate::reply::StatValue;
use crate::value::{Key, Stored};

pub use answers::QueueExpect;
#[cfg(test)]
pub(crate) use answers::samples;
pub(crate) use answers::{
    compact_length, each_value, field_count, is_compact_length, item, read_compact, read_deliveries, write_compact, write_fields,
};
pub(crate) use request::{Options, Part, write_queue_operation};
pub use track::{Progress, Tracked, Until};
pub(crate) use verbs::QUEUE_VERBS;

/// An item's name in its queue: the revision of its push, and its place among the pushes of one transaction. Later pushes have later
/// ids, and none is used twice. Its text form is `REVISION`, or `REVISION.PLACE` where the place is not the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ItemId(u64);

/// Bits of an [`ItemId`] that hold the place.
const PLACE_BITS: u32 = 10;
const _: () = assert!(1 << PLACE_BITS >= limits::TXN_OPERATIONS_MAX, "each push of a transaction has a place");

impl ItemId {
    /// The first of all.
    pub const MIN: ItemId = ItemId(0);

    /// The id of a push. None beyond what 54 bits of revisions and 1,024 places can say.
    pub const fn new(revision: u64, place: u16) -> Option<ItemId> {
        if revision >> (u64::BITS - PLACE_BITS) != 0 || place >> PLACE_BITS != 0 {
            return None;
        }
        Some(ItemId(revision << PLACE_BITS | place as u64))
    }

    /// The revision of the push.
    pub const fn revision(self) -> u64 {
        self.0 >> PLACE_BITS
    }

    /// The place among the pushes of that revision.
    pub const fn place(self) -> u16 {
        (self.0 & ((1 << PLACE_BITS) - 1)) as u16
    }

    /// As it stands in the keys of records, where ids ascend as their bytes do.
    pub const fn to_bytes(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }

    /// The id of these bytes.
    pub const fn from_bytes(bytes: [u8; 8]) -> ItemId {
        ItemId(u64::from_be_bytes(bytes))
    }
}

impl fmt::Display for ItemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place() {
            0 => write!(f, "{}", self.revision()),
            place => write!(f, "{}.{place}", self.revision()),
        }
    }
}

/// A text is no [`ItemId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an item's id is the text that its push answered, such as 17 or 17.2")]
pub struct ItemIdError;

impl FromStr for ItemId {
    type Err = ItemIdError;

    fn from_str(text: &str) -> Result<ItemId, ItemIdError> {
        let (revision, place) = match text.split_once('.') {
            Some((revision, place)) => (revision, place.parse().map_err(|_| ItemIdError)?),
            None => (text, 0),
        };
        let id = ItemId::new(revision.parse().map_err(|_| ItemIdError)?, place).ok_or(ItemIdError)?;
        // One text for each id: whoever compares texts compares ids.
        if id.to_string() == text { Ok(id) } else { Err(ItemIdError) }
    }
}

/// Names a delivery: what its consumer shows with everything that it says about the item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Receipt {
    /// The item.
    pub item: ItemId,
    /// The revision at which it was handed out. Later deliveries have higher ones: whatever is written elsewhere on behalf of a delivery
    /// can be fenced with it.
    pub token: u64,
}

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.item, self.token)
    }
}

/// A text is no [`Receipt`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a receipt is what a delivery was printed with, ITEM:TOKEN, such as 17:23")]
pub struct ReceiptError;

impl FromStr for Receipt {
    type Err = ReceiptError;

    fn from_str(text: &str) -> Result<Receipt, ReceiptError> {
        let (item, token) = text.split_once(':').ok_or(ReceiptError)?;
        Ok(Receipt { item: item.parse().map_err(|_| ReceiptError)?, token: token.parse().map_err(|_| ReceiptError)? })
    }
}

/// What becomes of a push that does not fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// It is refused: `queue_full`.
    #[default]
    Reject,
    /// The oldest items of the lowest priority that nobody has make room for it.
    DropOldest,
}

impl Overflow {
    /// Both.
    pub const ALL: [Overflow; 2] = [Overflow::Reject, Overflow::DropOldest];

    /// The stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Overflow::Reject => "reject",
            Overflow::DropOldest => "drop-oldest",
        }
    }

    /// What a name means; exact.
    pub fn from_name(name: &str) -> Option<Overflow> {
        Overflow::ALL.into_iter().find(|overflow| overflow.name() == name)
    }
}

/// Where an item is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ItemState {
    /// The next pull may get it.
    Ready,
    /// Its delay is not over.
    Delayed,
    /// A consumer has it.
    Leased,
    /// It was set aside, and waits for a person.
    Dead,
}

impl ItemState {
    /// All of them.
    pub const ALL: [ItemState; 4] = [ItemState::Ready, ItemState::Delayed, ItemState::Leased, ItemState::Dead];

    /// The stable name.
    pub const fn name(self) -> &'static str {
        match self {
            ItemState::Ready => "ready",
            ItemState::Delayed => "delayed",
            ItemState::Leased => "leased",
            ItemState::Dead => "dead",
        }
    }

    /// What a name means; exact.
    pub fn from_name(name: &str) -> Option<ItemState> {
        ItemState::ALL.into_iter().find(|state| state.name() == name)
    }
}

/// Settings of a queue; those that are not given stay as they are. 0 and an empty name take a setting away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Declaration {
    /// How long a consumer has an item, where its pull does not say; milliseconds.
    pub lease_ms: Option<u64>,
    /// How often an item is delivered before it is dead.
    pub max_deliveries: Option<u32>,
    /// How long an item rests when it comes back; milliseconds.
    pub retry_ms: Option<u64>,
    /// How long an item may wait, where its push does not say; milliseconds.
    pub ttl_ms: Option<u64>,
    /// Most items.
    pub max_items: Option<u64>,
    /// Most bytes of values.
    pub max_bytes: Option<u64>,
    /// What becomes of a push that does not fit.
    pub overflow: Option<Overflow>,
    /// The queue that gets what is dead here.
    pub dead: Option<Key>,
    /// Nothing is handed out.
    pub paused: Option<bool>,
    /// Its items live in memory alone, and are gone after a restart.
    pub transient: Option<bool>,
    /// Settings of a queue that is there: none is made.
    pub must_exist: bool,
}

/// A push.
#[derive(Clone, Debug, PartialEq)]
pub struct Push {
    /// The queue; it comes into being with its first item.
    pub queue: Key,
    /// The item's value as written.
    pub value: Stored,
    /// Higher ones are handed out first.
    pub priority: i8,
    /// Not handed out for so long; milliseconds.
    pub delay_ms: u64,
    /// Gone if nobody has taken it by then; milliseconds.
    pub ttl_ms: Option<u64>,
    /// What the value is, for those who read it.
    pub content_type: Option<String>,
}

/// A pull.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pull {
    /// The queue; one that is not there is empty.
    pub queue: Key,
    /// Most items.
    pub limit: usize,
    /// How long the consumer has them; the queue's own period where absent. Milliseconds.
    pub lease_ms: Option<u64>,
    /// How long to wait for the first one; milliseconds.
    pub wait_ms: u64,
    /// They are removed as they are handed out, and lost if the reply is.
    pub no_ack: bool,
}

/// What is asked of queues.
#[derive(Clone, Debug, PartialEq)]
pub enum QueueOperation {
    /// Makes a queue, or changes its settings.
    Declare {
        /// The queue.
        queue: Key,
        /// Its settings.
        options: Declaration,
    },
    /// Removes a queue that has no items.
    Drop {
        /// The queue.
        queue: Key,
    },
    /// Appends an item.
    Push(Push),
    /// Takes items on lease.
    Pull(Pull),
    /// The item is done.
    Ack {
        /// The queue.
        queue: Key,
        /// Which delivery.
        receipt: Receipt,
    },
    /// The item comes back.
    Nack {
        /// The queue.
        queue: Key,
        /// Which delivery.
        receipt: Receipt,
        /// It rests for so long; the queue's own rest where absent. Milliseconds.
        delay_ms: Option<u64>,
        /// Why, for people; may be empty.
        reason: String,
        /// The consumer has not begun it: this was no delivery.
        unused: bool,
    },
    /// The consumer keeps the item for longer: so long from now on.
    Extend {
        /// The queue.
        queue: Key,
        /// Which delivery.
        receipt: Receipt,
        /// How long; the period of the delivery where absent. Milliseconds.
        lease_ms: Option<u64>,
    },
    /// The item is dead.
    Bury {
        /// The queue.
        queue: Key,
        /// The item.
        item: ItemId,
        /// Of which delivery, if a consumer has it.
        token: Option<u64>,
        /// Why, for people; may be empty.
        reason: String,
    },
    /// What is dead is ready again, as if it had never been delivered.
    Kick {
        /// The queue.
        queue: Key,
        /// This item; None: the first ones.
        item: Option<ItemId>,
        /// Most items.
        limit: Option<usize>,
    },
    /// Removes items that nobody has, as many as one turn allows.
    Purge {
        /// The queue.
        queue: Key,
        /// Only those; None: all that nobody has.
        state: Option<ItemState>,
        /// Most items.
        limit: Option<usize>,
    },
    /// Shows items and leaves them where they are.
    Peek {
        /// The queue.
        queue: Key,
        /// Those in this state, in its order.
        state: ItemState,
        /// Most items on this page.
        limit: Option<usize>,
        /// Go on behind this item: the `cursor` of the page before.
        cursor: Option<ItemId>,
    },
    /// Tells how far an item has come.
    Track {
        /// The queue.
        queue: Key,
        /// The item.
        item: ItemId,
        /// How far to wait for it.
        until: Until,
        /// How long to wait for that, milliseconds.
        wait_ms: u64,
    },
    /// Tells about queues.
    Queues {
        /// This one alone.
        queue: Option<Key>,
        /// Those whose names start with these bytes.
        prefix: Vec<u8>,
        /// Go on behind this name.
        cursor: Option<Key>,
        /// Most queues on this page.
        limit: Option<usize>,
    },
}

impl QueueOperation {
    /// True for those that have a number in a session. A pull has none: what a lost reply had handed out comes back when its lease ends.
    pub fn is_mutation(&self) -> bool {
        !matches!(
            self,
            QueueOperation::Pull(_)
                | QueueOperation::Extend { .. }
                | QueueOperation::Peek { .. }
                | QueueOperation::Track { .. }
                | QueueOperation::Queues { .. }
        )
    }

    /// True for a pull.
    pub fn is_pull(&self) -> bool {
        matches!(self, QueueOperation::Pull(_))
    }

    /// True for those that may wait.
    pub fn stands_alone(&self) -> bool {
        match self {
            QueueOperation::Pull(pull) => pull.wait_ms > 0,
            QueueOperation::Track { wait_ms, .. } => *wait_ms > 0,
            _ => false,
        }
    }

    /// True for those that a transaction can have.
    pub fn fits_into_txn(&self) -> bool {
        match self {
            QueueOperation::Declare { .. }
            | QueueOperation::Push(_)
            | QueueOperation::Ack { .. }
            | QueueOperation::Nack { .. }
            | QueueOperation::Bury { .. } => true,
            QueueOperation::Pull(pull) => pull.wait_ms == 0,
            QueueOperation::Drop { .. }
            | QueueOperation::Extend { .. }
            | QueueOperation::Kick { .. }
            | QueueOperation::Purge { .. }
            | QueueOperation::Peek { .. }
            | QueueOperation::Track { .. }
            | QueueOperation::Queues { .. } => false,
        }
    }

    /// True for those that only look.
    pub fn is_read(&self) -> bool {
        matches!(self, QueueOperation::Peek { .. } | QueueOperation::Track { .. } | QueueOperation::Queues { .. })
    }

    /// The queue that is asked for, if it is one.
    pub fn queue(&self) -> Option<&Key> {
        match self {
            QueueOperation::Declare { queue, .. }
            | QueueOperation::Drop { queue }
            | QueueOperation::Push(Push { queue, .. })
            | QueueOperation::Pull(Pull { queue, .. })
            | QueueOperation::Ack { queue, .. }
            | QueueOperation::Nack { queue, .. }
            | QueueOperation::Extend { queue, .. }
            | QueueOperation::Bury { queue, .. }
            | QueueOperation::Kick { queue, .. }
            | QueueOperation::Purge { queue, .. }
            | QueueOperation::Peek { queue, .. }
            | QueueOperation::Track { queue, .. } => Some(queue),
            QueueOperation::Queues { queue, .. } => queue.as_ref(),
        }
    }

    /// Another queue that is named.
    pub(crate) fn names_besides(&self) -> Option<&Key> {
        match self {
            QueueOperation::Declare { options, .. } => options.dead.as_ref().filter(|dead| !dead.is_empty()),
            _ => None,
        }
    }

    /// The verb's name in the grammar.
    pub fn verb(&self) -> &'static str {
        match self {
            QueueOperation::Declare { .. } => "declare",
            QueueOperation::Drop { .. } => "drop_queue",
            QueueOperation::Push(_) => "push",
            QueueOperation::Pull(_) => "pull",
            QueueOperation::Ack { .. } => "ack",
            QueueOperation::Nack { .. } => "nack",
            QueueOperation::Extend { .. } => "extend",
            QueueOperation::Bury { .. } => "bury",
            QueueOperation::Kick { .. } => "kick",
            QueueOperation::Purge { .. } => "purge",
            QueueOperation::Peek { .. } => "peek",
            QueueOperation::Track { .. } => "track",
            QueueOperation::Queues { .. } => "queues",
        }
    }
}

/// An item that is handed out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Which delivery of which item. The token of one that needs no acknowledgement is 0.
    pub receipt: Receipt,
    /// The value as it was written.
    pub value: Stored,
    /// How often the item was handed out, this time included.
    pub deliveries: u32,
    /// Its priority.
    pub priority: i8,
    /// When it was pushed, by the broker's time, milliseconds since 1970-01-01 UTC.
    pub pushed_ms: u64,
    /// What the value is, as its push said.
    pub content_type: Option<String>,
    /// The subject of the message that it is a copy of.
    pub subject: Option<Key>,
    /// Why it came back, or why it is in a queue for what is dead; empty: neither.
    pub reason: String,
}

/// An item that is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peeked {
    /// The item.
    pub item: ItemId,
    /// The value as it was written.
    pub value: Stored,
    /// Where it is in its life.
    pub state: ItemState,
    /// How often it was handed out.
    pub deliveries: u32,
    /// Its priority.
    pub priority: i8,
    /// When it was pushed, by the broker's time, milliseconds since 1970-01-01 UTC.
    pub pushed_ms: u64,
    /// What the value is, as its push said.
    pub content_type: Option<String>,
    /// When its delay or lease ends, or since when it is dead; of the broker's time.
    pub due_ms: Option<u64>,
    /// Why it came back, or is dead; of an item that came from another queue why it was dead there.
    pub reason: String,
    /// The subject of the message that it is a copy of.
    pub subject: Option<Key>,
}

/// What there is to tell of a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueInfo {
    /// Its name.
    pub queue: Key,
    /// Figures and settings by name.
    pub facts: Vec<(String, StatValue)>,
}

impl QueueInfo {
    /// A figure; 0 if the broker does not tell it.
    pub fn number(&self, name: &str) -> u64 {
        let found = self.facts.iter().find(|(found, _)| found == name);
        found.map_or(0, |(_, value)| if let StatValue::Number(number) = value { *number } else { 0 })
    }
}

/// What queues answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueueAnswer {
    /// An item was pushed.
    Pushed {
        /// Its id.
        item: ItemId,
        /// Its queue is transient: the item is gone after a restart of the broker.
        transient: bool,
    },
    /// What was handed out.
    Pulled {
        /// The deliveries, in the order of the queue; none: nothing is ready.
        items: Vec<Delivery>,
        /// How long the consumer has them, milliseconds.
        lease_ms: u64,
    },
    /// What was dead is ready again.
    Kicked {
        /// So many.
        kicked: u64,
        /// There are more.
        more: bool,
    },
    /// Items as they are.
    Peeked {
        /// The items.
        items: Vec<Peeked>,
        /// Where to go on; None at the end.
        cursor: Option<ItemId>,
    },
    /// How far an item has come.
    Tracked(Tracked),
    /// Queues as they are.
    Queues {
        /// The queues, in the order of their names.
        queues: Vec<QueueInfo>,
        /// Where to go on; None at the end.
        cursor: Option<Key>,
    },
}

/// Checks a queue's name.
///
/// # Errors
/// `invalid` or `limit`.
pub fn queue_name(name: Key) -> Result<Key, Failure> {
    match name.len() {
        0 => Err(Failure::invalid("a queue's name has at least one byte")),
        1..=limits::QUEUE_NAME_BYTES_MAX => Ok(name),
        bytes => {
            let message = format!("a queue's name has {bytes} bytes; at most {} are taken", limits::QUEUE_NAME_BYTES_MAX);
            Err(Failure::limit(message))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ids_ascend_with_revisions_and_have_one_text() {
        let ids = [(0, 0), (0, 1), (1, 0), (1, 1_023), (2, 0), ((1 << 54) - 1, 1_023)];
        let ids = ids.map(|(revision, place)| ItemId::new(revision, place).unwrap());
        assert!(ids.is_sorted() && ids.map(ItemId::to_bytes).is_sorted());
        for id in ids {
            assert_eq!(id.to_string().parse(), Ok(id));
            assert_eq!(ItemId::from_bytes(id.to_bytes()), id);
            let receipt = Receipt { item: id, token: 7 };
            assert_eq!(receipt.to_string().parse(), Ok(receipt));
        }
        assert_eq!((ids[3].to_string().as_str(), ids[4].to_string().as_str()), ("1.1023", "2"));
        assert!(ItemId::new(1 << 54, 0).is_none() && ItemId::new(0, 1_024).is_none());
        for wrong in ["", "1.0", "01", "+1", "1.", ".1", "1.1024", "1.2.3", "-1", "18014398509481984", "1 "] {
            assert_eq!(wrong.parse::<ItemId>(), Err(ItemIdError), "{wrong}");
            assert!(format!("{wrong}:1").parse::<Receipt>().is_err());
        }
        assert!("1".parse::<Receipt>().is_err() && "1:x".parse::<Receipt>().is_err());
    }
}

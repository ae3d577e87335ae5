//! The pure state machine: what every operation means, apart from every thread, socket, file and clock.
//!
//! - Input in, output out: [`decide`] reads the [`State`] and an operation and gives an answer and [`Change`]s;
//!   [`State::apply`] makes the changes. Live traffic and recovery use the same `apply`; recovery never decides again.
//! - Deterministic: the [`Stamp`] is the only source of order and time. No clock, randomness or hash-map order is used.
//! - All durable state is records: a [`Space`] byte and key bytes, with value bytes. New features add spaces, not formats.

mod backlog;
mod change;
mod conversions;
mod deadlines;
mod decide;
mod del_prefix;
mod expire;
mod history;
mod list;
mod loader;
mod overlay;
mod point;
mod queues;
mod record;
mod routing;
mod salvage;
mod scan;
mod sessions;
mod size;
mod slice;
mod snapshots;
mod state;
mod table;
mod txn;
mod view;

pub use backlog::Backlog;
pub use change::{Change, ChangeError, Space};
pub use decide::{Decision, Stamp, Turn, decide, decide_numbered, end_session, expire_item, result_of};
pub use history::{
    Before, Cause, Earlier, EventsFor, EventsPage, EventsWanted, Fit, Fitting, History, Origin, PastChange, PastGroup,
    PastVersion, Versions,
};
pub use loader::{LoadError, Loader};
pub use queues::{DueItem, Ended};
pub use record::{TableRecord, split_table_record};
pub use routing::{Found as PatternsFound, Message, PatternTree};
pub use salvage::Salvage;
pub use sessions::{Numbered, SessionBounds};
pub use slice::{Slice, StateRecord};
pub use snapshots::{Reader, SnapshotBounds, Snapshots};
pub use state::State;
pub use view::{RecordName, RecordView, view_record};

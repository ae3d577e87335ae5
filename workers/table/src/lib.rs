//! The table worker: collect → stamp → decide and apply → append → sync → release.
//!
//! - One [`Worker`] owns the state and the log, and one thread at a time has it ([`Seat`]). Calls reach it through the bounded [`Intake`]; what it says leaves through the
//!   bounded [`Outbox`]es as [`Released`], which exists only with the log's proof that what it says is durable.
//! - While one batch syncs, the next collects: throughput rises with clients, one client pays one sync.
//! - An error of the log ends the worker; nothing of its batch is released.

mod access_book;
mod access_calls;
mod agenda;
mod agenda_users;
mod answer;
mod asker;
mod call;
mod catch_up;
mod checkpoints;
mod clock;
mod credit;
mod event_queue;
mod events;
mod expiry;
mod facts;
mod followers;
mod historian;
mod histories;
mod intake;
mod interest;
mod log_events;
mod log_places;
mod numbers;
mod outbox;
mod parked;
mod prefix_index;
mod pulls;
mod released;
mod replay;
mod seat;
mod sizes;
mod stamper;
mod stream_parts;
mod streams;
mod trace;
mod versions;
mod work;
mod worker;

pub use access_book::{ANYONE, AccessBook, OWNER, Speaker, Speaking};
pub use access_calls::{AccessCalls, NextAccessCall, ProvedAccessCall};
pub use agenda::Agenda;
pub use call::{Call, ClientId, Envelope, RoutingId, Small};
pub use checkpoints::{Behind, CheckpointThread, Checkpoints};
pub use clock::{Clock, SimClock, SystemClock, Times};
pub use credit::{Account, Charge, Credit, OWNER_NUMBER, UserAccount, UserNumber};
pub use event_queue::EventQueue;
pub use facts::{Facts, StatSource};
pub use followers::Followers;
pub use historian::Historian;
pub use histories::Histories;
pub use intake::{Collected, Intake, Refusal};
pub use interest::Interest;
pub use numbers::{NumberHasher, NumberMap};
pub use outbox::{Doorbell, EventFd, NoDoorbell, Outbox};
pub use parked::Parked;
pub use released::{Event, EventBatch, Publication, Released, ReplyOut};
pub use replay::{replay_into, replay_old, replay_soon};
pub use seat::{Seat, TakesCalls};
pub use stamper::{ClockVerdict, Stamper};
pub use streams::{BOOKMARK_FIRST, BOOKMARK_LAST, StreamSink, Streams};
pub use worker::{Course, Stopped, Worker, WorkerCounters};

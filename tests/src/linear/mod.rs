//! Whether what many clients saw of a table can have happened: a check of linearizability.
//!
//! In general that is a search among all orders. Here every reply carries its revision, so the order is told, and only has to be believed
//! or refused: [`check()`] sorts by revision, replays on a plain [`Model`] and compares every reply, then looks whether the order agrees with
//! the clock. O(n log n); a million operations take seconds.
//!
//! - [`history`] is what a client writes down of each of its operations: what it asked and when, what it was told and when. All times are
//!   those of one clock of the machine ([`now_ns`]), which processes share.
//! - [`plan`] is what recorded clients ask; [`words`] translates between histories and the client library.
//! - Nothing here talks to anybody: a history comes from files that recorders wrote ([`history::read`]), or from a test's own pen.
//! - Operations of unknown outcome may be anywhere behind their beginning, or nowhere. The check looks for places in a bounded search; it
//!   never takes a history for right because it ran out of patience.
//!
//! Caveats: the history has to be all that ever happened to the table, from its first revision on: a revision that nobody made is refused,
//! so there must be no other writer and nothing that expires. Values are integers of 64 bits. A transaction must not end by having changed
//! nothing (a key made and removed again): such a one makes no revision, which its reply alone doesn't tell.

pub mod check;
pub mod history;
pub mod model;
pub mod plan;
pub mod words;

pub use check::{Checked, Violation, check};
pub use history::{Ask, End, Found, Only, Recorded, Told, Transaction, now_ns};
pub use model::Model;

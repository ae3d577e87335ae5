//! Figures of what happened.

use std::collections::BTreeMap;

/// What watches saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Revisions told.
    pub revisions: u64,
    /// Snapshots that were finished, by their reasons.
    pub snapshots: BTreeMap<&'static str, u64>,
    /// Keys that mirrors dropped with a snapshot, since their removal was forgotten.
    pub gone: u64,
    /// Watches that ended because they could not go on.
    pub broken: u64,
    /// Questions because of something missed.
    pub refills: u64,
    /// Messages of streams that came.
    pub messages: u64,
}

impl Seen {
    /// Adds others.
    pub fn add(&mut self, other: &Seen) {
        self.revisions += other.revisions;
        for (why, count) in &other.snapshots {
            *self.snapshots.entry(why).or_default() += count;
        }
        self.gone += other.gone;
        self.broken += other.broken;
        self.refills += other.refills;
        self.messages += other.messages;
    }
}

/// What happened in a life.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Happened {
    /// Acts.
    pub steps: u64,
    /// Power failures.
    pub power_failures: u64,
    /// Ends of the process alone.
    pub kills: u64,
    /// Clean stops.
    pub stops: u64,
    /// New epochs because released revisions may have been lost.
    pub epochs: u64,
    /// Of which some were.
    pub losses: u64,
    /// Directories replaced by older copies.
    pub set_back: u64,
    /// Messages of streams that got lost.
    pub lost: u64,
    /// Connections that were cut.
    pub cuts: u64,
    /// Batches of which the publisher was told nothing.
    pub revisions: u64,
    /// Programs that went on where an earlier run had ended.
    pub resumed: u64,
    /// What the watches saw.
    pub seen: Seen,
}

impl Happened {
    /// Adds those of another life.
    pub fn add(&mut self, other: &Happened) {
        self.steps += other.steps;
        self.power_failures += other.power_failures;
        self.kills += other.kills;
        self.stops += other.stops;
        self.epochs += other.epochs;
        self.losses += other.losses;
        self.set_back += other.set_back;
        self.lost += other.lost;
        self.cuts += other.cuts;
        self.revisions += other.revisions;
        self.resumed += other.resumed;
        self.seen.add(&other.seen);
    }
}

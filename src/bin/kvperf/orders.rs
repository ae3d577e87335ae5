//! What a run and its client processes tell each other: lines of JSON through pipes.
//!
//! - A client's stdin brings one [`Task`], then [`Order`]s. Its end without [`Order::Stop`] means that the run is gone.
//! - A client's stdout carries [`Note`]s and nothing else.

use std::io::{self, Write};

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::args::{Amount, Finding};
use crate::beside::Dear;
use crate::distribution::Distribution;
use crate::measure::Measured;
use crate::mixes::Mix;
use crate::stages::{Shape, Stage};
use crate::timeline::Slice;
use crate::trouble::Trouble;

/// All that a client needs to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Task {
    /// The project or address.
    pub(crate) target: String,
    pub(crate) finding: Finding,
    /// The run's prefix.
    pub(crate) run: String,
    /// Which client this is, from 0; those that are not measured come behind those that are.
    pub(crate) client: usize,
    /// How many there are that are measured.
    pub(crate) clients: usize,
    pub(crate) shape: Shape,
    pub(crate) amount: Amount,
    /// Keys to insert before saying [`Note::Ready`].
    pub(crate) load: u64,
    pub(crate) distribution: Distribution,
    pub(crate) mix: Mix,
    /// Operations outstanding at most; 1: one request.
    pub(crate) pipeline: usize,
    /// Operations per second of all clients together, on schedule.
    pub(crate) rate: Option<f64>,
    /// Length of the parts of a stage that are told apart.
    pub(crate) slice_ns: u64,
    /// Tell the fastest and slowest operations.
    pub(crate) outliers: bool,
    /// Remember what has no answer, and go on: everything is looked at afterwards.
    pub(crate) verify: bool,
}

/// What a client does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "lowercase")]
pub(crate) enum Order {
    /// A stage, at this time of the monotonic clock.
    Start {
        /// Which.
        stage: Stage,
        /// When.
        at_ns: u64,
    },
    /// Dear requests in a loop, from now on until [`Order::Cease`].
    Beside {
        /// Which.
        dear: Dear,
    },
    /// Ends that loop.
    Cease,
    /// Compare all of the client's keys with what it remembers.
    Verify,
    /// End. The keys are taken care of.
    Stop,
}

/// What a client tells.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "note", rename_all = "lowercase")]
pub(crate) enum Note {
    /// Connected; the keys that are needed are there.
    Ready,
    /// A part of the present stage.
    Slice(Slice),
    /// Every acknowledged write was there.
    Verified {
        /// Writes that were acknowledged.
        acknowledged: u64,
        /// Writes that were not answered.
        unknown: u64,
        /// Keys that were compared.
        keys: u64,
    },
    /// The stage is over.
    Done(Box<Measured>),
    /// This client can't go on.
    Failed(Trouble),
}

/// Writes one line.
///
/// # Errors
/// The other side is gone.
pub(crate) fn tell(to: &mut impl Write, what: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    to.write_all(&line)?;
    to.flush()
}

/// Now, by the clock that all processes of this machine share. Nanoseconds.
pub(crate) fn now_ns() -> u64 {
    clock_ns(ClockId::Monotonic)
}

/// Processor time that this process has used, user and system. Nanoseconds.
pub(crate) fn cpu_ns() -> u64 {
    clock_ns(ClockId::ProcessCPUTime)
}

fn clock_ns(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    // Since the start of the machine or the process: never negative, and 64 bits hold 584 years.
    (now.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(now.tv_nsec as u64)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::result::Summary;

    #[test]
    fn lines_are_read_as_they_were_meant() {
        let mut line = Vec::new();
        tell(&mut line, &Order::Start { stage: Stage::Scan, at_ns: u64::MAX }).unwrap();
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        let order: Order = serde_json::from_slice(&line).unwrap();
        assert_eq!(order, Order::Start { stage: Stage::Scan, at_ns: u64::MAX });

        let mut measured = Measured { operations: 3, ended_ns: 5_000, ..Measured::begun(1) };
        measured.latencies.record(1_500, 3);
        let text = serde_json::to_string(&Note::Done(Box::new(measured.clone()))).unwrap();
        let Note::Done(read) = serde_json::from_str(&text).unwrap() else { panic!("{text}") };
        assert_eq!(Summary::of(&read), Summary::of(&measured));
        let failed = serde_json::to_string(&Note::Failed(Trouble::interrupted())).unwrap();
        assert!(matches!(serde_json::from_str(&failed).unwrap(), Note::Failed(trouble) if trouble == Trouble::interrupted()));
    }

    #[test]
    fn the_clock_goes_on() {
        let before = now_ns();
        assert!(before > 0 && now_ns() >= before);
    }
}

//! The check: sorted by revision, replayed, and held against the clock.
//!
//! Let an operation *change* if it made its revision, and *look* otherwise (reads, and changes that failed). What is checked:
//!
//! - each revision from the first to the last was made by exactly one operation;
//! - replayed in that order on the [`Model`], each change is told what the model says, and each look what the model says at the revision
//!   that it saw;
//! - of two operations of which one had ended before the other began, the earlier one's revision is not higher; and lower if the later
//!   one is a change;
//! - of one client's mutations the revisions rise in the order of asking, failures included, also where several were in flight.
//!
//! The first three together are linearizability: changes by revision, each followed by the looks that saw it, is an order that explains
//! every reply and agrees with the clock. The fourth is the promise of sessions.

use std::collections::BTreeMap;
use std::fmt;

use super::history::{Ask, End, Found, Recorded, key_name};
use super::model::Model;

/// Guesses about operations of unknown outcome, all together. A guess costs the replay up to where it turns out wrong.
const GUESSES_MAX: usize = 20_000;
/// A maker that is only guessed.
const UNKNOWN: &str = "an operation of unknown outcome";

/// What a right history contains.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Operations with a known outcome.
    pub operations: usize,
    /// The last revision: so many operations changed something.
    pub revisions: u64,
    /// What is there at the end.
    pub table: BTreeMap<u32, Found>,
    /// By verb, how many succeeded and how many failed.
    pub verbs: BTreeMap<&'static str, (usize, usize)>,
    /// Operations of unknown outcome.
    pub unknown: usize,
    /// As many of them have to have been done.
    pub unknown_done: usize,
}

/// Why a history can't have happened on a right table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Times that are no times.
    #[error("{0} has ended before it began")]
    Clock(String),
    /// Two records of one operation.
    #[error("{first} and {second} are one and the same operation")]
    Numbers {
        /// One.
        first: String,
        /// The other.
        second: String,
    },
    /// Two operations made the same revision.
    #[error("{second} made revision {revision}, which is not behind {first}: each revision is made once")]
    Twice {
        /// Which.
        revision: u64,
        /// Who made the last revision before.
        first: String,
        /// Who made it again.
        second: String,
    },
    /// A revision without an operation.
    #[error(
        "nobody made revision {revision}, but somebody saw a later one: {seen}. Something is missing in the history, or was done that nobody asked for"
    )]
    Nobody {
        /// Which.
        revision: u64,
        /// The next operation in the order.
        seen: String,
    },
    /// A reply that a right table doesn't give.
    #[error("{operation} should have been told: {expected}{because}")]
    Wrong {
        /// Which.
        operation: String,
        /// What the model says.
        expected: String,
        /// Which operation made what is there, if that is simple to say.
        because: String,
    },
    /// The order of revisions is not that of the clock.
    #[error("{later} began after {earlier} had ended, but its revision is not behind")]
    RealTime {
        /// The one that had ended.
        earlier: String,
        /// The one that began then.
        later: String,
    },
    /// The order of revisions is not that in which a client asked.
    #[error("{later} was asked behind {earlier}, but its revision is not")]
    ClientOrder {
        /// The one asked first.
        earlier: String,
        /// The one asked then.
        later: String,
    },
    /// The search was given up.
    #[error(
        "{unknown} operations of unknown outcome fit in too many ways: none of {GUESSES_MAX} guesses was right, and the last one fails with: {last}"
    )]
    Undecided {
        /// How many there are.
        unknown: usize,
        /// What was wrong with the best guess.
        last: Box<Violation>,
    },
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} operations, {} revisions, {} keys at the end; done and failed: ",
            self.operations,
            self.revisions,
            self.table.len()
        )?;
        let verb = |(verb, (done, failed)): (&&str, &(usize, usize))| format!("{verb} {done} + {failed}");
        write!(f, "{}", self.verbs.iter().map(verb).collect::<Vec<_>>().join(", "))?;
        write!(f, "; outcome unknown of {}, of which {} were done", self.unknown, self.unknown_done)
    }
}

/// Checks a history; the order of its records does not matter.
///
/// # Errors
/// What is wrong with it; the operations are named.
pub fn check(history: &[Recorded]) -> Result<Checked, Violation> {
    let unknown = real_time(history)?;
    client_order(history)?;
    let mut order: Vec<usize> = (0..history.len()).filter(|at| history[*at].end.is_some()).collect();
    // A change is followed by those that saw it.
    order.sort_unstable_by_key(|at| (revision(&history[*at]), !history[*at].has_changed()));
    let mut checked = Checked { operations: order.len(), unknown: unknown.len(), ..Checked::default() };
    for Recorded { ask, end, .. } in history {
        let Some(End { told, .. }) = end else { continue };
        let (succeeded, failed) = checked.verbs.entry(ask.verb()).or_default();
        *if told.is_success() { succeeded } else { failed } += 1;
    }
    let (model, unknown_done) = Replay { history, order, unknown }.run()?;
    Ok(Checked { revisions: model.revision(), table: model.table(), unknown_done, ..checked })
}

/// 0 where it is not known: only asked of operations that ended.
fn revision(operation: &Recorded) -> u64 {
    operation.end.as_ref().map_or(0, |end| end.revision)
}

/// A mutation of unknown outcome.
#[derive(Clone, Copy, Debug)]
struct Unknown {
    at: usize,
    /// It can only have made a later revision: somebody was told this one before it began.
    floor: u64,
}

/// Holds the order of revisions against the clock. Gives the mutations of unknown outcome, in the order in which they began.
fn real_time(history: &[Recorded]) -> Result<Vec<Unknown>, Violation> {
    let end_of = |at: &usize| history[*at].end.as_ref().map_or(u64::MAX, |end| end.at_ns);
    let mut begun: Vec<usize> = (0..history.len()).collect();
    begun.sort_unstable_by_key(|at| history[*at].begun_ns);
    let mut ended: Vec<usize> = (0..history.len()).filter(|at| history[*at].end.is_some()).collect();
    ended.sort_unstable_by_key(end_of);
    let mut ended = ended.into_iter().peekable();
    // Of those that have ended so far the one with the highest revision.
    let mut highest: Option<usize> = None;
    let mut unknown = Vec::new();
    for at in begun {
        let operation = &history[at];
        if end_of(&at) < operation.begun_ns {
            return Err(Violation::Clock(operation.to_string()));
        }
        while let Some(earlier) = ended.next_if(|earlier| end_of(earlier) < operation.begun_ns) {
            if highest.is_none_or(|highest| revision(&history[highest]) < revision(&history[earlier])) {
                highest = Some(earlier);
            }
        }
        let floor = highest.map_or(0, |highest| revision(&history[highest]));
        match (&operation.end, highest) {
            (None, _) if operation.ask.is_mutation() => unknown.push(Unknown { at, floor }),
            (Some(end), Some(earlier)) if end.revision < floor || (end.revision == floor && operation.has_changed()) => {
                return Err(Violation::RealTime { earlier: history[earlier].to_string(), later: operation.to_string() });
            }
            _ => {}
        }
    }
    Ok(unknown)
}

/// Holds the order of revisions against that in which each client asked.
fn client_order(history: &[Recorded]) -> Result<(), Violation> {
    let mut asked: Vec<usize> = (0..history.len()).collect();
    asked.sort_unstable_by_key(|at| (history[*at].client, history[*at].number));
    for pair in asked.windows(2) {
        let (first, second) = (&history[pair[0]], &history[pair[1]]);
        if (first.client, first.number) == (second.client, second.number) {
            return Err(Violation::Numbers { first: first.to_string(), second: second.to_string() });
        }
    }
    asked.retain(|at| history[*at].end.is_some() && history[*at].ask.is_mutation());
    for pair in asked.windows(2) {
        let (earlier, later) = (&history[pair[0]], &history[pair[1]]);
        let is_behind = revision(later) > revision(earlier) || (revision(later) == revision(earlier) && !later.has_changed());
        if earlier.client == later.client && !is_behind {
            return Err(Violation::ClientOrder { earlier: earlier.to_string(), later: later.to_string() });
        }
    }
    Ok(())
}

/// The replay, with a search among the operations of unknown outcome wherever a revision has no other maker.
struct Replay<'a> {
    history: &'a [Recorded],
    /// Operations with a known outcome, by revision.
    order: Vec<usize>,
    unknown: Vec<Unknown>,
}

/// A revision for which an operation of unknown outcome is guessed.
struct Guess {
    /// How far the replay was, and its state.
    done: usize,
    model: Model,
    /// The one that is tried, as a place in [`Replay::unknown`].
    candidate: Option<usize>,
}

/// Where a replay stopped.
enum Stop {
    End,
    /// The model's next revision has no maker of known outcome.
    Gap(Violation),
    Wrong(Violation),
}

impl Replay<'_> {
    fn run(&self) -> Result<(Model, usize), Violation> {
        let (mut model, mut done, mut tried) = (Model::default(), 0, 0);
        let mut guesses: Vec<Guess> = Vec::new();
        let mut taken = vec![false; self.unknown.len()];
        // How far the best guess led, and what went wrong there.
        let mut farthest: Option<(usize, Violation)> = None;
        loop {
            let violation = match self.forward(&mut done, &mut model) {
                Stop::End => return Ok((model, guesses.len())),
                Stop::Wrong(violation) => violation,
                Stop::Gap(violation) => {
                    if !self.unknown.is_empty() {
                        guesses.push(Guess { done, model: model.clone(), candidate: None });
                    }
                    violation
                }
            };
            let best = match farthest.take() {
                Some(best) if best.0 > done => best,
                _ => (done, violation),
            };
            if tried > GUESSES_MAX {
                return Err(Violation::Undecided { unknown: self.unknown.len(), last: Box::new(best.1) });
            }
            let Some(next) = self.next_guess(&mut guesses, &mut taken, &mut tried) else { return Err(best.1) };
            farthest = Some(best);
            (done, model) = next;
        }
    }

    /// Replays until something is wrong or missing.
    fn forward(&self, done: &mut usize, model: &mut Model) -> Stop {
        while let Some(operation) = self.order.get(*done).map(|at| &self.history[*at]) {
            // Only those that ended are in the order.
            let Some(End { revision, told, .. }) = &operation.end else { break };
            let changed = operation.has_changed();
            if changed && *revision <= model.revision() {
                let first = self.maker(model.revision()).unwrap_or_else(|| UNKNOWN.to_owned());
                return Stop::Wrong(Violation::Twice { revision: *revision, first, second: operation.to_string() });
            }
            if *revision > model.revision() + u64::from(changed) {
                return Stop::Gap(Violation::Nobody { revision: model.revision() + 1, seen: operation.to_string() });
            }
            let met = single_key(&operation.ask).map(|key| (key, model.get(key)));
            let (expected, changes) = model.ask(&operation.ask);
            if expected != *told || changes != changed {
                let because = met.map_or(String::new(), |(key, found)| self.because(key, found));
                return Stop::Wrong(Violation::Wrong {
                    operation: operation.to_string(),
                    expected: expected.to_string(),
                    because,
                });
            }
            *done += 1;
        }
        Stop::End
    }

    /// The next thing to try: goes back to the last guess that has another candidate. What is tried is taken until then.
    fn next_guess(&self, guesses: &mut Vec<Guess>, taken: &mut [bool], tried: &mut usize) -> Option<(usize, Model)> {
        while let Some(mut guess) = guesses.pop() {
            if let Some(before) = guess.candidate {
                taken[before] = false;
            }
            let first = guess.candidate.map_or(0, |before| before + 1);
            for (candidate, Unknown { at, floor }) in self.unknown.iter().enumerate().skip(first) {
                if taken[candidate] || *floor > guess.model.revision() {
                    continue;
                }
                *tried += 1;
                let mut model = guess.model.clone();
                if model.ask(&self.history[*at].ask).1 {
                    guess.candidate = Some(candidate);
                    taken[candidate] = true;
                    let done = guess.done;
                    guesses.push(guess);
                    return Some((done, model));
                }
            }
        }
        None
    }

    /// The operation that is known to have made a revision.
    fn maker(&self, wanted: u64) -> Option<String> {
        let at = self.order.partition_point(|at| revision(&self.history[*at]) < wanted);
        let operation = &self.history[*self.order.get(at)?];
        (revision(operation) == wanted && operation.has_changed()).then(|| operation.to_string())
    }

    /// Who made what an operation met.
    fn because(&self, key: u32, found: Option<Found>) -> String {
        let Some(found) = found else { return format!("; there was no {} at that revision", key_name(key)) };
        let maker = self.maker(found.modified).unwrap_or_else(|| UNKNOWN.to_owned());
        format!("; {} was last changed by {maker}", key_name(key))
    }
}

fn single_key(ask: &Ask) -> Option<u32> {
    match ask {
        Ask::Put { key, .. } | Ask::Get { key } | Ask::Exists { key } | Ask::Del { key, .. } | Ask::Incr { key, .. } => {
            Some(*key)
        }
        Ask::Mget { .. } | Ask::Txn(_) | Ask::Size => None,
    }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;

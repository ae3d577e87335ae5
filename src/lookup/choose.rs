//! Choosing among candidates: pure, asked for the next trial and told its result.
//!
//! - A candidate whose key is the expected one (or whose socket is in a directory of ours) is
//!   tried by a Hello. Records of one uuid are tried newest first until one answers.
//! - Brokers that answer and have different uuids are never chosen between by time: two of
//!   them are [`Choice::Ambiguous`].
//! - Only when no candidate has the expected key do the others count: the own owner's before
//!   strangers'. They can't be used, so they are only tried for being alive, and only where
//!   that makes the difference between "its key is refused" and "which of them?".
//! - What is expected, live and unique wins whatever else a catalog lists: a hostile record can
//!   neither take its place nor make it ambiguous.
//! - At most [`TRIALS_MAX`] candidates are tried.

use super::candidate::{Candidate, Judged, Source, Verdict};
use crate::keys::PublicKey;
use kvbroker_protocol::BrokerId;

/// Most trials of one lookup; a catalog may list any number of records.
pub const TRIALS_MAX: usize = 64;

/// Which broker is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Only this owner's (`--owner`).
    pub owner: Option<String>,
    /// Only the one with this uuid (`--broker`).
    pub broker: Option<BrokerId>,
}

/// Who is asking.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// Our owner name.
    pub name: String,
    /// The key that our own broker of this project has.
    pub key: Option<PublicKey>,
}

/// What to try next on the candidate with this index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trial {
    /// Connect, prove keys, say Hello.
    Hello(usize),
    /// See whether somebody accepts connections.
    Reach(usize),
}

/// Where the choosing stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// This candidate.
    Use(usize),
    /// These are live and different brokers.
    Ambiguous(Vec<usize>),
    /// The best candidates are refused: the broker did, or we refuse its key.
    Refused(Vec<usize>),
    /// The best candidates can't be reached.
    Unreachable(Vec<usize>),
    /// There is no candidate.
    Nothing,
}

/// How near a candidate is to us; smaller is nearer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Expected,
    OwnOwner,
    Stranger,
}

/// The candidates of one lookup and what became of them.
#[derive(Clone, Debug, Default)]
pub struct Choosing {
    wanted: Wanted,
    own: Own,
    judged: Vec<Judged>,
    trials: usize,
}

impl Choosing {
    /// No candidates yet.
    #[must_use]
    pub fn new(wanted: Wanted, own: Own) -> Self {
        Self { wanted, own, judged: Vec::new(), trials: 0 }
    }

    /// The key that our own broker has, as soon as it is known: before candidates of a catalog are added.
    pub fn expect_key(&mut self, key: PublicKey) {
        self.own.key = Some(key);
    }

    /// The key that our own broker has, if it is known.
    #[must_use]
    pub fn expected_key(&self) -> Option<PublicKey> {
        self.own.key
    }

    /// Adds a candidate; those of one broker newest first.
    pub fn add(&mut self, candidate: Candidate) {
        let unwanted_owner =
            self.wanted.owner.as_ref().is_some_and(|owner| candidate.owner.as_ref().is_some_and(|its| its != owner));
        let unwanted_broker = self.wanted.broker.is_some_and(|broker| candidate.broker.is_some_and(|its| its != broker));
        let verdict = if unwanted_owner || unwanted_broker {
            Verdict::NotWanted
        } else {
            match (&candidate.source, &candidate.key) {
                // The directory vouches for it.
                (Source::Local(_), _) => Verdict::Untried,
                (Source::Given, Some(_)) => Verdict::Untried,
                (_, None) => Verdict::NoKey,
                (_, key) if *key == self.own.key => Verdict::Untried,
                _ => Verdict::OtherKey,
            }
        };
        self.judged.push(Judged { candidate, verdict, alive: None });
    }

    /// Every candidate and what became of it.
    #[must_use]
    pub fn judged(&self) -> &[Judged] {
        &self.judged
    }

    /// Notes a verdict.
    pub fn tried(&mut self, index: usize, verdict: Verdict) {
        self.trials += 1;
        if let Some(judged) = self.judged.get_mut(index) {
            judged.verdict = verdict;
        }
    }

    /// Notes whether somebody accepts connections.
    pub fn reached(&mut self, index: usize, alive: bool) {
        self.trials += 1;
        if let Some(judged) = self.judged.get_mut(index) {
            judged.alive = Some(alive);
        }
    }

    /// What to try next; None: [`Choosing::choice`] is final (for these candidates).
    #[must_use]
    pub fn next_trial(&self) -> Option<Trial> {
        if self.trials >= TRIALS_MAX {
            return None;
        }
        let untried = self.judged.iter().position(|judged| judged.verdict == Verdict::Untried && !self.has_answered(judged));
        if let Some(index) = untried {
            return Some(Trial::Hello(index));
        }
        let best = self.best_rank()?;
        if best == Rank::Expected {
            return None;
        }
        let groups = self.groups(best);
        if groups.len() < 2 {
            return None;
        }
        // Of each broker one record that is alive is enough.
        groups
            .iter()
            .filter(|group| !group.iter().any(|i| self.alive(*i) == Some(true)))
            .find_map(|group| group.iter().find(|i| self.alive(**i).is_none()))
            .map(|index| Trial::Reach(*index))
    }

    /// The choice, as far as the trials went.
    #[must_use]
    pub fn choice(&self) -> Choice {
        let verified = self.indexes(|judged| judged.verdict == Verdict::Verified);
        match verified.as_slice() {
            [] => {}
            [only] => return Choice::Use(*only),
            _ => return Choice::Ambiguous(verified),
        }
        let Some(best) = self.best_rank() else { return Choice::Nothing };
        let groups = self.groups(best);
        if best != Rank::Expected {
            let live: Vec<usize> =
                groups.iter().filter_map(|group| group.iter().find(|i| self.alive(**i) == Some(true))).copied().collect();
            let dead = |group: &Vec<usize>| group.iter().all(|i| self.alive(*i) == Some(false));
            return match live.len() {
                0 if groups.iter().all(dead) => Choice::Unreachable(groups.concat()),
                0 => Choice::Refused(groups.concat()),
                1 => Choice::Refused(live),
                _ => Choice::Ambiguous(live),
            };
        }
        let of_rank = groups.concat();
        let refused: Vec<usize> = of_rank
            .iter()
            .copied()
            .filter(|i| self.judged.get(*i).is_some_and(|judged| matches!(judged.verdict, Verdict::Refused(_))))
            .collect();
        if refused.is_empty() { Choice::Unreachable(of_rank) } else { Choice::Refused(refused) }
    }

    /// Whether another record of the same broker has answered.
    fn has_answered(&self, judged: &Judged) -> bool {
        let same = |other: &Judged| other.verdict == Verdict::Verified && other.candidate.broker == judged.candidate.broker;
        judged.candidate.broker.is_some() && self.judged.iter().any(same)
    }

    fn rank(&self, judged: &Judged) -> Option<Rank> {
        match judged.verdict {
            Verdict::NotWanted => None,
            Verdict::NoKey | Verdict::OtherKey => {
                let own = judged.candidate.owner.as_ref().is_some_and(|owner| *owner == self.own.name);
                Some(if own { Rank::OwnOwner } else { Rank::Stranger })
            }
            _ => Some(Rank::Expected),
        }
    }

    fn best_rank(&self) -> Option<Rank> {
        self.judged.iter().filter_map(|judged| self.rank(judged)).min()
    }

    /// The candidates of a rank, those of one broker together.
    fn groups(&self, rank: Rank) -> Vec<Vec<usize>> {
        let mut groups: Vec<Vec<usize>> = Vec::new();
        for index in self.indexes(|judged| self.rank(judged) == Some(rank)) {
            let broker = self.judged.get(index).and_then(|judged| judged.candidate.broker);
            let same = |group: &&mut Vec<usize>| {
                let first = group.first().and_then(|first| self.judged.get(*first));
                broker.is_some() && first.is_some_and(|first| first.candidate.broker == broker)
            };
            match groups.iter_mut().find(same) {
                Some(group) => group.push(index),
                None => groups.push(vec![index]),
            }
        }
        groups
    }

    fn alive(&self, index: usize) -> Option<bool> {
        self.judged.get(index)?.alive
    }

    fn indexes(&self, wanted: impl Fn(&Judged) -> bool) -> Vec<usize> {
        self.judged.iter().enumerate().filter(|(_, judged)| wanted(judged)).map(|(index, _)| index).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const OURS: PublicKey = PublicKey::from_bytes([1; 32]);
    const THEIRS: PublicKey = PublicKey::from_bytes([2; 32]);

    fn record(owner: &str, broker: u8, key: Option<PublicKey>) -> Candidate {
        Candidate {
            source: Source::Catalog("c:9097".into()),
            owner: Some(owner.into()),
            broker: Some(BrokerId([broker; 16])),
            key,
            routes: Vec::new(),
            place: String::new(),
            heard_s: None,
        }
    }

    fn local(broker: u8) -> Candidate {
        Candidate { source: Source::Local("/run/x/endpoint.json".into()), key: None, ..record("me", broker, None) }
    }

    fn choosing(wanted: Wanted, candidates: Vec<Candidate>) -> Choosing {
        let mut choosing = Choosing::new(wanted, Own { name: "me".into(), key: Some(OURS) });
        candidates.into_iter().for_each(|candidate| choosing.add(candidate));
        choosing
    }

    /// Runs all trials; `live` says which candidates are there. Gives the trials, too.
    fn run(mut choosing: Choosing, live: &[usize]) -> (Choice, Vec<Trial>) {
        let mut trials = Vec::new();
        while let Some(trial) = choosing.next_trial() {
            trials.push(trial);
            match trial {
                Trial::Hello(i) if live.contains(&i) => choosing.tried(i, Verdict::Verified),
                Trial::Hello(i) => choosing.tried(i, Verdict::Unreachable("no".into())),
                Trial::Reach(i) => choosing.reached(i, live.contains(&i)),
            }
        }
        (choosing.choice(), trials)
    }

    fn choose(candidates: Vec<Candidate>, live: &[usize]) -> Choice {
        run(choosing(Wanted::default(), candidates), live).0
    }

    #[test]
    fn nothing_is_nothing() {
        assert_eq!(choose(vec![], &[]), Choice::Nothing);
    }

    #[test]
    fn of_one_broker_the_newest_record_that_answers() {
        let records = || vec![record("me", 7, Some(OURS)), record("me", 7, Some(OURS)), record("me", 7, Some(OURS))];
        let (choice, trials) = run(choosing(Wanted::default(), records()), &[1, 2]);
        assert_eq!((choice, trials), (Choice::Use(1), vec![Trial::Hello(0), Trial::Hello(1)]));
        assert_eq!(choose(records(), &[]), Choice::Unreachable(vec![0, 1, 2]));
    }

    #[test]
    fn two_live_brokers_are_never_chosen_between() {
        let records = || vec![record("me", 7, Some(OURS)), record("me", 8, Some(OURS))];
        assert_eq!(choose(records(), &[0, 1]), Choice::Ambiguous(vec![0, 1]));
        assert_eq!(choose(records(), &[1]), Choice::Use(1));
        let wanted = Wanted { broker: Some(BrokerId([8; 16])), owner: None };
        assert_eq!(run(choosing(wanted, records()), &[0, 1]), (Choice::Use(1), vec![Trial::Hello(1)]));
        assert_eq!(choose(vec![local(7), local(8)], &[0, 1]), Choice::Ambiguous(vec![0, 1]));
    }

    #[test]
    fn the_expected_key_wins_over_whatever_else_is_listed() {
        let records =
            vec![record("me", 1, Some(THEIRS)), record("me", 7, None), record("x", 7, Some(THEIRS)), record("me", 7, Some(OURS))];
        let (choice, trials) = run(choosing(Wanted::default(), records), &[0, 1, 2, 3]);
        assert_eq!((choice, trials), (Choice::Use(3), vec![Trial::Hello(3)]));
    }

    #[test]
    fn what_cannot_prove_its_key_does_not_hide_what_can() {
        let mut choosing = choosing(Wanted::default(), vec![record("me", 7, Some(OURS)), record("me", 8, Some(OURS))]);
        choosing.tried(0, Verdict::Refused("it hung up".into()));
        assert_eq!(choosing.next_trial(), Some(Trial::Hello(1)));
        choosing.tried(1, Verdict::Verified);
        assert_eq!(choosing.choice(), Choice::Use(1));
    }

    #[test]
    fn without_an_expected_key_the_own_owners_come_first() {
        let records = vec![record("x", 1, Some(THEIRS)), record("me", 2, Some(THEIRS)), record("y", 3, None)];
        // One is enough to say why: nobody is contacted.
        assert_eq!(run(choosing(Wanted::default(), records), &[0, 1, 2]), (Choice::Refused(vec![1]), vec![]));
        let twins = || vec![record("me", 1, Some(THEIRS)), record("me", 2, Some(THEIRS)), record("me", 2, Some(THEIRS))];
        assert_eq!(choose(twins(), &[0, 2]), Choice::Ambiguous(vec![0, 2]));
        assert_eq!(choose(twins(), &[2]), Choice::Refused(vec![2]));
        assert_eq!(choose(twins(), &[]), Choice::Unreachable(vec![0, 1, 2]));
        let strangers = vec![record("x", 1, Some(THEIRS)), record("y", 2, None)];
        assert_eq!(choose(strangers, &[0, 1]), Choice::Ambiguous(vec![0, 1]));
    }

    #[test]
    fn refusals_are_told_from_silence() {
        let mut choosing = choosing(Wanted::default(), vec![record("me", 7, Some(OURS)), record("me", 7, Some(OURS))]);
        choosing.tried(0, Verdict::Unreachable("no".into()));
        choosing.tried(1, Verdict::Refused("not admitted".into()));
        assert_eq!((choosing.next_trial(), choosing.choice()), (None, Choice::Refused(vec![1])));
    }

    #[test]
    fn filters_leave_out_and_can_leave_nothing() {
        let wanted = Wanted { owner: Some("you".into()), broker: None };
        let records = vec![record("me", 7, Some(OURS)), record("you", 8, Some(THEIRS))];
        assert_eq!(run(choosing(wanted.clone(), records), &[0, 1]).0, Choice::Refused(vec![1]));
        assert_eq!(run(choosing(wanted, vec![local(7)]), &[0]).0, Choice::Nothing);
    }

    #[test]
    fn a_flood_of_records_is_tried_only_so_often() {
        let flood: Vec<Candidate> = (0..200).map(|i| record("me", i, Some(OURS))).collect();
        let (choice, trials) = run(choosing(Wanted::default(), flood), &[]);
        assert_eq!(trials.len(), TRIALS_MAX);
        assert!(matches!(choice, Choice::Unreachable(_)));
    }

    #[test]
    fn local_sockets_are_tried_whatever_their_key() {
        assert_eq!(choose(vec![local(7)], &[0]), Choice::Use(0));
        assert_eq!(choose(vec![local(7), record("me", 7, Some(OURS))], &[1]), Choice::Use(1));
    }

    #[test]
    fn a_given_address_with_a_key_is_taken_at_its_word() {
        let given = |key| Candidate { source: Source::Given, broker: None, owner: None, ..record("", 0, key) };
        assert_eq!(choose(vec![given(Some(THEIRS))], &[0]), Choice::Use(0));
        assert_eq!(choose(vec![given(None)], &[0]), Choice::Refused(vec![0]));
    }
}

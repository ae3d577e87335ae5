//! Choosing among candidates: pure, asked for the next trials and told their results.
//!
//! - Only the candidates that are nearest to us count: those with our own key (or a socket in a directory of
//!   ours) before those with an accepted key, these before the rest.
//! - Those that are trusted are tried by a Hello, all of them: a catalog may list any number of copies of a record, and one that
//!   does not answer must not hold up the one that does. Of several that answer for one uuid the newest record is used.
//! - Brokers that answer and have different uuids are never chosen between by time: two of
//!   them are [`Choice::Ambiguous`].
//! - Only when nothing is trusted do the others count: those that call themselves ours before strangers'. They
//!   are only tried for being alive, and only where there is a new key that the user could accept: he is not asked about one that is gone,
//!   and not as long as several are there.
//! - What is expected, live and unique wins whatever else a catalog lists: a hostile record can
//!   neither take its place nor make it ambiguous.
//! - At most [`TRIALS_MAX`] candidates are tried, [`TRIALS_AT_ONCE`] at a time.

use super::candidate::{Candidate, Judged, Verdict};
use super::trust::{Claim, Judge, Rank, Trust};
use crate::project::ProjectName;
use kvbroker_protocol::BrokerId;

/// Most trials of one lookup; a catalog may list any number of records.
pub const TRIALS_MAX: usize = 64;

/// Most trials at the same time; each may take a thread and a socket.
pub const TRIALS_AT_ONCE: usize = 16;

/// Which broker is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Only this owner's (`--owner`).
    pub owner: Option<String>,
    /// Only the one with this uuid (`--broker`).
    pub broker: Option<BrokerId>,
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
    /// This one, if the user accepts its key: it is somebody else's, new, and the only one.
    Consent(usize),
    /// These are live and different brokers.
    Ambiguous(Vec<usize>),
    /// The best candidates are refused: the broker did, or we refuse its key.
    Refused(Vec<usize>),
    /// The best candidates can't be reached.
    Unreachable(Vec<usize>),
    /// There is no candidate.
    Nothing,
}

/// The candidates of one lookup and what became of them.
#[derive(Clone, Debug)]
pub struct Choosing {
    project: ProjectName,
    wanted: Wanted,
    judge: Judge,
    judged: Vec<Judged>,
    trials: usize,
}

impl Choosing {
    /// No candidates for `project` yet.
    #[must_use]
    pub fn new(project: ProjectName, wanted: Wanted, judge: Judge) -> Self {
        Self { project, wanted, judge, judged: Vec::new(), trials: 0 }
    }

    /// Who decides about trust. What it learns counts for candidates that are added later.
    pub fn judge_mut(&mut self) -> &mut Judge {
        &mut self.judge
    }

    /// Who decides about trust.
    #[must_use]
    pub fn judge(&self) -> &Judge {
        &self.judge
    }

    /// Adds a candidate; those of one broker newest first.
    pub fn add(&mut self, candidate: Candidate) {
        let unwanted_owner =
            self.wanted.owner.as_ref().is_some_and(|owner| candidate.owner.as_ref().is_some_and(|its| its != owner));
        let unwanted_broker = self.wanted.broker.is_some_and(|broker| candidate.broker.is_some_and(|its| its != broker));
        let trust = self.judge.trust(&self.project, &candidate);
        let verdict = match &trust {
            _ if unwanted_owner || unwanted_broker => Verdict::NotWanted,
            Trust::Directory | Trust::Given | Trust::Own | Trust::Pinned | Trust::Accepted | Trust::Unprotected => {
                Verdict::Untried
            }
            Trust::New => Verdict::NewKey,
            Trust::Changed { .. } => Verdict::KeyChanged,
            Trust::OtherKey => Verdict::OtherKey,
            Trust::NoKey => Verdict::NoKey,
        };
        self.judged.push(Judged { candidate, trust, verdict, alive: None });
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

    /// The user accepts the key of this candidate, and with it all that claim the same.
    pub fn accept(&mut self, index: usize) {
        let Some(claim) = self.judged.get(index).map(|judged| (judged.candidate.owner.clone(), judged.candidate.key)) else {
            return;
        };
        for judged in &mut self.judged {
            if judged.verdict == Verdict::NewKey && (&judged.candidate.owner, judged.candidate.key) == (&claim.0, claim.1) {
                judged.trust = Trust::Accepted;
                judged.verdict = Verdict::Untried;
            }
        }
    }

    /// What to try next, all at once; nothing: [`Choosing::choice`] is final (for these candidates).
    #[must_use]
    pub fn next_trials(&self) -> Vec<Trial> {
        let room = TRIALS_MAX.saturating_sub(self.trials).min(TRIALS_AT_ONCE);
        let Some(best) = self.best_rank() else { return Vec::new() };
        if best.is_usable() {
            let is_untried = |judged: &Judged| judged.verdict == Verdict::Untried && !self.has_answered(judged);
            return self.of_rank(best, is_untried).into_iter().take(room).map(Trial::Hello).collect();
        }
        let groups = self.groups(best);
        if !self.has_new(&groups) {
            // One is enough to say why: nobody is contacted.
            return Vec::new();
        }
        // Of each broker one record that is alive is enough.
        groups
            .iter()
            .filter(|group| !group.iter().any(|i| self.alive(*i) == Some(true)))
            .filter_map(|group| group.iter().find(|i| self.alive(**i).is_none()))
            .take(room)
            .map(|index| Trial::Reach(*index))
            .collect()
    }

    /// The choice, as far as the trials went.
    #[must_use]
    pub fn choice(&self) -> Choice {
        let Some(best) = self.best_rank() else { return Choice::Nothing };
        let groups = self.groups(best);
        if !best.is_usable() {
            return self.choice_of_refused(&groups);
        }
        let verified = |group: &Vec<usize>| group.iter().copied().find(|index| self.has(*index, |v| *v == Verdict::Verified));
        let verified: Vec<usize> = groups.iter().filter_map(verified).collect();
        match verified.as_slice() {
            [] => {}
            [only] => return Choice::Use(*only),
            _ => return Choice::Ambiguous(verified),
        }
        let all = groups.concat();
        let those = |wanted: fn(&Verdict) -> bool| -> Vec<usize> {
            all.iter().copied().filter(|index| self.has(*index, wanted)).collect()
        };
        // Who says no is nearer to the broker than who proves nothing.
        let refused = those(|verdict| matches!(verdict, Verdict::Refused(_)));
        let unproven = those(|verdict| matches!(verdict, Verdict::Unproven(_)));
        match (refused.is_empty(), unproven.is_empty()) {
            (false, _) => Choice::Refused(refused),
            (true, false) => Choice::Refused(unproven),
            (true, true) => Choice::Unreachable(all),
        }
    }

    fn choice_of_refused(&self, groups: &[Vec<usize>]) -> Choice {
        if !self.has_new(groups) {
            // Choosing between them would lead nowhere.
            return Choice::Refused(groups.concat());
        }
        let live: Vec<usize> =
            groups.iter().filter_map(|group| group.iter().find(|i| self.alive(**i) == Some(true))).copied().collect();
        let dead = |group: &Vec<usize>| group.iter().all(|i| self.alive(*i) == Some(false));
        match live.as_slice() {
            [] if groups.iter().all(dead) => Choice::Unreachable(groups.concat()),
            [] => Choice::Refused(groups.concat()),
            [only] if self.is_new(*only) => Choice::Consent(*only),
            [_] => Choice::Refused(live),
            _ => Choice::Ambiguous(live),
        }
    }

    fn is_new(&self, index: usize) -> bool {
        self.judged.get(index).is_some_and(|judged| judged.trust == Trust::New)
    }

    fn has_new(&self, groups: &[Vec<usize>]) -> bool {
        groups.iter().flatten().any(|index| self.is_new(*index))
    }

    /// Whether another record of the same broker has answered.
    fn has_answered(&self, judged: &Judged) -> bool {
        let same = |other: &Judged| other.verdict == Verdict::Verified && other.candidate.broker == judged.candidate.broker;
        judged.candidate.broker.is_some() && self.judged.iter().any(same)
    }

    fn rank(&self, judged: &Judged) -> Option<Rank> {
        (judged.verdict != Verdict::NotWanted).then(|| self.judge.rank(&judged.trust, &judged.candidate))
    }

    fn best_rank(&self) -> Option<Rank> {
        self.judged.iter().filter_map(|judged| self.rank(judged)).min()
    }

    /// The candidates of a rank, those of one broker together. Of those that are not trusted only such as claim the very same are one:
    /// a copied uuid puts nobody into another's place.
    fn groups(&self, rank: Rank) -> Vec<Vec<usize>> {
        let claim = |index: usize| -> Option<Claim<'_>> {
            let candidate = &self.judged.get(index)?.candidate;
            candidate.broker?;
            let claimed = if rank.is_usable() { (None, None) } else { (candidate.owner.as_deref(), candidate.key) };
            Some((candidate.broker, claimed.0, claimed.1))
        };
        let mut groups: Vec<Vec<usize>> = Vec::new();
        for index in self.of_rank(rank, |_| true) {
            let its = claim(index);
            let same = |group: &&mut Vec<usize>| its.is_some() && group.first().is_some_and(|first| claim(*first) == its);
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

    fn has(&self, index: usize, wanted: impl Fn(&Verdict) -> bool) -> bool {
        self.judged.get(index).is_some_and(|judged| wanted(&judged.verdict))
    }

    fn of_rank(&self, rank: Rank, wanted: impl Fn(&Judged) -> bool) -> Vec<usize> {
        let is_one = |judged: &Judged| self.rank(judged) == Some(rank) && wanted(judged);
        self.judged.iter().enumerate().filter(|(_, judged)| is_one(judged)).map(|(index, _)| index).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::candidate::Source;
    use super::*;
    use crate::keys::PublicKey;
    use crate::pins::Pins;

    const OURS: PublicKey = PublicKey::from_bytes([1; 32]);
    const THEIRS: PublicKey = PublicKey::from_bytes([2; 32]);
    const ANNS: PublicKey = PublicKey::from_bytes([3; 32]);
    const OURS_NOT: PublicKey = PublicKey::from_bytes([5; 32]);
    const BOBS: PublicKey = PublicKey::from_bytes([4; 32]);

    fn record(owner: &str, broker: u8, key: Option<PublicKey>) -> Candidate {
        Candidate {
            source: Source::Catalog("c:9097".into()),
            owner: Some(owner.into()),
            broker: Some(BrokerId([broker; 16])),
            key,
            leads: Vec::new(),
            place: String::new(),
            heard_s: None,
        }
    }

    fn local(broker: u8) -> Candidate {
        Candidate { source: Source::Local("/run/x/endpoint.json".into()), key: None, ..record("me", broker, None) }
    }

    fn choosing(wanted: Wanted, candidates: Vec<Candidate>) -> Choosing {
        let pins: Pins = [("ann", "lab", ANNS), ("bob", "lab", BOBS)].into_iter().collect();
        let judge = Judge { name: "me".into(), own_key: Some(OURS), pins, insecure: false };
        let mut choosing = Choosing::new("lab".parse().unwrap(), wanted, judge);
        candidates.into_iter().for_each(|candidate| choosing.add(candidate));
        choosing
    }

    /// Runs all trials; `live` says which candidates are there. Gives the trials, too.
    fn run(mut choosing: Choosing, live: &[usize]) -> (Choice, Vec<Trial>) {
        let mut trials = Vec::new();
        loop {
            let batch = choosing.next_trials();
            assert!(batch.len() <= TRIALS_AT_ONCE);
            if batch.is_empty() {
                break;
            }
            for trial in batch {
                trials.push(trial);
                match trial {
                    Trial::Hello(i) if live.contains(&i) => choosing.tried(i, Verdict::Verified),
                    Trial::Hello(i) => choosing.tried(i, Verdict::Unreachable("no".into())),
                    Trial::Reach(i) => choosing.reached(i, live.contains(&i)),
                }
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
        assert_eq!((choice, trials), (Choice::Use(1), [0, 1, 2].map(Trial::Hello).to_vec()));
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
        assert_eq!(choosing.next_trials(), [Trial::Hello(0), Trial::Hello(1)]);
        choosing.tried(0, Verdict::Unproven("it hung up".into()));
        assert_eq!(choosing.choice(), Choice::Refused(vec![0]));
        choosing.tried(1, Verdict::Verified);
        assert_eq!(choosing.choice(), Choice::Use(1));
    }

    #[test]
    fn who_calls_himself_ours_comes_before_strangers_and_is_refused() {
        let records = vec![record("x", 1, Some(THEIRS)), record("me", 2, Some(THEIRS)), record("y", 3, None)];
        // One is enough to say why: nobody is contacted.
        assert_eq!(run(choosing(Wanted::default(), records), &[0, 1, 2]), (Choice::Refused(vec![1]), vec![]));
        // Nor is it worth a choice which of them is refused.
        let twins = vec![record("me", 1, Some(THEIRS)), record("me", 2, Some(THEIRS)), record("me", 2, None)];
        assert_eq!(run(choosing(Wanted::default(), twins), &[0, 1, 2]), (Choice::Refused(vec![0, 1, 2]), vec![]));
    }

    #[test]
    fn a_new_key_is_asked_about_only_where_it_is_the_only_one_and_alive() {
        let one = || vec![record("x", 1, Some(THEIRS)), record("x", 1, Some(THEIRS))];
        assert_eq!(run(choosing(Wanted::default(), one()), &[1]), (Choice::Consent(1), vec![Trial::Reach(0), Trial::Reach(1)]));
        assert_eq!(choose(one(), &[]), Choice::Unreachable(vec![0, 1]));
        let strangers = || vec![record("x", 1, Some(THEIRS)), record("y", 2, Some(OURS_NOT)), record("z", 2, None)];
        assert_eq!(choose(strangers(), &[0, 1]), Choice::Ambiguous(vec![0, 1]));
        assert_eq!(choose(strangers(), &[1]), Choice::Consent(1));
        assert_eq!(choose(strangers(), &[2]), Choice::Refused(vec![2]));
        // A copied uuid and owner with another key is another claim.
        let thief = vec![record("x", 1, Some(THEIRS)), record("x", 1, Some(OURS_NOT))];
        assert_eq!(choose(thief, &[0, 1]), Choice::Ambiguous(vec![0, 1]));
        let wanted = Wanted { owner: Some("y".into()), broker: None };
        assert_eq!(run(choosing(wanted, strangers()), &[0, 1, 2]).0, Choice::Consent(1));
    }

    #[test]
    fn an_accepted_candidate_is_tried_with_all_that_claim_the_same() {
        let records = vec![record("x", 1, Some(THEIRS)), record("x", 1, Some(OURS_NOT)), record("x", 1, Some(THEIRS))];
        let mut choosing = choosing(Wanted::default(), records);
        choosing.accept(0);
        assert_eq!(choosing.next_trials(), [Trial::Hello(0), Trial::Hello(2)]);
        choosing.tried(0, Verdict::Unreachable("no".into()));
        choosing.tried(2, Verdict::Verified);
        assert_eq!(choosing.choice(), Choice::Use(2));
    }

    #[test]
    fn pinned_brokers_come_after_our_own_and_before_strangers() {
        let all = || vec![record("x", 1, Some(THEIRS)), record("ann", 2, Some(ANNS)), record("me", 3, Some(OURS))];
        assert_eq!(run(choosing(Wanted::default(), all()), &[0, 1, 2]), (Choice::Use(2), vec![Trial::Hello(2)]));
        // What is written for our own broker must not go into another's table because ours is down for a moment.
        assert_eq!(choose(all(), &[0, 1]), Choice::Unreachable(vec![2]));
        let others = || all().into_iter().take(2).collect::<Vec<_>>();
        assert_eq!(run(choosing(Wanted::default(), others()), &[0, 1]), (Choice::Use(1), vec![Trial::Hello(1)]));
        assert_eq!(choose(others(), &[0]), Choice::Unreachable(vec![1]));
        let two = vec![record("ann", 2, Some(ANNS)), record("bob", 4, Some(BOBS))];
        assert_eq!(choose(two, &[0, 1]), Choice::Ambiguous(vec![0, 1]));
    }

    #[test]
    fn a_changed_key_is_refused_unless_the_accepted_one_is_there_too() {
        assert_eq!(
            run(choosing(Wanted::default(), vec![record("ann", 2, Some(THEIRS))]), &[0]),
            (Choice::Refused(vec![0]), vec![])
        );
        let both = vec![record("ann", 2, Some(THEIRS)), record("ann", 2, Some(ANNS))];
        assert_eq!(run(choosing(Wanted::default(), both), &[0, 1]), (Choice::Use(1), vec![Trial::Hello(1)]));
    }

    #[test]
    fn refusals_are_told_from_silence() {
        let mut choosing = choosing(Wanted::default(), vec![record("me", 7, Some(OURS)), record("me", 7, Some(OURS))]);
        choosing.tried(0, Verdict::Unreachable("no".into()));
        choosing.tried(1, Verdict::Refused("not admitted".into()));
        assert_eq!((choosing.next_trials(), choosing.choice()), (vec![], Choice::Refused(vec![1])));
    }

    #[test]
    fn filters_leave_out_and_can_leave_nothing() {
        let wanted = Wanted { owner: Some("you".into()), broker: None };
        let records = vec![record("me", 7, Some(OURS)), record("you", 8, Some(THEIRS))];
        assert_eq!(run(choosing(wanted.clone(), records), &[0, 1]).0, Choice::Consent(1));
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

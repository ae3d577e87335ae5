//! From what became of the candidates to the one sentence that says why there is no connection.

use super::address::Address;
use super::candidate::{Judged, Verdict};
use super::choose::Choice;
use super::error::{ChangedKey, ExpectedKey};
use super::trust::Trust;
use super::{Lookup, LookupError, Rival, Run, local};
use crate::catalog::CatalogAnswer;
use crate::pins::KNOWN_BROKERS_FILE;

impl Lookup {
    /// Why nothing was found.
    pub(super) fn failure(&self, run: &mut Run<'_, '_>, answers: &[CatalogAnswer]) -> LookupError {
        let project = self.target.project.clone();
        let judged = run.choosing.judged();
        let of = |indexes: &[usize]| -> Vec<&Judged> { indexes.iter().filter_map(|index| judged.get(*index)).collect() };
        match run.choosing.choice() {
            Choice::Ambiguous(indexes) => {
                LookupError::Ambiguous { project, brokers: of(&indexes).into_iter().map(rival).collect() }
            }
            Choice::Consent(index) => match judged.get(index) {
                Some(new) => self.new_key(new, false),
                None => self.nothing(run, answers),
            },
            Choice::Refused(indexes) => match of(&indexes).first() {
                Some(first) => self.refused(first),
                None => self.nothing(run, answers),
            },
            Choice::Unreachable(indexes) => {
                let said = |judged: &Judged| match &judged.verdict {
                    Verdict::Unreachable(why) | Verdict::SomebodyElse(why) => format!("{} ({why})", judged.candidate.place),
                    Verdict::Untried => format!("{} (not tried: no time was left)", judged.candidate.place),
                    _ => format!("{} (nobody listens there)", judged.candidate.place),
                };
                let shown = indexes.len().min(PLACES_SHOWN);
                let mut places: Vec<String> = of(&indexes[..shown]).into_iter().map(said).collect();
                if indexes.len() > shown {
                    places.push(format!("and {} more", indexes.len() - shown));
                }
                LookupError::Unreachable { project, places, left_by: run.left_by }
            }
            Choice::Use(_) | Choice::Nothing if !judged.is_empty() => {
                LookupError::NotWanted { project, found: judged.iter().take(PLACES_SHOWN).map(rival).collect() }
            }
            Choice::Use(_) | Choice::Nothing => match run.closed_out.take() {
                Some(loose) => LookupError::Path(loose),
                None => self.nothing(run, answers),
            },
        }
    }

    /// That the key of this one was not accepted; `asked`: the user has just said so.
    pub(super) fn new_key(&self, new: &Judged, asked: bool) -> LookupError {
        let candidate = &new.candidate;
        LookupError::NewKey {
            project: self.target.project.clone(),
            owner: owner(new),
            place: candidate.place.clone(),
            key: candidate.key,
            asked,
        }
    }

    fn refused(&self, first: &Judged) -> LookupError {
        let project = self.target.project.clone();
        let place = first.candidate.place.clone();
        match (&first.verdict, &first.trust) {
            (Verdict::Unproven(why), _) => {
                let is_own = first.candidate.key == self.own.as_ref().map(|own| own.project);
                let expected = match &self.target.address {
                    Some(Address::Network { key: None, .. }) if is_own => ExpectedKey::Own,
                    Some(Address::Network { .. }) => ExpectedKey::Address,
                    _ => ExpectedKey::Found,
                };
                LookupError::Unproven { project, place, why: why.clone(), expected }
            }
            (Verdict::NewKey, _) => self.new_key(first, false),
            (Verdict::KeyChanged, Trust::Changed { pinned, line }) => LookupError::KeyChanged(Box::new(ChangedKey {
                project,
                owner: owner(first),
                place,
                accepted: *pinned,
                announced: first.candidate.key,
                file: self.dirs.config_dir().join(KNOWN_BROKERS_FILE),
                line: *line,
            })),
            (Verdict::NoKey, _) => LookupError::NoKey { project, owner: owner(first), place },
            (Verdict::OtherKey, _) => {
                LookupError::OtherKey { project, place, own_file: self.own_key_file(), has_key: self.own.is_some() }
            }
            (verdict, trust) => {
                let why = match verdict {
                    Verdict::Refused(why) => why.clone(),
                    other => other.to_string(),
                };
                // Over a unix socket, and by our own broker, it is not a matter of being let in by an owner.
                let own_key = self.own.as_ref().map(|own| *own.pair.public());
                let own_project = self.own.as_ref().map(|own| own.project);
                let is_ours = matches!(trust, Trust::Directory) || first.candidate.key == own_project;
                let own_key = own_key.filter(|_| !is_ours).map(Box::new);
                LookupError::Refused { project, owner: first.candidate.owner.clone(), place, why, own_key }
            }
        }
    }

    fn nothing(&self, run: &Run<'_, '_>, answers: &[CatalogAnswer]) -> LookupError {
        let project = self.target.project.clone();
        let running = local::running_projects(&self.dirs);
        let left_by = run.left_by;
        if self.catalogs.is_empty() {
            return LookupError::NotHere { project, running, left_by };
        }
        let mut answered = Vec::new();
        let mut silent = Vec::new();
        let mut refused = Vec::new();
        for answer in answers {
            match &answer.outcome {
                Ok(listing) => {
                    match &listing.cut_short {
                        None => answered.push(answer.catalog.to_string()),
                        Some(why) => answered.push(format!("{} (incompletely: {why})", answer.catalog)),
                    }
                    let of_project = listing.refused.iter().filter(|record| record.project.as_ref() == Some(&project));
                    refused.extend(of_project.map(|record| {
                        format!("{}: {}", record.address.as_deref().unwrap_or("an unknown address"), record.reason)
                    }));
                }
                Err(error) => silent.push(error.to_string()),
            }
        }
        if let (true, Some(first)) = (!answered.is_empty(), refused.first()) {
            return LookupError::Unreadable { project, answered, first: first.clone(), count: refused.len() };
        }
        if answered.is_empty() {
            LookupError::CatalogsSilent { project, silent, running, left_by }
        } else {
            LookupError::NotListed { project, answered, silent, running, left_by }
        }
    }
}

/// More would hide the sentence; `--explain` shows all.
const PLACES_SHOWN: usize = 8;

fn owner(judged: &Judged) -> String {
    judged.candidate.owner.clone().unwrap_or_else(|| "an unknown owner".to_owned())
}

fn rival(judged: &Judged) -> Rival {
    let candidate = &judged.candidate;
    Rival { owner: candidate.owner.clone(), broker: candidate.broker, key: candidate.key, place: candidate.place.clone() }
}

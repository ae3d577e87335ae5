//! Why no broker was found, told apart, each with what to do about it.

use std::fmt::Write as _;
use std::path::PathBuf;

use kvbroker_protocol::BrokerId;

use super::address::AddressError;
use crate::catalog::CatalogListError;
use crate::exit::Exit;
use crate::keys::{KeyFileError, PublicKey};
use crate::paths::PathError;
use crate::project::ProjectName;
use crate::transport::TransportError;

/// One of several brokers between which the user has to choose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rival {
    /// Its owner.
    pub owner: Option<String>,
    /// The log's uuid.
    pub broker: Option<BrokerId>,
    /// Where it is.
    pub place: String,
}

/// Why no broker was found. Nothing was asked of any broker: always definite.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LookupError {
    /// None on this machine, and no catalog was to be asked.
    #[error("no broker for {project} runs here{}", gone(*left_by))]
    NotHere {
        /// The project.
        project: ProjectName,
        /// Projects whose brokers do run here.
        running: Vec<ProjectName>,
        /// The process that left its endpoint file behind, if there is one.
        left_by: Option<u32>,
    },
    /// Catalogs answered, and none lists it.
    #[error(
        "no broker for {project} runs here{}, and {} not list it",
        gone(*left_by), answered_text(answered)
    )]
    NotListed {
        /// The project.
        project: ProjectName,
        /// The catalogs that answered.
        answered: Vec<String>,
        /// Why the other catalogs did not.
        silent: Vec<String>,
        /// Projects whose brokers run here.
        running: Vec<ProjectName>,
        /// The process that left its endpoint file behind, if there is one.
        left_by: Option<u32>,
    },
    /// No catalog answered.
    #[error("no broker for {project} runs here{}, and no catalog answered: {}", gone(*left_by), silent.join("; "))]
    CatalogsSilent {
        /// The project.
        project: ProjectName,
        /// Why, one sentence for each catalog.
        silent: Vec<String>,
        /// Projects whose brokers run here.
        running: Vec<ProjectName>,
        /// The process that left its endpoint file behind, if there is one.
        left_by: Option<u32>,
    },
    /// There are brokers of this name, but not the one that `--owner` or `--broker` names.
    #[error("there are brokers for {project}, but none with the wanted owner or uuid: {}", rivals_text(found))]
    NotWanted {
        /// The project.
        project: ProjectName,
        /// Those that are there.
        found: Vec<Rival>,
    },
    /// Listed, but nobody answers there.
    #[error(
        "a broker for {project} is known but can't be reached: {}{}",
        places.join("; "), left_by.map_or(String::new(), |pid| format!("; the one on this machine, process {pid}, is gone"))
    )]
    Unreachable {
        /// The project.
        project: ProjectName,
        /// Where it was tried, and what happened.
        places: Vec<String>,
        /// The process that left its endpoint file behind on this machine, if there is one.
        left_by: Option<u32>,
    },
    /// The network needs a key of ours, and there is none.
    #[error("you have no key yet, and a broker on the network admits its owner's only: there is no {}", path.display())]
    NoOwnKey {
        /// Where it would be.
        path: PathBuf,
    },
    /// Reached, but refused by one side.
    #[error("the broker for {project} at {place} is refused: {why}")]
    Refused {
        /// The project.
        project: ProjectName,
        /// Where.
        place: String,
        /// Why.
        why: String,
        /// Our own public key, if it was loaded.
        own_key: Option<PublicKey>,
    },
    /// Several live brokers, between which nothing chooses.
    #[error(
        "{} brokers serve {project}{}: {}",
        brokers.len(), if *refused { ", and none of them has your key" } else { "" }, rivals_text(brokers)
    )]
    Ambiguous {
        /// The project.
        project: ProjectName,
        /// The brokers.
        brokers: Vec<Rival>,
        /// Whether each of them is refused for its key.
        refused: bool,
    },
    /// The address of a host could not be found.
    #[error("the host {host} of the address can't be found: {why}")]
    NoSuchHost {
        /// The host.
        host: String,
        /// What the resolver said.
        why: String,
    },
    /// The address or project can't be one.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The list of catalogs can't be one.
    #[error(transparent)]
    Catalogs(#[from] CatalogListError),
    /// Our own directories.
    #[error(transparent)]
    Path(#[from] PathError),
    /// Our own key.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// libzmq.
    #[error(transparent)]
    Transport(#[from] TransportError),
}

fn gone(left_by: Option<u32>) -> String {
    left_by.map_or(String::new(), |pid| format!(" (the last one, process {pid}, is gone)"))
}

fn answered_text(answered: &[String]) -> String {
    match answered {
        [one] => format!("the catalog {one} answered and does"),
        several => format!("the catalogs {} answered and do", several.join(", ")),
    }
}

fn rivals_text(rivals: &[Rival]) -> String {
    let mut text = String::new();
    for (index, rival) in rivals.iter().enumerate() {
        let separator = if index == 0 { "" } else { "; " };
        let owner = rival.owner.as_deref().unwrap_or("an unknown owner");
        let _ = write!(text, "{separator}{owner}'s at {}", rival.place);
        if let Some(broker) = rival.broker {
            let _ = write!(text, " (--broker {broker})");
        }
    }
    text
}

impl LookupError {
    /// The exit code of a program that ends because of this.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            LookupError::Ambiguous { .. } => Exit::Ambiguous,
            LookupError::Refused { .. }
            | LookupError::NoOwnKey { .. }
            | LookupError::Key(_)
            | LookupError::Path(PathError::LooseMode { .. }) => Exit::Refused,
            LookupError::Address(_) | LookupError::Catalogs(_) | LookupError::Path(_) => Exit::Usage,
            _ => Exit::Unreachable,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            LookupError::NotHere { project, running, .. } => match running.as_slice() {
                [] => format!("start one with: kvbroker {project}; or name a catalog with --catalog HOST"),
                _ => format!("running here: {}; start this one with: kvbroker {project}", names(running)),
            },
            LookupError::NotListed { project, running, silent, .. } => {
                let mut hint =
                    format!("check the spelling (kvclient list shows what is there), or start it with: kvbroker {project}");
                if !running.is_empty() {
                    let _ = write!(hint, "; running here: {}", names(running));
                }
                if !silent.is_empty() {
                    let _ = write!(hint, "; not asked, because they did not answer: {}", silent.join("; "));
                }
                hint
            }
            LookupError::CatalogsSilent { project, running, .. } => {
                let here = if running.is_empty() { String::new() } else { format!("; running here: {}", names(running)) };
                format!(
                    "start one here with: kvbroker {project}; if it runs elsewhere: is the network up, does a firewall let the catalog's port \
                     through? --catalog names another one, or `none`{here}"
                )
            }
            LookupError::NotWanted { .. } => "leave --owner and --broker away, or give one of these".into(),
            LookupError::Unreachable { project, left_by: Some(_), .. } => format!("start it with: kvbroker {project}"),
            LookupError::Unreachable { .. } => {
                "if it runs, a firewall on the way may drop its port; if it was stopped, its record goes away after 3 minutes"
                    .into()
            }
            LookupError::Refused { own_key, .. } => {
                let own = own_key.map_or(String::new(), |key| format!(" (your key is {key})"));
                format!(
                    "this version admits the broker owner's own key only{own}: use the account, or KVBROKER_HOME, of the broker's owner"
                )
            }
            LookupError::NoOwnKey { .. } => {
                "the first start of a broker makes it; for a broker that runs elsewhere use the account, or KVBROKER_HOME, of its owner".into()
            }
            LookupError::Ambiguous { refused: true, .. } => {
                "this version admits the broker owner's own key only: use the account, or KVBROKER_HOME, of the owner whose broker you want"
                    .into()
            }
            LookupError::Ambiguous { .. } => "choose one with --broker UUID or --owner NAME; --explain shows each".into(),
            LookupError::NoSuchHost { .. } => "check its spelling, or give its number".into(),
            _ => return None,
        })
    }

    /// Whether another look soon may end better without anybody's doing: a broker that is just starting.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(
            self,
            LookupError::NotHere { .. }
                | LookupError::NotListed { .. }
                | LookupError::CatalogsSilent { .. }
                | LookupError::NotWanted { .. }
                | LookupError::Unreachable { .. }
                | LookupError::Refused { .. }
                | LookupError::NoSuchHost { .. }
        )
    }
}

fn names(projects: &[ProjectName]) -> String {
    /// More would hide the sentence.
    const SHOWN_MAX: usize = 10;
    let shown: Vec<&str> = projects.iter().take(SHOWN_MAX).map(ProjectName::as_str).collect();
    let more = projects.len().saturating_sub(SHOWN_MAX);
    if more == 0 { shown.join(", ") } else { format!("{} and {more} more", shown.join(", ")) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn each_failure_has_its_sentence_its_hint_and_its_code() {
        let project: ProjectName = "lab".parse().unwrap();
        let running = vec!["a".parse().unwrap(), "b".parse().unwrap()];
        let rival =
            |n: u8| Rival { owner: Some("ann".into()), broker: Some(BrokerId([n; 16])), place: format!("10.0.0.{n}:4000") };
        let p = || project.clone();
        let cases = [
            (
                LookupError::NotHere { project: p(), running: running.clone(), left_by: Some(7) },
                "no broker for lab runs here (the last one, process 7, is gone)",
                "running here: a, b;",
                5,
            ),
            (
                LookupError::NotListed { project: p(), answered: vec!["c:1".into()], silent: vec![], running, left_by: None },
                "no broker for lab runs here, and the catalog c:1 answered and does not list it",
                "kvbroker lab",
                5,
            ),
            (
                LookupError::CatalogsSilent { project: p(), silent: vec!["c:1 slept".into()], running: vec![], left_by: None },
                "no catalog answered: c:1 slept",
                "firewall",
                5,
            ),
            (
                LookupError::Unreachable { project: p(), places: vec!["x".into()], left_by: Some(7) },
                "can't be reached: x; the one on this machine, process 7, is gone",
                "start it with: kvbroker lab",
                5,
            ),
            (LookupError::NoOwnKey { path: "/c/id".into() }, "you have no key yet", "KVBROKER_HOME", 6),
            (
                LookupError::Ambiguous { project: p(), brokers: vec![rival(1), rival(2)], refused: true },
                "2 brokers serve lab, and none of them has your key: ann's",
                "KVBROKER_HOME",
                8,
            ),
            (
                LookupError::Unreachable { project: p(), places: vec!["x".into()], left_by: None },
                "known but can't be reached: x",
                "firewall",
                5,
            ),
            (
                LookupError::Refused { project: p(), place: "h:1".into(), why: "no".into(), own_key: None },
                "at h:1 is refused: no",
                "KVBROKER_HOME",
                6,
            ),
            (
                LookupError::Ambiguous { project: p(), brokers: vec![rival(1), rival(2)], refused: false },
                "2 brokers serve lab: ann's at 10.0.0.1:4000 (--broker 01010101-",
                "--owner",
                8,
            ),
        ];
        for (error, sentence, hint, code) in cases {
            let (said, hinted) = (error.to_string(), error.hint().unwrap());
            assert!(said.contains(sentence), "{said}");
            assert!(hinted.contains(hint), "{hinted}");
            assert_eq!(error.exit().code(), code, "{said}");
        }
    }
}

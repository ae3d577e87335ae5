//! Why no broker was found, told apart, each with what to do about it.

use std::fmt::{self, Write as _};
use std::path::PathBuf;

use kvbroker_protocol::BrokerId;

use super::address::AddressError;
use crate::catalog::CatalogListError;
use crate::exit::Exit;
use crate::keys::{KeyFileError, PublicKey};
use crate::paths::PathError;
use crate::pins::PinError;
use crate::project::ProjectName;
use crate::transport::TransportError;

/// One of several brokers between which the user has to choose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rival {
    /// Its owner.
    pub owner: Option<String>,
    /// The log's uuid.
    pub broker: Option<BrokerId>,
    /// The key that it announces.
    pub key: Option<PublicKey>,
    /// Where it is.
    pub place: String,
}

/// A broker of somebody else with another key than the one that was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedKey {
    /// The project.
    pub project: ProjectName,
    /// Whose it is said to be.
    pub owner: String,
    /// Where.
    pub place: String,
    /// The key that was accepted.
    pub accepted: PublicKey,
    /// The key that it announces now.
    pub announced: Option<PublicKey>,
    /// The file of accepted keys.
    pub file: PathBuf,
    /// The line in it.
    pub line: usize,
}

impl fmt::Display for ChangedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ChangedKey { project, owner, place, accepted, announced, file, line } = self;
        let announced = announced.map_or("none".to_owned(), |key| key.to_string());
        write!(
            f,
            "THE KEY OF {owner}'s BROKER FOR {project} HAS CHANGED: at {place} it announces {announced}, accepted was {accepted} \
             (line {line} of {})",
            file.display()
        )
    }
}

/// Where the key that a broker has to prove was taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpectedKey {
    /// A record or an endpoint file.
    Found,
    /// The address that was given, or what was accepted from the owner who was named with it.
    Address,
    /// Our own secret key: an address was given, and no key in it.
    Own,
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
    /// Catalogs list it, in records that can't be used.
    #[error(
        "{} list {project}, but in a way that can't be used ({first}{})",
        answered_text(answered), if *count > 1 { format!("; and {} more", count - 1) } else { String::new() }
    )]
    Unreadable {
        /// The project.
        project: ProjectName,
        /// The catalogs that answered.
        answered: Vec<String>,
        /// Where the first record came from, and what is wrong with it.
        first: String,
        /// How many there are.
        count: usize,
    },
    /// The address has no key, and there is none of ours to expect.
    #[error("the address has no key to expect there, and you have none yet: there is no {}", path.display())]
    NoOwnKey {
        /// Where it would be.
        path: PathBuf,
    },
    /// The address has no key, and none of its owner's was accepted before.
    #[error("the address has no key to expect there, and none was accepted for {owner}'s {project}")]
    AddressWithoutKey {
        /// The project.
        project: ProjectName,
        /// The owner who was named.
        owner: String,
    },
    /// Reached, and it doesn't let us in.
    #[error("{} broker for {project} at {place} does not let you in: {why}", owner.as_ref().map_or("the".to_owned(), |owner| format!("{owner}'s")))]
    Refused {
        /// The project.
        project: ProjectName,
        /// Whose it is, if that is known.
        owner: Option<String>,
        /// Where.
        place: String,
        /// Why.
        why: String,
        /// Our own public key, where its owner could let it in.
        own_key: Option<Box<PublicKey>>,
    },
    /// Reached, and whoever is there did not prove the key.
    #[error("who answers for {project} at {place} did not prove the expected key: {why}")]
    Unproven {
        /// The project.
        project: ProjectName,
        /// Where.
        place: String,
        /// What happened.
        why: String,
        /// Where the expected key was taken from.
        expected: ExpectedKey,
    },
    /// Somebody else's, and its key was never accepted.
    #[error(
        "{owner}'s broker for {project} at {place} has a key that you have not accepted{}: {}",
        if *asked { " now" } else { " yet" }, key.map_or("none".to_owned(), |key| key.to_string())
    )]
    NewKey {
        /// The project.
        project: ProjectName,
        /// Whose it is said to be.
        owner: String,
        /// Where.
        place: String,
        /// The key that it announces.
        key: Option<PublicKey>,
        /// The user was asked and said no.
        asked: bool,
    },
    /// Somebody else's, with another key than the accepted one.
    #[error("{0}")]
    KeyChanged(Box<ChangedKey>),
    /// It announces no key.
    #[error(
        "{owner}'s broker for {project} at {place} is refused: it announces no key, so nothing would be encrypted or prove who it is"
    )]
    NoKey {
        /// The project.
        project: ProjectName,
        /// Whose it is said to be.
        owner: String,
        /// Where.
        place: String,
    },
    /// It calls itself ours, and has another key.
    #[error(
        "a broker for {project} at {place} calls itself yours and is refused: {}",
        if *has_key { format!("its key is not the one that follows from yours ({})", own_file.display()) }
        else { format!("you have no key here to tell ({} is missing)", own_file.display()) }
    )]
    OtherKey {
        /// The project.
        project: ProjectName,
        /// Where.
        place: String,
        /// Our own key file.
        own_file: PathBuf,
        /// Whether it is there.
        has_key: bool,
    },
    /// The file of accepted keys.
    #[error(transparent)]
    Pins(#[from] PinError),
    /// Several live brokers, between which nothing chooses.
    #[error("{} brokers serve {project}: {}", brokers.len(), rivals_text(brokers))]
    Ambiguous {
        /// The project.
        project: ProjectName,
        /// The brokers.
        brokers: Vec<Rival>,
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
    /// More would hide the sentence; `--explain` shows all.
    const SHOWN_MAX: usize = 8;
    let mut text = String::new();
    for (index, rival) in rivals.iter().enumerate() {
        if index == SHOWN_MAX {
            let _ = write!(text, "; and {} more", rivals.len() - SHOWN_MAX);
            break;
        }
        let separator = if index == 0 { "" } else { "; " };
        let owner = rival.owner.as_deref().unwrap_or("an unknown owner");
        let _ = write!(text, "{separator}{owner}'s at {}", rival.place);
        let same = |other: &Rival| rival.broker.is_some() && other.broker == rival.broker;
        match (rival.broker, rival.key) {
            // Who copies a uuid can't copy the key.
            (Some(_), Some(key)) if rivals.iter().filter(|other| same(other)).count() > 1 => {
                let _ = write!(text, " (key {key})");
            }
            (Some(broker), _) => {
                let _ = write!(text, " (--broker {broker})");
            }
            (None, _) => {}
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
            | LookupError::Unproven { .. }
            | LookupError::NewKey { .. }
            | LookupError::KeyChanged(_)
            | LookupError::NoKey { .. }
            | LookupError::OtherKey { .. }
            | LookupError::NoOwnKey { .. }
            | LookupError::AddressWithoutKey { .. }
            | LookupError::Key(_)
            | LookupError::Pins(_)
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
            LookupError::Unreadable { .. } => "its broker may be newer than this program; --explain shows each record".into(),
            LookupError::Refused { project, own_key: Some(key), owner, .. } => {
                let owner = owner.as_deref().unwrap_or("the broker's owner");
                format!("{owner} lets you in with: kvclient {project} authorize {key} read   (or write)")
            }
            LookupError::Refused { own_key: None, .. } => {
                "is it your account's, and your key's (KVBROKER_HOME, --key)? --explain shows where it was looked for".into()
            }
            LookupError::Unproven { expected: ExpectedKey::Found, .. } => {
                "another program may have its port now, or somebody poses as it: nothing was said to it; if the broker runs, its record is \
                 renewed within a minute"
                    .into()
            }
            LookupError::Unproven { project, expected: ExpectedKey::Address, .. } => format!(
                "nothing was said to it; compare the address with what the broker's owner sees in: kvbroker {project} link"
            ),
            LookupError::Unproven { project, expected: ExpectedKey::Own, .. } => format!(
                "nothing was said to it; an address without a key is that of a broker of your own: for somebody else's take all that \
                 `kvbroker {project} link` prints there (…?key=kvpub1…); if it runs with --insecure: --insecure here, too"
            ),
            LookupError::NewKey { project, owner, asked: true, .. } => {
                format!("compare it with what {owner} sees in: kvbroker {project} link; nothing was sent there")
            }
            LookupError::NewKey { project, owner, .. } => format!(
                "compare it with what {owner} sees in: kvbroker {project} link; then say --accept-new-key once (on a terminal you are asked)"
            ),
            LookupError::KeyChanged(changed) => format!(
                "somebody may pose as {owner}; ask {owner} what `kvbroker {project} link` shows; only if the new key is there, remove line {line} \
                 of that file",
                owner = changed.owner,
                project = changed.project,
                line = changed.line
            ),
            LookupError::NoKey { .. } => {
                "if its owner runs it with --insecure and you accept that everybody on the way can read and change everything: --insecure, on \
                 this one command"
                    .into()
            }
            LookupError::OtherKey { project, own_file, .. } => format!(
                "if you started it elsewhere, copy {} from there, or name a copy with --key FILE; if it is somebody else's with your login name: \
                 take the address that `kvbroker {project} link` prints there",
                own_file.display()
            ),
            LookupError::NoOwnKey { .. } | LookupError::AddressWithoutKey { .. } => {
                "take the whole address that `kvbroker PROJECT link` prints where it runs: kv://HOST:PORT/PROJECT?key=kvpub1…".into()
            }
            LookupError::Ambiguous { .. } => {
                "choose one with --owner NAME or --broker UUID, or by its address and key (kv://HOST:PORT/PROJECT?key=kvpub1…); --explain shows each"
                    .into()
            }
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
                | LookupError::Unreadable { .. }
                | LookupError::Refused { .. }
                | LookupError::Unproven { .. }
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
        let rival = |n: u8| Rival {
            owner: Some("ann".into()),
            broker: Some(BrokerId([n; 16])),
            key: None,
            place: format!("10.0.0.{n}:4000"),
        };
        let p = || project.clone();
        let key = PublicKey::from_bytes([1; 32]);
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
            (LookupError::NoOwnKey { path: "/c/id".into() }, "you have none yet", "kvbroker PROJECT link", 6),
            (
                LookupError::NewKey { project: p(), owner: "ann".into(), place: "h:1".into(), key: Some(key), asked: false },
                "ann's broker for lab at h:1 has a key that you have not accepted yet: kvpub10101",
                "--accept-new-key",
                6,
            ),
            (
                LookupError::NewKey { project: p(), owner: "ann".into(), place: "h:1".into(), key: Some(key), asked: true },
                "not accepted now",
                "nothing was sent",
                6,
            ),
            (
                LookupError::KeyChanged(Box::new(ChangedKey {
                    project: p(),
                    owner: "ann".into(),
                    place: "h:1".into(),
                    accepted: key,
                    announced: Some(PublicKey::from_bytes([2; 32])),
                    file: "/c/known_brokers".into(),
                    line: 3,
                })),
                "HAS CHANGED: at h:1 it announces kvpub10202",
                "remove line 3",
                6,
            ),
            (
                LookupError::NoKey { project: p(), owner: "ann".into(), place: "h:1".into() },
                "it announces no key",
                "--insecure, on this one command",
                6,
            ),
            (
                LookupError::OtherKey { project: p(), place: "h:1".into(), own_file: "/c/id".into(), has_key: true },
                "calls itself yours and is refused: its key is not the one",
                "copy /c/id from there",
                6,
            ),
            (
                LookupError::Unproven { project: p(), place: "h:1".into(), why: "no".into(), expected: ExpectedKey::Found },
                "did not prove the expected key: no",
                "another program may have its port",
                6,
            ),
            (
                LookupError::Unproven { project: p(), place: "h:1".into(), why: "no".into(), expected: ExpectedKey::Address },
                "did not prove the expected key: no",
                "compare the address with what the broker's owner sees in: kvbroker lab link",
                6,
            ),
            (
                LookupError::Unproven { project: p(), place: "h:1".into(), why: "no".into(), expected: ExpectedKey::Own },
                "did not prove the expected key: no",
                "take all that `kvbroker lab link` prints there",
                6,
            ),
            (
                LookupError::Unreadable { project: p(), answered: vec!["c:1".into()], first: "h: bad".into(), count: 2 },
                "lab, but in a way that can't be used (h: bad; and 1 more)",
                "--explain",
                5,
            ),
            (
                LookupError::Unreachable { project: p(), places: vec!["x".into()], left_by: None },
                "known but can't be reached: x",
                "firewall",
                5,
            ),
            (
                LookupError::Refused {
                    project: p(),
                    owner: Some("ann".into()),
                    place: "h:1".into(),
                    why: "no".into(),
                    own_key: Some(Box::new(key)),
                },
                "ann's broker for lab at h:1 does not let you in: no",
                "ann lets you in with: kvclient lab authorize kvpub10101",
                6,
            ),
            (
                LookupError::Ambiguous { project: p(), brokers: vec![rival(1), rival(2)] },
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

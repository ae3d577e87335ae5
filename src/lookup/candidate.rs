//! Candidates and verdicts: what a lookup found, and what it thinks of each, as data.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use kvbroker_protocol::BrokerId;
use serde::Serialize;

use super::trust::Trust;
use crate::keys::PublicKey;

/// Where a candidate was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// An address that the user gave.
    Given,
    /// An endpoint file of this user on this machine.
    Local(PathBuf),
    /// The record of a catalog, named as `HOST:PORT`.
    Catalog(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Given => f.write_str("given address"),
            Source::Local(path) => write!(f, "{}", path.display()),
            Source::Catalog(catalog) => write!(f, "catalog {catalog}"),
        }
    }
}

/// A place to try; with the candidate's key it becomes a [`Route`](crate::client::Route).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lead {
    /// Unix sockets in a directory of our own.
    Sockets {
        /// The ROUTER's.
        router: PathBuf,
        /// The publisher's.
        publisher: PathBuf,
    },
    /// An address.
    Address(SocketAddr),
    /// A name and a port. It is looked up when its turn comes, and only for a candidate that is trusted: a
    /// stranger's record can't make us ask a resolver for names of its choice.
    Host(String, u16),
}

impl fmt::Display for Lead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lead::Sockets { router, .. } => write!(f, "ipc://{}", router.display()),
            Lead::Address(address) => write!(f, "tcp://{address}"),
            Lead::Host(host, port) => write!(f, "tcp://{host}:{port}"),
        }
    }
}

/// One place where the broker may be, as somebody claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Who claims it.
    pub source: Source,
    /// The broker's owner.
    pub owner: Option<String>,
    /// The log's uuid.
    pub broker: Option<BrokerId>,
    /// The key that it claims to have.
    pub key: Option<PublicKey>,
    /// Where to try, the likeliest first.
    pub leads: Vec<Lead>,
    /// Where it is, in words.
    pub place: String,
    /// When a catalog heard of it last, seconds since 1970 by the catalog's clock.
    pub heard_s: Option<u64>,
}

impl Candidate {
    /// Whether we have to show a key of ours there.
    pub(super) fn needs_own_key(&self) -> bool {
        self.key.is_some() && self.leads.iter().any(|lead| !matches!(lead, Lead::Sockets { .. }))
    }
}

/// What became of a candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not looked at to the end: another record of the same broker answered, or the choice was made before.
    Untried,
    /// Left out: `--owner` or `--broker` wants another one.
    NotWanted,
    /// Left out: it announces no key, so nothing would prove who it is.
    NoKey,
    /// Left out: it calls itself ours and announces another key than ours for this project.
    OtherKey,
    /// Somebody else's, whose key was not accepted (yet).
    NewKey,
    /// Left out: somebody else's, with another key than the one that was accepted.
    KeyChanged,
    /// Nobody listens there.
    Unreachable(String),
    /// Reached, and it doesn't admit us.
    Refused(String),
    /// Reached, and whoever is there did not prove the expected key.
    Unproven(String),
    /// Reached, and it is somebody else: a record that is out of date.
    SomebodyElse(String),
    /// It answered and is who it should be.
    Verified,
}

impl Verdict {
    /// A stable word for programs.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Verdict::Untried => "untried",
            Verdict::NotWanted => "not_wanted",
            Verdict::NoKey => "no_key",
            Verdict::OtherKey => "other_key",
            Verdict::NewKey => "new_key",
            Verdict::KeyChanged => "key_changed",
            Verdict::Unreachable(_) => "unreachable",
            Verdict::Refused(_) => "refused",
            Verdict::Unproven(_) => "unproven",
            Verdict::SomebodyElse(_) => "somebody_else",
            Verdict::Verified => "verified",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Untried => f.write_str("not tried, or not to the end: not needed any more"),
            Verdict::NotWanted => f.write_str("left out: not the --owner or --broker that was asked for"),
            Verdict::NoKey => f.write_str("refused: it announces no key, so nothing would prove who it is"),
            Verdict::OtherKey => {
                f.write_str("refused: it calls itself yours and announces another key than yours for this project")
            }
            Verdict::NewKey => f.write_str("somebody else's, and its key was never accepted"),
            Verdict::KeyChanged => f.write_str("refused: it announces another key than the one that was accepted"),
            Verdict::Unreachable(why) => write!(f, "unreachable: {why}"),
            Verdict::Refused(why) => write!(f, "refused: {why}"),
            Verdict::Unproven(why) => write!(f, "not proven: {why}"),
            Verdict::SomebodyElse(why) => write!(f, "somebody else: {why}"),
            Verdict::Verified => f.write_str("answered, and is who it should be"),
        }
    }
}

/// A candidate and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// The candidate.
    pub candidate: Candidate,
    /// Why it may be connected to, or not.
    pub trust: Trust,
    /// What became of it.
    pub verdict: Verdict,
    /// Whether somebody accepts connections there, where that was tried for a
    /// candidate whose key is not accepted.
    pub alive: Option<bool>,
}

//! Brokers of other people whose key was never seen: who decides about them.

use std::fmt;
use std::sync::Arc;

use kvbroker_protocol::BrokerId;

use super::candidate::Candidate;
use crate::keys::PublicKey;
use crate::project::ProjectName;

/// What is known about a broker whose key was never accepted. All of it is what a catalog lists: a claim of whoever sent it there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewBroker {
    /// Whose it is said to be.
    pub owner: String,
    /// The project.
    pub project: ProjectName,
    /// The key that it would have to prove.
    pub key: PublicKey,
    /// Where it is.
    pub place: String,
    /// The log's uuid.
    pub broker: Option<BrokerId>,
    /// Who says so, in words.
    pub source: String,
}

impl NewBroker {
    /// None: it has no key, or no owner.
    pub(super) fn of(project: &ProjectName, candidate: &Candidate) -> Option<Self> {
        Some(NewBroker {
            owner: candidate.owner.clone()?,
            project: project.clone(),
            key: candidate.key?,
            place: candidate.place.clone(),
            broker: candidate.broker,
            source: candidate.source.to_string(),
        })
    }
}

/// Who decides whether the key of a broker is accepted that is somebody else's and was never used before.
///
/// A key that was accepted is kept, and another one in its place is never a question: it is refused.
#[derive(Clone, Default)]
pub enum NewKeys {
    /// Nobody: it is refused. The library's default.
    #[default]
    Refuse,
    /// It is accepted, whatever it is. Fit for programs that are started for the first time on a network that is trusted.
    Accept,
    /// Whoever is asked; true accepts. Called on the thread that connects, and never after that; the time that it
    /// takes is added to the timeout.
    Ask(Arc<dyn Fn(&NewBroker) -> bool + Send + Sync>),
}

impl fmt::Debug for NewKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NewKeys::Refuse => "Refuse",
            NewKeys::Accept => "Accept",
            NewKeys::Ask(_) => "Ask",
        })
    }
}

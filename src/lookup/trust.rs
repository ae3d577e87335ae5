//! Trust: why a candidate may be connected to, or why not, before anything is asked of it.
//!
//! - What a record says about its owner and key is a claim. It leads somewhere only where the key is the one
//!   expected: computed, accepted before, given by the user, or accepted now.
//! - Who calls himself by our own name must have our own key: that can be computed, so a first
//!   contact makes no sense. Only a line that the user wrote into the list of accepted keys says otherwise.
//! - Another key than the accepted one is never a question, always a refusal.
//! - Without a key nothing is encrypted and nobody proven: only by `--insecure` on that very command.

use kvbroker_protocol::BrokerId;

use super::candidate::{Candidate, Source};
use crate::keys::PublicKey;
use crate::pins::Pins;
use crate::project::ProjectName;

/// Why a candidate may be connected to, or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Its unix socket lies in a directory that is ours alone.
    Directory,
    /// The user gave its address.
    Given,
    /// It has the key that was computed from our own secret.
    Own,
    /// It has the key that was accepted before, for this owner and project.
    Pinned,
    /// The user has accepted its key just now.
    Accepted,
    /// It has no key, and the user said `--insecure`.
    Unprotected,
    /// Somebody else's, and no key of this owner and project was ever accepted.
    New,
    /// Somebody else's, and another key was accepted for this owner and project.
    Changed {
        /// The key that was accepted.
        pinned: PublicKey,
        /// Where it stands in the list of accepted keys.
        line: usize,
    },
    /// It calls itself ours and has not our key.
    OtherKey,
    /// It announces no key, so nothing would prove who it is.
    NoKey,
}

/// How near a candidate is to us; smaller is nearer. Only the nearest that there are count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    Expected,
    Pinned,
    Unprotected,
    OwnName,
    Stranger,
}

impl Rank {
    /// Whether candidates of this rank are connected to.
    pub(super) fn is_usable(self) -> bool {
        self <= Rank::Unprotected
    }
}

/// Who is asking, and whom he trusts.
#[derive(Clone, Debug, Default)]
pub struct Judge {
    /// Our name as an owner.
    pub name: String,
    /// The key that our own broker of the project has, once it is known.
    pub own_key: Option<PublicKey>,
    /// The keys of other people's brokers that were accepted before.
    pub pins: Pins,
    /// Brokers without a key may be used, too.
    pub insecure: bool,
}

/// What makes candidates of no trust the same: anybody can copy a uuid, so it alone does not.
pub(super) type Claim<'a> = (Option<BrokerId>, Option<&'a str>, Option<PublicKey>);

impl Judge {
    /// What is to be thought of a candidate for `project`.
    #[must_use]
    pub fn trust(&self, project: &ProjectName, candidate: &Candidate) -> Trust {
        match (&candidate.source, candidate.key) {
            (Source::Local(_), _) => Trust::Directory,
            (Source::Given, Some(_)) => Trust::Given,
            (_, None) => {
                if self.insecure {
                    Trust::Unprotected
                } else {
                    Trust::NoKey
                }
            }
            (_, Some(key)) if self.own_key == Some(key) => Trust::Own,
            (_, Some(key)) => {
                let owner = candidate.owner.as_deref().unwrap_or_default();
                match self.pins.of(owner, project) {
                    Some(pin) if pin.key == key => Trust::Pinned,
                    _ if owner == self.name => Trust::OtherKey,
                    Some(pin) => Trust::Changed { pinned: pin.key, line: pin.line },
                    None => Trust::New,
                }
            }
        }
    }

    /// How near it is to us.
    pub(super) fn rank(&self, trust: &Trust, candidate: &Candidate) -> Rank {
        let has_our_name = candidate.owner.as_ref().is_some_and(|owner| *owner == self.name);
        match trust {
            Trust::Directory | Trust::Given | Trust::Own => Rank::Expected,
            Trust::Pinned | Trust::Accepted => Rank::Pinned,
            Trust::Unprotected => Rank::Unprotected,
            Trust::OtherKey => Rank::OwnName,
            Trust::NoKey if has_our_name => Rank::OwnName,
            Trust::New | Trust::Changed { .. } | Trust::NoKey => Rank::Stranger,
        }
    }
}

impl Trust {
    /// A stable word for programs.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Trust::Directory => "directory",
            Trust::Given => "given",
            Trust::Own => "own",
            Trust::Pinned => "pinned",
            Trust::Accepted => "accepted",
            Trust::Unprotected => "unprotected",
            Trust::New => "new",
            Trust::Changed { .. } => "changed",
            Trust::OtherKey => "other_key",
            Trust::NoKey => "no_key",
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::candidate::Lead;
    use super::*;

    const OURS: PublicKey = PublicKey::from_bytes([1; 32]);
    const ANNS: PublicKey = PublicKey::from_bytes([2; 32]);
    const THIEFS: PublicKey = PublicKey::from_bytes([3; 32]);

    #[test]
    fn every_claim_has_its_verdict() {
        let project: ProjectName = "lab".parse().unwrap();
        let pins: Pins = [("ann", "lab", ANNS), ("me", "other", ANNS), ("bob", "other", ANNS)].into_iter().collect();
        let judge = |insecure| Judge { name: "me".into(), own_key: Some(OURS), pins: pins.clone(), insecure };
        let of = |source: Source, owner: &str, key| Candidate {
            source,
            owner: Some(owner.into()),
            broker: Some(BrokerId([7; 16])),
            key,
            leads: vec![Lead::Address("127.0.0.1:1".parse().unwrap())],
            place: String::new(),
            heard_s: None,
        };
        let record = |owner, key| of(Source::Catalog("c:1".into()), owner, key);
        let cases = [
            (record("me", Some(OURS)), Trust::Own, Rank::Expected),
            // Whoever copies our public key into a record must prove it anyway.
            (record("eve", Some(OURS)), Trust::Own, Rank::Expected),
            (record("me", Some(THIEFS)), Trust::OtherKey, Rank::OwnName),
            (record("me", None), Trust::NoKey, Rank::OwnName),
            (record("ann", Some(ANNS)), Trust::Pinned, Rank::Pinned),
            (record("ann", Some(THIEFS)), Trust::Changed { pinned: ANNS, line: 1 }, Rank::Stranger),
            (record("ann", None), Trust::NoKey, Rank::Stranger),
            // A pin is for one project, and for one owner.
            (record("bob", Some(ANNS)), Trust::New, Rank::Stranger),
            (record("eve", Some(ANNS)), Trust::New, Rank::Stranger),
            (of(Source::Given, "", Some(ANNS)), Trust::Given, Rank::Expected),
            (of(Source::Given, "", None), Trust::NoKey, Rank::Stranger),
            (of(Source::Local("/r/endpoint.json".into()), "me", None), Trust::Directory, Rank::Expected),
        ];
        for (candidate, trust, rank) in &cases {
            assert_eq!(judge(false).trust(&project, candidate), *trust, "{candidate:?}");
            assert_eq!(judge(false).rank(trust, candidate), *rank, "{candidate:?}");
            // --insecure changes nothing for who has a key.
            if candidate.key.is_some() {
                assert_eq!(judge(true).trust(&project, candidate), *trust, "{candidate:?}");
            }
        }
        assert_eq!(judge(true).trust(&project, &record("ann", None)), Trust::Unprotected);
    }
}

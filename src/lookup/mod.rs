//! From a project's name to a connection to its broker.
//!
//! The order: an address that was given → the endpoint files of this user on this machine →
//! the catalogs. What is found are candidates; a Hello makes one of them the broker.
//!
//! - Nothing that a catalog says is believed: a record leads to a broker only if the broker
//!   proves the key that is expected, and then says the project and uuid of the record.
//! - The key that is expected is computed from the owner's own secret key, part of the
//!   address that the user gave, or what this user once accepted ([`crate::pins`]). Accepting a new one is the user's decision
//!   ([`NewKeys`]), another one in its place is refused.
//! - A way without encryption is taken only if the user said so for this very lookup; nothing in a catalog can.
//! - The own key is loaded only where it is needed (not for unix sockets), and made only when a broker of somebody else is gone to.
//! - Live brokers of different uuids are never chosen between by time ([`choose`]).
//! - Everything that was seen, and what became of it, is data ([`Explanation`]).
//! - Each wait has an end; while a wait lasts, the user is told what for.
//!
//! The rooms: [`address`] is what can be given, [`candidate`] and [`explain`] are the data, [`trust`] judges them,
//! [`choose`] decides, `local` and `catalogs` find, `trials` connect, [`consent`] is the user's word, `error` and `failure` tell
//! failures apart, [`survey`] lists everything for `kvclient list`.

pub mod address;
pub mod candidate;
mod catalogs;
pub mod choose;
pub mod consent;
mod error;
pub mod explain;
mod failure;
mod local;
pub mod survey;
mod trials;
pub mod trust;

use std::fmt;
use std::path::PathBuf;
use std::time::Instant;

use kvbroker_protocol::BrokerId;

pub use address::{Address, AddressError, Target};
pub use candidate::{Candidate, Judged, Lead, Source, Verdict};
pub use choose::Wanted;
pub use consent::{NewBroker, NewKeys};
pub use error::{ChangedKey, ExpectedKey, LookupError, Rival};
pub use explain::{Explanation, Step};
pub use trust::{Judge, Trust};

use crate::catalog::CatalogList;
use crate::client::{Connection, Progress};
use crate::keys::{self, KeyPair, PublicKey};
use crate::paths::{Dirs, PathError};
use crate::pins::{self, PinError, Pins};
use crate::transport::Context;
use choose::{Choice, Choosing};
use trials::{Trials, Tried};

/// What is looked for, and where.
#[derive(Debug)]
pub struct Lookup {
    target: Target,
    wanted: Wanted,
    dirs: Dirs,
    catalogs: CatalogList,
    own_name: String,
    options: TrustOptions,
    own: Option<OwnKeys>,
}

/// What the user says about keys and encryption.
#[derive(Clone, Debug, Default)]
pub struct TrustOptions {
    /// The secret key to be, instead of the configuration directory's own.
    pub key_file: Option<PathBuf>,
    /// Who decides about new brokers of other people.
    pub new_keys: NewKeys,
    /// Brokers without encryption may be used.
    pub insecure: bool,
}

/// The owner's key pair and what follows from it for this project.
struct OwnKeys {
    pair: KeyPair,
    project: PublicKey,
}

impl fmt::Debug for OwnKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnKeys").field("project", &self.project).finish_non_exhaustive()
    }
}

/// What became of a lookup.
#[derive(Debug)]
pub struct Looked {
    /// What was seen.
    pub explanation: Explanation,
    /// The connection to the one broker, after its Hello.
    pub outcome: Result<Connection, LookupError>,
}

/// The state of one run.
struct Run<'a, 'p> {
    context: &'a Context,
    until: Option<Instant>,
    progress: &'a mut Progress<'p>,
    explanation: Explanation,
    choosing: Choosing,
    connections: Vec<(usize, Connection)>,
    left_by: Option<u32>,
    /// A directory of ours that was not looked into.
    closed_out: Option<PathError>,
    /// Why no accepted key is known.
    no_pins: Option<PinError>,
}

impl Lookup {
    /// A lookup of `target` with the user's directories and catalogs; `own_name` is the user's name as an owner.
    #[must_use]
    pub fn new(target: Target, wanted: Wanted, dirs: Dirs, catalogs: CatalogList, own_name: String) -> Self {
        Lookup { target, wanted, dirs, catalogs, own_name, options: TrustOptions::default(), own: None }
    }

    /// The same with what the user says about keys and encryption.
    #[must_use]
    pub fn trusting(mut self, options: TrustOptions) -> Self {
        self.options = options;
        self
    }

    /// What is looked for.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// From now on only the broker with this uuid is found.
    pub fn want_broker(&mut self, broker: BrokerId) {
        self.wanted.broker = Some(broker);
    }

    /// From now on nobody is asked about new keys, and none is accepted: what was found has its key.
    pub(crate) fn ask_nobody(&mut self) {
        self.options.new_keys = NewKeys::Refuse;
    }

    /// The user's own keys, if they were needed so far: on the network.
    pub(crate) fn own_pair(&self) -> Option<&KeyPair> {
        self.own.as_ref().map(|own| &own.pair)
    }

    /// Looks, and connects to what it finds, until `until` at the latest.
    pub(crate) fn find(&mut self, context: &Context, until: Option<Instant>, progress: &mut Progress<'_>) -> Looked {
        let judge = Judge { name: self.own_name.clone(), insecure: self.options.insecure, ..Judge::default() };
        let mut run = Run {
            context,
            until,
            progress,
            explanation: Explanation::new(self.target.project.clone()),
            choosing: Choosing::new(self.target.project.clone(), self.wanted.clone(), judge),
            connections: Vec::new(),
            left_by: None,
            closed_out: None,
            no_pins: None,
        };
        let outcome = self.look(&mut run);
        run.explanation.candidates = run.choosing.judged().to_vec();
        run.explanation.chosen = match (&outcome, run.choosing.choice()) {
            (Ok(_), Choice::Use(index)) => Some(index),
            _ => None,
        };
        Looked { explanation: run.explanation, outcome }
    }

    fn look(&mut self, run: &mut Run<'_, '_>) -> Result<Connection, LookupError> {
        if let Some(address) = self.target.address.clone() {
            self.look_at(&address, run)?;
            return match self.try_all(run)? {
                Some(connection) => Ok(connection),
                None => Err(self.failure(run, &[])),
            };
        }
        let local = local::look(&self.dirs, &self.target.project);
        run.left_by = local.left_by;
        run.closed_out = local.loose;
        run.explanation.steps.extend(local.steps);
        local.candidates.into_iter().for_each(|candidate| run.choosing.add(candidate));
        if let Some(connection) = self.try_all(run)? {
            return Ok(connection);
        }
        if self.catalogs.is_empty() {
            run.explanation.step("catalogs", "none is asked");
            return Err(self.failure(run, &[]));
        }
        if matches!(run.choosing.choice(), Choice::Ambiguous(_)) {
            return Err(self.failure(run, &[]));
        }
        self.load_own_keys(run)?;
        self.load_pins(run);
        let mut asked = catalogs::Asked::new(&self.catalogs, run.until);
        loop {
            let more = asked.gather(&self.target.project, &self.wanted, run.choosing.judge(), run.progress);
            for candidate in asked.new_candidates(&self.target.project, run.choosing.judge()) {
                run.choosing.add(candidate);
            }
            let found = match self.try_all(run) {
                Ok(None) if !more => self.ask_for_consent(run),
                found => found,
            };
            if !matches!(found, Ok(None)) || !more || matches!(run.choosing.choice(), Choice::Ambiguous(_)) {
                run.explanation.steps.extend(asked.steps(&self.target.project));
                return match found? {
                    Some(connection) => Ok(connection),
                    None => Err(self.failure(run, asked.answers())),
                };
            }
        }
    }

    /// Adds the candidate of an address that was given.
    fn look_at(&mut self, address: &Address, run: &mut Run<'_, '_>) -> Result<(), LookupError> {
        let place = address.to_string();
        let mut candidate = Candidate {
            source: Source::Given,
            owner: None,
            broker: None,
            key: None,
            leads: Vec::new(),
            place: place.clone(),
            heard_s: None,
        };
        match address {
            Address::Socket(path) => {
                let publisher = local::check_directory_of(path)?.join(crate::paths::PUB_SOCKET);
                candidate.source = Source::Local(path.clone());
                candidate.leads = vec![Lead::Sockets { router: path.clone(), publisher }];
            }
            Address::Network { host, port, key, .. } => {
                candidate.key = match key {
                    Some(key) => Some(*key),
                    None if self.options.insecure => None,
                    None => Some(self.key_for_address(run)?),
                };
                run.progress.doing(Instant::now(), format!("looking up the host {host}"));
                // Here and not in the trial: that a name which the user gave can't be found is an error of its own.
                let addresses = catalogs::resolve(host, *port, run.until)
                    .map_err(|why| LookupError::NoSuchHost { host: host.clone(), why })?;
                candidate.leads = addresses.into_iter().map(Lead::Address).collect();
            }
        }
        run.explanation.step("given address", place);
        run.choosing.add(candidate);
        Ok(())
    }

    /// The key that is expected at an address without one: the accepted key of the owner who was named, else our own.
    fn key_for_address(&mut self, run: &mut Run<'_, '_>) -> Result<PublicKey, LookupError> {
        self.load_own_keys(run)?;
        self.load_pins(run);
        let owner = self.wanted.owner.as_ref().filter(|owner| **owner != self.own_name);
        match (owner, &self.own) {
            (Some(owner), _) => match (run.no_pins.take(), run.choosing.judge().pins.of(owner, &self.target.project)) {
                (Some(error), _) => Err(error.into()),
                (None, Some(pin)) => Ok(pin.key),
                (None, None) => {
                    Err(LookupError::AddressWithoutKey { project: self.target.project.clone(), owner: owner.clone() })
                }
            },
            (None, Some(own)) => Ok(own.project),
            (None, None) => Err(LookupError::NoOwnKey { path: self.own_key_file() }),
        }
    }

    fn load_own_keys(&mut self, run: &mut Run<'_, '_>) -> Result<(), LookupError> {
        if self.own.is_none() {
            let pair = match &self.options.key_file {
                Some(file) => Some(keys::load_key_file(file)?),
                None => keys::load_owner_key(self.dirs.config_dir())?,
            };
            self.own = pair.map(|pair| OwnKeys::new(pair, &self.target)).transpose()?;
        }
        match &self.own {
            Some(own) => run.choosing.judge_mut().own_key = Some(own.project),
            None => run.explanation.step("own key", format!("there is none yet: no {}", self.own_key_file().display())),
        }
        Ok(())
    }

    fn load_pins(&self, run: &mut Run<'_, '_>) {
        match Pins::load(self.dirs.config_dir()) {
            Ok(pins) => run.choosing.judge_mut().pins = pins,
            Err(error) => {
                run.explanation.step("accepted keys", error.to_string());
                run.no_pins = Some(error);
            }
        }
    }

    fn own_key_file(&self) -> PathBuf {
        self.options.key_file.clone().unwrap_or_else(|| self.dirs.config_dir().join(keys::OWNER_KEY_FILE))
    }

    /// Makes all trials that the candidates so far need. The connection, if the choice fell on one.
    fn try_all(&mut self, run: &mut Run<'_, '_>) -> Result<Option<Connection>, LookupError> {
        loop {
            let trials = run.choosing.next_trials();
            if trials.is_empty() {
                break;
            }
            self.be_somebody(&trials, run)?;
            let work = Trials {
                context: run.context,
                project: &self.target.project,
                broker: self.wanted.broker,
                own: self.own.as_ref().map(|own| &own.pair),
                until: run.until,
            };
            for tried in work.run(&trials, run.choosing.judged(), run.progress)? {
                match tried {
                    Tried::Reach(index, alive) => run.choosing.reached(index, alive),
                    Tried::Hello(index, verdict, connection) => {
                        run.choosing.tried(index, verdict);
                        run.connections.extend(connection.map(|connection| (index, *connection)));
                    }
                }
            }
        }
        match run.choosing.choice() {
            Choice::Use(index) => {
                let at = run.connections.iter().position(|(its, _)| *its == index);
                Ok(at.map(|at| run.connections.swap_remove(at).1))
            }
            _ => Ok(None),
        }
    }

    /// Whoever goes to somebody else's broker needs a key to be let in by: where there is none it is made.
    fn be_somebody(&mut self, trials: &[choose::Trial], run: &Run<'_, '_>) -> Result<(), LookupError> {
        let needs_key = |trial: &choose::Trial| match trial {
            choose::Trial::Hello(index) => run.candidate(*index).is_some_and(Candidate::needs_own_key),
            choose::Trial::Reach(_) => false,
        };
        if self.own.is_none() && trials.iter().any(needs_key) {
            let pair = match &self.options.key_file {
                Some(file) => keys::load_key_file(file)?,
                None => keys::load_or_create_owner_key(self.dirs.config_dir())?,
            };
            self.own = Some(OwnKeys::new(pair, &self.target)?);
        }
        Ok(())
    }

    /// Has the user decide about the one new broker that is left, if that is how the choice stands; then tries it.
    fn ask_for_consent(&mut self, run: &mut Run<'_, '_>) -> Result<Option<Connection>, LookupError> {
        let Choice::Consent(index) = run.choosing.choice() else { return Ok(None) };
        let Some(judged) = run.choosing.judged().get(index).cloned() else { return Ok(None) };
        let Some(new) = NewBroker::of(&self.target.project, &judged.candidate) else { return Ok(None) };
        if let Some(error) = run.no_pins.take() {
            // It may be known, and have another key.
            return Err(error.into());
        }
        let is_accepted = match &self.options.new_keys {
            NewKeys::Refuse => return Err(self.new_key(&judged, false)),
            NewKeys::Accept => true,
            NewKeys::Ask(ask) => {
                let asked_at = Instant::now();
                let is_accepted = ask(&new);
                // People need time to compare keys; the broker needs its own.
                run.until = run.until.and_then(|until| until.checked_add(asked_at.elapsed()));
                is_accepted
            }
        };
        if !is_accepted {
            return Err(self.new_key(&judged, true));
        }
        run.choosing.accept(index);
        let found = self.try_all(run)?;
        // A broker that doesn't let us in yet is the one that its owner will let us into: the user has decided, and is not asked again.
        let answered = |judged: &Judged| {
            judged.trust == Trust::Accepted && matches!(judged.verdict, Verdict::Verified | Verdict::Refused(_))
        };
        if run.choosing.judged().iter().any(answered) {
            pins::remember(self.dirs.config_dir(), &new.owner, &new.project, &new.key)?;
            tracing::info!(target: "kvbroker::lookup", owner = new.owner, key = %new.key, "accepted from now on");
        }
        Ok(found)
    }
}

impl OwnKeys {
    fn new(pair: KeyPair, target: &Target) -> Result<Self, LookupError> {
        let project = *pair.project(&target.project)?.public();
        Ok(OwnKeys { pair, project })
    }
}

impl Run<'_, '_> {
    fn candidate(&self, index: usize) -> Option<&Candidate> {
        self.choosing.judged().get(index).map(|judged| &judged.candidate)
    }
}

#[cfg(test)]
mod tests;

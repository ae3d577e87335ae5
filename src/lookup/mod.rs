//! From a project's name to a connection to its broker.
//!
//! The order: an address that was given → the endpoint files of this user on this machine →
//! the catalogs. What is found are candidates; a Hello makes one of them the broker.
//!
//! - Nothing that a catalog says is believed: a record leads to a broker only if the broker
//!   proves the key that is expected, and then says the project and uuid of the record.
//! - The key that is expected is computed from the owner's own secret key, or part of the
//!   address that the user gave. It is loaded only where it is needed (not for unix sockets), and never made here:
//!   without a key the brokers of catalogs are other people's.
//! - Live brokers of different uuids are never chosen between by time ([`choose`]).
//! - Everything that was seen, and what became of it, is data ([`Explanation`]).
//! - Each wait has an end; while a wait lasts, the user is told what for.
//!
//! The rooms: [`address`] is what can be given, [`candidate`] and [`explain`] are the data,
//! [`choose`] decides, `local` and `catalogs` find, `error` tells failures apart, [`survey`]
//! lists everything for `kvclient list`.

pub mod address;
pub mod candidate;
mod catalogs;
pub mod choose;
mod error;
pub mod explain;
mod local;
pub mod survey;

use std::fmt;
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use kvbroker_protocol::BrokerId;

pub use address::{Address, AddressError, Target};
pub use candidate::{Candidate, Judged, Source, Verdict};
pub use choose::Wanted;
pub use error::{LookupError, Rival};
pub use explain::{Explanation, Step};

use crate::catalog::CatalogList;
use crate::client::{ConnectError, Connection, Expected, Progress, Route};
use crate::keys::{self, KeyPair, PublicKey};
use crate::paths::{Dirs, PathError};
use crate::transport::Context;
use choose::{Choice, Choosing, Own, Trial};

/// How long one candidate on the network may take for its Hello.
const NETWORK_TRIAL: Duration = Duration::from_secs(3);

/// How long a broker on this machine may take: it is there, it may only be busy.
const LOCAL_TRIAL: Duration = Duration::from_secs(5);

/// How long it may take to see whether a port accepts connections.
const REACH_TRIAL: Duration = Duration::from_secs(1);

/// What is looked for, and where.
#[derive(Debug)]
pub struct Lookup {
    target: Target,
    wanted: Wanted,
    dirs: Dirs,
    catalogs: CatalogList,
    own_name: String,
    own: Option<OwnKeys>,
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
}

impl Lookup {
    /// A lookup of `target` with the user's directories and catalogs; `own_name` is the user's name as an owner.
    #[must_use]
    pub fn new(target: Target, wanted: Wanted, dirs: Dirs, catalogs: CatalogList, own_name: String) -> Self {
        Lookup { target, wanted, dirs, catalogs, own_name, own: None }
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

    /// The user's own keys, if they were needed so far: on the network.
    pub(crate) fn own_pair(&self) -> Option<&KeyPair> {
        self.own.as_ref().map(|own| &own.pair)
    }

    /// Looks, and connects to what it finds, until `until` at the latest.
    pub(crate) fn find(&mut self, context: &Context, until: Option<Instant>, progress: &mut Progress<'_>) -> Looked {
        let own = Own { name: self.own_name.clone(), key: None };
        let mut run = Run {
            context,
            until,
            progress,
            explanation: Explanation::new(self.target.project.clone()),
            choosing: Choosing::new(self.wanted.clone(), own),
            connections: Vec::new(),
            left_by: None,
            closed_out: None,
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
        let mut asked = catalogs::Asked::new(&self.catalogs, run.until);
        loop {
            let more = asked.gather(&self.target.project, run.choosing_expects(), run.progress);
            for candidate in asked.new_candidates(&self.target.project, run.choosing_expects()) {
                run.choosing.add(candidate);
            }
            let found = self.try_all(run);
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
            routes: Vec::new(),
            place: place.clone(),
            heard_s: None,
        };
        match address {
            Address::Socket(path) => {
                let publisher = local::check_directory_of(path)?.join(crate::paths::PUB_SOCKET);
                candidate.source = Source::Local(path.clone());
                candidate.routes = vec![Route::Local { router: path.clone(), publisher }];
            }
            Address::Network { host, port, key, .. } => {
                self.load_own_keys(run)?;
                if self.own.is_none() {
                    return Err(LookupError::NoOwnKey { path: self.own_key_file() });
                }
                let key = key.or(run.choosing_expects()).unwrap_or(PublicKey::from_bytes([0; 32]));
                candidate.key = Some(key);
                run.progress.doing(Instant::now(), format!("looking up the host {host}"));
                let addresses = catalogs::resolve(host, *port, run.until)
                    .map_err(|why| LookupError::NoSuchHost { host: host.clone(), why })?;
                candidate.routes = addresses.into_iter().map(|address| Route::Network { address, key }).collect();
            }
        }
        run.explanation.step("given address", place);
        run.choosing.add(candidate);
        Ok(())
    }

    fn load_own_keys(&mut self, run: &mut Run<'_, '_>) -> Result<(), LookupError> {
        if self.own.is_none()
            && let Some(pair) = keys::load_owner_key(self.dirs.config_dir())?
        {
            let project = *pair.project(&self.target.project)?.public();
            self.own = Some(OwnKeys { pair, project });
        }
        match &self.own {
            Some(own) => run.choosing.expect_key(own.project),
            None => run.explanation.step("own key", format!("there is none yet: no {}", self.own_key_file().display())),
        }
        Ok(())
    }

    fn own_key_file(&self) -> PathBuf {
        self.dirs.config_dir().join(keys::OWNER_KEY_FILE)
    }

    /// Makes all trials that the candidates so far need. The connection, if the choice fell on one.
    fn try_all(&self, run: &mut Run<'_, '_>) -> Result<Option<Connection>, LookupError> {
        while let Some(trial) = run.choosing.next_trial() {
            match trial {
                Trial::Hello(index) => self.say_hello(index, run)?,
                Trial::Reach(index) => {
                    let alive = run.candidate(index).is_some_and(|candidate| is_reachable(candidate, run.until));
                    run.choosing.reached(index, alive);
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

    fn say_hello(&self, index: usize, run: &mut Run<'_, '_>) -> Result<(), LookupError> {
        let Some(candidate) = run.candidate(index) else { return Ok(()) };
        let expected = Expected { project: self.target.project.clone(), broker: candidate.broker.or(self.wanted.broker) };
        let mut verdict = Verdict::Unreachable("it names no address".into());
        for route in candidate.routes.clone() {
            let trial = if matches!(route, Route::Local { .. }) { LOCAL_TRIAL } else { NETWORK_TRIAL };
            let until = Instant::now() + trial;
            let until = run.until.map_or(until, |all| all.min(until));
            let own = self.own.as_ref().map(|own| &own.pair);
            verdict = match Connection::open(run.context, &route, own, &expected, Some(until), run.progress) {
                Ok(connection) => {
                    run.connections.push((index, connection));
                    Verdict::Verified
                }
                Err(ConnectError::Transport(error)) => return Err(error.into()),
                Err(ConnectError::Unreachable { why, .. } | ConnectError::Silent { why, .. }) => Verdict::Unreachable(why),
                Err(ConnectError::Refused { why, .. }) => Verdict::Refused(why),
                Err(ConnectError::SomebodyElse { why, .. }) => Verdict::SomebodyElse(why),
            };
            if verdict == Verdict::Verified {
                break;
            }
        }
        tracing::debug!(target: "kvbroker::lookup", candidate = index + 1, %verdict, "tried");
        run.choosing.tried(index, verdict);
        Ok(())
    }

    /// Why nothing was found.
    fn failure(&self, run: &mut Run<'_, '_>, answers: &[crate::catalog::CatalogAnswer]) -> LookupError {
        let project = self.target.project.clone();
        let judged = run.choosing.judged();
        let of = |indexes: &[usize]| -> Vec<&Judged> { indexes.iter().filter_map(|index| judged.get(*index)).collect() };
        match run.choosing.choice() {
            Choice::Ambiguous(indexes) => {
                let brokers = of(&indexes);
                // Naming one of them would only be refused next.
                let refused = brokers.iter().all(|judged| matches!(judged.verdict, Verdict::OtherKey | Verdict::NoKey));
                LookupError::Ambiguous { project, brokers: brokers.into_iter().map(rival).collect(), refused }
            }
            Choice::Refused(indexes) => {
                let first = of(&indexes).first().copied();
                let why = match first.map(|judged| &judged.verdict) {
                    Some(Verdict::Refused(why)) => why.clone(),
                    Some(Verdict::NoKey) => "it announces no key, so nothing would prove who it is".into(),
                    Some(Verdict::OtherKey) => {
                        let owner = first.and_then(|judged| judged.candidate.owner.as_deref()).unwrap_or("its owner");
                        match self.own {
                            Some(_) => format!("it is {owner}'s and has another key than yours for this project"),
                            None => format!("it is {owner}'s, and you have no key yet ({})", self.own_key_file().display()),
                        }
                    }
                    _ => "no key was accepted".into(),
                };
                let place = first.map_or(String::new(), |judged| judged.candidate.place.clone());
                LookupError::Refused { project, place, why, own_key: self.own.as_ref().map(|own| *own.pair.public()) }
            }
            Choice::Unreachable(indexes) => {
                let said = |judged: &Judged| match &judged.verdict {
                    Verdict::Unreachable(why) | Verdict::SomebodyElse(why) => format!("{} ({why})", judged.candidate.place),
                    _ => format!("{} (nobody listens there)", judged.candidate.place),
                };
                LookupError::Unreachable { project, places: of(&indexes).into_iter().map(said).collect(), left_by: run.left_by }
            }
            Choice::Use(_) | Choice::Nothing if !judged.is_empty() => {
                LookupError::NotWanted { project, found: judged.iter().map(rival).collect() }
            }
            Choice::Use(_) | Choice::Nothing => match run.closed_out.take() {
                Some(loose) => LookupError::Path(loose),
                None => self.nothing(run, answers),
            },
        }
    }

    fn nothing(&self, run: &Run<'_, '_>, answers: &[crate::catalog::CatalogAnswer]) -> LookupError {
        let project = self.target.project.clone();
        let running = local::running_projects(&self.dirs);
        let left_by = run.left_by;
        if self.catalogs.is_empty() {
            return LookupError::NotHere { project, running, left_by };
        }
        let mut answered = Vec::new();
        let mut silent = Vec::new();
        for answer in answers {
            match &answer.outcome {
                Ok(listing) => match &listing.cut_short {
                    None => answered.push(answer.catalog.to_string()),
                    Some(why) => answered.push(format!("{} (incompletely: {why})", answer.catalog)),
                },
                Err(error) => silent.push(error.to_string()),
            }
        }
        if answered.is_empty() {
            LookupError::CatalogsSilent { project, silent, running, left_by }
        } else {
            LookupError::NotListed { project, answered, silent, running, left_by }
        }
    }
}

impl Run<'_, '_> {
    fn candidate(&self, index: usize) -> Option<&Candidate> {
        self.choosing.judged().get(index).map(|judged| &judged.candidate)
    }

    fn choosing_expects(&self) -> Option<PublicKey> {
        self.choosing.expected_key()
    }
}

fn rival(judged: &Judged) -> Rival {
    let candidate = &judged.candidate;
    Rival { owner: candidate.owner.clone(), broker: candidate.broker, place: candidate.place.clone() }
}

/// Whether somebody accepts connections at one of its addresses; nothing is said to them.
fn is_reachable(candidate: &Candidate, until: Option<Instant>) -> bool {
    candidate.routes.iter().any(|route| {
        let Route::Network { address, .. } = route else { return false };
        let left = until.map_or(REACH_TRIAL, |until| until.saturating_duration_since(Instant::now()).min(REACH_TRIAL));
        !left.is_zero() && TcpStream::connect_timeout(address, left).is_ok()
    })
}

#[cfg(test)]
mod tests;

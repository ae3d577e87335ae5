//! Trials: what is asked of candidates over the network, several at a time.
//!
//! - One candidate is tried on the calling thread; several at once, each on a thread of its own, while the caller tells the
//!   user what is waited for. When one record of a broker has led to it, its other records are not waited for.
//! - The addresses of one candidate are tried in their order. While more of them follow, each has only
//!   [`ADDRESS_TRIAL`] to finish its handshake: one that drops packets costs that, not the lookup's time.
//! - The verdict of a candidate is that of the address that came nearest to the broker.
//! - Nothing is connected to without a key but what [`Trust::Unprotected`] allows.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use kvbroker_protocol::BrokerId;

use super::candidate::{Candidate, Judged, Lead, Verdict};
use super::catalogs;
use super::choose::Trial;
use super::trust::Trust;
use crate::client::{ConnectError, Connection, Expected, Patience, Progress, Route};
use crate::keys::KeyPair;
use crate::project::ProjectName;
use crate::transport::{Context, TransportError};

/// How long one address on the network may take for its Hello.
const NETWORK_TRIAL: Duration = Duration::from_secs(3);

/// How long an address may take to finish the handshake while others follow.
const ADDRESS_TRIAL: Duration = Duration::from_secs(1);

/// How long a broker on this machine may take: it is there, it may only be busy.
const LOCAL_TRIAL: Duration = Duration::from_secs(5);

/// How long it may take to see whether a port accepts connections, and altogether for all addresses of a candidate.
const REACH_TRIAL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(2));

/// Most addresses of one candidate; names may have several.
const ROUTES_MAX: usize = 16;

/// Longest wait between two looks at whether there is something to tell the user.
const LOOK: Duration = Duration::from_millis(100);

/// What every trial of a lookup needs.
pub(super) struct Trials<'a> {
    pub(super) context: &'a Context,
    pub(super) project: &'a ProjectName,
    /// The uuid that the user named.
    pub(super) broker: Option<BrokerId>,
    pub(super) own: Option<&'a KeyPair>,
    pub(super) until: Option<Instant>,
}

/// What came of a trial.
pub(super) enum Tried {
    Hello(usize, Verdict, Option<Box<Connection>>),
    Reach(usize, bool),
}

impl Trials<'_> {
    /// Makes all of these trials.
    ///
    /// # Errors
    /// libzmq failed.
    pub(super) fn run(
        &self,
        trials: &[Trial],
        judged: &[Judged],
        progress: &mut Progress<'_>,
    ) -> Result<Vec<Tried>, TransportError> {
        let of = |trial: &Trial| {
            let (Trial::Hello(index) | Trial::Reach(index)) = *trial;
            judged.get(index).map(|judged| (*trial, judged))
        };
        let trials: Vec<(Trial, &Judged)> = trials.iter().filter_map(of).collect();
        match trials.as_slice() {
            [(trial, judged)] => Ok(vec![self.one(*trial, judged, None, progress)?]),
            _ => self.several(&trials, progress),
        }
    }

    fn one(
        &self,
        trial: Trial,
        judged: &Judged,
        given_up: Option<&AtomicBool>,
        progress: &mut Progress<'_>,
    ) -> Result<Tried, TransportError> {
        Ok(match trial {
            Trial::Hello(index) => {
                let (verdict, connection) = self.hello(judged, given_up, progress)?;
                tracing::debug!(target: "kvbroker::lookup", candidate = index + 1, %verdict, "tried");
                Tried::Hello(index, verdict, connection.map(Box::new))
            }
            Trial::Reach(index) => Tried::Reach(index, self.is_reachable(&judged.candidate)),
        })
    }

    fn several(&self, trials: &[(Trial, &Judged)], progress: &mut Progress<'_>) -> Result<Vec<Tried>, TransportError> {
        // For each broker, whether it has answered: then nobody waits for its other records.
        let mut answered: HashMap<Option<BrokerId>, AtomicBool> = HashMap::new();
        for (_, judged) in trials {
            answered.entry(judged.candidate.broker).or_default();
        }
        std::thread::scope(|scope| {
            let (sender, receiver) = channel();
            let mut done = Vec::with_capacity(trials.len());
            for (trial, judged) in trials {
                let (sender, trial) = (sender.clone(), *trial);
                let given_up = judged.candidate.broker.and_then(|broker| answered.get(&Some(broker)));
                let work = move || {
                    let mut silent = Progress::new(None, Instant::now());
                    let tried = self.one(trial, judged, given_up, &mut silent);
                    if let (Ok(Tried::Hello(_, Verdict::Verified, _)), Some(given_up)) = (&tried, given_up) {
                        given_up.store(true, Ordering::Relaxed);
                    }
                    // The receiver is there for as long as this scope.
                    let _ = sender.send(tried);
                };
                if let Err(error) = std::thread::Builder::new().name("kv-trial".into()).spawn_scoped(scope, work) {
                    let why = format!("the system gives no thread to try it: {error}");
                    done.push(Ok(match trial {
                        Trial::Hello(index) => Tried::Hello(index, Verdict::Unreachable(why), None),
                        Trial::Reach(index) => Tried::Reach(index, false),
                    }));
                }
            }
            drop(sender);
            progress.doing(Instant::now(), format!("trying {} brokers of {} at once", trials.len(), self.project));
            while done.len() < trials.len() {
                match receiver.recv_timeout(LOOK) {
                    Ok(tried) => done.push(tried),
                    Err(RecvTimeoutError::Timeout) => progress.tick(Instant::now()),
                    Err(RecvTimeoutError::Disconnected) => break,
                }
            }
            done.into_iter().collect()
        })
    }

    fn hello(
        &self,
        judged: &Judged,
        given_up: Option<&AtomicBool>,
        progress: &mut Progress<'_>,
    ) -> Result<(Verdict, Option<Connection>), TransportError> {
        let candidate = &judged.candidate;
        let owner = matches!(judged.trust, Trust::Pinned | Trust::Accepted).then(|| candidate.owner.clone()).flatten();
        let expected = Expected { project: self.project.clone(), broker: candidate.broker.or(self.broker), owner };
        let mut nearest = None;
        let nothing = || Verdict::Unreachable("it names no address that can be tried".into());
        let mut tried = 0;
        let mut leads = candidate.leads.iter().peekable();
        while let Some(lead) = leads.next() {
            let mut ways = match self.ways(lead, progress) {
                Ok(ways) => ways.into_iter().peekable(),
                Err(why) => {
                    nearest = Some(nearer(nearest, Verdict::Unreachable(why)));
                    continue;
                }
            };
            while let Some(way) = ways.next() {
                let Some(route) = route(way, judged) else { return Ok((Verdict::NoKey, None)) };
                if tried == ROUTES_MAX {
                    return Ok((nearest.unwrap_or_else(nothing), None));
                }
                tried += 1;
                let more_follow = ways.peek().is_some() || leads.peek().is_some();
                let patience = Patience { given_up, ..self.patience(&route, more_follow) };
                let verdict = match Connection::open(self.context, &route, self.own, &expected, patience, progress) {
                    Ok(connection) => return Ok((Verdict::Verified, Some(connection))),
                    Err(ConnectError::Transport(error)) => return Err(error),
                    Err(ConnectError::Unreachable { why, .. } | ConnectError::Silent { why, .. }) => Verdict::Unreachable(why),
                    Err(ConnectError::Refused { why, .. }) => Verdict::Refused(why),
                    Err(ConnectError::Unproven { why, .. }) => Verdict::Unproven(why),
                    Err(ConnectError::SomebodyElse { why, .. }) => Verdict::SomebodyElse(why),
                };
                if given_up.is_some_and(|given_up| given_up.load(Ordering::Relaxed)) {
                    return Ok((Verdict::Untried, None));
                }
                nearest = Some(nearer(nearest, verdict));
            }
        }
        Ok((nearest.unwrap_or_else(nothing), None))
    }

    fn patience(&self, route: &Route, more_follow: bool) -> Patience<'static> {
        let trial = if matches!(route, Route::Local { .. }) { LOCAL_TRIAL } else { NETWORK_TRIAL };
        let now = Instant::now();
        let until = self.until.map_or(now + trial, |all| all.min(now + trial));
        Patience { handshake: more_follow.then_some(now + ADDRESS_TRIAL), until: Some(until), given_up: None }
    }

    fn ways(&self, lead: &Lead, progress: &mut Progress<'_>) -> Result<Vec<Way>, String> {
        Ok(match lead {
            Lead::Sockets { router, publisher } => vec![Way::Sockets(router.clone(), publisher.clone())],
            Lead::Address(address) => vec![Way::Address(*address)],
            Lead::Host(host, port) => {
                progress.doing(Instant::now(), format!("looking up the host {host}"));
                let addresses = catalogs::resolve(host, *port, self.until).map_err(|why| format!("the host {host}: {why}"))?;
                addresses.into_iter().map(Way::Address).collect()
            }
        })
    }

    /// Whether somebody accepts connections at one of its addresses; nothing is said to them.
    fn is_reachable(&self, candidate: &Candidate) -> bool {
        let (each, all) = REACH_TRIAL;
        let ends = Instant::now() + all;
        let ends = self.until.map_or(ends, |until| until.min(ends));
        candidate.leads.iter().any(|lead| match lead {
            Lead::Address(address) => {
                let left = ends.saturating_duration_since(Instant::now()).min(each);
                !left.is_zero() && TcpStream::connect_timeout(address, left).is_ok()
            }
            // A stranger's names are not looked up, so nobody can say that it is not there.
            Lead::Host(..) => true,
            Lead::Sockets { .. } => false,
        })
    }
}

/// A lead whose names have been looked up.
enum Way {
    Sockets(PathBuf, PathBuf),
    Address(SocketAddr),
}

/// The route that a candidate's key and trust make of an address. None: nothing would protect it.
fn route(way: Way, judged: &Judged) -> Option<Route> {
    match (way, judged.candidate.key, &judged.trust) {
        (Way::Sockets(router, publisher), _, _) => Some(Route::Local { router, publisher }),
        (Way::Address(address), Some(key), _) => Some(Route::Network { address, key }),
        (Way::Address(address), None, Trust::Unprotected) => Some(Route::Unprotected { address }),
        (Way::Address(_), None, _) => None,
    }
}

/// Of two verdicts that of the address nearer to the broker; of equals the first.
fn nearer(have: Option<Verdict>, new: Verdict) -> Verdict {
    let nearness = |verdict: &Verdict| match verdict {
        Verdict::Refused(_) => 3,
        Verdict::SomebodyElse(_) => 2,
        Verdict::Unproven(_) => 1,
        _ => 0,
    };
    have.filter(|have| nearness(have) >= nearness(&new)).unwrap_or(new)
}

//! Candidates from catalogs: asked all at once, taken in as they answer.
//!
//! - As soon as one catalog lists a broker that nothing can be nearer than, the others get only
//!   [`GRACE`] more: a silent catalog doesn't slow down those who are found by another.
//! - If that broker turns out not to be there, the others are waited for after all.
//! - However many records a catalog lists, at most [`CANDIDATES_MAX`] become candidates: the nearest, and of these the newest.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use kvbroker_protocol::BrokerId;

use super::candidate::{Candidate, Lead, Source};
use super::choose::Wanted;
use super::explain::Step;
use super::trust::{Judge, Trust};
use crate::catalog::{Answers, CatalogAnswer, CatalogList, SeenRecord, ask, merge};
use crate::client::Progress;
use crate::keys::PublicKey;
use crate::project::ProjectName;

/// How long one catalog may take.
pub(super) const CATALOG_WAIT: Duration = Duration::from_secs(5);

/// How long the others may take when one has listed what is looked for.
const GRACE: Duration = Duration::from_millis(300);

/// How long the resolver may take for one host.
const RESOLVE_WAIT: Duration = Duration::from_secs(3);

/// Most addresses of one host that are tried.
const ADDRESSES_MAX: usize = 8;

/// Most records of one project that are looked at more closely.
pub(super) const CANDIDATES_MAX: usize = 256;

/// The catalogs of one lookup, and what they said so far.
pub(super) struct Asked {
    waiting: Answers,
    answers: Vec<CatalogAnswer>,
    /// Claims that became candidates already.
    taken: HashSet<Taken>,
    /// How many records were left out because there were too many.
    left_out: usize,
    graced: bool,
}

/// What makes two records the same candidate: a refreshed record is no new one.
type Taken = (crate::catalog::CatalogRecord, IpAddr);

impl Asked {
    pub(super) fn new(catalogs: &CatalogList, until: Option<Instant>) -> Self {
        let wait = until.map_or(CATALOG_WAIT, |until| until.saturating_duration_since(Instant::now()).min(CATALOG_WAIT));
        Asked { waiting: ask(catalogs, wait), answers: Vec::new(), taken: HashSet::new(), left_out: 0, graced: false }
    }

    /// Waits for answers: for all, or the first time for enough. True: some are still to come.
    pub(super) fn gather(&mut self, project: &ProjectName, wanted: &Wanted, judge: &Judge, progress: &mut Progress<'_>) -> bool {
        let mut grace_ends: Option<Instant> = None;
        while !self.waiting.is_finished() {
            let now = Instant::now();
            progress.doing(now, format!("looking for {project}: asking {}", self.asked_text()));
            progress.tick(now);
            if grace_ends.is_some_and(|ends| ends <= now) {
                break;
            }
            let wait = progress.wake_at(grace_ends).map_or(CATALOG_WAIT, |at| at.saturating_duration_since(now));
            let Some(answer) = self.waiting.next_within(wait) else { continue };
            let listed = answer.outcome.as_ref().is_ok_and(|listing| {
                listing.seen.iter().any(|seen| seen.record.project == *project && is_nearest(seen, project, wanted, judge))
            });
            self.answers.push(answer);
            if listed && !self.graced {
                grace_ends.get_or_insert(now + GRACE);
            }
        }
        self.graced = true;
        !self.waiting.is_finished()
    }

    fn asked_text(&self) -> String {
        let names: Vec<String> = self.waiting.waiting_for().map(|catalog| format!("the catalog {catalog}")).collect();
        names.join(", ")
    }

    /// The candidates among the answers that were not handed out before; newest first.
    pub(super) fn new_candidates(&mut self, project: &ProjectName, judge: &Judge) -> Vec<Candidate> {
        let of_project = merge(&self.answers).into_iter().filter(|seen| seen.record.project == *project);
        let mut new: Vec<Candidate> = Vec::new();
        for seen in of_project {
            let candidate = candidate(&seen);
            if self.taken.insert((seen.record, seen.address)) {
                new.push(candidate);
            }
        }
        // The sort is stable: inside a rank the newest stay first.
        new.sort_by_key(|candidate| judge.rank(&judge.trust(project, candidate), candidate));
        let before = self.taken.len() - new.len();
        let room = CANDIDATES_MAX.saturating_sub(before);
        self.left_out += new.len().saturating_sub(room);
        new.truncate(room);
        new
    }

    pub(super) fn answers(&self) -> &[CatalogAnswer] {
        &self.answers
    }

    /// What each catalog said, in words.
    pub(super) fn steps(&self, project: &ProjectName) -> Vec<Step> {
        let answered = self.answers.iter().map(|answer| {
            let said = match &answer.outcome {
                Err(error) => error.to_string(),
                Ok(listing) => {
                    let ours = listing.seen.iter().filter(|seen| seen.record.project == *project).count();
                    let refused = listing.refused.iter().filter(|refused| refused.project.as_ref() == Some(project));
                    let all = listing.seen.len();
                    let records = if all == 1 { "record" } else { "records" };
                    let mut said = format!("answered; {all} {records} of brokers, {ours} of this project");
                    for refused in refused {
                        let from = refused.address.as_deref().unwrap_or("somewhere");
                        said.push_str(&format!("; one from {from} is left out: {}", refused.reason));
                    }
                    if let Some(why) = &listing.cut_short {
                        said.push_str(&format!("; the listing is not whole: {why}"));
                    }
                    said
                }
            };
            Step::new(format!("catalog {}", answer.catalog), said)
        });
        let waiting =
            self.waiting.waiting_for().map(|catalog| Step::new(format!("catalog {catalog}"), "not waited for any longer"));
        let left_out = (self.left_out > 0).then(|| {
            Step::new("catalogs", format!("{} records of this project are not looked at: there are too many", self.left_out))
        });
        answered.chain(waiting).chain(left_out).collect()
    }
}

fn key_of(seen: &SeenRecord) -> Option<PublicKey> {
    seen.record.public_key.as_ref()?.parse().ok()
}

/// Whether nothing that another catalog may list could be nearer: our own broker, or that of the owner who was asked for.
fn is_nearest(seen: &SeenRecord, project: &ProjectName, wanted: &Wanted, judge: &Judge) -> bool {
    match judge.trust(project, &candidate(seen)) {
        Trust::Own => true,
        Trust::Pinned => wanted.owner.as_ref().is_some_and(|owner| *owner == seen.record.owner && *owner != judge.name),
        _ => false,
    }
}

fn candidate(seen: &SeenRecord) -> Candidate {
    let mut leads: Vec<Lead> = Vec::new();
    for lead in seen.tcp_endpoints().iter().filter_map(|endpoint| lead(endpoint)) {
        if !leads.contains(&lead) {
            leads.push(lead);
        }
    }
    // Where the catalog is elsewhere, a loopback address is hardly this machine's. (The sort is stable.)
    leads.sort_by_key(|lead| is_loopback(lead) && !is_loopback_catalog(&seen.catalog));
    let place = if seen.name == seen.address.to_string() {
        SocketAddr::new(seen.address, seen.record.port).to_string()
    } else {
        format!("{} ({})", SocketAddr::new(seen.address, seen.record.port), seen.name)
    };
    Candidate {
        source: Source::Catalog(seen.catalog.clone()),
        owner: Some(seen.record.owner.clone()),
        broker: Some(BrokerId(seen.record.uuid.into_bytes())),
        key: key_of(seen),
        leads,
        place,
        heard_s: Some(seen.lastheardfrom),
    }
}

fn lead(endpoint: &str) -> Option<Lead> {
    let authority = endpoint.strip_prefix("tcp://")?;
    if let Ok(address) = authority.parse() {
        return Some(Lead::Address(address));
    }
    let (host, port) = authority.rsplit_once(':')?;
    // Brackets and colons belong to addresses, and this is none.
    let is_name = host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    Some(Lead::Host(host.to_owned(), port.parse().ok()?)).filter(|_| is_name && !host.is_empty())
}

fn is_loopback(lead: &Lead) -> bool {
    matches!(lead, Lead::Address(address) if address.ip().to_canonical().is_loopback())
}

/// Whether a catalog, named as `HOST:PORT`, is on this machine for certain.
fn is_loopback_catalog(catalog: &str) -> bool {
    let host = catalog.rsplit_once(':').map_or(catalog, |(host, _)| host);
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

/// The addresses of a host, IPv4 first. The system's resolver can't be interrupted, so it is
/// asked on a thread that is left alone when it takes too long.
pub(super) fn resolve(host: &str, port: u16, until: Option<Instant>) -> Result<Vec<SocketAddr>, String> {
    if let Ok(ip) = host.parse() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let (sender, receiver) = sync_channel::<io::Result<Vec<SocketAddr>>>(1);
    let name = host.to_owned();
    std::thread::Builder::new()
        .name("resolve".into())
        .spawn(move || {
            let found = (name.as_str(), port).to_socket_addrs().map(Iterator::collect);
            // The receiver may be gone: then nobody wants it any more.
            let _ = sender.send(found);
        })
        .map_err(|error| error.to_string())?;
    let wait = until.map_or(RESOLVE_WAIT, |until| until.saturating_duration_since(Instant::now()).min(RESOLVE_WAIT));
    let mut found = match receiver.recv_timeout(wait) {
        Ok(found) => found.map_err(|error| error.to_string())?,
        Err(RecvTimeoutError::Timeout) => return Err("the resolver did not answer in time".into()),
        Err(RecvTimeoutError::Disconnected) => return Err("the resolver's thread ended".into()),
    };
    found.sort_by_key(SocketAddr::is_ipv6);
    found.dedup();
    found.truncate(ADDRESSES_MAX);
    if found.is_empty() { Err("it has no address".into()) } else { Ok(found) }
}

//! Candidates from catalogs: asked all at once, taken in as they answer.
//!
//! - As soon as one catalog lists a broker with the expected key, the others get only
//!   [`GRACE`] more: a silent catalog doesn't slow down those who are found by another.
//! - If that broker turns out not to be there, the others are waited for after all.
//! - Host names in records are looked up only for records with the expected key: a stranger's
//!   record can't make us ask a resolver for names of its choice.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use kvbroker_protocol::BrokerId;

use super::candidate::{Candidate, Source};
use super::explain::Step;
use crate::catalog::{Answers, CatalogAnswer, CatalogList, SeenRecord, ask, merge};
use crate::client::{Progress, Route};
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

/// The catalogs of one lookup, and what they said so far.
pub(super) struct Asked {
    waiting: Answers,
    answers: Vec<CatalogAnswer>,
    /// Records that became candidates already.
    taken: Vec<SeenRecord>,
    graced: bool,
}

impl Asked {
    pub(super) fn new(catalogs: &CatalogList, until: Option<Instant>) -> Self {
        let wait = until.map_or(CATALOG_WAIT, |until| until.saturating_duration_since(Instant::now()).min(CATALOG_WAIT));
        Asked { waiting: ask(catalogs, wait), answers: Vec::new(), taken: Vec::new(), graced: false }
    }

    /// Waits for answers: for all, or the first time for enough. True: some are still to come.
    pub(super) fn gather(&mut self, project: &ProjectName, expected: Option<PublicKey>, progress: &mut Progress<'_>) -> bool {
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
                listing.seen.iter().any(|seen| seen.record.project == *project && expected.is_some() && key_of(seen) == expected)
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
    pub(super) fn new_candidates(&mut self, project: &ProjectName, expected: Option<PublicKey>) -> Vec<Candidate> {
        let merged = merge(&self.answers);
        let new: Vec<SeenRecord> = merged
            .into_iter()
            .filter(|seen| seen.record.project == *project)
            .filter(|seen| !self.taken.iter().any(|taken| taken.record == seen.record && taken.address == seen.address))
            .collect();
        let candidates = new.iter().map(|seen| candidate(seen, expected)).collect();
        self.taken.extend(new);
        candidates
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
                    let mut said = format!("answered; {} records of brokers, {ours} of this project", listing.seen.len());
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
        answered.chain(waiting).collect()
    }
}

fn key_of(seen: &SeenRecord) -> Option<PublicKey> {
    seen.record.public_key.as_ref()?.parse().ok()
}

fn candidate(seen: &SeenRecord, expected: Option<PublicKey>) -> Candidate {
    let key = key_of(seen);
    // Where no key is accepted, the addresses serve only to see whether somebody is there.
    let route_key = key.unwrap_or(PublicKey::from_bytes([0; 32]));
    let trusted = key.is_some() && key == expected;
    let mut routes: Vec<Route> = Vec::new();
    for endpoint in seen.tcp_endpoints() {
        for address in addresses(&endpoint, trusted) {
            let route = Route::Network { address, key: route_key };
            if !routes.contains(&route) {
                routes.push(route);
            }
        }
    }
    let place = if seen.name == seen.address.to_string() {
        SocketAddr::new(seen.address, seen.record.port).to_string()
    } else {
        format!("{} ({})", SocketAddr::new(seen.address, seen.record.port), seen.name)
    };
    Candidate {
        source: Source::Catalog(seen.catalog.clone()),
        owner: Some(seen.record.owner.clone()),
        broker: Some(BrokerId(seen.record.uuid.into_bytes())),
        key,
        routes,
        place,
        heard_s: Some(seen.lastheardfrom),
    }
}

fn addresses(endpoint: &str, may_resolve: bool) -> Vec<SocketAddr> {
    let Some(authority) = endpoint.strip_prefix("tcp://") else { return Vec::new() };
    if let Ok(address) = authority.parse() {
        return vec![address];
    }
    let host_and_port = authority.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
    match host_and_port {
        Some((host, port)) if may_resolve => resolve(host, port, None).unwrap_or_default(),
        _ => Vec::new(),
    }
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

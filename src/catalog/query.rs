//! Asking catalogs: `GET /query.json`, filtered here.
//!
//! - Filtering is local. A catalog can filter too (`/query/<base64>`), but CCTools'
//!   server breaks on filters whose base64 contains a slash.
//! - Every catalog has its own thread and its own deadline: one that hangs costs the
//!   others nothing, and [`ask`] hands out answers as they come.
//! - Plain HTTP only, no redirects, no proxies, at most [`LISTING_BYTES_MAX`] bytes.
//!   CCTools' server sends bare LF after its header lines and no Content-Length;
//!   the reply is read to its end.
//! - "Did not answer", "answered with something else" and "answered and listed N"
//!   are three different things to whoever looks for a broker; see [`CatalogError`].

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::hosts::{CatalogAddr, CatalogList};
use super::listing::{LISTING_BYTES_MAX, Listing, ListingError};
use super::record::SeenRecord;

/// What [`ask`] waits beyond a catalog's own deadline before it says itself that
/// the catalog did not answer.
const SLACK: Duration = Duration::from_millis(250);

/// Why a catalog gave no listing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CatalogError {
    /// Its name has no address.
    #[error("the catalog {catalog} can't be found: its name has no address")]
    NoSuchHost {
        /// `HOST:PORT`.
        catalog: String,
    },
    /// Nothing came before the deadline.
    #[error("the catalog {catalog} did not answer within {waited_ms} ms")]
    TimedOut {
        /// `HOST:PORT`.
        catalog: String,
        /// How long it was waited for.
        waited_ms: u128,
    },
    /// It could not be reached, or the connection broke.
    #[error("the catalog {catalog} did not answer: {source}")]
    NoAnswer {
        /// `HOST:PORT`.
        catalog: String,
        /// What the system or the HTTP client said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It answered with another status than 200.
    #[error("the catalog {catalog} answered with HTTP status {status}; is that port a catalog's?")]
    Status {
        /// `HOST:PORT`.
        catalog: String,
        /// The HTTP status.
        status: u16,
    },
    /// It answered with something that is no listing.
    #[error("the catalog {catalog} answered with something else: {source}; is that port a catalog's?")]
    Garbage {
        /// `HOST:PORT`.
        catalog: String,
        /// What is wrong with it.
        source: ListingError,
    },
}

impl CatalogError {
    /// True when something answered, only not as a catalog does.
    pub fn is_garbage(&self) -> bool {
        matches!(self, CatalogError::Status { .. } | CatalogError::Garbage { .. })
    }
}

/// One catalog's answer.
#[derive(Debug)]
pub struct CatalogAnswer {
    /// Who was asked.
    pub catalog: CatalogAddr,
    /// What it listed, or why it didn't.
    pub outcome: Result<Listing, CatalogError>,
}

/// Asks one catalog for everything it lists; takes at most about `timeout`.
///
/// # Errors
/// See [`CatalogError`].
pub fn query(catalog: &CatalogAddr, timeout: Duration) -> Result<Listing, CatalogError> {
    let started = Instant::now();
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(timeout))
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(None)
        .max_response_header_size(16 * 1024)
        .user_agent(concat!("kvbroker/", env!("CARGO_PKG_VERSION")))
        .build();
    let reply = ureq::Agent::new_with_config(config).get(catalog.url("/query.json")).call();
    let mut reply = reply.map_err(|error| explain(catalog, error, started))?;
    if reply.status().as_u16() != 200 {
        return Err(CatalogError::Status { catalog: catalog.to_string(), status: reply.status().as_u16() });
    }
    let mut body = Vec::new();
    let mut reader = reply.body_mut().as_reader().take(LISTING_BYTES_MAX);
    let broken = reader.read_to_end(&mut body).err();
    let at_limit = body.len() as u64 == LISTING_BYTES_MAX;
    if let (Some(error), true) = (&broken, body.is_empty()) {
        return Err(if error.kind() == io::ErrorKind::TimedOut {
            timed_out(catalog, started)
        } else {
            CatalogError::NoAnswer { catalog: catalog.to_string(), source: error.to_string().into() }
        });
    }
    let mut listing = Listing::parse(&body, &catalog.to_string())
        .map_err(|source| CatalogError::Garbage { catalog: catalog.to_string(), source })?;
    if let Some(error) = broken {
        listing.cut_short = Some(format!("after {} bytes: {error}", body.len()));
    } else if at_limit {
        listing.cut_short = Some(format!("only its first {LISTING_BYTES_MAX} bytes were read"));
    }
    Ok(listing)
}

fn timed_out(catalog: &CatalogAddr, started: Instant) -> CatalogError {
    CatalogError::TimedOut { catalog: catalog.to_string(), waited_ms: started.elapsed().as_millis() }
}

fn explain(catalog: &CatalogAddr, error: ureq::Error, started: Instant) -> CatalogError {
    match error {
        ureq::Error::HostNotFound => CatalogError::NoSuchHost { catalog: catalog.to_string() },
        ureq::Error::Timeout(_) => timed_out(catalog, started),
        ureq::Error::Io(error) if error.kind() == io::ErrorKind::TimedOut => timed_out(catalog, started),
        // The protocol errors: something answered, but not HTTP.
        ureq::Error::Protocol(error) => {
            CatalogError::Garbage { catalog: catalog.to_string(), source: ListingError::NotAnArray(format!("no HTTP: {error}")) }
        }
        other => CatalogError::NoAnswer { catalog: catalog.to_string(), source: Box::new(other) },
    }
}

/// The answers of several catalogs, in the order in which they come.
///
/// Every catalog of the list gives exactly one answer, at the latest shortly after
/// its deadline. Dropping this early is fine: the threads that still wait end by
/// their own deadlines and hold nothing of ours.
#[derive(Debug)]
pub struct Answers {
    receiver: Receiver<(usize, Result<Listing, CatalogError>)>,
    waiting_for: Vec<Option<CatalogAddr>>,
    started: Instant,
    deadline: Instant,
}

/// Asks all catalogs of the list at once, each with its own `timeout`.
pub fn ask(list: &CatalogList, timeout: Duration) -> Answers {
    let started = Instant::now();
    // One place per catalog: no thread ever blocks on handing in its answer.
    let (sender, receiver) = sync_channel(list.catalogs().len().max(1));
    for (i, catalog) in list.catalogs().iter().enumerate() {
        let thread_sender = sender.clone();
        let thread_catalog = catalog.clone();
        let spawned = thread::Builder::new().name("catalog-query".to_owned()).spawn(move || {
            // The receiver may be gone: then nobody wants the answer.
            let _ = thread_sender.send((i, query(&thread_catalog, timeout)));
        });
        if let Err(error) = spawned {
            let outcome = Err(CatalogError::NoAnswer { catalog: catalog.to_string(), source: Box::new(error) });
            let _ = sender.send((i, outcome));
        }
    }
    Answers {
        receiver,
        waiting_for: list.catalogs().iter().cloned().map(Some).collect(),
        started,
        deadline: started + timeout + SLACK,
    }
}

impl Answers {
    /// The next answer, if it comes within `wait`: for a caller who wants to say
    /// something meanwhile. `None` also when all have answered; see
    /// [`Answers::is_finished`].
    pub fn next_within(&mut self, wait: Duration) -> Option<CatalogAnswer> {
        if self.is_finished() {
            return None;
        }
        let left = self.deadline.saturating_duration_since(Instant::now());
        match self.receiver.recv_timeout(left.min(wait)) {
            Ok((i, outcome)) => self.take(i, outcome),
            Err(RecvTimeoutError::Timeout) if wait < left => None,
            Err(_) => self.give_up_on_one(),
        }
    }

    /// True when every catalog's answer has been handed out.
    pub fn is_finished(&self) -> bool {
        self.waiting_for.iter().all(Option::is_none)
    }

    /// The catalogs that have not answered yet.
    pub fn waiting_for(&self) -> impl Iterator<Item = &CatalogAddr> {
        self.waiting_for.iter().flatten()
    }

    fn take(&mut self, i: usize, outcome: Result<Listing, CatalogError>) -> Option<CatalogAnswer> {
        let catalog = self.waiting_for.get_mut(i)?.take()?;
        Some(CatalogAnswer { catalog, outcome })
    }

    fn give_up_on_one(&mut self) -> Option<CatalogAnswer> {
        let i = self.waiting_for.iter().position(Option::is_some)?;
        let catalog = self.waiting_for.get(i)?.clone()?;
        let error = timed_out(&catalog, self.started);
        self.take(i, Err(error))
    }
}

impl Iterator for Answers {
    type Item = CatalogAnswer;

    fn next(&mut self) -> Option<CatalogAnswer> {
        self.next_within(Duration::MAX)
    }
}

/// Asks all catalogs at once and waits for all; answers stand in the list's order.
pub fn query_all(list: &CatalogList, timeout: Duration) -> Vec<CatalogAnswer> {
    let mut answers: Vec<CatalogAnswer> = ask(list, timeout).collect();
    let place = |answer: &CatalogAnswer| list.catalogs().iter().position(|c| *c == answer.catalog);
    answers.sort_by_key(place);
    answers
}

/// What several catalogs listed as one list: a record that several list is there
/// once, as heard last; newest first.
pub fn merge<'a>(answers: impl IntoIterator<Item = &'a CatalogAnswer>) -> Vec<SeenRecord> {
    let listings = answers.into_iter().filter_map(|a| a.outcome.as_ref().ok());
    let mut newest: HashMap<_, SeenRecord> = HashMap::new();
    for seen in listings.flat_map(|listing| &listing.seen) {
        // The whole record is the key: a stranger's record that borrows our instance
        // or uuid must stand beside ours, not in its place.
        let key = (&seen.record, seen.address);
        match newest.get(&key) {
            Some(have) if have.lastheardfrom >= seen.lastheardfrom => {}
            _ => {
                newest.insert(key, seen.clone());
            }
        }
    }
    let mut all: Vec<SeenRecord> = newest.into_values().collect();
    // Everything after the time is there to make the order the same every time.
    all.sort_by(|a, b| {
        let rank = |s: &SeenRecord| (s.lastheardfrom, s.record.starttime);
        rank(b).cmp(&rank(a)).then_with(|| {
            let tie = |s: &SeenRecord| (s.record.uuid, s.record.instance, s.address, s.record.port);
            tie(a).cmp(&tie(b))
        })
    });
    all
}

/// Twins together: records of one `uuid` (one log: an active broker, its standbys,
/// and what earlier runs left behind) in one group. Groups and records inside keep
/// the order of `records`, so after [`merge`] the newest stand first.
pub fn group_by_uuid(records: Vec<SeenRecord>) -> Vec<Vec<SeenRecord>> {
    let mut place: HashMap<Uuid, usize> = HashMap::new();
    let mut groups: Vec<Vec<SeenRecord>> = Vec::new();
    for seen in records {
        let at = *place.entry(seen.record.uuid).or_insert(groups.len());
        match groups.get_mut(at) {
            Some(group) => group.push(seen),
            None => groups.push(vec![seen]),
        }
    }
    groups
}

#[cfg(test)]
#[path = "query_tests.rs"]
mod tests;

//! Everything there is: the brokers of this user on this machine and what catalogs list.
//!
//! - Nothing is verified here: what a catalog lists is a claim. Only connecting tells.
//! - A broker that runs here and is listed, too, is one entry.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::local;
use crate::catalog::{CatalogAnswer, CatalogList, SeenRecord, ask, merge};
use crate::client::{Notices, Progress};
use crate::paths::Dirs;

/// One broker, as far as is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// Its project.
    pub project: String,
    /// Its owner.
    pub owner: String,
    /// The log's uuid.
    pub broker: String,
    /// The run of the process.
    pub instance: String,
    /// Where it can be reached.
    pub endpoint: String,
    /// True when it runs on this machine under this user.
    pub local: bool,
    /// Its process, when local.
    pub pid: Option<u32>,
    /// When it started, seconds since 1970.
    pub starttime: u64,
    /// What an acknowledgement means there, as it announces.
    pub durability: Option<String>,
    /// The key that it announces.
    pub public_key: Option<String>,
    /// The catalogs that list it.
    pub catalogs: Vec<String>,
    /// When a catalog heard of it last, seconds since 1970.
    pub lastheardfrom: Option<u64>,
}

/// What a survey found.
#[derive(Debug)]
pub struct Survey {
    /// The brokers, by project.
    pub brokers: Vec<Listed>,
    /// Why catalogs did not answer, or not wholly: one sentence each.
    pub trouble: Vec<String>,
}

/// Looks at this machine and asks all catalogs, each for at most `wait`.
#[must_use]
pub fn survey(dirs: &Dirs, catalogs: &CatalogList, wait: Duration, notices: Option<&Notices>) -> Survey {
    let mut brokers: Vec<Listed> = local::running(dirs).into_iter().map(of_endpoint).collect();
    let answers = gather(catalogs, wait, notices);
    let mut trouble = Vec::new();
    for answer in &answers {
        match &answer.outcome {
            Err(error) => trouble.push(error.to_string()),
            Ok(listing) => {
                if let Some(why) = &listing.cut_short {
                    trouble.push(format!("the listing of the catalog {} is not whole: {why}", answer.catalog));
                }
            }
        }
    }
    for seen in merge(&answers) {
        let listing = |answer: &&CatalogAnswer| {
            let same = |other: &SeenRecord| other.record == seen.record && other.address == seen.address;
            answer.outcome.as_ref().is_ok_and(|listing| listing.seen.iter().any(same))
        };
        let names: Vec<String> = answers.iter().filter(listing).map(|answer| answer.catalog.to_string()).collect();
        let instance = seen.record.instance.to_string();
        let twin = brokers.iter_mut().find(|broker| broker.local && broker.instance == instance);
        match twin {
            // Whoever copies our instance's name into a record of its own changes nothing here but these.
            Some(local) => {
                local.catalogs.extend(names);
                local.lastheardfrom = local.lastheardfrom.max(Some(seen.lastheardfrom));
                local.durability.get_or_insert(seen.record.durability);
            }
            None => brokers.push(of_record(seen, names)),
        }
    }
    brokers.sort_by(|a, b| {
        a.project.cmp(&b.project).then_with(|| b.local.cmp(&a.local)).then_with(|| b.lastheardfrom.cmp(&a.lastheardfrom))
    });
    Survey { brokers, trouble }
}

fn gather(catalogs: &CatalogList, wait: Duration, notices: Option<&Notices>) -> Vec<CatalogAnswer> {
    if catalogs.is_empty() {
        return Vec::new();
    }
    let mut progress = Progress::new(notices, Instant::now());
    let mut waiting = ask(catalogs, wait);
    let mut answers = Vec::new();
    while !waiting.is_finished() {
        let now = Instant::now();
        let names: Vec<String> = waiting.waiting_for().map(ToString::to_string).collect();
        progress.doing(now, format!("asking {}", names.join(", ")));
        progress.tick(now);
        let slice = progress.wake_at(None).map_or(wait, |at| at.saturating_duration_since(now));
        answers.extend(waiting.next_within(slice));
    }
    answers
}

fn of_endpoint(endpoint: crate::endpoint::Endpoint) -> Listed {
    Listed {
        project: endpoint.project.to_string(),
        owner: endpoint.owner,
        broker: endpoint.uuid.to_string(),
        instance: endpoint.instance.to_string(),
        endpoint: format!("ipc://{}", endpoint.router_socket.display()),
        local: true,
        pid: Some(endpoint.pid),
        starttime: endpoint.starttime_s,
        durability: None,
        public_key: endpoint.public_key.map(|key| key.to_string()),
        catalogs: Vec::new(),
        lastheardfrom: None,
    }
}

fn of_record(seen: SeenRecord, catalogs: Vec<String>) -> Listed {
    let endpoint = seen.tcp_endpoints().into_iter().next().unwrap_or_default();
    Listed {
        project: seen.record.project.to_string(),
        owner: seen.record.owner,
        broker: seen.record.uuid.to_string(),
        instance: seen.record.instance.to_string(),
        endpoint,
        local: false,
        pid: None,
        starttime: seen.record.starttime,
        durability: Some(seen.record.durability),
        public_key: seen.record.public_key,
        catalogs,
        lastheardfrom: Some(seen.lastheardfrom),
    }
}

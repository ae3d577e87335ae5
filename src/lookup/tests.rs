//! Whole lookups: endpoint files, catalogs on loopback, brokers that prove keys.

#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::json;
use uuid::Uuid;

use super::*;
use crate::catalog::CatalogRecord;
use crate::client::fake::{Act, Bind, FakeBroker, Place};
use crate::client::{ConnectOptions, Notices, Route};

/// A catalog that answers `times` requests with one listing.
struct FakeCatalog {
    address: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

impl FakeCatalog {
    fn listing(records: &[CatalogRecord]) -> Self {
        let listed: Vec<String> = records
            .iter()
            .enumerate()
            .map(|(age, record)| {
                let head = format!(r#"{{"name":"h","lastheardfrom":{},"address":"127.0.0.1","#, 1_000_000 - age);
                head + record.to_json().strip_prefix('{').unwrap()
            })
            .collect();
        Self::answering(format!("[\n{}\n]\n", listed.join(",\n")), 1)
    }

    fn answering(body: String, times: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            for _ in 0..times {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 1_024];
                let _ = stream.read(&mut request).unwrap();
                write!(stream, "HTTP/1.1 200 OK\nConnection: close\nContent-type: text/plain\n\n{body}").unwrap();
            }
        });
        FakeCatalog { address, thread: Some(thread) }
    }
}

impl Drop for FakeCatalog {
    fn drop(&mut self) {
        // Should the test have ended without asking.
        let _ = std::net::TcpStream::connect(self.address).map(|mut stream| stream.write_all(b"x"));
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn record(place: &Place, broker: u8, port: u16, key: Option<PublicKey>) -> CatalogRecord {
    CatalogRecord {
        project: place.project.clone(),
        owner: crate::paths::login_name(),
        port,
        version: "0.1.0".into(),
        uuid: Uuid::from_bytes([broker; 16]),
        instance: Uuid::from_u128(u128::from(port)),
        epoch: 1,
        starttime: 1,
        lifetime_s: 180,
        pub_port: None,
        public_key: key.map(|key| key.to_string()),
        shard: 0,
        durability: "always".into(),
        endpoints: vec![],
    }
}

/// The key pair of this place's owner for its project.
fn project_keys(place: &Place) -> KeyPair {
    keys::load_or_create_owner_key(place.dirs.config_dir()).unwrap().project(&place.project).unwrap()
}

fn network_broker(place: &Place, broker: u8, keys: &KeyPair) -> (FakeBroker, u16) {
    let fake = FakeBroker::start(&place.project, broker, Bind::Curve(keys), |_| Act::Ignore);
    let port = fake.address.unwrap().port();
    (fake, port)
}

fn catalogs(addresses: &[SocketAddr]) -> CatalogList {
    let text: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    CatalogList::from_settings(Some(&text.join(",")), None, None).unwrap()
}

fn options(place: &Place, catalogs: CatalogList) -> ConnectOptions {
    ConnectOptions::new().dirs(place.dirs.clone()).catalogs(catalogs)
}

fn find(options: &ConnectOptions, target: &str) -> Looked {
    find_telling(options, target, None)
}

fn find_telling(options: &ConnectOptions, target: &str, notices: Option<&Notices>) -> Looked {
    let context = Context::new(1).unwrap();
    let now = Instant::now();
    let mut progress = Progress::new(notices, now);
    options.lookup(target).unwrap().find(&context, Some(now + Duration::from_secs(20)), &mut progress)
}

fn error(looked: Looked) -> LookupError {
    looked.outcome.unwrap_err()
}

#[test]
fn a_local_broker_is_found_without_catalogs_and_without_keys() {
    let place = Place::new();
    let _broker = place.broker(1, |_| Act::Ignore);
    // Nobody listens at this catalog: asking it would show in the steps.
    let nobody = catalogs(&[SocketAddr::from(([127, 0, 0, 1], closed_port()))]);
    let looked = find(&options(&place, nobody), "lab");
    assert!(looked.outcome.is_ok());
    assert_eq!(looked.explanation.chosen, Some(0));
    assert_eq!(looked.explanation.steps.len(), 1);
    assert!(!place.dirs.config_dir().exists());
    let shown = looked.explanation.to_string();
    assert!(shown.contains("* candidate 1: ann's at this machine (process 4242)"), "{shown}");
}

#[test]
fn nothing_here_names_what_is_here() {
    let place = Place::new();
    let _broker = place.broker(1, |_| Act::Ignore);
    let error = error(find(&options(&place, CatalogList::none()), "other"));
    assert!(matches!(&error, LookupError::NotHere { running, .. } if *running == [place.project.clone()]), "{error}");
}

#[test]
fn a_dead_socket_is_told_from_none() {
    let place = Place::new();
    place.write_endpoint(1);
    let looked = find(&options(&place, CatalogList::none()), "lab");
    assert!(looked.explanation.steps[0].said.contains("left behind by process 4242"), "{:?}", looked.explanation);
    assert!(error(looked).to_string().contains("(the last one, process 4242, is gone)"));
}

#[test]
fn filters_name_what_they_leave_out() {
    let place = Place::new();
    let _broker = place.broker(1, |_| Act::Ignore);
    let options = options(&place, CatalogList::none());
    let error = error(find(&options.clone().owner("bob"), "lab"));
    assert!(matches!(&error, LookupError::NotWanted { found, .. } if found.len() == 1), "{error}");
    assert!(find(&options.clone().broker(BrokerId([1; 16])), "lab").outcome.is_ok());
    assert!(find(&options.broker(BrokerId([2; 16])), "lab").outcome.is_err());
}

#[test]
fn catalogs_lead_to_the_broker_that_proves_the_key() {
    let place = Place::new();
    let (keys, thief) = (project_keys(&place), KeyPair::generate().unwrap());
    let (_broker, port) = network_broker(&place, 1, &keys);
    let (_thief, thief_port) = network_broker(&place, 1, &thief);
    let listed = [
        // A record of ours whose port somebody else has now; a stale one; one without a key; another key; and the true one.
        record(&place, 1, thief_port, Some(*keys.public())),
        record(&place, 1, closed_port(), Some(*keys.public())),
        record(&place, 2, thief_port, None),
        record(&place, 3, thief_port, Some(*thief.public())),
        record(&place, 1, port, Some(*keys.public())),
    ];
    let catalog = FakeCatalog::listing(&listed);
    let looked = find(&options(&place, catalogs(&[catalog.address])), "lab");
    let explanation = looked.explanation;
    let connection = looked.outcome.unwrap_or_else(|error| panic!("{error}\n{explanation}"));
    assert_eq!(connection.hello().broker, BrokerId([1; 16]));
    let verdicts: Vec<&str> = explanation.candidates.iter().map(|judged| judged.verdict.name()).collect();
    assert_eq!(verdicts, ["unproven", "unreachable", "verified", "no_key", "other_key"]);
    assert_eq!(explanation.chosen, Some(2));
    let json = serde_json::to_value(&explanation).unwrap();
    assert_eq!((&json["candidates"][2]["verdict"], &json["candidates"][2]["trust"]), (&json!("verified"), &json!("own")));
    assert_eq!(json["project"], "lab");
}

#[test]
fn a_record_that_leads_to_another_log_is_out_of_date() {
    let place = Place::new();
    let keys = project_keys(&place);
    let (_broker, port) = network_broker(&place, 9, &keys);
    let catalog = FakeCatalog::listing(&[record(&place, 1, port, Some(*keys.public()))]);
    let looked = find(&options(&place, catalogs(&[catalog.address])), "lab");
    assert!(matches!(looked.explanation.candidates[0].verdict, Verdict::SomebodyElse(_)));
    assert!(matches!(error(looked), LookupError::Unreachable { .. }));
}

#[test]
fn two_brokers_of_one_name_are_ambiguous_until_one_is_named() {
    let place = Place::new();
    let keys = project_keys(&place);
    let (_a, a) = network_broker(&place, 1, &keys);
    let (_b, b) = network_broker(&place, 2, &keys);
    let listed = || [record(&place, 1, a, Some(*keys.public())), record(&place, 2, b, Some(*keys.public()))];
    let catalog = FakeCatalog::listing(&listed());
    let failed = error(find(&options(&place, catalogs(&[catalog.address])), "lab"));
    assert!(matches!(&failed, LookupError::Ambiguous { brokers, .. } if brokers.len() == 2), "{failed}");
    let catalog = FakeCatalog::listing(&listed());
    let named = options(&place, catalogs(&[catalog.address])).broker(BrokerId([2; 16]));
    assert_eq!(find(&named, "lab").outcome.unwrap().hello().broker, BrokerId([2; 16]));
}

#[test]
fn who_calls_himself_ours_needs_our_key() {
    let place = Place::new();
    let (a, b) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let (_a, a_port) = network_broker(&place, 1, &a);
    let (_b, b_port) = network_broker(&place, 2, &b);
    let of = |broker, port, keys: &KeyPair| record(&place, broker, port, Some(*keys.public()));
    let look = |records: &[CatalogRecord]| {
        let catalog = FakeCatalog::listing(records);
        // Even who accepts every new key does not accept this one.
        error(find(&options(&place, catalogs(&[catalog.address])).new_keys(NewKeys::Accept), "lab"))
    };
    let both = look(&[of(1, a_port, &a), of(2, b_port, &b)]);
    assert!(matches!(both, LookupError::OtherKey { .. }), "{both}");
    let keyless = look(&[of(2, b_port, &b)]);
    assert!(matches!(keyless, LookupError::OtherKey { has_key: false, .. }), "{keyless}");
    assert!(!place.dirs.config_dir().exists(), "looking makes no key");
    project_keys(&place);
    let one = look(&[of(1, closed_port(), &a), of(2, b_port, &b)]);
    assert!(matches!(one, LookupError::OtherKey { has_key: true, .. }), "{one}");
    assert!(one.hint().unwrap().contains("--key FILE"), "{one}");
}

/// A record that says to be of ann, as the fake brokers do.
fn anns(place: &Place, broker: u8, port: u16, key: Option<PublicKey>) -> CatalogRecord {
    CatalogRecord { owner: "ann".into(), ..record(place, broker, port, key) }
}

#[test]
fn somebody_elses_key_is_accepted_once_and_then_it_is_the_only_one() {
    let place = Place::new();
    let (keys, thief) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let (_ann, port) = network_broker(&place, 1, &keys);
    let (_thief, thief_port) = network_broker(&place, 1, &thief);
    let look = |records: &[CatalogRecord], new_keys: NewKeys| {
        let catalog = FakeCatalog::listing(records);
        find(&options(&place, catalogs(&[catalog.address])).new_keys(new_keys), "lab")
    };
    let true_one = || anns(&place, 1, port, Some(*keys.public()));
    let false_one = || anns(&place, 1, thief_port, Some(*thief.public()));
    // A library asks nobody and accepts nothing; the key is not even made.
    let refused = error(look(&[true_one()], NewKeys::Refuse));
    assert!(matches!(&refused, LookupError::NewKey { asked: false, owner, .. } if owner == "ann"), "{refused}");
    assert!(!place.dirs.config_dir().exists());
    // Who is asked sees what there is to compare.
    let seen = Arc::new(Mutex::new(Vec::new()));
    let into = Arc::clone(&seen);
    let no = NewKeys::Ask(Arc::new(move |new: &NewBroker| {
        into.lock().unwrap().push(new.clone());
        false
    }));
    let refused = error(look(&[true_one()], no));
    assert!(matches!(refused, LookupError::NewKey { asked: true, .. }), "{refused}");
    let asked = seen.lock().unwrap().clone();
    assert_eq!(asked.len(), 1);
    assert_eq!((asked[0].owner.as_str(), asked[0].key), ("ann", *keys.public()));
    assert!(asked[0].place.starts_with("127.0.0.1:"), "{asked:?}");
    assert!(!place.dirs.config_dir().exists(), "what was refused leaves nothing behind");
    // Of two that claim the same uuid nobody is accepted.
    let both = error(look(&[true_one(), false_one()], NewKeys::Accept));
    assert!(both.to_string().contains("2 brokers serve lab"), "{both}");
    assert!(both.to_string().contains(&format!("(key {})", thief.public())), "{both}");
    // Nor one that is not there, or that turns out to be somebody else.
    let gone = error(look(&[anns(&place, 1, closed_port(), Some(*keys.public()))], NewKeys::Accept));
    assert!(matches!(gone, LookupError::Unreachable { .. }), "{gone}");
    let bobs = error(look(&[CatalogRecord { owner: "bob".into(), ..true_one() }], NewKeys::Accept));
    assert!(bobs.to_string().contains("it is ann's, not bob's"), "{bobs}");
    assert!(Pins::load(place.dirs.config_dir()).unwrap().all().is_empty());
    // Accepted, it gets in, and a key of our own is there to be let in by.
    let found = look(&[true_one()], NewKeys::Accept);
    assert_eq!(found.explanation.candidates[0].trust, Trust::Accepted);
    assert!(found.outcome.is_ok());
    assert!(place.dirs.config_dir().join(keys::OWNER_KEY_FILE).exists());
    // From now on nobody is asked.
    let found = look(&[true_one()], NewKeys::Refuse);
    assert_eq!(found.explanation.candidates[0].trust, Trust::Pinned);
    assert!(found.outcome.is_ok());
    // The thief beside it changes nothing; alone he is refused, also by who would accept everything.
    assert!(look(&[false_one(), true_one()], NewKeys::Accept).outcome.is_ok());
    let changed = error(look(&[false_one()], NewKeys::Accept));
    let LookupError::KeyChanged(changed) = changed else { panic!("{changed}") };
    assert_eq!((changed.accepted, changed.announced, changed.line), (*keys.public(), Some(*thief.public()), 3));
    // The thief with the right key in his record can't prove it.
    let stolen = error(look(&[anns(&place, 1, thief_port, Some(*keys.public()))], NewKeys::Accept));
    assert!(matches!(stolen, LookupError::Unproven { .. }), "{stolen}");
    // A record without a key is refused, too, and with --insecure it still has to be a broker without encryption.
    let keyless = error(look(&[anns(&place, 1, port, None)], NewKeys::Accept));
    assert!(matches!(keyless, LookupError::NoKey { .. }), "{keyless}");
}

#[test]
fn a_list_of_accepted_keys_that_cannot_be_read_is_not_an_empty_one() {
    let place = Place::new();
    let keys = KeyPair::generate().unwrap();
    let (_ann, port) = network_broker(&place, 1, &keys);
    project_keys(&place);
    std::fs::write(place.dirs.config_dir().join(pins::KNOWN_BROKERS_FILE), "ann lab\n").unwrap();
    let catalog = FakeCatalog::listing(&[anns(&place, 1, port, Some(*keys.public()))]);
    let error = error(find(&options(&place, catalogs(&[catalog.address])).new_keys(NewKeys::Accept), "lab"));
    assert!(matches!(&error, LookupError::Pins(_)), "{error}");
    assert!(error.to_string().contains("line 1: it has no key"), "{error}");
    // Our own broker needs no list.
    let own = project_keys(&place);
    let (_own, port) = network_broker(&place, 2, &own);
    let catalog = FakeCatalog::listing(&[record(&place, 2, port, Some(*own.public()))]);
    assert!(find(&options(&place, catalogs(&[catalog.address])), "lab").outcome.is_ok());
}

#[test]
fn without_encryption_only_where_the_user_says_so() {
    let place = Place::new();
    let plain = FakeBroker::start(&place.project, 1, Bind::Plain, |_| Act::Ignore);
    let port = plain.address.unwrap().port();
    let look = |insecure| {
        let catalog = FakeCatalog::listing(&[anns(&place, 1, port, None)]);
        find(&options(&place, catalogs(&[catalog.address])).new_keys(NewKeys::Accept).insecure(insecure), "lab")
    };
    assert!(matches!(error(look(false)), LookupError::NoKey { .. }));
    let found = look(true);
    assert_eq!(found.explanation.candidates[0].trust, Trust::Unprotected);
    assert!(matches!(found.outcome.unwrap().route(), Route::Unprotected { .. }));
    assert!(!place.dirs.config_dir().exists(), "no key is made, and nothing is pinned");
    // A record with a key is encrypted, whatever the user says: a broker that doesn't is not talked to.
    let own = project_keys(&place);
    let catalog = FakeCatalog::listing(&[record(&place, 1, port, Some(*own.public()))]);
    let downgraded = error(find(&options(&place, catalogs(&[catalog.address])).insecure(true), "lab"));
    assert!(matches!(downgraded, LookupError::Unproven { .. }), "{downgraded}");
    // An address.
    let options = options(&place, CatalogList::none());
    let address = format!("kv://127.0.0.1:{port}/lab");
    assert!(matches!(error(find(&options, &address)), LookupError::Unproven { .. }));
    assert!(find(&options.insecure(true), &address).outcome.is_ok());
}

#[test]
fn the_addresses_of_a_record_are_tried_in_turn() {
    let place = Place::new();
    let keys = project_keys(&place);
    let (_broker, port) = network_broker(&place, 1, &keys);
    // One that says nothing, one that is closed, one of an HTTP server, and the true one.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let other = FakeCatalog::answering("hello".into(), 1);
    let mut listed = record(&place, 1, silent.local_addr().unwrap().port(), Some(*keys.public()));
    listed.endpoints = vec![
        format!("tcp://127.0.0.1:{}", closed_port()),
        format!("tcp://{}", other.address),
        "tcp://[::zz]:1".into(),
        format!("tcp://localhost:{port}"),
    ];
    let catalog = FakeCatalog::listing(&[listed.clone()]);
    let found = find(&options(&place, catalogs(&[catalog.address])), "lab");
    assert!(found.outcome.is_ok(), "{}", found.explanation);
    // What came nearest to the broker is what is told.
    listed.endpoints.truncate(2);
    let other = FakeCatalog::answering("hello".into(), 1);
    listed.endpoints[1] = format!("tcp://{}", other.address);
    let catalog = FakeCatalog::listing(&[listed]);
    let failed = error(find(&options(&place, catalogs(&[catalog.address])), "lab"));
    assert!(matches!(failed, LookupError::Unproven { .. }), "{failed}");
}

#[test]
fn a_flood_of_copies_does_not_hide_the_one_that_answers() {
    let place = Place::new();
    let keys = project_keys(&place);
    let (_broker, port) = network_broker(&place, 1, &keys);
    // All are newer than the true one, have its key and uuid, and lead to somebody who accepts and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let copy = |n: u32| CatalogRecord {
        instance: Uuid::from_u128(u128::from(n)),
        ..record(&place, 1, silent.local_addr().unwrap().port(), Some(*keys.public()))
    };
    let mut listed: Vec<CatalogRecord> = (0..40).map(copy).collect();
    // And thousands of strangers'.
    listed.extend((0..4_000).map(|n| anns(&place, 9, 1 + n, Some(PublicKey::from_bytes([9; 32])))));
    listed.push(record(&place, 1, port, Some(*keys.public())));
    let catalog = FakeCatalog::listing(&listed);
    let found = find(&options(&place, catalogs(&[catalog.address])), "lab");
    assert!(found.outcome.is_ok(), "{}", found.outcome.unwrap_err());
    assert_eq!(found.explanation.candidates.len(), catalogs::CANDIDATES_MAX);
    // Those tried together with it are given up when it has answered.
    let beside: Vec<&str> = found.explanation.candidates[32..40].iter().map(|judged| judged.verdict.name()).collect();
    assert_eq!(beside, ["untried"; 8]);
    let steps = &found.explanation.steps;
    assert!(steps.iter().any(|step| step.said.contains("records of this project are not looked at")), "{steps:?}");
}

#[test]
fn a_record_that_cannot_be_used_is_told_from_none() {
    let place = Place::new();
    let mut damaged = record(&place, 1, 4_000, None).to_json();
    damaged = damaged.replace("\"port\":4000", "\"port\":70000");
    let catalog = FakeCatalog::answering(format!("[\n{}\n]\n", damaged.replacen('{', r#"{"address":"10.0.0.9","#, 1)), 1);
    let failed = error(find(&options(&place, catalogs(&[catalog.address])), "lab"));
    assert!(matches!(&failed, LookupError::Unreadable { first, .. } if first.contains("10.0.0.9")), "{failed}");
}

#[test]
fn catalogs_that_answer_are_told_from_those_that_do_not() {
    let place = Place::new();
    let dead = SocketAddr::from(([127, 0, 0, 1], closed_port()));
    let silent = error(find(&options(&place, catalogs(&[dead])), "lab"));
    assert!(matches!(silent, LookupError::CatalogsSilent { .. }), "{silent}");
    let empty = FakeCatalog::listing(&[]);
    let looked = find(&options(&place, catalogs(&[dead, empty.address])), "lab");
    let LookupError::NotListed { answered, silent, .. } = error(looked) else { panic!("another error") };
    assert_eq!((answered, silent.len()), (vec![empty.address.to_string()], 1));
    let keys = project_keys(&place);
    let stale = FakeCatalog::listing(&[record(&place, 1, closed_port(), Some(*keys.public()))]);
    let unreachable = error(find(&options(&place, catalogs(&[stale.address])), "lab"));
    assert!(unreachable.to_string().contains("firewall"), "{unreachable}");
}

#[test]
fn a_catalog_that_hangs_delays_little_where_another_answers() {
    let place = Place::new();
    let keys = project_keys(&place);
    let (_broker, port) = network_broker(&place, 1, &keys);
    let hanging = TcpListener::bind("127.0.0.1:0").unwrap();
    let catalog = FakeCatalog::listing(&[record(&place, 1, port, Some(*keys.public()))]);
    let start = Instant::now();
    let looked = find(&options(&place, catalogs(&[hanging.local_addr().unwrap(), catalog.address])), "lab");
    assert!(looked.outcome.is_ok());
    assert!(start.elapsed() < catalogs::CATALOG_WAIT);
    assert!(looked.explanation.steps.iter().any(|step| step.said == "not waited for any longer"));
}

#[test]
fn a_long_look_is_said_within_a_second() {
    let place = Place::new();
    let hanging = TcpListener::bind("127.0.0.1:0").unwrap();
    let said = Arc::new(Mutex::new(Vec::new()));
    let (into, start) = (Arc::clone(&said), Instant::now());
    let notices: Notices = Arc::new(move |text: &str| into.lock().unwrap().push((start.elapsed(), text.to_owned())));
    let options = options(&place, catalogs(&[hanging.local_addr().unwrap()]));
    let looked = find_telling(&options, "lab", Some(&notices));
    assert!(matches!(error(looked), LookupError::CatalogsSilent { .. }));
    let said = said.lock().unwrap();
    assert!(said[0].0 < Duration::from_millis(1_000), "{said:?}");
    assert!(said[0].1.contains("looking for lab: asking the catalog 127.0.0.1:"), "{said:?}");
}

#[test]
fn an_address_is_taken_instead_of_searching() {
    let place = Place::new();
    let broker_keys = KeyPair::generate().unwrap();
    let (_broker, port) = network_broker(&place, 1, &broker_keys);
    let options = options(&place, CatalogList::none());
    let key = broker_keys.public();
    let keyless = error(find(&options, &format!("kv://127.0.0.1:{port}/lab")));
    assert!(matches!(keyless, LookupError::NoOwnKey { .. }), "{keyless}");
    assert!(!place.dirs.config_dir().exists(), "looking makes no key");
    // The key in the address is trusted, and a key of our own is made to be let in by.
    assert!(find(&options, &format!("kv://127.0.0.1:{port}/lab?key={key}")).outcome.is_ok());
    assert!(place.dirs.config_dir().join(keys::OWNER_KEY_FILE).exists());
    assert!(find(&options, &format!("kv://localhost:{port}/lab?key={key}")).outcome.is_ok());
    assert!(find(&options.clone().endpoint(format!("kv://127.0.0.1:{port}?key={key}")), "lab").outcome.is_ok());
    // Without a key only our own broker would do.
    let refused = error(find(&options, &format!("kv://127.0.0.1:{port}/lab")));
    assert!(matches!(refused, LookupError::Unproven { expected: ExpectedKey::Own, .. }), "{refused}");
    let swapped = KeyPair::generate().unwrap();
    let refused = error(find(&options, &format!("kv://127.0.0.1:{port}/lab?key={}", swapped.public())));
    assert!(matches!(refused, LookupError::Unproven { expected: ExpectedKey::Address, .. }), "{refused}");
    let unknown = error(find(&options.clone().owner("ann"), &format!("kv://127.0.0.1:{port}/lab")));
    assert!(matches!(unknown, LookupError::AddressWithoutKey { .. }), "{unknown}");
    pins::remember(place.dirs.config_dir(), "ann", &place.project, key).unwrap();
    assert!(find(&options.clone().owner("ann"), &format!("kv://127.0.0.1:{port}/lab")).outcome.is_ok());
    let other = error(find(&options, &format!("kv://127.0.0.1:{port}/other?key={key}")));
    assert!(other.to_string().contains("serves the project \"lab\", not other"), "{other}");
    assert!(options.clone().endpoint("kv://h:1/x").lookup("lab").is_err());
    let nowhere = error(find(&options, &format!("kv://127.0.0.1:{}/lab?key={key}", closed_port())));
    assert!(matches!(nowhere, LookupError::Unreachable { .. }), "{nowhere}");
}

#[test]
fn a_socket_that_is_given_must_lie_in_a_directory_of_ours() {
    let place = Place::new();
    let _broker = place.broker(1, |_| Act::Ignore);
    let runtime = place.runtime();
    let options = options(&place, CatalogList::none()).endpoint(format!("ipc://{}", runtime.router_socket().display()));
    assert!(find(&options, "lab").outcome.is_ok());
    let open = |mode| std::fs::set_permissions(runtime.path(), std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    open(0o755);
    assert!(matches!(error(find(&options, "lab")), LookupError::Path(_)));
    // Found by its name it is not said to be absent.
    let by_name = error(find(&self::options(&place, CatalogList::none()), "lab"));
    assert!(by_name.to_string().contains("is open to others (mode 755)"), "{by_name}");
    assert!(by_name.to_string().contains("chmod 700"), "{by_name}");
    assert_eq!(by_name.exit().code(), 6);
    open(0o700);
}

#[test]
fn a_survey_lists_local_and_announced_brokers_once() {
    let place = Place::new();
    let _broker = place.broker(1, |_| Act::Ignore);
    let mut twin = record(&place, 1, 4_000, None);
    twin.instance = Uuid::from_u128(9);
    let mut other = record(&place, 2, 4_001, None);
    other.project = "elsewhere".parse().unwrap();
    let catalog = FakeCatalog::listing(&[twin, other]);
    let survey = survey::survey(&place.dirs, &catalogs(&[catalog.address]), Duration::from_secs(10), None);
    assert_eq!(survey.trouble, Vec::<String>::new());
    let seen: Vec<(&str, bool, usize)> =
        survey.brokers.iter().map(|broker| (broker.project.as_str(), broker.local, broker.catalogs.len())).collect();
    assert_eq!(seen, [("elsewhere", false, 1), ("lab", true, 1)]);
}

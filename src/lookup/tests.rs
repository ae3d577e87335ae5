//! Whole lookups: endpoint files, catalogs on loopback, brokers that prove keys.

#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use uuid::Uuid;

use super::*;
use crate::catalog::CatalogRecord;
use crate::client::fake::{Act, Bind, FakeBroker, Place};
use crate::client::{ConnectOptions, Notices};

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
    assert_eq!(verdicts, ["refused", "unreachable", "no_key", "other_key", "verified"]);
    assert_eq!(explanation.chosen, Some(4));
    let json = serde_json::to_value(&explanation).unwrap();
    assert_eq!(json["candidates"][4]["verdict"], "verified");
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
fn brokers_with_other_keys_are_refused_or_ambiguous_by_being_alive() {
    let place = Place::new();
    let (a, b) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let (_a, a_port) = network_broker(&place, 1, &a);
    let (_b, b_port) = network_broker(&place, 2, &b);
    let of = |broker, port, keys: &KeyPair| record(&place, broker, port, Some(*keys.public()));
    let look = |records: &[CatalogRecord]| {
        let catalog = FakeCatalog::listing(records);
        error(find(&options(&place, catalogs(&[catalog.address])), "lab"))
    };
    let both = look(&[of(1, a_port, &a), of(2, b_port, &b)]);
    assert!(matches!(both, LookupError::Ambiguous { refused: true, .. }), "{both}");
    let keyless = look(&[of(2, b_port, &b)]);
    assert!(keyless.to_string().contains("you have no key yet"), "{keyless}");
    assert!(!place.dirs.config_dir().exists(), "looking makes no key");
    project_keys(&place);
    let one = look(&[of(1, closed_port(), &a), of(2, b_port, &b)]);
    assert!(one.to_string().contains("another key than yours"), "{one}");
    let hint = one.hint().unwrap();
    assert!(hint.contains("kvpub1"), "{hint}");
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
    let keys = KeyPair::generate().unwrap();
    let (_broker, port) = network_broker(&place, 1, &keys);
    let options = options(&place, CatalogList::none());
    let key = keys.public();
    let keyless = error(find(&options, &format!("kv://127.0.0.1:{port}/lab?key={key}")));
    assert!(matches!(keyless, LookupError::NoOwnKey { .. }), "{keyless}");
    assert!(!place.dirs.config_dir().exists(), "looking makes no key");
    project_keys(&place);
    assert!(find(&options, &format!("kv://127.0.0.1:{port}/lab?key={key}")).outcome.is_ok());
    assert!(find(&options, &format!("kv://localhost:{port}/lab?key={key}")).outcome.is_ok());
    assert!(find(&options.clone().endpoint(format!("kv://127.0.0.1:{port}?key={key}")), "lab").outcome.is_ok());
    // Without a key only our own broker would do.
    let refused = error(find(&options, &format!("kv://127.0.0.1:{port}/lab")));
    assert!(matches!(refused, LookupError::Refused { .. }), "{refused}");
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

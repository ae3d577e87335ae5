//! Where a broker listens, what it tells others of that, and what `--insecure` opens and leaves shut.
//!
//! 127.0.0.2 and ::1 stand for the machine's other addresses: a listener on 127.0.0.1 does not hear them, and nothing leaves the machine.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::thread::JoinHandle;
use std::time::Duration;

use kvbroker::catalog::{SeenRecord, query};
use kvbroker::keys::{KeyPair, SecretKey, load_key_file};
use kvbroker::project::ProjectName;
use kvbroker_discovery::{CatalogConfig, CatalogServer, StopHandle};
use kvbroker_tests::{Broker, BrokerOptions, Cli, Home, PATIENCE, RawClient, RawSubscriber, verb, wait_until};
use serde_json::{Value, json};

const USAGE: i32 = 2;
const REFUSED: i32 = 6;
const ELSEWHERE: &str = "127.0.0.2";

/// Long enough for an answer that must not come. Nothing depends on it when all is well.
const SILENCE: Duration = Duration::from_millis(700);

fn is_heard_at(host: &str, port: u16) -> bool {
    let address = (host.parse::<IpAddr>().unwrap(), port);
    match TcpStream::connect(address) {
        Ok(_) => true,
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => false,
        Err(error) => panic!("{host}: {error}"),
    }
}

fn has_ipv6() -> bool {
    TcpListener::bind(("::1", 0)).is_ok()
}

fn pub_port(broker: &Broker) -> u16 {
    u16::try_from(broker.endpoint()["tcp"]["pub_port"].as_u64().unwrap()).unwrap()
}

fn hosts(broker: &Broker) -> Vec<IpAddr> {
    broker.endpoint()["tcp"]["hosts"].as_array().unwrap().iter().map(|host| host.as_str().unwrap().parse().unwrap()).collect()
}

fn hello(client: &RawClient) -> Value {
    let hello = client.ask_json(&json!({"op": "hello"}));
    assert_eq!(hello["status"], "ok", "{hello}");
    hello
}

/// A catalog on loopback, in this process.
struct Catalog {
    address: String,
    stop: StopHandle,
    thread: Option<JoinHandle<std::io::Result<()>>>,
}

impl Catalog {
    fn start() -> Catalog {
        let config = CatalogConfig { listen: Ipv4Addr::LOCALHOST.into(), port: 0, lifetime_s: 1800 };
        let server = CatalogServer::bind(&config).unwrap();
        let (address, stop) = (server.addr().to_string(), server.stop_handle());
        Catalog { address, stop, thread: Some(std::thread::spawn(move || server.run())) }
    }

    /// What a broker tells it.
    fn record_of(&self, broker: &Broker) -> SeenRecord {
        let catalog = self.address.parse().unwrap();
        wait_until(PATIENCE, "the catalog lists the broker", || {
            let listing = query(&catalog, PATIENCE).ok()?;
            listing.seen.into_iter().find(|seen| seen.record.instance.to_string() == broker.endpoint()["instance"])
        })
    }
}

impl Drop for Catalog {
    fn drop(&mut self) {
        self.stop.stop();
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

#[test]
fn unless_told_otherwise_it_is_heard_at_every_address_by_those_who_have_a_key() {
    let broker = Broker::start(BrokerOptions::default().listen::<String>([]));
    let mut at = vec!["127.0.0.1", ELSEWHERE];
    at.extend(has_ipv6().then_some("[::1]"));
    for host in at {
        assert_eq!(hello(&broker.dealer_at(host))["user"], "owner", "{host}");
        assert!(is_heard_at(host.trim_matches(['[', ']']), pub_port(&broker)), "{host}");
        // And by nobody else.
        let address = format!("tcp://{host}:{}", broker.tcp_port());
        let stranger = RawClient::plain_on_tcp(&address);
        stranger.send(&[r#"{"op":"ping"}"#]);
        assert_eq!(stranger.try_receive(SILENCE), None, "{host}");
        let key = KeyPair::from_secret(SecretKey::generate().unwrap()).unwrap();
        let its_key = broker.endpoint()["public_key"].as_str().unwrap().parse().unwrap();
        let stranger = RawClient::on_tcp(&address, &key, &its_key);
        stranger.send(&[r#"{"op":"ping"}"#]);
        assert_eq!(stranger.try_receive(SILENCE), None, "{host}");
    }
    let hosts = hosts(&broker);
    assert!(hosts.contains(&Ipv4Addr::LOCALHOST.into()));
    assert!(hosts.is_sorted_by_key(IpAddr::is_loopback), "what others can reach comes first: {hosts:?}");
    let ready = broker.stdout();
    assert!(ready.contains("all addresses of this machine") && ready.contains("encrypted (CURVE)"), "{ready}");
    // The address to give to others is one of those.
    let link = verb(broker.home(), &["test", "link"]).text();
    let first = std::net::SocketAddr::new(hosts[0], broker.tcp_port());
    assert!(link.starts_with(&format!("kv://{first}/test?key=kvpub1")), "{link}");
}

#[test]
fn it_is_heard_where_it_was_told_to_listen_with_one_port_and_again_after_a_restart() {
    let broker = Broker::start(BrokerOptions::default());
    assert!(is_heard_at("127.0.0.1", broker.tcp_port()));
    assert!(!is_heard_at(ELSEWHERE, broker.tcp_port()) && !is_heard_at(ELSEWHERE, pub_port(&broker)));
    assert!(broker.stdout().contains("this machine only (127.0.0.1)"), "{}", broker.stdout());

    let mut broker = Broker::start(BrokerOptions::default().listen(["127.0.0.1", ELSEWHERE]));
    assert_eq!(broker.endpoint()["tcp"]["hosts"], json!(["127.0.0.1", ELSEWHERE]));
    let ports = (broker.tcp_port(), pub_port(&broker));
    for host in ["127.0.0.1", ELSEWHERE] {
        assert_eq!(hello(&broker.dealer_at(host))["user"], "owner");
        assert!(is_heard_at(host, ports.1), "{host}");
    }
    assert!(!is_heard_at("127.0.0.3", ports.0));
    broker.stop();
    broker.restart();
    assert_eq!((broker.tcp_port(), pub_port(&broker)), ports, "ports are remembered");
    hello(&broker.dealer_at(ELSEWHERE));

    // A port that another program has on one of the addresses is of no use.
    broker.stop();
    let other = TcpListener::bind((ELSEWHERE, ports.0)).unwrap();
    broker.restart();
    assert_ne!(broker.tcp_port(), ports.0);
    assert_eq!(pub_port(&broker), ports.1);
    assert!(broker.stderr().contains(&format!("port {}, used last time, is taken", ports.0)), "{}", broker.stderr());
    hello(&broker.dealer_at(ELSEWHERE));
    drop(other);
}

#[test]
fn addresses_that_are_advertised_come_first_for_everybody_who_asks() {
    let catalog = Catalog::start();
    let options = BrokerOptions { catalog: catalog.address.clone(), ..BrokerOptions::default() };
    let broker = Broker::start(options.args(["--advertise", "gate.example.org:9000", "--advertise", "fd00::7"]));
    let port = broker.tcp_port();
    let advertised = ["tcp://gate.example.org:9000".to_owned(), format!("tcp://[fd00::7]:{port}")];
    assert_eq!(broker.endpoint()["tcp"]["advertised"], json!(advertised));
    let seen = catalog.record_of(&broker);
    assert_eq!(seen.record.endpoints, advertised, "loopback is nothing to announce");
    assert_eq!(Some(seen.record.port), Some(port));
    let link = verb(broker.home(), &["test", "link"]).text();
    assert!(link.starts_with("kv://gate.example.org:9000/test?key=kvpub1"), "{link}");
    assert!(broker.stdout().contains("advertised as tcp://gate.example.org:9000, tcp://[fd00::7]"), "{}", broker.stdout());

    // One that listens on all addresses tells those of the machine.
    let options = BrokerOptions { catalog: catalog.address.clone(), ..BrokerOptions::default() };
    let broker = Broker::start(options.listen::<String>([]));
    let own = hosts(&broker).into_iter().filter(|host| !host.is_loopback());
    let own: Vec<String> =
        own.map(|host| format!("tcp://{}", std::net::SocketAddr::new(host, broker.tcp_port()))).take(8).collect();
    assert_eq!(catalog.record_of(&broker).record.endpoints, own);
}

#[test]
fn insecure_is_plain_and_for_anyone_on_loopback_and_says_so_everywhere() {
    let catalog = Catalog::start();
    let options = BrokerOptions { catalog: catalog.address.clone(), ..BrokerOptions::default() };
    let broker = Broker::start(options.listen::<String>([]).args(["--insecure"]));
    let port = broker.tcp_port();
    assert_eq!(hosts(&broker), [IpAddr::V4(Ipv4Addr::LOCALHOST)]);
    assert!(!is_heard_at(ELSEWHERE, port) && !is_heard_at(ELSEWHERE, pub_port(&broker)));

    let anyone = RawClient::plain_on_tcp(&format!("tcp://127.0.0.1:{port}"));
    let said = hello(&anyone);
    assert_eq!((&said["user"], &said["role"]), (&json!("anyone"), &json!("write")));
    let feed = RawSubscriber::plain_on_tcp(&format!("tcp://127.0.0.1:{}", pub_port(&broker)), &[b"k"]);
    // Who subscribes is heard of some time after it has connected.
    let mut value = 0;
    wait_until(PATIENCE, "a plain subscriber hears of changes", || {
        value += 1;
        assert_eq!(anyone.ask_json(&json!({"op": "put", "key": "k", "value": value}))["status"], "ok");
        feed.try_receive(Duration::from_millis(50))
    });
    // Unix sockets are as always, and it is one table.
    let owner = broker.dealer();
    assert_eq!(hello(&owner)["user"], "owner");
    assert_eq!(owner.ask_json(&json!({"op": "get", "key": "k"}))["value"], value);
    let revoked = anyone.ask_json(&json!({"op": "revoke", "key": format!("kvpub1{}", "ab".repeat(32))}));
    assert_eq!(revoked["error"]["code"], "refused", "anyone may write, not administer: {revoked}");

    assert_eq!(broker.endpoint().get("public_key"), None);
    assert_eq!(catalog.record_of(&broker).record.public_key, None);
    let link = verb(broker.home(), &["test", "link"]).text();
    assert_eq!(link.trim(), format!("kv://127.0.0.1:{port}/test"), "nothing stands for who it is");
    let ready = broker.stdout();
    assert!(ready.contains("NOT ENCRYPTED (--insecure)") && ready.contains("ANYBODY"), "{ready}");
    assert!(broker.stderr().contains("nothing is encrypted and nobody is asked for a key"), "{}", broker.stderr());
}

#[test]
fn insecure_beyond_this_machine_has_to_be_said_twice() {
    for args in [
        &["--insecure", "--listen", "0.0.0.0"][..],
        &["--insecure", "--listen", "::"],
        &["--insecure", "--advertise", "gate.example.org"],
        &["--insecure-beyond-this-machine"],
    ] {
        let ended = Broker::try_start(BrokerOptions::default().listen::<String>([]).args(args.iter().copied())).unwrap_err();
        assert_eq!(ended.status.code(), Some(USAGE), "{args:?}: {}", ended.stderr);
        assert!(ended.stderr.contains("--insecure-beyond-this-machine"), "{args:?}: {}", ended.stderr);
    }
    // 127.0.0.2 is this machine, too; what is to be shown is that the flags are taken together.
    let options = BrokerOptions::default().listen([ELSEWHERE]);
    let broker = Broker::start(options.args(["--insecure", "--insecure-beyond-this-machine"]));
    let anyone = RawClient::plain_on_tcp(&format!("tcp://{ELSEWHERE}:{}", broker.tcp_port()));
    assert_eq!(hello(&anyone)["user"], "anyone");
}

#[test]
fn an_encrypted_restart_of_an_insecure_broker_lets_nobody_in_without_a_key() {
    let mut broker = Broker::start(BrokerOptions::default().args(["--insecure"]));
    let address = format!("tcp://127.0.0.1:{}", broker.tcp_port());
    hello(&RawClient::plain_on_tcp(&address));
    broker.stop();
    broker.options().args.clear();
    broker.restart();
    assert_eq!(format!("tcp://127.0.0.1:{}", broker.tcp_port()), address, "the same port");
    let plain = RawClient::plain_on_tcp(&address);
    plain.send(&[r#"{"op":"ping"}"#]);
    assert_eq!(plain.try_receive(SILENCE), None);
    assert_eq!(hello(&broker.dealer_on_tcp())["user"], "owner");
}

#[test]
fn a_broker_under_another_account_gets_the_owners_key_from_a_file() {
    let (owners, service) = (Home::new(), Home::new());
    // Whatever made it: the owner has a key at home.
    Broker::start(BrokerOptions::default().home(&owners)).stop();
    let key = service.path().join("owner.key");
    fs::copy(owners.path().join("config/id"), &key).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let pair = load_key_file(&key).unwrap();
    let expected = *pair.project(&"test".parse::<ProjectName>().unwrap()).unwrap().public();

    let with_key = || BrokerOptions::default().home(&service).args(["--key".as_ref(), key.as_os_str()]);
    let mut broker = Broker::start(with_key());
    assert_eq!(broker.endpoint()["public_key"], expected.to_string(), "the key that the owner's clients expect");
    assert!(!service.path().join("config/id").exists(), "no other key is made");
    let client = RawClient::on_tcp(&format!("tcp://127.0.0.1:{}", broker.tcp_port()), &pair, &expected);
    assert_eq!(hello(&client)["user"], "owner");
    broker.stop();

    // What others can read is no secret, and what is not there is not made.
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    let ended = Broker::try_start(with_key()).unwrap_err();
    assert_eq!(ended.status.code(), Some(REFUSED), "{}", ended.stderr);
    assert!(ended.stderr.contains("chmod 600"), "{}", ended.stderr);
    fs::remove_file(&key).unwrap();
    let ended = Broker::try_start(with_key()).unwrap_err();
    assert_eq!(ended.status.code(), Some(REFUSED), "{}", ended.stderr);
    assert!(!key.exists());
}

#[test]
fn the_ready_block_tells_how_many_others_may_come_in() {
    let mut broker = Broker::plain();
    assert!(broker.stdout().contains("others if you authorize theirs"), "{}", broker.stdout());
    let cli = Cli::new(broker.home());
    for (number, said) in [(1, "and one authorized key ("), (2, "and 2 authorized keys (")] {
        cli.ok(&["test", "authorize", &format!("kvpub1{}", format!("{number:02}").repeat(32)), "read"]);
        broker.stop();
        broker.restart();
        assert!(broker.stdout().contains(said), "{}", broker.stdout());
    }
}

#[test]
fn an_address_of_another_machine_is_refused_with_the_flag_that_named_it() {
    let ended = Broker::try_start(BrokerOptions::default().listen(["192.0.2.7"])).unwrap_err();
    assert_eq!(ended.status.code(), Some(5), "{}", ended.stderr);
    assert!(ended.stderr.contains("192.0.2.7") && ended.stderr.contains("--listen"), "{}", ended.stderr);
}

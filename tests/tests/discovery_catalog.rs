//! Discovery against real catalogs: CCTools' `catalog_server` and our `kvcatalog`.
//!
//! - The real server comes from Debian's package `coop-computing-tools`. Without it
//!   those tests say that they were left out; with `KVBROKER_PEERS=required` they fail.
//! - Everything stays on 127.0.0.1: the server is told to report to 127.0.0.1 too.
//! - Tests wait for conditions with a deadline; processes end with their guards.

#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use kvbroker::catalog::{CatalogAddr, CatalogList, CatalogRecord, Listing, SeenRecord, group_by_uuid, merge, query, query_all};
use kvbroker_discovery::{
    Announcer, AnnouncerConfig, CatalogConfig, CatalogServer, CatalogState, CatalogStatus, Reach, StopHandle,
};
use tempfile::TempDir;
use uuid::Uuid;

/// How long a test waits for something that must happen.
const PATIENCE: Duration = Duration::from_secs(30);
const SECOND: Duration = Duration::from_secs(1);

// ---- the catalogs under test ------------------------------------------------------

/// A running catalog; ends when dropped.
enum Catalog {
    Real { child: Child, port: u16, _history: TempDir },
    Ours { addr: SocketAddr, stop: StopHandle, thread: Option<JoinHandle<std::io::Result<()>>> },
}

impl Catalog {
    /// The real server, or `None` (said aloud) when it is not installed.
    fn real() -> Option<Self> {
        let installed = Command::new("catalog_server").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if installed.is_err() {
            let advice = "catalog_server is not installed (Debian: apt-get install coop-computing-tools)";
            let required = std::env::var("KVBROKER_PEERS").is_ok_and(|peers| peers == "required");
            assert!(!required, "{advice}");
            println!("left out: {advice}");
            return None;
        }
        // A free port may be taken before the server binds it: then another try.
        (0..20).find_map(|_| Self::real_at(free_port_pair()))
    }

    fn real_at(port: u16) -> Option<Self> {
        // It keeps a history in its working directory.
        let history = TempDir::new().unwrap();
        let mut child = Command::new("catalog_server")
            .args(["-p", &port.to_string(), "-I", "127.0.0.1", "-u", "127.0.0.1", "-n", "localhost"])
            .current_dir(history.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            // The update port is the last one that it binds.
            if TcpStream::connect((Ipv4Addr::LOCALHOST, port + 1)).is_ok() && child.try_wait().unwrap().is_none() {
                return Some(Catalog::Real { child, port, _history: history });
            }
            if child.try_wait().unwrap().is_some() {
                return None;
            }
            assert!(Instant::now() < deadline, "catalog_server never listened");
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn ours() -> Self {
        Self::ours_at(0)
    }

    fn ours_at(port: u16) -> Self {
        let config = CatalogConfig { listen: Ipv4Addr::LOCALHOST.into(), port, lifetime_s: 1800 };
        let server = CatalogServer::bind(&config).unwrap();
        let (addr, stop) = (server.addr(), server.stop_handle());
        Catalog::Ours { addr, stop, thread: Some(thread::spawn(move || server.run())) }
    }

    /// Ours, and the real one where it is installed.
    fn both() -> Vec<Self> {
        Some(Self::ours()).into_iter().chain(Self::real()).collect()
    }

    fn port(&self) -> u16 {
        match self {
            Catalog::Real { port, .. } => *port,
            Catalog::Ours { addr, .. } => addr.port(),
        }
    }

    fn addr(&self) -> CatalogAddr {
        format!("127.0.0.1:{}", self.port()).parse().unwrap()
    }

    fn send(&self, bytes: &[u8]) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.send_to(bytes, (Ipv4Addr::LOCALHOST, self.port())).unwrap();
    }

    fn listing(&self) -> Listing {
        query(&self.addr(), PATIENCE).unwrap()
    }

    fn wait_until(&self, what: &str, is_so: impl Fn(&Listing) -> bool) -> Listing {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let listing = self.listing();
            if is_so(&listing) {
                return listing;
            }
            assert!(Instant::now() < deadline, "{what}: {listing:?}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it; returns its kind and port for [`Catalog::again`].
    fn end(self) -> (bool, u16) {
        (matches!(self, Catalog::Real { .. }), self.port())
    }

    /// A new one of the same kind on the same port.
    fn again((is_real, port): (bool, u16)) -> Self {
        if is_real { Self::real_at(port).expect("the port was just free") } else { Self::ours_at(port) }
    }
}

impl Drop for Catalog {
    fn drop(&mut self) {
        match self {
            Catalog::Real { child, .. } => {
                let _ = child.kill();
                let _ = child.wait();
            }
            Catalog::Ours { stop, thread, .. } => {
                stop.stop();
                let ended = thread.take().map(JoinHandle::join);
                assert!(thread::panicking() || matches!(ended, Some(Ok(Ok(())))), "the catalog ended badly");
            }
        }
    }
}

/// A port that is free for TCP and UDP, with the next one free for TCP.
fn free_port_pair() -> u16 {
    for _ in 0..100 {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = first.local_addr().unwrap().port();
        let pair_is_free = port < u16::MAX
            && UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
            && TcpListener::bind((Ipv4Addr::LOCALHOST, port + 1)).is_ok();
        if pair_is_free {
            return port;
        }
    }
    panic!("no two neighbouring free ports");
}

/// A way to a catalog on which UDP does not arrive: TCP is passed on, UDP is not.
struct TcpOnly {
    addr: CatalogAddr,
    /// Keeps the UDP port open and never reads it: a firewall that drops.
    _black_hole: Option<UdpSocket>,
}

impl TcpOnly {
    fn new(behind: &Catalog, drops_silently: bool) -> Self {
        let (port, black_hole, listeners) = (0..100)
            .find_map(|_| {
                let port = free_port_pair();
                let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).ok()?;
                let first = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()?;
                let second = TcpListener::bind((Ipv4Addr::LOCALHOST, port + 1)).ok()?;
                Some((port, drops_silently.then_some(udp), [first, second]))
            })
            .expect("free ports exist");
        for (listener, to) in listeners.into_iter().zip([behind.port(), behind.port() + 1]) {
            // Ends with the test process: it only ever waits in accept.
            thread::spawn(move || {
                for client in listener.incoming() {
                    let (Ok(client), Ok(server)) = (client, TcpStream::connect((Ipv4Addr::LOCALHOST, to))) else { continue };
                    pass_on(client.try_clone().unwrap(), server.try_clone().unwrap());
                    pass_on(server, client);
                }
            });
        }
        TcpOnly { addr: format!("127.0.0.1:{port}").parse().unwrap(), _black_hole: black_hole }
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream) {
    thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
}

// ---- what is announced ------------------------------------------------------------

fn list(catalogs: &[&CatalogAddr]) -> CatalogList {
    let all: Vec<String> = catalogs.iter().map(ToString::to_string).collect();
    CatalogList::from_settings(Some(&all.join(",")), None, None).unwrap()
}

fn record(project: &str, port: u16) -> CatalogRecord {
    CatalogRecord {
        project: project.parse().unwrap(),
        owner: "netid".into(),
        port,
        version: "0.1.0".into(),
        uuid: Uuid::new_v4(),
        instance: Uuid::new_v4(),
        epoch: 0xfeed_face_cafe_beef,
        starttime: 1_700_000_000,
        lifetime_s: kvbroker::catalog::RECORD_LIFETIME_S,
        pub_port: Some(port + 1),
        public_key: Some("kvpub1".to_owned() + &"5a".repeat(32)),
        shard: 0,
        durability: "always".into(),
        endpoints: vec![format!("tcp://127.0.0.1:{port}")],
    }
}

fn announce(catalog: &CatalogAddr, record: CatalogRecord) -> Announcer {
    Announcer::start(AnnouncerConfig { catalogs: list(&[catalog]), reach: Reach::LoopbackOnly, record })
}

fn wait_for_state(announcer: &Announcer, wanted: CatalogState) -> CatalogStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = announcer.status().remove(0);
        if status.state == wanted {
            return status;
        }
        assert!(Instant::now() < deadline, "{wanted:?} never came: {status}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn of<'a>(listing: &'a Listing, record: &CatalogRecord) -> Vec<&'a SeenRecord> {
    listing.seen.iter().filter(|seen| seen.record == *record).collect()
}

/// What `catalog_query` prints for the records that match; `None` when it is not installed.
fn catalog_query(catalog: &CatalogAddr, filter: &str) -> Option<String> {
    let out = Command::new("catalog_query")
        .args(["--catalog", &catalog.to_string(), "--where", filter, "--timeout", "10"])
        .output()
        .ok()?;
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    Some(String::from_utf8(out.stdout).unwrap())
}

// ---- the tests --------------------------------------------------------------------

#[test]
fn an_announced_broker_is_listed_and_found_by_every_client() {
    for catalog in Catalog::both() {
        let (first, second) = (record("NETID-a5", 9_123), record("NETID-other", 9_200));
        let started = Instant::now();
        let announcers = [announce(&catalog.addr(), first.clone()), announce(&catalog.addr(), second.clone())];
        for announcer in &announcers {
            let status = announcer.wait_settled(PATIENCE).remove(0);
            assert_eq!((status.state, status.via), (CatalogState::Listed, Some("udp")), "{status}");
        }
        assert!(started.elapsed() < 5 * SECOND, "a healthy catalog lists us at once");

        let listing = catalog.listing();
        let seen = of(&listing, &first);
        assert_eq!(seen.len(), 1);
        assert_eq!(seen[0].tcp_endpoints(), ["tcp://127.0.0.1:9123"]);
        assert!(seen[0].lastheardfrom > 1_700_000_000);
        assert_eq!(of(&listing, &second).len(), 1);

        // CCTools' own client, against either server.
        if let Some(shown) = catalog_query(&catalog.addr(), r#"type=="hashtable" && project=="NETID-a5""#) {
            let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
            assert_eq!(shown.as_array().map(Vec::len), Some(1), "{shown}");
            assert_eq!(shown[0]["uuid"], first.uuid.to_string());
            assert_eq!(shown[0]["epoch"], "feedfacecafebeef");
            assert_eq!(shown[0]["port"], 9123);
        }
    }
}

#[test]
fn cctools_own_updates_reach_our_catalog() {
    let catalog = Catalog::ours();
    let dir = TempDir::new().unwrap();
    for protocol in ["udp", "tcp"] {
        let fields = dir.path().join(protocol);
        std::fs::write(&fields, format!(r#"{{"by":"{protocol}"}}"#)).unwrap();
        let sent = Command::new("catalog_update")
            .args(["--catalog", &catalog.addr().to_string(), "--file"])
            .arg(&fields)
            .env("CATALOG_UPDATE_PROTOCOL", protocol)
            .env("CATALOG_HOST", catalog.addr().to_string())
            .output();
        let Ok(sent) = sent else {
            println!("left out: catalog_update is not installed");
            return;
        };
        assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
        let deadline = Instant::now() + PATIENCE;
        while !page(&catalog, "/query.text").contains(&format!("by {protocol}")) {
            assert!(Instant::now() < deadline, "the {protocol} update never came: {}", page(&catalog, "/query.text"));
            thread::sleep(Duration::from_millis(20));
        }
    }
}

fn page(catalog: &Catalog, path: &str) -> String {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, catalog.port())).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_twin_left_by_a_crash_stands_behind_its_successor() {
    for catalog in Catalog::both() {
        let crashed = record("NETID-a5", 9_001);
        catalog.send(crashed.to_json().as_bytes());
        catalog.wait_until("the crashed one is listed", |listing| of(listing, &crashed).len() == 1);

        // The same log on another port: a restart with `--port 0`.
        let restarted = CatalogRecord {
            instance: Uuid::new_v4(),
            starttime: crashed.starttime + 1,
            uuid: crashed.uuid,
            ..record("NETID-a5", 9_002)
        };
        let announcer = announce(&catalog.addr(), restarted.clone());
        wait_for_state(&announcer, CatalogState::Listed);
        let groups = group_by_uuid(merge(&query_all(&list(&[&catalog.addr()]), PATIENCE)));
        assert_eq!(groups.len(), 1);
        let instances: Vec<Uuid> = groups[0].iter().map(|seen| seen.record.instance).collect();
        assert_eq!(instances, [restarted.instance, crashed.instance]);
    }
}

#[test]
fn a_broker_that_stops_says_farewell() {
    for catalog in Catalog::both() {
        let stopping = record("NETID-a5", 9_003);
        let announcer = announce(&catalog.addr(), stopping.clone());
        wait_for_state(&announcer, CatalogState::Listed);
        let started = Instant::now();
        announcer.stop();
        assert!(started.elapsed() < SECOND);
        // The real server keeps it until its next cleaning, marked; ours drops it after a second.
        catalog.wait_until("it has left", |listing| {
            let its: Vec<_> = listing.seen.iter().filter(|seen| seen.record.uuid == stopping.uuid).collect();
            its.iter().all(|seen| seen.has_left())
        });
        if matches!(catalog, Catalog::Ours { .. }) {
            catalog.wait_until("it is forgotten", |listing| listing.seen.is_empty());
        }
    }
}

#[test]
fn hostile_records_hide_nobody() {
    for catalog in Catalog::both() {
        let good = record("NETID-a5", 9_004);
        let hostile: Vec<Vec<u8>> = [
            // The real server prints these as `inf`: the whole listing is no JSON any more.
            r#"{"type":"hashtable","port":1,"x":1e999}"#.to_owned(),
            r#"{"type":"zoo","port":2,"x":-1e999}"#.to_owned(),
            // Non-ASCII text comes out of it mangled, deep nesting as it is.
            "{\"type\":\"hashtable\",\"port\":3,\"owner\":\"\u{e9}\u{202e}\"}".to_owned(),
            format!(r#"{{"type":"hashtable","port":4,"d":{}{}}}"#, "[".repeat(5_000), "]".repeat(5_000)),
            format!(r#"{{"type":"hashtable","port":5,"s":"{}"}}"#, "A".repeat(50_000)),
            r#"{"type":"hashtable","port":"77777","project":"NETID-a5"}"#.to_owned(),
            r#"{"type":"hashtable","port":-7,"project":["x"],"uuid":7}"#.to_owned(),
            r#"{"type":"hashtable","port":6,"project":"../../etc","owner":"\u001b[2J"}"#.to_owned(),
            // Liars about who they are: a borrowed identity, a false address and time.
            good.to_json()
                .replace(r#""owner""#, r#""address":"192.0.2.1","lastheardfrom":99999999999,"owner""#)
                .replace("9004", "9005"),
            "not json at all".to_owned(),
            "{".to_owned(),
            String::new(),
        ]
        .map(String::into_bytes)
        .into();
        for bytes in &hostile {
            catalog.send(bytes);
        }
        catalog.send(b"{\"type\":\"hashtable\",\"port\":8,\"s\":\"\xff\xfe\"}");
        let announcer = announce(&catalog.addr(), good.clone());
        wait_for_state(&announcer, CatalogState::Listed);
        let listing = catalog.wait_until("both are listed", |listing| {
            of(listing, &good).len() == 1 && listing.seen.iter().any(|seen| seen.record.port == 9_005)
        });
        assert_eq!(listing.cut_short, None);
        assert!(listing.refused_count >= 3, "{:?}", listing.refused);
        assert!(listing.seen.iter().all(|seen| seen.address.is_loopback() && seen.lastheardfrom < 9_999_999_999));
        for refused in &listing.refused {
            let reason = refused.reason.to_string();
            assert!(!reason.is_empty() && !reason.chars().any(char::is_control), "{reason:?}");
        }
    }
}

#[test]
fn a_catalog_that_goes_down_and_comes_back_lists_us_again() {
    for catalog in Catalog::both() {
        let addr = catalog.addr();
        let mut ours = record("NETID-a5", 9_006);
        let announcer = announce(&addr, ours.clone());
        wait_for_state(&announcer, CatalogState::Listed);

        let place = catalog.end();
        // A change is checked at once; without one the next check is minutes away.
        ours.durability = "100ms".into();
        announcer.update(ours.clone()).unwrap();
        let silent = wait_for_state(&announcer, CatalogState::Silent);
        assert!(silent.why.is_some(), "{silent}");
        assert!(query(&addr, SECOND).is_err());

        let back = Catalog::again(place);
        wait_for_state(&announcer, CatalogState::Listed);
        assert_eq!(of(&back.listing(), &ours).len(), 1);
    }
}

#[test]
fn where_udp_is_refused_tcp_is_used_at_once() {
    for catalog in Catalog::both() {
        let way = TcpOnly::new(&catalog, false);
        let announcer = announce(&way.addr, record("NETID-a5", 9_007));
        let started = Instant::now();
        let status = wait_for_state(&announcer, CatalogState::Listed);
        assert_eq!(status.via, Some("tcp"));
        assert!(started.elapsed() < 8 * SECOND);
    }
}

#[test]
fn where_udp_vanishes_tcp_is_used_after_ten_seconds() {
    for catalog in Catalog::both() {
        let way = TcpOnly::new(&catalog, true);
        let announcer = announce(&way.addr, record("NETID-a5", 9_008));
        let status = wait_for_state(&announcer, CatalogState::Listed);
        assert_eq!(status.via, Some("tcp"));
    }
}

#[test]
fn a_record_too_big_for_a_datagram_goes_by_tcp() {
    for catalog in Catalog::both() {
        let mut big = record("NETID-a5", 9_009);
        big.endpoints = (0..8).map(|i| format!("tcp://{}.example:90{i:02}", "h".repeat(200))).collect();
        let announcer = announce(&catalog.addr(), big.clone());
        let status = wait_for_state(&announcer, CatalogState::Listed);
        assert_eq!(status.via, Some("tcp"));
        assert_eq!(of(&catalog.listing(), &big).len(), 1);
    }
}

#[test]
fn stopping_is_prompt_while_a_catalog_hangs() {
    let hanging = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = hanging.local_addr().unwrap().port();
    // Keeps UDP from being refused, so that it hangs in the look-up.
    let _swallows = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).ok();
    let hangs: CatalogAddr = format!("127.0.0.1:{port}").parse().unwrap();
    let healthy = Catalog::ours();
    let ours = record("NETID-a5", 9_010);
    let catalogs = list(&[&hangs, &healthy.addr()]);
    let announcer = Announcer::start(AnnouncerConfig { catalogs, reach: Reach::LoopbackOnly, record: ours.clone() });
    healthy.wait_until("the healthy one is not held up", |listing| of(listing, &ours).len() == 1);
    let started = Instant::now();
    assert_eq!(announcer.status()[0].state, CatalogState::Trying);
    announcer.stop();
    assert!(started.elapsed() < SECOND, "{:?}", started.elapsed());
}

#[test]
fn a_broker_on_loopback_is_not_announced_elsewhere_and_says_why() {
    // Documentation addresses (RFC 5737): nobody is there, and nothing is sent.
    let elsewhere: CatalogAddr = "192.0.2.1:9097".parse().unwrap();
    let announcer = announce(&elsewhere, record("NETID-a5", 9_011));
    let status = announcer.wait_settled(PATIENCE).remove(0);
    assert_eq!(status.state, CatalogState::Skipped);
    assert!(status.to_string().contains("loopback"), "{status}");
    announcer.stop();
}

#[test]
fn a_record_that_no_reader_would_take_is_not_sent_and_that_is_said() {
    let catalog = Catalog::ours();
    let umlaut = CatalogRecord { owner: "J\u{f6}rg".into(), ..record("NETID-a5", 9_013) };
    let announcer = announce(&catalog.addr(), umlaut.clone());
    let status = announcer.status().remove(0);
    assert_eq!(status.state, CatalogState::Skipped);
    assert!(status.to_string().contains("`owner`"), "{status}");
    announcer.stop();

    let announcer = announce(&catalog.addr(), record("NETID-a5", 9_013));
    wait_for_state(&announcer, CatalogState::Listed);
    assert!(announcer.update(umlaut).is_err());
    assert_eq!(announcer.status()[0].state, CatalogState::Listed);
}

#[test]
fn without_catalogs_there_is_nothing_to_do() {
    let config = AnnouncerConfig { catalogs: CatalogList::none(), reach: Reach::LoopbackOnly, record: record("p", 9_012) };
    let announcer = Announcer::start(config);
    assert!(announcer.wait_settled(PATIENCE).is_empty());
    announcer.stop();
}

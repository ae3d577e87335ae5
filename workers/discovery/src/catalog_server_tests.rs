//! The catalog over real sockets on the loopback interface.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::thread::{self, JoinHandle};

use super::*;

struct Running {
    addr: SocketAddr,
    stop: StopHandle,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.stop();
        self.thread.take().unwrap().join().unwrap().unwrap();
    }
}

fn start() -> Running {
    let config = CatalogConfig { listen: Ipv4Addr::LOCALHOST.into(), port: 0, lifetime_s: 1800 };
    let server = CatalogServer::bind(&config).unwrap();
    let (addr, stop) = (server.addr(), server.stop_handle());
    Running { addr, stop, thread: Some(thread::spawn(move || server.run())) }
}

impl Running {
    fn connect(&self, offset: u16) -> TcpStream {
        let stream = TcpStream::connect((self.addr.ip(), self.addr.port() + offset)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    fn get(&self, path: &str) -> String {
        let mut stream = self.connect(0);
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
        read_all(stream)
    }

    fn udp(&self, bytes: &[u8]) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.send_to(bytes, self.addr).unwrap();
    }

    fn tcp(&self, bytes: &[u8]) {
        let mut stream = self.connect(1);
        stream.write_all(bytes).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        // The catalog closes when it has taken the update.
        assert_eq!(read_all(stream), "");
    }

    fn wait_for(&self, text: &str) -> String {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let page = self.get("/query.json");
            if page.contains(text) {
                return page;
            }
            assert!(Instant::now() < deadline, "{text} never came: {page}");
            thread::yield_now();
        }
    }
}

fn read_all(mut stream: TcpStream) -> String {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    String::from_utf8(all).unwrap()
}

#[test]
fn updates_by_udp_and_tcp_are_listed() {
    let catalog = start();
    catalog.udp(br#"{"type":"x","port":1,"project":"by-udp"}"#);
    catalog.wait_for("by-udp");
    catalog.tcp(br#"{"type":"x","port":2,"project":"by-tcp"}"#);
    let page = catalog.get("/query.json");
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n") && page.contains("by-tcp"));
    assert!(catalog.get("/query.text").contains("project by-udp\n"));
    assert!(catalog.get("/").contains("<td>by-tcp</td>"));
    assert!(catalog.get("/query/dHJ1ZQ==").contains("by-tcp"));
    assert!(catalog.get("/nope").starts_with("HTTP/1.1 404 "));
}

#[test]
fn head_and_a_client_that_ends_its_side_are_answered() {
    let catalog = start();
    let mut stream = catalog.connect(0);
    stream.write_all(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let reply = read_all(stream);
    assert!(reply.starts_with("HTTP/1.1 200") && reply.ends_with("\r\n\r\n"), "{reply}");

    let mut half = catalog.connect(0);
    half.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    half.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(half), "");
}

#[test]
fn bad_updates_hurt_nobody() {
    let catalog = start();
    for bad in [&b""[..], b"{", b"GET / HTTP/1.0\r\n\r\n", b"\x1a\x00\x01", b"{\"port\":1e999}", b"\xff\xff"] {
        catalog.udp(bad);
        catalog.tcp(bad);
    }
    let mut endless = catalog.connect(1);
    let chunk = vec![b' '; 64 * 1024];
    // It is cut off at the limit: sooner or later writing fails.
    while endless.write_all(&chunk).is_ok() {}
    catalog.tcp(br#"{"port":7,"project":"good"}"#);
    let page = catalog.get("/query.json");
    assert_eq!(page.matches("\"address\"").count(), 1, "{page}");
    assert!(page.contains("good"));
}

#[test]
fn slow_clients_make_room_for_others() {
    let catalog = start();
    let mut slow: Vec<TcpStream> = Vec::new();
    for _ in 0..CONNECTIONS_MAX + 50 {
        let mut stream = catalog.connect(0);
        stream.write_all(b"GET /").unwrap();
        slow.push(stream);
    }
    assert!(catalog.get("/query.json").starts_with("HTTP/1.1 200"));
}

#[test]
fn a_silent_update_connection_is_closed_at_its_deadline_and_counts() {
    let catalog = start();
    let mut silent = catalog.connect(1);
    silent.write_all(br#"{"port":9,"project":"never-closed"}"#).unwrap();
    assert_eq!(read_all(silent), "");
    assert!(catalog.get("/query.json").contains("never-closed"));
}

#[test]
fn a_taken_port_is_named_with_advice() {
    let catalog = start();
    let bind = |port| CatalogServer::bind(&CatalogConfig { listen: Ipv4Addr::LOCALHOST.into(), port, lifetime_s: 9 });
    let error = bind(catalog.addr.port()).unwrap_err().to_string();
    assert!(error.contains("TCP port") && error.contains("--port"), "{error}");
    assert!(matches!(bind(65_535), Err(StartError::NoNextPort | StartError::Port { .. })));
}

#[test]
fn random_bytes_on_every_port_change_nothing() {
    let catalog = start();
    let mut seed = 7_u64;
    for _ in 0..300 {
        let bytes: Vec<u8> = (0..200)
            .map(|_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                seed.to_be_bytes()[0]
            })
            .collect();
        catalog.udp(&bytes);
        let mut stream = catalog.connect(0);
        // It may answer 400 and close before everything is written.
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    }
    assert!(catalog.get("/query.json").ends_with("[\n\n]\n"));
}

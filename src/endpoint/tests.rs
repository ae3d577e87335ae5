#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::*;
use crate::paths::Dirs;

struct Place {
    _home: tempfile::TempDir,
    runtime: RuntimeDir,
}

impl Place {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let runtime = Dirs::under(home.path()).unwrap().create_runtime(&"lab".parse().unwrap()).unwrap();
        Self { _home: home, runtime }
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint {
            project: "lab".parse().unwrap(),
            owner: "ann".into(),
            uuid: Uuid::from_u128(1),
            instance: Uuid::from_u128(2),
            epoch: 0x0123_4567_89ab_cdef,
            pid: 4_242,
            starttime_s: 1_700_000_000,
            router_socket: self.runtime.router_socket(),
            pub_socket: self.runtime.pub_socket(),
            tcp: Some(TcpEndpoint {
                hosts: vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()],
                port: 4_000,
                pub_port: 4_001,
                advertised: Vec::new(),
            }),
            public_key: Some(PublicKey::from_bytes([7; 32])),
        }
    }

    /// The written file as JSON, changed and written back.
    fn change(&self, change: impl FnOnce(&mut Value)) -> Result<Option<Endpoint>, EndpointError> {
        self.endpoint().write(&self.runtime).unwrap();
        let mut value = self.json();
        change(&mut value);
        fs::write(self.runtime.endpoint_file(), value.to_string()).unwrap();
        Endpoint::read(&self.runtime)
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&fs::read(self.runtime.endpoint_file()).unwrap()).unwrap()
    }
}

#[test]
fn what_was_written_is_read_and_the_names_are_stable() {
    let place = Place::new();
    assert_eq!(Endpoint::read(&place.runtime).unwrap(), None);
    let mut endpoint = place.endpoint();
    endpoint.write(&place.runtime).unwrap();
    assert_eq!(Endpoint::read(&place.runtime).unwrap().as_ref(), Some(&endpoint));
    let directory = place.runtime.path().display().to_string();
    let expected = json!({
        "project": "lab",
        "owner": "ann",
        "uuid": "00000000-0000-0000-0000-000000000001",
        "instance": "00000000-0000-0000-0000-000000000002",
        "epoch": "0123456789abcdef",
        "pid": 4242,
        "starttime": 1_700_000_000,
        "router": format!("{directory}/router.sock"),
        "pub": format!("{directory}/pub.sock"),
        "tcp": {"hosts": ["127.0.0.1", "::1"], "port": 4000, "pub_port": 4001},
        "public_key": format!("kvpub1{}", "07".repeat(32)),
    });
    assert_eq!(place.json(), expected);

    if let Some(tcp) = &mut endpoint.tcp {
        tcp.advertised = vec!["tcp://gate.example.org:9000".into(), "tcp://[fd00::1]:4000".into()];
    }
    endpoint.public_key = None;
    endpoint.write(&place.runtime).unwrap();
    assert_eq!(place.json()["tcp"]["advertised"], json!(["tcp://gate.example.org:9000", "tcp://[fd00::1]:4000"]));
    assert_eq!(place.json().get("public_key"), None, "no encryption, no key");
    assert_eq!(Endpoint::read(&place.runtime).unwrap().as_ref(), Some(&endpoint));

    endpoint.tcp = None;
    endpoint.write(&place.runtime).unwrap();
    assert_eq!(Endpoint::read(&place.runtime).unwrap(), Some(endpoint));
    // The temporary file is gone.
    assert_eq!(fs::read_dir(place.runtime.path()).unwrap().count(), 1);

    Endpoint::remove(&place.runtime).unwrap();
    Endpoint::remove(&place.runtime).unwrap();
    assert_eq!(Endpoint::read(&place.runtime).unwrap(), None);
}

#[test]
fn fields_of_newer_brokers_are_ignored() {
    let place = Place::new();
    let read = place.change(|json| json["shard"] = json!({"of": 8})).unwrap();
    assert_eq!(read, Some(place.endpoint()));
}

#[test]
fn what_a_broker_would_not_write_is_refused() {
    let place = Place::new();
    let directory = place.runtime.path().display().to_string();
    let cases: Vec<(&str, Value, &str)> = vec![
        ("project", json!("other"), "it belongs to other"),
        ("project", json!("../lab"), "only A-Z a-z"),
        ("owner", json!(""), "owner's name"),
        ("owner", json!("a\u{1b}[31m"), "owner's name"),
        ("owner", json!("x".repeat(65)), "owner's name"),
        ("uuid", json!("00000000-0000-0000-0000-000000000000"), "nil"),
        ("instance", json!("no"), "UUID"),
        ("epoch", json!("123"), "16 hex digits"),
        ("epoch", json!("+123456789abcdef"), "16 hex digits"),
        ("epoch", json!(5), "invalid type"),
        ("pid", json!(0), "pid"),
        ("pid", json!(4_000_000_000_u32), "pid"),
        ("pid", json!(-1), "invalid value"),
        ("router", json!("/elsewhere/router.sock"), "own directory"),
        ("router", json!("router.sock"), "own directory"),
        ("router", json!(format!("{directory}/..")), "own directory"),
        ("pub", json!(format!("{directory}/../lab/pub.sock")), "own directory"),
        ("pub", json!(format!("{directory}/a\0b")), "zero byte"),
        ("pub", json!(format!("{directory}/{}", "x".repeat(100))), "107"),
        ("tcp", json!({"hosts": ["127.0.0.1"], "port": 0, "pub_port": 1}), "port is 0"),
        ("tcp", json!({"hosts": [], "port": 1, "pub_port": 1}), "0 hosts"),
        ("tcp", json!({"hosts": vec!["::1"; 65], "port": 1, "pub_port": 1}), "65 hosts"),
        ("tcp", json!({"hosts": ["localhost"], "port": 1, "pub_port": 1}), "IP address"),
        ("tcp", json!({"hosts": ["::1"], "port": 65_536, "pub_port": 1}), "invalid value"),
        ("public_key", json!("kvpub1"), "64 hex digits"),
        ("public_key", json!(5), "invalid type"),
        ("tcp", json!({"hosts": ["::1"], "port": 1, "pub_port": 1, "advertised": ["tcp://a b:1"]}), "tcp://HOST:PORT"),
        ("tcp", json!({"hosts": ["::1"], "port": 1, "pub_port": 1, "advertised": vec!["tcp://a:1"; 9]}), "at most 8"),
    ];
    for (field, value, expected) in cases {
        let error = place.change(|json| json[field] = value.clone()).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, EndpointError::Invalid { .. }), "{field} {value}: {text}");
        assert!(text.contains(expected), "{field} {value}: {text}");
        assert!(!text.chars().any(char::is_control), "{text:?}");
    }
    for field in ["project", "owner", "uuid", "instance", "epoch", "pid", "starttime", "router", "pub"] {
        let error = place.change(|json| drop(json.as_object_mut().unwrap().remove(field))).unwrap_err();
        assert!(error.to_string().contains("missing field"), "{error}");
    }
}

#[test]
fn what_is_no_json_is_refused() {
    let place = Place::new();
    let file = place.runtime.endpoint_file();
    let deep = "[".repeat(60_000);
    let contents: [&[u8]; 7] = [b"", b"{", b"[]", b"\xff\xfe", b"null", b"{} {}", deep.as_bytes()];
    for content in contents {
        fs::write(&file, content).unwrap();
        assert!(matches!(Endpoint::read(&place.runtime), Err(EndpointError::Invalid { .. })));
    }
    fs::write(&file, vec![b' '; 1 << 20]).unwrap();
    let error = Endpoint::read(&place.runtime).unwrap_err().to_string();
    assert!(error.contains("more than 65536 bytes"), "{error}");
}

#[test]
fn what_is_no_file_is_refused_at_once() {
    let place = Place::new();
    let file = place.runtime.endpoint_file();
    fs::create_dir(&file).unwrap();
    assert!(Endpoint::read(&place.runtime).is_err());
    fs::remove_dir(&file).unwrap();

    let _listener = UnixListener::bind(&file).unwrap();
    assert!(Endpoint::read(&place.runtime).is_err());
    fs::remove_file(&file).unwrap();

    use rustix::fs::{CWD, FileType, Mode, mknodat};
    mknodat(CWD, &file, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    assert!(Endpoint::read(&place.runtime).is_err());
    fs::remove_file(&file).unwrap();

    place.endpoint().write(&place.runtime).unwrap();
    let elsewhere = place.runtime.path().join("elsewhere");
    fs::rename(&file, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &file).unwrap();
    assert!(Endpoint::read(&place.runtime).is_err());
}

#[test]
fn a_broker_can_not_write_what_nobody_would_read() {
    let place = Place::new();
    let mut endpoint = place.endpoint();
    endpoint.pid = 0;
    assert!(matches!(endpoint.write(&place.runtime), Err(EndpointError::Invalid { .. })));
    assert_eq!(Endpoint::read(&place.runtime).unwrap(), None);
}

#[test]
fn live_and_dead_sockets_are_told_apart_at_once() {
    let place = Place::new();
    let path = place.runtime.router_socket();
    assert!(matches!(probe(&path).unwrap(), Liveness::Dead(_)));
    let listener = UnixListener::bind(&path).unwrap();
    // Nobody accepts: the backlog fills, which must neither block nor look dead.
    let begin = Instant::now();
    let held: Vec<_> = (0..8_192)
        .map_while(|_| {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let held = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).ok()?;
            connect(&held, &SocketAddrUnix::new(&path).unwrap()).ok().map(|()| held)
        })
        .collect();
    assert!(!held.is_empty());
    assert!(matches!(probe(&path).unwrap(), Liveness::Alive));
    assert!(begin.elapsed() < Duration::from_secs(10));
    drop(held);

    // A killed process leaves its path behind.
    drop(listener);
    assert!(path.exists());
    assert!(matches!(probe(&path).unwrap(), Liveness::Dead(_)));
    assert!(probe(Path::new(&"x".repeat(200))).is_err());
}

#[test]
fn what_is_wrong_with_a_file_is_said_in_printable_words() {
    let place = Place::new();
    for odd in ["\u{1b}[31mred", "\u{7f}", "a\nb"] {
        let error = place.change(|value| value["uuid"] = json!(odd)).unwrap_err().to_string();
        assert!(!error.chars().any(char::is_control), "{error:?}");
    }
}

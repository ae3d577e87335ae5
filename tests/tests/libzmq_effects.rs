//! Shows that the libzmq in `vendor/zmq-sys` does what its options promise.
//!
//! - A libzmq compiled without a feature often accepts the option and ignores it, so
//!   each test looks at the effect: in the kernel's tables, in what a peer was
//!   allowed to do, in what the ZAP handler was told.
//! - Wherever a test expects a refusal, a twin of it shows that the same peer gets in
//!   when the one setting that should refuse it is missing.
//!
//! Linux only: other systems keep a plainer libzmq.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use std::collections::HashSet;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::{BorrowedFd, RawFd};
use std::time::{Duration, Instant};

use zmq::{Context, CurveKeyPair, Socket};

/// How long a test waits for something that must happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where libzmq looks for the handler that admits or refuses peers (RFC 27).
const ZAP_ENDPOINT: &str = "inproc://zeromq.zap.01";

const MONITOR_ENDPOINT: &str = "inproc://monitor-of-the-server";

#[test]
fn version_is_the_one_this_crate_declares() {
    assert_eq!(zmq::version(), (4, 3, 5));
    assert_eq!(
        zmq::version(),
        (zmq_sys::ZMQ_VERSION_MAJOR as i32, zmq_sys::ZMQ_VERSION_MINOR as i32, zmq_sys::ZMQ_VERSION_PATCH as i32)
    );
}

#[test]
fn curve_is_compiled_in() {
    assert_eq!(zmq::has("curve"), Some(true));
    let pair = CurveKeyPair::new().unwrap();
    assert_ne!(pair.public_key, pair.secret_key);
}

#[test]
fn both_libraries_are_linked_statically() {
    let _context = Context::new();
    let mapped_files = fs::read_to_string("/proc/self/maps").unwrap();
    for library in ["/libzmq.so", "/libsodium.so"] {
        let found = mapped_files.lines().find(|line| line.contains(library));
        assert_eq!(found, None);
    }
}

#[test]
fn threads_are_woken_through_eventfds() {
    let context = Context::new();
    let _socket = context.socket(zmq::DEALER).unwrap();
    let eventfds = open_files().into_iter().filter(|(_, target)| target == "anon_inode:[eventfd]").count();
    // One each for the context's reaper and I/O thread, and one for the socket.
    assert!(eventfds >= 3, "{eventfds} eventfds are open");
}

#[test]
fn background_threads_are_named() {
    let context = Context::new();
    let _socket = context.socket(zmq::DEALER).unwrap();
    wait_until("a thread is called ZMQbg/…", || {
        fs::read_dir("/proc/self/task")
            .unwrap()
            .filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok())
            .any(|name| name.starts_with("ZMQbg/"))
            .then_some(())
    });
}

#[test]
fn no_descriptor_is_inherited_by_started_programs() {
    let link = TcpLink::open(|_| {});
    let listening = link.row(|row| row.listens && row.local_port == link.port);
    let accepted = link.row(|row| row.established && row.local_port == link.port);
    let connecting = link.row(|row| row.established && row.remote_port == link.port);
    let of_this_link = [listening, accepted, connecting].map(|row| format!("socket:[{}]", row.inode));

    let mut checked = HashSet::new();
    for (fd, target) in open_files() {
        let from_libzmq =
            of_this_link.contains(&target) || target == "anon_inode:[eventfd]" || target == "anon_inode:[eventpoll]";
        // A file another test has closed meanwhile has no flags any more.
        if let (true, Some(flags)) = (from_libzmq, open_flags(fd)) {
            // Nor has it those of this one, if another has been opened under its number.
            if file_of(fd).as_ref() != Some(&target) {
                continue;
            }
            assert_ne!(flags & O_CLOEXEC, 0, "{target} would be inherited");
            checked.insert(target);
        }
    }
    assert_eq!(checked.len(), of_this_link.len() + 2, "saw {checked:?}");
}

#[test]
fn keepalive_options_reach_the_kernel() {
    let link = TcpLink::open(|server| {
        server.set_tcp_keepalive(1).unwrap();
        server.set_tcp_keepalive_idle(123).unwrap();
        server.set_tcp_keepalive_cnt(7).unwrap();
        server.set_tcp_keepalive_intvl(45).unwrap();
    });

    // The kernel's own timer is armed, for the time asked rather than two hours.
    let row = wait_until("the keepalive timer runs on the accepted connection", || {
        let row = link.row(|row| row.established && row.local_port == link.port);
        (row.timer_kind == KEEPALIVE_TIMER).then_some(row)
    });
    let idle_ticks = 123 * rustix::param::clock_ticks_per_second();
    assert!((1..=idle_ticks).contains(&row.timer_ticks), "the timer fires in {} ticks, asked for {idle_ticks}", row.timer_ticks);

    let fd = open_files().into_iter().find(|(_, target)| *target == format!("socket:[{}]", row.inode)).map(|(fd, _)| fd).unwrap();
    // SAFETY: libzmq keeps the descriptor open while `link`, which holds both its
    // ends and is dropped at the end of this test, is alive and the peers talk.
    let accepted = unsafe { BorrowedFd::borrow_raw(fd) };
    use rustix::net::sockopt;
    assert!(sockopt::socket_keepalive(accepted).unwrap());
    assert_eq!(sockopt::tcp_keepcnt(accepted).unwrap(), 7);
    assert_eq!(sockopt::tcp_keepidle(accepted).unwrap(), Duration::from_secs(123));
    assert_eq!(sockopt::tcp_keepintvl(accepted).unwrap(), Duration::from_secs(45));
}

#[test]
fn keepalive_stays_off_unless_asked_for() {
    let link = TcpLink::open(|_| {});
    wait_until("no timer runs on the idle connection", || {
        let row = link.row(|row| row.established && row.local_port == link.port);
        assert_ne!(row.timer_kind, KEEPALIVE_TIMER);
        (row.timer_kind == 0).then_some(())
    });
}

#[test]
fn zap_is_told_who_is_behind_an_ipc_connection() {
    let context = Context::new();
    let zap = bind_zap(&context);
    let directory = tempfile::tempdir().unwrap();
    let endpoint = format!("ipc://{}/socket", directory.path().display());
    let server = Server::bind(&context, &endpoint, |server| {
        server.set_zap_domain("local").unwrap();
        enforce_domain(server, true);
    });
    let _client = connect_null(&context, &server.endpoint);

    // RFC 27: version, request id, domain, address, identity, mechanism.
    let request = zap.recv_multipart(0).unwrap();
    let [_, request_id, domain, address, _, mechanism] = &request[..] else {
        panic!("not a ZAP request for NULL: {request:?}");
    };
    assert_eq!(domain, b"local");
    assert_eq!(mechanism, b"NULL");
    assert_eq!(
        String::from_utf8(address.clone()).unwrap(),
        format!("localhost:{}:{}:{}", rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw(), std::process::id())
    );

    // The user id of the answer is on the payload frame.
    let admit: [&[u8]; 6] = [b"1.0", request_id, b"200", b"OK", b"somebody", b""];
    zap.send_multipart(admit, 0).unwrap();
    assert_eq!(server.outcome(), Outcome::LetIn { user: Some("somebody".into()) });
}

#[test]
fn enforce_domain_is_read_back_as_set() {
    let context = Context::new();
    let mut socket = context.socket(zmq::ROUTER).unwrap();
    assert_eq!(read_enforce_domain(&mut socket), 0);
    enforce_domain(&mut socket, true);
    assert_eq!(read_enforce_domain(&mut socket), 1);
    enforce_domain(&mut socket, false);
    assert_eq!(read_enforce_domain(&mut socket), 0);
}

/// One way to guard a socket, and who gets in through it.
struct Guard {
    domain: Option<&'static str>,
    enforced: bool,
    handler: bool,
    lets_in: bool,
}

/// What decides when nobody answers for the peers.
///
/// Two rows are traps. Without enforcement a missing handler admits everybody. With
/// it but without a domain everybody is admitted too, and a handler that is there is
/// not even asked. Only both settings together keep peers out.
const GUARDS: [Guard; 4] = [
    Guard { domain: None, enforced: false, handler: false, lets_in: true },
    Guard { domain: Some("d"), enforced: false, handler: false, lets_in: true },
    Guard { domain: None, enforced: true, handler: true, lets_in: true },
    Guard { domain: Some("d"), enforced: true, handler: false, lets_in: false },
];

impl Guard {
    /// Binds a server behind this guard, lets a client knock, and checks the outcome.
    fn check(&self, secure: impl FnOnce(&mut Socket), client_keys: Option<(&CurveKeyPair, &[u8])>) {
        let context = Context::new();
        let zap = self.handler.then(|| bind_zap(&context));
        let server = Server::bind(&context, "tcp://127.0.0.1:*", |server| {
            secure(server);
            if let Some(domain) = self.domain {
                server.set_zap_domain(domain).unwrap();
            }
            enforce_domain(server, self.enforced);
        });
        let _client = match client_keys {
            Some((own, server_public)) => connect_curve(&context, &server.endpoint, own, server_public),
            None => connect_null(&context, &server.endpoint),
        };
        let expected = if self.lets_in { Outcome::LetIn { user: None } } else { Outcome::Refused };
        assert_eq!(server.outcome(), expected, "domain {:?}, enforced {}, handler {}", self.domain, self.enforced, self.handler);
        if let Some(zap) = zap {
            assert_eq!(zap.recv_multipart(zmq::DONTWAIT), Err(zmq::Error::EAGAIN));
        }
    }
}

#[test]
fn only_domain_and_enforcement_together_guard_a_curve_socket() {
    let server_keys = CurveKeyPair::new().unwrap();
    let client_keys = CurveKeyPair::new().unwrap();
    for guard in GUARDS {
        guard.check(|server| serve_curve(server, &server_keys), Some((&client_keys, &server_keys.public_key)));
    }
}

#[test]
fn only_domain_and_enforcement_together_guard_a_plain_socket() {
    for guard in GUARDS {
        guard.check(|_| {}, None);
    }
}

#[test]
fn a_handler_that_went_away_leaves_the_door_shut() {
    let context = Context::new();
    let server_keys = CurveKeyPair::new().unwrap();
    let client_keys = CurveKeyPair::new().unwrap();
    let zap = bind_zap(&context);
    let server = Server::bind(&context, "tcp://127.0.0.1:*", |server| {
        serve_curve(server, &server_keys);
        server.set_zap_domain("d").unwrap();
        enforce_domain(server, true);
    });
    zap.unbind(ZAP_ENDPOINT).unwrap();
    drop(zap);
    let _client = connect_curve(&context, &server.endpoint, &client_keys, &server_keys.public_key);
    assert_eq!(server.outcome(), Outcome::Refused);
}

#[test]
fn one_router_serves_plain_ipc_and_curve_tcp_and_no_plain_tcp() {
    let context = Context::new();
    let zap = bind_zap(&context);
    let directory = tempfile::tempdir().unwrap();
    let ipc = format!("ipc://{}/socket", directory.path().display());
    let keys = CurveKeyPair::new().unwrap();
    // The settings at the time of each bind are those its connections get.
    let mut server = Server::bind(&context, &ipc, |server| {
        server.set_zap_domain("local").unwrap();
        enforce_domain(server, true);
    });
    serve_curve(&mut server.router, &keys);
    server.router.set_zap_domain("network").unwrap();
    server.router.bind("tcp://127.0.0.1:*").unwrap();
    let tcp = server.router.get_last_endpoint().unwrap().unwrap();

    let intruder = connect_null(&context, &tcp);
    assert_eq!(server.outcome(), Outcome::Refused);
    assert_eq!(zap.recv_multipart(zmq::DONTWAIT), Err(zmq::Error::EAGAIN));
    drop(intruder);

    let _neighbour = connect_null(&context, &ipc);
    admit_next(&zap, b"local", b"NULL", b"neighbour");
    assert_eq!(server.next_user().as_deref(), Some("neighbour"));

    let client_keys = CurveKeyPair::new().unwrap();
    let _guest = connect_curve(&context, &tcp, &client_keys, &keys.public_key);
    let credentials = admit_next(&zap, b"network", b"CURVE", b"guest");
    assert_eq!(credentials, [client_keys.public_key.to_vec()]);
    assert_eq!(server.next_user().as_deref(), Some("guest"));
}

// ---- Servers and clients ----------------------------------------------------------

/// What became of a client that connected and sent one message.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// Its message arrived, with the user id that ZAP gave it.
    LetIn { user: Option<String> },
    /// The handshake failed on the server's side and no message arrived.
    Refused,
}

/// A bound ROUTER and the events of its connections.
struct Server {
    router: Socket,
    monitor: Socket,
    endpoint: String,
}

impl Server {
    fn bind(context: &Context, endpoint: &str, settings: impl FnOnce(&mut Socket)) -> Self {
        let mut router = new_socket(context, zmq::ROUTER);
        settings(&mut router);
        let failures = zmq_sys::ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL
            | zmq_sys::ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL
            | zmq_sys::ZMQ_EVENT_HANDSHAKE_FAILED_AUTH;
        router.monitor(MONITOR_ENDPOINT, failures as i32).unwrap();
        let monitor = new_socket(context, zmq::PAIR);
        monitor.connect(MONITOR_ENDPOINT).unwrap();
        router.bind(endpoint).unwrap();
        let endpoint = router.get_last_endpoint().unwrap().unwrap();
        Self { router, monitor, endpoint }
    }

    /// Waits until a message arrives or a handshake fails.
    fn outcome(&self) -> Outcome {
        let mut items = [self.router.as_poll_item(zmq::POLLIN), self.monitor.as_poll_item(zmq::POLLIN)];
        zmq::poll(&mut items, PATIENCE.as_millis() as i64).unwrap();
        let (message, failure) = (items[0].is_readable(), items[1].is_readable());
        assert!(message || failure, "nothing happened in {PATIENCE:?}");
        if message {
            return Outcome::LetIn { user: self.next_user() };
        }
        self.monitor.recv_multipart(0).unwrap();
        assert_eq!(
            self.router.recv_multipart(zmq::DONTWAIT),
            Err(zmq::Error::EAGAIN),
            "a message came from a peer whose handshake failed"
        );
        Outcome::Refused
    }

    /// The user id on the payload of the next message.
    fn next_user(&self) -> Option<String> {
        let _routing_id = self.router.recv_msg(0).unwrap();
        let mut payload = self.router.recv_msg(0).unwrap();
        assert_eq!(&payload[..], b"knock");
        assert!(!payload.get_more());
        payload.gets("User-Id").map(str::to_owned)
    }
}

/// A socket that neither waits for ever nor keeps its context from ending.
/// The one that is claimed here is the next of libzmq's own counter: whoever can have it ends the process with the connection after.
#[test]
fn peers_do_not_choose_their_routing_ids() {
    let context = Context::new();
    let mut router = new_socket(&context, zmq::ROUTER);
    let directory = tempfile::tempdir().unwrap();
    let keys = CurveKeyPair::new().unwrap();
    router.bind(&format!("ipc://{}/socket", directory.path().display())).unwrap();
    let ipc = router.get_last_endpoint().unwrap().unwrap();
    serve_curve(&mut router, &keys);
    router.bind("tcp://127.0.0.1:*").unwrap();
    let tcp = router.get_last_endpoint().unwrap().unwrap();
    let knock = |is_tcp: bool, id: &[u8]| {
        let client = new_socket(&context, zmq::DEALER);
        if !id.is_empty() {
            client.set_identity(id).unwrap();
        }
        if is_tcp {
            let own = CurveKeyPair::new().unwrap();
            client.set_curve_publickey(&own.public_key).unwrap();
            client.set_curve_secretkey(&own.secret_key).unwrap();
            client.set_curve_serverkey(&keys.public_key).unwrap();
        }
        client.connect(if is_tcp { &tcp } else { &ipc }).unwrap();
        client.send(id, 0).unwrap();
        let [given, asked] = router.recv_multipart(0).unwrap().try_into().unwrap();
        assert_eq!(asked, id);
        (client, given)
    };
    let mut clients = vec![knock(false, b"")];
    for is_tcp in [false, true] {
        let last = clients.last().unwrap().1.clone();
        let next = u32::from_be_bytes(last[1..].try_into().unwrap()).wrapping_add(2);
        clients.push(knock(is_tcp, &[&[0], &next.to_be_bytes()[..]].concat()));
        clients.push(knock(is_tcp, b""));
        clients.push(knock(is_tcp, b"watcher"));
        clients.push(knock(is_tcp, b"watcher"));
    }
    let all: HashSet<_> = clients.iter().map(|(_, given)| given.clone()).collect();
    assert_eq!(all.len(), clients.len(), "each has one of its own");
    assert!(all.iter().all(|given| given.len() == 5 && given[0] == 0), "libzmq makes them: {all:?}");
}

#[test]
fn what_does_not_fit_is_sent_as_soon_as_there_is_room() {
    // `epoll.h` has the kernel asked for room only where some is missing: so there it has to be asked.
    const MESSAGES: usize = 512;
    let (context, peers) = (Context::new(), Context::new());
    let sender = new_socket(&context, zmq::DEALER);
    sender.set_sndhwm(0).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let endpoint = format!("ipc://{}/socket", directory.path().display());
    let reader = new_socket(&peers, zmq::DEALER);
    reader.set_rcvhwm(1).unwrap();
    reader.bind(&endpoint).unwrap();
    sender.connect(&endpoint).unwrap();
    for round in 0..3_u8 {
        for number in 0..MESSAGES {
            sender.send(vec![number as u8 ^ round; 64 << 10], 0).unwrap();
        }
        wait_until("a full socket is watched for room", || watched_for_room().then_some(()));
        for number in 0..MESSAGES {
            assert_eq!(reader.recv_bytes(0).unwrap(), vec![number as u8 ^ round; 64 << 10]);
        }
        wait_until("an empty one is not", || (!watched_for_room()).then_some(()));
    }
}

/// True if the kernel is asked by one of this process's epolls to tell when a descriptor that is also read has room.
fn watched_for_room() -> bool {
    const IN_AND_OUT: u32 = 0x5;
    let epolls = open_files().into_iter().filter(|(_, file)| file == "anon_inode:[eventpoll]");
    epolls.filter_map(|(fd, _)| fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()).any(|info| {
        let watched = info.lines().filter_map(|line| line.split_once("events:")?.1.split_whitespace().next());
        watched.filter_map(|events| u32::from_str_radix(events, 16).ok()).any(|events| events & IN_AND_OUT == IN_AND_OUT)
    })
}

#[test]
fn what_peers_say_of_themselves_is_bounded() {
    let context = Context::new();
    let router = new_socket(&context, zmq::ROUTER);
    router.bind("tcp://127.0.0.1:*").unwrap();
    let endpoint = router.get_last_endpoint().unwrap().unwrap();
    let address = endpoint.strip_prefix("tcp://").unwrap();
    let properties = |count: usize, bytes: usize| -> Vec<(String, Vec<u8>)> {
        (0..count).map(|number| (format!("X-{number}"), vec![b'x'; bytes])).collect()
    };
    let is_let_in = |properties: &[(String, Vec<u8>)]| {
        let mut peer = zmtp_null(address, properties);
        let deadline = Instant::now() + PATIENCE;
        let (mut heard, mut has_spoken, mut buffer) = (0, false, [0; 256]);
        loop {
            assert!(Instant::now() < deadline, "neither a message nor the end of the connection");
            if router.recv_multipart(zmq::DONTWAIT).is_ok() {
                return true;
            }
            match peer.read(&mut buffer) {
                Ok(0) => return false,
                Ok(bytes) => heard += bytes,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return false,
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
            }
            // Messages come behind both READY commands.
            if heard > GREETING_BYTES && !has_spoken {
                has_spoken = true;
                let _ = peer.write_all(b"\x00\x05hello");
            }
        }
    };
    assert!(is_let_in(&[]));
    assert!(is_let_in(&properties(10, 1_000)));
    assert!(!is_let_in(&properties(1, 100_000)), "one that is large");
    assert!(!is_let_in(&properties(1_000, 20)), "many small ones");
    assert!(!is_let_in(&[("Identity".to_owned(), vec![b'i'; 100_000])]), "one that libzmq knows");
    assert!(is_let_in(&properties(1, 1_000)), "each connection has the whole bound");
}

/// Bytes of the fixed first part of a handshake (RFC 37).
const GREETING_BYTES: usize = 64;

/// A connection that has said its part of a NULL handshake (RFC 37) with these properties. It waits a moment for each read.
fn zmtp_null(address: &str, properties: &[(String, Vec<u8>)]) -> TcpStream {
    let mut greeting = [0; GREETING_BYTES];
    (greeting[0], greeting[9], greeting[10]) = (0xff, 0x7f, 3);
    greeting[12..16].copy_from_slice(b"NULL");
    let mut ready = b"\x05READY".to_vec();
    let kind = ("Socket-Type".to_owned(), b"DEALER".to_vec());
    for (name, value) in [&kind].into_iter().chain(properties) {
        ready.push(name.len() as u8);
        ready.extend(name.bytes());
        ready.extend((value.len() as u32).to_be_bytes());
        ready.extend(value);
    }
    // A command whose length has eight bytes.
    let command = [&[6][..], &(ready.len() as u64).to_be_bytes(), &ready].concat();
    let mut peer = TcpStream::connect(address).unwrap();
    peer.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
    // Whoever is refused half-way cannot say the rest.
    let _ = peer.write_all(&[&greeting[..], &command].concat());
    peer
}

fn new_socket(context: &Context, kind: zmq::SocketType) -> Socket {
    let socket = context.socket(kind).unwrap();
    socket.set_linger(0).unwrap();
    socket.set_rcvtimeo(PATIENCE.as_millis() as i32).unwrap();
    socket
}

fn connect_null(context: &Context, endpoint: &str) -> Socket {
    let client = new_socket(context, zmq::DEALER);
    client.connect(endpoint).unwrap();
    client.send("knock", 0).unwrap();
    client
}

fn connect_curve(context: &Context, endpoint: &str, own: &CurveKeyPair, server_public: &[u8]) -> Socket {
    let client = new_socket(context, zmq::DEALER);
    client.set_curve_serverkey(server_public).unwrap();
    client.set_curve_publickey(&own.public_key).unwrap();
    client.set_curve_secretkey(&own.secret_key).unwrap();
    client.connect(endpoint).unwrap();
    client.send("knock", 0).unwrap();
    client
}

fn serve_curve(server: &mut Socket, keys: &CurveKeyPair) {
    server.set_curve_server(true).unwrap();
    server.set_curve_secretkey(&keys.secret_key).unwrap();
}

/// Binds the handler's socket; libzmq then asks it, and waits for its answers.
fn bind_zap(context: &Context) -> Socket {
    let zap = new_socket(context, zmq::REP);
    zap.bind(ZAP_ENDPOINT).unwrap();
    zap
}

/// Admits whoever asks next as `user`, and returns the credentials shown.
fn admit_next(zap: &Socket, domain: &[u8], mechanism: &[u8], user: &[u8]) -> Vec<Vec<u8>> {
    let request = zap.recv_multipart(0).unwrap();
    assert_eq!((&request[2][..], &request[5][..]), (domain, mechanism));
    let admit: [&[u8]; 6] = [b"1.0", &request[1], b"200", b"OK", user, b""];
    zap.send_multipart(admit, 0).unwrap();
    request[6..].to_vec()
}

fn enforce_domain(socket: &mut Socket, on: bool) {
    let value = std::ffi::c_int::from(on);
    // SAFETY: the pointer and the length are those of `value`, which libzmq copies,
    // and the socket is open and not used by another thread meanwhile.
    let result = unsafe {
        zmq_sys::zmq_setsockopt(
            socket.as_mut_ptr(),
            zmq_sys::ZMQ_ZAP_ENFORCE_DOMAIN as i32,
            (&raw const value).cast(),
            size_of_val(&value),
        )
    };
    assert_eq!(result, 0, "libzmq refused ZMQ_ZAP_ENFORCE_DOMAIN");
}

fn read_enforce_domain(socket: &mut Socket) -> i32 {
    let mut value: std::ffi::c_int = -1;
    let mut length = size_of_val(&value);
    // SAFETY: libzmq writes at most `length` bytes, which is the size of `value`, and
    // the socket is open and not used by another thread meanwhile.
    let result = unsafe {
        zmq_sys::zmq_getsockopt(
            socket.as_mut_ptr(),
            zmq_sys::ZMQ_ZAP_ENFORCE_DOMAIN as i32,
            (&raw mut value).cast(),
            &raw mut length,
        )
    };
    assert_eq!((result, length), (0, size_of_val(&value)));
    value
}

// ---- What the kernel knows --------------------------------------------------------

const O_CLOEXEC: u32 = rustix::fs::OFlags::CLOEXEC.bits();

/// The timer column of `/proc/net/tcp` for a running keepalive timer.
const KEEPALIVE_TIMER: u8 = 2;

/// A ROUTER and a DEALER that have talked over TCP.
struct TcpLink {
    port: u16,
    _server: Server,
    _client: Socket,
}

impl TcpLink {
    fn open(settings: impl FnOnce(&mut Socket)) -> Self {
        let context = Context::new();
        let server = Server::bind(&context, "tcp://127.0.0.1:*", settings);
        let client = connect_null(&context, &server.endpoint);
        assert_eq!(server.outcome(), Outcome::LetIn { user: None });
        let port = server.endpoint.rsplit(':').next().unwrap().parse().unwrap();
        Self { port, _server: server, _client: client }
    }

    /// The one connection of the kernel's TCP table that fits. The table is no snapshot: while others connect, a row can be read twice.
    fn row(&self, fits: impl Fn(&TcpRow) -> bool) -> TcpRow {
        let table = fs::read_to_string("/proc/self/net/tcp").unwrap();
        let mut rows = table.lines().skip(1).map(TcpRow::parse).filter(fits);
        let row = rows.next().expect("the connection is in the table");
        let is_same = |other: TcpRow| (other.local_port, other.remote_port) == (row.local_port, row.remote_port);
        assert!(rows.all(is_same), "several connections fit:\n{table}");
        row
    }
}

/// One line of `/proc/net/tcp`; see proc_net_tcp in the kernel's documentation.
#[derive(Debug)]
struct TcpRow {
    local_port: u16,
    remote_port: u16,
    established: bool,
    listens: bool,
    timer_kind: u8,
    timer_ticks: u64,
    inode: u64,
}

impl TcpRow {
    fn parse(line: &str) -> Self {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let port = |address: &str| {
            let (_, port) = address.split_once(':').unwrap();
            u16::from_str_radix(port, 16).unwrap()
        };
        let (timer_kind, timer_ticks) = columns[5].split_once(':').unwrap();
        Self {
            local_port: port(columns[1]),
            remote_port: port(columns[2]),
            established: columns[3] == "01",
            listens: columns[3] == "0A",
            timer_kind: u8::from_str_radix(timer_kind, 16).unwrap(),
            timer_ticks: u64::from_str_radix(timer_ticks, 16).unwrap(),
            inode: columns[9].parse().unwrap(),
        }
    }
}

/// This process's open descriptors and what they refer to.
fn open_files() -> Vec<(RawFd, String)> {
    fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let fd = entry.file_name().to_str()?.parse().ok()?;
            Some((fd, file_of(fd)?))
        })
        .collect()
}

/// What is open under a number.
fn file_of(fd: RawFd) -> Option<String> {
    Some(fs::read_link(format!("/proc/self/fd/{fd}")).ok()?.to_str()?.to_owned())
}

/// The flags of an open descriptor, `None` once it is closed.
fn open_flags(fd: RawFd) -> Option<u32> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
    let octal = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
    u32::from_str_radix(octal.trim(), 8).ok()
}

/// Looks again and again until `look` finds something.
fn wait_until<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

//! `kvclient` when something is wrong: unknown outcomes, silence, refusals, several brokers, slow catalogs.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kvbroker::endpoint::Endpoint;
use kvbroker::keys::PublicKey;
use kvbroker::paths::Dirs;
use kvbroker_protocol::{Answer, BrokerId, Form, HelloAnswer, Operation, Outcome, Outcomes, Reply, SessionId};
use kvbroker_protocol::{Operations, decode_request, encode_reply};
use kvbroker_tests::{Broker, Cli, Home, LoopbackCatalog, PATIENCE, Said, finish, wait_until};
use rustix::process::{Pid, Signal, kill_process};

/// A broker that answers Hello and nothing else, and says what it was asked.
struct Mute {
    asked: Receiver<Operations>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Mute {
    fn start(home: &Home) -> Mute {
        let project = "test".parse().unwrap();
        let runtime = Dirs::under(home.path()).unwrap().create_runtime(&project).unwrap();
        let context = zmq::Context::new();
        let router = context.socket(zmq::ROUTER).unwrap();
        router.set_linger(0).unwrap();
        router.bind(&format!("ipc://{}", runtime.router_socket().display())).unwrap();
        let endpoint = Endpoint {
            project,
            owner: "ann".into(),
            uuid: uuid::Uuid::from_bytes([1; 16]),
            instance: uuid::Uuid::from_u128(1),
            epoch: 1,
            pid: std::process::id(),
            starttime_s: 1,
            router_socket: runtime.router_socket(),
            pub_socket: runtime.pub_socket(),
            tcp: None,
            public_key: Some(PublicKey::from_bytes([7; 32])),
        };
        endpoint.write(&runtime).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, asked) = channel();
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || serve(&router, &stopped, &sender));
        Mute { asked, stop, thread: Some(thread) }
    }

    fn wait_for_request(&self) -> Operations {
        self.asked.recv_timeout(PATIENCE).unwrap()
    }

    /// Ends it: its clients' connections end.
    fn end(mut self) {
        self.stop_and_join();
    }

    fn stop_and_join(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Mute {
    fn drop(&mut self) {
        self.stop_and_join();
    }
}

fn serve(router: &zmq::Socket, stop: &AtomicBool, asked: &Sender<Operations>) {
    while !stop.load(Ordering::Relaxed) {
        if router.poll(zmq::POLLIN, 5).unwrap() == 0 {
            continue;
        }
        let frames = router.recv_multipart(0).unwrap();
        let request = decode_request(&frames[1]).unwrap();
        if !matches!(request.operations, Operations::One(Operation::Hello { .. })) {
            // The test may be over.
            let _ = asked.send(request.operations);
            continue;
        }
        let hello = HelloAnswer {
            project: "test".into(),
            broker: BrokerId([1; 16]),
            session: SessionId([2; 16]),
            ..HelloAnswer::default()
        };
        let outcome = Outcome { revision: None, result: Ok(Answer::Hello(Box::new(hello))) };
        let reply = Reply { id: request.header.id, form: Form::Compact, retry_safe: None, outcomes: Outcomes::One(outcome) };
        let mut body = Vec::new();
        encode_reply(&reply, &mut body);
        router.send_multipart([frames[0].clone(), body], 0).unwrap();
    }
}

/// The request id that a sentence names.
fn request_id(said: &Said) -> &str {
    let at = said.stderr.find("request ").unwrap_or_else(|| panic!("no request id in {}", said.stderr));
    said.stderr[at + 8..].split([' ', ')', ',']).next().unwrap()
}

#[test]
fn an_unknown_outcome_is_named() {
    let home = Home::new();
    let mute = Mute::start(&home);
    let cli = Cli::new(&home);
    let late = cli.run(&["test", "put", "k", "v", "--timeout", "300ms"]);
    assert_eq!(late.code, Some(4), "{}", late.stderr);
    assert_eq!(request_id(&late), format!("{}:1", "02".repeat(16)));
    let late = cli.run(&["test", "put", "k", "1", "--timeout", "300ms", "--json"]);
    let error = late.json();
    assert_eq!((&error["status"], &error["error"]["definite"]), (&"unknown".into(), &false.into()));
    assert_eq!(error["error"]["request"], request_id(&late));

    let child = cli.spawn(&["test", "del", "k", "--timeout", "0"]);
    while !matches!(mute.wait_for_request(), Operations::One(Operation::Del { .. })) {}
    mute.end();
    let lost = finish(child);
    assert_eq!(lost.code, Some(4), "{}", lost.stderr);
    assert_eq!(request_id(&lost), format!("{}:1", "02".repeat(16)));
}

#[test]
fn a_read_without_an_answer_is_definite_and_said_while_it_waits() {
    let home = Home::new();
    let _mute = Mute::start(&home);
    let start = Instant::now();
    let said = Cli::new(&home).run(&["test", "get", "k", "--timeout", "1500ms"]);
    assert_eq!(said.code, Some(5), "{}", said.stderr);
    assert!(start.elapsed() >= Duration::from_millis(1_500));
    let expected = "kvclient: waiting for the broker of test …\nkvclient: no answer from the broker of test within 1.5 s\n";
    assert!(said.stderr.starts_with(expected), "{}", said.stderr);
    let quiet = Cli::new(&home).run(&["test", "get", "k", "--timeout", "800ms", "-q"]);
    assert!(quiet.stderr.starts_with("kvclient: no answer"), "{}", quiet.stderr);
}

#[test]
fn ctrl_c_ends_at_once_and_names_what_is_in_doubt() {
    let home = Home::new();
    let mute = Mute::start(&home);
    let cli = Cli::new(&home);
    let interrupt = |child: &Child| kill_process(Pid::from_child(child), Signal::INT).unwrap();
    let child = cli.spawn(&["test", "put", "k", "v", "--timeout", "0"]);
    mute.wait_for_request();
    let start = Instant::now();
    interrupt(&child);
    let said = finish(child);
    assert_eq!(said.code, Some(130), "{}", said.stderr);
    assert!(said.stderr.contains("interrupted"), "{}", said.stderr);
    assert_eq!(request_id(&said), format!("{}:1", "02".repeat(16)));
    let child = cli.spawn(&["test", "get", "k", "--timeout", "0"]);
    mute.wait_for_request();
    interrupt(&child);
    let said = finish(child);
    assert_eq!((said.code, said.stderr.contains("unknown")), (Some(130), false), "{}", said.stderr);
    assert!(start.elapsed() < PATIENCE);
}

#[test]
fn a_stopped_process_is_reached_but_does_not_answer() {
    let broker = Broker::plain();
    broker.signal(Signal::STOP);
    let said = Cli::new(broker.home()).run(&["test", "put", "k", "v", "--timeout", "1s"]);
    broker.signal(Signal::CONT);
    // It never said Hello, so nothing was sent.
    assert_eq!(said.code, Some(5), "{}", said.stderr);
    assert!(said.stderr.contains("known but can't be reached"), "{}", said.stderr);
}

#[test]
fn what_takes_long_is_said_within_a_second() {
    let home = Home::new();
    let hanging = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = hanging.local_addr().unwrap().to_string();
    let cli = Cli::new(&home).catalog(&address);
    let start = Instant::now();
    let mut child = cli.spawn(&["test", "get", "k", "--timeout", "20s"]);
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut first = String::new();
    stderr.read_line(&mut first).unwrap();
    let said_after = start.elapsed();
    assert_eq!(first, format!("kvclient: looking for test: asking the catalog {address} …\n"));
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(5));
    assert!(rest.contains("no catalog answered"), "{rest}");
    assert!(said_after < start.elapsed() / 2, "said after {said_after:?} of {:?}", start.elapsed());
}

#[test]
fn a_catalog_leads_to_the_owners_broker_over_curve() {
    let (catalog, home) = (LoopbackCatalog::start(), Home::new());
    let mut broker = catalog.broker(&home);
    catalog.wait_for(1);
    // Another machine of the same owner: the same keys, no sockets.
    let elsewhere = Home::new();
    copy_directory(&home.path().join("config"), &elsewhere.path().join("config"));
    let cli = Cli::new(&elsewhere).catalog(catalog.address());
    cli.ok(&["test", "put", "k", "v"]);
    assert_eq!(Cli::new(&home).ok(&["test", "get", "k"]).text(), "v\n");
    let explained = cli.ok(&["test", "explain"]).text();
    assert!(explained.contains("* candidate 1: ") && explained.contains("127.0.0.1:"), "{explained}");
    let mut watch = cli.spawn(&["test", "watch", "", "--limit", "1"]);
    let mut stderr = BufReader::new(watch.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("now what changes") {
        line.clear();
        assert_ne!(stderr.read_line(&mut line).unwrap(), 0, "watch ended");
    }
    cli.ok(&["test", "put", "k", "w"]);
    let told = finish(watch).text();
    assert!(told.starts_with("2\t") && told.ends_with("\tput\tk\t\"w\"\n"), "{told}");

    // A stale twin: the record of the killed run stays listed beside the new one's.
    broker.options().args = vec!["--port".into(), "0".into(), "--pub-port".into(), "0".into()];
    broker.kill9();
    let gone = cli.run(&["test", "get", "k"]);
    assert_eq!(gone.code, Some(5), "{}", gone.stderr);
    assert!(gone.stderr.contains("known but can't be reached") && gone.stderr.contains("firewall"), "{}", gone.stderr);
    let here = Cli::new(&home).catalog(catalog.address()).run(&["test", "get", "k"]);
    assert_eq!(here.code, Some(5), "{}", here.stderr);
    assert!(here.stderr.contains("is gone") && here.stderr.contains("start it with: kvbroker test"), "{}", here.stderr);
    broker.restart();
    catalog.wait_for(2);
    assert_eq!(cli.ok(&["test", "get", "k"]).text(), "w\n");
    let address = format!("kv://127.0.0.1:{}/test", broker.endpoint()["tcp"]["port"]);
    assert_eq!(cli.clone().catalog("none").ok(&[address.as_str(), "get", "k"]).text(), "w\n");
}

#[test]
fn two_brokers_of_one_name_are_ambiguous() {
    let (catalog, one, two) = (LoopbackCatalog::start(), Home::new(), Home::new());
    copy_after_first_start(&one, &two);
    let first = catalog.broker(&one);
    let second = catalog.broker(&two);
    catalog.wait_for(2);
    let elsewhere = Home::new();
    copy_directory(&one.path().join("config"), &elsewhere.path().join("config"));
    let cli = Cli::new(&elsewhere).catalog(catalog.address());
    let said = cli.run(&["test", "get", "k"]);
    assert_eq!(said.code, Some(8), "{}", said.stderr);
    for broker in [&first, &second] {
        let uuid = broker.endpoint()["uuid"].as_str().unwrap();
        assert!(said.stderr.contains(&format!("--broker {uuid}")), "{}", said.stderr);
        assert_eq!(cli.run(&["test", "get", "k", "--broker", uuid]).code, Some(1));
    }
    // Whoever has our name and not our key is refused, and is not told to choose between what he can't have.
    let stranger = Cli::new(&Home::new()).catalog(catalog.address());
    let none_is_ours = stranger.run(&["test", "get", "k"]);
    assert_eq!(none_is_ours.code, Some(6), "{}", none_is_ours.stderr);
    assert!(none_is_ours.stderr.contains("you have no key here"), "{}", none_is_ours.stderr);
    assert!(none_is_ours.stderr.contains("--key FILE") && !none_is_ours.stderr.contains("choose"), "{}", none_is_ours.stderr);
    // On the spot nothing is ambiguous.
    assert_eq!(Cli::new(&one).catalog(catalog.address()).run(&["test", "get", "k"]).code, Some(1));
}

/// Two homes with one owner's key, as on a shared home directory.
fn copy_after_first_start(from: &Home, to: &Home) {
    let dirs = Dirs::under(from.path()).unwrap();
    kvbroker::keys::load_or_create_owner_key(dirs.config_dir()).unwrap();
    copy_directory(&from.path().join("config"), &to.path().join("config"));
}

fn copy_directory(from: &std::path::Path, to: &std::path::Path) {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    std::fs::DirBuilder::new().mode(0o700).create(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            let target = to.join(entry.file_name());
            std::fs::copy(entry.path(), &target).unwrap();
            std::fs::set_permissions(&target, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
    }
}

#[test]
fn the_library_is_shared_by_threads() {
    let broker = Broker::plain();
    let options = kvbroker::client::ConnectOptions::new()
        .dirs(Dirs::under(broker.home().path()).unwrap())
        .catalogs(kvbroker::catalog::CatalogList::none());
    let client = kvbroker::client::Client::connect_with("test", options).unwrap();
    let done = Mutex::new(0);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (client, done) = (&client, &done);
            scope.spawn(move || {
                for number in 0..50 {
                    client.put_as(format!("{thread}/{number}"), &number).unwrap();
                    assert_eq!(client.get_as::<u32>(format!("{thread}/{number}")).unwrap(), Some(number));
                    *done.lock().unwrap() += 1;
                }
            });
        }
    });
    assert_eq!((client.size().unwrap(), *done.lock().unwrap()), (200, 200));
}

/// Stops it where it is. When this returns, no thread of it runs; the signal alone takes its time.
fn stop_in_place(broker: &Broker) {
    broker.signal(Signal::STOP);
    let tasks = format!("/proc/{}/task", broker.pid());
    wait_until(PATIENCE, "every thread of the broker has stopped", || {
        let has_stopped = |task: std::io::Result<std::fs::DirEntry>| {
            let stat = std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap();
            stat.rsplit(')').next().unwrap().trim_start().starts_with('T')
        };
        std::fs::read_dir(&tasks).unwrap().all(has_stopped).then_some(())
    });
}

/// A batch whose second operation is sent to a broker that is stopped, and gives up; what it said.
fn left_in_doubt(broker: &Broker, cli: &Cli, key: &str) -> Said {
    let mut child = cli.command(&["test", "batch", "--timeout", "1s"]);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    writeln!(stdin, r#"{{"op":"put","key":"first","value":1}}"#).unwrap();
    // Answered, too: a broker that is stopped between the two leaves this one in doubt instead of the next.
    // Not a byte more is read: the rest is for whoever collects it.
    let mut answer = Vec::new();
    BufReader::with_capacity(1, child.stdout.as_mut().unwrap()).read_until(b'\n', &mut answer).unwrap();
    assert!(answer.ends_with(b"\n"), "the first operation is done");
    stop_in_place(broker);
    writeln!(stdin, r#"{{"op":"put","key":"{key}","value":2}}"#).unwrap();
    drop(stdin);
    let said = finish(child);
    assert_eq!(said.code, Some(4), "{}", said.stderr);
    said
}

#[test]
fn what_became_of_a_mutation_can_be_asked() {
    let mut broker = Broker::plain();
    let cli = Cli::new(broker.home());

    // It had arrived: the broker goes on, and does it.
    let said = left_in_doubt(&broker, &cli, "arrived");
    let id = request_id(&said).to_owned();
    broker.signal(Signal::CONT);
    let ask = |words: &[&str]| cli.run(&[&["test", "result", &id], words].concat());
    let told = wait_until(PATIENCE, "it is decided", || {
        let told = ask(&["--look"]);
        (told.code != Some(4)).then_some(told)
    });
    assert_eq!((told.code, told.text().trim()), (Some(0), "done at revision 2"), "{}", told.stderr);
    assert_eq!(ask(&["--json"]).json()["outcome"]["rev"], 2);
    assert_eq!(cli.ok(&["test", "get", "arrived"]).text(), "2\n");

    // It had not: it is settled by asking, and stays so.
    let said = left_in_doubt(&broker, &cli, "lost");
    let id = request_id(&said).to_owned();
    broker.kill9();
    broker.restart();
    let ask = |words: &[&str]| cli.run(&[&["test", "result", &id], words].concat());
    let looked = ask(&["--look"]);
    assert_eq!(looked.code, Some(4), "{} {}", looked.text(), looked.stderr);
    for _ in 0..2 {
        let told = ask(&[]);
        assert_eq!((told.code, told.text().trim()), (Some(1), "not done, and it never will be"), "{}", told.stderr);
    }
    assert_eq!(cli.run(&["test", "get", "lost"]).code, Some(1));

    let nonsense = cli.run(&["test", "result", "5"]);
    assert_eq!(nonsense.code, Some(2), "{}", nonsense.stderr);
    let foreign = cli.run(&["test", "result", &format!("{}:1", "fe".repeat(16))]);
    assert_eq!(foreign.code, Some(2), "{}", foreign.stderr);
}

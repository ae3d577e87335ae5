//! Whom a client believes: real brokers of somebody else, a catalog on loopback, and a colleague with a home of his own.
//!
//! All processes run as one user of the operating system; what makes the colleague a stranger is his own `KVBROKER_HOME`, and the name
//! that the brokers give as their owner's.

#![allow(clippy::unwrap_used)]

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use kvbroker_tests::{Broker, BrokerOptions, Cli, Home, LoopbackCatalog, Said, end_with_us, finish};
use rustix::fs::{Mode, OFlags};
use rustix::ioctl::{Getter, Opcode, Setter, ioctl};

const ANNS: &[&str] = &["--owner", "ann"];

fn anns_broker(catalog: &LoopbackCatalog, home: &Home) -> Broker {
    let broker = catalog.broker_with(BrokerOptions::default().home(home).args(ANNS.iter().copied()));
    catalog.wait_for(1);
    broker
}

fn known_brokers(home: &Home) -> PathBuf {
    home.path().join("config/known_brokers")
}

fn refused(said: &Said, part: &str) {
    assert_eq!(said.code, Some(6), "{}", said.stderr);
    assert!(said.stderr.contains(part), "{part:?} is not in: {}", said.stderr);
}

/// The words behind `kvclient` in the line that a refusal tells the user to send to the owner.
fn line_to_send(said: &Said) -> Vec<String> {
    let at = said.stderr.find("lets you in with: kvclient ").unwrap_or_else(|| panic!("no such line in {}", said.stderr));
    let line = said.stderr[at..].lines().next().unwrap();
    let words = line.trim_start_matches("lets you in with: kvclient ").split_whitespace();
    words.take_while(|word| !word.starts_with('(')).map(ToOwned::to_owned).collect()
}

#[test]
fn a_first_contact_ends_in_the_line_that_lets_one_in_and_then_the_key_holds() {
    let (catalog, anns, bobs) = (LoopbackCatalog::start(), Home::new(), Home::new());
    let mut broker = anns_broker(&catalog, &anns);
    let key = broker.endpoint()["public_key"].as_str().unwrap().to_owned();
    let (ann, bob) = (Cli::new(&anns), Cli::new(&bobs).catalog(catalog.address()));
    ann.ok(&["test", "put", "k", "v"]);

    // Nobody sits at a terminal: the key is not accepted, and nothing is made or kept.
    let new = bob.run(&["test", "get", "k"]);
    refused(&new, &format!("ann's broker for test at 127.0.0.1:{} ", broker.endpoint()["tcp"]["port"]));
    refused(&new, &key);
    refused(&new, "--accept-new-key");
    assert_eq!(bob.run(&["test", "get", "k", "--json"]).json()["error"]["code"], "new_key");
    assert!(!bobs.path().join("config").exists());

    // Accepted, the broker still has to let him in. The line to send is complete.
    let unknown = bob.run(&["test", "get", "k", "--accept-new-key"]);
    refused(&unknown, "ann's broker for test");
    refused(&unknown, "does not let you in");
    let pins = fs::read_to_string(known_brokers(&bobs)).unwrap();
    assert!(pins.contains(&format!("\nann test {key} # 20")), "{pins}");
    assert_eq!(fs::metadata(known_brokers(&bobs)).unwrap().permissions().mode() & 0o777, 0o600);
    let line = line_to_send(&unknown);
    assert_eq!(line, ["test", "authorize", bob.ok(&["id"]).text().trim_end(), "read"]);
    ann.ok(&line);

    // No flag, no question, no restart.
    let got = bob.ok(&["test", "get", "k", "--explain"]);
    assert_eq!(got.text(), "v\n");
    assert!(got.stderr.contains(&format!("key {key} (pinned)")), "{}", got.stderr);
    assert_eq!(bob.run(&["test", "put", "k", "w"]).code, Some(6));
    ann.ok(&["test", "authorize", &line[2], "write"]);
    bob.ok(&["test", "put", "k", "w"]);
    assert_eq!(ann.ok(&["test", "get", "k"]).text(), "w\n");

    // The key outlives restarts and a fresh data directory.
    broker.kill9();
    fs::remove_dir_all(broker.data_directory()).unwrap();
    broker.restart();
    catalog.wait_for(2);
    assert_eq!(bob.run(&["test", "get", "k"]).code, Some(1));

    // Turned away, he is told the same line again.
    ann.ok(&["test", "revoke", &line[2]]);
    let turned_away = bob.run(&["test", "get", "k"]);
    refused(&turned_away, "does not let you in");
    assert_eq!(line_to_send(&turned_away), line);
    assert_eq!(fs::read_to_string(known_brokers(&bobs)).unwrap(), pins);
}

#[test]
fn a_changed_key_is_a_hard_error_and_a_thief_beside_the_true_one_changes_nothing() {
    let (catalog, anns, thiefs, bobs) = (LoopbackCatalog::start(), Home::new(), Home::new(), Home::new());
    let mut broker = anns_broker(&catalog, &anns);
    let (ann, bob) = (Cli::new(&anns), Cli::new(&bobs).catalog(catalog.address()));
    ann.ok(&["test", "authorize", bob.ok(&["id"]).text().trim_end(), "write"]);
    bob.ok(&["test", "put", "k", "v", "--accept-new-key"]);
    let pins = fs::read_to_string(known_brokers(&bobs)).unwrap();

    // The thief lets everybody in who comes, if they only came.
    let options = BrokerOptions::default().home(&thiefs).args(ANNS.iter().copied());
    let thief = catalog.broker_with(options);
    Cli::new(&thiefs).ok(&["test", "authorize", bob.ok(&["id"]).text().trim_end(), "write"]);
    catalog.wait_for(2);
    assert_eq!(bob.ok(&["test", "get", "k"]).text(), "v\n");
    let said = bob.run(&["test", "get", "k", "--explain"]);
    assert!(said.stderr.contains("announces another key than the one that was accepted"), "{}", said.stderr);

    // Ann's is gone, and the thief alone.
    broker.stop();
    catalog.wait_for(1);
    for flags in [&[][..], &["--accept-new-key"], &["--insecure"], &["--broker", thief.endpoint()["uuid"].as_str().unwrap()]] {
        let said = bob.run(&[&["test", "put", "k", "secret"], flags].concat());
        refused(&said, "THE KEY OF ann's BROKER FOR test HAS CHANGED");
        refused(&said, thief.endpoint()["public_key"].as_str().unwrap());
        refused(&said, &format!("line 3 of {}", known_brokers(&bobs).display()));
        refused(&said, "remove line 3");
    }
    assert_eq!(bob.run(&["test", "get", "k", "--json"]).json()["error"]["code"], "key_changed");
    assert_eq!(fs::read_to_string(known_brokers(&bobs)).unwrap(), pins);
    assert_eq!(Cli::new(&thiefs).ok(&["test", "size"]).text().trim_end(), "0", "nothing reached the thief");

    // What the message says helps.
    let kept: Vec<&str> = pins.lines().take(2).collect();
    fs::write(known_brokers(&bobs), kept.join("\n")).unwrap();
    bob.ok(&["test", "put", "k", "w", "--accept-new-key"]);

    // A list that others could have written is none.
    fs::set_permissions(known_brokers(&bobs), fs::Permissions::from_mode(0o666)).unwrap();
    refused(&bob.run(&["test", "get", "k", "--accept-new-key"]), "chmod go-w");
}

/// Linux' names for two ioctls of a pseudo terminal's master.
const TIOCGPTN: Opcode = 0x8004_5430;
const TIOCSPTLCK: Opcode = 0x4004_5431;

/// A terminal on which a program runs.
struct Terminal {
    master: File,
    slave: CString,
}

impl Terminal {
    fn new() -> Terminal {
        let master = File::options().read(true).write(true).open("/dev/ptmx").unwrap();
        // SAFETY: the first takes a pointer to an int, the second writes an unsigned int.
        let number = unsafe {
            ioctl(&master, Setter::<TIOCSPTLCK, i32>::new(0)).unwrap();
            ioctl(&master, Getter::<TIOCGPTN, u32>::new()).unwrap()
        };
        let slave = CString::new(format!("/dev/pts/{number}")).unwrap();
        Terminal { master, slave }
    }

    /// Runs a program whose stderr and controlling terminal this is, answers its question, and gives what was shown.
    fn run(&mut self, cli: &Cli, words: &[&str], stdin: &[u8], answer: &str) -> (Said, String) {
        let slave = rustix::fs::open(&self.slave, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
        let mut command = cli.command(words);
        command.stdin(Stdio::piped()).stderr(slave);
        end_with_us(&mut command);
        let path = self.slave.clone();
        // SAFETY: between fork and exec this only makes two system calls, setsid and open, which are async-signal-safe. The first
        // terminal that the leader of a new session opens becomes its controlling one.
        unsafe {
            command.pre_exec(move || {
                rustix::process::setsid()?;
                rustix::fs::open(&path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
                Ok(())
            });
        }
        let mut child = command.spawn().unwrap();
        // Its own ends would keep the terminal open.
        drop(command);
        child.stdin.take().unwrap().write_all(stdin).unwrap();
        let mut shown = String::new();
        let mut buffer = [0; 4_096];
        // Ends with an error when the program has ended: then nobody has the other end any more.
        while let Ok(count @ 1..) = self.master.read(&mut buffer) {
            shown.push_str(&String::from_utf8_lossy(&buffer[..count]));
            if shown.ends_with("(yes/no) ") {
                self.master.write_all(answer.as_bytes()).unwrap();
            }
        }
        (finish(child), shown)
    }
}

#[test]
fn on_a_terminal_the_user_is_asked_and_only_yes_is_yes() {
    let (catalog, anns, bobs) = (LoopbackCatalog::start(), Home::new(), Home::new());
    let broker = anns_broker(&catalog, &anns);
    let (ann, bob) = (Cli::new(&anns), Cli::new(&bobs).catalog(catalog.address()));
    ann.ok(&["test", "authorize", bob.ok(&["id"]).text().trim_end(), "write"]);
    let key = broker.endpoint()["public_key"].as_str().unwrap();
    for answer in ["no\n", "y\n", "\n"] {
        // What comes in through stdin is a value, and no answer.
        let (said, shown) = Terminal::new().run(&bob, &["test", "put", "k", "-"], b"yes\n", answer);
        assert_eq!(said.code, Some(6), "{shown}");
        for part in ["ann's broker for test is new to you", key, "kvbroker test link", "you have not accepted now"] {
            assert!(shown.contains(part), "{part:?} is not in {shown}");
        }
        assert!(!known_brokers(&bobs).exists());
    }
    let (said, shown) = Terminal::new().run(&bob, &["test", "put", "k", "-"], b"from stdin", "yes\n");
    assert_eq!(said.code, Some(0), "{shown}");
    assert_eq!(ann.ok(&["test", "get", "k"]).text(), "from stdin\n");
    // Once.
    let (said, shown) = Terminal::new().run(&bob, &["test", "get", "k"], b"", "no\n");
    assert_eq!((said.code, said.text().as_str(), shown.contains("(yes/no)")), (Some(0), "from stdin\n", false), "{shown}");
}

#[test]
fn time_to_compare_keys_is_not_taken_from_the_timeout() {
    let (catalog, anns, bobs) = (LoopbackCatalog::start(), Home::new(), Home::new());
    let _broker = anns_broker(&catalog, &anns);
    let (ann, bob) = (Cli::new(&anns), Cli::new(&bobs).catalog(catalog.address()));
    ann.ok(&["test", "authorize", bob.ok(&["id"]).text().trim_end(), "write"]);
    let options = kvbroker::client::ConnectOptions::new()
        .dirs(kvbroker::paths::Dirs::under(bobs.path()).unwrap())
        .catalogs(kvbroker::catalog::CatalogList::from_settings(Some(catalog.address()), None, None).unwrap())
        .timeout(Duration::from_millis(1_500))
        .new_keys(kvbroker::client::NewKeys::Ask(Arc::new(|new| {
            // Longer than the whole timeout, which is what this is about.
            std::thread::sleep(Duration::from_millis(2_000));
            new.owner == "ann"
        })));
    let client = kvbroker::client::Client::connect_with("test", options).unwrap();
    client.put_text("k", "v").unwrap();
}

#[test]
fn without_encryption_only_by_the_word() {
    let (catalog, anns) = (LoopbackCatalog::start(), Home::new());
    let broker = catalog.broker_with(BrokerOptions::default().home(&anns).args(ANNS.iter().copied()).args(["--insecure"]));
    catalog.wait_for(1);
    let bobs = Home::new();
    let bob = Cli::new(&bobs).catalog(catalog.address());
    let keyless = bob.run(&["test", "put", "k", "v", "--accept-new-key"]);
    refused(&keyless, "it announces no key");
    refused(&keyless, "--insecure, on this one command");
    assert_eq!(bob.run(&["test", "get", "k", "--json"]).json()["error"]["code"], "no_key");
    // No variable does it.
    let child = bob.command(&["test", "put", "k", "v"]).env("KVBROKER_INSECURE", "1").spawn().unwrap();
    refused(&finish(child), "it announces no key");
    bob.ok(&["test", "put", "k", "v", "--insecure"]);
    assert_eq!(Cli::new(&anns).ok(&["test", "get", "k"]).text(), "v\n");
    assert!(!bobs.path().join("config").exists(), "there is nobody to be and nothing to keep");
    // The next command is asked again.
    assert_eq!(bob.run(&["test", "get", "k"]).code, Some(6));
    // A client that expects a key says nothing to a broker without one.
    let address = format!("kv://127.0.0.1:{}/test", broker.endpoint()["tcp"]["port"]);
    let key = bob.ok(&["id"]).text();
    refused(
        &bob.run(&[&format!("{address}?key={}", key.trim_end()), "get", "k", "--insecure"]),
        "did not prove the expected key",
    );
    assert_eq!(bob.ok(&[&address, "get", "k", "--insecure"]).text(), "v\n");
}

#[test]
fn a_key_file_makes_its_holder_the_owner() {
    let (catalog, anns, elsewhere) = (LoopbackCatalog::start(), Home::new(), Home::new());
    let _broker = anns_broker(&catalog, &anns);
    let cli = Cli::new(&elsewhere).catalog(catalog.address());
    let copy = elsewhere.path().join("key-of-ann");
    fs::copy(anns.path().join("config/id"), &copy).unwrap();
    let file = copy.to_str().unwrap();
    cli.ok(&["test", "put", "k", "v", "--key", file]);
    assert_eq!(cli.ok(&["test", "hello", "--json", "--key", file]).json()["user"], "owner");
    let child = cli.command(&["test", "get", "k"]).env("KVBROKER_KEY", file).spawn().unwrap();
    assert_eq!(finish(child).text(), "v\n");
    assert_eq!(cli.ok(&["id", "--key", file]).text(), Cli::new(&anns).ok(&["id"]).text());
    assert!(!elsewhere.path().join("config").exists(), "neither a key nor a pin is made");
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o640)).unwrap();
    refused(&cli.run(&["test", "get", "k", "--key", file]), "chmod 600");
    let missing = cli.run(&["test", "get", "k", "--key", "/nowhere/at/all"]);
    refused(&missing, "/nowhere/at/all");
    assert!(!elsewhere.path().join("config").exists(), "a key that was named is not made");
}

/// Answers as no catalog should.
struct Hostile {
    address: String,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Hostile {
    fn start(answer: fn(TcpStream, &AtomicBool)) -> Hostile {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            std::thread::scope(|scope| {
                for stream in listener.incoming() {
                    let (Ok(mut stream), false) = (stream, stopped.load(Ordering::Relaxed)) else { break };
                    let stopped = &stopped;
                    scope.spawn(move || {
                        let _ = stream.read(&mut [0; 4_096]);
                        answer(stream, stopped);
                    });
                }
            });
        });
        Hostile { address, stop, thread: Some(thread) }
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Its accept returns.
        let _ = TcpStream::connect(&self.address);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

const HEAD: &[u8] = b"HTTP/1.1 200 OK\nConnection: close\nContent-type: text/plain\n\n";

#[test]
fn catalogs_that_lie_flood_and_never_end_are_told_apart_and_hide_nobody() {
    let endless = Hostile::start(|mut stream, stop| {
        let record = format!("{{\"type\":\"wq_master\",\"filler\":\"{}\"}},\n", "x".repeat(60_000));
        let mut going = stream.write_all(&[HEAD, b"[\n"].concat()).is_ok();
        while going && !stop.load(Ordering::Relaxed) {
            going = stream.write_all(record.as_bytes()).is_ok();
        }
    });
    let dribbling = Hostile::start(|mut stream, stop| {
        let mut going = stream.write_all(&[HEAD, b"[\n"].concat()).is_ok();
        while going && !stop.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(50));
            going = stream.write_all(b"{").is_ok();
        }
    });
    let silent = Hostile::start(|stream, stop| {
        while !stop.load(Ordering::Relaxed) && stream.peer_addr().is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let page = Hostile::start(|mut stream, _| drop(stream.write_all(&[HEAD, b"<html>hello</html>"].concat())));
    let missing = Hostile::start(|mut stream, _| drop(stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-length: 0\r\n\r\n")));
    let ssh = Hostile::start(|mut stream, _| drop(stream.write_all(b"SSH-2.0-OpenSSH_9.9\r\n")));
    let flood = Hostile::start(|mut stream, _| {
        // Every one claims to be the project of everybody's, with a key and an address of its own: this very port's.
        let port = stream.local_addr().unwrap().port();
        let mut body = HEAD.to_vec();
        body.extend_from_slice(b"[\n");
        for n in 0..3_000 {
            let record = format!(
                "{{\"name\":\"h\",\"lastheardfrom\":{n},\"address\":\"127.0.0.1\",\"type\":\"hashtable\",\"project\":\"test\",\"owner\":\"eve\",\
                 \"port\":{port},\"uuid\":\"00000000-0000-0000-0000-{n:012x}\",\"instance\":\"00000000-0000-0000-0000-{n:012x}\",\"epoch\":\"ff\",\
                 \"starttime\":1,\"lifetime\":180,\"shard\":0,\"durability\":\"always\",\"version\":\"0.1.0\",\"public_key\":\"kvpub1{n:064x}\"}},\n"
            );
            body.extend_from_slice(record.as_bytes());
        }
        body.extend_from_slice(b"]\n");
        let _ = stream.write_all(&body);
    });
    let home = Home::new();
    let cases = [
        (&endless, 5, "incompletely: only its first 16777216 bytes were read"),
        (&dribbling, 5, "incompletely: after "),
        (&silent, 5, "did not answer within"),
        (&page, 5, "not a JSON array (it starts with \"<html>"),
        (&missing, 5, "HTTP status 404"),
        (&ssh, 5, "is that port a catalog's?"),
        (&flood, 8, "brokers serve test: eve's at 127.0.0.1:"),
    ];
    // At the same time, for some take what they are given.
    let alone: Vec<_> =
        cases.iter().map(|(hostile, ..)| Cli::new(&home).catalog(&hostile.address).spawn(&["test", "get", "k"])).collect();
    for (child, (_, code, part)) in alone.into_iter().zip(&cases) {
        let said = finish(child);
        assert_eq!(said.code, Some(*code), "{part}: {}", said.stderr);
        assert!(said.stderr.contains(part), "{part:?} is not in: {}", said.stderr);
    }
    // Beside a true one, none of them matters to who has a broker of his own there.
    let (catalog, own) = (LoopbackCatalog::start(), Home::new());
    let _broker = anns_broker(&catalog, &own);
    let elsewhere = copy_of_key(&own);
    let all: Vec<&str> = cases.iter().map(|(hostile, ..)| hostile.address.as_str()).chain([catalog.address()]).collect();
    Cli::new(&elsewhere).catalog(&all.join(",")).ok(&["test", "put", "k", "v"]);
    assert_eq!(Cli::new(&own).ok(&["test", "get", "k"]).text(), "v\n");
}

/// Another home of the same owner.
fn copy_of_key(home: &Home) -> Home {
    let copy = Home::new();
    let config = copy.path().join("config");
    fs::create_dir(&config).unwrap();
    fs::set_permissions(&config, fs::Permissions::from_mode(0o700)).unwrap();
    let id = |home: &Path| home.join("config/id");
    // Its permissions come along.
    fs::copy(id(home.path()), id(copy.path())).unwrap();
    copy
}

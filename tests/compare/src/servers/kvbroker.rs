//! The broker, as it is shipped: sessions, revisions, checksums and checkpoints, and a watcher who is told of one key in a hundred.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kvbroker::catalog::CatalogList;
use kvbroker::client::{Client, ConnectOptions, WatchEvent, WatchFrom};
use kvbroker::keys::{KeyPair, SecretKey};
use kvbroker::paths::Dirs;
use kvbroker_protocol::StatValue;
use kvbroker_tests::{Broker, BrokerOptions, PATIENCE};
use serde_json::json;

use super::{Server, TableServer, Watcher};
use crate::Failed;
use crate::load::{Dealer, Frames, Lane, Library};
use crate::options::Options;
use crate::payload;

/// How long a watcher waits before it looks whether it shall end.
const LOOK: Duration = Duration::from_millis(20);

/// When writes are on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// When the kernel likes.
    Never,
    /// So often, milliseconds.
    EveryMs(u64),
    /// Before they are acknowledged.
    Always,
}

impl fmt::Display for Sync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sync::Never => f.write_str("never"),
            Sync::EveryMs(ms) => write!(f, "{ms}"),
            Sync::Always => f.write_str("always"),
        }
    }
}

/// How clients reach it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Over its unix socket.
    Ipc,
    /// Over TCP with CURVE.
    Curve,
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generator {
    /// A bare DEALER, one operation per message.
    Raw(Frames),
    /// The client library with a pipeline, which packs.
    Library,
}

/// A running broker; it is killed when this is dropped.
pub struct Kvbroker {
    broker: Broker,
    sync: Sync,
    way: Way,
    generator: Generator,
    version: String,
    is_other_build: bool,
    context: zmq::Context,
}

impl Kvbroker {
    /// Starts one in a place of its own. `program`: another one than the one beside this program.
    pub fn start(
        options: &Options,
        program: Option<PathBuf>,
        sync: Sync,
        way: Way,
        generator: Generator,
    ) -> Result<Kvbroker, Failed> {
        let is_other_build = program.is_some();
        let start = BrokerOptions { program: Some(program.map_or_else(beside, Ok)?), ..BrokerOptions::default() };
        let start = start.args(["--sync".to_owned(), sync.to_string()]).args(&options.flags);
        let broker = Broker::try_start(start).map_err(|ended| ended.stderr)?;
        let version = broker.dealer().ask_json(&json!({"op": "hello"}))["version"].as_str().unwrap_or("?").to_owned();
        Ok(Kvbroker { broker, sync, way, generator, version, is_other_build, context: zmq::Context::new() })
    }

    /// The process, for rows that look at more than load.
    pub fn broker(&mut self) -> &mut Broker {
        &mut self.broker
    }

    /// A number that its `stats` has.
    pub fn stat(&self, name: &str) -> Result<u64, Failed> {
        match self.stat_value(name)? {
            StatValue::Number(number) => Ok(number),
            StatValue::Text(text) => Err(format!("the broker's {name} is {text}").into()),
        }
    }

    /// True while it makes a checkpoint.
    pub fn makes_checkpoint(&self) -> Result<bool, Failed> {
        match self.stat_value("checkpoint_state")? {
            StatValue::Text(state) if state == "idle" => Ok(false),
            StatValue::Text(state) if state == "merging" || state == "from memory" => Ok(true),
            other => Err(format!("the broker's checkpoint: {other:?}").into()),
        }
    }

    fn stat_value(&self, name: &str) -> Result<StatValue, Failed> {
        let found = self.client()?.stats()?.into_iter().find(|(found, _)| found == name);
        Ok(found.ok_or_else(|| format!("the broker does not tell its {name}"))?.1)
    }

    /// A client of the library, on the unix socket or over TCP as the broker is measured.
    pub fn client(&self) -> Result<Client, Failed> {
        let options = ConnectOptions::new().dirs(Dirs::under(self.broker.home().path())?).catalogs(CatalogList::none());
        let target = match self.way {
            Way::Ipc => "test".to_owned(),
            Way::Curve => {
                let key = self.broker.endpoint()["public_key"].as_str().ok_or("a broker without a key")?;
                format!("kv://127.0.0.1:{}/test?key={key}", self.broker.tcp_port())
            }
        };
        Ok(Client::connect_with(&target, options.timeout(PATIENCE))?)
    }

    fn socket(&self) -> Result<zmq::Socket, Failed> {
        let socket = Dealer::socket(&self.context)?;
        match self.way {
            Way::Ipc => socket.connect(&format!("ipc://{}", self.broker.router_socket().display()))?,
            Way::Curve => {
                let text = std::fs::read_to_string(self.broker.home().path().join("config/id"))?;
                let secret = text.lines().find_map(|line| SecretKey::from_text(line).ok()).ok_or("an owner without a key")?;
                let owner = KeyPair::from_secret(secret)?;
                let broker = self.broker.endpoint()["public_key"].as_str().and_then(|key| key.parse().ok());
                let broker: kvbroker::keys::PublicKey = broker.ok_or("a broker without a key")?;
                socket.set_curve_secretkey(owner.secret().expose_bytes())?;
                socket.set_curve_publickey(owner.public().as_bytes())?;
                socket.set_curve_serverkey(broker.as_bytes())?;
                socket.connect(&format!("tcp://127.0.0.1:{}", self.broker.tcp_port()))?;
            }
        }
        Ok(socket)
    }
}

/// The broker's program beside this one.
fn beside() -> Result<PathBuf, Failed> {
    let own = std::env::current_exe()?;
    let program = own.with_file_name("kvbroker");
    if program.is_file() {
        Ok(program)
    } else {
        Err(format!("there is no {}; build it, or name a directory with --bin", program.display()).into())
    }
}

impl Server for Kvbroker {
    fn name(&self) -> String {
        let build = if self.is_other_build { ", another build" } else { "" };
        format!("kvbroker {}{build}", self.version)
    }

    fn settings(&self) -> String {
        let way = match self.way {
            Way::Ipc => "ipc",
            Way::Curve => "TCP with CURVE",
        };
        let generator = match self.generator {
            Generator::Raw(Frames::Numbered) => "one operation per message, in sessions",
            Generator::Raw(Frames::Plain) => "one operation per message, without sessions",
            Generator::Library => "the client library, pipelined",
        };
        format!("`--sync {}`; {way}; {generator}; a watcher of one key in a hundred", self.sync)
    }

    fn pid(&self) -> u32 {
        self.broker.pid()
    }
}

impl TableServer for Kvbroker {
    fn lane(&self, outstanding: usize) -> Result<Box<dyn Lane>, Failed> {
        match self.generator {
            Generator::Raw(frames) => Ok(Box::new(Dealer::greet(self.socket()?, frames)?)),
            Generator::Library => Ok(Box::new(Library::new(self.client()?, outstanding))),
        }
    }

    fn watcher(&self, keys: u32) -> Result<Option<Box<dyn Watcher>>, Failed> {
        let mut watch = self.client()?.watch(payload::prefix_of_a_hundredth(keys), WatchFrom::Now)?;
        // From here on it hears of every change.
        match watch.next(Some(Instant::now() + PATIENCE))? {
            Some(WatchEvent::CaughtUp { .. }) => {}
            other => return Err(format!("a watch begins with {other:?}").into()),
        }
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                let mut changes = 0;
                while !stop.load(Ordering::Relaxed) {
                    match watch.next(Some(Instant::now() + LOOK)) {
                        Ok(Some(WatchEvent::Changes(revision))) => changes += revision.len() as u64,
                        Ok(_) => {}
                        Err(error) => return Err(error.to_string()),
                    }
                }
                Ok(changes)
            }
        });
        Ok(Some(Box::new(Listener { stop, thread })))
    }
}

struct Listener {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<u64, String>>,
}

impl Watcher for Listener {
    fn finish(self: Box<Self>) -> Result<u64, Failed> {
        self.stop.store(true, Ordering::Relaxed);
        Ok(self.thread.join().map_err(|_| "the watcher panicked")??)
    }
}

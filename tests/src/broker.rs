//! A broker process of a test's own.
//!
//! Caveat: a broker also ends with the *thread* that started it (Linux ties the parent's death signal to threads), so that a test
//! which crashes leaves nothing behind. Start it in the test's own thread.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvbroker::keys::{KeyPair, SecretKey};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{Machine, PATIENCE, RawClient, RawSubscriber, program, wait_until};

/// A directory that serves as `KVBROKER_HOME`; removed with its last holder.
#[derive(Clone, Debug)]
pub struct Home(Arc<TempDir>);

impl Home {
    /// A new, empty one.
    ///
    /// # Panics
    /// If the system has no room for temporary files.
    pub fn new() -> Home {
        // A short prefix: a unix socket's path has 107 bytes at most.
        let directory = tempfile::Builder::new().prefix("kvt-").tempdir();
        Home(Arc::new(directory.expect("a machine that runs tests has room for temporary files")))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Default for Home {
    fn default() -> Self {
        Home::new()
    }
}

/// How a broker is started.
#[derive(Clone, Debug)]
pub struct BrokerOptions {
    /// The project's name.
    pub project: String,
    /// Its `KVBROKER_HOME`; brokers of one test may share it.
    pub home: Home,
    /// For `--catalog`.
    pub catalog: String,
    /// For `--listen`; empty: the broker's default, which is every address of the machine.
    pub listen: Vec<String>,
    /// More arguments.
    pub args: Vec<OsString>,
    /// More environment.
    pub env: Vec<(OsString, OsString)>,
    /// A command that the broker's command line is appended to; it must end in exec(2), so that the process id stays.
    pub wrapper: Vec<OsString>,
    /// How long a start may take.
    pub patience: Duration,
    /// The program; None: the workspace's.
    pub program: Option<PathBuf>,
}

impl Default for BrokerOptions {
    fn default() -> Self {
        BrokerOptions {
            project: "test".to_owned(),
            home: Home::new(),
            catalog: "none".to_owned(),
            listen: vec!["127.0.0.1".to_owned()],
            args: Vec::new(),
            env: Vec::new(),
            wrapper: Vec::new(),
            patience: PATIENCE,
            program: None,
        }
    }
}

impl BrokerOptions {
    /// The same with more arguments.
    #[must_use]
    pub fn args<S: Into<OsString>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// The same with other addresses for `--listen`; none: every address of the machine.
    #[must_use]
    pub fn listen<S: Into<String>>(mut self, listen: impl IntoIterator<Item = S>) -> Self {
        self.listen = listen.into_iter().map(Into::into).collect();
        self
    }

    /// The same with another project.
    #[must_use]
    pub fn project(mut self, project: &str) -> Self {
        project.clone_into(&mut self.project);
        self
    }

    /// The same in a home that others know, too.
    #[must_use]
    pub fn home(mut self, home: &Home) -> Self {
        self.home = home.clone();
        self
    }

    /// The same on another machine.
    #[must_use]
    pub fn on(mut self, machine: &Machine) -> Self {
        self.wrapper = machine.enter();
        self
    }

    /// The same behind a command that execs it.
    #[must_use]
    pub fn wrapper<S: Into<OsString>>(mut self, wrapper: impl IntoIterator<Item = S>) -> Self {
        self.wrapper = wrapper.into_iter().map(Into::into).collect();
        self
    }
}

/// A process that ended by itself.
#[derive(Debug)]
pub struct Ended {
    /// How.
    pub status: ExitStatus,
    /// What it wrote to stdout.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
}

/// Resident memory of a process, bytes.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Now.
    pub now: u64,
    /// The most since its start.
    pub peak: u64,
}

/// A running broker, killed when dropped.
#[derive(Debug)]
pub struct Broker {
    options: BrokerOptions,
    child: Child,
    endpoint: Value,
    output: PathBuf,
    starts: u32,
    ended: Option<ExitStatus>,
}

impl Broker {
    /// Starts a broker with defaults.
    ///
    /// # Panics
    /// As [`Broker::start`].
    pub fn plain() -> Broker {
        Broker::start(BrokerOptions::default())
    }

    /// Starts a broker and waits until it is ready.
    ///
    /// # Panics
    /// With its output, if it ends or is not ready in time.
    pub fn start(options: BrokerOptions) -> Broker {
        Broker::try_start(options).unwrap_or_else(|ended| {
            panic!("the broker ended with {}\nstdout:\n{}\nstderr:\n{}", ended.status, ended.stdout, ended.stderr)
        })
    }

    /// Starts a broker and waits until it is ready or has ended.
    ///
    /// # Errors
    /// How it ended.
    ///
    /// # Panics
    /// If it is neither in time.
    pub fn try_start(options: BrokerOptions) -> Result<Broker, Ended> {
        // Beside what the broker itself makes, and not two brokers' in one place.
        let output = tempfile::Builder::new().prefix("out-").tempdir_in(options.home.path());
        let output = output.expect("a home has room for output").keep();
        let child = spawn(&options, &output, 0);
        let mut broker = Broker { options, child, endpoint: Value::Null, output, starts: 0, ended: None };
        broker.wait_until_ready()?;
        Ok(broker)
    }

    /// Starts it again after [`Broker::kill9`] or a stop, on the same data, and waits until it is ready.
    ///
    /// # Panics
    /// If it still runs, or does not get ready.
    pub fn restart(&mut self) {
        if let Err(ended) = self.try_restart() {
            panic!("the broker ended with {}\nstdout:\n{}\nstderr:\n{}", ended.status, ended.stdout, ended.stderr);
        }
    }

    /// As [`Broker::restart`].
    ///
    /// # Errors
    /// How it ended.
    ///
    /// # Panics
    /// If it still runs.
    pub fn try_restart(&mut self) -> Result<(), Ended> {
        assert!(self.ended.is_some(), "it still runs");
        self.starts += 1;
        self.child = spawn(&self.options, &self.output, self.starts);
        self.ended = None;
        self.wait_until_ready()
    }

    fn wait_until_ready(&mut self) -> Result<(), Ended> {
        let ready = self.ready_file();
        let patience = self.options.patience;
        let deadline = Instant::now() + patience;
        while fs::metadata(&ready).map_or(0, |file| file.len()) == 0 {
            if let Some(status) = self.try_wait() {
                return Err(Ended { status, stdout: self.stdout(), stderr: self.stderr() });
            }
            assert!(Instant::now() < deadline, "the broker is not ready after {patience:?}:\n{}", self.stderr());
            std::thread::sleep(Duration::from_millis(2));
        }
        let text = fs::read(self.runtime_directory().join("endpoint.json")).expect("a ready broker has an endpoint file");
        self.endpoint = crate::json(&text);
        Ok(())
    }

    fn ready_file(&self) -> PathBuf {
        self.output.join(format!("ready-{}", self.starts))
    }

    /// Options it was started with; changes count from the next start on.
    pub fn options(&mut self) -> &mut BrokerOptions {
        &mut self.options
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its `KVBROKER_HOME`.
    pub fn home(&self) -> &Home {
        &self.options.home
    }

    /// Where its sockets are.
    pub fn runtime_directory(&self) -> PathBuf {
        self.options.home.path().join("run").join(&self.options.project)
    }

    /// Where its log is, unless `--data` was given.
    pub fn data_directory(&self) -> PathBuf {
        self.options.home.path().join("data").join(&self.options.project)
    }

    /// What its endpoint file says.
    pub fn endpoint(&self) -> &Value {
        &self.endpoint
    }

    /// The ROUTER's unix socket, as the endpoint file names it.
    ///
    /// # Panics
    /// If it names none.
    pub fn router_socket(&self) -> PathBuf {
        PathBuf::from(self.endpoint["router"].as_str().expect("the endpoint file names the router's socket"))
    }

    /// The publisher's unix socket, as the endpoint file names it.
    ///
    /// # Panics
    /// If it names none.
    pub fn pub_socket(&self) -> PathBuf {
        PathBuf::from(self.endpoint["pub"].as_str().expect("the endpoint file names the publisher's socket"))
    }

    /// A DEALER to it.
    pub fn dealer(&self) -> RawClient {
        RawClient::dealer(&self.router_socket())
    }

    /// A REQ to it.
    pub fn req(&self) -> RawClient {
        RawClient::req(&self.router_socket())
    }

    /// A DEALER to it over TCP with the owner's key.
    ///
    /// # Panics
    /// If there is no key file.
    pub fn dealer_on_tcp(&self) -> RawClient {
        self.dealer_at("127.0.0.1")
    }

    /// The same at another of its addresses (IPv6 in brackets).
    ///
    /// # Panics
    /// If there is no key file.
    pub fn dealer_at(&self, host: &str) -> RawClient {
        let text = fs::read_to_string(self.options.home.path().join("config/id")).expect("a broker's owner has a key");
        let secret = text.lines().find_map(|line| SecretKey::from_text(line).ok()).expect("the key file has a secret key");
        let owner = KeyPair::from_secret(secret).expect("libzmq has CURVE");
        let broker = self.endpoint["public_key"].as_str().and_then(|key| key.parse().ok());
        let port = self.tcp_port();
        RawClient::on_tcp(&format!("tcp://{host}:{port}"), &owner, &broker.expect("the endpoint file has the broker's key"))
    }

    /// The ROUTER's TCP port.
    ///
    /// # Panics
    /// If it has none.
    pub fn tcp_port(&self) -> u16 {
        let port = self.endpoint["tcp"]["port"].as_u64().and_then(|port| u16::try_from(port).ok());
        port.expect("the endpoint file names the TCP port")
    }

    /// A SUB to it.
    pub fn subscriber(&self, topics: &[&[u8]]) -> RawSubscriber {
        RawSubscriber::new(&self.pub_socket(), topics)
    }

    /// A counter of `stats`.
    ///
    /// # Panics
    /// If there is none of this name.
    pub fn stat(&self, name: &str) -> u64 {
        let reply = self.dealer().ask_json(&json!({"op": "stats"}));
        reply["stats"][name].as_u64().unwrap_or_else(|| panic!("no number {name} in {reply}"))
    }

    /// Its resident memory.
    ///
    /// # Panics
    /// If it has ended.
    pub fn memory(&self) -> Memory {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let bytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            let kib = line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or_else(|_| panic!("no {name} in {status}"));
            kib << 10
        };
        Memory { now: bytes("VmRSS:"), peak: bytes("VmHWM:") }
    }

    /// Lets [`Memory::peak`] begin anew.
    ///
    /// # Panics
    /// If it has ended.
    pub fn forget_peak(&self) {
        fs::write(format!("/proc/{}/clear_refs", self.pid()), "5").expect("it runs, and is ours");
    }

    /// Ends it as a power failure would end the process: nothing of it runs on.
    ///
    /// # Panics
    /// If it cannot be killed.
    pub fn kill9(&mut self) {
        self.child.kill().expect("its own child can be killed");
        self.wait_for_exit(PATIENCE);
    }

    /// Sends SIGTERM.
    pub fn term(&self) {
        self.signal(Signal::TERM);
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// If it has ended and was waited for.
    pub fn signal(&self, signal: Signal) {
        assert!(self.ended.is_none(), "it has ended");
        kill_process(Pid::from_child(&self.child), signal).expect("its own child can be signalled");
    }

    /// Asks for a clean stop and waits for it.
    ///
    /// # Panics
    /// If it does not end in time or not with code 0.
    pub fn stop(&mut self) {
        self.term();
        let status = self.wait_for_exit(PATIENCE);
        assert_eq!(status.code(), Some(0), "a clean stop; stderr:\n{}", self.stderr());
    }

    /// How it ended, if it has.
    ///
    /// # Panics
    /// If the kernel does not tell.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().expect("its own child can be waited for");
        }
        self.ended
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it does not end in time.
    pub fn wait_for_exit(&mut self, patience: Duration) -> ExitStatus {
        wait_until(patience, "the broker has ended", || self.try_wait())
    }

    /// True if its last start cut a torn tail off the log, and so began a new epoch.
    ///
    /// A kill can stop a write in its middle, so each start behind one may have had to; what was acknowledged is whole all the same.
    pub fn has_cut_a_torn_tail(&self) -> bool {
        self.stdout().lines().any(|line| line.contains("a torn tail of") && line.contains("(new epoch)"))
    }

    /// What it wrote to stdout since its last start.
    pub fn stdout(&self) -> String {
        read(&self.output.join(format!("stdout-{}", self.starts)))
    }

    /// What it wrote to stderr since its last start.
    pub fn stderr(&self) -> String {
        read(&self.output.join(format!("stderr-{}", self.starts)))
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if self.try_wait().is_none() {
            // It can have ended just now.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- broker {} wrote to stdout:\n{}--- and to stderr:\n{}---", self.pid(), self.stdout(), self.stderr());
        }
    }
}

/// Lets a program end with the thread that starts it, whatever becomes of that.
pub fn end_with_us(command: &mut Command) {
    // SAFETY: between fork and exec this only makes one system call, prctl, which is async-signal-safe.
    unsafe { command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?)) };
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

fn spawn(options: &BrokerOptions, output: &Path, start: u32) -> Child {
    let file = |name: &str| File::create(output.join(format!("{name}-{start}"))).expect("a home has room for output");
    let broker = options.program.clone().unwrap_or_else(|| program("kvbroker"));
    let mut words = options.wrapper.iter().cloned().chain([broker.into()]);
    let mut command = Command::new(words.next().expect("there is at least the program"));
    command.args(words).arg(&options.project).args(["--catalog", &options.catalog]);
    for address in &options.listen {
        command.args(["--listen", address]);
    }
    command.arg("--ready-file");
    command.arg(output.join(format!("ready-{start}"))).args(&options.args);
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("KVBROKER_")) {
            command.env_remove(name);
        }
    }
    // Temporary files may be in memory.
    command.env("KVBROKER_ACCEPT_FILESYSTEM", "1");
    command.env("KVBROKER_HOME", options.home.path()).envs(options.env.iter().cloned());
    command.stdin(Stdio::null()).stdout(file("stdout")).stderr(file("stderr"));
    end_with_us(&mut command);
    command.spawn().expect("the program can be started")
}

//! A small broker inside the program, for the examples of this documentation to run against: a table in memory, on a unix socket
//! in a temporary directory. It knows the simple operations, remembers nothing and serves one project.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use kvbroker_protocol::limits::FRAMES_MAX;
use kvbroker_protocol::{
    Answer, BrokerId, ChangeKind, Condition, ErrorCode, Failure, Found, HelloAnswer, Key, KeyEvent, Operation, Operations,
    Outcome, Outcomes, Reply, RevisionEvents, Role, Row, SessionId, Stored, decode_request, encode_reply, integer_of,
    reported_limits, same_value,
};
use uuid::Uuid;

use super::{Client, ConnectOptions};
use crate::catalog::CatalogList;
use crate::endpoint::Endpoint;
use crate::keys::KeyPair;
use crate::paths::Dirs;
use crate::transport::{CLIENT_FRAME_BYTES, Message, ReceiveLimits, Reception, ServerOptions, ServerSocket};
use crate::zap::{Policy, SecuredContext};

type Problem = Box<dyn std::error::Error + Send + Sync>;

/// Runs until it is dropped.
#[derive(Debug)]
pub struct Broker {
    _home: tempfile::TempDir,
    dirs: Dirs,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Broker {
    /// Starts one with an empty table.
    ///
    /// # Errors
    /// No room for temporary files, or no sockets.
    pub fn start() -> Result<Broker, Problem> {
        let home = tempfile::Builder::new().prefix("kvp-").tempdir()?;
        let dirs = Dirs::under(home.path())?;
        let project = "practice".parse()?;
        let runtime = dirs.create_runtime(&project)?;
        let keys = KeyPair::generate()?;
        let secured = SecuredContext::start(1, Policy::owner_only(*keys.public()), Arc::new(|_: &str| {}))?;
        let mut router = secured.router(&ServerOptions::default())?;
        router.bind_ipc(&runtime.router_socket())?;
        let endpoint = Endpoint {
            project,
            owner: "you".into(),
            uuid: Uuid::from_u128(1),
            instance: Uuid::from_u128(1),
            epoch: 1,
            pid: std::process::id(),
            starttime_s: 1,
            router_socket: runtime.router_socket(),
            pub_socket: runtime.pub_socket(),
            tcp: None,
            public_key: Some(*keys.public()),
        };
        endpoint.write(&runtime)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let serve = move || {
            let mut table = Table::default();
            while !stopped.load(Ordering::Relaxed) && serve(&router, &mut table).is_ok() {}
            drop(router);
            drop((secured, runtime));
        };
        let thread = std::thread::Builder::new().name("practice".into()).spawn(serve)?;
        Ok(Broker { _home: home, dirs, stop, thread: Some(thread) })
    }

    /// A client of it.
    ///
    /// # Errors
    /// As [`Client::connect_with`].
    pub fn client(&self) -> Result<Client, super::ClientError> {
        Client::connect_with("practice", ConnectOptions::new().dirs(self.dirs.clone()).catalogs(CatalogList::none()))
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A failure there was seen by its clients.
            let _ = thread.join();
        }
    }
}

fn serve(router: &ServerSocket, table: &mut Table) -> Result<(), Problem> {
    let mut frames = Vec::new();
    let limits = ReceiveLimits { max_frames: FRAMES_MAX, max_bytes: CLIENT_FRAME_BYTES };
    if router.receive(limits, &mut frames, Some(Duration::from_millis(5)))? != Reception::Whole {
        return Ok(());
    }
    let Some(body) = frames.pop() else { return Ok(()) };
    let Ok(request) = decode_request(&body) else { return Ok(()) };
    let outcomes = match &request.operations {
        Operations::One(operation) => Outcomes::One(table.run(operation)),
        Operations::Many(operations) => Outcomes::Many(operations.iter().map(|operation| table.run(operation)).collect()),
    };
    let mutates = request.operations.as_slice().iter().any(Operation::is_mutation);
    let mut reply = Vec::new();
    let header = Reply { id: request.header.id, form: request.form, retry_safe: mutates.then_some(false), outcomes };
    encode_reply(&header, &mut reply);
    frames.push(Message::from(reply));
    // A client that is gone needs no reply.
    let _ = router.try_send(&frames)?;
    Ok(())
}

#[derive(Default)]
struct Table {
    revision: u64,
    rows: BTreeMap<Key, Found>,
    changes: Vec<RevisionEvents>,
}

impl Table {
    fn run(&mut self, operation: &Operation) -> Outcome {
        let result = self.answer(operation);
        Outcome { revision: Some(self.revision), result }
    }

    fn answer(&mut self, operation: &Operation) -> Result<Answer, Failure> {
        let not_found = || Failure::new(ErrorCode::NotFound, "no such key");
        match operation {
            Operation::Hello { .. } => Ok(Answer::Hello(Box::new(HelloAnswer {
                protocol: 1,
                project: "practice".into(),
                owner: "you".into(),
                broker: BrokerId(Uuid::from_u128(1).into_bytes()),
                session: SessionId::new(1, 1),
                user: "owner".into(),
                role: Some(Role::Admin),
                limits: reported_limits(),
                ..HelloAnswer::default()
            }))),
            Operation::Put { key, value, condition, .. } => {
                self.check(key, condition.as_ref())?;
                Ok(self.put(key, value.clone()))
            }
            Operation::Incr { key, by } => {
                let before = match self.rows.get(key) {
                    Some(found) => integer_of(found.value.as_bytes()),
                    None => Some(0),
                };
                let before = before.ok_or_else(|| Failure::new(ErrorCode::WrongType, "not an integer"))?;
                let sum = i64::try_from(before + i128::from(*by));
                let sum = sum.map_err(|_| Failure::new(ErrorCode::OutOfRange, "too large for practice"))?.into();
                self.put(key, Stored::integer(sum));
                Ok(Answer::Integer(sum))
            }
            Operation::Del { key, return_old, condition } => {
                if self.rows.contains_key(key) {
                    self.check(key, condition.as_ref())?;
                }
                let found = self.rows.remove(key).ok_or_else(not_found)?;
                self.changed(key, ChangeKind::Remove);
                Ok(if *return_old { Answer::Removed(found.value) } else { Answer::Done })
            }
            Operation::Get { key } => {
                let Found { value, modified, created } = self.rows.get(key).cloned().ok_or_else(not_found)?;
                Ok(Answer::Value { value, modified, created })
            }
            Operation::Mget { keys } => Ok(Answer::Values(keys.iter().map(|key| self.rows.get(key).cloned()).collect())),
            Operation::Exists { key } => Ok(Answer::Exists(self.rows.contains_key(key))),
            Operation::Size => Ok(Answer::Size(self.rows.len() as u64)),
            Operation::Ping | Operation::Noop => Ok(Answer::Done),
            Operation::Scan(scan) => {
                let rows = self.rows.iter().filter(|(key, _)| key.starts_with(&scan.prefix));
                let rows = rows.filter(|(key, _)| scan.from.as_ref().is_none_or(|from| *key >= from));
                let rows = rows.filter(|(key, _)| scan.to.as_ref().is_none_or(|to| *key < to));
                if scan.keys_only {
                    let keys = rows.map(|(key, _)| key.clone()).collect();
                    return Ok(Answer::Keys { keys, cursor: None, snapshot: None });
                }
                let row =
                    |(key, found): (&Key, &Found)| Row { key: key.clone(), value: found.value.clone(), modified: found.modified };
                Ok(Answer::Rows { rows: rows.map(row).collect(), cursor: None, snapshot: None })
            }
            // Nobody waits for anything: who asked for that asks again.
            Operation::Events(asked) => {
                let after = asked.after.unwrap_or(self.revision);
                let mut events: Vec<_> = self.changes.iter().filter(|change| change.revision > after).cloned().collect();
                events.retain(|event| event.changes.iter().any(|change| change.key.starts_with(&asked.prefix)));
                Ok(Answer::Events { events, through: self.revision, more: false, epoch: 1 })
            }
            other => Err(Failure::invalid(format!("{} is not for practice", other.verb()))),
        }
    }

    fn check(&self, key: &[u8], condition: Option<&Condition>) -> Result<(), Failure> {
        let found = self.rows.get(key);
        let holds = match condition {
            None => true,
            Some(Condition::Absent) => found.is_none(),
            Some(Condition::Exists) => found.is_some(),
            Some(Condition::Revision(revision)) => found.is_some_and(|found| found.modified == *revision),
            Some(Condition::Value(value)) => found.is_some_and(|found| same_value(found.value.as_bytes(), value.as_bytes())),
        };
        if holds { Ok(()) } else { Err(Failure::new(ErrorCode::Conflict, "the condition does not hold")) }
    }

    fn changed(&mut self, key: &[u8], kind: ChangeKind) {
        self.revision += 1;
        let changes = vec![KeyEvent { key: key.to_vec(), kind, before: None }];
        self.changes.push(RevisionEvents { revision: self.revision, time_ms: 0, changes, origin: None });
    }

    fn put(&mut self, key: &[u8], value: Stored) -> Answer {
        self.changed(key, ChangeKind::Put(value.clone()));
        let created = self.rows.get(key).map_or(self.revision, |found| found.created);
        self.rows.insert(key.to_vec(), Found { value, modified: self.revision, created });
        Answer::Done
    }
}

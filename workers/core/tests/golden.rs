//! The scripts in `scripts/`: what every operation answers, one short file per case, to be read as documentation.
//!
//! - A script speaks to an empty table as a client does: bodies in, replies out, through the protocol's own codec.
//! - `> BODY` sends JSON. Tags in front change that: `[pack]` sends the MessagePack that says the same and shows the reply as JSON,
//!   `[hex]` sends these bytes, `[bytes]` shows the reply's bytes, `[rows]` shows of a long page only how many rows it has and where it goes on.
//! - Messages come from the user `owner`, until `user NAME [role=ROLE] [prefixes=P,Q]` says otherwise; `bound SESSIONS KEEP_MS` bounds the sessions.
//! - `fill COUNT [prefix=TEXT] [bytes=N]` puts keys PREFIX00000… with texts of N bytes; `log` shows the records that the last
//!   message would write to the log, `messages` what it tells those who listen.
//! - Time stands still: `wait MS` lets some pass, and gives up snapshots that nobody has read; `expiries` then does what is due, to keys and to items of queues, as the table worker does before each batch.
//!
//! After a change that is meant to change them: `UPDATE_GOLDENFILES=1 cargo test -p kvbroker-core --test golden`, then read the
//! difference and keep only what is understood.
//!
//! Caveat: header fields that only the table worker answers (`retry_safe`) do not appear here.

#![allow(clippy::unwrap_used)]

use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use goldenscript::{Command, Context};
use kvbroker_core::{
    Change, Decision, History, Message, Numbered, Reader, SessionBounds, Snapshots, Space, Stamp, State, Turn, decide,
    decide_numbered, end_session, expire_item, result_of, split_table_record,
};
use kvbroker_protocol::{
    Access, Header, Operation, Operations, Outcome, Outcomes, QueueOperation, Rejected, Reply, Role, Stored, ValueKind,
    decode_request, encode_reply, json_to_msgpack, key_to_json_text, msgpack_to_json, request_hash,
};

struct Runner {
    state: State,
    history: History,
    snapshots: Snapshots,
    /// The time of all stamps; it stands still but for `wait`.
    time_ms: u64,
    /// Of the last message, each with its revision.
    changes: Vec<(u64, Change)>,
    /// What the last message published.
    messages: Vec<Message>,
    /// The authenticated user.
    user: String,
    /// What it may do.
    access: Access,
    bounds: SessionBounds,
    /// Of the message that is being answered; its `seq` is the next mutation's.
    header: Header,
}

impl Default for Runner {
    fn default() -> Self {
        Runner {
            state: State::new(),
            history: History::default(),
            snapshots: Snapshots::default(),
            time_ms: 0,
            changes: Vec::new(),
            messages: Vec::new(),
            user: "owner".into(),
            access: Access::owner(),
            bounds: SessionBounds::default(),
            header: Header::default(),
        }
    }
}

impl Runner {
    /// Answers one body as the broker does.
    fn answer(&mut self, body: &[u8]) -> Vec<u8> {
        self.changes.clear();
        self.messages.clear();
        let reply = match decode_request(body) {
            Err(Rejected { id, form, failure }) => {
                Reply { id, form, retry_safe: None, outcomes: Outcomes::One(Outcome { revision: None, result: Err(failure) }) }
            }
            Ok(request) => {
                self.header = request.header.clone();
                let outcomes = match request.operations {
                    Operations::One(operation) => Outcomes::One(self.run_one(operation, &mut Turn::one())),
                    Operations::Many(operations) => {
                        let mut turn = Turn::many();
                        Outcomes::Many(operations.into_iter().map(|operation| self.run_one(operation, &mut turn)).collect())
                    }
                };
                self.header = Header::default();
                Reply { id: request.header.id, form: request.form, retry_safe: None, outcomes }
            }
        };
        let mut out = Vec::new();
        encode_reply(&reply, &mut out);
        out
    }

    fn run_one(&mut self, operation: Operation, turn: &mut Turn) -> Outcome {
        let stamp = Stamp { revision: self.state.revision() + 1, time_ms: self.time_ms };
        let decision = self.decide(operation, stamp, turn);
        let revision = if decision.takes_revision { stamp.revision } else { self.state.revision() };
        self.messages.extend(decision.messages);
        for change in decision.changes {
            let logged = Change { value: self.state.logged_value(&change).map(<[u8]>::to_vec), ..change.clone() };
            self.changes.push((revision, logged));
            self.history.apply(&mut self.state, &mut self.snapshots, change, revision);
        }
        self.state.note_ends(decision.ended);
        decision.outcome
    }

    /// As the table worker decides: by the session where the header names one.
    fn decide(&mut self, operation: Operation, stamp: Stamp, turn: &mut Turn) -> Decision {
        if let Err(failure) = self.access.check(&operation) {
            return Decision::refused(&self.state, failure);
        }
        let (owner, scope) = (self.user.as_bytes(), &self.access.scope);
        let (session, ack) = (self.header.session, self.header.ack.unwrap_or_default());
        if let Operation::Queue(queue) = &operation
            && let QueueOperation::Extend { queue, receipt, lease_ms } = queue.as_ref()
        {
            let result = self.state.extend_lease(queue, *receipt, *lease_ms, stamp.time_ms);
            let outcome = Outcome { revision: Some(self.state.revision()), result };
            return Decision { outcome, changes: Vec::new(), takes_revision: false, ended: Vec::new(), messages: Vec::new() };
        }
        match (operation, session, self.header.seq) {
            (Operation::Result { session, seq, settle }, ..) => {
                result_of(&self.state, owner, session, seq, stamp, settle.then_some(&self.bounds))
            }
            (Operation::End, Some(session), _) => end_session(&self.state, owner, session, ack, stamp),
            (operation, Some(session), Some(seq)) if operation.is_mutation() => {
                self.header.seq = Some(seq + 1);
                let hash = request_hash(&operation, &mut Vec::new());
                let numbered = Numbered { owner, session, seq, ack, hash };
                decide_numbered(&self.state, scope, operation, &numbered, stamp, turn, &self.bounds)
            }
            (operation, ..) if operation.snapshot().is_some() => {
                let reader = Reader { user: &self.user, is_owner: self.user == "owner", scope };
                self.snapshots.read(&self.state, reader, &operation, stamp, turn)
            }
            (operation, ..) => decide(&self.state, scope, operation, stamp, turn),
        }
    }

    /// Time passes; nothing happens by that alone.
    fn wait(&mut self, command: &Command) -> Result<String, Box<dyn Error>> {
        let mut args = command.consume_args();
        self.time_ms += args.next_pos().ok_or("wait MS")?.parse::<u64>()?;
        args.reject_next()?;
        self.snapshots.tend(self.time_ms);
        Ok(format!("it is {}", self.time_ms))
    }

    /// Removes what is due, as the table worker does before each batch.
    fn expiries(&mut self) -> String {
        self.changes.clear();
        for key in self.state.due(self.time_ms, usize::MAX) {
            let (revision, change) = (self.state.revision() + 1, Change { space: Space::Table, key, value: None });
            self.changes.push((revision, change.clone()));
            self.history.apply(&mut self.state, &mut self.snapshots, change, revision);
        }
        self.state.advance_queues(self.time_ms, |_| {});
        for due in self.state.due_items(self.time_ms, usize::MAX) {
            let revision = self.state.revision() + 1;
            let (changes, ended) = expire_item(&self.state, due, Stamp { revision, time_ms: self.time_ms });
            self.state.note_ends(ended);
            for change in changes {
                self.changes.push((revision, change.clone()));
                self.history.apply(&mut self.state, &mut self.snapshots, change, revision);
            }
        }
        self.log()
    }

    fn fill(&mut self, command: &Command) -> Result<String, Box<dyn Error>> {
        let mut args = command.consume_args();
        let count: usize = args.next_pos().ok_or("fill COUNT")?.parse()?;
        let prefix = args.take_key("prefix").unwrap_or_default();
        let bytes = args.take_key("bytes").map_or(Ok(1), str::parse)?;
        args.reject_next()?;
        let value = Stored::text(&"v".repeat(bytes))?;
        for at in 0..count {
            let key = format!("{prefix}{at:05}").into_bytes();
            self.run_one(Operation::Put { key, value: value.clone(), condition: None, ttl_ms: None }, &mut Turn::one());
        }
        Ok(format!("{} keys at revision {}", self.state.keys(), self.state.revision()))
    }

    /// Whom the following messages come from.
    fn become_user(&mut self, command: &Command) -> Result<String, Box<dyn Error>> {
        let mut args = command.consume_args();
        self.user = args.next_pos().ok_or("user NAME")?.to_owned();
        let role = args.take_key("role").map_or(Some(Role::Admin), Role::from_name).ok_or("there is no such role")?;
        let prefixes = args.take_key("prefixes").into_iter().flat_map(|list| list.split(',')).map(Vec::from).collect();
        args.reject_next()?;
        self.access = Access::new(role, prefixes)?;
        Ok(format!("now as {}", self.user))
    }

    /// Bounds of sessions that a script can reach.
    fn bound(&mut self, command: &Command) -> Result<String, Box<dyn Error>> {
        let mut args = command.consume_args();
        let sessions_max = args.next_pos().ok_or("bound SESSIONS KEEP_MS")?.parse()?;
        let keep_ms = args.next_pos().ok_or("bound SESSIONS KEEP_MS")?.parse()?;
        args.reject_next()?;
        self.bounds = SessionBounds { sessions_max, per_owner_max: sessions_max, keep_ms, ..SessionBounds::default() };
        Ok(format!("{sessions_max} sessions, kept for {keep_ms} ms"))
    }

    fn messages(&self) -> String {
        if self.messages.is_empty() {
            return "nothing".into();
        }
        let shown = self.messages.iter().map(|Message { subject, value }| {
            let mut line = Vec::new();
            key_to_json_text(&mut line, subject);
            line.push(b' ');
            value.write_json(&mut line);
            String::from_utf8(line).unwrap()
        });
        shown.collect::<Vec<_>>().join("\n")
    }

    fn log(&self) -> String {
        if self.changes.is_empty() {
            return "nothing".into();
        }
        let mut shown = String::new();
        for (revision, change) in &self.changes {
            let mut key = Vec::new();
            key_to_json_text(&mut key, &change.key);
            let key = String::from_utf8(key).unwrap();
            write!(shown, "revision {revision}: ").unwrap();
            match &change.value {
                None if change.space != Space::Table => writeln!(shown, "delete {:?} {key}", change.space).unwrap(),
                None => writeln!(shown, "delete {key}").unwrap(),
                Some(value) if change.space != Space::Table => {
                    writeln!(shown, "{:?} {key} = {}", change.space, to_hex(value)).unwrap()
                }
                Some(record) => {
                    let parts = split_table_record(record).unwrap();
                    let stored = Stored::from_bytes(parts.stored.to_vec()).unwrap();
                    let document = match stored.kind() {
                        ValueKind::Json => format!("JSON {}", String::from_utf8_lossy(stored.document())),
                        ValueKind::MessagePack => format!("MessagePack {}", to_hex(stored.document())),
                    };
                    let created = parts.created.map_or("created by this revision".into(), |at| format!("created at {at}"));
                    let expires = parts.expires_ms.map(|at| format!(", due at {at}")).unwrap_or_default();
                    writeln!(shown, "put {key} = {document}, {created}{expires}").unwrap();
                }
            }
        }
        shown
    }
}

impl goldenscript::Runner for Runner {
    type Command = Command;

    fn run(&mut self, command: &Command, context: &Context) -> Result<String, Box<dyn Error>> {
        let has = |tag: &str| context.tags.contains(tag);
        if let Some(unknown) = context.tags.iter().find(|tag| !["pack", "hex", "bytes", "rows"].contains(&tag.as_str())) {
            return Err(format!("there is no tag [{unknown}]").into());
        }
        match command.name.as_str() {
            "fill" => return self.fill(command),
            "log" => return Ok(self.log()),
            "messages" => return Ok(self.messages()),
            "user" => return self.become_user(command),
            "bound" => return self.bound(command),
            "wait" => return self.wait(command),
            "expiries" => return Ok(self.expiries()),
            _ => {}
        }
        let sent = command.name.trim();
        let body = match (has("pack"), has("hex")) {
            (true, _) => json_to_msgpack(sent.as_bytes())?,
            (_, true) => from_hex(sent)?,
            _ => sent.as_bytes().to_vec(),
        };
        let reply = self.answer(&body);
        if has("bytes") {
            return Ok(to_hex(&reply));
        }
        let text = if reply.first() == Some(&b'{') { reply } else { msgpack_to_json(&reply)? };
        let text = String::from_utf8(text)?;
        if has("rows") { rows_only(&text) } else { Ok(without_runs(&text)) }
    }
}

/// A page in one line: the number of rows, the first and last key, and the cursor.
fn rows_only(reply: &str) -> Result<String, Box<dyn Error>> {
    let reply: serde_json::Value = serde_json::from_str(reply)?;
    let one = |result: &serde_json::Value| match result["rows"].as_array() {
        None => without_runs(&result.to_string()),
        Some(rows) => {
            let key = |row: Option<&serde_json::Value>| row.map_or("none".to_owned(), |row| row[0].to_string());
            let cursor = result.get("cursor").map_or("none".to_owned(), ToString::to_string);
            format!("{} rows, from {} to {}, cursor {cursor}", rows.len(), key(rows.first()), key(rows.last()))
        }
    };
    Ok(match reply.get("results").and_then(serde_json::Value::as_array) {
        Some(results) => results.iter().map(one).collect::<Vec<_>>().join("\n"),
        None => one(&reply),
    })
}

/// Shortens runs of one letter, which long values are made of here.
fn without_runs(text: &str) -> String {
    let mut shown = String::new();
    let mut rest = text.chars().peekable();
    while let Some(letter) = rest.next() {
        let mut count = 1;
        while rest.next_if_eq(&letter).is_some() {
            count += 1;
        }
        if count > 20 { write!(shown, "{letter}…({count})").unwrap() } else { shown.extend(std::iter::repeat_n(letter, count)) }
    }
    shown
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

fn from_hex(text: &str) -> Result<Vec<u8>, Box<dyn Error>> {
    text.split_whitespace().map(|byte| Ok(u8::from_str_radix(byte, 16)?)).collect()
}

#[test]
fn every_script_says_what_happens() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let mut scripts: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    scripts.sort();
    assert!(scripts.len() >= 15, "scripts are missing: {scripts:?}");
    for script in scripts {
        println!("{}", script.display());
        goldenscript::run(&mut Runner::default(), &script).unwrap();
    }
}

//! The least that a broker of this protocol does for a put: what one could cost at best, on one thread.
//!
//! - It decodes requests and encodes replies with the broker's own code, one message after the other, and hands nothing to another thread. *Decode* does
//!   no more than that. *Log* also hashes each request as sessions do, and writes the record of the key and that of the remembered reply to
//!   the broker's log, as many messages in a batch as there are, before it answers them.
//! - It has no table, no sessions, no history, no bounds, no access rules and nobody who watches: it can't answer a get. It is a process of its own: this program
//!   under another word.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use kvbroker_log::{BatchBuilder, Cause, DiskStorage, FileLog, GroupRef, Log, LogOptions, SessionRef, SyncMode};
use kvbroker_protocol::{
    Answer, Operation, Operations, Outcome, Outcomes, Reply, Request, decode_request, encode_reply, limits, request_hash,
};
use zmq::DONTWAIT;

use super::{Peer, Server, TableServer};
use crate::Failed;
use crate::load::{Dealer, Dialect, Frames, Lane};

/// Messages of a batch, at most.
const BATCH_MESSAGES_MAX: usize = 1_024;

/// What it does for each put.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Work {
    /// Reads the request and writes a reply.
    Decode,
    /// And hashes it, and writes it to a log without syncs.
    Log,
}

/// The words behind `compare floor`.
#[derive(Clone, Debug, Args)]
pub struct FloorArgs {
    /// Where to listen
    #[arg(long)]
    bind: String,
    /// What is done for each put
    #[arg(long)]
    work: Work,
    /// Where the log is
    #[arg(long)]
    data: PathBuf,
}

/// A running one; it is killed when this is dropped.
pub struct Floor {
    peer: Peer,
    socket: PathBuf,
    work: Work,
    context: zmq::Context,
}

impl Floor {
    /// Starts one.
    pub fn start(work: Work) -> Result<Floor, Failed> {
        let place = Peer::place()?;
        let socket = place.path().join("floor.sock");
        let data = place.path().join("data");
        std::fs::create_dir(&data)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["floor", "--bind", &format!("ipc://{}", socket.display()), "--data"]).arg(data);
        command.args(["--work", if work == Work::Decode { "decode" } else { "log" }]);
        let mut peer = Peer::start(&mut command, place)?;
        peer.wait_for("the floor was waited for", |_| socket.exists().then_some(()))?;
        Ok(Floor { peer, socket, work, context: zmq::Context::new() })
    }
}

impl Server for Floor {
    fn name(&self) -> String {
        "the least for a put".to_owned()
    }

    fn settings(&self) -> String {
        match self.work {
            Work::Decode => "one thread; requests decoded, replies encoded; ipc; one operation per message".to_owned(),
            Work::Log => {
                "one thread; requests decoded and hashed, records written to a log without syncs, replies encoded; ipc; one operation per message"
                    .to_owned()
            }
        }
    }

    fn pid(&self) -> u32 {
        self.peer.child.id()
    }
}

impl TableServer for Floor {
    fn lane(&self, _outstanding: usize) -> Result<Box<dyn Lane>, Failed> {
        let socket = Dealer::socket(&self.context)?;
        socket.connect(&format!("ipc://{}", self.socket.display()))?;
        Ok(Box::new(Dealer::new(socket, Dialect::floor(Frames::Numbered))))
    }
}

/// Writes of a put and of its reply what the broker's worker does; false for what is no put.
fn write_down(batch: &mut BatchBuilder, request: &Request, revision: u64, scratch: &mut Vec<u8>) -> bool {
    let (Operations::One(operation), Some(session), Some(seq)) =
        (&request.operations, request.header.session, request.header.seq)
    else {
        return false;
    };
    let Operation::Put { key, value, .. } = operation else { return false };
    let hash = request_hash(operation, scratch);
    batch.group(revision, Cause::Request, Some(SessionRef { id: session.0, sequence: seq }));
    scratch.clear();
    scratch.extend_from_slice(value.as_bytes());
    scratch.push(0);
    batch.put_in(b"t", key, scratch);
    // As docs/storage.md has the window of a session.
    let place = (seq % limits::SESSION_WINDOW as u64) as u16;
    scratch.clear();
    for number in [seq, hash] {
        scratch.extend_from_slice(&number.to_le_bytes());
    }
    scratch.extend_from_slice(&1_u16.to_le_bytes());
    scratch.extend_from_slice(&batch.stamp_ms().to_le_bytes());
    scratch.push(0);
    batch.put_in(b"w", &[&session.0[..], &place.to_be_bytes()].concat(), scratch);
    true
}

/// What `compare floor` does, until it is killed.
pub fn serve(args: &FloorArgs) -> Result<(), Failed> {
    let storage = Arc::new(DiskStorage::open(&args.data)?);
    let (mut log, _) = FileLog::open(storage, LogOptions::new(SyncMode::Never), &mut |_: GroupRef<'_>| Ok(()))?;
    let context = zmq::Context::new();
    let router = context.socket(zmq::ROUTER)?;
    router.set_sndhwm(0)?;
    router.set_rcvhwm(0)?;
    router.bind(&args.bind)?;
    let (mut peer, mut body) = (zmq::Message::new(), zmq::Message::new());
    let (mut batch, mut scratch, mut encoded) = (BatchBuilder::new(), Vec::new(), Vec::new());
    let mut replies: Vec<(Vec<u8>, Reply)> = Vec::new();
    let mut revision = 0;
    let mut stamp_ms = 1;
    loop {
        stamp_ms += 1;
        batch.begin(stamp_ms);
        while replies.len() < BATCH_MESSAGES_MAX {
            match router.recv(&mut peer, if replies.is_empty() { 0 } else { DONTWAIT }) {
                Ok(()) => {}
                Err(zmq::Error::EAGAIN) => break,
                Err(error) => return Err(error.into()),
            }
            router.recv(&mut body, 0)?;
            let Ok(request) = decode_request(&body) else { return Err("a message is no request".into()) };
            let takes_revision = args.work == Work::Decode || write_down(&mut batch, &request, revision + 1, &mut scratch);
            revision += u64::from(takes_revision);
            let outcomes = Outcomes::One(Outcome { revision: Some(revision), result: Ok(Answer::Done) });
            replies.push((peer.to_vec(), Reply { id: request.header.id, form: request.form, retry_safe: Some(true), outcomes }));
        }
        log.append(&mut batch)?;
        for (peer, reply) in replies.drain(..) {
            encoded.clear();
            encode_reply(&reply, &mut encoded);
            router.send(&peer, zmq::SNDMORE)?;
            router.send(&encoded, 0)?;
        }
    }
}

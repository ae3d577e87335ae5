//! A bare ROUTER that answers every message at once: what libzmq allows, with nothing behind it.
//!
//! - The same linked libzmq, and frames of the same sizes as the broker's. It is a process of its own: this program under another word.

use std::path::PathBuf;
use std::process::Command;

use clap::Args;

use super::{Peer, Server, TableServer};
use crate::Failed;
use crate::load::{Dealer, Dialect, Frames, Lane};

/// A request that is longer than this is a put.
const PUT_BYTES_MIN: usize = crate::payload::VALUE_BYTES;

/// A running one; it is killed when this is dropped.
pub struct Echo {
    peer: Peer,
    socket: PathBuf,
    frames: Frames,
    context: zmq::Context,
}

/// The words behind `compare echo`.
#[derive(Clone, Debug, Args)]
pub struct EchoArgs {
    /// Where to listen
    #[arg(long)]
    bind: String,
    /// Bytes of the answer to a put
    #[arg(long)]
    put_reply: usize,
    /// Bytes of the answer to a get
    #[arg(long)]
    get_reply: usize,
}

impl Echo {
    /// Starts one for requests like these.
    pub fn start(frames: Frames) -> Result<Echo, Failed> {
        let place = Peer::place()?;
        let socket = place.path().join("echo.sock");
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["echo", "--bind", &format!("ipc://{}", socket.display())]);
        command.args(["--put-reply", &Dialect::put_reply_bytes().to_string()]);
        command.args(["--get-reply", &Dialect::get_reply_bytes().to_string()]);
        let mut peer = Peer::start(&mut command, place)?;
        peer.wait_for("the echo was waited for", |_| socket.exists().then_some(()))?;
        Ok(Echo { peer, socket, frames, context: zmq::Context::new() })
    }
}

impl Server for Echo {
    fn name(&self) -> String {
        let (major, minor, patch) = zmq::version();
        format!("ROUTER echo, libzmq {major}.{minor}.{patch}")
    }

    fn settings(&self) -> String {
        format!(
            "one thread, answers at once; {} byte put, {} byte reply; ipc",
            self.frames.put_bytes(),
            Dialect::put_reply_bytes()
        )
    }

    fn pid(&self) -> u32 {
        self.peer.child.id()
    }
}

impl TableServer for Echo {
    fn lane(&self, _outstanding: usize) -> Result<Box<dyn Lane>, Failed> {
        let socket = Dealer::socket(&self.context)?;
        socket.connect(&format!("ipc://{}", self.socket.display()))?;
        Ok(Box::new(Dealer::new(socket, Dialect::echo(self.frames))))
    }
}

/// What `compare echo` does, until it is killed.
pub fn serve(args: &EchoArgs) -> Result<(), Failed> {
    let context = zmq::Context::new();
    let router = context.socket(zmq::ROUTER)?;
    router.set_sndhwm(0)?;
    router.set_rcvhwm(0)?;
    router.bind(&args.bind)?;
    let (mut peer, mut body) = (zmq::Message::new(), zmq::Message::new());
    let mut reply = vec![0; args.put_reply.max(args.get_reply)];
    loop {
        router.recv(&mut peer, 0)?;
        router.recv(&mut body, 0)?;
        let bytes = if body.len() >= PUT_BYTES_MIN { args.put_reply } else { args.get_reply };
        // The head has the request's number, which the generator looks at.
        let head = body.len().min(bytes).min(Dialect::HEAD_BYTES);
        reply[..head].copy_from_slice(&body[..head]);
        router.send(&*peer, zmq::SNDMORE)?;
        router.send(&reply[..bytes], 0)?;
    }
}

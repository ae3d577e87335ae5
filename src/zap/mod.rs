//! The door: who may connect to a broker (ZeroMQ authentication protocol, RFC 27).
//!
//! libzmq asks `inproc://zeromq.zap.01` about each new connection and tells the
//! answer to the sockets as the `User-Id` of every frame. If nobody answers
//! there, CURVE admits everyone; hence:
//!
//! - [`SecuredContext`] is the only way to a broker's sockets, and it starts the
//!   handler before it gives out the first one. Each context has its own.
//! - Sockets also set `ZMQ_ZAP_ENFORCE_DOMAIN`, so that a missing handler refuses.
//! - NULL is admitted on ipc alone, and there only if the kernel says that the
//!   peer runs under our own user id. CURVE is admitted if the policy knows the
//!   key. Anything else is refused. (A policy can admit NULL on TCP, too, as nobody
//!   in particular: `--insecure`.)
//! - A request that can't be understood is answered (400, or 500), never a panic.
//! - If the handler's thread dies, the process ends.
//!
//! Caveat: the ipc rule needs the peer's credentials in ZAP's address field
//! (`localhost:UID:GID:PID`), which libzmq fills in when it is built with
//! `ZMQ_HAVE_SO_PEERCRED`. Without it the field has no uid, and ipc is refused.

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, eventfd};

use crate::critical::{self, LoopEnd, OnDeath};
use crate::keys::{KEY_BYTES, PublicKey};
use crate::transport::{
    Context, Message, POLLIN, PollItem, ReceiveLimits, Reception, SendOutcome, ServerOptions, ServerSocket, Socket,
    TransportError, poll,
};

mod sabotage;

use sabotage::Sabotage;

/// The `User-Id` of peers on ipc: programs of our own user on this machine.
pub const LOCAL_USER_ID: &str = "local";

/// The `User-Id` of peers with the owner's own key.
pub const OWNER_USER_ID: &str = "owner";

/// The `User-Id` of peers on TCP without encryption, where the policy admits them.
pub const ANYONE_USER_ID: &str = "anyone";

/// RFC 27's version of requests and replies.
const VERSION: &[u8] = b"1.0";

/// RFC 27 fields before the credentials: version, request id, domain, address,
/// routing id, mechanism. CURVE adds one credential, PLAIN two.
const FIXED_FRAMES: usize = 6;

/// Everything that libzmq itself can send: a routing id has at most 255 bytes,
/// a domain and an address not many more.
const LIMITS: ReceiveLimits = ReceiveLimits { max_frames: 16, max_bytes: 16 * 1_024 };

/// Decides by public key: `Some(user id)` admits.
pub type KeyPolicy = Arc<dyn Fn(&[u8; KEY_BYTES]) -> Option<String> + Send + Sync>;

/// Decides by who somebody is ([`identity`]), once the policy knows: `false` keeps out.
pub type UserPolicy = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// Who is admitted.
#[derive(Clone)]
pub struct Policy {
    /// The user id that peers on ipc must have.
    pub local_uid: u32,
    /// Which keys are admitted, and as whom. Runs on the handler's thread while
    /// every new connection waits, so it must not wait for anything.
    pub keys: KeyPolicy,
    /// Whether peers on TCP are admitted that prove nothing, as [`ANYONE_USER_ID`]: only where the user asked for it by `--insecure`.
    pub plain_tcp: bool,
    /// Which of those whom the rest would admit are, on ipc and TCP alike. Must not wait either.
    pub users: UserPolicy,
}

impl Policy {
    /// Admits this process's user on ipc, and one key.
    #[must_use]
    pub fn owner_only(owner: PublicKey) -> Self {
        Self {
            local_uid: rustix::process::geteuid().as_raw(),
            keys: Arc::new(move |key| (key == owner.as_bytes()).then(|| OWNER_USER_ID.to_owned())),
            plain_tcp: false,
            users: Arc::new(|_| true),
        }
    }
}

/// Who a `User-Id` is: the owner is one identity, on ipc and with a key.
#[must_use]
pub fn identity(user_id: &str) -> &str {
    if user_id == LOCAL_USER_ID { OWNER_USER_ID } else { user_id }
}

/// A context with a running ZAP handler: what a broker makes its sockets in.
///
/// Drop the sockets first. When this is dropped the handler stops; sockets that
/// are still open then refuse new connections.
pub struct SecuredContext {
    context: Context,
    stop: Arc<AtomicBool>,
    doorbell: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

/// Why the door can't be manned.
#[derive(Debug, thiserror::Error)]
pub enum ZapError {
    /// No context or no socket.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// No thread or no eventfd.
    #[error("cannot start the authentication thread: {0}")]
    Start(#[from] std::io::Error),
}

impl SecuredContext {
    /// Makes a context and starts its handler; the handler is bound when this returns.
    /// `on_death` is called if its thread ends unasked
    /// (real programs pass [`critical::abort_process`]).
    ///
    /// # Errors
    /// Resources ran out.
    pub fn start(io_threads: u8, policy: Policy, on_death: OnDeath) -> Result<Self, ZapError> {
        let context = Context::new(io_threads)?;
        let sabotage = Sabotage::asked();
        let socket = if sabotage == Sabotage::NoHandler { None } else { Some(context.zap_handler()?) };
        let stop = Arc::new(AtomicBool::new(false));
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let doorbell = Arc::new(eventfd(0, flags).map_err(std::io::Error::from)?);
        let thread = match socket {
            Some(socket) => {
                let handler = Handler { socket, policy, sabotage, stop: Arc::clone(&stop), doorbell: Arc::clone(&doorbell) };
                Some(critical::spawn("zap", on_death, move || handler.run())?)
            }
            None => None,
        };
        Ok(Self { context, stop, doorbell, thread })
    }

    /// The context, for watching sockets and for clients in the same process.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// The broker's ROUTER. Not bound yet.
    ///
    /// # Errors
    /// No more sockets or file descriptors.
    pub fn router(&self, options: &ServerOptions) -> Result<ServerSocket, TransportError> {
        self.context.router(options)
    }

    /// The publisher's XPUB. Not bound yet.
    ///
    /// # Errors
    /// No more sockets or file descriptors.
    pub fn xpub(&self, options: &ServerOptions) -> Result<ServerSocket, TransportError> {
        self.context.xpub(options)
    }
}

impl Drop for SecuredContext {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Can only fail when the counter is full, and then the bell is ringing.
        let _ = rustix::io::write(self.doorbell.as_fd(), &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            // Its panics were caught and reported by `critical`.
            let _ = thread.join();
        }
    }
}

struct Handler {
    socket: Socket,
    policy: Policy,
    sabotage: Sabotage,
    stop: Arc<AtomicBool>,
    doorbell: Arc<OwnedFd>,
}

impl Handler {
    fn run(self) -> LoopEnd {
        loop {
            match self.turn() {
                Ok(()) if self.stop.load(Ordering::Acquire) => return LoopEnd::Asked,
                Ok(()) => {}
                Err(error) => return LoopEnd::Failed(error.to_string()),
            }
        }
    }

    fn turn(&self) -> Result<(), TransportError> {
        poll(&mut [self.socket.poll_item(POLLIN), PollItem::from_fd(self.doorbell.as_raw_fd(), POLLIN)], None)?;
        let mut frames = Vec::new();
        loop {
            let reply = match self.socket.try_receive(LIMITS, &mut frames)? {
                Reception::Nothing => return Ok(()),
                Reception::Whole => answer(&frames, &self.policy),
                Reception::TooMuch { .. } => Answer::refuse("400", "the request is too long"),
            };
            let request_id = frames.get(1).map_or(&[][..], |frame| frame);
            if reply.status != "200" {
                let [address, mechanism] = [3, 5].map(|index| {
                    let frame = frames.get(index).map_or(&[][..], |frame| frame);
                    String::from_utf8_lossy(frame)
                });
                tracing::debug!(%address, %mechanism, reason = %reply.text, "refused a connection");
            }
            let user_id = if self.sabotage == Sabotage::NoUserId { "" } else { &reply.user_id };
            let fields = [VERSION, request_id, reply.status.as_bytes(), reply.text.as_bytes(), user_id.as_bytes(), b""];
            // Whoever asked may be gone by now.
            let (SendOutcome::Queued | SendOutcome::PeerGone | SendOutcome::Full) = self.socket.try_send(&fields)?;
        }
    }
}

/// RFC 27 reply without the parts that are always the same.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: &'static str,
    text: &'static str,
    user_id: String,
}

impl Answer {
    fn admit(user_id: String) -> Self {
        Self { status: "200", text: "OK", user_id }
    }

    fn refuse(status: &'static str, text: &'static str) -> Self {
        Self { status, text, user_id: String::new() }
    }
}

/// The decision itself: one request in, one answer out.
fn answer(frames: &[Message], policy: &Policy) -> Answer {
    let answer = judge(frames, policy);
    if answer.status == "200" && !(policy.users)(identity(&answer.user_id)) {
        return Answer::refuse("400", "this user is kept out for now");
    }
    answer
}

/// Who it is, and whether such a one is admitted at all.
fn judge(frames: &[Message], policy: &Policy) -> Answer {
    let Some(([version, _request_id, _domain, address, _routing_id, mechanism], credentials)) =
        frames.split_first_chunk::<FIXED_FRAMES>()
    else {
        return Answer::refuse("500", "the request has too few frames");
    };
    if version[..] != *VERSION {
        return Answer::refuse("500", "the request has another version");
    }
    match (&mechanism[..], credentials) {
        (b"NULL", []) => match uid_of(address) {
            Some(uid) if uid == policy.local_uid => Answer::admit(LOCAL_USER_ID.to_owned()),
            Some(_) => Answer::refuse("400", "only the broker's own user may connect by ipc"),
            None if policy.plain_tcp && is_tcp(address) => Answer::admit(ANYONE_USER_ID.to_owned()),
            None => Answer::refuse("400", "unencrypted connections are refused"),
        },
        (b"CURVE", [key]) => match <&[u8; KEY_BYTES]>::try_from(&key[..]) {
            Ok(key) => (policy.keys)(key).map_or_else(|| Answer::refuse("400", "this key is not admitted"), Answer::admit),
            Err(_) => Answer::refuse("400", "a key has 32 bytes"),
        },
        (b"NULL" | b"CURVE", _) => Answer::refuse("400", "wrong number of credentials"),
        _ => Answer::refuse("400", "this mechanism is not used here"),
    }
}

/// Whether the peer came by TCP: then libzmq writes its address, with the interface behind a link-local one (`fe80::1%eth0`).
fn is_tcp(address: &[u8]) -> bool {
    let text = std::str::from_utf8(address).unwrap_or_default();
    text.split('%').next().is_some_and(|text| text.parse::<IpAddr>().is_ok())
}

/// The peer's uid from `localhost:UID:GID:PID`, which libzmq writes for ipc on
/// Linux. A tcp address has no such form: it is digits, dots and colons only.
fn uid_of(address: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(address).ok()?;
    let mut fields = text.strip_prefix("localhost:")?.split(':');
    let number = |field: Option<&str>| -> Option<u32> {
        let digits = field.filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
        digits.parse().ok()
    };
    let (uid, _gid, _pid) = (number(fields.next())?, number(fields.next())?, number(fields.next())?);
    fields.next().is_none().then_some(uid)
}

#[cfg(test)]
mod tests;

//! What both ends can do: receive within bounds, send without blocking, be polled and watched.

use std::ffi::CStr;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use zmq::{DONTWAIT, Message, POLLIN, PollEvents, PollItem, SNDMORE};

use super::lent::Lent;
use super::monitor::Monitor;
use super::{Context, Errno, MonitorEvent, TransportError};

/// How much of one message is collected; the rest is thrown away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiveLimits {
    /// Frames, the routing id and the envelope included.
    pub max_frames: usize,
    /// Bytes of all frames together.
    pub max_bytes: usize,
}

/// What a receive call found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Reception {
    /// Nothing has arrived.
    Nothing,
    /// A whole message is in the vector.
    Whole,
    /// A message exceeded the limits. Its first frames, up to the limits, are in
    /// the vector (the routing id to answer to among them); the others are gone.
    TooMuch {
        /// Frames that the message had.
        frames: u64,
        /// Bytes that its frames had together.
        bytes: u64,
    },
}

/// What became of a message to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum SendOutcome {
    /// libzmq has taken it; that says nothing about its arrival.
    Queued,
    /// A ROUTER's peer is gone, or a connection ended between two frames.
    PeerGone,
    /// The peer reads too slowly (ROUTER), or nobody is connected or has room
    /// (others). Nothing was sent.
    Full,
}

/// Bytes that can be sent as a frame.
pub trait AsFrame {
    /// The frame's bytes.
    fn as_frame(&self) -> &[u8];
}

macro_rules! is_a_frame {
    ($($kind:ty),+) => {
        $(
            impl AsFrame for $kind {
                fn as_frame(&self) -> &[u8] {
                    self.as_ref()
                }
            }
        )+
    };
}

is_a_frame!([u8], Vec<u8>, str, String);

impl AsFrame for Message {
    fn as_frame(&self) -> &[u8] {
        self
    }
}

impl<T: AsFrame + ?Sized> AsFrame for &T {
    fn as_frame(&self) -> &[u8] {
        (**self).as_frame()
    }
}

/// A socket of either end: sends, receives, is polled and watched.
pub struct Socket {
    pub(super) inner: zmq::Socket,
    // Closed after `inner`, and only after `drop` has ended the watching.
    monitor: Option<Monitor>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Some(monitor) = &self.monitor {
            monitor.detach(&mut self.inner);
        }
    }
}

impl Socket {
    pub(super) fn new(inner: zmq::Socket) -> Self {
        Self { inner, monitor: None }
    }

    /// Receives one message into `frames` (cleared first), if one has arrived.
    /// Never waits.
    ///
    /// # Errors
    /// The context ended, or libzmq broke its promise that messages are whole.
    pub fn try_receive(&self, limits: ReceiveLimits, frames: &mut Vec<Message>) -> Result<Reception, TransportError> {
        receive_from(&self.inner, limits, frames)
    }

    /// As [`Socket::try_receive`], but waits up to `timeout` for a message
    /// (`None`: for ever).
    ///
    /// # Errors
    /// As [`Socket::try_receive`].
    pub fn receive(
        &self,
        limits: ReceiveLimits,
        frames: &mut Vec<Message>,
        timeout: Option<Duration>,
    ) -> Result<Reception, TransportError> {
        // A timeout too long for the clock is as good as none.
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let reception = self.try_receive(limits, frames)?;
            if reception != Reception::Nothing {
                return Ok(reception);
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(Reception::Nothing);
            }
            poll(&mut [self.poll_item(POLLIN)], left)?;
        }
    }

    /// Sends one message of these frames without ever waiting.
    ///
    /// The bytes are copied: a call that a signal interrupts has to be repeated,
    /// and libzmq takes ownership of what it is handed.
    ///
    /// # Errors
    /// The context ended, or the socket can't send now (REP without a request).
    pub fn try_send<F: AsFrame>(&self, frames: &[F]) -> Result<SendOutcome, TransportError> {
        let mut outcome = SendOutcome::Queued;
        let last = frames.len().saturating_sub(1);
        for (index, frame) in frames.iter().enumerate() {
            let flags = if index == last { DONTWAIT } else { DONTWAIT | SNDMORE };
            let sent = without_interruption(|| self.inner.send(frame.as_frame(), flags));
            match judge(sent, index)? {
                SendOutcome::Queued => {}
                // libzmq now swallows frames up to the end of this message, so the rest
                // must be handed over, or the next message would lose its beginning.
                gone if index > 0 => outcome = gone,
                not_sent => return Ok(not_sent),
            }
        }
        Ok(outcome)
    }

    /// As [`Socket::try_send`], with a last frame that is handed over instead of being copied. `receipt` is dropped, on whatever
    /// thread, when libzmq keeps these bytes no longer: they have left (with CURVE: as a copy that is on its way out), they
    /// were not taken, or their connection has ended and this socket was polled or used since.
    ///
    /// # Errors
    /// As [`Socket::try_send`].
    pub fn try_send_with_receipt<F: AsFrame, R: Send + 'static>(
        &mut self,
        frames: &[F],
        last: Box<[u8]>,
        receipt: R,
    ) -> Result<SendOutcome, TransportError> {
        let mut lent = Lent::new(last, receipt)?;
        let mut outcome = SendOutcome::Queued;
        for (index, frame) in frames.iter().enumerate() {
            let sent = without_interruption(|| self.inner.send(frame.as_frame(), DONTWAIT | SNDMORE));
            match judge(sent, index)? {
                SendOutcome::Queued => {}
                gone if index > 0 => outcome = gone,
                not_sent => return Ok(not_sent),
            }
        }
        let sent = without_interruption(|| lent.send(&mut self.inner));
        match judge(sent, frames.len())? {
            SendOutcome::Queued => Ok(outcome),
            other => Ok(other),
        }
    }

    /// For [`poll`] together with other sockets and file descriptors.
    #[must_use]
    pub fn poll_item(&self, events: PollEvents) -> PollItem<'_> {
        self.inner.as_poll_item(events)
    }

    /// For [`wait`]: a descriptor that becomes readable when something happens to this socket.
    ///
    /// It tells that once. Whoever waits for it has seen, since anything else was last done with the socket, that nothing is there
    /// ([`Socket::try_receive`] gave nothing, or [`Socket::has_input`] was false); and looks again when it is readable, which need not
    /// mean that there is a message.
    ///
    /// # Errors
    /// The context ended.
    pub fn signal(&self) -> Result<BorrowedFd<'_>, TransportError> {
        signal_of(&self.inner)
    }

    /// True if a message has arrived.
    ///
    /// # Errors
    /// The context ended.
    pub fn has_input(&self) -> Result<bool, TransportError> {
        let events = self.inner.get_events().map_err(|error| TransportError::zmq("look for messages", error))?;
        Ok(events.contains(POLLIN))
    }

    /// As [`Socket::signal`], for the events of a watched socket: after [`Socket::try_next_event`] gave nothing. `None`: not watched.
    ///
    /// # Errors
    /// The context ended.
    pub fn event_signal(&self) -> Result<Option<BorrowedFd<'_>>, TransportError> {
        self.monitor.as_ref().map(|monitor| signal_of(&monitor.socket)).transpose()
    }

    /// How long closing waits for unsent messages.
    ///
    /// # Errors
    /// libzmq refused the time.
    pub fn set_linger(&self, linger: Duration) -> Result<(), TransportError> {
        let ms = i32::try_from(linger.as_millis()).unwrap_or(i32::MAX);
        self.inner.set_linger(ms).map_err(|error| TransportError::zmq("set the linger time", error))
    }

    /// Starts to watch this socket's connections. Call it before the first bind or
    /// connect, so that no event is missed; a second call changes nothing.
    ///
    /// # Errors
    /// No more sockets or file descriptors.
    pub fn watch(&mut self, context: &Context) -> Result<(), TransportError> {
        if self.monitor.is_none() {
            self.monitor = Some(Monitor::attach(context.raw(), &self.inner)?);
        }
        Ok(())
    }

    /// The next event of a watched socket, if there is one. Never waits.
    ///
    /// # Errors
    /// The context ended, or libzmq sent something that is no event.
    pub fn try_next_event(&self) -> Result<Option<MonitorEvent>, TransportError> {
        self.monitor.as_ref().map_or(Ok(None), Monitor::try_next)
    }

    /// For [`poll`]: ready when a watched socket has an event. `None`: not watched.
    #[must_use]
    pub fn event_poll_item(&self) -> Option<PollItem<'_>> {
        let monitor = self.monitor.as_ref()?;
        Some(monitor.socket.as_poll_item(POLLIN))
    }

    /// The socket itself, for tests that look at options.
    #[cfg(test)]
    pub(super) fn raw(&mut self) -> &mut zmq::Socket {
        &mut self.inner
    }

    pub(super) fn bind_raw(&mut self, endpoint: &CStr) -> Result<(), TransportError> {
        // SAFETY: the pointer is a live socket's, because `self` owns it; the text is
        // zero-terminated and copied by libzmq.
        let outcome = unsafe { zmq_sys::zmq_bind(self.inner.as_mut_ptr(), endpoint.as_ptr()) };
        check(outcome, "bind", endpoint)
    }

    pub(super) fn connect_raw(&mut self, endpoint: &CStr) -> Result<(), TransportError> {
        // SAFETY: as in `bind_raw`.
        let outcome = unsafe { zmq_sys::zmq_connect(self.inner.as_mut_ptr(), endpoint.as_ptr()) };
        check(outcome, "connect to", endpoint)
    }

    pub(super) fn unbind_raw(&mut self, endpoint: &CStr) -> Result<(), TransportError> {
        // SAFETY: as in `bind_raw`.
        let outcome = unsafe { zmq_sys::zmq_unbind(self.inner.as_mut_ptr(), endpoint.as_ptr()) };
        check(outcome, "unbind", endpoint)
    }

    pub(super) fn set_ipv6(&self, address: IpAddr) -> Result<(), TransportError> {
        self.inner.set_ipv6(address.is_ipv6()).map_err(|error| TransportError::zmq("choose IPv4 or IPv6", error))
    }
}

fn signal_of(socket: &zmq::Socket) -> Result<BorrowedFd<'_>, TransportError> {
    let descriptor = socket.get_fd().map_err(|error| TransportError::zmq("get the descriptor of a socket", error))?;
    // SAFETY: it is libzmq's own, open as long as the socket, which is borrowed as long as this is used.
    Ok(unsafe { BorrowedFd::borrow_raw(descriptor) })
}

fn without_interruption(mut call: impl FnMut() -> zmq::Result<()>) -> zmq::Result<()> {
    loop {
        match call() {
            Err(zmq::Error::EINTR) => {}
            other => return other,
        }
    }
}

/// What became of the frame with this index in its message.
fn judge(sent: zmq::Result<()>, index: usize) -> Result<SendOutcome, TransportError> {
    match sent {
        Ok(()) => Ok(SendOutcome::Queued),
        Err(zmq::Error::EHOSTUNREACH) if index == 0 => Ok(SendOutcome::PeerGone),
        Err(zmq::Error::EAGAIN) if index == 0 => Ok(SendOutcome::Full),
        // The pipe ended after the first frames went into it.
        Err(zmq::Error::EAGAIN) => Ok(SendOutcome::PeerGone),
        Err(error) => Err(TransportError::zmq("send", error)),
    }
}

pub(super) fn receive_from(
    socket: &zmq::Socket,
    limits: ReceiveLimits,
    frames: &mut Vec<Message>,
) -> Result<Reception, TransportError> {
    frames.clear();
    let (mut count, mut bytes, mut too_much) = (0_u64, 0_usize, false);
    loop {
        let mut frame = Message::new();
        match socket.recv(&mut frame, DONTWAIT) {
            Ok(()) => {}
            Err(zmq::Error::EINTR) => continue,
            Err(zmq::Error::EAGAIN) if count == 0 => return Ok(Reception::Nothing),
            Err(zmq::Error::EAGAIN) => {
                return Err(TransportError::BrokenMessage { frames: count });
            }
            Err(error) => return Err(TransportError::zmq("receive", error)),
        }
        let more = frame.get_more();
        count += 1;
        bytes = bytes.saturating_add(frame.len());
        too_much |= frames.len() >= limits.max_frames || bytes > limits.max_bytes;
        if !too_much {
            frames.push(frame);
        }
        if !more {
            break;
        }
    }
    Ok(if too_much { Reception::TooMuch { frames: count, bytes: bytes as u64 } } else { Reception::Whole })
}

/// The ZAP `User-Id` of the peer that sent this message, read from its last
/// frame. `None`: the peer was not authenticated, or as nobody; refuse the request.
///
/// (libzmq 4.3.4 loses it from the routing id frame after a poll.)
pub fn user_id(frames: &mut [Message]) -> Option<&str> {
    frames.last_mut()?.gets("User-Id").filter(|user| !user.is_empty())
}

/// Which connection this message came by: the file descriptor that [`MonitorEventKind::Accepted`](super::MonitorEventKind::Accepted)
/// and `Disconnected` name as well. It names another connection once that one has ended, so events have to be read before.
pub fn connection(frames: &mut [Message]) -> Option<u32> {
    // libzmq's private name for what ZMQ_SRCFD, which is deprecated, would tell.
    frames.last_mut()?.gets("__fd")?.parse().ok()
}

/// Ends a connection of a server socket, named by its descriptor, as if the network had: libzmq finds it ended and closes it, which
/// [`MonitorEventKind::Disconnected`](super::MonitorEventKind::Disconnected) tells. (libzmq itself ends only all connections of a listener
/// at once.) Whoever calls it has read all events just before: a descriptor whose connection has ended may name something else.
/// At worst that is another connection, whose client has to connect anew; files, and sockets that listen, are not touched.
pub fn cut(connection: u32) {
    let Ok(number) = i32::try_from(connection) else { return };
    // SAFETY: the descriptor is only lent to two calls that look it up in the kernel. libzmq may close it in between, and then they
    // fail or meet what has the number now, as told above; no memory depends on it.
    let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
    // Only what is connected has a peer: what listens must not be shut down, because libzmq takes that for an impossibility.
    if rustix::net::getpeername(descriptor).is_ok() {
        // It fails where the connection has just ended, which is as good.
        let _ = rustix::net::shutdown(descriptor, rustix::net::Shutdown::Both);
    }
}

/// Whether a connection of a server socket, named by its descriptor, takes nothing just now: the kernel has no room for what its peer
/// has not read. False where there is none any more. As with [`cut`], all events have to be read just before.
pub fn is_stuck(connection: u32) -> bool {
    let Ok(number) = i32::try_from(connection) else { return false };
    // SAFETY: as in `cut`. Nothing is changed by it.
    let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
    let mut items = [PollFd::from_borrowed_fd(descriptor, PollFlags::OUT)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    // What has ended or is no socket is ready as well.
    matches!(rustix::event::poll(&mut items, Some(&now)), Ok(0))
}

/// Waits until an item is ready or `timeout` (`None`: for ever) has passed, and
/// returns how many are. Time is counted in milliseconds, rounded up. A signal
/// ends the wait early with 0, so the caller looks at its clock and flags again.
///
/// # Errors
/// The context of one of the sockets ended, or a file descriptor is bad.
pub fn poll(items: &mut [PollItem<'_>], timeout: Option<Duration>) -> Result<usize, TransportError> {
    let timeout_ms = timeout.map_or(-1, |timeout| i64::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(i64::MAX));
    match zmq::poll(items, timeout_ms) {
        Ok(ready) => Ok(usize::try_from(ready).unwrap_or(0)),
        Err(zmq::Error::EINTR) => Ok(0),
        Err(error) => Err(TransportError::zmq("wait for messages", error)),
    }
}

/// Waits until one of some descriptors is readable, or `timeout` (`None`: for ever) has passed, and says of each whether it is. A signal
/// ends the wait early. This is one system call, where [`poll`] looks at each socket twice by several; [`Socket::signal`] says what it asks
/// of whoever uses it.
///
/// # Errors
/// A descriptor is bad.
pub fn wait<const N: usize>(
    descriptors: [Option<BorrowedFd<'_>>; N],
    timeout: Option<Duration>,
) -> Result<[bool; N], TransportError> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let timeout = timeout.map(|timeout| Timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    });
    // One that is not there is looked at as another one that is, and nobody hears of it.
    let Some(some) = descriptors.iter().flatten().next() else { return Ok([false; N]) };
    let mut polled = std::array::from_fn::<_, N, _>(|at| {
        let descriptor = descriptors.get(at).and_then(Option::as_ref).unwrap_or(some);
        PollFd::from_borrowed_fd(descriptor.as_fd(), PollFlags::IN)
    });
    match poll(&mut polled, timeout.as_ref()) {
        Ok(_) => {}
        Err(rustix::io::Errno::INTR) => return Ok([false; N]),
        Err(error) => return Err(TransportError::zmq("wait for messages", Errno::from_raw(error.raw_os_error()))),
    }
    let mut ready = [false; N];
    for ((ready, polled), descriptor) in ready.iter_mut().zip(&polled).zip(&descriptors) {
        *ready = descriptor.is_some() && !polled.revents().is_empty();
    }
    Ok(ready)
}

fn check(outcome: i32, action: &str, endpoint: &CStr) -> Result<(), TransportError> {
    if outcome == 0 {
        return Ok(());
    }
    let errno = Errno::last();
    let endpoint = endpoint.to_string_lossy();
    Err(TransportError::zmq(format!("{action} {endpoint}"), errno))
}

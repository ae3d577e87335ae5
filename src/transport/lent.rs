//! A frame whose bytes libzmq has on loan: it says when it lets go of them.
//!
//! - The bytes and the receipt are freed exactly once, by libzmq, on whatever thread lets go last: after the bytes have left, with
//!   the connection (once its socket is polled or used again), or here, where they were not taken.
//! - Dropping a receipt must not panic: it happens inside a C library.

use std::ffi::c_void;

use zmq::DONTWAIT;

use super::{Errno, TransportError};

/// A message that libzmq owns until it lets go of it.
pub(super) struct Lent {
    message: zmq_sys::zmq_msg_t,
}

/// What is freed at the end.
struct Loan<R> {
    bytes: *mut [u8],
    _receipt: R,
}

impl Lent {
    pub(super) fn new<R: Send + 'static>(bytes: Box<[u8]>, receipt: R) -> Result<Lent, TransportError> {
        let size = bytes.len();
        let bytes = Box::into_raw(bytes);
        let loan = Box::into_raw(Box::new(Loan { bytes, _receipt: receipt }));
        let mut message = zmq_sys::zmq_msg_t::default();
        // SAFETY: `bytes` has `size` bytes, which live until `let_go` frees them; `loan` is a pointer to what `let_go::<R>` expects,
        // and is used by nobody else.
        let outcome = unsafe { zmq_sys::zmq_msg_init_data(&raw mut message, bytes.cast(), size, Some(let_go::<R>), loan.cast()) };
        if outcome == 0 {
            return Ok(Lent { message });
        }
        let errno = Errno::last();
        // SAFETY: libzmq has not taken it, so it is still ours alone.
        unsafe { let_go::<R>(bytes.cast(), loan.cast()) };
        Err(TransportError::zmq("make a message", errno))
    }

    /// Hands it over as the last frame of a message.
    pub(super) fn send(&mut self, socket: &mut zmq::Socket) -> zmq::Result<()> {
        // SAFETY: the message was initialised, and the handle is a live socket's, borrowed by us alone.
        let outcome = unsafe { zmq_sys::zmq_msg_send(&raw mut self.message, socket.as_mut_ptr(), DONTWAIT) };
        if outcome >= 0 { Ok(()) } else { Err(zmq::Error::from_raw(Errno::last().raw())) }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // Empty if it was sent; otherwise this lets go.
        // SAFETY: the message was initialised, and is closed once.
        unsafe { zmq_sys::zmq_msg_close(&raw mut self.message) };
    }
}

/// Frees the loan. libzmq calls it once for each message.
unsafe extern "C" fn let_go<R>(_bytes: *mut c_void, loan: *mut c_void) {
    // SAFETY: `loan` came from `Lent::new` with this `R`, and comes back once.
    let loan = unsafe { Box::from_raw(loan.cast::<Loan<R>>()) };
    // SAFETY: they came from a box there, and nobody reads them any more.
    drop(unsafe { Box::from_raw(loan.bytes) });
}

//! A bell for a thread that waits in a poll: an eventfd.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};

#[derive(Debug)]
pub(super) struct Bell(OwnedFd);

impl Bell {
    /// # Errors
    /// No more file descriptors.
    pub(super) fn new() -> std::io::Result<Bell> {
        Ok(Bell(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    pub(super) fn ring(&self) {
        // It can only fail for a counter that is full, and then the bell rings anyway.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    /// Makes it silent again.
    pub(super) fn hush(&self) {
        // It is silent already where nothing is read.
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }

    /// Readable while it rings.
    pub(super) fn signal(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

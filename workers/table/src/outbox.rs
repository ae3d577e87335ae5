//! A bounded queue out of the worker, with a doorbell for a thread that sleeps in `zmq_poll`.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

/// Wakes the thread that empties an [`Outbox`].
pub trait Doorbell: Send + Sync {
    /// Makes the thread look.
    fn ring(&self);
}

/// For a receiver that looks by itself (tests).
#[derive(Clone, Copy, Debug, Default)]
pub struct NoDoorbell;

impl Doorbell for NoDoorbell {
    fn ring(&self) {}
}

/// A doorbell in the form of an eventfd, to be polled together with sockets.
#[derive(Debug)]
pub struct EventFd(OwnedFd);

impl EventFd {
    /// Makes one.
    ///
    /// # Errors
    /// No descriptor is free.
    pub fn new() -> io::Result<EventFd> {
        Ok(EventFd(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Resets it after it rang.
    pub fn clear(&self) {
        let mut count = [0; 8];
        // EAGAIN: it had not rung. There is no other error for an eventfd that is open.
        let _ = rustix::io::read(&self.0, &mut count);
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for EventFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Doorbell for EventFd {
    fn ring(&self) {
        // EAGAIN: the counter is full, so it is ringing.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }
}

struct Inner<T> {
    items: VecDeque<(T, usize)>,
    bytes: usize,
    closed: bool,
    /// How many wait for room: while there are none, nobody need be woken, which would be a system call each time.
    waiting: usize,
    /// The receiver looks by itself before it sleeps.
    is_attended: bool,
    /// An item that was taken out and emptied.
    spare: Option<T>,
}

/// The queue; `T` with its bytes.
pub struct Outbox<T> {
    inner: Mutex<Inner<T>>,
    room: Condvar,
    bytes_max: usize,
    doorbell: std::sync::Arc<dyn Doorbell>,
}

impl<T> Outbox<T> {
    /// An empty queue of at most `bytes_max` bytes (one item always fits).
    pub fn new(bytes_max: usize, doorbell: std::sync::Arc<dyn Doorbell>) -> Outbox<T> {
        let inner = Inner { items: VecDeque::new(), bytes: 0, closed: false, waiting: 0, is_attended: false, spare: None };
        Outbox { inner: Mutex::new(inner), room: Condvar::new(), bytes_max, doorbell }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts an item in, waiting for room. An item for a receiver that is gone is dropped.
    pub fn push(&self, item: T, bytes: usize) {
        let mut inner = self.lock();
        while !inner.items.is_empty() && inner.bytes + bytes > self.bytes_max && !inner.closed {
            inner.waiting += 1;
            inner = self.room.wait(inner).unwrap_or_else(PoisonError::into_inner);
            inner.waiting -= 1;
        }
        self.put(inner, item, bytes);
    }

    /// Puts an item in, whether there is room or not: for the receiver itself, which must not wait for itself. It asks
    /// [`Outbox::is_full`] before, so there is never more than one such item over the bound.
    pub fn push_over(&self, item: T, bytes: usize) {
        self.put(self.lock(), item, bytes);
    }

    /// True if whoever pushes has to wait.
    pub fn is_full(&self) -> bool {
        let inner = self.lock();
        !inner.items.is_empty() && inner.bytes >= self.bytes_max
    }

    /// Puts an item in if there is room; false if it was dropped instead.
    pub fn try_push(&self, item: T, bytes: usize) -> bool {
        let inner = self.lock();
        let fits = inner.items.is_empty() || inner.bytes + bytes <= self.bytes_max;
        if fits {
            self.put(inner, item, bytes);
        }
        fits
    }

    fn put(&self, mut inner: MutexGuard<'_, Inner<T>>, item: T, bytes: usize) {
        if inner.closed {
            return;
        }
        let rings = inner.items.is_empty() && !inner.is_attended;
        inner.items.push_back((item, bytes));
        inner.bytes += bytes;
        drop(inner);
        if rings {
            self.doorbell.ring();
        }
    }

    /// The receiver is awake, and looks before it sleeps ([`Outbox::leave`]): the doorbell stays silent until then.
    pub fn attend(&self) {
        self.lock().is_attended = true;
    }

    /// The receiver is going to sleep, and has to be woken from now on. False if it has to look once more instead.
    pub fn leave(&self) -> bool {
        let mut inner = self.lock();
        inner.is_attended = !inner.items.is_empty();
        !inner.is_attended
    }

    /// Takes the next item.
    pub fn pop(&self) -> Option<T> {
        let mut inner = self.lock();
        let (item, bytes) = inner.items.pop_front()?;
        inner.bytes -= bytes;
        let wakes = inner.waiting > 0;
        drop(inner);
        if wakes {
            self.room.notify_one();
        }
        Some(item)
    }

    /// Takes an item back that was taken out and emptied, to be filled again: its memory is not given back and asked for each time.
    pub fn give_back(&self, emptied: T) {
        self.lock().spare = Some(emptied);
    }

    /// The receiver is gone: whoever waits for room goes on, and items are dropped.
    pub fn close(&self) {
        let mut inner = self.lock();
        inner.closed = true;
        inner.items.clear();
        inner.bytes = 0;
        drop(inner);
        self.room.notify_all();
    }

    /// True when nothing waits.
    pub fn is_empty(&self) -> bool {
        self.lock().items.is_empty()
    }
}

impl<T: Default> Outbox<T> {
    /// An empty item: one that was given back, if there is one.
    pub fn spare(&self) -> T {
        self.lock().spare.take().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[derive(Default)]
    struct Rings(AtomicUsize);
    impl Doorbell for Rings {
        fn ring(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn rings_once_until_emptied_and_bounds_bytes() {
        let rings = Arc::new(Rings::default());
        let outbox = Outbox::new(10, rings.clone());
        assert!(outbox.try_push('a', 100), "one item always fits");
        assert!(!outbox.try_push('b', 1));
        assert_eq!(outbox.pop(), Some('a'));
        assert!(outbox.try_push('c', 5) && outbox.try_push('d', 5) && !outbox.try_push('e', 1));
        assert_eq!(rings.0.load(Ordering::Relaxed), 2);
        assert_eq!((outbox.pop(), outbox.pop(), outbox.pop()), (Some('c'), Some('d'), None));
    }

    #[test]
    fn a_waiting_worker_goes_on_when_there_is_room_or_nobody() {
        let outbox = Arc::new(Outbox::new(1, Arc::new(NoDoorbell)));
        outbox.push(1, 1);
        let worker = std::thread::spawn({
            let outbox = outbox.clone();
            move || {
                outbox.push(2, 1);
                outbox.push(3, 1);
            }
        });
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while outbox.pop() != Some(2) {
            assert!(std::time::Instant::now() < deadline);
            std::thread::yield_now();
        }
        outbox.close();
        worker.join().expect("the worker ends");
    }

    #[test]
    fn an_eventfd_rings_and_clears() {
        let bell = EventFd::new().expect("a descriptor");
        let rings = |bell: &EventFd| {
            let mut fds = [rustix::event::PollFd::new(bell, rustix::event::PollFlags::IN)];
            rustix::event::poll(&mut fds, Some(&rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 })).expect("poll") == 1
        };
        assert!(!rings(&bell));
        bell.ring();
        bell.ring();
        assert!(rings(&bell));
        bell.clear();
        assert!(!rings(&bell));
    }
}

//! A wire that can be cut: TCP passed on, until a test has its connections end in the middle of whatever is on its way.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Passes connections on to another address, until dropped.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    /// Both ends of each connection.
    connections: Mutex<Vec<(TcpStream, TcpStream)>>,
    /// Nobody is let through.
    is_cut: AtomicBool,
    ended: AtomicBool,
    /// Bytes that were passed on to those who connected.
    passed: AtomicU64,
    /// After so many more of these everything is cut; u64::MAX: not at all.
    cut_at: AtomicU64,
    cuts: AtomicU64,
}

impl Shared {
    fn connections(&self) -> MutexGuard<'_, Vec<(TcpStream, TcpStream)>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cut(&self) -> usize {
        let connections = std::mem::take(&mut *self.connections());
        for (near, far) in &connections {
            // They can have ended by themselves.
            let _ = near.shutdown(Shutdown::Both);
            let _ = far.shutdown(Shutdown::Both);
        }
        self.cuts.fetch_add(u64::from(!connections.is_empty()), Ordering::Relaxed);
        connections.len()
    }
}

impl Proxy {
    /// Listens on an address (port 0: any) and passes on to another.
    ///
    /// # Panics
    /// If the address can't be had.
    pub fn start(listen: SocketAddr, to: SocketAddr) -> Proxy {
        let listener = TcpListener::bind(listen).unwrap_or_else(|error| panic!("{listen}: {error}"));
        let address = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared { cut_at: AtomicU64::new(u64::MAX), ..Shared::default() });
        let acceptor = std::thread::spawn({
            let shared = shared.clone();
            move || accept(&listener, to, &shared)
        });
        Proxy { address, shared, acceptor: Some(acceptor) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends all connections now. They may be made again at once. Gives how many there were.
    pub fn cut(&self) -> usize {
        self.shared.cut()
    }

    /// Cuts everything once so many more bytes have gone to those who connected: in the midst of a message, as like as not.
    pub fn cut_after(&self, bytes: u64) {
        self.shared.cut_at.store(self.passed() + bytes, Ordering::Relaxed);
    }

    /// Ends all connections and lets nobody through, until [`Proxy::mend`].
    pub fn sever(&self) -> usize {
        self.shared.is_cut.store(true, Ordering::Relaxed);
        self.cut()
    }

    /// Lets connections through again.
    pub fn mend(&self) {
        self.shared.is_cut.store(false, Ordering::Relaxed);
    }

    /// Bytes that were passed on to those who connected.
    pub fn passed(&self) -> u64 {
        self.shared.passed.load(Ordering::Relaxed)
    }

    /// How often connections were cut.
    pub fn cuts(&self) -> u64 {
        self.shared.cuts.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        // Wakes the acceptor, which then sees that it is over.
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        self.shared.cut();
    }
}

fn accept(listener: &TcpListener, to: SocketAddr, shared: &Arc<Shared>) {
    while let Ok((near, _)) = listener.accept() {
        if shared.ended.load(Ordering::Relaxed) {
            return;
        }
        if shared.is_cut.load(Ordering::Relaxed) {
            continue;
        }
        // Whoever connects while nobody listens there is turned away.
        let Ok(far) = TcpStream::connect(to) else { continue };
        let both = || -> io::Result<_> { Ok((near.try_clone()?, far.try_clone()?, near.try_clone()?, far.try_clone()?)) };
        let Ok((near_in, far_out, near_kept, far_kept)) = both() else { continue };
        let _ = near.set_nodelay(true);
        let _ = far.set_nodelay(true);
        shared.connections().push((near_kept, far_kept));
        std::thread::spawn(move || pass(near_in, far_out, None));
        let shared = shared.clone();
        std::thread::spawn(move || pass(far, near, Some(&shared)));
    }
}

/// Passes on until either end is over; then both are.
fn pass(mut from: TcpStream, mut to: TcpStream, counted: Option<&Arc<Shared>>) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let mut wanted = count;
        let mut is_last = false;
        if let Some(shared) = counted {
            let before = shared.passed.fetch_add(count as u64, Ordering::Relaxed);
            let left = shared.cut_at.load(Ordering::Relaxed).saturating_sub(before);
            if left < count as u64 {
                shared.cut_at.store(u64::MAX, Ordering::Relaxed);
                wanted = usize::try_from(left).unwrap_or(count);
                is_last = true;
            }
        }
        if to.write_all(&buffer[..wanted]).is_err() {
            break;
        }
        if let Some(shared) = counted.filter(|_| is_last) {
            shared.cut();
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

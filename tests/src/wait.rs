//! Waiting for conditions, and ports that nobody uses.

use std::net::{Ipv4Addr, TcpListener};
use std::time::{Duration, Instant};

/// How long a test waits for what must happen soon, on a machine that is busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Asks again and again until `condition` gives something.
///
/// # Panics
/// With `what`, when `patience` is over.
pub fn wait_until<T>(patience: Duration, what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {patience:?} in vain until {what}");
        // Not to synchronise, only to leave the processor to whom we wait for.
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A loopback port that is free now. For programs that cannot take port 0: another program may be faster.
///
/// # Panics
/// If there is no free port.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a machine that runs tests has a free port");
    listener.local_addr().expect("a bound socket has an address").port()
}

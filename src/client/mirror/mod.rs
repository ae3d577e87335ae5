//! A local copy of all keys with a prefix, kept current by a thread: reads cost no message.
//!
//! - A mirror shows one revision at a time, whole. It is behind the table by what is on its way, and says so with its revision:
//!   [`Mirror::wait_for`] waits until it shows a change of one's own.
//! - Every change is applied once and in order, over restarts of the broker. Where changes are not known any more, the mirror is
//!   exchanged for a snapshot as a whole; a key that was removed meanwhile is gone then.
//! - The hook hears of every change on the mirror's thread, in order, after the mirror shows it. It may read the mirror. While it
//!   runs, the mirror stands still.
//! - The mirror ends when it is dropped, or when the broker says that it never will answer; then it shows what it last had, and
//!   [`Mirror::ended`] says why.

mod state;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kvbroker_protocol::{Answer, Events, Key, Operation, Operations, Predicate};

use super::error::ClientError;
use super::handle::{Client, timeout_text};
use super::table::first;
use super::watch::{Watch, WatchEvent, WatchFrom, WatchOptions};

pub use state::{MirrorCause, MirrorChange, MirrorRow, MirrorState};

/// The thread looks this often whether it shall end.
const LOOK: Duration = Duration::from_millis(100);

/// How long a waiter lets the stream speak before the broker is asked how far the table is.
const ASK_AFTER: Duration = Duration::from_millis(50);

type Hook = Box<dyn Fn(&MirrorChange) + Send>;

/// How to mirror.
#[derive(Default)]
pub struct MirrorOptions {
    hook: Option<Hook>,
    filter: Option<Predicate>,
}

impl fmt::Debug for MirrorOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MirrorOptions").field("filter", &self.filter).finish_non_exhaustive()
    }
}

impl MirrorOptions {
    /// All keys of the prefix, and nobody hears of changes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Who hears of every change, also of those by which the mirror gets its first keys.
    #[must_use]
    pub fn on_change(mut self, hook: impl Fn(&MirrorChange) + Send + 'static) -> Self {
        self.hook = Some(Box::new(hook));
        self
    }

    /// Only the keys and values of which this holds.
    #[must_use]
    pub fn filter(mut self, filter: Predicate) -> Self {
        self.filter = Some(filter);
        self
    }
}

/// Why a mirror can't show what it was asked for.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MirrorError {
    /// It did not come so far in time.
    #[error("the mirror is at revision {at}, and did not come to {wanted} within {waited}")]
    Late {
        /// The revision that was waited for.
        wanted: u64,
        /// The revision that it shows.
        at: u64,
        /// How long it was waited, for people.
        waited: String,
    },
    /// It has ended, and shows what it last had.
    #[error("the mirror has ended: {0}")]
    Ended(Arc<ClientError>),
    /// Its hook has panicked; it shows what it last had.
    #[error("the mirror has ended: its hook panicked")]
    Panicked,
}

#[derive(Default)]
struct Inner {
    state: MirrorState,
    /// That of the state, once it is known.
    epoch: Option<u64>,
    /// The watch knows of nothing that is missing.
    is_sure: bool,
    ended: Option<MirrorError>,
}

struct Shared {
    inner: Mutex<Inner>,
    moved: Condvar,
    stop: AtomicBool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing is left half done in there by a panic: hooks run outside.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A local copy of all keys with a prefix.
///
/// ```
/// # let broker = kvbroker_practice::Broker::start()?;
/// # let lab = broker.client()?;
/// use kvbroker::client::{Mirror, MirrorOptions};
///
/// let lamps = Mirror::start(&lab, "lamp/", MirrorOptions::new().on_change(|change| println!("{change:?}")))?;
/// let revision = lab.put_text("lamp/1", "on")?;
/// lamps.wait_for(revision, None).expect("the broker answers");
/// assert_eq!(lamps.get("lamp/1").and_then(|row| row.value.as_text()).as_deref(), Some("on"));
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
pub struct Mirror {
    shared: Arc<Shared>,
    client: Client,
    prefix: Key,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.shared.lock();
        f.debug_struct("Mirror")
            .field("prefix", &String::from_utf8_lossy(&self.prefix))
            .field("revision", &inner.state.revision())
            .field("len", &inner.state.len())
            .finish_non_exhaustive()
    }
}

impl Mirror {
    /// Begins to mirror all keys with a prefix, and returns when they are there, at most after the client's timeout.
    ///
    /// # Errors
    /// They did not come in time ([`ClientError::TimedOut`]), or never will: see [`ClientError`]. No thread.
    pub fn start(client: &Client, prefix: impl AsRef<[u8]>, options: MirrorOptions) -> Result<Mirror, ClientError> {
        let prefix = prefix.as_ref().to_vec();
        let mut wanted = WatchOptions::prefix(&prefix).from(WatchFrom::Snapshot).resync(true);
        if let Some(filter) = options.filter {
            wanted = wanted.filter(filter);
        }
        let watch = client.watch_with(wanted)?;
        let shared = Arc::new(Shared { inner: Mutex::default(), moved: Condvar::new(), stop: AtomicBool::new(false) });
        let (tell_first, is_there) = sync_channel(1);
        let thread = std::thread::Builder::new().name("kv-mirror".into()).spawn({
            let shared = Arc::clone(&shared);
            move || Keeper { shared, hook: options.hook, first: Some(tell_first) }.run(watch)
        });
        let thread = thread.map_err(ClientError::System)?;
        let mirror = Mirror { shared, client: client.clone(), prefix, thread: Some(thread) };
        let timeout = client.timeout();
        let came = match timeout {
            Some(timeout) => is_there.recv_timeout(timeout).ok(),
            None => is_there.recv().ok(),
        };
        match came {
            Some(Ok(())) => Ok(mirror),
            Some(Err(error)) => Err(error),
            None => {
                let waited = timeout_text(timeout);
                Err(ClientError::TimedOut { project: client.project().to_owned(), waited, trouble: None })
            }
        }
    }

    /// What it has under a key.
    #[must_use]
    pub fn get(&self, key: impl AsRef<[u8]>) -> Option<MirrorRow> {
        self.shared.lock().state.get(key).cloned()
    }

    /// How many keys it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.lock().state.len()
    }

    /// True without any key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The keys from `from` on, up to before `to` (None: to the end), in their order, all as of one revision.
    #[must_use]
    pub fn range(&self, from: impl AsRef<[u8]>, to: Option<&[u8]>) -> Vec<(Key, MirrorRow)> {
        self.read(|state| state.range(from, to).map(|(key, row)| (key.clone(), row.clone())).collect())
    }

    /// Reads several things of one revision, without copies. The mirror stands still meanwhile.
    pub fn read<T>(&self, read: impl FnOnce(&MirrorState) -> T) -> T {
        read(&self.shared.lock().state)
    }

    /// The revision that it shows.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.shared.lock().state.revision().unwrap_or_default()
    }

    /// True while nothing is known to be missing. False while the broker is not reached, and while the mirror catches up.
    #[must_use]
    pub fn is_current(&self) -> bool {
        let inner = self.shared.lock();
        inner.ended.is_none() && inner.is_sure && inner.state.is_current()
    }

    /// Why it has ended; None: it goes on.
    #[must_use]
    pub fn ended(&self) -> Option<MirrorError> {
        self.shared.lock().ended.clone()
    }

    /// Waits until the mirror shows this revision or a later one, at most so long (None: for ever); gives the revision that it shows.
    /// With the revision that a put has given, what was put is seen then.
    ///
    /// # Errors
    /// It did not come so far in time; it has ended.
    pub fn wait_for(&self, revision: u64, timeout: impl Into<Option<Duration>>) -> Result<u64, MirrorError> {
        let (start, timeout) = (Instant::now(), timeout.into());
        let until = timeout.and_then(|timeout| start.checked_add(timeout));
        let ask_at = start + ASK_AFTER;
        let mut may_ask = true;
        let mut inner = self.shared.lock();
        loop {
            let at = inner.state.revision().unwrap_or_default();
            if at >= revision {
                return Ok(at);
            }
            if let Some(ended) = &inner.ended {
                return Err(ended.clone());
            }
            let now = Instant::now();
            if until.is_some_and(|until| until <= now) {
                return Err(MirrorError::Late { wanted: revision, at, waited: timeout_text(timeout) });
            }
            if may_ask && ask_at <= now {
                may_ask = false;
                drop(inner);
                self.ask(at, until.map(|until| until - now));
                inner = self.shared.lock();
                continue;
            }
            let wake = [until, may_ask.then_some(ask_at)].into_iter().flatten().min();
            inner = match wake {
                Some(wake) => self.shared.moved.wait_timeout(inner, wake - now).unwrap_or_else(PoisonError::into_inner).0,
                None => self.shared.moved.wait(inner).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// A revision that changed nothing here is told with the stream's next sign of life, which may take half a minute. Whoever waits for
    /// it asks instead.
    fn ask(&self, after: u64, timeout: Option<Duration>) {
        let timeout = [timeout, self.client.timeout()].into_iter().flatten().min();
        let asked = Events { prefix: self.prefix.clone(), after: Some(after), limit: Some(1), ..Events::default() };
        let answer = self.client.call_within(Operations::One(Operation::Events(asked)), timeout).and_then(first);
        let Ok((Answer::Events { events, through, epoch, .. }, _)) = answer else { return };
        let mut inner = self.shared.lock();
        // Only where nothing has happened meanwhile does it belong to what the mirror shows.
        let is_of_it = inner.state.is_current() && inner.state.revision() == Some(after) && inner.epoch == Some(epoch);
        if events.is_empty() && is_of_it {
            inner.state.advance(through);
            drop(inner);
            self.shared.moved.notify_all();
        }
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else { return };
        // The hook may hold the last handle, and its thread can't wait for itself.
        if thread.thread().id() != std::thread::current().id() {
            // A panic of the hook was told to whoever waited.
            let _ = thread.join();
        }
    }
}

/// What the mirror's thread has.
struct Keeper {
    shared: Arc<Shared>,
    hook: Option<Hook>,
    /// Who started the mirror waits for this.
    first: Option<SyncSender<Result<(), ClientError>>>,
}

impl Keeper {
    fn run(mut self, mut watch: Watch) {
        while !self.shared.stop.load(Ordering::Relaxed) {
            match watch.next(Some(Instant::now() + LOOK)) {
                Ok(Some(event)) => self.take(event, &watch),
                Ok(None) => self.moved(&watch),
                Err(error) => {
                    tracing::debug!(target: "kvbroker::mirror", %error, "ended");
                    if let Some(first) = self.first.take() {
                        // Who does not wait any longer needs no answer.
                        let _ = first.try_send(Err(error));
                    } else {
                        self.shared.lock().ended = Some(MirrorError::Ended(Arc::new(error)));
                    }
                    return;
                }
            }
        }
    }

    fn take(&mut self, event: WatchEvent, watch: &Watch) {
        let caught_up = matches!(event, WatchEvent::CaughtUp { .. });
        let mut inner = self.shared.lock();
        (inner.epoch, inner.is_sure) = (watch.epoch(), watch.is_current());
        let mut changes = Vec::new();
        match &self.hook {
            Some(_) => changes = inner.state.apply_telling(event),
            None => inner.state.apply(event),
        }
        drop(inner);
        self.shared.moved.notify_all();
        if let Some(hook) = &self.hook {
            changes.iter().for_each(hook);
        }
        if caught_up && let Some(first) = self.first.take() {
            let _ = first.try_send(Ok(()));
        }
    }

    /// Signs of life move the mirror on, too, and what was odd about them makes it doubtful.
    fn moved(&self, watch: &Watch) {
        let mut inner = self.shared.lock();
        inner.is_sure = watch.is_current();
        let Some(revision) = watch.revision() else { return };
        if inner.state.revision().is_some_and(|reached| reached < revision) {
            inner.state.advance(revision);
            drop(inner);
            self.shared.moved.notify_all();
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.shared.lock().ended = Some(MirrorError::Panicked);
        }
        self.shared.moved.notify_all();
    }
}

//! The access book: who may do what *now*.
//!
//! - It is the one answer for everybody who must know: the doors of both sockets when a key knocks, the worker when an operation is
//!   decided, the log's reader when it answers. The gatekeeper alone writes it.
//! - It is replaced as a whole, never changed in place: whoever looks sees the list of before or the list of after.
//! - The owner is in every list and can't be taken out. Who isn't in it may do nothing, whatever it was allowed before.
//! - [`AccessBook::generation`] changes with every list, so that a thread which looks often may keep what it has seen. Read the
//!   generation *before* the book: then what is kept can only be newer than its number, and is looked up once more than needed.
//! - Between a look and the answer that follows from it the list can change. A [`Speaker`] is a thread that answers by what it has
//!   looked up; [`AccessBook::settle`] waits until nobody answers by an earlier list any more. After a `replace` and a `settle`,
//!   what leaves the speakers was judged by the new list.
//!
//! Caveat: what was answered before, and has not been read by its client yet, is on its way in libzmq's buffers and the kernel's.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};

use kvbroker_protocol::{Access, Role, Scope};

/// The user that a broker's owner is, by unix socket as well as by key.
pub const OWNER: &str = "owner";
/// The user that everybody is over unencrypted TCP, where the owner has asked for that.
pub const ANYONE: &str = "anyone";

type List = HashMap<Arc<str>, Access>;

/// Who may do what now; shared by all threads.
#[derive(Default)]
pub struct AccessBook {
    list: RwLock<Arc<List>>,
    generation: AtomicU64,
    admits_anyone: bool,
    speakers: Mutex<Vec<Arc<Turns>>>,
    settling: Settling,
}

/// Wakes [`AccessBook::settle`] at the end of a turn.
#[derive(Default)]
struct Settling {
    /// How many wait.
    waits: AtomicUsize,
    lock: Mutex<()>,
    ended: Condvar,
}

/// Turns of a speaker, begun and ended ones together: odd while it speaks.
#[derive(Default)]
struct Turns(AtomicU64);

impl Turns {
    fn now(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

impl AccessBook {
    /// A book with the owner alone.
    pub fn new() -> AccessBook {
        AccessBook::default()
    }

    /// A book in which, beside those on its lists, [`ANYONE`] may read and write the whole table (`--insecure`).
    pub fn with_anyone() -> AccessBook {
        AccessBook { admits_anyone: true, ..AccessBook::default() }
    }

    /// Replaces the list. The owner isn't on it, and needs not be.
    pub fn replace(&self, list: HashMap<Arc<str>, Access>) {
        let mut current = self.list.write().unwrap_or_else(PoisonError::into_inner);
        *current = Arc::new(list);
        // Inside the lock: whoever sees this number finds this list or a later one.
        self.generation.fetch_add(1, Ordering::SeqCst);
    }

    /// What a user may do; None: nothing.
    pub fn of(&self, user: &str) -> Option<Access> {
        match user {
            OWNER => Some(Access::owner()),
            ANYONE => self.admits_anyone.then(|| Access { role: Role::Write, scope: Scope::all() }),
            user => self.list.read().unwrap_or_else(PoisonError::into_inner).get(user).cloned(),
        }
    }

    /// A number that changes whenever the list does.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// Enters a thread that answers by what it looks up here.
    pub fn speaker(self: &Arc<Self>) -> Speaker {
        let turns = Arc::new(Turns::default());
        self.speakers.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&turns));
        Speaker { book: Arc::clone(self), turns }
    }

    /// Waits until every speaker that is in a turn has ended it. Not for speakers themselves.
    pub fn settle(&self) {
        let speakers = self.speakers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut guard = self.settling.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.settling.waits.fetch_add(1, Ordering::SeqCst);
        for turns in speakers {
            let then = turns.now();
            // A later turn has looked at the book as it is now.
            while then % 2 == 1 && turns.now() == then {
                guard = self.settling.ended.wait(guard).unwrap_or_else(PoisonError::into_inner);
            }
        }
        self.settling.waits.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A thread's place in the book: it tells when the thread answers by what it has looked up.
pub struct Speaker {
    book: Arc<AccessBook>,
    turns: Arc<Turns>,
}

impl Speaker {
    /// Begins a turn: look into the book behind this, and end the turn when everything that follows from it has been handed over.
    pub fn begin(&self) -> Speaking<'_> {
        self.turns.0.fetch_add(1, Ordering::SeqCst);
        Speaking(self)
    }
}

impl Drop for Speaker {
    fn drop(&mut self) {
        let mut speakers = self.book.speakers.lock().unwrap_or_else(PoisonError::into_inner);
        speakers.retain(|turns| !Arc::ptr_eq(turns, &self.turns));
    }
}

/// A turn of a speaker; it ends when this is dropped.
#[must_use = "the turn ends when this is dropped"]
pub struct Speaking<'a>(&'a Speaker);

impl Speaking<'_> {
    /// What a user may do; None: nothing.
    pub fn of(&self, user: &str) -> Option<Access> {
        self.0.book.of(user)
    }
}

impl Drop for Speaking<'_> {
    fn drop(&mut self) {
        let Speaker { book, turns } = self.0;
        turns.0.fetch_add(1, Ordering::SeqCst);
        // Either this sees that somebody waits, or whoever begins to wait sees that the turn has ended.
        if book.settling.waits.load(Ordering::SeqCst) > 0 {
            drop(book.settling.lock.lock().unwrap_or_else(PoisonError::into_inner));
            book.settling.ended.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::atomic::AtomicBool;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    fn reader() -> HashMap<Arc<str>, Access> {
        HashMap::from([("kvpub1aa".into(), Access::new(Role::Read, vec![b"own/".to_vec()]).unwrap())])
    }

    #[test]
    fn the_owner_is_always_in_and_others_while_they_are_listed() {
        let book = AccessBook::new();
        assert_eq!(book.of(OWNER), Some(Access::owner()));
        assert_eq!(book.of("kvpub1aa"), None);
        let before = book.generation();
        book.replace(reader());
        assert_ne!(book.generation(), before);
        assert_eq!(book.of("kvpub1aa"), reader().remove("kvpub1aa"));
        // Nobody becomes the owner, or anyone, by a list.
        book.replace(HashMap::from([
            (OWNER.into(), Access::new(Role::Read, vec![]).unwrap()),
            (ANYONE.into(), Access::new(Role::Admin, vec![]).unwrap()),
        ]));
        assert_eq!((book.of(OWNER), book.of(ANYONE), book.of("kvpub1aa")), (Some(Access::owner()), None, None));
    }

    #[test]
    fn anyone_is_in_only_where_that_was_asked_for() {
        let book = AccessBook::with_anyone();
        book.replace(reader());
        assert_eq!(book.of(ANYONE), Some(Access::new(Role::Write, vec![]).unwrap()));
        assert_eq!(AccessBook::new().of(ANYONE), None);
    }

    #[test]
    fn settling_waits_for_the_turn_that_began_before_and_for_no_later_one() {
        let book = Arc::new(AccessBook::new());
        book.settle();
        let (speaker, _silent) = (book.speaker(), book.speaker());
        let (sender, settled) = channel();
        let turn = speaker.begin();
        let waiting = std::thread::spawn({
            let book = Arc::clone(&book);
            move || {
                book.settle();
                sender.send(()).unwrap();
            }
        });
        while book.settling.waits.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        assert!(settled.try_recv().is_err(), "the turn has not ended");
        drop(turn);
        let _next = speaker.begin();
        settled.recv_timeout(Duration::from_secs(30)).unwrap();
        waiting.join().unwrap();
    }

    #[test]
    fn a_speaker_that_is_gone_is_not_waited_for() {
        let book = Arc::new(AccessBook::new());
        let speaker = book.speaker();
        drop(speaker.begin());
        drop(speaker);
        assert!(book.speakers.lock().unwrap().is_empty());
        book.settle();
    }

    /// A speaker answers by the list that it finds in its turn; after each settling no answer by an earlier list may come.
    #[test]
    fn nothing_is_said_by_an_earlier_list_after_settling() {
        let book = Arc::new(AccessBook::new());
        let (stop, said) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let talking = std::thread::spawn({
            let (book, stop, said) = (Arc::clone(&book), Arc::clone(&stop), Arc::clone(&said));
            move || {
                let speaker = book.speaker();
                while !stop.load(Ordering::SeqCst) {
                    let _turn = speaker.begin();
                    let seen = book.generation();
                    std::hint::spin_loop();
                    said.store(seen + 1, Ordering::SeqCst);
                }
            }
        });
        while said.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        for _ in 0..300 {
            book.replace(reader());
            book.settle();
            // What was said last may be old, what is said from now on may not.
            said.store(0, Ordering::SeqCst);
            let now = loop {
                match said.load(Ordering::SeqCst) {
                    0 => std::thread::yield_now(),
                    now => break now,
                }
            };
            assert!(now > book.generation(), "{now}");
        }
        stop.store(true, Ordering::SeqCst);
        talking.join().unwrap();
    }
}

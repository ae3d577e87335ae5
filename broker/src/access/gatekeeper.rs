//! The gatekeeper: the thread that says who may come in.
//!
//! - It looks at `authorized_clients` twice a second; what it finds is in force within a second. It answers `authorize`, `revoke` and
//!   `who`.
//! - An admin's word goes into the file first: what was answered survives a power failure.
//! - Who loses something loses it in this order: the book (no request that comes up from now on is done, no door opens); if it could
//!   read everything, the publisher's socket, with all its connections; what the worker and the log's reader were saying by the old list
//!   is waited for; then the admin is told. So once `revoke` is answered nothing new leaves for that key.
//! - A file that can't be used changes nothing: the last good list stays, the complaint is logged once and counted. At a start there is
//!   no last good list: then the owner is alone, and the log says so.
//!
//! Caveat: what was answered before and waits in libzmq's or the kernel's buffers may still arrive.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kvbroker::access_file::store::{AccessStore, StoreError};
use kvbroker::access_file::{AccessFile, AccessFileError, Edited};
use kvbroker_protocol::{Access, Answer, ErrorCode, Failure, GrantInfo, Operation, Role, StatValue, UserKey, limits};
use kvbroker_table::{AccessBook, AccessCalls, Intake, NextAccessCall, OWNER, Outbox, ProvedAccessCall, ReplyOut};

use super::watch::{Seen, Watch};

/// Between two looks at the file: half of what is promised.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long an admin waits for the subscribers' connections to end before it is told to ask again.
const CLOSING: Duration = Duration::from_secs(3);
/// How often an edit begins anew because somebody else changes the file, too.
const EDIT_TRIES: usize = 3;

/// Cuts off those who subscribe: the publisher.
pub(crate) trait Subscribers: Send {
    /// Has all subscribers' connections ended; those who may come back by themselves.
    fn cut_off(&self, why: &str);
    /// Waits until the connections of each earlier [`Subscribers::cut_off`] have ended; false if that takes longer.
    fn wait_cut_off(&self, timeout: Duration) -> bool;
}

/// What `stats` tells of it.
#[derive(Debug, Default)]
pub(crate) struct AccessStatus {
    keys: AtomicU64,
    complaints: AtomicU64,
    /// Empty: nothing is wrong.
    complaint: Mutex<String>,
}

impl AccessStatus {
    /// How many keys of others are let in.
    pub(crate) fn keys(&self) -> u64 {
        self.keys.load(Ordering::Relaxed)
    }

    /// What is wrong with the file; empty: nothing.
    pub(crate) fn complaint(&self) -> String {
        self.complaint.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn stats(&self, stats: &mut Vec<(String, StatValue)>) {
        let number = |counter: &AtomicU64| StatValue::Number(counter.load(Ordering::Relaxed));
        let complaint = self.complaint();
        stats.push(("authorized_keys".to_owned(), number(&self.keys)));
        stats.push(("authorized_clients_complaints".to_owned(), number(&self.complaints)));
        stats.push(("authorized_clients_complaint".to_owned(), StatValue::Text(complaint)));
    }

    /// Notes what is wrong; true if that is news.
    fn complain(&self, why: &str) -> bool {
        self.complaints.fetch_add(1, Ordering::Relaxed);
        let mut complaint = self.complaint.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = *complaint != why;
        why.clone_into(&mut complaint);
        is_news
    }

    /// Nothing is wrong; true if that is news.
    fn content(&self) -> bool {
        !std::mem::take(&mut *self.complaint.lock().unwrap_or_else(PoisonError::into_inner)).is_empty()
    }
}

/// The keys that no line can change.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OwnKeys {
    /// The owner's, who may do everything.
    pub(crate) owner: UserKey,
    /// The project's, which is the broker's.
    pub(crate) project: UserKey,
}

/// Who says who may come in. Made before the sockets: the book is filled when they open.
pub(crate) struct Gatekeeper {
    project: String,
    own: OwnKeys,
    watch: Watch,
    book: Arc<AccessBook>,
    status: Arc<AccessStatus>,
    /// The last good list, as the file has it.
    grants: Vec<GrantInfo>,
    /// The same, as it is in force.
    list: HashMap<Arc<str>, Access>,
}

/// What the gatekeeper works with once the broker runs.
pub(crate) struct Surroundings {
    /// Where calls come from.
    pub(crate) calls: Arc<AccessCalls>,
    /// Where replies go.
    pub(crate) replies: Arc<Outbox<Vec<ReplyOut>>>,
    /// Whose worker is woken when the list has changed.
    pub(crate) intake: Arc<Intake>,
    /// The publisher.
    pub(crate) subscribers: Box<dyn Subscribers>,
}

impl Gatekeeper {
    /// Reads the file for the first time and fills the book.
    pub(crate) fn new(store: AccessStore, project: String, own: OwnKeys, book: Arc<AccessBook>) -> Gatekeeper {
        if let Err(error) = store.make_place() {
            tracing::warn!("nobody can be authorized here: {error}");
        }
        let watch = Watch::new(store);
        let status = Arc::new(AccessStatus::default());
        let mut keeper = Gatekeeper { project, own, watch, book, status, grants: Vec::new(), list: HashMap::new() };
        match keeper.watch.look() {
            Seen::List(file) => {
                let next = keeper.next(&file);
                keeper.enter(next);
            }
            Seen::Same => {}
            Seen::Wrong(why) => {
                keeper.status.complain(&why);
                tracing::error!("{why}; until it is mended nobody but the owner gets in");
            }
        }
        keeper
    }

    /// What it writes.
    pub(crate) fn book(&self) -> &Arc<AccessBook> {
        &self.book
    }

    /// For `stats`.
    pub(crate) fn status(&self) -> Arc<AccessStatus> {
        Arc::clone(&self.status)
    }

    /// Looks after the file and answers calls, until their queue is closed and empty.
    pub(crate) fn run(mut self, around: &Surroundings) {
        let mut next_look = Instant::now() + LOOK_EVERY;
        loop {
            match around.calls.next(next_look) {
                NextAccessCall::Call(call) => {
                    let result = if around.calls.is_closed() { Err(stopping()) } else { self.answer(&call, around) };
                    call.answer(result, &around.replies);
                }
                NextAccessCall::Idle => {}
                NextAccessCall::Closed => return,
            }
            // Also when one call follows the other.
            if Instant::now() >= next_look {
                self.look(around);
                next_look = Instant::now() + LOOK_EVERY;
            }
        }
    }

    /// Looks at the file and puts in force what it says.
    fn look(&mut self, around: &Surroundings) {
        match self.watch.look() {
            Seen::Same => {}
            Seen::List(file) => {
                if self.status.content() {
                    tracing::info!("{} is in order again", self.watch.store().path().display());
                }
                self.put_in_force(&file, around);
            }
            Seen::Wrong(why) => {
                if self.status.complain(&why) {
                    tracing::warn!("{why}; the last good list stays in force ({} keys)", self.list.len());
                }
            }
        }
    }

    fn answer(&mut self, call: &ProvedAccessCall, around: &Surroundings) -> Result<Answer, Failure> {
        // It was an admin when the worker looked. A call before this one may have changed that.
        let access = self.book.of(call.user()).ok_or_else(not_let_in)?;
        access.check(call.operation())?;
        match call.operation() {
            Operation::Authorize { key, role, prefixes, comment } => {
                self.check_not_own(key)?;
                let grant = GrantInfo { key: *key, role: *role, prefixes: prefixes.clone(), comment: comment.clone() };
                let replaced =
                    self.edit(call.user(), around, |file| file.authorize(&grant).map(|edited| edited != Edited::Added))?;
                tracing::info!(by = call.user(), %key, %role, prefixes = prefixes.len(), "authorized a key");
                self.wait_for_the_publisher(around)?;
                Ok(Answer::Granted { replaced })
            }
            Operation::Revoke { key } => {
                self.check_not_own(key)?;
                let was_in = self.edit(call.user(), around, |file| Ok(file.revoke(key)))?;
                // Also for a key that is out already: who asks again, since a first reply was lost or said so, wants to know just this.
                self.wait_for_the_publisher(around)?;
                if !was_in {
                    let message = format!("{key} is not among the authorized keys; `who` lists them");
                    return Err(Failure::new(ErrorCode::NotFound, message));
                }
                tracing::info!(by = call.user(), %key, "revoked a key");
                Ok(Answer::Done)
            }
            Operation::Who => {
                // What was written by hand a moment ago counts, too.
                self.look(around);
                // That may be the end of who asks.
                self.book.of(call.user()).ok_or_else(not_let_in)?.check(call.operation())?;
                Ok(Answer::Who(self.grants.clone()))
            }
            other => Err(Failure::new(ErrorCode::Internal, format!("`{}` is not the gatekeeper's to answer", other.verb()))),
        }
    }

    fn check_not_own(&self, key: &UserKey) -> Result<(), Failure> {
        if *key == self.own.owner {
            return Err(Failure::invalid("this is the owner's own key: it may do everything, and that cannot be changed"));
        }
        if *key == self.own.project {
            let message =
                "this is the project's own key, which its broker proves; a user's key is what `kvclient id` prints for that user";
            return Err(Failure::invalid(message));
        }
        Ok(())
    }

    /// Edits the file as it is now, and puts in force what it says then.
    fn edit<T>(
        &mut self,
        by: &str,
        around: &Surroundings,
        mut change: impl FnMut(&mut AccessFile) -> Result<T, AccessFileError>,
    ) -> Result<T, Failure> {
        let mut tries = EDIT_TRIES;
        loop {
            tries -= 1;
            match self.try_edit(by, &mut change) {
                Ok((changed, file)) => {
                    self.status.content();
                    self.put_in_force(&file, around);
                    return Ok(changed);
                }
                Err(NotEdited::File(StoreError::Changing { .. })) if tries > 0 => {}
                Err(not_edited) => return Err(not_edited.into_failure(self.watch.store())),
            }
        }
    }

    fn try_edit<T>(
        &mut self,
        by: &str,
        change: &mut impl FnMut(&mut AccessFile) -> Result<T, AccessFileError>,
    ) -> Result<(T, AccessFile), NotEdited> {
        let explained = AccessFile::explained(&self.project);
        let (mut file, stamp) = self.watch.for_edit(explained).map_err(NotEdited::File)?;
        // An admin whose line was just taken out by hand must not put it back.
        if !is_admin(by, &file) {
            return Err(NotEdited::NotAdmin);
        }
        let before = file.clone();
        let changed = change(&mut file).map_err(NotEdited::Change)?;
        if file != before {
            self.watch.put(&file, stamp).map_err(NotEdited::File)?;
        }
        Ok((changed, file))
    }

    /// The list that a file makes. Lines that mean nothing are left out, with a word.
    fn next(&self, file: &AccessFile) -> (Vec<GrantInfo>, HashMap<Arc<str>, Access>) {
        let grants: Vec<GrantInfo> = file.grants().cloned().collect();
        let mut list = HashMap::with_capacity(grants.len());
        for grant in &grants {
            if grant.key == self.own.owner {
                continue;
            }
            // What was parsed makes a valid access; if it didn't, the key would stay out.
            if let Ok(access) = Access::new(grant.role, grant.prefixes.clone()) {
                list.insert(Arc::from(grant.key.to_string()), access);
            }
        }
        (grants, list)
    }

    fn enter(&mut self, (grants, list): (Vec<GrantInfo>, HashMap<Arc<str>, Access>)) {
        self.status.keys.store(list.len() as u64, Ordering::Relaxed);
        self.grants = grants;
        self.list.clone_from(&list);
        self.book.replace(list);
    }

    /// Puts the list of a file in force. Afterwards nothing is said by the former one.
    fn put_in_force(&mut self, file: &AccessFile, around: &Surroundings) {
        let next = self.next(file);
        if next.1 == self.list {
            // Comments and order only.
            self.grants = next.0;
            return;
        }
        let former = std::mem::take(&mut self.list);
        let lost_the_table = former
            .iter()
            .any(|(user, access)| access.scope.is_all() && !next.1.get(user).is_some_and(|access| access.scope.is_all()));
        tracing::info!(keys = next.1.len(), before = former.len(), "another list of authorized keys is in force");
        self.enter(next);
        if lost_the_table {
            around.subscribers.cut_off("a key may not read the whole table any more");
        }
        // Requests that wait in the worker for something to happen: their users may be other ones now.
        around.intake.nudge();
        self.book.settle();
    }

    fn wait_for_the_publisher(&self, around: &Surroundings) -> Result<(), Failure> {
        if around.subscribers.wait_cut_off(CLOSING) {
            return Ok(());
        }
        let message =
            "the list is in force, but connections of subscribers that it ends are not closed yet; ask again to be told when";
        Err(Failure::busy(message, limits::RETRY_AFTER_MS))
    }
}

/// Why an edit was not made.
enum NotEdited {
    File(StoreError),
    Change(AccessFileError),
    /// Whoever asks is no admin in the file as it is now.
    NotAdmin,
}

impl NotEdited {
    fn into_failure(self, store: &AccessStore) -> Failure {
        match self {
            // It is somebody's hand edit.
            NotEdited::File(error @ StoreError::Changing { .. }) => Failure::busy(error.to_string(), 1_000),
            NotEdited::File(error @ StoreError::Io { .. }) => Failure::new(ErrorCode::Internal, error.to_string()),
            NotEdited::File(error) => {
                let message = format!("{error}; mend it, then ask again (until then the last good list is in force)");
                Failure::new(ErrorCode::Conflict, message)
            }
            NotEdited::Change(error @ (AccessFileError::TooLong { .. } | AccessFileError::TooManyKeys)) => {
                Failure::limit(format!("{} would be too large: {error}", store.path().display()))
            }
            NotEdited::Change(AccessFileError::Line { problem, .. }) => Failure::invalid(problem.to_string()),
            NotEdited::NotAdmin => not_let_in(),
        }
    }
}

/// Whether a user may change who comes in, by what a file says. The owner stands in none.
fn is_admin(user: &str, file: &AccessFile) -> bool {
    user == OWNER || file.grants().any(|grant| grant.role == Role::Admin && grant.key.to_string() == user)
}

fn not_let_in() -> Failure {
    Failure::new(
        ErrorCode::Refused,
        "this key is not an admin's any more, or not let in at all; an admin of the broker can change that with `authorize`",
    )
}

fn stopping() -> Failure {
    Failure::new(ErrorCode::ShuttingDown, "the broker is stopping; ask again when it has been started again")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;

    use kvbroker::paths::Dirs;
    use kvbroker_table::NoDoorbell;

    use super::*;

    /// Notes what the book said of the user at the moment of each cut.
    #[derive(Clone)]
    struct Witness {
        book: Arc<AccessBook>,
        seen: Arc<Mutex<Vec<Option<Access>>>>,
        closes: bool,
    }

    impl Subscribers for Witness {
        fn cut_off(&self, _why: &str) {
            self.seen.lock().unwrap().push(self.book.of(&user().to_string()));
        }

        fn wait_cut_off(&self, _timeout: Duration) -> bool {
            self.closes
        }
    }

    fn user() -> UserKey {
        UserKey::from_bytes([7; 32])
    }

    struct Bench {
        keeper: Gatekeeper,
        around: Surroundings,
        witness: Witness,
        _home: tempfile::TempDir,
    }

    impl Bench {
        fn new() -> Bench {
            let home = tempfile::tempdir().unwrap();
            let store = AccessStore::new(&Dirs::under(home.path()).unwrap(), &"zoo".parse().unwrap());
            let own = OwnKeys { owner: UserKey::from_bytes([1; 32]), project: UserKey::from_bytes([2; 32]) };
            let book = Arc::new(AccessBook::new());
            let keeper = Gatekeeper::new(store, "zoo".into(), own, book.clone());
            let witness = Witness { book, seen: Arc::default(), closes: true };
            let around = Surroundings {
                calls: Arc::default(),
                replies: Arc::new(Outbox::new(1 << 20, Arc::new(NoDoorbell))),
                intake: Arc::default(),
                subscribers: Box::new(witness.clone()),
            };
            Bench { keeper, around, witness, _home: home }
        }

        fn write(&mut self, lines: &str) {
            fs::write(self.keeper.watch.store().path(), lines).unwrap();
            self.keeper.look(&self.around);
        }

        fn cuts(&self) -> Vec<Option<Access>> {
            std::mem::take(&mut *self.witness.seen.lock().unwrap())
        }
    }

    #[test]
    fn subscribers_are_cut_off_when_somebody_loses_the_table_and_behind_the_book() {
        let mut bench = Bench::new();
        let whole = Access::new(Role::Read, vec![]).unwrap();
        let part = Access::new(Role::Write, vec![b"own/".to_vec()]).unwrap();
        bench.write(&format!("{} read\n", user()));
        assert_eq!((bench.cuts(), bench.witness.book.of(&user().to_string())), (vec![], Some(whole)));
        // Another role, more keys beside it, comments: nobody has less.
        bench.write(&format!("{} write # hers\n{} read prefix=a\n", user(), UserKey::from_bytes([8; 32])));
        assert_eq!(bench.cuts(), []);
        bench.write(&format!("{} write prefix=own/\n", user()));
        assert_eq!(bench.cuts(), [Some(part)]);
        // What could not subscribe before needs no cut.
        bench.write("# nobody\n");
        assert_eq!((bench.cuts(), bench.witness.book.of(&user().to_string())), (vec![], None));
        bench.write(&format!("{} read\n", user()));
        bench.write("# nobody\n");
        assert_eq!(bench.cuts(), [None]);
    }

    #[test]
    fn a_list_with_the_owners_own_key_does_not_change_what_the_owner_may() {
        let mut bench = Bench::new();
        let owner = UserKey::from_bytes([1; 32]);
        bench.write(&format!("{owner} read prefix=x\n"));
        assert_eq!(bench.witness.book.of(&owner.to_string()), None, "it comes in as the owner, not by this line");
        assert_eq!(bench.witness.book.of(kvbroker_table::OWNER), Some(Access::owner()));
        let own = bench.keeper.check_not_own(&owner).unwrap_err();
        assert_eq!(own.code, ErrorCode::Invalid);
    }

    #[test]
    fn an_admin_is_told_when_connections_are_not_closed_yet() {
        let mut bench = Bench::new();
        assert_eq!(bench.keeper.wait_for_the_publisher(&bench.around), Ok(()));
        bench.witness.closes = false;
        bench.around.subscribers = Box::new(bench.witness.clone());
        let told = bench.keeper.wait_for_the_publisher(&bench.around).unwrap_err();
        assert_eq!((told.code, told.retry_after_ms), (ErrorCode::Busy, Some(limits::RETRY_AFTER_MS)));
    }

    /// Its requests come all the time; the broker has not looked at the file yet.
    #[test]
    fn an_admin_who_was_taken_out_by_hand_does_not_put_itself_back() {
        let mut bench = Bench::new();
        bench.write(&format!("{} admin\n", user()));
        let by = user().to_string();
        let itself = GrantInfo { key: user(), role: Role::Admin, prefixes: vec![], comment: String::new() };
        bench.keeper.edit(&by, &bench.around, |file| file.authorize(&itself)).unwrap();
        for lines in ["# nobody\n".to_owned(), format!("{} write\n", user())] {
            fs::write(bench.keeper.watch.store().path(), &lines).unwrap();
            let refused = bench.keeper.edit(&by, &bench.around, |file| file.authorize(&itself)).unwrap_err();
            assert_eq!(refused.code, ErrorCode::Refused);
            assert_eq!(fs::read_to_string(bench.keeper.watch.store().path()).unwrap(), lines);
        }
    }

    #[test]
    fn an_edit_puts_in_force_what_stands_in_the_file_by_then() {
        let mut bench = Bench::new();
        let other = UserKey::from_bytes([8; 32]);
        fs::write(bench.keeper.watch.store().path(), format!("{other} read\n")).unwrap();
        let grant = GrantInfo { key: user(), role: Role::Read, prefixes: vec![], comment: String::new() };
        let edited = bench.keeper.edit(OWNER, &bench.around, |file| file.authorize(&grant)).unwrap();
        assert_eq!(edited, Edited::Added);
        for key in [user(), other] {
            assert!(bench.witness.book.of(&key.to_string()).is_some());
        }
        fs::write(bench.keeper.watch.store().path(), "nonsense\n").unwrap();
        let refused = bench.keeper.edit(OWNER, &bench.around, |file| Ok(file.revoke(&user()))).unwrap_err();
        assert!(refused.code == ErrorCode::Conflict && refused.message.contains("line 1"), "{refused}");
        assert!(bench.witness.book.of(&user().to_string()).is_some(), "the last good list stays");
    }
}

//! What `authorized_clients` says now: looked at again and again, believed when it can be.
//!
//! - Only a file that is wholly good makes a list. While it is not, the last good list stays, and each look says what is wrong.
//! - A file whose last line has no line feed may be half written: it is believed when the next look finds the same.
//! - So is one that has gone: editors that replace a file leave none for a moment. At the first look a missing file is an empty list.
//! - It is read again if it was changed, and as long as it is so young that a change may not show.

use kvbroker::access_file::AccessFile;
use kvbroker::access_file::store::{AccessStore, Found, Look, Stamp, StoreError};

/// What a look found.
#[derive(Debug)]
pub(super) enum Seen {
    /// Nothing new, and nothing wrong.
    Same,
    /// Another list.
    List(AccessFile),
    /// It can't be used, and why.
    Wrong(String),
}

/// What is known of the file.
enum Known {
    /// Not looked at yet.
    Nothing,
    /// It was missing; `believed`: so the list is empty.
    Missing { believed: bool },
    /// It was read.
    File { found: Found, verdict: Verdict },
}

enum Verdict {
    /// It makes the list.
    Good,
    /// It would, if it is still the same at the next look.
    Unfinished,
    /// It makes none.
    Bad(String),
}

pub(super) struct Watch {
    store: AccessStore,
    known: Known,
}

impl Watch {
    pub(super) fn new(store: AccessStore) -> Watch {
        Watch { store, known: Known::Nothing }
    }

    pub(super) fn store(&self) -> &AccessStore {
        &self.store
    }

    /// Looks at the file.
    pub(super) fn look(&mut self) -> Seen {
        let known = match &self.known {
            Known::File { found, .. } if !found.is_young => Some(found.stamp),
            _ => None,
        };
        match self.store.read(known) {
            Ok(None) => self.missing(),
            Ok(Some(Look::Same)) => self.same(),
            Ok(Some(Look::Read(found))) => self.read(found),
            // The next look will tell.
            Err(StoreError::Changing { .. }) => Seen::Same,
            Err(error) => {
                // What was known of it says nothing about what it will be.
                self.known = Known::Nothing;
                Seen::Wrong(error.to_string())
            }
        }
    }

    fn missing(&mut self) -> Seen {
        let (believed, seen) = match self.known {
            Known::Missing { believed: true } => (true, Seen::Same),
            Known::Missing { believed: false } | Known::Nothing => (true, Seen::List(empty())),
            Known::File { .. } => (false, Seen::Same),
        };
        self.known = Known::Missing { believed };
        seen
    }

    fn same(&mut self) -> Seen {
        let Known::File { found, verdict } = &mut self.known else { return Seen::Same };
        match verdict {
            Verdict::Good => Seen::Same,
            Verdict::Bad(why) => Seen::Wrong(why.clone()),
            Verdict::Unfinished => match self.store.parse(&found.content) {
                Ok(list) => {
                    *verdict = Verdict::Good;
                    Seen::List(list)
                }
                // It was good before; nothing depends on it here.
                Err(error) => Seen::Wrong(error.to_string()),
            },
        }
    }

    fn read(&mut self, new: Found) -> Seen {
        if let Known::File { found, .. } = &mut self.known
            && found.content == new.content
        {
            *found = new;
            return self.same();
        }
        let (verdict, seen) = match self.store.parse(&new.content) {
            Ok(list) if list.is_whole() => (Verdict::Good, Seen::List(list)),
            Ok(_) => (Verdict::Unfinished, Seen::Same),
            Err(error) => (Verdict::Bad(error.to_string()), Seen::Wrong(error.to_string())),
        };
        self.known = Known::File { found: new, verdict };
        seen
    }

    /// The file as it is, for an edit: with what [`Watch::put`] must find in its place.
    ///
    /// # Errors
    /// It can't be used, or is being written.
    pub(super) fn for_edit(&self, explained: AccessFile) -> Result<(AccessFile, Option<Stamp>), StoreError> {
        let Some(look) = self.store.read(None)? else {
            // It was there a moment ago, and may come back: whoever stood in it would be lost, or what is edited now.
            let is_sudden = matches!(self.known, Known::File { .. } | Known::Missing { believed: false });
            return if is_sudden { Err(self.changing()) } else { Ok((explained, None)) };
        };
        let Look::Read(found) = look else { return Err(self.changing()) };
        let list = self.store.parse(&found.content)?;
        let is_settled =
            matches!(&self.known, Known::File { found: known, verdict: Verdict::Good } if known.content == found.content);
        if list.is_whole() || is_settled { Ok((list, Some(found.stamp))) } else { Err(self.changing()) }
    }

    fn changing(&self) -> StoreError {
        StoreError::Changing { path: self.store.path().to_owned() }
    }

    /// Puts an edited file into its place.
    ///
    /// # Errors
    /// It can't be written, or is another one by now.
    pub(super) fn put(&mut self, list: &AccessFile, read: Option<Stamp>) -> Result<(), StoreError> {
        let found = self.store.replace(list, read)?;
        self.known = Known::File { found, verdict: Verdict::Good };
        Ok(())
    }
}

fn empty() -> AccessFile {
    AccessFile::parse(b"").expect("nothing is a list of nobody")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;

    use kvbroker::paths::Dirs;
    use kvbroker_protocol::{GrantInfo, Role, UserKey};

    use super::*;

    fn key(byte: u8) -> UserKey {
        UserKey::from_bytes([byte; 32])
    }

    fn keys(seen: Seen) -> Vec<UserKey> {
        match seen {
            Seen::List(list) => list.grants().map(|grant| grant.key).collect(),
            other => panic!("{other:?}"),
        }
    }

    fn is_same(seen: &Seen) -> bool {
        matches!(seen, Seen::Same)
    }

    struct Place {
        watch: Watch,
        _home: tempfile::TempDir,
    }

    impl Place {
        fn new() -> Place {
            let home = tempfile::tempdir().unwrap();
            let store = AccessStore::new(&Dirs::under(home.path()).unwrap(), &"zoo".parse().unwrap());
            store.make_place().unwrap();
            Place { watch: Watch::new(store), _home: home }
        }

        fn write(&self, text: &str) {
            fs::write(self.watch.store().path(), text).unwrap();
        }
    }

    #[test]
    fn a_missing_file_is_nobody_at_once_at_a_start_and_later_when_it_stays_away() {
        let Place { mut watch, _home } = Place::new();
        assert_eq!(keys(watch.look()), []);
        assert!(is_same(&watch.look()));
        fs::write(watch.store().path(), format!("{} read\n", key(1))).unwrap();
        assert_eq!(keys(watch.look()), [key(1)]);
        fs::remove_file(watch.store().path()).unwrap();
        assert!(is_same(&watch.look()), "it may be on its way");
        assert_eq!(keys(watch.look()), []);
        assert!(is_same(&watch.look()));
    }

    #[test]
    fn a_file_that_has_just_gone_is_not_edited_as_if_there_were_none() {
        let mut place = Place::new();
        place.write(&format!("{} read\n", key(1)));
        assert_eq!(keys(place.watch.look()), [key(1)]);
        fs::remove_file(place.watch.store().path()).unwrap();
        for _ in 0..2 {
            let edit = place.watch.for_edit(AccessFile::explained("zoo"));
            assert!(matches!(edit, Err(StoreError::Changing { .. })), "{edit:?}");
            place.watch.look();
        }
        place.watch.for_edit(AccessFile::explained("zoo")).unwrap();
    }

    #[test]
    fn a_file_that_comes_back_at_once_changes_nothing() {
        let mut place = Place::new();
        place.write(&format!("{} read\n", key(1)));
        assert_eq!(keys(place.watch.look()), [key(1)]);
        fs::remove_file(place.watch.store().path()).unwrap();
        assert!(is_same(&place.watch.look()));
        place.write(&format!("{} read\n{} read\n", key(1), key(2)));
        assert_eq!(keys(place.watch.look()), [key(1), key(2)]);
    }

    #[test]
    fn half_a_line_is_not_believed_until_it_stays() {
        let mut place = Place::new();
        place.write(&format!("{} read prefix=team/\n", key(1)));
        assert_eq!(keys(place.watch.look()), [key(1)]);
        place.write(&format!("{} read", key(1)));
        assert!(is_same(&place.watch.look()), "this would be every key");
        place.write(&format!("{} read prefix=team/\n", key(1)));
        assert_eq!(keys(place.watch.look()), [key(1)]);
        place.write(&format!("{} write", key(1)));
        assert!(is_same(&place.watch.look()));
        assert_eq!(keys(place.watch.look()), [key(1)]);
        assert!(is_same(&place.watch.look()));
    }

    #[test]
    fn what_is_wrong_is_said_at_each_look_until_it_is_mended() {
        let mut place = Place::new();
        place.write("nonsense\n");
        for _ in 0..2 {
            assert!(matches!(place.watch.look(), Seen::Wrong(why) if why.contains("line 1")));
        }
        place.write(&format!("{} read\n", key(1)));
        assert_eq!(keys(place.watch.look()), [key(1)]);
    }

    #[test]
    fn a_change_in_the_same_moment_with_the_same_length_is_seen() {
        let mut place = Place::new();
        for byte in 1..20 {
            place.write(&format!("{} read\n", key(byte)));
            assert_eq!(keys(place.watch.look()), [key(byte)]);
        }
    }

    #[test]
    fn an_edit_begins_with_the_file_as_it_is_and_is_not_news_afterwards() {
        let mut place = Place::new();
        assert_eq!(keys(place.watch.look()), []);
        place.write(&format!("# by hand\n{} read\n", key(1)));
        let (mut list, stamp) = place.watch.for_edit(AccessFile::explained("zoo")).unwrap();
        let grant = GrantInfo { key: key(2), role: Role::Write, prefixes: vec![], comment: String::new() };
        list.authorize(&grant).unwrap();
        place.watch.put(&list, stamp).unwrap();
        assert!(is_same(&place.watch.look()));
        let text = fs::read_to_string(place.watch.store().path()).unwrap();
        assert_eq!(text, format!("# by hand\n{} read\n{} write\n", key(1), key(2)));
        place.write(&format!("{} read", key(1)));
        assert!(matches!(place.watch.for_edit(AccessFile::explained("zoo")), Err(StoreError::Changing { .. })));
        // Also when a look has found the same: only the look after that believes it.
        assert!(is_same(&place.watch.look()));
        assert!(matches!(place.watch.for_edit(AccessFile::explained("zoo")), Err(StoreError::Changing { .. })));
        assert_eq!(keys(place.watch.look()), [key(1)]);
        place.watch.for_edit(AccessFile::explained("zoo")).unwrap();
        place.write("nonsense\n");
        assert!(matches!(place.watch.for_edit(AccessFile::explained("zoo")), Err(StoreError::Content { .. })));
    }
}

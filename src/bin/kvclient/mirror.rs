//! `mirror`: the keys of a prefix as one JSON object in a file that is kept current.
//!
//! - The file is replaced as a whole, and what it shows is of one revision.
//! - It is not written more often than wanted, however much changes; nor is there anything to write while nothing changes.
//! - What keeps it from being written is said once, and tried again.

use std::fs::{self, File, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kvbroker::client::{Client, ClientError, MirrorState, WatchEvent, WatchFrom, WatchOptions};
use kvbroker::exit::Exit;
use kvbroker_protocol::key_to_json_text;
use rustix::fs::{FlockOperation, flock};
use serde_json::json;
use tempfile::NamedTempFile;

use crate::args::Global;
use crate::interrupt::{self, InHand};
use crate::output::{Output, printable};
use crate::values::bytes;
use crate::watch::filtered;
use crate::watch_args::MirrorArgs;
use crate::{Trouble, complain, remark};

/// First and longest pause before a file that could not be written is tried again.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Characters of a new file's name behind the dot, the file's own name and `new-`.
const NAME_CHARS: usize = 6;

/// The revision that the file shows; for whoever ends the program meanwhile.
static SHOWN: AtomicU64 = AtomicU64::new(0);

/// A mirror whose arguments were read and checked.
#[derive(Debug)]
pub(crate) struct Wanted {
    options: WatchOptions,
    place: Place,
    interval: Duration,
    once: bool,
}

impl Wanted {
    /// # Errors
    /// No file can be made there.
    pub(crate) fn new(args: MirrorArgs) -> Result<Wanted, Trouble> {
        let MirrorArgs { prefix, file, filter, interval, once } = args;
        if file.as_os_str() == "-" {
            return Err(Trouble::misuse("cannot write -: a file is replaced, which stdout is not; one of this name is ./-"));
        }
        let place = Place::new(&file).map_err(|error| Trouble::misuse(format!("cannot write {}: {error}", file.display())))?;
        let options = WatchOptions::prefix(bytes(&prefix)).from(WatchFrom::Snapshot).resync(true);
        Ok(Wanted { options: filtered(options, filter), place, interval, once })
    }
}

pub(crate) fn run(global: &Global, client: &Client, wanted: Wanted, out: &mut Output) -> Result<Exit, Trouble> {
    let Wanted { options, place, interval, once } = wanted;
    let mut watch = client.watch_with(options)?;
    let name = place.file.display().to_string();
    if !global.quiet {
        interrupt::on_end(move || match SHOWN.load(Ordering::Relaxed) {
            0 => None,
            shown => Some(format!("interrupted; {name} shows revision {}", shown - 1)),
        });
    }
    let mut keeper = Keeper { place, interval, due: None, again: AGAIN.0, trouble: None };
    let mut state = MirrorState::new();
    let mut caught_up = false;
    loop {
        if keeper.due.is_some_and(|due| due <= Instant::now()) && caught_up {
            if let Err(error) = keeper.write(&state, global, out)? {
                if once {
                    return Err(Trouble::File(error));
                }
            } else if once {
                return Ok(Exit::Ok);
            }
        }
        let patience = global.timeout().filter(|_| once).and_then(|patience| Instant::now().checked_add(patience));
        let due = keeper.due.filter(|_| caught_up);
        let Some(event) = watch.next(due.or(patience))? else {
            if once && due.is_none() {
                let waited = format!("{} s", global.timeout().unwrap_or_default().as_secs_f64());
                let project = client.project().to_owned();
                return Err(ClientError::TimedOut { project, waited, trouble: None }.into());
            }
            continue;
        };
        match &event {
            WatchEvent::Disconnected { why } => {
                remark(global, &format!("{}; the file stays as it is until the broker is there again", printable(why)));
            }
            WatchEvent::CaughtUp { .. } => caught_up = true,
            WatchEvent::SnapshotEnd { .. } | WatchEvent::Changes(_) => keeper.changed(),
            WatchEvent::SnapshotBegin { .. } | WatchEvent::SnapshotRow(_) => {}
        }
        state.apply(event);
    }
}

/// When the file is to be replaced.
struct Keeper {
    place: Place,
    interval: Duration,
    /// When it is to be written next; None: it shows everything.
    due: Option<Instant>,
    again: Duration,
    /// What was said already.
    trouble: Option<String>,
}

impl Keeper {
    fn changed(&mut self) {
        let now = Instant::now();
        let earliest = self.place.written_at.and_then(|at| at.checked_add(self.interval));
        self.due.get_or_insert(earliest.map_or(now, |earliest| earliest.max(now)));
    }

    /// Replaces the file, or says why not and when it is tried again.
    fn write(&mut self, state: &MirrorState, global: &Global, out: &mut Output) -> Result<Result<(), String>, Trouble> {
        let is_first = self.place.written_at.is_none();
        let revision = state.revision().unwrap_or_default();
        let held = interrupt::hold(InHand::File);
        let written = self.place.write(state);
        if written.is_ok() {
            SHOWN.store(revision.saturating_add(1), Ordering::Relaxed);
        }
        drop(held);
        let name = self.place.file.display();
        match written {
            Ok(bytes) => {
                if self.trouble.take().is_some() {
                    remark(global, &format!("{name} could be written again"));
                }
                (self.due, self.again) = (None, AGAIN.0);
                if out.is_json() {
                    let said = json!({"event": "written", "rev": revision, "keys": state.len(), "bytes": bytes});
                    out.line(&said.to_string())?;
                    out.flush()?;
                } else if is_first {
                    remark(global, &format!("{name} shows the {} keys of revision {revision}", state.len()));
                }
                Ok(Ok(()))
            }
            Err(error) => {
                let sentence = format!("cannot write {name}: {error}");
                if self.trouble.as_ref() != Some(&sentence) {
                    complain(&format!("{sentence}; it stays as it was, and is tried again"), None);
                }
                self.due = Instant::now().checked_add(self.again);
                self.again = (self.again * 2).min(AGAIN.1);
                self.trouble = Some(sentence.clone());
                Ok(Err(sentence))
            }
        }
    }
}

/// Where the file is.
#[derive(Debug)]
struct Place {
    file: PathBuf,
    directory: PathBuf,
    written_at: Option<Instant>,
}

impl Place {
    /// # Errors
    /// There is something else than a file, or no file can be made beside it.
    fn new(file: &Path) -> io::Result<Place> {
        let other = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what.to_owned());
        // What a link leads to is replaced, not the link.
        let file = match fs::canonicalize(file) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => file.to_owned(),
            Err(error) => return Err(error),
        };
        match fs::metadata(&file) {
            Ok(metadata) if !metadata.is_file() => return Err(other("it is no regular file, which could be replaced")),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        if file.file_name().is_none() {
            return Err(other("that is no name of a file"));
        }
        let directory = match file.parent() {
            Some(directory) if !directory.as_os_str().is_empty() => directory.to_owned(),
            _ => PathBuf::from("."),
        };
        let place = Place { file, directory, written_at: None };
        place.clear_up();
        place.begin()?;
        Ok(place)
    }

    /// What the names of new files begin with.
    fn prefix(&self) -> String {
        format!(".{}.new-", self.file.file_name().unwrap_or_default().to_string_lossy())
    }

    /// Removes what programs have left that were killed in the midst of writing. A file that is being written is locked.
    fn clear_up(&self) {
        let prefix = self.prefix();
        let is_left = |name: &str| {
            name.strip_prefix(&prefix)
                .is_some_and(|rest| rest.len() == NAME_CHARS && rest.bytes().all(|byte| byte.is_ascii_alphanumeric()))
        };
        // What can't be looked at, locked or removed stays: it is in nobody's way.
        let Ok(entries) = fs::read_dir(&self.directory) else { return };
        for entry in entries.flatten() {
            let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
            if is_file
                && is_left(&entry.file_name().to_string_lossy())
                && let Ok(file) = File::open(entry.path())
                && flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
            {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// A new file beside its place, with the mode that the file has, or that new files get.
    fn begin(&self) -> io::Result<NamedTempFile> {
        let prefix = self.prefix();
        let there = match fs::metadata(&self.file) {
            Ok(metadata) => Some(metadata.permissions()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix).rand_bytes(NAME_CHARS);
        // The umask is applied to it.
        builder.permissions(Permissions::from_mode(0o666));
        let new = loop {
            let new = builder.tempfile_in(&self.directory)?;
            // Without locks, as on some networks' file systems, it is as safe as it was. Before it was locked another program may have
            // taken it for one that was left.
            let is_locked = flock(new.as_file(), FlockOperation::LockExclusive).is_ok();
            if !is_locked || new.as_file().metadata()?.nlink() > 0 {
                break new;
            }
        };
        if let Some(permissions) = there {
            new.as_file().set_permissions(permissions)?;
        }
        Ok(new)
    }

    /// Gives how many bytes it has.
    fn write(&mut self, state: &MirrorState) -> io::Result<u64> {
        let new = self.begin()?;
        let mut out = BufWriter::with_capacity(256 << 10, new.as_file());
        write_object(state, &mut out)?;
        out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        let bytes = new.as_file().metadata()?.len();
        new.persist(&self.file).map_err(|error| error.error)?;
        File::open(&self.directory)?.sync_all()?;
        self.written_at = Some(Instant::now());
        Ok(bytes)
    }
}

/// A map of the keys in the form that docs/protocol.md gives maps in JSON.
fn write_object(state: &MirrorState, out: &mut impl Write) -> io::Result<()> {
    let is_text = state.iter().all(|(key, _)| std::str::from_utf8(key).is_ok());
    // An object whose only name begins so would be an escape for something else.
    let escapes = state.len() == 1 && state.iter().all(|(key, _)| key.starts_with(b"$"));
    out.write_all(if is_text { b"{" } else { b"{\"$map\":[" })?;
    let mut text = Vec::new();
    for (at, (key, row)) in state.iter().enumerate() {
        text.clear();
        text.extend_from_slice(if at > 0 { b",\n" } else { b"\n" });
        match (is_text, escapes) {
            (true, true) => key_to_json_text(&mut text, &[b"$", key.as_slice()].concat()),
            (true, false) => key_to_json_text(&mut text, key),
            (false, _) => {
                text.push(b'[');
                key_to_json_text(&mut text, key);
            }
        }
        text.push(if is_text { b':' } else { b',' });
        row.value.write_json(&mut text);
        text.extend_from_slice(if is_text { b"" } else { b"]" });
        out.write_all(&text)?;
    }
    if !state.is_empty() {
        out.write_all(b"\n")?;
    }
    out.write_all(if is_text { b"}\n" } else { b"]}\n" })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use kvbroker::client::WhySnapshot;
    use kvbroker_protocol::{Row, Stored, json_to_msgpack};

    use super::*;

    fn state(rows: &[(&[u8], &str)]) -> MirrorState {
        let mut state = MirrorState::new();
        state.apply(WatchEvent::SnapshotBegin { revision: 9, why: WhySnapshot::Asked });
        for (key, json) in rows {
            let value = Stored::from_json(json.as_bytes()).unwrap();
            state.apply(WatchEvent::SnapshotRow(Row { key: key.to_vec(), value, modified: 1 }));
        }
        state.apply(WatchEvent::SnapshotEnd { revision: 9 });
        state
    }

    fn written(rows: &[(&[u8], &str)]) -> String {
        let mut out = Vec::new();
        write_object(&state(rows), &mut out).unwrap();
        // It is what the protocol takes for a map, too.
        assert_eq!(json_to_msgpack(&out).unwrap()[0] & 0xf0, 0x80);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_file_is_one_object_with_a_key_a_line() {
        assert_eq!(written(&[]), "{}\n");
        assert_eq!(written(&[(b"a\"", "1"), (b"b", "{\"x\": [2]}")]), "{\n\"a\\\"\":1,\n\"b\":{\"x\": [2]}\n}\n");
        assert_eq!(written(&[(b"a", "1"), (&[0xff], "2")]), "{\"$map\":[\n[\"a\",1],\n[{\"$bytes\":\"/w==\"},2]\n]}\n");
        assert_eq!(written(&[(b"$bytes", "\"/w==\"")]), "{\n\"$$bytes\":\"/w==\"\n}\n");
        assert_eq!(written(&[(b"$a", "1"), (b"$b", "2")]), "{\n\"$a\":1,\n\"$b\":2\n}\n");
    }

    #[test]
    fn what_a_killed_program_has_left_is_removed_and_nothing_else() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("conf.json");
        let mut place = Place::new(&file).unwrap();
        let kept = [
            ".conf.json.new-Abc12",
            ".conf.json.new-backup1",
            ".conf.json.new-abc.ef",
            ".other.new-Abc123",
            "conf.json.new-Abc123",
        ];
        for name in kept.iter().chain(&[".conf.json.new-Abc123"]) {
            fs::write(home.path().join(name), "half").unwrap();
        }
        // Another program is at it just now.
        let at_work = place.begin().unwrap();
        Place::new(&file).unwrap();
        let names = || fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
        let left = names();
        assert!(kept.iter().all(|name| left.iter().any(|left| left == name)), "{left:?}");
        assert_eq!(left.len(), kept.len() + 1, "{left:?}");
        drop(at_work);
        place.write(&state(&[(b"a", "1")])).unwrap();
        assert_eq!(names().len(), kept.len() + 1);
    }

    #[test]
    fn a_file_is_replaced_with_its_mode_and_through_links() {
        let home = tempfile::tempdir().unwrap();
        let (file, link) = (home.path().join("conf.json"), home.path().join("link"));
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o604)).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let mut place = Place::new(&link).unwrap();
        assert_eq!(place.write(&state(&[(b"a", "1")])).unwrap(), 10);
        assert_eq!(fs::read_to_string(&file).unwrap(), "{\n\"a\":1\n}\n");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o604);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 2, "nothing is left behind");
        for wrong in [home.path(), Path::new("/dev/null"), Path::new("/no/where/file"), Path::new("")] {
            assert!(Place::new(wrong).is_err(), "{wrong:?}");
        }
    }
}

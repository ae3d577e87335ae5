//! `repair`: makes a damaged log usable again. Never by itself: it says what would be lost, and goes on only when told the place.
//!
//! - The data lock is held from the first look to the end, so what was shown is what is repaired.
//! - Before anything is changed the directory is copied aside, synced.
//! - One damage at a time, the one nearest to the beginning of the log.

mod told;

use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::SystemTime;

use kvbroker::exit::Exit;
use kvbroker_core::Salvage;
use kvbroker_log::inspect::{CheckReport, Finding, Gravity};
use kvbroker_log::{Additions, DiskStorage, LogError, OsEntropy, RepairError, SalvageRules, Storage, Verdict, examine};
use rustix::io::Errno;
use serde_json::{Value, json};

use crate::args::Config;
use crate::failure::Failure;
use crate::tools::backup::{Destination, Progress};
use crate::tools::check::checked;
use crate::tools::out::remark;
use crate::tools::restore::lock;
use crate::tools::{Common, End, Out, Place};

use told::{Keys, json_of, report};

/// Flags of `repair`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct RepairArgs {
    /// Give up what is damaged there, without asking: the place that a run without this flag has shown
    #[arg(long, value_name = "FILE:OFFSET")]
    discard_from: Option<DamagePlace>,
    #[command(flatten)]
    common: Common,
}

/// A place in a file; without a file it only has to be the right offset.
#[derive(Clone, Debug, PartialEq, Eq)]
struct DamagePlace {
    name: Option<String>,
    offset: u64,
}

impl FromStr for DamagePlace {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<DamagePlace, Self::Err> {
        let (name, offset) = match text.rsplit_once(':') {
            Some((name, offset)) => (Some(name.rsplit('/').next().unwrap_or(name).to_owned()), offset),
            None => (None, text),
        };
        let offset = offset.parse().map_err(|_| "the place that was shown, such as table.txn.00000001:4096")?;
        Ok(DamagePlace { name, offset })
    }
}

impl fmt::Display for DamagePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{name}:{}", self.offset),
            None => write!(f, "byte {}", self.offset),
        }
    }
}

/// Looks at the log, and repairs it if told so.
///
/// # Errors
/// Exit codes 2 (another damage than named), 10 (a broker runs), 11 (damaged and not repaired), 12 (disk), 13 (newer).
pub(crate) fn run(args: &RepairArgs, config: &Config) -> Result<Exit, End> {
    let place = Place::of(&args.common, config)?;
    // A directory that is not there isn't made.
    drop(place.read_only()?);
    let _lock = lock(&place.directory)?;
    let storage: Arc<dyn Storage> = Arc::new(DiskStorage::open(&place.directory).map_err(Failure::with(Exit::DiskFailed))?);
    let mut keys = Keys::default();
    let plan = match examine(&*storage, &mut |group| keys.take(group)).map_err(failure)? {
        Verdict::Sound { revision, torn } => {
            if let Some(torn) = torn {
                remark(format_args!(
                    "{} ends with {} bytes at byte {} that were never confirmed; the next start cuts them off by itself",
                    torn.file.display(),
                    torn.bytes,
                    torn.offset
                ));
            }
            return sound(args, &place, revision);
        }
        Verdict::Damaged(plan) => plan,
    };
    let found = DamagePlace { name: Some(plan.damage.name.clone()), offset: plan.damage.offset };
    let mut out = Out::stdout();
    if !args.common.json {
        for line in report(&place, &plan, &keys) {
            out.line(line)?;
        }
    }
    // Before the question.
    out.finish()?;
    if !is_agreed(args, &place, &found)? {
        if args.common.json {
            object(&json_of(&place, &plan, &keys, None))?;
        }
        let sentence = format!("nothing was changed. To do this: {} --discard-from {found}", place.verb("repair"));
        return Err(Failure::new(Exit::LogDamaged, sentence).into());
    }
    let copy = copy_aside(&place.directory)?;
    remark(format_args!("the directory as it was is in {}", copy.display()));
    plan.apply(&storage, &mut OsEntropy, &OfTheBroker).map_err(|error| Failure::of_log(&error))?;
    if args.common.json {
        object(&json_of(&place, &plan, &keys, Some(&copy)))?;
    }
    match examine(&*storage, &mut |_| {}).map_err(failure)? {
        Verdict::Sound { revision, .. } if args.common.json => {
            remark(format_args!("repaired, at revision {revision}"));
            Ok(Exit::Ok)
        }
        Verdict::Sound { revision, .. } => {
            let mut out = Out::stdout();
            out.line(format_args!("repaired, at revision {revision}; start it with: {}", place.start()))?;
            out.finish()?;
            Ok(Exit::Ok)
        }
        Verdict::Damaged(next) => {
            let sentence = format!(
                "this damage is repaired, but there is more, in {} at byte {}: run {} again",
                next.damage.name,
                next.damage.offset,
                place.verb("repair")
            );
            Err(Failure::new(Exit::LogDamaged, sentence).into())
        }
    }
}

fn failure(error: RepairError) -> Failure {
    match &error {
        // What a disk can't read, it can't give up either: there is nothing to compare with, and no copy aside can be made.
        RepairError::Log(LogError::Io { source, .. }) if Errno::from_io_error(source) == Some(Errno::IO) => Failure::new(
            Exit::DiskFailed,
            format!(
                "{error}. Copy the directory to a sound disk with a program that puts zeros where it can't read, such as ddrescue, or dd \
                 with bs=4096 conv=noerror,sync; then repair the copy with --data"
            ),
        ),
        RepairError::Log(source) => Failure::of_log(source),
        _ => Failure::new(Exit::LogDamaged, error),
    }
}

fn object(value: &Value) -> Result<(), End> {
    let mut out = Out::stdout();
    out.object(value)?;
    out.finish()
}

/// No damage keeps a start away. What else there is to say of the directory is what `check` finds: damaged history, and records that the
/// table refuses although they are what was written.
fn sound(args: &RepairArgs, place: &Place, revision: u64) -> Result<Exit, End> {
    let (report, _) = checked(&place.read_only()?, false, false)?;
    let found = |gravity| report.findings.iter().filter(move |finding| finding.gravity == gravity);
    let (history, damage) = (found(Gravity::History), found(Gravity::Damage).chain(found(Gravity::Newer)));
    if args.common.json {
        let sentences = |findings: &mut dyn Iterator<Item = &Finding>| findings.map(place_and_what).collect::<Vec<_>>();
        let (history, refused) = (sentences(&mut history.clone()), sentences(&mut damage.clone()));
        let damaged = !refused.is_empty();
        object(&json!({
            "data": place.directory, "damaged": damaged, "revision": revision, "damaged_history": history, "refused": refused
        }))?;
    } else {
        let mut out = Out::stdout();
        for (name, finding) in history.map(|finding| ("history", finding)).chain(damage.map(|finding| ("refused", finding))) {
            out.line(format_args!("{name:<10}{}", place_and_what(finding)))?;
        }
        out.line(sentence_of_sound(place, &report, revision))?;
        out.finish()?;
    }
    let directory = place.directory.display();
    match report.gravity() {
        Some(Gravity::Damage) => {
            let sentence = format!(
                "{directory} is as it was written, but a start refuses what stands there, and a repair has nothing to mend: start the \
                 version that wrote it, or restore a backup"
            );
            Err(Failure::new(Exit::LogDamaged, sentence).into())
        }
        Some(Gravity::Newer) => {
            Err(Failure::new(Exit::DataTooNew, format!("{directory} was written by a newer program: start that one")).into())
        }
        Some(Gravity::History | Gravity::TornTail | Gravity::Note) | None => Ok(Exit::Ok),
    }
}

fn sentence_of_sound(place: &Place, report: &CheckReport, revision: u64) -> String {
    let directory = place.directory.display();
    match report.gravity() {
        Some(Gravity::Damage | Gravity::Newer) => format!("every batch of {directory} can be read, up to revision {revision}"),
        Some(Gravity::History) => format!(
            "nothing has to be done: no start reads this, and the table is whole, up to revision {revision}. What keys were then can't \
             be read back; the file goes with the oldest history, and a backup leaves it out"
        ),
        Some(Gravity::TornTail | Gravity::Note) | None => {
            format!("there is nothing to repair: all of {directory} can be read, up to revision {revision}")
        }
    }
}

fn place_and_what(finding: &Finding) -> String {
    let offset = finding.offset.map_or(String::new(), |offset| format!(" at byte {offset}"));
    format!("{}{offset}: {}", finding.file, finding.what)
}

/// True if the damage found may be repaired.
fn is_agreed(args: &RepairArgs, place: &Place, found: &DamagePlace) -> Result<bool, Failure> {
    if let Some(named) = &args.discard_from {
        let same = named.offset == found.offset && (named.name.is_none() || named.name == found.name);
        if same {
            return Ok(true);
        }
        let sentence =
            format!("the damage is at {found}, not at {named}: look again with {}. Nothing was changed.", place.verb("repair"));
        return Err(Failure::new(Exit::Usage, sentence));
    }
    if args.common.json || !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Ok(false);
    }
    let _ = write!(io::stderr(), "Go on? (yes/no) ");
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(Failure::with(Exit::Usage))?;
    Ok(answer.trim().eq_ignore_ascii_case("yes"))
}

/// What the broker's records mean to each other.
struct OfTheBroker;

impl SalvageRules for OfTheBroker {
    fn keeps(&self, record_key: &[u8]) -> bool {
        Salvage::keeps(record_key)
    }

    fn additions(&self, last_stamp_ms: u64) -> Additions {
        let salvage = Salvage::new(last_stamp_ms);
        Additions { records: salvage.records(), stamp_ms: salvage.stamp_ms() }
    }
}

/// Copies the directory, synced, before it is changed.
fn copy_aside(directory: &Path) -> Result<PathBuf, Failure> {
    let failed = |error: &io::Error| {
        Failure::new(Exit::DiskFailed, format!("cannot copy {} aside: {error}. Nothing was changed.", directory.display()))
    };
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).map_err(|error| failed(&error))? {
        let entry = entry.map_err(|error| failed(&error))?;
        let meta = entry.metadata().map_err(|error| failed(&error))?;
        if meta.is_file() && entry.file_name() != "lock" {
            files.push((entry.path(), meta.len()));
        }
    }
    let needed: u64 = files.iter().map(|(_, bytes)| bytes).sum();
    let real = fs::canonicalize(directory).map_err(|error| failed(&error))?;
    let stamp: String = humantime::format_rfc3339_seconds(SystemTime::now()).to_string().replace(['-', ':'], "");
    let name = real.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut target = real.with_file_name(format!("{name}.before-repair-{stamp}"));
    for again in 2.. {
        if !target.exists() {
            break;
        }
        target = real.with_file_name(format!("{name}.before-repair-{stamp}-{again}"));
    }
    let parent = real.parent().unwrap_or(Path::new("/"));
    let space = rustix::fs::statvfs(parent).map_err(|error| failed(&error.into()))?;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    if free < needed {
        let sentence = format!(
            "{} has {free} bytes free, and the copy of the directory that is made before a repair takes {needed}: make room first. \
             Nothing was changed.",
            parent.display()
        );
        return Err(Failure::new(Exit::DiskFailed, sentence));
    }
    let destination = Destination::of(&target)?;
    let temporary = destination.temporary(".copying")?;
    let mut progress = Progress::of(needed);
    let mut done = 0;
    for (path, bytes) in files {
        let to = temporary.path().join(path.file_name().unwrap_or_default());
        fs::copy(&path, &to).and_then(|_| File::open(&to)?.sync_all()).map_err(|error| failed(&error))?;
        done += bytes;
        progress.at(done);
    }
    File::open(temporary.path()).and_then(|directory| directory.sync_all()).map_err(|error| failed(&error))?;
    destination.take_place(temporary)?;
    Ok(target)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_place_is_an_offset_with_or_without_its_file() {
        let place = |name: Option<&str>, offset| DamagePlace { name: name.map(str::to_owned), offset };
        assert_eq!("4096".parse(), Ok(place(None, 4096)));
        assert_eq!("table.ckpt:0".parse(), Ok(place(Some("table.ckpt"), 0)));
        assert_eq!("/a:b/table.txn.00000001:7".parse(), Ok(place(Some("table.txn.00000001"), 7)));
        for bad in ["", "x", "table.ckpt:", "table.ckpt:-1", "1:x"] {
            assert!(bad.parse::<DamagePlace>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_place_that_the_disk_cannot_read_is_told_with_a_way_on() {
        let error = |errno: Errno| LogError::Io { action: "read", path: "table.ckpt".into(), source: errno.into() };
        let said = failure(RepairError::Log(error(Errno::IO)));
        assert_eq!(said.exit.code(), Exit::DiskFailed.code());
        assert!(said.sentence.contains("table.ckpt") && said.sentence.contains("ddrescue"), "{}", said.sentence);
        assert!(!failure(RepairError::Log(error(Errno::MFILE))).sentence.contains("ddrescue"));
    }

    #[test]
    fn a_copy_aside_has_every_file_but_the_lock() {
        let home = tempfile::tempdir().unwrap();
        let data = home.path().join("data");
        fs::create_dir(&data).unwrap();
        for name in ["table.txn.00000001", "ports.json", "lock"] {
            fs::write(data.join(name), name).unwrap();
        }
        let first = copy_aside(&data).unwrap();
        let second = copy_aside(&data).unwrap();
        assert_ne!(first, second);
        for copy in [first, second] {
            let mut names: Vec<_> = fs::read_dir(&copy).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            assert_eq!(names, ["ports.json", "table.txn.00000001"]);
            assert_eq!(fs::read_to_string(copy.join("ports.json")).unwrap(), "ports.json");
        }
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 3, "nothing temporary is left");
    }
}

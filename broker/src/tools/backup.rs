//! `backup`: a consistent copy of the data, while the broker runs or not. The data directory is only read.
//!
//! - A directory appears under its name whole, or not at all; a stream is whole if its last member is there.
//! - A reader of the stream that goes away is a failure here: what it has is no backup.

use std::fs;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kvbroker::exit::Exit;
use kvbroker_log::{BackupError, BackupReport, BackupSink, BackupSource, DiskStorage, StorageSink};
use serde_json::json;

use crate::args::Config;
use crate::failure::Failure;
use crate::tools::out::{remark, rfc3339};
use crate::tools::{Common, End, Out, Place};

/// Flags of `backup`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct BackupArgs {
    /// A new or empty directory, or `-` for a tar stream on stdout
    dest: PathBuf,
    #[command(flatten)]
    common: Common,
}

/// Copies the data.
///
/// # Errors
/// Exit codes 2 (nothing there, or the destination doesn't fit), 11 and 13 (the source is damaged or newer), 12 (can't be written).
pub(crate) fn run(args: &BackupArgs, config: &Config) -> Result<Exit, End> {
    let place = Place::of(&args.common, config)?;
    let storage = place.read_only()?;
    if args.dest.as_os_str() == "-" {
        let report = to_stdout(&storage)?;
        remark(summary(&place, &report));
        return Ok(Exit::Ok);
    }
    let report = to_directory(&storage, &place.directory, &args.dest)?;
    let mut out = Out::stdout();
    if args.common.json {
        let BackupReport { revision, stamp_ms, files, bytes } = report;
        out.object(&json!({"to": args.dest, "revision": revision, "stamp_ms": stamp_ms, "files": files, "bytes": bytes}))?;
    } else {
        out.line(format_args!("{}, in {}", summary(&place, &report), args.dest.display()))?;
    }
    out.finish()?;
    Ok(Exit::Ok)
}

fn summary(place: &Place, report: &BackupReport) -> String {
    let BackupReport { revision, stamp_ms, files, bytes } = report;
    let project = &place.project;
    format!("backup of {project} at revision {revision} ({}): {files} files, {bytes} bytes", rfc3339(*stamp_ms))
}

fn copy(storage: &DiskStorage, sink: &mut dyn BackupSink) -> Result<BackupReport, Failure> {
    let source = BackupSource::open(storage).map_err(failure)?;
    let mut progress = Progress::of(source.bytes_max());
    source.copy(sink, &mut |bytes| progress.at(bytes)).map_err(failure)
}

fn failure(error: BackupError) -> Failure {
    match &error {
        BackupError::Nothing { .. } => Failure::new(Exit::Usage, &error),
        BackupError::Source(source) => Failure::of_log(source),
        BackupError::Sink(source) if source.kind() == io::ErrorKind::BrokenPipe => {
            Failure::new(Exit::DiskFailed, "whoever read the stream has closed it: what was read is not a whole backup")
        }
        error => Failure::new(Exit::DiskFailed, error),
    }
}

fn to_directory(storage: &DiskStorage, data: &Path, dest: &Path) -> Result<BackupReport, Failure> {
    let dest = Destination::check(dest, data)?;
    let temporary = dest.temporary(".incomplete")?;
    let copied = DiskStorage::open(temporary.path()).map_err(|error| dest.cannot(&error))?;
    let report = copy(storage, &mut StorageSink::new(&copied))?;
    dest.take_place(temporary)?;
    Ok(report)
}

/// A directory that does not exist yet, or is empty.
#[derive(Debug)]
pub(crate) struct Destination {
    path: PathBuf,
    parent: PathBuf,
}

impl Destination {
    /// Checks what can be known before.
    fn check(dest: &Path, data: &Path) -> Result<Destination, Failure> {
        let usage = |sentence: String| Failure::new(Exit::Usage, sentence);
        let shown = dest.display();
        match fs::read_dir(dest).map(|mut entries| entries.next().is_none()) {
            Ok(true) => {}
            Ok(false) => return Err(usage(format!("{shown} is not empty: name a new directory for the backup"))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(usage(format!("{shown} can't be the backup's directory: {error}"))),
        }
        let dest = Destination::of(dest)?;
        let data = fs::canonicalize(data).unwrap_or_else(|_| data.to_owned());
        if dest.path.starts_with(&data) {
            return Err(usage(format!("{shown} is in the data directory: put the backup somewhere else, best on another disk")));
        }
        Ok(dest)
    }

    /// The directory, with its parent's real name.
    ///
    /// # Errors
    /// Exit code 2: the parent is missing, or another file system begins here.
    pub(crate) fn of(directory: &Path) -> Result<Destination, Failure> {
        let shown = directory.display();
        // A link to the directory stays: what it points to is replaced.
        let path = match fs::canonicalize(directory) {
            Ok(path) => path,
            Err(_) => {
                let parent = match directory.parent() {
                    Some(parent) if !parent.as_os_str().is_empty() => parent,
                    _ => Path::new("."),
                };
                let name = directory.file_name().ok_or_else(|| Failure::new(Exit::Usage, format!("{shown} has no name")))?;
                fs::canonicalize(parent)
                    .map_err(|error| Failure::new(Exit::Usage, format!("{}: {error}", parent.display())))?
                    .join(name)
            }
        };
        let parent = path.parent().ok_or_else(|| Failure::new(Exit::Usage, format!("{shown} has no directory above it")))?;
        let device = |path: &Path| fs::metadata(path).map(|meta| meta.dev());
        if device(&path).is_ok_and(|here| device(parent).is_ok_and(|above| above != here)) {
            let sentence = format!("a file system is mounted at {shown}: name a new directory in it");
            return Err(Failure::new(Exit::Usage, sentence));
        }
        Ok(Destination { parent: parent.to_owned(), path })
    }

    /// A directory beside it that goes away unless it takes its place.
    pub(crate) fn temporary(&self, suffix: &str) -> Result<tempfile::TempDir, Failure> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let made = tempfile::Builder::new().prefix(&format!(".{name}.")).suffix(suffix).tempdir_in(&self.parent);
        made.map_err(|error| self.cannot(&error))
    }

    /// Gives the whole, synced directory its name; an empty one that has it is replaced.
    pub(crate) fn take_place(&self, temporary: tempfile::TempDir) -> Result<(), Failure> {
        fs::rename(temporary.path(), &self.path).map_err(|error| self.cannot(&error))?;
        // It is no temporary one any more.
        let _ = temporary.keep();
        fs::File::open(&self.parent).and_then(|parent| parent.sync_all()).map_err(|error| self.cannot(&error))
    }

    pub(crate) fn cannot(&self, error: &io::Error) -> Failure {
        use io::ErrorKind::{NotFound, PermissionDenied, ReadOnlyFilesystem};
        let asked = matches!(error.kind(), NotFound | PermissionDenied | ReadOnlyFilesystem);
        let exit = if asked { Exit::Usage } else { Exit::DiskFailed };
        Failure::new(exit, format!("cannot write {}: {error}", self.path.display()))
    }
}

fn to_stdout(storage: &DiskStorage) -> Result<BackupReport, Failure> {
    let stdout = io::stdout().lock();
    if stdout.is_terminal() {
        let sentence = "a backup is not for a terminal: send stdout to a file or a program, or name a directory";
        return Err(Failure::new(Exit::Usage, sentence));
    }
    copy(storage, &mut TarSink::new(BufWriter::with_capacity(256 << 10, stdout)))
}

/// A tar stream, written member by member.
struct TarSink<W: Write> {
    out: W,
    /// Bytes that fill up the open member to whole blocks.
    padding: usize,
}

/// Tar's.
const BLOCK_BYTES: u64 = 512;

impl<W: Write> TarSink<W> {
    fn new(out: W) -> TarSink<W> {
        TarSink { out, padding: 0 }
    }

    fn pad(&mut self) -> io::Result<()> {
        let padding = std::mem::take(&mut self.padding);
        self.out.write_all(&[0; BLOCK_BYTES as usize][..padding])
    }
}

impl<W: Write> BackupSink for TarSink<W> {
    fn file(&mut self, name: &str, bytes: u64) -> io::Result<()> {
        self.pad()?;
        let mut header = tar::Header::new_gnu();
        header.set_path(name)?;
        header.set_size(bytes);
        header.set_mode(0o600);
        header.set_entry_type(tar::EntryType::Regular);
        header.set_cksum();
        self.padding = usize::try_from(bytes.next_multiple_of(BLOCK_BYTES) - bytes).expect("less than a block");
        self.out.write_all(header.as_bytes())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)
    }

    fn finish(&mut self) -> io::Result<()> {
        self.pad()?;
        // Two empty blocks end an archive.
        self.out.write_all(&[0; 2 * BLOCK_BYTES as usize])?;
        self.out.flush()
    }
}

/// Says on stderr how far a long copy is.
pub(crate) struct Progress {
    total: u64,
    next: Instant,
}

const PROGRESS: Duration = Duration::from_secs(2);

impl Progress {
    pub(crate) fn of(total: u64) -> Progress {
        Progress { total, next: Instant::now() + PROGRESS }
    }

    pub(crate) fn at(&mut self, bytes: u64) {
        if Instant::now() >= self.next {
            self.next = Instant::now() + PROGRESS;
            remark(format_args!("{} of at most {} MiB", bytes >> 20, self.total.div_ceil(1 << 20)));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::Read;

    #[test]
    fn the_stream_is_one_that_every_tar_reads() {
        let mut sink = TarSink::new(Vec::new());
        for (name, bytes) in [("table.txn.00000001", &[7u8; 700][..]), ("b", &[1; 512]), ("kvbroker-backup", b"end\n")] {
            sink.file(name, bytes.len() as u64).unwrap();
            bytes.chunks(300).for_each(|piece| sink.write(piece).unwrap());
        }
        sink.finish().unwrap();
        assert_eq!(sink.out.len() % 512, 0);
        let mut archive = tar::Archive::new(&sink.out[..]);
        let members: Vec<(String, usize)> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let mut entry = entry.unwrap();
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).unwrap();
                (entry.path().unwrap().display().to_string(), bytes.len())
            })
            .collect();
        assert_eq!(members, [("table.txn.00000001".into(), 700), ("b".into(), 512), ("kvbroker-backup".into(), 4)]);
    }

    #[test]
    fn a_destination_that_is_in_use_is_refused_before_anything_is_written() {
        let home = tempfile::tempdir().unwrap();
        let data = home.path().join("data");
        fs::create_dir_all(data.join("sub")).unwrap();
        let check = |path: &Path| Destination::check(path, &data).map(drop).map_err(|failure| failure.sentence);
        assert!(check(&data).unwrap_err().contains("not empty"));
        assert!(check(&data.join("sub")).unwrap_err().contains("in the data directory"));
        assert!(check(&data.join("new")).unwrap_err().contains("in the data directory"));
        assert!(check(&home.path().join("missing/new")).unwrap_err().contains("missing"));
        fs::write(home.path().join("file"), "x").unwrap();
        assert!(check(&home.path().join("file")).is_err());
        check(&home.path().join("new")).unwrap();
        fs::create_dir(home.path().join("empty")).unwrap();
        check(&home.path().join("empty")).unwrap();
    }
}

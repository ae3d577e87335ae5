//! [`let_go`]: ends a large file that has lost its name, a little at a time.
//!
//! The last name or descriptor of a file that goes has the file system give back its room at once. For a checkpoint of 136 MiB on ext4
//! that takes 20 to 40 ms, in which syncs of other files wait (docs/decisions/0056). Cut from its end in steps, with a rest after
//! each, it takes as long in all, and a sync waits for one step.
//!
//! - Only a file without a name that nobody else has open is cut: whoever reads it, in this process or another, has it as it was.
//! - Nothing is promised and nothing fails: what can't be cut is given back by the system when it is closed.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::thread;
use std::time::Instant;

/// A file up to so many bytes goes at once.
const LARGE_BYTES: u64 = 8 << 20;
/// Bytes of one step.
const STEP_BYTES: u64 = 1 << 20;

/// Which signal says that a lease is wanted back: fcntl(2) of Linux; the libc crate does not name it.
const F_SETSIG: libc::c_int = 10;

/// Ends `file`, which was opened for writing before its name went.
pub(super) fn let_go(file: File) {
    let Ok(found) = file.metadata() else { return };
    if !found.is_file() || found.nlink() > 0 || found.len() <= LARGE_BYTES || !is_ours_alone(&file) {
        return;
    }
    let mut left = found.len();
    while left > 0 {
        left = left.saturating_sub(STEP_BYTES);
        let begun = Instant::now();
        if file.set_len(left).is_err() {
            return;
        }
        // As long as the step took: so others have half of the time whatever the disk is like.
        thread::sleep(begun.elapsed());
    }
}

/// True if no other descriptor of this file is open anywhere. Without a name none can come, so it stays true.
fn is_ours_alone(file: &File) -> bool {
    // The kernel grants this lease only to whoever is alone with a file; nothing else tells it. It is given back at once. Somebody who opens
    // the file through /proc meanwhile would have a signal sent, by default one that ends the process: so it is one that is ignored.
    //
    // SAFETY: these commands of fcntl take and return plain integers and touch no memory; the descriptor is open as long as `file`.
    unsafe {
        libc::fcntl(file.as_raw_fd(), F_SETSIG, libc::SIGURG) == 0
            && libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_WRLCK) == 0
            && libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK) == 0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs::{self, OpenOptions};
    use std::io;
    use std::os::unix::fs::FileExt;
    use std::path::Path;

    use super::*;

    const LARGE: u64 = LARGE_BYTES + 3 * STEP_BYTES + 17;

    fn large(path: &Path) -> File {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path).unwrap();
        file.write_all_at(b"the end", LARGE - 7).unwrap();
        file
    }

    /// Opens what a descriptor stands for again, name or not.
    fn again(file: &File) -> io::Result<File> {
        OpenOptions::new().write(true).open(format!("/proc/self/fd/{}", file.as_raw_fd()))
    }

    #[test]
    fn a_file_without_a_name_that_nobody_has_open_is_cut_to_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("old");
        drop(large(&path));
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert!(is_ours_alone(&file), "this file system grants leases; without them the next tests show nothing");
        // Another descriptor of the same open file: it counts as one.
        let witness = file.try_clone().unwrap();
        let_go(file);
        assert_eq!(witness.metadata().unwrap().len(), 0);
    }

    #[test]
    fn what_somebody_has_open_stays_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("old");
        drop(large(&path));
        let reader = File::open(&path).unwrap();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let_go(again(&file).unwrap());
        drop(file);
        let mut end = [0; 7];
        reader.read_exact_at(&mut end, LARGE - 7).unwrap();
        assert_eq!(&end, b"the end");
    }

    #[test]
    fn what_has_another_name_stays_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let (path, other) = (directory.path().join("old"), directory.path().join("kept"));
        drop(large(&path));
        fs::hard_link(&path, &other).unwrap();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let_go(file);
        assert_eq!(fs::metadata(&other).unwrap().len(), LARGE);
    }

    #[test]
    fn a_lease_that_was_given_back_leaves_the_file_to_others() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("old");
        drop(large(&path));
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        assert!(is_ours_alone(&file));
        // With the lease still held this would wait for its holder.
        drop(again(&file).unwrap());
        let other = File::open(&path).unwrap();
        assert!(!is_ours_alone(&file));
        drop(other);
        assert!(is_ours_alone(&file));
    }
}

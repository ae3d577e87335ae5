//! Where the data is kept, judged: what syncs and locks are worth there, and whether a broker may start.

use std::path::Path;

use kvbroker::exit::Exit;
use kvbroker_log::{FileSystem, Medium};

use crate::failure::Failure;

/// What a broker runs on.
#[derive(Clone, Debug)]
pub(crate) struct Ground {
    /// The file system, in a few words.
    pub(crate) file_system: String,
    /// What is worth saying about it.
    pub(crate) remark: Option<String>,
}

/// Looks what `directory`, which need not exist yet, is on, and warns where that is worth it.
///
/// # Errors
/// Exit code 2: in memory, and that was not accepted.
pub(crate) fn ground(directory: &Path, accepted: bool) -> Result<Ground, Failure> {
    let found = match FileSystem::of(directory) {
        Ok(found) => found,
        // Whether the directory can be used is found out when it is.
        Err(error) => return Ok(Ground { file_system: format!("not known: {error}"), remark: None }),
    };
    let remark = match judge(directory, found, accepted) {
        Judged::Fine => None,
        Judged::Remark(sentence) => Some(sentence),
        Judged::Refused(sentence) => return Err(Failure::new(Exit::Usage, sentence)),
    };
    if let Some(remark) = &remark {
        tracing::warn!("{remark}");
    }
    Ok(Ground { file_system: found.to_string(), remark })
}

/// What a directory's file system means for a broker.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Judged {
    /// A disk: nothing to say.
    Fine,
    /// It starts, and says this.
    Remark(String),
    /// It does not start, and says why and what to do.
    Refused(String),
}

/// Judges the file system of `directory`; `accepted` is `--accept-filesystem`.
fn judge(directory: &Path, found: FileSystem, accepted: bool) -> Judged {
    let (name, directory) = (found.name, directory.display());
    let how_to_move = "stop the broker, copy the directory to a local disk, start it with --data there";
    match found.medium {
        Medium::Local | Medium::Unknown => Judged::Fine,
        Medium::Network => Judged::Remark(format!(
            "{directory} is on a network ({name}): a sync is worth what the server makes of it, a lock holds only among machines \
             that the server tells of it, and without the server the broker stops; to move the data: {how_to_move}"
        )),
        Medium::Behind => Judged::Remark(format!(
            "{directory} is behind a program ({name}), perhaps on a network: a sync and a lock are worth what that program makes of \
             them; to move the data: {how_to_move}"
        )),
        Medium::Overlay => Judged::Remark(format!(
            "{directory} is on a layer over another file system ({name}), such as a container's own, and goes away with it: mount a \
             disk there, or choose another place with --data DIR"
        )),
        Medium::Memory if accepted => Judged::Remark(format!(
            "{directory} is in memory ({name}), as accepted: when the machine restarts, everything in it is gone"
        )),
        Medium::Memory => Judged::Refused(format!(
            "{directory} is in memory ({name}): when the machine restarts, everything in it would be gone. Choose a place on a disk \
             with --data DIR, or, if that is meant, start with --accept-filesystem"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(number: u32, accepted: bool) -> Judged {
        judge(Path::new("/d"), FileSystem::of_number(number), accepted)
    }

    #[test]
    fn only_memory_is_refused_and_only_without_being_accepted() {
        let (ext4, nfs, cifs, fuse, tmpfs, overlay) = (0xef53, 0x6969, 0xff53_4d42, 0x6573_5546, 0x0102_1994, 0x794c_7630);
        for accepted in [false, true] {
            assert_eq!(judged(ext4, accepted), Judged::Fine);
            assert_eq!(judged(7, accepted), Judged::Fine);
            for (number, words) in [(nfs, "network (NFS)"), (cifs, "network (CIFS)"), (fuse, "perhaps"), (overlay, "container")] {
                assert!(matches!(judged(number, accepted), Judged::Remark(said) if said.contains(words)), "{words}");
            }
        }
        assert!(matches!(judged(tmpfs, false), Judged::Refused(said) if said.contains("--accept-filesystem")));
        assert!(matches!(judged(tmpfs, true), Judged::Remark(said) if said.contains("everything in it is gone")));
    }
}

//! What kind of file system a directory is on: what syncs and locks are worth depends on it.
//!
//! - Known by the number that statfs(2) gives; what is not in the table is taken for a local disk and called unknown.
//! - FUSE tells nothing of what is behind it: it may be a network, a disk or memory.
//!
//! Source of the numbers: statfs(2), and the kernel's `include/uapi/linux/magic.h`; those of file systems outside the kernel are the
//! ones that coreutils' `stat -f` knows.

use std::fmt;
use std::io;
use std::path::Path;

/// What a file system keeps its files on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    /// A disk of this machine, or what looks like one.
    Local,
    /// A server.
    Network,
    /// Something behind a program (FUSE); it may be a server.
    Behind,
    /// Memory: gone when the machine restarts.
    Memory,
    /// A layer over others, such as a container's own: gone with the container.
    Overlay,
    /// Not in the table.
    Unknown,
}

/// The file system of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileSystem {
    /// Its usual name.
    pub name: &'static str,
    /// What its files are kept on.
    pub medium: Medium,
    /// The number by which it is known.
    pub number: u32,
}

const KNOWN: [(u32, &str, Medium); 40] = [
    (0xef53, "ext4", Medium::Local),
    (0x5846_5342, "XFS", Medium::Local),
    (0x9123_683e, "btrfs", Medium::Local),
    (0x2fc1_2fc1, "ZFS", Medium::Local),
    (0xf2f5_2010, "F2FS", Medium::Local),
    (0xca45_1a4e, "bcachefs", Medium::Local),
    (0x3153_464a, "JFS", Medium::Local),
    (0x5265_4973, "ReiserFS", Medium::Local),
    (0x3434, "NILFS", Medium::Local),
    (0xf15f, "eCryptfs", Medium::Local),
    (0x5346_544e, "NTFS", Medium::Local),
    (0x7366_746e, "NTFS", Medium::Local),
    (0x2011_bab0, "exFAT", Medium::Local),
    (0x4d44, "FAT", Medium::Local),
    (0x482b, "HFS+", Medium::Local),
    (0x1501_3346, "UDF", Medium::Local),
    (0x6969, "NFS", Medium::Network),
    (0x517b, "SMB", Medium::Network),
    (0xff53_4d42, "CIFS", Medium::Network),
    (0xfe53_4d42, "SMB", Medium::Network),
    (0x564c, "NCP", Medium::Network),
    (0x5346_414f, "AFS", Medium::Network),
    (0x6b41_4653, "AFS", Medium::Network),
    (0x7375_7245, "Coda", Medium::Network),
    (0x0102_1997, "9p", Medium::Network),
    (0x00c3_6400, "Ceph", Medium::Network),
    (0x0bd0_0bd0, "Lustre", Medium::Network),
    (0x4750_4653, "GPFS", Medium::Network),
    (0x0116_1970, "GFS2", Medium::Network),
    (0x7461_636f, "OCFS2", Medium::Network),
    (0x1983_0326, "BeeGFS", Medium::Network),
    (0x2003_0528, "OrangeFS", Medium::Network),
    (0xaad7_aaea, "PanFS", Medium::Network),
    (0x786f_4256, "VirtualBox shared folder", Medium::Network),
    (0x6573_5546, "FUSE", Medium::Behind),
    (0x0102_1994, "tmpfs", Medium::Memory),
    (0x8584_58f6, "ramfs", Medium::Memory),
    (0x9584_58f6, "hugetlbfs", Medium::Memory),
    (0x794c_7630, "overlayfs", Medium::Overlay),
    (0x6175_6673, "aufs", Medium::Overlay),
];

impl FileSystem {
    /// The file system that statfs(2) calls `number`.
    pub fn of_number(number: u32) -> Self {
        let found = KNOWN.iter().find(|(known, ..)| *known == number);
        found.map_or(Self { name: "unknown", medium: Medium::Unknown, number }, |&(number, name, medium)| Self {
            name,
            medium,
            number,
        })
    }

    /// The file system that `directory` is on, or will be on when it is made.
    ///
    /// # Errors
    /// What statfs(2) says.
    pub fn of(directory: &Path) -> io::Result<Self> {
        let directory = std::path::absolute(directory)?;
        for ancestor in directory.ancestors() {
            match rustix::fs::statfs(ancestor) {
                // The field is signed and of different widths; the number has 32 bits everywhere.
                Ok(found) => return Ok(Self::of_number(found.f_type as u32)),
                Err(rustix::io::Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(io::ErrorKind::NotFound.into())
    }
}

impl fmt::Display for FileSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let medium = match self.medium {
            Medium::Local => "a local disk",
            Medium::Network => "a network file system",
            Medium::Behind => "behind a program, perhaps a network",
            Medium::Memory => "memory",
            Medium::Overlay => "a layer over another file system",
            Medium::Unknown => return write!(f, "unknown ({:#x})", self.number),
        };
        write!(f, "{} ({medium})", self.name)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn each_number_is_in_the_table_once() {
        for (index, (number, ..)) in KNOWN.iter().enumerate() {
            assert!(KNOWN[..index].iter().all(|(other, ..)| other != number), "{number:#x}");
        }
        assert_eq!(FileSystem::of_number(0x6969).to_string(), "NFS (a network file system)");
        assert_eq!(FileSystem::of_number(7), FileSystem { name: "unknown", medium: Medium::Unknown, number: 7 });
        assert_eq!(FileSystem::of_number(7).to_string(), "unknown (0x7)");
    }

    #[test]
    fn a_directory_that_is_to_be_made_is_where_its_parents_are() {
        assert_eq!(FileSystem::of(Path::new("/proc/self/no/such")).unwrap(), FileSystem::of(Path::new("/proc")).unwrap());
        // There on every Linux that runs these tests with a shared memory mount; elsewhere nothing is claimed.
        if Path::new("/dev/shm").exists() {
            assert_eq!(FileSystem::of(Path::new("/dev/shm/new/one")).unwrap().medium, Medium::Memory);
        }
    }
}

//! The last file of a backup: what belongs to it, so that nothing can be missing unnoticed.
//!
//! - Written after everything else, so a backup that was cut short has none.
//! - Text, a line for each thing, with a checksum of its own at the end.

use std::fmt::Write;

use uuid::Uuid;

use crate::format::FORMAT_VERSION;

/// Its name in the backup.
pub const MANIFEST_FILE: &str = "kvbroker-backup";
/// More than this is not read, bytes: enough for 16 TiB in segments.
pub const MANIFEST_BYTES_MAX: usize = 16 << 20;

const VERSION: u32 = 1;

/// A file of the backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestFile {
    /// Name, without a directory.
    pub name: String,
    /// Length, bytes.
    pub bytes: u64,
    /// CRC32C of all of it.
    pub crc: u32,
}

/// What a backup consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Name of the log that was backed up.
    pub uuid: Uuid,
    /// Last revision in it.
    pub revision: u64,
    /// Last batch in it.
    pub sequence: u64,
    /// Highest stamp in it, wall-clock ms.
    pub stamp_ms: u64,
    /// All other files, in the order in which they were written.
    pub files: Vec<ManifestFile>,
}

/// Why a manifest can't be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ManifestFault {
    /// Written by a newer program: what it says, what this program knows.
    Newer(String, String),
    /// Anything else.
    Damaged(&'static str),
}

impl Manifest {
    pub(crate) fn encode(&self) -> String {
        let mut text = format!(
            "kvbroker backup {VERSION}\nformat {FORMAT_VERSION}\nuuid {}\nrevision {}\nsequence {}\nstamp_ms {}\n",
            self.uuid, self.revision, self.sequence, self.stamp_ms
        );
        for file in &self.files {
            writeln!(text, "file {} {} {:08x}", file.name, file.bytes, file.crc).expect("a string takes everything");
        }
        let crc = crc32c::crc32c(text.as_bytes());
        writeln!(text, "end {crc:08x}").expect("a string takes everything");
        text
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, ManifestFault> {
        let text = std::str::from_utf8(bytes).map_err(|_| ManifestFault::Damaged("it is not text"))?;
        let version = text.lines().next().and_then(|line| field::<u32>(line, "kvbroker backup "));
        // The first two lines mean the same in every version.
        match version {
            Some(VERSION) => {}
            Some(newer) if newer > VERSION => {
                let (found, known) = (format!("backup format version {newer}"), format!("backup format version {VERSION}"));
                return Err(ManifestFault::Newer(found, known));
            }
            _ => return Err(ManifestFault::Damaged("it doesn't start like one")),
        }
        let (covered, end) = text
            .strip_suffix('\n')
            .and_then(|text| text.rfind('\n'))
            .map(|at| text.split_at(at + 1))
            .ok_or(ManifestFault::Damaged("it is not whole"))?;
        let crc = end.strip_prefix("end ").and_then(|crc| u32::from_str_radix(crc.trim_end(), 16).ok());
        if crc != Some(crc32c::crc32c(covered.as_bytes())) {
            return Err(ManifestFault::Damaged("its checksum is wrong, or it is not whole"));
        }
        let mut lines = covered.lines().skip(1);
        let mut next = |name| lines.next().and_then(|line| line.strip_prefix(name));
        let malformed = ManifestFault::Damaged("a line is missing or malformed");
        let format: u32 = next("format ").and_then(|text| text.parse().ok()).ok_or(malformed.clone())?;
        if format > FORMAT_VERSION {
            let (found, known) = crate::format::versions(format);
            return Err(ManifestFault::Newer(found, known));
        }
        let uuid = next("uuid ").and_then(|text| text.parse().ok()).ok_or(malformed.clone())?;
        let mut number = |name| next(name).and_then(|text| text.parse::<u64>().ok()).ok_or(malformed.clone());
        let (revision, sequence, stamp_ms) = (number("revision ")?, number("sequence ")?, number("stamp_ms ")?);
        let files = lines.map(file).collect::<Option<Vec<_>>>().ok_or(malformed)?;
        Ok(Self { uuid, revision, sequence, stamp_ms, files })
    }
}

fn field<T: std::str::FromStr>(line: &str, name: &str) -> Option<T> {
    line.strip_prefix(name)?.parse().ok()
}

fn file(line: &str) -> Option<ManifestFile> {
    let mut words = line.strip_prefix("file ")?.split(' ');
    let name = words.next()?.to_owned();
    let bytes = words.next()?.parse().ok()?;
    let crc = u32::from_str_radix(words.next()?, 16).ok()?;
    words.next().is_none().then_some(ManifestFile { name, bytes, crc })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn manifest() -> Manifest {
        let file = |name: &str, bytes| ManifestFile { name: name.to_owned(), bytes, crc: 0xab };
        Manifest {
            uuid: Uuid::from_u128(7),
            revision: 12,
            sequence: 30,
            stamp_ms: 99,
            files: vec![file("table.ckpt", 8192), file("table.txn.00000003", 5000)],
        }
    }

    #[test]
    fn it_reads_back_and_no_changed_byte_gets_past_the_checksum() {
        let text = manifest().encode();
        assert_eq!(Manifest::decode(text.as_bytes()), Ok(manifest()));
        for at in 0..text.len() {
            assert!(Manifest::decode(&text.as_bytes()[..at]).is_err(), "cut at {at}");
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            assert!(Manifest::decode(&bytes).is_err(), "flipped at {at}");
        }
    }

    #[test]
    fn newer_ones_are_called_newer() {
        let newer = manifest().encode().replace("backup 1", "backup 2");
        let Err(ManifestFault::Newer(found, known)) = Manifest::decode(newer.as_bytes()) else { panic!("it was read") };
        assert!(found.ends_with("version 2") && known.ends_with("version 1"), "{found}, {known}");
        let text = manifest().encode().replace("format 2\n", "format 9\n").replace("format 1\n", "format 9\n");
        let covered = &text[..text.rfind("end ").unwrap()];
        let text = format!("{covered}end {:08x}\n", crc32c::crc32c(covered.as_bytes()));
        let Err(ManifestFault::Newer(found, _)) = Manifest::decode(text.as_bytes()) else { panic!("it was read") };
        assert_eq!(found, "format version 9");
    }
}

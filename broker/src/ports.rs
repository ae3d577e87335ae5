//! Remembered ports: a broker comes back where it was, so that bare subscribers reconnect, firewall rules hold and its catalog
//! record is replaced instead of doubled.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// The TCP ports of a broker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ports {
    pub(crate) router: u16,
    #[serde(rename = "pub")]
    pub(crate) publisher: u16,
}

/// Their file in the data directory.
pub(crate) const PORTS_FILE: &str = "ports.json";

impl Ports {
    /// Reads what the last start of this data directory wrote; a file that can't be read counts as none.
    pub(crate) fn remembered(data: &Path) -> Option<Ports> {
        let text = fs::read(data.join(PORTS_FILE)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Writes the ports for the next start. Losing them costs no data, so they are not synced.
    pub(crate) fn remember(self, data: &Path) -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(data)?;
        file.write_all(&serde_json::to_vec(&self)?)?;
        file.persist(data.join(PORTS_FILE))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ports_are_remembered_and_nonsense_is_none() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Ports::remembered(dir.path()), None);
        let ports = Ports { router: 4_000, publisher: 65_535 };
        ports.remember(dir.path()).unwrap();
        assert_eq!(Ports::remembered(dir.path()), Some(ports));
        fs::write(dir.path().join(PORTS_FILE), b"{\"router\":70000}").unwrap();
        assert_eq!(Ports::remembered(dir.path()), None);
    }
}

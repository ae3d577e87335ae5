//! `history`: what a key was before, page by page, and where that begins.

use std::time::{Duration, UNIX_EPOCH};

use kvbroker::client::Client;
use kvbroker::exit::Exit;
use kvbroker_protocol::limits::HISTORY_VERSIONS_MAX;
use kvbroker_protocol::{Key, Version, VersionKind};

use crate::output::{Output, Print};
use crate::{Global, Trouble, complain, remark};

pub(crate) fn run(global: &Global, client: &Client, key: &Key, limit: Option<u64>, out: &mut Output) -> Result<Exit, Trouble> {
    let mut left = limit.map_or(usize::MAX, |versions| usize::try_from(versions).unwrap_or(usize::MAX));
    let (mut before, mut any) = (None, false);
    loop {
        let page = client.history(key, Some(left.min(HISTORY_VERSIONS_MAX)), before)?;
        for version in &page.versions {
            out.item(version)?;
        }
        // Whoever reads along sees each page when it is there.
        out.flush()?;
        any |= !page.versions.is_empty();
        left = left.saturating_sub(page.versions.len());
        before = page.versions.last().map(|version| version.revision);
        if !any {
            let key = crate::output::printable(&String::from_utf8_lossy(key));
            complain(&format!("the history, which goes back to revision {}, has no version of {key:?}", page.oldest), None);
            return Ok(Exit::NotFound);
        }
        if left == 0 || !page.more || before.is_none() {
            // What was asked for is not all there, perhaps.
            if left > 0 && page.oldest > 1 {
                remark(global, &format!("the history goes back to revision {}; what was before is gone", page.oldest));
            }
            return Ok(Exit::Ok);
        }
    }
}

impl Print for Version {
    fn print(&self, json: bool, line: &mut Vec<u8>) {
        let Version { revision, time_ms, kind } = self;
        let name = kind.name();
        if json {
            line.extend_from_slice(format!("{{\"rev\":{revision},\"time\":{time_ms},\"event\":\"{name}\"").as_bytes());
        } else {
            line.extend_from_slice(format!("{revision}\t{}\t{name}", rfc3339(*time_ms)).as_bytes());
        }
        if let VersionKind::Put(value) = kind {
            line.extend_from_slice(if json { b",\"value\":" } else { b"\t" });
            value.write_json(line);
        }
        if json {
            line.push(b'}');
        }
    }
}

/// A broker's time; one beyond the year 9999, which only a broken clock makes, in milliseconds.
pub(crate) fn rfc3339(time_ms: u64) -> String {
    const YEAR_10000_MS: u64 = 253_402_300_800_000;
    if time_ms >= YEAR_10000_MS {
        return format!("{time_ms} ms");
    }
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(time_ms)).to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use kvbroker_protocol::Stored;

    use super::*;

    fn shown(json: bool, version: &Version) -> String {
        let mut line = Vec::new();
        version.print(json, &mut line);
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn a_version_is_a_line() {
        let version = |kind| Version { revision: 7, time_ms: 1_700_000_000_123, kind };
        let put = version(VersionKind::Put(Stored::text("a\nb").unwrap()));
        assert_eq!(shown(false, &put), "7\t2023-11-14T22:13:20.123Z\tput\t\"a\\nb\"");
        assert_eq!(shown(true, &put), r#"{"rev":7,"time":1700000000123,"event":"put","value":"a\nb"}"#);
        assert_eq!(shown(false, &version(VersionKind::Expire)), "7\t2023-11-14T22:13:20.123Z\texpire");
        assert_eq!(shown(true, &version(VersionKind::Remove)), r#"{"rev":7,"time":1700000000123,"event":"remove"}"#);
    }

    #[test]
    fn no_time_is_too_large_to_be_shown() {
        assert_eq!(rfc3339(u64::MAX), format!("{} ms", u64::MAX));
        assert_eq!(rfc3339(253_402_300_799_999), "9999-12-31T23:59:59.999Z");
    }
}

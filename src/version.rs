//! What `--version` says, the same way in every program.
//!
//! ```text
//! kvbroker 0.1.0 (git 1a2b3c4d5e6f)
//! protocol 1, data format 2
//! libzmq 4.3.5, CURVE yes
//! ```
//!
//! - The first line alone identifies the build; `-dirty` after the commit means
//!   that the sources differed from it, `unknown` that there was no repository.
//! - libzmq's version and abilities are asked of the library that is linked, not
//!   taken from the build.

use crate::transport::{has_curve, libzmq_version};

/// The version of this package, as in `Cargo.toml`.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit this was built from: hex digits, `-dirty` behind them if the
/// sources differed, or `unknown`.
pub const COMMIT: &str = env!("KVBROKER_COMMIT");

/// What `--version` prints, without a line feed at its end.
#[must_use]
pub fn text_for(program: &str) -> String {
    let (protocol, data_format) = (kvbroker_protocol::PROTOCOL_VERSION, kvbroker_protocol::DATA_FORMAT_VERSION);
    let kind = if cfg!(debug_assertions) { "\ndebug build, not for measuring" } else { "" };
    let curve = if has_curve() { "yes" } else { "no" };
    let libzmq = libzmq_version();
    format!(
        "{program} {VERSION} (git {COMMIT})\nprotocol {protocol}, data format {data_format}\nlibzmq {libzmq}, CURVE {curve}{kind}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_there() {
        let all = text_for("kvbroker");
        let mut lines = all.lines();
        assert_eq!(lines.next(), Some(format!("kvbroker {VERSION} (git {COMMIT})").as_str()));
        assert_eq!(lines.next(), Some("protocol 1, data format 2"));
        assert_eq!(lines.next(), Some("libzmq 4.3.5, CURVE yes"));
    }

    #[test]
    fn the_commit_is_a_commit_or_says_that_it_is_none() {
        let digits = COMMIT.strip_suffix("-dirty").unwrap_or(COMMIT);
        let is_hash = digits.len() >= 12 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        assert!(is_hash || COMMIT == "unknown" || std::env::var_os("KVBROKER_COMMIT").is_some(), "{COMMIT}");
    }
}

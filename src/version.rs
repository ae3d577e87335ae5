//! What `--version` says, the same way in every program.
//!
//! ```text
//! kvbroker 0.1.0 (git 1a2b3c4d5e6f)
//! protocol 1, data format 1
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

/// Everything behind the program's name. For clap: `.version(…)`, which prints
/// the name itself. `data_format` is given by programs that read or write data directories.
#[must_use]
pub fn text(data_format: Option<u32>) -> String {
    let protocol = kvbroker_protocol::PROTOCOL_VERSION;
    let data_format = data_format.map_or(String::new(), |format| format!(", data format {format}"));
    let kind = if cfg!(debug_assertions) { "\ndebug build, not for measuring" } else { "" };
    let curve = if has_curve() { "yes" } else { "no" };
    let libzmq = libzmq_version();
    format!("{VERSION} (git {COMMIT})\nprotocol {protocol}{data_format}\nlibzmq {libzmq}, CURVE {curve}{kind}")
}

/// [`text`] with the program's name in front.
#[must_use]
pub fn text_for(program: &str, data_format: Option<u32>) -> String {
    format!("{program} {}", text(data_format))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_there() {
        let all = text_for("kvbroker", Some(7));
        let mut lines = all.lines();
        assert_eq!(lines.next(), Some(format!("kvbroker {VERSION} (git {COMMIT})").as_str()));
        let protocol = kvbroker_protocol::PROTOCOL_VERSION;
        assert_eq!(lines.next(), Some(format!("protocol {protocol}, data format 7").as_str()));
        assert_eq!(lines.next(), Some("libzmq 4.3.5, CURVE yes"));
        assert!(!text(None).contains("data format"));
    }

    #[test]
    fn the_commit_is_a_commit_or_says_that_it_is_none() {
        let digits = COMMIT.strip_suffix("-dirty").unwrap_or(COMMIT);
        let is_hash = digits.len() >= 12 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        assert!(is_hash || COMMIT == "unknown" || std::env::var_os("KVBROKER_COMMIT").is_some(), "{COMMIT}");
    }
}

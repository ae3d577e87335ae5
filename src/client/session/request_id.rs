//! The name of a mutation.

use std::fmt;
use std::str::FromStr;

use kvbroker_protocol::SessionId;

/// A mutation's name for as long as its session is known: `SESSION:SEQ`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestId {
    /// The session.
    pub session: SessionId,
    /// Its number in the session.
    pub seq: u64,
}

/// A text that names no request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a request id (32 hexadecimal digits, a colon and a number from 1 on): {0:?}")]
pub struct RequestIdError(String);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.session, self.seq)
    }
}

impl FromStr for RequestId {
    type Err = RequestIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (session, seq) = text.split_once(':')?;
            let digits = !seq.is_empty() && seq.bytes().all(|byte| byte.is_ascii_digit());
            let seq = seq.parse().ok().filter(|seq| digits && *seq > 0)?;
            Some(RequestId { session: session.parse().ok()?, seq })
        };
        parse().ok_or_else(|| RequestIdError(text.chars().take(64).collect()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_name_reads_back_and_nothing_else_is_one() {
        let name = RequestId { session: SessionId([0xab; 16]), seq: 7 };
        assert_eq!(name.to_string(), format!("{}:7", "ab".repeat(16)));
        assert_eq!(name.to_string().parse::<RequestId>().unwrap(), name);
        for wrong in ["", ":", "ab:1", &format!("{}:", "ab".repeat(16)), &format!("{}:0", "ab".repeat(16))] {
            assert!(wrong.parse::<RequestId>().is_err(), "{wrong}");
        }
        assert!(format!("{}:+7", "ab".repeat(16)).parse::<RequestId>().is_err());
        assert!(format!("{}:7x", "ab".repeat(16)).parse::<RequestId>().is_err());
    }
}

//! The header of a message: who asks which broker, and where in its session.

use std::fmt;
use std::str::FromStr;

/// Which of the three shapes a message has; a reply comes in its request's shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// MessagePack arrays: `[version, id, broker, session, seq, ack, got, op-or-ops]`.
    Compact,
    /// MessagePack maps, or a bare array of maps.
    Map,
    /// JSON objects, or a bare array of objects.
    Json,
}

/// The uuid of a broker's log, as the header and Hello name it.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BrokerId(pub [u8; 16]);

/// A session id: the birth stamp (ms, 8 bytes big-endian) and 8 random bytes.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub [u8; 16]);

/// A text that is not a uuid or session id of 32 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not 32 hexadecimal digits: {0:?}")]
pub struct IdTextError(pub String);

impl SessionId {
    /// The session born at `stamp_ms` with the given random bytes.
    pub fn new(stamp_ms: u64, entropy: u64) -> SessionId {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&stamp_ms.to_be_bytes());
        bytes[8..].copy_from_slice(&entropy.to_be_bytes());
        SessionId(bytes)
    }

    /// The stamp of the session's birth, milliseconds.
    pub fn born_ms(self) -> u64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.0[..8]);
        u64::from_be_bytes(bytes)
    }
}

fn parse_hex16(text: &str) -> Result<[u8; 16], IdTextError> {
    let wrong = || IdTextError(text.chars().take(64).collect());
    let mut bytes = [0; 16];
    let mut digits = text.chars().filter(|c| *c != '-');
    for byte in &mut bytes {
        let mut digit = || digits.next().and_then(|c| c.to_digit(16)).ok_or_else(wrong);
        *byte = (digit()? << 4 | digit()?) as u8;
    }
    if digits.next().is_some() {
        return Err(wrong());
    }
    Ok(bytes)
}

/// Writes at most 16 bytes. Each `hello` has three ids: digit by digit through a formatter they would be half of its cost.
fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0; 32];
    for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 0xf)];
    }
    f.write_str(std::str::from_utf8(&text[..2 * bytes.len()]).expect("hexadecimal digits are ASCII"))
}

impl FromStr for BrokerId {
    type Err = IdTextError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_hex16(text).map(BrokerId)
    }
}

impl FromStr for SessionId {
    type Err = IdTextError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_hex16(text).map(SessionId)
    }
}

impl fmt::Display for BrokerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, part) in [&self.0[..4], &self.0[4..6], &self.0[6..8], &self.0[8..10], &self.0[10..]].iter().enumerate() {
            if index > 0 {
                f.write_str("-")?;
            }
            write_hex(f, part)?;
        }
        Ok(())
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for BrokerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BrokerId({self})")
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({self})")
    }
}

/// What stands beside the operations of a message. Everything is optional for plain clients.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Echoed in the reply; correlates pipelined requests.
    pub id: Option<u64>,
    /// The broker the client means to talk to.
    pub broker: Option<BrokerId>,
    /// The client's session.
    pub session: Option<SessionId>,
    /// The number of the message's first mutation in its session.
    pub seq: Option<u64>,
    /// Replies to mutations up to this number were read.
    pub ack: Option<u64>,
    /// The highest `id` whose reply was read. Nothing depends on it: what a client says of itself is no bound.
    pub got: Option<u64>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ids_read_back_from_their_text() {
        let broker = BrokerId([0x1f; 16]);
        assert_eq!(broker.to_string(), "1f1f1f1f-1f1f-1f1f-1f1f-1f1f1f1f1f1f");
        assert_eq!(broker.to_string().parse::<BrokerId>().unwrap(), broker);
        let session = SessionId::new(0x0102, 0x0304);
        assert_eq!(session.to_string(), "00000000000001020000000000000304");
        assert_eq!(session.to_string().parse::<SessionId>().unwrap(), session);
        assert_eq!(session.born_ms(), 0x0102);
        assert!("12".parse::<SessionId>().is_err());
        assert!("zz".repeat(16).parse::<SessionId>().is_err());
        assert!("00".repeat(17).parse::<BrokerId>().is_err());
    }
}

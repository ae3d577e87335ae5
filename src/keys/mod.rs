//! Keys: the owner's secret, and the keys of projects derived from it.
//!
//! An owner has one secret key, made when a first broker starts and kept in one small text
//! file. It serves twice: as the CURVE key pair with which the owner's programs
//! show who they are, and as the key from which the key pair of each of the
//! owner's projects is derived. So every broker of a project has the same
//! identity wherever it runs, and the owner's clients compute which public key
//! to expect instead of trusting the first one they meet. `docs/decisions/0002-keys.md`
//! gives the derivation byte for byte.
//!
//! - The secret file is readable by its owner alone; looser modes are refused.
//! - It appears whole or not at all: it is written beside its place and linked
//!   there with link(2). Of two first starts on one shared home directory one
//!   wins; the other reads the winner's.
//! - Secret bytes are wiped when dropped, and `Debug` never shows them.
//! - Text forms say what they are: `kvpub1…` may be shown to anyone, `kvsec1…` to no one.
//!
//! Caveat: libzmq copies a secret key into its sockets and doesn't wipe that
//! copy; [`keep_secrets_out_of_core_files`] covers what the kernel would write out.

use std::fmt;
use std::io;
use std::str::FromStr;

use blake2::Blake2bMac;
use blake2::digest::consts::U32;
use blake2::digest::{KeyInit, Mac};
use kvbroker_protocol::UserKey;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::project::ProjectName;
use crate::transport::{self, TransportError};

mod file;

pub use file::{KeyFileError, OWNER_KEY_FILE, load_key_file, load_or_create_owner_key, load_owner_key};
pub(crate) use file::{check_directory, check_or_create_directory, link_or_rename};

/// Bytes of a CURVE key, public or secret.
pub const KEY_BYTES: usize = 32;

/// What stands in front of the hex digits of a public key.
pub const PUBLIC_KEY_PREFIX: &str = "kvpub1";

/// What stands in front of the hex digits of a secret key.
pub const SECRET_KEY_PREFIX: &str = "kvsec1";

/// First part of the text that is hashed for a project's key; the zero byte
/// ends it, so that no project name can run into it.
const PROJECT_KEY_CONTEXT: &[u8] = b"kvbroker project key 1\0";

/// A CURVE public key; its text form is `kvpub1` and 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; KEY_BYTES]);

/// A CURVE secret key, wiped when dropped; its text form is `kvsec1` and 64 hex digits.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct SecretKey([u8; KEY_BYTES]);

/// A secret key and the public key that belongs to it.
#[derive(Clone, Debug)]
pub struct KeyPair {
    secret: SecretKey,
    public: PublicKey,
}

/// Why a text is not a key. The text itself is never repeated: it may be a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyTextError {
    /// A secret key stands where a public one belongs.
    #[error(
        "it is a secret key (kvsec1…), and now others may have seen it: replace it by a new one; a public key (kvpub1…) belongs here"
    )]
    Secret,
    /// It doesn't start with the expected prefix.
    #[error("a key of this kind starts with {expected} and this text doesn't")]
    Prefix {
        /// `kvpub1` or `kvsec1`.
        expected: &'static str,
    },
    /// Not exactly 64 hex digits after the prefix.
    #[error("{expected} must be followed by exactly 64 hex digits")]
    Digits {
        /// `kvpub1` or `kvsec1`.
        expected: &'static str,
    },
}

impl PublicKey {
    /// Takes raw bytes; every 32 bytes are a possible public key.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }

    /// The raw bytes, as CURVE and ZAP use them.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// The 64 hex digits without prefix (as in User-Ids).
    #[must_use]
    pub fn to_hex(&self) -> String {
        hex(&self.0)
    }
}

impl From<UserKey> for PublicKey {
    fn from(key: UserKey) -> Self {
        Self(*key.as_bytes())
    }
}

impl From<PublicKey> for UserKey {
    fn from(key: PublicKey) -> Self {
        UserKey::from_bytes(key.0)
    }
}

impl FromStr for PublicKey {
    type Err = KeyTextError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_key(text, PUBLIC_KEY_PREFIX).map(|bytes| Self(*bytes))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PUBLIC_KEY_PREFIX}{}", hex(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl SecretKey {
    /// Draws a new secret key.
    ///
    /// # Errors
    /// The operating system has no random bytes to give.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut key = Self([0; KEY_BYTES]);
        getrandom::fill(&mut key.0)?;
        Ok(key)
    }

    /// Takes raw bytes; every 32 bytes are a possible secret key (Curve25519
    /// clamps them when it uses them). The caller wipes its own copy.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }

    /// The raw bytes. Not for printing.
    #[must_use]
    pub const fn expose_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// The text form for the key file. Not for printing anywhere else.
    #[must_use]
    pub fn expose_text(&self) -> Zeroizing<String> {
        // Exactly as long as needed: growing would leave copies of the digits behind.
        let mut text = Zeroizing::new(String::with_capacity(SECRET_KEY_PREFIX.len() + 64));
        text.push_str(SECRET_KEY_PREFIX);
        push_hex(&mut text, &self.0);
        text
    }

    /// Derives the secret key of this owner's project: keyed BLAKE2b-256, the
    /// key being this secret, over a context text, a zero byte and the name.
    #[must_use]
    pub fn project_secret(&self, project: &ProjectName) -> SecretKey {
        let mut mac =
            Blake2bMac::<U32>::new_from_slice(&self.0).expect("BLAKE2b takes keys of 1 to 64 bytes, and this one has 32");
        mac.update(PROJECT_KEY_CONTEXT);
        mac.update(project.as_str().as_bytes());
        let mut out = mac.finalize().into_bytes();
        let mut secret = SecretKey([0; KEY_BYTES]);
        secret.0.copy_from_slice(&out);
        out.as_mut_slice().zeroize();
        secret
    }

    /// Reads the text form.
    ///
    /// # Errors
    /// It isn't one; the error doesn't repeat it.
    pub fn from_text(text: &str) -> Result<Self, KeyTextError> {
        parse_key(text, SECRET_KEY_PREFIX).map(|bytes| Self(*bytes))
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(not shown)")
    }
}

impl KeyPair {
    /// Computes the public key that belongs to `secret`.
    ///
    /// # Errors
    /// [`TransportError::NoCurve`] when libzmq was built without CURVE.
    pub fn from_secret(secret: SecretKey) -> Result<Self, TransportError> {
        let public = PublicKey(transport::curve_public(secret.expose_bytes())?);
        Ok(Self { secret, public })
    }

    /// Draws a new pair.
    ///
    /// # Errors
    /// No random bytes, or a libzmq without CURVE.
    pub fn generate() -> Result<Self, KeyFileError> {
        Ok(Self::from_secret(SecretKey::generate()?)?)
    }

    /// The public half.
    #[must_use]
    pub const fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The secret half.
    #[must_use]
    pub const fn secret(&self) -> &SecretKey {
        &self.secret
    }

    /// The key pair of this owner's project: what its brokers prove, and whose
    /// public half its clients expect.
    ///
    /// # Errors
    /// As [`KeyPair::from_secret`].
    pub fn project(&self, project: &ProjectName) -> Result<KeyPair, TransportError> {
        Self::from_secret(self.secret.project_secret(project))
    }
}

/// Asks the kernel not to write this process's memory to core files, whoever
/// collects them. Call it before the first secret is read.
///
/// As a side effect other processes of the same user can no longer attach a
/// debugger or read `/proc/PID/mem` and `/proc/PID/fd`.
///
/// # Errors
/// The kernel refused.
pub fn keep_secrets_out_of_core_files() -> io::Result<()> {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

fn parse_key(text: &str, expected: &'static str) -> Result<Zeroizing<[u8; KEY_BYTES]>, KeyTextError> {
    if expected == PUBLIC_KEY_PREFIX && text.starts_with(SECRET_KEY_PREFIX) {
        return Err(KeyTextError::Secret);
    }
    let digits = text.strip_prefix(expected).ok_or(KeyTextError::Prefix { expected })?.as_bytes();
    if digits.len() != 2 * KEY_BYTES {
        return Err(KeyTextError::Digits { expected });
    }
    let mut bytes = Zeroizing::new([0; KEY_BYTES]);
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let [high, low] = pair else { continue };
        let (Some(high), Some(low)) = (hex_value(*high), hex_value(*low)) else {
            return Err(KeyTextError::Digits { expected });
        };
        *byte = high << 4 | low;
    }
    Ok(bytes)
}

fn hex_value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    push_hex(&mut text, bytes);
    text
}

fn push_hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        for nibble in [byte >> 4, byte & 15] {
            text.push(char::from_digit(nibble.into(), 16).expect("a nibble is below 16"));
        }
    }
}

#[cfg(test)]
mod tests;

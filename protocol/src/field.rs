//! One field of a request in either encoding, read as what its operation needs.

use crate::access::{Role, UserKey};
use crate::error::Failure;
use crate::json::{Token as Json, Walker};
use crate::limits;
use crate::msgpack::{Cursor, Malformed, Token as Pack};
use crate::operation::Pattern;
use crate::predicate::{Predicate, Scalar};
use crate::value::{Key, Stored, ValueKind, key_from_json};

/// The bytes of one value inside a body that was checked whole.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Raw<'a> {
    Pack(&'a [u8]),
    Json(&'a str),
}

impl From<Malformed> for Failure {
    fn from(error: Malformed) -> Failure {
        Failure::invalid(error.to_string())
    }
}

impl<'a> Raw<'a> {
    fn pack_token(bytes: &'a [u8]) -> Result<Pack<'a>, Failure> {
        Ok(Cursor::new(bytes).token()?)
    }

    pub(crate) fn is_null(self) -> bool {
        match self {
            Raw::Pack(bytes) => bytes == [0xc0],
            Raw::Json(text) => text == "null",
        }
    }

    pub(crate) fn key(self, name: &str) -> Result<Key, Failure> {
        let key = match self {
            Raw::Pack(bytes) => match Self::pack_token(bytes)? {
                Pack::Str(text) => text.as_bytes().to_vec(),
                Pack::Bin(bytes) => bytes.to_vec(),
                _ => return Err(Failure::invalid(format!("`{name}` must be a str or bin"))),
            },
            Raw::Json(text) => key_from_json(text)
                .map_err(|_| Failure::invalid(format!("`{name}` must be a string or {{\"$bytes\":\"base64\"}}")))?,
        };
        if key.len() > limits::KEY_BYTES_MAX {
            return Err(Failure::limit(format!("`{name}` has {} bytes; at most {} are taken", key.len(), limits::KEY_BYTES_MAX)));
        }
        Ok(key)
    }

    pub(crate) fn text(self, name: &str) -> Result<String, Failure> {
        let text = match self {
            Raw::Pack(bytes) => match Self::pack_token(bytes)? {
                Pack::Str(text) => Some(text.to_owned()),
                _ => None,
            },
            Raw::Json(text) => match Walker::new(text).token()? {
                Json::Str(text) => Some(text.into_owned()),
                _ => None,
            },
        };
        text.ok_or_else(|| Failure::invalid(format!("`{name}` must be a text")))
    }

    pub(crate) fn uint(self, name: &str) -> Result<u64, Failure> {
        let number = match self {
            Raw::Pack(bytes) => match Self::pack_token(bytes)? {
                Pack::UInt(value) => Some(value),
                _ => None,
            },
            Raw::Json(text) => text.parse().ok(),
        };
        number.ok_or_else(|| Failure::invalid(format!("`{name}` must be a whole number from 0 to 2^64-1")))
    }

    pub(crate) fn int(self, name: &str) -> Result<i64, Failure> {
        let number = match self {
            Raw::Pack(bytes) => match Self::pack_token(bytes)? {
                Pack::UInt(value) => i64::try_from(value).ok(),
                Pack::Int(value) => Some(value),
                _ => None,
            },
            Raw::Json(text) => text.parse().ok(),
        };
        number.ok_or_else(|| Failure::invalid(format!("`{name}` must be a whole number from -2^63 to 2^63-1")))
    }

    /// An array of keys, at least one.
    pub(crate) fn keys(self, name: &str) -> Result<Vec<Key>, Failure> {
        let keys = self.key_list(name, limits::ARRAY_OPERATIONS_MAX)?;
        if keys.is_empty() {
            return Err(Failure::invalid(format!("`{name}` must be an array of at least one key")));
        }
        Ok(keys)
    }

    /// An array of key prefixes, at least one: an empty list would be read as nothing by some and as everything by others.
    pub(crate) fn prefixes(self, name: &str) -> Result<Vec<Key>, Failure> {
        let prefixes = self.key_list(name, limits::GRANT_PREFIXES_MAX)?;
        if prefixes.is_empty() {
            let message = format!("`{name}` must be an array of at least one key prefix; leave it out for every key");
            return Err(Failure::invalid(message));
        }
        Ok(prefixes)
    }

    fn key_list(self, name: &str, most: usize) -> Result<Vec<Key>, Failure> {
        let mut keys = Vec::new();
        let mut take = |raw: Raw<'_>| {
            if keys.len() == most {
                return Err(Failure::limit(format!("`{name}` holds at most {most} keys")));
            }
            keys.push(raw.key(name).map_err(|failure| {
                let place = format!("`{name}[{}]`", keys.len());
                Failure::new(failure.code, failure.message.replacen(&format!("`{name}`"), &place, 1))
            })?);
            Ok(())
        };
        self.each_element(&mut take)?;
        Ok(keys)
    }

    /// Calls `take` for each element of an array; false if this is none.
    pub(crate) fn each_element(self, mut take: impl FnMut(Raw<'a>) -> Result<(), Failure>) -> Result<bool, Failure> {
        match self {
            Raw::Pack(bytes) => {
                let mut cursor = Cursor::new(bytes);
                let Pack::Array(length) = cursor.token()? else { return Ok(false) };
                for _ in 0..length {
                    take(Raw::Pack(cursor.raw()?))?;
                }
            }
            Raw::Json(text) => {
                let mut walker = Walker::new(text);
                if walker.token()? != Json::Array {
                    return Ok(false);
                }
                while walker.more_elements() {
                    take(Raw::Json(walker.raw()?))?;
                }
            }
        }
        Ok(true)
    }

    pub(crate) fn boolean(self, name: &str) -> Result<bool, Failure> {
        let value = match self {
            Raw::Pack(bytes) => match Self::pack_token(bytes)? {
                Pack::Bool(value) => Some(value),
                _ => None,
            },
            Raw::Json(text) => text.parse().ok(),
        };
        value.ok_or_else(|| Failure::invalid(format!("`{name}` must be true or false")))
    }

    /// An id of 16 bytes: bin in MessagePack, 32 hexadecimal digits as text in either encoding.
    pub(crate) fn id16<T: From16>(self, name: &str) -> Result<T, Failure> {
        if let Raw::Pack(bytes) = self
            && let Pack::Bin(bytes) = Self::pack_token(bytes)?
        {
            let id = bytes.try_into().map_err(|_| Failure::invalid(format!("`{name}` as bin has 16 bytes")))?;
            return Ok(T::from16(id));
        }
        self.text(name)?
            .parse()
            .map_err(|_| Failure::invalid(format!("`{name}` must be 32 hexadecimal digits, or 16 bytes of bin")))
    }

    /// A user's public key. The refusal never repeats the text: it may be a secret.
    pub(crate) fn user_key(self, name: &str) -> Result<UserKey, Failure> {
        self.text(name)?.parse().map_err(|error| Failure::invalid(format!("`{name}`: {error}")))
    }

    pub(crate) fn role(self, name: &str) -> Result<Role, Failure> {
        let names = Role::ALL.map(Role::name).join(", ");
        Role::from_name(&self.text(name)?).ok_or_else(|| Failure::invalid(format!("`{name}` must be one of {names}")))
    }

    pub(crate) fn stored(self) -> Result<Stored, Failure> {
        match self {
            Raw::Pack(bytes) => Stored::checked(ValueKind::MessagePack, bytes),
            Raw::Json(text) => Stored::checked(ValueKind::Json, text.as_bytes()),
        }
    }

    pub(crate) fn scalar(self) -> Result<Scalar, Failure> {
        match self {
            Raw::Pack(bytes) => Scalar::from_msgpack(bytes),
            Raw::Json(text) => Scalar::from_json(text),
        }
    }

    pub(crate) fn predicate(self, name: &str) -> Result<Predicate, Failure> {
        Predicate::new(&self.text(name)?)
    }

    pub(crate) fn pattern(self, name: &str) -> Result<Pattern, Failure> {
        Pattern::new(&self.text(name)?)
    }
}

/// An id made of 16 bytes.
pub(crate) trait From16: std::str::FromStr {
    fn from16(bytes: [u8; 16]) -> Self;
}

impl From16 for crate::BrokerId {
    fn from16(bytes: [u8; 16]) -> Self {
        crate::BrokerId(bytes)
    }
}

impl From16 for crate::SessionId {
    fn from16(bytes: [u8; 16]) -> Self {
        crate::SessionId(bytes)
    }
}

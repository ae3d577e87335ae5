//! A bounded reader of MessagePack (<https://github.com/msgpack/msgpack/blob/master/spec.md>).
//!
//! - [`check`] walks one value once and refuses what this protocol does not carry: text that is not UTF-8, a map with one key
//!   twice, nesting over the bound, the reserved byte 0xc1, and lengths past the end.
//! - Nothing is allocated for a length that a message merely claims.

use rmp::Marker;

/// Why bytes are not a MessagePack value of this protocol, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} at byte {offset}")]
pub(crate) struct Malformed {
    pub(crate) what: &'static str,
    pub(crate) offset: usize,
}

/// One value's head; the elements of containers follow in the cursor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Token<'a> {
    Nil,
    Bool(bool),
    UInt(u64),
    /// Negative only.
    Int(i64),
    Float(f64),
    Str(&'a str),
    Bin(&'a [u8]),
    Ext(i8, &'a [u8]),
    Array(usize),
    Map(usize),
}

pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Cursor { bytes, at: 0 }
    }

    pub(crate) fn offset(&self) -> usize {
        self.at
    }

    /// Goes back (or on) to an offset that [`Cursor::offset`] gave.
    pub(crate) fn seek(&mut self, offset: usize) {
        self.at = offset;
    }

    fn wrong(&self, what: &'static str) -> Malformed {
        Malformed { what, offset: self.at }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or_else(|| self.wrong("the message ends inside a MessagePack value"))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    fn length8(&mut self) -> Result<usize, Malformed> {
        Ok(usize::from(u8::from_be_bytes(self.number()?)))
    }

    fn length16(&mut self) -> Result<usize, Malformed> {
        Ok(usize::from(u16::from_be_bytes(self.number()?)))
    }

    fn length32(&mut self) -> Result<usize, Malformed> {
        usize::try_from(u32::from_be_bytes(self.number()?)).map_err(|_| self.wrong("a length too large for this machine"))
    }

    fn text(&mut self, length: usize) -> Result<Token<'a>, Malformed> {
        let offset = self.at;
        let text = std::str::from_utf8(self.take(length)?);
        text.map(Token::Str).map_err(|_| Malformed { what: "a str that is not UTF-8 (send bytes as bin)", offset })
    }

    fn ext(&mut self, length: usize) -> Result<Token<'a>, Malformed> {
        let kind = i8::from_be_bytes(self.number()?);
        Ok(Token::Ext(kind, self.take(length)?))
    }

    fn signed(value: i64) -> Token<'a> {
        u64::try_from(value).map_or(Token::Int(value), Token::UInt)
    }

    /// Reads one value's head; for scalars the whole value.
    pub(crate) fn token(&mut self) -> Result<Token<'a>, Malformed> {
        let marker = Marker::from_u8(self.take(1)?[0]);
        Ok(match marker {
            Marker::FixPos(value) => Token::UInt(u64::from(value)),
            Marker::FixNeg(value) => Token::Int(i64::from(value)),
            Marker::Null => Token::Nil,
            Marker::True => Token::Bool(true),
            Marker::False => Token::Bool(false),
            Marker::U8 => Token::UInt(u64::from(u8::from_be_bytes(self.number()?))),
            Marker::U16 => Token::UInt(u64::from(u16::from_be_bytes(self.number()?))),
            Marker::U32 => Token::UInt(u64::from(u32::from_be_bytes(self.number()?))),
            Marker::U64 => Token::UInt(u64::from_be_bytes(self.number()?)),
            Marker::I8 => Self::signed(i64::from(i8::from_be_bytes(self.number()?))),
            Marker::I16 => Self::signed(i64::from(i16::from_be_bytes(self.number()?))),
            Marker::I32 => Self::signed(i64::from(i32::from_be_bytes(self.number()?))),
            Marker::I64 => Self::signed(i64::from_be_bytes(self.number()?)),
            Marker::F32 => Token::Float(f64::from(f32::from_be_bytes(self.number()?))),
            Marker::F64 => Token::Float(f64::from_be_bytes(self.number()?)),
            Marker::FixStr(length) => self.text(usize::from(length))?,
            Marker::Str8 => self.length8().and_then(|length| self.text(length))?,
            Marker::Str16 => self.length16().and_then(|length| self.text(length))?,
            Marker::Str32 => self.length32().and_then(|length| self.text(length))?,
            Marker::Bin8 => self.length8().and_then(|length| self.take(length)).map(Token::Bin)?,
            Marker::Bin16 => self.length16().and_then(|length| self.take(length)).map(Token::Bin)?,
            Marker::Bin32 => self.length32().and_then(|length| self.take(length)).map(Token::Bin)?,
            Marker::FixExt1 => self.ext(1)?,
            Marker::FixExt2 => self.ext(2)?,
            Marker::FixExt4 => self.ext(4)?,
            Marker::FixExt8 => self.ext(8)?,
            Marker::FixExt16 => self.ext(16)?,
            Marker::Ext8 => self.length8().and_then(|length| self.ext(length))?,
            Marker::Ext16 => self.length16().and_then(|length| self.ext(length))?,
            Marker::Ext32 => self.length32().and_then(|length| self.ext(length))?,
            Marker::FixArray(length) => Token::Array(usize::from(length)),
            Marker::Array16 => Token::Array(self.length16()?),
            Marker::Array32 => Token::Array(self.length32()?),
            Marker::FixMap(length) => Token::Map(usize::from(length)),
            Marker::Map16 => Token::Map(self.length16()?),
            Marker::Map32 => Token::Map(self.length32()?),
            Marker::Reserved => {
                self.at -= 1;
                return Err(self.wrong("the reserved MessagePack byte 0xc1"));
            }
        })
    }

    /// Passes over one value and returns its bytes. For bytes that [`check`] has accepted.
    pub(crate) fn raw(&mut self) -> Result<&'a [u8], Malformed> {
        let start = self.at;
        let mut open: usize = 1;
        while open > 0 {
            open -= 1;
            match self.token()? {
                Token::Array(length) => open = open.saturating_add(length),
                Token::Map(length) => open = open.saturating_add(length.saturating_mul(2)),
                _ => {}
            }
        }
        Ok(&self.bytes[start..self.at])
    }

    /// Passes over one value that may be anything, nested at most so deep.
    pub(crate) fn check_value(&mut self, depth_left: usize) -> Result<(), Malformed> {
        let start = self.at;
        let nest =
            |what: &Self| depth_left.checked_sub(1).ok_or(Malformed { what: "nested deeper than 100 levels", offset: what.at });
        match self.token()? {
            Token::Array(length) => {
                let depth_left = nest(self)?;
                for _ in 0..length {
                    self.check_value(depth_left)?;
                }
            }
            Token::Map(length) => {
                let depth_left = nest(self)?;
                // A claimed length is not trusted with memory: the vector grows with the keys that are really there.
                let mut keys: Vec<KeyIdentity<'a>> = Vec::new();
                for _ in 0..length {
                    let key_start = self.at;
                    let token = self.token()?;
                    let key = match KeyIdentity::of_scalar(token) {
                        Some(key) => key,
                        None => {
                            self.at = key_start;
                            self.check_value(depth_left)?;
                            KeyIdentity::Container(&self.bytes[key_start..self.at])
                        }
                    };
                    keys.push(key);
                    self.check_value(depth_left)?;
                }
                if has_twins(&mut keys) {
                    return Err(Malformed { what: "a map with the same key twice", offset: start });
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// What makes two map keys the same key, whatever width they were written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum KeyIdentity<'a> {
    Nil,
    Bool(bool),
    Int(i128),
    Float(u64),
    Str(&'a str),
    Bin(&'a [u8]),
    Ext(i8, &'a [u8]),
    Container(&'a [u8]),
}

impl<'a> KeyIdentity<'a> {
    fn of_scalar(token: Token<'a>) -> Option<Self> {
        Some(match token {
            Token::Nil => KeyIdentity::Nil,
            Token::Bool(value) => KeyIdentity::Bool(value),
            Token::UInt(value) => KeyIdentity::Int(i128::from(value)),
            Token::Int(value) => KeyIdentity::Int(i128::from(value)),
            Token::Float(value) => KeyIdentity::Float(value.to_bits()),
            Token::Str(text) => KeyIdentity::Str(text),
            Token::Bin(bytes) => KeyIdentity::Bin(bytes),
            Token::Ext(kind, bytes) => KeyIdentity::Ext(kind, bytes),
            Token::Array(_) | Token::Map(_) => return None,
        })
    }
}

pub(crate) fn has_twins<T: Ord>(keys: &mut [T]) -> bool {
    if keys.len() <= 8 {
        return (1..keys.len()).any(|at| keys[..at].contains(&keys[at]));
    }
    keys.sort_unstable();
    keys.windows(2).any(|pair| pair[0] == pair[1])
}

/// Checks that `bytes` are exactly one value, nested at most `depth_max` containers deep.
pub(crate) fn check(bytes: &[u8], depth_max: usize) -> Result<(), Malformed> {
    let length = checked_length(bytes, depth_max)?;
    if length < bytes.len() {
        return Err(Malformed { what: "bytes after the MessagePack value", offset: length });
    }
    Ok(())
}

/// Checks the value that `bytes` begin with, and says how long it is.
pub(crate) fn checked_length(bytes: &[u8], depth_max: usize) -> Result<usize, Malformed> {
    let mut cursor = Cursor::new(bytes);
    cursor.check_value(depth_max)?;
    Ok(cursor.offset())
}

/// Writing to a `Vec` cannot fail: the helpers below keep rmp's `io::Error` out of the callers.
pub(crate) mod write {
    use rmp::encode;

    const VEC: &str = "writing to a Vec cannot fail";

    pub(crate) fn nil(out: &mut Vec<u8>) {
        encode::write_nil(out).expect(VEC);
    }
    pub(crate) fn boolean(out: &mut Vec<u8>, value: bool) {
        encode::write_bool(out, value).expect(VEC);
    }
    pub(crate) fn uint(out: &mut Vec<u8>, value: u64) {
        encode::write_uint(out, value).expect(VEC);
    }
    pub(crate) fn int(out: &mut Vec<u8>, value: i64) {
        encode::write_sint(out, value).expect(VEC);
    }
    /// An integer of 64 bits, signed or not. Anything beyond becomes the nearest float: callers check the range.
    pub(crate) fn integer(out: &mut Vec<u8>, value: i128) {
        match (u64::try_from(value), i64::try_from(value)) {
            (Ok(value), _) => uint(out, value),
            (_, Ok(value)) => int(out, value),
            _ => float(out, value as f64),
        }
    }
    pub(crate) fn float(out: &mut Vec<u8>, value: f64) {
        encode::write_f64(out, value).expect(VEC);
    }
    pub(crate) fn text(out: &mut Vec<u8>, value: &str) {
        encode::write_str(out, value).expect(VEC);
    }
    pub(crate) fn bytes(out: &mut Vec<u8>, value: &[u8]) {
        encode::write_bin(out, value).expect(VEC);
    }
    pub(crate) fn ext(out: &mut Vec<u8>, kind: i8, value: &[u8]) {
        encode::write_ext_meta(out, value.len() as u32, kind).expect(VEC);
        out.extend_from_slice(value);
    }
    pub(crate) fn array(out: &mut Vec<u8>, length: usize) {
        encode::write_array_len(out, length as u32).expect(VEC);
    }
    pub(crate) fn map(out: &mut Vec<u8>, length: usize) {
        encode::write_map_len(out, length as u32).expect(VEC);
    }
    /// A key as its text where it is UTF-8, otherwise as bytes.
    pub(crate) fn key(out: &mut Vec<u8>, key: &[u8]) {
        match std::str::from_utf8(key) {
            Ok(key) => text(out, key),
            Err(_) => bytes(out, key),
        }
    }
    /// Nil or the number.
    pub(crate) fn optional_uint(out: &mut Vec<u8>, value: Option<u64>) {
        optional(out, value, uint);
    }
    /// Nil, or what `some` writes.
    pub(crate) fn optional<T>(out: &mut Vec<u8>, value: Option<T>, some: impl FnOnce(&mut Vec<u8>, T)) {
        match value {
            None => nil(out),
            Some(value) => some(out, value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_truncation_is_malformed_and_none_panics() {
        let mut body = Vec::new();
        write::map(&mut body, 2);
        write::text(&mut body, "a");
        write::array(&mut body, 3);
        write::float(&mut body, 1.5);
        write::ext(&mut body, 7, &[1; 16]);
        write::int(&mut body, -70_000);
        write::bytes(&mut body, b"k");
        write::uint(&mut body, u64::MAX);
        assert_eq!(check(&body, 100), Ok(()));
        for length in 0..body.len() {
            assert!(check(&body[..length], 100).is_err(), "{length}");
        }
    }

    #[test]
    fn claimed_lengths_do_not_allocate() {
        assert!(check(&[0xdd, 0xff, 0xff, 0xff, 0xff], 100).is_err());
        assert!(check(&[0xdf, 0xff, 0xff, 0xff, 0xff], 100).is_err());
        assert!(check(&[0xc6, 0xff, 0xff, 0xff, 0xff, 1], 100).is_err());
    }

    #[test]
    fn depth_is_counted_in_containers() {
        let nested = |depth: usize| [vec![0x91; depth], vec![0xc0]].concat();
        assert_eq!(check(&nested(100), 100), Ok(()));
        assert!(check(&nested(101), 100).is_err());
    }

    #[test]
    fn twins_are_found_across_widths_and_in_large_maps() {
        assert!(check(&[0x82, 0x01, 0xc0, 0xcc, 0x01, 0xc0], 9).is_err());
        let mut body = Vec::new();
        write::map(&mut body, 100);
        for key in (0..99).chain([42]) {
            write::uint(&mut body, key);
            write::nil(&mut body);
        }
        assert!(check(&body, 9).is_err());
    }
}

//! The value of a table record: `type byte, document, [created u64 LE], [expires u64 LE], flags`.
//!
//! The flags stand last, so that a decoded value becomes a record by appending to it. Bit 0: `created` is present; without it the
//! key came into being at the record's own revision. Bit 1: `expires` is present, the key's deadline in milliseconds of the stamp.
//! All other bits are 0.

use kvbroker_protocol::Stored;

const FLAG_CREATED: u8 = 1;
const FLAG_EXPIRES: u8 = 2;
const FLAGS_KNOWN: u8 = FLAG_CREATED | FLAG_EXPIRES;

/// A table record's parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableRecord<'a> {
    /// Type byte and document.
    pub stored: &'a [u8],
    /// The revision at which the key came into being, where it is not the record's own.
    pub created: Option<u64>,
    /// The stamp's time from which on the key is to be removed, milliseconds; None: it stays.
    pub expires_ms: Option<u64>,
}

/// Makes the record of a value whose key came into being at `created` (None: with this very change) and is due at `expires_ms`.
pub(crate) fn table_record(value: Stored, created: Option<u64>, expires_ms: Option<u64>) -> Vec<u8> {
    let mut record = value.into_bytes();
    let mut flags = 0;
    for (number, flag) in [(created, FLAG_CREATED), (expires_ms, FLAG_EXPIRES)] {
        if let Some(number) = number {
            record.extend_from_slice(&number.to_le_bytes());
            flags |= flag;
        }
    }
    record.push(flags);
    record
}

/// Splits a table record; None if the bytes are not one.
pub fn split_table_record(record: &[u8]) -> Option<TableRecord<'_>> {
    let (&flags, rest) = record.split_last()?;
    if flags & !FLAGS_KNOWN != 0 {
        return None;
    }
    // From the back: what was appended last comes off first.
    let (rest, expires_ms) = split_number(rest, flags & FLAG_EXPIRES != 0)?;
    let (stored, created) = split_number(rest, flags & FLAG_CREATED != 0)?;
    matches!(stored.first(), Some(1 | 2)).then_some(TableRecord { stored, created, expires_ms })
}

/// Takes a number off the end, if there is one; None if there should be one and is not.
fn split_number(bytes: &[u8], is_there: bool) -> Option<(&[u8], Option<u64>)> {
    if !is_there {
        return Some((bytes, None));
    }
    let (rest, number) = bytes.split_last_chunk::<8>()?;
    Some((rest, Some(u64::from_le_bytes(*number))))
}

impl TableRecord<'_> {
    /// The value as it was written.
    pub(crate) fn value(&self) -> Stored {
        Stored::from_bytes(self.stored.to_vec()).expect("split_table_record checked the type byte")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn records_split_into_what_they_were_made_of() {
        for created in [None, Some(0x0102_0304_0506_0708)] {
            for expires_ms in [None, Some(0x1112_1314_1516_1718)] {
                let value = Stored::text("zebra").unwrap();
                let record = table_record(value.clone(), created, expires_ms);
                let split = split_table_record(&record).unwrap();
                assert_eq!((split.value(), split.created, split.expires_ms), (value, created, expires_ms));
            }
        }
        for bad in [&b""[..], b"\0", b"\x03x\0", b"\x01x\x04", b"\x01234567\x01", b"\x01234567\x02", b"\x01234567\x01234567\x03"]
        {
            assert_eq!(split_table_record(bad), None);
        }
    }

    #[test]
    fn the_bytes_are_those_that_docs_storage_describes() {
        let value = || Stored::from_json(b"7").unwrap();
        assert_eq!(table_record(value(), None, None), b"\x027\0");
        assert_eq!(table_record(value(), Some(5), None), b"\x027\x05\0\0\0\0\0\0\0\x01");
        assert_eq!(table_record(value(), None, Some(6)), b"\x027\x06\0\0\0\0\0\0\0\x02");
        let both = b"\x027\x05\0\0\0\0\0\0\0\x06\0\0\0\0\0\0\0\x03";
        assert_eq!(table_record(value(), Some(5), Some(6)), both);
    }
}

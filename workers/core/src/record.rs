//! The value of a table record: `type byte, document, [created u64 LE], flags`.
//!
//! The flags stand last, so that a decoded value becomes a record by appending to it. Bit 0: `created` is present; without it the
//! key came into being at the record's own revision. All other bits are 0.

use kvbroker_protocol::Stored;

const FLAG_CREATED: u8 = 1;

/// A table record's parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableRecord<'a> {
    /// Type byte and document.
    pub stored: &'a [u8],
    /// The revision at which the key came into being, where it is not the record's own.
    pub created: Option<u64>,
}

/// Makes the record of a value whose key came into being at `created` (None: with this very change).
pub(crate) fn table_record(value: Stored, created: Option<u64>) -> Vec<u8> {
    let mut record = value.into_bytes();
    match created {
        None => record.push(0),
        Some(created) => {
            record.extend_from_slice(&created.to_le_bytes());
            record.push(FLAG_CREATED);
        }
    }
    record
}

/// Splits a table record; None if the bytes are not one.
pub fn split_table_record(record: &[u8]) -> Option<TableRecord<'_>> {
    let (&flags, rest) = record.split_last()?;
    let (stored, created) = match flags {
        0 => (rest, None),
        FLAG_CREATED => {
            let (stored, created) = rest.split_last_chunk::<8>()?;
            (stored, Some(u64::from_le_bytes(*created)))
        }
        _ => return None,
    };
    matches!(stored.first(), Some(1 | 2)).then_some(TableRecord { stored, created })
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
            let value = Stored::text("zebra").unwrap();
            let record = table_record(value.clone(), created);
            let split = split_table_record(&record).unwrap();
            assert_eq!((split.value(), split.created), (value, created));
        }
        for bad in [&b""[..], b"\0", b"\x03x\0", b"\x01x\x02", b"\x01234567\x01"] {
            assert_eq!(split_table_record(bad), None);
        }
    }
}

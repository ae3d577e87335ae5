//! The layout against its description in `docs/storage.md`, and against bytes written once and for all.
#![allow(clippy::unwrap_used)]

use super::*;

/// Rows of the first table behind `heading` whose first two columns are numbers: (offset, bytes, field).
pub(crate) fn documented(heading: &str) -> Vec<(usize, usize, String)> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/storage.md");
    let text = std::fs::read_to_string(path).unwrap();
    let section = text.split(&format!("### {heading}\n")).nth(1).unwrap().split("\n#").next().unwrap();
    let rows: Vec<_> = section
        .lines()
        .filter_map(|line| {
            let mut columns = line.strip_prefix('|')?.split('|').map(str::trim);
            Some((columns.next()?.parse().ok()?, columns.next()?.parse().ok()?, columns.next()?.to_owned()))
        })
        .collect();
    // No byte is missing or described twice.
    for pair in rows.windows(2) {
        assert_eq!(pair[0].0 + pair[0].1, pair[1].0, "{heading}: {pair:?}");
    }
    rows
}

/// Fields in order; each ends where the next one starts, the last one at `end`.
pub(crate) fn fields(end: usize, starts: &[(usize, &str)]) -> Vec<(usize, usize, String)> {
    let ends = starts.iter().skip(1).map(|&(start, _)| start).chain([end]);
    starts.iter().zip(ends).map(|(&(start, name), end)| (start, end - start, name.to_owned())).collect()
}

#[test]
fn the_documented_layout_is_the_one_in_the_code() {
    let segment = [
        (SEGMENT_MAGIC_AT, "magic"),
        (SEGMENT_VERSION_AT, "version"),
        (SEGMENT_HEADER_BYTES_AT, "header_bytes"),
        (SEGMENT_UUID_AT, "uuid"),
        (SEGMENT_EPOCH_AT, "epoch"),
        (SEGMENT_SALT_AT, "salt"),
        (SEGMENT_NUMBER_AT, "number"),
        (SEGMENT_FIRST_SEQUENCE_AT, "first_sequence"),
        (SEGMENT_BASE_REVISION_AT, "base_revision"),
        (SEGMENT_STAMP_AT, "stamp_ms"),
        (SEGMENT_PREVIOUS_CRC_AT, "previous_crc"),
        (SEGMENT_REASON_AT, "reason"),
        (SEGMENT_MODE_AT, "mode"),
        (SEGMENT_RESERVED_AT, "reserved"),
        (SEGMENT_CRC_AT, "crc"),
    ];
    assert_eq!(documented("Segment header"), fields(SEGMENT_HEADER_BYTES, &segment));
    let batch = [
        (BATCH_MAGIC_AT, "magic"),
        (BATCH_KIND_AT, "kind"),
        (BATCH_MODE_AT, "mode"),
        (BATCH_RESERVED_AT, "reserved"),
        (BATCH_SALT_AT, "salt"),
        (BATCH_WRITER_AT, "writer"),
        (BATCH_SEQUENCE_AT, "sequence"),
        (BATCH_SYNCED_THROUGH_AT, "synced_through"),
        (BATCH_FIRST_REVISION_AT, "first_revision"),
        (BATCH_STAMP_AT, "stamp_ms"),
        (BATCH_OFFSET_AT, "offset"),
        (BATCH_PAYLOAD_BYTES_AT, "payload_bytes"),
        (BATCH_GROUPS_AT, "groups"),
        (BATCH_PREVIOUS_CRC_AT, "previous_crc"),
        (BATCH_PAYLOAD_CRC_AT, "payload_crc"),
        (BATCH_CRC_AT, "crc"),
    ];
    assert_eq!(documented("Batch header"), fields(BATCH_HEADER_BYTES, &batch));
    let group = [
        (GROUP_BODY_BYTES_AT, "body_bytes"),
        (GROUP_RECORDS_AT, "records"),
        (GROUP_REVISION_AT, "revision"),
        (GROUP_CAUSE_AT, "cause"),
        (GROUP_FLAGS_AT, "flags"),
        (GROUP_RESERVED_AT, "reserved"),
    ];
    assert_eq!(documented("Group"), fields(GROUP_HEADER_BYTES, &group));
    let mark = [
        (MARK_MAGIC_AT, "magic"),
        (MARK_VERSION_AT, "version"),
        (MARK_RESERVED_AT, "reserved"),
        (MARK_UUID_AT, "uuid"),
        (MARK_SEQUENCE_AT, "sequence"),
        (MARK_SEGMENT_AT, "segment"),
        (MARK_CRC_AT, "crc"),
    ];
    assert_eq!(documented("Mark"), fields(MARK_BYTES, &mark));
}

fn header() -> SegmentHeader {
    SegmentHeader {
        uuid: Uuid::from_bytes([3; 16]),
        epoch: 4,
        salt: 5,
        number: 6,
        first_sequence: 7,
        base_revision: 8,
        stamp_ms: 9,
        previous_crc: 10,
        reason: SegmentReason::Full as u8,
        mode: 1,
    }
}

#[test]
fn headers_survive_a_round_trip_and_no_flipped_bit() {
    let mut block = header().encode();
    assert_eq!(SegmentHeader::decode(&block), Ok(header()));
    assert_eq!(SegmentHeader::decode(&block[..4095]), Err(SegmentFault::Short));
    for at in 0..block.len() {
        block[at] ^= 0x10;
        assert!(SegmentHeader::decode(&block).is_err(), "byte {at}");
        block[at] ^= 0x10;
    }
    let mut batch = BatchHeader {
        kind: 1,
        mode: 2,
        reserved: 0,
        salt: 3,
        writer: 4,
        sequence: 5,
        synced_through: 4,
        first_revision: 7,
        stamp_ms: 8,
        offset: 4096,
        payload_bytes: 10,
        groups: 1,
        previous_crc: 11,
        payload_crc: 12,
        crc: 0,
    };
    let mut bytes = [0; BATCH_HEADER_BYTES];
    batch.encode_into(&mut bytes);
    assert_eq!(BatchHeader::decode(&bytes, 3, 4096), Some(batch));
    assert_eq!(BatchHeader::decode(&bytes, 4, 4096), None, "another segment's");
    assert_eq!(BatchHeader::decode(&bytes, 3, 4097), None, "moved");
    for at in 0..bytes.len() {
        bytes[at] ^= 0x10;
        assert_eq!(BatchHeader::decode(&bytes, 3, 4096), None, "byte {at}");
        bytes[at] ^= 0x10;
    }
}

#[test]
fn only_names_that_this_program_gives_are_segments() {
    assert_eq!(segment_name(42), "table.txn.00000042");
    assert_eq!(segment_number("table.txn.00000042"), Some(42));
    assert_eq!(segment_number(&segment_name(1_234_567_890)), Some(1_234_567_890));
    for name in ["table.txn.42", "table.txn.000000042", "table.txn.00000000", "table.txn.+0000042", "table.txn.", "table.ckpt"] {
        assert_eq!(segment_number(name), None, "{name}");
    }
}

//! The layout against its description in `docs/storage.md`.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::format::tests::{documented, fields};

#[test]
fn the_documented_layout_is_the_one_in_the_code() {
    let header = [
        (CHECKPOINT_MAGIC_AT, "magic"),
        (CHECKPOINT_VERSION_AT, "version"),
        (CHECKPOINT_HEADER_BYTES_AT, "header_bytes"),
        (CHECKPOINT_UUID_AT, "uuid"),
        (CHECKPOINT_SALT_AT, "salt"),
        (CHECKPOINT_NEXT_SEGMENT_AT, "next_segment"),
        (CHECKPOINT_NEXT_SEQUENCE_AT, "next_sequence"),
        (CHECKPOINT_REVISION_AT, "revision"),
        (CHECKPOINT_STAMP_AT, "stamp_ms"),
        (CHECKPOINT_PREVIOUS_CRC_AT, "previous_crc"),
        (CHECKPOINT_RESERVED_AT, "reserved"),
        (CHECKPOINT_CRC_AT, "crc"),
    ];
    assert_eq!(documented("Checkpoint header"), fields(CHECKPOINT_HEADER_BYTES, &header));
    let block = [
        (BLOCK_MAGIC_AT, "magic"),
        (BLOCK_KIND_AT, "kind"),
        (BLOCK_RESERVED_AT, "reserved"),
        (BLOCK_SALT_AT, "salt"),
        (BLOCK_OFFSET_AT, "offset"),
        (BLOCK_PAYLOAD_BYTES_AT, "payload_bytes"),
        (BLOCK_RECORDS_AT, "records"),
        (BLOCK_PREVIOUS_CRC_AT, "previous_crc"),
        (BLOCK_PAYLOAD_CRC_AT, "payload_crc"),
        (BLOCK_CRC_AT, "crc"),
    ];
    assert_eq!(documented("Checkpoint block"), fields(BLOCK_HEADER_BYTES, &block));
    let record = [(RECORD_KEY_BYTES_AT, "key_bytes"), (RECORD_VALUE_BYTES_AT, "value_bytes"), (RECORD_REVISION_AT, "revision")];
    assert_eq!(documented("Checkpoint record"), fields(RECORD_HEADER_BYTES, &record));
    let end = [
        (END_RECORDS_AT, "records"),
        (END_BYTES_AT, "bytes"),
        (END_DIGEST_AT, "digest"),
        (END_UUID_AT, "uuid"),
        (END_NEXT_SEGMENT_AT, "next_segment"),
        (END_NEXT_SEQUENCE_AT, "next_sequence"),
        (END_REVISION_AT, "revision"),
        (END_STAMP_AT, "stamp_ms"),
        (END_PREVIOUS_CRC_AT, "previous_crc"),
    ];
    assert_eq!(documented("Checkpoint end"), fields(END_PAYLOAD_BYTES, &end));
}

#[test]
fn headers_survive_a_round_trip_and_no_flipped_bit() {
    let covers =
        Covers { uuid: Uuid::from_bytes([3; 16]), next_segment: 4, next_sequence: 5, revision: 6, stamp_ms: 7, previous_crc: 8 };
    let header = CheckpointHeader { salt: 9, covers };
    let mut bytes = header.encode();
    assert_eq!(CheckpointHeader::decode(&bytes), Ok(header));
    for at in 0..bytes.len() {
        bytes[at] ^= 0x10;
        assert!(CheckpointHeader::decode(&bytes).is_err(), "byte {at}");
        bytes[at] ^= 0x10;
    }
    let end = CheckpointEnd { totals: Totals { records: 1, bytes: 2, digest: 3 }, covers };
    assert_eq!(CheckpointEnd::decode(&end.encode()), Some(end));
    let mut block = BlockHeader {
        kind: 1,
        reserved: [0; 3],
        salt: 2,
        offset: 4096,
        payload_bytes: 3,
        records: 4,
        previous_crc: 5,
        payload_crc: 6,
        crc: 0,
    };
    let mut bytes = [0; BLOCK_HEADER_BYTES];
    block.encode_into(&mut bytes);
    assert_eq!(BlockHeader::decode(&bytes, 2, 4096), Some(block));
    assert_eq!(BlockHeader::decode(&bytes, 3, 4096), None, "another file's");
    assert_eq!(BlockHeader::decode(&bytes, 2, 4097), None, "moved");
    for at in 0..bytes.len() {
        bytes[at] ^= 0x10;
        assert_eq!(BlockHeader::decode(&bytes, 2, 4096), None, "byte {at}");
        bytes[at] ^= 0x10;
    }
}

#[test]
fn a_record_is_read_back_as_it_was_and_a_delete_only_from_a_run() {
    let mut bytes = Vec::new();
    push_record(&mut bytes, b"key", Some(b"value"), 7);
    push_record(&mut bytes, b"", None, 8);
    let (record, rest) = split_record(&bytes).unwrap();
    assert_eq!((record.key, record.value, record.revision), (&b"key"[..], &b"value"[..], 7));
    assert!(split_record(rest).is_none());
    assert_eq!(split_run_record(rest).unwrap(), (RunRecord { key: b"", value: None, revision: 8 }, &b""[..]));
    assert_eq!(split_run_record(&bytes).unwrap().0, RunRecord { key: b"key", value: Some(b"value"), revision: 7 });
    for short in 0..record_bytes(b"key", b"value") {
        assert!(split_record(&bytes[..short]).is_none() && split_run_record(&bytes[..short]).is_none());
    }
}

//! [`BatchBuilder`]: encodes a batch straight into the one buffer that is written to disk.
//!
//! - Room for the batch header stands in front, so that header and payload leave in one write.
//! - The buffer is kept between batches; a record costs no allocation of its own.
//! - A rule broken by the caller (a record without a group, a revision out of order) is remembered and refused by
//!   [`Log::append`](crate::Log::append), before anything is written.

use crate::format::{
    BATCH_HEADER_BYTES, GROUP_FLAG_SESSION, GROUP_HEADER_BYTES, MAX_BATCH_BYTES, RECORD_DELETE, RECORD_PUT,
    RECORD_PUT_HEADER_BYTES, put_at,
};
use crate::payload::{Cause, GroupRef, Groups, SessionRef};

/// One batch under construction; reused from batch to batch.
#[derive(Clone, Debug)]
pub struct BatchBuilder {
    /// Header room, then the payload.
    buffer: Vec<u8>,
    stamp_ms: u64,
    groups: u32,
    records: u32,
    /// Start of the open group and the records in it.
    open: Option<(usize, u32)>,
    /// Revision before the first group, known from that group.
    base_revision: Option<u64>,
    last_revision: Option<u64>,
    error: Option<String>,
}

impl Default for BatchBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl BatchBuilder {
    /// An empty batch with stamp 0.
    pub fn new() -> Self {
        Self {
            buffer: vec![0; BATCH_HEADER_BYTES],
            stamp_ms: 0,
            groups: 0,
            records: 0,
            open: None,
            base_revision: None,
            last_revision: None,
            error: None,
        }
    }

    /// Forgets everything but the buffer. A buffer that one huge batch blew up is given back.
    pub fn clear(&mut self) {
        const KEEP_BYTES: usize = 16 << 20;
        self.buffer.truncate(BATCH_HEADER_BYTES);
        self.buffer.shrink_to(KEEP_BYTES);
        self.stamp_ms = 0;
        self.groups = 0;
        self.records = 0;
        self.open = None;
        self.base_revision = None;
        self.last_revision = None;
        self.error = None;
    }

    /// Starts a new batch: clears and sets the stamp, wall-clock ms, which must not be less than the stamp of the batch before.
    pub fn begin(&mut self, stamp_ms: u64) {
        self.clear();
        self.stamp_ms = stamp_ms;
    }

    /// Starts a group. `revision` is the last one + 1, or for [`Cause::Bookkeeping`] the last one again.
    pub fn group(&mut self, revision: u64, cause: Cause, session: Option<SessionRef>) {
        self.finish_group();
        let base = if cause.takes_revision() { revision.wrapping_sub(1) } else { revision };
        if cause.takes_revision() && revision == 0 || self.last_revision.is_some_and(|last| last != base) {
            self.refuse(format!("a group of revision {revision} follows revision {:?}", self.last_revision));
        }
        self.base_revision.get_or_insert(base);
        self.last_revision = Some(revision);
        self.groups += 1;
        let start = self.buffer.len();
        self.open = Some((start, 0));
        self.buffer.extend_from_slice(&[0; 8]);
        self.buffer.extend_from_slice(&revision.to_le_bytes());
        let flags = if session.is_some() { GROUP_FLAG_SESSION } else { 0 };
        self.buffer.extend_from_slice(&[cause as u8, flags, 0, 0]);
        if let Some(session) = session {
            self.buffer.extend_from_slice(&session.id);
            self.buffer.extend_from_slice(&session.sequence.to_le_bytes());
        }
    }

    /// Adds a put to the open group.
    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        self.put_in(&[], key, value);
    }

    /// Adds a delete to the open group.
    pub fn delete(&mut self, key: &[u8]) {
        self.delete_in(&[], key);
    }

    /// Adds a put of a key that comes in two parts, and need not be put together before.
    pub fn put_in(&mut self, space: &[u8], key: &[u8], value: &[u8]) {
        let (Some(key_bytes), Some(value_bytes)) = (self.count_record(space, key), self.length(value.len())) else { return };
        let mut head = [RECORD_PUT; RECORD_PUT_HEADER_BYTES];
        head[1..5].copy_from_slice(&key_bytes.to_le_bytes());
        head[5..].copy_from_slice(&value_bytes.to_le_bytes());
        self.buffer.reserve(head.len() + space.len() + key.len() + value.len());
        self.buffer.extend_from_slice(&head);
        self.buffer.extend_from_slice(space);
        self.buffer.extend_from_slice(key);
        self.buffer.extend_from_slice(value);
    }

    /// Adds a delete of a key that comes in two parts.
    pub fn delete_in(&mut self, space: &[u8], key: &[u8]) {
        let Some(key_bytes) = self.count_record(space, key) else { return };
        self.buffer.push(RECORD_DELETE);
        self.buffer.extend_from_slice(&key_bytes.to_le_bytes());
        self.buffer.extend_from_slice(space);
        self.buffer.extend_from_slice(key);
    }

    /// True if the batch has no group: there is nothing to append.
    pub fn is_empty(&self) -> bool {
        self.groups == 0
    }

    /// The last group's revision.
    pub fn last_revision(&self) -> Option<u64> {
        self.last_revision
    }

    /// The batch's stamp, wall-clock ms.
    pub fn stamp_ms(&self) -> u64 {
        self.stamp_ms
    }

    /// Bytes that the batch takes in the log so far, header included. To be kept below [`MAX_BATCH_BYTES`].
    pub fn bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Gives every group so far to `visitor`, in order: for a log that stands around another one and wants to know what passes.
    ///
    /// # Errors
    /// Which rule the caller broke; [`Log::append`](crate::Log::append) will refuse the batch.
    pub fn visit(&mut self, visitor: &mut dyn FnMut(GroupRef<'_>)) -> Result<(), String> {
        let stamp_ms = self.stamp_ms;
        let finished = self.finish()?;
        Groups::new(finished.payload(), stamp_ms).for_each(visitor);
        Ok(())
    }

    fn count_record(&mut self, space: &[u8], key: &[u8]) -> Option<u32> {
        let length = self.length(space.len() + key.len())?;
        let Some((_, records)) = &mut self.open else {
            self.refuse("a record stands outside of a group".to_owned());
            return None;
        };
        *records += 1;
        self.records += 1;
        Some(length)
    }

    fn length(&mut self, bytes: usize) -> Option<u32> {
        // Checked before the copy, so that a batch out of bounds doesn't grow further. 64 is more than any header.
        if bytes + self.buffer.len() + 64 > MAX_BATCH_BYTES {
            self.refuse(format!("it is larger than {MAX_BATCH_BYTES} bytes"));
            return None;
        }
        Some(u32::try_from(bytes).expect("it is below MAX_BATCH_BYTES"))
    }

    fn refuse(&mut self, why: String) {
        self.error.get_or_insert(why);
    }

    fn finish_group(&mut self) {
        if let Some((start, records)) = self.open.take() {
            let body = self.buffer.len() - start - GROUP_HEADER_BYTES;
            let body = u32::try_from(body).expect("it is below MAX_BATCH_BYTES");
            put_at(&mut self.buffer, start, &body.to_le_bytes());
            put_at(&mut self.buffer, start + 4, &records.to_le_bytes());
        }
    }

    /// Completes the last group and gives what the log needs; `Err` says which rule the caller broke.
    pub(crate) fn finish(&mut self) -> Result<Finished<'_>, String> {
        self.finish_group();
        if self.buffer.len() > MAX_BATCH_BYTES {
            self.refuse(format!("it is larger than {MAX_BATCH_BYTES} bytes"));
        }
        match &self.error {
            Some(error) => Err(error.clone()),
            None => Ok(Finished {
                stamp_ms: self.stamp_ms,
                groups: self.groups,
                records: self.records,
                base_revision: self.base_revision,
                last_revision: self.last_revision,
                buffer: &mut self.buffer,
            }),
        }
    }
}

/// A completed batch, about to get its header.
#[derive(Debug)]
pub(crate) struct Finished<'a> {
    pub stamp_ms: u64,
    pub groups: u32,
    pub records: u32,
    pub base_revision: Option<u64>,
    pub last_revision: Option<u64>,
    /// Header room, then the payload.
    pub buffer: &'a mut [u8],
}

impl Finished<'_> {
    pub fn payload(&self) -> &[u8] {
        &self.buffer[BATCH_HEADER_BYTES..]
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::payload::{PayloadFault, RecordRef, validate};

    fn sample() -> BatchBuilder {
        let mut batch = BatchBuilder::new();
        batch.begin(7);
        batch.group(5, Cause::Request, Some(SessionRef { id: [9; 16], sequence: 3 }));
        batch.put(b"k", b"value");
        batch.delete(b"gone");
        batch.group(5, Cause::Bookkeeping, None);
        batch.group(6, Cause::Expiry, None);
        batch.put(b"", b"");
        batch
    }

    #[test]
    fn the_bytes_are_these_and_read_back() {
        let mut batch = sample();
        assert_eq!((batch.last_revision(), batch.stamp_ms()), (Some(6), 7));
        let finished = batch.finish().unwrap();
        assert_eq!((finished.base_revision, finished.groups, finished.records), (Some(4), 3, 3));
        let mut expected = vec![];
        expected.extend([48, 0, 0, 0, 2, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0]);
        expected.extend([9; 16]);
        expected.extend([3, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend(b"\x01\x01\0\0\0\x05\0\0\0kvalue");
        expected.extend(b"\x02\x04\0\0\0gone");
        expected.extend([0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0]);
        expected.extend([9, 0, 0, 0, 1, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0]);
        expected.extend(b"\x01\0\0\0\0\0\0\0\0");
        assert_eq!(finished.payload(), expected);
        let summary = validate(&expected, 3, 4).unwrap();
        assert_eq!((summary.last_revision, summary.records), (6, 3));
        let groups: Vec<_> = Groups::new(&expected, 7).collect();
        assert_eq!((groups[0].revision, groups[1].cause, groups[2].stamp_ms), (5, Cause::Bookkeeping, 7));
        let records: Vec<_> = groups[0].records().collect();
        assert_eq!(records, [RecordRef::Put { key: b"k", value: b"value" }, RecordRef::Delete { key: b"gone" }]);
    }

    #[test]
    fn no_payload_that_is_wrong_gets_past_the_check() {
        let mut batch = sample();
        let payload = batch.finish().unwrap().payload().to_vec();
        assert!(validate(&payload, 2, 4).is_err() && validate(&payload, 4, 4).is_err() && validate(&payload, 3, 5).is_err());
        assert!(matches!(validate(&[], 1, 0), Err(PayloadFault::Malformed(_))));
        for length in 0..payload.len() {
            assert!(validate(&payload[..length], 3, 4).is_err(), "cut at {length}");
        }
        // Whatever passes can be walked to its end.
        for at in 0..payload.len() {
            for mask in 1..=255u8 {
                let mut bytes = payload.clone();
                bytes[at] ^= mask;
                if validate(&bytes, 3, 4).is_ok() {
                    assert_eq!(Groups::new(&bytes, 0).map(|group| group.records().count()).sum::<usize>(), 3);
                }
            }
        }
        let mut newer = payload.clone();
        newer[16] = 77;
        assert_eq!(validate(&newer, 3, 4), Err(PayloadFault::Newer("a group of cause 77".to_owned())));
    }

    #[test]
    fn a_caller_that_breaks_the_rules_is_told_so_at_the_end() {
        let refused = |build: &dyn Fn(&mut BatchBuilder)| {
            let mut batch = BatchBuilder::new();
            build(&mut batch);
            let error = batch.finish().unwrap_err();
            batch.begin(1);
            assert!(batch.is_empty() && batch.finish().is_ok(), "begin forgets the error");
            error
        };
        assert!(refused(&|batch| batch.put(b"k", b"v")).contains("outside of a group"));
        assert!(
            refused(&|batch| {
                batch.group(1, Cause::Request, None);
                batch.group(3, Cause::Request, None);
            })
            .contains("revision 3")
        );
        assert!(refused(&|batch| batch.group(0, Cause::Request, None)).contains("revision 0"));
        assert!(
            refused(&|batch| {
                batch.group(1, Cause::Request, None);
                batch.group(2, Cause::Bookkeeping, None);
            })
            .contains("revision 2")
        );
        assert!(
            refused(&|batch| {
                batch.group(1, Cause::Request, None);
                let value = vec![0; MAX_BATCH_BYTES / 2];
                batch.put(b"k", &value);
                batch.put(b"k", &value);
            })
            .contains("larger")
        );
    }
}

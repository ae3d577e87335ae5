//! Groups and records as a reader sees them: views into a batch's payload.
//!
//! - [`validate`] walks a payload once; afterwards the iterators can't meet anything malformed.
//! - Nothing is copied: keys and values are slices of the batch.

use crate::format::{
    GROUP_BODY_BYTES_AT, GROUP_CAUSE_AT, GROUP_FLAG_SESSION, GROUP_FLAGS_AT, GROUP_HEADER_BYTES, GROUP_RECORDS_AT,
    GROUP_RESERVED_AT, GROUP_REVISION_AT, GROUP_SESSION_BYTES, RECORD_DELETE, RECORD_DELETE_HEADER_BYTES, RECORD_PUT,
    RECORD_PUT_HEADER_BYTES, array_at, u16_at, u32_at, u64_at,
};

/// Why a group of records was logged. One byte on disk; a value that this program doesn't know is a newer format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Cause {
    /// A client's request.
    Request = 1,
    /// A time to live that ran out.
    Expiry = 2,
    /// Remembered failures, acknowledgements, floors, meta: repeats the last revision and makes no event.
    Bookkeeping = 3,
    /// A change the broker made on its own, such as giving a dead consumer's items back.
    Internal = 4,
}

impl Cause {
    /// The cause that `byte` stands for.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Request,
            2 => Self::Expiry,
            3 => Self::Bookkeeping,
            4 => Self::Internal,
            _ => return None,
        })
    }

    /// True if a group of this cause takes a revision of its own.
    pub fn takes_revision(self) -> bool {
        self != Self::Bookkeeping
    }
}

/// The session and sequence number under which a group was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionRef {
    /// The session's id.
    pub id: [u8; 16],
    /// The mutation's number in the session.
    pub sequence: u64,
}

/// All records of one revision (or, for bookkeeping, beside it).
#[derive(Clone, Copy, Debug)]
pub struct GroupRef<'a> {
    /// The group's revision; for bookkeeping the last one before it.
    pub revision: u64,
    /// Why it was logged.
    pub cause: Cause,
    /// Under which session and number, if any.
    pub session: Option<SessionRef>,
    /// Stamp of its batch, wall-clock ms.
    pub stamp_ms: u64,
    records: u32,
    body: &'a [u8],
}

impl<'a> GroupRef<'a> {
    /// The records in the order in which they were appended.
    pub fn records(&self) -> Records<'a> {
        Records { left: self.records, rest: self.body }
    }
}

/// One put or delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordRef<'a> {
    /// The record now has this value.
    Put {
        /// Record key.
        key: &'a [u8],
        /// Record value.
        value: &'a [u8],
    },
    /// The record is gone.
    Delete {
        /// Record key.
        key: &'a [u8],
    },
}

/// Iterator over a group's records.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    left: u32,
    rest: &'a [u8],
}

impl<'a> Iterator for Records<'a> {
    type Item = RecordRef<'a>;

    fn next(&mut self) -> Option<RecordRef<'a>> {
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        let (record, rest) = split_record(self.rest).expect("the payload was validated");
        self.rest = rest;
        Some(record)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left as usize, Some(self.left as usize))
    }
}

impl ExactSizeIterator for Records<'_> {}

/// Why a payload whose checksum is right can't be used.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum PayloadFault {
    /// A byte with a meaning that this program doesn't know.
    Newer(String),
    /// Contents that no writer makes.
    Malformed(&'static str),
}

/// What [`validate`] learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PayloadSummary {
    pub last_revision: u64,
    pub records: u64,
}

/// Walks `payload`, which must hold exactly `groups` groups that go on from `base_revision`.
pub(crate) fn validate(payload: &[u8], groups: u32, base_revision: u64) -> Result<PayloadSummary, PayloadFault> {
    let mut rest = payload;
    let mut summary = PayloadSummary { last_revision: base_revision, records: 0 };
    for _ in 0..groups {
        let (group, after) = split_group(rest, 0)?;
        let expected = summary.last_revision.checked_add(u64::from(group.cause.takes_revision()));
        if Some(group.revision) != expected {
            return Err(PayloadFault::Malformed("a revision is missing or doubled"));
        }
        summary.last_revision = group.revision;
        let mut body = group.body;
        for _ in 0..group.records {
            body = split_record(body)?.1;
        }
        if !body.is_empty() {
            return Err(PayloadFault::Malformed("bytes are left after a group's last record"));
        }
        summary.records += u64::from(group.records);
        rest = after;
    }
    if rest.is_empty() { Ok(summary) } else { Err(PayloadFault::Malformed("bytes are left after the last group")) }
}

/// Iterator over the groups of a validated payload.
#[derive(Clone, Debug)]
pub(crate) struct Groups<'a> {
    rest: &'a [u8],
    stamp_ms: u64,
}

impl<'a> Groups<'a> {
    /// `payload` must have passed [`validate`].
    pub fn new(payload: &'a [u8], stamp_ms: u64) -> Self {
        Self { rest: payload, stamp_ms }
    }
}

impl<'a> Iterator for Groups<'a> {
    type Item = GroupRef<'a>;

    fn next(&mut self) -> Option<GroupRef<'a>> {
        if self.rest.is_empty() {
            return None;
        }
        let (group, rest) = split_group(self.rest, self.stamp_ms).expect("the payload was validated");
        self.rest = rest;
        Some(group)
    }
}

const SHORT: PayloadFault = PayloadFault::Malformed("a group or record is longer than its batch");

fn split_group(bytes: &[u8], stamp_ms: u64) -> Result<(GroupRef<'_>, &[u8]), PayloadFault> {
    let (head, rest) = bytes.split_at_checked(GROUP_HEADER_BYTES).ok_or(SHORT)?;
    let cause = head[GROUP_CAUSE_AT];
    let cause = Cause::from_byte(cause).ok_or_else(|| PayloadFault::Newer(format!("a group of cause {cause}")))?;
    let flags = head[GROUP_FLAGS_AT];
    if flags & !GROUP_FLAG_SESSION != 0 || u16_at(head, GROUP_RESERVED_AT) != 0 {
        return Err(PayloadFault::Newer(format!("a group with flags {flags:#04x}")));
    }
    let (mut body, rest) = rest.split_at_checked(u32_at(head, GROUP_BODY_BYTES_AT) as usize).ok_or(SHORT)?;
    let mut session = None;
    if flags & GROUP_FLAG_SESSION != 0 {
        let (fields, after) = body.split_at_checked(GROUP_SESSION_BYTES).ok_or(SHORT)?;
        session = Some(SessionRef { id: array_at(fields, 0), sequence: u64_at(fields, 16) });
        body = after;
    }
    let (records, revision) = (u32_at(head, GROUP_RECORDS_AT), u64_at(head, GROUP_REVISION_AT));
    Ok((GroupRef { revision, cause, session, stamp_ms, records, body }, rest))
}

fn split_record(bytes: &[u8]) -> Result<(RecordRef<'_>, &[u8]), PayloadFault> {
    match bytes.first() {
        None => Err(SHORT),
        Some(&RECORD_PUT) => {
            let (head, rest) = bytes.split_at_checked(RECORD_PUT_HEADER_BYTES).ok_or(SHORT)?;
            let (key, rest) = rest.split_at_checked(u32_at(head, 1) as usize).ok_or(SHORT)?;
            let (value, rest) = rest.split_at_checked(u32_at(head, 5) as usize).ok_or(SHORT)?;
            Ok((RecordRef::Put { key, value }, rest))
        }
        Some(&RECORD_DELETE) => {
            let (head, rest) = bytes.split_at_checked(RECORD_DELETE_HEADER_BYTES).ok_or(SHORT)?;
            let (key, rest) = rest.split_at_checked(u32_at(head, 1) as usize).ok_or(SHORT)?;
            Ok((RecordRef::Delete { key }, rest))
        }
        Some(kind) => Err(PayloadFault::Newer(format!("a record of kind {kind}"))),
    }
}

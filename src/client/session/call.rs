//! One operation on its way: encoded once, so that each attempt sends the same bytes.

use std::time::Instant;

use kvbroker_protocol::limits::MESSAGE_BYTES_MAX;
use kvbroker_protocol::{
    Expect, Failure, Operation, Outcome, QueueExpect, QueueOperation, RoutingOperation, Stored, encode_get, encode_operation,
    encode_put,
};

/// What a header takes at most, with room to spare.
pub(super) const HEADER_BYTES: usize = 128;

/// What an operation takes beside its key and value, with room to spare.
const SHORT_BYTES: usize = 24;

/// An operation of at most so many bytes lies with others in one piece of memory. A longer one has its own, and is not copied.
pub(super) const LYING_BYTES_MAX: usize = 1_024;

/// How well an operation gets on with others in an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Company {
    /// Its answer is small.
    Any,
    /// Its answer has a value, which takes room in the array's reply.
    Reads,
    /// Its answer, or the value that it writes again, may be so large that nothing else may have taken room before it.
    First,
    /// It goes by itself: it uses up a turn's work, or is answered at another time.
    None,
}

/// An operation as it is sent, with what its answer looks like.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The operation as it is sent. Empty: it lies among others, where the call is.
    pub(super) body: Vec<u8>,
    /// Its length.
    length: usize,
    pub(super) expect: Expect,
    pub(super) mutation: bool,
    pub(super) weight: usize,
    pub(super) regexes: usize,
    pub(super) company: Company,
}

impl Asked {
    /// Encodes an operation.
    ///
    /// # Errors
    /// `limit`: it does not fit into a message.
    pub fn new(operation: &Operation) -> Result<Asked, Failure> {
        let mut body = Vec::with_capacity(SHORT_BYTES);
        encode_operation(operation, &mut body);
        check(&body)?;
        Ok(Asked {
            length: body.len(),
            body,
            expect: operation.expects(),
            mutation: operation.is_mutation(),
            weight: operation.weight().max(1),
            regexes: operation.regexes(),
            company: company(operation),
        })
    }

    /// As [`Asked::new`] with a get of this key, which need not be copied first. A short one is written into `lying`.
    pub(crate) fn get(key: &[u8], lying: &mut Vec<u8>) -> Result<Asked, Failure> {
        let (body, length) = write(key.len(), lying, |body| encode_get(key, body))?;
        Ok(Asked { body, length, expect: Expect::Value, mutation: false, weight: 1, regexes: 0, company: Company::Reads })
    }

    /// As [`Asked::new`] with a put without conditions. A short one is written into `lying`.
    pub(crate) fn put(key: &[u8], value: &Stored, lying: &mut Vec<u8>) -> Result<Asked, Failure> {
        let (body, length) = write(key.len() + value.as_bytes().len(), lying, |body| encode_put(key, value, body))?;
        Ok(Asked { body, length, expect: Expect::Done, mutation: true, weight: 1, regexes: 0, company: Company::Any })
    }

    /// True if its bytes lie among those of others.
    pub(crate) fn lies(&self) -> bool {
        self.body.is_empty()
    }

    pub(super) fn noop() -> Asked {
        Asked::new(&Operation::Noop).expect("a noop has a few bytes")
    }

    /// True if the broker is to wait for changes before it answers.
    pub(super) fn waits(&self) -> bool {
        matches!(self.expect, Expect::Events(1..) | Expect::Queue(QueueExpect::Pulled(1..) | QueueExpect::Tracked(1..)))
    }

    /// Its length on the wire, bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.length
    }
}

/// The body of an operation, empty if it is in `lying`, where nothing else is; and its length.
fn write(content_bytes: usize, lying: &mut Vec<u8>, encode: impl FnOnce(&mut Vec<u8>)) -> Result<(Vec<u8>, usize), Failure> {
    lying.clear();
    if content_bytes + SHORT_BYTES <= LYING_BYTES_MAX {
        encode(lying);
        return Ok((Vec::new(), lying.len()));
    }
    let mut body = Vec::with_capacity(content_bytes + SHORT_BYTES);
    encode(&mut body);
    check(&body)?;
    let length = body.len();
    Ok((body, length))
}

const _: () =
    assert!(16 * LYING_BYTES_MAX + HEADER_BYTES <= MESSAGE_BYTES_MAX, "what lies is never too long, however it is encoded");

fn check(body: &[u8]) -> Result<(), Failure> {
    let bytes = body.len() + HEADER_BYTES;
    if bytes > MESSAGE_BYTES_MAX {
        return Err(Failure::limit(format!("the request has {bytes} bytes; at most {MESSAGE_BYTES_MAX} are taken")));
    }
    Ok(())
}

fn company(operation: &Operation) -> Company {
    match operation {
        Operation::Get { .. } => Company::Reads,
        Operation::Mget { .. } | Operation::Del { return_old: true, .. } => Company::First,
        // They write the value again, however large, and an array has a bound for that.
        Operation::Expire { .. } | Operation::Persist { .. } => Company::First,
        Operation::Queue(queue) => match queue.as_ref() {
            // What is dead may be written again, with its value.
            QueueOperation::Nack { .. } | QueueOperation::Bury { .. } => Company::First,
            QueueOperation::Pull(_)
            | QueueOperation::Kick { .. }
            | QueueOperation::Purge { .. }
            | QueueOperation::Peek { .. }
            | QueueOperation::Track { .. }
            | QueueOperation::Queues { .. } => Company::None,
            _ => Company::Any,
        },
        Operation::Routing(routing) => match routing.as_ref() {
            // Its copies are written for it, however many there are.
            RoutingOperation::Publish(_) => Company::First,
            RoutingOperation::Bindings { .. } => Company::None,
            RoutingOperation::Bind { .. } | RoutingOperation::Unbind { .. } => Company::Any,
        },
        Operation::Txn(txn) if txn.operations().any(|inner| company(inner) != Company::Any) => Company::First,
        Operation::Converted(_)
        | Operation::Conversion(_)
        | Operation::Scan(_)
        | Operation::Query { .. }
        | Operation::List(_)
        | Operation::History { .. }
        | Operation::Authorize { .. }
        | Operation::Revoke { .. }
        | Operation::Who
        | Operation::Events(_)
        | Operation::DelPrefix { .. }
        | Operation::Result { .. }
        | Operation::Hello { .. }
        | Operation::Stats
        | Operation::End => Company::None,
        _ => Company::Any,
    }
}

/// A call that has not ended, or a number that has to be filled.
#[derive(Debug)]
pub(super) struct Call<T> {
    pub(super) asked: Asked,
    /// Its place among all calls, in the order in which they began.
    pub(super) order: u64,
    /// Whom the end is told; None: the caller has been told already.
    pub(super) token: Option<T>,
    pub(super) deadline: Option<Instant>,
    pub(super) begun_at: Instant,
    /// A mutation's number, once it was sent.
    pub(super) seq: Option<u64>,
    /// An attempt may have reached the broker, and its answer was not read.
    pub(super) may_have_run: bool,
    /// It is a noop now, whatever it was: only its number has to be settled.
    pub(super) is_filler: bool,
    /// Next time by itself.
    pub(super) alone: bool,
    /// A definite refusal that made it wait: the answer if the deadline comes first.
    pub(super) refusal: Option<Box<Outcome>>,
}

impl<T> Call<T> {
    pub(super) fn company(&self) -> Company {
        if self.alone { Company::None } else { self.asked.company }
    }

    /// From now on it only fills its number.
    pub(super) fn becomes_filler(&mut self) {
        self.asked = Asked::noop();
        self.is_filler = true;
        self.refusal = None;
    }
}

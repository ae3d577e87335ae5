//! Outcomes as they are remembered for whoever sends a mutation again: as on the wire, but with every value as it was written.
//!
//! - Each value stands in the map form as a bin of its stored bytes: its type byte, then the document. So a reply that is given again
//!   is converted for the reader of that time from what was written, as the first one was, and not from a conversion.
//! - The integer of an `incr` inside a transaction is no stored value and stays a number; nothing else than a value is a bin there.

use crate::conversion::ConversionAnswer;
use crate::error::Failure;
use crate::events::KeyEvent;
use crate::msgpack::write;
use crate::queue;
use crate::reply::{Answer, Fate, Outcome, VersionKind};
use crate::reply_decode::ReplyError;
use crate::reply_encode::encode_outcome;
use crate::reply_named::decode_outcome;
use crate::value::{Stored, ValueKind};

/// Appends an outcome as it is remembered.
pub fn encode_kept_outcome(outcome: &Outcome, out: &mut Vec<u8>) {
    let mut kept = outcome.clone();
    each_value(&mut kept, &mut |value| {
        let mut document = Vec::with_capacity(value.as_bytes().len() + 5);
        write::bytes(&mut document, value.as_bytes());
        Ok(Stored::unbounded(ValueKind::MessagePack, &document))
    })
    .expect("any bytes can be a bin");
    encode_outcome(&kept, out);
}

/// Reads an outcome that [`encode_kept_outcome`] wrote.
///
/// # Errors
/// [`ReplyError`] if it is none.
pub fn decode_kept_outcome(body: &[u8]) -> Result<Outcome, ReplyError> {
    let mut outcome = decode_outcome(body)?;
    each_value(&mut outcome, &mut |value| match value.as_byte_string() {
        None => Ok(value.clone()),
        Some(bytes) => written(&bytes).ok_or_else(|| ReplyError("a remembered value is none".into())),
    })?;
    Ok(outcome)
}

/// A value from its stored bytes, with its document checked.
fn written(bytes: &[u8]) -> Option<Stored> {
    let stored = Stored::from_bytes(bytes.to_vec())?;
    let checked = match stored.kind() {
        ValueKind::MessagePack => Stored::from_msgpack(stored.document()),
        ValueKind::Json => Stored::from_json(stored.document()),
    };
    checked.is_ok().then_some(stored)
}

type Change<'a> = dyn FnMut(&Stored) -> Result<Stored, ReplyError> + 'a;

/// Puts what `change` makes of it in the place of every value.
fn each_value(outcome: &mut Outcome, change: &mut Change<'_>) -> Result<(), ReplyError> {
    match &mut outcome.result {
        Ok(answer) => each_value_of(answer, change),
        Err(Failure { original: Some(original), .. }) => each_value(original, change),
        Err(_) => Ok(()),
    }
}

fn each_value_of(answer: &mut Answer, change: &mut Change<'_>) -> Result<(), ReplyError> {
    let mut replace = |value: &mut Stored| -> Result<(), ReplyError> {
        *value = change(value)?;
        Ok(())
    };
    match answer {
        Answer::Removed(value) | Answer::Value { value, .. } => replace(value),
        Answer::Values(values) => values.iter_mut().flatten().try_for_each(|found| replace(&mut found.value)),
        Answer::Rows { rows, .. } => rows.iter_mut().try_for_each(|row| replace(&mut row.value)),
        Answer::History { versions, .. } => versions.iter_mut().try_for_each(|version| match &mut version.kind {
            VersionKind::Put(value) => replace(value),
            VersionKind::Remove | VersionKind::Expire => Ok(()),
        }),
        Answer::Events { events, .. } => {
            let changes = events.iter_mut().flat_map(|revision| &mut revision.changes);
            changes.flat_map(KeyEvent::values_mut).try_for_each(replace)
        }
        Answer::Queue(answer) => queue::each_value(answer, replace),
        Answer::Conversion(ConversionAnswer::Converted(value)) => replace(value),
        Answer::Txn { results, .. } => results.iter_mut().try_for_each(|outcome| each_value(outcome, change)),
        Answer::Result(Fate::Decided(outcome)) => each_value(outcome, change),
        Answer::Done
        | Answer::Exists(_)
        | Answer::Integer(_)
        | Answer::Size(_)
        | Answer::Keys { .. }
        | Answer::Ttl(_)
        | Answer::Deleted { .. }
        | Answer::Result(Fate::Undecided | Fate::Filled | Fate::Acknowledged)
        | Answer::Conversion(ConversionAnswer::Rules { .. })
        | Answer::Granted { .. }
        | Answer::Routing(_)
        | Answer::Who(_)
        | Answer::Hello(_)
        | Answer::Stats(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::error::ErrorCode;
    use crate::limits::VALUE_BYTES_MAX;
    use crate::reply::{Found, Row};

    fn ok(answer: Answer) -> Outcome {
        Outcome { revision: Some(7), result: Ok(answer) }
    }

    fn kept(outcome: &Outcome) -> Outcome {
        let mut bytes = Vec::new();
        encode_kept_outcome(outcome, &mut bytes);
        for length in 0..bytes.len().min(200) {
            assert!(decode_kept_outcome(&bytes[..length]).is_err());
        }
        decode_kept_outcome(&bytes).unwrap()
    }

    #[test]
    fn values_are_remembered_as_they_were_written() {
        // As MessagePack the digits would be a double's, the object would get a dollar on its way back, and spaces would be gone.
        let json = Stored::from_json(br#"{ "$ref": 3.14159265358979323846 }"#).unwrap();
        let pack = Stored::from_msgpack(&[0xdd, 0, 0, 0, 1, 0xc4, 1, 0xff]).unwrap();
        let bytes = Stored::bytes(&[1, 2, 3]).unwrap();
        let largest = Stored::from_json(format!("\"{}\"", "x".repeat(VALUE_BYTES_MAX - 2)).as_bytes()).unwrap();
        for value in [json.clone(), pack.clone(), bytes, largest] {
            assert_eq!(kept(&ok(Answer::Removed(value.clone()))), ok(Answer::Removed(value)));
        }
        let found = || Some(Found { value: json.clone(), modified: 3, created: 2 });
        let results = vec![
            ok(Answer::Value { value: json.clone(), modified: 2, created: 1 }),
            ok(Answer::Values(vec![found(), None, found()])),
            ok(Answer::Rows {
                rows: vec![Row { key: vec![0xff], value: pack, modified: 1 }],
                cursor: Some(b"k".to_vec()),
                snapshot: None,
            }),
            ok(Answer::Size(3)),
            Outcome { revision: None, result: Err(Failure::new(ErrorCode::NotFound, "there is no such key")) },
        ];
        let txn = ok(Answer::Txn { succeeded: true, results });
        assert_eq!(kept(&txn), txn);
    }

    #[test]
    fn what_has_no_values_is_remembered_as_on_the_wire() {
        let conflict = Outcome { revision: Some(1), result: Err(Failure::new(ErrorCode::Conflict, "the key is there")) };
        for outcome in [ok(Answer::Done), ok(Answer::Deleted { removed: 5, more: true }), conflict] {
            let (mut remembered, mut sent) = (Vec::new(), Vec::new());
            encode_kept_outcome(&outcome, &mut remembered);
            encode_outcome(&outcome, &mut sent);
            assert_eq!(remembered, sent);
            assert_eq!(kept(&outcome), outcome);
        }
        // An integer reads back as the value that looks the same.
        let sum = ok(Answer::Txn { succeeded: true, results: vec![ok(Answer::Integer(-5))] });
        let same = ok(Answer::Txn { succeeded: true, results: vec![ok(Answer::Removed(Stored::integer(-5)))] });
        assert_eq!(kept(&sum), same);
    }

    #[test]
    fn a_bin_that_is_no_stored_value_is_refused() {
        for bytes in [&[][..], &[0], &[3, 0xc0], &[1], &[1, 0xc1], &[1, 0xc0, 0xc0], &[2], &[2, b'{']] {
            let mut body = Vec::new();
            encode_outcome(&ok(Answer::Removed(Stored::bytes(bytes).unwrap())), &mut body);
            assert!(decode_kept_outcome(&body).is_err(), "{bytes:?}");
        }
    }
}

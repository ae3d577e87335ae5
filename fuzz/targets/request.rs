//! What must hold for any body of a message.
//!
//! - Nothing panics. What is taken says the same after it was encoded again, and has the same hash, by which a repeated request is
//!   known.
//! - Its values convert to the other encoding and back without a word about them being wrong.

use kvbroker_protocol::{
    Expect, Failure, Form, Operation, decode_kept_outcome, decode_reply, decode_request, encode_request, json_to_msgpack,
    msgpack_to_json, request_hash,
};

/// What became of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Became {
    /// It is no request.
    Refused,
    /// It is one, in this shape.
    Taken(Shape),
}

/// As `Form`, which has no hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shape {
    /// Arrays.
    Compact,
    /// MessagePack maps.
    Map,
    /// JSON.
    Json,
}

fn is_too_deep(failure: &Failure) -> bool {
    failure.message.contains("nested deeper")
}

/// A body as a broker gets it; the same bytes as a client gets them, as a reply.
///
/// # Panics
/// If a rule is broken.
pub fn request(input: &[u8]) -> Became {
    let expects: Vec<Expect> = decode_request(input)
        .map(|request| request.operations.as_slice().iter().map(Operation::expects).collect())
        .unwrap_or_default();
    let _ = decode_reply(input, &expects);
    let _ = decode_kept_outcome(input);
    if let Ok(document) = json_to_msgpack(input) {
        msgpack_to_json(&document).expect("what was converted can be converted back");
    }
    if let Ok(text) = msgpack_to_json(input) {
        // A map of odd keys is deeper in JSON, which may then be too deep.
        if let Err(failure) = json_to_msgpack(&text) {
            assert!(is_too_deep(&failure), "what was converted can be converted back: {failure}");
        }
    }
    let Ok(request) = decode_request(input) else { return Became::Refused };
    let taken = Became::Taken(match request.form {
        Form::Compact => Shape::Compact,
        Form::Map => Shape::Map,
        Form::Json => Shape::Json,
    });
    let mut body = Vec::new();
    encode_request(&request.header, &request.operations, &mut body);
    let again = match decode_request(&body) {
        Ok(again) => again,
        // The arrays of the compact shape are levels, too: what is just not too deep in JSON may be there.
        Err(refusal) if is_too_deep(&refusal.failure) && request.form != Form::Compact => return taken,
        Err(refusal) => panic!("{:?} became {refusal:?}", request.operations),
    };
    assert_eq!((&again.header, again.operations.as_slice().len()), (&request.header, request.operations.as_slice().len()));
    let mut scratch = Vec::new();
    for (one, other) in request.operations.as_slice().iter().zip(again.operations.as_slice()) {
        assert_eq!(request_hash(one, &mut scratch), request_hash(other, &mut scratch), "{one:?} became {other:?}");
    }
    taken
}

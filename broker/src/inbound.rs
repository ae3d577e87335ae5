//! From the frames of a message to a request, or to the refusal that answers it. Pure.

use std::ops::Deref;

use kvbroker_protocol::{
    BrokerId, ErrorCode, Failure, Form, Outcome, Outcomes, Rejected, Reply, Request, decode_request, limits,
};
use kvbroker_table::{Envelope, RoutingId};

/// Splits routing id, envelope and body.
///
/// # Errors
/// The envelope to answer to, and why there is no body.
pub(crate) fn split<F: Deref<Target = [u8]>>(frames: &[F]) -> Result<(Envelope, &[u8]), (Envelope, Failure)> {
    let (routing_id, rest) = match frames.split_first() {
        Some((id, rest)) => (RoutingId::from(&**id), rest),
        None => return Err((Envelope::default(), Failure::invalid("the message has no frames"))),
    };
    let delimiter = rest.iter().position(|frame| frame.is_empty());
    let (envelope, body) = match delimiter {
        Some(at) if at < limits::ENVELOPE_FRAMES_MAX => rest.split_at(at + 1),
        Some(_) => {
            let failure = Failure::limit(format!("an envelope has at most {} frames", limits::ENVELOPE_FRAMES_MAX));
            return Err((Envelope { routing_id, frames: Vec::new() }, failure));
        }
        None => (&rest[..0], rest),
    };
    let envelope = Envelope { routing_id, frames: envelope.iter().map(|frame| frame.to_vec()).collect() };
    match body {
        [body] => Ok((envelope, body)),
        [] => Err((envelope, Failure::invalid("the message is empty"))),
        _ => {
            let message = format!(
                "a message is one body frame, behind an empty frame if there is an envelope; this one has {}",
                body.len()
            );
            Err((envelope, Failure::invalid(message)))
        }
    }
}

/// Decodes a body for this broker.
///
/// # Errors
/// The answer: what is wrong with the request, or that it means another broker.
pub(crate) fn request(body: &[u8], broker: BrokerId) -> Result<Request, Box<Reply>> {
    let request = decode_request(body).map_err(|Rejected { id, form, failure }| Box::new(refusal(id, form, failure)))?;
    match request.header.broker {
        Some(wanted) if wanted != broker => {
            let message = format!("the message is for broker {wanted}, this is {broker}; look the project up again");
            Err(Box::new(refusal(request.header.id, request.form, Failure::new(ErrorCode::WrongBroker, message))))
        }
        _ => Ok(request),
    }
}

/// An answer by the front end: it carries no revision.
pub(crate) fn refusal(id: Option<u64>, form: Form, failure: Failure) -> Reply {
    Reply { id, form, retry_safe: None, outcomes: Outcomes::One(Outcome { revision: None, result: Err(failure) }) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_way_to_send_a_body_is_understood() {
        let bare = [&b"id"[..], b"{}"];
        assert_eq!(split(&bare).unwrap(), (Envelope { routing_id: b"id"[..].into(), frames: vec![] }, &b"{}"[..]));
        let req = [&b"id"[..], b"", b"{}"];
        assert_eq!(split(&req).unwrap().0.frames, [b"".to_vec()]);
        let correlated = [&b"id"[..], b"\x01\x02\x03\x04", b"", b"{}"];
        let (envelope, body) = split(&correlated).unwrap();
        assert_eq!(envelope.frames, [b"\x01\x02\x03\x04".to_vec(), b"".to_vec()]);
        assert_eq!(body, b"{}");
    }

    #[test]
    fn what_is_no_message_is_answered_where_it_came_from() {
        let no_frames: [&[u8]; 0] = [];
        assert!(split(&no_frames).is_err());
        for frames in
            [&[&b"id"[..]][..], &[b"id", b""], &[b"id", b"a", b"b"], &[b"id", b"", b"a", b"b"], &[b"id", b"", b"", b"a", b"b"]]
        {
            assert_eq!(*split(frames).unwrap_err().0.routing_id, *b"id");
        }
        assert!(split(&[&b"id"[..], b"1", b"2", b"3", b"4", b"", b"{}"]).is_err());
    }

    #[test]
    fn another_brokers_message_is_refused() {
        let body = br#"{"op":"size","id":3,"broker":"11111111-1111-1111-1111-111111111111"}"#;
        let reply = request(body, BrokerId([2; 16])).unwrap_err();
        assert_eq!(reply.id, Some(3));
        assert_eq!(reply.outcomes.as_slice()[0].result.as_ref().unwrap_err().code, ErrorCode::WrongBroker);
        assert!(request(body, BrokerId([0x11; 16])).is_ok());
    }
}

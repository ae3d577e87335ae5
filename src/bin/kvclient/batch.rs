//! `batch`: operations from stdin in arrays, one result a line.
//!
//! - Input is one JSON operation a line, or one JSON array of operations.
//! - Operations are collected into arrays up to a number and a size, or until the input pauses:
//!   a pipe that somebody types into is answered line by line.
//! - What walks over keys (scan, query, ls, del_prefix) goes by itself: an array shares one bound on what is examined.
//! - A read that did not fit into its array's reply is asked again by itself; its result says at
//!   which revision.
//! - Input that can't be understood ends the batch with its line number, after what came before
//!   it was done and its results printed.

use std::io::{BufRead, BufReader, Read};

use kvbroker::client::{Client, ClientError};
use kvbroker::exit::Exit;
use kvbroker_protocol::limits::MESSAGE_BYTES_MAX;
use kvbroker_protocol::{ErrorCode, Header, Operation, Operations, Outcome, Outcomes, decode_request};
use serde_json::value::RawValue;

use crate::Trouble;
use crate::output::Output;
use crate::verbs::exit_of_outcome;

/// Most operations of one array: the broker takes more, but then the first result comes late.
const OPERATIONS_MAX: usize = 1_024;

/// Most bytes of input in one array.
const BYTES_MAX: usize = 1 << 20;

/// Bytes that are read from the input in one go.
const READ_BYTES: usize = 256 << 10;

/// Most of a wrong line that is shown.
const SHOWN_CHARS: usize = 60;

pub(crate) fn run(client: &Client, input: impl Read, out: &mut Output) -> Result<Exit, Trouble> {
    let mut input = BufReader::with_capacity(READ_BYTES, input);
    let mut sender = Sender { client, out, operations: Vec::new(), bytes: 0, exit: Exit::Ok };
    let failed = |error| Trouble::misuse(format!("cannot read stdin: {error}"));
    if first_byte(&mut input).map_err(failed)? == Some(b'[') {
        let mut text = Vec::new();
        input.read_to_end(&mut text).map_err(failed)?;
        sender.array(&text)?;
    } else {
        sender.lines(&mut input)?;
    }
    sender.flush()?;
    Ok(sender.exit)
}

/// The first byte that is no white space; what is before it is gone.
fn first_byte(input: &mut impl BufRead) -> std::io::Result<Option<u8>> {
    loop {
        let buffer = input.fill_buf()?;
        if buffer.is_empty() {
            return Ok(None);
        }
        let blank = buffer.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        let first = buffer.get(blank).copied();
        // A line feed more or less would only change line numbers: keep them where an operation follows.
        if first.is_none_or(|byte| byte == b'[') {
            input.consume(blank);
        }
        if first.is_some() {
            return Ok(first);
        }
    }
}

struct Sender<'a> {
    client: &'a Client,
    out: &'a mut Output,
    operations: Vec<Operation>,
    bytes: usize,
    exit: Exit,
}

impl Sender<'_> {
    fn array(&mut self, text: &[u8]) -> Result<(), Trouble> {
        let elements: Vec<&RawValue> = serde_json::from_slice(text)
            .map_err(|error| Trouble::misuse(format!("stdin is not one JSON array of operations: {error}")))?;
        for (index, element) in elements.into_iter().enumerate() {
            self.add(element.get().as_bytes(), &format!("operation {}", index + 1))?;
        }
        Ok(())
    }

    fn lines(&mut self, input: &mut BufReader<impl Read>) -> Result<(), Trouble> {
        let mut line = Vec::new();
        for number in 1_u64.. {
            line.clear();
            let place = format!("line {number}");
            let length = input.by_ref().take(MESSAGE_BYTES_MAX as u64 + 1).read_until(b'\n', &mut line);
            let length = length.map_err(|error| Trouble::misuse(format!("cannot read stdin: {error}")))?;
            if length == 0 {
                break;
            }
            if length > MESSAGE_BYTES_MAX {
                self.flush()?;
                return Err(Trouble::misuse(format!("{place} has more than {MESSAGE_BYTES_MAX} bytes")));
            }
            if !line.trim_ascii().is_empty() {
                self.add(line.trim_ascii(), &place)?;
            }
            if input.buffer().is_empty() {
                // The input pauses, for all we know: don't let the results wait for it.
                self.flush()?;
            }
        }
        Ok(())
    }

    fn add(&mut self, text: &[u8], place: &str) -> Result<(), Trouble> {
        let operation = match operation(text) {
            Ok(operation) => operation,
            Err(why) => {
                self.flush()?;
                let shown: String = String::from_utf8_lossy(text).chars().take(SHOWN_CHARS).collect();
                return Err(Trouble::misuse(format!("{place} is not an operation: {why}: {shown:?}")));
            }
        };
        let alone =
            matches!(operation, Operation::Scan(_) | Operation::Query { .. } | Operation::List(_) | Operation::DelPrefix { .. });
        if alone || self.operations.len() >= OPERATIONS_MAX || self.bytes + text.len() > BYTES_MAX {
            self.flush()?;
        }
        self.operations.push(operation);
        self.bytes += text.len();
        if alone { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Trouble> {
        let operations = std::mem::take(&mut self.operations);
        self.bytes = 0;
        let outcomes = self.client.batch(operations.clone())?;
        let several = outcomes.len() > 1;
        let changes =
            outcomes.iter().zip(&operations).filter(|(outcome, operation)| operation.is_mutation() && outcome.result.is_ok());
        let done_at = changes.filter_map(|(outcome, _)| outcome.revision).max();
        for (outcome, operation) in outcomes.into_iter().zip(operations) {
            let full = matches!(&outcome.result, Err(failure) if failure.code == ErrorCode::ReplyFull);
            let outcome = if full && several && !operation.is_mutation() { self.again(operation)? } else { outcome };
            if self.exit == Exit::Ok {
                self.exit = exit_of_outcome(&outcome);
            }
            self.out.outcome_json(&outcome).map_err(|error| Trouble::output_after(done_at, error))?;
        }
        self.out.flush().map_err(|error| Trouble::output_after(done_at, error))
    }

    fn again(&self, operation: Operation) -> Result<Outcome, ClientError> {
        match self.client.call(Operations::One(operation))?.outcomes {
            Outcomes::One(outcome) => Ok(outcome),
            Outcomes::Many(mut outcomes) => Ok(outcomes.remove(0)),
        }
    }
}

fn operation(text: &[u8]) -> Result<Operation, String> {
    if !text.starts_with(b"{") {
        return Err("it is not a JSON object".into());
    }
    let request = decode_request(text).map_err(|rejected| rejected.failure.message)?;
    match request.operations {
        _ if request.header != Header::default() => Err("id, session and so on are made by kvclient itself".into()),
        Operations::One(operation) => Ok(operation),
        Operations::Many(_) => Err("arrays don't nest".into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn operations_are_the_protocols_without_a_header() {
        assert!(matches!(operation(br#"{"method":"lookup","key":"a"}"#), Ok(Operation::Get { .. })));
        assert!(operation(br#"{"op":"size","id":4}"#).unwrap_err().contains("kvclient itself"));
        assert!(operation(br#"{"ops":[{"op":"size"}]}"#).unwrap_err().contains("nest"));
        assert!(operation(b"[1]").unwrap_err().contains("object"));
        assert!(operation(br#"{"op":"fly"}"#).unwrap_err().contains("fly"));
    }

    #[test]
    fn the_first_byte_tells_an_array_from_lines() {
        let mut array = BufReader::with_capacity(2, &b" \n \n[1]"[..]);
        assert_eq!(first_byte(&mut array).unwrap(), Some(b'['));
        let mut rest = String::new();
        array.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "[1]");
        assert_eq!(first_byte(&mut BufReader::new(&b" \n"[..])).unwrap(), None);
        assert_eq!(first_byte(&mut BufReader::new(&b"{}"[..])).unwrap(), Some(b'{'));
    }
}

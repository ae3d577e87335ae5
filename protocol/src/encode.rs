//! Writing a request as a compact MessagePack message: what our own clients send.

use crate::PROTOCOL_VERSION;
use crate::header::Header;
use crate::msgpack::write;
use crate::operation::{Operation, Operations, Scan};

/// Appends the compact form of a message.
pub fn encode_request(header: &Header, operations: &Operations, out: &mut Vec<u8>) {
    write::array(out, 8);
    write::uint(out, u64::from(PROTOCOL_VERSION));
    write::optional_uint(out, header.id);
    write::optional(out, header.broker, |out, id| write::bytes(out, &id.0));
    write::optional(out, header.session, |out, id| write::bytes(out, &id.0));
    write::optional_uint(out, header.seq);
    write::optional_uint(out, header.ack);
    write::optional_uint(out, header.got);
    match operations {
        Operations::One(operation) => write_operation(operation, out),
        Operations::Many(operations) => {
            write::array(out, operations.len());
            operations.iter().for_each(|operation| write_operation(operation, out));
        }
    }
}

fn write_operation(operation: &Operation, out: &mut Vec<u8>) {
    let head = |out: &mut Vec<u8>, length: usize| {
        write::array(out, length);
        write::text(out, operation.verb());
    };
    match operation {
        Operation::Ping | Operation::Stats | Operation::Size => head(out, 1),
        Operation::Hello { project } => {
            head(out, 2);
            write::map(out, usize::from(project.is_some()));
            if let Some(project) = project {
                write::text(out, "project");
                write::text(out, project);
            }
        }
        Operation::Put { key, value } => {
            head(out, 3);
            write::key(out, key);
            value.write_msgpack(out);
        }
        Operation::Get { key } => {
            head(out, 2);
            write::key(out, key);
        }
        Operation::Del { key, return_old } => {
            head(out, if *return_old { 3 } else { 2 });
            write::key(out, key);
            if *return_old {
                write::map(out, 1);
                write::text(out, "return");
                write::boolean(out, true);
            }
        }
        Operation::Scan(scan) => {
            head(out, 2);
            write_scan(scan, out);
        }
        Operation::Query { subkey, subvalue, scan } => {
            head(out, 4);
            write::text(out, subkey);
            subvalue.write_msgpack(out);
            write_scan(scan, out);
        }
    }
}

fn write_scan(scan: &Scan, out: &mut Vec<u8>) {
    let Scan { prefix, pattern, cursor, limit } = scan;
    let given = [!prefix.is_empty(), pattern.is_some(), cursor.is_some(), limit.is_some()];
    write::map(out, given.iter().filter(|given| **given).count());
    if !prefix.is_empty() {
        write::text(out, "prefix");
        write::key(out, prefix);
    }
    if let Some(pattern) = pattern {
        write::text(out, "regex");
        write::text(out, pattern.as_str());
    }
    if let Some(cursor) = cursor {
        write::text(out, "cursor");
        write::key(out, cursor);
    }
    if let Some(limit) = limit {
        write::text(out, "limit");
        write::uint(out, *limit as u64);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::decode::decode_request;
    use crate::header::{BrokerId, Form, SessionId};
    use crate::operation::Pattern;
    use crate::predicate::Scalar;
    use crate::value::Stored;

    #[test]
    fn every_operation_reads_back() {
        let key = vec![0xff, 0x00];
        let scan =
            Scan { prefix: b"p".to_vec(), pattern: Some(Pattern::new("a+").unwrap()), cursor: Some(key.clone()), limit: Some(5) };
        let operations = vec![
            Operation::Hello { project: Some("p".into()) },
            Operation::Hello { project: None },
            Operation::Ping,
            Operation::Stats,
            Operation::Size,
            Operation::Put { key: b"k".to_vec(), value: Stored::text("v").unwrap() },
            Operation::Get { key: key.clone() },
            Operation::Del { key: key.clone(), return_old: true },
            Operation::Del { key, return_old: false },
            Operation::Scan(scan.clone()),
            Operation::Scan(Scan::default()),
            Operation::Query { subkey: "w".into(), subvalue: Scalar::Float(1.5), scan },
            Operation::Query { subkey: "w".into(), subvalue: Scalar::Int(-3), scan: Scan::default() },
        ];
        let header = Header {
            id: Some(u64::MAX),
            broker: Some(BrokerId([7; 16])),
            session: Some(SessionId([8; 16])),
            seq: Some(1),
            ack: Some(0),
            got: Some(300),
        };
        for operations in operations.iter().cloned().map(Operations::One).chain([Operations::Many(operations.clone())]) {
            let mut body = Vec::new();
            encode_request(&header, &operations, &mut body);
            let request = decode_request(&body).unwrap();
            assert_eq!((request.header, request.form, request.operations), (header.clone(), Form::Compact, operations));
        }
    }
}

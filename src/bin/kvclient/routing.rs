//! `bind`, `unbind`, `bindings` and `publish`: each asks the broker and prints what it says.

use std::io;

use kvbroker::client::Client;
use kvbroker::exit::Exit;
use kvbroker_protocol::{
    Binding, Key, Operation, Publish, RoutingOperation, key_to_json_text, key_to_line_text, subject_name, subject_pattern,
};
use serde_json::json;

use crate::Trouble;
use crate::args::Global;
use crate::output::{Output, Print, printable};
use crate::routing_args::{BindArgs, PublishArgs};
use crate::values::{Kind, bytes, read_all, read_file, stored};

fn pattern(text: &std::ffi::OsStr) -> Result<Key, Trouble> {
    subject_pattern(bytes(text)).map_err(|failure| Trouble::misuse(failure.message))
}

pub(crate) fn bind(args: BindArgs) -> Result<Operation, Trouble> {
    let BindArgs { queue, pattern, filter } = args;
    let bind = RoutingOperation::Bind { queue: bytes(&queue), pattern: self::pattern(&pattern)?, where_: filter };
    Ok(Operation::Routing(Box::new(bind)))
}

pub(crate) fn unbind(queue: &std::ffi::OsStr, pattern: &std::ffi::OsStr) -> Result<Operation, Trouble> {
    let unbind = RoutingOperation::Unbind { queue: bytes(queue), pattern: self::pattern(pattern)? };
    Ok(Operation::Routing(Box::new(unbind)))
}

pub(crate) fn publish(args: PublishArgs, global: &Global) -> Result<Operation, Trouble> {
    let PublishArgs { subject, value, file, priority, ttl, content_type, retain, must_route, .. } = args;
    let value = match (value, file) {
        (_, Some(path)) => stored(read_file(&path)?, Kind::of_file(global.json))?,
        (Some(text), None) if text == "-" => stored(read_all(io::stdin().lock(), "stdin")?, Kind::of_text(global.json))?,
        (Some(text), None) => stored(bytes(&text), Kind::of_text(global.json))?,
        (None, None) => return Err(Trouble::misuse("publish needs a value, `-` or --file")),
    };
    let subject = subject_name(bytes(&subject)).map_err(|failure| Trouble::misuse(failure.message))?;
    let ttl_ms = ttl.map(|ttl| ttl.0);
    Ok(Client::message_in_txn(Publish { subject, value, priority, ttl_ms, content_type, retain, must_route }))
}

pub(crate) fn bindings(client: &Client, queue: Option<Key>, out: &mut Output) -> Result<Exit, Trouble> {
    let bindings = match queue {
        Some(queue) => client.queue(queue).bindings()?,
        None => client.bindings()?,
    };
    for binding in &bindings {
        out.item(binding)?;
    }
    Ok(Exit::Ok)
}

impl Print for Binding {
    fn print(&self, json: bool, line: &mut Vec<u8>) {
        let Binding { queue, pattern, where_ } = self;
        if json {
            line.extend_from_slice(b"{\"queue\":");
            key_to_json_text(line, queue);
            line.extend_from_slice(b",\"pattern\":");
            key_to_json_text(line, pattern);
            if let Some(where_) = where_ {
                line.extend_from_slice(format!(",\"where\":{}", json!(where_)).as_bytes());
            }
            line.push(b'}');
        } else {
            key_to_line_text(line, queue);
            line.push(b'\t');
            key_to_line_text(line, pattern);
            if let Some(where_) = where_ {
                line.extend_from_slice(format!("\t{}", printable(where_)).as_bytes());
            }
        }
    }
}

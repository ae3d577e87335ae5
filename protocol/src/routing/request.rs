//! Writing an operation of the routing in its compact form.

use super::{Publish, RoutingOperation};
use crate::msgpack::write;
use crate::queue::{Options, Part};

/// Appends the compact form.
pub(crate) fn write_routing_operation(operation: &RoutingOperation, out: &mut Vec<u8>) {
    let verb = operation.verb();
    let options = Options::default();
    match operation {
        RoutingOperation::Bind { queue, pattern, where_ } => options
            .with("where", where_.as_ref().map(|filter| Part::Text(filter.as_str())))
            .write(verb, &[&|out| write::key(out, queue), &|out| write::key(out, pattern)], out),
        RoutingOperation::Unbind { queue, pattern } => {
            options.write(verb, &[&|out| write::key(out, queue), &|out| write::key(out, pattern)], out);
        }
        RoutingOperation::Bindings { queue, cursor, limit } => options
            .with("cursor", cursor.as_ref().map(|(queue, pattern)| Part::Keys([queue, pattern])))
            .number("limit", limit.map(|limit| limit as u64))
            .write(verb, &[&|out| write::optional(out, queue.as_deref(), write::key)], out),
        RoutingOperation::Publish(Publish { subject, value, priority, ttl_ms, content_type, retain, must_route }) => options
            .with("priority", (*priority != 0).then_some(Part::Integer(i64::from(*priority))))
            .number("ttl", *ttl_ms)
            .with("type", content_type.as_deref().map(Part::Text))
            .with("retain", retain.then_some(Part::Flag(true)))
            .with("must_route", must_route.then_some(Part::Flag(true)))
            .write(verb, &[&|out| write::key(out, subject), &|out| value.write_msgpack(out)], out),
    }
}

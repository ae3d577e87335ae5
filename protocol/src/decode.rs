//! Reading a message body into a [`Request`].
//!
//! - The whole body is checked first: one value, its depth, UTF-8, each key once. Then the grammar is applied to all operations.
//!   Only if everything is right does anything run.
//! - A body that is refused still yields the shape and, where it can be found, the id that its answer must carry.

use std::borrow::Cow;

use crate::PROTOCOL_VERSION;
use crate::error::{ErrorCode, Failure};
use crate::fast;
use crate::field::Raw;
use crate::grammar::{Fields, Verb};
use crate::header::{Form, Header};
use crate::json::{self, Token as Json, Walker};
use crate::limits::{ARRAY_OPERATIONS_MAX, ARRAY_REGEXES_MAX, DEPTH_MAX, MESSAGE_BYTES_MAX};
use crate::msgpack::{self, Cursor, Token as Pack};
use crate::operation::{Operation, Operations, Request};

/// A body that was refused: what the answer says and looks like.
#[derive(Clone, Debug, PartialEq)]
pub struct Rejected {
    /// The id to echo, if it could be read.
    pub id: Option<u64>,
    /// The shape of the answer.
    pub form: Form,
    /// Why; always definite.
    pub failure: Failure,
}

/// Decodes one message body and checks all of it.
///
/// # Errors
/// [`Rejected`] with `invalid`, `limit` or `unsupported_version`; nothing of the message may run.
pub fn decode_request(body: &[u8]) -> Result<Request, Rejected> {
    match fast::request(body) {
        Some(request) => Ok(request),
        None => decode_generally(body),
    }
}

/// The whole protocol, which [`fast`] knows a part of.
pub(crate) fn decode_generally(body: &[u8]) -> Result<Request, Rejected> {
    let form = form_of(body);
    let mut header = Header::default();
    let operations = if body.len() > MESSAGE_BYTES_MAX {
        Err(Failure::limit(format!("the message has {} bytes; at most {MESSAGE_BYTES_MAX} are taken", body.len())))
    } else if form == Form::Json {
        json_body(body, &mut header)
    } else {
        msgpack_body(body, &mut header)
    };
    match operations {
        Ok(operations) => Ok(Request { header, form, operations }),
        Err(failure) => Err(Rejected { id: header.id, form, failure }),
    }
}

fn form_of(body: &[u8]) -> Form {
    match body {
        [0xef, 0xbb, 0xbf, ..] | [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Form::Json,
        [0x90..=0x9f, second, ..] | [0xdc, _, _, second, ..] | [0xdd, _, _, _, _, second, ..] if is_integer(*second) => {
            Form::Compact
        }
        [first, ..] if *first >= 0x80 => Form::Map,
        _ => Form::Json,
    }
}

fn is_integer(marker: u8) -> bool {
    matches!(marker, 0x00..=0x7f | 0xcc..=0xd3 | 0xe0..=0xff)
}

// ---- MessagePack ----

fn msgpack_body(body: &[u8], header: &mut Header) -> Result<Operations, Failure> {
    msgpack::check(body, DEPTH_MAX)?;
    let mut cursor = Cursor::new(body);
    match cursor.token()? {
        Pack::Map(length) => message(pack_entries(&mut cursor, length)?, header),
        Pack::Array(0) => Err(Failure::invalid("an empty array asks for nothing")),
        Pack::Array(length) => {
            if is_integer(body.get(cursor.offset()).copied().unwrap_or_default()) {
                compact(&mut cursor, length, header)
            } else {
                pack_operations(&mut cursor, length)
            }
        }
        _ => Err(Failure::invalid("a MessagePack message is a map or an array")),
    }
}

fn compact(cursor: &mut Cursor<'_>, length: usize, header: &mut Header) -> Result<Operations, Failure> {
    let version = Raw::Pack(cursor.raw()?).uint("version")?;
    if length > 1 {
        // Read before the version is judged: the refusal, too, is matched to its request by id.
        header.id = optional(Raw::Pack(cursor.raw()?), |raw| raw.uint("id"))?;
    }
    if version != u64::from(PROTOCOL_VERSION) {
        return Err(Failure::new(
            ErrorCode::UnsupportedVersion,
            format!("this broker speaks protocol version {PROTOCOL_VERSION}, the message says {version}"),
        ));
    }
    if length != 8 {
        return Err(Failure::invalid(format!(
            "a compact message has 8 elements, [version, id, broker, session, seq, ack, got, op-or-ops]; this one has {length}"
        )));
    }
    header.broker = optional(Raw::Pack(cursor.raw()?), |raw| raw.id16("broker"))?;
    header.session = optional(Raw::Pack(cursor.raw()?), |raw| raw.id16("session"))?;
    header.seq = optional(Raw::Pack(cursor.raw()?), |raw| raw.uint("seq"))?;
    header.ack = optional(Raw::Pack(cursor.raw()?), |raw| raw.uint("ack"))?;
    header.got = optional(Raw::Pack(cursor.raw()?), |raw| raw.uint("got"))?;
    op_or_ops(Raw::Pack(cursor.raw()?))
}

fn optional<T>(raw: Raw<'_>, read: impl FnOnce(Raw<'_>) -> Result<T, Failure>) -> Result<Option<T>, Failure> {
    if raw.is_null() { Ok(None) } else { read(raw).map(Some) }
}

fn pack_operations(cursor: &mut Cursor<'_>, length: usize) -> Result<Operations, Failure> {
    check_count(length)?;
    let mut many = Many::default();
    for _ in 0..length {
        many.push(operation(Raw::Pack(cursor.raw()?))?)?;
    }
    Ok(Operations::Many(many.operations))
}

fn check_count(length: usize) -> Result<(), Failure> {
    match length {
        0 => Err(Failure::invalid("an empty array asks for nothing")),
        1..=ARRAY_OPERATIONS_MAX => Ok(()),
        _ => Err(Failure::limit(format!("an array holds at most {ARRAY_OPERATIONS_MAX} operations; this one has {length}"))),
    }
}

pub(crate) fn pack_entries<'a>(cursor: &mut Cursor<'a>, length: usize) -> Result<Vec<Entry<'a>>, Failure> {
    check_entries(length)?;
    let mut entries = Vec::with_capacity(length);
    for _ in 0..length {
        let Pack::Str(name) = cursor.token()? else {
            return Err(Failure::invalid("the names of fields are texts"));
        };
        entries.push((Cow::Borrowed(name), Raw::Pack(cursor.raw()?)));
    }
    Ok(entries)
}

// ---- JSON ----

fn json_body(body: &[u8], header: &mut Header) -> Result<Operations, Failure> {
    if body.is_empty() {
        return Err(Failure::invalid("the message is empty"));
    }
    let text = json::check(body, DEPTH_MAX)?;
    let mut walker = Walker::new(text);
    match walker.token()? {
        Json::Object => message(json_entries(&mut walker)?, header),
        Json::Array => json_operations(&mut walker),
        _ => Err(Failure::invalid("a JSON message is an object or an array of objects")),
    }
}

fn json_operations(walker: &mut Walker<'_>) -> Result<Operations, Failure> {
    let mut many = Many::default();
    while walker.more_elements() {
        if many.operations.len() == ARRAY_OPERATIONS_MAX {
            return Err(Failure::limit(format!("an array holds at most {ARRAY_OPERATIONS_MAX} operations; this one has more")));
        }
        many.push(operation(Raw::Json(walker.raw()?))?)?;
    }
    check_count(many.operations.len())?;
    Ok(Operations::Many(many.operations))
}

pub(crate) fn json_entries<'a>(walker: &mut Walker<'a>) -> Result<Vec<Entry<'a>>, Failure> {
    let mut entries = Vec::new();
    while let Some(name) = walker.next_field()? {
        check_entries(entries.len())?;
        entries.push((name, Raw::Json(walker.raw()?)));
    }
    Ok(entries)
}

// ---- both ----

/// The operations of an array, as they are read.
#[derive(Default)]
struct Many {
    operations: Vec<Operation>,
    regexes: usize,
    weight: usize,
}

impl Many {
    /// Refuses the array at the first regex too many: each was compiled to check it, and that is the dearest thing in a message.
    fn push(&mut self, operation: Operation) -> Result<(), Failure> {
        self.regexes += operation.regexes();
        if self.regexes > ARRAY_REGEXES_MAX {
            return Err(Failure::limit(format!(
                "an array holds at most {ARRAY_REGEXES_MAX} regexes, those in predicates included"
            )));
        }
        if operation.stands_alone() {
            return Err(Failure::invalid(format!("`{}` stands alone in its message", operation.verb())));
        }
        self.weight += operation.weight();
        if self.weight > ARRAY_OPERATIONS_MAX {
            let message = format!(
                "an array holds at most {ARRAY_OPERATIONS_MAX} operations, those of its transactions and the keys of its mgets included"
            );
            return Err(Failure::limit(message));
        }
        self.operations.push(operation);
        Ok(())
    }
}

pub(crate) type Entry<'a> = (Cow<'a, str>, Raw<'a>);

fn check_entries(length: usize) -> Result<(), Failure> {
    /// More than any operation and the header have together.
    const ENTRIES_MAX: usize = 32;
    if length > ENTRIES_MAX {
        return Err(Failure::invalid(format!("a message has at most {ENTRIES_MAX} fields")));
    }
    Ok(())
}

/// A message in map form: header fields beside one operation's fields, or beside `ops`.
fn message(mut entries: Vec<Entry<'_>>, header: &mut Header) -> Result<Operations, Failure> {
    // The id first: a later field's refusal carries it.
    if let Some((_, raw)) = entries.iter().find(|(name, _)| name == "id") {
        header.id = optional(*raw, |raw| raw.uint("id"))?;
    }
    let mut ops = None;
    let mut failure = None;
    entries.retain(|(name, raw)| match header_field(name, *raw, header, &mut ops) {
        Ok(taken) => !taken,
        Err(error) => {
            failure.get_or_insert(error);
            false
        }
    });
    if let Some(failure) = failure {
        return Err(failure);
    }
    match ops {
        None => operation_of(entries).map(Operations::One),
        Some(_) if !entries.is_empty() => {
            let name: String = entries[0].0.chars().take(32).collect();
            Err(Failure::invalid(format!("beside `ops` only header fields may stand, not {name:?}")))
        }
        Some(raw) => match op_or_ops(raw)? {
            many @ Operations::Many(_) => Ok(many),
            Operations::One(_) => Err(Failure::invalid("`ops` is an array of operations")),
        },
    }
}

/// True when the field belonged to the header.
fn header_field<'a>(name: &str, raw: Raw<'a>, header: &mut Header, ops: &mut Option<Raw<'a>>) -> Result<bool, Failure> {
    match name {
        "id" => {}
        "broker" => header.broker = optional(raw, |raw| raw.id16("broker"))?,
        "session" => header.session = optional(raw, |raw| raw.id16("session"))?,
        "seq" => header.seq = optional(raw, |raw| raw.uint("seq"))?,
        "ack" => header.ack = optional(raw, |raw| raw.uint("ack"))?,
        "got" => header.got = optional(raw, |raw| raw.uint("got"))?,
        "ops" => *ops = Some(raw),
        _ => return Ok(false),
    }
    Ok(true)
}

/// One operation as a map or an array that starts with its verb, or many as an array of these.
fn op_or_ops(raw: Raw<'_>) -> Result<Operations, Failure> {
    match raw {
        Raw::Pack(bytes) => {
            let mut cursor = Cursor::new(bytes);
            match cursor.token()? {
                Pack::Array(0) => Err(Failure::invalid("an empty array asks for nothing")),
                Pack::Array(length) => {
                    let first_at = cursor.offset();
                    match cursor.token()? {
                        Pack::Str(_) => operation(raw).map(Operations::One),
                        _ => {
                            cursor.seek(first_at);
                            pack_operations(&mut cursor, length)
                        }
                    }
                }
                _ => operation(raw).map(Operations::One),
            }
        }
        Raw::Json(text) => {
            let mut walker = Walker::new(text);
            match walker.token()? {
                Json::Array => json_operations(&mut walker),
                _ => operation(raw).map(Operations::One),
            }
        }
    }
}

/// One operation: an object, a map, or an array that starts with its verb.
pub(crate) fn operation(raw: Raw<'_>) -> Result<Operation, Failure> {
    match raw {
        Raw::Pack(bytes) => {
            let mut cursor = Cursor::new(bytes);
            match cursor.token()? {
                Pack::Map(length) => operation_of(pack_entries(&mut cursor, length)?),
                Pack::Array(length) => compact_operation(&mut cursor, length),
                _ => Err(Failure::invalid("an operation is a map, or an array that starts with its verb")),
            }
        }
        Raw::Json(text) => {
            let mut walker = Walker::new(text);
            match walker.token()? {
                Json::Object => operation_of(json_entries(&mut walker)?),
                _ => Err(Failure::invalid("an operation is an object; arrays of operations don't nest")),
            }
        }
    }
}

fn compact_operation(cursor: &mut Cursor<'_>, length: usize) -> Result<Operation, Failure> {
    let verb = match length.checked_sub(1).map(|_| cursor.token()).transpose()? {
        Some(Pack::Str(name)) => Verb::find(name)?,
        _ => return Err(Failure::invalid("an operation starts with its verb; arrays of operations don't nest")),
    };
    let mut fields = Fields::new(verb);
    let arguments = length - 1;
    let positional = verb.positional.len();
    if arguments > positional + 1 {
        return Err(Failure::invalid(format!(
            "`{}` has {positional} arguments and a map of options; {arguments} were given",
            verb.names[0]
        )));
    }
    for index in 0..arguments.min(positional) {
        fields.set(index, Raw::Pack(cursor.raw()?));
    }
    if arguments > positional {
        match cursor.token()? {
            Pack::Map(length) => {
                for (name, raw) in pack_entries(cursor, length)? {
                    let index = verb.field(&name).filter(|index| *index >= positional);
                    fields.set(index.ok_or_else(|| verb.no_such_field(&name))?, raw);
                }
            }
            Pack::Nil => {}
            _ => return Err(Failure::invalid(format!("behind its arguments `{}` takes a map of options", verb.names[0]))),
        }
    }
    fields.build()
}

fn operation_of(entries: Vec<Entry<'_>>) -> Result<Operation, Failure> {
    let mut named = entries.iter().filter(|(name, _)| name == "op" || name == "method");
    let (name, raw) = named.next().ok_or_else(|| Failure::invalid("an operation names its verb in `op` (or `method`)"))?;
    if named.next().is_some() {
        return Err(Failure::invalid("an operation names its verb once, in `op` or in `method`"));
    }
    let verb = Verb::find(&raw.text(name)?)?;
    let mut fields = Fields::new(verb);
    for (name, raw) in &entries {
        if name != "op" && name != "method" {
            fields.set(verb.field(name).ok_or_else(|| verb.no_such_field(name))?, *raw);
        }
    }
    fields.build()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::convert::json_to_msgpack;
    use crate::operation::Scan;
    use crate::predicate::Scalar;
    use crate::value::Stored;

    fn json(text: &str) -> Result<Request, Rejected> {
        decode_request(text.as_bytes())
    }

    fn pack(text: &str) -> Result<Request, Rejected> {
        decode_request(&json_to_msgpack(text.as_bytes()).unwrap())
    }

    #[test]
    fn the_course_json_works_as_it_stands() {
        let request = json(r#"{"method":"insert","key":"zebra","value":{"weight":100}}"#).unwrap();
        assert_eq!(request.form, Form::Json);
        assert_eq!(request.header, Header::default());
        let value = Stored::from_json(br#"{"weight":100}"#).unwrap();
        assert_eq!(
            request.operations,
            Operations::One(Operation::Put { key: b"zebra".to_vec(), value, condition: None, ttl_ms: None })
        );
        for (text, verb) in [
            (r#"{"method":"lookup","key":"zebra"}"#, "get"),
            (r#"{"method":"remove","key":"zebra"}"#, "del"),
            (r#"{"method":"size"}"#, "size"),
            (r#"{"method":"query","subkey":"weight","subvalue":100}"#, "query"),
            (r#"{"method":"scan","regex":"^z"}"#, "scan"),
        ] {
            assert_eq!(json(text).unwrap().operations.as_slice()[0].verb(), verb);
            assert_eq!(pack(text).unwrap().operations, json(text).unwrap().operations);
            assert_eq!(pack(text).unwrap().form, Form::Map);
        }
    }

    #[test]
    fn compact_arrays_say_the_same_as_maps() {
        let request = pack(r#"[1,7,null,"00000000000000010000000000000002",3,2,6,["del","k",{"return":true}]]"#).unwrap();
        assert_eq!(request.form, Form::Compact);
        assert_eq!(request.header.id, Some(7));
        assert_eq!((request.header.seq, request.header.ack, request.header.got), (Some(3), Some(2), Some(6)));
        assert_eq!(request.header.session.unwrap().born_ms(), 1);
        assert_eq!(request.operations, Operations::One(Operation::Del { key: b"k".to_vec(), return_old: true, condition: None }));
        let many =
            pack(r#"[1,7,null,null,null,null,null,[["get","a"],{"op":"get","key":"b"},["scan",{"prefix":"c","limit":3}]]]"#)
                .unwrap();
        assert_eq!(
            many.operations,
            Operations::Many(vec![
                Operation::Get { key: b"a".to_vec() },
                Operation::Get { key: b"b".to_vec() },
                Operation::Scan(Scan { prefix: b"c".to_vec(), limit: Some(3), ..Scan::default() }),
            ])
        );
        let query = pack(r#"[1,7,null,null,null,null,null,["query","w",100]]"#).unwrap();
        assert_eq!(
            query.operations,
            Operations::One(Operation::Query { subkey: "w".into(), subvalue: Scalar::Int(100), scan: Scan::default() })
        );
    }

    #[test]
    fn arrays_of_maps_and_ops_beside_a_header() {
        let bare = json(r#"[{"op":"get","key":"a"},{"op":"size"}]"#).unwrap();
        let headed = json(r#"{"id":9,"ops":[{"op":"get","key":"a"},{"op":"size"}]}"#).unwrap();
        assert_eq!(bare.operations, headed.operations);
        assert_eq!(headed.header.id, Some(9));
        assert_eq!(pack(r#"[{"op":"get","key":"a"},{"op":"size"}]"#).unwrap().operations, bare.operations);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_id_and_shape() {
        let cases: &[(&str, &str)] = &[
            ("[]", "empty"),
            ("{}", "`op`"),
            (r#"{"op":"fly","id":4}"#, "fly"),
            (r#"{"op":"get","id":4}"#, "needs `key`"),
            (r#"{"op":"get","key":1,"id":4}"#, "`key` must be"),
            (r#"{"op":"put","key":"a","id":4}"#, "needs `value`"),
            (r#"{"op":"put","key":"a","vlaue":1,"id":4}"#, "vlaue"),
            (r#"{"op":"get","method":"get","key":"a","id":4}"#, "once"),
            (r#"{"op":"scan","regex":"(","id":4}"#, "does not compile"),
            (r#"{"op":"scan","limit":0,"id":4}"#, "at least 1"),
            (r#"{"op":"query","subkey":"a","subvalue":[1],"id":4}"#, "compared with"),
            (r#"{"op":"get","key":"a","seq":-1,"id":4}"#, "`seq` must be"),
            (r#"{"id":4,"ops":[]}"#, "empty"),
            (r#"{"id":4,"ops":{"op":"size"}}"#, "array"),
            (r#"{"id":4,"op":"size","ops":[{"op":"size"}]}"#, "beside `ops`"),
            (r#"{"id":4,"ops":[[{"op":"size"}]]}"#, "nest"),
            (r#"[{"op":"size","id":4}]"#, "no field"),
            (r#"{"id":4,"ops":[{"op":"size"},{"op":"history","key":"a"}]}"#, "stands alone"),
            (r#"{"op":"txn","then":[{"op":"history","key":"a"}],"id":4}"#, "part of a transaction"),
            (r#"{"id":4,"ops":[{"op":"size"},{"op":"events"}]}"#, "stands alone"),
            (r#"{"op":"txn","then":[{"op":"events","wait":5}],"id":4}"#, "part of a transaction"),
            (r#"{"op":"events","wait":60001,"id":4}"#, "at most 60000 ms"),
            (r#"{"op":"history","key":"a","limit":0,"id":4}"#, "at least 1"),
            (r#"{"op":"txn","then":[{"op":"scan","snapshot":0}],"id":4}"#, "`snapshot`"),
            (r#"{"op":"txn","else":[{"op":"query","subkey":"a","subvalue":1,"snapshot":7}],"id":4}"#, "`snapshot`"),
        ];
        for (text, part) in cases {
            for (rejected, form) in [(json(text), Form::Json), (pack(text), Form::Map)] {
                let rejected = rejected.unwrap_err();
                assert!(rejected.failure.message.contains(part), "{text}: {}", rejected.failure.message);
                assert_eq!(rejected.form, form);
                assert_eq!(rejected.id, (text.contains("\"id\"") && !text.starts_with('[')).then_some(4), "{text}");
            }
        }
        let version = pack("[2,7,null]").unwrap_err();
        assert_eq!((version.failure.code, version.id, version.form), (ErrorCode::UnsupportedVersion, Some(7), Form::Compact));
        assert!(pack("[1,7,null]").unwrap_err().failure.message.contains("8 elements"));
    }

    #[test]
    fn hostile_bytes_are_refused_in_a_known_shape() {
        assert_eq!(decode_request(b"").unwrap_err().form, Form::Json);
        assert_eq!(decode_request(b"\xef\xbb\xbf{\"op\":\"size\"}").unwrap_err().form, Form::Json);
        assert_eq!(decode_request(b"{\"op\":\"size\"} x").unwrap_err().form, Form::Json);
        assert_eq!(decode_request(b"\xc0").unwrap_err().form, Form::Map);
        assert_eq!(decode_request(b"\x81\xa2op\xa4size\x00").unwrap_err().form, Form::Map);
        assert!(decode_request(&vec![b' '; MESSAGE_BYTES_MAX + 1]).unwrap_err().failure.code == ErrorCode::Limit);
    }

    #[test]
    fn mgets_in_an_array_count_for_each_of_their_keys() {
        // One message of 4,000 mgets with 4,000 empty keys each took the broker to 409 MB and could never be answered.
        let mget = |keys: usize| format!(r#"{{"op":"mget","keys":[{}]}}"#, vec![r#""""#; keys].join(","));
        let txn = |keys: usize| format!(r#"{{"op":"txn","then":[{}]}}"#, mget(keys));
        for (text, taken) in [
            (format!("[{},{}]", mget(ARRAY_OPERATIONS_MAX / 2), mget(ARRAY_OPERATIONS_MAX / 2)), true),
            (format!("[{},{}]", mget(ARRAY_OPERATIONS_MAX / 2), mget(ARRAY_OPERATIONS_MAX / 2 + 1)), false),
            (txn(crate::limits::TXN_OPERATIONS_MAX), true),
            (txn(crate::limits::TXN_OPERATIONS_MAX + 1), false),
        ] {
            for result in [json(&text), pack(&text)] {
                assert_eq!(result.is_ok(), taken);
                assert!(result.err().is_none_or(|rejected| rejected.failure.code == ErrorCode::Limit));
            }
        }
    }

    #[test]
    fn a_small_message_of_many_regexes_does_not_compile_them_all() {
        // Each took 5 ms and 1.2 MB: 4,096 of them held the front end for 20 seconds and 4.8 GB.
        let scans = |count: usize| vec![r#"{"op":"scan","regex":"\\w{4}"}"#; count].join(",");
        for (count, taken) in [(ARRAY_REGEXES_MAX, true), (ARRAY_REGEXES_MAX + 1, false), (ARRAY_OPERATIONS_MAX, false)] {
            for text in [format!("[{}]", scans(count)), format!(r#"{{"id":4,"ops":[{}]}}"#, scans(count))] {
                for result in [json(&text), pack(&text)] {
                    assert_eq!(result.is_ok(), taken, "{count}");
                    assert!(result.err().is_none_or(|rejected| rejected.failure.code == ErrorCode::Limit));
                }
            }
        }
    }

    #[test]
    fn random_bytes_never_panic() {
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let good = json_to_msgpack(br#"[1,7,null,null,1,0,0,[["put","k",{"a":[1,2.5]}],["scan",{"regex":"a"}]]]"#).unwrap();
        for _ in 0..200_000 {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            let mut body = good.clone();
            for flip in 0..=(seed >> 60) {
                let at = (seed.rotate_left(flip as u32 * 7) as usize) % body.len();
                body[at] = (seed >> (flip % 8 * 8)) as u8;
            }
            let _ = decode_request(&body);
            let text: Vec<u8> = body.iter().map(|byte| b"{}[]\":,0e.\\u$ab"[usize::from(*byte) % 15]).collect();
            let _ = decode_request(&text);
        }
    }
}

//! The shared vectors of `tests/vectors` that need no broker: conversion of values, and what each message asks.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use kvbroker_protocol::{Form, Rejected, Request, decode_request, encode_request, json_to_msgpack, msgpack_to_json};
use vectors::{Encoding, Kept};

#[path = "../../tests/src/vectors.rs"]
#[allow(dead_code, reason = "what is for sequences of messages is used where there is a broker")]
mod vectors;

/// Bytes for a failure's text: as text where they are some.
fn shown(bytes: &[u8]) -> String {
    let text = std::str::from_utf8(bytes).map_or_else(|_| format!("{:02x?}", &bytes[..bytes.len().min(200)]), str::to_owned);
    text.chars().take(400).collect()
}

#[test]
fn every_vector_has_a_name_of_its_own_and_a_reason() {
    let files = vectors::files();
    for file in ["conversion", "conversions", "exchanges", "keys", "predicates", "requests", "sessions"] {
        assert!(files.iter().any(|name| name == file), "there is no {file}.json");
    }
    for file in files {
        let mut names = BTreeSet::new();
        for vector in vectors::vectors(&file) {
            assert!(!vector.name().is_empty() && names.insert(vector.name().to_owned()), "{file}: {}", vector.0);
            assert!(vector.text("why").is_some_and(|why| why.len() > 5), "{file}: {} says why", vector.name());
        }
    }
}

#[test]
fn values_convert_as_the_vectors_say() {
    let kept = Kept::new();
    for vector in vectors::vectors("conversion") {
        let name = vector.name();
        let (pack, json) = (vector.form(Encoding::MessagePack, &kept), vector.form(Encoding::Json, &kept));
        if let Some(code) = vector.text("error") {
            assert!(pack.is_none() || json.is_none(), "{name}: one form is refused");
            let result = match (&pack, &json) {
                (Some(pack), _) => msgpack_to_json(pack),
                (None, json) => json_to_msgpack(json.as_ref().unwrap()),
            };
            let taken = result.map(|converted| shown(&converted));
            assert_eq!(taken.map_err(|failure| failure.code.name()), Err(code), "{name}");
            continue;
        }
        let (pack, json) = (pack.unwrap(), json.unwrap());
        let way = vector.text("way");
        assert!(matches!(way, None | Some("to_json" | "to_msgpack")), "{name}: which way is {way:?}?");
        // One way only: what is written differently does not come back as it was.
        let to_json = msgpack_to_json(&pack).unwrap();
        assert_eq!(to_json == json, way != Some("to_msgpack"), "{name}: in JSON {}, not {}", shown(&to_json), shown(&json));
        let to_pack = json_to_msgpack(&json);
        let same = to_pack.as_ref().is_ok_and(|converted| *converted == pack);
        assert_eq!(same, way != Some("to_json"), "{name}: in MessagePack {to_pack:02x?}, not {pack:02x?}");
    }
}

/// The one way in which a request is written by this project's own clients, values in MessagePack.
fn canonical(request: &Request) -> Vec<u8> {
    let mut out = Vec::new();
    encode_request(&request.header, &request.operations, &mut out);
    out
}

#[test]
fn messages_ask_what_the_vectors_say() {
    let kept = Kept::new();
    for vector in vectors::vectors("requests") {
        let name = vector.name();
        let (encoding, body) = vector.body(&kept);
        let form = match encoding {
            Encoding::Json => Form::Json,
            Encoding::MessagePack if vector.says("compact") => Form::Compact,
            Encoding::MessagePack => Form::Map,
        };
        let decoded = decode_request(&body);
        match vector.text("error") {
            // Well-formed: only a broker can tell.
            Some(_) if vector.says("needs_a_broker") => assert_eq!(decoded.unwrap().form, form, "{name}"),
            Some(code) => {
                let Rejected { id, form: actual, failure } = decoded.err().unwrap_or_else(|| panic!("{name} is taken"));
                assert_eq!((failure.code.name(), id, actual), (code, vector.0["id"].as_u64(), form), "{name}: {failure:?}");
            }
            None => {
                let request = decoded.unwrap_or_else(|rejected| panic!("{name}: {rejected:?}"));
                assert_eq!(request.form, form, "{name}");
                match vector.0.get("same_as") {
                    None => assert!(vector.says("accepted"), "{name} says nothing"),
                    Some(plain) => {
                        let plain = decode_request(plain.to_string().as_bytes()).unwrap();
                        assert_eq!(shown(&canonical(&request)), shown(&canonical(&plain)), "{name}");
                        assert_eq!(canonical(&request), canonical(&plain), "{name}");
                    }
                }
            }
        }
    }
}

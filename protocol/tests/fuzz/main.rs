//! A slice of fuzzing with a fixed seed: the function that `fuzz/` gives to libFuzzer, with mutations of our own, from the shared
//! vectors on.
//!
//! `fuzz/run request` is the long run. `KVBROKER_FUZZ_INPUTS=1000000` makes this one longer, `KVBROKER_TEST_SEED` another.
#![allow(clippy::unwrap_used)]

#[path = "../../../fuzz/targets/request.rs"]
mod request;
#[path = "../../../fuzz/slice.rs"]
mod slice;
#[path = "../../../tests/src/vectors.rs"]
#[allow(dead_code, reason = "what is for sequences of messages is used where there is a broker")]
mod vectors;

use std::path::Path;

use kvbroker_protocol::{decode_request, encode_request};
use request::{Became, Shape, request};
use slice::slice;
use vectors::{Encoding, Kept};

/// Longer ones are about lengths, and slow.
const SEED_BYTES_MAX: usize = 2000;

/// What not every client may ask: such requests come from strangers, too.
const CLOSED_TO_MOST: [&str; 5] = [
    r#"{"op":"authorize","key":"kvpub15a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a","role":"write","prefixes":["team/",{"$bytes":"/wA="}],"comment":"Ann"}"#,
    r#"{"op":"authorize","key":"kvpub15a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a","role":"admin"}"#,
    r#"{"id":7,"op":"revoke","key":"kvpub15a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a"}"#,
    r#"{"op":"who"}"#,
    r#"{"op":"events","prefix":"team/","after":7,"limit":10,"wait":60000}"#,
];

fn seeds() -> Vec<Vec<u8>> {
    let kept = Kept::new();
    let mut seeds = Vec::new();
    for (file, encoding) in [("requests", Encoding::Json), ("requests", Encoding::MessagePack)] {
        seeds.extend(vectors::vectors(file).iter().filter_map(|vector| vector.form(encoding, &kept)));
    }
    seeds.extend(CLOSED_TO_MOST.iter().map(|text| text.as_bytes().to_vec()));
    // The same as MessagePack maps.
    seeds.extend(seeds.clone().iter().filter_map(|seed| kvbroker_protocol::json_to_msgpack(seed).ok()));
    // Values, and messages that store them.
    for vector in vectors::vectors("conversion") {
        let (json, pack) = (vector.form(Encoding::Json, &kept), vector.form(Encoding::MessagePack, &kept));
        seeds.extend(json.iter().map(|value| [&b"{\"op\":\"put\",\"key\":\"a\",\"value\":"[..], value, b"}"].concat()));
        let head = [&[0x98, 1, 1][..], &[0xc0; 5], &[0x93, 0xa3], b"put", &[0xa1], b"a"].concat();
        seeds.extend(pack.iter().map(|value| [&head[..], value].concat()));
        seeds.extend(json.into_iter().chain(pack));
    }
    let compact: Vec<Vec<u8>> = CLOSED_TO_MOST.iter().map(|text| compact(text.as_bytes())).collect();
    seeds.extend(compact);
    seeds.retain(|seed| !seed.is_empty() && seed.len() <= SEED_BYTES_MAX);
    seeds
}

/// A request in the compact form.
fn compact(text: &[u8]) -> Vec<u8> {
    let request = decode_request(text).unwrap();
    let mut body = Vec::new();
    encode_request(&request.header, &request.operations, &mut body);
    body
}

#[test]
fn no_body_breaks_a_decoder() {
    let seeds = seeds();
    assert!(seeds.len() > 100, "{} seeds", seeds.len());
    for seed in &seeds {
        request(seed);
    }
    let counts = slice("request", 200_000, &seeds, &[], request);
    for became in [Became::Refused, Became::Taken(Shape::Compact), Became::Taken(Shape::Map), Became::Taken(Shape::Json)] {
        assert!(counts.get(&became).is_some_and(|count| *count > 100), "{became:?}: {counts:?}");
    }
}

/// For `fuzz/run`, which names the directory.
#[test]
#[ignore = "writes the seeds for libFuzzer into KVBROKER_FUZZ_SEEDS; fuzz/run calls it"]
fn write_the_seeds() {
    let directory = std::env::var_os("KVBROKER_FUZZ_SEEDS").expect("KVBROKER_FUZZ_SEEDS names a directory");
    let directory = Path::new(&directory).join("request");
    std::fs::create_dir_all(&directory).unwrap();
    for (index, seed) in seeds().into_iter().enumerate() {
        std::fs::write(directory.join(format!("seed-{index}")), seed).unwrap();
    }
}

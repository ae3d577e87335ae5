//! A slice of fuzzing with a fixed seed: the functions that `fuzz/` gives to libFuzzer, with mutations of our own, from the shared
//! vectors on.
//!
//! `fuzz/run request` and `fuzz/run stream` are the long runs. `KVBROKER_FUZZ_INPUTS=1000000` makes this one longer, `KVBROKER_TEST_SEED` another.
#![allow(clippy::unwrap_used)]

#[path = "../../../fuzz/targets/request.rs"]
mod request;
#[path = "../../../fuzz/slice.rs"]
mod slice;
#[path = "../../../fuzz/targets/stream.rs"]
mod stream;
#[path = "../../../tests/src/vectors.rs"]
#[allow(dead_code, reason = "what is for sequences of messages is used where there is a broker")]
mod vectors;

use std::path::Path;

use kvbroker_protocol::{
    ChangeKind, KeyEvent, PublishedMessages, RevisionEvents, RevisionMessages, Stored, StreamMessage, SubjectMessage,
    decode_request, encode_request, message_stream_topic, stream_topic,
};
use request::{Became, Shape, request};
use slice::slice;
use vectors::{Encoding, Kept};

/// Longer ones are about lengths, and slow.
const SEED_BYTES_MAX: usize = 2000;

/// What not every client may ask: such requests come from strangers, too.
const CLOSED_TO_MOST: [&str; 8] = [
    r#"{"op":"authorize","key":"kvpub15a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a","role":"write","prefixes":["team/",{"$bytes":"/wA="}],"comment":"Ann"}"#,
    r#"{"op":"authorize","key":"kvpub15a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a","role":"admin"}"#,
    r#"{"id":7,"op":"revoke","key":"kvpub15a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a"}"#,
    r#"{"op":"who"}"#,
    r#"{"op":"events","prefix":"team/","after":7,"limit":10,"wait":60000}"#,
    r#"{"op":"events","prefix":"team/","after":7,"epoch":"00000000feedbeef","detail":true}"#,
    r#"{"op":"events","prefix":"","after":0,"where":"weight > 100 and color = red","wait":1}"#,
    r#"{"op":"events","prefix":"t","after":18446744073709551615,"epoch":"ffffffffffffffff","detail":false,"where":"a=1 or not b=\"x\"","limit":1}"#,
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

/// Messages of streams, each behind its topic and the topic's length.
fn stream_seeds() -> Vec<Vec<u8>> {
    let change = |key: &[u8], kind| KeyEvent { key: key.to_vec(), kind, before: None };
    let put = |json: &[u8]| ChangeKind::Put(Stored::from_json(json).unwrap());
    let revision = |revision, changes| RevisionEvents { revision, time_ms: 1_795_255_198_000, changes, origin: None };
    let few = vec![change(b"a/1", put(br#"{"deep":[1,2.5,"x"]}"#)), change(b"a/2", ChangeKind::Remove)];
    let messages = [
        StreamMessage {
            epoch: 0xfeed,
            prev: 3,
            revision: 300,
            events: vec![revision(4, few), revision(299, vec![change(b"a/\xff", ChangeKind::Expire)])],
        },
        StreamMessage { epoch: 1, prev: 7, revision: 7, events: vec![] },
        StreamMessage {
            epoch: u64::MAX,
            prev: 0,
            revision: u64::MAX,
            events: vec![revision(u64::MAX, vec![change(b"a/", put(b"1"))])],
        },
    ];
    let mut seeds = vec![b"\x01h\x80".to_vec(), b"\x02kx\x80".to_vec()];
    for prefix in [&b""[..], b"a/"] {
        for message in &messages {
            let topic = stream_topic(prefix);
            let mut seed = vec![u8::try_from(topic.len()).unwrap()];
            seed.extend_from_slice(&topic);
            message.encode(&mut seed);
            seeds.push(seed);
        }
    }
    let about = |subject: &[u8]| SubjectMessage { subject: subject.to_vec(), value: Stored::from_json(b"[1,\"x\"]").unwrap() };
    let told = |revision, messages| RevisionMessages { revision, time_ms: 1_795_255_198_000, messages };
    let revisions = vec![told(4, vec![about(b"a.b"), about(b"a.c")]), told(9, vec![about(b"a.b")])];
    for (pattern, revisions) in [(&b"a.*"[..], revisions.clone()), (b"#", revisions), (b"a", vec![])] {
        let topic = message_stream_topic(pattern);
        let mut seed = vec![u8::try_from(topic.len()).unwrap()];
        seed.extend_from_slice(&topic);
        PublishedMessages { epoch: 0xfeed, prev: 3, revision: 300, revisions }.encode(&mut seed);
        seeds.push(seed);
    }
    seeds
}

#[test]
fn no_message_of_a_stream_breaks_its_reader() {
    use stream::{Became, stream};
    let seeds = stream_seeds();
    let became: Vec<Became> = seeds.iter().map(|seed| stream(seed)).collect();
    assert_eq!(became[..2], [Became::NoStream; 2]);
    assert!(
        became[2..].iter().all(|became| matches!(became, Became::Bookmark | Became::Changes | Became::Messages)),
        "{became:?}"
    );
    let counts = slice("stream", 200_000, &seeds, &[], stream);
    for became in [Became::NoStream, Became::Refused, Became::Bookmark, Became::Changes, Became::Messages] {
        assert!(counts.get(&became).is_some_and(|count| *count > 100), "{became:?}: {counts:?}");
    }
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
    for (name, seeds) in [("request", seeds()), ("stream", stream_seeds())] {
        let directory = Path::new(&directory).join(name);
        std::fs::create_dir_all(&directory).unwrap();
        for (index, seed) in seeds.into_iter().enumerate() {
            std::fs::write(directory.join(format!("seed-{index}")), seed).unwrap();
        }
    }
}

//! Length of the topic, topic and body as bytes; what must hold is in `targets/stream.rs`.
#![no_main]

#[path = "../targets/stream.rs"]
mod stream;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    stream::stream(input);
});

//! An endpoint file as bytes; what must hold is in `targets/endpoint.rs`.
#![no_main]

#[path = "../targets/endpoint.rs"]
mod endpoint;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    endpoint::endpoint(input);
});

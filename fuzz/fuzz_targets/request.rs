//! The body of a message as bytes; what must hold is in `targets/request.rs`.
#![no_main]

#[path = "../targets/request.rs"]
mod request;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    request::request(input);
});

//! A checkpoint as bytes; what must hold is in `targets/checkpoint.rs`.
#![no_main]

#[path = "../targets/checkpoint.rs"]
mod checkpoint;
#[allow(dead_code, reason = "a segment is mended elsewhere")]
#[path = "../targets/mend.rs"]
mod mend;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    checkpoint::checkpoint(input);
});

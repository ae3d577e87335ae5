//! A data directory as bytes; what must hold is in `targets/log.rs`.
#![no_main]

#[allow(dead_code, reason = "the tests make their seeds with it")]
#[path = "../targets/log.rs"]
mod log;
#[path = "../targets/mend.rs"]
mod mend;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    log::log(input);
});

//! A `known_brokers` as bytes; what must hold is in `targets/pins.rs`.
#![no_main]

#[path = "../targets/pins.rs"]
mod pins;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    pins::pins(input);
});

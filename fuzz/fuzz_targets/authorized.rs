//! The file `authorized_clients` as bytes; what must hold is in `targets/authorized.rs`.
#![no_main]

#[path = "../targets/authorized.rs"]
mod authorized;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    authorized::authorized(input);
});

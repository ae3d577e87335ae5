//! An answer of a catalog, or an update for one, as bytes; what must hold is in `targets/catalog.rs`.
#![no_main]

#[path = "../targets/catalog.rs"]
mod catalog;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    catalog::catalog(input);
});

//! Compares the declarations of this crate with the `zmq.h` it compiled.
//!
//! - Nothing of the stable interface may be missing, and nothing may be declared that
//!   the header lacks.
//! - Parameter types are not compared: read them again when the header changes.

use std::collections::{BTreeMap, BTreeSet};
use std::ptr;

const CONSTANTS: &str = include_str!("../src/constants.rs");
const FUNCTIONS: &str = include_str!("../src/functions.rs");

/// The part of the header that every build offers.
fn stable_header() -> String {
    let header = std::fs::read_to_string(env!("ZMQ_SYS_HEADER")).expect("build.rs copied it");
    let (stable, _draft) = header.split_once("#ifdef ZMQ_BUILD_DRAFT_API").expect("the draft part comes last");
    stable.to_owned()
}

fn number(text: &str) -> Option<i64> {
    let digits = text.replace('_', "");
    match digits.strip_prefix("0x") {
        Some(hex) => i64::from_str_radix(hex, 16).ok(),
        None => digits.parse().ok(),
    }
}

/// Turns names and values as written into numbers, following one level of aliases.
fn numbers<'a>(definitions: impl Iterator<Item = (&'a str, &'a str)>) -> BTreeMap<&'a str, i64> {
    let (values, aliases): (Vec<_>, Vec<_>) = definitions.partition(|(_, value)| number(value).is_some());
    let mut numbers: BTreeMap<_, _> = values.into_iter().filter_map(|(name, value)| Some((name, number(value)?))).collect();
    for (name, original) in aliases {
        if let Some(&value) = numbers.get(original) {
            numbers.insert(name, value);
        }
    }
    numbers
}

#[test]
fn constants_are_those_of_the_header() {
    let header = stable_header();
    let mut theirs = numbers(header.lines().filter_map(|line| {
        let mut words = line.strip_prefix("#define ZMQ_")?.split_whitespace();
        let name = &line["#define ".len()..][.."ZMQ_".len() + words.next()?.len()];
        Some((name, words.next()?))
    }));
    // Says that stdint.h was included; of no use outside C.
    theirs.remove("ZMQ_DEFINED_STDINT");

    let mut ours = numbers(CONSTANTS.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("pub const ")?.split_once(": ")?;
        Some((name, rest.split_once(" = ")?.1.strip_suffix(';')?))
    }));
    // The one draft option declared here; the stable header hides it.
    assert_eq!(ours.remove("ZMQ_ZAP_ENFORCE_DOMAIN"), Some(93));

    assert!(theirs.len() > 150, "read only {} defines", theirs.len());
    assert_eq!(ours, theirs);
}

#[test]
fn functions_are_those_of_the_header() {
    let header = stable_header();
    let theirs: BTreeSet<&str> = header
        .split("ZMQ_EXPORT ")
        .skip(1)
        .filter_map(|declaration| {
            let (head, _) = declaration.split_once('(')?;
            let name = head.split_whitespace().last()?.trim_start_matches('*');
            name.starts_with("zmq_").then_some(name)
        })
        .collect();
    let ours: BTreeSet<&str> =
        FUNCTIONS.lines().filter_map(|line| Some(line.trim().strip_prefix("pub fn ")?.split_once('(')?.0)).collect();
    assert!(theirs.len() > 60, "read only {} functions", theirs.len());
    assert_eq!(ours, theirs);
}

#[test]
fn the_library_agrees_on_version_and_message_size() {
    let (mut major, mut minor, mut patch) = (0, 0, 0);
    // SAFETY: three valid pointers to writable ints.
    unsafe { zmq_sys::zmq_version(&raw mut major, &raw mut minor, &raw mut patch) };
    assert_eq!((major, minor, patch), (4, 3, 5));

    // SAFETY: no preconditions.
    let context = unsafe { zmq_sys::zmq_ctx_new() };
    assert_ne!(context, ptr::null_mut());
    // SAFETY: the context is valid until it is terminated below.
    let message_bytes = unsafe { zmq_sys::zmq_ctx_get(context, zmq_sys::ZMQ_MSG_T_SIZE as i32) };
    assert_eq!(usize::try_from(message_bytes), Ok(size_of::<zmq_sys::zmq_msg_t>()));
    assert_eq!(align_of::<zmq_sys::zmq_msg_t>(), align_of::<*const ()>());
    // SAFETY: as above, and nothing uses the context afterwards.
    assert_eq!(unsafe { zmq_sys::zmq_ctx_term(context) }, 0);
}

//! What must hold for any text in the place of `known_brokers`.
//!
//! - Nothing panics. What is wrong is said in few and printable words, and never with a secret key in them.
//! - A broker has one key, the one of its first line, which is found under its name.
//! - Each line alone says the same as among the others.

use std::path::Path;

use kvbroker::pins::Pins;

/// What became of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Became {
    /// It is not text, which is found before it is read.
    NoText,
    /// It does not parse.
    Refused,
    /// It has no keys.
    Empty,
    /// It has keys.
    Pins,
}

/// The longest sentence about a file, in bytes.
const REASON_BYTES_MAX: usize = 600;
/// So many digits of a secret are no accident.
const SECRET_DIGITS: usize = 8;

/// A file as somebody left it.
///
/// # Panics
/// If a rule is broken.
pub fn pins(input: &[u8]) -> Became {
    let Ok(text) = std::str::from_utf8(input) else { return Became::NoText };
    let path = Path::new("known_brokers");
    let pins = match Pins::parse(text, path) {
        Ok(pins) => pins,
        Err(error) => {
            let said = error.to_string();
            assert!(said.len() <= REASON_BYTES_MAX && !said.chars().any(char::is_control), "{said:?}");
            assert!(!shows_a_secret(&said), "{said}");
            return Became::Refused;
        }
    };
    let lines: Vec<&str> = text.lines().collect();
    for pin in pins.all() {
        assert!(!pin.owner.is_empty() && pin.owner.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{:?}", pin.owner);
        assert_eq!(pins.of(&pin.owner, &pin.project), Some(pin));
        let alone = Pins::parse(lines[pin.line - 1], path).expect("a line that was taken among others is taken alone");
        let [alone] = alone.all() else { panic!("a line has one key") };
        assert_eq!((&alone.owner, &alone.project, &alone.key), (&pin.owner, &pin.project, &pin.key));
    }
    assert!(pins.all().is_sorted_by(|one, other| one.line < other.line));
    if pins.all().is_empty() { Became::Empty } else { Became::Pins }
}

fn shows_a_secret(text: &str) -> bool {
    text.split("kvsec1").skip(1).any(|rest| rest.bytes().take_while(u8::is_ascii_hexdigit).count() >= SECRET_DIGITS)
}

//! Sizes on the command line: `64KiB`, `4GiB`, or plain bytes.

use std::fmt;

const UNITS: [(&str, u64); 5] = [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];

/// A number of bytes, shown in the largest unit that has no rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Size(pub(crate) u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |unit: &&(&str, u64)| self.0.is_multiple_of(unit.1) && self.0 >= unit.1;
        let (name, bytes) = UNITS.iter().rev().find(fits).unwrap_or(&UNITS[0]);
        write!(f, "{}{name}", self.0 / bytes)
    }
}

impl std::str::FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Size, String> {
        let wrong = || "a number of bytes, or one with KiB, MiB, GiB or TiB behind it, such as 64MiB".to_owned();
        let digits = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let unit = unit.trim_start();
        let known = UNITS.iter().find(|(name, _)| unit.is_empty() || name.eq_ignore_ascii_case(unit));
        let (_, bytes) = known.ok_or_else(wrong)?;
        number.checked_mul(*bytes).map(Size).ok_or_else(|| format!("{text} is more than any disk has"))
    }
}

/// A parser for sizes within bounds.
pub(crate) fn between(least: Size, most: Size) -> impl Fn(&str) -> Result<Size, String> + Clone + Send + Sync + 'static {
    move |text| {
        let size: Size = text.parse()?;
        if (least..=most).contains(&size) { Ok(size) } else { Err(format!("{least} to {most}")) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn sizes_are_read_and_shown() {
        for (text, bytes, shown) in [
            ("0", 0, "0B"),
            ("1000", 1_000, "1000B"),
            ("64KiB", 65_536, "64KiB"),
            ("64 kib", 65_536, "64KiB"),
            ("1024KiB", 1 << 20, "1MiB"),
            ("4GiB", 4 << 30, "4GiB"),
            ("2TiB", 2 << 40, "2TiB"),
            ("5B", 5, "5B"),
        ] {
            let size: Size = text.parse().unwrap();
            assert_eq!((size.0, size.to_string().as_str()), (bytes, shown), "{text}");
            assert_eq!(shown.parse(), Ok(size));
        }
        for text in ["", "KiB", "1.5MiB", "-1", "64KB", "64 K iB", "99999999999999999999", "99999999TiB"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
        let parse = between(Size(64 << 10), Size(1 << 30));
        assert_eq!(parse("64KiB"), Ok(Size(64 << 10)));
        assert_eq!(parse("63KiB"), Err("64KiB to 1GiB".to_owned()));
        assert!(parse("1025MiB").is_err());
    }
}

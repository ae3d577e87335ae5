//! A predicate in its one fixed form. Reading it gives the same predicate again.

use std::fmt::{self, Display, Formatter};

use super::{Comparison, Node, OwnedPart, Place, Predicate, Term, Test, digits, is_plain_word, is_word_char};
use crate::predicate::scalar::Scalar;

impl Display for Predicate {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.root.fmt(f)
    }
}

impl Node {
    /// How tightly it holds together: what is looser than its surroundings goes into parentheses.
    fn rank(&self) -> u8 {
        match self {
            Node::Any(_) => 0,
            Node::All(_) => 1,
            Node::Not(_) | Node::Term(_) => 2,
        }
    }

    fn fmt_inside(&self, rank: u8, f: &mut Formatter<'_>) -> fmt::Result {
        if self.rank() > rank { self.fmt(f) } else { write!(f, "({self})") }
    }
}

impl Display for Node {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (members, word) = match self {
            Node::Term(term) => return term.fmt(f),
            Node::Not(inner) => {
                f.write_str("not ")?;
                return inner.fmt_inside(1, f);
            }
            Node::Any(members) => (members, " or "),
            Node::All(members) => (members, " and "),
        };
        for (at, member) in members.iter().enumerate() {
            f.write_str(if at > 0 { word } else { "" })?;
            member.fmt_inside(self.rank(), f)?;
        }
        Ok(())
    }
}

impl Display for Term {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Term { place, test } = self;
        match test {
            Test::Has => write!(f, "has {place}"),
            Test::Compare(comparison, scalar) => write!(f, "{place} {comparison} {}", Literal(scalar)),
            Test::Prefix(scalar) => write!(f, "{place} ^= {}", Literal(scalar)),
            Test::Regex(pattern, _) => write!(f, "{place} ~ '{}'", pattern.as_str().replace('\'', "''")),
        }
    }
}

impl Display for Comparison {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Comparison::Equal => "=",
            Comparison::NotEqual => "!=",
            Comparison::Less => "<",
            Comparison::LessOrEqual => "<=",
            Comparison::Greater => ">",
            Comparison::GreaterOrEqual => ">=",
        })
    }
}

impl Display for Place {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let path = match self {
            Place::Key => return f.write_str("@key"),
            Place::Modified => return f.write_str("@modified"),
            Place::Created => return f.write_str("@created"),
            Place::Value(path) => path,
        };
        if path.is_empty() || matches!(path.first(), Some(OwnedPart::Digits(..))) {
            f.write_str("@value")?;
        }
        for (at, part) in path.iter().enumerate() {
            match part {
                OwnedPart::Index(index) => write!(f, "[{index}]")?,
                OwnedPart::Digits(_, name) => write!(f, ".{name}")?,
                OwnedPart::Name(name) => {
                    f.write_str(if at > 0 { "." } else { "" })?;
                    // Behind a point every word is plain, and digits alone would mean an array's place as well.
                    let is_plain = if at > 0 {
                        !name.is_empty() && name.chars().all(is_word_char) && digits(name).is_none()
                    } else {
                        is_plain_word(name)
                    };
                    if is_plain { f.write_str(name)? } else { write_text(name, f)? }
                }
            }
        }
        Ok(())
    }
}

struct Literal<'a>(&'a Scalar);

impl Display for Literal<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Scalar::Null => f.write_str("null"),
            Scalar::Bool(value) => write!(f, "{value}"),
            Scalar::Int(value) => write!(f, "{value}"),
            // With the point or exponent that keeps it a double.
            Scalar::Float(value) => write!(f, "{value:?}"),
            Scalar::Text(text) => write_text(text, f),
            Scalar::Bytes(bytes) => {
                f.write_str("x'")?;
                bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
                f.write_str("'")
            }
        }
    }
}

fn write_text(text: &str, f: &mut Formatter<'_>) -> fmt::Result {
    f.write_str(&serde_json::to_string(text).map_err(|_| fmt::Error)?)
}

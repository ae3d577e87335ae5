//! From text to a checked predicate, by recursive descent; `or` binds loosest, then `and`, then `not`.

use crate::error::{ErrorCode, Failure};
use crate::limits;
use crate::operation::Pattern;

use super::reader::Reader;
use super::scalar::Scalar;
use super::{Comparison, Node, OwnedPart, Place, RESERVED, Term, Test, digits, is_plain_word, is_word_char};

/// The root and the number of regular expressions in it.
pub(super) fn parse(text: &str) -> Result<(Node, usize), Failure> {
    if text.len() > limits::PREDICATE_BYTES_MAX {
        let message = format!("the predicate has {} bytes; at most {} are taken", text.len(), limits::PREDICATE_BYTES_MAX);
        return Err(Failure::limit(message));
    }
    let mut parser = Parser { reader: Reader::new(text), terms: 0, regexes: 0 };
    let root = parser.any(limits::PREDICATE_DEPTH_MAX)?;
    if !parser.reader.at_end() {
        return Err(parser.reader.expected("`and`, `or` or the end"));
    }
    Ok((root, parser.regexes))
}

struct Parser<'a> {
    reader: Reader<'a>,
    terms: usize,
    regexes: usize,
}

/// What may stand where a test begins.
const TEST: &str = "a field, @key, @value, @modified, @created, `has`, `not` or `(`";
/// What may stand where a value is compared with.
const OPERAND: &str = "a number, a text, true, false, null or bytes such as x'00ff'";

impl Parser<'_> {
    fn any(&mut self, depth_left: usize) -> Result<Node, Failure> {
        self.list("or", Node::Any, |parser| parser.list("and", Node::All, |parser| parser.one(depth_left)))
    }

    /// Members with a word between them; a single one stands for itself.
    fn list(
        &mut self,
        word: &str,
        node: fn(Vec<Node>) -> Node,
        mut member: impl FnMut(&mut Self) -> Result<Node, Failure>,
    ) -> Result<Node, Failure> {
        let first = member(self)?;
        if !self.reader.take_word(word) {
            return Ok(first);
        }
        let mut members = vec![first, member(self)?];
        while self.reader.take_word(word) {
            members.push(member(self)?);
        }
        Ok(node(members))
    }

    /// A test, or one in parentheses or behind `not`. Space around it is passed over.
    fn one(&mut self, depth_left: usize) -> Result<Node, Failure> {
        self.reader.skip_space();
        let start = self.reader.place();
        let too_deep = |parser: &Self| {
            let what = format!("more than {} parentheses and `not` inside one another", limits::PREDICATE_DEPTH_MAX);
            Failure::limit(parser.reader.wrong_at(start, &what).message)
        };
        let node = if self.reader.take("(") {
            let inner = self.any(depth_left.checked_sub(1).ok_or_else(|| too_deep(self))?)?;
            if !self.reader.take(")") {
                return Err(self.reader.expected("`and`, `or` or `)`"));
            }
            inner
        } else if self.reader.take_word("not") {
            Node::Not(Box::new(self.one(depth_left.checked_sub(1).ok_or_else(|| too_deep(self))?)?))
        } else {
            Node::Term(self.term()?)
        };
        self.reader.skip_space();
        Ok(node)
    }

    fn term(&mut self) -> Result<Term, Failure> {
        self.terms += 1;
        if self.terms > limits::PREDICATE_TERMS_MAX {
            return Err(Failure::limit(format!("a predicate has at most {} comparisons", limits::PREDICATE_TERMS_MAX)));
        }
        if self.reader.take_word("has") {
            self.reader.skip_space();
            let start = self.reader.place();
            return match self.place()? {
                place @ Place::Value(_) => Ok(Term { place, test: Test::Has }),
                _ => Err(self.reader.wrong_at(start, "`has` asks for a field; keys and revisions are always there")),
            };
        }
        let place = self.place()?;
        self.reader.skip_space();
        let test = self.test(&place)?;
        Ok(Term { place, test })
    }

    fn place(&mut self) -> Result<Place, Failure> {
        let start = self.reader.place();
        if self.reader.take("@") {
            return match self.reader.word() {
                "key" => Ok(Place::Key),
                "modified" => Ok(Place::Modified),
                "created" => Ok(Place::Created),
                "value" => Ok(Place::Value(self.path(Vec::new())?)),
                _ => Err(self
                    .reader
                    .wrong_at(start, "expected @key, @value, @modified or @created; a field of such a name is quoted")),
            };
        }
        if let Some(name) = self.reader.quoted()? {
            return Ok(Place::Value(self.path(vec![OwnedPart::Name(name)])?));
        }
        if self.reader.peek() == Some('[') {
            return Ok(Place::Value(self.path(Vec::new())?));
        }
        let word = self.reader.peek_word();
        if RESERVED.contains(&word) {
            return Err(self.reader.expected(&format!("{TEST} (a field named {word} is written in quotes)")));
        }
        if !is_plain_word(word) {
            return Err(self.reader.expected(TEST));
        }
        let first = OwnedPart::Name(self.reader.word().to_owned());
        Ok(Place::Value(self.path(vec![first])?))
    }

    /// The further parts of a path, without space between them.
    fn path(&mut self, mut parts: Vec<OwnedPart>) -> Result<Vec<OwnedPart>, Failure> {
        loop {
            let start = self.reader.place();
            let part = if self.reader.take("[") {
                OwnedPart::Index(self.reader.index()?)
            } else if self.reader.take(".") {
                match self.reader.quoted()? {
                    Some(name) => OwnedPart::Name(name),
                    None => match self.reader.word() {
                        "" => return Err(self.reader.expected("a field's name behind the point (an odd one in quotes)")),
                        name => digits(name)
                            .map_or_else(|| OwnedPart::Name(name.to_owned()), |index| OwnedPart::Digits(index, name.to_owned())),
                    },
                }
            } else {
                return Ok(parts);
            };
            if parts.len() == limits::DEPTH_MAX {
                let what = format!("a path has at most {} parts: no value is nested deeper", limits::DEPTH_MAX);
                return Err(Failure::limit(self.reader.wrong_at(start, &what).message));
            }
            parts.push(part);
        }
    }

    fn test(&mut self, place: &Place) -> Result<Test, Failure> {
        let sign_at = self.reader.place();
        if self.reader.take("^=") {
            let operand = self.operand(place, sign_at, |scalar| matches!(scalar, Scalar::Text(_) | Scalar::Bytes(_)))?;
            return Ok(Test::Prefix(operand));
        }
        if self.reader.take("~") {
            return self.regex(place, sign_at);
        }
        // The longer signs first: `<` would be found in `<=`.
        let signs = [
            ("!=", Comparison::NotEqual),
            ("<=", Comparison::LessOrEqual),
            (">=", Comparison::GreaterOrEqual),
            ("=", Comparison::Equal),
            ("<", Comparison::Less),
            (">", Comparison::Greater),
        ];
        let Some((_, comparison)) = signs.into_iter().find(|(sign, _)| self.reader.take(sign)) else {
            return Err(self
                .reader
                .expected("=, !=, <, <=, >, >=, ^= or ~ (`has a` asks whether a is there, `a = true` whether it is true)"));
        };
        let takes = |scalar: &Scalar| match comparison {
            Comparison::Equal | Comparison::NotEqual => true,
            _ => !matches!(scalar, Scalar::Null | Scalar::Bool(_)),
        };
        Ok(Test::Compare(comparison, self.operand(place, sign_at, takes)?))
    }

    /// A value that this sign and this place can be compared with.
    fn operand(&mut self, place: &Place, sign_at: usize, takes: impl Fn(&Scalar) -> bool) -> Result<Scalar, Failure> {
        self.reader.skip_space();
        let start = self.reader.place();
        let operand = self.literal()?;
        if !takes(&operand) {
            let what = match operand {
                Scalar::Null | Scalar::Bool(_) => "null, true and false have no order and no beginning; only = and != take them",
                _ => "^= takes a text or bytes",
            };
            return Err(self.reader.wrong_at(sign_at, what));
        }
        let what = match (place, &operand) {
            (Place::Key, Scalar::Text(_) | Scalar::Bytes(_)) | (Place::Value(_), _) => return Ok(operand),
            (Place::Modified | Place::Created, Scalar::Int(_) | Scalar::Float(_)) => return Ok(operand),
            (Place::Key, _) => "a key is compared with a text or bytes; write a number in quotes",
            _ => "a revision is compared with a number",
        };
        Err(self.reader.wrong_at(start, what))
    }

    fn literal(&mut self) -> Result<Scalar, Failure> {
        if let Some(text) = self.reader.quoted()? {
            return Ok(Scalar::Text(text));
        }
        if self.reader.peek().is_some_and(|c| c == '-' || c.is_ascii_digit()) {
            return self.reader.number();
        }
        let word = self.reader.peek_word();
        let scalar = match word {
            "true" => Scalar::Bool(true),
            "false" => Scalar::Bool(false),
            "null" => Scalar::Null,
            _ if is_plain_word(word) => Scalar::Text(word.to_owned()),
            _ => return Err(self.reader.expected(OPERAND)),
        };
        self.reader.word();
        if word == "x" && self.reader.peek().is_some_and(|c| c == '\'' || c == '"') {
            return self.reader.hex().map(Scalar::Bytes);
        }
        // What goes on is no word: neither a whole text nor a text and something else.
        match self.reader.peek() {
            None | Some(' ' | '\t' | '\n' | '\r' | ')') => Ok(scalar),
            Some(c) => {
                let what = format!("a text with {c:?} in it is written in quotes");
                Err(self.reader.wrong_at(self.reader.place(), &what))
            }
        }
    }

    fn regex(&mut self, place: &Place, sign_at: usize) -> Result<Test, Failure> {
        if matches!(place, Place::Modified | Place::Created) {
            return Err(self.reader.wrong_at(sign_at, "a revision is compared with a number"));
        }
        self.reader.skip_space();
        let start = self.reader.place();
        let text = match self.reader.quoted()? {
            Some(text) => text,
            None if self.reader.peek().is_some_and(|c| is_word_char(c) && !c.is_ascii_digit() && c != '-') => {
                match self.literal()? {
                    Scalar::Text(text) => text,
                    _ => return Err(self.reader.wrong_at(start, "a regex is written in quotes")),
                }
            }
            None => return Err(self.reader.expected("a regex in quotes; single ones keep backslashes as they are")),
        };
        if self.regexes == limits::PREDICATE_REGEXES_MAX {
            return Err(Failure::limit(format!("a predicate has at most {} regexes", limits::PREDICATE_REGEXES_MAX)));
        }
        let pattern = Pattern::new(&text).map_err(|failure| match failure.code {
            ErrorCode::Invalid => self.reader.wrong_at(start, &failure.message),
            _ => failure,
        })?;
        self.regexes += 1;
        Ok(Test::Regex(pattern, self.regexes - 1))
    }
}

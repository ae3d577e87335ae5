//! Values become what readers ask for: 100,000 generated ones there and back, held against what docs/conversion.md says in words.

#![allow(clippy::unwrap_used)]

use kvbroker_protocol::{ContentType, Conversion, Stored};

/// A value as the generator means it.
#[derive(Clone, Debug)]
enum Value {
    Nil,
    Bool(bool),
    UInt(u64),
    Int(i64),
    Float(f64),
    Text(String),
    Bytes(Vec<u8>),
    Ext(i8, Vec<u8>),
    Array(Vec<Value>),
    Map(Vec<(Value, Value)>),
}

/// SplitMix64: the same numbers everywhere.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn text(&mut self) -> String {
        const PIECES: &[&str] = &[
            "", "a", "b", "true", "null", "1", "-0.5e3", "0", ",", "\"", "\n", "\r", "\r\n", " ", "\t", "ä", "\u{feff}",
            "$bytes", "$map", "$$x", "🚀", "\u{0}", "\\", "'", ";", "=1+1", "1e400", "[1]",
        ];
        (0..self.below(4)).map(|_| PIECES[self.below(PIECES.len() as u64) as usize]).collect()
    }

    fn plain(&mut self) -> Value {
        const FLOATS: &[f64] = &[0.0, -0.0, 1.0, 0.1, 1e300, -2.5e-300, f64::MAX, f64::MIN_POSITIVE, 9_007_199_254_740_993.0];
        match self.below(7) {
            0 => Value::Nil,
            1 => Value::Bool(self.below(2) == 0),
            2 => Value::UInt(self.next() >> self.below(64)),
            3 => Value::Int(-1 - (self.next() >> (1 + self.below(63))) as i64),
            4 => Value::Float(FLOATS[self.below(FLOATS.len() as u64) as usize]),
            _ => Value::Text(self.text()),
        }
    }

    fn bytes(&mut self) -> Vec<u8> {
        match self.below(2) {
            0 => self.text().into_bytes(),
            _ => (0..self.below(6)).map(|_| self.next() as u8).collect(),
        }
    }

    fn map(&mut self, mut value: impl FnMut(&mut Numbers) -> Value) -> Vec<(Value, Value)> {
        let mut names: Vec<String> = (0..self.below(4)).map(|_| self.text()).collect();
        names.sort();
        names.dedup();
        names.into_iter().map(|name| (Value::Text(name), value(self))).collect()
    }

    fn value(&mut self, depth: u64) -> Value {
        match self.below(if depth == 0 { 5 } else { 9 }) {
            0..=2 => self.plain(),
            3 => match self.below(3) {
                0 => Value::Float([f64::NAN, f64::INFINITY, f64::NEG_INFINITY][self.below(3) as usize]),
                1 => Value::Ext(self.below(70) as i8, self.bytes()),
                _ => Value::Bytes(self.bytes()),
            },
            4 => Value::Bytes(self.bytes()),
            5 => Value::Array((0..self.below(4)).map(|_| self.value(depth - 1)).collect()),
            6 => Value::Map(self.map(|numbers| numbers.value(depth - 1))),
            7 if self.below(4) == 0 => Value::Map(vec![(Value::UInt(self.below(9)), self.value(depth - 1))]),
            7 => Value::Map(self.map(Numbers::plain)),
            _ => {
                let rows = self.below(5);
                Value::Array((0..rows).map(|_| Value::Map(self.map(Numbers::plain))).collect())
            }
        }
    }
}

impl Value {
    fn write(&self, out: &mut Vec<u8>) {
        use rmp::encode as write;
        match self {
            Value::Nil => write::write_nil(out).unwrap(),
            Value::Bool(value) => write::write_bool(out, *value).unwrap(),
            Value::UInt(value) => drop(write::write_uint(out, *value).unwrap()),
            Value::Int(value) => drop(write::write_sint(out, *value).unwrap()),
            Value::Float(value) => write::write_f64(out, *value).unwrap(),
            Value::Text(text) => write::write_str(out, text).unwrap(),
            Value::Bytes(bytes) => write::write_bin(out, bytes).unwrap(),
            Value::Ext(kind, bytes) => {
                write::write_ext_meta(out, bytes.len() as u32, *kind).unwrap();
                out.extend_from_slice(bytes);
            }
            Value::Array(elements) => {
                write::write_array_len(out, elements.len() as u32).unwrap();
                elements.iter().for_each(|element| element.write(out));
            }
            Value::Map(entries) => {
                write::write_map_len(out, entries.len() as u32).unwrap();
                for (key, value) in entries {
                    key.write(out);
                    value.write(out);
                }
            }
        }
    }

    fn stored(&self) -> Stored {
        let mut out = Vec::new();
        self.write(&mut out);
        Stored::from_msgpack(&out).unwrap()
    }

    fn is_plain(&self) -> bool {
        match self {
            Value::Nil | Value::Bool(_) | Value::UInt(_) | Value::Int(_) | Value::Text(_) => true,
            Value::Float(number) => number.is_finite(),
            Value::Bytes(_) | Value::Ext(..) | Value::Array(_) | Value::Map(_) => false,
        }
    }

    /// Why it is no row of a table: what the documentation says, in its words' order.
    fn row(&self) -> Result<(), &'static str> {
        let Value::Map(entries) = self else { return Err("no_table") };
        if entries.is_empty() {
            return Err("empty_row");
        }
        entries.iter().try_for_each(|(name, cell)| match (name, cell.is_plain()) {
            (Value::Text(_), true) => Ok(()),
            (Value::Text(_), false) => Err("no_cell"),
            _ => Err("no_table"),
        })
    }

    /// What comes back, by the documentation's words, or the error.
    fn there_and_back(&self, to: ContentType) -> Result<Value, &'static str> {
        match (to, self) {
            (ContentType::MessagePack | ContentType::Json, _) => Ok(self.clone()),
            (ContentType::Text, Value::Text(_)) | (ContentType::Bytes, Value::Bytes(_)) => Ok(self.clone()),
            (ContentType::Text, Value::Bytes(bytes)) => String::from_utf8(bytes.clone()).map(Value::Text).map_err(|_| "not_utf8"),
            (ContentType::Text, Value::Array(_) | Value::Map(_) | Value::Ext(..)) => Err("no_text"),
            (ContentType::Text, number) if !number.is_plain() => Err("no_text"),
            (ContentType::Text, plain) => {
                let mut text = Vec::new();
                plain.stored().write_json(&mut text);
                Ok(Value::Text(String::from_utf8(text).unwrap()))
            }
            (ContentType::Bytes, Value::Text(text)) => Ok(Value::Bytes(text.clone().into_bytes())),
            (ContentType::Bytes, _) => Err("no_bytes"),
            (ContentType::Csv, Value::Map(_)) => self.row().map(|()| Value::Array(vec![self.clone()])),
            (ContentType::Csv, Value::Array(rows)) => rows.iter().try_for_each(Value::row).map(|()| self.clone()),
            (ContentType::Csv, _) => Err("no_table"),
        }
    }
}

/// Equal as JSON says it: types included, maps without order.
fn json(value: &Stored) -> serde_json::Value {
    let mut text = Vec::new();
    value.write_json(&mut text);
    serde_json::from_slice(&text).unwrap()
}

#[test]
fn a_hundred_thousand_values_come_back_or_give_the_error_that_is_documented() {
    let mut numbers = Numbers(0x6b76_6272_6f6b_6572);
    let mut seen = std::collections::BTreeMap::new();
    for round in 0..100_000 {
        let value = numbers.value(3);
        let stored = value.stored();
        for to in ContentType::ALL {
            let wanted = value.there_and_back(to);
            let there = Conversion { to: Some(to), ..Conversion::default() }.of(&stored);
            let outcome = match (&there, &wanted) {
                (Ok(document), Ok(wanted)) => {
                    let back = Conversion { from: Some(to), ..Conversion::default() }.of(document).unwrap();
                    assert_eq!(json(&back), json(&wanted.stored()), "value {round} by {to}: {value:?} as {document:?}");
                    "done"
                }
                (Err(error), Err(name)) if error.name() == *name => *name,
                _ => panic!("value {round} as {to}: {value:?} gives {there:?}, not {wanted:?}"),
            };
            *seen.entry((to, outcome)).or_insert(0) += 1;
        }
    }
    // Each case that there is was met often.
    for (to, outcome) in [
        (ContentType::MessagePack, "done"),
        (ContentType::Json, "done"),
        (ContentType::Text, "done"),
        (ContentType::Text, "no_text"),
        (ContentType::Text, "not_utf8"),
        (ContentType::Csv, "done"),
        (ContentType::Csv, "no_table"),
        (ContentType::Csv, "no_cell"),
        (ContentType::Csv, "empty_row"),
        (ContentType::Bytes, "done"),
        (ContentType::Bytes, "no_bytes"),
    ] {
        assert!(seen.get(&(to, outcome)).is_some_and(|count| *count > 1_000), "{to} {outcome}: {seen:?}");
    }
}

#[test]
fn any_bytes_are_read_or_refused() {
    let mut numbers = Numbers(7);
    let steps = kvbroker_protocol::Steps::new().drop("a.b").unwrap().rename("b", "c").unwrap();
    for _ in 0..50_000 {
        let value = numbers.value(2).stored();
        let from = Some(ContentType::ALL[numbers.below(5) as usize]);
        let to = Some(ContentType::ALL[numbers.below(5) as usize]);
        for steps in [None, Some(&steps)] {
            // Whatever it is, it gives a value that can be stored, or an error.
            if let Ok(made) = (Conversion { from, steps, to }).of(&value) {
                assert!(Stored::from_msgpack(made.document()).is_ok() || Stored::from_json(made.document()).is_ok());
            }
        }
    }
}

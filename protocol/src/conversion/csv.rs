//! CSV lines (RFC 4180) and the values that they stand for: an array of maps, one for each line behind the first.
//!
//! - The first line names the columns. Columns stand in the order in which the rows first have them.
//! - An unquoted cell that is a number, `true`, `false` or `null` in JSON is that; one without anything is a field that is not there;
//!   any other is a text. A quoted cell is a text. So what is written here is read back as it was, types included.
//! - Lines end with a line feed. Carriage returns in front of it are taken, too, and so is a byte order mark at the very beginning.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::{ConversionError, kind};
use crate::convert::{is_ext_number, number_to_msgpack};
use crate::limits;
use crate::msgpack::{Cursor, Token, write};

const BOM: char = '\u{feff}';

// ---- writing ----

/// Appends a value as lines.
pub(super) fn write_table(document: &[u8], out: &mut Vec<u8>) -> Result<(), ConversionError> {
    let mut rows = Rows::new(document)?;
    let mut columns = Columns::default();
    while rows.next_row()? {
        while let Some((name, _)) = rows.next_cell()? {
            columns.place(name)?;
        }
    }
    for (place, name) in columns.names.iter().enumerate() {
        separate(place, out);
        write_text(name, false, out);
    }
    if !columns.names.is_empty() {
        out.push(b'\n');
    }
    let mut rows = Rows::new(document)?;
    let mut cells: Vec<Option<Token<'_>>> = vec![None; columns.names.len()];
    while rows.next_row()? {
        cells.fill(None);
        while let Some((name, cell)) = rows.next_cell()? {
            let place = columns.place(name)?;
            if let Some(free) = cells.get_mut(place) {
                *free = Some(cell);
            }
        }
        for (place, cell) in cells.iter().enumerate() {
            separate(place, out);
            if let Some(cell) = cell {
                write_cell(*cell, out);
            }
        }
        out.push(b'\n');
        if out.len() > limits::VALUE_BYTES_MAX {
            return Err(ConversionError::TooLarge);
        }
    }
    Ok(())
}

#[derive(Default)]
struct Columns<'a> {
    names: Vec<&'a str>,
    places: BTreeMap<&'a str, usize>,
}

impl<'a> Columns<'a> {
    fn place(&mut self, name: &'a str) -> Result<usize, ConversionError> {
        if let Some(place) = self.places.get(name) {
            return Ok(*place);
        }
        let place = self.names.len();
        if place == limits::CSV_COLUMNS_MAX {
            return Err(ConversionError::TooWide);
        }
        self.names.push(name);
        self.places.insert(name, place);
        Ok(place)
    }
}

/// The rows of a document: the elements of an array of maps, or one map.
struct Rows<'a> {
    cursor: Cursor<'a>,
    rows_left: usize,
    cells_left: usize,
    row: usize,
    /// The whole document is the row that comes.
    is_lone: bool,
}

impl<'a> Rows<'a> {
    fn new(document: &'a [u8]) -> Result<Rows<'a>, ConversionError> {
        let mut cursor = Cursor::new(document);
        let (rows_left, is_lone) = match next(&mut cursor) {
            Token::Array(length) => (length, false),
            Token::Map(_) => (1, true),
            other => return Err(ConversionError::NoTable(kind(other))),
        };
        if is_lone {
            cursor.seek(0);
        }
        Ok(Rows { cursor, rows_left, cells_left: 0, row: 0, is_lone })
    }

    fn next_row(&mut self) -> Result<bool, ConversionError> {
        let Some(rows_left) = self.rows_left.checked_sub(1) else { return Ok(false) };
        self.rows_left = rows_left;
        self.row += 1;
        match next(&mut self.cursor) {
            Token::Map(0) => Err(ConversionError::EmptyRow(self.row)),
            Token::Map(length) => {
                self.cells_left = length;
                Ok(true)
            }
            _ => Err(ConversionError::NoTable(if self.is_lone { "a map" } else { "an array of something else than maps" })),
        }
    }

    fn next_cell(&mut self) -> Result<Option<(&'a str, Token<'a>)>, ConversionError> {
        let Some(cells_left) = self.cells_left.checked_sub(1) else { return Ok(None) };
        self.cells_left = cells_left;
        let Token::Str(name) = next(&mut self.cursor) else {
            return Err(ConversionError::NoTable("a map with keys that are no texts"));
        };
        let cell = next(&mut self.cursor);
        let fits = match cell {
            Token::Nil | Token::Bool(_) | Token::UInt(_) | Token::Int(_) | Token::Str(_) => true,
            Token::Float(number) => number.is_finite(),
            Token::Ext(kind, bytes) => is_ext_number(kind, bytes),
            Token::Bin(_) | Token::Array(_) | Token::Map(_) => false,
        };
        if fits {
            return Ok(Some((name, cell)));
        }
        let column = name.chars().take(64).collect();
        Err(ConversionError::NoCell { what: kind(cell), row: self.row, column })
    }
}

/// Documents were checked when they were stored; where one is broken all the same, null stands for what can't be read.
fn next<'a>(cursor: &mut Cursor<'a>) -> Token<'a> {
    cursor.token().unwrap_or(Token::Nil)
}

/// True if a document is the number that only JSON's digits can say.
pub(super) fn is_number(document: &[u8]) -> bool {
    matches!(next(&mut Cursor::new(document)), Token::Ext(kind, bytes) if is_ext_number(kind, bytes))
}

fn separate(place: usize, out: &mut Vec<u8>) {
    if place > 0 {
        out.push(b',');
    }
}

fn write_cell(cell: Token<'_>, out: &mut Vec<u8>) {
    match cell {
        Token::Nil => out.extend_from_slice(b"null"),
        Token::Bool(value) => out.extend_from_slice(if value { b"true" } else { b"false" }),
        Token::UInt(value) => crate::json::write_number(out, value),
        Token::Int(value) => crate::json::write_number(out, value),
        Token::Float(value) => crate::json::write_number(out, value),
        Token::Str(text) => write_text(text, true, out),
        Token::Ext(_, digits) => out.extend_from_slice(digits),
        Token::Bin(_) | Token::Array(_) | Token::Map(_) => {}
    }
}

fn write_text(text: &str, is_cell: bool, out: &mut Vec<u8>) {
    let needs_quotes = text.is_empty()
        || text.contains([',', '"', '\n', '\r'])
        || text.starts_with([' ', '\t', BOM])
        || text.ends_with([' ', '\t'])
        || (is_cell && is_scalar(text));
    if !needs_quotes {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    out.push(b'"');
    for (index, part) in text.split('"').enumerate() {
        if index > 0 {
            out.extend_from_slice(b"\"\"");
        }
        out.extend_from_slice(part.as_bytes());
    }
    out.push(b'"');
}

/// True for what an unquoted cell would be read as something else than a text.
fn is_scalar(text: &str) -> bool {
    matches!(text, "null" | "true" | "false") || is_json_number(text)
}

fn is_json_number(text: &str) -> bool {
    fn digits(bytes: &[u8]) -> Option<&[u8]> {
        let count = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
        bytes.get(count..).filter(|_| count > 0)
    }
    let bytes = text.as_bytes();
    let bytes = bytes.strip_prefix(b"-").unwrap_or(bytes);
    let rest = match bytes.strip_prefix(b"0") {
        Some(rest) => Some(rest),
        None => digits(bytes),
    };
    let rest = rest.and_then(|rest| rest.strip_prefix(b".").map_or(Some(rest), digits));
    let rest = rest.and_then(|rest| match rest.strip_prefix(b"e").or_else(|| rest.strip_prefix(b"E")) {
        None => Some(rest),
        Some(exponent) => digits(exponent.strip_prefix(b"+").or_else(|| exponent.strip_prefix(b"-")).unwrap_or(exponent)),
    });
    rest.is_some_and(<[u8]>::is_empty)
}

// ---- reading ----

/// Appends the array of maps that lines stand for.
pub(super) fn read_table(text: &str, out: &mut Vec<u8>) -> Result<(), ConversionError> {
    let mut reader = Reader { rest: text.strip_prefix(BOM).unwrap_or(text), line: 1 };
    let mut names: Vec<Cow<'_, str>> = Vec::new();
    let (mut rows, mut body) = (0, Vec::new());
    if !reader.rest.is_empty() {
        reader.cells(|_, cell| {
            if names.len() == limits::CSV_COLUMNS_MAX {
                return Err(ConversionError::TooWide);
            }
            names.push(cell.text);
            Ok(())
        })?;
        let mut sorted: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
        if crate::msgpack::has_twins(&mut sorted) {
            return Err(ConversionError::NotCsv { line: 1, what: "names a column twice" });
        }
    }
    let mut cells: Vec<Cell<'_>> = Vec::new();
    while !reader.rest.is_empty() {
        let line = reader.line;
        cells.clear();
        reader.cells(|place, cell| {
            if place == names.len() {
                return Err(ConversionError::NotCsv { line, what: "has more cells than the first line names" });
            }
            cells.push(cell);
            Ok(())
        })?;
        if cells.len() < names.len() {
            return Err(ConversionError::NotCsv { line, what: "has fewer cells than the first line names" });
        }
        write::map(&mut body, cells.iter().filter(|cell| !cell.is_absent()).count());
        for (name, cell) in names.iter().zip(&cells).filter(|(_, cell)| !cell.is_absent()) {
            write::text(&mut body, name);
            cell.write(&mut body);
        }
        rows += 1;
        if body.len() > limits::VALUE_BYTES_MAX {
            return Err(ConversionError::TooLarge);
        }
    }
    write::array(out, rows);
    out.append(&mut body);
    Ok(())
}

struct Cell<'a> {
    text: Cow<'a, str>,
    is_quoted: bool,
}

impl Cell<'_> {
    fn is_absent(&self) -> bool {
        self.text.is_empty() && !self.is_quoted
    }

    fn write(&self, out: &mut Vec<u8>) {
        match &*self.text {
            text if self.is_quoted => write::text(out, text),
            "null" => write::nil(out),
            "true" => write::boolean(out, true),
            "false" => write::boolean(out, false),
            text if is_json_number(text) => number_to_msgpack(text, out),
            text => write::text(out, text),
        }
    }
}

struct Reader<'a> {
    rest: &'a str,
    line: usize,
}

impl<'a> Reader<'a> {
    fn wrong(&self, what: &'static str) -> ConversionError {
        ConversionError::NotCsv { line: self.line, what }
    }

    /// Calls `take` for each cell of the next row, with its place.
    fn cells(&mut self, mut take: impl FnMut(usize, Cell<'a>) -> Result<(), ConversionError>) -> Result<(), ConversionError> {
        for place in 0.. {
            let cell = if self.rest.starts_with('"') { self.quoted()? } else { self.plain()? };
            take(place, cell)?;
            if let Some(rest) = self.rest.strip_prefix(',') {
                self.rest = rest;
                continue;
            }
            let end = self.rest.strip_prefix("\r\n").or_else(|| self.rest.strip_prefix('\n'));
            if end.is_none() && !self.rest.is_empty() {
                return Err(self.wrong("has something between a closing quote and the next comma"));
            }
            self.rest = end.unwrap_or_default();
            self.line += 1;
            break;
        }
        Ok(())
    }

    fn plain(&mut self) -> Result<Cell<'a>, ConversionError> {
        let end = self.rest.find([',', '\n']).unwrap_or(self.rest.len());
        let (text, rest) = self.rest.split_at(end);
        // The carriage return of a line's end stays for whoever reads that.
        let text = if rest.starts_with('\n') { text.strip_suffix('\r').unwrap_or(text) } else { text };
        if text.contains('"') {
            return Err(self.wrong("has a quote inside a cell that does not begin with one"));
        }
        if text.contains('\r') {
            return Err(self.wrong("has a carriage return outside of quotes"));
        }
        self.rest = self.rest.get(text.len()..).unwrap_or_default();
        Ok(Cell { text: text.into(), is_quoted: false })
    }

    fn quoted(&mut self) -> Result<Cell<'a>, ConversionError> {
        let body = self.rest.get(1..).unwrap_or_default();
        let mut from = 0;
        loop {
            let found = body.get(from..).and_then(|rest| rest.find('"'));
            let end = from + found.ok_or_else(|| self.wrong("has a quote that is not closed"))?;
            if body.get(end + 1..).is_some_and(|rest| rest.starts_with('"')) {
                from = end + 2;
                continue;
            }
            let text = body.get(..end).unwrap_or_default();
            self.line += text.bytes().filter(|byte| *byte == b'\n').count();
            self.rest = body.get(end + 1..).unwrap_or_default();
            let text = if text.contains('"') { text.replace("\"\"", "\"").into() } else { text.into() };
            return Ok(Cell { text, is_quoted: true });
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{json_to_msgpack, msgpack_to_json};

    fn lines(json: &str) -> Result<String, &'static str> {
        let mut out = Vec::new();
        write_table(&json_to_msgpack(json.as_bytes()).unwrap(), &mut out).map_err(|error| error.name())?;
        Ok(String::from_utf8(out).unwrap())
    }

    fn value(text: &str) -> Result<String, &'static str> {
        let mut out = Vec::new();
        read_table(text, &mut out).map_err(|error| error.name())?;
        Ok(String::from_utf8(msgpack_to_json(&out).unwrap()).unwrap())
    }

    #[test]
    fn cells_come_back_with_their_types() {
        for (json, text) in [
            (r#"[{"a":1,"b":"1"},{"b":"x","c":null}]"#, "a,b,c\n1,\"1\",\n,x,null\n"),
            (r#"[{"a":"","b":" x"},{"a":"true","b":true}]"#, "a,b\n\"\",\" x\"\n\"true\",true\n"),
            (r#"[{"a":"say \"hi\", then\nleave"}]"#, "a\n\"say \"\"hi\"\", then\nleave\"\n"),
            (r#"[{"1":-0.0,"null":1e400,",":18446744073709551615}]"#, "1,null,\",\"\n-0.0,1e400,18446744073709551615\n"),
            (r#"[{"":"\r","\ufeff":"\ufeffx"}]"#, "\"\",\"\u{feff}\"\n\"\r\",\"\u{feff}x\"\n"),
            ("[]", ""),
        ] {
            assert_eq!(lines(json).as_deref(), Ok(text), "{json}");
            let back = value(text).unwrap();
            assert_eq!(json_to_msgpack(back.as_bytes()), json_to_msgpack(json.as_bytes()), "{text:?}");
        }
        assert_eq!(lines(r#"{"a":1}"#).as_deref(), Ok("a\n1\n"));
    }

    #[test]
    fn what_other_programs_write_is_read() {
        assert_eq!(value("\u{feff}a,b\r\n1,x\r\n\"2\",").as_deref(), Ok(r#"[{"a":1,"b":"x"},{"a":"2"}]"#));
        assert_eq!(value("a,b\n").as_deref(), Ok("[]"));
        assert_eq!(value("a,b\n,\n").as_deref(), Ok("[{}]"));
        assert_eq!(
            value("a\n007\n+1\n.5\n1.\n-\n0x1\n1e\nnan").as_deref(),
            Ok(r#"[{"a":"007"},{"a":"+1"},{"a":".5"},{"a":"1."},{"a":"-"},{"a":"0x1"},{"a":"1e"},{"a":"nan"}]"#)
        );
        for wrong in ["a,a\n", "a\n1,2\n", "a,b\n1\n", "a\n\"x", "a\nx\"y\n", "a\n\"x\"y\n", "a\nx\ry\n"] {
            assert_eq!(value(wrong), Err("not_csv"), "{wrong:?}");
        }
    }

    #[test]
    fn what_is_no_table_is_refused() {
        for (json, error) in [
            ("1", "no_table"),
            ("[1]", "no_table"),
            ("[[1]]", "no_table"),
            (r#"{"$map":[[1,2]]}"#, "no_table"),
            (r#"{"a":[1]}"#, "no_cell"),
            (r#"{"a":{"$bytes":"AA=="}}"#, "no_cell"),
            (r#"{"a":{"$float":"nan"}}"#, "no_cell"),
            (r#"{"a":{"$ext":[1,"AA=="]}}"#, "no_cell"),
            ("[{}]", "empty_row"),
            ("{}", "empty_row"),
        ] {
            assert_eq!(lines(json), Err(error), "{json}");
        }
    }

    #[test]
    fn a_few_bytes_never_make_many() {
        // A thousand rows with a column each have a million commas; ten thousand such rows are refused.
        let wide = |rows: usize| {
            let rows: Vec<String> = (0..rows).map(|row| format!("{{\"{row}\":1}}")).collect();
            lines(&format!("[{}]", rows.join(",")))
        };
        assert!(wide(1_000).is_ok());
        assert_eq!(wide(10_000), Err("too_wide"));
        let name = "n".repeat(1 << 16);
        assert_eq!(value(&format!("{name}\n{}", "1\n".repeat(1 << 10))), Err("too_large"));
    }
}

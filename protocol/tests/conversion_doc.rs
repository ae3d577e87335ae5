//! The tables of docs/conversion.md are what the code does.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use kvbroker_protocol::{ContentType, Conversion, ConversionError, Stored};

/// What there is, an example of it as JSON, and what it is said to be.
const VALUES: &[(&str, &str, Option<ContentType>)] = &[
    ("null", "null", None),
    ("a boolean", "true", None),
    ("a number", "1.5", None),
    ("a number that is none, or infinite", r#"{"$float":"nan"}"#, None),
    ("a text", r#""hi""#, None),
    ("bytes that are UTF-8", r#"{"$bytes":"aGk="}"#, None),
    ("other bytes", r#"{"$bytes":"/w=="}"#, None),
    ("a MessagePack extension", r#"{"$ext":[1,"AA=="]}"#, None),
    ("a map of texts, numbers, booleans and nulls", r#"{"a":1,"b":"2"}"#, None),
    ("an array of such maps", r#"[{"a":1},{"a":"x,y","b":null}]"#, None),
    ("an empty array", "[]", None),
    ("an empty map", "{}", None),
    ("a map with anything else inside", r#"{"a":[1]}"#, None),
    ("a map with keys that are no texts", r#"{"$map":[[1,2]]}"#, None),
    ("any other array", "[1]", None),
    ("a text or bytes said to be json", r#""[{\"a\": 1}]""#, Some(ContentType::Json)),
    ("… that is none", r#""{""#, Some(ContentType::Json)),
    ("a text or bytes said to be csv", r#""a,b\n1,\"2\"\n""#, Some(ContentType::Csv)),
    ("… that is none", r#""a\n1,2\n""#, Some(ContentType::Csv)),
    ("bytes said to be msgpack", r#"{"$bytes":"gaFhAQ=="}"#, Some(ContentType::MessagePack)),
    ("… that are none", r#"{"$bytes":"wQ=="}"#, Some(ContentType::MessagePack)),
    ("bytes said to be text", r#"{"$bytes":"aGk="}"#, Some(ContentType::Text)),
];

fn json(value: &Stored) -> String {
    let mut text = Vec::new();
    value.write_json(&mut text);
    String::from_utf8(text).unwrap()
}

fn shown(value: &Stored) -> String {
    match value.as_byte_string() {
        Some(bytes) => bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" "),
        None => json(value),
    }
}

fn cell(value: &Stored, from: Option<ContentType>, to: ContentType) -> String {
    let made = match (Conversion { from, steps: None, to: Some(to) }).of(value) {
        Ok(made) => made,
        Err(error) => return format!("*{}*", error.name()),
    };
    let back = Conversion { from: Some(to), ..Conversion::default() }.of(&made).unwrap();
    let meant = Conversion { from, ..Conversion::default() }.of(value).unwrap_or_else(|_| value.clone());
    let mark = if json(&back) == json(&meant) { "" } else { " ¹" };
    format!("`{}`{mark}", shown(&made).replace('|', "\\|"))
}

fn table() -> String {
    let mut table = String::from("| what there is | for example |");
    for to in ContentType::ALL {
        table.push_str(&format!(" `{to}` |"));
    }
    table.push_str("\n|---|---|---|---|---|---|---|\n");
    for (what, example, from) in VALUES {
        let value = Stored::from_json(example.as_bytes()).unwrap();
        let cells: Vec<String> = ContentType::ALL.iter().map(|to| cell(&value, *from, *to)).collect();
        table.push_str(&format!("| {what} | `{example}` | {} |\n", cells.join(" | ")));
    }
    table
}

const PAGE: &str = include_str!("../../docs/conversion.md");

#[test]
fn the_table_of_conversions_says_what_is() {
    let table = table();
    assert!(PAGE.contains(&table), "docs/conversion.md should have this table:\n{table}");
}

#[test]
fn every_error_is_explained() {
    let text = String::new;
    let all = [
        ConversionError::NoText(""),
        ConversionError::NoBytes(""),
        ConversionError::NoTable(""),
        ConversionError::NoCell { what: "", row: 1, column: text() },
        ConversionError::EmptyRow(1),
        ConversionError::TooWide,
        ConversionError::NotUtf8(ContentType::Text),
        ConversionError::NotJson(text()),
        ConversionError::NotMessagePack(text()),
        ConversionError::NotCsv { line: 1, what: "" },
        ConversionError::NoFields(""),
        ConversionError::Blocked(text()),
        ConversionError::Taken { from: text(), to: text() },
        ConversionError::TooLarge,
        ConversionError::TooDeep,
        ConversionError::NoRule(text()),
        ConversionError::TooMuchWork,
    ];
    let names: BTreeSet<&str> = all.iter().map(ConversionError::name).collect();
    assert_eq!(names.len(), all.len(), "each has a name of its own");
    let section = PAGE.split("\n## What can't be said\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let explained: BTreeSet<&str> =
        section.lines().filter_map(|line| line.strip_prefix("| `")).filter_map(|row| row.split('`').next()).collect();
    assert_eq!(explained, names);
}

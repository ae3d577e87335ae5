//! What readers of the catalog get: JSON, lines, and a page for people.
//!
//! - JSON is the stored text: one record per line, so that even a damaged listing
//!   can be taken apart.
//! - On the page and in the lines nothing of a sender's text reaches a reader as
//!   markup or as a control character.

use std::fmt::Write as _;

use kvbroker::catalog::Fields;
use serde_json::Value;

use crate::http::Page;
use crate::store::{Entry, Now, Store};

/// Most rows of the page; programs read `/query.json`.
const ROWS_MAX: usize = 2_000;
/// Most characters of a cell.
const CELL_CHARS_MAX: usize = 100;

/// A page of this store; `name` is what the page calls the catalog.
pub fn render(page: Page, store: &Store, name: &str, now: Now) -> String {
    match page {
        Page::Json => json(store),
        Page::Text => text(store),
        Page::Html => html(store, name, now),
    }
}

fn json(store: &Store) -> String {
    let mut out = String::from("[\n");
    for (i, (_, entry)) in store.iter().enumerate() {
        if i > 0 {
            out.push_str(",\n");
        }
        out.push_str(&entry.to_json());
    }
    out.push_str("\n]\n");
    out
}

fn text(store: &Store) -> String {
    let mut out = String::new();
    for (_, entry) in store.iter() {
        let json = entry.to_json();
        let Ok(fields) = Fields::parse(&json) else { continue };
        for (field, raw) in fields.iter() {
            out.push_str(&one_line(field));
            out.push(' ');
            out.push_str(&plain(raw));
            out.push('\n');
        }
        out.push('\n');
    }
    out
}

/// A JSON value as one line of text: texts without their quotes.
fn plain(raw: &str) -> String {
    match serde_json::from_str(raw) {
        Ok(Value::String(text)) => one_line(&text),
        _ => one_line(raw),
    }
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A row of the page.
struct Row {
    sort: (String, String, String),
    cells: [String; 6],
    age_s: u64,
}

impl Row {
    fn new(entry: &Entry, now: Now) -> Self {
        let json = entry.to_json();
        let fields = Fields::parse(&json).ok();
        let cell = |name: &str| {
            let raw = fields.as_ref().and_then(|fields| fields.raw(name));
            raw.map(plain).unwrap_or_default()
        };
        let place = match cell("port") {
            port if port.is_empty() => entry.address.to_string(),
            port => format!("{}:{port}", entry.address),
        };
        let cells = [cell("type"), cell("project"), cell("owner"), entry.name.clone(), place, cell("version")];
        let [kind, project, owner, ..] = &cells;
        Row { sort: (kind.clone(), project.clone(), owner.clone()), age_s: entry.age_s(now), cells }
    }
}

fn html(store: &Store, name: &str, now: Now) -> String {
    let mut rows: Vec<Row> = store.iter().map(|(_, entry)| Row::new(entry, now)).collect();
    rows.sort_by(|a, b| a.sort.cmp(&b.sort).then(a.age_s.cmp(&b.age_s)));
    let mut out = String::new();
    let name = escape(name);
    write!(
        out,
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Catalog {name}</title>\n\
         <style>body{{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:70em;padding:0 1em}}\
         table{{border-collapse:collapse;width:100%}}th,td{{text-align:left;padding:.3em .8em;border-bottom:1px solid #ccc;\
         overflow-wrap:anywhere}}th{{background:#eee}}td:last-child,th:last-child{{text-align:right;white-space:nowrap}}\
         @media(prefers-color-scheme:dark){{body{{background:#111;color:#ddd}}th{{background:#333}}a{{color:#8bf}}}}</style></head>\n\
         <body><h1>Catalog {name}</h1>\n<p>{}. As data: <a href=\"/query.json\">JSON</a>, <a href=\"/query.text\">text</a>.</p>\n",
        match rows.len() {
            0 => "Nobody has announced anything yet".to_owned(),
            1 => "1 record".to_owned(),
            n => format!("{n} records"),
        }
    )
    .expect("writing to a String never fails");
    if !rows.is_empty() {
        out.push_str(
            "<table><thead><tr><th>Type</th><th>Project</th><th>Owner</th><th>Host</th><th>Address</th><th>Version</th>\
             <th>Heard</th></tr></thead><tbody>\n",
        );
        for row in rows.iter().take(ROWS_MAX) {
            out.push_str("<tr>");
            for cell in &row.cells {
                out.push_str("<td>");
                out.push_str(&escape(cell));
                out.push_str("</td>");
            }
            writeln!(out, "<td>{}</td></tr>", age(row.age_s)).expect("writing to a String never fails");
        }
        out.push_str("</tbody></table>\n");
        if rows.len() > ROWS_MAX {
            writeln!(out, "<p>… and {} more; see <a href=\"/query.json\">JSON</a>.</p>", rows.len() - ROWS_MAX)
                .expect("writing to a String never fails");
        }
    }
    out.push_str("</body></html>\n");
    out
}

/// `just now`, `12 s ago`, `3 min ago`, `2 h ago`.
fn age(seconds: u64) -> String {
    match seconds {
        0 => "just now".to_owned(),
        1..=119 => format!("{seconds} s ago"),
        120..=7_199 => format!("{} min ago", seconds / 60),
        _ => format!("{} h ago", seconds / 3_600),
    }
}

fn escape(text: &str) -> String {
    let mut out = String::new();
    for c in one_line(text).chars().take(CELL_CHARS_MAX) {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // Marks that turn the reading direction can make one row look like another.
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    if text.chars().nth(CELL_CHARS_MAX).is_some() {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::update::Update;

    fn now(s: u64) -> Now {
        Now { ms: s * 1000, unix_s: 1_000_000 + s }
    }

    fn store(updates: &[&str]) -> Store {
        let mut store = Store::new(1800);
        for json in updates {
            let update = Update::decode(json.as_bytes(), "127.0.0.1".parse().unwrap()).unwrap();
            store.take(update, now(0)).unwrap();
        }
        store
    }

    #[test]
    fn json_is_what_our_reader_takes() {
        let store = store(&[r#"{"type":"x","port":1}"#, r#"{"type":"y","port":2,"s":"] , ["}"#]);
        let json = render(Page::Json, &store, "c", now(1));
        assert_eq!(serde_json::from_str::<Vec<Value>>(&json).unwrap().len(), 2);
        assert_eq!(json.lines().count(), 4);
        assert_eq!(render(Page::Json, &Store::new(9), "c", now(1)), "[\n\n]\n");
    }

    #[test]
    fn text_is_lines_that_nobody_can_forge() {
        let store = store(&[r#"{"type":"x","port":1,"s":"a\nport 2","o":{"a":[1,2]},"a\nb":null}"#]);
        assert_eq!(
            render(Page::Text, &store, "c", now(1)),
            "name localhost\nlastheardfrom 1000000\naddress 127.0.0.1\ntype x\nport 1\ns a port 2\no {\"a\":[1,2]}\na b null\n\n"
        );
    }

    #[test]
    fn the_page_is_sorted_escaped_and_tells_ages() {
        let store = store(&[
            r#"{"type":"z","port":1,"project":"<script>alert('1')</script>"}"#,
            r#"{"type":"hashtable","port":2,"project":"b","owner":"x & y","version":7}"#,
            r#"{"type":"hashtable","port":3,"project":"a","name":"h\" onload=\"x"}"#,
        ]);
        let html = render(Page::Html, &store, "<c>", now(125));
        assert!(!html.contains("<script") && !html.contains("onload=\"") && html.contains("&lt;c&gt;"));
        let place = |text: &str| html.find(text).unwrap_or_else(|| panic!("no {text} in {html}"));
        assert!(place("<td>a</td>") < place("<td>b</td>"));
        assert!(place("<td>b</td>") < place("<td>z</td>"));
        assert!(html.contains("x &amp; y") && html.contains("2 min ago") && html.contains("127.0.0.1:2"));
    }

    #[test]
    fn rows_and_cells_are_bounded() {
        let updates: Vec<String> =
            (0..ROWS_MAX + 3).map(|i| format!(r#"{{"port":{i},"project":"{}"}}"#, "p".repeat(500))).collect();
        let updates: Vec<&str> = updates.iter().map(String::as_str).collect();
        let html = render(Page::Html, &store(&updates), "c", now(1));
        assert!(html.contains("and 3 more") && html.len() < ROWS_MAX * 300);
        assert!(render(Page::Html, &Store::new(1), "c", now(1)).contains("Nobody"));
    }
}

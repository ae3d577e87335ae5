//! Events to lines.

use std::fmt::{self, Write as _};
use std::time::{SystemTime, UNIX_EPOCH};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use super::LogFormat;
use super::writer::LineWriter;

/// Longest line, its line feed included.
pub(super) const MAX_LINE_BYTES: usize = 8 * 1_024;

/// Room kept for what closes a cut line.
const RESERVE_BYTES: usize = 64;

/// Formats each event and hands it to the writer.
pub(super) struct LineLayer {
    format: LogFormat,
    writer: LineWriter,
}

impl LineLayer {
    pub(super) fn new(format: LogFormat, writer: LineWriter) -> Self {
        Self { format, writer }
    }
}

impl<S: Subscriber> Layer<S> for LineLayer {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let metadata = event.metadata();
        let component = metadata.target().rsplit("::").next().unwrap_or_default();
        let mut line = Line::new(self.format, SystemTime::now(), *metadata.level(), component);
        // The sentence comes first whatever the order of the fields.
        event.record(&mut Sentence(&mut line));
        event.record(&mut Fields(&mut line));
        self.writer.write(line.finish());
    }
}

struct Sentence<'a>(&'a mut Line);

impl Visit for Sentence<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0.sentence(&bounded(value));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.0.sentence(&bounded_display(&value));
        }
    }
}

struct Fields<'a>(&'a mut Line);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() != "message" {
            self.0.text(field.name(), &bounded(value));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() != "message" {
            self.0.text(field.name(), &bounded_display(&value));
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.number(field.name(), value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.number(field.name(), value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.number(field.name(), value);
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.0.text(field.name(), &value.to_string());
    }

    fn record_i128(&mut self, field: &Field, value: i128) {
        self.0.text(field.name(), &value.to_string());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no word for what is not finite.
        if value.is_finite() {
            self.0.number(field.name(), value);
        } else {
            self.0.text(field.name(), &value.to_string());
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.0.text(field.name(), &bounded_display(value));
    }
}

/// A line being written.
pub(super) struct Line {
    format: LogFormat,
    text: String,
    is_full: bool,
}

impl Line {
    pub(super) fn new(format: LogFormat, time: SystemTime, level: Level, component: &str) -> Self {
        let mut line = Self { format, text: String::with_capacity(256), is_full: false };
        let time = Utc::from(time);
        // Writing to a String can't fail.
        let _ = match format {
            LogFormat::Text => write!(line.text, "{time} {level:<5} {component}:"),
            LogFormat::Json => {
                let level = level.as_str().to_ascii_lowercase();
                let component = Json(component);
                write!(line.text, r#"{{"time":"{time}","level":"{level}","component":{component}"#)
            }
        };
        line
    }

    pub(super) fn sentence(&mut self, sentence: &str) {
        match self.format {
            LogFormat::Text => self.push(&[" ", &escape(sentence)]),
            LogFormat::Json => self.push(&[r#","message":"#, &Json(sentence).to_string()]),
        }
    }

    /// A field whose value stands as it is: a number or a truth value.
    pub(super) fn number(&mut self, name: &str, value: impl fmt::Display) {
        self.field(name, &value.to_string());
    }

    fn text(&mut self, name: &str, value: &str) {
        let is_plain = self.format == LogFormat::Text
            && !value.is_empty()
            && value.chars().all(|c| c.is_ascii_graphic() && !matches!(c, '"' | '\\' | '='));
        if is_plain {
            self.field(name, value);
        } else {
            self.field(name, &Json(value).to_string());
        }
    }

    fn field(&mut self, name: &str, value: &str) {
        match self.format {
            LogFormat::Text => self.push(&[" ", name, "=", value]),
            LogFormat::Json => {
                // These names are the line's own.
                let mark = if matches!(name, "time" | "level" | "component" | "message") { "_" } else { "" };
                self.push(&[",", &Json(&format!("{name}{mark}")).to_string(), ":", value]);
            }
        }
    }

    /// Adds all parts, or none if the line would become too long.
    fn push(&mut self, parts: &[&str]) {
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        if self.text.len() + bytes + RESERVE_BYTES > MAX_LINE_BYTES {
            self.is_full = true;
            return;
        }
        self.text.extend(parts.iter().copied());
    }

    pub(super) fn finish(mut self) -> String {
        let end = match (self.format, self.is_full) {
            (LogFormat::Text, false) => "\n",
            (LogFormat::Text, true) => " (cut)\n",
            (LogFormat::Json, false) => "}\n",
            (LogFormat::Json, true) => ",\"cut\":true}\n",
        };
        self.text.push_str(end);
        self.text
    }
}

/// Longest text of one field before escaping; what it becomes fits into a line
/// unless most of it has to be escaped.
const MAX_FIELD_BYTES: usize = 4 * 1_024;

/// Stops formatting where nobody would read on, so that a huge value costs no more than a line.
struct Bounded(String);

impl fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = MAX_FIELD_BYTES.saturating_sub(self.0.len());
        if text.len() <= room {
            self.0.push_str(text);
            return Ok(());
        }
        let end = (0..=room).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        self.0.push_str(text.get(..end).unwrap_or_default());
        self.0.push('…');
        Err(fmt::Error)
    }
}

fn bounded(value: &dyn fmt::Debug) -> String {
    let mut text = Bounded(String::new());
    // The error only says that the bound was reached.
    let _ = write!(text, "{value:?}");
    text.0
}

fn bounded_display(value: &dyn fmt::Display) -> String {
    let mut text = Bounded(String::new());
    let _ = write!(text, "{value}");
    text.0
}

/// A sentence with what could break the line written as an escape.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        if is_dangerous(character) {
            out.extend(character.escape_default());
        } else {
            out.push(character);
        }
    }
    out
}

/// Control characters, line separators, and what reorders text on a terminal.
fn is_dangerous(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// A text as a JSON string.
struct Json<'a>(&'a str);

impl fmt::Display for Json<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for character in self.0.chars() {
            match character {
                '"' => f.write_str("\\\"")?,
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                '\t' => f.write_str("\\t")?,
                // All of these are in the basic plane, so one \u is enough.
                c if is_dangerous(c) => write!(f, "\\u{:04x}", u32::from(c))?,
                c => f.write_char(c)?,
            }
        }
        f.write_char('"')
    }
}

/// A time as RFC 3339 in UTC with microseconds.
struct Utc {
    days: i64,
    second_of_day: i64,
    micros: u32,
}

impl From<SystemTime> for Utc {
    fn from(time: SystemTime) -> Self {
        // A clock before 1970 is shown as 1970: it is wrong either way.
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = i64::try_from(since.as_secs()).unwrap_or(0);
        Self { days: seconds / 86_400, second_of_day: seconds % 86_400, micros: since.subsec_micros() }
    }
}

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Days to a date in the Gregorian calendar, counting years from March so that
        // the leap day is a year's last, and eras of 400 years = 146,097 days.
        let day = self.days + 719_468;
        let era = day.div_euclid(146_097);
        let day_of_era = day.rem_euclid(146_097);
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * day_of_year + 2) / 153;
        let day_of_month = day_of_year - (153 * march_month + 2) / 5 + 1;
        let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        let (hour, minute) = (self.second_of_day / 3_600, self.second_of_day / 60 % 60);
        let second = self.second_of_day % 60;
        let micros = self.micros;
        write!(f, "{year:04}-{month:02}-{day_of_month:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_match_an_independent_calendar() {
        // Expected values from Python's datetime.fromtimestamp(…, UTC).
        let cases = [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_399, "2000-02-28T23:59:59.000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000Z"),
            (1_709_251_199, "2024-02-29T23:59:59.000000Z"),
            (1_763_718_804, "2025-11-21T09:53:24.000000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000Z"),
        ];
        for (seconds, expected) in cases {
            let time = UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(Utc::from(time).to_string(), expected);
        }
    }
}

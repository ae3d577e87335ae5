#![allow(clippy::unwrap_used)]

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::*;

/// Keeps what is written.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Kept {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

/// Blocks every write until the test lets it through, like a stopped terminal.
struct Blocked {
    entered: SyncSender<()>,
    release: Receiver<()>,
    kept: Kept,
}

impl Write for Blocked {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.entered.try_send(());
        // An error means that the test has opened the gate for good.
        let _ = self.release.recv();
        self.kept.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn logged(format: LogFormat, level: LevelFilter, events: impl FnOnce()) -> String {
    let kept = Kept::default();
    let writer = LineWriter::start(format, kept.clone());
    let subscriber = Registry::default().with(layer(format, level, writer.clone()));
    tracing::subscriber::with_default(subscriber, events);
    writer.flush(Duration::from_secs(10));
    kept.text()
}

fn without_time(line: &str) -> &str {
    line.split_once("Z ").unwrap().1
}

#[test]
fn a_line_has_time_level_component_sentence_and_fields() {
    let text = logged(LogFormat::Text, LevelFilter::INFO, || {
        tracing::warn!(target: "kvbroker::front::peers", batch = 7_u64, name = "a b", plain = "x-1", "it is late");
    });
    let time = text.split_once(' ').unwrap().0;
    assert_eq!(time.len(), "2026-11-21T09:53:24.123456Z".len(), "{time}");
    assert_eq!(without_time(&text), "WARN  peers: it is late batch=7 name=\"a b\" plain=x-1\n");
}

#[test]
fn json_lines_parse_whatever_is_in_them() {
    let text = logged(LogFormat::Json, LevelFilter::TRACE, || {
        let odd = "quote \" backslash \\ line\nfeed \u{1}\u{2028}é";
        let not_a_number = f64::NAN;
        tracing::trace!(target: "kvperf", odd, level = 3_i64, big = u128::MAX, not_a_number, yes = true, half = 0.5, "{odd}");
    });
    assert_eq!(text.lines().count(), 1);
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["level"], "trace");
    assert_eq!(value["component"], "kvperf");
    assert_eq!(value["message"], "quote \" backslash \\ line\nfeed \u{1}\u{2028}é");
    assert_eq!(value["odd"], value["message"]);
    assert_eq!(value["level_"], 3);
    assert_eq!(value["big"], u128::MAX.to_string());
    assert_eq!(value["not_a_number"], "NaN");
    assert_eq!((value["yes"].as_bool(), value["half"].as_f64()), (Some(true), Some(0.5)));
}

#[test]
fn nothing_logged_can_forge_a_line_or_paint_the_terminal() {
    let text = logged(LogFormat::Text, LevelFilter::INFO, || {
        let evil = "x\n2026-01-01T00:00:00Z ERROR log: forged \u{1b}[31m \u{202e}";
        tracing::info!(target: "kvbroker", evil, "{evil}");
    });
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(!text.trim_end().chars().any(char::is_control), "{text:?}");
    assert!(!text.contains('\u{202e}'));
}

#[test]
fn levels_and_foreign_crates_are_filtered() {
    let text = logged(LogFormat::Text, LevelFilter::INFO, || {
        tracing::debug!(target: "kvbroker", "too fine");
        tracing::info!(target: "kvbroker_core::table", "ours");
        tracing::info!(target: "ureq::pool", "foreign chatter");
        tracing::warn!(target: "ureq::pool", "foreign warning");
    });
    let lines: Vec<&str> = text.lines().map(without_time).collect();
    assert_eq!(lines, ["INFO  table: ours", "WARN  pool: foreign warning"]);
}

#[test]
fn flags_give_levels() {
    assert_eq!(level(Level::WARN, false, 0), LevelFilter::WARN);
    assert_eq!(level(Level::INFO, false, 1), LevelFilter::DEBUG);
    assert_eq!(level(Level::INFO, false, 5), LevelFilter::TRACE);
    assert_eq!(level(Level::INFO, true, 2), LevelFilter::ERROR);
    assert_eq!("json".parse(), Ok(LogFormat::Json));
    assert_eq!(LogFormat::Text.to_string().parse(), Ok(LogFormat::Text));
    assert_eq!("xml".parse::<LogFormat>(), Err(UnknownLogFormat));
}

#[test]
fn long_values_are_cut_and_the_line_still_ends() {
    let huge = "é".repeat(1 << 20);
    for format in [LogFormat::Text, LogFormat::Json] {
        let text = logged(format, LevelFilter::INFO, || {
            tracing::info!(target: "kvbroker", a = ?huge, b = huge, c = %huge, "{huge}");
        });
        assert!(text.len() <= 8 * 1_024 && text.ends_with('\n'), "{}", text.len());
        assert_eq!(text.lines().count(), 1);
        if format == LogFormat::Json {
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(value["cut"], true);
        }
    }
}

#[test]
fn a_blocked_stderr_stalls_nobody_and_the_loss_is_told() {
    let (entered, has_entered) = sync_channel(1);
    let (release, gate) = sync_channel(0);
    let kept = Kept::default();
    let sink = Blocked { entered, release: gate, kept: kept.clone() };
    let writer = LineWriter::start(LogFormat::Text, sink);
    writer.write("first\n".into());
    has_entered.recv_timeout(Duration::from_secs(10)).unwrap();

    // The writing thread is stuck now. None of this may wait for it.
    let begin = Instant::now();
    for _ in 0..100_000 {
        writer.write("more\n".into());
    }
    writer.flush(Duration::from_millis(20));
    assert!(begin.elapsed() < Duration::from_secs(5));

    drop(release);
    writer.flush(Duration::from_secs(10));
    let text = kept.text();
    let kept_lines = text.lines().filter(|line| *line == "more").count();
    let told: usize = text.lines().filter_map(|line| line.split_once("dropped=")?.1.parse::<usize>().ok()).sum();
    assert!(text.starts_with("first\n"));
    assert!(kept_lines > 0 && told > 0);
    assert_eq!(kept_lines + told, 100_000);
}

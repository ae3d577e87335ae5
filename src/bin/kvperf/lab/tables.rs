//! Words and numbers as the report shows them.

use crate::report::grouped;
use crate::result::Summary;

/// A Markdown table; all but the first column to the right.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut text = format!("| {} |\n|:---|{}\n", head.join(" | "), "---:|".repeat(head.len().saturating_sub(1)));
    for row in rows {
        text.push_str(&format!("| {} |\n", row.join(" | ")));
    }
    text
}

/// Hidden until a reader asks for it.
pub(super) fn details(summary: &str, text: &str) -> String {
    format!("<details><summary>{summary}</summary>\n\n{}\n\n</details>\n", text.trim())
}

/// A rate, and the lowest and highest of all rounds behind it where they differ.
pub(super) fn spread(rate: f64, low: f64, high: f64) -> String {
    if low == high {
        format!("**{}**", grouped(rate))
    } else {
        format!("**{}** ({}–{})", grouped(rate), grouped(low), grouped(high))
    }
}

/// Mean, median, tail and maximum.
pub(super) fn latency(sum: &Summary) -> String {
    [sum.mean_us, sum.p50_us, sum.p99_us, sum.p999_us, sum.max_us].map(grouped).join(" / ")
}

/// `1 client`, `8 clients`.
pub(super) fn clients_text(clients: usize) -> String {
    if clients == 1 { "1 client".to_owned() } else { format!("{clients} clients") }
}

/// The value in the middle; 0 of none.
pub(super) fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// The value below which such a part of all lies; 0 of none.
pub(super) fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    let index = ((sorted.len() as f64 * part) as usize).min(last);
    sorted.get(index).copied().unwrap_or(0.0)
}

/// How many times as large; `–` where there is nothing to compare with.
pub(super) fn ratio(value: f64, than: f64) -> String {
    if than > 0.0 && value.is_finite() { format!("{:.2}", value / than) } else { "–".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_markdown() {
        let text = table(&["clients", "insert"], &[vec!["1".into(), "3,428".into()]]);
        assert_eq!(text, "| clients | insert |\n|:---|---:|\n| 1 | 3,428 |\n");
    }

    #[test]
    fn spreads_and_quantiles() {
        assert_eq!(spread(5_000.0, 5_000.0, 5_000.0), "**5,000**");
        assert_eq!(spread(5_000.0, 4_000.0, 6_000.0), "**5,000** (4,000–6,000)");
        assert_eq!((median(&[3.0, 1.0, 2.0]), quantile(&[3.0, 1.0, 2.0], 1.0), median(&[])), (2.0, 3.0, 0.0));
        assert_eq!((ratio(3.0, 2.0), ratio(1.0, 0.0)), ("1.50".to_owned(), "–".to_owned()));
    }
}

//! Axes: from values to where they lie, and the ticks that say so.
//!
//! - Inside, a place is a number between the ends of the axis, whatever its scale: on a logarithmic one it is the exponent.
//! - What lies beyond an end is drawn at that end.
//! - Ticks lie at round values only: 1, 2 and 5 with any number of zeros, or where the caller says.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};

/// How values are spread over an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spread {
    /// Equal differences are equally long.
    Even,
    /// Equal ratios are equally long. Values are above 0; others lie at the axis's beginning.
    Logarithmic,
}

/// One direction of a plot.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Axis {
    /// What it shows, with its unit.
    pub(crate) label: String,
    spread: Spread,
    /// Places.
    from: f64,
    to: f64,
    /// Values in their order, and what stands at them.
    ticks: Vec<(f64, String)>,
}

/// Most ticks of a logarithmic axis before only powers of ten are left.
const TICKS_MAX: usize = 8;
/// About how many ticks an even axis has.
const TICKS_WANTED: f64 = 5.0;

impl Axis {
    /// One that holds all the values, with round ends and ticks; `show` makes a tick's text. Values that are not finite don't count.
    pub(crate) fn around(label: &str, spread: Spread, values: impl IntoIterator<Item = f64>, show: fn(f64) -> String) -> Axis {
        let usable = |value: &f64| value.is_finite() && (spread == Spread::Even || *value > 0.0);
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.into_iter().filter(usable) {
            (low, high) = (low.min(value), high.max(value));
        }
        if low > high {
            (low, high) = (1.0, 10.0);
        }
        let at = match spread {
            Spread::Even => even_ticks(low.min(0.0), high),
            Spread::Logarithmic => logarithmic_ticks(low, high),
        };
        let ticks: Vec<(f64, String)> = at.into_iter().map(|value| (value, show(value))).collect();
        let from = ticks.first().map_or(low, |(first, _)| first.min(low));
        let to = ticks.last().map_or(high, |(last, _)| last.max(high));
        Axis { label: label.to_owned(), spread, from: spread.place(from), to: spread.place(to), ticks }
    }

    /// One with ticks at these values; it ends with the first and last of them, a little beyond if `with_room`.
    pub(crate) fn at(label: &str, spread: Spread, mut ticks: Vec<(f64, String)>, with_room: bool) -> Axis {
        ticks.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (from, to) = match (ticks.first(), ticks.last()) {
            (Some(first), Some(last)) if first.0 < last.0 => (spread.place(first.0), spread.place(last.0)),
            (Some(only), _) => (spread.place(only.0) - 0.5, spread.place(only.0) + 0.5),
            _ => (0.0, 1.0),
        };
        let room = if with_room { (to - from) * 0.04 } else { 0.0 };
        Axis { label: label.to_owned(), spread, from: from - room, to: to + room, ticks }
    }

    /// From 0 to 1, where a value lies.
    fn part(&self, value: f64) -> f64 {
        let part = (self.spread.place(value) - self.from) / (self.to - self.from);
        if part.is_finite() { part.clamp(0.0, 1.0) } else { 0.0 }
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (begin, end): (i32, i32)) -> i32 {
        begin + (self.part(*value) * f64::from(end - begin)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() {
            return Vec::new();
        }
        self.ticks.iter().map(|(value, _)| *value).collect()
    }

    fn range(&self) -> Range<f64> {
        self.spread.value(self.from)..self.spread.value(self.to)
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, value: &f64) -> String {
        let distance = |tick: &&(f64, String)| (tick.0 - value).abs();
        let nearest = self.ticks.iter().min_by(|a, b| distance(a).total_cmp(&distance(b)));
        nearest.map_or(String::new(), |(_, text)| text.clone())
    }
}

impl Spread {
    fn place(self, value: f64) -> f64 {
        match self {
            Spread::Even => value,
            Spread::Logarithmic => value.max(f64::MIN_POSITIVE).log10(),
        }
    }

    fn value(self, place: f64) -> f64 {
        match self {
            Spread::Even => place,
            Spread::Logarithmic => 10f64.powf(place),
        }
    }
}

/// Round values from at most `low` to at least `high`.
fn even_ticks(low: f64, high: f64) -> Vec<f64> {
    let span = if high > low { high - low } else { low.abs().max(1.0) };
    let rough = span / TICKS_WANTED;
    let unit = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|round| round * unit).find(|step| *step >= rough).unwrap_or(unit * 10.0);
    let (first, last) = ((low / step).floor(), ((low + span) / step - 1e-9).ceil());
    (0..=(last - first) as usize).map(|index| (first + index as f64) * step).collect()
}

/// 1, 2 and 5 with zeros behind them, or only 1 where that would be too many, from at most `low` to at least `high`.
fn logarithmic_ticks(low: f64, high: f64) -> Vec<f64> {
    let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    let decades = |digits: &[f64]| -> Vec<f64> {
        let all: Vec<f64> =
            (first..=last).flat_map(|exponent| digits.iter().map(move |digit| digit * 10f64.powi(exponent))).collect();
        let begin = all.iter().rposition(|tick| *tick <= low * 1.000_001).unwrap_or(0);
        let end = all.iter().position(|tick| *tick >= high * 0.999_999).unwrap_or(all.len() - 1);
        all.get(begin..=end.max(begin)).unwrap_or_default().to_vec()
    };
    let fine = decades(&[1.0, 2.0, 5.0]);
    if fine.len() <= TICKS_MAX { fine } else { decades(&[1.0]) }
}

/// A rate or number in few letters: `500`, `20 k`, `1.5 M`.
pub(crate) fn count_text(value: f64) -> String {
    let (value, unit) = match value.abs() {
        large if large >= 1e6 => (value / 1e6, " M"),
        large if large >= 1e3 => (value / 1e3, " k"),
        _ => (value, ""),
    };
    format!("{}{unit}", short(value))
}

/// Microseconds in few letters: `50 µs`, `2 ms`, `1 s`.
pub(crate) fn time_text(us: f64) -> String {
    let (value, unit) = match us.abs() {
        large if large >= 1e6 => (us / 1e6, "s"),
        large if large >= 1e3 => (us / 1e3, "ms"),
        _ => (us, "µs"),
    };
    format!("{} {unit}", short(value))
}

/// At most two digits behind the point, and no zeros at the end.
fn short(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|(_, text)| text.as_str()).collect()
    }

    /// Where a value lies on an axis of a thousand pixels.
    fn at(axis: &Axis, value: f64) -> i32 {
        axis.map(&value, (0, 1_000))
    }

    #[test]
    fn ends_are_round_and_hold_every_value() {
        let axis = Axis::around("y", Spread::Even, [3.0, 96.0, f64::NAN], count_text);
        assert_eq!((axis.range(), texts(&axis)), (0.0..100.0, vec!["0", "20", "40", "60", "80", "100"]));
        let axis = Axis::around("y", Spread::Logarithmic, [130.0, 1_900.0, 0.0], time_text);
        assert_eq!(texts(&axis), ["100 µs", "200 µs", "500 µs", "1 ms", "2 ms"]);
        assert!(at(&axis, 130.0) > 0 && at(&axis, 1_900.0) < 1_000);
        assert_eq!((at(&axis, 100.0), at(&axis, 2_000.0)), (0, 1_000));
        assert_eq!(axis.format_ext(&500.0), "500 µs");
        let axis = Axis::around("y", Spread::Logarithmic, [15.0, 3e6], time_text);
        assert_eq!(texts(&axis).first(), Some(&"10 µs"));
        assert!(texts(&axis).iter().all(|text| text.starts_with('1')), "many decades: powers of ten only");
    }

    #[test]
    fn equal_ratios_are_equally_long() {
        let axis = Axis::around("y", Spread::Logarithmic, [1.0, 100.0], count_text);
        assert_eq!([1.0, 10.0, 100.0].map(|value| at(&axis, value)), [0, 500, 1_000]);
        // On the screen the vertical axis runs the other way.
        assert_eq!(axis.map(&10.0, (300, 100)), 200);
    }

    #[test]
    fn what_lies_beyond_an_end_is_drawn_at_it() {
        let axis = Axis::around("y", Spread::Logarithmic, [10.0, 1_000.0], count_text);
        assert_eq!([0.0, 1e9, f64::NAN, -1.0].map(|value| at(&axis, value)), [0, 1_000, 0, 0]);
    }

    #[test]
    fn there_is_an_axis_for_no_values_and_for_one() {
        for spread in [Spread::Even, Spread::Logarithmic] {
            for values in [&[][..], &[7.0], &[0.0], &[1e-9], &[1e15]] {
                let axis = Axis::around("y", spread, values.iter().copied(), count_text);
                let Range { start, end } = axis.range();
                assert!(
                    start.is_finite() && end.is_finite() && start <= end && !axis.ticks.is_empty(),
                    "{spread:?} {values:?} {axis:?}"
                );
                assert!(axis.ticks.len() < 20, "{spread:?} {values:?}");
            }
        }
        let axis = Axis::at("x", Spread::Logarithmic, vec![(4.0, "4".into())], true);
        assert_eq!(at(&axis, 4.0), 500);
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([0.0, 999.0, 1_000.0, 12_500.0, 2e6].map(count_text), ["0", "999", "1 k", "12.5 k", "2 M"]);
        assert_eq!([0.5, 50.0, 2_000.0, 1e6].map(time_text), ["0.5 µs", "50 µs", "2 ms", "1 s"]);
    }
}

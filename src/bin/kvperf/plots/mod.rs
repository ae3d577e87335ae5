//! Plots of what was measured, as SVG: throughput against clients, the distribution of latencies, and the course of a run.
//!
//! - Pure: figures in, text out. Who wants a file writes one.
//! - Every axis has a label with its unit; where values span orders of magnitude it is logarithmic.

mod figure;
mod scale;
mod theme;

use figure::{Figure, Panel, Series};
use scale::{Axis, Spread, count_text, time_text};

pub(crate) use figure::PlotError;

use crate::measure::levels_out_at;

/// How a rate grows with the number of clients.
#[derive(Clone, Debug)]
pub(crate) struct Growth {
    /// What is done.
    pub(crate) name: String,
    /// Numbers of clients and the sum of their rates, operations per second.
    pub(crate) rates: Vec<(usize, f64)>,
}

/// Latencies of one kind of operation.
#[derive(Clone, Debug)]
pub(crate) struct Distribution {
    /// Of what.
    pub(crate) name: String,
    /// Which part of all (0 to 1) took at most how many microseconds.
    pub(crate) quantiles: Vec<(f64, f64)>,
}

/// One interval of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    /// When it began, seconds after the run did.
    pub(crate) s: f64,
    pub(crate) ops_per_s: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) max_us: f64,
}

/// The sum of all clients against their number. A ring marks where it levels out.
///
/// # Errors
/// As [`PlotError`] says.
pub(crate) fn growth(title: &str, lines: &[Growth]) -> Result<String, PlotError> {
    let mut counts: Vec<usize> = lines.iter().flat_map(|line| line.rates.iter().map(|(clients, _)| *clients)).collect();
    counts.sort_unstable();
    counts.dedup();
    let ticks = counts.iter().map(|clients| (*clients as f64, clients.to_string())).collect();
    let rates = lines.iter().flat_map(|line| line.rates.iter().map(|(_, rate)| *rate));
    let series = |line: &Growth| {
        let points: Vec<(f64, f64)> = line.rates.iter().map(|(clients, rate)| (*clients as f64, *rate)).collect();
        let level = levels_out_at(&line.rates).map(|clients| clients as f64);
        let ring = points.iter().copied().find(|(clients, _)| Some(*clients) == level);
        Series { name: line.name.clone(), points, has_dots: true, ring }
    };
    let figure = Figure {
        title: title.to_owned(),
        x: Axis::at("client processes", Spread::Logarithmic, thinned(ticks), true),
        panels: vec![Panel {
            y: Axis::around("operations per second, all clients", Spread::Logarithmic, rates, count_text),
            series: lines.iter().map(series).collect(),
        }],
        shades: Vec::new(),
        shade_name: String::new(),
        ring_name: "levels out here".to_owned(),
    };
    figure.svg()
}

/// Latencies against the part of operations that took longer: the tail has as much room as the middle.
///
/// # Errors
/// As [`PlotError`] says.
pub(crate) fn distribution(title: &str, lines: &[Distribution]) -> Result<String, PlotError> {
    // The highest part that a line says something about, as nines.
    let known = |line: &Distribution| {
        line.quantiles.iter().filter(|(part, _)| *part < 1.0).map(|(part, _)| nines(*part)).fold(0.0, f64::max)
    };
    let most = lines.iter().map(known).fold(1.0, f64::max);
    let texts = ["min", "90 %", "99 %", "99.9 %", "99.99 %", "99.999 %", "99.9999 %"];
    let mut ticks: Vec<(f64, String)> = texts
        .iter()
        .enumerate()
        .map(|(nines, text)| (nines as f64, (*text).to_owned()))
        .filter(|(nines, _)| *nines <= most.ceil())
        .collect();
    ticks.push((nines(0.5), "50 %".to_owned()));
    let end = ticks.iter().map(|(nines, _)| *nines).fold(0.0, f64::max);
    let series = |line: &Distribution| {
        let place = |(part, us): &(f64, f64)| (if *part < 1.0 { nines(*part) } else { end }, *us);
        Series { name: line.name.clone(), points: line.quantiles.iter().map(place).collect(), has_dots: false, ring: None }
    };
    let latencies = lines.iter().flat_map(|line| line.quantiles.iter().map(|(_, us)| *us));
    let figure = Figure {
        title: title.to_owned(),
        x: Axis::at("part of all operations that took at most as long", Spread::Even, ticks, false),
        panels: vec![Panel {
            y: Axis::around("latency", Spread::Logarithmic, latencies, time_text),
            series: lines.iter().map(series).collect(),
        }],
        shades: Vec::new(),
        shade_name: String::new(),
        ring_name: String::new(),
    };
    figure.svg()
}

/// Rate and latencies over the time of a run; `checkpoints` begin and end at these seconds.
///
/// # Errors
/// As [`PlotError`] says.
pub(crate) fn timeline(title: &str, moments: &[Moment], checkpoints: &[(f64, f64)]) -> Result<String, PlotError> {
    let series = |name: &str, value: fn(&Moment) -> f64| Series {
        name: name.to_owned(),
        points: moments.iter().map(|moment| (moment.s, value(moment))).collect(),
        has_dots: false,
        ring: None,
    };
    let rates = moments.iter().map(|moment| moment.ops_per_s);
    let latencies = moments.iter().flat_map(|moment| [moment.p50_us, moment.p99_us, moment.max_us]);
    let figure = Figure {
        title: title.to_owned(),
        x: Axis::around("seconds since the beginning", Spread::Even, moments.iter().map(|moment| moment.s), count_text),
        panels: vec![
            Panel {
                y: Axis::around("operations per second", Spread::Even, rates, count_text),
                series: vec![series("operations per second", |moment| moment.ops_per_s)],
            },
            Panel {
                y: Axis::around("latency", Spread::Logarithmic, latencies, time_text),
                series: vec![
                    series("longest", |moment| moment.max_us),
                    series("p99", |moment| moment.p99_us),
                    series("p50", |moment| moment.p50_us),
                ],
            },
        ],
        shades: checkpoints.to_vec(),
        shade_name: "checkpoint".to_owned(),
        ring_name: String::new(),
    };
    figure.svg()
}

/// How many nines a part of all has: 0.9 has one, 0.99 two.
fn nines(part: f64) -> f64 {
    -(1.0 - part.clamp(0.0, 1.0 - 1e-9)).log10()
}

/// So few that their texts don't meet: every second one while there are many.
fn thinned(mut ticks: Vec<(f64, String)>) -> Vec<(f64, String)> {
    const ROOM: usize = 12;
    while ticks.len() > ROOM {
        let last = ticks.len() - 1;
        let mut index = 0;
        ticks.retain(|_| {
            index += 1;
            (last + 1 - index).is_multiple_of(2)
        });
    }
    ticks
}

#[cfg(test)]
mod tests;

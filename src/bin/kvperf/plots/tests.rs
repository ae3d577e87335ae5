#![allow(clippy::unwrap_used)]

use super::*;

fn lines() -> Vec<Growth> {
    let line = |name: &str, rates: &[f64]| Growth {
        name: name.to_owned(),
        rates: [1, 2, 4, 8, 16, 32].into_iter().zip(rates.iter().copied()).collect(),
    };
    vec![
        line("insert", &[3_428.0, 5_804.0, 12_644.0, 16_143.0, 22_000.0, 29_000.0]),
        line("lookup", &[8_298.0, 13_214.0, 21_694.0, 27_667.0, 29_100.0, 29_400.0]),
        line("scan", &[5_385.0, 8_327.0, 11_188.0, 11_846.0, 11_700.0, 11_500.0]),
        line("query", &[5_892.0, 8_256.0, 13_947.0, 14_483.0, 14_500.0, 14_000.0]),
        line("remove", &[3_530.0, 6_304.0, 9_392.0, 16_867.0, 22_500.0, 28_000.0]),
    ]
}

fn distributions() -> Vec<Distribution> {
    let line = |name: &str, factor: f64| Distribution {
        name: name.to_owned(),
        quantiles: (0..=80)
            .map(|step| 1.0 - 10f64.powf(-f64::from(step) / 20.0))
            .map(|part| (part, factor * (90.0 + 40.0 * nines(part).powf(3.2))))
            .chain([(1.0, factor * 6_000.0)])
            .collect(),
    };
    vec![
        line("lookup, 1 client", 1.0),
        line("lookup, 8 clients", 2.4),
        line("insert, 1 client", 2.0),
        line("insert, 8 clients", 4.0),
    ]
}

fn moments() -> Vec<Moment> {
    let wave = |second: u32| f64::from((second * 7_919) % 13) / 13.0;
    (0..30)
        .map(|second| {
            let is_slow = second % 7 > 4;
            let p50_us = 210.0 + 20.0 * wave(second);
            let factor = if is_slow { 3.0 } else { 1.0 };
            Moment {
                s: f64::from(second),
                ops_per_s: 24_000.0 - 900.0 * wave(second) * factor,
                p50_us,
                p99_us: p50_us * 2.5 * factor,
                max_us: 4_000.0 * factor * (1.0 + wave(second)),
            }
        })
        .collect()
}

/// Three small documents; `KVPERF_TEST_PLOTS` names a directory where they are left, to be looked at.
#[test]
fn plots_are_small_labelled_and_always_the_same() {
    let checkpoints = [(4.6, 6.9), (11.7, 13.8), (18.5, 20.9), (25.6, 27.9)];
    let draw = || {
        [
            ("growth", growth("Throughput against clients: one operation per request, --sync always", &lines()).unwrap()),
            ("latency", distribution("Latency of one operation at a time, --sync always", &distributions()).unwrap()),
            ("timeline", timeline("Half of what it can, over several checkpoints", &moments(), &checkpoints).unwrap()),
        ]
    };
    let labels = [
        &["client processes", "operations per second, all clients", "levels out here", "insert", "16", "20 k"][..],
        &["part of all operations", "latency", "99.9 %", "1 ms", "insert, 8 clients"],
        &["seconds since the beginning", "operations per second", "latency", "longest", "checkpoint"],
    ];
    for ((name, svg), labels) in draw().iter().zip(labels) {
        if let Some(directory) = std::env::var_os("KVPERF_TEST_PLOTS") {
            std::fs::write(std::path::Path::new(&directory).join(format!("{name}.svg")), svg).unwrap();
        }
        assert!(svg.len() < 24 << 10, "{name} has {} bytes", svg.len());
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>") && svg.contains("prefers-color-scheme:dark"));
        for label in labels {
            assert!(svg.contains(label), "{name} says {label:?}");
        }
    }
    assert_eq!(draw(), draw());
}

#[test]
fn each_line_that_levels_out_has_its_ring() {
    let rings = |lines: &[Growth]| growth("t", lines).unwrap().matches("r=\"8\"").count();
    // insert and remove go on growing; the legend has one more.
    assert_eq!(rings(&lines()), 3 + 1);
    assert_eq!(rings(&lines()[..1]), 0);
}

#[test]
fn as_many_shades_as_checkpoints() {
    let shades = |checkpoints: &[(f64, f64)]| {
        let svg = timeline("t", &moments(), checkpoints).unwrap();
        svg.matches("<rect").count()
    };
    // In each of two panels, and each has a legend.
    assert_eq!(shades(&[(1.0, 2.0), (3.0, 4.0)]) - shades(&[]), 2 * 2 + 2);
}

#[test]
fn nothing_at_all_is_a_plot_too() {
    for svg in [growth("t", &[]).unwrap(), distribution("t", &[]).unwrap(), timeline("t", &[], &[]).unwrap()] {
        assert!(svg.starts_with("<svg") && !svg.contains("NaN"), "{svg}");
    }
    let odd = [Growth { name: "<&>".into(), rates: vec![(1, 0.0), (3, f64::NAN)] }];
    let svg = growth("<&>", &odd).unwrap();
    assert!(svg.contains("&lt;&amp;&gt;") && !svg.contains("NaN"), "{svg}");
}

#[test]
fn ticks_are_thinned_from_the_end() {
    let ticks = thinned((1..=40).map(|clients| (f64::from(clients), clients.to_string())).collect());
    assert!(ticks.len() <= 12 && ticks.last().unwrap().1 == "40", "{ticks:?}");
}

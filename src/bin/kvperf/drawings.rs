//! `--svg DIR`: what was measured, as plots in files.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::plots::{self, PlotError};
use crate::result::{Document, Run};
use crate::stages::Stage;

/// Why a plot is not there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DrawingError {
    /// The file or its directory.
    #[error("cannot write {}: {source}", file.display())]
    File {
        /// Which.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The figures.
    #[error(transparent)]
    Plot(#[from] PlotError),
}

/// Makes the directory where there is none, so that it is known before anything is measured that plots can be written.
///
/// # Errors
/// It can't be made.
pub(crate) fn prepare(directory: &Path) -> Result<(), DrawingError> {
    fs::create_dir_all(directory).map_err(|source| DrawingError::File { file: directory.to_owned(), source })
}

/// Writes all plots of a document. Gives the names of the files.
///
/// # Errors
/// As [`DrawingError`] says.
pub(crate) fn draw(document: &Document, directory: &Path) -> Result<Vec<PathBuf>, DrawingError> {
    let mut files = Vec::new();
    for (name, text) in plots_of(document)? {
        let file = directory.join(name);
        fs::write(&file, text).map_err(|source| DrawingError::File { file: file.clone(), source })?;
        files.push(file);
    }
    Ok(files)
}

/// Names and texts: the growth of the sums, the latencies with each number of clients, and how each stage went.
fn plots_of(document: &Document) -> Result<Vec<(String, String)>, PlotError> {
    let facts = &document.facts;
    let title = |what: &str| format!("{what}: {} over {}, --sync {}", facts.project, facts.transport, facts.sync);
    let alone: Vec<&Run> = document.runs.iter().filter(|run| run.beside.is_none() && run.sum.operations > 0).collect();
    let counts: BTreeSet<usize> = alone.iter().map(|run| run.clients).collect();
    let mut texts = Vec::new();
    if counts.len() > 1 {
        let growth = |stage: &Stage| {
            let of_stage = alone.iter().filter(|run| run.stage == *stage);
            let rates = of_stage.map(|run| (run.clients, run.sum.ops_per_s)).collect();
            plots::Growth { name: stage.to_string(), rates }
        };
        let lines: Vec<plots::Growth> = document.settings.stages.iter().map(growth).collect();
        texts.push(("growth.svg".to_owned(), plots::growth(&title("throughput"), &lines)?));
    }
    for clients in counts {
        let runs = || alone.iter().filter(|run| run.clients == clients);
        let noun = if clients == 1 { "client" } else { "clients" };
        let distribution = |run: &&Run| plots::Distribution {
            name: run.stage.to_string(),
            quantiles: run.sum.percentiles.iter().map(|(percent, us)| (percent / 100.0, *us)).collect(),
        };
        let lines: Vec<plots::Distribution> = runs().map(distribution).collect();
        let of_clients = |what: &str| title(&format!("{what}, {clients} {noun}"));
        texts.push((format!("latency-{clients}.svg"), plots::distribution(&of_clients("latency"), &lines)?));
        for run in runs().filter(|run| run.timeline.len() > 1) {
            let (moments, checkpoints) = course(run);
            let text = plots::timeline(&of_clients(run.stage.name()), &moments, &checkpoints)?;
            texts.push((format!("timeline-{}-{clients}.svg", run.stage), text));
        }
    }
    Ok(texts)
}

/// A run's timeline in seconds, and its checkpoints as far as they lie within.
fn course(run: &Run) -> (Vec<plots::Moment>, Vec<(f64, f64)>) {
    let end_s = run.timeline.last().map_or(0.0, |last| (last.t_ms + run.moment_ms) / 1e3);
    let moment = |moment: &crate::result::Moment| plots::Moment {
        s: moment.t_ms / 1e3,
        ops_per_s: moment.operations as f64 / (run.moment_ms / 1e3),
        p50_us: moment.p50_us,
        p99_us: moment.p99_us,
        max_us: moment.max_us,
    };
    let shade = |begin_ms: f64, end_ms: Option<f64>| {
        let end_s = end_ms.map_or(end_s, |end_ms| (end_ms / 1e3).min(end_s));
        ((begin_ms / 1e3).max(0.0), end_s)
    };
    let checkpoints = run.checkpoints.iter().map(|it| shade(it.begin_ms, it.end_ms));
    (run.timeline.iter().map(moment).collect(), checkpoints.filter(|(begin_s, end_s)| begin_s < end_s).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::result::tests::document;
    use crate::result::{Checkpoint, Moment};

    #[test]
    fn each_number_of_clients_and_each_stage_has_its_plots() {
        let mut document = document();
        let run = document.runs[0].clone();
        let moment = |t_ms| Moment { t_ms, operations: 3, p50_us: 10.0, p99_us: 20.0, max_us: 30.0 };
        let timeline: Vec<Moment> = [0.0, 100.0, 300.0].map(moment).to_vec();
        let checkpoints = vec![
            Checkpoint { begin_ms: -5.0, end_ms: Some(50.0) },
            Checkpoint { begin_ms: 350.0, end_ms: None },
            Checkpoint { begin_ms: 900.0, end_ms: None },
        ];
        let alone = |clients| Run {
            clients,
            beside: None,
            moment_ms: 100.0,
            timeline: timeline.clone(),
            checkpoints: checkpoints.clone(),
            ..run.clone()
        };
        let (moments, shades) = course(&alone(1));
        assert_eq!((moments.len(), moments[2].s, moments[2].ops_per_s), (3, 0.3, 30.0));
        assert_eq!(shades, [(0.0, 0.05), (0.35, 0.4)]);
        document.runs = vec![alone(1), alone(2), run];
        let directory = tempfile::tempdir().unwrap();
        let inner = directory.path().join("a/b");
        prepare(&inner).unwrap();
        let files = draw(&document, &inner).unwrap();
        let names: Vec<String> = files.iter().map(|file| file.file_name().unwrap().to_string_lossy().into_owned()).collect();
        assert_eq!(names, ["growth.svg", "latency-1.svg", "timeline-scan-1.svg", "latency-2.svg", "timeline-scan-2.svg"]);
        assert!(files.iter().all(|file| fs::read_to_string(file).unwrap().starts_with("<svg")));
        fs::write(directory.path().join("file"), "").unwrap();
        assert!(prepare(&directory.path().join("file/c")).unwrap_err().to_string().contains("file/c"));
    }
}

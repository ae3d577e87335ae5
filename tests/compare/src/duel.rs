//! Two servers that take turns under the same load.
//!
//! - Both run for the whole row; the one whose turn it is not is stopped (SIGSTOP), so that what it does in the background (checkpoints,
//!   rewriting its file) costs only itself. What it has written and not synced is synced between the turns.
//! - Who comes first changes with each round.

use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};

use crate::Failed;
use crate::load::{Measured, Shape, drive, fill};
use crate::options::Options;
use crate::rows::{Contest, Round, Sample, Side};
use crate::servers::{TableServer, pause, resume};

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Operations a second.
    PerSecond,
    /// The median of the times of single operations, microseconds.
    Median,
}

/// Ours and theirs.
pub struct Duel {
    servers: [Box<dyn TableServer>; 2],
    shape: Shape,
    by: By,
}

impl Duel {
    /// Starts both and loads their keys. With `--against` the other build takes the peer's place.
    pub fn begin<'a>(
        options: &Options,
        ours: impl Fn(Option<PathBuf>) -> Result<Box<dyn TableServer>, Failed> + 'a,
        theirs: impl FnOnce() -> Result<Box<dyn TableServer>, Failed> + 'a,
        shape: Shape,
        by: By,
    ) -> Result<Box<dyn Contest>, Failed> {
        let mine = ours(options.broker())?;
        ready(&*mine, shape.keys)?;
        let other = match &options.against {
            Some(directory) => ours(Some(directory.join("kvbroker")))?,
            None => theirs()?,
        };
        ready(&*other, shape.keys)?;
        Ok(Box::new(Duel { servers: [mine, other], shape, by }))
    }

    fn turn(&self, server: &dyn TableServer) -> Result<Sample, Failed> {
        Ok(sample(&turn(server, self.shape)?, self.by))
    }
}

/// Loads a server's keys and lets it wait for its turns.
pub fn ready(server: &dyn TableServer, keys: u32) -> Result<(), Failed> {
    fill(server, keys).map_err(|error| format!("{}: {error}", server.name()))?;
    pause(server)?;
    settle()
}

/// One turn of a server that waits for it.
pub fn turn(server: &dyn TableServer, shape: Shape) -> Result<Measured, Failed> {
    resume(server)?;
    let measured = drive(server, shape);
    pause(server)?;
    settle()?;
    Ok(measured.map_err(|error| format!("{}: {error}", server.name()))?)
}

/// Nothing that one side has written is left for the kernel to write while the other one is measured.
pub fn settle() -> Result<(), Failed> {
    let place = rustix::fs::open(std::env::temp_dir(), OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    Ok(rustix::fs::syncfs(place)?)
}

/// A turn's figure and what else it told.
pub fn sample(measured: &Measured, by: By) -> Sample {
    let figure = match by {
        By::PerSecond => measured.per_s(),
        By::Median => measured.time_us(0.5),
    };
    let mut details = [
        ("operations_per_s", measured.per_s()),
        ("server_cpu_us", measured.server_us()),
        ("generator_cpu_us", measured.generator_us()),
    ]
    .into_iter()
    .collect::<std::collections::BTreeMap<_, _>>();
    if !measured.times.is_empty() {
        details.extend([("p50_us", 0.5), ("p99_us", 0.99), ("p999_us", 0.999)].map(|(name, at)| (name, measured.time_us(at))));
    }
    details.extend(measured.watched.map(|changes| ("watched_changes", changes as f64)));
    Sample { figure, details }
}

impl Contest for Duel {
    fn sides(&self) -> [Side; 2] {
        [0, 1].map(|at| Side { name: self.servers[at].name(), settings: self.servers[at].settings() })
    }

    fn round(&mut self, number: usize) -> Result<Round, Failed> {
        let first = number % 2;
        let one = self.turn(&*self.servers[first])?;
        let other = self.turn(&*self.servers[1 - first])?;
        Ok(Round::of(if first == 0 { [one, other] } else { [other, one] }))
    }
}

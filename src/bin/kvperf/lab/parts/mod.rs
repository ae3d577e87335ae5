//! The parts of the report: what each measures, and the text it makes of that.
//!
//! - A text says only what its own figures say; sentences with numbers are made here, never typed into the report.

mod beside;
mod growth;
mod machine;
mod mixed;
mod network;
mod pipelined;
mod put;
mod rate;
mod sharing;
mod sweep;
mod threads;
mod verify;

use clap::ValueEnum;

use super::bench::{Bench, Plan};
use super::kept::Kept;
use super::page::Page;
use super::trouble::LabError;

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(super) enum Part {
    /// What it is measured on.
    Machine,
    /// The sum of more and more clients, for each kind of operation, sync mode and size of requests.
    Growth,
    /// Clients added until the sum levels out.
    Sweep,
    /// Writes that share a sync.
    Sharing,
    /// Several requests outstanding.
    Pipelined,
    /// Which threads have the processors.
    Threads,
    /// An open loop at half of what it can, over checkpoints.
    Rate,
    /// The mixes of YCSB.
    Mixed,
    /// What others wait for while somebody works hard.
    Beside,
    /// Broker and clients on two networks.
    Network,
    /// Every acknowledged write looked at after a crash.
    Verify,
    /// One command from exec to exit.
    Put,
}

impl Part {
    pub(super) const ALL: [Part; 12] = [
        Part::Machine,
        Part::Growth,
        Part::Sweep,
        Part::Sharing,
        Part::Pipelined,
        Part::Threads,
        Part::Rate,
        Part::Mixed,
        Part::Beside,
        Part::Network,
        Part::Verify,
        Part::Put,
    ];

    /// For the command line, files and markers.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Part::Machine => "machine",
            Part::Growth => "growth",
            Part::Sweep => "sweep",
            Part::Sharing => "sharing",
            Part::Pipelined => "pipelined",
            Part::Threads => "threads",
            Part::Rate => "rate",
            Part::Mixed => "mixed",
            Part::Beside => "beside",
            Part::Network => "network",
            Part::Verify => "verify",
            Part::Put => "put",
        }
    }

    /// A heading for a report that has none yet.
    pub(super) const fn title(self) -> &'static str {
        match self {
            Part::Machine => "The machine",
            Part::Growth => "Growth with the number of clients",
            Part::Sweep => "Until the sum levels out",
            Part::Sharing => "What group commit does",
            Part::Pipelined => "Several requests outstanding",
            Part::Threads => "Where the time goes",
            Part::Rate => "An open loop over checkpoints",
            Part::Mixed => "YCSB",
            Part::Beside => "What others wait for",
            Part::Network => "Over a network",
            Part::Verify => "A crash in the middle",
            Part::Put => "One command",
        }
    }

    /// About how long measuring takes, seconds.
    pub(super) fn estimate_s(self, plan: &Plan) -> f64 {
        let settings = match self {
            Part::Machine => return machine::ESTIMATE_S,
            Part::Put => return put::ESTIMATE_S,
            Part::Rate => return rate::estimate_s(plan),
            Part::Verify => return verify::estimate_s(plan),
            Part::Network => return network::estimate_s(plan),
            Part::Growth => growth::settings(plan),
            Part::Sweep => sweep::settings(plan),
            Part::Sharing => sharing::settings(plan),
            Part::Pipelined => pipelined::settings(plan),
            Part::Threads => threads::settings(plan),
            Part::Mixed => mixed::settings(plan),
            Part::Beside => beside::settings(plan),
        };
        let rounds = if matches!(self, Part::Growth | Part::Sharing | Part::Pipelined) { f64::from(plan.rounds) } else { 1.0 };
        rounds * settings.iter().map(|setting| setting.expected_s).sum::<f64>()
    }

    /// Measures it.
    ///
    /// # Errors
    /// As [`LabError`] says.
    pub(super) fn measure(self, bench: &mut Bench) -> Result<Kept, LabError> {
        let mut kept = Kept::begin(&bench.plan);
        match self {
            Part::Machine => machine::measure(bench, &mut kept)?,
            Part::Growth => kept.series = bench.rounds(self.name(), &growth::settings(&bench.plan))?,
            Part::Sweep => kept.once(bench, self, &sweep::settings(&bench.plan))?,
            Part::Sharing => sharing::measure(bench, &mut kept)?,
            Part::Pipelined => kept.series = bench.rounds(self.name(), &pipelined::settings(&bench.plan))?,
            Part::Threads => threads::measure(bench, &mut kept)?,
            Part::Rate => rate::measure(bench, &mut kept)?,
            Part::Mixed => kept.once(bench, self, &mixed::settings(&bench.plan))?,
            Part::Beside => kept.once(bench, self, &beside::settings(&bench.plan))?,
            Part::Network => network::measure(bench, &mut kept)?,
            Part::Verify => verify::measure(bench, &mut kept)?,
            Part::Put => put::measure(bench, &mut kept)?,
        }
        Ok(kept)
    }

    /// Writes its text.
    ///
    /// # Errors
    /// A plot can't be drawn, or the report has no place for it.
    pub(super) fn write(self, kept: &Kept, page: &mut Page) -> Result<(), LabError> {
        let text = match (self, &kept.left_out) {
            (_, Some(why)) => format!("Left out here: {why}."),
            (Part::Machine, _) => machine::text(kept),
            (Part::Growth, _) => growth::text(kept, page)?,
            (Part::Sweep, _) => sweep::text(kept),
            (Part::Sharing, _) => sharing::text(kept, page)?,
            (Part::Pipelined, _) => pipelined::text(kept),
            (Part::Threads, _) => threads::text(kept),
            (Part::Rate, _) => rate::text(kept, page)?,
            (Part::Mixed, _) => mixed::text(kept),
            (Part::Beside, _) => beside::text(kept),
            (Part::Network, _) => network::text(kept),
            (Part::Verify, _) => verify::text(kept),
            (Part::Put, _) => put::text(kept),
        };
        page.put(self, &format!("{}\n\n{text}", kept.origin()))
    }
}

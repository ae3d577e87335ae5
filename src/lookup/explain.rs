//! What a lookup did, as data: for `--explain`, and for tests.

use std::fmt;

use serde::Serialize;
use serde::ser::{SerializeStruct, Serializer};

use super::candidate::Judged;
use super::trust::Trust;
use crate::project::ProjectName;

/// One place that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Where: a file, a catalog, an address.
    pub place: String,
    /// What was there.
    pub said: String,
}

impl Step {
    pub(super) fn new(place: impl Into<String>, said: impl Into<String>) -> Self {
        Step { place: place.into(), said: said.into() }
    }
}

/// What a lookup saw and what it made of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// What was looked for.
    pub project: ProjectName,
    /// The places, in order.
    pub steps: Vec<Step>,
    /// The candidates and what became of them.
    pub candidates: Vec<Judged>,
    /// Which of them was chosen.
    pub chosen: Option<usize>,
}

impl Explanation {
    pub(super) fn new(project: ProjectName) -> Self {
        Explanation { project, steps: Vec::new(), candidates: Vec::new(), chosen: None }
    }

    pub(super) fn step(&mut self, place: impl Into<String>, said: impl Into<String>) {
        self.steps.push(Step::new(place, said));
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "looking for {}", self.project)?;
        for step in &self.steps {
            writeln!(f, "  {}: {}", step.place, step.said)?;
        }
        for (index, Judged { candidate, trust, verdict, alive }) in self.candidates.iter().enumerate() {
            let mark = if self.chosen == Some(index) { "* " } else { "  " };
            write!(f, "{mark}candidate {}: ", index + 1)?;
            if let Some(owner) = &candidate.owner {
                write!(f, "{owner}'s ")?;
            }
            write!(f, "at {}", candidate.place)?;
            if let Some(broker) = candidate.broker {
                write!(f, ", broker {broker}")?;
            }
            writeln!(f, " (from {})", candidate.source)?;
            if let (Some(key), false) = (candidate.key, *trust == Trust::Directory) {
                writeln!(f, "      key {key} ({})", trust.name())?;
            }
            if let Trust::Changed { pinned, line } = trust {
                writeln!(f, "      accepted was {pinned} (line {line})")?;
            }
            if candidate.leads.len() > 1 {
                let leads: Vec<String> = candidate.leads.iter().map(ToString::to_string).collect();
                writeln!(f, "      tried in this order: {}", leads.join(", "))?;
            }
            write!(f, "      {verdict}")?;
            match alive {
                Some(true) => writeln!(f, " (somebody listens there)")?,
                Some(false) => writeln!(f, " (nobody listens there)")?,
                None => writeln!(f)?,
            }
        }
        match self.chosen {
            Some(index) => writeln!(f, "  chosen: candidate {}", index + 1),
            None => writeln!(f, "  chosen: none"),
        }
    }
}

/// Names are stable; a verdict is its word and its sentence.
impl Serialize for Explanation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct One<'a> {
            source: String,
            owner: Option<&'a str>,
            broker: Option<String>,
            public_key: Option<String>,
            place: &'a str,
            trust: &'static str,
            endpoints: Vec<String>,
            lastheardfrom: Option<u64>,
            verdict: &'static str,
            why: String,
            alive: Option<bool>,
        }
        let candidates: Vec<One<'_>> = self
            .candidates
            .iter()
            .map(|Judged { candidate, trust, verdict, alive }| One {
                source: candidate.source.to_string(),
                owner: candidate.owner.as_deref(),
                broker: candidate.broker.map(|broker| broker.to_string()),
                public_key: candidate.key.map(|key| key.to_string()),
                place: &candidate.place,
                trust: trust.name(),
                endpoints: candidate.leads.iter().map(ToString::to_string).collect(),
                lastheardfrom: candidate.heard_s,
                verdict: verdict.name(),
                why: verdict.to_string(),
                alive: *alive,
            })
            .collect();
        let mut whole = serializer.serialize_struct("Explanation", 4)?;
        whole.serialize_field("project", &self.project)?;
        whole.serialize_field("steps", &self.steps)?;
        whole.serialize_field("candidates", &candidates)?;
        whole.serialize_field("chosen", &self.chosen)?;
        whole.end()
    }
}

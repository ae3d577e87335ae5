//! `kvperf report`: measures brokers of its own and writes the measured parts of REPORT.md and its plots.
//!
//! - The report is made of [`parts`]: each measures something, keeps what it found as JSON, and writes its text from that alone, so that
//!   the text can be written anew without measuring.
//! - Only what stands between a part's markers is replaced, all parts at once and at the very end. Whatever goes wrong before, an
//!   interrupt included, leaves the report as it was.
//! - Every process that is started here ends here, by its id; if this process is killed, they end with it ([`guard`]).
//! - Nothing leaves the machine: brokers listen on loopback and are told of no catalog, except in network namespaces made here.

mod bench;
mod broker;
pub(crate) mod guard;
mod interrupt;
mod kept;
mod machines;
mod page;
mod parts;
mod process;
mod progress;
mod tables;
mod trouble;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use kvbroker::exit::Exit;

use bench::{Bench, Plan};
use kept::Kept;
use page::Page;
use parts::Part;
use trouble::LabError;

use crate::say;

/// Longest stage, seconds.
const SECONDS_MAX: f64 = 60.0;
/// Most rounds.
const ROUNDS_MAX: u32 = 99;
const ROUNDS: u32 = 3;
const SECONDS: f64 = 1.0;
const QUICK_SECONDS: f64 = 0.15;

/// Its command line.
#[derive(Debug, Args)]
pub(crate) struct Words {
    /// The report whose measured parts are written anew; its plots go into docs/images/report beside it
    #[arg(long, value_name = "FILE", default_value = "REPORT.md")]
    output: PathBuf,
    /// Where the brokers' data lies meanwhile, and where all figures are kept as JSON
    #[arg(long, value_name = "DIR", default_value = "target/report")]
    work: PathBuf,
    /// Where kvbroker, kvclient and kvcatalog are [default: beside this program]
    #[arg(long, value_name = "DIR")]
    bin: Option<PathBuf>,
    /// Rounds through all settings of what is compared; odd, for a median [default: 3; with --quick 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(ROUNDS_MAX)))]
    rounds: Option<u32>,
    /// How long a stage lasts [default: 1; with --quick 0.15]
    #[arg(long, value_name = "S")]
    seconds: Option<f64>,
    /// Only these parts; the others stay as they are
    #[arg(long, value_name = "PART,…", value_delimiter = ',', value_enum)]
    only: Vec<Part>,
    /// Little of everything: to see that it works, not how fast anything is
    #[arg(long)]
    quick: bool,
    /// Measure nothing: write the report from the figures that were kept
    #[arg(long, conflicts_with_all = ["rounds", "seconds", "quick"])]
    kept: bool,
    /// Say nothing on stderr but errors
    #[arg(short, long)]
    quiet: bool,
}

/// Does it.
pub(crate) fn run(words: &Words) -> ExitCode {
    let error = match report(words) {
        Ok(()) => return Exit::Ok.into(),
        Err(error) => error,
    };
    let hint = error.hint().map_or(String::new(), |hint| format!("  hint: {hint}\n"));
    say(&format!("kvperf report: {error}\n{hint}"));
    error.code().into()
}

fn report(words: &Words) -> Result<(), LabError> {
    let plan = plan(words)?;
    let mut parts = if words.only.is_empty() { Part::ALL.to_vec() } else { words.only.clone() };
    parts.sort_unstable();
    parts.dedup();
    // What can be wrong is said before minutes are spent.
    let page = Page::read(&words.output)?;
    page.check(&parts)?;
    let kept = if words.kept {
        parts.iter().map(|part| Kept::read(&words.work, *part)).collect::<Result<Vec<_>, _>>()?
    } else {
        interrupt::install()?;
        let mut bench = Bench::new(plan, words.bin.as_deref(), &words.work, words.quiet)?;
        let total_s = parts.iter().map(|part| part.estimate_s(&plan)).sum();
        bench.progress.expect(total_s);
        let mut all = Vec::new();
        for part in &parts {
            let kept = part.measure(&mut bench)?;
            kept.write(&words.work, *part)?;
            all.push(kept);
        }
        all
    };
    let mut page = page;
    for (part, kept) in parts.iter().zip(&kept) {
        part.write(kept, &mut page)?;
    }
    // From here on it is a matter of moments, and half a report would be worse than a late end.
    interrupt::check()?;
    page.save()?;
    if !words.quiet {
        let (output, work) = (words.output.display(), words.work.display());
        say(&format!("kvperf report: {output} is written; all figures of all rounds are in {work}\n"));
    }
    Ok(())
}

fn plan(words: &Words) -> Result<Plan, LabError> {
    let seconds = words.seconds.unwrap_or(if words.quick { QUICK_SECONDS } else { SECONDS });
    if !(0.05..=SECONDS_MAX).contains(&seconds) {
        return Err(LabError::Usage(format!("--seconds takes 0.05 to {SECONDS_MAX}")));
    }
    let rounds = words.rounds.unwrap_or(if words.quick { 1 } else { ROUNDS });
    if rounds.is_multiple_of(2) {
        return Err(LabError::Usage(format!("--rounds {rounds}: an odd number has a median in the middle")));
    }
    Ok(Plan { rounds, seconds, is_quick: words.quick })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        words: Words,
    }

    fn plan_of(words: &[&str]) -> Result<Plan, String> {
        let line = Line::try_parse_from(["report"].iter().chain(words)).map_err(|error| error.to_string())?;
        plan(&line.words).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_not_said_has_a_default() {
        assert_eq!(plan_of(&[]).unwrap(), Plan { rounds: 3, seconds: 1.0, is_quick: false });
        assert_eq!(plan_of(&["--quick", "--rounds", "3"]).unwrap(), Plan { rounds: 3, seconds: 0.15, is_quick: true });
    }

    #[test]
    fn what_cannot_be_is_said() {
        for (words, part) in [
            (&["--rounds", "2"][..], "odd"),
            (&["--rounds", "0"], "1..=99"),
            (&["--seconds", "0"], "0.05"),
            (&["--seconds", "NaN"], "0.05"),
            (&["--only", "weather"], "weather"),
            (&["--kept", "--quick"], "cannot be used with"),
            (&["--clients", "3"], "--clients"),
        ] {
            let error = plan_of(words).unwrap_err();
            assert!(error.contains(part), "{words:?}: {error}");
        }
    }
}

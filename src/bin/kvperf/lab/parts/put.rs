//! One command from exec to exit, beside a program that does nothing.

use std::ffi::OsStr;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::lab::bench::Bench;
use crate::lab::broker::{Broker, PROJECT, Start};
use crate::lab::interrupt;
use crate::lab::kept::Kept;
use crate::lab::process::strip;
use crate::lab::tables::{median, quantile, table};
use crate::lab::trouble::LabError;

pub(super) const ESTIMATE_S: f64 = 4.0;
const TIMES: usize = 100;
const QUICK_TIMES: usize = 5;

pub(super) fn measure(bench: &mut Bench, kept: &mut Kept) -> Result<(), LabError> {
    bench.progress.step("put: kvclient from exec to exit", ESTIMATE_S);
    let times = bench.plan.pick(TIMES, QUICK_TIMES);
    let broker = Broker::start(bench, &Start::with(&["--sync", "always"]))?;
    let client = bench.program("kvclient")?;
    let put = || {
        let mut command = Command::new(&client);
        command.args([PROJECT, "put", "k", "v", "--catalog", "none"]);
        strip(&mut command);
        command.env("KVBROKER_HOME", broker.home());
        exec_to_exit_ms(command)
    };
    let nothing = || exec_to_exit_ms(Command::new(OsStr::new("true")));
    // The files are in memory from here on.
    put()?;
    nothing()?;
    let (mut puts, mut nothings) = (Vec::new(), Vec::new());
    for _ in 0..times {
        interrupt::check()?;
        puts.push(put()?);
        nothings.push(nothing()?);
    }
    kept.values.extend([("put_ms".to_owned(), puts), ("true_ms".to_owned(), nothings)]);
    Ok(())
}

/// It takes milliseconds, so an interrupt waits for it.
fn exec_to_exit_ms(mut command: Command) -> Result<f64, LabError> {
    let name = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let begun = Instant::now();
    let status = command.status().map_err(|source| LabError::System { what: name.clone(), source })?;
    let took_ms = begun.elapsed().as_secs_f64() * 1e3;
    if status.success() {
        return Ok(took_ms);
    }
    let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    Err(LabError::Failed { program: name, how: status.to_string(), code, said: String::new() })
}

pub(super) fn text(kept: &Kept) -> String {
    let row = |(name, values): (&str, &[f64])| {
        let cells = [0.5, 0.9, 1.0].map(|part| format!("{:.1}", quantile(values, part)));
        [name.to_owned()].into_iter().chain(cells).collect::<Vec<_>>()
    };
    let (puts, nothings) = (kept.values("put_ms"), kept.values("true_ms"));
    let rows = [("`kvclient lab put k v` (`--sync always`)", puts), ("a program that does nothing (`true`)", nothings)].map(row);
    let head = format!("ms, {} times in turn", puts.len());
    format!(
        "{}\nA durable put from the shell takes {:.1} ms more than nothing does.",
        table(&[&head, "median", "p90", "longest"], &rows),
        median(puts) - median(nothings)
    )
}

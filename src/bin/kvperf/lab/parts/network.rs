//! Broker and clients on two networks: the clients find the broker in a catalog, and talk to it over TCP with CURVE.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::lab::bench::{Bench, Place, Plan, Setting};
use crate::lab::broker::{Broker, PROJECT, Start};
use crate::lab::interrupt;
use crate::lab::kept::{Kept, Series};
use crate::lab::machines::{Machines, SERVER};
use crate::lab::process::{Process, command};
use crate::lab::tables::{latency, ratio, table};
use crate::lab::trouble::LabError;
use crate::report::grouped;
use crate::stages::Stage;

const STAGES: [Stage; 2] = [Stage::Insert, Stage::Lookup];
const FAR: &str = "two network namespaces, TCP with CURVE";
const NEAR: &str = "the same machine, unix socket";
/// How long catalog and broker may take to find each other.
const LISTED: Duration = Duration::from_secs(20);
/// What making machines and finding each other takes.
const SETUP_S: f64 = 3.0;

fn setting(plan: &Plan, name: &str) -> Setting {
    let counts: &[usize] = plan.pick(&[1, 2, 4, 8], &[1, 2]);
    let clients: Vec<String> = counts.iter().map(usize::to_string).collect();
    let words = format!("--clients {} --stages insert,lookup --seconds {}", clients.join(","), plan.seconds);
    Setting::new(name, "--sync always", &words, STAGES.len(), counts.len(), plan.seconds)
}

pub(super) fn estimate_s(plan: &Plan) -> f64 {
    SETUP_S + 2.0 * setting(plan, FAR).expected_s
}

pub(super) fn measure(bench: &mut Bench, kept: &mut Kept) -> Result<(), LabError> {
    kept.rounds = 1;
    let machines = match Machines::new() {
        Ok(machines) => machines,
        Err(why) => {
            let needs = "run it where `unshare --user --net` works, or as root";
            kept.left_out = Some(format!("network namespaces can't be made ({why}); {needs}"));
            return Ok(());
        }
    };
    let far = setting(&bench.plan, FAR);
    bench.progress.step(&format!("network: {}", far.name), SETUP_S + far.expected_s);
    let refused = |source| LabError::System { what: "no directory for a client".to_owned(), source };
    // Another home: in the broker's own its unix socket would be found.
    let home = tempfile::Builder::new().prefix("kvr-").tempdir().map_err(refused)?;
    let mut catalog = command(&machines.server(), bench.program("kvcatalog")?.as_os_str())?;
    let ready = home.path().join("catalog-ready");
    catalog.args(["--listen", "0.0.0.0", "--quiet", "--ready-file"]).arg(&ready);
    let mut catalog = Process::start(catalog, "kvcatalog", home.path().join("catalog-said"), Stdio::null())?;
    catalog.wait_for("the catalog is not ready", LISTED.as_secs(), || ready.exists().then_some(()))?;
    let start = Start { flags: far.broker.clone(), enter: machines.server(), catalog: Some(SERVER.to_owned()) };
    let broker = Broker::start(bench, &start)?;
    let finding = ["--catalog".into(), SERVER.into(), "--key".into(), broker.home().join("config").join("id").into_os_string()];
    let place = Place { enter: machines.client(), home: home.path().to_owned(), finding: finding.to_vec() };
    until_listed(bench, &place)?;
    let document = bench.perf(&place, &far.words, |_| Ok(()))?;
    // Anything else would not be what this part is about.
    if document.facts.transport != "tcp" {
        return Err(LabError::Missed(format!("the clients went over {}, not over TCP with CURVE", document.facts.transport)));
    }
    let mut series = far.series();
    series.rounds.push(document);
    kept.series.push(series);
    drop((broker, catalog, machines));

    let near = setting(&bench.plan, NEAR);
    bench.progress.step(&format!("network: {}", near.name), near.expected_s);
    let mut series = near.series();
    series.rounds.push(bench.once(&near)?);
    kept.series.push(series);
    Ok(())
}

fn until_listed(bench: &Bench, place: &Place) -> Result<(), LabError> {
    let deadline = Instant::now() + LISTED;
    loop {
        interrupt::check()?;
        let mut ping = command(&place.enter, bench.program("kvclient")?.as_os_str())?;
        ping.args([PROJECT, "ping", "--timeout", "2s"]).args(&place.finding).env("KVBROKER_HOME", &place.home);
        let said = place.home.join("ping-said");
        let process = Process::start(ping, "kvclient lab ping", said.clone(), Stdio::null())?;
        match process.finish(|_| Ok(())) {
            Ok(()) => return Ok(()),
            Err(LabError::Failed { .. }) if Instant::now() < deadline => {}
            Err(LabError::Failed { .. }) => {
                let said = fs::read_to_string(&said).unwrap_or_default();
                return Err(LabError::TooLate {
                    what: "the catalog does not list the broker".to_owned(),
                    seconds: LISTED.as_secs(),
                    said,
                });
            }
            Err(error) => return Err(error),
        }
    }
}

pub(super) fn text(kept: &Kept) -> String {
    let (Some(far), Some(near)) = (kept.series(FAR), kept.series(NEAR)) else { return String::new() };
    let endpoint = far.rounds.first().map_or("", |document| document.facts.endpoint.as_str());
    let row = |clients: usize| {
        let mut row = vec![clients.to_string()];
        for stage in STAGES {
            let of = |series: &Series| series.middle(clients, stage).map(|middle| middle.run.sum.clone()).unwrap_or_default();
            let (far, near) = (of(far), of(near));
            row.extend([grouped(far.ops_per_s), grouped(near.ops_per_s), ratio(far.ops_per_s, near.ops_per_s), latency(&far)]);
        }
        row
    };
    let rows: Vec<Vec<String>> = far.counts().into_iter().map(row).collect();
    let head = ["clients", "inserts/s", "near", "of near", "µs", "lookups/s", "near", "of near", "µs"];
    format!(
        "The broker and `kvcatalog` in one network namespace ({SERVER}), all clients in another, a virtual wire between them; found by the \
         name `{PROJECT}` in the catalog, connected to `{endpoint}`, encrypted (CURVE). One operation per request, `--sync always`. *Near* is the \
         same over the unix socket in the same run; µs are mean / p50 / p99 / p99.9 / longest.\n\n{}",
        table(&head, &rows)
    )
}

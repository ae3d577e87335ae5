//! `kvclient list`: what is there.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kvbroker::client::{ClientError, Notices};
use kvbroker::exit::Exit;
use kvbroker::lookup::LookupError;
use kvbroker::lookup::survey::{Listed, survey};
use kvbroker::paths::Dirs;
use std::sync::Arc;

use crate::args::Global;
use crate::output::{Output, columns, printable};
use crate::{Trouble, complain, remark};

/// How long catalogs may take where `--timeout` is longer, or for ever.
const CATALOG_WAIT: Duration = Duration::from_secs(5);

pub(crate) fn run(global: &Global) -> Result<Exit, Trouble> {
    let dirs = Dirs::from_environment().map_err(|error| ClientError::Lookup(LookupError::Path(error)))?;
    let catalogs = global.catalogs().map_err(Trouble::misuse)?;
    let wait = global.timeout().map_or(CATALOG_WAIT, |timeout| timeout.min(CATALOG_WAIT));
    let say: Notices = Arc::new(|sentence: &str| complain(&format!("{sentence} …"), None));
    let found = survey(&dirs, &catalogs, wait, (!global.quiet).then_some(&say));
    let mut out = Output::stdout(global.json);
    if global.json {
        let json = serde_json::json!({"brokers": found.brokers, "trouble": found.trouble});
        out.line(&json.to_string())?;
    } else {
        table(&found.brokers, now_s()).iter().try_for_each(|line| out.line(line))?;
    }
    out.flush()?;
    for trouble in &found.trouble {
        remark(global, trouble);
    }
    if found.brokers.is_empty() {
        remark(global, "no broker is known; start one with: kvbroker PROJECT");
    }
    Ok(Exit::Ok)
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn table(brokers: &[Listed], now_s: u64) -> Vec<String> {
    let rows: Vec<[String; 4]> = brokers.iter().map(|broker| cells(broker, now_s)).collect();
    if rows.is_empty() {
        return Vec::new();
    }
    let head = ["PROJECT", "OWNER", "SEEN", "ENDPOINT"].map(str::to_owned);
    let all: Vec<[String; 4]> = std::iter::once(head).chain(rows).collect();
    columns(&all)
}

fn cells(broker: &Listed, now_s: u64) -> [String; 4] {
    let ago = broker.lastheardfrom.map(|heard_s| {
        let age_s = now_s.saturating_sub(heard_s);
        format!("{} {age_s} s ago", broker.catalogs.join(", "))
    });
    let seen = match (broker.local, broker.pid, ago) {
        (true, Some(pid), None) => format!("here (process {pid})"),
        (true, Some(pid), Some(ago)) => format!("here (process {pid}), {ago}"),
        (_, _, ago) => ago.unwrap_or_default(),
    };
    [printable(&broker.project), printable(&broker.owner), seen, printable(&broker.endpoint)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_each_other() {
        let broker = |project: &str, local: bool| Listed {
            project: project.into(),
            owner: "ann".into(),
            broker: String::new(),
            instance: String::new(),
            endpoint: "tcp://10.0.0.5:4000".into(),
            local,
            pid: local.then_some(7),
            starttime: 0,
            durability: None,
            public_key: None,
            catalogs: if local { vec![] } else { vec!["c:9097".into()] },
            lastheardfrom: (!local).then_some(90),
        };
        let lines = table(&[broker("a-long-name", true), broker("b", false)], 100);
        assert_eq!(
            lines,
            [
                "PROJECT      OWNER  SEEN              ENDPOINT",
                "a-long-name  ann    here (process 7)  tcp://10.0.0.5:4000",
                "b            ann    c:9097 10 s ago   tcp://10.0.0.5:4000",
            ]
        );
        assert!(table(&[], 100).is_empty());
    }
}

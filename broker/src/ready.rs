//! The ready block: everything a person needs to know once the broker runs.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use kvbroker::endpoint::Endpoint;
use kvbroker_discovery::{CatalogStatus, Reach};
use kvbroker_log::{EpochReason, RecoveryReport, SyncMode};

use crate::listening::Reachable;
use crate::loading::Took;

/// What the ready block tells.
pub(crate) struct Ready<'a> {
    pub(crate) endpoint: &'a Endpoint,
    pub(crate) catalogs: &'a [CatalogStatus],
    pub(crate) data: &'a Path,
    pub(crate) report: &'a RecoveryReport,
    /// How long reading it took.
    pub(crate) took: Took,
    pub(crate) keys: usize,
    /// None: no TCP.
    pub(crate) reachable: Option<&'a Reachable>,
    pub(crate) is_insecure: bool,
    /// How many keys of others are let in.
    pub(crate) authorized_keys: u64,
    /// What is wrong with authorized_clients; empty: nothing.
    pub(crate) authorized_complaint: &'a str,
    pub(crate) sync: SyncMode,
    pub(crate) clock_remark: Option<&'a str>,
    /// What is worth saying about the file system that the data is on.
    pub(crate) ground_remark: Option<&'a str>,
    /// How to call kvclient from here.
    pub(crate) kvclient: &'a str,
}

impl Ready<'_> {
    /// The block, with a line feed at its end.
    pub(crate) fn text(&self) -> String {
        let endpoint = self.endpoint;
        let mut text = format!("kvbroker: project {} is ready\n", endpoint.project);
        let mut line = |name: &str, what: String| {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "  {name:<11}{what}");
        };
        line("requests", addresses(&endpoint.router_socket, self.reachable.map(|tcp| (tcp, tcp.port))));
        line("updates", addresses(&endpoint.pub_socket, self.reachable.map(|tcp| (tcp, tcp.pub_port))));
        for (index, said) in network(self.reachable, self.is_insecure).into_iter().enumerate() {
            line(if index == 0 { "network" } else { "" }, said);
        }
        if self.is_insecure {
            line("for", "you: here by your user id".to_owned());
            line("", "and ANYBODY who can connect by TCP, without a key, to read and change everything".to_owned());
        } else {
            let others = match self.authorized_keys {
                0 => "others if you authorize theirs".to_owned(),
                1 => format!("and one authorized key ({} {} who)", self.kvclient, endpoint.project),
                keys => format!("and {keys} authorized keys ({} {} who)", self.kvclient, endpoint.project),
            };
            line("for", format!("you: here by your user id, from elsewhere by your key; {others}"));
        }
        if !self.authorized_complaint.is_empty() {
            line("", format!("NOT in force: {}", self.authorized_complaint));
        }
        match self.catalogs {
            [] if self.reachable.is_none() => line("announced", "to no catalog: it is not on TCP".to_owned()),
            [] => line("announced", "to no catalog (--catalog none)".to_owned()),
            catalogs => {
                for (index, status) in catalogs.iter().enumerate() {
                    line(if index == 0 { "announced" } else { "" }, status.to_string());
                }
            }
        }
        let keys = if self.keys == 1 { "1 key".to_owned() } else { format!("{} keys", self.keys) };
        line("data", format!("{} at revision {}, {keys}", self.data.display(), self.report.last_revision));
        if let (Some(checkpoint), Some(checkpoint_took)) = (&self.report.checkpoint, self.took.checkpoint) {
            let log_took = self.took.all.saturating_sub(checkpoint_took);
            let (checkpoint_bytes, log_bytes) = (about(checkpoint.bytes), about(self.report.bytes));
            let revision = checkpoint.revision;
            line(
                "",
                format!(
                    "read from the checkpoint at revision {revision} ({checkpoint_bytes} in {}) and the log behind it ({log_bytes} in {})",
                    seconds(checkpoint_took),
                    seconds(log_took)
                ),
            );
        }
        if let Some(cut) = &self.report.cut {
            line("", format!("a torn tail of {} bytes was cut off: the last stop was sudden (new epoch)", cut.bytes));
        }
        if let Some(EpochReason::UncleanStop { .. }) = self.report.new_epoch {
            line(
                "",
                "the last run was not synced and did not stop cleanly: acknowledged writes may be lost (new epoch)".to_owned(),
            );
        }
        if let Some(remark) = self.ground_remark {
            line("kept", remark.to_owned());
        }
        if let Some(remark) = self.clock_remark {
            line("clock", remark.to_owned());
        }
        line("durability", self.sync.to_string());
        line("stop", format!("Ctrl-C, or kill {}", endpoint.pid));
        line("try", format!("{} {} put greeting hello", self.kvclient, endpoint.project));
        text
    }
}

/// The unix socket, and the best of the TCP addresses.
fn addresses(socket: &Path, tcp: Option<(&Reachable, u16)>) -> String {
    let mut text = format!("ipc://{}", socket.display());
    if let Some((host, port)) = tcp.and_then(|(tcp, port)| Some((tcp.hosts.first()?, port))) {
        let _ = write!(text, " and tcp://{}", SocketAddr::new(*host, port));
    }
    text
}

/// On which addresses, and how protected.
fn network(reachable: Option<&Reachable>, is_insecure: bool) -> Vec<String> {
    let Some(tcp) = reachable else {
        return vec!["none: this build has no encryption, so nothing is offered on TCP".to_owned()];
    };
    let hosts: Vec<String> = tcp.hosts.iter().map(ToString::to_string).collect();
    let hosts = hosts.join(", ");
    let protection = if is_insecure { "NOT ENCRYPTED (--insecure)" } else { "encrypted (CURVE)" };
    let at_home = tcp.reach() == Reach::LoopbackOnly;
    let mut lines = vec![match (tcp.everywhere, at_home) {
        (true, _) => format!("all addresses of this machine ({hosts}), {protection}"),
        (false, true) => format!("this machine only ({hosts}), {protection}"),
        (false, false) => format!("{hosts}, {protection}"),
    }];
    if !tcp.advertised.is_empty() {
        lines.push(format!("advertised as {}", tcp.advertised.join(", ")));
    }
    lines
}

/// Bytes for people.
fn about(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_024_000 => format!("{:.1} KiB", bytes as f64 / 1_024.0),
        1_024_000..1_048_576_000 => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
        _ => format!("{:.1} GiB", bytes as f64 / 1_073_741_824.0),
    }
}

fn seconds(took: Duration) -> String {
    format!("{:.2} s", took.as_secs_f64())
}

/// How to call kvclient: by its name if the shell finds it, else by its path beside this program.
pub(crate) fn kvclient_command() -> String {
    const NAME: &str = "kvclient";
    let on_path = std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(NAME).is_file()));
    if on_path {
        return NAME.to_owned();
    }
    let beside = std::env::current_exe().ok().map(|exe| exe.with_file_name(NAME)).filter(|path| path.is_file());
    match beside {
        Some(path) => {
            let here = std::env::current_dir().unwrap_or_default();
            path.strip_prefix(here).unwrap_or(&path).display().to_string()
        }
        None => NAME.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_with_few_digits() {
        let shown = [999, 1_000, 64 << 10, 1_023_999, 1_024_000, 64 << 20, 4 << 30].map(about);
        assert_eq!(shown, ["999 B", "1.0 KiB", "64.0 KiB", "1000.0 KiB", "1.0 MiB", "64.0 MiB", "4.0 GiB"]);
    }
}

//! The ready block: everything a person needs to know once the broker runs.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;

use kvbroker::endpoint::{Endpoint, TcpEndpoint};
use kvbroker_discovery::CatalogStatus;
use kvbroker_log::{EpochReason, RecoveryReport, SyncMode};

/// What the ready block tells.
pub(crate) struct Ready<'a> {
    pub(crate) endpoint: &'a Endpoint,
    pub(crate) catalogs: &'a [CatalogStatus],
    pub(crate) data: &'a Path,
    pub(crate) report: &'a RecoveryReport,
    pub(crate) keys: usize,
    pub(crate) sync: SyncMode,
    pub(crate) clock_remark: Option<&'a str>,
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
        line("requests", addresses(&endpoint.router_socket, endpoint.tcp.as_ref(), |tcp| tcp.port));
        line("updates", addresses(&endpoint.pub_socket, endpoint.tcp.as_ref(), |tcp| tcp.pub_port));
        line("for", "you alone: this machine's unix sockets by user id, TCP by your key (CURVE)".to_owned());
        line("", "(TCP stays on the loopback interface until access control arrives)".to_owned());
        match self.catalogs {
            [] => line("announced", "to no catalog (--catalog none)".to_owned()),
            catalogs => {
                for (index, status) in catalogs.iter().enumerate() {
                    line(if index == 0 { "announced" } else { "" }, status.to_string());
                }
            }
        }
        line("data", format!("{} at revision {}, {} keys", self.data.display(), self.report.last_revision, self.keys));
        if let Some(cut) = &self.report.cut {
            line("", format!("a torn tail of {} bytes was cut off: the last stop was sudden (new epoch)", cut.bytes));
        }
        if let Some(EpochReason::UncleanStop { .. }) = self.report.new_epoch {
            line(
                "",
                "the last run was not synced and did not stop cleanly: acknowledged writes may be lost (new epoch)".to_owned(),
            );
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

fn addresses(socket: &Path, tcp: Option<&TcpEndpoint>, port: fn(&TcpEndpoint) -> u16) -> String {
    let mut text = format!("ipc://{}", socket.display());
    if let Some(tcp) = tcp {
        for host in &tcp.hosts {
            let _ = write!(text, " and tcp://{}", SocketAddr::new(*host, port(tcp)));
        }
    }
    text
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

//! `kvcatalog`: a small CCTools-compatible catalog, for sites without one.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::{ArgAction, Parser};
use kvbroker::catalog::CATALOG_PORT_DEFAULT;
use kvbroker::exit::Exit;
use kvbroker::logging::{self, LogFormat};
use kvbroker::version;
use kvbroker_discovery::{CatalogConfig, CatalogServer};

/// A small catalog of running services, compatible with CCTools' catalog_server.
///
/// Programs announce themselves to it and others find them by name. It keeps
/// everything in memory: after a restart its list fills again within a minute.
#[derive(Debug, Parser)]
#[command(
    name = "kvcatalog",
    disable_version_flag = true,
    max_term_width = 100,
    after_help = "Examples:
  kvcatalog                                   a catalog for this machine, on port 9097
  kvcatalog --listen 0.0.0.0                  a catalog for everybody who can reach this machine
  export CATALOG_HOST=labhost:9097            what brokers and clients need to know to use it
  kvbroker NETID-a5 --catalog labhost:9097    … or told one by one
  curl http://labhost:9097/query.json         everything it lists; a browser shows a page at /
  kvcatalog --port 0 --ready-file cat.json    any free ports, written to cat.json (for scripts)

Queries use TCP port N, updates UDP port N and TCP port N+1: a firewall must let all three through.
Nothing in a catalog is secret or proven: whoever reaches it can read and announce. kvbroker's
clients therefore check the key of whatever they find.
Ctrl-C or SIGTERM stops it. Exit codes: 0 stopped cleanly, 2 wrong usage, 5 no port."
)]
struct Args {
    /// Address to listen on; 0.0.0.0 for all of this machine's
    #[arg(long, value_name = "ADDR", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST), env = "KVCATALOG_LISTEN")]
    listen: IpAddr,
    /// Port for queries and UDP updates; TCP updates use the next one; 0 takes two free ones
    #[arg(long, value_name = "N", default_value_t = CATALOG_PORT_DEFAULT, env = "KVCATALOG_PORT")]
    port: u16,
    /// How long a record is kept without being heard again; records may ask for less
    #[arg(long, value_name = "DURATION", default_value = "30m", value_parser = parse_lifetime, env = "KVCATALOG_LIFETIME")]
    lifetime: Duration,
    /// Write the addresses to this file (JSON) once the catalog serves
    #[arg(long, value_name = "FILE", env = "KVCATALOG_READY_FILE")]
    ready_file: Option<PathBuf>,
    /// Log every update that is refreshed or refused
    #[arg(short, long, action = ArgAction::Count)]
    verbose: u8,
    /// Log errors only, and print no ready block
    #[arg(short, long, conflicts_with = "verbose")]
    quiet: bool,
    /// Log lines as text or json
    #[arg(long, value_name = "text|json", default_value_t, env = "KVCATALOG_LOG_FORMAT")]
    log_format: LogFormat,
    /// Print the version
    #[arg(short = 'V', long)]
    version: bool,
}

fn parse_lifetime(text: &str) -> Result<Duration, String> {
    let lifetime = humantime::parse_duration(text).map_err(|_| "a duration such as 90s, 30m or 2h".to_owned())?;
    if (Duration::from_secs(1)..=Duration::from_secs(7 * 86_400)).contains(&lifetime) {
        Ok(lifetime)
    } else {
        Err("from 1s to 7 days".to_owned())
    }
}

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Help goes to stdout and is a success; a broken pipe there is one too.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage.into() } else { Exit::Ok.into() };
        }
    };
    if args.version {
        let _ = writeln!(io::stdout(), "{}", version::text_for("kvcatalog"));
        return Exit::Ok.into();
    }
    let _guard = logging::start(args.log_format, logging::level(tracing::Level::INFO, args.quiet, args.verbose));
    match run(&args) {
        Ok(()) => Exit::Ok.into(),
        Err(sentence) => {
            let _ = writeln!(io::stderr(), "kvcatalog: {sentence}");
            Exit::Unreachable.into()
        }
    }
}

fn run(args: &Args) -> Result<(), String> {
    let config = CatalogConfig { listen: args.listen, port: args.port, lifetime_s: args.lifetime.as_secs() };
    let server = CatalogServer::bind(&config).map_err(|error| error.to_string())?;
    let stop = server.stop_handle();
    let asked = AtomicBool::new(false);
    ctrlc::set_handler(move || {
        if asked.swap(true, Ordering::SeqCst) {
            // A second signal ends at once; there is nothing on disk that could break.
            std::process::exit(130);
        }
        stop.stop();
    })
    .map_err(|error| format!("no signal handler could be installed: {error}"))?;
    // Sockets are bound: whoever reads the file can connect.
    if let Some(path) = &args.ready_file {
        write_ready_file(path, &server).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    if !args.quiet {
        let _ = io::stdout().write_all(ready_block(&server, args.lifetime).as_bytes());
    }
    server.run().map_err(|error| format!("the system refuses to poll: {error}"))?;
    tracing::info!("stopped");
    Ok(())
}

fn ready_block(server: &CatalogServer, lifetime: Duration) -> String {
    let addr = server.addr();
    let next = addr.port().saturating_add(1);
    let (reach, host) = if addr.ip().is_loopback() {
        ("programs on this machine only (--listen 0.0.0.0 for others)", addr.to_string())
    } else if addr.ip().is_unspecified() {
        ("everybody who can reach this machine", format!("THIS-HOST:{}", addr.port()))
    } else {
        ("everybody who can reach that address", addr.to_string())
    };
    format!(
        "kvcatalog: ready\n  page       http://{host}/\n  queries    TCP {addr}\n  updates    UDP {addr}, TCP port {next}\n  \
         for        {reach}\n  keeps      records for {} after they were last heard, in memory\n  stop       Ctrl-C, or kill {}\n  \
         try        CATALOG_HOST={host} kvbroker NETID-a5\n",
        humantime::format_duration(lifetime),
        std::process::id()
    )
}

/// Puts the file in place whole: written beside it first, then renamed.
fn write_ready_file(path: &Path, server: &CatalogServer) -> io::Result<()> {
    let addr = server.addr();
    let ready = serde_json::json!({
        "catalog": addr.to_string(),
        "port": addr.port(),
        "tcp_update_port": addr.port().saturating_add(1),
        "pid": std::process::id(),
    });
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    writeln!(file, "{ready}")?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clap_is_satisfied() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }

    #[test]
    fn lifetimes_have_units_and_bounds() {
        assert_eq!(parse_lifetime("90s"), Ok(Duration::from_secs(90)));
        for bad in ["90", "0s", "8d", "soon"] {
            assert!(parse_lifetime(bad).is_err(), "{bad}");
        }
    }
}

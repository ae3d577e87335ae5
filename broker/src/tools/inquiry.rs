//! `link` and `paths`: what can be told without starting a broker.

use kvbroker::access_file::store::AccessStore;
use kvbroker::endpoint::{Endpoint, Liveness, probe};
use kvbroker::exit::Exit;
use kvbroker::lookup::Address;
use kvbroker::paths::Dirs;
use serde_json::json;

use crate::args::Config;
use crate::failure::Failure;
use crate::tools::{Common, End, Out, Place};

/// Flags of `link`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct LinkArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Prints the running broker's address.
///
/// # Errors
/// No broker of the project runs here (exit code 5), or the directories can't be found or trusted.
pub(crate) fn link(args: &LinkArgs, config: &Config) -> Result<Exit, End> {
    let dirs = Dirs::from_environment().map_err(Failure::with(Exit::Refused))?;
    let link = address(&running(&dirs, config)?)?.to_string();
    let mut out = Out::stdout();
    if args.json {
        out.object(&json!({"link": link}))?
    } else {
        out.line(link)?
    }
    out.finish()?;
    Ok(Exit::Ok)
}

fn running(dirs: &Dirs, config: &Config) -> Result<Endpoint, Failure> {
    for runtime in dirs.open_runtimes(&config.project) {
        let runtime = runtime.map_err(Failure::with(Exit::Refused))?;
        let endpoint = Endpoint::read(&runtime).map_err(Failure::with(Exit::Refused))?;
        if let Some(endpoint) = endpoint.filter(|endpoint| matches!(probe(&endpoint.router_socket), Ok(Liveness::Alive))) {
            return Ok(endpoint);
        }
    }
    let project = &config.project;
    Err(Failure::new(Exit::Unreachable, format!("no broker for {project} runs here; start it with: kvbroker {project}")))
}

fn address(endpoint: &Endpoint) -> Result<Address, Failure> {
    let tcp = endpoint.tcp.as_ref();
    // What the owner has named for others comes first; then the best of the machine's own addresses.
    let advertised = tcp.and_then(|tcp| tcp.advertised.first()).and_then(|endpoint| host_and_port(endpoint));
    let own = || tcp.and_then(|tcp| tcp.hosts.first().map(|host| (host.to_string(), tcp.port)));
    let (host, port) =
        advertised.or_else(own).ok_or_else(|| Failure::new(Exit::Unreachable, "this broker has no TCP address"))?;
    Ok(Address::Network { host, port, project: Some(endpoint.project.clone()), key: endpoint.public_key })
}

/// The parts of `tcp://HOST:PORT`; the host without brackets.
fn host_and_port(endpoint: &str) -> Option<(String, u16)> {
    let (host, port) = endpoint.strip_prefix("tcp://")?.rsplit_once(':')?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    Some((bare.to_owned(), port.parse().ok()?))
}

/// Prints the project's directories.
///
/// # Errors
/// There is no home to look in.
pub(crate) fn paths(common: &Common, config: &Config) -> Result<Exit, End> {
    let dirs = Dirs::from_environment().map_err(Failure::with(Exit::Refused))?;
    let data = Place::of(common, config)?.directory;
    let (keys, runtime) = (dirs.config_dir().to_owned(), dirs.runtime_dir(&config.project));
    let authorized = AccessStore::new(&dirs, &config.project).path().to_owned();
    let mut out = Out::stdout();
    if common.json {
        out.object(&json!({"data": data, "config": keys, "authorized": authorized, "runtime": runtime}))?;
    } else {
        for (name, path) in [("data", data), ("config", keys), ("authorized", authorized), ("runtime", runtime)] {
            out.line(format_args!("{name:<12}{}", path.display()))?;
        }
    }
    out.finish()?;
    Ok(Exit::Ok)
}

//! `kvbroker PROJECT link` and `paths`: what can be told without starting a broker.

use std::net::SocketAddr;

use kvbroker::endpoint::{Endpoint, Liveness, probe};
use kvbroker::exit::Exit;
use kvbroker::lookup::Address;
use kvbroker::paths::Dirs;

use crate::args::{Config, Verb};
use crate::failure::Failure;

/// What to print on stdout.
///
/// # Errors
/// No broker of the project runs here (exit code 5), or the directories can't be found or trusted.
pub(crate) fn answer(verb: Verb, config: &Config) -> Result<String, Failure> {
    let dirs = Dirs::from_environment().map_err(Failure::with(Exit::Refused))?;
    match verb {
        Verb::Link => link(&running(&dirs, config)?),
        Verb::Paths => Ok(paths(&dirs, config)),
    }
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

fn link(endpoint: &Endpoint) -> Result<String, Failure> {
    let tcp = endpoint.tcp.as_ref();
    let address = tcp.and_then(|tcp| tcp.hosts.first().map(|host| SocketAddr::new(*host, tcp.port)));
    let address = address.ok_or_else(|| Failure::new(Exit::Unreachable, "this broker has no TCP address"))?;
    let link = Address::Network {
        host: address.ip().to_string(),
        port: address.port(),
        project: Some(endpoint.project.clone()),
        key: Some(endpoint.public_key),
    };
    Ok(format!("{link}\n"))
}

fn paths(dirs: &Dirs, config: &Config) -> String {
    let data = config.data.clone().unwrap_or_else(|| dirs.data_dir(&config.project));
    let lines = [("data", data), ("config", dirs.config_dir().to_owned()), ("runtime", dirs.runtime_dir(&config.project))];
    lines.map(|(name, path)| format!("{name:<9}{}\n", path.display())).concat()
}

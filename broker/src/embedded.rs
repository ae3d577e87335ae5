//! A broker inside a program: all of it but the signals, the limits of the process and the ready block.
//!
//! - It serves programs of the same user by its unix socket alone: no TCP, so no catalog hears of it.
//! - It reads no variable of the environment: everything is below the directories that it is given.
//! - It syncs nothing (`--sync never`): its data is meant to be as short-lived as the program.
//!
//! Caveat: a thread of a broker that dies ends the process, as it ends the daemon's.

use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::channel;

use clap::builder::{OsStr, Resettable};
use clap::{CommandFactory, FromArgMatches};
use kvbroker::paths::Dirs;
use kvbroker::project::ProjectName;

use crate::args::{Args, Config};
use crate::lifecycle::Broker;

/// A running broker. Dropping it stops it cleanly: what was taken is finished and answered.
pub struct Embedded {
    /// None while it is dropped.
    broker: Option<Broker>,
}

/// Why a broker could not be started: a sentence.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartError(String);

impl Embedded {
    /// Starts the broker of a project with these directories, and returns when it serves.
    ///
    /// # Errors
    /// The directories can't be used, or another broker uses them; no sockets; no threads.
    pub fn start(dirs: Dirs, project: ProjectName) -> Result<Embedded, StartError> {
        let config = config(project).map_err(StartError)?;
        let (sender, notices) = channel();
        let broker = Broker::start(&config, dirs, sender, notices, &AtomicBool::new(false));
        Ok(Embedded { broker: broker.map_err(|failure| StartError(failure.sentence))? })
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        if let Some(broker) = self.broker.take()
            && let Err(failure) = broker.stop()
        {
            tracing::warn!("the broker inside this program did not stop cleanly: {}", failure.sentence);
        }
    }
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedded").finish_non_exhaustive()
    }
}

/// What the daemon's own flags make, without its variables.
fn config(project: ProjectName) -> Result<Config, String> {
    let flags = ["kvbroker", "--quiet", "--sync", "never", "--catalog", "none", "--owner", "you", "--accept-filesystem", "--"];
    let words = flags.into_iter().chain([project.as_str()]);
    let command = Args::command().mut_args(|arg| arg.env(Resettable::<OsStr>::Reset));
    let matches = command.try_get_matches_from(words).map_err(|error| error.to_string())?;
    let mut args = Args::from_arg_matches(&matches).map_err(|error| error.to_string())?;
    args.is_surely_project = true;
    let mut config = args.check()?;
    config.network.listen.clear();
    Ok(config)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_embedded_broker_serves_by_its_unix_socket_alone_and_leaves_nothing_behind() {
        let home = tempfile::Builder::new().prefix("kve-").tempdir().unwrap();
        let dirs = Dirs::under(home.path()).unwrap();
        // A verb's name is a project's here.
        let project: ProjectName = "stats".parse().unwrap();
        let broker = Embedded::start(dirs.clone(), project.clone()).unwrap();
        let runtime = dirs.create_runtime(&project).unwrap();
        let endpoint = kvbroker::endpoint::Endpoint::read(&runtime).unwrap().unwrap();
        assert!(endpoint.tcp.is_none() && endpoint.owner == "you");
        let again = Embedded::start(dirs, project).unwrap_err();
        assert!(again.to_string().contains("already"), "{again}");
        drop(broker);
        assert!(!runtime.endpoint_file().exists() && !runtime.router_socket().exists());
    }
}

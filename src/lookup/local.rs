//! Brokers of this user on this machine: endpoint files and the sockets they name.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use kvbroker_protocol::BrokerId;

use super::candidate::{Candidate, Lead, Source};
use super::explain::Step;
use crate::endpoint::{Endpoint, Liveness, probe};
use crate::paths::{Dirs, PathError, RuntimeDir};
use crate::project::ProjectName;

/// What the runtime directories of one project hold.
#[derive(Debug, Default)]
pub(super) struct Local {
    /// Brokers whose sockets somebody listens on.
    pub(super) candidates: Vec<Candidate>,
    /// The process that left an endpoint file behind.
    pub(super) left_by: Option<u32>,
    /// A directory of our own that others can use: whatever runs in it was left out.
    pub(super) loose: Option<PathError>,
    /// What was seen, in order.
    pub(super) steps: Vec<Step>,
}

/// Looks into every runtime directory that a broker of this user may use.
pub(super) fn look(dirs: &Dirs, project: &ProjectName) -> Local {
    let mut local = Local::default();
    for runtime in dirs.open_runtimes(project) {
        match runtime {
            Ok(runtime) => look_into(&runtime, &mut local),
            Err(error) => {
                local.steps.push(Step::new("local", format!("left out: {error}")));
                // What a stranger put there, or a base that is not ours to close, says nothing about our brokers.
                if matches!(&error, PathError::LooseMode { path, .. } if is_own(path)) {
                    local.loose = Some(error);
                }
            }
        }
    }
    if local.steps.is_empty() {
        local.steps.push(Step::new("local", format!("no broker for {project} was started here")));
    }
    local
}

fn is_own(directory: &Path) -> bool {
    fs::metadata(directory).is_ok_and(|metadata| metadata.uid() == rustix::process::geteuid().as_raw())
}

fn look_into(runtime: &RuntimeDir, local: &mut Local) {
    let file = runtime.endpoint_file();
    let place = file.display().to_string();
    let said = match Endpoint::read(runtime) {
        Ok(None) => "no endpoint file".to_owned(),
        Err(error) => error.to_string(),
        Ok(Some(endpoint)) => match probe(&endpoint.router_socket) {
            Ok(Liveness::Alive) => {
                let said = format!("process {} of {} listens", endpoint.pid, endpoint.owner);
                local.candidates.push(candidate(endpoint, Source::Local(file)));
                said
            }
            Ok(Liveness::Dead(error)) => {
                local.left_by = Some(endpoint.pid);
                format!("left behind by process {}: {error}", endpoint.pid)
            }
            Err(error) => format!("its socket can't be tried: {error}"),
        },
    };
    local.steps.push(Step::new(place, said));
}

fn candidate(endpoint: Endpoint, source: Source) -> Candidate {
    Candidate {
        source,
        owner: Some(endpoint.owner),
        broker: Some(BrokerId(endpoint.uuid.into_bytes())),
        key: endpoint.public_key,
        place: format!("this machine (process {})", endpoint.pid),
        leads: vec![Lead::Sockets { router: endpoint.router_socket, publisher: endpoint.pub_socket }],
        heard_s: None,
    }
}

/// The live brokers of this user on this machine.
pub(super) fn running(dirs: &Dirs) -> Vec<Endpoint> {
    let mut running = Vec::new();
    for project in dirs.local_projects() {
        let endpoints = dirs.open_runtimes(&project).flatten().filter_map(|runtime| Endpoint::read(&runtime).ok().flatten());
        running.extend(endpoints.filter(|endpoint| matches!(probe(&endpoint.router_socket), Ok(Liveness::Alive))));
    }
    running
}

/// The projects of [`running`], sorted and each once.
pub(super) fn running_projects(dirs: &Dirs) -> Vec<ProjectName> {
    let mut projects: Vec<ProjectName> = running(dirs).into_iter().map(|endpoint| endpoint.project).collect();
    projects.dedup();
    projects
}

/// The directory of a socket that was given by its path: it has to be ours alone, for nothing
/// else tells our broker's socket from a stranger's.
pub(super) fn check_directory_of(socket: &Path) -> Result<&Path, PathError> {
    let directory = socket.parent().unwrap_or(Path::new("/"));
    let path = || directory.to_owned();
    let metadata = fs::symlink_metadata(directory).map_err(|source| PathError::Io { action: "inspect", path: path(), source })?;
    if !metadata.is_dir() {
        return Err(PathError::NotADirectory { path: path() });
    }
    let own = rustix::process::geteuid().as_raw();
    if metadata.uid() != own {
        return Err(PathError::ForeignOwner { path: path(), uid: metadata.uid(), own });
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(PathError::LooseMode { path: path(), mode, wanted: "700" });
    }
    Ok(directory)
}

//! Which data directory a verb is about.

use std::path::PathBuf;

use kvbroker::exit::Exit;
use kvbroker::paths::Dirs;
use kvbroker::project::ProjectName;
use kvbroker_log::DiskStorage;
use kvbroker_log::inspect::{self, LockState};

use crate::args::Config;
use crate::failure::Failure;
use crate::tools::Common;

/// The data directory of a project.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The project.
    pub(crate) project: ProjectName,
    /// Its data directory; it may not exist.
    pub(crate) directory: PathBuf,
    /// ` --data DIR` if it is not the project's own: what a command that is shown needs, to be about the same directory.
    flag: String,
}

impl Place {
    /// Behind the verb `--data` counts first, then before it (or `KVBROKER_DATA`), then the project's own.
    ///
    /// # Errors
    /// Exit code 6: there is no home to look in.
    pub(crate) fn of(common: &Common, config: &Config) -> Result<Place, Failure> {
        let (directory, flag) = match common.data.as_ref().or(config.data.as_ref()) {
            Some(directory) => (directory.clone(), format!(" --data {}", directory.display())),
            None => (Dirs::from_environment().map_err(Failure::with(Exit::Refused))?.data_dir(&config.project), String::new()),
        };
        Ok(Place { project: config.project.clone(), directory, flag })
    }

    /// The command that starts a broker on this directory.
    pub(crate) fn start(&self) -> String {
        format!("kvbroker {}{}", self.project, self.flag)
    }

    /// The command of a verb about this directory.
    pub(crate) fn verb(&self, verb: &str) -> String {
        format!("kvbroker {} {verb}{}", self.project, self.flag)
    }

    /// The directory for reading: nothing in it can be changed through this.
    ///
    /// # Errors
    /// Exit code 2 where there is no such directory, 12 where it can't be read.
    pub(crate) fn read_only(&self) -> Result<DiskStorage, Failure> {
        let directory = self.directory.display();
        DiskStorage::read_only(&self.directory).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Failure::new(
                Exit::Usage,
                format!("there is no data directory {directory}: name the one of project {} with --data DIR", self.project),
            ),
            std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::NotADirectory => {
                Failure::new(Exit::Usage, format!("cannot read {directory}: {error}"))
            }
            _ => Failure::new(Exit::DiskFailed, format!("cannot read {directory}: {error}")),
        })
    }

    /// Who uses the directory.
    ///
    /// # Errors
    /// Exit code 12: the lock file can't be read.
    pub(crate) fn lock_state(&self) -> Result<LockState, Failure> {
        inspect::lock_state(&self.directory).map_err(|error| {
            Failure::new(Exit::DiskFailed, format!("cannot read the lock of {}: {error}", self.directory.display()))
        })
    }
}

//! Where things are: data, configuration and runtime directories.
//!
//! - `KVBROKER_HOME` moves all of them together; otherwise the XDG directories are used.
//! - Clients trust whoever listens in the runtime directory because nobody else
//!   could have made a socket there. So it and its parent up to the system's own
//!   directory belong to us, are closed to others (0700), and no symlink is
//!   followed on the way. Directories are opened one inside the other and judged
//!   while open: what was checked is what is used.
//! - One broker per project and runtime directory: [`RuntimeLock`] is taken before
//!   any bind, because a second ipc bind takes a living broker's path over without an error.
//! - A socket path fits into 107 bytes or is refused with words, before libzmq sees it.
//!
//! Caveat: two programs of one user can be started with different environments
//! (cron has no `XDG_RUNTIME_DIR`), so a client looks into every directory of
//! [`Dirs::runtime_candidates`].

use std::env;
use std::io;
use std::path::{Path, PathBuf};

use etcetera::BaseStrategy;
use etcetera::base_strategy::Xdg;

use crate::project::ProjectName;

mod runtime;

pub use runtime::{RuntimeDir, RuntimeLock};

/// The directory in each XDG directory that is ours.
const OUR_DIRECTORY: &str = "kvbroker";

/// File name of the ROUTER's unix socket in the runtime directory.
pub const ROUTER_SOCKET: &str = "router.sock";

/// File name of the publisher's unix socket in the runtime directory.
pub const PUB_SOCKET: &str = "pub.sock";

/// File name of the endpoint file in the runtime directory.
pub const ENDPOINT_FILE: &str = "endpoint.json";

/// File name of the lock in the runtime directory.
pub const LOCK_FILE: &str = "lock";

/// What can go wrong with a directory of ours.
#[derive(Debug, thiserror::Error)]
pub enum PathError {
    /// There is neither a home directory nor a variable that replaces it.
    #[error("cannot find your home directory; set HOME or KVBROKER_HOME")]
    NoHome,
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb phrase.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A symlink, or something else that is no directory, where a directory must be.
    #[error(
        "{} is a symbolic link or not a directory; remove it: sockets are only made in real \
         directories of your own",
        path.display()
    )]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// A directory of another user.
    #[error(
        "{} belongs to user {uid}, not to you (user {own}); remove it, or choose another place \
         with KVBROKER_HOME",
        path.display()
    )]
    ForeignOwner {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        uid: u32,
        /// Who we are.
        own: u32,
    },
    /// A directory that others can use.
    #[error(
        "{} is open to others (mode {mode:03o}); close it with: chmod {wanted} '{}'",
        path.display(), path.display()
    )]
    LooseMode {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// What to give to chmod.
        wanted: &'static str,
    },
    /// A socket path that no sockaddr_un can hold.
    #[error(
        "the socket path {} has {bytes} bytes, {limit} are the most; set KVBROKER_HOME or \
         XDG_RUNTIME_DIR to a shorter directory, or choose a shorter project name",
        path.display(), limit = crate::transport::MAX_IPC_PATH_BYTES
    )]
    SocketPathTooLong {
        /// The path.
        path: PathBuf,
        /// Its length.
        bytes: usize,
    },
    /// Another broker of this project runs here.
    #[error(
        "a broker for {project} already runs here{}; use it, or stop it first ({} is locked)",
        pid.map_or(String::new(), |pid| format!(" (process {pid})")), path.display()
    )]
    AlreadyRunning {
        /// The project.
        project: ProjectName,
        /// The process that holds the lock, as far as it said so.
        pid: Option<u32>,
        /// The lock file.
        path: PathBuf,
    },
}

/// The three kinds of directories, found but not yet made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dirs {
    data: PathBuf,
    config: PathBuf,
    /// Directories that exist already, and names below them, best one first.
    runtime: Vec<RuntimeBase>,
}

/// A directory of the system or the user, and ours inside it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct RuntimeBase {
    /// Followed as it is: `/run/user/1000`, `/tmp`, `KVBROKER_HOME`.
    base: PathBuf,
    /// Ours: `kvbroker`, `kvbroker-1000`, `run`.
    ours: String,
}

impl RuntimeBase {
    fn new(base: impl Into<PathBuf>, ours: impl Into<String>) -> Self {
        Self { base: base.into(), ours: ours.into() }
    }

    fn path(&self, project: &ProjectName) -> PathBuf {
        self.base.join(&self.ours).join(project.as_str())
    }
}

impl Dirs {
    /// Reads `KVBROKER_HOME`, the XDG variables and `HOME`.
    ///
    /// # Errors
    /// [`PathError::NoHome`].
    pub fn from_environment() -> Result<Self, PathError> {
        if let Some(home) = env::var_os("KVBROKER_HOME").filter(|home| !home.is_empty()) {
            return Self::under(Path::new(&home));
        }
        let xdg = Xdg::new().map_err(|_| PathError::NoHome)?;
        Ok(Self::from_xdg(&xdg.data_dir(), &xdg.config_dir(), xdg.runtime_dir().as_deref()))
    }

    /// Everything below one directory, as `KVBROKER_HOME` does it: `data/`,
    /// `config/` and `run/`.
    ///
    /// # Errors
    /// A relative path without a current directory.
    pub fn under(home: &Path) -> Result<Self, PathError> {
        let home = std::path::absolute(home).map_err(|source| PathError::Io {
            action: "find the absolute path of",
            path: home.to_owned(),
            source,
        })?;
        Ok(Self { data: home.join("data"), config: home.join("config"), runtime: vec![RuntimeBase::new(home, "run")] })
    }

    fn from_xdg(data: &Path, config: &Path, runtime: Option<&Path>) -> Self {
        let uid = rustix::process::geteuid().as_raw();
        let system = PathBuf::from(format!("/run/user/{uid}"));
        let shared = RuntimeBase::new("/tmp", format!("kvbroker-{uid}"));
        // The variable can be another user's (su keeps it): then it's as good as unset.
        let mut bases: Vec<RuntimeBase> = runtime
            .filter(|directory| runtime::is_our_own_directory(directory))
            .map(|directory| RuntimeBase::new(directory, OUR_DIRECTORY))
            .into_iter()
            .collect();
        bases.push(shared);
        // Never the first choice: nobody asked for it. But a broker may run there.
        let system = RuntimeBase::new(system, OUR_DIRECTORY);
        if !bases.contains(&system) {
            bases.push(system);
        }
        Self { data: data.join(OUR_DIRECTORY), config: config.join(OUR_DIRECTORY), runtime: bases }
    }

    /// The default data directory of a project. The log makes and locks it.
    #[must_use]
    pub fn data_dir(&self, project: &ProjectName) -> PathBuf {
        self.data.join(project.as_str())
    }

    /// Keys, pins, authorized files and `config.toml`.
    #[must_use]
    pub fn config_dir(&self) -> &Path {
        &self.config
    }

    /// What is configured for one project: who may come in.
    #[must_use]
    pub fn project_config_dir(&self, project: &ProjectName) -> PathBuf {
        self.config.join("projects").join(project.as_str())
    }

    /// Where this environment's broker of a project has its sockets.
    #[must_use]
    pub fn runtime_dir(&self, project: &ProjectName) -> PathBuf {
        self.runtime_base().path(project)
    }

    /// Everywhere a broker of this user may have its sockets, the likeliest first.
    #[must_use]
    pub fn runtime_candidates(&self, project: &ProjectName) -> Vec<PathBuf> {
        self.runtime.iter().map(|base| base.path(project)).collect()
    }

    /// Makes a project's runtime directory where it is missing, and checks it (for brokers).
    ///
    /// # Errors
    /// A directory on the way that is not ours alone, or I/O.
    pub fn create_runtime(&self, project: &ProjectName) -> Result<RuntimeDir, PathError> {
        let base = self.runtime_base();
        runtime::create(&base.base, &base.ours, project)
    }

    /// Opens and checks the runtime directories of a project that exist (for clients).
    ///
    /// A directory that exists but can't be trusted is an error in its place:
    /// another user may have put it there to be found.
    pub fn open_runtimes<'a>(&'a self, project: &'a ProjectName) -> impl Iterator<Item = Result<RuntimeDir, PathError>> + 'a {
        self.runtime.iter().filter_map(|base| runtime::open(&base.base, &base.ours, project).transpose())
    }

    /// The projects that have a runtime directory of ours, sorted; whether a broker
    /// runs in it is another question.
    #[must_use]
    pub fn local_projects(&self) -> Vec<ProjectName> {
        let mut projects: Vec<ProjectName> = self
            .runtime
            .iter()
            .filter_map(|base| std::fs::read_dir(base.base.join(&base.ours)).ok())
            .flat_map(|entries| entries.flatten())
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect();
        projects.sort();
        projects.dedup();
        projects
    }

    fn runtime_base(&self) -> &RuntimeBase {
        self.runtime.first().expect("every constructor gives one")
    }
}

/// The login name: what the owner is called unless told otherwise. `/etc/passwd`
/// comes before the environment, which survives `su`; `uidN` is the last resort.
#[must_use]
pub fn login_name() -> String {
    let uid = rustix::process::getuid().as_raw();
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    if let Some(name) = name_in_passwd(&passwd, uid) {
        return name.to_owned();
    }
    ["LOGNAME", "USER"]
        .into_iter()
        .filter_map(|variable| env::var(variable).ok())
        .find(|name| is_plausible_login(name))
        .unwrap_or_else(|| format!("uid{uid}"))
}

fn name_in_passwd(passwd: &str, uid: u32) -> Option<&str> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let its_uid: u32 = fields.nth(1)?.parse().ok()?;
        (its_uid == uid && is_plausible_login(name)).then_some(name)
    })
}

fn is_plausible_login(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.chars().all(|c| c.is_ascii_graphic())
}

/// Checks that a unix socket can have this path.
///
/// # Errors
/// [`PathError::SocketPathTooLong`].
pub fn check_socket_path(path: &Path) -> Result<(), PathError> {
    let bytes = path.as_os_str().len();
    if bytes > crate::transport::MAX_IPC_PATH_BYTES {
        return Err(PathError::SocketPathTooLong { path: path.to_owned(), bytes });
    }
    Ok(())
}

#[cfg(test)]
mod tests;

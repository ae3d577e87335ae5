//! What the figures depend on beside the rows: the machine, the disk, the programs.

use serde::Serialize;

use crate::Failed;

/// All of it. Names are stable: programs read them.
#[derive(Clone, Debug, Serialize)]
pub struct Facts {
    /// The processor.
    pub processor: String,
    /// Processors that this program may use.
    pub processors: usize,
    /// Memory, bytes.
    pub memory_bytes: u64,
    /// The system's name, release and architecture.
    pub system: String,
    /// What the servers keep their files on.
    pub file_system: String,
    /// Load average of the last minute before the first row.
    pub load_before: f64,
    /// The commit of which this program was built.
    pub commit: &'static str,
    /// True: no figure means anything.
    pub is_debug_build: bool,
    /// libzmq, as linked.
    pub libzmq: String,
}

impl Facts {
    /// Of now.
    pub fn now() -> Result<Facts, Failed> {
        let uname = rustix::system::uname();
        let system = [uname.sysname(), uname.release(), uname.machine()].map(|part| part.to_string_lossy().into_owned());
        let info = read("/proc/cpuinfo");
        let processor =
            info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("?", |(_, name)| name);
        let memory = read("/proc/meminfo");
        let memory =
            memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse::<u64>().ok());
        Ok(Facts {
            processor: processor.to_owned(),
            processors: std::thread::available_parallelism().map_or(0, usize::from),
            memory_bytes: memory.unwrap_or_default() << 10,
            system: system.join(" "),
            file_system: file_system()?,
            load_before: read("/proc/loadavg").split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(f64::NAN),
            commit: kvbroker::version::COMMIT,
            is_debug_build: cfg!(debug_assertions),
            libzmq: kvbroker::transport::libzmq_version(),
        })
    }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// The type of the file system that temporary files are on.
fn file_system() -> Result<String, Failed> {
    let place = std::env::temp_dir().canonicalize()?;
    let mounts = read("/proc/self/mounts");
    // The deepest directory above it that something is mounted on; of two at one place the later one is seen.
    let mounted = mounts.lines().filter_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let (directory, kind) = (words.next()?, words.next()?);
        place.starts_with(directory).then_some((directory.len(), kind))
    });
    Ok(mounted.max_by_key(|(length, _)| *length).map_or("?", |(_, kind)| kind).to_owned())
}

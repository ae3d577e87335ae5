//! What the process itself needs before it holds secrets and clients.

use kvbroker::keys;
use kvbroker_protocol::limits;

/// No core files, and descriptors for many clients.
pub(crate) fn prepare() {
    if let Err(error) = keys::keep_secrets_out_of_core_files() {
        tracing::warn!("core files cannot be switched off: {error}");
    }
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let files = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: files.maximum, maximum: files.maximum };
    if files.current != files.maximum && setrlimit(Resource::Nofile, wanted).is_err() {
        tracing::debug!("the limit of open files stays as it was");
    }
    /// Each connection takes a descriptor; some are for files and sockets of our own.
    const ENOUGH: u64 = limits::CONNECTIONS_MAX as u64 + 100;
    if let Some(most) = getrlimit(Resource::Nofile).current.filter(|most| *most < ENOUGH) {
        tracing::warn!(
            "only {most} files may be open: that many clients minus some dozens can connect (raise it with ulimit -n)"
        );
    }
}

//! What the process itself needs before it holds secrets and clients.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use kvbroker::keys;

/// No core files, a file size limit that is an error and no death, and descriptors for many clients.
pub(crate) fn prepare() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    if let Err(error) = keys::keep_secrets_out_of_core_files() {
        tracing::warn!("core files cannot be switched off: {error}");
    }
    // A write beyond `ulimit -f` must fail with an error, which ends in exit code 12, instead of ending the process by a signal.
    let seen = Arc::new(AtomicBool::new(false));
    if let Err(error) = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, seen) {
        tracing::warn!("a file size limit would end the broker by a signal: {error}");
    }
    let files = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: files.maximum, maximum: files.maximum };
    if files.current != files.maximum && setrlimit(Resource::Nofile, wanted).is_err() {
        tracing::debug!("the limit of open files stays as it was");
    }
}

//! The thread's place behind the others.

/// What `nice` calls it: requests come first wherever a core is wanted by both.
#[cfg(target_os = "linux")]
const NICE: i32 = 10;

/// Lets the calling thread wait for the others. On Linux priorities belong to threads; elsewhere to the process, which keeps its own.
pub(crate) fn step_back() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE) {
        tracing::debug!("the checkpointer runs with the priority of all threads: {error}");
    }
}

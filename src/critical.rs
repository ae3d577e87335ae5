//! Threads that the process can't do without.
//!
//! A broker whose authentication, worker or publisher thread has died must not
//! go on half alive. [`spawn`] runs a loop on a thread of its own and ends the
//! process when the loop ends without having been told to.
//!
//! - A panic, an error and a plain return are all the end of the loop.
//! - The end is announced before it comes: on stderr, through the log.
//! - What ends the process is an argument, so that tests can watch it instead.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

/// What a critical loop reports when it ends.
#[derive(Debug)]
pub enum LoopEnd {
    /// It was asked to stop.
    Asked,
    /// It can't go on; the sentence says why.
    Failed(String),
}

/// Called with a sentence when a critical thread has died; must end the process
/// (or, in a test, take note).
pub type OnDeath = Arc<dyn Fn(&str) + Send + Sync>;

/// The ending for real programs: says why in the log and on stderr, then aborts.
#[must_use]
pub fn abort_process() -> OnDeath {
    Arc::new(|sentence| {
        tracing::error!("{sentence}; ending the process");
        crate::logging::flush();
        std::process::abort()
    })
}

/// Runs `body` on a new thread named `name`. Any end of it but
/// [`LoopEnd::Asked`] calls `on_death`.
///
/// # Errors
/// The operating system gives no thread.
pub fn spawn<F>(name: &str, on_death: OnDeath, body: F) -> io::Result<JoinHandle<()>>
where
    F: FnOnce() -> LoopEnd + Send + 'static,
{
    let title = name.to_owned();
    Builder::new().name(name.to_owned()).spawn(move || {
        // What the body owned is gone after a panic; nothing half-changed is used again.
        let reason = match catch_unwind(AssertUnwindSafe(body)) {
            Ok(LoopEnd::Asked) => return,
            Ok(LoopEnd::Failed(reason)) => reason,
            Err(panic) => format!("panic: {}", panic_text(panic.as_ref())),
        };
        on_death(&format!("the {title} thread ended: {reason}"));
    })
}

/// The text of a caught panic, as far as it has one.
#[must_use]
pub fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&'static str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a text")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Mutex;

    use super::*;

    fn deaths_of(body: impl FnOnce() -> LoopEnd + Send + 'static) -> Vec<String> {
        let deaths = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&deaths);
        let note: OnDeath = Arc::new(move |why| noted.lock().unwrap().push(why.to_owned()));
        spawn("test", note, body).unwrap().join().unwrap();
        let deaths = deaths.lock().unwrap();
        deaths.clone()
    }

    #[test]
    fn an_end_that_was_asked_for_is_no_death() {
        assert!(deaths_of(|| LoopEnd::Asked).is_empty());
    }

    #[test]
    fn an_error_is_a_death_with_its_reason() {
        let deaths = deaths_of(|| LoopEnd::Failed("no more disk".into()));
        assert_eq!(deaths, ["the test thread ended: no more disk"]);
    }

    #[test]
    fn a_panic_is_a_death_with_its_text() {
        let number = 7;
        let deaths = deaths_of(move || panic!("odd {number}"));
        assert_eq!(deaths, ["the test thread ended: panic: odd 7"]);
        assert_eq!(deaths_of(|| panic!("plain")), ["the test thread ended: panic: plain"]);
    }

    /// Runs itself once more, in a process that may die.
    #[test]
    fn a_real_program_says_why_and_is_gone() {
        const CHILD: &str = "KVBROKER_TEST_CRITICAL_CHILD";
        if std::env::var_os(CHILD).is_some() {
            let guard = crate::logging::start(crate::logging::LogFormat::Text, tracing::level_filters::LevelFilter::WARN);
            let thread = spawn("zap", abort_process(), || panic!("the door fell"));
            thread.unwrap().join().unwrap();
            drop(guard);
            return;
        }
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "critical::tests::a_real_program_says_why_and_is_gone", "--nocapture"])
            .env(CHILD, "1")
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&child.stderr);
        // SIGABRT
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&child.status), Some(6), "{stderr}");
        assert!(stderr.contains("ERROR panic: the door fell thread=zap place="), "{stderr}");
        let end = "ERROR critical: the zap thread ended: panic: the door fell; ending the process";
        assert!(stderr.contains(end), "{stderr}");
    }
}

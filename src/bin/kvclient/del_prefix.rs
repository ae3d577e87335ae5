//! `del --prefix` and `del --all`: keys removed part by part, until none is left.
//!
//! - The broker removes so many keys at a time that nobody else waits for it; this asks again while there are more.
//! - All parts together are not one change. Whatever ends them in the middle, it is said how many keys are gone: what is gone stays
//!   gone, and the same command goes on with the rest.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kvbroker::client::{Client, exit_of};
use kvbroker::exit::Exit;
use kvbroker_protocol::{Answer, Operation};
use serde_json::json;

use crate::args::Global;
use crate::output::Output;
use crate::verbs::{Subject, ask};
use crate::{Trouble, complain, remark};

/// Pause between two remarks on how far it is.
const REMARK: Duration = Duration::from_secs(1);

/// Keys that the run in progress has removed; for whoever ends the program meanwhile.
static REMOVED: AtomicU64 = AtomicU64::new(0);

pub(crate) fn run(client: &Client, prefix: &[u8], out: &mut Output, global: &Global) -> Result<Exit, Trouble> {
    let mut said_at = Instant::now();
    loop {
        let operation = Operation::DelPrefix { prefix: prefix.to_vec(), limit: None };
        let subject = Subject::of(&operation);
        let outcome = ask(client, operation).inspect_err(|_| say_how_far())?;
        let more = match outcome.result {
            Ok(Answer::Deleted { removed, more }) => {
                REMOVED.fetch_add(removed, Ordering::Relaxed);
                more
            }
            Ok(_) => return Err(Trouble::misuse("the broker answered with another answer than was asked for")),
            Err(failure) => {
                if out.is_json() {
                    out.outcome_json(&kvbroker_protocol::Outcome { result: Err(failure.clone()), ..outcome })?;
                }
                subject.complain(&failure);
                say_how_far();
                return Ok(exit_of(failure.code));
            }
        };
        if !more {
            // Not to be said again, should the program be ended now.
            let removed = REMOVED.swap(0, Ordering::Relaxed);
            let text = match out.is_json() {
                true => json!({"status": "ok", "rev": outcome.revision, "removed": removed}).to_string(),
                false => removed.to_string(),
            };
            let written = out.line(&text).and_then(|()| out.flush());
            written.map_err(|error| Trouble::output_after(outcome.revision.filter(|_| removed > 0), error))?;
            return Ok(Exit::Ok);
        }
        if said_at.elapsed() >= REMARK {
            said_at = Instant::now();
            remark(global, &format!("{} keys removed so far …", REMOVED.load(Ordering::Relaxed)));
        }
    }
}

/// Says how many keys are gone, if it was ended in the middle.
pub(crate) fn say_how_far() {
    let removed = REMOVED.load(Ordering::Relaxed);
    if removed > 0 {
        complain(&format!("{removed} keys were removed before that; the same command goes on with the rest"), None);
    }
}

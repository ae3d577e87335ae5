//! `queue track` and `queue push --wait`: how far an item has come.

use std::time::Duration;

use kvbroker::client::Client;
use kvbroker::exit::Exit;
use kvbroker_protocol::{Answer, ItemId, Key, Operation, Progress, Push, QueueAnswer, QueueOperation, Tracked, Until};
use serde_json::json;

use crate::args::Global;
use crate::output::Output;
use crate::{Trouble, complain, remark, verbs};

/// How far a push waits for its item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Far {
    /// It is in the log, as the broker's sync mode promises.
    Submitted,
    Until(Until),
}

impl Far {
    pub(crate) fn from_name(name: &str) -> Option<Far> {
        if name == "submitted" { Some(Far::Submitted) } else { Until::from_name(name).map(Far::Until) }
    }
}

/// Pushes an item, prints its id, and waits until it is so far. That its queue is transient is remarked, since no id shows it.
pub(crate) fn push(
    global: &Global,
    client: &Client,
    push: Push,
    far: Far,
    within: Duration,
    out: &mut Output,
) -> Result<Exit, Trouble> {
    let queue = push.queue.clone();
    let (outcome, exit) = verbs::told(client, Operation::Queue(Box::new(QueueOperation::Push(push))), out)?;
    if matches!(outcome.result, Ok(Answer::Queue(QueueAnswer::Pushed { transient: true, .. }))) && !out.is_json() {
        remark(global, "the queue is transient: this item lives in memory, and is gone after a restart of the broker");
    }
    match (far, outcome.result) {
        (Far::Until(until), Ok(Answer::Queue(QueueAnswer::Pushed { item, .. }))) => {
            let tracked = client.queue(queue).track(item, until, within)?;
            if out.is_json() {
                out.line(&line(item, tracked))?;
            }
            Ok(judged(item, tracked, until, within))
        }
        _ => Ok(exit),
    }
}

/// Prints how far an item has come, once it is so far or the time is up.
pub(crate) fn track(
    client: &Client,
    queue: Key,
    item: ItemId,
    until: Until,
    wait: Duration,
    out: &mut Output,
) -> Result<Exit, Trouble> {
    let tracked = client.queue(queue).track(item, until, wait)?;
    if out.is_json() {
        out.line(&line(item, tracked))?;
    } else {
        out.line(tracked.progress.name())?;
    }
    Ok(judged(item, tracked, until, wait))
}

fn line(item: ItemId, tracked: Tracked) -> String {
    let Tracked { progress, deliveries } = tracked;
    json!({"status": "ok", "item": item.to_string(), "progress": progress.name(), "deliveries": deliveries}).to_string()
}

fn judged(item: ItemId, tracked: Tracked, until: Until, waited: Duration) -> Exit {
    let progress = tracked.progress;
    match progress {
        Progress::Done => Exit::Ok,
        Progress::Gone => {
            complain(&format!("item {item} is not in the queue any more, and nobody knows how it ended"), None);
            Exit::UnknownOutcome
        }
        Progress::Dead | Progress::Expired | Progress::Removed => {
            complain(&format!("item {item} is {}", progress.name()), None);
            Exit::NotFound
        }
        Progress::Ready | Progress::Delayed | Progress::Leased if until.is_reached(tracked) => Exit::Ok,
        Progress::Ready | Progress::Delayed | Progress::Leased => {
            let waited = humantime::format_duration(Duration::from_millis(super::queue::millis(waited)));
            complain(&format!("item {item} is {} after {waited}, and not {}", progress.name(), until.name()), None);
            Exit::NotFound
        }
    }
}

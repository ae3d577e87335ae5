//! `queue track`, `queue push --wait` and `publish --wait`: how far an item, or each copy of a message, has come.

use std::time::Duration;

use kvbroker::client::{Client, Published, TrackedCopy};
use kvbroker::exit::Exit;
use kvbroker_protocol::{
    Answer, ItemId, Key, Operation, Progress, Push, QueueAnswer, QueueOperation, RoutingAnswer, Tracked, Until, key_to_json_text,
    key_to_line_text,
};
use serde_json::json;

use crate::args::Global;
use crate::output::{Output, Print};
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
            let tracked = match client.queue(&queue).track(item, until, within) {
                Ok(tracked) => tracked,
                Err(error) => {
                    let track = format!("kvclient {} queue track {} {item}", client.project(), printable_key(&queue));
                    complain(&format!("it is pushed, as item {item}; how far it came is not known: {error}"), Some(&track));
                    return Ok(Exit::UnknownOutcome);
                }
            };
            if out.is_json() {
                out.line(&line(item, tracked))?;
            }
            Ok(judged(&format!("item {item}"), tracked, until, within))
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
    Ok(judged(&format!("item {item}"), tracked, until, wait))
}

/// Publishes a message, prints how many queues have it, and waits until each copy is so far: then each is printed. Which copies are not kept
/// over a restart is remarked.
pub(crate) fn publish(
    global: &Global,
    client: &Client,
    message: Operation,
    far: Far,
    within: Duration,
    out: &mut Output,
) -> Result<Exit, Trouble> {
    let (outcome, exit) = verbs::told(client, message, out)?;
    if let Ok(Answer::Routing(RoutingAnswer::Published { copies, .. })) = &outcome.result
        && !out.is_json()
    {
        let transient = copies.iter().filter(|copy| copy.transient);
        let queues: Vec<String> = transient.map(|copy| printable_key(&copy.queue)).collect();
        if !queues.is_empty() {
            remark(global, &format!("copies in memory alone, gone after a restart of the broker: {}", queues.join(", ")));
        }
    }
    let (Far::Until(until), Ok(Answer::Routing(RoutingAnswer::Published { routed, copies }))) = (far, outcome.result) else {
        return Ok(exit);
    };
    if routed == 0 {
        complain(&format!("no queue wanted this message: nobody has it, and it is never {}", until.name()), None);
        return Ok(Exit::NotFound);
    }
    let published = Published { revision: outcome.revision.unwrap_or_default(), routed, copies };
    let copies = match client.track_copies(&published, until, within) {
        Ok(copies) => copies,
        Err(error) => {
            let known: Vec<String> =
                published.copies.iter().map(|copy| format!("queue track {} {}", printable_key(&copy.queue), copy.item)).collect();
            let track = format!("kvclient {} {}", client.project(), known.join("; "));
            complain(&format!("it is published; how far its copies came is not known: {error}"), Some(&track));
            return Ok(Exit::UnknownOutcome);
        }
    };
    for copy in &copies {
        out.item(copy)?;
    }
    out.flush()?;
    let mut worst = Exit::Ok;
    for TrackedCopy { queue, item, tracked } in &copies {
        match judged(&format!("item {item} of {}", printable_key(queue)), *tracked, until, within) {
            Exit::Ok => {}
            Exit::NotFound => worst = Exit::NotFound,
            other if worst == Exit::Ok => worst = other,
            _ => {}
        }
    }
    let untold = published.untold();
    if untold > 0 {
        let them = if untold == 1 { "1 more copy".to_owned() } else { format!("{untold} more copies") };
        let why = "the broker tells the first hundred, in queues that this client may use";
        complain(&format!("how far {them} of this message came is not known: {why}"), None);
        if worst == Exit::Ok {
            worst = Exit::UnknownOutcome;
        }
    }
    Ok(worst)
}

fn printable_key(key: &[u8]) -> String {
    let mut text = Vec::new();
    key_to_line_text(&mut text, key);
    String::from_utf8_lossy(&text).into_owned()
}

impl Print for TrackedCopy {
    fn print(&self, json: bool, line: &mut Vec<u8>) {
        let TrackedCopy { queue, item, tracked: Tracked { progress, deliveries } } = self;
        if json {
            line.extend_from_slice(b"{\"queue\":");
            key_to_json_text(line, queue);
            let rest = json!({"item": item.to_string(), "progress": progress.name(), "deliveries": deliveries}).to_string();
            line.extend_from_slice(rest.replacen('{', ",", 1).as_bytes());
        } else {
            key_to_line_text(line, queue);
            line.extend_from_slice(format!("\t{item}\t{}", progress.name()).as_bytes());
        }
    }
}

fn line(item: ItemId, tracked: Tracked) -> String {
    let Tracked { progress, deliveries } = tracked;
    json!({"status": "ok", "item": item.to_string(), "progress": progress.name(), "deliveries": deliveries}).to_string()
}

/// The exit code for an item, and what there is to say of one that is not so far.
fn judged(item: &str, tracked: Tracked, until: Until, waited: Duration) -> Exit {
    let progress = tracked.progress;
    match progress {
        Progress::Done => Exit::Ok,
        Progress::Gone => {
            complain(&format!("{item} is not in that queue, or not any more, and nobody knows how it ended"), None);
            Exit::UnknownOutcome
        }
        Progress::Dead | Progress::Expired | Progress::Removed => {
            complain(&format!("{item} is {}", progress.name()), None);
            Exit::NotFound
        }
        Progress::Ready | Progress::Delayed | Progress::Leased if until.is_reached(tracked) => Exit::Ok,
        Progress::Ready | Progress::Delayed | Progress::Leased => {
            let waited = humantime::format_duration(Duration::from_millis(super::queue::millis(waited)));
            complain(&format!("{item} is {} after {waited}, and not {}", progress.name(), until.name()), None);
            Exit::NotFound
        }
    }
}

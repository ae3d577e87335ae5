//! The verbs of `queue`: each asks the broker and prints what it says.
//!
//! - An item is printed, and the line is out, before anything else is asked: what was not printed comes back when its lease ends.

use std::io;
use std::time::Duration;

use kvbroker::client::{Client, exit_of};
use kvbroker::exit::Exit;
use kvbroker_protocol::{
    Answer, Declaration, Delivery, ItemId, Key, Operation, Outcome, Peeked, Pull, Push, QueueAnswer, QueueInfo, QueueOperation,
    Receipt, Stored, Until, Wanted as As, key_to_json_text, key_to_line_text,
};
use serde_json::json;

use crate::args::Global;
use crate::output::{Output, Print, columns, printable};
use crate::queue_args::{DeclareArgs, QueueVerb, TakeArgs};
use crate::queue_exec::Exec;
use crate::queue_track::{self, Far};
use crate::values::{Kind, bytes, read_all, read_file, stored};
use crate::verb_parts::Ttl;
use crate::{Trouble, complain, verbs};

/// A verb whose arguments were read and checked.
pub(crate) enum Wanted {
    /// Everything that is one request and prints what `verbs::one` does.
    One(QueueOperation),
    Push(Push, Far, Duration),
    Track {
        queue: Key,
        item: ItemId,
        until: Until,
        wait: Duration,
    },
    Take(Pull, As),
    Exec(Pull, Exec),
    Kick {
        queue: Key,
        item: Option<ItemId>,
        limit: Option<usize>,
    },
    Purge {
        queue: Key,
        state: Option<kvbroker_protocol::ItemState>,
    },
    Peek {
        queue: Key,
        state: kvbroker_protocol::ItemState,
        limit: usize,
        wanted: As,
    },
    Stats(Key),
    List(Key),
}

pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn item_of(text: &str) -> Result<(ItemId, Option<u64>), Trouble> {
    if let Ok(Receipt { item, token }) = text.parse() {
        return Ok((item, Some(token)));
    }
    let item = text.parse().map_err(|error: kvbroker_protocol::ItemIdError| Trouble::misuse(error.to_string()))?;
    Ok((item, None))
}

impl Wanted {
    pub(crate) fn new(verb: QueueVerb, global: &Global) -> Result<Wanted, Trouble> {
        Ok(match verb {
            QueueVerb::Push { queue, value, file, priority, delay, ttl, content_type, wait, within } => {
                let value = match (value, file) {
                    (_, Some(path)) => stored(read_file(&path)?, Kind::of_file(global.json))?,
                    (Some(text), None) if text == "-" => {
                        stored(read_all(io::stdin().lock(), "stdin")?, Kind::of_text(global.json))?
                    }
                    (Some(text), None) => stored(bytes(&text), Kind::of_text(global.json))?,
                    (None, None) => return Err(Trouble::misuse("push needs a value, `-` or --file")),
                };
                let delay_ms = delay.map_or(0, |delay| delay.0);
                let ttl_ms = ttl.map(|ttl| ttl.0);
                Wanted::Push(Push { queue: bytes(&queue), value, priority, delay_ms, ttl_ms, content_type }, wait, within)
            }
            QueueVerb::Poll { take } => {
                let (pull, wanted) = pull(take, Duration::ZERO);
                Wanted::Take(pull, wanted)
            }
            QueueVerb::Pull { take, wait, exec, retry_delay } => {
                let items = take.limit;
                let (pull, wanted) = pull(take, wait);
                match Exec::new(exec, items, retry_delay)? {
                    Some(exec) => Wanted::Exec(pull, exec.until_idle(wait).reading(wanted)),
                    None => Wanted::Take(pull, wanted),
                }
            }
            QueueVerb::Notify { take, credit, retry_delay, command } => {
                let items = take.limit;
                let exec = Exec::new(command, items, retry_delay)?.ok_or_else(|| Trouble::misuse("notify needs a command"))?;
                let (pull, wanted) = pull(take, Duration::ZERO);
                Wanted::Exec(pull, exec.with_credit(credit).reading(wanted))
            }
            QueueVerb::Track { queue, item, until, wait } => Wanted::Track { queue: bytes(&queue), item, until, wait },
            QueueVerb::Ack { queue, receipt } => Wanted::One(QueueOperation::Ack { queue: bytes(&queue), receipt }),
            QueueVerb::Nack { queue, receipt, delay, reason, unused } => {
                let (queue, delay_ms) = (bytes(&queue), delay.map(|delay| delay.0));
                Wanted::One(QueueOperation::Nack { queue, receipt, delay_ms, reason, unused })
            }
            QueueVerb::Extend { queue, receipt, lease } => {
                Wanted::One(QueueOperation::Extend { queue: bytes(&queue), receipt, lease_ms: lease.map(|lease| lease.0) })
            }
            QueueVerb::Bury { queue, item, reason } => {
                let (item, token) = item_of(&item)?;
                Wanted::One(QueueOperation::Bury { queue: bytes(&queue), item, token, reason })
            }
            QueueVerb::Kick { queue, item, limit } => Wanted::Kick { queue: bytes(&queue), item, limit },
            QueueVerb::Peek { queue, state, limit, target } => {
                Wanted::Peek { queue: bytes(&queue), state, limit, wanted: target.wanted() }
            }
            QueueVerb::Stats { queue } => Wanted::Stats(bytes(&queue)),
            QueueVerb::List { prefix } => Wanted::List(bytes(&prefix)),
            QueueVerb::Purge { queue, state } => Wanted::Purge { queue: bytes(&queue), state },
            QueueVerb::Pause { queue } => Wanted::One(paused(bytes(&queue), true)),
            QueueVerb::Resume { queue } => Wanted::One(paused(bytes(&queue), false)),
            QueueVerb::Declare { queue, options } => {
                Wanted::One(QueueOperation::Declare { queue: bytes(&queue), options: declaration(options) })
            }
            QueueVerb::Drop { queue } => Wanted::One(QueueOperation::Drop { queue: bytes(&queue) }),
        })
    }
}

fn pull(take: TakeArgs, wait: Duration) -> (Pull, As) {
    let TakeArgs { queue, limit, lease, no_ack, target } = take;
    let lease_ms = lease.map(|Ttl(ms)| ms);
    let pull = Pull { queue: bytes(&queue), limit: limit.unwrap_or(1), lease_ms, wait_ms: millis(wait), no_ack };
    (pull, target.wanted())
}

fn paused(queue: Key, paused: bool) -> QueueOperation {
    QueueOperation::Declare { queue, options: Declaration { paused: Some(paused), must_exist: true, ..Declaration::default() } }
}

fn declaration(args: DeclareArgs) -> Declaration {
    let DeclareArgs { lease, max_deliveries, retry, ttl, max_items, max_bytes, overflow, dead_queue, transient } = args;
    Declaration {
        lease_ms: lease.map(|lease| lease.0),
        max_deliveries,
        retry_ms: retry.map(millis),
        ttl_ms: ttl.map(millis),
        max_items,
        max_bytes,
        overflow,
        dead: dead_queue.as_deref().map(bytes),
        paused: None,
        must_exist: false,
        transient,
    }
}

pub(crate) fn run(global: &Global, client: &Client, wanted: Wanted, out: &mut Output) -> Result<Exit, Trouble> {
    match wanted {
        Wanted::One(operation) => verbs::one(client, Operation::Queue(Box::new(operation)), out),
        Wanted::Push(push, far, within) => queue_track::push(global, client, push, far, within, out),
        Wanted::Track { queue, item, until, wait } => queue_track::track(client, queue, item, until, wait, out),
        Wanted::Take(pull, wanted) => take(client, pull, wanted, out),
        Wanted::Exec(pull, exec) => exec.run(client, &pull),
        Wanted::Kick { queue, item, limit } => count(client.queue(queue).kick(item, limit)?, "kicked", out),
        Wanted::Purge { queue, state } => count(client.queue(queue).purge(state)?, "removed", out),
        Wanted::Peek { queue, state, limit, wanted } => {
            for item in client.reading(wanted).peek(queue, state, limit)? {
                out.item(&item)?;
            }
            Ok(Exit::Ok)
        }
        Wanted::Stats(queue) => stats(client, queue, out),
        Wanted::List(prefix) => list(&client.queues(prefix)?, out),
    }
}

fn count(count: u64, name: &str, out: &mut Output) -> Result<Exit, Trouble> {
    let line = if out.is_json() { json!({"status": "ok", name: count}).to_string() } else { count.to_string() };
    out.line(&line)?;
    Ok(Exit::Ok)
}

fn take(client: &Client, pull: Pull, wanted: As, out: &mut Output) -> Result<Exit, Trouble> {
    let converts = wanted != As::default();
    let (items, _) = client.reading(wanted).pull(pull)?;
    for item in &items {
        out.item(item)?;
    }
    out.flush()?;
    if items.is_empty() {
        let hint = "what could not be converted rests, with the reason: `queue peek QUEUE --state delayed`";
        complain("nothing is ready", converts.then_some(hint));
        return Ok(Exit::NotFound);
    }
    Ok(Exit::Ok)
}

fn stats(client: &Client, queue: Key, out: &mut Output) -> Result<Exit, Trouble> {
    let ask = QueueOperation::Queues { queue: Some(queue), prefix: Vec::new(), cursor: None, limit: None };
    let outcome = verbs::ask(client, Operation::Queue(Box::new(ask)))?;
    let info = match &outcome.result {
        Ok(Answer::Queue(QueueAnswer::Queues { queues, .. })) => queues.first(),
        Ok(_) => None,
        Err(failure) => {
            if out.is_json() {
                out.outcome_json(&outcome)?;
            }
            complain(&printable(&failure.message), None);
            return Ok(exit_of(failure.code));
        }
    };
    let Some(info) = info else { return Ok(Exit::NotFound) };
    if out.is_json() {
        out.item(info)?;
    } else {
        out.stats(&info.facts, &Outcome { revision: None, result: Ok(Answer::Done) })?;
    }
    Ok(Exit::Ok)
}

fn list(queues: &[QueueInfo], out: &mut Output) -> Result<Exit, Trouble> {
    if out.is_json() {
        for info in queues {
            out.item(info)?;
        }
        return Ok(Exit::Ok);
    }
    let head = ["QUEUE", "READY", "DELAYED", "LEASED", "DEAD", "BYTES", ""].map(str::to_owned);
    let row = |info: &QueueInfo| {
        let number = |name| info.number(name).to_string();
        let marks = ["paused", "transient"].into_iter().filter(|mark| info.number(mark) == 1).collect::<Vec<_>>().join(" ");
        let mut name = Vec::new();
        key_to_line_text(&mut name, &info.queue);
        let name = String::from_utf8_lossy(&name).into_owned();
        [name, number("ready"), number("delayed"), number("leased"), number("dead"), number("bytes"), marks]
    };
    let rows: Vec<[String; 7]> = std::iter::once(head).chain(queues.iter().map(row)).collect();
    columns(&rows).iter().try_for_each(|line| out.line(line))?;
    Ok(Exit::Ok)
}

/// A value in JSON, behind what was written.
fn value_json(value: &Stored, line: &mut Vec<u8>) {
    value.write_json(line);
}

/// The subject of a copy, behind what was written.
fn subject_json(subject: Option<&Key>, line: &mut Vec<u8>) {
    if let Some(subject) = subject {
        line.extend_from_slice(b",\"subject\":");
        key_to_json_text(line, subject);
    }
}

impl Print for Delivery {
    fn print(&self, json: bool, line: &mut Vec<u8>) {
        let Delivery { receipt, value, deliveries, priority, pushed_ms, content_type, subject, reason } = self;
        if json {
            let rest = json!({
                "item": receipt.item.to_string(), "token": receipt.token, "receipt": receipt.to_string(), "deliveries": deliveries,
                "priority": priority, "pushed": pushed_ms, "type": content_type, "reason": reason,
            });
            line.extend_from_slice(rest.to_string().trim_end_matches('}').as_bytes());
            subject_json(subject.as_ref(), line);
            line.extend_from_slice(b",\"value\":");
            value_json(value, line);
            line.push(b'}');
        } else {
            line.extend_from_slice(format!("{receipt}\t").as_bytes());
            value_json(value, line);
        }
    }
}

impl Print for Peeked {
    fn print(&self, json: bool, line: &mut Vec<u8>) {
        let Peeked { item, value, state, deliveries, priority, pushed_ms, content_type, due_ms, reason, subject } = self;
        if json {
            let rest = json!({
                "item": item.to_string(), "state": state.name(), "deliveries": deliveries, "priority": priority,
                "pushed": pushed_ms, "type": content_type, "due": due_ms, "reason": reason,
            });
            line.extend_from_slice(rest.to_string().trim_end_matches('}').as_bytes());
            subject_json(subject.as_ref(), line);
            line.extend_from_slice(b",\"value\":");
            value_json(value, line);
            line.push(b'}');
        } else {
            line.extend_from_slice(format!("{item}\t{}\t{deliveries}\t", state.name()).as_bytes());
            value_json(value, line);
            if !reason.is_empty() {
                line.extend_from_slice(format!("\t{}", printable(reason)).as_bytes());
            }
        }
    }
}

impl Print for QueueInfo {
    fn print(&self, _json: bool, line: &mut Vec<u8>) {
        line.extend_from_slice(b"{\"queue\":");
        key_to_json_text(line, &self.queue);
        for (name, value) in &self.facts {
            let value = match value {
                kvbroker_protocol::StatValue::Number(number) => json!(number),
                kvbroker_protocol::StatValue::Text(text) => json!(text),
            };
            line.extend_from_slice(format!(",{}:{value}", json!(name)).as_bytes());
        }
        line.push(b'}');
    }
}

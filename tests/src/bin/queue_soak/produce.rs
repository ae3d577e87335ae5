//! A producer: pushes the items of a range, each once.
//!
//! Through a pipeline, the library's numbers make sure of that as long as the process lives. A producer that may be killed keeps its place in a key, in
//! the transaction that pushes: its successor goes on there. A transaction that the killed one had sent and that is done late finds that the key
//! says something else, or is seen by the successor in the same way.

use std::ops::Range;
use std::time::Duration;

use kvbroker::client::{Client, ClientError};
use kvbroker_protocol::{Compare, Condition, ErrorCode, Operation, Push, QueueOperation, Stored, Txn};
use kvbroker_tests::soak::{Form, priority, value};
use serde::{Deserialize, Serialize};

use crate::{Failed, connect};

/// What a producer is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Producing {
    /// Numbers of its items.
    pub(crate) items: Range<u64>,
    /// Bytes of each value.
    pub(crate) value_bytes: u64,
    /// The key that keeps its place; None: it pushes through a pipeline.
    pub(crate) place: Option<String>,
    /// How many items a queue takes.
    pub(crate) room: u64,
}

/// Pushes that are outstanding in a pipeline.
const OUTSTANDING: u64 = 200;
/// Pushes of a transaction: fewer, so that those who are killed are not done long before the others.
const TOGETHER: u64 = 50;
/// Before it is looked again whether there is room.
const PAUSE: Duration = Duration::from_millis(10);

pub(crate) fn run(task: &Producing) -> Result<(), Failed> {
    let client = connect()?;
    match &task.place {
        Some(place) => in_transactions(&client, task, place),
        None => through_a_pipeline(&client, task),
    }
}

fn push(task: &Producing, number: u64) -> Operation {
    let push = Push {
        queue: Form::of(number).queue().into(),
        value: value(number, task.value_bytes as usize),
        priority: priority(number),
        delay_ms: 0,
        ttl_ms: None,
        content_type: None,
    };
    Operation::Queue(Box::new(QueueOperation::Push(push)))
}

/// True for errors after which the same may be asked again: nothing was done.
fn is_to_be_repeated(error: &ClientError) -> bool {
    matches!(error.code(), Some(ErrorCode::QueueFull | ErrorCode::Busy))
}

fn wait_for_room(client: &Client, task: &Producing) -> Result<(), Failed> {
    for form in Form::ALL {
        while client.queue(form.queue()).info()?.is_some_and(|info| info.number("items") > task.room * 3 / 4) {
            std::thread::sleep(PAUSE);
        }
    }
    Ok(())
}

fn through_a_pipeline(client: &Client, task: &Producing) -> Result<(), Failed> {
    let mut pipeline = client.pipeline();
    let mut next = task.items.start;
    while next < task.items.end {
        let end = task.items.end.min(next + OUTSTANDING);
        let mut left: Vec<u64> = (next..end).collect();
        while !left.is_empty() {
            let tickets: Vec<_> = left.iter().map(|number| (*number, pipeline.submit(push(task, *number)))).collect();
            left.clear();
            for (number, ticket) in tickets {
                match ticket.wait() {
                    Ok(_) => {}
                    Err(error) if is_to_be_repeated(&error) => left.push(number),
                    Err(error) => return Err(format!("push of {number}: {error}").into()),
                }
            }
            if !left.is_empty() {
                wait_for_room(client, task)?;
            }
        }
        next = end;
    }
    Ok(())
}

fn in_transactions(client: &Client, task: &Producing, place: &str) -> Result<(), Failed> {
    let mut next = None;
    loop {
        let at = match next {
            Some(at) => at,
            None => match client.get(place)? {
                Some(entry) => rmp_serde::from_slice(entry.value.document())?,
                None => task.items.start,
            },
        };
        if at >= task.items.end {
            return Ok(());
        }
        let end = task.items.end.min(at + TOGETHER);
        let condition = if at == task.items.start { Condition::Absent } else { Condition::Value(Stored::integer(at.into())) };
        let key = place.as_bytes().to_vec();
        let keep = Operation::Put { key: key.clone(), value: Stored::integer(end.into()), condition: None, ttl_ms: None };
        let then = (at..end).map(|number| push(task, number)).chain([keep]).collect();
        let read = Operation::Get { key: key.clone() };
        let compares = vec![Compare { key, condition }];
        match client.txn(Txn { compares, then, otherwise: vec![read] }) {
            Ok(done) => next = done.succeeded.then_some(end),
            Err(error) if is_to_be_repeated(&error) => wait_for_room(client, task)?,
            Err(error) => return Err(format!("push of {at}..{end}: {error}").into()),
        }
    }
}

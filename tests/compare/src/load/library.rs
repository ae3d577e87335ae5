//! The client library with a pipeline: it packs what is outstanding into arrays, numbers it and acknowledges.

use std::collections::VecDeque;

use kvbroker::client::{Client, Pipeline, Ticket};
use kvbroker_protocol::{Answer, Stored};

use super::{Ask, Kind, Lane};
use crate::Failed;
use crate::payload::{self, VALUE_BYTES};

/// One client with a connection of its own.
pub struct Library {
    pipeline: Pipeline,
    waiting: VecDeque<(Ticket, Kind, u32)>,
}

impl Library {
    /// With so many operations outstanding at most.
    pub fn new(client: Client, outstanding: usize) -> Library {
        Library { pipeline: client.pipeline().depth(outstanding), waiting: VecDeque::new() }
    }
}

fn check(ticket: Ticket, kind: Kind, key: u32) -> Result<(), Failed> {
    let (answer, _) = ticket.wait()?;
    match (kind, &answer) {
        (Kind::Put, Answer::Done) => Ok(()),
        // A value's document ends with its bytes; a head says their length.
        (Kind::Get, Answer::Value { value, .. })
            if value
                .document()
                .len()
                .checked_sub(VALUE_BYTES)
                .and_then(|head| value.document().get(head..))
                .is_some_and(|bytes| payload::is_value_of(key, bytes)) =>
        {
            Ok(())
        }
        _ => Err(format!("a {kind:?} is answered {answer:?}").into()),
    }
}

impl Lane for Library {
    fn ask(&mut self, ask: Ask) -> Result<(), Failed> {
        let key = payload::key(ask.key);
        let ticket = match ask.kind {
            Kind::Put => {
                let value = Stored::bytes(&payload::value(ask.key, ask.stamp)).map_err(|failure| failure.to_string())?;
                self.pipeline.put(key, value)
            }
            Kind::Get => self.pipeline.get(key),
        };
        self.waiting.push_back((ticket, ask.kind, ask.key));
        Ok(())
    }

    fn take(&mut self) -> Result<usize, Failed> {
        let mut taken = 0;
        while let Some((ticket, kind, key)) = self.waiting.pop_front() {
            if taken > 0 && !ticket.is_ready() {
                self.waiting.push_front((ticket, kind, key));
                break;
            }
            check(ticket, kind, key)?;
            taken += 1;
        }
        Ok(taken)
    }
}

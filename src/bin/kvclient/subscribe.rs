//! `subscribe`: every message that is published about subjects of a pattern, printed as it comes.
//!
//! - What may be missing is said: nobody keeps messages for those who listen.
//! - Lines are written together while there are more at hand, and at once when there are none.

use std::io;
use std::time::{Duration, Instant};

use kvbroker::client::{Client, Message, Subscription, Told};
use kvbroker::exit::Exit;
use kvbroker_protocol::{Key, key_to_json_text, key_to_line_text, subject_pattern};
use serde_json::json;

use crate::args::Global;
use crate::history::rfc3339;
use crate::interrupt::{self, Held, InHand};
use crate::output::{Output, Print, is_unread};
use crate::subscribe_args::SubscribeArgs;
use crate::values::bytes;
use crate::{Trouble, remark};

/// How often it is looked whether stdout still has a reader, while there is nothing to write.
const LOOK: Duration = Duration::from_millis(500);

/// A subscription whose arguments were read and checked.
#[derive(Debug)]
pub(crate) struct Wanted {
    pattern: Key,
    /// Messages, before it is enough.
    count: u64,
}

impl Wanted {
    /// # Errors
    /// It is no pattern.
    pub(crate) fn new(args: &SubscribeArgs) -> Result<Wanted, Trouble> {
        let pattern = subject_pattern(bytes(&args.pattern)).map_err(|failure| Trouble::misuse(failure.message))?;
        Ok(Wanted { pattern, count: args.count.unwrap_or(u64::MAX) })
    }
}

pub(crate) fn run(global: &Global, client: &Client, wanted: Wanted, out: &mut Output) -> Result<Exit, Trouble> {
    let Wanted { pattern, count } = wanted;
    let subscription = client.subscribe(&pattern)?;
    let mut teller = Teller { global, subscription, out, held: None };
    let revision = teller.subscription.revision();
    teller.aside(json!({"event": "listening", "rev": revision}), "listening; what is published from now on is told")?;
    let mut left = count;
    while left > 0 {
        match teller.next()? {
            Told::Message(message) => {
                left -= 1;
                teller.message(&message)?;
            }
            Told::Gap { after, up_to } => {
                let sentence =
                    format!("messages behind revision {after} and up to {up_to} may be missing; they can't be had any more");
                teller.aside(json!({"event": "gap", "after": after, "up_to": up_to}), &sentence)?;
            }
            Told::OtherHistory { revision } => {
                let sentence = format!(
                    "the table has another history now, or its last changes were undone; what is behind revision {revision} follows"
                );
                teller.aside(json!({"event": "other_history", "rev": revision}), &sentence)?;
            }
        }
        if interrupt::is_raised() {
            teller.settle()?;
        }
    }
    teller.settle()?;
    Ok(Exit::Ok)
}

/// Passes on what a subscription tells.
struct Teller<'a> {
    global: &'a Global,
    subscription: Subscription,
    out: &'a mut Output,
    /// Lines are being written.
    held: Option<Held>,
}

impl Teller<'_> {
    /// What is told next. Where nobody reads stdout any more nothing is waited for: what is written shows that, but there may be nothing to
    /// write for days.
    fn next(&mut self) -> Result<Told, Trouble> {
        // What is at hand goes together; before it is waited, everything is written.
        if let Some(told) = self.subscription.next(Some(Instant::now()))? {
            return Ok(told);
        }
        self.settle()?;
        loop {
            if let Some(told) = self.subscription.next(Some(Instant::now() + LOOK))? {
                return Ok(told);
            }
            if is_unread() {
                return Err(io::Error::from(io::ErrorKind::BrokenPipe).into());
            }
        }
    }

    fn message(&mut self, message: &Message) -> io::Result<()> {
        self.held.get_or_insert_with(|| interrupt::hold(InHand::Lines));
        self.out.item(message)
    }

    /// What is about the subscription and no message: among the lines for programs, beside them for people.
    fn aside(&mut self, said: serde_json::Value, sentence: &str) -> Result<(), Trouble> {
        if self.out.is_json() {
            self.held.get_or_insert_with(|| interrupt::hold(InHand::Lines));
            return Ok(self.out.line(&said.to_string())?);
        }
        self.settle()?;
        remark(self.global, sentence);
        Ok(())
    }

    /// Everything that was told is written.
    fn settle(&mut self) -> io::Result<()> {
        self.out.flush()?;
        self.held = None;
        Ok(())
    }
}

impl Print for Message {
    fn print(&self, json: bool, line: &mut Vec<u8>) {
        let Message { revision, time_ms, subject, value } = self;
        if json {
            line.extend_from_slice(format!("{{\"rev\":{revision},\"time\":{time_ms},\"subject\":").as_bytes());
            key_to_json_text(line, subject);
            line.extend_from_slice(b",\"value\":");
            value.write_json(line);
            line.push(b'}');
        } else {
            line.extend_from_slice(format!("{revision}\t{}\t", rfc3339(*time_ms)).as_bytes());
            key_to_line_text(line, subject);
            line.push(b'\t');
            value.write_json(line);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use kvbroker_protocol::Stored;

    use super::*;

    #[test]
    fn a_message_is_one_line_whatever_is_in_it() {
        let value = Stored::from_json(br#"{"a":"x\ny"}"#).unwrap();
        let message = Message { revision: 7, time_ms: 0, subject: b"a\n.b".to_vec(), value };
        let shown = |json| {
            let mut line = Vec::new();
            message.print(json, &mut line);
            String::from_utf8(line).unwrap()
        };
        assert_eq!(shown(false), "7\t1970-01-01T00:00:00.000Z\t\"a\\n.b\"\t{\"a\":\"x\\ny\"}");
        assert_eq!(shown(true), r#"{"rev":7,"time":0,"subject":"a\n.b","value":{"a":"x\ny"}}"#);
    }
}

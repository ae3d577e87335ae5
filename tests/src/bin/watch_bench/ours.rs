//! This project's side: a writer with many puts outstanding, each durable, and watchers of the library that miss nothing.

use std::collections::VecDeque;
use std::time::Instant;

use kvbroker::catalog::CatalogList;
use kvbroker::client::{Client, ConnectOptions, Pipeline, Ticket, Watch, WatchEvent, WatchFrom};
use kvbroker::paths::Dirs;
use kvbroker_protocol::{ChangeKind, Stored};
use kvbroker_tests::{Broker, BrokerOptions, PATIENCE};

use crate::Failed;
use crate::flight::{Shape, Side, Watcher, Writer};

const PREFIX: &str = "lamp/";

/// A broker of our own, the shipped program.
pub(crate) struct Ours {
    broker: Broker,
    /// Of all watchers. Each has a connection of its own to the publisher; what they share is the one for questions, and libzmq's thread.
    watching: Client,
}

impl Ours {
    pub(crate) fn start(flags: &[String]) -> Result<Ours, Failed> {
        let broker = Broker::try_start(BrokerOptions::default().args(flags)).map_err(|ended| ended.stderr)?;
        let watching = client(&broker)?;
        Ok(Ours { broker, watching })
    }
}

fn client(broker: &Broker) -> Result<Client, Failed> {
    let options = ConnectOptions::new().dirs(Dirs::under(broker.home().path())?).catalogs(CatalogList::none());
    Ok(Client::connect_with("test", options.timeout(PATIENCE))?)
}

impl Side for Ours {
    fn name(&self) -> String {
        format!("kvbroker {}", env!("CARGO_PKG_VERSION"))
    }

    fn pid(&self) -> u32 {
        self.broker.pid()
    }

    fn watcher(&self) -> Result<Box<dyn Watcher>, Failed> {
        let mut watch = self.watching.watch(PREFIX, WatchFrom::Now)?;
        // Its stream, not its polling, is what is to be measured.
        match watch.next(Some(Instant::now() + PATIENCE))? {
            Some(WatchEvent::CaughtUp { .. }) => Ok(Box::new(Follower { watch })),
            Some(other) => Err(format!("a watch begins with {other:?}").into()),
            None => Err("a watch did not begin".into()),
        }
    }

    fn writer(&self, shape: Shape) -> Result<Box<dyn Writer>, Failed> {
        let depth = usize::try_from(shape.window)?;
        Ok(Box::new(Putter { pipeline: client(&self.broker)?.pipeline().depth(depth), tickets: VecDeque::new() }))
    }
}

struct Follower {
    watch: Watch,
}

impl Watcher for Follower {
    fn next(&mut self, until: Instant, each: &mut dyn FnMut(&[u8])) -> Result<(), Failed> {
        match self.watch.next(Some(until))? {
            Some(WatchEvent::Changes(changes)) => {
                for change in &changes {
                    let ChangeKind::Put(value) = change.kind else { return Err(format!("{change:?}").into()) };
                    each(value.as_text().ok_or("a value that is no text")?.as_bytes());
                }
                Ok(())
            }
            Some(WatchEvent::CaughtUp { .. } | WatchEvent::Disconnected { .. }) | None => Ok(()),
            Some(other) => Err(format!("a watch says {other:?}").into()),
        }
    }
}

struct Putter {
    pipeline: Pipeline,
    tickets: VecDeque<Ticket>,
}

impl Putter {
    fn take(&mut self, all: bool) -> Result<(), Failed> {
        while let Some(ticket) = self.tickets.pop_front() {
            if !all && !ticket.is_ready() {
                self.tickets.push_front(ticket);
                break;
            }
            ticket.wait()?;
        }
        Ok(())
    }
}

impl Writer for Putter {
    fn send(&mut self, key: &str, value: &[u8]) -> Result<(), Failed> {
        let value = Stored::text(std::str::from_utf8(value)?).map_err(|failure| failure.to_string())?;
        self.tickets.push_back(self.pipeline.put(key, value));
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Failed> {
        self.take(false)
    }

    fn finish(&mut self) -> Result<(), Failed> {
        self.take(true)
    }
}

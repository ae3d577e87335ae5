//! What the broker does while it is measured, as its `stats` tell: checkpoints and restarts.
//!
//! - A thread of the run's own process asks again and again. That is a few requests in a second, and part of every measurement.
//! - How long a checkpoint took is the broker's own figure; when it ended is known to one pause between two questions.
//! - Where the broker does not answer nothing is noted: the clients notice, too.

use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kvbroker::client::Client;
use kvbroker_protocol::{Answer, Operation, Operations, StatValue};

use crate::orders::now_ns;
use crate::result::Checkpoint;
use crate::trouble::Trouble;

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// What was seen so far. Times are of the monotonic clock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Those that have ended: beginning and end.
    checkpoints: Vec<(u64, u64)>,
    /// Since when one has been under way.
    under_way_since_ns: Option<u64>,
    pub(crate) restarts: u64,
    instance: Option<String>,
    made: u64,
}

impl Seen {
    /// Takes in an answer that came at this time.
    fn look(&mut self, now_ns: u64, stats: &[(String, StatValue)]) {
        let number = |wanted: &str| {
            stats.iter().find_map(|(name, value)| match value {
                StatValue::Number(number) if name == wanted => Some(*number),
                _ => None,
            })
        };
        let text = |wanted: &str| {
            stats.iter().find_map(|(name, value)| match value {
                StatValue::Text(text) if name == wanted => Some(text.as_str()),
                _ => None,
            })
        };
        let made = number("checkpoints").unwrap_or(0);
        if let Some(instance) = text("instance")
            && self.instance.as_deref() != Some(instance)
        {
            self.restarts += u64::from(self.instance.is_some());
            self.instance = Some(instance.to_owned());
            (self.made, self.under_way_since_ns) = (made, None);
        }
        if made > self.made {
            // Of several since the last look only the last one's length is known.
            let took_ns = number("checkpoint_ms").unwrap_or(0).saturating_mul(1_000_000);
            let begin_ns = self.under_way_since_ns.take().unwrap_or(now_ns).min(now_ns.saturating_sub(took_ns));
            self.checkpoints.push((begin_ns, now_ns));
        }
        self.made = made;
        let is_under_way = matches!(text("checkpoint_state"), Some("merging" | "from memory"));
        self.under_way_since_ns = is_under_way.then(|| self.under_way_since_ns.unwrap_or(now_ns));
    }

    /// Checkpoints in a part of the time, by a clock that is 0 at its beginning.
    pub(crate) fn checkpoints(&self, begin_ns: u64, end_ns: u64) -> Vec<Checkpoint> {
        let at_ms = |ns: u64| (ns as f64 - begin_ns as f64) / 1e6;
        let ended = self.checkpoints.iter().filter(|(begin, end)| *begin < end_ns && *end > begin_ns);
        let ended = ended.map(|(begin, end)| Checkpoint { begin_ms: at_ms(*begin), end_ms: Some(at_ms(*end)) });
        let under_way = self.under_way_since_ns.filter(|since| *since < end_ns);
        ended.chain(under_way.map(|since| Checkpoint { begin_ms: at_ms(since), end_ms: None })).collect()
    }
}

/// Looks on until it is dropped.
pub(crate) struct Observer {
    seen: Arc<Mutex<Seen>>,
    /// Dropped: the thread ends.
    _stop: SyncSender<()>,
}

impl Observer {
    /// Asks with this pause between two questions.
    ///
    /// # Errors
    /// No thread.
    pub(crate) fn start(client: &Client, pause: Duration) -> Result<Observer, Trouble> {
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let (stop, stopped) = sync_channel(1);
        let (client, noted) = (client.clone(), Arc::clone(&seen));
        let look = move || {
            loop {
                let reply = client.call_within(Operations::One(Operation::Stats), Some(PATIENCE));
                if let Ok(reply) = reply
                    && let Some(Ok(Answer::Stats(stats))) = reply.outcomes.as_slice().first().map(|outcome| &outcome.result)
                {
                    noted.lock().unwrap_or_else(PoisonError::into_inner).look(now_ns(), stats);
                }
                if stopped.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("observer".into()).spawn(look);
        // It is not waited for: it may be waiting for an answer.
        thread.map(|_| Observer { seen, _stop: stop }).map_err(|error| Trouble::system("no thread to look on", error))
    }

    /// What was seen so far.
    pub(crate) fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn stats(instance: &str, made: u64, ms: u64, state: &str) -> Vec<(String, StatValue)> {
        vec![
            ("instance".into(), StatValue::Text(instance.into())),
            ("checkpoints".into(), StatValue::Number(made)),
            ("checkpoint_ms".into(), StatValue::Number(ms)),
            ("checkpoint_state".into(), StatValue::Text(state.into())),
        ]
    }

    #[test]
    fn checkpoints_are_seen_with_their_length() {
        let mut seen = Seen::default();
        seen.look(10 * MS, &stats("a", 3, 50, "idle"));
        assert_eq!(seen.checkpoints(0, 1_000 * MS), [], "those made before are none of ours");
        seen.look(20 * MS, &stats("a", 3, 50, "merging"));
        assert_eq!(seen.checkpoints(15 * MS, 1_000 * MS), [Checkpoint { begin_ms: 5.0, end_ms: None }]);
        seen.look(60 * MS, &stats("a", 4, 45, "idle"));
        seen.look(200 * MS, &stats("a", 5, 7, "idle"));
        let both = [Checkpoint { begin_ms: 0.0, end_ms: Some(45.0) }, Checkpoint { begin_ms: 178.0, end_ms: Some(185.0) }];
        assert_eq!(seen.checkpoints(15 * MS, 1_000 * MS), both);
        assert_eq!(seen.checkpoints(70 * MS, 150 * MS), []);
        assert_eq!(seen.restarts, 0);
    }

    #[test]
    fn restarts_are_counted_and_end_what_was_under_way() {
        let mut seen = Seen::default();
        seen.look(10 * MS, &stats("a", 3, 50, "merging"));
        seen.look(20 * MS, &stats("b", 0, 0, "idle"));
        seen.look(30 * MS, &stats("b", 1, 5, "idle"));
        assert_eq!((seen.restarts, seen.checkpoints(0, 100 * MS).len()), (1, 1));
    }
}

//! The thread that writes lines, and the bounded queue in front of it.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant, SystemTime};

use super::format::{Line, MAX_LINE_BYTES};
use super::{LogFormat, Sink};

/// Lines that may wait for stderr: 8 MiB when all of them are as long as they may be.
const QUEUE_LINES: usize = 1_024;
const _: () = assert!(QUEUE_LINES * MAX_LINE_BYTES <= 8 << 20);

/// How often a flush looks whether its request fits into a full queue.
const RETRY_MS: u64 = 5;

enum Item {
    Line(String),
    Flush(SyncSender<()>),
}

/// Puts lines into the queue. Clones share it.
#[derive(Clone)]
pub(super) struct LineWriter {
    queue: SyncSender<Item>,
    dropped: Arc<AtomicU64>,
}

impl std::fmt::Debug for LineWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LineWriter")
    }
}

impl LineWriter {
    /// Starts the thread. Without a thread every line is dropped, and counted:
    /// a program that can't log still works.
    pub(super) fn start(format: LogFormat, sink: impl Sink) -> Self {
        let (queue, lines) = sync_channel(QUEUE_LINES);
        let dropped = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&dropped);
        let thread = std::thread::Builder::new().name("log".into());
        // The thread ends with the process, or when the last sender is gone.
        let _ = thread.spawn(move || write_lines(format, &lines, &counter, sink));
        Self { queue, dropped }
    }

    /// Hands over a line (with its line feed), or drops and counts it.
    pub(super) fn write(&self, line: String) {
        if self.queue.try_send(Item::Line(line)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until all lines handed over before are written, or `limit` has passed.
    pub(super) fn flush(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let (done, wait) = sync_channel(1);
        let mut request = Item::Flush(done);
        loop {
            match self.queue.try_send(request) {
                Ok(()) => break,
                Err(TrySendError::Disconnected(_)) => return,
                Err(TrySendError::Full(_)) if Instant::now() >= deadline => return,
                Err(TrySendError::Full(returned)) => request = returned,
            }
            std::thread::sleep(Duration::from_millis(RETRY_MS));
        }
        // Either way there is nothing left to do.
        let _ = wait.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

fn write_lines(format: LogFormat, lines: &Receiver<Item>, dropped: &AtomicU64, mut sink: impl Write) {
    for message in lines {
        // A closed stderr is no reason to stop: the program's work is elsewhere.
        let _ = match message {
            Item::Line(line) => sink.write_all(line.as_bytes()),
            Item::Flush(done) => {
                let flushed = report_dropped(format, dropped, &mut sink).and_then(|()| sink.flush());
                // The one who asked may have given up.
                let _ = done.try_send(());
                flushed
            }
        };
        let _ = report_dropped(format, dropped, &mut sink);
    }
}

fn report_dropped(format: LogFormat, dropped: &AtomicU64, sink: &mut impl Write) -> std::io::Result<()> {
    let count = dropped.swap(0, Ordering::Relaxed);
    if count == 0 {
        return Ok(());
    }
    let mut line = Line::new(format, SystemTime::now(), tracing::Level::WARN, "logging");
    line.sentence("log lines were dropped because stderr did not take them");
    line.number("dropped", count);
    sink.write_all(line.finish().as_bytes())
}

//! Telling the user that something takes long, while it still does.
//!
//! - Nothing is said in the first [`SILENT_FOR`]: what is quick needs no words.
//! - After that, what is being done is said once, and again whenever it changes.
//! - The words go to whoever gave a [`Notices`]; a library prints nothing by itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long nothing is said; less than the second after which people wonder.
const SILENT_FOR: Duration = Duration::from_millis(700);

/// Where sentences about slow work go; called on the thread that works.
pub type Notices = Arc<dyn Fn(&str) + Send + Sync>;

/// What one piece of work is doing, and whether that was said.
pub(crate) struct Progress<'a> {
    say: Option<&'a Notices>,
    speak_at: Instant,
    doing: String,
    said: bool,
}

impl<'a> Progress<'a> {
    pub(crate) fn new(say: Option<&'a Notices>, now: Instant) -> Self {
        Self { say, speak_at: now + SILENT_FOR, doing: String::new(), said: true }
    }

    /// Says what is done from now on; `doing` is a sentence without its end.
    pub(crate) fn doing(&mut self, now: Instant, doing: impl Into<String>) {
        let doing = doing.into();
        if self.doing != doing {
            self.doing = doing;
            self.said = false;
            self.tick(now);
        }
    }

    /// Speaks if the time has come. Call it whenever a wait of [`Progress::wake_at`] ends.
    pub(crate) fn tick(&mut self, now: Instant) {
        if !self.said && now >= self.speak_at {
            self.said = true;
            if let Some(say) = self.say {
                say(&self.doing);
            }
        }
    }

    /// How long a wait until `until` may last before there is something to say.
    pub(crate) fn wake_at(&self, until: Option<Instant>) -> Option<Instant> {
        if self.said || self.say.is_none() {
            return until;
        }
        Some(until.map_or(self.speak_at, |until| until.min(self.speak_at)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn quick_work_is_silent_and_slow_work_is_said_once() {
        let said = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&said);
        let say: Notices = Arc::new(move |text: &str| into.lock().unwrap().push(text.to_owned()));
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut progress = Progress::new(Some(&say), start);
        assert_eq!(progress.wake_at(None), None);
        progress.doing(at(1), "asking a");
        progress.tick(at(500));
        assert!(said.lock().unwrap().is_empty());
        assert_eq!(progress.wake_at(None), Some(at(700)));
        assert_eq!(progress.wake_at(Some(at(100))), Some(at(100)));
        progress.tick(at(700));
        progress.tick(at(900));
        progress.doing(at(900), "asking a");
        progress.doing(at(1_000), "asking b");
        assert_eq!(*said.lock().unwrap(), ["asking a", "asking b"]);
        assert_eq!(progress.wake_at(None), None);
    }
}

//! When to tell one catalog what, as a pure machine: the time and what came of the
//! last step go in, the next step comes out.
//!
//! - A *round* sends the record; rounds start every [`REFRESH_MS`], and at once
//!   after a change. One step is under way at a time.
//! - The first round, one in [`ROUNDS_PER_CHECK`] after it, and any whose sending
//!   failed, is *checked*: the broker looks itself up until the catalog lists it,
//!   for at most [`CHECK_MS`]. Checking every round would have each broker fetch
//!   the whole catalog once a minute for nothing.
//! - A catalog that answers and doesn't list us within [`CHECK_MS`] of a UDP update
//!   gets a TCP update, and only TCP updates from then on: sites block UDP without
//!   a word. One that doesn't answer at all gets one TCP update too, but proves nothing.
//! - A catalog that doesn't answer is asked again with growing pauses up to
//!   [`PROBE_MS_MAX`]; its first answer starts a round, so a catalog that was
//!   down lists us seconds after it is back and not a minute.
//! - An old listing proves nothing about a new update: the catalog's
//!   `lastheardfrom` must have moved since the last check (by the catalog's own
//!   clock, so clocks needn't agree).
//!
//! All times are milliseconds on one clock that never goes back.

/// Pause between two rounds.
pub const REFRESH_MS: u64 = 60_000;
/// How long a catalog has to list us before another way is tried.
pub const CHECK_MS: u64 = 10_000;
/// One round in so many is checked once a catalog lists us.
pub const ROUNDS_PER_CHECK: u32 = 5;
/// Longest pause between two questions to a catalog that doesn't answer.
pub const PROBE_MS_MAX: u64 = 15_000;
/// When a check first looks; a UDP update on one host takes well under a millisecond.
const LOOK_FIRST_MS: u64 = 20;
/// Longest pause between two looks of one check.
const LOOK_PAUSE_MS_MAX: u64 = 4_000;
/// First pause between two questions to a catalog that doesn't answer.
const PROBE_MS_FIRST: u64 = 1_000;
/// A check can only ask `lastheardfrom` to move when the updates are at least this
/// far apart: it counts whole seconds.
const HEARD_RESOLUTION_MS: u64 = 2_000;

/// How an update travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// One datagram to the catalog's port.
    Udp,
    /// One connection to the port after it.
    Tcp,
}

/// What to do next for this catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Send the record, then report [`Came::Sent`].
    Send(Via),
    /// Look the record up, then report what was found.
    Look,
}

/// What came of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Came {
    /// The update was handed to the network.
    Sent,
    /// It was not, and why; for UDP also when the host said that nobody listens.
    NotSent(String),
    /// The record doesn't fit a datagram; only TCP can carry it.
    TooBigForUdp,
    /// This catalog must not be told, and why; final.
    Forbidden(String),
    /// The catalog lists exactly this record, last heard at its `lastheardfrom`.
    Listed(u64),
    /// The catalog answered without this record.
    NotListed,
    /// The catalog gave no usable answer, and why.
    NoAnswer(String),
}

/// What is known about one catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Not known yet: the first check is under way.
    Trying,
    /// It listed us at the last check.
    Listed {
        /// How the update that it lists came.
        via: Via,
        /// When it last heard us, in seconds since 1970 by its clock.
        lastheardfrom: u64,
    },
    /// It answers, and doesn't list us although it was told by every way.
    Unlisted(String),
    /// It doesn't answer, and what happens instead.
    Silent(String),
    /// It is not told, and why.
    Skipped(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Waiting for the next round (or, while silent, for the next probe).
    Idle,
    /// This update is to be sent.
    Sending(Via),
    /// This update was sent; waiting to see it listed.
    Checking { via: Via, sent_ms: u64, look_ms: u64, pause_ms: u64, answered: bool },
}

/// The machine for one catalog.
#[derive(Debug)]
pub struct Schedule {
    phase: Phase,
    standing: Standing,
    /// What rounds use first; TCP once UDP has proved useless here.
    via: Via,
    round_ms: u64,
    under_way: bool,
    changed_under_way: bool,
    rounds_unchecked: u32,
    probe_ms: u64,
    probe_pause_ms: u64,
    /// When the last update was sent, and the `lastheardfrom` seen after it.
    last_sent_ms: Option<u64>,
    last_heard: Option<u64>,
    /// What `lastheardfrom` must exceed for the check under way to count.
    must_exceed: Option<u64>,
    send_error: Option<String>,
    look_error: Option<String>,
}

impl Schedule {
    /// A machine whose first round is due at once.
    pub fn new(now_ms: u64) -> Self {
        Schedule {
            phase: Phase::Idle,
            standing: Standing::Trying,
            via: Via::Udp,
            round_ms: now_ms,
            under_way: false,
            changed_under_way: false,
            rounds_unchecked: 0,
            probe_ms: 0,
            probe_pause_ms: PROBE_MS_FIRST,
            last_sent_ms: None,
            last_heard: None,
            must_exceed: None,
            send_error: None,
            look_error: None,
        }
    }

    /// What is known about the catalog.
    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    /// How the next round will send.
    pub fn via(&self) -> Via {
        self.via
    }

    /// True between a step and the report of what came of it.
    pub fn is_under_way(&self) -> bool {
        self.under_way
    }

    /// The next step, if one is due at `now_ms`. After a step nothing comes until
    /// [`Schedule::came`] has told what came of it.
    pub fn poll(&mut self, now_ms: u64) -> Option<Step> {
        if self.under_way || matches!(self.standing, Standing::Skipped(_)) {
            return None;
        }
        let step = match self.phase {
            Phase::Idle if now_ms >= self.round_ms => {
                self.start_round(now_ms);
                Step::Send(self.via)
            }
            Phase::Idle if self.is_silent() && now_ms >= self.probe_ms => Step::Look,
            Phase::Sending(via) => Step::Send(via),
            Phase::Checking { look_ms, .. } if now_ms >= look_ms => Step::Look,
            Phase::Idle | Phase::Checking { .. } => return None,
        };
        self.under_way = true;
        Some(step)
    }

    /// When [`Schedule::poll`] is worth calling again; `None` while a step is under
    /// way or when nothing will ever be due.
    pub fn due_ms(&self) -> Option<u64> {
        if self.under_way || matches!(self.standing, Standing::Skipped(_)) {
            return None;
        }
        Some(match self.phase {
            Phase::Idle if self.is_silent() => self.round_ms.min(self.probe_ms),
            Phase::Idle => self.round_ms,
            Phase::Sending(_) => 0,
            Phase::Checking { look_ms, .. } => look_ms,
        })
    }

    /// The record has changed: a checked round starts as soon as possible.
    pub fn changed(&mut self, now_ms: u64) {
        self.changed_under_way = self.under_way;
        self.phase = Phase::Idle;
        self.round_ms = now_ms;
        self.rounds_unchecked = ROUNDS_PER_CHECK;
        self.last_heard = None;
    }

    /// Tells what came of the last step.
    pub fn came(&mut self, now_ms: u64, came: Came) {
        self.under_way = false;
        if std::mem::take(&mut self.changed_under_way) && !matches!(came, Came::Forbidden(_)) {
            // The step was about the record as it was; its outcome says nothing.
            return;
        }
        match (came, self.phase) {
            (Came::Forbidden(why), _) => self.standing = Standing::Skipped(why),
            (Came::TooBigForUdp, _) => {
                self.via = Via::Tcp;
                self.phase = Phase::Sending(Via::Tcp);
            }
            (Came::Sent, Phase::Sending(via)) => self.sent(now_ms, via, None),
            (Came::NotSent(why), Phase::Sending(via)) => self.sent(now_ms, via, Some(why)),
            (Came::Listed(heard), Phase::Checking { via, .. }) if self.is_fresh(heard) => {
                self.listed(via, heard);
            }
            (Came::Listed(_) | Came::NotListed, Phase::Checking { .. }) => self.look_again(now_ms, None),
            (Came::NoAnswer(why), Phase::Checking { .. }) => self.look_again(now_ms, Some(why)),
            // Probes of a silent catalog: any answer starts a round.
            (Came::Listed(_) | Came::NotListed, Phase::Idle) => {
                self.round_ms = now_ms;
                self.rounds_unchecked = ROUNDS_PER_CHECK;
            }
            (Came::NoAnswer(why), Phase::Idle) => {
                self.look_error = Some(why);
                self.fall_silent(now_ms);
            }
            // A caller that reports something that was not asked for changes nothing.
            _ => {}
        }
    }

    fn is_silent(&self) -> bool {
        matches!(self.standing, Standing::Silent(_))
    }

    fn is_fresh(&self, heard: u64) -> bool {
        self.must_exceed.is_none_or(|before| heard > before)
    }

    fn start_round(&mut self, now_ms: u64) {
        self.round_ms = now_ms + REFRESH_MS;
        self.rounds_unchecked += 1;
        self.send_error = None;
        self.look_error = None;
        let apart = self.last_sent_ms.is_some_and(|last| now_ms >= last + HEARD_RESOLUTION_MS);
        self.must_exceed = self.last_heard.filter(|_| apart);
        self.phase = Phase::Sending(self.via);
    }

    fn sent(&mut self, now_ms: u64, via: Via, error: Option<String>) {
        self.last_sent_ms = Some(now_ms);
        let failed = error.is_some();
        self.send_error = error;
        if failed && via == Via::Udp {
            // The host itself said that nobody listens: no need to wait for it.
            self.phase = Phase::Sending(Via::Tcp);
            return;
        }
        let check = match self.standing {
            Standing::Listed { .. } | Standing::Unlisted(_) | Standing::Silent(_) => {
                failed || self.rounds_unchecked >= ROUNDS_PER_CHECK || via != self.via
            }
            Standing::Trying => true,
            Standing::Skipped(_) => false,
        };
        self.phase = if check {
            Phase::Checking {
                via,
                sent_ms: now_ms,
                look_ms: now_ms + LOOK_FIRST_MS,
                pause_ms: 2 * LOOK_FIRST_MS,
                answered: false,
            }
        } else {
            Phase::Idle
        };
    }

    fn listed(&mut self, via: Via, heard: u64) {
        self.via = via;
        self.last_heard = Some(heard);
        self.standing = Standing::Listed { via, lastheardfrom: heard };
        self.rounds_unchecked = 0;
        self.probe_pause_ms = PROBE_MS_FIRST;
        self.phase = Phase::Idle;
    }

    /// A look of a check found nothing: look again, or at the end try the other way.
    fn look_again(&mut self, now_ms: u64, no_answer: Option<String>) {
        let Phase::Checking { via, sent_ms, pause_ms, answered, .. } = self.phase else {
            return;
        };
        let answered = answered || no_answer.is_none();
        if no_answer.is_some() {
            self.look_error = no_answer;
        }
        let end_ms = sent_ms + CHECK_MS;
        if let (Some(error), true) = (&self.send_error, answered) {
            // Nothing was sent, so there is nothing to wait for. It may have come back
            // between the two steps: tell it again soon.
            self.standing = Standing::Unlisted(format!("it answers, but could not be told: {error}"));
            self.phase = Phase::Idle;
            self.round_ms = now_ms + self.probe_pause_ms;
            self.probe_pause_ms = (self.probe_pause_ms * 2).min(REFRESH_MS);
            self.rounds_unchecked = ROUNDS_PER_CHECK;
            return;
        }
        // Neither the network nor the catalog knows of anybody there: waiting is idle.
        let hopeless = self.send_error.is_some();
        if now_ms < end_ms && !hopeless {
            self.phase = Phase::Checking {
                via,
                sent_ms,
                look_ms: (now_ms + pause_ms).min(end_ms),
                pause_ms: (pause_ms * 2).min(LOOK_PAUSE_MS_MAX),
                answered,
            };
        } else if via == Via::Udp {
            if answered {
                self.via = Via::Tcp;
            }
            self.phase = Phase::Sending(Via::Tcp);
        } else if answered {
            let why = "it was told and answers, but doesn't list this broker: \
                       another sender may be using the same record, or its list is full";
            self.standing = Standing::Unlisted(why.to_owned());
            self.rounds_unchecked = 0;
            self.phase = Phase::Idle;
        } else {
            self.probe_pause_ms = PROBE_MS_FIRST;
            self.fall_silent(now_ms);
        }
    }

    fn fall_silent(&mut self, now_ms: u64) {
        let why = self.look_error.clone().or_else(|| self.send_error.clone());
        self.standing = Standing::Silent(why.unwrap_or_else(|| "it did not answer".to_owned()));
        self.phase = Phase::Idle;
        self.rounds_unchecked = 0;
        self.probe_ms = now_ms + self.probe_pause_ms;
        self.probe_pause_ms = (self.probe_pause_ms * 2).min(PROBE_MS_MAX);
    }
}

#[cfg(test)]
#[path = "schedule_tests.rs"]
mod tests;

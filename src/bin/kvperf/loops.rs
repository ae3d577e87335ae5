//! The loops that measure: one request at a time, many at once, or on schedule.
//!
//! - **Closed**: the next request is made when a reply was read. With a pipeline so many operations are outstanding, and the
//!   library puts them into as few messages as makes sense.
//! - **Open**: operations are sent when they are due, whatever replies do; in between, one thread waits for both, the next operation's time
//!   and replies. A latency counts from when the operation was due. Clients take turns: their operations are spread evenly over time.
//! - What is timed is the library's call. Making operations and checking answers lies outside of latencies and inside of rates.
//! - Replies are read in the order of their requests: one that came before its turn counts as read when its turn comes.
//! - A loop ends with nothing outstanding, also where it fails or is stopped: nothing is written after it.

use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::time::Duration;

use kvbroker::client::{Client, ClientError, Pipeline, Ticket};
use kvbroker::exit::Exit;
use kvbroker_protocol::{ErrorCode, Operation, Operations, Outcome};

use crate::client::is_stopped;
use crate::measure::{Kept, Latencies, Measured};
use crate::orders::now_ns;
use crate::recorder::{Ended, Recorder};
use crate::stages::{Ask, Stage, Workload};
use crate::trouble::Trouble;

/// An operation that is sent later than this after it was due is late.
const LATE_NS: u64 = 1_000_000;
/// How long an open loop waits at most before it looks whether it shall end.
const LOOK: Duration = Duration::from_millis(50);

/// What a stage is to be for one client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Course {
    pub(crate) stage: Stage,
    /// When it begins for all, by the monotonic clock.
    pub(crate) at_ns: u64,
    /// Nothing is begun from then on.
    pub(crate) until_ns: u64,
    /// So many operations, at most.
    pub(crate) operations: u64,
    /// Operations of one request.
    pub(crate) batch: usize,
    /// Where nothing answers, go on and remember it.
    pub(crate) tolerant: bool,
}

/// An open loop's schedule.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    /// Of all clients together.
    pub(crate) ops_per_s: f64,
    pub(crate) clients: usize,
    /// Which of them this is.
    pub(crate) client: usize,
}

impl Schedule {
    /// When an operation of this client is due.
    fn due_ns(&self, at_ns: u64, index: u64) -> u64 {
        let turn = index as f64 * self.clients as f64 + self.client as f64;
        at_ns.saturating_add((turn * 1e9 / self.ops_per_s) as u64)
    }

    /// How many are due before the end.
    fn due(&self, course: &Course) -> u64 {
        let seconds = course.until_ns.saturating_sub(course.at_ns) as f64 / 1e9;
        let turns = ((seconds * self.ops_per_s - self.client as f64) / self.clients as f64).ceil().max(0.0);
        course.operations.min(turns as u64)
    }
}

/// One request at a time. False: it was stopped.
///
/// # Errors
/// A wrong answer, or none.
pub(crate) fn closed(
    client: &Client,
    workload: &mut Workload,
    course: &Course,
    recorder: &mut Recorder,
) -> Result<bool, Trouble> {
    let mut asks = Vec::with_capacity(course.batch);
    let (mut left, mut now) = (course.operations, now_ns());
    while left > 0 && now < course.until_ns {
        if is_stopped() {
            return Ok(false);
        }
        asks.clear();
        workload.ask(course.stage, course.batch.min(usize::try_from(left).unwrap_or(usize::MAX)), &mut asks);
        let Some(first) = asks.first().copied() else { break };
        left -= asks.len() as u64;
        let mut done = request(client, workload, &asks, course.tolerant)?;
        if let Some(before) = done
            && let Some(next) = workload.follow_up(first)
        {
            done = request(client, workload, &[next], course.tolerant)?.map(|done| Done { since_ns: before.since_ns, ..done });
        }
        let Some(Done { since_ns, now_ns: read_ns, rows }) = done else {
            now = now_ns();
            continue;
        };
        now = read_ns;
        if course.stage == Stage::Mixed {
            // Each has its kind, and the rows are those of the only one.
            for ask in &asks {
                recorder.record(Ended { act: Some(ask.act()), since_ns, now_ns: now, operations: 1, rows });
            }
        } else {
            recorder.record(Ended { act: None, since_ns, now_ns: now, operations: asks.len() as u64, rows });
        }
    }
    Ok(true)
}

/// A request whose answers were right.
#[derive(Clone, Copy)]
pub(crate) struct Done {
    since_ns: u64,
    now_ns: u64,
    rows: u64,
}

/// One request, and a look at every answer. None: there is no answer, which is tolerated and remembered.
///
/// # Errors
/// A wrong answer, or none.
pub(crate) fn request(client: &Client, workload: &mut Workload, asks: &[Ask], tolerant: bool) -> Result<Option<Done>, Trouble> {
    let operations = match asks {
        [only] => Operations::One(workload.operation(*only)?),
        _ => Operations::Many(asks.iter().map(|ask| workload.operation(*ask)).collect::<Result<Vec<Operation>, _>>()?),
    };
    let since_ns = now_ns();
    let reply = client.call(operations);
    let now_ns = now_ns();
    let reply = match reply {
        Ok(reply) => reply,
        Err(error) => {
            tolerate(error, tolerant)?;
            asks.iter().for_each(|ask| workload.unanswered(*ask));
            return Ok(None);
        }
    };
    let outcomes = reply.outcomes.as_slice();
    if outcomes.len() != asks.len() {
        let sentence = format!("wrong answer: {} outcomes to {} operations", outcomes.len(), asks.len());
        return Err(Trouble::new(Exit::NotFound, sentence));
    }
    let (mut rows, mut is_whole) = (0, true);
    for (ask, outcome) in asks.iter().zip(outcomes) {
        // What the library says of those that were not done, where others of the same call were.
        if tolerant && matches!(&outcome.result, Err(failure) if failure.code == ErrorCode::Busy) {
            workload.unanswered(*ask);
            is_whole = false;
        } else {
            rows += workload.check(*ask, outcome)?;
        }
    }
    Ok(is_whole.then_some(Done { since_ns, now_ns, rows }))
}

/// An error that leaves it open, or certain, that something was not done is no trouble where everything is looked at afterwards.
fn tolerate(error: ClientError, tolerant: bool) -> Result<(), Trouble> {
    match error {
        ClientError::Unknown { .. } | ClientError::TimedOut { .. } if tolerant => Ok(()),
        error => Err(error.into()),
    }
}

/// An operation that was sent; its ticket flies beside it.
#[derive(Clone, Copy)]
struct Flight {
    ask: Ask,
    /// What it is the last part of.
    whole: Ask,
    /// From when its latency counts.
    since_ns: u64,
    sent_ns: u64,
}

impl Flight {
    fn ended(&self, course: &Course, now_ns: u64, rows: u64) -> Ended {
        let act = (course.stage == Stage::Mixed).then(|| self.whole.act());
        Ended { act, since_ns: self.since_ns, now_ns, operations: 1, rows }
    }
}

/// What came of one.
enum Landed {
    Done {
        rows: u64,
    },
    /// It needs another one to be finished.
    Next(Ask),
    Unanswered,
}

fn land(workload: &mut Workload, ask: Ask, outcome: Result<Outcome, ClientError>, tolerant: bool) -> Result<Landed, Trouble> {
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(error) => {
            tolerate(error, tolerant)?;
            workload.unanswered(ask);
            return Ok(Landed::Unanswered);
        }
    };
    let rows = workload.check(ask, &outcome)?;
    Ok(workload.follow_up(ask).map_or(Landed::Done { rows }, Landed::Next))
}

/// So many operations outstanding. False: it was stopped.
///
/// # Errors
/// A wrong answer, or none.
pub(crate) fn pipelined(
    client: &Client,
    workload: &mut Workload,
    course: &Course,
    depth: usize,
    recorder: &mut Recorder,
) -> Result<bool, Trouble> {
    let mut pipeline = client.pipeline().depth(depth);
    let result = fly(&mut pipeline, workload, course, depth, recorder);
    pipeline.wait_all();
    result
}

fn fly(
    pipeline: &mut Pipeline,
    workload: &mut Workload,
    course: &Course,
    depth: usize,
    recorder: &mut Recorder,
) -> Result<bool, Trouble> {
    let mut flights: VecDeque<(Flight, Ticket)> = VecDeque::with_capacity(depth);
    let (mut left, mut now) = (course.operations, now_ns());
    loop {
        if is_stopped() {
            return Ok(false);
        }
        while left > 0 && flights.len() < depth && now < course.until_ns {
            let Some(ask) = workload.next(course.stage) else {
                left = 0;
                break;
            };
            let operation = workload.operation(ask)?;
            now = now_ns();
            flights.push_back((Flight { ask, whole: ask, since_ns: now, sent_ns: now }, pipeline.submit(operation)));
            left -= 1;
        }
        let Some((flight, ticket)) = flights.pop_front() else { return Ok(true) };
        let outcome = ticket.outcome();
        now = now_ns();
        match land(workload, flight.ask, outcome, course.tolerant)? {
            Landed::Done { rows } => recorder.record(flight.ended(course, now, rows)),
            Landed::Next(ask) => flights.push_back((Flight { ask, ..flight }, pipeline.submit(workload.operation(ask)?))),
            Landed::Unanswered => {}
        }
    }
}

/// What became of a schedule.
struct Flown {
    due: u64,
    sent: u64,
    late: u64,
    is_stopped: bool,
    /// From when operations were sent.
    from_sent: Latencies,
}

/// On schedule, whatever replies do. None: it was stopped.
///
/// # Errors
/// A wrong answer, or none.
pub(crate) fn open(
    client: &Client,
    workload: &mut Workload,
    course: &Course,
    schedule: &Schedule,
    recorder: &mut Recorder,
) -> Result<Option<Kept>, Trouble> {
    // As exact as the system can; without it, operations are up to 50 us late, and their latencies say so.
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
    let mut pipeline = client.pipeline();
    let flown = keep_schedule(&mut pipeline, workload, course, schedule, recorder);
    pipeline.wait_all();
    let Flown { due, sent, late, is_stopped, from_sent } = flown?;
    let unsent = due.saturating_sub(sent);
    Ok((!is_stopped).then_some(Kept { due, late: late + unsent, unsent, from_sent }))
}

/// Sends what is due, and reads what has come until the next operation is.
fn keep_schedule(
    pipeline: &mut Pipeline,
    workload: &mut Workload,
    course: &Course,
    schedule: &Schedule,
    recorder: &mut Recorder,
) -> Result<Flown, Trouble> {
    let due = schedule.due(course);
    let mut flown = Flown { due, sent: 0, late: 0, is_stopped: false, from_sent: Latencies::new() };
    let mut flights: VecDeque<(Flight, Ticket)> = VecDeque::new();
    let mut is_over = false;
    loop {
        flown.is_stopped |= is_stopped();
        is_over |= flown.is_stopped || flown.sent >= flown.due;
        let mut left = LOOK;
        if !is_over {
            let (due_ns, now) = (schedule.due_ns(course.at_ns, flown.sent), now_ns());
            if now >= course.until_ns {
                is_over = true;
            } else if now < due_ns {
                left = LOOK.min(Duration::from_nanos(due_ns - now));
            } else if let Some(ask) = workload.next(course.stage) {
                let operation = workload.operation(ask)?;
                let sent_ns = now_ns();
                flights.push_back((Flight { ask, whole: ask, since_ns: due_ns, sent_ns }, pipeline.submit(operation)));
                flown.sent += 1;
                flown.late += u64::from(sent_ns.saturating_sub(due_ns) > LATE_NS);
                // The next one may be due as well, but what has come meanwhile is read first.
                left = Duration::ZERO;
            } else {
                // Nothing is left to do it with: no more is due.
                flown.due = flown.sent;
                is_over = true;
            }
        }
        let is_ready = match flights.front() {
            Some((_, ticket)) if left.is_zero() => ticket.is_ready(),
            Some((_, ticket)) => ticket.is_ready_within(left),
            None if is_over => return Ok(flown),
            None => {
                std::thread::sleep(left);
                false
            }
        };
        if !is_ready {
            continue;
        }
        let Some((flight, ticket)) = flights.pop_front() else { continue };
        let outcome = ticket.outcome();
        let now = now_ns();
        match land(workload, flight.ask, outcome, course.tolerant)? {
            Landed::Done { rows } => {
                flown.from_sent.record(now.saturating_sub(flight.sent_ns), 1);
                recorder.record(flight.ended(course, now, rows));
            }
            Landed::Next(ask) => flights.push_back((Flight { ask, ..flight }, pipeline.submit(workload.operation(ask)?))),
            Landed::Unanswered => {}
        }
    }
}

/// Runs a stage's course from its moment on. None: it was stopped.
///
/// # Errors
/// A wrong answer, or none.
pub(crate) fn run(
    client: &Client,
    workload: &mut Workload,
    course: &Course,
    pace: Pace,
    mut recorder: Recorder,
    cpu_ns: impl Fn() -> u64,
) -> Result<Option<Measured>, Trouble> {
    workload.begin();
    let mut kept = None;
    let is_whole = match pace {
        Pace::Requests => closed(client, workload, course, &mut recorder)?,
        Pace::Pipeline(depth) => pipelined(client, workload, course, depth, &mut recorder)?,
        Pace::Open(schedule) => {
            kept = open(client, workload, course, &schedule, &mut recorder)?;
            kept.is_some()
        }
    };
    Ok(is_whole.then(|| Measured { kept, ..recorder.finish(cpu_ns()) }))
}

/// What decides when the next operation is sent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pace {
    /// The reply to the only request that is outstanding.
    Requests,
    /// A reply to one of so many.
    Pipeline(usize),
    /// The clock.
    Open(Schedule),
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn course(until_ns: u64, operations: u64) -> Course {
        Course { stage: Stage::Insert, at_ns: 100, until_ns, operations, batch: 1, tolerant: false }
    }

    #[test]
    fn clients_take_turns_on_schedule() {
        let schedules = [0, 1, 2].map(|client| Schedule { ops_per_s: 3_000.0, clients: 3, client });
        let mut due: Vec<u64> = schedules.iter().flat_map(|it| (0..1_000).map(|index| it.due_ns(100, index))).collect();
        due.sort_unstable();
        assert_eq!((due[0], due[due.len() - 1] / 1_000), (100, (SECOND - SECOND / 3_000 + 100) / 1_000));
        assert!(due.windows(2).all(|pair| (pair[1] - pair[0]).abs_diff(333_333) <= 1));
    }

    #[test]
    fn as_much_is_due_as_begins_before_the_end() {
        for (clients, ops_per_s) in [(1, 1_000.0), (3, 777.7), (8, 5.0)] {
            for client in 0..clients {
                let schedule = Schedule { ops_per_s, clients, client };
                let course = course(100 + 2 * SECOND, u64::MAX);
                let due = schedule.due(&course);
                let begin = |index| schedule.due_ns(course.at_ns, index) < course.until_ns;
                assert!((due == 0 || begin(due - 1)) && !begin(due), "{schedule:?}: {due}");
            }
        }
        let schedule = Schedule { ops_per_s: 10.0, clients: 1, client: 0 };
        assert_eq!(schedule.due(&course(u64::MAX, 7)), 7);
    }
}

//! The processes: started, killed, replaced.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use kvbroker_tests::soak::Journal;
use kvbroker_tests::{Dice, end_with_us, wait_until};

use crate::consume::{Consuming, Slow};
use crate::produce::Producing;
use crate::{Args, Failed, Task};

/// How long a process may take to end that was told to.
const END: Duration = Duration::from_secs(60);

/// One process, and those that were killed in its place.
#[derive(Debug)]
struct Seat {
    task: Task,
    child: Child,
    /// It ends with this.
    stdin: Option<ChildStdin>,
    errors: PathBuf,
    has_ended: bool,
}

/// All producers and consumers.
#[derive(Debug)]
pub(crate) struct Crew {
    home: PathBuf,
    seats: Vec<Seat>,
    /// Processes so far.
    started: u64,
    dice: Dice,
    slow: Slow,
    /// Of consumers that were killed.
    journals_of_killed: Vec<PathBuf>,
    pub(crate) consumers_killed: u64,
    pub(crate) producers_killed: u64,
}

impl Crew {
    /// Starts everybody.
    pub(crate) fn start(args: &Args, home: &Path, room: u64, dice: Dice) -> Result<Crew, Failed> {
        let mut crew = Crew {
            home: home.to_owned(),
            seats: Vec::new(),
            started: 0,
            dice,
            slow: Slow::of(args),
            journals_of_killed: Vec::new(),
            consumers_killed: 0,
            producers_killed: 0,
        };
        for (at, items) in shares(args).into_iter().enumerate() {
            let place = is_in_transactions(at).then(|| format!("place/{at}"));
            let task = Task::Produce(Producing { items, value_bytes: args.value_bytes, place, room });
            let seat = crew.spawn(task)?;
            crew.seats.push(seat);
        }
        for _ in 0..args.consumers {
            let task = crew.consumer();
            let seat = crew.spawn(task)?;
            crew.seats.push(seat);
        }
        Ok(crew)
    }

    fn consumer(&mut self) -> Task {
        let journal = self.home.join(format!("journal-{}", self.started));
        Task::Consume(Consuming { journal, seed: self.dice.number(), slow: self.slow })
    }

    fn spawn(&mut self, task: Task) -> Result<Seat, Failed> {
        let errors = self.home.join(format!("errors-{}", self.started));
        self.started += 1;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("work").arg(serde_json::to_string(&task)?).env("KVBROKER_HOME", &self.home);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(File::create(&errors)?);
        end_with_us(&mut command);
        let mut child = command.spawn()?;
        let stdin = child.stdin.take();
        Ok(Seat { task, child, stdin, errors, has_ended: false })
    }

    /// Looks at everybody. True when all producers are done.
    ///
    /// # Errors
    /// What somebody said who ended otherwise.
    pub(crate) fn look(&mut self) -> Result<bool, Failed> {
        let mut at_work = 0;
        for seat in &mut self.seats {
            let is_consumer = matches!(seat.task, Task::Consume(_));
            if !seat.has_ended
                && let Some(status) = seat.child.try_wait()?
            {
                if !status.success() || is_consumer {
                    let said = fs::read_to_string(&seat.errors).unwrap_or_default();
                    let who = if is_consumer { "consumer" } else { "producer" };
                    return Err(format!("a {who} ended with {status}: {said}").into());
                }
                seat.has_ended = true;
            }
            at_work += u64::from(!is_consumer && !seat.has_ended);
        }
        Ok(at_work == 0)
    }

    /// Kills a consumer with -9 and starts another one in its place.
    pub(crate) fn kill_a_consumer(&mut self) -> Result<(), Failed> {
        let consumers = self.all(|seat| matches!(seat.task, Task::Consume(_)));
        let at = consumers[self.dice.below(consumers.len())];
        self.kill(at)?;
        if let Task::Consume(killed) = &self.seats[at].task {
            self.journals_of_killed.push(killed.journal.clone());
        }
        self.consumers_killed += 1;
        let task = self.consumer();
        self.seats[at] = self.spawn(task)?;
        Ok(())
    }

    /// The same with a producer that keeps its place in a key and is not done. False if there is none.
    pub(crate) fn kill_a_producer(&mut self) -> Result<bool, Failed> {
        self.look()?;
        let producers =
            self.all(|seat| matches!(&seat.task, Task::Produce(producing) if producing.place.is_some() && !seat.has_ended));
        if producers.is_empty() {
            return Ok(false);
        }
        let at = producers[self.dice.below(producers.len())];
        self.kill(at)?;
        self.producers_killed += 1;
        let task = self.seats[at].task.clone();
        self.seats[at] = self.spawn(task)?;
        Ok(true)
    }

    fn all(&self, wanted: impl Fn(&Seat) -> bool) -> Vec<usize> {
        (0..self.seats.len()).filter(|at| wanted(&self.seats[*at])).collect()
    }

    fn kill(&mut self, at: usize) -> Result<(), Failed> {
        let seat = &mut self.seats[at];
        seat.child.kill()?;
        seat.child.wait()?;
        Ok(())
    }

    /// Lets everybody end, and gives the journals of all consumers.
    pub(crate) fn finish(&mut self) -> Result<Vec<Journal>, Failed> {
        for seat in &mut self.seats {
            drop(seat.stdin.take());
        }
        for seat in &mut self.seats {
            let status = wait_until(END, "a process of the crew ends", || seat.child.try_wait().transpose())?;
            if !status.success() {
                let said = fs::read_to_string(&seat.errors).unwrap_or_default();
                return Err(format!("a process ended with {status}: {said}").into());
            }
        }
        let alive = self.seats.iter().filter_map(|seat| match &seat.task {
            Task::Consume(consuming) => Some((&consuming.journal, false)),
            Task::Produce(_) => None,
        });
        let killed = self.journals_of_killed.iter().map(|journal| (journal, true));
        let mut journals = Vec::new();
        for (path, was_killed) in alive.chain(killed) {
            // Whoever was killed before it was connected has none.
            let text = if path.exists() { fs::read_to_string(path)? } else { String::new() };
            journals.push(Journal::parse(&text, was_killed)?);
        }
        Ok(journals)
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        for seat in &mut self.seats {
            // It can have ended.
            let _ = seat.child.kill();
            let _ = seat.child.wait();
        }
    }
}

/// The numbers of each producer.
pub(crate) fn shares(args: &Args) -> Vec<std::ops::Range<u64>> {
    let share = |at: u64| args.items * at / args.producers;
    (0..args.producers).map(|at| share(at)..share(at + 1)).collect()
}

/// Every second producer pushes transactions.
pub(crate) fn is_in_transactions(producer: usize) -> bool {
    producer % 2 == 1
}

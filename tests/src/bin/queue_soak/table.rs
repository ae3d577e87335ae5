//! What is told: a line a second while it runs, a table at the end.

use std::fmt;
use std::time::{Duration, Instant};

use kvbroker_tests::soak::{Evidence, Figures};

use crate::Args;
use crate::crew::Crew;
use crate::run::Starts;

/// Lines to stderr.
#[derive(Debug)]
pub(crate) struct Telling {
    items: u64,
    begun: Instant,
    last: Option<Instant>,
}

impl Telling {
    pub(crate) fn new(items: u64) -> Telling {
        Telling { items, begun: Instant::now(), last: None }
    }

    /// Tells how far it is, once a second.
    pub(crate) fn tell(&mut self, done: u64, left: u64, crew: &Crew, starts: &Starts) {
        if self.last.is_some_and(|last| last.elapsed() < Duration::from_secs(1)) {
            return;
        }
        self.last = Some(Instant::now());
        let seconds = self.begun.elapsed().as_secs_f64();
        eprintln!(
            "{seconds:5.0} s: about {} of {} done, {} in the queues; killed so far: {} consumers, {} producers, the broker {} times",
            thousands(done),
            thousands(self.items),
            thousands(left),
            crew.consumers_killed,
            crew.producers_killed,
            starts.open.len()
        );
    }

    pub(crate) fn judging(&self) {
        eprintln!("{:5.0} s: everything is read back; looking at it", self.begun.elapsed().as_secs_f64());
    }
}

/// What a run ends with.
pub(crate) struct Table<'a> {
    pub(crate) args: &'a Args,
    pub(crate) took: Duration,
    pub(crate) starts: &'a Starts,
    pub(crate) evidence: &'a Evidence,
    pub(crate) figures: &'a Figures,
}

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Table { args, took, starts, evidence, figures } = self;
        let seconds = took.as_secs_f64();
        let (killed, hit) = figures.killed_consumers;
        let (first, last) = (starts.open.iter().min().unwrap_or(&0), starts.open.iter().max().unwrap_or(&0));
        let order = &figures.order;
        let live = &figures.live;
        let rows: [(&str, String); 14] = [
            (
                "items pushed, pulled and acknowledged",
                format!(
                    "{} of {} bytes in {seconds:.0} s, {} a second",
                    thousands(args.items),
                    args.value_bytes,
                    thousands((args.items as f64 / seconds.max(0.001)) as u64)
                ),
            ),
            (
                "processes at a time",
                format!("{} producers, {} consumers, the broker (`--sync always`)", args.producers, args.consumers),
            ),
            ("consumers killed with -9", format!("{killed}; {hit} of them had a delivery that somebody else got later")),
            ("producers killed with -9", figures_of_producers(evidence)),
            (
                "broker killed with -9",
                format!(
                    "{} times, and once more at the end; {} torn tails; slowest from kill to ready {:.2} s",
                    starts.open.len(),
                    starts.torn_tails,
                    starts.slowest.as_secs_f64()
                ),
            ),
            ("deliveries open at these starts", format!("{first} to {last}")),
            (
                "deliveries known from the consumers' journals",
                format!("{}; {} of them not the first of their item", thousands(figures.grants), thousands(figures.again)),
            ),
            ("given back", thousands(figures.returned)),
            ("acknowledged when the delivery was over: refused", thousands(figures.late)),
            ("items lost", figures.lost.to_string()),
            (
                "effects together with the acknowledgement",
                format!("{} results, and the sum {}", thousands(evidence.results.len() as u64), evidence.sum),
            ),
            (
                "effects before the acknowledgement",
                format!("{}; {} of them more than once", thousands(evidence.seen.len() as u64), thousands(figures.loose_twice)),
            ),
            (
                "order",
                format!(
                    "{} deliveries held against {} waits behind a push and {} behind a return: {} out of order",
                    thousands(order.grants),
                    thousands(order.first_waits),
                    thousands(order.returned_waits),
                    order.broken
                ),
            ),
            (
                "transient queue beside them",
                format!(
                    "{} items: {} done, {} lost by {} kills of the broker, {} delivered again",
                    thousands(live.pushed),
                    thousands(live.done),
                    thousands(live.lost),
                    live.lossy_starts,
                    thousands(live.again)
                ),
            ),
        ];
        writeln!(f, "| | |\n|---|---|")?;
        rows.iter().try_for_each(|(what, figure)| writeln!(f, "| {what} | {figure} |"))
    }
}

fn figures_of_producers(evidence: &Evidence) -> String {
    format!("{}; their successors went on where they had been", evidence.producer_kills.1)
}

/// With commas.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

//! One run: everybody is started, killed when it is time, and at the end everything is looked at.

use std::ops::Range;
use std::time::{Duration, Instant};

use kvbroker::catalog::CatalogList;
use kvbroker::client::{Client, ConnectOptions};
use kvbroker::paths::Dirs;
use kvbroker_protocol::Declaration;
use kvbroker_tests::soak::{Evidence, Form, judge};
use kvbroker_tests::{Broker, BrokerOptions, Dice};

use crate::crew::{Crew, is_in_transactions, shares};
use crate::live::LiveWork;
use crate::table::{Table, Telling};
use crate::{Args, Failed, TIMEOUT, gather, live};

/// How often it is looked how far everything is.
const LOOK: Duration = Duration::from_millis(20);
/// Without any progress for so long, something hangs.
const STALL: Duration = Duration::from_secs(90);

/// What was measured of the broker's starts behind kills.
#[derive(Debug, Default)]
pub(crate) struct Starts {
    pub(crate) open: Vec<u64>,
    pub(crate) slowest: Duration,
    pub(crate) torn_tails: u64,
    /// The revisions that they have found.
    pub(crate) revisions: Vec<u64>,
}

/// True if everything is as promised.
pub(crate) fn run(args: &Args) -> Result<bool, Failed> {
    let mut dice = Dice::of_this_run("queue_soak");
    let place = match &args.under {
        Some(directory) => tempfile::Builder::new().prefix("queue-soak-").tempdir_in(directory)?,
        None => tempfile::tempdir()?,
    };
    let data = place.path().join("data");
    let mut options = BrokerOptions::default().args(["--sync", "always", "--data"]).args([data.as_os_str()]);
    options.patience = TIMEOUT;
    let mut broker = Broker::start(options);
    let client = connect(&broker)?;
    let room = (args.items / 10).max(100);
    for form in Form::ALL {
        let lease_ms = Some(args.lease_ms);
        let options = Declaration { lease_ms, max_deliveries: Some(0), max_items: Some(room), ..Declaration::default() };
        client.queue(form.queue()).declare(options)?;
    }

    // When who is killed, by the number of items that are done.
    let mut draw = |count: u64, within: Range<u64>| {
        let width = usize::try_from((within.end - within.start).max(1)).unwrap_or(usize::MAX);
        let mut drawn: Vec<u64> = (0..count).map(|_| within.start + dice.below(width) as u64).collect();
        // The last one stands first to be taken off the end.
        drawn.sort_unstable_by(|one, other| other.cmp(one));
        drawn
    };
    let share = |percent: u64| args.items * percent / 100;
    let mut consumer_kills = draw(args.consumer_kills, share(1)..share(95));
    let mut producer_kills = draw(args.producer_kills, share(1)..share(35));
    // One in each stretch, so that they are spread.
    let stretch = share(95) / args.broker_kills.max(1);
    let mut broker_kills: Vec<u64> =
        (0..args.broker_kills).rev().flat_map(|at| draw(1, stretch * at + stretch / 4..stretch * (at + 1))).collect();
    let mut crew = Crew::start(args, broker.home().path(), room, Dice::new(dice.number()))?;
    let live_work = LiveWork::start(connect(&broker)?, args.lease_ms, Dice::new(dice.number()))?;
    let mut telling = Telling::new(args.items);
    let mut starts = Starts::default();
    let begun = Instant::now();
    let mut moved = (0, Instant::now());
    let is_due = |kills: &mut Vec<u64>, done: u64| kills.pop_if(|at| *at <= done).is_some();
    loop {
        let pushed = crew.look()?;
        let done = client.size()?;
        let left = items_left(&client)?;
        telling.tell(done, left, &crew, &starts);
        if pushed && left == 0 {
            break;
        }
        if done > moved.0 {
            moved = (done, Instant::now());
        } else if moved.1.elapsed() > STALL {
            return Err(format!("nothing has been done for {STALL:?}; {done} results, {left} items in the queues").into());
        }
        while is_due(&mut consumer_kills, done) {
            crew.kill_a_consumer()?;
        }
        while is_due(&mut producer_kills, done) {
            crew.kill_a_producer()?;
        }
        if is_due(&mut broker_kills, done) {
            let stopped = Instant::now();
            broker.kill9();
            if dice.below(2) == 0 && consumer_kills.pop().is_some() {
                // With nobody there who could take note.
                crew.kill_a_consumer()?;
            }
            broker.restart();
            starts.slowest = starts.slowest.max(stopped.elapsed());
            starts.torn_tails += u64::from(broker.has_cut_a_torn_tail());
            starts.revisions.push(found_revision(&broker)?);
            starts.open.push(open_deliveries(&client)?);
        }
        std::thread::sleep(LOOK);
    }
    let took = begun.elapsed();
    let journals = crew.finish()?;
    let mut live = live_work.finish()?;
    // What is looked at is what a start finds.
    broker.kill9();
    broker.restart();
    starts.revisions.push(found_revision(&broker)?);
    (live.starts, live.left) = (starts.revisions.clone(), live::items_left(&client)?);
    let is_ordered = |(at, range): (usize, Range<u64>)| is_in_transactions(at).then_some(range);
    let evidence = Evidence {
        items: args.items,
        journals,
        left: items_left(&client)?,
        pushed_in_order: shares(args).into_iter().enumerate().filter_map(is_ordered).collect(),
        consumer_kills: args.consumer_kills,
        producer_kills: (args.producer_kills, crew.producers_killed),
        broker_kills: args.broker_kills,
        open_at_starts: starts.open.clone(),
        live: Some(live),
        ..gather::effects(&client)?
    };
    telling.judging();
    let (figures, wrong) = judge(&evidence);
    broker.stop();
    print!("{}", Table { args, took, starts: &starts, evidence: &evidence, figures: &figures });
    match wrong.as_slice() {
        [] => println!("\nAs promised."),
        wrong => wrong.iter().for_each(|what| println!("\nNOT AS PROMISED: {what}")),
    }
    Ok(wrong.is_empty())
}

fn connect(broker: &Broker) -> Result<Client, Failed> {
    let options = ConnectOptions::new().dirs(Dirs::under(broker.home().path())?).catalogs(CatalogList::none());
    Ok(Client::connect_with("test", options.timeout(TIMEOUT).wait_for_broker(true))?)
}

/// The revision that the last start has found, as its ready block tells it.
fn found_revision(broker: &Broker) -> Result<u64, Failed> {
    let said = broker.stdout();
    let found = said.split_once(" at revision ").and_then(|(_, rest)| rest.split_once(',')?.0.parse().ok());
    found.ok_or_else(|| format!("no revision in: {said}").into())
}

/// Of the queues of both forms.
fn sum_of(client: &Client, figure: &str) -> Result<u64, Failed> {
    let queues = client.queues("")?;
    let of_forms = queues.iter().filter(|info| Form::ALL.iter().any(|form| form.queue().as_bytes() == info.queue));
    Ok(of_forms.map(|info| info.number(figure)).sum())
}

fn items_left(client: &Client) -> Result<u64, Failed> {
    sum_of(client, "items")
}

fn open_deliveries(client: &Client) -> Result<u64, Failed> {
    sum_of(client, "leased")
}

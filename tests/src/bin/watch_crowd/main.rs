//! What many watchers cost: ten thousand prefixes watched over one connection, and a thousand connections that watch one prefix. Idle
//! messages and processor time, and how long it takes until all have caught up when the broker is killed and started again.
//!
//! - The broker is the shipped program. It is killed with -9, and something is written right after it was started again: caught up is who has
//!   told that, and not before.
//! - Messages are those that the watchers got; processor time is that of the processes, all threads together.
//!
//! `cargo run --release -p kvbroker-tests --bin watch_crowd -- --help`

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use kvbroker::catalog::CatalogList;
use kvbroker::client::{Client, ConnectOptions, Hub, WatchEvent, WatchFrom};
use kvbroker::paths::Dirs;
use kvbroker_protocol::Stored;
use kvbroker_tests::hostile::raise_descriptors;
use kvbroker_tests::{Broker, cpu_seconds, wait_until};

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// Measures what many watchers cost; prints Markdown.
#[derive(Debug, Parser)]
struct Args {
    /// Prefixes of one connection
    #[arg(long, default_value_t = 10_000)]
    prefixes: usize,
    /// Connections that watch one prefix
    #[arg(long, default_value_t = 1_000)]
    watchers: usize,
    /// How long both are watched doing nothing, seconds
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Between the catching up and the idle time: bookmarks come less and less often, seconds
    #[arg(long, default_value_t = 40)]
    settle: u64,
}

const PATIENCE: Duration = Duration::from_secs(120);
/// Watches that share a client: a ZeroMQ context has so many sockets and no more.
const WATCHES_OF_A_CLIENT: usize = 100;
const STACK_BYTES: usize = 256 << 10;

/// A line of the table.
struct Line {
    what: String,
    begun_s: f64,
    messages_per_s: f64,
    broker_cpu: f64,
    watchers_cpu: f64,
    again_s: f64,
}

fn main() -> ExitCode {
    let args = Args::parse();
    raise_descriptors();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("watch_crowd: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), Failed> {
    let lines = [prefixes(args)?, watchers(args)?];
    println!(
        "| | until all had begun, s | idle: messages of streams/s to all | processor of the broker | of the watchers | until all had caught up after kill -9 and a start, s |"
    );
    println!("|---|---:|---:|---:|---:|---:|");
    for Line { what, begun_s, messages_per_s, broker_cpu, watchers_cpu, again_s } in lines {
        println!(
            "| {what} | {begun_s:.2} | {messages_per_s:.0} | {:.1} % | {:.1} % | {again_s:.2} |",
            100.0 * broker_cpu,
            100.0 * watchers_cpu
        );
    }
    Ok(())
}

fn client(broker: &Broker) -> Result<Client, Failed> {
    let options = ConnectOptions::new().dirs(Dirs::under(broker.home().path())?).catalogs(CatalogList::none());
    Ok(Client::connect_with("test", options.timeout(PATIENCE).wait_for_broker(true))?)
}

fn prefixes(args: &Args) -> Result<Line, Failed> {
    let mut broker = Broker::plain();
    let writer = client(&broker)?;
    let mut hub = client(&broker)?.hub()?;
    let begun = Instant::now();
    let ids: Vec<_> = (0..args.prefixes).map(|at| hub.watch(prefix(at), WatchFrom::Now)).collect();
    until_all(&mut hub, args.prefixes, |event| matches!(event, WatchEvent::CaughtUp { .. }))?;
    let begun_s = begun.elapsed().as_secs_f64();
    listen(&mut hub, Duration::from_secs(args.settle))?;
    let messages = |hub: &Hub| ids.iter().filter_map(|id| hub.stats(*id)).map(|stats| stats.messages).sum::<u64>();
    let (before, broker_before, own_before) = (messages(&hub), cpu_seconds(broker.pid())?, cpu_seconds(std::process::id())?);
    let idle = Instant::now();
    listen(&mut hub, Duration::from_secs(args.seconds))?;
    let idle_s = idle.elapsed().as_secs_f64();
    let messages_per_s = (messages(&hub) - before) as f64 / idle_s;
    let (broker_cpu, watchers_cpu) =
        ((cpu_seconds(broker.pid())? - broker_before) / idle_s, (cpu_seconds(std::process::id())? - own_before) / idle_s);
    broker.kill9();
    broker.restart();
    let again = Instant::now();
    // One message of many puts, so that the writing itself takes no time.
    let mut pipeline = writer.pipeline();
    let tickets: Vec<_> = (0..args.prefixes).map(|at| pipeline.put(prefix(at), Stored::integer(1))).collect();
    for ticket in tickets {
        ticket.wait()?;
    }
    until_all(&mut hub, args.prefixes, |event| matches!(event, WatchEvent::Changes(_)))?;
    let again_s = again.elapsed().as_secs_f64();
    broker.stop();
    let what = format!("{} prefixes over one connection", args.prefixes);
    Ok(Line { what, begun_s, messages_per_s, broker_cpu, watchers_cpu, again_s })
}

fn prefix(at: usize) -> String {
    format!("lab/{at:05}/")
}

/// Listens until so many events were of this kind: one of each watch.
fn until_all(hub: &mut Hub, count: usize, is_it: impl Fn(&WatchEvent) -> bool) -> Result<(), Failed> {
    let until = Instant::now() + PATIENCE;
    let mut done = std::collections::HashSet::new();
    while done.len() < count {
        let (id, event) = hub.next(Some(until)).ok_or_else(|| format!("only {} of {count} watches got there", done.len()))?;
        if is_it(&event?) {
            done.insert(id);
        }
    }
    Ok(())
}

fn listen(hub: &mut Hub, how_long: Duration) -> Result<(), Failed> {
    let until = Instant::now() + how_long;
    while let Some((_, event)) = hub.next(Some(until)) {
        event?;
    }
    Ok(())
}

fn watchers(args: &Args) -> Result<Line, Failed> {
    let mut broker = Broker::plain();
    let writer = client(&broker)?;
    let clients: Vec<Client> =
        (0..args.watchers.div_ceil(WATCHES_OF_A_CLIENT)).map(|_| client(&broker)).collect::<Result<_, _>>()?;
    let (ready, told, messages) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicU64::new(0)));
    let is_over = Arc::new(AtomicBool::new(false));
    let begun = Instant::now();
    let mut threads = Vec::new();
    for at in 0..args.watchers {
        let mut watch = clients[at / WATCHES_OF_A_CLIENT].watch("lab/", WatchFrom::Now)?;
        let (ready, told, messages, is_over) =
            (Arc::clone(&ready), Arc::clone(&told), Arc::clone(&messages), Arc::clone(&is_over));
        let follow = move || -> Result<(), Failed> {
            let (mut counted, mut is_ready) = (0, false);
            while !is_over.load(Ordering::Relaxed) {
                match watch.next(Some(Instant::now() + Duration::from_secs(1)))? {
                    Some(WatchEvent::CaughtUp { .. }) if !is_ready => {
                        is_ready = true;
                        ready.fetch_add(1, Ordering::Relaxed);
                    }
                    Some(WatchEvent::Changes(_)) => {
                        told.fetch_add(1, Ordering::Relaxed);
                    }
                    _ => {}
                }
                let now = watch.stats().messages;
                messages.fetch_add(now - counted, Ordering::Relaxed);
                counted = now;
            }
            Ok(())
        };
        threads.push(std::thread::Builder::new().stack_size(STACK_BYTES).spawn(follow)?);
    }
    wait_until(PATIENCE, "all watches have begun", || (ready.load(Ordering::Relaxed) == args.watchers).then_some(()));
    let begun_s = begun.elapsed().as_secs_f64();
    std::thread::sleep(Duration::from_secs(args.settle));
    let (before, broker_before, own_before) =
        (messages.load(Ordering::Relaxed), cpu_seconds(broker.pid())?, cpu_seconds(std::process::id())?);
    let idle = Instant::now();
    std::thread::sleep(Duration::from_secs(args.seconds));
    let idle_s = idle.elapsed().as_secs_f64();
    let messages_per_s = (messages.load(Ordering::Relaxed) - before) as f64 / idle_s;
    let (broker_cpu, watchers_cpu) =
        ((cpu_seconds(broker.pid())? - broker_before) / idle_s, (cpu_seconds(std::process::id())? - own_before) / idle_s);
    broker.kill9();
    broker.restart();
    let again = Instant::now();
    writer.put("lab/1", Stored::integer(1))?;
    wait_until(PATIENCE, "all watches have told it", || (told.load(Ordering::Relaxed) >= args.watchers).then_some(()));
    let again_s = again.elapsed().as_secs_f64();
    is_over.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().map_err(|_| "a watcher panicked")??;
    }
    broker.stop();
    let what = format!("{} connections that watch one prefix", args.watchers);
    Ok(Line { what, begun_s, messages_per_s, broker_cpu, watchers_cpu, again_s })
}

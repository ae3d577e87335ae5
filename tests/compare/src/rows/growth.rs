//! The broker with a large table beside the broker with a small one: what an operation costs, what a scan, and who feels a search.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kvbroker_protocol::{Pattern, Scan};

use super::{Contest, Costs, Round, Row, Sample, Side, Target};
use crate::Failed;
use crate::load::{self, Kind, Shape, drive, fill};
use crate::options::Options;
use crate::payload;
use crate::servers::{Generator, Kvbroker, Server, Sync, Way, pause, resume};

/// Keys of the small table.
const SMALL: u32 = 10_000;
/// Clients and operations outstanding: the library makes arrays of 64 of them.
const BUSY: (usize, usize) = (4, 64);
/// Who is asked while somebody searches.
const OTHERS: usize = 4;
/// A scan's keys: those whose numbers differ in so many last digits.
const SCAN_DIGITS: usize = 2;

/// Both tables, filled once for all rows.
type Both = Rc<RefCell<Option<[Kvbroker; 2]>>>;

pub(super) fn rows() -> Vec<Row> {
    let both = Both::default();
    let row = |name: &str, what: &str, target: Target, unit: &'static str, test: Test, begin_s: f64| {
        let both = Rc::clone(&both);
        Row {
            name: name.to_owned(),
            what: what.to_owned(),
            target: Some(target),
            unit,
            costs_s: Costs { begin: begin_s, round: 1.0 },
            rounds_max: 99,
            begin: Box::new(move |options| {
                if both.borrow().is_none() {
                    *both.borrow_mut() = Some(start(options)?);
                }
                Ok(Box::new(Growth { both: Rc::clone(&both), test, keys: options.huge_keys(), window: options.seconds }))
            }),
        }
    };
    let twice = Target::at_most(2.0);
    vec![
        row(
            "big-put",
            "processor time of the broker for a put in an array of 64, in a table of millions beside one of 10,000 keys",
            twice,
            "µs",
            Test::Cost(Kind::Put),
            90.0,
        ),
        row("big-get", "the same of gets", twice, "µs", Test::Cost(Kind::Get), 0.0),
        row("big-scan", "p50 of a scan of 100 keys by prefix, in these two tables", twice, "µs", Test::Scan, 0.0),
        row(
            "big-regex",
            "p99 of others' puts, one at a time, while somebody searches the millions by a regular expression, beside without",
            Target::at_most(3.0),
            "µs",
            Test::Regex,
            0.0,
        ),
    ]
}

#[derive(Clone, Copy)]
enum Test {
    Cost(Kind),
    Scan,
    Regex,
}

struct Growth {
    both: Both,
    test: Test,
    keys: u32,
    window: Duration,
}

/// The large one, then the small one.
fn start(options: &Options) -> Result<[Kvbroker; 2], Failed> {
    let one = |keys| {
        let server = Kvbroker::start(options, options.broker(), Sync::Never, Way::Ipc, Generator::Library)?;
        fill(&server, keys)?;
        super::size::settle(&server)?;
        pause(&server)?;
        Ok::<_, Failed>(server)
    };
    Ok([one(options.huge_keys())?, one(SMALL)?])
}

impl Growth {
    fn shape(&self, at: usize, (clients, outstanding): (usize, usize), kind: Kind) -> Shape {
        Shape { clients, outstanding, kind, keys: [self.keys, SMALL][at], window: self.window }
    }

    fn turn(&self, servers: &[Kvbroker; 2], at: usize) -> Result<Sample, Failed> {
        match self.test {
            Test::Cost(kind) => {
                let measured = drive(&servers[at], self.shape(at, BUSY, kind))?;
                Ok(Sample {
                    figure: measured.server_us(),
                    details: [("operations_per_s", measured.per_s())].into_iter().collect(),
                })
            }
            Test::Scan => scans(&servers[at], [self.keys, SMALL][at], self.window),
            // Both in the large one: first with somebody who searches, then without.
            Test::Regex => {
                let search = if at == 0 { Some(Search::begin(&servers[0])?) } else { None };
                let measured = drive(&servers[0], self.shape(0, (OTHERS, 1), Kind::Put));
                let pages = search.map(Search::end).transpose()?;
                let measured = measured?;
                let mut details = [("p50_us", 0.5), ("p999_us", 0.999)].map(|(name, of)| (name, measured.time_us(of))).to_vec();
                details.push(("operations_per_s", measured.per_s()));
                details.extend(pages.map(|pages| ("pages_searched", pages as f64)));
                Ok(Sample { figure: measured.time_us(0.99), details: details.into_iter().collect() })
            }
        }
    }
}

/// Scans of a hundred keys by their prefix, one after the other.
fn scans(server: &Kvbroker, keys: u32, window: Duration) -> Result<Sample, Failed> {
    let client = server.client()?;
    let mut draw = payload::Draw::new(keys, 5);
    let mut times = load::times()?;
    let until = Instant::now() + window;
    while Instant::now() < until {
        let key = payload::key(draw.next());
        let prefix = key[..key.len() - SCAN_DIGITS].to_vec();
        let began = Instant::now();
        let page = client.scan_page(Scan { prefix, ..Scan::default() })?;
        times.saturating_record(began.elapsed().as_nanos() as u64);
        if page.rows.len() != 10_usize.pow(SCAN_DIGITS as u32) {
            return Err(format!("a scan found {} keys", page.rows.len()).into());
        }
    }
    let at = |quantile| times.value_at_quantile(quantile) as f64 / 1e3;
    Ok(Sample { figure: at(0.5), details: [("p99_us", at(0.99))].into_iter().collect() })
}

/// Somebody who looks through all keys, again and again.
struct Search {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Result<u64, String>>,
}

impl Search {
    fn begin(server: &Kvbroker) -> Result<Search, Failed> {
        let client = server.client()?;
        let stop = Arc::new(AtomicBool::new(false));
        let pattern: Pattern = Pattern::new("[02468]13579$").map_err(|failure| failure.to_string())?;
        let thread = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                let (mut pages, mut cursor) = (0, None);
                while !stop.load(Ordering::Relaxed) {
                    let scan = Scan { pattern: Some(pattern.clone()), keys_only: true, cursor, ..Scan::default() };
                    cursor = client.scan_keys_page(scan).map_err(|error| error.to_string())?.cursor;
                    pages += 1;
                }
                Ok(pages)
            }
        });
        Ok(Search { stop, thread })
    }

    /// How many pages it has read.
    fn end(self) -> Result<u64, Failed> {
        self.stop.store(true, Ordering::Relaxed);
        let pages = self.thread.join().map_err(|_| "the search panicked")??;
        if pages == 0 { Err("nothing was searched".into()) } else { Ok(pages) }
    }
}

impl Contest for Growth {
    fn sides(&self) -> [Side; 2] {
        let side = |keys: u32| {
            let both = self.both.borrow();
            let server = both.as_ref().map(|servers| &servers[0]);
            let settings = server.map_or_else(String::new, |server| format!("{keys} keys; {}", server.settings()));
            Side { name: server.map_or_else(String::new, Kvbroker::name), settings }
        };
        match self.test {
            Test::Regex => [side(self.keys), side(self.keys)],
            Test::Cost(_) | Test::Scan => [side(self.keys), side(SMALL)],
        }
    }

    fn round(&mut self, number: usize) -> Result<Round, Failed> {
        let both = self.both.borrow();
        let servers = both.as_ref().ok_or("the tables are filled before")?;
        let mut samples = [Sample::default(), Sample::default()];
        for at in [number % 2, 1 - number % 2] {
            let server = if matches!(self.test, Test::Regex) { &servers[0] } else { &servers[at] };
            resume(server)?;
            let sample = self.turn(servers, at);
            pause(server)?;
            samples[at] = sample?;
        }
        Ok(Round::of(samples))
    }
}

//! The thumbnail service of docs/messaging.md: a worker in Rust and one in Python share a queue, both are killed in the middle of their
//! work, and every picture is made once, whoever makes it.
//!
//! - A kill counts only if the worker had a job: the queue says that one is leased when nobody is there any more. A worker whose kill hit
//!   nothing is started again.
//! - What comes out is compared with a third way to reckon it, pixel by pixel.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use kvbroker::catalog::CatalogList;
use kvbroker::client::{Client, ConnectOptions};
use kvbroker::paths::Dirs;
use kvbroker_protocol::ItemState;
use kvbroker_tests::{Broker, BrokerOptions, Cli, Dice, PATIENCE, end_with_us, program, python, wait_until};

const PROJECT: &str = "NETID-a5";
const MESSAGING: &str = include_str!("../../docs/messaging.md");
const RUST: &str = include_str!("../../examples/thumbnailer.rs");
const PYTHON: &str = include_str!("../../examples/thumbnailer.py");
/// Pictures whose thumbnails are wanted.
const PICTURES: usize = 60;
const WIDTH: usize = 24;

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples")
}

/// A worker, killed when dropped.
struct Worker(Child);

impl Worker {
    fn start(broker: &Broker, mut command: Command) -> Worker {
        command.arg(PROJECT).env("KVBROKER_HOME", broker.home().path()).env("KVBROKER_CATALOG", "none").stdin(Stdio::null());
        end_with_us(&mut command);
        Worker(command.spawn().unwrap())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn picture(columns: usize, rows: usize, dice: &mut Dice) -> Vec<u8> {
    let mut picture = format!("P5 {columns} {rows} 255\n").into_bytes();
    picture.extend(dice.bytes(columns * rows));
    picture
}

/// The mean of all pixels that one of the thumbnail's stands for, asked from each pixel's side.
fn thumbnail(picture: &[u8], columns: usize, rows: usize) -> Vec<u8> {
    let pixels = &picture[picture.len() - columns * rows..];
    let height = (rows * WIDTH / columns).max(1);
    let (mut sums, mut counts) = (vec![0_usize; WIDTH * height], vec![0; WIDTH * height]);
    // The last one that begins at or before this place.
    let target = |at: usize, of: usize, size: usize| (0..size).rev().find(|step| step * of / size <= at).unwrap();
    let across: Vec<usize> = (0..columns).map(|x| target(x, columns, WIDTH)).collect();
    for (y, line) in pixels.chunks(columns).enumerate() {
        let row = target(y, rows, height) * WIDTH;
        for (x, pixel) in line.iter().enumerate() {
            sums[row + across[x]] += usize::from(*pixel);
            counts[row + across[x]] += 1;
        }
    }
    let mut small = format!("P5 {WIDTH} {height} 255\n").into_bytes();
    small.extend(sums.iter().zip(&counts).map(|(sum, count)| (sum / count) as u8));
    small
}

#[test]
fn two_languages_make_every_thumbnail_once_though_workers_are_killed() {
    let Some(python) = python() else { return };
    let mut dice = Dice::of_this_run("interop_thumbnails");
    let broker = Broker::start(BrokerOptions::default().project(PROJECT));
    let cli = Cli::new(broker.home());
    let options = ConnectOptions::new().dirs(Dirs::under(broker.home().path()).unwrap()).catalogs(CatalogList::none());
    let client = Client::connect_with(PROJECT, options).unwrap();
    cli.ok(&[PROJECT, "queue", "declare", "thumbnails", "--lease", "2s", "--max-deliveries", "0"]);
    let sizes: Vec<(usize, usize)> = (0..PICTURES).map(|_| (300 + dice.below(200), 200 + dice.below(300))).collect();
    let pictures: Vec<Vec<u8>> = sizes.iter().map(|(columns, rows)| picture(*columns, *rows, &mut dice)).collect();
    let wanted = |name: &str| format!("{{\"picture\": \"{name}\", \"width\": {WIDTH}}}");
    for (at, picture) in pictures.iter().enumerate() {
        let file = broker.home().path().join("picture.pgm");
        std::fs::write(&file, picture).unwrap();
        let name = format!("{at}.pgm");
        cli.ok(&[PROJECT, "put", &format!("picture/{name}"), "--file", file.to_str().unwrap()]);
        cli.ok(&[PROJECT, "queue", "push", "thumbnails", "--json", &wanted(&name)]);
    }
    // One that nobody can do, and one that is not there.
    cli.ok(&[PROJECT, "put", "picture/notes.txt", "buy film"]);
    cli.ok(&[PROJECT, "queue", "push", "thumbnails", "--json", &wanted("notes.txt")]);
    cli.ok(&[PROJECT, "queue", "push", "thumbnails", "--json", &wanted("gone.pgm")]);

    let in_rust = || Worker::start(&broker, Command::new(program("thumbnailer")));
    let in_python = || {
        let mut command = Command::new(&python);
        command.arg(scripts().join("thumbnailer.py"));
        Worker::start(&broker, command)
    };
    let queue = client.queue("thumbnails");
    let figure = |name: &str| queue.info().unwrap().unwrap().number(name);
    let made = |language: &str| client.incr(format!("made/{language}"), 0).unwrap();
    // Each alone, until a kill of it hit a job.
    let workers: [(&str, &dyn Fn() -> Worker); 2] = [("python", &in_python), ("rust", &in_rust)];
    for (language, start) in workers {
        let mut kills = 0;
        loop {
            let before = made(language);
            let worker = start();
            wait_until(PATIENCE, "a worker has made one, and has another", || {
                (made(language) > before && figure("leased") > 0).then_some(())
            });
            drop(worker);
            kills += 1;
            if figure("leased") > 0 {
                break;
            }
            assert!(kills < 20, "{kills} times a worker in {language} was killed, and never it had a job");
        }
        println!("{language}: {kills} kills until one hit; {} made", made(language));
    }
    assert!(figure("items") > 10, "the kills came too late: hardly anything was left to do");
    let before = ["python", "rust"].map(made);
    let both = [in_python(), in_rust()];
    wait_until(3 * PATIENCE, "everything is made", || {
        (figure("ready") + figure("delayed") + figure("leased") == 0).then_some(())
    });
    drop(both);

    for (at, (picture, (columns, rows))) in pictures.iter().zip(sizes).enumerate() {
        let found = client.get(format!("thumbnail/{at}.pgm")).unwrap().unwrap_or_else(|| panic!("picture {at} was not made"));
        assert_eq!(found.value.as_byte_string().unwrap(), thumbnail(picture, columns, rows), "picture {at}");
    }
    let dead = queue.peek(ItemState::Dead, 10).unwrap();
    assert_eq!(dead.iter().map(|item| item.reason.as_str()).collect::<Vec<_>>(), ["no PGM picture"; 2]);
    let [by_python, by_rust] = ["python", "rust"].map(made);
    println!("{by_python} in Python, {by_rust} in Rust, of which {before:?} before both worked together");
    assert_eq!(by_python + by_rust, PICTURES as i128, "each is made once");
    assert!(by_python > 0 && by_rust > 0);
}

#[test]
fn the_documentation_shows_the_workers_that_run_here() {
    let section =
        MESSAGING.split("\n## ").find(|section| section.starts_with("A service with workers in two languages")).unwrap();
    let mut shown = 0;
    for (fence, program) in [("```rust\n", RUST), ("```python\n", PYTHON)] {
        for block in section.split(fence).skip(1) {
            let block = block.split("```").next().unwrap();
            let bare = |text: &str| text.lines().map(str::trim).collect::<Vec<_>>().join("\n");
            assert!(bare(program).contains(&bare(block)), "the program is not what the page shows:\n{block}");
            shown += 1;
        }
    }
    assert_eq!(shown, 2);
}

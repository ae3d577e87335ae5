//! kvbroker beside other products, and beside what libzmq and the disk allow: the same load on each, by turns.
//!
//! - Every product gets the same keys and values, as many connections with a thread each, and as many operations outstanding on them. The
//!   broker is the shipped program with its sessions, revisions and checksums, and a watcher who hears of one key in a hundred.
//! - Durable is compared with durable, in memory with in memory; the tables name the settings.
//! - Every answer is looked at. A row in which one is wrong, or a server fails, is shown as failed, and the program ends with exit code 1.
//! - Servers are processes of their own, in new directories among the temporary files, and end with this program.
//!
//! The rooms: `servers` start and reach the products, `load` are the generators, `duel` lets two servers take turns, `rows` say what is
//! compared with what, `results` and `tables` what came of it.
//!
//! Caveat: generators and servers share the machine's processors, so a fast generator matters as much as a fast server. The processor time
//! of each is told.

mod duel;
mod facts;
mod fields;
mod load;
mod options;
mod payload;
mod progress;
mod results;
mod rows;
mod servers;
mod stats;
mod tables;

use std::process::ExitCode;
use std::time::{Instant, SystemTime};

use clap::Parser;

use facts::Facts;
use fields::{Field, FieldResult};
use options::{Options, Word};
use progress::Progress;
use results::{FORMAT, Results, RowResult};
use rows::Row;

type Failed = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    let options = Options::parse();
    let done = match &options.word {
        Some(Word::Echo(args)) => servers::serve_echo(args).map(|()| true),
        Some(Word::Floor(args)) => servers::serve_floor(args).map(|()| true),
        None => run(&options),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("compare: {error}");
            ExitCode::FAILURE
        }
    }
}

/// True if everything was measured.
fn run(options: &Options) -> Result<bool, Failed> {
    let rows: Vec<Row> = rows::all().into_iter().filter(|row| options.wants(&row.name)).collect();
    let fields: Vec<Field> = fields::all().into_iter().filter(|field| options.wants(field.name)).collect();
    if rows.is_empty() && fields.is_empty() {
        return Err("no row has such a name; --list names them".into());
    }
    if options.list {
        rows.iter().for_each(|row| println!("{:16} {}", row.name, row.what));
        fields.iter().for_each(|field| println!("{:16} {}", field.name, field.title));
        return Ok(true);
    }
    let facts = Facts::now()?;
    let began = (SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs(), Instant::now());
    let all_s = rows.iter().map(|row| row.expected_s(options)).chain(fields.iter().map(|field| field.expected_s(options))).sum();
    let mut progress = Progress::new(rows.len() + fields.len(), all_s);
    let rows: Vec<RowResult> = rows.iter().map(|row| measure(options, row, &mut progress)).collect();
    let fields: Vec<FieldResult> = fields
        .iter()
        .map(|field| {
            progress.begins(field.name, field.title);
            let result = field.measure(options, &progress);
            progress.ends(field.expected_s(options));
            result
        })
        .collect();
    if let Some(file) = &options.json {
        let all = Results {
            format: FORMAT,
            began_unix_s: began.0,
            took_s: began.1.elapsed().as_secs_f64(),
            command: std::env::args().collect(),
            facts: &facts,
            rows: &rows,
            fields: &fields,
        };
        std::fs::write(file, serde_json::to_vec_pretty(&all)?)?;
    }
    print!("{}", tables::text(options, &facts, &rows, &fields));
    let products = fields.iter().flat_map(|field| &field.products);
    Ok(rows.iter().all(|row| row.failed.is_none()) && products.into_iter().all(|product| product.failed.is_none()))
}

fn measure(options: &Options, row: &Row, progress: &mut Progress) -> RowResult {
    let mut result = RowResult {
        name: row.name.clone(),
        what: row.what.clone(),
        target: row.target,
        unit: row.unit,
        sides: None,
        rounds: Vec::new(),
        failed: None,
    };
    progress.begins(&row.name, &row.what);
    let expected_s = row.expected_s(options);
    let outcome = (row.begin)(options).and_then(|mut contest| {
        result.sides = Some(contest.sides());
        let rounds = row.rounds(options);
        for number in 0..rounds {
            let round = contest.round(number)?;
            let [ours, theirs] = [0, 1].map(|side| stats::figure(round.sides[side].figure));
            let text = format!("round {} of {rounds}: {ours} beside {theirs} {}, ratio {:.2}", number + 1, row.unit, round.ratio);
            progress.says(&text, expected_s * (number + 1) as f64 / rounds as f64);
            result.rounds.push(round);
        }
        Ok(())
    });
    if let Err(error) = outcome {
        progress.says(&format!("{} has failed: {error}", row.name), expected_s);
        result.failed = Some(error.to_string());
    }
    progress.ends(expected_s);
    result
}

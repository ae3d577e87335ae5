//! `result`: what became of a mutation whose outcome is unknown.

use kvbroker::client::{Client, RequestId, exit_of};
use kvbroker::exit::Exit;
use kvbroker_protocol::{Answer, Fate, Operation, Outcome};

use crate::output::{Output, printable};
use crate::verbs::{ask, print_one};
use crate::{Trouble, complain};

/// Asks, and unless `look` settles what has not arrived.
pub(crate) fn run(client: &Client, request: RequestId, look: bool, out: &mut Output) -> Result<Exit, Trouble> {
    let operation = Operation::Result { session: request.session, seq: request.seq, settle: !look };
    let outcome = ask(client, operation)?;
    if out.is_json() {
        out.outcome_json(&outcome)?;
    }
    let fate = match outcome.result {
        Ok(Answer::Result(fate)) => fate,
        Ok(_) => return Err(Trouble::misuse("the broker answered with another answer than was asked for")),
        Err(failure) => {
            complain(&printable(&failure.message), None);
            return Ok(exit_of(failure.code));
        }
    };
    if !out.is_json() {
        tell(&fate, out)?;
    }
    Ok(match &fate {
        Fate::Decided(outcome) => outcome.result.as_ref().map_or_else(|failure| exit_of(failure.code), |_| Exit::Ok),
        Fate::Filled => Exit::NotFound,
        Fate::Undecided | Fate::Acknowledged => Exit::UnknownOutcome,
    })
}

fn tell(fate: &Fate, out: &mut Output) -> std::io::Result<()> {
    match fate {
        Fate::Decided(outcome) => match &**outcome {
            Outcome { revision, result: Ok(_) } => {
                out.line(&format!("done at revision {}", revision.unwrap_or_default()))?;
                print_one(outcome, out)
            }
            Outcome { result: Err(failure), .. } => {
                out.line(&format!("not done ({}): {}", failure.code, printable(&failure.message)))
            }
        },
        Fate::Filled => out.line("not done, and it never will be"),
        Fate::Undecided => out.line("undecided: it has not arrived, and may yet; without --look it is settled"),
        Fate::Acknowledged => out.line("answered, and the answer was read; it is not kept any longer"),
    }
}

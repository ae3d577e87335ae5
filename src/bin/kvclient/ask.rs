//! Asking on the terminal whether a broker's new key is accepted.
//!
//! - Asked is only where a person is: stderr is a terminal, and there is a controlling one to answer on. The
//!   answer does not come from stdin, which may be a file on its way into the table.
//! - Only the whole word `yes` accepts.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::sync::Arc;

use kvbroker::client::{NewBroker, NewKeys};

use crate::output::printable;

/// Longest answer that is read.
const ANSWER_BYTES_MAX: u64 = 1_024;

/// Who decides about new keys: the terminal if there is one, else nobody.
pub(crate) fn on_terminal() -> NewKeys {
    if io::stderr().is_terminal() && File::open("/dev/tty").is_ok() {
        NewKeys::Ask(Arc::new(|new: &NewBroker| is_accepted(new).unwrap_or(false)))
    } else {
        NewKeys::Refuse
    }
}

fn is_accepted(new: &NewBroker) -> io::Result<bool> {
    let mut terminal = File::options().read(true).write(true).open("/dev/tty")?;
    terminal.write_all(question(new).as_bytes())?;
    let mut answer = String::new();
    BufReader::new(terminal.take(ANSWER_BYTES_MAX)).read_line(&mut answer)?;
    Ok(answer.trim() == "yes")
}

fn question(new: &NewBroker) -> String {
    let NewBroker { owner, project, key, place, source, .. } = new;
    let (owner, place, source) = (printable(owner), printable(place), printable(source));
    format!(
        "kvclient: {owner}'s broker for {project} is new to you.\n\
         \x20 owner    {owner}\n\
         \x20 project  {project}\n\
         \x20 place    {place} (says the {source})\n\
         \x20 key      {key}\n\
         Anybody can announce anything. {owner} sees the true key in: kvbroker {project} link\n\
         Accept this key, now and from now on? (yes/no) "
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use kvbroker::keys::PublicKey;

    use super::*;

    #[test]
    fn the_question_shows_what_there_is_to_compare() {
        let new = NewBroker {
            owner: "ann".into(),
            project: "lab".parse().unwrap(),
            key: PublicKey::from_bytes([0xab; 32]),
            place: "10.0.0.5:4000 (h\u{1b}[2J)".into(),
            broker: None,
            source: "catalog c:9097".into(),
        };
        let asked = question(&new);
        for part in ["ann's broker for lab", "kvpub1abab", "10.0.0.5:4000", "says the catalog c:9097", "kvbroker lab link"] {
            assert!(asked.contains(part), "{asked}");
        }
        assert!(!asked.contains('\u{1b}'), "{asked}");
    }
}

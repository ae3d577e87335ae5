//! What one consumer process was handed and gave back, in a file that outlives it.
//!
//! A line each: `+ QUEUE NUMBER RECEIPT DELIVERIES` for a delivery, `- QUEUE RECEIPT REVISION` for one that was given back, `! QUEUE RECEIPT`
//! for one that was over before it was acknowledged.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

use kvbroker_protocol::Receipt;

use super::Form;

/// A delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// In which queue.
    pub form: Form,
    /// What was pushed.
    pub number: u64,
    /// The item's id and the delivery's token.
    pub receipt: Receipt,
    /// The how many-th of this item it was.
    pub deliveries: u32,
}

/// A delivery that was given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Return {
    /// In which queue.
    pub form: Form,
    /// Which delivery.
    pub receipt: Receipt,
    /// The revision at which the item was ready again.
    pub revision: u64,
}

/// A journal that was read.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    /// Its process was killed.
    pub was_killed: bool,
    /// What it was handed, in order.
    pub grants: Vec<Grant>,
    /// What it gave back.
    pub returns: Vec<Return>,
    /// How many deliveries were over before they were acknowledged.
    pub late: u64,
}

impl Journal {
    /// Reads a journal. A last line that has no end is left out: its process was killed in the middle of it.
    ///
    /// # Errors
    /// The line that is none.
    pub fn parse(text: &str, was_killed: bool) -> Result<Journal, String> {
        let mut journal = Journal { was_killed, ..Journal::default() };
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        for line in whole.lines() {
            journal.line(line).ok_or_else(|| format!("no line of a journal: {line:?}"))?;
        }
        Ok(journal)
    }

    fn line(&mut self, line: &str) -> Option<()> {
        let mut words = line.split(' ');
        let kind = words.next()?;
        let form = Form::of_queue(words.next()?)?;
        match kind {
            "+" => {
                let number = words.next()?.parse().ok()?;
                let receipt = words.next()?.parse().ok()?;
                let deliveries = words.next()?.parse().ok()?;
                self.grants.push(Grant { form, number, receipt, deliveries });
            }
            "-" => {
                let receipt = words.next()?.parse().ok()?;
                let revision = words.next()?.parse().ok()?;
                self.returns.push(Return { form, receipt, revision });
            }
            "!" => self.late += 1,
            _ => return None,
        }
        Some(())
    }

    /// The deliveries of its last pull.
    pub fn last_pull(&self) -> impl Iterator<Item = &Grant> {
        let last = self.grants.last().map(|grant| (grant.form, grant.receipt.token));
        self.grants.iter().rev().take_while(move |grant| Some((grant.form, grant.receipt.token)) == last)
    }
}

/// A journal that is being written.
#[derive(Debug)]
pub struct JournalWriter {
    file: File,
    lines: String,
}

impl JournalWriter {
    /// A new one.
    ///
    /// # Errors
    /// The file can't be made.
    pub fn create(path: &Path) -> io::Result<JournalWriter> {
        Ok(JournalWriter { file: File::create_new(path)?, lines: String::new() })
    }

    /// Notes deliveries: when this returns, a kill does not take that away.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn granted(&mut self, grants: &[Grant]) -> io::Result<()> {
        for Grant { form, number, receipt, deliveries } in grants {
            let _ = writeln!(self.lines, "+ {} {number} {receipt} {deliveries}", form.queue());
        }
        self.write()
    }

    /// Notes that a delivery was given back.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn returned(&mut self, Return { form, receipt, revision }: Return) -> io::Result<()> {
        let _ = writeln!(self.lines, "- {} {receipt} {revision}", form.queue());
        self.write()
    }

    /// Notes that a delivery was over before it was acknowledged.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn late(&mut self, form: Form, receipt: Receipt) -> io::Result<()> {
        let _ = writeln!(self.lines, "! {} {receipt}", form.queue());
        self.write()
    }

    fn write(&mut self) -> io::Result<()> {
        self.file.write_all(self.lines.as_bytes())?;
        self.lines.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_journal_reads_back_up_to_where_its_process_was_killed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let receipt = |text: &str| text.parse().unwrap();
        let grants = [
            Grant { form: Form::Loose, number: 3, receipt: receipt("4:9"), deliveries: 1 },
            Grant { form: Form::Exact, number: 4, receipt: receipt("5.1:12"), deliveries: 2 },
            Grant { form: Form::Exact, number: 5, receipt: receipt("5.2:12"), deliveries: 1 },
        ];
        let back = Return { form: Form::Exact, receipt: receipt("5.1:12"), revision: 13 };
        let mut writer = JournalWriter::create(&path).unwrap();
        writer.granted(&grants).unwrap();
        writer.returned(back).unwrap();
        writer.late(Form::Exact, receipt("5.2:12")).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let journal = Journal::parse(&format!("{text}+ exact 7 8:2"), true).unwrap();
        assert_eq!((&journal.grants[..], &journal.returns[..], journal.late), (&grants[..], &[back][..], 1));
        assert_eq!(journal.last_pull().count(), 2);
        assert!(Journal::parse("+ exact 7\n", false).is_err());
        assert_eq!(Journal::parse("", true).unwrap().last_pull().count(), 0);
    }
}

//! Who writes, and which programs come and go.

use kvbroker_protocol::{Key, Operation, Operations, Stored, Txn};

use super::{KEYS, PREFIXES, WRITER, World};
use crate::watch_sim::client::{Beginning, Kept, Program};
use crate::watch_sim::subject::Subject;
use crate::watch_sim::violation::Violation;

impl World {
    pub(super) fn write(&mut self) {
        let operations = match self.dice.below(40) {
            0 => Operations::One(Operation::DelPrefix { prefix: self.prefix().to_vec(), limit: None }),
            1..4 => Operations::Many((0..2 + self.dice.below(12)).map(|_| self.mutation()).collect()),
            4..12 => {
                let then = (0..1 + self.dice.below(6)).map(|_| self.mutation()).collect();
                Operations::One(Operation::Txn(Box::new(Txn { compares: Vec::new(), then, otherwise: Vec::new() })))
            }
            _ => Operations::One(self.mutation()),
        };
        self.next_token += 1;
        if let Some(process) = &self.process {
            process.ask(WRITER, self.next_token, operations);
        }
    }

    pub(super) fn prefix(&mut self) -> &'static [u8] {
        PREFIXES[self.dice.below(PREFIXES.len())]
    }

    pub(super) fn mutation(&mut self) -> Operation {
        let key: Key = KEYS[self.dice.below(KEYS.len())].to_vec();
        match self.dice.below(10) {
            0..3 => Operation::Del { key, return_old: false, condition: None },
            more => {
                let ttl_ms = (more == 3).then(|| 1 + self.dice.below(4_000) as u64);
                if more > 6 {
                    let value = self.values[self.dice.below(2)].clone();
                    return Operation::Put { key, value, condition: None, ttl_ms };
                }
                let bytes = match self.dice.below(400) {
                    0 => [40_000, 40_000, 40_000, 1_200_000][self.dice.below(4)],
                    1..20 => 900,
                    _ => self.dice.below(40),
                };
                let text = format!("{:x} {}", self.dice.number(), "v".repeat(bytes));
                let value = Stored::text(&text).expect("a short text is a value");
                Operation::Put { key, value, condition: None, ttl_ms }
            }
        }
    }

    pub(super) fn programs_come_and_go(&mut self) -> Result<(), Violation> {
        if self.programs.len() < 2 || (self.programs.len() < 5 && self.dice.below(3) == 0) {
            self.next_program += 1;
            let is_slow = self.dice.below(4) == 0;
            self.programs.push(Program::new(self.next_program, self.now(), is_slow));
        }
        let at = self.dice.below(self.programs.len());
        if self.dice.below(12) == 0 {
            let program = self.programs.remove(at);
            self.end_program(program);
            return Ok(());
        }
        let count = self.programs[at].watchers.len();
        if count > 3 || (count > 0 && self.dice.below(2) == 0) {
            let bug = self.bug;
            let which = self.dice.below(count);
            let kept = self.programs[at].leave(which, bug);
            self.keep(kept);
            return Ok(());
        }
        let only = (self.dice.below(8) == 0).then(|| KEYS[self.dice.below(KEYS.len())].to_vec());
        let prefix = only.clone().unwrap_or_else(|| self.prefix().to_vec());
        let fitting = (self.dice.below(8) == 0).then(|| self.values[0].clone());
        let subject = Subject { prefix, only, fitting, detail: self.dice.below(8) == 0 };
        let beginning = match self.dice.below(8) {
            0 | 1 => Beginning::Now,
            2..5 => Beginning::Snapshot,
            5 => Beginning::After(self.truth.now().saturating_sub(self.dice.below(40) as u64)),
            _ if self.kept.is_empty() => Beginning::Snapshot,
            _ => {
                self.happened.resumed += 1;
                let which = self.dice.below(self.kept.len());
                Beginning::Resumed(Box::new(self.kept.swap_remove(which)))
            }
        };
        self.with_program(at, |program, around, dice| {
            program.watch(around, subject, beginning, dice);
            Ok(())
        })
    }

    pub(super) fn keep(&mut self, kept: Option<Kept>) {
        self.kept.extend(kept);
        if self.kept.len() > 8 {
            let which = self.dice.below(self.kept.len());
            self.kept.swap_remove(which);
        }
    }

    /// A program ends in whatever it is doing.
    pub(super) fn end_program(&mut self, mut program: Program) {
        while !program.watchers.is_empty() {
            let kept = program.leave(0, self.bug);
            self.keep(kept);
        }
        if let (Some(process), Some(link)) = (&mut self.process, &program.link) {
            process.unlink(link.id);
        }
        self.happened.seen.add(&program.seen);
    }
}

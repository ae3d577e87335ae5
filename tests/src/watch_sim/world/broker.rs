//! The broker's starts, turns and ends.

use std::time::Duration;

use kvbroker_log::{CrashChoice, LogError, SyncMode};

use super::World;
use crate::watch_sim::bugs::PlantedBug;
use crate::watch_sim::process::Process;
use crate::watch_sim::violation::Violation;

impl World {
    pub(super) fn start(&mut self) -> Result<(), Violation> {
        self.starts += 1;
        let weak = [SyncMode::Every(Duration::from_millis(50)), SyncMode::Never];
        self.settings.mode = if self.dice.below(8) < self.weak { weak[self.dice.below(2)] } else { SyncMode::Always };
        // It may be stopped while it starts.
        if self.starts > 1 && self.dice.below(10) == 0 {
            self.stop_disk_soon(30);
        }
        let seed = self.dice.number();
        let before = self.truth.epoch();
        match Process::start(&self.disk, &self.settings, &self.clock, seed, before) {
            Ok((process, found)) => {
                let released = self.truth.now();
                if found.epoch != before && self.starts > 1 {
                    self.happened.epochs += 1;
                    self.happened.losses += u64::from(found.revision < released);
                }
                self.truth.found(found.epoch, found.revision).map_err(Violation::Broker)?;
                self.process = Some(process);
                self.note_known();
                Ok(())
            }
            Err(error) => self.crash(error),
        }
    }

    pub(super) fn note_known(&mut self) {
        if let Some(process) = &self.process {
            self.complete_after = self.complete_after.max(process.complete_after());
        }
    }

    pub(super) fn stop_disk_soon(&mut self, operations: usize) {
        let at = self.disk.operations() + self.dice.below(operations) as u64;
        self.disk.stop_at(at);
    }

    /// The broker's end by an error, which is fine if the disk gave a reason.
    pub(super) fn crash(&mut self, error: LogError) -> Result<(), Violation> {
        if !self.disk.is_stopped() {
            return Err(Violation::Broker(error.to_string()));
        }
        self.broker_is_gone();
        if self.dice.below(3) == 0 {
            self.happened.kills += 1;
            self.disk = self.disk.after_kill();
        } else {
            self.lose_power();
        }
        Ok(())
    }

    pub(super) fn lose_power(&mut self) {
        self.happened.power_failures += 1;
        let choice = match self.dice.below(6) {
            0 => CrashChoice::DropAll,
            1 => CrashChoice::KeepAll,
            2 => CrashChoice::KeepFirst(self.dice.below(40)),
            _ => CrashChoice::Random(self.dice.number()),
        };
        self.disk = self.disk.after_power_failure(&choice);
    }

    /// Its end, however it came: what it had in hand is gone, and so are all connections.
    pub(super) fn broker_is_gone(&mut self) {
        // What was in its queues may just have left.
        if self.dice.below(2) == 0 {
            self.publish();
        }
        if let Some(process) = self.process.take() {
            let passed = process.passed();
            self.truth.commit(passed.confirmed);
            self.truth.doubt(passed.in_doubt);
        }
        for program in &mut self.programs {
            if let Some(link) = &mut program.link {
                link.is_open = false;
                link.up.clear();
            }
            program.questions.clear();
            if self.dice.below(3) > 0 {
                program.answers.clear();
            }
        }
        for program in &mut self.programs {
            // What was answered has been received, or is asked again.
            program.lose_unanswered();
        }
    }

    pub(super) fn end_broker(&mut self) -> Result<(), Violation> {
        if self.process.is_none() {
            return Ok(());
        }
        match self.dice.below(8) {
            0 => {
                let Some(process) = self.process.take() else { return Ok(()) };
                let passed = process.passed();
                self.truth.commit(passed.confirmed);
                let (answers, stopped) = process.stop();
                self.broker_is_gone();
                self.bring_back(answers);
                match stopped {
                    Ok(()) => {
                        self.happened.stops += 1;
                        self.disk = self.disk.after_kill();
                        if self.copy.is_none() {
                            self.copy = Some((self.disk.after_kill(), self.truth.epoch(), self.truth.now()));
                        }
                        Ok(())
                    }
                    Err(error) => self.crash(error),
                }
            }
            1 => {
                self.broker_is_gone();
                self.happened.kills += 1;
                self.disk = self.disk.after_kill();
                Ok(())
            }
            2 | 3 => {
                self.broker_is_gone();
                self.lose_power();
                Ok(())
            }
            // In the middle of something.
            _ => {
                self.stop_disk_soon(8);
                self.write();
                self.turn()
            }
        }
    }

    /// A hand puts the copy of the directory back that it took after a clean stop, which no broker can see.
    pub(super) fn set_back(&mut self) -> Result<(), Violation> {
        if self.dice.below(4) > 0 {
            return Ok(());
        }
        let Some((copy, epoch, revision)) = self.copy.take() else { return Ok(()) };
        if epoch != self.truth.epoch() || self.bug == Some(PlantedBug::EpochKept) {
            return Ok(());
        }
        self.broker_is_gone();
        for _ in 0..self.programs.len() {
            self.with_program(0, |program, around, _| program.take(around, usize::MAX))?;
        }
        self.disk = copy;
        self.happened.set_back += 1;
        self.truth.set_back_to(revision);
        self.kept.retain(|kept| !kept.is_behind(epoch, revision));
        let now = self.now();
        for program in &mut self.programs {
            program.asleep_until = None;
            program.set_back(epoch, revision, now);
        }
        self.start()?;
        // Nobody can tell it any more once as much was written again: it is to be noticed before that.
        self.calm_down()
    }

    /// A turn of the worker.
    pub(super) fn turn(&mut self) -> Result<(), Violation> {
        let with_reader = self.dice.below(3) > 0;
        let Some(process) = &mut self.process else { return Ok(()) };
        let result = process.step(with_reader);
        let passed = process.passed();
        let answers = process.answers();
        self.truth.commit(passed.confirmed);
        self.truth.doubt(passed.in_doubt);
        self.note_known();
        self.bring_back(answers);
        match result {
            Ok(()) => Ok(()),
            Err(error) => self.crash(error),
        }
    }

    /// What is done for the log beside the batches.
    pub(super) fn tend_log(&mut self) -> Result<(), Violation> {
        let stamp_ms = self.stamp_ms();
        let what = self.dice.below(12);
        let bytes = 1 + self.dice.below(20_000) as u64;
        if self.dice.below(60 * self.peace) == 0 {
            self.stop_disk_soon(40);
        }
        let Some(process) = &mut self.process else { return Ok(()) };
        let result = match what {
            0 => process.seal(),
            1 | 2 => process.trim(stamp_ms),
            3 => process.mark(stamp_ms),
            4 => process.give_up_checkpoint(),
            _ => process.advance_checkpoint(bytes),
        };
        self.note_known();
        result.or_else(|error| self.crash(error))
    }
}

//! What the network brings, loses, delays and cuts.

use kvbroker_protocol::{Operations, Outcome};

use super::{DOWN_MAX, HEARTBEAT, World};
use crate::watch_sim::link::{Down, Up};
use crate::watch_sim::process::Token;
use crate::watch_sim::violation::Violation;
use std::time::Duration;

impl World {
    /// The publisher does some of its work.
    pub(super) fn publish(&mut self) {
        let now = self.now();
        let batches = self.dice.below(6);
        let Some(process) = &mut self.process else { return };
        let said = process.publish(batches, now);
        for (links, topic, body) in said {
            for program in &mut self.programs {
                let Some(link) = program.link.as_mut().filter(|link| link.is_open && links.contains(&link.id)) else { continue };
                if link.down.len() >= DOWN_MAX || self.dice.below(100) < self.trouble {
                    self.happened.lost += 1;
                } else {
                    link.down.push_back(Down::Message(topic.clone(), body.clone()));
                }
            }
        }
        if self.heartbeat_at <= now {
            self.heartbeat_at = now + HEARTBEAT;
            for link in self.programs.iter_mut().filter_map(|program| program.link.as_mut()).filter(|link| link.is_open) {
                link.down.push_back(Down::Heartbeat);
            }
        }
    }

    pub(super) fn publish_all(&mut self) {
        for _ in 0..8 {
            self.publish();
        }
    }

    /// A program and the network around it do some of their work.
    pub(super) fn program_acts(&mut self) -> Result<(), Violation> {
        if self.programs.is_empty() {
            return self.programs_come_and_go();
        }
        let at = self.dice.below(self.programs.len());
        let (up, questions, answers, down) = (self.dice.below(4), self.dice.below(4), self.dice.below(4), self.dice.below(8));
        self.carry(at, [up, questions])?;
        let is_asleep = self.programs[at].asleep_until.is_some_and(|until| until > self.now());
        if is_asleep {
            return Ok(());
        }
        self.connect(at, 3);
        let is_up = self.process.is_some();
        let mut token = self.next_token;
        self.with_program(at, |program, around, dice| {
            for _ in 0..answers {
                let Some((token, outcome)) = program.answers.pop_front() else { break };
                program.hear(around, token, outcome)?;
            }
            for _ in 0..down {
                let Some(down) = program.link.as_mut().and_then(|link| link.down.pop_front()) else { break };
                program.receive(around, down);
            }
            program.act(around, is_up, &mut token, dice)
        })?;
        self.next_token = token;
        Ok(())
    }

    /// Makes a connection where there is none.
    pub(super) fn connect(&mut self, at: usize, hesitation: usize) {
        let now = self.now();
        let is_open = self.programs[at].link.as_ref().is_some_and(|link| link.is_open);
        if is_open || self.process.is_none() || self.dice.below(1 + hesitation) > 0 {
            return;
        }
        self.next_link += 1;
        let quietly = self.programs[at].link.is_some() && self.dice.below(2) == 0;
        self.programs[at].connect(now, self.next_link, quietly);
    }

    /// Brings subscriptions and questions to the broker.
    pub(super) fn carry(&mut self, at: usize, [up, questions]: [usize; 2]) -> Result<(), Violation> {
        let now = self.now();
        let Some(process) = &mut self.process else { return Ok(()) };
        let program = &mut self.programs[at];
        if let Some(link) = program.link.as_mut().filter(|link| link.is_open) {
            for _ in 0..up {
                let Some(up) = link.up.pop_front() else { break };
                // libzmq drops a subscription that finds no room, and says nothing.
                if self.dice.below(400) < self.trouble {
                    continue;
                }
                match up {
                    Up::Subscribe(prefix) => process.subscribe(link.id, &prefix, now),
                    Up::Unsubscribe(prefix) => process.unsubscribe(link.id, &prefix),
                }
            }
        }
        for _ in 0..questions {
            let Some((token, operation)) = program.questions.pop_front() else { break };
            process.ask(program.id, token, Operations::One(operation));
        }
        Ok(())
    }

    /// The network ends a connection.
    pub(super) fn cut(&mut self) {
        if self.programs.is_empty() {
            return;
        }
        let at = self.dice.below(self.programs.len());
        let program = &mut self.programs[at];
        self.happened.cuts += 1;
        if self.dice.below(3) == 0 {
            program.lose_answers();
        }
        if let Some(link) = program.link.as_mut().filter(|link| link.is_open) {
            link.is_open = false;
            link.up.clear();
            let kept = self.dice.below(link.down.len() + 1);
            link.down.truncate(kept);
            let id = link.id;
            if let Some(process) = &mut self.process {
                process.unlink(id);
            }
        }
    }

    pub(super) fn sleep(&mut self) {
        if self.programs.is_empty() {
            return;
        }
        let at = self.dice.below(self.programs.len());
        let ms = [500, 5_000, 40_000][self.dice.below(3)];
        self.programs[at].asleep_until = Some(self.now() + Duration::from_millis(ms));
    }

    pub(super) fn bring_back(&mut self, answers: Vec<(Token, Outcome)>) {
        for (token, outcome) in answers {
            if let Some(program) = self.programs.iter_mut().find(|program| program.has_asked(token)) {
                program.answers.push_back((token, outcome));
            }
        }
    }
}

//! A consumer: pulls some items, writes down which, and does them.

use std::path::PathBuf;
use std::time::Duration;

use kvbroker::client::{Client, ClientError, Pipeline};
use kvbroker_protocol::{Condition, Delivery, ErrorCode, Operation, Pull, QueueOperation, Receipt, Stored, Txn};
use kvbroker_tests::soak::{Form, Grant, JournalWriter, Return, number, priority};
use kvbroker_tests::{Dice, operation};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{Args, Failed, connect, stopped};

/// What a consumer is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Consuming {
    /// Where it writes down what it is handed.
    pub(crate) journal: PathBuf,
    /// For its dice.
    pub(crate) seed: u64,
    /// How often it is too slow.
    pub(crate) slow: Slow,
}

/// A consumer that takes longer than its lease.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Slow {
    /// Of so many pulls one.
    of: u64,
    /// What it takes.
    ms: u64,
}

impl Slow {
    /// About as often in short runs as in long ones.
    pub(crate) fn of(args: &Args) -> Slow {
        let pulls = args.items * 2 / PULLED_MAX as u64;
        Slow { of: (pulls / SLOW_PULLS).max(2), ms: args.lease_ms * 5 / 4 }
    }
}

/// Most items of a pull.
const PULLED_MAX: usize = 32;
/// How long a pull waits.
const WAIT: Duration = Duration::from_millis(100);
/// Of so many items one is given back.
const RETURNED_OF: usize = 40;
/// Of so many pulls one has its leases renewed.
const RENEWED_OF: usize = 20;
/// So many pulls of a run are too slow.
const SLOW_PULLS: u64 = 60;
/// Added to with each transaction.
pub(crate) const SUM: &str = "sum";

struct Consumer {
    client: Client,
    pipeline: Pipeline,
    journal: JournalWriter,
    dice: Dice,
    slow: Slow,
}

pub(crate) fn run(task: &Consuming) -> Result<(), Failed> {
    let client = connect()?;
    let journal = JournalWriter::create(&task.journal)?;
    let mut consumer = Consumer { pipeline: client.pipeline(), client, journal, dice: Dice::new(task.seed), slow: task.slow };
    while !stopped() {
        consumer.turn()?;
    }
    Ok(())
}

fn queue(operation: QueueOperation) -> Operation {
    Operation::Queue(Box::new(operation))
}

impl Consumer {
    fn turn(&mut self) -> Result<(), Failed> {
        let form = if self.dice.below(4) == 0 { Form::Loose } else { Form::Exact };
        let limit = 1 + self.dice.below(PULLED_MAX);
        let wait_ms = WAIT.as_millis() as u64;
        let pull = Pull { queue: form.queue().into(), limit, lease_ms: None, wait_ms, no_ack: false };
        let (deliveries, _) = self.client.queue(form.queue()).pull_as(pull)?;
        let grants = deliveries.iter().map(|delivery| grant(form, delivery)).collect::<Result<Vec<Grant>, Failed>>()?;
        // Before anything is done with them.
        self.journal.granted(&grants)?;
        if self.dice.below(RENEWED_OF) == 0 {
            for grant in &grants {
                match self.client.queue(form.queue()).extend(grant.receipt, None) {
                    Ok(()) => {}
                    Err(error) if is_late(&error) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        match form {
            Form::Exact => self.in_transactions(&grants),
            Form::Loose => self.one_after_the_other(&grants),
        }
    }

    /// Now and then it takes longer than anybody would have thought.
    fn work(&mut self) {
        if self.dice.below(self.slow.of as usize) == 0 {
            std::thread::sleep(Duration::from_millis(self.slow.ms));
        }
    }

    /// Result, sum and acknowledgement together; some are given back instead.
    fn in_transactions(&mut self, grants: &[Grant]) -> Result<(), Failed> {
        self.work();
        let mut tickets = Vec::with_capacity(grants.len());
        for grant in grants {
            let returned = self.dice.below(RETURNED_OF) == 0;
            let operation = if returned { nack(grant) } else { exactly_once(grant)? };
            tickets.push((grant, returned, self.pipeline.submit(operation)));
        }
        for (grant, returned, ticket) in tickets {
            match ticket.wait() {
                Ok((_, revision)) if returned => {
                    self.journal.returned(Return { form: grant.form, receipt: grant.receipt, revision })?;
                }
                Ok(_) => {}
                Err(error) => self.was_late(grant, error)?,
            }
        }
        Ok(())
    }

    /// The effect, and when it is there the acknowledgement.
    fn one_after_the_other(&mut self, grants: &[Grant]) -> Result<(), Failed> {
        let effect = |grant: &Grant| Operation::Incr { key: grant.form.effect_key(grant.number).into(), by: 1 };
        let tickets: Vec<_> = grants.iter().map(|grant| self.pipeline.submit(effect(grant))).collect();
        for ticket in tickets {
            ticket.wait()?;
        }
        self.work();
        let tickets: Vec<_> = grants.iter().map(|grant| (grant, self.pipeline.submit(ack(grant)))).collect();
        for (grant, ticket) in tickets {
            if let Err(error) = ticket.wait() {
                self.was_late(grant, error)?;
            }
        }
        Ok(())
    }

    fn was_late(&mut self, grant: &Grant, error: ClientError) -> Result<(), Failed> {
        if is_late(&error) {
            return Ok(self.journal.late(grant.form, grant.receipt)?);
        }
        Err(format!("item {} of {:?}: {error}", grant.number, grant.receipt).into())
    }
}

fn is_late(error: &ClientError) -> bool {
    error.code() == Some(ErrorCode::LeaseLost)
}

/// What was handed out, if it is what was pushed.
fn grant(form: Form, delivery: &Delivery) -> Result<Grant, Failed> {
    let Some(number) = number(&delivery.value) else {
        return Err(format!("{} has another value than was pushed", delivery.receipt).into());
    };
    if Form::of(number) != form || priority(number) != delivery.priority {
        return Err(format!("item {number} came from queue {} with priority {}", form.queue(), delivery.priority).into());
    }
    let &Delivery { receipt: Receipt { item, token }, deliveries, .. } = delivery;
    Ok(Grant { form, number, receipt: Receipt { item, token }, deliveries })
}

fn ack(grant: &Grant) -> Operation {
    queue(QueueOperation::Ack { queue: grant.form.queue().into(), receipt: grant.receipt })
}

fn nack(Grant { form, receipt, .. }: &Grant) -> Operation {
    let (item, token) = (receipt.item.to_string(), receipt.token);
    operation(&json!({"op": "nack", "queue": form.queue(), "item": item, "token": token, "reason": "not now"}))
}

fn exactly_once(grant: &Grant) -> Result<Operation, Failed> {
    let result = Operation::Put {
        key: grant.form.effect_key(grant.number).into(),
        value: Stored::text(&grant.receipt.to_string())?,
        // A second time would be told.
        condition: Some(Condition::Absent),
        ttl_ms: None,
    };
    let sum = Operation::Incr { key: SUM.into(), by: i64::try_from(grant.number)? };
    Ok(Operation::Txn(Box::new(Txn { compares: vec![], then: vec![ack(grant), result, sum], otherwise: vec![] })))
}

//! The verbs of queues: names and fields, as in the grammar's own table.

use super::{Declaration, ItemId, ItemState, Overflow, Pull, Push, QueueOperation, Receipt, Until, queue_name};
use crate::conversion::wanted;
use crate::error::Failure;
use crate::field::Raw;
use crate::grammar::{Fields, Verb};
use crate::limits;
use crate::operation::Operation;
use crate::value::Key;

pub(crate) static QUEUE_VERBS: &[Verb] = &[
    Verb {
        names: &["declare"],
        positional: &["queue"],
        options: &[
            "lease",
            "max_deliveries",
            "retry",
            "ttl",
            "max_items",
            "max_bytes",
            "overflow",
            "dead_queue",
            "paused",
            "transient",
            "must_exist",
        ],
        build: |fields| {
            let number = |at, name| fields.given(at).map(|raw| raw.uint(name)).transpose();
            let max_deliveries = number(2, "max_deliveries")?;
            let max_deliveries = max_deliveries.map(u32::try_from).transpose();
            let max_deliveries = max_deliveries.map_err(|_| Failure::limit("`max_deliveries` is at most 2^32-1"))?;
            let dead = fields.given(8).map(|raw| raw.key("dead_queue")).transpose()?;
            let options = Declaration {
                lease_ms: lease(fields, 1)?,
                max_deliveries,
                retry_ms: period(fields, 3, "retry")?,
                ttl_ms: period(fields, 4, "ttl")?,
                max_items: number(5, "max_items")?,
                max_bytes: number(6, "max_bytes")?,
                overflow: fields.given(7).map(overflow).transpose()?,
                dead: dead.map(|name| if name.is_empty() { Ok(name) } else { queue_name(name) }).transpose()?,
                paused: fields.given(9).map(|raw| raw.boolean("paused")).transpose()?,
                transient: fields.given(10).map(|raw| raw.boolean("transient")).transpose()?,
                must_exist: fields.given(11).map(|raw| raw.boolean("must_exist")).transpose()?.unwrap_or_default(),
            };
            queue(fields).map(|queue| one(QueueOperation::Declare { queue, options }))
        },
    },
    Verb {
        names: &["drop_queue"],
        positional: &["queue"],
        options: &[],
        build: |fields| queue(fields).map(|queue| one(QueueOperation::Drop { queue })),
    },
    Verb {
        names: &["push"],
        positional: &["queue", "value"],
        options: &["priority", "delay", "ttl", "type"],
        build: |fields| {
            let priority = fields.given(2).map(|raw| raw.int("priority")).transpose()?.unwrap_or_default();
            let priority = i8::try_from(priority).map_err(|_| Failure::limit("`priority` is a number from -128 to 127"))?;
            let ttl_ms = period(fields, 4, "ttl")?;
            if ttl_ms == Some(0) {
                return Err(Failure::invalid("`ttl` is at least 1 ms; leave it out for an item that stays"));
            }
            let delay_ms = period(fields, 3, "delay")?.unwrap_or_default();
            if ttl_ms.is_some_and(|ttl_ms| ttl_ms <= delay_ms) {
                return Err(Failure::invalid(
                    "`ttl` counts from the push, and is over before `delay` is: nobody would get the item",
                ));
            }
            Ok(one(QueueOperation::Push(Push {
                queue: queue(fields)?,
                value: fields.needed(1)?.stored()?,
                priority,
                delay_ms,
                ttl_ms,
                content_type: text(fields, 5, "type", limits::QUEUE_TYPE_BYTES_MAX)?.filter(|text| !text.is_empty()),
            })))
        },
    },
    Verb {
        names: &["pull"],
        positional: &["queue"],
        options: &["limit", "lease", "wait", "no_ack", "as", "consumer"],
        build: |fields| {
            let pull = one(QueueOperation::Pull(Pull {
                queue: queue(fields)?,
                limit: limit(fields, 1)?.unwrap_or(1),
                lease_ms: lease(fields, 2)?,
                wait_ms: wait(fields, 3)?,
                no_ack: fields.given(4).map(|raw| raw.boolean("no_ack")).transpose()?.unwrap_or_default(),
            }));
            wanted(fields, 5, pull)
        },
    },
    Verb {
        names: &["ack"],
        positional: &["queue", "item", "token"],
        options: &[],
        build: |fields| Ok(one(QueueOperation::Ack { queue: queue(fields)?, receipt: receipt(fields)? })),
    },
    Verb {
        names: &["nack"],
        positional: &["queue", "item", "token"],
        options: &["delay", "reason", "unused"],
        build: |fields| {
            Ok(one(QueueOperation::Nack {
                queue: queue(fields)?,
                receipt: receipt(fields)?,
                delay_ms: period(fields, 3, "delay")?,
                reason: reason(fields, 4)?,
                unused: fields.given(5).map(|raw| raw.boolean("unused")).transpose()?.unwrap_or_default(),
            }))
        },
    },
    Verb {
        names: &["extend"],
        positional: &["queue", "item", "token"],
        options: &["lease"],
        build: |fields| {
            let (queue, receipt) = (queue(fields)?, receipt(fields)?);
            Ok(one(QueueOperation::Extend { queue, receipt, lease_ms: lease(fields, 3)? }))
        },
    },
    Verb {
        names: &["bury"],
        positional: &["queue", "item"],
        options: &["token", "reason"],
        build: |fields| {
            let token = fields.given(2).map(|raw| raw.uint("token")).transpose()?;
            let (queue, item) = (queue(fields)?, item(fields.needed(1)?)?);
            Ok(one(QueueOperation::Bury { queue, item, token, reason: reason(fields, 3)? }))
        },
    },
    Verb {
        names: &["kick"],
        positional: &["queue"],
        options: &["item", "limit"],
        build: |fields| {
            let item = fields.given(1).map(item).transpose()?;
            Ok(one(QueueOperation::Kick { queue: queue(fields)?, item, limit: limit(fields, 2)? }))
        },
    },
    Verb {
        names: &["purge"],
        positional: &["queue"],
        options: &["state", "limit"],
        build: |fields| {
            let state = fields.given(1).map(state).transpose()?;
            if state == Some(ItemState::Leased) {
                return Err(Failure::invalid("what a consumer has is not purged; pause the queue and wait, or bury it"));
            }
            Ok(one(QueueOperation::Purge { queue: queue(fields)?, state, limit: limit(fields, 2)? }))
        },
    },
    Verb {
        names: &["peek"],
        positional: &["queue"],
        options: &["state", "limit", "cursor", "as", "consumer"],
        build: |fields| {
            let state = fields.given(1).map(state).transpose()?.unwrap_or(ItemState::Ready);
            let cursor = fields.given(3).map(item).transpose()?;
            wanted(fields, 4, one(QueueOperation::Peek { queue: queue(fields)?, state, limit: limit(fields, 2)?, cursor }))
        },
    },
    Verb {
        names: &["track"],
        positional: &["queue", "item"],
        options: &["until", "wait"],
        build: |fields| {
            let until = fields.given(2).map(|raw| raw.text("until")).transpose()?;
            let until = until.map(|name| {
                let names = Until::ALL.map(Until::name).join(" and ");
                Until::from_name(&name).ok_or_else(|| Failure::invalid(format!("`until` must be one of {names}")))
            });
            let until = until.transpose()?.unwrap_or_default();
            Ok(one(QueueOperation::Track {
                queue: queue(fields)?,
                item: item(fields.needed(1)?)?,
                until,
                wait_ms: wait(fields, 3)?,
            }))
        },
    },
    Verb {
        names: &["queues"],
        positional: &["prefix"],
        options: &["queue", "cursor", "limit"],
        build: |fields| {
            let queue = fields.given(1).map(|raw| raw.key("queue").and_then(queue_name)).transpose()?;
            Ok(one(QueueOperation::Queues {
                queue,
                prefix: fields.given(0).map(|raw| raw.key("prefix")).transpose()?.unwrap_or_default(),
                cursor: fields.given(2).map(|raw| raw.key("cursor")).transpose()?,
                limit: limit(fields, 3)?,
            }))
        },
    },
];

fn one(operation: QueueOperation) -> Operation {
    Operation::Queue(Box::new(operation))
}

fn queue(fields: &Fields<'_>) -> Result<Key, Failure> {
    queue_name(fields.needed(0)?.key("queue")?)
}

fn receipt(fields: &Fields<'_>) -> Result<Receipt, Failure> {
    Ok(Receipt { item: item(fields.needed(1)?)?, token: fields.needed(2)?.uint("token")? })
}

fn item(raw: Raw<'_>) -> Result<ItemId, Failure> {
    raw.text("item")?.parse().map_err(|error| Failure::invalid(format!("`item`: {error}")))
}

fn state(raw: Raw<'_>) -> Result<ItemState, Failure> {
    let names = ItemState::ALL.map(ItemState::name).join(", ");
    ItemState::from_name(&raw.text("state")?).ok_or_else(|| Failure::invalid(format!("`state` must be one of {names}")))
}

fn overflow(raw: Raw<'_>) -> Result<Overflow, Failure> {
    let names = Overflow::ALL.map(Overflow::name).join(" and ");
    Overflow::from_name(&raw.text("overflow")?).ok_or_else(|| Failure::invalid(format!("`overflow` must be one of {names}")))
}

fn lease(fields: &Fields<'_>, at: usize) -> Result<Option<u64>, Failure> {
    let (least, most) = (limits::QUEUE_LEASE_MS_MIN, limits::QUEUE_LEASE_MS_MAX);
    match fields.given(at).map(|raw| raw.uint("lease")).transpose()? {
        Some(ms) if ms < least => Err(Failure::limit(format!("`lease` is at least {least} ms"))),
        Some(ms) if ms > most => {
            Err(Failure::limit(format!("`lease` is at most {most} ms; who needs longer says `extend` again before it ends")))
        }
        lease_ms => Ok(lease_ms),
    }
}

fn period(fields: &Fields<'_>, at: usize, name: &str) -> Result<Option<u64>, Failure> {
    match fields.given(at).map(|raw| raw.uint(name)).transpose()? {
        Some(ms) if ms > limits::TTL_MS_MAX => Err(Failure::limit(format!("`{name}` is at most {} ms", limits::TTL_MS_MAX))),
        ms => Ok(ms),
    }
}

fn wait(fields: &Fields<'_>, at: usize) -> Result<u64, Failure> {
    let wait_ms = fields.given(at).map(|raw| raw.uint("wait")).transpose()?.unwrap_or_default();
    if wait_ms > limits::QUEUE_WAIT_MS_MAX {
        let message = format!("`wait` is at most {} ms; ask again for a longer one", limits::QUEUE_WAIT_MS_MAX);
        return Err(Failure::limit(message));
    }
    Ok(wait_ms)
}

fn limit(fields: &Fields<'_>, at: usize) -> Result<Option<usize>, Failure> {
    match fields.given(at).map(|raw| raw.uint("limit")).transpose()? {
        Some(0) => Err(Failure::invalid("`limit` is at least 1")),
        limit => Ok(limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX))),
    }
}

fn text(fields: &Fields<'_>, at: usize, name: &str, bytes_max: usize) -> Result<Option<String>, Failure> {
    match fields.given(at).map(|raw| raw.text(name)).transpose()? {
        Some(text) if text.len() > bytes_max => {
            Err(Failure::limit(format!("`{name}` has {} bytes; at most {bytes_max} are taken", text.len())))
        }
        text => Ok(text),
    }
}

fn reason(fields: &Fields<'_>, at: usize) -> Result<String, Failure> {
    Ok(text(fields, at, "reason", limits::QUEUE_REASON_BYTES_MAX)?.unwrap_or_default())
}

//! Pulls whose items are converted as they are handed out.
//!
//! - An item that can't become what its consumer asks for counts as delivered and comes back, with the reason, after a rest that grows from
//!   one second to a minute. So it is dead after as many deliveries as of any other failure, nothing turns in circles meanwhile, and a
//!   consumer that asks for something else may have it. The pull goes on with the next item.
//! - It is never lost, also where a pull needs no acknowledgement.

use kvbroker_protocol::{Answer, Delivery, ErrorCode, Failure, ItemId, Progress, Pull, QueueAnswer, Receipt, limits};

use super::expire::give_back;
use super::operate::CHANGE_LOG_BYTES;
use super::overlay::View;
use super::{Life, Stage, read};
use crate::conversions::ItemConversion;
use crate::decide::Turn;

/// Takes items on lease, or for good, converted.
pub(crate) fn pull_converted(
    view: &mut View<'_>,
    pull: &Pull,
    conversion: ItemConversion<'_>,
    turn: &mut Turn,
) -> Result<Answer, Failure> {
    let Pull { queue, limit, lease_ms, no_ack, .. } = pull;
    let (options, stamp) = (view.options(queue).cloned().unwrap_or_default(), view.stamp);
    let lease_ms = lease_ms.unwrap_or(options.lease_ms);
    let limit = if options.paused { 0 } else { (*limit).min(limits::QUEUE_ITEMS_MAX) };
    let mut items: Vec<Delivery> = Vec::new();
    let mut bytes_left = limits::PAGE_BYTES_MAX;
    let mut looked_at = 0;
    'pages: while items.len() < limit && looked_at < limits::QUEUE_ITEMS_MAX {
        // What was looked at is ready no more, so this goes on where it ended.
        let ids: Vec<ItemId> = view.ready(queue).map(|(_, id)| id).take(limit - items.len()).collect();
        if ids.is_empty() {
            break;
        }
        for id in ids {
            let Some(seen) = view.item(queue, id) else { continue };
            if turn.is_used_up() || !turn.take_log_bytes(CHANGE_LOG_BYTES) {
                if looked_at == 0 {
                    return Err(used_up());
                }
                break 'pages;
            }
            turn.examine(0);
            let (before, record) = (seen.life.clone(), &seen.record);
            let deliveries = before.deliveries.saturating_add(1);
            let leased = Life {
                stage: Stage::Leased { token: stamp.revision, granted_ms: stamp.time_ms, lease_ms },
                deliveries,
                reason: "".into(),
            };
            match conversion.of(&record.value(), record.content_type, record.subject, turn) {
                Ok((value, content_type)) => {
                    let bytes = value.document().len();
                    if !items.is_empty() && bytes > bytes_left {
                        break 'pages;
                    }
                    if !turn.take_reply_bytes(bytes) {
                        if looked_at == 0 {
                            return Err(used_up());
                        }
                        break 'pages;
                    }
                    bytes_left = bytes_left.saturating_sub(bytes);
                    items.push(Delivery {
                        receipt: Receipt { item: id, token: if *no_ack { 0 } else { stamp.revision } },
                        value,
                        deliveries,
                        priority: record.priority,
                        pushed_ms: record.pushed_ms,
                        content_type,
                        subject: record.subject.map(<[u8]>::to_vec),
                        reason: read::reason(&before, record),
                    });
                    if *no_ack { view.remove(queue, id, Progress::Done)? } else { view.set(queue, id, leased)? }
                }
                Err(error) => {
                    view.set(queue, id, leased)?;
                    let reason = format!("not converted ({}): {error}", error.name());
                    let rest_ms = rest_ms(deliveries).max(options.retry_ms);
                    if let Err(failure) = give_back(view, queue, id, Some(rest_ms), &reason, Some(turn)) {
                        // It was to be moved, and is too large for what is left of this turn.
                        view.set(queue, id, before)?;
                        if looked_at == 0 {
                            return Err(failure);
                        }
                        break 'pages;
                    }
                }
            }
            looked_at += 1;
        }
    }
    Ok(Answer::Queue(QueueAnswer::Pulled { items, lease_ms: if *no_ack { 0 } else { lease_ms } }))
}

fn rest_ms(deliveries: u32) -> u64 {
    let doubled = limits::NOT_CONVERTED_REST_MS_MIN.saturating_mul(1 << (deliveries.saturating_sub(1)).min(16));
    doubled.min(limits::NOT_CONVERTED_REST_MS_MAX)
}

fn used_up() -> Failure {
    let message = "this array has used up its turn, or its reply is full; ask for this operation in a message of its own";
    Failure::new(ErrorCode::ReplyFull, message)
}

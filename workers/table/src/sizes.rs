//! Rough bytes of what waits in the outboxes, for their bounds.

use kvbroker_core::Message;
use kvbroker_protocol::{
    Answer, Binding, ConversionAnswer, Delivery, EventBefore, Fate, GrantInfo, HelloAnswer, Key, KeyEvent, Outcome, Peeked,
    QueueAnswer, RevisionEvents, RoutingAnswer, Rule, StatValue, Version, VersionKind,
};

use crate::released::{Event, Publication, ReplyOut};

/// Rough bytes of a reply, and of each of its outcomes, beside their values: for the bound of the release queue.
const REPLY_OVERHEAD_BYTES: usize = 256;
const OUTCOME_OVERHEAD_BYTES: usize = 80;

/// Rough bytes that a reply takes in memory until it is sent.
pub(crate) fn reply_bytes(out: &ReplyOut) -> usize {
    let envelope: usize = out.envelope.frames.iter().map(|frame| frame.len() + 24).sum();
    REPLY_OVERHEAD_BYTES + envelope + outcome_bytes(out.reply.outcomes.as_slice())
}

fn outcome_bytes(outcomes: &[Outcome]) -> usize {
    let bytes = |outcome: &Outcome| match &outcome.result {
        Ok(answer) => answer_bytes(answer),
        Err(failure) => {
            failure.message.len() + failure.original.as_ref().map_or(0, |original| outcome_bytes(std::slice::from_ref(original)))
        }
    };
    outcomes.iter().map(|outcome| bytes(outcome) + OUTCOME_OVERHEAD_BYTES).sum()
}

fn answer_bytes(answer: &Answer) -> usize {
    const ROW_BYTES: usize = 64;
    let prefixes = |prefixes: &[Key]| prefixes.iter().map(|prefix| prefix.len() + size_of::<Key>()).sum::<usize>();
    match answer {
        Answer::Removed(value) | Answer::Value { value, .. } => value.as_bytes().len(),
        // Also for a key that is not there: its place is as large.
        Answer::Values(values) => {
            values.iter().map(|found| found.as_ref().map_or(0, |found| found.value.as_bytes().len()) + ROW_BYTES).sum()
        }
        Answer::Rows { rows, .. } => rows.iter().map(|row| row.key.len() + row.value.as_bytes().len() + ROW_BYTES).sum(),
        Answer::Keys { keys, .. } => keys.iter().map(|key| key.len() + ROW_BYTES).sum(),
        Answer::Queue(answer) => queue_bytes(answer),
        Answer::Routing(answer) => routing_bytes(answer),
        Answer::Conversion(ConversionAnswer::Converted(value)) => value.as_bytes().len(),
        Answer::Conversion(ConversionAnswer::Rules { rules, .. }) => {
            rules.iter().map(|rule| size_of::<Rule>() + rule.to_record().len()).sum()
        }
        Answer::Txn { results, .. } => outcome_bytes(results),
        Answer::Stats(stats) => stats.iter().map(|(name, value)| name.len() + stat_bytes(value) + ROW_BYTES).sum(),
        Answer::Hello(hello) => size_of::<HelloAnswer>() + hello.limits.len() * ROW_BYTES + prefixes(&hello.prefixes),
        Answer::Who(users) => {
            users.iter().map(|user| size_of::<GrantInfo>() + user.comment.len() + prefixes(&user.prefixes)).sum()
        }
        Answer::Result(Fate::Decided(outcome)) => outcome_bytes(std::slice::from_ref(outcome)),
        Answer::History { versions, .. } => versions.iter().map(version_bytes).sum(),
        Answer::Events { events, .. } => events.iter().map(revision_bytes).sum(),
        Answer::Done
        | Answer::Size(_)
        | Answer::Exists(_)
        | Answer::Integer(_)
        | Answer::Ttl(_)
        | Answer::Deleted { .. }
        | Answer::Granted { .. }
        | Answer::Result(_) => 0,
    }
}

fn routing_bytes(answer: &RoutingAnswer) -> usize {
    match answer {
        RoutingAnswer::Published { copies, .. } => copies.iter().map(|copy| copy.queue.len() + size_of_val(copy)).sum(),
        RoutingAnswer::Bindings { bindings, .. } => {
            let texts = |one: &Binding| one.queue.len() + one.pattern.len() + one.where_.as_ref().map_or(0, String::len);
            bindings.iter().map(|binding| size_of::<Binding>() + texts(binding)).sum()
        }
    }
}

fn queue_bytes(answer: &QueueAnswer) -> usize {
    let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    match answer {
        QueueAnswer::Pulled { items, .. } => {
            items.iter().map(|item| size_of::<Delivery>() + item.value.as_bytes().len() + text(&item.content_type)).sum()
        }
        QueueAnswer::Peeked { items, .. } => items
            .iter()
            .map(|item| size_of::<Peeked>() + item.value.as_bytes().len() + text(&item.content_type) + item.reason.len())
            .sum(),
        QueueAnswer::Queues { queues, .. } => {
            const FACT_BYTES: usize = 80;
            queues.iter().map(|info| info.queue.len() + info.facts.len() * FACT_BYTES).sum()
        }
        QueueAnswer::Pushed { .. } | QueueAnswer::Kicked { .. } | QueueAnswer::Tracked(_) => 0,
    }
}

/// Rough bytes of what one revision changed.
pub(crate) fn revision_bytes(revision: &RevisionEvents) -> usize {
    let new = |change: &KeyEvent| change.kind.value().map_or(0, |value| value.as_bytes().len());
    let old = |change: &KeyEvent| match &change.before {
        Some(EventBefore::Value { value, .. }) => value.as_bytes().len(),
        Some(EventBefore::Unknown | EventBefore::Absent) | None => 0,
    };
    let changes = revision.changes.iter().map(|change| change.key.len() + new(change) + old(change) + size_of::<KeyEvent>());
    size_of::<RevisionEvents>() + changes.sum::<usize>()
}

/// Rough bytes of one version of a key.
pub(crate) fn version_bytes(version: &Version) -> usize {
    let value = match &version.kind {
        VersionKind::Put(value) => value.as_bytes().len(),
        VersionKind::Remove | VersionKind::Expire => 0,
    };
    value + size_of::<Version>()
}

fn stat_bytes(value: &StatValue) -> usize {
    match value {
        StatValue::Number(_) => 0,
        StatValue::Text(text) => text.len(),
    }
}

pub(crate) fn event_bytes(event: &Event) -> usize {
    let value = match &event.kind {
        VersionKind::Put(value) => value.as_bytes().len(),
        VersionKind::Remove | VersionKind::Expire => 0,
    };
    event.key.len() + value + 64
}

pub(crate) fn publication_bytes(publication: &Publication) -> usize {
    let Message { subject, value } = &publication.message;
    subject.len() + value.as_bytes().len() + 64
}

#[cfg(test)]
mod tests {
    use kvbroker_protocol::{Found, Key, Stored};

    use super::*;

    #[test]
    fn answers_count_with_what_they_hold() {
        let value = || Stored::integer(1);
        let found = Found { value: value(), modified: 1, created: 1 };
        let row = || Outcome { revision: None, result: Ok(Answer::Removed(value())) };
        let many = 1_000;
        let least = [
            (Answer::Values(vec![None; many]), many * size_of::<Option<Found>>()),
            (Answer::Values(vec![Some(found); many]), many * (size_of::<Option<Found>>() + value().as_bytes().len())),
            (Answer::Keys { keys: vec![b"key".to_vec(); many], cursor: None, snapshot: None }, many * (size_of::<Key>() + 3)),
            (Answer::Txn { succeeded: true, results: vec![row(); many] }, many * value().as_bytes().len()),
        ];
        for (answer, bytes) in least {
            assert!(answer_bytes(&answer) >= bytes, "{} for {bytes}", answer_bytes(&answer));
        }
    }
}

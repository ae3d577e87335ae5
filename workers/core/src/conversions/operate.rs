//! What the operations on rules mean.

use std::ops::Bound;

use kvbroker_protocol::{
    Answer, Conversion, ConversionAnswer, ConversionOperation, ErrorCode, Failure, Rule, Scope, Stored, limits,
};

use super::{Rules, deliver, is_seen, put_rule};
use crate::change::{Change, Space};
use crate::decide::Turn;

/// Does one operation; what it changes is put into `changes`.
pub(crate) fn operate(
    rules: &Rules,
    scope: &Scope,
    operation: ConversionOperation,
    changes: &mut Vec<Change>,
    turn: &mut Turn,
) -> Result<Answer, Failure> {
    match operation {
        ConversionOperation::Declare(rule) => declare(rules, scope, &rule, changes),
        ConversionOperation::Drop { rule } => {
            rules.seen(&rule, scope).ok_or_else(no_rule)?;
            changes.push(Change { space: Space::Rule, key: rule, value: None });
            Ok(Answer::Done)
        }
        ConversionOperation::Rules { rule: Some(rule), .. } => {
            let rules = vec![rules.seen(&rule, scope).ok_or_else(no_rule)?.clone()];
            Ok(Answer::Conversion(ConversionAnswer::Rules { rules, cursor: None }))
        }
        ConversionOperation::Rules { rule: None, prefix, cursor, limit } => {
            list(rules, scope, &prefix, cursor.as_deref(), limit, turn)
        }
        ConversionOperation::Convert { value, rule, from, to } => {
            let rule = rule.map(|rule| rules.seen(&rule, scope).ok_or_else(no_rule)).transpose()?;
            if rule.is_some_and(|rule| rule.program.is_some()) {
                let message = "this rule's program is not run by the broker; run it with `convert run`, or by itself";
                return Err(Failure::new(ErrorCode::NotConvertible, message));
            }
            let conversion = Conversion {
                from: from.or(rule.and_then(|rule| rule.from)),
                steps: rule.map(|rule| &rule.steps),
                to: to.or(rule.and_then(|rule| rule.to)),
            };
            convert(&value, conversion, turn)
        }
    }
}

fn no_rule() -> Failure {
    Failure::new(ErrorCode::NotFound, "there is no such rule; `rules` tells which there are")
}

fn declare(rules: &Rules, scope: &Scope, rule: &Rule, changes: &mut Vec<Change>) -> Result<Answer, Failure> {
    let before = rules.by_name.get(rule.name.as_slice()).map(|before| &**before);
    match before {
        Some(before) if before == rule => return Ok(Answer::Done),
        Some(before) if !is_seen(before, scope) => {
            let message = "the name is taken by a rule that is not this client's to change; take another one";
            return Err(Failure::new(ErrorCode::Conflict, message));
        }
        None if rules.len() >= limits::RULES_MAX => {
            let message = format!("there are {} rules, and no more can be made; drop some", limits::RULES_MAX);
            return Err(Failure::limit(message));
        }
        Some(_) | None => {}
    }
    rules.subjects.check_room(rule, before)?;
    changes.push(put_rule(rule));
    Ok(Answer::Done)
}

fn list(
    rules: &Rules,
    scope: &Scope,
    prefix: &[u8],
    cursor: Option<&[u8]>,
    limit: Option<usize>,
    turn: &mut Turn,
) -> Result<Answer, Failure> {
    let limit = limit.unwrap_or(limits::RULES_MAX).min(limits::RULES_MAX);
    let from = match cursor.filter(|cursor| *cursor >= prefix) {
        Some(cursor) => Bound::Excluded(cursor),
        None => Bound::Included(prefix),
    };
    let mut told: Vec<Rule> = Vec::new();
    let mut last = None;
    let mut bytes_left = limits::PAGE_BYTES_MAX;
    let found = rules.by_name.range::<[u8], _>((from, Bound::Unbounded)).take_while(|(name, _)| name.starts_with(prefix));
    for (_, rule) in found.filter(|(_, rule)| is_seen(rule, scope)) {
        let bytes = rule.to_record().len();
        if told.len() == limit || bytes > bytes_left || turn.is_used_up() || !turn.take_reply_bytes(bytes) {
            last = Some(told.last().ok_or_else(deliver::used_up)?.name.clone());
            break;
        }
        turn.examine(0);
        bytes_left -= bytes;
        told.push(Rule::clone(rule));
    }
    Ok(Answer::Conversion(ConversionAnswer::Rules { rules: told, cursor: last }))
}

fn convert(value: &Stored, conversion: Conversion<'_>, turn: &mut Turn) -> Result<Answer, Failure> {
    if turn.is_used_up() {
        return Err(deliver::used_up());
    }
    let made = deliver::convert(&conversion, value, turn).map_err(|error| error.of("the value"))?;
    if !turn.take_reply_bytes(made.document().len()) {
        return Err(deliver::used_up());
    }
    Ok(Answer::Conversion(ConversionAnswer::Converted(made)))
}

//! The rules by which values are converted as they are handed out: which there are, and which holds.
//!
//! - A rule is one record, in a space of its own: its fields as a MessagePack map, under its name.
//! - Values are never changed by a rule. What it makes is a copy in a reply.
//! - A user sees, uses and changes a rule only if its name, its source and the queue of its program are all in the user's scope. Whom a rule
//!   holds for is no matter of that: what a user reads is converted by whatever rule fits.

mod deliver;
mod operate;
mod subjects;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use kvbroker_protocol::{Rule, Scope};

use crate::change::{Change, Space};

pub(crate) use deliver::{ItemConversion, convert_page, converted};
pub(crate) use operate::operate;
use subjects::SubjectRules;

/// All rules.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rules {
    /// In the order of their names.
    by_name: BTreeMap<Box<[u8]>, Arc<Rule>>,
    /// Those of them that are for subjects, made of the others.
    subjects: SubjectRules,
}

impl PartialEq for Rules {
    fn eq(&self, other: &Rules) -> bool {
        self.by_name == other.by_name
    }
}

impl Eq for Rules {}

/// True for the value of a rule's record.
pub(crate) fn is_record(key: &[u8], value: &[u8]) -> bool {
    Rule::from_record(value).is_ok_and(|rule| rule.name == key)
}

fn put_rule(rule: &Rule) -> Change {
    Change { space: Space::Rule, key: rule.name.clone(), value: Some(rule.to_record()) }
}

impl Rules {
    /// Number of rules.
    pub(crate) fn len(&self) -> usize {
        self.by_name.len()
    }

    /// A rule's record was put or deleted.
    pub(crate) fn apply(&mut self, name: &[u8], value: Option<&[u8]>) {
        if let Some(before) = self.by_name.remove(name) {
            self.subjects.remove(&before);
        }
        let Some(Ok(rule)) = value.map(Rule::from_record) else { return };
        let rule = Arc::new(rule);
        self.subjects.insert(&rule);
        self.by_name.insert(name.into(), rule);
    }

    /// Records behind `behind` (None: all), in key order.
    pub(crate) fn behind<'s>(&'s self, behind: Option<&[u8]>) -> impl Iterator<Item = Change> + use<'s> {
        let from = behind.map_or(Bound::Unbounded, |name| Bound::Excluded(name.to_vec().into_boxed_slice()));
        self.by_name.range::<Box<[u8]>, _>((from, Bound::Unbounded)).map(|(_, rule)| put_rule(rule))
    }

    /// A rule that the user may see.
    fn seen(&self, name: &[u8], scope: &Scope) -> Option<&Rule> {
        self.by_name.get(name).map(|rule| &**rule).filter(|rule| is_seen(rule, scope))
    }
}

fn is_seen(rule: &Rule, scope: &Scope) -> bool {
    scope.contains(&rule.name)
        && scope.contains(rule.source.reach())
        && rule.program.as_ref().is_none_or(|program| scope.contains(&program.into))
}

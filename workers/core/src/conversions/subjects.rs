//! The rules for subjects: which one holds for a subject, found without asking each of them.
//!
//! - They are kept apart by whom they are for, each part as a tree of tokens. What a part costs to look through is bounded when its rules
//!   are declared ([`limits::RULE_SUBJECT_TOKENS_MAX`]), so no item can be refused for it later.

use std::collections::BTreeMap;
use std::sync::Arc;

use kvbroker_protocol::{ContentType, Failure, Rule, Source, Wanted, limits, subject_tokens};

use crate::decide::Turn;
use crate::routing::PatternTree;

/// Whom a rule is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Target {
    Consumer(String),
    /// All who ask for this type.
    Type(ContentType),
}

impl Target {
    fn new(to: Option<ContentType>, consumer: Option<&str>) -> Option<Target> {
        match consumer {
            Some(consumer) => Some(Target::Consumer(consumer.to_owned())),
            None => to.map(Target::Type),
        }
    }

    /// Of a rule; None: it is for nobody, or not for subjects.
    fn of(rule: &Rule) -> Option<(Target, &[u8])> {
        let Source::Subject(pattern) = &rule.source else { return None };
        let target = Target::new(rule.to, rule.consumer.as_deref())?;
        Some((target, pattern.as_bytes()))
    }
}

/// The rules for subjects that are for one consumer, or for one type.
#[derive(Clone, Debug, Default)]
pub(crate) struct Patterns {
    trie: PatternTree<Box<[u8]>, Arc<Rule>>,
    tokens: usize,
}

impl Patterns {
    /// The rule that holds for a subject. Each place that is looked at is a unit of the turn's work.
    pub(super) fn of(&self, subject: &[u8], turn: &mut Turn) -> Option<&Rule> {
        let found = self.trie.find(subject, usize::MAX)?;
        turn.work_left = turn.work_left.saturating_sub(found.steps + found.entries.len());
        found.entries.into_iter().map(|(_, rule)| &**rule).min_by(|one, other| one.rank().cmp(&other.rank()))
    }
}

/// All rules for subjects.
#[derive(Clone, Debug, Default)]
pub(super) struct SubjectRules(BTreeMap<Target, Patterns>);

impl SubjectRules {
    /// Those that are for whoever wants this.
    pub(super) fn for_wanted(&self, wanted: &Wanted) -> Option<&Patterns> {
        self.0.get(&Target::new(wanted.to, wanted.consumer.as_deref())?)
    }

    /// Takes in a rule; one that is not for subjects is none of these.
    pub(super) fn insert(&mut self, rule: &Arc<Rule>) {
        let Some((target, pattern)) = Target::of(rule) else { return };
        let patterns = self.0.entry(target).or_default();
        patterns.tokens += subject_tokens(pattern).count();
        patterns.trie.insert(pattern, rule.name.as_slice().into(), Arc::clone(rule));
    }

    /// Lets go of a rule that was taken in.
    pub(super) fn remove(&mut self, rule: &Rule) {
        let Some((target, pattern)) = Target::of(rule) else { return };
        let Some(patterns) = self.0.get_mut(&target) else { return };
        patterns.tokens = patterns.tokens.saturating_sub(subject_tokens(pattern).count());
        patterns.trie.remove(pattern, &rule.name.as_slice().into());
        if patterns.tokens == 0 {
            self.0.remove(&target);
        }
    }

    /// Sees to it that the rule can be taken in, in place of the one of its name.
    ///
    /// # Errors
    /// `limit` if the patterns of all rules for the same consumer or type would have too many tokens.
    pub(super) fn check_room(&self, rule: &Rule, before: Option<&Rule>) -> Result<(), Failure> {
        let Some((target, pattern)) = Target::of(rule) else { return Ok(()) };
        let replaced = before.and_then(Target::of).filter(|(other, _)| *other == target);
        let freed = replaced.map_or(0, |(_, pattern)| subject_tokens(pattern).count());
        let others = self.0.get(&target).map_or(0, |patterns| patterns.tokens.saturating_sub(freed));
        if others + subject_tokens(pattern).count() > limits::RULE_SUBJECT_TOKENS_MAX {
            let message = format!(
                "the patterns of the other rules for this consumer or type have {others} tokens, and {} are taken; one pattern may do for several",
                limits::RULE_SUBJECT_TOKENS_MAX
            );
            return Err(Failure::limit(message));
        }
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use kvbroker_protocol::{ErrorCode, Steps, subject_matches};

    use super::*;
    use crate::conversions::Rules;

    fn rule(name: &str, pattern: &str, consumer: Option<&str>, to: Option<ContentType>) -> Rule {
        let source = Source::Subject(pattern.into());
        let consumer = consumer.map(str::to_owned);
        Rule { name: name.into(), source, from: None, to, consumer, steps: Steps::new(), program: None }
    }

    fn put(rules: &mut Rules, rule: &Rule) {
        rules.apply(&rule.name, Some(&rule.to_record()));
    }

    fn name_of(rules: &Rules, wanted: &Wanted, subject: &str) -> Option<String> {
        let patterns = rules.subjects.for_wanted(wanted)?;
        let found = patterns.of(subject.as_bytes(), &mut Turn::one())?;
        Some(String::from_utf8(found.name.clone()).unwrap())
    }

    /// A rule is replaced, moved to another target and dropped, and what holds is what each rule says of itself.
    #[test]
    fn the_rule_that_holds_is_the_first_that_matches() {
        let patterns = ["a.b", "a.*", "a.#", "*.b", "#", "#.b", "a.*.#", "c", "a.b.#", "*.*.c"];
        let subjects = ["a", "a.b", "a.c", "b.b", "c", "a.b.c", "x.y", "b"];
        let wanted = [
            Wanted { to: None, consumer: Some("one".into()) },
            Wanted { to: Some(ContentType::Json), consumer: Some("one".into()) },
            Wanted { to: None, consumer: Some("two".into()) },
            Wanted { to: Some(ContentType::Json), consumer: None },
            Wanted { to: Some(ContentType::Csv), consumer: None },
        ];
        let (mut rules, mut all): (Rules, BTreeMap<String, Rule>) = (Rules::default(), BTreeMap::new());
        let (mut seed, mut found_some) = (7_usize, 0);
        let mut below = |bound: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % bound
        };
        for step in 0..2_000 {
            let name = format!("r{}", below(12));
            if below(4) == 0 {
                all.remove(&name);
                rules.apply(name.as_bytes(), None);
            } else {
                let (consumer, to) = match below(4) {
                    0 => (Some("one"), None),
                    1 => (Some("two"), Some(ContentType::Csv)),
                    2 => (None, Some(ContentType::Json)),
                    _ => (None, Some(ContentType::Csv)),
                };
                let rule = rule(&name, patterns[below(patterns.len())], consumer, to);
                put(&mut rules, &rule);
                all.insert(name, rule);
            }
            for wanted in &wanted {
                for subject in subjects {
                    let fits = all.values().filter(|rule| rule.is_for(wanted.to, wanted.consumer.as_deref()));
                    let fits = fits.filter(|rule| {
                        matches!(&rule.source, Source::Subject(pattern) if subject_matches(pattern.as_bytes(), subject.as_bytes()))
                    });
                    let first = fits.min_by(|one, other| one.rank().cmp(&other.rank()));
                    let expected = first.map(|rule| String::from_utf8(rule.name.clone()).unwrap());
                    found_some += usize::from(expected.is_some());
                    assert_eq!(name_of(&rules, wanted, subject), expected, "step {step}, {subject}");
                }
            }
        }
        assert!(found_some > 10_000, "{found_some}");
        for name in all.keys() {
            rules.apply(name.as_bytes(), None);
        }
        assert!(rules.subjects.is_empty(), "nothing is left of what was dropped");
    }

    #[test]
    fn what_an_item_costs_is_bounded_when_rules_are_declared() {
        let mut rules = Rules::default();
        let deep = ["#"; limits::SUBJECT_TOKENS_MAX].join(".");
        let most = limits::RULE_SUBJECT_TOKENS_MAX / limits::SUBJECT_TOKENS_MAX;
        for at in 0..most {
            // Each another way of saying nothing, so that a subject is everywhere in the tree.
            let tokens = (0..limits::SUBJECT_TOKENS_MAX).map(|token| if token < 7 && at >> token & 1 == 1 { "*" } else { "#" });
            let one = rule(&format!("r{at}"), &tokens.collect::<Vec<_>>().join("."), Some("c"), None);
            rules.subjects.check_room(&one, None).unwrap();
            put(&mut rules, &one);
        }
        let one_more = rule("more", &deep, Some("c"), None);
        assert_eq!(rules.subjects.check_room(&one_more, None).unwrap_err().code, ErrorCode::Limit);
        // In place of another one there is room, and others have room of their own.
        let replaced = rule("r0", &deep, Some("c"), None);
        let before = rules.by_name.values().next().cloned();
        rules.subjects.check_room(&replaced, before.as_deref()).unwrap();
        rules.subjects.check_room(&rule("more", &deep, Some("d"), None), None).unwrap();
        let mut turn = Turn::one();
        let before = turn.work_left;
        let subject = ["0"; limits::SUBJECT_TOKENS_MAX].join(".");
        let wanted = Wanted { to: None, consumer: Some("c".into()) };
        rules.subjects.for_wanted(&wanted).unwrap().of(subject.as_bytes(), &mut turn);
        let work = before - turn.work_left;
        assert!(work > limits::RULE_SUBJECT_TOKENS_MAX && work <= limits::ROUTE_STEPS_MAX, "{work}");
    }
}

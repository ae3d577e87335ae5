//! What is asked of rules and conversions, and what they answer.

use super::{ContentType, Rule};
use crate::operation::Operation;
use crate::value::{Key, Stored};

/// As what a reader wants what it reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// This type; None: as the rule says.
    pub to: Option<ContentType>,
    /// As this consumer, for whom there are rules.
    pub consumer: Option<String>,
}

/// A read or a pull whose values are converted as they are handed out.
#[derive(Clone, Debug, PartialEq)]
pub struct Converted {
    /// What is read: a get, mget, scan, query, pull or peek.
    pub operation: Operation,
    /// As what.
    pub wanted: Wanted,
}

/// What is asked of rules.
#[derive(Clone, Debug, PartialEq)]
pub enum ConversionOperation {
    /// Makes a rule, or another one of that name.
    Declare(Rule),
    /// Removes a rule.
    Drop {
        /// Its name.
        rule: Key,
    },
    /// Tells the rules.
    Rules {
        /// This one alone.
        rule: Option<Key>,
        /// Those whose names start with these bytes.
        prefix: Vec<u8>,
        /// Go on behind this name.
        cursor: Option<Key>,
        /// Most rules on this page.
        limit: Option<usize>,
    },
    /// Converts a value, and stores nothing.
    Convert {
        /// The value.
        value: Stored,
        /// By this rule; None: by `from` and `to` alone.
        rule: Option<Key>,
        /// What a text or bytes value holds.
        from: Option<ContentType>,
        /// What comes out.
        to: Option<ContentType>,
    },
}

impl ConversionOperation {
    /// True for those that have a number in a session.
    pub fn is_mutation(&self) -> bool {
        matches!(self, ConversionOperation::Declare(_) | ConversionOperation::Drop { .. })
    }

    /// The rule that is named.
    pub fn rule(&self) -> Option<&Key> {
        match self {
            ConversionOperation::Declare(rule) => Some(&rule.name),
            ConversionOperation::Drop { rule } => Some(rule),
            ConversionOperation::Rules { rule, .. } | ConversionOperation::Convert { rule, .. } => rule.as_ref(),
        }
    }

    /// The verb's name in the grammar.
    pub fn verb(&self) -> &'static str {
        match self {
            ConversionOperation::Declare(_) => "declare_rule",
            ConversionOperation::Drop { .. } => "drop_rule",
            ConversionOperation::Rules { .. } => "rules",
            ConversionOperation::Convert { .. } => "convert",
        }
    }
}

/// What rules and conversions answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConversionAnswer {
    /// Rules as they are.
    Rules {
        /// In the order of their names.
        rules: Vec<Rule>,
        /// Where to go on; None at the end.
        cursor: Option<Key>,
    },
    /// What came out.
    Converted(Stored),
}

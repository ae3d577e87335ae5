//! The verbs, their names and their fields: the one table that both encodings are read by and written from.

use crate::error::Failure;
use crate::field::Raw;
use crate::operation::{Operation, Scan};

/// Most fields of any verb.
pub(crate) const FIELDS_MAX: usize = 8;

/// One verb: its names (the first is ours, others are taken too), the fields that a compact array gives by position, and those
/// it gives in a trailing map of options. A map or object names them all.
pub(crate) struct Verb {
    pub(crate) names: &'static [&'static str],
    pub(crate) positional: &'static [&'static str],
    pub(crate) options: &'static [&'static str],
    build: fn(&Fields<'_>) -> Result<Operation, Failure>,
}

pub(crate) static VERBS: &[Verb] = &[
    Verb {
        names: &["get", "lookup"],
        positional: &["key"],
        options: &[],
        build: |fields| Ok(Operation::Get { key: fields.needed(0)?.key("key")? }),
    },
    Verb {
        names: &["put", "insert"],
        positional: &["key", "value"],
        options: &[],
        build: |fields| Ok(Operation::Put { key: fields.needed(0)?.key("key")?, value: fields.needed(1)?.stored()? }),
    },
    Verb {
        names: &["del", "remove"],
        positional: &["key"],
        options: &["return"],
        build: |fields| {
            let return_old = fields.given(1).map(|raw| raw.boolean("return")).transpose()?.unwrap_or(false);
            Ok(Operation::Del { key: fields.needed(0)?.key("key")?, return_old })
        },
    },
    Verb { names: &["size"], positional: &[], options: &[], build: |_| Ok(Operation::Size) },
    Verb {
        names: &["scan"],
        positional: &[],
        options: &["prefix", "regex", "cursor", "limit"],
        build: |fields| Ok(Operation::Scan(scan(fields, 0)?)),
    },
    Verb {
        names: &["query"],
        positional: &["subkey", "subvalue"],
        options: &["prefix", "regex", "cursor", "limit"],
        build: |fields| {
            Ok(Operation::Query {
                subkey: fields.needed(0)?.text("subkey")?,
                subvalue: fields.needed(1)?.scalar()?,
                scan: scan(fields, 2)?,
            })
        },
    },
    Verb { names: &["ping"], positional: &[], options: &[], build: |_| Ok(Operation::Ping) },
    Verb {
        names: &["hello"],
        positional: &[],
        options: &["project"],
        build: |fields| Ok(Operation::Hello { project: fields.given(0).map(|raw| raw.text("project")).transpose()? }),
    },
    Verb { names: &["stats"], positional: &[], options: &[], build: |_| Ok(Operation::Stats) },
];

fn scan(fields: &Fields<'_>, at: usize) -> Result<Scan, Failure> {
    Ok(Scan {
        prefix: fields.given(at).map(|raw| raw.key("prefix")).transpose()?.unwrap_or_default(),
        pattern: fields.given(at + 1).map(|raw| raw.pattern("regex")).transpose()?,
        cursor: fields.given(at + 2).map(|raw| raw.key("cursor")).transpose()?,
        limit: match fields.given(at + 3).map(|raw| raw.uint("limit")).transpose()? {
            Some(0) => return Err(Failure::invalid("`limit` is at least 1")),
            limit => limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)),
        },
    })
}

impl Verb {
    pub(crate) fn named(name: &str) -> Option<&'static Verb> {
        VERBS.iter().find(|verb| verb.names.contains(&name))
    }

    pub(crate) fn find(name: &str) -> Result<&'static Verb, Failure> {
        Verb::named(name).ok_or_else(|| {
            let shown: String = name.chars().take(32).collect();
            let known: Vec<&str> = VERBS.iter().map(|verb| verb.names[0]).collect();
            Failure::invalid(format!("there is no operation {shown:?}; there are {}", known.join(", ")))
        })
    }

    fn field_names(&self) -> impl Iterator<Item = &'static str> {
        self.positional.iter().chain(self.options).copied()
    }

    /// The index of a field in [`Fields`].
    pub(crate) fn field(&self, name: &str) -> Option<usize> {
        self.field_names().position(|field| field == name)
    }

    pub(crate) fn no_such_field(&self, name: &str) -> Failure {
        let shown: String = name.chars().take(32).collect();
        let known: Vec<&str> = self.field_names().collect();
        let known = if known.is_empty() { "no fields".to_owned() } else { known.join(", ") };
        Failure::invalid(format!("`{}` has no field {shown:?}; it takes {known}", self.names[0]))
    }
}

/// The fields that a request gave for its verb.
pub(crate) struct Fields<'a> {
    verb: &'static Verb,
    values: [Option<Raw<'a>>; FIELDS_MAX],
}

impl<'a> Fields<'a> {
    pub(crate) fn new(verb: &'static Verb) -> Self {
        Fields { verb, values: [None; FIELDS_MAX] }
    }

    pub(crate) fn set(&mut self, index: usize, raw: Raw<'a>) {
        self.values[index] = Some(raw);
    }

    pub(crate) fn build(&self) -> Result<Operation, Failure> {
        (self.verb.build)(self)
    }

    fn needed(&self, index: usize) -> Result<Raw<'a>, Failure> {
        self.values[index].ok_or_else(|| {
            let name = self.verb.field_names().nth(index).unwrap_or_default();
            Failure::invalid(format!("`{}` needs `{name}`", self.verb.names[0]))
        })
    }

    /// An optional field; null counts as absent.
    fn given(&self, index: usize) -> Option<Raw<'a>> {
        self.values[index].filter(|raw| !raw.is_null())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_fields_fit() {
        let names: Vec<&str> = VERBS.iter().flat_map(|verb| verb.names).copied().collect();
        for (at, name) in names.iter().enumerate() {
            assert!(!names[..at].contains(name), "{name}");
        }
        for verb in VERBS {
            assert!(verb.field_names().count() <= FIELDS_MAX);
        }
    }
}

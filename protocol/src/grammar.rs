//! The verbs, their names and their fields: the one table that both encodings are read by and written from.

use crate::access::{Access, grant_comment};
use crate::conversion::{CONVERSION_VERBS, wanted};
use crate::decode::{json_entries, pack_entries};
use crate::error::Failure;
use crate::events::epoch_of;
use crate::field::Raw;
use crate::json::{Token as Json, Walker};
use crate::limits;
use crate::msgpack::{Cursor, Token as Pack};
use crate::operation::{Condition, Events, LIST_DELIMITER, List, Operation, Scan};
use crate::queue::QUEUE_VERBS;
use crate::routing::ROUTING_VERBS;
use crate::txn::{Txn, compares_of, operations_of};
use crate::value::Key;

/// Most fields of any verb.
pub(crate) const FIELDS_MAX: usize = 14;

/// One verb: its names (the first is ours, others are taken too), the fields that a compact array gives by position, and those
/// it gives in a trailing map of options. A map or object names them all.
pub(crate) struct Verb {
    pub(crate) names: &'static [&'static str],
    pub(crate) positional: &'static [&'static str],
    pub(crate) options: &'static [&'static str],
    pub(crate) build: fn(&Fields<'_>) -> Result<Operation, Failure>,
}

pub(crate) static VERBS: &[Verb] = &[
    Verb {
        names: &["get", "lookup"],
        positional: &["key"],
        options: &["as", "consumer"],
        build: |fields| wanted(fields, 1, Operation::Get { key: fields.needed(0)?.key("key")? }),
    },
    Verb {
        names: &["put", "insert"],
        positional: &["key", "value"],
        options: &["if_absent", "if_rev", "if_value", "if_exists", "ttl"],
        build: |fields| {
            let ttl_ms = fields.given(6).map(|raw| ttl(raw)).transpose()?;
            let (key, value) = (fields.needed(0)?.key("key")?, fields.needed(1)?.stored()?);
            let condition = one_of(&[absent(fields, 2)?, revision(fields, 3)?, value_is(fields, 4)?, exists(fields, 5)?])?;
            Ok(Operation::Put { key, value, condition, ttl_ms })
        },
    },
    Verb {
        names: &["mget"],
        positional: &["keys"],
        options: &["as", "consumer"],
        build: |fields| wanted(fields, 1, Operation::Mget { keys: fields.needed(0)?.keys("keys")? }),
    },
    Verb {
        names: &["exists"],
        positional: &["key"],
        options: &[],
        build: |fields| Ok(Operation::Exists { key: fields.needed(0)?.key("key")? }),
    },
    Verb {
        names: &["incr"],
        positional: &["key"],
        options: &["by"],
        build: |fields| {
            let by = fields.given(1).map(|raw| raw.int("by")).transpose()?.unwrap_or(1);
            Ok(Operation::Incr { key: fields.needed(0)?.key("key")?, by })
        },
    },
    Verb {
        names: &["del", "remove"],
        positional: &["key"],
        options: &["return", "if_rev", "if_value"],
        build: |fields| {
            let return_old = fields.given(1).map(|raw| raw.boolean("return")).transpose()?.unwrap_or(false);
            let condition = one_of(&[revision(fields, 2)?, value_is(fields, 3)?])?;
            Ok(Operation::Del { key: fields.needed(0)?.key("key")?, return_old, condition })
        },
    },
    Verb {
        names: &["txn"],
        positional: &["if", "then"],
        options: &["else"],
        build: |fields| {
            let compares = compares_of(fields.given(0))?;
            let txn = Txn {
                compares,
                then: operations_of(fields.given(1), "then")?,
                otherwise: operations_of(fields.given(2), "else")?,
            };
            Ok(Operation::Txn(Box::new(txn.check()?)))
        },
    },
    Verb {
        names: &["expire"],
        positional: &["key", "ttl"],
        options: &[],
        build: |fields| Ok(Operation::Expire { key: fields.needed(0)?.key("key")?, ttl_ms: ttl(fields.needed(1)?)? }),
    },
    Verb {
        names: &["persist"],
        positional: &["key"],
        options: &[],
        build: |fields| Ok(Operation::Persist { key: fields.needed(0)?.key("key")? }),
    },
    Verb {
        names: &["ttl"],
        positional: &["key"],
        options: &[],
        build: |fields| Ok(Operation::Ttl { key: fields.needed(0)?.key("key")? }),
    },
    Verb {
        names: &["del_prefix"],
        positional: &["prefix"],
        options: &["limit"],
        build: |fields| Ok(Operation::DelPrefix { prefix: fields.needed(0)?.key("prefix")?, limit: limit(fields, 1)? }),
    },
    Verb { names: &["noop"], positional: &[], options: &[], build: |_| Ok(Operation::Noop) },
    Verb {
        names: &["result"],
        positional: &["of_session", "of_seq"],
        options: &["settle"],
        build: |fields| {
            let seq = fields.needed(1)?.uint("of_seq")?;
            if seq == 0 {
                return Err(Failure::invalid("the numbers of a session start at 1"));
            }
            let settle = fields.given(2).map(|raw| raw.boolean("settle")).transpose()?.unwrap_or_default();
            Ok(Operation::Result { session: fields.needed(0)?.id16("of_session")?, seq, settle })
        },
    },
    Verb { names: &["end"], positional: &[], options: &[], build: |_| Ok(Operation::End) },
    Verb {
        names: &["ls"],
        positional: &["prefix"],
        options: &["delimiter", "cursor", "limit"],
        build: |fields| {
            let prefix = fields.given(0).map(|raw| raw.key("prefix")).transpose()?.unwrap_or_default();
            let delimiter = fields.given(1).map(|raw| raw.key("delimiter")).transpose()?;
            let delimiter = delimiter.unwrap_or_else(|| LIST_DELIMITER.to_vec());
            if delimiter.is_empty() {
                return Err(Failure::invalid("`delimiter` has at least one byte"));
            }
            if delimiter.len() > limits::DELIMITER_BYTES_MAX {
                let message =
                    format!("`delimiter` has {} bytes; at most {} are taken", delimiter.len(), limits::DELIMITER_BYTES_MAX);
                return Err(Failure::limit(message));
            }
            let cursor = fields.given(2).map(|raw| raw.key("cursor")).transpose()?;
            Ok(Operation::List(List { prefix, delimiter, cursor, limit: limit(fields, 3)? }))
        },
    },
    Verb {
        names: &["history"],
        positional: &["key"],
        options: &["limit", "before"],
        build: |fields| {
            let before = fields.given(2).map(|raw| raw.uint("before")).transpose()?;
            Ok(Operation::History { key: fields.needed(0)?.key("key")?, limit: limit(fields, 1)?, before })
        },
    },
    Verb {
        names: &["events"],
        positional: &["prefix"],
        options: &["after", "limit", "wait", "epoch", "detail", "where", "lost"],
        build: |fields| {
            let wait_ms = fields.given(3).map(|raw| raw.uint("wait")).transpose()?.unwrap_or_default();
            if wait_ms > limits::EVENTS_WAIT_MS_MAX {
                let message = format!("`wait` is at most {} ms; ask again for a longer one", limits::EVENTS_WAIT_MS_MAX);
                return Err(Failure::limit(message));
            }
            Ok(Operation::Events(Events {
                prefix: fields.given(0).map(|raw| raw.key("prefix")).transpose()?.unwrap_or_default(),
                after: fields.given(1).map(|raw| raw.uint("after")).transpose()?,
                // None at all is what whoever hears a stream asks for, to say how far it is.
                limit: fields.given(2).map(|raw| raw.uint("limit")).transpose()?.map(to_usize),
                wait_ms,
                epoch: fields.given(4).map(epoch_of).transpose()?,
                detail: flag(fields, 5, "detail")?,
                where_: fields.given(6).map(|raw| raw.predicate("where")).transpose()?,
                lost: fields.given(7).map(|raw| raw.uint("lost")).transpose()?.unwrap_or_default(),
            }))
        },
    },
    Verb { names: &["size"], positional: &[], options: &[], build: |_| Ok(Operation::Size) },
    Verb {
        names: &["scan"],
        positional: &[],
        options: SCAN_OPTIONS,
        build: |fields| wanted(fields, 10, Operation::Scan(scan(fields, 0)?)),
    },
    Verb {
        names: &["query"],
        positional: &["subkey", "subvalue"],
        options: SCAN_OPTIONS,
        build: |fields| {
            let scan = scan(fields, 2)?;
            let operation = match (fields.given(0), fields.given(1), &scan.filter) {
                (None, None, Some(_)) => Operation::Scan(scan),
                (None, None, None) => return Err(Failure::invalid("`query` needs `where`, or `subkey` and `subvalue`")),
                _ => Operation::Query { subkey: fields.needed(0)?.text("subkey")?, subvalue: fields.needed(1)?.scalar()?, scan },
            };
            wanted(fields, 12, operation)
        },
    },
    Verb {
        names: &["authorize"],
        positional: &["key", "role"],
        options: &["prefixes", "comment"],
        build: |fields| {
            let (key, role) = (fields.needed(0)?.user_key("key")?, fields.needed(1)?.role("role")?);
            let prefixes = fields.given(2).map(|raw| raw.prefixes("prefixes")).transpose()?.unwrap_or_default();
            let access = Access::new(role, prefixes)?;
            let comment = fields.given(3).map(|raw| grant_comment(&raw.text("comment")?)).transpose()?.unwrap_or_default();
            Ok(Operation::Authorize { key, role, prefixes: access.scope.list().to_vec(), comment })
        },
    },
    Verb {
        names: &["revoke"],
        positional: &["key"],
        options: &[],
        build: |fields| Ok(Operation::Revoke { key: fields.needed(0)?.user_key("key")? }),
    },
    Verb { names: &["who"], positional: &[], options: &[], build: |_| Ok(Operation::Who) },
    Verb { names: &["ping"], positional: &[], options: &[], build: |_| Ok(Operation::Ping) },
    Verb {
        names: &["hello"],
        positional: &[],
        options: &["project"],
        build: |fields| Ok(Operation::Hello { project: fields.given(0).map(|raw| raw.text("project")).transpose()? }),
    },
    Verb { names: &["stats"], positional: &[], options: &[], build: |_| Ok(Operation::Stats) },
];

const SCAN_OPTIONS: &[&str] =
    &["prefix", "regex", "cursor", "limit", "from", "to", "reverse", "keys_only", "snapshot", "where", "as", "consumer"];

/// Not a verb: one comparison of a transaction.
static COMPARE: Verb = Verb {
    names: &["if"],
    positional: &["key", "if_absent", "if_rev", "if_value", "if_exists"],
    options: &[],
    build: |_| Err(Failure::invalid("`if` is part of `txn`")),
};

/// Reads one comparison: a map or object of `key` and one condition.
pub(crate) fn condition_of(raw: Raw<'_>) -> Result<(Key, Condition), Failure> {
    let entries = match raw {
        Raw::Pack(bytes) => {
            let mut cursor = Cursor::new(bytes);
            match cursor.token()? {
                Pack::Map(length) => Some(pack_entries(&mut cursor, length)?),
                _ => None,
            }
        }
        Raw::Json(text) => {
            let mut walker = Walker::new(text);
            if walker.token()? == Json::Object { Some(json_entries(&mut walker)?) } else { None }
        }
    };
    let entries = entries.ok_or_else(|| Failure::invalid("a comparison is a map of `key` and one condition"))?;
    let mut fields = Fields::new(&COMPARE);
    for (name, raw) in &entries {
        fields.set(COMPARE.field(name).ok_or_else(|| COMPARE.no_such_field(name))?, *raw);
    }
    let fields = &fields;
    let condition = one_of(&[absent(fields, 1)?, revision(fields, 2)?, value_is(fields, 3)?, exists(fields, 4)?])?;
    let condition =
        condition.ok_or_else(|| Failure::invalid("a comparison has one of `if_absent`, `if_exists`, `if_rev` and `if_value`"))?;
    Ok((fields.needed(0)?.key("key")?, condition))
}

fn exists(fields: &Fields<'_>, at: usize) -> Result<Option<Condition>, Failure> {
    match fields.given(at).map(|raw| raw.boolean("if_exists")).transpose()? {
        Some(false) => Err(Failure::invalid("`if_exists` is true or left out; for a key that must not be there use `if_absent`")),
        given => Ok(given.map(|_| Condition::Exists)),
    }
}

fn absent(fields: &Fields<'_>, at: usize) -> Result<Option<Condition>, Failure> {
    match fields.given(at).map(|raw| raw.boolean("if_absent")).transpose()? {
        Some(false) => Err(Failure::invalid("`if_absent` is true or left out; for a key that must be there use `if_exists`")),
        given => Ok(given.map(|_| Condition::Absent)),
    }
}

fn revision(fields: &Fields<'_>, at: usize) -> Result<Option<Condition>, Failure> {
    Ok(fields.given(at).map(|raw| raw.uint("if_rev")).transpose()?.map(Condition::Revision))
}

/// A value may be null: here only a field that is not there counts as absent.
fn value_is(fields: &Fields<'_>, at: usize) -> Result<Option<Condition>, Failure> {
    Ok(fields.values[at].map(Raw::stored).transpose()?.map(Condition::Value))
}

fn one_of(conditions: &[Option<Condition>]) -> Result<Option<Condition>, Failure> {
    let mut given = conditions.iter().flatten();
    match (given.next(), given.next()) {
        (first, None) => Ok(first.cloned()),
        _ => Err(Failure::invalid("only one of `if_absent`, `if_exists`, `if_rev` and `if_value` can be given")),
    }
}

fn scan(fields: &Fields<'_>, at: usize) -> Result<Scan, Failure> {
    Ok(Scan {
        prefix: fields.given(at).map(|raw| raw.key("prefix")).transpose()?.unwrap_or_default(),
        pattern: fields.given(at + 1).map(|raw| raw.pattern("regex")).transpose()?,
        filter: fields.given(at + 9).map(|raw| raw.predicate("where")).transpose()?,
        cursor: fields.given(at + 2).map(|raw| raw.key("cursor")).transpose()?,
        from: fields.given(at + 4).map(|raw| raw.key("from")).transpose()?,
        to: fields.given(at + 5).map(|raw| raw.key("to")).transpose()?,
        reverse: flag(fields, at + 6, "reverse")?,
        keys_only: flag(fields, at + 7, "keys_only")?,
        limit: limit(fields, at + 3)?,
        snapshot: fields.given(at + 8).map(|raw| raw.uint("snapshot")).transpose()?,
    })
}

/// False where it is not given.
fn flag(fields: &Fields<'_>, at: usize, name: &str) -> Result<bool, Failure> {
    Ok(fields.given(at).map(|raw| raw.boolean(name)).transpose()?.unwrap_or_default())
}

fn limit(fields: &Fields<'_>, at: usize) -> Result<Option<usize>, Failure> {
    match fields.given(at).map(|raw| raw.uint("limit")).transpose()? {
        Some(0) => Err(Failure::invalid("`limit` is at least 1")),
        limit => Ok(limit.map(to_usize)),
    }
}

fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn ttl(raw: Raw<'_>) -> Result<u64, Failure> {
    match raw.uint("ttl")? {
        0 => Err(Failure::invalid("`ttl` is at least 1 ms; to remove a key use `del`")),
        ms if ms > limits::TTL_MS_MAX => {
            Err(Failure::limit(format!("`ttl` is at most {} ms; leave it out for a key that stays", limits::TTL_MS_MAX)))
        }
        ms => Ok(ms),
    }
}

/// All verbs.
fn verbs() -> impl Iterator<Item = &'static Verb> {
    VERBS.iter().chain(QUEUE_VERBS).chain(ROUTING_VERBS).chain(CONVERSION_VERBS)
}

impl Verb {
    pub(crate) fn named(name: &str) -> Option<&'static Verb> {
        verbs().find(|verb| verb.names.contains(&name))
    }

    pub(crate) fn find(name: &str) -> Result<&'static Verb, Failure> {
        Verb::named(name).ok_or_else(|| {
            let shown: String = name.chars().take(32).collect();
            let known: Vec<&str> = verbs().map(|verb| verb.names[0]).collect();
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

    pub(crate) fn needed(&self, index: usize) -> Result<Raw<'a>, Failure> {
        self.values[index].ok_or_else(|| {
            let name = self.verb.field_names().nth(index).unwrap_or_default();
            Failure::invalid(format!("`{}` needs `{name}`", self.verb.names[0]))
        })
    }

    /// An optional field; null counts as absent.
    pub(crate) fn given(&self, index: usize) -> Option<Raw<'a>> {
        self.values[index].filter(|raw| !raw.is_null())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_fields_fit() {
        let names: Vec<&str> = verbs().flat_map(|verb| verb.names).copied().collect();
        for (at, name) in names.iter().enumerate() {
            assert!(!names[..at].contains(name), "{name}");
        }
        for verb in verbs() {
            assert!(verb.field_names().count() <= FIELDS_MAX);
        }
    }
}

//! A rule: what becomes of the values of some keys, of one queue or of some subjects, for those who ask for a type or as a consumer.
//!
//! - A rule has one form, a map of named fields: in a request, in an answer, and as the record that keeps it.
//! - Which rule holds is decided by the rules alone: of those whose source and target fit the one with the longest source, and of several
//!   such the first by name ([`Rule::rank`]). One for the place where a value lies, keys or a queue, goes before one for its subject.

use super::ContentType;
use super::steps::{Path, Steps};
use crate::decode::{json_entries, pack_entries};
use crate::error::Failure;
use crate::field::Raw;
use crate::json::{Token as Json, Walker};
use crate::limits;
use crate::msgpack::{Cursor, Token as Pack};
use crate::queue::queue_name;
use crate::routing::{pattern_prefix, subject_pattern};
use crate::sink::Sink;
use crate::value::Key;

/// What a rule holds for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Keys that start with these bytes.
    Prefix(Key),
    /// Items of this queue.
    Queue(Key),
    /// What is published to subjects that this pattern matches: tokens with dots between them, `*` for one token, `#` for any number.
    Subject(String),
}

impl Source {
    /// The name of its kind, which is that of its field.
    pub const fn kind(&self) -> &'static str {
        match self {
            Source::Prefix(_) => "prefix",
            Source::Queue(_) => "queue",
            Source::Subject(_) => "subject",
        }
    }

    /// What a user must be allowed to use, as a key.
    pub fn reach(&self) -> &[u8] {
        match self {
            Source::Prefix(bytes) | Source::Queue(bytes) => bytes,
            // What every subject of the pattern begins with.
            Source::Subject(pattern) => pattern_prefix(pattern.as_bytes()),
        }
    }
}

/// A program that makes one item of another: run by a converter process, not by the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// The queue that gets what it makes.
    pub into: Key,
    /// How long it may take for one item, milliseconds.
    pub time_limit_ms: u64,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its name, as a key's.
    pub name: Key,
    /// What it holds for.
    pub source: Source,
    /// What texts and bytes hold, where an item does not say it.
    pub from: Option<ContentType>,
    /// What comes out; None: a value.
    pub to: Option<ContentType>,
    /// For whom; None: for all who ask for this type.
    pub consumer: Option<String>,
    /// What is done with fields.
    pub steps: Steps,
    /// A program that does it.
    pub program: Option<Program>,
}

/// Checks a rule's name.
///
/// # Errors
/// `invalid` or `limit`.
pub fn rule_name(name: Key) -> Result<Key, Failure> {
    match name.len() {
        0 => Err(Failure::invalid("a rule's name has at least one byte")),
        1..=limits::RULE_NAME_BYTES_MAX => Ok(name),
        bytes => {
            Err(Failure::limit(format!("a rule's name has {bytes} bytes; at most {} are taken", limits::RULE_NAME_BYTES_MAX)))
        }
    }
}

/// The fields of a rule, in their order.
pub(super) const RULE_FIELDS: [&str; 10] =
    ["rule", "prefix", "queue", "subject", "from", "as", "consumer", "steps", "into", "time_limit"];

impl Rule {
    /// Makes a rule of its fields; `given` has them by their place in [`RULE_FIELDS`].
    pub(super) fn of<'a>(given: impl Fn(usize) -> Option<Raw<'a>>) -> Result<Rule, Failure> {
        let text = |at: usize, bytes_max: usize| match given(at).map(|raw| raw.text(RULE_FIELDS[at])).transpose()? {
            Some(text) if text.len() > bytes_max => {
                Err(Failure::limit(format!("`{}` has {} bytes; at most {bytes_max} are taken", RULE_FIELDS[at], text.len())))
            }
            text => Ok(text),
        };
        let name = given(0).ok_or_else(|| Failure::invalid("a rule needs a name, in `rule`"))?.key("rule")?;
        let prefix = given(1).map(|raw| raw.key("prefix")).transpose()?.map(Source::Prefix);
        let queue = given(2).map(|raw| raw.key("queue").and_then(queue_name)).transpose()?.map(Source::Queue);
        let subject = text(3, limits::RULE_SUBJECT_BYTES_MAX)?.map(Source::Subject);
        let mut sources = [prefix, queue, subject].into_iter().flatten();
        let (Some(source), None) = (sources.next(), sources.next()) else {
            return Err(Failure::invalid("a rule has one source: `prefix`, `queue` or `subject`"));
        };
        let consumer = text(6, limits::RULE_CONSUMER_BYTES_MAX)?;
        if consumer.as_ref().is_some_and(String::is_empty) {
            return Err(Failure::invalid("`consumer` is a name; leave it out for all who ask for the type in `as`"));
        }
        let into = given(8).map(|raw| raw.key("into").and_then(queue_name)).transpose()?;
        let time_limit_ms = given(9).map(|raw| raw.uint("time_limit")).transpose()?;
        let program = match (into, time_limit_ms) {
            (Some(into), limit) => Some(Program { into, time_limit_ms: limit.unwrap_or(limits::PROGRAM_TIME_LIMIT_MS_DEFAULT) }),
            (None, Some(_)) => return Err(Failure::invalid("`time_limit` is a program's, which has `into`, too")),
            (None, None) => None,
        };
        Rule {
            name: rule_name(name)?,
            source,
            from: given(4).map(|raw| content_type(raw, "from")).transpose()?,
            to: given(5).map(|raw| content_type(raw, "as")).transpose()?,
            consumer,
            steps: given(7).map(steps_of).transpose()?.unwrap_or_default(),
            program,
        }
        .bounded()
    }

    /// Takes a rule that makes sense and stays within its bounds.
    ///
    /// # Errors
    /// `invalid` or `limit`.
    pub fn check(self) -> Result<Rule, Failure> {
        if let Source::Subject(pattern) = &self.source {
            subject_pattern(pattern.clone().into_bytes())?;
        }
        self.bounded()
    }

    /// All of it but the pattern: one that was kept before patterns were looked at has no subject, and is no damage.
    fn bounded(self) -> Result<Rule, Failure> {
        let wrong = |message: &str| Err(Failure::invalid(message));
        if let Some(Program { time_limit_ms, into }) = &self.program {
            let (least, most) = (limits::PROGRAM_TIME_LIMIT_MS_MIN, limits::PROGRAM_TIME_LIMIT_MS_MAX);
            if !(least..=most).contains(time_limit_ms) {
                return Err(Failure::limit(format!("`time_limit` is {least} to {most} ms")));
            }
            match &self.source {
                Source::Queue(queue) if queue == into => {
                    return wrong("a program's result goes `into` another queue than its source");
                }
                Source::Queue(_) => {}
                _ => {
                    return wrong(
                        "a program's source is a `queue`; what is published is had through a queue that is bound to it",
                    );
                }
            }
            if self.consumer.is_some() {
                return wrong("a program has no `consumer`: whoever pulls from the queue `into` gets what it made");
            }
        } else if self.to.is_none() && self.consumer.is_none() {
            return wrong("a rule needs a target: a type in `as`, a `consumer`, or for a program the queue `into`");
        }
        Ok(Rule { name: rule_name(self.name)?, steps: self.steps.check()?, ..self })
    }

    /// Writes the rule's fields by name.
    pub(super) fn write(&self, sink: &mut Sink<'_>) {
        let Rule { name, source, from, to, consumer, steps, program } = self;
        let options = [from.is_some(), to.is_some(), consumer.is_some(), !steps.is_empty()];
        sink.map(2 + options.into_iter().filter(|given| *given).count() + 2 * usize::from(program.is_some()));
        sink.name("rule");
        sink.key(name);
        sink.name(source.kind());
        match source {
            Source::Prefix(bytes) | Source::Queue(bytes) => sink.key(bytes),
            Source::Subject(pattern) => sink.text(pattern),
        }
        let texts = [("from", from.map(ContentType::name)), ("as", to.map(ContentType::name)), ("consumer", consumer.as_deref())];
        for (name, text) in texts {
            if let Some(text) = text {
                sink.name(name);
                sink.text(text);
            }
        }
        if !steps.is_empty() {
            sink.name("steps");
            write_steps(steps, sink);
        }
        if let Some(Program { into, time_limit_ms }) = program {
            sink.name("into");
            sink.key(into);
            sink.name("time_limit");
            sink.uint(*time_limit_ms);
        }
        sink.end_map();
    }

    /// The rule as its record has it: a MessagePack map.
    pub fn to_record(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut Sink { json: false, comma: false, out: &mut out });
        out
    }

    /// Reads a record.
    ///
    /// # Errors
    /// `invalid` or `limit` if it is none.
    pub fn from_record(record: &[u8]) -> Result<Rule, Failure> {
        crate::msgpack::check(record, limits::DEPTH_MAX).map_err(|error| Failure::invalid(error.to_string()))?;
        let mut cursor = Cursor::new(record);
        let Pack::Map(length) = cursor.token()? else { return Err(Failure::invalid("a rule is a map")) };
        let entries = pack_entries(&mut cursor, length)?;
        if let Some((name, _)) = entries.iter().find(|(name, _)| !RULE_FIELDS.contains(&&**name)) {
            return Err(Failure::invalid(format!("a rule has no field {name:?}")));
        }
        Rule::of(|at| {
            let found = entries.iter().find(|(name, _)| *name == RULE_FIELDS[at]);
            found.map(|(_, raw)| *raw).filter(|raw| !raw.is_null())
        })
    }

    /// True if the rule converts what is asked for so: of this consumer, or of all for this type.
    pub fn is_for(&self, to: Option<ContentType>, consumer: Option<&str>) -> bool {
        self.program.is_none()
            && match consumer {
                Some(consumer) => self.consumer.as_deref() == Some(consumer),
                None => self.consumer.is_none() && self.to == to,
            }
    }

    /// Orders rules that fit: the first one holds. A subject itself goes before a pattern that begins with all of it.
    pub fn rank(&self) -> impl Ord + '_ {
        let reach = self.source.reach();
        let varies = matches!(&self.source, Source::Subject(pattern) if pattern.len() > reach.len());
        (std::cmp::Reverse(reach.len()), varies, &self.name)
    }
}

/// One of our types, by its name.
pub(super) fn content_type(raw: Raw<'_>, name: &str) -> Result<ContentType, Failure> {
    let names = ContentType::ALL.map(ContentType::name).join(", ");
    ContentType::from_name(&raw.text(name)?).ok_or_else(|| Failure::invalid(format!("`{name}` must be one of {names}")))
}

/// Calls `take` for each entry of a map.
fn each_entry<'a>(raw: Raw<'a>, what: &str, mut take: impl FnMut(&str, Raw<'a>) -> Result<(), Failure>) -> Result<(), Failure> {
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
    let entries = entries.ok_or_else(|| Failure::invalid(format!("`{what}` must be a map")))?;
    entries.iter().try_for_each(|(name, raw)| take(name, *raw))
}

fn steps_of(raw: Raw<'_>) -> Result<Steps, Failure> {
    let mut steps = Steps::default();
    let paths = |raw: Raw<'_>, name: &str, list: &mut Vec<Path>| {
        let is_array = raw.each_element(|element| {
            list.push(Path::new(&element.text(name)?)?);
            Ok(())
        })?;
        if is_array { Ok(()) } else { Err(Failure::invalid(format!("`{name}` must be an array of paths"))) }
    };
    each_entry(raw, "steps", |name, raw| match name {
        "pick" => paths(raw, "pick", &mut steps.pick),
        "drop" => paths(raw, "drop", &mut steps.drop),
        "rename" => each_entry(raw, "rename", |from, to| {
            steps.rename.push((Path::new(from)?, Path::new(&to.text("rename")?)?));
            Ok(())
        }),
        "default" => each_entry(raw, "default", |place, value| {
            steps = std::mem::take(&mut steps).default_value(place, value.stored()?)?;
            Ok(())
        }),
        other => Err(Failure::invalid(format!("`steps` has no {other:?}; it has pick, drop, rename and default"))),
    })?;
    Ok(steps)
}

fn write_steps(steps: &Steps, sink: &mut Sink<'_>) {
    let Steps { pick, drop, rename, default } = steps;
    let given = [!pick.is_empty(), !drop.is_empty(), !rename.is_empty(), !default.is_empty()];
    sink.map(given.into_iter().filter(|given| *given).count());
    for (name, paths) in [("pick", pick), ("drop", drop)].into_iter().filter(|(_, paths)| !paths.is_empty()) {
        sink.name(name);
        sink.array(paths.len());
        paths.iter().for_each(|path| sink.text(&path.to_string()));
        sink.end_array();
    }
    if !rename.is_empty() {
        sink.name("rename");
        sink.map(rename.len());
        for (from, to) in rename {
            sink.name(&from.to_string());
            sink.text(&to.to_string());
        }
        sink.end_map();
    }
    if !default.is_empty() {
        sink.name("default");
        sink.map(default.len());
        for (place, value) in default {
            sink.name(&place.to_string());
            sink.stored(value);
        }
        sink.end_map();
    }
    sink.end_map();
}

#[cfg(test)]
pub(crate) fn samples() -> Vec<Rule> {
    use crate::value::Stored;
    let steps = Steps::new().pick("a").and_then(|steps| steps.pick("b.\"c.d\"")).and_then(|steps| steps.drop("x"));
    let steps = steps.and_then(|steps| steps.rename("a", "z")).expect("these are paths");
    let value = Stored::from_json(br#"{"k":[1]}"#).expect("it is JSON");
    let steps = steps.default_value("n", value).expect("it is small");
    let plain = Rule {
        name: vec![0xff, b'r'],
        source: Source::Prefix(Vec::new()),
        from: None,
        to: Some(ContentType::Csv),
        consumer: None,
        steps: Steps::new(),
        program: None,
    };
    let program = Some(Program { into: b"done".to_vec(), time_limit_ms: 5_000 });
    vec![
        Rule { name: b"p".to_vec(), source: Source::Queue(b"jobs".to_vec()), program, ..plain.clone() },
        Rule {
            source: Source::Subject("a.*.#".into()),
            from: Some(ContentType::Json),
            to: None,
            consumer: Some("billing".into()),
            steps,
            ..plain.clone()
        },
        plain,
    ]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn records_read_back() {
        for rule in samples() {
            assert_eq!(Rule::from_record(&rule.to_record()).unwrap(), rule);
        }
        for wrong in [&[0xc0][..], &[0x80], &[0x81, 0xa1, b'x', 0xc0], &[0xff, 0xff]] {
            assert!(Rule::from_record(wrong).is_err());
        }
    }

    fn about(name: &str, pattern: &str) -> Rule {
        let plain = samples().swap_remove(2);
        Rule { name: name.into(), source: Source::Subject(pattern.into()), ..plain }
    }

    #[test]
    fn a_subject_is_a_pattern_that_could_be_bound() {
        for bad in ["", "team/#", "a*", "a..b", ".a"] {
            let rule = about("r", bad);
            assert!(rule.clone().check().is_err(), "{bad}");
            // What was kept before is no damage.
            assert_eq!(Rule::from_record(&rule.to_record()).as_ref(), Ok(&rule), "{bad}");
        }
        assert!(about("r", "a.*.#").check().is_ok());
    }

    #[test]
    fn the_most_particular_pattern_goes_first() {
        let in_order = [("z", "a.b"), ("a", "a.b.#"), ("x", "a.*"), ("y", "a.*.#"), ("b", "a.#"), ("c", "#")];
        let mut rules: Vec<Rule> = in_order.iter().rev().map(|(name, pattern)| about(name, pattern)).collect();
        rules.sort_by(|one, other| one.rank().cmp(&other.rank()));
        let found: Vec<(&[u8], &Source)> = rules.iter().map(|rule| (rule.name.as_slice(), &rule.source)).collect();
        let expected = in_order.map(|(name, pattern)| (name.as_bytes(), Source::Subject(pattern.into())));
        assert!(found.iter().zip(&expected).all(|(found, (name, source))| *found == (*name, source)), "{found:?}");
    }

    #[test]
    fn a_user_needs_all_that_subjects_of_the_pattern_begin_with() {
        for (pattern, reach) in [("team.#", "team"), ("team.*", "team."), ("team.*.#", "team."), ("#", ""), ("team.a", "team.a")]
        {
            assert_eq!(about("r", pattern).source.reach(), reach.as_bytes(), "{pattern}");
        }
    }
}

//! The verbs of `convert`: each asks the broker and prints what it says. And reads with `--as`, whose values are printed as they are.

use std::io;

use kvbroker::client::{Client, exit_of};
use kvbroker::exit::Exit;
use kvbroker_protocol::limits::PROGRAM_TIME_LIMIT_MS_DEFAULT;
use kvbroker_protocol::{
    Answer, ContentType, ConversionOperation, Converted, ErrorCode, Failure, Key, Operation, Outcome, Program, Rule, Source,
    Steps, Stored, Wanted as As, key_to_line_text, msgpack_to_json,
};

use crate::args::Global;
use crate::convert_args::{ConvertVerb, RuleArgs};
use crate::convert_run::Converter;
use crate::output::{Output, Print, columns, error_json, value_as_printed};
use crate::values::{Kind, bytes, read_all, read_file, stored};
use crate::{Trouble, complain, verbs};

/// A verb whose arguments were read and checked.
pub(crate) enum Wanted {
    One(ConversionOperation),
    List(Key),
    Show(Key),
    Test { rule: Key, value: Stored },
    Run(Converter),
}

fn wrong(failure: Failure) -> Trouble {
    Trouble::misuse(failure.message)
}

impl Wanted {
    pub(crate) fn new(verb: ConvertVerb, global: &Global) -> Result<Wanted, Trouble> {
        Ok(match verb {
            ConvertVerb::Declare(args) => Wanted::One(ConversionOperation::Declare(rule(*args)?)),
            ConvertVerb::List { prefix } => Wanted::List(bytes(&prefix)),
            ConvertVerb::Show { rule } => Wanted::Show(bytes(&rule)),
            ConvertVerb::Drop { rule } => Wanted::One(ConversionOperation::Drop { rule: bytes(&rule) }),
            ConvertVerb::Test { rule, value, file } => {
                let value = match (value, file) {
                    (_, Some(path)) => stored(read_file(&path)?, Kind::of_text(global.json))?,
                    (Some(text), None) if text == "-" => {
                        stored(read_all(io::stdin().lock(), "stdin")?, Kind::of_text(global.json))?
                    }
                    (Some(text), None) => stored(bytes(&text), Kind::of_text(global.json))?,
                    (None, None) => return Err(Trouble::misuse("test needs a value, `-` or --file")),
                };
                Wanted::Test { rule: bytes(&rule), value }
            }
            ConvertVerb::Run { rule, limit, wait, command } => Wanted::Run(Converter::new(bytes(&rule), limit, wait, command)?),
        })
    }
}

fn rule(args: RuleArgs) -> Result<Rule, Trouble> {
    let RuleArgs { rule, prefix, queue, subject, from, target, pick, drop, rename, default, into, time_limit } = args;
    let source = match (prefix, queue, subject) {
        (Some(prefix), ..) => Source::Prefix(bytes(&prefix)),
        (_, Some(queue), _) => Source::Queue(bytes(&queue)),
        (_, _, Some(pattern)) => Source::Subject(pattern),
        (None, None, None) => return Err(Trouble::misuse("a rule needs a source: --prefix, --queue or --subject")),
    };
    let mut steps = Steps::new();
    for place in pick {
        steps = steps.pick(&place).map_err(wrong)?;
    }
    for place in drop {
        steps = steps.drop(&place).map_err(wrong)?;
    }
    for both in rename {
        let (from, to) =
            both.split_once('=').ok_or_else(|| Trouble::misuse("--rename takes FROM=TO, such as price.net=amount"))?;
        steps = steps.rename(from, to).map_err(wrong)?;
    }
    for both in default {
        let (place, value) =
            both.split_once('=').ok_or_else(|| Trouble::misuse("--default takes PATH=JSON, such as currency='\"EUR\"'"))?;
        let value = stored(value.as_bytes().to_vec(), Kind::Json)?;
        steps = steps.default_value(place, value).map_err(wrong)?;
    }
    let time_limit_ms = time_limit.map_or(PROGRAM_TIME_LIMIT_MS_DEFAULT, |limit| limit.0);
    Rule {
        name: bytes(&rule),
        source,
        from,
        to: target.to,
        consumer: target.consumer,
        steps,
        program: into.map(|into| Program { into: bytes(&into), time_limit_ms }),
    }
    .check()
    .map_err(wrong)
}

/// A rule was named that is not there.
pub(crate) fn no_rule() {
    complain("there is no such rule", Some("`kvclient PROJECT convert list` tells which there are"));
}

pub(crate) fn run(client: &Client, wanted: Wanted, out: &mut Output) -> Result<Exit, Trouble> {
    match wanted {
        Wanted::One(operation) => verbs::one(client, Operation::Conversion(Box::new(operation)), out),
        Wanted::List(prefix) => list(&client.convert().list(prefix)?, out),
        Wanted::Show(name) => match client.convert().show(&name)? {
            Some(rule) => {
                out.line(&json(&rule))?;
                Ok(Exit::Ok)
            }
            None => {
                no_rule();
                Ok(Exit::NotFound)
            }
        },
        Wanted::Test { rule, value } => match client.convert().test(rule, value) {
            Ok(made) => {
                out.bytes(&printed(&made))?;
                Ok(Exit::Ok)
            }
            Err(error) if error.code() == Some(ErrorCode::NotFound) => {
                if out.is_json() {
                    out.line(&error_json(&error))?;
                }
                no_rule();
                Ok(Exit::NotFound)
            }
            Err(error) => Err(error.into()),
        },
        Wanted::Run(converter) => converter.run(client),
    }
}

/// A get whose value is converted: printed as it is, with a line feed behind a text that has none.
pub(crate) fn get(client: &Client, key: Key, wanted: As, out: &mut Output) -> Result<Exit, Trouble> {
    let operation = Operation::Converted(Box::new(Converted { operation: Operation::Get { key }, wanted }));
    let subject = verbs::Subject::of(&operation);
    let outcome: Outcome = verbs::ask(client, operation)?;
    match &outcome.result {
        _ if out.is_json() => out.outcome_json(&outcome)?,
        Ok(Answer::Value { value, .. }) => out.bytes(&printed(value))?,
        _ => {}
    }
    if let Err(failure) = &outcome.result {
        subject.complain(failure);
        return Ok(exit_of(failure.code));
    }
    Ok(Exit::Ok)
}

/// A value as it is printed, without a second line feed behind what ends with one.
pub(crate) fn printed(value: &Stored) -> Vec<u8> {
    let mut bytes = Vec::new();
    value_as_printed(value, &mut bytes);
    if bytes.ends_with(b"\n\n") && value.as_text().is_some() {
        bytes.pop();
    }
    bytes
}

fn json(rule: &Rule) -> String {
    let json = msgpack_to_json(&rule.to_record()).unwrap_or_default();
    String::from_utf8_lossy(&json).into_owned()
}

impl Print for Rule {
    fn print(&self, _json: bool, line: &mut Vec<u8>) {
        line.extend_from_slice(json(self).as_bytes());
    }
}

fn list(rules: &[Rule], out: &mut Output) -> Result<Exit, Trouble> {
    if out.is_json() {
        for rule in rules {
            out.item(rule)?;
        }
        return Ok(Exit::Ok);
    }
    let head = ["RULE", "SOURCE", "TARGET", "STEPS"].map(str::to_owned);
    let rows: Vec<[String; 4]> = std::iter::once(head).chain(rules.iter().map(row)).collect();
    columns(&rows).iter().try_for_each(|line| out.line(line))?;
    Ok(Exit::Ok)
}

fn row(rule: &Rule) -> [String; 4] {
    let text = |key: &[u8]| {
        let mut text = Vec::new();
        key_to_line_text(&mut text, key);
        String::from_utf8_lossy(&text).into_owned()
    };
    let source = match &rule.source {
        Source::Prefix(prefix) => format!("prefix {}", text(prefix)),
        Source::Queue(queue) => format!("queue {}", text(queue)),
        Source::Subject(pattern) => format!("subject {}", text(pattern.as_bytes())),
    };
    let consumer = rule.consumer.as_ref().map(|consumer| format!("consumer {}", text(consumer.as_bytes())));
    let program = rule.program.as_ref().map(|program| format!("into {}", text(&program.into)));
    let targets: Vec<String> =
        [consumer, program, rule.to.map(|to: ContentType| to.name().to_owned())].into_iter().flatten().collect();
    [text(&rule.name), source, targets.join(", "), rule.steps.len().to_string()]
}

//! The verbs: each asks the broker and prints what it says.

use std::ffi::OsStr;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kvbroker::client::{Client, ClientError, Item, Pages, RequestId, exit_of};
use kvbroker::exit::Exit;
use kvbroker::lookup::Explanation;
use kvbroker_protocol::{
    Answer, Condition, Converted, ErrorCode, Failure, Key, List, Operation, Operations, Outcome, Outcomes, QueueAnswer,
    RoutingAnswer, Row, Scalar, Scan, Wanted as As,
};

use crate::args::Global;
use crate::output::{Name, Output, Print, printable};
use crate::queue_track::Far;
use crate::values::{Kind, bytes, read_all, read_file, scalar, stored, transaction};
use crate::verb_args::Verb;
use crate::verb_parts::{DelConditions, PageArgs, PutConditions};
use crate::{
    CLIENT, Trouble, batch, complain, convert, del_prefix, events, fate, history, mirror, queue, queue_track, routing, subscribe,
    users, wait, watch,
};

pub(crate) fn run(target: &str, verb: Verb, global: &Global) -> Result<Exit, Trouble> {
    // Before the broker is looked for: what can't be read needs no broker.
    let verb = Asked::new(verb, target, global)?;
    let (client, explanation) = connect(target, global)?;
    if let Asked::Explain = verb {
        return explain(client, explanation, global);
    }
    let client = Arc::new(client?);
    // Only one client is made in a run, so the first one stays.
    let _ = CLIENT.set(Arc::clone(&client));
    let mut out = Output::stdout(global.json);
    let exit = match verb {
        Asked::One(operation) => one(&client, operation, &mut out)?,
        Asked::GetAs(key, wanted) => convert::get(&client, key, wanted, &mut out)?,
        Asked::Mget(keys, wanted) => mget(&client, keys, wanted, &mut out)?,
        Asked::Result { id, look } => fate::run(&client, id, look, &mut out)?,
        Asked::DelPrefix(prefix) => del_prefix::run(&client, &prefix, &mut out, global)?,
        Asked::Rows { query: None, scan, limit, .. } if scan.keys_only => rows(client.scan_keys(scan), limit, &mut out)?,
        Asked::Rows { query: None, scan, limit, wanted } => rows(client.reading(wanted).scan(scan), limit, &mut out)?,
        Asked::Rows { query: Some((field, value)), scan, limit, .. } if scan.keys_only => {
            rows(client.query_keys(&field, value, scan), limit, &mut out)?
        }
        Asked::Rows { query: Some((field, value)), scan, limit, wanted } => {
            rows(client.reading(wanted).query(&field, value, scan), limit, &mut out)?
        }
        Asked::Names { wanted, limit } => names(&client, wanted, limit, &mut out)?,
        Asked::History { key, limit } => history::run(global, &client, &key, limit, &mut out)?,
        Asked::Events(wanted) => events::run(global, &client, wanted, &mut out)?,
        Asked::Users(operation) => users::change(&client, operation, &mut out, global)?,
        Asked::Queue(wanted) => queue::run(global, &client, wanted, &mut out)?,
        Asked::Bindings(queue) => routing::bindings(&client, queue, &mut out)?,
        Asked::Publish(message, far, within) => queue_track::publish(global, &client, message, far, within, &mut out)?,
        Asked::Convert(wanted) => convert::run(&client, wanted, &mut out)?,
        Asked::Batch => batch::run(&client, io::stdin().lock(), &mut out)?,
        Asked::Hello => {
            out.hello(client.broker())?;
            Exit::Ok
        }
        Asked::Ping => ping(&client, &mut out)?,
        Asked::Watch(wanted) => watch::run(global, &client, *wanted, &mut out)?,
        Asked::Subscribe(wanted) => subscribe::run(global, &client, wanted, &mut out)?,
        Asked::Mirror(wanted) => mirror::run(global, &client, *wanted, &mut out)?,
        Asked::Wait(wanted) => wait::run(global, &client, &wanted, &mut out)?,
        Asked::Explain => Exit::Ok,
    };
    out.flush()?;
    Ok(exit)
}

/// A verb whose arguments were read and checked.
enum Asked {
    One(Operation),
    GetAs(Key, As),
    Mget(Vec<Key>, As),
    DelPrefix(Vec<u8>),
    Result {
        id: RequestId,
        look: bool,
    },
    Rows {
        query: Option<(String, Scalar)>,
        scan: Scan,
        limit: Option<u64>,
        wanted: As,
    },
    Names {
        wanted: List,
        limit: Option<u64>,
    },
    History {
        key: Key,
        limit: Option<u64>,
    },
    Events(events::Wanted),
    /// About who may use the table.
    Users(Operation),
    Queue(queue::Wanted),
    Bindings(Option<Key>),
    Publish(Operation, Far, Duration),
    Convert(convert::Wanted),
    Batch,
    Hello,
    Ping,
    Watch(Box<watch::Wanted>),
    Subscribe(subscribe::Wanted),
    Mirror(Box<mirror::Wanted>),
    Wait(wait::Wanted),
    Explain,
}

impl Asked {
    fn new(verb: Verb, target: &str, global: &Global) -> Result<Self, Trouble> {
        Ok(match verb {
            Verb::Put { key, value, file, ttl, only } => {
                let value = match (value, file) {
                    (_, Some(path)) => stored(read_file(&path)?, Kind::of_file(global.json))?,
                    (Some(text), None) if text == "-" => {
                        stored(read_all(io::stdin().lock(), "stdin")?, Kind::of_text(global.json))?
                    }
                    (Some(text), None) => stored(bytes(&text), Kind::of_text(global.json))?,
                    (None, None) => return Err(Trouble::misuse("put needs a value, `-` or --file")),
                };
                let condition = put_condition(only, global)?;
                Asked::One(Operation::Put { key: bytes(&key), value, condition, ttl_ms: ttl.map(|ttl| ttl.0) })
            }
            Verb::Get { key, target } => match target.wanted() {
                wanted if wanted == As::default() => Asked::One(Operation::Get { key: bytes(&key) }),
                wanted => Asked::GetAs(bytes(&key), wanted),
            },
            Verb::Mget { keys, target } => Asked::Mget(keys.iter().map(|key| bytes(key)).collect(), target.wanted()),
            Verb::Exists { key } => Asked::One(Operation::Exists { key: bytes(&key) }),
            Verb::Incr { key, by } => Asked::One(Operation::Incr { key: bytes(&key), by }),
            Verb::Txn { txn } => {
                let text = if txn == "-" { read_all(io::stdin().lock(), "stdin")? } else { bytes(&txn) };
                Asked::One(transaction(&text)?)
            }
            Verb::Del { prefix: Some(prefix), .. } if prefix.is_empty() => {
                return Err(Trouble::misuse("every key starts with the empty prefix; to remove them all say `del --all`"));
            }
            Verb::Del { prefix: Some(prefix), .. } => Asked::DelPrefix(bytes(&prefix)),
            Verb::Del { all: true, .. } => Asked::DelPrefix(Vec::new()),
            Verb::Del { key, return_old, only, .. } => {
                let key = key.ok_or_else(|| Trouble::misuse("del needs a key, --prefix or --all"))?;
                Asked::One(Operation::Del { key: bytes(&key), return_old, condition: del_condition(only, global)? })
            }
            Verb::Expire { key, ttl } => Asked::One(Operation::Expire { key: bytes(&key), ttl_ms: ttl.0 }),
            Verb::Persist { key } => Asked::One(Operation::Persist { key: bytes(&key) }),
            Verb::Ttl { key } => Asked::One(Operation::Ttl { key: bytes(&key) }),
            Verb::Result { id, look } => Asked::Result { id, look },
            Verb::Size => Asked::One(Operation::Size),
            Verb::Stats => Asked::One(Operation::Stats),
            Verb::Scan { prefix, prefix_option, pages } => {
                let prefix = prefix_option.unwrap_or(prefix);
                let wanted = wanted_of(&pages)?;
                Asked::Rows { query: None, limit: pages.limit, scan: scan(&prefix, pages), wanted }
            }
            Verb::Query { subkey: None, pages, .. } if pages.filter.is_none() => {
                return Err(Trouble::misuse("query needs --where PREDICATE, or a field and what it must equal"));
            }
            Verb::Query { subkey, subvalue, prefix, pages } => {
                let (query, wanted) = (subkey.zip(subvalue.map(scalar)), wanted_of(&pages)?);
                Asked::Rows { query, limit: pages.limit, scan: scan(&prefix, pages), wanted }
            }
            Verb::Ls { prefix, delimiter, limit } => {
                // The first page need not be larger than what is wanted altogether.
                let page_limit = limit.map(|names| usize::try_from(names).unwrap_or(usize::MAX));
                let wanted = List { prefix: bytes(&prefix), delimiter: bytes(&delimiter), cursor: None, limit: page_limit };
                Asked::Names { wanted, limit }
            }
            Verb::History { key, limit } => Asked::History { key: bytes(&key), limit },
            Verb::Events { after: None, wait: None, .. } => {
                return Err(Trouble::misuse(
                    "events needs --after REV for what has changed since, or --wait DURATION for what changes next",
                ));
            }
            Verb::Events { prefix, after, limit, wait, with_old, filter } => {
                Asked::Events(events::Wanted { prefix: bytes(&prefix), after, limit, wait, with_old, filter })
            }
            Verb::Authorize { key, grant } => Asked::Users(users::authorize(&key, grant)?),
            Verb::Revoke { key } => Asked::Users(users::revoke(&key)?),
            Verb::Who => Asked::Users(Operation::Who),
            Verb::Queue { verb } => Asked::Queue(queue::Wanted::new(verb, global)?),
            Verb::Bind { bind } => Asked::One(routing::bind(bind)?),
            Verb::Unbind { queue, pattern } => Asked::One(routing::unbind(&queue, &pattern)?),
            Verb::Bindings { queue } => Asked::Bindings(queue.map(|queue| bytes(&queue))),
            Verb::Publish { publish } => {
                let (far, within) = (publish.wait, publish.within);
                Asked::Publish(routing::publish(publish, global)?, far, within)
            }
            Verb::Convert { verb } => Asked::Convert(convert::Wanted::new(verb, global)?),
            Verb::Batch => Asked::Batch,
            Verb::Hello => Asked::Hello,
            Verb::Ping => Asked::Ping,
            Verb::Watch(args) => Asked::Watch(Box::new(watch::Wanted::new(args, target)?)),
            Verb::Subscribe(args) => Asked::Subscribe(subscribe::Wanted::new(&args)?),
            Verb::Mirror(args) => Asked::Mirror(Box::new(mirror::Wanted::new(args)?)),
            Verb::Wait(args) => Asked::Wait(wait::Wanted::new(&args, global)?),
            Verb::Explain => Asked::Explain,
        })
    }
}

/// As what the values of a page are wanted.
fn wanted_of(args: &PageArgs) -> Result<As, Trouble> {
    let wanted = args.target.clone().wanted();
    if args.keys_only && wanted != As::default() {
        return Err(Trouble::misuse("keys alone have no values to convert; leave out --keys-only, or --as and --consumer"));
    }
    Ok(wanted)
}

fn scan(prefix: &OsStr, args: PageArgs) -> Scan {
    // The first page need not be larger than what is wanted altogether.
    let page_size = args.page_size.into_iter().chain(args.limit).min();
    Scan {
        prefix: bytes(prefix),
        from: args.from.as_deref().map(bytes),
        to: args.to.as_deref().map(bytes),
        reverse: args.reverse,
        keys_only: args.keys_only,
        pattern: args.regex,
        filter: args.filter,
        cursor: None,
        limit: page_size.map(|rows| usize::try_from(rows).unwrap_or(usize::MAX)),
        snapshot: args.snapshot.then_some(0),
    }
}

/// At most one of them is given: the command line takes no more.
fn put_condition(only: PutConditions, global: &Global) -> Result<Option<Condition>, Trouble> {
    Ok(match only {
        PutConditions { if_absent: true, .. } => Some(Condition::Absent),
        PutConditions { if_exists: true, .. } => Some(Condition::Exists),
        PutConditions { if_rev, if_value, .. } => del_condition(DelConditions { if_rev, if_value }, global)?,
    })
}

fn del_condition(only: DelConditions, global: &Global) -> Result<Option<Condition>, Trouble> {
    Ok(match only {
        DelConditions { if_rev: Some(revision), .. } => Some(Condition::Revision(revision)),
        DelConditions { if_value: Some(value), .. } => Some(Condition::Value(stored(bytes(&value), Kind::of_text(global.json))?)),
        DelConditions { if_rev: None, if_value: None } => None,
    })
}

/// What was said last: who asks for changes again and again waits again and again, and is to hear of it once.
#[derive(Debug, Default)]
struct News(Mutex<String>);

impl News {
    fn is(&self, sentence: &str) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = *last != sentence;
        sentence.clone_into(&mut last);
        is_new
    }
}

type Connected = (Result<Client, ClientError>, Option<Explanation>);

fn connect(target: &str, global: &Global) -> Result<Connected, Trouble> {
    let mut options = global.connect_options().map_err(Trouble::misuse)?;
    if !global.quiet {
        let news = News::default();
        options = options.notices(move |sentence| {
            if news.is(sentence) {
                complain(&format!("{sentence} …"), None);
            }
        });
    }
    let (client, explanation) = Client::connect_explained(target, options);
    if let Some(explanation) = explanation.as_ref().filter(|_| global.explain) {
        eprint!("{explanation}");
    }
    Ok((client, explanation))
}

fn explain(client: Result<Client, ClientError>, explanation: Option<Explanation>, global: &Global) -> Result<Exit, Trouble> {
    let mut out = Output::stdout(false);
    if let Some(explanation) = explanation {
        if global.json {
            out.line(&serde_json::to_string(&explanation).map_err(io::Error::from)?)?;
        } else {
            out.line(explanation.to_string().trim_end())?;
        }
        out.flush()?;
    }
    match client {
        Ok(_) => Ok(Exit::Ok),
        // The JSON of the explanation stands on stdout already.
        Err(error) if global.json => {
            complain(&error.to_string(), error.hint().as_deref());
            Ok(error.exit())
        }
        Err(error) => Err(error.into()),
    }
}

pub(crate) fn one(client: &Client, operation: Operation, out: &mut Output) -> Result<Exit, Trouble> {
    told(client, operation, out).map(|(_, exit)| exit)
}

/// As [`one`], for who goes on with the outcome.
pub(crate) fn told(client: &Client, operation: Operation, out: &mut Output) -> Result<(Outcome, Exit), Trouble> {
    let subject = Subject::of(&operation);
    let mutation = operation.is_mutation();
    let outcome = ask(client, operation)?;
    let done_at = outcome.revision.filter(|_| mutation && outcome.result.is_ok());
    // Flushed here: only here is it known that something was changed.
    let written = print_one(&outcome, out).and_then(|()| out.flush());
    written.map_err(|error| Trouble::output_after(done_at, error))?;
    if let Err(failure) = &outcome.result {
        subject.complain(failure);
        let exit = exit_of(failure.code);
        return Ok((outcome, exit));
    }
    let unmet = matches!(outcome.result, Ok(Answer::Exists(false) | Answer::Txn { succeeded: false, .. }));
    Ok((outcome, if unmet { Exit::NotFound } else { Exit::Ok }))
}

pub(crate) fn print_one(outcome: &Outcome, out: &mut Output) -> io::Result<()> {
    match &outcome.result {
        Ok(Answer::Stats(stats)) => out.stats(stats, outcome),
        // There is no other good form for results of several kinds.
        Ok(Answer::Txn { .. }) => out.outcome_json(outcome),
        _ if out.is_json() => out.outcome_json(outcome),
        Ok(Answer::Value { value, .. } | Answer::Removed(value)) => out.value(value),
        Ok(Answer::Who(users)) => users::table(users).iter().try_for_each(|line| out.line(line)),
        Ok(Answer::Size(size)) => out.line(&size.to_string()),
        Ok(Answer::Queue(QueueAnswer::Pushed { item, .. })) => out.line(&item.to_string()),
        Ok(Answer::Routing(RoutingAnswer::Published { routed, .. })) => out.line(&routed.to_string()),
        Ok(Answer::Integer(integer)) => out.line(&integer.to_string()),
        Ok(Answer::Ttl(None)) => out.line("none"),
        Ok(Answer::Ttl(Some(deadline))) => {
            out.line(&humantime::format_duration(Duration::from_millis(deadline.left_ms)).to_string())
        }
        Ok(_) | Err(_) => Ok(()),
    }
}

/// One operation and its outcome.
pub(crate) fn ask(client: &Client, operation: Operation) -> Result<Outcome, Trouble> {
    let reply = client.call(Operations::One(operation))?;
    let Outcomes::One(outcome) = reply.outcomes else {
        return Err(Trouble::misuse("the broker answered one operation with several results"));
    };
    tracing::debug!(target: "kvbroker::client", revision = outcome.revision, "answered");
    Ok(outcome)
}

/// What a failure is about, for a sentence.
pub(crate) struct Subject {
    verb: &'static str,
    key: String,
    is_queue: bool,
}

impl Subject {
    pub(crate) fn of(operation: &Operation) -> Self {
        let key = operation.first_key().map(|key| shown(key)).unwrap_or_default();
        let is_queue = matches!(operation, Operation::Queue(_) | Operation::Routing(_) | Operation::Conversion(_));
        Subject { verb: operation.verb(), key, is_queue }
    }

    pub(crate) fn complain(&self, failure: &Failure) {
        let Subject { verb, key, .. } = self;
        let said = printable(&failure.message);
        match failure.code {
            // The sentence names the place in the transaction.
            ErrorCode::NotFound | ErrorCode::Conflict | ErrorCode::WrongType | ErrorCode::OutOfRange if *verb == "txn" => {
                complain(&said, None);
            }
            ErrorCode::NotFound if matches!(*verb, "drop_rule" | "convert") => convert::no_rule(),
            ErrorCode::NotFound if *verb == "revoke" => {
                complain("this key could not use the table anyway; `who` lists those that can", None)
            }
            ErrorCode::NotFound | ErrorCode::Conflict | ErrorCode::LeaseLost | ErrorCode::QueueFull | ErrorCode::Unroutable
                if self.is_queue =>
            {
                complain(&said, None);
            }
            ErrorCode::NotFound => complain(&format!("there is no key {key:?}"), None),
            ErrorCode::Conflict if matches!(*verb, "authorize" | "revoke") => {
                complain(&format!("nothing was changed: {said}"), None)
            }
            ErrorCode::Conflict if *verb == "del" => complain(&format!("{key:?} was not removed: {said}"), None),
            ErrorCode::Conflict => complain(&format!("nothing was stored under {key:?}: {said}"), None),
            ErrorCode::WrongType if *verb == "incr" => {
                let hint = "a number is stored by `put KEY 5 --json`; without --json it is the text \"5\"";
                complain(&format!("nothing was added to {key:?}: {said}"), Some(hint));
            }
            ErrorCode::OutOfRange => complain(&format!("nothing was added to {key:?}: {said}"), None),
            _ => {
                let error = ClientError::Failed(failure.clone());
                complain(&error.to_string(), error.hint().as_deref());
            }
        }
    }
}

fn shown(key: &[u8]) -> String {
    printable(&String::from_utf8_lossy(key))
}

fn mget(client: &Client, keys: Vec<Key>, wanted: As, out: &mut Output) -> Result<Exit, Trouble> {
    let operation = Operation::Mget { keys: keys.clone() };
    let operation = match wanted {
        wanted if wanted == As::default() => operation,
        wanted => Operation::Converted(Box::new(Converted { operation, wanted })),
    };
    let outcome = ask(client, operation)?;
    if out.is_json() {
        out.outcome_json(&outcome)?;
    }
    let values = match outcome.result {
        Ok(Answer::Values(values)) if values.len() == keys.len() => values,
        Ok(_) => return Err(Trouble::misuse("the broker answered with other values than were asked for")),
        Err(failure) => {
            Subject { verb: "mget", key: String::new(), is_queue: false }.complain(&failure);
            return Ok(exit_of(failure.code));
        }
    };
    let mut exit = Exit::Ok;
    for (key, found) in keys.into_iter().zip(values) {
        match found {
            None => {
                complain(&format!("there is no key {:?}", shown(&key)), None);
                exit = Exit::NotFound;
            }
            Some(found) if !out.is_json() => out.item(&Row { key, value: found.value, modified: found.modified })?,
            Some(_) => {}
        }
    }
    Ok(exit)
}

fn rows<T: Item + Print>(mut pages: Pages<'_, T>, limit: Option<u64>, out: &mut Output) -> Result<Exit, Trouble> {
    let mut left = limit.unwrap_or(u64::MAX);
    while left > 0
        && let Some(page) = pages.next_page()
    {
        for item in page?.rows {
            if left == 0 {
                break;
            }
            out.item(&item)?;
            left -= 1;
        }
        // Whoever reads along sees each page when it is there.
        out.flush()?;
    }
    Ok(Exit::Ok)
}

/// All names, page by page.
fn names(client: &Client, mut wanted: List, limit: Option<u64>, out: &mut Output) -> Result<Exit, Trouble> {
    let mut left = limit.unwrap_or(u64::MAX);
    loop {
        let outcome = ask(client, Operation::List(wanted.clone()))?;
        let (keys, cursor) = match outcome.result {
            Ok(Answer::Keys { keys, cursor, .. }) => (keys, cursor),
            Ok(_) => return Err(Trouble::misuse("the broker answered ls with something else than names")),
            Err(failure) => return Err(ClientError::Failed(failure).into()),
        };
        for name in keys {
            if left == 0 {
                break;
            }
            let is_group = name.get(wanted.prefix.len()..).is_some_and(|rest| rest.ends_with(&wanted.delimiter));
            out.item(&Name { name, is_group })?;
            left -= 1;
        }
        // Whoever reads along sees each page when it is there.
        out.flush()?;
        // A cursor that doesn't move would go on for ever.
        if left == 0 || cursor.is_none() || cursor == wanted.cursor {
            return Ok(Exit::Ok);
        }
        wanted.cursor = cursor;
    }
}

fn ping(client: &Client, out: &mut Output) -> Result<Exit, Trouble> {
    let start = Instant::now();
    let revision = client.ping()?;
    let ms = start.elapsed().as_secs_f64() * 1e3;
    if out.is_json() {
        out.line(&serde_json::json!({"status": "ok", "rev": revision, "ms": ms}).to_string())?;
    } else {
        out.line(&format!("revision {revision}, {ms:.3} ms"))?;
    }
    Ok(Exit::Ok)
}

/// The exit code of one outcome.
pub(crate) fn exit_of_outcome(outcome: &Outcome) -> Exit {
    outcome.result.as_ref().err().map_or(Exit::Ok, |failure| exit_of(failure.code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_just_now_is_no_news() {
        let news = News::default();
        assert_eq!(["waiting", "waiting", "connecting", "waiting"].map(|sentence| news.is(sentence)), [true, false, true, true]);
    }
}

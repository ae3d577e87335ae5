//! Command lines and what they mean.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::verb_parts::{DelConditions, PageArgs, PutConditions, Ttl};
use crate::watch_args::{OnFailure, Place};

fn read_words(line: &str) -> Result<Invocation, Misuse> {
    parse(std::iter::once("kvclient").chain(line.split_whitespace()).map(OsString::from).collect())
}

fn used(line: &str) -> (String, Verb, Global) {
    match read_words(line) {
        Ok(Invocation::Use { target, verb, global }) => (target, *verb, global),
        other => panic!("{line}: {other:?}"),
    }
}

fn printed_text(line: &str) -> String {
    match read_words(line) {
        Ok(Invocation::Print(text)) => text,
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn the_grammar_holds_together() {
    command().debug_assert();
    ListWord::command().debug_assert();
}

#[test]
fn the_project_comes_first_and_options_anywhere() {
    for line in [
        "NETID-a5 put k v --timeout 3s",
        "--timeout 3s NETID-a5 put k v",
        "NETID-a5 --timeout=3s put k v",
        "-q --timeout 3s NETID-a5 insert k v",
    ] {
        let (target, verb, global) = used(line);
        assert_eq!((target.as_str(), global.timeout()), ("NETID-a5", Some(Duration::from_secs(3))), "{line}");
        assert!(matches!(verb, Verb::Put { key, value: Some(value), file: None, .. } if key == "k" && value == "v"), "{line}");
    }
    // A project may be called like a verb.
    assert_eq!(used("put get k").0, "put");
    assert!(matches!(used("p put k -5").1, Verb::Put { value: Some(value), .. } if value == "-5"));
    assert!(matches!(used("p put -- -k -v").1, Verb::Put { key, value: Some(value), .. } if key == "-k" && value == "-v"));
    assert!(matches!(used("p put k -").1, Verb::Put { value: Some(value), .. } if value == "-"));
    assert_eq!(used("p get k --timeout 0").2.timeout(), None);
    assert_eq!(used("kv://127.0.0.1:4000/p get k").0, "kv://127.0.0.1:4000/p");
}

#[test]
fn both_names_of_a_verb_are_the_same() {
    assert!(matches!(used("p lookup k").1, Verb::Get { .. }));
    assert!(matches!(used("p remove k --return").1, Verb::Del { return_old: true, .. }));
    assert!(matches!(used("p scan").1, Verb::Scan { prefix, .. } if prefix.is_empty()));
    assert!(matches!(
        used("p query weight 100 --prefix a/ --limit 3").1,
        Verb::Query { pages: PageArgs { limit: Some(3), .. }, .. }
    ));
}

#[test]
fn conditions_are_one_or_none() {
    let put = |line: &str| match used(line).1 {
        Verb::Put { only, .. } => only,
        other => panic!("{line}: {other:?}"),
    };
    assert!(matches!(put("p put k v"), PutConditions { if_absent: false, if_exists: false, if_rev: None, if_value: None }));
    assert!(put("p put k v --if-absent").if_absent);
    assert!(put("p put --if-exists k v").if_exists);
    assert_eq!(put("p put k v --if-rev 0").if_rev, Some(0));
    assert_eq!(put("p put k v --if-value -5").if_value, Some("-5".into()));
    assert_eq!(put("p put k --if-value=--v -").if_value, Some("--v".into()));
    let del = used("p del k --if-value v --return").1;
    assert!(
        matches!(del, Verb::Del { return_old: true, only: DelConditions { if_rev: None, if_value: Some(v) }, .. } if v == "v")
    );
    assert!(matches!(used("p del k --if-rev 7").1, Verb::Del { only: DelConditions { if_rev: Some(7), .. }, .. }));
}

#[test]
fn deadlines_are_durations_within_bounds() {
    assert!(matches!(used("p put k v --ttl 90s").1, Verb::Put { ttl: Some(Ttl(90_000)), .. }));
    assert!(matches!(used("p put k v").1, Verb::Put { ttl: None, .. }));
    assert!(matches!(used("p expire k 2h").1, Verb::Expire { key, ttl: Ttl(7_200_000) } if key == "k"));
    assert!(matches!(used("p expire k 36500days").1, Verb::Expire { ttl: Ttl(kvbroker_protocol::limits::TTL_MS_MAX), .. }));
    assert!(matches!(used("p persist k").1, Verb::Persist { key } if key == "k"));
    assert!(matches!(used("p ttl k --json").1, Verb::Ttl { key } if key == "k"));
}

#[test]
fn a_del_is_of_a_key_or_of_a_prefix_or_of_everything() {
    assert!(matches!(used("p del k").1, Verb::Del { key: Some(key), prefix: None, all: false, .. } if key == "k"));
    assert!(matches!(used("p del --prefix a/").1, Verb::Del { key: None, prefix: Some(prefix), .. } if prefix == "a/"));
    assert!(matches!(used("p remove --all").1, Verb::Del { key: None, prefix: None, all: true, .. }));
}

#[test]
fn incr_takes_negative_numbers_and_options_on_either_side() {
    let by = |line: &str| match used(line).1 {
        Verb::Incr { key, by } if key == "n" => by,
        other => panic!("{line}: {other:?}"),
    };
    assert_eq!([by("p incr n"), by("p incr n 5"), by("p incr n -5 --json"), by("p incr n --json -5")], [1, 5, -5, -5]);
    assert_eq!(by("p incr --json n -9223372036854775808"), i64::MIN);
    assert!(used("p incr n -5 --json").2.json);
}

#[test]
fn several_keys_and_ranges() {
    assert!(matches!(used("p mget a b c --json").1, Verb::Mget { keys, .. } if keys == ["a", "b", "c"]));
    assert!(matches!(used("p exists a").1, Verb::Exists { key } if key == "a"));
    let Verb::Scan { prefix, pages, .. } = used("p scan a/ --from a/1 --to a/5 --reverse --keys-only").1 else { panic!() };
    let PageArgs { from, to, reverse, keys_only, .. } = pages;
    assert_eq!((prefix, from, to), ("a/".into(), Some("a/1".into()), Some("a/5".into())));
    assert!(reverse && keys_only);
    assert!(matches!(
        used("p query w 1 --keys-only --to k").1,
        Verb::Query { pages: PageArgs { keys_only: true, reverse: false, to: Some(to), .. }, .. } if to == "k"
    ));
}

#[test]
fn predicates_stand_alone_or_beside_a_field() {
    let asked = |line: &str| match used(line).1 {
        Verb::Query { subkey, subvalue, pages, .. } => (subkey, subvalue, pages.filter.map(|filter| filter.to_string())),
        other => panic!("{line}: {other:?}"),
    };
    assert_eq!(asked("p query --where a.b=1"), (None, None, Some("a.b = 1".into())));
    assert_eq!(asked("p query w -1 --where a~b"), (Some("w".into()), Some("-1".into()), Some("a ~ 'b'".into())));
}

#[test]
fn names_are_grouped_at_slashes_or_something_else() {
    assert!(matches!(used("p ls").1, Verb::Ls { prefix, delimiter, limit: None } if prefix.is_empty() && delimiter == "/"));
    assert!(
        matches!(used("p ls a/ --delimiter ::").1, Verb::Ls { prefix, delimiter, .. } if prefix == "a/" && delimiter == "::")
    );
}

#[test]
fn a_watch_has_a_place_to_begin_and_words_for_a_command() {
    let watch = |line: &str| match used(line).1 {
        Verb::Watch(args) => args,
        other => panic!("{line}: {other:?}"),
    };
    let plain = watch("p watch");
    assert!(plain.prefix.is_empty() && plain.from.is_none() && plain.command.is_empty() && !plain.snapshot);
    let whole = watch("p watch a/ --from 41@0000000000c0ffee --on-failure retry --timeout 1s -- sh -c --help --json");
    assert_eq!((whole.prefix, whole.from), ("a/".into(), Some(Place { revision: 41, epoch: Some(0xc0ffee) })));
    assert_eq!(
        (whole.command, whole.on_failure),
        (vec!["sh".into(), "-c".into(), "--help".into(), "--json".into()], Some(OnFailure::Retry))
    );
    assert!(watch("p watch -- true --snapshot").prefix.is_empty());
    assert!(watch("p watch k --exact --with-old --once --where @value>1").filter.is_some());
    assert!(
        matches!(used("p mirror a/ f --once").1, Verb::Mirror(args) if args.interval == Duration::from_millis(200) && args.once)
    );
    assert!(matches!(used("p wait k --value -5").1, Verb::Wait(args) if args.value == Some("-5".into()) && !args.gone));
}

#[test]
fn words_that_stand_alone() {
    assert!(matches!(read_words("list --json --catalog none"), Ok(Invocation::List(global)) if global.json));
    assert!(matches!(read_words("--json list"), Ok(Invocation::List(global)) if global.json));
    assert!(printed_text("version").starts_with("kvclient "));
    assert_eq!(printed_text("--version"), printed_text("version"));
    assert!(matches!(read_words("id --json"), Ok(Invocation::Id(global)) if global.json));
    for word in ["completions", "doctor"] {
        assert!(read_words(word).unwrap_err().sentence.contains("later version"), "{word}");
    }
}

#[test]
fn help_teaches_every_verb_by_example() {
    for line in ["help", "--help", "-h"] {
        let text = printed_text(line);
        assert!(text.contains("kvclient NETID-a5 put greeting hello"), "{line}: {text}");
    }
    for verb in command().get_subcommands().map(|verb| verb.get_name().to_owned()) {
        let text = printed_text(&format!("help {verb}"));
        assert!(text.contains("Example") && text.contains(&format!("NETID-a5 {verb}")), "{text}");
        assert_eq!(text, printed_text(&format!("NETID-a5 {verb} --help")));
        assert_eq!(text, printed_text(&format!("NETID-a5 help {verb}")));
    }
    for verb in command().get_subcommands() {
        for sub in verb.get_subcommands().filter(|sub| sub.get_name() != "help") {
            let line = format!("{} {}", verb.get_name(), sub.get_name());
            let text = printed_text(&format!("help {line}"));
            assert_eq!(text, printed_text(&format!("NETID-a5 {line} --help")));
            assert!(text.contains("Example") && text.contains(&format!("NETID-a5 {line}")), "{text}");
        }
    }
    assert!(printed_text("help list").contains("--catalog none"));
    for word in ["list", "id"] {
        let text = printed_text(&format!("{word} --help"));
        assert!(text.contains(&format!("Usage: kvclient {word} [OPTIONS]")), "{text}");
    }
    assert!(printed_text("p --help").contains("Verbs:"));
}

#[test]
fn what_is_wrong_is_said_in_a_sentence() {
    let cases = [
        ("", "which project?"),
        ("p", "A verb comes next: kvclient p VERB"),
        ("put k v", "before the verb: kvclient PROJECT put"),
        ("get", "before the verb: kvclient PROJECT get"),
        ("p fly", "fly"),
        ("../p get k", "project name contains '/'"),
        ("kv://h/p get k", "needs a port"),
        ("help fly", "no verb \"fly\""),
        ("p get", "KEY"),
        ("p put k", "VALUE"),
        ("p put k v --file f", "cannot be used with"),
        ("p put k v --if-absent --if-rev 1", "cannot be used with"),
        ("p put k v --if-value a --if-exists", "cannot be used with"),
        ("p put k v --if-rev soon", "soon"),
        ("p del k --if-rev 1 --if-value v", "cannot be used with"),
        ("p del k --if-absent", "--if-absent"),
        ("p del", "KEY"),
        ("p del k --prefix a", "cannot be used with"),
        ("p del k --all", "cannot be used with"),
        ("p del --prefix a --all", "cannot be used with"),
        ("p del --prefix a --return", "cannot be used with"),
        ("p del --prefix a --if-rev 1", "cannot be used with"),
        ("p del --all --if-value v", "cannot be used with"),
        ("p put k v --ttl 90", "time unit needed"),
        ("p put k v --ttl 1us", "at least 1ms"),
        ("p expire k 101years", "at most 36500days"),
        ("p expire k", "DURATION"),
        ("p incr k 1.5", "1.5"),
        ("p incr k 9223372036854775808", "too large"),
        ("p mget", "KEY"),
        ("p exists", "KEY"),
        ("p scan --regex (", "does not compile"),
        ("p scan --limit 0", "0 is not in"),
        ("p scan --where a=", "wrong at column 3"),
        ("p query weight", "SUBVALUE"),
        ("p ls --limit 0", "0 is not in"),
        ("p watch --from soon", "not a revision"),
        ("p watch --on-failure stop", "CMD"),
        ("p watch --on-failure never -- true", "never"),
        ("p watch --limit 0", "0 is not in"),
        ("p mirror a/", "FILE"),
        ("p wait k --value v --gone", "cannot be used with"),
        ("p get k --timeout soon", "soon"),
        ("p get k --broker 12", "32 hexadecimal"),
        ("p get k -v -q", "cannot be used with"),
        ("p get k --log-format xml", "text or json"),
        ("p get k --colour", "--colour"),
    ];
    for (line, part) in cases {
        let misuse = read_words(line).unwrap_err();
        assert!(misuse.sentence.contains(part), "{line}: {misuse:?}");
    }
}

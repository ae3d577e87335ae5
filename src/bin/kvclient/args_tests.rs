//! Command lines and what they mean.

#![allow(clippy::unwrap_used)]

use super::*;

fn read_words(line: &str) -> Result<Invocation, Misuse> {
    parse(std::iter::once("kvclient").chain(line.split_whitespace()).map(OsString::from).collect())
}

fn used(line: &str) -> (String, Verb, Global) {
    match read_words(line) {
        Ok(Invocation::Use { target, verb, global }) => (target, verb, global),
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
        assert!(matches!(verb, Verb::Put { key, value: Some(value), file: None } if key == "k" && value == "v"), "{line}");
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
fn words_that_stand_alone() {
    assert!(matches!(read_words("list --json --catalog none"), Ok(Invocation::List(global)) if global.json));
    assert!(matches!(read_words("--json list"), Ok(Invocation::List(global)) if global.json));
    assert!(printed_text("version").starts_with("kvclient "));
    assert_eq!(printed_text("--version"), printed_text("version"));
    for word in ["id", "completions", "doctor"] {
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
    assert!(printed_text("help list").contains("--catalog none"));
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
        ("p scan --regex (", "does not compile"),
        ("p scan --limit 0", "0 is not in"),
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

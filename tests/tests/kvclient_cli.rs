//! `kvclient` against a real broker: every verb, what it prints, and its exit code.

#![allow(clippy::unwrap_used)]

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use kvbroker_tests::{Broker, BrokerOptions, Cli, PATIENCE, finish, program, wait_until};
use serde_json::json;

fn started() -> (Broker, Cli) {
    let broker = Broker::plain();
    let cli = Cli::new(broker.home());
    (broker, cli)
}

#[test]
fn every_verb_by_both_names() {
    let (_broker, cli) = started();
    let ok = |words: &[&str]| cli.ok(words).text();
    assert_eq!(ok(&["test", "put", "greeting", "hello"]), "");
    assert_eq!(ok(&["test", "get", "greeting"]), "hello\n");
    assert_eq!(ok(&["test", "insert", "zebra", r#"{"weight":100}"#, "--json"]), "{\"status\":\"ok\",\"rev\":2}\n");
    assert_eq!(ok(&["test", "lookup", "zebra"]), "{\"weight\":100}\n");
    assert_eq!(ok(&["test", "size"]), "2\n");
    assert_eq!(ok(&["test", "scan"]), "greeting\t\"hello\"\nzebra\t{\"weight\":100}\n");
    assert_eq!(ok(&["test", "scan", "z"]), "zebra\t{\"weight\":100}\n");
    assert_eq!(ok(&["test", "scan", "--regex", "ting$"]), "greeting\t\"hello\"\n");
    assert_eq!(ok(&["test", "query", "weight", "100.0"]), "zebra\t{\"weight\":100}\n");
    assert_eq!(ok(&["test", "query", "weight", "\"100\""]), "");
    assert_eq!(ok(&["test", "query", "weight", "100", "--prefix", "y"]), "");
    assert!(ok(&["test", "hello"]).contains("project     test\n"));
    assert!(ok(&["test", "ping"]).starts_with("revision 2, "));
    assert!(ok(&["test", "stats"]).lines().any(|line| line.starts_with("keys ") && line.ends_with(" 2")));
    assert!(ok(&["test", "explain"]).contains("chosen: candidate 1"));
    assert_eq!(ok(&["test", "del", "zebra", "--return"]), "{\"weight\":100}\n");
    assert_eq!(ok(&["test", "remove", "greeting"]), "");
    assert_eq!(ok(&["test", "size"]), "0\n");
}

#[test]
fn transactions_are_done_whole_or_not_at_all() {
    let (_broker, cli) = started();
    let put =
        cli.ok(&["test", "txn", r#"{"then":[{"op":"put","key":"stock","value":1},{"op":"put","key":"sold","value":0}]}"#]).json();
    assert_eq!((&put["rev"], &put["succeeded"]), (&json!(1), &json!(true)));
    let sell = r#"{"if":[{"key":"stock","if_value":1}],"then":[{"op":"incr","key":"stock","by":-1},{"op":"incr","key":"sold"}],"else":[{"op":"get","key":"sold"}]}"#;
    let sold = cli.ok(&["test", "txn", sell]).json();
    assert_eq!(sold["results"], json!([{"status": "ok", "value": 0}, {"status": "ok", "value": 1}]));
    // Sold out: the other list is done, which is a success that says so.
    let late = cli.run_with(&["test", "txn", "-"], sell.as_bytes());
    assert_eq!((late.code, &late.json()["succeeded"]), (Some(1), &json!(false)));
    assert_eq!(late.json()["results"][0]["value"], 1);
    // The second change fails, so the first is not there.
    let failed = cli.run(&["test", "txn", r#"{"then":[{"op":"incr","key":"stock"},{"op":"del","key":"nobody"}]}"#]);
    assert_eq!(failed.code, Some(1));
    assert!(failed.stderr.contains("`then`[1]: there is no such key; nothing of the transaction was done"), "{}", failed.stderr);
    assert_eq!(cli.ok(&["test", "get", "stock"]).text(), "0\n");
    for wrong in ["[]", "{", "{}", r#"{"when":[]}"#, r#"{"then":[{"op":"fly"}]}"#] {
        assert_eq!(cli.run(&["test", "txn", wrong]).code, Some(2), "{wrong}");
    }
}

#[test]
fn json_has_stable_names() {
    let (_broker, cli) = started();
    let ok = |words: &[&str]| cli.ok(words).json();
    assert_eq!(ok(&["--json", "test", "put", "k", "[1]"]), json!({"status": "ok", "rev": 1}));
    assert_eq!(ok(&["test", "get", "k", "--json"]), json!({"status": "ok", "rev": 1, "value": [1], "modified": 1, "created": 1}));
    assert_eq!(ok(&["test", "size", "--json"]), json!({"status": "ok", "rev": 1, "size": 1}));
    assert_eq!(ok(&["test", "scan", "--json"]), json!({"key": "k", "value": [1], "modified": 1}));
    assert_eq!(ok(&["test", "ping", "--json"])["rev"], 1);
    assert_eq!(ok(&["test", "hello", "--json"])["project"], "test");
    assert_eq!(ok(&["test", "stats", "--json"])["stats"]["keys"], 1);
    assert_eq!(ok(&["test", "explain", "--json"])["candidates"][0]["verdict"], "verified");
    let listed = ok(&["list", "--json"]);
    assert_eq!((&listed["brokers"][0]["project"], &listed["trouble"]), (&json!("test"), &json!([])));
    assert_eq!(ok(&["test", "del", "k", "--return", "--json"]), json!({"status": "ok", "rev": 2, "value": [1]}));

    let absent = cli.run(&["test", "get", "k", "--json"]);
    let error = absent.json();
    assert_eq!((absent.code, &error["error"]["code"], &error["error"]["definite"]), (Some(1), &json!("not_found"), &json!(true)));
    let nowhere = cli.run(&["nowhere", "get", "k", "--json"]);
    assert_eq!((nowhere.code, &nowhere.json()["error"]["code"]), (Some(5), &json!("not_here")));
}

#[test]
fn conditions_let_one_of_several_win() {
    let (_broker, cli) = started();
    let conflict = |words: &[&str], sentence: &str| {
        let said = cli.run(words);
        assert_eq!((said.code, said.text().as_str()), (Some(3), ""), "{words:?}: {}", said.stderr);
        assert_eq!(said.stderr, format!("kvclient: {sentence}\n"));
    };
    cli.ok(&["test", "put", "leader", "ann", "--if-absent"]);
    conflict(
        &["test", "put", "leader", "bob", "--if-absent"],
        "nothing was stored under \"leader\": the key is there, last changed at revision 1",
    );
    cli.ok(&["test", "put", "leader", "bob", "--if-rev", "1"]);
    conflict(
        &["test", "put", "leader", "cid", "--if-rev", "1"],
        "nothing was stored under \"leader\": the key was last changed at revision 2, not 1",
    );
    cli.ok(&["test", "put", "leader", "cid", "--if-value", "bob"]);
    cli.ok(&["test", "put", "leader", "dan", "--if-exists"]);
    assert_eq!(cli.run(&["test", "put", "nobody", "v", "--if-exists"]).code, Some(3));
    // A text is not a number, whichever way it is written.
    cli.ok(&["test", "put", "n", "5"]);
    assert_eq!(cli.run(&["test", "put", "n", "6", "--if-value", "5", "--json"]).json()["error"]["code"], "conflict");
    cli.ok(&["test", "put", "n", "6", "--if-value", "5"]);
    cli.ok(&["test", "put", "n", "{\"a\":[1,2]}", "--json"]);
    cli.ok(&["test", "put", "n", "-7", "--if-value", "{ \"a\": [1.0, 2] }", "--json"]);
    let wrong = cli.run(&["test", "put", "n", "1", "--if-value", "nope", "--json"]);
    assert_eq!((wrong.code, &wrong.json()["error"]["code"]), (Some(2), &json!("invalid")));

    conflict(
        &["test", "del", "leader", "--if-value", "ann"],
        "\"leader\" was not removed: the key has another value, last changed at revision 4",
    );
    assert_eq!(cli.ok(&["test", "del", "leader", "--if-rev", "4", "--return"]).text(), "dan\n");
    assert_eq!(cli.run(&["test", "del", "leader", "--if-rev", "4"]).code, Some(1), "absent comes before any condition");
    cli.ok(&["test", "del", "n", "--if-value", "-7", "--json"]);
    assert_eq!(cli.ok(&["test", "size"]).text(), "0\n");
}

#[test]
fn integers_are_added_to() {
    let (_broker, cli) = started();
    assert_eq!(cli.ok(&["test", "incr", "visits"]).text(), "1\n");
    assert_eq!(cli.ok(&["test", "incr", "visits", "41"]).text(), "42\n");
    assert_eq!(cli.ok(&["test", "incr", "visits", "-50"]).text(), "-8\n");
    assert_eq!(cli.ok(&["test", "incr", "visits", "-2", "--json"]).json(), json!({"status": "ok", "rev": 4, "value": -10}));
    assert_eq!(cli.ok(&["test", "get", "visits"]).text(), "-10\n");
    cli.ok(&["test", "put", "text", "5"]);
    let wrong = cli.run(&["test", "incr", "text"]);
    assert_eq!(wrong.code, Some(2));
    assert!(wrong.stderr.starts_with("kvclient: nothing was added to \"text\": the value is not an integer"), "{}", wrong.stderr);
    assert!(wrong.stderr.contains("hint: a number is stored by `put KEY 5 --json`"), "{}", wrong.stderr);
    cli.ok(&["test", "put", "full", "18446744073709551615", "--json"]);
    let over = cli.run(&["test", "incr", "full", "--json"]);
    assert_eq!((over.code, &over.json()["error"]["code"]), (Some(2), &json!("out_of_range")));
    assert_eq!(cli.ok(&["test", "get", "full"]).text(), "18446744073709551615\n");
}

#[test]
fn several_keys_and_none() {
    let (_broker, cli) = started();
    cli.ok(&["test", "put", "a", "one\ttwo"]);
    cli.ok(&["test", "put", "b", "{\"weight\":100}", "--json"]);
    assert_eq!(cli.ok(&["test", "mget", "b", "a"]).text(), "b\t{\"weight\":100}\na\t\"one\\ttwo\"\n");
    let some = cli.run(&["test", "mget", "x", "a", "y"]);
    assert_eq!((some.code, some.text().as_str()), (Some(1), "a\t\"one\\ttwo\"\n"));
    assert_eq!(some.stderr, "kvclient: there is no key \"x\"\nkvclient: there is no key \"y\"\n");
    let both = cli.run(&["test", "mget", "b", "x", "--json"]);
    assert_eq!((both.code, both.json()), (Some(1), json!({"status": "ok", "rev": 2, "values": [[{"weight": 100}, 2, 2], null]})));

    for (key, code, exists) in [("a", 0, true), ("x", 1, false)] {
        let said = cli.run(&["test", "exists", key]);
        assert_eq!((said.code, said.text().as_str(), said.stderr.as_str()), (Some(code), "", ""));
        let said = cli.run(&["test", "exists", key, "--json"]);
        assert_eq!((said.code, said.json()), (Some(code), json!({"status": "ok", "rev": 2, "exists": exists})));
        assert_eq!(said.stderr, "");
    }
}

#[test]
fn ranges_go_either_way_with_or_without_values() {
    let (_broker, cli) = started();
    for key in ["a/1", "a/2", "a/3", "b/1"] {
        cli.ok(&["test", "put", key, "{\"w\":1}", "--json"]);
    }
    let ok = |words: &[&str]| cli.ok(words).text();
    assert_eq!(ok(&["test", "scan", "--from", "a/2", "--to", "b/1", "--keys-only"]), "a/2\na/3\n");
    assert_eq!(ok(&["test", "scan", "--from", "b/1"]), "b/1\t{\"w\":1}\n");
    assert_eq!(ok(&["test", "scan", "a/", "--reverse", "--keys-only", "--page-size", "2"]), "a/3\na/2\na/1\n");
    assert_eq!(ok(&["test", "scan", "--reverse", "--limit", "1"]), "b/1\t{\"w\":1}\n");
    assert_eq!(ok(&["test", "query", "w", "1", "--to", "a/2", "--keys-only"]), "a/1\n");
    assert_eq!(ok(&["test", "query", "w", "1", "--reverse", "--keys-only", "--prefix", "a/", "--limit", "2"]), "a/3\na/2\n");
    assert_eq!(ok(&["test", "query", "w", "1", "--from", "b"]), "b/1\t{\"w\":1}\n");
    let keys = cli.ok(&["test", "scan", "--keys-only", "--limit", "2", "--json"]).json_lines();
    assert_eq!(keys, [json!({"key": "a/1"}), json!({"key": "a/2"})]);
    assert_eq!(ok(&["test", "scan", "--from", "c"]), "");
}

#[test]
fn predicates_pick_and_names_are_grouped() {
    let (_broker, cli) = started();
    for (key, value) in
        [("zoo/lion", r#"{"kg":190,"food":["meat"]}"#), ("zoo/zebra", r#"{"kg":350.5}"#), ("note", "\"feed them\"")]
    {
        cli.ok(&["test", "put", key, value, "--json"]);
    }
    let ok = |words: &[&str]| cli.ok(words).text();
    assert_eq!(ok(&["test", "query", "--where", "kg > 190 or food[0] = meat", "--keys-only"]), "zoo/lion\nzoo/zebra\n");
    assert_eq!(ok(&["test", "query", "--where", "@value ~ 'feed'"]), "note\t\"feed them\"\n");
    assert_eq!(ok(&["test", "query", "kg", "190", "--where", "not has food"]), "");
    assert_eq!(ok(&["test", "scan", "zoo/", "--where", "kg >= 190", "--reverse", "--limit", "1", "--keys-only"]), "zoo/zebra\n");
    assert!(cli.run(&["test", "query"]).stderr.contains("query needs --where"));
    let wrong = cli.run(&["test", "query", "--where", "kg > "]);
    assert_eq!(wrong.code, Some(2));
    assert!(wrong.stderr.contains("column 6"), "{}", wrong.stderr);

    assert_eq!(ok(&["test", "ls"]), "note\nzoo/\n");
    assert_eq!(ok(&["test", "ls", "zoo/"]), "zoo/lion\nzoo/zebra\n");
    assert_eq!(ok(&["test", "ls", "zoo", "--delimiter", "/z"]), "zoo/lion\nzoo/z\n");
    assert_eq!(ok(&["test", "ls", "nobody"]), "");
    assert_eq!(ok(&["test", "ls", "--limit", "1"]), "note\n");
    let names = cli.ok(&["test", "ls", "--json"]).json_lines();
    assert_eq!(names, [json!({"name": "note", "group": false}), json!({"name": "zoo/", "group": true})]);
    let refused = cli.run(&["test", "ls", "--delimiter", ""]);
    assert_eq!((refused.code, refused.stderr.contains("delimiter")), (Some(2), true), "{}", refused.stderr);
}

#[test]
fn a_key_has_a_history_and_a_scan_can_show_one_moment() {
    let (mut broker, cli) = started();
    for words in [&["put", "k", "one"][..], &["put", "other", "x"], &["put", "k", "[2]", "--json"], &["del", "k"]] {
        cli.ok(&[&["test"], words].concat());
    }
    let rows = |text: String| -> Vec<Vec<String>> {
        text.lines().map(|line| line.split('\t').filter(|word| !word.ends_with('Z')).map(str::to_owned).collect()).collect()
    };
    let all = [vec!["4", "remove"], vec!["3", "put", "[2]"], vec!["1", "put", "\"one\""]];
    assert_eq!(rows(cli.ok(&["test", "history", "k"]).text()), all);
    assert_eq!(rows(cli.ok(&["test", "history", "k", "--limit", "1"]).text()), all[..1]);
    // The log is there again after a restart, whatever way the broker ended.
    broker.kill9();
    broker.restart();
    let json = cli.ok(&["test", "history", "k", "--json"]).text();
    let lines: Vec<serde_json::Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((lines.len(), &lines[0]["event"], &lines[1]["value"]), (3, &json!("remove"), &json!([2])));
    assert!(lines[2]["time"].as_u64() <= lines[0]["time"].as_u64() && lines[2]["rev"] == 1);
    let nobody = cli.run(&["test", "history", "nobody"]);
    assert_eq!((nobody.code, nobody.text()), (Some(1), String::new()));
    assert!(nobody.stderr.contains("goes back to revision 1"), "{}", nobody.stderr);

    cli.ok(&["test", "put", "k", "again"]);
    for options in [&["scan"][..], &["scan", "--reverse", "--keys-only"], &["query", "--where", "@value = x"]] {
        let paged = [&["test"], options, &["--page-size", "1"]].concat();
        assert_eq!(cli.ok(&[&paged[..], &["--snapshot"]].concat()).text(), cli.ok(&paged).text());
    }
}

#[test]
fn values_come_back_as_they_were_given() {
    let (broker, cli) = started();
    let raw = [0xff, 0x00, b'\n', 0x80];
    let file = broker.home().path().join("raw");
    std::fs::write(&file, raw).unwrap();
    cli.ok(&["test", "put", "file", "--file", file.to_str().unwrap()]);
    assert_eq!(cli.ok(&["test", "get", "file"]).stdout, raw);
    assert_eq!(cli.run_with(&["test", "put", "pipe", "-"], &raw).code, Some(0));
    assert_eq!(cli.ok(&["test", "get", "pipe"]).stdout, raw);
    assert_eq!(cli.run_with(&["test", "put", "text", "-"], "grün\n".as_bytes()).code, Some(0));
    assert_eq!(cli.ok(&["test", "get", "text"]).text(), "grün\n\n");
    cli.ok(&["test", "put", "number", "100"]);
    assert_eq!(cli.ok(&["test", "get", "number", "--json"]).json()["value"], "100");
    assert_eq!(cli.run_with(&["test", "put", "json", "-", "--json"], b"{\"n\": 18446744073709551615}\n").code, Some(0));
    assert_eq!(cli.ok(&["test", "get", "json"]).text(), "{\"n\":18446744073709551615}\n");
    // Keys are bytes, too.
    use std::os::unix::ffi::OsStrExt;
    let key = std::ffi::OsStr::from_bytes(&[0xfe, b'k']);
    let word = std::ffi::OsStr::new;
    cli.ok(&[word("test"), word("put"), key, word("v")]);
    assert_eq!(cli.ok(&[word("test"), word("get"), key]).text(), "v\n");
    assert!(cli.ok(&["test", "scan"]).text().contains("{\"$bytes\":\"/ms=\"}\t\"v\"\n"));

    let wrong = cli.run(&["test", "put", "k", "nope", "--json"]);
    assert_eq!(wrong.code, Some(2), "{}", wrong.stderr);
    assert!(wrong.stderr.contains("kvclient: the value is not JSON"), "{}", wrong.stderr);
    assert_eq!(wrong.json()["error"]["code"], "invalid");
    let missing = cli.run(&["test", "put", "k", "--file", "/nonexistent/file"]);
    assert_eq!(missing.code, Some(2));
    assert!(missing.stderr.contains("cannot open /nonexistent/file"), "{}", missing.stderr);
    let large = cli.run_with(&["test", "put", "k", "-"], &vec![b'x'; (8 << 20) + 1]);
    assert_eq!(large.code, Some(7), "{}", large.stderr);
}

#[test]
fn exit_codes_tell_what_happened() {
    let (_broker, cli) = started();
    let cases: &[(&[&str], i32, &str)] = &[
        (&["test", "get", "absent"], 1, "there is no key \"absent\""),
        (&["test", "del", "absent"], 1, "there is no key \"absent\""),
        (&["test", "fly"], 2, "fly"),
        (&["test", "scan", "--regex", "("], 2, "does not compile"),
        (&["../x", "get", "k"], 2, "project name"),
        (&["doctor"], 2, "later version"),
        (&["nowhere", "get", "k"], 5, "running here: test"),
        (&["kv://127.0.0.1:1/test", "get", "k"], 5, "nobody listens on port 1"),
        (&["test", "get", "k", "--broker", "00000000-0000-0000-0000-000000000001"], 5, "none with the wanted owner or uuid"),
        (&["test", "get", "k", "--catalog", "a b"], 2, "is not a catalog"),
    ];
    for (words, code, part) in cases {
        let said = cli.run(words);
        assert_eq!(said.code, Some(*code), "{words:?}: {}", said.stderr);
        assert!(said.stderr.starts_with("kvclient: ") && said.stderr.contains(part), "{words:?}: {}", said.stderr);
        assert!(said.stdout.is_empty(), "{words:?}");
    }
}

#[test]
fn many_keys_go_through_batches_and_pages() {
    let (_broker, cli) = started();
    const KEYS: usize = 25_000;
    let mut lines = String::new();
    for number in 0..KEYS {
        writeln!(lines, r#"{{"op":"put","key":"key/{number:06}","value":{{"third":{}}}}}"#, number % 3).unwrap();
    }
    let said = cli.run_with(&["test", "batch"], lines.as_bytes());
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let results = said.json_lines();
    assert_eq!(results.len(), KEYS);
    assert_eq!(results[KEYS - 1], json!({"status": "ok", "rev": KEYS}));

    let all = cli.ok(&["test", "scan"]).text();
    assert_eq!(all.lines().count(), KEYS);
    assert!(all.lines().is_sorted());
    let keys_of = |words: &[&str]| cli.ok(words).text().lines().count();
    assert_eq!(keys_of(&["test", "scan", "--page-size", "7000", "key/0"]), KEYS);
    assert_eq!(keys_of(&["test", "scan", "--limit", "12345", "--page-size", "5000"]), 12_345);
    assert_eq!(keys_of(&["test", "query", "third", "1"]), KEYS / 3);
    assert_eq!(keys_of(&["test", "query", "third", "2", "--limit", "5"]), 5);
    assert_eq!(keys_of(&["test", "scan", "--regex", "7$", "--limit", "3"]), 3);

    // A reader that has enough is no error.
    let head = "\"$0\" test scan | head -n 1; exit ${PIPESTATUS[0]}";
    let mut shell = Command::new("bash");
    shell.args(["-c", head]).arg(program("kvclient")).env("KVBROKER_HOME", _broker.home().path()).env("KVBROKER_CATALOG", "none");
    let said = finish(shell.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    assert_eq!((said.code, said.text().as_str(), said.stderr.as_str()), (Some(0), "key/000000\t{\"third\":0}\n", ""));
}

#[test]
fn a_batch_answers_each_operation_in_order() {
    let (_broker, cli) = started();
    let array = r#"  [{"op":"put","key":"a","value":1}, {"op":"get","key":"a"},
        {"op":"del","key":"b"}, {"op":"scan"}, {"op":"size"}]"#;
    let said = cli.run_with(&["test", "batch"], array.as_bytes());
    assert_eq!(said.code, Some(1), "the first failure's code: {}", said.stderr);
    let results = said.json_lines();
    assert_eq!(results.len(), 5);
    assert_eq!(
        (&results[1]["value"], &results[2]["error"]["code"], &results[4]["size"]),
        (&json!(1), &json!("not_found"), &json!(1))
    );
    assert_eq!(results[3]["rows"], json!([["a", 1, 1]]));

    let said = cli.run_with(&["test", "batch"], b"{\"op\":\"size\"}\n\n{\"op\":\"fly\"}\n{\"op\":\"size\"}\n");
    assert_eq!((said.code, said.json_lines().len()), (Some(2), 1));
    assert!(said.stderr.contains("line 3 is not an operation"), "{}", said.stderr);
    assert_eq!(cli.run_with(&["test", "batch"], b"").code, Some(0));
    assert_eq!(cli.run_with(&["test", "batch"], b"[1").code, Some(2));
}

#[test]
fn a_batch_answers_while_its_input_goes_on() {
    use std::io::Write;
    let (_broker, cli) = started();
    let mut child = cli.command(&["test", "batch"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    for _ in 0..3 {
        stdin.write_all(b"{\"op\":\"size\"}\n").unwrap();
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        assert_eq!(line, "{\"status\":\"ok\",\"rev\":0,\"size\":0}\n");
    }
    drop(stdin);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_watch_prints_changes_and_outlives_a_restart() {
    let (mut broker, cli) = started();
    let mut child = cli.spawn(&["test", "watch", "a/", "--limit", "3", "--json"]);
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut next = || {
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        kvbroker_tests::json(line.as_bytes())
    };
    assert_eq!(next()["event"], "caught_up");
    cli.ok(&["test", "put", "b/1", "v"]);
    cli.ok(&["test", "put", "a/1", "v"]);
    cli.ok(&["test", "del", "a/1"]);
    let put = next();
    assert_eq!((&put["event"], &put["key"], &put["value"], &put["rev"]), (&json!("put"), &json!("a/1"), &json!("v"), &json!(2)));
    let removed = next();
    assert_eq!((&removed["event"], &removed["key"], &removed["rev"]), (&json!("remove"), &json!("a/1"), &json!(3)));
    broker.kill9();
    broker.restart();
    cli.ok(&["test", "put", "a/2", "v"]);
    // Whether the loss of the connection was noticed, and told, depends on what the broker was asked just then.
    let told = std::iter::repeat_with(next).find(|line| line["key"].is_string()).unwrap();
    assert_eq!((&told["key"], &told["rev"]), (&json!("a/2"), &json!(4)));
    let said = finish(child);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
}

#[test]
fn reads_wait_for_a_broker_that_is_being_restarted() {
    let (mut broker, cli) = started();
    cli.ok(&["test", "put", "k", "v"]);
    let mut child = cli.command(&["test", "batch", "--timeout", "30s"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut ask = || {
        use std::io::Write;
        stdin.write_all(b"{\"op\":\"get\",\"key\":\"k\"}\n").unwrap();
    };
    let mut line = String::new();
    ask();
    stdout.read_line(&mut line).unwrap();
    broker.kill9();
    ask();
    broker.restart();
    line.clear();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(kvbroker_tests::json(line.as_bytes())["value"], "v");
    drop(stdin);
    assert_eq!(finish(child).code, Some(0));
}

#[test]
fn projects_of_one_home_stand_in_one_list() {
    let (broker, cli) = started();
    let other = Broker::start(BrokerOptions::default().project("other").home(broker.home()));
    let table = cli.ok(&["list"]).text();
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 3, "{table}");
    assert!(lines[0].starts_with("PROJECT"));
    assert!(lines[1].starts_with("other") && lines[1].contains(&format!("here (process {})", other.pid())), "{table}");
    assert!(lines[2].starts_with("test"), "{table}");
}

#[test]
fn words_about_the_program_need_no_broker() {
    let home = kvbroker_tests::Home::new();
    let cli = Cli::new(&home);
    assert!(cli.ok(&["version"]).text().starts_with("kvclient "));
    assert!(cli.ok(&["help"]).text().contains("Exit codes"));
    assert!(cli.ok(&["help", "put"]).text().contains("Examples"));
    assert_eq!(cli.run::<&str>(&[]).code, Some(2));
    // Nothing is left behind by looking.
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
}

#[test]
fn a_closed_stdout_is_success_everywhere() {
    let (_broker, cli) = started();
    cli.ok(&["test", "put", "k", "v"]);
    for words in [&["test", "get", "k"][..], &["test", "scan"], &["help"], &["list"], &["test", "stats", "--json"]] {
        let mut child = cli.spawn(words);
        drop(child.stdout.take());
        let mut stderr = String::new();
        child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        let status = wait_until(PATIENCE, "kvclient ends", || child.try_wait().unwrap());
        assert_eq!((status.code(), stderr.as_str()), (Some(0), ""), "{words:?}");
    }
}

#[test]
fn a_result_that_cannot_be_written_is_told_with_what_was_done() {
    let (_broker, cli) = started();
    cli.ok(&["test", "put", "k", "v"]);
    let full = |words: &[&str]| {
        let stdout = std::fs::File::options().write(true).open("/dev/full").unwrap();
        finish(cli.command(words).stdout(stdout).spawn().unwrap())
    };
    let lost = full(&["test", "del", "k", "--return"]);
    assert_eq!(lost.code, Some(2), "{}", lost.stderr);
    assert!(lost.stderr.starts_with("kvclient: done at revision 2, but the result could not be written: "), "{}", lost.stderr);
    assert_eq!(cli.ok(&["test", "size"]).text(), "0\n");
    let added = full(&["test", "incr", "n", "--json"]);
    assert!(added.stderr.contains("done at revision 3, but"), "{}", added.stderr);
    // Nothing was changed by these.
    for words in [&["test", "size"][..], &["help"], &["version"]] {
        let said = full(words);
        assert_eq!(said.code, Some(2), "{words:?}");
        assert!(said.stderr.starts_with("kvclient: cannot write the result: "), "{words:?}: {}", said.stderr);
    }
}

#[test]
fn scan_takes_its_prefix_by_name_too() {
    let (_broker, cli) = started();
    cli.ok(&["test", "put", "a/1", "v"]);
    cli.ok(&["test", "put", "b/1", "v"]);
    assert_eq!(cli.ok(&["test", "scan", "--prefix", "b/"]).text(), "b/1\t\"v\"\n");
    assert_eq!(cli.run(&["test", "scan", "a/", "--prefix", "b/"]).code, Some(2));
}

#[test]
fn an_empty_list_of_catalogs_is_refused() {
    let (_broker, cli) = started();
    let said = cli.run(&["list", "--catalog", ""]);
    assert_eq!(said.code, Some(2));
    assert!(said.stderr.contains("`none`"), "{}", said.stderr);
}

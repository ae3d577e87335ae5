//! `kvclient watch`, `mirror` and `wait`, as people and scripts use them.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdout};

use kvbroker_tests::{Broker, BrokerOptions, Cli, Home, PATIENCE, Said, finish, json, wait_until};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::{Value, json as js};

fn started() -> (Broker, Cli) {
    let broker = Broker::plain();
    let cli = Cli::new(broker.home());
    (broker, cli)
}

/// A `kvclient` whose output is read while it runs.
struct Running {
    child: Child,
    stdout: BufReader<ChildStdout>,
    stderr: BufReader<ChildStderr>,
}

impl Running {
    fn start(cli: &Cli, words: &[&str]) -> Running {
        let mut child = cli.spawn(words);
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let stderr = BufReader::new(child.stderr.take().unwrap());
        Running { child, stdout, stderr }
    }

    /// The next line of stdout.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line
    }

    fn json(&mut self) -> Value {
        json(self.line().as_bytes())
    }

    /// Reads stderr up to a line that says this.
    fn until_it_says(&mut self, part: &str) -> String {
        let mut said = String::new();
        while !said.lines().last().is_some_and(|line| line.contains(part)) {
            assert_ne!(self.stderr.read_line(&mut said).unwrap(), 0, "it ended and had said only {said:?}");
        }
        said
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// What it says and how it ends after this.
    fn end(mut self) -> Said {
        let (mut stdout, mut stderr) = (Vec::new(), String::new());
        let out = &mut self.stdout;
        std::thread::scope(|scope| {
            scope.spawn(|| out.read_to_end(&mut stdout).unwrap());
            self.stderr.read_to_string(&mut stderr).unwrap();
        });
        Said { code: self.child.wait().unwrap().code(), stdout, stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended by itself if all went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a broker says of its epoch.
fn epoch(cli: &Cli) -> String {
    cli.ok(&["test", "hello", "--json"]).json()["epoch"].as_str().unwrap().to_owned()
}

/// A shell command as the words behind `--`.
fn shell<'a>(words: &[&'a str], command: &'a str) -> Vec<&'a str> {
    [words, &["--", "sh", "-c", command]].concat()
}

#[test]
fn every_change_is_a_line_and_the_end_says_where_to_go_on() {
    let (_broker, cli) = started();
    cli.ok(&["test", "put", "a/0", "before"]);
    let mut watch = Running::start(&cli, &["test", "watch", "a/", "--limit", "3"]);
    watch.until_it_says("everything up to revision 1 was told");
    cli.ok(&["test", "put", "b/1", "v"]);
    cli.ok(&["test", "put", "a/1", "v"]);
    let both = r#"{"if":[],"then":[{"op":"put","key":"a/2","value":{"x":1}},{"op":"del","key":"a/1"},{"op":"put","key":"c","value":1}]}"#;
    cli.ok(&["test", "txn", both]);
    let said = watch.end();
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let fields: Vec<Vec<&str>> =
        std::str::from_utf8(&said.stdout).unwrap().lines().map(|line| line.split('\t').collect()).collect();
    let shown: Vec<Vec<&str>> = fields.iter().map(|fields| [&fields[..1], &fields[2..]].concat()).collect();
    let expected = [vec!["3", "put", "a/1", "\"v\""], vec!["4", "remove", "a/1"], vec!["4", "put", "a/2", "{\"x\":1}"]];
    assert_eq!(shown, expected);
    assert!(fields.iter().all(|fields| fields[1].starts_with("20") && fields[1].ends_with('Z')), "{fields:?}");
    let place = format!("--from 4@{}", epoch(&cli));
    assert!(said.stderr.contains(&place), "{}", said.stderr);

    // From there on, as was told.
    cli.ok(&["test", "put", "a/3", "v"]);
    let on = cli.ok(&["test", "watch", "a/", &place.replace(' ', "="), "--once", "--json"]);
    let lines = on.json_lines();
    assert_eq!(lines.len(), 3, "{}", on.text());
    assert_eq!((&lines[0]["rev"], &lines[0]["key"]), (&js!(5), &js!("a/3")));
    assert_eq!((&lines[1]["event"], &lines[1]["rev"]), (&js!("caught_up"), &js!(5)));
    assert_eq!(lines[2], js!({"event": "end", "rev": 5, "epoch": epoch(&cli)}));
}

#[test]
fn a_revision_is_told_to_its_end_also_at_the_limit() {
    let (_broker, cli) = started();
    let three = r#"{"if":[],"then":[{"op":"put","key":"a","value":1},{"op":"put","key":"b","value":1},{"op":"put","key":"c","value":1}]}"#;
    cli.ok(&["test", "txn", three]);
    cli.ok(&["test", "put", "d", "1"]);
    let said = cli.ok(&["test", "watch", "--from", "0", "--limit", "2"]);
    assert_eq!(said.text().lines().count(), 3, "{}", said.text());
    assert!(said.stderr.contains("--from 1@"), "{}", said.stderr);
}

#[test]
fn a_watch_outlives_kill_9_and_misses_nothing() {
    let (mut broker, cli) = started();
    let mut watch = Running::start(&cli, &["test", "watch", "a/", "--limit", "3", "--json"]);
    assert_eq!(watch.json()["event"], "caught_up");
    cli.ok(&["test", "put", "a/1", "v"]);
    assert_eq!(watch.json()["key"], "a/1");
    broker.kill9();
    broker.restart();
    // At once, whether the watch is back already or not.
    cli.ok(&["test", "put", "a/2", "v"]);
    cli.ok(&["test", "put", "a/3", "v"]);
    let said = watch.end();
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let lines = said.json_lines();
    let heard: Vec<(&str, u64)> = lines.iter().filter_map(|line| Some((line["key"].as_str()?, line["rev"].as_u64()?))).collect();
    assert_eq!(heard, [("a/2", 2), ("a/3", 3)]);
}

#[test]
fn a_snapshot_comes_before_the_changes_and_a_key_may_be_watched_alone() {
    let (_broker, cli) = started();
    cli.ok(&["test", "put", "a", "1"]);
    cli.ok(&["test", "put", "ab", "{\"x\":2}", "--json"]);
    let said = cli.ok(&["test", "watch", "a", "--snapshot", "--once", "--json"]);
    let lines = said.json_lines();
    assert_eq!(lines[0], js!({"event": "snapshot_begin", "rev": 2, "why": "asked"}));
    assert_eq!(lines[1], js!({"rev": 1, "event": "row", "key": "a", "value": "1"}));
    assert_eq!(lines[2], js!({"rev": 2, "event": "row", "key": "ab", "value": {"x": 2}}));
    assert_eq!(lines[3], js!({"event": "snapshot_end", "rev": 2}));
    assert_eq!((lines.len(), &lines[4]["event"], &lines[5]["event"]), (6, &js!("caught_up"), &js!("end")));
    let alone = cli.ok(&["test", "watch", "a", "--exact", "--snapshot", "--once"]);
    assert_eq!(alone.text(), "1\t-\trow\ta\t\"1\"\n");
    assert!(alone.stderr.contains("what is there at revision 2 follows;"), "{}", alone.stderr);
    assert_eq!(cli.run(&["test", "watch", "--exact"]).code, Some(2));
}

#[test]
fn what_is_not_known_any_more_ends_with_1_and_says_what_to_do() {
    let (_broker, cli) = started();
    cli.ok(&["test", "put", "a", "1"]);
    // Of another history, and of revisions that never were.
    for (from, code) in [("1@0000000000000001", "other_history"), ("7", "rolled_back")] {
        let said = cli.run(&["test", "watch", "--from", from, "--json"]);
        assert_eq!(said.code, Some(1), "{}", said.stderr);
        assert!(said.stderr.contains("--snapshot"), "{}", said.stderr);
        assert_eq!(said.json()["error"]["code"], code);
        let anew = cli.ok(&["test", "watch", "--from", from, "--snapshot", "--once", "--json"]).json_lines();
        assert_eq!(anew[0], js!({"event": "snapshot_begin", "rev": 1, "why": code}));
        assert_eq!(anew[1]["key"], "a");
    }
    for wrong in ["x", "1@x", "-1"] {
        assert_eq!(cli.run(&["test", "watch", &format!("--from={wrong}")]).code, Some(2), "{wrong}");
    }
}

#[test]
fn a_command_is_run_for_each_event_in_order_with_all_there_is_to_know() {
    let (broker, cli) = started();
    let log = broker.home().path().join("log");
    let command = format!(
        "{{ echo \"$KVBROKER_EVENT_PROJECT $KVBROKER_EVENT_KIND <$KVBROKER_EVENT_KEY> $KVBROKER_EVENT_REVISION \
         $KVBROKER_EVENT_INDEX/$KVBROKER_EVENT_COUNT ${{KVBROKER_EVENT_EPOCH}} ${{KVBROKER_KEY-none}}\"; cat; echo; }} >> '{}'",
        log.display()
    );
    let mut watch = Running::start(&cli, &shell(&["test", "watch", "--limit", "5"], &command));
    watch.until_it_says("everything up to revision 0 was told");
    cli.ok(&["test", "put", "a b", "two\nlines"]);
    cli.run_with(&["test", "put", "raw", "-"], &[0xff, b'\n']);
    cli.ok(&["test", "put", "doc", "{\"x\": 1}", "--json"]);
    cli.ok(&["test", "txn", r#"{"if":[],"then":[{"op":"del","key":"doc"},{"op":"put","key":"e","value":null}]}"#]);
    let said = watch.end();
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let epoch = epoch(&cli);
    let mut expected = format!("test put <a b> 1 1/1 {epoch} none\ntwo\nlines\n\n").into_bytes();
    expected.extend_from_slice(format!("test put <raw> 2 1/1 {epoch} none\n").as_bytes());
    expected.extend_from_slice(&[0xff, b'\n', b'\n']);
    expected.extend_from_slice(format!("test put <doc> 3 1/1 {epoch} none\n{{\"x\":1}}\n\n").as_bytes());
    expected.extend_from_slice(format!("test remove <doc> 4 1/2 {epoch} none\n\n").as_bytes());
    expected.extend_from_slice(format!("test put <e> 4 2/2 {epoch} none\nnull\n\n").as_bytes());
    assert_eq!(String::from_utf8_lossy(&fs::read(&log).unwrap()), String::from_utf8_lossy(&expected));
}

#[test]
fn with_json_a_command_reads_events_also_of_keys_that_no_variable_can_hold() {
    let (broker, cli) = started();
    cli.run_with(&["test", "batch"], br#"{"op":"put","key":"a\u0000b","value":1}"#);
    let log = broker.home().path().join("log");
    let command = format!("echo \"${{KVBROKER_EVENT_KEY-unset}} $KVBROKER_EVENT_KIND\" >> '{0}'; cat >> '{0}'", log.display());
    cli.ok(&shell(&["test", "watch", "--snapshot", "--once", "--json"], &command));
    let text = fs::read_to_string(&log).unwrap();
    let expected = "unset snapshot_begin\n{\"event\":\"snapshot_begin\",\"rev\":1,\"why\":\"asked\"}\n\
                    unset row\n{\"rev\":1,\"event\":\"row\",\"key\":\"a\\u0000b\",\"value\":1}\n\
                    unset snapshot_end\n{\"event\":\"snapshot_end\",\"rev\":1}\n";
    assert_eq!(text, expected);
}

#[test]
fn a_command_that_reads_nothing_of_a_large_value_is_no_failure() {
    let (_broker, cli) = started();
    cli.run_with(&["test", "put", "large", "-"], &vec![b'x'; 1 << 20]);
    let said = cli.ok(&["test", "watch", "--from", "0", "--once", "--", "true"]);
    assert_eq!(said.text(), "");
    let read = cli.ok(&shell(&["test", "watch", "--from", "0", "--once"], "wc -c"));
    assert_eq!(read.text().trim(), ((1 << 20) + 1).to_string());
}

#[test]
fn a_program_that_is_not_there_is_told_before_anything_else() {
    let (broker, cli) = started();
    let text = broker.home().path().join("text");
    fs::write(&text, "").unwrap();
    for (program, part) in [
        ("no-such-program", "no program \"no-such-program\""),
        ("/no/where", "/no/where"),
        (text.to_str().unwrap(), "no executable file"),
    ] {
        // Not even a broker is needed to say so.
        let said = cli.run(&["nowhere", "watch", "--from", "0", "--", program]);
        assert_eq!(said.code, Some(2), "{}", said.stderr);
        assert!(said.stderr.contains(part), "{}", said.stderr);
    }
    assert_eq!(cli.run(&["test", "watch", "--on-failure", "stop"]).code, Some(2));
}

#[test]
fn a_command_that_fails_stops_goes_on_or_is_run_again_as_told() {
    let (broker, cli) = started();
    for key in ["a", "b", "c"] {
        cli.ok(&["test", "put", key, "v"]);
    }
    let log = broker.home().path().join("log");
    let command = format!("echo $KVBROKER_EVENT_KEY >> '{}'; test $KVBROKER_EVENT_KEY != b || exit 3", log.display());
    let from_start = ["test", "watch", "--from", "0", "--once"];
    let keys = || fs::read_to_string(&log).unwrap().split_whitespace().collect::<String>();

    let stopped = cli.run(&shell(&from_start, &command));
    assert_eq!((stopped.code, keys().as_str()), (Some(1), "ab"), "{}", stopped.stderr);
    assert!(stopped.stderr.contains("failed for put of b at revision 2: exit status: 3"), "{}", stopped.stderr);
    assert!(stopped.stderr.contains(&format!("--from 1@{}", epoch(&cli))), "{}", stopped.stderr);

    fs::remove_file(&log).unwrap();
    let continued = cli.run(&shell(&[&from_start[..], &["--on-failure", "continue"]].concat(), &command));
    assert_eq!((continued.code, keys().as_str()), (Some(1), "abc"), "{}", continued.stderr);
    assert!(continued.stderr.contains("going on"), "{}", continued.stderr);

    fs::remove_file(&log).unwrap();
    let second = format!(
        "echo $KVBROKER_EVENT_KEY >> '{0}'; test $(grep -c b '{0}') != 1 || test $KVBROKER_EVENT_KEY != b",
        log.display()
    );
    let again = cli.run(&shell(&[&from_start[..], &["--on-failure", "retry"]].concat(), &second));
    assert_eq!((again.code, keys().as_str()), (Some(0), "abbc"), "{}", again.stderr);
    assert!(again.stderr.contains("tried again in 1 s"), "{}", again.stderr);
}

#[test]
fn an_interrupted_watch_says_where_to_go_on() {
    let (_broker, cli) = started();
    cli.ok(&["test", "put", "a", "v"]);
    let mut watch = Running::start(&cli, &["test", "watch", "--from", "0", "--json"]);
    assert_eq!(watch.json()["key"], "a");
    assert_eq!(watch.json()["event"], "caught_up");
    watch.signal(Signal::INT);
    let said = watch.end();
    assert_eq!(said.code, Some(130), "{}", said.stderr);
    let place = said.stderr.split("--from ").nth(1).unwrap_or_else(|| panic!("{}", said.stderr)).trim();
    assert_eq!(place, format!("1@{}", epoch(&cli)));
}

/// Ended, or a child of nobody that waits for it.
fn has_gone(pid: i32) -> bool {
    let is_zombie = fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "));
    is_zombie || test_kill_process(Pid::from_raw(pid).unwrap()).is_err()
}

#[test]
fn an_interrupt_ends_the_command_and_what_it_has_started() {
    let (broker, cli) = started();
    cli.ok(&["test", "put", "a", "v"]);
    cli.ok(&["test", "put", "b", "v"]);
    let log = broker.home().path().join("log");
    let command = format!(
        "test $KVBROKER_EVENT_KEY = b || exit 0; sleep 600 & echo $! > '{0}.new'; mv '{0}.new' '{0}'; wait",
        log.display()
    );
    let watch = Running::start(&cli, &shell(&["test", "watch", "--from", "0"], &command));
    let sleeper: i32 = wait_until(PATIENCE, "the command runs", || fs::read_to_string(&log).ok()?.trim().parse().ok());
    assert!(!has_gone(sleeper));
    watch.signal(Signal::TERM);
    let said = watch.end();
    assert_eq!(said.code, Some(130), "{}", said.stderr);
    assert!(said.stderr.contains("--from 1@"), "the second event was not dealt with: {}", said.stderr);
    assert!(!said.stderr.contains("failed"), "{}", said.stderr);
    wait_until(PATIENCE, "what it started has gone", || has_gone(sleeper).then_some(()));
}

#[test]
fn a_reader_that_goes_away_has_what_it_wanted() {
    let (_broker, cli) = started();
    let mut child = cli.spawn(&["test", "watch", "--json"]);
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert!(line.contains("caught_up"), "{line}");
    drop(stdout);
    let status = wait_until(PATIENCE, "the watch ends", || {
        cli.ok(&["test", "incr", "n"]);
        child.try_wait().unwrap()
    });
    assert_eq!(status.code(), Some(0));
}

fn document(file: &Path) -> Option<Value> {
    serde_json::from_slice(&fs::read(file).ok()?).ok()
}

#[test]
fn a_mirror_keeps_a_file_over_restarts() {
    let (mut broker, cli) = started();
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("conf.json");
    cli.ok(&["test", "put", "conf/a", "1", "--json"]);
    cli.ok(&["test", "put", "other", "x"]);
    fs::write(&file, "{}").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    let mut mirror = Running::start(&cli, &["test", "mirror", "conf/", file.to_str().unwrap(), "--interval", "1ms"]);
    mirror.until_it_says("shows the 1 keys of revision 2");
    assert_eq!(document(&file).unwrap(), js!({"conf/a": 1}));
    cli.ok(&["test", "put", "conf/b", "text"]);
    wait_until(PATIENCE, "the file has the change", || (document(&file)? == js!({"conf/a": 1, "conf/b": "text"})).then_some(()));
    broker.kill9();
    broker.restart();
    cli.ok(&["test", "del", "conf/a"]);
    wait_until(PATIENCE, "the file has what happened behind the restart", || {
        (document(&file)? == js!({"conf/b": "text"})).then_some(())
    });
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
    mirror.signal(Signal::INT);
    let said = mirror.end();
    assert_eq!(said.code, Some(130), "{}", said.stderr);
    assert!(said.stderr.contains("shows revision 4"), "{}", said.stderr);
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1, "nothing is left behind");
}

/// Readers never see a file that is not whole, whatever happens to the mirror.
#[test]
fn who_reads_a_mirrors_file_sees_it_whole() {
    let (_broker, cli) = started();
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("n.json");
    let mirror = Running::start(&cli, &["test", "mirror", "n/", file.to_str().unwrap(), "--interval", "0s"]);
    wait_until(PATIENCE, "the file is there", || document(&file));
    let mut writer = cli.command(&["test", "batch"]).stdin(std::process::Stdio::piped()).spawn().unwrap();
    let mut orders = writer.stdin.take().unwrap();
    let looks = std::thread::scope(|scope| {
        scope.spawn(move || {
            for number in 1..=2_000 {
                let both = format!(r#"{{"op":"txn","if":[],"then":[{{"op":"put","key":"n/a","value":{number}}},{{"op":"put","key":"n/b","value":{number}}}]}}"#);
                writeln!(orders, "{both}").unwrap();
            }
        });
        scope.spawn(|| finish(writer));
        let mut looks = std::collections::BTreeSet::new();
        wait_until(PATIENCE, "the last change is in the file", || {
            let found = document(&file).expect("the file is whole");
            assert_eq!(found.get("n/a"), found.get("n/b"), "a revision is not split");
            looks.insert(found["n/a"].as_i64());
            (found["n/a"] == 2_000).then_some(())
        });
        looks.len()
    });
    assert!(looks > 2, "it was looked at while it changed: {looks}");
    drop(mirror);
}

#[test]
fn a_mirror_that_cannot_write_says_so_and_tries_again() {
    let (_broker, cli) = started();
    let place = tempfile::tempdir().unwrap();
    for wrong in [place.path().to_str().unwrap(), "/dev/null", "/no/where/file", "-"] {
        let said = cli.run(&["nowhere", "mirror", "", wrong]);
        assert_eq!(said.code, Some(2), "{}", said.stderr);
        assert!(said.stderr.contains("cannot write"), "{}", said.stderr);
    }
    let (directory, away) = (place.path().join("here"), place.path().join("away"));
    fs::create_dir(&directory).unwrap();
    let file = directory.join("all.json");
    let mut mirror = Running::start(&cli, &["test", "mirror", "", file.to_str().unwrap()]);
    mirror.until_it_says("shows the 0 keys");
    fs::rename(&directory, &away).unwrap();
    cli.ok(&["test", "put", "a", "v"]);
    mirror.until_it_says("is tried again");
    fs::rename(&away, &directory).unwrap();
    mirror.until_it_says("could be written again");
    assert_eq!(document(&file).unwrap(), js!({"a": "v"}));
}

#[test]
fn a_mirror_may_be_made_once() {
    let (_broker, cli) = started();
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("conf.json");
    cli.ok(&["test", "put", "conf/a", "1", "--json"]);
    cli.ok(&["test", "put", "conf/b", "20", "--json"]);
    let said = cli.ok(&["test", "mirror", "conf/", file.to_str().unwrap(), "--once", "--json", "--where", "@value > 10"]);
    let bytes = fs::metadata(&file).unwrap().len();
    assert_eq!(said.json(), js!({"event": "written", "rev": 2, "keys": 1, "bytes": bytes}));
    assert_eq!(document(&file).unwrap(), js!({"conf/b": 20}));
}

#[test]
fn wait_returns_when_it_is_so() {
    let (_broker, cli) = started();
    let late = cli.run(&["test", "wait", "k", "--timeout", "300ms"]);
    assert_eq!(late.code, Some(1), "{}", late.stderr);
    assert!(late.stderr.contains("there is still no key \"k\"") && late.stderr.contains("--timeout"), "{}", late.stderr);
    assert_eq!(cli.ok(&["test", "wait", "k", "--gone"]).text(), "");

    let there = cli.spawn(&["test", "wait", "k", "--timeout", "30s"]);
    let ready = cli.spawn(&["test", "wait", "k", "--value", "\"ready\"", "--timeout", "30s", "--json"]);
    cli.ok(&["test", "put", "k2", "ready"]);
    cli.ok(&["test", "put", "k", "first"]);
    assert_eq!(finish(there).text(), "first\n");
    cli.ok(&["test", "put", "k", "ready"]);
    let ready = finish(ready);
    assert_eq!(ready.code, Some(0), "{}", ready.stderr);
    let ready = ready.json();
    assert_eq!((&ready["status"], &ready["value"], &ready["modified"]), (&js!("ok"), &js!("ready"), &js!(3)));
    let gone = cli.spawn(&["test", "wait", "k", "--gone", "--timeout", "30s", "--json"]);
    cli.ok(&["test", "del", "k"]);
    assert_eq!(finish(gone).json()["status"], "ok");
    let wrong = cli.run(&["test", "wait", "k", "--value", "1", "--timeout", "300ms", "--json"]);
    assert_eq!((wrong.code, wrong.json()["error"]["code"].clone()), (Some(1), js!("timed_out")));
    assert_eq!(cli.run(&["test", "wait", "k", "--value", "x", "--gone"]).code, Some(2));
}

#[test]
fn without_a_broker_nobody_says_how_it_is() {
    let (mut broker, cli) = started();
    cli.ok(&["test", "put", "k", "1"]);
    let waits = cli.spawn(&["test", "wait", "k", "--gone", "--timeout", "5s"]);
    // The heartbeat and the key's stream.
    wait_until(PATIENCE, "it waits", || (broker.stat("topics") == 2).then_some(()));
    broker.stop();
    let gone = finish(waits);
    assert_eq!(gone.code, Some(5), "{}", gone.stderr);
    assert!(!gone.stderr.contains("there is still"), "{}", gone.stderr);
}

#[test]
fn a_watch_that_an_error_ends_says_where_to_go_on() {
    let (broker, cli) = started();
    let home = Home::new();
    let ann = Cli::new(&home);
    let key = ann.ok(&["id"]).text().trim_end().to_owned();
    cli.ok(&["test", "authorize", &key, "read", "--prefix", "a/"]);
    let broker_key = broker.endpoint()["public_key"].as_str().unwrap().to_owned();
    let address = format!("kv://127.0.0.1:{}/test?key={broker_key}", broker.tcp_port());
    let mut watch = ann.spawn(&[&address, "watch", "a/", "--from", "0", "--accept-new-key"]);
    let mut lines = BufReader::new(watch.stdout.take().unwrap());
    cli.ok(&["test", "put", "a/1", "1"]);
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    assert!(line.contains("\ta/1\t"), "{line}");
    cli.ok(&["test", "revoke", &key]);
    let ended = finish(watch);
    assert_eq!(ended.code, Some(6), "{}", ended.stderr);
    assert!(ended.stderr.contains("--from 1@"), "{}", ended.stderr);
}

#[test]
fn a_watch_whose_reader_has_gone_ends_although_nothing_happens() {
    let (_broker, cli) = started();
    cli.ok(&["test", "put", "k", "1"]);
    let mut watch = cli.spawn(&["test", "watch", "--snapshot"]);
    let mut first = String::new();
    let mut lines = BufReader::new(watch.stdout.take().unwrap());
    lines.read_line(&mut first).unwrap();
    assert!(first.contains("\trow\t"), "{first}");
    // As `head -1` does.
    drop(lines);
    let ended = wait_until(PATIENCE, "it has noticed", || watch.try_wait().unwrap());
    assert_eq!(ended.code(), Some(0));
}

/// Writes until nothing before this revision can be told any more, and starts the broker again: what it had in memory is gone, too.
fn forget(broker: &mut Broker, revision: u64) {
    let dealer = broker.dealer();
    let value = "x".repeat(20_000);
    wait_until(PATIENCE, "the first changes are gone from the log", || {
        dealer.ask_json(&js!({"op": "put", "key": "other", "value": value}));
        (broker.stat("history_log_oldest") > revision).then_some(())
    });
    broker.stop();
    broker.restart();
    assert!(broker.stat("history_oldest") > revision, "what happened is forgotten");
}

/// A key's removal, and every memory of it, while the mirror sleeps.
#[test]
fn a_mirror_that_slept_through_a_removal_and_its_compaction_drops_the_key() {
    let options = ["--segment-size", "64KiB", "--checkpoint-after", "64KiB", "--history-age", "0s"];
    let mut broker = Broker::start(BrokerOptions::default().args(options));
    let cli = Cli::new(broker.home());
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("conf.json");
    cli.ok(&["test", "put", "conf/gone", "1", "--json"]);
    cli.ok(&["test", "put", "conf/kept", "1", "--json"]);
    let mut mirror = Running::start(&cli, &["test", "mirror", "conf/", file.to_str().unwrap()]);
    let mut watch = Running::start(&cli, &["test", "watch", "conf/", "--json"]);
    assert_eq!(watch.json()["event"], "caught_up");
    mirror.until_it_says("shows the 2 keys");
    for asleep in [&mirror, &watch] {
        asleep.signal(Signal::STOP);
    }
    cli.ok(&["test", "del", "conf/gone"]);
    forget(&mut broker, 3);
    for awake in [&mirror, &watch] {
        awake.signal(Signal::CONT);
    }
    wait_until(PATIENCE, "the file has lost the key", || (document(&file)? == js!({"conf/kept": 1})).then_some(()));
    // Without a snapshot, the watch can only say that it can't go on.
    let said = watch.end();
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    assert_eq!(said.json_lines().last().unwrap()["error"]["code"], "compacted");
    assert!(said.stderr.contains("not all known any more") && said.stderr.contains("--snapshot"), "{}", said.stderr);
    let anew = cli.ok(&["test", "watch", "conf/", "--from", "1", "--snapshot", "--once"]);
    assert_eq!(anew.text(), "2\t-\trow\tconf/kept\t1\n");
}

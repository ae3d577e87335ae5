//! A broker on one machine and its clients on another: network namespaces with a wire between them.
//!
//! - What should just work is started without a flag: `kvbroker PROJECT` here, `kvclient PROJECT …` there, and the name of a catalog.
//! - What must be refused is really tried: the impostors are brokers that run, and the records are in the catalog.
//! - Machines share this machine's files: who is whom is a matter of homes and keys.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use kvbroker_tests::{Broker, BrokerOptions, Cli, Home, Machine, PATIENCE, Said, Wire, finish, peer, program, wait_until};
use serde_json::{Value, json};

const PROJECT: &str = "NETID-a5";
const CATALOG_PORT: u16 = 9_097;

/// A child that does not outlive its test.
struct Guard(Child);

impl Guard {
    fn start(command: &mut Command) -> Guard {
        Guard(command.spawn().unwrap())
    }

    fn is_over(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A catalog for all machines on the usual port of one of them.
struct Catalog<'a> {
    machine: &'a Machine,
    _process: Guard,
    _history: tempfile::TempDir,
}

impl<'a> Catalog<'a> {
    fn ours(machine: &'a Machine) -> Catalog<'a> {
        let mut command = machine.command(program("kvcatalog"));
        command.args(["--listen", "0.0.0.0"]).stdout(Stdio::null()).stderr(Stdio::null());
        Catalog::start(machine, command)
    }

    /// CCTools' own, if it is installed.
    fn real(machine: &'a Machine) -> Option<Catalog<'a>> {
        let mut command = machine.command(peer("catalog_server")?);
        let address = machine.address().to_string();
        command.args(["-I", &address, "-u", "127.0.0.1", "-n", machine.name()]).stdout(Stdio::null()).stderr(Stdio::null());
        Some(Catalog::start(machine, command))
    }

    fn start(machine: &'a Machine, mut command: Command) -> Catalog<'a> {
        // The real one keeps a history in its working directory.
        let history = tempfile::tempdir().unwrap();
        let process = Guard::start(command.current_dir(history.path()));
        let catalog = Catalog { machine, _process: process, _history: history };
        wait_until(PATIENCE, "the catalog answers", || catalog.fetch());
        catalog
    }

    fn address(&self) -> String {
        self.machine.address().to_string()
    }

    /// What it lists, as it is; None if it does not answer.
    fn fetch(&self) -> Option<String> {
        let mut command = self.machine.command(program("stranger"));
        let output = command.args(["fetch", &format!("{}:{CATALOG_PORT}", self.address())]).output().unwrap();
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Records of the project.
    fn records(&self) -> Vec<Value> {
        let all: Vec<Value> = serde_json::from_str(&self.fetch().unwrap_or_default()).unwrap_or_default();
        all.into_iter().filter(|record| record["project"] == PROJECT).collect()
    }

    /// Announces a record, whoever's it is, from a machine; it is there when this returns.
    fn announce(&self, from: &Machine, record: &Value) {
        let mut command = from.command(program("stranger"));
        command.args(["tell", &format!("{}:{CATALOG_PORT}", self.address())]).stdin(Stdio::piped());
        let mut child = Guard::start(&mut command);
        child.0.stdin.take().unwrap().write_all(record.to_string().as_bytes()).unwrap();
        assert!(child.0.wait().unwrap().success());
        let from = from.address().to_string();
        let is_it = |seen: &Value| seen["address"] == from && seen["public_key"] == record["public_key"];
        wait_until(PATIENCE, "the record is listed", || self.records().iter().any(is_it).then_some(()));
    }
}

/// A home with somebody else's key.
fn copy_of(home: &Home) -> Home {
    let copy = Home::new();
    let config = copy.path().join("config");
    fs::create_dir(&config).unwrap();
    fs::set_permissions(&config, fs::Permissions::from_mode(0o700)).unwrap();
    // Its permissions come along.
    fs::copy(home.path().join("config/id"), config.join("id")).unwrap();
    copy
}

/// `kvbroker PROJECT` and nothing else, on a machine with this home.
fn broker_without_flags(machine: &Machine, home: &Home, catalog: &str) -> Guard {
    let mut command = machine.command(program("kvbroker"));
    command.arg(PROJECT).env("KVBROKER_HOME", home.path()).env("CATALOG_HOST", catalog);
    // Temporary files may be in memory.
    command.env("KVBROKER_ACCEPT_FILESYSTEM", "1").stdout(Stdio::null()).stderr(Stdio::null());
    let mut broker = Guard::start(&mut command);
    let endpoint = home.path().join("run").join(PROJECT).join("endpoint.json");
    wait_until(PATIENCE, "the broker is ready", || {
        assert!(!broker.is_over(), "the broker ended");
        endpoint.exists().then_some(())
    });
    broker
}

/// `kvclient PROJECT …` and nothing else.
fn client(machine: &Machine, home: &Home, catalog: &str, words: &[&str]) -> Said {
    let mut command = machine.command(program("kvclient"));
    command.arg(PROJECT).args(words).env("KVBROKER_HOME", home.path()).env("CATALOG_HOST", catalog);
    finish(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
}

fn ok(said: &Said) -> String {
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    said.text()
}

/// Waits until the catalog lists the project's broker.
fn listed(catalog: &Catalog<'_>) -> Value {
    wait_until(PATIENCE, "the broker is listed", || catalog.records().pop())
}

/// A broker on a machine as the harness starts it, on all interfaces, told to this catalog.
fn broker(machine: &Machine, catalog: &Catalog<'_>, owner: &str) -> Broker {
    let options = BrokerOptions { catalog: catalog.address(), ..BrokerOptions::default().project(PROJECT).on(machine) };
    Broker::start(options.listen([] as [&str; 0]).args(["--owner", owner]))
}

#[test]
fn the_same_user_on_another_machine_needs_no_flag() {
    let Some(wire) = Wire::between(&["alpha", "beta", "gamma"]) else { return };
    let [alpha, beta, gamma] = wire.machines();
    for catalog in Some(Catalog::ours(gamma)).into_iter().chain(Catalog::real(alpha)) {
        let here = Home::new();
        let mut broker = broker_without_flags(alpha, &here, &catalog.address());
        let there = copy_of(&here);
        listed(&catalog);
        ok(&client(beta, &there, &catalog.address(), &["put", "greeting", "hello"]));
        assert_eq!(ok(&client(alpha, &here, &catalog.address(), &["get", "greeting"])).trim_end(), "hello");
        assert_eq!(ok(&client(beta, &there, &catalog.address(), &["get", "greeting"])).trim_end(), "hello");

        // Notifications come the same way.
        let mut watch = beta.command(program("kvclient"));
        watch.args([PROJECT, "watch", "watched", "--limit", "1", "--json"]).env("KVBROKER_HOME", there.path());
        let watch = watch.env("CATALOG_HOST", catalog.address()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut watch = watch.spawn().unwrap();
        wait_until(PATIENCE, "the watch hears something", || {
            ok(&client(alpha, &here, &catalog.address(), &["put", "watched", "yes"]));
            watch.try_wait().unwrap()
        });
        let said = finish(watch);
        ok(&said);
        assert!(said.json_lines().iter().any(|line| line["key"] == "watched"), "{}", said.text());

        // A fresh data directory is another log and the same project.
        broker.0.kill().unwrap();
        broker.0.wait().unwrap();
        fs::remove_dir_all(here.path().join("data")).unwrap();
        fs::remove_file(here.path().join("run").join(PROJECT).join("endpoint.json")).unwrap();
        let old = catalog.records();
        let _broker = broker_without_flags(alpha, &here, &catalog.address());
        wait_until(PATIENCE, "the new log is listed", || {
            catalog.records().iter().any(|record| old.iter().all(|old| old["uuid"] != record["uuid"])).then_some(())
        });
        let missing = client(beta, &there, &catalog.address(), &["get", "greeting"]);
        assert_eq!(missing.code, Some(1), "{}", missing.stderr);
        ok(&client(beta, &there, &catalog.address(), &["put", "greeting", "again"]));
        assert!(!there.path().join("config/known_brokers").exists(), "one's own brokers need no pin");
    }
}

#[test]
fn a_home_shared_by_both_machines_is_enough() {
    let Some(wire) = Wire::between(&["alpha", "beta"]) else { return };
    let [alpha, beta] = wire.machines();
    // The catalog is on the broker's own machine, which it calls localhost: its record is heard from 127.0.0.1.
    let catalog = Catalog::ours(alpha);
    let home = tempfile::Builder::new().prefix("kvt-").tempdir().unwrap();
    let runtime = [(); 2].map(|()| tempfile::Builder::new().prefix("kvt-").tempdir().unwrap());
    let command = |machine: &Machine, name: &str, runtime: &Path, catalog: &str| {
        let mut command = machine.command(program(name));
        command.env("HOME", home.path()).env("XDG_RUNTIME_DIR", runtime).env("CATALOG_HOST", catalog);
        for name in ["XDG_DATA_HOME", "XDG_CONFIG_HOME"] {
            command.env_remove(name);
        }
        command.arg(PROJECT).env("KVBROKER_ACCEPT_FILESYSTEM", "1").stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let _broker =
        Guard::start(command(alpha, "kvbroker", runtime[0].path(), "localhost").stdout(Stdio::null()).stderr(Stdio::null()));
    let record = listed(&catalog);
    assert_eq!(record["address"], "127.0.0.1");
    let put = finish(command(beta, "kvclient", runtime[1].path(), &catalog.address()).args(["put", "k", "v"]).spawn().unwrap());
    ok(&put);

    // Two brokers of one data directory: the second is told where the first is.
    let second = finish(command(beta, "kvbroker", runtime[1].path(), &catalog.address()).spawn().unwrap());
    assert_eq!(second.code, Some(10), "{}", second.stderr);
    assert!(second.stderr.contains("alpha"), "{}", second.stderr);
}

#[test]
fn a_colleague_is_let_in_and_out_while_the_broker_runs() {
    let Some(wire) = Wire::between(&["alpha", "beta", "gamma"]) else { return };
    let [alpha, beta, gamma] = wire.machines();
    let catalog = Catalog::ours(gamma);
    let broker = broker(alpha, &catalog, "ann");
    listed(&catalog);
    let (ann, bob) = (broker.home().clone(), Home::new());
    let ann = |words: &[&str]| client(alpha, &ann, &catalog.address(), words);
    let bob_asks = |words: &[&str]| client(beta, &bob, &catalog.address(), words);

    // Nobody's word for the key is taken without being asked for.
    let unknown = bob_asks(&["get", "k"]);
    assert_eq!(unknown.code, Some(6), "{}", unknown.stderr);
    assert!(unknown.stderr.contains("--accept-new-key") && unknown.stderr.contains("ann"), "{}", unknown.stderr);
    // Accepted, but not let in: the line that its owner has to type.
    let refused = bob_asks(&["get", "k", "--accept-new-key"]);
    assert_eq!(refused.code, Some(6), "{}", refused.stderr);
    let advice = refused.stderr.split(&format!("kvclient {PROJECT} authorize ")).nth(1).expect(&refused.stderr);
    let key = advice.split_whitespace().next().unwrap();
    assert!(key.starts_with("kvpub1"), "{}", refused.stderr);

    ok(&ann(&["authorize", key, "write", "--prefix", "team/", "--comment", "Bob"]));
    // At once, and now without a word about the key.
    ok(&bob_asks(&["put", "team/k", "from bob"]));
    assert_eq!(ok(&ann(&["get", "team/k"])).trim_end(), "from bob");
    assert_eq!(bob_asks(&["put", "other", "x"]).code, Some(6));
    ok(&ann(&["put", "secret", "x"]));
    assert_eq!(ok(&bob_asks(&["scan"])).lines().count(), 1);
    // What he watches has only his keys, too.
    let told = ok(&bob_asks(&["watch", "--from", "0", "--once"]));
    assert!(told.lines().count() == 1 && told.contains("team/k"), "{told}");

    ok(&ann(&["revoke", key]));
    let out = bob_asks(&["get", "team/k"]);
    assert_eq!(out.code, Some(6), "{}", out.stderr);

    // By hand: the file is read each second.
    let file = broker.home().path().join("config/projects").join(PROJECT).join("authorized_clients");
    let mut text = fs::read_to_string(&file).unwrap();
    text.push_str(&format!("{key} read # Bob, by hand\n"));
    fs::write(&file, text).unwrap();
    wait_until(PATIENCE, "the line counts", || (bob_asks(&["get", "team/k"]).code == Some(0)).then_some(()));
}

/// A broker with the owner's name and project on another machine, and another key: nothing may reach it.
struct Impostor(Broker);

impl Impostor {
    fn start(machine: &Machine) -> Impostor {
        let options = BrokerOptions::default().project(PROJECT).on(machine);
        Impostor(Broker::start(options.listen([] as [&str; 0]).args(["--owner", "ann"])))
    }

    /// The record that sends clients to it.
    fn record(&self, stolen: &Value, change: impl FnOnce(&mut Value)) -> Value {
        let mut record = stolen.clone();
        for field in ["name", "lastheardfrom", "address", "endpoints"] {
            record.as_object_mut().unwrap().remove(field);
        }
        for (field, port) in [("port", "port"), ("pub_port", "pub_port")] {
            record[field] = self.0.endpoint()["tcp"][port].clone();
        }
        record["instance"] = json!("00000000-0000-4000-8000-00000000dead");
        change(&mut record);
        record
    }

    /// Nothing was asked and nothing stored, whoever knocked.
    fn was_told_nothing(&self) {
        assert_eq!(self.0.req().ask_json(&json!({"op": "size"}))["size"], 0);
        assert_eq!(self.0.stat("messages"), 2, "only the two looks of this test");
    }
}

#[test]
fn a_stolen_record_leads_no_client_to_an_impostor() {
    let Some(wire) = Wire::between(&["alpha", "beta", "gamma"]) else { return };
    let [alpha, beta, gamma] = wire.machines();
    let catalog = Catalog::ours(gamma);
    let mut broker = broker(alpha, &catalog, "ann");
    let true_record = listed(&catalog);
    let there = copy_of(broker.home());
    let impostor = Impostor::start(beta);
    // The true record word for word, but from the impostor's machine and with its ports: newer, so it is tried first.
    catalog.announce(beta, &impostor.record(&true_record, |_| {}));
    let said = client(gamma, &there, &catalog.address(), &["put", "k", "secret"]);
    ok(&said);
    assert_eq!(broker.req().ask_json(&json!({"op": "size"}))["size"], 1);
    // With the true one gone, nobody is better than somebody.
    broker.kill9();
    let said = client(gamma, &there, &catalog.address(), &["put", "k", "secret", "--timeout", "5s"]);
    assert!(matches!(said.code, Some(5 | 6)), "{:?} {}", said.code, said.stderr);
    assert!(said.stderr.contains("key"), "{}", said.stderr);
    impostor.was_told_nothing();
}

#[test]
fn swapped_and_missing_keys_are_refused_by_owners_and_colleagues() {
    let Some(wire) = Wire::between(&["alpha", "beta", "gamma"]) else { return };
    let [alpha, beta, gamma] = wire.machines();
    let catalog = Catalog::ours(gamma);
    let mut broker = broker(alpha, &catalog, "ann");
    let true_record = listed(&catalog);
    let (ann, bob) = (copy_of(broker.home()), Home::new());
    // Bob knows the true key.
    let refused = client(gamma, &bob, &catalog.address(), &["get", "k", "--accept-new-key"]);
    let key = refused.stderr.split("authorize ").nth(1).expect(&refused.stderr).split_whitespace().next().unwrap();
    ok(&client(alpha, broker.home(), &catalog.address(), &["authorize", key, "write"]));
    ok(&client(gamma, &bob, &catalog.address(), &["put", "k", "v"]));
    broker.stop();
    wait_until(PATIENCE, "the true record is gone", || catalog.records().is_empty().then_some(()));

    let impostor = Impostor::start(beta);
    let others_key = impostor.0.endpoint()["public_key"].clone();
    for case in ["swapped", "missing"] {
        let record = impostor.record(&true_record, |record| match case {
            "swapped" => record["public_key"] = others_key.clone(),
            _ => drop(record.as_object_mut().unwrap().remove("public_key")),
        });
        catalog.announce(beta, &record);
        for (who, home) in [("ann", &ann), ("bob", &bob)] {
            let said = client(gamma, home, &catalog.address(), &["put", "k", "secret", "--accept-new-key", "--timeout", "5s"]);
            assert!(matches!(said.code, Some(5 | 6)), "{case}, {who}: {:?} {}", said.code, said.stderr);
            assert!(said.stderr.contains("key"), "{case}, {who}: {}", said.stderr);
        }
    }
    impostor.was_told_nothing();
}

#[test]
fn a_catalog_that_is_none_is_told_apart_and_hides_nobody() {
    let Some(wire) = Wire::between(&["alpha", "beta", "gamma"]) else { return };
    let [alpha, beta, gamma] = wire.machines();
    let catalog = Catalog::ours(gamma);
    let broker = broker(alpha, &catalog, "ann");
    listed(&catalog);
    let there = copy_of(broker.home());
    for (port, kind) in [(8_001, "endless"), (8_002, "page"), (8_003, "text"), (8_004, "silence")] {
        let mut command = beta.command(program("stranger"));
        command.args(["pretend", &port.to_string(), kind]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut pretender = Guard::start(&mut command);
        let mut line = String::new();
        BufReader::new(pretender.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        let hostile = format!("{}:{port}", beta.address());
        let alone = client(gamma, &there, &hostile, &["get", "k", "--timeout", "5s"]);
        assert_eq!(alone.code, Some(5), "{kind}: {}", alone.stderr);
        assert!(alone.stderr.contains(&hostile), "{kind}: {}", alone.stderr);
        // Beside a true one it costs at most patience.
        ok(&client(gamma, &there, &format!("{hostile},{}", catalog.address()), &["put", kind, "v"]));
    }
}

#[test]
fn each_address_that_a_broker_tells_leads_to_it_without_a_catalog() {
    let Some(wire) = Wire::between(&["alpha", "beta"]) else { return };
    let [alpha, beta] = wire.machines();
    let broker = Broker::start(BrokerOptions::default().project(PROJECT).on(alpha).listen([] as [&str; 0]));
    let there = copy_of(broker.home());
    let tcp = &broker.endpoint()["tcp"];
    let hosts: Vec<IpAddr> = serde_json::from_value(tcp["hosts"].clone()).unwrap();
    let hosts: Vec<IpAddr> = hosts.into_iter().filter(|host| !host.is_loopback()).collect();
    assert!(hosts.contains(&alpha.address().into()), "{hosts:?}");
    for host in hosts {
        // Both families, if the machine has both. The owner's programs know which key to expect.
        let authority = SocketAddr::new(host, tcp["port"].as_u64().unwrap().try_into().unwrap());
        let address = format!("kv://{authority}/{PROJECT}");
        ok(&client(beta, &there, "127.0.0.1", &["put", "k", &address, "--catalog", "none", "--endpoint", &address]));
        assert_eq!(broker.req().ask_json(&json!({"op": "get", "key": "k"}))["value"], json!(address));
    }
}

#[test]
fn a_pulled_cable_is_no_refusal() {
    let Some(wire) = Wire::between(&["alpha", "beta", "gamma"]) else { return };
    let [alpha, beta, gamma] = wire.machines();
    let catalog = Catalog::ours(gamma);
    let broker = broker(alpha, &catalog, "ann");
    listed(&catalog);
    let there = copy_of(broker.home());
    ok(&client(beta, &there, &catalog.address(), &["put", "k", "v"]));
    alpha.pull_the_cable();
    let said = client(beta, &there, &catalog.address(), &["get", "k", "--timeout", "5s"]);
    assert_eq!(said.code, Some(5), "{}", said.stderr);
    assert!(said.stderr.contains(&alpha.address().to_string()), "it says where it was tried: {}", said.stderr);
    alpha.plug_in().unwrap();
    wait_until(PATIENCE, "the broker is reached again", || {
        (client(beta, &there, &catalog.address(), &["get", "k"]).code == Some(0)).then_some(())
    });
    // The catalog's machine is gone instead: its own brokers know better, and clients are told.
    gamma.pull_the_cable();
    let said = client(beta, &there, &catalog.address(), &["get", "k", "--timeout", "5s"]);
    assert_eq!(said.code, Some(5), "{}", said.stderr);
    let local = Cli::new(broker.home()).on(alpha).catalog(&catalog.address()).run(&[PROJECT, "get", "k"]);
    assert_eq!(ok(&local).trim_end(), "v");
}

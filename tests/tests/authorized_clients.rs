//! Who is let in beside the owner: by a hand edit of `authorized_clients` and by the verbs, while the broker runs.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Instant;

use kvbroker_tests::{Broker, PATIENCE, RawClient, User, authorized_clients, wait_until};
use serde_json::{Value, json};

fn code(reply: &Value) -> &str {
    reply["error"]["code"].as_str().unwrap_or("ok")
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn complaint(broker: &Broker) -> String {
    let reply = broker.dealer().ask_json(&json!({"op": "stats"}));
    reply["stats"]["authorized_clients_complaint"].as_str().unwrap().to_owned()
}

/// What the broker complains of, once it does.
fn awaited_complaint(broker: &Broker) -> String {
    wait_until(PATIENCE, "the broker complains", || Some(complaint(broker)).filter(|complaint| !complaint.is_empty()))
}

fn get(client: &RawClient) -> Value {
    client.ask_json(&json!({"op": "get", "key": "k"}))
}

#[test]
fn a_hand_edit_lets_a_colleague_in_and_out_while_the_broker_runs() {
    let (broker, ada) = (Broker::plain(), User::new());
    assert!(!ada.is_let_in(&broker), "a stranger");
    broker.dealer().ask_json(&json!({"op": "put", "key": "k", "value": 7}));
    let file = authorized_clients(&broker);
    write(&file, &format!("# team\n{} read # Ada\n", ada.key()));
    let written = Instant::now();
    wait_until(PATIENCE, "Ada is let in", || ada.is_let_in(&broker).then_some(()));
    println!("let in after {:?}", written.elapsed());
    let client = ada.dealer(&broker);
    assert_eq!(get(&client)["value"], 7);
    let hello = client.ask_json(&json!({"op": "hello"}));
    assert_eq!((&hello["user"], &hello["role"]), (&json!(ada.key()), &json!("read")), "{hello}");

    write(&file, "# team\n");
    let written = Instant::now();
    wait_until(PATIENCE, "Ada is refused", || (code(&get(&client)) == "refused").then_some(()));
    println!("refused after {:?}", written.elapsed());
    assert!(!ada.is_let_in(&broker));
}

#[test]
fn the_verbs_are_in_force_when_they_are_answered_and_keep_what_was_written_by_hand() {
    let (mut broker, ada, bob) = (Broker::plain(), User::new(), User::new());
    let file = authorized_clients(&broker);
    write(&file, &format!("# by hand\n\n{} write prefix=b/ # Bob\n# the end\n", bob.key()));
    let owner = broker.dealer();
    let mut request = ada.authorize("write", &["a b/", "k"]);
    request["comment"] = json!("Ada's laptop");
    let reply = owner.ask_json(&request);
    assert_eq!((code(&reply), &reply["replaced"]), ("ok", &json!(false)), "{reply}");
    assert!(ada.is_let_in(&broker) && bob.is_let_in(&broker));
    let (a, b) = (ada.key(), bob.key());
    let line = |words: &str| format!("# by hand\n\n{b} write prefix=b/ # Bob\n# the end\n{words}");
    let text = line(&format!("{a} write prefix=\"a b/\" prefix=k # Ada's laptop\n"));
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
    assert_eq!(owner.ask_json(&request)["replaced"], true);
    let users = owner.ask_json(&json!({"op": "who"}));
    assert_eq!(users["users"][0], json!({"key": b, "role": "write", "prefixes": ["b/"], "comment": "Bob"}), "{users}");
    assert_eq!(users["users"][1]["prefixes"], json!(["a b/", "k"]));

    // It is on the disk when it is answered.
    broker.kill9();
    broker.restart();
    let client = ada.dealer(&broker);
    assert_eq!(code(&client.ask_json(&json!({"op": "put", "key": "k", "value": 1}))), "ok");

    let owner = broker.dealer();
    assert_eq!(code(&owner.ask_json(&ada.revoke())), "ok");
    assert_eq!(code(&get(&client)), "refused", "on the connection that was let in before");
    assert!(!ada.is_let_in(&broker) && bob.is_let_in(&broker));
    assert_eq!(code(&owner.ask_json(&ada.revoke())), "not_found");
    assert_eq!(fs::read_to_string(&file).unwrap(), line(""));
    broker.kill9();
    broker.restart();
    assert!(!ada.is_let_in(&broker) && bob.is_let_in(&broker));
}

#[test]
fn an_admin_may_do_what_the_owner_may_but_not_to_the_owner() {
    let (broker, ada, bob) = (Broker::plain(), User::new(), User::new());
    let owner = broker.dealer();
    owner.ask_json(&ada.authorize("admin", &[]));
    let admin = ada.dealer(&broker);
    assert_eq!(code(&admin.ask_json(&bob.authorize("write", &[]))), "ok");
    let writer = bob.dealer(&broker);
    for request in [ada.authorize("read", &[]), ada.revoke(), bob.authorize("admin", &[]), json!({"op": "who"})] {
        assert_eq!(code(&writer.ask_json(&request)), "refused", "{request}");
    }
    let text = fs::read_to_string(broker.home().path().join("config/id")).unwrap();
    let own = text.lines().find_map(|line| line.strip_prefix("# Your public key: ")).unwrap();
    let project = broker.endpoint()["public_key"].clone();
    for key in [json!(own), project] {
        for request in [json!({"op": "authorize", "key": key, "role": "read"}), json!({"op": "revoke", "key": key})] {
            assert_eq!(code(&admin.ask_json(&request)), "invalid", "{request}");
        }
    }
    assert_eq!(code(&owner.ask_json(&json!({"op": "who"}))), "ok");
    let empty = admin.ask_json(&bob.authorize("read", &[""]));
    assert_eq!(code(&empty), "invalid", "an empty prefix is no way to say every key: {empty}");
    let secret = format!("kvsec1{}", "a5".repeat(32));
    let reply = admin.ask_json(&json!({"op": "authorize", "key": ada.key(), "role": "read", "comment": secret}));
    assert!(code(&reply) == "invalid" && !reply.to_string().contains("a5a5"), "{reply}");

    // What an admin has asked for behind its own end is not done.
    for (id, request) in [(1, ada.revoke()), (2, User::new().authorize("admin", &[]))] {
        let mut request = request;
        request["id"] = json!(id);
        admin.send(&[request.to_string().as_bytes()]);
    }
    let replies: [Value; 2] = std::array::from_fn(|_| kvbroker_tests::json(&admin.receive()));
    let of = |id: u64| replies.iter().find(|reply| reply["id"] == id).unwrap();
    assert_eq!((code(of(1)), code(of(2))), ("ok", "refused"), "{replies:?}");
    assert_eq!(owner.ask_json(&json!({"op": "who"}))["users"].as_array().unwrap().len(), 1, "Bob");
}

#[test]
fn a_file_that_cannot_be_used_changes_nothing_and_is_said() {
    let (mut broker, ada, bob) = (Broker::plain(), User::new(), User::new());
    let file = authorized_clients(&broker);
    let good = format!("{} read\n", ada.key());
    broker.dealer().ask_json(&ada.authorize("read", &[]));
    let mend = |broker: &Broker| {
        write(&file, &good);
        wait_until(PATIENCE, "the broker is content", || complaint(broker).is_empty().then_some(()));
    };

    write(&file, &format!("{good}{} read\n{} reed\n", bob.key(), User::new().key()));
    let said = awaited_complaint(&broker);
    assert!(said.contains("line 3") && said.contains("'reed' is no role"), "{said}");
    assert!(ada.is_let_in(&broker) && !bob.is_let_in(&broker), "all of it counts or nothing");
    // Nobody edits what nobody can read.
    let reply = broker.dealer().ask_json(&bob.authorize("read", &[]));
    assert!(code(&reply) == "conflict" && reply.to_string().contains("line 3"), "{reply}");
    mend(&broker);

    fs::write(&file, format!("{good}{} read\n", bob.key())).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    let said = awaited_complaint(&broker);
    assert!(said.contains("chmod go-w"), "{said}");
    mend(&broker);

    let elsewhere = broker.home().path().join("elsewhere");
    write(&elsewhere, &format!("{good}{} read\n", bob.key()));
    fs::remove_file(&file).unwrap();
    symlink(&elsewhere, &file).unwrap();
    let said = awaited_complaint(&broker);
    assert!(said.contains("symbolic link"), "{said}");
    assert!(ada.is_let_in(&broker) && !bob.is_let_in(&broker));
    fs::remove_file(&file).unwrap();
    mend(&broker);

    // Without a last good list the owner is alone.
    write(&file, "nonsense\n");
    broker.stop();
    broker.restart();
    assert!(broker.stderr().contains("nobody but the owner gets in"), "{}", broker.stderr());
    assert!(!ada.is_let_in(&broker));
    mend(&broker);
    wait_until(PATIENCE, "Ada is let in", || ada.is_let_in(&broker).then_some(()));
}

/// A line is cut where it still is one: it would let in to more than was meant.
#[test]
fn a_file_that_is_being_written_is_not_believed() {
    let (broker, ada) = (Broker::plain(), User::new());
    let owner = broker.dealer();
    for key in ["team/k", "k"] {
        owner.ask_json(&json!({"op": "put", "key": key, "value": 1}));
    }
    let file = authorized_clients(&broker);
    write(&file, &format!("{} read prefix=team/\n", ada.key()));
    wait_until(PATIENCE, "Ada is let in", || ada.is_let_in(&broker).then_some(()));
    let client = ada.dealer(&broker);
    // Somebody writes it anew, slowly: what is there has no end yet.
    let whole = format!("{} read prefix=team/\n", ada.key());
    for _ in 0..20 {
        for end in ["read", "read prefix=t"] {
            write(&file, &whole[..whole.find("read").unwrap() + end.len()]);
            assert_eq!(code(&get(&client)), "refused");
        }
    }
    write(&file, &whole);
    assert_eq!(code(&client.ask_json(&json!({"op": "get", "key": "team/k"}))), "ok");
}

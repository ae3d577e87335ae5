//! Secret keys are in their files and nowhere else: not in what programs write, not on their command lines, not in their environment.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use kvbroker::keys::{KeyPair, SecretKey};
use kvbroker_tests::{Broker, BrokerOptions, Cli, User, authorized_clients};
use serde_json::json;

fn files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => files(&entry.path(), found),
            kind if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
}

/// A secret in every form in which it could get somewhere.
fn forms(pair: &KeyPair) -> Vec<Vec<u8>> {
    let text = pair.secret().expose_text();
    let digits = text.strip_prefix("kvsec1").unwrap();
    let raw = pair.secret().expose_bytes();
    vec![digits.as_bytes().to_vec(), digits.to_uppercase().into_bytes(), raw.to_vec(), zmq::z85_encode(raw).unwrap().into_bytes()]
}

fn holds(hay: &[u8], needles: &[Vec<u8>]) -> bool {
    needles.iter().any(|needle| hay.windows(needle.len()).any(|window| window == needle))
}

#[test]
fn a_secret_key_is_nowhere_but_in_its_file() {
    let broker = Broker::start(BrokerOptions::default().args(["-vv"]));
    let cli = Cli::new(broker.home());
    let (ada, misled) = (User::new(), KeyPair::generate().unwrap());
    let owner = broker.dealer_on_tcp();
    owner.ask_json(&ada.authorize("write", &["own/"]));
    ada.dealer(&broker).ask_json(&json!({"op": "put", "key": "own/k", "value": 1}));
    // Somebody gives the secret where the public key belongs: to the verb, in a request, and in the file.
    let secret = misled.secret().expose_text();
    let said = cli.run(&["test", "authorize", &secret, "read"]);
    assert_eq!(said.code, Some(2), "{said:?}");
    assert!(!holds(&[said.stdout.clone(), said.stderr.clone().into_bytes()].concat(), &forms(&misled)), "{said:?}");
    for request in [
        json!({"op": "authorize", "key": *secret, "role": "read"}),
        json!({"op": "authorize", "key": ada.key(), "role": "read", "comment": *secret}),
        json!({"op": "revoke", "key": *secret}),
    ] {
        let reply = owner.ask_json(&request).to_string();
        assert!(reply.contains("secret") && !holds(reply.as_bytes(), &forms(&misled)), "{reply}");
    }
    let file = authorized_clients(&broker);
    let good = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{good}{} read\n", *secret)).unwrap();
    let complaint = kvbroker_tests::wait_until(kvbroker_tests::PATIENCE, "the broker complains", || {
        let stats = owner.ask_json(&json!({"op": "stats"}));
        let text = stats["stats"]["authorized_clients_complaint"].as_str().unwrap().to_owned();
        (!text.is_empty()).then_some(text)
    });
    assert!(complaint.contains("secret"), "{complaint}");
    fs::write(&file, good).unwrap();
    for words in [&["test", "who"][..], &["id"], &["test", "stats"], &["test", "hello"], &["--explain", "test", "ping"]] {
        let said = cli.run(words);
        let all = [said.stdout.clone(), said.stderr.clone().into_bytes()].concat();
        assert!(!holds(&all, &forms(&misled)), "{words:?}");
    }

    let key_file = broker.home().path().join("config/id");
    assert_eq!(fs::metadata(&key_file).unwrap().permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(&key_file).unwrap();
    let own = KeyPair::from_secret(text.lines().find_map(|line| SecretKey::from_text(line).ok()).unwrap()).unwrap();
    let project = own.project(&"test".parse().unwrap()).unwrap();
    let secrets: Vec<Vec<u8>> = [&own, &project, &misled].into_iter().flat_map(forms).collect();
    assert!(holds(text.as_bytes(), &secrets), "what is looked for can be found");
    for name in ["cmdline", "environ"] {
        let content = fs::read(format!("/proc/{}/{name}", broker.pid())).unwrap();
        assert!(!content.is_empty() && !holds(&content, &secrets), "{name}");
    }
    // Logs, endpoint file, log of the table: all that the broker writes is below its home.
    let mut written = Vec::new();
    files(broker.home().path(), &mut written);
    assert!(written.len() > 5 && broker.stderr().contains("authorize"), "there is something to look through: {written:?}");
    for path in written.iter().filter(|path| **path != key_file) {
        assert!(!holds(&fs::read(path).unwrap(), &secrets), "{}", path.display());
    }
}

//! The program `kvcatalog` as its users meet it.
#![allow(clippy::unwrap_used)]

use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use kvbroker::catalog::{CatalogAddr, query};

const PATIENCE: Duration = Duration::from_secs(30);

/// Ends its process, also when the test fails.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn kvcatalog(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvcatalog"));
    command.args(args).env_remove("KVCATALOG_PORT").env_remove("KVCATALOG_LISTEN").stdin(Stdio::null());
    command
}

impl Program {
    fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "it never ended");
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.0.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }
}

#[test]
fn it_serves_on_free_ports_says_where_and_stops_cleanly() {
    for signal in ["TERM", "INT"] {
        let dir = tempfile::tempdir().unwrap();
        let ready = dir.path().join("ready.json");
        let child = kvcatalog(&["--port", "0", "--ready-file", ready.to_str().unwrap()]).stdout(Stdio::piped()).spawn().unwrap();
        let mut program = Program(child);
        let deadline = Instant::now() + PATIENCE;
        while !ready.exists() {
            assert!(Instant::now() < deadline, "it never became ready");
            thread::sleep(Duration::from_millis(5));
        }
        // It is put in place whole, so it can be read as soon as it exists.
        let told: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&ready).unwrap()).unwrap();
        assert_eq!(told["pid"], program.0.id());
        let catalog: CatalogAddr = told["catalog"].as_str().unwrap().parse().unwrap();
        assert!(catalog.is_loopback().unwrap());
        assert!(query(&catalog, PATIENCE).unwrap().seen.is_empty());

        program.signal(signal);
        assert_eq!(program.wait().code(), Some(0), "{signal}");
        let mut said = String::new();
        program.0.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(said.contains("kvcatalog: ready") && said.contains(&catalog.to_string()), "{said}");
    }
}

#[test]
fn wrong_usage_and_taken_ports_have_their_own_exit_codes() {
    let usage = kvcatalog(&["--lifetime", "soon"]).output().unwrap();
    assert_eq!(usage.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&usage.stderr).contains("90s, 30m or 2h"));

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let refused = kvcatalog(&["--port", &port]).output().unwrap();
    assert_eq!(refused.status.code(), Some(5));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--port 0"));
}

#[test]
fn help_teaches_by_example_and_the_version_is_told() {
    let help = kvcatalog(&["--help"]).output().unwrap();
    assert_eq!(help.status.code(), Some(0));
    let help = String::from_utf8(help.stdout).unwrap();
    for part in ["Examples:", "CATALOG_HOST=", "--ready-file", "--listen"] {
        assert!(help.contains(part), "{part}");
    }
    let version = kvcatalog(&["--version"]).output().unwrap();
    assert_eq!(version.status.code(), Some(0));
    assert!(String::from_utf8(version.stdout).unwrap().starts_with("kvcatalog "));
}

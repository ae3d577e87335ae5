//! Queries against little servers that misbehave in known ways.
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::net::{TcpListener, TcpStream};

use super::*;

const RECORD: &str = r#"{"name":"localhost","lastheardfrom":HEARD,"address":"127.0.0.1","type":"hashtable","project":"p","owner":"o","port":9,"uuid":"00000000-0000-0000-0000-00000000000U","instance":"00000000-0000-0000-0000-00000000000I","epoch":"ff","starttime":1,"lifetime":180,"shard":0,"durability":"always","version":"0.1.0","public_key":"kvpub1x"}"#;

fn record(heard: u64, uuid: char, instance: char) -> String {
    RECORD.replace("HEARD", &heard.to_string()).replace('U', &uuid.to_string()).replace('I', &instance.to_string())
}

/// A server for one connection; it lives as long as its closure.
fn serve(reply: impl FnOnce(TcpStream) + Send + 'static) -> CatalogAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let catalog = listener.local_addr().unwrap().to_string().parse().unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        // Read the request's head, so that closing later is not a reset.
        let mut head = Vec::new();
        let mut byte = [0_u8];
        while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
            head.push(byte[0]);
        }
        assert!(head.starts_with(b"GET /query.json HTTP/1.1\r\n"));
        reply(stream);
    });
    catalog
}

fn says(text: impl Into<String>) -> CatalogAddr {
    let text = text.into();
    serve(move |mut stream| stream.write_all(text.as_bytes()).unwrap())
}

fn list(catalogs: &[&CatalogAddr]) -> CatalogList {
    let all: Vec<String> = catalogs.iter().map(ToString::to_string).collect();
    CatalogList::from_settings(Some(&all.join(",")), None, None).unwrap()
}

const SECOND: Duration = Duration::from_secs(1);
const LF_HEAD: &str = "HTTP/1.1 200 OK\nDate: Sat Nov 21 09:55:46 2026\nServer: catalog_server\nConnection: close\nAccess-Control-Allow-Origin: *\nContent-type: text/plain\n\n";

#[test]
fn bare_lf_and_no_length_are_read_to_the_end() {
    let catalog = says(format!("{LF_HEAD}[\n{}\n]\n", record(5, '1', '2')));
    let listing = query(&catalog, 5 * SECOND).unwrap();
    assert_eq!(listing.seen.len(), 1);
    assert_eq!(listing.seen[0].catalog, catalog.to_string());
    assert_eq!(listing.cut_short, None);
}

#[test]
fn nobody_listening_is_no_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let catalog: CatalogAddr = listener.local_addr().unwrap().to_string().parse().unwrap();
    drop(listener);
    let error = query(&catalog, SECOND).unwrap_err();
    assert!(matches!(error, CatalogError::NoAnswer { .. }), "{error:?}");
    assert!(!error.is_garbage());
}

#[test]
fn a_hanging_catalog_ends_at_the_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let catalog: CatalogAddr = listener.local_addr().unwrap().to_string().parse().unwrap();
    let started = Instant::now();
    let error = query(&catalog, SECOND / 5).unwrap_err();
    assert!(matches!(error, CatalogError::TimedOut { .. }), "{error:?}");
    assert!(started.elapsed() < 2 * SECOND);
}

#[test]
fn other_programs_on_the_port_are_told_apart() {
    for text in [
        "SSH-2.0-OpenSSH_9.2\r\n",
        "HTTP/1.1 404 Not Found\n\nno\n",
        "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\n\n<html>hello</html>",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    ] {
        let error = query(&says(text), 5 * SECOND).unwrap_err();
        assert!(error.is_garbage(), "{text:?}: {error:?}");
    }
}

#[test]
fn what_came_before_a_stall_counts() {
    let (done, wait) = sync_channel::<()>(0);
    let catalog = serve(move |mut stream| {
        let text = format!("{LF_HEAD}[\n{},\n", record(5, '1', '2'));
        stream.write_all(text.as_bytes()).unwrap();
        let _ = wait.recv();
    });
    let listing = query(&catalog, SECOND / 2).unwrap();
    assert_eq!(listing.seen.len(), 1);
    assert!(listing.cut_short.is_some());
    drop(done);
}

#[test]
fn an_endless_listing_is_cut_at_the_limit() {
    let catalog = serve(|mut stream| {
        let head = format!("{LF_HEAD}[\n{},\n", record(5, '1', '2'));
        let other = format!("{{\"type\":\"x\",\"s\":\"{}\"}},\n", "x".repeat(60_000));
        let _ = stream.write_all(head.as_bytes());
        while stream.write_all(other.as_bytes()).is_ok() {}
    });
    let listing = query(&catalog, 30 * SECOND).unwrap();
    assert_eq!(listing.seen.len(), 1);
    assert!(listing.cut_short.unwrap().contains("first"));
}

#[test]
fn one_hanging_catalog_costs_the_others_nothing() {
    let hanging = TcpListener::bind("127.0.0.1:0").unwrap();
    let slow: CatalogAddr = hanging.local_addr().unwrap().to_string().parse().unwrap();
    let quick = says(format!("{LF_HEAD}[\n{}\n]\n", record(5, '1', '2')));
    let list = list(&[&slow, &quick]);
    let mut answers = ask(&list, SECOND);
    let first = answers.next().unwrap();
    assert_eq!(first.catalog, quick);
    assert_eq!(answers.waiting_for().collect::<Vec<_>>(), [&slow]);
    assert!(answers.next_within(Duration::from_millis(1)).is_none());
    let second = answers.next().unwrap();
    assert!(second.outcome.is_err());
    assert!(answers.next().is_none() && answers.is_finished());
}

#[test]
fn no_catalogs_no_answers() {
    assert!(query_all(&CatalogList::none(), SECOND).is_empty());
}

#[test]
fn merged_records_are_unique_and_newest_first() {
    let a = says(format!("{LF_HEAD}[{},{}]", record(100, '1', '2'), record(50, '1', '3')));
    let b = says(format!("{LF_HEAD}[{},{}]", record(101, '1', '2'), record(70, '4', '5')));
    let list = list(&[&a, &b]);
    let answers = query_all(&list, 5 * SECOND);
    assert_eq!(answers[0].catalog, a);
    let all = merge(&answers);
    let heard: Vec<u64> = all.iter().map(|s| s.lastheardfrom).collect();
    assert_eq!(heard, [101, 70, 50]);
    let groups = group_by_uuid(all);
    assert_eq!(groups.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1], "the twin stands behind its newer sibling");
}

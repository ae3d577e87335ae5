//! The library's `Mirror` against a real broker.

#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use kvbroker::catalog::CatalogList;
use kvbroker::client::{Client, ConnectOptions, Mirror, MirrorCause, MirrorChange, MirrorError, MirrorOptions};
use kvbroker::paths::Dirs;
use kvbroker_protocol::{Key, Predicate, Stored};
use kvbroker_tests::{Broker, PATIENCE, wait_until};

fn client(broker: &Broker) -> Client {
    let options = ConnectOptions::new().dirs(Dirs::under(broker.home().path()).unwrap()).catalogs(CatalogList::none());
    Client::connect_with("test", options.timeout(PATIENCE).wait_for_broker(true)).unwrap()
}

fn text(value: &Option<Stored>) -> Option<String> {
    value.as_ref().and_then(Stored::as_text)
}

/// Keys, values before and now, and causes, in the order in which a hook heard of them.
type Heard = Arc<Mutex<Vec<MirrorChange>>>;

fn hearing() -> (Heard, MirrorOptions) {
    let heard = Heard::default();
    let kept = Arc::clone(&heard);
    (heard, MirrorOptions::new().on_change(move |change| kept.lock().unwrap().push(change.clone())))
}

#[test]
fn a_mirror_has_what_is_there_and_then_every_change() {
    let broker = Broker::plain();
    let client = client(&broker);
    client.put_text("a/1", "before").unwrap();
    client.put_text("b", "other").unwrap();
    let (heard, options) = hearing();
    let mirror = Mirror::start(&client, "a/", options).unwrap();
    assert_eq!((mirror.len(), mirror.revision(), mirror.is_current()), (1, 2, true));
    assert_eq!(mirror.get("a/1").unwrap().modified, 1);
    assert!(mirror.get("b").is_none());

    let own = client.put_text("a/2", "new").unwrap();
    assert!(mirror.wait_for(own, PATIENCE).unwrap() >= own);
    assert_eq!(mirror.get("a/2").unwrap().value.as_text().as_deref(), Some("new"));
    client.put_text("a/1", "after").unwrap();
    client.del("a/2").unwrap();
    let other = client.put_text("b", "elsewhere").unwrap();
    // A revision that changed nothing here is not told by itself soon: it is asked for.
    assert!(mirror.wait_for(other, PATIENCE).unwrap() >= other);
    assert_eq!(mirror.read(|state| state.prefix(b"a/").count()), 1);
    assert_eq!(mirror.range("a/", Some(b"a/2")).len(), 1);

    let heard: Vec<(Key, Option<String>, Option<String>, MirrorCause)> = heard
        .lock()
        .unwrap()
        .iter()
        .map(|change| (change.key.clone(), text(&change.before), text(&change.now), change.cause))
        .collect();
    let some = |text: &str| Some(text.to_owned());
    let expected = [
        (b"a/1".to_vec(), None, some("before"), MirrorCause::Snapshot),
        (b"a/2".to_vec(), None, some("new"), MirrorCause::Put),
        (b"a/1".to_vec(), some("before"), some("after"), MirrorCause::Put),
        (b"a/2".to_vec(), some("new"), None, MirrorCause::Remove),
    ];
    assert_eq!(heard, expected);
    let late = mirror.wait_for(other + 1_000, Duration::from_millis(100)).unwrap_err();
    assert!(matches!(late, MirrorError::Late { wanted, .. } if wanted == other + 1_000), "{late}");
}

#[test]
fn a_mirror_outlives_its_broker_and_ends_with_its_client() {
    let mut broker = Broker::plain();
    let writer = client(&broker);
    let reader = client(&broker);
    writer.put_text("k", "1").unwrap();
    let mirror = Mirror::start(&reader, "", MirrorOptions::new()).unwrap();
    broker.kill9();
    assert_eq!(mirror.len(), 1, "it shows what it had");
    broker.restart();
    let revision = writer.put_text("k", "2").unwrap();
    mirror.wait_for(revision, PATIENCE).unwrap();
    assert_eq!(mirror.get("k").unwrap().value.as_text().as_deref(), Some("2"));

    reader.close();
    let error = mirror.wait_for(u64::MAX, PATIENCE).unwrap_err();
    assert!(matches!(error, MirrorError::Ended(_)), "{error}");
    assert!(mirror.ended().is_some() && !mirror.is_current());
    assert_eq!(mirror.len(), 1);
}

#[test]
fn a_mirror_of_what_fits_drops_what_fits_no_more() {
    let broker = Broker::plain();
    let client = client(&broker);
    client.put_json("lamp/1", "1").unwrap();
    client.put_json("lamp/2", "0").unwrap();
    let on = MirrorOptions::new().filter(Predicate::new("@value = 1").unwrap());
    let mirror = Mirror::start(&client, "lamp/", on).unwrap();
    assert_eq!(mirror.len(), 1);
    client.put_json("lamp/2", "1").unwrap();
    let last = client.put_json("lamp/1", "0").unwrap();
    mirror.wait_for(last, PATIENCE).unwrap();
    assert_eq!(mirror.range("", None).into_iter().map(|(key, _)| key).collect::<Vec<_>>(), [b"lamp/2".to_vec()]);
}

#[test]
fn a_hook_that_panics_ends_the_mirror_and_says_so() {
    let broker = Broker::plain();
    let client = client(&broker);
    let options = MirrorOptions::new().on_change(|change| assert!(change.key != b"bad", "told to panic"));
    let mirror = Mirror::start(&client, "", options).unwrap();
    client.put_text("bad", "1").unwrap();
    let error = mirror.wait_for(u64::MAX, PATIENCE).unwrap_err();
    assert!(matches!(error, MirrorError::Panicked), "{error}");
    wait_until(PATIENCE, "it has ended", || mirror.ended());
}

//! What the loader takes and what it refuses. That slices of a state lead to an equal one is tried on long walks: `model` and
//! `sessions`.

#![allow(clippy::unwrap_used)]

use kvbroker_core::{Change, ChangeError, LoadError, Loader, Space, State, StateRecord};
use kvbroker_protocol::limits;

fn refused(records: &[(&[u8], &[u8])]) -> LoadError {
    let mut loader = Loader::new();
    let (last, before) = records.split_last().unwrap();
    for (key, value) in before {
        loader.record(key, value, 1).unwrap();
    }
    loader.record(last.0, last.1, 1).unwrap_err()
}

const VALUE: &[u8] = b"\x027\0";

#[test]
fn records_out_of_order_twice_malformed_or_of_a_newer_program_are_refused() {
    for (first, second) in
        [(&b"tb"[..], &b"ta"[..]), (b"tb", b"tb"), (b"tb", b"t"), (b"tb", b"fann"), (b"tb", b"s0123456789abcdef")]
    {
        let failure = refused(&[(first, VALUE), (second, VALUE)]);
        assert_eq!(failure, LoadError::OutOfOrder { before: first.to_vec(), key: second.to_vec() });
    }
    let text = refused(&[(b"tb", VALUE), (b"ta\xff", VALUE)]).to_string();
    assert!(text.contains(r#""ta\\xff" does not come behind "tb""#), "{text}");
    assert_eq!(refused(&[(b"", VALUE)]), LoadError::Record(ChangeError::NoKey));
    assert_eq!(refused(&[(b"ta", VALUE), (b"", VALUE)]), LoadError::Record(ChangeError::NoKey));
    assert_eq!(refused(&[(b"ta", VALUE), (b"u", VALUE)]), LoadError::Record(ChangeError::UnknownSpace(b'u')));
    for (key, value, space) in [
        (&b"ta"[..], &b"\x037\0"[..], Space::Table),
        (b"ta", b"", Space::Table),
        (b"fann", b"\0", Space::Floor),
        (b"s0123456789abcde", b"\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0ann", Space::Session),
        (b"s0123456789abcdef", b"\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0ann", Space::Session),
        (b"w0123456789abcdef\0\0", b"", Space::Window),
    ] {
        assert_eq!(refused(&[(key, value)]), LoadError::Record(ChangeError::NotOfItsSpace(space)), "{key:?}");
    }
}

#[test]
fn a_record_behind_the_end_is_refused_and_nothing_is_a_state() {
    assert_eq!(Loader::new().finish(0).unwrap(), State::new());
    let mut loader = Loader::new();
    loader.record(b"ta", VALUE, 8).unwrap();
    loader.record(b"tb", VALUE, 7).unwrap();
    assert_eq!(loader.finish(7).unwrap_err(), LoadError::AfterTheEnd { record: 8, end: 7 });
}

#[test]
fn a_slice_ends_where_it_is_full_and_goes_on_behind_any_key() {
    let mut state = State::new();
    for (at, key) in ["", "a", "aa", "b"].into_iter().enumerate() {
        let change = Change { space: Space::Table, key: key.into(), value: Some(VALUE.to_vec()) };
        state.apply(change, at as u64 + 1);
    }
    let keys = |after: Option<&[u8]>, bytes_max| {
        let slice = state.records_after(after, bytes_max);
        let keys = slice.records.into_iter().map(|record| String::from_utf8(record.key).unwrap());
        (keys.collect::<Vec<_>>().join(","), slice.is_end)
    };
    for (after, expected) in [
        (None, "t,ta,taa,tb"),
        (Some(&b""[..]), "t,ta,taa,tb"),
        (Some(b"fzoe"), "t,ta,taa,tb"),
        (Some(b"t"), "ta,taa,tb"),
        // No key of the state, nor need it be.
        (Some(b"ta9"), "taa,tb"),
        (Some(b"tb"), ""),
        (Some(b"u"), ""),
    ] {
        assert_eq!(keys(after, 1 << 20), (expected.into(), true), "{after:?}");
    }
    assert_eq!(keys(None, 0), ("t".into(), false));
    let two = 2 * size_of::<StateRecord>();
    assert_eq!(keys(None, two), ("t,ta".into(), false));
    assert_eq!(keys(Some(b"taa"), 1), ("tb".into(), false), "that it was the last is seen by the next slice");
    assert_eq!(keys(Some(b"tb"), 1), (String::new(), true));
}

#[test]
fn an_acknowledged_number_is_kept_where_no_reply_is_left_to_tell_it() {
    let id = *b"0123456789abcdef";
    let seq = limits::SESSION_WINDOW as u64 + 5;
    let session = [&[1][..], &1_000_u64.to_le_bytes(), &0_u64.to_le_bytes(), b"ann"].concat();
    // A mutation whose record says that the reply to it was read, too: no program writes it, and every one reads it.
    let reply = [&seq.to_le_bytes()[..], &7_u64.to_le_bytes(), &0_u16.to_le_bytes(), &2_000_u64.to_le_bytes(), &[0]].concat();
    let mut state = State::new();
    for (key, value) in [([b"s", &id[..]].concat(), session), ([b"w", &id[..], &[0, 5]].concat(), reply)] {
        state.apply(Change::from_record(&key, Some(&value)).unwrap(), 3);
    }
    let slice = state.records_after(None, 1 << 20);
    assert_eq!(slice.records.len(), 2);
    let mut loader = Loader::new();
    slice.records.iter().for_each(|record| loader.record(&record.key, &record.value, record.revision).unwrap());
    assert_eq!(loader.finish(3).unwrap(), state);
    // Without the reply's record the state would be another.
    let mut loader = Loader::new();
    let record = &slice.records[0];
    loader.record(&record.key, &record.value, record.revision).unwrap();
    assert_ne!(loader.finish(3).unwrap(), state);
}

//! The table against a plain map.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use super::branch::Branch;
use super::leaf::{LEAF_BYTES_MAX, PACKED_BYTES_MAX};
use super::*;

type Plain = BTreeMap<Vec<u8>, (u64, Vec<u8>)>;

/// Numbers that look random, the same in each run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// Keys that make it hard: long shared beginnings, zeros, one the beginning of the other, some very long ones.
fn key(numbers: &mut Numbers, kind: u64, keys: u64) -> Vec<u8> {
    let number = numbers.below(keys);
    match kind {
        0 => format!("key:{number:011}").into_bytes(),
        1 => vec![0; (number % 300) as usize],
        2 => (0..number % 7).map(|at| [0, 1, b'a', u8::MAX][(number >> (2 * at)) as usize % 4]).collect(),
        3 => format!("tenant{}/{}/{number}", number % 3, ["", "a/rather/long/path/in/the/middle"][(number % 2) as usize])
            .into_bytes(),
        4 => [vec![b'x'; [8, 900, 1_100, 65_000][(number % 4) as usize]], number.to_be_bytes().to_vec()].concat(),
        _ => number.to_be_bytes().to_vec(),
    }
}

fn record(numbers: &mut Numbers, key: &[u8]) -> Vec<u8> {
    let around = PACKED_BYTES_MAX.saturating_sub(key.len());
    let length = match numbers.below(40) {
        0 => around as u64 + numbers.below(5),
        1 => 250 + numbers.below(10),
        2 => 5_000,
        3..8 => numbers.below(300),
        _ => 60 + numbers.below(3),
    };
    let mut record = vec![1];
    record.resize(length.max(2) as usize, numbers.next() as u8);
    *record.last_mut().unwrap() = 0;
    record
}

fn check(table: &Table, plain: &Plain) {
    assert_eq!(table.len(), plain.len());
    assert_eq!(table.bytes(), plain.iter().map(|(key, (_, record))| (key.len() + record.len()) as u64).sum::<u64>());
    let all = || plain.iter().map(|(key, (modified, record))| (key.as_slice(), EntryRef { modified: *modified, record }));
    assert!(table.behind(None).eq(all()));
    assert!(table.range(&KeyRange::prefix(b"")).rev().eq(all().rev()));
    table.entries.check();
}

fn owned(old: Replaced<'_>) -> (u64, Vec<u8>) {
    (old.as_ref().modified, old.as_ref().record.to_vec())
}

#[test]
fn a_table_is_a_sorted_map() {
    let mut hinted = 0;
    for (kind, keys, steps) in
        [(0, 30_000, 60_000), (1, 300, 3_000), (2, 20_000, 20_000), (3, 9_000, 30_000), (4, 400, 6_000), (5, u64::MAX, 30_000)]
    {
        let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15 + kind);
        let (mut table, mut plain) = (Table::default(), Plain::new());
        // Keys that come next. Half of the time they are looked for in advance; changes of the others come between.
        let mut soon: Vec<Vec<u8>> = Vec::new();
        // It grows, stays, shrinks, and grows again.
        for step in 0..steps {
            let deletes = [1, 5, 9, 2][(step * 4 / steps) as usize];
            if soon.is_empty() {
                soon = (0..40).map(|_| key(&mut numbers, kind, keys)).collect();
                if numbers.below(2) == 0 {
                    table.warm(soon.iter().map(Vec::as_slice));
                }
            }
            let mut name = soon.pop().unwrap();
            hinted += usize::from(table.entries.hinted(&name).is_some());
            if numbers.below(10) < deletes {
                if let Some((other, _)) = plain.range(name.clone()..).next() {
                    name.clone_from(other);
                }
                assert_eq!(table.delete(&name, owned), plain.remove(&name));
            } else {
                let record = record(&mut numbers, &name);
                let modified = 1 << numbers.below(64) | step;
                assert_eq!(table.put(&name, record.clone(), modified, owned), plain.insert(name.clone(), (modified, record)));
            }
            let probe = match soon.last() {
                Some(next) if numbers.below(2) == 0 => next.clone(),
                _ => key(&mut numbers, kind, keys),
            };
            let expected = plain.get(&probe).map(|(modified, record)| EntryRef { modified: *modified, record });
            assert_eq!(table.get(&probe), expected);
            if step % 97 == 0 {
                let mut range = KeyRange::prefix(&probe[..probe.len() / 2]);
                range.starting_behind(&name);
                let expected: Vec<&[u8]> = plain
                    .keys()
                    .filter(|key| key.starts_with(&probe[..probe.len() / 2]) && **key > name)
                    .map(Vec::as_slice)
                    .collect();
                assert!(table.range(&range).map(|(key, _)| key).eq(expected.iter().copied()));
                assert!(table.range(&range).rev().map(|(key, _)| key).eq(expected.iter().rev().copied()));
            }
            if step % (steps / 6) == 0 {
                check(&table, &plain);
            }
        }
        check(&table, &plain);
        let mut builder = TableBuilder::default();
        plain.iter().for_each(|(key, (modified, record))| builder.push(key, record, *modified));
        let built = builder.finish();
        check(&built, &plain);
        assert!(built == table);
        for name in plain.keys() {
            table.delete(name, |_| {}).unwrap();
        }
        check(&table, &Plain::new());
        assert_eq!(table.entries.leaves().count(), 1, "what is empty is given back");
    }
    assert!(hinted > 10_000, "only {hinted} keys stood where it was noted");
}

#[test]
fn keys_that_ascend_leave_full_leaves_and_no_order_leaves_a_lot_of_room() {
    let key = |number: u64| format!("key:{number:011}").into_bytes();
    let mut numbers = Numbers(7);
    for (is_ascending, most_leaves) in [(true, 1.05), (false, 1.7)] {
        let mut table = Table::default();
        let order = (0..60_000).map(|number| if is_ascending { number } else { numbers.below(1 << 40) });
        order.for_each(|number| _ = table.put(&key(number), vec![1; 70], number, |_| {}));
        for count in [0, 1, 15, 16, 17, 40] {
            let keys: Vec<Vec<u8>> = (0..count).map(|_| key(numbers.below(1 << 41))).collect();
            let others: [&[u8]; 5] = [b"", b"a", b"key:", b"z", &[u8::MAX; 70_000]];
            table.warm(keys.iter().map(Vec::as_slice).chain(others));
        }
        let weight: usize = table.entries.leaves().map(|leaf| leaf.weight()).sum();
        let (leaves, memory) = (table.entries.leaves().count(), table.entries.leaves().map(|leaf| leaf.memory()).sum::<usize>());
        let full = weight as f64 / LEAF_BYTES_MAX as f64;
        assert!((leaves as f64) < full * most_leaves, "{leaves} leaves, {full:.1} would do");
        assert!((memory as f64) < weight as f64 * 1.1, "{memory} bytes for {weight}");
    }
}

/// A start changes what it has just loaded: were the leaves full, the first change in each would split it.
#[test]
fn what_was_loaded_has_room_for_the_first_change_of_each_record() {
    let key = |number: u64| format!("key:{number:011}").into_bytes();
    for bytes in [0, 70, 200] {
        let mut builder = TableBuilder::default();
        (0..20_000).for_each(|number| builder.push(&key(number), &vec![1; bytes + 2], number));
        let mut table = builder.finish();
        let leaves = table.entries.leaves().count();
        let weight: usize = table.entries.leaves().map(|leaf| leaf.weight()).sum();
        let grown = 20_000 * size_of::<u64>();
        assert!((leaves as f64) < (weight + grown) as f64 / LEAF_BYTES_MAX as f64 * 1.1, "{leaves} leaves for {weight} bytes");
        for number in 0..20_000 {
            table.put(&key(number), vec![2; bytes + 2 + size_of::<u64>()], number, |_| {});
        }
        table.entries.check();
        assert_eq!(table.entries.leaves().count(), leaves, "{bytes}");
    }
}

/// Heads are as large as a number can be: adding them ended a debug build's worker.
#[test]
fn touching_large_heads_is_harmless() {
    let mut branch = Branch::new(0);
    for at in 0..8 {
        branch.insert_behind(at, &[vec![0x80 + at as u8], vec![0xff; 7]].concat(), at + 1);
    }
    assert_eq!(branch.touch(), [0x80, 0x82, 0x84, 0x86].iter().fold(0, |mixed, first| mixed ^ (first << 56 | u64::MAX >> 8)));
}

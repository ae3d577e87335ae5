//! Snapshots against a plain model: whoever reads pages of one gets what a copy of the table, made when it was opened, would give,
//! whatever has been written meanwhile. And against their bounds, which no writer may ever feel.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use kvbroker_core::{History, SnapshotBounds, Snapshots, Stamp, State, Turn, decide};
use kvbroker_protocol::{
    Answer, ErrorCode, Failure, Key, Operation, Pattern, Predicate, Row, Scalar, Scan, Scope, Stored, Txn, limits,
};

static ALL: Scope = Scope::all();

/// Who reads everything.
fn owner() -> kvbroker_core::Reader<'static> {
    kvbroker_core::Reader { user: "owner", is_owner: true, scope: &ALL }
}

/// splitmix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % bound as u64).unwrap()
    }

    fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }
}

/// The table by itself: key, value, revision of the last change.
type Copy = BTreeMap<Key, (Stored, u64)>;

/// A table with its snapshots, and the time.
struct World {
    state: State,
    snapshots: Snapshots,
    history: History,
    plain: Copy,
    time_ms: u64,
}

impl World {
    fn new(bounds: SnapshotBounds) -> World {
        World {
            state: State::new(),
            snapshots: Snapshots::with_bounds(bounds),
            history: History::default(),
            plain: Copy::new(),
            time_ms: 1_000,
        }
    }

    fn stamp(&self) -> Stamp {
        Stamp { revision: self.state.revision() + 1, time_ms: self.time_ms }
    }

    fn write(&mut self, operation: Operation) {
        let stamp = self.stamp();
        for change in decide(&self.state, &Scope::all(), operation, stamp, &mut Turn::one()).changes {
            match &change.value {
                Some(record) => {
                    let stored = kvbroker_core::split_table_record(record).unwrap().stored.to_vec();
                    self.plain.insert(change.key.clone(), (Stored::from_bytes(stored).unwrap(), stamp.revision));
                }
                None => drop(self.plain.remove(&change.key)),
            }
            self.history.apply(&mut self.state, &mut self.snapshots, change, stamp.revision);
        }
    }

    fn put(&mut self, key: &str, value: &str) {
        self.write(put(key.as_bytes().to_vec(), Stored::text(value).unwrap()));
    }

    fn read(&mut self, operation: &Operation) -> Result<Answer, Failure> {
        self.read_in(operation, &mut Turn::one())
    }

    fn read_in(&mut self, operation: &Operation, turn: &mut Turn) -> Result<Answer, Failure> {
        let stamp = self.stamp();
        let decision = self.snapshots.read(&self.state, owner(), operation, stamp, turn);
        assert_eq!((decision.changes.len(), decision.takes_revision), (0, false));
        assert_eq!(decision.outcome.revision, Some(self.state.revision()), "the reply tells when it was made");
        decision.outcome.result
    }

    /// A page of so many keys; its keys, its cursor, its snapshot.
    fn keys(&mut self, snapshot: u64, cursor: Option<&str>, limit: usize) -> Result<(Vec<String>, Option<Key>, u64), Failure> {
        let cursor = cursor.map(|cursor| cursor.as_bytes().to_vec());
        let scan = Scan { snapshot: Some(snapshot), cursor, limit: Some(limit), keys_only: true, ..Scan::default() };
        match self.read(&Operation::Scan(scan))? {
            Answer::Keys { keys, cursor, snapshot } => {
                let keys = keys.into_iter().map(|key| String::from_utf8(key).unwrap()).collect();
                Ok((keys, cursor, snapshot.unwrap()))
            }
            other => panic!("{other:?}"),
        }
    }

    /// Lets time pass, with as many calls as it takes until nothing more is dropped.
    fn pass(&mut self, ms: u64) {
        self.time_ms += ms;
        self.snapshots.tend(self.time_ms);
        while self.snapshots.is_clearing() {
            self.snapshots.tend(self.time_ms);
        }
    }

    fn check_empty(&mut self) {
        self.pass(SnapshotBounds::default().idle_ms + 1);
        assert!(self.snapshots.is_empty());
        assert_eq!((self.snapshots.open(), self.snapshots.bytes()), (0, 0));
    }
}

fn put(key: Key, value: Stored) -> Operation {
    Operation::Put { key, value, condition: None, ttl_ms: None }
}

fn del(key: Key) -> Operation {
    Operation::Del { key, return_old: false, condition: None }
}

fn gone(result: Result<impl std::fmt::Debug, Failure>) -> String {
    let failure = result.unwrap_err();
    assert_eq!(failure.code, ErrorCode::SnapshotGone, "{failure}");
    failure.message
}

/// Somebody who reads a snapshot page by page.
struct Reader {
    operation: Operation,
    /// What all pages together have to give.
    rest: Vec<Row>,
    revision: u64,
    pages: usize,
}

fn scan_of(operation: &mut Operation) -> &mut Scan {
    match operation {
        Operation::Scan(scan) | Operation::Query { scan, .. } => scan,
        other => panic!("{other:?}"),
    }
}

impl Reader {
    fn begin(world: &World, dice: &mut Dice) -> Reader {
        let prefixes: [&[u8]; 5] = [b"", b"", b"a", b"b/", b"nobody"];
        let key = |dice: &mut Dice| dice.one_in(4).then(|| key(dice));
        let scan = Scan {
            prefix: prefixes[dice.below(5)].to_vec(),
            from: key(dice),
            to: key(dice),
            reverse: dice.one_in(3),
            keys_only: dice.one_in(3),
            pattern: dice.one_in(4).then(|| Pattern::new("[02468]$").unwrap()),
            filter: dice.one_in(4).then(|| Predicate::new("w = 1").unwrap()),
            cursor: None,
            limit: Some(dice.below(12) + 1),
            snapshot: Some(0),
        };
        let is_query = dice.one_in(4);
        let is_filtered = is_query || scan.filter.is_some();
        let matcher = scan.pattern.as_ref().map(|pattern| pattern.matcher().unwrap());
        let selected = world.plain.iter().filter(|(key, (value, _))| {
            key.starts_with(&scan.prefix)
                && scan.from.as_ref().is_none_or(|from| *key >= from)
                && scan.to.as_ref().is_none_or(|to| *key < to)
                && matcher.as_ref().is_none_or(|matcher| matcher.is_match(key))
                && (!is_filtered || value.document() == br#"{"w":1}"#)
        });
        let row = |(key, (value, modified)): (&Key, &(Stored, u64))| Row {
            key: key.clone(),
            value: value.clone(),
            modified: *modified,
        };
        let mut rest: Vec<Row> = selected.map(row).collect();
        if scan.reverse {
            rest.reverse();
        }
        let operation = match is_query {
            true => Operation::Query { subkey: "w".into(), subvalue: Scalar::Int(1), scan },
            false => Operation::Scan(scan),
        };
        Reader { operation, rest, revision: world.state.revision(), pages: 0 }
    }

    /// Reads the next page; true at the end.
    fn go_on(&mut self, world: &mut World, dice: &mut Dice) -> Result<bool, Failure> {
        let mut answer = world.read(&self.operation)?;
        if self.pages > 0 && dice.one_in(5) {
            // The reply was lost, and the page is asked for again.
            let again = world.read(&self.operation)?;
            assert_eq!(answer, again);
            answer = again;
        }
        self.pages += 1;
        let scan = scan_of(&mut self.operation);
        let (rows, cursor, snapshot) = match answer {
            Answer::Rows { rows, cursor, snapshot } if !scan.keys_only => (rows, cursor, snapshot),
            Answer::Keys { keys, cursor, snapshot } if scan.keys_only => {
                let expected = &self.rest[..keys.len()];
                assert!(keys.iter().eq(expected.iter().map(|row| &row.key)), "{scan:?}: {keys:?} for {expected:?}");
                (expected.to_vec(), cursor, snapshot)
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(snapshot, Some(self.revision));
        assert_eq!(rows[..], self.rest[..rows.len()], "{scan:?}");
        self.rest.drain(..rows.len());
        scan.snapshot = snapshot;
        let is_last = cursor.is_none();
        scan.cursor = cursor;
        assert!(!is_last || self.rest.is_empty(), "{scan:?}: the last page leaves out {:?}", self.rest);
        Ok(is_last)
    }
}

fn key(dice: &mut Dice) -> Key {
    match dice.below(30) {
        0 => Vec::new(),
        1 => vec![0xff; dice.below(3) + 1],
        _ => format!("{}{}", ["a", "a/", "b/", "é"][dice.below(4)], dice.below(50)).into_bytes(),
    }
}

fn write(world: &mut World, dice: &mut Dice) {
    let value =
        |dice: &mut Dice| Stored::from_json([r#"{"w":1}"#, r#"{"w":2}"#, "1", "\"text\""][dice.below(4)].as_bytes()).unwrap();
    let operation = match dice.below(10) {
        0..=4 => put(key(dice), value(dice)),
        5..=7 => del(key(dice)),
        8 => {
            let then = (0..dice.below(5) + 1).map(|_| put(key(dice), value(dice))).collect();
            Operation::Txn(Box::new(Txn { compares: vec![], then, otherwise: vec![] }))
        }
        // Gone and there again.
        _ => {
            let key = key(dice);
            world.write(del(key.clone()));
            put(key, value(dice))
        }
    };
    world.write(operation);
}

/// Readers and writers at random; gives the number of snapshots that were read to their end, and that were gone.
fn walk(seed: u64, steps: usize, bounds: SnapshotBounds) -> (usize, usize) {
    let mut dice = Dice(seed);
    let mut world = World::new(bounds);
    let mut readers: Vec<Reader> = Vec::new();
    let (mut read, mut lost) = (0, 0);
    (0..150).for_each(|_| write(&mut world, &mut dice));
    for _ in 0..steps {
        match dice.below(10) {
            0..=6 => write(&mut world, &mut dice),
            7 if readers.len() < 8 => {
                let mut reader = Reader::begin(&world, &mut dice);
                match reader.go_on(&mut world, &mut dice) {
                    Ok(false) => readers.push(reader),
                    Ok(true) => read += 1,
                    Err(failure) => assert_eq!(failure.code, ErrorCode::Busy),
                }
            }
            _ if readers.is_empty() => {}
            _ => {
                let at = dice.below(readers.len());
                match readers[at].go_on(&mut world, &mut dice) {
                    Ok(false) => {}
                    Ok(true) => {
                        read += 1;
                        readers.swap_remove(at);
                    }
                    Err(failure) => {
                        assert_eq!(failure.code, ErrorCode::SnapshotGone, "{failure}");
                        lost += 1;
                        readers.swap_remove(at);
                    }
                }
            }
        }
        world.time_ms += dice.below(40) as u64;
        if dice.one_in(3) {
            world.snapshots.tend(world.time_ms);
        }
        assert!(world.snapshots.bytes() <= bounds.bytes_max && world.snapshots.open() <= bounds.open_max);
    }
    assert_eq!(world.state.keys(), world.plain.len());
    world.check_empty();
    (read, lost)
}

#[test]
fn pages_of_a_snapshot_are_a_copy_of_the_table_whatever_is_written_meanwhile() {
    for seed in 1..=6 {
        let (read, lost) = walk(seed, 50_000, SnapshotBounds::default());
        assert!(read > 1_000, "seed {seed}: only {read} were read");
        assert_eq!(lost, 0, "seed {seed}");
    }
}

#[test]
fn what_is_not_gone_is_right_where_bounds_are_narrow() {
    let narrow = SnapshotBounds { open_max: 3, per_user_max: 1, bytes_max: 4_000, idle_ms: 300, linger_ms: 100 };
    for seed in 11..=14 {
        let (read, lost) = walk(seed, 50_000, narrow);
        assert!(read > 500 && lost > 500, "seed {seed}: {read} were read, {lost} were gone");
    }
}

#[test]
fn a_page_that_is_all_keeps_nothing_and_writes_pay_nothing() {
    let mut world = World::new(SnapshotBounds::default());
    assert_eq!(world.keys(0, None, 10).unwrap(), (vec![], None, 0));
    world.put("a", "1");
    world.put("b", "1");
    assert_eq!(world.keys(0, None, 2).unwrap(), (vec!["a".into(), "b".into()], None, 2));
    assert!(world.snapshots.is_empty());
    world.put("a", "2");
    assert_eq!(world.snapshots.bytes(), 0);
    assert!(gone(world.keys(2, Some("a"), 1)).contains("no snapshot at revision 2"));
}

#[test]
fn readers_share_a_revision_and_it_stays_until_all_have_ended() {
    let mut world = World::new(SnapshotBounds::default());
    ["a", "b", "c"].into_iter().for_each(|key| world.put(key, "old"));
    for _ in 0..2 {
        assert_eq!(world.keys(0, None, 1).unwrap(), (vec!["a".into()], Some(b"a".to_vec()), 3));
    }
    assert_eq!(world.snapshots.open(), 1);
    world.write(del(b"b".to_vec()));
    world.put("bb", "new");
    let rest = || (vec!["b".into(), "c".into()], None, 3);
    assert_eq!(world.keys(3, Some("a"), 9).unwrap(), rest());
    let SnapshotBounds { idle_ms, linger_ms, .. } = SnapshotBounds::default();
    // One has read to the end; the other one may still take its time.
    world.pass(idle_ms);
    assert_eq!(world.keys(3, Some("a"), 9).unwrap(), rest());
    world.pass(linger_ms);
    assert_eq!(world.keys(3, Some("a"), 9).unwrap(), rest(), "a last page can be asked for again for a while");
    world.pass(linger_ms + 1);
    assert!(gone(world.keys(3, Some("a"), 9)).contains("read to its end"));
    assert!(world.snapshots.is_empty());
}

#[test]
fn a_snapshot_that_nobody_reads_is_given_up() {
    let mut world = World::new(SnapshotBounds::default());
    ["a", "b", "c"].into_iter().for_each(|key| world.put(key, "old"));
    world.keys(0, None, 1).unwrap();
    world.put("c", "new");
    let idle_ms = SnapshotBounds::default().idle_ms;
    world.pass(idle_ms);
    assert_eq!(world.keys(3, Some("a"), 1).unwrap().0, ["b"], "not a millisecond early");
    world.pass(idle_ms);
    assert_eq!(world.keys(3, Some("b"), 1).unwrap().0, ["c"]);
    world.keys(0, None, 1).unwrap();
    world.pass(idle_ms + 1);
    assert!(gone(world.keys(4, Some("a"), 1)).contains("nobody read it for 30 s"));
    world.check_empty();
}

#[test]
fn over_the_bound_of_bytes_the_oldest_goes_and_never_the_writer() {
    let bounds = SnapshotBounds { bytes_max: 10_000, ..SnapshotBounds::default() };
    let mut world = World::new(bounds);
    let large = "v".repeat(900);
    (0..30).for_each(|at| world.put(&format!("k{at:02}"), &large));
    let (_, _, oldest) = world.keys(0, None, 1).unwrap();
    (0..3).for_each(|at| world.put(&format!("k{at:02}"), "new"));
    let (_, _, newest) = world.keys(0, None, 1).unwrap();
    let before = world.state.revision();
    (10..18).for_each(|at| world.put(&format!("k{at:02}"), "new"));
    assert_eq!(world.state.revision(), before + 8);
    assert!(world.snapshots.bytes() <= bounds.bytes_max);
    let why = gone(world.keys(oldest, Some("k00"), 1));
    assert!(why.contains("10000 bytes"), "{why}");
    assert_eq!(world.keys(newest, Some("k00"), 1).unwrap().0, ["k01"]);
    // One change alone that is over the bound gives up all of them, and is made.
    let mut world = World::new(SnapshotBounds { bytes_max: 500, ..bounds });
    world.put("a", &large);
    world.put("b", &large);
    let (_, _, only) = world.keys(0, None, 1).unwrap();
    world.put("b", "new");
    gone(world.keys(only, Some("a"), 1));
    world.check_empty();
}

#[test]
fn no_more_are_open_than_may_be_and_one_that_has_ended_makes_room() {
    let bounds = SnapshotBounds { open_max: 2, ..SnapshotBounds::default() };
    let mut world = World::new(bounds);
    let mut open = Vec::new();
    for at in 0..2 {
        world.put("a", &at.to_string());
        world.put("b", &at.to_string());
        open.push(world.keys(0, None, 1).unwrap().2);
    }
    world.put("c", "new");
    let refused = world.keys(0, None, 1).unwrap_err();
    assert_eq!((refused.code, refused.retry_after_ms), (ErrorCode::Busy, Some(limits::RETRY_AFTER_MS)));
    assert_eq!(world.keys(0, None, 9).unwrap().0.len(), 3, "what fits on one page needs no place");
    assert_eq!(world.keys(open[1], Some("a"), 9).unwrap().1, None);
    assert_eq!(world.keys(0, None, 1).unwrap().2, world.state.revision());
    assert!(gone(world.keys(open[1], Some("a"), 9)).contains("read to its end"));
    assert_eq!(world.keys(open[0], Some("a"), 9).unwrap().0, ["b"]);
    world.check_empty();
}

#[test]
fn what_is_dropped_is_dropped_in_slices() {
    let mut world = World::new(SnapshotBounds::default());
    let many = 20_000;
    (0..many).for_each(|at| world.put(&format!("k{at:05}"), "old"));
    let (_, _, oldest) = world.keys(0, None, 1).unwrap();
    world.put("a", "new");
    let (_, _, newest) = world.keys(0, None, 1).unwrap();
    (0..many).for_each(|at| world.put(&format!("k{at:05}"), "new"));
    let held = world.snapshots.bytes();
    // The newest holds all; once it is closed, its entries are passed on to the oldest, and are seen there at every moment.
    assert_eq!(world.keys(newest, Some("k19998"), 9).unwrap().1, None);
    for turn in 0.. {
        world.time_ms += if turn == 0 { SnapshotBounds::default().linger_ms + 1 } else { 1 };
        world.snapshots.tend(world.time_ms);
        for from in ["k00000", "k04095", "k04096", "k12000", "k19998"] {
            let scan = Scan { snapshot: Some(oldest), from: Some(from.into()), limit: Some(1), ..Scan::default() };
            let Ok(Answer::Rows { rows, .. }) = world.read(&Operation::Scan(scan)) else { panic!("{from}") };
            assert_eq!((rows[0].key.as_slice(), rows[0].value.as_text().as_deref()), (from.as_bytes(), Some("old")));
        }
        assert_eq!(world.snapshots.bytes(), held);
        if !world.snapshots.is_clearing() {
            assert!(turn >= 3, "{many} entries were passed on in {turn} turns");
            break;
        }
    }
    assert_eq!(world.keys(oldest, Some("k19998"), 9).unwrap().1, None);
    world.time_ms += SnapshotBounds::default().linger_ms + 1;
    world.snapshots.tend(world.time_ms);
    assert!(world.snapshots.is_clearing() && world.snapshots.bytes() > held / 2);
    world.check_empty();
}

#[test]
fn keys_that_came_later_count_as_examined_and_lead_on() {
    let mut world = World::new(SnapshotBounds::default());
    world.put("a", "old");
    world.put("z", "old");
    let (_, _, revision) = world.keys(0, None, 1).unwrap();
    (0..limits::EXAMINED_KEYS_MAX + 5).for_each(|at| world.put(&format!("k{at:05}"), "new"));
    let (keys, cursor, _) = world.keys(revision, Some("a"), 10).unwrap();
    assert_eq!((keys.len(), cursor.as_deref()), (0, Some(&b"k09999"[..])));
    assert_eq!(world.keys(revision, Some("k09999"), 10).unwrap(), (vec!["z".into()], None, revision));
    // In an array the turn is shared; a page that finds nothing left opens nothing.
    let mut turn = Turn::many();
    turn.examined_left = 0;
    let scan = Operation::Scan(Scan { snapshot: Some(0), limit: Some(1), ..Scan::default() });
    let open = world.snapshots.open();
    assert_eq!(world.read_in(&scan, &mut turn).unwrap_err().code, ErrorCode::ReplyFull);
    assert_eq!(world.snapshots.open(), open);
    world.check_empty();
}

#[test]
fn a_user_has_its_own_snapshots_and_no_more_than_its_part() {
    let bounds = SnapshotBounds { open_max: 8, per_user_max: 2, ..SnapshotBounds::default() };
    let mut world = World::new(bounds);
    for at in 0..5 {
        world.put(&format!("k{at}"), "v");
    }
    let page = |world: &mut World, user: &str, snapshot: u64, cursor: Option<&str>| {
        let cursor = cursor.map(|cursor| cursor.as_bytes().to_vec());
        let scan = Operation::Scan(Scan { snapshot: Some(snapshot), cursor, limit: Some(3), ..Scan::default() });
        let reader = kvbroker_core::Reader { user, is_owner: user == "owner", scope: &ALL };
        let stamp = world.stamp();
        match world.snapshots.read(&world.state, reader, &scan, stamp, &mut Turn::one()).outcome.result {
            Ok(Answer::Rows { snapshot, .. }) => Ok(snapshot.unwrap()),
            Ok(other) => panic!("{other:?}"),
            Err(failure) => Err(failure.code),
        }
    };
    let mut opened = Vec::new();
    for _ in 0..2 {
        opened.push(page(&mut world, "ann", 0, None).unwrap());
        world.put("k0", "w");
    }
    assert_eq!(page(&mut world, "ann", 0, None), Err(ErrorCode::Busy), "a third one");
    // Nobody else reads them, keeps them alive, or has them closed.
    for user in ["bob", "owner"] {
        assert_eq!(page(&mut world, user, opened[0], Some("k2")), Err(ErrorCode::SnapshotGone));
    }
    // At the same revision everybody has one of their own.
    let shared = page(&mut world, "bob", 0, None).unwrap();
    assert_eq!(page(&mut world, "owner", 0, None), Ok(shared));
    assert_eq!(world.snapshots.open(), 3);
    // One that was read to its end makes room for the next of its user.
    assert_eq!(page(&mut world, "ann", opened[0], Some("k2")), Ok(opened[0]));
    world.put("k0", "x");
    assert!(page(&mut world, "ann", 0, None).is_ok());
    assert_eq!(page(&mut world, "ann", opened[0], Some("k2")), Err(ErrorCode::SnapshotGone));
    assert_eq!(page(&mut world, "ann", 0, None).map(drop), Ok(()), "once more at a revision at which it has one");
    // Others, however many, leave the owner its part.
    let others = (0..9).filter(|at| {
        world.put("k0", "y");
        page(&mut world, &format!("user {at}"), 0, None).is_ok()
    });
    assert_eq!(others.count(), 3);
    assert_eq!(world.snapshots.open(), 6);
    for _ in 0..2 {
        world.put("k0", "z");
        assert!(page(&mut world, "owner", 0, None).is_ok());
    }
    world.put("k0", "z");
    assert_eq!(page(&mut world, "owner", 0, None), Err(ErrorCode::Busy), "there is a bound for all");
    world.check_empty();
}

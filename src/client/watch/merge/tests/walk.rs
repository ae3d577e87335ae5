//! Random walks: a merge against a model of a broker whose stream loses, repeats and reorders messages, whose answers get lost, whose
//! old changes are forgotten, and which comes back with another history.

use std::collections::BTreeMap;

use kvbroker_protocol::ErrorCode;

use super::*;

struct Dice(u64);

impl Dice {
    /// A number below `sides`.
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }

    fn one_in(&mut self, sides: u64) -> bool {
        self.roll(sides) == 0
    }
}

type Table = BTreeMap<Key, (Stored, u64)>;

fn apply(table: &mut Table, revision: &RevisionEvents) {
    for KeyEvent { key, kind, .. } in &revision.changes {
        match kind {
            ChangeKind::Put(value) => drop(table.insert(key.clone(), (value.clone(), revision.revision))),
            _ => drop(table.remove(key)),
        }
    }
}

/// The broker, its publisher, and the way to the watch.
struct World {
    dice: Dice,
    now: Instant,
    epoch: u64,
    /// What each revision changed of the keys that are watched; the first is revision 1.
    log: Vec<RevisionEvents>,
    /// Changes up to here are forgotten.
    forgotten: u64,
    /// The publisher's chain ends here, and it knows of the table up to there.
    chained: u64,
    published: u64,
    is_up: bool,
    way: VecDeque<StreamMessage>,
    asked: Option<Ask>,
    snapshot: Option<(u64, Table)>,
    lost: u64,
}

impl World {
    fn revision(&self) -> u64 {
        self.log.len() as u64
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        self.log.iter().for_each(|revision| apply(&mut table, revision));
        table
    }

    fn between(&self, after: u64, through: u64) -> Vec<RevisionEvents> {
        let all = self.log.iter().filter(|revision| (after + 1..=through).contains(&revision.revision));
        all.filter(|revision| !revision.changes.is_empty()).cloned().collect()
    }

    fn write(&mut self) {
        let revision = self.revision() + 1;
        let mut changes = Vec::new();
        for key in ["p/a", "p/b", "p/c"] {
            if self.dice.one_in(4) {
                let value = Stored::integer(self.dice.roll(1 << 40).into());
                let kind = if self.dice.one_in(3) { ChangeKind::Remove } else { ChangeKind::Put(value) };
                changes.push(KeyEvent { key: key.into(), kind, before: None });
            }
        }
        self.log.push(RevisionEvents { revision, time_ms: 1, changes, origin: None });
    }

    fn publish(&mut self) {
        let through = (self.published + 1 + self.dice.roll(4)).min(self.revision());
        let events = self.between(self.published, through);
        if self.dice.one_in(12) {
            // Dropped on the way to the publisher: the chain shows it.
            self.chained = through;
            self.lost += events.len() as u64;
        } else if let Some(last) = events.last().map(|last| last.revision) {
            // It ends with the last change or with all that is known.
            let end = if self.dice.one_in(2) { last } else { through };
            self.send(end, events);
        }
        self.published = through;
    }

    fn send(&mut self, revision: u64, events: Vec<RevisionEvents>) {
        let message = StreamMessage { epoch: self.epoch, prev: self.chained, revision, events };
        self.chained = revision;
        if self.is_up {
            self.way.push_back(message);
        }
    }

    fn subscribed(&mut self) {
        if self.dice.one_in(2) {
            // Nobody else watches it.
            self.chained = self.published;
        }
        self.send(self.published, Vec::new());
    }

    fn deliver(&mut self, merge: &mut Merge) {
        if self.dice.one_in(6) && self.way.len() > 1 {
            self.way.swap(0, 1);
        }
        let Some(message) = self.way.pop_front() else { return };
        match self.dice.roll(10) {
            0 => self.lost += message.events.len() as u64,
            1 => {
                self.way.push_back(message.clone());
                merge.heard(self.now, read(&message, 50));
            }
            2 if message.is_bookmark() => merge.garbled(),
            _ => {
                let bytes = if self.dice.one_in(9) { AHEAD_BYTES_MAX / 2 } else { 50 };
                // Both ways of reading are the same.
                let message = if self.dice.one_in(2) { read(&message, bytes) } else { Heard::of(message, bytes) };
                merge.heard(self.now, message);
            }
        }
    }

    fn answer(&mut self, merge: &mut Merge, honest: bool) {
        let Some(asked) = self.asked.take() else { return };
        let revision = self.revision();
        if !honest && self.dice.one_in(8) {
            let code = [ErrorCode::Busy, ErrorCode::ShuttingDown][self.dice.roll(2) as usize];
            let failed = Answered::Failed(Failure::new(code, "x"), Some(revision));
            return merge.answered(self.now, if self.dice.one_in(2) { failed } else { Answered::Unanswered("x".into()) });
        }
        let answered = match asked {
            Ask::Now => Answered::Events { events: vec![], through: revision, more: false, epoch: self.epoch },
            Ask::Events { after, epoch, .. } if epoch.is_some_and(|epoch| epoch != self.epoch) || after < self.forgotten => {
                Answered::Failed(Failure::compacted("x", self.forgotten), Some(revision))
            }
            Ask::Events { after, .. } if after > revision => Answered::Failed(Failure::invalid("x"), Some(revision)),
            Ask::Events { after, .. } => {
                let through = if self.dice.one_in(2) { revision } else { (after + self.dice.roll(5)).min(revision) };
                Answered::Events { events: self.between(after, through), through, more: through < revision, epoch: self.epoch }
            }
            Ask::Rows { cursor, snapshot } => {
                if snapshot == 0 {
                    self.snapshot = Some((revision, self.table()));
                }
                match &self.snapshot {
                    Some((shown, table)) if snapshot == 0 || snapshot == *shown => {
                        let row = |(key, (value, modified)): (&Key, &(Stored, u64))| Row {
                            key: key.clone(),
                            value: value.clone(),
                            modified: *modified,
                        };
                        let rest = table.iter().filter(|(key, _)| cursor.as_ref().is_none_or(|cursor| *key > cursor));
                        let rows: Vec<_> = rest.map(row).take(1).collect();
                        let cursor = rows.last().map(|row| row.key.clone());
                        Answered::Rows { rows, cursor, snapshot: *shown }
                    }
                    _ => Answered::Failed(Failure::new(ErrorCode::SnapshotGone, "x"), Some(revision)),
                }
            }
        };
        merge.answered(self.now, answered);
    }

    /// The broker ends and comes back, perhaps with less than it had, and then as another history.
    fn restart(&mut self, merge: &mut Merge) {
        if self.dice.one_in(2) {
            let kept = self.revision() - self.dice.roll(self.revision().min(6) + 1);
            self.log.truncate(kept as usize);
            self.forgotten = self.forgotten.min(kept);
            self.epoch += 1;
        }
        self.snapshot = None;
        (self.chained, self.published) = (self.revision(), self.revision());
        self.cut(merge);
    }

    fn cut(&mut self, merge: &mut Merge) {
        self.is_up = false;
        self.lost += self.way.iter().map(|message| message.events.len() as u64).sum::<u64>();
        // What was received before the end is still handed out, at times.
        if self.dice.one_in(2) {
            self.way.clear();
        }
        merge.unlinked(self.now, "cut");
    }
}

/// Who watches, and checks what is told against what happened.
#[derive(Default)]
struct Witness {
    copy: Table,
    position: Option<Position>,
    is_in_snapshot: Option<u64>,
    caught_up: bool,
    changes: u64,
    snapshots: u64,
}

impl Witness {
    fn take(&mut self, merge: &mut Merge, logs: &BTreeMap<u64, Vec<RevisionEvents>>) {
        while let Some(Told { event, position }) = merge.take() {
            if let Some(before) = self.position
                && let Some(now) = position
                && self.is_in_snapshot.is_none()
            {
                assert!(before.epoch.is_none() || before.epoch == now.epoch, "another history without a snapshot");
                assert!(before.revision <= now.revision, "the position goes back");
                // Nothing between them is left out: what was told just now is all there is.
                let log = &logs[&now.epoch.unwrap()];
                let told: Vec<_> = match &event {
                    Some(WatchEvent::Changes(changes)) => vec![changes.to_events()],
                    _ => vec![],
                };
                let between = log.iter().filter(|revision| (before.revision + 1..=now.revision).contains(&revision.revision));
                let expected: Vec<_> = between.filter(|revision| !revision.changes.is_empty()).cloned().collect();
                assert_eq!(told, expected, "from {before:?} to {now:?}");
            }
            match event {
                None => {}
                Some(WatchEvent::SnapshotBegin { revision, .. }) => {
                    self.copy.clear();
                    self.is_in_snapshot = Some(revision);
                    self.caught_up = false;
                    self.snapshots += 1;
                }
                Some(WatchEvent::SnapshotRow(row)) => {
                    assert!(self.is_in_snapshot.is_some());
                    assert!(self.copy.insert(row.key, (row.value, row.modified)).is_none(), "a row came twice");
                }
                Some(WatchEvent::SnapshotEnd { revision }) => {
                    assert_eq!(self.is_in_snapshot.take(), Some(revision));
                    let log = &logs[&position.unwrap().epoch.unwrap()];
                    let mut table = Table::new();
                    log.iter().take_while(|past| past.revision <= revision).for_each(|past| apply(&mut table, past));
                    assert_eq!(self.copy, table, "the snapshot at {revision}");
                }
                Some(WatchEvent::Changes(changes)) => {
                    assert_eq!(self.is_in_snapshot, None);
                    self.changes += 1;
                    apply(&mut self.copy, &changes.to_events());
                }
                Some(WatchEvent::CaughtUp { revision }) => {
                    assert!(position.is_some_and(|position| position.revision >= revision));
                    self.caught_up = true;
                }
                Some(WatchEvent::Disconnected { .. }) => self.caught_up = false,
            }
            self.position = position;
        }
    }
}

/// One walk; how many events were lost on the way, told, and snapshots made.
fn walk(seed: u64, from: WatchFrom) -> (u64, u64, u64) {
    let now = Instant::now();
    let options = WatchOptions::prefix("p/").from(from).resync(true);
    let mut merge = Merge::new(now, &options, seed.is_multiple_of(3));
    if seed.is_multiple_of(7) {
        merge.never_linked();
    }
    let mut world = World {
        dice: Dice(seed),
        now,
        epoch: 1,
        log: Vec::new(),
        forgotten: 0,
        chained: 0,
        published: 0,
        is_up: false,
        way: VecDeque::new(),
        asked: None,
        snapshot: None,
        lost: 0,
    };
    let mut witness = Witness::default();
    // The whole of each history, the longest that there was.
    let mut logs: BTreeMap<u64, Vec<RevisionEvents>> = BTreeMap::new();
    for step in 0..700 {
        let is_end = step >= 500;
        if !is_end {
            match world.dice.roll(100) {
                0 => world.restart(&mut merge),
                1..=2 => world.cut(&mut merge),
                3 => world.forgotten = world.forgotten.max(world.revision().saturating_sub(world.dice.roll(20))),
                4..=29 => world.write(),
                30..=44 => world.publish(),
                45..=49 => world.send(world.published, Vec::new()),
                50..=69 => world.deliver(&mut merge),
                70..=79 => world.answer(&mut merge, false),
                _ => world.now += Duration::from_millis(world.dice.roll(1_500)),
            }
        } else {
            // From here on nothing goes wrong any more.
            world.now += Duration::from_millis(500);
            world.publish_all();
            while let Some(message) = world.way.pop_front() {
                merge.heard(world.now, read(&message, 50));
            }
            world.answer(&mut merge, true);
        }
        logs.insert(world.epoch, world.log.clone());
        if !world.is_up && (is_end || world.dice.one_in(5)) {
            world.way.clear();
            world.is_up = true;
            merge.linked(world.now);
            world.subscribed();
        }
        if world.is_up && merge.resubscribes(world.now) {
            world.subscribed();
        }
        if world.asked.is_none() {
            world.asked = merge.ask(world.now, !world.dice.one_in(3));
        }
        assert!(merge.ahead_bytes() <= AHEAD_BYTES_MAX);
        witness.take(&mut merge, &logs);
        assert_eq!(merge.end(), None);
    }
    assert_eq!(witness.position.map(|position| position.revision), Some(world.revision()), "seed {seed}");
    assert!(witness.caught_up, "seed {seed}");
    if from == WatchFrom::Snapshot {
        assert_eq!(witness.copy, world.table(), "seed {seed}");
    }
    (world.lost, witness.changes, witness.snapshots)
}

impl World {
    fn publish_all(&mut self) {
        let events = self.between(self.published, self.revision());
        self.published = self.revision();
        self.send(self.published, events);
    }
}

#[test]
fn whatever_is_lost_every_change_is_told_once_and_in_order() {
    let (mut lost, mut changes, mut snapshots) = (0, 0, 0);
    for seed in 0..600 {
        let from = match seed % 4 {
            0 => WatchFrom::Now,
            1 => WatchFrom::After { revision: 0, epoch: Some(1) },
            _ => WatchFrom::Snapshot,
        };
        let (lost_here, changes_here, snapshots_here) = walk(seed, from);
        lost += lost_here;
        changes += changes_here;
        snapshots += snapshots_here;
    }
    // Otherwise the walks show nothing.
    assert!(lost > 1_000 && changes > 10_000 && snapshots > 600, "{lost} lost, {changes} told, {snapshots} snapshots");
}

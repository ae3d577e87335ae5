//! Where keys stood in the tree when they were last looked for in advance: read, decided and changed, a key is searched for once.
//!
//! - A note is a guess. Whoever uses it compares the key that stands there.
//! - A fixed number of notes, each in the place that follows from its key: a later key may take the place of an earlier one.

/// Where an entry stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) branch: usize,
    pub(super) leaf: usize,
    /// In the leaf; behind the last one is as good as before the first of the next leaf.
    pub(super) slot: usize,
}

/// Several times as many as are looked for at once.
const NOTES: usize = 512;

/// As small as can be: all of them together fit into the nearest cache.
#[derive(Clone, Copy, Debug, Default)]
struct Note {
    branch: u32,
    leaf: u16,
    slot: u16,
}

/// The notes of one tree.
#[derive(Clone, Debug, Default)]
pub(super) struct Hints {
    /// None of them until the first is made.
    notes: Vec<Note>,
}

/// Of eight bytes of a key.
fn number(key: &[u8], at: usize) -> u64 {
    key.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |chunk| u64::from_le_bytes(*chunk))
}

/// Where a key's note stands. Keys may differ anywhere: its beginning, its middle and its end count.
fn index(key: &[u8]) -> usize {
    let length = key.len();
    let mixed = match length.checked_sub(size_of::<u64>()) {
        Some(last) => number(key, 0) ^ number(key, last / 2).rotate_left(21) ^ number(key, last).rotate_left(42),
        None => key.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
    };
    // The upper bits of the product depend on all of the lower ones.
    let mixed = (mixed ^ length as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> (u64::BITS - NOTES.trailing_zeros())) as usize
}

impl Hints {
    /// Where the key may stand.
    pub(super) fn of(&self, key: &[u8]) -> Option<Place> {
        let Note { branch, leaf, slot } = *self.notes.get(index(key))?;
        Some(Place { branch: branch as usize, leaf: leaf.into(), slot: slot.into() })
    }

    /// The key was looked for, and stands here or nowhere.
    pub(super) fn note(&mut self, key: &[u8], place: Place) {
        if self.notes.is_empty() {
            self.notes = vec![Note::default(); NOTES];
        }
        if let (Ok(branch), Ok(leaf), Ok(slot)) =
            (u32::try_from(place.branch), u16::try_from(place.leaf), u16::try_from(place.slot))
        {
            self.notes[index(key)] = Note { branch, leaf, slot };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn keys_that_differ_anywhere_have_notes_of_their_own_mostly() {
        let name = |number: usize| format!("{number:08}");
        let shapes: [&dyn Fn(usize) -> String; 4] = [
            &|number| format!("user/{}", name(number)),
            &|number| format!("user/{}/the name of it", name(number)),
            &|number| format!("{}/a name that is longer than the number", name(number)),
            &|number| format!("{:x}", number % 0x1000),
        ];
        for shape in shapes {
            let places: BTreeSet<usize> = (0..64).map(|at| index(shape(at * 7_919).as_bytes())).collect();
            assert!(places.len() > 48, "{} places for 64 keys such as {}", places.len(), shape(7_919));
        }
    }

    #[test]
    fn what_is_noted_is_told_and_nothing_else() {
        let mut hints = Hints::default();
        assert_eq!(hints.of(b"key"), None);
        let place = Place { branch: 3, leaf: 2, slot: 1 };
        hints.note(b"key", place);
        assert_eq!(hints.of(b"key"), Some(place));
        hints.note(b"key", Place { slot: usize::MAX, ..place });
        assert_eq!(hints.of(b"key"), Some(place), "too large for a note");
    }
}

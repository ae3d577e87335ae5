//! One question for many watches: where hundreds have missed something, the changes below all their prefixes are asked for once and
//! dealt out, instead of letting the broker go through the same changes for each.

use std::collections::{BTreeSet, HashMap};

use kvbroker_protocol::RevisionEvents;

/// Whoever is so many revisions behind most of the others asks alone: they would wait until it has come to where they are.
const FAR_BEHIND: u64 = 1 << 14;

/// Behind which revision a question is asked for those who have everything up to these.
pub(super) fn beginning(positions: &mut [u64]) -> Option<u64> {
    positions.sort_unstable();
    let most = *positions.get(positions.len() / 2)?;
    positions.iter().copied().find(|position| position.saturating_add(FAR_BEHIND) >= most)
}

/// What all of them begin with.
pub(super) fn common_prefix<'a>(prefixes: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let common = |one: &'a [u8], other: &'a [u8]| {
        let length = one.iter().zip(other).take_while(|(one, other)| one == other).count();
        one.split_at(length).0
    };
    prefixes.reduce(common).unwrap_or_default().to_vec()
}

/// The changes of each prefix, as if they had been asked for with it alone. A prefix without any has no place.
pub(super) fn deal_out<'a>(
    events: &[RevisionEvents],
    prefixes: impl Iterator<Item = &'a [u8]>,
) -> HashMap<&'a [u8], Vec<RevisionEvents>> {
    let mut dealt: HashMap<&[u8], Vec<RevisionEvents>> = prefixes.map(|prefix| (prefix, Vec::new())).collect();
    let lengths: BTreeSet<usize> = dealt.keys().map(|prefix| prefix.len()).collect();
    for revision in events {
        for change in &revision.changes {
            let prefixes = lengths.iter().map_while(|length| change.key.get(..*length));
            for prefix in prefixes {
                let Some(own) = dealt.get_mut(prefix) else { continue };
                match own.last_mut() {
                    Some(last) if last.revision == revision.revision => last.changes.push(change.clone()),
                    _ => own.push(RevisionEvents { changes: vec![change.clone()], ..*revision }),
                }
            }
        }
    }
    dealt.retain(|_, own| !own.is_empty());
    dealt
}

#[cfg(test)]
mod tests {
    use kvbroker_protocol::{ChangeKind, KeyEvent};

    use super::*;

    fn revision(revision: u64, keys: &[&str]) -> RevisionEvents {
        let change = |key: &&str| KeyEvent { key: (*key).into(), kind: ChangeKind::Remove, before: None };
        RevisionEvents { revision, time_ms: 9, changes: keys.iter().map(change).collect(), origin: None }
    }

    #[test]
    fn who_is_far_behind_does_not_hold_up_the_others() {
        const TABLE: u64 = 10 * FAR_BEHIND;
        assert_eq!(beginning(&mut []), None);
        assert_eq!(beginning(&mut [7]), Some(7));
        assert_eq!(beginning(&mut [TABLE, 0, TABLE - 3, FAR_BEHIND, TABLE - FAR_BEHIND]), Some(TABLE - FAR_BEHIND));
        assert_eq!(beginning(&mut [0, TABLE, FAR_BEHIND - 1, 5]), Some(0), "most are there");
    }

    #[test]
    fn each_prefix_gets_its_own_changes_and_no_revision_twice() {
        let prefixes: [&[u8]; 4] = [b"a/", b"a/b/", b"a/c", b"a/none"];
        assert_eq!(common_prefix(prefixes.into_iter()), b"a/");
        assert_eq!(common_prefix([&b""[..], b"x"].into_iter()), b"");
        assert_eq!(common_prefix([&b"x"[..]].into_iter()), b"x");
        assert_eq!(common_prefix(std::iter::empty()), b"");
        let events = [revision(3, &["a/", "a/b/1", "a/b/2", "b"]), revision(5, &["a"]), revision(7, &["a/c", "a/cc"])];
        let dealt = deal_out(&events, prefixes.into_iter());
        assert_eq!(dealt.len(), 3);
        assert_eq!(dealt[&b"a/"[..]], [revision(3, &["a/", "a/b/1", "a/b/2"]), revision(7, &["a/c", "a/cc"])]);
        assert_eq!(dealt[&b"a/b/"[..]], [revision(3, &["a/b/1", "a/b/2"])]);
        assert_eq!(dealt[&b"a/c"[..]], [revision(7, &["a/c", "a/cc"])]);
    }
}

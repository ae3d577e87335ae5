//! The order of deliveries, held against the promise: a pull takes the first of what is ready, by priority and then by age.
//!
//! - Everything has a revision: a push in the item's id, a delivery in its token, a return in its answer. So who stood in the queue when
//!   something was handed out is known, whichever consumer got what, without any clock.
//! - An item counts as waiting from its push to its first delivery, and from a return to the delivery behind it. Where the delivery that ended a
//!   wait is not known (its consumer was killed before it could write it down), or when it began (a lease ended), that wait is left out.

use std::collections::{BTreeSet, HashMap};

use kvbroker_protocol::ItemId;

use super::{Grant, Return, priority};

/// What a comparison found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Order {
    /// Deliveries that were compared.
    pub grants: u64,
    /// Waits from a push to the first delivery.
    pub first_waits: u64,
    /// Waits from a return to the next delivery.
    pub returned_waits: u64,
    /// Deliveries against the promise.
    pub broken: u64,
    /// The first of these.
    pub examples: Vec<String>,
}

/// Whoever is less is before: higher priorities, then older items.
type Rank = (i16, ItemId);

fn rank(grant: &Grant) -> Rank {
    (-i16::from(priority(grant.number)), grant.receipt.item)
}

/// Compares all known deliveries of one queue.
pub fn check_order(grants: &[Grant], returns: &[Return]) -> Order {
    let mut order = Order::default();
    let by_delivery: HashMap<(ItemId, u32), &Grant> =
        grants.iter().map(|grant| ((grant.receipt.item, grant.deliveries), grant)).collect();
    let by_receipt: HashMap<_, &Grant> = grants.iter().map(|grant| (grant.receipt, grant)).collect();
    // (since which revision, who)
    let mut waits: Vec<(u64, Rank)> = Vec::new();
    for grant in grants.iter().filter(|grant| grant.deliveries == 1) {
        waits.push((grant.receipt.item.revision(), rank(grant)));
        order.first_waits += 1;
        order.note(grant.receipt.item.revision() < grant.receipt.token, || format!("{grant:?} was before its push"));
    }
    for back in returns {
        let Some(before) = by_receipt.get(&back.receipt) else { continue };
        let Some(next) = by_delivery.get(&(back.receipt.item, before.deliveries + 1)) else { continue };
        waits.push((back.revision, rank(next)));
        order.returned_waits += 1;
        order.note(back.revision < next.receipt.token, || format!("{next:?} was before the return at {}", back.revision));
    }
    waits.sort_unstable();
    let mut by_token: Vec<&Grant> = grants.iter().collect();
    by_token.sort_unstable_by_key(|grant| (grant.receipt.token, rank(grant)));
    let mut waiting: BTreeSet<Rank> = BTreeSet::new();
    let mut coming = waits.into_iter().peekable();
    for pull in by_token.chunk_by(|one, other| one.receipt.token == other.receipt.token) {
        let Some(last) = pull.last() else { continue };
        while let Some((_, who)) = coming.next_if(|(since, _)| *since < last.receipt.token) {
            waiting.insert(who);
        }
        for grant in pull {
            waiting.remove(&rank(grant));
            order.grants += 1;
        }
        let first = waiting.first();
        order
            .note(first.is_none_or(|first| rank(last) < *first), || format!("{last:?} came before {first:?}, which stood there"));
    }
    order
}

impl Order {
    fn note(&mut self, holds: bool, what: impl Fn() -> String) {
        if !holds {
            self.broken += 1;
            if self.examples.len() < 5 {
                self.examples.push(what());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::soak::Form;

    fn grant(number: u64, receipt: &str, deliveries: u32) -> Grant {
        Grant { form: Form::Exact, number, receipt: receipt.parse().unwrap(), deliveries }
    }

    /// Numbers by priority: 10 high, 12 and 13 middle, 11 low.
    fn fine() -> (Vec<Grant>, Vec<Return>) {
        let grants = vec![
            grant(12, "1:5", 1),
            grant(10, "2:6", 1),
            grant(13, "3:6", 1),
            // 12 comes back and is before 17, which is younger; its lease had not been over.
            grant(12, "1:9", 2),
            grant(17, "4:10", 1),
            grant(11, "2.1:11", 1),
        ];
        // Low 11 was pushed with 10, and waits for all others. High 10 was pushed after the first pull.
        let returns = vec![Return { form: Form::Exact, receipt: "1:5".parse().unwrap(), revision: 7 }];
        (grants, returns)
    }

    fn broken(change: impl Fn(&mut Vec<Grant>, &mut Vec<Return>)) -> u64 {
        let (mut grants, mut returns) = fine();
        change(&mut grants, &mut returns);
        check_order(&grants, &returns).broken
    }

    #[test]
    fn what_is_in_order_passes() {
        let (mut grants, returns) = fine();
        grants[0].receipt.token = 1;
        // A first delivery at the revision of the push can't be.
        assert!(check_order(&grants, &returns).broken > 0);
        let (mut grants, returns) = fine();
        // 10 was ready when 12 was handed out: the pushes were at 1 and 2, the pull at 5.
        let order = check_order(&grants, &returns);
        assert_eq!((order.grants, order.first_waits, order.returned_waits, order.broken), (6, 5, 1, 1));
        grants[0].receipt = "1:2".parse().unwrap();
        let returns = vec![Return { receipt: grants[0].receipt, ..returns[0] }];
        let order = check_order(&grants, &returns);
        assert_eq!((order.broken, order.examples), (0, vec![]));
    }

    #[test]
    fn whoever_is_passed_over_is_noticed() {
        let right = |grants: &mut Vec<Grant>, returns: &mut Vec<Return>| {
            grants[0].receipt = "1:2".parse().unwrap();
            returns[0].receipt = grants[0].receipt;
        };
        assert_eq!(broken(right), 0);
        // A younger one of the same priority.
        let younger = |grants: &mut Vec<Grant>, returns: &mut Vec<Return>| {
            right(grants, returns);
            grants[4].receipt.token = 5;
        };
        assert!(broken(younger) > 0);
        // What came back lost its place.
        let place = |grants: &mut Vec<Grant>, returns: &mut Vec<Return>| {
            right(grants, returns);
            grants[3].receipt.token = 12;
        };
        assert!(broken(place) > 0);
        // The low one before others.
        let low = |grants: &mut Vec<Grant>, returns: &mut Vec<Return>| {
            right(grants, returns);
            grants[5].receipt.token = 5;
        };
        assert!(broken(low) > 0);
    }
}

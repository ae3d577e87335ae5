//! The policies of the two doors.

use std::sync::Arc;

use kvbroker::keys::PublicKey;
use kvbroker::zap::Policy;
use kvbroker_protocol::{Access, UserKey};
use kvbroker_table::{AccessBook, OWNER};

/// Admits the owner, and each key that may do anything.
pub(crate) fn router_policy(book: Arc<AccessBook>, owner: PublicKey) -> Policy {
    policy(book, owner, |_| true)
}

/// Admits the owner, and each key that may read the whole table.
pub(crate) fn publisher_policy(book: Arc<AccessBook>, owner: PublicKey) -> Policy {
    policy(book, owner, |access| access.scope.is_all())
}

fn policy(book: Arc<AccessBook>, owner: PublicKey, admits: fn(&Access) -> bool) -> Policy {
    let mut policy = Policy::owner_only(owner);
    policy.keys = Arc::new(move |key| {
        if key == owner.as_bytes() {
            return Some(OWNER.to_owned());
        }
        let user = UserKey::from_bytes(*key).to_string();
        book.of(&user).filter(admits).map(|_| user)
    });
    policy
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::HashMap;

    use kvbroker_protocol::Role;

    use super::*;

    #[test]
    fn each_door_admits_whom_the_book_lets_in_at_that_moment() {
        let (owner, ada, bob) = (PublicKey::from_bytes([1; 32]), [2; 32], [3; 32]);
        let book = Arc::new(AccessBook::new());
        let (router, publisher) = (router_policy(book.clone(), owner), publisher_policy(book.clone(), owner));
        let name = |key: [u8; 32]| UserKey::from_bytes(key).to_string();
        for policy in [&router, &publisher] {
            assert_eq!((policy.keys)(owner.as_bytes()).as_deref(), Some(OWNER));
            assert_eq!((policy.keys)(&ada), None);
        }
        let restricted = Access::new(Role::Write, vec![b"own/".to_vec()]).unwrap();
        let reader = Access::new(Role::Read, vec![]).unwrap();
        book.replace(HashMap::from([(name(ada).into(), restricted), (name(bob).into(), reader)]));
        assert_eq!((router.keys)(&ada), Some(name(ada)));
        assert_eq!((router.keys)(&bob), Some(name(bob)));
        assert_eq!((publisher.keys)(&ada), None);
        assert_eq!((publisher.keys)(&bob), Some(name(bob)));
        book.replace(HashMap::new());
        assert_eq!(((router.keys)(&ada), (publisher.keys)(&bob)), (None, None));
    }

    /// The names in the book are keys' texts; nobody gets in by a name.
    #[test]
    fn no_key_is_the_owner_or_anyone_by_its_name() {
        let book = Arc::new(AccessBook::with_anyone());
        let router = router_policy(book, PublicKey::from_bytes([1; 32]));
        assert_eq!((router.keys)(&[9; 32]), None);
    }
}

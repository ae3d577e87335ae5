//! What waits to be sent, and whose turn it is. Pure.
//!
//! - Users take turns, and in a user's turn its clients. Turns are measured in cost, so who has many or large replies waits for itself: to
//!   the others it is as one.
//! - What is for one client leaves in the order in which it came.
//! - Whoever has nothing waiting is forgotten, with what it had spent too much.
//! - Something can be put behind everything that is there: it leaves when all of that has left. (When an admin is told that somebody may do
//!   less, what that one was answered before is on its way.)

use std::collections::VecDeque;

use kvbroker_table::{ClientId, NumberMap, UserNumber};

/// What a user, or a client of a user, may cost in one go while others wait, bytes.
const SHARE: isize = 16 << 10;
/// What an item costs beside its bytes: to encode and send it is as much work as copying so many.
const ITEM_COST: usize = 1 << 10;

struct Item<T> {
    item: T,
    bytes: usize,
    /// The number of the wall before which it came.
    wall: u64,
}

/// What is for one client.
struct Line<T> {
    items: VecDeque<Item<T>>,
    /// What it may still cost before others have their turn; below zero it waits for them.
    share: isize,
}

/// What is for the clients of one user.
struct User<T> {
    lines: NumberMap<ClientId, Line<T>>,
    round: VecDeque<ClientId>,
    share: isize,
}

/// Something that has to leave behind others.
struct Wall<T> {
    item: T,
    bytes: usize,
    /// How many of those are still here.
    before: usize,
}

/// The queue.
pub(crate) struct Outgoing<T> {
    users: NumberMap<UserNumber, User<T>>,
    round: VecDeque<UserNumber>,
    walls: VecDeque<Wall<T>>,
    /// The number of the first wall, counted from the start.
    first_wall: u64,
    /// How many are behind the last wall.
    behind: usize,
    bytes: usize,
}

impl<T> Outgoing<T> {
    pub(crate) fn new() -> Outgoing<T> {
        let (users, round, walls) = (NumberMap::default(), VecDeque::new(), VecDeque::new());
        Outgoing { users, round, walls, first_wall: 0, behind: 0, bytes: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.round.is_empty() && self.walls.is_empty()
    }

    /// Bytes of all that waits.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Puts something in for a client of a user.
    pub(crate) fn push(&mut self, user: UserNumber, client: ClientId, bytes: usize, item: T) {
        let wall = self.first_wall + self.walls.len() as u64;
        self.bytes += bytes;
        self.behind += 1;
        let of_user = self.users.entry(user).or_insert_with(|| {
            self.round.push_back(user);
            User { lines: NumberMap::default(), round: VecDeque::new(), share: SHARE }
        });
        let line = of_user.lines.entry(client).or_insert_with(|| {
            of_user.round.push_back(client);
            Line { items: VecDeque::new(), share: SHARE }
        });
        line.items.push_back(Item { item, bytes, wall });
    }

    /// Puts something in behind everything that is there.
    pub(crate) fn push_behind_all(&mut self, bytes: usize, item: T) {
        self.bytes += bytes;
        self.walls.push_back(Wall { item, bytes, before: std::mem::take(&mut self.behind) });
    }

    /// Takes out what is next.
    pub(crate) fn pop(&mut self) -> Option<T> {
        if self.walls.front().is_some_and(|wall| wall.before == 0)
            && let Some(wall) = self.walls.pop_front()
        {
            self.first_wall += 1;
            self.bytes -= wall.bytes;
            return Some(wall.item);
        }
        let number = self.next_user()?;
        let user = self.users.get_mut(&number)?;
        let client = user.next_client()?;
        let line = user.lines.get_mut(&client)?;
        let Item { item, bytes, wall } = line.items.pop_front()?;
        let cost = isize::try_from(bytes + ITEM_COST).unwrap_or(isize::MAX);
        line.share = line.share.saturating_sub(cost);
        user.share = user.share.saturating_sub(cost);
        if line.items.is_empty() {
            user.lines.remove(&client);
            user.round.pop_front();
        }
        if user.round.is_empty() {
            self.users.remove(&number);
            self.round.pop_front();
        }
        self.bytes -= bytes;
        let before = usize::try_from(wall - self.first_wall).ok().and_then(|at| self.walls.get_mut(at));
        *before.map_or(&mut self.behind, |wall| &mut wall.before) -= 1;
        Some(item)
    }

    /// The user at the front of the round, when those in debt have let the others go first.
    fn next_user(&mut self) -> Option<UserNumber> {
        loop {
            let number = *self.round.front()?;
            let user = self.users.get_mut(&number)?;
            if user.share > 0 {
                return Some(number);
            }
            user.share += SHARE;
            self.round.rotate_left(1);
        }
    }
}

impl<T> User<T> {
    fn next_client(&mut self) -> Option<ClientId> {
        loop {
            let client = *self.round.front()?;
            let line = self.lines.get_mut(&client)?;
            if line.share > 0 {
                return Some(client);
            }
            line.share += SHARE;
            self.round.rotate_left(1);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn all<T>(outgoing: &mut Outgoing<T>) -> Vec<T> {
        std::iter::from_fn(|| outgoing.pop()).collect()
    }

    /// Nothing is left behind of what has been.
    fn is_as_new<T>(outgoing: &Outgoing<T>) -> bool {
        outgoing.is_empty() && outgoing.users.is_empty() && (outgoing.bytes(), outgoing.behind) == (0, 0)
    }

    #[test]
    fn whoever_has_thousands_waiting_does_not_keep_others_waiting() {
        let mut outgoing = Outgoing::new();
        for at in 0..10_000 {
            outgoing.push(1, at % 8, 1_500, (1, at));
        }
        outgoing.push(0, 100, 200, (0, 0));
        outgoing.push(2, 200, 200, (2, 0));
        let order = all(&mut outgoing);
        let place = |user| order.iter().position(|(whose, _)| *whose == user).unwrap();
        assert!(place(0) < 20 && place(2) < 20, "{} and {}", place(0), place(2));
        assert_eq!(order.len(), 10_002);
        assert!(is_as_new(&outgoing));
    }

    #[test]
    fn large_ones_count_as_what_they_are_and_all_come_out() {
        let mut outgoing = Outgoing::new();
        for at in 0..32 {
            outgoing.push(0, 1, 2 << 20, at);
        }
        for at in 100..200 {
            outgoing.push(0, 2, 100, at);
        }
        let order = all(&mut outgoing);
        // Another client of the same user waits for a share of the large ones, not for all of them.
        let last_small = order.iter().position(|item| *item == 199).unwrap();
        assert!(last_small <= 102, "{last_small}");
        assert_eq!(order.len(), 132);
        assert!(is_as_new(&outgoing));
        // Larger than any share, and alone.
        outgoing.push(0, 1, 1 << 30, 0);
        outgoing.push(0, 1, 1 << 30, 1);
        assert_eq!(all(&mut outgoing), [0, 1]);
    }

    #[test]
    fn each_clients_order_is_kept_and_users_get_equal_parts() {
        let mut outgoing = Outgoing::new();
        for at in 0..1_000 {
            for (user, client) in [(1, 10), (1, 11), (1, 12), (2, 20)] {
                outgoing.push(user, client, 1_000, (user, client, at));
            }
        }
        let order = all(&mut outgoing);
        for client in [10, 11, 12, 20] {
            let of_client: Vec<_> = order.iter().filter(|item| item.1 == client).map(|item| item.2).collect();
            assert_eq!(of_client, (0..1_000).collect::<Vec<_>>());
        }
        let of_two = order[..1_000].iter().filter(|item| item.0 == 2).count();
        assert!((450..=550).contains(&of_two), "{of_two} of the first thousand are of the user with one client");
    }

    #[test]
    fn what_is_put_behind_everything_leaves_when_all_of_that_has_left() {
        let mut outgoing = Outgoing::new();
        outgoing.push_behind_all(1, "at once");
        assert_eq!(outgoing.pop(), Some("at once"));
        for _ in 0..100 {
            outgoing.push(1, 1, 100, "before");
        }
        outgoing.push_behind_all(1, "first wall");
        outgoing.push_behind_all(1, "second wall");
        for _ in 0..100 {
            outgoing.push(2, 2, 100, "between");
        }
        outgoing.push_behind_all(1, "third wall");
        outgoing.push(3, 3, 100, "behind");
        let order = all(&mut outgoing);
        let place = |what| order.iter().position(|item| *item == what).unwrap();
        let last = |what| order.iter().rposition(|item| *item == what).unwrap();
        assert!(last("before") < place("first wall") && place("first wall") < place("second wall"));
        assert!(last("between") < place("third wall") && place("second wall") < place("third wall"));
        // Others go by.
        assert!(place("behind") < last("before"));
        assert!(is_as_new(&outgoing));
    }
}

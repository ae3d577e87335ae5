//! The users whose calls wait in the [`Agenda`](crate::Agenda), each with the first calls of its clients.
//!
//! - A user is here while one of its clients has a call; then it is forgotten, with its debt.
//! - A user has a place, which stays while it is here: so that a call is counted without looking its user up.

use std::collections::VecDeque;
use std::ops::{Index, IndexMut};

use crate::call::{Call, ClientId};
use crate::credit::{OWNER_NUMBER, UserNumber};
use crate::numbers::NumberMap;

/// Where a user is found.
pub(crate) type Place = usize;

/// One user's clients and their first calls.
#[derive(Debug, Default)]
pub(crate) struct User {
    pub(crate) number: UserNumber,
    /// How many of its clients have a call.
    pub(crate) clients: usize,
    /// The first calls of clients, in the order of their turns.
    pub(crate) cheap: VecDeque<Call>,
    pub(crate) dear: VecDeque<Call>,
    /// It takes part in the rounds of users: exactly if it has a first call of the kind.
    pub(crate) in_cheap: bool,
    pub(crate) in_dear: bool,
    /// What it may still spend before the others have their turn; below zero it waits for them.
    pub(crate) share: i64,
    /// The first calls of clients without credit, and how much waits with them.
    pub(crate) held: NumberMap<ClientId, Call>,
    pub(crate) held_calls: usize,
    pub(crate) held_bytes: usize,
}

impl User {
    pub(crate) fn is_owner(&self) -> bool {
        self.number == OWNER_NUMBER
    }
}

/// All users that have a call.
#[derive(Debug, Default)]
pub(crate) struct Users {
    places: Vec<User>,
    free: Vec<Place>,
    by_number: NumberMap<UserNumber, Place>,
}

impl Users {
    /// One more client of a user has a call.
    pub(crate) fn enter(&mut self, number: UserNumber, share: i64) -> Place {
        let place = *self.by_number.entry(number).or_insert_with(|| {
            let new = User { number, share, ..User::default() };
            match self.free.pop() {
                Some(place) => {
                    self.places[place] = new;
                    place
                }
                None => {
                    self.places.push(new);
                    self.places.len() - 1
                }
            }
        });
        self.places[place].clients += 1;
        place
    }

    /// One client less of a user has a call.
    pub(crate) fn leave(&mut self, place: Place) {
        let user = &mut self.places[place];
        user.clients -= 1;
        if user.clients == 0 {
            debug_assert!(!user.in_cheap && !user.in_dear && user.held.is_empty(), "whoever has no client has no call");
            self.by_number.remove(&user.number);
            *user = User::default();
            self.free.push(place);
        }
    }

    /// Where this user is, if it has a call.
    pub(crate) fn find(&self, number: UserNumber) -> Option<Place> {
        self.by_number.get(&number).copied()
    }

    /// True if nobody has a call.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.by_number.is_empty()
    }

    /// All users that have a call.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut User> {
        self.places.iter_mut().filter(|user| user.clients > 0)
    }

    /// All users that have a call.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &User> {
        self.places.iter().filter(|user| user.clients > 0)
    }
}

/// Places come from [`Users::enter`] and are used while the user is here.
impl Index<Place> for Users {
    type Output = User;

    fn index(&self, place: Place) -> &User {
        &self.places[place]
    }
}

impl IndexMut<Place> for Users {
    fn index_mut(&mut self, place: Place) -> &mut User {
        &mut self.places[place]
    }
}

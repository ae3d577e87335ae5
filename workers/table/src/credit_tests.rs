#![allow(clippy::unwrap_used)]
use std::collections::VecDeque;
use std::sync::Mutex;

use super::*;

const MIB: usize = 1 << 20;

/// Who was called back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Called {
    Client(ClientId),
    User(UserNumber),
    Everybody,
}
use Called::{Client as One, Everybody, User};

#[derive(Default)]
struct Calls(Mutex<Vec<Called>>);

impl Wake for Calls {
    fn client(&self, client: ClientId) {
        self.0.lock().unwrap().push(One(client));
    }

    fn user(&self, user: UserNumber) {
        self.0.lock().unwrap().push(User(user));
    }

    fn everybody(&self) {
        self.0.lock().unwrap().push(Everybody);
    }
}

fn credit() -> (Arc<Calls>, Arc<Credit>) {
    let calls = Arc::new(Calls::default());
    let wake: Weak<dyn Wake> = Arc::<Calls>::downgrade(&calls);
    (calls, Credit::new(wake))
}

fn owner(credit: &Arc<Credit>) -> UserAccount {
    credit.user(OWNER_NUMBER)
}

fn heard(calls: &Calls) -> Vec<Called> {
    std::mem::take(&mut calls.0.lock().unwrap())
}

#[test]
fn one_reply_is_always_made_and_the_next_when_there_is_room() {
    let (calls, credit) = credit();
    let account = owner(&credit).open(7);
    assert!(account.may_be_answered());
    let large = account.charge(50 * MIB);
    let small = account.charge(1);
    assert!(!account.may_be_answered());
    drop(small);
    assert_eq!(heard(&calls), [], "there is none yet");
    drop(large);
    assert_eq!(heard(&calls), [One(7)]);
    assert!(account.may_be_answered() && account.is_clear());
    drop(account.charge(50 * MIB));
    assert_eq!(heard(&calls), [], "nobody waited");
}

#[test]
fn a_charge_becomes_what_it_really_is() {
    let (calls, credit) = credit();
    let account = owner(&credit).open(7);
    let mut charge = account.charge(1);
    charge.set(9 * MIB);
    assert_eq!((account.owes(), credit.used()), (9 * MIB, 9 * MIB));
    assert!(!account.may_be_answered());
    charge.set(MIB);
    assert_eq!(heard(&calls), [One(7)]);
    drop(charge);
    assert_eq!((account.owes(), credit.used()), (0, 0));
}

#[test]
fn when_all_is_used_up_small_replies_go_on() {
    let (calls, credit) = credit();
    let user = owner(&credit);
    let greedy = user.open(1);
    let (mut held, waits, others) = (Vec::new(), user.open(2), user.open(3));
    held.push(greedy.charge(limits::REPLIES_BYTES_MAX - limits::SMALL_REPLY_BYTES));
    assert!(waits.may_be_answered() && !waits.is_tight());
    let _small = waits.charge(limits::SMALL_REPLY_BYTES);
    assert!(waits.is_tight() && others.is_tight());
    assert!(!waits.may_be_answered(), "that is as much as there is for it now");
    assert!(others.may_be_answered());
    assert!(others.charge_refusal(limits::SMALL_CREDIT_BYTES).is_some());
    assert!(others.charge_refusal(limits::SMALL_CREDIT_BYTES + 1).is_none(), "an envelope can be large");
    assert_eq!(heard(&calls), []);
    // What hovers at the bound changes nothing.
    held[0].set(limits::REPLIES_BYTES_MAX - limits::REPLIES_BYTES_MAX / 8);
    assert!(waits.is_tight());
    held.clear();
    assert_eq!(heard(&calls), [Everybody]);
    assert!(waits.may_be_answered());
}

#[test]
fn a_user_that_has_used_up_its_part_is_alone_with_that() {
    let (calls, credit) = credit();
    let [user, another] = [3, 4].map(|number| credit.user(number));
    let [first, second, foreign, own] = [user.open(1), user.open(2), another.open(3), owner(&credit).open(4)];
    let held = first.charge(limits::USER_REPLIES_BYTES_MAX);
    assert!(first.is_tight() && second.is_tight(), "all its clients");
    assert!(!foreign.is_tight() && !own.is_tight());
    let small = second.charge(limits::SMALL_CREDIT_BYTES);
    assert!(!second.may_be_answered());
    assert!(foreign.may_be_answered());
    drop(held);
    assert_eq!(heard(&calls), [User(3)]);
    assert!(second.may_be_answered() && !user.is_clear());
    drop(small);
    assert!(user.is_clear());
}

#[test]
fn all_others_together_leave_the_owner_its_part() {
    let (calls, credit) = credit();
    let users: Vec<UserAccount> = (1..40).map(|number| credit.user(number)).collect();
    let own = owner(&credit).open(99);
    let mut held: Vec<Charge> = Vec::new();
    for user in &users {
        let account = user.open(user.number());
        while account.may_be_answered() && !account.is_tight() {
            held.push(account.charge(1 << 20));
        }
    }
    assert!(users.iter().all(UserAccount::is_tight));
    assert_eq!(credit.used(), limits::REPLIES_BYTES_MAX - limits::USER_REPLIES_BYTES_MAX);
    assert!(!own.is_tight());
    held.clear();
    assert!(heard(&calls).contains(&Everybody));
    assert!(users.iter().all(|user| !user.is_tight() && user.is_clear()));
}

#[test]
fn refusals_have_an_allowance_of_their_own() {
    let (_calls, credit) = credit();
    let account = owner(&credit).open(1);
    let _reply = account.charge(20 * MIB);
    let one = account.charge_refusal(16 * MIB).expect("one is always sent");
    assert!(account.charge_refusal(1).is_none());
    drop(one);
    let mut many: Vec<Charge> = std::iter::from_fn(|| account.charge_refusal(limits::REFUSAL_BYTES_MAX / 4)).collect();
    assert_eq!(many.len(), 4);
    assert_eq!(account.owes(), 20 * MIB, "they do not count as replies");
    many.pop();
    assert!(account.charge_refusal(1).is_some());
}

/// What may happen to one of a few clients.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// It asks for something whose reply has so many bytes.
    Ask(usize),
    /// The oldest of its replies leaves.
    Read,
    /// Its connection ends.
    Vanish,
}

/// SplitMix64: the same walk for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn step(&mut self) -> Step {
        match self.below(8) {
            0..=3 => Step::Ask(1 << self.below(25)),
            4..=6 => Step::Read,
            _ => Step::Vanish,
        }
    }
}

/// Clients and what waits for them: as the worker holds calls, without its thread.
struct World {
    calls: Arc<Calls>,
    credit: Arc<Credit>,
    clients: Vec<Client>,
}

struct Client {
    account: Account,
    is_held: bool,
    asked: VecDeque<usize>,
    pipe: VecDeque<Charge>,
}

impl World {
    fn new(clients: u64) -> World {
        let (calls, credit) = credit();
        // The owner has half of them, two other users the rest.
        let users = [0, 0, 1, 2].map(|number| credit.user(number));
        let client = |number: ClientId| {
            let account = users[number as usize % users.len()].open(number);
            Client { account, is_held: false, asked: VecDeque::new(), pipe: VecDeque::new() }
        };
        let clients = (0..clients).map(client).collect();
        World { calls, credit, clients }
    }

    fn step(&mut self, at: usize, step: Step) {
        let client = &mut self.clients[at];
        match step {
            Step::Ask(bytes) => client.asked.push_back(bytes),
            Step::Read => drop(client.pipe.pop_front()),
            Step::Vanish => client.pipe.clear(),
        }
        self.work();
    }

    /// Answers whom it may, each in turn.
    fn work(&mut self) {
        for back in heard(&self.calls) {
            for client in &mut self.clients {
                let is_meant = match back {
                    One(id) => id == client.account.0.client,
                    User(number) => number == client.account.user(),
                    Everybody => true,
                };
                client.is_held &= !is_meant;
            }
        }
        for client in &mut self.clients {
            while !client.is_held && !client.asked.is_empty() {
                if !client.account.may_be_answered() {
                    client.is_held = true;
                    break;
                }
                let mut bytes = client.asked.pop_front().unwrap();
                if client.account.is_tight() {
                    bytes = bytes.min(limits::SMALL_REPLY_BYTES);
                }
                client.pipe.push_back(client.account.charge(bytes));
            }
        }
    }

    fn check(&self) {
        let largest = 1 << 24;
        let mut all = 0;
        for client in &self.clients {
            let pipe: usize = client.pipe.iter().map(Charge::bytes).sum();
            assert_eq!(client.account.owes(), pipe);
            assert!(pipe < limits::REPLY_CREDIT_BYTES + largest, "a client has {pipe} bytes");
            let waits = !client.asked.is_empty();
            assert!(!waits || !client.account.has_credit(), "a client with credit waits");
            assert!(!waits || !client.pipe.is_empty(), "a client waits for nothing");
            all += pipe;
        }
        assert_eq!(self.credit.used(), all);
        let small = self.clients.len() * (limits::SMALL_CREDIT_BYTES + limits::SMALL_REPLY_BYTES);
        assert!(all <= limits::REPLIES_BYTES_MAX + largest + small, "{all} bytes altogether");
        for user in 1..=2 {
            let clients = self.clients.iter().filter(|client| client.account.user() == user);
            let of_user: usize = clients.map(|client| client.account.owes()).sum();
            assert!(of_user <= limits::USER_REPLIES_BYTES_MAX + largest + small, "{of_user} bytes of user {user}");
        }
    }
}

#[test]
fn bounds_hold_nobody_waits_with_credit_and_whoever_reads_is_answered() {
    for seed in 0..32 {
        println!("walk {seed}");
        let mut dice = Dice(seed);
        // Enough that they use up everything, or too few for that.
        let clients = if seed % 2 == 0 { 150 } else { 6 };
        let mut world = World::new(clients);
        let mut was_tight = false;
        for at in 0..if seed % 2 == 0 { 100 } else { 0 } {
            // Just within its credit, so that one more is made.
            world.step(at, Step::Ask((1 << 23) - 1));
            world.step(at, Step::Ask(1 << 23));
            world.check();
        }
        for _ in 0..1_000 {
            let at = dice.below(clients) as usize;
            world.step(at, dice.step());
            world.check();
            was_tight |= world.credit.all.is_tight();
        }
        assert_eq!(was_tight, seed % 2 == 0, "both kinds of walks are walked");
        // Half of them read from now on, the others never do.
        let readers = clients as usize / 2;
        while let Some(at) = (0..readers).find(|at| !world.clients[*at].pipe.is_empty()) {
            world.step(at, Step::Read);
            world.check();
        }
        for client in &world.clients[..readers] {
            assert!(client.asked.is_empty() && client.account.is_clear(), "a client that reads was not answered");
        }
        world.clients.clear();
        assert_eq!(world.credit.used(), 0);
    }
}

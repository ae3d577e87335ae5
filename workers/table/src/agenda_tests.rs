#![allow(clippy::unwrap_used)]
use kvbroker_protocol::{Form, Header, Operation, Operations, Request, Scan, Stored};

use super::*;
use crate::call::Envelope;
use crate::credit::{Account, Charge};

/// The `number`-th call of a client.
fn call(client: ClientId, number: u64, operations: Operations) -> Call {
    let header = Header { id: Some(number), ..Header::default() };
    Call {
        client,
        account: Account::alone(client),
        user: "owner".into(),
        envelope: Envelope::default(),
        request: Request { header, form: Form::Compact, operations },
        bytes: 100,
    }
}

fn put() -> Operation {
    Operation::Put { key: b"k".to_vec(), value: Stored::integer(1), condition: None, ttl_ms: None }
}

fn cheap(client: ClientId, number: u64) -> Call {
    call(client, number, Operations::One(put()))
}

fn dear(client: ClientId, number: u64) -> Call {
    call(client, number, Operations::One(Operation::Scan(Scan::default())))
}

fn array(client: ClientId, number: u64, operations: usize) -> Call {
    call(client, number, Operations::Many(vec![put(); operations]))
}

/// The call as that of another user.
fn of_user(user: UserNumber, call: Call) -> Call {
    Call { account: Account::alone_of(user, call.client), ..call }
}

/// What every call here costs, by what it asks for.
fn cost(call: &Call) -> usize {
    work::guess(&call.request, call.bytes)
}

fn agenda(calls: impl IntoIterator<Item = Call>) -> Agenda {
    let mut agenda = Agenda::new(Arc::default());
    arrive(&mut agenda, calls);
    agenda
}

fn arrive(agenda: &mut Agenda, calls: impl IntoIterator<Item = Call>) {
    for call in calls {
        agenda.waiting.add(1, call.bytes);
        agenda.arrived.push_back(call);
    }
}

/// The next turn, as client and number of its calls.
fn turn(agenda: &mut Agenda) -> Vec<(ClientId, u64)> {
    agenda.begin();
    std::iter::from_fn(|| {
        let call = agenda.take()?;
        agenda.spend(cost(&call));
        Some((call.client, call.request.header.id.unwrap()))
    })
    .collect()
}

fn numbers(of: ClientId, turn: &[(ClientId, u64)]) -> Vec<u64> {
    turn.iter().filter(|(client, _)| *client == of).map(|(_, number)| *number).collect()
}

#[test]
fn one_clients_dear_calls_do_not_hold_up_anothers_cheap_ones() {
    // First come, first served: the call that came last was the 4,097th.
    let mut agenda = agenda((0..4_096).map(|number| dear(1, number)).chain([cheap(2, 0)]));
    assert_eq!(turn(&mut agenda), [(1, 0)]);
    assert_eq!(turn(&mut agenda), [(2, 0)]);
    assert_eq!(turn(&mut agenda), [(1, 1)]);
    arrive(&mut agenda, [cheap(2, 1), cheap(3, 0)]);
    assert_eq!(turn(&mut agenda), [(2, 1), (3, 0)]);
    assert_eq!(turn(&mut agenda), [(1, 2)]);
    assert_eq!(turn(&mut agenda), [(1, 3)], "nobody else has anything");
}

/// The next turn, as client and whether it had company.
fn company(agenda: &mut Agenda) -> Vec<(ClientId, bool)> {
    agenda.begin();
    std::iter::from_fn(|| {
        let call = agenda.take()?;
        agenda.spend(cost(&call));
        Some((call.client, agenda.has_company()))
    })
    .collect()
}

#[test]
fn who_reads_page_after_page_is_told_whether_anybody_comes_between() {
    let mut agenda = agenda([dear(1, 0)]);
    assert_eq!(company(&mut agenda), [(1, false)], "nobody was here yet");
    // Its own calls are no company.
    arrive(&mut agenda, [cheap(1, 1), dear(1, 2)]);
    assert_eq!(company(&mut agenda), [(1, false), (1, false)]);
    // One came and is gone again when the next page is asked for; a closed loop is like that.
    arrive(&mut agenda, [cheap(2, 0)]);
    assert_eq!(company(&mut agenda), [(2, true)]);
    arrive(&mut agenda, [dear(1, 3)]);
    assert_eq!(company(&mut agenda), [(1, true)]);
    arrive(&mut agenda, [dear(1, 4)]);
    assert_eq!(company(&mut agenda), [(1, false)], "nobody came since");
    // Several, the reader among them.
    arrive(&mut agenda, [cheap(2, 1)]);
    company(&mut agenda);
    arrive(&mut agenda, [cheap(1, 5)]);
    company(&mut agenda);
    arrive(&mut agenda, [dear(1, 6)]);
    assert_eq!(company(&mut agenda), [(1, true)]);
    // Others wait.
    arrive(&mut agenda, [dear(1, 7), dear(3, 0)]);
    assert_eq!(company(&mut agenda), [(1, true)]);
}

#[test]
fn a_flood_of_cheap_calls_does_not_hold_up_a_dear_one() {
    let mut agenda = agenda((0..20_000).map(|number| cheap(1, number)).chain([dear(2, 0)]));
    let first = turn(&mut agenda);
    let second = turn(&mut agenda);
    assert!(first == [(2, 0)] || second == [(2, 0)], "{} and {} calls", first.len(), second.len());
}

#[test]
fn the_dear_calls_of_several_clients_take_turns() {
    let mut agenda = agenda([1, 1, 1, 2, 2, 3].map(|client| dear(client, 0)));
    let order: Vec<ClientId> = (0..6).flat_map(|_| turn(&mut agenda)).map(|(client, _)| client).collect();
    assert_eq!(order, [1, 2, 3, 1, 2, 1]);
}

#[test]
fn arrays_and_single_calls_get_the_same_share() {
    // By calls it would be 1,000 to 1; first come, first served, the singles would wait for all arrays.
    let arrays = (0..200).map(|number| array(1, number, 1_000));
    let mut agenda = agenda(arrays.chain((0..60_000).map(|number| cheap(2, number))));
    let (mut of_arrays, mut of_singles) = (0, 0);
    for _ in 0..6 {
        let turn = turn(&mut agenda);
        of_arrays += numbers(1, &turn).len() * 1_000;
        of_singles += numbers(2, &turn).len();
    }
    assert!(of_arrays.abs_diff(of_singles) <= 3_000, "{of_arrays} operations in arrays, {of_singles} alone");
}

#[test]
fn a_client_with_few_calls_is_served_in_the_next_turn_however_many_others_have() {
    let flood = (0..20_u64).flat_map(|client| (0..2_000).map(move |number| cheap(client, number)));
    let mut agenda = agenda(flood.chain([cheap(99, 0)]));
    assert_eq!(numbers(99, &turn(&mut agenda)), [0]);
}

#[test]
fn dear_writes_share_a_sync_and_dear_reads_do_not_wait_for_each_other() {
    let mut writes = agenda((1..9).map(|client| array(client, 0, 4_096)));
    let first = turn(&mut writes).len();
    assert!(first > 1, "several arrays fit into a turn");
    assert!((first - 1) * cost(&array(1, 0, 4_096)) < limits::BATCH_WORK_MAX);
    let mut reads = agenda((1..9).map(|client| dear(client, 0)));
    assert_eq!(turn(&mut reads).len(), 1);
}

#[test]
fn what_was_guessed_dear_and_was_not_does_not_end_the_turn() {
    let mut agenda = agenda((0..1_000).map(|number| dear(1, number)).chain([dear(2, 0)]));
    agenda.begin();
    let mut given = 0;
    while agenda.take().is_some() {
        agenda.spend(100);
        given += 1;
    }
    assert_eq!(given, limits::DEAR_WORK_MIN.div_ceil(100));
}

#[test]
fn a_client_alone_pays_no_sync_for_mixing_reads_and_writes() {
    let mut agenda = agenda((0..100).map(|number| if number % 2 == 0 { cheap(1, number) } else { dear(1, number) }));
    agenda.begin();
    let mut given = 0;
    while let Some(call) = agenda.take() {
        assert_eq!(call.request.header.id, Some(given));
        agenda.spend(10);
        given += 1;
    }
    assert_eq!(given, 100);
}

#[test]
fn the_order_of_each_client_is_kept_and_nothing_is_lost_or_done_twice() {
    // A sequence of numbers that looks random and is the same every time.
    let mut state = 7_u64;
    let mut below = |end: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % end
    };
    let mut agenda = agenda([]);
    let (mut sent, mut seen) = ([0_u64; 8], [0_u64; 8]);
    for round in 0..3_000 {
        for _ in 0..if round < 2_000 { below(12) } else { 0 } {
            let client = below(8);
            let number = sent[client as usize];
            sent[client as usize] += 1;
            let call = match below(6) {
                0 => dear(client, number),
                1 => array(client, number, 4_096),
                2 => array(client, number, 700),
                _ => cheap(client, number),
            };
            arrive(&mut agenda, [of_user(client % 3, call)]);
        }
        if agenda.is_empty() {
            continue;
        }
        let turn = turn(&mut agenda);
        assert!(!turn.is_empty(), "a turn gets on");
        for (client, number) in turn {
            assert_eq!(number, seen[client as usize], "client {client}");
            seen[client as usize] += 1;
        }
    }
    while !agenda.is_empty() {
        turn(&mut agenda).into_iter().for_each(|(client, _)| seen[client as usize] += 1);
    }
    assert_eq!(sent, seen);
    assert!(agenda.lanes.is_empty() && agenda.cheap.is_empty() && agenda.dear.is_empty(), "idle clients take no memory");
    assert!(agenda.users.is_empty(), "nor do idle users");
    assert_eq!((agenda.waiting.calls(), agenda.waiting.bytes.load(Ordering::Relaxed)), (0, 0));
}

/// A client with an account that the test can charge.
fn owing(client: ClientId, bytes: usize) -> (Account, Charge) {
    let account = Account::alone(client);
    let charge = account.charge(bytes);
    (account, charge)
}

fn calls_of(account: &Account, client: ClientId, numbers: std::ops::RangeInclusive<u64>) -> Vec<Call> {
    numbers.map(|number| Call { account: account.clone(), ..cheap(client, number) }).collect()
}

fn give_back(agenda: &mut Agenda, client: ClientId, charge: Charge) {
    drop(charge);
    agenda.back.clients.push(client);
}

#[test]
fn a_client_without_credit_is_passed_over_until_it_has_some() {
    let (account, charge) = owing(1, limits::REPLY_CREDIT_BYTES);
    let mut agenda = agenda(calls_of(&account, 1, 1..=2).into_iter().chain([cheap(2, 1), dear(2, 2)]));
    assert_eq!(turn(&mut agenda), [(2, 1)]);
    assert_eq!((agenda.held_calls, agenda.waiting.held()), (2, 1));
    arrive(&mut agenda, calls_of(&account, 1, 3..=3));
    assert_eq!(turn(&mut agenda), [(2, 2)]);
    assert!(agenda.is_empty(), "nothing here can run");
    assert_eq!(agenda.waiting.calls(), 3, "it waits all the same");
    // A call back that comes too early changes nothing.
    agenda.back.clients.push(1);
    assert_eq!(turn(&mut agenda), []);
    give_back(&mut agenda, 1, charge);
    assert_eq!(turn(&mut agenda), [(1, 1), (1, 2), (1, 3)]);
    assert_eq!((agenda.held_calls, agenda.held_bytes, agenda.waiting.held(), agenda.waiting.calls()), (0, 0, 0, 0));
    assert!(agenda.lanes.is_empty());
}

#[test]
fn a_dear_call_is_held_as_well_and_everybody_can_be_called_back() {
    let (account, charge) = owing(1, limits::REPLY_CREDIT_BYTES);
    let mut agenda = agenda([Call { account, ..dear(1, 1) }]);
    assert_eq!(turn(&mut agenda), []);
    drop(charge);
    agenda.back.everybody = true;
    assert_eq!(turn(&mut agenda), [(1, 1)]);
}

#[test]
fn what_is_held_leaves_most_of_the_intake_to_others() {
    let mut charges = Vec::new();
    let mut agenda = agenda([]);
    for client in 0..40 {
        let (account, charge) = owing(client, limits::REPLY_CREDIT_BYTES);
        charges.push(charge);
        arrive(&mut agenda, calls_of(&account, client, 1..=1_000));
        // More comes when it is held already.
        turn(&mut agenda);
        arrive(&mut agenda, calls_of(&account, client, 1_001..=1_100));
        turn(&mut agenda);
    }
    assert!(agenda.held_calls <= limits::HELD_CALLS_MAX + 40, "{} calls are held", agenda.held_calls);
    let refused: Vec<Call> = agenda.refused().collect();
    assert_eq!(agenda.waiting.calls() + refused.len(), 40 * 1_100, "each call is held or refused");
    assert!(agenda.held_clients == 40 && refused.iter().all(|call| call.client > 5), "nobody lacks what the first did not need");
    // Large ones are refused altogether where there is no room.
    let large = |number: ClientId, bytes| {
        let (account, charge) = owing(100 + number, limits::REPLY_CREDIT_BYTES);
        (Call { account, bytes, ..cheap(100 + number, 1) }, charge)
    };
    for number in 0..20 {
        let (call, charge) = large(number, limits::MESSAGE_BYTES_MAX);
        arrive(&mut agenda, [call]);
        charges.push(charge);
        turn(&mut agenda);
    }
    assert!(agenda.held_bytes <= limits::HELD_BYTES_MAX);
    assert!(agenda.refused().all(|call| call.bytes == limits::MESSAGE_BYTES_MAX));
    // When the broker stops they are all given up.
    let held = agenda.held_calls;
    assert_eq!(agenda.give_up().count(), held);
    assert_eq!((agenda.waiting.calls(), agenda.waiting.held()), (0, 0));
    assert!(agenda.is_empty() && agenda.lanes.is_empty());
}

/// How many calls of clients below 1,000 and of the others come first, in so many turns.
fn counts(agenda: &mut Agenda, turns: usize) -> (usize, usize) {
    let (mut low, mut high) = (0, 0);
    for _ in 0..turns {
        let turn = turn(agenda);
        low += turn.iter().filter(|(client, _)| *client < 1_000).count();
        high += turn.iter().filter(|(client, _)| *client >= 1_000).count();
    }
    (low, high)
}

#[test]
fn a_user_with_many_clients_gets_no_more_than_one_with_a_few() {
    let few = || (0..2).flat_map(|client| (0..20_000).map(move |number| cheap(client, number)));
    // Many clients with many calls each; and with one call each, so that each is forgotten with its only one.
    for (clients, calls) in [(400, 100), (40_000, 1)] {
        let many = (0..clients).flat_map(|client| (0..calls).map(move |number| of_user(7, cheap(1_000 + client, number))));
        let mut agenda = agenda(many.chain(few()));
        let (of_few, of_many) = counts(&mut agenda, 3);
        assert!(of_few.abs_diff(of_many) <= 600, "{of_few} calls of two clients, {of_many} of {clients}");
        // Those that have nothing to compete with get all.
        while counts(&mut agenda, 1).0 > 0 {}
        assert!(counts(&mut agenda, 1).1 > 1_000 || agenda.is_empty());
    }
}

#[test]
fn the_dear_calls_of_users_take_turns_whatever_their_clients() {
    let many = (0..6).map(|client| of_user(7, dear(1_000 + client, 0)));
    let mut agenda = agenda(many.chain([dear(1, 0), dear(1, 1), of_user(8, dear(2_000, 0))]));
    let order: Vec<ClientId> = (0..9).flat_map(|_| turn(&mut agenda)).map(|(client, _)| client).collect();
    assert_eq!(order, [1_000, 1, 2_000, 1_001, 1, 1_002, 1_003, 1_004, 1_005]);
    assert!(agenda.users.is_empty());
}

#[test]
fn one_user_leaves_room_for_what_others_must_have_held() {
    let held = |user: UserNumber, client: ClientId, calls: u64| {
        let account = Account::alone_of(user, client);
        let charge = account.charge(limits::REPLY_CREDIT_BYTES);
        (calls_of(&account, client, 1..=calls), charge)
    };
    let mut charges = Vec::new();
    let mut agenda = agenda([]);
    let mut hold = |agenda: &mut Agenda, user, client, calls| {
        let (calls, charge) = held(user, client, calls);
        charges.push(charge);
        arrive(agenda, calls);
        turn(agenda);
        agenda.held_calls
    };
    for client in 0..40 {
        hold(&mut agenda, 7, client, 1_000);
    }
    // As much as is left, and one small call of each client.
    assert!(agenda.held_calls <= limits::HELD_CALLS_MAX / 2 + 40, "{} calls are held", agenda.held_calls);
    let before = agenda.held_calls;
    assert_eq!(hold(&mut agenda, 8, 100, 4_000), before + 4_000, "another user");
    let before = agenda.held_calls;
    assert_eq!(hold(&mut agenda, crate::credit::OWNER_NUMBER, 101, 1_000), before + 1_000, "the owner");
    // The calls of a user are called back together.
    drop(charges);
    agenda.back.users.push(8);
    let back = turn(&mut agenda);
    assert!(!back.is_empty() && back.iter().all(|(client, _)| *client == 100), "{back:?}");
    agenda.back.everybody = true;
    while !turn(&mut agenda).is_empty() {}
    assert_eq!((agenda.held_calls, agenda.held_bytes, agenda.held_clients), (0, 0, 0));
    assert!(agenda.users.is_empty());
}

#[test]
fn others_than_the_owner_do_not_make_a_turn_long() {
    let flood = || (0..20_000).map(|number| cheap(1, number));
    let each = cost(&cheap(1, 0));
    let of_owner = turn(&mut agenda(flood())).len();
    let of_other = turn(&mut agenda(flood().map(|call| of_user(7, call)))).len();
    assert_eq!(of_owner, limits::BATCH_CALLS_MAX);
    assert_eq!(of_other, limits::OTHERS_WORK_MAX.div_ceil(each));
    // Together they have as much: two users are no way to a longer turn.
    let mut two = agenda(flood().map(|call| of_user(7, call)).chain((0..20_000).map(|number| of_user(8, cheap(2, number)))));
    assert_eq!(turn(&mut two).len(), of_other);
}

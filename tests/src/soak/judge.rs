//! Whether what a soak left behind is what queues promise: nothing lost, effects in transactions once, items in order, and kills that hit.

use std::collections::HashMap;
use std::ops::Range;

use kvbroker_protocol::{ItemId, Receipt};

use super::{Form, Grant, Journal, Live, LiveFigures, Order, Return, check_order, judge_live};

/// Everything that is there after the last start.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// Items were pushed with the numbers below this.
    pub items: u64,
    /// Of all consumer processes.
    pub journals: Vec<Journal>,
    /// Results of [`Form::Exact`], by number: the delivery that did it.
    pub results: HashMap<u64, Receipt>,
    /// The sum that each of these transactions added its number to.
    pub sum: i128,
    /// Effects of [`Form::Loose`], by number: how often.
    pub seen: HashMap<u64, u64>,
    /// Items that are still in a queue.
    pub left: u64,
    /// Numbers that were pushed in this order.
    pub pushed_in_order: Vec<Range<u64>>,
    /// Consumers that were to be killed.
    pub consumer_kills: u64,
    /// Producers that were to be killed, and that were.
    pub producer_kills: (u64, u64),
    /// Times that the broker was to be killed.
    pub broker_kills: u64,
    /// How many deliveries were open after each start behind a kill.
    pub open_at_starts: Vec<u64>,
    /// Of the transient queue; None: there was none.
    pub live: Option<Live>,
}

/// What was counted.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Numbers without an effect.
    pub lost: u64,
    /// Results that are of no item, or of another delivery than the last one.
    pub strange: u64,
    /// Loose items whose effect was done more than once.
    pub loose_twice: u64,
    /// Deliveries that are known.
    pub grants: u64,
    /// Of these, such that were not the first of their item.
    pub again: u64,
    /// Deliveries that were given back.
    pub returned: u64,
    /// Acknowledgements that came when the delivery was over, and were refused.
    pub late: u64,
    /// Killed consumers, and those that had a delivery that somebody else got later.
    pub killed_consumers: (u64, u64),
    /// Starts with open deliveries.
    pub starts_with_open: u64,
    /// Both queues' order.
    pub order: Order,
    /// The transient queue.
    pub live: LiveFigures,
}

/// Looks at everything. Gives what was counted, and in sentences what is not as promised.
pub fn judge(evidence: &Evidence) -> (Figures, Vec<String>) {
    let mut figures = Figures::default();
    let mut wrong = Vec::new();
    let mut must = |holds: bool, what: String| {
        if !holds {
            wrong.push(what);
        }
    };
    let grants = || evidence.journals.iter().flat_map(|journal| &journal.grants);
    // Each number is one item.
    let mut items: HashMap<u64, ItemId> = HashMap::new();
    let mut latest: HashMap<(Form, ItemId), u64> = HashMap::new();
    let mut two_items = 0;
    for grant in grants() {
        figures.grants += 1;
        figures.again += u64::from(grant.deliveries > 1);
        two_items += u64::from(*items.entry(grant.number).or_insert(grant.receipt.item) != grant.receipt.item);
        let token = latest.entry((grant.form, grant.receipt.item)).or_default();
        *token = grant.receipt.token.max(*token);
    }
    must(two_items == 0, format!("{two_items} deliveries are of a number that was pushed twice"));
    figures.late = evidence.journals.iter().map(|journal| journal.late).sum();

    // Nothing lost, nothing twice.
    let mut sum = 0;
    for number in 0..evidence.items {
        match Form::of(number) {
            Form::Exact => {
                sum += i128::from(number);
                match evidence.results.get(&number) {
                    None => figures.lost += 1,
                    Some(receipt) => {
                        // The delivery may be of a consumer that was killed before it could write it down.
                        let is_last = latest.get(&(Form::Exact, receipt.item)).is_none_or(|token| *token <= receipt.token);
                        let is_it = items.get(&number).is_none_or(|item| *item == receipt.item);
                        figures.strange += u64::from(!is_last || !is_it);
                    }
                }
            }
            Form::Loose => match evidence.seen.get(&number) {
                None | Some(0) => figures.lost += 1,
                Some(1) => {}
                Some(_) => figures.loose_twice += 1,
            },
        }
    }
    let is_item = |form: Form| move |number: &&u64| **number < evidence.items && Form::of(**number) == form;
    figures.strange += (evidence.results.len() - evidence.results.keys().filter(is_item(Form::Exact)).count()) as u64;
    figures.strange += (evidence.seen.len() - evidence.seen.keys().filter(is_item(Form::Loose)).count()) as u64;
    must(figures.lost == 0, format!("{} items were lost", figures.lost));
    must(figures.strange == 0, format!("{} results are of no item, or not of its last delivery", figures.strange));
    must(evidence.sum == sum, format!("the sum is {} and not {sum}: not every transaction was done once", evidence.sum));
    must(evidence.left == 0, format!("{} items are still there", evidence.left));

    // Order.
    for form in Form::ALL {
        let of_form: Vec<Grant> = grants().filter(|grant| grant.form == form).copied().collect();
        let returns = evidence.journals.iter().flat_map(|journal| &journal.returns);
        let returns: Vec<Return> = returns.filter(|back| back.form == form).copied().collect();
        figures.returned += returns.len() as u64;
        let order = check_order(&of_form, &returns);
        let all = &mut figures.order;
        all.grants += order.grants;
        all.first_waits += order.first_waits;
        all.returned_waits += order.returned_waits;
        all.broken += order.broken;
        all.examples.extend(order.examples);
    }
    let order = &figures.order;
    must(order.broken == 0, format!("{} deliveries were out of order: {}", order.broken, order.examples.join("; ")));
    must(order.first_waits >= evidence.items / 2, format!("the order of only {} items is known", order.first_waits));
    let behind: u64 = evidence.pushed_in_order.iter().map(|range| out_of_order(range.clone(), &items)).sum();
    must(behind == 0, format!("{behind} items do not stand in the order in which their producer pushed them"));

    // The kills.
    for journal in evidence.journals.iter().filter(|journal| journal.was_killed) {
        let is_open =
            |grant: &Grant| latest.get(&(grant.form, grant.receipt.item)).is_some_and(|last| *last > grant.receipt.token);
        figures.killed_consumers.0 += 1;
        figures.killed_consumers.1 += u64::from(journal.last_pull().any(is_open));
    }
    let (killed, hit) = figures.killed_consumers;
    must(killed == evidence.consumer_kills, format!("{killed} consumers were killed, and not {}", evidence.consumer_kills));
    must(hit * 10 >= killed, format!("of {killed} killed consumers only {hit} had a delivery that somebody else got later"));
    must(figures.late > 0, "nobody came too late with an acknowledgement".to_owned());
    let (wanted, done) = evidence.producer_kills;
    must(done == wanted, format!("{done} producers were killed, and not {wanted}"));
    let starts = evidence.open_at_starts.len() as u64;
    figures.starts_with_open = evidence.open_at_starts.iter().filter(|open| **open > 0).count() as u64;
    let open = figures.starts_with_open;
    must(starts == evidence.broker_kills, format!("the broker was killed {starts} times, and not {}", evidence.broker_kills));
    must(open * 4 >= starts * 3, format!("only {open} of {starts} kills of the broker found an open delivery"));
    if let Some(live) = &evidence.live {
        figures.live = judge_live(live, &mut wrong);
    }
    (figures, wrong)
}

/// How many of these numbers stand before one that was pushed before them.
fn out_of_order(numbers: Range<u64>, items: &HashMap<u64, ItemId>) -> u64 {
    let mut highest = HashMap::new();
    let mut behind = 0;
    for number in numbers {
        // One whose first consumer was killed before it could write it down, may not be known.
        let Some(item) = items.get(&number) else { continue };
        let highest = highest.entry(Form::of(number)).or_insert(ItemId::MIN);
        behind += u64::from(item < highest);
        *highest = (*item).max(*highest);
    }
    behind
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Eight items; one consumer did all but the last, and was killed with that one; another one did it.
    fn fine() -> Evidence {
        let receipt = |number: u64, token: u64| Receipt { item: ItemId::new(1, number as u16).unwrap(), token };
        // By priority, then by age; each queue by itself.
        let in_order = |form| {
            let mut numbers: Vec<u64> = (0..8).filter(|number| Form::of(*number) == form).collect();
            numbers.sort_by_key(|number| -super::super::priority(*number));
            numbers
        };
        let all: Vec<u64> = in_order(Form::Loose).into_iter().chain(in_order(Form::Exact)).collect();
        let grant = |number: u64, token: u64, deliveries| Grant {
            form: Form::of(number),
            number,
            receipt: receipt(number, token),
            deliveries,
        };
        let first = all.iter().zip(10..).map(|(number, token)| grant(*number, token, 1)).collect::<Vec<_>>();
        let last = *first.last().unwrap();
        let again = Grant { receipt: Receipt { token: 50, ..last.receipt }, deliveries: 2, ..last };
        let results = first.iter().chain([&again]).filter(|grant| grant.form == Form::Exact);
        Evidence {
            items: 8,
            results: results.map(|grant| (grant.number, grant.receipt)).collect(),
            sum: 1 + 2 + 4 + 5 + 6,
            seen: [(3, 1), (7, 2)].into(),
            journals: vec![
                Journal { was_killed: true, grants: first, ..Journal::default() },
                Journal { grants: vec![again], late: 1, ..Journal::default() },
            ],
            left: 0,
            pushed_in_order: std::iter::once(0..8).collect(),
            consumer_kills: 1,
            producer_kills: (1, 1),
            broker_kills: 2,
            open_at_starts: vec![3, 1],
            live: None,
        }
    }

    #[test]
    fn what_is_as_promised_passes() {
        let (figures, wrong) = judge(&fine());
        assert_eq!(wrong, Vec::<String>::new());
        assert_eq!((figures.grants, figures.again, figures.loose_twice, figures.killed_consumers), (9, 1, 1, (1, 1)));
    }

    #[test]
    fn each_error_is_noticed() {
        type Change = fn(&mut Evidence);
        let errors: [(&str, Change); 15] = [
            ("were lost", |all| all.results.retain(|number, _| *number != 4)),
            ("were lost", |all| all.seen.clear()),
            ("the sum is", |all| all.sum += 4),
            ("of no item", |all| all.results.extend([(8, "9:9".parse().unwrap())])),
            ("of no item", |all| all.seen.extend([(4, 1)])),
            // Somebody else got it after it was done.
            ("not of its last", |all| all.results.get_mut(&1).unwrap().token = 11),
            ("pushed twice", |all| all.journals[1].grants[0].receipt.item = ItemId::new(7, 0).unwrap()),
            ("still there", |all| all.left = 1),
            ("out of order", |all| all.journals[0].grants[2].receipt.token = 40),
            ("in the order in which", |all| {
                all.journals[0].grants[0].receipt.item = ItemId::new(1, 100).unwrap();
            }),
            ("killed consumers only 0", |all| drop(all.journals.remove(1))),
            ("nobody came too late", |all| all.journals[1].late = 0),
            ("consumers were killed", |all| all.journals[0].was_killed = false),
            ("producers were killed", |all| all.producer_kills = (2, 1)),
            ("found an open delivery", |all| all.open_at_starts = vec![0, 0]),
        ];
        for (what, change) in errors {
            let mut evidence = fine();
            change(&mut evidence);
            let (_, wrong) = judge(&evidence);
            assert!(wrong.iter().any(|wrong| wrong.contains(what)), "{what}: {wrong:?}");
        }
        let evidence = Evidence { broker_kills: 10, ..fine() };
        assert!(judge(&evidence).1.iter().any(|wrong| wrong.contains("2 times, and not 10")));
        let mut evidence = fine();
        evidence.journals.iter_mut().for_each(|journal| journal.grants.clear());
        assert!(judge(&evidence).1.iter().any(|wrong| wrong.contains("order of only 0")));
    }
}

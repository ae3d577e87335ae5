//! Whether a transient queue beside the others did what it promises: its items may be lost by a restart of the broker and by nothing else,
//! none comes back behind one, and none has two consumers at a time.
//!
//! Ids and tokens are revisions, and each start tells the revision that it has found: so it is known on which side of it something was.

use std::collections::{BTreeMap, BTreeSet};

use kvbroker_protocol::{ItemId, Receipt};

/// A delivery from the transient queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveGrant {
    /// The item and the token.
    pub receipt: Receipt,
    /// When it was asked for, and when it was there: milliseconds since the soak began.
    pub asked_ms: u64,
    /// See there.
    pub had_ms: u64,
}

/// All that is known of the transient queue.
#[derive(Clone, Debug, Default)]
pub struct Live {
    /// Items whose push was answered.
    pub pushed: BTreeSet<ItemId>,
    /// What was handed out, in order.
    pub grants: Vec<LiveGrant>,
    /// Deliveries that were given back, and that was answered.
    pub returned: BTreeSet<Receipt>,
    /// Deliveries that were acknowledged, and that was answered.
    pub acked: Vec<Receipt>,
    /// The revision that each start behind a kill has found; ascending.
    pub starts: Vec<u64>,
    /// How long a lease runs, milliseconds.
    pub lease_ms: u64,
    /// Items that are in the queue after the last start.
    pub left: u64,
}

/// What was counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LiveFigures {
    /// Items that were pushed.
    pub pushed: u64,
    /// Of these, acknowledged.
    pub done: u64,
    /// Of these, lost by a restart of the broker.
    pub lost: u64,
    /// Deliveries that were not the first of their item.
    pub again: u64,
    /// Starts that have lost something.
    pub lossy_starts: u64,
}

/// Looks at all of it, and tells `wrong` in sentences what is not as promised.
pub fn judge_live(live: &Live, wrong: &mut Vec<String>) -> LiveFigures {
    let mut figures = LiveFigures { pushed: live.pushed.len() as u64, ..LiveFigures::default() };
    // The first start that has found a revision or a later one.
    let start_behind = |revision: u64| live.starts.iter().position(|start| *start >= revision);
    let mut lossy = BTreeSet::new();
    let mut without_reason = 0;
    let done: BTreeSet<ItemId> = live.acked.iter().map(|receipt| receipt.item).collect();
    for item in &live.pushed {
        match (done.contains(item), start_behind(item.revision())) {
            (true, _) => figures.done += 1,
            (false, Some(start)) => {
                figures.lost += 1;
                lossy.insert(start);
            }
            (false, None) => without_reason += 1,
        }
    }
    figures.lossy_starts = lossy.len() as u64;
    let twice = live.acked.len() - done.len();
    let mut last: BTreeMap<ItemId, LiveGrant> = BTreeMap::new();
    let (mut back, mut early, mut undone) = (0, 0, 0);
    for grant in &live.grants {
        let Receipt { item, token } = grant.receipt;
        // Handed out behind a start that had found the push already.
        back += u64::from(start_behind(item.revision()).is_some_and(|start| live.starts[start] < token));
        if let Some(before) = last.insert(item, *grant) {
            figures.again += 1;
            let is_over = live.returned.contains(&before.receipt) || grant.had_ms - before.asked_ms >= live.lease_ms;
            early += u64::from(!is_over);
            undone += u64::from(live.acked.contains(&before.receipt));
        }
    }
    let mut must = |holds: bool, what: String| {
        if !holds {
            wrong.push(format!("transient queue: {what}"));
        }
    };
    must(without_reason == 0, format!("{without_reason} items were lost without a restart of the broker"));
    must(twice == 0, format!("{twice} items were acknowledged twice"));
    must(back == 0, format!("{back} deliveries are of items that a restart had taken away"));
    must(early == 0, format!("{early} items had two consumers at a time"));
    must(undone == 0, format!("{undone} items came again after they were acknowledged"));
    must(live.left == 0, format!("{} items were there after the last start", live.left));
    let (starts, lossy) = (live.starts.len() as u64, figures.lossy_starts);
    must(lossy * 4 >= starts * 3, format!("only {lossy} of {starts} starts have lost anything"));
    must(figures.done * 2 >= figures.pushed, format!("only {} of {} items were done", figures.done, figures.pushed));
    must(figures.again > 0, "no item was delivered a second time".to_owned());
    figures
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Five items before a start at revision 20, of which one is lost; one behind it. One is given back, one comes again when its lease is over.
    fn fine() -> Live {
        let item = |revision| ItemId::new(revision, 0).unwrap();
        let receipt = |revision, token| Receipt { item: item(revision), token };
        let grant = |revision, token, asked_ms| LiveGrant { receipt: receipt(revision, token), asked_ms, had_ms: asked_ms + 1 };
        Live {
            pushed: [1, 2, 3, 4, 5, 21].map(item).into(),
            grants: vec![
                grant(1, 10, 0),
                grant(2, 11, 0),
                grant(3, 12, 0),
                grant(2, 13, 5),
                grant(3, 14, 100),
                grant(4, 15, 101),
                grant(21, 22, 200),
            ],
            returned: [receipt(2, 11)].into(),
            acked: vec![receipt(1, 10), receipt(2, 13), receipt(3, 14), receipt(4, 15), receipt(21, 22)],
            starts: vec![20],
            lease_ms: 100,
            left: 0,
        }
    }

    #[test]
    fn a_loss_by_a_restart_is_as_promised() {
        let mut wrong = Vec::new();
        let figures = judge_live(&fine(), &mut wrong);
        assert_eq!(wrong, Vec::<String>::new());
        assert_eq!(figures, LiveFigures { pushed: 6, done: 5, lost: 1, again: 2, lossy_starts: 1 });
    }

    #[test]
    fn each_error_is_noticed() {
        type Change = fn(&mut Live);
        let errors: [(&str, Change); 9] = [
            ("without a restart", |live| live.acked.truncate(4)),
            ("acknowledged twice", |live| live.acked.push("1:16".parse().unwrap())),
            ("had taken away", |live| live.grants[5].receipt.token = 23),
            ("two consumers", |live| live.grants[4].had_ms = 99),
            ("two consumers", |live| live.returned.clear()),
            ("came again", |live| live.acked.push("3:12".parse().unwrap())),
            ("after the last start", |live| live.left = 1),
            ("have lost anything", |live| live.starts = vec![0]),
            ("no item was delivered a second", |live| live.grants.retain(|grant| grant.receipt.token < 13)),
        ];
        for (what, change) in errors {
            let (mut live, mut wrong) = (fine(), Vec::new());
            change(&mut live);
            judge_live(&live, &mut wrong);
            assert!(wrong.iter().any(|wrong| wrong.contains(what)), "{what}: {wrong:?}");
        }
    }
}

//! Where in the log revisions stand, as far as somebody has come by: so that whoever reads it page by page goes on where the last page
//! ended, and need not read a segment from its beginning each time.
//!
//! - Bounded; what was noted first is forgotten first. It is a help and nothing depends on it: without a place the segment is read from
//!   its start, once, and that notes places again.
//! - A place whose segment is gone does no harm: a reader is not made from it.

use std::collections::{BTreeMap, VecDeque};

use kvbroker_log::LogPlace;
use kvbroker_protocol::limits;

/// Places in the log by the revision before them. See the module.
#[derive(Debug, Default)]
pub(crate) struct LogPlaces {
    places: BTreeMap<u64, LogPlace>,
    /// Their revisions in the order in which they were noted.
    order: VecDeque<u64>,
}

impl LogPlaces {
    /// Notes a place.
    pub(crate) fn note(&mut self, place: LogPlace) {
        if self.places.insert(place.revision(), place).is_some() {
            return;
        }
        self.order.push_back(place.revision());
        if self.order.len() > limits::EVENTS_LOG_PLACES_MAX
            && let Some(first) = self.order.pop_front()
        {
            self.places.remove(&first);
        }
    }

    /// The last place at which a reader of what is behind this revision can begin.
    pub(crate) fn before(&self, revision: u64) -> Option<LogPlace> {
        self.places.range(..=revision).next_back().map(|(_, place)| *place)
    }
}

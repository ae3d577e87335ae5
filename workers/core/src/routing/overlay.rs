//! The routing with the changes of one operation, or of one transaction, on top.

use std::collections::BTreeMap;
use std::sync::Arc;

use kvbroker_protocol::{ErrorCode, Failure, limits};

use super::record::{delete_binding, put_binding, put_counts};
use super::{BindingKey, Bound, Counts, Message, Routing};
use crate::change::Change;
use crate::queues::QueueId;

/// The changes of one operation.
#[derive(Default)]
pub(crate) struct RoutingOverlay {
    /// None: the binding is gone.
    pub(super) own: BTreeMap<BindingKey, Option<Arc<Bound>>>,
    /// Messages that were published, beside those of before.
    pub(super) counts: Counts,
    /// What those who listen are told.
    pub(super) messages: Vec<Message>,
}

impl RoutingOverlay {
    pub(super) fn get<'s>(&'s self, base: &'s Routing, queue: QueueId, pattern: &[u8]) -> Option<&'s Arc<Bound>> {
        match self.own.get(&(queue, Box::from(pattern))) {
            Some(own) => own.as_ref(),
            None => base.get(queue, pattern),
        }
    }

    /// Bindings of all queues, of this one, and regular expressions in them.
    fn sizes(&self, base: &Routing, queue: QueueId) -> (usize, usize, usize) {
        let mut sizes = (base.len(), base.of(queue, b"").count(), base.regexes);
        for ((id, pattern), own) in &self.own {
            let is_this = usize::from(*id == queue);
            if let Some(before) = base.get(*id, pattern) {
                sizes = (sizes.0 - 1, sizes.1 - is_this, sizes.2 - before.regexes());
            }
            if let Some(own) = own {
                sizes = (sizes.0 + 1, sizes.1 + is_this, sizes.2 + own.regexes());
            }
        }
        sizes
    }

    /// Binds a queue; nothing changes if it is bound so already.
    pub(super) fn bind(&mut self, base: &Routing, queue: QueueId, bound: Bound) -> Result<(), Failure> {
        let before = self.get(base, queue, &bound.pattern);
        if before.is_some_and(|before| **before == bound) {
            return Ok(());
        }
        let (replaced, freed) = before.map_or((0, 0), |before| (1, before.regexes()));
        let (all, of_queue, regexes) = self.sizes(base, queue);
        let most = limits::BINDINGS_PER_QUEUE_MAX;
        if of_queue + 1 - replaced > most {
            return Err(Failure::limit(format!(
                "the queue has {of_queue} bindings, and no more can be made; one pattern may do for several"
            )));
        }
        if all + 1 - replaced > limits::BINDINGS_MAX {
            return Err(Failure::limit(format!("there are {all} bindings, and no more can be made; `unbind` some")));
        }
        if regexes + bound.regexes() - freed > limits::BINDING_REGEXES_MAX {
            let message = format!(
                "the bindings have {regexes} regular expressions, and no more are taken; compare with `=` where that does"
            );
            return Err(Failure::limit(message));
        }
        self.own.insert((queue, bound.pattern.clone()), Some(Arc::new(bound)));
        Ok(())
    }

    pub(super) fn unbind(&mut self, base: &Routing, queue: QueueId, pattern: &[u8]) -> Result<(), Failure> {
        if self.get(base, queue, pattern).is_none() {
            let message = "the queue is not bound to this pattern; `bindings` tells to which ones it is";
            return Err(Failure::new(ErrorCode::NotFound, message));
        }
        self.own.insert((queue, Box::from(pattern)), None);
        Ok(())
    }

    /// The queue is dropped.
    pub(crate) fn unbind_all(&mut self, base: &Routing, queue: QueueId) {
        let gone = base.of(queue, b"").map(|bound| ((queue, bound.pattern.clone()), None));
        self.own.extend(gone);
    }

    /// Appends what has changed, each record once; gives what those who listen are told.
    pub(crate) fn into_changes(self, base: &Routing, changes: &mut Vec<Change>) -> Vec<Message> {
        for ((queue, pattern), own) in self.own {
            match own {
                Some(bound) => changes.push(put_binding(queue, &pattern, bound.filter())),
                None => changes.extend(base.get(queue, &pattern).map(|_| delete_binding(queue, &pattern))),
            }
        }
        if self.counts.published > 0 {
            let Counts { published, unroutable } = base.counts;
            changes.push(put_counts(Counts {
                published: published.saturating_add(self.counts.published),
                unroutable: unroutable.saturating_add(self.counts.unroutable),
            }));
        }
        self.messages
    }
}

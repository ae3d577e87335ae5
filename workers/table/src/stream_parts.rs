//! Parts of the [streams](crate::Streams): what is known of either kind of them, and what one of them has of a revision.

use std::ops::Range;

use kvbroker_protocol::StreamKind;

/// Room for more pieces than this is not kept for the next time.
const KEPT_PIECES: usize = 16;

/// What is known of one kind of stream.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Side {
    /// Not everything up to here was told: no message begins before it.
    pub(crate) floor: u64,
    /// How many there are.
    pub(crate) streams: usize,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sides {
    pub(crate) changes: Side,
    pub(crate) messages: Side,
}

impl Sides {
    pub(crate) fn of(self, kind: StreamKind) -> Side {
        match kind {
            StreamKind::Changes => self.changes,
            StreamKind::Messages => self.messages,
        }
    }

    pub(crate) fn of_mut(&mut self, kind: StreamKind) -> &mut Side {
        match kind {
            StreamKind::Changes => &mut self.changes,
            StreamKind::Messages => &mut self.messages,
        }
    }
}

/// What a stream has of one revision.
#[derive(Debug, Default)]
pub(crate) struct Part {
    /// One piece of changes, since the keys under a prefix follow each other; messages about subjects of a pattern need not.
    pub(crate) pieces: Vec<Range<usize>>,
    pub(crate) count: usize,
}

impl Part {
    pub(crate) fn add(&mut self, piece: Range<usize>) {
        self.count += 1;
        match self.pieces.last_mut() {
            Some(last) if last.end == piece.start => last.end = piece.end,
            _ => self.pieces.push(piece),
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.pieces.iter().map(Range::len).sum()
    }

    pub(crate) fn clear(&mut self) {
        self.count = 0;
        self.pieces.clear();
        // Nearly always there is one.
        self.pieces.shrink_to(KEPT_PIECES);
    }
}

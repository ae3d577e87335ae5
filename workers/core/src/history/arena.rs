//! Bytes one behind the other, dropped from the oldest on: where keys and small records of the past stand.
//!
//! - A piece stands in one block and never moves; its place counts all bytes that were ever put in.
//! - Blocks that get free are used again: in the long run nothing is allocated, and nothing is freed.

use std::collections::VecDeque;

use kvbroker_protocol::limits;

/// Bytes of a block: the longest key fits some times over.
const BLOCK_BYTES: usize = 256 << 10;
const _: () = assert!(4 * limits::KEY_BYTES_MAX <= BLOCK_BYTES);

/// Where a piece stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    at: u64,
    bytes: u32,
}

impl Piece {
    /// How long it is, bytes.
    pub(super) fn len(self) -> usize {
        self.bytes as usize
    }
}

#[derive(Debug, Default)]
pub(super) struct Arena {
    blocks: VecDeque<Box<[u8]>>,
    /// One that got free.
    spare: Option<Box<[u8]>>,
    /// Blocks that were dropped before the first one.
    dropped: u64,
    /// Behind the last piece.
    end: u64,
}

fn block_of(at: u64) -> u64 {
    at / BLOCK_BYTES as u64
}

impl Arena {
    /// Puts bytes in; at most a block of them.
    pub(super) fn put(&mut self, bytes: &[u8]) -> Piece {
        let offset = (self.end % BLOCK_BYTES as u64) as usize;
        if offset + bytes.len() > BLOCK_BYTES {
            self.end += (BLOCK_BYTES - offset) as u64;
        }
        if block_of(self.end) == self.dropped + self.blocks.len() as u64 {
            let block = self.spare.take().unwrap_or_else(|| vec![0; BLOCK_BYTES].into_boxed_slice());
            self.blocks.push_back(block);
        }
        let piece = Piece { at: self.end, bytes: u32::try_from(bytes.len()).expect("no piece is larger than a block") };
        let offset = (self.end % BLOCK_BYTES as u64) as usize;
        let block = self.blocks.back_mut().expect("there is one, or one was made above");
        block[offset..offset + bytes.len()].copy_from_slice(bytes);
        self.end += bytes.len() as u64;
        piece
    }

    /// The bytes of a piece that was not dropped.
    pub(super) fn get(&self, piece: Piece) -> &[u8] {
        let offset = (piece.at % BLOCK_BYTES as u64) as usize;
        // An empty piece may stand behind the last block.
        let block = self.blocks.get((block_of(piece.at) - self.dropped) as usize);
        block.map_or(&[], |block| &block[offset..offset + piece.bytes as usize])
    }

    /// Drops what stands before a piece; None: everything.
    pub(super) fn drop_before(&mut self, piece: Option<Piece>) {
        let first = block_of(piece.map_or(self.end, |piece| piece.at));
        while self.dropped < first
            && let Some(block) = self.blocks.pop_front()
        {
            self.spare = Some(block);
            self.dropped += 1;
        }
    }

    /// Drops everything and begins anew.
    pub(super) fn clear(&mut self) {
        let spare = self.blocks.pop_front().or(self.spare.take());
        *self = Arena { spare, ..Arena::default() };
    }

    /// Bytes from a piece on, gaps included; None: of nothing.
    pub(super) fn bytes_from(&self, piece: Option<Piece>) -> usize {
        piece.map_or(0, |piece| (self.end - piece.at) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_stay_what_they_were_and_blocks_are_used_again() {
        let mut arena = Arena::default();
        let mut pieces: VecDeque<(Piece, Vec<u8>)> = VecDeque::new();
        for round in 0..20_000_usize {
            let bytes = vec![(round % 251) as u8; [0, 1, 17, 1_000, 65_535, 30][round % 6]];
            pieces.push_back((arena.put(&bytes), bytes));
            if pieces.len() > 40 {
                pieces.pop_front();
                arena.drop_before(pieces.front().map(|(piece, _)| *piece));
            }
            if round % 97 == 0 {
                assert!(pieces.iter().all(|(piece, bytes)| arena.get(*piece) == bytes));
                assert!(arena.bytes_from(pieces.front().map(|(piece, _)| *piece)) <= arena.blocks.len() * BLOCK_BYTES);
                assert!(arena.blocks.len() <= 6, "{} blocks for 40 pieces", arena.blocks.len());
            }
        }
        arena.drop_before(None);
        assert!(arena.blocks.len() <= 1 && arena.spare.is_some());
        let piece = arena.put(b"on");
        assert_eq!(arena.get(piece), b"on");
        arena.clear();
        let piece = arena.put(b"anew");
        assert_eq!((arena.get(piece), arena.blocks.len()), (&b"anew"[..], 1));
    }
}

//! Reading what lies in front of damage, a bounded chunk at a time and in the order of the read that failed.
//!
//! It can only be read forward. A read that runs backward wants its end first, so each chunk is the last of what is left:
//! slower, and no larger. Invariant: the chunks together are all that is there, once.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use crate::engine::{Direction, EngineError, Reader, Space};
use crate::keyspace::{KeyRange, after};

/// What a chunk may hold: one more of either than what it is for, so that who takes it all knows there is more.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChunkLimits {
    pub(crate) pairs: usize,
    pub(crate) bytes: usize,
}

/// Some pairs, in the order of the read, and what is left.
pub(crate) struct Chunk {
    pub(crate) pairs: VecDeque<(Vec<u8>, Vec<u8>)>,
    pub(crate) left: Option<KeyRange>,
}

/// Reads the first chunk of a range in a direction, without ever reading backward.
pub(crate) fn read_chunk(
    reader: &dyn Reader,
    space: Space,
    range: KeyRange,
    direction: Direction,
    limits: ChunkLimits,
) -> Result<Chunk, EngineError> {
    let (mut pairs, mut bytes, mut is_cut) = (VecDeque::<(Vec<u8>, Vec<u8>)>::new(), 0, false);
    let size = |(key, value): &(Vec<u8>, Vec<u8>)| key.len() + value.len();
    reader.scan(space, &range, Direction::Forward, &mut |key, value| {
        if direction == Direction::Forward && (pairs.len() > limits.pairs || bytes > limits.bytes) {
            is_cut = true;
            return ControlFlow::Break(());
        }
        bytes += key.len() + value.len();
        pairs.push_back((key.to_vec(), value.to_vec()));
        while let Some(first) = pairs.front().map(size)
            && direction == Direction::Backward
            && (pairs.len() > limits.pairs + 1 || bytes - first > limits.bytes)
        {
            bytes -= first;
            pairs.pop_front();
            is_cut = true;
        }
        ControlFlow::Continue(())
    })?;
    let left = match direction {
        Direction::Forward => pairs.back().map(|(last, _)| KeyRange { start: after(last), end: range.end }),
        Direction::Backward => pairs.front().map(|(first, _)| KeyRange { start: range.start, end: first.clone() }),
    };
    if direction == Direction::Backward {
        pairs.make_contiguous().reverse();
    }
    Ok(Chunk { pairs, left: left.filter(|_| is_cut) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cases::cases;
    use crate::engine::{Durability, Engine, MemoryEngine};

    proptest! {
        #![proptest_config(cases(256))]

        #[test]
        fn chunks_are_all_that_is_there_in_order(
            sizes in prop::collection::vec(0usize..40, 0..30), pairs in 0usize..8, bytes in 0usize..200,
            backward in any::<bool>(),
        ) {
            let engine = MemoryEngine::new();
            let mut expected: Vec<(Vec<u8>, Vec<u8>)> =
                sizes.iter().enumerate().map(|(n, size)| (vec![n as u8], vec![7; *size])).collect();
            engine.write(Durability::Synced, &mut |writes| {
                expected.iter().for_each(|(key, value)| writes.put(Space::Data, key, value));
            }).unwrap();
            let direction = if backward { Direction::Backward } else { Direction::Forward };
            if backward {
                expected.reverse();
            }
            let (mut found, mut left) = (Vec::new(), Some(KeyRange { start: Vec::new(), end: vec![0xff] }));
            while let Some(range) = left {
                let limits = ChunkLimits { pairs, bytes };
                let chunk = read_chunk(&engine, Space::Data, range, direction, limits).unwrap();
                prop_assert!(chunk.pairs.len() <= pairs + 1);
                let sum: usize = chunk.pairs.iter().map(|(key, value)| key.len() + value.len()).sum();
                prop_assert!(sum <= bytes + 41, "{} bytes", sum);
                found.extend(chunk.pairs);
                left = chunk.left;
            }
            prop_assert_eq!(found, expected);
        }
    }
}

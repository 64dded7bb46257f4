//! Who is alive, as one bit per node id: what the data path asks on every request, without a lock.

use std::sync::atomic::{AtomicU64, Ordering};

use cube_storage::model::NodeId;

const BITS: usize = u64::BITS as usize;
const WORDS: usize = (u16::MAX as usize + 1) / BITS;

/// One bit for every possible node.
pub(super) struct AliveBits(Box<[AtomicU64]>);

impl AliveBits {
    /// Everybody is presumed alive.
    pub(super) fn presumed() -> Self {
        Self((0..WORDS).map(|_| AtomicU64::new(u64::MAX)).collect())
    }

    pub(super) fn get(&self, node: NodeId) -> bool {
        let (word, bit) = place(node);
        // Nothing else is published through a bit, so no ordering is needed.
        self.0.get(word).is_some_and(|word| word.load(Ordering::Relaxed) & bit != 0)
    }

    /// Sets the bits of those listed, and those of all others alike.
    pub(super) fn publish(&self, listed: impl Iterator<Item = (NodeId, bool)>, others: bool) {
        let mut bits = vec![if others { u64::MAX } else { 0 }; WORDS];
        for (node, alive) in listed {
            let (word, bit) = place(node);
            if let Some(word) = bits.get_mut(word) {
                *word = if alive { *word | bit } else { *word & !bit };
            }
        }
        for (word, bits) in self.0.iter().zip(bits) {
            // Writing what is there already would take the line away from every processor that reads it.
            if word.load(Ordering::Relaxed) != bits {
                word.store(bits, Ordering::Relaxed);
            }
        }
    }
}

fn place(node: NodeId) -> (usize, u64) {
    let number = usize::from(node.0);
    (number / BITS, 1 << (number % BITS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_id_has_its_own_bit() {
        let alive = AliveBits::presumed();
        for node in [0, 1, 63, 64, 65, u16::MAX].map(NodeId) {
            assert!(alive.get(node));
            alive.publish([(node, true)].into_iter(), false);
            assert_eq!((0..=u16::MAX).map(NodeId).filter(|other| alive.get(*other)).collect::<Vec<_>>(), [node]);
            alive.publish([(node, false)].into_iter(), true);
            assert_eq!((0..=u16::MAX).map(NodeId).filter(|other| !alive.get(*other)).collect::<Vec<_>>(), [node]);
        }
    }
}

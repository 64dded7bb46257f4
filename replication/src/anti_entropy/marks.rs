//! When a dirty mark may be cleared: once its target was compared, past the mark's version and since the mark was read,
//! with every other current replica. As plain code.
//!
//! What the target says is its proof of a tree: up to where it was found equal with all others. A proof that ends after a
//! mark was read may have begun before, and may have missed what the mark is about; the next one cannot have. So two
//! advances of the proof are waited for, the last of them past the version, under a map no older than this node's. The
//! mark's generation, checked when it is cleared, tells whether more was missed meanwhile.

use std::collections::BTreeMap;

use cube_storage::dirty::{DirtyRange, Generation, Mark};
use cube_storage::model::{Epoch, Hlc};

use super::questions::{Proof, Tree};

/// Advances after which a proof has begun since the mark was read.
const ADVANCES: u8 = 2;
/// Marks of one target that are followed at a time; the others wait until these are cleared.
pub const MARKS_MAX: usize = 16_384;

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    last: Hlc,
    advances: u8,
    is_past: bool,
}

/// A mark that is followed.
#[derive(Clone, Debug)]
struct Followed {
    generation: Generation,
    version: Hlc,
    /// Of each tree that the target holds in the range.
    trees: BTreeMap<Tree, Option<Seen>>,
}

/// The marks of one target that are followed.
#[derive(Clone, Debug, Default)]
pub struct Clearing {
    marks: BTreeMap<DirtyRange, Followed>,
}

impl Clearing {
    /// Follows these marks, and no others. `trees_of` tells the trees that the target holds in a range.
    pub fn follow(&mut self, marks: &[Mark], trees_of: impl Fn(DirtyRange) -> Vec<Tree>) {
        let given: BTreeMap<DirtyRange, Generation> = marks.iter().map(|mark| (mark.range, mark.generation)).collect();
        self.marks.retain(|range, followed| given.get(range) == Some(&followed.generation));
        for mark in marks.iter().take(MARKS_MAX) {
            let follow = || {
                let trees = trees_of(mark.range).into_iter().map(|tree| (tree, None)).collect();
                Followed { generation: mark.generation, version: mark.version.hlc, trees }
            };
            self.marks.entry(mark.range).or_insert_with(follow);
        }
    }

    /// The trees whose proof is asked for.
    pub fn trees(&self) -> Vec<Tree> {
        let mut trees: Vec<Tree> = self.marks.values().flat_map(|followed| followed.trees.keys().copied()).collect();
        trees.sort_unstable();
        trees.dedup();
        trees
    }

    /// The target told its proof of a tree, or that it has none, and `epoch` is the map that this node knows.
    pub fn on_proof(&mut self, tree: Tree, proof: Option<Proof>, epoch: Epoch) {
        for followed in self.marks.values_mut() {
            let Some(seen) = followed.trees.get_mut(&tree) else { continue };
            let Some(proof) = proof.filter(|proof| proof.epoch >= epoch) else {
                *seen = None;
                continue;
            };
            let through = proof.synced_through;
            let seen = seen.get_or_insert(Seen { last: through, ..Seen::default() });
            seen.advances = seen.advances.saturating_add(u8::from(through > seen.last));
            (seen.last, seen.is_past) = (through, through >= followed.version);
        }
    }

    /// Takes out the marks that may be cleared, each with the generation that was followed.
    pub fn take_repaired(&mut self) -> Vec<(DirtyRange, Generation)> {
        let is_repaired = |followed: &Followed| {
            let done = |seen: &Option<Seen>| seen.is_some_and(|seen| seen.is_past && seen.advances >= ADVANCES);
            followed.trees.values().all(done)
        };
        let repaired: Vec<(DirtyRange, Generation)> = self
            .marks
            .iter()
            .filter(|(_, followed)| is_repaired(followed))
            .map(|(range, followed)| (*range, followed.generation))
            .collect();
        repaired.iter().for_each(|(range, _)| {
            self.marks.remove(range);
        });
        repaired
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use cube_storage::dirty::{Cause, DirtyStore};
    use cube_storage::files::SimulatedFiles;
    use cube_storage::merkle::LeafId;
    use cube_storage::model::{NodeId, PartitionId, TableId, Version};

    use super::*;

    const TREE: Tree = (TableId(1), PartitionId(0));
    const LEAF: LeafId = LeafId(5);

    fn marked(version: u64) -> (Arc<cube_storage::dirty::DirtyMarks>, Clearing) {
        let files = Arc::new(SimulatedFiles::new());
        let store = DirtyStore::open(files, Path::new("dirty"), Version::ZERO).unwrap().store;
        let marks = store.target("node-2").unwrap();
        marks.mark(TREE.0, LEAF, Version::new(Hlc(version), NodeId(0)), Cause::Cap);
        let mut clearing = Clearing::default();
        clearing.follow(&marks.marks(None, MARKS_MAX), |_| vec![TREE]);
        (marks, clearing)
    }

    fn tell(clearing: &mut Clearing, through: u64, epoch: u64) -> usize {
        let proof = Proof { floor: Hlc(0), synced_through: Hlc(through), epoch: Epoch(epoch) };
        clearing.on_proof(TREE, Some(proof), Epoch(3));
        clearing.take_repaired().len()
    }

    #[test]
    fn a_mark_waits_for_a_proof_that_began_after_it_was_read() {
        let (_, mut clearing) = marked(90);
        assert_eq!(tell(&mut clearing, 100, 3), 0, "it may be from before");
        assert_eq!(tell(&mut clearing, 100, 3), 0);
        assert_eq!(tell(&mut clearing, 110, 3), 0, "this one may have begun before");
        assert_eq!(tell(&mut clearing, 120, 3), 1);
        assert_eq!(tell(&mut clearing, 130, 3), 0, "once");
    }

    #[test]
    fn a_mark_waits_for_a_proof_past_its_version_and_under_the_present_map() {
        let (_, mut clearing) = marked(500);
        for through in [100, 200, 300, 499] {
            assert_eq!(tell(&mut clearing, through, 3), 0);
        }
        assert_eq!(tell(&mut clearing, 500, 3), 1);
        let (_, mut clearing) = marked(1);
        for through in [100, 200, 300] {
            assert_eq!(tell(&mut clearing, through, 2), 0, "an older map may name other replicas");
        }
        clearing.on_proof(TREE, None, Epoch(3));
        assert_eq!(tell(&mut clearing, 400, 3), 0);
        assert_eq!(tell(&mut clearing, 410, 3), 0);
        assert_eq!(tell(&mut clearing, 420, 3), 1);
    }

    #[test]
    fn a_mark_that_got_a_new_generation_is_followed_anew_and_not_cleared_by_the_old_one() {
        let (marks, mut clearing) = marked(90);
        assert_eq!(tell(&mut clearing, 100, 3) + tell(&mut clearing, 110, 3), 0);
        let before = marks.marks(None, 1)[0];
        marks.mark(TREE.0, LEAF, Version::new(Hlc(95), NodeId(0)), Cause::Cap);
        assert!(!marks.clear(before.range, before.generation), "more was missed meanwhile");
        clearing.follow(&marks.marks(None, MARKS_MAX), |_| vec![TREE]);
        assert_eq!(tell(&mut clearing, 120, 3) + tell(&mut clearing, 130, 3), 0);
        clearing.on_proof(TREE, Some(Proof { floor: Hlc(0), synced_through: Hlc(140), epoch: Epoch(3) }), Epoch(3));
        let repaired = clearing.take_repaired();
        assert!(repaired.iter().all(|(range, generation)| marks.clear(*range, *generation)));
        assert!(marks.marks(None, 1).is_empty());
    }

    #[test]
    fn a_range_of_which_the_target_holds_nothing_needs_no_proof() {
        let (marks, _) = marked(90);
        let mut clearing = Clearing::default();
        clearing.follow(&marks.marks(None, MARKS_MAX), |_| Vec::new());
        assert_eq!(clearing.take_repaired().len(), 1);
    }
}

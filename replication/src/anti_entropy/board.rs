//! In sync as of: up to when each tree was proven equal with each of its other replicas.
//!
//! A time stands still while a difference exists or the peer cannot be compared with, and never passes what was proven.
//! After a restart it begins with what the store has kept of the proof.

use std::collections::BTreeMap;

use cube_storage::Store;
use cube_storage::model::{Hlc, NodeId, TableId};

use super::questions::Tree;
use super::schedule::Shared;

/// The times of one node's trees.
#[derive(Clone, Debug, Default)]
pub struct Board {
    pairs: BTreeMap<(Tree, NodeId), Hlc>,
}

impl Board {
    /// Takes note of what is held now and with whom: pairs that are no more are forgotten, new ones begin with what the
    /// store knows to be proven.
    pub fn follow(&mut self, shared: &Shared, store: &Store) {
        let holds =
            |(tree, peer): &(Tree, NodeId)| shared.trees.get(tree).is_some_and(|(_, peers)| peers.contains(peer));
        self.pairs.retain(|pair, _| holds(pair));
        for (tree, (_, peers)) in &shared.trees {
            for peer in peers {
                let kept = || store.range_state(tree.0, tree.1).synced_through;
                self.pairs.entry((*tree, *peer)).or_insert_with(kept);
            }
        }
    }

    /// A tree and a peer were found equal as of a horizon.
    pub fn on_equal(&mut self, tree: Tree, peer: NodeId, horizon: Hlc) {
        if let Some(time) = self.pairs.get_mut(&(tree, peer)) {
            *time = horizon.max(*time);
        }
    }

    /// Each tree and peer and the time of both.
    pub fn pairs(&self) -> impl Iterator<Item = (Tree, NodeId, Hlc)> + '_ {
        self.pairs.iter().map(|((tree, peer), time)| (*tree, *peer, *time))
    }

    /// The oldest time of every table; nothing of a table without another replica.
    pub fn tables(&self) -> BTreeMap<TableId, Hlc> {
        let mut oldest: BTreeMap<TableId, Hlc> = BTreeMap::new();
        for (((table, _), _), time) in &self.pairs {
            let oldest = oldest.entry(*table).or_insert(*time);
            *oldest = (*oldest).min(*time);
        }
        oldest
    }

    /// The oldest time of all; nothing without any other replica.
    pub fn oldest(&self) -> Option<Hlc> {
        self.pairs.values().min().copied()
    }
}

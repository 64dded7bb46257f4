//! What a coordinator knows of how its peers answer: whom to ask first, and when a slow one is worth asking another.
//!
//! Every answer to a read is counted (`histogram.rs`). A replica that lets a read wait past its usual time is held
//! back for a while, so that one that stands still is asked last and costs the reads after it nothing; the mark fades, and
//! it is tried again. A replica that said it is not in sync comes last for as long.
//!
//! All of it is a hint: whatever is remembered here, a level counts the same replicas.

mod histogram;

use std::collections::BTreeMap;

use cube_storage::model::{NodeId, PartitionId, PlacementId};
use parking_lot::Mutex;

use self::histogram::Histogram;
use crate::catalog::Hedge;

/// Answers before a replica's 99th percentile says anything.
const ANSWERS_MIN: u32 = 32;
/// When another one is asked while that is so.
const UNKNOWN_MS: u64 = 50;
/// The shortest and the longest wait for a slow replica: the coordinator looks at the time every few milliseconds.
const WAIT_MS_MIN: u64 = 2;
const WAIT_MS_MAX: u64 = 500;
/// Peers that are remembered: more than a cluster has members.
const PEERS_MAX: usize = 1_024;
/// Partitions of peers that are known to be out of sync.
const UNSYNCED_MAX: usize = 4_096;
/// How long a replica that is out of sync comes last.
const UNSYNCED_MS: u64 = 1_000;
/// A replica that let a read wait counts as so much slower than it is, and half as much each time this passes.
const HELD_BACK_MS: u64 = 1_024;
const HELD_BACK_HALVES_MS: u64 = 500;
/// Replicas that usually answer within this are alike: their order stays as the map has it, and so do caches.
const ALIKE_MS: u64 = 4;
/// The weight of one answer in what is usual, as one in so many.
const SMOOTHING: u64 = 8;

/// What is known of all peers.
#[derive(Default)]
pub(super) struct Peers {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    peers: BTreeMap<NodeId, Peer>,
    unsynced: BTreeMap<(NodeId, PlacementId, PartitionId), u64>,
}

#[derive(Default)]
struct Peer {
    took: Histogram,
    /// What an answer usually takes, in eighths of a millisecond.
    usual: u64,
    held_back_ms: Option<u64>,
    heard_ms: u64,
}

impl Peers {
    /// An answer to a read came.
    pub(super) fn answered(&self, node: NodeId, took_ms: u64, now_ms: u64) {
        let mut known = self.known.lock();
        let peer = known.peer(node);
        peer.took.add(took_ms, now_ms);
        peer.usual = peer.usual - peer.usual / SMOOTHING + took_ms.min(WAIT_MS_MAX);
        peer.heard_ms = now_ms;
    }

    /// A read was asked of another replica because this one let it wait.
    pub(super) fn hold_back(&self, node: NodeId, now_ms: u64) {
        self.known.lock().peer(node).held_back_ms = Some(now_ms);
    }

    /// A replica refused because it is not in sync.
    pub(super) fn unsynced(&self, node: NodeId, (placement, partition): (PlacementId, PartitionId), now_ms: u64) {
        let mut known = self.known.lock();
        if known.unsynced.len() >= UNSYNCED_MAX {
            known.unsynced.retain(|_, until_ms| *until_ms > now_ms);
        }
        if known.unsynced.len() < UNSYNCED_MAX {
            known.unsynced.insert((node, placement, partition), now_ms + UNSYNCED_MS);
        }
    }

    /// After which time without an answer another replica is asked.
    pub(super) fn patience_ms(&self, hedge: Hedge, node: NodeId) -> Option<u64> {
        match hedge {
            Hedge::Off => None,
            Hedge::After { ms } => Some(u64::from(ms)),
            Hedge::P99 => {
                let known = self.known.lock();
                let took = known.peers.get(&node).map(|peer| &peer.took).filter(|took| took.answers() >= ANSWERS_MIN);
                let p99_ms = took.and_then(|took| took.percentile_ms(99));
                // Past it, and a millisecond begun is not one that passed.
                Some(p99_ms.map_or(UNKNOWN_MS, |p99_ms| (p99_ms + 1).clamp(WAIT_MS_MIN, WAIT_MS_MAX)))
            }
        }
    }

    /// Puts replicas into the order in which they are asked: those in sync, those nearby, those that are quick; otherwise
    /// as they come.
    pub(super) fn sort(
        &self,
        nodes: &mut [NodeId],
        (placement, partition): (PlacementId, PartitionId),
        now_ms: u64,
        is_near: impl Fn(NodeId) -> bool,
    ) {
        if nodes.len() < 2 {
            return;
        }
        let known = self.known.lock();
        // Stable; so few are sorted without asking for memory.
        nodes.sort_by_key(|&node| {
            let until_ms = known.unsynced.get(&(node, placement, partition));
            let is_unsynced = until_ms.is_some_and(|until_ms| *until_ms > now_ms);
            (is_unsynced, !is_near(node), known.peers.get(&node).map_or(0, |peer| peer.slowness(now_ms)))
        });
    }
}

impl Known {
    fn peer(&mut self, node: NodeId) -> &mut Peer {
        if self.peers.len() >= PEERS_MAX && !self.peers.contains_key(&node) {
            let oldest = self.peers.iter().min_by_key(|(_, peer)| peer.heard_ms).map(|(node, _)| *node);
            oldest.map(|node| self.peers.remove(&node));
        }
        self.peers.entry(node).or_default()
    }
}

impl Peer {
    /// How slow it is to be taken for: in doublings, so that small differences change no order.
    fn slowness(&self, now_ms: u64) -> u32 {
        let held_back_ms = self.held_back_ms.map_or(0, |since_ms| {
            let halvings = now_ms.saturating_sub(since_ms) / HELD_BACK_HALVES_MS;
            HELD_BACK_MS.checked_shr(u32::try_from(halvings).unwrap_or(u32::MAX)).unwrap_or(0)
        });
        let usual_ms = self.usual / SMOOTHING + held_back_ms;
        (usual_ms / ALIKE_MS).checked_ilog2().map_or(0, |doublings| doublings + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: (PlacementId, PartitionId) = (PlacementId(0), PartitionId(0));

    fn order(peers: &Peers, now_ms: u64) -> Vec<u16> {
        let mut nodes: Vec<NodeId> = (1..=3).map(NodeId).collect();
        peers.sort(&mut nodes, HERE, now_ms, |_| true);
        nodes.into_iter().map(|node| node.0).collect()
    }

    #[test]
    fn replicas_that_are_alike_keep_their_order_and_slow_ones_come_later() {
        let peers = Peers::default();
        for _ in 0..100 {
            peers.answered(NodeId(1), 40, 0);
            peers.answered(NodeId(2), 2, 0);
            peers.answered(NodeId(3), 1, 0);
        }
        assert_eq!(order(&peers, 0), [2, 3, 1]);
    }

    #[test]
    fn a_replica_that_let_a_read_wait_is_asked_last_until_that_fades() {
        let peers = Peers::default();
        peers.hold_back(NodeId(1), 1_000);
        assert_eq!(order(&peers, 1_000), [2, 3, 1]);
        assert_eq!(order(&peers, 3_000), [2, 3, 1]);
        assert_eq!(order(&peers, 1_000 + 11 * HELD_BACK_HALVES_MS), [1, 2, 3]);
        assert_eq!(order(&peers, u64::MAX), [1, 2, 3]);
    }

    #[test]
    fn a_replica_that_is_not_in_sync_comes_last_where_it_is_not() {
        let peers = Peers::default();
        peers.unsynced(NodeId(1), HERE, 0);
        peers.hold_back(NodeId(2), 0);
        assert_eq!(order(&peers, 0), [3, 2, 1]);
        let mut elsewhere = vec![NodeId(1), NodeId(3)];
        peers.sort(&mut elsewhere, (PlacementId(0), PartitionId(1)), 0, |_| true);
        assert_eq!(elsewhere, [NodeId(1), NodeId(3)]);
        assert_eq!(order(&peers, 10 * UNSYNCED_MS), [1, 2, 3]);
    }

    #[test]
    fn replicas_nearby_come_first_however_quick_the_others_are() {
        let peers = Peers::default();
        (0..100).for_each(|_| peers.answered(NodeId(2), 40, 0));
        let mut nodes: Vec<NodeId> = (1..=3).map(NodeId).collect();
        peers.sort(&mut nodes, HERE, 0, |node| node != NodeId(1));
        assert_eq!(nodes, [NodeId(3), NodeId(2), NodeId(1)]);
    }

    #[test]
    fn patience_is_the_99th_percentile_once_that_is_known() {
        let peers = Peers::default();
        let node = NodeId(1);
        assert_eq!(peers.patience_ms(Hedge::Off, node), None);
        assert_eq!(peers.patience_ms(Hedge::After { ms: 7 }, node), Some(7));
        assert_eq!(peers.patience_ms(Hedge::P99, node), Some(UNKNOWN_MS));
        (0..ANSWERS_MIN).for_each(|_| peers.answered(node, 9, 0));
        assert_eq!(peers.patience_ms(Hedge::P99, node), Some(10));
        (0..ANSWERS_MIN).for_each(|_| peers.answered(node, 60_000, 0));
        assert_eq!(peers.patience_ms(Hedge::P99, node), Some(WAIT_MS_MAX));
    }

    #[test]
    fn peers_that_come_and_go_are_forgotten() {
        let peers = Peers::default();
        (0..3_000u16).for_each(|node| peers.answered(NodeId(node), 1, u64::from(node)));
        let known = peers.known.lock();
        assert!(known.peers.len() <= PEERS_MAX);
        assert!(known.peers.contains_key(&NodeId(2_999)));
    }
}

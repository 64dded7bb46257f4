//! When what is compared with whom: a rolling schedule over all peers and partitions, as plain code.
//!
//! A pass compares every tree that is held here with every peer that holds it too, in units of one peer and many trees,
//! one after another: so no two comparisons of a partition and a peer ever run at a time, and a tree that all its peers
//! were found equal with in one pass is proven. Peers that returned or that are known to lack something come first. A peer
//! that is down or that failed is left out, and its trees stay unproven; the next pass tries again, later and later.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use cube_storage::model::{Epoch, Hlc, NodeId};

use super::questions::Tree;

/// Trees compared in one session: their roots make a message of some 40 KiB.
const TREES_PER_UNIT_MAX: usize = 2_048;
/// A peer that returned is left to hints for so long: while they come, it refuses comparisons.
const HINTS_FIRST_MS: u64 = 500;
/// How often in a pass peers that have no time at the moment are waited for.
const WAITS_PER_PASS_MAX: u32 = 50;
/// After a first failure a peer is left alone for so long, then twice as long each time.
const BACKOFF_FIRST_MS: u64 = 500;
/// And never longer.
const BACKOFF_LONGEST_MS: u64 = 60_000;

/// How often everything is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// From the beginning of a pass that found nothing to the next.
    pub interval_ms: u64,
    /// From the end of a pass that found something to the next, which is to find nothing.
    pub again_ms: u64,
}

/// One peer and the trees to be compared with it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// The peer.
    pub peer: NodeId,
    /// What both hold.
    pub trees: Vec<Tree>,
}

/// What is held here, and with whom.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Shared {
    /// Every tree that is held here, the map by which, and its other replicas, pending ones included.
    pub trees: BTreeMap<Tree, (Epoch, BTreeSet<NodeId>)>,
    /// Peers that are known to lack something.
    pub lacking: BTreeSet<NodeId>,
}

/// One round over everything.
#[derive(Clone, Debug, Default)]
pub struct Pass {
    began_ms: u64,
    units: VecDeque<Unit>,
    /// Of each tree the map it is compared under, and the peers that it was not found equal with yet.
    left: BTreeMap<Tree, (Epoch, BTreeSet<NodeId>)>,
    /// The earliest horizon of its comparisons.
    horizon: Option<Hlc>,
    differed: bool,
    /// How often peers that had no time were waited for.
    waits: u32,
}

impl Pass {
    /// A tree and a peer were found equal as of a horizon.
    pub fn on_equal(&mut self, tree: Tree, peer: NodeId) {
        if let Some((_, left)) = self.left.get_mut(&tree) {
            left.remove(&peer);
        }
    }

    /// A comparison with a peer is over.
    pub fn on_compared(&mut self, horizon: Hlc, differed: bool) {
        self.horizon = Some(self.horizon.map_or(horizon, |earliest| earliest.min(horizon)));
        self.differed |= differed;
    }

    /// The trees that were found equal with all their peers, and the map each was compared under.
    pub fn proven(&self) -> impl Iterator<Item = (Tree, Epoch)> + '_ {
        self.left.iter().filter(|(_, (_, left))| left.is_empty()).map(|(tree, (epoch, _))| (*tree, *epoch))
    }

    /// As of when what is proven is so: the earliest of all comparisons, or `now` where there was none to make.
    pub fn horizon(&self, now: Hlc) -> Hlc {
        self.horizon.map_or(now, |earliest| earliest.min(now))
    }
}

#[derive(Clone, Copy, Debug)]
struct Peer {
    is_alive: bool,
    failures: u32,
    not_before_ms: u64,
    /// When it was last compared with, whatever came of it.
    compared_ms: u64,
    /// It returned, or this node did.
    is_urgent: bool,
    /// It did not fail, it had no time.
    is_busy: bool,
}

/// What a pass does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Compare these.
    Compare(Unit),
    /// A peer had no time: go on then.
    Wait {
        /// When.
        until_ms: u64,
    },
    /// The pass is over.
    Over,
}

/// What is compared next.
#[derive(Debug)]
pub struct Schedule {
    pace: Pace,
    peers: BTreeMap<NodeId, Peer>,
    next_pass_ms: u64,
}

impl Schedule {
    /// A schedule whose first pass is due at once: what this node missed while it was down is not known.
    pub fn new(pace: Pace) -> Self {
        Self { pace, peers: BTreeMap::new(), next_pass_ms: 0 }
    }

    /// From now on passes follow each other at this pace.
    pub fn set_pace(&mut self, pace: Pace, now_ms: u64) {
        self.pace = pace;
        self.next_pass_ms = self.next_pass_ms.min(now_ms.saturating_add(pace.interval_ms));
    }

    /// Takes note of who is alive. A peer that returned is compared with as soon as hints had a chance to begin.
    pub fn see(&mut self, peer: NodeId, is_alive: bool, now_ms: u64) {
        let fresh = Peer {
            is_alive: false,
            failures: 0,
            not_before_ms: now_ms,
            compared_ms: 0,
            is_urgent: false,
            is_busy: false,
        };
        let known = self.peers.entry(peer).or_insert(fresh);
        if is_alive && !known.is_alive {
            let first_ms = now_ms.saturating_add(HINTS_FIRST_MS);
            (known.failures, known.not_before_ms, known.is_urgent, known.is_busy) = (0, first_ms, true, true);
            self.next_pass_ms = self.next_pass_ms.min(first_ms);
        }
        known.is_alive = is_alive;
    }

    /// When the next pass is due.
    pub fn next_pass_ms(&self) -> u64 {
        self.next_pass_ms
    }

    /// Has the next pass begin at once.
    pub fn hurry(&mut self, now_ms: u64) {
        self.next_pass_ms = self.next_pass_ms.min(now_ms);
    }

    /// Begins a pass.
    pub fn begin(&mut self, shared: Shared, now_ms: u64) -> Pass {
        self.next_pass_ms = now_ms.saturating_add(self.pace.interval_ms);
        let mut by_peer: BTreeMap<NodeId, Vec<Tree>> = BTreeMap::new();
        for (tree, (_, peers)) in &shared.trees {
            peers.iter().for_each(|peer| by_peer.entry(*peer).or_default().push(*tree));
        }
        let mut order: Vec<NodeId> = by_peer.keys().copied().collect();
        order.sort_by_key(|peer| {
            let known = self.peers.get(peer);
            let is_urgent = known.is_some_and(|known| known.is_urgent);
            (!is_urgent, !shared.lacking.contains(peer), known.map_or(0, |known| known.compared_ms), *peer)
        });
        let unit = |peer: &NodeId| {
            let trees = by_peer.get(peer).map(Vec::as_slice).unwrap_or_default();
            trees
                .chunks(TREES_PER_UNIT_MAX)
                .map(|trees| Unit { peer: *peer, trees: trees.to_vec() })
                .collect::<Vec<_>>()
        };
        let units = order.iter().flat_map(unit).collect();
        Pass { began_ms: now_ms, units, left: shared.trees, horizon: None, differed: false, waits: 0 }
    }

    /// What a pass does next. Peers that cannot be asked now are left out of it, those that had no time come last.
    pub fn next(&self, pass: &mut Pass, now_ms: u64) -> Turn {
        let (mut busy, mut until_ms) = (VecDeque::new(), u64::MAX);
        while let Some(unit) = pass.units.pop_front() {
            match self.peers.get(&unit.peer).filter(|peer| peer.is_alive) {
                Some(peer) if peer.not_before_ms <= now_ms => {
                    pass.units.append(&mut busy);
                    return Turn::Compare(unit);
                }
                Some(peer) if peer.is_busy && pass.waits < WAITS_PER_PASS_MAX => {
                    until_ms = until_ms.min(peer.not_before_ms);
                    busy.push_back(unit);
                }
                _ => {}
            }
        }
        if busy.is_empty() {
            return Turn::Over;
        }
        pass.units = busy;
        pass.waits += 1;
        Turn::Wait { until_ms }
    }

    /// A peer had no time for a comparison: it is asked again in the same pass.
    pub fn on_busy(&mut self, pass: &mut Pass, unit: Unit, now_ms: u64, retry_after_ms: u64) {
        if let Some(peer) = self.peers.get_mut(&unit.peer) {
            peer.is_busy = true;
            peer.not_before_ms = now_ms.saturating_add(retry_after_ms.clamp(1, BACKOFF_LONGEST_MS));
            pass.units.push_back(unit);
        }
    }

    /// A comparison came to its end.
    pub fn on_done(&mut self, peer: NodeId, now_ms: u64) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            (peer.failures, peer.compared_ms, peer.is_urgent, peer.is_busy) = (0, now_ms, false, false);
        }
    }

    /// A comparison failed. It stays urgent, if it was.
    pub fn on_failed(&mut self, peer: NodeId, now_ms: u64) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            let doubled = BACKOFF_FIRST_MS.saturating_mul(1_u64.checked_shl(peer.failures).unwrap_or(u64::MAX));
            let wait_ms = doubled.min(BACKOFF_LONGEST_MS);
            peer.is_busy = false;
            peer.failures = peer.failures.saturating_add(1).min(63);
            (peer.not_before_ms, peer.compared_ms) = (now_ms.saturating_add(wait_ms), now_ms);
            if peer.is_urgent {
                self.next_pass_ms = self.next_pass_ms.min(peer.not_before_ms);
            }
        }
    }

    /// A pass is over. One that found something is soon followed by another, which proves that it was mended.
    pub fn end(&mut self, pass: &Pass, now_ms: u64) {
        let after_ms = if pass.differed { self.pace.again_ms } else { self.pace.interval_ms };
        let from_ms = if pass.differed { now_ms } else { pass.began_ms };
        let due_ms = from_ms.saturating_add(after_ms).max(now_ms.saturating_add(1));
        // A peer that returned meanwhile does not wait for it.
        if self.next_pass_ms > now_ms {
            self.next_pass_ms = self.next_pass_ms.min(due_ms);
        }
    }
}

/// What exchanging rows may cost: so much a second, over time.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    bytes_per_s: u64,
    rows_per_s: u64,
    free_at_ms: u64,
}

impl Budget {
    /// A budget of which nothing is used yet.
    pub fn new(bytes_per_s: u64, rows_per_s: u64) -> Self {
        Self { bytes_per_s: bytes_per_s.max(1), rows_per_s: rows_per_s.max(1), free_at_ms: 0 }
    }

    /// Takes note of what was exchanged.
    pub fn spend(&mut self, bytes: u64, rows: u64, now_ms: u64) {
        let cost = |used: u64, per_s: u64| used.saturating_mul(1_000).div_ceil(per_s);
        let cost_ms = cost(bytes, self.bytes_per_s).max(cost(rows, self.rows_per_s));
        self.free_at_ms = self.free_at_ms.max(now_ms).saturating_add(cost_ms);
    }

    /// When more may be exchanged, if not now.
    pub fn wait_until_ms(&self, now_ms: u64) -> Option<u64> {
        (self.free_at_ms > now_ms).then_some(self.free_at_ms)
    }
}

#[cfg(test)]
mod tests {
    use crate::cases::cases;
    use cube_storage::model::{PartitionId, TableId};
    use proptest::prelude::*;

    use super::*;

    /// When all that were seen alive at the start may be compared with.
    const FIRST_MS: u64 = HINTS_FIRST_MS;
    const PACE: Pace = Pace { interval_ms: 5_000, again_ms: 500 };

    fn tree(partition: u16) -> Tree {
        (TableId(1), PartitionId(partition))
    }

    fn shared(trees: &[(u16, &[u16])]) -> Shared {
        let tree = |&(at, peers): &(u16, &[u16])| {
            (tree(at), (Epoch(1), peers.iter().map(|peer| NodeId(*peer)).collect::<BTreeSet<_>>()))
        };
        Shared { trees: trees.iter().map(tree).collect(), lacking: BTreeSet::new() }
    }

    fn peers(schedule: &Schedule, pass: &mut Pass, now_ms: u64) -> Vec<u16> {
        let compare = || match schedule.next(pass, now_ms) {
            Turn::Compare(unit) => Some(unit.peer.0),
            Turn::Wait { .. } | Turn::Over => None,
        };
        std::iter::from_fn(compare).collect()
    }

    fn all_alive() -> Schedule {
        let mut schedule = Schedule::new(PACE);
        (1..=3).for_each(|peer| schedule.see(NodeId(peer), true, 0));
        schedule
    }

    #[test]
    fn the_first_pass_is_due_at_once_and_the_next_after_the_interval() {
        let mut schedule = all_alive();
        assert_eq!(schedule.next_pass_ms(), 0);
        let mut pass = schedule.begin(shared(&[(0, &[1, 2]), (1, &[2, 3])]), 100);
        assert_eq!(schedule.next(&mut pass, 100), Turn::Wait { until_ms: FIRST_MS }, "hints come first");
        assert_eq!(peers(&schedule, &mut pass, FIRST_MS), [1, 2, 3]);
        schedule.end(&pass, 600);
        assert_eq!(schedule.next_pass_ms(), 5_100);
        pass.on_compared(Hlc(5), true);
        schedule.end(&pass, 700);
        assert_eq!(schedule.next_pass_ms(), 1_200, "what was mended is proven soon");
    }

    #[test]
    fn who_returned_comes_first_and_soon_then_who_lacks_something() {
        let mut schedule = all_alive();
        (1..=3).for_each(|peer| schedule.on_done(NodeId(peer), 50));
        schedule.see(NodeId(3), false, 60);
        let mut state = shared(&[(0, &[1, 2, 3])]);
        state.lacking.insert(NodeId(2));
        let mut pass = schedule.begin(state.clone(), FIRST_MS);
        assert_eq!(peers(&schedule, &mut pass, FIRST_MS), [2, 1], "one that is down is left out");
        schedule.end(&pass, 600);
        schedule.see(NodeId(3), true, 700);
        let soon_ms = 700 + HINTS_FIRST_MS;
        assert_eq!(schedule.next_pass_ms(), soon_ms);
        let mut pass = schedule.begin(state, soon_ms);
        assert_eq!(peers(&schedule, &mut pass, soon_ms), [3, 2, 1]);
    }

    #[test]
    fn a_peer_that_fails_is_left_alone_ever_longer_and_keeps_no_other_from_its_turn() {
        let mut schedule = all_alive();
        let mut waits = Vec::new();
        let mut now_ms = FIRST_MS;
        for _ in 0..10 {
            schedule.on_failed(NodeId(2), now_ms);
            let mut pass = schedule.begin(shared(&[(0, &[1, 2])]), now_ms);
            assert_eq!(peers(&schedule, &mut pass, now_ms), [1]);
            let free_ms = (now_ms..).step_by(500).find(|at_ms| {
                let mut pass = schedule.begin(shared(&[(0, &[2])]), *at_ms);
                schedule.next(&mut pass, *at_ms) != Turn::Over
            });
            waits.push(free_ms.unwrap() - now_ms);
            now_ms = free_ms.unwrap();
        }
        assert_eq!(waits[..3], [500, 1_000, 2_000]);
        assert_eq!(waits[9], BACKOFF_LONGEST_MS);
    }

    #[test]
    fn a_peer_that_has_no_time_is_waited_for_in_the_same_pass_and_not_for_ever() {
        let mut schedule = all_alive();
        let mut pass = schedule.begin(shared(&[(0, &[1, 2])]), FIRST_MS);
        let Turn::Compare(unit) = schedule.next(&mut pass, FIRST_MS) else { panic!("the first is compared with") };
        schedule.on_busy(&mut pass, unit.clone(), FIRST_MS, 100);
        assert_eq!(peers(&schedule, &mut pass, FIRST_MS), [2], "the others come first");
        assert_eq!(schedule.next(&mut pass, FIRST_MS), Turn::Wait { until_ms: FIRST_MS + 100 });
        let mut waits = 0;
        for now_ms in (FIRST_MS + 100..).step_by(50) {
            match schedule.next(&mut pass, now_ms) {
                Turn::Compare(again) => schedule.on_busy(&mut pass, again, now_ms, 100),
                Turn::Wait { until_ms } => {
                    assert!(until_ms > now_ms);
                    waits += 1;
                }
                Turn::Over => break,
            }
        }
        assert!((10..WAITS_PER_PASS_MAX).contains(&waits), "{waits} waits");
    }

    #[test]
    fn a_tree_is_proven_when_all_its_peers_were_found_equal_in_one_pass() {
        let mut schedule = all_alive();
        let mut pass = schedule.begin(shared(&[(0, &[1, 2]), (1, &[3]), (2, &[])]), 0);
        pass.on_equal(tree(0), NodeId(1));
        pass.on_equal(tree(1), NodeId(3));
        pass.on_compared(Hlc(70), false);
        pass.on_compared(Hlc(60), false);
        let proven: Vec<Tree> = pass.proven().map(|(tree, _)| tree).collect();
        assert_eq!(proven, [tree(1), tree(2)]);
        assert_eq!(pass.horizon(Hlc(90)), Hlc(60));
        assert_eq!(schedule.begin(Shared::default(), 0).horizon(Hlc(90)), Hlc(90));
    }

    proptest! {
        #![proptest_config(cases(256))]

        #[test]
        fn no_pass_compares_a_partition_with_a_peer_twice(count in 0u16..5_000, alive in any::<[bool; 3]>()) {
            let mut schedule = Schedule::new(PACE);
            (1..=3).zip(alive).for_each(|(peer, alive)| schedule.see(NodeId(peer), alive, 0));
            let trees = (0..count).map(|at| (tree(at), (Epoch(1), (1..=3).map(NodeId).collect()))).collect();
            let mut pass = schedule.begin(Shared { trees, ..Shared::default() }, 0);
            let mut seen = BTreeSet::new();
            while let Turn::Compare(unit) = schedule.next(&mut pass, FIRST_MS) {
                prop_assert!(unit.trees.len() <= TREES_PER_UNIT_MAX);
                for tree in unit.trees {
                    prop_assert!(seen.insert((unit.peer, tree)));
                }
            }
            prop_assert_eq!(seen.len(), usize::from(count) * alive.iter().filter(|alive| **alive).count());
        }

        #[test]
        fn what_is_exchanged_over_time_stays_within_the_budget(spends in prop::collection::vec(0u64..5_000, 1..50)) {
            let mut budget = Budget::new(10_000, 1_000_000);
            let (mut now_ms, mut spent, mut last) = (0, 0, 0);
            for bytes in spends {
                if let Some(until_ms) = budget.wait_until_ms(now_ms) {
                    now_ms = until_ms;
                }
                budget.spend(bytes, 1, now_ms);
                (spent, last) = (spent + bytes, bytes);
            }
            prop_assert!((spent - last) * 1_000 <= 10_000 * now_ms + 10_000, "{} bytes in {} ms", spent, now_ms);
        }
    }
}

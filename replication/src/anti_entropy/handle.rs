//! What the node, its doors and its worker share of anti-entropy: settings, what was found, what was asked for.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use arc_swap::ArcSwap;
use cube_storage::Store;
use cube_storage::dirty::DirtyMarks;
use cube_storage::model::{Hlc, NodeId, TableId};
use parking_lot::Mutex;

use super::answer::Attendant;
use super::board::Board;
use super::compare::Tally;
use super::courtesy::Courtesy;
use super::questions::Tree;
use super::schedule::{Pace, Shared};
use crate::catalog::{Catalog, ClusterState};
use crate::clock::NodeClock;
use crate::membership::Membership;
use crate::topology::{MemberState, Step};
use crate::transport::PeerTransport;

/// What an operator chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Whether anything is compared. Off, nothing is repaired and nothing purged, and the status says so.
    pub enabled: bool,
    /// How often everything is compared.
    pub pace: Pace,
    /// The age below which a difference may still be on its way. At least the time of a write.
    pub horizon_ms: u64,
    /// Bytes of rows exchanged a second, over time.
    pub bytes_per_s: u64,
    /// Rows exchanged a second, over time.
    pub rows_per_s: u64,
    /// The time of one question: generous, because a slow answer is better than none.
    pub question_timeout_ms: u32,
    /// How often proofs are made durable. They count at once; after a restart the last durable one stands.
    pub keep_proofs_ms: u64,
    /// How often it is looked for what can be purged.
    pub purge_interval_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            enabled: true,
            pace: Pace { interval_ms: 5_000, again_ms: 200 },
            horizon_ms: 10_000,
            bytes_per_s: 64 << 20,
            rows_per_s: 50_000,
            question_timeout_ms: 10_000,
            keep_proofs_ms: 60_000,
            purge_interval_ms: 600_000,
        }
    }
}

/// Tells dirty marks by target.
pub type MarksOf = Box<dyn Fn() -> Vec<Arc<DirtyMarks>> + Send + Sync>;
/// Tells below which version nothing is in flight; nothing while that is not known.
pub type WatermarkOf = Box<dyn Fn() -> Option<Hlc> + Send + Sync>;

/// Tells whether others bring this node what it missed.
pub type CatchesUp = Box<dyn Fn() -> bool + Send + Sync>;

/// What anti-entropy works with.
pub struct Parts {
    /// This node.
    pub me: NodeId,
    /// Its store.
    pub store: Arc<Store>,
    /// Its clocks.
    pub clock: Arc<NodeClock>,
    /// Who holds what.
    pub catalog: Arc<Catalog>,
    /// Who is alive.
    pub membership: Arc<dyn Membership>,
    /// The way to peers.
    pub transport: Arc<dyn PeerTransport>,
    /// The dirty marks that this node keeps.
    pub marks: MarksOf,
    /// The watermark of this node.
    pub watermark: WatermarkOf,
    /// Whether hints come to this node.
    pub catches_up: CatchesUp,
    /// Called when something came in that the worker waits for.
    pub wake: Box<dyn Fn() + Send + Sync>,
}

/// What came of comparisons with one peer.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct PeerStatus {
    /// When the last one came to its end, by the node's clock for deadlines.
    pub compared_ms: Option<u64>,
    /// That came to their end.
    pub comparisons: u64,
    /// That the peer had no time for; each was asked for again.
    pub refused: u64,
    /// That failed.
    pub failed: u64,
    /// What was exchanged.
    pub tally: Tally,
    /// What was wrong the last time something was, until a comparison comes to its end again.
    pub last_error: Option<String>,
}

/// What anti-entropy did and knows, as an operator sees it.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Whether it is switched on.
    pub enabled: bool,
    /// Passes over everything that ended.
    pub passes: u64,
    /// Comparisons that ended.
    pub comparisons: u64,
    /// Comparisons that failed.
    pub failed: u64,
    /// The same and more by peer.
    pub peers: BTreeMap<NodeId, PeerStatus>,
    /// What was exchanged.
    pub tally: Tally,
    /// Dirty marks that were cleared.
    pub marks_cleared: u64,
    /// Rounds of purging that ended.
    pub purge_rounds: u64,
    /// Rows purged by them, on all replicas.
    pub purged_rows: u64,
    /// Who keeps which trees from being purged, of those that this node sees to.
    pub purge_blocked: BTreeMap<Tree, BTreeSet<NodeId>>,
    /// With whom replicas are compared at the moment.
    pub comparing: Option<NodeId>,
    /// What was wrong the last time something was.
    pub last_error: Option<String>,
}

/// Anti-entropy of one node, apart from its worker.
pub struct AntiEntropy {
    pub(crate) parts: Parts,
    settings: ArcSwap<Settings>,
    pub(super) status: Mutex<Status>,
    pub(super) board: Mutex<Board>,
    /// With whom comparisons are under way, and whether the peer has answered: those of the worker and those of repairs on
    /// demand, with each peer one at a time.
    comparing: Mutex<BTreeMap<NodeId, bool>>,
    /// What clients feel of comparisons.
    courtesy: Mutex<Courtesy>,
    /// What the hybrid clock read at some of the last moments, oldest first.
    readings: Mutex<VecDeque<(u64, Hlc)>>,
}

/// How a comparison ended.
pub(super) enum Ended<'a> {
    Compared,
    /// The peer has no time for it now.
    Refused,
    Failed(&'a dyn std::fmt::Display),
}

/// Readings within the time of the horizon, which is how finely it moves.
const READINGS_PER_HORIZON: u64 = 10;

impl AntiEntropy {
    /// Anti-entropy that works with these parts.
    pub fn new(parts: Parts, settings: Settings) -> Arc<Self> {
        Arc::new(Self {
            parts,
            settings: ArcSwap::from_pointee(settings),
            status: Mutex::default(),
            board: Mutex::default(),
            comparing: Mutex::default(),
            courtesy: Mutex::default(),
            readings: Mutex::default(),
        })
    }

    /// The settings in force.
    pub fn settings(&self) -> Settings {
        **self.settings.load()
    }

    /// Changes the settings: they hold from the next step of the worker on.
    pub fn set_settings(&self, settings: Settings) {
        self.settings.store(Arc::new(settings));
        (self.parts.wake)();
    }

    /// What it did.
    pub fn status(&self) -> Status {
        let comparing = self.comparing.lock().keys().next().copied();
        Status { enabled: self.settings().enabled, comparing, ..self.status.lock().clone() }
    }

    /// In sync as of: the oldest of each table.
    pub fn in_sync_by_table(&self) -> BTreeMap<TableId, Hlc> {
        self.board.lock().tables()
    }

    /// In sync as of: the oldest of all trees of this node; nothing while it holds none with another replica.
    pub fn in_sync(&self) -> Option<Hlc> {
        self.board.lock().oldest()
    }

    /// In sync as of: each tree and peer.
    pub fn in_sync_pairs(&self) -> Vec<(Tree, NodeId, Hlc)> {
        self.board.lock().pairs().collect()
    }

    /// The latest version that is to be equal everywhere by now: what the hybrid clock read so long ago. Time alone would
    /// not do: after a node whose clock was ahead, all versions are ahead of the time until it has caught up with them.
    pub(crate) fn horizon(&self) -> Hlc {
        let (now_ms, now, horizon_ms) =
            (self.parts.clock.monotonic_ms(), self.parts.clock.peek(), self.settings().horizon_ms);
        let mut readings = self.readings.lock();
        let step_ms = (horizon_ms / READINGS_PER_HORIZON).max(1);
        if readings.back().is_none_or(|(last_ms, _)| now_ms.saturating_sub(*last_ms) >= step_ms) {
            readings.push_back((now_ms, now));
        }
        let is_past = |(read_ms, _): &(u64, Hlc)| now_ms.saturating_sub(*read_ms) >= horizon_ms;
        while readings.get(1).is_some_and(is_past) {
            readings.pop_front();
        }
        let past = readings.front().copied().filter(is_past);
        // Not long after the start nothing is known of so long ago: then the time is the more cautious answer.
        past.map_or_else(|| Hlc::new(now.millis().saturating_sub(horizon_ms), 0), |(_, reading)| reading)
    }

    /// What this node holds, and with whom.
    pub(super) fn shared(&self, state: &ClusterState) -> Shared {
        let me = self.parts.me;
        let mut shared = Shared::default();
        for keyspace in state.schema.keyspaces.values() {
            let Some(placement) = state.topology.placement(keyspace.placement) else { continue };
            for (partition, map) in placement.partitions() {
                let replicas: BTreeSet<NodeId> = map.write_sets().nodes().collect();
                if !replicas.contains(&me) {
                    continue;
                }
                for table in keyspace.tables.values() {
                    let peers = replicas.iter().copied().filter(|node| *node != me).collect();
                    shared.trees.insert((table.id, partition), (map.epoch(), peers));
                }
            }
        }
        let marked = (self.parts.marks)().into_iter().filter(|marks| marks.totals().marks > 0);
        let members = marked.filter_map(|marks| state.topology.member_named(marks.target()).map(|member| member.id));
        shared.lacking = members.collect();
        shared
    }

    /// The trees whose purging is this node's to see to: it is the first of their replicas, and no change of them is under
    /// way.
    pub(super) fn to_purge(&self, state: &ClusterState) -> BTreeMap<Tree, super::purge::RoundTree> {
        let mut trees = BTreeMap::new();
        for keyspace in state.schema.keyspaces.values() {
            let Some(placement) = state.topology.placement(keyspace.placement) else { continue };
            for (partition, map) in placement.partitions() {
                let Step::Stable { replicas } = map.step() else { continue };
                if replicas.nodes().first() != Some(&self.parts.me) {
                    continue;
                }
                for table in keyspace.tables.values() {
                    let (epoch, replicas) = (map.epoch(), replicas.nodes().to_vec());
                    let tree = super::purge::RoundTree { epoch, replicas, grace_ms: table.settings.grace_ms };
                    trees.insert((table.id, partition), tree);
                }
            }
        }
        trees
    }

    /// Begins to compare with a peer. False if that is done already.
    pub(crate) fn begin_comparing(&self, peer: NodeId) -> bool {
        match self.comparing.lock().entry(peer) {
            Entry::Vacant(free) => {
                free.insert(false);
                true
            }
            Entry::Occupied(_) => false,
        }
    }

    /// The peer takes part in the comparison: from now on it is the one that goes on if both began.
    pub(crate) fn on_answered(&self, peer: NodeId) {
        if let Some(is_answered) = self.comparing.lock().get_mut(&peer) {
            *is_answered = true;
        }
    }

    /// The comparison with a peer is over.
    pub(crate) fn end_comparing(&self, peer: NodeId) {
        let mut comparing = self.comparing.lock();
        comparing.remove(&peer);
        if comparing.is_empty() {
            self.courtesy.lock().is_quiet(self.parts.clock.monotonic_ms());
        }
    }

    /// When a comparison may go on after what clients felt of it, if not now.
    pub(crate) fn rest_until_ms(&self, now_ms: u64) -> Option<u64> {
        self.courtesy.lock().rest_until_ms(now_ms)
    }

    /// A message of a comparison leaves, or rows of one are applied.
    pub(crate) fn burdens(&self, now_ms: u64) {
        self.courtesy.lock().begins(now_ms);
    }

    /// That is over, after so long.
    pub(crate) fn burdened(&self, took_ms: u64, now_ms: u64) {
        self.courtesy.lock().ended(took_ms, now_ms);
    }

    /// Every member that has not left.
    pub fn members(state: &ClusterState) -> Vec<NodeId> {
        let members = state.topology.members().values();
        members.filter(|member| member.state != MemberState::Left).map(|member| member.id).collect()
    }

    /// The last one to have become a member, whether or not it has left since.
    pub(super) fn last_member(state: &ClusterState) -> Option<NodeId> {
        state.topology.members().last_key_value().map(|(last, _)| *last)
    }

    /// A comparison came to its end, or did not.
    pub(super) fn note(&self, peer: NodeId, tally: &Tally, ended: Ended<'_>) {
        let now_ms = self.parts.clock.monotonic_ms();
        let mut status = self.status.lock();
        status.tally.add(tally);
        let known = status.peers.entry(peer).or_default();
        known.tally.add(tally);
        match ended {
            Ended::Compared => {
                (known.comparisons, known.compared_ms, known.last_error) = (known.comparisons + 1, Some(now_ms), None);
                status.comparisons += 1;
            }
            Ended::Refused => known.refused += 1,
            Ended::Failed(error) => {
                (known.failed, known.last_error) = (known.failed + 1, Some(error.to_string()));
                status.failed += 1;
                status.last_error = Some(error.to_string());
            }
        }
    }
}

impl Attendant for AntiEntropy {
    fn watermark(&self) -> Option<Hlc> {
        (self.parts.watermark)()
    }

    fn last_member(&self) -> Option<NodeId> {
        Self::last_member(&self.parts.catalog.current())
    }

    fn catches_up(&self) -> bool {
        (self.parts.catches_up)()
    }

    fn compares_with(&self, peer: NodeId) -> bool {
        // Of two that begin at the same time the lower one goes on.
        self.comparing.lock().get(&peer).is_some_and(|is_answered| *is_answered || self.parts.me < peer)
    }

    fn wrote(&self, took_ms: u64) {
        self.courtesy.lock().wrote(took_ms, self.parts.clock.monotonic_ms());
    }

    fn on_equal(&self, peer: NodeId, horizon: Hlc, trees: &[Tree]) {
        let mut board = self.board.lock();
        trees.iter().for_each(|tree| board.on_equal(*tree, peer, horizon));
    }
}

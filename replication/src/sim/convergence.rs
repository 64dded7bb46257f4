//! Whether replicas converge and the dead stay dead: what anti-entropy and purge promise, judged from what disks hold.
//!
//! What was purged is taken from the engines themselves (`purged.rs`): nobody purges what is not deleted or ended, and
//! whoever does has it from the floor of a round that all replicas fenced.

use std::collections::{BTreeMap, BTreeSet};

use cube_storage::merkle::{LeafId, LeafSum};
use cube_storage::model::{NodeId, PartitionId, RecordHeader, RowKey, TableId, Version};
use cube_storage::scan::{ScanRequest, Scope};
use cube_storage::{ScrubBounds, Store, StoreError, SyncState};

use super::checkers::Violation;
use super::control::PLACEMENT;
use super::history::History;
use super::node::SimNode;
use crate::catalog::ClusterState;

type Nodes = BTreeMap<NodeId, SimNode>;
type Tree = (TableId, PartitionId);

/// A replica of a tree that counts.
struct Held<'a> {
    node: &'a SimNode,
    store: &'a Store,
}

impl SimNode {
    /// Whether the node holds a version of a row or something newer, or what is the same as that: it has purged it, or holds
    /// nothing of a row that is deleted below its floor.
    pub(super) fn covers(&self, table: TableId, key: &RowKey, version: Version) -> bool {
        let Some(process) = &self.process else { return false };
        let held = process.store.header(table, key).ok().flatten();
        if held.as_ref().is_some_and(|held| held.version >= version)
            || self.purged.by(self.id, table, key).is_some_and(|purged| purged >= version)
        {
            return true;
        }
        let floor = process.store.range_state(table, process.store.bits().partition_of(key.token())).floor;
        held.is_none() && self.purged.is_dead_below(floor, table, key, version)
    }
}

/// The replicas of every tree by the newest map, those that work by it and are in sync.
fn replicas<'a>(nodes: &'a Nodes, state: &ClusterState) -> Vec<(Tree, Vec<Held<'a>>)> {
    let maps = state.topology.placement(PLACEMENT).into_iter().flat_map(|placement| placement.partitions());
    let maps: Vec<_> = maps.collect();
    let tables: Vec<TableId> = state.schema.table_options().map(|(table, _)| table).collect();
    let mut trees = Vec::new();
    for (partition, map) in maps {
        let held = |node: &NodeId| {
            let node = nodes.get(node)?;
            let store: &Store = &node.process.as_ref()?.store;
            let at = store.partition(PLACEMENT, partition);
            (at.epoch == map.epoch() && at.sync == SyncState::Synced).then_some(Held { node, store })
        };
        for table in &tables {
            trees.push(((*table, partition), map.serving().nodes().iter().filter_map(held).collect()));
        }
    }
    trees
}

/// What was purged by anybody is older than all that a replica holds: nobody holds what it was purged in favour of.
pub(super) fn nothing_rises(history: &History, nodes: &Nodes, state: &ClusterState) -> Vec<Violation> {
    let purged = history.purged.rows();
    if purged.is_empty() {
        return Vec::new();
    }
    let mut violations = Vec::new();
    for ((table, partition), held) in replicas(nodes, state) {
        for ((_, key), version) in purged.iter().filter(|((of, _), _)| *of == table) {
            for Held { node, store } in
                held.iter().filter(|held| held.store.bits().partition_of(key.token()) == partition)
            {
                if let Some(older) = store.header(table, key).ok().flatten().filter(|held| held.version < *version) {
                    violations.push(Violation::Resurrected(format!(
                        "{} holds {} of {key}, of which {version} was purged ({:?})",
                        node.id,
                        older.version,
                        store.range_state(table, partition)
                    )));
                }
            }
        }
    }
    violations
}

/// At no level is a client told what was deleted and purged before it asked, through a node that knew the newest map.
pub(super) fn nothing_rose(history: &History) -> Vec<Violation> {
    let reads = history.reads.iter().filter(|read| history.is_there(read.table, read.ended_us));
    let rose = reads.filter(|read| read.record.as_ref().is_some_and(|record| Some(record.version) < read.gone));
    rose.map(|read| {
        Violation::ToldOfPurged(format!(
            "{} gave {:?} at {} at {} us, and {:?} of it had been purged",
            read.key, read.record, read.reach, read.ended_us, read.gone
        ))
    })
    .collect()
}

/// What a replica holds of a tree: its rows, and the sums of its leaves.
struct Content {
    rows: BTreeMap<RowKey, RecordHeader>,
    root: LeafSum,
}

fn content(store: &Store, (table, partition): Tree) -> Result<Content, StoreError> {
    let (first, last) = store.bits().tokens_of(partition);
    let mut page = ScanRequest::all(table, Scope::Tokens(first, last), store.limits());
    let mut rows = BTreeMap::new();
    loop {
        let found = store.scan(&page)?;
        for row in found.rows {
            if let Some(header) = store.header(table, &row.key)? {
                rows.insert(row.key, header);
            }
        }
        match found.next {
            Some(next) => page.resume = Some(next),
            None => break,
        }
    }
    Ok(Content { rows, root: store.root(table, partition)? })
}

/// The replicas of each tree hold the same rows, and their trees tell the same of them. While purge is under way, a row
/// that is dead below the floor of one of them equals none.
pub(super) fn all_equal(nodes: &Nodes, state: &ClusterState, while_purging: bool) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (tree, held) in replicas(nodes, state) {
        let floor = held.iter().map(|held| held.store.range_state(tree.0, tree.1).floor).max().unwrap_or_default();
        let mut contents = Vec::new();
        for Held { node, store } in &held {
            match content(store, tree) {
                Ok(mut content) => {
                    let before = content.rows.len();
                    if while_purging {
                        content.rows.retain(|_, header| !header.is_purgeable(floor));
                    }
                    let is_whole = content.rows.len() == before;
                    contents.push((node.id, content, is_whole));
                }
                Err(error) => violations.push(Violation::Diverged(format!("{tree:?} on {}: {error}", node.id))),
            }
        }
        let Some((first, expected, is_whole)) = contents.first() else { continue };
        for (other, content, other_is_whole) in contents.iter().skip(1) {
            let same_root = content.root == expected.root || !is_whole || !other_is_whole;
            if content.rows == expected.rows && same_root {
                continue;
            }
            let keys: BTreeSet<&RowKey> = expected.rows.keys().chain(content.rows.keys()).collect();
            let version = |rows: &BTreeMap<RowKey, RecordHeader>, key| rows.get(key).map(|header| header.version);
            let differs = |key: &&&RowKey| expected.rows.get(**key) != content.rows.get(**key);
            let told = keys.iter().filter(differs).map(|key| {
                let (mine, theirs) = (version(&expected.rows, key), version(&content.rows, key));
                format!("{key} {mine:?} {theirs:?}")
            });
            let told: Vec<String> = told.collect();
            violations.push(Violation::Diverged(format!("{tree:?} on {first} and {other}: {}", told.join(", "))));
        }
    }
    violations
}

/// A step of the scrub takes a whole table.
const ALL: ScrubBounds = ScrubBounds { rows_max: usize::MAX, bytes_max: usize::MAX };

/// The trees, derived from the rows once more, are what is kept of them.
pub(super) fn trees_are_true(nodes: &Nodes) -> Vec<Violation> {
    let mut violations = Vec::new();
    for node in nodes.values() {
        let Some(process) = &node.process else { continue };
        for (table, _) in process.store.tables() {
            match process.store.scrub_step(table, &LeafId(0).into(), ALL) {
                Ok(scrubbed) if scrubbed.damaged.is_empty() && scrubbed.next.is_none() => {}
                found => violations.push(Violation::TreeUntrue(format!("{table} on {}: {found:?}", node.id))),
            }
        }
    }
    violations
}

/// When the grace is long over, no deletion and no ended value is left on any replica.
pub(super) fn nothing_dead_is_left(nodes: &Nodes, state: &ClusterState) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (tree, held) in replicas(nodes, state) {
        for Held { node, store } in held {
            let now = node.process.as_ref().map(|process| process.clock.peek()).unwrap_or_default();
            let rows = content(store, tree).map(|content| content.rows).unwrap_or_default();
            let dead: Vec<&RowKey> =
                rows.iter().filter(|(_, header)| header.is_purgeable(now)).map(|(key, _)| key).collect();
            if !dead.is_empty() {
                let (range, status) = (
                    store.range_state(tree.0, tree.1),
                    node.process.as_ref().map(|process| process.repair.status()).unwrap_or_default(),
                );
                violations.push(Violation::DeadKept(format!(
                    "{tree:?} on {} still holds {dead:?} at {now}: {range:?}, {} rounds, blocked by {:?}, {:?}",
                    node.id, status.purge_rounds, status.purge_blocked, status.last_error
                )));
            }
        }
    }
    violations
}

//! The answering side: every question about this node's replicas, answered from its store in bounded pieces.
//!
//! It tells only what is in sync here. A replica that is not, or that finds damage while it answers, says so instead: what
//! is damaged is never sent, and heals like a joiner. A node that has enough to do refuses, and is asked later.

use cube_storage::merkle::LeafId;
use cube_storage::model::{Epoch, Hlc, NodeId, PartitionId, RowKey, TableId};
use cube_storage::{LeafSpan, Store, StoreError, SyncState, TreeNodes};

use super::questions::{Answer, ChildSums, HeldRow, LeafRows, NotCompared, Proof, Question, RootDigest, Top, Tree};
use crate::messages::Refusal;

/// Rows that one answer lists at the most, unless the first leaf alone has more.
pub const LIST_ROWS_MAX: usize = 4_096;
/// Bytes of keys that one answer lists at the most.
pub const LIST_BYTES_MAX: usize = 1 << 20;
/// Rows of a leaf above which it is compared in pieces.
pub const HOT_ROWS: i64 = 512;
/// Rows of a piece.
pub const PIECE_ROWS: i64 = 256;
/// Pieces of one answer: all their rows are read for it, on both sides, and the longest keys make a megabyte of it.
pub const PIECES_MAX: usize = 128;
/// Bytes of records in one answer; a first row that is larger comes alone.
pub const ROWS_BYTES_MAX: usize = 1 << 20;
/// Rows looked at by one request to purge, after which no further tree is begun.
const PURGE_ROWS_MAX: usize = 20_000;
/// Rows looked at under one lock.
const PURGE_STEP_ROWS: usize = 1_000;
/// Bytes that wait to be written above which a node has no time for comparisons.
const BUSY_QUEUE_BYTES: usize = 16 << 20;
/// After which a node that refused is asked again.
const BUSY_RETRY_MS: u32 = 500;
/// After which a node that hints come to is asked again.
const CATCHES_UP_RETRY_MS: u32 = 1_000;
/// After which a node that compares with the asker already is asked again.
const TAKEN_RETRY_MS: u32 = 100;

/// Whether a tree of this node may be compared.
pub fn comparable(store: &Store, (table, partition): Tree) -> Result<(), NotCompared> {
    let options = store.table(table).map_err(|_| NotCompared::UnknownTable)?;
    match store.partition(options.placement, partition).sync {
        SyncState::Synced => Ok(()),
        SyncState::Unsynced(cause) => Err(NotCompared::Unsynced(cause)),
    }
}

/// The newest map of a tree's partition that this node has fenced.
pub fn epoch_of(store: &Store, (table, partition): Tree) -> Epoch {
    store.table(table).map(|options| store.partition(options.placement, partition).epoch).unwrap_or(Epoch(0))
}

/// Whether this node has more to do than to compare.
pub fn is_busy(store: &Store) -> bool {
    store.queue_depth().0 > BUSY_QUEUE_BYTES
}

/// What a failure of the store says of a tree; anything else is a failure of the whole question.
pub fn not_compared(error: StoreError) -> Result<NotCompared, StoreError> {
    match error {
        StoreError::Corrupt(_) => Ok(NotCompared::Damaged),
        StoreError::Invalid(cube_storage::model::Invalid::UnknownTable { .. }) => Ok(NotCompared::UnknownTable),
        error => Err(error),
    }
}

/// What a node knows beside its store when it is asked.
pub trait Attendant: Send + Sync {
    /// Below which version this node holds, and will create, no hint and no write in flight; nothing while it cannot say.
    fn watermark(&self) -> Option<Hlc>;

    /// The last member to have joined, as this node has heard.
    fn last_member(&self) -> Option<NodeId>;

    /// Whether hints come to it: a comparison would send once more what is on its way.
    fn catches_up(&self) -> bool;

    /// Whether it compares its own replicas with those of a peer right now: two comparisons of the same partitions at a
    /// time would send every row twice.
    fn compares_with(&self, peer: NodeId) -> bool;

    /// A client's write was made durable here, after so long.
    fn wrote(&self, took_ms: u64);

    /// A peer found these trees to be equal there and here, as of then.
    fn on_equal(&self, peer: NodeId, horizon: Hlc, trees: &[Tree]);
}

/// Answers a question from the store, and from the attendant what the store does not know.
pub fn answer(
    store: &Store,
    attendant: Option<&dyn Attendant>,
    from: NodeId,
    question: &Question,
) -> Result<Answer, Refusal> {
    let begins = matches!(question, Question::Roots { .. });
    if is_busy(store) {
        return Err(Refusal::Overloaded { retry_after_ms: BUSY_RETRY_MS });
    }
    if begins && attendant.is_some_and(Attendant::catches_up) {
        return Err(Refusal::Overloaded { retry_after_ms: CATCHES_UP_RETRY_MS });
    }
    if begins && attendant.is_some_and(|attendant| attendant.compares_with(from)) {
        return Err(Refusal::Overloaded { retry_after_ms: TAKEN_RETRY_MS });
    }
    match question {
        Question::Roots { horizon, tables } => roots(store, *horizon, tables),
        Question::Nodes { horizon, floors, trees } => nodes(store, *horizon, floors, trees),
        Question::Leaves { table, leaves } => leaves_of(store, *table, leaves),
        Question::Pieces { table, leaf, after } => {
            comparable(store, (*table, leaf.partition())).map_err(refused)?;
            let span = LeafSpan { table: *table, leaf: *leaf, after: after.as_ref(), upto: None };
            let (pieces, more) = store.leaf_pieces(span, PIECE_ROWS, PIECES_MAX)?;
            Ok(Answer::Pieces { pieces, more })
        }
        Question::Span { table, leaf, after, upto } => {
            comparable(store, (*table, leaf.partition())).map_err(refused)?;
            let span = LeafSpan { table: *table, leaf: *leaf, after: after.as_ref(), upto: upto.as_ref() };
            Ok(Answer::Span(store.leaf_headers(span, LIST_ROWS_MAX, LIST_BYTES_MAX)?))
        }
        Question::Rows { table, keys } => rows(store, *table, keys),
        Question::Proofs { trees } => {
            let proof = |&(table, partition): &Tree| {
                comparable(store, (table, partition)).ok()?;
                let (state, placement) = (store.range_state(table, partition), store.table(table).ok()?.placement);
                let epoch = store.partition(placement, partition).epoch;
                Some(Proof { floor: state.floor, synced_through: state.synced_through, epoch })
            };
            Ok(Answer::Proofs(trees.iter().map(proof).collect()))
        }
        Question::Watermark => Err(Refusal::Unsupported("watermarks for who does not tell whom it knows".into())),
        Question::WatermarkAmong { last } => {
            if attendant.and_then(Attendant::last_member).is_some_and(|known| known > *last) {
                return Err(Refusal::MembersBehind(*last));
            }
            let watermark = attendant.and_then(Attendant::watermark);
            watermark.map(Answer::Watermark).ok_or_else(|| Refusal::Unsupported("watermarks".into()))
        }
        Question::Fence { floors } => {
            let synced = |&(table, partition, _): &(_, _, _)| comparable(store, (table, partition)).is_ok();
            let fenced = store.fence_floors(floors)?;
            Ok(Answer::Fenced(floors.iter().zip(fenced).map(|(floor, fenced)| fenced && synced(floor)).collect()))
        }
        Question::Purge { floors } => purge(store, floors),
        Question::Equal { horizon, trees } => {
            let attendant = attendant.ok_or_else(|| Refusal::Unsupported("in-sync times".into()))?;
            let trees: Vec<Tree> = trees.iter().copied().filter(|tree| comparable(store, *tree).is_ok()).collect();
            attendant.on_equal(from, *horizon, &trees);
            Ok(Answer::Noted)
        }
    }
}

fn refused(cause: NotCompared) -> Refusal {
    match cause {
        NotCompared::Unsynced(cause) => Refusal::Unsynced(cause),
        other => Refusal::Damaged(other.to_string()),
    }
}

fn roots(store: &Store, horizon: Hlc, tables: &[(TableId, Vec<(PartitionId, RootDigest)>)]) -> Result<Answer, Refusal> {
    let asked: Vec<(Tree, RootDigest)> = tables
        .iter()
        .flat_map(|(table, roots)| roots.iter().map(|(partition, digest)| ((*table, *partition), *digest)))
        .collect();
    let (mut differing, mut known) = (Vec::new(), Vec::new());
    for &(tree, digest) in &asked {
        match comparable(store, tree) {
            Ok(()) => known.push((tree, digest)),
            Err(cause) => differing.push((tree.0, tree.1, Err(cause))),
        }
    }
    let trees: Vec<Tree> = known.iter().map(|(tree, _)| *tree).collect();
    let mut tops = Vec::new();
    for (&(tree, theirs), root) in known.iter().zip(store.roots_as_of(horizon, &trees)) {
        let floor = store.range_state(tree.0, tree.1).floor;
        match root {
            Ok(root) if RootDigest::of(root, floor, epoch_of(store, tree)) == theirs => {}
            Ok(_) => tops.push((tree, floor)),
            Err(error) => differing.push((tree.0, tree.1, Err(not_compared(error)?))),
        }
    }
    let below: Vec<TreeNodes> = tops.iter().map(|&(tree, _)| root_node(tree)).collect();
    for ((tree, floor), children) in tops.into_iter().zip(store.children_as_of(horizon, &below)) {
        let top = match children {
            Ok(children) => {
                let children = children.first().map(ChildSums::of).unwrap_or_default();
                Ok(Top { floor, epoch: epoch_of(store, tree), children })
            }
            Err(error) => Err(not_compared(error)?),
        };
        differing.push((tree.0, tree.1, top));
    }
    Ok(Answer::Roots(differing))
}

/// The root of a tree, as a node whose children are asked for.
pub(super) fn root_node((table, partition): Tree) -> TreeNodes {
    TreeNodes { table, partition, level: 0, nodes: vec![0] }
}

fn nodes(
    store: &Store,
    horizon: Hlc,
    floors: &[(TableId, PartitionId, Hlc)],
    trees: &[TreeNodes],
) -> Result<Answer, Refusal> {
    // A floor is never above what was compared: one that is would keep every write out.
    let sound =
        |floor: &&(TableId, PartitionId, Hlc)| floor.2 <= horizon && comparable(store, (floor.0, floor.1)).is_ok();
    let floors: Vec<_> = floors.iter().filter(sound).copied().collect();
    store.take_floors(&floors)?;
    let mut told = Vec::with_capacity(trees.len());
    for (tree, children) in trees.iter().zip(store.children_as_of(horizon, trees)) {
        told.push(match (comparable(store, (tree.table, tree.partition)), children) {
            (Err(cause), _) => Err(cause),
            (Ok(()), Ok(children)) => Ok(children.iter().map(ChildSums::of).collect()),
            (Ok(()), Err(error)) => Err(not_compared(error)?),
        });
    }
    Ok(Answer::Nodes(told))
}

fn leaves_of(store: &Store, table: TableId, leaves: &[LeafId]) -> Result<Answer, Refusal> {
    let (mut told, mut rows, mut bytes) = (Vec::new(), 0, 0);
    for &leaf in leaves {
        if rows >= LIST_ROWS_MAX || bytes >= LIST_BYTES_MAX {
            break;
        }
        let listed = match comparable(store, (table, leaf.partition())) {
            Err(cause) => Err(cause),
            Ok(()) => match list_leaf(store, table, leaf) {
                Ok(listed) => Ok(listed),
                Err(error) => Err(not_compared(error)?),
            },
        };
        if let Ok(LeafRows::All(list)) = &listed {
            rows += list.len();
            bytes += list.iter().map(|row| row.key.len_bytes()).sum::<usize>();
        }
        told.push(listed);
    }
    Ok(Answer::Leaves(told))
}

fn list_leaf(store: &Store, table: TableId, leaf: LeafId) -> Result<LeafRows, StoreError> {
    if store.leaf_rows_count(table, leaf)? > HOT_ROWS {
        return Ok(LeafRows::Hot);
    }
    let span = LeafSpan { table, leaf, after: None, upto: None };
    let page = store.leaf_headers(span, LIST_ROWS_MAX, LIST_BYTES_MAX)?;
    Ok(if page.more { LeafRows::Hot } else { LeafRows::All(page.rows) })
}

fn rows(store: &Store, table: TableId, keys: &[RowKey]) -> Result<Answer, Refusal> {
    let (mut told, mut bytes) = (Vec::new(), 0);
    for key in keys {
        let partition = store.bits().partition_of(key.token());
        comparable(store, (table, partition)).map_err(refused)?;
        let record = store.get(table, key)?;
        let more = record.as_ref().map_or(0, |record| record.encoded_len());
        if bytes > 0 && bytes + more > ROWS_BYTES_MAX {
            break;
        }
        bytes += more.max(1);
        told.push(HeldRow { record, floor: store.range_state(table, partition).floor });
    }
    Ok(Answer::Rows(told))
}

/// Purges by the floors that were fenced, tree after tree until enough rows were looked at. A tree whose floor is another
/// one by now is left to the round of that floor: it may have been taken over without a proof.
fn purge(store: &Store, floors: &[(TableId, PartitionId, Hlc)]) -> Result<Answer, Refusal> {
    let (mut rows, mut examined, mut trees) = (0, 0, 0);
    for &(table, partition, floor) in floors {
        if examined >= PURGE_ROWS_MAX {
            break;
        }
        trees += 1;
        if comparable(store, (table, partition)).is_err() || store.range_state(table, partition).floor != floor {
            continue;
        }
        let mut from = None;
        loop {
            let step = store.purge_step(table, partition, from.as_ref(), PURGE_STEP_ROWS)?;
            rows += step.removed as u64;
            examined += step.examined;
            from = step.next;
            if from.is_none() {
                break;
            }
        }
    }
    Ok(Answer::Purged { rows, trees })
}

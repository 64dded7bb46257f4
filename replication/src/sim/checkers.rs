//! What must hold of a run, judged from what clients saw and what disks hold. Each checker is one promise; each is proven
//! by a mutant that it catches (`tests/simulation.rs`).

use std::collections::BTreeMap;
use std::fmt;

use cube_storage::model::{Body, NodeId, PartitionBits, RowKey, TableId, Version};
use cube_storage::scan::{ScanRequest, Scope};
use cube_storage::{StoreError, SyncState};

use super::control::{PLACEMENT, TABLE_ID};
use super::history::{History, RowRead, RowWritten};
use super::node::{BITS, SimNode};
use crate::catalog::ClusterState;
use crate::topology::MemberState;

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// The run could not be set up or a node could not start.
    Setup(String),
    /// A message did not read back.
    Undecodable(String),
    /// A replica that acknowledged a write holds neither it nor something newer.
    AcknowledgedLost(String),
    /// A quorum read did not see a quorum write that completed before it began.
    StaleQuorumRead(String),
    /// A quorum read saw something older than an earlier one did.
    ReadWentBack(String),
    /// A quorum write that began after another was acknowledged lost to it.
    LaterWriteLost(String),
    /// A read returned what was never written to the row.
    Invented(String),
    /// A scan listed a row twice.
    ScannedTwice(String),
    /// A replica missed an acknowledged write, and that is noted nowhere.
    MissedUnnoted(String),
    /// A replica holds, or took, a part of a batch of one partition key.
    BatchTorn(String),
    /// A client was never told what came of its request.
    NeverTold(String),
    /// A node still holds rows of a partition that it left.
    LeftBehind(String),
    /// A value that had ended was seen again.
    CameBack(String),
    /// A write to a table that is gone was not refused.
    DroppedServed(String),
    /// A node still holds rows of a table that is gone.
    DroppedKept(String),
    /// A replica was placed on a node that had not arrived.
    PlacedTooEarly(String),
    /// A node that is no replica of a row took a hint of it.
    TakenByFormer(String),
    /// What was deleted and purged is there again.
    Resurrected(String),
    /// What was deleted and purged was told to a client.
    ToldOfPurged(String),
    /// After the heal, two replicas do not hold the same.
    Diverged(String),
    /// After the heal, a tree is not what the rows add up to.
    TreeUntrue(String),
    /// A deletion or an ended value is never purged.
    DeadKept(String),
    /// After the heal, hints were not delivered.
    HintsKept(String),
    /// After the heal, a node that joined did not become ready.
    NotReady(String),
    /// After the heal, a member that leaves has not left, or still runs.
    NotGone(String),
    /// After the heal, a replica did not come to be in sync.
    OutOfSync(String),
    /// After the heal, a change of replicas did not complete.
    MoveStuck(String),
    /// After the heal, requests did not succeed.
    NotAlive(String),
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, detail) = match self {
            Self::Setup(detail) => ("the run could not go on", detail),
            Self::Undecodable(detail) => ("a message did not read back", detail),
            Self::AcknowledgedLost(detail) => ("a replica lost a write that it acknowledged", detail),
            Self::StaleQuorumRead(detail) => ("a quorum read missed a quorum write", detail),
            Self::ReadWentBack(detail) => ("quorum reads went back", detail),
            Self::LaterWriteLost(detail) => ("a later quorum write lost to an earlier one", detail),
            Self::ScannedTwice(detail) => ("a scan listed a row twice", detail),
            Self::Invented(detail) => ("a read returned what was never written", detail),
            Self::MissedUnnoted(detail) => ("what a replica missed is noted nowhere", detail),
            Self::BatchTorn(detail) => ("a batch was torn", detail),
            Self::NeverTold(detail) => ("a client was never told", detail),
            Self::LeftBehind(detail) => ("a former replica kept rows", detail),
            Self::CameBack(detail) => ("a value that had ended came back", detail),
            Self::DroppedServed(detail) => ("a write to a dropped table was not refused", detail),
            Self::DroppedKept(detail) => ("rows of a dropped table are left", detail),
            Self::PlacedTooEarly(detail) => ("a replica was placed on a node that had not arrived", detail),
            Self::TakenByFormer(detail) => ("a node took a hint of a row that it is no replica of", detail),
            Self::Resurrected(detail) => ("what was purged came back", detail),
            Self::ToldOfPurged(detail) => ("a client was told of what was purged", detail),
            Self::Diverged(detail) => ("replicas differ after the heal", detail),
            Self::TreeUntrue(detail) => ("a tree is not what the rows add up to", detail),
            Self::DeadKept(detail) => ("what is dead is never purged", detail),
            Self::HintsKept(detail) => ("hints were not delivered after the heal", detail),
            Self::NotReady(detail) => ("a node that joined is not ready after the heal", detail),
            Self::NotGone(detail) => ("a member that leaves is not gone after the heal", detail),
            Self::OutOfSync(detail) => ("a replica is not in sync after the heal", detail),
            Self::MoveStuck(detail) => ("a change did not complete after the heal", detail),
            Self::NotAlive(detail) => ("requests did not succeed after the heal", detail),
        };
        write!(f, "{what}: {detail}")
    }
}

/// An acknowledged write.
struct Acknowledged<'a> {
    row: &'a RowWritten,
    version: Version,
    by: &'a [NodeId],
    at_us: u64,
}

fn acknowledged(history: &History) -> impl Iterator<Item = Acknowledged<'_>> {
    history.writes.iter().filter_map(|row| {
        let ended = row.ended.as_ref()?;
        let (version, by) = ended.success.as_ref()?;
        Some(Acknowledged { row, version: *version, by, at_us: ended.at_us })
    })
}

/// Every replica that acknowledged a write holds it or something newer, or has purged that, as long as it is counted. One
/// that was cleared to become a replica again copied from a quorum, which holds what was acknowledged by quorum.
pub(super) fn acknowledged_is_held(history: &History, node: &SimNode, state: &ClusterState) -> Vec<Violation> {
    let Some(process) = &node.process else { return Vec::new() };
    let bits = PartitionBits::new(BITS).unwrap_or(PartitionBits::DEFAULT);
    let mut held: BTreeMap<(TableId, &RowKey), Result<Option<Version>, StoreError>> = BTreeMap::new();
    let mut violations = Vec::new();
    for write in acknowledged(history).filter(|write| write.by.contains(&node.id)) {
        let key = &write.row.key;
        let partition = bits.partition_of(key.token());
        let epoch_written = node.known.state.topology.placement(PLACEMENT).and_then(|p| p.partition(partition));
        let still_holds = epoch_written.is_some_and(|map| map.serving().contains(node.id))
            && process.store.partition(PLACEMENT, partition).sync == SyncState::Synced;
        let copied = node.cleared_us.get(&partition).is_some_and(|cleared_us| *cleared_us >= write.row.begun_us);
        let table = write.row.table;
        if !still_holds || (copied && !write.row.reach.is_quorum()) || !is_present(state, table) {
            continue;
        }
        let read = || process.store.header(table, key).map(|header| header.map(|header| header.version));
        match held.entry((table, key)).or_insert_with(read) {
            Ok(Some(version)) if *version >= write.version => {}
            Err(StoreError::Corrupt(_)) if node.flipped.contains(key) => {}
            Ok(_) if node.covers(table, key, write.version) => {}
            found => violations.push(Violation::AcknowledgedLost(format!(
                "{} acknowledged write {} of {key} ({}) at {} us and holds {found:?}",
                node.id, write.row.write, write.version, write.at_us
            ))),
        }
    }
    violations
}

/// A quorum read returns the last quorum write completed before it began, or something newer; the same of quorums of one
/// data center.
pub(super) fn quorum_reads(history: &History) -> Vec<Violation> {
    let mut violations = Vec::new();
    for read in &history.reads {
        if !history.is_there(read.table, read.ended_us) {
            continue;
        }
        let is_met = |row: &RowWritten| row.is_of(read.table, &read.key) && row.reach.is_met_by(&read.reach);
        let before = acknowledged(history).filter(|write| write.at_us < read.begun_us && is_met(write.row));
        let Some(newest) = before.max_by_key(|write| write.version) else { continue };
        if read.version() < Some(newest.version) {
            violations.push(Violation::StaleQuorumRead(format!(
                "{} read at {} from {} us to {} us gave {:?}, but write {} ({}) was acknowledged at {} us",
                read.key,
                read.reach,
                read.begun_us,
                read.ended_us,
                read.record,
                newest.row.write,
                newest.version,
                newest.at_us
            )));
        }
    }
    violations
}

/// Successive quorum reads of a row never go back in version order.
pub(super) fn monotonic_reads(history: &History) -> Vec<Violation> {
    let mut violations = Vec::new();
    for read in &history.reads {
        if !history.is_there(read.table, read.ended_us) {
            continue;
        }
        let is_met = |other: &&RowRead| {
            (other.table, &other.key) == (read.table, &read.key) && other.reach.is_met_by(&read.reach)
        };
        let earlier = history.reads.iter().filter(|other| other.ended_us < read.begun_us).filter(is_met);
        let Some(newest) = earlier.max_by_key(|other| other.version()) else { continue };
        if read.version() < newest.version() {
            violations.push(Violation::ReadWentBack(format!(
                "{} gave {:?} until {} us and {:?} from {} us on",
                read.key, newest.record, newest.ended_us, read.record, read.begun_us
            )));
        }
    }
    violations
}

/// A quorum write that begins after another was acknowledged has a greater version, whatever the clocks say; unless the
/// client chose the timestamp.
pub(super) fn writes_win_in_order(history: &History) -> Vec<Violation> {
    let mut violations = Vec::new();
    let all: Vec<Acknowledged<'_>> = acknowledged(history).collect();
    let counts =
        |write: &&Acknowledged<'_>| !write.row.client_timestamp && history.is_there(write.row.table, write.at_us);
    for later in all.iter().filter(counts) {
        let is_met =
            |row: &RowWritten| row.is_of(later.row.table, &later.row.key) && row.reach.is_met_by(&later.row.reach);
        let before = all.iter().filter(|other| other.at_us < later.row.begun_us && is_met(other.row));
        let Some(newest) = before.max_by_key(|other| other.version) else { continue };
        if later.version <= newest.version {
            violations.push(Violation::LaterWriteLost(format!(
                "write {} of {} ({}) was acknowledged at {} us, write {} ({}) began at {} us",
                newest.row.write,
                newest.row.key,
                newest.version,
                newest.at_us,
                later.row.write,
                later.version,
                later.row.begun_us
            )));
        }
    }
    violations
}

/// A scan lists each row once, through whichever nodes and maps its pages come. What it passes over counts as read and
/// absent, for the checkers of reads.
pub(super) fn scanned_once(history: &History) -> Vec<Violation> {
    history.scanned_twice.iter().cloned().map(Violation::ScannedTwice).collect()
}

/// What is read was written to that row, by a request that had begun and was not refused; and a version stands for one
/// record.
pub(super) fn nothing_invented(history: &History) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut records: BTreeMap<(TableId, &RowKey, Version), &RowRead> = BTreeMap::new();
    for read in &history.reads {
        let Some(record) = &read.record else { continue };
        let first = records.entry((read.table, &read.key, record.version)).or_insert(read);
        if first.record != read.record {
            violations.push(Violation::Invented(format!("{} has two records of {}", read.key, record.version)));
        }
        let told = || format!("{} gave {record:?} at {} us", read.key, read.ended_us);
        match &record.body {
            Body::Value { value, .. } => {
                let write = <[u8; 8]>::try_from(value.as_ref()).map(u64::from_be_bytes).ok();
                let written = write.and_then(|w| history.writes.get(usize::try_from(w).ok()?));
                let fits = written.is_some_and(|row| may_be_read(row, read) && !row.is_delete);
                if !fits {
                    violations.push(Violation::Invented(told()));
                }
            }
            Body::Tombstone => {
                let deleted = history.writes.iter().any(|row| row.is_delete && may_be_read(row, read));
                if !deleted {
                    violations.push(Violation::Invented(told()));
                }
            }
        }
    }
    violations
}

fn may_be_read(row: &RowWritten, read: &RowRead) -> bool {
    let refused = row.ended.as_ref().is_some_and(|ended| ended.refused);
    row.is_of(read.table, &read.key) && row.begun_us <= read.ended_us && !refused
}

/// Whether a replica was one at the time of a write, and has not begun anew since: then it copied from a quorum, which need
/// not hold writes below quorum. One that began anew by a newer map than the write's coordinator knew may have done so before.
pub(super) fn must_hold(row: &RowWritten, replica: Option<&SimNode>) -> bool {
    let bits = PartitionBits::new(BITS).unwrap_or(PartitionBits::DEFAULT);
    let partition = bits.partition_of(row.key.token());
    replica.is_some_and(|replica| {
        row.replicas.contains(&replica.id)
            && replica.cleared_us.get(&partition).is_none_or(|cleared_us| *cleared_us < row.begun_us)
            && replica.cleared_at.get(&partition).is_none_or(|map| *map <= row.map)
    })
}

/// After the heal, nobody holds rows of a partition that it is no replica of.
pub(super) fn nothing_is_left(nodes: &BTreeMap<NodeId, SimNode>, state: &ClusterState) -> Vec<Violation> {
    let maps = state.topology.placement(PLACEMENT).into_iter().flat_map(|placement| placement.partitions());
    let maps: Vec<_> = maps.collect();
    let mut violations = Vec::new();
    for (id, node) in nodes {
        let Some(process) = &node.process else { continue };
        for (partition, _) in maps.iter().filter(|(_, map)| !map.write_sets().contains(*id)) {
            let (first, last) = process.store.bits().tokens_of(*partition);
            for (table, _) in process.store.tables() {
                let page = ScanRequest::all(table, Scope::Tokens(first, last), process.store.limits());
                let rows = process.store.scan(&page).map(|page| page.rows.len());
                if rows != Ok(0) {
                    let detail = format!("{id} holds {rows:?} rows of {partition} of {table}");
                    violations.push(Violation::LeftBehind(detail));
                }
            }
        }
    }
    violations
}

/// A value that one read saw to have ended is not seen by a later one that must meet it, whatever the clocks say.
pub(super) fn expired_stays(history: &History) -> Vec<Violation> {
    let mut violations = Vec::new();
    let expired: Vec<&RowRead> = history.reads.iter().filter(|read| read.is_expired()).collect();
    let expires = |read: &&RowRead| read.record.as_ref().is_some_and(|record| record.expiry().is_some());
    for read in history.reads.iter().filter(expires).filter(|read| !read.is_expired()) {
        let is_earlier = |other: &&&RowRead| {
            (other.table, &other.key, other.version()) == (read.table, &read.key, read.version())
                && other.ended_us < read.begun_us
                && other.reach.is_met_by(&read.reach)
        };
        if let Some(earlier) = expired.iter().find(is_earlier) {
            violations.push(Violation::CameBack(format!(
                "{} had ended at {} us by {}, and {:?} was told at {} us by {}",
                read.key, earlier.ended_us, earlier.as_of, read.record, read.ended_us, read.as_of
            )));
        }
    }
    violations
}

/// Who knows that a table is gone refuses to write to it; after the heal everybody does.
pub(super) fn dropped_is_refused(history: &History) -> Vec<Violation> {
    history.served_dropped.iter().cloned().map(Violation::DroppedServed).collect()
}

/// After the heal, nobody holds rows of a table that was dropped.
pub(super) fn dropped_is_gone(
    nodes: &BTreeMap<NodeId, SimNode>,
    dropped: impl Iterator<Item = TableId>,
) -> Vec<Violation> {
    let dropped: Vec<TableId> = dropped.collect();
    // What is on a disk that nobody uses any more counts for nothing.
    let nodes = nodes.values().filter(|node| !node.is_dead);
    let places = nodes.flat_map(|node| dropped.iter().map(move |table| (node, *table, node.rows_of(*table))));
    let left = places.filter(|(_, _, rows)| *rows > 0);
    left.map(|(node, table, rows)| Violation::DroppedKept(format!("{} holds {rows} rows of {table}", node.id)))
        .collect()
}

/// After the heal, whoever joined serves all it is wanted for.
pub(super) fn joined_is_ready(state: &ClusterState) -> Vec<Violation> {
    let members = state.topology.members().values();
    let early = members.filter(|member| matches!(member.state, MemberState::Joining | MemberState::Warming));
    early.map(|member| Violation::NotReady(format!("{} is still {}", member.id, member.state))).collect()
}

/// Nothing is placed on a node before it has arrived: it would be waited for by every write.
pub(super) fn placed_on_arrived(state: &ClusterState) -> Vec<Violation> {
    let maps = || state.topology.placement(PLACEMENT).into_iter().flat_map(|placement| placement.partitions());
    let joining = state.topology.members().values().filter(|member| member.state == MemberState::Joining);
    let placed = joining.filter(|member| maps().any(|(_, map)| map.write_sets().contains(member.id)));
    placed.map(|member| Violation::PlacedTooEarly(format!("{} holds replicas", member.id))).collect()
}

/// Whether a table is there by the newest schema.
pub(super) fn is_present(state: &ClusterState, table: TableId) -> bool {
    state.schema.table_options().any(|(present, _)| present == table)
}

/// After the heal, every replica is in sync, whatever it had lost.
pub(super) fn all_in_sync(nodes: &BTreeMap<NodeId, SimNode>, state: &ClusterState) -> Vec<Violation> {
    let maps = state.topology.placement(PLACEMENT).into_iter().flat_map(|placement| placement.partitions());
    let replicas = maps.flat_map(|(partition, map)| map.serving().nodes().iter().map(move |node| (partition, *node)));
    let states = replicas.filter_map(|(partition, id)| {
        let process = nodes.get(&id)?.process.as_ref()?;
        Some((partition, id, process.store.partition(PLACEMENT, partition).sync))
    });
    let unsynced = states.filter(|(_, _, sync)| *sync != SyncState::Synced);
    unsynced.map(|(partition, id, sync)| Violation::OutOfSync(format!("{partition} on {id} is {sync:?}"))).collect()
}

/// After the heal, every row was written and read through every node.
pub(super) fn liveness(history: &History, from_us: u64, nodes: usize) -> Vec<Violation> {
    let expected = super::client::all_keys().len() * nodes;
    let is_late = |write: &Acknowledged<'_>| write.row.begun_us >= from_us && write.row.table == TABLE_ID;
    let written = acknowledged(history).filter(is_late).count();
    let read = history.reads.iter().filter(|read| read.begun_us >= from_us && read.table == TABLE_ID).count();
    let counts = [(written, "written"), (read, "read")].into_iter().filter(|(done, _)| *done < expected);
    let told = counts.map(|(done, what)| {
        let errors = &history.errors;
        Violation::NotAlive(format!("{done} of {expected} rows could be {what}; the last errors: {errors:?}"))
    });
    told.collect()
}

/// After the heal, no change of replicas is under way.
pub(super) fn moves_complete(moves_under_way: usize) -> Option<Violation> {
    (moves_under_way > 0)
        .then(|| Violation::MoveStuck(format!("{moves_under_way} moves of replicas are still under way")))
}

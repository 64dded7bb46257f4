//! What must hold of a run, judged from what clients saw and what disks hold. Each checker is one promise; each is proven
//! by a mutant that it catches (`tests/simulation.rs`).

use std::collections::BTreeMap;
use std::fmt;

use cube_storage::merkle::LeafId;
use cube_storage::model::{Body, NodeId, PartitionBits, RowKey, Version};
use cube_storage::scan::{ScanRequest, Scope};
use cube_storage::{StoreError, SyncState};

use super::control::{PLACEMENT, TABLE_ID, member_name, written_to};
use super::history::{History, RowRead, RowWritten};
use super::node::{BITS, SimNode};
use crate::catalog::ClusterState;

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
    /// A client was never told what came of its request.
    NeverTold(String),
    /// A node still holds rows of a partition that it left.
    LeftBehind(String),
    /// After the heal, requests did not succeed, or a change did not complete.
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
            Self::NeverTold(detail) => ("a client was never told", detail),
            Self::LeftBehind(detail) => ("a former replica kept rows", detail),
            Self::NotAlive(detail) => ("the cluster did not recover after the heal", detail),
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

fn version_read(read: &RowRead) -> Option<Version> {
    read.record.as_ref().map(|record| record.version)
}

/// Every replica that acknowledged a write holds it or something newer, as long as it is counted. One that was cleared to
/// become a replica again copied from a quorum, which holds what was acknowledged by quorum.
pub(super) fn acknowledged_is_held(history: &History, node: &SimNode) -> Vec<Violation> {
    let Some(process) = &node.process else { return Vec::new() };
    let bits = PartitionBits::new(BITS).unwrap_or(PartitionBits::DEFAULT);
    let mut held: BTreeMap<&RowKey, Result<Option<Version>, StoreError>> = BTreeMap::new();
    let mut violations = Vec::new();
    for write in acknowledged(history).filter(|write| write.by.contains(&node.id)) {
        let key = &write.row.key;
        let partition = bits.partition_of(key.token());
        let epoch_written = node.known.state.topology.placement(PLACEMENT).and_then(|p| p.partition(partition));
        let still_holds = epoch_written.is_some_and(|map| map.serving().contains(node.id))
            && process.store.partition(PLACEMENT, partition).sync == SyncState::Synced;
        let copied = node.cleared_us.get(&partition).is_some_and(|cleared_us| *cleared_us >= write.row.begun_us);
        if !still_holds || (copied && !write.row.reach.is_quorum()) {
            continue;
        }
        let read = || process.store.header(TABLE_ID, key).map(|header| header.map(|header| header.version));
        match held.entry(key).or_insert_with(read) {
            Ok(Some(version)) if *version >= write.version => {}
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
        let is_met = |row: &RowWritten| row.key == read.key && row.reach.is_met_by(&read.reach);
        let before = acknowledged(history).filter(|write| write.at_us < read.begun_us && is_met(write.row));
        let Some(newest) = before.max_by_key(|write| write.version) else { continue };
        if version_read(read) < Some(newest.version) {
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
        let is_met = |other: &&RowRead| other.key == read.key && other.reach.is_met_by(&read.reach);
        let earlier = history.reads.iter().filter(|other| other.ended_us < read.begun_us).filter(is_met);
        let Some(newest) = earlier.max_by_key(|other| version_read(other)) else { continue };
        if version_read(read) < version_read(newest) {
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
    for later in all.iter().filter(|later| !later.row.client_timestamp) {
        let is_met = |row: &RowWritten| row.key == later.row.key && row.reach.is_met_by(&later.row.reach);
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
    let mut records: BTreeMap<(&RowKey, Version), &RowRead> = BTreeMap::new();
    for read in &history.reads {
        let Some(record) = &read.record else { continue };
        let first = records.entry((&read.key, record.version)).or_insert(read);
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
    row.key == read.key && row.begun_us <= read.ended_us && !refused
}

/// Every replica of an acknowledged write holds it or something newer, or its coordinator noted that it does not; unless
/// the coordinator died before it could. How many were missed that way.
pub(super) fn missed_is_noted(
    history: &History,
    nodes: &BTreeMap<NodeId, SimNode>,
    state: &ClusterState,
) -> (Vec<Violation>, u64) {
    let bits = PartitionBits::new(BITS).unwrap_or(PartitionBits::DEFAULT);
    let (mut violations, mut by_death) = (Vec::new(), 0);
    let hints: BTreeMap<NodeId, _> =
        nodes.iter().filter_map(|(id, node)| Some((*id, node.process.as_ref()?.hints.newest()))).collect();
    for write in acknowledged(history) {
        let key = &write.row.key;
        let Some(coordinator) = nodes.get(&write.row.coordinator) else { continue };
        for replica in written_to(state, bits.partition_of(key.token())) {
            let Some(process) = nodes.get(&replica).and_then(|node| node.process.as_ref()) else { continue };
            let held = process.store.header(TABLE_ID, key).ok().flatten().map(|header| header.version);
            let row = (member_name(replica), TABLE_ID, key.clone());
            let hinted = hints.get(&write.row.coordinator).and_then(|hints| hints.get(&row)).copied();
            let leaf = LeafId::of(key.token(), bits);
            let is_marked = coordinator
                .process
                .as_ref()
                .is_some_and(|process| process.hints.is_marked(replica, TABLE_ID, leaf, write.version));
            if held.max(hinted) >= Some(write.version) || is_marked {
                continue;
            }
            if coordinator.lives > write.row.coordinator_life {
                by_death += 1;
            } else if must_hold(write.row, nodes.get(&replica)) {
                violations.push(Violation::MissedUnnoted(format!(
                    "{replica} holds {held:?} of {key}, write {} ({}) was acknowledged by {:?}",
                    write.row.write, write.version, write.by
                )));
            }
        }
    }
    (violations, by_death)
}

/// Whether a replica was one at the time of a write, and has not begun anew since: then it copied from a quorum, which need
/// not hold writes below quorum.
pub(super) fn must_hold(row: &RowWritten, replica: Option<&SimNode>) -> bool {
    let bits = PartitionBits::new(BITS).unwrap_or(PartitionBits::DEFAULT);
    let partition = bits.partition_of(row.key.token());
    replica.is_some_and(|replica| {
        let cleared_us = replica.cleared_us.get(&partition);
        row.replicas.contains(&replica.id) && cleared_us.is_none_or(|cleared_us| *cleared_us < row.begun_us)
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
            let page = ScanRequest::all(TABLE_ID, Scope::Tokens(first, last), process.store.limits());
            let rows = process.store.scan(&page).map(|page| page.rows.len());
            if rows != Ok(0) {
                violations.push(Violation::LeftBehind(format!("{id} holds {rows:?} rows of {partition}")));
            }
        }
    }
    violations
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
    unsynced.map(|(partition, id, sync)| Violation::NotAlive(format!("{partition} on {id} is {sync:?}"))).collect()
}

/// After the heal, every row was written and read through every node, and no change of replicas is under way.
pub(super) fn liveness(history: &History, from_us: u64, nodes: usize, moves_under_way: usize) -> Vec<Violation> {
    let expected = super::client::all_keys().len() * nodes;
    let written = acknowledged(history).filter(|write| write.row.begun_us >= from_us).count();
    let read = history.reads.iter().filter(|read| read.begun_us >= from_us).count();
    let mut violations = Vec::new();
    for (done, what) in [(written, "written"), (read, "read")] {
        if done < expected {
            let errors = &history.errors;
            let detail = format!("{done} of {expected} rows could be {what}; the last errors: {errors:?}");
            violations.push(Violation::NotAlive(detail));
        }
    }
    if moves_under_way > 0 {
        violations.push(Violation::NotAlive(format!("{moves_under_way} moves of replicas are still under way")));
    }
    violations
}

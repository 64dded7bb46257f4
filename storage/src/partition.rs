//! What a node knows of each partition it holds: the fence and the marks that `apply` checks in one place.
//!
//! Per placement and partition: the epoch of the newest map it has fenced, and whether the replica is in sync. Per
//! table and partition: the purge floor, and the horizon up to which the replica was proven equal with the others.
//! All of it is durable before it counts, and loaded whole at start.
//!
//! And a bound of the versions that were ever applied, because a partition that lost something does not know any more which
//! those were: one for each partition since the start, and one on disk for all of them, which is what is known behind a start.
//!
//! Invariants: an epoch and a floor never go back; a floor rises above the proof only where another replica has it already
//! (`purge.rs`), and then purges nothing; a partition that nobody has declared in sync is not.

use std::collections::BTreeMap;

use bytes::BufMut;
use serde::{Deserialize, Serialize};

use crate::engine::{EngineError, Reader};
use crate::meta::{self, Tag};
use crate::model::{Epoch, Hlc, PartitionId, PlacementId, TableId};

/// Why a replica is not in sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum UnsyncedCause {
    /// It is new here: nothing was copied yet.
    New,
    /// Some of its data was found damaged.
    DamagedData,
    /// The write-ahead log ended before what had been synced.
    DamagedLog,
    /// The operator asked for it.
    Operator,
}

/// Whether a replica holds every write it ever acknowledged, and so may be counted in reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SyncState {
    /// It does.
    Synced,
    /// It does not: it takes writes, is not counted, and heals like a joiner.
    Unsynced(UnsyncedCause),
}

/// A placement's partition on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionState {
    /// The newest map it has fenced: requests by an older one are refused.
    pub epoch: Epoch,
    /// Whether it may be counted.
    pub sync: SyncState,
}

impl Default for PartitionState {
    fn default() -> Self {
        Self { epoch: Epoch(0), sync: SyncState::Unsynced(UnsyncedCause::New) }
    }
}

impl SyncState {
    /// Whether damage that is found now has to change the mark: it is in sync, or only marked as new, which says nothing of
    /// rows that it took since and lost.
    pub(crate) fn hides_damage(self) -> bool {
        matches!(self, Self::Synced | Self::Unsynced(UnsyncedCause::New))
    }

    fn has_lost(self) -> bool {
        !self.hides_damage()
    }
}

/// How often a partition was marked out of sync since the store was opened. Who makes it whole notes this before, so that
/// a mark that is set meanwhile is not taken away with the older one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MarkGeneration(u64);

/// A table's partition on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RangeState {
    /// Deletions and ended values up to here may have been purged.
    pub floor: Hlc,
    /// Up to here the replica was proven equal with all others. Taken back by any older version that arrives later.
    pub synced_through: Hlc,
}

const FORMAT: u8 = 1;

/// How far above the version that passed it the noted bound of versions is put: it is noted once in a while.
const BOUND_LEAD_MS: u64 = 10_000;

impl PartitionState {
    fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        out.put_u64(self.epoch.0);
        out.put_u8(match self.sync {
            SyncState::Synced => 0,
            SyncState::Unsynced(UnsyncedCause::New) => 1,
            SyncState::Unsynced(UnsyncedCause::DamagedData) => 2,
            SyncState::Unsynced(UnsyncedCause::DamagedLog) => 3,
            SyncState::Unsynced(UnsyncedCause::Operator) => 4,
        });
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (&[FORMAT], rest) = bytes.split_first_chunk::<1>()? else { return None };
        let (epoch, rest) = rest.split_first_chunk::<8>()?;
        let sync = match rest {
            [0] => SyncState::Synced,
            [1] => SyncState::Unsynced(UnsyncedCause::New),
            [2] => SyncState::Unsynced(UnsyncedCause::DamagedData),
            [3] => SyncState::Unsynced(UnsyncedCause::DamagedLog),
            [4] => SyncState::Unsynced(UnsyncedCause::Operator),
            _ => return None,
        };
        Some(Self { epoch: Epoch(u64::from_be_bytes(*epoch)), sync })
    }
}

impl RangeState {
    fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        out.put_u64(self.floor.0);
        out.put_u64(self.synced_through.0);
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (&[FORMAT], rest) = bytes.split_first_chunk::<1>()? else { return None };
        let (floor, rest) = rest.split_first_chunk::<8>()?;
        let synced = <[u8; 8]>::try_from(rest).ok()?;
        Some(Self { floor: Hlc(u64::from_be_bytes(*floor)), synced_through: Hlc(u64::from_be_bytes(synced)) })
    }
}

/// A table's partition in memory: its durable state, and what a proof under way must know.
#[derive(Clone, Copy, Debug, Default)]
struct Range {
    state: RangeState,
    /// The oldest version applied since the proof under way began.
    oldest_since_proof: Option<Hlc>,
}

/// What is known of a loss.
#[derive(Clone, Copy, Debug)]
struct Loss {
    /// The fence at the time when it was last found. Not on disk: behind a restart it counts as found at the fence there is.
    fence: Epoch,
    /// No version that was lost is above this.
    up_to: Hlc,
}

/// All partitions of the node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Partitions {
    states: BTreeMap<(PlacementId, PartitionId), PartitionState>,
    marks: BTreeMap<(PlacementId, PartitionId), MarkGeneration>,
    lost: BTreeMap<(PlacementId, PartitionId), Loss>,
    ranges: BTreeMap<(TableId, PartitionId), Range>,
    /// No version that was applied since the start is above this.
    newest: BTreeMap<(PlacementId, PartitionId), Hlc>,
    /// No version that was applied before is above this.
    newest_before: Hlc,
    /// What the disk says of both, for all partitions.
    newest_noted: Hlc,
}

impl Partitions {
    pub(crate) fn load(reader: &dyn Reader) -> Result<Self, EngineError> {
        let mut partitions = Self::default();
        meta::load(reader, Tag::VersionBound, FORMAT, |_, value| {
            partitions.newest_noted = decode_bound(value)?;
            Some(())
        })?;
        partitions.newest_before = partitions.newest_noted;
        meta::load(reader, Tag::Partition, FORMAT, |about, value| {
            let (placement, partition) = decode_pair(about)?;
            let (key, state) = ((PlacementId(placement), partition), PartitionState::decode(value)?);
            partitions.states.insert(key, state);
            if state.sync.has_lost() {
                partitions.lost.insert(key, Loss { fence: state.epoch, up_to: partitions.newest_before });
            }
            Some(())
        })?;
        meta::load(reader, Tag::Range, FORMAT, |about, value| {
            let (table, partition) = decode_pair(about)?;
            let state = RangeState::decode(value)?;
            partitions.ranges.insert((TableId(table), partition), Range { state, oldest_since_proof: None });
            Some(())
        })?;
        Ok(partitions)
    }

    pub(crate) fn state(&self, placement: PlacementId, partition: PartitionId) -> PartitionState {
        self.states.get(&(placement, partition)).copied().unwrap_or_default()
    }

    pub(crate) fn states(&self) -> impl Iterator<Item = (PlacementId, PartitionId, PartitionState)> + '_ {
        self.states.iter().map(|(&(placement, partition), &state)| (placement, partition, state))
    }

    pub(crate) fn set_state(&mut self, placement: PlacementId, partition: PartitionId, state: PartitionState) {
        let key = (placement, partition);
        let before = self.state(placement, partition);
        if state.sync != SyncState::Synced {
            self.count_mark(placement, partition);
        }
        if !state.sync.has_lost() {
            self.lost.remove(&key);
        } else if before.sync != state.sync {
            self.lost.insert(key, Loss { fence: before.epoch, up_to: self.newest(key) });
        }
        self.states.insert(key, state);
    }

    pub(crate) fn marks(&self, placement: PlacementId, partition: PartitionId) -> MarkGeneration {
        self.marks.get(&(placement, partition)).copied().unwrap_or_default()
    }

    /// The fence that a partition had when it was last found to have lost something; nothing when it has not.
    pub(crate) fn lost_at(&self, placement: PlacementId, partition: PartitionId) -> Option<Epoch> {
        self.lost.get(&(placement, partition)).map(|loss| loss.fence)
    }

    /// No version that a partition has lost is above this; nothing when it has lost none.
    pub(crate) fn lost_up_to(&self, placement: PlacementId, partition: PartitionId) -> Option<Hlc> {
        self.lost.get(&(placement, partition)).map(|loss| loss.up_to)
    }

    /// Something more was found wrong with a partition that is marked.
    pub(crate) fn found_more(&mut self, placement: PlacementId, partition: PartitionId) {
        self.count_mark(placement, partition);
        let fence = self.state(placement, partition).epoch;
        let key = (placement, partition);
        self.lost.insert(key, Loss { fence, up_to: self.newest(key) });
    }

    /// No version that a partition ever held is above this.
    fn newest(&self, key: (PlacementId, PartitionId)) -> Hlc {
        self.newest.get(&key).copied().unwrap_or_default().max(self.newest_before)
    }

    /// Something was found wrong with a partition, be it that it was marked before.
    fn count_mark(&mut self, placement: PlacementId, partition: PartitionId) {
        let marks = self.marks.entry((placement, partition)).or_default();
        *marks = MarkGeneration(marks.0 + 1);
    }

    pub(crate) fn range(&self, table: TableId, partition: PartitionId) -> RangeState {
        self.ranges.get(&(table, partition)).map(|range| range.state).unwrap_or_default()
    }

    pub(crate) fn set_range(&mut self, table: TableId, partition: PartitionId, state: RangeState) {
        self.ranges.entry((table, partition)).or_default().state = state;
    }

    pub(crate) fn forget_table(&mut self, table: TableId) {
        self.ranges.retain(|&(of, _), _| of != table);
    }

    /// From here on the oldest version that arrives is remembered.
    pub(crate) fn begin_proof(&mut self, table: TableId, partition: PartitionId) {
        self.ranges.entry((table, partition)).or_default().oldest_since_proof = Some(Hlc(u64::MAX));
    }

    /// Up to where a proof at `horizon` still holds, after what has arrived since it began; nothing without a proof
    /// under way.
    pub(crate) fn end_proof(&mut self, table: TableId, partition: PartitionId, horizon: Hlc) -> Option<Hlc> {
        let oldest = self.ranges.get_mut(&(table, partition))?.oldest_since_proof.take()?;
        (oldest > horizon).then_some(horizon)
    }

    /// Ends a proof under way without a result.
    pub(crate) fn cancel_proof(&mut self, table: TableId, partition: PartitionId) {
        if let Some(range) = self.ranges.get_mut(&(table, partition)) {
            range.oldest_since_proof = None;
        }
    }

    /// Takes note that `version` was applied. The new state of the range, where the version takes the proof back.
    pub(crate) fn applied(&mut self, table: TableId, partition: PartitionId, version: Hlc) -> Option<RangeState> {
        let range = self.ranges.get_mut(&(table, partition))?;
        if let Some(oldest) = &mut range.oldest_since_proof {
            *oldest = version.min(*oldest);
        }
        if version > range.state.synced_through {
            return None;
        }
        range.state.synced_through = Hlc(version.0.saturating_sub(1));
        Some(range.state)
    }

    /// Takes note that a version is being applied. The pair that notes the bound of all versions on disk, where it has to
    /// be raised: with the version itself, so that it is never behind what is lost later.
    pub(crate) fn reached(
        &mut self,
        placement: PlacementId,
        partition: PartitionId,
        version: Hlc,
    ) -> Option<(Vec<u8>, Vec<u8>)> {
        let newest = self.newest.entry((placement, partition)).or_default();
        *newest = version.max(*newest);
        if version <= self.newest_noted {
            return None;
        }
        self.newest_noted = Hlc::new(version.millis().saturating_add(BOUND_LEAD_MS), 0).max(version);
        let mut value = vec![FORMAT];
        value.put_u64(self.newest_noted.0);
        Some((meta::key(Tag::VersionBound, &[]), value))
    }

    /// No version that was applied before this start is above `reading`, as far as clocks can tell: the bound that was noted
    /// may be among what was lost.
    pub(crate) fn started_at(&mut self, reading: Hlc) {
        self.newest_before = self.newest_before.max(reading);
        self.lost.values_mut().for_each(|loss| loss.up_to = loss.up_to.max(reading));
    }

    /// The pair that notes a placement's partition on disk.
    pub(crate) fn note_state(
        placement: PlacementId,
        partition: PartitionId,
        state: PartitionState,
    ) -> (Vec<u8>, Vec<u8>) {
        (meta::key(Tag::Partition, &encode_pair(placement.0, partition)), state.encode())
    }

    /// The pair that notes a table's partition on disk.
    pub(crate) fn note_range(table: TableId, partition: PartitionId, state: RangeState) -> (Vec<u8>, Vec<u8>) {
        (meta::key(Tag::Range, &encode_pair(table.0, partition)), state.encode())
    }

    /// The prefix of the notes of a table's partitions.
    pub(crate) fn note_range_prefix(table: TableId) -> Vec<u8> {
        meta::key(Tag::Range, &table.0.to_be_bytes())
    }
}

fn encode_pair(id: u32, partition: PartitionId) -> Vec<u8> {
    let mut out = Vec::with_capacity(6);
    out.put_u32(id);
    out.put_u16(partition.0);
    out
}

fn decode_bound(value: &[u8]) -> Option<Hlc> {
    let (&[FORMAT], bound) = value.split_first_chunk::<1>()? else { return None };
    Some(Hlc(u64::from_be_bytes(<[u8; 8]>::try_from(bound).ok()?)))
}

fn decode_pair(bytes: &[u8]) -> Option<(u32, PartitionId)> {
    let (id, partition) = bytes.split_first_chunk::<4>()?;
    let partition = <[u8; 2]>::try_from(partition).ok()?;
    Some((u32::from_be_bytes(*id), PartitionId(u16::from_be_bytes(partition))))
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: (TableId, PartitionId) = (TableId(1), PartitionId(2));

    #[test]
    fn an_older_version_takes_the_proof_back_and_a_newer_one_does_not() {
        let mut partitions = Partitions::default();
        partitions.set_range(AT.0, AT.1, RangeState { floor: Hlc(3), synced_through: Hlc(100) });
        assert_eq!(partitions.applied(AT.0, AT.1, Hlc(101)), None);
        let lowered = partitions.applied(AT.0, AT.1, Hlc(50)).unwrap();
        assert_eq!(lowered, RangeState { floor: Hlc(3), synced_through: Hlc(49) });
        assert_eq!(partitions.range(AT.0, AT.1), lowered);
    }

    #[test]
    fn a_proof_fails_when_something_older_arrived_meanwhile() {
        let mut partitions = Partitions::default();
        assert_eq!(partitions.end_proof(AT.0, AT.1, Hlc(10)), None, "no proof was begun");
        partitions.begin_proof(AT.0, AT.1);
        partitions.applied(AT.0, AT.1, Hlc(11));
        assert_eq!(partitions.end_proof(AT.0, AT.1, Hlc(10)), Some(Hlc(10)));
        partitions.begin_proof(AT.0, AT.1);
        partitions.applied(AT.0, AT.1, Hlc(10));
        assert_eq!(partitions.end_proof(AT.0, AT.1, Hlc(10)), None);
    }

    #[test]
    fn a_partition_nobody_declared_in_sync_is_not() {
        let state = Partitions::default().state(PlacementId(0), PartitionId(0));
        assert_eq!(state.sync, SyncState::Unsynced(UnsyncedCause::New));
    }

    #[test]
    fn states_read_back_as_noted() {
        for sync in [
            SyncState::Synced,
            SyncState::Unsynced(UnsyncedCause::New),
            SyncState::Unsynced(UnsyncedCause::DamagedData),
            SyncState::Unsynced(UnsyncedCause::DamagedLog),
            SyncState::Unsynced(UnsyncedCause::Operator),
        ] {
            let state = PartitionState { epoch: Epoch(9), sync };
            assert_eq!(PartitionState::decode(&state.encode()), Some(state));
        }
        let range = RangeState { floor: Hlc(1), synced_through: Hlc(2) };
        assert_eq!(RangeState::decode(&range.encode()), Some(range));
        assert_eq!(RangeState::decode(&[9; 17]), None, "another format is not read");
    }
}

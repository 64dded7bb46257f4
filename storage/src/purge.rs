//! Up to where the dead may be purged: the purge rule as a function, and the floors and proofs it works on.
//!
//! Invariant: nobody can bring back what is purged. Below the floor no hint and no write is under way anywhere, all
//! replicas were proven equal, and the grace of the table is over. What one of them has not answered is no proof.

use crate::error::StoreError;
use crate::model::{Hlc, PartitionId, TableId};
use crate::partition::{Partitions, RangeState};
use crate::store::{Commit, Store};

/// The floor of a table's partition, from the watermarks of all members of the cluster ("I hold and will create no hint
/// or write in flight older than this") and from what each current and pending replica is proven in sync through.
/// Nothing without members or replicas, while one of them has never answered, or within `grace_ms` of the beginning.
pub fn purge_floor(
    watermarks: impl IntoIterator<Item = Option<Hlc>>,
    synced_through: impl IntoIterator<Item = Option<Hlc>>,
    now: Hlc,
    grace_ms: u64,
) -> Option<Hlc> {
    let past_grace = Hlc::new(now.millis().checked_sub(grace_ms)?, 0);
    let floor = least(watermarks)?.min(least(synced_through)?).min(past_grace);
    (floor > Hlc(0)).then_some(floor)
}

/// The least of all answers; nothing when one is missing, or all are.
fn least(answers: impl IntoIterator<Item = Option<Hlc>>) -> Option<Hlc> {
    let mut least = None;
    for answer in answers {
        let answer = answer?;
        least = Some(least.map_or(answer, |least: Hlc| least.min(answer)));
    }
    least
}

impl Store {
    /// Takes over the purge floors of another replica where they are higher, in one durable write. Every replica that held
    /// such a partition then had fenced that floor, or nothing was purged by it; so this replica either came later, and
    /// holds what it copied from those, or what it still holds was purged by nobody. Its own proof is not needed for that,
    /// and it purges nothing by such a floor until a round has found its proof to reach it. Tables that are gone are
    /// passed over.
    pub fn take_floors(&self, floors: &[(TableId, PartitionId, Hlc)]) -> Result<(), StoreError> {
        let mut commit = self.commit.lock();
        let higher = |&(table, partition, floor): &(TableId, PartitionId, Hlc)| {
            let state = self.range_state(table, partition);
            let is_higher = floor > state.floor && self.tables.read().get(table).is_ok();
            is_higher.then_some((table, partition, RangeState { floor, ..state }))
        };
        let raised: Vec<_> = floors.iter().filter_map(higher).collect();
        self.note_ranges(&mut commit, &raised)
    }

    fn note_ranges(
        &self,
        commit: &mut Commit,
        states: &[(TableId, PartitionId, RangeState)],
    ) -> Result<(), StoreError> {
        if states.is_empty() {
            return Ok(());
        }
        self.write_notes(commit, states.iter().map(|&(table, at, state)| Partitions::note_range(table, at, state)))?;
        let mut partitions = self.partitions.write();
        states.iter().for_each(|&(table, partition, state)| partitions.set_range(table, partition, state));
        Ok(())
    }

    /// Raises the purge floor of partitions up to what each is proven through, in one durable write: the fence of a purge
    /// round. Those that have fenced it by now, each at its place: a proof that does not reach it is none.
    pub fn fence_floors(&self, asked: &[(TableId, PartitionId, Hlc)]) -> Result<Vec<bool>, StoreError> {
        let mut commit = self.commit.lock();
        let mut notes = Vec::new();
        let fence = |&(table, partition, floor): &(TableId, PartitionId, Hlc)| {
            let state = self.range_state(table, partition);
            let fences = self.tables.read().get(table).is_ok() && floor <= state.synced_through;
            if fences && floor > state.floor {
                notes.push((table, partition, RangeState { floor, ..state }));
            }
            fences
        };
        let fenced = asked.iter().map(fence).collect();
        self.note_ranges(&mut commit, &notes)?;
        Ok(fenced)
    }

    /// Begins to watch many partitions for old versions, as [`Store::begin_proof`] does for one. Tables that are gone are
    /// passed over.
    pub fn begin_proofs(&self, trees: &[(TableId, PartitionId)]) {
        let _commit = self.commit.lock();
        let tables = self.tables.read();
        let mut partitions = self.partitions.write();
        for &(table, partition) in trees.iter().filter(|(table, _)| tables.get(*table).is_ok()) {
            partitions.begin_proof(table, partition);
        }
    }

    /// Ends the proofs of many partitions as of one horizon. Those that still hold, each at its place. What they say counts
    /// at once; it is made durable only where that is asked for, in one write: after a restart an older proof stands, and a
    /// partition whose proof is not durable is proven anew.
    pub fn end_proofs(
        &self,
        trees: &[(TableId, PartitionId)],
        horizon: Hlc,
        durable: bool,
    ) -> Result<Vec<bool>, StoreError> {
        let mut commit = self.commit.lock();
        let mut proven = Vec::new();
        let mut partitions = self.partitions.write();
        let tables = self.tables.read();
        let end = |&(table, partition): &(TableId, PartitionId)| {
            let known = tables.get(table).is_ok();
            let Some(through) = partitions.end_proof(table, partition, horizon).filter(|_| known) else { return false };
            let before = partitions.range(table, partition);
            let after = RangeState { synced_through: through.max(before.synced_through), ..before };
            proven.push((table, partition, after));
            true
        };
        let held = trees.iter().map(end).collect();
        drop(tables);
        let note = |states: &[(TableId, PartitionId, RangeState)]| -> Vec<_> {
            states.iter().map(|&(table, partition, state)| Partitions::note_range(table, partition, state)).collect()
        };
        let before: Vec<_> = proven.iter().map(|&(t, p, _)| (t, p, partitions.range(t, p))).collect();
        // Nothing is applied meanwhile: the lock on commits is held.
        drop(partitions);
        if durable
            && !proven.is_empty()
            && let Err(error) = self.write_notes(&mut commit, note(&proven))
        {
            // It may have happened all the same, and what arrives from here on would not take it back.
            commit.unnoted.extend(note(&before));
            return Err(error);
        }
        let mut partitions = self.partitions.write();
        proven.into_iter().for_each(|(table, partition, state)| partitions.set_range(table, partition, state));
        Ok(held)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cases::cases;

    fn hlc() -> impl Strategy<Value = Hlc> {
        (0u64..50, 0u16..3).prop_map(|(millis, counter)| Hlc::new(millis, counter))
    }

    fn answers() -> impl Strategy<Value = Vec<Option<Hlc>>> {
        prop::collection::vec(prop_oneof![15 => hlc().prop_map(Some), 1 => Just(None)], 0..6)
    }

    proptest! {
        #![proptest_config(cases(256))]

        #[test]
        fn the_floor_is_the_highest_that_nobody_objects_to(
            watermarks in answers(), synced in answers(), now in hlc(), grace_ms in 0u64..60,
        ) {
            let answered = |answers: &[Option<Hlc>]| !answers.is_empty() && !answers.contains(&None);
            let past_grace = |floor: Hlc| floor <= Hlc::new(now.millis().saturating_sub(grace_ms), 0);
            let allowed = |floor| watermarks.iter().chain(&synced).flatten().all(|&a| floor <= a) && past_grace(floor);
            match purge_floor(watermarks.clone(), synced.clone(), now, grace_ms) {
                Some(floor) => {
                    prop_assert!(answered(&watermarks) && answered(&synced), "someone has not answered");
                    prop_assert!(floor > Hlc(0) && allowed(floor));
                    prop_assert!(!allowed(floor.next()), "{floor} could be higher");
                }
                None => prop_assert!(!(answered(&watermarks) && answered(&synced) && allowed(Hlc(1)))),
            }
        }

        #[test]
        fn one_more_member_or_replica_or_a_longer_grace_never_raises_the_floor(
            watermarks in answers(), synced in answers(), now in hlc(), grace_ms in 0u64..60, more in hlc(),
        ) {
            let Some(floor) = purge_floor(watermarks.clone(), synced.clone(), now, grace_ms) else { return Ok(()) };
            let with = |answers: &[Option<Hlc>], more| answers.iter().copied().chain([more]).collect::<Vec<_>>();
            let lower = [
                purge_floor(with(&watermarks, Some(more)), synced.clone(), now, grace_ms),
                purge_floor(watermarks.clone(), with(&synced, Some(more)), now, grace_ms),
                purge_floor(watermarks.clone(), synced.clone(), now, grace_ms + 1),
            ];
            prop_assert!(lower.into_iter().flatten().all(|lower| lower <= floor));
            prop_assert_eq!(purge_floor(with(&watermarks, None), synced.clone(), now, grace_ms), None);
            prop_assert_eq!(purge_floor(watermarks, with(&synced, None), now, grace_ms), None);
        }
    }

    #[test]
    fn without_members_or_replicas_nothing_is_proven() {
        let (some, now) = ([Some(Hlc::new(5, 0))], Hlc::new(9, 0));
        assert_eq!(purge_floor(some, some, now, 0), Some(Hlc::new(5, 0)));
        assert_eq!(purge_floor([], some, now, 0), None);
        assert_eq!(purge_floor(some, [], now, 0), None);
        assert_eq!(purge_floor(some, some, now, 10), None, "all is within the grace");
    }
}

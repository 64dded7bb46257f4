//! What is done about one row that two replicas may hold differently: the plain rule of the last stage.
//!
//! Invariant: two replicas that agree on every row of a tree hold the same, but for what is younger than the horizon, or
//! dead below the floor that both of them have.

use cube_storage::model::{Hlc, RecordHeader};

/// What is done about a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Nothing: both hold the same, or will without any help.
    Agree,
    /// Nothing: one side holds what is dead below both floors, and the other has purged it.
    Dead,
    /// The peer is sent what is held here.
    Push,
    /// What the peer holds is fetched.
    Fetch,
    /// Of one version there are two records: each side is told the other's, and keeps the same one.
    Both,
}

/// Judges a row that at least one side holds. `floor` is the purge floor that both have.
pub(super) fn decide(mine: Option<&RecordHeader>, theirs: Option<&RecordHeader>, horizon: Hlc, floor: Hlc) -> Decision {
    let (newer, decision) = match (mine, theirs) {
        (None, None) => return Decision::Agree,
        (Some(mine), Some(theirs)) if mine.version > theirs.version => (mine, Decision::Push),
        (Some(mine), Some(theirs)) if mine.version < theirs.version => (theirs, Decision::Fetch),
        (Some(mine), Some(theirs)) if mine.checksum == theirs.checksum => return Decision::Agree,
        (Some(mine), Some(_)) => (mine, Decision::Both),
        // Below the floor a deletion is the same as nothing: one side has purged it and the other will.
        (Some(only), None) | (None, Some(only)) if only.is_purgeable(floor) => return Decision::Dead,
        (Some(mine), None) => (mine, Decision::Push),
        (None, Some(theirs)) => (theirs, Decision::Fetch),
    };
    // It is still on its way.
    if newer.version.hlc > horizon { Decision::Agree } else { decision }
}

#[cfg(test)]
mod tests {
    use cube_storage::model::{NodeId, Record, Version};

    use super::*;

    fn header(hlc: u64, tombstone: bool, checksum: u32) -> RecordHeader {
        let version = Version::new(Hlc(hlc), NodeId(1));
        let record = if tombstone { Record::tombstone(version) } else { Record::value(version, "v") };
        RecordHeader::of(&record, checksum)
    }

    fn judged(mine: Option<RecordHeader>, theirs: Option<RecordHeader>) -> Decision {
        decide(mine.as_ref(), theirs.as_ref(), Hlc(100), Hlc(10))
    }

    #[test]
    fn the_newer_side_is_sent_to_the_other_and_the_same_record_to_nobody() {
        let (old, new) = (header(20, false, 1), header(30, false, 2));
        assert_eq!(judged(Some(new), Some(old)), Decision::Push);
        assert_eq!(judged(Some(old), Some(new)), Decision::Fetch);
        assert_eq!(judged(Some(old), None), Decision::Push);
        assert_eq!(judged(None, Some(old)), Decision::Fetch);
        assert_eq!(judged(Some(old), Some(old)), Decision::Agree);
        assert_eq!(judged(Some(old), Some(header(20, false, 9))), Decision::Both);
    }

    #[test]
    fn what_is_younger_than_the_horizon_is_still_on_its_way() {
        let (old, young) = (header(20, false, 1), header(101, false, 2));
        assert_eq!(judged(Some(young), Some(old)), Decision::Agree);
        assert_eq!(judged(None, Some(young)), Decision::Agree);
        assert_eq!(judged(Some(header(101, false, 1)), Some(header(101, false, 2))), Decision::Agree);
    }

    #[test]
    fn a_deletion_below_the_floor_equals_absence_but_still_deletes() {
        let dead = header(9, true, 1);
        assert_eq!(judged(Some(dead), None), Decision::Dead);
        assert_eq!(judged(None, Some(dead)), Decision::Dead);
        assert_eq!(judged(Some(dead), Some(header(5, false, 2))), Decision::Push);
        assert_eq!(judged(Some(header(11, true, 1)), None), Decision::Push, "above the floor it is a row as any other");
        assert_eq!(judged(Some(header(9, false, 1)), None), Decision::Push, "a value below it was not deleted");
    }
}

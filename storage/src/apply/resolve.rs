//! Which record a row keeps: the plain rule of the one write path.
//!
//! Invariant: whatever the order and the number of times records arrive, the row ends with the greatest of them
//! (`Record::supersedes`), and below the purge floor nothing that may have been purged comes back.

use crate::model::{Damage, Hlc, NodeId, Origin, Outcome, Record, RecordHeader};

/// What a row holds before a mutation is judged.
#[derive(Clone, Debug)]
pub(super) enum Held {
    /// Nothing.
    Absent,
    /// A record. Its value is at hand only where a mutation has the same version, which needs it to be compared.
    Record { header: RecordHeader, record: Option<Record> },
    /// Something unreadable. The row takes what comes, and its partition is not counted until it is healed.
    Damaged { detail: String },
}

impl Held {
    /// Reads what the engine holds under a key; `same_version` tells whether a mutation has the record's version.
    pub(super) fn read(data_key: &[u8], bytes: &[u8], same_version: impl Fn(&RecordHeader) -> bool) -> Self {
        let read = || -> Result<Self, Damage> {
            let header = RecordHeader::verify(data_key, bytes)?;
            let record = if same_version(&header) { Some(Record::decode_copy(data_key, bytes)?) } else { None };
            Ok(Self::Record { header, record })
        };
        read().unwrap_or_else(|damage| Self::Damaged { detail: damage.to_string() })
    }

    pub(super) fn header(&self) -> Option<&RecordHeader> {
        match self {
            Self::Record { header, .. } => Some(header),
            Self::Absent | Self::Damaged { .. } => None,
        }
    }
}

/// Judges one record against what its row holds. `Applied` means that the record is to be kept.
pub(super) fn judge(incoming: &Record, origin: Origin, held: &Held, floor: Hlc) -> Outcome {
    if let Held::Record { header, record } = held {
        if header.version > incoming.version {
            return Outcome::Superseded(header.version);
        }
        if header.version == incoming.version {
            return match record {
                Some(record) if record == incoming => Outcome::Present,
                Some(record) if incoming.supersedes(record) => at_floor(incoming, origin, held, floor),
                _ => Outcome::Superseded(header.version),
            };
        }
    }
    at_floor(incoming, origin, held, floor)
}

/// The rules below the purge floor, for a record that would win.
fn at_floor(incoming: &Record, origin: Origin, held: &Held, floor: Hlc) -> Outcome {
    if incoming.version.hlc > floor {
        return Outcome::Applied;
    }
    match origin {
        // A deletion that purge removed could be newer than this.
        Origin::Client | Origin::Hint => Outcome::BelowFloor(floor),
        Origin::Replica { floor: theirs } if theirs < floor => Outcome::BelowFloor(floor),
        // The sender has purged as far as we have, so what it still holds was not deleted. What it is about to
        // purge is the same as nothing, unless we hold something that it deletes.
        Origin::Replica { .. } => match held {
            Held::Absent if incoming.is_purgeable(floor) => Outcome::Present,
            _ => Outcome::Applied,
        },
    }
}

/// What is told of a record that its row holds, or something newer, when its partition has lost versions up to `lost_up_to`.
/// Only who gives a new version can do something about it: not a client that chose its timestamp. What is held above that
/// bound says more.
pub(super) fn with_loss(outcome: Outcome, incoming: &Record, origin: Origin, lost_up_to: Option<Hlc>) -> Outcome {
    let gives_versions = origin == Origin::Client && incoming.version.node != NodeId::CLIENT;
    let Some(up_to) = lost_up_to.filter(|up_to| gives_versions && incoming.version.hlc <= *up_to) else {
        return outcome;
    };
    match outcome {
        Outcome::Applied | Outcome::Present => Outcome::LostUpTo(up_to),
        Outcome::Superseded(newer) if newer.hlc <= up_to => Outcome::LostUpTo(up_to),
        _ => outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Expiry, Version};

    fn version(hlc: u64) -> Version {
        Version::new(Hlc::new(hlc, 0), NodeId(1))
    }

    fn held(record: &Record) -> Held {
        Held::read(b"k", &record.encode(b"k"), |_| true)
    }

    const NO_FLOOR: Hlc = Hlc(0);

    #[test]
    fn the_newer_version_wins_and_the_same_is_present() {
        let (old, new) = (Record::value(version(1), "old"), Record::value(version(2), "new"));
        assert_eq!(judge(&new, Origin::Client, &Held::Absent, NO_FLOOR), Outcome::Applied);
        assert_eq!(judge(&new, Origin::Client, &held(&old), NO_FLOOR), Outcome::Applied);
        assert_eq!(judge(&new, Origin::Client, &held(&new), NO_FLOOR), Outcome::Present);
        assert_eq!(judge(&old, Origin::Client, &held(&new), NO_FLOOR), Outcome::Superseded(version(2)));
    }

    #[test]
    fn of_one_version_the_tombstone_wins_then_the_greater_bytes() {
        let (a, b) = (Record::value(version(1), "a"), Record::value(version(1), "b"));
        let tombstone = Record::tombstone(version(1));
        assert_eq!(judge(&b, Origin::Client, &held(&a), NO_FLOOR), Outcome::Applied);
        assert_eq!(judge(&a, Origin::Client, &held(&b), NO_FLOOR), Outcome::Superseded(version(1)));
        assert_eq!(judge(&tombstone, Origin::Client, &held(&b), NO_FLOOR), Outcome::Applied);
        assert_eq!(judge(&b, Origin::Client, &held(&tombstone), NO_FLOOR), Outcome::Superseded(version(1)));
    }

    #[test]
    fn below_the_floor_only_replicas_that_purged_as_far_are_heard() {
        let floor = Hlc::new(10, 0);
        let old = Record::value(version(9), "v");
        let below = Outcome::BelowFloor(floor);
        assert_eq!(judge(&old, Origin::Client, &Held::Absent, floor), below);
        assert_eq!(judge(&old, Origin::Hint, &Held::Absent, floor), below);
        assert_eq!(judge(&old, Origin::Replica { floor: Hlc::new(9, 0) }, &Held::Absent, floor), below);
        assert_eq!(judge(&old, Origin::Replica { floor }, &Held::Absent, floor), Outcome::Applied);
        assert_eq!(judge(&Record::value(version(11), "v"), Origin::Client, &Held::Absent, floor), Outcome::Applied);
    }

    #[test]
    fn below_both_floors_a_deletion_equals_absence_but_still_deletes() {
        let floor = Hlc::new(10, 0);
        let origin = Origin::Replica { floor };
        let tombstone = Record::tombstone(version(9));
        let ended = Record::expiring(version(8), "v", Expiry(9));
        assert_eq!(judge(&tombstone, origin, &Held::Absent, floor), Outcome::Present);
        assert_eq!(judge(&ended, origin, &Held::Absent, floor), Outcome::Present);
        let older = held(&Record::value(version(5), "v"));
        assert_eq!(judge(&tombstone, origin, &older, floor), Outcome::Applied);
    }

    #[test]
    fn a_damaged_record_gives_way_to_what_comes() {
        let damaged = Held::read(b"other key", &Record::value(version(9), "v").encode(b"k"), |_| true);
        assert!(matches!(damaged, Held::Damaged { .. }));
        assert_eq!(judge(&Record::value(version(1), "v"), Origin::Client, &damaged, NO_FLOOR), Outcome::Applied);
    }
}

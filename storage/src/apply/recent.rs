//! The headers of rows that were written lately: a row that is written again soon need not be read before.
//!
//! Most writes of a control plane are the next state of a row that was written a moment ago, and looking that row up
//! costs as much as writing it. Bounded: two generations of rows, the older of which is dropped when the younger is
//! full; a row that is asked for moves to the younger.
//!
//! Invariant: what is remembered is what the engine holds. So it is part of `Commit`, which only the one writer of the
//! moment may touch; `apply` remembers a row after the write that changed it, and whatever else changes rows forgets
//! all.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::merkle::Fingerprint;
use crate::model::RecordHeader;

/// Headers by the fingerprints of their rows.
pub(crate) struct RecentRows {
    generation_rows_max: usize,
    young: Generation,
    old: Generation,
    /// How often rows were forgotten.
    losses: u64,
}

type Generation = HashMap<Fingerprint, RecordHeader, BuildHasherDefault<AsItIs>>;

impl RecentRows {
    /// Remembers `rows_max` rows at the most.
    pub(crate) fn new(rows_max: usize) -> Self {
        Self { generation_rows_max: rows_max / 2, young: Generation::default(), old: Generation::default(), losses: 0 }
    }

    /// The header of a row, if it is remembered.
    pub(crate) fn get(&mut self, row: Fingerprint) -> Option<RecordHeader> {
        if let Some(header) = self.young.get(&row) {
            return Some(*header);
        }
        let header = self.old.remove(&row)?;
        self.put(row, header);
        Some(header)
    }

    /// Remembers what a row holds now.
    pub(crate) fn put(&mut self, row: Fingerprint, header: RecordHeader) {
        if self.generation_rows_max == 0 {
            return;
        }
        if self.young.len() >= self.generation_rows_max {
            std::mem::swap(&mut self.young, &mut self.old);
            self.young.clear();
            self.losses += 1;
        }
        self.young.insert(row, header);
    }

    /// Remembers what a row held a while ago, unless something newer of it is known: the first to be dropped.
    pub(crate) fn put_older(&mut self, row: Fingerprint, header: RecordHeader) {
        if self.has_room_for_older() && !self.young.contains_key(&row) {
            self.old.entry(row).or_insert(header);
        }
    }

    /// Whether rows fit in that were not written lately.
    pub(crate) fn has_room_for_older(&self) -> bool {
        self.old.len() < self.generation_rows_max
    }

    /// How often rows were forgotten so far: where that has not changed, every row written since is remembered.
    pub(crate) fn losses(&self) -> u64 {
        self.losses
    }

    /// Forgets one row.
    pub(crate) fn forget(&mut self, row: Fingerprint) {
        if self.young.remove(&row).is_some() | self.old.remove(&row).is_some() {
            self.losses += 1;
        }
    }

    /// Forgets all rows.
    pub(crate) fn clear(&mut self) {
        self.young.clear();
        self.old.clear();
        self.losses += 1;
    }
}

/// Fingerprints are hashes already.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn write_u64(&mut self, half: u64) {
        self.0 = half;
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merkle::MerkleKey;
    use crate::model::{Hlc, NodeId, Record, Version};

    const ROWS_MAX: usize = 2000;

    fn row(number: usize) -> Fingerprint {
        MerkleKey([7; 16]).fingerprint(&number.to_be_bytes())
    }

    fn header(hlc: usize) -> RecordHeader {
        RecordHeader::of(&Record::tombstone(Version::new(Hlc(hlc as u64), NodeId(1))), 5)
    }

    #[test]
    fn the_last_header_of_a_row_is_remembered_until_all_are_forgotten() {
        let mut recent = RecentRows::new(ROWS_MAX);
        assert_eq!(recent.get(row(1)), None);
        recent.put(row(1), header(1));
        recent.put(row(1), header(2));
        assert_eq!(recent.get(row(1)), Some(header(2)));
        recent.clear();
        assert_eq!(recent.get(row(1)), None);
    }

    #[test]
    fn a_row_that_is_forgotten_alone_counts_as_a_loss_if_it_was_remembered() {
        let mut recent = RecentRows::new(ROWS_MAX);
        recent.put(row(1), header(1));
        recent.put_older(row(2), header(1));
        recent.put(row(3), header(1));
        let losses = recent.losses();
        [row(1), row(2), row(4)].into_iter().for_each(|row| recent.forget(row));
        assert_eq!([1, 2, 3].map(|number| recent.get(row(number))), [None, None, Some(header(1))]);
        assert_eq!(recent.losses(), losses + 2);
    }

    #[test]
    fn without_room_nothing_is_remembered() {
        let mut recent = RecentRows::new(0);
        recent.put(row(1), header(1));
        assert_eq!(recent.get(row(1)), None);
    }

    #[test]
    fn what_was_held_a_while_ago_never_stands_in_for_what_was_written_since() {
        let mut recent = RecentRows::new(ROWS_MAX);
        recent.put(row(1), header(9));
        recent.put_older(row(1), header(1));
        assert_eq!(recent.get(row(1)), Some(header(9)));
        recent.put_older(row(2), header(1));
        recent.put(row(2), header(9));
        assert_eq!(recent.get(row(2)), Some(header(9)));
        let losses = recent.losses();
        for number in 0..ROWS_MAX {
            recent.put_older(row(10 + number), header(3));
        }
        assert!(!recent.has_room_for_older());
        assert_eq!(recent.losses(), losses, "taking in what is older drops nothing");
        assert_eq!(recent.get(row(1)), Some(header(9)));
    }

    #[test]
    fn rows_that_are_asked_for_outlive_those_that_are_not_and_none_is_ever_out_of_date() {
        let mut recent = RecentRows::new(ROWS_MAX);
        recent.put(row(0), header(1));
        for number in 1..=ROWS_MAX {
            recent.put(row(number), header(number));
            if number % 500 == 0 {
                assert_eq!(recent.get(row(0)), Some(header(1)));
            }
        }
        assert_eq!(recent.get(row(1)), None);
        assert!(recent.young.len() + recent.old.len() <= ROWS_MAX);
        // Written anew while an older header waits in the older generation.
        let old = *recent.old.keys().next().unwrap();
        recent.put(old, header(9));
        for number in 1..=ROWS_MAX / 2 {
            recent.put(row(usize::MAX - number), header(number));
            assert_eq!(recent.get(old), Some(header(9)));
        }
    }
}

//! What writes change in a leaf while it is scrubbed in pieces, so that its sum is exact all the same.
//!
//! A leaf that no single step takes in is read piece by piece, each from a snapshot of its own. Rows in front of the place
//! that was reached are summed up already, so a write to one of them adds what it changes to that sum; a row behind is
//! read later, as it will be then. Where the piece that is being read ends is fixed before its snapshot is taken: writes
//! to it after the snapshot are added up apart, and join in when the piece is done.
//!
//! Invariant: whenever no commit is under way, `summed` is the sum of the rows of the leaf in front of `upto`, as far as
//! they were sound when they were read. So it is part of `Commit`: whatever changes rows either tells what it changes,
//! or ends the watch, and then the leaf is begun anew.

use crate::keyspace::KeyRange;
use crate::merkle::{LeafId, LeafSum};
use crate::model::TableId;

/// One leaf on its way through the scrub.
#[derive(Debug)]
pub(crate) struct Watch {
    id: u64,
    table: TableId,
    leaf: LeafId,
    /// All rows of the leaf.
    rows: KeyRange,
    /// Rows in front of this key are summed up.
    upto: Vec<u8>,
    summed: LeafSum,
    piece: Option<Piece>,
}

/// Rows from `upto` on that are being read.
#[derive(Debug)]
struct Piece {
    end: Vec<u8>,
    /// What was changed in them since their snapshot.
    changed: LeafSum,
}

/// A change of one row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowChange<'a> {
    pub(crate) table: TableId,
    pub(crate) leaf: LeafId,
    pub(crate) data_key: &'a [u8],
    /// What the row adds to its leaf, less what it added before.
    pub(crate) delta: LeafSum,
}

impl Watch {
    /// Begins at a leaf's first row.
    pub(crate) fn begin(id: u64, table: TableId, leaf: LeafId, rows: KeyRange) -> Self {
        Self { id, table, leaf, upto: rows.start.clone(), rows, summed: LeafSum::ZERO, piece: None }
    }

    /// Whether this is the watch that was begun under `id` and has reached `upto`.
    pub(crate) fn is_at(&self, id: u64, upto: &[u8]) -> bool {
        self.id == id && self.upto == upto
    }

    /// Takes note of a committed change.
    pub(crate) fn note(&mut self, change: RowChange<'_>) {
        if (change.table, change.leaf) != (self.table, self.leaf) {
            return;
        }
        if change.data_key < self.upto.as_slice() {
            self.summed = self.summed.plus(change.delta);
        } else if let Some(piece) = &mut self.piece
            && change.data_key < piece.end.as_slice()
        {
            piece.changed = piece.changed.plus(change.delta);
        }
    }

    /// Whether rows of this range belong to the leaf.
    pub(crate) fn overlaps(&self, range: &KeyRange) -> bool {
        range.within(&self.rows).is_some()
    }

    /// Begins a piece up to `end`, in the moment of its snapshot. The sum of all rows in front of it, as of that moment.
    pub(crate) fn begin_piece(&mut self, end: &[u8]) -> LeafSum {
        self.piece = Some(Piece { end: end.to_vec(), changed: LeafSum::ZERO });
        self.summed
    }

    /// Ends the piece, whose rows had this sum in its snapshot.
    pub(crate) fn end_piece(&mut self, read: LeafSum) {
        let Some(Piece { end, changed }) = self.piece.take() else { return };
        self.summed = self.summed.plus(read).plus(changed);
        self.upto = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: TableId = TableId(3);
    const LEAF: LeafId = LeafId(7);

    fn sum(sum: u128) -> LeafSum {
        LeafSum { sum, rows: 1 }
    }

    fn change(data_key: &[u8], delta: LeafSum) -> RowChange<'_> {
        RowChange { table: TABLE, leaf: LEAF, data_key, delta }
    }

    fn watch() -> Watch {
        Watch::begin(1, TABLE, LEAF, KeyRange { start: b"a".to_vec(), end: b"z".to_vec() })
    }

    #[test]
    fn changes_count_where_the_rows_were_read_already_and_only_there() {
        let mut watch = watch();
        watch.note(change(b"b", sum(1)));
        assert_eq!(watch.begin_piece(b"m"), LeafSum::ZERO, "nothing was read yet");
        watch.note(change(b"b", sum(10)));
        watch.note(change(b"m", sum(100)));
        watch.note(RowChange { leaf: LeafId(8), ..change(b"b", sum(1000)) });
        watch.note(RowChange { table: TableId(4), ..change(b"b", sum(1000)) });
        watch.end_piece(sum(5));
        assert!(watch.is_at(1, b"m"));
        assert_eq!(watch.begin_piece(b"p"), LeafSum { sum: 15, rows: 2 });
        watch.note(change(b"b", LeafSum::ZERO.minus(sum(10))));
        watch.end_piece(LeafSum::ZERO);
        assert_eq!(watch.begin_piece(b"q"), sum(5));
    }

    #[test]
    fn a_piece_that_is_begun_again_forgets_what_was_changed_before_its_snapshot() {
        let mut watch = watch();
        watch.begin_piece(b"m");
        watch.note(change(b"b", sum(1)));
        watch.begin_piece(b"m");
        watch.end_piece(sum(7));
        assert_eq!(watch.begin_piece(b"n"), sum(7));
    }

    #[test]
    fn a_range_of_rows_ends_the_watch_of_the_leaf_it_touches() {
        let range = |start: &[u8], end: &[u8]| KeyRange { start: start.to_vec(), end: end.to_vec() };
        assert!(watch().overlaps(&range(b"y", b"zz")));
        assert!(watch().overlaps(&range(b"", b"")));
        assert!(!watch().overlaps(&range(b"z", b"zz")));
        assert!(!watch().overlaps(&range(b"", b"a")));
    }
}

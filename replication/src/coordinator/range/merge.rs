//! Merging the pages of several replicas into one: plain code.
//!
//! A page covers its partition key's rows only up to where its replica stopped, so the merged page ends at the nearest
//! such place: what lies behind it might be missing from a reply although the replica holds it. Within that, each row is
//! the newest of all replies, and a reply that lacks it or has an older one is stale for it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use cube_storage::model::{NodeId, Record};
use cube_storage::scan::Row;

/// One replica's page.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) node: NodeId,
    pub(super) rows: Vec<Row>,
    /// Whether there is more behind its last row.
    pub(super) more: bool,
}

/// What several pages say together.
#[derive(Debug, PartialEq)]
pub(super) struct Merged {
    /// The newest record of every row that is covered, in the order of the scan.
    pub(super) rows: Vec<Row>,
    /// Whether there is more behind the last row.
    pub(super) more: bool,
    /// For each replica the rows, by their place, that it lacks or has an older record of.
    pub(super) stale: BTreeMap<NodeId, Vec<usize>>,
}

/// Merges pages to one of at most so many rows and bytes; a first row that is larger comes alone.
pub(super) fn merge(replies: &[Reply], backward: bool, rows_max: usize, bytes_max: usize) -> Merged {
    let in_order = |a: &Bytes, b: &Bytes| if backward { b.cmp(a) } else { a.cmp(b) };
    let stops = replies.iter().filter(|reply| reply.more).filter_map(|reply| reply.rows.last());
    let stop = stops.map(|row| &row.key.sort).min_by(|a, b| in_order(a, b)).cloned();
    let covered = |sort: &Bytes| stop.as_ref().is_none_or(|stop| in_order(sort, stop).is_le());

    let mut newest: BTreeMap<Bytes, &Row> = BTreeMap::new();
    for row in replies.iter().flat_map(|reply| &reply.rows).filter(|row| covered(&row.key.sort)) {
        let best = newest.entry(row.key.sort.clone()).or_insert(row);
        if row.record.supersedes(&best.record) {
            *best = row;
        }
    }
    let mut rows: Vec<Row> = newest.into_values().cloned().collect();
    if backward {
        rows.reverse();
    }
    let fitting = fitting(&rows, rows_max, bytes_max);
    let cut = rows.len() > fitting;
    rows.truncate(fitting);
    let stale = replies.iter().filter_map(|reply| {
        let stale = stale_rows(&rows, &reply.rows);
        (!stale.is_empty()).then_some((reply.node, stale))
    });
    Merged { stale: stale.collect(), more: cut || stop.is_some(), rows }
}

/// How many of the first rows go on a page: what each replica sends is bounded, and so is what several send together.
fn fitting(rows: &[Row], rows_max: usize, bytes_max: usize) -> usize {
    let mut bytes = 0;
    let fits = |(place, row): &(usize, &Row)| {
        bytes += len_bytes(row);
        *place == 0 || bytes <= bytes_max
    };
    rows.iter().take(rows_max).enumerate().take_while(fits).count()
}

/// Bytes of a row's key and record.
pub(super) fn len_bytes(row: &Row) -> usize {
    row.key.len_bytes() + row.record.encoded_len()
}

fn stale_rows(newest: &[Row], theirs: &[Row]) -> Vec<usize> {
    let held: BTreeMap<&Bytes, &Record> = theirs.iter().map(|row| (&row.key.sort, &row.record)).collect();
    let is_stale = |row: &Row| held.get(&row.key.sort) != Some(&&row.record);
    newest.iter().enumerate().filter(|(_, row)| is_stale(row)).map(|(place, _)| place).collect()
}

/// The nodes of a reply list, for whoever counts them.
pub(super) fn nodes(replies: &[Reply]) -> BTreeSet<NodeId> {
    replies.iter().map(|reply| reply.node).collect()
}

#[cfg(test)]
mod tests {
    use cube_storage::model::{Hlc, RowKey, Version};
    use proptest::prelude::*;

    use super::*;
    use crate::cases::cases;

    type Held = BTreeMap<u8, u64>;

    fn page(node: u16, held: &Held, backward: bool, rows_max: usize) -> Reply {
        let row = |(sort, hlc): (&u8, &u64)| Row {
            key: RowKey::with_sort("p", vec![*sort]),
            record: Record::value(Version::new(Hlc(*hlc), NodeId(0)), vec![*hlc as u8]),
        };
        let mut rows: Vec<Row> = held.iter().map(row).collect();
        if backward {
            rows.reverse();
        }
        let more = rows.len() > rows_max;
        rows.truncate(rows_max);
        Reply { node: NodeId(node), rows, more }
    }

    proptest! {
        #![proptest_config(cases(256))]

        #[test]
        fn a_merged_page_is_the_beginning_of_the_merged_rows(
            held in prop::collection::vec(prop::collection::btree_map(0u8..20, 1u64..5, 0..12), 1..4),
            backward in any::<bool>(),
            rows_max in 1usize..8,
            bytes_max in prop_oneof![Just(usize::MAX), 0usize..200],
        ) {
            let replies: Vec<Reply> =
                held.iter().enumerate().map(|(node, held)| page(node as u16, held, backward, rows_max)).collect();
            let merged = merge(&replies, backward, rows_max, bytes_max);
            let mut all: Held = Held::new();
            for (sort, hlc) in held.iter().flatten() {
                let newest = all.entry(*sort).or_default();
                *newest = (*newest).max(*hlc);
            }
            let mut all: Vec<(u8, u64)> = all.into_iter().collect();
            if backward {
                all.reverse();
            }
            let got: Vec<(u8, u64)> = merged.rows.iter().map(|row| (row.key.sort[0], row.record.version.hlc.0)).collect();
            prop_assert_eq!(&all[..got.len()], got.as_slice(), "no row is left out or outdated");
            prop_assert!(merged.more || got.len() == all.len(), "the last page says so");
            prop_assert!(!merged.more || !got.is_empty(), "a page that is not the last gets on");
            prop_assert!(got.len() <= rows_max);
            let bytes: usize = merged.rows.iter().map(len_bytes).sum();
            prop_assert!(bytes <= bytes_max || got.len() == 1, "{} bytes on a page of {}", bytes, bytes_max);
            for (node, held) in held.iter().enumerate() {
                let stale: Vec<usize> = got.iter().enumerate()
                    .filter(|(_, (sort, hlc))| held.get(sort) != Some(hlc)).map(|(place, _)| place).collect();
                let told = merged.stale.get(&NodeId(node as u16)).cloned().unwrap_or_default();
                prop_assert_eq!(told, stale, "stale is who lacks a row or has an older one");
            }
        }
    }
}

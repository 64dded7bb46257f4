//! Looking at what a store really holds: the bytes of its engine, its trees, its marks.

use std::ops::ControlFlow;

use cube_storage::engine::{Direction, Engine, Space};
use cube_storage::keyspace::KeyRange;
use cube_storage::merkle::{DEPTH, LeafId, LeafSum};
use cube_storage::model::{PartitionId, TableId};
use cube_storage::{ScrubBounds, ScrubPlace, Scrubbed, Store, StoreError};

use super::model::{Model, Spaces};

/// All pairs of a key space.
pub(crate) fn pairs(engine: &dyn Engine, space: Space) -> Vec<(Vec<u8>, Vec<u8>)> {
    let all = KeyRange { start: Vec::new(), end: Vec::new() };
    let mut pairs = Vec::new();
    engine
        .scan(space, &all, Direction::Forward, &mut |key, value| {
            pairs.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        })
        .unwrap();
    pairs
}

/// The bytes of an engine's key spaces of rows.
pub(crate) fn spaces(engine: &dyn Engine) -> Spaces {
    let keys = pairs(engine, Space::Keys).into_iter().map(|(key, value)| {
        assert!(value.is_empty(), "an index entry has no value");
        key
    });
    Spaces {
        data: pairs(engine, Space::Data).into_iter().collect(),
        keys: keys.collect(),
        merkle: pairs(engine, Space::Merkle).into_iter().collect(),
    }
}

/// Asserts that a store holds exactly what the model says: the bytes of rows, index and leaves, the sums of its trees,
/// and what it knows of its partitions.
pub(crate) fn assert_holds(store: &Store, engine: &dyn Engine, model: &Model, after: &str) {
    assert_eq!(spaces(engine), model.spaces(), "after {after}");
    let leaves = model.leaves();
    for (&table, options) in &model.tables {
        assert_eq!(store.table(table).as_ref(), Ok(options), "after {after}");
        for partition in model.bits.all() {
            assert_eq!(store.range_state(table, partition), model.range(table, partition), "after {after}");
            let expected = leaves.iter().filter(|((of, leaf), _)| *of == table && leaf >> 12 == u32::from(partition.0));
            let expected: Vec<(LeafId, LeafSum)> =
                expected.map(|((_, leaf), (sum, rows))| (LeafId(*leaf), LeafSum { sum: *sum, rows: *rows })).collect();
            assert_tree(store, table, partition, &expected, after);
        }
    }
}

/// Asserts that a partition's tree is the one over these leaves, on every level.
fn assert_tree(store: &Store, table: TableId, partition: PartitionId, leaves: &[(LeafId, LeafSum)], after: &str) {
    let (from, to) = LeafId::of_partition(partition);
    assert_eq!(store.leaves(table, from, to).unwrap(), leaves, "leaves of {table} {partition} after {after}");
    for level in 0..DEPTH {
        let below = 16_u32.pow(u32::from(DEPTH - level));
        let mut expected: Vec<(u32, LeafSum)> = Vec::new();
        for (leaf, sum) in leaves {
            let index = (leaf.0 - from.0) / below;
            match expected.last_mut() {
                Some((last, total)) if *last == index => *total = total.plus(*sum),
                _ => expected.push((index, *sum)),
            }
        }
        let nodes = store.nodes(table, partition, level).unwrap();
        let nodes: Vec<_> = nodes.into_iter().map(|(node, sum)| (u32::from(node.index), sum)).collect();
        assert_eq!(nodes, expected, "level {level} of {table} {partition} after {after}");
    }
    let total = leaves.iter().fold(LeafSum::ZERO, |total, (_, sum)| total.plus(*sum));
    assert_eq!(store.root(table, partition).unwrap(), total, "root of {table} {partition} after {after}");
}

/// Scrubs a whole table in steps of `rows_max` rows.
pub(crate) fn scrub(store: &Store, table: TableId, rows_max: usize) -> Result<Scrubbed, StoreError> {
    scrub_bounded(store, table, ScrubBounds { rows_max, bytes_max: usize::MAX })
}

/// Scrubs a whole table in steps of these bounds.
pub(crate) fn scrub_bounded(store: &Store, table: TableId, bounds: ScrubBounds) -> Result<Scrubbed, StoreError> {
    let mut all = Scrubbed { rows: 0, damaged: Vec::new(), next: None };
    let mut place = ScrubPlace::from(LeafId(0));
    loop {
        let step = store.scrub_step(table, &place, bounds)?;
        assert!(step.rows <= bounds.rows_max.max(1), "a step is bounded");
        all.rows += step.rows;
        all.damaged.extend(step.damaged);
        match step.next {
            Some(next) => {
                assert!(next.leaf() >= place.leaf() && next != place, "a step gets on");
                place = next;
            }
            None => return Ok(all),
        }
    }
}

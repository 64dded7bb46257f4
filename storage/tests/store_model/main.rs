//! The store against a plain model of a node's rows.
//!
//! Any sequence of applies, in any order, split into any batches, repeated or not, leaves the same rows, the same
//! Merkle leaves and the same key index, on both engines. And whatever else is done to a store in between (proofs,
//! floors, purges, clearing, fences, reopening, a loss of power), after every single step it holds exactly the bytes
//! that the disk format gives the model's rows, with leaves and trees recomputed from scratch (`steps.rs`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

#[path = "../common/mod.rs"]
mod common;
mod steps;

use std::sync::Arc;

use cube_storage::engine::Engine;
use cube_storage::model::{Batch, Mutation, Origin, PlacementId, TableId};
use cube_storage::{Store, SyncPolicy, TableOptions};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::common::disks::MemoryDisk;
#[cfg(feature = "rocks")]
use crate::common::disks::{RocksDisk, flush_and_compact};
use crate::common::model::{Model, Spaces};
use crate::common::{bits, cases, inputs, observe, open_store};

const INDEXED: TableId = TableId(1);
const UNINDEXED: TableId = TableId(2);
/// Acknowledged before it is synced.
const LAZY: TableId = TableId(7);
const ELSEWHERE: PlacementId = PlacementId(9);

/// One table of each kind.
fn tables() -> [(TableId, TableOptions); 3] {
    let lazy = SyncPolicy::Interval { every_ms: 3_600_000 };
    [
        (INDEXED, TableOptions::default()),
        (UNINDEXED, TableOptions { prefix_index: false, placement: ELSEWHERE, ..TableOptions::default() }),
        (LAZY, TableOptions { sync: lazy, ..TableOptions::default() }),
    ]
}

fn table_ids() -> Vec<TableId> {
    tables().map(|(table, _)| table).to_vec()
}

fn model_with_tables() -> Model {
    Model { tables: tables().into_iter().collect(), ..Model::new(bits()) }
}

fn open_with_tables(engine: Arc<dyn Engine>) -> Store {
    let store = open_store(engine);
    for (table, options) in tables() {
        store.put_table(table, options).unwrap();
    }
    store
}

/// The mutations, in some order, some of them twice, cut into batches.
fn arrivals(mutations: Vec<Mutation>) -> impl Strategy<Value = Vec<Batch>> {
    let count = mutations.len();
    let again = prop::collection::vec(0..count, 0..count);
    let all = again.prop_map(move |again| {
        let repeated: Vec<Mutation> = again.into_iter().map(|place| mutations[place].clone()).collect();
        [mutations.clone(), repeated].concat()
    });
    (all.prop_shuffle(), prop::collection::vec(1_usize..6, 40)).prop_map(|(mut rest, lengths)| {
        let mut batches = Vec::new();
        for len in lengths.into_iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let tail = rest.split_off(len.min(rest.len()));
            batches.push(Batch { origin: Origin::Client, mutations: std::mem::replace(&mut rest, tail) });
        }
        batches
    })
}

fn two_arrivals_of_the_same() -> impl Strategy<Value = (Vec<Batch>, Vec<Batch>)> {
    prop::collection::vec(inputs::mutation(table_ids()), 1..40)
        .prop_flat_map(|mutations| (arrivals(mutations.clone()), arrivals(mutations)))
}

/// What an engine holds after the batches; asserts on the way that each outcome is the model's.
fn hold_after(engine: Arc<dyn Engine>, batches: &[Batch]) -> (Spaces, Spaces) {
    let (store, mut model) = (open_with_tables(Arc::clone(&engine)), model_with_tables());
    for batch in batches {
        assert_eq!(store.apply(batch.clone()).unwrap(), model.apply(batch));
    }
    observe::assert_holds(&store, engine.as_ref(), &model, "all batches");
    (observe::spaces(engine.as_ref()), model.spaces())
}

#[test]
fn in_any_order_split_and_repeated_the_same_writes_leave_the_same() {
    let mut runner = TestRunner::new(cases(300));
    let ran = runner.run(&two_arrivals_of_the_same(), |(one, other)| {
        let (one, expected) = hold_after(Arc::new(MemoryDisk::default().0), &one);
        let (other, expected_too) = hold_after(Arc::new(MemoryDisk::default().0), &other);
        prop_assert_eq!(&expected, &expected_too);
        prop_assert_eq!(&one, &expected);
        prop_assert_eq!(&other, &expected);
        Ok(())
    });
    ran.unwrap();
}

#[cfg(feature = "rocks")]
#[test]
fn in_any_order_split_and_repeated_the_same_writes_leave_the_same_on_rocksdb() {
    let mut runner = TestRunner::new(cases(24));
    let ran = runner.run(&two_arrivals_of_the_same(), |(one, other)| {
        let (one_disk, other_disk) = (RocksDisk::new(), RocksDisk::new());
        let (one, expected) = hold_after(one_disk.engine(), &one);
        let (other, _) = hold_after(other_disk.engine(), &other);
        prop_assert_eq!(&one, &expected);
        prop_assert_eq!(&other, &expected);
        // And the bytes do not depend on where they are kept.
        let engine = one_disk.engine();
        flush_and_compact(&engine);
        prop_assert_eq!(&observe::spaces(engine.as_ref()), &expected);
        Ok(())
    });
    ran.unwrap();
}

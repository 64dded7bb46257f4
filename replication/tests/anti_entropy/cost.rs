//! What a comparison costs: nothing but the roots where nothing differs, and what differs where something does.

use std::sync::Arc;

use cube_replication::anti_entropy::compare::Verdict;
use cube_storage::Store;
use cube_storage::engine::EngineError;
use cube_storage::model::{PartitionBits, Record, RowKey};

use super::pair::{TABLE, compare, plant, rows, store, version};

/// Bytes that a differing leaf costs beside its rows: its share of the sums above it and the versions of its rows.
const BYTES_PER_LEAF: usize = 600;
/// The roots.
const BYTES_OF_ROOTS: usize = 8 << 10;

fn key(n: u32) -> RowKey {
    RowKey::of(format!("row-{n:08}"))
}

fn value(n: u32) -> Vec<u8> {
    (0..256u32).map(|at| (n.wrapping_mul(2_654_435_761).wrapping_add(at * at)) as u8).collect()
}

fn pair(count: u32) -> [Arc<Store>; 2] {
    let stores = [store(PartitionBits::DEFAULT).0, store(PartitionBits::DEFAULT).0];
    for store in &stores {
        plant(store, (0..count).map(|n| (key(n), Record::value(version(10), value(n)))));
    }
    stores
}

/// Compares so many equal rows in 256 partitions on engines that give nothing away.
fn compare_equal(count: u32) {
    let pairs = [store(PartitionBits::DEFAULT), store(PartitionBits::DEFAULT)];
    for (store, engine) in &pairs {
        plant(store, (0..count).map(|n| (key(n), Record::value(version(10), value(n)))));
        engine.fail_reads_with(EngineError::Io { detail: "nothing is to be read".into() });
        assert!(store.get(TABLE, &key(7)).is_err());
    }
    let found = compare(&pairs[0].0, &pairs[1].0);
    assert!(found.all(Verdict::Equal));
    assert_eq!((found.tally.listed, found.tally.round_trips), (0, 1));
    assert!(found.bytes <= 8 << 10, "{} bytes", found.bytes);
    println!("{count} equal rows in 256 partitions: {} bytes", found.bytes);
}

#[test]
fn equal_replicas_exchange_their_roots_and_no_row_is_read() {
    compare_equal(3_000);
}

#[test]
#[ignore = "long: a million rows"]
fn a_million_equal_rows_exchange_their_roots_and_no_row_is_read() {
    compare_equal(1_000_000);
}

/// Makes so many rows differ, in every way there is, on either side. The bytes of those that must travel.
fn scatter(stores: &[Arc<Store>; 2], count: u32, differences: u32) -> usize {
    let mut bytes = 0;
    for n in 0..differences {
        let at = (u64::from(n) * u64::from(count) / u64::from(differences)) as u32;
        let side = &stores[(n % 2) as usize];
        let newer = version(20 + u64::from(differences));
        let (key, record) = match n % 3 {
            0 => (key(at), Record::value(newer, value(at + 1))),
            1 => (key(at), Record::tombstone(newer)),
            _ => (key(count + 10 * differences + n), Record::value(newer, value(n))),
        };
        bytes += key.len_bytes() + record.encoded_len();
        plant(side, [(key, record)]);
    }
    bytes
}

fn costs(count: u32, each: [u32; 3]) -> Vec<(u32, usize, u64)> {
    let mut costs = Vec::new();
    let stores = pair(count);
    for differences in each {
        let row_bytes = scatter(&stores, count, differences);
        let found = compare(&stores[0], &stores[1]);
        let limit = 3 * row_bytes + BYTES_PER_LEAF * found.tally.leaves as usize + BYTES_OF_ROOTS;
        println!(
            "{differences} differences in {count} rows: {} bytes for {row_bytes} of rows, {} leaves, {} round trips",
            found.bytes, found.tally.leaves, found.tally.round_trips
        );
        assert!(found.bytes <= limit, "{differences}: {} bytes, {limit} are allowed", found.bytes);
        assert!(found.tree_round_trips <= 4, "{} round trips for sums", found.tree_round_trips);
        assert_eq!(found.tally.rows_sent + found.tally.rows_fetched, u64::from(differences));
        let again = compare(&stores[1], &stores[0]);
        assert!(again.all(Verdict::Equal) && again.tally.listed == 0, "a second comparison finds nothing");
        assert!(again.bytes <= BYTES_OF_ROOTS, "{} bytes between equal replicas", again.bytes);
        costs.push((differences, found.bytes, found.tally.round_trips));
    }
    assert_eq!(rows(&stores[0]), rows(&stores[1]));
    costs
}

#[test]
fn bytes_grow_with_the_differences_and_round_trips_do_not_grow_with_the_partitions() {
    let costs = costs(5_000, [1, 100, 1_000]);
    let trips: Vec<u64> = costs.iter().map(|cost| cost.2).collect();
    // One row differs in one partition, a hundred in nearly a hundred: as many messages for the one as for the other.
    assert!(trips[1] <= trips[0] + 2, "{trips:?}");
    assert!(costs[0].1 < 10 << 10, "one difference costs {} bytes", costs[0].1);
}

#[test]
#[ignore = "long: a million rows"]
fn bytes_grow_with_the_differences_among_a_million_rows() {
    costs(1_000_000, [1, 100, 10_000]);
}

#[test]
fn a_leaf_of_many_rows_is_compared_in_bounded_pieces() {
    let rows_of_leaf: u32 = 100_000;
    let bits = PartitionBits::new(2).unwrap();
    let ((a, _), (b, _)) = (store(bits), store(bits));
    let row = |n: u32| RowKey::with_sort("one key", n.to_be_bytes().to_vec());
    for store in [&a, &b] {
        plant(store, (0..rows_of_leaf).map(|n| (row(n), Record::value(version(10), n.to_be_bytes().to_vec()))));
    }
    plant(
        &a,
        [(row(7), Record::value(version(11), "newer")), (row(rows_of_leaf + 5), Record::value(version(11), "behind"))],
    );
    plant(&b, [(row(55_555), Record::tombstone(version(11)))]);
    let found = compare(&a, &b);
    println!("three differences in a leaf of {rows_of_leaf}: {} bytes, longest {}", found.bytes, found.longest);
    assert!(found.longest < 64 << 10, "a message of {} bytes", found.longest);
    assert!(found.tally.listed < 2_000, "{} rows were listed", found.tally.listed);
    assert_eq!((found.tally.rows_sent, found.tally.rows_fetched), (2, 1));
    assert!(compare(&b, &a).all(Verdict::Equal));
}

#[test]
fn a_replica_that_lacks_a_whole_leaf_is_given_it_in_batches() {
    let bits = PartitionBits::new(2).unwrap();
    let ((a, _), (b, _)) = (store(bits), store(bits));
    plant(
        &a,
        (0..5_000u32)
            .map(|n| (RowKey::with_sort("one key", n.to_be_bytes().to_vec()), Record::value(version(10), "v"))),
    );
    let found = compare(&a, &b);
    assert_eq!(found.tally.rows_sent, 5_000);
    assert!(found.longest < 64 << 10, "a message of {} bytes", found.longest);
    let ((c, _), _) = (store(bits), ());
    let found = compare(&c, &a);
    assert_eq!(found.tally.rows_fetched, 5_000);
    assert_eq!(rows(&a), rows(&b));
    assert_eq!(rows(&a), rows(&c));
}

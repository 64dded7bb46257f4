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

/// In what way a row of one replica differs from the other's.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// It is newer.
    Stale,
    /// It is deleted.
    Deleted,
    /// The other has none.
    Missing,
}

const WAYS: [Way; 3] = [Way::Stale, Way::Deleted, Way::Missing];

/// What was made to differ, and what of it must travel.
#[derive(Debug, Default)]
struct Scattered {
    rows: u64,
    bytes: usize,
    rounds: u32,
}

impl Scattered {
    /// Makes one row differ, in some place of a round of so many.
    fn scatter(&mut self, side: &Store, way: Way, count: u32, place: (u32, u32)) {
        let (at, of) = place;
        let newer = version(20 + u64::from(self.rounds));
        let known = (u64::from(at) * u64::from(count) / u64::from(of)) as u32;
        let (key, record) = match way {
            Way::Stale => (key(known), Record::value(newer, value(known + 1))),
            Way::Deleted => (key(known), Record::tombstone(newer)),
            Way::Missing => (key(count + self.rounds * 1_000_000 + at), Record::value(newer, value(at))),
        };
        self.bytes += key.len_bytes() + record.encoded_len();
        self.rows += 1;
        plant(side, [(key, record)]);
    }
}

/// What a comparison took that mended what was scattered. All of it was mended, and nothing else was sent.
fn mend(stores: &[Arc<Store>; 2], scattered: &Scattered, what: &str) -> (usize, u64) {
    let found = compare(&stores[0], &stores[1]);
    let limit = 3 * scattered.bytes + BYTES_PER_LEAF * found.tally.leaves as usize + BYTES_OF_ROOTS;
    println!(
        "{what}: {} bytes for {} of {} rows, {} leaves, {} round trips",
        found.bytes, scattered.bytes, scattered.rows, found.tally.leaves, found.tally.round_trips
    );
    assert!(found.bytes <= limit, "{what}: {} bytes, {limit} are allowed", found.bytes);
    assert!(found.tree_round_trips <= 4, "{what}: {} round trips for sums", found.tree_round_trips);
    assert_eq!(found.tally.rows_sent + found.tally.rows_fetched, scattered.rows, "{what}");
    // Beside the sums, a message for each 256 leaves that are listed and each 256 rows in either direction, and not one
    // for each partition.
    let batches = |items: u64| items / 256 + 1;
    let trips_max = 4 + batches(found.tally.leaves) + 2 * batches(scattered.rows);
    assert!(found.tally.round_trips <= trips_max, "{what}: {} round trips", found.tally.round_trips);
    let again = compare(&stores[1], &stores[0]);
    assert!(again.all(Verdict::Equal) && again.tally.listed == 0, "{what}: a second comparison finds nothing");
    assert!(again.bytes <= BYTES_OF_ROOTS, "{what}: {} bytes between equal replicas", again.bytes);
    (found.bytes, found.tally.round_trips)
}

/// Two replicas of so many rows that differ in one row, in each way and on either side, and then in so many in all ways:
/// bytes and round trips of each.
fn costs(count: u32, each: [u32; 2]) -> Vec<(usize, u64)> {
    let stores = pair(count);
    let (mut costs, mut rounds) = (Vec::new(), 0);
    for (side, way) in [0, 1].into_iter().flat_map(|side| WAYS.map(|way| (side, way))) {
        rounds += 1;
        let mut scattered = Scattered { rounds, ..Scattered::default() };
        scattered.scatter(&stores[side], way, count, (rounds, 10));
        costs.push(mend(&stores, &scattered, &format!("one row, {way:?}, on side {side}, of {count}")));
    }
    for differences in each {
        rounds += 1;
        let mut scattered = Scattered { rounds, ..Scattered::default() };
        for (at, way) in (0..differences).zip(WAYS.into_iter().cycle()) {
            scattered.scatter(&stores[(at % 2) as usize], way, count, (at, differences));
        }
        costs.push(mend(&stores, &scattered, &format!("{differences} rows of {count}")));
    }
    assert_eq!(rows(&stores[0]), rows(&stores[1]), "all is mended");
    costs
}

#[test]
fn bytes_grow_with_the_differences_and_round_trips_do_not_grow_with_the_partitions() {
    let costs = costs(5_000, [100, 1_000]);
    for (bytes, _) in &costs[..6] {
        assert!(*bytes < 10 << 10, "one difference costs {bytes} bytes");
    }
    // One row differs in one partition, a hundred in nearly a hundred: as many messages for the one as for the other, but
    // that the one goes in one direction.
    assert!(costs[6].1 <= costs[0].1 + 2, "{costs:?}");
}

#[test]
#[ignore = "long: a million rows"]
fn bytes_grow_with_the_differences_among_a_million_rows() {
    let costs = costs(1_000_000, [100, 10_000]);
    assert!(costs[6].1 <= costs[0].1 + 2, "{costs:?}");
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

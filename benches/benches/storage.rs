//! The storage engine piece by piece: what a kilobyte of record, a hash, a batch, a read and a page cost in processor
//! time. How that compares with a bare RocksDB is `storage_ratios`.

#![allow(clippy::expect_used, reason = "a benchmark that cannot be set up has nothing to measure")]

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use cube_benches::measure::{process_ns, thread_ns};
use cube_benches::subject::{Cube, MERKLE_KEY, Subject, TABLE};
use cube_benches::workload::{BATCH_ROWS, PREFIX_ROWS, VALUE_BYTES, Workload, key, prefix};
use cube_storage::keyspace::{data_key, encode_data_key};
use cube_storage::merkle::{LeafId, Tree};
use cube_storage::model::{Batch, Hlc, NodeId, PartitionBits, Record, RecordHeader, RowKey, Version};

/// Rows that are written again and again; they fit into memory.
const HOT_ROWS: u32 = 20_000;
/// Batches that are put together before a measurement begins.
const PREPARED: u64 = 64;

type Group<'a> = BenchmarkGroup<'a, criterion::measurement::WallTime>;

/// Processor time of this thread, for work that starts no other.
fn bench(group: &mut Group<'_>, name: &str, mut work: impl FnMut()) {
    group.bench_function(name, |bencher| {
        bencher.iter_custom(|runs| {
            let before_ns = thread_ns();
            (0..runs).for_each(|_| work());
            Duration::from_nanos(thread_ns() - before_ns)
        });
    });
}

/// Processor time of all threads, without what it takes to put the batches together.
fn bench_batches(group: &mut Group<'_>, name: &str, cube: &Cube, apply: impl Fn(&Cube, Vec<Batch>)) {
    let mut workload = Workload::new(2);
    group.bench_function(name, |bencher| {
        bencher.iter_custom(|runs| {
            let (mut done, mut spent_ns) = (0, 0);
            while done < runs {
                let count = PREPARED.min(runs - done);
                let batches = (0..count).map(|_| {
                    let numbers = workload.drawn(HOT_ROWS, BATCH_ROWS as u32);
                    cube.batch(workload.rows(&numbers))
                });
                let batches: Vec<Batch> = batches.collect();
                let before_ns = process_ns();
                apply(cube, batches);
                spent_ns += process_ns() - before_ns;
                done += count;
            }
            Duration::from_nanos(spent_ns)
        });
    });
}

fn version(number: u64) -> Version {
    Version::new(Hlc(number), NodeId(1))
}

fn records(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("record");
    group.throughput(Throughput::Bytes(VALUE_BYTES as u64));
    let row = key(7);
    let encoded_key = data_key(TABLE, &row);
    let record = Record::value(version(1), Workload::new(1).value());
    let bytes = record.encode(&encoded_key);
    let mut buffer = Vec::new();
    bench(&mut group, "encode", || {
        buffer.clear();
        black_box(record.encode_into(&encoded_key, &mut buffer));
    });
    bench(&mut group, "verify", || {
        black_box(RecordHeader::verify(&encoded_key, &bytes).expect("it reads back"));
    });
    bench(&mut group, "decode", || {
        black_box(Record::decode_copy(&encoded_key, &bytes).expect("it reads back"));
    });
    group.finish();
}

fn sums(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("merkle");
    let encoded_key = data_key(TABLE, &key(7));
    let mut number = 0;
    bench(&mut group, "row_hash", || {
        number += 1;
        black_box(MERKLE_KEY.row(&encoded_key, version(number), 5));
    });
    let delta = MERKLE_KEY.row(&encoded_key, version(1), 5);
    let mut tree = Tree::default();
    let mut leaf = 0_u32;
    bench(&mut group, "tree_add", || {
        leaf = leaf.wrapping_add(2_654_435_761);
        tree.add(LeafId(leaf >> 20), delta);
    });
    let mut buffer = Vec::new();
    let row = key(7);
    bench(&mut group, "key_and_leaf", || {
        buffer.clear();
        let token = encode_data_key(TABLE, &row, &mut buffer);
        black_box(LeafId::of(token, PartitionBits::DEFAULT));
    });
    group.finish();
}

fn writes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("apply_64");
    group.throughput(Throughput::Elements(BATCH_ROWS as u64));
    let dir = tempfile::tempdir().expect("a temporary folder");
    let on_disk = hot(Cube::open(dir.path()).expect("a store"));
    let in_memory = hot(Cube::in_memory().expect("a store"));
    let one_by_one = |cube: &Cube, batches: Vec<Batch>| {
        for batch in batches {
            cube.store().apply(batch).expect("applied");
        }
    };
    bench_batches(&mut group, "rocksdb", &on_disk, one_by_one);
    bench_batches(&mut group, "memory", &in_memory, one_by_one);
    bench_batches(&mut group, "rocksdb_queued_singly", &on_disk, queued_singly);
    bench_batches(&mut group, "memory_queued_singly", &in_memory, queued_singly);
    group.finish();
}

/// As clients' writes come: many batches of one row, which one group takes together.
fn queued_singly(cube: &Cube, batches: Vec<Batch>) {
    for Batch { origin, mutations } in batches {
        for mutation in mutations {
            let single = Batch { origin, mutations: vec![mutation] };
            cube.store().submit(single, Box::new(|outcome| drop(outcome.expect("applied"))));
        }
        cube.store().run_pending();
    }
}

fn reads(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let cube = hot(Cube::open(dir.path()).expect("a store"));
    cube.settle().expect("settled");
    let mut workload = Workload::new(3);
    let keys: Vec<RowKey> = workload.drawn(HOT_ROWS, 4096).into_iter().map(key).collect();
    let mut chunks = keys.chunks_exact(BATCH_ROWS).cycle();
    let mut rows = keys.iter().cycle();

    let mut group = criterion.benchmark_group("read");
    bench(&mut group, "get", || {
        let row = rows.next().expect("keys without end");
        black_box(cube.store().get(TABLE, row).expect("read"));
    });
    group.throughput(Throughput::Elements(BATCH_ROWS as u64));
    bench(&mut group, "headers_64", || {
        black_box(cube.store().headers(TABLE, chunks.next().expect("keys without end")));
    });
    group.throughput(Throughput::Elements(u64::from(PREFIX_ROWS)));
    let mut tenant = 0;
    bench(&mut group, "prefix_1000", || {
        tenant = (tenant + 1) % (HOT_ROWS / PREFIX_ROWS);
        black_box(cube.count_by_prefix_scan(&prefix(tenant)).expect("scanned"));
    });
    group.finish();
}

/// A store that holds the hot rows.
fn hot(cube: Cube) -> Cube {
    let mut workload = Workload::new(1);
    let numbers = workload.shuffled(HOT_ROWS);
    for numbers in numbers.chunks(1024) {
        cube.write(workload.rows(numbers)).expect("written");
    }
    cube
}

criterion_group!(benches, records, sums, writes, reads);
criterion_main!(benches);

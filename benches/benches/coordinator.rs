//! The coordinator's own logic, with replicas that answer at once: processor time of one QUORUM PUT, of a row in a batch
//! of 64, and of reads; and how often each asks for memory.
//!
//! Times are processor time of the one thread there is, not time on the wall.

#![allow(clippy::expect_used, reason = "a benchmark that cannot be set up has nothing to measure")]

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use cube_benches::allocations::{self, Counting};
use cube_benches::coordination::{Coordination, get, put, put_together};
use cube_benches::measure::thread_ns;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Requests that are made before a measurement begins: few enough to stay in the processor's cache.
const PREPARED: u64 = 256;

/// Processor time of `runs` requests, without the time it takes to make them.
fn measure<R>(runs: u64, prepare: impl Fn(u64) -> R, mut carry_out: impl FnMut(R)) -> Duration {
    let (mut done, mut spent_ns) = (0, 0);
    while done < runs {
        let requests: Vec<R> = (done..runs.min(done + PREPARED)).map(&prepare).collect();
        done += requests.len() as u64;
        let before_ns = thread_ns();
        requests.into_iter().for_each(&mut carry_out);
        spent_ns += thread_ns() - before_ns;
    }
    Duration::from_nanos(spent_ns)
}

fn bench<R>(
    criterion: &mut Criterion,
    name: &str,
    rows: u64,
    mut coordination: Coordination,
    prepare: impl Fn(u64) -> R,
    carry_out: impl Fn(&mut Coordination, R),
) {
    let mut group = criterion.benchmark_group("coordinator");
    group.throughput(Throughput::Elements(rows));
    group.bench_function(name, |bencher| {
        bencher.iter_custom(|runs| measure(runs, &prepare, |request| carry_out(&mut coordination, request)));
    });
    group.finish();
    let asked: Vec<u64> = (0..PREPARED)
        .map(|number| {
            let request = prepare(number);
            allocations::during(|| carry_out(&mut coordination, request))
        })
        .collect();
    let (least, most) = (asked.iter().min().copied().unwrap_or(0), asked.iter().max().copied().unwrap_or(0));
    println!("coordinator/{name}: {least} to {most} allocations\n");
    assert!(coordination.all_succeeded(), "some request did not succeed");
}

fn coordinator(criterion: &mut Criterion) {
    let alone = || Coordination::new().expect("the stub cluster starts");
    let replica = || Coordination::on_a_replica().expect("the stub cluster starts");
    let together = |number| put_together(number, 64);
    bench(criterion, "put", 1, alone(), |number| put(number, 1), Coordination::write);
    bench(criterion, "put_batch_64", 64, alone(), |number| put(64 * number, 64), Coordination::write);
    bench(criterion, "put_batch_64_one_partition_key", 64, alone(), together, Coordination::write);
    bench(criterion, "put_on_a_replica", 1, replica(), |number| put(number, 1), Coordination::write);
    bench(criterion, "put_batch_64_on_a_replica", 64, replica(), |number| put(64 * number, 64), Coordination::write);
    bench(criterion, "get", 1, alone(), |number| get(number, 1), Coordination::read);
    bench(criterion, "get_64", 64, alone(), |number| get(64 * number, 64), Coordination::read);
}

criterion_group!(benches, coordinator);
criterion_main!(benches);

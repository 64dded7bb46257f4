//! How often the coordinator asks for memory: bounded for each request and each row, so that it does not creep up.

#![allow(clippy::unwrap_used)]

use cube_benches::allocations::{self, Counting};
use cube_benches::coordination::{Coordination, get, put, put_together};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most that one of many requests took.
fn most<R>(prepare: impl Fn(u64) -> R, carry_out: impl Fn(&mut Coordination, R)) -> u64 {
    let mut coordination = Coordination::new().unwrap();
    let asked = (0..1_000).map(|number| {
        let request = prepare(number);
        allocations::during(|| carry_out(&mut coordination, request))
    });
    let most = asked.max().unwrap();
    assert!(coordination.all_succeeded());
    most
}

#[test]
fn a_request_of_one_row_takes_at_most_fifty_allocations() {
    let put = most(|number| put(number, 1), Coordination::write);
    assert!(put <= 50, "a PUT took {put}");
    let get = most(|number| get(number, 1), Coordination::read);
    assert!(get <= 40, "a GET took {get}");
}

#[test]
fn a_row_of_a_batch_takes_a_few_allocations() {
    let apart = most(|number| put(64 * number, 64), Coordination::write);
    assert!(apart <= 64 * 12, "64 rows with a partition key each took {apart}");
    let together = most(|number| put_together(number, 64), Coordination::write);
    assert!(together <= 64 * 2, "64 rows of one partition key took {together}");
    let read = most(|number| get(64 * number, 64), Coordination::read);
    assert!(read <= 64 * 14, "64 rows read took {read}");
}

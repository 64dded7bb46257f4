//! A node is stopped without a word, and goes on later as if nothing had been.

use std::time::Duration;

use rustix::process::Signal;

use crate::harness::Cluster;
use crate::harness::time::now_us;
use crate::load::{Load, Plan, read_back};

#[test]
fn a_node_that_stood_still_holds_nobody_up_and_says_nothing_outdated_afterwards() {
    let mut cluster = Cluster::of(3).with_long_deadlines().start();
    cluster.wait_settled(&[1, 2, 3], 3);
    let plan = Plan::quorum("load");
    let load = Load::start(&plan, &cluster.clients_of(&[1, 2, 3]));
    load.wait_for_writes(100);
    let paused_us = now_us();
    cluster.signal(3, Signal::STOP);
    for by in [1, 2] {
        cluster.wait_seen(by, &[3], "DOWN");
    }
    load.go_on(Duration::from_secs(4), 200);
    let resumed_us = now_us();
    cluster.signal(3, Signal::CONT);
    cluster.wait_formed(&[1, 2, 3]);
    let together_us = now_us();
    load.wait_for_writes(150);
    let mut history = load.stop();
    let failures = history.failures(&[1, 2], paused_us, resumed_us);
    assert!(failures.is_empty(), "through the others: {failures:?}");
    let failures = history.failures(&[1, 2, 3], together_us, u64::MAX);
    assert!(failures.is_empty(), "when it is back: {failures:?}");
    for (node, address) in cluster.clients_of(&[1, 2, 3]) {
        history.add(read_back(node, address, &plan));
    }
    history.assert_consistent();
}

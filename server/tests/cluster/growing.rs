//! Nodes join a cluster that is at work, and its clients notice nothing.

use crate::harness::Cluster;
use crate::load::{Load, Plan, read_back};

#[test]
fn growing_from_one_node_to_three_to_five_under_load_fails_no_request_and_misses_no_acknowledged_write() {
    let mut cluster = Cluster::growing_to(5, 1).with_long_deadlines().start();
    cluster.wait_settled(&[1], 1);
    let plan = Plan { rows: 120, ..Plan::quorum("load") };
    let mut load = Load::start(&plan, &cluster.clients_of(&[1]));
    load.wait_for_writes(200);
    for more in [2, 2] {
        let new: Vec<u8> = (0..more).map(|_| cluster.add()).collect();
        new.iter().for_each(|node| cluster.node(*node).start());
        let all = cluster.all();
        cluster.wait_formed(&all);
        cluster.wait_settled(&all, 3);
        load.add(&cluster.clients_of(&new));
        load.wait_for_writes(150);
    }
    load.wait_for_writes(200);
    let mut history = load.stop();
    let failures = history.failures(&cluster.all(), 0, u64::MAX);
    assert!(failures.is_empty(), "while it grew: {failures:?}");
    for (node, address) in cluster.clients_of(&cluster.all()) {
        history.add(read_back(node, address, &plan));
    }
    history.assert_consistent();
}

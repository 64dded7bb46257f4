//! A node that is told to stop.

use crate::harness::Cluster;
use crate::harness::time::{PATIENCE, eventually};
use crate::load::{Load, Plan, read_back};

#[test]
fn a_rolling_restart_under_load_fails_no_request_but_by_refusals_that_are_safe_to_retry() {
    let mut cluster = Cluster::of(3).with_long_deadlines().start();
    cluster.wait_settled(&[1, 2, 3], 3);
    let plan = Plan::quorum("load");
    let load = Load::start(&plan, &cluster.clients_of(&[1, 2, 3]));
    load.wait_for_writes(100);
    // One after the other, as an upgrade would; the others go on.
    for node in [3, 2, 1] {
        let status = cluster.terminate(node);
        assert_eq!(status.code(), Some(0), "{status}");
        load.wait_for_writes(30);
        cluster.restart(&[node]);
        cluster.wait_formed(&[1, 2, 3]);
    }
    let mut history = load.stop();
    let errors = history.errors();
    assert!(errors.is_empty(), "{errors:?}");
    for (node, address) in cluster.clients_of(&[1, 2, 3]) {
        history.add(read_back(node, address, &plan));
    }
    history.assert_consistent();
}

#[test]
fn a_node_that_still_looks_for_its_cluster_stops_when_told_to() {
    let mut cluster = Cluster::of(2);
    cluster.node(1).start();
    eventually("node-1 lives", PATIENCE, || cluster.api(1).livez().map(drop).map_err(|failure| failure.to_string()));
    let status = cluster.terminate(1);
    assert_eq!(status.code(), Some(0), "{status}");
}

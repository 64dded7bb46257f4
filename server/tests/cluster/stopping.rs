//! A node that is told to stop.

use rustix::process::Signal;

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

#[test]
fn a_node_that_stops_in_order_keeps_nobody_from_changing_the_schema_and_warns_of_nothing() {
    // An election by silence would take minutes: whoever leads next was handed the lead.
    let mut cluster =
        Cluster::of(3).set("raft.election_min", "200s").set("raft.election_max", "400s").with_long_deadlines().start();
    cluster.wait_settled(&[1, 2, 3], 3);
    // One of them leads.
    for node in [1, 2, 3] {
        let status = cluster.terminate(node);
        assert_eq!(status.code(), Some(0), "{status}");
        let other = node % 3 + 1;
        let created = cluster.api(other).create_table("default", &format!("without-{node}")).unwrap();
        assert!(created.is_success(), "{created}");
        cluster.restart(&[node]);
        cluster.wait_formed(&[1, 2, 3]);
    }
    // All at once, as one stops a cluster.
    let before: Vec<usize> = [1, 2, 3].map(|node| cluster.node(node).printed().len()).to_vec();
    cluster.all().into_iter().for_each(|node| cluster.signal(node, Signal::TERM));
    for node in cluster.all() {
        let status = cluster.node(node).wait_for_end(PATIENCE);
        assert_eq!(status.code(), Some(0), "{status}");
    }
    for (node, before) in [1, 2, 3].into_iter().zip(before) {
        let printed = cluster.node(node).printed().split_off(before);
        let warnings: Vec<&str> =
            printed.lines().filter(|line| line.contains("WARN") || line.contains("ERROR")).collect();
        assert!(warnings.is_empty(), "node-{node}: {warnings:#?}");
    }
}

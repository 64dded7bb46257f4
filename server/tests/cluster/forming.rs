//! Nodes that start together become one cluster.

use std::thread;
use std::time::Duration;

use crate::harness::Cluster;
use crate::harness::time::{PATIENCE, eventually, throughout};

#[test]
fn three_nodes_started_together_form_one_cluster() {
    let cluster = Cluster::of(3).start();
    assert_one_cluster(&cluster);
}

#[test]
fn in_whatever_order_three_nodes_start_they_form_one_cluster_when_the_last_is_there() {
    thread::scope(|scope| {
        for order in [[1, 2, 3], [3, 2, 1], [2, 3, 1]] {
            let form = move || form_in_order(order);
            thread::Builder::new().name(format!("order {order:?}")).spawn_scoped(scope, form).unwrap();
        }
    });
}

fn form_in_order([first, second, last]: [u8; 3]) {
    let mut cluster = Cluster::of(3);
    for node in [first, second] {
        cluster.node(node).start();
        wait_alive(&cluster, node);
    }
    // Two of three seeds have said that there is no cluster, and the third has not been heard.
    throughout("nobody serves before every seed was heard", Duration::from_secs(1), || {
        for node in [first, second] {
            match cluster.api(node).health() {
                Ok(answer) if answer.is_success() => return Err(format!("node-{node}: {answer}")),
                _ => (),
            }
        }
        Ok(())
    });
    cluster.node(last).start();
    cluster.wait_formed(&[1, 2, 3]);
    assert_one_cluster(&cluster);
}

/// All hold the row that each wrote: three clusters of one would not.
fn assert_one_cluster(cluster: &Cluster) {
    for by in cluster.all() {
        let put = cluster.api(by).put(&format!("by-{by}"), "to all", "ALL").unwrap();
        assert!(put.is_success(), "{put}");
        assert_eq!(put.json()["acknowledgedBy"].as_array().map(Vec::len), Some(3), "{put}");
    }
    for by in cluster.all() {
        for writer in cluster.all() {
            let got = cluster.api(by).get(&format!("by-{writer}"), "ALL").unwrap();
            assert_eq!(got.json()["value"], "to all", "{got}");
        }
    }
}

/// A node answers that it lives while it looks for its cluster.
fn wait_alive(cluster: &Cluster, node: u8) {
    eventually(&format!("node-{node} lives"), PATIENCE, || match cluster.api(node).livez() {
        Ok(answer) if answer.is_success() => Ok(()),
        Ok(answer) => Err(answer.to_string()),
        Err(failure) => Err(failure.to_string()),
    });
}

//! All nodes die at once under load, with and without what they had not fsynced.

use crate::harness::Cluster;
use crate::load::{History, Load, Plan, read_back};

const ROUNDS: u64 = 3;

#[test]
fn three_nodes_killed_at_once_under_load_hold_every_acknowledged_write_after_a_restart() {
    kill_all_under_load(Cluster::of(3), |_, _| ());
}

#[test]
fn three_nodes_that_lose_power_at_once_under_load_hold_every_acknowledged_write_after_a_restart() {
    let mut lost = 0;
    kill_all_under_load(Cluster::of(3).recording_fsyncs(), |cluster, round| {
        lost += cluster.lose_power(&[1, 2, 3], 0xc0be + 10 * round);
    });
    println!("{lost} bytes were not fsynced, and lost");
}

fn kill_all_under_load(cluster: Cluster, mut hurt: impl FnMut(&mut Cluster, u64)) {
    let mut cluster = cluster.with_long_deadlines().start();
    cluster.wait_settled(&[1, 2, 3], 3);
    // So many writers that some write is always between the log and the disk.
    let plan = Plan { writers_per_node: 4, ..Plan::quorum("load") };
    let mut history = History::default();
    for round in 0..ROUNDS {
        let load = Load::start(&plan, &cluster.clients_of(&[1, 2, 3]));
        load.wait_for_writes(400);
        cluster.kill(&[1, 2, 3]);
        history.add(load.stop());
        hurt(&mut cluster, round);
        cluster.restart(&[1, 2, 3]);
        // Each by itself: nobody waits until all see each other.
        for (node, address) in cluster.clients_of(&[1, 2, 3]) {
            history.add(read_back(node, address, &plan));
        }
    }
    cluster.wait_formed(&[1, 2, 3]);
    history.add(read_back(1, cluster.clients_of(&[1])[0].1, &Plan { read: "ALL", ..plan }));
    history.assert_consistent();
}

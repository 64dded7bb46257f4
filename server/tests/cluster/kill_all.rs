//! All nodes die at once under load, with and without what they had not fsynced.

use crate::harness::Cluster;
use crate::harness::time::{PATIENCE, eventually};
use crate::load::{History, Load, Plan, read_back};

const ROUNDS: u64 = 3;

const NODES: [u8; 3] = [1, 2, 3];
/// While fewer nodes than a quorum's complement wait for their disks, the load goes on; so as many come to wait.
const HOLDING_MIN: usize = 2;

#[test]
fn three_nodes_killed_at_once_under_load_hold_every_acknowledged_write_after_a_restart() {
    kill_all_under_load(Cluster::of(3), |_| (), |_, _| ());
}

/// The disks stand still before the power goes, so each time there is something to lose; what is acknowledged meanwhile
/// without being durable would be lost for good.
#[test]
fn three_nodes_that_lose_power_at_once_under_load_hold_every_acknowledged_write_after_a_restart() {
    let stand_still = |cluster: &Cluster| {
        cluster.hold_fsyncs(&NODES);
        eventually("nodes wait for their disks", PATIENCE, || match cluster.holding(&NODES) {
            enough if enough >= HOLDING_MIN => Ok(()),
            few => Err(format!("{few} of them do")),
        });
    };
    kill_all_under_load(Cluster::of(3).recording_fsyncs(), stand_still, |cluster, round| {
        let lost = cluster.lose_power(&NODES, 0xc0be + 10 * round);
        println!("{lost} bytes were not fsynced, and lost");
        assert!(lost > 0, "a loss of power that costs nothing proves nothing");
    });
}

fn kill_all_under_load(cluster: Cluster, before: impl Fn(&Cluster), mut hurt: impl FnMut(&mut Cluster, u64)) {
    let mut cluster = cluster.with_long_deadlines().start();
    cluster.wait_settled(&NODES, 3);
    // So many writers that some write is always between the log and the disk.
    let plan = Plan { writers_per_node: 4, ..Plan::quorum("load") };
    let mut history = History::default();
    for round in 0..ROUNDS {
        let load = Load::start(&plan, &cluster.clients_of(&NODES));
        load.wait_for_writes(400);
        before(&cluster);
        cluster.kill(&NODES);
        history.add(load.stop());
        hurt(&mut cluster, round);
        cluster.restart(&NODES);
        // Each by itself: nobody waits until all see each other.
        for (node, address) in cluster.clients_of(&NODES) {
            history.add(read_back(node, address, &plan));
        }
    }
    cluster.wait_formed(&NODES);
    history.add(read_back(1, cluster.clients_of(&[1])[0].1, &Plan { read: "ALL", ..plan }));
    history.assert_consistent();
}

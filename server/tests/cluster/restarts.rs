//! A node that dies and is started again at once.

use std::time::Duration;

use crate::harness::Cluster;
use crate::harness::time::{eventually, now};

/// From the moment that the node serves again. What the others wait for by themselves is up to 2 s, and more when the
/// machine is busy; they are not to wait for it.
const REACHED_WITHIN: Duration = Duration::from_secs(5);

#[test]
fn a_node_that_is_killed_and_started_at_once_is_reached_by_the_others_as_soon_as_it_serves() {
    let mut cluster = Cluster::of(3).with_long_deadlines().start();
    cluster.wait_settled(&[1, 2, 3], 3);
    for round in 0..3 {
        cluster.kill(&[3]);
        // Somebody finds out that it is gone, and begins to wait ever longer between attempts.
        for attempt in 0..20 {
            cluster.api(1).put(&format!("meanwhile-{round}-{attempt}"), "value", "QUORUM").unwrap();
        }
        cluster.restart(&[3]);
        let serves = now();
        let mut api = cluster.api(1);
        eventually("a write to all replicas through another node", REACHED_WITHIN, || {
            let answer = api.put(&format!("all-{round}"), "value", "ALL").map_err(|failure| failure.to_string())?;
            if answer.is_success() { Ok(()) } else { Err(answer.to_string()) }
        });
        println!("round {round}: all replicas acknowledge {:?} after the node serves", serves.elapsed());
    }
}

//! A node that missed a great many writes has every one of them soon, while clients write on. How soon is measured by the
//! benchmark (`cube-bench replay`); here it counts that all of it comes.

use std::time::Duration;

use serde_json::json;

use crate::harness::Cluster;
use crate::harness::time::{PATIENCE, eventually, now};
use crate::hints::{held_by_the_third, keys, put_many, wait_delivered, without_the_third};
use crate::load::{Load, Plan};

/// For a hundred thousand hints on a machine that does much else.
const CATCH_UP_MAX: Duration = Duration::from_secs(300);

#[test]
fn a_node_that_missed_thousands_of_writes_has_every_one_of_them_while_clients_write_on() {
    catches_up(4_000);
}

#[test]
#[ignore = "long: writes a hundred thousand rows"]
fn a_node_that_missed_a_hundred_thousand_writes_has_every_one_of_them_while_clients_write_on() {
    catches_up(100_000);
}

fn catches_up(count: usize) {
    let mut cluster = without_the_third(Cluster::of(3).set("hints.max_per_node", "1000000"));
    let (missed, value) = (keys("missed", count), "v".repeat(1_024));
    put_many(&cluster, &missed, &value);
    for node in [1, 2] {
        let hints = cluster.api(node).hints().unwrap();
        assert_eq!((&hints["totalHints"], &hints["dirtyRanges"]), (&json!(count / 2), &json!({})), "{hints}");
    }
    let load = Load::start(&Plan::quorum("meanwhile"), &cluster.clients_of(&[1, 2]));
    cluster.restart(&[3]);
    cluster.wait_seen(1, &[3], "ALIVE");
    let alive = now();
    for node in [1, 2] {
        let mut api = cluster.api(node);
        eventually(&format!("node-{node} has delivered what was missed"), CATCH_UP_MAX, || {
            let hints = api.hints()?;
            let replayed = hints["counts"]["replayed"].as_u64().unwrap_or_default();
            if replayed >= count as u64 / 2 { Ok(()) } else { Err(hints.to_string()) }
        });
    }
    println!("{count} hints delivered {:?} after node-3 was seen alive", alive.elapsed());
    let history = load.stop();
    assert!(history.acknowledged().count() > 0, "clients wrote meanwhile");
    wait_delivered(&cluster, &[1, 2], PATIENCE);
    for node in [1, 2] {
        let hints = cluster.api(node).hints().unwrap();
        assert_eq!((&hints["counts"]["notKept"], &hints["dirtyRanges"]), (&json!(0), &json!({})), "{hints}");
    }
    cluster.kill(&[1, 2]);
    let held = held_by_the_third(&mut cluster, &missed);
    let lost: Vec<_> = held.iter().filter(|(_, held)| held.as_deref() != Some(value.as_str())).collect();
    assert!(lost.is_empty(), "{} of {count} are missing: {:?}", lost.len(), lost.first().map(|(key, _)| key));
}

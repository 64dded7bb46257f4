//! Anti-entropy between real nodes: what hints never kept is mended with nobody doing anything, and told; a comparison may
//! be killed; switched off, it says so.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::Cluster;
use crate::harness::time::{PATIENCE, eventually, now};
use crate::hints::{held_by_the_third, keys, kill_the_third, put_many};

/// A settled cluster of three that compares every second, as of seconds ago.
pub(crate) fn comparing(cluster: Cluster) -> Cluster {
    let cluster = cluster.set("timeouts.write", "6s").set("timeouts.read", "20s").set("anti_entropy.horizon", "6s");
    let cluster = cluster.set("anti_entropy.interval", "1s").start();
    cluster.wait_settled(&[1, 2, 3], 3);
    cluster
}

/// What a node tells of its replicas.
pub(crate) fn status(cluster: &Cluster, node: u8) -> Value {
    cluster.api(node).ask("GET", "replication/status", None)
}

pub(crate) fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}

/// What the clocks of nodes 1 and 2, which all versions so far are from, read at the most.
pub(crate) fn clock_of(cluster: &Cluster) -> u64 {
    let reading = |node| number(&status(cluster, node)["nowMs"]);
    reading(1).max(reading(2))
}

/// Waits until every node says that the whole cluster is in sync as of a time.
pub(crate) fn wait_in_sync(cluster: &Cluster, nodes: &[u8], since_ms: u64, within: Duration) {
    for node in nodes {
        eventually(&format!("node-{node} tells that all is in sync as of {since_ms}"), within, || {
            let status = status(cluster, *node);
            let is_so = number(&status["cluster"]["inSyncAsOfMs"]) > since_ms
                && status["cluster"]["nodes"].as_object().is_some_and(|told| told.len() == 3);
            if is_so { Ok(()) } else { Err(status.to_string()) }
        });
    }
}

pub(crate) fn delete_many(cluster: &Cluster, keys: &[String]) {
    let mut apis = [cluster.api(1), cluster.api(2)];
    for (place, key) in keys.iter().enumerate() {
        let answer = apis[place % 2].delete(key, "QUORUM").unwrap();
        assert!(answer.is_success(), "{key}: {answer}");
    }
}

/// Node 3 misses writes and deletes of which at most some are hinted, and returns.
fn long_outage(cluster: Cluster, written: usize, deleted: usize) {
    let mut cluster = comparing(cluster);
    let all = keys("row", written);
    put_many(&cluster, &keys("row", written / 10), "before");
    kill_the_third(&mut cluster);
    put_many(&cluster, &all, "after");
    delete_many(&cluster, &all[..deleted]);
    let since_ms = clock_of(&cluster);
    let stands = status(&cluster, 1);
    assert!(number(&stands["cluster"]["inSyncAsOfMs"]) < since_ms, "{stands}");
    assert!(stands["warnings"].to_string().contains("node-3"), "who is away is named: {stands}");

    cluster.restart(&[3]);
    let returned = now();
    wait_in_sync(&cluster, &[1, 2, 3], since_ms, Duration::from_secs(300));
    println!("equal and told {:?} after the return", returned.elapsed());
    let exchanged = |node| {
        let peers = status(&cluster, node)["peers"].clone();
        let rows = |peer: &Value| number(&peer["rowsSent"]) + number(&peer["rowsFetched"]);
        peers.as_object().into_iter().flat_map(|peers| peers.values()).map(rows).sum::<u64>()
    };
    println!("rows exchanged by each node: {:?}", [1, 2, 3].map(exchanged));
    eventually("what is repaired is not marked any more", Duration::from_secs(180), || {
        let marked = [1, 2].map(|node| status(&cluster, node)["dirtyRanges"].clone());
        if marked.iter().all(|marked| *marked == json!({})) { Ok(()) } else { Err(format!("{marked:?}")) }
    });

    cluster.kill(&[1, 2]);
    let held = held_by_the_third(&mut cluster, &all);
    let value = |place: usize| (place >= deleted).then(|| "after".to_owned());
    let expected: BTreeMap<&String, Option<String>> =
        all.iter().enumerate().map(|(place, key)| (key, value(place))).collect();
    let wrong: Vec<_> = expected.iter().filter(|(key, value)| held.get(**key) != Some(value)).collect();
    assert!(wrong.is_empty(), "{} of {written} keys are wrong on node-3: {:?}", wrong.len(), wrong.first());
}

#[test]
fn what_was_never_hinted_is_on_a_node_soon_after_its_return_with_nobody_doing_anything_and_the_status_tells_it() {
    long_outage(Cluster::of(3).set("hints.enabled", "false"), 3_000, 600);
}

#[test]
#[ignore = "long: a hundred thousand writes and deletes"]
fn a_node_that_was_away_for_a_hundred_thousand_writes_with_a_cap_of_a_thousand_hints_equals_the_others() {
    let cluster = Cluster::of(3).set("hints.max_per_node", "1000").set("hints.window", "1m");
    long_outage(cluster, 80_000, 20_000);
}

#[test]
fn nodes_killed_in_the_middle_of_a_comparison_end_equal() {
    const ROWS: usize = 3_000;
    let cluster = Cluster::of(3).set("hints.enabled", "false").set("anti_entropy.rows_per_second", "300");
    let mut cluster = comparing(cluster);
    kill_the_third(&mut cluster);
    let all = keys("row", ROWS);
    put_many(&cluster, &all, "value");
    let since_ms = clock_of(&cluster);
    cluster.restart(&[3]);
    for victim in [3, 1] {
        eventually("a comparison is under way", PATIENCE, || {
            let peers = [1, 2, 3].map(|node| status(&cluster, node)["peers"].clone());
            let comparing = status(&cluster, victim)["comparing"].clone();
            if comparing.is_string() { Ok(()) } else { Err(format!("{peers:?}")) }
        });
        cluster.kill(&[victim]);
        cluster.restart(&[victim]);
    }
    // From here on as fast as it can.
    for node in [1, 2, 3] {
        let patch = json!({"anti_entropy.rows_per_second": 100_000});
        cluster.api(node).ask("PATCH", "config", Some(&patch));
    }
    wait_in_sync(&cluster, &[1, 2, 3], since_ms, Duration::from_secs(300));
    cluster.kill(&[1, 2]);
    let held = held_by_the_third(&mut cluster, &all);
    let lost: Vec<_> = held.iter().filter(|(_, value)| value.as_deref() != Some("value")).collect();
    assert!(lost.is_empty(), "{} of {ROWS} are missing: {:?}", lost.len(), lost.first());
}

#[test]
fn switched_off_it_is_said_loudly_and_mends_nothing_until_it_is_switched_on_again() {
    let mut cluster = comparing(Cluster::of(3).set("hints.enabled", "false"));
    let switch = |cluster: &Cluster, on: bool| {
        for node in cluster.all() {
            let patch = json!({"anti_entropy.enabled": on, "scrub.enabled": on});
            cluster.api(node).ask("PATCH", "config", Some(&patch));
        }
    };
    switch(&cluster, false);
    let off = status(&cluster, 1);
    assert_eq!((&off["enabled"], &off["scrub"]["state"]), (&json!(false), &json!("OFF")), "{off}");
    assert!(off["warnings"].to_string().contains("ANTI-ENTROPY IS OFF"), "{off}");
    let health = cluster.api(1).health().unwrap();
    assert!(health.is_success() && health.json()["warnings"].to_string().contains("ANTI-ENTROPY IS OFF"), "{health}");

    kill_the_third(&mut cluster);
    put_many(&cluster, &keys("row", 100), "value");
    let (since_ms, passes) = (clock_of(&cluster), number(&status(&cluster, 1)["passes"]));
    // The settings of a process end with it.
    cluster.node(3).settings.set.push(("anti_entropy.enabled".into(), "false".into()));
    cluster.restart(&[3]);
    let off = status(&cluster, 3);
    assert_eq!(off["enabled"], false, "{off}");
    assert_eq!(number(&status(&cluster, 1)["passes"]), passes, "no pass ends while it is off");
    switch(&cluster, true);
    wait_in_sync(&cluster, &[1, 2, 3], since_ms, PATIENCE);
    let on = status(&cluster, 3);
    assert_eq!((&on["enabled"], &on["warnings"]), (&json!(true), &json!([])), "{on}");
}

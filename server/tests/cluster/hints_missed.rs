//! Whatever a replica missed a write for, it has a hint: it is silent, its queue is full, its coordinator is told to stop, it
//! would have been the only one. And what is told of hints waits for no disk.

use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::harness::http::Answer;
use crate::harness::time::{PATIENCE, eventually, now, pause, throughout};
use crate::harness::{Api, Cluster};
use crate::hints::{held_by_the_third, keys, kill_the_third, put, wait_delivered, without_the_third};

/// A settled cluster of three, which has hints alone to mend what is missed.
fn settled(cluster: Cluster) -> Cluster {
    let cluster = cluster.set("anti_entropy.enabled", "false").start();
    cluster.wait_settled(&[1, 2, 3], 3);
    cluster
}

/// Node 3 goes on, and has what nodes 1 and 2 keep for it: it alone gives the values of these keys.
fn assert_delivered(cluster: &mut Cluster, keys: &[String], value: &str) {
    cluster.signal(3, Signal::CONT);
    for by in [1, 2] {
        cluster.wait_seen(by, &[3], "ALIVE");
    }
    wait_delivered(cluster, &[1, 2], PATIENCE);
    cluster.kill(&[1, 2]);
    let held = held_by_the_third(cluster, keys);
    let lost: Vec<_> = held.iter().filter(|(_, held)| held.as_deref() != Some(value)).map(|(key, _)| key).collect();
    assert!(lost.is_empty(), "{} are missing: {:?}", lost.len(), lost.first());
}

#[test]
fn a_replica_that_does_not_answer_in_time_has_a_hint() {
    let mut cluster = settled(Cluster::of(3));
    cluster.signal(3, Signal::STOP);
    let missed = keys("silent", 5);
    let mut api = cluster.api(1);
    for key in &missed {
        eventually("a write at QUORUM", PATIENCE, || {
            let answer = api.put(key, "value", "QUORUM").map_err(|failure| failure.to_string())?;
            if answer.is_success() { Ok(()) } else { Err(answer.to_string()) }
        });
    }
    eventually("the silent node is hinted", PATIENCE, || match api.hints_for("node-3")? {
        5 => Ok(()),
        hints => Err(format!("{hints} hints")),
    });
    assert_delivered(&mut cluster, &missed, "value");
}

#[test]
fn a_coordinator_that_is_told_to_stop_leaves_hints_for_a_replica_that_has_not_answered_yet() {
    let mut cluster = settled(Cluster::of(3).with_long_deadlines());
    cluster.signal(3, Signal::STOP);
    let missed = keys("silent", 20);
    for key in &missed {
        put(&cluster, 1, key, "value", "QUORUM");
    }
    let status = cluster.terminate(1);
    assert_eq!(status.code(), Some(0), "{status}");
    cluster.restart(&[1]);
    assert_eq!(cluster.api(1).hints_for("node-3"), Ok(20));
    assert_delivered(&mut cluster, &missed, "value");
}

/// 32 MiB may wait for a peer. So many rows of this size at once find room beside each other, and so many in a row do not find
/// it where none is taken.
const LARGE: usize = 3 << 20;
const AT_ONCE: usize = 8;
const IN_A_ROW: usize = 3;
/// The connection to a node that stands still ends after some seconds, and its queue with it: a machine that takes longer for
/// so many bytes is given another try.
const ATTEMPTS: usize = 10;

#[test]
fn a_replica_whose_queue_is_full_has_a_hint_at_once() {
    let mut cluster = settled(Cluster::of(3).with_long_deadlines());
    let value = "x".repeat(LARGE);
    let refused = (0..ATTEMPTS)
        .find_map(|attempt| {
            cluster.signal(3, Signal::STOP);
            let refused = (0..IN_A_ROW)
                .map(|number| write_at_once(&cluster, &keys(&format!("large-{attempt}-{number}"), AT_ONCE), &value))
                .find(|refused| !refused.is_empty());
            if refused.is_some() {
                return refused;
            }
            cluster.signal(3, Signal::CONT);
            cluster.wait_formed(&[1, 2, 3]);
            wait_delivered(&cluster, &[1], PATIENCE);
            None
        })
        .expect("the queue is full before the connection ends");
    println!("{} writes found the queue full", refused.len());
    // Of the others it may not be known yet that node 3 does not take them.
    eventually("those are hinted", PATIENCE, || match cluster.api(1).hints_for("node-3")? {
        hints if usize::try_from(hints).unwrap() >= refused.len() => Ok(()),
        hints => Err(format!("{hints} hints")),
    });
    assert_delivered(&mut cluster, &refused, &value);
}

/// Writes all of these through node 1. Those that were acknowledged though node 3 was not asked, because too much waits for it
/// already.
fn write_at_once(cluster: &Cluster, keys: &[String], value: &str) -> Vec<String> {
    thread::scope(|scope| {
        let write = |key: &String| {
            let (mut api, key) = (cluster.api(1), key.clone());
            let body = json!({"key": key, "value": value, "cl": "QUORUM", "explain": true});
            let write = move || {
                let answer = api.order("POST", "put", Some(&body)).unwrap();
                (answer.is_success() && is_refused(&answer)).then_some(key)
            };
            thread::Builder::new().spawn_scoped(scope, write).unwrap()
        };
        let writers: Vec<_> = keys.iter().map(write).collect();
        writers.into_iter().filter_map(|writer| writer.join().unwrap()).collect()
    })
}

fn is_refused(answer: &Answer) -> bool {
    let explained = answer.json()["explained"].clone();
    let messages = explained["messages"].as_array().unwrap_or_else(|| panic!("{answer}"));
    messages.iter().any(|message| message["replica"] == "node-3" && message["failure"]["code"] == "queue_full")
}

#[test]
fn the_only_copy_of_a_write_outlives_the_window_and_without_room_for_one_the_write_is_refused() {
    const ALONE: &str = "alone";
    let cluster = Cluster::of(3).with_long_deadlines().set("hints.window", "3s").set("hints.check_interval", "1s");
    let mut cluster = settled(cluster);
    let one = json!({"replication": {"strategy": "simple", "factor": 1}});
    assert!(cluster.api(1).create_keyspace(ALONE, &one).unwrap().is_success());
    assert!(cluster.api(1).create_table(ALONE, "kv").unwrap().is_success());
    let mut api = cluster.api(1).in_keyspace(Some(ALONE));
    let on_node_3 = |api: &mut Api, key: &String| {
        let answer = eventually("the new table takes writes", PATIENCE, || {
            let answer = api.put(key, "before", "ONE").map_err(|failure| failure.to_string())?;
            if answer.is_success() { Ok(answer) } else { Err(answer.to_string()) }
        });
        answer.json()["acknowledgedBy"] == json!(["node-3"])
    };
    let theirs: Vec<String> = keys("only", 64).into_iter().filter(|key| on_node_3(&mut api, key)).collect();
    let [first, second, ..] = theirs.as_slice() else { panic!("{theirs:?} of 64 keys are on node-3") };
    kill_the_third(&mut cluster);
    let alone = api.put(first, "after", "ANY").unwrap();
    assert_eq!((alone.status, &alone.json()["hintedFor"]), (200, &json!(["node-3"])), "{alone}");
    put(&cluster, 1, "ordinary", "value", "QUORUM");
    // What others hold becomes a mark when the window has passed; what nobody holds stays.
    eventually("the window has passed", PATIENCE, || {
        let hints = cluster.api(1).hints()?;
        let told = &hints["nodes"]["node-3"];
        // It may count twice while it moves to the end of the log, out of the way of what has expired.
        assert!(told["onlyCopies"].as_u64() >= Some(1), "{hints}");
        let is_kept = told["onlyCopies"] == 1 && told["hints"] == 1 && told["oldestAgeMs"].as_u64() > Some(6_000);
        let is_over = told["dropped"]["window"] == 1 && is_kept;
        if is_over { Ok(()) } else { Err(hints.to_string()) }
    });
    // Caps change while the node runs.
    cluster.api(1).ask("PATCH", "config", Some(&json!({"hints.max_per_node": 1})));
    let refused = eventually("the cap holds", PATIENCE, || {
        let answer = api.put(second, "never", "ANY").map_err(|failure| failure.to_string())?;
        if answer.is_success() { Err(answer.to_string()) } else { Ok(answer) }
    });
    assert!(refused.status >= 500, "{refused}");
    put(&cluster, 1, "goes on", "value", "QUORUM");
    cluster.restart(&[3]);
    cluster.wait_seen(1, &[3], "ALIVE");
    wait_delivered(&cluster, &[1], PATIENCE);
    let got = cluster.api(3).in_keyspace(Some(ALONE)).get(first, "ONE").unwrap();
    assert_eq!(got.json()["value"], "after", "{got}");
}

/// Nobody who asks waits for so long, unless it is for the disk, which stands still for twice as long.
const ANSWERED_WITHIN: Duration = Duration::from_secs(5);

#[test]
fn a_node_whose_disk_stands_still_in_the_middle_of_a_replay_tells_of_its_hints_all_the_same() {
    let mut cluster = without_the_third(Cluster::of(3).recording_fsyncs());
    put(&cluster, 1, "missed", "value", "QUORUM");
    cluster.hold_fsyncs(&[1]);
    cluster.node(3).start();
    eventually("node-3 has it", PATIENCE, || {
        let got = cluster.api(3).get("missed", "ONE").map_err(|failure| failure.to_string())?;
        if got.json()["value"] == "value" { Ok(()) } else { Err(got.to_string()) }
    });
    // More of them than there are threads to answer.
    let askers: Vec<_> = (0..4)
        .map(|asker| {
            let mut api = cluster.api(1);
            let ask = move || {
                throughout("its hints are told", ANSWERED_WITHIN, || {
                    let asked = now();
                    let hints = api.hints()?;
                    let metrics = api.metrics().map_err(|failure| failure.to_string())?;
                    let is_there =
                        hints["totalHints"] == 1 && metrics.text.contains("cube_hints_pending{target=\"node-3\"} 1");
                    assert!(asked.elapsed() < ANSWERED_WITHIN, "told after {:?}", asked.elapsed());
                    if is_there { Ok(()) } else { Err(hints.to_string()) }
                });
            };
            thread::Builder::new().name(format!("asker-{asker}")).spawn(ask).unwrap()
        })
        .collect();
    // Whatever comes of it, the disk goes on, or nothing would end.
    pause(ANSWERED_WITHIN * 2);
    cluster.release_fsyncs(&[1]);
    for asker in askers {
        asker.join().unwrap();
    }
    wait_delivered(&cluster, &[1], PATIENCE);
}

//! The nodes that agree on schema and members have lost their majority.

use std::time::Duration;

use serde_json::json;

use crate::harness::Cluster;
use crate::harness::api::assert_unavailable;
use crate::harness::http::Answer;
use crate::harness::time::{PATIENCE, eventually, throughout};

/// So many elections in a row may go the other way than the test needs.
const ATTEMPTS: u8 = 6;

#[test]
fn without_a_majority_data_goes_on_at_its_levels_and_a_schema_change_says_why_not() {
    let mut cluster = Cluster::of(3).start();
    cluster.wait_settled(&[1, 2, 3], 3);
    let mut api = cluster.api(1);
    let before = api.put("before", "all alive", "ALL").unwrap();
    assert!(before.is_success(), "{before}");
    cluster.kill(&[2, 3]);
    cluster.wait_seen(1, &[2, 3], "DOWN");
    for level in ["ONE", "ANY", "LOCAL_ONE"] {
        let put = api.put(level, "alone", level).unwrap();
        assert!(put.is_success(), "{level}: {put}");
    }
    for (key, value) in [("before", "all alive"), ("ONE", "alone")] {
        let got = api.get(key, "ONE").unwrap();
        assert_eq!(got.json()["value"], value, "{got}");
    }
    assert_unavailable(&api.put("quorum", "never", "QUORUM").unwrap(), 2, 1);
    // Nor does it need the others to come back to what it holds itself.
    cluster.kill(&[1]);
    cluster.restart(&[1]);
    let mut api = cluster.api(1);
    eventually("reads and writes at ONE, after a restart alone", PATIENCE, || {
        let put = api.put("alone", "again", "ONE").map_err(|failure| failure.to_string())?;
        let got = api.get("before", "ONE").map_err(|failure| failure.to_string())?;
        if put.is_success() && got.json()["value"] == "all alive" { Ok(()) } else { Err(format!("{put}, {got}")) }
    });
    let refused = create(&cluster, 1, "later");
    assert_no_majority(&refused);

    cluster.restart(&[2, 3]);
    cluster.wait_formed(&[1, 2, 3]);
    let may_take_effect = refused.json()["error"]["details"]["mayTakeEffect"] == true;
    if !may_take_effect {
        // It was said that nothing was changed.
        throughout("no keyspace", Duration::from_secs(2), || {
            let answer = cluster.api(2).keyspace("later").map_err(|failure| failure.to_string())?;
            if answer.status == 404 { Ok(()) } else { Err(answer.to_string()) }
        });
    }
    eventually("a schema change after recovery", PATIENCE, || {
        let answer = create(&cluster, 2, "later");
        if answer.is_success() { Ok(()) } else { Err(answer.to_string()) }
    });
    wait_for_keyspace(&cluster, &[1, 2, 3], "later");
    let got = cluster.api(3).get("before", "QUORUM").unwrap();
    assert_eq!(got.json()["value"], "all alive", "{got}");
}

/// A leader that loses the others has the change in its log. When they are back it leads on, as a rule, and the change
/// takes effect; if they elect another one before they hear of it, it never does. Either way all agree.
#[test]
fn a_schema_change_that_was_accepted_without_a_majority_takes_effect_after_recovery() {
    let mut cluster = Cluster::of(3).start();
    cluster.wait_settled(&[1, 2, 3], 3);
    for attempt in 0..ATTEMPTS {
        // Which of them leads is not to be seen from outside.
        let stays = attempt % 3 + 1;
        let others: Vec<u8> = cluster.all().into_iter().filter(|node| *node != stays).collect();
        let keyspace = format!("accepted-{attempt}");
        cluster.kill(&others);
        let answer = create(&cluster, stays, &keyspace);
        assert_no_majority(&answer);
        cluster.restart(&others);
        cluster.wait_formed(&[1, 2, 3]);
        // What comes after it in the log is agreed on, so its fate is known.
        eventually("another schema change", PATIENCE, || match create(&cluster, stays, &format!("after-{attempt}")) {
            answer if answer.is_success() => Ok(()),
            answer => Err(answer.to_string()),
        });
        wait_for_keyspace(&cluster, &[1, 2, 3], &format!("after-{attempt}"));
        let is_there = |by: &u8| cluster.api(*by).keyspace(&keyspace).unwrap().is_success();
        let there = cluster.all().iter().filter(|by| is_there(by)).count();
        let accepted = answer.json()["error"]["details"]["mayTakeEffect"] == true;
        println!("through node-{stays}: accepted {accepted}, there on {there} nodes: {answer}");
        assert!(there == 0 || (accepted && there == 3), "accepted {accepted}, and there on {there} nodes");
        if there == 3 {
            return;
        }
    }
    panic!("in {ATTEMPTS} attempts, no change took effect that was accepted without a majority");
}

fn create(cluster: &Cluster, by: u8, keyspace: &str) -> Answer {
    let settings = json!({"replication": {"strategy": "simple", "factor": 2}});
    cluster.api(by).create_keyspace(keyspace, &settings).unwrap()
}

/// The reason is told to people, too.
fn assert_no_majority(answer: &Answer) {
    let error = &answer.json()["error"];
    assert_eq!((answer.status, &error["code"]), (503, &json!("no_majority")), "{answer}");
    let message = error["message"].as_str().unwrap_or_default();
    assert!(message.contains("majority") || message.contains("leader"), "{answer}");
}

fn wait_for_keyspace(cluster: &Cluster, nodes: &[u8], keyspace: &str) {
    for by in nodes {
        let mut api = cluster.api(*by);
        eventually(&format!("the keyspace {keyspace} on node-{by}"), PATIENCE, || {
            let answer = api.keyspace(keyspace).map_err(|failure| failure.to_string())?;
            if answer.is_success() { Ok(()) } else { Err(answer.to_string()) }
        });
    }
}

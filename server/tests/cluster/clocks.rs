//! Nodes whose clocks are wrong.

use std::time::{Duration, SystemTime};

use crate::harness::http::Answer;
use crate::harness::time::{PATIENCE, eventually};
use crate::harness::{Api, Cluster};
use crate::load::{Load, Plan, read_back};

const ROWS: u8 = 20;
const HOUR_MS: u64 = 3_600_000;

#[test]
fn an_overwrite_through_a_slow_clock_wins_over_a_write_through_a_fast_one() {
    let mut cluster = Cluster::of(3).with_long_deadlines();
    set_clock(&mut cluster, 2, "5m");
    set_clock(&mut cluster, 3, "-5m");
    let cluster = cluster.start();
    let [mut middle, mut fast, mut slow] = [1, 2, 3].map(|node| cluster.api(node));
    for row in 0..ROWS {
        let key = format!("row-{row}");
        put(&mut fast, &key, "by the fast clock");
        put(&mut slow, &key, "by the slow clock");
        for api in [&mut middle, &mut fast, &mut slow] {
            let got = api.get(&key, "QUORUM").unwrap();
            assert_eq!(got.json()["value"], "by the slow clock", "{got}");
        }
        let deleted = slow.delete(&key, "QUORUM").unwrap();
        assert!(deleted.is_success(), "{deleted}");
        let got = fast.get(&key, "QUORUM").unwrap();
        assert_eq!(got.json()["found"], false, "{got}");
    }
    // And whoever writes and reads through whichever of them, in whatever order.
    let plan = Plan::quorum("load");
    let nodes = cluster.clients_of(&[1, 2, 3]);
    let load = Load::start(&Plan { rows: 10, ..plan.clone() }, &nodes);
    load.go_on(Duration::from_secs(4), 600);
    let mut history = load.stop();
    for (node, address) in nodes {
        history.add(read_back(node, address, &Plan { rows: 10, ..plan.clone() }));
    }
    history.assert_consistent();
}

#[test]
fn a_node_a_day_ahead_coordinates_nothing_says_that_its_clock_is_why_and_poisons_nobody() {
    let mut cluster = Cluster::of(3).with_long_deadlines();
    set_clock(&mut cluster, 3, "1d");
    cluster.all().into_iter().for_each(|node| cluster.node(node).start());
    for sound in [1, 2] {
        cluster.node(sound).wait_ready();
    }
    let mut ahead = cluster.api(3);
    eventually("the node that is ahead refuses for its clock", PATIENCE, || {
        let answer = ahead.put("probe", "perhaps", "QUORUM").map_err(|failure| failure.to_string())?;
        if refused_for_its_clock(&answer) { Ok(()) } else { Err(answer.to_string()) }
    });
    let refused = ahead.put("poison", "never", "ONE").unwrap();
    assert!(refused_for_its_clock(&refused), "{refused}");
    eventually("the health of the node that is ahead names its clock", PATIENCE, || {
        let answer = ahead.health().map_err(|failure| failure.to_string())?;
        if answer.text.to_lowercase().contains("clock") { Ok(()) } else { Err(answer.to_string()) }
    });
    for sound in [1, 2] {
        let mut api = cluster.api(sound);
        let key = format!("sound-{sound}");
        put(&mut api, &key, "first");
        put(&mut api, &key, "second");
        let got = api.get(&key, "QUORUM").unwrap();
        let body = got.json();
        assert_eq!(body["value"], "second", "{got}");
        let written_ms = body["version"]["timestamp"].as_u64().unwrap();
        assert!(written_ms < wall_ms() + HOUR_MS, "node-{sound} has taken over the wrong clock: {got}");
        let poison = api.get("poison", "QUORUM").unwrap();
        assert_eq!(poison.json()["found"], false, "what was refused took effect: {poison}");
    }
}

#[test]
fn a_node_that_comes_back_a_day_ahead_acknowledges_nothing_before_it_has_heard_the_clocks_of_others() {
    let mut cluster = Cluster::of(3).with_long_deadlines().start();
    cluster.wait_settled(&[1, 2, 3], 3);
    cluster.kill(&[3]);
    set_clock(&mut cluster, 3, "1d");
    cluster.node(3).start();
    let mut ahead = cluster.api(3);
    let mut tried = 0_u32;
    eventually("the node that is ahead knows that it is", PATIENCE, || {
        tried += 1;
        match ahead.put(&format!("early-{tried}"), "never", "ONE") {
            Ok(answer) => {
                assert!(!answer.is_success(), "attempt {tried} through a clock that is a day ahead: {answer}");
                assert_ne!(answer.status, 504, "it may have taken effect: {answer}");
                if knows_that_it_is_ahead(&answer) { Ok(()) } else { Err(answer.to_string()) }
            }
            // It does not listen yet, and was asked nothing.
            Err(failure) => Err(failure.to_string()),
        }
    });
    for row in 1..=tried {
        let got = cluster.api(1).get(&format!("early-{row}"), "QUORUM").unwrap();
        assert_eq!(got.json()["found"], false, "what was refused took effect: {got}");
    }
}

#[test]
fn a_node_that_comes_back_alone_serves_though_it_hears_no_clock() {
    let mut cluster = Cluster::of(3).with_long_deadlines().start();
    cluster.wait_settled(&[1, 2, 3], 3);
    cluster.kill(&[1, 2, 3]);
    // It is ready when it says so, and not a moment later.
    cluster.restart(&[1]);
    let alone = cluster.api(1).put("alone", "written", "ONE").unwrap();
    assert!(alone.is_success(), "{alone}");
}

/// Of two clocks that differ neither node can judge its own, so here it is the other one alone that refuses.
#[test]
fn what_a_node_a_day_ahead_stamps_is_refused_by_its_peer_which_says_whose_clock_that_was() {
    let mut cluster = Cluster::of(2).with_long_deadlines();
    set_clock(&mut cluster, 2, "1d");
    cluster.all().into_iter().for_each(|node| cluster.node(node).start());
    [1, 2].into_iter().for_each(|node| cluster.node(node).wait_ready());
    cluster.wait_settled(&[1, 2], 2);
    let mut ahead = cluster.api(2);
    let refused = eventually("the peer refuses the stamp", PATIENCE, || {
        let answer = ahead.put("ahead", "by a day", "ALL").map_err(|failure| failure.to_string())?;
        assert!(!answer.is_success(), "{answer}");
        let failure = answer.json()["error"]["details"]["failures"][0].clone();
        let by_the_peer = failure["node"] == "node-1" && failure["code"] == "clock_drift";
        if by_the_peer { Ok(failure["message"].to_string()) } else { Err(answer.to_string()) }
    });
    assert!(refused.contains("by the clock of the node that was asked"), "{refused}");
    assert!(refused.contains("clock.max_drift"), "{refused}");
    // The refused stamp has moved nobody's clock.
    let mut sound = cluster.api(1);
    let written = sound.put("sound", "now", "ALL").unwrap();
    assert!(written.is_success(), "{written}");
    let got = sound.get("sound", "ALL").unwrap();
    assert!(got.json()["version"]["timestamp"].as_u64().unwrap() < wall_ms() + HOUR_MS, "{got}");
}

fn knows_that_it_is_ahead(answer: &Answer) -> bool {
    refused_for_its_clock(answer) && answer.text.contains("ms ahead of that of")
}

/// And not with 504, which would say that it may have taken effect.
fn refused_for_its_clock(answer: &Answer) -> bool {
    !answer.is_success() && answer.status != 504 && answer.text.to_lowercase().contains("clock")
}

fn set_clock(cluster: &mut Cluster, node: u8, offset: &str) {
    cluster.node(node).settings.set.push(("clock.offset".to_owned(), offset.to_owned()));
}

fn put(api: &mut Api, key: &str, value: &str) {
    let answer = api.put(key, value, "QUORUM").unwrap();
    assert!(answer.is_success(), "{answer}");
}

#[expect(clippy::disallowed_methods, reason = "real processes live in real time")]
fn wall_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

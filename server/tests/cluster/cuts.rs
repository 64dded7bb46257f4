//! Links between three nodes are cut.

use std::time::Duration;

use crate::harness::api::assert_unavailable;
use crate::harness::time::{PATIENCE, eventually, now, now_us};
use crate::harness::{Cluster, Network};
use crate::load::checker::check;
use crate::load::{Client, Load, Outcome, Plan, read_back};

#[test]
fn a_node_cut_from_two_acknowledges_no_quorum_write_and_the_two_go_on() {
    let test = a_node_cut_from_two_acknowledges_no_quorum_write_and_the_two_go_on;
    let Some(network) = Network::enter(&test, 3) else { return };
    let mut cluster = Cluster::in_network(3, network).with_long_deadlines().start();
    cluster.wait_settled(&[1, 2, 3], 3);
    let plan = Plan::quorum("load");
    let load = Load::start(&plan, &cluster.clients_of(&[1, 2, 3]));
    load.wait_for_writes(100);

    cluster.network().cut_both_ways(&[3], &[1, 2]);
    let cut_us = now_us();
    cluster.wait_seen(1, &[3], "DOWN");
    cluster.wait_seen(2, &[3], "DOWN");
    cluster.wait_seen(3, &[1, 2], "DOWN");
    let known_us = now_us();
    load.go_on(Duration::from_secs(4), 200);
    assert_refused_quickly(&cluster);
    assert_told(&cluster, 1, &["node-3"]);
    assert_told(&cluster, 2, &["node-3"]);
    assert_told(&cluster, 3, &["node-1", "node-2"]);
    let healed_us = now_us();
    cluster.network().heal_both_ways(&[3], &[1, 2]);
    cluster.wait_formed(&[1, 2, 3]);
    let together_us = now_us();
    load.wait_for_writes(150);

    let mut history = load.stop();
    let failures = history.failures(&[1, 2], known_us, healed_us);
    assert!(failures.is_empty(), "through the two, after the cut was known: {failures:?}");
    let failures = history.failures(&[1, 2, 3], together_us, u64::MAX);
    assert!(failures.is_empty(), "after the cut was healed: {failures:?}");
    let acknowledged_alone = history
        .acknowledged()
        .filter(|write| write.node == 3 && write.started_us > cut_us && write.ended_us < healed_us);
    assert_eq!(acknowledged_alone.count(), 0, "quorum writes that the cut node acknowledged");
    for (node, address) in cluster.clients_of(&[1, 2, 3]) {
        history.add(read_back(node, address, &plan));
    }
    history.assert_consistent();
}

/// The cut node knows that it is alone, so it need not wait for its deadline of 20 s to say so.
fn assert_refused_quickly(cluster: &Cluster) {
    let mut api = cluster.api(3);
    let started = now();
    assert_unavailable(&api.put("alone", "never", "QUORUM").unwrap(), 2, 1);
    assert_unavailable(&api.get("alone", "QUORUM").unwrap(), 2, 1);
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
}

/// A node's health names those that it cannot hear.
fn assert_told(cluster: &Cluster, by: u8, names: &[&str]) {
    let mut api = cluster.api(by);
    eventually(&format!("the health of node-{by} names {names:?}"), PATIENCE, || {
        let answer = api.health().map_err(|failure| failure.to_string())?;
        let text = answer.text.replace(&format!("\"node\":\"node-{by}\""), "");
        if names.iter().all(|name| text.contains(name)) { Ok(()) } else { Err(answer.to_string()) }
    });
}

/// The usual deadline of reads and writes.
const DEADLINE_MS: u64 = 2_000;
/// What a client may see of one: on a machine whose processors are taken, the node's timer and the client itself may wait
/// seconds for their turn. One that hangs does so for as long as the link is cut, which is longer than both.
const LONGEST_MS: u64 = DEADLINE_MS + 4_000;
const CUT: Duration = Duration::from_secs(7);

#[test]
fn while_links_are_cut_one_way_no_request_hangs_past_its_deadline() {
    let test = while_links_are_cut_one_way_no_request_hangs_past_its_deadline;
    let Some(network) = Network::enter(&test, 3) else { return };
    let mut cluster = Cluster::in_network(3, network).start();
    cluster.wait_settled(&[1, 2, 3], 3);
    let plan = Plan::quorum("load");
    let all = Plan { write: "ALL", read: "ALL", ..Plan::quorum("all") };
    let nodes = cluster.clients_of(&[1, 2, 3]);
    let loads = [Load::start(&plan, &nodes), Load::start(&all, &nodes)];
    loads[0].wait_for_writes(50);
    // What 1 sends to 3 is lost and what 3 sends to 1 arrives; then the other way; then 3 only hears, and only speaks.
    let cuts: [(&[u8], &[u8]); 4] = [(&[1], &[3]), (&[3], &[1]), (&[3], &[1, 2]), (&[1, 2], &[3])];
    for (from, to) in cuts {
        cluster.network().cut(from, to);
        // Longer than it takes to believe a node dead, than several deadlines, and than any request may take.
        loads[0].go_on(CUT, 50);
        cluster.network().heal(from, to);
        cluster.wait_formed(&[1, 2, 3]);
    }
    let [mut history, at_all] = loads.map(Load::stop);
    for (name, history) in [("QUORUM", &history), ("ALL", &at_all)] {
        let longest_ms = history.longest_ms();
        println!("{name}: {}the longest took {longest_ms} ms", history.summary());
        assert!(longest_ms < LONGEST_MS, "{name}: a request with a deadline of {DEADLINE_MS} ms took {longest_ms} ms");
        let hung = history.operations().iter().find(
            |operation| matches!(&operation.outcome, Outcome::Unknown(why) if why.contains("the client's deadline")),
        );
        assert!(hung.is_none(), "{name}: {hung:?}");
    }
    for (node, address) in nodes {
        history.add(read_back(node, address, &plan));
    }
    history.assert_consistent();
    at_all.assert_consistent();
}

/// What is checked above is checked with something that notices: here a write is missed, as ONE allows.
#[test]
fn a_write_at_one_on_a_node_that_is_cut_off_is_missed_by_the_others_and_the_checker_notices() {
    let test = a_write_at_one_on_a_node_that_is_cut_off_is_missed_by_the_others_and_the_checker_notices;
    let Some(network) = Network::enter(&test, 3) else { return };
    let cluster = Cluster::in_network(3, network).start();
    cluster.wait_settled(&[1, 2, 3], 3);
    cluster.network().cut_both_ways(&[3], &[1, 2]);
    cluster.wait_seen(3, &[1, 2], "DOWN");
    let plan = Plan { write: "ONE", ..Plan::quorum("one") };
    let [(_, first), (_, last)] = cluster.clients_of(&[1, 3])[..] else { panic!("two clients") };
    let write = Client::new(3, last, &plan).write("row");
    assert!(write.succeeded(), "{write:?}");
    let mut reader = Client::new(1, first, &plan);
    let read = eventually("a quorum read", PATIENCE, || {
        let read = reader.read("row");
        if read.succeeded() { Ok(read) } else { Err(format!("{read:?}")) }
    });
    let wrong = check(&[write, read]);
    assert!(wrong.iter().any(|wrong| wrong.contains("missed")), "{wrong:?}");
}

//! Every command while a node is down, while a quorum is, and with no node at all: each ends in its time, and tells what
//! is wrong and what can be done.

use std::time::Duration;

use futures::future::join_all;
use tokio::time::Instant;

use super::{Desk, PATIENCE, RealNodes, host_and_port};
use crate::pty::Terminal;

/// What commands have; nodes give up on what they cannot agree on a little earlier.
const TIMEOUT: Duration = Duration::from_secs(15);
/// How much longer a busy machine may need to tell it.
const LATER_AT_MOST: Duration = Duration::from_secs(30);

/// A statement, and what is told of it with one of three nodes down, and with two.
const STATEMENTS: &[(&str, &str, &str)] = &[
    ("PUT a b", "a hint is kept and will be replayed", NO_QUORUM),
    ("UPDATE a SET value=c", "OK, written", NO_QUORUM),
    ("GET a", "\"c\"", NO_QUORUM),
    ("SCAN", "rows", NO_QUORUM),
    ("SCAN KEY=a", "1 row", NO_QUORUM),
    ("EXPLAIN GET a", "all that were asked agree", NO_QUORUM),
    ("DELETE b", "OK, deleted", NO_QUORUM),
    ("GET a CL=ALL", "ALL needs 3 live replicas, and 2 are alive", "ALL needs 3 live replicas, and 1 is alive"),
    ("GET a CL=ONE", "\"c\"", "\"d\""),
    ("PUT a d CL=ONE", "OK, written at ONE", "OK, written at ONE, held durably by node-1"),
    ("NODES", "2 of 3 alive", "1 of 3 alive"),
    ("RING", "DOWN", "DOWN"),
    ("RING a", "held by", "held by"),
    ("STATS", SILENT, SILENT),
    ("HINTS", SILENT, SILENT),
    ("STATUS", SILENT, SILENT),
    ("SCRUB", SILENT, SILENT),
    ("SCRUB NOW", "is verified now", "is verified now"),
    ("HEALTH", "if one more node died, QUORUM would be lost", "QUORUM does not work for some rows of: default"),
    ("DESCRIBE", "CREATE KEYSPACE default", "CREATE KEYSPACE default"),
    ("USE default", "using default.kv", "using default.kv"),
    ("CREATE KEYSPACE app", "OK, app created", NO_MAJORITY),
    ("CREATE TABLE app.t", "OK, app.t created", NO_MAJORITY),
    ("ALTER TABLE default.kv hedge=off", "OK, default.kv altered", NO_MAJORITY),
    ("ALTER KEYSPACE default durability=100ms", "OK, default altered", NO_MAJORITY),
    ("DROP TABLE app.t", "OK, app.t dropped", NOT_THERE),
    ("DROP KEYSPACE app", "OK, app dropped", NOT_THERE),
    ("DISCONNECT node-2", "talking to node-1", "talking to node-1"),
];
/// So many shells at a time, where none of them changes what another one sees.
const AT_ONCE: usize = 7;
/// Where there is no node, it is tried for so long.
const NOBODY_IN: Duration = Duration::from_secs(1);
const NO_QUORUM: &str = "QUORUM needs 2 live replicas, and 1 is alive";
const NO_MAJORITY: &str = "NODES shows who is down";
const NOT_THERE: &str = "there is no keyspace";
const LATE: [&str; 2] = ["after its time was over", "no answer in time"];
const SILENT: &str = "Not counted, because they do not answer: ";

/// Runs it in a terminal of its own: what appears, its exit code, and whether that was in time.
async fn run(nodes: &RealNodes, time: Duration, arguments: &str) -> (String, i32) {
    let (host, port) = host_and_port(nodes, 1);
    let at = format!("--host {host} --port {port} --timeout {}s", time.as_secs());
    let began = Instant::now();
    let (seen, code) = Terminal::start(&format!("{at} {arguments}"), &nodes.dir.join("none")).rest().await;
    assert!(began.elapsed() < time + LATER_AT_MOST, "{arguments} took {:?}: {seen}", began.elapsed());
    (seen, code)
}

/// A follower sees by itself that there is nothing to drop. A leader without a majority may have taken in that it was made.
fn is_expected(seen: &str, expected: &str) -> bool {
    seen.contains(expected) || (expected == NOT_THERE && seen.contains(NO_MAJORITY))
}

async fn try_one(nodes: &RealNodes, statement: &str, expected: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (seen, _) = run(nodes, TIMEOUT, &format!("-e '{statement}'")).await;
        if is_expected(&seen, expected) {
            return;
        }
        // Nodes that a busy machine leaves no time are told as that, and asked again.
        let is_late = LATE.iter().any(|words| seen.contains(words)) && Instant::now() < deadline;
        assert!(is_late, "{statement}: {expected}: {seen}");
    }
}

#[tokio::test]
async fn every_command_ends_in_its_time_and_tells_what_is_wrong_while_nodes_are_down() {
    let mut desk = Desk::with(3).await;
    desk.settled().await;
    desk.ask("PUT a b CL=ALL", "OK, written at ALL").await;
    let rows = desk.history.path().join("rows.csv");
    std::fs::write(&rows, "key,value\nimported,b\n").unwrap();
    let import = format!("import {}", rows.display());
    let export = format!("export {}.out --format csv --overwrite", rows.display());

    desk.nodes.kill(3);
    desk.until("NODES", "alive, as node-1", |told| told.contains("2 of 3")).await;
    let (host, port) = host_and_port(&desk.nodes, 2);
    desk.ask(&format!("CONNECT {host} {port}"), "connected to node-2").await;
    desk.until("NODES", "alive, as node-2", |told| told.contains("2 of 3")).await;
    // What one of them does the next one sees.
    for (statement, one_down, _) in STATEMENTS {
        try_one(&desk.nodes, statement, one_down).await;
    }
    for (task, told) in [(&import, "1 rows written"), (&export, "rows exported")] {
        let (seen, code) = run(&desk.nodes, TIMEOUT, task).await;
        assert!(code == 0 && seen.contains(told), "{task}: {seen}");
    }

    desk.nodes.kill(2);
    let (host, port) = host_and_port(&desk.nodes, 1);
    desk.ask(&format!("CONNECT {host} {port}"), "connected to node-1").await;
    desk.until("NODES", "alive, as node-1", |told| told.contains("1 of 3")).await;
    // No more of them succeeds than sees what was before: those that wait for their time to be over do so together.
    for some in STATEMENTS.chunks(AT_ONCE) {
        join_all(some.iter().map(|(statement, _, two_down)| try_one(&desk.nodes, statement, two_down))).await;
    }

    desk.nodes.kill(1);
    let statements = STATEMENTS.iter().map(|(statement, ..)| (format!("-e '{statement}'"), "Does a node run there?"));
    let tasks = [&*import, &export, "top", "-e REPAIR", "-e \"CONNECT 127.0.0.1 9\""];
    let tasks = tasks.map(|task| (task.to_owned(), "cannot connect to "));
    let nodes = &desk.nodes;
    for some in statements.chain(tasks).collect::<Vec<_>>().chunks(AT_ONCE) {
        join_all(some.iter().map(|(task, told)| async move {
            let (seen, code) = run(nodes, NOBODY_IN, task).await;
            assert_eq!(code, 3, "{task}: {seen}");
            assert!(seen.contains("cannot connect to ") && seen.contains(told), "{task}: {seen}");
        }))
        .await;
    }
    // A shell that was there before is told the same, and lives on.
    for statement in ["GET a TIMEOUT=1s", "PUT a b TIMEOUT=1s"] {
        let told = desk.ask(statement, "error: ").await;
        assert!(!told.is_empty(), "{statement}");
    }
    desk.leave().await;
}

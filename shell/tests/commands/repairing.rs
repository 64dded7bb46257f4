//! REPAIR, STATUS and SCRUB: what is asked of nodes, what is told of their answers, and what becomes of a repair whose shell
//! is told to end.

use std::process::Stdio;

use cube_proto::v1;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;
use tokio::time::{Duration, Instant, timeout};
use tonic::Code;

use crate::fake::{FakeCluster, detail};
use crate::{PATIENCE, cube, ran};

/// How often a process is interrupted that does not end.
const PRESS_EVERY: Duration = Duration::from_millis(200);

fn repair(state: &str, done: u64) -> v1::Repair {
    let pair = v1::RepairPair {
        nodes: vec!["node-1".into(), "node-3".into()],
        partitions: 256,
        differing: 3,
        leaves: 4,
        rows_to: [("node-3".to_owned(), 45)].into(),
        bytes: 4_096,
    };
    let left = v1::RepairNotCompared {
        node: "node-3".into(),
        with: "node-2".into(),
        table: "default.kv".into(),
        partitions: vec![1, 2],
        reason: "it is down".into(),
    };
    v1::Repair {
        id: "7".into(),
        state: state.into(),
        tables: vec!["default.kv".into()],
        node: "node-1".into(),
        eta_ms: Some(500),
        total: 512,
        done,
        differing: 3,
        leaves: 4,
        rows: 45,
        bytes: 4_096,
        pairs: vec![pair],
        not_compared: if state == "COMPLETED" { Vec::new() } else { vec![left] },
        ..Default::default()
    }
}

/// A cluster in which a repair ends so when it was looked at three times.
async fn repairing(end: &str) -> FakeCluster {
    let cluster = FakeCluster::start(1).await;
    let under_way = [repair("PLANNED", 0), repair("RUNNING", 100), repair("RUNNING", 200), repair("RUNNING", 300)];
    cluster.repair(under_way.into_iter().chain([repair(end, 512)]).collect());
    cluster
}

#[tokio::test]
async fn a_repair_is_watched_until_its_end() {
    let cluster = repairing("COMPLETED").await;
    let ran = cube(cluster.port(1), &["-e", "REPAIR default.kv"]).await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
    for told in ["OK, the replicas are equal now", "3 of 512 comparisons differ: 4 leaves, 45 rows", "node-3: 45"] {
        assert!(ran.out.contains(told), "{told}: {}", ran.out);
    }
    let asked = cluster.repairs_asked();
    assert_eq!(asked, ["1 starts default.kv", "1 shows 7", "1 shows 7", "1 shows 7", "1 shows 7"]);
    let ran = cube(cluster.port(1), &["--json", "-e", "REPAIR PLAN"]).await;
    let document: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((&document["plan"], &document["rows"][0]["rowsTo"]["node-3"]), (&true.into(), &45.into()));
    assert_eq!(cluster.repairs_asked().last().unwrap(), "1 starts . dry");
}

#[tokio::test]
async fn a_repair_that_left_something_out_fails_and_says_what_and_why() {
    for state in ["PARTIAL", "FAILED"] {
        let cluster = repairing(state).await;
        let ran = cube(cluster.port(1), &["--json", "-e", "REPAIR"]).await;
        assert_eq!(ran.code, 1);
        assert!(ran.out.contains(r#""code":"repair_not_completed""#), "{}", ran.out);
        let compared = format!("repair 7 ended as {state}: 3 of 510 comparisons differ: 4 leaves, 45 rows");
        for told in [&*compared, "2 partitions of default.kv between node-3 and node-2: it is down"] {
            assert!(ran.err.contains(told), "{told}: {}", ran.err);
        }
    }
}

#[tokio::test]
async fn a_repair_ends_at_its_node_when_the_shell_is_interrupted() {
    let cluster = FakeCluster::start(1).await;
    cluster.repair(vec![repair("PLANNED", 0), repair("RUNNING", 100)]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_cube"));
    command.args(["--port", &cluster.port(1).to_string(), "-e", "REPAIR default.kv"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + PATIENCE;
    while cluster.repairs_asked().len() < 2 {
        assert!(Instant::now() < deadline, "it is not watched");
        tokio::task::yield_now().await;
    }
    let pid = child.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().await.unwrap().success());
    let ran = ran(timeout(PATIENCE, child.wait_with_output()).await.expect("it hangs").unwrap());
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("repair 7 is cancelled; what it mended stays so"), "{}", ran.err);
    assert_eq!(cluster.repairs_asked().last().unwrap(), "1 cancels 7");
}

#[tokio::test]
async fn a_script_can_be_interrupted_after_a_repair_as_before_it() {
    let cluster = repairing("COMPLETED").await;
    let mut command = Command::new(env!("CARGO_BIN_EXE_cube"));
    command.args(["--port", &cluster.port(1).to_string()]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It waits for the next statement from here on: its input stays open.
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"REPAIR default.kv\n").await.unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut told = String::new();
    while !told.contains("node-3: 45") {
        told = timeout(PATIENCE, lines.next_line()).await.expect("it hangs").unwrap().expect("it ended");
    }
    // Until the repair is over for the shell too, an interruption is meant for it.
    let ended = timeout(PATIENCE, async {
        let pid = child.id().unwrap().to_string();
        let mut presses = tokio::time::interval(PRESS_EVERY);
        loop {
            tokio::select! {
                ended = child.wait() => return ended.unwrap(),
                _ = presses.tick() => drop(Command::new("kill").args(["-INT", &pid]).output().await.unwrap()),
            }
        }
    });
    assert_eq!(ended.await.expect("it is not interrupted").code(), Some(130));
    drop(input);
}

#[tokio::test]
async fn a_repair_that_is_refused_tells_the_words_of_the_node() {
    let cluster = FakeCluster::start(2).await;
    cluster.refuse_repairs(detail("repair_under_way", Code::AlreadyExists, "repair 6 is under way"));
    let ran = cube(cluster.port(1), &["-e", "REPAIR default.kv"]).await;
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("repair 6 is under way [repair_under_way]"), "{}", ran.err);
}

#[tokio::test]
async fn a_repair_that_its_node_knows_nothing_of_is_not_waited_for() {
    let cluster = FakeCluster::start(1).await;
    cluster.repair(vec![repair("RUNNING", 0), v1::Repair { id: "8".into(), ..repair("RUNNING", 0) }]);
    let ran = cube(cluster.port(1), &["-e", "REPAIR default.kv"]).await;
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("there is no such repair [unknown_repair]"), "{}", ran.err);
}

#[tokio::test]
async fn status_and_scrub_are_those_of_all_nodes_that_answer() {
    let cluster = FakeCluster::start(3).await;
    for (node, in_sync_ms, damaged) in [(1, 90_000, 0), (2, 40_000, 2)] {
        let table = v1::TableSync {
            keyspace: "default".into(),
            table: "kv".into(),
            in_sync_ms: Some(in_sync_ms),
            partitions: 256,
            ..Default::default()
        };
        cluster.sync(
            node,
            v1::ReplicationReply {
                enabled: true,
                now_ms: 100_000,
                tables: vec![table],
                dirty_ranges: [("node-3".to_owned(), 4)].into(),
                ..Default::default()
            },
        );
        let scrub =
            v1::ScrubReply { state: "RUNNING".into(), done_permille: 420, rows: 9, cycles: 1, ..Default::default() };
        cluster.scrub(node, v1::ScrubReply { damaged, ..scrub });
    }
    let ran = cube(cluster.port(1), &["-e", "STATUS"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    for told in [
        "written until 60 s ago is on all",
        "Dirty Ranges of node-3: 8",
        "do not answer: node-3",
        "default.kv  60 s ago",
    ] {
        assert!(ran.out.contains(told), "{told}: {}", ran.out);
    }
    let ran = cube(cluster.port(1), &["--csv", "-e", "SCRUB"]).await;
    assert_eq!(
        ran.out,
        "node,state,done,rows,damaged,cycles,lastCycle\nnode-1,RUNNING,42%,9,0,1,\nnode-2,RUNNING,42%,9,2,1,\n"
    );
    let ran = cube(cluster.port(1), &["-e", "SCRUB NOW"]).await;
    assert!(ran.out.contains("is verified now") && ran.out.contains("2 damaged places"), "{}", ran.out);
    assert!(ran.out.contains("node-1  ON_DEMAND"), "{}", ran.out);
}

#[tokio::test]
async fn a_release_that_knows_no_such_question_is_told_as_that() {
    let cluster = FakeCluster::start(1).await;
    for statement in ["STATUS", "SCRUB", "REPAIR"] {
        let ran = cube(cluster.port(1), &["-e", statement]).await;
        assert_eq!(ran.code, 1, "{statement}: {ran:?}");
        assert!(ran.err.contains("does not know this call"), "{statement}: {}", ran.err);
        assert!(ran.err.contains("it runs an older release"), "{statement}: {}", ran.err);
    }
}

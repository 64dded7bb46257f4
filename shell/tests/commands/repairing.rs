//! REPAIR, STATUS and SCRUB: what is asked of nodes over HTTP, what is told of their answers, and what becomes of a repair
//! whose shell is told to end.

use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;
use tokio::time::{Duration, Instant, timeout};

use crate::fake::FakeCluster;
use crate::fake_http::FakeHttp;
use crate::{PATIENCE, cube, ran};

/// How often a process is interrupted that does not end.
const PRESS_EVERY: Duration = Duration::from_millis(200);
const REPAIR: &str = "/api/v1/replication/repair";

fn repair(state: &str, done: u32) -> String {
    format!(
        r#"{{"success":true,"message":"m","repairId":"7","state":"{state}","dryRun":false,"tables":["default.kv"],
            "node":"node-1","createdAtMs":1,"etaMs":500,"total":512,"done":{done},"differing":3,"leaves":4,"rows":45,
            "bytes":4096,"resumed":0,"pairs":[{{"nodes":["node-1","node-3"],"partitions":256,"differing":3,"leaves":4,
            "rowsTo":{{"node-3":45}},"bytes":4096}}],"notCompared":[{{"node":"node-3","with":"node-2",
            "table":"default.kv","partitions":[1,2],"reason":"it is down"}}]}}"#
    )
}

/// A node that ends a repair in this state when it was looked at three times.
async fn repairing(end: &'static str) -> FakeHttp {
    let looks = AtomicU32::new(0);
    FakeHttp::start(move |asked| match asked.split(' ').next().unwrap() {
        "POST" => (202, repair("PLANNED", 0)),
        "DELETE" => (200, repair("CANCELLED", 200)),
        _ => match looks.fetch_add(1, Ordering::Relaxed) {
            look @ 0..3 => (200, repair("RUNNING", look * 100)),
            _ => (200, repair(end, 512)),
        },
    })
    .await
}

#[tokio::test]
async fn a_repair_is_watched_until_its_end() {
    let (cluster, http) = (FakeCluster::start(1).await, repairing("COMPLETED").await);
    cluster.http(1, &http.address);
    let ran = cube(cluster.port(1), &["-e", "REPAIR default.kv"]).await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
    for told in ["OK, the replicas are equal now", "3 of 512 comparisons differ: 4 leaves, 45 rows", "node-3: 45"] {
        assert!(ran.out.contains(told), "{told}: {}", ran.out);
    }
    let asked = http.asked();
    assert_eq!(asked[0], format!(r#"POST {REPAIR} {{"dryRun":false,"keyspace":"default","table":"kv"}}"#));
    assert!(asked.len() >= 4 && asked[1..].iter().all(|asked| *asked == format!("GET {REPAIR}/7")), "{asked:?}");
    let ran = cube(cluster.port(1), &["--json", "-e", "REPAIR PLAN"]).await;
    let document: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((&document["plan"], &document["rows"][0]["rowsTo"]["node-3"]), (&true.into(), &45.into()));
    assert_eq!(http.asked().iter().filter(|asked| **asked == format!(r#"POST {REPAIR} {{"dryRun":true}}"#)).count(), 1);
}

#[tokio::test]
async fn a_repair_that_left_something_out_fails_and_says_what_and_why() {
    for state in ["PARTIAL", "FAILED"] {
        let (cluster, http) = (FakeCluster::start(1).await, repairing(state).await);
        cluster.http(1, &http.address);
        let ran = cube(cluster.port(1), &["--json", "-e", "REPAIR"]).await;
        assert_eq!(ran.code, 1);
        assert!(ran.out.contains(r#""code":"repair_not_completed""#), "{}", ran.out);
        for told in [state, "2 partitions of default.kv between node-3 and node-2: it is down"] {
            assert!(ran.err.contains(told), "{told}: {}", ran.err);
        }
    }
}

#[tokio::test]
async fn a_repair_ends_at_its_node_when_the_shell_is_interrupted() {
    let cluster = FakeCluster::start(1).await;
    let http = FakeHttp::start(|asked| match asked.split(' ').next().unwrap() {
        "POST" => (202, repair("PLANNED", 0)),
        "DELETE" => (200, repair("CANCELLED", 200)),
        _ => (200, repair("RUNNING", 100)),
    })
    .await;
    cluster.http(1, &http.address);
    let mut command = Command::new(env!("CARGO_BIN_EXE_cube"));
    command.args(["--port", &cluster.port(1).to_string(), "-e", "REPAIR default.kv"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + PATIENCE;
    while http.asked().len() < 2 {
        assert!(Instant::now() < deadline, "it is not watched");
        tokio::task::yield_now().await;
    }
    let pid = child.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().await.unwrap().success());
    let ran = ran(timeout(PATIENCE, child.wait_with_output()).await.expect("it hangs").unwrap());
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("repair 7 is cancelled; what it mended stays so"), "{}", ran.err);
    assert_eq!(http.asked().last().unwrap(), &format!("DELETE {REPAIR}/7"));
}

#[tokio::test]
async fn a_script_can_be_interrupted_after_a_repair_as_before_it() {
    let (cluster, http) = (FakeCluster::start(1).await, repairing("COMPLETED").await);
    cluster.http(1, &http.address);
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
    let refusal = r#"{"error":{"code":"repair_running","message":"repair 6 is under way","details":{}}}"#;
    let http = FakeHttp::start(|_| (409, refusal.to_owned())).await;
    // The node that is talked to serves no HTTP: the next one is asked.
    cluster.http(2, &http.address);
    let ran = cube(cluster.port(1), &["-e", "REPAIR default.kv"]).await;
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("repair 6 is under way [repair_running]"), "{}", ran.err);
    let cluster = FakeCluster::start(1).await;
    let ran = cube(cluster.port(1), &["-e", "REPAIR"]).await;
    assert!(ran.err.contains("no node answers REPAIR over HTTP"), "{}", ran.err);
}

#[tokio::test]
async fn status_and_scrub_are_those_of_all_nodes_that_answer() {
    let cluster = FakeCluster::start(3).await;
    let node = async |as_of: u64, damaged: u64| {
        FakeHttp::start(move |asked| {
            let scrub = format!(r#"{{"state":"RUNNING","donePermille":420,"rows":9,"damaged":{damaged},"cycles":1}}"#);
            match asked {
                "GET /api/v1/replication/status" => {
                    let table =
                        format!(r#"{{"keyspace":"default","table":"kv","inSyncAsOfMs":{as_of},"partitions":256}}"#);
                    (200, format!(r#"{{"nowMs":100000,"tables":[{table}],"dirtyRanges":{{"node-3":4}}}}"#))
                }
                "GET /api/v1/replication/scrub" => (200, scrub),
                "POST /api/v1/replication/scrub" => {
                    (202, format!(r#"{{"success":true,"message":"m","scrub":{scrub}}}"#))
                }
                _ => (404, String::new()),
            }
        })
        .await
    };
    let (one, two) = (node(90_000, 0).await, node(40_000, 2).await);
    cluster.http(1, &one.address);
    cluster.http(2, &two.address);
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
    let old = FakeHttp::start(|_| (404, String::new())).await;
    let cluster = FakeCluster::start(1).await;
    cluster.http(1, &old.address);
    for statement in ["STATUS", "SCRUB", "REPAIR"] {
        let ran = cube(cluster.port(1), &["-e", statement]).await;
        assert_eq!(ran.code, 1, "{statement}: {ran:?}");
        assert!(ran.err.contains("is not served by the nodes of this release"), "{statement}: {}", ran.err);
    }
}

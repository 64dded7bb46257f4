//! The program `cube` against nodes that say what a test tells them to: results, errors, exit codes, other nodes when one
//! is gone, and an end in time when none answers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod exporting;
mod fake;
mod figures;
mod importing;
mod listing;
mod repairing;

use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::time::{Instant, timeout};
use tonic::Code;

use fake::{FakeCluster, detail};

/// Longer than anything here takes on a busy machine: what is still under way then, hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// What a run of the program gave.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

pub(crate) fn ran(output: Output) -> Ran {
    Ran {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

pub(crate) async fn cube(port: u16, arguments: &[&str]) -> Ran {
    with_input(port, arguments, "").await
}

pub(crate) async fn with_input(port: u16, arguments: &[&str], input: &str) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cube"));
    command.args(["--port", &port.to_string()]).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    // A program that fails does not read its input to the end.
    tokio::spawn(async move { stdin.write_all(input.as_bytes()).await.unwrap_or_default() });
    ran(timeout(PATIENCE, child.wait_with_output()).await.expect("it hangs").unwrap())
}

#[tokio::test]
async fn the_lines_of_the_manual_do_what_they_say() {
    let cluster = FakeCluster::start(3).await;
    cluster.hints("node-3", 15);
    let script = "// two rows\nPUT user:alice \"Alice Johnson\" CL=QUORUM\nGET user:alice CL=ALL\n\
                  UPDATE user:alice SET value=\"Alice J.\" CL=QUORUM // again\nGET user:alice\nSTATS\n";
    let ran = with_input(cluster.port(1), &[], script).await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    let lines: Vec<&str> = ran.out.lines().collect();
    assert_eq!(lines[0], "OK, written at QUORUM, held durably by node-1, node-2");
    assert_eq!((lines[1], lines[4]), ("\"Alice Johnson\"", "\"Alice J.\""));
    // Each of three nodes keeps 15.
    assert!(lines.contains(&"Pending Hints: 45") && lines.contains(&"Hints for node-3: 45"), "{}", ran.out);
}

#[tokio::test]
async fn json_is_one_document_for_each_statement_and_nothing_on_stderr() {
    let cluster = FakeCluster::start(3).await;
    let ran = cube(cluster.port(1), &["--json", "-e", &EVERY_COMMAND.join("; ")]).await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    assert_eq!(ran.out.lines().count(), EVERY_COMMAND.len());
    for (line, statement) in ran.out.lines().zip(EVERY_COMMAND) {
        let document: serde_json::Value = serde_json::from_str(line).unwrap();
        let name = document["statement"].as_str().unwrap();
        let said = statement.trim_start_matches("EXPLAIN ").replace("CLUSTER", "NODES");
        assert!(said.starts_with(name), "{statement}: {line}");
    }
    assert!(ran.out.contains(r#""pendingHints":0"#));
}

/// Every command that shows or changes something, each as it can be said to a cluster that has the usual table.
const EVERY_COMMAND: &[&str] = &[
    "PUT k v",
    "GET k",
    "UPDATE k SET value=w",
    "EXPLAIN GET k",
    "SCAN",
    "SCAN KEY=k",
    "DELETE k",
    "CONSISTENCY ONE",
    "USE default.kv",
    "NODES",
    "CLUSTER",
    "RING",
    "RING k",
    "STATS",
    "HINTS",
    "HEALTH",
    "DESCRIBE",
    "DESCRIBE default.kv",
    "CREATE KEYSPACE app",
    "CREATE TABLE app.users",
    "ALTER TABLE app.users hedge=off",
    "DROP TABLE app.users",
    "DROP KEYSPACE app",
    "DECOMMISSION node-2",
    "REMOVE node-2 ACCEPT LOSS",
    "REPLACE node-2 WITH node-1",
    "DRAIN node-2",
    "DRAIN node-2 UNDO",
    "HELP",
    "HELP PUT",
    "DISCONNECT node-1",
];

#[tokio::test]
async fn every_command_has_rows_below_a_header_as_csv() {
    let cluster = FakeCluster::start(2).await;
    for statement in EVERY_COMMAND {
        let ran = cube(cluster.port(1), &["--csv", "-e", statement]).await;
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{statement}");
        let mut reader = csv::Reader::from_reader(ran.out.as_bytes());
        let columns = reader.headers().unwrap().len();
        let rows: Vec<csv::StringRecord> = reader.records().map(|row| row.expect(statement)).collect();
        assert!(columns > 0 && rows.iter().all(|row| row.len() == columns), "{statement}: {}", ran.out);
        // Of hints there are none.
        assert!(!rows.is_empty() || *statement == "HINTS", "{statement}: {}", ran.out);
    }
}

#[tokio::test]
async fn a_table_that_does_not_exist_is_answered_with_the_one_that_was_meant() {
    let cluster = FakeCluster::start(1).await;
    for statement in ["GET a IN=default.vk", "PUT a b IN=defualt.kv", "SCAN IN=default.kvs"] {
        let ran = cube(cluster.port(1), &["-e", statement]).await;
        assert_eq!(ran.code, 1, "{statement}");
        assert!(ran.err.contains("did you mean default.kv?"), "{statement}: {}", ran.err);
    }
    let ran = cube(cluster.port(1), &["-e", "GET a IN=quite.different"]).await;
    assert!(ran.err.contains("there is no table quite.different") && !ran.err.contains("mean"), "{}", ran.err);
}

#[tokio::test]
async fn a_script_stops_at_its_first_error_and_tells_the_line() {
    let cluster = FakeCluster::start(1).await;
    for (script, code, told) in [
        ("PUT a 1\n\nPTU b 2\nPUT c 3\n", 2, "3 | PTU b 2"),
        ("PUT a 1\n\nGET b IN=no.where\nPUT c 3\n", 1, "line 3: GET: there is no table no.where"),
        ("PUT a 'x\ny'\n\n\nGET b IN=no.where\nPUT c 3\n", 1, "line 5: GET"),
    ] {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), script).unwrap();
        let of_input = with_input(cluster.port(1), &["-"], script).await;
        let of_file = cube(cluster.port(1), &[file.path().to_str().unwrap()]).await;
        for ran in [of_input, of_file] {
            assert_eq!(ran.code, code, "{script}: {ran:?}");
            assert!(ran.err.contains(told), "{script}: {}", ran.err);
            let keys: Vec<_> = cluster.rows().into_keys().map(|(_, key, _)| key).collect();
            assert_eq!(keys, ["a"], "what comes before the error is done, what follows is not");
        }
    }
}

#[tokio::test]
async fn keys_and_values_of_any_bytes_come_back_as_they_were() {
    let cluster = FakeCluster::start(1).await;
    let large = "é".repeat(512 << 10);
    let values = [
        r#""with \"quotes\" and 'more'""#,
        "\"line\\nend\"",
        "\"😀👩‍👩‍👧\"",
        "\"a\\0b\"",
        "b64\"/wCA\"",
        &format!("'{large}'"),
    ];
    for (number, value) in values.iter().enumerate() {
        let statements = format!("PUT \"key {number} \\n\" {value}\nGET \"key {number} \\n\"\n");
        let ran = with_input(cluster.port(1), &[], &statements).await;
        let shown = ran.out.lines().nth(1).unwrap();
        // What is shown can be put as it is.
        let again = with_input(cluster.port(1), &["--json"], &format!("PUT again {shown}\nGET again")).await;
        assert_eq!(again.code, 0, "{again:?}");
        let rows = cluster.rows();
        let of = |key: String| rows[&("default.kv".to_owned(), key.into(), "".into())].clone();
        assert_eq!(of(format!("key {number} \n")), of("again".to_owned()), "{number}");
    }
}

#[tokio::test]
async fn what_a_request_did_is_told_in_every_form() {
    let cluster = FakeCluster::start(1).await;
    let puts = "PUT a b\nPUT c d\n";
    assert_eq!(with_input(cluster.port(1), &[], puts).await.code, 0);
    let ran = cube(cluster.port(1), &["-e", "EXPLAIN GET a"]).await;
    assert!(ran.out.starts_with("\"b\"\n"), "{}", ran.out);
    assert!(ran.out.contains("read of default.kv at QUORUM: 3 ms, coordinated by node-1"), "{}", ran.out);
    assert!(ran.out.contains("node-2   near  record"), "{}", ran.out);
    let ran = cube(cluster.port(1), &["--json", "-e", "SCAN EXPLAIN"]).await;
    let document: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(
        (document["count"].clone(), document["explained"]["messages"][0]["replica"].clone()),
        (2.into(), "node-2".into())
    );
    let ran = cube(cluster.port(1), &["--csv", "-e", "GET a EXPLAIN"]).await;
    assert_eq!(ran.out, "replica,role,asked,answer,why,sentMs,answeredMs,rows\nnode-2,near,record,done,level,1,3,1\n");
}

#[tokio::test]
async fn that_a_port_speaks_no_grpc_is_told_long_before_the_time_to_connect_is_over() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    // As a node's HTTP port does with what is none.
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.read_exact(&mut [0; 24]).await.unwrap();
        }
    });
    let began = Instant::now();
    let ran = cube(port, &["--timeout", "100s", "-e", "NODES"]).await;
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.err.contains("speaks no gRPC"), "{}", ran.err);
    assert!(began.elapsed() < Duration::from_secs(50), "told after {:?}", began.elapsed());
}

#[tokio::test]
async fn without_a_quorum_the_error_tells_how_many_live_and_what_can_be_done() {
    let cluster = FakeCluster::start(3).await;
    let refusal = cube_proto::v1::ErrorDetail {
        required: Some(2),
        alive: Some(1),
        ..detail("unavailable", Code::Unavailable, "QUORUM needs 2 live replicas, and 1 is alive; nothing was written")
    };
    cluster.refuse(refusal);
    let ran = cube(cluster.port(1), &["--timeout", "30s", "--json", "-e", "PUT a b"]).await;
    assert_eq!(ran.code, 1);
    let document: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((&document["error"]["code"], &document["error"]["alive"]), (&"unavailable".into(), &1.into()));
    assert!(ran.err.contains("QUORUM needs 2 live replicas") && ran.err.contains("CL=ONE"), "{}", ran.err);
}

#[tokio::test]
async fn a_statement_that_failed_tells_what_was_done_for_it_where_that_was_asked_for() {
    let cluster = FakeCluster::start(1).await;
    let message =
        cube_proto::v1::ExplainedMessage { replica: "node-3".into(), asked: "write".into(), ..Default::default() };
    let explained = cube_proto::v1::Explained { kind: "write".into(), messages: vec![message], ..Default::default() };
    let refusal = cube_proto::v1::ErrorDetail {
        explained: Some(Box::new(explained)),
        ..detail("write_unknown", Code::DeadlineExceeded, "the write is unknown")
    };
    cluster.refuse(refusal);
    let ran = cube(cluster.port(1), &["-e", "EXPLAIN PUT a b"]).await;
    assert!(ran.out.starts_with("write of ") && ran.out.contains("node-3"), "{}", ran.out);
    assert!(ran.err.contains("the write is unknown"), "{}", ran.err);
    let ran = cube(cluster.port(1), &["--json", "-e", "EXPLAIN PUT a b"]).await;
    let document: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(document["explained"]["messages"][0]["replica"], "node-3", "{}", ran.out);
}

#[tokio::test]
async fn a_node_that_dies_is_left_for_the_next_one_and_that_is_told() {
    let mut cluster = FakeCluster::start(3).await;
    let mut command = Command::new(env!("CARGO_BIN_EXE_cube"));
    command.args(["--port", &cluster.port(1).to_string()]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"NODES\nPUT a b\n").await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    while cluster.writes() == 0 {
        assert!(Instant::now() < deadline, "nothing was written");
        tokio::task::yield_now().await;
    }
    cluster.kill(1).await;
    stdin.write_all(b"NODES\nGET a\n").await.unwrap();
    drop(stdin);
    let ran = ran(timeout(PATIENCE, child.wait_with_output()).await.expect("it hangs").unwrap());
    assert_eq!(ran.code, 0, "{ran:?}");
    let first = cluster.port(1);
    assert!(
        ran.err.contains(&format!("note: node-1 (127.0.0.1:{first}) does not answer; talking to node-")),
        "{}",
        ran.err
    );
    assert!(ran.out.contains("2 of 3 alive") && ran.out.contains("\"b\""), "{}", ran.out);
}

#[tokio::test]
async fn without_any_node_every_command_ends_in_its_time_with_advice() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let local = ["CONSISTENCY", "HELP"];
    for statement in EVERY_COMMAND.iter().filter(|statement| !local.iter().any(|name| statement.starts_with(name))) {
        let ran = cube(port, &["--timeout", "300ms", "-e", statement]).await;
        assert_eq!(ran.code, 3, "{statement}: {ran:?}");
        assert!(ran.err.contains("cannot connect to 127.0.0.1") && ran.err.contains("cubed dev"), "{}", ran.err);
    }
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from.csv"), dir.path().join("to.csv"));
    std::fs::write(&from, "key,value\na,b\n").unwrap();
    for arguments in [&["import", from.to_str().unwrap()][..], &["export", to.to_str().unwrap()], &["top"]] {
        let ran = cube(port, &[&["--timeout", "300ms"], arguments].concat()).await;
        assert_eq!(ran.code, 3, "{arguments:?}: {ran:?}");
        assert!(ran.err.contains("cannot connect to 127.0.0.1"), "{}", ran.err);
    }
    assert!(!to.exists());
    let ran = cube(port, &["-e", "HELP; CONSISTENCY ALL; DISCONNECT; GET a"]).await;
    assert_eq!(ran.code, 3);
    assert!(ran.err.contains("not connected: CONNECT host port"), "{}", ran.err);
}

#[tokio::test]
async fn nodes_that_hang_are_not_waited_for_longer_than_the_timeout() {
    let cluster = FakeCluster::start(2).await;
    for statement in [
        "GET a",
        "PUT a b",
        "SCAN",
        "SCAN KEY=a",
        "NODES",
        "RING",
        "STATS",
        "HINTS",
        "HEALTH",
        "DESCRIBE",
        "USE default",
    ] {
        cluster.hang(false);
        let mut command = Command::new(env!("CARGO_BIN_EXE_cube"));
        command.args(["--port", &cluster.port(1).to_string(), "--timeout", "500ms"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let before = cluster.writes();
        stdin.write_all(b"PUT x y\n").await.unwrap();
        let deadline = Instant::now() + PATIENCE;
        while cluster.writes() == before {
            assert!(Instant::now() < deadline, "nothing was written");
            tokio::task::yield_now().await;
        }
        cluster.hang(true);
        let began = Instant::now();
        stdin.write_all(format!("{statement}\n").as_bytes()).await.unwrap();
        drop(stdin);
        let ran = ran(timeout(PATIENCE, child.wait_with_output()).await.expect("it hangs").unwrap());
        let code = if statement == "PUT a b" { 4 } else { 1 };
        assert_eq!(ran.code, code, "{statement}: {ran:?}");
        assert!(ran.err.contains("no answer in time"), "{statement}: {}", ran.err);
        assert!(began.elapsed() >= Duration::from_millis(500), "{statement} gave up before its time");
    }
}

#[tokio::test]
async fn the_schema_is_changed_described_and_used() {
    let cluster = FakeCluster::start(1).await;
    let script = "CREATE KEYSPACE app replication=simple(3)\nCREATE KEYSPACE app replication=simple(3)\n\
                  CREATE TABLE app.users default_ttl=30m\nUSE app\nPUT a b\nDESCRIBE app\n";
    let ran = with_input(cluster.port(1), &[], script).await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    for told in ["OK, app created", "app was so already", "using app.users", "CREATE TABLE app.users default_ttl=30m;"]
    {
        assert!(ran.out.contains(told), "{told}: {}", ran.out);
    }
    assert_eq!(cluster.rows().into_keys().next().unwrap().0, "app.users");
    let ran = cube(cluster.port(1), &["-e", "USE ap"]).await;
    assert!(ran.err.contains("there is no keyspace \"ap\"; did you mean app?"), "{}", ran.err);
    let ran = cube(cluster.port(1), &["--timeout", "30s", "-e", "ALTER KEYSPACE app durability=sync"]).await;
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("the schema changes only while a majority is alive"), "{}", ran.err);
}

#[tokio::test]
async fn a_node_that_has_not_heard_of_a_table_yet_is_asked_again() {
    let cluster = FakeCluster::start(1).await;
    cluster.late(1, 1);
    // The first question is that for the row; by the second, which is that for the schema, the node has heard.
    let ran = cube(cluster.port(1), &["--timeout", "30s", "-e", "PUT a b IN=default.new; GET a IN=default.new"]).await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
    let ran = cube(cluster.port(1), &["-e", "GET a IN=default.newer"]).await;
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("did you mean default.new?"), "{}", ran.err);
}

#[tokio::test]
async fn health_tells_what_one_more_death_would_break() {
    let mut cluster = FakeCluster::start(3).await;
    let ran = cube(cluster.port(1), &["-e", "HEALTH"]).await;
    assert!(ran.out.contains("all 3 nodes are alive"), "{}", ran.out);
    cluster.kill(3).await;
    let ran = cube(cluster.port(1), &["-e", "HEALTH"]).await;
    assert!(ran.out.contains("if one more node died, QUORUM would be lost for some rows of: default"), "{}", ran.out);
}

#[tokio::test]
async fn without_a_terminal_top_is_one_look_in_any_form() {
    let mut cluster = FakeCluster::start(3).await;
    cluster.hints("node-3", 15);
    cluster.kill(3).await;
    let ran = cube(cluster.port(1), &["top", "--interval", "10ms"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    for told in ["Nodes: 3, 2 alive", "Pending Hints: 30", "node-3  DOWN    READY", "No figures of node-1, node-2"] {
        assert!(ran.out.contains(told), "{told}: {}", ran.out);
    }
    let ran = cube(cluster.port(1), &["top", "--interval", "10ms", "--json"]).await;
    let document: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((&document["alive"], &document["rows"][2]["hintsFor"]), (&2.into(), &30.into()));
    let ran = cube(cluster.port(1), &["top", "--interval", "10ms", "--csv"]).await;
    assert_eq!(ran.out.lines().count(), 4, "{}", ran.out);
}

#[tokio::test]
async fn the_command_line_is_checked_and_tells_about_itself() {
    let ran = cube(1, &["--jsno"]).await;
    assert_eq!(ran.code, 2);
    let ran = cube(1, &["no/such/file"]).await;
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("no/such/file cannot be read"));
    for (arguments, told) in [
        (&["completions", "bash"][..], "_cube()"),
        (&["completions", "fish"], "complete -c cube"),
        (&["man"], ".TH cube 1"),
        (&["--help"], "Exit codes:"),
    ] {
        let ran = cube(1, arguments).await;
        assert_eq!(ran.code, 0);
        assert!(ran.out.contains(told), "{arguments:?}: {}", ran.out);
    }
}

#[tokio::test]
async fn manual_pages_and_completions_are_written_where_they_are_wanted() {
    let dir = tempfile::tempdir().unwrap();
    let of = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    for (arguments, file, told) in [
        (&["man", "--dir", &of("man")][..], "man/cube.1", "Exit codes:"),
        (&["man", "--dir", &of("man")], "man/cube-import.1", "keep\\-timestamps"),
        (&["completions", "bash", "--dir", &of("completions")], "completions/cube.bash", "_cube()"),
        (&["completions", "zsh", "--dir", &of("completions")], "completions/_cube", "#compdef cube"),
        (&["completions", "fish", "--dir", &of("completions")], "completions/cube.fish", "complete -c cube"),
    ] {
        let ran = cube(1, arguments).await;
        assert_eq!((ran.code, ran.out.as_str()), (0, ""), "{arguments:?}: {ran:?}");
        let written = std::fs::read_to_string(of(file)).unwrap();
        assert!(written.contains(told), "{file}: {written}");
    }
    let ran = cube(1, &["man", "--dir", &format!("{}/x", of("man/cube.1"))]).await;
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("cannot be written"), "{}", ran.err);
}

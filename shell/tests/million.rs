//! A million rows out of one cluster and into another one: nothing is lost, and the replicas there are equal.
//!
//! Left out of the quick tests. `CUBE_TEST_ROWS=20000` makes it short.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

include!("../../client/tests/nodes/real_nodes.rs");

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

const ROWS: u64 = 1_000_000;
const NODES: u8 = 3;
/// Longer than nodes need, on a busy machine, to prove that all they hold is equal.
const PATIENCE: Duration = Duration::from_secs(1_800);
/// Between two looks at how far they are.
const LOOK_EVERY: Duration = Duration::from_secs(2);

fn rows() -> u64 {
    std::env::var("CUBE_TEST_ROWS").ok().map_or(ROWS, |rows| rows.parse().expect("a number of rows"))
}

/// What `cube` tells of the last thing it does, as its document; or what it complains of.
fn run(nodes: &RealNodes, arguments: &[&str]) -> Result<Value, String> {
    let address = &nodes.addresses()[0];
    let (host, port) = address.rsplit_once(':').unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_cube"));
    let output =
        command.args(["--json", "--host", host, "--port", port, "--timeout", "60s"]).args(arguments).output().unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    if !output.status.success() {
        return Err(format!("{arguments:?}: {told} {}", String::from_utf8_lossy(&output.stderr)));
    }
    let last = told.trim().lines().last().unwrap_or_default();
    serde_json::from_str(last).map_err(|error| format!("{arguments:?}: {error}: {told}"))
}

fn cube(nodes: &RealNodes, arguments: &[&str]) -> Value {
    run(nodes, arguments).unwrap()
}

/// Imports or exports the table, and goes on where a busy machine interrupts that. Rows that were carried in all.
#[allow(clippy::disallowed_methods)]
fn carry(nodes: &RealNodes, task: &str, file: &Path) -> u64 {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        match run(nodes, &[task, file.to_str().unwrap(), "--table", "moved.rows"]) {
            Ok(told) => return told["rows"].as_u64().unwrap() + told["rowsBefore"].as_u64().unwrap(),
            Err(told) => {
                let is_interrupted = told.contains("goes on behind");
                assert!(is_interrupted && std::time::Instant::now() < deadline, "{told}");
            }
        }
    }
}

/// Rows as they stand in an export: keys, sort keys and values of all kinds, some of which are no text.
fn generate(file: &Path) {
    let mut out = BufWriter::new(std::fs::File::create(file).unwrap());
    for number in 0..rows() {
        let row = match number % 100 {
            0 => {
                serde_json::json!({"key": format!("{number:08}"), "value": "gIH/AA==", "encoding": "base64", "sort": ""})
            }
            1 => serde_json::json!({"key": format!("one of\n{number} \"lines\""), "sort": "😀", "value": "\0 \r\n"}),
            // Some partition keys have many rows.
            2..20 => {
                serde_json::json!({"key": format!("many {}", number / 1_000), "sort": number.to_string(), "value": "v"})
            }
            _ => serde_json::json!({"key": format!("user:{number}"), "value": format!("{number:0>100}")}),
        };
        writeln!(out, "{row}").unwrap();
    }
    out.flush().unwrap();
}

/// How many rows an export holds, and a sum of them that does not depend on their order. Versions are new in each cluster.
fn sum_of(file: &Path) -> (u64, u64) {
    let lines = BufReader::new(std::fs::File::open(file).unwrap()).lines();
    lines.fold((0, 0), |(count, sum), line| {
        let mut row: Value = serde_json::from_str(&line.unwrap()).unwrap();
        row.as_object_mut().unwrap().remove("version").unwrap();
        let mut hasher = DefaultHasher::new();
        row.to_string().hash(&mut hasher);
        (count + 1, sum.wrapping_add(hasher.finish()))
    })
}

#[allow(clippy::disallowed_methods)]
fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// Makes the table of these rows, and waits until every node knows it: rows are asked of all of them.
#[allow(clippy::disallowed_methods)]
fn make_table(nodes: &RealNodes) {
    cube(nodes, &["-e", "CREATE KEYSPACE moved replication=simple(3); CREATE TABLE moved.rows"]);
    let deadline = std::time::Instant::now() + PATIENCE;
    let request = "GET /api/v1/keyspaces/moved/tables/rows HTTP/1.1\r\nHost: cube\r\nConnection: close\r\n\r\n";
    for number in 1..=NODES {
        let mut answer = String::new();
        while !answer.starts_with("HTTP/1.1 200") {
            assert!(std::time::Instant::now() < deadline, "node-{number} does not know the table: {answer}");
            let mut stream = std::net::TcpStream::connect(nodes.address(number, 8080)).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            answer.clear();
            stream.read_to_string(&mut answer).unwrap();
        }
    }
}

/// Waits until all replicas are proven equal up to now.
#[allow(clippy::disallowed_methods)]
fn wait_until_equal(nodes: &RealNodes) {
    let (written_ms, deadline) = (now_ms(), std::time::Instant::now() + PATIENCE);
    loop {
        let told = cube(nodes, &["-e", "STATUS"]);
        if told["inSyncAsOfMs"].as_u64().is_some_and(|as_of_ms| as_of_ms >= written_ms) {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "replicas do not become equal: {told}");
        std::thread::sleep(LOOK_EVERY);
    }
}

#[test]
#[ignore = "takes minutes: `make test-long` runs it"]
fn a_million_rows_go_into_an_empty_cluster_whose_replicas_are_equal() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name);
    let (given, exported, again) = (file("given.jsonl"), file("rows.jsonl"), file("again.jsonl"));
    generate(&given);
    let from = RealNodes::start(NODES);
    make_table(&from);
    carry(&from, "import", &given);
    assert_eq!(carry(&from, "export", &exported), rows());
    drop(from);

    let to = RealNodes::start(NODES);
    make_table(&to);
    assert_eq!(carry(&to, "import", &exported), rows());
    wait_until_equal(&to);
    let plan = cube(&to, &["-e", "REPAIR moved.rows PLAN"]);
    assert_eq!((&plan["state"], &plan["plan"]), (&"COMPLETED".into(), &true.into()), "{plan}");
    assert_eq!((&plan["differing"], &plan["exchanged"]), (&0.into(), &0.into()), "{plan}");
    assert_eq!(plan["total"], 3 * 256, "every partition, between every two of its replicas: {plan}");

    carry(&to, "export", &again);
    let (before, after) = (sum_of(&exported), sum_of(&again));
    assert_eq!(before.0, rows());
    assert!(before == after, "{before:?} became {after:?}");
}

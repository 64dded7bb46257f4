//! The README's tour, run as it is printed, against real nodes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

include!("../../client/tests/nodes/real_nodes.rs");

const README: &str = include_str!("../../README.md");
/// Where the tour begins, and where it goes on to nodes that are started by hand.
const FROM: &str = "## A tour";
const TO: &str = "A node by hand";
/// A request of this test may wait for a node that stands still, on a machine that is busy with other tests.
const PATIENT: &str = "60s";

/// What people do who wait ...
const WAIT: &str = "sleep 6 ";
/// ... and what does for a machine that is busy with other tests.
const WAIT_FOR_IT: &str = "until cube -e NODES | grep -q DOWN; do sleep 0.2; done ";

/// What stands between the fences of a language, in order.
fn blocks(text: &str) -> Vec<&str> {
    text.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

/// A folder with a `cube` that talks to the first node.
fn folder_with_cube(nodes: &RealNodes) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let address = nodes.address(1, 7400);
    let (host, port) = address.split_once(':').unwrap();
    let program = env!("CARGO_BIN_EXE_cube");
    let script = format!("#!/bin/sh\nexec {program} --host {host} --port {port} --timeout {PATIENT} \"$@\"\n");
    let path = dir.path().join("cube");
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

fn run(block: &str, nodes: &RealNodes, tools: &Path) -> String {
    let addressed =
        block.replace("localhost:8080", &nodes.address(1, 8080)).replace("localhost:8090", &nodes.address(2, 8080));
    assert_eq!(block.contains("STOP"), block.contains(WAIT), "{block}");
    let addressed = addressed.replace(WAIT, WAIT_FOR_IT);
    let path = format!("{}:{}", tools.display(), std::env::var("PATH").unwrap());
    let third = nodes.processes[2].as_ref().unwrap().id().to_string();
    let output = Command::new("sh")
        .args(["-e", "-c", &addressed])
        .env("PATH", path)
        .env("NODE_3", third)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let told = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success(), "{}: {addressed}\n{told}", output.status);
    told
}

fn assert_tells(told: &str, wanted: &[&str]) {
    for words in wanted {
        assert!(told.contains(words), "{words:?} in: {told}");
    }
}

#[test]
fn the_tour_of_the_readme_works_as_it_is_printed() {
    let tour = README.split_once(FROM).unwrap().1.split_once(TO).unwrap().0;
    let blocks = blocks(tour);
    let [over_http, in_the_shell, over_a_death] = blocks[..] else { panic!("{} blocks", blocks.len()) };
    let nodes = RealNodes::start(3);
    let tools = folder_with_cube(&nodes);

    let told = run(over_http, &nodes, tools.path());
    assert_tells(&told, &["\"success\":true", "\"value\":\"Alice Johnson\"", "\"node-3\"", "\"placements\""]);
    assert!(!told.contains("\"error\""), "{told}");
    let told = run(in_the_shell, &nodes, tools.path());
    assert_tells(
        &told,
        &["OK, written at QUORUM", "\"Alice Johnson\"", "3 of 3 alive", "QUORUM works", "Pending Hints: 0"],
    );
    let told = run(over_a_death, &nodes, tools.path());
    assert_tells(&told, &["OK, written at QUORUM", "of 3 alive", "Pending Hints: ", "comparisons differ"]);
}

//! The README's tour, through a real terminal and against real nodes: what is printed there is what comes out.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

include!("../../client/tests/nodes/real_nodes.rs");

const README: &str = include_str!("../../README.md");
/// Where the tour begins, and where it goes on to nodes that are started by hand.
const FROM: &str = "## A tour";
const TO: &str = "A node by hand";
/// The pid of node-3, as it is printed.
const PID: &str = "19941";
/// A request of this test may wait for a node that stands still, on a machine that is busy with other tests.
const PATIENT: &str = "60s";
/// What does for a machine that is busy with other tests where people sleep: until all see that node-3 is dead ...
const UNTIL_IT_IS_DEAD: &str = "for node in localhost:8080 localhost:8090; do \
    until curl -s $node/api/v1/cluster/nodes | grep -q DOWN; do sleep 0.2; done; done";
/// ... and until it has what it missed, and is compared with again.
const UNTIL_IT_IS_HEALED: &str = "while cube -e 'NODES; STATS; STATUS' | \
    grep -q -e DOWN -e 'Hints for' -e 'Not counted' -e 'cannot be'; do sleep 0.2; done";
/// The nodes of a cluster that has just begun vote and hold everything a moment later.
const UNTIL_IT_IS_SETTLED: &str = "until cube --json -e HEALTH | grep -q HEALTHY && \
    cube -e STATUS | grep -q 'is on all'; do sleep 0.2; done";
/// People do not type faster than nodes hear of a table.
const UNTIL_ALL_HAVE_HEARD: &str = "for node in localhost:8080 localhost:8090 localhost:8100; do \
    until curl -sf $node/api/v1/keyspaces/fleet/tables/sandboxes; do sleep 0.2; done; done";

/// A command, and what it prints.
struct Step<'a> {
    command: &'a str,
    printed: Vec<&'a str>,
}

fn steps(tour: &str) -> Vec<Step<'_>> {
    let mut steps: Vec<Step<'_>> = Vec::new();
    for block in tour.split("```console\n").skip(1) {
        for line in block.split("```").next().unwrap().lines() {
            match line.strip_prefix("$ ") {
                Some(command) => steps.push(Step { command, printed: Vec::new() }),
                None => steps.last_mut().unwrap().printed.push(line),
            }
        }
    }
    steps
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

/// Runs a line in a terminal of eighty columns; what appears there.
fn run(line: &str, nodes: &RealNodes, tools: &Path) -> String {
    let third = nodes.processes[2].as_ref().unwrap().id().to_string();
    let mut addressed = line.replace(PID, &third);
    for (number, port) in [(1, "8080"), (2, "8090"), (3, "8100")] {
        addressed = addressed.replace(&format!("localhost:{port}"), &nodes.address(number, 8080));
    }
    let in_terminal = format!("stty cols 80 rows 50; {addressed}");
    let output = Command::new("script")
        .args(["-qec", &in_terminal, "/dev/null"])
        .env("PATH", format!("{}:{}", tools.display(), std::env::var("PATH").unwrap()))
        .env("SHELL", "/bin/sh")
        .env("TERM", "xterm")
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .output()
        .expect("script of util-linux");
    let told = String::from_utf8(output.stdout).unwrap().replace('\r', "");
    assert!(output.status.success(), "{}: {addressed}\n{told}", output.status);
    told
}

/// A line without what is different each time: moments, ages, and who of several was the first.
fn still(line: &str) -> String {
    if let Ok(mut document) = serde_json::from_str::<serde_json::Value>(line) {
        if let Some(fields) = document.as_object_mut() {
            fields.remove("version");
            let holders = fields.get_mut("acknowledgedBy").and_then(|holders| holders.as_array_mut());
            holders.into_iter().for_each(|holders| holders.sort_by_key(ToString::to_string));
        }
        return document.to_string();
    }
    // Two of three hold a row of the keyspace with two replicas.
    if let Some((told, names)) = line.split_once("held durably by ") {
        return format!("{told}held durably by {} nodes", names.split(", ").count());
    }
    let moves = ["Requests in Flight", "version", " ago", "20"].iter().any(|word| line.contains(word));
    let line = line.replace('─', " ").split_whitespace().collect::<Vec<_>>().join(" ");
    if !moves {
        return line;
    }
    let digits = line.split(|letter: char| letter.is_ascii_digit()).filter(|part| !part.is_empty());
    digits.collect::<Vec<_>>().join("0")
}

#[test]
fn what_the_tour_of_the_readme_prints_is_what_comes_out() {
    let tour = README.split_once(FROM).unwrap().1.split_once(TO).unwrap().0;
    let steps = steps(tour);
    assert!(steps.len() >= 12, "{} commands", steps.len());
    let nodes = RealNodes::start(3);
    let tools = folder_with_cube(&nodes);
    run(UNTIL_IT_IS_SETTLED, &nodes, tools.path());
    let mut sleeps = [UNTIL_IT_IS_DEAD, UNTIL_IT_IS_HEALED].into_iter();
    for Step { command, printed } in steps {
        if command.starts_with("sleep ") {
            run(sleeps.next().expect("two sleeps"), &nodes, tools.path());
            continue;
        }
        let told = run(command, &nodes, tools.path());
        // Reads are told of by who coordinated them, which may be the node that stands still.
        let lines = |lines: &mut dyn Iterator<Item = &str>| {
            lines.filter(|line| !line.starts_with("Reads of ")).map(still).collect::<Vec<_>>()
        };
        assert_eq!(lines(&mut told.lines()), lines(&mut printed.into_iter()), "{command}\n{told}");
        if command.contains("tables/sandboxes") {
            run(UNTIL_ALL_HAVE_HEARD, &nodes, tools.path());
        }
    }
    assert_eq!(sleeps.next(), None, "two sleeps");
}

//! The command line of `cubed`: what is refused, how it is told, and with which exit code.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::path::Path;
use std::process::{Command, Output};

use cube_server::identity::DataDir;

fn cubed(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cubed"));
    command.args(arguments);
    command
}

fn told(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn a_wrong_configuration_ends_the_start_with_exit_code_2_and_every_reason() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cubed.toml");
    std::fs::write(&file, "[hints]\nwindw = \"1h\"\n").unwrap();
    let output = cubed(&["start", "--name", "node-1", "--http", "8080", "--set", "weight=heavy", "--config"])
        .arg(&file)
        .env("CUBE_DCC", "x")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let told = told(&output);
    for expected in [
        &format!("hints.windw ({}:2): there is no such setting; did you mean hints.window?", file.display()),
        "CUBE_DCC (CUBE_DCC): there is no such setting; did you mean CUBE_DC?",
        "weight (--set): expects a whole number",
        "listen.http (--http): expects an IP address and a port",
    ] {
        assert!(told.contains(expected), "{expected}\n{told}");
    }
}

#[test]
fn a_start_without_a_name_says_what_is_missing() {
    let output = cubed(&["start"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let told = told(&output);
    assert!(told.contains("--name node-1") && told.contains("--data-dir"), "{told}");
}

#[test]
fn a_data_directory_of_another_node_or_in_use_ends_the_start_with_exit_code_2() {
    let dir = tempfile::tempdir().unwrap();
    let start = || {
        let addresses = ["--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--peer", "127.0.0.1:0"];
        let mut command = cubed(&["start", "--name", "node-1", "--gossip", "127.0.0.1:0"]);
        command.args(addresses).arg("--data-dir").arg(dir.path()).output().unwrap()
    };
    let held = DataDir::open(dir.path(), "node-2").unwrap();
    let output = start();
    assert_eq!(output.status.code(), Some(2), "{}", told(&output));
    assert!(told(&output).contains(&format!("is in use by process {}", std::process::id())), "{}", told(&output));
    drop(held);
    let output = start();
    assert_eq!(output.status.code(), Some(2), "{}", told(&output));
    assert!(told(&output).contains("belongs to node-2: start it as node-2"), "{}", told(&output));
}

#[test]
fn config_check_prints_what_is_in_effect_and_where_it_came_from() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cubed.toml");
    let output = cubed(&["config", "check", "--name", "node-7", "--set", "hints.window=2h", "--config"])
        .arg(&file)
        .env("CUBE_WEIGHT", "50")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let line = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap().replace("  ", "");
    assert_eq!(line("name"), "name = \"node-7\"# --name");
    assert_eq!(line("window"), "window = \"2h\"# --set");
    assert_eq!(line("weight"), "weight = 50# CUBE_WEIGHT");
    assert!(line("max_per_node").contains("docs/cubed.toml:"), "{text}");
    assert!(told(&output).contains("needed for cubed start: data_dir"), "{}", told(&output));
}

#[test]
fn dev_refuses_settings_that_no_node_could_use_before_it_starts_any() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("cluster");
    let output = cubed(&["dev", "--set", "hints.windw=1h", "--dir"]).arg(&target).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(told(&output).contains("did you mean hints.window?"), "{}", told(&output));
    assert!(!target.exists());
}

#[test]
fn a_node_whose_supervisor_has_ended_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    // Process 1 is not the parent of this one's children.
    let mut command = cubed(&["start", "--supervised-by", "1", "--name", "node-1", "--data-dir"]);
    let output = command.arg(dir.path().join("data")).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(told(&output).contains("process 1, which was to supervise this, has ended"), "{}", told(&output));
}

#[test]
fn log_lines_name_the_node_as_text_and_as_json() {
    let dir = tempfile::tempdir().unwrap();
    drop(DataDir::open(dir.path(), "node-2").unwrap());
    let refused = |format: &str| {
        let set = format!("log.format={format}");
        let mut command = cubed(&["start", "--name", "node-1", "--set", &set, "--data-dir"]);
        told(&command.arg(dir.path()).output().unwrap())
    };
    let text = refused("text");
    assert!(text.lines().count() > 0 && text.lines().all(|line| line.starts_with("node-1 ")), "{text}");
    for line in refused("json").lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["node"], "node-1");
        assert!(line["timestamp"].is_string() && line["level"].is_string() && line["message"].is_string(), "{line}");
    }
}

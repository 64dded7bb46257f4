//! `cubed dev`: a cluster of real nodes under one supervisor.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use rustix::process::Signal;

use crate::harness::Api;
use crate::harness::process::{Process, kill_other, naming};
use crate::harness::slots::Slots;
use crate::harness::time::{PATIENCE, eventually};

/// A supervisor and its nodes.
struct Dev {
    dir: tempfile::TempDir,
    process: Option<Process>,
    _room: Slots,
}

impl Dev {
    fn start() -> Self {
        let room = Slots::take(3);
        let dir = tempfile::Builder::new().prefix("cube-dev").tempdir().unwrap();
        let nodes = dir.path().join("nodes");
        let options = ["dev", "--nodes", "3", "--base-port", "0", "--dir", nodes.to_str().unwrap()];
        let mut words = vec![env!("CARGO_BIN_EXE_cubed").to_owned()];
        words.extend(options.map(str::to_owned));
        for small in ["storage.disk_reserve=64MiB", "storage.upkeep_reserve=32MiB"] {
            words.extend(["--set".to_owned(), small.to_owned()]);
        }
        let process = Process::start(&words, &[], &dir.path().join("printed"));
        Self { dir, process: Some(process), _room: room }
    }

    fn nodes(&self) -> PathBuf {
        self.dir.path().join("nodes")
    }

    fn printed(&self) -> String {
        fs::read_to_string(self.dir.path().join("printed")).unwrap_or_default()
    }

    /// The REST addresses and the processes in the table that is printed when all nodes serve.
    fn table(&self) -> Vec<(SocketAddr, u32)> {
        eventually("the table of the nodes", PATIENCE, || {
            let printed = self.printed();
            let line = |line: &str| {
                let cells: Vec<&str> = line.split_whitespace().collect();
                let is_node = cells.first().is_some_and(|name| name.starts_with("node-")) && cells.len() == 7;
                is_node.then(|| Some((cells[1].parse().ok()?, cells[5].parse().ok()?))).flatten()
            };
            let table: Vec<(SocketAddr, u32)> = printed.lines().filter_map(line).collect();
            if table.len() == 3 { Ok(table) } else { Err(printed) }
        })
    }

    fn wait_serving(&self, address: SocketAddr) {
        let mut api = Api::new(address);
        eventually(&format!("the node at {address}"), PATIENCE, || match api.health() {
            Ok(answer) if answer.is_success() => Ok(()),
            Ok(answer) => Err(format!("{answer}\n{}", self.printed())),
            Err(failure) => Err(format!("{failure}\n{}", self.printed())),
        });
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        self.process = None;
        naming(&self.nodes()).into_iter().for_each(kill_other);
        if std::thread::panicking() {
            println!("--- what cubed dev printed ---\n{}", self.printed());
        }
    }
}

fn wait_for_no_process(dir: &Path) {
    eventually("no process is left behind", PATIENCE, || match naming(dir) {
        left if left.is_empty() => Ok(()),
        left => Err(format!("{left:?}")),
    });
}

#[test]
fn a_dev_cluster_serves_restarts_what_dies_and_leaves_nothing_behind_when_told_to_stop() {
    let mut dev = Dev::start();
    let table = dev.table();
    for (address, _) in &table {
        dev.wait_serving(*address);
    }
    let [first, .., last] = table[..] else { panic!("{table:?}") };
    let put = Api::new(first.0).put("dev", "works", "ALL").unwrap();
    assert!(put.is_success(), "{put}");
    kill_other(last.1);
    eventually("the node that died runs again", PATIENCE, || {
        let started = dev.printed().contains("started again");
        let others = naming(&dev.nodes().join("node-3")).into_iter().any(|pid| pid != last.1);
        if started && others { Ok(()) } else { Err(dev.printed()) }
    });
    dev.wait_serving(last.0);
    let got = Api::new(last.0).get("dev", "QUORUM").unwrap();
    assert_eq!(got.json()["value"], "works", "{got}");

    let mut process = dev.process.take().unwrap();
    process.signal(Signal::TERM);
    let status = process.wait(PATIENCE);
    assert_eq!(status.code(), Some(0), "{status}\n{}", dev.printed());
    wait_for_no_process(&dev.nodes());
}

#[test]
fn the_nodes_of_a_dev_cluster_end_with_a_supervisor_that_is_killed() {
    let mut dev = Dev::start();
    let table = dev.table();
    assert!(naming(&dev.nodes()).len() > table.len(), "three nodes and their supervisor");
    dev.process.take().unwrap().kill();
    wait_for_no_process(&dev.nodes());
}

//! A cluster of real nodes, in a folder of its own, gone when dropped.
//!
//! Nodes are numbered from 1 and named node-1, node-2 and so on. All name the same seeds, so that they may start in any
//! order. A test that fails shows the ends of the nodes' logs.

use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use rustix::process::Signal;
use tempfile::TempDir;

use super::address::Block;
use super::api::Api;
use super::network::Network;
use super::node::{Node, Settings};
use super::power::Power;
use super::slots::Slots;
use super::time::{PATIENCE, eventually};

/// How many of the first nodes are everybody's seeds.
const SEEDS: u8 = 3;
/// So many rows have all nodes of the largest cluster here among their replicas.
const PROBES: u8 = 8;
/// What nodes that share a test machine with others and live for a minute need.
const SMALL: [(&str, &str); 4] = [
    ("storage.disk_reserve", "64MiB"),
    ("storage.upkeep_reserve", "32MiB"),
    ("storage.block_cache", "16MiB"),
    ("storage.write_buffer", "8MiB"),
];

/// The nodes, and all that belongs to them.
pub(crate) struct Cluster {
    // Dropped in this order: the processes first, what they stand on after them.
    nodes: Vec<Node>,
    power: Option<Power>,
    network: Option<Network>,
    dir: TempDir,
    block: Block,
    _room: Slots,
    set: Vec<(String, String)>,
}

impl Cluster {
    /// A cluster of so many nodes, none of which runs yet.
    pub(crate) fn of(nodes: u8) -> Self {
        Self::growing_to(nodes, nodes)
    }

    /// The same, and more of them are added later: as many as this.
    pub(crate) fn growing_to(most: u8, nodes: u8) -> Self {
        Self::with(nodes, Slots::take(most.into()), None)
    }

    /// The same in a network whose links can be cut.
    pub(crate) fn in_network(nodes: u8, network: Network) -> Self {
        // The room was taken by the process outside.
        Self::with(nodes, Slots::take(0), Some(network))
    }

    fn with(nodes: u8, room: Slots, network: Option<Network>) -> Self {
        let dir = tempfile::Builder::new().prefix("cube-cluster").tempdir().unwrap();
        let block = Block::claim();
        let set = SMALL.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let mut cluster = Self { nodes: Vec::new(), power: None, network, dir, block, _room: room, set };
        for _ in 0..nodes {
            cluster.add();
        }
        cluster
    }

    /// A setting of all nodes, also of those that are added later.
    pub(crate) fn set(mut self, name: &str, value: &str) -> Self {
        let setting = (name.to_owned(), value.to_owned());
        self.nodes.iter_mut().for_each(|node| node.settings.set.push(setting.clone()));
        self.set.push(setting);
        self
    }

    /// Deadlines that a busy machine meets, for tests in which no request may fail.
    pub(crate) fn with_long_deadlines(self) -> Self {
        // What is under way for so long is left out of comparisons.
        self.set("timeouts.write", "20s").set("timeouts.read", "20s").set("anti_entropy.horizon", "60s")
    }

    /// Makes losses of power possible.
    pub(crate) fn recording_fsyncs(mut self) -> Self {
        let power = Power::prepare(self.dir.path());
        for node in &mut self.nodes {
            let record = fsync_record(node.data());
            node.settings.variables.extend(power.variables(&record));
        }
        self.power = Some(power);
        self
    }

    /// Adds a node that does not run yet, and gives its number.
    pub(crate) fn add(&mut self) -> u8 {
        let number = self.next();
        let settings = self.spare_settings();
        let log = settings.data.with_file_name("log");
        std::fs::create_dir_all(&settings.data).unwrap();
        let seeds = settings.seeds.clone();
        self.nodes.push(Node::new(settings, log));
        self.nodes.iter_mut().for_each(|node| node.settings.seeds.clone_from(&seeds));
        number
    }

    fn next(&self) -> u8 {
        u8::try_from(self.nodes.len() + 1).unwrap()
    }

    /// What the next node would be started with.
    pub(crate) fn spare_settings(&self) -> Settings {
        let number = self.next();
        let addresses = match &self.network {
            Some(network) => network.add(number),
            None => self.block.node(number),
        };
        let mut seeds: Vec<String> = self.nodes.iter().map(|node| node.settings.addresses.peer.to_string()).collect();
        seeds.push(addresses.peer.to_string());
        seeds.truncate(SEEDS.into());
        let name = format!("node-{number}");
        Settings {
            data: self.dir.path().join(&name).join("data"),
            addresses,
            seeds,
            dc: None,
            set: self.set.clone(),
            variables: Vec::new(),
            way_in: self.network.as_ref().map(|_| Network::way_in(number)).unwrap_or_default(),
            name,
        }
    }

    /// Starts all nodes at once, and waits until they are one cluster.
    pub(crate) fn start(mut self) -> Self {
        let all = self.all();
        all.iter().for_each(|node| self.node(*node).start());
        self.wait_formed(&all);
        self
    }

    pub(crate) fn all(&self) -> Vec<u8> {
        (1..=u8::try_from(self.nodes.len()).unwrap()).collect()
    }

    pub(crate) fn node(&mut self, number: u8) -> &mut Node {
        &mut self.nodes[usize::from(number) - 1]
    }

    pub(crate) fn api(&self, number: u8) -> Api {
        self.nodes[usize::from(number) - 1].api()
    }

    /// Where clients of these nodes go.
    pub(crate) fn clients_of(&self, numbers: &[u8]) -> Vec<(u8, SocketAddr)> {
        let address = |number: u8| self.nodes[usize::from(number) - 1].settings.addresses.http;
        numbers.iter().map(|number| (*number, address(*number))).collect()
    }

    pub(crate) fn network(&self) -> &Network {
        self.network.as_ref().expect("a cluster in a network of its own")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// kill -9 to all of them before any is waited for.
    pub(crate) fn kill(&mut self, numbers: &[u8]) {
        for number in numbers {
            self.node(*number).signal(Signal::KILL);
        }
        for number in numbers {
            let status = self.node(*number).wait_for_end(PATIENCE);
            assert_eq!(status.signal(), Some(Signal::KILL.as_raw()), "node-{number} ended by itself: {status}");
        }
    }

    /// The files of killed nodes are cut back to what was fsynced; tells how many bytes were lost.
    pub(crate) fn lose_power(&mut self, numbers: &[u8], seed: u64) -> u64 {
        let power = self.power.as_ref().expect("a cluster that records fsyncs");
        let lose = |number: &u8| {
            let node = &self.nodes[usize::from(*number) - 1];
            assert!(!node.is_started());
            power.lose(node.data(), &fsync_record(node.data()), seed + u64::from(*number)).bytes
        };
        numbers.iter().map(lose).sum()
    }

    /// From now on these nodes' disks stand still: no fsync begins.
    pub(crate) fn hold_fsyncs(&self, numbers: &[u8]) {
        self.each_record(numbers, Power::hold);
    }

    pub(crate) fn release_fsyncs(&self, numbers: &[u8]) {
        self.each_record(numbers, Power::release);
    }

    /// How many of these nodes wait for an fsync that has something to make durable.
    pub(crate) fn holding(&self, numbers: &[u8]) -> usize {
        let mut holding = 0;
        self.each_record(numbers, |power, record| holding += usize::from(power.holds_what_is_not_synced(record)));
        holding
    }

    fn each_record(&self, numbers: &[u8], mut with: impl FnMut(&Power, &Path)) {
        let power = self.power.as_ref().expect("a cluster that records fsyncs");
        for number in numbers {
            with(power, &fsync_record(self.nodes[usize::from(*number) - 1].data()));
        }
    }

    /// SIGSTOP or SIGCONT, for one.
    pub(crate) fn signal(&mut self, number: u8, signal: Signal) {
        self.node(number).signal(signal);
    }

    /// SIGTERM, and how it ended.
    pub(crate) fn terminate(&mut self, number: u8) -> ExitStatus {
        self.node(number).signal(Signal::TERM);
        self.node(number).wait_for_end(PATIENCE)
    }

    /// Starts nodes, and waits until they serve.
    pub(crate) fn restart(&mut self, numbers: &[u8]) {
        numbers.iter().for_each(|number| self.node(*number).start());
        numbers.iter().for_each(|number| self.node(*number).wait_ready());
    }

    /// Waits until each of these serves, sees exactly these, alive and ready, and reaches them.
    pub(crate) fn wait_formed(&mut self, numbers: &[u8]) {
        numbers.iter().for_each(|number| self.node(*number).wait_ready());
        numbers.iter().for_each(|by| self.wait_seen(*by, numbers, "ALIVE"));
        numbers.iter().for_each(|by| self.wait_reaching(*by));
    }

    /// Waits until writes to all replicas succeed through a node: its connections to the others are there.
    fn wait_reaching(&self, by: u8) {
        let mut api = self.api(by);
        for probe in 0..PROBES {
            let key = format!("probe-{by}-{probe}");
            eventually(&format!("node-{by} reaches all replicas of {key}"), PATIENCE, || {
                let answer = api.put(&key, "probe", "ALL").map_err(|failure| failure.to_string())?;
                if answer.is_success() { Ok(()) } else { Err(answer.to_string()) }
            });
        }
    }

    /// Waits until `by` sees each of these with a status, and no node that is not of the cluster.
    pub(crate) fn wait_seen(&self, by: u8, numbers: &[u8], status: &str) {
        let mut api = self.api(by);
        let what = format!("node-{by} sees {numbers:?} as {status}");
        eventually(&what, PATIENCE, || {
            let nodes = api.nodes()?;
            let is_so = |number: &u8| {
                nodes.get(&format!("node-{number}")).is_some_and(|(seen, state)| seen == status && state == "READY")
            };
            let wanted = numbers.iter().all(is_so) && nodes.len() <= self.nodes.len();
            if wanted { Ok(()) } else { Err(format!("{nodes:?}")) }
        });
    }

    /// Waits until each of these knows that no partition's replicas are changing, and that each has so many.
    pub(crate) fn wait_settled(&self, numbers: &[u8], replicas: usize) {
        for number in numbers {
            let mut api = self.api(*number);
            eventually(&format!("{replicas} settled replicas, seen by node-{number}"), PATIENCE, || {
                let unsettled = api.unsettled(replicas)?;
                if unsettled == 0 { Ok(()) } else { Err(format!("{unsettled} partitions are not settled")) }
            });
        }
    }

    /// The ends of all logs.
    fn logs(&self) -> String {
        self.nodes.iter().map(Node::log_end).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", self.logs());
        }
    }
}

fn fsync_record(data: &Path) -> PathBuf {
    data.with_file_name("fsyncs")
}

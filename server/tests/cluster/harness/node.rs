//! One node: its folder, its addresses, its settings, and its process while it runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::Signal;

use super::address::Addresses;
use super::api::Api;
use super::process::Process;
use super::time::{PATIENCE, eventually};

/// How much of a node's log a failed test shows.
const LOG_LINES_SHOWN: usize = 60;

/// What a node is started with.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) name: String,
    pub(crate) data: PathBuf,
    pub(crate) addresses: Addresses,
    pub(crate) seeds: Vec<String>,
    pub(crate) dc: Option<String>,
    /// `--set` of these.
    pub(crate) set: Vec<(String, String)>,
    pub(crate) variables: Vec<(String, String)>,
    /// What it is started through.
    pub(crate) way_in: Vec<String>,
}

impl Settings {
    /// The command line of this node.
    pub(crate) fn command(&self) -> Vec<String> {
        let mut words = self.way_in.clone();
        let mut say = |some: &[&str]| words.extend(some.iter().map(|word| (*word).to_owned()));
        say(&[env!("CARGO_BIN_EXE_cubed"), "start", "--name", &self.name]);
        say(&["--data-dir", self.data.to_str().unwrap()]);
        let Addresses { http, grpc, peer, gossip } = self.addresses;
        for (option, address) in [("--http", http), ("--grpc", grpc), ("--peer", peer), ("--gossip", gossip)] {
            say(&[option, &address.to_string()]);
        }
        self.seeds.iter().for_each(|seed| say(&["--seed", seed]));
        self.dc.iter().for_each(|dc| say(&["--dc", dc]));
        self.set.iter().for_each(|(name, value)| say(&["--set", &format!("{name}={value}")]));
        words
    }
}

/// A node that runs or can be started again.
pub(crate) struct Node {
    pub(crate) settings: Settings,
    log: PathBuf,
    process: Option<Process>,
}

impl Node {
    pub(crate) fn new(settings: Settings, log: PathBuf) -> Self {
        Self { settings, log, process: None }
    }

    pub(crate) fn start(&mut self) {
        assert!(self.process.is_none(), "{} runs", self.settings.name);
        self.process = Some(Process::start(&self.settings.command(), &self.settings.variables, &self.log));
    }

    /// Memory that the process has in use.
    pub(crate) fn resident_bytes(&mut self) -> u64 {
        self.status_bytes("VmRSS:")
    }

    fn status_bytes(&mut self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process().id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap() << 10
    }

    /// The most memory that it held since [`Node::forget_peak`].
    pub(crate) fn peak_bytes(&mut self) -> u64 {
        self.status_bytes("VmHWM:")
    }

    /// From now on the peak is counted anew.
    pub(crate) fn forget_peak(&mut self) {
        fs::write(format!("/proc/{}/clear_refs", self.process().id()), "5").unwrap();
    }

    pub(crate) fn is_started(&self) -> bool {
        self.process.is_some()
    }

    fn process(&mut self) -> &mut Process {
        let name = &self.settings.name;
        self.process.as_mut().unwrap_or_else(|| panic!("{name} does not run"))
    }

    pub(crate) fn signal(&mut self, signal: Signal) {
        self.process().signal(signal);
    }

    /// Waits until the process has ended.
    pub(crate) fn wait_for_end(&mut self, within: Duration) -> ExitStatus {
        let status = self.process().wait(within);
        self.process = None;
        status
    }

    pub(crate) fn api(&self) -> Api {
        Api::new(self.settings.addresses.http)
    }

    /// Waits until the node says that it serves.
    pub(crate) fn wait_ready(&mut self) {
        let what = format!("{} serves", self.settings.name);
        let mut api = self.api();
        eventually(&what, PATIENCE, || {
            if let Some(status) = self.process().ended() {
                panic!("{} ended: {status}\n{}", self.settings.name, self.log_end());
            }
            match api.health() {
                Ok(answer) if answer.is_success() => Ok(()),
                Ok(answer) => Err(answer.to_string()),
                Err(failure) => Err(failure.to_string()),
            }
        });
    }

    /// All that the node has printed so far.
    pub(crate) fn printed(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The last lines of that.
    pub(crate) fn log_end(&self) -> String {
        let printed = self.printed();
        let lines: Vec<&str> = printed.lines().collect();
        let shown = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
        format!("--- the end of the log of {} ---\n{}\n", self.settings.name, shown.join("\n"))
    }

    pub(crate) fn data(&self) -> &Path {
        &self.settings.data
    }
}

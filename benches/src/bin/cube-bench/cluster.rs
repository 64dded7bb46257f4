//! Three nodes for a measurement, on addresses of their own, in a folder that is gone afterwards.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cube_benches::Result;
use cube_client::{Client, Level, Options};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::options::Nodes;
use super::process::Process;

const NODES: u8 = 3;
/// How long a cluster may take until all its nodes take writes.
const START_MAX: Duration = Duration::from_secs(60);
/// Below the range that the kernel takes ports from by itself.
const CLAIM_PORT: u16 = 17_398;
/// How many blocks of addresses are tried.
const BLOCKS_TRIED_MAX: u32 = 1_000;

/// Loopback addresses that no other measurement uses: 127.A.B.1 and on, held by a socket at 127.A.B.254.
pub(crate) struct Block {
    first: [u8; 3],
    _claim: TcpListener,
}

impl Block {
    pub(crate) fn claim() -> Result<Self> {
        let start = std::process::id().wrapping_mul(61);
        for tried in 0..BLOCKS_TRIED_MAX {
            let block = start.wrapping_add(tried);
            let first = [127, 221 + u8::try_from(block / 250 % 20)?, u8::try_from(block % 250)?];
            let [a, b, c] = first;
            if let Ok(claim) = TcpListener::bind((Ipv4Addr::new(a, b, c, 254), CLAIM_PORT)) {
                return Ok(Self { first, _claim: claim });
            }
        }
        Err("no free loopback addresses".into())
    }

    pub(crate) fn node(&self, number: u8) -> Ipv4Addr {
        let [a, b, c] = self.first;
        Ipv4Addr::new(a, b, c, number)
    }
}

/// A cluster that is measured: one that was given, or one of its own.
pub(crate) struct Cluster {
    pub(crate) client: Client,
    /// What is told of each process: its name and number.
    pub(crate) pids: Vec<(String, u32)>,
    // Dropped in this order: the processes before what they stand on.
    _own: Option<(Vec<Process>, TempDir, Block)>,
}

impl Cluster {
    pub(crate) async fn of(nodes: &Nodes) -> Result<Self> {
        if nodes.addresses.is_empty() {
            return Self::start(nodes).await;
        }
        let client = Client::connect(&nodes.addresses).await?;
        let pids = nodes.pids.iter().enumerate().map(|(index, pid)| (format!("node {}", index + 1), *pid)).collect();
        Ok(Self { client, pids, _own: None })
    }

    async fn start(nodes: &Nodes) -> Result<Self> {
        let (block, dir) = (Block::claim()?, folder(nodes.dir.as_deref())?);
        let program = match &nodes.cubed {
            Some(program) => program.clone(),
            None => beside("cubed")?,
        };
        let seeds: Vec<String> = (1..=NODES).map(|number| format!("{}:7401", block.node(number))).collect();
        let mut processes = Vec::new();
        for number in 1..=NODES {
            let (name, ip) = (format!("node-{number}"), block.node(number));
            let mut words = vec!["start".to_owned(), "--name".to_owned(), name.clone()];
            let mut say = |name: &str, value: String| words.extend([name.to_owned(), value]);
            say("--data-dir", dir.path().join(&name).display().to_string());
            for (option, port) in [("--http", 8080), ("--grpc", 7400), ("--peer", 7401), ("--gossip", 7402)] {
                say(option, format!("{ip}:{port}"));
            }
            seeds.iter().for_each(|seed| say("--seed", seed.clone()));
            nodes.settings.iter().for_each(|setting| say("--set", setting.clone()));
            let log = dir.path().join(format!("{name}.log"));
            processes.push((Process::start(&program, &words, &log)?, name, log));
        }
        let addresses = (1..=NODES).map(|number| format!("{}:7400", block.node(number)));
        let client = ready(&addresses.collect::<Vec<_>>(), &mut processes).await?;
        let pids = processes.iter().map(|(process, name, _)| (name.clone(), process.pid())).collect();
        let processes = processes.into_iter().map(|(process, _, _)| process).collect();
        Ok(Self { client, pids, _own: Some((processes, dir, block)) })
    }
}

/// A client of the cluster once every node takes writes to all replicas.
async fn ready(addresses: &[String], processes: &mut [(Process, String, PathBuf)]) -> Result<Client> {
    let deadline = Instant::now() + START_MAX;
    loop {
        for (process, name, log) in &mut *processes {
            process.check(name, log)?;
        }
        let mut problems = String::new();
        for address in addresses {
            if let Err(error) = takes_writes(address).await {
                write!(problems, "\n{address}: {error}")?;
            }
        }
        if problems.is_empty() {
            return Ok(Client::connect(addresses).await?);
        }
        if Instant::now() > deadline {
            return Err(format!("the cluster does not start:{problems}").into());
        }
        sleep(Duration::from_millis(200)).await;
    }
}

async fn takes_writes(address: &str) -> Result<()> {
    let options = Options { timeout: Duration::from_secs(2), attempts_max: 1, ..Options::default() };
    let client = Client::connect_with([address], options).await?;
    let table = client.default_table();
    for probe in 0..8 {
        let written = table.put(format!("probe-{probe}"), "probe").level(Level::All).send().await?;
        if written.acknowledged_by.len() < usize::from(NODES) {
            return Err(format!("only {:?} hold a probe", written.acknowledged_by).into());
        }
    }
    Ok(())
}

/// A folder for the run. Beside this program if none is named: temporary folders are often memory, which has no fsync.
pub(crate) fn folder(parent: Option<&Path>) -> Result<TempDir> {
    let parent = match parent {
        Some(parent) => parent.to_owned(),
        None => own_folder()?,
    };
    Ok(tempfile::Builder::new().prefix("cube-bench-").tempdir_in(parent)?)
}

fn own_folder() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    Ok(program.parent().ok_or("this program is in no folder")?.to_owned())
}

fn beside(name: &str) -> Result<PathBuf> {
    let path = own_folder()?.join(name);
    if path.is_file() { Ok(path) } else { Err(format!("there is no {}; name it with --cubed", path.display()).into()) }
}

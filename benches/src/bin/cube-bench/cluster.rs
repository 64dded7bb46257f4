//! Three nodes for a measurement, on addresses of their own, in a folder that is gone afterwards.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cube_benches::Result;
use cube_client::{Client, Level, Options};
use rustix::process::Pid;
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
    /// None where the cluster was given.
    own: Vec<Node>,
    // Dropped after the processes, which stand on it.
    _ground: Option<(TempDir, Block)>,
}

/// A node that was started for the measurement.
struct Node {
    name: String,
    grpc: String,
    words: Vec<String>,
    log: PathBuf,
    program: PathBuf,
    /// None while it is dead.
    process: Option<Process>,
}

impl Node {
    fn start(&mut self) -> Result<()> {
        self.process = Some(Process::start(&self.program, &self.words, &self.log)?);
        Ok(())
    }

    /// Fails if it has ended by itself.
    fn check(&mut self) -> Result<()> {
        self.process.as_mut().map_or(Ok(()), |process| process.check(&self.name, &self.log))
    }
}

impl Cluster {
    pub(crate) async fn of(nodes: &Nodes) -> Result<Self> {
        if nodes.addresses.is_empty() {
            return Self::start(nodes).await;
        }
        let client = Client::connect(&nodes.addresses).await?;
        let pids = nodes.pids.iter().enumerate().map(|(index, pid)| (format!("node {}", index + 1), *pid)).collect();
        Ok(Self { client, pids, own: Vec::new(), _ground: None })
    }

    async fn start(nodes: &Nodes) -> Result<Self> {
        let (block, dir) = (Block::claim()?, folder(nodes.dir.as_deref())?);
        let program = match &nodes.cubed {
            Some(program) => program.clone(),
            None => beside("cubed")?,
        };
        let seeds: Vec<String> = (1..=NODES).map(|number| format!("{}:7401", block.node(number))).collect();
        let mut own = Vec::new();
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
            let (log, grpc) = (dir.path().join(format!("{name}.log")), format!("{ip}:7400"));
            let mut node = Node { name, grpc, words, log, program: program.clone(), process: None };
            node.start()?;
            own.push(node);
        }
        let client = ready(&mut own).await?;
        let mut cluster = Self { client, pids: Vec::new(), own, _ground: Some((dir, block)) };
        cluster.note_pids();
        Ok(cluster)
    }

    fn note_pids(&mut self) {
        let pid = |node: &Node| Some((node.name.clone(), node.process.as_ref()?.pid()));
        self.pids = self.own.iter().filter_map(pid).collect();
    }

    fn own(&mut self, name: &str) -> Result<&mut Node> {
        let node = self.own.iter_mut().find(|node| node.name == name);
        node.ok_or_else(|| format!("{name} was not started for this measurement").into())
    }

    /// Kills a node as a loss of its machine does: it gets no chance to say goodbye.
    pub(crate) fn kill(&mut self, name: &str) -> Result<()> {
        self.own(name)?.process = None;
        self.note_pids();
        Ok(())
    }

    /// Starts a node again that was killed. It may take a while until it serves.
    pub(crate) fn restart(&mut self, name: &str) -> Result<()> {
        self.own(name)?.start()?;
        self.note_pids();
        Ok(())
    }

    /// Starts all nodes anew, with one setting more.
    pub(crate) async fn restart_with(&mut self, setting: &str) -> Result<()> {
        for node in &mut self.own {
            node.process = None;
            node.words.extend(["--set".to_owned(), setting.to_owned()]);
        }
        self.own.iter_mut().try_for_each(Node::start)?;
        self.note_pids();
        self.wait_ready().await
    }

    /// Waits until every node takes writes to all replicas.
    pub(crate) async fn wait_ready(&mut self) -> Result<()> {
        self.client = ready(&mut self.own).await?;
        Ok(())
    }

    /// The process of the last node: it can be made to stand still, and to go on.
    pub(crate) fn last_process(&self) -> Result<Pid> {
        let (_, pid) = self.pids.last().ok_or("no process is known that could be stopped")?;
        Ok(Pid::from_raw(i32::try_from(*pid)?).ok_or("a process without a number")?)
    }

    /// Where clients reach the nodes that were started for the measurement, by name.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = (&str, &str)> {
        self.own.iter().map(|node| (node.name.as_str(), node.grpc.as_str()))
    }

    /// Fails if a node that should run has ended by itself.
    pub(crate) fn check(&mut self) -> Result<()> {
        self.own.iter_mut().try_for_each(Node::check)
    }
}

/// A client of the cluster once every node takes writes to all replicas.
async fn ready(nodes: &mut [Node]) -> Result<Client> {
    let deadline = Instant::now() + START_MAX;
    loop {
        let mut problems = String::new();
        for node in &mut *nodes {
            node.check()?;
            if let Err(error) = takes_writes(&node.grpc).await {
                write!(problems, "\n{}: {error}", node.grpc)?;
            }
        }
        if problems.is_empty() {
            return Ok(Client::connect(nodes.iter().map(|node| &node.grpc)).await?);
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
    std::fs::create_dir_all(&parent)
        .map_err(|error| format!("the folder {} cannot be made: {error}", parent.display()))?;
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

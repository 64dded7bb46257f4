//! `cubed dev`: a local cluster of real processes, supervised.
//!
//! `ports.rs` chooses the addresses, `launch.rs` starts a node and writes its log, `supervise.rs` keeps one node running,
//! `health.rs` asks whether it serves, `report.rs` prints. This file puts them in order: take the folder, check the
//! ports, start, wait until all serve, print one table, supervise, stop.
//!
//! Invariant: no node outlives its supervisor, whether that is told to stop, fails or is killed (`launch.rs`).

mod health;
mod launch;
mod ports;
mod report;
mod supervise;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

pub use self::launch::Launcher;
pub use self::ports::{Addresses, NODES_MAX, PortError};
use self::report::Report;
use self::supervise::{Event, News, Stop, Supervisor};
use crate::identity::{DirLock, LockError};

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many nodes, from 1 to [`NODES_MAX`].
    pub nodes: u16,
    /// Where data and logs are.
    pub dir: PathBuf,
    /// The HTTP port of the first node; 0 takes free ports.
    pub base_port: u16,
    /// How long a node may take to stop before it is killed.
    pub stop_patience: Duration,
}

/// Why there is no cluster, or none any more.
#[derive(Debug, Error)]
pub enum DevError {
    /// The folder cannot be used.
    #[error("{} cannot be used: {error}", path.display())]
    Io {
        /// The folder, or a file in it.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// Another `cubed dev` runs there.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// There are no ports for the nodes.
    #[error(transparent)]
    Ports(#[from] PortError),
    /// The runtime, a signal handler or the terminal failed.
    #[error("{0}")]
    System(#[from] io::Error),
    /// Every node was given up.
    #[error("no node runs any more: {}", reasons.join("; "))]
    AllGaveUp {
        /// Why, node by node.
        reasons: Vec<String>,
    },
}

impl DevError {
    /// The exit code: 2 for what must be changed before another start, 1 otherwise.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Io { .. } | Self::Lock(_) | Self::Ports(_) => 2,
            Self::System(_) | Self::AllGaveUp { .. } => 1,
        }
    }
}

/// One node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevNode {
    /// Its name, `node-1` and so on.
    pub name: String,
    /// Where it listens.
    pub addresses: Addresses,
    /// The peer addresses of all nodes.
    pub seeds: Vec<std::net::SocketAddr>,
    /// Its data directory.
    pub data_dir: PathBuf,
    /// Its log.
    pub log: PathBuf,
}

/// Events that wait to be printed: a few per node, and whoever sends waits.
const EVENTS_MAX: usize = 64;
/// After so long the table is printed even if a node does not serve yet, with what it says of itself.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a cluster until Ctrl-C or SIGTERM.
pub fn run(options: &Options, launcher: &Launcher, out: &mut impl Write) -> Result<(), DevError> {
    // One thread: the system kills a node when the thread that started it ends, and this one ends with the process.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let told = async move || {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        };
        run_until(options, launcher, out, told).await
    })
}

/// Runs a cluster until `told` returns; what has not stopped when it returns once more is killed.
pub async fn run_until(
    options: &Options,
    launcher: &Launcher,
    out: &mut impl Write,
    mut told: impl AsyncFnMut(),
) -> Result<(), DevError> {
    let dir = &options.dir;
    std::fs::create_dir_all(dir).map_err(|error| DevError::Io { path: dir.clone(), error })?;
    let dir = dir.canonicalize().map_err(|error| DevError::Io { path: dir.clone(), error })?;
    let _lock = DirLock::take(&dir)?;
    let nodes = plan(options, &dir)?;
    let (events, mut news) = mpsc::channel(EVENTS_MAX);
    let (stop, stopped) = watch::channel(Stop::No);
    let mut tasks = JoinSet::new();
    for node in &nodes {
        let supervisor = Supervisor {
            node: node.clone(),
            launcher: launcher.clone(),
            events: events.clone(),
            stop: stopped.clone(),
            stop_patience: options.stop_patience,
        };
        tasks.spawn(supervisor.run());
    }
    drop((events, stopped));
    let mut report = Report::new(&nodes, out);
    report.starting(&dir)?;
    supervise(&mut report, &mut news, &mut told).await?;
    report.stopping()?;
    stop.send_replace(Stop::Gently);
    drain(&mut report, &mut news, &mut told, &stop).await?;
    while tasks.join_next().await.is_some() {}
    report.stopped()?;
    Ok(())
}

/// Reports what happens until `told` returns.
async fn supervise(
    report: &mut Report<'_, impl Write>,
    news: &mut mpsc::Receiver<Event>,
    told: &mut impl AsyncFnMut(),
) -> Result<(), DevError> {
    let mut told = pin!(told());
    let mut patience = pin!(tokio::time::sleep(PATIENCE));
    loop {
        tokio::select! {
            event = news.recv() => match event {
                Some(event) => report.event(event)?,
                // Every supervisor has ended by itself.
                None => return Err(DevError::AllGaveUp { reasons: report.reasons() }),
            },
            () = &mut patience, if !report.is_shown() => report.show()?,
            () = &mut told => return Ok(()),
        }
    }
}

/// Reports until every node has stopped.
async fn drain(
    report: &mut Report<'_, impl Write>,
    news: &mut mpsc::Receiver<Event>,
    told: &mut impl AsyncFnMut(),
    stop: &watch::Sender<Stop>,
) -> Result<(), DevError> {
    let mut told_again = pin!(told());
    let mut is_patient = true;
    loop {
        tokio::select! {
            event = news.recv() => match event {
                Some(event) => report.event(event)?,
                None => return Ok(()),
            },
            () = &mut told_again, if is_patient => {
                is_patient = false;
                stop.send_replace(Stop::AtOnce);
            }
        }
    }
}

fn plan(options: &Options, dir: &Path) -> Result<Vec<DevNode>, DevError> {
    let addresses = ports::choose(options.nodes, options.base_port, dir)?;
    let seeds: Vec<_> = addresses.iter().map(|addresses| addresses.peer).collect();
    let nodes = addresses.into_iter().enumerate().map(|(place, addresses)| {
        let name = format!("node-{}", place + 1);
        let (data_dir, log) = (dir.join(&name), dir.join(format!("{name}.log")));
        DevNode { name, addresses, seeds: seeds.clone(), data_dir, log }
    });
    Ok(nodes.collect())
}

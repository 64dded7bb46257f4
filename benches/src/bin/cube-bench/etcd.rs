//! Three nodes of etcd, and a client of them, for comparison.
//!
//! Requests go to the nodes in turn over one connection each, as etcd's own benchmark does with several endpoints. Reads are
//! linearizable, which is etcd's default and the promise that a quorum read is closest to.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cube_benches::Result;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use super::cluster::{Block, folder};
use super::options::Nodes;
use super::process::Process;

#[allow(missing_docs, unreachable_pub, clippy::all, clippy::unwrap_used, clippy::indexing_slicing)]
mod wire {
    tonic::include_proto!("etcdserverpb");
}

use wire::kv_client::KvClient;

const NODES: u8 = 3;
const START_MAX: Duration = Duration::from_secs(60);
const PROGRAMS: [&str; 2] = ["/usr/bin/etcd", "/usr/local/bin/etcd"];

/// Where etcd is installed, if it is.
pub(crate) fn installed() -> Option<PathBuf> {
    PROGRAMS.into_iter().map(PathBuf::from).find(|program| program.is_file())
}

pub(crate) struct Etcd {
    nodes: Vec<KvClient<Channel>>,
    turn: AtomicUsize,
    pub(crate) pids: Vec<(String, u32)>,
    _own: (Vec<Process>, TempDir, Block),
}

impl Etcd {
    pub(crate) async fn start(nodes: &Nodes) -> Result<Self> {
        let program = installed().ok_or("etcd is not installed; on Debian: apt-get install etcd-server")?;
        let (block, dir) = (Block::claim()?, folder(nodes.dir.as_deref())?);
        let names = || (1..=NODES).map(|number| (number, format!("etcd-{number}")));
        let peers: Vec<String> =
            names().map(|(number, name)| format!("{name}=http://{}:2380", block.node(number))).collect();
        let mut processes = Vec::new();
        for (number, name) in names() {
            let (client, peer) =
                (format!("http://{}:2379", block.node(number)), format!("http://{}:2380", block.node(number)));
            let data = dir.path().join(&name).display().to_string();
            let words = [
                ("--name", name.clone()),
                ("--data-dir", data),
                ("--listen-client-urls", client.clone()),
                ("--advertise-client-urls", client),
                ("--listen-peer-urls", peer.clone()),
                ("--initial-advertise-peer-urls", peer),
                ("--initial-cluster", peers.join(",")),
                ("--initial-cluster-state", "new".to_owned()),
                // Room for all rows of a run, and no compaction in it: both only help it.
                ("--quota-backend-bytes", (8_u64 << 30).to_string()),
                ("--log-level", "error".to_owned()),
            ];
            let words: Vec<String> = words.into_iter().flat_map(|(option, value)| [option.to_owned(), value]).collect();
            let log = dir.path().join(format!("{name}.log"));
            processes.push((Process::start(&program, &words, &log)?, name, log));
        }
        let connect = |number| -> Result<_> {
            let endpoint = Endpoint::from_shared(format!("http://{}:2379", block.node(number)))?.tcp_nodelay(true);
            Ok(KvClient::new(endpoint.connect_lazy()))
        };
        let clients = (1..=NODES).map(connect).collect::<Result<Vec<_>>>()?;
        let pids = processes.iter().map(|(process, name, _)| (name.clone(), process.pid())).collect();
        let deadline = Instant::now() + START_MAX;
        for client in &clients {
            let put = || wire::PutRequest { key: "probe".into(), value: "probe".into() };
            while let Err(status) = client.clone().put(put()).await {
                for (process, name, log) in &mut processes {
                    process.check(name, log)?;
                }
                if Instant::now() > deadline {
                    return Err(format!("etcd does not start: {status}").into());
                }
                sleep(Duration::from_millis(200)).await;
            }
        }
        let processes = processes.into_iter().map(|(process, _, _)| process).collect();
        Ok(Self { nodes: clients, turn: AtomicUsize::new(0), pids, _own: (processes, dir, block) })
    }

    fn node(&self) -> std::result::Result<KvClient<Channel>, Status> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.nodes.len().max(1);
        self.nodes.get(turn).cloned().ok_or_else(|| Status::unavailable("there is no node"))
    }

    pub(crate) async fn put(&self, key: Bytes, value: Bytes) -> std::result::Result<(), Status> {
        self.node()?.put(wire::PutRequest { key, value }).await.map(drop)
    }

    /// The number of rows found.
    pub(crate) async fn get(&self, key: Bytes) -> std::result::Result<u64, Status> {
        let found = self.node()?.range(wire::RangeRequest { key }).await?.into_inner();
        Ok(u64::try_from(found.kvs.iter().filter(|row| !row.value.is_empty()).count()).unwrap_or_default())
    }
}

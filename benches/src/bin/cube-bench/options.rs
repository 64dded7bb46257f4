//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Measures a cluster of Cube KV.
#[derive(Parser, Debug)]
pub(crate) struct Options {
    /// Threads of the load generator.
    #[arg(long, default_value_t = 1, global = true)]
    pub(crate) threads: usize,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// One workload.
    Run(Run),
    /// Everything that has a mark, on clusters of its own.
    Marks(Marks),
    /// Three times more than the nodes take at once, also with one of them standing still.
    Overload(Overload),
    /// A quorum beside a single replica, a replica that stands still, and a scan of everything.
    Reads(Turns),
    /// The same workload against Cube KV and etcd, in turns.
    Peers(Turns),
    /// How fast a node that was away gets the hints for it, and what clients feel of that. Starts a cluster of its own.
    Replay(Replay),
    /// How long repairs of so many differences take, what clients feel of them, and what equal replicas cost that nobody
    /// uses. Starts a cluster of its own.
    Repair(Repair),
}

/// What is done.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Workload {
    /// Single writes.
    Put,
    /// Single reads.
    Get,
    /// Single reads and writes.
    Mixed,
    /// Batches, of writes unless `--reads` says otherwise.
    Batch,
    /// Single requests over session streams, writes unless `--reads` says otherwise.
    Session,
    /// Pages of rows that share a partition key.
    Scan,
}

/// What values are made of.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Values {
    /// Bytes that no compression makes smaller.
    Random,
    /// Text that repeats itself.
    Compressible,
}

/// Which rows are asked for how often.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Distribution {
    /// Each as often as any other.
    Uniform,
    /// A few very often: zipfian with the exponent 0.99, spread over the keys.
    Zipfian,
}

/// What a run is made of.
#[derive(Args, Clone, Debug)]
pub(crate) struct Shape {
    #[arg(long, value_enum, default_value_t = Workload::Put)]
    pub(crate) workload: Workload,
    /// The share of reads among all requests; 0.5 of a mixed workload, else as the workload's name says.
    #[arg(long)]
    pub(crate) reads: Option<f64>,
    /// Bytes of a value.
    #[arg(long, default_value_t = 1024)]
    pub(crate) value_bytes: usize,
    #[arg(long, value_enum, default_value_t = Values::Random)]
    pub(crate) values: Values,
    /// Different rows.
    #[arg(long, default_value_t = 20_000)]
    pub(crate) rows: u64,
    #[arg(long, value_enum, default_value_t = Distribution::Uniform)]
    pub(crate) distribution: Distribution,
    /// Requests under way at once: closed loop. With `--rate` the most there may be.
    #[arg(long, default_value_t = 64)]
    pub(crate) in_flight: usize,
    /// Requests that begin in a second, whether or not others are done: open loop. Latencies count from when a request
    /// should have begun.
    #[arg(long)]
    pub(crate) rate: Option<f64>,
    /// Rows of a batch, and of a page of a scan.
    #[arg(long, default_value_t = 64)]
    pub(crate) batch: usize,
    /// How long it is measured.
    #[arg(long, value_parser = seconds, default_value = "10")]
    pub(crate) time: Duration,
    /// How long it runs before.
    #[arg(long, value_parser = seconds, default_value = "2")]
    pub(crate) warm_up: Duration,
    /// The consistency level.
    #[arg(long, default_value = "QUORUM")]
    pub(crate) level: cube_client::Level,
}

/// Rows of the hot set, with which everything is measured that does not say otherwise.
pub(crate) const HOT_ROWS: u64 = 20_000;

impl Shape {
    /// A workload on the hot set as the marks mean it: 1 KiB of random bytes, 64 in flight, QUORUM.
    pub(crate) fn hot(workload: Workload, time: Duration) -> Self {
        Self {
            workload,
            reads: None,
            value_bytes: 1024,
            values: Values::Random,
            rows: HOT_ROWS,
            distribution: Distribution::Uniform,
            in_flight: 64,
            rate: None,
            batch: 64,
            time,
            warm_up: Duration::from_secs(2),
            level: cube_client::Level::Quorum,
        }
    }

    /// The share of requests that read.
    pub(crate) fn read_share(&self) -> f64 {
        self.reads.unwrap_or(match self.workload {
            Workload::Put | Workload::Batch | Workload::Session => 0.0,
            Workload::Get | Workload::Scan => 1.0,
            Workload::Mixed => 0.5,
        })
    }
}

/// Where the nodes come from.
#[derive(Args, Clone, Debug)]
pub(crate) struct Nodes {
    /// gRPC addresses of a cluster that runs; without any, three nodes are started for the run and removed after it.
    #[arg(long, value_delimiter = ',')]
    pub(crate) addresses: Vec<String>,
    /// Processes whose processor time is told; those of nodes that were started for the run are known.
    #[arg(long, value_delimiter = ',')]
    pub(crate) pids: Vec<u32>,
    /// The node's program; beside this one if it is not said.
    #[arg(long)]
    pub(crate) cubed: Option<PathBuf>,
    /// Where the nodes' data goes, in a folder that is removed at the end. It should be a disk: memory has no fsync.
    #[arg(long)]
    pub(crate) dir: Option<PathBuf>,
    /// Settings of the nodes, as `cubed start --set`.
    #[arg(long = "set")]
    pub(crate) settings: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) shape: Shape,
    #[command(flatten)]
    pub(crate) nodes: Nodes,
    /// Write all rows once before.
    #[arg(long)]
    pub(crate) preload: bool,
    /// Where the figures go as JSON.
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct Marks {
    #[command(flatten)]
    pub(crate) nodes: Nodes,
    /// Shorter runs, and a tenth of the rows: to see that all works, not to be held against the marks.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Leave out the large set.
    #[arg(long)]
    pub(crate) hot_only: bool,
    /// Where the figures go as JSON.
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
}

/// What is compared takes turns, so that all of it has the same share of a machine that others use too.
#[derive(Args, Debug)]
pub(crate) struct Turns {
    #[command(flatten)]
    pub(crate) nodes: Nodes,
    /// How often each has its turn.
    #[arg(long, default_value_t = 3)]
    pub(crate) rounds: usize,
    /// How long a turn is.
    #[arg(long, value_parser = seconds, default_value = "10")]
    pub(crate) time: Duration,
    /// Where the figures go as JSON.
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct Overload {
    #[command(flatten)]
    pub(crate) turns: Turns,
    /// Requests that each node takes at once.
    #[arg(long, default_value_t = 64)]
    pub(crate) places: usize,
}

#[derive(Args, Debug)]
pub(crate) struct Replay {
    #[command(flatten)]
    pub(crate) nodes: Nodes,
    /// Rows that are written while a node is dead.
    #[arg(long, default_value_t = 100_000)]
    pub(crate) writes: u64,
    /// How long each run without a replay is.
    #[arg(long, value_parser = seconds, default_value = "10")]
    pub(crate) time: Duration,
    /// Where the figures go as JSON.
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct Repair {
    #[command(flatten)]
    pub(crate) nodes: Nodes,
    /// Rows that all nodes hold.
    #[arg(long, default_value_t = 1_000_000)]
    pub(crate) rows: u64,
    /// Rows that one node holds older versions of, in one repair after the other.
    #[arg(long, value_delimiter = ',', default_value = "100,10000,100000")]
    pub(crate) differences: Vec<u64>,
    /// How often each of the last two numbers is repaired under load: what clients feel is the median of these.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub(crate) rounds: u16,
    /// How long each run without a repair is.
    #[arg(long, value_parser = seconds, default_value = "10")]
    pub(crate) time: Duration,
    /// A hundredth of the rows and of the differences, and a tenth of the time: to see that all works, not to be held
    /// against the marks.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Where the figures go as JSON.
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
}

fn seconds(given: &str) -> Result<Duration, String> {
    let number: f64 = given.trim_end_matches('s').parse().map_err(|_| format!("{given:?} is no number of seconds"))?;
    Duration::try_from_secs_f64(number).map_err(|error| error.to_string())
}

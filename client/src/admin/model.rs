//! What is told of a cluster, typed.

use std::collections::BTreeMap;
use std::fmt;

use cube_proto::{ReadsLine, v1};

use super::members::Leaving;

/// A member, as the node that was asked sees it.
#[derive(Clone, PartialEq, Debug)]
pub struct Member {
    /// Never used twice.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub data_center: String,
    /// Where it stands in there.
    pub rack: String,
    /// Where it serves HTTP.
    pub http: String,
    /// Where clients reach it over gRPC.
    pub grpc: String,
    /// Whether it is alive.
    pub alive: bool,
    /// JOINING, WARMING, READY, LEAVING or LEFT.
    pub state: String,
    /// The release that it runs.
    pub version: Option<String>,
    /// The share of its processor time that is used, in percent.
    pub load_percent: Option<f64>,
    /// Requests it coordinates now.
    pub requests_in_flight: Option<u64>,
    /// Hints it keeps for others.
    pub hints: Option<u64>,
    /// How far its clock is ahead of that of the node that was asked.
    pub clock_offset_ms: Option<i64>,
    /// Since when it runs, milliseconds since 1970.
    pub started_at_ms: Option<u64>,
    /// What it has yet to hand over, while it leaves the cluster.
    pub leaving: Option<Leaving>,
    /// DRAINING or DRAINED, where an operator has it take no requests of clients.
    pub drain: Option<String>,
}

impl Member {
    pub(super) fn of(node: v1::Node) -> Self {
        let addresses = node.addresses.unwrap_or_default();
        Self {
            id: node.id,
            name: node.name,
            data_center: node.data_center,
            rack: node.rack,
            http: addresses.http,
            grpc: addresses.grpc,
            alive: node.alive,
            state: node.state,
            version: node.version,
            load_percent: node.load_percent,
            requests_in_flight: node.requests_in_flight,
            hints: node.hints,
            clock_offset_ms: node.clock_offset_ms,
            started_at_ms: node.started_at_ms,
            leaving: node.leaving.map(Leaving::of),
            drain: node.drain,
        }
    }
}

/// Who holds what.
#[derive(Clone, PartialEq, Debug)]
pub struct Topology {
    /// The number of this state of the cluster.
    pub epoch: u64,
    /// A key's partition is the top so many bits of its token.
    pub partition_bits: u32,
    /// The members.
    pub members: Vec<Member>,
    /// Every replication setting in use.
    pub placements: Vec<Placement>,
}

/// A replication setting and the replicas it gives to every partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Placement {
    /// What was asked for, as `simple(3)`.
    pub replication: String,
    /// The keyspaces that follow it.
    pub keyspaces: Vec<String>,
    /// Every partition, in the order of tokens.
    pub partitions: Vec<Partition>,
}

/// The replicas of one partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Partition {
    /// The ids of the members that are read.
    pub replicas: Vec<u32>,
    /// Of those that take writes and are not read yet.
    pub pending: Vec<u32>,
}

impl Topology {
    pub(super) fn of(reply: v1::TopologyReply) -> Self {
        let partition =
            |partition: v1::Partition| Partition { replicas: partition.replicas, pending: partition.pending };
        let placement = |placement: v1::Placement| Placement {
            replication: placement.replication,
            keyspaces: placement.keyspaces,
            partitions: placement.partitions.into_iter().map(partition).collect(),
        };
        Self {
            epoch: reply.epoch,
            partition_bits: reply.partition_bits,
            members: reply.nodes.into_iter().map(Member::of).collect(),
            placements: reply.placements.into_iter().map(placement).collect(),
        }
    }

    /// The number of the partition that holds a partition key.
    pub fn partition_of(&self, partition_key: &[u8]) -> usize {
        let token = cube_proto::token(partition_key);
        // A shift by all 64 bits is not defined.
        let partition = token.checked_shr(u64::BITS - self.partition_bits.min(u64::BITS)).unwrap_or_default();
        usize::try_from(partition).unwrap_or(usize::MAX)
    }
}

/// What one node keeps for replicas that missed something.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Hints {
    /// Hints in all.
    pub total: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Hints by the name of the node they are for.
    pub by_node: BTreeMap<String, u64>,
    /// Ranges to be repaired because a hint could not be kept, by the name of the node.
    pub dirty_ranges: BTreeMap<String, u64>,
    /// How old the oldest hint is.
    pub oldest_age_ms: Option<u64>,
    /// The names of nodes that an operator wants no hints delivered to.
    pub paused: Vec<String>,
    /// How the delivery to each node stands, by its name.
    pub delivery: BTreeMap<String, Delivery>,
}

/// How the delivery of hints to a node stands.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Delivery {
    /// What it does, in the words of `docs/hints.md`.
    pub state: String,
    /// Hints that the node takes per second.
    pub per_second: u64,
    /// When it will have taken all of them, while that is known.
    pub eta_ms: Option<u64>,
    /// What was wrong the last time something was.
    pub last_error: Option<String>,
}

impl Hints {
    pub(super) fn of(reply: v1::HintsReply) -> Self {
        Self {
            total: reply.total_hints,
            bytes: reply.total_bytes,
            by_node: reply.node_hints.into_iter().collect(),
            dirty_ranges: reply.dirty_ranges.into_iter().collect(),
            oldest_age_ms: reply.oldest_hint_age_ms,
            paused: reply.paused,
            delivery: reply.nodes.into_iter().map(|(name, node)| (name, Delivery::of(node))).collect(),
        }
    }
}

impl Delivery {
    fn of(node: v1::NodeHints) -> Self {
        let v1::NodeHints { state, per_second, eta_ms, last_error, .. } = node;
        Self { state, per_second, eta_ms, last_error }
    }
}

/// What one node counted since it started.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// What it keeps for others.
    pub hints: Hints,
    /// What the reads came upon that it coordinated, by table.
    pub reads: Vec<TableReads>,
}

impl Stats {
    pub(super) fn of(reply: v1::StatsReply) -> Self {
        Self {
            hints: Hints::of(reply.hints.unwrap_or_default()),
            reads: reply.reads.into_iter().map(TableReads::of).collect(),
        }
    }
}

/// What reads of a table came upon that one node coordinated. Figures grow while the node runs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TableReads {
    /// The table, as keyspace.table.
    pub table: String,
    /// Rows of which replicas told different things.
    pub digest_mismatches: u64,
    /// Answers that told of an older record than the newest, or of none.
    pub stale_reads: u64,
    /// Rows that were asked of all replicas by chance.
    pub chance_reads: u64,
    /// Rows that were asked of another replica because one was slow.
    pub hedges_sent: u64,
    /// Those that were decided before the slow one answered.
    pub hedges_helped: u64,
    /// Pages of scans that did not reach their level everywhere.
    pub partial_pages: u64,
    /// Rows that were brought to replicas before a read was answered.
    pub blocking_repairs: RowRepairs,
    /// Those that were brought in the background.
    pub chance_repairs: RowRepairs,
}

/// Rows that were brought to replicas, by what came of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RowRepairs {
    /// The replica has it since then.
    pub repaired: u64,
    /// It had it by then.
    pub unneeded: u64,
    /// It refused, or was not there.
    pub failed: u64,
    /// As much was being repaired as may be.
    pub skipped: u64,
}

impl TableReads {
    /// Rows that a replica has since they were read, and had not before.
    pub fn repaired(&self) -> u64 {
        self.blocking_repairs.repaired.saturating_add(self.chance_repairs.repaired)
    }

    /// Rows that were to be brought to a replica, and were not.
    pub fn repairs_failed(&self) -> u64 {
        self.blocking_repairs.failed.saturating_add(self.chance_repairs.failed)
    }

    /// What people look for first, in the words in which nodes tell it.
    pub fn line(&self) -> String {
        let line = ReadsLine {
            table: &self.table,
            stale_answers: self.stale_reads,
            repaired: self.repaired(),
            repairs_failed: self.repairs_failed(),
            hedges: self.hedges_sent,
            hedges_helped: self.hedges_helped,
        };
        line.to_string()
    }

    fn of((table, told): (String, v1::TableReads)) -> Self {
        let repairs = |told: Option<v1::RowRepairs>| {
            let v1::RowRepairs { repaired, unneeded, failed, skipped } = told.unwrap_or_default();
            RowRepairs { repaired, unneeded, failed, skipped }
        };
        Self {
            table,
            digest_mismatches: told.digest_mismatches,
            stale_reads: told.stale_reads,
            chance_reads: told.chance_reads,
            hedges_sent: told.hedges_sent,
            hedges_helped: told.hedges_helped,
            partial_pages: told.partial_pages,
            blocking_repairs: repairs(told.blocking_repairs),
            chance_repairs: repairs(told.chance_repairs),
        }
    }
}

/// A keyspace with its tables.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Keyspace {
    /// Its name.
    pub name: String,
    /// How its rows are kept.
    pub options: KeyspaceOptions,
    /// Its tables.
    pub tables: Vec<Table>,
}

/// A table of a keyspace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// How its rows are kept.
    pub options: TableOptions,
}

impl Keyspace {
    pub(super) fn of(keyspace: v1::Keyspace) -> Self {
        let options = |options: v1::TableOptions| TableOptions {
            read_repair_chance: options.read_repair_chance,
            hedge: options.hedge,
            grace_ms: options.grace_ms,
            prefix_index: options.prefix_index,
            default_ttl_ms: options.default_ttl_ms,
        };
        let table = |table: v1::Table| Table { name: table.name, options: options(table.options.unwrap_or_default()) };
        Self {
            name: keyspace.name,
            options: KeyspaceOptions::of(keyspace.options.unwrap_or_default()),
            tables: keyspace.tables.into_iter().map(table).collect(),
        }
    }
}

/// How many replicas, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Replication {
    /// So many, wherever.
    Simple(u32),
    /// So many in each data center.
    Network(BTreeMap<String, u32>),
}

impl fmt::Display for Replication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Simple(replicas) => write!(f, "simple({replicas})"),
            Self::Network(replicas) => {
                let each: Vec<String> = replicas.iter().map(|(name, count)| format!("{name}: {count}")).collect();
                write!(f, "network({})", each.join(", "))
            }
        }
    }
}

/// What is not said is as usual when a keyspace is created, and stays as it is when it is altered.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct KeyspaceOptions {
    /// How many replicas, and where.
    pub replication: Option<Replication>,
    /// A write is acknowledged when it is on disk if 0; else the disk is synced every so many milliseconds.
    pub durability_interval_ms: Option<u32>,
}

impl KeyspaceOptions {
    fn of(options: v1::KeyspaceOptions) -> Self {
        let replication =
            options.replication.and_then(|replication| replication.strategy).map(|strategy| match strategy {
                v1::replication::Strategy::Simple(replicas) => Replication::Simple(replicas),
                v1::replication::Strategy::Network(centers) => {
                    Replication::Network(centers.replicas.into_iter().collect())
                }
            });
        let durability_interval_ms = options.durability.map(|durability| durability.interval_ms);
        Self { replication, durability_interval_ms }
    }

    pub(super) fn wire(self) -> v1::KeyspaceOptions {
        let strategy = |replication| match replication {
            Replication::Simple(replicas) => v1::replication::Strategy::Simple(replicas),
            Replication::Network(replicas) => {
                v1::replication::Strategy::Network(v1::DataCenters { replicas: replicas.into_iter().collect() })
            }
        };
        v1::KeyspaceOptions {
            replication: self.replication.map(|replication| v1::Replication { strategy: Some(strategy(replication)) }),
            durability: self.durability_interval_ms.map(|interval_ms| v1::Durability { interval_ms }),
        }
    }
}

/// What is not said is as usual when a table is created, and stays as it is when it is altered.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TableOptions {
    /// Of a hundred reads, how many repair in the background.
    pub read_repair_chance: Option<u32>,
    /// When a read asks one more replica: `off`, `p99` or a duration.
    pub hedge: Option<String>,
    /// For how long deletions are kept at least.
    pub grace_ms: Option<u64>,
    /// Whether keys can be scanned by prefix: for the life of the table.
    pub prefix_index: Option<bool>,
    /// When rows end that do not say; 0 is never.
    pub default_ttl_ms: Option<u64>,
}

impl TableOptions {
    pub(super) fn wire(self) -> v1::TableOptions {
        v1::TableOptions {
            read_repair_chance: self.read_repair_chance,
            hedge: self.hedge,
            grace_ms: self.grace_ms,
            prefix_index: self.prefix_index,
            default_ttl_ms: self.default_ttl_ms,
        }
    }
}

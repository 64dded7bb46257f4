//! The settings that stand in sections, with their types and defaults.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::address::Advertised;
use super::section::section;
use super::traces::{Endpoint, Ratio};
use super::value::{ByteSize, ClockOffset, Durability, LogFormat, LogLevel};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

section! {
    /// Where the node listens: on loopback unless told otherwise. Port 0 takes any free one.
    ListenSettings in listen {
        /// REST and metrics.
        http: SocketAddr = loopback(8080),
        /// Clients, over gRPC.
        grpc: SocketAddr = loopback(7400),
        /// Other nodes, over gRPC.
        peer: SocketAddr = loopback(7401),
        /// Gossip, over UDP.
        gossip: SocketAddr = loopback(7402),
    }
}

section! {
    /// Where others reach the node, as `HOST:PORT` or as `HOST` with the port it listens on. Empty: as it listens.
    AdvertiseSettings in advertise {
        /// REST and metrics.
        http: Advertised = Advertised::default(),
        /// Clients, over gRPC.
        grpc: Advertised = Advertised::default(),
        /// Other nodes, over gRPC.
        peer: Advertised = Advertised::default(),
        /// Gossip, over UDP.
        gossip: Advertised = Advertised::default(),
    }
}

section! {
    /// How long things may take.
    TimeoutSettings in timeouts {
        /// A write that brings no deadline.
        write: Duration = Duration::from_secs(2),
        /// A read that brings no deadline.
        read: Duration = Duration::from_secs(2),
        /// For so long a node that is told to stop goes on serving while health says that it leaves: balancers need to see it.
        announce: Duration = Duration::from_secs(1),
        /// What is under way when the node is told to stop; after that it is cut off.
        drain: Duration = Duration::from_secs(10),
    }
}

section! {
    /// The storage engine.
    StorageSettings in storage {
        /// When a write is acknowledged, in keyspaces that do not say.
        durability: Durability = Durability::Sync,
        /// With durability `interval`: from one sync of the log to the next.
        sync_interval: Duration = Duration::from_millis(100),
        /// Disk space that clients' writes leave free.
        disk_reserve: ByteSize = ByteSize(GIB),
        /// Disk space that deletes, repair and the node's own notes leave free.
        upkeep_reserve: ByteSize = ByteSize(256 * MIB),
        /// Memory for blocks read from disk.
        block_cache: ByteSize = ByteSize(256 * MIB),
        /// Memory for rows on their way to a table file; up to three of it at once.
        write_buffer: ByteSize = ByteSize(64 * MIB),
        /// Threads that flush and compact.
        background_jobs: u16 = 2,
    }
}

section! {
    /// Hinted handoff: what is kept for a node that did not confirm a write. May change while the node runs.
    HintSettings in hints {
        /// Whether hints are kept. If not, what a node missed is marked and repaired by comparison.
        enabled: bool = true,
        /// How old a hint may grow, and how long a node may be down before what it misses is only marked.
        window: Duration = Duration::from_secs(3600),
        /// Distinct keys kept for one node.
        max_per_node: u64 = 10_000,
        /// Bytes kept for one node.
        max_bytes_per_node: ByteSize = ByteSize(GIB),
        /// Bytes kept for all nodes together.
        max_bytes: ByteSize = ByteSize(8 * GIB),
        /// How often the node looks for recovered nodes that have hints waiting.
        check_interval: Duration = Duration::from_secs(10),
    }
}

section! {
    /// Comparing replicas and repairing what differs. May change while the node runs.
    AntiEntropySettings in anti_entropy {
        /// Whether it runs.
        enabled: bool = true,
        /// How often a node compares itself with each peer.
        interval: Duration = Duration::from_secs(5),
        /// Changes younger than this are left out of a comparison, because they may still be under way.
        horizon: Duration = Duration::from_secs(10),
        /// Bytes of rows exchanged with peers in a second, over time.
        bytes_per_second: ByteSize = ByteSize(64 * MIB),
        /// Rows exchanged with peers in a second, over time.
        rows_per_second: u32 = 50_000,
        /// How often it is looked for deletions and ended rows that can be purged.
        purge_interval: Duration = Duration::from_secs(600),
    }
}

section! {
    /// Verifying what is on disk against its checksums. May change while the node runs.
    ScrubSettings in scrub {
        /// Whether it runs by itself; on demand it runs all the same.
        enabled: bool = true,
        /// The time in which everything is verified once.
        cycle: Duration = Duration::from_secs(7 * 24 * 3600),
    }
}

section! {
    /// The clock.
    ClockSettings in clock {
        /// A new stamp further ahead of this node's clock is refused.
        max_drift: Duration = Duration::from_secs(15 * 60),
        /// Sets the node's wall clock wrong, for tests of skew.
        offset: ClockOffset = ClockOffset::default(),
    }
}

section! {
    /// What a request may hold.
    LimitSettings in limits {
        /// Partition key and sort key together.
        key: ByteSize = ByteSize(4 * KIB),
        /// One value.
        value: ByteSize = ByteSize(4 * MIB),
        /// All keys and values of one batch.
        batch: ByteSize = ByteSize(16 * MIB),
        /// Rows of one batch.
        batch_rows: u32 = 10_000,
        /// Keys and values of one page of a scan.
        page: ByteSize = ByteSize(4 * MIB),
        /// Rows of one page of a scan.
        page_rows: u32 = 10_000,
        /// The longest time to live.
        ttl: Duration = Duration::from_secs(36_500 * 24 * 3600),
    }
}

section! {
    /// When requests are refused early, with a hint when to try again.
    OverloadSettings in overload {
        /// Requests that this node coordinates at once.
        in_flight_max: u32 = 16_384,
        /// Connections of clients, on the HTTP and on the gRPC port each.
        connections_max: u32 = 16_384,
        /// Bytes of keys and values that they hold together.
        in_flight_bytes: ByteSize = ByteSize(256 * MIB),
        /// Bytes that wait to be written to disk.
        write_queue: ByteSize = ByteSize(64 * MIB),
    }
}

section! {
    /// Agreement on members, keyspaces and tables.
    RaftSettings in raft {
        /// How often a leader says that it lives.
        heartbeat: Duration = Duration::from_millis(300),
        /// The least silence after which another is elected. It must stand an fsync on a busy disk.
        election_min: Duration = Duration::from_millis(1500),
        /// The most; each node draws its own between both.
        election_max: Duration = Duration::from_millis(3000),
    }
}

section! {
    /// What nodes tell each other of themselves.
    GossipSettings in gossip {
        /// How often a node gossips. A dead node is told from a slow one after some ten of these.
        interval: Duration = Duration::from_millis(250),
    }
}

section! {
    /// The node's own log, on standard error.
    LogSettings in log {
        /// Lines of text or of JSON.
        format: LogFormat = LogFormat::Text,
        /// What is logged.
        level: LogLevel = LogLevel::default(),
        /// Requests that take so long are recorded with what was done for them; zero records none.
        slow_requests: Duration = Duration::ZERO,
    }
}

section! {
    /// OpenTelemetry traces: what was done for a request, over all nodes.
    TraceSettings in telemetry.traces {
        /// The collector that takes them, over OTLP/HTTP. Without one nothing is traced.
        endpoint: Option<Endpoint> = None,
        /// How many requests are traced of those whose clients do not trace them. May change while the node runs.
        sample: Ratio = Ratio::default(),
    }
}

/// What the node tells others of its work.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TelemetrySettings {
    /// OpenTelemetry traces.
    pub traces: TraceSettings,
}

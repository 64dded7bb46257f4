//! What an operator may choose of a node, and where each choice came from.
//!
//! A setting is defined once, in `sections.rs` (or here, for those without a section): its name, type and default. From
//! there it can be given in a TOML file, in the environment, with `--set` and, for some, with a flag of its own; a later
//! source in this order wins (`load.rs`). `check.rs` refuses what cannot work together.
//!
//! Invariants: a [`Config`] that was loaded is one a node can run with; an unknown or impossible setting stops the start,
//! and the error names the setting, the source down to the line, and what would be right. Tests hold `docs/cubed.toml`
//! and `docs/configuration.md` to the settings that exist.

mod address;
mod check;
mod convert;
mod error;
mod file;
mod live;
mod load;
mod section;
mod sections;
mod show;
#[cfg(test)]
mod tests;
mod traces;
mod value;

use std::net::SocketAddr;
use std::path::PathBuf;

pub use self::address::{Advertised, HostPort};
pub use self::error::{ConfigError, Problem, Source};
pub use self::live::{Change, ChangeError, Live, SettingView};
pub use self::load::{Flag, Loaded, Sources, load, variable_of};
use self::section::{Setting, setting};
pub use self::sections::{
    AdvertiseSettings, AntiEntropySettings, ClockSettings, GossipSettings, HintSettings, LimitSettings, ListenSettings,
    LogSettings, OverloadSettings, RaftSettings, ScrubSettings, StorageSettings, TelemetrySettings, TimeoutSettings,
    TraceSettings,
};
pub use self::show::{effective_toml, names};
pub use self::traces::{Endpoint, Ratio};
pub use self::value::{ByteSize, ClockOffset, Durability, LogFormat, LogLevel};

/// Every setting of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The node's name, unique in its cluster. There is no default.
    pub name: String,
    /// The folder of everything the node keeps. There is no default.
    pub data_dir: PathBuf,
    /// Peer addresses of nodes to ask for the cluster. Without any, the node is a cluster of one.
    pub seeds: Vec<HostPort>,
    /// The data center it stands in.
    pub dc: String,
    /// The rack: what fails together.
    pub rack: String,
    /// How much of the data it holds, in proportion to the other nodes. 0: it coordinates and holds nothing.
    pub weight: u32,
    /// Partitions of a cluster that this node founds. An existing cluster has the number it was founded with.
    pub partitions: u16,
    /// Where it listens.
    pub listen: ListenSettings,
    /// Where others reach it.
    pub advertise: AdvertiseSettings,
    /// How long things may take.
    pub timeouts: TimeoutSettings,
    /// The storage engine.
    pub storage: StorageSettings,
    /// Hinted handoff.
    pub hints: HintSettings,
    /// Comparing and repairing replicas.
    pub anti_entropy: AntiEntropySettings,
    /// Verifying what is on disk.
    pub scrub: ScrubSettings,
    /// The clock.
    pub clock: ClockSettings,
    /// What a request may hold.
    pub limits: LimitSettings,
    /// When requests are refused early.
    pub overload: OverloadSettings,
    /// Agreement on the cluster's hard state.
    pub raft: RaftSettings,
    /// What nodes tell each other of themselves.
    pub gossip: GossipSettings,
    /// The node's own log.
    pub log: LogSettings,
    /// What the node tells others of its work.
    pub telemetry: TelemetrySettings,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: String::new(),
            data_dir: PathBuf::new(),
            seeds: Vec::new(),
            dc: "dc1".to_owned(),
            rack: "r1".to_owned(),
            weight: 100,
            partitions: 256,
            listen: ListenSettings::default(),
            advertise: AdvertiseSettings::default(),
            timeouts: TimeoutSettings::default(),
            storage: StorageSettings::default(),
            hints: HintSettings::default(),
            anti_entropy: AntiEntropySettings::default(),
            scrub: ScrubSettings::default(),
            clock: ClockSettings::default(),
            limits: LimitSettings::default(),
            overload: OverloadSettings::default(),
            raft: RaftSettings::default(),
            gossip: GossipSettings::default(),
            log: LogSettings::default(),
            telemetry: TelemetrySettings::default(),
        }
    }
}

const NODE: &[Setting] = &[
    setting!(name),
    setting!(data_dir),
    setting!(seeds),
    setting!(dc),
    setting!(rack),
    setting!(weight),
    setting!(partitions),
];

/// All settings, in the order in which they are shown.
fn settings() -> impl Iterator<Item = &'static Setting> {
    let sections = [
        NODE,
        ListenSettings::SETTINGS,
        AdvertiseSettings::SETTINGS,
        TimeoutSettings::SETTINGS,
        StorageSettings::SETTINGS,
        HintSettings::SETTINGS,
        AntiEntropySettings::SETTINGS,
        ScrubSettings::SETTINGS,
        ClockSettings::SETTINGS,
        LimitSettings::SETTINGS,
        OverloadSettings::SETTINGS,
        RaftSettings::SETTINGS,
        GossipSettings::SETTINGS,
        LogSettings::SETTINGS,
        TraceSettings::SETTINGS,
    ];
    sections.into_iter().flatten()
}

/// The ports of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Port {
    /// REST and metrics.
    Http,
    /// Clients, over gRPC.
    Grpc,
    /// Other nodes, over gRPC.
    Peer,
    /// Gossip, over UDP.
    Gossip,
}

impl Port {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 4] = [Self::Http, Self::Grpc, Self::Peer, Self::Gossip];

    /// The name in settings and flags.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
            Self::Peer => "peer",
            Self::Gossip => "gossip",
        }
    }
}

impl Config {
    /// Where the node listens.
    pub fn listen(&self, port: Port) -> SocketAddr {
        match port {
            Port::Http => self.listen.http,
            Port::Grpc => self.listen.grpc,
            Port::Peer => self.listen.peer,
            Port::Gossip => self.listen.gossip,
        }
    }

    /// The setting under which others reach it; see [`Config::advertised`].
    fn advertise(&self, port: Port) -> &Advertised {
        match port {
            Port::Http => &self.advertise.http,
            Port::Grpc => &self.advertise.grpc,
            Port::Peer => &self.advertise.peer,
            Port::Gossip => &self.advertise.gossip,
        }
    }

    /// The address to tell others, once the listener is bound: what is not set is taken from `bound`, so that a node
    /// that listens on port 0 is known by the port it got.
    pub fn advertised(&self, port: Port, bound: SocketAddr) -> HostPort {
        self.advertise(port).over(bound)
    }
}

//! What each setting may be, and which cannot stand together.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::error::{Problem, Source};
use super::value::ByteSize;
use super::{Config, Port};

/// What was found.
pub(super) struct Findings {
    /// Impossible.
    pub(super) problems: Vec<Problem>,
    /// Allowed, and rarely meant.
    pub(super) warnings: Vec<String>,
    /// Not given, and without a default.
    pub(super) missing: Vec<Problem>,
}

/// Checks everything.
pub(super) fn check(config: &Config, sources: &BTreeMap<&'static str, Source>) -> Findings {
    let mut checker = Checker { config, sources, problems: Vec::new(), warnings: Vec::new() };
    checker.node();
    checker.addresses();
    checker.times();
    checker.sizes();
    checker.counts();
    checker.clock();
    let missing = checker.missing();
    Findings { problems: checker.problems, warnings: checker.warnings, missing }
}

struct Checker<'a> {
    config: &'a Config,
    sources: &'a BTreeMap<&'static str, Source>,
    problems: Vec<Problem>,
    warnings: Vec<String>,
}

/// Names travel in every message, label every metric and become names of folders.
const NAME_BYTES_MAX: usize = 63;
const WEIGHT_MAX: u32 = 10_000;
const SHORTEST: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const YEAR: Duration = Duration::from_secs(366 * 24 * 3600);
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

impl Checker<'_> {
    fn problem(&self, setting: &str, reason: String) -> Problem {
        let source = self.sources.get(setting).cloned().unwrap_or(Source::Default);
        Problem { source, setting: setting.to_owned(), reason }
    }

    fn refuse(&mut self, setting: &str, reason: String) {
        let problem = self.problem(setting, reason);
        self.problems.push(problem);
    }

    fn missing(&self) -> Vec<Problem> {
        let mut missing = Vec::new();
        if self.config.name.is_empty() {
            let reason = "is not set: give the node a name that no other has, such as --name node-1".to_owned();
            missing.push(self.problem("name", reason));
        }
        if self.config.data_dir.as_os_str().is_empty() {
            let reason =
                "is not set: name the folder for the node's data, such as --data-dir /var/lib/cubed".to_owned();
            missing.push(self.problem("data_dir", reason));
        }
        missing
    }

    fn node(&mut self) {
        let Config { name, dc, rack, weight, partitions, .. } = self.config;
        for (setting, text) in [("name", name), ("dc", dc), ("rack", rack)] {
            let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            if !text.chars().all(is_allowed) || text.len() > NAME_BYTES_MAX || text.starts_with(['.', '-']) {
                let reason = format!(
                    "is made of at most {NAME_BYTES_MAX} letters, digits, dots, dashes and underscores and begins with \
                     neither dot nor dash, and {text:?} is not"
                );
                self.refuse(setting, reason);
            }
        }
        for (setting, text) in [("dc", dc), ("rack", rack)] {
            if text.is_empty() {
                self.refuse(setting, "cannot be empty".to_owned());
            }
        }
        if *weight > WEIGHT_MAX {
            self.refuse("weight", format!("is at most {WEIGHT_MAX}, and {weight} is more"));
        }
        if !partitions.is_power_of_two() || *partitions > 4096 {
            self.refuse("partitions", format!("is a power of two from 1 to 4096, and {partitions} is not"));
        }
    }

    fn addresses(&mut self) {
        for port in Port::ALL {
            let listen = self.config.listen(port);
            let advertised = self.config.advertise(port).clone();
            let setting = format!("advertise.{}", port.name());
            let host = advertised.host.as_deref();
            if host.is_none() && listen.ip().is_unspecified() {
                let reason = format!(
                    "must be set, because listen.{} is {listen}, which tells others of no address to reach the node at",
                    port.name()
                );
                self.refuse(&setting, reason);
            }
            let is_unspecified = |host: &str| host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified());
            if host.is_some_and(is_unspecified) {
                self.refuse(&setting, format!("{advertised} is no address that others could reach"));
            }
            if advertised.port == Some(0) {
                self.refuse(&setting, "port 0 cannot be reached: leave the port out to tell the real one".to_owned());
            }
        }
        self.doubled_ports();
        let peer = self.config.advertised(Port::Peer, self.config.listen.peer);
        let is_local = |host: &str| host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        if is_local(&peer.host) && self.config.seeds.iter().any(|seed| !is_local(&seed.host)) {
            let warning = format!(
                "the node tells others to reach it at {peer}, which they can on this machine only: set listen.peer or \
                 advertise.peer, and the other addresses likewise"
            );
            self.warnings.push(warning);
        }
    }

    fn doubled_ports(&mut self) {
        let tcp = [Port::Http, Port::Grpc, Port::Peer];
        for (place, port) in tcp.into_iter().enumerate() {
            let listen = self.config.listen(port);
            let collides = |other: &Port| {
                let other = self.config.listen(*other);
                let is_any = listen.ip().is_unspecified() || other.ip().is_unspecified();
                other.port() == listen.port() && (other.ip() == listen.ip() || is_any)
            };
            let other = tcp.into_iter().take(place).find(collides).filter(|_| listen.port() != 0);
            if let Some(other) = other {
                let reason = format!("{listen} is taken by listen.{} already", other.name());
                self.refuse(&format!("listen.{}", port.name()), reason);
            }
        }
    }

    fn within(&mut self, setting: &str, value: Duration, allowed: RangeInclusive<Duration>) {
        if !allowed.contains(&value) {
            let show = humantime::format_duration;
            let (least, most) = (show(*allowed.start()), show(*allowed.end()));
            self.refuse(setting, format!("is between {least} and {most}, and {} is not", show(value)));
        }
    }

    fn times(&mut self) {
        let config = self.config;
        self.within("timeouts.write", config.timeouts.write, SHORTEST..=HOUR);
        self.within("timeouts.read", config.timeouts.read, SHORTEST..=HOUR);
        self.within("timeouts.announce", config.timeouts.announce, Duration::ZERO..=HOUR);
        self.within("timeouts.drain", config.timeouts.drain, Duration::ZERO..=HOUR);
        self.within("storage.sync_interval", config.storage.sync_interval, SHORTEST..=MINUTE);
        self.within("hints.window", config.hints.window, SHORTEST..=YEAR);
        self.within("hints.check_interval", config.hints.check_interval, SHORTEST * 10..=HOUR);
        self.within("anti_entropy.interval", config.anti_entropy.interval, SHORTEST * 10..=DAY);
        self.within("anti_entropy.horizon", config.anti_entropy.horizon, SHORTEST..=DAY);
        self.within("anti_entropy.purge_interval", config.anti_entropy.purge_interval, SHORTEST * 100..=DAY);
        self.within("scrub.cycle", config.scrub.cycle, MINUTE..=YEAR);
        self.within("clock.max_drift", config.clock.max_drift, SHORTEST..=YEAR);
        self.within("limits.ttl", config.limits.ttl, SHORTEST..=YEAR * 1000);
        self.within("raft.heartbeat", config.raft.heartbeat, SHORTEST * 10..=MINUTE);
        self.within("raft.election_min", config.raft.election_min, SHORTEST * 10..=HOUR);
        self.within("raft.election_max", config.raft.election_max, SHORTEST * 10..=HOUR);
        self.within("log.slow_requests", config.log.slow_requests, Duration::ZERO..=HOUR);
        self.within("gossip.interval", config.gossip.interval, SHORTEST * 10..=MINUTE);
        let show = humantime::format_duration;
        let (horizon, write) = (config.anti_entropy.horizon, config.timeouts.write);
        if horizon < write {
            let reason = format!(
                "is {}, which is less than timeouts.write ({}): writes under way would be taken for differences",
                show(horizon),
                show(write)
            );
            self.refuse("anti_entropy.horizon", reason);
        }
        let (heartbeat, min, max) = (config.raft.heartbeat, config.raft.election_min, config.raft.election_max);
        if min < heartbeat * 3 {
            let reason = format!(
                "is {}, and must be at least three times raft.heartbeat ({}), or a late heartbeat is an election",
                show(min),
                show(heartbeat)
            );
            self.refuse("raft.election_min", reason);
        }
        if max <= min {
            let reason = format!("is {}, and must be more than raft.election_min ({})", show(max), show(min));
            self.refuse("raft.election_max", reason);
        }
    }

    fn size(&mut self, setting: &str, value: ByteSize, allowed: RangeInclusive<u64>) {
        if !allowed.contains(&value.0) {
            let (least, most) = (ByteSize(*allowed.start()), ByteSize(*allowed.end()));
            self.refuse(setting, format!("is between {least} and {most}, and {value} is not"));
        }
    }

    fn sizes(&mut self) {
        let config = self.config;
        let (storage, limits, hints) = (&config.storage, &config.limits, &config.hints);
        self.size("storage.block_cache", storage.block_cache, MIB..=1024 * GIB);
        self.size("storage.write_buffer", storage.write_buffer, MIB..=16 * GIB);
        self.size("hints.max_bytes_per_node", hints.max_bytes_per_node, MIB..=u64::MAX);
        self.size("anti_entropy.bytes_per_second", config.anti_entropy.bytes_per_second, 64 << 10..=64 * GIB);
        // A key stands in every index, log and message of its row.
        self.size("limits.key", limits.key, 1..=32 << 10);
        self.size("limits.value", limits.value, 1..=GIB);
        self.size("limits.batch", limits.batch, 1..=2 * GIB);
        self.size("limits.page", limits.page, 1..=GIB);
        self.size("overload.in_flight_bytes", config.overload.in_flight_bytes, MIB..=1024 * GIB);
        self.size("overload.write_queue", config.overload.write_queue, MIB..=64 * GIB);
        for (setting, value, least_of, least) in [
            ("storage.disk_reserve", storage.disk_reserve, "storage.upkeep_reserve", storage.upkeep_reserve),
            ("hints.max_bytes", hints.max_bytes, "hints.max_bytes_per_node", hints.max_bytes_per_node),
            ("limits.batch", limits.batch, "limits.value", limits.value),
            ("overload.write_queue", config.overload.write_queue, "limits.batch", limits.batch),
            ("overload.in_flight_bytes", config.overload.in_flight_bytes, "limits.batch", limits.batch),
        ] {
            if value < least {
                self.refuse(setting, format!("is {value}, and must be at least {least_of}, which is {least}"));
            }
        }
    }

    fn counts(&mut self) {
        let config = self.config;
        for (setting, value, most) in [
            ("anti_entropy.rows_per_second", config.anti_entropy.rows_per_second, 100_000_000),
            ("storage.background_jobs", u32::from(config.storage.background_jobs), 256),
            ("limits.batch_rows", config.limits.batch_rows, 1_000_000),
            ("limits.page_rows", config.limits.page_rows, 1_000_000),
            ("overload.in_flight_max", config.overload.in_flight_max, 10_000_000),
            ("overload.connections_max", config.overload.connections_max, 1_000_000),
        ] {
            if !(1..=most).contains(&value) {
                self.refuse(setting, format!("is between 1 and {most}, and {value} is not"));
            }
        }
    }

    fn clock(&mut self) {
        let offset = self.config.clock.offset;
        if offset.ms.unsigned_abs() > YEAR.as_millis() as u64 {
            self.refuse("clock.offset", format!("is at most a year, and {offset} is more"));
        } else if offset.ms != 0 {
            self.warnings.push(format!(
                "clock.offset is {offset}: this node's clock is wrong on purpose. It is for tests of skew and has no \
                 place in a cluster that holds data"
            ));
        }
    }
}

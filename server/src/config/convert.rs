//! The settings as the libraries below take them.

use std::time::Duration;

use cube_replication::anti_entropy::Settings as AntiEntropy;
use cube_replication::anti_entropy::schedule::Pace;
use cube_replication::anti_entropy::scrub::ScrubSettings as Scrub;
use cube_replication::coordinator::Settings;
use cube_replication::handoff::HandoffSettings;
use cube_storage::SyncPolicy;
use cube_storage::engine::RocksOptions;
use cube_storage::hints::HintLimits;
use cube_storage::model::{Limits, PartitionBits};
use cube_storage::space::Reserve;

use super::value::ByteSize;
use super::{AntiEntropySettings, Config, Durability, HintSettings, ScrubSettings};

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn ms32(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

fn bytes(size: ByteSize) -> usize {
    usize::try_from(size.0).unwrap_or(usize::MAX)
}

fn count(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

impl Config {
    /// The number of partitions of a cluster that this node founds, as bits.
    pub fn partition_bits(&self) -> PartitionBits {
        // A loaded configuration has a power of two up to 4096.
        u8::try_from(self.partitions.trailing_zeros())
            .ok()
            .and_then(PartitionBits::new)
            .unwrap_or(PartitionBits::DEFAULT)
    }

    /// What requests may hold.
    pub fn store_limits(&self) -> Limits {
        Limits {
            key_bytes_max: bytes(self.limits.key),
            value_bytes_max: bytes(self.limits.value),
            batch_bytes_max: bytes(self.limits.batch),
            batch_rows_max: count(self.limits.batch_rows),
            page_bytes_max: bytes(self.limits.page),
            page_rows_max: count(self.limits.page_rows),
            ttl_ms_max: ms(self.limits.ttl),
        }
    }

    /// How the engine is set up.
    pub fn rocks(&self) -> RocksOptions {
        RocksOptions {
            block_cache_bytes: bytes(self.storage.block_cache),
            write_buffer_bytes: bytes(self.storage.write_buffer),
            background_jobs: self.storage.background_jobs,
            ..RocksOptions::default()
        }
    }

    /// What is kept free on the disk.
    pub fn reserve(&self) -> Reserve {
        Reserve { client_bytes: self.storage.disk_reserve.0, upkeep_bytes: self.storage.upkeep_reserve.0 }
    }

    /// Bytes that may wait to be written.
    pub fn write_queue_bytes_max(&self) -> usize {
        bytes(self.overload.write_queue)
    }

    /// When writes are acknowledged in keyspaces that do not say.
    pub fn sync_policy(&self) -> SyncPolicy {
        match self.storage.durability {
            Durability::Sync => SyncPolicy::Sync,
            Durability::Interval => SyncPolicy::Interval { every_ms: ms32(self.storage.sync_interval) },
        }
    }

    /// What a coordinator is told.
    pub fn coordinator(&self) -> Settings {
        Settings {
            write_timeout_ms: ms32(self.timeouts.write),
            read_timeout_ms: ms32(self.timeouts.read),
            in_flight_max: count(self.overload.in_flight_max),
            in_flight_bytes_max: bytes(self.overload.in_flight_bytes),
            slow_ms: self.slow_ms(),
            ..Settings::default()
        }
    }

    /// From when on a request is slow, in milliseconds, if that is recorded.
    pub fn slow_ms(&self) -> Option<u32> {
        // What is less than a millisecond is rounded up to one: zero stands for none.
        let slow = self.log.slow_requests;
        (!slow.is_zero()).then(|| ms32(slow).max(1))
    }

    /// How far ahead a new stamp may be, in milliseconds.
    pub fn max_drift_ms(&self) -> u64 {
        ms(self.clock.max_drift)
    }
}

impl HintSettings {
    /// What hint logs may hold.
    pub fn limits(&self) -> HintLimits {
        HintLimits {
            keys_max: self.max_per_node,
            bytes_max: self.max_bytes_per_node.0,
            total_bytes_max: self.max_bytes.0,
            ..HintLimits::default()
        }
    }

    /// How old a hint may grow, in milliseconds.
    pub fn window_ms(&self) -> u64 {
        ms(self.window)
    }

    /// What hinted handoff is told, at the start and whenever the settings change.
    pub fn handoff(&self) -> HandoffSettings {
        HandoffSettings {
            enabled: self.enabled,
            window_ms: self.window_ms(),
            check_interval_ms: ms(self.check_interval),
            limits: self.limits(),
        }
    }
}

impl AntiEntropySettings {
    /// What anti-entropy is told, at the start and whenever the settings change.
    pub fn worker(&self) -> AntiEntropy {
        let default = AntiEntropy::default();
        AntiEntropy {
            enabled: self.enabled,
            pace: Pace { interval_ms: ms(self.interval), ..default.pace },
            horizon_ms: ms(self.horizon),
            bytes_per_s: self.bytes_per_second.0,
            rows_per_s: self.rows_per_second.into(),
            purge_interval_ms: ms(self.purge_interval),
            ..default
        }
    }
}

impl ScrubSettings {
    /// What the scrub is told, at the start and whenever the settings change.
    pub fn worker(&self) -> Scrub {
        Scrub { enabled: self.enabled, cycle_ms: ms(self.cycle) }
    }
}

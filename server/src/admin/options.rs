//! Keyspaces and tables as operators write them, and the same again as the catalog keeps them.
//!
//! One form for both ways: what is shown can be sent back. Durations are `"60s"` or seconds, an unknown option is refused
//! by name.

use std::collections::BTreeMap;

use cube_replication::catalog::{Hedge, Table, TableSettings};
use cube_replication::topology::{BadStrategy, Strategy};
use cube_storage::SyncPolicy;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::control::NAME_BYTES_MAX;
use crate::edge::duration::{DurationForm, show_ms};

/// The longest name of a keyspace or a table.
pub const NAME_CHARS_MAX: usize = NAME_BYTES_MAX;

/// What is wrong with a keyspace or a table as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BadOptions {
    /// The replication setting.
    #[error(transparent)]
    Strategy(#[from] BadStrategy),
    /// The name.
    #[error("{name:?} is no name for a {what}: use 1 to {NAME_CHARS_MAX} letters, digits, _ or -, the first a letter")]
    Name {
        /// A keyspace or a table.
        what: &'static str,
        /// The name, cut.
        name: String,
    },
    /// The share of reads that repair.
    #[error("read_repair_chance is a percentage from 0 to 100, not {given}")]
    ReadRepairChance {
        /// What was given.
        given: u64,
    },
    /// When reads are hedged.
    #[error("hedge is \"off\", \"p99\" or a duration like \"20ms\", not {given:?}")]
    Hedge {
        /// What was given.
        given: String,
    },
    /// A duration.
    #[error("{option} is {reason}")]
    Duration {
        /// Which option.
        option: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// When writes are durable.
    #[error("durability is \"sync\" or {{\"interval\": \"100ms\"}}, not {given:?}")]
    Durability {
        /// What was given.
        given: String,
    },
}

/// Whether a keyspace or a table (`what`) may have this name.
pub fn check_name(what: &'static str, name: &str) -> Result<(), BadOptions> {
    let fits = name.len() <= NAME_CHARS_MAX
        && name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.chars().all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-'));
    if fits { Ok(()) } else { Err(BadOptions::Name { what, name: name.chars().take(NAME_CHARS_MAX).collect() }) }
}

/// What a keyspace is created with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyspaceOptions {
    /// How many replicas its rows have, and where.
    pub strategy: Strategy,
    /// When its writes are acknowledged.
    pub sync: SyncPolicy,
}

impl Default for KeyspaceOptions {
    fn default() -> Self {
        Self { strategy: Strategy::Simple { replicas: 3 }, sync: SyncPolicy::Sync }
    }
}

/// What is to become otherwise in a keyspace.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct KeyspaceChange {
    /// How many replicas its rows have, and where.
    pub strategy: Option<Strategy>,
    /// When its writes are acknowledged.
    pub sync: Option<SyncPolicy>,
}

/// What a table is created with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableOptions {
    /// Whether its keys can be scanned by prefix: for the life of the table.
    pub prefix_index: bool,
    /// What may be changed later.
    pub settings: TableSettings,
}

impl Default for TableOptions {
    fn default() -> Self {
        Self { prefix_index: true, settings: TableSettings::default() }
    }
}

/// What is to become otherwise in a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct TableChange {
    /// Refused where it would change: the index is for the life of the table.
    pub prefix_index: Option<bool>,
    /// Of a hundred reads, how many repair.
    pub read_repair_percent: Option<u8>,
    /// When reads are hedged.
    pub hedge: Option<Hedge>,
    /// The grace of deletions.
    pub grace_ms: Option<u64>,
    /// When rows end; `Some(None)` is never.
    pub default_ttl_ms: Option<Option<i64>>,
}

impl TableChange {
    /// What a table's options become.
    pub fn apply(&self, present: TableOptions) -> TableOptions {
        let settings = present.settings;
        TableOptions {
            prefix_index: self.prefix_index.unwrap_or(present.prefix_index),
            settings: TableSettings {
                read_repair_percent: self.read_repair_percent.unwrap_or(settings.read_repair_percent),
                hedge: self.hedge.unwrap_or(settings.hedge),
                grace_ms: self.grace_ms.unwrap_or(settings.grace_ms),
                default_ttl_ms: self.default_ttl_ms.unwrap_or(settings.default_ttl_ms),
            },
        }
    }
}

/// A keyspace as it is written.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyspaceForm {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) replication: Option<ReplicationForm>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) durability: Option<DurabilityForm>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "strategy", rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum ReplicationForm {
    Simple {
        factor: u8,
    },
    Network {
        #[serde(rename = "dataCenters")]
        data_centers: BTreeMap<String, u8>,
    },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged, expecting = "durability is \"sync\" or {\"interval\": \"100ms\"}")]
pub(crate) enum DurabilityForm {
    Word(String),
    Interval(IntervalForm),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct IntervalForm {
    interval: DurationForm,
}

/// A table's options as they are written.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TableForm {
    #[serde(default, skip_serializing_if = "Option::is_none", alias = "readRepairChance")]
    pub(crate) read_repair_chance: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) hedge: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) grace: Option<DurationForm>,
    #[serde(default, skip_serializing_if = "Option::is_none", alias = "prefixIndex")]
    pub(crate) prefix_index: Option<bool>,
    /// Said to be null, rows do not end; not said, it stays as it is.
    #[serde(default, alias = "defaultTtl", deserialize_with = "said", skip_serializing_if = "Option::is_none")]
    pub(crate) default_ttl: Option<Option<DurationForm>>,
}

/// Tells `null` from nothing.
fn said<'de, T: Deserialize<'de>, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(from).map(Some)
}

impl From<&Strategy> for ReplicationForm {
    fn from(strategy: &Strategy) -> Self {
        match strategy {
            Strategy::Simple { replicas } => Self::Simple { factor: *replicas },
            Strategy::Network(factors) => {
                let data_centers = factors.iter().map(|(name, replicas)| (name.to_string(), *replicas)).collect();
                Self::Network { data_centers }
            }
        }
    }
}

impl From<ReplicationForm> for Strategy {
    fn from(form: ReplicationForm) -> Self {
        match form {
            ReplicationForm::Simple { factor } => Self::Simple { replicas: factor },
            ReplicationForm::Network { data_centers } => {
                Self::Network(data_centers.iter().map(|(name, factor)| (name.as_str().into(), *factor)).collect())
            }
        }
    }
}

impl DurabilityForm {
    pub(crate) fn of(sync: SyncPolicy) -> Self {
        match sync {
            SyncPolicy::Sync => Self::Word("sync".to_owned()),
            SyncPolicy::Interval { every_ms } => {
                Self::Interval(IntervalForm { interval: DurationForm::of_ms(u64::from(every_ms)) })
            }
        }
    }

    fn policy(self) -> Result<SyncPolicy, BadOptions> {
        let interval = match self {
            Self::Word(word) if word.eq_ignore_ascii_case("sync") => return Ok(SyncPolicy::Sync),
            Self::Word(given) => return Err(BadOptions::Durability { given }),
            Self::Interval(form) => form.interval,
        };
        let ms = ms_of("the interval of durability", &interval)?;
        let every_ms = u32::try_from(ms).ok().filter(|ms| *ms > 0);
        let refused = || BadOptions::Durability { given: show_ms(ms) };
        Ok(SyncPolicy::Interval { every_ms: every_ms.ok_or_else(refused)? })
    }
}

impl KeyspaceForm {
    /// What is said is changed.
    pub(crate) fn change(self) -> Result<KeyspaceChange, BadOptions> {
        let strategy = self.replication.map(Strategy::from);
        if let Some(strategy) = &strategy {
            strategy.validate()?;
        }
        Ok(KeyspaceChange { strategy, sync: self.durability.map(DurabilityForm::policy).transpose()? })
    }

    /// What is not said is as usual; when writes are acknowledged is as the node was configured.
    pub(crate) fn options(self, usual_sync: SyncPolicy) -> Result<KeyspaceOptions, BadOptions> {
        let KeyspaceChange { strategy, sync } = self.change()?;
        let usual = KeyspaceOptions::default();
        Ok(KeyspaceOptions { strategy: strategy.unwrap_or(usual.strategy), sync: sync.unwrap_or(usual_sync) })
    }

    pub(crate) fn of(options: &KeyspaceOptions) -> Self {
        let durability = DurabilityForm::of(options.sync);
        Self { replication: Some((&options.strategy).into()), durability: Some(durability) }
    }
}

impl TableForm {
    /// What is said is changed.
    pub(crate) fn change(self) -> Result<TableChange, BadOptions> {
        let percent = |given: u64| {
            let fits = u8::try_from(given).ok().filter(|percent| *percent <= 100);
            fits.ok_or(BadOptions::ReadRepairChance { given })
        };
        Ok(TableChange {
            prefix_index: self.prefix_index,
            read_repair_percent: self.read_repair_chance.map(percent).transpose()?,
            hedge: self.hedge.as_deref().map(parse_hedge).transpose()?,
            grace_ms: self.grace.map(|grace| ms_of("grace", &grace)).transpose()?,
            default_ttl_ms: self.default_ttl.map(|ttl| ttl.map(|ttl| default_ttl_ms(&ttl)).transpose()).transpose()?,
        })
    }

    /// What is not said is as usual.
    pub(crate) fn options(self) -> Result<TableOptions, BadOptions> {
        Ok(self.change()?.apply(TableOptions::default()))
    }

    pub(crate) fn of(options: &TableOptions) -> Self {
        let TableSettings { read_repair_percent, hedge, grace_ms, default_ttl_ms } = options.settings;
        let hedge = show_hedge(hedge);
        let default_ttl = default_ttl_ms.map(|ms| DurationForm::of_ms(u64::try_from(ms).unwrap_or_default()));
        Self {
            read_repair_chance: Some(u64::from(read_repair_percent)),
            hedge: Some(hedge),
            grace: Some(DurationForm::of_ms(grace_ms)),
            prefix_index: Some(options.prefix_index),
            default_ttl: Some(default_ttl),
        }
    }
}

impl From<&Table> for TableOptions {
    fn from(table: &Table) -> Self {
        Self { prefix_index: table.prefix_index, settings: table.settings }
    }
}

fn ms_of(option: &'static str, form: &DurationForm) -> Result<u64, BadOptions> {
    let ms = form.ms().map_err(|reason| BadOptions::Duration { option, reason })?;
    u64::try_from(ms).map_err(|_| BadOptions::Duration { option, reason: "never negative".to_owned() })
}

/// A time to live of nothing would end rows before they begin.
fn default_ttl_ms(form: &DurationForm) -> Result<i64, BadOptions> {
    let option = "default_ttl";
    let ms = form.ms().map_err(|reason| BadOptions::Duration { option, reason })?;
    if ms > 0 { Ok(ms) } else { Err(BadOptions::Duration { option, reason: "at least 1ms, or null".to_owned() }) }
}

pub(crate) fn show_hedge(hedge: Hedge) -> String {
    match hedge {
        Hedge::Off => "off".to_owned(),
        Hedge::P99 => "p99".to_owned(),
        Hedge::After { ms } => show_ms(u64::from(ms)),
    }
}

fn parse_hedge(word: &str) -> Result<Hedge, BadOptions> {
    if word.eq_ignore_ascii_case("off") {
        return Ok(Hedge::Off);
    }
    if word.eq_ignore_ascii_case("p99") {
        return Ok(Hedge::P99);
    }
    let ms = humantime::parse_duration(word).ok().and_then(|after| u32::try_from(after.as_millis()).ok());
    let refused = || BadOptions::Hedge { given: word.chars().take(NAME_CHARS_MAX).collect() };
    ms.filter(|ms| *ms > 0).map(|ms| Hedge::After { ms }).ok_or_else(refused)
}

//! What clients say and hear, typed: keys, versions, levels, answers.
//!
//! Wire messages stop here: each type knows how to become its message, or how to be made of one.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use cube_proto::v1;
/// What was done for a request, as the node tells it: `docs/reads.md` explains the words.
pub use cube_proto::v1::{
    Explained, ExplainedHint, ExplainedMessage, ExplainedOutcome, ExplainedRecord, ExplainedRow, ExplainedStale,
};

/// Which row: a partition key, which places it, and an optional sort key, which orders it among the rows that share
/// the partition key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Key {
    /// Places the row. Never empty.
    pub partition: Bytes,
    /// Empty for most rows.
    pub sort: Bytes,
}

impl Key {
    /// A row that has a sort key.
    pub fn sorted(partition: impl Into<Bytes>, sort: impl Into<Bytes>) -> Self {
        Self { partition: partition.into(), sort: sort.into() }
    }

    pub(crate) fn wire(self) -> v1::RowKey {
        v1::RowKey { partition: self.partition, sort: self.sort }
    }

    pub(crate) fn of(key: Option<v1::RowKey>) -> Self {
        key.unwrap_or_default().into()
    }
}

impl From<v1::RowKey> for Key {
    fn from(key: v1::RowKey) -> Self {
        Self { partition: key.partition, sort: key.sort }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.partition.escape_ascii())?;
        if self.sort.is_empty() { Ok(()) } else { write!(f, " / {}", self.sort.escape_ascii()) }
    }
}

macro_rules! partition_from {
    ($($from:ty),*) => {
        $(impl From<$from> for Key {
            fn from(partition: $from) -> Self {
                Self { partition: Bytes::from(partition), sort: Bytes::new() }
            }
        })*
    };
}

partition_from!(String, Vec<u8>, Bytes);

impl From<&str> for Key {
    fn from(partition: &str) -> Self {
        partition.to_owned().into()
    }
}

impl From<&[u8]> for Key {
    fn from(partition: &[u8]) -> Self {
        partition.to_vec().into()
    }
}

/// What orders the writes of a row: the greater one wins.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Version {
    /// 48 bits of milliseconds since 1970, 16 bits of counter.
    pub hlc: u64,
    /// The number of the node that gave it; the greatest there is where a client chose the timestamp.
    pub node: u16,
}

impl Version {
    /// Milliseconds since 1970.
    pub const fn millis(self) -> u64 {
        self.hlc >> 16
    }

    pub(crate) fn wire(self) -> v1::Version {
        v1::Version { hlc: self.hlc, node: self.node.into() }
    }

    pub(crate) fn of(version: v1::Version) -> Self {
        version.into()
    }
}

impl From<v1::Version> for Version {
    fn from(version: v1::Version) -> Self {
        // Nodes are numbered in 16 bits.
        Self { hlc: version.hlc, node: u16::try_from(version.node).unwrap_or(u16::MAX) }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}@n{}", self.millis(), self.hlc & 0xffff, self.node)
    }
}

/// How many replicas must have answered before a request is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Level {
    /// One replica, or a durable hint for one. For writes alone.
    Any,
    /// One replica.
    One,
    /// Two replicas.
    Two,
    /// Three replicas.
    Three,
    /// A majority of the replicas of all data centers together.
    #[default]
    Quorum,
    /// Every replica.
    All,
    /// One replica in the data center of the node that is asked.
    LocalOne,
    /// A majority in the data center of the node that is asked.
    LocalQuorum,
    /// A majority in every data center.
    EachQuorum,
}

/// Every level with its name, in the order in which people are told of them.
const LEVELS: [(Level, &str); 9] = [
    (Level::Any, "ANY"),
    (Level::One, "ONE"),
    (Level::Two, "TWO"),
    (Level::Three, "THREE"),
    (Level::Quorum, "QUORUM"),
    (Level::All, "ALL"),
    (Level::LocalOne, "LOCAL_ONE"),
    (Level::LocalQuorum, "LOCAL_QUORUM"),
    (Level::EachQuorum, "EACH_QUORUM"),
];

impl Level {
    /// Every level there is.
    pub fn all() -> impl Iterator<Item = Self> {
        LEVELS.into_iter().map(|(level, _)| level)
    }

    /// The name that REST, the shell and the messages of errors use.
    pub fn name(self) -> &'static str {
        LEVELS.iter().find(|(level, _)| *level == self).map_or("QUORUM", |(_, name)| name)
    }

    pub(crate) fn wire(self) -> v1::Level {
        match self {
            Self::Any => v1::Level::Any,
            Self::One => v1::Level::One,
            Self::Two => v1::Level::Two,
            Self::Three => v1::Level::Three,
            Self::Quorum => v1::Level::Quorum,
            Self::All => v1::Level::All,
            Self::LocalOne => v1::Level::LocalOne,
            Self::LocalQuorum => v1::Level::LocalQuorum,
            Self::EachQuorum => v1::Level::EachQuorum,
        }
    }

    pub(crate) fn of(level: v1::Level) -> Self {
        LEVELS.into_iter().find(|(known, _)| known.wire() == level).map(|(known, _)| known).unwrap_or_default()
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// There is no level of that name.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "there is no level {given:?}: it is one of ANY, ONE, TWO, THREE, QUORUM, ALL, LOCAL_ONE, LOCAL_QUORUM, EACH_QUORUM"
)]
pub struct UnknownLevel {
    /// What was given.
    pub given: String,
}

impl FromStr for Level {
    type Err = UnknownLevel;

    fn from_str(given: &str) -> Result<Self, UnknownLevel> {
        LEVELS
            .into_iter()
            .find(|(_, name)| name.eq_ignore_ascii_case(given))
            .map(|(level, _)| level)
            .ok_or_else(|| UnknownLevel { given: given.to_owned() })
    }
}

/// What came of a write that met its level.
#[derive(Clone, PartialEq, Debug)]
pub struct Written {
    /// The version that the rows got.
    pub version: Version,
    /// The level that was met.
    pub level: Level,
    /// The names of the replicas that hold the rows durably.
    pub acknowledged_by: Vec<String>,
    /// The names of the replicas that were known to miss them, and have a durable hint.
    pub hinted_for: Vec<String>,
    /// The names of those for which only the range is noted, to be repaired.
    pub marked_for: Vec<String>,
    /// A newer version that some replica holds: not this write is read, but that one.
    pub superseded_by: Option<Version>,
    /// What was done for it, where that was asked for.
    pub explained: Option<Box<Explained>>,
}

impl Written {
    pub(crate) fn of(reply: v1::WriteReply) -> Self {
        Self {
            level: Level::of(reply.level()),
            version: Version::of(reply.version.unwrap_or_default()),
            acknowledged_by: reply.acknowledged_by,
            hinted_for: reply.hinted_for,
            marked_for: reply.marked_for,
            superseded_by: reply.superseded_by.map(Version::of),
            explained: reply.explained,
        }
    }
}

/// What a read found.
#[derive(Clone, PartialEq, Debug)]
pub struct Found {
    /// The row's value, if it has one.
    pub value: Option<Bytes>,
    /// The version of the value, or of the deletion if the row is known to be deleted or has ended.
    pub version: Option<Version>,
    /// When the value ends, milliseconds since 1970.
    pub expires_at_ms: Option<u64>,
    /// What was done for it, where that was asked for.
    pub explained: Option<Box<Explained>>,
}

impl Found {
    pub(crate) fn of(reply: v1::GetReply) -> Self {
        Self {
            value: reply.found.then_some(reply.value),
            version: reply.version.map(Version::of),
            expires_at_ms: reply.expires_at_ms,
            explained: reply.explained,
        }
    }
}

/// A row of a range.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// Which one.
    pub key: Key,
    /// Its value.
    pub value: Bytes,
    /// The version of the value.
    pub version: Version,
    /// When the value ends, milliseconds since 1970.
    pub expires_at_ms: Option<u64>,
}

impl Row {
    pub(crate) fn of(row: v1::RangeRow) -> Self {
        Self {
            key: Key::of(row.key),
            value: row.value,
            version: Version::of(row.version.unwrap_or_default()),
            expires_at_ms: row.expires_at_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_is_told_and_understood_by_its_name() {
        for level in Level::all() {
            assert_eq!(level.name().to_lowercase().parse::<Level>().unwrap(), level);
            assert_eq!(Level::of(level.wire()), level);
        }
        assert!("MOST".parse::<Level>().unwrap_err().to_string().contains("EACH_QUORUM"));
    }

    #[test]
    fn a_level_that_is_not_told_is_quorum() {
        assert_eq!(Level::of(v1::Level::Unspecified), Level::Quorum);
        assert_eq!(Level::default(), Level::Quorum);
    }

    #[test]
    fn keys_are_shown_so_that_people_can_read_them() {
        assert_eq!(Key::from("user:1").to_string(), "user:1");
        assert_eq!(Key::sorted("user:1", vec![0, b'a']).to_string(), "user:1 / \\x00a");
    }
}

//! The version of a row: a hybrid logical clock reading and the node that gave it.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::NodeId;

/// A hybrid logical clock reading: 48 bits of milliseconds since 1970 and a 16-bit counter, compared as one number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
pub struct Hlc(pub u64);

impl Hlc {
    /// The greatest number of milliseconds a reading can hold (the year 10889).
    pub const MILLIS_MAX: u64 = (1 << 48) - 1;

    /// A reading of `millis` since 1970 (capped at [`Hlc::MILLIS_MAX`]) with `counter`.
    pub const fn new(millis: u64, counter: u16) -> Self {
        let millis = if millis > Self::MILLIS_MAX { Self::MILLIS_MAX } else { millis };
        Self((millis << 16) | counter as u64)
    }

    /// Milliseconds since 1970.
    pub const fn millis(self) -> u64 {
        self.0 >> 16
    }

    /// How many readings of the same millisecond came before this one.
    pub const fn counter(self) -> u16 {
        (self.0 & 0xffff) as u16
    }

    /// The next greater reading. The last one there is stays itself.
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Hlc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.millis(), self.counter())
    }
}

impl fmt::Debug for Hlc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What orders two records of one row: the greater wins everywhere. Two coordinators never give the same version,
/// because the node is part of it. Clients that choose the same timestamp do: of two such records a deletion wins, or else
/// the greater value by its bytes, everywhere alike.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Version {
    /// When, by the coordinator's hybrid clock.
    pub hlc: Hlc,
    /// Which coordinator; [`NodeId::CLIENT`] where the client chose the timestamp.
    pub node: NodeId,
}

impl Version {
    /// Less than every version a clock gives.
    pub const ZERO: Self = Self { hlc: Hlc(0), node: NodeId(0) };

    /// A version at `hlc` by `node`.
    pub const fn new(hlc: Hlc, node: NodeId) -> Self {
        Self { hlc, node }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.hlc, self.node)
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

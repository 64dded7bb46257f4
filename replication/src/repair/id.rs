//! What a repair job is called: when it was asked for, by the hybrid clock, and of which node. So no two jobs share an
//! id, the older of two is told by it, and whoever is asked for one knows whom to ask.

use std::fmt;
use std::str::FromStr;

use cube_storage::model::{Hlc, NodeId, Version};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The id of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RepairId(Version);

impl RepairId {
    /// The id of a job that is asked for with this version, which nobody uses for anything else.
    pub fn new(stamp: Version) -> Self {
        Self(stamp)
    }

    /// The node that runs it.
    pub fn node(self) -> NodeId {
        self.0.node
    }
}

impl fmt::Display for RepairId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:016x}-{}", self.0.hlc.0, self.0.node.0)
    }
}

/// The text is not the id of a job.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("this is not the id of a repair, which is 16 hex digits, a dash and the number of a node")]
pub struct BadRepairId;

impl FromStr for RepairId {
    type Err = BadRepairId;

    fn from_str(text: &str) -> Result<Self, BadRepairId> {
        let (hlc, node) = text.split_once('-').ok_or(BadRepairId)?;
        let hlc = u64::from_str_radix(hlc, 16).map_err(|_| BadRepairId)?;
        let id = Self(Version::new(Hlc(hlc), NodeId(node.parse().map_err(|_| BadRepairId)?)));
        // One job, one spelling: the id is a file name.
        if id.to_string() == text { Ok(id) } else { Err(BadRepairId) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_and_nothing_else_does() {
        let id = RepairId::new(Version::new(Hlc(0x0001_89ab_cdef_0123), NodeId(17)));
        assert_eq!(id.to_string(), "000189abcdef0123-17");
        assert_eq!("000189abcdef0123-17".parse(), Ok(id));
        assert_eq!(id.node(), NodeId(17));
        for text in
            ["", "-", "1-1", "000189abcdef0123", "000189ABCDEF0123-17", "000189abcdef0123-017", "+00189abcdef0123-1"]
        {
            assert_eq!(text.parse::<RepairId>(), Err(BadRepairId), "{text:?}");
        }
    }
}

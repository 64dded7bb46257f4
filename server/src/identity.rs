//! Who a node is, kept in its data directory: which cluster, which member, which directory.
//!
//! Invariants: an identity is written once, before the node takes part in anything, and never changes; the instance is
//! drawn before the node first asks to join, so that a join asked twice is one join, and a wiped directory is told from
//! the one before it; the generation grows, durably, with every start. One process at a time owns a directory.
//!
//! `data_dir.rs` opens a directory, `lock.rs` keeps others out, `note.rs` is how the small files are written.

mod data_dir;
mod lock;
mod note;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

use cube_storage::merkle::MerkleKey;
use cube_storage::model::{NodeId, PartitionBits};
use rand::TryRngCore;
use rand::rngs::OsRng;
use serde::{Deserialize, Serialize};

pub use self::data_dir::{DataDir, DataDirError};
pub use self::lock::{DirLock, LockError};

macro_rules! id128 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(into = "String", try_from = "String")]
        pub struct $name(pub u128);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.to_string()
            }
        }

        impl FromStr for $name {
            type Err = std::num::ParseIntError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                u128::from_str_radix(text, 16).map(Self)
            }
        }

        impl TryFrom<String> for $name {
            type Error = std::num::ParseIntError;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }
    };
}

id128!(
    /// A cluster. Drawn when it is formed; nodes of different clusters refuse each other.
    ClusterId
);
id128!(
    /// A data directory. Drawn when it is first used: a node whose directory was wiped is another instance.
    InstanceId
);

/// Which member of which cluster a data directory is. Written once, when the node has formed or joined the cluster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The member's number.
    pub node: NodeId,
    /// The member's name.
    pub name: String,
    /// The key of the cluster's Merkle hashes.
    pub merkle_key: MerkleKey,
    /// The number of the cluster's partitions, as bits.
    pub partition_bits: PartitionBits,
    /// Whether this node formed the cluster. It holds partitions from the start, with nobody to copy them from.
    pub founder: bool,
}

/// The operating system gave no randomness.
#[derive(Debug, thiserror::Error)]
#[error("the operating system gives no random numbers, so no identifier can be drawn: {0}")]
pub struct NoRandomness(#[from] rand::rand_core::OsError);

fn draw() -> Result<u128, NoRandomness> {
    let mut bytes = [0; 16];
    OsRng.try_fill_bytes(&mut bytes)?;
    Ok(u128::from_be_bytes(bytes))
}

impl ClusterId {
    /// One that no other cluster has.
    pub fn draw() -> Result<Self, NoRandomness> {
        draw().map(Self)
    }
}

impl InstanceId {
    /// One that no other directory has.
    pub fn draw() -> Result<Self, NoRandomness> {
        draw().map(Self)
    }
}

/// A Merkle key for a new cluster.
pub fn draw_merkle_key() -> Result<MerkleKey, NoRandomness> {
    draw().map(|bits| MerkleKey(bits.to_be_bytes()))
}

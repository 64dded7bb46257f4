//! Identifiers given out by the cluster's hard state. None of them is ever used twice.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

id!(
    /// A member of the cluster, by its dense number. A wiped data directory is a new node with a new id.
    NodeId(u16), "n"
);
impl NodeId {
    /// No member: it stands for the coordinator in a version whose timestamp the client chose. So the same request makes
    /// the same version through whichever node it comes, and may be sent again through another one.
    pub const CLIENT: Self = Self(u16::MAX);
}

id!(
    /// A table. A table that is dropped and created again under its old name has a new id.
    TableId(u32), "t"
);
id!(
    /// One of the fixed number of partitions of the token range.
    PartitionId(u16), "p"
);
id!(
    /// One replication setting and the assignment of partitions to replicas made for it. Tables whose keyspaces
    /// replicate alike share one.
    PlacementId(u32), "s"
);
id!(
    /// The number of a partition's map. It grows with every change of the partition's replicas.
    Epoch(u64), "e"
);

//! How many replicas a row has, and in which data centers.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{DataCenter, ReplicaSet};

/// What an operator asked for when creating a keyspace.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Strategy {
    /// So many replicas anywhere. Data centers only tell racks of the same name apart.
    Simple {
        /// Replicas of each partition.
        replicas: u8,
    },
    /// So many replicas in each of the named data centers, and none elsewhere.
    Network(BTreeMap<DataCenter, u8>),
}

impl Strategy {
    /// Refuses what could never hold a row, and what is beyond the bound on replicas.
    pub fn validate(&self) -> Result<(), BadStrategy> {
        if let Self::Network(factors) = self
            && let Some((data_center, _)) = factors.iter().find(|(_, replicas)| **replicas == 0)
        {
            return Err(BadStrategy::NoReplicasIn { data_center: data_center.clone() });
        }
        match self.replicas() {
            0 => Err(BadStrategy::NoReplicas),
            replicas if replicas > ReplicaSet::REPLICAS_MAX => Err(BadStrategy::TooManyReplicas { replicas }),
            _ => Ok(()),
        }
    }

    /// Replicas of each partition, when there are members enough.
    pub fn replicas(&self) -> usize {
        match self {
            Self::Simple { replicas } => usize::from(*replicas),
            Self::Network(factors) => factors.values().map(|replicas| usize::from(*replicas)).sum(),
        }
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Simple { replicas } => write!(f, "simple({replicas})"),
            Self::Network(factors) => {
                f.write_str("network({")?;
                for (index, (data_center, replicas)) in factors.iter().enumerate() {
                    let comma = if index == 0 { "" } else { ", " };
                    write!(f, "{comma}{data_center}: {replicas}")?;
                }
                f.write_str("})")
            }
        }
    }
}

/// A replication setting that is refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadStrategy {
    /// A factor of 0, or no data center at all.
    #[error("a replication setting needs at least one replica")]
    NoReplicas,
    /// A data center is named and given nothing.
    #[error("the replication setting gives data center {data_center} no replicas: leave it out instead")]
    NoReplicasIn {
        /// The one.
        data_center: DataCenter,
    },
    /// More than a partition may have.
    #[error("{replicas} replicas are more than the {} a partition may have", ReplicaSet::REPLICAS_MAX)]
    TooManyReplicas {
        /// All data centers together.
        replicas: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(factors: &[(&str, u8)]) -> Strategy {
        Strategy::Network(factors.iter().map(|(name, replicas)| ((*name).into(), *replicas)).collect())
    }

    #[test]
    fn settings_that_can_hold_no_row_or_too_many_copies_are_refused() {
        assert_eq!(Strategy::Simple { replicas: 3 }.validate(), Ok(()));
        assert_eq!(network(&[("dc1", 3), ("dc2", 2)]).validate(), Ok(()));
        assert_eq!(Strategy::Simple { replicas: 0 }.validate(), Err(BadStrategy::NoReplicas));
        assert_eq!(network(&[]).validate(), Err(BadStrategy::NoReplicas));
        assert_eq!(
            network(&[("dc1", 3), ("dc2", 0)]).validate(),
            Err(BadStrategy::NoReplicasIn { data_center: "dc2".into() })
        );
        assert_eq!(network(&[("dc1", 40), ("dc2", 30)]).validate(), Err(BadStrategy::TooManyReplicas { replicas: 70 }));
    }

    #[test]
    fn a_setting_is_shown_as_it_is_written() {
        assert_eq!(Strategy::Simple { replicas: 3 }.to_string(), "simple(3)");
        assert_eq!(network(&[("dc2", 2), ("dc1", 3)]).to_string(), "network({dc1: 3, dc2: 2})");
    }
}

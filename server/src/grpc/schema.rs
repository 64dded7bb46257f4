//! Keyspaces, tables and their options as messages, and the other way around by the one form that REST reads as well.

use cube_proto::v1;
use cube_replication::catalog::{ClusterState, Keyspace, TableSettings};
use cube_replication::topology::Strategy;
use cube_storage::SyncPolicy;

use crate::admin::TableOptions;
use crate::admin::options::{DurabilityForm, KeyspaceForm, ReplicationForm, TableForm, show_hedge};
use crate::edge::EdgeError;
use crate::edge::duration::DurationForm;

/// Who holds what, of every replication setting.
pub(super) fn placements(state: &ClusterState) -> Vec<v1::Placement> {
    let placements = state.topology.placements().map(|(id, placement)| {
        let follows = |(name, space): (&String, &Keyspace)| (space.placement == id).then(|| name.clone());
        let partitions = placement.partitions().map(|(_, map)| v1::Partition {
            epoch: map.epoch().0,
            replicas: map.serving().nodes().iter().map(|node| u32::from(node.0)).collect(),
            pending: map.pending().map(|node| u32::from(node.0)).collect(),
        });
        v1::Placement {
            replication: placement.strategy().to_string(),
            keyspaces: state.schema.keyspaces.iter().filter_map(follows).collect(),
            partitions: partitions.collect(),
        }
    });
    placements.collect()
}

/// The whole schema.
pub(super) fn keyspaces(state: &ClusterState) -> Vec<v1::Keyspace> {
    let keyspaces = state.schema.keyspaces.iter().map(|(name, space)| {
        let tables = space
            .tables
            .iter()
            .map(|(name, table)| v1::Table { name: name.clone(), options: Some(table_message(&table.into())) });
        let placement = state.topology.placement(space.placement);
        v1::Keyspace {
            name: name.clone(),
            options: Some(v1::KeyspaceOptions {
                replication: placement.map(|placement| replication_message(placement.strategy())),
                durability: Some(v1::Durability { interval_ms: interval_ms(space.sync) }),
            }),
            tables: tables.collect(),
        }
    });
    keyspaces.collect()
}

fn interval_ms(sync: SyncPolicy) -> u32 {
    match sync {
        SyncPolicy::Sync => 0,
        SyncPolicy::Interval { every_ms } => every_ms,
    }
}

fn replication_message(strategy: &Strategy) -> v1::Replication {
    let strategy = match strategy {
        Strategy::Simple { replicas } => v1::replication::Strategy::Simple(u32::from(*replicas)),
        Strategy::Network(factors) => {
            let replicas = factors.iter().map(|(name, replicas)| (name.to_string(), u32::from(*replicas))).collect();
            v1::replication::Strategy::Network(v1::DataCenters { replicas })
        }
    };
    v1::Replication { strategy: Some(strategy) }
}

fn table_message(options: &TableOptions) -> v1::TableOptions {
    let TableSettings { read_repair_percent, hedge, grace_ms, default_ttl_ms } = options.settings;
    v1::TableOptions {
        read_repair_chance: Some(u32::from(read_repair_percent)),
        hedge: Some(show_hedge(hedge)),
        grace_ms: Some(grace_ms),
        prefix_index: Some(options.prefix_index),
        default_ttl_ms: Some(default_ttl_ms.and_then(|ms| u64::try_from(ms).ok()).unwrap_or_default()),
    }
}

/// A keyspace's options as an operator would write them.
pub(super) fn keyspace_form(options: Option<v1::KeyspaceOptions>) -> Result<KeyspaceForm, EdgeError> {
    let v1::KeyspaceOptions { replication, durability } = options.unwrap_or_default();
    let replication = replication.and_then(|replication| replication.strategy).map(replication_form).transpose()?;
    let durability = durability.map(|durability| match durability.interval_ms {
        0 => DurabilityForm::of(SyncPolicy::Sync),
        every_ms => DurabilityForm::of(SyncPolicy::Interval { every_ms }),
    });
    Ok(KeyspaceForm { replication, durability })
}

fn replication_form(strategy: v1::replication::Strategy) -> Result<ReplicationForm, EdgeError> {
    let factor = |replicas: u32| {
        let too_many = || EdgeError::invalid(format!("{replicas} replicas are more than a partition may have"));
        u8::try_from(replicas).map_err(|_| too_many())
    };
    Ok(match strategy {
        v1::replication::Strategy::Simple(replicas) => ReplicationForm::Simple { factor: factor(replicas)? },
        v1::replication::Strategy::Network(v1::DataCenters { replicas }) => {
            let data_centers = replicas.into_iter().map(|(name, replicas)| Ok((name, factor(replicas)?)));
            ReplicationForm::Network { data_centers: data_centers.collect::<Result<_, EdgeError>>()? }
        }
    })
}

/// A table's options as an operator would write them.
pub(super) fn table_form(options: Option<v1::TableOptions>) -> TableForm {
    let v1::TableOptions { read_repair_chance, hedge, grace_ms, prefix_index, default_ttl_ms } =
        options.unwrap_or_default();
    TableForm {
        read_repair_chance: read_repair_chance.map(u64::from),
        hedge,
        grace: grace_ms.map(DurationForm::of_ms),
        prefix_index,
        default_ttl: default_ttl_ms.map(|ms| (ms > 0).then(|| DurationForm::of_ms(ms))),
    }
}

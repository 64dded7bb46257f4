//! Members, how node and cluster fare, and numbers as messages.

use std::collections::BTreeMap;

use cube_proto::v1;
use cube_replication::coordinator::{ReadFigures, Repairs};

use super::hints;
use crate::admin::{ClusterHealth, ClusterStatus, Health, Lost, NodeStatus, NodeView, OneMore, Readiness};
use crate::edge::Stats;

/// A member, as this node sees it.
pub(super) fn member(view: NodeView) -> v1::Node {
    let (addresses, vitals) = (view.addresses, view.vitals);
    v1::Node {
        id: u32::from(view.id),
        name: view.name,
        data_center: view.data_center,
        rack: view.rack,
        weight: view.weight,
        addresses: Some(v1::Addresses {
            http: addresses.http,
            grpc: addresses.grpc,
            peer: addresses.peer,
            gossip: addresses.gossip,
        }),
        alive: view.status == NodeStatus::Alive,
        state: view.state.to_string(),
        version: vitals.version,
        load_percent: vitals.load_percent,
        requests_in_flight: vitals.requests_in_flight,
        hints: vitals.hints,
        oldest_hint_age_ms: vitals.oldest_hint_age_ms,
        clock_offset_ms: vitals.clock_offset_ms,
        started_at_ms: vitals.started_at_ms,
        leaving: view.leaving.map(|leaving| v1::Leaving {
            by: leaving.by.to_owned(),
            partitions: leaving.partitions,
            hints: leaving.hints,
            marks: leaving.marks,
        }),
        drain: vitals.drain.map(|drain| drain.name().to_owned()),
    }
}

/// How this node fares.
pub(super) fn health(health: Health) -> v1::HealthReply {
    let Readiness { missing, .. } = Readiness::of(&health);
    v1::HealthReply {
        serves: health.serves(),
        node: health.node,
        state: health.state,
        reasons: health.reasons,
        warnings: health.warnings,
        ready: missing.is_empty(),
        missing,
    }
}

/// How the cluster fares.
pub(super) fn cluster_health(health: ClusterHealth) -> v1::ClusterHealthReply {
    let ClusterHealth { status, summary, epoch, members, down, control, keyspaces, if_one_more_died } = health;
    let keyspaces = keyspaces.into_iter().map(|keyspace| v1::KeyspaceHealth {
        name: keyspace.name,
        replication: keyspace.replication,
        partitions: count(keyspace.partitions),
        lost: Some(lost(keyspace.lost)),
    });
    v1::ClusterHealthReply {
        status: word(status).to_owned(),
        summary,
        epoch,
        members: count(members),
        down,
        voters: control.voters,
        voters_required: count(control.required),
        voters_alive: count(control.alive),
        keyspaces: keyspaces.collect(),
        if_one_more_died: if_one_more_died.into_iter().map(one_more).collect(),
    }
}

const fn word(status: ClusterStatus) -> &'static str {
    match status {
        ClusterStatus::Healthy => "HEALTHY",
        ClusterStatus::Degraded => "DEGRADED",
        ClusterStatus::AtRisk => "AT_RISK",
        ClusterStatus::Unavailable => "UNAVAILABLE",
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn lost(lost: Lost) -> v1::LostLevels {
    let local = lost.without_local_quorum.into_iter().map(|(name, partitions)| (name, count(partitions)));
    v1::LostLevels {
        without_quorum: count(lost.without_quorum),
        without_local_quorum: local.collect(),
        without_any_replica: count(lost.without_any_replica),
    }
}

fn one_more(died: OneMore) -> v1::OneMoreDied {
    let keyspaces = died.keyspaces.into_iter();
    let keyspaces = keyspaces.map(|keyspace| v1::KeyspaceLoss { name: keyspace.name, lost: Some(lost(keyspace.lost)) });
    v1::OneMoreDied { node: died.node, keyspaces: keyspaces.collect(), no_majority: died.no_majority }
}

/// The numbers of this node.
pub(super) fn stats(stats: Stats) -> v1::StatsReply {
    let Stats { lines, hints, reads } = stats;
    v1::StatsReply { lines, hints: Some(hints::reply(hints)), reads: tables(reads) }
}

fn tables<M: FromIterator<(String, v1::TableReads)>>(reads: BTreeMap<String, ReadFigures>) -> M {
    let told = |figures: ReadFigures| v1::TableReads {
        digest_mismatches: figures.digest_mismatches,
        stale_reads: figures.stale_reads,
        chance_reads: figures.chance_reads,
        hedges_sent: figures.hedges_sent,
        hedges_helped: figures.hedges_helped,
        blocking_repairs: Some(repairs(figures.blocking_repairs)),
        chance_repairs: Some(repairs(figures.chance_repairs)),
        partial_pages: figures.partial_pages,
    };
    reads.into_iter().map(|(table, figures)| (table, told(figures))).collect()
}

fn repairs(Repairs { repaired, unneeded, failed, skipped }: Repairs) -> v1::RowRepairs {
    v1::RowRepairs { repaired, unneeded, failed, skipped }
}

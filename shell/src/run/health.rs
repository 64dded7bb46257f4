//! HEALTH: for each keyspace, whether QUORUM works now and whether it would if one more node died. Worked out here from
//! who holds what and who is alive.

use std::collections::BTreeSet;

use cube_client::admin::{Member, Partition, Placement, Topology};

use crate::error::ShellError;
use crate::outcome::{Cell, Outcome, Rows, Tone};
use crate::session::Session;

/// How a keyspace stands at QUORUM.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Standing {
    /// Partitions that have no majority now.
    lost: usize,
    /// Partitions that would have none if the worst node died.
    would_be_lost: usize,
    /// The nodes whose death alone would take a majority from some partition.
    critical: Vec<String>,
}

fn has_majority(partition: &Partition, alive: &BTreeSet<u32>) -> bool {
    let living = partition.replicas.iter().filter(|id| alive.contains(id)).count();
    !partition.replicas.is_empty() && living > partition.replicas.len() / 2
}

fn lost(placement: &Placement, alive: &BTreeSet<u32>) -> usize {
    placement.partitions.iter().filter(|partition| !has_majority(partition, alive)).count()
}

fn standing(placement: &Placement, members: &[Member]) -> Standing {
    let alive: BTreeSet<u32> = members.iter().filter(|member| member.alive).map(|member| member.id).collect();
    let now = lost(placement, &alive);
    let mut would_be_lost = now;
    let mut critical = Vec::new();
    for member in members.iter().filter(|member| member.alive) {
        let mut without = alive.clone();
        without.remove(&member.id);
        let then = lost(placement, &without);
        if then > now {
            critical.push(member.name.clone());
        }
        would_be_lost = would_be_lost.max(then);
    }
    Standing { lost: now, would_be_lost, critical }
}

pub(super) async fn health(session: &mut Session) -> Result<Outcome, ShellError> {
    let told = session.admin().await?.topology().await?;
    session.heard(&told.by);
    Ok(of(&told.answer))
}

fn of(topology: &Topology) -> Outcome {
    let down: Vec<String> =
        topology.members.iter().filter(|member| !member.alive).map(|member| member.name.clone()).collect();
    let columns = vec!["keyspace", "replication", "quorum", "ifOneMoreDies", "critical"];
    let mut rows = Rows { columns, rows: Vec::new() };
    let (mut lost, mut at_risk) = (Vec::new(), Vec::new());
    for placement in &topology.placements {
        let standing = standing(placement, &topology.members);
        for keyspace in &placement.keyspaces {
            let now = if standing.lost > 0 { "LOST" } else { "ok" };
            let then = match (standing.lost, standing.critical.is_empty()) {
                (_, true) => "ok",
                (0, false) => "lost",
                (_, false) => "more lost",
            };
            if standing.lost > 0 {
                lost.push(keyspace.clone());
            } else if !standing.critical.is_empty() {
                at_risk.push(keyspace.clone());
            }
            rows.rows.push(vec![
                Cell::text(keyspace),
                Cell::text(&placement.replication),
                Cell::text(now),
                Cell::text(then),
                Cell::Names(standing.critical.clone()),
            ]);
        }
    }
    let count = |count: usize| Cell::Count(u64::try_from(count).unwrap_or(u64::MAX));
    let mut outcome = Outcome::of("HEALTH")
        .fact("healthy", Cell::Bool(down.is_empty() && lost.is_empty()))
        .fact("nodes", count(topology.members.len()))
        .fact("down", Cell::Names(down.clone()))
        .fact("quorumLost", Cell::Names(lost.clone()))
        .fact("atRisk", Cell::Names(at_risk.clone()));
    outcome = match down.as_slice() {
        [] => outcome.line(Tone::Good, format!("all {} nodes are alive", topology.members.len())),
        names => outcome.line(Tone::Warn, format!("DOWN: {}", names.join(", "))),
    };
    outcome = match lost.as_slice() {
        [] => outcome.line(Tone::Good, "QUORUM works for every row of every keyspace"),
        names => outcome.line(Tone::Warn, format!("QUORUM does not work for some rows of: {}", names.join(", "))),
    };
    if !at_risk.is_empty() {
        let told = format!("if one more node died, QUORUM would be lost for some rows of: {}", at_risk.join(", "));
        outcome = outcome.line(Tone::Warn, told);
    }
    outcome.rows(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u32, alive: bool) -> Member {
        Member {
            id,
            name: format!("node-{id}"),
            data_center: "dc1".into(),
            rack: "r1".into(),
            http: String::new(),
            grpc: String::new(),
            alive,
            state: "READY".into(),
            version: None,
            load_percent: None,
            requests_in_flight: None,
            hints: None,
            clock_offset_ms: None,
            started_at_ms: None,
        }
    }

    fn three(alive: [bool; 3]) -> Topology {
        let partition = Partition { replicas: vec![1, 2, 3], pending: Vec::new() };
        Topology {
            epoch: 1,
            partition_bits: 1,
            members: (1..).zip(alive).map(|(id, alive)| member(id, alive)).collect(),
            placements: vec![Placement {
                replication: "simple(3)".into(),
                keyspaces: vec!["default".into()],
                partitions: vec![partition.clone(), partition],
            }],
        }
    }

    fn fact(outcome: &Outcome, name: &str) -> Cell {
        outcome.facts.iter().find(|(known, _)| *known == name).unwrap().1.clone()
    }

    #[test]
    fn with_all_of_three_alive_one_may_die() {
        let outcome = of(&three([true; 3]));
        assert_eq!(fact(&outcome, "healthy"), Cell::Bool(true));
        assert_eq!(fact(&outcome, "atRisk"), Cell::Names(vec![]));
    }

    #[test]
    fn with_two_of_three_alive_each_of_them_is_critical() {
        let outcome = of(&three([true, false, true]));
        assert_eq!(fact(&outcome, "quorumLost"), Cell::Names(vec![]));
        assert_eq!(fact(&outcome, "atRisk"), Cell::Names(vec!["default".into()]));
        let critical = outcome.rows.unwrap().rows[0][4].clone();
        assert_eq!(critical, Cell::Names(vec!["node-1".into(), "node-3".into()]));
    }

    #[test]
    fn with_one_of_three_alive_quorum_is_lost() {
        let outcome = of(&three([false, true, false]));
        assert_eq!(fact(&outcome, "quorumLost"), Cell::Names(vec!["default".into()]));
        assert_eq!(fact(&outcome, "healthy"), Cell::Bool(false));
    }
}

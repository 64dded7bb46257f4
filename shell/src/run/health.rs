//! HEALTH: for each keyspace, whether QUORUM works now and whether it would if one more node died, as the node that is
//! talked to sees it.

use cube_client::admin::{ClusterHealth, KeyspaceHealth, KeyspaceLoss, OneMoreDied};

use crate::error::ShellError;
use crate::outcome::{Cell, Outcome, Rows, Tone};
use crate::session::Session;

pub(super) async fn health(session: &mut Session) -> Result<Outcome, ShellError> {
    let told = session.admin().await?.cluster_health().await?;
    session.heard(&told.by);
    Ok(of(&told.answer))
}

/// The nodes whose death alone would cost this.
fn nodes_that_cost(health: &ClusterHealth, this: impl Fn(&OneMoreDied) -> bool) -> Vec<String> {
    health.if_one_more_died.iter().filter(|died| this(died)).map(|died| died.node.clone()).collect()
}

/// The nodes whose death alone would cost a keyspace its QUORUM in further partitions.
fn critical(health: &ClusterHealth, keyspace: &str) -> Vec<String> {
    let costs = |loss: &KeyspaceLoss| loss.name == keyspace && loss.lost.quorum > 0;
    nodes_that_cost(health, |died| died.keyspaces.iter().any(costs))
}

fn of(health: &ClusterHealth) -> Outcome {
    let named = |which: &dyn Fn(&KeyspaceHealth) -> bool| -> Vec<String> {
        health.keyspaces.iter().filter(|keyspace| which(keyspace)).map(|keyspace| keyspace.name.clone()).collect()
    };
    let is_lost = |keyspace: &KeyspaceHealth| keyspace.lost.quorum > 0;
    let lost = named(&is_lost);
    let at_risk = named(&|keyspace| !is_lost(keyspace) && !critical(health, &keyspace.name).is_empty());
    let has_majority = health.voters_alive >= health.voters_required;
    let outcome = Outcome::of("HEALTH")
        .fact("healthy", Cell::Bool(health.down.is_empty() && lost.is_empty()))
        .fact("status", Cell::text(&health.status))
        .fact("nodes", Cell::Count(health.members.into()))
        .fact("down", Cell::Names(health.down.clone()))
        .fact("quorumLost", Cell::Names(lost.clone()))
        .fact("atRisk", Cell::Names(at_risk.clone()))
        .fact("schemaCanChange", Cell::Bool(has_majority));
    let outcome = match health.down.as_slice() {
        [] => outcome.line(Tone::Good, format!("all {} nodes are alive", health.members)),
        names => outcome.line(Tone::Warn, format!("DOWN: {}", names.join(", "))),
    };
    let outcome = match lost.as_slice() {
        [] => outcome.line(Tone::Good, "QUORUM works for every row of every keyspace"),
        names => outcome.line(Tone::Warn, format!("QUORUM does not work for some rows of: {}", names.join(", "))),
    };
    let outcome = further_losses(outcome, health, &at_risk);
    let columns = vec!["keyspace", "replication", "quorum", "ifOneMoreDies", "critical"];
    let row = |keyspace: &KeyspaceHealth| {
        let critical = critical(health, &keyspace.name);
        let then = match (is_lost(keyspace), critical.is_empty()) {
            (_, true) => "ok",
            (false, false) => "lost",
            (true, false) => "more lost",
        };
        vec![
            Cell::text(&keyspace.name),
            Cell::text(&keyspace.replication),
            Cell::text(if is_lost(keyspace) { "LOST" } else { "ok" }),
            Cell::text(then),
            Cell::Names(critical),
        ]
    };
    outcome.rows(Rows { columns, rows: health.keyspaces.iter().map(row).collect() })
}

/// What does not work beside QUORUM, and what would not if one more node died.
fn further_losses(mut outcome: Outcome, health: &ClusterHealth, at_risk: &[String]) -> Outcome {
    for KeyspaceHealth { name, lost, .. } in &health.keyspaces {
        for data_center in lost.local_quorum.keys() {
            let told = format!("LOCAL_QUORUM does not work in {data_center} for some rows of: {name}");
            outcome = outcome.line(Tone::Warn, told);
        }
        if lost.any_replica > 0 {
            outcome = outcome.line(Tone::Warn, format!("no level works for some rows of: {name}"));
        }
    }
    if health.voters_alive < health.voters_required {
        let told = "keyspaces, tables and members cannot be changed: no majority of the voters is alive";
        outcome = outcome.line(Tone::Warn, told);
    }
    if !at_risk.is_empty() {
        let told = format!("if one more node died, QUORUM would be lost for some rows of: {}", at_risk.join(", "));
        outcome = outcome.line(Tone::Warn, told);
    }
    let votes = nodes_that_cost(health, |died| died.no_majority);
    if !votes.is_empty() {
        let told = format!("keyspaces, tables and members could not be changed without: {}", votes.join(", "));
        outcome = outcome.line(Tone::Warn, told);
    }
    outcome
}

#[cfg(test)]
mod tests {
    use cube_client::admin::LostLevels;

    use super::*;
    use crate::render::Form;

    fn lost(quorum: u32) -> LostLevels {
        LostLevels { quorum, ..LostLevels::default() }
    }

    fn fares(down: &[&str], lost: LostLevels, if_one_more_died: Vec<OneMoreDied>) -> ClusterHealth {
        let (name, replication) = ("default".to_owned(), "simple(3)".to_owned());
        ClusterHealth {
            status: "AT_RISK".to_owned(),
            summary: String::new(),
            members: 3,
            down: down.iter().map(ToString::to_string).collect(),
            voters: Vec::new(),
            voters_required: 2,
            voters_alive: 3,
            keyspaces: vec![KeyspaceHealth { name, replication, partitions: 256, lost }],
            if_one_more_died,
        }
    }

    fn died(node: &str, costs: LostLevels, no_majority: bool) -> OneMoreDied {
        let keyspaces = vec![KeyspaceLoss { name: "default".to_owned(), lost: costs }];
        OneMoreDied { node: node.to_owned(), keyspaces, no_majority }
    }

    fn fact(outcome: &Outcome, name: &str) -> Cell {
        outcome.facts.iter().find(|(known, _)| *known == name).unwrap().1.clone()
    }

    fn told(health: &ClusterHealth) -> String {
        Form::People { width: None, colour: false }.outcome(&of(health))
    }

    #[test]
    fn with_all_alive_one_may_die() {
        let outcome = of(&fares(&[], lost(0), Vec::new()));
        assert_eq!(fact(&outcome, "healthy"), Cell::Bool(true));
        assert_eq!(fact(&outcome, "atRisk"), Cell::Names(vec![]));
    }

    #[test]
    fn each_node_whose_death_would_cost_a_quorum_is_named() {
        let health =
            fares(&["node-2"], lost(0), vec![died("node-1", lost(256), true), died("node-3", lost(256), true)]);
        let outcome = of(&health);
        assert_eq!(fact(&outcome, "quorumLost"), Cell::Names(vec![]));
        assert_eq!(fact(&outcome, "atRisk"), Cell::Names(vec!["default".into()]));
        let critical = outcome.rows.unwrap().rows[0][4].clone();
        assert_eq!(critical, Cell::Names(vec!["node-1".into(), "node-3".into()]));
        let text = told(&health);
        assert!(text.contains("could not be changed without: node-1, node-3"), "{text}");
    }

    #[test]
    fn what_does_not_work_is_told_by_level() {
        let local_quorum = [("dc2".to_owned(), 256)].into();
        let some = LostLevels { quorum: 256, local_quorum, any_replica: 7 };
        let health = ClusterHealth { voters_alive: 1, ..fares(&["node-1", "node-3"], some, Vec::new()) };
        assert_eq!(fact(&of(&health), "quorumLost"), Cell::Names(vec!["default".into()]));
        let text = told(&health);
        for line in [
            "DOWN: node-1, node-3",
            "QUORUM does not work for some rows of: default",
            "LOCAL_QUORUM does not work in dc2 for some rows of: default",
            "no level works for some rows of: default",
            "keyspaces, tables and members cannot be changed: no majority of the voters is alive",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
    }
}

//! How the node fares and what it counted, put together for every door from what the edge and the rest of the node know.

use std::collections::BTreeMap;
use std::fmt;

use cube_proto::ReadsLine;
use cube_replication::coordinator::ReadFigures;

use super::{Edge, account};
use crate::admin::{ClusterHealth, Health, HintsView, NodeStatus, cluster_health};
use crate::metrics;

/// The numbers of a node, for people.
pub(crate) struct Stats {
    /// What people look for first, a line each.
    pub(crate) lines: Vec<String>,
    /// What the node keeps for others.
    pub(crate) hints: HintsView,
    /// What reads came upon, by keyspace and table, joined by a dot.
    pub(crate) reads: BTreeMap<String, ReadFigures>,
}

impl Edge {
    /// How the node fares. One that is about to stop does not serve.
    pub(crate) fn health(&self) -> Health {
        let mut health = self.admin().health();
        let closings = self.doors().announced();
        health.reasons.extend(closings.into_iter().map(|why| self.doors().told(why)));
        health
    }

    /// How the cluster fares, as this node sees it.
    pub(crate) fn cluster_health(&self) -> ClusterHealth {
        let nodes = self.admin().nodes();
        let is_alive = |node| nodes.iter().any(|known| known.id == node && known.status == NodeStatus::Alive);
        cluster_health(&self.state(), &self.admin().voters(), |node| is_alive(node.0))
    }

    /// The numbers of this node, for people.
    pub(crate) fn stats(&self) -> Stats {
        let (hints, state) = (self.admin().hints(), self.state());
        let named = self.read_figures().into_iter().map(|(id, figures)| {
            let table = account::table(&state, id);
            (format!("{}.{}", table.keyspace, table.table), figures)
        });
        let reads: BTreeMap<String, ReadFigures> = named.collect();
        let mut lines = hints.lines();
        lines.extend(reads.iter().map(|(table, figures)| line(table, figures)));
        Stats { lines, hints, reads }
    }

    /// The numbers of this node, for Prometheus.
    pub(crate) fn metrics_page(&self) -> Result<String, fmt::Error> {
        let state = self.state();
        let tables = self.read_figures().into_iter().map(|(id, figures)| {
            let table = account::table(&state, id);
            (table.keyspace, table.table, figures)
        });
        let mut figures = self.admin().figures();
        figures.tables = tables.collect();
        let count = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
        let (requests, bytes) = self.in_flight();
        let settings = self.settings();
        figures.in_flight = (count(requests), count(bytes));
        figures.in_flight_max = (count(settings.in_flight_max), count(settings.in_flight_bytes_max));
        figures.node.serves = figures.node.serves && self.doors().announced().is_empty();
        metrics::write(figures, self.meter().counted())
    }
}

/// What people look for first in the reads of a table.
fn line(table: &str, figures: &ReadFigures) -> String {
    let ReadFigures { stale_reads, hedges_sent, hedges_helped, blocking_repairs, chance_repairs, .. } = *figures;
    let line = ReadsLine {
        table,
        stale_answers: stale_reads,
        repaired: blocking_repairs.repaired.saturating_add(chance_repairs.repaired),
        repairs_failed: blocking_repairs.failed.saturating_add(chance_repairs.failed),
        hedges: hedges_sent,
        hedges_helped,
    };
    line.to_string()
}

#[cfg(test)]
mod tests {
    use cube_replication::coordinator::Repairs;

    use super::*;

    #[test]
    fn a_line_tells_of_one_table_what_its_reads_came_upon() {
        let repairs = Repairs { repaired: 2, failed: 1, ..Repairs::default() };
        let figures = ReadFigures {
            stale_reads: 4,
            hedges_sent: 9,
            hedges_helped: 3,
            blocking_repairs: repairs,
            chance_repairs: repairs,
            ..ReadFigures::default()
        };
        let told = "Reads of a.b: 4 stale answers, 4 rows repaired, 2 repairs failed, 9 hedges of which 3 helped";
        assert_eq!(line("a.b", &figures), told);
    }
}

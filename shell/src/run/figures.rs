//! STATS and HINTS. Hints lie on the nodes that keep them, and what reads came upon is counted by those that coordinated
//! them: both are of all nodes together.

use std::collections::BTreeMap;

use cube_client::admin::{Delivery, Hints, Stats, TableReads};

use super::all::{Asked, ask, silent_line};
use crate::error::ShellError;
use crate::outcome::{Cell, Outcome, Rows, Tone};
use crate::session::Session;

/// What all nodes keep for others.
struct Kept<'a>(&'a Asked<Stats>);

impl Kept<'_> {
    /// By the name of the node that keeps them.
    fn by_keeper(&self) -> impl Iterator<Item = (&String, &Hints)> {
        self.0.told.iter().map(|(name, stats)| (name, &stats.hints))
    }

    fn sum(&self, of: impl Fn(&Hints) -> u64) -> u64 {
        self.by_keeper().map(|(_, hints)| of(hints)).sum()
    }

    /// By the node they are for.
    fn by_target(&self, of: impl Fn(&Hints) -> &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for (name, count) in self.by_keeper().flat_map(|(_, hints)| of(hints)) {
            *counts.entry(name.clone()).or_default() += count;
        }
        counts
    }

    fn hints(&self) -> BTreeMap<String, u64> {
        self.by_target(|hints| &hints.by_node)
    }

    fn dirty_ranges(&self) -> BTreeMap<String, u64> {
        self.by_target(|hints| &hints.dirty_ranges)
    }
}

/// Figures of reads by table, of all nodes together.
#[derive(Default)]
struct Reads(BTreeMap<String, TableReads>);

impl Reads {
    fn of(asked: &Asked<Stats>) -> Self {
        let mut reads = Self::default();
        asked.told.iter().flat_map(|(_, stats)| &stats.reads).for_each(|table| reads.add(table));
        reads
    }

    fn add(&mut self, more: &TableReads) {
        let none = || TableReads { table: more.table.clone(), ..TableReads::default() };
        let sum = self.0.entry(more.table.clone()).or_insert_with(none);
        for (sum, more) in [
            (&mut sum.digest_mismatches, more.digest_mismatches),
            (&mut sum.stale_reads, more.stale_reads),
            (&mut sum.chance_reads, more.chance_reads),
            (&mut sum.hedges_sent, more.hedges_sent),
            (&mut sum.hedges_helped, more.hedges_helped),
            (&mut sum.partial_pages, more.partial_pages),
            (&mut sum.blocking_repairs.repaired, more.blocking_repairs.repaired),
            (&mut sum.blocking_repairs.failed, more.blocking_repairs.failed),
            (&mut sum.chance_repairs.repaired, more.chance_repairs.repaired),
            (&mut sum.chance_repairs.failed, more.chance_repairs.failed),
        ] {
            *sum = sum.saturating_add(more);
        }
    }

    /// Figures by the table's name, for programs.
    fn counts(&self, of: impl Fn(&TableReads) -> u64) -> Cell {
        Cell::Counts(self.0.iter().map(|(table, reads)| (table.clone(), of(reads))).collect())
    }

    fn tell(&self, mut outcome: Outcome) -> Outcome {
        outcome = outcome
            .fact("digestMismatches", self.counts(|reads| reads.digest_mismatches))
            .fact("staleReads", self.counts(|reads| reads.stale_reads))
            .fact("rowsRepaired", self.counts(TableReads::repaired))
            .fact("repairsFailed", self.counts(TableReads::repairs_failed))
            .fact("chanceReads", self.counts(|reads| reads.chance_reads))
            .fact("hedgesSent", self.counts(|reads| reads.hedges_sent))
            .fact("hedgesHelped", self.counts(|reads| reads.hedges_helped))
            .fact("partialPages", self.counts(|reads| reads.partial_pages));
        for reads in self.0.values() {
            outcome = outcome.line(if reads.repairs_failed() == 0 { Tone::Plain } else { Tone::Warn }, reads.line());
        }
        outcome
    }
}

/// The lines that operators and their scripts look for.
fn pending_lines(mut outcome: Outcome, total: u64, by_target: &BTreeMap<String, u64>) -> Outcome {
    let tone = if total == 0 { Tone::Good } else { Tone::Warn };
    outcome = outcome.line(tone, format!("Pending Hints: {total}"));
    for (name, count) in by_target {
        outcome = outcome.line(Tone::Warn, format!("Hints for {name}: {count}"));
    }
    outcome
}

pub(super) async fn stats(session: &mut Session) -> Result<Outcome, ShellError> {
    let asked = ask(session, async |admin| admin.stats().await).await?;
    let (kept, reads, members) = (Kept(&asked), Reads::of(&asked), &asked.members);
    let keyspaces = session.schema().await?;
    let tables: usize = keyspaces.iter().map(|keyspace| keyspace.tables.len()).sum();
    let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    let alive = members.iter().filter(|member| member.alive).count();
    let in_flight: u64 = members.iter().filter_map(|member| member.requests_in_flight).sum();
    let (hints, dirty) = (kept.hints(), kept.dirty_ranges());
    let total = kept.sum(|hints| hints.total);
    let nodes_tone = if alive == members.len() { Tone::Good } else { Tone::Warn };
    let outcome = Outcome::of("STATS")
        .fact("nodes", Cell::Count(count(members.len())))
        .fact("alive", Cell::Count(count(alive)))
        .fact("keyspaces", Cell::Count(count(keyspaces.len())))
        .fact("tables", Cell::Count(count(tables)))
        .fact("requestsInFlight", Cell::Count(in_flight))
        .fact("pendingHints", Cell::Count(total))
        .fact("pendingHintBytes", Cell::Count(kept.sum(|hints| hints.bytes)))
        .fact("nodeHints", Cell::Counts(hints.clone()))
        .fact("dirtyRanges", Cell::Counts(dirty.clone()))
        .line(nodes_tone, format!("Nodes: {}, {alive} alive", members.len()))
        .line(Tone::Plain, format!("Keyspaces: {}, Tables: {tables}", keyspaces.len()))
        .line(Tone::Plain, format!("Requests in Flight: {in_flight}"));
    let mut outcome = pending_lines(outcome, total, &hints);
    for (name, count) in &dirty {
        outcome = outcome.line(Tone::Warn, format!("Dirty Ranges of {name}: {count}"));
    }
    Ok(silent_line(reads.tell(paused_lines(outcome, &kept)), &asked.silent))
}

/// Whose hints are held back, because an operator said so.
fn paused_lines(outcome: Outcome, kept: &Kept<'_>) -> Outcome {
    let mut targets: Vec<String> = kept.by_keeper().flat_map(|(_, hints)| hints.paused.clone()).collect();
    targets.sort();
    targets.dedup();
    let mut outcome = outcome.fact("paused", Cell::Names(targets));
    for (keeper, hints) in kept.by_keeper().filter(|(_, hints)| !hints.paused.is_empty()) {
        let told = format!("Hints PAUSED on {keeper} for {}: kept until resumed", hints.paused.join(", "));
        outcome = outcome.line(Tone::Warn, told);
    }
    outcome
}

pub(super) async fn hints(session: &mut Session) -> Result<Outcome, ShellError> {
    let asked = ask(session, async |admin| admin.stats().await).await?;
    let kept = Kept(&asked);
    let columns = vec!["keptBy", "for", "hints", "dirtyRanges", "delivery", "perSecond", "etaMs"];
    let mut rows = Rows { columns, rows: Vec::new() };
    let mut failing = Vec::new();
    for (keeper, hints) in kept.by_keeper() {
        let mut targets: Vec<&String> = hints.by_node.keys().chain(hints.dirty_ranges.keys()).collect();
        targets.sort();
        targets.dedup();
        for target in targets {
            let of = |counts: &BTreeMap<String, u64>| Cell::Count(counts.get(target).copied().unwrap_or_default());
            let Delivery { state, per_second, eta_ms, last_error } =
                hints.delivery.get(target).cloned().unwrap_or_default();
            failing.extend(last_error.map(|error| format!("From {keeper} to {target}: {error}")));
            rows.rows.push(vec![
                Cell::text(keeper),
                Cell::text(target),
                of(&hints.by_node),
                of(&hints.dirty_ranges),
                Cell::Text(state),
                Cell::Count(per_second),
                Cell::maybe(eta_ms, Cell::Count),
            ]);
        }
    }
    let total = kept.sum(|hints| hints.total);
    let bytes = kept.sum(|hints| hints.bytes);
    let oldest = kept.by_keeper().filter_map(|(_, hints)| hints.oldest_age_ms).max();
    let by_target = kept.hints();
    let outcome = Outcome::of("HINTS")
        .fact("totalHints", Cell::Count(total))
        .fact("totalBytes", Cell::Count(bytes))
        .fact("nodeHints", Cell::Counts(by_target.clone()))
        .fact("dirtyRanges", Cell::Counts(kept.dirty_ranges()))
        .fact("oldestHintAgeMs", Cell::maybe(oldest, Cell::Count));
    let mut outcome = pending_lines(outcome, total, &by_target);
    if total > 0 {
        let age = oldest.map(|ms| format!(", the oldest {} s old", ms / 1_000)).unwrap_or_default();
        outcome = outcome.line(Tone::Plain, format!("{bytes} bytes{age}"));
    }
    let outcome =
        failing.into_iter().fold(paused_lines(outcome, &kept), |outcome, told| outcome.line(Tone::Warn, told));
    Ok(silent_line(outcome, &asked.silent).rows(rows))
}

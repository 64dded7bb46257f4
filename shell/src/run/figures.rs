//! STATS and HINTS. Hints lie on the nodes that keep them: every live node is asked, at the same time, and those that do not
//! answer are named, because their hints are not counted.

use std::collections::BTreeMap;

use cube_client::admin::{Hints, Member};
use futures::future::join_all;

use crate::error::ShellError;
use crate::outcome::{Cell, Outcome, Rows, Tone};
use crate::session::Session;

/// What all nodes keep.
struct Kept {
    members: Vec<Member>,
    /// By the name of the node that keeps them.
    by_keeper: Vec<(String, Hints)>,
    /// Nodes that did not answer.
    silent: Vec<String>,
}

impl Kept {
    async fn ask(session: &mut Session) -> Result<Self, ShellError> {
        let members = session.members().await?.answer;
        let client = session.client().await?;
        let timeout = session.left();
        let ask = members.iter().filter(|member| member.alive).map(|member| {
            let admin = client.admin().only(&member.grpc).timeout(timeout);
            async move { (member.name.clone(), admin.hints().await) }
        });
        let answers = join_all(ask).await;
        let mut silent: Vec<String> =
            members.iter().filter(|member| !member.alive).map(|member| member.name.clone()).collect();
        let mut by_keeper = Vec::new();
        for (name, answer) in answers {
            match answer {
                Ok(told) => by_keeper.push((name, told.answer)),
                Err(_) => silent.push(name),
            }
        }
        silent.sort();
        Ok(Self { members, by_keeper, silent })
    }

    fn sum(&self, of: impl Fn(&Hints) -> u64) -> u64 {
        self.by_keeper.iter().map(|(_, hints)| of(hints)).sum()
    }

    /// By the node they are for.
    fn by_target(&self, of: impl Fn(&Hints) -> &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for (name, count) in self.by_keeper.iter().flat_map(|(_, hints)| of(hints)) {
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

/// The lines that operators and their scripts look for.
fn pending_lines(mut outcome: Outcome, total: u64, by_target: &BTreeMap<String, u64>) -> Outcome {
    let tone = if total == 0 { Tone::Good } else { Tone::Warn };
    outcome = outcome.line(tone, format!("Pending Hints: {total}"));
    for (name, count) in by_target {
        outcome = outcome.line(Tone::Warn, format!("Hints for {name}: {count}"));
    }
    outcome
}

fn silent_line(outcome: Outcome, silent: &[String]) -> Outcome {
    if silent.is_empty() {
        return outcome;
    }
    outcome.line(Tone::Warn, format!("Not counted, because they do not answer: {}", silent.join(", ")))
}

pub(super) async fn stats(session: &mut Session) -> Result<Outcome, ShellError> {
    let kept = Kept::ask(session).await?;
    let keyspaces = session.schema().await?;
    let tables: usize = keyspaces.iter().map(|keyspace| keyspace.tables.len()).sum();
    let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    let alive = kept.members.iter().filter(|member| member.alive).count();
    let in_flight: u64 = kept.members.iter().filter_map(|member| member.requests_in_flight).sum();
    let (hints, dirty) = (kept.hints(), kept.dirty_ranges());
    let total = kept.sum(|hints| hints.total);
    let nodes_tone = if alive == kept.members.len() { Tone::Good } else { Tone::Warn };
    let outcome = Outcome::of("STATS")
        .fact("nodes", Cell::Count(count(kept.members.len())))
        .fact("alive", Cell::Count(count(alive)))
        .fact("keyspaces", Cell::Count(count(keyspaces.len())))
        .fact("tables", Cell::Count(count(tables)))
        .fact("requestsInFlight", Cell::Count(in_flight))
        .fact("pendingHints", Cell::Count(total))
        .fact("pendingHintBytes", Cell::Count(kept.sum(|hints| hints.bytes)))
        .fact("nodeHints", Cell::Counts(hints.clone()))
        .fact("dirtyRanges", Cell::Counts(dirty.clone()))
        .fact("notCounted", Cell::Names(kept.silent.clone()))
        .line(nodes_tone, format!("Nodes: {}, {alive} alive", kept.members.len()))
        .line(Tone::Plain, format!("Keyspaces: {}, Tables: {tables}", keyspaces.len()))
        .line(Tone::Plain, format!("Requests in Flight: {in_flight}"));
    let mut outcome = pending_lines(outcome, total, &hints);
    for (name, count) in &dirty {
        outcome = outcome.line(Tone::Warn, format!("Dirty Ranges of {name}: {count}"));
    }
    Ok(silent_line(paused_lines(outcome, &kept), &kept.silent))
}

/// Whose hints are held back, because an operator said so.
fn paused_lines(outcome: Outcome, kept: &Kept) -> Outcome {
    let mut targets: Vec<String> = kept.by_keeper.iter().flat_map(|(_, hints)| hints.paused.clone()).collect();
    targets.sort();
    targets.dedup();
    let mut outcome = outcome.fact("paused", Cell::Names(targets));
    for (keeper, hints) in kept.by_keeper.iter().filter(|(_, hints)| !hints.paused.is_empty()) {
        let told = format!("Hints PAUSED on {keeper} for {}: kept until resumed", hints.paused.join(", "));
        outcome = outcome.line(Tone::Warn, told);
    }
    outcome
}

pub(super) async fn hints(session: &mut Session) -> Result<Outcome, ShellError> {
    let kept = Kept::ask(session).await?;
    let mut rows = Rows { columns: vec!["keptBy", "for", "hints", "dirtyRanges"], rows: Vec::new() };
    for (keeper, hints) in &kept.by_keeper {
        let mut targets: Vec<&String> = hints.by_node.keys().chain(hints.dirty_ranges.keys()).collect();
        targets.sort();
        targets.dedup();
        for target in targets {
            let of = |counts: &BTreeMap<String, u64>| Cell::Count(counts.get(target).copied().unwrap_or_default());
            rows.rows.push(vec![Cell::text(keeper), Cell::text(target), of(&hints.by_node), of(&hints.dirty_ranges)]);
        }
    }
    let total = kept.sum(|hints| hints.total);
    let bytes = kept.sum(|hints| hints.bytes);
    let oldest = kept.by_keeper.iter().filter_map(|(_, hints)| hints.oldest_age_ms).max();
    let by_target = kept.hints();
    let outcome = Outcome::of("HINTS")
        .fact("totalHints", Cell::Count(total))
        .fact("totalBytes", Cell::Count(bytes))
        .fact("nodeHints", Cell::Counts(by_target.clone()))
        .fact("dirtyRanges", Cell::Counts(kept.dirty_ranges()))
        .fact("oldestHintAgeMs", Cell::maybe(oldest, Cell::Count))
        .fact("notCounted", Cell::Names(kept.silent.clone()));
    let mut outcome = pending_lines(outcome, total, &by_target);
    if total > 0 {
        let age = oldest.map(|ms| format!(", the oldest {} s old", ms / 1_000)).unwrap_or_default();
        outcome = outcome.line(Tone::Plain, format!("{bytes} bytes{age}"));
    }
    Ok(silent_line(paused_lines(outcome, &kept), &kept.silent).rows(rows))
}

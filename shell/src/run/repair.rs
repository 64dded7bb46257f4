//! REPAIR: has the replicas of tables compared now and mended, or with PLAN counts what differs, and watches until it is
//! over.
//!
//! The repair belongs to the node that runs it: a shell that dies does not end it, and Ctrl-C tells the node to.

use std::io::{self, IsTerminal};
use std::time::Duration;

use cube_client::admin::{Admin, NotCompared, Repair, RepairPair, RepairScope};
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use tokio::time::{Instant, sleep};

use crate::error::ShellError;
use crate::outcome::{Cell, Outcome, Rows, Tone};
use crate::session::Session;
use crate::statement::TableName;

/// How often the node is asked how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Without an answer for so long, nothing is known of the repair any more.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Partitions that were not compared of which people are told why.
const REASONS_MAX: usize = 10;
/// What a node says of a repair of which it knows nothing: waiting for it is of no use.
const UNKNOWN: &str = "unknown_repair";

pub(super) async fn repair(
    session: &mut Session,
    table: Option<&TableName>,
    plan: bool,
) -> Result<Outcome, ShellError> {
    let named = table.map(|table| session.full_name(Some(table))).transpose()?;
    let (keyspace, table) = named.unzip();
    let begun = session.admin().await?.start_repair(RepairScope { keyspace, table, dry_run: plan }).await?;
    session.heard(&begun.by);
    // Who answered runs it.
    let runner = session.client().await?.admin().only(begun.by).timeout(session.timeout);
    let repair = watch(session, &runner, begun.answer).await?;
    told(&repair, plan)
}

/// Looks at it until it is over.
async fn watch(session: &Session, runner: &Admin, mut repair: Repair) -> Result<Repair, ShellError> {
    let bar = bar(session.is_watched);
    let (mut heard, mut waits) = (Instant::now(), false);
    while !repair.is_over() {
        show(&bar, &repair);
        tokio::select! {
            () = sleep(LOOK_EVERY) => {}
            () = session.interrupted.notified() => {
                bar.finish_and_clear();
                return Err(cancel(runner, &repair).await);
            }
        }
        match runner.repair(&repair.id).await {
            Ok(told) => {
                repair = told.answer;
                (heard, waits) = (Instant::now(), false);
            }
            Err(error) if error.code() == UNKNOWN => return Err(error.into()),
            Err(error) if heard.elapsed() > SILENCE_MAX.max(session.timeout) => {
                let (node, id) = (repair.node, repair.id);
                return Err(ShellError::RepairLost { node, id, reason: error.to_string() });
            }
            Err(_) if !waits => {
                bar.set_message(format!("{} does not answer; it goes on when it is back", repair.node));
                waits = true;
            }
            Err(_) => {}
        }
    }
    bar.finish_and_clear();
    Ok(repair)
}

async fn cancel(runner: &Admin, repair: &Repair) -> ShellError {
    let (node, id) = (&repair.node, &repair.id);
    match runner.cancel_repair(id).await {
        Ok(told) if told.answer.state == "CANCELLED" => {
            ShellError::RepairEnded { told: format!("repair {id} is cancelled; what it mended stays so") }
        }
        Ok(told) => ShellError::RepairEnded { told: format!("repair {id} had ended before, as {}", told.answer.state) },
        Err(error) => ShellError::RepairNotCancelled { node: node.clone(), id: id.clone(), reason: error.to_string() },
    }
}

fn bar(is_watched: bool) -> ProgressBar {
    if !is_watched || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    match ProgressStyle::with_template("{bar:30} {percent}% {msg}") {
        Ok(style) => ProgressBar::new(0).with_style(style),
        Err(_) => ProgressBar::hidden(),
    }
}

fn show(bar: &ProgressBar, repair: &Repair) {
    let left = repair.eta_ms.map(|ms| format!(", {} s left", ms.div_ceil(1_000))).unwrap_or_default();
    bar.set_length(repair.total);
    bar.set_position(repair.done);
    bar.set_message(format!(
        "{} of {} comparisons, {} differ, {} rows, {}{left}",
        repair.done,
        repair.total,
        repair.differing,
        repair.rows,
        HumanBytes(repair.bytes)
    ));
}

fn told(repair: &Repair, plan: bool) -> Result<Outcome, ShellError> {
    let would = if plan { "would be exchanged" } else { "exchanged" };
    let left: usize = repair.not_compared.iter().map(|left| left.partitions.len()).sum();
    let left = u64::try_from(left).unwrap_or(u64::MAX).saturating_add(repair.not_compared_more);
    let found = format!(
        "{} of {} comparisons differ: {} leaves, {} rows, {} {would}",
        repair.differing,
        repair.total.saturating_sub(left),
        repair.leaves,
        repair.rows,
        HumanBytes(repair.bytes)
    );
    if repair.state != "COMPLETED" {
        let mut told = format!("repair {} ended as {}: {found}; {left} were not made", repair.id, repair.state);
        let more = repair.not_compared.len().saturating_sub(REASONS_MAX);
        for left in repair.not_compared.iter().take(REASONS_MAX) {
            let NotCompared { node, with, table, partitions, reason } = left;
            let count = partitions.len();
            told.push_str(&format!("\n  {count} partitions of {table} between {node} and {with}: {reason}"));
        }
        if u64::try_from(more).unwrap_or(u64::MAX) + repair.not_compared_more > 0 {
            told.push_str("\n  and more");
        }
        told.extend(repair.error.iter().map(|error| format!("\n  {error}")));
        return Err(ShellError::RepairEnded { told });
    }
    let columns = vec!["nodes", "partitions", "differing", "leaves", "rowsTo", "bytes"];
    let row = |pair: &RepairPair| {
        vec![
            Cell::Names(pair.nodes.clone()),
            Cell::Count(pair.partitions),
            Cell::Count(pair.differing),
            Cell::Count(pair.leaves),
            Cell::Counts(pair.rows_to.clone()),
            Cell::Count(pair.bytes),
        ]
    };
    let rows = Rows { columns, rows: repair.pairs.iter().map(row).collect() };
    let done = match (repair.differing, plan) {
        (0, _) => "the replicas are equal".to_owned(),
        (_, true) => "REPAIR without PLAN makes them equal".to_owned(),
        (_, false) => "OK, the replicas are equal now".to_owned(),
    };
    let tone = if plan && repair.differing > 0 { Tone::Warn } else { Tone::Good };
    Ok(Outcome::of("REPAIR")
        .fact("repairId", Cell::text(&repair.id))
        .fact("state", Cell::text(&repair.state))
        .fact("plan", Cell::Bool(plan))
        .fact("node", Cell::text(&repair.node))
        .fact("tables", Cell::Names(repair.tables.clone()))
        .fact("total", Cell::Count(repair.total))
        .fact("differing", Cell::Count(repair.differing))
        .fact("leaves", Cell::Count(repair.leaves))
        .fact("exchanged", Cell::Count(repair.rows))
        .fact("bytes", Cell::Count(repair.bytes))
        .line(tone, done)
        .line(Tone::Plain, found)
        .rows(rows))
}

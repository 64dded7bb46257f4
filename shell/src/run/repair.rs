//! REPAIR: has the replicas of tables compared now and mended, or with PLAN counts what differs, and watches until it is
//! over.
//!
//! The repair belongs to the node that runs it: a shell that dies does not end it, and Ctrl-C tells the node to.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::time::Duration;

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::error::ShellError;
use crate::http::{self, Answer};
use crate::outcome::{Cell, Outcome, Rows, Tone};
use crate::session::Session;
use crate::statement::TableName;

const PATH: &str = "/api/v1/replication/repair";
/// How often the node is asked how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Without an answer for so long, nothing is known of the repair any more.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Partitions that were not compared of which people are told why.
const REASONS_MAX: usize = 10;

/// A repair, as its node tells of it. Unknown fields are those of later releases.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Repair {
    repair_id: String,
    state: String,
    tables: Vec<String>,
    node: String,
    eta_ms: Option<u64>,
    total: u64,
    done: u64,
    differing: u64,
    leaves: u64,
    rows: u64,
    bytes: u64,
    pairs: Vec<Pair>,
    not_compared: Vec<NotCompared>,
    not_compared_more: u64,
    error: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Pair {
    nodes: Vec<String>,
    partitions: u64,
    differing: u64,
    leaves: u64,
    rows_to: BTreeMap<String, u64>,
    bytes: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NotCompared {
    node: String,
    with: String,
    table: String,
    partitions: Vec<u64>,
    reason: String,
}

impl Repair {
    fn is_over(&self) -> bool {
        !matches!(self.state.as_str(), "PLANNED" | "RUNNING")
    }
}

/// What a node said no with.
fn refused(answer: &Answer) -> ShellError {
    let told: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    let text = |name: &str| told.get("error")?.get(name)?.as_str().map(str::to_owned);
    // A path that a node does not know is told like that, and a table that does not exist by a code of its own.
    let is_unknown = matches!(text("code").as_deref(), None | Some("not_found" | "method_not_allowed"));
    match (answer.status, text("code"), text("message")) {
        (404 | 405, ..) if is_unknown => ShellError::NotServed {
            what: "REPAIR",
            instead: "reads repair what they touch, and hints are replayed when a node is back",
        },
        (_, code, message) => ShellError::Refused {
            code: code.unwrap_or_else(|| "refused".to_owned()),
            message: message.unwrap_or_else(|| format!("the node answered with status {}", answer.status)),
        },
    }
}

fn read(answer: &Answer) -> Result<Repair, ShellError> {
    if answer.status >= 300 {
        return Err(refused(answer));
    }
    serde_json::from_str(&answer.body)
        .map_err(|error| ShellError::Refused { code: "misunderstood".to_owned(), message: error.to_string() })
}

pub(super) async fn repair(
    session: &mut Session,
    table: Option<&TableName>,
    plan: bool,
) -> Result<Outcome, ShellError> {
    let named = table.map(|table| session.full_name(Some(table))).transpose()?;
    let (address, mut repair) = begin(session, named, plan).await?;
    let bar = bar(session.is_watched);
    let (mut heard, mut waits) = (Instant::now(), false);
    while !repair.is_over() {
        show(&bar, &repair);
        tokio::select! {
            () = sleep(LOOK_EVERY) => {}
            () = session.interrupted.notified() => {
                bar.finish_and_clear();
                return Err(cancel(&address, &repair, session.timeout).await);
            }
        }
        let path = format!("{PATH}/{}", repair.repair_id);
        match http::ask(&address, "GET", &path, "", session.timeout).await {
            Ok(answer) => {
                repair = read(&answer)?;
                (heard, waits) = (Instant::now(), false);
            }
            Err(error) if heard.elapsed() > SILENCE_MAX.max(session.timeout) => {
                bar.finish_and_clear();
                let message = format!(
                    "{} does not answer any more ({error}): repair {} goes on when it is back",
                    repair.node, repair.repair_id
                );
                return Err(ShellError::Refused { code: "node_lost".to_owned(), message });
            }
            Err(_) if !waits => {
                bar.set_message(format!("{} does not answer; it goes on when it is back", repair.node));
                waits = true;
            }
            Err(_) => {}
        }
    }
    bar.finish_and_clear();
    told(&repair, plan)
}

/// Has the first node that can be reached begin it. A node that was reached and did not answer may have begun: no other one
/// is asked.
async fn begin(
    session: &mut Session,
    named: Option<(String, String)>,
    plan: bool,
) -> Result<(String, Repair), ShellError> {
    let mut members = session.members().await?.answer;
    let contact = session.contact_address();
    members.retain(|member| member.alive);
    members.sort_by_key(|member| contact.as_ref() != Some(&member.grpc));
    let order = match &named {
        Some((keyspace, table)) => json!({ "keyspace": keyspace, "table": table, "dryRun": plan }),
        None => json!({ "dryRun": plan }),
    };
    for member in &members {
        match http::ask(&member.http, "POST", PATH, &order.to_string(), session.left()).await {
            Ok(answer) => return Ok((member.http.clone(), read(&answer)?)),
            Err(error) if !error.was_reached => {}
            Err(error) => {
                let message = format!("{} may have begun it and did not say so: {error}", member.name);
                return Err(ShellError::Refused { code: "unknown".to_owned(), message });
            }
        }
    }
    Err(ShellError::Silent { what: "REPAIR", nodes: members.into_iter().map(|member| member.name).collect() })
}

async fn cancel(address: &str, repair: &Repair, time: Duration) -> ShellError {
    let path = format!("{PATH}/{}", repair.repair_id);
    match http::ask(address, "DELETE", &path, "", time).await {
        Ok(answer) if answer.status < 300 => ShellError::RepairEnded {
            told: format!("repair {} is cancelled; what it mended stays so", repair.repair_id),
        },
        Ok(answer) => refused(&answer),
        Err(error) => {
            let message = format!("{} was not told to end repair {}: {error}", repair.node, repair.repair_id);
            ShellError::Refused { code: "not_cancelled".to_owned(), message }
        }
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
    let found = format!(
        "{} of {} comparisons differ: {} leaves, {} rows, {} {would}",
        repair.differing,
        repair.total,
        repair.leaves,
        repair.rows,
        HumanBytes(repair.bytes)
    );
    if repair.state != "COMPLETED" {
        let mut told = format!("repair {} ended as {}: {found}", repair.repair_id, repair.state);
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
    let row = |pair: &Pair| {
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
        .fact("repairId", Cell::text(&repair.repair_id))
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

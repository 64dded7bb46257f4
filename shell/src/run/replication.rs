//! STATUS and SCRUB: since when replicas are equal, what is in the way, and how far the verifying of what nodes hold is.
//! Each node tells of its own replicas, so every live one is asked at the same time, and those that do not tell are named.

use std::collections::BTreeMap;

use futures::future::join_all;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::error::ShellError;
use crate::http;
use crate::outcome::{Cell, Outcome, Rows, Tone};
use crate::session::Session;

const STATUS_PATH: &str = "/api/v1/replication/status";
const SCRUB_PATH: &str = "/api/v1/replication/scrub";

/// What a node tells of the replicas that it holds. Unknown fields are those of later releases.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NodeStatus {
    warnings: Vec<String>,
    now_ms: u64,
    tables: Vec<TableStatus>,
    dirty_ranges: BTreeMap<String, u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct TableStatus {
    keyspace: String,
    table: String,
    in_sync_as_of_ms: Option<u64>,
    partitions: u64,
    not_in_sync_here: u64,
    not_compared_yet: u64,
    purge_floor_ms: u64,
    purge_blocked_by: BTreeMap<String, u64>,
}

/// How far a node's scrub has come.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ScrubStatus {
    state: String,
    done_permille: u64,
    rows: u64,
    damaged: u64,
    cycles: u64,
    last_cycle_age_ms: Option<u64>,
}

/// What `POST` answers.
#[derive(Debug, Default, Deserialize)]
struct ScrubBegun {
    scrub: ScrubStatus,
}

/// What live nodes told, and who told nothing.
struct Asked<T> {
    told: Vec<(String, T)>,
    silent: Vec<String>,
}

async fn ask<T: DeserializeOwned>(
    session: &mut Session,
    what: &'static str,
    method: &str,
    path: &str,
) -> Result<Asked<T>, ShellError> {
    let members = session.members().await?.answer;
    let time = session.left();
    let answers = members.iter().map(|member| async move {
        let answer = match member.alive {
            true => http::ask(&member.http, method, path, "", time).await.ok(),
            false => None,
        };
        (member.name.clone(), answer)
    });
    let answers = join_all(answers).await;
    let is_unknown = |status: u16| matches!(status, 404 | 405);
    let known = answers.iter().filter_map(|(_, answer)| answer.as_ref());
    if known.clone().count() > 0 && known.clone().all(|answer| is_unknown(answer.status)) {
        return Err(ShellError::NotServed { what, instead: "HEALTH tells what works, HINTS what waits for members" });
    }
    let mut asked = Asked { told: Vec::new(), silent: Vec::new() };
    for (name, answer) in answers {
        let document = answer.filter(|answer| answer.status < 300);
        match document.and_then(|answer| serde_json::from_str(&answer.body).ok()) {
            Some(told) => asked.told.push((name, told)),
            None => asked.silent.push(name),
        }
    }
    if asked.told.is_empty() {
        return Err(ShellError::Silent { what, nodes: asked.silent });
    }
    Ok(asked)
}

fn silent_line(outcome: Outcome, silent: &[String]) -> Outcome {
    let outcome = outcome.fact("notAsked", Cell::Names(silent.to_vec()));
    if silent.is_empty() {
        return outcome;
    }
    outcome.line(Tone::Warn, format!("Not told of, because they do not answer: {}", silent.join(", ")))
}

/// A table over all nodes that told of it.
#[derive(Default)]
struct Table {
    /// The oldest of all; nothing where a node knows of none.
    as_of_ms: Option<u64>,
    is_untold: bool,
    /// There was no time to compare all of it.
    is_new: bool,
    partitions: u64,
    not_in_sync: BTreeMap<String, u64>,
    purge_floor_ms: Option<u64>,
    blocked_by: BTreeMap<String, u64>,
}

pub(super) async fn status(session: &mut Session) -> Result<Outcome, ShellError> {
    let asked: Asked<NodeStatus> = ask(session, "STATUS", "GET", STATUS_PATH).await?;
    Ok(status_of(&asked))
}

fn status_of(asked: &Asked<NodeStatus>) -> Outcome {
    let now_ms = asked.told.iter().map(|(_, status)| status.now_ms).max().unwrap_or_default();
    let mut tables = BTreeMap::<String, Table>::new();
    let mut dirty = BTreeMap::<String, u64>::new();
    for (node, status) in &asked.told {
        status.dirty_ranges.iter().for_each(|(name, count)| *dirty.entry(name.clone()).or_default() += count);
        for told in &status.tables {
            let table = tables.entry(format!("{}.{}", told.keyspace, told.table)).or_default();
            table.is_untold |= told.in_sync_as_of_ms.is_none();
            table.is_new |= told.not_compared_yet > 0;
            table.as_of_ms = [table.as_of_ms, told.in_sync_as_of_ms].into_iter().flatten().min();
            table.partitions = table.partitions.max(told.partitions);
            if told.not_in_sync_here > 0 {
                table.not_in_sync.insert(node.clone(), told.not_in_sync_here);
            }
            table.purge_floor_ms = table.purge_floor_ms.into_iter().chain([told.purge_floor_ms]).min();
            let blocked = told.purge_blocked_by.iter();
            blocked.for_each(|(name, count)| *table.blocked_by.entry(name.clone()).or_default() += count);
        }
    }
    let columns = vec!["table", "inSync", "inSyncAsOfMs", "notInSync", "partitions", "purgeBlockedBy", "purgeFloorMs"];
    let row = |(name, table): (&String, &Table)| {
        // Where one node knows no time, the whole table has none.
        let as_of_ms = table.as_of_ms.filter(|_| !table.is_untold);
        let age = as_of_ms.map(|ms| ago(now_ms.saturating_sub(ms)));
        let age = age.or_else(|| table.is_new.then(|| "not compared yet".to_owned()));
        vec![
            Cell::text(name),
            Cell::maybe(age, Cell::Text),
            Cell::maybe(as_of_ms, Cell::Moment),
            Cell::Counts(table.not_in_sync.clone()),
            Cell::Count(table.partitions),
            Cell::Counts(table.blocked_by.clone()),
            Cell::maybe(table.purge_floor_ms.filter(|ms| *ms > 0), Cell::Moment),
        ]
    };
    let rows = Rows { columns, rows: tables.iter().map(row).collect() };
    let untold: Vec<String> =
        tables.iter().filter(|(_, table)| table.is_untold).map(|(name, _)| name.clone()).collect();
    let oldest = tables.values().filter_map(|table| table.as_of_ms).min();
    let broken = tables.values().any(|table| !table.not_in_sync.is_empty());
    let mut outcome = Outcome::of("STATUS")
        .fact("inSyncAsOfMs", Cell::maybe(oldest.filter(|_| untold.is_empty()), Cell::Moment))
        .fact("dirtyRanges", Cell::Counts(dirty.clone()));
    outcome = match (oldest, untold.as_slice()) {
        (Some(oldest), []) => {
            let told = ago(now_ms.saturating_sub(oldest));
            outcome.line(Tone::Good, format!("everything written until {told} is on all of its replicas"))
        }
        (None, []) => outcome.line(Tone::Aside, "there is nothing to be compared"),
        (_, names) => {
            let told = names.join(", ");
            outcome.line(Tone::Warn, format!("not yet proven equal, or with a single replica: {told}"))
        }
    };
    if broken {
        outcome =
            outcome.line(Tone::Warn, "replicas that are new or damaged are being copied, and not counted in reads");
    }
    for (name, count) in &dirty {
        outcome = outcome.line(Tone::Warn, format!("Dirty Ranges of {name}: {count}"));
    }
    for (node, status) in &asked.told {
        for warning in &status.warnings {
            outcome = outcome.line(Tone::Warn, format!("{node}: {warning}"));
        }
    }
    silent_line(outcome, &asked.silent).rows(rows)
}

fn ago(ms: u64) -> String {
    match ms / 1_000 {
        seconds @ 0..120 => format!("{seconds} s ago"),
        seconds @ 120..7_200 => format!("{} min ago", seconds / 60),
        seconds => format!("{} h ago", seconds / 3_600),
    }
}

/// Tells how far the scrub is, or has everything verified from now on.
pub(super) async fn scrub(session: &mut Session, now: bool) -> Result<Outcome, ShellError> {
    let asked = if now {
        let begun: Asked<ScrubBegun> = ask(session, "SCRUB", "POST", SCRUB_PATH).await?;
        Asked { told: begun.told.into_iter().map(|(name, begun)| (name, begun.scrub)).collect(), silent: begun.silent }
    } else {
        ask(session, "SCRUB", "GET", SCRUB_PATH).await?
    };
    let columns = vec!["node", "state", "done", "rows", "damaged", "cycles", "lastCycle"];
    let row = |(name, scrub): &(String, ScrubStatus)| {
        vec![
            Cell::text(name),
            Cell::text(&scrub.state),
            Cell::text(format!("{}%", scrub.done_permille / 10)),
            Cell::Count(scrub.rows),
            Cell::Count(scrub.damaged),
            Cell::Count(scrub.cycles),
            Cell::maybe(scrub.last_cycle_age_ms.map(ago), Cell::Text),
        ]
    };
    let rows = Rows { columns, rows: asked.told.iter().map(row).collect() };
    let damaged: u64 = asked.told.iter().map(|(_, scrub)| scrub.damaged).sum();
    let mut outcome = Outcome::of("SCRUB").fact("begun", Cell::Bool(now)).fact("damaged", Cell::Count(damaged));
    if now {
        outcome = outcome.line(Tone::Good, "everything that the nodes hold is verified now: SCRUB tells how far it is");
    }
    if damaged > 0 {
        let told = format!("{damaged} damaged places were found, and are healed from other replicas");
        outcome = outcome.line(Tone::Warn, told);
    }
    Ok(silent_line(outcome, &asked.silent).rows(rows))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::Form;

    fn told(nodes: &[&str]) -> Asked<NodeStatus> {
        let told =
            (1..).zip(nodes).map(|(number, text)| (format!("node-{number}"), serde_json::from_str(text).unwrap()));
        Asked { told: told.collect(), silent: vec!["node-3".into()] }
    }

    #[test]
    fn a_table_is_in_sync_as_of_the_oldest_time_of_all_its_replicas() {
        let asked = told(&[
            r#"{"nowMs":100000,"later":1,"tables":[{"keyspace":"default","table":"kv","inSyncAsOfMs":90000,"partitions":256}]}"#,
            r#"{"nowMs":99000,"tables":[{"keyspace":"default","table":"kv","inSyncAsOfMs":40000,"notInSyncHere":2,
                "purgeBlockedBy":{"node-3":7}}],"dirtyRanges":{"node-3":4},"warnings":["node-3 is not reached"]}"#,
        ]);
        let text = Form::People { width: None, colour: false }.outcome(&status_of(&asked));
        for line in [
            "everything written until 60 s ago is on all of its replicas",
            "Dirty Ranges of node-3: 4",
            "node-2: node-3 is not reached",
            "Not told of, because they do not answer: node-3",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
        assert!(text.contains("node-2: 2") && text.contains("node-3: 7"), "{text}");
    }

    #[test]
    fn a_table_that_was_not_compared_since_the_start_is_told_as_such_and_not_as_unequal() {
        let asked = told(&[
            r#"{"tables":[{"keyspace":"a","table":"b","partitions":256,"notComparedYet":256}]}"#,
            r#"{"tables":[{"keyspace":"a","table":"b","partitions":256},{"keyspace":"a","table":"alone"}]}"#,
        ]);
        let text = Form::Json.outcome(&status_of(&asked));
        assert_eq!(text.matches("not compared yet").count(), 1, "{text}");
        let text = Form::People { width: None, colour: false }.outcome(&status_of(&asked));
        assert!(text.lines().any(|line| line.contains("a.b") && line.contains("not compared yet")), "{text}");
    }

    #[test]
    fn a_table_of_which_one_replica_knows_no_time_is_told_as_not_proven() {
        let asked = told(&[
            r#"{"tables":[{"keyspace":"a","table":"b","inSyncAsOfMs":90000}]}"#,
            r#"{"tables":[{"keyspace":"a","table":"b"}]}"#,
        ]);
        let text = Form::Json.outcome(&status_of(&asked));
        assert!(text.contains(r#""inSyncAsOfMs":null,"notInSync":{}"#), "{text}");
    }
}

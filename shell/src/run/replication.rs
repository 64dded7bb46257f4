//! STATUS and SCRUB: since when replicas are equal, what is in the way, and how far the verifying of what nodes hold is.

use std::collections::BTreeMap;

use cube_client::admin::{Scrub, SyncStatus};

use super::all::{Asked, ask, silent_line};
use crate::error::ShellError;
use crate::outcome::{Cell, Outcome, Rows, Tone};
use crate::session::Session;

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
    Ok(status_of(&ask(session, async |admin| admin.sync_status().await).await?))
}

fn status_of(asked: &Asked<SyncStatus>) -> Outcome {
    let now_ms = asked.told.iter().map(|(_, status)| status.now_ms).max().unwrap_or_default();
    let mut tables = BTreeMap::<String, Table>::new();
    let mut dirty = BTreeMap::<String, u64>::new();
    for (node, status) in &asked.told {
        status.dirty_ranges.iter().for_each(|(name, count)| *dirty.entry(name.clone()).or_default() += count);
        for told in &status.tables {
            let table = tables.entry(format!("{}.{}", told.keyspace, told.table)).or_default();
            table.is_untold |= told.in_sync_ms.is_none();
            table.is_new |= told.not_compared_yet > 0;
            table.as_of_ms = [table.as_of_ms, told.in_sync_ms].into_iter().flatten().min();
            table.partitions = table.partitions.max(told.partitions.into());
            if told.not_in_sync_here > 0 {
                table.not_in_sync.insert(node.clone(), told.not_in_sync_here.into());
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
    let asked = match now {
        true => ask(session, async |admin| admin.scrub_now().await).await?,
        false => ask(session, async |admin| admin.scrub().await).await?,
    };
    let columns = vec!["node", "state", "done", "rows", "damaged", "cycles", "lastCycle"];
    let row = |(name, scrub): &(String, Scrub)| {
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
    use cube_client::admin::TableSync;

    use super::*;
    use crate::render::Form;

    fn told(nodes: Vec<SyncStatus>) -> Asked<SyncStatus> {
        let told = (1..).zip(nodes).map(|(number, status)| (format!("node-{number}"), status));
        Asked { members: Vec::new(), told: told.collect(), silent: vec!["node-3".into()] }
    }

    fn table(keyspace: &str, table: &str, in_sync_ms: Option<u64>) -> TableSync {
        let (keyspace, table) = (keyspace.to_owned(), table.to_owned());
        TableSync { keyspace, table, in_sync_ms, partitions: 256, ..TableSync::default() }
    }

    fn node(tables: Vec<TableSync>) -> SyncStatus {
        SyncStatus { now_ms: 100_000, tables, ..SyncStatus::default() }
    }

    const PEOPLE: Form = Form::People { width: None, colour: false };

    #[test]
    fn a_table_is_in_sync_as_of_the_oldest_time_of_all_its_replicas() {
        let behind = TableSync {
            not_in_sync_here: 2,
            purge_blocked_by: BTreeMap::from([("node-3".to_owned(), 7)]),
            ..table("default", "kv", Some(40_000))
        };
        let second = SyncStatus {
            now_ms: 99_000,
            dirty_ranges: BTreeMap::from([("node-3".to_owned(), 4)]),
            warnings: vec!["node-3 is not reached".to_owned()],
            ..node(vec![behind])
        };
        let asked = told(vec![node(vec![table("default", "kv", Some(90_000))]), second]);
        let text = PEOPLE.outcome(&status_of(&asked));
        for line in [
            "everything written until 60 s ago is on all of its replicas",
            "Dirty Ranges of node-3: 4",
            "node-2: node-3 is not reached",
            "Not counted, because they do not answer: node-3",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
        assert!(text.contains("node-2: 2") && text.contains("node-3: 7"), "{text}");
    }

    #[test]
    fn a_table_that_was_not_compared_since_the_start_is_told_as_such_and_not_as_unequal() {
        let new = TableSync { not_compared_yet: 256, ..table("a", "b", None) };
        let asked = told(vec![node(vec![new]), node(vec![table("a", "b", None), table("a", "alone", None)])]);
        let text = Form::Json.outcome(&status_of(&asked));
        assert_eq!(text.matches("not compared yet").count(), 1, "{text}");
        let text = PEOPLE.outcome(&status_of(&asked));
        assert!(text.lines().any(|line| line.contains("a.b") && line.contains("not compared yet")), "{text}");
    }

    #[test]
    fn a_table_of_which_one_replica_knows_no_time_is_told_as_not_proven() {
        let asked = told(vec![node(vec![table("a", "b", Some(90_000))]), node(vec![table("a", "b", None)])]);
        let text = Form::Json.outcome(&status_of(&asked));
        assert!(text.contains(r#""inSyncAsOfMs":null,"notInSync":{}"#), "{text}");
    }
}

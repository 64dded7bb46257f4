//! PUT, UPDATE, GET, DELETE and SCAN.

use bytes::Bytes;
use cube_client::{Found, Key, Level, Version, Written};

use crate::error::ShellError;
use crate::outcome::{Cell, Fact, Outcome, Rows, Tone};
use crate::render::moment;
use crate::session::Session;
use crate::statement::{Scan, Terms, bare_or_quoted, quote};

/// Rows that SCAN lists if it is not told how many.
const SCAN_ROWS: u64 = 100;
/// Rows of one request of a SCAN.
const PAGE_ROWS_MAX: u64 = 1_000;

fn key_of(key: &Bytes, terms: &Terms) -> Key {
    Key::sorted(key.clone(), terms.sort.clone().unwrap_or_default())
}

fn shown(key: &Key) -> String {
    let partition = bare_or_quoted(&key.partition);
    if key.sort.is_empty() { partition } else { format!("{partition} / {}", bare_or_quoted(&key.sort)) }
}

fn key_facts(key: &Key) -> Vec<Fact> {
    let mut facts = vec![("key", Cell::Bytes(key.partition.clone()))];
    if !key.sort.is_empty() {
        facts.push(("sort", Cell::Bytes(key.sort.clone())));
    }
    facts
}

fn no_account(terms: &Terms) -> Result<(), ShellError> {
    if terms.explain {
        return Err(ShellError::NotServed { what: "EXPLAIN", instead: "say the statement without it" });
    }
    Ok(())
}

pub(super) async fn put(
    session: &mut Session,
    statement: &'static str,
    key: &Bytes,
    value: &Bytes,
    terms: &Terms,
) -> Result<Outcome, ShellError> {
    no_account(terms)?;
    let table = session.rows(terms.table.as_ref()).await?;
    let key = key_of(key, terms);
    let mut put = table.put(key.clone(), value.clone()).level(level(session, terms));
    if let Some(ttl) = terms.ttl {
        put = put.ttl(ttl);
    }
    if let Some(at_ms) = terms.at_ms {
        put = put.at(at_ms);
    }
    let written = put.timeout(terms.timeout.unwrap_or(session.timeout)).send().await?;
    Ok(of_write(statement, &key, &written))
}

pub(super) async fn delete(session: &mut Session, key: &Bytes, terms: &Terms) -> Result<Outcome, ShellError> {
    no_account(terms)?;
    let table = session.rows(terms.table.as_ref()).await?;
    let key = key_of(key, terms);
    let mut delete = table.delete(key.clone()).level(level(session, terms));
    if let Some(at_ms) = terms.at_ms {
        delete = delete.at(at_ms);
    }
    let written = delete.timeout(terms.timeout.unwrap_or(session.timeout)).send().await?;
    Ok(of_write("DELETE", &key, &written))
}

fn level(session: &Session, terms: &Terms) -> Level {
    terms.level.unwrap_or(session.level)
}

fn of_write(statement: &'static str, key: &Key, written: &Written) -> Outcome {
    let mut outcome = Outcome::of(statement).fact("success", Cell::Bool(true));
    outcome.facts.extend(key_facts(key));
    let done = if statement == "DELETE" { "deleted" } else { "written" };
    let mut holders = written.acknowledged_by.clone();
    holders.sort();
    let held = match holders.as_slice() {
        [] => String::new(),
        names => format!(", held durably by {}", names.join(", ")),
    };
    let mut outcome = outcome
        .fact("version", Cell::Version(written.version))
        .fact("level", Cell::text(written.level.name()))
        .fact("acknowledgedBy", Cell::Names(holders))
        .fact("hintedFor", Cell::Names(written.hinted_for.clone()))
        .fact("markedFor", Cell::Names(written.marked_for.clone()))
        .fact("supersededBy", Cell::maybe(written.superseded_by, Cell::Version))
        .line(Tone::Good, format!("OK, {done} at {}{held}", written.level));
    if !written.hinted_for.is_empty() {
        let names = written.hinted_for.join(", ");
        outcome = outcome.line(Tone::Warn, format!("missed by {names}: a hint is kept and will be replayed"));
    }
    if !written.marked_for.is_empty() {
        let names = written.marked_for.join(", ");
        outcome = outcome.line(Tone::Warn, format!("missed by {names}: the range is marked to be repaired"));
    }
    if let Some(version) = written.superseded_by {
        let at = moment(version.millis());
        outcome = outcome.line(Tone::Warn, format!("a newer version, of {at}, stands there: that one is read"));
    }
    outcome
}

pub(super) async fn get(session: &mut Session, key: &Bytes, terms: &Terms) -> Result<Outcome, ShellError> {
    no_account(terms)?;
    let table = session.rows(terms.table.as_ref()).await?;
    let key = key_of(key, terms);
    let level = level(session, terms);
    let timeout = terms.timeout.unwrap_or(session.timeout);
    let found = table.get(key.clone()).level(level).timeout(timeout).send().await?;
    Ok(of_read(&key, level, found))
}

fn of_read(key: &Key, level: Level, found: Found) -> Outcome {
    let mut outcome = Outcome::of("GET").fact("found", Cell::Bool(found.value.is_some()));
    outcome.facts.extend(key_facts(key));
    let outcome = outcome
        .fact("value", Cell::maybe(found.value.clone(), Cell::Bytes))
        .fact("version", Cell::maybe(found.version, Cell::Version))
        .fact("expiresAtMs", Cell::maybe(found.expires_at_ms, Cell::Moment))
        .fact("level", Cell::text(level.name()));
    match found.value {
        None => {
            let gone = match found.version {
                Some(version) => format!("({} does not exist; deleted or ended, {})", shown(key), since(version)),
                None => format!("({} does not exist)", shown(key)),
            };
            outcome.line(Tone::Aside, gone)
        }
        Some(value) => {
            let ends = found.expires_at_ms.map(|ms| format!(", ends {}", moment(ms))).unwrap_or_default();
            let written = found.version.map(since).unwrap_or_default();
            outcome.line(Tone::Plain, quote(&value)).line(Tone::Aside, format!("({written}{ends})"))
        }
    }
}

fn since(version: Version) -> String {
    format!("version of {}", moment(version.millis()))
}

pub(super) async fn scan(session: &mut Session, scan: &Scan, terms: &Terms) -> Result<Outcome, ShellError> {
    no_account(terms)?;
    let Some(key) = &scan.key else {
        return Err(ShellError::NotServed {
            what: "SCAN over all keys of a table",
            instead: "SCAN KEY=key lists the rows of one key",
        });
    };
    let limit = scan.limit.unwrap_or(SCAN_ROWS);
    // One more than wanted tells whether there are more.
    let page_rows = limit.saturating_add(1).min(PAGE_ROWS_MAX);
    let table = session.rows(terms.table.as_ref()).await?;
    let mut range = table
        .range(key.clone())
        .level(level(session, terms))
        .timeout(terms.timeout.unwrap_or(session.timeout))
        .page_rows(u32::try_from(page_rows).unwrap_or(u32::MAX));
    if let Some(from) = &scan.from {
        range = range.from(from.clone());
    }
    if let Some(after) = &scan.after {
        range = range.after(after.clone());
    }
    if let Some(to) = &scan.to {
        range = range.to(to.clone());
    }
    if let Some(before) = &scan.before {
        range = range.before(before.clone());
    }
    if scan.backward {
        range = range.backward();
    }
    let mut rows = Rows { columns: vec!["key", "sort", "value", "version", "expiresAtMs"], rows: Vec::new() };
    let mut more = false;
    while let Some(row) = range.next().await? {
        if u64::try_from(rows.rows.len()).is_ok_and(|count| count >= limit) {
            more = true;
            break;
        }
        rows.rows.push(vec![
            Cell::Bytes(row.key.partition),
            Cell::Bytes(row.key.sort),
            Cell::Bytes(row.value),
            Cell::Version(row.version),
            Cell::maybe(row.expires_at_ms, Cell::Moment),
        ]);
    }
    Ok(listed(rows, more, scan.backward))
}

fn listed(rows: Rows, more: bool, backward: bool) -> Outcome {
    let count = u64::try_from(rows.rows.len()).unwrap_or(u64::MAX);
    let last = match rows.rows.last().and_then(|row| row.get(1)) {
        Some(Cell::Bytes(sort)) => bare_or_quoted(sort),
        _ => String::new(),
    };
    let told = match (count, more) {
        (0, _) => "no rows".to_owned(),
        (1, false) => "1 row".to_owned(),
        (_, false) => format!("{count} rows"),
        (_, true) if backward => format!("{count} rows; there are more: BEFORE={last} lists them"),
        (_, true) => format!("{count} rows; there are more: AFTER={last} lists them"),
    };
    Outcome::of("SCAN")
        .fact("count", Cell::Count(count))
        .fact("more", Cell::Bool(more))
        .rows(rows)
        .footer(Tone::Aside, told)
}

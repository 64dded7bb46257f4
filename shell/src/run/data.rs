//! PUT, UPDATE, GET and DELETE.

use bytes::Bytes;
use cube_client::{Explained, Found, Key, Level, Version, Written};

use super::explain::{self, shown};
use crate::error::ShellError;
use crate::outcome::{Account, Cell, Fact, Outcome, Tone};
use crate::render::moment;
use crate::session::Session;
use crate::statement::{Terms, quote};

fn key_of(key: &Bytes, terms: &Terms) -> Key {
    Key::sorted(key.clone(), terms.sort.clone().unwrap_or_default())
}

fn key_facts(key: &Key) -> Vec<Fact> {
    let mut facts = vec![("key", Cell::Bytes(key.partition.clone()))];
    if !key.sort.is_empty() {
        facts.push(("sort", Cell::Bytes(key.sort.clone())));
    }
    facts
}

pub(super) async fn put(
    session: &mut Session,
    statement: &'static str,
    key: &Bytes,
    value: &Bytes,
    terms: &Terms,
) -> Result<Outcome, ShellError> {
    let table = session.rows(terms.table.as_ref()).await?;
    let key = key_of(key, terms);
    let mut put = table.put(key.clone(), value.clone()).level(level(session, terms));
    if let Some(ttl) = terms.ttl {
        put = put.ttl(ttl);
    }
    if let Some(at_ms) = terms.at_ms {
        put = put.at(at_ms);
    }
    if terms.explain {
        put = put.explain();
    }
    let written = put.timeout(terms.timeout.unwrap_or_else(|| session.left())).send().await?;
    Ok(of_write(statement, &key, &written))
}

pub(super) async fn delete(session: &mut Session, key: &Bytes, terms: &Terms) -> Result<Outcome, ShellError> {
    let table = session.rows(terms.table.as_ref()).await?;
    let key = key_of(key, terms);
    let mut delete = table.delete(key.clone()).level(level(session, terms));
    if let Some(at_ms) = terms.at_ms {
        delete = delete.at(at_ms);
    }
    if terms.explain {
        delete = delete.explain();
    }
    let written = delete.timeout(terms.timeout.unwrap_or_else(|| session.left())).send().await?;
    Ok(of_write("DELETE", &key, &written))
}

pub(super) fn level(session: &Session, terms: &Terms) -> Level {
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
    outcome.account(account(written.explained.as_deref()))
}

fn account(explained: Option<&Explained>) -> Option<Account> {
    explained.and_then(|explained| explain::of(std::slice::from_ref(explained)))
}

pub(super) async fn get(session: &mut Session, key: &Bytes, terms: &Terms) -> Result<Outcome, ShellError> {
    let table = session.rows(terms.table.as_ref()).await?;
    let key = key_of(key, terms);
    let level = level(session, terms);
    let timeout = terms.timeout.unwrap_or_else(|| session.left());
    let mut get = table.get(key.clone()).level(level).timeout(timeout);
    if terms.explain {
        get = get.explain();
    }
    let found = get.send().await?;
    Ok(of_read(&key, level, found))
}

fn of_read(key: &Key, level: Level, found: Found) -> Outcome {
    let mut outcome = Outcome::of("GET").fact("found", Cell::Bool(found.value.is_some()));
    outcome.facts.extend(key_facts(key));
    let outcome = outcome
        .account(account(found.explained.as_deref()))
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

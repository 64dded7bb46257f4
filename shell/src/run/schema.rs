//! DESCRIBE, CREATE, ALTER and DROP.

use std::time::Duration;

use cube_client::Error;
use cube_client::admin::{Admin, Keyspace, KeyspaceOptions, Table, TableOptions, Told};

use crate::error::ShellError;
use crate::outcome::{Cell, Outcome, Rows, Tone};
use crate::session::Session;
use crate::statement::{TableName, keyspace_options, nearest, table_options};

/// Of the time of a statement, what is left for asking why a change was not answered.
const LAST_WORDS: u32 = 5;

fn no_such(what: &'static str, name: &str, names: Vec<&str>) -> ShellError {
    ShellError::NoSuch { what, name: name.to_owned(), nearest: nearest(name, names).map(str::to_owned) }
}

pub(super) async fn describe(
    session: &mut Session,
    place: Option<&(String, Option<String>)>,
) -> Result<Outcome, ShellError> {
    let schema = session.schema().await?;
    let Some((keyspace, table)) = place else {
        return Ok(described(&schema.iter().map(|k| (k, None)).collect::<Vec<_>>()));
    };
    if let Some(found) = schema.iter().find(|known| known.name == *keyspace) {
        let Some(table) = table else { return Ok(described(&[(found, None)])) };
        let Some(table) = found.tables.iter().find(|known| known.name == *table) else {
            return Err(no_such("table", table, found.tables.iter().map(|known| known.name.as_str()).collect()));
        };
        return Ok(described(&[(found, Some(table))]));
    }
    // One word may also be a table of the keyspace in use.
    let in_use = schema.iter().find(|known| known.name == session.keyspace);
    let found = in_use.and_then(|known| Some((known, known.tables.iter().find(|table| table.name == *keyspace)?)));
    match (found, table) {
        (Some((space, table)), None) => Ok(described(&[(space, Some(table))])),
        _ => Err(no_such("keyspace", keyspace, schema.iter().map(|known| known.name.as_str()).collect())),
    }
}

/// Keyspaces with all of their tables, or with one.
fn described(keyspaces: &[(&Keyspace, Option<&Table>)]) -> Outcome {
    let mut rows = Rows {
        columns: vec![
            "keyspace",
            "table",
            "replication",
            "durability",
            "read_repair_chance",
            "hedge",
            "grace_ms",
            "prefix_index",
            "default_ttl_ms",
        ],
        rows: Vec::new(),
    };
    let mut outcome = Outcome::of("DESCRIBE");
    for (keyspace, only) in keyspaces {
        let options = &keyspace.options;
        let replication = Cell::maybe(options.replication.as_ref(), |replication| Cell::text(replication.to_string()));
        let durability = Cell::maybe(options.durability_interval_ms, |ms| match ms {
            0 => Cell::text("sync"),
            ms => Cell::text(format!("{ms}ms")),
        });
        if only.is_none() {
            outcome =
                outcome.line(Tone::Plain, format!("CREATE KEYSPACE {}{};", keyspace.name, keyspace_options(options)));
        }
        if keyspace.tables.is_empty() {
            let mut row = vec![Cell::text(&keyspace.name), Cell::Null, replication.clone(), durability.clone()];
            row.resize(rows.columns.len(), Cell::Null);
            rows.rows.push(row);
        }
        for table in keyspace.tables.iter().filter(|table| only.is_none_or(|only| only.name == table.name)) {
            let statement = format!("CREATE TABLE {}.{}{};", keyspace.name, table.name, table_options(&table.options));
            outcome = outcome.line(Tone::Plain, statement);
            let options = &table.options;
            rows.rows.push(vec![
                Cell::text(&keyspace.name),
                Cell::text(&table.name),
                replication.clone(),
                durability.clone(),
                Cell::maybe(options.read_repair_chance, |chance| Cell::Count(chance.into())),
                Cell::maybe(options.hedge.clone(), Cell::Text),
                Cell::maybe(options.grace_ms, Cell::Count),
                Cell::maybe(options.prefix_index, Cell::Bool),
                Cell::maybe(options.default_ttl_ms, Cell::Count),
            ]);
        }
    }
    // People have read it in the statements.
    outcome.hidden_rows(rows)
}

/// Has the schema changed. A change that nobody answers waits for a majority, most often: then that is told.
async fn change(
    session: &mut Session,
    call: impl AsyncFn(Admin) -> Result<Told<bool>, Error>,
) -> Result<Told<bool>, ShellError> {
    let time = session.left();
    let admin = session.admin().await?.timeout(time.saturating_sub(time / LAST_WORDS).max(Duration::from_millis(1)));
    let error = match call(admin).await {
        Ok(told) => return Ok(told),
        Err(error) => error,
    };
    let is_unanswered = error.refusal().is_none() && error.may_take_effect();
    if is_unanswered && let Ok(told) = session.admin().await?.cluster_health().await {
        let (alive, required) = (told.answer.voters_alive, told.answer.voters_required);
        if alive < required {
            return Err(ShellError::NoMajority { voters: told.answer.voters.len(), alive, required });
        }
    }
    Err(error.into())
}

fn changed(
    session: &mut Session,
    statement: &'static str,
    what: &'static str,
    name: &str,
    told: &Told<bool>,
    done: &str,
) -> Outcome {
    session.heard(&told.by);
    let text = if told.answer { format!("OK, {name} {done}") } else { format!("{name} was so already") };
    let tone = if told.answer { Tone::Good } else { Tone::Aside };
    Outcome::of(statement)
        .fact("success", Cell::Bool(true))
        .fact(what, Cell::text(name))
        .fact("changed", Cell::Bool(told.answer))
        .line(tone, text)
}

pub(super) async fn create_keyspace(
    session: &mut Session,
    name: &str,
    options: &KeyspaceOptions,
) -> Result<Outcome, ShellError> {
    let told = change(session, async |admin| admin.create_keyspace(name, options.clone()).await).await?;
    Ok(changed(session, "CREATE KEYSPACE", "keyspace", name, &told, "created"))
}

pub(super) async fn alter_keyspace(
    session: &mut Session,
    name: &str,
    options: &KeyspaceOptions,
) -> Result<Outcome, ShellError> {
    let told = change(session, async |admin| admin.alter_keyspace(name, options.clone()).await).await?;
    Ok(changed(session, "ALTER KEYSPACE", "keyspace", name, &told, "altered"))
}

pub(super) async fn drop_keyspace(session: &mut Session, name: &str) -> Result<Outcome, ShellError> {
    let told = change(session, async |admin| admin.drop_keyspace(name).await).await?;
    Ok(changed(session, "DROP KEYSPACE", "keyspace", name, &told, "dropped"))
}

pub(super) async fn create_table(
    session: &mut Session,
    table: &TableName,
    options: &TableOptions,
) -> Result<Outcome, ShellError> {
    let (keyspace, table) = session.full_name(Some(table))?;
    let told = change(session, async |admin| admin.create_table(&keyspace, &table, options.clone()).await).await?;
    Ok(changed(session, "CREATE TABLE", "table", &format!("{keyspace}.{table}"), &told, "created"))
}

pub(super) async fn alter_table(
    session: &mut Session,
    table: &TableName,
    options: &TableOptions,
) -> Result<Outcome, ShellError> {
    let (keyspace, table) = session.full_name(Some(table))?;
    let told = change(session, async |admin| admin.alter_table(&keyspace, &table, options.clone()).await).await?;
    Ok(changed(session, "ALTER TABLE", "table", &format!("{keyspace}.{table}"), &told, "altered"))
}

pub(super) async fn drop_table(session: &mut Session, table: &TableName) -> Result<Outcome, ShellError> {
    let (keyspace, table) = session.full_name(Some(table))?;
    let told = change(session, async |admin| admin.drop_table(&keyspace, &table).await).await?;
    Ok(changed(session, "DROP TABLE", "table", &format!("{keyspace}.{table}"), &told, "dropped"))
}

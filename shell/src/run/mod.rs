//! What each command does: a statement and the session go in, an outcome comes out. One file for each family.

mod all;
mod cluster;
mod data;
mod explain;
mod figures;
mod health;
mod local;
mod members;
mod repair;
mod replication;
mod scan;
mod schema;

pub(crate) use explain::of as account_of;
pub(crate) use local::greeting;

use std::time::Duration;

use cube_client::admin::Keyspace;
use cube_client::{Error, Refusal};
use tokio::time::{Instant, sleep};

use crate::error::ShellError;
use crate::outcome::Outcome;
use crate::session::Session;
use crate::statement::{Command, nearest};

/// How long a table that the schema has may be unknown to a node that is asked for its rows: nodes hear of changes one
/// after another, within moments.
const HEARS_WITHIN: Duration = Duration::from_secs(2);
/// How often such a statement is asked again.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// Does a statement. EXIT is the caller's: here it does nothing.
pub(crate) async fn run(session: &mut Session, command: &Command) -> Result<Outcome, ShellError> {
    session.begin();
    let hears_until = Instant::now() + session.left().min(HEARS_WITHIN);
    loop {
        let error = match done(session, command).await {
            Err(ShellError::Client(error)) => error,
            done => return done,
        };
        let Some(place) = place_of(session, command, &error) else { return Err(error.into()) };
        let Ok(schema) = session.schema().await else { return Err(error.into()) };
        let tables = names_of(&schema);
        if !tables.contains(&place) {
            return Err(meant(&place, &tables, error));
        }
        // Nothing was done: it can be asked again.
        if Instant::now() >= hears_until {
            return Err(error.into());
        }
        sleep(ASK_AGAIN_AFTER).await;
    }
}

/// The table of a statement that failed because a node does not know it.
fn place_of(session: &Session, command: &Command, error: &Error) -> Option<String> {
    let is_unknown = |refusal: &Refusal| matches!(refusal.code.as_str(), "unknown_table" | "unknown_keyspace");
    error.refusal().filter(|refusal| is_unknown(refusal))?;
    let named = match command {
        Command::Put { terms, .. }
        | Command::Get { terms, .. }
        | Command::Update { terms, .. }
        | Command::Delete { terms, .. }
        | Command::Scan { terms, .. } => terms.table.as_ref(),
        Command::AlterTable { table, .. } | Command::DropTable { table } => Some(table),
        Command::Repair { table, .. } => table.as_ref(),
        _ => None,
    };
    let (keyspace, table) = session.full_name(named).ok()?;
    Some(format!("{keyspace}.{table}"))
}

/// All tables, each with its keyspace.
pub(crate) fn names_of(schema: &[Keyspace]) -> Vec<String> {
    let full = |keyspace: &Keyspace| {
        keyspace.tables.iter().map(|table| format!("{}.{}", keyspace.name, table.name)).collect::<Vec<_>>()
    };
    schema.iter().flat_map(full).collect()
}

/// The error, with the table that was probably meant.
fn meant(place: &str, tables: &[String], error: Error) -> ShellError {
    match nearest(place, tables.iter().map(String::as_str)) {
        Some(nearest) => ShellError::Meant { error: Box::new(error), nearest: nearest.to_owned() },
        None => error.into(),
    }
}

async fn done(session: &mut Session, command: &Command) -> Result<Outcome, ShellError> {
    match command {
        Command::Put { key, value, terms } | Command::Update { key, value, terms } => {
            data::put(session, command.name(), key, value, terms).await
        }
        Command::Get { key, terms } => data::get(session, key, terms).await,
        Command::Delete { key, terms } => data::delete(session, key, terms).await,
        Command::Scan { scan, terms } => scan::scan(session, scan, terms).await,
        Command::Consistency(level) => Ok(local::consistency(session, *level)),
        Command::Use(place) => local::use_place(session, place.as_ref()).await,
        Command::Nodes => cluster::nodes(session).await,
        Command::Ring(key) => cluster::ring(session, key.as_ref()).await,
        Command::Stats => figures::stats(session).await,
        Command::Hints => figures::hints(session).await,
        Command::Health => health::health(session).await,
        Command::Decommission(node) => members::decommission(session, node).await,
        Command::Remove { node, accept_loss } => members::remove(session, node, *accept_loss).await,
        Command::Replace { node, with, accept_loss } => members::replace(session, node, with, *accept_loss).await,
        Command::Drain { node, undo } => members::drain(session, node, *undo).await,
        Command::Connect { host, port } => local::connect(session, host, *port).await,
        Command::Disconnect(node) => local::disconnect(session, node.as_deref()).await,
        Command::Help(topic) => local::help(topic.as_deref()),
        Command::Exit => Ok(Outcome::of("EXIT")),
        Command::Repair { table, plan } => repair::repair(session, table.as_ref(), *plan).await,
        Command::Status => replication::status(session).await,
        Command::Scrub { now } => replication::scrub(session, *now).await,
        Command::Describe(place) => schema::describe(session, place.as_ref()).await,
        Command::CreateKeyspace { name, options } => schema::create_keyspace(session, name, options).await,
        Command::AlterKeyspace { name, options } => schema::alter_keyspace(session, name, options).await,
        Command::DropKeyspace { name } => schema::drop_keyspace(session, name).await,
        Command::CreateTable { table, options } => schema::create_table(session, table, options).await,
        Command::AlterTable { table, options } => schema::alter_table(session, table, options).await,
        Command::DropTable { table } => schema::drop_table(session, table).await,
    }
}

//! What each command does: a statement and the session go in, an outcome comes out. One file for each family.

mod cluster;
mod data;
mod explain;
mod figures;
mod health;
mod local;
mod repair;
mod replication;
mod scan;
mod schema;

pub(crate) use explain::of as account_of;
pub(crate) use local::greeting;

use cube_client::admin::Keyspace;
use cube_client::{Error, Refusal};

use crate::error::ShellError;
use crate::outcome::Outcome;
use crate::session::Session;
use crate::statement::{Command, nearest};

/// Does a statement. EXIT is the caller's: here it does nothing.
pub(crate) async fn run(session: &mut Session, command: &Command) -> Result<Outcome, ShellError> {
    session.begin();
    let done = done(session, command).await;
    match done {
        Err(ShellError::Client(error)) => Err(meant(session, command, error).await),
        done => done,
    }
}

/// The error, with the table that was probably meant where the one that was named does not exist.
async fn meant(session: &mut Session, command: &Command, error: Error) -> ShellError {
    let is_unknown = |refusal: &Refusal| matches!(refusal.code.as_str(), "unknown_table" | "unknown_keyspace");
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
    let Ok((keyspace, table)) = session.full_name(named) else { return error.into() };
    if !error.refusal().is_some_and(is_unknown) {
        return error.into();
    }
    let Ok(schema) = session.schema().await else { return error.into() };
    let full = |keyspace: &Keyspace| {
        keyspace.tables.iter().map(|table| format!("{}.{}", keyspace.name, table.name)).collect::<Vec<_>>()
    };
    let tables: Vec<String> = schema.iter().flat_map(full).collect();
    match nearest(&format!("{keyspace}.{table}"), tables.iter().map(String::as_str)) {
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

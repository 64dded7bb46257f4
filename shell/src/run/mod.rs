//! What each command does: a statement and the session go in, an outcome comes out. One file for each family.

mod cluster;
mod data;
mod explain;
mod figures;
mod health;
mod local;
mod scan;
mod schema;

pub(crate) use local::greeting;

use crate::error::ShellError;
use crate::outcome::Outcome;
use crate::session::Session;
use crate::statement::Command;

/// Does a statement. EXIT is the caller's: here it does nothing.
pub(crate) async fn run(session: &mut Session, command: &Command) -> Result<Outcome, ShellError> {
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
        Command::Repair { .. } => Err(ShellError::NotServed {
            what: "REPAIR",
            instead: "reads repair what they touch, and hints are replayed when a node is back",
        }),
        Command::Status => Err(ShellError::NotServed {
            what: "STATUS",
            instead: "HEALTH tells what works, HINTS what waits for members that missed writes",
        }),
        Command::Describe(place) => schema::describe(session, place.as_ref()).await,
        Command::CreateKeyspace { name, options } => schema::create_keyspace(session, name, options).await,
        Command::AlterKeyspace { name, options } => schema::alter_keyspace(session, name, options).await,
        Command::DropKeyspace { name } => schema::drop_keyspace(session, name).await,
        Command::CreateTable { table, options } => schema::create_table(session, table, options).await,
        Command::AlterTable { table, options } => schema::alter_table(session, table, options).await,
        Command::DropTable { table } => schema::drop_table(session, table).await,
    }
}

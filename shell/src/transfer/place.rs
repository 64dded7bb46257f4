//! The table that rows come from or go to: it must be there, and known to every node that may be asked for a row.

use std::time::Duration;

use cube_client::Client;
use cube_client::admin::Member;
use futures::future::join_all;
use tokio::time::{Instant, sleep, timeout};

use crate::error::ShellError;
use crate::run::names_of;
use crate::session::Session;
use crate::statement::nearest;

/// Nodes hear of a new table one after another, within moments. One that has not by then is asked all the same.
const HEARS_WITHIN: Duration = Duration::from_secs(10);
/// How often a node is asked.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Finds the table that is named, and waits until every live node knows it.
pub(super) async fn find(session: &mut Session, named: &str) -> Result<(String, String), ShellError> {
    let (keyspace, table) = named.split_once('.').unwrap_or((session.keyspace.as_str(), named));
    let (keyspace, table) = (keyspace.to_owned(), table.to_owned());
    let place = format!("{keyspace}.{table}");
    let tables = names_of(&session.schema().await?);
    if !tables.contains(&place) {
        let nearest = nearest(&place, tables.iter().map(String::as_str)).map(str::to_owned);
        return Err(ShellError::NoSuch { what: "table", name: place, nearest });
    }
    let (client, members) = (session.client().await?, session.members().await?.answer);
    let hear = members.iter().filter(|member| member.alive).map(|member| knows(&client, member, &place));
    // Whoever does not answer is not waited for: rows are asked of the others.
    let _late = timeout(HEARS_WITHIN, join_all(hear)).await;
    Ok((keyspace, table))
}

/// Waits until a node knows the table, or does not answer.
async fn knows(client: &Client, member: &Member, place: &String) {
    let until = Instant::now() + HEARS_WITHIN;
    while Instant::now() < until {
        match client.admin().only(&member.grpc).timeout(HEARS_WITHIN).schema().await {
            Ok(told) if !names_of(&told.answer).contains(place) => sleep(LOOK_EVERY).await,
            _ => return,
        }
    }
}

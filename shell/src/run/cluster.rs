//! NODES and RING: who is there, and who holds what.

use bytes::Bytes;
use cube_client::admin::{Member, Placement, Topology};

use crate::error::ShellError;
use crate::outcome::{Cell, Outcome, Rows, Tone};
use crate::session::Session;
use crate::statement::bare_or_quoted;

fn count(count: usize) -> Cell {
    Cell::Count(u64::try_from(count).unwrap_or(u64::MAX))
}

pub(super) async fn nodes(session: &mut Session) -> Result<Outcome, ShellError> {
    let told = session.members().await?;
    // The most telling first: a narrow terminal leaves out the last ones.
    let columns = vec![
        "name",
        "status",
        "state",
        "address",
        "dataCenter",
        "rack",
        "hints",
        "inFlight",
        "loadPercent",
        "clockOffsetMs",
        "version",
        "since",
        "drain",
        "partitionsLeft",
        "marksLeft",
    ];
    let row = |member: &Member| {
        vec![
            Cell::text(&member.name),
            Cell::text(if member.alive { "ALIVE" } else { "DOWN" }),
            Cell::text(&member.state),
            Cell::text(&member.grpc),
            Cell::text(&member.data_center),
            Cell::text(&member.rack),
            Cell::maybe(member.hints, Cell::Count),
            Cell::maybe(member.requests_in_flight, Cell::Count),
            Cell::maybe(member.load_percent, Cell::Number),
            Cell::maybe(member.clock_offset_ms, Cell::Signed),
            Cell::maybe(member.version.clone(), Cell::Text),
            Cell::maybe(member.started_at_ms, Cell::Moment),
            Cell::maybe(member.drain.clone(), Cell::Text),
            Cell::maybe(member.leaving.as_ref().map(|leaving| leaving.partitions), Cell::Count),
            Cell::maybe(member.leaving.as_ref().and_then(|leaving| leaving.marks), Cell::Count),
        ]
    };
    let alive = told.answer.iter().filter(|member| member.alive).count();
    let all = told.answer.len();
    let rows = Rows { columns, rows: told.answer.iter().map(row).collect() };
    let tone = if alive == all { Tone::Aside } else { Tone::Warn };
    let seen = format!("{alive} of {all} alive, as {} sees it", session.name_of(&told.by));
    let outcome = Outcome::of("NODES").fact("askedNode", Cell::text(&told.by)).fact("alive", count(alive)).rows(rows);
    let leaving =
        |member: &Member| member.leaving.as_ref().map(|leaving| super::members::to_hand_over(&member.name, leaving));
    let outcome =
        told.answer.iter().filter_map(leaving).fold(outcome, |outcome, told| outcome.footer(Tone::Warn, told));
    Ok(outcome.footer(tone, seen))
}

pub(super) async fn ring(session: &mut Session, key: Option<&Bytes>) -> Result<Outcome, ShellError> {
    let told = session.admin().await?.topology().await?;
    session.heard(&told.by);
    let topology = told.answer;
    match key {
        Some(key) => holders(session, &topology, key),
        None => Ok(shares(&topology)),
    }
}

fn named(topology: &Topology, ids: &[u32]) -> Vec<String> {
    let name = |id: &u32| {
        let member = topology.members.iter().find(|member| member.id == *id);
        member.map_or_else(|| format!("node number {id}"), |member| member.name.clone())
    };
    ids.iter().map(name).collect()
}

/// Which nodes hold a key of the keyspace in use.
fn holders(session: &Session, topology: &Topology, key: &Bytes) -> Result<Outcome, ShellError> {
    let follows = |placement: &&Placement| placement.keyspaces.contains(&session.keyspace);
    let placement = topology.placements.iter().find(follows).ok_or_else(|| ShellError::NoSuch {
        what: "keyspace",
        name: session.keyspace.clone(),
        nearest: None,
    })?;
    let number = topology.partition_of(key);
    let (replicas, pending) = match placement.partitions.get(number) {
        Some(partition) => (named(topology, &partition.replicas), named(topology, &partition.pending)),
        None => (Vec::new(), Vec::new()),
    };
    let shown = bare_or_quoted(key);
    let mut outcome = Outcome::of("RING")
        .fact("key", Cell::Bytes(key.clone()))
        .fact("keyspace", Cell::text(&session.keyspace))
        .fact("partition", count(number))
        .fact("replicas", Cell::Names(replicas.clone()))
        .fact("pending", Cell::Names(pending.clone()))
        .line(Tone::Plain, format!("{shown} is in partition {number}, held by {}", replicas.join(", ")));
    if !pending.is_empty() {
        outcome = outcome.line(Tone::Aside, format!("becoming a replica: {}", pending.join(", ")));
    }
    Ok(outcome)
}

/// How much each node holds of each placement.
fn shares(topology: &Topology) -> Outcome {
    let columns = vec!["replication", "keyspaces", "node", "status", "partitions", "share", "pending"];
    let mut rows = Rows { columns, rows: Vec::new() };
    for placement in &topology.placements {
        for member in &topology.members {
            let held = placement.partitions.iter().filter(|part| part.replicas.contains(&member.id)).count();
            let pending = placement.partitions.iter().filter(|part| part.pending.contains(&member.id)).count();
            rows.rows.push(vec![
                Cell::text(&placement.replication),
                Cell::Names(placement.keyspaces.clone()),
                Cell::text(&member.name),
                Cell::text(if member.alive { "ALIVE" } else { "DOWN" }),
                count(held),
                Cell::text(percent(held, placement.partitions.len())),
                count(pending),
            ]);
        }
    }
    let partitions = topology.placements.iter().map(|placement| placement.partitions.len()).max().unwrap_or_default();
    Outcome::of("RING")
        .fact("epoch", Cell::Count(topology.epoch))
        .fact("partitions", count(partitions))
        .rows(rows)
        .footer(
            Tone::Aside,
            format!("{partitions} partitions, state {} of the cluster; RING key tells who holds a key", topology.epoch),
        )
}

fn percent(part: usize, whole: usize) -> String {
    // Partitions are counted in thousands: whole numbers are exact enough.
    let percent = part.saturating_mul(100).checked_div(whole).unwrap_or_default();
    format!("{percent}%")
}

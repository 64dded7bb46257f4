//! What concerns the shell itself: level, keyspace, connections, help.

use cube_client::Level;

use crate::error::ShellError;
use crate::outcome::{Cell, Outcome, Rows, Tone};
use crate::session::{DEFAULT_PORT, Session, address};
use crate::statement::commands::{self, COMMANDS, Spec};
use crate::statement::nearest;

pub(super) fn consistency(session: &mut Session, level: Option<Level>) -> Outcome {
    let verb = if level.is_some() { "is now" } else { "is" };
    session.level = level.unwrap_or(session.level);
    Outcome::of("CONSISTENCY")
        .fact("level", Cell::text(session.level.name()))
        .line(Tone::Plain, format!("the level {verb} {}", session.level))
}

pub(super) async fn use_place(
    session: &mut Session,
    place: Option<&(String, Option<String>)>,
) -> Result<Outcome, ShellError> {
    if let Some((keyspace, table)) = place {
        let schema = session.schema().await?;
        let no_such = |what, name: &str, names: Vec<&str>| ShellError::NoSuch {
            what,
            name: name.to_owned(),
            nearest: nearest(name, names).map(str::to_owned),
        };
        let Some(found) = schema.iter().find(|known| known.name == *keyspace) else {
            return Err(no_such("keyspace", keyspace, schema.iter().map(|known| known.name.as_str()).collect()));
        };
        let tables: Vec<&str> = found.tables.iter().map(|table| table.name.as_str()).collect();
        session.table = match table {
            Some(table) if !tables.contains(&table.as_str()) => {
                return Err(no_such("table", &format!("{keyspace}.{table}"), Vec::new()));
            }
            Some(table) => Some(table.clone()),
            // The usual table, or the only one.
            None if tables.contains(&"kv") => Some("kv".to_owned()),
            None => match tables.as_slice() {
                [only] => Some((*only).to_owned()),
                _ => None,
            },
        };
        session.keyspace.clone_from(keyspace);
    }
    let outcome = Outcome::of("USE")
        .fact("keyspace", Cell::text(&session.keyspace))
        .fact("table", Cell::maybe(session.table.as_ref(), Cell::text));
    Ok(match &session.table {
        Some(table) => outcome.line(Tone::Plain, format!("using {}.{table}", session.keyspace)),
        None => outcome.line(
            Tone::Warn,
            format!("using {0}; choose a table with USE {0}.table, DESCRIBE {0} lists them", session.keyspace),
        ),
    })
}

pub(super) async fn connect(session: &mut Session, host: &str, port: Option<u16>) -> Result<Outcome, ShellError> {
    let target = address(host, port.unwrap_or(DEFAULT_PORT));
    session.connect(target).await?;
    greeting(session, "CONNECT").await
}

/// Who is talked to, and how the cluster looks at first sight.
pub(crate) async fn greeting(session: &mut Session, statement: &'static str) -> Result<Outcome, ShellError> {
    let told = session.members().await?;
    let alive = told.answer.iter().filter(|member| member.alive).count();
    let all = told.answer.len();
    let count = |count: usize| Cell::Count(u64::try_from(count).unwrap_or(u64::MAX));
    let tone = if alive == all { Tone::Good } else { Tone::Warn };
    let nodes = if all == 1 { "node" } else { "nodes" };
    let state =
        if alive == all { format!("{all} {nodes}, all alive") } else { format!("{all} {nodes}, {alive} alive") };
    Ok(Outcome::of(statement)
        .fact("contact", Cell::text(session.contact().unwrap_or_default()))
        .fact("address", Cell::text(&told.by))
        .fact("nodes", count(all))
        .fact("alive", count(alive))
        .line(tone, format!("connected to {}: {state}", session.name_of(&told.by))))
}

pub(super) async fn disconnect(session: &mut Session, node: Option<&str>) -> Result<Outcome, ShellError> {
    let now = session.disconnect(node).await?;
    let told = match &now {
        Some(name) => format!("talking to {name}; rows are still asked of the nodes that hold them"),
        None => "disconnected from all; CONNECT host port connects again".to_owned(),
    };
    Ok(Outcome::of("DISCONNECT").fact("contact", Cell::maybe(now, Cell::Text)).line(Tone::Plain, told))
}

pub(super) fn help(topic: Option<&str>) -> Result<Outcome, ShellError> {
    let Some(topic) = topic else { return Ok(overview()) };
    let found: Vec<&Spec> = match commands::find(topic) {
        Some(spec) => vec![spec],
        None => COMMANDS.iter().filter(|spec| spec.name.split(' ').any(|word| word == topic)).collect(),
    };
    if found.is_empty() {
        let nearest = nearest(topic, COMMANDS.iter().map(|spec| spec.name)).map(str::to_owned);
        return Err(ShellError::NoSuch { what: "command", name: topic.to_owned(), nearest });
    }
    let mut outcome = Outcome::of("HELP");
    let mut rows = Rows { columns: vec!["command", "usage", "about", "example"], rows: Vec::new() };
    for spec in found {
        rows.rows.push([spec.name, spec.usage, spec.about, spec.example].map(Cell::text).to_vec());
        outcome = outcome
            .line(Tone::Strong, spec.usage)
            .line(Tone::Plain, format!("  {}", spec.about))
            .line(Tone::Aside, format!("  for example: {}", spec.example));
        if !spec.aliases.is_empty() {
            outcome = outcome.line(Tone::Aside, format!("  also: {}", spec.aliases.join(", ")));
        }
    }
    Ok(outcome.hidden_rows(rows))
}

fn overview() -> Outcome {
    let row = |spec: &Spec| [spec.name, spec.about, spec.example].map(Cell::text).to_vec();
    let rows = Rows { columns: vec!["command", "about", "example"], rows: COMMANDS.iter().map(row).collect() };
    let width = COMMANDS.iter().map(|spec| spec.name.len()).max().unwrap_or_default();
    let mut outcome = Outcome::of("HELP");
    for spec in COMMANDS {
        outcome = outcome.line(Tone::Plain, format!("{:width$}  {}", spec.name, spec.about));
    }
    outcome
        .hidden_rows(rows)
        .footer(Tone::Aside, "HELP command tells how it is written, with an example. Case does not count.")
        .footer(Tone::Aside, "A statement ends at ; or at the end of its line; // begins a comment.")
        .footer(Tone::Aside, "Values with spaces need quotes; any bytes: \"\\n\", \"\\x00\", b64\"AP8=\".")
}

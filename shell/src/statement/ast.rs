//! What a statement says. `Display` prints it in a form that is read as the same statement again.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use cube_client::Level;
use cube_client::admin::{KeyspaceOptions, TableOptions};

use super::literal::{bare_or_quoted, page_token, quote};

/// A table, in the keyspace in use if none is named.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TableName {
    /// The keyspace.
    pub keyspace: Option<String>,
    /// The table.
    pub table: String,
}

/// Everything that may follow a command on rows; each command allows some of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Terms {
    /// `CL=`
    pub level: Option<Level>,
    /// `SORT=`: orders the row among those that share its key.
    pub sort: Option<Bytes>,
    /// `IN=`: another table than the one in use.
    pub table: Option<TableName>,
    /// `TTL=`
    pub ttl: Option<Duration>,
    /// `AT=`: the timestamp of a write, milliseconds since 1970.
    pub at_ms: Option<u64>,
    /// `TIMEOUT=`
    pub timeout: Option<Duration>,
    /// `EXPLAIN`, before the statement or at its end.
    pub explain: bool,
}

/// Which rows SCAN lists.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Scan {
    /// Keys that begin so.
    pub prefix: Option<Bytes>,
    /// `KEY=`: the rows of one key, in the order of their sort keys.
    pub key: Option<Bytes>,
    /// `FROM=`: sort keys from this one on.
    pub from: Option<Bytes>,
    /// `AFTER=`: sort keys behind this one.
    pub after: Option<Bytes>,
    /// `TO=`: sort keys up to this one, with it.
    pub to: Option<Bytes>,
    /// `BEFORE=`: sort keys up to this one, without it.
    pub before: Option<Bytes>,
    /// `BACKWARD`: the last row first.
    pub backward: bool,
    /// `LIMIT=`
    pub limit: Option<u64>,
    /// `PAGE=`: behind the rows that an earlier SCAN of the same prefix listed.
    pub page: Option<Bytes>,
}

/// A statement.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the fields are named as the words of the statement are")]
pub enum Command {
    /// Gives a row a value.
    Put { key: Bytes, value: Bytes, terms: Terms },
    /// Reads a row.
    Get { key: Bytes, terms: Terms },
    /// Gives a row another value.
    Update { key: Bytes, value: Bytes, terms: Terms },
    /// Deletes a row.
    Delete { key: Bytes, terms: Terms },
    /// Lists rows.
    Scan { scan: Scan, terms: Terms },
    /// Shows or sets the level of what follows.
    Consistency(Option<Level>),
    /// Shows or sets the keyspace and table of what follows.
    Use(Option<(String, Option<String>)>),
    /// The members.
    Nodes,
    /// Who holds what, or who holds one key.
    Ring(Option<Bytes>),
    /// Figures of the cluster.
    Stats,
    /// What waits for members that are away.
    Hints,
    /// Compares and mends replicas, or tells what that would do.
    Repair { table: Option<TableName>, plan: bool },
    /// Since when replicas are in sync.
    Status,
    /// How far the verifying of what nodes hold is, or has it done now.
    Scrub { now: bool },
    /// What works, and what would break next.
    Health,
    /// Has a node hand over what it has, and leave the cluster.
    Decommission(String),
    /// Gives up a node that is gone for good.
    Remove { node: String, accept_loss: bool },
    /// Gives up a node that is gone for good; another one takes its place.
    Replace { node: String, with: String, accept_loss: bool },
    /// Has a node take no requests of clients, or take them again.
    Drain { node: String, undo: bool },
    /// Talks to another node or cluster.
    Connect { host: String, port: Option<u16> },
    /// Forgets a connection of the shell.
    Disconnect(Option<String>),
    /// The schema, a keyspace, or a table, as the statements that would create it.
    Describe(Option<(String, Option<String>)>),
    /// Creates a keyspace.
    CreateKeyspace { name: String, options: KeyspaceOptions },
    /// Changes a keyspace.
    AlterKeyspace { name: String, options: KeyspaceOptions },
    /// Drops a keyspace.
    DropKeyspace { name: String },
    /// Creates a table.
    CreateTable { table: TableName, options: TableOptions },
    /// Changes a table.
    AlterTable { table: TableName, options: TableOptions },
    /// Drops a table.
    DropTable { table: TableName },
    /// How a command is used.
    Help(Option<String>),
    /// Ends the shell.
    Exit,
}

impl Command {
    /// The options of a statement on rows.
    pub(super) fn terms_mut(&mut self) -> Option<&mut Terms> {
        match self {
            Self::Put { terms, .. }
            | Self::Get { terms, .. }
            | Self::Update { terms, .. }
            | Self::Delete { terms, .. }
            | Self::Scan { terms, .. } => Some(terms),
            _ => None,
        }
    }

    /// Its name, as results and errors tell it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Put { .. } => "PUT",
            Self::Get { .. } => "GET",
            Self::Update { .. } => "UPDATE",
            Self::Delete { .. } => "DELETE",
            Self::Scan { .. } => "SCAN",
            Self::Consistency(_) => "CONSISTENCY",
            Self::Use(_) => "USE",
            Self::Nodes => "NODES",
            Self::Ring(_) => "RING",
            Self::Stats => "STATS",
            Self::Hints => "HINTS",
            Self::Repair { .. } => "REPAIR",
            Self::Status => "STATUS",
            Self::Scrub { .. } => "SCRUB",
            Self::Health => "HEALTH",
            Self::Decommission(_) => "DECOMMISSION",
            Self::Remove { .. } => "REMOVE",
            Self::Replace { .. } => "REPLACE",
            Self::Drain { .. } => "DRAIN",
            Self::Connect { .. } => "CONNECT",
            Self::Disconnect(_) => "DISCONNECT",
            Self::Describe(_) => "DESCRIBE",
            Self::CreateKeyspace { .. } => "CREATE KEYSPACE",
            Self::AlterKeyspace { .. } => "ALTER KEYSPACE",
            Self::DropKeyspace { .. } => "DROP KEYSPACE",
            Self::CreateTable { .. } => "CREATE TABLE",
            Self::AlterTable { .. } => "ALTER TABLE",
            Self::DropTable { .. } => "DROP TABLE",
            Self::Help(_) => "HELP",
            Self::Exit => "EXIT",
        }
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.keyspace {
            Some(keyspace) => write!(f, "{keyspace}.{}", self.table),
            None => f.write_str(&self.table),
        }
    }
}

struct Place<'a>(&'a Option<(String, Option<String>)>);

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => Ok(()),
            Some((keyspace, None)) => write!(f, " {keyspace}"),
            Some((keyspace, Some(table))) => write!(f, " {keyspace}.{table}"),
        }
    }
}

/// So that it is read again, however long it is: many milliseconds in one number are not.
fn show_duration(time: Duration) -> String {
    match (time.as_secs(), time.subsec_millis()) {
        (0, ms) => format!("{ms}ms"),
        (seconds, 0) => format!("{seconds}s"),
        (seconds, ms) => format!("{seconds}s{ms}ms"),
    }
}

impl fmt::Display for Terms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told = [
            ("SORT", self.sort.as_ref().map(|sort| quote(sort))),
            ("IN", self.table.as_ref().map(TableName::to_string)),
            ("CL", self.level.map(|level| level.to_string())),
            ("TTL", self.ttl.map(show_duration)),
            ("AT", self.at_ms.map(|at| at.to_string())),
            ("TIMEOUT", self.timeout.map(show_duration)),
        ];
        for (name, value) in told {
            if let Some(value) = value {
                write!(f, " {name}={value}")?;
            }
        }
        if self.explain { f.write_str(" EXPLAIN") } else { Ok(()) }
    }
}

impl fmt::Display for Scan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(prefix) = &self.prefix {
            write!(f, " {}", quote(prefix))?;
        }
        let bounds = [
            ("KEY", &self.key),
            ("FROM", &self.from),
            ("AFTER", &self.after),
            ("TO", &self.to),
            ("BEFORE", &self.before),
        ];
        for (name, bound) in bounds {
            if let Some(bound) = bound {
                write!(f, " {name}={}", quote(bound))?;
            }
        }
        if self.backward {
            f.write_str(" BACKWARD")?;
        }
        if let Some(limit) = self.limit {
            write!(f, " LIMIT={limit}")?;
        }
        self.page.as_ref().map_or(Ok(()), |page| write!(f, " PAGE={}", page_token(page)))
    }
}

/// A keyspace's options as they follow `CREATE KEYSPACE name`.
pub(crate) fn keyspace_options(options: &KeyspaceOptions) -> String {
    let mut text = String::new();
    if let Some(replication) = &options.replication {
        text.push_str(&format!(" replication={replication}"));
    }
    match options.durability_interval_ms {
        None => {}
        Some(0) => text.push_str(" durability=sync"),
        Some(ms) => text.push_str(&format!(" durability={ms}ms")),
    }
    text
}

/// A table's options as they follow `CREATE TABLE name`.
pub(crate) fn table_options(options: &TableOptions) -> String {
    let duration = |ms: u64| humantime::format_duration(Duration::from_millis(ms)).to_string().replace(' ', "");
    let ttl = |ms: u64| if ms == 0 { "never".to_owned() } else { duration(ms) };
    let told = [
        ("read_repair_chance", options.read_repair_chance.map(|chance| chance.to_string())),
        ("hedge", options.hedge.as_ref().map(|hedge| bare_or_quoted(hedge.as_bytes()))),
        ("grace", options.grace_ms.map(duration)),
        ("prefix_index", options.prefix_index.map(|on| on.to_string())),
        ("default_ttl", options.default_ttl_ms.map(ttl)),
    ];
    told.into_iter().filter_map(|(name, value)| Some(format!(" {name}={}", value?))).collect()
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name();
        match self {
            Self::Put { key, value, terms } => write!(f, "{name} {} {}{terms}", bare_or_quoted(key), quote(value)),
            Self::Get { key, terms } | Self::Delete { key, terms } => {
                write!(f, "{name} {}{terms}", bare_or_quoted(key))
            }
            Self::Update { key, value, terms } => {
                write!(f, "{name} {} SET value={}{terms}", bare_or_quoted(key), quote(value))
            }
            Self::Scan { scan, terms } => write!(f, "{name}{scan}{terms}"),
            Self::Consistency(level) => {
                f.write_str(name)?;
                level.map_or(Ok(()), |level| write!(f, " {level}"))
            }
            Self::Use(place) | Self::Describe(place) => write!(f, "{name}{}", Place(place)),
            Self::Ring(Some(key)) => write!(f, "{name} {}", quote(key)),
            Self::Nodes | Self::Ring(None) | Self::Stats | Self::Hints | Self::Status | Self::Health | Self::Exit => {
                f.write_str(name)
            }
            Self::Repair { table, plan } => {
                f.write_str(name)?;
                table.as_ref().map_or(Ok(()), |table| write!(f, " {table}"))?;
                if *plan { f.write_str(" PLAN") } else { Ok(()) }
            }
            Self::Scrub { now } => {
                f.write_str(name)?;
                if *now { f.write_str(" NOW") } else { Ok(()) }
            }
            Self::Decommission(node) => write!(f, "{name} {}", quote(node.as_bytes())),
            Self::Remove { node, accept_loss } => {
                write!(f, "{name} {}", quote(node.as_bytes()))?;
                if *accept_loss { f.write_str(" ACCEPT LOSS") } else { Ok(()) }
            }
            Self::Replace { node, with, accept_loss } => {
                write!(f, "{name} {} WITH {}", quote(node.as_bytes()), quote(with.as_bytes()))?;
                if *accept_loss { f.write_str(" ACCEPT LOSS") } else { Ok(()) }
            }
            Self::Drain { node, undo } => {
                write!(f, "{name} {}", quote(node.as_bytes()))?;
                if *undo { f.write_str(" UNDO") } else { Ok(()) }
            }
            Self::Connect { host, port } => {
                write!(f, "{name} {}", quote(host.as_bytes()))?;
                port.map_or(Ok(()), |port| write!(f, " {port}"))
            }
            Self::Disconnect(node) => {
                f.write_str(name)?;
                node.as_ref().map_or(Ok(()), |node| write!(f, " {}", quote(node.as_bytes())))
            }
            // The words of a command are never in quotes.
            Self::Help(words) => {
                f.write_str(name)?;
                words.as_ref().map_or(Ok(()), |words| write!(f, " {words}"))
            }
            Self::CreateKeyspace { name: keyspace, options } | Self::AlterKeyspace { name: keyspace, options } => {
                write!(f, "{name} {keyspace}{}", keyspace_options(options))
            }
            Self::DropKeyspace { name: keyspace } => write!(f, "{name} {keyspace}"),
            Self::CreateTable { table, options } | Self::AlterTable { table, options } => {
                write!(f, "{name} {table}{}", table_options(options))
            }
            Self::DropTable { table } => write!(f, "{name} {table}"),
        }
    }
}

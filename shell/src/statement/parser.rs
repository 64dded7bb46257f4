//! From tokens to a statement. One function for each command that takes more than its name.

use super::ast::Command;
use super::commands::{self, EXPLAINED, Spec};
use super::cursor::Cursor;
use super::lexer::{self, Kind, Token};
use super::suggest::nearest;
use super::syntax::{Span, SyntaxError};
use super::terms;

/// A statement and where it stands in the source.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Statement {
    /// What it says.
    pub command: Command,
    /// From its first to its last word.
    pub span: Span,
}

/// The statements of a source, one after another. Each is read only when it is asked for.
#[derive(Clone, Debug)]
pub struct Statements<'a> {
    source: &'a str,
    at: usize,
}

impl<'a> Statements<'a> {
    /// Those of a source.
    pub fn new(source: &'a str) -> Self {
        Self { source, at: 0 }
    }
}

impl Iterator for Statements<'_> {
    type Item = Result<Statement, SyntaxError>;

    fn next(&mut self) -> Option<Self::Item> {
        match lexer::statement(self.source, self.at) {
            Ok((tokens, next)) => {
                self.at = next;
                let (first, last) = tokens.first().zip(tokens.last())?;
                let span = Span { start: first.span.start, end: last.span.end };
                Some(command(&tokens).map(|command| Statement { command, span }))
            }
            Err(error) => {
                let from = error.span.start.max(self.at);
                self.at = if error.is_unfinished { self.source.len() } else { lexer::behind_line(self.source, from) };
                Some(Err(error))
            }
        }
    }
}

/// Whether more input is needed: a quote or a bracket is open, or the last line ends with a backslash.
pub fn is_unfinished(source: &str) -> bool {
    let continues = source.trim_end_matches(['\n', '\r']).ends_with('\\');
    let mut statements = Statements::new(source);
    statements.any(|statement| statement.is_err_and(|error| error.is_unfinished)) || (continues && !in_comment(source))
}

fn in_comment(source: &str) -> bool {
    let line = source.trim_end().rsplit('\n').next().unwrap_or_default();
    line.trim_start().starts_with("//") || line.contains(" //")
}

fn command(tokens: &[Token]) -> Result<Command, SyntaxError> {
    let mut cursor = Cursor::new(tokens);
    let span = cursor.here();
    let Some(Token { kind: Kind::Word(word), .. }) = cursor.next() else {
        return Err(SyntaxError::new(span, "a statement begins with a command: HELP lists them"));
    };
    if word.eq_ignore_ascii_case("EXPLAIN") {
        return explain(cursor.rest(), span);
    }
    let spec = match word.to_ascii_uppercase().as_str() {
        "CREATE" | "ALTER" | "DROP" => spec_of_two(word, &mut cursor)?,
        _ => commands::find(word).ok_or_else(|| no_command(word, span))?,
    };
    statement(spec, &mut cursor, span)
}

fn no_command(word: &str, span: Span) -> SyntaxError {
    let meant = nearest(word, commands::first_words());
    let hint = if meant.is_some() { "" } else { ": HELP lists them" };
    let shown: String = word.chars().take(40).collect();
    SyntaxError::new(span, format!("there is no command {shown:?}{hint}")).suggest(meant)
}

/// CREATE, ALTER and DROP are followed by what.
fn spec_of_two(word: &str, cursor: &mut Cursor<'_>) -> Result<&'static Spec, SyntaxError> {
    let span = cursor.here();
    let kinds = ["KEYSPACE", "TABLE"];
    let word = word.to_ascii_uppercase();
    let Some(kind) = cursor.peek_word() else {
        return Err(SyntaxError::new(span, format!("{word} is followed by KEYSPACE or TABLE")));
    };
    let wrong = || {
        SyntaxError::new(span, format!("{word} is followed by KEYSPACE or TABLE, not {kind:?}"))
            .suggest(nearest(kind, kinds))
    };
    let spec = commands::find(&format!("{word} {kind}")).ok_or_else(wrong)?;
    cursor.next();
    Ok(spec)
}

fn statement(spec: &'static Spec, cursor: &mut Cursor<'_>, start: Span) -> Result<Command, SyntaxError> {
    let command = match spec.name {
        "PUT" => {
            let (key, value) = (cursor.bytes("the key")?, cursor.bytes("the value")?);
            Command::Put { key, value, terms: terms::of_rows(cursor, spec)?.0 }
        }
        "GET" => Command::Get { key: cursor.bytes("the key")?, terms: terms::of_rows(cursor, spec)?.0 },
        "DELETE" => Command::Delete { key: cursor.bytes("the key")?, terms: terms::of_rows(cursor, spec)?.0 },
        "UPDATE" => update(spec, cursor)?,
        "SCAN" => scan(spec, cursor, start)?,
        "CONSISTENCY" if cursor.is_over() => Command::Consistency(None),
        "CONSISTENCY" => Command::Consistency(Some(terms::level(cursor)?)),
        "USE" if cursor.is_over() => Command::Use(None),
        "USE" => Command::Use(Some(cursor.place()?)),
        "NODES" => Command::Nodes,
        "RING" if cursor.is_over() => Command::Ring(None),
        "RING" => Command::Ring(Some(cursor.bytes("the key")?)),
        "STATS" => Command::Stats,
        "HINTS" => Command::Hints,
        "REPAIR" => repair(cursor)?,
        "STATUS" => Command::Status,
        "SCRUB" => Command::Scrub { now: cursor.take_word("NOW") },
        "HEALTH" => Command::Health,
        "DECOMMISSION" => Command::Decommission(cursor.text(A_NODE)?),
        "REMOVE" => Command::Remove { node: cursor.text(A_NODE)?, accept_loss: accept_loss(cursor)? },
        "REPLACE" => replace(cursor)?,
        "DRAIN" => Command::Drain { node: cursor.text(A_NODE)?, undo: cursor.take_word("UNDO") },
        "CONNECT" => connect(cursor)?,
        "DISCONNECT" if cursor.is_over() => Command::Disconnect(None),
        "DISCONNECT" => Command::Disconnect(Some(cursor.text(A_NODE)?)),
        "DESCRIBE" => describe(cursor)?,
        "CREATE KEYSPACE" => {
            Command::CreateKeyspace { name: cursor.keyspace()?, options: terms::of_keyspace(cursor, spec.name)? }
        }
        "ALTER KEYSPACE" => {
            Command::AlterKeyspace { name: cursor.keyspace()?, options: terms::of_keyspace(cursor, spec.name)? }
        }
        "DROP KEYSPACE" => Command::DropKeyspace { name: cursor.keyspace()? },
        "CREATE TABLE" => Command::CreateTable { table: cursor.table()?, options: terms::of_table(cursor, spec.name)? },
        "ALTER TABLE" => Command::AlterTable { table: cursor.table()?, options: terms::of_table(cursor, spec.name)? },
        "DROP TABLE" => Command::DropTable { table: cursor.table()? },
        "HELP" => help(cursor)?,
        _ => Command::Exit,
    };
    cursor.end(spec.name, spec.flags.iter().copied())?;
    Ok(command)
}

/// The statement behind EXPLAIN, which has to be one on rows.
fn explain(statement: &[Token], span: Span) -> Result<Command, SyntaxError> {
    const MESSAGE: &str = "EXPLAIN stands before PUT, GET, UPDATE, DELETE or SCAN";
    let Some(first) = statement.first() else { return Err(SyntaxError::new(span, MESSAGE)) };
    let word = match &first.kind {
        Kind::Word(word) => word.as_str(),
        _ => "",
    };
    if !EXPLAINED.iter().any(|known| known.eq_ignore_ascii_case(word)) {
        return Err(SyntaxError::new(first.span, MESSAGE).suggest(nearest(word, EXPLAINED.iter().copied())));
    }
    let mut explained = command(statement)?;
    if let Some(terms) = explained.terms_mut() {
        terms.explain = true;
    }
    Ok(explained)
}

fn update(spec: &'static Spec, cursor: &mut Cursor<'_>) -> Result<Command, SyntaxError> {
    const EXAMPLE: &str = "UPDATE key SET value=\"...\"";
    let key = cursor.bytes("the key")?;
    if !cursor.take_word("SET") {
        let meant = cursor.peek_word().and_then(|word| nearest(word, ["SET"]));
        return Err(cursor.error(format!("here belongs SET, as in {EXAMPLE}")).suggest(meant));
    }
    if !cursor.take_word("value") {
        let meant = cursor.peek_word().and_then(|word| nearest(word, ["value"]));
        return Err(cursor.error(format!("a row has nothing to set but its value, as in {EXAMPLE}")).suggest(meant));
    }
    cursor.symbol('=', EXAMPLE)?;
    let value = cursor.bytes("the value")?;
    Ok(Command::Update { key, value, terms: terms::of_rows(cursor, spec)?.0 })
}

fn scan(spec: &'static Spec, cursor: &mut Cursor<'_>, start: Span) -> Result<Command, SyntaxError> {
    let is_option = |word: &str| {
        let name = word.to_ascii_uppercase();
        name == "LIMIT" || spec.flags.contains(&name.as_str()) || cursor.is_followed_by('=')
    };
    let has_prefix = !cursor.is_over() && !cursor.peek_word().is_some_and(is_option);
    let prefix = if has_prefix { Some(cursor.bytes("the prefix")?) } else { None };
    let (terms, mut scan) = terms::of_rows(cursor, spec)?;
    scan.prefix = prefix;
    terms::check_scan(&scan, start)?;
    Ok(Command::Scan { scan, terms })
}

fn repair(cursor: &mut Cursor<'_>) -> Result<Command, SyntaxError> {
    let mut plan = cursor.take_word("PLAN");
    let table = if cursor.is_over() || plan { None } else { Some(cursor.table()?) };
    plan |= cursor.take_word("PLAN");
    Ok(Command::Repair { table, plan })
}

const A_NODE: &str = "the name of a node";

/// `REPLACE node WITH node`.
fn replace(cursor: &mut Cursor<'_>) -> Result<Command, SyntaxError> {
    let node = cursor.text(A_NODE)?;
    if !cursor.take_word("WITH") {
        let meant = cursor.peek_word().and_then(|word| nearest(word, ["WITH"]));
        return Err(cursor.error("here belongs WITH, as in REPLACE node-3 WITH node-4").suggest(meant));
    }
    let with = cursor.text("the name of the node that takes its place")?;
    Ok(Command::Replace { node, with, accept_loss: accept_loss(cursor)? })
}

/// `ACCEPT LOSS`, or nothing.
fn accept_loss(cursor: &mut Cursor<'_>) -> Result<bool, SyntaxError> {
    if !cursor.take_word("ACCEPT") {
        return Ok(false);
    }
    if cursor.take_word("LOSS") { Ok(true) } else { Err(cursor.error("ACCEPT is followed by LOSS")) }
}

/// `CONNECT host port`, `CONNECT host:port` or `CONNECT host`.
fn connect(cursor: &mut Cursor<'_>) -> Result<Command, SyntaxError> {
    let host = cursor.text("the name or address of a host")?;
    if cursor.is_over() {
        // More than one colon is an IPv6 address.
        return Ok(match host.split_once(':') {
            Some((name, port)) if !port.contains(':') && !name.is_empty() => {
                let port = port.parse().map_err(|_| SyntaxError::new(cursor.last_span(), BAD_PORT))?;
                Command::Connect { host: name.to_owned(), port: Some(port) }
            }
            _ => Command::Connect { host, port: None },
        });
    }
    let port = cursor.text("the port")?;
    let port = port.parse().map_err(|_| SyntaxError::new(cursor.last_span(), BAD_PORT))?;
    Ok(Command::Connect { host, port: Some(port) })
}

const BAD_PORT: &str = "a port is a number from 0 to 65535; nodes serve the shell on 7400 unless told otherwise";

/// `DESCRIBE`, `DESCRIBE a.b`, `DESCRIBE KEYSPACE a` or `DESCRIBE TABLE a.b`.
fn describe(cursor: &mut Cursor<'_>) -> Result<Command, SyntaxError> {
    if cursor.take_word("KEYSPACE") {
        return Ok(Command::Describe(Some((cursor.keyspace()?, None))));
    }
    cursor.take_word("TABLE");
    let place = if cursor.is_over() { None } else { Some(cursor.place()?) };
    Ok(Command::Describe(place))
}

fn help(cursor: &mut Cursor<'_>) -> Result<Command, SyntaxError> {
    let mut words = Vec::new();
    while let Some(word) = cursor.peek_word() {
        words.push(word.to_ascii_uppercase());
        cursor.next();
    }
    Ok(Command::Help((!words.is_empty()).then(|| words.join(" "))))
}

//! What follows a command: `CL=QUORUM TTL=60s EXPLAIN`, and the options of keyspaces and tables.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use cube_client::Level;
use cube_client::admin::{KeyspaceOptions, Replication, TableOptions};

use super::ast::{Scan, Terms};
use super::commands::{KEYSPACE_OPTIONS, Spec, TABLE_OPTIONS};
use super::cursor::Cursor;
use super::literal::read_page_token;
use super::suggest::nearest;
use super::syntax::{Span, SyntaxError};

/// The options of a statement on rows, and those of SCAN.
pub(super) fn of_rows(cursor: &mut Cursor<'_>, spec: &Spec) -> Result<(Terms, Scan), SyntaxError> {
    let (mut terms, mut scan) = (Terms::default(), Scan::default());
    let mut seen = Vec::new();
    while let Some(word) = cursor.peek_word() {
        let span = cursor.here();
        let name = word.to_ascii_uppercase();
        if let Some(flag) = spec.flags.iter().find(|flag| **flag == name && !cursor.is_followed_by('=')) {
            cursor.next();
            once(&mut seen, flag, span)?;
            terms.explain |= *flag == "EXPLAIN";
            scan.backward |= *flag == "BACKWARD";
            continue;
        }
        // LIMIT may stand without =, as people write it elsewhere.
        let is_option = cursor.is_followed_by('=') || name == "LIMIT";
        if !is_option {
            if spec.options.contains(&name.as_str()) {
                let behind = Span { start: span.end, end: span.end };
                return Err(SyntaxError::new(behind, format!("behind {name} belong = and its value")));
            }
            break;
        }
        if spec.flags.contains(&name.as_str()) {
            return Err(SyntaxError::new(span, format!("{name} takes no value: leave out the =")));
        }
        let Some(option) = spec.options.iter().find(|option| **option == name) else {
            let allowed = spec.options.iter().chain(spec.flags).copied();
            let message = format!("{} has no option {word:?}: it takes {}", spec.name, join(spec));
            return Err(SyntaxError::new(span, message).suggest(nearest(word, allowed)));
        };
        cursor.next();
        cursor.take_symbol('=');
        once(&mut seen, option, span)?;
        row_option(cursor, option, &mut terms, &mut scan)?;
    }
    cursor.end(spec.name, spec.options.iter().chain(spec.flags).copied())?;
    Ok((terms, scan))
}

fn join(spec: &Spec) -> String {
    if spec.options.is_empty() && spec.flags.is_empty() {
        return "none".to_owned();
    }
    spec.options
        .iter()
        .map(|option| format!("{option}="))
        .chain(spec.flags.iter().map(ToString::to_string))
        .collect::<Vec<_>>()
        .join(" ")
}

fn once(seen: &mut Vec<&'static str>, option: &'static str, span: Span) -> Result<(), SyntaxError> {
    if seen.contains(&option) {
        return Err(SyntaxError::new(span, format!("{option} is said twice")));
    }
    seen.push(option);
    Ok(())
}

fn row_option(cursor: &mut Cursor<'_>, option: &str, terms: &mut Terms, scan: &mut Scan) -> Result<(), SyntaxError> {
    let what = format!("the value of {option}");
    match option {
        "CL" => terms.level = Some(level(cursor)?),
        "TTL" => terms.ttl = Some(duration(cursor, &what)?),
        "TIMEOUT" => terms.timeout = Some(duration(cursor, &what)?),
        "AT" => terms.at_ms = Some(number(cursor, "AT is milliseconds since 1970, as in AT=1767225600000")?),
        "SORT" => terms.sort = Some(cursor.bytes(&what)?),
        "IN" => terms.table = Some(cursor.table()?),
        "LIMIT" => {
            let span = cursor.here();
            let limit = number(cursor, "LIMIT is a number of rows, as in LIMIT=20")?;
            if limit == 0 {
                return Err(SyntaxError::new(span, "LIMIT is at least 1"));
            }
            scan.limit = Some(limit);
        }
        "PAGE" => {
            let (span, token) = (cursor.here(), cursor.bytes(&what)?);
            let wrong = "PAGE is what an earlier SCAN told to go on with";
            scan.page = Some(read_page_token(&token).ok_or_else(|| SyntaxError::new(span, wrong))?);
        }
        "KEY" => scan.key = Some(cursor.bytes(&what)?),
        "FROM" => scan.from = Some(cursor.bytes(&what)?),
        "AFTER" => scan.after = Some(cursor.bytes(&what)?),
        "TO" => scan.to = Some(cursor.bytes(&what)?),
        "BEFORE" => scan.before = Some(cursor.bytes(&what)?),
        _ => return Err(cursor.error(format!("{option} is no option"))),
    }
    Ok(())
}

pub(super) fn level(cursor: &mut Cursor<'_>) -> Result<Level, SyntaxError> {
    let span = cursor.here();
    let word = cursor.text("a level")?;
    word.parse().map_err(|error: cube_client::UnknownLevel| {
        SyntaxError::new(span, error.to_string()).suggest(nearest(&word, Level::all().map(Level::name)))
    })
}

fn number(cursor: &mut Cursor<'_>, message: &str) -> Result<u64, SyntaxError> {
    let span = cursor.here();
    let word = cursor.text("a number")?;
    word.parse().map_err(|_| SyntaxError::new(span, message))
}

/// Seconds, or a number with its unit. Whole milliseconds, and no more of them than 64 bits count.
fn duration(cursor: &mut Cursor<'_>, what: &str) -> Result<Duration, SyntaxError> {
    let span = cursor.here();
    let word = cursor.text(what)?;
    parse_duration(&word)
        .ok_or_else(|| SyntaxError::new(span, format!("{what} is seconds or a duration such as 60s, 5m or 12h")))
}

/// Seconds, or a number with its unit.
pub(crate) fn parse_duration(word: &str) -> Option<Duration> {
    let time = match word.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => humantime::parse_duration(word).ok()?,
    };
    let ms = u64::try_from(time.as_millis()).ok()?;
    (ms > 0).then(|| Duration::from_millis(ms))
}

/// `name=value` pairs, with or without WITH before and AND or commas between them.
fn pairs<'a>(
    cursor: &mut Cursor<'a>,
    command: &str,
    options: &'static [&'static str],
    mut take: impl FnMut(&mut Cursor<'a>, &'static str) -> Result<(), SyntaxError>,
) -> Result<(), SyntaxError> {
    let mut seen = Vec::new();
    cursor.take_word("WITH");
    while let Some(word) = cursor.peek_word() {
        let span = cursor.here();
        let Some(option) = options.iter().find(|option| option.eq_ignore_ascii_case(word)) else {
            let message = format!("{command} has no option {word:?}: it takes {}", options.join(", "));
            return Err(SyntaxError::new(span, message).suggest(nearest(word, options.iter().copied())));
        };
        cursor.next();
        cursor.symbol('=', &format!("{option}=..."))?;
        once(&mut seen, option, span)?;
        take(cursor, option)?;
        if !cursor.take_symbol(',') {
            cursor.take_word("AND");
        }
    }
    cursor.end(command, options.iter().copied())
}

pub(super) fn of_keyspace(cursor: &mut Cursor<'_>, command: &str) -> Result<KeyspaceOptions, SyntaxError> {
    let mut options = KeyspaceOptions::default();
    pairs(cursor, command, KEYSPACE_OPTIONS, |cursor, option| {
        match option {
            "replication" => options.replication = Some(replication(cursor)?),
            _ => options.durability_interval_ms = Some(durability(cursor)?),
        }
        Ok(())
    })?;
    Ok(options)
}

fn durability(cursor: &mut Cursor<'_>) -> Result<u32, SyntaxError> {
    let span = cursor.here();
    let word = cursor.text("the value of durability")?;
    if word.eq_ignore_ascii_case("sync") {
        return Ok(0);
    }
    let interval = humantime::parse_duration(&word).ok().and_then(|time| u32::try_from(time.as_millis()).ok());
    interval
        .filter(|ms| *ms > 0)
        .ok_or_else(|| SyntaxError::new(span, "durability is sync, or how often the disk is synced, as in 100ms"))
}

const REPLICATION_EXAMPLES: &str = "simple(3) or network(dc1: 3, dc2: 2)";

/// `simple(3)`, or `network(dc1: 3, dc2: 2)`, also with braces inside.
fn replication(cursor: &mut Cursor<'_>) -> Result<Replication, SyntaxError> {
    let span = cursor.here();
    let word = cursor.text("the value of replication")?;
    let strategy =
        ["simple", "network"].into_iter().find(|known| known.eq_ignore_ascii_case(&word)).ok_or_else(|| {
            SyntaxError::new(span, format!("replication is {REPLICATION_EXAMPLES}"))
                .suggest(nearest(&word, ["simple", "network"]))
        })?;
    cursor.symbol('(', REPLICATION_EXAMPLES)?;
    if strategy == "simple" {
        let replicas = replicas(cursor)?;
        cursor.symbol(')', REPLICATION_EXAMPLES)?;
        return Ok(Replication::Simple(replicas));
    }
    let has_braces = cursor.take_symbol('{');
    let mut centers = BTreeMap::new();
    while !matches!(cursor.peek(), None | Some(super::lexer::Token { kind: super::lexer::Kind::Symbol(_), .. })) {
        let (name, replicas) = data_center(cursor)?;
        centers.insert(name, replicas);
        if !cursor.take_symbol(',') {
            break;
        }
    }
    if centers.is_empty() {
        return Err(cursor.error(format!("a data center is expected here, as in {REPLICATION_EXAMPLES}")));
    }
    if has_braces {
        cursor.symbol('}', REPLICATION_EXAMPLES)?;
    }
    cursor.symbol(')', REPLICATION_EXAMPLES)?;
    Ok(Replication::Network(centers))
}

/// `dc1: 3`, `dc1:3`, `dc1=3` or `"dc1": 3`.
fn data_center(cursor: &mut Cursor<'_>) -> Result<(String, u32), SyntaxError> {
    let span = cursor.here();
    let word = cursor.text("the name of a data center")?;
    if let Some((name, count)) = word.rsplit_once(':')
        && !count.is_empty()
    {
        let replicas =
            count.parse().map_err(|_| SyntaxError::new(span, format!("here belongs {REPLICATION_EXAMPLES}")))?;
        return Ok((name.to_owned(), replicas));
    }
    let name = word.strip_suffix(':').unwrap_or(&word).to_owned();
    if !cursor.take_symbol('=') {
        cursor.take_word(":");
    }
    Ok((name, replicas(cursor)?))
}

fn replicas(cursor: &mut Cursor<'_>) -> Result<u32, SyntaxError> {
    let span = cursor.here();
    let word = cursor.text("a number of replicas")?;
    let word = word.strip_prefix(':').unwrap_or(&word);
    word.parse()
        .map_err(|_| SyntaxError::new(span, format!("a number of replicas is expected, as in {REPLICATION_EXAMPLES}")))
}

pub(super) fn of_table(cursor: &mut Cursor<'_>, command: &str) -> Result<TableOptions, SyntaxError> {
    let mut options = TableOptions::default();
    pairs(cursor, command, TABLE_OPTIONS, |cursor, option| {
        let what = format!("the value of {option}");
        match option {
            "read_repair_chance" => {
                let chance = number(cursor, "read_repair_chance is a percentage from 0 to 100")?;
                let chance = u32::try_from(chance).ok().filter(|chance| *chance <= 100);
                let wrong = "read_repair_chance is a percentage from 0 to 100";
                options.read_repair_chance = Some(chance.ok_or_else(|| SyntaxError::new(cursor.last_span(), wrong))?);
            }
            "hedge" => options.hedge = Some(cursor.text(&what)?),
            "grace" => options.grace_ms = Some(millis(duration(cursor, &what)?)),
            "prefix_index" => options.prefix_index = Some(truth(cursor)?),
            _ => options.default_ttl_ms = Some(ttl(cursor, &what)?),
        }
        Ok(())
    })?;
    Ok(options)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn ttl(cursor: &mut Cursor<'_>, what: &str) -> Result<u64, SyntaxError> {
    if ["never", "none", "null", "0"].into_iter().any(|never| cursor.take_word(never)) {
        return Ok(0);
    }
    Ok(millis(duration(cursor, what)?))
}

fn truth(cursor: &mut Cursor<'_>) -> Result<bool, SyntaxError> {
    let span = cursor.here();
    let word = cursor.text("true or false")?;
    match word.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" => Ok(true),
        "false" | "no" | "off" => Ok(false),
        _ => Err(SyntaxError::new(span, "here belongs true or false")),
    }
}

/// SCAN's words must agree.
pub(super) fn check_scan(scan: &Scan, span: Span) -> Result<(), SyntaxError> {
    let both = |a: &Option<Bytes>, b: &Option<Bytes>| a.is_some() && b.is_some();
    if both(&scan.from, &scan.after) {
        return Err(SyntaxError::new(span, "SCAN takes FROM= or AFTER=, not both"));
    }
    if both(&scan.to, &scan.before) {
        return Err(SyntaxError::new(span, "SCAN takes TO= or BEFORE=, not both"));
    }
    if both(&scan.prefix, &scan.key) {
        return Err(SyntaxError::new(span, "SCAN takes a prefix or KEY=, not both"));
    }
    let bounds = [&scan.from, &scan.after, &scan.to, &scan.before];
    if scan.key.is_none() && bounds.iter().any(|bound| bound.is_some()) {
        return Err(SyntaxError::new(span, "FROM=, AFTER=, TO= and BEFORE= need KEY="));
    }
    if both(&scan.page, &scan.key) {
        return Err(SyntaxError::new(
            span,
            "PAGE= goes on with the rows of a prefix: KEY= goes on with AFTER= or BEFORE=",
        ));
    }
    Ok(())
}

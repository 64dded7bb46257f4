//! SCAN: the rows whose keys begin alike, over the whole table, or those of one key in the order of their sort keys.
//!
//! A list that ends at its limit tells how to go on behind it, and whether there is more is looked up, not guessed.

use bytes::Bytes;
use cube_client::{Explained, Row, Table};

use super::data::level;
use super::explain;
use crate::error::ShellError;
use crate::outcome::{Cell, Outcome, Rows, Tone};
use crate::session::Session;
use crate::statement::{Scan, Terms, bare_or_quoted, page_token};

/// Rows that SCAN lists if it is not told how many.
const SCAN_ROWS: u64 = 100;
/// Rows of one request of a SCAN.
const PAGE_ROWS_MAX: u64 = 1_000;

/// What was listed.
#[derive(Default)]
struct Listed {
    rows: Vec<Row>,
    /// How the next SCAN goes on behind it, if there is more.
    next: Option<Next>,
    explained: Vec<Explained>,
}

enum Next {
    /// Behind this sort key.
    Sort(Bytes),
    /// Behind this page.
    Page(Bytes),
}

impl Listed {
    fn count(&self) -> u64 {
        u64::try_from(self.rows.len()).unwrap_or(u64::MAX)
    }
}

pub(super) async fn scan(session: &mut Session, scan: &Scan, terms: &Terms) -> Result<Outcome, ShellError> {
    let table = session.rows(terms.table.as_ref()).await?;
    let limit = scan.limit.unwrap_or(SCAN_ROWS);
    let listed = match &scan.key {
        Some(key) => of_key(session, &table, key, scan, terms, limit).await?,
        None => of_prefix(session, &table, scan, terms, limit).await?,
    };
    Ok(told(listed, scan))
}

fn page_rows(limit: u64) -> u32 {
    u32::try_from(limit.min(PAGE_ROWS_MAX)).unwrap_or(u32::MAX)
}

async fn of_prefix(
    session: &Session,
    table: &Table,
    scan: &Scan,
    terms: &Terms,
    limit: u64,
) -> Result<Listed, ShellError> {
    let begun = |limit: u64| {
        let of = table.scan(scan.prefix.clone().unwrap_or_default()).level(level(session, terms)).limit(limit);
        let of = of.timeout(terms.timeout.unwrap_or_else(|| session.left())).page_rows(page_rows(limit));
        if scan.backward { of.backward() } else { of }
    };
    let mut pages = begun(limit);
    if let Some(token) = &scan.page {
        pages = pages.resume(token.clone());
    }
    if terms.explain {
        pages = pages.explain();
    }
    let mut listed = Listed::default();
    while let Some(page) = pages.next_page().await? {
        listed.rows.extend(page);
        listed.explained.extend(pages.explained().cloned());
    }
    // At the limit the token tells that there may be more: what is left may be deleted.
    if let Some(token) = pages.token()
        && begun(1).resume(token.clone()).next().await?.is_some()
    {
        listed.next = Some(Next::Page(token));
    }
    Ok(listed)
}

async fn of_key(
    session: &Session,
    table: &Table,
    key: &Bytes,
    scan: &Scan,
    terms: &Terms,
    limit: u64,
) -> Result<Listed, ShellError> {
    // One more than wanted tells whether there are more.
    let mut range = table
        .range(key.clone())
        .level(level(session, terms))
        .timeout(terms.timeout.unwrap_or_else(|| session.left()))
        .page_rows(page_rows(limit.saturating_add(1)));
    if let Some(from) = &scan.from {
        range = range.from(from.clone());
    }
    if let Some(after) = &scan.after {
        range = range.after(after.clone());
    }
    if let Some(to) = &scan.to {
        range = range.to(to.clone());
    }
    if let Some(before) = &scan.before {
        range = range.before(before.clone());
    }
    if scan.backward {
        range = range.backward();
    }
    if terms.explain {
        range = range.explain();
    }
    let mut listed = Listed::default();
    while listed.count() <= limit
        && let Some(page) = range.next_page().await?
    {
        listed.rows.extend(page);
        listed.explained.extend(range.explained().cloned());
    }
    if listed.count() > limit {
        listed.rows.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        listed.next = listed.rows.last().map(|row| Next::Sort(row.key.sort.clone()));
    }
    Ok(listed)
}

fn told(listed: Listed, scan: &Scan) -> Outcome {
    let count = listed.count();
    let account = explain::of(&listed.explained);
    let go_on = listed.next.as_ref().map(|next| match next {
        Next::Sort(sort) if scan.backward => format!("BEFORE={}", bare_or_quoted(sort)),
        Next::Sort(sort) => format!("AFTER={}", bare_or_quoted(sort)),
        Next::Page(token) => format!("PAGE={}", page_token(token)),
    });
    let rows = if count == 1 { "1 row".to_owned() } else { format!("{count} rows") };
    let told = match (count, &go_on) {
        (0, None) => "no rows".to_owned(),
        (_, None) => rows,
        (_, Some(go_on)) => format!("{rows}; there are more: {go_on} lists them"),
    };
    let row = |row: Row| {
        vec![
            Cell::Bytes(row.key.partition),
            Cell::Bytes(row.key.sort),
            Cell::Bytes(row.value),
            Cell::Version(row.version),
            Cell::maybe(row.expires_at_ms, Cell::Moment),
        ]
    };
    let columns = vec!["key", "sort", "value", "version", "expiresAtMs"];
    let rows = Rows { columns, rows: listed.rows.into_iter().map(row).collect() };
    let next = match &listed.next {
        Some(Next::Page(token)) => Cell::text(page_token(token)),
        _ => Cell::Null,
    };
    Outcome::of("SCAN")
        .fact("count", Cell::Count(count))
        .fact("more", Cell::Bool(listed.next.is_some()))
        .fact("next", next)
        .rows(rows)
        .footer(Tone::Aside, told)
        .account(account)
}

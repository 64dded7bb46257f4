//! Lines and tables for people. Without a terminal there are no colours, no borders and no cut cells, so that output can
//! be searched and split.

use comfy_table::presets::NOTHING;
use comfy_table::{Attribute, CellAlignment, Color, ContentArrangement, Table, TableComponent};

use super::words;
use crate::outcome::{Account, Cell, Outcome, Rows, Tone};

/// What stands between the cells of two columns.
const GAP_LETTERS: usize = 3;
/// Columns that are never left out.
const COLUMNS_MIN: usize = 3;
/// Letters of one cell that are shown on a terminal.
const CELL_LETTERS_MAX: usize = 400;

pub(super) fn outcome(outcome: &Outcome, width: Option<u16>, colour: bool) -> String {
    let mut text = lines(&outcome.lines, colour);
    if let Some(rows) = outcome.rows.as_ref().filter(|_| !outcome.rows_are_told) {
        text.push_str(&list(rows, width, colour));
    }
    text.push_str(&lines(&outcome.footer, colour));
    if let Some(told) = &outcome.account {
        text.push('\n');
        text.push_str(&account(told, width, colour));
    }
    text
}

pub(super) fn account(account: &Account, width: Option<u16>, colour: bool) -> String {
    let head = lines(&account.lines, colour);
    head + &list(&account.messages, width, colour) + &lines(&account.footer, colour)
}

fn lines(lines: &[(Tone, String)], colour: bool) -> String {
    lines.iter().map(|(tone, line)| words::paint(*tone, line, colour) + "\n").collect()
}

fn list(rows: &Rows, width: Option<u16>, colour: bool) -> String {
    let rows = told(rows);
    if rows.rows.is_empty() {
        return String::new();
    }
    let Some(width) = width else { return aligned(&rows) };
    let (rows, left_out) = fitting(rows, width);
    let mut text = bordered(&rows, width, colour);
    if !left_out.is_empty() {
        let told = format!("left out for want of width: {}", left_out.join(", "));
        text.push_str(&words::paint(Tone::Aside, &told, colour));
        text.push('\n');
    }
    text
}

/// Without the columns in which nothing is known, and without that of the sort keys where no row has one.
fn told(rows: &Rows) -> Rows {
    let is_told = |cell: &Cell, name: &str| match cell {
        Cell::Null => false,
        Cell::Bytes(bytes) => !bytes.is_empty() || name != "sort",
        _ => true,
    };
    let has_told =
        |column: usize, name: &str| rows.rows.iter().filter_map(|row| row.get(column)).any(|cell| is_told(cell, name));
    let kept = rows.columns.iter().enumerate().filter(|(column, name)| has_told(*column, name));
    let kept: Vec<usize> = kept.map(|(column, _)| column).collect();
    let row = |row: &Vec<Cell>| kept.iter().filter_map(|column| row.get(*column).cloned()).collect();
    Rows {
        columns: kept.iter().filter_map(|column| rows.columns.get(*column).copied()).collect(),
        rows: rows.rows.iter().map(row).collect(),
    }
}

/// The columns that a terminal has room for, and the headings of those behind them. Keys and values are never left out:
/// their cells go on in further lines.
fn fitting(mut rows: Rows, width: u16) -> (Rows, Vec<String>) {
    let mut left_out = Vec::new();
    let has_bytes = rows.rows.iter().flatten().any(|cell| matches!(cell, Cell::Bytes(_)));
    while !has_bytes && rows.columns.len() > COLUMNS_MIN && natural_width(&rows) > usize::from(width) {
        rows.rows.iter_mut().for_each(|row| row.truncate(rows.columns.len() - 1));
        left_out.extend(rows.columns.pop().map(words::heading));
    }
    left_out.reverse();
    (rows, left_out)
}

fn natural_width(rows: &Rows) -> usize {
    let letters = |text: &str| text.chars().count();
    let width = |(column, name): (usize, &&str)| {
        let cells = rows.rows.iter().filter_map(|row| row.get(column)).map(|cell| letters(&words::cell(cell)));
        cells.max().unwrap_or_default().max(letters(&words::heading(name))) + GAP_LETTERS
    };
    rows.columns.iter().enumerate().map(width).sum()
}

fn is_number(cell: &Cell) -> bool {
    matches!(cell, Cell::Count(_) | Cell::Signed(_) | Cell::Number(_))
}

fn bordered(rows: &Rows, width: u16, colour: bool) -> String {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    table.set_style(TableComponent::HeaderLines, '─').set_style(TableComponent::MiddleHeaderIntersections, '─');
    if colour {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    let header = rows.columns.iter().map(|name| {
        let cell = comfy_table::Cell::new(words::heading(name));
        if colour { cell.add_attribute(Attribute::Bold) } else { cell }
    });
    table.set_header(header);
    for row in &rows.rows {
        table.add_row(row.iter().map(|cell| {
            let shown = comfy_table::Cell::new(cut(words::cell(cell)));
            let shown = if is_number(cell) { shown.set_alignment(CellAlignment::Right) } else { shown };
            match tint(cell).filter(|_| colour) {
                Some(tint) => shown.fg(tint),
                None => shown,
            }
        }));
    }
    table.trim_fmt() + "\n"
}

/// Words that tell at a glance how something is.
fn tint(cell: &Cell) -> Option<Color> {
    let Cell::Text(text) = cell else { return None };
    match text.as_str() {
        "ALIVE" | "READY" | "ok" => Some(Color::Green),
        "DOWN" | "LOST" | "lost" => Some(Color::Red),
        "JOINING" | "WARMING" | "LEAVING" | "at risk" => Some(Color::Yellow),
        _ => None,
    }
}

fn cut(text: String) -> String {
    match text.char_indices().nth(CELL_LETTERS_MAX) {
        None => text,
        Some((end, _)) => format!("{}… ({} letters)", text.get(..end).unwrap_or_default(), text.chars().count()),
    }
}

/// Columns by spaces, one line for each row. The last column is not filled up.
fn aligned(rows: &Rows) -> String {
    let header: Vec<String> = rows.columns.iter().map(|name| words::heading(name)).collect();
    let body = rows.rows.iter().map(|row| row.iter().map(words::cell).collect::<Vec<_>>());
    let lines: Vec<Vec<String>> = std::iter::once(header).chain(body).collect();
    let width = |column: usize| {
        lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..rows.columns.len()).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let cells: Vec<String> =
            line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}", width = *width)).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

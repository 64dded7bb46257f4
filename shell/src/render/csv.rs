//! A header and rows. A list is its rows; what is no list is one row of its facts. Bytes that are no text are base64, and
//! the column `encoding`, which stands wherever there are bytes, says so for each row. Of what is explained, the messages
//! are the list: a file has one header.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::outcome::{Cell, Outcome};

pub(super) fn outcome(outcome: &Outcome) -> String {
    let list = outcome.account.as_ref().map(|account| &account.messages).or(outcome.rows.as_ref());
    let (columns, rows): (Vec<&str>, Vec<Vec<&Cell>>) = match list {
        Some(rows) => (rows.columns.clone(), rows.rows.iter().map(|row| row.iter().collect()).collect()),
        None => {
            let (columns, cells) = outcome.facts.iter().map(|(name, cell)| (*name, cell)).unzip();
            (columns, vec![cells])
        }
    };
    table(&columns, &rows)
}

fn table(columns: &[&str], rows: &[Vec<&Cell>]) -> String {
    let has_bytes = rows.iter().flatten().any(|cell| matches!(cell, Cell::Bytes(_)));
    let mut header: Vec<&str> = columns.to_vec();
    header.extend(has_bytes.then_some("encoding"));
    let mut writer = csv::Writer::from_writer(Vec::new());
    // Writing to memory does not fail.
    writer.write_record(&header).unwrap_or_default();
    for row in rows {
        let is_text = |cell: &&Cell| !matches!(cell, Cell::Bytes(bytes) if std::str::from_utf8(bytes).is_err());
        let all_text = row.iter().all(is_text);
        let mut record: Vec<String> = row.iter().map(|cell| field(cell, all_text)).collect();
        record.extend(has_bytes.then(|| if all_text { "utf8" } else { "base64" }.to_owned()));
        writer.write_record(&record).unwrap_or_default();
    }
    String::from_utf8(writer.into_inner().unwrap_or_default()).unwrap_or_default()
}

fn field(cell: &Cell, as_text: bool) -> String {
    match cell {
        Cell::Null => String::new(),
        Cell::Bool(yes) => yes.to_string(),
        Cell::Count(count) | Cell::Moment(count) => count.to_string(),
        Cell::Signed(count) => count.to_string(),
        Cell::Number(number) => number.to_string(),
        Cell::Text(text) => text.clone(),
        Cell::Version(version) => version.to_string(),
        Cell::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) if as_text => text.to_owned(),
            _ => STANDARD.encode(bytes),
        },
        Cell::Names(names) => names.join(" "),
        Cell::Counts(counts) => {
            counts.iter().map(|(name, count)| format!("{name}={count}")).collect::<Vec<_>>().join(" ")
        }
    }
}

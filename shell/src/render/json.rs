//! One compact document for each statement. Where a key or a value is no text, all bytes of that object are base64 and
//! `"encoding":"base64"` says so, as over REST.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::error::ShellError;
use crate::outcome::{Cell, Outcome};

pub(super) fn outcome(outcome: &Outcome) -> String {
    let mut document = Map::new();
    document.insert("statement".to_owned(), outcome.statement.into());
    document.append(&mut object(outcome.facts.iter().map(|(name, cell)| (*name, cell))));
    if let Some(rows) = &outcome.rows {
        let row = |row: &Vec<Cell>| Value::Object(object(rows.columns.iter().copied().zip(row)));
        document.insert("rows".to_owned(), rows.rows.iter().map(row).collect());
    }
    if let Some(account) = &outcome.account {
        document.insert("explained".to_owned(), account.document.clone());
    }
    Value::Object(document).to_string()
}

/// An object of cells.
pub(crate) fn object<'a>(cells: impl Iterator<Item = (&'static str, &'a Cell)> + Clone) -> Map<String, Value> {
    let is_text = |cell: &Cell| !matches!(cell, Cell::Bytes(bytes) if std::str::from_utf8(bytes).is_err());
    let all_text = cells.clone().all(|(_, cell)| is_text(cell));
    let mut object: Map<String, Value> = cells.map(|(name, cell)| (name.to_owned(), value(cell, all_text))).collect();
    if !all_text {
        object.insert("encoding".to_owned(), "base64".into());
    }
    object
}

fn value(cell: &Cell, as_text: bool) -> Value {
    match cell {
        Cell::Null => Value::Null,
        Cell::Bool(yes) => (*yes).into(),
        Cell::Count(count) | Cell::Moment(count) => (*count).into(),
        Cell::Signed(count) => (*count).into(),
        Cell::Number(number) => (*number).into(),
        Cell::Text(text) => text.as_str().into(),
        Cell::Version(version) => version.to_string().into(),
        Cell::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) if as_text => text.into(),
            _ => STANDARD.encode(bytes).into(),
        },
        Cell::Names(names) => names.as_slice().into(),
        Cell::Counts(counts) => counts.iter().map(|(name, count)| (name.clone(), Value::from(*count))).collect(),
    }
}

pub(super) fn failure(statement: &str, error: &ShellError) -> String {
    let mut told = json!({
        "code": error.code(),
        "message": error.to_string(),
        "mayTakeEffect": error.may_take_effect(),
    });
    if let (Some(told), Some(refusal)) = (told.as_object_mut(), error.refusal()) {
        if let Some((required, alive)) = refusal.required_and_alive {
            told.insert("required".to_owned(), required.into());
            told.insert("alive".to_owned(), alive.into());
        }
        if !refusal.acknowledged_by.is_empty() {
            told.insert("acknowledgedBy".to_owned(), refusal.acknowledged_by.as_slice().into());
        }
    }
    let mut document = json!({ "statement": statement, "error": told });
    if let (Some(document), Some(account)) = (document.as_object_mut(), error.account()) {
        document.insert("explained".to_owned(), account.document);
    }
    document.to_string()
}

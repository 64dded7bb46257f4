//! The account of a request for programs: the fields are those of REST, versions and bytes are as the shell writes them.

use cube_client::{Explained, ExplainedMessage, ExplainedOutcome, ExplainedRecord, ExplainedRow, Key, Version};
use serde_json::{Map, Value, json};

use super::level;
use crate::outcome::Cell;
use crate::render::object;

/// All of an account.
pub(super) fn document(explained: &Explained) -> Value {
    let hints: Vec<Value> =
        explained.hints.iter().map(|hint| json!({ "node": hint.node, "kept": hint.kept })).collect();
    let rows: Vec<Value> = explained.rows.iter().map(row_document).collect();
    let mut document = json!({
        "kind": explained.kind,
        "keyspace": explained.keyspace,
        "table": explained.table,
        "level": level(explained),
        "coordinator": explained.coordinator,
        "dataCenter": explained.data_center,
        "epoch": explained.epoch,
        "tookMs": explained.took_ms,
        "messages": explained.messages.iter().map(message_document).collect::<Vec<_>>(),
        "rows": rows,
        "hedged": explained.hedged,
        "byChance": explained.by_chance,
        "hints": hints,
    });
    add(
        &mut document,
        "messagesLeftOut",
        (explained.messages_left_out > 0).then(|| explained.messages_left_out.into()),
    );
    add(&mut document, "error", (!explained.error.is_empty()).then(|| explained.error.clone().into()));
    document
}

/// Adds what there is.
fn add(document: &mut Value, name: &str, value: Option<Value>) {
    if let (Some(fields), Some(value)) = (document.as_object_mut(), value) {
        fields.insert(name.to_owned(), value);
    }
}

macro_rules! failure_document {
    ($failure:expr) => {
        $failure.as_ref().map(|failure| {
            json!({ "node": failure.node, "code": failure.code, "message": failure.message })
        })
    };
}

fn version_document(version: Version) -> Value {
    version.to_string().into()
}

fn message_document(message: &ExplainedMessage) -> Value {
    let mut document = json!({
        "replica": message.replica,
        "role": message.role,
        "asked": message.asked,
        "why": message.why,
        "rows": message.rows,
        "sentMs": message.sent_ms,
    });
    add(&mut document, "answeredMs", message.answered_ms.map(Value::from));
    let held: Vec<Value> = message.held.iter().map(record_document).collect();
    add(&mut document, "held", (!held.is_empty()).then(|| held.into()));
    let page = message.page_rows.map(|rows| json!({ "rows": rows, "more": message.page_more }));
    add(&mut document, "page", page);
    let outcomes: Vec<Value> = message.outcomes.iter().map(outcome_document).collect();
    add(&mut document, "outcomes", (!outcomes.is_empty()).then(|| outcomes.into()));
    add(&mut document, "failure", failure_document!(message.failure));
    document
}

fn outcome_document(outcome: &ExplainedOutcome) -> Value {
    let mut document = json!({ "outcome": outcome.outcome });
    add(&mut document, "supersededBy", outcome.superseded_by.map(|version| version_document(version.into())));
    add(&mut document, "failure", failure_document!(outcome.failure));
    document
}

fn record_document(record: &ExplainedRecord) -> Value {
    let mut document = Value::Object(key_document(record.key.clone().map(Key::from)));
    let version = record.version.map_or(Value::Null, |version| version_document(version.into()));
    add(&mut document, "version", Some(version));
    add(&mut document, "deleted", record.deleted.then_some(true.into()));
    add(&mut document, "expiresAtMs", record.expires_at_ms.map(Value::from));
    add(&mut document, "failure", failure_document!(record.failure));
    document
}

fn row_document(row: &ExplainedRow) -> Value {
    let stale = row.stale.iter().map(|stale| {
        let version = stale.version.map(|version| version_document(version.into()));
        let mut document = json!({ "replica": stale.replica, "version": version });
        add(&mut document, "behindMs", stale.behind_ms.map(Value::from));
        document
    });
    let mut document = Value::Object(key_document(row.key.clone().map(Key::from)));
    add(&mut document, "winner", Some(row.winner.map_or(Value::Null, |version| version_document(version.into()))));
    add(&mut document, "reason", Some(row.reason.clone().into()));
    add(&mut document, "stale", Some(stale.collect()));
    document
}

fn key_document(key: Option<Key>) -> Map<String, Value> {
    let mut cells = Vec::new();
    if let Some(key) = key {
        let has_sort = !key.sort.is_empty();
        cells.push(("key", Cell::Bytes(key.partition)));
        cells.extend(has_sort.then_some(("sort", Cell::Bytes(key.sort))));
    }
    object(cells.iter().map(|(name, cell)| (*name, cell)))
}

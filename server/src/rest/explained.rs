//! The account of a request as JSON.

use cube_replication::coordinator::{Account, Failure, Message, RowTold, Stale, Told, Verdict};
use cube_storage::model::{NodeId, Outcome, RowKey};
use serde::Serialize;

use super::dto::{VersionDocument, sort_of};
use super::text::Encoding;
use crate::edge::{Names, ReplicaFailure, account};

/// What was done for a request.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Explained {
    kind: &'static str,
    keyspace: String,
    table: String,
    level: &'static str,
    coordinator: String,
    data_center: String,
    epoch: u64,
    took_ms: u64,
    messages: Vec<Sent>,
    #[serde(skip_serializing_if = "is_zero")]
    messages_left_out: usize,
    rows: Vec<Decided>,
    hedged: Vec<String>,
    by_chance: Vec<String>,
    hints: Vec<Noted>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Sent {
    replica: String,
    role: &'static str,
    asked: &'static str,
    why: &'static str,
    rows: usize,
    sent_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    answered_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    held: Option<Vec<Held>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    page: Option<Page>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcomes: Option<Vec<Kept>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<ReplicaFailure>,
}

#[derive(Serialize)]
struct Page {
    rows: usize,
    more: bool,
}

#[derive(Serialize)]
struct Key {
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    sort: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<Encoding>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Held {
    #[serde(flatten)]
    key: Key,
    version: Option<VersionDocument>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    deleted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<ReplicaFailure>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Kept {
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    superseded_by: Option<VersionDocument>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<ReplicaFailure>,
}

#[derive(Serialize)]
struct Decided {
    #[serde(flatten)]
    key: Key,
    winner: Option<VersionDocument>,
    reason: &'static str,
    stale: Vec<Behind>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Behind {
    replica: String,
    version: Option<VersionDocument>,
    #[serde(skip_serializing_if = "Option::is_none")]
    behind_ms: Option<u64>,
}

#[derive(Serialize)]
struct Noted {
    node: String,
    kept: &'static str,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

impl Explained {
    pub(crate) fn of(of: &Account, names: &Names<'_>) -> Self {
        let table = account::table(names.state(), of.table);
        let noted = of.hints.iter().map(|(node, kept)| Noted { node: names.of(*node), kept: account::kept(*kept) });
        Self {
            kind: account::kind(of.kind),
            keyspace: table.keyspace,
            table: table.table,
            level: of.level.name(),
            coordinator: names.of(of.coordinator),
            data_center: of.data_center.to_string(),
            epoch: of.epoch.0,
            took_ms: of.took_ms,
            messages: of.messages.iter().map(|message| Sent::of(message, names)).collect(),
            messages_left_out: of.messages_left_out,
            rows: of.verdicts.iter().map(|verdict| Decided::of(verdict, names)).collect(),
            hedged: names.all(&of.hedged),
            by_chance: names.all(&of.by_chance),
            hints: noted.collect(),
            error: of.error.clone(),
        }
    }
}

impl Key {
    fn of(key: &RowKey) -> Self {
        let encoding = Encoding::fitting([key.partition.as_ref(), key.sort.as_ref()]);
        Self { key: encoding.write(&key.partition), sort: sort_of(key, encoding), encoding: encoding.said() }
    }
}

impl Sent {
    fn of(message: &Message, names: &Names<'_>) -> Self {
        let node = message.replica;
        let mut sent = Self {
            replica: names.of(node),
            role: account::role(message.role),
            asked: account::asked(message.asked),
            why: account::why(message.why),
            rows: message.rows,
            sent_ms: message.sent_ms,
            answered_ms: message.answered_ms,
            held: None,
            page: None,
            outcomes: None,
            failure: None,
        };
        // Until it has answered, what it is asked of stands where its answer will.
        match message.told.as_ref().filter(|_| message.answered_ms.is_some()) {
            None => {}
            Some(Told::Rows(rows)) => sent.held = Some(rows.iter().map(|row| Held::of(node, row, names)).collect()),
            Some(Told::Page { rows, more }) => sent.page = Some(Page { rows: *rows, more: *more }),
            Some(Told::Outcomes(outcomes)) => {
                sent.outcomes = Some(outcomes.iter().map(|outcome| Kept::of(node, outcome, names)).collect());
            }
            Some(Told::Failed(failure)) => sent.failure = Some(account::failure(node, failure, names)),
        }
        sent
    }
}

impl Held {
    fn of(node: NodeId, row: &RowTold, names: &Names<'_>) -> Self {
        let header = row.held.as_ref().ok().copied().flatten();
        Self {
            key: Key::of(&row.key),
            version: header.map(|header| VersionDocument::of(header.version, names)),
            deleted: header.is_some_and(|header| header.tombstone),
            expires_at: header.and_then(|header| header.expiry).map(|expiry| expiry.0),
            failure: row.held.as_ref().err().map(|failure| account::failure(node, failure, names)),
        }
    }
}

impl Kept {
    fn of(node: NodeId, result: &Result<Outcome, Failure>, names: &Names<'_>) -> Self {
        let (outcome, superseded_by) = account::outcome(result);
        Self {
            outcome,
            superseded_by: superseded_by.map(|version| VersionDocument::of(version, names)),
            failure: result.as_ref().err().map(|failure| account::failure(node, failure, names)),
        }
    }
}

impl Decided {
    fn of(verdict: &Verdict, names: &Names<'_>) -> Self {
        let behind = |stale: &Stale| Behind {
            replica: names.of(stale.replica),
            version: stale.version.map(|version| VersionDocument::of(version, names)),
            behind_ms: stale.behind_ms,
        };
        Self {
            key: Key::of(&verdict.key),
            winner: verdict.winner.map(|version| VersionDocument::of(version, names)),
            reason: account::reason(verdict.reason),
            stale: verdict.stale.iter().map(behind).collect(),
        }
    }
}

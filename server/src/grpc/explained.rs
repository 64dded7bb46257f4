//! The account of a request as a message.

use std::sync::Arc;

use cube_proto::v1;
use cube_replication::coordinator::{Account, Failure, Message, RowTold, Stale, Told, Verdict};
use cube_storage::model::{NodeId, Outcome, RowKey};

use super::convert::{version, write_level};
use crate::edge::{Names, ReplicaFailure, account};

/// What was done for a request, if its client wanted to know.
pub(super) fn explained(of: Option<&Arc<Account>>, names: &Names<'_>) -> Option<Box<v1::Explained>> {
    Some(Box::new(account_of(of?, names)))
}

/// The account of a request.
pub(super) fn account_of(of: &Account, names: &Names<'_>) -> v1::Explained {
    let table = account::table(names.state(), of.table);
    v1::Explained {
        kind: account::kind(of.kind).to_owned(),
        keyspace: table.keyspace,
        table: table.table,
        level: write_level(of.level).into(),
        coordinator: names.of(of.coordinator),
        data_center: of.data_center.to_string(),
        epoch: of.epoch.0,
        took_ms: of.took_ms,
        messages: of.messages.iter().map(|message| sent(message, names)).collect(),
        messages_left_out: number(of.messages_left_out),
        rows: of.verdicts.iter().map(|verdict| decided(verdict, names)).collect(),
        hedged: names.all(&of.hedged),
        by_chance: names.all(&of.by_chance),
        hints: of.hints.iter().map(|(node, kept)| noted(names.of(*node), account::kept(*kept))).collect(),
        error: of.error.clone().unwrap_or_default(),
    }
}

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

fn key(key: &RowKey) -> Option<v1::RowKey> {
    Some(v1::RowKey { partition: key.partition.clone(), sort: key.sort.clone() })
}

fn noted(node: String, kept: &str) -> v1::ExplainedHint {
    v1::ExplainedHint { node, kept: kept.to_owned() }
}

fn sent(message: &Message, names: &Names<'_>) -> v1::ExplainedMessage {
    let of = message.replica;
    let mut written = v1::ExplainedMessage {
        replica: names.of(of),
        role: account::role(message.role).to_owned(),
        asked: account::asked(message.asked).to_owned(),
        why: account::why(message.why).to_owned(),
        rows: number(message.rows),
        sent_ms: message.sent_ms,
        answered_ms: message.answered_ms,
        ..Default::default()
    };
    // Until it has answered, what it is asked of stands where its answer will.
    let told = message.told.as_ref().filter(|_| message.answered_ms.is_some());
    match told {
        None => {}
        Some(Told::Rows(rows)) => written.held = rows.iter().map(|row| held(of, row, names)).collect(),
        Some(Told::Page { rows, more }) => (written.page_rows, written.page_more) = (Some(number(*rows)), *more),
        Some(Told::Outcomes(outcomes)) => {
            written.outcomes = outcomes.iter().map(|result| outcome(of, result, names)).collect();
        }
        Some(Told::Failed(failure)) => written.failure = Some(failed(of, failure, names)),
    }
    written
}

fn failed(node: NodeId, failure: &Failure, names: &Names<'_>) -> v1::ReplicaFailure {
    let ReplicaFailure { node, code, message } = account::failure(node, failure, names);
    v1::ReplicaFailure { node, code: code.to_owned(), message }
}

fn held(node: NodeId, row: &RowTold, names: &Names<'_>) -> v1::ExplainedRecord {
    let header = row.held.as_ref().ok().copied().flatten();
    v1::ExplainedRecord {
        key: key(&row.key),
        version: header.map(|header| version(header.version)),
        deleted: header.is_some_and(|header| header.tombstone),
        expires_at_ms: header.and_then(|header| header.expiry).map(|expiry| expiry.0),
        failure: row.held.as_ref().err().map(|failure| failed(node, failure, names)),
    }
}

fn outcome(node: NodeId, result: &Result<Outcome, Failure>, names: &Names<'_>) -> v1::ExplainedOutcome {
    let (outcome, superseded_by) = account::outcome(result);
    v1::ExplainedOutcome {
        outcome: outcome.to_owned(),
        superseded_by: superseded_by.map(version),
        failure: result.as_ref().err().map(|failure| failed(node, failure, names)),
    }
}

fn decided(verdict: &Verdict, names: &Names<'_>) -> v1::ExplainedRow {
    let stale = |stale: &Stale| v1::ExplainedStale {
        replica: names.of(stale.replica),
        version: stale.version.map(version),
        behind_ms: stale.behind_ms,
    };
    v1::ExplainedRow {
        key: key(&verdict.key),
        winner: verdict.winner.map(version),
        reason: account::reason(verdict.reason).to_owned(),
        stale: verdict.stale.iter().map(stale).collect(),
    }
}

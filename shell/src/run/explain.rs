//! What was done for a request, told: to people as a table of the messages with what was decided below it, to programs as
//! a document (`document`). `docs/reads.md` explains the words.

mod document;

use cube_client::{
    Explained, ExplainedMessage, ExplainedOutcome, ExplainedRecord, ExplainedRow, ExplainedStale, Key, Version,
};

use self::document::document;
use crate::outcome::{Account, Cell, Rows, Tone};
use crate::render::moment;
use crate::statement::bare_or_quoted;

/// Rows of which people are told what was decided. Programs are told of all.
const ROWS_TOLD_MAX: usize = 10;

/// The account of a request, or of the pages that it took.
pub(crate) fn of(explained: &[Explained]) -> Option<Account> {
    let first = explained.first()?;
    let document = match explained {
        [one] => document(one),
        pages => pages.iter().map(document).collect(),
    };
    let mut account =
        Account { document, lines: head(explained, first), messages: messages(explained), footer: Vec::new() };
    let rows: Vec<&ExplainedRow> = explained.iter().flat_map(|one| &one.rows).collect();
    for row in rows.iter().take(ROWS_TOLD_MAX) {
        account.footer.extend(decided(row));
    }
    if rows.len() > ROWS_TOLD_MAX {
        let told = format!("and {} more rows: --json tells of all", rows.len() - ROWS_TOLD_MAX);
        account.footer.push((Tone::Aside, told));
    }
    for one in explained {
        account.footer.extend(followed(one));
    }
    Some(account)
}

fn level(explained: &Explained) -> &'static str {
    match explained.level().as_str_name().trim_start_matches("LEVEL_") {
        // What is not said.
        "UNSPECIFIED" => "QUORUM",
        name => name,
    }
}

fn head(pages: &[Explained], first: &Explained) -> Vec<(Tone, String)> {
    let Explained { kind, keyspace, table, coordinator, data_center, epoch, .. } = first;
    let took: u64 = pages.iter().map(|page| page.took_ms).sum();
    let pages = if pages.len() > 1 { format!(", {} pages", pages.len()) } else { String::new() };
    let told = format!(
        "{kind} of {keyspace}.{table} at {}: {took} ms{pages}, coordinated by {coordinator} in {data_center}, map of epoch \
         {epoch}",
        level(first)
    );
    vec![(Tone::Strong, told)]
}

fn messages(pages: &[Explained]) -> Rows {
    // The most telling first: a narrow terminal leaves out the last ones.
    let mut columns = vec!["replica", "role", "asked", "answer", "why", "sentMs", "answeredMs", "rows"];
    let is_paged = pages.len() > 1;
    if is_paged {
        columns.insert(0, "page");
    }
    let mut rows = Rows { columns, rows: Vec::new() };
    for (number, page) in (1..).zip(pages) {
        for message in &page.messages {
            let mut row = vec![
                Cell::text(&message.replica),
                Cell::text(&message.role),
                Cell::text(&message.asked),
                Cell::text(answer(message)),
                Cell::text(&message.why),
                Cell::Count(message.sent_ms),
                Cell::maybe(message.answered_ms, Cell::Count),
                Cell::maybe(Some(message.rows).filter(|rows| *rows > 0), Cell::Count),
            ];
            if is_paged {
                row.insert(0, Cell::Count(number));
            }
            rows.rows.push(row);
        }
    }
    rows
}

/// What came back, in a few words.
fn answer(message: &ExplainedMessage) -> String {
    if let Some(failure) = &message.failure {
        return failed(&failure.message, &failure.code);
    }
    if message.answered_ms.is_none() {
        return "none yet when the client was answered".to_owned();
    }
    if let Some(rows) = message.page_rows {
        let more = if message.page_more { ", more follow" } else { "" };
        let rows = if rows == 1 { "1 row".to_owned() } else { format!("{rows} rows") };
        return format!("{rows}{more}");
    }
    let all: Vec<String> = message.held.iter().map(held).chain(message.outcomes.iter().map(kept)).collect();
    match all.as_slice() {
        [] => "done".to_owned(),
        [one] => one.clone(),
        [first, rest @ ..] if rest.iter().all(|other| other == first) => format!("{first} ({} rows)", all.len()),
        [first, rest @ ..] => format!("{first}; and {} more", rest.len()),
    }
}

fn failed(message: &str, code: &str) -> String {
    format!("{message} [{code}]")
}

/// To the millisecond: seconds tell nothing of who was first.
fn since(version: Version) -> String {
    let ms = version.millis();
    let seconds = moment(ms);
    let shown = seconds.strip_suffix('Z').map(|seconds| format!("{seconds}.{:03}Z", ms % 1_000));
    let count = match version.hlc & 0xffff {
        0 => String::new(),
        count => format!(" +{count}"),
    };
    format!("{}{count}", shown.unwrap_or(seconds))
}

fn held(record: &ExplainedRecord) -> String {
    match (&record.failure, record.version) {
        (Some(failure), _) => failed(&failure.message, &failure.code),
        (None, None) => "holds nothing".to_owned(),
        (None, Some(version)) if record.deleted => format!("deletion of {}", since(version.into())),
        (None, Some(version)) => format!("version of {}", since(version.into())),
    }
}

fn kept(outcome: &ExplainedOutcome) -> String {
    match (&outcome.failure, outcome.superseded_by) {
        (Some(failure), _) => failed(&failure.message, &failure.code),
        (None, Some(version)) => format!("{} by that of {}", outcome.outcome, since(version.into())),
        (None, None) => outcome.outcome.clone(),
    }
}

fn decided(row: &ExplainedRow) -> Vec<(Tone, String)> {
    let key = row.key.clone().map(Key::from).map(|key| shown(&key)).unwrap_or_default();
    let why = match row.reason.as_str() {
        "all_agree" => "all that were asked agree",
        "newest" => "it is the newest",
        "tie" => "of two records with this version a deletion wins, then the greater bytes",
        "nobody_holds_it" => "nobody holds it",
        other => other,
    };
    let mut lines = vec![match row.winner {
        Some(winner) => (Tone::Plain, format!("{key}: the version of {} wins: {why}", since(winner.into()))),
        None => (Tone::Plain, format!("{key}: {why}")),
    }];
    for ExplainedStale { replica, version, behind_ms } in &row.stale {
        let held = version.map_or_else(|| "nothing".to_owned(), |version| format!("that of {}", since(version.into())));
        let behind = behind_ms.map(|ms| format!(", {ms} ms older")).unwrap_or_default();
        lines.push((Tone::Warn, format!("{key}: {replica} was behind, it held {held}{behind}")));
    }
    lines
}

/// What came of the rows that a read was to bring to a replica, in the words of [`repairs`].
const REPAIRED: &str = "repaired before the answer";
const HAD_IT: &str = "had it by the time it was to be repaired";
const NOT_REPAIRED: &str = "not repaired";
const NOT_ANSWERED: &str = "to be repaired, had not answered yet";

/// How a message that was to repair a replica ended: if it kept a single row, it was repaired.
fn repair_end(message: &ExplainedMessage) -> &'static str {
    let has = |outcome: &str| message.outcomes.iter().any(|kept| kept.outcome == outcome);
    if message.answered_ms.is_none() {
        NOT_ANSWERED
    } else if has("applied") {
        REPAIRED
    } else if message.failure.is_none() && (has("present") || has("superseded")) {
        HAD_IT
    } else {
        NOT_REPAIRED
    }
}

/// Who was repaired, and who was not.
fn repairs(explained: &Explained) -> Vec<(Tone, String)> {
    let repairs: Vec<_> = explained.messages.iter().filter(|message| message.asked == "repair").collect();
    let mut lines = Vec::new();
    for (tone, end) in
        [(Tone::Warn, REPAIRED), (Tone::Aside, HAD_IT), (Tone::Bad, NOT_REPAIRED), (Tone::Warn, NOT_ANSWERED)]
    {
        let mut names: Vec<&str> = Vec::new();
        for message in repairs.iter().filter(|message| repair_end(message) == end) {
            if !names.contains(&message.replica.as_str()) {
                names.push(&message.replica);
            }
        }
        if !names.is_empty() {
            lines.push((tone, format!("{end}: {}", names.join(", "))));
        }
    }
    lines
}

/// What else came of it.
fn followed(explained: &Explained) -> Vec<(Tone, String)> {
    let mut lines = repairs(explained);
    let lists = [
        ("asked because another replica was slow", &explained.hedged),
        ("asked by chance, to be repaired after the answer", &explained.by_chance),
    ];
    let told = lists.into_iter().filter(|(_, names)| !names.is_empty());
    lines.extend(told.map(|(what, names)| (Tone::Aside, format!("{what}: {}", names.join(", ")))));
    for hint in &explained.hints {
        let kept = if hint.kept == "hint" {
            "a hint is kept and will be replayed"
        } else {
            "its range is marked to be repaired"
        };
        lines.push((Tone::Warn, format!("missed by {}: {kept}", hint.node)));
    }
    if explained.messages_left_out > 0 {
        lines.push((Tone::Aside, format!("{} messages more were sent", explained.messages_left_out)));
    }
    if !explained.error.is_empty() {
        lines.push((Tone::Bad, explained.error.clone()));
    }
    lines
}

pub(super) fn shown(key: &Key) -> String {
    let partition = bare_or_quoted(&key.partition);
    if key.sort.is_empty() { partition } else { format!("{partition} / {}", bare_or_quoted(&key.sort)) }
}

#[cfg(test)]
mod tests {
    use cube_proto::v1;

    use super::*;
    use crate::outcome::Outcome;
    use crate::render::Form;

    fn version(ms: u64) -> Option<v1::Version> {
        Some(v1::Version { hlc: ms << 16, node: 1 })
    }

    fn asked(replica: &str, asked: &str, why: &str, sent_ms: u64) -> ExplainedMessage {
        ExplainedMessage {
            replica: replica.into(),
            role: "near".into(),
            asked: asked.into(),
            why: why.into(),
            rows: 1,
            sent_ms,
            ..Default::default()
        }
    }

    /// A read at ALL: one replica was behind and was repaired, one did not answer.
    fn read() -> Explained {
        let key = Some(v1::RowKey { partition: "user:alice".into(), sort: "".into() });
        let holds = |version| vec![ExplainedRecord { key: key.clone(), version, ..Default::default() }];
        let failure = v1::ReplicaFailure { node: "node-3".into(), code: "down".into(), message: "it is down".into() };
        let newer = version(1_767_225_600_123);
        let stale =
            ExplainedStale { replica: "node-2".into(), version: version(1_767_225_599_123), behind_ms: Some(1_000) };
        Explained {
            kind: "read".into(),
            keyspace: "default".into(),
            table: "kv".into(),
            level: v1::Level::All.into(),
            coordinator: "node-1".into(),
            data_center: "dc1".into(),
            epoch: 9,
            took_ms: 7,
            messages: vec![
                ExplainedMessage { answered_ms: Some(1), held: holds(newer), ..asked("node-1", "record", "level", 0) },
                ExplainedMessage {
                    answered_ms: Some(2),
                    held: holds(stale.version),
                    ..asked("node-2", "digest", "level", 0)
                },
                ExplainedMessage {
                    answered_ms: Some(2),
                    failure: Some(failure),
                    ..asked("node-3", "digest", "hedge", 1)
                },
                asked("node-2", "repair", "again", 3),
            ],
            rows: vec![ExplainedRow { key, winner: newer, reason: "newest".into(), stale: vec![stale] }],
            hedged: vec!["node-3".into()],
            hints: vec![v1::ExplainedHint { node: "node-3".into(), kept: "hint".into() }],
            ..Default::default()
        }
    }

    #[test]
    fn people_read_who_was_asked_what_was_answered_and_what_won() {
        let outcome = Outcome::of("GET").account(of(&[read()]));
        let expected = concat!(
            "\nread of default.kv at ALL: 7 ms, coordinated by node-1 in dc1, map of epoch 9\n",
            "replica  role  asked   answer                                 why    sent ms  answered ms  rows\n",
            "node-1   near  record  version of 2026-01-01 00:00:00.123Z    level  0        1            1\n",
            "node-2   near  digest  version of 2025-12-31 23:59:59.123Z    level  0        2            1\n",
            "node-3   near  digest  it is down [down]                      hedge  1        2            1\n",
            "node-2   near  repair  none yet when the client was answered  again  3        -            1\n",
            "user:alice: the version of 2026-01-01 00:00:00.123Z wins: it is the newest\n",
            "user:alice: node-2 was behind, it held that of 2025-12-31 23:59:59.123Z, 1000 ms older\n",
            "to be repaired, had not answered yet: node-2\n",
            "asked because another replica was slow: node-3\n",
            "missed by node-3: a hint is kept and will be replayed\n",
        );
        assert_eq!(Form::People { width: None, colour: false }.outcome(&outcome), expected);
    }

    #[test]
    fn a_replica_that_had_the_row_by_then_is_not_told_as_repaired() {
        let told = |outcome: &str, failure: Option<v1::ReplicaFailure>| {
            let outcomes = vec![ExplainedOutcome { outcome: outcome.into(), ..Default::default() }];
            let repair =
                ExplainedMessage { answered_ms: Some(5), outcomes, failure, ..asked("node-2", "repair", "again", 3) };
            let account = of(&[Explained { messages: vec![repair], ..Default::default() }]).unwrap();
            account.footer.into_iter().map(|(_, line)| line).collect::<Vec<_>>()
        };
        for (outcome, line) in [
            ("applied", "repaired before the answer: node-2"),
            ("present", "had it by the time it was to be repaired: node-2"),
            ("superseded", "had it by the time it was to be repaired: node-2"),
            ("fenced", "not repaired: node-2"),
            ("failed", "not repaired: node-2"),
        ] {
            assert_eq!(told(outcome, None), [line], "{outcome}");
        }
        assert_eq!(told("", Some(v1::ReplicaFailure::default())), ["not repaired: node-2"]);
    }

    #[test]
    fn programs_read_the_whole_account() {
        let document = of(&[read()]).unwrap().document;
        assert_eq!(
            (&document["epoch"], &document["level"], &document["tookMs"]),
            (&9.into(), &"ALL".into(), &7.into())
        );
        assert_eq!(document["messages"][2]["failure"]["code"], "down");
        assert_eq!(document["messages"][0]["held"][0]["key"], "user:alice");
        assert_eq!(document["rows"][0]["stale"][0]["behindMs"], 1_000);
        assert!(document["messages"][3].get("answeredMs").is_none());
    }

    #[test]
    fn of_many_pages_each_message_tells_its_page() {
        let account = of(&[read(), read()]).unwrap();
        assert_eq!(account.document.as_array().map(Vec::len), Some(2));
        assert_eq!(account.messages.columns.first(), Some(&"page"));
        assert_eq!(account.messages.rows.last().and_then(|row| row.first()), Some(&Cell::Count(2)));
    }
}

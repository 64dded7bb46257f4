//! The three forms of the same results, letter for letter.

use std::collections::BTreeMap;

use super::Form;
use crate::error::ShellError;
use crate::outcome::{Cell, Outcome, Rows, Tone};

const PLAIN: Form = Form::People { width: None, colour: false };

fn list() -> Outcome {
    let row = |key: &[u8], value: &[u8], ends| {
        vec![
            Cell::Bytes(key.to_vec().into()),
            Cell::Bytes(value.to_vec().into()),
            Cell::maybe(ends, Cell::Moment),
            Cell::Null,
        ]
    };
    let rows = vec![
        row(b"plain", "with space, \"quotes\" and 😀".as_bytes(), None),
        row(b"two words", b"line\nend\ttab", Some(1_767_225_600_123)),
        row(b"nul", b"a\0b", None),
        row(b"no text", b"\xff\x00", None),
    ];
    Outcome::of("SCAN")
        .fact("count", Cell::Count(4))
        .rows(Rows { columns: vec!["key", "value", "expiresAtMs", "never"], rows })
        .footer(Tone::Aside, "4 rows")
}

fn figures() -> Outcome {
    Outcome::of("STATS")
        .fact("pendingHints", Cell::Count(45))
        .fact("nodeHints", Cell::Counts(BTreeMap::from([("node-3".to_owned(), 45)])))
        .fact("names", Cell::Names(vec!["node-1".into(), "node-2".into()]))
        .fact("healthy", Cell::Bool(false))
        .fact("share", Cell::Number(0.5))
        .line(Tone::Warn, "Pending Hints: 45")
        .line(Tone::Warn, "Hints for node-3: 45")
}

#[test]
fn without_a_terminal_people_get_aligned_columns_that_lose_nothing() {
    let expected = concat!(
        "key          value                           ends\n",
        "plain        \"with space, \\\"quotes\\\" and 😀\"  -\n",
        "\"two words\"  \"line\\nend\\ttab\"                2026-01-01 00:00:00Z\n",
        "nul          \"a\\0b\"                          -\n",
        "\"no text\"    \"\\xff\\0\"                        -\n",
        "4 rows\n",
    );
    assert_eq!(PLAIN.outcome(&list()), expected);
    assert_eq!(PLAIN.outcome(&figures()), "Pending Hints: 45\nHints for node-3: 45\n");
}

#[test]
fn on_a_terminal_people_get_a_table_that_fits_and_colours_if_they_want_them() {
    let form = |colour| Form::People { width: Some(60), colour };
    let plain = form(false).outcome(&list());
    assert!(plain.lines().all(|line| line.chars().count() <= 60), "{plain}");
    assert!(!plain.contains('\x1b'));
    let coloured = form(true).outcome(&figures());
    assert_eq!(coloured, "\x1b[33mPending Hints: 45\x1b[0m\n\x1b[33mHints for node-3: 45\x1b[0m\n");
    let long = Outcome::of("SCAN")
        .rows(Rows { columns: vec!["value"], rows: vec![vec![Cell::Bytes("x".repeat(5_000).into())]] });
    let shown = form(false).outcome(&long);
    assert!(shown.contains("(5000 letters)") && shown.len() < 2_000, "{shown}");
    assert!(PLAIN.outcome(&long).contains(&"x".repeat(5_000)));
}

#[test]
fn a_narrow_terminal_leaves_out_the_last_columns_and_says_so() {
    let cells = ["node-1", "ALIVE", "READY", "127.0.0.1:7400", "version"].map(Cell::text).to_vec();
    let rows = Rows { columns: vec!["name", "status", "state", "address", "inFlight"], rows: vec![cells] };
    let outcome = Outcome::of("NODES").rows(rows);
    let narrow = Form::People { width: Some(40), colour: false }.outcome(&outcome);
    assert!(narrow.contains("READY") && !narrow.contains("7400"), "{narrow}");
    assert!(narrow.contains("left out for want of width: address, in flight"), "{narrow}");
    let wide = Form::People { width: Some(80), colour: false }.outcome(&outcome);
    assert!(wide.contains("127.0.0.1:7400") && !wide.contains("left out"), "{wide}");
}

#[test]
fn json_is_one_line_for_each_statement_and_loses_nothing() {
    let expected = concat!(
        r#"{"count":4,"rows":["#,
        r#"{"expiresAtMs":null,"key":"plain","never":null,"value":"with space, \"quotes\" and 😀"},"#,
        r#"{"expiresAtMs":1767225600123,"key":"two words","never":null,"value":"line\nend\ttab"},"#,
        r#"{"expiresAtMs":null,"key":"nul","never":null,"value":"a\u0000b"},"#,
        r#"{"encoding":"base64","expiresAtMs":null,"key":"bm8gdGV4dA==","never":null,"value":"/wA="}],"#,
        r#""statement":"SCAN"}"#,
        "\n",
    );
    assert_eq!(Form::Json.outcome(&list()), expected);
    let expected = concat!(
        r#"{"healthy":false,"names":["node-1","node-2"],"nodeHints":{"node-3":45},"pendingHints":45,"#,
        r#""share":0.5,"statement":"STATS"}"#,
        "\n",
    );
    assert_eq!(Form::Json.outcome(&figures()), expected);
}

#[test]
fn csv_is_rows_below_a_header_and_loses_nothing() {
    let expected = concat!(
        "key,value,expiresAtMs,never,encoding\n",
        "plain,\"with space, \"\"quotes\"\" and 😀\",,,utf8\n",
        "two words,\"line\nend\ttab\",1767225600123,,utf8\n",
        "nul,a\0b,,,utf8\n",
        "bm8gdGV4dA==,/wA=,,,base64\n",
    );
    assert_eq!(Form::Csv.outcome(&list()), expected);
    let expected = "pendingHints,nodeHints,names,healthy,share\n45,node-3=45,node-1 node-2,false,0.5\n";
    assert_eq!(Form::Csv.outcome(&figures()), expected);
}

#[test]
fn a_failure_is_a_document_of_its_statement() {
    let told = Form::Json.failure("GET", &ShellError::NotConnected);
    let expected = concat!(
        r#"{"error":{"code":"not_connected","mayTakeEffect":false,"message":"not connected: CONNECT host port"},"#,
        r#""statement":"GET"}"#,
        "\n",
    );
    assert_eq!(told.as_deref(), Some(expected));
    assert_eq!(PLAIN.failure("GET", &ShellError::NotConnected), None);
}

#[test]
fn what_nodes_say_cannot_command_a_terminal() {
    let outcome = Outcome::of("NODES")
        .rows(Rows { columns: vec!["name"], rows: vec![vec![Cell::text("node\x1b[2J-1\u{202e}")]] });
    for form in [PLAIN, Form::People { width: Some(80), colour: false }] {
        let shown = form.outcome(&outcome);
        assert!(!shown.contains(['\x1b', '\u{202e}']), "{shown:?}");
    }
}

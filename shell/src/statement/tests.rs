//! What is read of what people write: the lines that must work as they stand, mistakes and what is said of them, and for
//! any input that it is read or refused, never a panic.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use cube_client::Level;
use cube_client::admin::{KeyspaceOptions, Replication, TableOptions};
use proptest::collection::{btree_map, vec};
use proptest::option::of;
use proptest::prelude::*;

use crate::cases::cases;

use super::{Command, Scan, Statements, SyntaxError, TableName, Terms, is_unfinished, quote};

fn one(source: &str) -> Command {
    let mut statements = Statements::new(source);
    let first = statements.next().unwrap().unwrap_or_else(|error| panic!("{source}: {error}"));
    assert!(statements.next().is_none(), "{source} is more than one statement");
    first.command
}

fn error(source: &str) -> SyntaxError {
    Statements::new(source).find_map(Result::err).unwrap_or_else(|| panic!("{source} was understood"))
}

fn wrong_word<'a>(source: &'a str, error: &SyntaxError) -> &'a str {
    &source[error.span.start..error.span.end]
}

#[test]
fn the_lines_of_the_manual_work_as_they_stand() {
    let quorum = Terms { level: Some(Level::Quorum), ..Terms::default() };
    let script = "// a comment\nPUT user:alice \"Alice Johnson\" CL=QUORUM\n\nGET user:alice CL=ALL // behind\n\
                  UPDATE user:alice SET value=\"Alice J.\" CL=QUORUM\nSTATS\n";
    let commands: Vec<Command> = Statements::new(script).map(|statement| statement.unwrap().command).collect();
    let key = Bytes::from("user:alice");
    assert_eq!(
        commands,
        [
            Command::Put { key: key.clone(), value: "Alice Johnson".into(), terms: quorum.clone() },
            Command::Get { key: key.clone(), terms: Terms { level: Some(Level::All), ..Terms::default() } },
            Command::Update { key, value: "Alice J.".into(), terms: quorum },
            Command::Stats,
        ]
    );
}

#[test]
fn every_example_of_the_help_is_a_statement_of_its_command() {
    for spec in super::commands::COMMANDS {
        let name = if spec.name == "EXPLAIN" { "GET" } else { spec.name };
        assert_eq!(one(spec.example).name(), name, "{}", spec.example);
    }
}

#[test]
fn a_flag_that_is_given_a_value_is_not_suggested_in_its_own_place() {
    for source in ["GET a EXPLAIN=1", "SCAN a BACKWARD = x"] {
        let error = error(source);
        assert!(error.to_string().contains("takes no value") && !error.to_string().contains("did you mean"), "{error}");
    }
}

#[test]
fn case_does_not_count_in_commands_options_and_levels() {
    assert_eq!(one("get K cl=local_Quorum"), one("GET K CL=LOCAL_QUORUM"));
    assert_ne!(one("GET k"), one("GET K"));
    assert_eq!(one("cluster"), Command::Nodes);
    assert_eq!(one("quit"), Command::Exit);
}

#[test]
fn quotes_escapes_and_base64_give_any_bytes() {
    for (written, bytes) in [
        (r#""a b""#, &b"a b"[..]),
        (r#"'say "hi"'"#, b"say \"hi\""),
        (r#""tab\tnull\0\x00\xff""#, b"tab\tnull\0\0\xff"),
        (r#""\u{1f600}""#, "😀".as_bytes()),
        ("\"two\nlines\"", b"two\nlines"),
        (r#"b64"AP8=""#, b"\0\xff"),
        ("BASE64'AP8='", b"\0\xff"),
        ("http://x//y", b"http://x//y"),
        ("\"\"", b""),
    ] {
        let Command::Put { value, .. } = one(&format!("PUT k {written}")) else { panic!("not a PUT") };
        assert_eq!(value, bytes, "{written}");
    }
}

#[test]
fn statements_end_at_semicolons_and_lines_and_go_on_in_quotes_brackets_and_behind_backslashes() {
    let count = |source: &str| Statements::new(source).filter(|statement| statement.is_ok()).count();
    assert_eq!(count("GET a; GET b;; \n ; GET c"), 3);
    assert_eq!(count("PUT a 'x;\ny'; GET b"), 2);
    assert_eq!(count("CREATE KEYSPACE a replication=network(\n dc1: 3,\n dc2: 2)\nGET b"), 2);
    assert_eq!(count("PUT a \\\n b"), 1);
    for open in ["PUT a 'x", "PUT a \"x\\\"", "CREATE KEYSPACE a replication=network(dc1: 3,", "PUT a \\"] {
        assert!(is_unfinished(open), "{open}");
    }
    for closed in ["PUT a b", "", "// it's \\", "PUT a 'x'; GET b", "PTU a"] {
        assert!(!is_unfinished(closed), "{closed}");
    }
}

#[test]
fn explain_stands_before_a_statement_on_rows_or_at_its_end() {
    for statement in ["PUT k v", "GET k CL=ALL", "UPDATE k SET value=v", "DELETE k", "SCAN user:", "SCAN KEY=k", "SCAN"]
    {
        let explained = one(&format!("explain {statement}"));
        assert_eq!(explained, one(&format!("{statement} EXPLAIN")));
        assert_ne!(explained, one(statement));
    }
    for (source, word, nearest) in
        [("EXPLAIN STATS", "STATS", None), ("EXPLAIN GTE k", "GTE", Some("GET")), ("EXPLAIN", "EXPLAIN", None)]
    {
        let error = error(source);
        assert_eq!((wrong_word(source, &error), error.suggestion.as_deref()), (word, nearest), "{source}: {error}");
    }
}

#[test]
fn names_may_have_dots() {
    assert_eq!(one("USE app.users"), Command::Use(Some(("app".into(), Some("users".into())))));
    let name = TableName { keyspace: Some("app".into()), table: "users".into() };
    assert_eq!(one("REPAIR app.users PLAN"), Command::Repair { table: Some(name.clone()), plan: true });
    let Command::Get { key, terms } = one("GET a.b.c IN=app.users") else { panic!("not a GET") };
    assert_eq!((key, terms.table), ("a.b.c".into(), Some(name)));
    assert_eq!(one("DROP TABLE app.users"), one("drop table app.users;"));
}

#[test]
fn replication_is_read_as_it_is_shown() {
    let network = Replication::Network(BTreeMap::from([("dc1".into(), 3), ("dc2".into(), 2)]));
    for written in
        ["network(dc1: 3, dc2: 2)", "network({dc1: 3, dc2: 2})", "NETWORK(dc1:3,dc2:2)", "network(dc1=3, dc2=2)"]
    {
        let Command::CreateKeyspace { options, .. } = one(&format!("CREATE KEYSPACE a WITH replication = {written}"))
        else {
            panic!("not a CREATE KEYSPACE")
        };
        assert_eq!(options.replication, Some(network.clone()), "{written}");
    }
}

#[test]
fn an_error_points_at_the_wrong_word_and_names_the_nearest_right_one() {
    for (source, word, nearest) in [
        ("PTU a b", "PTU", Some("PUT")),
        ("GET a\nGET b CL=QURUM", "QURUM", Some("QUORUM")),
        ("GET a LC=ONE", "LC", Some("CL")),
        ("UPDATE a ST value=b", "ST", Some("SET")),
        ("CREATE TABEL a", "TABEL", Some("TABLE")),
        ("CREATE TABLE a hegde=off", "hegde", Some("hedge")),
        ("PUT a b c", "c", None),
        ("GET a CL=ONE CL=ALL", "CL", None),
        ("GET a CL QUORUM", "", None),
        ("PUT a b TTL=soon", "soon", None),
        ("PUT a \"\\q\"", "\\q", None),
        ("SCAN KEY=a LIMIT=0", "0", None),
        ("SCAN a PAGE=?", "?", None),
    ] {
        let error = error(source);
        assert_eq!((wrong_word(source, &error), error.suggestion.as_deref()), (word, nearest), "{source}: {error}");
    }
    assert!(error("PUT a").message.contains("value is missing"));
    assert!(error("PUT k {\"a\":1}").message.contains("need quotes"));
}

#[test]
fn the_pointer_shows_the_line_and_marks_the_word() {
    let source = "GET a\n  PTU é b";
    assert_eq!(error(source).pointer(source, 10), "11 |   PTU é b\n   |   ^^^");
    let long = format!("PUT k {} ?=", "x".repeat(500));
    assert!(error(&long).pointer(&long, 1).lines().all(|line| line.chars().count() < 120));
}

#[test]
fn what_follows_a_statement_that_is_wrong_is_still_read() {
    let told: Vec<bool> =
        Statements::new("PTU a\nGET b\nGET 'x' y\nGET c").map(|statement| statement.is_ok()).collect();
    assert_eq!(told, [false, true, false, true]);
}

fn bytes() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        any::<Vec<u8>>().prop_map(Bytes::from),
        any::<String>().prop_map(Bytes::from),
        "[a-z:./=\"' ]{0,12}".prop_map(Bytes::from),
        Just(Bytes::from("CL")),
    ]
}

fn name() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9_-]{0,8}"
}

fn table() -> impl Strategy<Value = TableName> {
    (of(name()), name()).prop_map(|(keyspace, table)| TableName { keyspace, table })
}

fn duration() -> impl Strategy<Value = Duration> {
    // The usual ones, and as long as can be.
    prop_oneof![1..u64::from(u32::MAX), 1..=u64::MAX].prop_map(Duration::from_millis)
}

fn level() -> impl Strategy<Value = Level> {
    proptest::sample::select(Level::all().collect::<Vec<_>>())
}

fn reading() -> impl Strategy<Value = Terms> {
    (of(level()), of(bytes()), of(table()), of(duration()), any::<bool>()).prop_map(
        |(level, sort, table, timeout, explain)| Terms { level, sort, table, timeout, explain, ..Terms::default() },
    )
}

fn writing() -> impl Strategy<Value = Terms> {
    (reading(), of(duration()), of(any::<u64>())).prop_map(|(terms, ttl, at_ms)| Terms { ttl, at_ms, ..terms })
}

fn keyspace_options() -> impl Strategy<Value = KeyspaceOptions> {
    let replication = prop_oneof![
        (1..64u32).prop_map(Replication::Simple),
        btree_map(name(), 1..9u32, 1..4).prop_map(Replication::Network),
    ];
    (of(replication), of(0..100_000u32))
        .prop_map(|(replication, durability_interval_ms)| KeyspaceOptions { replication, durability_interval_ms })
}

fn table_options() -> impl Strategy<Value = TableOptions> {
    let hedge = prop_oneof![Just("off".to_owned()), Just("p99".to_owned()), Just("20ms".to_owned())];
    (of(0..=100u32), of(hedge), of(1..u64::from(u32::MAX)), of(any::<bool>()), of(0..u64::from(u32::MAX))).prop_map(
        |(read_repair_chance, hedge, grace_ms, prefix_index, default_ttl_ms)| TableOptions {
            read_repair_chance,
            hedge,
            grace_ms,
            prefix_index,
            default_ttl_ms,
        },
    )
}

fn scan() -> impl Strategy<Value = Scan> {
    let of_key = (bytes(), of(bytes()), of(bytes()), any::<(bool, bool, bool)>());
    let of_key = of_key.prop_map(|(key, low, high, (after, before, backward))| Scan {
        key: Some(key),
        from: low.clone().filter(|_| !after),
        after: low.filter(|_| after),
        to: high.clone().filter(|_| !before),
        before: high.filter(|_| before),
        backward,
        ..Scan::default()
    });
    let page = of(vec(any::<u8>(), 1..40).prop_map(Bytes::from));
    let of_prefix = (of(bytes()), page, any::<bool>());
    let of_prefix = of_prefix.prop_map(|(prefix, page, backward)| Scan { prefix, page, backward, ..Scan::default() });
    (prop_oneof![of_key, of_prefix], of(1..u64::MAX)).prop_map(|(scan, limit)| Scan { limit, ..scan })
}

pub(super) fn command() -> impl Strategy<Value = Command> {
    let place = || (name(), of(name()));
    prop_oneof![
        (bytes(), bytes(), writing()).prop_map(|(key, value, terms)| Command::Put { key, value, terms }),
        (bytes(), bytes(), writing()).prop_map(|(key, value, terms)| Command::Update { key, value, terms }),
        (bytes(), reading()).prop_map(|(key, terms)| Command::Get { key, terms }),
        (bytes(), writing()).prop_map(|(key, terms)| Command::Delete { key, terms: Terms { ttl: None, ..terms } }),
        (scan(), reading()).prop_map(|(scan, terms)| { Command::Scan { scan, terms: Terms { sort: None, ..terms } } }),
        of(level()).prop_map(Command::Consistency),
        of(place()).prop_map(Command::Use),
        of(bytes()).prop_map(Command::Ring),
        (of(table()), any::<bool>()).prop_map(|(table, plan)| Command::Repair { table, plan }),
        any::<bool>().prop_map(|now| Command::Scrub { now }),
        any::<String>().prop_map(Command::Decommission),
        (any::<String>(), any::<bool>()).prop_map(|(node, accept_loss)| Command::Remove { node, accept_loss }),
        (any::<String>(), any::<String>(), any::<bool>()).prop_map(|(node, with, accept_loss)| Command::Replace {
            node,
            with,
            accept_loss
        }),
        (any::<String>(), any::<bool>()).prop_map(|(node, undo)| Command::Drain { node, undo }),
        (any::<String>(), any::<u16>()).prop_map(|(host, port)| Command::Connect { host, port: Some(port) }),
        of(any::<String>()).prop_map(Command::Disconnect),
        (name(), keyspace_options()).prop_map(|(name, options)| Command::CreateKeyspace { name, options }),
        (name(), keyspace_options()).prop_map(|(name, options)| Command::AlterKeyspace { name, options }),
        (table(), table_options()).prop_map(|(table, options)| Command::CreateTable { table, options }),
        (table(), table_options()).prop_map(|(table, options)| Command::AlterTable { table, options }),
        name().prop_map(|name| Command::DropKeyspace { name }),
        table().prop_map(|table| Command::DropTable { table }),
    ]
}

proptest! {
    #![proptest_config(cases(512))]

    #[test]
    fn no_input_panics(source in any::<String>()) {
        let _ = is_unfinished(&source);
        for error in Statements::new(&source).filter_map(Result::err) {
            let _ = error.pointer(&source, 1);
        }
    }

    #[test]
    fn nothing_that_looks_like_a_statement_panics(
        words in vec("(PUT|GET|SCAN|UPDATE|create|table|keyspace|[a-z.]{1,4}|[\"';=,(){}\\\\/\n ]|b64|CL=|LIMIT|network|é|\\\\x0)", 0..24)
    ) {
        for separator in ["", " "] {
            let source = words.join(separator);
            let _ = is_unfinished(&source);
            for error in Statements::new(&source).filter_map(Result::err) {
                let _ = error.pointer(&source, 1);
            }
        }
    }

    #[test]
    fn what_is_printed_of_a_command_is_read_as_the_same_command(command in command()) {
        let printed = command.to_string();
        let mut statements = Statements::new(&printed);
        let read = statements.next().map(|statement| statement.map(|statement| statement.command));
        prop_assert_eq!(read, Some(Ok(command)), "{}", printed);
        prop_assert!(statements.next().is_none());
    }

    #[test]
    fn quoted_bytes_are_one_harmless_line(bytes in any::<Vec<u8>>()) {
        prop_assert!(!quote(&bytes).contains(char::is_control));
    }
}

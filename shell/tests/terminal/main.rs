//! The shell through a real terminal with real nodes: typed at, read from the screen, with nodes that die.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod forms;
mod outages;
mod pty;

include!("../../../client/tests/nodes/real_nodes.rs");

use std::time::Duration;

use pty::{CTRL_C, CTRL_D, TAB, Terminal, UP};

/// The end of a prompt behind which nothing is typed yet: the place of the cursor is kept and taken again at once.
const PROMPT: &str = "> \x1b7\x1b8";
/// Longer than a busy machine needs to see that a node is dead.
const PATIENCE: Duration = Duration::from_secs(120);
/// A key is pressed again when nothing has come of it for so long.
const PRESS_AGAIN: Duration = Duration::from_millis(500);
/// How often a key is pressed at the most.
const PRESSES_MAX: usize = 120;

struct Desk {
    terminal: Terminal,
    nodes: RealNodes,
    history: tempfile::TempDir,
}

impl Desk {
    async fn with(nodes: u8) -> Self {
        let nodes = RealNodes::start(nodes);
        let history = tempfile::tempdir().unwrap();
        let (host, port) = host_and_port(&nodes, 1);
        let arguments = format!("--host {host} --port {port} --timeout 60s");
        let mut terminal = Terminal::start(&arguments, &history.path().join("history"));
        terminal.expect("connected to node-1").await;
        terminal.expect(PROMPT).await;
        Self { terminal, nodes, history }
    }

    /// Types a statement and waits for this of its result and for the prompt.
    async fn ask(&mut self, statement: &str, result: &str) -> String {
        self.terminal.enter(statement).await;
        let seen = self.terminal.expect(result).await;
        self.terminal.expect(PROMPT).await;
        seen
    }

    /// Types a statement and gives everything that appears until the prompt is back.
    async fn whole(&mut self, statement: &str) -> String {
        self.terminal.enter(statement).await;
        self.terminal.expect(PROMPT).await
    }

    /// Asks again until the answer is so.
    async fn until(&mut self, statement: &str, result: &str, is_so: impl Fn(&str) -> bool) -> String {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let told = self.ask(statement, result).await;
            if is_so(&told) {
                return told;
            }
            assert!(tokio::time::Instant::now() < deadline, "{statement} keeps telling: {told}");
        }
    }

    /// Nodes that serve may still be taking over what they are to hold, and do not vote yet: then not any one can die.
    async fn settled(&mut self) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let told = self.whole("HEALTH").await;
            let is_short = ["DOWN", "does not work", "if one more node died", "could not be changed"];
            if !is_short.iter().any(|words| told.contains(words)) {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "it does not settle: {told}");
        }
    }

    async fn leave(mut self) {
        self.terminal.type_in(CTRL_D).await;
        assert_eq!(self.terminal.end().await, 0);
    }
}

fn host_and_port(nodes: &RealNodes, node: usize) -> (String, String) {
    let (host, port) =
        nodes.addresses()[node - 1].rsplit_once(':').map(|(host, port)| (host.into(), port.into())).unwrap();
    (host, port)
}

#[tokio::test]
async fn a_developer_looks_around_writes_and_reads() {
    let mut desk = Desk::with(1).await;
    desk.ask("PUT user:alice \"Alice Johnson\" CL=ONE", "OK, written at ONE, held durably by node-1").await;
    desk.ask("GET user:alice CL=ALL // with a comment", "\"Alice Johnson\"\r\n").await;
    desk.ask("UPDATE user:alice SET value=\"Alice J.\" CL=QUORUM", "OK, written").await;
    desk.ask("get user:alice", "\"Alice J.\"\r\n").await;
    // A quote that is open asks for more lines.
    desk.terminal.enter("PUT note \"first line").await;
    desk.terminal.expect("... ").await;
    desk.ask("second line\"", "OK, written").await;
    desk.ask("GET note", "\"first line\\nsecond line\"\r\n").await;
    // What is wrong is pointed at.
    let seen = desk.ask("GTE user:alice", "^^^").await;
    assert!(seen.contains("there is no command \"GTE\"; did you mean GET?"), "{seen}");
    // Tab completes; the arrow brings back what was typed before.
    desk.terminal.type_in(&format!("CONSIS{TAB}")).await;
    desk.terminal.expect("CONSISTENCY").await;
    desk.ask("ONE", "the level is now ONE").await;
    desk.terminal.type_in(UP).await;
    desk.ask("", "the level is now ONE").await;
    // Ctrl-C leaves the line, not the shell.
    desk.terminal.type_in(&format!("PUT never written{CTRL_C}")).await;
    desk.terminal.expect(PROMPT).await;
    desk.ask("GET never", "(never does not exist)").await;
    for (statement, result) in [
        ("NODES", "1 of 1 alive"),
        ("STATS", "Pending Hints: 0"),
        ("HINTS", "Pending Hints: 0"),
        ("HEALTH", "all 1 nodes are alive"),
        ("RING user:alice", "held by node-1"),
        ("DESCRIBE", "CREATE TABLE default.kv"),
        ("HELP SCAN", "for example: SCAN user:"),
        ("SCAN user: LIMIT=5", "1 row"),
        ("EXPLAIN GET user:alice", "all that were asked agree"),
        ("PUT user:bob Bob EXPLAIN", "applied"),
        ("SCAN user: LIMIT=1", "1 row; there are more: PAGE="),
        ("EXPLAIN SCAN user:", "scan of default.kv at ONE"),
        ("DELETE user:bob EXPLAIN", "write of default.kv at ONE"),
        ("CREATE KEYSPACE app replication=simple(1)", "OK, app created"),
        ("CREATE TABLE app.users", "OK, app.users created"),
        ("ALTER KEYSPACE app durability=100ms", "OK, app altered"),
        ("ALTER TABLE app.users default_ttl=1h", "OK, app.users altered"),
        ("DESCRIBE app", "default_ttl=1h;"),
        ("USE app.users", "using app.users"),
        ("PUT k v", "OK, written"),
        ("GET k", "ends 20"),
        ("USE ap", "did you mean app?"),
        ("GET k IN=app.user", "did you mean app.users?"),
        ("USE default", "using default.kv"),
        ("DROP TABLE app.users", "OK, app.users dropped"),
        ("DROP KEYSPACE app", "OK, app dropped"),
        ("CLUSTER", "1 of 1 alive"),
        ("RING", "100%"),
        ("HELP", "HELP command tells how it is written"),
        ("HELP CREATE", "CREATE KEYSPACE name"),
        ("CREATE TABEL app.users", "did you mean TABLE?"),
        ("PUT a b CL=QURUM", "did you mean QUORUM?"),
    ] {
        desk.ask(statement, result).await;
    }
    let history = std::fs::read_to_string(desk.history.path().join("history")).unwrap();
    assert!(history.contains("GET user:alice CL=ALL"), "{history}");
    desk.leave().await;
}

#[tokio::test]
async fn any_bytes_survive_the_terminal() {
    let mut desk = Desk::with(1).await;
    let values = ["with spaces", "\\\"quotes\\\" 'both'", "line\\nend", "😀 👩‍👩‍👧", "nul\\0byte", "\\xff\\x80"];
    for (number, value) in values.iter().enumerate() {
        let key = format!("\"key {number} {value}\"");
        desk.ask(&format!("PUT {key} \"{value}\""), "OK, written").await;
        desk.ask(&format!("GET {key}"), &format!("\"{value}\"\r\n")).await;
        desk.ask(&format!("PUT all \"{value}\" SORT=\"{value}\""), "OK, written").await;
    }
    desk.ask("SCAN KEY=all", "6 rows").await;
    let listed = desk.ask("SCAN \"key \"", "\r\n6 rows").await;
    assert!(listed.contains("nul\\0byte") && listed.contains("😀 👩‍👩‍👧"), "{listed}");
    // Nobody types a mebibyte: it comes from a file, and is read on the screen.
    let large = format!("{} 😀", "0123456789abcdef".repeat(64 << 10));
    let script = desk.history.path().join("large.cube");
    std::fs::write(&script, format!("PUT large \"{large}\"\n")).unwrap();
    let (host, port) = host_and_port(&desk.nodes, 1);
    let arguments = format!("--host {host} --port {port} --timeout 60s {}", script.display());
    let mut terminal = Terminal::start(&arguments, &desk.history.path().join("none"));
    terminal.expect("OK, written").await;
    assert_eq!(terminal.end().await, 0);
    desk.ask("GET large", &format!("\"{large}\"\r\n")).await;
    desk.leave().await;
}

#[tokio::test]
async fn a_node_dies_and_the_shell_lives_on_with_the_next() {
    let mut desk = Desk::with(3).await;
    desk.settled().await;
    desk.ask("PUT before \"it dies\" CL=ALL", "OK, written at ALL").await;
    desk.nodes.kill(1);
    desk.ask("GET before CL=QUORUM", "\"it dies\"\r\n").await;
    // Told with the statement before or with this one: the shell also looks between statements.
    desk.ask("NODES", "as node-").await;
    let told = desk.until("NODES", "alive, as node-", |told| told.contains("2 of 3")).await;
    assert!(told.contains("DOWN"), "{told}");
    desk.ask("PUT after \"it died\"", "OK, written at QUORUM").await;
    desk.ask("HEALTH", "if one more node died, QUORUM would be lost").await;
    desk.ask("STATS", "Not counted, because they do not answer: node-1").await;
    desk.leave().await;
}

#[tokio::test]
async fn connections_are_made_and_forgotten_and_the_cluster_stays_as_it_is() {
    let mut desk = Desk::with(2).await;
    let (host, port) = host_and_port(&desk.nodes, 2);
    desk.ask(&format!("CONNECT {host} {port}"), "connected to node-2").await;
    desk.ask("DISCONNECT node-2", "talking to node-1").await;
    desk.ask("NODES", "2 of 2 alive, as node-1").await;
    desk.ask("DISCONNECT nod-1", "did you mean node-1?").await;
    desk.ask("DISCONNECT", "disconnected from all").await;
    desk.ask("GET a", "not connected: CONNECT host port").await;
    desk.ask(&format!("CONNECT {host}:8080"), "speaks no gRPC").await;
    desk.ask(&format!("CONNECT {host}:{port}"), "2 nodes, all alive").await;
    desk.ask("PUT a b CL=ALL", "OK, written at ALL").await;
    desk.terminal.enter("EXIT").await;
    assert_eq!(desk.terminal.end().await, 0);
}

#[tokio::test]
async fn without_a_quorum_what_works_works_and_the_rest_says_what_it_lacks() {
    let mut desk = Desk::with(3).await;
    desk.settled().await;
    desk.ask("PUT a b CL=ALL", "OK, written at ALL").await;
    desk.nodes.kill(2);
    desk.nodes.kill(3);
    desk.until("NODES", "alive, as node-1", |told| told.contains("1 of 3")).await;
    for statement in ["PUT a c", "GET a", "DELETE a", "SCAN", "SCAN KEY=a"] {
        let told = desk.ask(statement, "NODES shows who is down").await;
        assert!(told.contains("QUORUM") && told.contains("error: "), "{statement}: {told}");
    }
    desk.ask("GET a CL=ONE", "\"b\"\r\n").await;
    desk.ask("SCAN CL=ONE", "rows").await;
    desk.ask("PUT a d CL=ONE", "a hint is kept and will be replayed").await;
    desk.ask("HEALTH", "QUORUM does not work for some rows of: default").await;
    desk.ask("HINTS", "Hints for node-2: ").await;
    desk.ask("STATS", "Pending Hints: ").await;
    desk.ask("CREATE KEYSPACE app TIMEOUT=1s", "it takes replication, durability").await;
    // Nobody is left.
    desk.nodes.kill(1);
    desk.ask("CONSISTENCY ONE", "the level is now ONE").await;
    desk.ask("GET a TIMEOUT=1s", "error: ").await;
    desk.ask("PUT a e TIMEOUT=1s", "error: ").await;
    desk.leave().await;
}

#[tokio::test]
async fn ctrl_c_cancels_the_statement_and_not_the_shell() {
    let mut desk = Desk::with(1).await;
    let pid = desk.nodes.processes[0].as_ref().unwrap().id().to_string();
    let signal = async |signal: &str| {
        assert!(tokio::process::Command::new("kill").args([signal, &pid]).status().await.unwrap().success());
    };
    signal("-STOP").await;
    desk.terminal.enter("PUT a b").await;
    // Until the statement is under way, the key only leaves the line.
    let mut cancelled = None;
    for _ in 0..PRESSES_MAX {
        desk.terminal.type_in(CTRL_C).await;
        cancelled = desk.terminal.expect_within("cancelled; it may have taken effect", PRESS_AGAIN).await;
        if cancelled.is_some() {
            break;
        }
    }
    assert!(cancelled.is_some(), "nothing was cancelled");
    signal("-CONT").await;
    desk.terminal.expect(PROMPT).await;
    desk.ask("PUT c d", "OK, written").await;
    desk.leave().await;
}

#[tokio::test]
async fn rows_go_round_through_files_with_what_nodes_keep() {
    let mut desk = Desk::with(1).await;
    desk.ask("CREATE KEYSPACE copy replication=simple(1)", "OK, copy created").await;
    desk.ask("CREATE TABLE copy.kv", "OK, copy.kv created").await;
    let values = ["with spaces", "\\\"quotes\\\" 'both'", "line\\nend\\r", "😀 👩‍👩‍👧", "nul\\0byte", "\\xff\\x80"];
    for (number, value) in values.iter().enumerate() {
        desk.ask(&format!("PUT \"key {number} {value}\" \"{value}\" SORT=\"{value}\""), "OK, written").await;
    }
    desk.ask("PUT ending soon TTL=1h", "OK, written").await;
    let large = format!("PUT large \"{}\"\n", "0123456789abcdé\\n".repeat(64 << 10));
    let script = desk.history.path().join("large.cube");
    std::fs::write(&script, large).unwrap();
    let (host, port) = host_and_port(&desk.nodes, 1);
    let none = desk.history.path().join("none");
    let run = async |arguments: &str, result: &str| {
        let mut terminal = Terminal::start(&format!("--host {host} --port {port} --timeout 60s {arguments}"), &none);
        let seen = terminal.expect(result).await;
        assert_eq!(terminal.end().await, 0, "{arguments}: {seen}");
    };
    run(script.to_str().unwrap(), "OK, written").await;
    let exported = async |table: &str, file: &std::path::Path| {
        run(&format!("export {} --table {table} --overwrite", file.display()), "rows exported").await;
        let text = std::fs::read_to_string(file).unwrap();
        // Without the versions, which are new, and the ends, which are about the same.
        let rows = text.lines().map(|line| {
            let mut row: serde_json::Value = serde_json::from_str(line).unwrap();
            let fields = row.as_object_mut().unwrap();
            fields.remove("version").unwrap();
            let ends = fields.remove("expiresAtMs").is_some();
            format!("{row} {ends}")
        });
        let mut rows: Vec<String> = rows.collect();
        rows.sort();
        rows
    };
    let (lines, csv) = (desk.history.path().join("rows.jsonl"), desk.history.path().join("rows.csv"));
    let before = exported("default.kv", &lines).await;
    // With the probe that tells that the node serves.
    assert_eq!(before.len(), values.len() + 3, "{before:?}");
    assert_eq!(before.iter().filter(|row| row.ends_with("true")).count(), 1);
    run(&format!("import {} --table copy.kv", lines.display()), "9 rows written").await;
    let copied = desk.history.path().join("copy.jsonl");
    assert_eq!(exported("copy.kv", &copied).await, before);
    desk.ask("DELETE large IN=copy.kv", "OK, deleted").await;
    run(&format!("export {} --table default.kv", csv.display()), "9 rows exported").await;
    run(&format!("import {} --table copy.kv", csv.display()), "9 rows written").await;
    assert_eq!(exported("copy.kv", &copied).await, before);
    desk.leave().await;
}

#[tokio::test]
async fn replicas_are_shown_compared_mended_and_verified() {
    let mut desk = Desk::with(3).await;
    desk.settled().await;
    desk.ask("PUT a b CL=ALL", "OK, written at ALL").await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let told = desk.whole("STATUS").await;
        // Nobody is blamed for what there was no time for.
        assert!(told.contains("default.kv") && !told.contains("node-3: 256"), "{told}");
        if told.contains("is on all of its replicas") {
            break;
        }
        assert!(told.contains("not yet proven equal"), "{told}");
        assert!(tokio::time::Instant::now() < deadline, "never equal: {told}");
    }
    for statement in ["REPAIR default.kv PLAN", "REPAIR default.kv", "REPAIR"] {
        desk.terminal.enter(statement).await;
        let bar = desk.terminal.expect(" comparisons, ").await;
        assert!(bar.contains('%'), "{statement}: {bar}");
        let told = desk.terminal.expect("the replicas are equal").await + &desk.terminal.expect(PROMPT).await;
        assert!(told.contains("0 of 768 comparisons differ"), "{statement}: {told}");
        for pair in ["node-1", "node-2", "node-3"] {
            assert!(told.contains(pair), "{statement}: {told}");
        }
    }
    let told = desk.whole("REPAIR default.none").await;
    assert!(told.contains("there is no table"), "{told}");
    let told = desk.whole("SCRUB").await;
    assert!(told.contains("RUNNING") && told.contains("node-3"), "{told}");
    let told = desk.whole("SCRUB NOW").await;
    assert!(told.contains("is verified now: SCRUB tells how far it is"), "{told}");
    let told = desk.whole("EXPLAIN GET a CL=ALL").await;
    assert!(told.contains("all that were asked agree") && told.matches("level").count() >= 3, "{told}");

    // With a node down, each tells what it lacks, and ends.
    desk.nodes.kill(3);
    desk.until("NODES", "alive, as node-1", |told| told.contains("2 of 3")).await;
    let told = desk.whole("STATUS").await;
    assert!(told.contains("cannot be compared with while down or out of reach: node-3"), "{told}");
    assert!(told.contains("Not counted, because they do not answer: node-3"), "{told}");
    let told = desk.whole("REPAIR default.kv").await;
    assert!(told.contains("ended as PARTIAL") && told.contains("node-3"), "{told}");
    let told = desk.whole("SCRUB").await;
    assert!(told.contains("Not counted, because they do not answer: node-3"), "{told}");
    desk.leave().await;
}

#[tokio::test]
async fn top_shows_nodes_that_live_and_die_until_it_is_quit() {
    let mut nodes = RealNodes::start(3);
    let (host, port) = host_and_port(&nodes, 1);
    let none = nodes.dir.join("none");
    let arguments = format!("--host {host} --port {port} --timeout 60s top --interval 200ms");
    let mut terminal = Terminal::start(&arguments, &none);
    let seen = terminal.expect("quits").await;
    // A screen is drawn without its spaces, and of what changes only the letters that do.
    for told in ["Pending", "node-1", "node-3", "ALIVE", "reads/s", "writes/s", "synced"] {
        assert!(seen.contains(told), "{told}: {seen}");
    }
    assert!(!seen.contains("DOWN"), "{seen}");
    nodes.kill(3);
    terminal.expect("DOWN").await;
    terminal.type_in("q").await;
    assert_eq!(terminal.end().await, 0);
    let mut terminal = Terminal::start(&arguments, &none);
    terminal.expect("DOWN").await;
    terminal.type_in(CTRL_C).await;
    assert_eq!(terminal.end().await, 0);
}

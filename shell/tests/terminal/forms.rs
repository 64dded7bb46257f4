//! Every command against a real node, in all three forms: what people, JSON and CSV tell is the same, and is so.

use std::collections::BTreeSet;

use cube_shell::statement::Statements;
use cube_shell::statement::commands::COMMANDS;
use futures::future::join_all;
use serde_json::{Value, json};

use super::{RealNodes, host_and_port};
use crate::pty::Terminal;

/// A statement, and what is told of it: to people, as a field of JSON, and as a header and a row of CSV.
struct Told {
    statement: &'static str,
    people: &'static str,
    json: (&'static str, Value),
    csv: (&'static str, &'static str),
}

fn told(
    statement: &'static str,
    people: &'static str,
    json: (&'static str, Value),
    csv: (&'static str, &'static str),
) -> Told {
    Told { statement, people, json, csv }
}

/// In an order in which each works, on a cluster of one node; `PORT` is where it is.
fn all() -> Vec<Told> {
    let node = || json!("node-1");
    vec![
        told(
            "PUT k \"a b\" CL=ONE",
            "OK, written at ONE, held durably by node-1",
            ("/acknowledgedBy/0", node()),
            ("success,key,version,level,acknowledgedBy", ",ONE,node-1,"),
        ),
        told(
            "UPDATE k SET value=\"a, \\\"b\\\"\"",
            "OK, written at QUORUM",
            ("/level", json!("QUORUM")),
            ("success,key", "true,k,"),
        ),
        told(
            "GET k",
            "\"a, \\\"b\\\"\"",
            ("/value", json!("a, \"b\"")),
            ("found,key,value", "true,k,\"a, \"\"b\"\"\","),
        ),
        told("GET nobody", "(nobody does not exist)", ("/found", json!(false)), ("found,key,value", "false,nobody,,")),
        told("PUT s v SORT=\"1 2\"", "OK, written", ("/sort", json!("1 2")), ("success,key,sort", "true,s,1 2,")),
        told(
            "SCAN k",
            "1 row",
            ("/rows/0/value", json!("a, \"b\"")),
            ("key,sort,value,version", "k,,\"a, \"\"b\"\"\","),
        ),
        told("SCAN KEY=s", "\"1 2\"", ("/rows/0/sort", json!("1 2")), ("key,sort,value,version", "s,1 2,v,")),
        told(
            "EXPLAIN GET k",
            "all that were asked agree",
            ("/explained/rows/0/reason", json!("all_agree")),
            ("replica,role,asked,answer", "node-1,self,record,version of "),
        ),
        told(
            "DELETE s SORT=\"1 2\"",
            "OK, deleted at QUORUM",
            ("/success", json!(true)),
            ("success,key,sort", "true,s,1 2,"),
        ),
        told("CONSISTENCY ALL", "the level is now ALL", ("/level", json!("ALL")), ("level", "ALL")),
        told("USE default.kv", "using default.kv", ("/table", json!("kv")), ("keyspace,table", "default,kv")),
        told(
            "NODES",
            "1 of 1 alive, as ",
            ("/rows/0/state", json!("READY")),
            ("name,status,state,address", "node-1,ALIVE,READY,"),
        ),
        told(
            "CLUSTER",
            "1 of 1 alive, as ",
            ("/alive", json!(1)),
            ("name,status,state,address", "node-1,ALIVE,READY,"),
        ),
        told(
            "RING",
            "100%",
            ("/rows/0/partitions", json!(256)),
            ("replication,keyspaces,node", "simple(3),default,node-1,ALIVE,256,100%,0"),
        ),
        told("RING k", "held by node-1", ("/replicas/0", node()), ("key,keyspace,partition,replicas", ",node-1,")),
        told("STATS", "Pending Hints: 0", ("/pendingHints", json!(0)), ("nodes,alive,keyspaces,tables", "1,1,1,1,")),
        told("HINTS", "Pending Hints: 0", ("/totalHints", json!(0)), ("keptBy,for,hints,dirtyRanges", "")),
        told(
            "STATUS",
            "or with a single replica: default.kv",
            ("/rows/0/table", json!("default.kv")),
            ("table,inSync,inSyncAsOfMs", "default.kv,,,,256,"),
        ),
        told(
            "REPAIR default.kv PLAN",
            "the replicas are equal",
            ("/plan", json!(true)),
            ("nodes,partitions,differing", ""),
        ),
        told("REPAIR", "the replicas are equal", ("/state", json!("COMPLETED")), ("nodes,partitions,differing", "")),
        told("SCRUB", "node-1", ("/rows/0/damaged", json!(0)), ("node,state,done,rows,damaged", "node-1,RUNNING,")),
        told(
            "SCRUB NOW",
            "is verified now",
            ("/begun", json!(true)),
            ("node,state,done,rows,damaged", "node-1,ON_DEMAND,"),
        ),
        told(
            "HEALTH",
            "QUORUM works for every row",
            ("/healthy", json!(true)),
            ("keyspace,replication,quorum", "default,simple(3),ok,lost,node-1"),
        ),
        told(
            "CREATE KEYSPACE app replication=simple(1)",
            "OK, app created",
            ("/changed", json!(true)),
            ("success,keyspace,changed", "true,app,true"),
        ),
        told(
            "ALTER KEYSPACE app durability=100ms",
            "OK, app altered",
            ("/keyspace", json!("app")),
            ("success,keyspace,changed", "true,app,true"),
        ),
        told(
            "CREATE TABLE app.t grace=2h",
            "OK, app.t created",
            ("/table", json!("app.t")),
            ("success,table,changed", "true,app.t,true"),
        ),
        told(
            "ALTER TABLE app.t hedge=off",
            "OK, app.t altered",
            ("/changed", json!(true)),
            ("success,table,changed", "true,app.t,true"),
        ),
        told(
            "DESCRIBE app",
            "CREATE TABLE app.t read_repair_chance=10 hedge=off grace=2h",
            ("/rows/0/grace_ms", json!(7_200_000)),
            ("keyspace,table,replication", "app,t,simple(1),100ms,10,off,7200000,"),
        ),
        told(
            "DROP TABLE app.t",
            "OK, app.t dropped",
            ("/success", json!(true)),
            ("success,table,changed", "true,app.t,true"),
        ),
        told(
            "DROP KEYSPACE app",
            "OK, app dropped",
            ("/success", json!(true)),
            ("success,keyspace,changed", "true,app,true"),
        ),
        told("DRAIN node-1", "takes no more requests", ("/drained", json!(true)), ("node,drained", "node-1,true")),
        told("DRAIN node-1 UNDO", "takes requests of", ("/drained", json!(false)), ("node,drained", "node-1,false")),
        told("CONNECT PORT", "connected to node-1", ("/contact", node()), ("contact,address,nodes,alive", "node-1,")),
        told("DISCONNECT node-1", "disconnected from all", ("/contact", Value::Null), ("contact", "")),
        told(
            "HELP PUT",
            "for example: PUT user:alice",
            ("/rows/0/command", json!("PUT")),
            ("command,usage,about,example", "PUT,"),
        ),
    ]
}

/// What an only node cannot do, and why, as all forms tell it.
const REFUSED: [(&str, &str); 3] = [
    ("DECOMMISSION node-1", "node-1 is the last member that holds data"),
    ("REMOVE node-1", "node-1 answers: decommission it"),
    ("REPLACE node-1 WITH node-2", "no member of the cluster is named"),
];

async fn run(at: &str, form: &str, statement: &str, none: &std::path::Path) -> String {
    end(at, form, statement, none, 0).await
}

async fn end(at: &str, form: &str, statement: &str, none: &std::path::Path, with: i32) -> String {
    let terminal = Terminal::start(&format!("{at} {form} -e '{statement}'"), none);
    let (seen, code) = terminal.rest().await;
    assert_eq!(code, with, "{form} {statement}: {seen}");
    seen.replace('\r', "")
}

/// Runs all of them in one form, on a node of their own; which commands these are.
async fn try_all(form: &str) -> BTreeSet<&'static str> {
    let nodes = RealNodes::start(1);
    let (host, port) = host_and_port(&nodes, 1);
    let (at, none) = (format!("--host {host} --port {port} --timeout 60s"), nodes.dir.join("none"));
    let mut tried = BTreeSet::from(["EXIT"]);
    for Told { statement, people, json, csv } in all() {
        let said = statement.replace("PORT", &format!("{host} {port}"));
        let command = Statements::new(&said).next().unwrap().unwrap().command;
        tried.insert(if said.starts_with("EXPLAIN") { "EXPLAIN" } else { command.name() });
        let seen = run(&at, form, &said, &none).await;
        match form {
            "" => assert!(seen.contains(people), "{said}: {people}: {seen}"),
            "--json" => {
                assert_eq!(seen.lines().count(), 1, "{said}: {seen}");
                let document: Value = serde_json::from_str(&seen).unwrap();
                assert_eq!(document.pointer(json.0), Some(&json.1), "{said}: {seen}");
            }
            _ => {
                let mut lines = seen.lines();
                assert!(lines.next().unwrap().starts_with(csv.0), "{said}: {seen}");
                assert!(csv.1.is_empty() || lines.any(|row| row.contains(csv.1)), "{said}: {}: {seen}", csv.1);
            }
        }
    }
    for (statement, why) in REFUSED {
        let command = Statements::new(statement).next().unwrap().unwrap().command;
        tried.insert(command.name());
        // A terminal may break the line.
        let seen = end(&at, form, statement, &none, 1).await.replace('\n', " ");
        assert!(seen.contains(why), "{statement}: {why}: {seen}");
    }
    let seen = run(&at, form, "EXIT; GET k", &none).await;
    assert_eq!(seen, "", "{form}: nothing is done behind EXIT");
    tried
}

#[tokio::test]
async fn every_command_tells_the_same_to_people_as_json_and_as_csv() {
    for tried in join_all(["", "--json", "--csv"].map(try_all)).await {
        let missing: Vec<_> = COMMANDS.iter().map(|spec| spec.name).filter(|name| !tried.contains(name)).collect();
        assert!(missing.is_empty(), "not tried: {missing:?}");
    }
}

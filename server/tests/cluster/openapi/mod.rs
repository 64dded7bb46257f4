//! The OpenAPI document is what a node does: every documented call works as documented, and there is no other.

mod shape;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use serde_json::{Value, json};

use self::shape::check;
use crate::harness::http::{Answer, Http};
use crate::harness::{Api, Cluster};

const METHODS: [&str; 5] = ["get", "put", "post", "patch", "delete"];

/// What is sent for a documented call.
struct Call {
    name: &'static str,
    path: &'static str,
    body: Option<Value>,
}

fn call(name: &'static str, path: &'static str, body: Option<Value>) -> Call {
    Call { name, path, body }
}

/// Every call there is, in an order in which each works; every parameter is given once.
fn calls() -> Vec<Call> {
    let keyspace = "/api/v1/keyspaces/made";
    let table = "/api/v1/keyspaces/made/tables/one";
    let sorted = "/api/v1/keyspaces/made/tables/one/rows/k/s?cl=one&explain=true";
    vec![
        call(
            "put",
            "/api/v1/put",
            Some(json!({"key": "a/b", "value": "v", "ttl": "1h", "cl": "one", "explain": true})),
        ),
        call("get", "/api/v1/get/a%2Fb?cl=ONE&keyspace=default&table=kv&sort=&explain=true", None),
        call("range", "/api/v1/range/a%2Fb?from=&before=z&limit=5&cl=one&keyspace=default&table=kv&explain=true", None),
        call("scan", "/api/v1/scan?prefix=a&limit=5&backward=true&cl=one&keyspace=default&table=kv&explain=true", None),
        call("delete", "/api/v1/delete/a%2Fb?cl=one&keyspace=default&table=kv&sort=&explain=true", None),
        call(
            "batchPut",
            "/api/v1/batch/put",
            Some(json!({"rows": [{"key": "a", "value": "v", "ttl": "1h"}, {"key": "b", "value": "v"}], "cl": "one"})),
        ),
        call("batchGet", "/api/v1/batch/get", Some(json!({"keys": [{"key": "a"}, {"key": "b"}], "explain": true}))),
        call(
            "batchDelete",
            "/api/v1/batch/delete",
            Some(json!({"keys": [{"key": "/wA=", "encoding": "base64"}], "keyspace": "default", "table": "kv"})),
        ),
        call("createKeyspace", keyspace, Some(json!({"replication": {"strategy": "simple", "factor": 1}}))),
        call("getKeyspace", keyspace, None),
        call("alterKeyspace", keyspace, Some(json!({"durability": {"interval": "100ms"}}))),
        call("listKeyspaces", "/api/v1/keyspaces", None),
        call("createTable", table, Some(json!({"default_ttl": "1day", "hedge": "20ms"}))),
        call("alterTable", table, Some(json!({"read_repair_chance": 50, "default_ttl": null}))),
        call("getTable", table, None),
        call("putRow", "/api/v1/keyspaces/made/tables/one/rows/k?cl=one", Some(json!({"value": "v"}))),
        call("getRow", "/api/v1/keyspaces/made/tables/one/rows/k?explain=true", None),
        call("deleteRow", "/api/v1/keyspaces/made/tables/one/rows/k", None),
        call("putSortedRow", sorted, Some(json!({"value": "/wA=", "encoding": "base64"}))),
        call("getSortedRow", sorted, None),
        call("deleteSortedRow", sorted, None),
        call(
            "batchPutRows",
            "/api/v1/keyspaces/made/tables/one/batch/put",
            Some(json!({"rows": [{"key": "k", "sort": "s", "value": "v"}], "timestamp": 1_700_000_000_000u64})),
        ),
        call(
            "batchGetRows",
            "/api/v1/keyspaces/made/tables/one/batch/get",
            Some(json!({"keys": [{"key": "k", "sort": "s"}]})),
        ),
        call(
            "batchDeleteRows",
            "/api/v1/keyspaces/made/tables/one/batch/delete",
            Some(json!({"keys": [{"key": "k", "sort": "s"}], "explain": true})),
        ),
        call("dropTable", table, None),
        call("dropKeyspace", keyspace, None),
        call("hints", "/api/v1/replication/hints", None),
        call("replayHints", "/api/v1/replication/hints/replay", None),
        call("pauseHints", "/api/v1/replication/hints/pause", Some(json!({"node": null}))),
        call("resumeHints", "/api/v1/replication/hints/resume", Some(json!({}))),
        call("replication", "/api/v1/replication/status?keyspace=default&table=kv", None),
        call("scrub", "/api/v1/replication/scrub", None),
        call("scrubNow", "/api/v1/replication/scrub", Some(json!({}))),
        call("beginRepair", "/api/v1/replication/repair", Some(json!({"keyspace": "default", "dryRun": true}))),
        call("repairs", "/api/v1/replication/repair", None),
        call("repair", "/api/v1/replication/repair/{id}", None),
        call("cancelRepair", "/api/v1/replication/repair/{id}", None),
        call("clusterHealth", "/api/v1/cluster/health", None),
        call("nodes", "/api/v1/cluster/nodes", None),
        call("topology", "/api/v1/cluster/topology", None),
        call("drainNode", "/api/v1/cluster/nodes/node-1/drain", Some(json!({"undo": true}))),
        call("livez", "/livez", None),
        call("readyz", "/readyz", None),
        call("health", "/api/v1/health", None),
        call("stats", "/api/v1/stats", None),
        call("metrics", "/metrics", None),
        call("changeSettings", "/api/v1/config", Some(json!({"log.slow_requests": "1ms"}))),
        call("slowRequests", "/api/v1/requests/slow", None),
        call("settings", "/api/v1/config", None),
        call("openapi", "/api/v1/openapi.json", None),
        call("docs", "/docs", None),
    ]
}

/// Calls that work in larger clusters alone: `leaving.rs` does them, and has the answers compared.
const TRIED_BY_LEAVING: [&str; 3] = ["decommissionNode", "removeNode", "replaceNode"];

/// Whether a call was answered with success as the node says that it is.
pub(crate) fn assert_as_documented(node: SocketAddr, name: &str, answer: &Answer) {
    let document = document(&mut Http::new(node, crate::harness::api::REQUEST_TIMEOUT));
    let operations = operations(&document);
    let response = &operations[name].2["responses"][answer.status.to_string()];
    let schema = &response["content"]["application/json"]["schema"];
    assert!(answer.is_success() && schema.is_object(), "{name}: {answer}");
    check(&document, schema, &answer.json()).unwrap_or_else(|wrong| panic!("{name}: {wrong}: {answer}"));
}

fn ask(http: &mut Http, method: &str, path: &str, body: Option<&Value>) -> Answer {
    http.request(&method.to_uppercase(), path, body).unwrap_or_else(|failure| panic!("{method} {path}: {failure}"))
}

fn document(http: &mut Http) -> Value {
    let answer = ask(http, "get", "/api/v1/openapi.json", None);
    assert_eq!(answer.status, 200, "{answer}");
    answer.json()
}

/// The documented calls by their names: method, path and what is said of them.
fn operations(document: &Value) -> BTreeMap<String, (String, String, Value)> {
    let mut operations = BTreeMap::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let name = operation["operationId"].as_str().unwrap().to_owned();
            let known = operations.insert(name.clone(), (method.clone(), path.clone(), operation.clone()));
            assert!(known.is_none(), "two calls are named {name}");
        }
    }
    operations
}

/// A node alone, settled, and a connection to it.
fn node() -> (Cluster, Http) {
    let cluster = Cluster::of(1).start();
    cluster.wait_settled(&[1], 1);
    let (_, address) = cluster.clients_of(&[1])[0];
    (cluster, Http::new(address, crate::harness::api::REQUEST_TIMEOUT))
}

#[test]
fn every_documented_call_works_and_answers_in_the_documented_shape() {
    let (_cluster, mut http) = node();
    let document = document(&mut http);
    let operations = operations(&document);
    let mut left: BTreeSet<&str> = operations.keys().map(String::as_str).collect();
    let mut repair = String::new();
    for Call { name, path, body } in calls() {
        let path = path.replace("{id}", &repair);
        let (method, documented, operation) = operations.get(name).unwrap_or_else(|| panic!("{name} is documented"));
        assert!(left.remove(name), "{name} is called once");
        let matches = path.split('?').next().unwrap().split('/').count() == documented.split('/').count();
        assert!(matches, "{name}: {path} is {documented}");
        assert!(body.is_none() || operation["requestBody"].is_object(), "{name} takes a body");
        if let Some(body) = &body {
            let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
            check(&document, schema, body).unwrap_or_else(|wrong| panic!("{name}: the body {body}: {wrong}"));
        }
        let answer = ask(&mut http, method, &path, body.as_ref());
        let response = &operation["responses"][answer.status.to_string()];
        assert!(answer.is_success() && response.is_object(), "{name}: {answer}");
        if name == "beginRepair" {
            repair = answer.json()["repairId"].as_str().unwrap().to_owned();
        }
        match &response["content"]["application/json"]["schema"] {
            Value::Null => assert!(answer.text.len() > 100, "{name}: {answer}"),
            schema => {
                let told = answer.json();
                check(&document, schema, &told).unwrap_or_else(|wrong| panic!("{name}: {wrong}: {told}"));
            }
        }
        let asked: BTreeSet<&str> =
            path.split_once('?').map(|(_, query)| query).unwrap_or_default().split('&').collect();
        let asked = asked.iter().filter_map(|pair| pair.split('=').next()).filter(|name| !name.is_empty());
        let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
        for query in asked {
            let is_known = |parameter: &Value| parameter["in"] == "query" && parameter["name"] == *query;
            assert!(parameters.iter().any(is_known), "{name}: the parameter {query} is documented");
        }
    }
    assert_eq!(left, TRIED_BY_LEAVING.into(), "documented and not tried");
}

#[test]
fn nothing_is_there_that_is_not_documented_and_its_errors_have_their_shape() {
    let (_cluster, mut http) = node();
    let document = document(&mut http);
    let mut methods: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (method, path, _) in operations(&document).into_values() {
        methods.entry(path).or_default().insert(method);
    }
    let error = json!({"$ref": "#/components/schemas/Error"});
    for (path, documented) in &methods {
        let named = path.replace("{keyspace}", "default").replace("{table}", "kv").replace("{key}", "k");
        let named = named.replace("{name}", "node-1");
        for method in METHODS.iter().filter(|method| !documented.contains(**method)) {
            let answer = ask(&mut http, method, &named.replace("{sort}", "s"), None);
            assert_eq!(answer.status, 405, "{method} {path}: {answer}");
            check(&document, &error, &answer.json()).unwrap_or_else(|wrong| panic!("{method} {path}: {wrong}"));
        }
    }
    for path in ["/", "/api/v1", "/api/v1/cluster", "/api/v1/replication", "/api/v2/get/k", "/metrics/x"] {
        let answer = ask(&mut http, "get", path, None);
        assert_eq!(answer.status, 404, "{path}: {answer}");
        check(&document, &error, &answer.json()).unwrap();
    }
    // Each class of error that can be had from a node alone, in the shape that is documented, with a documented code.
    let operations = operations(&document);
    for (name, path, body, status) in [
        ("get", "/api/v1/get/k?cl=NONE", None, 400),
        ("put", "/api/v1/put", Some(json!({"key": "", "value": ""})), 400),
        ("put", "/api/v1/put", Some(json!({"key": "k", "value": "v", "keyspace": "none"})), 404),
        ("createTable", "/api/v1/keyspaces/none/tables/t", Some(json!({})), 404),
        ("createKeyspace", "/api/v1/keyspaces/default", Some(json!({"durability": {"interval": "1s"}})), 409),
        ("put", "/api/v1/put", Some(json!({"key": "k".repeat(5_000), "value": "v"})), 413),
        ("put", "/api/v1/put", Some(json!({"key": "k", "value": "v", "cl": "TWO"})), 503),
        ("changeSettings", "/api/v1/config", Some(json!({"raft.heartbeat": "1s"})), 409),
        ("decommissionNode", "/api/v1/cluster/nodes/node-1/decommission", None, 409),
        ("removeNode", "/api/v1/cluster/nodes/node-1/remove", Some(json!({"acceptLoss": true})), 409),
        ("replaceNode", "/api/v1/cluster/nodes/node-1/replace", Some(json!({"with": "node-1"})), 409),
        ("drainNode", "/api/v1/cluster/nodes/nobody/drain", None, 404),
    ] {
        let (method, _, operation) = &operations[name];
        let answer = ask(&mut http, method, path, body.as_ref());
        assert_eq!(answer.status, status, "{name}: {answer}");
        check(&document, &error, &answer.json()).unwrap_or_else(|wrong| panic!("{name}: {wrong}"));
        let code = answer.json()["error"]["code"].as_str().unwrap().to_owned();
        let says = operation["responses"][status.to_string()]["description"].as_str().unwrap_or_default();
        assert!(says.split([' ', ',']).any(|word| word == code), "{name} is said to fail with {code}: {says}");
    }
}

#[test]
fn the_document_is_sound_and_the_page_asks_nobody_else() {
    let (cluster, mut http) = node();
    let document = document(&mut http);
    assert_eq!(document["openapi"], "3.1.0");
    let text = document.to_string();
    let schemas = document["components"]["schemas"].as_object().unwrap();
    let referred: BTreeSet<&str> =
        text.split("#/components/schemas/").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    let there: BTreeSet<&str> = schemas.keys().map(String::as_str).collect();
    assert_eq!(referred, there, "every schema is there and used");
    for (name, (_, path, operation)) in operations(&document) {
        let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
        let of = |place: &str| parameters.iter().filter(|one| one["in"] == place).count();
        assert_eq!(of("path"), path.matches('{').count(), "{name}");
        assert!(!operation["summary"].as_str().unwrap().is_empty() && operation["responses"].is_object(), "{name}");
    }
    let mut api: Api = cluster.api(1);
    let page = api.get_raw("/docs").unwrap();
    assert_eq!(page.text, api.get_raw("/api/v1/docs").unwrap().text);
    assert!(!page.text.contains("http://") && !page.text.contains("https://"), "nothing from elsewhere");
}

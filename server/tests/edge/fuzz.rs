//! The fuzz target of the bodies that are sent over HTTP: documents that were right once and then mutated, documents of
//! words that matter somewhere, and bytes that are none. Each goes to every call that takes a body, found in the
//! OpenAPI document. A few thousand in each run of the tests; `make fuzz` tries as many times more as it is told to.

use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use axum::{Router, http};
use cube_server::rest;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::TestRunner;
use serde_json::{Map, Value};
use tower::Service;

use super::cases::cases;
use super::node::Node;

/// Longer than any answer here.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Bodies that are right for one of the calls, or nearly.
const RIGHT: &[&str] = &[
    r#"{"key":"user:alice","value":"Alice","keyspace":"fuzzed","table":"t","sort":"s","cl":"one","ttl":"60s","explain":true}"#,
    r#"{"key":"AP8=","value":"/wA=","encoding":"base64","ttl":60,"timestamp":1700000000000}"#,
    r#"{"value":"v","encoding":"utf8","cl":"QUORUM","ttl":1,"timestamp":18446744073709551615}"#,
    r#"{"value":"v","ttl":"1h"}"#,
    r#"{"replication":{"strategy":"simple","factor":1},"durability":"sync"}"#,
    r#"{"replication":{"strategy":"network","dataCenters":{"dc1":1}},"durability":{"interval":"100ms"}}"#,
    r#"{"read_repair_chance":100,"hedge":"p99","grace":"1h","prefix_index":true,"default_ttl":null}"#,
    r#"{"rows":[{"key":"a","value":"v","ttl":"1h"},{"key":"AP8=","sort":"","value":"/wA=","encoding":"base64"}],"cl":"one"}"#,
    r#"{"rows":[{"key":"a","sort":"s","value":"v"}],"explain":false}"#,
    r#"{"keys":[{"key":"a"},{"key":"AP8=","sort":"/wA=","encoding":"base64"}],"keyspace":"fuzzed","table":"t","explain":true}"#,
    r#"{"keys":[{"key":"a","sort":"s"},{"key":"b","encoding":"utf8"}],"cl":"ONE"}"#,
    r#"{"node":"node-1"}"#,
    r#"{"with":"node-3","acceptLoss":true}"#,
    r#"{"value":"v"}"#,
    r#"{"keyspace":"fuzzed","table":"t","dryRun":true}"#,
    r#"{"hints.window":"1h","hints.enabled":false,"hints.max_per_node":7,"anti_entropy.interval":null}"#,
    r#"{"log.slow_requests":"1ms","listen.http":"127.0.0.1:0"}"#,
    "{}",
];
/// What matters as the name of a field, or as its value.
const WORDS: &[&str] = &[
    "key",
    "keys",
    "rows",
    "value",
    "keyspace",
    "table",
    "sort",
    "encoding",
    "cl",
    "ttl",
    "timestamp",
    "explain",
    "replication",
    "strategy",
    "factor",
    "dataCenters",
    "durability",
    "interval",
    "read_repair_chance",
    "hedge",
    "grace",
    "prefix_index",
    "default_ttl",
    "node",
    "dryRun",
    "hints.window",
    "hints.max_bytes",
    "log.level",
    "raft.heartbeat",
    "utf8",
    "base64",
    "sync",
    "simple",
    "network",
    "ONE",
    "each_quorum",
    "ANY",
    "off",
    "p99",
    "20ms",
    "-1s",
    "1e400",
    "18446744073709551616s",
    "64MiB",
    "AP8=",
    "fuzzed",
    "default",
    "node-1",
    "dc1",
    "",
    " ",
    "\0",
    "\u{feff}",
    "👩‍👩‍👧",
    "a/b",
    "%00",
];
/// What is likely to matter to a parser of JSON.
const FRAGMENTS: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    "\"",
    "\\",
    "\\u",
    "\\ud800",
    "\\u0000",
    ",",
    ":",
    ".",
    "-",
    "+",
    "e9",
    "1e999",
    "-0",
    "null",
    "true",
    "NaN",
    " ",
    "\n",
    "\0",
    "\u{feff}",
    "//",
    "é",
    "{\"a\":",
    "[[[[",
    "18446744073709551616",
    "\"cl\":\"one\",",
];

/// A call that takes a body.
struct Call {
    method: http::Method,
    path: String,
}

/// Changes of a text. Places are counted in letters.
#[derive(Clone, Debug)]
enum Mutation {
    Insert(Index, &'static str),
    Remove(Index, Index),
    Repeat(Index, Index),
    Cut(Index),
}

impl Mutation {
    fn of(self, text: &str) -> String {
        let mut letters: Vec<char> = text.chars().collect();
        let at = |index: Index| index.index(letters.len() + 1);
        let between = |one: Index, other: Index| at(one).min(at(other))..at(one).max(at(other));
        match self {
            Self::Insert(place, fragment) => {
                let place = at(place);
                drop(letters.splice(place..place, fragment.chars()));
            }
            Self::Remove(one, other) => {
                let range = between(one, other);
                letters.drain(range);
            }
            Self::Repeat(one, other) => {
                let range = between(one, other);
                let again = letters[range.clone()].to_vec();
                drop(letters.splice(range.end..range.end, again));
            }
            Self::Cut(place) => {
                let place = at(place);
                letters.truncate(place);
            }
        }
        letters.into_iter().collect()
    }
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let two = || (any::<Index>(), any::<Index>());
    prop_oneof![
        4 => (any::<Index>(), select(FRAGMENTS)).prop_map(|(place, fragment)| Mutation::Insert(place, fragment)),
        3 => two().prop_map(|(one, other)| Mutation::Remove(one, other)),
        1 => two().prop_map(|(one, other)| Mutation::Repeat(one, other)),
        1 => any::<Index>().prop_map(Mutation::Cut),
    ]
}

fn any_value() -> impl Strategy<Value = Value> {
    let plain = prop_oneof![
        6 => select(WORDS).prop_map(Value::from),
        1 => any::<String>().prop_map(Value::from),
        1 => any::<bool>().prop_map(Value::from),
        2 => any::<i64>().prop_map(Value::from),
        1 => any::<u64>().prop_map(Value::from),
        1 => any::<f64>().prop_map(Value::from),
        1 => (0u8..120).prop_map(Value::from),
        1 => Just(Value::Null),
    ];
    plain.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            vec((select(WORDS), inner), 0..5).prop_map(|fields| fields_of(fields).into()),
        ]
    })
}

fn fields_of(fields: Vec<(&str, Value)>) -> Map<String, Value> {
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// A body that was right once, with some of its fields otherwise.
fn near() -> impl Strategy<Value = Value> {
    (select(RIGHT), vec((any::<Index>(), any_value()), 0..3), vec((select(WORDS), any_value()), 0..2)).prop_map(
        |(right, changed, added)| {
            let mut fields: Map<String, Value> = serde_json::from_str(right).unwrap();
            for (place, value) in changed {
                let name = fields.keys().nth(place.index(fields.len().max(1))).cloned();
                fields.extend(name.map(|name| (name, value)));
            }
            fields.extend(fields_of(added));
            fields.into()
        },
    )
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    let mutated = (select(RIGHT), vec(mutation(), 0..6));
    prop_oneof![
        4 => near().prop_map(|value| value.to_string().into_bytes()),
        // Some calls take one of these and little else.
        4 => select(RIGHT).prop_map(|right| right.as_bytes().to_vec()),
        4 => mutated.prop_map(|(right, mutations)| {
            mutations.into_iter().fold(right.to_owned(), |text, mutation| mutation.of(&text)).into_bytes()
        }),
        2 => any_value().prop_map(|value| value.to_string().into_bytes()),
        1 => vec(any::<u8>(), 0..60),
        1 => (0usize..3_000).prop_map(|depth| "[".repeat(depth).into_bytes()),
    ]
}

async fn ask(router: &mut Router, call: &Call, body: Vec<u8>) -> (StatusCode, Value) {
    let request = Request::builder().method(&call.method).uri(&call.path).header("content-type", "application/json");
    let answer = router.call(request.body(Body::from(body)).unwrap()).await.unwrap();
    let (head, body) = answer.into_parts();
    let body = to_bytes(body, ANSWER_BYTES_MAX).await.unwrap();
    (head.status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

/// Every call that takes a body, on a table that is there.
async fn calls(router: &mut Router) -> Vec<Call> {
    let make = |method, path: &str| Call { method, path: path.to_owned() };
    let keyspace = make(http::Method::PUT, "/api/v1/keyspaces/fuzzed");
    let one = br#"{"replication":{"strategy":"simple","factor":1}}"#.to_vec();
    assert_eq!(ask(router, &keyspace, one).await.0, StatusCode::CREATED);
    let table = make(http::Method::PUT, "/api/v1/keyspaces/fuzzed/tables/t");
    assert_eq!(ask(router, &table, Vec::new()).await.0, StatusCode::CREATED);
    let (_, document) = ask(router, &make(http::Method::GET, "/api/v1/openapi.json"), Vec::new()).await;
    let mut calls = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        let named = path
            .replace("{keyspace}", "fuzzed")
            .replace("{table}", "t")
            .replace("{key}", "k")
            .replace("{name}", "node-1");
        for (method, operation) in methods.as_object().unwrap() {
            if operation["requestBody"].is_object() {
                let method = method.to_uppercase().parse().unwrap();
                calls.push(make(method, &named.replace("{sort}", "s")));
            }
        }
    }
    calls
}

/// What must hold of the answer to any body at all.
fn check(call: &Call, status: StatusCode, answer: &Value) -> Result<(), TestCaseError> {
    let Call { method, path } = call;
    if status.is_success() {
        prop_assert!(answer.is_object(), "{method} {path}: {status} {answer}");
        return Ok(());
    }
    let error = &answer["error"];
    let code = error["code"].as_str().unwrap_or_default();
    let has_shape = answer.as_object().is_some_and(|fields| fields.len() == 1)
        && error.as_object().is_some_and(|fields| fields.len() == 3)
        && !code.is_empty()
        && error["message"].as_str().is_some_and(|message| !message.is_empty())
        && error["details"].is_object();
    prop_assert!(has_shape, "{method} {path}: {status} {answer}");
    // A level that needs more replicas than there are is no mistake in the body.
    let is_expected = status.is_client_error() || (status == StatusCode::SERVICE_UNAVAILABLE && code == "unavailable");
    prop_assert!(is_expected, "{method} {path}: {status} {answer}");
    Ok(())
}

#[test]
fn fuzz_bodies_are_done_or_refused_in_the_one_shape() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let node = runtime.block_on(Node::alone());
    let mut router = rest::router(node.edge.clone());
    let calls = runtime.block_on(calls(&mut router));
    assert!(calls.len() >= 12, "{} calls take a body", calls.len());
    let (mut done, mut refused) = (vec![0u32; calls.len()], 0u32);
    let mut runner = TestRunner::new(cases(256));
    let router = std::cell::RefCell::new(router);
    let counts = std::cell::RefCell::new((&mut done, &mut refused));
    let try_all = |body: &[u8]| {
        for (place, call) in calls.iter().enumerate() {
            let (status, answer) = runtime.block_on(ask(&mut router.borrow_mut(), call, body.to_vec()));
            check(call, status, &answer)?;
            let (done, refused) = &mut *counts.borrow_mut();
            if status.is_success() { done[place] += 1 } else { **refused += 1 }
        }
        Ok(())
    };
    RIGHT.iter().try_for_each(|right| try_all(right.as_bytes())).unwrap();
    runner.run(&body(), |body| try_all(&body)).unwrap();
    // Otherwise what is mutated was so wrong that nothing behind the first look at it is tried.
    for (call, done) in calls.iter().zip(done) {
        assert!(done > 0, "{} {} never did anything", call.method, call.path);
    }
    assert!(refused > 0);
}

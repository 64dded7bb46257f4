//! What these tests say to a node over REST, by the names of the contract.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use super::http::{Answer, Failure, Http};

/// Past this a node is taken to hang: several times the longest deadline that a test gives to its nodes.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// A connection to one node.
#[derive(Debug)]
pub(crate) struct Api {
    http: Http,
    keyspace: Option<String>,
}

impl Api {
    pub(crate) fn new(to: SocketAddr) -> Self {
        Self { http: Http::new(to, REQUEST_TIMEOUT), keyspace: None }
    }

    /// The same for rows of another keyspace than the default one.
    pub(crate) fn in_keyspace(mut self, keyspace: Option<&str>) -> Self {
        self.keyspace = keyspace.map(str::to_owned);
        self
    }

    pub(crate) fn put(&mut self, key: &str, value: &str, level: &str) -> Result<Answer, Failure> {
        let mut body = json!({"key": key, "value": value, "cl": level});
        if let Some(keyspace) = &self.keyspace {
            body["keyspace"] = keyspace.as_str().into();
        }
        self.http.request("POST", "/api/v1/put", Some(&body))
    }

    /// Keys of these tests need no escaping in a path.
    pub(crate) fn get(&mut self, key: &str, level: &str) -> Result<Answer, Failure> {
        let keyspace = self.keyspace.as_ref().map(|keyspace| format!("&keyspace={keyspace}")).unwrap_or_default();
        self.http.request("GET", &format!("/api/v1/get/{key}?cl={level}{keyspace}"), None)
    }

    pub(crate) fn delete(&mut self, key: &str, level: &str) -> Result<Answer, Failure> {
        self.http.request("DELETE", &format!("/api/v1/delete/{key}?cl={level}"), None)
    }

    /// Anything else, below `/api/v1/`; it must succeed.
    pub(crate) fn ask(&mut self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let answer = self.http.request(method, &format!("/api/v1/{path}"), body);
        let answer = answer.unwrap_or_else(|failure| panic!("{method} {path}: {failure}"));
        assert!(answer.is_success(), "{method} {path}: {answer}");
        answer.json()
    }

    /// The same, and it may be refused.
    pub(crate) fn order(&mut self, method: &str, path: &str, body: Option<&Value>) -> Result<Answer, Failure> {
        self.http.request(method, &format!("/api/v1/{path}"), body)
    }

    pub(crate) fn health(&mut self) -> Result<Answer, Failure> {
        self.http.request("GET", "/api/v1/health", None)
    }

    pub(crate) fn livez(&mut self) -> Result<Answer, Failure> {
        self.http.request("GET", "/livez", None)
    }

    /// Anything else, whatever it answers.
    pub(crate) fn get_raw(&mut self, path: &str) -> Result<Answer, Failure> {
        self.http.request("GET", path, None)
    }

    /// What the node tells Prometheus.
    pub(crate) fn metrics(&mut self) -> Result<Answer, Failure> {
        self.http.request("GET", "/metrics", None)
    }

    /// How many partitions have not so many replicas, or are changing them.
    pub(crate) fn unsettled(&mut self, replicas: usize) -> Result<usize, String> {
        let answer = self.http.request("GET", "/api/v1/cluster/topology", None).map_err(|error| error.to_string())?;
        let body = answer.json();
        let placements = body["placements"].as_array().filter(|placements| !placements.is_empty());
        let partitions: Vec<&Value> = placements
            .ok_or_else(|| answer.to_string())?
            .iter()
            .flat_map(|placement| placement["partitions"].as_array().into_iter().flatten())
            .collect();
        let settled = |partition: &&&Value| {
            partition["step"] == "STABLE"
                && partition["pending"].is_null()
                && partition["replicas"].as_array().is_some_and(|names| names.len() == replicas)
        };
        Ok(partitions.len() - partitions.iter().filter(settled).count())
    }

    pub(crate) fn create_keyspace(&mut self, name: &str, settings: &Value) -> Result<Answer, Failure> {
        self.http.request("PUT", &format!("/api/v1/keyspaces/{name}"), Some(settings))
    }

    pub(crate) fn create_table(&mut self, keyspace: &str, table: &str) -> Result<Answer, Failure> {
        self.create_table_with(keyspace, table, &json!({}))
    }

    pub(crate) fn create_table_with(&mut self, keyspace: &str, table: &str, body: &Value) -> Result<Answer, Failure> {
        self.http.request("PUT", &format!("/api/v1/keyspaces/{keyspace}/tables/{table}"), Some(body))
    }

    pub(crate) fn keyspace(&mut self, name: &str) -> Result<Answer, Failure> {
        self.http.request("GET", &format!("/api/v1/keyspaces/{name}"), None)
    }

    /// Every node that this one knows, with its status and its state.
    pub(crate) fn nodes(&mut self) -> Result<BTreeMap<String, (String, String)>, String> {
        let answer = self.http.request("GET", "/api/v1/cluster/nodes", None).map_err(|error| error.to_string())?;
        let text = |node: &Value, field: &str| node[field].as_str().map(str::to_owned);
        let told = answer.json()["nodes"].as_array().cloned().unwrap_or_default();
        let nodes = told.iter().map(|node| Some((text(node, "name")?, (text(node, "status")?, text(node, "state")?))));
        nodes.collect::<Option<BTreeMap<_, _>>>().filter(|nodes| !nodes.is_empty()).ok_or_else(|| answer.to_string())
    }

    /// All that this node tells of hints.
    pub(crate) fn hints(&mut self) -> Result<Value, String> {
        let answer = self.http.request("GET", "/api/v1/replication/hints", None).map_err(|error| error.to_string())?;
        if answer.is_success() { Ok(answer.json()) } else { Err(answer.to_string()) }
    }

    /// Has this node replay, pause or resume its hints.
    pub(crate) fn steer_hints(&mut self, order: &str, body: &Value) -> Result<Answer, Failure> {
        self.http.request("POST", &format!("/api/v1/replication/hints/{order}"), Some(body))
    }

    /// The numbers of this node.
    pub(crate) fn stats(&mut self) -> Result<Value, String> {
        let answer = self.http.request("GET", "/api/v1/stats", None).map_err(|error| error.to_string())?;
        if answer.is_success() { Ok(answer.json()) } else { Err(answer.to_string()) }
    }

    /// How many keys this node keeps hints of for another one.
    pub(crate) fn hints_for(&mut self, node: &str) -> Result<u64, String> {
        let answer = self.http.request("GET", "/api/v1/replication/hints", None).map_err(|error| error.to_string())?;
        let body = answer.json();
        let counts = body["nodeHints"].as_object().ok_or_else(|| answer.to_string())?;
        Ok(counts.get(node).and_then(Value::as_u64).unwrap_or_default())
    }
}

/// Asserts that too few replicas are alive for a level, and that the answer says how many it needs and how many there are.
pub(crate) fn assert_unavailable(answer: &Answer, required: u64, alive: u64) {
    let error = &answer.json()["error"];
    assert_eq!((answer.status, &error["code"]), (503, &json!("unavailable")), "{answer}");
    let details = &error["details"];
    assert_eq!((&details["required"], &details["alive"]), (&json!(required), &json!(alive)), "{answer}");
}

/// The code of an error answer, or its status where it has none.
pub(crate) fn error_code(answer: &Answer) -> String {
    let code = answer.json()["error"]["code"].as_str().map(str::to_owned);
    code.unwrap_or_else(|| format!("status {}", answer.status))
}

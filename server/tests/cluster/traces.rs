//! One request is one trace, over all nodes that had to do with it; and a collector that is not there harms nobody.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::harness::Cluster;
use crate::harness::time::{PATIENCE, eventually};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CLIENT: &str = "b7ad6b7169203331";

/// A span, and the node that told it.
#[derive(Clone, Debug)]
struct Span {
    node: String,
    fields: Value,
}

impl Span {
    fn text(&self, field: &str) -> &str {
        self.fields[field].as_str().unwrap_or_default()
    }

    fn attribute(&self, name: &str) -> Option<&str> {
        let attributes = self.fields["attributes"].as_array()?;
        attributes.iter().find(|one| one["key"] == name)?["value"]["stringValue"].as_str()
    }
}

/// Takes what nodes post, like the collector of OpenTelemetry.
#[derive(Default)]
struct Collector(Mutex<Vec<Span>>);

impl Collector {
    fn start() -> (Arc<Self>, SocketAddr) {
        let (collector, listener) = (Arc::new(Self::default()), TcpListener::bind("127.0.0.1:0").unwrap());
        let (address, taking) = (listener.local_addr().unwrap(), Arc::clone(&collector));
        std::thread::Builder::new()
            .spawn(move || {
                for stream in listener.incoming() {
                    taking.take(stream.unwrap());
                }
            })
            .unwrap();
        (collector, address)
    }

    fn take(&self, stream: TcpStream) {
        let mut reader = BufReader::new(stream);
        let (mut line, mut length) = (String::new(), 0);
        reader.read_line(&mut line).unwrap();
        assert_eq!(line, "POST /v1/traces HTTP/1.1\r\n");
        while line != "\r\n" {
            line.clear();
            reader.read_line(&mut line).unwrap();
            let (name, value) = line.split_once(':').unwrap_or_default();
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.trim().parse().unwrap(),
                "content-type" => assert_eq!(value.trim(), "application/json"),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let document: Value = serde_json::from_slice(&body).unwrap();
        let mut spans = self.0.lock().unwrap();
        for resource in document["resourceSpans"].as_array().unwrap() {
            let attributes = resource["resource"]["attributes"].as_array().unwrap();
            let node = attributes.iter().find(|one| one["key"] == "service.instance.id").unwrap();
            let node = node["value"]["stringValue"].as_str().unwrap().to_owned();
            for span in resource["scopeSpans"][0]["spans"].as_array().unwrap() {
                spans.push(Span { node: node.clone(), fields: span.clone() });
            }
        }
        drop(spans);
        reader.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}").unwrap();
    }

    fn of(&self, trace: &str) -> Vec<Span> {
        self.0.lock().unwrap().iter().filter(|span| span.text("traceId") == trace).cloned().collect()
    }
}

/// Puts a row at QUORUM as part of a trace.
fn put_traced(to: SocketAddr, flags: &str) -> String {
    let body = r#"{"key":"traced","value":"v","cl":"QUORUM"}"#;
    let head = format!(
        "POST /api/v1/put HTTP/1.1\r\nHost: cube\r\nConnection: close\r\nContent-Type: application/json\r\n\
         traceparent: 00-{TRACE}-{CLIENT}-{flags}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = TcpStream::connect(to).unwrap();
    stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_write_is_one_trace_over_its_coordinator_and_its_replicas() {
    let (collector, address) = Collector::start();
    let cluster = Cluster::of(3).set("telemetry.traces.endpoint", &format!("http://{address}")).start();
    cluster.wait_settled(&[1, 2, 3], 3);
    let (_, http) = cluster.clients_of(&[1])[0];
    let unrecorded = put_traced(http, "00");
    assert!(unrecorded.starts_with("HTTP/1.1 200"), "{unrecorded}");
    let answer = put_traced(http, "01");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    // The client's span is the first one's parent; then the coordinator, and for each replica a question and its answer.
    let spans = eventually("all spans of the trace", PATIENCE, || {
        let spans = collector.of(TRACE);
        if spans.len() >= 8 { Ok(spans) } else { Err(format!("{spans:?}")) }
    });
    let named = |name: &str| spans.iter().filter(|span| span.text("name") == name).collect::<Vec<_>>();
    let ([edge], [coordinator]) = (&named("cube.write")[..], &named("cube.coordinate.write")[..]) else {
        panic!("{spans:?}");
    };
    assert_eq!((edge.node.as_str(), edge.text("parentSpanId")), ("node-1", CLIENT), "{edge:?}");
    assert_eq!(
        (coordinator.node.as_str(), coordinator.text("parentSpanId")),
        ("node-1", edge.text("spanId")),
        "{coordinator:?}"
    );
    assert_eq!(coordinator.attribute("cube.level"), Some("QUORUM"));
    let (asked, replicas) = (named("cube.ask"), named("cube.replica.write"));
    let mut by_replica = BTreeMap::new();
    for ask in &asked {
        assert_eq!((ask.node.as_str(), ask.text("parentSpanId")), ("node-1", coordinator.text("spanId")), "{ask:?}");
        by_replica.insert(ask.attribute("cube.replica").unwrap(), ask.text("spanId"));
    }
    assert_eq!(by_replica.keys().copied().collect::<Vec<_>>(), ["node-1", "node-2", "node-3"]);
    for replica in &replicas {
        assert_eq!(replica.text("parentSpanId"), by_replica[replica.node.as_str()], "{replica:?}");
    }
    assert_eq!((spans.len(), asked.len(), replicas.len()), (8, 3, 3), "{spans:?}");
    for span in &spans {
        let time = |field: &str| span.text(field).parse::<u64>().unwrap();
        assert!(
            time("startTimeUnixNano") <= time("endTimeUnixNano") && span.fields.get("status").is_none(),
            "{span:?}"
        );
    }

    // Nothing else is traced until somebody asks for it, while nodes run.
    let mut api = cluster.api(2);
    assert!(api.put("untraced", "v", "QUORUM").unwrap().is_success());
    let body = serde_json::json!({"telemetry.traces.sample": 1.0});
    let changed = api.ask("PATCH", "config", Some(&body));
    assert_eq!(changed["changed"][0], "telemetry.traces.sample", "{changed}");
    let reads = eventually("a traced read", PATIENCE, || {
        // The setting takes effect a moment after it was changed.
        let found = api.get("traced", "ALL").map_err(|failure| failure.to_string())?;
        assert!(found.is_success(), "{found}");
        let spans = collector.0.lock().unwrap().clone();
        let read = spans.iter().find(|span| span.text("name") == "cube.read").cloned();
        let trace = read.ok_or("none yet")?.text("traceId").to_owned();
        let spans = collector.of(&trace);
        let told = spans.iter().filter(|span| span.text("name") == "cube.replica.read").count();
        if told == 3 { Ok(spans) } else { Err(format!("{spans:?}")) }
    });
    let edge = reads.iter().find(|span| span.text("name") == "cube.read").unwrap();
    assert_eq!((edge.node.as_str(), edge.fields.get("parentSpanId")), ("node-2", None));
    let spans = collector.0.lock().unwrap().clone();
    let writes = spans.iter().filter(|span| span.text("name") == "cube.write").count();
    assert_eq!(writes, 1, "writes that nobody wanted traced");
    let metrics = api.metrics().unwrap().text;
    assert!(metrics.contains("cube_trace_spans_total{outcome=\"exported\"}"), "{metrics}");
}

#[test]
fn a_collector_that_is_not_there_or_does_not_answer_harms_nobody() {
    // It takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_at = silent.local_addr().unwrap();
    let gone = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    for address in [silent_at, gone] {
        let cluster = Cluster::of(1)
            .set("telemetry.traces.endpoint", &format!("http://{address}"))
            .set("telemetry.traces.sample", "1")
            .start();
        cluster.wait_settled(&[1], 1);
        let mut api = cluster.api(1);
        for number in 0..200 {
            let answer = api.put(&format!("k{number}"), "v", "QUORUM").unwrap();
            assert!(answer.is_success(), "{answer}");
        }
        eventually("spans that are counted as lost", PATIENCE, || {
            let metrics = api.metrics().map_err(|failure| failure.to_string())?.text;
            let failed =
                metrics.lines().find_map(|line| line.strip_prefix("cube_trace_spans_total{outcome=\"failed\"} "));
            match failed.and_then(|failed| failed.parse::<u64>().ok()) {
                Some(failed) if failed > 0 => Ok(()),
                _ => Err(format!("{failed:?}")),
            }
        });
        assert!(api.put("last", "v", "QUORUM").unwrap().is_success());
    }
}

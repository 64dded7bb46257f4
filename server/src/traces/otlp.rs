//! Spans as OpenTelemetry's collectors take them: OTLP over HTTP, as JSON.

use cube_replication::trace::{Attribute, Span, SpanKind};
use serde_json::{Map, Value, json};

/// What `POST /v1/traces` takes.
pub(super) fn document(node: &str, spans: &[Span]) -> Value {
    let resource = [
        attribute("service.name", &"cube-kv".into()),
        attribute("service.version", &env!("CARGO_PKG_VERSION").into()),
        attribute("service.instance.id", &node.into()),
    ];
    let scope = json!({"name": "cubed", "version": env!("CARGO_PKG_VERSION")});
    let spans: Vec<Value> = spans.iter().map(span).collect();
    let scoped = json!([{"scope": scope, "spans": spans}]);
    json!({"resourceSpans": [{"resource": {"attributes": resource}, "scopeSpans": scoped}]})
}

fn span(span: &Span) -> Value {
    let kind = match span.kind {
        SpanKind::Internal => 1,
        SpanKind::Server => 2,
        SpanKind::Client => 3,
    };
    let attributes: Vec<Value> = span.attributes.iter().map(|(name, told)| attribute(name, told)).collect();
    // Numbers of 64 bits are texts in the JSON of protobuf.
    let mut fields = Map::from_iter([
        ("traceId".to_owned(), format!("{:032x}", span.context.trace).into()),
        ("spanId".to_owned(), format!("{:016x}", span.context.span).into()),
        ("name".to_owned(), span.name.into()),
        ("kind".to_owned(), kind.into()),
        ("startTimeUnixNano".to_owned(), span.begun_ns.to_string().into()),
        ("endTimeUnixNano".to_owned(), span.ended_ns.to_string().into()),
        ("attributes".to_owned(), attributes.into()),
    ]);
    if let Some(parent) = span.parent {
        fields.insert("parentSpanId".to_owned(), format!("{parent:016x}").into());
    }
    if let Some(error) = &span.error {
        fields.insert("status".to_owned(), json!({"code": 2, "message": error}));
    }
    fields.into()
}

fn attribute(name: &str, told: &Attribute) -> Value {
    let value = match told {
        Attribute::Text(text) => json!({"stringValue": text}),
        Attribute::Number(number) => json!({"intValue": number.to_string()}),
    };
    json!({"key": name, "value": value})
}

#[cfg(test)]
mod tests {
    use cube_replication::trace::TraceContext;

    use super::*;

    #[test]
    fn spans_are_told_as_collectors_read_them() {
        let first = Span {
            context: TraceContext { trace: 0xa, span: 0xb },
            parent: None,
            name: "cube.write",
            kind: SpanKind::Server,
            begun_ns: 1_700_000_000_000_000_001,
            ended_ns: 1_700_000_000_000_000_002,
            attributes: vec![("cube.level", "QUORUM".into()), ("cube.rows", 3usize.into())],
            error: None,
        };
        let second = Span { parent: Some(0xb), error: Some("too few".into()), ..first.clone() };
        let document = document("node-1", &[first, second]);
        let resource = &document["resourceSpans"][0];
        assert_eq!(resource["resource"]["attributes"][2]["value"]["stringValue"], "node-1");
        let spans = &resource["scopeSpans"][0]["spans"];
        assert_eq!(spans[0]["traceId"], "0000000000000000000000000000000a");
        assert_eq!((&spans[0]["spanId"], &spans[0]["kind"]), (&json!("000000000000000b"), &json!(2)));
        assert_eq!(spans[0]["endTimeUnixNano"], "1700000000000000002");
        assert!(spans[0].get("parentSpanId").is_none() && spans[0].get("status").is_none());
        assert_eq!(spans[0]["attributes"][1], json!({"key": "cube.rows", "value": {"intValue": "3"}}));
        assert_eq!(spans[1]["parentSpanId"], "000000000000000b");
        assert_eq!(spans[1]["status"], json!({"code": 2, "message": "too few"}));
    }
}

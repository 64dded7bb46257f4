//! The OpenAPI 3.1 document of a table of routes.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::schema::{level, string, whole};
use super::{Answer, Kind, Query, Route, grpc, replication, rows, state};
use crate::edge::Code;

/// Errors that any call may have.
const ANYWHERE: [Code; 1] = [Code::InvalidRequest];
/// Errors that any call with a body may have.
const WITH_BODY: [Code; 4] = [Code::MalformedJson, Code::UnsupportedMediaType, Code::BodyTooLarge, Code::BodyTooSlow];

pub(super) fn document(routes: &[Route]) -> Value {
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for route in routes {
        paths.entry(route.path).or_default().insert(route.method.to_owned(), operation(route));
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Cube KV",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "Rows, schema and operation of a Cube KV cluster. Any node answers for any row.",
            "license": {"name": "Apache 2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": tags(routes),
        "paths": paths,
        "components": {"schemas": schemas()},
    })
}

fn schemas() -> Map<String, Value> {
    let codes: Vec<&str> = Code::EVERY.iter().map(|code| code.name()).collect();
    rows::schemas()
        .into_iter()
        .chain(state::schemas(&codes))
        .chain(replication::schemas())
        .map(|(name, schema)| (name.to_owned(), schema))
        .collect()
}

fn tags(routes: &[Route]) -> Vec<Value> {
    let mut tags: Vec<&str> = Vec::new();
    for route in routes {
        if !tags.contains(&route.tag) {
            tags.push(route.tag);
        }
    }
    tags.into_iter().map(|tag| json!({"name": tag})).collect()
}

fn operation(route: &Route) -> Value {
    let mut operation = Map::from_iter([
        ("operationId".to_owned(), route.name.into()),
        ("tags".to_owned(), json!([route.tag])),
        ("summary".to_owned(), route.summary.into()),
        ("responses".to_owned(), responses(route).into()),
    ]);
    if let Some(call) = grpc::same(route.name) {
        operation.insert("x-grpc".to_owned(), call.into());
    }
    let parameters: Vec<Value> = in_path(route.path).chain(route.query.iter().map(in_query)).collect();
    if !parameters.is_empty() {
        operation.insert("parameters".to_owned(), parameters.into());
    }
    if let Some((schema, may_be_left_out)) = route.body {
        let content = json!({"application/json": {"schema": reference(schema)}});
        let body = json!({"required": !may_be_left_out, "content": content});
        operation.insert("requestBody".to_owned(), body);
    }
    operation.into()
}

fn in_path(path: &str) -> impl Iterator<Item = Value> + '_ {
    let names = path.split('{').skip(1).filter_map(|part| part.split('}').next());
    names.map(|name| json!({"name": name, "in": "path", "required": true, "schema": string()}))
}

fn in_query(query: &Query) -> Value {
    let schema = match query.kind {
        Kind::Text => string(),
        Kind::Whole => whole(),
        Kind::Flag => json!({"type": "boolean"}),
        Kind::Level => level(),
    };
    json!({"name": query.name, "in": "query", "description": query.says, "schema": schema})
}

fn responses(route: &Route) -> Map<String, Value> {
    let mut responses = Map::new();
    for (status, answer) in route.answers {
        let content = match answer {
            Answer::Json(schema) => json!({"application/json": {"schema": reference(schema)}}),
            Answer::JsonOrText(schema) => {
                json!({"application/json": {"schema": reference(schema)}, "text/plain": {"schema": string()}})
            }
            Answer::Text(kind) => json!({*kind: {"schema": string()}}),
        };
        let says = if (200..300).contains(status) { "Done" } else { "What is missing" };
        responses.insert(status.to_string(), json!({"description": says, "content": content}));
    }
    let mut codes: BTreeMap<u16, Vec<&str>> = BTreeMap::new();
    let with_body = WITH_BODY.iter().filter(|_| route.body.is_some());
    for code in ANYWHERE.iter().chain(with_body).chain(&route.errors) {
        codes.entry(code.http().as_u16()).or_default().push(code.name());
    }
    for (status, names) in codes {
        let description = format!("One of the codes {}", names.join(", "));
        let content = json!({"application/json": {"schema": reference("Error")}});
        let headers = match status {
            429 => json!({"Retry-After": {"description": "Whole seconds", "schema": whole()}}),
            _ => json!({}),
        };
        let response = json!({"description": description, "content": content, "headers": headers});
        responses.entry(status.to_string()).or_insert(response);
    }
    responses
}

pub(super) fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

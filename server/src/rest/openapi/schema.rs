//! How the shapes of documents are written down: JSON Schema, as OpenAPI 3.1 has it.

use cube_replication::consistency::Level;
use serde_json::{Map, Value, json};

/// A named schema.
pub(super) type Named = (&'static str, Value);
/// Fields of an object.
pub(super) type Fields<'a> = &'a [(&'a str, Value)];

/// An object with these fields and no others: the first ones are always there.
pub(super) fn object(always: Fields<'_>, sometimes: Fields<'_>) -> Value {
    let properties: Map<String, Value> =
        always.iter().chain(sometimes).map(|(name, schema)| ((*name).to_owned(), schema.clone())).collect();
    let required: Vec<&str> = always.iter().map(|(name, _)| *name).collect();
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}

pub(super) fn string() -> Value {
    json!({"type": "string"})
}

/// A number without a fraction, of 0 or more.
pub(super) fn whole() -> Value {
    json!({"type": "integer", "minimum": 0})
}

pub(super) fn integer() -> Value {
    json!({"type": "integer"})
}

pub(super) fn flag() -> Value {
    json!({"type": "boolean"})
}

pub(super) fn list(of: &Value) -> Value {
    json!({"type": "array", "items": of})
}

/// An object whose fields are names that people chose.
pub(super) fn map(of: &Value) -> Value {
    json!({"type": "object", "additionalProperties": of})
}

pub(super) fn words(words: &[&str]) -> Value {
    json!({"type": "string", "enum": words})
}

/// Of one of these shapes.
pub(super) fn either(shapes: &[Value]) -> Value {
    json!({"anyOf": shapes})
}

pub(super) fn or_null(of: &Value) -> Value {
    json!({"anyOf": [of, {"type": "null"}]})
}

/// Whatever it is.
pub(super) fn anything() -> Value {
    json!({})
}

/// A duration as it is sent: seconds, or a number with its unit.
pub(super) fn duration() -> Value {
    json!({"anyOf": [{"type": "integer"}, {"type": "string"}], "examples": ["60s"]})
}

/// A consistency level, as it is told; it is taken in any case.
pub(super) fn level() -> Value {
    json!({"type": "string", "enum": Level::EVERY.map(Level::name)})
}

pub(super) fn encoding() -> Value {
    words(&["utf8", "base64"])
}

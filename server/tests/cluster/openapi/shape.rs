//! Whether a JSON document has the shape that a schema says, as far as the schemas of Cube KV go. What a schema does
//! not name is wrong.

use serde_json::{Value, json};

/// What is wrong with a value, and where.
pub(crate) fn check(document: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    let keywords = schema.as_object().ok_or_else(|| format!("{schema} is no schema"))?;
    for (keyword, argument) in keywords {
        match keyword.as_str() {
            "$ref" => {
                let pointer = argument.as_str().and_then(|path| path.strip_prefix('#')).ok_or("a foreign reference")?;
                let referred = document.pointer(pointer).ok_or_else(|| format!("nothing is at {pointer}"))?;
                check(document, referred, value)?;
            }
            "type" => check_type(argument.as_str().unwrap_or_default(), value)?,
            "enum" => {
                let is_one = argument.as_array().is_some_and(|words| words.contains(value));
                is_one.then_some(()).ok_or_else(|| format!("{value} is none of {argument}"))?;
            }
            "minimum" => {
                let is_above = value.as_f64().zip(argument.as_f64()).is_some_and(|(value, least)| value >= least);
                is_above.then_some(()).ok_or_else(|| format!("{value} is below {argument}"))?;
            }
            "anyOf" => {
                let shapes = argument.as_array().ok_or("anyOf is a list")?;
                let fits = shapes.iter().any(|shape| check(document, shape, value).is_ok());
                fits.then_some(()).ok_or_else(|| format!("{value} has none of the shapes {argument}"))?;
            }
            "items" => {
                for item in value.as_array().into_iter().flatten() {
                    check(document, argument, item)?;
                }
            }
            "required" => {
                let names = argument.as_array().into_iter().flatten().filter_map(Value::as_str);
                for name in names {
                    value.get(name).ok_or_else(|| format!("{name} is missing"))?;
                }
            }
            "properties" | "additionalProperties" => {}
            "examples" => {}
            other => return Err(format!("the schemas here know no {other}")),
        }
    }
    for (name, field) in value.as_object().into_iter().flatten() {
        let known = schema.get("properties").and_then(|known| known.get(name)).or(schema.get("additionalProperties"));
        match known {
            None | Some(Value::Bool(true)) => {}
            Some(Value::Bool(false)) => return Err(format!("{name} is not documented")),
            Some(schema) => check(document, schema, field).map_err(|wrong| format!("{name}: {wrong}"))?,
        }
    }
    Ok(())
}

fn check_type(kind: &str, value: &Value) -> Result<(), String> {
    let fits = match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        _ => false,
    };
    fits.then_some(()).ok_or_else(|| format!("{value} is no {kind}"))
}

#[test]
fn what_does_not_fit_is_found_also_below_the_surface() {
    let document = json!({"components": {"schemas": {"Inner": {
        "type": "object", "properties": {"n": {"type": "integer", "minimum": 0}}, "required": ["n"],
        "additionalProperties": false
    }}}});
    let inner = json!({"$ref": "#/components/schemas/Inner"});
    let schema = json!({"type": "array", "items": {"anyOf": [inner, {"type": "null"}]}});
    assert_eq!(check(&document, &schema, &json!([{"n": 1}, null])), Ok(()));
    for wrong in
        [json!({}), json!([{}]), json!([{"n": -1}]), json!([{"n": 1.5}]), json!([{"n": 1, "m": 1}]), json!(["n"])]
    {
        assert!(check(&document, &schema, &wrong).is_err(), "{wrong}");
    }
}

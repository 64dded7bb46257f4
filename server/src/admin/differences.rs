//! Tells how something that exists differs from what was asked for, in the words in which it is asked for.

use serde::Serialize;
use serde_json::Value;

use super::options::{KeyspaceForm, KeyspaceOptions, TableForm, TableOptions};

impl KeyspaceOptions {
    /// Every option that differs: `durability is "sync", not {"interval":"1s"}`. Nothing when they are the same.
    pub fn differences(&self, asked: &Self) -> Option<String> {
        told(&KeyspaceForm::of(self), &KeyspaceForm::of(asked))
    }
}

impl TableOptions {
    /// Every option that differs: `grace is "1h", not "2h"`. Nothing when they are the same.
    pub fn differences(&self, asked: &Self) -> Option<String> {
        told(&TableForm::of(self), &TableForm::of(asked))
    }
}

fn told(present: &impl Serialize, asked: &impl Serialize) -> Option<String> {
    let (present, asked) = (options(present), options(asked));
    let differ = asked.iter().filter_map(|(name, asked)| {
        let present = present.get(name).unwrap_or(&Value::Null);
        (present != asked).then(|| format!("{name} is {present}, not {asked}"))
    });
    let told: Vec<String> = differ.collect();
    (!told.is_empty()).then(|| told.join("; "))
}

/// The options by name. What is not written as such is one option without a name, and never the same.
fn options(form: &impl Serialize) -> serde_json::Map<String, Value> {
    match serde_json::to_value(form) {
        Ok(Value::Object(options)) => options,
        Ok(other) => [("it".to_owned(), other)].into_iter().collect(),
        Err(error) => [("it".to_owned(), Value::String(error.to_string()))].into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use cube_replication::topology::Strategy;

    use super::*;

    #[test]
    fn every_option_that_differs_is_told_as_operators_write_it() {
        let usual = TableOptions::default();
        let mut other = usual;
        other.settings.read_repair_percent = 50;
        other.settings.grace_ms = 7_200_000;
        let told = usual.differences(&other).unwrap();
        assert_eq!(told, r#"grace is "1h", not "2h"; read_repair_chance is 10, not 50"#);
        assert_eq!(usual.differences(&usual), None);
    }

    #[test]
    fn a_keyspace_tells_its_replication() {
        let usual = KeyspaceOptions::default();
        let other = KeyspaceOptions { strategy: Strategy::Simple { replicas: 1 }, ..usual.clone() };
        let told = usual.differences(&other).unwrap();
        let expected = r#"replication is {"factor":3,"strategy":"simple"}, not {"factor":1,"strategy":"simple"}"#;
        assert_eq!(told, expected);
    }
}

//! A TOML file as a list of settings, each with the line it stands in.

use std::borrow::Cow;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Problem, Source};
use super::load::{Assignments, unknown};
use super::settings;
use super::value::Raw;

/// Takes every setting of a file, and gives what is wrong with it to `assignments`.
pub(super) fn read(path: &Path, assignments: &mut Assignments) -> Result<(), ConfigError> {
    let unreadable = |error| ConfigError::Unreadable { path: path.to_owned(), error };
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    let table = DeTable::parse(&text).map_err(|error| {
        let (line, column) = place(&text, error.span().map_or(text.len(), |span| span.start));
        ConfigError::Syntax { path: path.to_owned(), line, column, reason: error.message().to_owned() }
    })?;
    let mut reader = Reader { path, text: &text, assignments };
    reader.table("", table.get_ref());
    Ok(())
}

struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    assignments: &'a mut Assignments,
}

impl Reader<'_> {
    fn table(&mut self, prefix: &str, table: &DeTable<'_>) {
        // By place in the file, so that problems are told in its order.
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        for (key, value) in entries {
            self.entry(prefix, key, value);
        }
    }

    fn entry(&mut self, prefix: &str, key: &Spanned<Cow<'_, str>>, value: &Spanned<DeValue<'_>>) {
        let name = if prefix.is_empty() { key.get_ref().to_string() } else { format!("{prefix}.{}", key.get_ref()) };
        let (line, _) = place(self.text, key.span().start);
        let source = Source::File { path: self.path.to_owned(), line };
        if let Some(setting) = settings().find(|setting| setting.name == name) {
            return self.assignments.assign(setting, &raw(value.get_ref()), source);
        }
        let is_section =
            settings().any(|setting| setting.name.strip_prefix(&name).is_some_and(|rest| rest.starts_with('.')));
        let reason = match value.get_ref() {
            DeValue::Table(table) if is_section => return self.table(&name, table),
            _ if is_section => format!("is a section: write [{name}] and its settings below"),
            _ => unknown(&name, |setting| setting.name.to_owned()),
        };
        self.assignments.problems.push(Problem { source, setting: name, reason });
    }
}

fn raw<'a>(value: &'a DeValue<'_>) -> Raw<'a> {
    match value {
        DeValue::String(text) => Raw::String(text),
        DeValue::Boolean(value) => Raw::Bool(*value),
        DeValue::Integer(number) => {
            i64::from_str_radix(number.as_str(), number.radix()).map_or(Raw::Other, Raw::Integer)
        }
        DeValue::Array(items) => {
            let texts = items.iter().map(|item| item.get_ref().as_str());
            texts.collect::<Option<Vec<_>>>().map_or(Raw::Other, Raw::List)
        }
        DeValue::Float(number) => Raw::Float(number.as_str()),
        DeValue::Datetime(_) | DeValue::Table(_) => Raw::Other,
    }
}

/// Line and column of an offset, both from 1.
fn place(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}

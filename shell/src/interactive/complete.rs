//! What Tab offers: commands, then what the command takes. Plain text in, candidates out.

use cube_client::Level;
use reedline::{Completer, CompletionResult, Span, Suggestion};

use super::names::{Names, Shared};
use crate::statement::commands::{self, COMMANDS, Spec};

pub(super) struct Words {
    names: Shared,
}

impl Words {
    pub(super) fn new(names: Shared) -> Self {
        Self { names }
    }
}

impl Completer for Words {
    fn complete(&mut self, line: &str, pos: usize) -> CompletionResult {
        let text = line.get(..pos).unwrap_or(line);
        let (start, words) = candidates(text, &self.names.now());
        let suggestion = |value: String| Suggestion {
            append_whitespace: !value.ends_with('='),
            description: commands::find(&value).map(|spec| spec.about.to_owned()),
            value,
            span: Span::new(start, pos.max(start)),
            ..Suggestion::default()
        };
        CompletionResult::fresh(words.into_iter().map(suggestion).collect::<Vec<_>>())
    }
}

/// Where the word at the end of the text begins, and the words that it may become.
fn candidates(text: &str, names: &Names) -> (usize, Vec<String>) {
    let statement = text.rfind([';', '\n']).map_or(0, |end| end + 1);
    let typed = text.get(statement..).unwrap_or_default();
    if typed.matches('"').count() % 2 == 1 {
        return (text.len(), Vec::new());
    }
    let start = statement + typed.rfind([' ', '\t', '=']).map_or(0, |end| end + 1);
    let (before, word) = text.split_at(start);
    let before = before.get(statement..).unwrap_or_default();
    let offered = match before.strip_suffix('=') {
        Some(option) => of_option(option.rsplit([' ', '\t']).next().unwrap_or_default(), names),
        None => of_words(&before.split_whitespace().collect::<Vec<_>>(), names),
    };
    let typed = word.to_lowercase();
    (start, offered.into_iter().filter(|known| known.to_lowercase().starts_with(&typed)).collect())
}

fn levels() -> Vec<String> {
    Level::all().map(|level| level.name().to_owned()).collect()
}

fn of_option(option: &str, names: &Names) -> Vec<String> {
    let words: &[&str] = match option.to_ascii_uppercase().as_str() {
        "CL" => return levels(),
        "IN" => return names.tables.clone(),
        "REPLICATION" => &["simple(3)", "network("],
        "DURABILITY" => &["sync", "100ms"],
        "PREFIX_INDEX" => &["true", "false"],
        "HEDGE" => &["off", "p99"],
        "DEFAULT_TTL" => &["never"],
        _ => &[],
    };
    words.iter().map(ToString::to_string).collect()
}

/// What may follow these words.
fn of_words(before: &[&str], names: &Names) -> Vec<String> {
    let owned = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
    let places = || names.keyspaces.iter().chain(&names.tables).cloned().collect::<Vec<_>>();
    let upper: Vec<String> = before.iter().map(|word| word.to_ascii_uppercase()).collect();
    let upper: Vec<&str> = upper.iter().map(String::as_str).collect();
    match upper.as_slice() {
        [] => commands::first_words().map(str::to_owned).collect(),
        ["EXPLAIN"] => owned(commands::EXPLAINED),
        ["EXPLAIN", ..] => of_words(before.get(1..).unwrap_or_default(), names),
        ["CREATE" | "ALTER" | "DROP"] => owned(&["KEYSPACE", "TABLE"]),
        ["ALTER" | "DROP", "KEYSPACE"] => names.keyspaces.clone(),
        ["ALTER" | "DROP", "TABLE"] => names.tables.clone(),
        ["CREATE", "TABLE"] => names.keyspaces.iter().map(|keyspace| format!("{keyspace}.")).collect(),
        ["CREATE", "KEYSPACE"] => Vec::new(),
        ["CREATE" | "ALTER", "KEYSPACE", ..] => options(commands::KEYSPACE_OPTIONS),
        ["CREATE" | "ALTER", "TABLE", ..] => options(commands::TABLE_OPTIONS),
        ["USE" | "DESCRIBE"] => places(),
        ["REPAIR"] => names.tables.clone(),
        ["SCRUB"] => owned(&["NOW"]),
        ["REPAIR", _] => owned(&["PLAN"]),
        ["CONSISTENCY"] => levels(),
        ["DISCONNECT" | "DECOMMISSION" | "REMOVE" | "REPLACE" | "DRAIN"] | ["REPLACE", _, "WITH"] => {
            names.nodes.clone()
        }
        ["REPLACE", _] => owned(&["WITH"]),
        ["DRAIN", _] => owned(&["UNDO"]),
        ["REMOVE", _] | ["REPLACE", _, "WITH", _] => owned(&["ACCEPT"]),
        ["REMOVE", _, "ACCEPT"] | ["REPLACE", _, "WITH", _, "ACCEPT"] => owned(&["LOSS"]),
        ["HELP"] => COMMANDS.iter().map(|spec| spec.name.to_owned()).collect(),
        ["UPDATE", _] => owned(&["SET"]),
        ["UPDATE", _, "SET"] => owned(&["value="]),
        ["SCAN"] => commands::find("SCAN").map(of_spec).unwrap_or_default(),
        ["GET" | "DELETE", _, ..] | ["SCAN" | "PUT" | "UPDATE", _, _, ..] => {
            before.first().and_then(|command| commands::find(command)).map(of_spec).unwrap_or_default()
        }
        _ => Vec::new(),
    }
}

fn options(options: &[&str]) -> Vec<String> {
    options.iter().map(|option| format!("{option}=")).collect()
}

fn of_spec(spec: &Spec) -> Vec<String> {
    let mut words = options(spec.options);
    words.extend(spec.flags.iter().map(ToString::to_string));
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered(text: &str) -> Vec<String> {
        let mut names = Names::default();
        names.keyspaces = vec!["app".into(), "default".into()];
        names.tables = vec!["app.users".into(), "default.kv".into()];
        names.nodes = vec!["node-1".into(), "node-2".into()];
        candidates(text, &names).1
    }

    #[test]
    fn commands_keyspaces_tables_nodes_and_levels_are_completed() {
        assert_eq!(offered("co"), ["CONSISTENCY", "CONNECT"]);
        assert_eq!(offered("USE a"), ["app", "app.users"]);
        assert_eq!(offered("disconnect node-"), ["node-1", "node-2"]);
        assert_eq!(offered("GET k CL=local"), ["LOCAL_ONE", "LOCAL_QUORUM"]);
        assert_eq!(offered("drop table "), ["app.users", "default.kv"]);
        assert_eq!(offered("GET k; GET k IN=d"), ["default.kv"]);
    }

    #[test]
    fn the_options_of_a_command_are_completed_behind_what_it_needs() {
        assert_eq!(offered("PUT k v T"), ["TTL=", "TIMEOUT="]);
        assert_eq!(offered("PUT k "), Vec::<String>::new());
        assert_eq!(offered("UPDATE k S"), ["SET"]);
        assert_eq!(offered("SCAN K"), ["KEY="]);
        assert_eq!(offered("EXPLAIN S"), ["SCAN"]);
        assert_eq!(offered("explain get k C"), ["CL="]);
    }

    #[test]
    fn nothing_is_completed_inside_quotes() {
        assert_eq!(offered("PUT k \"G"), Vec::<String>::new());
    }
}

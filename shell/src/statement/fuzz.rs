//! The fuzz target of the parser: statements that were right once and then mutated, and bytes that never were. A few thousand
//! in each run of the tests; `make fuzz` tries as many times more as it is told to.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::commands::COMMANDS;
use super::tests::command;
use super::{Statements, is_unfinished};
use crate::cases::cases;

/// What is likely to matter to a parser.
const FRAGMENTS: &[&str] = &[
    "\"",
    "'",
    "\\",
    "\\\n",
    "\\\r\n",
    "\n",
    "\r",
    ";",
    "=",
    ",",
    "(",
    ")",
    "{",
    "}",
    "//",
    " ",
    "\t",
    "\0",
    "\u{feff}",
    "\u{2028}",
    "é",
    "👩‍👩‍👧",
    "\\x",
    "\\x0",
    "\\u{",
    "\\u{110000}",
    "\\u{d800}",
    "b64\"",
    "b64\"AP8=",
    "base64'",
    "CL=",
    "CL",
    "TTL=",
    "AT=18446744073709551616",
    "LIMIT",
    "LIMIT=-1",
    "SORT=",
    "IN=a.b.c",
    "KEY=",
    "PAGE=",
    "SET",
    "value=",
    "EXPLAIN",
    "PLAN",
    "WITH",
    "AND",
    "network(",
    "simple(",
    "simple(99999999999)",
    "never",
    "0",
    "-0",
    "1e9",
    "..",
    ".",
];

/// What is done to a text. Places are counted in letters.
#[derive(Clone, Debug)]
enum Mutation {
    Insert(Index, &'static str),
    Letter(Index, char),
    Remove(Index, Index),
    Repeat(Index, Index),
    Swap(Index, Index),
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
            Self::Letter(place, letter) => {
                let place = at(place);
                letters.insert(place, letter);
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
            Self::Swap(one, other) if !letters.is_empty() => {
                let (one, other) = (one.index(letters.len()), other.index(letters.len()));
                letters.swap(one, other);
            }
            Self::Swap(..) => {}
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
        2 => any::<(Index, char)>().prop_map(|(place, letter)| Mutation::Letter(place, letter)),
        2 => two().prop_map(|(one, other)| Mutation::Remove(one, other)),
        1 => two().prop_map(|(one, other)| Mutation::Repeat(one, other)),
        1 => two().prop_map(|(one, other)| Mutation::Swap(one, other)),
        1 => any::<Index>().prop_map(Mutation::Cut),
    ]
}

/// Statements that were right once.
fn mutated() -> impl Strategy<Value = String> {
    let right = prop_oneof![
        command().prop_map(|command| command.to_string()),
        select(COMMANDS).prop_map(|spec| spec.example.to_owned()),
        select(COMMANDS).prop_map(|spec| spec.usage.to_owned()),
    ];
    let script = (vec(right, 1..4), select(vec!["\n", ";", "; ", " ", " // "])).prop_map(|(all, end)| all.join(end));
    (script, vec(mutation(), 0..6))
        .prop_map(|(script, mutations)| mutations.into_iter().fold(script, |script, mutation| mutation.of(&script)))
}

/// What must hold of any text at all.
fn check(source: &str) -> Result<(), TestCaseError> {
    let mut count = 0;
    let mut has_unfinished = false;
    for statement in Statements::new(source) {
        count += 1;
        prop_assert!(count <= source.len() + 1, "it does not end");
        let span = match &statement {
            Ok(statement) => statement.span,
            Err(error) => error.span,
        };
        let wrong = source.get(span.start..span.end);
        prop_assert!(wrong.is_some(), "{span:?} is not in the source");
        match statement {
            Ok(statement) => {
                let printed = statement.command.to_string();
                let again: Vec<_> = Statements::new(&printed).map(|again| again.map(|again| again.command)).collect();
                prop_assert_eq!(again, vec![Ok(statement.command)], "{}", printed);
            }
            Err(error) => {
                has_unfinished |= error.is_unfinished;
                let pointer = error.pointer(source, 1);
                prop_assert!(pointer.contains('^') && pointer.lines().count() == 2, "{pointer:?}");
                prop_assert!(!error.message.is_empty());
                prop_assert!(!pointer.replace('\n', "").contains(char::is_control), "{pointer:?}");
                if let Some(meant) = &error.suggestion {
                    prop_assert!(wrong != Some(meant.as_str()), "it suggests what stands there: {error}");
                }
            }
        }
    }
    prop_assert!(is_unfinished(source) || !has_unfinished, "a prompt would not ask for the rest");
    Ok(())
}

proptest! {
    #![proptest_config(cases(1_024))]

    #[test]
    fn fuzz_statements_that_were_right_once(source in mutated()) {
        check(&source)?;
    }

    #[test]
    fn fuzz_any_bytes(bytes in vec(any::<u8>(), 0..200)) {
        check(&String::from_utf8_lossy(&bytes))?;
    }

    #[test]
    fn fuzz_fragments(fragments in vec(prop_oneof![3 => select(FRAGMENTS).prop_map(str::to_owned), 1 => any::<String>()], 0..30)) {
        check(&fragments.concat())?;
    }
}

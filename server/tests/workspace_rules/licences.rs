//! What comes in has a licence that an Apache-2.0 project can be built from and shipped with.

/// Licences that ask for no more than to be named. Each is here because a crate of the graph needs it.
const ALLOWED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Unicode-DFS-2016",
    "Unlicense",
    "WTFPL",
    "Zlib",
];

/// Whether an SPDX expression can be met by allowed licences alone: any side of an `OR`, all sides of an `AND`.
/// What cannot be read is not allowed.
fn is_allowed(expression: &str) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut words: &[&str] = &spaced.split_whitespace().collect::<Vec<_>>();
    let allowed = any_of(&mut words);
    allowed == Some(true) && words.is_empty()
}

fn any_of(words: &mut &[&str]) -> Option<bool> {
    let mut allowed = all_of(words)?;
    while take(words, "OR") {
        allowed |= all_of(words)?;
    }
    Some(allowed)
}

fn all_of(words: &mut &[&str]) -> Option<bool> {
    let mut allowed = one(words)?;
    while take(words, "AND") {
        allowed &= one(words)?;
    }
    Some(allowed)
}

fn one(words: &mut &[&str]) -> Option<bool> {
    if take(words, "(") {
        let allowed = any_of(words)?;
        return take(words, ")").then_some(allowed);
    }
    let name = word(words)?;
    let exception = if take(words, "WITH") { format!(" WITH {}", word(words)?) } else { String::new() };
    Some(ALLOWED.contains(&format!("{name}{exception}").as_str()))
}

fn word<'a>(words: &mut &[&'a str]) -> Option<&'a str> {
    let (first, rest) = words.split_first()?;
    *words = rest;
    Some(first)
}

fn take(words: &mut &[&str], wanted: &str) -> bool {
    let found = words.first() == Some(&wanted);
    if found {
        word(words);
    }
    found
}

#[test]
fn every_package_of_the_graph_has_an_allowed_licence() {
    let metadata = crate::workspace().unwrap();
    let refused: Vec<String> = metadata
        .packages
        .iter()
        .filter(|package| !package.license.as_deref().is_some_and(is_allowed))
        .map(|package| format!("{} {}: {:?}", package.name, package.version, package.license))
        .collect();
    assert_eq!(refused, Vec::<String>::new());
    assert!(metadata.packages.len() > 100, "the graph holds more than the members");
}

#[test]
fn a_licence_that_binds_the_whole_work_is_refused() {
    for expression in ["GPL-3.0", "GPL-3.0-only", "AGPL-3.0-or-later", "MIT AND GPL-3.0", "(MIT OR ISC) AND SSPL-1.0"] {
        assert!(!is_allowed(expression), "{expression}");
    }
}

#[test]
fn one_allowed_side_of_a_choice_is_enough() {
    for expression in ["GPL-3.0 OR MIT", "MIT/Apache-2.0/GPL-2.0", "GPL-2.0 AND ISC OR MIT", "(GPL-3.0 OR MIT) AND ISC"]
    {
        assert!(is_allowed(expression), "{expression}");
    }
}

#[test]
fn an_exception_belongs_to_its_licence() {
    assert!(is_allowed("Apache-2.0 WITH LLVM-exception"));
    assert!(!is_allowed("GPL-2.0 WITH LLVM-exception"));
    assert!(!is_allowed("MIT WITH Surprise-exception"));
}

#[test]
fn an_expression_that_cannot_be_read_is_refused() {
    for expression in ["", "MIT OR", "(MIT", "MIT)", "MIT MIT", "OR", "MIT WITH", "see the file"] {
        assert!(!is_allowed(expression), "{expression:?}");
    }
}

//! Every member takes edition, licence, version and lints from the root, so that none quietly leaves a rule.

use cargo_metadata::Edition;
use toml::{Table, Value};

/// What a member's manifest must take from the workspace.
const INHERITED: &[&str] = &["version", "edition", "rust-version", "license", "publish"];

/// The lints of the root, and how each is set: taken out or weakened there, they would be so for every member.
const LINTS: &[(&str, &str, &str)] = &[
    ("rust", "missing_docs", "deny"),
    ("rust", "unsafe_code", "deny"),
    ("rust", "unreachable_pub", "warn"),
    ("clippy", "unwrap_used", "deny"),
    ("clippy", "expect_used", "deny"),
    ("clippy", "indexing_slicing", "deny"),
    ("clippy", "panic", "deny"),
    ("clippy", "todo", "deny"),
    ("clippy", "unimplemented", "deny"),
    ("clippy", "dbg_macro", "deny"),
];

/// The lints that the root's manifest does not set as it has to.
fn missing_lints(root: &Table) -> Vec<&'static str> {
    let lints = root.get("workspace").and_then(|workspace| workspace.get("lints"));
    let set = |tool: &str, lint: &str| lints?.get(tool)?.get(lint)?.as_str();
    LINTS.iter().filter(|(tool, lint, level)| set(tool, lint) != Some(level)).map(|(_, lint, _)| *lint).collect()
}

/// What a manifest states for itself although the root states it, one name each.
fn not_inherited(manifest: &Table) -> Vec<String> {
    let from_workspace = |value: Option<&Value>| {
        value.and_then(|value| value.get("workspace")).and_then(Value::as_bool).unwrap_or(false)
    };
    let package = manifest.get("package");
    let mut found: Vec<String> = INHERITED
        .iter()
        .filter(|name| !from_workspace(package.and_then(|package| package.get(name))))
        .map(|name| format!("package.{name}"))
        .collect();
    if !from_workspace(manifest.get("lints")) {
        found.push("lints".to_owned());
    }
    found
}

#[test]
fn every_member_inherits_edition_licence_and_lints() {
    let metadata = crate::workspace().unwrap();
    for package in metadata.workspace_packages() {
        let manifest: Table = std::fs::read_to_string(&package.manifest_path).unwrap().parse().unwrap();
        assert_eq!(not_inherited(&manifest), Vec::<String>::new(), "{}", package.name);
        assert_eq!(package.edition, Edition::E2024, "{}", package.name);
        assert_eq!(package.license.as_deref(), Some("Apache-2.0"), "{}", package.name);
    }
}

#[test]
fn the_root_denies_what_libraries_must_not_do() {
    let root = crate::workspace().unwrap().workspace_root.join("Cargo.toml");
    let root: Table = std::fs::read_to_string(root).unwrap().parse().unwrap();
    assert_eq!(missing_lints(&root), Vec::<&str>::new());
}

#[test]
fn a_lint_that_was_weakened_or_taken_out_is_found() {
    let root = crate::workspace().unwrap().workspace_root.join("Cargo.toml");
    let mut root: Table = std::fs::read_to_string(root).unwrap().parse().unwrap();
    let lints = root["workspace"]["lints"].as_table_mut().unwrap();
    lints["clippy"].as_table_mut().unwrap().remove("panic").unwrap();
    lints["rust"].as_table_mut().unwrap().insert("missing_docs".into(), "allow".into());
    assert_eq!(missing_lints(&root), ["missing_docs", "panic"]);
}

#[test]
fn a_member_that_goes_its_own_way_is_found() {
    let manifest: Table = r#"
        package = { name = "own-way", version.workspace = true, edition = "2021", rust-version.workspace = true, license = "MIT", publish.workspace = true }
        lints.rust.missing_docs = "allow"
    "#
    .parse()
    .unwrap();
    assert_eq!(not_inherited(&manifest), ["package.edition", "package.license", "lints"]);
}

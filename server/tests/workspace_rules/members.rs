//! Every member takes edition, licence, version and lints from the root, so that none quietly leaves a rule.

use cargo_metadata::Edition;
use toml::{Table, Value};

/// What a member's manifest must take from the workspace.
const INHERITED: &[&str] = &["version", "edition", "rust-version", "license", "publish"];

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
fn a_member_that_goes_its_own_way_is_found() {
    let manifest: Table = r#"
        package = { name = "own-way", version.workspace = true, edition = "2021", rust-version.workspace = true, license = "MIT", publish.workspace = true }
        lints.rust.missing_docs = "allow"
    "#
    .parse()
    .unwrap();
    assert_eq!(not_inherited(&manifest), ["package.edition", "package.license", "lints"]);
}

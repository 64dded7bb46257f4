//! Every property is tested with the same cases in each run, and with others by `make test-long`: through `cases`, which
//! is in `storage/tests/common/cases.rs`, and by a test that the Makefile names.

use std::error::Error;
use std::path::{Path, PathBuf};

/// Where cases come from: the one file that may set how a property is tested.
const CASES: &str = "storage/tests/common/cases.rs";

/// The lines of a source that draw cases in another way.
fn stray_properties(source: &str) -> Vec<&str> {
    let next = source.lines().skip(1).map(str::trim).chain([""]);
    let stray = |(line, next): &(&str, &str)| {
        (line.ends_with("proptest! {") && !next.starts_with("#![proptest_config(cases("))
            || line.contains("ProptestConfig")
            || (line.contains("TestRunner::") && !line.contains("TestRunner::new(cases("))
    };
    source.lines().map(str::trim).zip(next).filter(stray).map(|(line, _)| line).collect()
}

fn draws_cases(source: &str) -> bool {
    source.contains("proptest_config(cases(") || source.contains("TestRunner::new(cases(")
}

/// The Rust sources of the members, by their path from the root.
fn sources(root: &Path) -> Result<Vec<(String, String)>, Box<dyn Error>> {
    let metadata = crate::workspace()?;
    let members = metadata.workspace_packages();
    let mut folders: Vec<PathBuf> = members
        .iter()
        .flat_map(|member| ["src", "tests"].map(|folder| member.manifest_path.with_file_name(folder).into()))
        .filter(|folder: &PathBuf| folder.is_dir())
        .collect();
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let name = path.strip_prefix(root)?.display().to_string();
                sources.push((name, std::fs::read_to_string(path)?));
            }
        }
    }
    Ok(sources)
}

#[test]
fn every_property_draws_the_same_cases_in_each_run_and_others_in_the_long_tests() {
    let root = crate::workspace().unwrap().workspace_root;
    let makefile = std::fs::read_to_string(root.join("Makefile")).unwrap();
    let fresh = makefile.lines().find(|line| line.starts_with("PROPERTIES :=")).unwrap();
    let mut properties = 0;
    for (name, source) in sources(root.as_std_path()).unwrap() {
        if name == CASES || name.ends_with("workspace_rules/properties.rs") {
            continue;
        }
        assert_eq!(stray_properties(&source), Vec::<&str>::new(), "{name}");
        if !draws_cases(&source) {
            continue;
        }
        properties += 1;
        if let Some((_, test)) = name.split_once("/tests/").filter(|_| !name.contains("/src/")) {
            let test = test.split('/').next().unwrap().trim_end_matches(".rs");
            assert!(fresh.split([' ', ',', ')']).any(|word| word == test), "{test} is not in: {fresh}");
        }
    }
    assert!(properties >= 30, "{properties} files with properties were found");
}

#[test]
fn a_property_with_cases_of_its_own_is_found() {
    let config = "#![proptest_config(ProptestConfig::with_cases(48))]";
    let drawn = format!("proptest! {{\n    {config}\n}}\nlet mut runner = TestRunner::default();\n");
    assert_eq!(stray_properties(&drawn), ["proptest! {", config, "let mut runner = TestRunner::default();"]);
    assert_eq!(stray_properties("proptest! {\n    #![proptest_config(cases(48))]\n"), Vec::<&str>::new());
}

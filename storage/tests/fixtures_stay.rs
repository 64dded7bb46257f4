//! What this release reads, every later one must: the databases under `fixtures` stay as they were committed.
//!
//! `fixtures/SUMS` names each file with its checksum. A new fixture adds lines; a line that is there is never changed.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// Adds the checksums of all files under a folder, by their paths from `root` on.
fn sum(root: &Path, folder: &Path, sums: &mut BTreeMap<String, u32>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            sum(root, &path, sums)?;
        } else {
            let name = path.strip_prefix(root).map_err(io::Error::other)?.display().to_string();
            sums.insert(name, crc32fast::hash(&fs::read(&path)?));
        }
    }
    Ok(())
}

fn line((name, sum): (&String, &u32)) -> String {
    format!("{sum:08x} {name}")
}

#[test]
fn fixtures_are_only_ever_added_to() {
    let mut found = BTreeMap::new();
    sum(&folder(), &folder(), &mut found).unwrap();
    found.remove("SUMS");
    let noted = fs::read_to_string(folder().join("SUMS")).unwrap();
    for noted in noted.lines() {
        let name = noted.split_once(' ').unwrap().1;
        let now = found.get_key_value(name).map(line);
        assert_eq!(
            now.as_deref(),
            Some(noted),
            "a fixture was changed or removed: databases of that time may not open"
        );
        found.remove(name);
    }
    let unlisted: Vec<String> = found.iter().map(line).collect();
    assert!(unlisted.is_empty(), "add to storage/tests/fixtures/SUMS:\n{}", unlisted.join("\n"));
}

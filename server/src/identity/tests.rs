use std::fs;
use std::path::Path;
use std::sync::Arc;

use cube_storage::files::{Files, SimulatedFiles};

use super::*;

fn identity(name: &str) -> Identity {
    Identity {
        cluster: ClusterId(7),
        node: NodeId(3),
        name: name.to_owned(),
        merkle_key: MerkleKey([9; 16]),
        partition_bits: PartitionBits::DEFAULT,
        founder: true,
    }
}

fn refused(path: &Path, name: &str) -> String {
    let told = DataDir::open(path, name).unwrap_err().to_string();
    told.replace(&path.display().to_string(), "DIR")
}

#[test]
fn a_directory_keeps_its_instance_and_identity_and_counts_its_starts() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("new/deep");
    let mut first = DataDir::open(&path, "node-1").unwrap();
    let instance = first.instance();
    assert_eq!((first.generation(), first.identity()), (1, None));
    first.establish(identity("node-1")).unwrap();
    first.establish(identity("node-1")).unwrap();
    drop(first);
    let second = DataDir::open(&path, "node-1").unwrap();
    assert_eq!((second.instance(), second.generation()), (instance, 2));
    assert_eq!(second.identity(), Some(&identity("node-1")));
}

#[test]
fn a_wiped_directory_is_another_instance() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data");
    let before = DataDir::open(&path, "node-1").unwrap().instance();
    fs::remove_dir_all(&path).unwrap();
    assert_ne!(DataDir::open(&path, "node-1").unwrap().instance(), before);
}

#[test]
fn a_second_process_on_a_directory_is_refused_and_told_who_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let _held = DataDir::open(dir.path(), "node-1").unwrap();
    let holder = std::process::id();
    let expected =
        format!("the data directory DIR is in use by process {holder}: stop that one, or use another directory");
    assert_eq!(refused(dir.path(), "node-1"), expected);
}

#[test]
fn a_directory_belongs_to_one_name_even_before_it_has_an_identity() {
    let dir = tempfile::tempdir().unwrap();
    drop(DataDir::open(dir.path(), "node-2").unwrap());
    let expected = "the data directory DIR belongs to node-2: start it as node-2, or use another directory for node-1";
    assert_eq!(refused(dir.path(), "node-1"), expected);
    let mut opened = DataDir::open(dir.path(), "node-2").unwrap();
    assert_eq!(opened.generation(), 2, "a refused start is none");
    assert!(matches!(opened.establish(identity("node-1")), Err(DataDirError::OtherNode { .. })));
}

#[test]
fn a_directory_never_becomes_another_member() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = DataDir::open(dir.path(), "node-1").unwrap();
    opened.establish(identity("node-1")).unwrap();
    let other = Identity { cluster: ClusterId(8), ..identity("node-1") };
    let told = opened.establish(other).unwrap_err().to_string();
    assert!(told.contains("belongs to member n3 of cluster 00000000000000000000000000000007"), "{told}");
    drop(opened);
    assert_eq!(DataDir::open(dir.path(), "node-1").unwrap().identity(), Some(&identity("node-1")));
}

#[test]
fn a_damaged_file_is_named_and_refused_whichever_byte_it_is() {
    let dir = tempfile::tempdir().unwrap();
    DataDir::open(dir.path(), "node-1").unwrap().establish(identity("node-1")).unwrap();
    for file in ["instance", "identity"] {
        let path = dir.path().join(file);
        let sound = fs::read(&path).unwrap();
        for place in 0..sound.len() {
            let mut damaged = sound.clone();
            damaged[place] ^= 0x04;
            fs::write(&path, &damaged).unwrap();
            let told = refused(dir.path(), "node-1");
            // One byte of the first line is the format, and another digit there is another format.
            let expected = [format!("DIR/{file} is damaged ("), format!("DIR/{file} has format 5,")];
            assert!(expected.iter().any(|expected| told.starts_with(expected)), "byte {place}: {told}");
        }
        fs::write(&path, &sound[..sound.len() / 2]).unwrap();
        assert!(refused(dir.path(), "node-1").starts_with(&format!("DIR/{file} is damaged (")));
        fs::write(&path, &sound).unwrap();
    }
    fs::remove_file(dir.path().join("instance")).unwrap();
    assert!(refused(dir.path(), "node-1").starts_with("DIR/instance is damaged (it is missing"));
}

#[test]
fn a_directory_of_a_newer_build_is_refused_by_its_format() {
    let dir = tempfile::tempdir().unwrap();
    drop(DataDir::open(dir.path(), "node-1").unwrap());
    let path = dir.path().join("instance");
    let newer = fs::read_to_string(&path).unwrap().replacen("format 1 ", "format 2 ", 1);
    fs::write(&path, newer).unwrap();
    let expected = "DIR/instance has format 2, and this build of cubed reads up to format 1";
    assert!(refused(dir.path(), "node-1").starts_with(expected));
}

#[test]
fn a_directory_written_by_the_first_format_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let instance = "cube-kv instance format 1 crc32 572f6bfb\n{\n  \"instance\": \"00000000000000000000000000000abc\",\n  \
                    \"name\": \"node-1\",\n  \"generation\": 41\n}\n";
    fs::write(dir.path().join("instance"), instance).unwrap();
    let opened = DataDir::open(dir.path(), "node-1").unwrap();
    assert_eq!((opened.instance(), opened.generation()), (InstanceId(0xabc), 42));
}

#[test]
fn a_directory_with_something_else_in_it_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("holiday.jpg"), "").unwrap();
    let told = refused(dir.path(), "node-1");
    assert!(told.starts_with("the data directory DIR is not empty (holiday.jpg) and no node ever used it"), "{told}");
    assert!(!dir.path().join("instance").exists());
}

#[test]
fn a_start_that_crashed_at_any_point_leaves_a_directory_that_starts() {
    for seed in 0..8 {
        for changes in 0..16 {
            let dir = tempfile::tempdir().unwrap();
            let files = Arc::new(SimulatedFiles::new());
            let open = || {
                let lock = DirLock::take(dir.path()).unwrap();
                DataDir::open_files(dir.path(), Arc::clone(&files) as Arc<dyn Files>, lock, "node-1")
            };
            let first = open().unwrap();
            let known = (first.instance(), first.generation());
            drop(first);
            files.fail_after(changes);
            let second = open().and_then(|mut opened| {
                opened.establish(identity("node-1"))?;
                Ok(opened)
            });
            let is_established = second.is_ok();
            drop(second);
            files.crash(seed);
            let third = open().unwrap();
            assert_eq!(third.instance(), known.0);
            assert!(third.generation() > known.1, "{} after {}", third.generation(), known.1);
            if is_established {
                assert_eq!(third.identity(), Some(&identity("node-1")));
                assert_eq!(third.generation(), 3);
            }
        }
    }
}

#[test]
fn identifiers_are_drawn_and_never_the_same() {
    assert_ne!(ClusterId::draw().unwrap(), ClusterId::draw().unwrap());
    assert_ne!(draw_merkle_key().unwrap().0, draw_merkle_key().unwrap().0);
    let id = InstanceId::draw().unwrap();
    assert_eq!(id.to_string().parse::<InstanceId>().unwrap(), id);
}

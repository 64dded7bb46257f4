//! `cube export`: any bytes go round through a file, an export that was killed goes on where it was, and a full file is
//! not written over.

use std::collections::BTreeMap;
use std::process::Stdio;

use bytes::Bytes;
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::time::{Instant, timeout};

use crate::fake::FakeCluster;
use crate::{PATIENCE, cube, ran};

/// Keys, sort keys and values that a file could get wrong.
fn rows() -> BTreeMap<(String, Bytes, Bytes), Bytes> {
    let row = |key: &[u8], sort: &[u8], value: &[u8]| {
        let bytes = Bytes::copy_from_slice;
        (("default.kv".to_owned(), bytes(key), bytes(sort)), bytes(value))
    };
    let mut rows = BTreeMap::from([
        row(b"two words", b"", b"with spaces "),
        row(b"\"quotes\"", b"'and', commas", b"\"\",,''\"\\"),
        row(b"line\nend\r\n", b"\r", b"\n\r\n\r"),
        row("😀".as_bytes(), "👩‍👩‍👧".as_bytes(), "é\u{301}".as_bytes()),
        row(b"nul\0byte", b"\0", b"\0"),
        row(b"no text", b"\xff", b"\x80\x81"),
        row(b"\xff\xfe", b"", b"text"),
        row(b"k", b"", b"how others begin"),
        row(b"k", b"sorted", b"the same key"),
        row(b"large", b"", "0123456789abcdé\n".repeat(64 << 10).as_bytes()),
        row(b"empty", b"", b""),
    ]);
    rows.extend((0..3_000).map(|number| row(format!("k{number}").as_bytes(), b"", b"one of many")));
    rows
}

#[tokio::test]
async fn what_is_exported_and_imported_elsewhere_is_the_same() {
    let (from, dir) = (FakeCluster::start(2).await, tempfile::tempdir().unwrap());
    from.fill(rows());
    for name in ["rows.jsonl", "rows.csv"] {
        let to = FakeCluster::start(1).await;
        let path = dir.path().join(name);
        let path = path.to_str().unwrap();
        let ran = cube(from.port(1), &["--json", "export", path, "--parallel", "3"]).await;
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
        assert!(ran.out.contains(&format!("\"rows\":{}", rows().len())), "{}", ran.out);
        assert!(!dir.path().join(format!("{name}.export-state")).exists());
        let ran = cube(to.port(1), &["import", path]).await;
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(to.rows() == rows(), "{name}: the rows are not those that were exported");
        let ran = cube(from.port(1), &["export", path]).await;
        assert_eq!(ran.code, 1);
        assert!(ran.err.contains("--overwrite replaces it"), "{}", ran.err);
        assert_eq!(cube(from.port(1), &["export", path, "--overwrite", "--parallel", "1"]).await.code, 0);
    }
}

#[tokio::test]
async fn rows_go_to_standard_output_and_nothing_else_does() {
    let cluster = FakeCluster::start(1).await;
    cluster.fill(rows());
    let ran = cube(cluster.port(1), &["export", "-"]).await;
    assert_eq!(ran.code, 0);
    assert!(ran.err.contains("note: 3011 rows exported"), "{}", ran.err);
    assert_eq!(ran.out.lines().count(), rows().len());
    for line in ran.out.lines() {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(row["key"].is_string() && row["value"].is_string(), "{line}");
    }
    let ran = cube(cluster.port(1), &["export", "-", "--format", "csv", "--table", "default.none"]).await;
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    assert!(ran.err.contains("there is no table \"default.none\""), "{}", ran.err);
}

#[tokio::test]
async fn an_export_ends_quietly_when_nobody_reads_it_any_more() {
    let cluster = FakeCluster::start(1).await;
    cluster.fill(rows());
    let mut command = Command::new(env!("CARGO_BIN_EXE_cube"));
    command.args(["--port", &cluster.port(1).to_string(), "export", "-"]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // As `head -c 10` does.
    let mut out = child.stdout.take().unwrap();
    out.read_exact(&mut [0; 10]).await.unwrap();
    drop(out);
    let ran = ran(timeout(PATIENCE, child.wait_with_output()).await.expect("it hangs").unwrap());
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
}

#[tokio::test]
async fn an_export_that_was_killed_goes_on_where_it_was_and_leaves_no_row_out_or_twice() {
    let (cluster, dir) = (FakeCluster::start(1).await, tempfile::tempdir().unwrap());
    cluster.fill(rows());
    for name in ["rows.jsonl", "rows.csv"] {
        let path = dir.path().join(name);
        let state = dir.path().join(format!("{name}.export-state"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_cube"));
        command.args(["--port", &cluster.port(1).to_string(), "export", path.to_str().unwrap(), "--rate", "400"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let deadline = Instant::now() + PATIENCE;
        while !state.exists() {
            assert!(Instant::now() < deadline && child.try_wait().unwrap().is_none(), "it ended, or keeps no state");
            tokio::task::yield_now().await;
        }
        child.kill().await.unwrap();
        cluster.late(1, 0);
        let other = cube(cluster.port(1), &["export", path.to_str().unwrap(), "--table", "default.new"]).await;
        assert!(other.err.contains("was one of default.kv as"), "{}", other.err);
        let ran = cube(cluster.port(1), &["export", path.to_str().unwrap()]).await;
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(ran.err.contains("going on behind"), "{}", ran.err);
        assert!(!state.exists());
        // Exactly as many rows, and all of them: none is there twice.
        let to = FakeCluster::start(1).await;
        let ran = cube(to.port(1), &["--json", "import", path.to_str().unwrap()]).await;
        assert!(ran.out.contains(&format!("\"rows\":{}", rows().len())), "{name}: {ran:?}");
        assert!(to.rows() == rows(), "{name}: the rows are not those that were exported");
    }
}

#[tokio::test]
async fn an_import_takes_the_times_of_versions_if_it_is_told_to() {
    let (cluster, dir) = (FakeCluster::start(1).await, tempfile::tempdir().unwrap());
    let path = dir.path().join("rows.jsonl");
    std::fs::write(&path, "{\"key\":\"a\",\"value\":\"b\",\"version\":\"1795273483794.0@n1\"}\n").unwrap();
    let path = path.to_str().unwrap();
    assert_eq!(cube(cluster.port(1), &["import", path]).await.code, 0);
    assert_ne!(cluster.stamped(), Some(1_795_273_483_794));
    assert_eq!(cube(cluster.port(1), &["import", path, "--keep-timestamps"]).await.code, 0);
    assert_eq!(cluster.stamped(), Some(1_795_273_483_794));
}

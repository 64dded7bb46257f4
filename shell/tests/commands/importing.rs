//! `cube import`: any bytes arrive, an import that broke off goes on where it was.

use std::fmt::Write;

use crate::cube;
use crate::fake::FakeCluster;

#[tokio::test]
async fn rows_of_json_lines_and_csv_arrive_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let large = "x".repeat(1 << 20);
    let json = format!(
        "{{\"key\":\"two words\",\"value\":\"line\\nend \\u0000 😀 \\\"\"}}\n\
         {{\"key\":\"/wA=\",\"sort\":\"AA==\",\"value\":\"gIE=\",\"encoding\":\"base64\"}}\n\
         {{\"key\":\"large\",\"value\":\"{large}\"}}\n"
    );
    let csv = format!(
        "key,sort,value,encoding\ntwo words,,\"line\nend \0 😀 \"\"\",\n/wA=,AA==,gIE=,base64\nlarge,,{large},utf8\n"
    );
    for (name, text) in [("rows.jsonl", &json), ("rows.csv", &csv)] {
        let cluster = FakeCluster::start(2).await;
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        let ran = cube(cluster.port(1), &["--json", "import", path.to_str().unwrap()]).await;
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
        assert!(ran.out.contains("\"rows\":3"), "{}", ran.out);
        let rows = cluster.rows();
        let of = |key: &[u8], sort: &[u8]| {
            rows[&("default.kv".to_owned(), key.to_vec().into(), sort.to_vec().into())].clone()
        };
        assert_eq!(of(b"two words", b""), "line\nend \0 😀 \"");
        assert_eq!(of(&[0xff, 0], &[0]), [0x80, 0x81][..]);
        assert_eq!(of(b"large", b"").len(), 1 << 20);
        assert!(!dir.path().join(format!("{name}.import-state")).exists());
    }
}

#[tokio::test]
async fn an_import_that_broke_off_goes_on_behind_what_is_written() {
    let cluster = FakeCluster::start(1).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rows.csv");
    let mut text = "key,value\n".to_owned();
    for row in 0..500 {
        writeln!(text, "k{row:03},v{row}").unwrap();
    }
    std::fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap();
    cluster.fail_after(Some(200));
    let ran = cube(cluster.port(1), &["import", path, "--parallel", "8"]).await;
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("the same command goes on behind them"), "{}", ran.err);
    cluster.late(1, 0);
    let other = cube(cluster.port(1), &["import", path, "--table", "default.new"]).await;
    assert!(other.err.contains("went to default.kv"), "{}", other.err);
    cluster.fail_after(None);
    let ran = cube(cluster.port(1), &["import", path, "--parallel", "8"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.err.contains("going on behind line"), "{}", ran.err);
    let rows = cluster.rows();
    assert_eq!(rows.len(), 500);
    assert!(rows.iter().all(|((_, key, _), value)| key[1..].iter().all(u8::is_ascii_digit) && value[0] == b'v'));
    // What was under way when it broke off may be written twice, the rest is not.
    assert!(cluster.writes() < 500 + 100, "{} writes", cluster.writes());
}

#[tokio::test]
async fn a_row_that_cannot_be_is_told_with_its_line() {
    let cluster = FakeCluster::start(1).await;
    let dir = tempfile::tempdir().unwrap();
    for (name, text, told) in [
        ("a.jsonl", "{\"key\":\"a\",\"value\":\"b\"}\n{\"key\":\"\",\"value\":\"b\"}\n", "line 2: key is empty"),
        ("b.csv", "kye,value\na,b\n", "there is no column \"kye\""),
        ("c.txt", "", "say --format jsonl or --format csv"),
    ] {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        let ran = cube(cluster.port(1), &["import", path.to_str().unwrap()]).await;
        assert_eq!(ran.code, 1, "{name}: {ran:?}");
        assert!(ran.err.contains(told), "{name}: {}", ran.err);
    }
}

#[tokio::test]
async fn rows_wait_until_every_node_has_heard_of_their_table() {
    let cluster = FakeCluster::start(2).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rows.jsonl");
    std::fs::write(&path, "{\"key\":\"a\",\"value\":\"b\"}\n").unwrap();
    let path = path.to_str().unwrap();
    cluster.late(2, 5);
    for (task, path) in [("import", path), ("export", &format!("{path}.out.jsonl"))] {
        let ran = cube(cluster.port(1), &[task, path, "--table", "default.new"]).await;
        assert_eq!(ran.code, 0, "{ran:?}");
        let ran = cube(cluster.port(1), &[task, path, "--table", "default.nwe"]).await;
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(ran.err.contains("there is no table \"default.nwe\"; did you mean default.new?"), "{}", ran.err);
    }
}

#[tokio::test]
async fn a_rate_is_kept() {
    let cluster = FakeCluster::start(1).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rows.jsonl");
    std::fs::write(&path, "{\"key\":\"a\",\"value\":\"b\"}\n".repeat(21)).unwrap();
    let ran = cube(cluster.port(1), &["--json", "import", path.to_str().unwrap(), "--rate", "50"]).await;
    let document: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert!(document["millis"].as_u64().unwrap() >= 400, "{}", ran.out);
}

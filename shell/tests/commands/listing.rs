//! SCAN: the rows of a key and the rows whose keys begin alike, whole and page by page.

use super::fake::FakeCluster;
use super::{cube, with_input};

#[tokio::test]
async fn rows_of_a_key_are_listed_in_order_and_in_part() {
    let cluster = FakeCluster::start(1).await;
    let puts: String = (0..25).map(|number| format!("PUT node:a v{number} SORT=s{number:02}\n")).collect();
    assert_eq!(with_input(cluster.port(1), &[], &puts).await.code, 0);
    let sorts = async |statement: &str| {
        let ran = cube(cluster.port(1), &["--csv", "-e", statement]).await;
        assert_eq!(ran.code, 0, "{ran:?}");
        ran.out.lines().skip(1).map(|line| line.split(',').nth(1).unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(sorts("SCAN KEY=node:a").await.len(), 25);
    assert_eq!(sorts("SCAN KEY=node:a AFTER=s02 BEFORE=s05").await, ["s03", "s04"]);
    assert_eq!(sorts("SCAN KEY=node:a BACKWARD LIMIT 2").await, ["s24", "s23"]);
    let ran = cube(cluster.port(1), &["-e", "SCAN KEY=node:a LIMIT 3"]).await;
    assert!(ran.out.contains("3 rows; there are more: AFTER=s02 lists them"), "{}", ran.out);
}

#[tokio::test]
async fn rows_whose_keys_begin_alike_are_listed_page_by_page() {
    let cluster = FakeCluster::start(1).await;
    let puts: String = (0..25).map(|number| format!("PUT user:{number:02} v{number}\n")).collect();
    assert_eq!(with_input(cluster.port(1), &[], &format!("PUT team:a b\n{puts}")).await.code, 0);
    let told = async |statement: &str| {
        let ran = cube(cluster.port(1), &["--json", "-e", statement]).await;
        assert_eq!(ran.code, 0, "{ran:?}");
        serde_json::from_str::<serde_json::Value>(&ran.out).unwrap()
    };
    let keys = |told: &serde_json::Value| {
        told["rows"].as_array().unwrap().iter().map(|row| row["key"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(told("SCAN").await["count"], 26);
    assert_eq!(keys(&told("SCAN user:1").await).len(), 10);
    assert_eq!(keys(&told("SCAN user: BACKWARD LIMIT 2").await), ["user:24", "user:23"]);
    let mut all = Vec::new();
    let mut statement = "SCAN user: LIMIT=10".to_owned();
    loop {
        let page = told(&statement).await;
        all.extend(keys(&page));
        if page["more"] == false {
            break;
        }
        statement = format!("SCAN user: LIMIT=10 PAGE={}", page["next"].as_str().unwrap());
    }
    assert_eq!(all, (0..25).map(|number| format!("user:{number:02}")).collect::<Vec<_>>());
    let ran = cube(cluster.port(1), &["-e", "SCAN user: LIMIT=25; SCAN user: LIMIT=24"]).await;
    assert!(ran.out.contains("\n25 rows\n") && ran.out.contains("24 rows; there are more: PAGE="), "{}", ran.out);
}

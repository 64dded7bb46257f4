//! HINTS and STATS: what all nodes keep and counted, added up and told of each.

use super::cube;
use super::fake::FakeCluster;

#[tokio::test]
async fn hints_say_how_their_delivery_stands_and_what_is_in_its_way() {
    let cluster = FakeCluster::start(2).await;
    cluster.hints("node-3", 15);
    let told = cube(cluster.port(1), &["-e", "HINTS"]).await.out;
    assert!(told.contains("Pending Hints: 30") && told.contains("From node-2 to node-3: it does not answer"), "{told}");
    let json: serde_json::Value =
        serde_json::from_str(&cube(cluster.port(1), &["--json", "-e", "HINTS"]).await.out).unwrap();
    let row = &json["rows"][1];
    assert_eq!(
        (&row["keptBy"], &row["hints"], &row["delivery"]),
        (&"node-2".into(), &15.into(), &"BACKING_OFF".into())
    );
}

#[tokio::test]
async fn stats_add_up_what_reads_came_upon_on_all_nodes() {
    let cluster = FakeCluster::start(3).await;
    let told = cube(cluster.port(1), &["-e", "STATS"]).await.out;
    let line = "Reads of default.kv: 12 stale answers, 9 rows repaired, 0 repairs failed, 27 hedges of which 9 helped";
    assert!(told.lines().any(|told| told == line), "{told}");
    let told = cube(cluster.port(1), &["--json", "-e", "STATS"]).await.out;
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!((&told["staleReads"]["default.kv"], &told["rowsRepaired"]["default.kv"]), (&12.into(), &9.into()));
}

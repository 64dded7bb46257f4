//! Keyspaces and tables, by whichever node they are asked for.

use serde_json::json;

use crate::harness::Cluster;

#[test]
fn a_table_is_there_for_the_next_request_to_the_node_that_created_it() {
    let cluster = Cluster::of(3).with_long_deadlines().start();
    cluster.wait_settled(&[1, 2, 3], 3);
    for round in 0..5 {
        for by in cluster.all() {
            let keyspace = format!("space-{by}-{round}");
            let mut api = cluster.api(by).in_keyspace(Some(&keyspace));
            let replication = json!({"replication": {"strategy": "simple", "factor": 2}});
            let created = api.create_keyspace(&keyspace, &replication).unwrap();
            assert!(created.is_success(), "{created}");
            let created = api.create_table(&keyspace, "kv").unwrap();
            assert!(created.is_success(), "{created}");
            let put = api.put("row", "value", "ALL").unwrap();
            assert!(put.is_success(), "through node-{by}: {put}");
        }
    }
}

#[test]
fn what_exists_otherwise_is_told_in_the_words_it_was_asked_for_in() {
    let cluster = Cluster::of(1).start();
    let mut api = cluster.api(1);
    let space = |factor: u8| json!({"replication": {"strategy": "simple", "factor": factor}});
    assert!(api.create_keyspace("fleet", &space(1)).unwrap().is_success());
    assert!(api.create_keyspace("fleet", &space(1)).unwrap().is_success(), "the same again is no error");
    let refused = api.create_keyspace("fleet", &space(2)).unwrap();
    let error = &refused.json()["error"];
    assert_eq!((refused.status, &error["code"]), (409, &json!("already_exists")), "{refused}");
    let message = r#"keyspace "fleet" exists with other options (replication is {"factor":1,"strategy":"simple"}, not {"factor":2,"strategy":"simple"}): change it, or drop it first"#;
    assert_eq!(error["message"], message);
    let table = |grace: &str| json!({"grace": grace});
    assert!(api.create_table_with("fleet", "boxes", &table("2h")).unwrap().is_success());
    let refused = api.create_table_with("fleet", "boxes", &table("1h")).unwrap();
    let message = r#"table "boxes" in keyspace "fleet" exists with other options (grace is "2h", not "1h"): change it, or drop it first"#;
    assert_eq!((refused.status, &refused.json()["error"]["message"]), (409, &json!(message)), "{refused}");
}

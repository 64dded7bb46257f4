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

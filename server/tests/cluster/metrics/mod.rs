//! What nodes tell Prometheus, and that the dashboard and the alerts in `ops/` ask for nothing else.

mod ops;
mod parser;

use std::collections::BTreeSet;

use self::parser::{Families, Labels, parse};
use crate::harness::Cluster;
use crate::harness::time::{PATIENCE, eventually};
use crate::hints::{kill_the_third, put};

const PAGE: &str = include_str!("../../../../docs/metrics.md");

/// The page of a node, read strictly.
fn metrics(cluster: &Cluster, node: u8) -> Families {
    let answer = cluster.api(node).metrics().unwrap();
    assert_eq!(answer.status, 200, "{answer}");
    parse(&answer.text)
}

/// The sum of a family's samples that have these labels.
fn sum(families: &Families, family: &str, labels: &[(&str, &str)]) -> f64 {
    let family = families.get(family).unwrap_or_else(|| panic!("{family} is told"));
    let has = |given: &Labels| labels.iter().all(|(name, value)| given.get(*name).is_some_and(|given| given == value));
    let counted =
        family.samples.iter().filter(|sample| !sample.name.ends_with("_bucket") && !sample.name.ends_with("_sum"));
    counted.filter(|sample| has(&sample.labels)).map(|sample| sample.value).sum()
}

/// A cluster in which a bit of everything has happened, and its third node is dead.
fn busy() -> Cluster {
    let cluster = Cluster::of(3).with_long_deadlines();
    let mut cluster = cluster.start();
    cluster.wait_settled(&[1, 2, 3], 3);
    for key in ["a", "b", "c"] {
        put(&cluster, 1, key, "v", "QUORUM");
        cluster.api(1).get(key, "ONE").unwrap();
    }
    cluster.api(1).ask("GET", "scan?prefix=a", None);
    kill_the_third(&mut cluster);
    put(&cluster, 1, "missed", "v", "QUORUM");
    let refused = cluster.api(1).put("no", "v", "ALL").unwrap();
    assert_eq!(refused.status, 503);
    cluster
}

#[test]
fn a_node_tells_what_happened_in_a_form_that_a_strict_reader_takes() {
    let cluster = busy();
    let families = metrics(&cluster, 1);
    let requests = |operation, level| {
        sum(&families, "cube_request_duration_seconds", &[("operation", operation), ("level", level)])
    };
    assert_eq!((requests("write", "QUORUM"), requests("read", "ONE")), (4.0, 3.0));
    assert!(requests("write", "ALL") >= 1.0, "one here, and those of the harness before");
    assert_eq!(requests("scan", "QUORUM"), 1.0);
    assert_eq!(sum(&families, "cube_request_errors", &[("operation", "write"), ("code", "unavailable")]), 1.0);
    assert_eq!(sum(&families, "cube_hints_pending", &[("target", "node-3")]), 1.0);
    assert_eq!(sum(&families, "cube_hints_stored", &[]), 1.0);
    let replay = |state| sum(&families, "cube_hints_replay_state", &[("target", "node-3"), ("state", state)]);
    assert_eq!((replay("TARGET_DOWN"), replay("IDLE")), (1.0, 0.0));
    assert_eq!(sum(&families, "cube_hints_pending_records", &[("target", "node-3")]), 1.0);
    assert_eq!(sum(&families, "cube_member_alive", &[("member", "node-2")]), 1.0);
    assert_eq!(sum(&families, "cube_member_alive", &[("member", "node-3")]), 0.0);
    assert_eq!(sum(&families, "cube_node_serving", &[]), 1.0);
    assert_eq!(sum(&families, "cube_raft_has_quorum", &[]), 1.0);
    assert_eq!(sum(&families, "cube_partitions", &[("state", "synced")]), 256.0);
    assert_eq!(sum(&families, "cube_peer_connected", &[("peer", "node-2"), ("lane", "foreground")]), 1.0);
    assert!(sum(&families, "cube_connections", &[("port", "http")]) >= 1.0);
    assert!(sum(&families, "cube_store_rows_changed", &[]) >= 4.0);
    assert!(sum(&families, "cube_rocksdb_memtables_bytes", &[("space", "data")]) > 0.0);
    assert!(sum(&families, "cube_worker_steps", &[("worker", "hints")]) > 0.0);
    assert!(sum(&families, "process_cpu_seconds", &[]) > 0.0);
    assert!(sum(&families, "process_resident_memory_bytes", &[]) > 1e6);
    assert!(sum(&families, "cube_http_responses", &[("status", "503")]) >= 1.0);
    let leaders: f64 = [1, 2].map(|node| sum(&metrics(&cluster, node), "cube_raft_leads", &[])).iter().sum();
    assert!(leaders <= 1.0);
}

#[test]
fn counters_never_fall_and_what_a_node_reads_is_looked_up_in_the_block_cache() {
    let cluster = Cluster::of(1).start();
    put(&cluster, 1, "a", "v", "ONE");
    let before = metrics(&cluster, 1);
    for n in 0..20 {
        put(&cluster, 1, &format!("k{n}"), "v", "ONE");
    }
    let after = metrics(&cluster, 1);
    for (name, family) in before.iter().filter(|(_, family)| family.kind == "counter") {
        for sample in &family.samples {
            let now =
                after[name].samples.iter().find(|other| (&other.name, &other.labels) == (&sample.name, &sample.labels));
            assert!(now.is_some_and(|now| now.value >= sample.value), "{sample:?} became {now:?}");
        }
    }
    let writes = |families| sum(families, "cube_request_duration_seconds", &[("operation", "write")]);
    assert_eq!(writes(&after) - writes(&before), 20.0);
    // The cache counts from the first file on: what is written goes to memory first.
    assert_eq!(after["cube_rocksdb_block_cache_lookups"].samples.len(), 2);
    assert!(sum(&after, "cube_rocksdb_block_cache_limit_bytes", &[]) >= f64::from(16 << 20));
}

#[test]
fn a_node_that_waits_for_its_cluster_tells_that_it_lives_and_does_not_serve() {
    let mut cluster = Cluster::of(3);
    cluster.node(1).start();
    eventually("the page of a node alone", PATIENCE, || {
        let answer = cluster.api(1).metrics().map_err(|error| error.to_string())?;
        let families = parse(&answer.text);
        assert_eq!(sum(&families, "cube_node_serving", &[]), 0.0);
        assert!(sum(&families, "process_resident_memory_bytes", &[]) > 1e6);
        Ok(())
    });
}

#[test]
fn what_was_never_compared_has_no_age_and_not_that_of_time() {
    let cluster = Cluster::of(3).start();
    eventually("everything is compared", 2 * PATIENCE, || {
        let families = metrics(&cluster, 1);
        let family = families.get("cube_sync_age_seconds").ok_or("it is no member yet")?;
        let ages: Vec<f64> = family.samples.iter().map(|sample| sample.value).collect();
        assert!(ages.iter().all(|age| *age < 86_400.0), "{ages:?}");
        let new = sum(&families, "cube_sync_uncompared_partitions", &[]);
        if new == 0.0 && !ages.is_empty() { Ok(()) } else { Err(format!("{new} partitions are new, {ages:?}")) }
    });
}

#[test]
fn the_documentation_lists_every_family_with_its_kind_and_no_other() {
    let cluster = Cluster::of(1).start();
    let families = metrics(&cluster, 1);
    let told: BTreeSet<(String, String)> =
        families.iter().map(|(name, family)| (exposed(name, &family.kind), family.kind.clone())).collect();
    let row = |line: &str| {
        let mut cells = line.strip_prefix("| `")?.split('|').map(str::trim);
        let name = cells.next()?.split(['`', '{']).next()?.to_owned();
        Some((name, cells.next()?.to_owned()))
    };
    let documented: BTreeSet<(String, String)> = PAGE.lines().filter_map(row).collect();
    let missing: Vec<_> = told.difference(&documented).collect();
    let stale: Vec<_> = documented.difference(&told).collect();
    assert!(missing.is_empty() && stale.is_empty(), "not in docs/metrics.md: {missing:?}; only there: {stale:?}");
}

/// The name that queries use.
fn exposed(family: &str, kind: &str) -> String {
    match kind {
        "counter" => format!("{family}_total"),
        "info" => format!("{family}_info"),
        _ => family.to_owned(),
    }
}

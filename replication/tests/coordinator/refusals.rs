//! Bad input and overload: refused with an error that says why, before anything is done.

use cube_replication::catalog::UnknownName;
use cube_replication::consistency::Level;
use cube_replication::coordinator::{
    Change, RangeRequest, ReadRequest, RequestError, Settings, TableName, Terms, WriteRequest,
};
use cube_replication::messages::Condition;
use cube_storage::model::{Invalid, RowKey};

use super::cluster::{Cluster, get, put, settings, value, write};

fn cluster() -> Cluster {
    Cluster::of("a0 a1 a2")
}

/// A write is refused with this, and nobody was asked anything.
fn refused(request: WriteRequest) -> RequestError {
    let cluster = cluster();
    let error = cluster.write(0, request).unwrap_err();
    for node in cluster.nodes.values() {
        assert_eq!(node.gate.heard.lock().len(), 0, "{error}: {} was asked", node.id);
        assert_eq!(node.store.queue_depth(), (0, 0));
        assert_eq!(node.store.counters().rows(), 0, "{error}: {} has written", node.id);
        assert_eq!(node.hints.targets(), [], "{error}");
    }
    assert_eq!(cluster.node(0).coordinator.in_flight(), 0, "{error}");
    error
}

#[test]
fn a_keyspace_or_table_that_does_not_exist_is_named() {
    let name = |keyspace: &str, table: &str| TableName { keyspace: keyspace.into(), table: table.into() };
    let no_keyspace = name("defualt", "kv");
    let expected = RequestError::UnknownName(UnknownName::Keyspace { keyspace: "defualt".into() });
    assert_eq!(refused(WriteRequest { table: no_keyspace.clone(), ..put("k", "v", Level::One) }), expected);
    let cluster = cluster();
    assert_eq!(cluster.read(0, ReadRequest { table: no_keyspace, ..get(&["k"], Level::One) }), Err(expected));
    let no_table = WriteRequest { table: name("default", "vk"), ..put("k", "v", Level::One) };
    assert_eq!(refused(no_table).to_string(), "there is no table \"vk\" in keyspace \"default\"");
}

#[test]
fn a_word_that_is_no_level_is_answered_with_those_that_are() {
    let error = "QUORUMM".parse::<Level>().unwrap_err();
    assert_eq!(error.nearest(), Some(Level::Quorum));
    assert!(error.to_string().contains("did you mean QUORUM?"), "{error}");
}

#[test]
fn an_empty_key_and_one_that_is_too_long_are_refused() {
    assert_eq!(refused(put("", "v", Level::Quorum)), RequestError::Invalid(Invalid::EmptyKey));
    let long = "k".repeat(4_097);
    let too_long = RequestError::Invalid(Invalid::KeyTooLong { bytes: 4_097, limit: 4_096 });
    assert_eq!(refused(put(&long, "v", Level::Quorum)), too_long);
    let cluster = cluster();
    assert_eq!(cluster.read(0, get(&["k", ""], Level::One)), Err(RequestError::Invalid(Invalid::EmptyKey)));
    assert_eq!(cluster.read(0, get(&[&long], Level::One)), Err(too_long));
}

#[test]
fn a_value_or_batch_over_the_limit_is_refused_as_a_whole() {
    let big = |bytes: usize| Change::Put { value: vec![b'x'; bytes].into(), ttl_ms: None };
    let (small, over) = ((RowKey::of("small"), value("v")), (RowKey::of("big"), big((4 << 20) + 1)));
    let error = refused(write(vec![small, over], Level::Quorum));
    assert!(matches!(error, RequestError::Invalid(Invalid::ValueTooLong { .. })), "{error}");
    let rows = (0..5).map(|number| (RowKey::of(format!("{number}")), big(4 << 20))).collect();
    let error = refused(write(rows, Level::Quorum));
    assert!(matches!(error, RequestError::Invalid(Invalid::BatchTooLong { .. })), "{error}");
    let rows = (0..10_001).map(|number| (RowKey::of(format!("{number}")), value("v"))).collect();
    let many = RequestError::Invalid(Invalid::BatchTooManyRows { rows: 10_001, limit: 10_000 });
    assert_eq!(refused(write(rows, Level::Quorum)), many);
    let keys = (0..10_001).map(|number| RowKey::of(format!("{number}"))).collect();
    assert_eq!(cluster().read(0, ReadRequest { keys, ..get(&[], Level::One) }), Err(many));
    let keys = (0..5_000).map(|number| RowKey::of(format!("{number:04000}"))).collect();
    let long = RequestError::Invalid(Invalid::BatchTooLong { bytes: 20_000_000, limit: 16 << 20 });
    assert_eq!(cluster().read(0, ReadRequest { keys, ..get(&[], Level::One) }), Err(long));
}

#[test]
fn a_time_to_live_that_is_none_is_refused() {
    for ttl_ms in [0, -1, i64::MAX] {
        let rows = vec![(RowKey::of("k"), Change::Put { value: "v".into(), ttl_ms: Some(ttl_ms) })];
        let error = refused(write(rows, Level::Quorum));
        assert!(matches!(error, RequestError::Invalid(Invalid::Ttl { .. })), "{error}");
    }
}

#[test]
fn a_condition_is_refused_because_nothing_understands_one_yet() {
    for condition in [Condition::Absent, Condition::VersionIs(cube_storage::model::Version::ZERO)] {
        let error = refused(WriteRequest { condition: Some(condition), ..put("k", "v", Level::Quorum) });
        assert_eq!(error, RequestError::ConditionUnsupported);
    }
}

#[test]
fn any_is_no_level_to_read_at() {
    let error = cluster().read(0, get(&["k"], Level::Any)).unwrap_err();
    assert_eq!(error.to_string(), "ANY is a level for writes: a read needs at least ONE");
}

#[test]
fn a_request_for_nothing_succeeds_with_nothing() {
    assert_eq!(cluster().write(0, write(Vec::new(), Level::Quorum)), Ok(Vec::new()));
    assert_eq!(cluster().read(0, get(&[], Level::Quorum)), Ok(Vec::new()));
}

#[test]
fn a_cluster_without_replicas_has_no_place_for_a_row() {
    let cluster = Cluster::of("(a0) (a1)");
    for level in Level::EVERY {
        let error = cluster.put(0, "k", "v", level).unwrap_err();
        assert_eq!(error, RequestError::NoReplicas, "{level}");
    }
    assert_eq!(cluster.get(0, "k", Level::One).unwrap_err(), RequestError::NoReplicas);
}

#[test]
fn past_its_bound_a_coordinator_refuses_and_afterwards_accepts_again() {
    let settings = Settings { in_flight_max: 3, ..settings() };
    let cluster = Cluster::with("a0 a1 a2", settings);
    let under_way: Vec<_> = (0..3).map(|_| cluster.begin_write(0, put("k", "v", Level::Quorum))).collect();
    assert_eq!(cluster.node(0).coordinator.in_flight(), 3);
    let full = |retry_after_ms| RequestError::Overloaded { in_flight: 3, limit: 3, retry_after_ms };
    assert_eq!(cluster.begin_write(0, put("k", "v", Level::Quorum)).now(), Some(Err(full(50))));
    assert_eq!(cluster.begin_read(0, get(&["k"], Level::One)).now(), Some(Err(full(52))), "not both at once");
    assert!(cluster.begin_write(1, put("k", "v", Level::Quorum)).now().is_none(), "each coordinator for itself");
    cluster.settle();
    assert!(under_way.iter().all(|told| told.now().unwrap().is_ok()));
    assert_eq!(cluster.node(0).coordinator.in_flight(), 0);
    cluster.put(0, "k", "v", Level::Quorum).unwrap();
}

#[test]
fn a_replica_that_has_not_heard_of_a_new_table_is_asked_again_until_it_has_or_the_time_is_over() {
    let mut cluster = cluster();
    let table = cube_replication::catalog::Table {
        id: cube_storage::model::TableId(9),
        prefix_index: true,
        settings: Default::default(),
    };
    let keyspace = cluster.state.schema.keyspaces.get_mut("default").unwrap();
    keyspace.tables.insert("new".into(), table);
    let state = cluster.state.clone();
    cluster.node(0).learn(&state);
    let new = TableName { keyspace: "default".into(), table: "new".into() };
    let request = || WriteRequest { table: new.clone(), ..put("k", "v", Level::Quorum) };

    let told = cluster.begin_write(0, request());
    for _ in 0..500 {
        cluster.pass_ms(10);
    }
    let error = super::cluster::one(told.now().expect("its time is over")).unwrap_err();
    assert!(error.to_string().contains("n1: it does not know table t9"), "{error}");

    let told = cluster.begin_write(0, request());
    cluster.pass_ms(30);
    assert!(told.now().is_none(), "nobody else knows the table yet");
    cluster.node(1).learn(&state);
    cluster.pass_ms(60);
    super::cluster::one(told.now().expect("one more knows it")).unwrap();
    let terms = Terms::at(Level::Quorum);
    let read = ReadRequest { table: new.clone(), keys: vec![RowKey::of("k")], terms: terms.clone() };
    assert_eq!(super::cluster::one(cluster.read(0, read)).unwrap().value().unwrap(), "v");
}

#[test]
fn a_read_of_a_new_table_waits_for_replicas_that_have_not_heard_of_it() {
    let mut cluster = cluster();
    let id = cube_storage::model::TableId(9);
    let table = cube_replication::catalog::Table { id, prefix_index: true, settings: Default::default() };
    let keyspace = cluster.state.schema.keyspaces.get_mut("default").unwrap();
    keyspace.tables.insert("new".into(), table);
    let state = cluster.state.clone();
    cluster.node(0).learn(&state);
    let (new, terms) = (TableName { keyspace: "default".into(), table: "new".into() }, Terms::at(Level::Quorum));
    let read = ReadRequest { table: new.clone(), keys: vec![RowKey::of("k")], terms: terms.clone() };
    let range = RangeRequest {
        table: new,
        partition: "k".into(),
        from: std::ops::Bound::Unbounded,
        to: std::ops::Bound::Unbounded,
        backward: false,
        rows_max: 10,
        terms,
    };
    let (row, page) = (cluster.begin_read(0, read), cluster.begin_range(0, range));
    cluster.pass_ms(30);
    assert!(row.now().is_none() && page.now().is_none(), "a quorum does not know the table yet");
    cluster.node(1).learn(&state);
    cluster.pass_ms(100);
    assert_eq!(super::cluster::one(row.now().expect("now it does")).unwrap().record, None);
    assert_eq!(page.now().expect("now it does").unwrap().rows, []);
}

#[test]
fn a_request_of_a_later_release_is_refused_by_its_number_and_its_clock_is_taken_in() {
    use cube_replication::messages::{Features, PROTOCOL, Refusal, Request, RequestBody};
    let cluster = Cluster::of("a0 a1 a2");
    let (told, answer) = super::cluster::Told::new();
    let clock = cube_storage::model::Hlc::new(super::cluster::START_MS + 5_000, 0);
    let request = Request {
        protocol: PROTOCOL,
        features: Features(0),
        from: cube_storage::model::NodeId(0),
        clock,
        time_left_ms: 1_000,
        explain: false,
        trace: None,
        body: RequestBody::Unknown { kind: 41 },
    };
    cube_replication::transport::Serve::serve(cluster.node(1).gate.as_ref(), request, answer);
    let reply = told.now().unwrap();
    assert!(matches!(reply.body, Err(Refusal::Unsupported(what)) if what.contains("kind 41")));
    assert!(reply.clock >= clock);
}

//! What a request that asks for it is told of how it was done, and what is recorded of slow ones.

use cube_replication::catalog::Hedge;
use cube_replication::consistency::Level;
use cube_replication::coordinator::{
    Account, Asked, Explained as _, Kind, RangeRequest, ReadRequest, Reason, Role, Settings, Stale, Terms, Told, Why,
    WriteRequest,
};
use cube_replication::handoff::Kept;
use cube_storage::model::{Outcome, Record, RowKey};

use super::cluster::{Cluster, get, n, one, put, settings, table};

const KEY: &str = "k";

fn explained(level: Level) -> Terms {
    Terms { explain: true, ..Terms::at(level) }
}

fn read(level: Level) -> ReadRequest {
    ReadRequest { terms: explained(level), ..get(&[KEY], level) }
}

fn asked(account: &Account) -> Vec<(u16, Asked, Why)> {
    account.messages.iter().map(|message| (message.replica.0, message.asked, message.why)).collect()
}

#[test]
fn a_read_tells_who_was_stale_and_by_how_much_who_won_and_what_was_repaired() {
    let cluster = Cluster::of("a0 a1 b2");
    for (node, ms) in [(0, 20), (1, 20), (2, 5)] {
        cluster.plant(node, RowKey::of(KEY), Record::value(cluster.version(ms), ms.to_string()));
    }
    let row = one(cluster.read(0, read(Level::All))).unwrap();
    let account = row.account.expect("it was asked for");
    assert_eq!((account.kind, account.level, account.coordinator), (Kind::Read, Level::All, n(0)));
    assert_eq!(account.epoch, cluster.state.topology.epoch());
    let [verdict] = account.verdicts.as_slice() else { panic!("{account:?}") };
    assert_eq!((verdict.winner, verdict.reason), (Some(cluster.version(20)), Reason::Newest));
    let stale = Stale { replica: n(2), version: Some(cluster.version(5)), behind_ms: Some(15) };
    assert_eq!(verdict.stale, [stale]);
    let expected = [
        (0, Asked::Record, Why::Level),
        (1, Asked::Digest, Why::Level),
        (2, Asked::Digest, Why::Level),
        (2, Asked::Repair, Why::Level),
    ];
    assert_eq!(asked(&account), expected);
    let roles: Vec<Role> = account.messages.iter().map(|message| message.role).collect();
    assert_eq!(roles, [Role::Itself, Role::Near, Role::Far, Role::Far]);
    assert_eq!(account.messages[3].told, Some(Told::Outcomes(vec![Ok(Outcome::Applied)])));
    assert!(account.messages.iter().all(|message| message.answered_ms.is_some()));
}

#[test]
fn a_read_that_is_not_explained_carries_nothing() {
    let cluster = Cluster::of("a0 a1 a2");
    assert_eq!(cluster.get(0, KEY, Level::Quorum).unwrap().account, None);
    assert_eq!(cluster.put(0, KEY, "v", Level::Quorum).unwrap().account, None);
    assert!(cluster.node(0).coordinator.slow_requests().is_empty());
}

#[test]
fn hedges_and_chance_are_told_apart_from_what_the_level_needs() {
    let cluster = Cluster::of_table("a0 a1 a2 (a3)", 0, Hedge::After { ms: 10 });
    cluster.deafen(0);
    let told = cluster.begin_read(3, read(Level::Quorum));
    cluster.pass_ms(10);
    let account = one(told.now().unwrap()).unwrap().account.unwrap();
    assert_eq!(account.hedged, [n(2)]);
    assert_eq!(asked(&account)[2], (2, Asked::Record, Why::Hedge));
    assert_eq!((account.messages[2].sent_ms, account.took_ms), (10, 10));
    assert_eq!(account.messages[0].answered_ms, None, "it is silent still");

    let cluster = Cluster::of_table("a0 a1 a2", 100, Hedge::Off);
    let account = one(cluster.read(0, read(Level::Quorum))).unwrap().account.unwrap();
    assert_eq!(account.by_chance, [n(2)]);
    assert_eq!(account.verdicts[0].reason, Reason::NobodyHoldsIt);
}

#[test]
fn a_write_tells_what_each_replica_answered_and_which_hint_was_stored() {
    let cluster = Cluster::of("a0 a1 a2");
    cluster.kill(2);
    let request = WriteRequest { terms: explained(Level::Quorum), ..put(KEY, "v", Level::Quorum) };
    let account = one(cluster.write(1, request)).unwrap().account.expect("it was asked for");
    assert_eq!(account.kind, Kind::Write);
    assert_eq!(account.hints, [(n(2), Kept::Hint)]);
    let expected = [(0, Asked::Write, Why::Level), (1, Asked::Write, Why::Level)];
    assert_eq!(asked(&account), expected);
    assert_eq!(account.messages[1].told, Some(Told::Outcomes(vec![Ok(Outcome::Applied)])));
}

#[test]
fn a_page_tells_how_many_rows_each_replica_had() {
    let cluster = Cluster::of("a0 a1 a2");
    for node in [0, 1] {
        cluster.plant(node, RowKey::of(KEY), Record::value(cluster.version(1), "v"));
    }
    let request = RangeRequest {
        table: table(),
        partition: KEY.into(),
        from: std::ops::Bound::Unbounded,
        to: std::ops::Bound::Unbounded,
        backward: false,
        rows_max: 10,
        terms: explained(Level::All),
    };
    let account = cluster.range(0, request).unwrap().account.unwrap();
    assert_eq!(account.kind, Kind::Range);
    let told: Vec<_> = account.messages.iter().map(|message| message.told.clone().unwrap()).collect();
    let page = |rows| Told::Page { rows, more: false };
    assert_eq!(told, [page(1), page(1), page(0), Told::Outcomes(vec![Ok(Outcome::Applied)])]);
}

#[test]
fn a_page_of_a_range_tells_which_rows_replicas_differ_in() {
    let cluster = Cluster::of("a0 a1 a2");
    let row = |sort: &'static str| RowKey::with_sort(KEY, sort);
    for node in 0..3 {
        cluster.plant(node, row("equal"), Record::value(cluster.version(1), "v"));
    }
    cluster.plant(0, row("behind"), Record::value(cluster.version(20), "v2"));
    cluster.plant(1, row("behind"), Record::value(cluster.version(5), "v1"));
    let request = RangeRequest {
        table: table(),
        partition: KEY.into(),
        from: std::ops::Bound::Unbounded,
        to: std::ops::Bound::Unbounded,
        backward: false,
        rows_max: 10,
        terms: explained(Level::All),
    };
    let account = cluster.range(0, request).unwrap().account.unwrap();
    let [verdict] = account.verdicts.as_slice() else { panic!("{account:?}") };
    assert_eq!(
        (&verdict.key, verdict.winner, verdict.reason),
        (&row("behind"), Some(cluster.version(20)), Reason::Newest)
    );
    let older = Stale { replica: n(1), version: Some(cluster.version(5)), behind_ms: Some(15) };
    assert_eq!(verdict.stale, [older, Stale { replica: n(2), version: None, behind_ms: None }]);
}

#[test]
fn a_request_that_fell_short_tells_what_was_done_for_it_too() {
    let cluster = Cluster::of_table("a0 a1 a2", 0, Hedge::Off);
    cluster.deafen(2);
    let read = cluster.begin_read(0, read(Level::All));
    let request = WriteRequest { terms: explained(Level::All), ..put(KEY, "v", Level::All) };
    let written = cluster.begin_write(0, request);
    cluster.pass_ms(u64::from(super::cluster::TIMEOUT_MS) + 1);
    let errors = [one(read.now().unwrap()).unwrap_err(), one(written.now().unwrap()).unwrap_err()];
    for (error, kind) in errors.into_iter().zip([Kind::Read, Kind::Write]) {
        let account = error.account().expect("it was asked for");
        assert_eq!((account.kind, account.messages.len()), (kind, 3), "{account}");
        assert_eq!(account.error.as_deref(), Some(error.to_string().as_str()));
        let silent: Vec<u16> = account
            .messages
            .iter()
            .filter(|message| {
                !matches!(message.told, Some(Told::Rows(_) | Told::Outcomes(_))) || message.answered_ms.is_none()
            })
            .map(|message| message.replica.0)
            .collect();
        assert_eq!(silent, [2], "{account}");
    }
    let told = cluster.begin_read(0, get(&[KEY], Level::All));
    cluster.pass_ms(u64::from(super::cluster::TIMEOUT_MS) + 1);
    assert_eq!(one(told.now().unwrap()).unwrap_err().account(), None, "nobody asked for it");
}

#[test]
fn slow_requests_are_recorded_with_their_accounts_and_quick_ones_are_not() {
    let cluster = Cluster::with("a0 a1 a2", Settings { slow_ms: Some(100), ..settings() });
    cluster.put(0, KEY, "v", Level::All).unwrap();
    cluster.deafen(1);
    let told = cluster.begin_read(0, get(&[KEY], Level::All));
    cluster.pass_ms(100);
    cluster.node(1).gate.release();
    cluster.settle();
    assert_eq!(one(told.now().unwrap()).unwrap().account, None, "nobody asked for it");
    let slow = cluster.node(0).coordinator.slow_requests();
    assert_eq!(slow.len(), 1);
    assert_eq!((slow[0].kind, slow[0].took_ms), (Kind::Read, 100));
    for _ in 0..200 {
        let told = cluster.begin_read(0, get(&[KEY], Level::All));
        cluster.pass_ms(10_000);
        assert!(told.now().is_some());
    }
    let slow = cluster.node(0).coordinator.slow_requests();
    assert!(slow.len() <= 64, "{} are kept", slow.len());
    assert!(slow.iter().all(|account| account.error.is_some()), "the read that fell short is told as well");
}

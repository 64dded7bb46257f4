//! Two replicas that differ anyhow hold the same after one comparison, and a second one finds nothing.

use crate::cases::cases;
use bytes::Bytes;
use cube_replication::anti_entropy::compare::{Mode, Verdict};
use cube_replication::anti_entropy::questions::NotCompared;
use cube_storage::model::{Epoch, Expiry, Hlc, PartitionBits, PartitionId, PlacementId, Record, RowKey};
use cube_storage::{SyncState, UnsyncedCause};
use proptest::prelude::*;

use super::pair::{HORIZON, TABLE, compare, compare_until, plant, rows, store, version};

fn record() -> impl Strategy<Value = Record> {
    let value = prop::collection::vec(any::<u8>(), 0..20).prop_map(Bytes::from);
    (1u64..6, prop_oneof![2 => value.prop_map(Some), 1 => Just(None)], prop::option::of(1u64..9)).prop_map(
        |(hlc, value, expiry)| match (value, expiry) {
            (None, _) => Record::tombstone(version(hlc)),
            (Some(value), None) => Record::value(version(hlc), value),
            (Some(value), Some(expiry)) => Record::expiring(version(hlc), value, Expiry(expiry)),
        },
    )
}

fn key() -> impl Strategy<Value = RowKey> {
    prop_oneof![
        (0u16..300).prop_map(|n| RowKey::of(n.to_be_bytes().to_vec())),
        // Rows of one partition key, all of them in one leaf, with bytes that are escaped.
        (prop_oneof![Just(vec![0u8]), Just(vec![0, 1]), Just(b"hot".to_vec())], 0u16..40)
            .prop_map(|(partition, sort)| RowKey::with_sort(partition, sort.to_be_bytes().to_vec())),
    ]
}

fn some_rows() -> impl Strategy<Value = Vec<(RowKey, Record)>> {
    prop::collection::vec((key(), record()), 0..80)
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn two_replicas_become_equal_whatever_differs(
        both in some_rows(), mine in some_rows(), theirs in some_rows(), bits in 0u8..4,
    ) {
        let bits = PartitionBits::new(bits).unwrap();
        let ((a, _), (b, _)) = (store(bits), store(bits));
        plant(&a, both.iter().cloned().chain(mine));
        plant(&b, both.into_iter().chain(theirs));
        let differed = rows(&a) != rows(&b);
        let outcome = compare(&a, &b);
        prop_assert_eq!(rows(&a), rows(&b));
        prop_assert_eq!(!outcome.all(Verdict::Equal), differed);
        let again = compare(&b, &a);
        prop_assert!(again.all(Verdict::Equal) && again.tally.listed == 0, "{:?}", again);
    }

    #[test]
    fn a_plan_says_what_a_repair_then_does_and_changes_nothing(mine in some_rows(), theirs in some_rows()) {
        let bits = PartitionBits::new(2).unwrap();
        let ((a, _), (b, _)) = (store(bits), store(bits));
        plant(&a, mine);
        plant(&b, theirs);
        let before = (rows(&a), rows(&b));
        let plan = compare_until(&a, &b, HORIZON, Mode::Plan, u64::MAX);
        prop_assert_eq!(&before, &(rows(&a), rows(&b)));
        let done = compare(&a, &b);
        prop_assert_eq!(plan.verdicts, done.verdicts);
        prop_assert_eq!(plan.tally.rows_sent, done.tally.rows_sent);
        prop_assert_eq!(plan.tally.rows_fetched, done.tally.rows_fetched);
    }
}

fn one() -> PartitionBits {
    PartitionBits::new(0).unwrap()
}

#[test]
fn what_is_younger_than_the_horizon_is_no_difference_and_older_is() {
    let ((a, _), (b, _)) = (store(one()), store(one()));
    let old = (0..50u32).map(|n| (RowKey::of(n.to_be_bytes().to_vec()), Record::value(version(5), "old")));
    plant(&a, old.clone());
    plant(&b, old);
    assert!(compare(&a, &b).all(Verdict::Equal));
    let young = version(HORIZON.0 + 1);
    plant(
        &a,
        [
            (RowKey::of("new"), Record::value(young, "x")),
            (RowKey::of(0u32.to_be_bytes().to_vec()), Record::tombstone(young)),
        ],
    );
    let found = compare(&a, &b);
    assert!(found.all(Verdict::Equal) && found.tally.listed == 0, "sums leave out what is young: {found:?}");
    let later = compare_until(&a, &b, Hlc(HORIZON.0 + 1), Mode::Repair, u64::MAX);
    assert_eq!((later.tally.rows_sent, later.tally.rows_fetched), (2, 0));
    assert_eq!(rows(&a), rows(&b));
}

#[test]
fn what_only_looks_different_because_it_is_young_is_left_alone() {
    let ((a, engine), (b, _)) = (store(one()), store(one()));
    plant(&a, [(RowKey::of("k"), Record::value(version(HORIZON.0 + 9), "young"))]);
    plant(&b, [(RowKey::of("other"), Record::value(version(3), "old"))]);
    drop(engine);
    // Nobody compared before, so the sums know nothing apart: the rows decide.
    let found = compare(&a, &b);
    assert_eq!((found.tally.rows_sent, found.tally.rows_fetched), (0, 1));
    assert_eq!(b.get(TABLE, &RowKey::of("k")).unwrap(), None);
}

#[test]
fn floors_are_level_before_rows_are_judged_and_the_dead_stay_dead() {
    let ((a, _), (b, _)) = (store(one()), store(one()));
    let (key, dead) = (RowKey::of("k"), RowKey::of("dead"));
    plant(&a, [(key.clone(), Record::value(version(40), "v"))]);
    plant(&b, [(key, Record::value(version(40), "v")), (dead.clone(), Record::tombstone(version(20)))]);
    // `a` has purged up to 30, and held the deletion before.
    a.take_floors(&[(TABLE, PartitionId(0), Hlc(30))]).unwrap();
    let found = compare(&a, &b);
    assert!(found.all(Verdict::Equal), "a deletion below both floors is the same as nothing: {found:?}");
    assert_eq!(b.range_state(TABLE, PartitionId(0)).floor, Hlc(30), "the peer took the floor over");
    assert_eq!(a.get(TABLE, &dead).unwrap(), None);
    let back = compare(&b, &a);
    assert!(back.all(Verdict::Equal));
    b.take_floors(&[(TABLE, PartitionId(0), Hlc(35))]).unwrap();
    assert!(compare(&a, &b).all(Verdict::Equal));
    assert_eq!(a.range_state(TABLE, PartitionId(0)).floor, Hlc(35), "and the asker the peer's");
}

#[test]
fn rows_below_the_floor_that_were_never_purged_are_exchanged() {
    let ((a, _), (b, _)) = (store(one()), store(one()));
    let below = (0..600u32).map(|n| (RowKey::of(n.to_be_bytes().to_vec()), Record::value(version(10), "below")));
    let above = (600..900u32).map(|n| (RowKey::of(n.to_be_bytes().to_vec()), Record::value(version(50), "above")));
    plant(&a, below.clone());
    plant(&b, above);
    plant(&b, below.take(100));
    [&a, &b].iter().for_each(|store| store.take_floors(&[(TABLE, PartitionId(0), Hlc(30))]).unwrap());
    let found = compare(&b, &a);
    assert_eq!(rows(&a), rows(&b));
    assert_eq!((found.tally.rows_fetched, found.tally.rows_sent, found.tally.below_floor), (500, 300, 0));
}

#[test]
fn a_replica_that_is_not_in_sync_neither_sends_nor_is_sent_anything() {
    let ((a, _), (b, _)) = (store(one()), store(one()));
    plant(&a, [(RowKey::of("k"), Record::value(version(1), "v"))]);
    let cause = UnsyncedCause::DamagedData;
    b.set_sync(PlacementId(0), PartitionId(0), SyncState::Unsynced(cause)).unwrap();
    assert!(compare(&a, &b).all(Verdict::There(NotCompared::Unsynced(cause))));
    assert!(compare(&b, &a).all(Verdict::Here(NotCompared::Unsynced(cause))));
    assert!(rows(&b).is_empty());
}

#[test]
fn damage_is_found_while_comparing_and_never_sent() {
    use cube_storage::engine::{Durability, Engine, Space};
    let ((a, engine), (b, _)) = (store(one()), store(one()));
    plant(&a, [(RowKey::of("k"), Record::value(version(9), "sound"))]);
    plant(&b, [(RowKey::of("k"), Record::value(version(5), "older"))]);
    let data_key = cube_storage::keyspace::data_key(TABLE, &RowKey::of("k"));
    let mut bytes = Record::value(version(9), "sound").encode(&data_key).to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    engine.write(Durability::Synced, &mut |writes| writes.put(Space::Data, &data_key, &bytes)).unwrap();
    let found = compare(&a, &b);
    assert!(found.all(Verdict::Here(NotCompared::Damaged)), "{found:?}");
    assert_eq!(rows(&b).values().next(), Some(&Record::value(version(5), "older")));
    let state = a.partition(PlacementId(0), PartitionId(0));
    assert_eq!(state.sync, SyncState::Unsynced(UnsyncedCause::DamagedData), "it heals like a joiner");
}

#[test]
fn a_comparison_that_is_cut_off_goes_on_where_it_was() {
    let bits = PartitionBits::new(4).unwrap();
    let ((a, _), (b, _)) = (store(bits), store(bits));
    plant(&a, (0..4_000u32).map(|n| (RowKey::of(n.to_be_bytes().to_vec()), Record::value(version(7), vec![1; 50]))));
    let first = compare_until(&a, &b, HORIZON, Mode::Repair, 2_000);
    let second = compare(&a, &b);
    assert_eq!(rows(&a), rows(&b));
    let sent = first.tally.rows_sent + second.tally.rows_sent;
    assert!(sent <= 4_000 + 400, "{sent} rows were sent for 4,000 that differed");
}

#[test]
fn replicas_that_work_by_different_maps_exchange_neither_rows_nor_floors() {
    let bits = PartitionBits::new(0).unwrap();
    let ((former, _), (present, _)) = (store(bits), store(bits));
    // Deleted and purged while the former replica was none any more, which it has not heard of.
    plant(&former, [(RowKey::of("k"), Record::value(version(5), "old"))]);
    present.fence(PlacementId(0), PartitionId(0), Epoch(2)).unwrap();
    present.take_floors(&[(TABLE, PartitionId(0), Hlc(9))]).unwrap();
    for (mine, theirs) in [(&former, &present), (&present, &former)] {
        let outcome = compare(mine, theirs);
        assert!(outcome.all(Verdict::There(NotCompared::OtherMap)), "{outcome:?}");
    }
    assert!(rows(&present).is_empty());
    assert_eq!(former.range_state(TABLE, PartitionId(0)).floor, Hlc(0));
}

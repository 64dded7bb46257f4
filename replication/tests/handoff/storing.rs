//! What becomes of what a replica missed: a hint, a mark with its cause, or a refusal.

use cube_replication::handoff::{HandoffSettings, Kept};
use cube_storage::hints::HintLimits;
use cube_storage::model::Limits;

use crate::cluster::{Cluster, state, value};

const HOUR_MS: u64 = 3_600_000;

#[test]
fn of_a_batch_past_the_cap_only_the_rows_that_found_no_room_are_marked() {
    let cluster = Cluster::new();
    let handoff = &cluster.node(0).handoff;
    handoff.set_limits(HintLimits { keys_max: 2, ..HintLimits::default() });
    let rows = ["a", "b", "c", "d"].map(|key| value(key, 1)).to_vec();
    assert_eq!(cluster.keep(0, 2, rows, false), Ok(Kept::Mark));
    let marked = ["a", "b", "c", "d"].map(|key| cluster.is_marked(0, 2, key));
    assert_eq!((cluster.hints(0, 2), marked), (2, [false, false, true, true]));
    assert_eq!((cluster.counts(0).hinted, cluster.counts(0).marked["cap"]), (2, 2));
    assert_eq!(cluster.keep(0, 2, vec![value("a", 2)], false), Ok(Kept::Hint), "an update needs no room");
    assert!(cluster.keep(0, 2, vec![value("e", 1)], true).is_err(), "an only copy is refused");
    handoff.set_limits(HintLimits::default());
    assert_eq!(cluster.keep(0, 2, vec![value("e", 1)], true), Ok(Kept::Hint), "limits change while it runs");
}

#[test]
fn switched_off_every_hint_is_a_mark() {
    let settings = HandoffSettings { enabled: false, ..HandoffSettings::default() };
    let cluster = Cluster::with(settings, Limits::default());
    assert_eq!(cluster.keep(0, 2, vec![value("a", 1)], false), Ok(Kept::Mark));
    assert!(cluster.is_marked(0, 2, "a"));
    assert_eq!(cluster.counts(0).marked["disabled"], 1);
    assert!(cluster.keep(0, 2, vec![value("a", 1)], true).is_err());
}

#[test]
fn hints_that_grow_past_the_window_become_marks_and_so_does_what_is_missed_afterwards() {
    let cluster = Cluster::new();
    cluster.kill(2);
    assert_eq!(cluster.keep(0, 2, vec![value("before", 1)], false), Ok(Kept::Hint));
    assert_eq!(cluster.keep(0, 2, vec![value("only", 1)], true), Ok(Kept::Hint));
    cluster.pass_ms(HOUR_MS);
    assert!(cluster.is_marked(0, 2, "before"));
    assert_eq!((cluster.hints(0, 2), cluster.counts(0).expired), (1, 1), "an only copy does not expire");
    assert_eq!(cluster.keep(0, 2, vec![value("after", 1)], false), Ok(Kept::Mark));
    assert_eq!(cluster.keep(0, 2, vec![value("only too", 1)], true), Ok(Kept::Hint));
    assert_eq!(cluster.counts(0).marked["window"], 2);
    cluster.revive(2);
    assert_eq!(cluster.keep(0, 2, vec![value("again", 1)], false), Ok(Kept::Hint));
    cluster.settle();
    assert!(cluster.held(2, "only").is_some() && cluster.held(2, "only too").is_some());
    assert!(cluster.held(2, "before").is_none());
}

#[test]
fn a_disk_that_takes_no_hint_costs_a_mark_and_an_only_copy_is_refused() {
    let cluster = Cluster::new();
    let files = &cluster.node(0).files;
    files.set_capacity(Some(files.used_bytes()));
    assert_eq!(cluster.keep(0, 2, vec![value("a", 1)], false), Ok(Kept::Mark));
    assert!(cluster.keep(0, 2, vec![value("b", 1)], true).is_err());
    assert_eq!((cluster.counts(0).marked["disk"], cluster.counts(0).not_kept), (1, 1));
    files.set_capacity(None);
    assert_eq!(cluster.keep(0, 2, vec![value("a", 1)], false), Ok(Kept::Hint));
}

#[test]
fn nobody_misses_what_was_for_a_node_that_has_left() {
    let cluster = Cluster::new();
    cluster.node(0).catalog.advance(state(&[0, 1], &[2]));
    assert_eq!(cluster.keep(0, 2, vec![value("a", 1)], false), Ok(Kept::Left));
    assert!(cluster.keep(0, 2, vec![value("a", 1)], true).is_err());
    assert_eq!(cluster.counts(0).dropped_target_left, 1);
}

//! Whatever comes of the units of a job, and in whatever order, everything in its scope is accounted for at its end.

use cube_storage::model::{Hlc, Version};
use proptest::prelude::*;

use super::*;
use crate::cases::cases;
use crate::repair::record::{decode, encode};

fn tree(at: u16) -> Tree {
    (TableId(1), PartitionId(at))
}

fn job(dry_run: bool, units: &[(u16, u16, Vec<u16>)]) -> Job {
    let id = RepairId::new(Version::new(Hlc(5), NodeId(1)));
    let table = JobTable { id: TableId(1), keyspace: "default".into(), name: "kv".into() };
    let unit = |(by, with, trees): &(u16, u16, Vec<u16>)| Unit {
        by: NodeId(*by),
        with: NodeId(*with),
        trees: trees.iter().map(|at| tree(*at)).collect(),
        attempt: 0,
        is_mirror: false,
        is_closed: false,
    };
    Job::new(id, Asked { dry_run, ..Asked::default() }, vec![table], units.iter().map(unit).collect(), 100)
}

fn moved(sent: u64, fetched: u64, bytes: u64) -> Moved {
    Moved { leaves: 1, sent, fetched, bytes }
}

#[test]
fn a_job_ends_when_all_its_units_have_and_a_report_that_comes_twice_is_counted_once() {
    let mut job = job(false, &[(2, 1, vec![0, 1]), (1, 3, vec![0, 1])]);
    job.begin(200);
    assert!(!job.conclude(210));
    let report = Report { differed: vec![tree(0)], left: Vec::new(), moved: moved(5, 7, 120) };
    job.on_report(0, &report, 220);
    job.on_report(0, &report, 230);
    assert_eq!((job.done, job.total, job.progress_ms), (2, 4, Some(220)));
    let pair = job.pairs[&(NodeId(1), NodeId(2))];
    assert_eq!((pair.partitions, pair.differing), (2, 1));
    assert_eq!((pair.rows_to_first, pair.rows_to_second, pair.bytes), (5, 7, 120));
    job.on_report(1, &Report::default(), 240);
    assert!(job.conclude(250));
    assert_eq!((job.state, job.ended_ms), (JobState::Completed, Some(250)));
    assert!(!job.cancel(260), "an end is final");
}

#[test]
fn what_is_left_is_reckoned_from_when_the_job_was_taken_up_last() {
    let mut job = job(false, &[(1, 2, vec![0]), (1, 2, vec![1]), (1, 2, vec![2, 3])]);
    assert_eq!(job.eta_ms(100), None);
    job.begin(1_000);
    assert_eq!(job.eta_ms(2_000), None, "nothing is done");
    job.on_report(0, &Report::default(), 2_000);
    assert_eq!(job.eta_ms(2_000), Some(3_000));
    job.begin(50_000);
    assert_eq!((job.resumed, job.eta_ms(50_500)), (1, None));
    job.on_report(1, &Report::default(), 50_500);
    assert_eq!(job.eta_ms(50_500), Some(1_000));
}

#[test]
fn rows_that_could_not_be_taken_over_are_tried_again_so_often_and_then_named() {
    let mut job = job(false, &[(1, 2, vec![0, 1])]);
    job.begin(0);
    let report =
        Report { differed: vec![tree(0)], left: vec![(tree(0), NodeId(2), Why::Unsettled)], moved: moved(1, 0, 9) };
    for attempt in 0..SETTLE_ATTEMPTS {
        let place = attempt as usize;
        job.on_report(place, &report, 1);
        assert!(!job.conclude(2));
        let open: Vec<usize> = job.open().map(|(place, _)| place).collect();
        assert_eq!((open, job.done), (vec![place + 1], 1));
    }
    job.on_report(SETTLE_ATTEMPTS as usize, &report, 1);
    assert!(job.conclude(2));
    assert_eq!((job.state, job.done), (JobState::Partial, 2));
    assert_eq!(job.not_compared[0].why, Why::Unsettled);
}

#[test]
fn a_dry_run_asks_the_other_side_for_the_bytes_of_the_rows_that_it_would_send() {
    let mut job = job(true, &[(1, 2, vec![0, 1])]);
    job.begin(0);
    job.on_report(0, &Report { differed: vec![tree(1)], left: Vec::new(), moved: moved(2, 3, 20) }, 1);
    let (place, mirror) = job.open().map(|(place, unit)| (place, unit.clone())).next().unwrap();
    assert_eq!((mirror.by, mirror.with, mirror.trees), (NodeId(2), NodeId(1), vec![tree(1)]));
    job.on_report(place, &Report { differed: vec![tree(1)], left: Vec::new(), moved: moved(3, 2, 33) }, 2);
    let pair = job.sum();
    assert_eq!((pair.rows_to_first, pair.rows_to_second, pair.bytes, pair.leaves), (3, 2, 53, 1));
    assert!(job.conclude(3));
    assert_eq!((job.state, job.done, job.total), (JobState::Completed, 2, 2));
}

#[test]
fn what_is_not_compared_is_listed_up_to_a_bound_and_counted_beyond() {
    let units: Vec<(u16, u16, Vec<u16>)> = (0..1_200).map(|n| (1, n + 2, vec![n, n + 1])).collect();
    let mut job = job(false, &units);
    job.begin(0);
    for place in 0..1_200 {
        job.give_up(place, NodeId(1), &Why::Down, 1);
    }
    assert!(job.conclude(2));
    assert_eq!((job.not_compared.len(), job.not_compared_more), (NOT_COMPARED_MAX, 400));
    assert_eq!((job.brief().not_compared.len(), job.brief().not_compared_more), (0, 2_400));
}

/// What comes of a unit.
#[derive(Clone, Copy, Debug)]
enum Came {
    Report { left: usize, fetched: u64, unsettled: bool },
    GivenUp,
    Gone(usize),
}

fn came() -> impl Strategy<Value = Came> {
    prop_oneof![
        4 => (0usize..4, 0u64..3, any::<bool>())
            .prop_map(|(left, fetched, unsettled)| Came::Report { left, fetched, unsettled }),
        1 => Just(Came::GivenUp),
        1 => (0usize..4).prop_map(Came::Gone),
    ]
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn every_tree_of_the_scope_is_compared_or_named_at_the_end_also_after_any_crash(
        dry_run in any::<bool>(),
        sizes in prop::collection::vec(1u16..5, 0..6),
        comes in prop::collection::vec((any::<prop::sample::Index>(), came(), any::<bool>()), 60),
    ) {
        let mut at = 0;
        let units: Vec<(u16, u16, Vec<u16>)> = sizes.iter().enumerate().map(|(place, size)| {
            at += size;
            (place as u16 % 3, place as u16 % 3 + 1, (at - size..at).collect())
        }).collect();
        let mut job = job(dry_run, &units);
        job.begin(0);
        for (which, came, crash) in comes {
            if job.conclude(1) {
                break;
            }
            let open: Vec<usize> = job.open().map(|(place, _)| place).collect();
            let place = open[which.index(open.len())];
            let (trees, by) = (job.units[place].trees.clone(), job.units[place].by);
            match came {
                Came::Report { left, fetched, unsettled } => {
                    let why = if unsettled { Why::Unsettled } else { Why::Damaged };
                    let left = trees.iter().take(left).map(|tree| (*tree, by, why.clone())).collect();
                    job.on_report(place, &Report { differed: trees.clone(), left, moved: moved(1, fetched, 5) }, 1);
                }
                Came::GivenUp => job.give_up(place, by, &Why::Down, 1),
                Came::Gone(count) => {
                    let gone: Vec<_> = trees.iter().take(count).map(|tree| (*tree, Why::Dropped)).collect();
                    job.exclude(place, &gone, 1);
                }
            }
            prop_assert!(job.done <= job.total);
            if crash {
                job = decode(&encode(&job).unwrap()).unwrap();
                job.begin(2);
            }
        }
        if job.conclude(3) {
            let named: u64 = job.not_compared.iter().map(|left| left.partitions.len() as u64).sum();
            prop_assert_eq!(job.sum().partitions + named, at.into());
            prop_assert_eq!((job.done, job.total), (at.into(), at.into()));
            prop_assert_eq!(job.state == JobState::Completed, named == 0);
        }
    }
}

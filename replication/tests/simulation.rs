//! Whole clusters in one thread, seeded: the promises hold under faults, a seed is a run, and every checker can fail.
//!
//! `make sim SEEDS=1000` runs more seeds and `make test-long` ten thousand; a failing one is printed with the command that
//! replays it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

use cube_replication::sim::{Mutant, Options, Report, Violation, run};

/// Seeds that `make test` runs.
const SEEDS: u64 = 200;
/// A mutant is to be caught within these. Two take one seed of a hundred, and which one is a matter of the draw.
const MUTANT_SEEDS: std::ops::Range<u64> = 230..430;

fn expect_no_violation(report: &Report) {
    let seed = report.seed;
    for violation in &report.violations {
        eprintln!("seed {seed}: {violation}\n  replay it with: make sim SEED={seed} TRACE=1");
    }
    assert!(report.violations.is_empty(), "seed {seed} broke a promise");
}

fn run_seeds(seeds: std::ops::Range<u64>) {
    let mut purged_early = 0;
    for seed in seeds {
        let report = run(Options::seed(seed));
        expect_no_violation(&report);
        assert!(report.operations >= 500, "seed {seed} holds {} operations", report.operations);
        assert!(report.fault_count() >= 10, "seed {seed} holds {} faults", report.fault_count());
        assert!(report.purged.1 > 0, "seed {seed} purges something at last");
        purged_early += report.purged.0;
    }
    assert!(purged_early > 0, "some of it is purged while faults happen");
}

#[test]
fn every_promise_holds_under_faults() {
    run_seeds(0..SEEDS);
}

#[test]
fn two_runs_of_a_seed_are_the_same_run() {
    for seed in 1_000..1_010 {
        assert_eq!(run(Options::seed(seed)), run(Options::seed(seed)), "seed {seed}");
    }
}

#[test]
fn different_seeds_are_different_runs() {
    assert_ne!(run(Options::seed(1)).trace, run(Options::seed(2)).trace);
}

/// The first seed at which a checker catches the mutant.
fn caught(mutant: Mutant, by: fn(&Violation) -> bool) -> Option<(u64, Violation)> {
    let mut seeds = MUTANT_SEEDS;
    seeds.find_map(|seed| {
        let report = run(Options { mutant: Some(mutant), ..Options::seed(seed) });
        report.violations.into_iter().find(by).map(|violation| (seed, violation))
    })
}

/// One test for each checker, by the mistake that it, and not only another one, must catch; and so for each mistake. Each
/// checker has a violation of its own.
macro_rules! checker_catches {
    ($($test:ident: $violation:ident of $mutant:ident;)+) => {
        $(#[test]
        fn $test() {
            let caught = caught(Mutant::$mutant, |violation| matches!(violation, Violation::$violation(_)));
            let (seed, violation) = caught.expect("the checker catches the mutant within the seeds");
            println!("caught at seed {seed}: {violation}");
        })+

        #[test]
        fn every_mutant_is_caught_by_some_checker() {
            let caught = [$(Mutant::$mutant),+];
            assert!(Mutant::ALL.iter().all(|mutant| caught.contains(mutant)));
        }
    };
}

checker_catches! {
    an_acknowledgement_before_the_sync_is_a_lost_write: AcknowledgedLost of AcknowledgedBeforeSync;
    an_ignored_tombstone_is_a_stale_read: StaleQuorumRead of TombstoneIgnored;
    one_acknowledgement_too_few_is_a_stale_read: StaleQuorumRead of OneAcknowledgementTooFew;
    a_skipped_copy_is_a_stale_read: StaleQuorumRead of CopySkipped;
    a_skipped_page_of_a_copy_is_a_stale_read: StaleQuorumRead of PageSkipped;
    a_copy_that_is_called_complete_too_early_is_a_stale_read: StaleQuorumRead of CaughtUpTooEarly;
    a_mark_that_is_forgotten_is_a_lost_write: AcknowledgedLost of MarkForgotten;
    a_range_that_is_not_deleted_is_left_behind: LeftBehind of RangesKept;
    a_superseded_map_that_is_obeyed_is_a_stale_read: StaleQuorumRead of FenceForgotten;
    one_replica_set_too_few_that_is_counted_is_a_stale_read: StaleQuorumRead of OneSetCounted;
    a_read_that_repairs_nothing_goes_back: ReadWentBack of ReadRepairSkipped;
    a_commit_that_is_torn_leaves_a_part_of_a_batch: BatchTorn of CommitTorn;
    rows_of_a_batch_that_are_judged_alone_tear_it: BatchTorn of RowsJudgedAlone;
    a_superseded_write_that_is_not_stamped_again_loses_to_an_earlier_one: LaterWriteLost of SupersededNotTold;
    a_mixed_up_value_was_never_written: Invented of ValueMixedUp;
    a_hint_that_is_not_kept_is_noted_nowhere: MissedUnnoted of HintSkipped;
    a_hint_that_its_target_drops_is_noted_nowhere_any_more: MissedUnnoted of HintDroppedByTarget;
    hints_that_are_never_delivered_stay: HintsKept of HintsNeverReplayed;
    a_coordinator_that_forgets_the_time_never_tells: NeverTold of DeadlineForgotten;
    a_scan_that_leaves_a_partition_out_is_a_stale_read: StaleQuorumRead of ScanLeavesOut;
    a_scan_that_begins_again_lists_rows_twice: ScannedTwice of ScanBeginsAgain;
    a_replica_that_is_counted_twice_is_a_stale_read: StaleQuorumRead of ReplicaCountedTwice;
    a_scan_that_leaves_out_deletions_is_a_stale_read: StaleQuorumRead of ScanRevives;
    an_expiry_that_each_node_judges_by_itself_takes_values_back: CameBack of ClocksOfRepliesIgnored;
    a_dropped_table_that_is_kept_is_left_behind: DroppedKept of DroppedTableKept;
    a_dropped_table_that_nobody_hears_of_is_still_served: DroppedServed of SchemaNotLearned;
    damage_that_is_not_seen_is_returned: Invented of DamageUnseen;
    a_replica_on_a_node_that_has_not_arrived_is_placed_too_early: PlacedTooEarly of PlacedTooEarly;
    a_node_that_never_arrives_does_not_become_ready: NotReady of ArrivalForgotten;
    a_hint_that_anyone_takes_is_taken_by_a_former_replica: TakenByFormer of HintsTakenByAnyone;
    what_is_purged_without_every_replicas_proof_is_missed: MissedUnnoted of PurgedWithoutProof;
    what_was_purged_and_is_remembered_is_told_to_clients: ToldOfPurged of PurgedRemembered;
    what_is_taken_below_the_purge_floor_comes_back: Resurrected of FloorForgotten;
    deletions_that_are_not_compared_leave_replicas_different: Diverged of DeletionsNotCompared;
    what_is_never_purged_is_left: DeadKept of NeverPurged;
    a_leaf_that_is_not_brought_up_to_date_is_untrue: TreeUntrue of LeafForgotten;
    a_watermark_that_forgets_what_is_in_flight_has_it_missed: MissedUnnoted of WatermarkForgotten;
    a_suspicion_that_stays_keeps_requests_from_succeeding: NotAlive of SuspicionKept;
    a_loss_that_is_not_reported_leaves_a_replica_out_of_sync: OutOfSync of LossUnreported;
    a_node_that_leaves_with_its_hints_leaves_what_is_missed_noted_nowhere: MissedUnnoted of HintsLeftBehind;
    a_node_that_leaves_and_does_not_say_so_is_never_gone: NotGone of LeavingUnreported;
    a_change_that_nobody_reports_to_be_caught_up_is_stuck: MoveStuck of CatchingUpUnreported;
}

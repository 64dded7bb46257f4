//! Repairs on demand: what an operator asks for happens, once, and is told exactly, whatever crashes meanwhile.

use std::sync::Arc;

use cube_replication::anti_entropy::Settings;
use cube_replication::messages::Features;
use cube_replication::repair::{
    Asked, BeginError, Errand, Job, JobState, NotCompared, RepairAnswer, RepairId, RepairQuestion, Why,
};
use cube_storage::model::{NodeId, Record};
use parking_lot::Mutex;

use super::cluster::{Cluster, GIVE_UP_MS, HORIZON_MS, settings};
use super::pair::rows;

/// A cluster in which nothing is repaired by itself.
fn cluster(count: u16) -> Cluster {
    Cluster::of(count, Settings { enabled: false, ..settings() })
}

/// A cluster whose replicas differ in some rows, long enough ago. How many rows are not everywhere.
fn differing(count: u16, differences: u16) -> Cluster {
    let mut cluster = cluster(count);
    let all: Vec<u16> = (0..count).collect();
    for n in 0..50 {
        cluster.plant(&all, &format!("same {n}"), Record::value(cluster.now(), vec![1; 50]));
    }
    for n in 0..differences {
        let record =
            if n % 5 == 0 { Record::tombstone(cluster.now()) } else { Record::value(cluster.now(), vec![2; 100]) };
        cluster.plant(&[n % count], &format!("key {n}"), record);
    }
    cluster.pass_ms(HORIZON_MS + 1_000);
    cluster
}

pub(crate) fn asked(dry_run: bool) -> Asked {
    Asked { keyspace: Some("default".into()), table: Some("kv".into()), dry_run }
}

pub(crate) type Begun = Arc<Mutex<Option<Result<Job, BeginError>>>>;

pub(crate) fn ask(cluster: &Cluster, node: u16, asked: Asked) -> Begun {
    let begun = Begun::default();
    let told = begun.clone();
    cluster.nodes[usize::from(node)].repairs.begin(asked, move |answer| *told.lock() = Some(answer));
    begun
}

/// Begins a job, which is accepted.
pub(crate) fn begin(cluster: &mut Cluster, node: u16, dry_run: bool) -> RepairId {
    let begun = ask(cluster, node, asked(dry_run));
    cluster.pass_ms(40);
    let job = begun.lock().take().unwrap().unwrap();
    job.id
}

fn job(cluster: &Cluster, id: RepairId) -> Job {
    cluster.nodes[usize::from(id.node().0)].repairs.job(id).unwrap()
}

/// Lets a job come to its end.
pub(crate) fn finish(cluster: &mut Cluster, id: RepairId) -> Job {
    for _ in 0..600 {
        if job(cluster, id).state.is_over() {
            return job(cluster, id);
        }
        cluster.pass_ms(100);
    }
    panic!("it does not end: {:?}", job(cluster, id));
}

fn run(cluster: &mut Cluster, node: u16, dry_run: bool) -> Job {
    let id = begin(cluster, node, dry_run);
    finish(cluster, id)
}

#[test]
fn a_dry_run_tells_what_a_repair_then_does_and_changes_nothing_and_a_second_one_finds_nothing() {
    let mut cluster = differing(2, 300);
    let before: Vec<_> = cluster.nodes.iter().map(|node| rows(&node.store)).collect();
    let planned = run(&mut cluster, 0, true);
    let after: Vec<_> = cluster.nodes.iter().map(|node| rows(&node.store)).collect();
    assert_eq!(before, after);
    assert_eq!(planned.state, JobState::Completed);
    let pair = planned.pairs[&(NodeId(0), NodeId(1))];
    assert_eq!((pair.rows_to_first, pair.rows_to_second), (150, 150));
    assert_eq!((pair.partitions, pair.differing, planned.total, planned.done), (4, 4, 4, 4));
    let differ: u64 = before
        .iter()
        .flat_map(|rows| rows.iter().filter(|(key, _)| key.partition.starts_with(b"key")))
        .map(|(key, record)| (key.len_bytes() + record.encoded_len()) as u64)
        .sum();
    assert_eq!(pair.bytes, differ, "also the rows that would come from the other side");

    let repaired = run(&mut cluster, 0, false);
    assert_eq!(repaired.state, JobState::Completed);
    assert_eq!(repaired.pairs, planned.pairs, "it does what was planned");
    assert!(cluster.all_hold_the_same());
    let again = run(&mut cluster, 1, true);
    assert_eq!((again.sum().differing, again.sum().bytes, again.sum().partitions), (0, 0, 4));
}

#[test]
fn all_pairs_of_replicas_are_compared_whichever_node_is_asked() {
    for node in 0..3 {
        let mut cluster = differing(3, 200);
        let job = run(&mut cluster, node, false);
        assert_eq!((job.state, job.total, job.done, job.pairs.len()), (JobState::Completed, 12, 12, 3));
        assert!(cluster.all_hold_the_same());
        let stamps = [Some(job.created_ms), job.started_ms, job.progress_ms, job.ended_ms];
        assert!(stamps.is_sorted() && stamps[1].is_some(), "{stamps:?}");
    }
}

#[test]
fn whatever_state_the_runner_crashes_in_the_job_goes_on_and_ends_with_equal_replicas() {
    for crash_after in 0..40 {
        let mut cluster = differing(3, 90);
        let begun = ask(&cluster, 0, asked(false));
        cluster.rounds(crash_after);
        cluster.crash(0, crash_after as u64);
        let told = begun.lock().take().map(|job| job.unwrap().id);
        let known = cluster.nodes[0].repairs.jobs();
        let Some(id) = told.or(known.first().map(|job| job.id)) else { continue };
        let job = finish(&mut cluster, id);
        assert_eq!(job.state, JobState::Completed, "crashed after {crash_after} rounds: {job:?}");
        assert_eq!(job.done, job.total);
        assert!(cluster.all_hold_the_same(), "crashed after {crash_after} rounds");
    }
}

#[test]
fn whatever_state_a_member_crashes_in_it_is_asked_again_and_sends_little_twice() {
    for crash_after in 0..40 {
        let mut cluster = differing(3, 90);
        let id = begin(&mut cluster, 0, false);
        cluster.rounds(crash_after);
        cluster.crash(2, crash_after as u64);
        let job = finish(&mut cluster, id);
        assert_eq!(job.state, JobState::Completed, "crashed after {crash_after} rounds: {job:?}");
        assert!(cluster.all_hold_the_same(), "crashed after {crash_after} rounds");
    }
}

#[test]
fn a_job_that_is_resumed_does_not_run_again_what_was_recorded() {
    let mut cluster = differing(3, 300);
    cluster.kill(1);
    let id = begin(&mut cluster, 0, false);
    // The progress becomes durable within a second.
    cluster.pass_ms(2_000);
    let before = job(&cluster, id);
    assert!(before.done > 0 && !before.state.is_over(), "{before:?}");
    cluster.crash(0, 7);
    let resumed = job(&cluster, id);
    assert_eq!((resumed.done, resumed.pairs.clone()), (before.done, before.pairs.clone()));
    cluster.revive(1);
    let job = finish(&mut cluster, id);
    assert_eq!((job.state, job.resumed), (JobState::Completed, 1));
    assert!(cluster.all_hold_the_same());
}

#[test]
fn with_a_node_down_the_others_are_repaired_and_the_job_says_what_was_not_and_why() {
    let mut cluster = differing(3, 120);
    cluster.kill(2);
    let job = run(&mut cluster, 0, false);
    assert_eq!(job.state, JobState::Partial);
    assert_eq!((job.done, job.total, job.sum().partitions), (12, 12, 4));
    let left: usize = job.not_compared.iter().map(|left| left.partitions.len()).sum();
    assert_eq!(left, 8);
    for NotCompared { node, why, table, .. } in &job.not_compared {
        assert_eq!((*node, why, *table), (NodeId(2), &Why::Down, super::pair::TABLE));
    }
    assert_eq!(rows(&cluster.nodes[0].store), rows(&cluster.nodes[1].store));
    cluster.revive(2);
    assert_eq!(run(&mut cluster, 0, false).state, JobState::Completed);
    assert!(cluster.all_hold_the_same());
}

#[test]
fn a_node_that_is_away_for_less_than_a_job_waits_is_repaired_with_the_others() {
    let mut cluster = differing(3, 120);
    cluster.kill(2);
    let id = begin(&mut cluster, 0, false);
    cluster.pass_ms(GIVE_UP_MS / 2);
    assert_eq!(job(&cluster, id).state, JobState::Running);
    cluster.revive(2);
    assert_eq!(finish(&mut cluster, id).state, JobState::Completed);
    assert!(cluster.all_hold_the_same());
}

#[test]
fn a_second_job_for_a_table_is_refused_with_the_id_of_the_first_on_whichever_node_it_is_asked_for() {
    let mut cluster = differing(3, 60);
    cluster.kill(2);
    let id = begin(&mut cluster, 0, false);
    for (node, scope) in [(0, asked(true)), (1, asked(false)), (1, Asked::default())] {
        let begun = ask(&cluster, node, scope);
        cluster.pass_ms(40);
        assert_eq!(begun.lock().take().unwrap(), Err(BeginError::UnderWay { id }));
    }
    finish(&mut cluster, id);
    run(&mut cluster, 1, true);
}

#[test]
fn of_two_jobs_that_are_asked_for_at_the_same_moment_one_is_begun_and_the_other_learns_its_id() {
    let mut cluster = differing(3, 60);
    let begun: Vec<Begun> = (0..3).map(|node| ask(&cluster, node, asked(false))).collect();
    cluster.pass_ms(40);
    let answers: Vec<_> = begun.iter().map(|begun| begun.lock().take().unwrap()).collect();
    let ids: Vec<RepairId> = answers.iter().flatten().map(|job| job.id).collect();
    assert_eq!(ids.len(), 1, "{answers:?}");
    let refused = answers.iter().filter(|answer| **answer == Err(BeginError::UnderWay { id: ids[0] }));
    assert_eq!(refused.count(), 2, "{answers:?}");
}

#[test]
fn a_job_that_is_cancelled_stays_so_and_nothing_more_is_exchanged_for_it() {
    for cancel_after in [0, 3, 6, 9, 12, 20] {
        let mut cluster = differing(3, 900);
        let id = begin(&mut cluster, 0, false);
        cluster.rounds(cancel_after);
        let job = cluster.nodes[0].repairs.cancel(id).unwrap();
        assert!(matches!(job.state, JobState::Cancelled | JobState::Completed));
        cluster.pass_ms(500);
        let held: Vec<_> = cluster.nodes.iter().map(|node| rows(&node.store)).collect();
        cluster.pass_ms(5_000);
        let later: Vec<_> = cluster.nodes.iter().map(|node| rows(&node.store)).collect();
        assert!(held == later, "cancelled after {cancel_after} rounds");
        cluster.crash(0, 3);
        cluster.pass_ms(1_000);
        assert_eq!(self::job(&cluster, id).state, job.state);
        assert_eq!(run(&mut cluster, 1, false).state, JobState::Completed, "the table is free for another one");
        assert!(cluster.all_hold_the_same());
    }
}

#[test]
fn a_job_is_shown_listed_and_cancelled_on_any_node() {
    let mut cluster = differing(3, 60);
    cluster.kill(2);
    let id = begin(&mut cluster, 0, false);
    let (shown, listed, unknown) = (Arc::new(Mutex::new(None)), Arc::new(Mutex::new(None)), Arc::new(Mutex::new(None)));
    let on_node_1 = cluster.nodes[1].repairs.clone();
    let told = shown.clone();
    on_node_1.job_anywhere(id, true, move |job| *told.lock() = Some(job.unwrap().unwrap()));
    let told = listed.clone();
    on_node_1.jobs_everywhere(move |jobs, silent| *told.lock() = Some((jobs, silent)));
    let told = unknown.clone();
    let nobodys: RepairId = "0000000000000001-0".parse().unwrap();
    on_node_1.job_anywhere(nobodys, false, move |job| *told.lock() = Some(job.unwrap()));
    cluster.pass_ms(40);
    let shown: Job = shown.lock().take().unwrap();
    assert_eq!((shown.id, shown.state), (id, JobState::Cancelled));
    let (jobs, silent) = listed.lock().take().unwrap();
    assert_eq!((jobs.len(), jobs[0].id, silent), (1, id, vec![NodeId(2)]));
    assert_eq!(unknown.lock().take().unwrap(), None);
}

#[test]
fn what_does_not_exist_is_named_and_one_name_left_out_stands_for_all() {
    let mut cluster = cluster(2);
    let refusal = |cluster: &mut Cluster, keyspace: Option<&str>, table: Option<&str>| {
        let scope = Asked { keyspace: keyspace.map(str::to_owned), table: table.map(str::to_owned), dry_run: true };
        let begun = ask(cluster, 0, scope);
        cluster.pass_ms(1_000);
        let answer = begun.lock().take().unwrap();
        answer.map(|job| job.tables.len()).map_err(|error| error.to_string())
    };
    assert_eq!(refusal(&mut cluster, Some("no"), None).unwrap_err(), "there is no keyspace \"no\"");
    let unknown = refusal(&mut cluster, Some("default"), Some("no")).unwrap_err();
    assert_eq!(unknown, "there is no table \"no\" in keyspace \"default\"");
    assert_eq!(refusal(&mut cluster, None, Some("no")).unwrap_err(), "there is no table \"no\" in keyspace \"*\"");
    for (keyspace, table) in [(None, None), (Some("default"), None), (None, Some("kv"))] {
        assert_eq!(refusal(&mut cluster, keyspace, table), Ok(1));
        cluster.pass_ms(2_000);
    }
}

#[test]
fn a_table_that_is_dropped_meanwhile_ends_the_job_and_is_named_as_the_reason() {
    let mut cluster = differing(3, 60);
    cluster.kill(1);
    cluster.kill(2);
    let id = begin(&mut cluster, 0, false);
    let mut state = (*cluster.nodes[0].catalog.current()).clone();
    state.schema.keyspaces.get_mut("default").unwrap().tables.clear();
    assert!(cluster.nodes[0].catalog.advance(state));
    let job = finish(&mut cluster, id);
    assert_eq!((job.state, job.error.as_deref()), (JobState::Failed, Some("the tables were dropped")));
    assert!(job.not_compared.iter().all(|left| left.why == Why::Dropped));
}

#[test]
fn a_node_of_an_earlier_release_is_named_and_keeps_no_other_pair_from_its_repair() {
    let mut cluster = differing(3, 120);
    cluster.make_old(2);
    let job = run(&mut cluster, 0, false);
    // It answers comparisons as ever; it runs none for others.
    for left in &job.not_compared {
        assert_eq!(left.node, NodeId(2));
        assert!(matches!(left.why, Why::Unsupported(_)), "{left:?}");
    }
    assert!(job.pairs.contains_key(&(NodeId(0), NodeId(1))) && job.pairs.contains_key(&(NodeId(0), NodeId(2))));
    assert!(matches!(job.state, JobState::Completed | JobState::Partial));
}

#[test]
fn a_node_of_another_protocol_version_is_named_with_both_versions() {
    let mut cluster = differing(3, 120);
    cluster.exchanged.leave_behind(NodeId(2));
    let job = run(&mut cluster, 0, false);
    assert_eq!(job.state, JobState::Partial);
    assert!(job.not_compared.iter().any(|left| left.other == NodeId(0)) && job.not_compared.len() > 1, "{job:?}");
    for left in &job.not_compared {
        assert_eq!(left.node, NodeId(2));
        let said = left.why.to_string();
        assert_eq!(said, "the node is of a release that does not know this (protocol 2, only up to 1)");
    }
    assert_eq!(rows(&cluster.nodes[0].store), rows(&cluster.nodes[1].store));
}

#[test]
fn an_errand_that_comes_twice_is_run_once_and_after_a_restart_it_is_run_again() {
    let mut cluster = differing(2, 200);
    let job = "0000000000000001-9".parse().unwrap();
    let trees = (0..4).map(|at| (super::pair::TABLE, cube_storage::model::PartitionId(at))).collect();
    let errand = Errand { job, unit: 0, attempt: 0, with: NodeId(1), dry_run: false, trees };
    let ask = |cluster: &Cluster| cluster.nodes[0].repairs.answer(RepairQuestion::Run(errand.clone())).unwrap();
    for _ in 0..3 {
        assert!(matches!(ask(&cluster), RepairAnswer::Working { .. }));
    }
    cluster.pass_ms(1_000);
    let RepairAnswer::Done(first) = ask(&cluster) else { panic!("it is done") };
    assert_eq!((first.moved.sent, first.moved.fetched), (100, 100));
    assert_eq!(ask(&cluster), RepairAnswer::Done(first));
    cluster.crash(0, 1);
    assert!(matches!(ask(&cluster), RepairAnswer::Working { .. }));
    cluster.pass_ms(1_000);
    let RepairAnswer::Done(second) = ask(&cluster) else { panic!("it is done again") };
    assert_eq!((second.moved.sent, second.moved.fetched), (0, 0), "nothing is sent twice");
}

#[test]
fn a_repair_and_the_comparisons_that_go_on_by_themselves_do_not_disturb_each_other() {
    let mut cluster = Cluster::of(3, settings());
    for n in 0..600u16 {
        cluster.plant(&[n % 3], &format!("key {n}"), Record::value(cluster.now(), vec![2; 100]));
    }
    let job = run(&mut cluster, 0, false);
    assert_eq!(job.state, JobState::Completed);
    cluster.pass_ms(HORIZON_MS + 8_000);
    assert!(cluster.all_hold_the_same());
    assert!(cluster.age_ms(0) <= HORIZON_MS + 2_500, "{} ms", cluster.age_ms(0));
}

#[test]
fn a_repair_that_finds_replicas_equal_moves_their_in_sync_times_and_a_dry_run_does_not() {
    let mut cluster = differing(3, 90);
    let times = |cluster: &Cluster| -> Vec<_> { cluster.nodes.iter().map(|node| node.shared.in_sync()).collect() };
    let before = times(&cluster);
    run(&mut cluster, 0, false);
    assert_eq!(times(&cluster), before, "what differed is proven by another comparison");
    run(&mut cluster, 0, true);
    assert_eq!(times(&cluster), before, "a dry run changes nothing");
    run(&mut cluster, 1, false);
    for node in 0..3 {
        assert!(cluster.age_ms(node) <= HORIZON_MS + 2_500, "node {node}: {} ms", cluster.age_ms(node));
    }
}

#[test]
fn a_node_that_cannot_be_told_of_in_sync_times_is_repaired_and_keeps_its_own() {
    let mut cluster = differing(2, 40);
    let older = Features(Features::OF_THIS_BUILD.0 & !Features::SYNC_TIMES.0);
    cluster.exchanged.announce(NodeId(1), older);
    run(&mut cluster, 0, false);
    assert!(cluster.all_hold_the_same());
    let before = cluster.nodes[1].shared.in_sync();
    assert_eq!(run(&mut cluster, 0, false).state, JobState::Completed);
    assert!(cluster.age_ms(0) <= HORIZON_MS + 2_500, "{} ms", cluster.age_ms(0));
    assert_eq!(cluster.nodes[1].shared.in_sync(), before, "it finds out by itself");
    cluster.exchanged.announce(NodeId(1), Features::OF_THIS_BUILD);
    run(&mut cluster, 0, false);
    assert!(cluster.age_ms(1) <= HORIZON_MS + 2_500, "{} ms", cluster.age_ms(1));
}

#[test]
fn a_row_younger_than_the_horizon_is_left_to_be_delivered() {
    let mut cluster = cluster(2);
    cluster.plant(&[0], "young", Record::value(cluster.now(), "v"));
    let job = run(&mut cluster, 0, true);
    assert_eq!((job.state, job.sum().differing), (JobState::Completed, 0));
    cluster.pass_ms(HORIZON_MS + 1_000);
    assert_eq!(run(&mut cluster, 0, true).sum().differing, 1);
}

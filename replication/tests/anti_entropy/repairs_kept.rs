//! What is kept of repairs: over restarts and crashes, within a bound, and known to be damaged where it is.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cube_replication::anti_entropy::Settings;
use cube_replication::repair::{Asked, FOLDER, JobState, RESULTS_KEPT_MAX, RepairId};
use cube_storage::files::{Access, Files};
use parking_lot::Mutex;

use super::cluster::{Cluster, settings};

fn alone() -> Cluster {
    Cluster::of(1, Settings { enabled: false, ..settings() })
}

/// Runs a repair of a cluster of one node, which has nothing to compare.
fn run(cluster: &mut Cluster) -> RepairId {
    let begun = Arc::new(Mutex::new(None));
    let told = begun.clone();
    cluster.nodes[0].repairs.begin(Asked::default(), move |answer| *told.lock() = Some(answer.unwrap()));
    cluster.pass_ms(100);
    let job = begun.lock().take().unwrap();
    assert_eq!(cluster.nodes[0].repairs.job(job.id).unwrap().state, JobState::Completed);
    job.id
}

fn names(cluster: &Cluster) -> Vec<String> {
    cluster.nodes[0].files.list(Path::new(FOLDER)).unwrap().into_iter().map(|entry| entry.name).collect()
}

fn path(id: RepairId) -> PathBuf {
    Path::new(FOLDER).join(format!("{id}.job"))
}

#[test]
fn results_are_kept_over_restarts_and_the_oldest_go_when_there_are_too_many() {
    let mut cluster = alone();
    let ids: Vec<RepairId> = (0..RESULTS_KEPT_MAX + 5).map(|_| run(&mut cluster)).collect();
    cluster.pass_ms(3_000);
    let mut kept: Vec<RepairId> = ids[5..].to_vec();
    kept.reverse();
    let listed = |cluster: &Cluster| cluster.nodes[0].repairs.jobs().iter().map(|job| job.id).collect::<Vec<_>>();
    assert_eq!(listed(&cluster), kept);
    assert_eq!(names(&cluster).len(), RESULTS_KEPT_MAX);
    cluster.crash(0, 1);
    assert_eq!(listed(&cluster), kept);
    assert!(cluster.nodes[0].repairs.jobs().iter().all(|job| job.state == JobState::Completed));
}

#[test]
fn a_damaged_record_is_a_job_that_failed_and_harms_no_other() {
    let mut cluster = alone();
    let (damaged, sound) = (run(&mut cluster), run(&mut cluster));
    cluster.pass_ms(2_000);
    let len = cluster.nodes[0].files.open(&path(damaged), Access::Read).unwrap().len().unwrap();
    for at in 0..len {
        assert!(cluster.nodes[0].files.flip(&path(damaged), at, 2));
        cluster.crash(0, at);
        let job = cluster.nodes[0].repairs.job(damaged).unwrap();
        assert_eq!(job.state, JobState::Failed, "byte {at}");
        assert!(job.error.is_some());
        assert_eq!(cluster.nodes[0].repairs.job(sound).unwrap().state, JobState::Completed);
        assert!(cluster.nodes[0].files.flip(&path(damaged), at, 2));
    }
    cluster.crash(0, 0);
    assert_eq!(cluster.nodes[0].repairs.job(damaged).unwrap().state, JobState::Completed);
}

#[test]
fn a_record_of_a_later_release_says_so_and_stays_as_it_is() {
    let mut cluster = alone();
    let id = run(&mut cluster);
    cluster.pass_ms(2_000);
    let file = cluster.nodes[0].files.open(&path(id), Access::Write).unwrap();
    file.write_at(8, &[9]).unwrap();
    file.sync().unwrap();
    cluster.crash(0, 5);
    let job = cluster.nodes[0].repairs.job(id).unwrap();
    let error = job.error.unwrap();
    assert!(error.contains("format 9") && error.contains("reads format 1"), "{error}");
    cluster.pass_ms(3_000);
    let file = cluster.nodes[0].files.open(&path(id), Access::Read).unwrap();
    assert_eq!(file.read_at(8, 1).unwrap(), [9]);
}

#[test]
fn what_a_crash_left_unfinished_is_removed_and_foreign_files_are_left_alone() {
    let mut cluster = alone();
    let id = run(&mut cluster);
    cluster.pass_ms(2_000);
    let files = &cluster.nodes[0].files;
    for name in [format!("{id}.job.new"), "notes.txt".to_owned()] {
        files.create(&Path::new(FOLDER).join(name)).unwrap().sync().unwrap();
    }
    files.sync_folder(Path::new(FOLDER)).unwrap();
    cluster.crash(0, 1);
    assert_eq!(names(&cluster), [format!("{id}.job"), "notes.txt".to_owned()]);
    assert_eq!(cluster.nodes[0].repairs.jobs().len(), 1);
}

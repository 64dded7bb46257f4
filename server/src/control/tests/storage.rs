//! Log store and state machine on a real disk: openraft's own suite, and a reopening after every step.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::Path;

use openraft::storage::{RaftLogStorage, RaftLogStorageExt, RaftStateMachine};
use openraft::testing::{StoreBuilder, Suite};
use openraft::{BasicNode, CommittedLeaderId, EntryPayload, LogState, Membership, RaftLogReader, RaftSnapshotBuilder};
use rocksdb::{DB, Options};
use tempfile::TempDir;

use super::super::disk::{Disk, DiskError};
use super::super::log_store::LogStore;
use super::super::raft_types::{Entry, LogId, StorageError, TypeConfig, Vote};
use super::super::sealed::BadValue;
use super::super::state_machine::StateMachine;
use super::machine::{entry, request};
use super::{create_table, founding};
use crate::control::Command;

struct Builder;

/// Closes the database before its directory goes.
struct Guard {
    disk: Disk,
    _dir: TempDir,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.disk.close();
    }
}

impl StoreBuilder<TypeConfig, LogStore, StateMachine, Guard> for Builder {
    async fn build(&self) -> Result<(Guard, LogStore, StateMachine), StorageError> {
        let dir = tempfile::tempdir().unwrap();
        let (disk, log, machine) = open(dir.path()).unwrap();
        Ok((Guard { disk, _dir: dir }, log, machine))
    }
}

#[test]
fn openrafts_own_suite_passes() {
    Suite::test_all(Builder).unwrap();
}

fn open(dir: &Path) -> Result<(Disk, LogStore, StateMachine), DiskError> {
    let disk = Disk::open(dir)?;
    let read = LogStore::open(disk.clone())
        .and_then(|log| StateMachine::open(disk.clone(), &log).map(|machine| (log, machine)));
    match read {
        Ok((log, machine)) => Ok((disk, log, machine)),
        Err(error) => {
            disk.close();
            Err(error)
        }
    }
}

fn log_id(index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(1, 0), index)
}

/// Founds at entry 1; makes a table with each later one.
fn entries(indexes: std::ops::RangeInclusive<u64>) -> Vec<Entry> {
    let command = |index| if index == 1 { Command::Found(founding()) } else { create_table(&format!("t{index}")) };
    indexes.map(|index| entry(index, request(index, index - 1, command(index)))).collect()
}

/// What a crash leaves, told by what opening it again finds.
struct Store {
    dir: TempDir,
    open: Option<(Disk, LogStore, StateMachine)>,
}

impl Store {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let first = open(dir.path()).unwrap();
        Self { dir, open: Some(first) }
    }

    /// Closes the database and opens it again: only what is on disk is left.
    fn reopen(&mut self) {
        self.close();
        self.open = Some(open(self.dir.path()).unwrap());
    }

    fn close(&mut self) {
        if let Some((disk, _, _)) = self.open.take() {
            disk.close();
        }
    }

    fn log(&mut self) -> &mut LogStore {
        &mut self.open.as_mut().unwrap().1
    }

    fn machine(&mut self) -> &mut StateMachine {
        &mut self.open.as_mut().unwrap().2
    }

    async fn log_state(&mut self) -> (Option<u64>, Option<u64>) {
        let LogState { last_purged_log_id, last_log_id } = self.log().get_log_state().await.unwrap();
        (last_purged_log_id.map(|id| id.index), last_log_id.map(|id| id.index))
    }

    fn tables(&mut self) -> usize {
        let state = self.machine().watch();
        state.borrow().schema().table_options().count()
    }
}

#[tokio::test]
async fn every_step_is_there_after_it_was_told() {
    let mut store = Store::new();
    assert_eq!(store.log_state().await, (None, None));

    let vote = Vote::new(3, 1);
    store.log().save_vote(&vote).await.unwrap();
    store.reopen();
    assert_eq!(store.log().read_vote().await.unwrap(), Some(vote));

    store.log().blocking_append(entries(1..=10)).await.unwrap();
    store.reopen();
    assert_eq!(store.log_state().await, (None, Some(10)));
    assert_eq!(store.log().try_get_log_entries(1..=10).await.unwrap(), entries(1..=10));

    store.log().truncate(log_id(9)).await.unwrap();
    store.reopen();
    assert_eq!(store.log_state().await, (None, Some(8)));

    store.log().save_committed(Some(log_id(7))).await.unwrap();
    store.machine().apply(entries(1..=6)).await.unwrap();
    store.reopen();
    assert_eq!(store.log().read_committed().await.unwrap(), Some(log_id(7)));
    assert_eq!(store.machine().applied_state().await.unwrap().0, Some(log_id(6)));
    assert_eq!(store.tables(), 6, "kv and five more, made again from the log");

    store.machine().get_snapshot_builder().await.build_snapshot().await.unwrap();
    store.reopen();
    let snapshot = store.machine().get_current_snapshot().await.unwrap().unwrap();
    assert_eq!(snapshot.meta.last_log_id, Some(log_id(6)));

    store.log().purge(log_id(5)).await.unwrap();
    store.reopen();
    assert_eq!(store.log_state().await, (Some(5), Some(8)));
    assert_eq!(store.tables(), 6, "from the snapshot");

    store.machine().apply(entries(7..=8)).await.unwrap();
    store.reopen();
    assert_eq!(store.tables(), 8, "from snapshot and log");
    store.close();
}

#[tokio::test]
async fn a_snapshot_replaces_state_and_log_and_an_older_one_does_not_come_back() {
    let mut ahead = Store::new();
    ahead.machine().apply(entries(1..=20)).await.unwrap();
    let members = Membership::new(vec![[0].into()], BTreeMap::from([(0, BasicNode::new("node-0:7401"))]));
    let voters = Entry { log_id: log_id(21), payload: EntryPayload::Membership(members) };
    ahead.machine().apply([voters]).await.unwrap();
    let snapshot = ahead.machine().get_snapshot_builder().await.build_snapshot().await.unwrap();

    let mut behind = Store::new();
    behind.log().blocking_append(entries(1..=5)).await.unwrap();
    behind.machine().apply(entries(1..=5)).await.unwrap();
    let mut slow = behind.machine().get_snapshot_builder().await;
    behind.machine().install_snapshot(&snapshot.meta, snapshot.snapshot).await.unwrap();
    // It was begun before the newer one came.
    slow.build_snapshot().await.unwrap();
    let kept = behind.machine().get_current_snapshot().await.unwrap().unwrap();
    assert_eq!(kept.meta, snapshot.meta);

    behind.reopen();
    assert_eq!(behind.tables(), 20);
    let (applied, membership) = behind.machine().applied_state().await.unwrap();
    assert_eq!(applied, Some(log_id(21)));
    assert_eq!(membership.voter_ids().collect::<Vec<_>>(), [0]);
    assert_eq!(behind.machine().get_current_snapshot().await.unwrap().unwrap().meta, snapshot.meta);
    behind.log().purge(log_id(21)).await.unwrap();
    behind.log().blocking_append(entries(22..=23)).await.unwrap();
    behind.reopen();
    assert_eq!(behind.log_state().await, (Some(21), Some(23)));
    ahead.close();
    behind.close();
}

#[tokio::test]
async fn a_snapshot_that_is_damaged_is_not_installed() {
    let mut ahead = Store::new();
    ahead.machine().apply(entries(1..=3)).await.unwrap();
    let snapshot = ahead.machine().get_snapshot_builder().await.build_snapshot().await.unwrap();
    let mut bytes = snapshot.snapshot.into_inner();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let mut behind = Store::new();
    let installed = behind.machine().install_snapshot(&snapshot.meta, Box::new(Cursor::new(bytes))).await;
    assert!(installed.unwrap_err().to_string().contains("checksum"));
    behind.reopen();
    assert_eq!(behind.machine().applied_state().await.unwrap().0, None);
    ahead.close();
    behind.close();
}

/// Changes one value behind the store's back.
fn tamper(dir: &Path, family: &str, key: &[u8], change: impl FnOnce(&mut Vec<u8>)) {
    let db = DB::open_cf(&Options::default(), dir, ["default", "log", "meta", "snapshot"]).unwrap();
    let family = db.cf_handle(family).unwrap();
    let mut value = db.get_cf(family, key).unwrap().unwrap();
    change(&mut value);
    db.put_cf(family, key, value).unwrap();
}

#[tokio::test]
async fn flipped_bits_newer_formats_and_holes_stop_the_node_with_the_reason() {
    let mut store = Store::new();
    store.log().save_vote(&Vote::new(3, 1)).await.unwrap();
    store.log().blocking_append(entries(1..=5)).await.unwrap();
    store.close();
    let (dir, third) = (store.dir.path(), 3u64.to_be_bytes());

    tamper(dir, "log", &third, |value| value[9] ^= 4);
    let damaged = open(dir).err().unwrap();
    assert!(damaged.to_string().contains("entry 3 of the Raft log is damaged"), "{damaged}");
    tamper(dir, "log", &third, |value| value[9] ^= 4);
    tamper(dir, "meta", b"vote", |value| value[0] = 2);
    let newer = open(dir).err().unwrap();
    assert_eq!(newer, DiskError::Value(BadValue::Newer { what: "the Raft note \"vote\"".to_owned(), found: 2 }));
    tamper(dir, "meta", b"vote", |value| value[0] = 1);
    open(dir).unwrap().0.close();

    let db = DB::open_cf(&Options::default(), dir, ["default", "log", "meta", "snapshot"]).unwrap();
    db.delete_cf(db.cf_handle("log").unwrap(), third).unwrap();
    drop(db);
    let hole = open(dir).err().unwrap();
    assert!(hole.to_string().contains("entry 4 follows entry 2"), "{hole}");
}

#[tokio::test]
async fn a_write_that_was_torn_off_is_left_out_and_what_was_told_is_there() {
    let mut store = Store::new();
    store.log().blocking_append(entries(1..=5)).await.unwrap();
    store.close();
    store.open = Some(open(store.dir.path()).unwrap());
    store.log().blocking_append(entries(6..=6)).await.unwrap();
    store.close();
    // The last bytes of RocksDB's newest log never reached the disk.
    let is_log = |path: &Path| path.extension().is_some_and(|extension| extension == "log");
    let logs = std::fs::read_dir(store.dir.path()).unwrap().map(|file| file.unwrap().path());
    let newest = logs.filter(|path| is_log(path)).max().unwrap();
    let length = std::fs::metadata(&newest).unwrap().len();
    assert!(length > 3);
    std::fs::OpenOptions::new().write(true).open(&newest).unwrap().set_len(length - 3).unwrap();
    store.reopen();
    assert_eq!(store.log_state().await, (None, Some(5)));
    store.close();
}

#[tokio::test]
async fn a_message_to_a_follower_has_a_bound_in_bytes() {
    let mut store = Store::new();
    let long = |index| {
        let command = Command::DropKeyspace { name: "x".repeat(400 << 10), if_exists: true };
        entry(index, request(index, 0, command))
    };
    store.log().blocking_append((1..=6).map(long)).await.unwrap();
    let first = store.log().limited_get_log_entries(1, 7).await.unwrap();
    assert_eq!(first.len(), 2, "as many as fit");
    store.log().truncate(log_id(1)).await.unwrap();
    let huge = Command::DropKeyspace { name: "x".repeat(2 << 20), if_exists: true };
    store.log().blocking_append([entry(1, request(1, 0, huge))]).await.unwrap();
    assert_eq!(store.log().limited_get_log_entries(1, 2).await.unwrap().len(), 1, "never none");
    store.close();
}

#[tokio::test]
async fn a_log_whose_first_record_seems_to_be_of_a_recycled_log_stops_the_node_and_is_not_taken_for_empty() {
    let mut store = Store::new();
    store.log().save_vote(&Vote::new(3, 1)).await.unwrap();
    store.log().blocking_append(entries(1..=5)).await.unwrap();
    store.close();
    let logs = std::fs::read_dir(store.dir.path()).unwrap().map(|file| file.unwrap().path());
    let log = logs.filter(|path| path.extension().is_some_and(|extension| extension == "log")).max().unwrap();
    let mut bytes = std::fs::read(&log).unwrap();
    bytes[6] ^= 4;
    std::fs::write(&log, bytes).unwrap();
    let Err(DiskError::Failed { detail, .. }) = open(store.dir.path()) else { panic!("it opened") };
    assert!(detail.contains("checksum mismatch"), "{detail}");
}

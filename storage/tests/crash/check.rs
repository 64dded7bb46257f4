//! What must hold of the directory of a killed process: everything acknowledged is there, nothing is there that was
//! never written, and rows, leaves and key index fit one another.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use cube_storage::engine::{Engine, Recovery, RocksEngine};
use cube_storage::model::{Epoch, Hlc, PartitionId, Record, RowKey, TableId};
use cube_storage::scan::{ScanRequest, Scope};
use cube_storage::{Store, SyncState};

use crate::common::model::Model;
use crate::common::{bits, disks, observe, open_store};
use crate::hints::{self, Kept};
use crate::marks::{self, Marked};
use crate::work;

/// What the killed processes said they had made durable.
#[derive(Clone, Debug, Default)]
pub(crate) struct Acknowledged {
    /// The last write to each of a writer's rows, and the last of all.
    writes: BTreeMap<(u64, u64), u64>,
    last_write: BTreeMap<u64, u64>,
    /// The last write to each of a writer's rows that was acknowledged before it was durable.
    in_log: BTreeMap<(u64, u64), u64>,
    epoch: u64,
    purged: Option<u64>,
    hints: BTreeMap<u64, Kept>,
    marks: Marked,
    pub(crate) errors: Vec<String>,
    pub(crate) lines: usize,
    taken_bytes: u64,
}

impl Acknowledged {
    /// Takes the lines that have come since the last call. One that is being written is left to the next.
    pub(crate) fn follow(&mut self, path: &Path) {
        let Ok(mut file) = File::open(path) else { return };
        let mut new = Vec::new();
        file.seek(SeekFrom::Start(self.taken_bytes)).unwrap();
        file.read_to_end(&mut new).unwrap();
        let whole = new.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        self.taken_bytes += whole as u64;
        std::str::from_utf8(&new[..whole]).unwrap().lines().for_each(|line| self.take(line));
    }

    /// Whether each writer's n-th write is acknowledged.
    pub(crate) fn has_written_all(&self, n: u64) -> bool {
        (0..work::WRITERS).all(|writer| self.writes.get(&(writer, n % work::ROWS)).is_some_and(|last| *last >= n))
    }

    /// The same, if what is in the log counts too: it outlives the process, and a sync.
    pub(crate) fn with_log(&self) -> Self {
        let mut all = self.clone();
        all.writes.append(&mut all.in_log);
        all
    }

    /// Power is lost: what was in the log alone may be gone.
    pub(crate) fn forget_log(&mut self) {
        self.in_log.clear();
    }

    /// How many rows have a write in the log.
    pub(crate) fn rows_in_log(&self) -> u64 {
        self.in_log.len() as u64
    }

    fn take(&mut self, line: &str) {
        self.lines += 1;
        let (kind, rest) = line.split_once(' ').expect("a line of the child");
        let numbers: Vec<u64> = rest.split(' ').map_while(|word| word.parse().ok()).collect();
        match (kind, numbers.as_slice()) {
            ("w", &[writer, n]) => {
                self.writes.insert((writer, n % work::ROWS), n);
                self.last_write.insert(writer, n);
            }
            ("a", &[writer, n]) => {
                self.in_log.insert((writer, n % work::ROWS), n);
            }
            ("f", &[epoch]) => self.epoch = epoch,
            ("p", &[n]) => self.purged = Some(n),
            ("h", &[keeper, n]) => self.hints.entry(keeper).or_default().durable.push(n),
            ("r", &[keeper, n]) => self.hints.entry(keeper).or_default().replayed = n,
            ("d", &[n]) => self.marks.take(n),
            ("e", _) => self.errors.push(rest.to_owned()),
            _ => panic!("{line}"),
        }
    }
}

/// Opens the directory and collects what is wrong with it.
pub(crate) fn check(dir: &Path, acknowledged: &Acknowledged) -> Vec<String> {
    let engine = match RocksEngine::open(dir, &disks::small_options()) {
        Ok(engine) => Arc::new(engine),
        Err(error) => return vec![format!("it does not open: {error}")],
    };
    let mut wrong = Vec::new();
    if let Recovery::Damaged(detail) = engine.recovery() {
        wrong.push(format!("the log is damaged: {detail}"));
    }
    let store = open_store(Arc::<RocksEngine>::clone(&engine));
    // A process that is killed while it makes them has acknowledged nothing yet.
    if store.tables().len() < work::TABLES {
        if acknowledged.lines > 0 {
            wrong.push("the tables are gone".into());
        }
        return wrong;
    }
    hints::check(dir, &acknowledged.hints, &mut wrong);
    marks::check(dir, &acknowledged.marks, &mut wrong);
    check_writes(&store, acknowledged, &mut wrong);
    check_purged(&store, acknowledged, &mut wrong);
    check_marks(&store, acknowledged, &mut wrong);
    check_consistent(&store, engine.as_ref(), &mut wrong);
    wrong
}

fn check_writes(store: &Store, acknowledged: &Acknowledged, wrong: &mut Vec<String>) {
    for writer in 0..work::WRITERS {
        for row in 0..work::ROWS {
            let last = acknowledged.writes.get(&(writer, row)).copied();
            let rows = work::keys(writer, row).map(|key| store.get(work::table(writer), &key).unwrap());
            if rows[0] != rows[1] {
                wrong.push(format!("half of a batch of writer {writer} row {row}"));
            }
            match (&rows[0], last) {
                (None, Some(last)) => wrong.push(format!("write {last} of writer {writer} is gone")),
                (Some(found), last) => check_write(writer, row, found, last, wrong),
                (None, None) => {}
            }
        }
    }
}

fn check_write(writer: u64, row: u64, found: &Record, last: Option<u64>, wrong: &mut Vec<String>) {
    let n = found.version.hlc.0;
    if last.is_some_and(|last| n < last) {
        wrong.push(format!("writer {writer} row {row} is at {n} again, {last:?} was acknowledged"));
    }
    if n % work::ROWS != row || *found != work::record(writer, n) {
        wrong.push(format!("writer {writer} row {row} holds what was never written there: {found:?}"));
    }
}

fn check_purged(store: &Store, acknowledged: &Acknowledged, wrong: &mut Vec<String>) {
    let Some(purged) = acknowledged.purged else { return };
    let floor = store.range_state(work::PURGED, PartitionId(0)).floor;
    if floor < Hlc(2 * purged + 1) {
        wrong.push(format!("the purge floor is {floor} again, {purged} was acknowledged"));
    }
    let left = store.count_purgeable(work::PURGED, PartitionId(0), Hlc(2 * purged + 1)).unwrap();
    if left > 0 {
        wrong.push(format!("{left} rows are back that were purged"));
    }
}

fn check_marks(store: &Store, acknowledged: &Acknowledged, wrong: &mut Vec<String>) {
    let state = store.partition(work::PLACEMENT, PartitionId(0));
    if state.epoch < Epoch(acknowledged.epoch) {
        wrong.push(format!("the fence is {:?} again, {} was acknowledged", state.epoch, acknowledged.epoch));
    }
    if acknowledged.lines > 0 && state.sync != SyncState::Synced {
        wrong.push(format!("the partition is {:?}", state.sync));
    }
}

/// Recomputes leaves and index from the rows that are there.
fn check_consistent(store: &Store, engine: &RocksEngine, wrong: &mut Vec<String>) {
    let mut model = Model::new(bits());
    for (table, options) in store.tables() {
        model.tables.insert(table, options);
        model.rows.extend(all_rows(store, table).into_iter().map(|(key, record)| ((table, key), record)));
        let scrubbed = observe::scrub(store, table, 50).unwrap();
        wrong.extend(scrubbed.damaged.iter().map(|damaged| format!("scrub found {damaged}")));
    }
    let (held, expected) = (observe::spaces(engine), model.spaces());
    if held.data != expected.data {
        wrong.push("rows are not what their bytes should be".into());
    }
    if held.keys != expected.keys {
        wrong.push("the key index does not fit the rows".into());
    }
    if held.merkle != expected.merkle {
        wrong.push("the Merkle leaves do not fit the rows".into());
    }
}

fn all_rows(store: &Store, table: TableId) -> Vec<(RowKey, Record)> {
    let (first, last) = (cube_storage::model::Token(0), cube_storage::model::Token(u64::MAX));
    let mut request = ScanRequest::all(table, Scope::Tokens(first, last), store.limits());
    let mut rows = Vec::new();
    loop {
        let page = store.scan(&request).unwrap();
        rows.extend(page.rows.into_iter().map(|row| (row.key, row.record)));
        match page.next {
            Some(next) => request.resume = Some(next),
            None => return rows,
        }
    }
}

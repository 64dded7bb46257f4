//! The hint log under loss of power, kills, full disks and failing syncs: what was told durable is there.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod hints_common;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use cube_storage::files::{Files, FilesError, SimulatedFiles};
use cube_storage::hints::{HintError, HintLimits, HintStore, Lost, ReadLimits, Ticket};
use hints_common::*;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Append(usize),
    Sync,
    Acknowledge(prop::sample::Index),
    Expire(prop::sample::Index),
    FailSyncs,
    FillDisk,
    FreeDisk,
    /// The power goes after so many changes of the disk.
    FailAfter(u64),
    /// The process dies, the machine goes on.
    Kill,
    /// The machine dies.
    Crash(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (1usize..6).prop_map(Step::Append),
        6 => Just(Step::Sync),
        2 => any::<prop::sample::Index>().prop_map(Step::Acknowledge),
        1 => any::<prop::sample::Index>().prop_map(Step::Expire),
        1 => Just(Step::FailSyncs),
        1 => Just(Step::FillDisk),
        2 => Just(Step::FreeDisk),
        2 => (0u64..12).prop_map(Step::FailAfter),
        1 => Just(Step::Kill),
        3 => any::<u64>().prop_map(Step::Crash),
    ];
    prop::collection::vec(step, 1..60)
}

/// A log on a simulated disk, and what is known of it.
struct World {
    disk: SimulatedFiles,
    files: Arc<dyn Files>,
    store: HintStore,
    limits: HintLimits,
    next_id: u64,
    /// Appended, with the ticket that makes them durable.
    waiting: Vec<(Vec<u64>, Ticket)>,
    /// Told durable, and neither acknowledged nor told expired.
    promised: BTreeSet<u64>,
    /// Acknowledged or told expired: a hint may be replayed before those who appended it have asked for its sync.
    gone: BTreeSet<u64>,
    appended: BTreeSet<u64>,
    only_copies: BTreeSet<u64>,
    /// Crashes that may have torn what was not synced, which may then be reported although it was never promised.
    torn: bool,
    /// The power goes before the next crash.
    is_failing: bool,
    /// The power went while the log was being opened.
    is_down: bool,
}

impl World {
    fn new(wrap: impl Fn(SimulatedFiles) -> Arc<dyn Files>) -> Self {
        let disk = SimulatedFiles::new();
        let files = wrap(disk.clone());
        let limits = HintLimits { segment_bytes: 1_600, ..HintLimits::default() };
        let store = open(&files, limits);
        Self {
            disk,
            files,
            store,
            limits,
            next_id: 1,
            waiting: Vec::new(),
            promised: BTreeSet::new(),
            gone: BTreeSet::new(),
            appended: BTreeSet::new(),
            only_copies: BTreeSet::new(),
            torn: false,
            is_failing: false,
            is_down: false,
        }
    }

    fn run(&mut self, step: &Step) {
        if self.is_down && !matches!(step, Step::Crash(_)) {
            return;
        }
        let log = self.store.log(TARGET).unwrap();
        match step {
            Step::Append(count) => {
                let ids: Vec<u64> = (self.next_id..).take(*count).collect();
                self.next_id += *count as u64;
                self.appended.extend(&ids);
                let one = |id: &u64| {
                    if id.is_multiple_of(7) { only_copy("only", *id) } else { hint(&format!("k{}", id % 9), *id) }
                };
                let hints: Vec<_> = ids.iter().map(one).collect();
                self.only_copies.extend(ids.iter().filter(|id| id.is_multiple_of(7)));
                if let Ok(appended) = log.append(&hints) {
                    assert_eq!(appended.refused, []);
                    self.waiting.push((ids, appended.ticket));
                }
            }
            Step::Sync => {
                for (ids, ticket) in std::mem::take(&mut self.waiting) {
                    if log.sync(ticket).is_ok() {
                        self.promised.extend(ids.iter().filter(|id| !self.gone.contains(id)));
                    }
                }
            }
            Step::Acknowledge(upto) => {
                confirm_all(&log);
                let (all, _) = read_all(&log);
                confirm_all(&log);
                if !all.is_empty() {
                    let upto = upto.index(all.len());
                    // The target has them, whatever comes of noting it.
                    let _ = log.acknowledge(all[upto].after);
                    self.forget(all[..=upto].iter().map(|stored| id(&stored.hint)));
                }
            }
            Step::Expire(upto) => {
                let now = upto.index(self.next_id as usize) as u64;
                let limits = ReadLimits { records: 9, bytes: usize::MAX };
                let expired = log.expired(now, 0, limits).unwrap();
                confirm_all(&log);
                for hint in &expired.hints {
                    let id = hint.version.hlc.millis();
                    assert!(id <= now && !self.only_copies.contains(&id), "{id} expired at {now}");
                }
                let _ = log.drop_expired(&expired);
                self.forget(expired.hints.iter().map(|hint| hint.version.hlc.millis()));
            }
            Step::FailSyncs => self.disk.fail_syncs(2),
            // Once the power is gone, it stays so.
            Step::FailAfter(_) if self.is_failing => {}
            Step::FailAfter(changes) => {
                self.disk.fail_after(*changes);
                self.is_failing = true;
            }
            Step::FillDisk => self.disk.set_capacity(Some(self.disk.used_bytes() + 200)),
            Step::FreeDisk => {
                self.disk.set_capacity(None);
                self.disk.fail_syncs(0);
            }
            Step::Kill => self.reopen(),
            Step::Crash(seed) => {
                self.disk.crash(*seed);
                self.torn = true;
                (self.is_failing, self.is_down) = (false, false);
                self.reopen();
            }
        }
        if !self.is_down {
            self.check();
        }
    }

    fn forget(&mut self, ids: impl Iterator<Item = u64>) {
        for id in ids {
            self.promised.remove(&id);
            self.gone.insert(id);
        }
    }

    fn reopen(&mut self) {
        self.disk.fail_syncs(0);
        self.waiting.clear();
        let opened = HintStore::open(self.files.clone(), Path::new(ROOT), self.limits);
        match opened {
            Ok(opened) if opened.failed.is_empty() => self.store = opened.store,
            failed => {
                assert!(self.is_failing, "{failed:?}");
                self.is_down = true;
                return;
            }
        }
        // What is there when the log is opened counts as durable from then on.
        let there = ids_of(&self.store.log(TARGET).unwrap());
        self.promised.extend(there.iter().filter(|id| !self.gone.contains(id)));
    }

    /// Every promised hint is there; nothing is there that was not appended; nothing promised is reported damaged.
    fn check(&self) {
        let log = self.store.log(TARGET).unwrap();
        let held = ids_of(&log);
        let there: BTreeSet<u64> = held.iter().copied().collect();
        let missing: Vec<_> = self.promised.difference(&there).collect();
        assert!(missing.is_empty(), "promised and gone: {missing:?}; held: {held:?}; damage: {:?}", log.damage());
        assert!(there.is_subset(&self.appended), "never appended");
        let totals = log.totals();
        let row = |id: u64| if id.is_multiple_of(7) { 9 } else { id % 9 };
        let rows = there.iter().map(|id| row(*id)).collect::<BTreeSet<_>>().len() as u64;
        assert!(totals.keys == rows || (totals.keys > rows && !self.waiting.is_empty()), "{totals:?}, {rows} rows");
        if !self.torn {
            assert_eq!(log.damage(), [], "nothing was damaged");
        }
        assert_eq!(totals.bytes, self.store.used_bytes());
        assert!(totals.only_copies > 0 || there.is_disjoint(&self.only_copies));
    }
}

proptest! {
    #![proptest_config(cases(1_000))]

    #[test]
    fn what_was_told_durable_is_there_until_it_is_acknowledged(steps in steps()) {
        let mut world = World::new(|disk| Arc::new(disk));
        for step in &steps {
            world.run(step);
        }
    }
}

#[test]
fn the_check_fails_when_the_sync_is_taken_out() {
    let caught = (0..20).filter(|seed| {
        let run = std::panic::AssertUnwindSafe(|| {
            let mut world = World::new(|disk| Arc::new(NoSync(Arc::new(disk))));
            for step in [Step::Append(3), Step::Sync, Step::Append(1), Step::Sync, Step::Crash(*seed)] {
                world.run(&step);
            }
        });
        std::panic::catch_unwind(run).is_err()
    });
    assert!(caught.count() > 5, "a log that does not sync loses what it promised, and this must show");
}

#[test]
fn a_torn_tail_is_cut_back_without_a_word_and_the_log_goes_on() {
    let (mut torn, mut told) = (0, 0);
    for seed in 0..200 {
        let disk = SimulatedFiles::new();
        let files: Arc<dyn Files> = Arc::new(disk.clone());
        let log = open_log(&files);
        keep(&log, &[hint("a", 1), hint("b", 2)]);
        log.append(&[hint("c", 3)]).unwrap();
        disk.crash(seed);
        let log = open_log(&files);
        let ids = ids_of(&log);
        assert!(ids.starts_with(&[1, 2]), "seed {seed}: {ids:?}");
        torn += usize::from(ids.len() == 2);
        // A tail that was written in full but for some garbage cannot be told from damage. It is told as one hint.
        for damage in log.damage() {
            assert!(matches!(damage.lost, Lost::Hint { .. } | Lost::Nothing), "seed {seed}: {damage}");
            told += 1;
        }
        keep(&log, &[hint("d", 4)]);
        let log = open_log(&files);
        assert_eq!(ids_of(&log).last(), Some(&4), "seed {seed}");
        assert!(log.damage().iter().all(|damage| !matches!(damage.lost, Lost::Unknown { .. })), "seed {seed}");
    }
    assert!(torn > 50 && told < 20, "{torn} torn, {told} told");
}

#[test]
fn a_full_disk_refuses_hints_and_keeps_those_before_and_after() {
    let disk = SimulatedFiles::new();
    let files: Arc<dyn Files> = Arc::new(disk.clone());
    let log = open_log(&files);
    keep(&log, &[hint("a", 1)]);
    for room in 0..140 {
        disk.set_capacity(Some(disk.used_bytes() + room));
        let error = log.append(&[hint("b", 2)]).unwrap_err();
        assert!(matches!(&error, HintError::Files { source: FilesError::NoSpace { .. }, .. }), "{error}");
        assert!(error.to_string().contains("node-3") && error.to_string().contains("00000001.hints"), "{error}");
    }
    assert_eq!((ids_of(&log), log.totals().counters.failed), (vec![1], 140));
    let (_, end) = read_all(&log);
    log.acknowledge(end).expect("acknowledging needs no space");
    disk.set_capacity(Some(0));
    assert!(log.append(&[hint("c", 3)]).is_err(), "not even the first segment");
    disk.set_capacity(None);
    keep(&log, &[hint("d", 4)]);
    assert_eq!(ids_of(&open_log(&files)), [4]);
    assert_eq!(open_log(&files).damage(), []);
}

#[test]
fn after_a_failed_sync_nothing_of_it_is_called_durable() {
    for seed in 0..100 {
        let disk = SimulatedFiles::new();
        let files: Arc<dyn Files> = Arc::new(disk.clone());
        let log = open_log(&files);
        keep(&log, &[hint("a", 1)]);
        let first = log.append(&[hint("b", 2)]).unwrap().ticket;
        let second = log.append(&[hint("c", 3)]).unwrap().ticket;
        disk.fail_syncs(1);
        assert!(matches!(log.sync(second), Err(HintError::Files { .. })));
        assert!(matches!(log.sync(first), Err(HintError::NotKept { .. })), "the disk would say yes by now");
        assert_eq!((ids_of(&log), log.totals().keys), (vec![1], 1));
        keep(&log, &[hint("d", 4)]);
        assert!(file_names(&*files).contains(&"00000002.hints".to_owned()), "a new segment is begun");
        disk.crash(seed);
        let log = open_log(&files);
        assert_eq!((ids_of(&log), log.damage()), (vec![1, 4], vec![]), "seed {seed}");
    }
}

#[test]
fn an_unwritable_folder_is_an_error_and_what_is_there_is_replayed() {
    let disk = SimulatedFiles::new();
    let files: Arc<dyn Files> = Arc::new(disk.clone());
    keep(&open_log(&files), &[hint("a", 1)]);
    let folder = Path::new(ROOT).join(TARGET);
    for folder in [Path::new(ROOT), &folder] {
        disk.set_unwritable(folder, true);
    }
    let store = open(&files, HintLimits::default());
    let log = store.log(TARGET).unwrap();
    assert_eq!(ids_of(&log), [1]);
    for log in [log.clone(), store.log("other").unwrap()] {
        let error = log.append(&[hint("b", 2)]).unwrap_err();
        assert!(matches!(error, HintError::Files { source: FilesError::Denied { .. }, .. }), "{error}");
    }
    assert!(log.acknowledge(read_all(&log).1).is_err(), "its segment cannot be removed");
    assert_eq!(log.totals().records, 0, "and yet it is acknowledged");
    for folder in [Path::new(ROOT), &folder] {
        disk.set_unwritable(folder, false);
    }
    log.acknowledge(log.start()).unwrap();
    assert_eq!(file_names(&*files), [""; 0]);
}

#[test]
fn a_crash_in_the_middle_of_acknowledging_replays_and_never_reports_damage() {
    for seed in 0..300 {
        let disk = SimulatedFiles::new();
        let files: Arc<dyn Files> = Arc::new(disk.clone());
        let limits = HintLimits { segment_bytes: 1_400, ..HintLimits::default() };
        let log = open(&files, limits).log(TARGET).unwrap();
        for id in 1..=9 {
            keep(&log, &[hint(&format!("k{id}"), id)]);
        }
        let (all, _) = read_all(&log);
        // The sync of the cursor, of the folder, and of what comes after a removal fail in turn.
        let upto = (seed % 9) as usize;
        for stored in &all[..upto] {
            log.acknowledge(stored.after).unwrap();
        }
        disk.fail_syncs((seed % 3) as u32);
        let acknowledged = log.acknowledge(all[upto].after).is_ok();
        disk.fail_syncs(0);
        disk.crash(seed);
        let log = open(&files, limits).log(TARGET).unwrap();
        let ids = ids_of(&log);
        assert_eq!(log.damage(), [], "seed {seed}");
        assert!(ids.ends_with(&(upto as u64 + 2..=9).collect::<Vec<_>>()), "seed {seed}: {ids:?}");
        if acknowledged && seed % 3 == 0 {
            assert_eq!(ids.len(), 9 - upto - 1, "seed {seed}: progress is durable");
        }
    }
}

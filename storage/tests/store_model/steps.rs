//! Whatever is done to a store, step by step, in any order.

use std::sync::Arc;

use cube_storage::engine::{Engine, EngineError};
use cube_storage::model::{Batch, Epoch, Hlc, Mutation, Origin, PartitionId, PlacementId, TableId};
use cube_storage::{DeadLook, Store, StoreError, SyncPolicy, SyncState, UnsyncedCause, WarmPlace};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::common::disks::MemoryDisk;
#[cfg(feature = "rocks")]
use crate::common::disks::{RocksDisk, flush_and_compact};
use crate::common::model::Model;
use crate::common::{bits, cases, inputs, observe, open_store};
use crate::{ELSEWHERE, model_with_tables, open_with_tables, table_ids};

/// Something that is done to a store.
#[derive(Clone, Debug)]
enum Step {
    Apply(Batch),
    /// Batches that wait together and are committed as one group.
    ApplyTogether(Vec<Batch>),
    /// Tried while the disk is full, where the ground can be, and again when there is space.
    ApplyTwice(Batch),
    Fence(PlacementId, PartitionId, Epoch),
    BeginProof(TableId, PartitionId),
    EndProof(TableId, PartitionId, Hlc),
    RaiseFloor(TableId, PartitionId, Hlc),
    Purge(TableId, PartitionId, usize),
    Clear(TableId, PartitionId, usize),
    /// Begins to clear, and leaves it at that after so many rows.
    ClearSome(TableId, PartitionId, usize),
    Sweep(TableId, usize),
    Recreate(TableId),
    Sync,
    /// Remembers what rows are there.
    Warm,
    /// In small steps.
    Scrub(TableId),
    Reopen,
    /// In memory a loss of power; on disk, rows into fresh table files.
    Shake,
}

fn hlc() -> impl Strategy<Value = Hlc> {
    (0..=inputs::MILLIS_MAX, 0u16..2).prop_map(|(millis, counter)| Hlc::new(millis, counter))
}

fn origin() -> impl Strategy<Value = Origin> {
    prop_oneof![
        3 => Just(Origin::Client),
        1 => Just(Origin::Hint),
        2 => hlc().prop_map(|floor| Origin::Replica { floor }),
    ]
}

fn any_batch() -> impl Strategy<Value = Batch> {
    let claim = prop_oneof![3 => Just(None), 1 => (0u64..4).prop_map(|epoch| Some(Epoch(epoch)))];
    let mutation = (inputs::mutation(table_ids()), claim).prop_map(|(mutation, claim)| Mutation { claim, ..mutation });
    (origin(), prop::collection::vec(mutation, 0..8)).prop_map(|(origin, mutations)| Batch { origin, mutations })
}

fn step() -> impl Strategy<Value = Step> {
    let table = || prop::sample::select(table_ids());
    let part = || (0u16..2).prop_map(PartitionId);
    let place = prop::sample::select(vec![PlacementId(0), ELSEWHERE]);
    prop_oneof![
        12 => any_batch().prop_map(Step::Apply),
        4 => prop::collection::vec(any_batch(), 2..4).prop_map(Step::ApplyTogether),
        3 => any_batch().prop_map(Step::ApplyTwice),
        1 => (place, part(), 0u64..4).prop_map(|(place, part, epoch)| Step::Fence(place, part, Epoch(epoch))),
        3 => (table(), part()).prop_map(|(table, part)| Step::BeginProof(table, part)),
        3 => (table(), part(), hlc()).prop_map(|(table, part, horizon)| Step::EndProof(table, part, horizon)),
        3 => (table(), part(), hlc()).prop_map(|(table, part, floor)| Step::RaiseFloor(table, part, floor)),
        3 => (table(), part(), 1usize..5).prop_map(|(table, part, rows)| Step::Purge(table, part, rows)),
        1 => (table(), part(), 1usize..5).prop_map(|(table, part, rows)| Step::Clear(table, part, rows)),
        1 => (table(), part(), 1usize..5).prop_map(|(table, part, rows)| Step::ClearSome(table, part, rows)),
        1 => (table(), 1usize..5).prop_map(|(table, entries)| Step::Sweep(table, entries)),
        1 => table().prop_map(Step::Recreate),
        1 => Just(Step::Sync),
        2 => Just(Step::Warm),
        2 => table().prop_map(Step::Scrub),
        2 => Just(Step::Reopen),
        2 => Just(Step::Shake),
    ]
}

/// A step of a proof that holds now and then: begun, nothing in between, ended, purged.
fn steps(len: usize) -> impl Strategy<Value = Vec<Step>> {
    let table = || prop::sample::select(table_ids());
    let part = || (0u16..2).prop_map(PartitionId);
    let purge = (table(), part(), hlc(), 1usize..5).prop_map(|(table, part, floor, rows)| {
        vec![
            Step::BeginProof(table, part),
            Step::EndProof(table, part, floor),
            Step::RaiseFloor(table, part, floor),
            Step::Purge(table, part, rows),
        ]
    });
    let steps = prop_oneof![10 => step().prop_map(|step| vec![step]), 1 => purge];
    prop::collection::vec(steps, 1..len).prop_map(|steps| steps.concat())
}

/// What steps are taken on.
trait Ground {
    fn engine(&self) -> Arc<dyn Engine>;
    /// Whether a shake may lose what was not synced.
    fn shake(&self, engine: Arc<dyn Engine>) -> bool;
    /// Fills the disk up, if that can be done.
    fn fill_up(&self) {}
    fn make_room(&self) {}
}

impl Ground for MemoryDisk {
    fn engine(&self) -> Arc<dyn Engine> {
        Arc::new(self.0.clone())
    }

    fn shake(&self, _: Arc<dyn Engine>) -> bool {
        self.0.crash();
        true
    }

    fn fill_up(&self) {
        self.0.fail_with(EngineError::NoSpace { detail: "full".into() });
    }

    fn make_room(&self) {
        self.0.heal();
    }
}

#[cfg(feature = "rocks")]
impl Ground for RocksDisk {
    fn engine(&self) -> Arc<dyn Engine> {
        self.engine()
    }

    fn shake(&self, engine: Arc<dyn Engine>) -> bool {
        drop(engine);
        flush_and_compact(&self.engine());
        false
    }
}

struct Run<'a> {
    ground: &'a dyn Ground,
    engine: Arc<dyn Engine>,
    store: Store,
    model: Model,
    /// The models since the last promise that everything so far is durable, which is the first of them. A loss of
    /// power may take the store back to any of them.
    recent: Vec<Model>,
}

impl<'a> Run<'a> {
    fn new(ground: &'a dyn Ground) -> Self {
        let engine = ground.engine();
        let store = open_with_tables(Arc::clone(&engine));
        let model = model_with_tables();
        Self { ground, engine, store, recent: vec![model.clone()], model }
    }

    fn take(&mut self, step: &Step) {
        let durable = self.act(step);
        if durable {
            self.recent.clear();
        }
        self.recent.push(self.model.clone());
        observe::assert_holds(&self.store, self.engine.as_ref(), &self.model, &format!("{step:?}"));
    }

    /// Does one step to the store and to the model. Whether everything so far is durable afterwards.
    fn act(&mut self, step: &Step) -> bool {
        match step {
            Step::Apply(batch) => {
                let outcomes = self.store.apply(batch.clone()).unwrap();
                assert_eq!(outcomes, self.model.apply(batch));
                self.promises(batch)
            }
            Step::ApplyTogether(batches) => self.apply_together(batches),
            Step::ApplyTwice(batch) => self.apply_twice(batch),
            Step::Fence(placement, partition, epoch) => self.fence(*placement, *partition, *epoch),
            Step::BeginProof(table, partition) => {
                self.store.begin_proof(*table, *partition).unwrap();
                self.model.begin_proof(*table, *partition);
                false
            }
            Step::EndProof(table, partition, horizon) => {
                let holds = self.store.end_proof(*table, *partition, *horizon).unwrap();
                assert_eq!(holds, self.model.end_proof(*table, *partition, *horizon));
                holds
            }
            Step::RaiseFloor(table, partition, floor) => self.raise_floor(*table, *partition, *floor),
            Step::Purge(table, partition, rows) => self.purge(*table, *partition, *rows),
            Step::Clear(table, partition, rows) => self.clear(*table, *partition, *rows),
            Step::ClearSome(table, partition, rows) => self.clear_some(*table, *partition, *rows),
            Step::Sweep(table, entries) => self.sweep(*table, *entries),
            Step::Recreate(table) => {
                let options = self.store.table(*table).unwrap();
                self.store.drop_table(*table).unwrap();
                self.model.drop_table(*table);
                self.store.put_table(*table, options).unwrap();
                self.model.tables.insert(*table, options);
                true
            }
            Step::Sync => {
                self.store.sync().unwrap();
                true
            }
            Step::Warm => {
                self.store.warm_step(WarmPlace::default()).unwrap();
                false
            }
            Step::Scrub(table) => {
                assert_eq!(observe::scrub(&self.store, *table, 2).unwrap().damaged, []);
                false
            }
            Step::Reopen => {
                self.reopen(false);
                // On disk all is in the log. In memory nothing is durable because a process ended.
                false
            }
            Step::Shake => {
                self.reopen(true);
                true
            }
        }
    }

    /// Whether the acknowledgement of a batch says that it is durable, and so all before it.
    fn promises(&self, batch: &Batch) -> bool {
        batch.mutations.iter().any(|mutation| {
            let options = self.model.tables[&mutation.table];
            let epoch = (options.placement, self.model.partition_of(&mutation.key));
            let fence = self.model.epochs.get(&epoch).copied().unwrap_or(Epoch(0));
            options.sync == SyncPolicy::Sync && mutation.claim.is_none_or(|claim| claim >= fence)
        })
    }

    fn apply_together(&mut self, batches: &[Batch]) -> bool {
        let told = Arc::new(parking_lot::Mutex::new(vec![None; batches.len()]));
        for (place, batch) in batches.iter().enumerate() {
            let told = Arc::clone(&told);
            self.store.submit(batch.clone(), Box::new(move |result| told.lock()[place] = Some(result)));
        }
        let groups = self.store.counters().groups();
        assert!(self.store.run_pending() && !self.store.run_pending(), "all that waits is one group");
        assert!(self.store.counters().groups() <= groups + 1);
        let expected: Vec<_> = self.model.apply_together(batches).into_iter().map(|told| Some(Ok(told))).collect();
        assert_eq!(*told.lock(), expected);
        batches.iter().any(|batch| self.promises(batch))
    }

    fn apply_twice(&mut self, batch: &Batch) -> bool {
        self.ground.fill_up();
        let mut told = self.store.apply(batch.clone());
        self.ground.make_room();
        if told.is_err() {
            assert_eq!(observe::spaces(self.engine.as_ref()), self.model.spaces(), "a failed write left something");
            told = self.store.apply(batch.clone());
        }
        assert_eq!(told.unwrap(), self.model.apply(batch));
        self.promises(batch)
    }

    fn fence(&mut self, placement: PlacementId, partition: PartitionId, epoch: Epoch) -> bool {
        let present = self.model.epochs.get(&(placement, partition)).copied().unwrap_or(Epoch(0));
        let fenced = self.store.fence(placement, partition, epoch);
        if epoch < present {
            assert_eq!(fenced, Err(StoreError::EpochBehind { placement, partition, present, asked: epoch }));
            return false;
        }
        assert_eq!(fenced, Ok(()));
        self.model.epochs.insert((placement, partition), epoch);
        epoch > present
    }

    fn raise_floor(&mut self, table: TableId, partition: PartitionId, floor: Hlc) -> bool {
        let before = self.model.range(table, partition);
        let raised = self.store.raise_floor(table, partition, floor);
        if !self.model.raise_floor(table, partition, floor) {
            let synced_through = before.synced_through;
            assert_eq!(raised, Err(StoreError::FloorAboveProof { table, partition, floor, synced_through }));
            return false;
        }
        assert_eq!(raised, Ok(()));
        floor > before.floor
    }

    fn purge(&mut self, table: TableId, partition: PartitionId, rows_max: usize) -> bool {
        let floor = self.model.range(table, partition).floor;
        let expected = self.model.purge(table, partition);
        assert_eq!(self.store.count_purgeable(table, partition, floor).unwrap(), expected);
        assert_eq!(self.has_dead(table, partition, rows_max), expected > 0);
        let (mut removed, mut from) = (0, None);
        loop {
            let step = self.store.purge_step(table, partition, from.as_ref(), rows_max).unwrap();
            assert!(step.examined <= rows_max && step.removed <= step.examined);
            removed += step.removed;
            match step.next {
                Some(next) => from = Some(next),
                None => break,
            }
        }
        assert_eq!(removed, expected);
        assert!(!self.has_dead(table, partition, rows_max));
        removed > 0
    }

    /// Looks through a partition for what is to be purged, as far as that is not known since an earlier look.
    fn has_dead(&self, table: TableId, partition: PartitionId, rows_max: usize) -> bool {
        let (floor, mut from) = (self.model.range(table, partition).floor, None);
        loop {
            match self.store.look_for_dead((table, partition), from.as_ref(), floor, rows_max).unwrap() {
                DeadLook::Some => return true,
                DeadLook::Nothing => return false,
                DeadLook::NotYet(next) => from = Some(next),
            }
        }
    }

    /// Has a partition cleared, which is only done while it is not counted.
    fn uncounted(&self, table: TableId, partition: PartitionId, clear: impl FnOnce()) {
        let placement = self.store.table(table).unwrap().placement;
        self.store.set_sync(placement, partition, SyncState::Synced).unwrap();
        let refused = self.store.clear_step(table, partition, 1);
        assert_eq!(refused, Err(StoreError::ClearOfSynced { table, partition }), "it serves reads");
        self.store.set_sync(placement, partition, SyncState::Unsynced(UnsyncedCause::Operator)).unwrap();
        clear();
        // The model knows of no loss: who is told of one is tested by itself (`fences.rs`).
        self.store.set_sync(placement, partition, SyncState::Synced).unwrap();
    }

    fn clear(&mut self, table: TableId, partition: PartitionId, rows_max: usize) -> bool {
        let expected = self.model.clear(table, partition);
        let mut removed = 0;
        self.uncounted(table, partition, || {
            loop {
                let step = self.store.clear_step(table, partition, rows_max).unwrap();
                removed += step.removed;
                if step.next.is_none() {
                    break;
                }
            }
        });
        assert_eq!(removed, expected);
        true
    }

    fn clear_some(&mut self, table: TableId, partition: PartitionId, rows_max: usize) -> bool {
        let (model, bits) = (&mut self.model, bits());
        let rows = model.rows.keys().filter(|(of, key)| *of == table && bits.partition_of(key.token()) == partition);
        let mut rows: Vec<_> = rows.cloned().collect();
        rows.sort_by_key(|(_, key)| (key.token(), key.clone()));
        let some: Vec<_> = rows.into_iter().take(rows_max).collect();
        let kept: Vec<_> = model.rows.clone().into_iter().filter(|(row, _)| !some.contains(row)).collect();
        model.clear(table, partition);
        model.rows = kept.into_iter().collect();
        self.uncounted(table, partition, || {
            let step = self.store.clear_step(table, partition, rows_max).unwrap();
            assert_eq!(step.removed, some.len());
        });
        true
    }

    fn sweep(&mut self, table: TableId, entries_max: usize) -> bool {
        let mut from = None;
        loop {
            let step = self.store.sweep_index_step(table, from.as_ref(), entries_max).unwrap();
            assert_eq!(step.removed, 0, "every entry points somewhere");
            match step.next {
                Some(next) => from = Some(next),
                None => return false,
            }
        }
    }

    /// Opens the store anew; after a loss of power it holds what some moment since the last promise held.
    fn reopen(&mut self, shake: bool) {
        let nothing: Arc<dyn Engine> = Arc::new(MemoryDisk::default().0);
        let engine = std::mem::replace(&mut self.engine, Arc::clone(&nothing));
        self.store = open_store(nothing);
        let may_lose = if shake {
            self.ground.shake(engine)
        } else {
            drop(engine);
            false
        };
        self.engine = self.ground.engine();
        self.store = open_store(Arc::clone(&self.engine));
        if may_lose {
            let held = observe::spaces(self.engine.as_ref());
            let moment = self.recent.iter().rev().find(|model| {
                let ranges = model.ranges.iter().all(|(&(table, part), &range)| {
                    !model.tables.contains_key(&table) || self.store.range_state(table, part) == range
                });
                ranges && model.spaces() == held
            });
            let Some(moment) = moment else { panic!("a loss of power left what never was, or lost what was promised") };
            self.model = moment.clone();
        }
        self.model.proofs.clear();
    }
}

#[test]
fn after_every_step_and_crash_the_store_holds_what_the_model_says() {
    let mut runner = TestRunner::new(cases(400));
    let ran = runner.run(&steps(40), |steps| {
        let disk = MemoryDisk::default();
        let mut run = Run::new(&disk);
        steps.iter().for_each(|step| run.take(step));
        Ok(())
    });
    ran.unwrap();
}

#[cfg(feature = "rocks")]
#[test]
fn after_every_step_and_reopening_rocksdb_holds_what_the_model_says() {
    let mut runner = TestRunner::new(cases(24));
    let ran = runner.run(&steps(40), |steps| {
        let disk = RocksDisk::new();
        let mut run = Run::new(&disk);
        steps.iter().for_each(|step| run.take(step));
        Ok(())
    });
    ran.unwrap();
}

#[test]
fn a_failed_write_changes_neither_rows_nor_trees() {
    let mut runner = TestRunner::new(cases(100));
    let ran = runner.run(&(any_batch(), any_batch()), |(first, second)| {
        let disk = MemoryDisk::default();
        let mut run = Run::new(&disk);
        run.take(&Step::Apply(first));
        disk.0.fail_with(EngineError::Io { detail: "pulled".into() });
        if run.model.clone().apply(&second).contains(&cube_storage::model::Outcome::Applied) {
            run.store.apply(second).unwrap_err();
        }
        observe::assert_holds(&run.store, run.engine.as_ref(), &run.model, "a failed write");
        Ok(())
    });
    ran.unwrap();
}

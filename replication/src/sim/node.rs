//! A simulated node: a disk that outlives its process, and a process that is the real replica and coordinator.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cube_storage::engine::{Direction, Durability, Engine, MemoryEngine, Reader as _, Space};
use cube_storage::files::SimulatedFiles;
use cube_storage::keyspace::{data_key, table_range};
use cube_storage::merkle::MerkleKey;
use cube_storage::model::{Body, Epoch, Limits, NodeId, PartitionBits, PartitionId, Record, RowKey, TableId};
use cube_storage::{Identity, Store, StoreError, StoreOptions};
use parking_lot::Mutex;

use super::control::{News, TABLE_ID};
use super::follow::{self, Bell, Following};
use super::hints::SimHints;
use super::leaving::Leaving;
use super::mutants::{Mutant, NeverRevived};
use super::network::SimNetwork;
use super::purged::{Purged, Watched};
use super::repair::{RepairParts, SimRepair};
use super::report::Repaired;
use super::time::{Schedule, SimClock};
use crate::catalog::Catalog;
use crate::clock::NodeClock;
use crate::coordinator::{Coordinator, Parts, Scanning, Settings};
use crate::handoff::{HandoffParts, HintReceiver, HintReplay, ReceiverParts, ReplayParts};
use crate::lifecycle::{FollowParts, Follower, Leave, adopt};
use crate::membership::Scripted;
use crate::replica::Replica;
use crate::transport::PeerTransport;

/// How far clocks may differ: far more than the simulator makes them.
const MAX_DRIFT_MS: u64 = 900_000;
/// The time of a request: short, so that a run holds many of them.
pub(super) const TIMEOUT_MS: u32 = 400;
/// A page, and a reply, holds two rows or three: so that many are cut, and many records are left out and asked for again.
const PAGE_BYTES_MAX: usize = 100;
/// The number of partitions, as bits: few, so that requests and changes meet.
pub(super) const BITS: u8 = 1;

/// What runs on a node until it crashes.
pub(super) struct Process {
    pub(super) life: u64,
    pub(super) store: Arc<Store>,
    pub(super) clock: Arc<NodeClock>,
    pub(super) catalog: Arc<Catalog>,
    pub(super) replica: Arc<Replica>,
    pub(super) coordinator: Arc<Coordinator>,
    pub(super) hints: Arc<SimHints>,
    pub(super) repair: SimRepair,
    pub(super) following: Following,
    pub(super) leaving: Leaving,
    pub(super) commit_scheduled: bool,
    /// The page that each client waits for, or waited for last.
    pub(super) scans: Mutex<BTreeMap<usize, Scanning>>,
}

/// A node.
pub(super) struct SimNode {
    pub(super) id: NodeId,
    engine: MemoryEngine,
    pub(super) files: SimulatedFiles,
    pub(super) clock: Arc<SimClock>,
    pub(super) view: Arc<Scripted>,
    /// The state that its disk remembers.
    pub(super) known: Arc<News>,
    pub(super) process: Option<Process>,
    pub(super) lives: u64,
    /// When it last cleared a partition to become its replica.
    pub(super) cleared_us: BTreeMap<PartitionId, u64>,
    /// By which map it did.
    pub(super) cleared_at: BTreeMap<PartitionId, Epoch>,
    /// What everybody has purged.
    pub(super) purged: Purged,
    /// Rows that were damaged on its disk.
    pub(super) flipped: BTreeSet<RowKey>,
    /// Partitions that it has marked as damaged, and not made whole yet.
    damage_found: BTreeSet<PartitionId>,
    /// When hints were last damaged on its disk.
    pub(super) lost_hints_us: Option<u64>,
    /// What anti-entropy did in its earlier lives.
    pub(super) repaired: Repaired,
    /// Until when it stands still.
    pub(super) paused_until_us: u64,
    /// Until when it hears nothing of the cluster's state.
    pub(super) deaf_until_us: u64,
    /// It does not start again.
    pub(super) is_dead: bool,
}

impl SimNode {
    pub(super) fn new(id: NodeId, clock: Arc<SimClock>, known: Arc<News>, purged: Purged) -> Self {
        Self {
            id,
            engine: MemoryEngine::new(),
            files: SimulatedFiles::new(),
            clock,
            view: Arc::new(Scripted::new(id)),
            known,
            process: None,
            lives: 0,
            cleared_us: BTreeMap::new(),
            cleared_at: BTreeMap::new(),
            purged,
            flipped: BTreeSet::new(),
            damage_found: BTreeSet::new(),
            lost_hints_us: None,
            repaired: Repaired::default(),
            paused_until_us: 0,
            deaf_until_us: 0,
            is_dead: false,
        }
    }

    /// Starts the process on what the disk holds.
    pub(super) fn start(
        &mut self,
        schedule: &Schedule,
        network: &SimNetwork,
        mutant: Option<Mutant>,
    ) -> Result<(), StoreError> {
        self.lives += 1;
        let life = self.lives;
        let engine = Watched::new(Mutant::engine(mutant, self.engine.clone()), self.id, self.purged.clone())?;
        let engine: Arc<dyn Engine> = Arc::new(engine);
        let bits = PartitionBits::new(BITS).unwrap_or(PartitionBits::DEFAULT);
        let identity = Identity { bits, merkle_key: MerkleKey(*b"simulated-merkle") };
        let limits = Limits { page_bytes_max: PAGE_BYTES_MAX, ..Limits::default() };
        let options = StoreOptions { limits, ..StoreOptions::default() };
        let store = Arc::new(Store::open(engine, identity, options)?);
        let before = follow::partitions(&store);
        adopt(&store, self.id, &self.known.state)?;
        let machine = Arc::clone(&self.clock);
        let clock = NodeClock::new(self.id, machine, Arc::clone(&store), MAX_DRIFT_MS);
        let clock = Arc::new(clock.map_err(|error| StoreError::Stopped { cause: error.to_string() })?);
        let replica = Arc::new(Replica::new(self.id, Arc::clone(&store), Arc::clone(&clock)));
        let catalog = Arc::new(Catalog::new(self.known.state.as_ref().clone()));
        let parts = HandoffParts {
            files: Arc::new(self.files.clone()),
            settings: super::hints::usual(),
            bits,
            catalog: Arc::clone(&catalog),
            clock: Arc::clone(&clock),
            wake: SimHints::wake(self.id, life, schedule.clone()),
        };
        let hints = SimHints::open(parts, mutant).map_err(|error| StoreError::Stopped { cause: error.to_string() })?;
        hints.prepare_marks(&self.known.state);
        let transport: Arc<dyn PeerTransport> = Arc::new(network.handle(self.id, life));
        let receiver = Arc::new(HintReceiver::new(ReceiverParts {
            handoff: Arc::clone(hints.handoff()),
            store: Arc::clone(&store),
            clock: Arc::clone(&clock),
        }));
        replica.receive_hints(Arc::clone(&receiver));
        let replay = HintReplay::new(ReplayParts {
            me: self.id,
            handoff: Arc::clone(hints.handoff()),
            catalog: Arc::clone(&catalog),
            membership: self.view.clone(),
            transport: Arc::clone(&transport),
            replica: Arc::clone(&replica),
            receiver,
            clock: Arc::clone(&clock),
            wake: hints.waker(),
        });
        hints.begin(Arc::clone(&replay));
        let parts = Parts {
            me: self.id,
            clock: Arc::clone(&clock),
            catalog: Arc::clone(&catalog),
            membership: match mutant {
                Some(Mutant::SuspicionKept) => Arc::new(NeverRevived::new(self.view.clone())),
                _ => self.view.clone(),
            },
            transport: Arc::clone(&transport),
            replica: Arc::clone(&replica),
            hints: hints.clone(),
        };
        let timeouts = Settings { write_timeout_ms: TIMEOUT_MS, read_timeout_ms: TIMEOUT_MS, ..Settings::default() };
        let settings = Settings { in_flight_max: 256, ..timeouts };
        let coordinator = Coordinator::new(parts, settings);
        let repair = SimRepair::new(
            RepairParts {
                me: self.id,
                store: Arc::clone(&store),
                clock: Arc::clone(&clock),
                catalog: Arc::clone(&catalog),
                membership: self.view.clone(),
                transport: Arc::clone(&transport),
                replica: Arc::clone(&replica),
                coordinator: Arc::clone(&coordinator),
                hints: Arc::clone(&hints),
            },
            mutant,
        );
        let newest = Arc::new(Mutex::new(Arc::clone(&self.known)));
        let bell = Bell::new(schedule.clone(), self.id, life);
        let wakes = Arc::clone(&bell);
        let follower = Follower::new(FollowParts {
            me: self.id,
            store: Arc::clone(&store),
            clock: Arc::clone(&clock),
            catalog: Arc::clone(&catalog),
            coordinator: Arc::clone(&coordinator),
            transport,
            newest: follow::newest_of(&newest, mutant),
            report: follow::report_to(schedule, mutant),
            wake: Arc::new(move || wakes.ring()),
        });
        bell.ring();
        let following = Following { follower, newest, bell };
        let leave =
            Leave { me: self.id, catalog: Arc::clone(&catalog), coordinator: Arc::clone(&coordinator), hints: replay };
        self.process = Some(Process {
            life,
            store,
            clock,
            catalog,
            replica,
            coordinator,
            hints,
            repair,
            following,
            leaving: Leaving::new(leave),
            commit_scheduled: false,
            scans: Mutex::default(),
        });
        self.note_cleared(&before, schedule.now_us());
        Ok(())
    }

    /// The process dies and the machine loses power: nothing that was not synced is left. Now and then what waited to be
    /// committed had reached the disk, though nobody was told.
    pub(super) fn crash(&mut self, network: &SimNetwork, reached_disk: bool, tear: u64) {
        network.forget(self.id);
        if let Some(process) = self.process.take() {
            self.repaired.add(&process.repair.status());
            if reached_disk {
                process.store.run_pending();
            }
            // Callbacks that wait hold the process, and the process holds them: nobody else lets go of either.
            process.store.abandon_pending();
            process.scans.lock().clear();
            process.coordinator.abandon();
            process.hints.abandon();
        }
        self.engine.crash();
        self.files.crash(tear);
    }

    /// Flips a bit of a row's record on the disk. Whether there was such a bit. As a mistake, the record stays one that
    /// checks out.
    pub(super) fn flip_row(&mut self, key: RowKey, bit: u64, mutant: Option<Mutant>) -> bool {
        let place = data_key(TABLE_ID, &key);
        let (byte, bit) = (usize::try_from(bit / 8).unwrap_or(0), u8::try_from(bit % 8).unwrap_or(0));
        let flipped = if mutant == Some(Mutant::DamageUnseen) {
            self.spoil_value(&place)
        } else {
            self.engine.flip(Space::Data, &place, byte, bit)
        };
        if flipped {
            self.flipped.insert(key);
        }
        flipped
    }

    /// Takes note of the partitions in which it has found damage: from then on it may begin anew.
    pub(super) fn note_damage_found(&mut self, now_us: u64) {
        let Some(process) = self.process.as_ref().filter(|_| !self.flipped.is_empty()) else { return };
        for (partition, state) in follow::partitions(&process.store) {
            if state.sync != follow::DAMAGED {
                self.damage_found.remove(&partition);
            } else if self.damage_found.insert(partition) {
                self.cleared_us.insert(partition, now_us);
            }
        }
    }

    fn spoil_value(&self, place: &[u8]) -> bool {
        let Some(bytes) = self.engine.get(Space::Data, place).ok().flatten() else { return false };
        let Ok(record) = Record::decode(place, &bytes) else { return false };
        let Body::Value { value, .. } = &record.body else { return false };
        let spoiled = Record::value(record.version, value.iter().map(|byte| byte ^ 0x80).collect::<Vec<u8>>());
        let bytes = spoiled.encode(place);
        self.engine.write(Durability::Buffered, &mut |writes| writes.put(Space::Data, place, &bytes)).is_ok()
    }

    /// Whether a row of the partition was damaged and has not been found.
    pub(super) fn hides_damage(&self, partition: PartitionId) -> bool {
        let bits = PartitionBits::new(BITS).unwrap_or(PartitionBits::DEFAULT);
        let is_damaged = |key: &RowKey| {
            let place = data_key(TABLE_ID, key);
            let bytes = self.engine.get(Space::Data, &place).ok().flatten();
            bytes.is_some_and(|bytes| Record::decode(&place, &bytes).is_err())
        };
        self.flipped.iter().any(|key| bits.partition_of(key.token()) == partition && is_damaged(key))
    }

    /// Rows on its disk of a table, as many as are looked at.
    pub(super) fn rows_of(&self, table: TableId) -> usize {
        let mut rows = 0;
        let mut count = |_: &[u8], _: &[u8]| {
            rows += 1;
            std::ops::ControlFlow::Continue(())
        };
        let scanned = self.engine.scan(Space::Data, &table_range(table), Direction::Forward, &mut count);
        scanned.map_or(usize::MAX, |()| rows)
    }

    /// Whether the process runs, be it that it stands still.
    pub(super) fn is_up(&self) -> bool {
        self.process.is_some()
    }
}

//! Opening what a member stands on: its store, its copy of the hard state, its hints; and what its configuration means to
//! each of them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cube_replication::catalog::Catalog;
use cube_replication::clock::NodeClock;
use cube_replication::handoff::{HandoffParts, HintedHandoff};
use cube_replication::topology::Addresses;
use cube_storage::clock::Clock;
use cube_storage::engine::RocksEngine;
use cube_storage::files::RealFiles;
use cube_storage::model::NodeId;
use cube_storage::space::{FileSystemSpace, SpaceProbe};
use cube_storage::{ApplyWorker, Identity as StoreIdentity, Store, StoreError, StoreOptions};

use super::NodeError;
use super::bell::Bell;
use super::calls::Outgoing;
use crate::config::Config;
use crate::control::{Control, ControlOptions, Founding, HardState, NewMember};
use crate::gossip::Timing;
use crate::identity::{Identity, InstanceId};

/// How long founding may take: this node alone agrees with itself, after an election.
const FOUND_WITHIN: Duration = Duration::from_secs(60);

/// Runs what may wait for a disk where nobody else waits.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, NodeError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| NodeError::Failed(error.to_string()))
}

/// One look at the disk for all who ask: that it cannot be told is logged once.
struct SharedSpace(Arc<FileSystemSpace>);

impl SpaceProbe for SharedSpace {
    fn available_bytes(&self) -> Option<u64> {
        self.0.available_bytes()
    }
}

pub(super) async fn open_store(
    config: &Config,
    dir: &Path,
    identity: &Identity,
    machine: &Arc<dyn Clock>,
    space: &Arc<FileSystemSpace>,
) -> Result<(Arc<Store>, Arc<NodeClock>, ApplyWorker), NodeError> {
    let (dir, machine, me) = (dir.to_owned(), Arc::clone(machine), identity.node);
    let space = SharedSpace(Arc::clone(space));
    let identity = StoreIdentity { bits: identity.partition_bits, merkle_key: identity.merkle_key };
    let (rocks, limits, reserve) = (config.rocks(), config.store_limits(), config.reserve());
    let (queue_bytes_max, max_drift_ms) = (config.write_queue_bytes_max(), config.max_drift_ms());
    blocking(move || {
        let engine = RocksEngine::open(&dir, &rocks).map_err(StoreError::from)?;
        let options =
            StoreOptions { limits, queue_bytes_max, reserve, space: Box::new(space), ..StoreOptions::default() };
        let store = Arc::new(Store::open(Arc::new(engine), identity, options)?);
        let apply = ApplyWorker::start(Arc::clone(&store), Arc::clone(&machine))?;
        let clock = NodeClock::new(me, machine, Arc::clone(&store), max_drift_ms);
        let clock = clock.map_err(|error| NodeError::Failed(error.to_string()))?;
        Ok((store, Arc::new(clock), apply))
    })
    .await?
}

pub(super) async fn open_control(
    config: &Config,
    dir: &Path,
    identity: &Identity,
    addresses: &Addresses,
    instance: InstanceId,
    outgoing: Outgoing,
) -> Result<Arc<Control>, NodeError> {
    let options = ControlOptions {
        heartbeat: config.raft.heartbeat,
        election_min: config.raft.election_min,
        election_max: config.raft.election_max,
        ..ControlOptions::default()
    };
    let control = Control::open(dir, identity.node, Arc::new(outgoing), options).await?;
    // It may have ended between its identity and the first entry. Once it is founded nobody is asked, or a founder that
    // returns alone would wait for the others instead of serving.
    if identity.founder && control.current().founded.is_none() {
        let member = new_member(config, addresses, instance);
        control
            .found(
                Founding {
                    cluster: identity.cluster,
                    merkle_key: identity.merkle_key.0,
                    partition_bits: identity.partition_bits,
                    member,
                },
                FOUND_WITHIN,
            )
            .await?;
    }
    Ok(Arc::new(control))
}

fn new_member(config: &Config, addresses: &Addresses, instance: InstanceId) -> NewMember {
    NewMember {
        name: config.name.clone(),
        data_center: config.dc.as_str().into(),
        rack: config.rack.as_str().into(),
        weight: config.weight,
        addresses: addresses.clone(),
        instance,
    }
}

/// Waits for a state in which this node is a member: one that joins gets it from the others.
pub(super) async fn state_with(control: &Control, me: NodeId) -> Result<Arc<HardState>, NodeError> {
    let mut states = control.watch();
    let known = |state: &Arc<HardState>| state.founded.is_some() && state.topology().member(me).is_some();
    let state = states.wait_for(known).await.map_err(|_| NodeError::Failed("the control plane stopped".into()))?;
    Ok(Arc::clone(&state))
}

pub(super) async fn open_handoff(
    config: &Config,
    dir: &Path,
    store: &Arc<Store>,
    catalog: &Arc<Catalog>,
    clock: &Arc<NodeClock>,
    bell: &Arc<Bell>,
) -> Result<Arc<HintedHandoff>, NodeError> {
    let bell = Arc::clone(bell);
    let parts = HandoffParts {
        files: Arc::new(RealFiles::new(dir)),
        settings: config.hints.handoff(),
        bits: store.bits(),
        catalog: Arc::clone(catalog),
        clock: Arc::clone(clock),
        wake: Box::new(move || bell.ring()),
    };
    Ok(Arc::new(blocking(move || HintedHandoff::open(parts)).await??))
}

pub(super) fn timing(config: &Config) -> Timing {
    Timing { interval_ms: millis(config.gossip.interval), ..Timing::default() }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

//! The control plane: the hard state (members, placement, keyspaces, tables), agreed on by Raft, on every node.
//!
//! ```text
//! propose.rs ──▶ Raft (openraft) ──▶ log_store.rs ─┐
//!  any node        │    ▲                          ├─▶ disk.rs: <data>/raft
//!                  ▼    │ network.rs, wire.rs      │
//!            state_machine.rs ─────────────────────┘
//!             machine.rs: apply.rs, schema.rs ──▶ Arc<HardState> ──▶ the data path
//!
//! on the leader:  membership.rs (voters.rs): who votes      driving.rs (topology/moves.rs): moves of replicas
//!                 hand_over.rs: another one leads before this one leaves
//! ```
//!
//! Nothing on the data path waits for any of this: it reads the newest [`HardState`] that this node has applied. A node
//! serves that copy from the moment it opens, without a majority and without anybody else. `docs/control.md` is the page
//! for operators.

mod apply;
mod command;
mod disk;
mod driving;
mod error;
mod hand_over;
mod leaving;
mod link;
mod log_store;
mod machine;
mod membership;
mod names;
mod network;
mod options;
mod propose;
mod raft_types;
mod receive;
mod refusal;
mod schema;
mod sealed;
mod silence;
mod state;
mod state_machine;
mod status;
#[cfg(test)]
mod tests;
mod voters;
mod wire;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use cube_replication::lifecycle::MoveReport;
use cube_replication::topology::{LeavingReport, Strategy};
use cube_storage::SyncPolicy;
use cube_storage::model::NodeId;
use openraft::BasicNode;
use openraft::error::{InitializeError, RaftError};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use self::command::{Answer, CHANGES_MAX, Command, Departure, Founding, NewMember, RefusedChange};
pub use self::disk::DiskError;
pub use self::error::{OpenError, ProposeError};
pub use self::link::{ControlCall, ControlLink, LinkError};
pub use self::names::NAME_BYTES_MAX;
pub use self::options::ControlOptions;
pub use self::refusal::Refusal;
pub use self::sealed::BadValue;
pub use self::state::{FOUNDER, Founded, HardState, KEYSPACES_MAX, MEMBERS_MAX, TABLES_MAX};
pub use self::status::ControlStatus;
pub use self::voters::{VOTERS_MAX, choose};

use self::disk::Disk;
use self::driving::Driving;
use self::log_store::{LogStore, read_note, write_note};
use self::network::{Network, Ways};
use self::propose::Proposer;
use self::raft_types::{Raft, raft_id};
use self::receive::Receiver;
use self::silence::Silences;
use self::state_machine::StateMachine;

/// Whose Raft log it is.
const MEMBER: &[u8] = b"member";

/// One node's part in the control plane. Dropping it stops it; [`Control::shutdown`] also waits until the disk is free.
pub struct Control {
    me: NodeId,
    raft: Raft,
    states: watch::Receiver<Arc<HardState>>,
    network: Arc<Network>,
    proposer: Arc<Proposer>,
    driving: Arc<Driving>,
    receiver: Receiver,
    options: ControlOptions,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    stop: CancellationToken,
    _stop_when_dropped: DropGuard,
}

/// How far a member has left the cluster, as the leader says: who says more has heard more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Departed {
    /// It is a member.
    NotYet,
    /// It is none, and its vote is still needed until Raft has replaced it.
    ButVotes,
    /// It is none.
    Yes,
}

impl Control {
    /// Opens what `<dir>/raft` holds, or makes it, as member `me`, and takes part from then on.
    pub async fn open(
        dir: &Path,
        me: NodeId,
        link: Arc<dyn ControlLink>,
        options: ControlOptions,
    ) -> Result<Self, OpenError> {
        let config = Arc::new(options.raft()?);
        let raft_dir = dir.join("raft");
        let opened = tokio::task::spawn_blocking(move || open_disk(&raft_dir, me)).await;
        let closed = |_| OpenError::Disk(DiskError::Closed);
        let (disk, log, machine) = opened.map_err(closed)??;

        let states = machine.watch();
        let metrics = OnceLock::new();
        let (states_then, silences) = (states.clone(), Silences::default());
        let network = Arc::new(Network { link, states: states_then, metrics, backoff: options.heartbeat, silences });
        let raft = Raft::new(raft_id(me), config, Ways(Arc::clone(&network)), log, machine).await;
        let raft = raft.map_err(|fatal| {
            disk.close();
            OpenError::Raft { reason: fatal.to_string() }
        })?;
        // Set once: this is the only place.
        let _ = network.metrics.set(raft.metrics());

        let proposer = Arc::new(Proposer::new(me, raft.clone(), Arc::clone(&network)));
        let driving = Arc::new(Driving::new(states.clone()));
        let stop = CancellationToken::new();
        let look_after = membership::look_after(
            me,
            raft.clone(),
            Arc::clone(&network),
            states.clone(),
            options.clone(),
            stop.clone(),
        );
        let drive = Arc::clone(&driving).run(Arc::clone(&proposer), options.clone(), stop.clone());
        let end = end(raft.clone(), disk, stop.clone());
        let tasks = Mutex::new(vec![tokio::spawn(look_after), tokio::spawn(drive), tokio::spawn(end)]);
        let receiver = Receiver::new(me, raft.clone(), states.clone(), Arc::clone(&proposer), Arc::clone(&driving));
        let _stop_when_dropped = stop.clone().drop_guard();
        Ok(Self { me, raft, states, network, proposer, driving, receiver, options, tasks, stop, _stop_when_dropped })
    }

    /// Founds the cluster with this node as its first member. Called again after a crash, it completes what was begun.
    pub async fn found(&self, founding: Founding, within: Duration) -> Result<Answer, ProposeError> {
        let addresses = &founding.member.addresses;
        let first = BTreeMap::from([(raft_id(self.me), BasicNode::new(&addresses.peer))]);
        // Only the first member founds, and only a cluster that is not there.
        if self.current().founded.is_none() && self.me == FOUNDER {
            match self.raft.initialize(first).await {
                // It was initialised before a crash, or between the two looks.
                Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {}
                Err(error) => return Err(ProposeError::Stopped { reason: error.to_string() }),
            }
        }
        self.propose(Command::Found(founding), within).await
    }

    /// Has a command decided on by the cluster, from any node, within a time.
    pub async fn propose(&self, command: Command, within: Duration) -> Result<Answer, ProposeError> {
        self.proposer.propose(command, within).await
    }

    /// Creates a keyspace: plans its replicas, and plans anew when the members change meanwhile.
    pub async fn create_keyspace(
        &self,
        name: &str,
        strategy: Strategy,
        sync: SyncPolicy,
        if_not_exists: bool,
        within: Duration,
    ) -> Result<Answer, ProposeError> {
        let deadline = Instant::now() + within;
        let mut states = self.watch();
        loop {
            let state = Arc::clone(&states.borrow_and_update());
            let (strategy, name) = (strategy.clone(), name.to_owned());
            let plan = move || state.plan_keyspace(&name, strategy, sync, if_not_exists);
            let planned = tokio::task::spawn_blocking(plan).await;
            let command = planned.map_err(|error| ProposeError::Stopped { reason: error.to_string() })?;
            let left = deadline.saturating_duration_since(Instant::now());
            match self.propose(command, left).await {
                Err(ProposeError::Refused(Refusal::PlanOutdated { .. }))
                    if matches!(tokio::time::timeout_at(deadline, states.changed()).await, Ok(Ok(()))) => {}
                decided => return decided,
            }
        }
    }

    /// Takes a call that another node's [`ControlLink`] brought.
    pub async fn handle(&self, call: ControlCall, payload: Bytes) -> Result<Bytes, LinkError> {
        self.receiver.handle(call, &payload).await
    }

    /// Tells the leader how far this node is with its moves. To be done again until the maps have moved on.
    pub async fn report(&self, reports: &[MoveReport]) -> Result<(), LinkError> {
        self.driving.deliver(&self.proposer, &self.network, reports).await
    }

    /// Tells the leader what this node, which leaves the cluster, still keeps. To be done again until it is gone.
    pub async fn report_leaving(&self, report: LeavingReport) -> Result<Departed, LinkError> {
        let told = self.driving.deliver_leaving(&self.proposer, &self.network, report).await?;
        Ok(told.departed())
    }

    /// How far this member has left, as others say, whoever leads: it was given up, or has left.
    pub async fn told_gone(&self) -> Departed {
        self.driving.told_gone(&self.network, self.me).await
    }

    /// Whether this node votes, or may come to again, by the newest membership of Raft that it knows.
    pub fn votes(&self) -> bool {
        self.proposer.votes(self.me)
    }

    /// The newest state that this node has applied.
    pub fn current(&self) -> Arc<HardState> {
        Arc::clone(&self.states.borrow())
    }

    /// The newest state, and each that follows.
    pub fn watch(&self) -> watch::Receiver<Arc<HardState>> {
        self.states.clone()
    }

    /// Who this node is.
    pub fn me(&self) -> NodeId {
        self.me
    }

    /// How Raft stands, as this node sees it.
    pub fn status(&self) -> ControlStatus {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        ControlStatus::of(&metrics, self.receiver.heard(), self.options.quorum_fresh())
    }

    /// Has another voter lead, if this node does: for one that is about to end, so that changes need not wait until it is
    /// missed. Tells whether another one leads now. Takes at most a few seconds. From then on no operator is warned of
    /// members that do not answer.
    pub async fn hand_over(&self) -> bool {
        self.network.silences.leave();
        hand_over::hand_over(self.me, &self.raft, &self.network).await
    }

    /// Stops taking part, and frees the disk. The last state can still be read.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        let tasks = std::mem::take(&mut *self.tasks.lock());
        for task in tasks {
            if let Err(error) = task.await {
                tracing::error!(%error, "a task of the control plane failed");
            }
        }
    }
}

/// Waits for the end, and brings it about: Raft holds itself, and would never let go of the disk.
async fn end(raft: Raft, disk: Disk, stop: CancellationToken) {
    stop.cancelled().await;
    if let Err(error) = raft.shutdown().await {
        tracing::error!(%error, "Raft did not stop in order");
    }
    if let Err(error) = tokio::task::spawn_blocking(move || disk.close()).await {
        tracing::error!(%error, "the Raft database was not closed in order");
    }
}

/// Blocks. Leaves nothing open when it fails.
fn open_disk(dir: &Path, me: NodeId) -> Result<(Disk, LogStore, StateMachine), OpenError> {
    let disk = Disk::open(dir)?;
    let read = || {
        let owner = read_note::<NodeId>(&disk, MEMBER)?;
        if let Some(found) = owner.filter(|owner| *owner != me) {
            return Err(OpenError::OtherNode { dir: dir.display().to_string(), found, given: me });
        }
        if owner.is_none() {
            disk.write_blocking(vec![write_note(MEMBER, &me)?])?;
        }
        let log = LogStore::open(disk.clone())?;
        let machine = StateMachine::open(disk.clone(), &log)?;
        Ok((log, machine))
    };
    match read() {
        Ok((log, machine)) => Ok((disk, log, machine)),
        Err(error) => {
            disk.close();
            Err(error)
        }
    }
}

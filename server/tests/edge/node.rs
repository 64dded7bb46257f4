//! A node behind its front doors. Everything is real but the disk, the other nodes and the rest of the node.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cube_replication::catalog::{Catalog, ClusterState, Keyspace, Schema, Table};
use cube_replication::clock::NodeClock;
use cube_replication::coordinator::{Coordinator, Parts, Settings};
use cube_replication::handoff::{HintKeeper, Kept, Missed, OnKept};
use cube_replication::lifecycle::adopt;
use cube_replication::membership::{Membership, Scripted};
use cube_replication::messages::Request;
use cube_replication::repair::Asked;
use cube_replication::replica::{OnAnswer, Replica};
use cube_replication::topology::{Addresses, Assignment, Member, MemberState, Strategy, Topology, TopologyChange};
use cube_replication::transport::{Delivery, InProcess, Serve};
use cube_server::admin::{
    Admin, AdminError, Changed, Health, HintOrder, HintsView, KeyspaceChange, KeyspaceOptions, Leave, LeavingView,
    NodeStatus, NodeView, NotComparedView, RepairView, RepairsView, ReplicationView, ScrubView, TableChange,
    TableOptions, TopologyView, Vitals,
};
use cube_server::config::{Config, Live};
use cube_server::edge::{Doors, Edge, EdgeParts};
use cube_server::places::Places;
use cube_server::{grpc, rest};
use cube_storage::clock::{Clock, SystemClock};
use cube_storage::engine::MemoryEngine;
use cube_storage::merkle::MerkleKey;
use cube_storage::model::{Limits, NodeId, PartitionBits, PlacementId, TableId};
use cube_storage::{ApplyWorker, Identity, Store, StoreOptions, SyncPolicy};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

/// Two partitions, so that documents of the topology stay short.
const BITS: PartitionBits = match PartitionBits::new(1) {
    Some(bits) => bits,
    None => PartitionBits::DEFAULT,
};
/// More than these tests connect.
const PLACES: u32 = 100;
const ME: NodeId = NodeId(0);
const TICK: Duration = Duration::from_millis(2);

/// What a test node is like.
#[derive(Default)]
pub(crate) struct Plan {
    /// Members beside the node itself, by data center. All of them are replicas of everything.
    pub(crate) others: &'static [&'static str],
    pub(crate) limits: Limits,
    pub(crate) settings: Settings,
    /// In which a message over gRPC, or a body over HTTP, must be here, if it is another one than that of nodes.
    pub(crate) message_time: Option<Duration>,
    /// Its disk, if another node has used it before.
    pub(crate) engine: Option<MemoryEngine>,
}

/// A node, its front doors, and what a test may do to it.
pub(crate) struct Node {
    pub(crate) edge: Arc<Edge>,
    pub(crate) coordinator: Arc<Coordinator>,
    pub(crate) rest_of_node: Arc<RestOfNode>,
    pub(crate) view: Arc<Scripted>,
    pub(crate) http: SocketAddr,
    pub(crate) grpc: SocketAddr,
    _tasks: Vec<AbortOnDropHandle<()>>,
    _apply: ApplyWorker,
}

impl Node {
    /// A cluster of one.
    pub(crate) async fn alone() -> Self {
        Self::start(Plan::default()).await
    }

    pub(crate) async fn start(plan: Plan) -> Self {
        let state = initial_state(plan.others);
        let engine = Arc::new(plan.engine.unwrap_or_default());
        let identity = Identity { bits: BITS, merkle_key: MerkleKey(*b"edge test merkle") };
        let options = StoreOptions { limits: plan.limits, ..StoreOptions::default() };
        let store = Arc::new(Store::open(engine, identity, options).unwrap());
        adopt(&store, ME, &state).unwrap();
        let machine: Arc<dyn Clock> = Arc::new(SystemClock::new(0));
        let clock = Arc::new(NodeClock::new(ME, Arc::clone(&machine), Arc::clone(&store), 900_000).unwrap());
        let network = InProcess::new(Arc::clone(&machine), Delivery::Pumped, 1_000);
        let replica = Arc::new(Replica::new(ME, Arc::clone(&store), Arc::clone(&clock)));
        network.connect(ME, replica.clone());
        // The others hear everything and answer nothing.
        for node in state.topology.members().keys().filter(|node| **node != ME) {
            network.connect(*node, Arc::new(Deaf::default()));
        }
        let catalog = Arc::new(Catalog::new(state));
        let view = Arc::new(Scripted::new(ME));
        let coordinator = Coordinator::new(
            Parts {
                me: ME,
                clock,
                catalog: Arc::clone(&catalog),
                membership: view.clone(),
                transport: network.transport(ME),
                replica,
                hints: Arc::new(KeepsHints),
            },
            plan.settings,
        );
        let rest_of_node = Arc::new(RestOfNode {
            store: Arc::clone(&store),
            catalog: Arc::clone(&catalog),
            view: Arc::clone(&view),
            health: Mutex::new(Health { node: "node-1".into(), ..Health::default() }),
            no_majority: Mutex::new(None),
            paused: Mutex::new(false),
        });
        let edge = Edge::new(EdgeParts {
            coordinator: Arc::clone(&coordinator),
            catalog,
            admin: rest_of_node.clone(),
            limits: plan.limits,
            settings: plan.settings,
            sync: SyncPolicy::Sync,
            config: Live::fixed(Config::default()),
            traces: None,
            doors: Arc::new(Doors::of("node-1")),
        });
        let listener = || TcpListener::bind("127.0.0.1:0");
        let (http, grpc) = (listener().await.unwrap(), listener().await.unwrap());
        let addresses = (http.local_addr().unwrap(), grpc.local_addr().unwrap());
        let mut router = rest::router(Arc::clone(&edge));
        let mut door = grpc::routes(Arc::clone(&edge)).unwrap();
        if let Some(time) = plan.message_time {
            door = door.with_message_time(time);
            router = rest::with_body_time(router, time);
        }
        let ticked = Arc::clone(&coordinator);
        let tasks: Vec<tokio::task::JoinHandle<()>> = vec![
            tokio::spawn(async move {
                rest::serve(http, router, Places::new("http", PLACES), std::future::pending()).await.unwrap()
            }),
            tokio::spawn(async move {
                grpc::serve(grpc, door, Places::new("grpc", PLACES), std::future::pending()).await.unwrap()
            }),
            tokio::spawn(async move {
                let mut ticks = tokio::time::interval(TICK);
                loop {
                    ticks.tick().await;
                    network.deliver();
                    ticked.tick();
                }
            }),
        ];
        let apply = ApplyWorker::start(store, machine).unwrap();
        Self {
            edge,
            coordinator,
            rest_of_node,
            view,
            http: addresses.0,
            grpc: addresses.1,
            _tasks: tasks.into_iter().map(AbortOnDropHandle::new).collect(),
            _apply: apply,
        }
    }

    /// Has this node believe that another one is dead. `node-1` is the node itself.
    pub(crate) fn kill(&self, name: &str) {
        let state = self.edge.state();
        self.view.kill(state.topology.member_named(name).unwrap().id);
    }
}

/// Waits for a condition, as long as a busy machine may need.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let patience = tokio::time::timeout(Duration::from_secs(30), async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(patience.await.is_ok(), "{what}");
}

/// Hears everything and answers nothing.
#[derive(Default)]
struct Deaf(Mutex<Vec<OnAnswer>>);

impl Serve for Deaf {
    fn serve(&self, _: Request, answer: OnAnswer) {
        self.0.lock().push(answer);
    }
}

struct KeepsHints;

impl HintKeeper for KeepsHints {
    fn keep(&self, _: Missed, kept: OnKept) {
        kept(Ok(Kept::Hint));
    }
}

/// What a node does beside answering for rows: here it changes its own catalog, without asking anybody.
pub(crate) struct RestOfNode {
    store: Arc<Store>,
    catalog: Arc<Catalog>,
    view: Arc<Scripted>,
    pub(crate) health: Mutex<Health>,
    /// Set, no change is agreed on; the value says whether it was accepted.
    pub(crate) no_majority: Mutex<Option<bool>>,
    paused: Mutex<bool>,
}

impl RestOfNode {
    fn change(
        &self,
        change: impl FnOnce(&mut ClusterState) -> Result<Changed, AdminError>,
    ) -> Result<Changed, AdminError> {
        if let Some(may_take_effect) = *self.no_majority.lock() {
            let reason = "1 of 3 voters can be reached".to_owned();
            return Err(AdminError::NoMajority { reason, may_take_effect });
        }
        let mut state = (*self.catalog.current()).clone();
        let changed = change(&mut state)?;
        adopt(&self.store, ME, &state).unwrap();
        assert!(self.catalog.advance(state));
        Ok(changed)
    }
}

fn keyspace_of<'a>(state: &'a mut ClusterState, keyspace: &str) -> Result<&'a mut Keyspace, AdminError> {
    let unknown = || AdminError::UnknownKeyspace { keyspace: keyspace.to_owned() };
    state.schema.keyspaces.get_mut(keyspace).ok_or_else(unknown)
}

fn placement_of(state: &mut ClusterState, strategy: &Strategy) -> PlacementId {
    let present = state.topology.placements().find(|(_, placement)| placement.strategy() == strategy);
    if let Some((id, _)) = present {
        return id;
    }
    let (_, model) = state.topology.placements().next().unwrap();
    let (assignment, placement) = (model.goal(), state.topology.next_placement());
    let change = TopologyChange::AddPlacement { placement, strategy: strategy.clone(), assignment };
    state.topology = state.topology.after(&change).unwrap();
    placement
}

/// The one repair that there is.
pub(crate) const REPAIR: &str = "000189abcdef0123-1";

fn repair_view() -> RepairView {
    let not_compared = NotComparedView {
        node: "node-3".into(),
        with: "node-1".into(),
        table: "default.kv".into(),
        partitions: vec![0, 255],
        reason: "the node is down".into(),
    };
    RepairView {
        repair_id: REPAIR.into(),
        state: "RUNNING",
        tables: vec!["default.kv".into()],
        node: "node-1".into(),
        total: 768,
        done: 2,
        not_compared: vec![not_compared],
        ..RepairView::default()
    }
}

#[async_trait]
impl Admin for RestOfNode {
    fn health(&self) -> Health {
        self.health.lock().clone()
    }

    fn voters(&self) -> Vec<NodeId> {
        self.catalog.current().topology.members().keys().copied().collect()
    }

    fn nodes(&self) -> Vec<NodeView> {
        let state = self.catalog.current();
        let view = |member: &Member| {
            let status = if self.view.is_alive(member.id) { NodeStatus::Alive } else { NodeStatus::Down };
            NodeView::of(member, status, Vitals { hints: Some(0), ..Vitals::default() })
        };
        state.topology.members().values().map(view).collect()
    }

    fn topology(&self) -> TopologyView {
        TopologyView::of(&self.catalog.current())
    }

    fn hints(&self) -> HintsView {
        let node_hints: BTreeMap<String, u64> = [("node-3".to_owned(), 45)].into();
        let paused = self.paused.lock().then(|| "node-1".to_owned()).into_iter().collect();
        HintsView { total_hints: 45, node_hints, total_bytes: 4_500, paused, ..HintsView::default() }
    }

    fn replication(&self, table: Option<(&str, &str)>) -> Result<ReplicationView, AdminError> {
        match table {
            Some(("default", "kv")) | None => Ok(ReplicationView { enabled: true, ..Default::default() }),
            Some((keyspace, table)) => {
                Err(AdminError::UnknownTable { keyspace: keyspace.to_owned(), table: table.to_owned() })
            }
        }
    }

    async fn begin_repair(&self, asked: Asked) -> Result<RepairView, AdminError> {
        let Asked { keyspace, table, dry_run } = asked;
        let state = self.catalog.current();
        match (keyspace.as_deref(), table.as_deref()) {
            (Some("busy"), _) => Err(AdminError::RepairUnderWay { id: REPAIR.into() }),
            (Some(name), _) if !state.schema.keyspaces.contains_key(name) => {
                Err(AdminError::UnknownKeyspace { keyspace: name.to_owned() })
            }
            _ => Ok(RepairView { keyspace, table, dry_run, ..repair_view() }),
        }
    }

    async fn repairs(&self) -> Result<RepairsView, AdminError> {
        Ok(RepairsView { repairs: vec![repair_view()], not_asked: vec!["node-3".into()] })
    }

    async fn repair(&self, id: &str) -> Result<RepairView, AdminError> {
        let unknown = || AdminError::UnknownRepair { id: id.to_owned() };
        Some(repair_view()).filter(|view| view.repair_id == id).ok_or_else(unknown)
    }

    async fn cancel_repair(&self, id: &str) -> Result<RepairView, AdminError> {
        Ok(RepairView { state: "CANCELLED", ..self.repair(id).await? })
    }

    fn scrub(&self) -> ScrubView {
        ScrubView { state: "RUNNING", ..Default::default() }
    }

    fn scrub_now(&self) -> ScrubView {
        ScrubView { state: "ON_DEMAND", ..Default::default() }
    }

    async fn steer_hints(&self, order: HintOrder, node: Option<&str>) -> Result<(), AdminError> {
        let state = self.catalog.current();
        match node {
            Some(name) if state.topology.member_named(name).is_none() => {
                Err(AdminError::Invalid { reason: format!("no member of the cluster is named {name:?}") })
            }
            _ => {
                match order {
                    HintOrder::Replay => {}
                    HintOrder::Pause => *self.paused.lock() = true,
                    HintOrder::Resume => *self.paused.lock() = false,
                }
                Ok(())
            }
        }
    }

    async fn leave(&self, node: &str, how: Leave) -> Result<NodeView, AdminError> {
        let known = self.nodes().into_iter().find(|known| known.name == node);
        let known = known.ok_or_else(|| AdminError::UnknownNode { name: node.to_owned() })?;
        let (by, accept_loss) = match how {
            Leave::Decommission => ("DECOMMISSION", true),
            Leave::Remove { accept_loss } | Leave::Replace { accept_loss, .. } => ("REMOVE", accept_loss),
        };
        if !accept_loss && node == "node-3" {
            return Err(AdminError::Conflict { reason: format!("{node} answers: decommission it") });
        }
        let leaving = LeavingView { by, partitions: 3, hints: None, marks: None };
        Ok(NodeView { leaving: Some(leaving), ..known })
    }

    async fn drain(&self, node: &str, _: bool) -> Result<(), AdminError> {
        let is_known = self.nodes().iter().any(|known| known.name == node);
        is_known.then_some(()).ok_or_else(|| AdminError::UnknownNode { name: node.to_owned() })
    }

    async fn create_keyspace(&self, keyspace: &str, options: KeyspaceOptions) -> Result<Changed, AdminError> {
        self.change(|state| {
            let placement = placement_of(state, &options.strategy);
            match state.schema.keyspaces.get(keyspace) {
                Some(present) if present.placement == placement && present.sync == options.sync => Ok(Changed::No),
                Some(_) => Err(AdminError::AlreadyExists {
                    what: format!("keyspace {keyspace:?}"),
                    differences: "it has other replicas".to_owned(),
                }),
                None => {
                    let space = Keyspace { placement, sync: options.sync, tables: BTreeMap::new() };
                    state.schema.keyspaces.insert(keyspace.to_owned(), space);
                    Ok(Changed::Yes)
                }
            }
        })
    }

    async fn alter_keyspace(&self, keyspace: &str, change: KeyspaceChange) -> Result<Changed, AdminError> {
        self.change(|state| {
            let placement = change.strategy.map(|strategy| placement_of(state, &strategy));
            let space = keyspace_of(state, keyspace)?;
            let before = space.clone();
            space.placement = placement.unwrap_or(space.placement);
            space.sync = change.sync.unwrap_or(space.sync);
            Ok(if *space == before { Changed::No } else { Changed::Yes })
        })
    }

    async fn drop_keyspace(&self, keyspace: &str) -> Result<(), AdminError> {
        self.change(|state| {
            keyspace_of(state, keyspace)?;
            state.schema.keyspaces.remove(keyspace);
            Ok(Changed::Yes)
        })?;
        Ok(())
    }

    async fn create_table(&self, keyspace: &str, table: &str, options: TableOptions) -> Result<Changed, AdminError> {
        self.change(|state| {
            let next = state.schema.table_options().map(|(id, _)| id.0).max().unwrap_or(0) + 1;
            let space = keyspace_of(state, keyspace)?;
            match space.tables.get(table).map(TableOptions::from) {
                Some(present) => match present.differences(&options) {
                    None => Ok(Changed::No),
                    Some(differences) => {
                        let what = format!("table {table:?} in keyspace {keyspace:?}");
                        Err(AdminError::AlreadyExists { what, differences })
                    }
                },
                None => {
                    let TableOptions { prefix_index, settings } = options;
                    space.tables.insert(table.to_owned(), Table { id: TableId(next), prefix_index, settings });
                    Ok(Changed::Yes)
                }
            }
        })
    }

    async fn alter_table(&self, keyspace: &str, table: &str, change: TableChange) -> Result<Changed, AdminError> {
        self.change(|state| {
            let unknown = || AdminError::UnknownTable { keyspace: keyspace.to_owned(), table: table.to_owned() };
            let present = keyspace_of(state, keyspace)?.tables.get_mut(table).ok_or_else(unknown)?;
            let before = *present;
            present.settings = change.apply((&before).into()).settings;
            Ok(if *present == before { Changed::No } else { Changed::Yes })
        })
    }

    async fn drop_table(&self, keyspace: &str, table: &str) -> Result<(), AdminError> {
        self.change(|state| {
            let unknown = || AdminError::UnknownTable { keyspace: keyspace.to_owned(), table: table.to_owned() };
            keyspace_of(state, keyspace)?.tables.remove(table).map(|_| Changed::Yes).ok_or_else(unknown)
        })?;
        Ok(())
    }
}

fn initial_state(others: &[&str]) -> ClusterState {
    let mut topology = Topology::new(BITS);
    let data_centers: Vec<&str> = std::iter::once("dc1").chain(others.iter().copied()).collect();
    for (place, data_center) in data_centers.iter().enumerate() {
        topology = topology.after(&TopologyChange::Join(member(place, data_center))).unwrap();
    }
    let ids: Vec<NodeId> = topology.members().keys().copied().collect();
    let strategy = Strategy::Simple { replicas: 3 };
    let assignment = Assignment::from_rows(BITS.all().map(|_| ids.clone()));
    let change = TopologyChange::AddPlacement { placement: PlacementId(0), strategy, assignment };
    let table = Table { id: TableId(1), prefix_index: true, settings: Default::default() };
    let tables = [("kv".to_owned(), table)].into();
    let keyspace = Keyspace { placement: PlacementId(0), sync: SyncPolicy::Sync, tables };
    let schema = Schema { keyspaces: [("default".to_owned(), keyspace)].into() };
    ClusterState { topology: topology.after(&change).unwrap(), schema }
}

fn member(place: usize, data_center: &str) -> Member {
    let port = |base: usize| format!("127.0.0.1:{}", base + place);
    Member {
        id: NodeId(place as u16),
        name: format!("node-{}", place + 1),
        data_center: data_center.into(),
        rack: "r1".into(),
        weight: 1,
        state: MemberState::Ready,
        addresses: Addresses { http: port(8080), grpc: port(7400), peer: port(7401), gossip: port(7402) },
    }
}

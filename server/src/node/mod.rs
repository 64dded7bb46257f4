//! A node, from its start to its end: ports, identity, membership, doors, drain.
//!
//! The order matters. Ports first, so that what is in use stops the start before anything is touched. Then who it is:
//! from its directory, or by finding or forming a cluster (`forming`). Then the parts of a member (`member.rs`), and last
//! the doors for clients. It ends the other way around: doors close, requests under way end, parts stop.

mod admin;
mod anti_entropy;
mod beginning;
mod bell;
mod calls;
mod clock_gate;
mod end;
mod figures;
mod front;
mod gone;
mod ground;
mod health;
mod hints;
mod leaving;
mod load;
mod member;
mod opening;
mod ports;
mod repair;
mod replication;
mod seams;
mod settings;
mod stuck;
mod threads;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use cube_storage::StoreError;
use cube_storage::clock::{Clock, SystemClock};
use cube_storage::files::FilesError;
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use self::beginning::Beginning;
use self::calls::Switchboard;
use self::end::{End, Serving, drain};
use self::front::Front;
use self::member::{Member, Start};
pub use self::ports::PortError;
use self::ports::{LaterPorts, Ports};
use crate::config::{Config, Live};
use crate::control::{OpenError, ProposeError};
use crate::edge::{Edge, EdgeParts};
use crate::forming::SearchError;
use crate::gossip::GossipError;
use crate::identity::{DataDir, DataDirError, NoRandomness};
use crate::peer::{PeerServer, PeerServiceParts, PeerSettings};
use crate::places::{Places, allow_many_files};
use crate::{grpc, rest};

/// Why a node ended.
#[derive(Debug, Error)]
pub enum NodeError {
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// A port cannot be had.
    #[error(transparent)]
    Port(#[from] PortError),
    /// The cluster refuses the node for good.
    #[error("{0}")]
    Refused(String),
    /// It is no member of its cluster any more.
    #[error("{0}")]
    Gone(&'static str),
    /// The search for a cluster ended.
    #[error(transparent)]
    Search(#[from] SearchError),
    /// The store does not open.
    #[error("the store cannot be opened: {0}")]
    Store(#[from] StoreError),
    /// Hints or marks cannot be opened.
    #[error("hints and marks cannot be opened: {0}")]
    Files(#[from] FilesError),
    /// The control plane does not open.
    #[error(transparent)]
    Control(#[from] OpenError),
    /// The cluster was not founded.
    #[error("the cluster could not be founded: {0}")]
    Found(#[from] ProposeError),
    /// Gossip does not start.
    #[error(transparent)]
    Gossip(#[from] GossipError),
    /// No identifier can be drawn.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    /// The system refused something.
    #[error("the system refused it: {0}")]
    Io(#[from] io::Error),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

impl NodeError {
    /// The exit code of the process: 2 for what its operator must change here, 3 for what the cluster refuses for good
    /// and for a node that left it, 1 for what may pass.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::DataDir(_) | Self::Port(PortError::Advertise { .. }) => 2,
            Self::Refused(_) | Self::Gone(_) | Self::Search(_) | Self::Found(ProposeError::Refused(_)) => 3,
            _ => 1,
        }
    }
}

/// Runs a node until it is told to stop.
pub fn run(settings: &Arc<Live>) -> Result<(), NodeError> {
    let config = settings.current();
    let dir = DataDir::open(&config.data_dir, &config.name)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("cube-async").build()?;
    let result = runtime.block_on(live(settings, &config, dir));
    // What still waits for a peer or a client has been given its time.
    runtime.shutdown_timeout(Duration::from_secs(2));
    result
}

/// The life of a node.
/// It begins with `config`, which is what `settings` said at the start.
async fn live(settings: &Arc<Live>, config: &Config, dir: DataDir) -> Result<(), NodeError> {
    let mut end = End::watch()?;
    settings::follow(settings)?;
    let Ports { http, peer, later } = Ports::take(config).await?;
    let machine: Arc<dyn Clock> = Arc::new(SystemClock::new(config.clock.offset.ms));
    tracing::info!(
        http = later.addresses.http,
        grpc = later.addresses.grpc,
        peer = later.addresses.peer,
        gossip = later.addresses.gossip,
        version = env!("CARGO_PKG_VERSION"),
        "starting"
    );

    allow_many_files();
    let places = |port| Places::new(port, config.overload.connections_max);
    let begin = Arc::new(Beginning::new(config, &dir, &later.addresses));
    let waits = Arc::clone(&begin);
    let name = config.name.clone();
    let front = Front::new(rest::starting(Arc::new(move || health::not_yet(&name, &|| waits.waits_for()))));
    let stop_doors = CancellationToken::new();
    let doors = stop_doors.clone();
    let (http_places, grpc_places) = (places("http"), places("grpc"));
    let ports = [http_places.figures(), grpc_places.figures()];
    let mut http = tokio::spawn(rest::serve(http, front.router(), http_places, async move { doors.cancelled().await }));

    let switchboard = Arc::new(Switchboard::default());
    let peer_server = PeerServer::new(PeerServiceParts {
        calls: Arc::clone(&switchboard) as Arc<dyn crate::peer::Calls>,
        clock: Arc::clone(&machine),
        settings: PeerSettings::default(),
    });
    let stop_peers = CancellationToken::new();
    let (server, stopped) = (peer_server.clone(), stop_peers.clone());
    let mut peers = tokio::spawn(async move { server.run(peer, stopped).await });

    let started = tokio::select! {
        started = begin_member(config, dir, later, &begin, &switchboard, &peer_server, &machine) => started?,
        () = end.told() => return Ok(()),
    };
    let Started { member, grpc: grpc_listener, dir } = started;
    let edge = Edge::new(EdgeParts {
        coordinator: Arc::clone(&member.coordinator),
        catalog: Arc::clone(&member.catalog),
        admin: admin::admin(&member),
        limits: config.store_limits(),
        settings: config.coordinator(),
        sync: config.sync_policy(),
        config: Arc::clone(settings),
        traces: member.traces.clone(),
        doors: Arc::clone(&member.doors),
    });
    ports.into_iter().for_each(|port| edge.meter().watch_port(port));
    settings::apply(&member, settings);
    watch_clock(&member, &edge);
    front.replace(rest::router(Arc::clone(&edge)));
    let doors = stop_doors.clone();
    let routes = grpc::routes(Arc::clone(&edge)).map_err(|error| NodeError::Failed(error.to_string()))?;
    let mut grpc =
        tokio::spawn(grpc::serve(grpc_listener, routes, grpc_places, async move { doors.cancelled().await }));
    tracing::info!(cluster = %member.identity.cluster, node = %member.identity.node, "serving");

    let outcome = tokio::select! {
        () = end.told() => Ok(()),
        reason = member.gone() => Err(NodeError::Gone(reason)),
        ended = &mut http => Err(NodeError::Failed(format!("the HTTP port ended: {ended:?}"))),
        ended = &mut peers => Err(NodeError::Failed(format!("the peer port ended: {ended:?}"))),
        ended = &mut grpc => Err(NodeError::Failed(format!("the gRPC port ended: {ended:?}"))),
    };
    let (edge, front, member) = (&edge, &front, &member);
    drain(&settings.current(), Serving { edge, front, member, stop_doors, stop_peers, http, grpc, peers }, &mut end)
        .await;
    drop(dir);
    outcome
}

/// Clients that may wait to be accepted.
const CLIENTS_WAITING_MAX: u32 = 1024;

/// How often it is looked whether the clock is out of bound: peers tell theirs every second.
const CLOCK_LOOK_EVERY: Duration = Duration::from_millis(500);

/// A node whose clock is out of bound against most others does not coordinate, nor does one that does not know yet. That
/// holds from before the first request.
fn watch_clock(member: &Arc<Member>, edge: &Arc<Edge>) {
    member.judge_clock(|unfit| edge.turn_away(unfit));
    let (member, edge) = (Arc::downgrade(member), Arc::downgrade(edge));
    tokio::spawn(async move {
        while let (Some(member), Some(edge)) = (member.upgrade(), edge.upgrade()) {
            let is_fit = member.judge_clock(|unfit| edge.turn_away(unfit));
            let next_look = if is_fit { CLOCK_LOOK_EVERY } else { clock_gate::LOOK_EVERY };
            drop((member, edge));
            tokio::time::sleep(next_look).await;
        }
    });
}

/// What has been started when a node is a member.
struct Started {
    member: Arc<Member>,
    grpc: tokio::net::TcpListener,
    /// Locked until the end.
    dir: DataDir,
}

async fn begin_member(
    config: &Config,
    mut dir: DataDir,
    ports: LaterPorts,
    begin: &Arc<Beginning>,
    switchboard: &Arc<Switchboard>,
    peer_server: &PeerServer,
    machine: &Arc<dyn Clock>,
) -> Result<Started, NodeError> {
    let identity = match dir.identity().cloned() {
        Some(identity) => {
            begin.check_return(config, &identity).await?;
            identity
        }
        None => {
            switchboard.searching(Arc::clone(&begin.search));
            let identity = begin.find(config).await?;
            dir.establish(identity.clone())?;
            identity
        }
    };
    begin.is(&identity);
    begin.now("opening its data");
    let (addresses, advertise) = (ports.addresses.clone(), ports.advertise);
    let LaterPorts { grpc, gossip, .. } = ports;
    // Gossip binds the port anew; nobody else is told of it in between.
    let gossip = { gossip }.local_addr()?;
    let machine = Arc::clone(machine);
    let start =
        Start { config, dir: &dir, identity, addresses, advertise, gossip, switchboard, peer_server, begin, machine };
    let member = Member::start(start).await?;
    Ok(Started { member, grpc: grpc.listen(CLIENTS_WAITING_MAX)?, dir })
}

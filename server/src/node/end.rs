//! The end of a node: told by a signal, then in order; and how its doors are closed, also where it goes on.
//!
//! Health says it first, for a while in which everything is still served, so that clients and balancers go elsewhere and
//! nobody is turned away who looks; if it leads in Raft, another node is made to meanwhile. Then new work is refused, and
//! what is under way gets its time. Then the others are told, by gossip and on every connection, so that they stop asking
//! at once instead of finding out; what they asked before is answered. Last the doors close and the parts of the member
//! stop.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::front::Front;
use super::member::Member;
use crate::config::Config;
use crate::edge::{Closing, Doors, Edge};
use crate::peer::PeerServerError;

/// How long a port may take to send its last answers: whoever does not read them loses them.
const CLOSE_WITHIN: Duration = Duration::from_secs(6);
/// How often it is looked whether requests are still under way.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Waits for the signals that end a node.
pub(super) struct End {
    terminate: Signal,
    interrupt: Signal,
}

impl End {
    pub(super) fn watch() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Returns when the node is told to end.
    pub(super) async fn told(&mut self) {
        let by = tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        };
        tracing::info!(by, "told to stop");
    }
}

/// Closes the doors for a reason: says so, until `announced` is done, and turns new work away from then on, unless that was
/// taken back meanwhile.
pub(super) async fn close_doors(doors: &Doors, why: Closing, announced: impl Future<Output = ()>) {
    doors.announce(why);
    announced.await;
    doors.close_as_announced(why);
}

/// Closes the doors of a node that goes on, in the background.
pub(super) fn begin_closing(doors: &Arc<Doors>, why: Closing, announce: Duration) {
    let doors = Arc::clone(doors);
    // Health says it from this moment on, not from when the task begins.
    doors.announce(why);
    tokio::spawn(async move { close_doors(&doors, why, tokio::time::sleep(announce)).await });
}

/// A port that is served.
pub(super) type Door<E> = JoinHandle<Result<(), E>>;

/// What ends with a node that serves.
pub(super) struct Serving<'a> {
    pub(super) edge: &'a Edge,
    pub(super) front: &'a Front,
    pub(super) member: &'a Arc<Member>,
    pub(super) stop_doors: CancellationToken,
    pub(super) stop_peers: CancellationToken,
    pub(super) http: Door<io::Error>,
    pub(super) grpc: Door<io::Error>,
    pub(super) peers: Door<PeerServerError>,
}

/// Ends a node that serves; at once where it is told a second time.
pub(super) async fn drain(config: &Config, serving: Serving<'_>, end: &mut End) {
    let Serving { edge, front, member, stop_doors, stop_peers, http, grpc, peers } = serving;
    front.last_answers();
    member.transport.leave();
    let announced = async {
        let announced = async {
            tokio::select! {
                () = tokio::time::sleep(config.timeouts.announce) => {}
                () = end.told() => {}
            }
        };
        // Changes of the hard state go on under another leader, before this one is missed.
        tokio::join!(announced, member.control.hand_over());
    };
    close_doors(edge.doors(), Closing::Stopping, announced).await;
    let idle = async {
        while member.coordinator.in_flight() > 0 {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    if tokio::time::timeout(config.timeouts.drain, idle).await.is_err() {
        let left = member.coordinator.in_flight();
        tracing::warn!(left, "requests were still under way after timeouts.drain: they are cut off");
    }
    member.gossip.leave().await;
    stop_peers.cancel();
    ended("the peer port", peers).await;
    stop_doors.cancel();
    ended("the gRPC port", grpc).await;
    ended("the HTTP port", http).await;
    member.stop().await;
    tracing::info!("stopped");
}

/// Waits until a port is closed.
async fn ended<E: std::fmt::Display>(port: &str, mut door: Door<E>) {
    // One that ended by itself is why the node ends, and was told.
    if door.is_finished() {
        return;
    }
    match tokio::time::timeout(CLOSE_WITHIN, &mut door).await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => tracing::warn!(%error, "{port} did not close in order"),
        Ok(Err(error)) => tracing::warn!(%error, "{port} did not close in order"),
        Err(_) => {
            tracing::warn!("clients of {port} do not take their last answers: their connections are cut");
            door.abort();
        }
    }
}

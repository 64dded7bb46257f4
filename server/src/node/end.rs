//! The end of a node: told by a signal, then in order.
//!
//! New work is turned away first, and health says so, so that clients and balancers go elsewhere; what is under way gets
//! its time; then the peers are told, and the parts of the member stop.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::member::Member;
use crate::config::Config;
use crate::edge::Edge;

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

/// Ends a node that serves.
pub(super) async fn drain(
    config: &Config,
    edge: &Edge,
    member: &Arc<Member>,
    doors: &CancellationToken,
    peers: &CancellationToken,
) {
    edge.drain();
    let idle = async {
        while member.coordinator.in_flight() > 0 {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    if tokio::time::timeout(config.timeouts.drain, idle).await.is_err() {
        let left = member.coordinator.in_flight();
        tracing::warn!(left, "requests were still under way after timeouts.drain: they are cut off");
    }
    doors.cancel();
    peers.cancel();
    member.stop().await;
    tracing::info!("stopped");
}

//! That a node is no member any more: told once, heard by whoever runs the node.

use std::sync::OnceLock;

use tokio_util::sync::CancellationToken;

/// Told at most once.
#[derive(Default)]
pub(super) struct Gone {
    reason: OnceLock<&'static str>,
    told: CancellationToken,
}

impl Gone {
    /// The node is to end for this reason.
    pub(super) fn tell(&self, reason: &'static str) {
        self.reason.get_or_init(|| {
            tracing::warn!(reason, "this node ends by itself");
            reason
        });
        self.told.cancel();
    }

    /// Waits until it is told.
    pub(super) async fn wait(&self) -> &'static str {
        self.told.cancelled().await;
        self.reason.get().copied().unwrap_or_default()
    }
}

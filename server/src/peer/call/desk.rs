//! The answering side of calls: bounds in number and time around [`Calls`].

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cube_proto::peer::v1 as wire;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::{CallRefused, Calls};
use crate::identity::ClusterId;
use crate::peer::identity::{PeerIdentity, check_cluster};

/// The longest time that a caller may ask for.
const TIME_MS_MAX: u32 = 600_000;

/// Where calls are answered.
pub(in crate::peer) struct Desk {
    calls: Arc<dyn Calls>,
    at_once_max: usize,
    places: Semaphore,
}

impl Desk {
    pub(in crate::peer) fn new(calls: Arc<dyn Calls>, at_once_max: usize) -> Self {
        let at_once_max = at_once_max.clamp(1, Semaphore::MAX_PERMITS);
        Self { calls, at_once_max, places: Semaphore::new(at_once_max) }
    }

    /// Answers a call, if it comes from this node's cluster or from no cluster.
    pub(in crate::peer) async fn answer(
        &self,
        cluster: Option<ClusterId>,
        request: wire::CallRequest,
    ) -> Result<Bytes, CallRefused> {
        let _place = self
            .places
            .try_acquire()
            .map_err(|_| CallRefused::Overloaded(format!("{} calls are being answered", self.at_once_max)))?;
        let from = request.from.map(PeerIdentity::try_from).transpose();
        let from = from.map_err(|refused| CallRefused::Invalid(refused.to_string()))?;
        if let (Some(ours), Some(theirs)) = (cluster, &from) {
            check_cluster(ours, theirs).map_err(|refused| CallRefused::AnotherCluster(refused.to_string()))?;
        }
        let within = Duration::from_millis(request.time_left_ms.min(TIME_MS_MAX).into());
        match timeout(within, self.calls.call(from, request.kind, request.payload)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(CallRefused::NotNow("the caller's time is over".into())),
        }
    }
}

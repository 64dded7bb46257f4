//! Calls: single questions between nodes, for the control plane and for nodes that are no members yet.
//!
//! What a call means is not known here: a number and bytes go to whoever answers calls. Who calls is told along, and
//! checked for its cluster only, since a member may be asked by one that it has not heard of yet. Each call has a time
//! limit, and so many are answered at once.

mod caller;
mod desk;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use cube_proto::peer::v1 as wire;
use thiserror::Error;

pub use self::caller::{CallError, PeerCaller};
pub(super) use self::desk::Desk;
use super::identity::PeerIdentity;

/// Answers calls.
#[async_trait]
pub trait Calls: Send + Sync {
    /// Answers one. `from` is nobody while the caller is no member of a cluster; if it is one, it is of this cluster,
    /// once this node has one. The future is dropped when the caller's time is over.
    async fn call(&self, from: Option<PeerIdentity>, kind: u32, payload: Bytes) -> Result<Bytes, CallRefused>;
}

/// Why a call was not answered.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CallRefused {
    /// Nobody here knows that kind of call.
    #[error("it does not know that call: {0}")]
    UnknownKind(String),
    /// The caller belongs to another cluster.
    #[error("{0}")]
    AnotherCluster(String),
    /// What was asked cannot be read.
    #[error("it calls the question invalid: {0}")]
    Invalid(String),
    /// Too many calls are being answered.
    #[error("it is overloaded: {0}")]
    Overloaded(String),
    /// It cannot be answered now, and perhaps later.
    #[error("not now: {0}")]
    NotNow(String),
    /// It was tried, and failed.
    #[error("it failed: {0}")]
    Failed(String),
}

pub(super) fn to_wire(outcome: Result<Bytes, CallRefused>) -> wire::CallReply {
    let outcome = match outcome {
        Ok(payload) => wire::call_reply::Outcome::Payload(payload),
        Err(refused) => wire::call_reply::Outcome::Refused(refused.into()),
    };
    wire::CallReply { outcome: Some(outcome) }
}

impl From<CallRefused> for wire::CallRefused {
    fn from(refused: CallRefused) -> Self {
        let (reason, detail) = match refused {
            CallRefused::UnknownKind(detail) => (wire::CallRefusalReason::UnknownKind, detail),
            CallRefused::AnotherCluster(detail) => (wire::CallRefusalReason::AnotherCluster, detail),
            CallRefused::Invalid(detail) => (wire::CallRefusalReason::Invalid, detail),
            CallRefused::Overloaded(detail) => (wire::CallRefusalReason::Overloaded, detail),
            CallRefused::NotNow(detail) => (wire::CallRefusalReason::NotNow, detail),
            CallRefused::Failed(detail) => (wire::CallRefusalReason::Failed, detail),
        };
        Self { reason: reason.into(), detail }
    }
}

impl From<wire::CallRefused> for CallRefused {
    fn from(refused: wire::CallRefused) -> Self {
        let reason = refused.reason();
        let detail = refused.detail;
        match reason {
            wire::CallRefusalReason::UnknownKind => Self::UnknownKind(detail),
            wire::CallRefusalReason::AnotherCluster => Self::AnotherCluster(detail),
            wire::CallRefusalReason::Invalid => Self::Invalid(detail),
            wire::CallRefusalReason::Overloaded => Self::Overloaded(detail),
            wire::CallRefusalReason::NotNow => Self::NotNow(detail),
            wire::CallRefusalReason::Failed | wire::CallRefusalReason::Unspecified => Self::Failed(detail),
        }
    }
}

/// Who calls, as this node tells others: known once it is a member.
pub type Caller = Arc<dyn Fn() -> Option<PeerIdentity> + Send + Sync>;

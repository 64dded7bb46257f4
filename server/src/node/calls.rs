//! Single questions between nodes, told apart by number: those of the control plane, and those by which a node finds its
//! cluster. Answered from the first moment, by whatever the node is at that time.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use bytes::Bytes;
use cube_storage::model::NodeId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::end::begin_closing;
use crate::control::{
    Answer as Decided, Command, Control, ControlCall, ControlLink, LinkError, NewMember, ProposeError,
};
use crate::edge::{Closing, Doors, Phase};
use crate::forming::{Answer, Ask, AskPeers, JoinAnswer, JoinRequest, Membership, Search};
use crate::identity::ClusterId;
use crate::peer::{CallError, CallRefused, Calls, PeerCaller, PeerIdentity};

/// The numbers below belong to the control plane.
const FIRST_OF_FORMING: u32 = 256;
/// Whether a node belongs to a cluster.
const ASK: u32 = FIRST_OF_FORMING;
/// To be taken in.
const JOIN: u32 = FIRST_OF_FORMING + 1;

/// To take no more requests of clients, or to take them again.
const DRAIN: u32 = 512;
/// Whether a node is this member, and lives.
const PRESENT: u32 = 513;

/// How long a node may take to hear that it is drained.
const DRAIN_WITHIN: Duration = Duration::from_secs(5);
/// How long a node may take to say that it lives: it only looks into its memory. Who asks for a removal waits so long.
const PRESENT_WITHIN: Duration = Duration::from_secs(2);
/// How long a seed may take to answer: it only looks into its memory.
const ASK_WITHIN: Duration = Duration::from_secs(2);
/// How long taking a node in may take: the cluster agrees on it, maybe after electing a leader.
const JOIN_WITHIN: Duration = Duration::from_secs(15);
/// What a member that takes a node in leaves for the answer to travel.
const DECIDE_WITHIN: Duration = Duration::from_secs(12);

/// A node that is a member, as callers see it.
pub(super) struct Member {
    pub(super) membership: Membership,
    pub(super) control: Arc<Control>,
    pub(super) drain: Arc<Drain>,
}

/// What an operator wants of a node's doors, whichever node he asked.
#[derive(Serialize, Deserialize)]
struct DrainOrder {
    cluster: ClusterId,
    node: NodeId,
    undo: bool,
}

/// Who is asked whether it is there.
#[derive(Serialize, Deserialize)]
struct Wanted {
    cluster: ClusterId,
    node: NodeId,
}

/// What drains a node.
pub(super) struct Drain {
    pub(super) doors: Arc<Doors>,
    /// How long health says it before requests are turned away.
    pub(super) announce: Duration,
}

impl Drain {
    /// Has the node take no more requests of clients, or take them again.
    pub(super) fn follow(&self, undo: bool) {
        if undo {
            self.doors.open(Closing::Drained);
            tracing::info!("an operator has this node take requests of clients again");
        } else if self.doors.phase(Closing::Drained) == Phase::Open {
            tracing::warn!("an operator drains this node: it takes no more requests of clients, and stays a replica");
            begin_closing(&self.doors, Closing::Drained, self.announce);
        }
    }
}

/// Answers calls.
#[derive(Default)]
pub(super) struct Switchboard {
    search: ArcSwapOption<Search>,
    member: ArcSwapOption<Member>,
}

impl Switchboard {
    /// The node searches its cluster.
    pub(super) fn searching(&self, search: Arc<Search>) {
        self.search.store(Some(search));
    }

    /// The node is a member.
    pub(super) fn is_member(&self, member: Member) {
        self.member.store(Some(Arc::new(member)));
    }

    fn on_ask(&self, ask: &Ask) -> Answer {
        if let Some(member) = self.member.load().as_ref() {
            return Answer::Member(member.membership.clone());
        }
        // Between the search and the membership it forms or joins.
        self.search.load().as_ref().map_or(Answer::Forming, |search| search.on_ask(ask))
    }

    fn on_drain(&self, order: &DrainOrder) -> Result<(), CallRefused> {
        self.meant(order.cluster, order.node)?.drain.follow(order.undo);
        Ok(())
    }

    /// This node as a member, if it is the one that is meant.
    fn meant(&self, cluster: ClusterId, node: NodeId) -> Result<Arc<Member>, CallRefused> {
        let member = self.member.load_full().ok_or_else(|| CallRefused::NotNow("it is no member yet".into()))?;
        if (cluster, node) != (member.membership.cluster, member.membership.node) {
            return Err(CallRefused::Failed(format!("{node} is meant, and this is another node")));
        }
        Ok(member)
    }

    async fn on_join(&self, request: JoinRequest) -> JoinAnswer {
        let Some(member) = self.member.load_full() else {
            return JoinAnswer::Later { reason: "it is no member of a cluster itself yet".into() };
        };
        let JoinRequest { name, data_center, rack, weight, addresses, instance } = request;
        let (data_center, rack) = (data_center.as_str().into(), rack.as_str().into());
        let joiner = NewMember { name: name.clone(), data_center, rack, weight, addresses, instance };
        match member.control.propose(Command::Join(joiner), DECIDE_WITHIN).await {
            Ok(Decided::Joined { node }) => {
                tracing::info!(%node, name, "a node joined");
                joined(&member.control, node)
            }
            Ok(other) => JoinAnswer::Later { reason: format!("it was answered {other:?}") },
            Err(ProposeError::Refused(refusal)) => JoinAnswer::Refused { reason: refusal.to_string() },
            Err(error) => JoinAnswer::Later { reason: error.to_string() },
        }
    }
}

fn joined(control: &Control, node: NodeId) -> JoinAnswer {
    let state = control.current();
    match state.founded {
        Some(founded) => JoinAnswer::Joined {
            cluster: founded.cluster,
            node,
            merkle_key: founded.merkle_key,
            partition_bits: state.topology().partition_bits().bits(),
        },
        None => JoinAnswer::Later { reason: "it has not heard of its cluster's state yet".into() },
    }
}

#[async_trait]
impl Calls for Switchboard {
    async fn call(&self, _from: Option<PeerIdentity>, kind: u32, payload: Bytes) -> Result<Bytes, CallRefused> {
        match kind {
            ASK => encode(&self.on_ask(&decode(&payload)?)),
            JOIN => encode(&self.on_join(decode(&payload)?).await),
            DRAIN => encode(&self.on_drain(&decode(&payload)?)?),
            PRESENT => {
                let Wanted { cluster, node } = decode(&payload)?;
                encode(&self.meant(cluster, node).map(drop)?)
            }
            kind => {
                let call = u8::try_from(kind).ok().and_then(ControlCall::of);
                let call = call.ok_or_else(|| CallRefused::UnknownKind(kind.to_string()))?;
                let member =
                    self.member.load_full().ok_or_else(|| CallRefused::NotNow("it is no member yet".into()))?;
                member.control.handle(call, payload).await.map_err(|error| CallRefused::Failed(error.to_string()))
            }
        }
    }
}

fn encode<T: Serialize>(message: &T) -> Result<Bytes, CallRefused> {
    postcard::to_stdvec(message).map(Bytes::from).map_err(|error| CallRefused::Failed(error.to_string()))
}

fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T, CallRefused> {
    postcard::from_bytes(payload).map_err(|error| CallRefused::Invalid(error.to_string()))
}

/// Calls of this node to others.
#[derive(Clone)]
pub(super) struct Outgoing(pub(super) Arc<PeerCaller>);

impl Outgoing {
    /// Has another node take no more requests of clients, or take them again. Why not, if it did not hear of it.
    pub(super) async fn drain(
        &self,
        address: &str,
        cluster: ClusterId,
        node: NodeId,
        undo: bool,
    ) -> Result<(), String> {
        self.exchange(address, DRAIN, &DrainOrder { cluster, node, undo }, DRAIN_WITHIN).await
    }

    /// Whether a member answers where it is to be reached, whatever gossip says of it. One of an older release does not.
    pub(super) async fn is_present(&self, address: &str, cluster: ClusterId, node: NodeId) -> bool {
        self.exchange::<()>(address, PRESENT, &Wanted { cluster, node }, PRESENT_WITHIN).await.is_ok()
    }

    async fn exchange<T: DeserializeOwned>(
        &self,
        address: &str,
        kind: u32,
        message: &(impl Serialize + Sync),
        within: Duration,
    ) -> Result<T, String> {
        let payload = encode(message).map_err(|error| error.to_string())?;
        let reply = self.0.call(address, kind, payload, within).await.map_err(|error| error.to_string())?;
        postcard::from_bytes(&reply).map_err(|error| format!("{address} answered nonsense: {error}"))
    }
}

#[async_trait]
impl AskPeers for Outgoing {
    async fn ask(&self, address: &str, question: &Ask) -> Result<Answer, String> {
        self.exchange(address, ASK, question, ASK_WITHIN).await
    }

    async fn join(&self, address: &str, request: &JoinRequest) -> Result<JoinAnswer, String> {
        self.exchange(address, JOIN, request, JOIN_WITHIN).await
    }
}

#[async_trait]
impl ControlLink for Outgoing {
    async fn call(
        &self,
        to: NodeId,
        address: &str,
        call: ControlCall,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, LinkError> {
        let address = address.to_owned();
        self.0.call(&address, call.number().into(), payload, timeout).await.map_err(|error| match error {
            CallError::Unreachable { detail, .. } | CallError::BadAddress { detail, .. } => {
                LinkError::Unreachable { node: to, address, detail }
            }
            CallError::Refused { refused, .. } => LinkError::Refused { reason: refused.to_string() },
            CallError::Broken { .. } | CallError::TimedOut { .. } => {
                LinkError::NoAnswer { node: to, address, detail: error.to_string() }
            }
        })
    }
}

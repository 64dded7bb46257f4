//! The transport between nodes of one process: for tests, benchmarks and a cluster in one process.
//!
//! Every message is serialised and read back on both ways, so nothing is shared that a network would not carry. What it
//! promises is what every transport promises (`conformance.rs`). Time comes from a [`Clock`]: it passes when somebody
//! calls [`InProcess::deliver`], which also ends what has waited too long.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use cube_storage::clock::Clock;
use cube_storage::model::NodeId;
use parking_lot::Mutex;

use super::{Lane, OnReply, PeerError, PeerTransport, Serve};
use crate::codec;
use crate::messages::{Reply, Request};

/// When messages arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Before `send` returns, on the sender's thread; a reply before the answerer goes on.
    Immediate,
    /// When [`InProcess::deliver`] is called, foreground first, each lane in the order of sending.
    Pumped,
}

/// A network in memory. Clones are the same network.
#[derive(Clone)]
pub struct InProcess {
    shared: Arc<Shared>,
}

struct Shared {
    clock: Arc<dyn Clock>,
    delivery: Delivery,
    waiting_max: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    nodes: BTreeMap<NodeId, Arc<dyn Serve>>,
    next_id: u64,
    /// Requests that nobody has been told of, in the order of sending.
    pending: BTreeMap<u64, Pending>,
    /// How many of them there are between two nodes.
    waiting: BTreeMap<(NodeId, NodeId, Lane), usize>,
    foreground: VecDeque<Message>,
    background: VecDeque<Message>,
}

struct Pending {
    from: NodeId,
    to: NodeId,
    lane: Lane,
    deadline_ms: u64,
    /// Whether it has left its queue, so that it may be carried out.
    sent: bool,
    reply: OnReply,
}

enum Message {
    Request { id: u64, bytes: Vec<u8> },
    Reply { id: u64, bytes: Vec<u8> },
}

impl InProcess {
    /// A network without nodes, on which up to `waiting_max` requests of each lane may wait between any two.
    pub fn new(clock: Arc<dyn Clock>, delivery: Delivery, waiting_max: usize) -> Self {
        Self { shared: Arc::new(Shared { clock, delivery, waiting_max, state: Mutex::default() }) }
    }

    /// Connects a node, or connects it again: `service` gets what is sent to it.
    pub fn connect(&self, node: NodeId, service: Arc<dyn Serve>) {
        self.shared.state.lock().nodes.insert(node, service);
    }

    /// The end of the network from which `node` sends.
    pub fn transport(&self, node: NodeId) -> Arc<dyn PeerTransport> {
        Arc::new(Endpoint { network: self.clone(), me: node })
    }

    /// Cuts a node off from all others. What is under way from and to it breaks.
    pub fn disconnect(&self, node: NodeId) {
        let mut state = self.shared.state.lock();
        state.nodes.remove(&node);
        let broken = state.take(|pending| pending.from == node || pending.to == node);
        drop(state);
        for pending in broken {
            let peer = pending.to;
            let error = if pending.sent { PeerError::Broken { peer } } else { PeerError::Unreachable { peer } };
            (pending.reply)(Err(error));
        }
    }

    /// Delivers the messages that are under way now, and ends the requests whose time is over. How many there were.
    pub fn deliver(&self) -> usize {
        let state = self.shared.state.lock();
        let under_way = state.foreground.len() + state.background.len();
        drop(state);
        let mut delivered = self.expire();
        for _ in 0..under_way {
            let mut state = self.shared.state.lock();
            let next = state.foreground.pop_front();
            let Some(message) = next.or_else(|| state.background.pop_front()) else { break };
            drop(state);
            delivered += 1;
            match message {
                Message::Request { id, bytes } => self.serve(id, &bytes),
                Message::Reply { id, bytes } => self.tell(id, &bytes),
            }
        }
        delivered
    }

    /// Requests that nobody has been told of yet.
    pub fn pending(&self) -> usize {
        self.shared.state.lock().pending.len()
    }

    fn expire(&self) -> usize {
        let now_ms = self.shared.clock.monotonic_ms();
        let overdue = self.shared.state.lock().take(|pending| pending.deadline_ms <= now_ms);
        let count = overdue.len();
        for pending in overdue {
            (pending.reply)(Err(PeerError::TimedOut { peer: pending.to }));
        }
        count
    }

    fn send(&self, from: NodeId, to: NodeId, lane: Lane, request: &Request, reply: OnReply) {
        let mut state = self.shared.state.lock();
        if let Some(error) = self.refusal(&state, from, to, lane) {
            drop(state);
            return reply(Err(error));
        }
        let bytes = match codec::encode(request) {
            Ok(bytes) => bytes,
            Err(error) => {
                drop(state);
                return reply(Ok(super::unsent(from, request.clock, &error)));
            }
        };
        let id = state.next_id;
        state.next_id += 1;
        let deadline_ms = self.shared.clock.monotonic_ms().saturating_add(u64::from(request.time_left_ms));
        *state.waiting.entry((from, to, lane)).or_default() += 1;
        state.pending.insert(id, Pending { from, to, lane, deadline_ms, sent: false, reply });
        match self.shared.delivery {
            Delivery::Pumped => state.queue(lane).push_back(Message::Request { id, bytes }),
            Delivery::Immediate => {
                drop(state);
                self.serve(id, &bytes);
            }
        }
    }

    fn refusal(&self, state: &State, from: NodeId, to: NodeId, lane: Lane) -> Option<PeerError> {
        if !state.nodes.contains_key(&from) || !state.nodes.contains_key(&to) {
            return Some(PeerError::Unreachable { peer: to });
        }
        let waiting = state.waiting.get(&(from, to, lane)).copied().unwrap_or_default();
        let limit = self.shared.waiting_max;
        (waiting >= limit).then_some(PeerError::QueueFull { peer: to, waiting, limit })
    }

    /// A request arrives: with the time that is left of it, or too late to be carried out.
    fn serve(&self, id: u64, bytes: &[u8]) {
        let mut state = self.shared.state.lock();
        let Some(pending) = state.pending.get_mut(&id) else { return };
        let left_ms = pending.deadline_ms.saturating_sub(self.shared.clock.monotonic_ms());
        let peer = pending.to;
        pending.sent = true;
        let service = state.nodes.get(&peer).cloned();
        drop(state);
        if left_ms == 0 {
            return self.end(id, Err(PeerError::TimedOut { peer }));
        }
        match (codec::decode::<Request>(bytes), service) {
            (Ok(request), Some(service)) => {
                let time_left_ms = u32::try_from(left_ms).unwrap_or(u32::MAX);
                let network = self.clone();
                service.serve(Request { time_left_ms, ..request }, Box::new(move |reply| network.answer(id, reply)));
            }
            _ => self.end(id, Err(PeerError::Broken { peer })),
        }
    }

    fn answer(&self, id: u64, reply: Reply) {
        let bytes = codec::encode_reply(reply);
        let mut state = self.shared.state.lock();
        // Nobody waits for it any more.
        let Some((lane, peer)) = state.pending.get(&id).map(|pending| (pending.lane, pending.to)) else { return };
        match (bytes, self.shared.delivery) {
            (Ok(bytes), Delivery::Pumped) => state.queue(lane).push_back(Message::Reply { id, bytes }),
            (Ok(bytes), Delivery::Immediate) => {
                drop(state);
                self.tell(id, &bytes);
            }
            (Err(_), _) => {
                drop(state);
                self.end(id, Err(PeerError::Broken { peer }));
            }
        }
    }

    /// A reply arrives.
    fn tell(&self, id: u64, bytes: &[u8]) {
        let Some(peer) = self.shared.state.lock().pending.get(&id).map(|pending| pending.to) else { return };
        self.end(id, codec::decode(bytes).map_err(|_| PeerError::Broken { peer }));
    }

    fn end(&self, id: u64, result: Result<Reply, PeerError>) {
        let ended = self.shared.state.lock().remove(id);
        if let Some(pending) = ended {
            (pending.reply)(result);
        }
    }
}

impl State {
    fn queue(&mut self, lane: Lane) -> &mut VecDeque<Message> {
        match lane {
            Lane::Foreground => &mut self.foreground,
            Lane::Background => &mut self.background,
        }
    }

    fn remove(&mut self, id: u64) -> Option<Pending> {
        let pending = self.pending.remove(&id)?;
        if let Some(waiting) = self.waiting.get_mut(&(pending.from, pending.to, pending.lane)) {
            *waiting -= 1;
        }
        Some(pending)
    }

    /// Takes out the requests of which something holds, in the order of sending.
    fn take(&mut self, which: impl Fn(&Pending) -> bool) -> Vec<Pending> {
        let ids: Vec<u64> = self.pending.iter().filter(|(_, pending)| which(pending)).map(|(id, _)| *id).collect();
        ids.into_iter().filter_map(|id| self.remove(id)).collect()
    }
}

struct Endpoint {
    network: InProcess,
    me: NodeId,
}

impl PeerTransport for Endpoint {
    fn send(&self, to: NodeId, lane: Lane, request: Request, reply: OnReply) {
        self.network.send(self.me, to, lane, &request, reply);
    }
}

#[cfg(test)]
mod tests;

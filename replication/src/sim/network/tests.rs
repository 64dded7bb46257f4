//! The common laws of a transport on the simulated network, in fair weather; what it does in foul weather is what the
//! simulator is for.

use super::*;
use crate::transport::conformance::{self, Harness};

struct Simulated {
    schedule: Schedule,
    network: SimNetwork,
    services: BTreeMap<NodeId, Arc<dyn Serve>>,
    lives: u64,
}

impl Simulated {
    fn new(seed: u64) -> Self {
        let schedule = Schedule::new(seed);
        let network = SimNetwork::new(schedule.clone(), None);
        Self { schedule, network, services: BTreeMap::new(), lives: 0 }
    }

    fn happen(&self, event: Event) {
        match event {
            Event::Deliver { to, id, bytes } => match self.services.get(&to) {
                Some(service) => self.network.deliver((to, self.life_of(to)), id, &bytes, service.as_ref()).unwrap(),
                None => self.schedule.after_us(100, Event::RequestUnreachable(id)),
            },
            Event::DeliverReply { id, bytes, .. } => self.network.deliver_reply(id, &bytes).unwrap(),
            Event::RequestTimeout(id) => self.end(id, |peer| PeerError::TimedOut { peer }),
            Event::RequestUnreachable(id) => self.end(id, |peer| PeerError::Unreachable { peer }),
            _ => unreachable!("nothing else happens on a network"),
        }
    }

    fn end(&self, id: RequestId, error: impl Fn(NodeId) -> PeerError) {
        if let Some((_, peer)) = self.network.ends(id) {
            self.network.fail(id, error(peer));
        }
    }

    fn life_of(&self, node: NodeId) -> u64 {
        self.network.state.lock().lives[&node]
    }
}

impl Harness for Simulated {
    fn connect(&mut self, node: NodeId, service: Arc<dyn Serve>) {
        self.lives += 1;
        self.services.insert(node, service);
        self.network.handle(node, self.lives);
    }

    fn transport(&mut self, node: NodeId) -> Arc<dyn PeerTransport> {
        Arc::new(self.network.handle(node, self.life_of(node)))
    }

    fn disconnect(&mut self, node: NodeId) {
        self.services.remove(&node);
        self.network.forget(node);
    }

    fn pass_ms(&mut self, ms: u64) {
        let until_us = self.schedule.now_us() + ms * 1_000;
        while let Some(event) = self.schedule.next_by(until_us) {
            self.happen(event);
        }
    }

    fn waiting_max(&self) -> usize {
        WAITING_MAX
    }
}

#[test]
fn it_keeps_the_promises_of_a_transport_whatever_the_seed() {
    for seed in 0..20 {
        assert_eq!(conformance::check(|| Simulated::new(seed)), Ok(()), "seed {seed}");
    }
}

//! What the parts of a member are given to reach each other: small functions over the hard state, gossip and the workers.

use std::sync::{Arc, OnceLock, Weak};

use cube_replication::catalog::ClusterState;
use cube_replication::clock::NodeClock;
use cube_replication::lifecycle::{MoveReport, Newest};
use cube_replication::topology::MemberState;
use cube_replication::worker::Workers;
use cube_storage::clock::Clock;
use cube_storage::model::NodeId;
use parking_lot::Mutex;
use tokio::runtime::Handle;

use super::bell::Bell;
use super::member::Member;
use crate::clock_watch::ClockWatch;
use crate::control::Control;
use crate::gossip::OwnReport;
use crate::peer::{AddressBook, CheckPeer, HandshakeRefused, OnPing, PeerIdentity, PingSample};

/// A peer is let in that is the member it says it is, with the data directory that the cluster knows.
pub(super) fn check_peer(control: &Arc<Control>) -> CheckPeer {
    let control = Arc::clone(control);
    Arc::new(move |peer: &PeerIdentity| {
        let state = control.current();
        let unknown = || HandshakeRefused::UnknownMember { node: peer.node, name: peer.name.clone() };
        let member = state.topology().member(peer.node).ok_or_else(unknown)?;
        if member.state.is_gone() {
            return Err(unknown());
        }
        match state.instances.get(&peer.node) {
            Some(instance) if *instance == peer.instance => Ok(()),
            Some(instance) => {
                Err(HandshakeRefused::WrongInstance { node: peer.node, expected: *instance, found: peer.instance })
            }
            None => Err(unknown()),
        }
    })
}

pub(super) struct KnownAddresses(pub(super) Arc<Control>);

impl AddressBook for KnownAddresses {
    fn peer_address(&self, node: NodeId) -> Option<String> {
        self.0.current().topology().member(node).map(|member| member.addresses.peer.clone())
    }

    fn peer_name(&self, node: NodeId) -> Option<String> {
        self.0.current().topology().member(node).map(|member| member.name.clone())
    }
}

pub(super) fn watch_clocks(watch: &Arc<Mutex<ClockWatch>>, machine: &Arc<dyn Clock>) -> OnPing {
    let (watch, machine) = (Arc::clone(watch), Arc::clone(machine));
    Arc::new(move |ping: PingSample| {
        let now_ms = machine.monotonic_ms();
        watch.lock().observe(ping.node, ping.sent_wall_ms, ping.received_wall_ms, ping.theirs_wall_ms, now_ms);
    })
}

pub(super) fn newest(control: &Arc<Control>) -> Box<dyn Fn() -> Newest + Send> {
    let control = Arc::clone(control);
    Box::new(move || {
        let state = control.current();
        Newest { state: Arc::new(state.cluster_state.clone()), next_table: state.next_table }
    })
}

pub(super) fn report_to(control: &Arc<Control>) -> Box<dyn Fn(Vec<MoveReport>) + Send> {
    let (control, runtime) = (Arc::clone(control), Handle::current());
    Box::new(move |reports: Vec<MoveReport>| {
        let control = Arc::clone(&control);
        runtime.spawn(async move {
            if let Err(error) = control.report(&reports).await {
                tracing::debug!(%error, "reports of moves were not delivered; they are made again");
            }
        });
    })
}

/// Has a worker step soon.
pub(super) fn waker(
    workers: &Arc<Workers>,
    clock: &Arc<NodeClock>,
    bell: &Arc<Bell>,
    name: &'static str,
) -> Arc<dyn Fn() + Send + Sync> {
    let (workers, clock, bell) = (Arc::downgrade(workers), Arc::clone(clock), Arc::clone(bell));
    Arc::new(move || {
        if let Some(workers) = workers.upgrade() {
            // It is unknown only before it has begun, and then its first step is due anyway.
            let _unknown = workers.wake(name, clock.monotonic_ms());
            bell.ring();
        }
    })
}

/// Where the others listen for gossip, by the hard state.
pub(super) fn gossip_addresses(state: &ClusterState, me: NodeId) -> Vec<String> {
    let others = state.topology.members().values().filter(|member| member.id != me);
    let present = others.filter(|member| member.state != MemberState::Left);
    present.map(|member| member.addresses.gossip.clone()).collect()
}

/// What gossip tells of this node: bound to the node once it is there.
#[derive(Default)]
pub(super) struct Vitals(OnceLock<Weak<Member>>);

impl Vitals {
    pub(super) fn of(&self, member: &Arc<Member>) {
        self.0.get_or_init(|| Arc::downgrade(member));
    }

    pub(super) fn report(self: &Arc<Self>) -> Arc<dyn Fn() -> OwnReport + Send + Sync> {
        let vitals = Arc::clone(self);
        Arc::new(move || {
            let member = vitals.0.get().and_then(Weak::upgrade);
            member.map_or_else(OwnReport::default, |member| member.own_report())
        })
    }
}

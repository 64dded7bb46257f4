//! Several control planes in one process, joined by links that can be cut one way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use cube_replication::topology::MemberState;
use cube_storage::model::NodeId;
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use super::super::{Answer, Command, Control, ControlCall, ControlLink, ControlOptions, LinkError, ProposeError};
use super::{founding, newcomer, node};

/// What a test waits for at most, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(60);
/// Enough for any change that can be made at all.
pub(super) const SOON: Duration = Duration::from_secs(30);

/// Elections in about two seconds.
pub(super) fn options() -> ControlOptions {
    ControlOptions {
        heartbeat: Duration::from_millis(100),
        election_min: Duration::from_millis(500),
        election_max: Duration::from_millis(1_000),
        tick: Duration::from_millis(50),
        rest: Duration::from_millis(100),
        ..ControlOptions::default()
    }
}

/// Who is there, and which ways are cut.
#[derive(Default)]
pub(super) struct Net {
    controls: Mutex<BTreeMap<NodeId, Arc<Control>>>,
    cut: Mutex<BTreeSet<(NodeId, NodeId)>>,
    called: Mutex<BTreeMap<u8, usize>>,
}

struct NetLink {
    from: NodeId,
    net: Arc<Net>,
}

impl Net {
    fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.cut.lock().contains(&(from, to))
    }
}

#[async_trait]
impl ControlLink for NetLink {
    async fn call(
        &self,
        to: NodeId,
        address: &str,
        call: ControlCall,
        payload: Bytes,
        within: Duration,
    ) -> Result<Bytes, LinkError> {
        *self.net.called.lock().entry(call.number()).or_default() += 1;
        let no_answer =
            |detail: &str| LinkError::NoAnswer { node: to, address: address.to_owned(), detail: detail.to_owned() };
        if self.net.is_cut(self.from, to) {
            sleep(within).await;
            return Err(no_answer("the way there is cut"));
        }
        let control = self.net.controls.lock().get(&to).cloned();
        let Some(control) = control else {
            let (address, detail) = (address.to_owned(), "nobody is there".to_owned());
            return Err(LinkError::Unreachable { node: to, address, detail });
        };
        let reply = timeout(within, control.handle(call, payload)).await;
        if self.net.is_cut(to, self.from) {
            sleep(within).await;
            return Err(no_answer("the way back is cut"));
        }
        reply.unwrap_or_else(|_| Err(no_answer("it took too long")))
    }
}

pub(super) struct Cluster {
    net: Arc<Net>,
    options: ControlOptions,
    dirs: Mutex<BTreeMap<NodeId, Arc<TempDir>>>,
}

impl Cluster {
    /// A cluster of `size`: node 0 founds it, and the others join one after the other.
    pub(super) async fn of(size: u16) -> Self {
        Self::with(size, options()).await
    }

    pub(super) async fn with(size: u16, options: ControlOptions) -> Self {
        let cluster = Self::empty(options);
        let founder = cluster.start(node(0)).await;
        assert_eq!(founder.found(founding(), SOON).await, Ok(Answer::Joined { node: node(0) }));
        for n in 1..size {
            cluster.join(n).await;
        }
        cluster
    }

    /// Nobody yet.
    pub(super) fn empty(options: ControlOptions) -> Self {
        Self { net: Arc::default(), options, dirs: Mutex::default() }
    }

    /// Node `n` joins through node 0, and starts.
    pub(super) async fn join(&self, n: u16) -> Arc<Control> {
        let joined = self.control(0).propose(Command::Join(newcomer(n)), SOON).await;
        assert_eq!(joined, Ok(Answer::Joined { node: node(n) }));
        let control = self.start(node(n)).await;
        let arrived = Command::SetMemberState { node: node(n), state: MemberState::Warming };
        assert_eq!(self.control(0).propose(arrived, SOON).await, Ok(Answer::Done));
        control
    }

    /// Starts a node, on its directory if it was there before.
    pub(super) async fn start(&self, me: NodeId) -> Arc<Control> {
        let fresh = || Arc::new(tempfile::tempdir().unwrap());
        let dir = Arc::clone(self.dirs.lock().entry(me).or_insert_with(fresh));
        let control = Arc::new(Control::open(dir.path(), me, self.link(me), self.options.clone()).await.unwrap());
        self.net.controls.lock().insert(me, Arc::clone(&control));
        control
    }

    /// A node's way to the others.
    pub(super) fn link(&self, me: NodeId) -> Arc<dyn ControlLink> {
        Arc::new(NetLink { from: me, net: Arc::clone(&self.net) })
    }

    /// Stops a node, as it seems to the others: it is gone.
    pub(super) async fn stop(&self, n: u16) {
        let control = self.net.controls.lock().remove(&node(n));
        control.unwrap().shutdown().await;
    }

    /// Stops everyone who runs.
    pub(super) async fn end(self) {
        let running: Vec<_> = std::mem::take(&mut *self.net.controls.lock()).into_values().collect();
        for control in running {
            control.shutdown().await;
        }
    }

    pub(super) fn control(&self, n: u16) -> Arc<Control> {
        Arc::clone(&self.net.controls.lock()[&node(n)])
    }

    pub(super) fn controls(&self) -> Vec<Arc<Control>> {
        self.net.controls.lock().values().cloned().collect()
    }

    pub(super) fn dir(&self, n: u16) -> Arc<TempDir> {
        Arc::clone(&self.dirs.lock()[&node(n)])
    }

    /// Nothing goes between these and the rest of the cluster, in either direction.
    pub(super) fn cut_off(&self, nodes: &[u16]) {
        let mut cut = self.net.cut.lock();
        for inside in nodes {
            for outside in (0..16).filter(|outside| !nodes.contains(outside)) {
                cut.insert((node(*inside), node(outside)));
                cut.insert((node(outside), node(*inside)));
            }
        }
    }

    /// A node hears the others, and they do not hear it.
    pub(super) fn cut_answers(&self, n: u16) {
        self.net.cut.lock().extend((0..16).filter(|other| *other != n).map(|other| (node(n), node(other))));
    }

    pub(super) fn heal(&self) {
        self.net.cut.lock().clear();
    }

    /// How often something was called.
    pub(super) fn calls(&self, call: ControlCall) -> usize {
        self.net.called.lock().get(&call.number()).copied().unwrap_or_default()
    }

    /// Waits until something holds.
    pub(super) async fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let waited = timeout(PATIENCE, async {
            while !holds() {
                sleep(Duration::from_millis(20)).await;
            }
        });
        if waited.await.is_err() {
            let statuses: Vec<_> = self.controls().iter().map(|control| (control.me(), control.status())).collect();
            panic!("waited in vain until {what}: {statuses:#?}");
        }
    }

    /// Waits until something holds on every node that runs.
    pub(super) async fn until_all(&self, what: &str, holds: impl Fn(&Control) -> bool) {
        self.until(what, || self.controls().iter().all(|control| holds(control))).await;
    }

    /// Waits until so many vote, and everybody knows them and who leads.
    pub(super) async fn until_voters(&self, count: usize) {
        let settled = |control: &Control| {
            let status = control.status();
            status.voters.len() == count && !status.voters_change && status.leader.is_some() && status.has_quorum
        };
        self.until_all(&format!("{count} vote"), settled).await;
    }

    /// Who leads, once one of those that run does and has a majority.
    pub(super) async fn leader(&self) -> u16 {
        let leads = |control: &Arc<Control>| control.status().leads && control.status().has_quorum;
        let mut found = None;
        self.until("one leads", || {
            found = self.controls().iter().find(|control| leads(control)).map(|control| control.me().0);
            found.is_some()
        })
        .await;
        found.unwrap()
    }

    pub(super) async fn propose(&self, n: u16, command: Command) -> Result<Answer, ProposeError> {
        self.control(n).propose(command, SOON).await
    }
}

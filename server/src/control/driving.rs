//! Runs the moves of replicas on the leader, and brings what this node has to report to whoever leads.

use std::sync::Arc;
use std::time::Duration;

use cube_replication::lifecycle::MoveReport;
use cube_replication::topology::{LeavingReport, MoveDriver, TopologyChange};
use cube_storage::model::{Epoch, NodeId};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::Departed;
use super::command::{Answer, Command};
use super::link::{ControlCall, LinkError};
use super::network::Network;
use super::options::ControlOptions;
use super::propose::Proposer;
use super::state::HardState;
use super::wire::{LeavingReply, REPORTS_MAX, ReportReply};

/// How long a batch of changes may take before the moves are looked at anew.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one message of reports may take.
const REPORT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a node may take to say whether another one is gone: it only looks into its memory.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// Nodes that reports are brought to, each naming who leads instead.
const REPORT_HOPS_MAX: usize = 3;

/// The moves, and the reports that wake them.
pub(super) struct Driving {
    driver: Mutex<MoveDriver>,
    reported: Notify,
    states: watch::Receiver<Arc<HardState>>,
}

impl Driving {
    pub(super) fn new(states: watch::Receiver<Arc<HardState>>) -> Self {
        Self { driver: Mutex::default(), reported: Notify::new(), states }
    }

    /// Takes reports in, on the leader.
    pub(super) fn take(&self, reports: &[MoveReport]) {
        let state = Arc::clone(&self.states.borrow());
        let mut driver = self.driver.lock();
        for report in reports {
            driver.report(state.topology(), report);
        }
        drop(driver);
        self.reported.notify_one();
    }

    /// Takes in what a leaving member still keeps, on the leader. That it is gone any node can say: it does not come back.
    pub(super) fn take_leaving(&self, proposer: &Proposer, report: LeavingReport) -> LeavingReply {
        let state = Arc::clone(&self.states.borrow());
        if state.topology().member(report.node).is_some_and(|member| member.state.is_gone()) {
            return LeavingReply::Gone { votes: proposer.votes(report.node) };
        }
        if !proposer.leads() {
            return LeavingReply::NotLeader { leader: proposer.leader() };
        }
        self.driver.lock().report_leaving(report);
        self.reported.notify_one();
        LeavingReply::Taken
    }

    /// Brings a leaving member's report to the leader, and what the leader says of it.
    pub(super) async fn deliver_leaving(
        &self,
        proposer: &Proposer,
        network: &Network,
        report: LeavingReport,
    ) -> Result<LeavingReply, LinkError> {
        let nobody_leads = || LinkError::Refused { reason: "no leader is known to report to".to_owned() };
        let mut leader = proposer.leader().ok_or_else(nobody_leads)?;
        for _ in 0..REPORT_HOPS_MAX {
            let reply = match proposer.leads() {
                true => self.take_leaving(proposer, report),
                false => network.call(leader, "", ControlCall::Leaving, report, REPORT_TIMEOUT).await?,
            };
            match reply {
                LeavingReply::NotLeader { leader: other } => leader = other.ok_or_else(nobody_leads)?,
                told => return Ok(told),
            }
        }
        Err(nobody_leads())
    }

    /// How far this member has left, as the other members say: whoever says most is right. For a node that may have been given
    /// up while it was away: nobody sends it entries of the log any more. Those that do not answer in time are not waited for.
    pub(super) async fn told_gone(&self, network: &Network, me: NodeId) -> Departed {
        let members = self.states.borrow().topology().members().clone();
        let others = members.into_keys().filter(|node| *node != me);
        let asked = others.map(|node| {
            let report = LeavingReport { node: me, topology: Epoch(0), is_closed: false, hints: 0, marks: 0 };
            network.call::<_, LeavingReply>(node, "", ControlCall::Leaving, report, ASK_TIMEOUT)
        });
        let told = futures::future::join_all(asked).await;
        told.iter().flatten().map(LeavingReply::departed).max().unwrap_or(Departed::NotYet)
    }

    /// Drives the moves for as long as this node lives, whenever it leads.
    pub(super) async fn run(
        self: Arc<Self>,
        proposer: Arc<Proposer>,
        options: ControlOptions,
        stop: CancellationToken,
    ) {
        let mut states = self.states.clone();
        let mut wait = options.rest;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.reported.notified() => {}
                Ok(()) = states.changed() => {}
                () = sleep(wait) => {}
            }
            wait = options.rest;
            if !proposer.leads() {
                *self.driver.lock() = MoveDriver::default();
                continue;
            }
            // Planning a large cluster takes a while, and this is not the only task of its thread.
            let this = Arc::clone(&self);
            let Ok(changes) = tokio::task::spawn_blocking(move || this.decide()).await else { continue };
            if changes.is_empty() {
                continue;
            }
            // What is refused, or not decided in time, is proposed again.
            wait = options.tick;
            tokio::select! {
                () = stop.cancelled() => return,
                reply = proposer.write_here(Command::Topology(changes), WRITE_TIMEOUT) => match reply {
                    super::wire::ProposeReply::Decided(Ok(Answer::Changed { refused })) => {
                        for change in refused {
                            tracing::debug!(reason = %change.reason, "a step of a move is out of date");
                        }
                    }
                    other => tracing::warn!(reply = ?other, "the moves of replicas wait"),
                },
            }
        }
    }

    fn decide(&self) -> Vec<TopologyChange> {
        let state = Arc::clone(&self.states.borrow());
        if state.founded.is_none() {
            return Vec::new();
        }
        self.driver.lock().changes(state.topology())
    }

    /// Brings reports to the leader. Says why when they did not get there; they are made again anyway.
    pub(super) async fn deliver(
        &self,
        proposer: &Proposer,
        network: &Network,
        reports: &[MoveReport],
    ) -> Result<(), LinkError> {
        for part in reports.chunks(REPORTS_MAX) {
            self.deliver_part(proposer, network, part).await?;
        }
        Ok(())
    }

    async fn deliver_part(&self, proposer: &Proposer, network: &Network, part: &[MoveReport]) -> Result<(), LinkError> {
        let nobody_leads = || LinkError::Refused { reason: "no leader is known to report to".to_owned() };
        let mut leader = proposer.leader().ok_or_else(nobody_leads)?;
        for _ in 0..REPORT_HOPS_MAX {
            if proposer.leads() {
                self.take(part);
                return Ok(());
            }
            let call = network.call(leader, "", ControlCall::Report, part, REPORT_TIMEOUT);
            leader = match call.await? {
                ReportReply::Taken => return Ok(()),
                ReportReply::NotLeader { leader } => leader.ok_or_else(nobody_leads)?,
            };
        }
        Err(nobody_leads())
    }
}

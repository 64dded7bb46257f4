//! A member that leaves the cluster: what an operator asks for is judged here by who lives, and this is what the node does
//! that leaves.
//!
//! It hands its hints and dirty marks over from the beginning, and coordinates requests as long as it holds a partition.
//! When it holds none it closes its doors for good, waits for what is under way, and tells the leader what it still keeps,
//! again and again. When it has LEFT, or hears that it was given up, it ends. A node that dies on the way goes on where it
//! was: all of it follows from the state that Raft keeps.

use std::sync::Arc;
use std::time::Duration;

use cube_replication::lifecycle::Leave;
use cube_replication::membership::Membership as _;
use cube_replication::topology::{Loss, MemberState, Topology};
use cube_storage::model::NodeId;
use tokio::time::Instant;

use super::NodeError;
use super::end::begin_closing;
use super::member::Member;
use crate::admin::{self, AdminError, NodeView};
use crate::control::{Command, Control, Departed, Departure, Refusal};
use crate::edge::{Closing, Phase};

/// How often a node that leaves looks how far it is, and tells.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How often any other node looks whether it was given up while nobody told it.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// How long a node that has left waits for Raft to do without its vote.
const VOTES_WITHIN: Duration = Duration::from_secs(60);

/// How far a node that leaves has come, between two looks.
#[derive(Default)]
struct Progress {
    /// Since when it has left.
    left: Option<Instant>,
    /// It has said that it keeps nothing any more.
    handed_over: bool,
    asked: Option<Instant>,
}

impl Member {
    /// Has a member leave, unless something stands in the way; how it stands after that.
    pub(super) async fn have_leave(&self, name: &str, how: admin::Leave) -> Result<NodeView, AdminError> {
        let state = self.control.current();
        let member = state.topology().member_named(name).ok_or_else(|| unknown(name))?;
        let departure = self.judge(state.topology(), member.id, &how)?;
        let is_new = departure != Departure::Decommission && member.state != MemberState::Removing;
        if is_new && self.outgoing.is_present(&member.addresses.peer, self.identity.cluster, member.id).await {
            return Err(answers(name));
        }
        if departure == Departure::Decommission && member.state < MemberState::Leaving {
            self.must_run_no_repair(member.id, name).await?;
        }
        let wanted = if departure == Departure::Decommission { MemberState::Leaving } else { MemberState::Removing };
        let node = member.id;
        tracing::info!(name, state = %member.state, ?departure, "an operator has a member leave the cluster");
        self.decide(Command::Leave { node, departure, accept_loss: how.accepts_loss() }).await?;
        self.adopted(|state| state.topology.member(node).is_some_and(|member| member.state >= wanted)).await;
        self.node_view(node).ok_or_else(|| unknown(name))
    }

    /// What it runs would end with it unfinished, and its results with its directory.
    async fn must_run_no_repair(&self, node: NodeId, name: &str) -> Result<(), AdminError> {
        let runs: Vec<String> = self.repairs_run_by(node).await?.iter().map(ToString::to_string).collect();
        if runs.is_empty() {
            return Ok(());
        }
        let reason = format!("{name} runs a repair, {}: wait until it has ended, or cancel it", runs.join(", "));
        Err(AdminError::Conflict { reason })
    }

    /// What is to be proposed, by who lives as seen from here.
    fn judge(&self, topology: &Topology, node: NodeId, how: &admin::Leave) -> Result<Departure, AdminError> {
        let member = topology.member(node).ok_or_else(|| unknown(&node.to_string()))?;
        let (name, is_alive) = (&member.name, self.lives(node));
        let conflict = |reason: String| Err(AdminError::Conflict { reason });
        let departure = match how {
            admin::Leave::Decommission if is_alive || member.state >= MemberState::Leaving => {
                return Ok(Departure::Decommission);
            }
            admin::Leave::Decommission => {
                return conflict(format!(
                    "{name} does not answer, so it can hand nothing over: start it, or remove it if it is gone for good"
                ));
            }
            admin::Leave::Remove { .. } => Departure::Remove,
            admin::Leave::Replace { with, .. } => {
                let newcomer = topology.member_named(with).ok_or_else(|| unknown(with))?;
                if !self.lives(newcomer.id) {
                    return conflict(format!("{with} does not answer: start it, and let it take the place then"));
                }
                Departure::ReplaceWith(newcomer.id)
            }
        };
        if member.state == MemberState::Removing {
            return Ok(departure);
        }
        if is_alive {
            return Err(answers(name));
        }
        let loss = topology.loss_without(node, |other| self.lives(other), |other| self.is_whole(other));
        match loss.filter(|_| !how.accepts_loss()) {
            Some(loss) => conflict(told(loss, name)),
            None => Ok(departure),
        }
    }

    /// Whether a member holds all it ever acknowledged, as far as it has told.
    fn is_whole(&self, node: NodeId) -> bool {
        match node == self.identity.node {
            true => self.not_whole() == 0,
            false => self.gossip.peer(node).is_none_or(|peer| peer.report.unsynced == 0),
        }
    }

    fn lives(&self, node: NodeId) -> bool {
        node == self.identity.node || self.gossip.is_alive(node)
    }

    /// Has a node take no more requests of clients, or take them again.
    pub(super) async fn have_drained(&self, name: &str, undo: bool) -> Result<(), AdminError> {
        let state = self.control.current();
        let member = state.topology().member_named(name).ok_or_else(|| unknown(name))?;
        if member.id == self.identity.node {
            self.drain.follow(undo);
            return Ok(());
        }
        let told = self.outgoing.drain(&member.addresses.peer, self.identity.cluster, member.id, undo).await;
        told.map_err(|reason| AdminError::Elsewhere { reason: format!("{name} was not told: {reason}") })
    }

    /// From here on the node does what leaving asks of it, if it leaves: what it asks at once is done before this returns.
    pub(super) fn watch_leaving(self: &Arc<Self>) {
        if self.is_leaving() {
            self.hint_replay.resume_handover();
            if self.leave().holds_nothing() {
                self.doors.close(Closing::Leaving);
            }
        }
        let mut states = self.control.watch();
        let member = Arc::downgrade(self);
        tokio::spawn(async move {
            let mut progress = Progress::default();
            loop {
                let Some(member) = member.upgrade() else { return };
                let next_look = member.tend_leaving(&mut progress).await;
                drop(member);
                tokio::select! {
                    changed = states.changed() => if changed.is_err() { return },
                    () = tokio::time::sleep(next_look) => {}
                }
            }
        });
    }

    /// Done when the node is no member any more, with the reason.
    pub(super) async fn gone(&self) -> &'static str {
        self.gone.wait().await
    }

    pub(super) fn is_leaving(&self) -> bool {
        let state = self.control.current();
        state.topology().member(self.identity.node).is_some_and(|me| me.state == MemberState::Leaving)
    }

    fn leave(&self) -> Leave {
        Leave {
            me: self.identity.node,
            catalog: Arc::clone(&self.catalog),
            coordinator: Arc::clone(&self.coordinator),
            hints: Arc::clone(&self.hint_replay),
        }
    }

    async fn tend_leaving(&self, progress: &mut Progress) -> Duration {
        let state = self.control.current();
        match state.topology().member(self.identity.node).map(|me| me.state) {
            Some(MemberState::Leaving) => {
                self.hand_over_the_rest(progress).await;
                LOOK_EVERY
            }
            Some(MemberState::Left) => {
                self.depart(progress).await;
                LOOK_EVERY
            }
            Some(MemberState::Removing) => {
                self.gone.tell(GIVEN_UP);
                ASK_EVERY
            }
            _ => {
                self.ask_whether_gone(progress).await;
                ASK_EVERY
            }
        }
    }

    async fn hand_over_the_rest(&self, progress: &mut Progress) {
        self.hint_replay.begin_handover();
        let leave = self.leave();
        if !leave.holds_nothing() {
            return;
        }
        if self.doors.phase(Closing::Leaving) == Phase::Open {
            tracing::info!("this node holds no partition any more: it takes no more requests, and hands over the rest");
            begin_closing(&self.doors, Closing::Leaving, self.config.timeouts.announce);
        }
        if let Some(report) = leave.report(self.doors.nobody_enters(Closing::Leaving)) {
            progress.handed_over = report.hints == 0 && report.marks == 0;
            match self.control.report_leaving(report).await {
                Ok(Departed::NotYet) => {}
                // It was told so before the entry of the log came here, or instead.
                Ok(Departed::ButVotes | Departed::Yes) => self.depart(progress).await,
                Err(error) => {
                    tracing::debug!(%error, "the leader was not told what this node still keeps; it is again")
                }
            }
        }
    }

    /// It has left. It stays for as long as its vote is needed to do without it: a leader or an only voter cannot just go.
    async fn depart(&self, progress: &mut Progress) {
        let since = *progress.left.get_or_insert_with(Instant::now);
        let is_missed = self.control.votes()
            && !matches!(self.control.report_leaving(self.leave().report_of_nothing()).await, Ok(Departed::Yes));
        if !is_missed {
            self.gone.tell(if progress.handed_over { HAS_LEFT } else { NO_MEMBER });
        } else if since.elapsed() >= VOTES_WITHIN {
            progress.left = None;
            tracing::warn!(
                "this node has left, and stays because Raft cannot do without its vote: start the other voters"
            );
        }
    }

    /// Nobody sends the log to a node that was given up while it was away, and it hears of no leader.
    async fn ask_whether_gone(&self, progress: &mut Progress) {
        let is_due = progress.asked.is_none_or(|asked| asked.elapsed() >= ASK_EVERY);
        if !is_due || self.control.status().has_quorum {
            return;
        }
        progress.asked = Some(Instant::now());
        if self.control.told_gone().await != Departed::NotYet {
            self.gone.tell(GIVEN_UP);
        }
    }
}

/// Why a node ends by itself.
const HAS_LEFT: &str = "it has left the cluster: what it had is handed over";
/// Of one that hears of it behind a restart, or was removed while it was away.
const NO_MEMBER: &str = "it is no member of the cluster any more: it left, or was removed as gone for good";
const GIVEN_UP: &str = "it was removed from the cluster as a node that is gone for good";

/// Refuses to start a node that left, or was given up. One that still votes first lets Raft do without it.
pub(super) async fn check_member(control: &Control, me: NodeId) -> Result<(), NodeError> {
    let is_gone = |control: &Control| {
        let state = control.current();
        state.topology().member(me).is_some_and(|member| member.state.is_gone())
    };
    let mut told = control.told_gone().await;
    if !is_gone(control) && told == Departed::NotYet {
        return Ok(());
    }
    let waited = Instant::now();
    while is_gone(control) && control.votes() && told != Departed::Yes && waited.elapsed() < VOTES_WITHIN {
        tokio::time::sleep(LOOK_EVERY).await;
        told = control.told_gone().await;
    }
    Err(NodeError::Refused(Refusal::HasLeft { node: me }.to_string()))
}

fn unknown(name: &str) -> AdminError {
    AdminError::UnknownNode { name: name.to_owned() }
}

/// Gossip may lag behind, or be cut off while all else gets through: a node is removed only if it does not answer itself
/// either.
fn answers(name: &str) -> AdminError {
    AdminError::Conflict {
        reason: format!(
            "{name} answers: decommission it, and it hands over what it has. Only a node that is gone for good is removed"
        ),
    }
}

fn told(loss: Loss, name: &str) -> String {
    match loss {
        Loss::Rows(partitions) => format!(
            "in {partitions} partitions no other replica lives and is in sync: without {name} their rows would be lost. Start \
             other replicas first, wait until they are healed, or say acceptLoss"
        ),
        Loss::Writes(partitions) => format!(
            "in {partitions} partitions too few replicas would be left to know every write that a majority acknowledged. \
             Wait until the replicas of nodes that leave already are copied and those that lost something are healed, \
             start one of them, or say acceptLoss"
        ),
    }
}

//! The rest of the node, as front doors see it: over the hard state, gossip and the hint log.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cube_replication::catalog::{ClusterState, Keyspace, Table};
use cube_replication::membership::Membership as _;
use cube_replication::repair::Asked;
use cube_replication::topology::{self, MemberState};
use cube_storage::model::NodeId;

use super::member::Member;
use crate::admin::{
    Admin, AdminError, Changed, DrainView, Health, HintOrder, HintsView, KeyspaceChange, KeyspaceOptions, Leave,
    LeavingView, NodeStatus, NodeView, RaftRole, RepairView, RepairsView, ReplicationView, ScrubView, TableChange,
    TableOptions, TopologyView, Vitals,
};
use crate::control::{Answer, Command, ControlStatus, HardState, ProposeError, Refusal};
use crate::gossip::OwnReport;
use crate::metrics::Figures;

/// How long the cluster may take to agree on a change.
const DECIDE_WITHIN: Duration = Duration::from_secs(10);
/// How long this node may take to adopt a change that was agreed on, before its client is answered.
const ADOPT_WITHIN: Duration = Duration::from_secs(5);

#[async_trait]
impl Admin for Member {
    fn health(&self) -> Health {
        Member::health(self)
    }

    fn figures(&self) -> Figures {
        Member::figures(self)
    }

    fn voters(&self) -> Vec<NodeId> {
        self.control.status().voters
    }

    fn nodes(&self) -> Vec<NodeView> {
        let state = self.catalog.current();
        let present = state.topology.members().values().filter(|member| member.state != MemberState::Left);
        let mut nodes: Vec<NodeView> = self.views(&state, present);
        nodes.sort_by(|one, other| one.name.cmp(&other.name));
        nodes
    }

    fn topology(&self) -> TopologyView {
        TopologyView::of(&self.catalog.current())
    }

    fn hints(&self) -> HintsView {
        self.hints_view()
    }

    async fn steer_hints(&self, order: HintOrder, node: Option<&str>) -> Result<(), AdminError> {
        Member::steer_hints(self, order, node).await
    }

    fn replication(&self, table: Option<(&str, &str)>) -> Result<ReplicationView, AdminError> {
        self.replication_view(table)
    }

    fn scrub(&self) -> ScrubView {
        self.scrub_view()
    }

    fn scrub_now(&self) -> ScrubView {
        self.hurry_scrub();
        self.scrub_view()
    }

    async fn begin_repair(&self, asked: Asked) -> Result<RepairView, AdminError> {
        Member::begin_repair(self, asked).await
    }

    async fn repairs(&self) -> Result<RepairsView, AdminError> {
        self.repairs_view().await
    }

    async fn repair(&self, id: &str) -> Result<RepairView, AdminError> {
        Member::repair(self, id, false).await
    }

    async fn cancel_repair(&self, id: &str) -> Result<RepairView, AdminError> {
        Member::repair(self, id, true).await
    }

    async fn leave(&self, node: &str, how: Leave) -> Result<NodeView, AdminError> {
        self.have_leave(node, how).await
    }

    async fn drain(&self, node: &str, undo: bool) -> Result<(), AdminError> {
        self.have_drained(node, undo).await
    }

    async fn create_keyspace(&self, keyspace: &str, options: KeyspaceOptions) -> Result<Changed, AdminError> {
        let KeyspaceOptions { strategy, sync } = options.clone();
        match self
            .control
            .create_keyspace(keyspace, strategy, sync, false, DECIDE_WITHIN)
            .await
            .map_err(|error| self.failed(error))
        {
            Ok(_) => {
                self.adopted(|state| state.schema.keyspaces.contains_key(keyspace)).await;
                Ok(Changed::Yes)
            }
            Err(Failed::Refused(Refusal::KeyspaceExists { .. })) => {
                let state = self.control.current();
                let unknown = || AdminError::UnknownKeyspace { keyspace: keyspace.to_owned() };
                let present = state.schema().keyspaces.get(keyspace).ok_or_else(unknown)?;
                let differences = keyspace_options(&state, present).differences(&options);
                same(differences, || format!("keyspace {keyspace:?}"))
            }
            Err(failed) => Err(failed.into()),
        }
    }

    async fn alter_keyspace(&self, keyspace: &str, change: KeyspaceChange) -> Result<Changed, AdminError> {
        let KeyspaceChange { strategy, sync } = change;
        changed(self.decide(Command::AlterKeyspace { name: keyspace.to_owned(), strategy, sync }).await?)
    }

    async fn drop_keyspace(&self, keyspace: &str) -> Result<(), AdminError> {
        self.decide(Command::DropKeyspace { name: keyspace.to_owned(), if_exists: false }).await?;
        Ok(())
    }

    async fn create_table(&self, keyspace: &str, table: &str, options: TableOptions) -> Result<Changed, AdminError> {
        let TableOptions { prefix_index, settings } = options;
        let command = Command::CreateTable {
            keyspace: keyspace.to_owned(),
            name: table.to_owned(),
            prefix_index,
            settings,
            if_not_exists: false,
        };
        match self.decide(command).await {
            Ok(_) => Ok(Changed::Yes),
            Err(Failed::Refused(Refusal::TableExists { .. })) => {
                let present = self.table(keyspace, table)?;
                let differences = TableOptions::from(&present).differences(&options);
                same(differences, || format!("table {table:?} in keyspace {keyspace:?}"))
            }
            Err(failed) => Err(failed.into()),
        }
    }

    async fn alter_table(&self, keyspace: &str, table: &str, change: TableChange) -> Result<Changed, AdminError> {
        let present = TableOptions::from(&self.table(keyspace, table)?);
        let next = change.apply(present);
        if next.prefix_index != present.prefix_index {
            let reason = "prefix_index is for the life of a table: create another table and copy the rows";
            return Err(AdminError::Conflict { reason: reason.into() });
        }
        let (keyspace, name) = (keyspace.to_owned(), table.to_owned());
        changed(self.decide(Command::AlterTable { keyspace, name, settings: next.settings }).await?)
    }

    async fn drop_table(&self, keyspace: &str, table: &str) -> Result<(), AdminError> {
        let (keyspace, name) = (keyspace.to_owned(), table.to_owned());
        self.decide(Command::DropTable { keyspace, name, if_exists: false }).await?;
        Ok(())
    }
}

impl Member {
    /// A member as this node sees it, be it that it has left.
    pub(super) fn node_view(&self, node: NodeId) -> Option<NodeView> {
        let state = self.catalog.current();
        self.views(&state, state.topology.member(node)).pop()
    }

    fn views<'a>(
        &self,
        state: &ClusterState,
        members: impl IntoIterator<Item = &'a topology::Member>,
    ) -> Vec<NodeView> {
        let (now_ms, raft) = (self.clock.monotonic_ms(), self.control.status());
        let offsets = self.clock_watch.lock().offsets(now_ms);
        let view = |member: &topology::Member, report: Option<&OwnReport>, clock_offset_ms| {
            let status = if self.gossip.is_alive(member.id) { NodeStatus::Alive } else { NodeStatus::Down };
            let leaving = LeavingView::of(state, member, report.map(|report| (report.hints.total, report.marks)));
            let vitals = Vitals { clock_offset_ms, ..report.map(vitals).unwrap_or_default() };
            NodeView { raft: Some(role(&raft, member.id)), leaving, ..NodeView::of(member, status, vitals) }
        };
        let views = members.into_iter().map(|member| match member.id == self.identity.node {
            true => view(member, Some(&self.own_report()), Some(0)),
            false => {
                let peer = self.gossip.peer(member.id);
                let offset = offsets.get(&member.id).map(|offset| offset.offset_ms);
                view(member, peer.as_ref().map(|peer| &*peer.report), offset)
            }
        });
        views.collect()
    }

    fn table(&self, keyspace: &str, table: &str) -> Result<Table, AdminError> {
        let state = self.control.current();
        let unknown = || AdminError::UnknownKeyspace { keyspace: keyspace.to_owned() };
        let space = state.schema().keyspaces.get(keyspace).ok_or_else(unknown)?;
        let unknown = || AdminError::UnknownTable { keyspace: keyspace.to_owned(), table: table.to_owned() };
        space.tables.get(table).copied().ok_or_else(unknown)
    }

    /// Has the cluster agree on a command; when this returns, requests to this node work by it.
    pub(super) async fn decide(&self, command: Command) -> Result<Answer, Failed> {
        let answer = self.control.propose(command.clone(), DECIDE_WITHIN).await.map_err(|error| self.failed(error))?;
        self.adopted(|state| shows(state, &command)).await;
        Ok(answer)
    }

    /// Waits until requests to this node work by what the leader has decided: that comes here a moment later than the answer,
    /// and then a worker adopts it.
    pub(super) async fn adopted(&self, shows: impl Fn(&ClusterState) -> bool) {
        let adopted = async {
            while !shows(&self.catalog.current()) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        if tokio::time::timeout(ADOPT_WITHIN, adopted).await.is_err() {
            tracing::warn!("a change was agreed on and is not adopted by this node yet");
        }
    }
}

/// Whether a change of keyspaces or tables is to be seen in a state.
fn shows(state: &ClusterState, command: &Command) -> bool {
    let keyspaces = &state.schema.keyspaces;
    let table_of = |keyspace: &str, table: &str| keyspaces.get(keyspace).and_then(|space| space.tables.get(table));
    match command {
        Command::CreateKeyspace { name, .. } => keyspaces.contains_key(name),
        Command::DropKeyspace { name, .. } => !keyspaces.contains_key(name),
        Command::AlterKeyspace { name, strategy, sync } => keyspaces.get(name).is_none_or(|keyspace| {
            let present = state.topology.placement(keyspace.placement).map(|placement| placement.strategy());
            let is_placed = strategy.as_ref().is_none_or(|strategy| present == Some(strategy));
            is_placed && sync.is_none_or(|sync| keyspace.sync == sync)
        }),
        Command::CreateTable { keyspace, name, .. } => table_of(keyspace, name).is_some(),
        Command::DropTable { keyspace, name, .. } => table_of(keyspace, name).is_none(),
        Command::AlterTable { keyspace, name, settings, .. } => {
            table_of(keyspace, name).is_none_or(|table| table.settings == *settings)
        }
        Command::Found(_)
        | Command::Join(_)
        | Command::SetAddresses { .. }
        | Command::SetMemberState { .. }
        | Command::Leave { .. }
        | Command::Topology(_) => true,
    }
}

fn keyspace_options(state: &HardState, keyspace: &Keyspace) -> KeyspaceOptions {
    let placement = state.topology().placement(keyspace.placement);
    let strategy = placement.map(|placement| placement.strategy().clone());
    KeyspaceOptions { strategy: strategy.unwrap_or(KeyspaceOptions::default().strategy), sync: keyspace.sync }
}

/// Whether what exists is as it was asked for.
fn same(differences: Option<String>, what: impl FnOnce() -> String) -> Result<Changed, AdminError> {
    match differences {
        None => Ok(Changed::No),
        Some(differences) => Err(AdminError::AlreadyExists { what: what(), differences }),
    }
}

fn changed(answer: Answer) -> Result<Changed, AdminError> {
    Ok(if answer == Answer::Unchanged { Changed::No } else { Changed::Yes })
}

fn vitals(report: &OwnReport) -> Vitals {
    Vitals {
        version: (!report.version.is_empty()).then(|| report.version.clone()),
        load_percent: Some(f64::from(report.load.cpu_percent)),
        requests_in_flight: Some(report.load.in_flight),
        requests_per_second: Some(report.load.requests_per_s),
        hints: Some(report.hints.total),
        oldest_hint_age_ms: report.hints.oldest_age_ms,
        started_at_ms: report.started_at_ms,
        drain: DrainView::named(&report.drain),
        ..Vitals::default()
    }
}

/// What a member is to Raft, as this node knows it.
fn role(raft: &ControlStatus, node: NodeId) -> RaftRole {
    match raft.voters.contains(&node) {
        true if raft.leader == Some(node) => RaftRole::Leader,
        true => RaftRole::Voter,
        false => RaftRole::Learner,
    }
}

/// A proposal that failed.
pub(super) enum Failed {
    Refused(Refusal),
    /// People are told the names of nodes.
    Other {
        reason: String,
        may_take_effect: bool,
    },
}

impl Member {
    fn failed(&self, error: ProposeError) -> Failed {
        let reason = error.to_string();
        match error {
            ProposeError::Refused(refusal) => Failed::Refused(refusal),
            ProposeError::Undecided { leader } => {
                let reason = format!("{reason}; that leader is {}", self.name_of(leader));
                Failed::Other { reason, may_take_effect: true }
            }
            ProposeError::NotAccepted { .. } | ProposeError::Stopped { .. } => {
                Failed::Other { reason, may_take_effect: false }
            }
        }
    }
}

impl From<Failed> for AdminError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Other { reason, may_take_effect } => Self::NoMajority { reason, may_take_effect },
            Failed::Refused(Refusal::UnknownKeyspace { keyspace }) => Self::UnknownKeyspace { keyspace },
            Failed::Refused(Refusal::UnknownTable { keyspace, table }) => Self::UnknownTable { keyspace, table },
            Failed::Refused(
                refusal @ (Refusal::BadName { .. } | Refusal::BadSetting { .. } | Refusal::NobodyThere { .. }),
            ) => Self::Invalid { reason: refusal.to_string() },
            Failed::Refused(refusal) => Self::Conflict { reason: refusal.to_string() },
        }
    }
}

/// The member behind the trait object that front doors hold.
pub(super) fn admin(member: &Arc<Member>) -> Arc<dyn Admin> {
    Arc::clone(member) as Arc<dyn Admin>
}

//! Members that leave: what makes one begin, decided from the state alone, and what stands in the way.
//!
//! Whether a node lives is not part of the state: whoever proposes looks at that before (`node/leaving.rs`). What ends it is
//! decided by the leader that drives the moves (`topology/leaving.rs`).

use cube_replication::topology::{MemberState, TooFewLeft, TopologyChange};
use cube_storage::model::NodeId;

use super::command::{Answer, Departure};
use super::refusal::Refusal;
use super::state::HardState;

impl HardState {
    /// A member begins to leave. Asked again, it changes nothing.
    pub(super) fn leave(&mut self, node: NodeId, departure: Departure, accept_loss: bool) -> Result<Answer, Refusal> {
        let member = self.topology().member(node).filter(|member| member.state != MemberState::Left);
        let member = member.cloned().ok_or(Refusal::UnknownMember { node })?;
        let weighed = match departure {
            Departure::ReplaceWith(with) => self.take_place(node, with)?,
            Departure::Decommission | Departure::Remove => false,
        };
        let state = match departure {
            Departure::Decommission => MemberState::Leaving,
            Departure::Remove | Departure::ReplaceWith(_) => MemberState::Removing,
        };
        match member.state {
            state_now if state_now == state => {
                return Ok(if weighed { Answer::Done } else { Answer::Unchanged });
            }
            MemberState::Removing => return Err(Refusal::IsRemoved { name: member.name }),
            _ => {}
        }
        let others = self.topology().members().values().filter(|other| other.id != node);
        let is_last = member.may_hold_data() && !others.into_iter().any(|other| other.may_hold_data());
        if is_last {
            return Err(Refusal::LastMember { name: member.name });
        }
        if departure == Departure::Decommission
            && let Some(too_few) = self.topology().too_few_without(node)
        {
            return Err(self.refuse_too_few(too_few));
        }
        // Whoever proposed judged by the state it had: meanwhile another member may have been given up.
        if state == MemberState::Removing
            && !accept_loss
            && self.topology().loss_without(node, |_| true, |_| true).is_some()
        {
            return Err(Refusal::MayLose { name: member.name });
        }
        self.change(&TopologyChange::SetState { node, state })?;
        Ok(Answer::Done)
    }

    /// Prepares a member to hold what another one held. Whether that made a difference.
    fn take_place(&mut self, of: NodeId, with: NodeId) -> Result<bool, Refusal> {
        let newcomer = self.topology().member(with).filter(|member| member.state != MemberState::Left);
        let newcomer = newcomer.cloned().ok_or(Refusal::UnknownMember { node: with })?;
        let lost = self.topology().member(of).cloned().ok_or(Refusal::UnknownMember { node: of })?;
        let refused = |reason: String| Err(Refusal::NoReplacement { name: newcomer.name.clone(), reason });
        if with == of {
            return refused("it is that node".to_owned());
        }
        if !newcomer.state.may_hold_data() {
            return refused(format!("it is {} itself", newcomer.state));
        }
        if newcomer.data_center != lost.data_center {
            let (here, there) = (&newcomer.data_center, &lost.data_center);
            return refused(format!("it stands in data center {here}, and {} in {there}", lost.name));
        }
        if newcomer.weight > 0 || lost.weight == 0 {
            return Ok(false);
        }
        self.change(&TopologyChange::SetWeight { node: with, weight: lost.weight })?;
        Ok(true)
    }

    fn refuse_too_few(&self, too_few: TooFewLeft) -> Refusal {
        let TooFewLeft { placement, data_center, replicas, left } = too_few;
        let keyspace = self.schema().keyspaces.iter().find(|(_, keyspace)| keyspace.placement == placement);
        Refusal::TooFewLeft {
            keyspace: keyspace.map(|(name, _)| name.clone()).unwrap_or_default(),
            data_center: data_center.map(|name| name.to_string()),
            replicas: replicas as u64,
            left: left as u64,
        }
    }
}

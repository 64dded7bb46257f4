//! What each command makes of the hard state before it. Pure: decided from the state and the command alone, so that all
//! nodes reach the same next state, whatever they planned and whenever they apply it.
//!
//! The topology's epoch grows with every change of the topology, and with nothing else; a command that changes nothing
//! leaves the state as it is. Keyspaces and tables are in `schema.rs`.

use cube_replication::catalog::{ClusterState, Schema, TableSettings};
use cube_replication::topology::{Addresses, Assignment, MemberState, Strategy, Topology, TopologyChange};
use cube_storage::SyncPolicy;
use cube_storage::model::{NodeId, TableId};

use super::command::{Answer, CHANGES_MAX, Command, Founding, NewMember, RefusedChange};
use super::names::{check_addresses, check_member};
use super::refusal::Refusal;
use super::state::{FOUNDER, Founded, HardState, MEMBERS_MAX};

/// The keyspace that is there from the beginning.
const FIRST_KEYSPACE: &str = "default";
/// Its table.
const FIRST_TABLE: &str = "kv";
/// Its strategy.
const FIRST_STRATEGY: Strategy = Strategy::Simple { replicas: 3 };

impl HardState {
    /// The state after a command, and its answer. This one stays as it is, for those who still read it.
    pub fn after(&self, command: &Command) -> Result<(Self, Answer), Refusal> {
        let mut next = self.clone();
        let answer = match command {
            Command::Found(founding) => next.found(founding)?,
            _ if self.founded.is_none() => return Err(Refusal::NotFounded),
            Command::Join(member) => next.join(member)?,
            Command::SetAddresses { node, addresses } => next.set_addresses(*node, addresses)?,
            Command::SetMemberState { node, state } => next.set_member_state(*node, *state)?,
            Command::Topology(changes) => next.change_each(changes)?,
            Command::CreateKeyspace { name, strategy, sync, if_not_exists, assignment } => {
                match next.keyspace_exists(name, *if_not_exists)? {
                    true => Answer::Unchanged,
                    false => next.create_keyspace(name, strategy, *sync, assignment)?,
                }
            }
            Command::AlterKeyspace { name, strategy, sync } => next.alter_keyspace(name, strategy.as_ref(), *sync)?,
            Command::DropKeyspace { name, if_exists } => next.drop_keyspace(name, *if_exists)?,
            Command::CreateTable { keyspace, name, prefix_index, settings, if_not_exists } => {
                match next.table_exists(keyspace, name, *if_not_exists)? {
                    true => Answer::Unchanged,
                    false => next.create_table(keyspace, name, *prefix_index, settings)?,
                }
            }
            Command::AlterTable { keyspace, name, settings } => next.alter_table(keyspace, name, settings)?,
            Command::DropTable { keyspace, name, if_exists } => next.drop_table(keyspace, name, *if_exists)?,
            Command::Leave { node, departure, accept_loss } => next.leave(*node, *departure, *accept_loss)?,
        };
        Ok((next, answer))
    }

    /// Makes the next topology.
    pub(super) fn change(&mut self, change: &TopologyChange) -> Result<(), Refusal> {
        self.cluster_state.topology = self.topology().after(change)?;
        Ok(())
    }

    /// The founder asks again when it crashed before it heard the answer.
    fn found(&mut self, founding: &Founding) -> Result<Answer, Refusal> {
        let instance = founding.member.instance;
        if let Some(Founded { cluster, .. }) = self.founded {
            let again = cluster == founding.cluster && self.instances.get(&FOUNDER) == Some(&instance);
            return if again { Ok(Answer::Joined { node: FOUNDER }) } else { Err(Refusal::AlreadyFounded { cluster }) };
        }
        check_member(&founding.member)?;
        let bits = founding.partition_bits;
        *self = Self {
            founded: Some(Founded { cluster: founding.cluster, merkle_key: founding.merkle_key }),
            cluster_state: ClusterState { topology: Topology::new(bits), schema: Schema::default() },
            instances: [(FOUNDER, instance)].into(),
            next_table: TableId(1),
        };
        self.change(&TopologyChange::Join(founding.member.as_member(FOUNDER, MemberState::Ready)))?;
        let all_on_the_founder = Assignment::from_rows(bits.all().map(|_| vec![FOUNDER]));
        self.create_keyspace(FIRST_KEYSPACE, &FIRST_STRATEGY, SyncPolicy::Sync, &all_on_the_founder)?;
        self.create_table(FIRST_KEYSPACE, FIRST_TABLE, true, &TableSettings::default())?;
        Ok(Answer::Joined { node: FOUNDER })
    }

    fn join(&mut self, member: &NewMember) -> Result<Answer, Refusal> {
        check_member(member)?;
        if let Some(node) = self.member_of(member.instance) {
            return self.join_again(node, member);
        }
        if let Some(bearer) = self.topology().member_named(&member.name) {
            return Err(Refusal::NameTaken { name: member.name.clone(), node: bearer.id });
        }
        let staying = self.topology().members().values().filter(|member| member.state != MemberState::Left).count();
        if staying >= MEMBERS_MAX {
            return Err(Refusal::TooManyMembers);
        }
        let node = self.topology().next_node().ok_or(Refusal::Exhausted)?;
        self.change(&TopologyChange::Join(member.as_member(node, MemberState::Joining)))?;
        self.instances.insert(node, member.instance);
        Ok(Answer::Joined { node })
    }

    /// The node asks again, because it did not hear the answer, and may have been started anew meanwhile.
    fn join_again(&mut self, node: NodeId, member: &NewMember) -> Result<Answer, Refusal> {
        let known = self.topology().member(node).ok_or(Refusal::UnknownMember { node })?;
        if known.state == MemberState::Left {
            return Err(Refusal::HasLeft { node });
        }
        if known.name != member.name {
            return Err(Refusal::NamedOtherwise { node, name: known.name.clone() });
        }
        if (&known.data_center, &known.rack) != (&member.data_center, &member.rack) {
            let (data_center, rack) = (known.data_center.to_string(), known.rack.to_string());
            return Err(Refusal::StandsElsewhere { node, data_center, rack });
        }
        if known.weight != member.weight {
            self.change(&TopologyChange::SetWeight { node, weight: member.weight })?;
        }
        self.set_addresses(node, &member.addresses)?;
        Ok(Answer::Joined { node })
    }

    fn set_addresses(&mut self, node: NodeId, addresses: &Addresses) -> Result<Answer, Refusal> {
        check_addresses(addresses)?;
        let known = self.topology().member(node).ok_or(Refusal::UnknownMember { node })?;
        if known.addresses == *addresses {
            return Ok(Answer::Unchanged);
        }
        self.change(&TopologyChange::SetAddresses { node, addresses: addresses.clone() })?;
        Ok(Answer::Done)
    }

    fn set_member_state(&mut self, node: NodeId, state: MemberState) -> Result<Answer, Refusal> {
        let known = self.topology().member(node).ok_or(Refusal::UnknownMember { node })?;
        if known.state == state {
            return Ok(Answer::Unchanged);
        }
        self.change(&TopologyChange::SetState { node, state })?;
        Ok(Answer::Done)
    }

    fn change_each(&mut self, changes: &[TopologyChange]) -> Result<Answer, Refusal> {
        if changes.len() > CHANGES_MAX {
            return Err(Refusal::TooManyChanges { changes: changes.len() as u64 });
        }
        let mut refused = Vec::new();
        for (index, change) in (0_u32..).zip(changes) {
            let outcome = match has_a_command_of_its_own(change) {
                Some(command) => Err(Refusal::Topology { reason: format!("this is asked for by {command}") }),
                None => self.change(change),
            };
            if let Err(refusal) = outcome {
                refused.push(RefusedChange { index, reason: refusal.to_string() });
            }
        }
        Ok(Answer::Changed { refused })
    }
}

/// Changes that, made alone, would leave members without an instance or placements without a keyspace.
fn has_a_command_of_its_own(change: &TopologyChange) -> Option<&'static str> {
    match change {
        TopologyChange::Join(_) => Some("joining"),
        TopologyChange::AddPlacement { .. } => Some("creating a keyspace"),
        TopologyChange::SetStrategy { .. } => Some("altering a keyspace"),
        TopologyChange::DropPlacement { .. } => Some("dropping a keyspace"),
        TopologyChange::SetState { .. }
        | TopologyChange::SetWeight { .. }
        | TopologyChange::SetAddresses { .. }
        | TopologyChange::BeginMove { .. }
        | TopologyChange::AdvanceMove { .. }
        | TopologyChange::AbortMove { .. }
        | TopologyChange::GiveUp { .. } => None,
    }
}

//! Keyspaces and tables: what each command makes of them. A keyspace and its placement come and go together.

use std::collections::BTreeMap;

use cube_replication::catalog::{Keyspace, Table, TableSettings};
use cube_replication::topology::{Assignment, DataCenter, Refused, Strategy, TopologyChange};
use cube_storage::SyncPolicy;
use cube_storage::model::TableId;

use super::command::Answer;
use super::names::{check_name, check_settings, check_sync};
use super::refusal::Refusal;
use super::state::{HardState, KEYSPACES_MAX, TABLES_MAX};

impl HardState {
    /// Whether creating it is over before it begins.
    pub(super) fn keyspace_exists(&self, name: &str, may_exist: bool) -> Result<bool, Refusal> {
        match (self.schema().keyspaces.contains_key(name), may_exist) {
            (true, false) => Err(Refusal::KeyspaceExists { keyspace: name.to_owned() }),
            (exists, _) => Ok(exists),
        }
    }

    pub(super) fn create_keyspace(
        &mut self,
        name: &str,
        strategy: &Strategy,
        sync: SyncPolicy,
        assignment: &Assignment,
    ) -> Result<Answer, Refusal> {
        check_name(name)?;
        check_sync(sync)?;
        if self.schema().keyspaces.len() >= KEYSPACES_MAX {
            return Err(Refusal::TooManyKeyspaces);
        }
        self.check_strategy(strategy)?;
        if assignment.iter().any(|(_, replicas)| replicas.is_empty()) {
            return Err(Refusal::PlanOutdated { reason: "a partition has no replica".to_owned() });
        }
        let placement = self.topology().next_placement();
        let add =
            TopologyChange::AddPlacement { placement, strategy: strategy.clone(), assignment: assignment.clone() };
        self.cluster_state.topology = self.topology().after(&add).map_err(|refused| match refused {
            Refused::Assignment(reason) => Refusal::PlanOutdated { reason: reason.to_string() },
            other => other.into(),
        })?;
        let keyspace = Keyspace { placement, sync, tables: BTreeMap::new() };
        self.cluster_state.schema.keyspaces.insert(name.to_owned(), keyspace);
        Ok(Answer::KeyspaceCreated { placement })
    }

    pub(super) fn alter_keyspace(
        &mut self,
        name: &str,
        strategy: Option<&Strategy>,
        sync: Option<SyncPolicy>,
    ) -> Result<Answer, Refusal> {
        let keyspace = self.keyspace_mut(name)?;
        let placement = keyspace.placement;
        let mut answer = Answer::Unchanged;
        if let Some(sync) = sync.filter(|sync| *sync != keyspace.sync) {
            check_sync(sync)?;
            keyspace.sync = sync;
            answer = Answer::Done;
        }
        let present = self.topology().placement(placement).map(|placement| placement.strategy());
        if let Some(strategy) = strategy.filter(|strategy| Some(*strategy) != present) {
            self.check_strategy(strategy)?;
            self.change(&TopologyChange::SetStrategy { placement, strategy: strategy.clone() })?;
            answer = Answer::Done;
        }
        Ok(answer)
    }

    pub(super) fn drop_keyspace(&mut self, name: &str, may_be_absent: bool) -> Result<Answer, Refusal> {
        match self.cluster_state.schema.keyspaces.remove(name) {
            Some(keyspace) => {
                self.change(&TopologyChange::DropPlacement { placement: keyspace.placement })?;
                Ok(Answer::Done)
            }
            None if may_be_absent => Ok(Answer::Unchanged),
            None => Err(Refusal::UnknownKeyspace { keyspace: name.to_owned() }),
        }
    }

    /// Whether creating it is over before it begins.
    pub(super) fn table_exists(&self, keyspace: &str, name: &str, may_exist: bool) -> Result<bool, Refusal> {
        let known = self.schema().keyspaces.get(keyspace);
        match (known.is_some_and(|keyspace| keyspace.tables.contains_key(name)), may_exist) {
            (true, false) => Err(Refusal::TableExists { keyspace: keyspace.to_owned(), table: name.to_owned() }),
            (exists, _) => Ok(exists),
        }
    }

    pub(super) fn create_table(
        &mut self,
        keyspace: &str,
        name: &str,
        prefix_index: bool,
        settings: &TableSettings,
    ) -> Result<Answer, Refusal> {
        check_name(name)?;
        check_settings(settings)?;
        let tables: usize = self.schema().keyspaces.values().map(|keyspace| keyspace.tables.len()).sum();
        if tables >= TABLES_MAX {
            return Err(Refusal::TooManyTables);
        }
        let id = self.next_table;
        let next = TableId(id.0.checked_add(1).ok_or(Refusal::Exhausted)?);
        let table = Table { id, prefix_index, settings: *settings };
        self.keyspace_mut(keyspace)?.tables.insert(name.to_owned(), table);
        self.next_table = next;
        Ok(Answer::TableCreated { table: id })
    }

    pub(super) fn alter_table(
        &mut self,
        keyspace: &str,
        name: &str,
        settings: &TableSettings,
    ) -> Result<Answer, Refusal> {
        check_settings(settings)?;
        let tables = &mut self.keyspace_mut(keyspace)?.tables;
        let table = tables.get_mut(name).ok_or_else(|| unknown_table(keyspace, name))?;
        if table.settings == *settings {
            return Ok(Answer::Unchanged);
        }
        table.settings = *settings;
        Ok(Answer::Done)
    }

    pub(super) fn drop_table(&mut self, keyspace: &str, name: &str, may_be_absent: bool) -> Result<Answer, Refusal> {
        match self.cluster_state.schema.keyspaces.get_mut(keyspace).map(|keyspace| keyspace.tables.remove(name)) {
            Some(Some(_)) => Ok(Answer::Done),
            _ if may_be_absent => Ok(Answer::Unchanged),
            Some(None) => Err(unknown_table(keyspace, name)),
            None => Err(Refusal::UnknownKeyspace { keyspace: keyspace.to_owned() }),
        }
    }

    /// A strategy must name places where replicas can be: a mistyped data center would hold nothing, silently.
    fn check_strategy(&self, strategy: &Strategy) -> Result<(), Refusal> {
        strategy.validate().map_err(|bad| Refusal::Topology { reason: bad.to_string() })?;
        let Strategy::Network(factors) = strategy else { return Ok(()) };
        let holds = |data_center: &DataCenter| {
            let mut members = self.topology().members().values();
            members.any(|member| member.data_center == *data_center && member.may_hold_data())
        };
        match factors.keys().find(|data_center| !holds(data_center)) {
            Some(data_center) => Err(Refusal::NobodyThere { data_center: data_center.to_string() }),
            None => Ok(()),
        }
    }

    fn keyspace_mut(&mut self, name: &str) -> Result<&mut Keyspace, Refusal> {
        let keyspaces = &mut self.cluster_state.schema.keyspaces;
        keyspaces.get_mut(name).ok_or_else(|| Refusal::UnknownKeyspace { keyspace: name.to_owned() })
    }
}

fn unknown_table(keyspace: &str, table: &str) -> Refusal {
    Refusal::UnknownTable { keyspace: keyspace.to_owned(), table: table.to_owned() }
}

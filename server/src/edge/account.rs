//! The words by which an account of a request is told, the same through every door. `docs/reads.md` explains them.

use cube_replication::catalog::ClusterState;
use cube_replication::coordinator::{Asked, Failure, Kind, Reason, Role, TableName, Why};
use cube_replication::handoff::Kept;
use cube_storage::model::{NodeId, Outcome, TableId, Version};

use super::error::ReplicaFailure;
use super::explain::{failure_code, failure_text};
use super::names::Names;

/// What kind of request it was.
pub(crate) const fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Read => "read",
        Kind::Range => "range",
        Kind::Scan => "scan",
        Kind::Write => "write",
    }
}

/// Where a replica is.
pub(crate) const fn role(role: Role) -> &'static str {
    match role {
        Role::Itself => "self",
        Role::Near => "near",
        Role::Far => "far",
    }
}

/// What a replica was asked for.
pub(crate) const fn asked(asked: Asked) -> &'static str {
    match asked {
        Asked::Record => "record",
        Asked::Digest => "digest",
        Asked::Page => "page",
        Asked::Write => "write",
        Asked::Repair => "repair",
    }
}

/// Why it was asked.
pub(crate) const fn why(why: Why) -> &'static str {
    match why {
        Why::Level => "level",
        Why::Hedge => "hedge",
        Why::Chance => "chance",
        Why::Again => "again",
    }
}

/// Why a row's record won.
pub(crate) const fn reason(reason: Reason) -> &'static str {
    match reason {
        Reason::NobodyHoldsIt => "nobody_holds_it",
        Reason::AllAgree => "all_agree",
        Reason::Newest => "newest",
        Reason::Tie => "tie",
    }
}

/// How it was noted what a replica missed.
pub(crate) const fn kept(kept: Kept) -> &'static str {
    match kept {
        Kept::Hint => "hint",
        Kept::Mark => "mark",
        Kept::Left => "left",
    }
}

/// What came of a row that a replica was to keep, and what superseded it.
pub(crate) const fn outcome(outcome: &Result<Outcome, Failure>) -> (&'static str, Option<Version>) {
    match outcome {
        Ok(Outcome::Applied) => ("applied", None),
        Ok(Outcome::Present) => ("present", None),
        Ok(Outcome::Superseded(newer)) => ("superseded", Some(*newer)),
        Ok(Outcome::BelowFloor(_)) => ("below_floor", None),
        Ok(Outcome::Fenced(_)) => ("fenced", None),
        Ok(Outcome::LostUpTo(_)) => ("after_loss", None),
        Err(_) => ("failed", None),
    }
}

/// Why a replica did not do what it was asked.
pub(crate) fn failure(node: NodeId, failure: &Failure, names: &Names<'_>) -> ReplicaFailure {
    ReplicaFailure::new(names.of(node), failure_code(failure), failure_text(failure))
}

/// A table's names. One that was dropped meanwhile is told by its number.
pub(crate) fn table(state: &ClusterState, id: TableId) -> TableName {
    let spaces = state.schema.keyspaces.iter();
    let mut tables = spaces.flat_map(|(keyspace, space)| space.tables.iter().map(move |entry| (keyspace, entry)));
    let found = tables.find(|(_, (_, table))| table.id == id);
    found.map_or_else(
        || TableName { keyspace: String::new(), table: id.to_string() },
        |(keyspace, (name, _))| TableName { keyspace: keyspace.clone(), table: name.clone() },
    )
}

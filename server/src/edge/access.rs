//! Who asks for what. Every entry point of every front door comes through [`Edge::permit`]: here an identity and its
//! permissions are checked once there are users, and here a node that is about to stop turns new work away.

use cube_replication::coordinator::TableName;

use super::Edge;
use super::code::Code;
use super::doors::{Closing, Inside};
use super::error::{Details, EdgeError};

/// Another node can be asked at once; this one is back after a restart, most often.
const RETRY_AFTER_MS: u32 = 1_000;

/// Who asks. Nobody is told apart yet: there are no users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Came without an identity.
    Anonymous,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access<'a> {
    /// To read rows of a table.
    Read(&'a TableName),
    /// To write rows of a table.
    Write(&'a TableName),
    /// To see the schema, the cluster, and how it fares.
    Observe,
    /// To change the schema.
    ChangeSchema,
    /// To have members leave, or take no requests.
    ChangeMembers,
    /// To steer what the node does in the background.
    Steer,
    /// To change how this node works.
    Configure,
}

impl Edge {
    /// Lets a request for rows in, which counts until the coordinator counts it, or what is returned is dropped.
    pub fn enter(&self, caller: Caller, access: Access<'_>) -> Result<Inside<'_>, EdgeError> {
        let inside = self.doors().step_in();
        self.permit(caller, access)?;
        Ok(inside)
    }

    /// Whether the caller may, and the node will.
    pub fn permit(&self, caller: Caller, access: Access<'_>) -> Result<(), EdgeError> {
        tracing::trace!(?caller, ?access, "asked");
        if let Access::Read(_) | Access::Write(_) = access
            && let Some(reason) = self.turned_away.load_full()
        {
            return Err(EdgeError::new(Code::NotServing, format!("nothing was done: {reason}; ask another node")));
        }
        match (access, self.doors().closed()) {
            (Access::Observe | Access::Configure, _) | (_, None) => Ok(()),
            (_, Some(Closing::Stopping)) => {
                let message = "the node is about to stop, and nothing was done: ask another node";
                let details = Details { retry_after_ms: Some(RETRY_AFTER_MS), ..Details::default() };
                Err(EdgeError::with(Code::ShuttingDown, message, details))
            }
            (Access::Read(_) | Access::Write(_), Some(why @ (Closing::Leaving | Closing::Drained))) => {
                let why = self.doors().told(why);
                Err(EdgeError::new(Code::Drained, format!("nothing was done: {why}; ask another node")))
            }
            // Operators are let in: the node takes part in the cluster as before.
            (
                Access::ChangeSchema | Access::ChangeMembers | Access::Steer,
                Some(Closing::Leaving | Closing::Drained),
            ) => Ok(()),
        }
    }
}

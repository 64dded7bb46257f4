//! The place of nodes in their cluster: having one leave, and draining one.

use cube_proto::v1;

use super::{Admin, Member, Told};
use crate::error::Error;
use crate::retry::Kind;

/// What a member that leaves has yet to hand over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Leaving {
    /// DECOMMISSION, or REMOVE for one that is gone for good.
    pub by: String,
    /// Partitions of which it is still a replica.
    pub partitions: u64,
    /// Hints that it still keeps for others, where it tells.
    pub hints: Option<u64>,
    /// Dirty marks that it still keeps for others, where it tells.
    pub marks: Option<u64>,
}

impl Leaving {
    pub(super) fn of(leaving: v1::Leaving) -> Self {
        let v1::Leaving { by, partitions, hints, marks } = leaving;
        Self { by, partitions, hints, marks }
    }
}

impl Admin {
    /// Has a living node hand over what it has, and leave the cluster. Asked again, it tells how far that is.
    pub async fn decommission(&self, node: &str) -> Result<Told<Member>, Error> {
        let request = v1::DecommissionNodeRequest { node: node.to_owned() };
        let told = self
            .ask("DECOMMISSION", node, Kind::Write, |mut admin| {
                let request = request.clone();
                async move { admin.decommission_node(request).await }
            })
            .await?;
        Ok(told.map(Member::of))
    }

    /// Gives up a node that is gone for good: the others take its place. What it alone held may be lost only where that is
    /// accepted.
    pub async fn remove(&self, node: &str, accept_loss: bool) -> Result<Told<Member>, Error> {
        let request = v1::RemoveNodeRequest { node: node.to_owned(), accept_loss };
        let told = self
            .ask("REMOVE", node, Kind::Write, |mut admin| {
                let request = request.clone();
                async move { admin.remove_node(request).await }
            })
            .await?;
        Ok(told.map(Member::of))
    }

    /// The same, and another member takes its place as far as racks allow.
    pub async fn replace(&self, node: &str, with: &str, accept_loss: bool) -> Result<Told<Member>, Error> {
        let request = v1::ReplaceNodeRequest { node: node.to_owned(), with: with.to_owned(), accept_loss };
        let told = self
            .ask("REPLACE", node, Kind::Write, |mut admin| {
                let request = request.clone();
                async move { admin.replace_node(request).await }
            })
            .await?;
        Ok(told.map(Member::of))
    }

    /// Has a node take no more requests of clients, or take them again.
    pub async fn drain(&self, node: &str, undo: bool) -> Result<Told<()>, Error> {
        let request = v1::DrainNodeRequest { node: node.to_owned(), undo };
        let told = self
            .ask("DRAIN", node, Kind::Write, |mut admin| {
                let request = request.clone();
                async move { admin.drain_node(request).await }
            })
            .await?;
        Ok(told.map(|_| ()))
    }
}

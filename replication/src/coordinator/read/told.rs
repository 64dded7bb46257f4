//! What replicas told, as the decisions take it, and what is remembered and counted of it when a row is decided.

use cube_storage::model::{NodeId, PartitionId};

use super::{ReadOperation, Row, State, Telling};
use crate::coordinator::answers::failure_of;
use crate::coordinator::error::Failure;
use crate::messages::{Found, Refusal, Reply, ReplyBody, Want};
use crate::transport::PeerError;

impl ReadOperation {
    pub(super) fn note_failure(&self, (node, partition): (NodeId, PartitionId), failure: &Failure) {
        if let Failure::Refused(Refusal::Unsynced(_)) = failure {
            let now_ms = self.coordinator.parts.clock.monotonic_ms();
            self.coordinator.peers.unsynced(node, (self.target.placement, partition), now_ms);
        }
    }

    /// The client's answer, with the account of it.
    pub(super) fn tell(&self, state: &mut State) -> Option<Telling> {
        let rows = std::mem::take(&mut state.rows);
        let (done, mut results) = state.tell()?;
        self.coordinator.explain_read(self.ledger.as_ref(), rows.into_iter().map(|row| row.key), &mut results);
        Some((done, results))
    }

    /// What a row that is decided came upon. All that was asked of everybody is counted when everybody has told.
    pub(super) fn count(&self, row: &Row) {
        if row.hedge_helped {
            self.counters.hedge_helped();
        }
        if row.stale > 0 && !row.is_watched() {
            self.counters.mismatch(row.stale);
        }
    }
}

/// What a replica told of each row. It may leave records out that its reply had no room for, though not the first: asking
/// again gets on.
pub(super) fn found_by(reply: Result<Reply, PeerError>, rows: usize, want: Want) -> Vec<Result<Found, Failure>> {
    let is_left_out = |found: &Found| want == Want::Record && found.header.is_some() && found.record.is_none();
    let failure = match reply {
        Ok(Reply { body: Ok(ReplyBody::Rows(found)), .. }) if found.len() == rows => {
            let gets_on = found.iter().flatten().any(|found| found.record.is_some());
            let told = |found: Found| if is_left_out(&found) && !gets_on { Err(Failure::Nonsense) } else { Ok(found) };
            return found.into_iter().map(|found| found.map_err(failure_of).and_then(told)).collect();
        }
        Ok(Reply { body: Ok(_), .. }) => Failure::Nonsense,
        Ok(Reply { body: Err(refusal), .. }) => failure_of(refusal),
        Err(error) => Failure::Peer(error),
    };
    vec![Err(failure); rows]
}

/// Whether a replica has not heard of a table yet that this node knows.
pub(in crate::coordinator) fn has_not_heard_of_table(reply: &Result<Reply, PeerError>) -> bool {
    matches!(reply, Ok(Reply { body: Err(Refusal::UnknownTable(_)), .. }))
}

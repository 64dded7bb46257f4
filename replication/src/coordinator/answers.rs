//! What a replica answered to rows that it was to keep: row by row, for a replica may take some and not be ready for others.

use cube_storage::model::Outcome;

use super::error::Failure;
use crate::messages::{Refusal, Reply, ReplyBody};
use crate::transport::PeerError;

/// What came of each of `rows`, in their order.
pub(super) fn outcomes_of(reply: Result<Reply, PeerError>, rows: usize) -> Vec<Result<Outcome, Failure>> {
    let failure = match reply {
        Ok(Reply { body: Ok(ReplyBody::Wrote(outcomes)), .. }) if outcomes.len() == rows => {
            return outcomes.into_iter().map(Ok).collect();
        }
        Ok(Reply { body: Ok(ReplyBody::WroteSome(outcomes)), .. }) if outcomes.len() == rows => {
            return outcomes.into_iter().map(|outcome| outcome.map_err(failure_of)).collect();
        }
        Ok(Reply { body: Ok(_), .. }) => Failure::Nonsense,
        Ok(Reply { body: Err(refusal), .. }) => failure_of(refusal),
        Err(error) => Failure::Peer(error),
    };
    vec![Err(failure); rows]
}

pub(super) fn failure_of(refusal: Refusal) -> Failure {
    match refusal {
        Refusal::Fenced(epoch) => Failure::Fenced(epoch),
        other => Failure::Refused(other),
    }
}

/// Whether a replica only has to adopt a state that this node has adopted already (a map, a new table).
pub(super) fn is_behind<T>(outcome: &Result<T, Failure>) -> bool {
    matches!(outcome, Err(Failure::Refused(Refusal::MapBehind(_) | Refusal::UnknownTable(_))))
}

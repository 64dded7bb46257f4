//! Mistakes of a replica that is asked to write.

use std::collections::BTreeMap;

use cube_storage::model::{Mutation, NodeId, Origin, Outcome};

use super::super::control::PLACEMENT;
use super::Mutant;
use crate::messages::{Refusal, Reply, ReplyBody, Request, RequestBody, WriteRows};
use crate::replica::{OnAnswer, Replica};
use crate::transport::Serve;

/// A replica that makes a mistake, if its mutant makes one there.
pub(in crate::sim) struct SpoiledReplica<'a> {
    pub(in crate::sim) node: NodeId,
    pub(in crate::sim) replica: &'a Replica,
    pub(in crate::sim) mutant: Option<Mutant>,
}

/// What is said of rows that were kept from the replica, by their places.
type Said = BTreeMap<usize, Result<Outcome, Refusal>>;

impl Serve for SpoiledReplica<'_> {
    fn serve(&self, mut request: Request, answer: OnAnswer) {
        let (Some(mutant), RequestBody::Write(write)) = (self.mutant, &mut request.body) else {
            return self.replica.handle(request, answer);
        };
        if mutant.takes_anything(write.origin) {
            self.claim_by_own_map(&mut write.mutations);
        }
        let said = mutant.keeps_from(write);
        if said.is_empty() {
            return self.replica.handle(request, answer);
        }
        let mutations = std::mem::take(&mut write.mutations).into_iter().enumerate();
        write.mutations = mutations.filter(|(place, _)| !said.contains_key(place)).map(|(_, row)| row).collect();
        if write.mutations.is_empty() {
            let body = Ok(told(Vec::new(), said));
            return answer(Reply { from: self.node, clock: request.clock, body });
        }
        let whole = move |reply: Reply| {
            let body = match reply.body {
                Ok(ReplyBody::Wrote(outcomes)) => Ok(told(outcomes.into_iter().map(Ok).collect(), said)),
                Ok(ReplyBody::WroteSome(results)) => Ok(told(results, said)),
                other => other,
            };
            answer(Reply { body, ..reply });
        };
        self.replica.handle(request, Box::new(whole));
    }
}

impl SpoiledReplica<'_> {
    /// As if the rows were counted by its own map.
    fn claim_by_own_map(&self, mutations: &mut [Mutation]) {
        let store = self.replica.store();
        for mutation in mutations {
            let partition = store.bits().partition_of(mutation.key.token());
            mutation.claim = Some(store.partition(PLACEMENT, partition).epoch);
        }
    }
}

/// The answer to all rows, from that to those that the replica got, and from what is said of the others.
fn told(results: Vec<Result<Outcome, Refusal>>, said: Said) -> ReplyBody {
    let mut all = results;
    said.into_iter().for_each(|(place, result)| all.insert(place.min(all.len()), result));
    if all.iter().all(Result::is_ok) {
        ReplyBody::Wrote(all.into_iter().flatten().collect())
    } else {
        ReplyBody::WroteSome(all)
    }
}

impl Mutant {
    fn takes_anything(self, origin: Origin) -> bool {
        match self {
            Self::HintsTakenByAnyone => origin == Origin::Hint,
            Self::FenceForgotten => origin == Origin::Client,
            _ => false,
        }
    }

    fn keeps_from(self, write: &WriteRows) -> Said {
        if self == Self::RowsJudgedAlone {
            let is_batch = write.origin == Origin::Client && is_batch(&write.mutations);
            let refused = is_batch.then_some((0, Err(Refusal::Overloaded { retry_after_ms: 1 })));
            return refused.into_iter().collect();
        }
        let is_repair = matches!(write.origin, Origin::Replica { .. });
        let is_kept = |row: &Mutation| match self {
            Self::TombstoneIgnored => row.record.is_tombstone(),
            Self::DeletionsNotCompared => is_repair && row.record.is_tombstone(),
            Self::ReadRepairSkipped => is_repair,
            Self::HintDroppedByTarget => write.origin == Origin::Hint,
            _ => false,
        };
        let places = write.mutations.iter().enumerate().filter(|(_, row)| is_kept(row));
        places.map(|(place, _)| (place, Ok(Outcome::Applied))).collect()
    }
}

/// Whether the first two rows are of one partition key.
fn is_batch(rows: &[Mutation]) -> bool {
    matches!(rows, [first, second, ..] if first.key.partition == second.key.partition)
}

//! Bringing replicas up to date before a read answers: the rows that one replica lacks go to it together, in messages of
//! bounded size.

use std::collections::BTreeMap;
use std::sync::Arc;

use cube_storage::model::{Hlc, Mutation, NodeId, Origin, Outcome};

use super::{ReadOperation, failure_of};
use crate::coordinator::Resend;
use crate::coordinator::error::Failure;
use crate::messages::{Reply, ReplyBody, RequestBody, Stamp, WriteRows};
use crate::transport::PeerError;

/// Keys and records of one message; a first row that is larger goes alone.
const PARCEL_BYTES_MAX: usize = 1 << 20;

/// What is to be brought, by who gets it and the purge floor of who it comes from: each row with its place in the read.
#[derive(Default)]
pub(super) struct Repairs {
    rows: BTreeMap<(NodeId, Hlc), Vec<(usize, Mutation)>>,
}

/// One message.
#[derive(Clone)]
pub(super) struct Parcel {
    node: NodeId,
    floor: Hlc,
    rows: Vec<(usize, Mutation)>,
}

impl Repairs {
    pub(super) fn add(&mut self, node: NodeId, floor: Hlc, place: usize, mutation: Mutation) {
        self.rows.entry((node, floor)).or_default().push((place, mutation));
    }

    pub(super) fn into_parcels(self) -> Vec<Parcel> {
        let mut parcels = Vec::new();
        for ((node, floor), rows) in self.rows {
            let (mut parcel, mut bytes) = (Parcel { node, floor, rows: Vec::new() }, 0);
            for (place, mutation) in rows {
                let row_bytes = mutation.key.len_bytes() + mutation.record.encoded_len();
                if !parcel.rows.is_empty() && bytes + row_bytes > PARCEL_BYTES_MAX {
                    parcels.push(std::mem::replace(&mut parcel, Parcel { node, floor, rows: Vec::new() }));
                    bytes = 0;
                }
                bytes += row_bytes;
                parcel.rows.push((place, mutation));
            }
            parcels.push(parcel);
        }
        parcels
    }
}

impl ReadOperation {
    pub(super) fn bring(self: &Arc<Self>, parcel: Parcel) {
        let body = RequestBody::Write(WriteRows {
            origin: Origin::Replica { floor: parcel.floor },
            mutations: parcel.rows.iter().map(|(_, mutation)| mutation.clone()).collect(),
            stamp: Stamp::Old,
            seen: None,
            condition: None,
        });
        let operation = Arc::clone(self);
        self.coordinator.send(parcel.node, body, self.deadline.ms(), self.explain, move |reply| {
            let resend = || -> Resend {
                let (again, parcel) = (Arc::clone(&operation), parcel.clone());
                Box::new(move || again.bring(parcel))
            };
            if !operation.coordinator.resend_if_behind(&reply, operation.deadline.ms(), resend) {
                operation.on_brought(parcel, reply);
            }
        });
    }

    fn on_brought(self: &Arc<Self>, Parcel { node, rows, .. }: Parcel, reply: Result<Reply, PeerError>) {
        let outcomes = outcomes_of(reply, rows.len());
        self.change(|state, actions| {
            for (at, (place, mutation)) in rows.iter().enumerate() {
                let same_map = |row: &&mut super::Row| Some(row.claim) == mutation.claim;
                let Some(row) = state.rows.get_mut(*place).filter(same_map) else { continue };
                let outcome = match &outcomes {
                    Ok(outcomes) => outcomes.get(at).copied().ok_or(Failure::Nonsense),
                    Err(failure) => Err(failure.clone()),
                };
                let step = row.on_repaired(node, outcome);
                self.take(state, *place, step, actions);
            }
        });
    }
}

fn outcomes_of(reply: Result<Reply, PeerError>, rows: usize) -> Result<Vec<Outcome>, Failure> {
    match reply?.body.map_err(failure_of)? {
        ReplyBody::Wrote(outcomes) if outcomes.len() == rows => Ok(outcomes),
        ReplyBody::Wrote(_) | ReplyBody::Rows(_) | ReplyBody::Page { .. } | ReplyBody::Fenced => Err(Failure::Nonsense),
    }
}

//! Bringing replicas up to date before a read answers: the rows that one replica lacks go to it together, in messages of
//! bounded size.

use std::collections::BTreeMap;
use std::sync::Arc;

use cube_storage::model::{Hlc, Mutation, NodeId, Origin};

use super::ReadOperation;
use crate::coordinator::answers::{is_behind, outcomes_of};
use crate::coordinator::figures::{RepairCause, RepairOutcome};
use crate::messages::{Reply, RequestBody, Stamp, WriteRows};
use crate::transport::PeerError;

/// Keys and records of one message; a first row that is larger goes alone.
const PARCEL_BYTES_MAX: usize = 1 << 20;

/// What is to be brought, by who gets it and the purge floor of who it comes from: each row with its place in the read.
#[derive(Default)]
pub(super) struct Repairs {
    rows: BTreeMap<(NodeId, Hlc), Vec<(usize, Mutation)>>,
}

/// One message.
pub(super) struct Parcel {
    node: NodeId,
    floor: Hlc,
    rows: Vec<(usize, Mutation)>,
    /// How often it was sent again.
    resends: u32,
}

impl Repairs {
    pub(super) fn add(&mut self, node: NodeId, floor: Hlc, place: usize, mutation: Mutation) {
        self.rows.entry((node, floor)).or_default().push((place, mutation));
    }

    pub(super) fn into_parcels(self) -> Vec<Parcel> {
        let mut parcels = Vec::new();
        for ((node, floor), rows) in self.rows {
            let empty = || Parcel { node, floor, rows: Vec::new(), resends: 0 };
            let (mut parcel, mut bytes) = (empty(), 0);
            for (place, mutation) in rows {
                let row_bytes = mutation.key.len_bytes() + mutation.record.encoded_len();
                if !parcel.rows.is_empty() && bytes + row_bytes > PARCEL_BYTES_MAX {
                    parcels.push(std::mem::replace(&mut parcel, empty()));
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
        self.coordinator.send(parcel.node, body, self.deadline.ms(), self.ledger.as_ref(), move |reply| {
            operation.on_brought(parcel, reply);
        });
    }

    fn on_brought(self: &Arc<Self>, parcel: Parcel, reply: Result<Reply, PeerError>) {
        let Parcel { node, floor, rows, resends } = parcel;
        let resend_at = self.coordinator.resend_at(resends, self.deadline.ms());
        let outcomes = outcomes_of(reply, rows.len());
        let mut behind = Vec::new();
        self.change(|state, actions| {
            for ((place, mutation), outcome) in rows.into_iter().zip(outcomes) {
                let is_final = resend_at.is_none() || !is_behind(&outcome);
                if is_final {
                    self.counters.repair(RepairCause::Blocking, RepairOutcome::of(&outcome));
                }
                let is_waited_for = |row: &&mut super::Row| Some(row.claim) == mutation.claim && !row.is_decided();
                let Some(row) = state.rows.get_mut(place).filter(is_waited_for) else { continue };
                if !is_final {
                    behind.push((place, mutation));
                    continue;
                }
                let step = row.on_repaired(node, outcome);
                self.take(state, place, step, actions);
            }
        });
        if let Some(due_ms) = resend_at.filter(|_| !behind.is_empty()) {
            let (again, parcel) = (Arc::clone(self), Parcel { node, floor, rows: behind, resends: resends + 1 });
            self.coordinator.resend(due_ms, Box::new(move || again.bring_again(parcel)));
        }
    }

    /// Brings a replica that was behind those rows that are still waited for.
    fn bring_again(self: &Arc<Self>, mut parcel: Parcel) {
        let state = self.state.lock();
        parcel.rows.retain(|(place, mutation)| {
            state.rows.get(*place).is_some_and(|row| Some(row.claim) == mutation.claim && !row.is_decided())
        });
        drop(state);
        if !parcel.rows.is_empty() {
            self.bring(parcel);
        }
    }
}

//! Beginning a job: at most one at a time repairs a table, as far as the nodes can tell each other.
//!
//! A job that is asked for is a claim first, which everybody who asks is told of; then all nodes that are alive are
//! asked for theirs. Of two claims to a table the older one stays. That is enough: a node that was asked by a claim
//! has moved its clock past it, so any claim that it makes later is younger, and asks too. Who cannot be reached may
//! run another job on the table, which costs time and harms nothing.

use std::sync::Arc;

use super::handle::{ACTIVE_MAX, Repairs, Unanswered};
use super::id::RepairId;
use super::job::{Asked, Job};
use super::plan::{BeginError, plan};
use super::questions::{Active, RepairAnswer, RepairQuestion};

/// How long the others have to say that they repair the table.
const CLAIM_TIMEOUT_MS: u32 = 2_000;

/// Told once what became of a job that was asked for.
pub(super) type OnBegun = Box<dyn FnOnce(Result<Job, BeginError>) + Send>;

/// A job that is not accepted yet.
pub(super) struct Claim {
    pub(super) job: Job,
    told: OnBegun,
    /// Answers that have not come.
    waiting: usize,
    conflict: Option<RepairId>,
}

impl Repairs {
    /// Begins a job. It is told to exist when it is durable.
    pub fn begin(self: &Arc<Self>, asked: Asked, told: impl FnOnce(Result<Job, BeginError>) + Send + 'static) {
        let peers: Vec<_> = self.peers().into_iter().filter(|peer| self.is_alive(*peer)).collect();
        let id = match self.claim(asked, peers.len(), Box::new(told)) {
            Ok(id) => id,
            Err((error, told)) => return told(Err(error)),
        };
        if peers.is_empty() {
            return self.settle(id);
        }
        for peer in peers {
            let shared = Arc::clone(self);
            let on_told = move |answer| shared.on_active(id, answer);
            self.ask(peer, RepairQuestion::Active, CLAIM_TIMEOUT_MS, Box::new(on_told));
        }
    }

    fn claim(&self, asked: Asked, waiting: usize, told: OnBegun) -> Result<RepairId, (BeginError, OnBegun)> {
        let planned = plan(&self.parts().catalog.current(), self.me(), &asked);
        let (tables, units) = match planned {
            Ok(planned) => planned,
            Err(error) => return Err((error, told)),
        };
        let mut jobs = self.jobs.lock();
        let id = match self.parts().clock.stamp() {
            Ok(stamp) => RepairId::new(stamp),
            Err(error) => return Err((BeginError::Clock(error.to_string()), told)),
        };
        let job = Job::new(id, asked, tables, units, self.now_ms());
        let (mine, active) = (job.active(true), jobs.active());
        if let Some(other) = active.iter().find(|other| is_shared(&mine, other)) {
            return Err((BeginError::UnderWay { id: other.id }, told));
        }
        if active.len() >= ACTIVE_MAX {
            return Err((BeginError::TooMany { active: active.len() }, told));
        }
        jobs.claims.insert(id, Claim { job, told, waiting, conflict: None });
        Ok(id)
    }

    /// A node told of its jobs, or did not.
    fn on_active(&self, id: RepairId, answer: Result<RepairAnswer, Unanswered>) {
        let mut jobs = self.jobs.lock();
        let Some(claim) = jobs.claims.get_mut(&id) else { return };
        claim.waiting = claim.waiting.saturating_sub(1);
        match answer {
            Ok(RepairAnswer::Active(others)) => {
                let mine = claim.job.active(true);
                let older = |other: &&Active| other.id < id || !other.is_claim;
                let other = others.iter().filter(older).find(|other| is_shared(&mine, other));
                claim.conflict = claim.conflict.or(other.map(|other| other.id));
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "a node does not tell of its repairs"),
        }
        let is_settled = claim.waiting == 0;
        drop(jobs);
        if is_settled {
            self.settle(id);
        }
    }

    /// Everybody has answered: the runner makes the job durable, unless another one was there first.
    fn settle(&self, id: RepairId) {
        let mut jobs = self.jobs.lock();
        let Some(Claim { job, told, conflict, .. }) = jobs.claims.remove(&id) else { return };
        if let Some(id) = conflict {
            drop(jobs);
            return told(Err(BeginError::UnderWay { id }));
        }
        jobs.accepted.push_back((job, told));
        drop(jobs);
        (self.wake)();
    }
}

fn is_shared(one: &Active, other: &Active) -> bool {
    one.tables.iter().any(|table| other.tables.contains(table))
}

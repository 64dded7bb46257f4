//! Repairs on demand in a node: their two workers, and what operators ask of them.

use std::path::Path;
use std::sync::Arc;

use cube_replication::anti_entropy::AntiEntropy;
use cube_replication::repair::{
    Asked, BeginError, FOLDER, Job, RUNNER, RepairId, RepairRunner, RepairSessions, RepairSettings, Repairs,
    RepairsParts, SESSIONS, Unanswered,
};
use cube_storage::files::RealFiles;
use cube_storage::model::NodeId;
use tokio::sync::oneshot;

use super::ground::Ground;
use super::member::Member;
use super::{NodeError, opening};
use crate::admin::{AdminError, RepairView, RepairsView, name_of};

/// Works for the repairs of other nodes from now on, and goes on with those of this one, kept in its data directory, that
/// have not ended.
pub(super) async fn start(
    ground: &Ground<'_>,
    anti_entropy: &Arc<AntiEntropy>,
    dir: &Path,
) -> Result<Arc<Repairs>, NodeError> {
    let (runner, sessions) = (ground.waker(RUNNER), ground.waker(SESSIONS));
    let parts = RepairsParts {
        anti_entropy: Arc::clone(anti_entropy),
        files: Arc::new(RealFiles::new(dir)),
        settings: RepairSettings::default(),
        wake: Box::new(move || {
            runner();
            sessions();
        }),
    };
    let repairs = opening::blocking(move || Repairs::open(parts, Path::new(FOLDER))).await?;
    let repairs = repairs.map_err(|error| NodeError::Failed(error.to_string()))?;
    ground.replica.work_for(Arc::clone(&repairs));
    ground.begin(RepairRunner::new(Arc::clone(&repairs)))?;
    ground.begin(RepairSessions::new(Arc::clone(&repairs)))?;
    Ok(repairs)
}

/// What an operator is told when the node stops before it knows.
fn stopping<E>(_: E) -> AdminError {
    AdminError::Elsewhere { reason: "this node is about to stop; ask again, or another node".into() }
}

impl Member {
    pub(super) async fn begin_repair(&self, asked: Asked) -> Result<RepairView, AdminError> {
        if self.is_leaving() {
            let reason = "this node leaves the cluster, and a repair that it ran would end with it: ask another node";
            return Err(AdminError::Conflict { reason: reason.to_owned() });
        }
        let (told, begun) = oneshot::channel();
        self.repairs.begin(asked, move |answer| {
            // Nobody listens any more; the job is known by its list all the same.
            let _unheard = told.send(answer);
        });
        begun.await.map_err(stopping)?.map(|job| self.repair_view(&job)).map_err(AdminError::from)
    }

    pub(super) async fn repairs_view(&self) -> Result<RepairsView, AdminError> {
        let (told, found) = oneshot::channel();
        self.repairs.jobs_everywhere(move |jobs, silent| {
            let _unheard = told.send((jobs, silent));
        });
        let (jobs, silent) = found.await.map_err(stopping)?;
        let state = self.catalog.current();
        Ok(RepairsView {
            repairs: jobs.iter().map(|job| self.repair_view(job)).collect(),
            not_asked: silent.into_iter().map(|node| name_of(&state, node)).collect(),
        })
    }

    /// The repairs that a node runs and that have not ended, as far as it answers.
    pub(super) async fn repairs_run_by(&self, node: NodeId) -> Result<Vec<RepairId>, AdminError> {
        let (told, found) = oneshot::channel();
        self.repairs.jobs_everywhere(move |jobs, _silent| {
            let _unheard = told.send(jobs);
        });
        let jobs = found.await.map_err(stopping)?.into_iter();
        Ok(jobs.filter(|job| job.id.node() == node && !job.state.is_over()).map(|job| job.id).collect())
    }

    pub(super) async fn repair(&self, id: &str, cancel: bool) -> Result<RepairView, AdminError> {
        let unknown = || AdminError::UnknownRepair { id: id.to_owned() };
        let known: RepairId = id.parse().map_err(|_| unknown())?;
        let (told, found) = oneshot::channel();
        self.repairs.job_anywhere(known, cancel, move |answer| {
            let _unheard = told.send(answer);
        });
        let job = found.await.map_err(stopping)?.map_err(|error: Unanswered| AdminError::Elsewhere {
            reason: format!("{} runs repair {id}: {error}", name_of(&self.catalog.current(), known.node())),
        })?;
        job.map(|job| self.repair_view(&job)).ok_or_else(unknown)
    }

    fn repair_view(&self, job: &Job) -> RepairView {
        RepairView::of(job, &self.catalog.current(), self.repairs.now_ms())
    }
}

impl From<BeginError> for AdminError {
    fn from(error: BeginError) -> Self {
        let reason = error.to_string();
        match error {
            BeginError::Unknown(unknown) => unknown.into(),
            BeginError::UnderWay { id } => Self::RepairUnderWay { id: id.to_string() },
            BeginError::TooMany { .. } => Self::TooManyRepairs { reason },
            BeginError::TooLarge => Self::Conflict { reason },
            BeginError::Clock(_) | BeginError::NotKept(_) => Self::Elsewhere { reason },
        }
    }
}

//! What nodes ask each other about repair jobs.
//!
//! One question begins an errand and asks how it stands: whoever gets it twice, or after a restart, tells or begins
//! again, and never does two things. So nothing is lost with a message, an answer or either node.

use cube_storage::model::{NodeId, TableId};
use serde::{Deserialize, Serialize};

use super::id::RepairId;
use super::job::{Job, Moved, Why};
use crate::anti_entropy::questions::Tree;

/// Trees that one of their replicas is to compare with another, for a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Errand {
    /// The job.
    pub job: RepairId,
    /// Which of its units.
    pub unit: u32,
    /// The how manieth time: a higher one takes the place of those before.
    pub attempt: u32,
    /// With whom.
    pub with: NodeId,
    /// Whether differences are only counted.
    pub dry_run: bool,
    /// What is compared.
    pub trees: Vec<Tree>,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RepairQuestion {
    /// Run this, or tell how it stands.
    Run(Errand),
    /// The errands of this job are not wanted any more.
    Forget(RepairId),
    /// Which jobs are active there?
    Active,
    /// All jobs that are known there.
    List,
    /// A job of that node.
    Show(RepairId),
    /// End a job of that node.
    Cancel(RepairId),
}

/// A job that has not ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Active {
    /// Its id.
    pub id: RepairId,
    /// What it repairs.
    pub tables: Vec<TableId>,
    /// Whether it is still asked around whether it may begin.
    pub is_claim: bool,
}

/// What came of an errand.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Report {
    /// Trees in which something differed: mended, or only counted in a dry run.
    pub differed: Vec<Tree>,
    /// Trees that were not compared or not mended, whose replica is to blame, and why.
    pub left: Vec<(Tree, NodeId, Why)>,
    /// What it took.
    pub moved: Moved,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum RepairAnswer {
    /// It waits, or runs and has done so much.
    Working {
        /// What it has exchanged.
        moved: Moved,
        /// Grows while that node gets on with anything of the kind, be it something else that comes first.
        beat: u64,
    },
    /// It is done.
    Done(Report),
    /// It failed as a whole, because of a node; another attempt may do better.
    Failed(NodeId, Why),
    /// It is forgotten.
    Forgotten,
    /// The active jobs.
    Active(Vec<Active>),
    /// Jobs, newest first, without the trees they are made of.
    Jobs(Vec<Job>),
    /// A job, or nothing where there is none of that id.
    Job(Option<Box<Job>>),
}

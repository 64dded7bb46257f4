//! Repairs on demand: an operator asks for tables to be compared and mended now, and is told exactly what came of it.
//!
//! A job (`job.rs`) is a plain state machine: which tables, which pairs of replicas and which of their trees, and what
//! was found. It belongs to the node that was asked for it, which is named in its id; that node keeps it on disk
//! (`record.rs`, `shelf.rs`), has one of the two members of each pair run the comparison (`runner.rs`), and asks the
//! others beforehand whether one of them repairs these tables already (`claims.rs`). The member that is asked queues
//! the errand (`desk.rs`) and runs it as a session of anti-entropy (`sessions.rs`). Doors and peers talk to
//! `handle.rs`.
//!
//! What it keeps true: a job is durable before it is told to exist; whatever ends or crashes, an errand may be asked
//! for again, because what was mended does not differ any more; a job that ends says of everything in its scope either
//! that it was compared or why it was not; a dry run changes nothing anywhere; everything is bounded.

mod claims;
mod desk;
mod handle;
mod id;
mod job;
mod plan;
mod questions;
mod record;
mod runner;
mod sessions;
mod shelf;

pub use self::handle::{OpenError, RepairSettings, Repairs, RepairsParts, Unanswered};
pub use self::id::{BadRepairId, RepairId};
pub use self::job::{Asked, Job, JobState, JobTable, Moved, NotCompared, PairResult, Why};
pub use self::plan::{BeginError, COMPARISONS_MAX};
pub use self::questions::{Active, Errand, RepairAnswer, RepairQuestion, Report};
pub use self::record::{FORMAT, RecordError};
pub use self::runner::{RUNNER, RepairRunner};
pub use self::sessions::{RepairSessions, SESSIONS};
pub use self::shelf::{FOLDER, RESULTS_KEPT_MAX};

//! What the node's doors, its peers and its two workers share of repair jobs.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use cube_storage::files::{Files, FilesError};
use cube_storage::model::NodeId;
use parking_lot::Mutex;
use thiserror::Error;

use super::claims::{Claim, OnBegun};
use super::desk::Desk;
use super::id::RepairId;
use super::job::Job;
use super::questions::{Active, RepairAnswer, RepairQuestion};
use super::shelf::Shelf;
use crate::anti_entropy::AntiEntropy;
use crate::anti_entropy::Parts;
use crate::messages::{Features, PROTOCOL, Refusal, Reply, ReplyBody, Request, RequestBody};
use crate::transport::{Lane, PeerError};

/// Jobs of a node that have not ended.
pub(super) const ACTIVE_MAX: usize = 16;
/// After which somebody for whose errand there was no room asks again.
const FULL_RETRY_MS: u32 = 500;
/// The time of a question about jobs.
const QUESTION_TIMEOUT_MS: u32 = 2_000;

/// What decides about the patience of jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RepairSettings {
    /// For how long a job waits for a node that is away before it goes without it.
    pub give_up_ms: u64,
    /// For how long it waits for a node that is there and does not get on.
    pub stalled_ms: u64,
    /// How often it is asked how an errand stands.
    pub poll_ms: u64,
    /// How often the progress of a job is made durable.
    pub save_ms: u64,
}

impl Default for RepairSettings {
    fn default() -> Self {
        Self { give_up_ms: 30_000, stalled_ms: 120_000, poll_ms: 100, save_ms: 1_000 }
    }
}

/// What repairs work with.
pub struct RepairsParts {
    /// Anti-entropy of this node, which knows the others, and with whom it compares its replicas itself.
    pub anti_entropy: Arc<AntiEntropy>,
    /// Where jobs are kept.
    pub files: Arc<dyn Files>,
    /// Their patience.
    pub settings: RepairSettings,
    /// Called when something came in that one of the workers waits for.
    pub wake: Box<dyn Fn() + Send + Sync>,
}

/// The jobs that were kept cannot be opened.
#[derive(Debug, Error)]
#[error("the repairs that were kept cannot be opened: {0}")]
pub struct OpenError(#[from] FilesError);

/// Something that a worker waited for.
pub(super) type Inbox<T> = Mutex<Vec<(u64, T)>>;

/// Jobs on their way to the shelf, and those on it. One lock, so that a job is always to be seen in one of them.
pub(super) struct Jobs {
    pub(super) claims: BTreeMap<RepairId, Claim>,
    pub(super) accepted: VecDeque<(Job, OnBegun)>,
    pub(super) shelf: Shelf,
}

impl Jobs {
    /// All that have not ended.
    pub(super) fn active(&self) -> Vec<Active> {
        let claims = self.claims.values().map(|claim| claim.job.active(true));
        let accepted = self.accepted.iter().map(|(job, _)| job.active(false));
        let kept = self.shelf.jobs().filter(|job| !job.state.is_over()).map(|job| job.active(false));
        claims.chain(accepted).chain(kept).collect()
    }
}

/// Repairs on demand, as one node sees them.
pub struct Repairs {
    pub(super) anti_entropy: Arc<AntiEntropy>,
    pub(super) settings: RepairSettings,
    pub(super) jobs: Mutex<Jobs>,
    pub(super) desk: Mutex<Desk>,
    pub(super) wake: Box<dyn Fn() + Send + Sync>,
}

/// Told what a node answers.
pub(super) type OnTold = Box<dyn FnOnce(Result<RepairAnswer, Unanswered>) + Send>;

/// A node did not answer a question about jobs.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Unanswered {
    /// It gave none.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// It refused.
    #[error("it refused: {0}")]
    Refused(#[from] Refusal),
    /// It answered something else.
    #[error("it answered another question")]
    Other,
}

impl Repairs {
    /// Opens the jobs that were kept in this folder. Those that had not ended go on when the workers begin.
    pub fn open(parts: RepairsParts, folder: &Path) -> Result<Arc<Self>, OpenError> {
        let RepairsParts { anti_entropy, files, settings, wake } = parts;
        let shelf = Shelf::open(files, folder)?;
        let jobs = Jobs { claims: BTreeMap::new(), accepted: VecDeque::new(), shelf };
        Ok(Arc::new(Self { anti_entropy, settings, jobs: Mutex::new(jobs), desk: Mutex::default(), wake }))
    }

    pub(super) fn parts(&self) -> &Parts {
        &self.anti_entropy.parts
    }

    pub(super) fn me(&self) -> NodeId {
        self.anti_entropy.parts.me
    }

    /// The time of day, as jobs tell it.
    pub fn now_ms(&self) -> u64 {
        self.parts().clock.peek().millis()
    }

    /// Whether a node is believed to be alive.
    pub(super) fn is_alive(&self, node: NodeId) -> bool {
        node == self.me() || self.parts().membership.is_alive(node)
    }

    /// The jobs of this node, newest first.
    pub fn jobs(&self) -> Vec<Job> {
        self.jobs.lock().shelf.jobs().map(Job::brief).collect()
    }

    /// A job of this node.
    pub fn job(&self, id: RepairId) -> Option<Job> {
        self.jobs.lock().shelf.get(id).map(Job::summary)
    }

    /// Ends a job of this node; one that is over stays as it is. What it is now.
    pub fn cancel(&self, id: RepairId) -> Option<Job> {
        let now_ms = self.now_ms();
        let mut jobs = self.jobs.lock();
        let is_over = jobs.shelf.get(id)?.state.is_over();
        if !is_over {
            jobs.shelf.change(id)?.cancel(now_ms);
        }
        let job = jobs.shelf.get(id).map(Job::summary);
        drop(jobs);
        (self.wake)();
        job
    }

    /// All jobs of this node and of those that are alive, newest first; and the nodes that did not answer.
    pub fn jobs_everywhere(self: &Arc<Self>, told: impl FnOnce(Vec<Job>, Vec<NodeId>) + Send + 'static) {
        let peers = self.peers();
        let asked: Vec<NodeId> = peers.iter().copied().filter(|peer| self.is_alive(*peer)).collect();
        let silent = peers.into_iter().filter(|peer| !asked.contains(peer)).collect();
        let found = Arc::new(Mutex::new((asked.len(), self.jobs(), silent, Some(told))));
        let conclude = |found: &mut (usize, Vec<Job>, Vec<NodeId>, Option<_>)| {
            let (left, jobs, silent, told) = found;
            if *left == 0 {
                jobs.sort_by_key(|job| std::cmp::Reverse(job.id));
                return told.take().map(|told| (told, std::mem::take(jobs), std::mem::take(silent)));
            }
            None
        };
        if asked.is_empty() {
            let concluded = conclude(&mut found.lock());
            if let Some((told, jobs, silent)) = concluded {
                told(jobs, silent);
            }
            return;
        }
        for peer in asked {
            let found = Arc::clone(&found);
            let on_told = move |answer| {
                let mut found = found.lock();
                found.0 -= 1;
                match answer {
                    Ok(RepairAnswer::Jobs(jobs)) => found.1.extend(jobs),
                    // One that knows no jobs has none.
                    Err(Unanswered::Refused(Refusal::Unsupported(_))) => {}
                    _ => found.2.push(peer),
                }
                let concluded = conclude(&mut found);
                drop(found);
                if let Some((told, jobs, silent)) = concluded {
                    told(jobs, silent);
                }
            };
            self.ask(peer, RepairQuestion::List, QUESTION_TIMEOUT_MS, Box::new(on_told));
        }
    }

    /// Shows or ends a job of whichever node its id names. Nothing where there is no such job.
    pub fn job_anywhere(
        self: &Arc<Self>,
        id: RepairId,
        cancel: bool,
        told: impl FnOnce(Result<Option<Job>, Unanswered>) + Send + 'static,
    ) {
        let node = id.node();
        if node == self.me() {
            return told(Ok(if cancel { self.cancel(id) } else { self.job(id) }));
        }
        if !self.peers().contains(&node) {
            return told(Ok(None));
        }
        let question = if cancel { RepairQuestion::Cancel(id) } else { RepairQuestion::Show(id) };
        let on_told = move |answer| {
            told(match answer {
                Ok(RepairAnswer::Job(job)) => Ok(job.map(|job| *job)),
                Ok(_) => Err(Unanswered::Other),
                Err(error) => Err(error),
            });
        };
        self.ask(node, question, QUESTION_TIMEOUT_MS, Box::new(on_told));
    }

    /// The other members.
    pub(super) fn peers(&self) -> Vec<NodeId> {
        let state = self.parts().catalog.current();
        AntiEntropy::members(&state).into_iter().filter(|member| *member != self.me()).collect()
    }

    /// Asks a node, which may be this one.
    pub(super) fn ask(&self, node: NodeId, question: RepairQuestion, timeout_ms: u32, told: OnTold) {
        if node == self.me() {
            return told(self.answer(question).map_err(Unanswered::Refused));
        }
        let clock = Arc::clone(&self.parts().clock);
        let reply = move |reply: Result<Reply, PeerError>| {
            if let Ok(reply) = &reply {
                // A clock out of bound is not absorbed; jobs go on whatever the clocks say.
                let _absorbed = clock.observe(reply.clock);
            }
            told(match reply.map(|reply| reply.body) {
                Ok(Ok(ReplyBody::Repair(answer))) => Ok(*answer),
                Ok(Ok(_)) => Err(Unanswered::Other),
                Ok(Err(refusal)) => Err(refusal.into()),
                Err(error) => Err(error.into()),
            });
        };
        let body = RequestBody::Repair(Box::new(question));
        self.parts().transport.send(node, Lane::Background, self.request(body, timeout_ms), Box::new(reply));
    }

    pub(super) fn request(&self, body: RequestBody, time_left_ms: u32) -> Request {
        let (from, clock) = (self.me(), self.parts().clock.peek());
        Request {
            protocol: PROTOCOL,
            features: Features::default(),
            from,
            clock,
            time_left_ms,
            explain: false,
            trace: None,
            body,
        }
    }

    /// Answers a node, which may be this one.
    pub fn answer(&self, question: RepairQuestion) -> Result<RepairAnswer, Refusal> {
        Ok(match question {
            RepairQuestion::Run(errand) => {
                let answer = self.desk.lock().ask(errand, self.parts().clock.monotonic_ms());
                (self.wake)();
                answer.ok_or(Refusal::Overloaded { retry_after_ms: FULL_RETRY_MS })?
            }
            RepairQuestion::Forget(job) => {
                self.desk.lock().forget(job);
                RepairAnswer::Forgotten
            }
            RepairQuestion::Active => RepairAnswer::Active(self.jobs.lock().active()),
            RepairQuestion::List => RepairAnswer::Jobs(self.jobs()),
            RepairQuestion::Show(id) => RepairAnswer::Job(self.job(id).map(Box::new)),
            RepairQuestion::Cancel(id) => RepairAnswer::Job(self.cancel(id).map(Box::new)),
        })
    }
}

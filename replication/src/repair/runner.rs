//! The worker that runs the jobs of its node, one at a time and the oldest first: it has members of each pair of
//! replicas run the units of a job, asks how they stand, and keeps what came of them.
//!
//! Invariants: a job is on disk before anybody is told that it exists, and so is its end before the next one begins; a
//! unit that was run and not yet recorded is asked for again after a crash, which finds nothing more to mend; a pair
//! with a node that is away keeps no other pair waiting, and is given up only after the time set for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use cube_storage::model::NodeId;
use parking_lot::Mutex;

use super::handle::{Inbox, Repairs, Unanswered};
use super::id::RepairId;
use super::job::{Job, JobState, Moved, Unit, Why};
use super::plan::{BeginError, Held, is_held};
use super::questions::{Errand, RepairAnswer, RepairQuestion};
use super::sessions::why;
use crate::messages::Refusal;
use crate::worker::{Step, StepError, Worker};

/// What the worker is called in the status.
pub const RUNNER: &str = "repair-jobs";

/// Units that are run at a time. Every node runs one at a time, so more only wait there.
const UNITS_AT_ONCE: usize = 4;
/// How long a runner without a job rests; it is woken by one.
const REST_MS: u64 = 5_000;
/// The time of a question, which is answered from memory.
const QUESTION_TIMEOUT_MS: u32 = 2_000;
/// After a first failure a pair is left alone for so long, then twice as long each time.
const BACKOFF_FIRST_MS: u64 = 100;
/// And never longer.
const BACKOFF_LONGEST_MS: u64 = 4_000;
/// After which a record that could not be written is written again.
const SAVE_AGAIN_MS: u64 = 1_000;

type Told = Result<RepairAnswer, Unanswered>;
/// Who runs it, and with whom.
type Pair = (NodeId, NodeId);

/// A unit that somebody runs.
struct Flight {
    pair: Pair,
    attempt: u32,
    /// What is waited for; nothing when it is to be asked then.
    ticket: Option<u64>,
    at_ms: u64,
    moved: Moved,
    beat: u64,
    progress_ms: u64,
}

/// A pair that failed.
struct Trouble {
    first_ms: u64,
    failures: u32,
    not_before_ms: u64,
}

/// The job that runs.
struct Run {
    id: RepairId,
    flights: BTreeMap<usize, Flight>,
    attempts: BTreeMap<usize, u32>,
    troubles: BTreeMap<Pair, Trouble>,
}

/// The worker.
pub struct RepairRunner {
    shared: Arc<Repairs>,
    run: Option<Run>,
    inbox: Arc<Inbox<Told>>,
    last_ticket: u64,
    next_save_ms: u64,
    /// Whether a state was reached that is to be kept at once.
    must_save: bool,
}

impl RepairRunner {
    /// The runner of a node's jobs; there must be only one.
    pub fn new(shared: Arc<Repairs>) -> Self {
        let inbox = Arc::new(Mutex::default());
        Self { shared, run: None, inbox, last_ticket: 0, next_save_ms: 0, must_save: false }
    }

    /// Makes jobs that were accepted durable, and tells that they exist.
    fn keep_accepted(&self) {
        loop {
            let jobs = self.shared.jobs.lock();
            let Some((job, _)) = jobs.accepted.front() else { return };
            let (job, writer) = (job.clone(), jobs.shelf.writer());
            drop(jobs);
            let written = writer.write(&job);
            let mut jobs = self.shared.jobs.lock();
            let Some((job, told)) = jobs.accepted.pop_front() else { return };
            let answer = match written {
                Ok(()) => {
                    let summary = job.summary();
                    jobs.shelf.put(job);
                    Ok(summary)
                }
                Err(error) => Err(BeginError::NotKept(error.to_string())),
            };
            drop(jobs);
            told(answer);
        }
    }

    /// Writes what has changed, at once where that matters.
    fn save(&mut self, now_ms: u64) {
        if !self.must_save && now_ms < self.next_save_ms {
            return;
        }
        let mut jobs = self.shared.jobs.lock();
        let (unsaved, writer) = (jobs.shelf.unsaved(), jobs.shelf.writer());
        drop(jobs);
        self.must_save = false;
        self.next_save_ms = now_ms.saturating_add(self.shared.settings.save_ms);
        for job in unsaved {
            if let Err(error) = writer.write(&job) {
                tracing::warn!(id = %job.id, %error, "a repair cannot be recorded; it goes on all the same");
                self.shared.jobs.lock().shelf.not_saved(job.id);
                self.next_save_ms = now_ms.saturating_add(SAVE_AGAIN_MS);
            }
        }
        self.shared.jobs.lock().shelf.forget_oldest();
    }

    /// Ends with a job that is over, and takes up the next one. Whether there is one.
    fn take_up(&mut self) -> bool {
        let mut jobs = self.shared.jobs.lock();
        if let Some(run) = &self.run {
            if jobs.shelf.get(run.id).is_some_and(|job| !job.state.is_over()) {
                return true;
            }
            drop(jobs);
            self.dismiss();
            self.must_save = true;
            jobs = self.shared.jobs.lock();
        }
        let now_ms = self.shared.now_ms();
        let Some(job) = jobs.shelf.first_active().and_then(|id| jobs.shelf.change(id)) else { return false };
        job.begin(now_ms);
        let (id, flights, attempts, troubles) = (job.id, BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        tracing::info!(%id, comparisons = job.total - job.done, dry_run = job.asked.dry_run, "a repair is begun");
        self.run = Some(Run { id, flights, attempts, troubles });
        self.must_save = true;
        true
    }

    /// Tells those that work for the job that it is over.
    fn dismiss(&mut self) {
        let Some(run) = self.run.take() else { return };
        let mut workers: Vec<NodeId> = run.flights.values().map(|flight| flight.pair.0).collect();
        workers.sort_unstable();
        workers.dedup();
        for node in workers {
            // Who does not hear it forgets the errand when nobody asks for it.
            self.shared.ask(node, RepairQuestion::Forget(run.id), QUESTION_TIMEOUT_MS, Box::new(|_| ()));
        }
    }

    /// Takes what came in.
    fn hear(&mut self, now_ms: u64) {
        let came = std::mem::take(&mut *self.inbox.lock());
        let Some(run) = &mut self.run else { return };
        let mut heard: Vec<(usize, Told)> = Vec::new();
        for (ticket, told) in came {
            let of = run.flights.iter().find(|(_, flight)| flight.ticket == Some(ticket)).map(|(place, _)| *place);
            heard.extend(of.map(|place| (place, told)));
        }
        let is_late = |flight: &Flight| flight.ticket.is_some() && flight.at_ms <= now_ms;
        let late: Vec<(usize, NodeId)> = run
            .flights
            .iter()
            .filter(|(place, flight)| is_late(flight) && !heard.iter().any(|(of, _)| of == *place))
            .map(|(place, flight)| (*place, flight.pair.0))
            .collect();
        heard.into_iter().for_each(|(place, told)| self.on_told(place, told, now_ms));
        late.into_iter().for_each(|(place, node)| self.on_failed(place, node, &Why::NoAnswer, now_ms));
    }

    fn on_told(&mut self, place: usize, told: Told, now_ms: u64) {
        let (settings, Some(run)) = (self.shared.settings, &mut self.run) else { return };
        let Some(flight) = run.flights.get_mut(&place) else { return };
        let (by, again_ms) = (flight.pair.0, now_ms.saturating_add(settings.poll_ms));
        (flight.ticket, flight.at_ms) = (None, again_ms);
        match told {
            Ok(RepairAnswer::Working { moved, beat }) => {
                if beat != flight.beat {
                    flight.progress_ms = now_ms;
                }
                if moved != flight.moved {
                    run.troubles.remove(&flight.pair);
                }
                (flight.moved, flight.beat) = (moved, beat);
                self.check_stalled(place, by, now_ms);
            }
            Ok(RepairAnswer::Done(report)) => {
                run.troubles.remove(&flight.pair);
                run.flights.remove(&place);
                let wall_ms = self.shared.now_ms();
                if let Some(job) = self.shared.jobs.lock().shelf.change(run.id) {
                    job.on_report(place, &report, wall_ms);
                }
            }
            Ok(RepairAnswer::Failed(node, why)) => self.on_failed(place, node, &why, now_ms),
            Ok(_) => self.on_failed(place, by, &Why::Refused("it answered another question".into()), now_ms),
            Err(Unanswered::Refused(Refusal::Overloaded { retry_after_ms })) => {
                flight.at_ms = again_ms.max(now_ms.saturating_add(u64::from(retry_after_ms)));
                self.check_stalled(place, by, now_ms);
            }
            Err(Unanswered::Refused(refusal)) => self.on_failed(place, by, &why(refusal), now_ms),
            Err(Unanswered::Peer(_)) => self.on_failed(place, by, &Why::NoAnswer, now_ms),
            Err(Unanswered::Other) => {
                self.on_failed(place, by, &Why::Refused("it answered another question".into()), now_ms);
            }
        }
    }

    fn check_stalled(&mut self, place: usize, by: NodeId, now_ms: u64) {
        let (stalled_ms, Some(run)) = (self.shared.settings.stalled_ms, &self.run) else { return };
        let since_ms = run.flights.get(&place).map_or(now_ms, |flight| flight.progress_ms);
        if now_ms.saturating_sub(since_ms) >= stalled_ms {
            self.give_up(place, by, &Why::Busy);
        }
    }

    /// A unit failed: its pair is left alone for a while, or given up.
    fn on_failed(&mut self, place: usize, node: NodeId, why: &Why, now_ms: u64) {
        let (settings, Some(run)) = (self.shared.settings, &mut self.run) else { return };
        let Some(flight) = run.flights.remove(&place) else { return };
        run.attempts.insert(place, flight.attempt + 1);
        let fresh = Trouble { first_ms: now_ms, failures: 0, not_before_ms: now_ms };
        let trouble = run.troubles.entry(flight.pair).or_insert(fresh);
        let doubled = BACKOFF_FIRST_MS.saturating_mul(1_u64.checked_shl(trouble.failures).unwrap_or(u64::MAX));
        trouble.failures = trouble.failures.saturating_add(1).min(32);
        trouble.not_before_ms = now_ms.saturating_add(doubled.min(BACKOFF_LONGEST_MS));
        // Another release does not become this one by waiting.
        let is_final = matches!(why, Why::Unsupported(_));
        if is_final || now_ms.saturating_sub(trouble.first_ms) >= settings.give_up_ms {
            let why = if self.shared.is_alive(node) { why.clone() } else { Why::Down };
            self.give_up(place, node, &why);
        }
    }

    /// Gives up all that is left to do for the pair of a unit.
    fn give_up(&mut self, place: usize, node: NodeId, why: &Why) {
        let Some(run) = &mut self.run else { return };
        let wall_ms = self.shared.now_ms();
        let mut jobs = self.shared.jobs.lock();
        let Some(job) = jobs.shelf.change(run.id) else { return };
        let pair_of = |unit: &Unit| (unit.by, unit.with);
        let Some(pair) = job.units.get(place).map(pair_of) else { return };
        let places: Vec<usize> = job.open().filter(|(_, unit)| pair_of(unit) == pair).map(|(place, _)| place).collect();
        tracing::info!(id = %run.id, %node, %why, "a pair of replicas cannot be compared");
        for place in places {
            job.give_up(place, node, why, wall_ms);
            run.flights.remove(&place);
        }
    }

    /// Sends out what can be sent.
    fn launch(&mut self, now_ms: u64) {
        let Some(run) = &self.run else { return };
        let id = run.id;
        let due: Vec<usize> = run
            .flights
            .iter()
            .filter(|(_, flight)| flight.ticket.is_none() && flight.at_ms <= now_ms)
            .map(|(place, _)| *place)
            .collect();
        due.into_iter().for_each(|place| self.ask(id, place, now_ms));
        let Some(run) = &self.run else { return };
        let room = UNITS_AT_ONCE.saturating_sub(run.flights.len());
        let jobs = self.shared.jobs.lock();
        let Some(job) = jobs.shelf.get(id) else { return };
        let is_left_alone = |pair: &Pair| run.troubles.get(pair).is_some_and(|trouble| trouble.not_before_ms > now_ms);
        let free = job
            .open()
            .filter(|(place, unit)| !run.flights.contains_key(place) && !is_left_alone(&(unit.by, unit.with)));
        let places: Vec<(usize, Pair)> = free.take(room).map(|(place, unit)| (place, (unit.by, unit.with))).collect();
        drop(jobs);
        for (place, pair) in places {
            self.exclude_gone(id, place);
            let Some(run) = &mut self.run else { return };
            let attempt = run.attempts.get(&place).copied().unwrap_or(0);
            let flight = Flight {
                pair,
                attempt,
                ticket: None,
                at_ms: now_ms,
                moved: Moved::default(),
                beat: 0,
                progress_ms: now_ms,
            };
            run.flights.insert(place, flight);
            match [pair.0, pair.1].into_iter().find(|node| !self.shared.is_alive(*node)) {
                Some(dead) => self.on_failed(place, dead, &Why::Down, now_ms),
                None => self.ask(id, place, now_ms),
            }
        }
    }

    /// Takes out of a unit what is not where it was when the job was asked for.
    fn exclude_gone(&mut self, id: RepairId, place: usize) {
        let state = self.shared.parts().catalog.current();
        let wall_ms = self.shared.now_ms();
        let mut jobs = self.shared.jobs.lock();
        let Some(unit) = jobs.shelf.get(id).and_then(|job| job.units.get(place)) else { return };
        let gone = |tree| match is_held(&state, tree, [unit.by, unit.with]) {
            Held::ByBoth => None,
            Held::Moved => Some((tree, Why::Moved)),
            Held::Dropped => Some((tree, Why::Dropped)),
        };
        let gone: Vec<_> = unit.trees.iter().filter_map(|tree| gone(*tree)).collect();
        if let (false, Some(job)) = (gone.is_empty(), jobs.shelf.change(id)) {
            job.exclude(place, &gone, wall_ms);
        }
    }

    /// Has a unit run, or asks how it stands, which is one question.
    fn ask(&mut self, job: RepairId, place: usize, now_ms: u64) {
        let (shared, Some(run)) = (&self.shared, &mut self.run) else { return };
        let jobs = shared.jobs.lock();
        let found = jobs.shelf.get(job);
        let unit = found.and_then(|job| job.units.get(place)).filter(|unit| !unit.is_closed);
        let (Some(found), Some(unit), Some(flight)) = (found, unit, run.flights.get_mut(&place)) else {
            run.flights.remove(&place);
            return;
        };
        let errand = Errand {
            job,
            unit: u32::try_from(place).unwrap_or(u32::MAX),
            attempt: flight.attempt,
            with: unit.with,
            dry_run: found.asked.dry_run,
            trees: unit.trees.clone(),
        };
        let by = unit.by;
        drop(jobs);
        self.last_ticket += 1;
        let ticket = self.last_ticket;
        // The transport tells in time; this is for one that does not.
        (flight.ticket, flight.at_ms) = (Some(ticket), now_ms.saturating_add(2 * u64::from(QUESTION_TIMEOUT_MS)));
        let (inbox, waker) = (Arc::clone(&self.inbox), Arc::clone(shared));
        let told = move |told| {
            inbox.lock().push((ticket, told));
            (waker.wake)();
        };
        shared.ask(by, RepairQuestion::Run(errand), QUESTION_TIMEOUT_MS, Box::new(told));
    }

    /// Notes how far the job is, and its end.
    fn conclude(&mut self) {
        let Some(run) = &self.run else { return };
        let mut under_way = Moved::default();
        run.flights.values().for_each(|flight| under_way.add(&flight.moved));
        let wall_ms = self.shared.now_ms();
        let mut jobs = self.shared.jobs.lock();
        jobs.shelf.tell(run.id, under_way);
        let is_done = |job: &Job| job.state == JobState::Running && job.open().next().is_none();
        if jobs.shelf.get(run.id).is_some_and(is_done)
            && let Some(job) = jobs.shelf.change(run.id)
        {
            job.conclude(wall_ms);
            tracing::info!(id = %job.id, state = %job.state, found = ?job.sum(), "a repair has ended");
        }
    }

    /// When something is due.
    fn next_ms(&self, now_ms: u64) -> u64 {
        let Some(run) = &self.run else { return now_ms.saturating_add(REST_MS) };
        let flights = run.flights.values().map(|flight| flight.at_ms);
        let troubles = run.troubles.values().map(|trouble| trouble.not_before_ms).filter(|at_ms| *at_ms > now_ms);
        flights.chain(troubles).min().unwrap_or(now_ms).min(now_ms.saturating_add(REST_MS))
    }
}

impl Worker for RepairRunner {
    fn name(&self) -> &str {
        RUNNER
    }

    fn step(&mut self, now_ms: u64) -> Result<Step, StepError> {
        self.keep_accepted();
        self.hear(now_ms);
        let is_active = self.take_up();
        if is_active {
            self.launch(now_ms);
            self.conclude();
        }
        // A job that has just ended is followed by the next one at once.
        let has_ended = is_active && !self.take_up();
        self.save(now_ms);
        if has_ended || self.run.is_none() {
            return Ok(Step::Idle { until_ms: self.next_ms(now_ms).min(self.next_save_ms.max(now_ms + 1)) });
        }
        Ok(Step::Idle { until_ms: self.next_ms(now_ms) })
    }
}

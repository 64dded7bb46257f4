//! Keeps one node running: starts it, sees it serve, starts it again when it dies, stops it when told.

use std::process::ExitStatus;
use std::time::Duration;

use cube_replication::worker::Backoff;
use rand::SeedableRng;
use rand_xoshiro::Xoshiro256StarStar;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Child;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

use super::{DevNode, Launcher, health, launch};

/// Whether nodes are to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// They run.
    No,
    /// They are told to, and finish what is under way.
    Gently,
    /// They are killed.
    AtOnce,
}

/// What happens to a node.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) node: String,
    pub(super) news: News,
}

#[derive(Debug)]
pub(super) enum News {
    /// It was started.
    Started { pid: u32, restarts: u32 },
    /// It does not serve yet, and says why.
    Waiting { reason: String },
    /// It serves.
    Serving,
    /// It served, and does not any more though it runs.
    Unwell { reason: String },
    /// It ended and is started again.
    Died { how: String, again_in_ms: u64 },
    /// It ended and is not started again.
    GaveUp { reason: String },
    /// It ended because it was told to.
    Stopped { how: String },
}

const RESTART_FIRST_MS: u64 = 500;
const RESTART_LONGEST_MS: u64 = 30_000;
/// A node that ran this long had come up: its next death is a first one.
const STABLE: Duration = Duration::from_secs(60);
/// From one question to a node that starts to the next.
const ASK_INTERVAL: Duration = Duration::from_millis(100);
/// And to one that serves.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// So many answers in a row that it does not serve are told: one alone may be a moment in which the machine was busy.
const UNWELL_AFTER: u32 = 2;
/// Exit codes after which another start fails just the same.
const FINAL_CODES: [i32; 2] = [2, 3];

pub(super) struct Supervisor {
    pub(super) node: DevNode,
    pub(super) launcher: Launcher,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) stop: watch::Receiver<Stop>,
    pub(super) stop_patience: Duration,
}

/// How one run of a node ended.
enum Ended {
    /// By itself.
    Died { how: String, is_final: bool },
    /// Because it was told to.
    Stopped { how: String },
}

impl Supervisor {
    /// Runs the node until it is told to stop, or cannot run.
    pub(super) async fn run(mut self) {
        let backoff = Backoff::new(RESTART_FIRST_MS, RESTART_LONGEST_MS);
        let mut random = Xoshiro256StarStar::seed_from_u64(u64::from(self.node.addresses.http.port()));
        let mut deaths = 0_u32;
        let mut restarts = 0_u32;
        loop {
            let started = Instant::now();
            let (how, is_final) = match self.run_once(restarts).await {
                Ended::Stopped { how } => return self.tell(News::Stopped { how }).await,
                Ended::Died { how, is_final } => (how, is_final),
            };
            if is_final {
                return self.tell(News::GaveUp { reason: how }).await;
            }
            deaths = if started.elapsed() >= STABLE { 1 } else { deaths.saturating_add(1) };
            let again_in_ms = backoff.after_errors(deaths, &mut random);
            restarts = restarts.saturating_add(1);
            self.tell(News::Died { how, again_in_ms }).await;
            tokio::select! {
                () = sleep(Duration::from_millis(again_in_ms)) => {}
                () = told_to_stop(&mut self.stop) => {
                    return self.tell(News::Stopped { how: "it was not running".to_owned() }).await;
                }
            }
        }
    }

    async fn tell(&self, news: News) {
        // Whoever listened has ended, and ends this as well.
        let _unheard = self.events.send(Event { node: self.node.name.clone(), news }).await;
    }

    async fn run_once(&mut self, restarts: u32) -> Ended {
        let mut child = match self.launcher.start(&self.node) {
            Ok(child) => child,
            Err(error) => return Ended::Died { how: format!("it cannot be started: {error}"), is_final: false },
        };
        let pid = child.id().unwrap_or_default();
        self.tell(News::Started { pid, restarts }).await;
        let mut stop = self.stop.clone();
        tokio::select! {
            status = child.wait() => return self.ended(status),
            () = told_to_stop(&mut stop) => {}
            never = self.watch_health() => match never {},
        }
        self.stop_child(&mut child).await
    }

    /// Asks until the node serves what it is to hold, and then whether it still serves.
    async fn watch_health(&self) -> std::convert::Infallible {
        let mut told = String::new();
        loop {
            let reason = match health::ask(self.node.addresses.http).await {
                Ok(true) => break,
                Ok(false) => "it serves, and replicas are still being brought to it".to_owned(),
                Err(reason) => reason,
            };
            if reason != told {
                told.clone_from(&reason);
                self.tell(News::Waiting { reason }).await;
            }
            sleep(ASK_INTERVAL).await;
        }
        self.tell(News::Serving).await;
        let mut unwell = 0_u32;
        loop {
            sleep(LOOK_INTERVAL).await;
            let was_unwell = unwell >= UNWELL_AFTER;
            match health::ask(self.node.addresses.http).await {
                Ok(_) => {
                    unwell = 0;
                    if was_unwell {
                        self.tell(News::Serving).await;
                    }
                }
                Err(reason) => {
                    unwell = unwell.saturating_add(1);
                    if unwell == UNWELL_AFTER {
                        self.tell(News::Unwell { reason }).await;
                    }
                }
            }
        }
    }

    async fn stop_child(&mut self, child: &mut Child) -> Ended {
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        // One that has ended already is waited for below.
        let _gone = pid.map(|pid| kill_process(pid, Signal::TERM));
        let mut stop = self.stop.clone();
        let ended = tokio::select! {
            ended = timeout(self.stop_patience, child.wait()) => ended.ok(),
            () = told(&mut stop, Stop::AtOnce) => None,
        };
        let how = match ended {
            Some(Ok(status)) => describe(status),
            Some(Err(error)) => error.to_string(),
            None => match child.kill().await {
                Ok(()) => "it did not stop in time and was killed".to_owned(),
                Err(error) => format!("it did not stop in time and cannot be killed: {error}"),
            },
        };
        Ended::Stopped { how }
    }

    fn ended(&self, status: std::io::Result<ExitStatus>) -> Ended {
        let status = match status {
            Ok(status) => status,
            Err(error) => return Ended::Died { how: error.to_string(), is_final: false },
        };
        let is_final = status.code().is_some_and(|code| FINAL_CODES.contains(&code));
        let mut how = describe(status);
        if let Ok(line) = launch::last_line(&self.node.log)
            && status.code().is_some()
        {
            how = format!("{how}: {line}");
        }
        Ended::Died { how, is_final }
    }
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("it ended with exit code {code}"),
        (None, Some(signal)) => format!("it was ended by signal {signal}"),
        (None, None) => "it ended".to_owned(),
    }
}

/// Returns when nodes are to stop, or when nobody can say so any more.
async fn told_to_stop(stop: &mut watch::Receiver<Stop>) {
    let _nobody = stop.wait_for(|stop| *stop != Stop::No).await;
}

/// Returns when nodes are to stop in this way, or when nobody can say so any more.
async fn told(stop: &mut watch::Receiver<Stop>, how: Stop) {
    let _nobody = stop.wait_for(|stop| *stop == how).await;
}

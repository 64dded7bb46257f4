//! Crash tests: a real process that writes from several threads is killed at random moments, its files are cut back to
//! what it had really synced, and everything it had acknowledged must be there.
//!
//! A killed process keeps the page cache, so a kill alone proves nothing about fsync. `fsync_recorder.c` is preloaded
//! into the process and knows what was synced (`power.rs` cuts the rest); two tests take the fsync out and see that the
//! losses are noticed. The process is this test binary itself (`child.rs`); what it writes is in `work.rs` and
//! `hints.rs`, what must hold afterwards in `check.rs`.

#![cfg(feature = "rocks")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod check;
mod child;
#[path = "../common/mod.rs"]
mod common;
mod hints;
mod power;
mod work;

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use cube_storage::clock::{Clock, SystemClock};

use crate::check::{Acknowledged, check};
use crate::common::pause;
use crate::common::random::Random;
use crate::power::{Cut, Recorder, cut_back};

/// How often the process is killed.
const KILLS: usize = 36;
/// Longer than anything here takes.
const PATIENCE_MS: u64 = 60_000;

/// Not a test of its own: the way into the process that the others start.
#[test]
fn child() {
    child::run_if_child();
}

/// A process that is killed when it is no longer needed, also by a test that fails.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended already cannot be killed.
        self.0.kill().unwrap_or_default();
        self.0.wait().unwrap();
    }
}

/// A data directory, and the processes that are killed over it.
struct Scene {
    dir: tempfile::TempDir,
    recorder: Recorder,
    random: Random,
    runs: u64,
    variables: Vec<(&'static str, PathBuf)>,
}

impl Scene {
    fn new(seed: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let recorder = Recorder::build(dir.path());
        Self { recorder, dir, random: Random(seed), runs: 0, variables: Vec::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn acknowledged(&self) -> Acknowledged {
        Acknowledged::read(&self.path("acknowledged"))
    }

    fn start(&mut self) -> Running {
        self.runs += 1;
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "child", "--nocapture", "--test-threads=1"])
            .env("LD_PRELOAD", &self.recorder.library)
            .env("FSYNC_RECORD", &self.recorder.record)
            .env(child::DIR, self.path("data"))
            .env(child::ACKNOWLEDGED, self.path("acknowledged"))
            .env(child::FIRST, (self.runs * 1_000_000).to_string())
            .envs(self.variables.iter().map(|(name, value)| (*name, value)))
            .stdout(Stdio::null());
        Running(command.spawn().unwrap())
    }

    /// Starts a process and kills it at a random moment: while it opens the directory, or at work.
    fn run_and_kill(&mut self) -> Cut {
        let before = self.acknowledged().lines;
        let mut child = self.start();
        if self.random.below(4) > 0 {
            self.wait_for(&mut child, |scene| scene.acknowledged().lines > before);
        }
        pause(Duration::from_micros(self.random.below(250_000)));
        assert_eq!(child.0.try_wait().unwrap(), None, "the process ended by itself");
        drop(child);
        cut_back(&self.path("data"), &self.recorder, &mut self.random)
    }

    fn wait_for(&self, child: &mut Running, holds: impl Fn(&Self) -> bool) {
        let clock = SystemClock::new(0);
        while !holds(self) {
            assert!(clock.monotonic_ms() < PATIENCE_MS, "nothing was acknowledged");
            assert_eq!(child.0.try_wait().unwrap(), None, "the process ended by itself");
            pause(Duration::from_millis(2));
        }
    }

    /// Checks a copy: opening mends the end of a log, and that is left to the next process, which may be killed at it.
    fn check(&self) -> Vec<String> {
        let copy = tempfile::tempdir().unwrap();
        power::copy(&self.path("data"), copy.path());
        check(copy.path(), &self.acknowledged())
    }
}

#[test]
fn everything_acknowledged_outlives_kills_and_losses_of_power() {
    let mut scene = Scene::new(0xc0be);
    let (mut files, mut bytes) = (0, 0);
    for kill in 0..KILLS {
        let cut = scene.run_and_kill();
        files += cut.files;
        bytes += cut.bytes;
        assert_eq!(scene.check(), Vec::<String>::new(), "after kill {kill}, with {cut:?}");
    }
    let lines = scene.acknowledged().lines;
    println!("{KILLS} kills, {lines} acknowledgements, {files} files cut by {bytes} bytes");
    assert!(lines > 1_000, "the process got to work: {lines}");
    assert!(bytes > 0, "some kill hit a write that was not synced yet");
    assert_eq!(scene.acknowledged().errors, Vec::<String>::new());
}

#[test]
fn acknowledging_before_the_sync_is_caught() {
    let mut scene = Scene::new(1);
    scene.variables.push((child::UNSYNCED, "1".into()));
    let caught = (0..10).any(|_| {
        scene.run_and_kill();
        scene.check().iter().any(|wrong| wrong.contains("acknowledged") || wrong.contains("gone"))
    });
    assert!(caught, "the loss of what was acknowledged without a sync went unnoticed");
}

#[test]
fn a_disk_that_only_says_it_synced_is_caught() {
    // Each time over a directory of its own: after the first loss, the next process would start from damage.
    let mut found: Vec<Vec<String>> = Vec::new();
    for attempt in 0..10 {
        let wrong = lose_what_was_said_to_be_synced(attempt);
        let is_lost = wrong.iter().any(|wrong| wrong.contains("acknowledged") || wrong.contains("gone"));
        if is_lost && wrong.iter().any(|wrong| wrong.contains("the log is damaged")) {
            return;
        }
        found.push(wrong);
    }
    panic!("writes were lost, and nothing noticed: {found:?}");
}

/// What is wrong after the first loss of power over a disk that syncs no log.
fn lose_what_was_said_to_be_synced(attempt: u64) -> Vec<String> {
    let mut scene = Scene::new(20 + attempt);
    scene.variables.push(("FSYNC_SKIP", ".log".into()));
    let mut wrong = Vec::new();
    for _ in 0..5 {
        scene.run_and_kill();
        wrong = scene.check();
        if !wrong.is_empty() {
            break;
        }
    }
    wrong
}

#[test]
fn hints_that_are_told_durable_without_a_sync_are_caught() {
    let mut scene = Scene::new(4);
    scene.variables.push(("FSYNC_SKIP", ".hints".into()));
    let caught = (0..10).any(|_| {
        scene.run_and_kill();
        scene.check().iter().any(|wrong| wrong.contains("hints"))
    });
    assert!(caught, "the loss of hints that were told durable went unnoticed");
}

#[test]
fn after_a_failed_fsync_nothing_is_acknowledged_until_a_restart() {
    let mut scene = Scene::new(3);
    let armed = scene.path("armed");
    scene.variables.push(("FSYNC_FAIL", ".log".into()));
    scene.variables.push(("FSYNC_FAIL_WHEN", armed.clone()));
    let mut child = scene.start();
    scene.wait_for(&mut child, |scene| scene.acknowledged().lines > 500);
    fs::write(&armed, "").unwrap();
    // It goes on until its writes fail, asserts that it is stopped, and ends.
    let clock = SystemClock::new(0);
    let ended = loop {
        match child.0.try_wait().unwrap() {
            Some(status) => break status,
            None => assert!(clock.monotonic_ms() < PATIENCE_MS, "writes go on after a failed fsync"),
        }
        pause(Duration::from_millis(2));
    };
    assert!(ended.success(), "{ended}");
    let lines = fs::read_to_string(scene.path("acknowledged")).unwrap();
    let errors = scene.acknowledged().errors;
    assert!(errors.iter().any(|error| error.contains("Input/output error")), "{errors:?}");
    assert!(errors.last().unwrap().contains("stopped"), "{errors:?}");
    let first_error = lines.lines().position(|line| line.starts_with('e')).unwrap();
    // Threads that were told before the failure may still write their line; none was told after it. Hints go on.
    let late = lines.lines().skip(first_error).filter(|line| !line.starts_with(['e', 'h', 'r'])).count();
    assert!(late <= 40, "{late} acknowledgements after the failure");
    cut_back(&scene.path("data"), &scene.recorder, &mut scene.random);
    assert_eq!(scene.check(), Vec::<String>::new());
    // And after a restart with a disk that works, it goes on.
    fs::remove_file(&armed).unwrap();
    scene.run_and_kill();
    assert_eq!(scene.check(), Vec::<String>::new());
}

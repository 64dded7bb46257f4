//! Crash tests: a real process that writes from several threads is killed at random moments, its files are cut back to
//! what it had really synced, and everything it had acknowledged must be there.
//!
//! A killed process keeps the page cache, so a kill alone proves nothing about fsync. `fsync_recorder.c` is preloaded
//! into the process and knows what was synced (`power.rs` cuts the rest, `names.rs` removes files whose folder was not
//! synced); some tests take the fsync out and see that the losses are noticed. The process is this test binary itself
//! (`child.rs`); what it writes is in `work.rs`, `hints.rs` and `marks.rs`, what must hold afterwards in `check.rs`.

#![cfg(feature = "rocks")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod check;
mod child;
#[path = "../common/mod.rs"]
mod common;
mod hints;
mod marks;
mod names;
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
use crate::names::lose_names;
use crate::power::{Cut, Recorder, cut_back};

/// How often the process is killed, and how often where it may take long.
const KILLS: usize = 48;
const KILLS_LONG: usize = 200;
/// How many of the kills, at the least, must come upon a process that has acknowledged writes.
const KILLS_AT_WORK_MIN: usize = 30;
/// How often the process is killed that writes to tables which are synced by interval.
const KILLS_BY_INTERVAL: usize = 8;
/// Longer than anything here takes.
const PATIENCE_MS: u64 = 120_000;
/// For so long syncs are held back at a time, and for so long not: some times what a held one looks.
const HELD_MS: u64 = 2_000;
const LET_GO: Duration = Duration::from_millis(50);

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

fn goes_on(child: &mut Running) -> Result<(), String> {
    child.0.try_wait().unwrap().map_or(Ok(()), |status| Err(format!("the process ended by itself: {status}")))
}

/// When a process is killed.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// While it opens the directory, or soon after.
    Opening,
    /// After so many acknowledgements and a little more.
    Working,
    /// At work, with writes on their way to the disk: the recorder holds every sync back until the kill.
    Syncing,
}

impl Moment {
    /// The moment of the n-th kill of a scene.
    fn of(kill: usize) -> Self {
        match kill % 4 {
            0 => Self::Opening,
            2 => Self::Syncing,
            _ => Self::Working,
        }
    }
}

/// A data directory, and the processes that are killed over it.
struct Scene {
    _dir: tempfile::TempDir,
    /// Where it is, with links resolved: the recorder sees paths as the kernel names them.
    root: PathBuf,
    recorder: Recorder,
    random: Random,
    runs: u64,
    acknowledged: Acknowledged,
    /// Most acknowledgements that are waited for before a kill.
    lines_max: u64,
    /// Files that were lost with their names.
    gone: usize,
    variables: Vec<(&'static str, PathBuf)>,
}

impl Scene {
    fn new(seed: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let recorder = Recorder::build(&root);
        let acknowledged = Acknowledged::default();
        Self {
            recorder,
            _dir: dir,
            root,
            random: Random(seed),
            runs: 0,
            acknowledged,
            lines_max: 400,
            gone: 0,
            variables: Vec::new(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Takes what was acknowledged since it was last asked.
    fn follow(&mut self) -> &Acknowledged {
        let path = self.path("acknowledged");
        self.acknowledged.follow(&path);
        &self.acknowledged
    }

    fn start(&mut self) -> Running {
        self.runs += 1;
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "child", "--nocapture", "--test-threads=1"])
            .env("LD_PRELOAD", &self.recorder.library)
            .env("FSYNC_RECORD", &self.recorder.record)
            .env("FSYNC_NAMES", self.path("names"))
            .env("FSYNC_COPIES", &self.recorder.copies)
            .env("FSYNC_HOLD_WHEN", &self.recorder.hold)
            .env("FSYNC_HELD", &self.recorder.held)
            .env(child::DIR, self.path("data"))
            .env(child::ACKNOWLEDGED, self.path("acknowledged"))
            .env(child::FIRST, self.first().to_string())
            .envs(self.variables.iter().map(|(name, value)| (*name, value)))
            .stdout(Stdio::null());
        Running(command.spawn().unwrap())
    }

    /// The first number that the process writes which was started last.
    fn first(&self) -> u64 {
        self.runs * 1_000_000
    }

    /// Starts a process and kills it at a moment. Waiting for what it does, and not for time to pass, it gets to work on
    /// every disk and under every load.
    fn run_and_kill(&mut self, moment: Moment) -> Cut {
        self.try_run_and_kill(moment).unwrap()
    }

    /// As before, or why the process ended before it was killed.
    fn try_run_and_kill(&mut self, moment: Moment) -> Result<Cut, String> {
        self.try_run(moment)?;
        Ok(self.lose_power(moment))
    }

    /// Starts a process and kills it at a moment, and leaves all that it has written.
    fn try_run(&mut self, moment: Moment) -> Result<(), String> {
        let lines = self.follow().lines + 1 + self.random.below(self.lines_max) as usize;
        let mut child = self.start();
        match moment {
            Moment::Opening => pause(Duration::from_micros(self.random.below(250_000))),
            Moment::Working => {
                self.wait_for(&mut child, |scene| scene.follow().lines >= lines)?;
                pause(Duration::from_micros(self.random.below(20_000)));
            }
            Moment::Syncing => {
                self.wait_for(&mut child, |scene| scene.follow().lines >= lines)?;
                self.hold_syncs(&mut child)?;
            }
        }
        goes_on(&mut child)?;
        drop(child);
        self.settle();
        Ok(())
    }

    /// To be called when the process is killed.
    fn settle(&mut self) {
        // A kill in the middle of a line leaves its beginning: that was not told.
        power::drop_torn_line(&self.path("acknowledged"));
        self.recorder.settle();
        self.follow();
    }

    /// What a loss of power does after the process was killed.
    fn lose_power(&mut self, moment: Moment) -> Cut {
        self.settle();
        self.acknowledged.forget_log();
        self.gone += lose_names(&self.path("data"), &self.path("names"), &mut self.random);
        let cut = cut_back(&self.path("data"), &self.recorder, &mut self.random);
        assert!(cut.bytes > 0 || !matches!(moment, Moment::Syncing), "the kill hit no write that was not synced");
        cut
    }

    /// Holds syncs back until one is that has something to lose. Should all threads wait for those of notes and folders,
    /// they are let go on for a moment.
    fn hold_syncs(&mut self, child: &mut Running) -> Result<(), String> {
        let clock = SystemClock::new(0);
        let mut until_ms = HELD_MS;
        loop {
            fs::write(&self.recorder.hold, "").unwrap();
            let is_over = || clock.monotonic_ms() >= until_ms;
            self.wait_for(child, |scene| scene.recorder.holds_what_is_not_synced() || is_over())?;
            if self.recorder.holds_what_is_not_synced() {
                return Ok(());
            }
            assert!(until_ms < PATIENCE_MS, "nothing is written");
            fs::remove_file(&self.recorder.hold).unwrap();
            pause(LET_GO);
            until_ms = clock.monotonic_ms() + HELD_MS;
        }
    }

    fn wait_for(&mut self, child: &mut Running, mut holds: impl FnMut(&mut Self) -> bool) -> Result<(), String> {
        let clock = SystemClock::new(0);
        while !holds(self) {
            assert!(clock.monotonic_ms() < PATIENCE_MS, "it never came to what is waited for");
            goes_on(child)?;
            pause(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Checks a copy: opening mends the end of a log, and that is left to the next process, which may be killed at it. What
    /// was in the log alone must be there too, until power is lost.
    fn check(&mut self) -> Vec<String> {
        let copy = tempfile::tempdir().unwrap();
        power::copy(&self.path("data"), copy.path());
        check(copy.path(), &self.follow().with_log())
    }
}

#[test]
fn everything_acknowledged_outlives_kills_and_losses_of_power() {
    assert_all_outlive(KILLS);
}

#[test]
#[ignore = "long: two hundred kills"]
fn everything_acknowledged_outlives_two_hundred_kills() {
    assert_all_outlive(KILLS_LONG);
}

fn assert_all_outlive(kills: usize) {
    let mut scene = Scene::new(common::seed(0xc0be));
    let (mut files, mut bytes) = (0, 0);
    let mut at_work = 0;
    for kill in 0..kills {
        let moment = Moment::of(kill);
        let lines = scene.follow().lines;
        let cut = scene.run_and_kill(moment);
        at_work += usize::from(scene.follow().lines > lines);
        files += cut.files;
        bytes += cut.bytes;
        assert_eq!(scene.check(), Vec::<String>::new(), "after kill {kill}, {moment:?}, with {cut:?}");
    }
    let gone = scene.gone;
    let Acknowledged { lines, errors, .. } = scene.follow();
    println!(
        "{kills} kills, {at_work} at work, {lines} acknowledgements, {files} files cut by {bytes} bytes, {gone} gone"
    );
    assert_eq!(*errors, Vec::<String>::new());
    assert!(at_work >= KILLS_AT_WORK_MIN, "only {at_work} of {kills} kills came upon acknowledged writes");
}

/// Loses power over fresh directories until what is wrong is what is looked for. A process that ends by itself over a
/// damaged directory has noticed too, but may not have noticed this: the next directory is tried.
fn assert_caught(variables: &[(&'static str, &str)], seed: u64, is_caught: impl Fn(&[String]) -> bool) {
    let clock = SystemClock::new(0);
    let mut found = Vec::new();
    for attempt in 0.. {
        let mut scene = Scene::new(seed + attempt);
        scene.lines_max = 4_000;
        scene.variables.extend(variables.iter().map(|(name, value)| (*name, PathBuf::from(value))));
        let wrong = first_loss(&mut scene);
        if is_caught(&wrong) {
            return;
        }
        found.push(wrong);
        assert!(clock.monotonic_ms() < PATIENCE_MS, "the loss went unnoticed: {found:?}");
    }
}

/// What is wrong after the first loss of power that leaves something wrong.
fn first_loss(scene: &mut Scene) -> Vec<String> {
    for _ in 0..5 {
        if let Err(ended) = scene.try_run_and_kill(Moment::Working) {
            return vec![ended];
        }
        let wrong = scene.check();
        if !wrong.is_empty() {
            return wrong;
        }
    }
    Vec::new()
}

fn are_writes_lost(wrong: &[String]) -> bool {
    wrong.iter().any(|wrong| wrong.contains("acknowledged") || wrong.contains("is gone"))
}

#[test]
fn acknowledging_before_the_sync_is_caught() {
    assert_caught(&[(child::UNSYNCED, "1")], 1_000, are_writes_lost);
}

#[test]
fn a_disk_that_only_says_it_synced_is_caught() {
    assert_caught(&[("FSYNC_SKIP", ".log")], 2_000, |wrong| {
        are_writes_lost(wrong) && wrong.iter().any(|wrong| wrong.contains("the log is damaged"))
    });
}

#[test]
fn a_folder_that_is_not_synced_is_caught() {
    assert_caught(&[("FSYNC_SKIP", "/rocks")], 4_000, |wrong| {
        are_writes_lost(wrong) || wrong.iter().any(|wrong| wrong.contains("does not open"))
    });
}

#[test]
fn hints_that_are_told_durable_without_a_sync_are_caught() {
    assert_caught(&[("FSYNC_SKIP", ".hints")], 3_000, |wrong| wrong.iter().any(|wrong| wrong.contains("hints")));
}

#[test]
fn a_table_that_is_synced_by_interval_loses_nothing_to_a_kill_and_nothing_from_before_a_sync_to_a_loss_of_power() {
    let mut scene = Scene::new(common::seed(0x1d7e));
    scene.variables.push((child::BY_INTERVAL, child::TOLD.into()));
    for kill in 0..KILLS_BY_INTERVAL {
        scene.try_run(Moment::Working).unwrap();
        assert_eq!(scene.check(), Vec::<String>::new(), "after kill {kill}");
        let cut = scene.lose_power(Moment::Working);
        assert_eq!(scene.check(), Vec::<String>::new(), "after kill {kill}, with {cut:?}");
    }
}

#[test]
fn what_a_table_has_acknowledged_an_interval_ago_outlives_a_loss_of_power() {
    let mut scene = Scene::new(6);
    scene.variables.push((child::BY_INTERVAL, child::ALONE.into()));
    let mut child = scene.start();
    let data = scene.path("data");
    let all = |scene: &mut Scene| scene.follow().rows_in_log() == work::WRITERS * work::ROWS;
    scene.wait_for(&mut child, |scene| all(scene) && scene.recorder.has_synced_the_log(&data)).unwrap();
    drop(child);
    scene.settle();
    let acknowledged = scene.follow().with_log();
    scene.lose_power(Moment::Working);
    scene.acknowledged = acknowledged;
    assert_eq!(scene.check(), Vec::<String>::new());
}

#[test]
fn a_sync_that_a_table_by_interval_goes_without_is_caught() {
    assert_caught(&[(child::BY_INTERVAL, child::TOLD), ("FSYNC_SKIP", ".log")], 5_000, are_writes_lost);
}

#[test]
fn how_far_the_log_is_synced_is_synced_itself_now_and_then() {
    let mut scene = Scene::new(7);
    let mut child = scene.start();
    let position = scene.path("data").join("POSITION");
    scene.wait_for(&mut child, |scene| scene.recorder.synced().contains_key(&position)).unwrap();
}

#[test]
fn marks_that_are_told_durable_without_a_sync_are_caught() {
    assert_caught(&[("FSYNC_SKIP", ".marks")], 6_000, |wrong| wrong.iter().any(|wrong| wrong.contains("marks")));
}

#[test]
fn after_a_failed_fsync_nothing_is_acknowledged_until_a_restart() {
    let mut scene = Scene::new(3);
    let armed = scene.path("armed");
    scene.variables.push(("FSYNC_FAIL", ".log".into()));
    scene.variables.push(("FSYNC_FAIL_WHEN", armed.clone()));
    let mut child = scene.start();
    scene
        .wait_for(&mut child, |scene| {
            let first = scene.first();
            scene.follow().has_written_all(first)
        })
        .unwrap();
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
    let errors = scene.follow().errors.clone();
    assert!(errors.iter().any(|error| error.contains("Input/output error")), "{errors:?}");
    assert!(errors.last().unwrap().contains("stopped"), "{errors:?}");
    let first_error = lines.lines().position(|line| line.starts_with('e')).unwrap();
    // Threads that were told before the failure may still write their line; none was told after it. Hints and marks go on.
    let late = lines.lines().skip(first_error).filter(|line| !line.starts_with(['d', 'e', 'h', 'r'])).count();
    assert!(late <= child::UNTOLD_MAX, "{late} acknowledgements after the failure");
    cut_back(&scene.path("data"), &scene.recorder, &mut scene.random);
    assert_eq!(scene.check(), Vec::<String>::new());
    // And after a restart with a disk that works, it goes on.
    fs::remove_file(&armed).unwrap();
    scene.run_and_kill(Moment::Working);
    assert_eq!(scene.check(), Vec::<String>::new());
}

#[test]
fn a_disk_that_is_full_at_an_fsync_loses_nothing_that_is_acknowledged_before_or_after() {
    let mut scene = Scene::new(4);
    let armed = scene.path("armed");
    scene.variables.push((child::PERSEVERES, "1".into()));
    scene.variables.push(("FSYNC_FAIL", ".log".into()));
    scene.variables.push(("FSYNC_FULL", "1".into()));
    scene.variables.push(("FSYNC_FAIL_WHEN", armed.clone()));
    let mut child = scene.start();
    scene.wait_for(&mut child, |scene| scene.follow().lines >= 100).unwrap();
    fs::write(&armed, "").unwrap();
    scene.wait_for(&mut child, |scene| !scene.follow().errors.is_empty()).unwrap();
    let error = scene.follow().errors[0].clone();
    assert!(error.contains("No space left on device"), "{error}");
    fs::remove_file(&armed).unwrap();
    // It goes on, or says that it will not until it is restarted.
    let lines = |scene: &mut Scene| scene.follow().lines - scene.follow().errors.len();
    let told = lines(&mut scene);
    let is_stopped = |scene: &mut Scene| scene.follow().errors.iter().any(|error| error.contains("stopped"));
    scene.wait_for(&mut child, |scene| lines(scene) >= told + 100 || is_stopped(scene)).unwrap_or_default();
    println!("after a full disk at an fsync: {}", scene.follow().errors.last().unwrap());
    drop(child);
    scene.lose_power(Moment::Working);
    assert_eq!(scene.check(), Vec::<String>::new());
}

#[test]
fn nothing_is_seen_before_it_is_durable() {
    let mut scene = Scene::new(5);
    scene.variables.push((child::PEEKS, "1".into()));
    let mut child = scene.start();
    let clock = SystemClock::new(0);
    let ended = loop {
        match child.0.try_wait().unwrap() {
            Some(status) => break status,
            None => assert!(clock.monotonic_ms() < PATIENCE_MS, "it looks for ever"),
        }
        pause(Duration::from_millis(2));
    };
    assert!(ended.success(), "{ended}");
    assert_eq!(scene.follow().lines, 1, "the write whose sync was held back is told");
}

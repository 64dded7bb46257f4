//! A real device that is full: a small tmpfs that only one process sees, in a mount namespace of its own, so that
//! nothing is left of it when the process ends. Where the machine allows no mounting, the tests say so and pass, unless
//! [`NO_SKIP`] is set.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use cube_storage::clock::{Clock, SystemClock};
use cube_storage::engine::{Engine, EngineError, Recovery, RocksEngine};
use cube_storage::model::RowKey;
use cube_storage::{Store, StoreError, TableOptions};

use crate::TABLE;
use crate::common::model::Model;
use crate::common::{at, bits, client, disks, observe, open_store, pause, put};
use crate::kept;

const DEVICE: &str = "CUBE_DISK_FULL_DEVICE";
/// Set to anything, it has a machine without mounts fail the tests that need one: a run that must prove them.
const NO_SKIP: &str = "CUBE_TEST_NO_SKIP";
const SCENARIO: &str = "CUBE_DISK_FULL_SCENARIO";
/// The scenarios: [`FullDevice::opens_again`], [`FullDevice::goes_on`] and [`kept::goes_on`].
pub(crate) const OPENS_AGAIN: &str = "opens again";
pub(crate) const GOES_ON: &str = "goes on";
pub(crate) const KEPT: &str = "kept for others";
const MIB: u64 = 1 << 20;
/// Longer than anything here takes.
const PATIENCE_MS: u64 = 60_000;

/// Runs a scenario in a process of its own that has a small device.
pub(crate) fn on_a_small_device(scenario: &str) {
    let dir = tempfile::tempdir().unwrap();
    let Some(namespace) = allowed_namespace(dir.path()) else {
        let may_skip = std::env::var_os(NO_SKIP).is_none_or(|set| set.is_empty());
        assert!(may_skip, "{NO_SKIP} is set, and no tmpfs can be mounted");
        // Past the harness, which shows nothing that a passing test prints.
        let told = writeln!(std::io::stderr().lock(), "SKIPPED, not tested: {scenario}: no tmpfs can be mounted here");
        return told.unwrap();
    };
    let mount_and_run = "mount -t tmpfs -o size=20m none \"$0\" && exec \"$1\" --exact child --nocapture";
    let status = Command::new("unshare")
        .args(namespace)
        .args(["sh", "-c", mount_and_run])
        .arg(dir.path())
        .arg(std::env::current_exe().unwrap())
        .env(DEVICE, dir.path())
        .env(SCENARIO, scenario)
        .status()
        .unwrap();
    assert!(status.success(), "{scenario}: {status}");
}

/// How `unshare` gets a mount namespace here: as root, or as anybody where user namespaces are allowed.
fn allowed_namespace(dir: &Path) -> Option<&'static [&'static str]> {
    const WAYS: [&[&str]; 2] = [&["--mount"], &["--user", "--map-root-user", "--mount"]];
    WAYS.into_iter().find(|way| {
        let mount = Command::new("unshare").args(*way).args(["mount", "-t", "tmpfs", "none"]).arg(dir).output();
        mount.is_ok_and(|output| output.status.success())
    })
}

/// Runs the scenario, if this process has a device.
pub(crate) fn run_if_child() {
    let Some(device) = std::env::var_os(DEVICE) else { return };
    let scenario = std::env::var(SCENARIO).unwrap();
    let folder = |round| Path::new(&device).join(format!("round {round}"));
    let fill = |round| FullDevice::fill(folder(round), round);
    match scenario.as_str() {
        OPENS_AGAIN => (0..4).for_each(|round| fill(round).opens_again()),
        GOES_ON => fill(0).goes_on(),
        KEPT => (0..4).for_each(|round| kept::goes_on(&folder(round), round)),
        _ => panic!("{scenario}"),
    }
}

/// A store that has just found its device full.
struct FullDevice {
    dir: PathBuf,
    engine: Arc<RocksEngine>,
    store: Store,
    model: Model,
}

/// Bytes that do not compress.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}

impl FullDevice {
    /// Writes until nothing fits any more, with no reserve kept. Each round begins with another file in the way, so
    /// that space ends in another place: in the log, in a flush, in a compaction.
    fn fill(dir: PathBuf, round: u64) -> Self {
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("ballast"), vec![1; (4 * MIB + round * 300_000) as usize]).unwrap();
        let engine = open_engine(&dir).unwrap();
        let store = open_store(Arc::<RocksEngine>::clone(&engine));
        store.put_table(TABLE, TableOptions::default()).unwrap();
        let mut model = Model { tables: store.tables().into_iter().collect(), ..Model::new(bits()) };
        let error = (0..).find_map(|n| {
            let rows = 3_000 + round * 500;
            let key = RowKey::of(format!("row {}", n % rows));
            let batch = client(vec![put(TABLE, key, at(n + 1), noise(n, 500 + (n % 2_500) as usize))]);
            match store.apply(batch.clone()) {
                Ok(_) => drop(model.apply(&batch)),
                Err(error) => return Some(error),
            }
            None
        });
        assert_no_space(&error.unwrap());
        assert!(model.rows.len() > 1_000, "{} rows", model.rows.len());
        assert_whole(&engine, &store, &model, "when the device was full");
        Self { dir, engine, store, model }
    }

    /// Restarts, while the device is full and when it is not.
    fn opens_again(self) {
        take_the_rest(&self.dir);
        let Self { dir, engine, store, mut model } = self;
        drop((engine, store));
        {
            let engine = open_engine(&dir).expect("it opens while the device is full");
            let store = open_store(Arc::<RocksEngine>::clone(&engine));
            assert_whole(&engine, &store, &model, "opened while the device was full");
            // Opening may have found room again in what compaction left behind: refused or done, but not lost.
            let batch = client(vec![put(TABLE, RowKey::of("late"), at(1), "v")]);
            match store.apply(batch.clone()) {
                Ok(_) => drop(model.apply(&batch)),
                Err(error) => assert_no_space(&error),
            }
            assert_whole(&engine, &store, &model, "written to while the device was full");
        }
        free(&dir);
        let engine = open_engine(&dir).unwrap();
        let store = open_store(Arc::<RocksEngine>::clone(&engine));
        assert_whole(&engine, &store, &model, "opened with space");
        let batch = client(vec![put(TABLE, RowKey::of("later"), at(1), "v")]);
        store.apply(batch.clone()).unwrap();
        model.apply(&batch);
        assert_whole(&engine, &store, &model, "written to with space");
        drop((engine, store));
        fs::remove_dir_all(&dir).unwrap();
    }

    /// Frees space, and waits until the store takes writes again by itself.
    fn goes_on(mut self) {
        free(&self.dir);
        let clock = SystemClock::new(0);
        let batch = client(vec![put(TABLE, RowKey::of("late"), at(1), "v")]);
        while let Err(error) = self.store.apply(batch.clone()) {
            assert_no_space(&error);
            assert!(clock.monotonic_ms() < PATIENCE_MS, "writes never resumed: {error}");
            pause(std::time::Duration::from_millis(50));
        }
        self.model.apply(&batch);
        assert_whole(&self.engine, &self.store, &self.model, "when space had returned");
        drop((self.engine, self.store));
        let engine = open_engine(&self.dir).unwrap();
        assert_whole(&engine, &open_store(Arc::<RocksEngine>::clone(&engine)), &self.model, "and after a restart");
    }
}

fn open_engine(dir: &Path) -> Result<Arc<RocksEngine>, EngineError> {
    RocksEngine::open(&dir.join("data"), &disks::small_options()).map(Arc::new)
}

/// Takes what little space is left.
pub(crate) fn take_the_rest(dir: &Path) {
    let mut rest = fs::File::create(dir.join("rest")).unwrap();
    for len in [64 << 10, 4 << 10, 1] {
        while rest.write(&vec![1; len]).is_ok_and(|written| written > 0) {}
    }
}

/// Gives back what is in the way and what was taken.
pub(crate) fn free(dir: &Path) {
    fs::remove_file(dir.join("ballast")).unwrap();
    // There only where the rest was taken too.
    let _ = fs::remove_file(dir.join("rest"));
}

fn assert_no_space(error: &StoreError) {
    assert!(matches!(error, StoreError::Engine(EngineError::NoSpace { .. })), "{error}");
}

fn assert_whole(engine: &RocksEngine, store: &Store, model: &Model, when: &str) {
    assert_eq!(engine.recovery(), Recovery::Complete, "{when}");
    observe::assert_holds(store, engine, model, when);
    assert_eq!(observe::scrub(store, TABLE, 100).unwrap().damaged, [], "{when}");
}

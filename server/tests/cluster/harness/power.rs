//! Losses of power: what a killed node had not fsynced is cut off its files, as in the crash tests of the storage crate,
//! whose recorder and whose cut these are.

use std::path::{Path, PathBuf};
use std::process::Command;

use self::storage::{Cut, Recorder, cut_back};
use crate::common::random::Random;

#[allow(dead_code, reason = "the part of the storage tests' file that is used here")]
#[path = "../../../../storage/tests/crash/power.rs"]
mod storage;

/// The library that records what a process has fsynced, compiled.
pub(crate) struct Power {
    library: PathBuf,
}

impl Power {
    /// A C compiler is there where RocksDB was compiled.
    pub(crate) fn prepare(dir: &Path) -> Self {
        let library = dir.join("fsync_recorder.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../storage/tests/crash/fsync_recorder.c");
        let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
        let compiled =
            Command::new(&compiler).args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).status();
        let compiled = compiled.unwrap_or_else(|error| panic!("{compiler}: {error}"));
        assert!(compiled.success(), "{compiler} could not compile {}", source.display());
        Self { library }
    }

    /// What makes a process tell in `record` what it has fsynced.
    pub(crate) fn variables(&self, record: &Path) -> [(String, String); 2] {
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        [("LD_PRELOAD".to_owned(), text(&self.library)), ("FSYNC_RECORD".to_owned(), text(record))]
    }

    /// Cuts the files of a node that was killed back to what it had fsynced. The same seed cuts in the same way.
    pub(crate) fn lose(&self, data: &Path, record: &Path, seed: u64) -> Cut {
        let (hold, held) = (record.with_extension("hold"), record.with_extension("held"));
        let recorder = Recorder { library: self.library.clone(), record: record.to_owned(), hold, held };
        assert!(!recorder.synced().is_empty(), "the recorder was not in the process");
        cut_back(data, &recorder, &mut Random(seed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::process::Process;
    use crate::harness::time::PATIENCE;

    #[test]
    fn what_was_not_synced_is_lost_and_what_was_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (data, record) = (dir.path().join("data"), dir.path().join("fsyncs"));
        std::fs::create_dir(&data).unwrap();
        let power = Power::prepare(dir.path());
        let script = "printf kept > synced.log; sync synced.log; printf lost >> synced.log; printf lost > unsynced.log";
        let words = ["sh", "-c", &format!("cd {} && {script}", data.display())].map(str::to_owned);
        assert!(Process::start(&words, &power.variables(&record), &dir.path().join("log")).wait(PATIENCE).success());
        // Of what was not synced, a disk may keep a part: some seed keeps none of it.
        let cut = power.lose(&data, &record, 1);
        assert_eq!(cut.files, 2, "{cut:?}");
        let kept = std::fs::read(data.join("synced.log")).unwrap();
        assert!(kept.starts_with(b"kept"), "{kept:?}");
    }
}

//! What a process of its own does: one subject, one piece of work, figures on standard output.

use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cube_benches::subject::{Bare, Cube, Subject};
use cube_benches::{Result, measure};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{reads, scans, writes};

/// Which subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    Bare,
    Apply,
    /// The same, closed and opened before it is measured.
    BareReopened,
    ApplyReopened,
    /// Without sums.
    Unsummed,
    /// Remembering nothing of what it wrote.
    Forgetful,
}

impl Kind {
    pub(crate) fn is_reopened(self) -> bool {
        matches!(self, Self::BareReopened | Self::ApplyReopened)
    }

    pub(crate) fn open(self, dir: &Path) -> Result<Box<dyn Subject>> {
        Ok(match self {
            Self::Bare | Self::BareReopened => Box::new(Bare::open(dir)?),
            Self::Apply | Self::ApplyReopened => Box::new(Cube::open(dir)?),
            Self::Forgetful => Box::new(Cube::open_forgetful(dir)?),
            Self::Unsummed => Box::new(Cube::open_unsummed(dir)?),
        })
    }
}

/// A piece of work for a process of its own.
#[derive(Serialize, Deserialize)]
pub(crate) enum Task {
    Write { kind: Kind, dir: PathBuf, rows: u32, overwrites: Option<u32>, seed: u64 },
    Read { dir: PathBuf, rows: u32 },
    Scan { dir: PathBuf, rows: u32 },
}

impl Task {
    /// Does the work in this process and prints its figures.
    pub(crate) fn run(self) -> Result<()> {
        let figures = match self {
            Self::Write { kind, dir, rows, overwrites, seed } => {
                serde_json::to_string(&writes::run(kind, &dir, rows, overwrites, seed)?)?
            }
            Self::Read { dir, rows } => serde_json::to_string(&reads::run(&dir, rows)?)?,
            Self::Scan { dir, rows } => serde_json::to_string(&scans::run(&dir, rows)?)?,
        };
        println!("{figures}");
        Ok(())
    }

    /// Has the work done by another process, and reads its figures.
    pub(crate) fn run_apart<T: DeserializeOwned>(&self) -> Result<T> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--task", &serde_json::to_string(self)?])
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().ok_or("the task has no output")?;
        let last = std::io::BufReader::new(output).lines().last().transpose()?;
        let status = child.wait()?;
        match last {
            Some(figures) if status.success() => Ok(serde_json::from_str(&figures)?),
            _ => Err(format!("the task ended with {status}").into()),
        }
    }
}

/// Processor time of a piece of work.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Spent {
    /// Of all threads, with flushes and compactions.
    pub(crate) process_ns: u64,
    /// Of the thread that asked for it.
    pub(crate) thread_ns: u64,
    pub(crate) wall_ns: u64,
}

impl Spent {
    /// What the work takes.
    pub(crate) fn on(work: impl FnOnce() -> Result<()>) -> Result<Self> {
        let before = (measure::process_ns(), measure::thread_ns(), measure::wall_ns());
        work()?;
        Ok(Self {
            process_ns: measure::process_ns() - before.0,
            thread_ns: measure::thread_ns() - before.1,
            wall_ns: measure::wall_ns() - before.2,
        })
    }
}

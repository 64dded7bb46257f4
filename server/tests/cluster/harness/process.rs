//! A process that is started, hurt and never left behind.
//!
//! Invariant: none outlives the test process, however that ends. `setpriv` asks the kernel to kill the process when the
//! thread that started it is gone, so all are started by one thread that lives as long as the test process.

use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::time::eventually;

/// What every process is started through; it takes the process's own command behind it, and becomes that.
pub(crate) const DIES_WITH_ITS_PARENT: [&str; 4] = ["setpriv", "--pdeathsig", "KILL", "--"];

type Started = io::Result<Child>;

/// Starts a command from the thread that never ends.
fn start(command: Command) -> Started {
    static LAUNCHER: OnceLock<Sender<(Command, Sender<Started>)>> = OnceLock::new();
    let launcher = LAUNCHER.get_or_init(|| {
        let (sender, receiver) = channel::<(Command, Sender<Started>)>();
        let launch = move || {
            for (mut command, answer) in receiver {
                answer.send(command.spawn()).unwrap_or_default();
            }
        };
        std::thread::Builder::new().name("launcher".into()).spawn(launch).unwrap();
        sender
    });
    let (answer, started) = channel();
    launcher.send((command, answer)).unwrap();
    started.recv().unwrap()
}

/// A running process, killed when dropped.
pub(crate) struct Process {
    child: Child,
    told: String,
}

impl Process {
    /// Starts `words`, which end in the program and its arguments, with what it prints in a file.
    pub(crate) fn start(words: &[String], variables: &[(String, String)], output: &Path) -> Self {
        let all: Vec<&str> = DIES_WITH_ITS_PARENT.into_iter().chain(words.iter().map(String::as_str)).collect();
        let log = fs::OpenOptions::new().append(true).create(true).open(output).unwrap();
        let mut command = Command::new(all[0]);
        command
            .args(&all[1..])
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        let told = words.join(" ");
        let child = start(command).unwrap_or_else(|error| panic!("{}: {error}", all[0]));
        Self { child, told }
    }

    /// How it ended, if it did.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to a process that has not ended.
    pub(crate) fn signal(&mut self, signal: Signal) {
        assert_eq!(self.ended(), None, "{} has ended by itself", self.told);
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self, within: Duration) -> ExitStatus {
        let what = format!("the end of {}", self.told);
        eventually(&what, within, || self.ended().ok_or_else(|| "it runs".to_owned()))
    }

    /// Kills it, and takes care that nothing else had ended it before.
    pub(crate) fn kill(mut self) {
        self.signal(Signal::KILL);
        let ended = self.child.wait().unwrap();
        assert_eq!(ended.signal(), Some(Signal::KILL.as_raw()), "{} ended by itself: {ended}", self.told);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended, and that is all that is wanted.
        self.child.kill().unwrap_or_default();
        self.child.wait().map(drop).unwrap_or_default();
    }
}

/// The processes whose command line names a path, by their ids.
pub(crate) fn naming(path: &Path) -> Vec<u32> {
    let wanted = path.to_str().unwrap();
    let ids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    // A process may end while it is looked at.
    let names = |id: &u32| {
        fs::read(format!("/proc/{id}/cmdline")).is_ok_and(|line| String::from_utf8_lossy(&line).contains(wanted))
    };
    ids.filter(names).collect()
}

/// Kills a process that another one started.
pub(crate) fn kill_other(id: u32) {
    if let Some(pid) = i32::try_from(id).ok().and_then(Pid::from_raw) {
        // It may have ended meanwhile.
        kill_process(pid, Signal::KILL).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::time::PATIENCE;

    /// Makes this test binary the parent of a process that does not end.
    const PARENT: &str = "CUBE_CLUSTER_TEST_PARENT";

    /// A process that waits for ever for a line in a file that nobody writes.
    fn sleeping(dir: &Path) -> Process {
        let file = dir.join("asleep");
        fs::write(&file, "").unwrap();
        let words = ["tail", "-f", file.to_str().unwrap()].map(str::to_owned);
        Process::start(&words, &[], &dir.join("log"))
    }

    fn wait_for(dir: &Path, running: bool) {
        eventually("the process", PATIENCE, || match naming(&dir.join("asleep")).is_empty() {
            empty if empty != running => Ok(()),
            _ => Err(format!("wanted running: {running}")),
        });
    }

    /// Not a test of its own: the parent that is killed.
    #[test]
    fn parent() {
        let Some(dir) = std::env::var_os(PARENT) else { return };
        sleeping(Path::new(&dir)).wait(PATIENCE);
    }

    #[test]
    fn a_process_dies_with_the_test_process_that_started_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut parent = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "harness::process::tests::parent", "--nocapture"])
            .env(PARENT, dir.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        wait_for(dir.path(), true);
        parent.kill().unwrap();
        parent.wait().unwrap();
        wait_for(dir.path(), false);
    }

    #[test]
    fn a_dropped_process_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let process = sleeping(dir.path());
        wait_for(dir.path(), true);
        drop(process);
        wait_for(dir.path(), false);
    }

    #[test]
    fn the_exit_code_and_the_output_of_a_process_are_known() {
        let dir = tempfile::tempdir().unwrap();
        let words = ["sh", "-c", "echo why it ended; exit 3"].map(str::to_owned);
        let log = dir.path().join("log");
        let status = Process::start(&words, &[], &log).wait(PATIENCE);
        assert_eq!(status.code(), Some(3));
        assert_eq!(fs::read_to_string(log).unwrap(), "why it ended\n");
    }
}
